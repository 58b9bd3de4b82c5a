# SPDX-License-Identifier: BSD-3-Clause
"""What does one small call cost: 1, 64 and 1024 elements."""

from __future__ import annotations

import fastreg
from benchmarks.engine.calls import ITEMSIZE, L1, L2, Call, Case
from benchmarks.engine.race import EMPTY, plan
from benchmarks.engine.rivals import rival


def _cases(quick: bool) -> list[Case]:
    return [
        Case(dtype, n * ITEMSIZE[dtype], 1, label=f"n = {n}")
        for dtype in ("f32", "f64")
        for n in ((64,) if quick else (1, 64, 1024))
    ]


# The harness calls fn(*args, **kwargs) in a loop; this is what it costs with nothing inside.
@rival("sum_squares", EMPTY, max_n=1024)
def _(o):
    return Call(callable, o.x)


@plan(_cases)
def test_sum_squares(race):
    race(fastreg.sum_squares)


@plan(_cases)
def test_norm(race):
    race(fastreg.norm)


@plan(_cases)
def test_value(race):
    race(fastreg.value, l1=L1, l2=L2)
