# SPDX-License-Identifier: BSD-3-Clause
"""From which size do threads pay, and how far do they carry: one to all, forced and as decided."""

from __future__ import annotations

import fastreg
from benchmarks.engine import forced, machine, sizes
from benchmarks.engine.calls import Call, Case
from benchmarks.engine.race import FORCED, plan
from benchmarks.engine.rivals import rival


def _counts(quick: bool) -> list[int]:
    most = machine.cores()
    if quick:
        return list(sizes.team())
    return sorted({1, most} | {1 << k for k in range(1, most.bit_length()) if 1 << k < most})


def _cases(quick: bool) -> list[Case]:
    span = [1 << k for k in range(16, 25, 2)] if not quick else [1 << 18, 1 << 20]
    return [
        Case(dtype, nbytes, threads, limit="load", rivals=_RIVALS)
        for dtype in (("f32",) if quick else ("f32", "f64"))
        for nbytes in [*span, sizes.dram(True)]
        for threads in _counts(quick)
    ]


_RIVALS = ("scipy blas dot", "numba parallel", FORCED)


@rival("sum_squares", FORCED, min_n=1 << 13)
def _(o):
    """fastreg with the size from which threads are used set to nothing."""
    kind = {4: "f32", 8: "f64"}[o.x.dtype.itemsize]
    return Call(_forced, [o.x], kind, o.threads)


def _forced(arrays, kind, threads):
    return forced.sum_squares(arrays, kind, threads=threads)[0]


@plan(_cases)
def test_sum_squares(race):
    race(fastreg.sum_squares)
