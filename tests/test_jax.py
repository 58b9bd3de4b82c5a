# SPDX-License-Identifier: BSD-3-Clause
"""The JAX room: bits, transformations, the FFI handlers and their declarations, routes."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
jax = pytest.importorskip("jax", reason="jax is not installed")

import jax.numpy as jnp  # noqa: E402
import ml_dtypes  # noqa: E402

import fastreg  # noqa: E402
import fastreg.jax as fjax  # noqa: E402
from fastreg import ndarray  # noqa: E402
from fastreg.errors import ArgumentError, DTypeError, LayoutError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

DTYPES = ["float16", ml_dtypes.bfloat16, "float32", "float64"]
WEIGHTS = [(0.01, 0.0), (0.0, 0.01), (0.3, 0.7)]


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def sample(shape=1000, dtype="float32", seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def bits(x):
    return np.asarray(x).tobytes()


def native(function):
    """The function, with every call of fastreg in it on the native route."""

    @functools.wraps(function)
    def wrapped(*args):
        with fjax.route("native"):
            return function(*args)

    return wrapped


def test_handlers_serve_this_jaxlib():
    assert fjax.handlers() == "registered"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("l1", "l2"), WEIGHTS)
@pytest.mark.parametrize("jit", [False, True])
def test_native_bits(dtype, l1, l2, jit):
    x = sample(5000, dtype)
    f = jax.value_and_grad(native(lambda x: fjax.penalty(x, l1=l1, l2=l2)))
    y, g = (jax.jit(f) if jit else f)(x)
    v, e = fastreg.value_and_gradient(np.asarray(x), l1=l1, l2=l2)
    assert y.dtype == g.dtype == x.dtype
    assert y.shape == ()
    assert bits(y) == bits(v)
    assert bits(g) == bits(e)
    assert bits(fjax.penalty(x, l1=l1, l2=l2)) == bits(v)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("l1", "l2"), WEIGHTS)
def test_plain_operations_agree(dtype, l1, l2):
    x = sample(5000, dtype)

    def f(x):
        with fjax.route("ops"):
            return fjax.penalty(x, l1=l1, l2=l2)

    assert "custom_call" not in jax.jit(jax.grad(f)).lower(x).as_text()
    y, g = jax.jit(jax.value_and_grad(f))(x)
    v, e = fastreg.value_and_gradient(np.asarray(x), l1=l1, l2=l2)
    eps = max(float(jnp.finfo(x.dtype).eps), 1e-15)
    np.testing.assert_allclose(float(y), float(v), rtol=4 * eps)
    np.testing.assert_allclose(np.asarray(g, "f8"), np.asarray(e, "f8"), rtol=2 * eps)


def test_automatic_route():
    def calls(n):
        f = jax.value_and_grad(lambda x: fjax.penalty(x, l1=1.0, l2=1.0))
        text = jax.jit(f).lower(jax.ShapeDtypeStruct((n,), "float32")).as_text()
        return sorted(set(re.findall(r"fastreg_\w+", text)))

    assert calls(100) == ["fastreg_gradient", "fastreg_value"]
    assert calls(fjax.GRADIENT_THRESHOLD + 1) == ["fastreg_value"]


@pytest.mark.parametrize("name", ["native", "ops"])
def test_specials(name):
    inf, nan = float("inf"), float("nan")
    x = jnp.array([0.0, -0.0, 1.0, -2.0, nan, inf, -inf], "float32")

    def f(x, l1, l2):
        with fjax.route(name):
            return fjax.penalty(x, l1=l1, l2=l2)

    v, g = jax.value_and_grad(f)(x, 0.1, 0.0)
    assert np.isnan(v)
    np.testing.assert_allclose(g[:5], [0, 0, 0.1, -0.1, nan], rtol=1e-6)
    v, g = jax.value_and_grad(f)(x, 0.0, 0.1)
    np.testing.assert_allclose(g, [0, 0, 0.2, -0.4, nan, inf, -inf], rtol=1e-6)
    v, g = jax.value_and_grad(f)(x, 0.0, 0.0)
    assert v == 0.0
    assert g.tolist() == [0.0] * 7
    v, g = jax.value_and_grad(f)(jnp.zeros((0, 3)), 1.0, 1.0)
    assert (float(v), g.shape) == (0.0, (0, 3))
    v, g = jax.value_and_grad(f)(jnp.float32(-3.0), 0.0, 0.5)
    assert (float(v), float(g)) == (4.5, -3.0)


@pytest.mark.parametrize("u", [32768.0, -0.5, float("inf"), float("nan")])
def test_upstream_factor(u):
    x = jnp.array([1.0, -2.0], "float32")
    g = jax.grad(native(lambda x: jnp.float32(u) * fjax.penalty(x, l1=0.5, l2=0.25)))(x)
    np.testing.assert_allclose(g, np.array([1.0, -1.5]) * u)


@pytest.mark.parametrize("name", ["native", "ops"])
@pytest.mark.parametrize("jit", [False, True])
def test_transformations(name, jit):
    def p(x):
        with fjax.route(name):
            return fjax.penalty(x, l1=0.3, l2=0.25)

    def ref(x):
        return 0.3 * jnp.sum(jnp.abs(x)) + 0.25 * jnp.sum(x * x)

    wrap = jax.jit if jit else (lambda f: f)
    x, t = sample((4, 6), "float64"), sample((4, 6), "float64", 1)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    same(wrap(jax.grad(p))(x), jax.grad(ref)(x))
    for a, b in zip(
        wrap(lambda x, t: jax.jvp(p, (x,), (t,)))(x, t), jax.jvp(ref, (x,), (t,)), strict=True
    ):
        same(a, b)
    same(wrap(jax.vmap(p))(x), jax.vmap(ref)(x))
    same(wrap(jax.vmap(jax.grad(p)))(x), jax.vmap(jax.grad(ref))(x))
    same(wrap(jax.vmap(jax.vmap(jax.grad(p))))(x.reshape(4, 2, 3)),
         jax.grad(ref)(x).reshape(4, 2, 3))  # fmt: skip
    same(wrap(jax.vmap(p, in_axes=1))(x), jax.vmap(ref, in_axes=1)(x))
    same(wrap(jax.hessian(lambda x: p(x) ** 2))(x[0]), jax.hessian(lambda x: ref(x) ** 2)(x[0]))
    same(wrap(jax.jacrev(jax.grad(p)))(x[0]), jax.jacrev(jax.grad(ref))(x[0]))
    same(wrap(jax.jacfwd(jax.jacfwd(p)))(x[0]), jax.jacfwd(jax.jacfwd(ref))(x[0]))
    same(wrap(jax.grad(jax.checkpoint(lambda x: p(jnp.sin(x)))))(x),
         jax.grad(lambda x: ref(jnp.sin(x)))(x))  # fmt: skip

    def loop(p, x):
        return jax.lax.scan(lambda c, r: (c + p(r), p(c * r)), jnp.zeros(()), x)[0]

    same(wrap(functools.partial(loop, p))(x), loop(ref, x))
    same(wrap(jax.grad(functools.partial(loop, p)))(x), jax.grad(functools.partial(loop, ref))(x))
    same(wrap(lambda x: jax.linearize(p, x)[1](t))(x), jax.linearize(ref, x)[1](t))
    from jax.test_util import check_grads

    check_grads(p, (x + jnp.sign(x),), order=2, modes=("fwd", "rev"))


def test_plain_product_where_the_primitive_is_missing(monkeypatch):
    monkeypatch.setattr(fjax, "_directional", None)
    test_transformations("native", True)


def test_without_x64():
    with jax.enable_x64(False):
        x = jnp.ones(3)
        assert fjax.penalty(x, l2=1.0, dtype="float64").dtype == "float32"
        assert fjax.penalty(jnp.array([1, 2]), l2=0.5).dtype == "float32"
        assert jax.grad(lambda x: fjax.penalty(x, l1=1.0))(x).dtype == "float32"


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "uint64"])
def test_integers_are_exact(dtype):
    x = jnp.asarray(np.array([1, 0, 1], dtype))
    v = fjax.penalty(x, l1=0.5, l2=0.25)
    assert (v.dtype, float(v)) == ("float64", 1.5)


def test_half_precision_is_finite():
    x = jnp.full((128, 64), 4.0, "float16")
    assert float(jax.jit(lambda x: fjax.penalty(x, l2=1e-4, dtype="float32"))(x)) == pytest.approx(
        13.1072, rel=1e-6
    )
    assert np.isfinite(float(fjax.penalty(x, l2=1e-4)))


def test_pytrees_and_other_objects():
    tree = {"a": jnp.ones((2, 3)), "b": [jnp.ones(3), np.ones(2, "float32")]}
    assert float(fjax.penalty(tree, l2=0.5)) == 5.5
    g = jax.grad(lambda t: fjax.penalty(t, l2=0.5))(tree)
    np.testing.assert_array_equal(g["b"][0], np.ones(3))
    assert float(fjax.penalty([], l2=1.0)) == 0.0
    assert float(fjax.penalty(np.float32(3.0), l2=1.0)) == 9.0
    assert float(fjax.l2_loss(jnp.array([3.0, 4.0]))) == 12.5


@pytest.mark.parametrize(
    "bad",
    [None, "x", 1.0, object(), np.array([1j]), np.array(["a"])],
    ids=lambda b: type(b).__name__,
)
def test_refused_objects(bad):
    with pytest.raises(DTypeError, match=r"expected .*; received .*; "):
        fjax.penalty(bad, l2=1.0)


def test_refused_weights_routes_and_types():
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="l2 that is finite and >= 0"):
            fjax.penalty(jnp.ones(3), l2=weight)
    with pytest.raises(DTypeError, match="known while tracing"):
        jax.jit(lambda w: fjax.penalty(jnp.ones(3), l2=w))(1.0)
    with pytest.raises(ArgumentError, match="a route among"), fjax.route("fast"):
        pass
    with pytest.raises(DTypeError, match="a result dtype"):
        fjax.penalty(jnp.ones(3), l2=1.0, dtype="int32")
    with pytest.raises(DTypeError, match="to differentiate"):
        fjax.gradient(jnp.array([1, 2]), l2=1.0)
    with pytest.raises(DTypeError):
        fjax.penalty(jnp.ones(3).astype(jnp.float8_e4m3fn), l2=1.0)


def test_keys_and_sparse_arrays_are_refused():
    from jax.experimental import sparse

    for bad in (jax.random.key(0), sparse.BCOO.fromdense(jnp.eye(3))):
        with pytest.raises(DTypeError, match=r"expected .*; received .*; convert"):
            fjax.penalty(bad, l2=1.0)


def test_integers_by_plain_operations():
    x = jnp.asarray(np.array([2**24 + 1, 2], "int32"))
    with fjax.route("ops"):
        assert float(fjax.penalty(x, l1=1.0)) == 2**24 + 3


def test_registered_classes_are_pytrees():
    from collections import namedtuple

    Pair = namedtuple("Pair", "a b")

    @jax.tree_util.register_pytree_node_class
    class Box:
        def __init__(self, w):
            self.w = w

        def tree_flatten(self):
            return (self.w,), None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    x = sample(5)
    one = fjax.penalty(x, l2=0.5)
    assert fjax.penalty(Box(x), l2=0.5) == one
    assert float(fjax.penalty(Pair(x, Box({"w": x, "none": None})), l2=0.5)) == 2 * float(one)
    g = jax.grad(lambda b: fjax.penalty(b, l2=0.5))(Box(x))
    assert type(g) is Box
    np.testing.assert_array_equal(g.w, x)


@pytest.mark.parametrize("name", ["auto", "native", "ops"])
def test_sizes_unknown_while_tracing(name):
    """As Keras builds layers on JAX, and as programs are exported for any batch."""
    from jax import export

    (n,) = export.symbolic_shape("n")

    def f(x):
        with fjax.route(name):
            return fjax.penalty(x, l1=0.5, l2=0.25)

    for function in (f, jax.grad(f), lambda x: fjax.orthogonal(x, factor=0.5)):
        program = export.export(jax.jit(function))(jax.ShapeDtypeStruct((n, 3), "float32"))
        again = export.deserialize(program.serialize())
        for rows in (1, 4):
            x = sample((rows, 3))
            np.testing.assert_allclose(again.call(x), function(x), rtol=1e-5)


def test_routes_under_other_transformations():
    x = sample((4, 6))
    f = functools.partial(fjax.penalty, l1=0.25, l2=0.5)
    g = fastreg.gradient(np.asarray(x), l1=0.25, l2=0.5)
    with jax.disable_jit():
        np.testing.assert_array_equal(jax.grad(f)(x), g)
    with jax.checking_leaks():
        np.testing.assert_array_equal(jax.jit(jax.grad(f))(x), g)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in ("float16", "bfloat16", "float32"):
            assert jax.jit(jax.grad(f))(x.astype(dtype)).dtype == dtype
            assert jax.hessian(f)(x[0].astype(dtype)).shape == (6, 6)
    np.testing.assert_array_equal(jax.lax.map(f, x, batch_size=3), [f(row) for row in x])
    np.testing.assert_array_equal(jax.vmap(f)(jnp.zeros((3, 0))), np.zeros(3))
    assert jax.vmap(jax.grad(f))(jnp.zeros((0, 3))).shape == (0, 3)
    donated = jax.jit(lambda x: (jax.grad(f)(x), f(x)), donate_argnums=0)
    np.testing.assert_array_equal(donated(x + 0)[0], g)


SHARDED = r"""
import functools
import jax, jax.numpy as jnp, numpy as np
import fastreg
import fastreg.jax as fjax
from fastreg.regularizers import L1L2, OrthogonalRegularizer
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
devices = jax.devices()
assert len(devices) == 4
one = L1L2(0.25, 0.5)
x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.float32)
value, gradient = fastreg.value_and_gradient(np.asarray(x), l1=0.25, l2=0.5)
both = jax.value_and_grad(one)
mesh = Mesh(np.array(devices), ("d",))
square = Mesh(np.array(devices).reshape(2, 2), ("a", "b"))

