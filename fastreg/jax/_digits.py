# SPDX-License-Identifier: BSD-3-Clause
"""Exact states of JAX's arrays by JAX's own integer operations, on any device and sharding.

Bits are taken from elements by a bitcast, and everything after it is uint32: there is no float for
a compiler to flush, fuse or reorder, and ``jax_enable_x64`` plays no part. The digits are those of
``State.digits(numpy.int32)`` in the narrow layout, of 16 bits each, the value of a digit 2^16 times
that of the one before. Sums over sharded axes are XLA's partial sums of integers, so that devices
exchange sums and never elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fastreg._core.dtypes import name_of
from fastreg.errors import DTypeError, message

__all__ = ["ABSOLUTES", "LENGTH", "NANS", "SQUARES", "SQUARES_BASE", "carried", "digits", "summed"]

U = jnp.uint32
MASK = 0xFFFF

# Where things are among the digits: PARTS, LAYOUT, five counts of four, then the sums.
COUNTS = 4
NANS, POSITIVE, NEGATIVE = (slice(2 + 4 * k, 6 + 4 * k) for k in (2, 3, 4))
SQUARES = slice(22, 62)
ABSOLUTES = slice(62, 86)
LENGTH = 86
SQUARES_BASE, ABSOLUTES_BASE = -320, -192

# An element is m * 2^(t - 149) with m < 2^24 and t from 0 to 253. The lowest bit, with s = t + 11,
# of |x| stands at place s + 32 of its window, and that of x^2 at 2 s of its own. Elements are added
# by bands of 16 values of s: band g puts |x| from digit g + 2 on, and x^2 from digit 2 g on.
_OFFSET = 11
_BANDS = (253 + _OFFSET) // 16 + 1
# 24 bits shifted by up to 15 take three digits, 48 by up to 30 five; a sum fills three more.
_ABSOLUTE_DIGITS, _SQUARE_DIGITS, _MORE = 3, 5, 4
_INTEGER = (149 + _OFFSET) // 16  # the band of integers, at its beginning: 149 + 11 = 16 * 10
_SPECS = {"float32": (23, 0), "bfloat16": (23, 0), "float16": (10, 125)}


def digits(xs: Sequence[Any]) -> Any:
    """Return the int32 digits of all arrays together."""
    total = jnp.zeros(LENGTH, U)
    for x in xs:
        total = _carry_parts(total + _of_one(x))
    head = jnp.array([1, 1], jnp.int32)
    return jnp.concatenate([head, total[2:].astype(jnp.int32)])


def summed(out: Any, axis_name: Any) -> Any:
    """Add up over named axes."""
    return lax.psum(out, axis_name) if axis_name else out


def carried(digits: Any, length: int) -> Any:
    """Return 16-bit digits of a number whose digits are any uint32."""
    out, carry = [], U(0)
    for k in range(length):
        v = (digits[k] if k < digits.shape[0] else U(0)) + carry
        out.append(v & U(MASK))
        carry = v >> 16
    return jnp.stack(out)


def _carry_parts(total: Any) -> Any:
    cuts = [slice(2 + 4 * k, 6 + 4 * k) for k in range(5)] + [SQUARES, ABSOLUTES]
    return jnp.concatenate([total[:2], *(carried(total[c], c.stop - c.start) for c in cuts)])


# -- One array -------------------------------------------------------------------------------------


def _of_one(x: Any) -> Any:
    name = name_of(x.dtype)
    if name in _SPECS:
        return _of_floats(x, *_SPECS[name])
    if name == "bool" or (name.startswith(("int", "uint")) and x.dtype.itemsize <= 4):
        return _of_integers(x)
    raise DTypeError(
        message(
            "elements of at most 32 bits, for sums by integers on the device",
            name,
            "cast the array, or read it with fastreg.state(jax.device_get(x))",
        )
    )


def _of_integers(x: Any) -> Any:
    if x.dtype.kind == "i":
        wide = x.astype(jnp.int32)
        m = lax.bitcast_convert_type(wide, U)
        m = jnp.where(wide < 0, ~m + U(1), m)
    else:
        m = x.astype(U)
    low, high = m & U(MASK), m >> 16
    both, mixed, top = low * low, low * high, high * high
    d = [both & U(MASK)]
    for v in (
        (both >> 16) + ((mixed & U(MASK)) << 1),
        ((mixed >> 16) << 1) + (top & U(MASK)),
        top >> 16,
    ):
        d.append(v)  # below 2^18: the carries are left to the sums
    sums = _sums([low, high, *d, (m == 0).astype(U)])
    zero = jnp.zeros((2 + COUNTS * 5 + 40 + 24,), U)
    out = _add_at(zero, SQUARES.start + 2 * _INTEGER, sums[2:6])
    out = _add_at(out, ABSOLUTES.start + _INTEGER + 2, sums[:2])
    return _counted(out, x.size, sums[6], (sums[6] * U(0),) * 3)


def _decoded(x: Any, fraction: int, add: int) -> Any:
    """Return m, s, the biased exponent's being the last one, and whether the sign is set."""
    if x.dtype.itemsize == 4:
        u = lax.bitcast_convert_type(x, U)
        sign = u >> 31
        u = u & U(0x7FFFFFFF)
        last = 255
    else:
        u = lax.bitcast_convert_type(x, jnp.uint16).astype(U)
        sign = u >> 15
        u = u & U(0x7FFF)
        last = 31
        if fraction == 23:  # bfloat16 is the upper half of a float32
            u, last = u << 16, 255
    e, f = u >> fraction, u & U((1 << fraction) - 1)
    m = f | (jnp.where(e > 0, U(1), U(0)) << fraction)
    s = jnp.where(e > 0, e - U(1), U(0)) + U(add + _OFFSET)
    return m, s, e == last, f, sign


