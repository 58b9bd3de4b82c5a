# SPDX-License-Identifier: BSD-3-Clause
"""Readers of checkpoint files: ``.safetensors``, ``.npz`` and ``.npy``.

Four rules hold for every format.

*Nothing is executed.*  No pickle, no ``allow_pickle``, no class named by a file.

*Nothing is believed.*  A file is untrusted: every length, offset, shape and name in it is checked
against the size of the file before it is used, and the first thing that is wrong becomes one
:class:`~fastreg.errors.CheckpointError`.

*Nothing is copied that can be mapped.*  Tensors are read-only views of the mapped file.  Only the
compressed members of a ``.npz`` have to be unpacked into memory, up to a limit.

*Nothing is printed as it is.*  Messages quote a file escaped, and errors of the parsers, which may
quote it raw, are not shown as their cause.

The safetensors header is read here and not by the ``safetensors`` package because that package's
NumPy front end has no bfloat16 and copies every tensor; its own reader is the oracle of the tests.
The ``.npy`` header is read here because the public parts of ``numpy.lib.format`` neither cover
version 3 nor leave an untrusted element type alone (they hand it to ``np.dtype``, and warn).

A file that is cut short by somebody else *while* it is mapped ends the process with SIGBUS, as it
does for every program that maps files; sizes are checked when the file is opened.
"""

from __future__ import annotations

import ast
import json
import mmap
import os
import re
import stat
import sys
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastreg._core.arrays import HostArray
from fastreg._core.dtypes import ALL, BF16, Dtype
from fastreg._core.text import printable
from fastreg.errors import CheckpointError, message

__all__ = ["DEFAULT_MAX_UNPACKED_BYTES", "Checkpoint", "Tensor", "read_checkpoint"]

DEFAULT_MAX_UNPACKED_BYTES = 4 << 30
"""What the compressed members of one ``.npz`` may unpack to, together, by default."""

# The limit of the safetensors reference implementation (MAX_HEADER_SIZE).
_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
# The limit of NumPy (`max_header_size`): `ast.literal_eval` is not made for more.
_MAX_NPY_HEADER_BYTES = 10_000
# No n or offset beyond this can belong to a file, so products of dimensions stop here.
_MAX_N = 2**63 - 1
_PIECE_BYTES = 1 << 20

