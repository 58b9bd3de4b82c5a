# SPDX-License-Identifier: BSD-3-Clause
"""The JAX backend: bits, transformations, the FFI handlers and their declarations, routes."""

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
from fastreg.errors import ArgumentError, DTypeError, LayoutError  # noqa: E402
from fastreg.jax import _ffi, _routes, _transforms  # noqa: E402

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


def by_kernels(function):
    """The function, with every call of fastreg in it by the kernels."""

    @functools.wraps(function)
    def wrapped(*args):
        with fjax.route("kernels"):
            return function(*args)

    return wrapped


def test_handlers_serve_this_jaxlib():
    assert fjax.handlers() == "registered"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("l1", "l2"), WEIGHTS)
@pytest.mark.parametrize("jit", [False, True])
def test_bits_of_the_kernels(dtype, l1, l2, jit):
    x = sample(5000, dtype)
    f = jax.value_and_grad(by_kernels(lambda x: fjax.penalty(x, l1=l1, l2=l2)))
    y, g = (jax.jit(f) if jit else f)(x)
    v, e = fastreg.value_and_gradient(np.asarray(x), l1=l1, l2=l2)
    assert y.dtype == g.dtype == x.dtype
    assert y.shape == ()
    assert bits(y) == bits(v)
    assert bits(g) == bits(e)
    assert bits(fjax.penalty(x, l1=l1, l2=l2)) == bits(v)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("l1", "l2"), WEIGHTS)
def test_native_operations_agree(dtype, l1, l2):
    x = sample(5000, dtype)

    def f(x):
        with fjax.route("native"):
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


@pytest.mark.parametrize("name", ["kernels", "native"])
def test_specials(name):
    inf, nan = float("inf"), float("nan")
    x = jnp.array([0.0, -0.0, 1.0, -2.0, nan, inf, -inf], "float32")

    def f(x, l1, l2):
        with fjax.route(name):
            return fjax.penalty(x, l1=l1, l2=l2)

    v, g = jax.value_and_grad(f)(x, 0.1, 0.0)
    assert np.isnan(v)
    np.testing.assert_allclose(g, [0, 0, 0.1, -0.1, nan, 0.1, -0.1], rtol=1e-6)
    v, g = jax.value_and_grad(f)(x, 0.0, 0.1)
    np.testing.assert_allclose(g, [0, 0, 0.2, -0.4, nan, inf, -inf], rtol=1e-6)
    assert np.signbit(g[:2]).tolist() == [False, True]
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
    g = jax.grad(by_kernels(lambda x: jnp.float32(u) * fjax.penalty(x, l1=0.5, l2=0.25)))(x)
    np.testing.assert_allclose(g, np.array([1.0, -1.5]) * u)


@pytest.mark.parametrize("name", ["kernels", "native"])
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


def test_ordinary_product_where_the_primitive_is_missing(monkeypatch):
    monkeypatch.setattr(_transforms, "_directional", None)
    test_transformations("kernels", True)


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
    assert float(fjax.penalty(tree, l2=0.5)) == 3.0
    assert float(fjax.penalty(tree, l2=0.5, select="all")) == 5.5
    g = jax.grad(lambda t: fjax.penalty(t, l2=0.5, select="all"))(tree)
    np.testing.assert_array_equal(g["b"][0], np.ones(3))
    assert float(fjax.penalty([], l2=1.0)) == 0.0
    assert float(fjax.penalty(np.float32(3.0), l2=1.0)) == 9.0
    assert float(fjax.l2_loss(jnp.array([3.0, 4.0]))) == 12.5


# -- Pytrees: one call, one rounding ---------------------------------------------------------------


def mixed(dtypes=("float16", ml_dtypes.bfloat16, "float32", "float64", "int8", "uint64", "bool")):
    """A tree of every type: matrices, vectors, a scalar, an empty array, an empty place."""
    r = np.random.default_rng(3)

    def array(dtype, shape):
        x = r.normal(size=shape) * 3
        return (np.abs(x) if dtype in ("bool", "uint64") else x).round(2).astype(dtype)

    return {
        "layers": [
            {"kernel": array(d, (7 + k, 5)), "bias": array(d, (5,)), "none": None}
            for k, d in enumerate(dtypes)
        ],
        "scalar": array("float32", ()),
        "empty": (array("float32", (0, 3)), array("float64", (2, 0))),
    }


def device(tree):
    return jax.tree.map(jnp.asarray, tree)


def compiled(f, *args):
    """The custom calls of fastreg in the compiled program."""
    text = jax.jit(f).lower(*args).compile().as_text()
    return re.findall(r'custom_call_target="(fastreg_\w+)"', text)


def lowered(f, *args):
    return re.findall(r"custom_call @(fastreg_\w+)", jax.jit(f).lower(*args).as_text())


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, None], ids=str)
@pytest.mark.parametrize("select", ["all", "kernels", "*.bias", "re:layers.[024]"])
def test_trees_have_the_bits_of_models(jit, dtype, select):
    host = mixed()
    kinds = {"l1": 0.3, "l2": {"layers.2.*": 0.1, "*": 0.7}, "weights": {"*bias": 1.5}}
    if select == "kernels":
        kinds.pop("weights")
    f = functools.partial(fjax.penalty, select=select, dtype=dtype, convention="half", **kinds)
    v = (jax.jit(f) if jit else f)(device(host))
    e = fastreg.penalty(host, select=select, convention="half", dtype=dtype or "float64", **kinds)
    assert v.dtype == e.dtype
    assert bits(v) == bits(e)


