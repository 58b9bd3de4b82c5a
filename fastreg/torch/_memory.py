# SPDX-License-Identifier: BSD-3-Clause
"""Tensors as memory: element types, refusals, views that kernels read, and new memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastreg import _kernels
from fastreg._core import tensors
from fastreg._core.arguments import Request, not_differentiable, result_dtype
from fastreg._core.arrays import HostArray, torch_view
from fastreg._core.dtypes import ACCEPTED, BF16
from fastreg._core.frameworks import unwrap
from fastreg._core.unread import as_floats, not_dense
from fastreg.errors import (
    DTypeError,
    FastregError,
    LayoutError,
    NotAnArrayError,
    message,
    printable,
)
from fastreg.torch._dtypes import DTYPES, FLOATS
from fastreg.torch._modes import ORDINARY, compiling, home

if TYPE_CHECKING:
    from fastreg._core.containers import Parameter

__all__ = [
    "as_type",
    "at",
    "check_differentiable",
    "describe",
    "empty_like",
    "host",
    "plain_list",
    "refuse",
    "result_type",
    "scalar",
    "targets",
    "tensors_in",
]

_BY_NAME = {dtype.name: kind for kind, dtype in FLOATS.items()}

# From here on NumPy advises the kernel to use huge pages; and torch's own alignment.
_HUGE_PAGES = 1 << 22
_ALIGNMENT = 64


# -- Which tensors --------------------------------------------------------------------------------


def refuse(x: object) -> FastregError:
    """Return the error of what is no tensor that can be read."""
    if not isinstance(x, torch.Tensor):
        instead = "pass torch.as_tensor(x)"
        return NotAnArrayError(
            message("a torch.Tensor", f"an object of class {type(x).__name__}", instead)
        )
    if torch.nn.parameter.is_lazy(x):
        return LayoutError(
            message(
                "a parameter with a shape",
                f"an {type(x).__name__} of a lazy module",
                "call the module once on a batch, which shapes it",
            )
        )
    refused = not_dense(torch, x)
    if refused is not None:
        return DTypeError(message(*refused))
    return DTypeError(message(f"a tensor of {ACCEPTED}", f"{x.dtype}", as_floats(x)))


def tensors_in(parameters: Sequence[Parameter]) -> list[Tensor]:
    """Return the tensors of parameters; what is none is refused by name."""
    xs = [p.original for p in parameters]
    for k, x in enumerate(xs):
        if not isinstance(x, Tensor):
            xs[k] = x = unwrap(x)
            if not isinstance(x, Tensor):
                raise at(parameters[k].name, refuse(x))
    return xs


def plain_list(params: Any, request: Request) -> list[Tensor] | None:
    """Return the tensors of the commonest list: plain, all of them distinct memory; else None."""
    if not request.plain or type(params) not in (list, tuple) or compiling():
        return None
    dense = tensors.dense(params)
    if dense is None or len(set(dense[1])) < len(dense[1]):
        return None
    return list(params)


def at(name: str, error: FastregError) -> FastregError:
    """Return an error that says where."""
    return type(error)(f"at '{printable(name, 80)}': {error}")


def result_type(x: Tensor, dtype: Any = None) -> torch.dtype:
    """Return the torch dtype of a result: x's own, float64 for integers, or the one asked for."""
    own = x.dtype
    if type(x) not in ORDINARY and (torch.nn.parameter.is_lazy(x) or home(x) == "torch.masked"):
        raise refuse(x)
    if own not in FLOATS:
        if own not in DTYPES:
            raise refuse(x)
        own = torch.float64
    if x.layout != torch.strided or x.is_nested:
        raise refuse(x)
    return own if dtype is None else as_type(dtype)


def as_type(dtype: Any) -> torch.dtype:
    """Return the torch dtype of a result that the user asked for."""
    return dtype if dtype in FLOATS else _BY_NAME[result_dtype(dtype).name]


def check_differentiable(x: Tensor) -> None:
    """Raise unless a tensor is of floats."""
    result_type(x)
    if x.dtype not in FLOATS:
        raise not_differentiable(str(x.dtype), "x.double()")


# -- Memory ---------------------------------------------------------------------------------------


def host(x: Tensor) -> HostArray:
    """View a dense tensor of the CPU as kernels see it, without a copy of what can be viewed."""
    return torch_view(x.detach().resolve_neg(), DTYPES[x.dtype])


def describe(
    xs: Sequence[Tensor], l1: float | list[float] = 0.0, l2: float | list[float] = 0.0
) -> tuple[_kernels.Arrays, bool]:
    """Describe tensors of the CPU for the kernels.

    Returns
    -------
    Arrays, bool
        Whether by address: plain, dense tensors are, which takes a tenth of making ndarrays.
    """
    dense = _dense_alone(xs[0]) if len(xs) == 1 else tensors.dense(xs)
    if dense is not None:
        return _kernels.Arrays.dense(*dense, l1, l2), True
    return _kernels.Arrays([host(x) for x in xs], l1, l2), False


def _dense_alone(x: Tensor) -> tensors.Dense | None:
    """Do for one tensor what :func:`fastreg._core.tensors.dense` does, in a third of the time."""
    dtype = FLOATS.get(x.dtype)
    if (
        dtype is None
        or type(x) not in ORDINARY
        or x.layout is not torch.strided
        or x.is_nested
        or x.is_neg()
        or not x.is_contiguous()
    ):
        return None
    storage, address, n = x.untyped_storage(), x.data_ptr(), x.numel()
    if not tensors.holds(storage, address, n, dtype):
        return None
    return [storage], [address], [n], [dtype]


def targets(outs: Sequence[Tensor | None], by_address: bool) -> list[Any]:
    """Return what kernels write to, for tensors that :func:`describe` described."""
    if by_address:
        return [0 if out is None else out.data_ptr() for out in outs]
    return [None if out is None else host(out) for out in outs]


def empty_like(x: Tensor) -> Tensor:
    """Return new memory for the gradient of a dense tensor of the CPU.

    From NumPy if it is large, because NumPy asks for huge pages: 64 MiB are then first touched in
    half the time (value and gradient of 16 Mi float32: 25 ms, with torch's memory 49 ms).
    """
    nbytes = x.nbytes
    if nbytes < _HUGE_PAGES or not x.is_contiguous():
        return torch.empty_like(x, requires_grad=False)
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return torch.from_numpy(memory[start : start + nbytes]).view(x.dtype).view(x.shape)


def scalar(value: float, dtype: torch.dtype) -> Tensor:
    """Return a 0-d tensor of the CPU, whatever the default device is."""
    own = FLOATS[dtype]
    with _kernels.clean_environment():  # a subnormal result stays one
        if own is BF16:  # which NumPy does not know
            return torch.scalar_tensor(value, dtype=dtype, device="cpu")
        return torch.from_numpy(np.array(value, own.view))  # half the time of torch.tensor
