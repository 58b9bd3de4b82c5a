# SPDX-License-Identifier: BSD-3-Clause
"""Exact answers in Python integers, and data on which inexact sums are wrong."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

# Precision in bits, exponent of the smallest subnormal, largest finite exponent.
_FORMATS = {
    "f16": (11, -24, 15),
    "bf16": (8, -133, 127),
    "f32": (24, -149, 127),
    "f64": (53, -1074, 1023),
}


def sum_squares(x: np.ndarray) -> Fraction:
    """Return the exact sum of squares of finite elements."""
    mantissas, exponents = np.frexp(x.astype(np.float64).reshape(-1))
    integers = (mantissas * 2.0**53).astype(np.int64).tolist()
    sums: dict[int, int] = {}
    for m, e in zip(integers, exponents.tolist(), strict=True):
        sums[e] = sums.get(e, 0) + m * m
    total = Fraction(0)
    for e, s in sums.items():
        total += Fraction(s) * Fraction(2) ** (2 * (e - 53))
    return total


def unit(value: Fraction, dtype: str) -> Fraction:
    """Return the distance of neighbouring numbers of a type around a value."""
    precision, tiny, _ = _FORMATS[dtype]
    if value == 0:
        return Fraction(2) ** tiny
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if Fraction(2) ** exponent > value:
        exponent -= 1
    return Fraction(2) ** max(exponent - precision + 1, tiny)


def rounded(value: Fraction, dtype: str) -> float:
    """Round to nearest, ties to even, once."""
    step = unit(value, dtype)
    result = round(value / step) * step  # Fraction rounds half to even
    largest = Fraction(2) ** (_FORMATS[dtype][2] + 1)
    return math.inf if result >= largest else float(result)


def ulps(received: float, exact: Fraction, dtype: str) -> float:
    """Return how many units in the last place of a type an answer is off."""
    if not math.isfinite(received):
        return math.inf
    return float(abs(Fraction(received) - exact) / unit(exact, dtype))


def four_squares(number: int) -> tuple[int, int, int, int]:
    """Write a number of up to 30 bits as a sum of four squares (Lagrange)."""
    for a in range(math.isqrt(number), -1, -1):
        rest = number - a * a
        for b in range(math.isqrt(rest), -1, -1):
            left = rest - b * b
            c = math.isqrt(left)
            d = math.isqrt(left - c * c)
            if c * c + d * d == left:
                return a, b, c, d
    raise AssertionError(number)


def near_ties(count: int, length: int, seed: int = 5) -> list[np.ndarray]:
    """Return float32 vectors whose sum of squares is just above, or exactly, between two float32.

    Four elements square to an odd number of 25 bits, the middle of two neighbours; in every second
    vector, tails add 2^-100 and less, which no float64 sum sees.
    """
    rng = np.random.default_rng(seed)
    vectors = []
    for i in range(count):
        middle = 2 * int(rng.integers(1 << 23, 1 << 24)) + 1
        x = np.zeros(length, np.float32)
        x[: len(four_squares(middle))] = four_squares(middle)
        if i % 2:
            x[4:8] = np.ldexp(np.float32(1), rng.integers(-60, -50, 4)).astype(np.float32)
        rng.shuffle(x)
        vectors.append(x)
    return vectors
