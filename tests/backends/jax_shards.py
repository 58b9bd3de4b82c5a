# SPDX-License-Identifier: BSD-3-Clause
"""What test_jax_shards.py runs on eight devices: any sharding gives the bits of one array."""

from __future__ import annotations

import os
import re
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_ENABLE_X64"] = sys.argv[1]

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import fastreg
import fastreg.jax as fjax

X64 = sys.argv[1] == "1"
WIDE = "float64" if X64 else "float32"
rng = np.random.default_rng(0)
# Half of them subnormal, the rest over 2^±40.
x = (rng.standard_normal((64, 48)) * 2.0 ** rng.integers(-40, 40, 48)).astype("f4")
x[::2] = rng.integers(1, 1 << 23, x[::2].shape, dtype=np.uint32).view("f4")
whole = fastreg.state(x)
SHARDINGS = (
    ((8,), ("d",), P("d")),
    ((8,), ("d",), P(None, "d")),
    ((4, 2), ("d", "m"), P("d", "m")),
    ((2, 4), ("d", "m"), P("m", None)),
    ((8,), ("d",), P()),
)


def same(a, b) -> bool:
    return a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def read(digits) -> fastreg.State:
    return fastreg.State.from_digits(np.asarray(digits))


def check(state, norm, value, clipped=None) -> None:
    assert read(state) == whole
    assert same(norm, whole.norm(WIDE)), (norm, whole.norm(WIDE))
    assert same(value, whole.value(0.1, 0.3, "float32"))
    if clipped is not None:
        clips.add(np.asarray(clipped).tobytes())


def gathered(text: str) -> int:
    """The most elements that any all-gather of a compiled program yields."""
    most = 0
    for line in text.splitlines():
        if found := re.search(
            r"= \(?\w+\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)", line
        ):
            most = max(most, int(np.prod([int(n) for n in found[1].split(",") if n] or [1])))
    return most


def everything(x, axis_name=()):
    return (
        fjax.state(x, axis_name=axis_name),
        fjax.global_norm(x, axis_name=axis_name),
        fjax.penalty(x, l1=0.1, l2=0.3, axis_name=axis_name),
        fjax.clip_by_global_norm(x, 0.5, axis_name=axis_name)[0],
    )


clips: set[bytes] = set()
slope = np.float32(0.1) * np.sign(x) + np.float32(0.6) * x
for shape, names, spec in SHARDINGS:
    print(shape, spec, flush=True)
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))
        with jax.set_mesh(mesh):
            s = jax.device_put(x, NamedSharding(mesh, spec))
            program = jax.jit(everything).lower(s).compile()
            assert gathered(program.as_text()) <= 8, program.as_text()
            check(*program(s))
            clips.add(np.asarray(program(s)[3]).tobytes())
            # Outside of jit, and by the type of explicit sharding, without a word.
            if spec == P("d"):
                assert same(fjax.global_norm(s), whole.norm(WIDE))
                g = jax.jit(jax.grad(lambda x: fjax.penalty(x, l1=0.1, l2=0.3, axis_name=())))(s)
                assert np.allclose(np.asarray(g)[1::2], slope[1::2], rtol=1e-6)
    mesh = jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))
    outs = (P(), P(), P(), spec)
    for checked in (True, False):
        # Types tell along which axes an array is cut; where they do not, the caller does.
        axes = names if checked else tuple(a for a in spec if a)
        over = jax.shard_map(
            lambda v, axes=axes: everything(v, axes),
            mesh=mesh,
            in_specs=spec,
            out_specs=outs,
            check_vma=checked,
        )
        program = jax.jit(over).lower(x).compile()
        assert gathered(program.as_text()) == 0
        check(*program(x))
assert len(clips) == 1

# A replicated array beside a cut one counts once; and so does its gradient.
mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
bias = np.arange(1, 6, dtype="f4")


def loss(w, b):
    return fjax.penalty([w, b], l2=0.5, axis_name="d")


step = jax.shard_map(
    jax.value_and_grad(loss, (0, 1)),
    mesh=mesh,
    in_specs=(P("d"), P()),
    out_specs=(P(), (P("d"), P())),
)
value, (gw, gb) = jax.jit(step)(x, bias)
assert same(value, fastreg.state([x, bias]).value(0.0, 0.5, "float32"))
assert np.asarray(gb).tolist() == bias.tolist()
assert np.allclose(np.asarray(gw)[1::2], x[1::2])

# NumPy's side: what is replicated is read, what is cut names fastreg.jax.
s = jax.device_put(x, NamedSharding(mesh, P("d")))
assert fastreg.state(jax.device_put(x, NamedSharding(mesh, P()))) == whole
with pytest.raises(TypeError, match=r"call fastreg\.jax"):
    fastreg.norm(s)

# Weights of each array; types; nothing at all.
params = {"a": jnp.asarray(x), "b": jnp.arange(5, dtype="int8"), "c": jnp.ones(7, "bfloat16")}
value = fjax.penalty(
    params, l2={"a": 0.1, "b": 1e-9}, l1={"c": 3.0}, select="all", dtype=WIDE, axis_name=()
)
expected = fastreg.penalty(
    params, l2={"a": 0.1, "b": 1e-9}, l1={"c": 3.0}, select="all", dtype=WIDE
)
assert same(value, expected), (value, expected)
assert read(fjax.state([])) == fastreg.State()
assert float(fjax.global_norm([], axis_name=())) == 0.0
assert np.isnan(fjax.global_norm(jnp.array([1.0, jnp.nan], "float32"), axis_name=()))
assert fjax.global_norm(jnp.array([1.0, -jnp.inf], "float32"), axis_name=()) == np.inf
print("ok")