@pytest.mark.parametrize("dtypes", [*([d] for d in DTYPES), DTYPES, DTYPES[:2]], ids=str)
@pytest.mark.parametrize("u", [1.0, -0.37, 1e4])
def test_gradients_of_trees_have_the_bits_of_models(dtypes, u):
    host = mixed(dtypes)
    kinds = {"l1": 0.3, "l2": lambda name, x: 0.1 if name.endswith("kernel") else 0.7}

    def f(t):
        return u * fjax.penalty(t, select="all", dtype="float64", **kinds)

    v, g = jax.jit(jax.value_and_grad(f))(device(host))
    e, expected = fastreg.model.value_and_gradient(host, select="all", scale=u, **kinds)
    assert bits(v) == bits(np.float64(u) * e)
    assert jax.tree.structure(g) == jax.tree.structure(host)
    flat = {
        ".".join(str(getattr(k, "key", getattr(k, "idx", ""))) for k in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(g)
    }
    assert set(flat) == set(expected)
    for name, x in expected.items():
        assert flat[name].dtype == x.dtype, name
        assert bits(flat[name]) == bits(x), name


def test_a_tree_is_rounded_once():
    """Each small square is lost against 1; together they are not."""
    small = [jnp.float32([2.0**-12.5])] * 4
    tree = [jnp.float32([1.0]), *small]
    each = [fjax.penalty(x, l2=1.0) for x in tree]
    assert float(sum(each[1:], each[0])) == 1.0
    for dtype in DTYPES:
        v = fjax.penalty(tree, l2=1.0, dtype=dtype)
        host = [np.array(x) for x in tree]  # copies: memory that is found twice counts once there
        e = fastreg.penalty(host, l2=1.0, select="all", dtype=dtype)
        assert bits(v) == bits(e)
    assert float(fjax.penalty(tree, l2=1.0)) == 1.0 + 2.0**-23


def test_order_and_division_do_not_matter():
    r = np.random.default_rng(7)
    x = (r.normal(size=3000) * np.exp2(r.integers(-60, 60, 3000))).astype("float32")
    f = jax.jit(functools.partial(fjax.penalty, l1=0.3, l2=0.7))
    whole = bits(f(jnp.asarray(x)))
    assert whole == bits(fastreg.value(x, l1=0.3, l2=0.7))
    assert bits(f([x])) == bits(f({"x": x[:, None]})) == whole
    for seed in range(5):
        r = np.random.default_rng(seed)
        cuts = np.sort(r.integers(0, x.size, 70))  # more than the handler has room for on its stack
        parts = np.split(r.permutation(x), cuts)
        assert bits(f(parts)) == whole
        assert bits(f([parts[:30], tuple(parts[30:])])) == whole
        assert bits(f(list(reversed(parts)))) == whole


@pytest.mark.parametrize("n", [1, 2, 64, 65, 300])
def test_one_call_for_all_arrays(n):
    trees = [sample(3 + k % 5, seed=k) for k in range(n)]
    f = functools.partial(fjax.penalty, l1=0.25, l2=0.5)
    both = jax.value_and_grad(f)
    assert lowered(f, trees) == ["fastreg_value"]
    assert compiled(f, trees) == ["fastreg_value"]
    assert sorted(lowered(both, trees)) == ["fastreg_gradient", "fastreg_value"]
    assert compiled(jax.grad(f), trees) == ["fastreg_gradient"]
    v, g = jax.jit(both)(trees)
    host = [np.asarray(x) for x in trees]
    e = fastreg.penalty(host, l1=0.25, l2=0.5, select="all", dtype="float32")
    assert bits(v) == bits(e)
    for a, x in zip(g, trees, strict=True):
        assert bits(a) == bits(fastreg.gradient(np.asarray(x), l1=0.25, l2=0.5))


def test_large_arrays_of_a_tree_leave_their_gradients_to_xla():
    tree = [sample(10), sample(fjax.GRADIENT_THRESHOLD + 1), sample(20)]
    f = jax.grad(lambda t: fjax.penalty(t, l1=0.25, l2=0.5))
    assert compiled(f, tree) == ["fastreg_gradient"]
    assert len(re.findall(r"%arg\d+: tensor<\d+xf32>", jax.jit(f).lower(tree).as_text())) >= 3
    for g, x in zip(jax.jit(f)(tree), tree, strict=True):
        np.testing.assert_array_equal(g, fastreg.gradient(np.asarray(x), l1=0.25, l2=0.5))


def test_large_trees_leave_more_to_xla(monkeypatch):
    monkeypatch.setattr(_routes, "GRADIENT_THRESHOLD", 16)
    assert _routes.kernels_for([jnp.ones(n) for n in (16, 17, 1)]) == (True, (True, False, True))
    xs = [jnp.ones(16)] * 32
    assert _routes.kernels_for(xs) == (True, (True,) * 32)
    assert _routes.kernels_for([*xs, jnp.ones(99)]) == (True, (*(True,) * 32, False))
    few = (*(False,) * 32, True, False)
    assert _routes.kernels_for([*xs, jnp.ones(4), jnp.ones(5)]) == (True, few)
    tree = [sample(16, seed=k) for k in range(33)] + [sample(4)]
    v, g = jax.jit(jax.value_and_grad(lambda t: fjax.penalty(t, l1=0.25, l2=0.5)))(tree)
    host = [np.asarray(x) for x in tree]
    assert bits(v) == bits(fastreg.penalty(host, l1=0.25, l2=0.5, select="all", dtype="float32"))
    for a, x in zip(g, host, strict=True):
        np.testing.assert_allclose(a, fastreg.gradient(x, l1=0.25, l2=0.5), rtol=1e-6)


@pytest.mark.parametrize("name", ["kernels", "native"])
@pytest.mark.parametrize("jit", [False, True])
def test_transformations_of_trees(name, jit):
    def p(t):
        with fjax.route(name):
            return fjax.penalty(t, l1=0.3, l2={"a": 0.25, "b.*": 0.5}, select="all")

    def ref(t):
        return (
            0.3 * sum(jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(t))
            + 0.25 * jnp.sum(t["a"] ** 2)
            + 0.5 * sum(jnp.sum(x**2) for x in t["b"])
        )

    wrap = jax.jit if jit else (lambda f: f)

    def same(a, b):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), a, b)

    def tree(seed, lead=()):
        shapes = [(2, 3), (4,), ()]
        a, b, c = (sample(lead + s, "float64", seed + k) for k, s in enumerate(shapes))
        return {"a": a, "b": [b, c]}

    t, d, batch = tree(0), tree(10), tree(20, (5,))
    same(wrap(p)(t), ref(t))
    same(wrap(jax.value_and_grad(p))(t), jax.value_and_grad(ref)(t))
    same(wrap(lambda t, d: jax.jvp(p, (t,), (d,)))(t, d), jax.jvp(ref, (t,), (d,)))

    def hvp(f):
        return lambda t, d: jax.jvp(jax.grad(lambda t: f(t) ** 2), (t,), (d,))[1]

    same(wrap(hvp(p))(t, d), hvp(ref)(t, d))
    same(wrap(jax.hessian(lambda t: p(t) ** 2))(t), jax.hessian(lambda t: ref(t) ** 2)(t))
    same(wrap(jax.jacrev(jax.grad(p)))(t), jax.jacrev(jax.grad(ref))(t))
    same(wrap(jax.jacfwd(jax.jacfwd(p)))(t), jax.jacfwd(jax.jacfwd(ref))(t))
    same(wrap(jax.vmap(jax.value_and_grad(p)))(batch), jax.vmap(jax.value_and_grad(ref))(batch))
    same(wrap(jax.vmap(hvp(p)))(batch, batch), jax.vmap(hvp(ref))(batch, batch))
    # Only some arrays have the batch, at any of their axes; the others serve for all.
    axes = ({"a": 1, "b": [None, 0]},)
    some = {"a": jnp.moveaxis(batch["a"], 0, 1), "b": [t["b"][0], batch["b"][1]]}
    for make in (lambda f: f, jax.grad, lambda f: lambda t: hvp(f)(t, d), lambda f: (
            lambda t: hvp(f)(d, t))):  # fmt: skip
        same(wrap(jax.vmap(make(p), axes))(some), jax.vmap(make(ref), axes)(some))

    # One batch over each of two arrays: an outer one of 3, an inner one of 5.
    def outer(f):
        def two(a, b):
            return f({"a": a, "b": [b, t["b"][1]]})

        return jax.vmap(jax.vmap(two, (None, 0)), (0, None))

    a, b = sample((3, 2, 3), "float64", 30), sample((5, 4), "float64", 31)
    same(wrap(outer(p))(a, b), outer(ref)(a, b))
    same(wrap(outer(jax.value_and_grad(p)))(a, b), outer(jax.value_and_grad(ref))(a, b))
    u = sample(5, "float64", 32)  # a factor for each example

    def weighted(f):
        return jax.vmap(jax.grad(lambda t, u: u * f(t)), in_axes=(None, 0))

    same(wrap(weighted(p))(t, u), weighted(ref)(t, u))

    def loop(f):
        def step(t, d):
            return jax.tree.map(lambda x, g: x - 0.1 * g, t, jax.grad(f)(t)), f(d) * f(t)

        return lambda t: jax.lax.scan(step, t, batch)[1].sum()

    same(wrap(loop(p))(t), loop(ref)(t))
    same(wrap(jax.grad(loop(p)))(t), jax.grad(loop(ref))(t))

    def remat(f):
        return jax.grad(jax.checkpoint(lambda t: f(jax.tree.map(jnp.sin, t))))

    same(wrap(remat(p))(t), remat(ref)(t))
    same(wrap(lambda t, d: jax.linearize(p, t)[1](d))(t, d), jax.linearize(ref, t)[1](d))

    # By one array only, with the others constant.
    def part(f):
        return jax.grad(lambda b: f({"a": t["a"], "b": [b, t["b"][1]]}))

    same(wrap(part(p))(t["b"][0]), part(ref)(t["b"][0]))
    from jax.test_util import check_grads

    check_grads(p, (jax.tree.map(lambda x: x + jnp.sign(x), t),), order=2, modes=("fwd", "rev"))


