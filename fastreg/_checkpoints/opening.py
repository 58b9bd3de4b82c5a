# SPDX-License-Identifier: BSD-3-Clause
"""Open a checkpoint file, whatever its format."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import BinaryIO

from fastreg._checkpoints import foreign
from fastreg._checkpoints.numpy_files import read_npy, read_npz
from fastreg._checkpoints.safetensors import read_safetensors
from fastreg._checkpoints.tensor import Budget, Checkpoint, Tensor, unreadable
from fastreg.errors import CheckpointError, message

__all__ = ["read_checkpoint"]


def read_checkpoint(
    path: str | os.PathLike[str], *, budget: Budget | None = None, name: str | None = None
) -> Checkpoint:
    """Open a checkpoint, check all that it says about itself, and list its tensors.

    Parameters
    ----------
    path : str or path-like
        A ``.safetensors``, ``.npz`` or ``.npy`` file.  The content decides, not the suffix.
    budget : Budget, optional
        What compressed members may unpack to; by default 4 GiB for this file alone.
    name : str, optional
        What the file is called, if not `path`: the one array of a ``.npy`` has no other name.

    Returns
    -------
    Checkpoint
        Elements stay in the mapped file (or packed) until they are asked for. Nothing of it is
        open once the tensors, and what was read of them, are gone.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is of another kind, is truncated or contradicts itself.  The
        message is one line and safe to print.

    Notes
    -----
    The checksum of a ``.npz`` member is checked when its elements are asked for.  Element types
    that fastreg does not read (complex, text, types that NumPy forgot) and object arrays inside a
    ``.npz`` are listed as `skipped`; a ``.npy`` that holds objects is refused.
    """
    where = os.fspath(path)
    known = name or where
    try:
        # Before open(): opening a named pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(where).st_mode):
            kind = "a directory" if os.path.isdir(where) else "a device, pipe or socket"
            raise CheckpointError(
                message("a checkpoint file", kind, "name the files themselves, or - for a pipe")
            )
        with open(where, "rb") as file:
            nbytes = os.fstat(file.fileno()).st_size
            if nbytes == 0:
                raise CheckpointError(
                    message("a checkpoint", "an empty file", "save or download it again")
                )
            view = mmap.mmap(file.fileno(), nbytes, access=mmap.ACCESS_READ)
            kind, tensors = _read(file, view, Path(known), budget or Budget())
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(error) from error
    return Checkpoint(known, kind, nbytes, tuple(tensors))


def _read(file: BinaryIO, view: mmap.mmap, path: Path, budget: Budget) -> tuple[str, list[Tensor]]:
    """Tell the format by its first bytes and hand over to its reader."""
    head = view[:32]
    suffix = path.suffix.lower()
    if head.startswith(b"\x93NUMPY"):
        return "npy", [read_npy(view, path.stem)]
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz", read_npz(file, view, suffix, budget)
    if head.startswith(b"version https://git-lfs") or foreign.is_page(head):
        raise foreign.refusal(head, suffix)
    if suffix == ".safetensors" or head[8:9] == b"{":
        return "safetensors", read_safetensors(view)
    raise foreign.refusal(head, suffix)
