# SPDX-License-Identifier: BSD-3-Clause
"""Plan.flat: all arrays as one vector, whose penalty is that of the parts."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import fastreg
from fastreg.errors import ArgumentError, DTypeError, FastregError, LayoutError, StaleError

RNG = np.random.default_rng(14)


def params():
    return {
        "a": {"kernel": RNG.standard_normal((5, 7)).astype("f4"), "bias": RNG.standard_normal(7)},
        "b": {"kernel": np.asfortranarray(RNG.standard_normal((7, 3))), "steps": np.arange(3)},
        "half": RNG.standard_normal((4, 2)).astype("f2"),
    }


def kernels(vector, flat):
    return [vector[flat.slices[name]] for name in ("a.kernel", "b.kernel", "half")]


def test_the_vector_is_the_float_arrays_in_order():
    p = params()
    flat = fastreg.plan(p, l2=1.0).flat()
    parts = [p["a"]["kernel"], p["a"]["bias"], p["b"]["kernel"], p["half"]]
    assert list(flat.slices) == ["a.kernel", "a.bias", "b.kernel", "half"]
    assert flat.x0.dtype == np.float64
    assert (flat.x0 == np.concatenate([x.ravel() for x in parts])).all()
    assert len(flat) == flat.x0.size == sum(x.size for x in parts)


@pytest.mark.parametrize("by_name", [False, True])
def test_value_and_gradient_are_those_of_the_float64_parts(by_name):
    p = params()
    l1 = {"a.*": 0.1, "half": 0.3} if by_name else 0.1
    flat = fastreg.plan(p, l1=l1, l2=1e-3).flat()
    x = RNG.standard_normal(len(flat)) * 10.0 ** RNG.integers(-9, 9, len(flat))
    value, gradient = flat(x)
    ones = [0.1, 0.0, 0.3] if by_name else [0.1] * 3
    exact = sum(
        Fraction(w) * abs(Fraction(v)) + Fraction(1e-3) * Fraction(v) ** 2
        for w, part in zip(ones, kernels(x, flat), strict=True)
        for v in part.tolist()
    )
    assert type(value) is float
    assert value == float(exact)
    for w, part, g in zip(ones, kernels(x, flat), kernels(gradient, flat), strict=True):
        assert (g == fastreg.gradient(part, l1=w, l2=1e-3)).all()
    assert not gradient[flat.slices["a.bias"]].any()


def test_nothing_is_kept_and_nothing_is_shared():
    flat = fastreg.plan(params(), l2=1.0).flat()
    x = flat.x0
    before = x.copy()
    value, gradient = flat.value_and_gradient(x)
    again = flat(x)[1]
    gradient[...] = 7.0
    assert (x == before).all()
    assert not np.shares_memory(gradient, again)
    x[...] = 0.0
    assert flat(before)[0] == value
    assert (flat(before)[1] == again).all()
    assert flat(before.tolist())[0] == flat(np.repeat(before, 2)[::2])[0] == value
    assert flat(before.astype("f4"))[0] == flat(before.astype("f4").astype("f8"))[0]


def test_views_and_vectors_are_inverse():
    flat = fastreg.plan(params(), l2=1.0).flat()
    x = flat.x0
    views = flat.views(x)
    assert {k: v.shape for k, v in views.items()} == {
        "a.kernel": (5, 7), "a.bias": (7,), "b.kernel": (7, 3), "half": (4, 2),
    }  # fmt: skip
    views["b.kernel"][2, 1] = 99.0
    assert x[flat.slices["b.kernel"]][2 * 3 + 1] == 99.0
    assert (flat.vector(views) == x).all()
    assert (flat.vector(list(views.values())) == x).all()
    assert (flat.vector({"a": {"bias": np.ones(7)}, "half": None}) != 0).sum() == 7
    with pytest.raises(LayoutError, match=r"b\.kern"):
        flat.vector({"b.kern": views["b.kernel"]})
    with pytest.raises(LayoutError, match="shape"):
        flat.vector({"b.kernel": views["b.kernel"].T})


def test_put_writes_every_array_rounded_once():
    p = params()
    flat = fastreg.plan(p, l2=1.0).flat()
    x = RNG.standard_normal(len(flat))
    old = p["b"]["steps"].copy()
    with np.errstate(all="raise"):
        flat.put_(x)
    views = flat.views(x)
    assert (p["a"]["kernel"] == views["a.kernel"].astype("f4")).all()
    assert (p["a"]["bias"] == views["a.bias"]).all()
    assert (p["b"]["kernel"] == views["b.kernel"]).all()
    assert (p["half"] == views["half"].astype("f2")).all()
    assert (p["b"]["steps"] == old).all()
    p["a"]["bias"].flags.writeable = False
    before = p["a"]["kernel"].copy()
    with pytest.raises(LayoutError, match=r"a\.bias"):
        flat.put_(x + 1)
    assert (p["a"]["kernel"] == before).all()


def test_what_is_refused():
    p = params()
    plan = fastreg.plan(p, l2=1.0)
    flat = plan.flat()
    for bad in (np.zeros(3), np.zeros((1, len(flat))), 1.0):
        for call in (flat, flat.views, flat.put_):
            with pytest.raises(LayoutError, match="vector of"):
                call(bad)
    with pytest.raises(ArgumentError, match="real numbers"):
        flat(flat.x0 * 1j)
    with pytest.raises(ArgumentError):
        fastreg.plan(p).flat()
    with pytest.raises(DTypeError, match="bfloat16"):
        fastreg.plan({"w": np.ones((2, 2), ml_dtypes.bfloat16)}, l2=1.0).flat()
    with pytest.raises(LayoutError, match="distinct"):
        fastreg.plan({"a.b": np.ones((2, 2)), "a": {"b": np.ones((2, 2))}}, l2=1.0).flat()
    p["half"] = p["half"].copy()
    for call in (lambda: flat.x0, lambda: flat.put_(np.zeros(len(flat))), plan.flat):
        with pytest.raises(StaleError):
            call()


def test_tied_arrays_are_one():
    w = np.full((2, 3), 2.0)
    flat = fastreg.plan({"in": w, "out": w, "bias": np.ones(2)}, l2=1.0).flat()
    assert list(flat.slices) == ["in", "bias"]
    assert flat(flat.x0)[0] == 24.0
    assert flat.vector({"in": w, "out": w}).sum() == 12.0


def test_nan_and_nothing():
    flat = fastreg.plan([np.ones((2, 2))], l2=1.0).flat()
    value, gradient = flat([np.nan, 1, 2, 3])
    assert math.isnan(value)
    assert np.isnan(gradient[0])
    empty = fastreg.plan([np.ones((0, 2))], l2=1.0).flat()
    assert empty([])[0] == 0.0
    assert empty.x0.size == 0


def test_of_torch():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    flat = fastreg.plan(module, l2=0.5).flat()
    assert list(flat.slices) == ["weight", "bias"]
    loss = (module.weight**2).sum()
    flat.put_(np.arange(8.0))
    assert module.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert module.bias.tolist() == [6, 7]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_of_immutable_arrays():
    jax = pytest.importorskip("jax")
    flat = fastreg.plan({"w": jax.numpy.ones((2, 2))}, l2=1.0).flat()
    assert flat(flat.x0)[0] == 4.0
    with pytest.raises(FastregError, match="immutable"):
        flat.put_(flat.x0)


def test_with_scipy():
    """Ridge regression: the minimum is known in closed form."""
    optimize = pytest.importorskip("scipy.optimize")
    a, b = RNG.standard_normal((40, 6)), RNG.standard_normal((40, 2))
    p = {"kernel": np.zeros((6, 2)), "bias": np.zeros(2)}
    flat = fastreg.plan(p, l2=0.5).flat()

    def objective(vector):
        v = flat.views(vector)
        rest = a @ v["kernel"] + v["bias"] - b
        value, gradient = flat(vector)
        g = flat.vector({"kernel": 2 * a.T @ rest, "bias": 2 * rest.sum(axis=0)})
        return (rest**2).sum() + value, g + gradient

    found = optimize.minimize(objective, flat.x0, jac=True, method="L-BFGS-B", tol=1e-14)
    flat.put_(found.x)
    wide = np.hstack([a, np.ones((40, 1))])
    damping = np.diag([0.5] * 6 + [0.0])
    truth = np.linalg.solve(wide.T @ wide + damping, wide.T @ b)
    assert np.allclose(np.vstack([p["kernel"], p["bias"]]), truth, atol=1e-5)
    assert optimize.minimize(flat, flat.x0, jac=True).fun < 1e-12


def test_a_flat_plan_says_what_it_holds():
    flat = fastreg.plan(params(), l2=1.0).flat()
    assert repr(flat) == "<fastreg.Flat of 4 arrays, 71 elements>"