def test_trees_where_the_primitive_is_missing(monkeypatch):
    monkeypatch.setattr(_transforms, "_directional", None)
    test_transformations_of_trees("kernels", True)


def test_examples_of_a_batch_are_exact():
    """Under vmap each example's penalty is the exact sum, rounded once, by one call."""
    batch = [sample((6, 7)), sample((6, 3, 2), "bfloat16", 2), sample(9, "float16", 3)]
    f = functools.partial(fjax.penalty, l1=0.3, l2=0.7, dtype="float32")
    each = jax.vmap(jax.value_and_grad(f), in_axes=([0, 0, None],))
    v, g = jax.jit(each)(batch)
    assert sorted(compiled(each, batch)) == ["fastreg_gradient", "fastreg_value"]
    for k in range(6):
        row = [np.asarray(batch[0][k]), np.asarray(batch[1][k]), np.asarray(batch[2])]
        e = fastreg.penalty(row, l1=0.3, l2=0.7, select="all", dtype="float32")
        assert bits(v[k]) == bits(e)
        for a, x in zip(g, row, strict=True):
            assert bits(a[k]) == bits(fastreg.gradient(x, l1=0.3, l2=0.7))


def test_derivatives_by_constants_cost_nothing():
    """Arrays that are not differentiated take no part in the gradient's call."""
    a, b = sample(5), sample(6)
    f = jax.grad(lambda a: fjax.penalty([a, b, jnp.arange(3)], l2=0.5))
    np.testing.assert_array_equal(f(a), a)
    text = jax.jit(f).lower(a).as_text()
    (call,) = re.findall(r"custom_call @fastreg_gradient\(([^)]*)\)", text)
    assert len(call.split(",")) == 2  # a and the upstream factor
    np.testing.assert_array_equal(jax.grad(lambda x: fjax.penalty([a, b], l2=0.5) * x)(2.0),
                                  fjax.penalty([a, b], l2=0.5))  # fmt: skip


def test_integers_in_trees_have_no_gradient():
    tree = {"w": sample((3, 2)), "n": jnp.array([[2, -3]]), "flag": jnp.array(True)}
    f = functools.partial(fjax.penalty, l1=0.5, l2=0.25, select="all")
    v, g = jax.jit(jax.value_and_grad(f, allow_int=True))(tree)
    assert float(v) == float(fastreg.penalty(jax.tree.map(np.asarray, tree), l1=0.5, l2=0.25,
                                             select="all"))  # fmt: skip
    assert g["n"].dtype == g["flag"].dtype == jax.dtypes.float0
    assert bits(g["w"]) == bits(fastreg.gradient(np.asarray(tree["w"]), l1=0.5, l2=0.25))
    with pytest.raises(TypeError, match="float0"):
        fjax.penalty([g["n"]], l2=1.0)
    assert float(fjax.penalty({"w": jnp.full((2, 2), 2.0), "n": g["n"]}, l2=0.25)) == 4.0


