# SPDX-License-Identifier: BSD-3-Clause
"""Torch's own operations, for other devices and for programs that hold no kernels.

The sums have torch's rounding, in float64 (float32 where the device has no float64).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastreg._core import formula
from fastreg.torch._dtypes import DTYPES
from fastreg.torch._modes import is_distributed

__all__ = [
    "gradient",
    "norm",
    "orthogonal",
    "penalty",
    "prox",
    "together",
    "value",
    "whole",
    "wide",
]


_NAMES = {kind: dtype.name for kind, dtype in DTYPES.items()}
_HALVES = (torch.float16, torch.bfloat16)


class _Operations(formula.Operations):
    """The vocabulary of the formulas in torch's words; autograd, vmap and compilers see through."""

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        return x.to(getattr(torch, dtype))

    def dtype(self, x: Tensor) -> str:
        return _NAMES[x.dtype]

    def sum(self, x: Tensor) -> Tensor:
        return x.sum()

    def absolute(self, x: Tensor) -> Tensor:
        return x * self.sign(x).detach()  # the derivative of torch.abs is 0 at NaN

    def sign(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x, x.sign())  # torch.sign is 0 at NaN

    def square(self, x: Any) -> Any:
        return x * x

    def zeros_like(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def where(self, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.where(condition, a, b)

    def maximum(self, a: Tensor, b: Any) -> Tensor:
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)

    def tiny(self, dtype: str) -> float:
        return float(torch.finfo(getattr(torch, dtype)).tiny)

    def largest_in_rows(self, x: Tensor) -> Tensor:
        return x.amax(1, keepdim=True) if x.shape[1] else x.new_zeros((x.shape[0], 1))

    def sum_of_rows(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)

    def rsqrt(self, x: Tensor) -> Tensor:
        return x.rsqrt()

    def products_of_rows(self, x: Tensor) -> Tensor:
        return x @ x.mT

    def transpose(self, x: Tensor) -> Tensor:
        return x.mT

    def without_diagonal(self, x: Tensor) -> Tensor:
        itself = torch.eye(x.shape[0], dtype=torch.bool, device=x.device)
        return torch.where(itself, torch.zeros_like(x), x)

    def pairs_of_rows(self, x: Tensor, dtype: str) -> float:
        n = float(x.shape[0])
        return max(n * (n - 1.0), 1.0)

    def stop_gradient(self, x: Tensor) -> Tensor:
        return x.detach()


_OPERATIONS = _Operations()


def wide(device: torch.device) -> torch.dtype:
    """Return the widest float type of a device: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _work(x: Tensor) -> str:
    """Return the type in which elements are computed."""
    if x.dtype in _HALVES:
        return "float32"
    return _NAMES[x.dtype if x.is_floating_point() else wide(x.device)]


def penalty(x: Tensor, l1: float, l2: float, dtype: torch.dtype) -> Tensor:
    """Return the penalty, differentiable as often as one likes."""
    return formula.penalty(_OPERATIONS, x, l1, l2, _NAMES[wide(x.device)], _NAMES[dtype])


def value(x: Tensor, l1: float, l2: float, dtype: torch.dtype) -> Tensor:
    """Return the penalty in no graph, without a temporary of x's size."""
    kind = wide(x.device)
    if x.dtype not in DTYPES or not x.is_floating_point():
        x = x.to(kind)
    total = torch.zeros((), dtype=kind, device=x.device)
    if l1 != 0.0:
        total = total + l1 * torch.linalg.vector_norm(x, 1, dtype=kind)
    if l2 != 0.0:
        total = total + l2 * torch.linalg.vector_norm(x, 2, dtype=kind).square()
    return total.to(dtype)


def gradient(x: Tensor, u: Tensor, l1: float, l2: float) -> Tensor:
    """Return the penalty's gradient times the 0-d upstream gradient u, differentiable."""
    return formula.gradient(_OPERATIONS, x, u, l1, l2, _work(x))


def prox(x: Tensor, step: float, l1: float, l2: float, flush: bool) -> Tensor:
    """Return where a proximal step leads from x."""
    return formula.prox(_OPERATIONS, x, step, l1, l2, flush, _NAMES[wide(x.device)])


def whole(x: Tensor) -> Tensor:
    """Return a result that processes hold shares of as one that each of them holds whole."""
    if not is_distributed(x):
        return x
    from torch.distributed.tensor import Replicate

    out: Tensor = x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)
    return out


def together(terms: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return numbers that can be added: on one device, and on one mesh or on none."""
    if len({x.device_mesh for x in terms if is_distributed(x)}) > 1:
        terms = [x.full_tensor() if is_distributed(x) else x for x in terms]
    return [x.to(device) for x in terms]


def norm(xs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the Euclidean norm of all tensors together, on the first one's device."""
    kind, device = wide(xs[0].device), xs[0].device
    ys = [x if x.is_floating_point() else x.to(kind) for x in xs]
    each = [whole(torch.linalg.vector_norm(y, dtype=kind)) for y in ys]
    return torch.linalg.vector_norm(torch.stack(together(each, device))).to(dtype)


def orthogonal(x: Tensor, factor: float, rows: bool, dtype: torch.dtype) -> Tensor:
    """Return the orthogonality penalty."""
    if is_distributed(x):
        x = x.full_tensor()
    return formula.orthogonal(_OPERATIONS, x, factor, rows, _work(x), _NAMES[dtype])
