# SPDX-License-Identifier: BSD-3-Clause
"""The readers of ``.npy`` and of ``.npz``, a zip archive of them.

The ``.npy`` header is read here because the public parts of ``numpy.lib.format`` neither cover
version 3 nor leave an untrusted element type alone (they hand it to ``np.dtype``, and warn).
"""

from __future__ import annotations

import ast
import mmap
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastreg._checkpoints import foreign
from fastreg._checkpoints.tensor import (
    NATIVE,
    Budget,
    Mapped,
    Source,
    Tensor,
    count,
    cut_short,
    damaged,
    is_extent,
    quoted,
    shape_shown,
)
from fastreg._core.dtypes import ALL, BF16, Dtype
from fastreg.errors import CheckpointError, message, printable

__all__ = ["read_npy", "read_npz"]

_PIECE_NBYTES = 1 << 20

# -- npy -------------------------------------------------------------------------------------------

# The limit of NumPy (`max_header_size`): `ast.literal_eval` is not made for more.
_MAX_HEADER_BYTES = 10_000

_CODE = re.compile(r"([<>|=])([fiub])([1248])")
# By NumPy's code and size: ``"f4"``. It has none for bfloat16.
_ELEMENTS = {dtype.view.str[1:]: dtype for dtype in ALL if dtype is not BF16}
_OTHER = re.compile(r"[<>|=]?([a-zA-Z?])([0-9]{0,9})(\[[^\]]*\])?")
# What is not read has NumPy's names: its codes count bytes, where short names count bits.
_NAMES = {"c": "complex", "f": "float"}
# Text, dates and spans of time, which are neither NaN nor infinite.
_FINITE = frozenset("SUMm")


@dataclass(frozen=True, slots=True)
class _NpyHeader:
    """What a ``.npy`` header says: where the elements begin and what they are."""

    shape: tuple[int, ...]
    dtype: str
    n: int
    skipped: str
    elements: Dtype | None
    swapped: bool
    fortran: bool
    offset: int
    finite: bool

    def tensor(self, name: str, nbytes: int, source: Source) -> Tensor:
        """Return the tensor that it describes."""
        return Tensor(
            name, self.shape, self.dtype, self.n, nbytes, self.skipped,
            self.elements, self.swapped, self.fortran, source, self.finite,
        )  # fmt: skip


def read_npy(view: mmap.mmap, name: str) -> Tensor:
    """Read a whole ``.npy`` file: one header, then the elements up to the end of the file."""
    header = _npy_header(view[: 12 + _MAX_HEADER_BYTES], len(view))
    if header.dtype == "object":
        raise CheckpointError(
            message(
                "numbers",
                "an array of Python objects, stored as pickle, which is never loaded",
                "save it with a numeric dtype, or ragged rows as arrays of their own with "
                "numpy.savez('rows.npz', *map(numpy.asarray, x))",
            )
        )
    nbytes = len(view) - header.offset
    return header.tensor(name, nbytes, Mapped(view, header.offset, nbytes))


def _npy_header(head: bytes, nbytes: int) -> _NpyHeader:
    """Parse and check a ``.npy`` header.

    `head` is the beginning of the file (or member), at least the header if it is complete;
    `nbytes` the size of the whole.  Format: ``numpy.lib.format``, versions 1 to 3.
    """
    version = head[6:8]
    if head.startswith(b"\x93NUMPY") and len(head) < 10:
        raise cut_short("at least the 10 bytes before a .npy header", f"{len(head)}")
    if not head.startswith(b"\x93NUMPY") or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise damaged("the .npy magic and version 1, 2 or 3", repr(head[:8]))
    start = 10 if version == b"\1\0" else 12
    header_nbytes = int.from_bytes(head[8:start], "little")
    if len(head) < start or nbytes - start < header_nbytes <= _MAX_HEADER_BYTES:
        raise cut_short(
            f"a .npy header of {header_nbytes:,} bytes", f"{max(nbytes - start, 0):,} of them"
        )
    if header_nbytes > min(_MAX_HEADER_BYTES, nbytes - start):
        raise damaged(
            f"a .npy header within the {nbytes:,} bytes of the file and at most "
            f"{_MAX_HEADER_BYTES:,} bytes",
            f"a header length of {header_nbytes:,}",
        )
    offset = start + header_nbytes
    raw = head[start:offset]
    try:
        text = raw.decode("utf-8" if version == b"\3\0" else "latin1").strip()
        with warnings.catch_warnings():  # "invalid escape sequence" and the like
            warnings.simplefilter("ignore")
            table = ast.literal_eval(text)
        descr, fortran, shape = table["descr"], table["fortran_order"], table["shape"]
        if len(table) != 3 or type(fortran) is not bool or type(shape) is not tuple:
            raise TypeError
        if not all(map(is_extent, shape)):
            raise TypeError
    # What a parser may answer to hostile text, deep nesting included.
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError):
        raise damaged(
            "a .npy header with descr, fortran_order and shape",
            printable(raw[:100].decode("latin1"), 100),
        ) from None
    dtype, skipped, elements, swapped = _elements_of(descr)
    n = count(shape)
    if elements is not None and n * elements.itemsize > nbytes - offset:
        raise cut_short(
            f"{n * elements.itemsize:,} bytes of {shape_shown(shape)} after the header",
            f"{nbytes - offset:,}",
        )
    if n < 0 or (elements is not None and n * elements.itemsize != nbytes - offset):
        raise damaged(
            f"{shape_shown(shape)} of {printable(str(descr), 40)} after the header",
            f"{nbytes - offset:,} bytes",
        )
    kind = descr.lstrip("<>|=")[:1] if isinstance(descr, str) else ""
    finite = kind in _FINITE
    return _NpyHeader(shape, dtype, n, skipped, elements, swapped, fortran, offset, finite)