def test_specials_in_trees():
    f = functools.partial(fjax.penalty, l1=0.5, l2=0.25)
    inf, nan = jnp.array([jnp.inf]), jnp.array([jnp.nan])
    for name in ("kernels", "native"):
        with fjax.route(name):
            assert np.isnan(f([inf, jnp.ones(2), nan]))
            assert f([jnp.ones(2), -inf]) == np.inf
            for empty in ([], {}, (), [None], {"a": [None, ()]}, [jnp.ones((0, 3))]):
                v = jax.jit(f)(empty)
                assert (float(v), v.shape) == (0.0, ())
            assert f([], dtype="bfloat16").dtype == jnp.bfloat16
            # A weight of 0 removes an array, whatever it holds.
            tree = {"a": jnp.ones(2), "b": nan}
            only = functools.partial(fjax.penalty, l2={"a": 1.0}, select="all")
            v, g = jax.value_and_grad(only)(tree)
            assert (float(v), g["a"].tolist(), g["b"].tolist()) == (2.0, [2.0, 2.0], [0.0])
    for u in (np.inf, np.nan):
        two = [jnp.array([1.0, -2.0]), jnp.array([3.0])]
        g = jax.grad(by_kernels(lambda t, u=u: u * f(t)))(two)
        np.testing.assert_array_equal(g[0], np.array([1.0, -1.5]) * u)
        np.testing.assert_array_equal(g[1], np.array([2.0]) * u)
    big = [jnp.array([1e30], "float32")] * 2
    assert float(fjax.penalty(big, l2=1e-30)) == float(np.float32(fastreg.penalty(
        [np.asarray(b) for b in (big[0], big[0] + 0)], l2=1e-30, select="all")))  # fmt: skip


def test_the_type_of_a_trees_penalty():
    def kind(*dtypes):
        return fjax.penalty([jnp.ones(2, d) for d in dtypes], l2=1.0).dtype

    assert kind("float32", "float32") == "float32"
    assert kind("bfloat16", "bfloat16") == jnp.bfloat16
    assert kind("bfloat16", "float16") == kind("bfloat16", "float32") == "float32"
    assert kind("float64", "bfloat16") == kind("float32", "int8") == "float64"
    with jax.numpy_dtype_promotion("strict"):
        assert kind("float64", "bfloat16") == "float64"
    with jax.enable_x64(False):
        assert kind("float32", "int8") == "float32"
        tree = [jnp.ones(2), np.ones(2)]
        assert fjax.penalty(tree, l2=1.0, dtype="float64").dtype == "float32"


def test_an_array_that_stands_twice_counts_twice():
    x = sample((3, 3))
    f = functools.partial(fjax.penalty, l2=0.5)
    for tree in ([x, x], {"a": x, "b": {"kernel": x}}):
        assert float(f(tree)) == float(jax.jit(f)(tree)) == 2 * float(f(x))
    np.testing.assert_array_equal(jax.grad(lambda x: f([x, x]))(x), 2 * x)


def test_donated_trees():
    f = jax.value_and_grad(lambda t: fjax.penalty(t, l1=0.25, l2=0.5))
    step = jax.jit(lambda t: jax.tree.map(lambda x, g: x - 0.5 * g, t, f(t)[1]), donate_argnums=0)
    host = [np.asarray(sample(50, seed=k)) for k in range(5)]
    new = step(device(host))
    for x, y in zip(host, new, strict=True):
        np.testing.assert_array_equal(y, x - np.float32(0.5) * fastreg.gradient(x, l1=0.25, l2=0.5))


def test_selection_of_trees():
    from collections import namedtuple
    from dataclasses import dataclass

    Dense = namedtuple("Dense", "kernel bias")

    @functools.partial(
        jax.tree_util.register_dataclass, data_fields=["head", "norm"], meta_fields=[]
    )
    @dataclass
    class Model:
        head: object
        norm: object

    w = jnp.full((2, 2), 1.0)
    model = Model(Dense(w, 2 * w[0]), {"kernel": 3 * w, "scale": 4 * w[0]})

    def taken(**kinds):
        seen = {}

        def l2(name, x):
            seen[name] = float(x.ravel()[0]) if not isinstance(x, jax.core.Tracer) else x.shape
            return 1.0

        return float(fjax.penalty(model, l2=l2, **kinds)), seen

    kernels = (4.0, {"head.kernel": 1.0})
    assert taken() == taken(select="kernels") == kernels
    everything = {"head.kernel": 1.0, "head.bias": 2.0, "norm.kernel": 3.0, "norm.scale": 4.0}
    assert taken(select="all") == (4.0 + 8 + 36 + 32, everything)
    assert taken(select="norm.*") == (68.0, {"norm.kernel": 3.0, "norm.scale": 4.0})
    assert taken(select="re:bias$|scale$")[1].keys() == {"head.bias", "norm.scale"}
    assert taken(select=re.compile("head"))[1].keys() == {"head.kernel", "head.bias"}
    assert taken(select=lambda name, x: x.ndim == 1)[1].keys() == {"head.bias", "norm.scale"}
    mask = {"head": {"kernel": False, "bias": True}, "norm": False}
    assert taken(select=mask) == (8.0, {"head.bias": 2.0})
    # Under jit the arrays are tracers, the choice is the same, and the rest has a gradient of 0.
    g = jax.jit(jax.grad(lambda m: fjax.penalty(m, l2=0.5)))(model)
    assert type(g) is Model
    assert g.head.kernel.tolist() == w.tolist()
    assert not any(map(np.any, (g.head.bias, g.norm["kernel"], g.norm["scale"])))
    host = {"head": {"kernel": np.ones((2, 2)), "bias": np.full(2, 2.0)}}
    assert fjax.penalty(host, l2=1.0, convention="half") == fastreg.penalty(host, l2=0.5) == 2.0


