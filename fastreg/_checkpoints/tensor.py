# SPDX-License-Identifier: BSD-3-Clause
"""What a reader finds: tensors, which stay in their file until their elements are asked for."""

from __future__ import annotations

import errno
import mmap
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastreg._core.dtypes import BOOL, Dtype
from fastreg.errors import CheckpointError, message, printable

__all__ = [
    "NATIVE",
    "PIECE_NBYTES",
    "Budget",
    "Checkpoint",
    "Mapped",
    "Source",
    "Tensor",
    "count",
    "cut_short",
    "damaged",
    "is_extent",
    "quoted",
    "shape_shown",
    "unreadable",
]

PIECE_NBYTES = 16 << 20
"""How much of a tensor is read at a time: a multiple of the size of every element."""

NATIVE = "<" if sys.byteorder == "little" else ">"
"""This machine's byte order, as NumPy spells it."""

# No n or offset beyond this can belong to a file, so products of dimensions stop here.
MAX_N = 2**63 - 1


class Source(Protocol):
    """Where the bytes of a tensor are."""

    def whole(self) -> NDArray[np.uint8]:
        """Return all of them: a view of the file, or unpacked."""

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Yield them in order, a multiple of 16 at a time but for the last."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Describe one tensor of a checkpoint; its elements stay in the file until asked for.

    Attributes
    ----------
    name : str
        As the file spells it; untrusted, so print it through :func:`printable`.
    shape : tuple of int
        Dimensions, each >= 0; ``()`` for a scalar.
    dtype : str
        The short name of a type that fastreg reads (``"f32"``, ``"bf16"``, ``"f8_e4m3"``,
        ``"bool"``), or the name of another.
    n : int
        Number of elements, the product of `shape`.
    nbytes : int
        Bytes the elements take, unpacked.
    skipped : str
        Why the elements cannot be read; empty if they can.
    elements : Dtype, optional
        Their type, if they can be read.
    swapped : bool
        Whether their bytes are in the other order than this machine's.
    fortran : bool
        Whether the first index runs fastest.
    source : Source, optional
        Their bytes; None for what is no array at all.
    finite : bool
        Whether its type has neither NaN nor infinity, though it is `skipped`: text and dates.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    n: int
    nbytes: int
    skipped: str = ""
    elements: Dtype | None = None
    swapped: bool = False
    fortran: bool = False
    source: Source | None = field(default=None, repr=False, compare=False)
    finite: bool = False

    def pieces(self) -> Iterator[NDArray[Any]]:
        """Yield the elements in the order of the file, piece by piece.

        Each is flat, in this machine's byte order and of the NumPy type ``elements.view``.

        Raises
        ------
        CheckpointError
            If the tensor is `skipped`, or its elements turn out to be damaged.
        """
        elements, source = self._readable()
        for raw in source.pieces():
            yield self._turned(raw, elements)

    def array(self) -> NDArray[Any]:
        """Return all elements, flat and in the order of the file, as :meth:`pieces` does.

        Flat, because no statistic of a penalty depends on the shape and a file may claim more
        dimensions than NumPy can hold. A read-only view of the mapped file, perhaps misaligned, or
        an array of its own for a compressed member or the other byte order.
        """
        elements, source = self._readable()
        return self._turned(source.whole(), elements)

    def _readable(self) -> tuple[Dtype, Source]:
        if self.skipped or self.elements is None or self.source is None:
            raise CheckpointError(
                message(
                    f"a tensor that can be read at {quoted(self.name)}",
                    self.skipped,
                    "convert it before it is saved, or save it apart",
                )
            )
        return self.elements, self.source

    def _turned(self, raw: NDArray[np.uint8], elements: Dtype) -> NDArray[Any]:
        if elements is BOOL:
            largest = int(raw.max(initial=0))
            if largest > 1:
                raise damaged(
                    f"booleans of 0 or 1 in tensor {quoted(self.name)}", f"a byte of {largest}"
                )
        data = raw.view(elements.view)
        return data.byteswap() if self.swapped else data


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Describe one checkpoint file.

    Attributes
    ----------
    path : str
        As it was given.
    format : str
        ``"safetensors"``, ``"npz"`` or ``"npy"``: by content, whatever the suffix says.
    nbytes : int
        Size of the file.
    tensors : tuple of Tensor
        In the order in which the file stores their elements. They keep the file mapped.
    """

    path: str
    format: str
    nbytes: int
    tensors: tuple[Tensor, ...]


class Budget:
    """What the compressed members of all files of a call may unpack to, together."""

    DEFAULT = 4 << 30

    def __init__(self, nbytes: int = DEFAULT) -> None:
        self.left = self.most = nbytes

    def spend(self, nbytes: int) -> None:
        """Take the members of one file, or refuse the file and leave the rest to the others."""
        if nbytes > self.left:
            used = f" beside {self.most - self.left:,} of others" if self.left < self.most else ""
            raise CheckpointError(
                message(
                    f"compressed members that unpack to at most {self.most:,} bytes",
                    f"{nbytes:,} bytes{used}",
                    "if you trust the file, raise --max-unpacked-bytes",
                )
            )
        self.left -= nbytes


class Mapped:
    """Bytes of a mapped file; nothing is assumed about their alignment."""

    __slots__ = ("_check", "_data")

    def __init__(
        self, view: mmap.mmap, offset: int, nbytes: int, check: Callable[[int], None] | None = None
    ) -> None:
        # np.frombuffer refuses an offset at the very end.
        data = np.frombuffer(view, np.uint8, nbytes, offset) if nbytes else np.empty(0, np.uint8)
        self._data = data
        self._check = check

    def whole(self) -> NDArray[np.uint8]:
        """Return the view."""
        for _ in self.pieces() if self._check else ():
            pass
        return self._data

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Yield views, and check the sum of all at the end."""
        crc = 0
        for at in range(0, len(self._data), PIECE_NBYTES):
            piece = self._data[at : at + PIECE_NBYTES]
            if self._check:
                crc = zlib.crc32(piece.data, crc)
            yield piece
        if self._check:
            self._check(crc)


