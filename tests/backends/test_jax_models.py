# SPDX-License-Identifier: BSD-3-Clause
"""Models of libraries on JAX, and programs that are exported."""

from __future__ import annotations

import io

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


def test_numbers_of_python_are_no_weights(equinox):
    """Alike in eager mode and within jit, where they are traced; statistics say so."""
    model = model_of(equinox)
    want = fastreg.sum_squares(
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(model) if hasattr(x, "shape")])
    )
    stats = fastreg.stats(model)
    assert "dropout.p" not in stats.names
    assert "'dropout.p' is left out: a number of Python" in stats.notes
    fastreg.check_finite(model)
    assert float(fastreg.penalty(model, l2=1.0, select="all")) == pytest.approx(want)
    arrays = equinox.filter(model, lambda x: isinstance(x, (jax.Array, float)))

    def all_of_it(m):
        return fjax.penalty(m, l2=1.0, select="all")

    assert all_of_it(arrays) == jax.jit(all_of_it)(arrays) == np.float32(want)
    with pytest.raises(ValueError, match=r"takes none .*: a number of Python"):
        fastreg.penalty(model, l2=1.0, select="dropout.*")
    with pytest.raises(DTypeError, match=r"at 'dropout\.p'"):  # a gradient may be a number
        fjax.global_norm(model)


def test_an_object_that_may_hold_arrays_is_not_skipped(equinox):
    class Callable:
        weight = np.ones((2, 2))

        def __call__(self, x):
            return x

    other = equinox.tree_at(lambda m: m.activation, model_of(equinox), Callable())
    with pytest.raises(DTypeError, match=r"at 'activation'; received .*Callable"):
        fastreg.penalty(other, l2=1.0)


