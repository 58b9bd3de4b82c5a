# SPDX-License-Identifier: BSD-3-Clause
"""What does an exact state cost: both sums as integers, beside one sum that only rounds right."""

from __future__ import annotations

import fastreg
from benchmarks.engine import machine, sizes
from benchmarks.engine.calls import Case
from benchmarks.engine.race import plan

# Enough to be read from memory, and what the frameworks' users write for one sum.
_LARGE = 256 << 20
_RIVALS = ("numpy.vdot", "numba parallel", "torch square().sum()")


def _cases(quick: bool) -> list[Case]:
    places = [(machine.inside("L2"), 1)]
    if not quick:
        places += [(_LARGE, threads) for threads in sizes.team()]
    return [
        Case(dtype, nbytes, threads, limit="load", rivals=_RIVALS)
        for dtype in ("f32", "f64", "bf16")
        for nbytes, threads in places
    ]


def _state(x):
    return fastreg.state(x).sum_squares  # a number, for the check of what is timed


@plan(_cases, "sum_squares")
def test_state(race):
    race(_state)


@plan(_cases, "sum_squares")
def test_sum_squares(race):
    race(fastreg.sum_squares)
