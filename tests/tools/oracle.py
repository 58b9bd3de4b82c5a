# SPDX-License-Identifier: BSD-3-Clause
"""Exact truth for the tests, from Python integers alone.

It shares no code and no method with the kernels: an element is read as (integer mantissa,
exponent) from its bits, the sums are integers bucketed by exponent, and the exact real number is
rounded once, straight to a bit pattern. Results are bit patterns (`int`); `as_float` and `as_array`
show them as numbers. The functions named `fraction_*` are a second oracle on `fractions.Fraction`
that shares no code with the first; it is slow and answers Python floats.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from fractions import Fraction
from typing import NamedTuple

import ml_dtypes
import numpy as np

bf16 = ml_dtypes.bfloat16


class Format(NamedTuple):
    """A binary float format: width, significant bits, largest exponent."""

    name: str
    width: int
    precision: int
    emax: int

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number."""
        return 1 - self.emax

    @property
    def low(self) -> int:
        """Exponent of the smallest subnormal number, the unit of every number of the format."""
        return self.emin - self.precision + 1

    @property
    def inf_bits(self) -> int:
        return (2 * self.emax + 1) << (self.precision - 1)

    @property
    def nan_bits(self) -> int:
        """The canonical quiet NaN: positive, no payload."""
        return self.inf_bits | 1 << (self.precision - 2)

    @property
    def sign_bit(self) -> int:
        return 1 << (self.width - 1)


FORMATS = {
    "f16": Format("f16", 16, 11, 15),
    "bf16": Format("bf16", 16, 8, 127),
    "f32": Format("f32", 32, 24, 127),
    "f64": Format("f64", 64, 53, 1023),
}
DTYPES = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(bf16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
}
UNSIGNED = {name: np.dtype(f"u{fmt.width // 8}") for name, fmt in FORMATS.items()}


def name_of(dtype) -> str:
    """Short name of a float dtype: f16, bf16, f32 or f64."""
    dtype = np.dtype(dtype).newbyteorder("=")
    return next(name for name, known in DTYPES.items() if known == dtype)


# --- bits and numbers ------------------------------------------------------------------------


def bits_of(x) -> np.ndarray:
    """Bit patterns of a float array or scalar, flat, as native unsigned integers."""
    x = np.asarray(x)
    x = np.array(x, dtype=x.dtype.newbyteorder("="), copy=True, order="C").reshape(-1)
    return x.view(UNSIGNED[name_of(x.dtype)])


def as_array(bits, name: str) -> np.ndarray:
    """Array of the format `name` with the given bit patterns."""
    return np.array(bits, dtype=UNSIGNED[name]).view(DTYPES[name])


def as_float(bits: int, name: str) -> float:
    """The number that a bit pattern of the format `name` stands for."""
    fmt = FORMATS[name]
    sign = -1.0 if bits & fmt.sign_bit else 1.0
    bits &= fmt.sign_bit - 1
    if bits >= fmt.inf_bits:
        return sign * (math.inf if bits == fmt.inf_bits else math.nan)
    biased = bits >> (fmt.precision - 1)
    mantissa = bits & ((1 << (fmt.precision - 1)) - 1)
    if biased:
        mantissa |= 1 << (fmt.precision - 1)
    return sign * math.ldexp(mantissa, max(biased, 1) - 1 + fmt.low)


class Elements(NamedTuple):
    """Elements as sign, |mantissa| and exponent; NaN and inf have mantissa 0 and a flag each."""

    negative: list[bool]
    mantissas: list[int]
    exponents: list[int]
    nan: list[bool]
    inf: list[bool]