def tied_model(nnx):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(4, 3, rngs=rngs)
            self.head = nnx.Linear(3, 4, rngs=rngs)
            self.head.kernel = self.embed.embedding
            self.other = nnx.Linear(2, 2, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

    return Net(nnx.Rngs(0))


@pytest.mark.parametrize("hold", [lambda m: m, lambda m: [m], lambda m: {"m": m}])
def test_a_variable_in_two_places_counts_once(nnx, hold):
    """In values, norms of models, gradients, statistics, plans, and under either name."""
    model = tied_model(nnx)
    held = hold(model)
    tied, other = (np.asarray(v[...]) for v in (model.embed.embedding, model.other.kernel))
    both, once = fastreg.penalty([tied, other], l2=1.0), fastreg.penalty(tied, l2=1.0)
    assert fastreg.penalty(held, l2=1.0) == fastreg.plan(held, l2=1.0).value() == both
    assert float(fjax.penalty(held, l2=1.0)) == np.float32(both)
    for select in ("*embedding", "*head.kernel"):
        found = fastreg.penalty(held, l2=1.0, select=select)
        assert found == once
        assert float(fjax.penalty(held, l2=1.0, select=select)) == np.float32(once)
    names = [n.removeprefix("m.").removeprefix("0.") for n in fastreg.stats(held).names]
    assert names.count("embed.embedding") == 1
    assert "head.kernel" not in names
    value, grads = fastreg.value_and_gradient(held, l2=0.5)
    assert len(grads) == 2
    assert fjax.gradient(held, l2=0.5).keys() == grads.keys()
    assert value == fastreg.penalty(held, l2=0.5)


def test_norms_and_programs_count_a_shared_variable_once(nnx):
    model = tied_model(nnx)
    state = nnx.state(model, nnx.Param)
    params, rest = nnx.split_state(nnx.state(model), nnx.Param, ...)
    graph = nnx.graphdef(model)
    assert fastreg.global_norm(nnx.merge(graph, params, rest).embed) > 0.0
    want = fjax.penalty(state, l2=1.0)
    assert fjax.penalty(model, l2=1.0) == want
    assert nnx.jit(lambda m: fjax.penalty(m, l2=1.0))(model) == want
    grads = nnx.grad(lambda m: fjax.penalty(m, l2=0.5))(model)
    np.testing.assert_array_equal(grads.embed.embedding[...], model.embed.embedding[...])
    # Gradients of a list count each time they stand there.
    v = model.embed.embedding
    norm = np.float32(fastreg.global_norm([v, v]))
    assert norm == np.float32(np.sqrt(2.0) * fastreg.global_norm(v))
    assert fastreg.penalty([v, v], l2=1.0) == fastreg.penalty(v, l2=1.0)


def test_variables_that_are_no_parameters_are_no_weights(nnx):
    """Caches and statistics count in statistics alone, whatever is selected."""
    model = nnx.MultiHeadAttention(2, 4, decode=True, rngs=nnx.Rngs(0))
    model.init_cache((1, 5, 4))
    model.cached_key[...] = np.ones_like(model.cached_key[...])
    state = nnx.state(model, nnx.Param)
    for select in (None, "all", "*"):
        want = fastreg.penalty(state, l2=1.0, select=select)
        assert fastreg.penalty(model, l2=1.0, select=select) == want
        assert float(fjax.penalty(model, l2=1.0, select=select)) == np.float32(want)
    assert fastreg.stats(model)["cached_key"]["n"] == 20
    out = io.StringIO()
    fastreg.explain(model, file=out)
    assert "no Param" in out.getvalue()

    class Mine(nnx.Variable):  # of a user, who may train it
        pass

    assert fastreg.penalty({"w": Mine(np.ones((2, 2)))}, l2=1.0) == 4.0


def test_what_an_optimizer_keeps_is_no_weight(nnx):
    """States of optax and Flax, in whatever stands around them and whatever is selected."""
    optax = pytest.importorskip("optax", reason="optax is not installed")
    from flax.training.train_state import TrainState

    params = {"dense": {"kernel": np.full((2, 3), 2.0, "f4"), "bias": np.ones(3, "f4")}}
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adamw(0.1))
    state = state.apply_gradients(grads=params)
    kernel = fastreg.penalty(state.params, l2=1.0)
    whole = fastreg.penalty(state.params, l2=1.0, select="all")
    for held in (
        state,
        (state.params, state.opt_state),
        {"params": state.params, "opt_state": jax.tree.leaves(state.opt_state)},
        {"params": state.params, "optimizer": {"kernel": np.ones((2, 2))}},
    ):
        assert fastreg.penalty(held, l2=1.0) == kernel
        assert fastreg.penalty(held, l2=1.0, select="*kernel") == kernel
        assert fastreg.penalty(held, l2=1.0, select="all") == whole
        assert float(fjax.penalty(held, l2=1.0, select="all")) == np.float32(whole)
        assert fastreg.plan(held, l2=1.0).value() == kernel
    assert jax.jit(lambda s: fjax.penalty(s, l2=1.0, select="all"))(state) == np.float32(whole)
    new = fjax.decay(state, 0.5)
    assert (new.params["dense"]["kernel"] == 0.5 * state.params["dense"]["kernel"]).all()
    same = jax.tree.map(lambda a, b: bool((a == b).all()), new.opt_state, state.opt_state)
    assert all(jax.tree.leaves(same))
    assert len(fastreg.stats(state).names) == 2 + 5
    with pytest.raises(ValueError, match=r"of an optimizer.*pass the model's own part"):
        fastreg.penalty(state.opt_state, l2=1.0)
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    both = nnx.ModelAndOptimizer(model, optax.adam(0.1), wrt=nnx.Param)
    both.update(nnx.grad(lambda m: m(np.ones((1, 2))).sum())(model))
    for select in (None, "all", "*kernel"):
        want = fastreg.penalty(model, l2=1.0, select=select)
        assert fastreg.penalty(both, l2=1.0, select=select) == want
        assert float(fjax.penalty(both, l2=1.0, select=select)) == np.float32(want)


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