def test_lists_take_all_and_names_take_kernels():
    x, b = jnp.ones((2, 2)), jnp.ones(3)
    f = functools.partial(fjax.penalty, l2=1.0)
    assert float(f([x, b])) == float(f((x, [b, None]))) == 7.0
    for named in ({"w": x, "b": b}, [{"w": x}, b], [("w", x), ("b", b)]):
        assert float(f(named)) == 4.0
    assert float(f([x, b], select="kernels")) == 4.0
    assert float(f({"w": x, "b": b}, select="all")) == 7.0
    # A single array is itself, whatever its shape; the other words hold for it, too.
    assert float(f(b)) == 3.0
    assert float(f(b, convention="half")) == 1.5
    assert float(f(b, weights=2.0)) == 6.0
    assert float(jax.grad(functools.partial(f, weights=2))(b)[0]) == 4.0


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("tree", "kinds", "error", "text"),
    [
        ({"a": {"b": "text"}}, {}, DTypeError, r"at 'a.b'; received .*str"),
        ({"a": [1.5]}, {}, DTypeError, r"at 'a.0'; received .*float"),
        ([np.array([1j])], {}, DTypeError, r"at '0': expected .*; received complex128"),
        ({"a": {"k": np.ones((2, 2), "c8")}}, {"select": "all"}, DTypeError, "at 'a.k': expected"),
        ({"a": np.ones(2)}, {}, ArgumentError, "select= to take at least one of 1 arrays"),
        ({"a": np.ones(2)}, {"select": "b*"}, ArgumentError, "which takes none"),
        ([np.ones(2)], {"select": 7}, ArgumentError, "names in select="),
        ([np.ones(2)], {"select": {"x": True}}, ArgumentError, "a mask"),
        ([np.ones(2)], {"l2": -1.0}, ArgumentError, "l2 that is finite and >= 0"),
        ([np.ones(2)], {"l2": {"1": 1.0}}, ArgumentError, "which matches none"),
        ([np.ones(2)], {"weights": np.nan}, ArgumentError, "a factor in weights= that is finite"),
        ([np.ones(2)], {"convention": "torch"}, ArgumentError, "convention 'keras'"),
        ([np.ones(2)], {"dtype": "int8"}, DTypeError, "a result dtype among"),
    ],
)  # fmt: skip
def test_refused_trees(jit, tree, kinds, error, text):
    kinds = {"l2": 1.0} | kinds

    def f(x):
        return x * fjax.penalty(tree, **kinds)

    with pytest.raises(error, match=r"expected .*; received .*; ") as e:
        (jax.jit(f) if jit else f)(1.0)
    assert re.search(text, str(e.value)), str(e.value)


def test_traced_weights_of_trees_are_refused():
    x = [jnp.ones(3)]
    for kinds in ({"l1": 1.0}, {"weights": 1.0}, {"l2": {"0": 1.0}}):
        with pytest.raises(DTypeError, match="would get no gradient"):
            jax.jit(lambda w: fjax.penalty(x, **{"l2": 0.5} | w))(kinds)


def test_handlers_refuse_what_they_do_not_know():
    fjax.handlers()
    x, u = jnp.ones((2, 3), "float32"), jnp.float32(1)
    one = np.ones(1)

    def call(name, out, *args, **attributes):
        return jax.ffi.ffi_call(name, out)(*args, **attributes)

    def like(shape, dtype="float32"):
        return jax.ShapeDtypeStruct(shape, dtype)

    scalar, value, gradient = like(()), "fastreg_value", "fastreg_gradient"
    for text, args in {
        "one element for each array": [
            (value, scalar, (x, x), {"l1": one, "l2": one}),
            (value, scalar, (x,), {"l1": one}),
            (value, scalar, (x,), {"l1": 1.0, "l2": 1.0}),
            (value, scalar, (x,), {"l1": one.astype("float32"), "l2": one}),
        ],
        "finite and >= 0": [(value, scalar, (x,), {"l1": -one, "l2": one})],
        "with the batch's axes": [
            (value, like((3,)), (x,), {"l1": one, "l2": one}),
            (value, like((2, 3, 1)), (x,), {"l1": one, "l2": one}),
            (value, scalar, (x.astype("complex64"),), {"l1": one, "l2": one}),
        ],
        "a result of a float type": [(value, like((), "int32"), (x,), {"l1": one, "l2": one})],
        "arguments of fastreg.jax": [
            (value, (scalar, scalar), (x,), {"l1": one, "l2": one}),
            (gradient, [like(x.shape)] * 2, (x, u), {"l1": one, "l2": one}),
            (gradient, [like(())], (u,), {"l1": one, "l2": one}),
        ],
        "as many gradients": [
            (gradient, [like((3, 2))], (x, u), {"l1": one, "l2": one}),
            (gradient, [like((2, 3), "float64")], (x, u), {"l1": one, "l2": one}),
            (gradient, [like((2, 3), "int32")], (x.astype("int32"), u), {"l1": one, "l2": one}),
            (gradient, [like((2, 3))], (x, jnp.int32(1)), {"l1": one, "l2": one}),
        ],
    }.items():
        for name, out, inputs, attributes in args:
            with pytest.raises(jax.errors.JaxRuntimeError, match=text):
                jax.block_until_ready(call(name, out, *inputs, **attributes))


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
    with pytest.raises(DTypeError, match="would get no gradient"):
        jax.jit(lambda w: fjax.penalty(jnp.ones(3), l2=w))(1.0)
    with pytest.raises(ArgumentError, match="route 'auto'"), fjax.route("fast"):
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
        with pytest.raises(DTypeError, match=r"expected .*; received .*; (leave|pass x.tod)"):
            fjax.penalty(bad, l2=1.0)


def test_integers_by_native_operations():
    x = jnp.asarray(np.array([2**24 + 1, 2], "int32"))
    with fjax.route("native"):
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

    x = sample((5, 1))
    one = fjax.penalty(x, l2=0.5)
    assert fjax.penalty(Box(x), l2=0.5) == one
    assert float(fjax.penalty(Pair(x, Box({"w": x, "none": None})), l2=0.5)) == 2 * float(one)
    g = jax.grad(lambda b: fjax.penalty(b, l2=0.5))(Box(x))
    assert type(g) is Box
    np.testing.assert_array_equal(g.w, x)


