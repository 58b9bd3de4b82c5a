# SPDX-License-Identifier: BSD-3-Clause
"""The table of element types: the one place that spells their names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

__all__ = [
    "ACCEPTED",
    "ALL",
    "BF16",
    "BOOL",
    "F16",
    "F32",
    "F64",
    "FLOATS",
    "I8",
    "I16",
    "I32",
    "I64",
    "NARROW",
    "U8",
    "U16",
    "U32",
    "U64",
    "Dtype",
    "Narrow",
    "by_name",
    "name_of",
    "narrow_by_name",
    "widest",
]


_FLOAT_COUNT = 4


class Dtype:
    """One element type; there is one object of each.

    Attributes
    ----------
    name : str
        As NumPy and the frameworks spell it: ``"bfloat16"``.
    short : str
        As tables and files spell it, and ``str()``: ``"bf16"``.
    code : int
        The constant of ``fastreg.h``; negative for a type that kernels do not read.
    view : numpy.dtype
        How NumPy sees the memory: bfloat16, which it does not know, as unsigned integers.
    floating : bool
        Whether there are gradients and results of this type.
    """

    __slots__ = ("code", "floating", "name", "short", "view")

    def __init__(self, code: int, name: str, short: str, view: str) -> None:
        self.name = name
        self.short = short
        self.code = code
        self.view: np.dtype[Any] = np.dtype(view)
        self.floating = code < _FLOAT_COUNT

    def __repr__(self) -> str:
        return f"<Dtype {self.name}>"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.view.itemsize)

    def __str__(self) -> str:
        return self.short


# In the order of `fastreg_dtype`, floats first.
_ROWS = (
    ("float16", "f16", "f2"),
    ("bfloat16", "bf16", "u2"),
    ("float32", "f32", "f4"),
    ("float64", "f64", "f8"),
    ("bool", "bool", "?"),
    ("int8", "i8", "i1"),
    ("uint8", "u8", "u1"),
    ("int16", "i16", "i2"),
    ("uint16", "u16", "u2"),
    ("int32", "i32", "i4"),
    ("uint32", "u32", "u4"),
    ("int64", "i64", "i8"),
    ("uint64", "u64", "u8"),
)
ALL: tuple[Dtype, ...] = tuple(
    Dtype(code, name, short, view) for code, (name, short, view) in enumerate(_ROWS)
)
F16, BF16, F32, F64, BOOL, I8, U8, I16, U16, I32, U32, I64, U64 = ALL
FLOATS: tuple[Dtype, ...] = (F16, BF16, F32, F64)

ACCEPTED = "float16, bfloat16, float32, float64, bool or an integer type of up to 64 bits"
"""What kernels read, in words."""

_BY_NAME = {key: dtype for dtype in ALL for key in (dtype.name, dtype.short)}


def by_name(name: str) -> Dtype | None:
    """Return the type of a full or short name, None if kernels have none such.

    Examples
    --------
    >>> by_name("bfloat16").short, by_name("complex64")
    ('bf16', None)
    """
    return _BY_NAME.get(name)


def name_of(dtype: Any) -> str:
    """Return the full name of an element type of NumPy, torch, TensorFlow or JAX, or of a string.

    Examples
    --------
    >>> import numpy as np
    >>> name_of(np.dtype("f4")), name_of("bf16"), name_of(np.float64)
    ('float32', 'bfloat16', 'float64')
    """
    if isinstance(dtype, Dtype):
        return dtype.name
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None)
    if not isinstance(name, str):
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = str(dtype)
    name = name.rpartition(".")[2]
    known = _BY_NAME.get(name)
    return name if known is None else known.name


def widest(dtypes: Iterable[Dtype | None]) -> Dtype:
    """Return the type in which the penalty of arrays of several types is returned.

    That of the widest float among them; float32 for float16 beside bfloat16, neither of which holds
    the other; float64 if there is an integer, float32 if there is nothing.

    Examples
    --------
    >>> str(widest([F16, BF16])), str(widest([F32, I8])), str(widest([BF16]))
    ('f32', 'f64', 'bf16')
    """
    found = {d if d is not None and d.floating else F64 for d in dtypes}
    if len(found) == 1:
        return found.pop()
    return F64 if F64 in found else F32


# -- Floats of one byte and less -------------------------------------------------------------------


class Narrow(Dtype):
    """A float type whose elements take a byte each.

    No kernel reads them; statistics do, widened in pieces. Every number of such a type is a
    bfloat16, so nothing is rounded.

    Parameters
    ----------
    name, short : str
        As :class:`Dtype` has them.
    exponent, mantissa : int
        Bits of each; there is a sign bit, but for ``"scale"``.
    bias : int
        Of the exponent.
    specials : str
        ``"ieee"``: the largest exponent is infinity or NaN; ``"fn"``: all ones is NaN, no infinity;
        ``"fnuz"``: the code of -0 is the one NaN; ``"finite"``: neither; ``"scale"``: powers of two
        without zero, all ones is NaN.
    """

    def __init__(
        self, name: str, short: str, exponent: int, mantissa: int, bias: int, specials: str
    ) -> None:
        super().__init__(-1, name, short, "u1")
        self._layout = exponent, mantissa, bias, specials

    @property
    def is_scale(self) -> bool:
        """Whether its numbers are powers of two: one of them is subnormal as bfloat16 alone."""
        return self._layout[3] == "scale"

    @cached_property
    def table(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The float32 number of each code."""
        return np.array([self._number(code) for code in range(256)], np.float32)

    @cached_property
    def subnormal(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Which codes are subnormal in the type itself."""
        exponent, mantissa, _, _ = self._layout
        low = (np.arange(256) & ((1 << (exponent + mantissa)) - 1)) < 1 << mantissa
        found: np.ndarray[Any, np.dtype[Any]] = low & np.isfinite(self.table) & (self.table != 0)
        return found & (not self.is_scale)

    @cached_property
    def translations(self) -> tuple[bytes, bytes, bytes]:
        """For each code the lower and the upper byte of its bfloat16, and whether it is subnormal.

        That is, in the type itself and not as bfloat16; or, of a scale, the other way round.
        """
        bits = self.table.view(np.uint32) >> 16
        marks = np.arange(256) == 0 if self.is_scale else self.subnormal
        low, high, mark = (x.astype(np.uint8).tobytes() for x in (bits & 255, bits >> 8, marks))
        return low, high, mark

    def _number(self, code: int) -> float:
        exponent, mantissa, bias, specials = self._layout
        if specials == "scale":
            return math.nan if code == 255 else math.ldexp(1.0, code - bias)
        magnitude = code & ((1 << (exponent + mantissa)) - 1)
        sign = -1.0 if code >> (exponent + mantissa) & 1 else 1.0
        e, m = magnitude >> mantissa, magnitude & ((1 << mantissa) - 1)
        if specials == "ieee" and e == (1 << exponent) - 1:
            return math.nan if m else sign * math.inf
        if specials == "fn" and magnitude == (1 << (exponent + mantissa)) - 1:
            return math.nan
        if specials == "fnuz" and magnitude == 0 and sign < 0:
            return math.nan
        if e == 0:
            return sign * math.ldexp(m, 1 - bias - mantissa)
        return sign * math.ldexp((1 << mantissa) + m, e - bias - mantissa)


NARROW: tuple[Narrow, ...] = (
    Narrow("float8_e4m3fn", "f8_e4m3", 4, 3, 7, "fn"),
    Narrow("float8_e5m2", "f8_e5m2", 5, 2, 15, "ieee"),
    Narrow("float8_e4m3fnuz", "f8_e4m3fnuz", 4, 3, 8, "fnuz"),
    Narrow("float8_e5m2fnuz", "f8_e5m2fnuz", 5, 2, 16, "fnuz"),
    Narrow("float8_e8m0fnu", "f8_e8m0", 8, 0, 127, "scale"),
    Narrow("float8_e4m3b11fnuz", "f8_e4m3b11fnuz", 4, 3, 11, "fnuz"),
    # ml_dtypes has these too; what files call f8_e4m3 is the first of all.
    Narrow("float8_e4m3", "float8_e4m3", 4, 3, 7, "ieee"),
    Narrow("float8_e3m4", "float8_e3m4", 3, 4, 3, "ieee"),
    Narrow("float6_e2m3fn", "float6_e2m3fn", 2, 3, 1, "finite"),
    Narrow("float6_e3m2fn", "float6_e3m2fn", 3, 2, 3, "finite"),
    Narrow("float4_e2m1fn", "float4_e2m1fn", 2, 1, 1, "finite"),
)
"""All of them; the short names are those of safetensors where it has one."""

_NARROW_BY_NAME = {key: dtype for dtype in NARROW for key in (dtype.name, dtype.short)}


def narrow_by_name(name: str) -> Narrow | None:
    """Return the type of a full or short name, None if it is none of these."""
    return _NARROW_BY_NAME.get(name)
