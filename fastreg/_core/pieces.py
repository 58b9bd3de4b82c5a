# SPDX-License-Identifier: BSD-3-Clause
"""Statistics of arrays that come in pieces: what is not in memory at once, and narrow floats."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastreg._core.arrays import HostArray
from fastreg._core.dtypes import BF16, Narrow
from fastreg._kernels import Accumulator, Arrays

if TYPE_CHECKING:
    from fastreg._core.arrays import AnyArray

__all__ = ["InPieces", "Sums", "widened"]

# Of a narrow array, at a time.
_PIECE = 1 << 20


class Sums:
    """Exact sums and counts of what is read piece by piece.

    Attributes
    ----------
    exact : bool
        Whether all of it has been added exactly as well: then everything is decided.
    """

    __slots__ = ("_accumulator", "_subnormals", "exact")

    def __init__(self) -> None:
        self._accumulator = Accumulator()
        self._subnormals = 0
        self.exact = False

    @classmethod
    def of(cls, pieces: Callable[[], Iterable[HostArray]], *weights: tuple[float, float]) -> Sums:
        """Read pieces once, and once more if that leaves a statistic or a penalty undecided."""
        sums = cls()
        for piece in pieces():
            sums.add(piece)
        if sums.statistics() is None or any(sums.penalty(*w) is None for w in weights):
            for piece in pieces():
                sums.add_exactly(piece)
            sums.exact = True
        return sums

    def add(self, x: HostArray) -> None:
        """Add the elements of an array."""
        for piece, subnormals in widened(x):
            self._accumulator.add(Arrays([piece]))
            self._subnormals += subnormals

    def add_exactly(self, x: HostArray) -> None:
        """Add them once more, where the first reading did not decide."""
        for piece, _ in widened(x):
            self._accumulator.add(Arrays([piece]), True)

    def merge(self, other: Sums) -> None:
        """Add all that another one has."""
        self._accumulator.merge(other._accumulator)
        self._subnormals += other._subnormals

    def penalty(self, l1: float, l2: float) -> float | None:
        """Return l1·Σ|x| + l2·Σx² rounded once; None if that is undecided."""
        return self._accumulator.value(l1, l2)

    def statistics(self) -> Any:
        """Return a row of statistics; None if that is undecided."""
        row = self._accumulator.statistics()
        if row is not None:
            row["subnormals"] += self._subnormals
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
        every = [Sums.of(lambda host=host: (host,)) for host in self._hosts]  # type: ignore[misc]
        counted = [self._integers or host.dtype.floating for host in self._hosts]
        total = Sums()
        for sums, yes in zip(every, counted, strict=True):
            if yes:
                total.merge(sums)
        if total.statistics() is None:
            for host, sums, yes in zip(self._hosts, every, counted, strict=True):
                if yes and not sums.exact:
                    total.add_exactly(host)
        rows = np.zeros(len(every), total.statistics().dtype)
        for k, sums in enumerate(every):
            rows[k] = sums.statistics()
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