@pytest.mark.parametrize("name", ["auto", "kernels", "native"])
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
for name in ("auto", "kernels", "native"):
    with fjax.route(name):
        for checked in (True, False):
            over = functools.partial(jax.shard_map, mesh=mesh, in_specs=P("d"), check_vma=checked)
            s = jax.device_put(x, NamedSharding(mesh, P("d")))
            total = over(lambda b: jax.lax.psum(one(b), "d"), out_specs=P())
            for f in (total, jax.jit(total)):
                np.testing.assert_allclose(f(s), value, rtol=1e-6)
            check((value, over(jax.grad(one), out_specs=P("d"))(s)), exact=name != "native")
            check((value, over(one.gradient, out_specs=P("d"))(s)), exact=name != "native")
            check(jax.value_and_grad(total)(s), exact=False)
            check(jax.jit(jax.value_and_grad(total))(s), exact=False)
            rows = over(jax.vmap(one), out_specs=P("d"))(s)
            np.testing.assert_allclose(rows, [one(row) for row in x], rtol=1e-6)
        parts = x.reshape(4, 2, 6)
        np.testing.assert_allclose(jax.pmap(one)(parts), [one(p) for p in parts], rtol=1e-6)
        grads = jax.pmap(jax.grad(one))(parts)
        check((value, grads.reshape(8, 6)), exact=name != "native")
text = jax.jit(jax.shard_map(one.value, mesh=mesh, in_specs=P(), out_specs=P())).lower(x).as_text()
assert "fastreg_value" in text

# A list: one call, whose arrays may be sharded in different ways.
tree = {"a": x, "b": [x[0] * 2, x.sum()]}
flat = [np.array(e) for e in jax.tree.leaves(tree)]
whole = jax.value_and_grad(functools.partial(fjax.penalty, l1=0.25, l2=0.5, select="all"))
exact = fastreg.penalty(flat, l1=0.25, l2=0.5, select="all", dtype="float32")
slopes = [fastreg.gradient(e, l1=0.25, l2=0.5) for e in flat]

def check_tree(pair, exactly=True):
    v, g = pair
    assert v == exact or not exactly, (v, exact)
    np.testing.assert_allclose(v, exact, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(g), slopes, strict=True):
        assert not exactly or np.array_equal(a, b)
        np.testing.assert_allclose(a, b, rtol=1e-6)

def places(mesh, axis):
    rows, all_ = NamedSharding(mesh, P(axis)), NamedSharding(mesh, P())
    return {"a": rows, "b": [NamedSharding(mesh, P(None)), all_]}

spread = jax.device_put(tree, places(mesh, "d"))
check_tree(whole(spread))
check_tree(jax.jit(whole)(spread))
check_tree(jax.jit(whole)(jax.device_put(tree, {"a": places(square, "b")["a"],
                                                "b": places(square, "a")["b"]})))
for name in ("auto", "kernels", "native"):
    with fjax.route(name):
        for checked in (True, False):
            # a varies over the devices, b does not: each device counts its part of a and all of b.
            specs = {"a": P("d"), "b": P()}
            over = functools.partial(jax.shard_map, mesh=mesh, in_specs=(specs,), check_vma=checked)
            f = over(lambda t: jax.lax.psum(
                fjax.penalty(t, l1=0.25, l2=0.5, select="all"), "d"), out_specs=P())
            rest = fastreg.penalty(flat[1:], l1=0.25, l2=0.5, select="all")
            for wrap in (lambda f: f, jax.jit):
                np.testing.assert_allclose(wrap(f)(spread), exact + 3 * rest, rtol=1e-6)
                g = wrap(jax.grad(f))(spread)
                for a, b, n in zip(jax.tree.leaves(g), slopes, (1, 4, 4), strict=True):
                    np.testing.assert_allclose(a, n * b, rtol=1e-6)

# Sharded by type: JAX's operations.
if hasattr(jax.sharding, "AxisType"):
    explicit = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(explicit):
        s = jax.device_put(x, NamedSharding(explicit, P("d")))
        check(both(s), exact=False)
        check(jax.jit(both)(s), exact=False)
        check(one.value_and_gradient(s), exact=False)
        assert jax.jit(both)(s)[1].sharding.spec[0] == "d"
        np.testing.assert_allclose(jax.jit(jax.vmap(one))(s), [one(row) for row in x], rtol=1e-6)
        typed = {"a": s, "b": tree["b"]}
        check_tree(whole(typed), exactly=False)
        check_tree(jax.jit(whole)(typed), exactly=False)
        assert "fastreg" not in jax.jit(whole).lower(typed).as_text().replace("fastreg_dir", "")
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
    from fastreg._core import numpy_backend

    for x in (np.full((2, 2), 1e30, "float32"), np.full((2, 3), 1e-20), np.zeros((2, 3)),
              np.zeros((3, 0)), np.zeros((0, 3)), np.array([[3, 4, 0], [1, 0, 0]])):  # fmt: skip
        expected = float(numpy_backend.orthogonal(x, factor=0.5))
        assert float(fjax.orthogonal(jnp.asarray(x), factor=0.5)) == pytest.approx(expected)
    x = jnp.array([[1.0, np.nan], [1.0, 1.0]])
    assert np.isnan(fjax.orthogonal(x, factor=0.5))
    assert fjax.orthogonal(x, factor=0.0) == 0.0
    assert fjax.orthogonal_value_and_gradient(x, factor=0.0)[1].tolist() == [[0, 0], [0, 0]]
    assert np.isnan(fjax.orthogonal(x.at[0, 1].set(np.inf), factor=0.5))
    short = np.array([[1e-9, 2e-9], [1.0, 1.0]])
    _, g = fjax.orthogonal_value_and_gradient(jnp.asarray(short), factor=0.5)
    _, e = numpy_backend.orthogonal_value_and_gradient(short, factor=0.5)
    np.testing.assert_allclose(g, e, rtol=1e-6)


def test_a_misfit_falls_back(monkeypatch):
    def broken():
        raise RuntimeError("another version")

    monkeypatch.setattr(_ffi._kernels, "xla_handlers", broken)
    fjax.handlers.cache_clear()
    try:
        assert fjax.handlers() == "RuntimeError: another version"
        assert float(jax.jit(lambda x: fjax.penalty(x, l2=0.5))(jnp.array([3.0, 4.0]))) == 12.5
        with pytest.raises(ArgumentError, match="another version"), fjax.route("kernels"):
            pass
    finally:
        fjax.handlers.cache_clear()


