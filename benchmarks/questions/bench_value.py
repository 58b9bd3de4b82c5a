# SPDX-License-Identifier: BSD-3-Clause
"""How fast is the value: by size, element type, layout, warm and cold, one thread and all."""

from __future__ import annotations

import numpy as np

import fastreg
from benchmarks.engine import machine, sizes
from benchmarks.engine.calls import ITEMSIZE, L1, L2, Case, Operands, aligned, dtype_of, fill
from benchmarks.engine.race import plan

# A call over less is over before a second thread would have woken.
_SHARED_FROM = 1 << 18
_FEW = ("numpy.vdot", "scipy blas dot", "numkong.dot", "bottleneck.ss", "numba parallel")


# Float64 repeats the picture: fewer points draw it.
_STEPS = {"f32": 2, "f64": 4}


def _sizes(dtype: str, quick: bool) -> list[int]:
    return sorted(set(sizes.levels(quick) + sizes.curve(quick, _STEPS[dtype])))


def _by_size(quick: bool) -> list[Case]:
    cases = [
        Case(dtype, nbytes, threads, limit="load")
        for dtype in ("f32", "f64")
        for nbytes in _sizes(dtype, quick)
        for threads in sizes.team()
        if threads == 1 or nbytes >= _SHARED_FROM
    ]
    gigabyte = sizes.dram(quick) // (1 if quick else 2)
    cases += [
        Case(dtype, nbytes, threads, limit="load", rivals=_HALF)
        for dtype in ("f16", "bf16")
        for nbytes in (machine.inside("L2"), gigabyte)
        for threads in sizes.team()
        if threads == 1 or nbytes >= _SHARED_FROM
    ]
    return cases


# NumPy's own loops over two-byte floats take seconds per gigabyte: shown in the table of layouts.
_HALF = ("numkong.dot", "numkong.moments", "torch square().sum()")


@plan(_by_size, quick_rivals=_FEW)
def test_sum_squares(race):
    race(fastreg.sum_squares)


def _layouts(quick: bool) -> list[Case]:
    layouts = ("strided", "column") if quick else ("misaligned", "strided", "transposed", "column")
    dtypes = ("f32",) if quick else ("f16", "bf16", "f32", "f64")
    small, large = machine.inside("L2"), 1 << 25
    return [
        Case(dtype, nbytes, 1, layout=layout, rivals=_LAYOUT if quick else None)
        for dtype in dtypes
        for layout in layouts
        for nbytes in ((small,) if quick or layout == "misaligned" else (small, large))
    ]


_LAYOUT = ("numpy.vdot", "numpy sum(x*x)", "numpy.einsum", "bottleneck.ss", "numkong.moments")


@plan(_layouts, "sum_squares")
def test_sum_squares_of_layouts(race):
    race(fastreg.sum_squares)


def _cold(quick: bool) -> list[Case]:
    names = ["L1", "L2"]
    return [
        Case(dtype, machine.inside(name), 1, cold=True, rivals=_FEW[:4])
        for dtype in (("f32",) if quick else ("f32", "f64"))
        for name in (names[1:] if quick else names)
    ]


def _make_cold(case: Case) -> Operands:
    """Return arrays of the case's size, together twice the last-level cache (at most 1 GB)."""
    whole = min(max(2 * machine.last_level(), 8 * case.nbytes), sizes.GB)
    pool = fill(aligned(whole // ITEMSIZE[case.dtype], dtype_of(case.dtype)))
    parts = [pool[i : i + case.n] for i in range(0, pool.size - case.n + 1, case.n)]
    return Operands(parts[0], None, case.threads, {"pool": parts})


@plan(_cold, "sum_squares", make=_make_cold)
def test_sum_squares_cold(race):
    race(fastreg.sum_squares)


def _others(quick: bool) -> list[Case]:
    places = (machine.inside("L2"), sizes.dram(True))
    return [
        Case(dtype, nbytes, threads, limit="load")
        for dtype in (("f32",) if quick else ("f32", "f64"))
        for nbytes in (places[:1] if quick else places)
        for threads in (sizes.team()[:1] if quick else sizes.team())
    ]


@plan(_others)
def test_sum_abs(race):
    race(fastreg.sum_abs)


@plan(_others)
def test_norm(race):
    race(fastreg.norm)


@plan(_others)
def test_value(race):
    race(fastreg.value, l1=L1, l2=L2)


def _float64_results(quick: bool) -> list[Case]:
    return [] if quick else [Case("f32", nbytes, 1, limit="load") for nbytes in sizes.levels(False)]


@plan(_float64_results, "sum_squares")
def test_sum_squares_to_float64(race):
    race(fastreg.sum_squares, dtype=np.float64)