_DTYPES: dict[str, Dtype] = {dtype.short: dtype for dtype in ALL}
# Element types that safetensors knows and the kernels do not read: name -> bits per element.
_UNREAD_BITS: dict[str, int] = {
    "f4": 4,
    "f6_e2m3": 6,
    "f6_e3m2": 6,
    "f8_e4m3": 8,
    "f8_e5m2": 8,
    "f8_e8m0": 8,
    "f8_e4m3fnuz": 8,
    "f8_e5m2fnuz": 8,
    "c64": 64,
}


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
        ``"f16" "bf16" "f32" "f64" "i8"`` … ``"u64" "bool"``, or the name of a type that the
        kernels do not read.
    n : int
        Number of elements, the product of `shape`.
    nbytes : int
        Bytes the elements take, unpacked.
    skipped : str
        Why the elements cannot be read; empty if they can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    n: int
    nbytes: int
    skipped: str = ""
    _load: Callable[[], NDArray[Any]] | None = field(default=None, repr=False, compare=False)

    def array(self) -> NDArray[Any]:
        """Return the elements as a one-dimensional array, in the order of the file.

        Returns
        -------
        ndarray, shape (n,)
            Of the native type that `dtype` names; ``uint16`` holding the bits for ``"bf16"``.
            A read-only view of the mapped file, perhaps misaligned, or an array of its own for a
            compressed ``.npz`` member.  Flat, because no statistic of a penalty depends on the
            shape and a file may claim more dimensions than NumPy can hold.

        Raises
        ------
        CheckpointError
            If the tensor is `skipped`, or its elements turn out to be damaged.
        """
        if self._load is None:
            raise CheckpointError(
                message("a tensor that the kernels read", self.skipped, "leave it out")
            )
        array = self._load()
        if self.dtype == "bool":
            largest = int(array.view(np.uint8).max(initial=0))
            if largest > 1:
                raise _fail(
                    f"booleans of 0 or 1 in tensor {_quote(self.name)}", f"a byte of {largest}"
                )
        return array

    def host_array(self) -> HostArray:
        """Return :meth:`array` with its element type, as kernels take it."""
        return HostArray(self.array(), _DTYPES[self.dtype])


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
        In the order in which the file stores their elements.
    """

    path: str
    format: str
    nbytes: int
    tensors: tuple[Tensor, ...]


def read_checkpoint(
    path: str | os.PathLike[str], *, max_unpacked_bytes: int = DEFAULT_MAX_UNPACKED_BYTES
) -> Checkpoint:
    """Open a checkpoint, check all that it says about itself, and list its tensors.

    Parameters
    ----------
    path : str or path-like
        A ``.safetensors``, ``.npz`` or ``.npy`` file.  The content decides, not the suffix.
    max_unpacked_bytes : int, default 4 GiB
        What the compressed members of a ``.npz`` may unpack to, together; >= 0.

    Returns
    -------
    Checkpoint
        Elements stay in the mapped file (or packed) until :meth:`Tensor.array` asks for them.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is of another kind, is truncated or contradicts itself.  The
        message is one line and safe to print.

    Notes
    -----
    The checksum of a ``.npz`` member is checked when its elements are asked for.  Element types
    that the kernels do not read (8-bit floats, complex, text, big-endian numbers) and object
    arrays inside a ``.npz`` are listed as `skipped`; a ``.npy`` that holds objects is refused.
    """
    name = os.fspath(path)
    try:
        # Before open(): opening a named pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(name).st_mode):
            kind = "a directory" if os.path.isdir(name) else "a device, pipe or socket"
            raise CheckpointError(message("a checkpoint file", kind, "name the files themselves"))
        with open(name, "rb") as file:
            nbytes = os.fstat(file.fileno()).st_size
            if nbytes == 0:
                raise CheckpointError(
                    message("a checkpoint", "an empty file", "save or download it again")
                )
            view = mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ)
            kind, tensors = _read(file, view, name, max_unpacked_bytes)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        # ValueError: a NUL byte in the path, or a file that shrank between fstat and mmap.
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            message("a readable file", printable(reason, 120), "check the path and its permissions")
        ) from error
    return Checkpoint(name, kind, nbytes, tuple(tensors))


# ---- which format ---------------------------------------------------------------------------


def _read(file: BinaryIO, view: mmap.mmap, path: str, limit: int) -> tuple[str, list[Tensor]]:
    """Tell the format by its first bytes and hand over to its reader."""
    head = view[:16]
    if head.startswith(b"\x93NUMPY"):
        return "npy", [_read_npy(view, Path(path).stem)]
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz", _read_npz(file, view, limit)
    suffix = Path(path).suffix.lower()
    if suffix == ".safetensors" or head[8:9] == b"{":
        return "safetensors", _read_safetensors(view)
    if suffix in (".npy", ".npz"):
        received = f"a {suffix} file that starts with {head[:6]!r}"
        action = "it is damaged or misnamed: save or download it again"
    elif head.startswith(b"\x89HDF"):
        received, action = "an HDF5 file", "load it with its framework and save it as .safetensors"
    elif head.startswith(b"\x80") and suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        received, action = "a pickle, which is never loaded", "save it as .safetensors"
    else:
        received = f"a file that starts with {head[:8]!r}"
        action = "save the weights as one of these"
    raise CheckpointError(message(".safetensors, .npz or .npy content", received, action))


def _fail(expected: str, received: str) -> CheckpointError:
    """Word the error of a file that contradicts itself."""
    return CheckpointError(
        message(expected, received, "the file is damaged or forged: save or download it again")
    )


def _quote(text: str) -> str:
    return f"'{printable(text, 80)}'"


def _count(shape: tuple[int, ...]) -> int:
    """Multiply the dimensions; past `_MAX_N` no file can follow, so -1 stands for "too many"."""
    n = 1
    for dimension in shape:
        n *= dimension
        if n > _MAX_N:
            return -1
    return n


def _show(shape: tuple[int, ...]) -> str:
    text = str(list(shape[:8]))
    return text if len(shape) <= 8 else f"{text[:-1]}, … {len(shape)} dimensions]"


def _mapped(view: mmap.mmap, dtype: str, n: int, offset: int) -> Callable[[], NDArray[Any]]:
    """Return a loader of a view of the mapped file.  Nothing is assumed about alignment."""

    def load() -> NDArray[Any]:
        if n == 0:  # np.frombuffer refuses an offset at the very end
            return np.empty(0, _DTYPES[dtype].view)
        return np.frombuffer(view, _DTYPES[dtype].view, n, offset)

    return load


# ---- safetensors ----------------------------------------------------------------------------


def _read_safetensors(view: mmap.mmap) -> list[Tensor]:
    """Read the header: 8 bytes of length, a JSON object, then the elements without a gap.

    https://huggingface.co/docs/safetensors: dtype, shape and data_offsets per name; no duplicate
    names, no overlaps, no holes.  The bytes are little-endian.
    """
    if len(view) < 8:
        raise _fail("at least the 8 bytes of a safetensors header length", f"{len(view)} bytes")
    header_nbytes = int.from_bytes(view[:8], "little")
    if header_nbytes > min(_MAX_SAFETENSORS_HEADER_BYTES, len(view) - 8):
        raise _fail(
            f"a safetensors header within the {len(view):,} bytes of the file and at most "
            f"{_MAX_SAFETENSORS_HEADER_BYTES:,} bytes",
            f"a header length of {header_nbytes:,}",
        )
    entries = _safetensors_header(view[8 : 8 + header_nbytes])
    start = 8 + header_nbytes

    def begin_and_end(entry: tuple[str, str, tuple[int, ...], int, int]) -> tuple[int, int]:
        return entry[3:]

    tensors = []
    position = 0
    for name, dtype, shape, begin, end in sorted(entries, key=begin_and_end):
        if begin != position:
            raise _fail(
                f"tensor {_quote(name)} to begin at byte {position:,}, where the one before ends",
                f"data_offsets [{begin}, {end}]",
            )
        n = _count(shape)
        bits = _UNREAD_BITS.get(dtype) or 8 * _DTYPES[dtype].itemsize
        if n < 0 or n * bits != 8 * (end - begin):
            raise _fail(
                f"data_offsets of tensor {_quote(name)} that hold {_show(shape)} of {dtype}",
                f"a span of {end - begin:,} bytes",
            )
        position = end
        if dtype in _UNREAD_BITS:
            skipped = f"{dtype} is not a type that the kernels read"
            tensors.append(Tensor(name, shape, dtype, n, end - begin, skipped))
        elif sys.byteorder == "big" and bits > 8:
            skipped = "little-endian numbers on a big-endian machine"
            tensors.append(Tensor(name, shape, dtype, n, end - begin, skipped))
        else:
            load = _mapped(view, dtype, n, start + begin)
            tensors.append(Tensor(name, shape, dtype, n, end - begin, "", load))
    if position != len(view) - start:
        raise _fail(
            f"{position:,} bytes of tensors after the header", f"{len(view) - start:,} bytes"
        )
    return tensors


def _safetensors_header(text: bytes) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    """Parse the JSON header into (name, dtype, shape, begin, end), each checked by itself."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the name {_quote(twice)} twice")
        for key in table:
            key.encode()  # an unpaired surrogate escape is no name
        return table

    def refuse(constant: str) -> None:
        raise ValueError(f"the number {constant}")

    try:
        if not text.startswith(b"{"):
            raise ValueError(f"a header that starts with {text[:8]!r}")
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _fail(
            "a safetensors header that is one JSON object", printable(str(error), 160)
        ) from None
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(v) is str for v in metadata.values()):
        raise _fail("__metadata__ that maps text to text", type(metadata).__name__)
    entries = []
    for name, info in header.items():
        try:
            dtype, shape, (begin, end) = info["dtype"], info["shape"], info["data_offsets"]
            if type(dtype) is not str or type(shape) is not list:
                raise TypeError
            if not all(type(k) is int and 0 <= k <= _MAX_N for k in (*shape, begin, end)):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise _fail(
                f"dtype, shape and two data_offsets for tensor {_quote(name)}, all whole and >= 0",
                printable(repr(info), 120),
            ) from None
        if begin > end:
            raise _fail(f"data_offsets of tensor {_quote(name)} in order", f"[{begin}, {end}]")
        dtype_name = dtype.lower()
        if dtype != dtype.upper() or dtype_name not in _DTYPES | _UNREAD_BITS:
            raise _fail(f"a known dtype for tensor {_quote(name)}", _quote(dtype))
        entries.append((name, dtype_name, tuple(shape), begin, end))
    return entries


