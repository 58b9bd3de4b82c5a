# SPDX-License-Identifier: BSD-3-Clause
"""States in plain Python integers: a second implementation of docs/state-format.md.

It shares no code with the package and needs nothing but the standard library: elements come as
bytes in the machine's order, with the name of their type.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

# Types: bytes of an element, and for floats the bits of the fraction; None: unsigned integers.
FLOATS = {"f16": (2, 10), "bf16": (2, 7), "f32": (4, 23), "f64": (8, 52)}
INTEGERS = {f"{kind}{8 * size}": (size, kind) for size in (1, 2, 4, 8) for kind in "iu"}

# Both sums as integers: how many of these units.
ABSOLUTE_UNIT, SQUARE_UNIT = -1074, -2148

# Layout: code, and for each sum where its window begins and ends, as exponents of two.
LAYOUTS = {
    "narrow": (1, (-320, 320), (-192, 192)),
    "wide": (2, (-2176, 2112), (-1088, 1088)),
}
MOST = {64: 2**31, 32: 2**15 - 1}
MAGIC, VERSION = b"FRST", 1


@dataclass(frozen=True)
class Plain:
    """Counts, and the sums of x*x and |x| in their units."""

    n: int = 0
    zeros: int = 0
    nans: int = 0
    positive: int = 0
    negative: int = 0
    squares: int = 0
    absolute: int = 0

    def __add__(self, other: Plain) -> Plain:
        return Plain(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Plain) -> Plain:
        out = Plain(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))
        if min(astuple(out)) < 0:
            raise ValueError("below zero")
        return out

    @property
    def layout(self) -> str:
        """The narrowest layout that holds the sums."""
        return "narrow" if all(_fits(*w) for w in self._windows("narrow")) else "wide"

    def _windows(self, layout: str) -> list[tuple[int, int, int, int]]:
        _, square, absolute = LAYOUTS[layout]
        return [(self.squares, SQUARE_UNIT, *square), (self.absolute, ABSOLUTE_UNIT, *absolute)]

    def numbers(self, layout: str, bits: int) -> list[int]:
        """Counts and both windows, cut into pieces of so many bits, low ones first."""
        out = []
        for count in astuple(self)[:5]:
            out += _cut(count, 64, bits)
        for total, unit, low, high in self._windows(layout):
            if not _fits(total, unit, low, high):
                raise ValueError("no room")
            whole = total << (unit - low) if unit >= low else total >> (low - unit)
            out += _cut(whole, high - low, bits)
        return out

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        code = LAYOUTS[self.layout][0]
        head = MAGIC + VERSION.to_bytes(2, "little") + code.to_bytes(2, "little")
        return head + b"".join(v.to_bytes(8, "little") for v in self.numbers(self.layout, 64))

    def to_digits(self, width: int, layout: str) -> list[int]:
        """Digits of half the width."""
        return [1, LAYOUTS[layout][0], *self.numbers(layout, width // 2)]


def _fits(total: int, unit: int, low: int, high: int) -> bool:
    below = max(low - unit, 0)
    return total < 1 << (high - unit) and total % (1 << below) == 0


def _cut(v: int, size: int, bits: int) -> list[int]:
    return [v >> at & ((1 << bits) - 1) for at in range(0, size, bits)]


def _joined(pieces: Sequence[int], bits: int) -> int:
    return sum(v << (bits * k) for k, v in enumerate(pieces))


def _from_numbers(numbers: Sequence[int], layout: str, bits: int) -> Plain:
    """The other way; pieces may be larger than their bits, as sums are."""
    each = 64 // bits
    counts = [_joined(numbers[k * each : (k + 1) * each], bits) for k in range(5)]
    at, totals = 5 * each, []
    for unit, (low, high) in zip((SQUARE_UNIT, ABSOLUTE_UNIT), LAYOUTS[layout][1:], strict=True):
        pieces = (high - low) // bits
        total = _joined(numbers[at : at + pieces], bits)
        totals.append(total << (low - unit) if low >= unit else total >> (unit - low))
        at += pieces
    assert at == len(numbers)
    return Plain(*counts, *totals)


def from_bytes(data: bytes) -> Plain:
    """Read canonical bytes, or raise ValueError."""
    code = int.from_bytes(data[6:8], "little")
    layout = next((name for name, row in LAYOUTS.items() if row[0] == code), None)
    if data[:4] != MAGIC or data[4:6] != VERSION.to_bytes(2, "little") or layout is None:
        raise ValueError("no state")
    numbers = [int.from_bytes(data[k : k + 8], "little") for k in range(8, len(data), 8)]
    state = _from_numbers(numbers, layout, 64)
    if state.to_bytes() != data:
        raise ValueError("not canonical")
    return state


def from_digits(digits: Iterable[int], width: int) -> Plain:
    """Read a sum of digits, or raise ValueError."""
    parts, mark, *numbers = map(int, digits)
    layout = next((n for n, row in LAYOUTS.items() if parts and row[0] * parts == mark), None)
    if layout is None or parts > MOST[width]:
        raise ValueError("no sum of digits")
    return _from_numbers(numbers, layout, width // 2)


def of(data: bytes, kind: str) -> Plain:
    """The state of elements."""
    size = 1 if kind == "bool" else (FLOATS.get(kind) or INTEGERS[kind])[0]
    counts = dict.fromkeys((f.name for f in fields(Plain)), 0)
    for at in range(0, len(data), size):
        bits = int.from_bytes(data[at : at + size], sys.byteorder)
        counts["n"] += 1
        name, m, e = _element(bits, kind)
        if name:
            counts[name] += 1
        counts["absolute"] += m << (e - ABSOLUTE_UNIT)
        counts["squares"] += m * m << (2 * e - SQUARE_UNIT)
    return Plain(**counts)


def _element(bits: int, kind: str) -> tuple[str, int, int]:
    """The count that an element adds to, its magnitude as an integer, and its exponent."""
    if kind == "bool":
        return ("", 1, 0) if bits else ("zeros", 0, 0)
    if kind in INTEGERS:
        size, sign = INTEGERS[kind]
        if sign == "i" and bits >> (8 * size - 1):
            bits = (1 << 8 * size) - bits
        return "" if bits else "zeros", bits, 0
    size, fraction = FLOATS[kind]
    negative = bits >> (8 * size - 1)
    field = bits >> fraction & ((1 << (8 * size - 1 - fraction)) - 1)
    m = bits & ((1 << fraction) - 1)
    largest = (1 << (8 * size - 1 - fraction)) - 1
    if field == largest:
        return ("nans" if m else "negative" if negative else "positive"), 0, 0
    m |= (1 << fraction) if field else 0
    return "" if m else "zeros", m, max(field, 1) - largest // 2 - fraction