def check(pair, exact=True):
    v, g = pair
    if exact:
        assert float(v) == value and np.array_equal(g, gradient), (v, value)
    np.testing.assert_allclose(v, value, rtol=1e-6)
    np.testing.assert_allclose(g, gradient, rtol=1e-6)

# Sharded by the compiler: gathered, and so with the same bits.
for sharding in [NamedSharding(mesh, P("d")), *(NamedSharding(square, p) for p in
                 (P("a", "b"), P(None, "b"), P(), P(("a", "b"))))]:
    s = jax.device_put(x, sharding)
    check(both(s))
    check(jax.jit(both)(s))
    check(jax.jit(both, in_shardings=sharding, out_shardings=(None, sharding))(x))
    check(one.value_and_gradient(s))
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(s), [one(row) for row in x], rtol=1e-6)
    np.testing.assert_allclose(OrthogonalRegularizer()(s), OrthogonalRegularizer()(x), rtol=1e-5)
large = jax.device_put(jnp.ones(1 << 18), NamedSharding(mesh, P("d")))
v, g = jax.jit(both)(large)
assert float(v) == 0.75 * (1 << 18) and (g == 1.25).all()
assert g.sharding.is_equivalent_to(large.sharding, 1)
check(both(jax.device_put(x, devices[2])))

