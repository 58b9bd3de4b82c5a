# SPDX-License-Identifier: BSD-3-Clause
"""The table of element types: the one place that spells their names."""

from __future__ import annotations

from collections.abc import Iterable
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
    "U8",
    "U16",
    "U32",
    "U64",
    "Dtype",
    "by_name",
    "name_of",
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
        The constant of ``fastreg.h``.
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
