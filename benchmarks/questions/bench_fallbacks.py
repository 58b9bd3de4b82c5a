# SPDX-License-Identifier: BSD-3-Clause
"""What do the fallbacks cost: data built so that the fast tiers cannot decide."""

from __future__ import annotations

import numpy as np

import fastreg
from benchmarks.engine import forced, machine, oracle
from benchmarks.engine.calls import Case, Operands, aligned, dtype_of, fill
from benchmarks.engine.race import plan

_DATA = (
    "normal",
    "exact tie",
    "near tie",
    "labels",
    "quantised",
    "constant",
    "one-hot",
    "pruned",
    "huge and tiny",
    "one huge",
    "subnormal",
    "overflowing",
)


def _cases(quick: bool) -> list[Case]:
    places = (machine.inside("L2"),) if quick else (machine.inside("L2"), 64 << 20)
    return [
        Case(
            dtype, nbytes, 1, data=data, limit="load", rivals=("numpy.vdot",), label=_label(nbytes)
        )
        for nbytes in places
        for dtype in ("f32", "f64")
        for data in _DATA
    ]


def _label(nbytes: int) -> str:
    # "normal" is a name here like the others, so that each row says what it holds.
    return f"{machine.level_of(nbytes)} {machine.size(nbytes)}"


def make(case: Case) -> Operands:
    """Return data of a kind, and the tier that decides on it."""
    x = fill(aligned(case.n, dtype_of(case.dtype)))
    rng = np.random.default_rng(2)
    bits = 24 if case.dtype == "f32" else 53
    if case.data in ("exact tie", "near tie"):
        x[:] = 0
        # An odd number of one bit more than the type holds is the middle of two neighbours.
        middle = (1 << 24) * 2 - 1
        parts = np.array(oracle.four_squares(middle), x.dtype)
        if bits == 53:  # (2^26 + 1)^2 + 2^53 needs 54 bits and is odd
            parts = np.array([2.0**26 + 1, 2.0**26, 2.0**26], x.dtype)
        x[:: max(1, x.size // parts.size)][: parts.size] = parts
        if case.data == "near tie":
            x[1 :: max(2, x.size // 512)] = 2.0**-60 if bits == 24 else 2.0**-100
    elif case.data == "huge and tiny":
        reach = 18 if bits == 24 else 150
        x *= (10.0 ** rng.integers(-reach, reach, x.size)).astype(x.dtype)
    elif case.data == "subnormal":
        x *= x.dtype.type(2.0**-140 if bits == 24 else 2.0**-1060)
    elif case.data == "overflowing":
        x *= x.dtype.type(2.0**127 if bits == 24 else 2.0**1020)
    elif case.data == "one huge":
        x[x.size // 2] = x.dtype.type(2.0**100 if bits == 24 else 2.0**520)
    elif case.data == "pruned":
        x[rng.random(x.size) < 0.9] = 0
    elif case.data == "constant":
        x[:] = x.dtype.type(0.1)
    elif case.data in ("labels", "quantised", "one-hot"):
        whole = {"labels": 10, "quantised": 256, "one-hot": 2}[case.data]
        x[:] = rng.integers(0, whole, x.size)
        if case.data == "quantised":
            x *= x.dtype.type(2.0**-7)
        # An odd sum of one bit more than the type holds is a tie, where it has as many.
        x[0] = 0
        total = int(np.sum(np.square(x.astype(np.float64) * (2.0**7 if whole == 256 else 1))))
        x[0] = x.dtype.type((1.0 if total % 2 == 0 else 0.0) * (2.0**-7 if whole == 256 else 1))
    _, tier = forced.sum_squares([x], case.dtype, share=0)
    return Operands(x, None, 1, {"tier": tier})


@plan(_cases, "sum_squares", make=make)
def test_sum_squares(race):
    race(fastreg.sum_squares)
