# SPDX-License-Identifier: BSD-3-Clause
"""Load a checkpoint as a dict of arrays, mapped where that can be."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from fastreg._checkpoints.finding import find
from fastreg._checkpoints.opening import read_checkpoint
from fastreg._checkpoints.tensor import Budget, Tensor, quoted
from fastreg._core.arrays import HostArray
from fastreg._core.dtypes import BF16, Narrow
from fastreg.errors import CheckpointError, message

__all__ = ["load"]


def load(
    path: str | os.PathLike[str], *, max_unpacked_bytes: int = Budget.DEFAULT
) -> dict[str, Any]:
    """Return the arrays of a checkpoint by name, without reading those that can be mapped.

    Parameters
    ----------
    path : str or path-like
        A ``.safetensors``, ``.npz`` or ``.npy`` file (the content decides, not the suffix), an
        ``*.safetensors.index.json``, which means all its shards, or a folder, which means the
        checkpoints that lie in it.
    max_unpacked_bytes : int, default 4 GiB
        What compressed members of ``.npz`` files may unpack to, together.

    Returns
    -------
    dict of str to ndarray
        In the order of the files and in them; the array of a ``.npy`` has the name of its file.
        Each has its shape and element type, in this machine's byte order. Mapped arrays are
        read-only and keep their file open; compressed ones and those of the other byte order are
        copies. bfloat16 and floats of one byte are those of ``ml_dtypes``; without that package
        they are what :func:`fastreg.bf16_view` returns. Floats of one byte are for
        :func:`fastreg.stats` and :func:`fastreg.check_finite`; no other function reads them.

    Raises
    ------
    CheckpointError
        (a ValueError) Naming the file, if it cannot be read or lies about itself, and naming the
        tensor, if one is of a type that fastreg does not read, such as complex numbers, or two
        files have one of the same name.

    Notes
    -----
    Nothing in a file is executed, and no pickle is loaded. Sizes are checked when the file is
    opened; one that is cut short while it is mapped ends the process, as with every map.

    Examples
    --------
    >>> import numpy as np, os, tempfile, fastreg
    >>> folder = tempfile.mkdtemp()
    >>> np.savez(os.path.join(folder, "model.npz"), kernel=np.array([[3.0, -4.0]]))
    >>> weights = fastreg.load(os.path.join(folder, "model.npz"))
    >>> fastreg.penalty(weights, l2=0.5)
    np.float64(12.5)
    """
    arrays: dict[str, Any] = {}
    budget = Budget(max_unpacked_bytes)
    with ExitStack() as keep:
        for found in find([os.fsdecode(path)], most_input=None, keep=keep):
            try:
                if found.error:
                    raise CheckpointError(found.error)
                checkpoint = read_checkpoint(found.place, budget=budget, name=found.path)
                found.check(checkpoint)
                for tensor in checkpoint.tensors:
                    if tensor.name in arrays:
                        raise CheckpointError(
                            message(
                                "tensors of distinct names",
                                f"{quoted(tensor.name)} in two files",
                                "load the files one by one",
                            )
                        )
                    arrays[tensor.name] = _array(tensor)
            except CheckpointError as error:
                raise CheckpointError(f"{found.path}: {error}") from None
    return arrays


def _array(tensor: Tensor) -> Any:
    """Return a tensor as users know it."""
    flat, elements = tensor.array(), tensor.elements
    try:
        data = flat.reshape(tensor.shape, order="F" if tensor.fortran else "C")
    except ValueError:
        raise CheckpointError(
            message(
                f"a tensor of as many dimensions as NumPy has at {quoted(tensor.name)}",
                f"{len(tensor.shape)}",
                "use python -m fastreg inspect, which needs no shape",
            )
        ) from None
    if elements is not BF16 and not isinstance(elements, Narrow):
        return data
    try:
        import ml_dtypes
    except ImportError:
        return HostArray(data, elements)
    return data.view(getattr(ml_dtypes, elements.name))
