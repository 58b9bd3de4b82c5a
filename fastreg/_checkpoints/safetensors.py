# SPDX-License-Identifier: BSD-3-Clause
"""The reader of ``.safetensors``.

The header is read here and not by the ``safetensors`` package because that package's NumPy front
end has no bfloat16 and copies every tensor; its own reader is the oracle of the tests.
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from typing import Any

from fastreg._checkpoints.tensor import (
    NATIVE,
    Mapped,
    Tensor,
    count,
    cut_short,
    damaged,
    is_extent,
    quoted,
    shape_shown,
)
from fastreg._core.dtypes import ALL, NARROW, Dtype
from fastreg.errors import printable

__all__ = ["json_object", "read_safetensors"]

# The limit of the safetensors reference implementation (MAX_HEADER_SIZE).
_MAX_HEADER_BYTES = 100_000_000
# The narrow types that have the short name of a type of this format.
_ELEMENTS: dict[str, Dtype] = {dtype.short: dtype for dtype in (*ALL, *NARROW[:5])}
# Element types that the format knows and fastreg does not read: name -> bits per element.
_UNREAD_BITS: dict[str, int] = {"f4": 4, "f6_e2m3": 6, "f6_e3m2": 6, "c64": 64}
# Those of them that have neither NaN nor infinity (OCP Microscaling Formats 1.0, 5.3).
_FINITE = ("f4", "f6_e2m3", "f6_e3m2")


def read_safetensors(view: mmap.mmap) -> list[Tensor]:
    """List the tensors: 8 bytes of length, a JSON object, then the elements without a gap.

    https://huggingface.co/docs/safetensors: dtype, shape and data_offsets per name; no duplicate
    names, no overlaps, no holes.  The bytes are little-endian.
    """
    if len(view) < 8:
        raise cut_short("at least the 8 bytes of a safetensors header length", f"{len(view)}")
    header_nbytes = int.from_bytes(view[:8], "little")
    if len(view) - 8 < header_nbytes <= _MAX_HEADER_BYTES and view[8:9] in (b"{", b""):
        raise cut_short(
            f"a safetensors header of {header_nbytes:,} bytes", f"{len(view) - 8:,} of them"
        )
    if header_nbytes > min(_MAX_HEADER_BYTES, len(view) - 8):
        raise damaged(
            f"a safetensors header within the {len(view):,} bytes of the file and at most "
            f"{_MAX_HEADER_BYTES:,} bytes",
            f"a header length of {header_nbytes:,}",
        )
    entries = _safetensors_header(view[8 : 8 + header_nbytes])
    start = 8 + header_nbytes
    nbytes = len(view) - start

    def begin_and_end(entry: tuple[str, str, tuple[int, ...], int, int]) -> tuple[int, int]:
        return entry[3:]

    tensors = []
    position = 0
    end_of_all = max((entry[4] for entry in entries), default=0)
    for name, dtype, shape, begin, end in sorted(entries, key=begin_and_end):
        if begin != position:
            raise damaged(
                f"tensor {quoted(name)} to begin at byte {position:,}, where the one before ends",
                f"data_offsets [{begin}, {end}]",
            )
        n = count(shape)
        bits = _UNREAD_BITS.get(dtype) or 8 * _ELEMENTS[dtype].itemsize
        if n < 0 or n * bits != 8 * (end - begin):
            raise damaged(
                f"data_offsets of tensor {quoted(name)} that hold {shape_shown(shape)} of {dtype}",
                f"a span of {end - begin:,} bytes",
            )
        position = end
        if end > nbytes:
            raise cut_short(
                f"{end_of_all:,} bytes of tensors after the header",
                f"{nbytes:,}, which end in or before tensor {quoted(name)}",
            )
        elements = _ELEMENTS.get(dtype)
        skipped = "" if elements else f"{dtype} is not a type that fastreg reads"
        swapped = NATIVE != "<" and elements is not None and elements.itemsize > 1
        source = Mapped(view, start + begin, end - begin)
        tensors.append(
            Tensor(
                name,
                shape,
                dtype,
                n,
                end - begin,
                skipped,
                elements,
                swapped,
                source=source,
                finite=dtype in _FINITE,
            )
        )
    if position != nbytes:
        raise damaged(f"{position:,} bytes of tensors after the header", f"{nbytes:,} bytes")
    return tensors


def _safetensors_header(text: bytes) -> list[tuple[str, str, tuple[int, ...], int, int]]:
    """Parse the JSON header into (name, dtype, shape, begin, end), each checked by itself."""

    header = json_object(text, "a safetensors header")
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(v) is str for v in metadata.values()):
        raise damaged("__metadata__ that maps text to text", type(metadata).__name__)
    entries = []
    for name, info in header.items():
        try:
            dtype, shape, (begin, end) = info["dtype"], info["shape"], info["data_offsets"]
            if type(dtype) is not str or type(shape) is not list:
                raise TypeError
            if not all(map(is_extent, (*shape, begin, end))):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise damaged(
                f"dtype, shape and two data_offsets for tensor {quoted(name)}, all whole and >= 0",
                printable(repr(info), 120),
            ) from None
        if begin > end:
            raise damaged(f"data_offsets of tensor {quoted(name)} in order", f"[{begin}, {end}]")
        dtype_name = dtype.lower()
        if dtype != dtype.upper() or dtype_name not in _ELEMENTS | _UNREAD_BITS:
            raise damaged(f"a known dtype for tensor {quoted(name)}", quoted(dtype))
        entries.append((name, dtype_name, tuple(shape), begin, end))
    return entries


def json_object(text: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object in which no name stands twice; an error is of a damaged file."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the name {quoted(twice)} twice")
        for key in table:
            key.encode()  # an unpaired surrogate escape is no name
        return table

    def refuse(constant: str) -> None:
        raise ValueError(f"the number {constant}")

    try:
        if not text.lstrip(b" \t\r\n").startswith(b"{"):
            raise ValueError(f"text that starts with {text[:8]!r}")
        found: dict[str, Any] = json.loads(
            text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse
        )
    except (ValueError, RecursionError) as error:
        raise damaged(f"{what} that is one JSON object", printable(str(error), 160)) from None
    return found
