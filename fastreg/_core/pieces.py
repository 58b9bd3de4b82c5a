# SPDX-License-Identifier: BSD-3-Clause
"""Statistics of arrays that come in pieces: what is not in memory at once, and narrow floats."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastreg._core.arrays import HostArray
from fastreg._core.dtypes import BF16, Narrow
from fastreg._kernels import STATISTICS, Arrays, States, clean_environment

if TYPE_CHECKING:
    from fastreg._core.arrays import AnyArray

__all__ = ["InPieces", "Sums", "widened"]

# Of a narrow array, at a time.
_PIECE = 1 << 20


class Sums:
    """Exact sums and counts of what is read piece by piece, once."""

    __slots__ = ("_largest", "_states", "_subnormals")

    def __init__(self) -> None:
        self._states = States(1)
        self._largest = 0.0
        self._subnormals = 0

    @classmethod
    def of(cls, pieces: Iterable[HostArray]) -> Sums:
        """Add up pieces."""
        sums = cls()
        for piece in pieces:
            sums.add(piece)
        return sums

    def add(self, x: HostArray) -> None:
        """Add the elements of an array."""
        for piece, subnormals in widened(x):
            arrays = Arrays([piece])
            found = arrays.statistics()[1]
            self._states.fill(arrays)
            self._see(float(found["max_abs"]), int(found["subnormals"]) + subnormals)

    def merge(self, other: Sums) -> None:
        """Add all that another one has."""
        self._states = self._states.plus(other._states)
        self._see(other._largest, other._subnormals)

    def _see(self, largest: float, subnormals: int) -> None:
        self._subnormals += subnormals
        with clean_environment():  # where subnormal numbers count as zero, none is larger
            if largest > self._largest:  # NaN is not: the state counts it
                self._largest = largest

    def penalty(self, l1: float, l2: float) -> float:
        """Return l1·Σ|x| + l2·Σx² rounded once."""
        return float(self._states.value([l1], [l2]))

    def statistics(self) -> Any:
        """Return a row of statistics."""
        n, zeros, nans, positive, negative = self._states.counts(0)
        row = np.zeros(1, STATISTICS)[0]
        row["n"], row["zeros"], row["nans"], row["infs"] = n, zeros, nans, positive + negative
        row["sum_abs"] = self.penalty(1.0, 0.0)
        row["sum_squares"] = self.penalty(0.0, 1.0)
        row["norm"] = self._states.value([0.0], [1.0], None, True)
        row["max_abs"] = math.nan if nans else self._largest
        row["subnormals"] = self._subnormals
        return row


class InPieces:
    """Arrays of which some are narrow: the statistics that :class:`Arrays` has of others.

    Parameters
    ----------
    hosts : sequence of HostArray
    integers : bool, default True
        Whether integers and booleans are in the total.
    """

    __slots__ = ("_hosts", "_integers")

    def __init__(self, hosts: Sequence[HostArray], integers: bool = True) -> None:
        self._hosts = hosts
        self._integers = integers

    def statistics(self) -> tuple[AnyArray, Any]:
        """Return the rows of all arrays, and the total of those that are counted."""
        total = Sums()
        rows = np.zeros(len(self._hosts), STATISTICS)
        for k, host in enumerate(self._hosts):
            sums = Sums.of([host])
            rows[k] = sums.statistics()
            if self._integers or host.dtype.floating:
                total.merge(sums)
        return rows, total.statistics()


def widened(x: HostArray) -> Iterator[tuple[HostArray, int]]:
    """Yield an array in pieces that kernels read, and what to add to their count of subnormals.

    What kernels read comes as it is, and there is nothing to add.
    """
    dtype = x.dtype
    if not isinstance(dtype, Narrow):
        yield x, 0
        return
    flat = x.data.reshape(-1) if x.data.flags.c_contiguous else x.data.flat
    for at in range(0, x.size, _PIECE):
        yield _bfloat16(flat[at : at + _PIECE], dtype)


def _bfloat16(codes: AnyArray, dtype: Narrow) -> tuple[HostArray, int]:
    """Widen codes; the number is that of subnormal ones that kernels do not take for it."""
    raw = codes.tobytes()  # translating bytes takes a fraction of the time of indexing a table
    low, high, mark = dtype.translations
    wide = np.empty((len(raw), 2), np.uint8)
    first = int(sys.byteorder == "big")
    wide[:, first] = np.frombuffer(raw.translate(low), np.uint8)
    wide[:, 1 - first] = np.frombuffer(raw.translate(high), np.uint8)
    marked = int(np.count_nonzero(np.frombuffer(raw.translate(mark), np.bool_)))
    return HostArray(wide.view(np.uint16)[:, 0], BF16), -marked if dtype.is_scale else marked
