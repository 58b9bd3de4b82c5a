# SPDX-License-Identifier: BSD-3-Clause
"""Which files a path means: a file, all shards of an index, a folder, or standard input."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from fastreg._checkpoints import foreign
from fastreg._checkpoints.safetensors import json_object
from fastreg._checkpoints.tensor import Checkpoint, damaged, quoted, unreadable
from fastreg.errors import CheckpointError, message

__all__ = ["Found", "find", "is_standard_input"]

_INDEX = ".safetensors.index.json"
_READ = (".safetensors", ".npz", ".npy")
_SHARD = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})(\.\w+)", re.S)
# An index is a header without shapes; the reference implementation has that limit for one.
_MAX_INDEX_BYTES = 100_000_000
_MOST_NAMED = 5
_PIECE_NBYTES = 1 << 20


@dataclass(slots=True)
class Found:
    """One file to read, or why there is none.

    Attributes
    ----------
    path : str
        Of the file, as people know it.
    place : str
        Where to open it: elsewhere for standard input.
    tensors : tuple of str
        Names of tensors that an index says are in it.
    error : str
        Why it is not to be read; empty if it is.
    left_out : tuple of str
        Of a folder, other files that seem to hold weights.
    """

    path: str
    place: str = ""
    tensors: tuple[str, ...] = field(default=(), repr=False)
    error: str = ""
    left_out: tuple[str, ...] = ()

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointError if a tensor that the index names is not in its file."""
        missing = sorted(set(self.tensors) - {tensor.name for tensor in checkpoint.tensors})
        if missing:
            raise CheckpointError(
                message(
                    "the tensors that its index names",
                    f"a file without {_listed(missing)}",
                    "download the file and its index again, from one version",
                )
            )


def find(paths: Sequence[str], *, most_input: int | None, keep: ExitStack) -> Iterator[Found]:
    """Yield the files that paths mean.

    Parameters
    ----------
    paths : sequence of str
        Each a file; an ``*.safetensors.index.json``, which means its shards; a folder, which means
        the checkpoints that lie in it; or ``-``, standard input.
    most_input : int or None
        How many bytes of standard input are taken; None: ``-`` is a file like any other.
    keep : ExitStack
        Where what came from standard input is kept, until it is closed.
    """
    read = False
    for path in paths:
        try:
            if most_input is not None and is_standard_input(path):
                if read:
                    raise CheckpointError(
                        message("standard input once", "twice", "give it once, or files")
                    )
                read = True
                yield Found(path, keep.enter_context(_spooled(most_input)))
            elif path.endswith(_INDEX):
                yield from _shards(path)
            elif os.path.isdir(path):
                yield from _folder(path)
            else:
                yield Found(path, path)
        except CheckpointError as error:
            yield Found(path, error=str(error))
        except (OSError, ValueError) as error:
            yield Found(path, error=str(unreadable(error)))


# -- Indexes ---------------------------------------------------------------------------------------


def _shards(path: str) -> list[Found]:
    """Return the files of an index, in order of their names, and an error for those not there."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise CheckpointError(message("an index file", "none", "name the file itself"))
    with open(path, "rb") as file:
        text = file.read(_MAX_INDEX_BYTES + 1)
    if text.startswith(b"version https://git-lfs"):
        raise foreign.refusal(text, "")
    if len(text) > _MAX_INDEX_BYTES:
        raise damaged(f"an index of at most {_MAX_INDEX_BYTES:,} bytes", "more")
    weights = json_object(text, "a safetensors index").get("weight_map")
    if type(weights) is not dict or not all(type(file) is str for file in weights.values()):
        raise damaged("a weight_map from tensors to files", f"a {type(weights).__name__}")
    names: dict[str, list[str]] = {}
    for tensor, name in weights.items():
        names.setdefault(name, []).append(tensor)
    for name in names:
        # An index is no more trusted than a checkpoint: it names what lies beside it.
        if not _is_plain(name):
            raise damaged("shards that lie beside their index", quoted(name))
    folder = os.path.dirname(path)
    found, missing = [], []
    for name in sorted(names):
        place = os.path.join(folder, name)
        if os.path.isfile(place):
            found.append(Found(place, place, tuple(names[name])))
        else:
            missing.append(name)
    if missing:
        found.append(Found(path, error=_incomplete(len(names), _listed(missing))))
    return found


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _incomplete(count: int, missing: str) -> str:
    return message(f"all of {count:,} shards", f"none called {missing}", "download them too")


def _listed(names: Sequence[str]) -> str:
    """Name the first few."""
    more = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(quoted, names[:_MOST_NAMED])) + more


# -- Folders ---------------------------------------------------------------------------------------


def _folder(path: str) -> list[Found]:
    """Return the checkpoints that lie in a folder, not in those below it."""
    names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
    found: list[Found] = []
    covered: set[str] = set()
    for name in names:
        if name.endswith(_INDEX):
            shards = _shards(os.path.join(path, name))
            found += shards
            covered |= {os.path.basename(shard.path) for shard in shards}
    alone = [n for n in names if n.lower().endswith(_READ) and n not in covered]
    found += [Found(place, place) for place in (os.path.join(path, name) for name in alone)]
    found += _gaps(path, alone)
    others = tuple(n for n in names if Path(n).suffix.lower() in foreign.SUFFIXES)
    if not found:
        if others:
            refusal = foreign.refusal(b"", Path(others[0]).suffix.lower())
            raise CheckpointError(
                f"{quoted(others[0])}, the first of those in the folder: {refusal}"
            )
        raise CheckpointError(
            message(
                "a folder with .safetensors, .npz or .npy files",
                f"one with {len(names):,} other files",
                "name the files themselves",
            )
        )
    found[0].left_out = others
    return found


def _gaps(path: str, names: Sequence[str]) -> list[Found]:
    """Return an error for each numbered set without an index of which a part is missing."""
    sets: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        if match := _SHARD.fullmatch(name):
            sets.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    found = []
    for (stem, total, suffix), present in sets.items():
        lacking = int(total) - len(present)
        if lacking > 0:
            absent = (k for k in range(1, int(total) + 1) if k not in present)
            first = quoted(f"{stem}-{next(absent):0{len(total)}}-of-{total}{suffix}")
            missing = f"{first} and {lacking - 1:,} more" if lacking > 1 else first
            found.append(Found(path, error=_incomplete(int(total), missing)))
    return found


# -- Standard input --------------------------------------------------------------------------------


def is_standard_input(path: str) -> bool:
    """Whether a path means what is piped in."""
    return path == "-" or (
        path in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0") and not os.path.isfile(path)
    )


class _spooled:
    """Standard input, copied to a file that can be mapped and is gone in the end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._file: IO[bytes] | None = None

    def __enter__(self) -> str:
        source = None if sys.stdin is None else sys.stdin.buffer
        if source is None or source.isatty():
            what = "a closed one" if source is None else "a terminal"
            raise CheckpointError(
                message("a checkpoint on standard input", what, "pipe it in, as from curl or cat")
            )
        import tempfile  # which nothing else here has a use for

        file = tempfile.NamedTemporaryFile(prefix="fastreg-")
        self._file = file
        nbytes = 0
        while piece := source.read(_PIECE_NBYTES):
            nbytes += len(piece)
            if nbytes > self._most:
                raise CheckpointError(
                    message(
                        f"at most {self._most:,} bytes on standard input",
                        "more",
                        "raise --max-unpacked-bytes, or save it to a file",
                    )
                )
            file.write(piece)
        file.flush()
        return file.name

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