# ---- npy ------------------------------------------------------------------------------------

_NPY_CODE = re.compile(r"([<>|=])([fiub])([1248])")
# NumPy's code and size of each: ``"f4"``. It has none for bfloat16.
_NPY_NAMES = {dtype.view.str[1:]: dtype.short for dtype in ALL if dtype is not BF16}
_NPY_OTHER = re.compile(r"[<>|=]?([a-zA-Z?])([0-9]{0,9})(\[[^\]]*\])?")


@dataclass(frozen=True, slots=True)
class _NpyHeader:
    """What a ``.npy`` header says: where the elements begin and what they are."""

    shape: tuple[int, ...]
    dtype: str
    n: int
    skipped: str
    itemsize: int | None  # None if only NumPy could tell
    offset: int


def _read_npy(view: mmap.mmap, name: str) -> Tensor:
    """Read a whole ``.npy`` file: one header, then the elements up to the end of the file."""
    header = _npy_header(view[: 12 + _MAX_NPY_HEADER_BYTES], len(view))
    if header.dtype == "object":
        raise CheckpointError(
            message(
                "numbers",
                "an array of Python objects, stored as pickle, which is never loaded",
                "save it with a numeric dtype",
            )
        )
    load = None if header.skipped else _mapped(view, header.dtype, header.n, header.offset)
    nbytes = len(view) - header.offset
    return Tensor(name, header.shape, header.dtype, header.n, nbytes, header.skipped, load)