def _of_floats(x: Any, fraction: int, add: int) -> Any:
    m, s, special, f, sign = _decoded(x, fraction, add)
    nan, inf = special & (f != 0), special & (f == 0)
    tallies = [m == 0, nan, inf & (sign == 0), inf & (sign != 0)]
    sums = _sums([t.astype(U) for t in tallies])
    used = ~special & (m != 0)
    axes = tuple(range(x.ndim))
    g = (s >> 4).astype(jnp.int32)
    first = lax.reduce(jnp.where(used, g, _BANDS), jnp.int32(_BANDS), lax.min, axes)
    last = lax.reduce(jnp.where(used, g, -1), jnp.int32(-1), lax.max, axes)
    # Within shard_map a loop carries what varies over devices as the bounds do.
    out = jnp.zeros(LENGTH, U) + (first * 0).astype(U)

    def band(g: Any, carry: Any) -> Any:
        out, x = carry
        # Or the compiler would store the decoded elements of all bands instead of reading x again.
        m, s, special, _, _ = _decoded(lax.optimization_barrier((x, g))[0], fraction, add)
        m = jnp.where(~special & ((s >> 4) == g.astype(U)), m, U(0))
        sums = _sums([*_shifted(_one(m), s & U(15)), *_shifted(_square(m), (s & U(15)) * U(2))])
        out = _add_at(out, ABSOLUTES.start + 2 + g, sums[:_ABSOLUTE_DIGITS])
        out = _add_at(out, SQUARES.start + 2 * g, sums[_ABSOLUTE_DIGITS:])
        return out, x

    out, _ = lax.fori_loop(first, last + 1, band, (out, x))
    return _counted(out, x.size, sums[0], tuple(sums[1:]))


def _counted(out: Any, n: int, zeros: Any, others: Any) -> Any:
    size = jnp.array([(n >> 16 * k) & MASK for k in range(COUNTS)], U)
    for k, count in enumerate((size, zeros, *others)):
        out = out.at[2 + COUNTS * k : 2 + COUNTS * (k + 1)].add(count)
    return out


def _one(m: Any) -> list[Any]:
    return [m & U(MASK), m >> 16]


def _square(m: Any) -> list[Any]:
    """The digits of m^2, of 48 bits."""
    a, b = m >> 12, m & U(0xFFF)
    low, middle, high = b * b, (a * b) << 1, a * a
    w = low + ((middle & U(0xF)) << 12)
    v = (middle >> 4) + ((high & U(0xFF)) << 8) + (w >> 16)
    return [w & U(MASK), v & U(MASK), (high >> 8) + (v >> 16)]


def _shifted(parts: list[Any], shift: Any) -> list[Any]:
    """Shift a number's digits left by less than 31 places: one digit more, or two."""
    far = shift >= 16
    near = shift & U(15)
    out, carry = [], U(0)
    for d in parts:
        v = (d << near) | carry
        out.append(v & U(MASK))
        carry = v >> 16
    out.append(carry)
    if len(parts) == 2:  # |x|, which is shifted by less than 16
        return out
    zero = jnp.zeros_like(carry)
    return [jnp.where(far, a, b) for a, b in zip([zero, *out], [*out, zero], strict=True)]


# -- Sums ------------------------------------------------------------------------------------------


def _sums(parts: list[Any]) -> list[Any]:
    """The exact sums of arrays of uint32, each as four 16-bit digits.

    One reduction for all, in pairs of uint32 that stand for integers of 64 bits; their addition is
    associative, so XLA may order and divide it as it likes.
    """
    k = len(parts)

    def add(a: Any, b: Any) -> Any:
        low = [p + q for p, q in zip(a[:k], b[:k], strict=True)]
        high = [
            p + q + (c < r).astype(U) for p, q, c, r in zip(a[k:], b[k:], low, b[:k], strict=True)
        ]
        return [*low, *high]

    zeros = [jnp.zeros_like(p) for p in parts]
    out = lax.reduce([*parts, *zeros], [U(0)] * (2 * k), add, tuple(range(parts[0].ndim)))
    low, high = out[:k], out[k:]
    return [
        jnp.stack([a & U(MASK), a >> 16, b & U(MASK), b >> 16])
        for a, b in zip(low, high, strict=True)
    ]


def _add_at(out: Any, start: Any, sums: list[Any]) -> Any:
    """Add numbers at consecutive digits; overlaps stay below 2^16 times a small count."""
    width = len(sums) + _MORE - 1
    here = lax.dynamic_slice(out, (start,), (width,))
    for k, one in enumerate(sums):
        here = here.at[k : k + _MORE].add(one)
    return lax.dynamic_update_slice(out, here, (start,))


def is_special(total: Any) -> tuple[Any, Any]:
    """Whether digits count a NaN, and an infinity."""
    infinities = jnp.any(total[POSITIVE] != 0) | jnp.any(total[NEGATIVE] != 0)
    return jnp.any(total[NANS] != 0), infinities


def as_unsigned(total: Any) -> Any:
    """Return digits, summed or not, as uint32."""
    return jax.lax.bitcast_convert_type(total, U)
