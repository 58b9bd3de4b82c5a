# SPDX-License-Identifier: BSD-3-Clause
"""Which arrays are one and the same memory: tied weights, which count once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastreg._core.dtypes import name_of
from fastreg._core.frameworks import framework, is_recording, is_variable, loaded
from fastreg._kernels import own_their_memory

__all__ = ["address_of", "are_distinct", "identity"]


def are_distinct(xs: list[Any]) -> bool:
    """Whether these are of the commonest kinds, and each has memory of its own.

    Ndarrays of floats that are no views, or plain torch tensors that begin at different addresses.
    """
    torch = loaded("torch")
    if torch is not None and (torch.compiler.is_compiling() or is_recording(torch)):
        return False
    if own_their_memory(xs):
        return True
    if torch is None or not set(map(type, xs)) <= {torch.Tensor, torch.nn.Parameter}:
        return False
    try:
        addresses = set(map(torch.Tensor.data_ptr, xs))
    except RuntimeError:  # sparse, or without a storage
        return False
    return len(addresses) == len(xs) and 0 not in addresses


def identity(x: Any, k: int) -> Any:
    """Return what tells the memory of an array from that of others: the same for views of it.

    Parameters
    ----------
    x : ndarray, tensor, variable or any other array
    k : int
        The array's place, which stands for what has no identity: memory of no elements, and the
        values of JAX and TensorFlow.
    """
    if isinstance(x, np.ndarray):
        x = np.ndarray.view(x, np.ndarray) if type(x) is not np.ndarray else x
        return _of_ndarray(x) if x.size else ("empty", k)
    home = framework(x)
    if home == "torch":
        return _of_tensor(x)
    if home in ("jax", "tensorflow") and not is_variable(x):
        return ("value", k)
    return id(x)


def _of_ndarray(x: np.ndarray[Any, Any]) -> Any:
    """Return the addresses of the elements, whatever the order of axes, and how they are read."""
    if x.base is None and x.flags.forc:
        return (address_of(x), x.dtype, x.size)
    low = address_of(x)
    steps = []
    for stride, n in zip(x.strides, x.shape, strict=True):
        if n > 1:
            low += min(stride, 0) * (n - 1)
            steps.append((abs(stride), n))
    steps.sort()
    return (low, x.dtype, x.size if _is_dense(steps, x.itemsize) else tuple(steps))


def _of_tensor(x: Any) -> Any:
    """Do the same for a tensor of torch.

    Its object's identity where it has no memory that can be asked for: in a program that is being
    traced, or for a subclass that answers for itself.
    """
    torch = loaded("torch")
    if (
        torch.compiler.is_compiling()
        or type(x) not in (torch.Tensor, torch.nn.Parameter)
        or is_recording(torch)
        or x.layout is not torch.strided
        or x.is_nested
        or not x.numel()
        or not (address := x.data_ptr())
    ):
        return id(x)
    if x.is_contiguous():
        return (address, _numpy_type(x.dtype), x.numel())
    size = x.element_size()
    steps = sorted((s * size, n) for s, n in zip(x.stride(), x.shape, strict=True) if n > 1)
    dense = _is_dense(steps, size)
    return (address, _numpy_type(x.dtype), x.numel() if dense else tuple(steps))


def _numpy_type(dtype: Any) -> Any:
    """Return NumPy's type for one of torch, so that memory of both is told to be the same."""
    try:
        return np.dtype(name_of(dtype))
    except TypeError:
        return dtype


def _is_dense(steps: Sequence[tuple[int, int]], step: int) -> bool:
    """Whether (stride, extent) pairs, rising, fill memory without a gap."""
    for stride, n in steps:
        if stride != step:
            return False
        step *= n
    return True


def address_of(x: np.ndarray[Any, Any]) -> int:
    """Return the address of an array's first element."""
    address: int = x.__array_interface__["data"][0]
    return address