def _elements_of(descr: object) -> tuple[str, str, Dtype | None, bool]:
    """Name an element type: (name, why it is skipped, the type, whether its bytes are swapped).

    `descr` is never handed to ``np.dtype``: what it makes of hostile text is NumPy's business.
    """
    if type(descr) is list:
        text = repr(descr)
        if re.search(r"'[<>|=]?O", text):
            return "object", "Python objects are pickled and never loaded", None, False
        return "struct", "records are not a type that fastreg reads", None, False
    if type(descr) is not str:
        raise damaged("a .npy descr that is text or a list", printable(repr(descr), 80))
    match = _CODE.fullmatch(descr)
    if match and match[2] + match[3] in _ELEMENTS:
        elements = _ELEMENTS[match[2] + match[3]]
        swapped = elements.itemsize > 1 and match[1] not in (NATIVE, "=")
        return elements.short, "", elements, swapped
    other = _OTHER.fullmatch(descr)
    if not other:
        raise damaged("a known .npy descr", quoted(descr))
    if other[1] == "O":
        return "object", "Python objects are pickled and never loaded", None, False
    code = printable(descr.lstrip("<>|="), 20)
    if other[1] in _NAMES and other[2]:
        code = f"{_NAMES[other[1]]}{8 * int(other[2])}"
    if other[1] == "V":
        why = "raw bytes: NumPy forgets bfloat16 and 8-bit floats, use .safetensors for them"
        return code, why, None, False
    return code, f"{code} is not a type that fastreg reads", None, False


# -- npz -------------------------------------------------------------------------------------------


