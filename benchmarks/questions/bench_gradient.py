# SPDX-License-Identifier: BSD-3-Clause
"""How fast are gradients: into a given array, a new one, added to one; with the value or not."""

from __future__ import annotations

import fastreg
from benchmarks.engine import machine, sizes
from benchmarks.engine.calls import L2, Call, Case, Operands, aligned, dtype_of, fill
from benchmarks.engine.race import ON_A_LINE, OUT, plan
from benchmarks.engine.rivals import rival

_FEW = (
    "numpy.multiply",
    "numpy c*x",
    "numpy g += c*x",
    "scipy blas axpy",
    "numba parallel",
    "numpy vdot, multiply",
    "numpy vdot, g += c*x",
)


_FLOATS = ("f32", "f64")


def _cases(limit: str, dtypes: tuple[str, ...] = _FLOATS):
    def cases(quick: bool) -> list[Case]:
        # x and its gradient together fit the level; in memory, a gigabyte each, but for types
        # whose products NumPy rounds at 20 ns an element.
        inner = [machine.inside("L2") // 2] + ([] if quick else [machine.inside("L3") // 2])
        return [
            Case(dtype, nbytes, threads, arrays=2, limit=limit)
            for dtype in (dtypes[:1] if quick else dtypes)
            for large in (sizes.GB if dtype in _FLOATS and not quick else 128_000_000,)
            for nbytes in (*inner, large)
            for threads in sizes.team()
            if threads == 1 or nbytes == large
        ]

    return cases


@plan(_cases("copy", (*_FLOATS, "f16", "bf16")), "gradient_out", quick_rivals=_FEW)
def test_gradient_into(race):
    race(fastreg.gradient, l2=L2, out=OUT)


@plan(_cases("triad", (*_FLOATS, "f16", "bf16")), quick_rivals=_FEW)
def test_gradient_accumulate(race):
    race(fastreg.gradient, l2=L2, out=OUT, accumulate=True)


def _new(quick: bool) -> list[Case]:
    # The pages of the new array come from the system: no loop of ours bounds that.
    nbytes = 128_000_000 if quick else sizes.GB
    return [Case("f32", nbytes, threads) for threads in sizes.team()]


@plan(_new, quick_rivals=_FEW)
def test_gradient_new(race):
    race(fastreg.gradient, l2=L2)


@plan(_cases("copy"), "value_and_gradient_out", quick_rivals=_FEW)
def test_value_and_gradient_into(race):
    race(fastreg.value_and_gradient, l2=L2, out=OUT)


@plan(_cases("triad"), quick_rivals=_FEW)
def test_value_and_gradient_accumulate(race):
    race(fastreg.value_and_gradient, l2=L2, out=OUT, accumulate=True)


# -- Where arrays begin --------------------------------------------------------------------------

# Large arrays of NumPy begin 16 bytes into a cache line: what the allocator writes before them.
_OFFSET = 16


def _anywhere(quick: bool) -> list[Case]:
    nbytes = 128_000_000 if quick else 256_000_000
    dtypes = ("f32",) if quick else ("f32", "f64")
    return [Case(dtype, nbytes, 1, layout="16 bytes in", arrays=2) for dtype in dtypes]


def _make_anywhere(case: Case) -> Operands:
    kind = dtype_of(case.dtype)
    x, g = (aligned(case.n, kind, _OFFSET) for _ in range(2))
    fill(x)
    g.fill(0)
    return Operands(x, g, case.threads)


@rival("gradient_anywhere", ON_A_LINE)
def _(o):
    x, g = (aligned(o.x.size, o.x.dtype) for _ in range(2))
    x[:] = o.x
    g.fill(0)
    return Call(fastreg.gradient, x, l2=L2, out=g)


@plan(_anywhere, "gradient_anywhere", make=_make_anywhere)
def test_gradient_into_an_array_off_the_line(race):
    """A ratio near 1, or streamed stretches split cache lines."""
    race(fastreg.gradient, l2=L2, out=OUT)