def elements(x) -> Elements:
    """Split every element of an array into integers."""
    x = np.asarray(x)
    if x.dtype.kind in "iub":
        values = [int(v) for v in x.reshape(-1).tolist()]
        no = [False] * len(values)
        return Elements(
            [v < 0 for v in values], [abs(v) for v in values], [0] * len(values), no, no
        )
    fmt = FORMATS[name_of(x.dtype)]
    bits = bits_of(x).astype(np.uint64)
    stored = np.uint64(fmt.precision - 1)
    negative = (bits >> np.uint64(fmt.width - 1)) != 0
    magnitude = bits & np.uint64(fmt.sign_bit - 1)
    biased = (magnitude >> stored).astype(np.int64)
    mantissa = magnitude & np.uint64((1 << (fmt.precision - 1)) - 1)
    special = biased == 2 * fmt.emax + 1
    nan = special & (mantissa != 0)
    inf = special & (mantissa == 0)
    mantissa = np.where(biased > 0, mantissa | np.uint64(1 << (fmt.precision - 1)), mantissa)
    mantissa = np.where(special, np.uint64(0), mantissa)
    exponent = np.maximum(biased, 1) - 1 + fmt.low
    return Elements(*(a.tolist() for a in (negative, mantissa, exponent, nan, inf)))


def dyadic(value: float) -> tuple[int, int]:
    """A finite float as (integer, exponent of two)."""
    numerator, denominator = float(value).as_integer_ratio()
    return numerator, 1 - denominator.bit_length()


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Exact sum of two numbers integer * 2**exponent."""
    if not a[0]:
        return b
    if not b[0]:
        return a
    low = min(a[1], b[1])
    return (a[0] << (a[1] - low)) + (b[0] << (b[1] - low)), low


def round_once(integer: int, exponent: int, name: str) -> int:
    """Bits of RN(integer * 2**exponent), integer >= 0: nearest, ties to even, subnormals, inf."""
    if not integer:
        return 0
    fmt = FORMATS[name]
    unit = max(integer.bit_length() + exponent - fmt.precision, fmt.low)
    shift = unit - exponent
    if shift <= 0:
        quotient = integer << -shift
    else:
        quotient = integer >> shift
        rest = integer - (quotient << shift)
        half = 1 << (shift - 1)
        if rest > half or (rest == half and quotient & 1):
            quotient += 1
    # A carry out of the mantissa moves into the exponent field by itself.
    return min(quotient + ((unit - fmt.low) << (fmt.precision - 1)), fmt.inf_bits)


def round_signed(integer: int, exponent: int, name: str) -> int:
    """`round_once` for either sign; an exact 0 gives +0."""
    bits = round_once(abs(integer), exponent, name)
    return bits | FORMATS[name].sign_bit if integer < 0 else bits


# --- values ----------------------------------------------------------------------------------


class Sums(NamedTuple):
    """Exact sums of |x| and x*x, each integer * 2**exponent, and what specials x held."""

    absolute: tuple[int, int]
    squares: tuple[int, int]
    nan: bool
    inf: bool


def collapse(buckets: dict[int, int]) -> tuple[int, int]:
    """One integer * 2**exponent from integers bucketed by exponent."""
    used = [e for e, total in buckets.items() if total]
    if not used:
        return 0, 0
    low = min(used)
    return sum(buckets[e] << (e - low) for e in used), low


def sums_of(mantissas, exponents, nan: bool = False, inf: bool = False) -> Sums:
    """Sums of elements that are already split."""
    absolute: dict[int, int] = defaultdict(int)
    squares: dict[int, int] = defaultdict(int)
    for m, e in zip(mantissas, exponents, strict=True):
        absolute[e] += m
        squares[e + e] += m * m
    return Sums(collapse(absolute), collapse(squares), nan, inf)


def sums(x) -> Sums:
    """Sums of an array of any supported dtype and shape."""
    split = elements(x)
    return sums_of(split.mantissas, split.exponents, any(split.nan), any(split.inf))


def sums_of_slices(x: np.ndarray, ends) -> list[Sums]:
    """Sums of the consecutive slices of a flat array that end at `ends`; finite elements only."""
    split = elements(x)
    assert not any(split.nan)
    assert not any(split.inf)
    out, start = [], 0
    for end in ends:
        out.append(sums_of(split.mantissas[start:end], split.exponents[start:end]))
        start = end
    return out


def value_bits(exact: Sums, l1: float, l2: float, name: str) -> int:
    """Bits of RN(l1 * sum|x| + l2 * sum x*x), specials per C4."""
    fmt = FORMATS[name]
    if l1 == 0 and l2 == 0:
        return 0
    if exact.nan:
        return fmt.nan_bits
    if exact.inf:
        return fmt.inf_bits
    (w1, f1), (w2, f2) = dyadic(l1), dyadic(l2)
    (s1, e1), (s2, e2) = exact.absolute, exact.squares
    return round_once(*add((w1 * s1, f1 + e1), (w2 * s2, f2 + e2)), name)


def norm_bits(exact: Sums, name: str) -> int:
    """Bits of RN(sqrt(sum x*x)), specials per C4."""
    fmt = FORMATS[name]
    if exact.nan:
        return fmt.nan_bits
    if exact.inf:
        return fmt.inf_bits
    integer, exponent = exact.squares
    if exponent % 2:
        integer, exponent = integer << 1, exponent - 1
    widen = max(0, fmt.precision + 2 - integer.bit_length() // 2)
    integer, exponent = integer << 2 * widen, exponent - 2 * widen
    root = math.isqrt(integer)
    # The root has more bits than the format: a last bit that only says "inexact" rounds right.
    sticky = int(root * root != integer)
    return round_once(2 * root + sticky, exponent // 2 - 1, name)


WEIGHTS = {"sum_squares": (0.0, 1.0), "sum_abs": (1.0, 0.0), "l2_loss": (0.0, 0.5)}


def result_bits(op: str, exact: Sums, name: str, l1: float = 0.0, l2: float = 0.0) -> int:
    """Bits of any of the five operations: sum_squares, sum_abs, l2_loss, norm, value."""
    if op == "norm":
        return norm_bits(exact, name)
    l1, l2 = WEIGHTS.get(op, (l1, l2))
    return value_bits(exact, l1, l2, name)


def expected(op: str, x, dtype=None, l1: float = 0.0, l2: float = 0.0) -> int:
    """Bits of an operation on an array, in x's float type (float64 for integers) or `dtype`."""
    x = np.asarray(x)
    if dtype is None:
        dtype = np.float64 if x.dtype.kind in "iub" else x.dtype
    return result_bits(op, sums(x), name_of(dtype), l1, l2)


