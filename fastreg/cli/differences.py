# SPDX-License-Identifier: BSD-3-Clause
"""The elements of two tensors, pair by pair: which differ, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreg._checkpoints.tensor import Tensor
from fastreg._core.arrays import HostArray
from fastreg._core.dtypes import BF16, F64, U64, Dtype, Narrow

__all__ = [
    "absolute_difference",
    "aligned",
    "count_differing",
    "differences",
    "float64",
    "most_ulps",
    "pairs",
    "type_of",
]

# Pairs that are subtracted at a time; each takes some 64 bytes meanwhile.
_PAIRS = 1 << 18


def type_of(tensor: Tensor) -> Dtype:
    """Return the element type of a tensor that can be read."""
    assert tensor.elements is not None
    return tensor.elements


def pairs(a: Tensor, b: Tensor) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the elements of two tensors of one shape, those of one index beside each other."""
    if a.fortran == b.fortran or sum(n != 1 for n in a.shape) < 2:
        yield from aligned(a.pieces(), b.pieces())
        return
    x, y = (t.array().reshape(t.shape, order="F" if t.fortran else "C").ravel() for t in (a, b))
    yield from aligned(iter([x]), iter([y]))


def aligned(
    left: Iterator[NDArray[Any]], right: Iterator[NDArray[Any]]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Cut two streams at the same places."""
    x = y = np.empty(0, np.uint8)
    while True:
        x = x if len(x) else next(left, x)
        y = y if len(y) else next(right, y)
        n = min(len(x), len(y), _PAIRS)
        if not n:
            break
        yield x[:n], y[:n]
        x, y = x[n:], y[n:]
    # To the very end, where a checksum is.
    for _ in left:
        pass
    for _ in right:
        pass


def float64(x: NDArray[Any], dtype: Dtype) -> NDArray[np.float64]:
    """Widen elements; those of 64-bit integers are rounded."""
    numbers = x
    if isinstance(dtype, Narrow):
        numbers = dtype.table[x]
    elif dtype is BF16:
        numbers = (x.astype(np.uint32) << 16).view(np.float32)
    found: NDArray[np.float64] = numbers.astype(np.float64)
    return found


def count_differing(x: NDArray[Any], y: NDArray[Any], a: Dtype, b: Dtype) -> int:
    """Count pairs of other bits; of other numbers where the types differ, NaN being one."""
    if a is b:
        bits = np.dtype(f"u{a.itemsize}")
        return int(np.count_nonzero(x.view(bits) != y.view(bits)))
    u, v = float64(x, a), float64(y, b)
    return int(np.count_nonzero((u != v) & ~(np.isnan(u) & np.isnan(v))))


def absolute_difference(x: NDArray[Any], y: NDArray[Any], a: Dtype, b: Dtype) -> NDArray[Any]:
    """Return |a - b|: uint64 for integers of one type, else float64."""
    if a is b and not a.floating:
        with np.errstate(over="ignore"):
            u, v = x.astype(np.uint64), y.astype(np.uint64)  # modulo 2^64, as is the difference
            return np.where(x > y, u - v, v - u)
    p, q = float64(x, a), float64(y, b)
    with np.errstate(all="ignore"):
        d = np.abs(p - q)
    d[(p == q) | (np.isnan(p) & np.isnan(q))] = 0.0
    return d


def differences(a: Tensor, b: Tensor) -> Iterator[HostArray]:
    """Yield the absolute differences of all elements."""
    for x, y in pairs(a, b):
        d = absolute_difference(x, y, type_of(a), type_of(b))
        yield HostArray(d, U64 if d.dtype == np.uint64 else F64)


def most_ulps(x: NDArray[Any], y: NDArray[Any], dtype: Dtype) -> int:
    """Return the most steps from one float to the next that lead from x to y; NaN left out."""
    bits = np.dtype(f"u{dtype.itemsize}")
    top = np.uint64(1 << (8 * dtype.itemsize - 1))
    u, v = x.view(bits).astype(np.uint64), y.view(bits).astype(np.uint64)
    m, n = u & (top - np.uint64(1)), v & (top - np.uint64(1))
    # Below zero floats count down from it.
    steps = np.where((u ^ v) & top, m + n, np.where(m > n, m - n, n - m))
    p, q = float64(x, dtype), float64(y, dtype)
    return int(steps[~(np.isnan(p) | np.isnan(q))].max(initial=0))