def unreadable(error: OSError | ValueError) -> CheckpointError:
    """Word what the system said of a file; a ValueError is a NUL byte in its path."""
    action = "check the path and its permissions"
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        action = "raise the limit (ulimit -n), or give fewer files"
    # A file that shrank between fstat and mmap is a ValueError, too.
    reason = getattr(error, "strerror", None) or str(error)
    return CheckpointError(message("a readable file", printable(reason, 120), action))


def damaged(expected: str, received: str) -> CheckpointError:
    """Word the error of a file that contradicts itself."""
    return CheckpointError(
        message(expected, received, "the file is damaged or forged: save or download it again")
    )


def cut_short(expected: str, received: str) -> CheckpointError:
    """Word the error of a file that ends before what it says it holds."""
    return CheckpointError(
        message(expected, received, "the file is cut short: save or download it again")
    )


def quoted(text: str) -> str:
    """Quote a name of a file's, of which nobody knows the length."""
    return f"'{printable(text, 80)}'"


def count(shape: tuple[int, ...]) -> int:
    """Multiply the dimensions; past `MAX_N` no file can follow, so -1 stands for "too many"."""
    n = 1
    for dimension in shape:
        n *= dimension
        if n > MAX_N:
            return -1
    return n


def is_extent(k: object) -> bool:
    """Whether a number of a header may be a dimension or an offset."""
    return type(k) is int and 0 <= k <= MAX_N


def shape_shown(shape: tuple[int, ...]) -> str:
    """Show a shape in a message."""
    text = str(list(shape[:8]))
    return text if len(shape) <= 8 else f"{text[:-1]}, … {len(shape)} dimensions]"
