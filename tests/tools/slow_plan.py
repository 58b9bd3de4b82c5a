# SPDX-License-Identifier: BSD-3-Clause
"""A slow twin of the kernels' Plan, from the oracle's integers and from fractions alone.

It has the methods of `fastreg._kernels.Plan` and answers what they must, bit for bit.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import oracle


def weighted_bits(arrays, l1, l2, name: str) -> int:
    """Bits of RN(sum over arrays of l1 * sum|x| + l2 * sum x*x), specials per C4."""
    fmt = oracle.FORMATS[name]
    total, inf = (0, 0), False
    for x, w1, w2 in zip(arrays, l1, l2, strict=True):
        if w1 == 0 and w2 == 0:
            continue
        exact = oracle.sums(x)
        if exact.nan:
            return fmt.nan_bits
        inf |= exact.inf
        for weight, (integer, exponent) in ((w1, exact.absolute), (w2, exact.squares)):
            mantissa, low = oracle.dyadic(weight)
            total = oracle.add(total, (mantissa * integer, low + exponent))
    return fmt.inf_bits if inf else oracle.round_once(*total, name)


def joined(arrays) -> oracle.Sums:
    """Exact sums over all arrays."""
    parts = [oracle.sums(x) for x in arrays]
    absolute, squares = (0, 0), (0, 0)
    for part in parts:
        absolute = oracle.add(absolute, part.absolute)
        squares = oracle.add(squares, part.squares)
    return oracle.Sums(absolute, squares, any(p.nan for p in parts), any(p.inf for p in parts))


def prox_bits(x, l1: float, l2: float, step: float, flush: bool = False) -> list[int]:
    """Bits of every element after a proximal step: float64 operations, one rounding to T."""
    name = oracle.name_of(np.asarray(x).dtype)
    fmt = oracle.FORMATS[name]
    out = []
    for v in oracle.to_floats(x):
        if math.isnan(v):
            out.append(fmt.nan_bits)
            continue
        t = abs(v) - step * l1
        if t <= 0:
            out.append(0)
            continue
        bits = oracle.round_float(t / (1.0 + (2.0 * step) * l2), name)
        if flush and bits < 1 << (fmt.precision - 1):
            out.append(0)
            continue
        out.append(bits | (fmt.sign_bit if v < 0 else 0))
    return out


def prox_exact(v: float, l1: float, l2: float, step: float) -> Fraction:
    """The real proximal point of step * (l1 |x| + l2 x^2) at v."""
    x, t = Fraction(v), Fraction(step) * Fraction(l1)
    if abs(x) <= t:
        return Fraction(0)
    shrunk = (abs(x) - t) / (1 + 2 * Fraction(step) * Fraction(l2))
    return shrunk if x > 0 else -shrunk


class SlowPlan:
    """The twin, on plain float arrays (ml_dtypes' bfloat16 included)."""

    def __init__(self, arrays, l1, l2):
        self.arrays, self.l1, self.l2 = list(arrays), list(l1), list(l2)

    def value(self, dtype="f64") -> int:
        return weighted_bits(self.arrays, self.l1, self.l2, dtype)

    def norm(self, dtype="f64") -> int:
        return oracle.norm_bits(joined(self.arrays), dtype)

    def gradient(self, scale=1.0, before=None) -> list[list[int]]:
        before = before or [None] * len(self.arrays)
        return [
            oracle.gradient_bits(x, l1, l2, scale, out)
            for x, l1, l2, out in zip(self.arrays, self.l1, self.l2, before, strict=True)
        ]

    def statistics(self) -> list[tuple]:
        rows = []
        for x in self.arrays:
            exact = oracle.sums(x)
            values = oracle.to_floats(x)
            sizes = [abs(v) for v in values]
            nans = sum(map(math.isnan, values))
            normal = float(Fraction(2) ** oracle.FORMATS[oracle.name_of(x.dtype)].emin)
            rows.append(
                (
                    len(values),
                    oracle.as_float(oracle.value_bits(exact, 1.0, 0.0, "f64"), "f64"),
                    oracle.as_float(oracle.value_bits(exact, 0.0, 1.0, "f64"), "f64"),
                    oracle.as_float(oracle.norm_bits(exact, "f64"), "f64"),
                    math.nan if nans else max(sizes, default=0.0),
                    sizes.count(0.0),
                    sum(0.0 < v < normal for v in sizes),
                    nans,
                    sum(map(math.isinf, values)),
                )
            )
        return rows

    def scale(self, factor: float) -> list[list[int]]:
        """x <- RN_T(RN_64(factor * x))."""
        return [
            [oracle.round_float(factor * v, oracle.name_of(x.dtype)) for v in oracle.to_floats(x)]
            for x in self.arrays
        ]

    def prox(self, step: float, flush=False) -> list[list[int]]:
        return [
            prox_bits(x, l1, l2, step, flush)
            for x, l1, l2 in zip(self.arrays, self.l1, self.l2, strict=True)
        ]