def _npy_header(head: bytes, nbytes: int) -> _NpyHeader:
    """Parse and check a ``.npy`` header.

    `head` is the beginning of the file (or member), at least the header if it is complete;
    `nbytes` the size of the whole.  Format: ``numpy.lib.format``, versions 1 to 3.
    """
    version = head[6:8]
    if not head.startswith(b"\x93NUMPY") or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise _fail("the .npy magic and version 1, 2 or 3", repr(head[:8]))
    start = 10 if version == b"\1\0" else 12
    header_nbytes = int.from_bytes(head[8:start], "little")
    if header_nbytes > min(_MAX_NPY_HEADER_BYTES, nbytes - start) or len(head) < start:
        raise _fail(
            f"a .npy header within the {nbytes:,} bytes of the file and at most "
            f"{_MAX_NPY_HEADER_BYTES:,} bytes",
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
        if not all(type(k) is int and 0 <= k <= _MAX_N for k in shape):
            raise TypeError
    # What a parser may answer to hostile text, deep nesting included.
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError):
        raise _fail(
            "a .npy header with descr, fortran_order and shape",
            printable(raw[:100].decode("latin1"), 100),
        ) from None
    dtype, skipped, itemsize = _npy_dtype(descr)
    n = _count(shape)
    if n < 0 or (itemsize is not None and n * itemsize != nbytes - offset):
        raise _fail(
            f"{_show(shape)} of {printable(str(descr), 40)} after the header",
            f"{nbytes - offset:,} bytes",
        )
    return _NpyHeader(shape, dtype, n, skipped, itemsize, offset)