# --- gradient --------------------------------------------------------------------------------


def bits_to_float64(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def fma64(a: float, b: float, c: float) -> float:
    """RN(a * b + c) in float64, rounded once, IEEE rules for zeros and specials."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c
    if a == 0 or b == 0:
        return a * b + c
    (ma, ea), (mb, eb) = dyadic(a), dyadic(b)
    integer, exponent = add((ma * mb, ea + eb), dyadic(c))
    return bits_to_float64(round_signed(integer, exponent, "f64"))


def round_float(value: float, name: str) -> int:
    """Bits of RN(value); a NaN becomes the canonical quiet NaN."""
    fmt = FORMATS[name]
    if math.isnan(value):
        return fmt.nan_bits
    sign = fmt.sign_bit if math.copysign(1.0, value) < 0 else 0
    if math.isinf(value):
        return sign | fmt.inf_bits
    integer, exponent = dyadic(value)
    return sign | round_once(abs(integer), exponent, name)


def gradient_element(x: float, l1: float, l2: float, scale: float, name: str) -> int:
    """Bits of RN(fma(2*l2*scale, x, l1*scale*sign(x))), sign(+-0) = +0; 0 removes a term."""
    slope = l2 * (2.0 * scale) if l2 > abs(scale) else (2.0 * l2) * scale
    jump = x if math.isnan(x) else l1 * scale * float((x > 0) - (x < 0))
    if l1 == 0.0 and l2 == 0.0:
        return round_float(0.0, name)
    if l2 == 0.0:
        return round_float(jump, name)
    return round_float(slope * x if l1 == 0.0 else fma64(slope, x, jump), name)


def add_element(a: float, b: float, name: str) -> int:
    """Bits of RN(a + b) for two numbers of the format."""
    if not (math.isfinite(a) and math.isfinite(b)) or (a == 0 and b == 0):
        return round_float(a + b, name)
    return round_signed(*add(dyadic(a), dyadic(b)), name)


def to_floats(x) -> list[float]:
    """Every element as a Python float, exactly."""
    split = elements(x)
    out = []
    for negative, m, e, nan, inf in zip(*split, strict=True):
        number = math.nan if nan else math.inf if inf else math.ldexp(m, e)
        out.append(-number if negative else number)
    return out


def gradient_bits(x, l1: float, l2: float, scale: float = 1.0, out=None) -> list[int]:
    """Bits of every element of the gradient, in x's type; with `out`, of RN(out + gradient)."""
    name = name_of(np.asarray(x).dtype)
    bits = [gradient_element(v, l1, l2, scale, name) for v in to_floats(x)]
    if out is None:
        return bits
    before = to_floats(out)
    return [add_element(o, as_float(g, name), name) for o, g in zip(before, bits, strict=True)]


# --- the second oracle -----------------------------------------------------------------------


def fraction_unit(value: Fraction, dtype) -> Fraction:
    """Distance between neighbours of the format in the binade that holds value > 0."""
    info = ml_dtypes.finfo(dtype)
    exponent = value.numerator.bit_length() - value.denominator.bit_length() - 1
    while value >= Fraction(2) ** (exponent + 1):
        exponent += 1
    return Fraction(2) ** (max(exponent, int(info.minexp)) - int(info.nmant))


def fraction_round(value: Fraction, dtype) -> float:
    """RN(value) as a Python float, by Python's own half-to-even `round` of a Fraction."""
    if value <= 0:
        return -fraction_round(-value, dtype) if value else 0.0
    unit = fraction_unit(value, dtype)
    rounded = round(value / unit) * unit
    return math.inf if rounded > Fraction(float(ml_dtypes.finfo(dtype).max)) else float(rounded)


def fraction_sums(x) -> tuple[Fraction, Fraction]:
    """Exact sums of |x| and x*x of finite elements."""
    values = [Fraction(v.item() if x.dtype.kind in "iub" else float(v)) for v in x.reshape(-1)]
    return sum(map(abs, values), Fraction(0)), sum((v * v for v in values), Fraction(0))


def fraction_value(x, l1: float, l2: float, dtype) -> float:
    """RN(l1 * sum|x| + l2 * sum x*x) of finite elements."""
    absolute, squares = fraction_sums(x)
    return fraction_round(Fraction(l1) * absolute + Fraction(l2) * squares, dtype)


def fraction_norm(x, dtype) -> float:
    """RN(sqrt(sum x*x)) of finite elements: the neighbour on the right side of the midpoint."""
    squares = fraction_sums(x)[1]
    if not squares:
        return 0.0
    exponent = (squares.numerator.bit_length() - squares.denominator.bit_length()) // 2 - 1
    while squares >= Fraction(4) ** (exponent + 1):
        exponent += 1
    unit = fraction_unit(Fraction(2) ** exponent, dtype)
    scaled = squares / (unit * unit)
    below = math.isqrt(scaled.numerator // scaled.denominator)
    midpoint = (Fraction(below) + Fraction(1, 2)) ** 2
    up = scaled > midpoint or (scaled == midpoint and below % 2 == 1)
    rounded = (below + up) * unit
    return math.inf if rounded > Fraction(float(ml_dtypes.finfo(dtype).max)) else float(rounded)


def fraction_gradient(x: float, l1: float, l2: float, scale: float, dtype) -> float:
    """The gradient of one finite, non-zero element, where both products of weights are finite."""
    slope, step = Fraction((2.0 * l2) * scale), Fraction(l1 * scale)
    exact = slope * Fraction(x) + (step if x > 0 else -step)
    wide = fraction_round(exact, np.float64)
    return wide if math.isinf(wide) else fraction_round(Fraction(wide), dtype)
