# SPDX-License-Identifier: BSD-3-Clause
"""Sums that go on from call to call: the bits of one call over all, however they are cut."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fastreg._core.arrays import host_array
from fastreg._core.pieces import InPieces, Sums
from fastreg._kernels import Arrays

rng = np.random.default_rng(17)
# By name: arrays whose sums need all tiers, and all that can be met in them.
CASES = {
    "normal": [rng.standard_normal(n).astype(t) for n, t in ((50_000, "f4"), (77, "f8"))],
    "half": [rng.standard_normal(30_000).astype("f2"), np.array([0x3F80, 1], "u2")],
    "tie": [np.array([2.0**53]), np.array([0.5]), np.array([0.5])],
    "above a tie": [np.array([2.0**53, 1.0]), np.array([2.0**-60])],
    "norm tie": [np.array([2.0**53]), np.array([2.0**27]), np.array([1.0])],
    "ends": [np.array([1e308, 1e308, 5e-324]), np.full(100, 1e-200)],
    "integers": [np.array([-(2**63), 2**63 - 1]), np.array([2**64 - 1], "u8"), np.ones(5, "i1")],
    "bool": [np.array([True, False, True])],
    "strided": [rng.standard_normal((60, 70)).T[::3], rng.standard_normal(50).astype("f4")[::-2]],
    "nan": [np.ones(3), np.array([np.nan, np.inf])],
    "inf": [np.ones(3), np.array([-np.inf, 0.0], "f4")],
    "empty": [np.empty(0), np.empty((3, 0), "f4")],
    "nothing": [],
}


def pieces_of(arrays, size: int):
    """Cut flat arrays into pieces."""
    for x in arrays:
        for at in range(0, x.size, size):
            yield host_array(x.reshape(-1)[at : at + size])


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("name", CASES)
def test_sums_have_the_bits_of_one_call(name, size):
    arrays = CASES[name]
    if size == 1 and sum(x.size for x in arrays) > 1000:
        arrays = [x.reshape(-1)[:150] for x in arrays]
    weights = [(1.0, 0.0), (0.1, 0.3), (0.0, 5e-324), (1e308, 0.0)]
    sums = Sums.of(pieces_of(arrays, size))
    assert sums.statistics().tobytes() == Arrays(arrays).statistics()[1].tobytes()
    for l1, l2 in weights:
        expected = Arrays(arrays, l1, l2).value(number=True)
        assert np.float64(sums.penalty(l1, l2)).tobytes() == np.float64(expected).tobytes()
    assert sums.penalty(0.0, 0.0) == 0.0


@pytest.mark.parametrize("name", CASES)
def test_merging_is_adding(name):
    arrays = CASES[name]
    total = Sums()
    for x in arrays:
        total.merge(Sums.of([host_array(x)]))
    row = total.statistics()
    assert row.tobytes() == Arrays(arrays).statistics()[1].tobytes()
    rows, all_of_them = InPieces(list(map(host_array, arrays))).statistics()
    assert rows.tobytes() == Arrays(arrays).statistics()[0].tobytes()
    assert all_of_them.tobytes() == row.tobytes()


def test_near_ties_of_one_reading():
    """Sums that no bound decides are right at once: nothing is read twice."""
    for _ in range(300):
        high = float(rng.integers(2**52, 2**53))
        parts = [high, 0.25, 0.25, float(rng.choice([0, 2.0**-90, 2.0**-70, 2.0**-40]))]
        row = Sums.of(host_array(np.array([x])) for x in parts).statistics()
        assert row["sum_abs"] == float(sum(map(Fraction, parts)))


def test_bad_weights_are_refused():
    sums = Sums.of([host_array(np.ones(3))])
    with pytest.raises(ValueError, match="l1"):
        sums.penalty(-1.0, 0.0)
    assert sums.penalty(2.0, 0.5) == 7.5
