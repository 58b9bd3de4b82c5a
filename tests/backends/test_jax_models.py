# SPDX-License-Identifier: BSD-3-Clause
"""Models of libraries on JAX, and programs that are exported."""

from __future__ import annotations

import numpy as np
import pytest

import fastreg
from fastreg.errors import DTypeError, LayoutError

jax = pytest.importorskip("jax", reason="jax is not installed")
jnp = jax.numpy

import fastreg.jax as fjax  # noqa: E402


def squares(x) -> float:
    return float((np.asarray(x, "f8") ** 2).sum())


@pytest.fixture(scope="module")
def equinox():
    return pytest.importorskip("equinox", reason="equinox is not installed")


@pytest.fixture(scope="module")
def nnx():
    return pytest.importorskip("flax.nnx", reason="flax is not installed")


def model_of(equinox):
    class Model(equinox.Module):
        first: equinox.nn.Linear
        dropout: equinox.nn.Dropout
        norm: equinox.nn.LayerNorm
        activation: object
        label: str

    return Model(
        equinox.nn.Linear(3, 2, key=jax.random.key(0)),
        equinox.nn.Dropout(0.5),
        equinox.nn.LayerNorm((2, 2)),
        jax.nn.relu,
        "model",
    )


def test_fields_that_are_functions(equinox):
    """Activations and texts are no parameters; the gradient has None there, a step keeps them."""
    model = model_of(equinox)
    want = squares(model.first.weight)
    assert float(fastreg.penalty(model, l2=1.0)) == want
    assert float(fjax.penalty(model, l2=1.0)) == np.float32(want)
    g = fjax.gradient(model, l2=0.5)
    assert (g.activation, g.label, g.dropout.p) == (None, None, None)
    assert (g.first.weight == model.first.weight).all()
    assert not g.norm.weight.any()
    filtered = equinox.filter_grad(lambda m: fjax.penalty(m, l2=0.5))(model)
    assert (filtered.first.weight == g.first.weight).all()
    assert filtered.activation is None
    new = fjax.prox(model, 0.1, l1=100.0)
    assert not new.first.weight.any()
    assert (new.activation, new.label, new.dropout.p) == (jax.nn.relu, "model", 0.5)
    mlp = equinox.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    clipped, norm = fjax.clip_by_global_norm(mlp, 0.0)
    assert clipped.activation is mlp.activation
    assert float(norm) == pytest.approx(float(fastreg.global_norm(mlp)), rel=1e-7)


def test_fields_that_may_be_parameters(equinox):
    """A number, or an object that may hold arrays, is never skipped in silence."""
    model = model_of(equinox)
    for call in (
        fjax.global_norm,
        fastreg.stats,
        lambda m: fastreg.penalty(m, l2=1.0, select="all"),
    ):
        with pytest.raises(DTypeError, match=r"at 'dropout\.p'"):
            call(model)

    class Callable:
        weight = np.ones((2, 2))

        def __call__(self, x):
            return x

    other = equinox.tree_at(lambda m: m.activation, model, Callable())
    with pytest.raises(DTypeError, match=r"at 'activation'; received .*Callable"):
        fastreg.penalty(other, l2=1.0)


def test_states_that_make_their_items_anew(nnx):
    """A mapping whose items are new objects each time is read; a plan could not watch it."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 3, rngs=rngs)
            self.norm = nnx.BatchNorm(3, rngs=rngs)

    net = Net(nnx.Rngs(0))
    state = nnx.state(net, nnx.Param)
    want = squares(net.linear.kernel[...])
    assert (
        float(fastreg.penalty(net, l2=1.0)) == float(fastreg.penalty({"s": state}, l2=1.0)) == want
    )
    assert len(fastreg.stats(state)) == 4
    fastreg.check_finite(state)
    with pytest.raises(LayoutError, match="makes them anew each time"):
        fastreg.plan(state, l2=1.0)
    assert float(fastreg.plan(nnx.to_pure_dict(state), l2=1.0).value()) == want


PARAMS = {"w": np.arange(6.0, dtype="f4").reshape(2, 3), "b": np.ones(3, "f4")}


@pytest.mark.parametrize(
    "function",
    [
        lambda p: fjax.penalty(p, l1=0.5, l2=1.0, select="all"),
        lambda p: jax.grad(lambda p: fjax.penalty(p, l1=0.5, l2=1.0))(p),
        lambda p: jax.vmap(lambda row: fjax.penalty([row, p["b"]], l2=1.0))(p["w"]),
        lambda p: jax.vmap(jax.grad(lambda row: fjax.penalty(row, l1=1.0, l2=1.0)))(p["w"]),
        lambda p: jax.vmap(lambda row: jax.vmap(lambda x: fjax.global_norm([row, x]))(p["b"]))(
            p["w"]
        ),
        lambda p: fjax.clip_by_global_norm(p, 1.0),
    ],
    ids=["penalty", "gradient", "batch", "batch of gradients", "batches of norms", "clip"],
)
def test_exported_programs(function):
    """They hold operations of JAX alone, for processes without the handlers."""
    from jax import export

    jitted = jax.jit(function)
    program = export.export(jitted)(PARAMS)
    assert "custom_call" not in program.mlir_module()
    again = export.deserialize(program.serialize())
    for a, b in zip(
        jax.tree.leaves(again.call(PARAMS)), jax.tree.leaves(jitted(PARAMS)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert "fastreg_" in jitted.lower(PARAMS).as_text()


def test_exported_batches_of_any_size():
    from jax import export

    (n,) = export.symbolic_shape("n")
    f = jax.vmap(jax.value_and_grad(lambda x: fjax.penalty([x, PARAMS["b"]], l1=0.5, l2=1.0)))
    program = export.export(jax.jit(f))(jax.ShapeDtypeStruct((n, 3), "float32"))
    for rows in (1, 4):
        x = jnp.arange(3.0 * rows).reshape(rows, 3)
        for a, b in zip(program.call(x), f(x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
