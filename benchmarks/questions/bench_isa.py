# SPDX-License-Identifier: BSD-3-Clause
"""What does an ISA level reach, beside the limit and the BLAS that have the same instructions.

The command line runs this file once per level, named by FASTREG_ISA, each in its own process:
OpenBLAS, too, chooses its kernels when it is loaded.
"""

from __future__ import annotations

import fastreg
from benchmarks.engine import machine, sizes
from benchmarks.engine.calls import L1, L2, Case
from benchmarks.engine.race import OUT, plan

_ALL, _WIDE = ("f16", "bf16", "f32", "f64"), ("f32", "f64")


def _cases(
    limit: str,
    dtypes: tuple[str, ...],
    quick_dtypes: tuple[str, ...] = (),
    rivals: tuple[str, ...] = (),
):
    arrays = 1 if limit == "load" else 2

    def cases(quick: bool) -> list[Case]:
        places = [machine.inside("L2") // arrays, sizes.dram(True) // arrays]
        if not quick:
            places.insert(1, machine.inside("L3") // arrays)
        return [
            Case(dtype, nbytes, 1, arrays=arrays, limit=limit, rivals=rivals, label=_label(place))
            for dtype in (quick_dtypes if quick else dtypes)
            for nbytes in places
            for place in [nbytes * arrays]
            # Without instructions for them, two-byte gradients take seconds in memory.
            if arrays == 1 or dtype in _WIDE or machine.level_of(place) == "L2"
        ]

    return cases


def _label(nbytes: int) -> str:
    return f"{fastreg.get_isa()} {machine.level_of(nbytes)} {machine.size(nbytes)}"


@plan(_cases("load", _ALL, _WIDE, ("scipy blas dot",)))
def test_sum_squares(race):
    race(fastreg.sum_squares)


@plan(_cases("load", _ALL, (), ("scipy blas asum",)))
def test_sum_abs(race):
    race(fastreg.sum_abs)


@plan(_cases("load", _ALL))
def test_value(race):
    race(fastreg.value, l1=L1, l2=L2)


@plan(_cases("copy", _ALL, _WIDE[:1]), "gradient_out")
def test_gradient_into(race):
    race(fastreg.gradient, l2=L2, out=OUT)


@plan(_cases("triad", _ALL))
def test_gradient_accumulate(race):
    race(fastreg.gradient, l2=L2, out=OUT, accumulate=True)


@plan(_cases("copy", _WIDE), "value_and_gradient_out")
def test_value_and_gradient_into(race):
    race(fastreg.value_and_gradient, l2=L2, out=OUT)


@plan(_cases("triad", _WIDE, _WIDE[:1]))
def test_value_and_gradient_accumulate(race):
    race(fastreg.value_and_gradient, l2=L2, out=OUT, accumulate=True)
