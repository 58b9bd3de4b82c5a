# SPDX-License-Identifier: BSD-3-Clause
"""Group lasso: exact norms of groups, values, gradients and prox by the documented formula."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
from oracle import DTYPES, FORMATS

import fastreg
from fastreg.errors import ArgumentError


def bits(x) -> list[int]:
    return oracle.bits_of(x).tolist()


def slow_groups(x, groups) -> list[np.ndarray]:
    """Boolean masks of the groups."""
    x = np.asarray(x)
    out = []
    if isinstance(groups, list):
        for g in groups:
            mask = np.zeros(x.size, bool)
            mask[np.asarray(g, int)] = True
            out.append(mask.reshape(x.shape))
        return out
    axes = [a % x.ndim for a in (groups if isinstance(groups, tuple) else (groups,))]
    for position in np.ndindex(*(x.shape[a] for a in axes)):
        mask = np.zeros(x.shape, bool)
        index = [slice(None)] * x.ndim
        for a, i in zip(axes, position, strict=True):
            index[a] = i
        mask[tuple(index)] = True
        out.append(mask)
    return out


def exact_norm(v) -> float:
    return oracle.as_float(oracle.norm_bits(oracle.sums(v), "f64"), "f64")


def coefficient(weight, n, scaling) -> float:
    return weight * math.sqrt(n) if scaling == "sqrt" else weight


GROUPS = [0, 1, -1, (0, 2), (2, 0), (0, 1, 2), [[0, 5, 7], [1], [], np.array([9, 3])]]


@pytest.mark.parametrize("scaling", ["sqrt", "none"])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("name", FORMATS)
def test_group_lasso(name, groups, scaling):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 4, 2)).astype(DTYPES[name])
    x[1] = 0
    x = x.transpose(0, 1, 2)[::-1]
    masks = slow_groups(x, groups)
    how = {"weight": 0.37, "groups": groups, "scaling": scaling}
    cs = [coefficient(0.37, int(m.sum()), scaling) for m in masks]
    norms = [exact_norm(x[m]) for m in masks]
    value = fastreg.group_lasso_value([x], **how)
    assert value == math.fsum(c * n for c, n in zip(cs, norms, strict=True))

    want = np.zeros(x.shape, x.dtype)
    for mask, c, norm in zip(masks, cs, norms, strict=True):
        if norm:
            exact = (c * (v / norm) for v in oracle.to_floats(x[mask]))
            want[mask] = oracle.as_array([oracle.round_float(v, name) for v in exact], name)
    got = fastreg.group_lasso_gradient({"w": x}, **how)["w"]
    assert got.dtype == x.dtype
    assert bits(got) == bits(want)

    want = np.array(x)
    for mask, c, norm in zip(masks, cs, norms, strict=True):
        t = 0.9 * c
        if norm <= t:
            want[mask] = 0
        else:
            exact = ((norm - t) / norm * v for v in oracle.to_floats(x[mask]))
            want[mask] = oracle.as_array([oracle.round_float(v, name) for v in exact], name)
    work = np.array(x)
    fastreg.group_lasso_prox_([work], step=0.9, **how)
    assert bits(work) == bits(want)


def test_group_lasso_over_a_model():
    rng = np.random.default_rng(4)
    params = {"a": rng.standard_normal((3, 4)), "b": np.ones(4), "c": rng.standard_normal((4, 3))}
    one = [
        fastreg.group_lasso_value(params[k], weight=w, groups=g, scaling="none")
        for k, w, g in (("a", 1.0, 0), ("c", 2.0, 1))
    ]
    both = fastreg.group_lasso_value(
        params, weight={"a": 1.0, "c": 2.0}, groups={"a": 0, "*": 1}, scaling="none"
    )
    assert both == pytest.approx(sum(one), rel=1e-15)
    assert list(fastreg.group_lasso_gradient(params, weight=1.0, groups=0)) == ["a", "c"]
    flat = fastreg.group_lasso_value(
        [params["a"]], weight=1.0, groups=[np.arange(4 * k, 4 * k + 4) for k in range(3)]
    )
    assert flat == fastreg.group_lasso_value([params["a"]], weight=1.0, groups=0)


def test_group_lasso_specials():
    x = np.array([[np.nan, 1.0], [np.inf, 1.0], [0.0, -0.0], [3e-320, 4e-320]])
    value = [fastreg.group_lasso_value([x[k:]], weight=1.0, groups=0) for k in range(4)]
    assert math.isnan(value[0])
    assert value[1] == math.inf
    g = fastreg.group_lasso_gradient({"x": x}, weight=1.0, groups=0, scaling="none")["x"]
    assert np.isnan(g[0]).all()
    assert g[2].tolist() == [0.0, 0.0]
    assert np.hypot(*g[3]) == pytest.approx(1.0, abs=1e-3)
    assert fastreg.group_lasso_value([x], weight=0.0, groups=0) == 0.0
    fastreg.group_lasso_prox_([x], weight=1.0, groups=0, step=0.5, scaling="none")
    assert np.isnan(x[0]).all()
    assert x[1].tolist() == [math.inf, 1.0]
    assert not x[2:].any()
    big = np.full((1, 4), 1.7e308)
    assert fastreg.group_lasso_value([big, big.copy()], weight=1.0, groups=0) == math.inf
    large = [np.full((1, 1), 1.7e308) for _ in range(2)]
    assert fastreg.group_lasso_value(large, weight=1.0, groups=0) == math.inf


@pytest.mark.parametrize(
    "groups",
    [
        2,
        -3,
        (0, 0),
        (),
        (0, 5),
        "rows",
        None,
        1.5,
        [[0, 0]],
        [[0], [0]],
        [[9]],
        [[-1]],
        [[0.5]],
        {"other": 0},
        True,
    ],
)
def test_bad_groups(groups):
    x = np.ones((2, 2))
    for call in (fastreg.group_lasso_value, fastreg.group_lasso_gradient):
        with pytest.raises(ArgumentError):
            call([x], weight=1.0, groups=groups)
    with pytest.raises(ArgumentError):
        fastreg.group_lasso_prox_([x], weight=1.0, groups=groups, step=1.0)
    with pytest.raises(ArgumentError, match="scaling"):
        fastreg.group_lasso_value([x], weight=1.0, groups=0, scaling="rows")
    assert (x == 1).all()
