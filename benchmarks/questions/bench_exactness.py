# SPDX-License-Identifier: BSD-3-Clause
"""How right is each contender: misroundings, error in units in the last place, distinct answers."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

import fastreg
from benchmarks.engine import forced, machine, oracle, race, rivals
from benchmarks.engine.calls import Call, Case, Operands, aligned, fill
from benchmarks.engine.race import plan
from fastreg import _kernels

# A vector at any of 64 bytes, in any order, on any number of threads is the same vector.
_OFFSETS = range(0, 64, 4)
# Python's sum of a million floats, dozens of times, is not for the quick.
_N = {False: 1 << 20, True: 1 << 16}


def _cases(quick: bool) -> list[Case]:
    count = 50 if quick else 400
    return [
        Case("f32", 4000, 1, data="random", label=f"{count} vectors of 1000"),
        Case("f32", 4000, 1, data="near ties", label=f"{count} vectors of 1000"),
        Case("f64", 8000, 1, data="random", label=f"{count} vectors of 1000"),
        Case("f32", 4 * _N[quick], 1, data="one vector", label=f"n = {_N[quick]:,}"),
    ]


@functools.cache
def _vectors(dtype: str, data: str, count: int) -> list[tuple[np.ndarray, Any]]:
    """Return vectors with their exact sums of squares."""
    if data == "near ties":
        vectors = oracle.near_ties(count, 1000)
    else:
        kind = np.dtype({"f32": "f4", "f64": "f8"}[dtype])
        rng = np.random.default_rng(3)
        vectors = [rng.standard_normal(1000).astype(kind) for _ in range(count)]
    return [(x, oracle.sum_squares(x)) for x in vectors]


def _make(case: Case) -> Operands:
    if case.data == "one vector":
        return Operands(fill(aligned(case.n, np.dtype("f4"))), None, 1)
    return Operands(_vectors(case.dtype, case.data, _count(case))[0][0], None, 1)


def _count(case: Case) -> int:
    return int(case.label.split()[0])


def _result_type(call: Call, dtype: str) -> str:
    """Return the type that a contender answers in: it is judged by that one's rounding."""
    result = call()
    name = str(getattr(result, "dtype", "float64"))
    return dtype if "32" in name and dtype == "f32" else "f64"


def roundings(prepare: Any, case: Case) -> dict[str, Any]:
    """Count misroundings over the vectors of a case, and the largest error."""
    wrong, largest, total = 0, 0.0, 0.0
    vectors = _vectors(case.dtype, case.data, _count(case))
    answers_in = ""
    for x, exact in vectors:
        call = prepare(Operands(x))
        answers_in = answers_in or _result_type(call, case.dtype)
        # Where a rival answers a float32 question in float64, a user rounds to float32.
        received = (
            float(np.float32(race.number(call()))) if case.dtype == "f32" else race.number(call())
        )
        wrong += received != oracle.rounded(exact, case.dtype)
        error = oracle.ulps(received, exact, case.dtype)
        largest, total = max(largest, error), total + error
    return {
        "vectors": len(vectors),
        "misrounded": wrong,
        "max_ulps": largest if math.isfinite(largest) else None,
        "mean_ulps": total / len(vectors) if math.isfinite(total) else None,
        "answers_in": answers_in,
    }


def patterns(prepare: Any, x: np.ndarray, ours: bool) -> dict[str, Any]:
    """Count the distinct answers over threads, byte offsets, orders and, for ours, ISA levels."""
    answers: set[str] = set()
    runs = 0
    rng = np.random.default_rng(7)
    orders = [x, x[::-1].copy(), rng.permutation(x)]
    for threads in sorted({1, 2, 3, machine.cores()}):
        with rivals.threads(threads):
            for order in orders:
                for offset in _OFFSETS if order is x else (0,):
                    moved = aligned(x.size, x.dtype, offset)
                    moved[:] = order
                    answers.add(race.number(prepare(Operands(moved, None, threads))()).hex())
                    runs += 1
    if ours:
        for isa in _kernels.levels():
            for threads in (1, 2, 3, 7):
                answer, _ = forced.sum_squares([x], "f32", isa=isa, threads=threads)
                answers.add(answer.hex())
                runs += 1
    return {"patterns": len(answers), "ways": runs}


# Importing a framework is not for the quick.
_LIGHT = tuple(name for name, r in rivals.REGISTRY["sum_squares"].items() if not r.framework)


@plan(_cases, make=_make, quick_rivals=_LIGHT, frameworks=("torch", "jax"))
def test_sum_squares(race, benchmark, case, contender, lap):
    race(fastreg.sum_squares)
    if lap:
        return
    ours = contender.kind == "fastreg"
    prepare = (
        (lambda o: Call(fastreg.sum_squares, o.x))
        if ours
        else rivals.REGISTRY["sum_squares"][contender.name].prepare
    )
    if case.data == "one vector":
        facts = patterns(prepare, race.operands.x, ours)
    else:
        facts = roundings(prepare, case)
    benchmark.extra_info.update(facts)
