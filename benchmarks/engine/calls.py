# SPDX-License-Identifier: BSD-3-Clause
"""The words of the suite: a call to time, the operands it gets, a case, and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.engine import machine

# The weights of every penalty here. Powers of two times small integers, so that no rival is wrong
# because of how it rounds a weight.
L1, L2 = 2.0**-10, 2.0**-11
# gradient = STEP * x for l2 = L2
STEP = 2.0 * L2

LAYOUTS = ("contiguous", "misaligned", "strided", "transposed", "column")


class Missing(Exception):
    """What a contender needs and this machine lacks."""


class Call:
    """One prepared call: ``fn(*args, **kwargs)`` is all that is timed."""

    def __init__(self, fn: Callable[..., Any], *args: Any, repeats: int = 1, **kwargs: Any):
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.repeats = repeats  # how often the work is done inside one call
        self.compile: Callable[[], Any] = lambda: None  # what must happen once, before

    def __call__(self) -> Any:
        return self.fn(*self.args, **self.kwargs)


@dataclass
class Operands:
    """What a contender works on."""

    x: Any  # an array, or a list of arrays
    g: Any = None
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One row of a table: every contender of a case gets the same data and threads.

    ``nbytes`` are those of x; ``arrays`` is 2 where a result of the same size is written.
    """

    dtype: str = "f32"
    nbytes: int = 256
    threads: int = 1
    layout: str = "contiguous"
    arrays: int = 1
    limit: str | None = None  # "load", "copy", "triad"
    data: str = "normal"
    cold: bool = False
    label: str = ""
    rivals: tuple[str, ...] | None = None  # None: all that can

    @property
    def n(self) -> int:
        """Number of elements."""
        return self.nbytes // ITEMSIZE[self.dtype]

    @property
    def level(self) -> str:
        """Name of the level of memory that holds what one thread's call touches."""
        return machine.level_of(self.nbytes * self.arrays)

    @property
    def title(self) -> str:
        """Text for the first column of a table."""
        parts = [self.dtype] if self.dtype else []
        if self.label:
            parts.append(self.label)
        elif self.nbytes:
            parts.append(f"{self.level} {machine.size(self.nbytes)}")
        if self.layout != "contiguous":
            parts.append(self.layout)
        if self.cold:
            parts.append("cold")
        if self.data != "normal":
            parts.append(self.data)
        return " ".join(parts)

    @property
    def key(self) -> str:
        """Text that names the case in test ids."""
        return f"{self.title.replace(' ', '-')}-{self.threads}t"


ITEMSIZE = {"f16": 2, "bf16": 2, "f32": 4, "f64": 8, "": 1}


def dtype_of(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype; bfloat16 needs ml_dtypes."""
    if name == "bf16":
        try:
            import ml_dtypes
        except ImportError:
            raise Missing("ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype({"f16": "f2", "f32": "f4", "f64": "f8"}[name])


def aligned(n: int, dtype: np.dtype[Any], offset: int = 0) -> np.ndarray:
    """Return an uninitialised vector that starts `offset` bytes after a page's first byte."""
    raw = np.empty(n * dtype.itemsize + 8192, np.uint8)
    start = -raw.ctypes.data % 4096 + offset
    return raw[start : start + n * dtype.itemsize].view(dtype)


def fill(x: np.ndarray, seed: int = 1) -> np.ndarray:
    """Fill with weights as networks have them, N(0, 0.05^2), a block of a million repeated."""
    block = np.random.default_rng(seed).standard_normal(min(x.size, 1_000_003), np.float32)
    block = (block * np.float32(0.05)).astype(x.dtype)
    for start in range(0, x.size, block.size):
        x[start : start + block.size] = block[: x.size - start]
    return x


def make_array(dtype: str, n: int, layout: str = "contiguous") -> np.ndarray:
    """Return n random elements in a layout."""
    kind = dtype_of(dtype)
    if layout == "contiguous":
        return fill(aligned(n, kind))
    if layout == "misaligned":
        return fill(aligned(n, kind, offset=kind.itemsize))
    if layout == "strided":
        return fill(aligned(2 * n, kind))[::2]
    rows = max(1, 1 << (max(n.bit_length() - 1, 0) // 2))
    columns = max(1, n // rows)
    if layout == "transposed":
        return fill(aligned(rows * columns, kind)).reshape(rows, columns).T
    if layout == "column":
        return fill(aligned(8 * n, kind)).reshape(n, 8)[:, 3]
    raise ValueError(f"layout {layout!r}; expected one of {LAYOUTS}")


def make_operands(case: Case) -> Operands:
    """Return fresh operands for a case."""
    x = make_array(case.dtype, case.n, case.layout)
    g = None
    if case.arrays == 2:
        g = aligned(x.size, x.dtype).reshape(x.shape)
        g.fill(0)
    return Operands(x, g, case.threads)