def _npy_dtype(descr: object) -> tuple[str, str, int | None]:
    """Name an element type: (name, why it is skipped, bytes per element if that is certain).

    `descr` is never handed to ``np.dtype``: what it makes of hostile text is NumPy's business.
    """
    if type(descr) is list:
        text = repr(descr)
        if re.search(r"'[<>|=]?O", text):
            return "object", "Python objects are pickled and never loaded", None
        return "struct", "records are not a type that the kernels read", None
    if type(descr) is not str:
        raise _fail("a .npy descr that is text or a list", printable(repr(descr), 80))
    match = _NPY_CODE.fullmatch(descr)
    if match and match[2] + match[3] in _NPY_NAMES:
        dtype = _NPY_NAMES[match[2] + match[3]]
        itemsize = int(match[3])
        native = "<" if sys.byteorder == "little" else ">"
        # Refused, not converted: an exact total needs all elements at once, so a conversion in
        # chunks would end as a copy of the whole.
        if itemsize > 1 and match[1] not in (native, "="):
            order = "big" if match[1] == ">" else "little"
            return dtype, f"{order}-endian numbers on a machine of the other order", itemsize
        return dtype, "", itemsize
    other = _NPY_OTHER.fullmatch(descr)
    if not other:
        raise _fail("a known .npy descr", _quote(descr))
    if other[1] == "O":
        return "object", "Python objects are pickled and never loaded", None
    code = printable(descr.lstrip("<>|="), 20)
    if other[1] == "V":
        return code, "raw bytes: NumPy forgets bfloat16, use .safetensors for it", None
    return code, f"{code} is not a type that the kernels read", None


# ---- npz ------------------------------------------------------------------------------------