# Each device's part to the kernels.
for name in ("auto", "native", "ops"):
    with fjax.route(name):
        for checked in (True, False):
            over = functools.partial(jax.shard_map, mesh=mesh, in_specs=P("d"), check_vma=checked)
            s = jax.device_put(x, NamedSharding(mesh, P("d")))
            total = over(lambda b: jax.lax.psum(one(b), "d"), out_specs=P())
            for f in (total, jax.jit(total)):
                np.testing.assert_allclose(f(s), value, rtol=1e-6)
            check((value, over(jax.grad(one), out_specs=P("d"))(s)), exact=name != "ops")
            check((value, over(one.gradient, out_specs=P("d"))(s)), exact=name != "ops")
            check(jax.value_and_grad(total)(s), exact=False)
            check(jax.jit(jax.value_and_grad(total))(s), exact=False)
            rows = over(jax.vmap(one), out_specs=P("d"))(s)
            np.testing.assert_allclose(rows, [one(row) for row in x], rtol=1e-6)
        parts = x.reshape(4, 2, 6)
        np.testing.assert_allclose(jax.pmap(one)(parts), [one(p) for p in parts], rtol=1e-6)
        grads = jax.pmap(jax.grad(one))(parts)
        check((value, grads.reshape(8, 6)), exact=name != "ops")