def test_declarations_match_jaxlibs_header(tmp_path):
    """Every size, offset and constant of fastreg/jax/_xla.h equals XLA's."""
    room = Path(fastreg.__file__).parent / "jax"
    if not (room / "_xla.h").exists():
        pytest.skip("fastreg/jax/_xla.h is not part of this installation")
    head = "struct_size extension_start"
    pairs = {
        "extension": ("XLA_FFI_Extension_Base", "struct_size type next"),
        "version": ("XLA_FFI_Api_Version", f"{head} major_version minor_version"),
        "metadata": ("XLA_FFI_Metadata", "struct_size api_version traits"),
        "metadata_extension": ("XLA_FFI_Metadata_Extension", "extension_base metadata"),
        "error_create_args": ("XLA_FFI_Error_Create_Args", f"{head} message errc"),
        "buffer": ("XLA_FFI_Buffer", f"{head} dtype data rank dims"),
        "span": ("XLA_FFI_ByteSpan", "ptr len"),
        "array": ("XLA_FFI_Array", "dtype size data"),
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
    same("FR_XLA_ATTR_ARRAY", "XLA_FFI_AttrType_ARRAY")
    same("FR_XLA_INVALID_ARGUMENT", "XLA_FFI_Error_Code_INVALID_ARGUMENT")
    same("FR_XLA_RESOURCE_EXHAUSTED", "XLA_FFI_Error_Code_RESOURCE_EXHAUSTED")
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


# -- Pytrees of results ----------------------------------------------------------------------------


def small():
    return {
        "dense": {"kernel": sample((3, 2)), "bias": sample(2, seed=1)},
        "list": [sample((2, 2), seed=2), None],
        "n": jnp.arange(3),
    }


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("select", [None, "*.bias", "dense.*"])
def test_gradients_are_pytrees_as_jax_has_them(jit, select):
    tree = small()
    kinds = {"l1": 0.3, "l2": 0.7, "select": select}
    f = functools.partial(fjax.value_and_gradient, **kinds)
    v, g = (jax.jit(f) if jit else f)(tree)
    ev, eg = jax.value_and_grad(functools.partial(fjax.penalty, **kinds), allow_int=True)(tree)
    assert bits(v) == bits(ev)
    assert jax.tree.structure(g) == jax.tree.structure(eg)
    for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(eg), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.dtype == jax.dtypes.float0 or bits(a) == bits(b)


def test_gradients_of_what_is_no_pytree():
    x, b = sample((2, 2)), sample(2)
    g = fjax.gradient([("w", x), ("b", b)], l2=0.5)
    assert list(g) == ["w"]
    np.testing.assert_array_equal(g["w"], x)
    assert list(fjax.prox([("w", x), ("b", b)], 0.5, l1=1.0)) == ["w"]
    (g,) = fjax.gradient((e for e in [b]), l2=0.5)
    np.testing.assert_array_equal(g, b)
    assert fjax.gradient([], l2=0.5) == []
    with pytest.raises(DTypeError, match=r"at '1': expected a float array"):
        fjax.gradient([x, jnp.arange(3)], l2=1.0)
    with pytest.raises(ArgumentError, match="a weight, l1= or l2="):
        fjax.gradient(x)


@pytest.mark.parametrize("scale", [0.1, -0.1, 0.0, 3e38, 1e-300, float("inf"), float("nan")])
@pytest.mark.parametrize("x64", [False, True])
def test_scales_of_gradients(scale, x64):
    """A factor is a float64 number, also where arrays cannot hold one."""
    host = np.array([1.5, -2.0, 3e-3], "float32")
    with jax.enable_x64(x64):
        x = jnp.asarray(host)
        v, g = fjax.value_and_gradient(x, l1=0.3, l2=0.7, scale=scale)
        assert bits(v) == bits(fastreg.value(host, l1=0.3, l2=0.7))
        traced = jax.jit(lambda u: fjax.gradient(x, l1=0.3, l2=0.7, scale=u))(scale)
    expected = 0.7 * 2 * scale * host.astype("f8") + 0.3 * scale * np.sign(host)
    with np.errstate(over="ignore"):
        expected = expected.astype("float32")
    np.testing.assert_allclose(g, expected, rtol=1e-7, atol=0)
    np.testing.assert_allclose(traced, expected, rtol=1e-6, atol=1e-38)


# -- Proximal steps, decay, norms ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("jit", [False, True])
def test_prox_and_decay_are_those_of_models(dtype, jit):
    """But for XLA's division by a constant, which is a product with its reciprocal."""
    wrap = jax.jit if jit else (lambda f: f)
    tree = {"w": sample((40, 30), dtype), "bias": sample(5, dtype), "n": np.arange(2)}
    host = jax.tree.map(np.array, tree)
    new = wrap(lambda t: fjax.prox(t, 0.1, l1=3.0, l2=0.7))(tree)
    fastreg.prox_(host, 0.1, l1=3.0, l2=0.7)
    for k in tree:
        np.testing.assert_allclose(new[k], host[k], rtol=3e-16 if dtype == "float64" else 1e-9)
    assert 0 < np.count_nonzero(host["w"]) < host["w"].size
    new = wrap(lambda t: fjax.decay(t, 0.1))(tree)
    host = jax.tree.map(np.array, tree)
    fastreg.decay_(host, 0.1)
    for k in tree:
        assert bits(new[k]) == bits(host[k])


def test_prox_and_decay_of_small_types_and_without_x64():
    for x64 in (False, True):
        with jax.enable_x64(x64):
            for dtype in ("float16", ml_dtypes.bfloat16, "float32"):
                x = sample(500, dtype)
                host = np.array(x)
                eps = float(jnp.finfo(x.dtype).eps)
                fastreg.prox_([host], 0.1, l1=3.0, l2=0.7)
                new = np.asarray(fjax.prox(x, 0.1, l1=3.0, l2=0.7))
                assert new.dtype == host.dtype
                np.testing.assert_allclose(new.astype("f8"), host.astype("f8"), rtol=eps, atol=3e-7)
                half = np.asarray(fjax.decay(x, 0.5))
                np.testing.assert_array_equal(half, np.asarray(x) / 2)
    x = jnp.array([np.nan, np.inf, -np.inf, -0.0, 0.3, -0.3])
    new = fjax.prox(x, 1.0, l1=0.5)
    np.testing.assert_array_equal(new, [np.nan, np.inf, -np.inf, 0.0, 0.0, 0.0])
    assert not np.signbit(new[3:]).any()
    tiny = jnp.array([3e-39], "float32")
    assert fjax.prox(tiny, 1.0, l2=0.0, flush=True).tolist() == [0.0]


def test_steps_may_be_traced():
    x = sample(9)

    def f(s):
        return fjax.prox(x, s, l1=0.5), fjax.decay(x, s), fjax.clip_by_global_norm(x, s)

    for a, b in zip(jax.tree.leaves(jax.jit(f)(0.25)), jax.tree.leaves(f(0.25)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for call in (
        lambda: fjax.prox(x, -1.0, l1=0.5),
        lambda: fjax.prox(x, jnp.float32(-1.0), l1=0.5),
        lambda: fjax.decay(x, 1.5),
        lambda: fjax.clip_by_global_norm(x, -1.0),
        lambda: fjax.prox(x, 0.1),
    ):
        with pytest.raises(ArgumentError):
            call()
    with pytest.raises(DTypeError, match="at 'n'"):
        fjax.prox({"n": jnp.arange(3)}, 0.1, l1=0.5, select="all")
    with pytest.raises(DTypeError, match="at '0'"):
        fjax.clip_by_global_norm([jnp.arange(3)], 0.1)


@pytest.mark.parametrize("name", ["kernels", "native"])
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_global_norm(name, x64, jit):
    def f(t, dtype=None):
        with fjax.route(name):
            return fjax.global_norm(t, dtype=dtype)

    wrap = (lambda f: jax.jit(f, static_argnums=1)) if jit else (lambda f: f)
    with jax.enable_x64(x64):
        tree = {"w": sample((50, 3)), "bias": sample(5, "float16"), "n": [jnp.arange(4), None]}
        expected = float(fastreg.global_norm(jax.tree.map(np.array, tree)))
        v = wrap(f)(tree)
        assert v.dtype == ("float64" if x64 else "float32")
        np.testing.assert_allclose(float(v), expected, rtol=1e-15 if x64 else 2e-7)
        for size in (1e38, 1e19, 1e-19, 1e-30, 0.0):
            x = np.full(7, size, "float32")
            got = float(wrap(f)([jnp.asarray(x)]))
            np.testing.assert_allclose(got, float(fastreg.global_norm([x])), rtol=3e-7)
        assert np.isnan(wrap(f)([jnp.array([np.nan, np.inf])]))
        assert wrap(f)([jnp.array([1.0, -np.inf])]) == np.inf
        assert wrap(f)([jnp.full(4, 3e38, "float32")], "float32") == np.inf
        assert float(wrap(f)([])) == float(wrap(f)({"none": None})) == 0.0
        rows = jnp.stack([jnp.full(4, s, "float32") for s in (1.0, 1e30, 1e-30)])
        np.testing.assert_allclose(jax.vmap(f)(rows), np.array([2.0, 2e30, 2e-30]), rtol=3e-7)
        two = {"w": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
        g = (jax.jit if jit else lambda f: f)(jax.grad(f))(two)
        np.testing.assert_allclose(g["w"], [0.6, 0.0], rtol=1e-6)
        np.testing.assert_allclose(g["b"], [0.8], rtol=1e-6)
        assert jax.grad(f)(jnp.zeros(3)).tolist() == [0.0] * 3
    with jax.enable_x64(True):
        for size in (1e300, 1e-200, 1e155, 1e-155):
            x = np.full(4, size)
            got = float(wrap(f)(jnp.asarray(x)))
            np.testing.assert_allclose(got, 2 * size, rtol=3e-16)


@pytest.mark.parametrize("jit", [False, True])
def test_clip_by_global_norm(jit):
    wrap = jax.jit if jit else (lambda f: f)
    tree = {"w": sample((50, 3)), "bias": sample(5, "float16"), "none": None,
            "zero": np.zeros(2, jax.dtypes.float0)}  # fmt: skip
    floats = {k: tree[k] for k in ("w", "bias")}
    norm = float(fastreg.global_norm(jax.tree.map(np.array, floats)))
    clip = lambda m: wrap(lambda t: fjax.clip_by_global_norm({**tree, **t}, m))(floats)  # noqa: E731
    new, before = clip(1.5)
    assert float(before) == pytest.approx(norm, rel=1e-15)
    assert jax.tree.structure(new) == jax.tree.structure(tree)
    host = {k: np.array(x) for k, x in floats.items()}
    fastreg.clip_by_global_norm_(host, 1.5)
    for k, x in host.items():
        assert new[k].dtype == x.dtype
        np.testing.assert_allclose(new[k], x, rtol=1e-3 if k == "bias" else 1e-7)
    assert new["zero"].dtype == jax.dtypes.float0
    for limit in (1e9, np.inf):
        new, before = clip(limit)
        assert all(bits(new[k]) == bits(tree[k]) for k in floats)
    for bad in (np.inf, np.nan):
        x = jnp.array([1.0, bad])
        new, before = wrap(lambda x: fjax.clip_by_global_norm(x, 0.5))(x)
        np.testing.assert_array_equal(new, x)
        assert not np.isfinite(before)
    assert fjax.clip_by_global_norm([], 1.0)[0] == []


def test_stats():
    s = fjax.stats({"w": jnp.array([3.0, -4.0]), "n": jnp.arange(2)})
    assert (s.total["norm"], s["n"]["n"]) == (5.0, 2)


def test_keys_are_named_or_left_out():
    tree = {"kernel": jnp.ones((2, 2)), "key": jax.random.key(0)}
    assert float(fjax.penalty(tree, l2=1.0)) == 4.0
    g = fjax.gradient(tree, l2=1.0)
    assert g["key"].dtype == jax.dtypes.float0
    with pytest.raises(DTypeError, match="at 'key': expected"):
        fjax.penalty(tree, l2=1.0, select="all")
    with pytest.raises(DTypeError, match="at 'key': expected"):
        fjax.global_norm(tree)