def _read_npz(file: BinaryIO, view: mmap.mmap, limit: int) -> list[Tensor]:
    """List the members of a ``.npz``: a zip archive of ``.npy`` files, stored or deflated."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    # zipfile answers a hostile directory with whatever its parser stumbled over.
    except Exception as error:
        raise _fail(
            "a complete zip directory at the end of the .npz", printable(str(error), 120)
        ) from None
    if any(member.filename.split("/")[-1] == "data.pkl" for member in members):
        raise CheckpointError(
            message(
                ".safetensors, .npz or .npy content",
                "a PyTorch archive, which is a pickle and never loaded",
                "save it as .safetensors",
            )
        )
    if members and not any(member.filename.endswith(".npy") for member in members):
        raise CheckpointError(
            message(
                ".safetensors, .npz or .npy content",
                f"a zip archive without a .npy in it, but with {_quote(members[0].filename)}",
                "unpack it and give the checkpoint inside",
            )
        )
    tensors = []
    packed = 0
    end = 0
    names: set[str] = set()
    for member in sorted(members, key=lambda member: member.header_offset):
        name = member.filename.removesuffix(".npy")
        if name in names:
            raise _fail("every member name once", f"{_quote(member.filename)} twice")
        names.add(name)
        start = _member_start(view, member)
        # Overlapping members are how a small file unpacks to a huge one many times over.
        if member.header_offset < end:
            raise _fail("members that follow each other", f"{_quote(member.filename)} overlapping")
        end = start + member.compress_size
        if not member.filename.endswith(".npy"):
            skipped = "a member that is no .npy"
            tensors.append(Tensor(name, (), "?", 0, member.file_size, skipped))
            continue
        try:
            tensor = _read_member(view, member, name, start)
        except CheckpointError as error:
            raise CheckpointError(f"member {_quote(member.filename)}: {error}") from None
        if member.compress_type == zipfile.ZIP_DEFLATED and not tensor.skipped:
            packed += member.file_size
        tensors.append(tensor)
    if packed > limit:
        raise CheckpointError(
            message(
                f"compressed members that unpack to at most {limit:,} bytes",
                f"{packed:,} bytes",
                "if you trust the file, raise --max-unpacked-bytes",
            )
        )
    return tensors


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
        raise _fail(
            f"a local header for {_quote(member.filename)} that agrees with the zip directory",
            f"another one at byte {at:,}",
        )
    if member.flag_bits & 1:
        raise CheckpointError(
            message("members that are not encrypted", _quote(member.filename), "decrypt it first")
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CheckpointError(
            message(
                "members stored or deflated, as np.savez and np.savez_compressed write them",
                f"compression method {member.compress_type} for {_quote(member.filename)}",
                "write the file again",
            )
        )
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        raise _fail(
            f"one size for the stored member {_quote(member.filename)}",
            f"{member.compress_size:,} and {member.file_size:,} bytes",
        )
    return start


def _read_member(view: mmap.mmap, member: zipfile.ZipInfo, name: str, start: int) -> Tensor:
    """Read the ``.npy`` header of a member; its elements are read by the tensor's loader."""
    head_nbytes = 12 + _MAX_NPY_HEADER_BYTES
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
    nbytes = member.file_size - header.offset
    if header.skipped:
        return Tensor(name, header.shape, header.dtype, header.n, nbytes, header.skipped)

    def check(crc: int) -> None:
        if crc != member.CRC:
            raise _fail(
                f"checksum {member.CRC:08x} of member {_quote(member.filename)}", f"{crc:08x}"
            )

    def load_stored() -> NDArray[Any]:
        crc = 0
        for at in range(0, len(packed), _PIECE_BYTES):
            crc = zlib.crc32(packed[at : at + _PIECE_BYTES], crc)
        check(crc)
        return _mapped(view, header.dtype, header.n, start + header.offset)()

    def load_packed() -> NDArray[Any]:
        target = np.empty(member.file_size, np.uint8)
        at = crc = 0
        for piece in _inflate(packed, _PIECE_BYTES):
            if at + len(piece) > len(target):
                raise _fail(
                    f"member {_quote(member.filename)} to unpack to {len(target):,} bytes", "more"
                )
            target[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            crc = zlib.crc32(piece, crc)
            at += len(piece)
        if at < len(target):
            raise _fail(
                f"member {_quote(member.filename)} to unpack to {len(target):,} bytes", f"{at:,}"
            )
        check(crc)
        return target[header.offset :].view(_DTYPES[header.dtype].view)

    load = load_stored if stored else load_packed
    return Tensor(name, header.shape, header.dtype, header.n, nbytes, "", load)


def _inflate(packed: memoryview, piece_nbytes: int) -> Iterator[bytes]:
    """Unpack a deflate stream in pieces of at most `piece_nbytes` bytes.

    Not ``ZipFile.open``: it stops silently at the declared size, and a size that lies is the point.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    for at in range(0, len(packed), _PIECE_BYTES):
        feed = bytes(packed[at : at + _PIECE_BYTES])
        while True:
            try:
                piece = engine.decompress(feed, piece_nbytes)
            except zlib.error as error:
                raise _fail("a deflate stream", printable(str(error), 120)) from None
            feed = engine.unconsumed_tail
            if piece:
                yield piece
            if engine.eof or (not feed and len(piece) < piece_nbytes):
                break
        if engine.eof:
            break
    if not engine.eof or engine.unused_data:
        raise _fail("a deflate stream that ends with its member", "one that does not")