text = jax.jit(jax.shard_map(one.value, mesh=mesh, in_specs=P(), out_specs=P())).lower(x).as_text()
assert "fastreg_value" in text

# Sharded by type: plain operations.
if hasattr(jax.sharding, "AxisType"):
    explicit = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(explicit):
        s = jax.device_put(x, NamedSharding(explicit, P("d")))
        check(both(s), exact=False)
        check(jax.jit(both)(s), exact=False)
        check(one.value_and_gradient(s), exact=False)
        assert jax.jit(both)(s)[1].sharding.spec[0] == "d"
        np.testing.assert_allclose(jax.jit(jax.vmap(one))(s), [one(row) for row in x], rtol=1e-6)
"""


def test_sharded_arrays():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_value_and_gradient():
    x = sample()
    v, g = fjax.value_and_gradient(x, l1=0.3, l2=0.7)
    ev, eg = fastreg.value_and_gradient(np.asarray(x), l1=0.3, l2=0.7)
    assert bits(v) == bits(ev)
    assert bits(g) == bits(eg)
    assert bits(fjax.gradient(x, l1=0.3, l2=0.7)) == bits(eg)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_orthogonal(dtype):
    x = sample((4, 3), dtype)
    for rows in (True, False):
        a = np.asarray(x).astype(float)
        a = a if rows else a.T
        u = a / np.linalg.norm(a, axis=1, keepdims=True)
        n = len(a)
        expected = 0.5 * (np.abs(u @ u.T).sum() - n) / (n * (n - 1))
        y, g = fjax.orthogonal_value_and_gradient(x, factor=0.5, rows=rows)
        assert y.dtype == g.dtype == x.dtype
        assert float(y) == pytest.approx(expected, rel=1e-2 if x.dtype.itemsize == 2 else 1e-5)
    assert float(fjax.orthogonal(x[:1], factor=0.5)) == 0.0
    with pytest.raises(LayoutError, match="rank 2"):
        fjax.orthogonal(jnp.ones(3), factor=0.5)


def test_orthogonal_edges():
    for x in (np.full((2, 2), 1e30, "float32"), np.full((2, 3), 1e-20), np.zeros((2, 3)),
              np.zeros((3, 0)), np.zeros((0, 3)), np.array([[3, 4, 0], [1, 0, 0]])):  # fmt: skip
        expected = float(ndarray.orthogonal(x, factor=0.5))
        assert float(fjax.orthogonal(jnp.asarray(x), factor=0.5)) == pytest.approx(expected)
    x = jnp.array([[1.0, np.nan], [1.0, 1.0]])
    assert np.isnan(fjax.orthogonal(x, factor=0.5))
    assert fjax.orthogonal(x, factor=0.0) == 0.0
    assert fjax.orthogonal_value_and_gradient(x, factor=0.0)[1].tolist() == [[0, 0], [0, 0]]
    assert np.isnan(fjax.orthogonal(x.at[0, 1].set(np.inf), factor=0.5))
    short = np.array([[1e-9, 2e-9], [1.0, 1.0]])
    _, g = fjax.orthogonal_value_and_gradient(jnp.asarray(short), factor=0.5)
    _, e = ndarray.orthogonal_value_and_gradient(short, factor=0.5)
    np.testing.assert_allclose(g, e, rtol=1e-6)


def test_a_misfit_falls_back(monkeypatch):
    def broken():
        raise RuntimeError("another version")

    monkeypatch.setattr(fjax._kernels, "xla_handlers", broken)
    fjax.handlers.cache_clear()
    try:
        assert fjax.handlers() == "RuntimeError: another version"
        assert float(jax.jit(lambda x: fjax.penalty(x, l2=0.5))(jnp.array([3.0, 4.0]))) == 12.5
        with pytest.raises(ArgumentError, match="another version"), fjax.route("native"):
            pass
    finally:
        fjax.handlers.cache_clear()


def test_declarations_match_jaxlibs_header(tmp_path):
    """Every size, offset and constant of fastreg/_xla.h equals XLA's."""
    room = Path(fjax.__file__).parent
    if not (room / "_xla.h").exists():
        pytest.skip("fastreg/_xla.h is not part of this installation")
    head = "struct_size extension_start"
    pairs = {
        "extension": ("XLA_FFI_Extension_Base", "struct_size type next"),
        "version": ("XLA_FFI_Api_Version", f"{head} major_version minor_version"),
        "metadata": ("XLA_FFI_Metadata", "struct_size api_version traits"),
        "metadata_extension": ("XLA_FFI_Metadata_Extension", "extension_base metadata"),
        "error_create_args": ("XLA_FFI_Error_Create_Args", f"{head} message errc"),
        "buffer": ("XLA_FFI_Buffer", f"{head} dtype data rank dims"),
        "span": ("XLA_FFI_ByteSpan", "ptr len"),
        "scalar": ("XLA_FFI_Scalar", "dtype value"),
        "attributes": ("XLA_FFI_Attrs", f"{head} size types names attrs"),
    }
    lines = ["#include <stddef.h>", '#include "xla/ffi/api/c_api.h"', '#include "_xla.h"']

    def same(a, b):
        lines.append(f'_Static_assert(({a}) == ({b}), "{a}");')

    for ours, (theirs, fields) in pairs.items():
        same(f"sizeof(fr_xla_{ours})", f"sizeof({theirs})")
        for f in fields.split():
            same(f"offsetof(fr_xla_{ours}, {f})", f"offsetof({theirs}, {f})")
    for theirs, items in (("XLA_FFI_Args", "args"), ("XLA_FFI_Rets", "rets")):
        same("sizeof(fr_xla_buffers)", f"sizeof({theirs})")
        same("offsetof(fr_xla_buffers, size)", f"offsetof({theirs}, size)")
        same("offsetof(fr_xla_buffers, types)", f"offsetof({theirs}, types)")
        same("offsetof(fr_xla_buffers, items)", f"offsetof({theirs}, {items})")
    for f in ["struct_size", "extension_start", "api", "ctx", "stage", "args", "rets", "attrs"]:
        same(f"offsetof(fr_xla_call, {f})", f"offsetof(XLA_FFI_CallFrame, {f})")
    same("sizeof(fr_xla_call)", "XLA_FFI_CallFrame_STRUCT_SIZE")
    for f in ["struct_size", "extension_start", "api_version", "internal_api"]:
        same(f"offsetof(fr_xla_api, {f})", f"offsetof(XLA_FFI_Api, {f})")
    same("offsetof(fr_xla_api, error_create)", "offsetof(XLA_FFI_Api, XLA_FFI_Error_Create)")
    for t in [
        "PRED",
        "S8",
        "S16",
        "S32",
        "S64",
        "U8",
        "U16",
        "U32",
        "U64",
        "F16",
        "F32",
        "F64",
        "BF16",
    ]:
        same(f"FR_XLA_{t}", f"XLA_FFI_DataType_{t}")
    same("FR_XLA_MAJOR", "XLA_FFI_API_MAJOR")
    same("FR_XLA_METADATA", "XLA_FFI_Extension_Metadata")
    same("FR_XLA_ARG_BUFFER", "XLA_FFI_ArgType_BUFFER")
    same("FR_XLA_RET_BUFFER", "XLA_FFI_RetType_BUFFER")
    same("FR_XLA_ATTR_SCALAR", "XLA_FFI_AttrType_SCALAR")
    same("FR_XLA_INVALID_ARGUMENT", "XLA_FFI_Error_Code_INVALID_ARGUMENT")
    same("FR_XLA_UNIMPLEMENTED", "XLA_FFI_Error_Code_UNIMPLEMENTED")
    source = tmp_path / "check.c"
    source.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [os.environ.get("CC", "cc"), "-std=c11", "-fsyntax-only", f"-I{jax.ffi.include_dir()}",
         f"-I{room}", str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_examples():
    code = "import doctest, fastreg.jax as m; raise SystemExit(doctest.testmod(m).failed)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
