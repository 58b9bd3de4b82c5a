# SPDX-License-Identifier: BSD-3-Clause
"""Which way a call goes: kernels, an autograd function, an operator in a graph, or native.

Weights arrive checked here, and element types judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

from fastreg.torch import _eager, _native
from fastreg.torch._autograd import Gradient, Orthogonal, Penalty, Transformed
from fastreg.torch._modes import (
    compiling,
    differentiated,
    forward_mode,
    functionalized,
    in_graph,
    is_distributed,
    on_cpu,
    transforms_active,
)

__all__ = [
    "both",
    "gradient",
    "gradients",
    "orthogonal",
    "orthogonal_and_gradient",
    "penalties",
    "penalty",
    "runs_eagerly",
]


_requires_grad = attrgetter("requires_grad")


def runs_eagerly(xs: Sequence[Tensor]) -> bool:
    """Whether all tensors are memory of the CPU, and nothing records or transforms."""
    return not (
        compiling()
        or transforms_active()
        or forward_mode()
        or not all(map(on_cpu, xs))
        or any(map(in_graph, xs))
    )


def _outside(x: Tensor) -> Tensor:
    """Return x in no graph; as it is for torch.func, which would find a derivative of zero."""
    return x if differentiated() else x.detach()


def penalty(x: Tensor, l1: float, l2: float, dtype: torch.dtype) -> Tensor:
    """Return the penalty of one tensor, differentiable."""
    if is_distributed(x):
        return _native.whole(_native.penalty(x, l1, l2, _native.wide(x.device))).to(dtype)
    if compiling():
        if transforms_active() or forward_mode() or x.device.type not in ("cpu", "meta"):
            return _native.penalty(x, l1, l2, dtype)
        return torch.ops.fastreg.penalty(x, l1, l2, dtype)
    if in_graph(x):
        if transforms_active() or forward_mode():
            return _native.penalty(x, l1, l2, dtype)
        return torch.ops.fastreg.penalty(x, l1, l2, dtype)
    if transforms_active() or forward_mode():
        if functionalized():
            return _native.penalty(x, l1, l2, dtype)
        return Transformed.apply(x, l1, l2, dtype)
    if x.requires_grad and torch.is_grad_enabled():
        return Penalty.apply([l1], [l2], dtype, x)
    return _eager.value([x], [l1], [l2], dtype)


def penalties(
    xs: Sequence[Tensor], l1s: list[float], l2s: list[float], dtype: torch.dtype
) -> Tensor:
    """Return the sum of the penalties of tensors: exact, and one node, where they are memory."""
    if not xs:
        return torch.zeros((), dtype=dtype, device="cpu")
    if runs_eagerly(xs):
        if torch.is_grad_enabled() and any(map(_requires_grad, xs)):
            return Penalty.apply(l1s, l2s, dtype, *xs)
        return _eager.value(xs, l1s, l2s, dtype)
    wide, device = _native.wide(xs[0].device), xs[0].device
    terms = [penalty(x, l1, l2, wide) for x, l1, l2 in zip(xs, l1s, l2s, strict=True)]
    return torch.stack(_native.together(terms, device)).sum().to(dtype)


def gradient(x: Tensor, l1: float, l2: float, scale: float) -> Tensor:
    """Return the gradient of one tensor's penalty, in no graph."""
    x = _outside(x)
    if runs_eagerly([x]):
        return _eager.gradients([x], [l1], [l2], scale, [True])[0]
    u = _eager.factor(scale, x)
    if is_distributed(x) or (transforms_active() and (compiling() or functionalized())):
        return _native.gradient(x, u, l1, l2)
    if compiling() or in_graph(x):
        return torch.ops.fastreg.gradient(x, u, l1, l2)
    if differentiated():
        return Gradient.apply(x, u, l1, l2)
    return _eager.gradients([x], [l1], [l2], scale, [True])[0]


def gradients(
    xs: Sequence[Tensor], l1s: list[float], l2s: list[float], scale: float
) -> list[Tensor]:
    """Return the gradient of each tensor's penalty, in no graph."""
    if runs_eagerly(xs):
        return _eager.gradients(xs, l1s, l2s, scale, [True] * len(xs)) if xs else []
    each = zip(xs, l1s, l2s, strict=True)
    return [gradient(x, l1, l2, scale) for x, l1, l2 in each]


def both(
    xs: Sequence[Tensor], l1s: list[float], l2s: list[float], dtype: torch.dtype, scale: float
) -> tuple[Tensor, list[Tensor]]:
    """Return the penalty of tensors and the gradient of each, in no graph; one pass on the CPU."""
    if xs and runs_eagerly(xs):
        return _eager.both(xs, l1s, l2s, dtype, [True] * len(xs), scale)
    value = penalties(list(map(_outside, xs)), l1s, l2s, dtype)
    return value, gradients(xs, l1s, l2s, scale)


def orthogonal(x: Tensor, factor: float, rows: bool, dtype: torch.dtype) -> Tensor:
    """Return the orthogonality penalty of a matrix, differentiable."""
    if not runs_eagerly([x]):
        return _native.orthogonal(x, factor, rows, dtype)
    if x.requires_grad and torch.is_grad_enabled():
        return Orthogonal.apply(x, factor, rows, dtype)
    return _eager.orthogonal(x, factor, rows, dtype, want=False)[0]


def orthogonal_and_gradient(
    x: Tensor, factor: float, rows: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return :func:`orthogonal` and its gradient, neither in a graph."""
    if differentiated():

        def function(y: Tensor) -> Tensor:
            return _native.orthogonal(y, factor, rows, dtype)

        slope, value = torch.func.grad_and_value(function)(x)
        return value, slope
    x = x.detach()
    if runs_eagerly([x]):
        value, slope = _eager.orthogonal(x, factor, rows, dtype, want=True)
        return value, slope.to(x.dtype)
    x.requires_grad_()
    with torch.enable_grad():
        value = _native.orthogonal(x, factor, rows, dtype)
        return value.detach(), torch.autograd.grad(value, x)[0]
