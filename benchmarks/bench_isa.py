# SPDX-License-Identifier: BSD-3-Clause
"""What does each ISA level reach, beside the limit that the same instructions have."""

from __future__ import annotations

from benchmarks import machine, sizes
from benchmarks.calls import L1, L2, Case, Operands, make_operands
from benchmarks.race import OUT, plan
from fastreg import _kernels


def _cases(limit: str, arrays: int):
    def cases(quick: bool) -> list[Case]:
        places = [machine.inside("L2") // arrays]
        if not quick:
            places += [machine.inside("L3") // arrays, sizes.dram(True)]
        return [
            Case(
                dtype,
                nbytes,
                1,
                arrays=arrays,
                limit=limit,
                label=f"{level} {machine.level_of(nbytes * arrays)} {machine.size(nbytes)}",
                data=data,
                rivals=(),
            )
            for dtype in ("f16", "bf16", "f32", "f64")
            for level in _kernels.levels()
            for nbytes in places
            for data in (("normal",) if quick or arrays == 2 else ("normal", "l1", "l1l2"))
        ]

    return cases


def _make(case: Case) -> Operands:
    operands = make_operands(case)
    operands.options["isa"] = case.label.split()[0]
    return operands


_PENALTIES = {"normal": (0.0, 1.0), "l1": (1.0, 0.0), "l1l2": (L1, L2)}


@plan(_cases("load", 1), "sum_squares", make=_make)
def test_measure(race, case):
    isa = case.label.split()[0]
    l1, l2 = _PENALTIES[case.data]
    race(_kernels._measure, "value", l1, l2, case.dtype, isa=isa, bytes_per_thread=0)


@plan(_cases("copy", 2), "gradient_out", make=_make)
def test_gradient(race, case):
    isa = case.label.split()[0]
    race(_kernels._gradient, 0.0, L2, 1.0, OUT, False, isa=isa)


@plan(_cases("triad", 2), "gradient_accumulate", make=_make)
def test_gradient_accumulate(race, case):
    isa = case.label.split()[0]
    race(_kernels._gradient, 0.0, L2, 1.0, OUT, True, isa=isa)
