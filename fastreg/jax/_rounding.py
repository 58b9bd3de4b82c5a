# SPDX-License-Identifier: BSD-3-Clause
"""Values and norms of digits, rounded once, by integer operations on the device.

A number here is 16-bit digits, low ones first, with the exponent of the first. The widest words at
hand do the rounding: uint32 for results of up to 24 bits, uint64 with ``jax_enable_x64`` for
float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from fastreg.jax._digits import (
    ABSOLUTES,
    ABSOLUTES_BASE,
    SQUARES,
    SQUARES_BASE,
    as_unsigned,
    carried,
    is_special,
)

__all__ = ["norm", "value"]

U = jnp.uint32
MASK = 0xFFFF
# Bits of precision, of the exponent of the least subnormal, and the largest biased exponent.
_FORMATS = {
    "float16": (11, -24, 31, jnp.uint16),
    "bfloat16": (8, -133, 255, jnp.uint16),
    "float32": (24, -149, 255, jnp.uint32),
    "float64": (53, -1074, 2047, jnp.uint64),
}


def _words(dtype: str) -> tuple[Any, int]:
    """Return an unsigned type, and how many leading bits to take of a number: four spare ones."""
    return (jnp.uint64, 60) if dtype == "float64" else (U, 28)


def norm(total: Any, dtype: str) -> Any:
    """The root of the sum of squares, correctly rounded."""
    total = as_unsigned(total)
    word, bits = _words(dtype)
    squares = carried(total[SQUARES], 40)
    # 2 * bits places from an even one, of which the first or the second is set.
    low = ((_top(squares) + 2) & ~1) - 2 * bits
    digits, below = _window(squares, low, 2 * bits // 16 + 1)
    zero = (digits[0] * U(0)).astype(word)

    def step(k: Any, carry: Any) -> Any:
        root, rest = carry
        at = 2 * bits - 2 - 2 * k
        two = (
            lax.dynamic_index_in_dim(digits, at >> 4, keepdims=False) >> (at & 15).astype(U)
        ) & U(3)
        rest = (rest << 2) | two.astype(word)
        trial = (root << 2) | jnp.asarray(1, word)
        fits = rest >= trial
        return (root << 1) | fits.astype(word), jnp.where(fits, rest - trial, rest)

    root, rest = lax.fori_loop(0, bits, step, (zero, zero))
    out = _rounded(root, (low + SQUARES_BASE) // 2, below | (rest != 0), dtype)
    return _or_special(out, total, dtype)


def value(terms: Sequence[tuple[Any, float, float]], dtype: str) -> Any:
    """The sum of ``l1 * sum(|x|) + l2 * sum(x**2)`` over digits, rounded once."""
    word, bits = _words(dtype)
    parts, nan, inf = [], jnp.zeros((), bool), jnp.zeros((), bool)
    for total, l1, l2 in terms:
        total = as_unsigned(total)
        for weight, where, base in ((l1, ABSOLUTES, ABSOLUTES_BASE), (l2, SQUARES, SQUARES_BASE)):
            if weight != 0.0:
                length = where.stop - where.start
                m, d = weight.as_integer_ratio()
                zeros = (m & -m).bit_length() - 1
                parts.append(
                    (carried(total[where], length), m >> zeros, base + zeros - d.bit_length() + 1)
                )
                its_nan, its_inf = is_special(total)
                nan, inf = nan | its_nan, inf | its_inf
    if not parts:
        return jnp.zeros((), dtype)
    least = min(e for _, _, e in parts)
    # A factor has 53 bits, 68 when shifted to a digit's beginning, and sums of terms a few more.
    length = max((e - least) // 16 + d.shape[0] + 5 for d, _, e in parts) + 2
    low_half = high_half = jnp.zeros(length, U) + (parts[0][0][0] * U(0))
    for digits, m, e in parts:
        start, m = (e - least) // 16, m << (e - least) % 16
        for k in range(5):
            if factor := (m >> 16 * k) & MASK:
                products = digits * U(factor)
                at = slice(start + k, start + k + digits.shape[0])
                low_half = low_half.at[at].add(products & U(MASK))
                high_half = high_half.at[at].add(products >> 16)
    high_half = jnp.concatenate([high_half[:1] * U(0), high_half[:-1]])
    exact = carried(low_half + high_half, length)
    low = _top(exact) + 1 - bits
    window, below = _window(exact, low, bits // 16 + 1)
    q = (window[0] * U(0)).astype(word)
    for k in range(bits // 16 + 1):
        kept = window[k] & U((1 << min(16, bits - 16 * k)) - 1)
        q = q | (kept.astype(word) << jnp.asarray(16 * k, word))
    out = _rounded(q, low + least, below, dtype)
    return _specials(out, nan, inf, dtype)


def _or_special(out: Any, total: Any, dtype: str) -> Any:
    return _specials(out, *is_special(total), dtype)


def _specials(out: Any, nan: Any, inf: Any, dtype: str) -> Any:
    out = jnp.where(inf, jnp.asarray(jnp.inf, dtype), out)
    return jnp.where(nan, jnp.asarray(jnp.nan, dtype), out)


def _top(digits: Any) -> Any:
    """The place of the highest bit, -1 for zero."""
    k = jnp.max(jnp.where(digits != 0, jnp.arange(digits.shape[0], dtype=jnp.int32), -1))
    at = lax.dynamic_index_in_dim(digits, jnp.maximum(k, 0), keepdims=False)
    return jnp.where(k < 0, -1, 16 * k + 31 - lax.clz(at).astype(jnp.int32))


def _window(digits: Any, low: Any, count: int) -> tuple[Any, Any]:
    """Digits from a place on, which may be negative, and whether there is anything below it."""
    k, shift = low >> 4, (low & 15).astype(U)
    # Further down than this no place is asked for: twice the bits of a word.
    zeros = jnp.zeros(9, U)
    padded = jnp.concatenate([zeros, digits, zeros])
    found = lax.dynamic_slice(padded, (k + 9,), (count + 1,))
    out = ((found[:-1] >> shift) | (found[1:] << (U(16) - shift))) & U(MASK)
    index = jnp.arange(digits.shape[0], dtype=jnp.int32)
    below = jnp.any((index < k) & (digits != 0)) | ((found[0] & ((U(1) << shift) - U(1))) != 0)
    return out, below


def _rounded(q: Any, exponent: Any, sticky: Any, dtype: str) -> Any:
    """Round (q and a rest) * 2^exponent to nearest even; q has all the bits that were asked for."""
    precision, least, last, bits = _FORMATS[dtype]
    word = q.dtype
    size = 8 * word.itemsize
    one = jnp.asarray(1, word)
    width = size - lax.clz(q).astype(jnp.int32)
    unit = jnp.maximum(exponent + width - precision, least)
    drop = unit - exponent  # at least 4: q has more bits than the precision
    by = jnp.clip(drop, 1, size - 1).astype(word)
    rest, half = q & ((one << by) - one), one << (by - one)
    r = q >> by
    up = (rest > half) | ((rest == half) & (sticky | ((r & one) == one)))
    r = jnp.where(drop > size - 1, jnp.zeros_like(r), r + up.astype(word))
    # The biased exponent less one stands above r, whose own highest bit adds the one.
    fraction = precision - 1
    biased = (jnp.clip(unit - least, 0, last).astype(word) << fraction) + r
    infinite = last << fraction
    biased = jnp.minimum(biased, jnp.asarray(infinite, word))
    biased = jnp.where(q == 0, jnp.zeros_like(biased), biased)
    return lax.bitcast_convert_type(biased.astype(bits), jnp.dtype(dtype))