def read_npz(file: BinaryIO, view: mmap.mmap, suffix: str, budget: Budget) -> list[Tensor]:
    """List the members of a ``.npz``: a zip archive of ``.npy`` files, stored or deflated.

    `suffix` is that of the file, in lower case.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    # zipfile answers a hostile directory with whatever its parser stumbled over.
    except Exception as error:
        if not _has_end(view):
            raise foreign.cut_archive(view[:200], suffix) from None
        raise damaged(
            "a complete zip directory at the end of the .npz", printable(str(error), 120)
        ) from None
    if members and not any(member.filename.endswith(".npy") for member in members):
        raise foreign.archive([member.filename for member in members])
    tensors = []
    packed = 0
    end = 0
    names: set[str] = set()
    for member in sorted(members, key=lambda member: member.header_offset):
        name = member.filename.removesuffix(".npy")
        if name in names:
            raise damaged("every member name once", f"{quoted(member.filename)} twice")
        names.add(name)
        start = _member_start(view, member)
        # Overlapping members are how a small file unpacks to a huge one many times over.
        if member.header_offset < end:
            raise damaged(
                "members that follow each other", f"{quoted(member.filename)} overlapping"
            )
        end = start + member.compress_size
        if not member.filename.endswith(".npy"):
            skipped = "a member that is no .npy"
            tensors.append(Tensor(name, (), "?", 0, member.file_size, skipped))
            continue
        try:
            tensor = _read_member(view, member, name, start)
        except CheckpointError as error:
            raise CheckpointError(f"member {quoted(member.filename)}: {error}") from None
        if member.compress_type == zipfile.ZIP_DEFLATED and not tensor.skipped:
            packed += member.file_size
        tensors.append(tensor)
    budget.spend(packed)
    return tensors


def _has_end(view: mmap.mmap) -> bool:
    """Whether there is the whole record that ends every zip archive (APPNOTE 4.3.16)."""
    at = view.rfind(b"PK\x05\x06", max(0, len(view) - 22 - 0xFFFF))
    return at >= 0 and at + 22 + int.from_bytes(view[at + 20 : at + 22], "little") <= len(view)


def _member_start(view: mmap.mmap, member: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member begin, after checking its local header."""
    at = member.header_offset
    local = view[at : at + 30] if 0 <= at <= len(view) - 30 else b""
    # APPNOTE 4.3.7: signature, version, flags, method, …, name length at 26, extra length at 28.
    name_nbytes = int.from_bytes(local[26:28], "little")
    start = at + 30 + name_nbytes + int.from_bytes(local[28:30], "little")
    encoding = "utf-8" if member.flag_bits & 0x800 else "cp437"
    if (
        not local.startswith(b"PK\x03\x04")
        or int.from_bytes(local[8:10], "little") != member.compress_type
        or view[at + 30 : at + 30 + name_nbytes] != member.orig_filename.encode(encoding, "replace")
        or start + member.compress_size > len(view)
    ):
        raise damaged(
            f"a local header for {quoted(member.filename)} that agrees with the zip directory",
            f"another one at byte {at:,}",
        )
    if member.flag_bits & 1:
        raise CheckpointError(
            message("members that are not encrypted", quoted(member.filename), "decrypt it first")
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(
            message(
                "members stored or deflated, as np.savez and np.savez_compressed write them",
                f"compression method {member.compress_type} for {quoted(member.filename)}",
                "write the file again",
            )
        )
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        raise damaged(
            f"one size for the stored member {quoted(member.filename)}",
            f"{member.compress_size:,} and {member.file_size:,} bytes",
        )
    return start


def _read_member(view: mmap.mmap, member: zipfile.ZipInfo, name: str, start: int) -> Tensor:
    """Read the ``.npy`` header of a member; its elements are read by the tensor's loader."""
    head_nbytes = 12 + _MAX_HEADER_BYTES
    stored = member.compress_type == zipfile.ZIP_STORED
    packed = memoryview(view)[start : start + member.compress_size]
    if stored:
        head = bytes(packed[:head_nbytes])
    else:
        head = b""
        for piece in _inflate(packed, head_nbytes):
            head += piece
            if len(head) >= head_nbytes:
                break
    header = _npy_header(head, member.file_size)

    def check(crc: int) -> None:
        if crc != member.CRC:
            raise damaged(
                f"checksum {member.CRC:08x} of member {quoted(member.filename)}", f"{crc:08x}"
            )

    nbytes = member.file_size - header.offset
    whole: Source = _Packed(packed, member, check)
    if stored:
        whole = Mapped(view, start, member.file_size, check)
    return header.tensor(name, nbytes, _After(whole, header.offset))


class _After:
    """The bytes of a member behind its header, which the checksum covers."""

    __slots__ = ("_offset", "_source")

    def __init__(self, source: Source, offset: int) -> None:
        self._source = source
        self._offset = offset

    def whole(self) -> NDArray[np.uint8]:
        """Return them."""
        return self._source.whole()[self._offset :]

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Yield them, cut anew: elements must not straddle two pieces."""
        rest = np.empty(0, np.uint8)
        skip = self._offset
        for piece in self._source.pieces():
            fresh = piece[skip:]
            skip -= len(piece) - len(fresh)
            joined = np.concatenate([rest, fresh]) if rest.size else fresh
            end = len(joined) & ~15
            rest = joined[end:]
            if end:
                yield joined[:end]
        if rest.size:
            yield rest


class _Packed:
    """A deflated member: unpacked piece by piece, and no further than it claims to go."""

    __slots__ = ("_check", "_member", "_packed")

    def __init__(
        self, packed: memoryview, member: zipfile.ZipInfo, check: Callable[[int], None]
    ) -> None:
        self._packed = packed
        self._member = member
        self._check = check

    def whole(self) -> NDArray[np.uint8]:
        """Unpack all of it."""
        target = np.empty(self._member.file_size, np.uint8)
        at = 0
        for piece in self.pieces():
            target[at : at + len(piece)] = piece
            at += len(piece)
        return target

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Unpack it; what is too long or too short is found out, as is a wrong checksum."""
        nbytes = self._member.file_size
        expected = f"member {quoted(self._member.filename)} to unpack to {nbytes:,} bytes"
        at = crc = 0
        for piece in _inflate(self._packed, _PIECE_NBYTES):
            at += len(piece)
            if at > nbytes:
                raise damaged(expected, "more")
            crc = zlib.crc32(piece, crc)
            yield np.frombuffer(piece, np.uint8)
        if at < nbytes:
            raise damaged(expected, f"{at:,}")
        self._check(crc)


def _inflate(packed: memoryview, piece_nbytes: int) -> Iterator[bytes]:
    """Unpack a deflate stream in pieces of at most `piece_nbytes` bytes.

    Not ``ZipFile.open``: it stops silently at the declared size, and a size that lies is the point.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    for at in range(0, len(packed), _PIECE_NBYTES):
        feed = bytes(packed[at : at + _PIECE_NBYTES])
        while True:
            try:
                piece = engine.decompress(feed, piece_nbytes)
            except zlib.error as error:
                raise damaged("a deflate stream", printable(str(error), 120)) from None
            feed = engine.unconsumed_tail
            if piece:
                yield piece
            if engine.eof or (not feed and len(piece) < piece_nbytes):
                break
        if engine.eof:
            break
    if not engine.eof or engine.unused_data:
        raise damaged("a deflate stream that ends with its member", "one that does not")
