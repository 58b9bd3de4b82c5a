# SPDX-License-Identifier: BSD-3-Clause
"""The penalties as functions that torch differentiates, eagerly and under its transforms."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fastreg.torch import _eager, _native
from fastreg.torch._modes import on_cpu, transforms_active

__all__ = ["Gradient", "Orthogonal", "Penalty", "Transformed"]


# Whether the last backward pass came with the upstream gradient 1, for activities and for weights
# (leaves). A guess for the next one: it decides when the gradient is computed, never what it is.
expect_one = [True, True]

_is_leaf = attrgetter("is_leaf")


class Penalty(torch.autograd.Function):
    """The penalty of tensors in eager mode, one node for all: on the CPU, or one tensor elsewhere.

    When the upstream gradient is exactly 1, backward hands over what forward computed while it read
    the values. For any other it computes anew, so that the result is rounded once and a scaled
    loss (float16 training) loses nothing; the next forward then leaves the gradient to backward.
    """

    @staticmethod
    def forward(ctx: Any, l1s: list[float], l2s: list[float], dtype: Any, *xs: Tensor) -> Tensor:
        ctx.save_for_backward(*xs)
        ctx.weights = (l1s, l2s)
        ctx.leaf = leaf = all(map(_is_leaf, xs))
        ctx.gradients = None
        if expect_one[leaf] and on_cpu(xs[0]):
            value, ctx.gradients = _eager.both(xs, l1s, l2s, dtype, ctx.needs_input_grad[3:])
            return value
        return _eager.value(xs, l1s, l2s, dtype)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        xs = ctx.saved_tensors  # refuses tensors that were written to since, whatever u is
        l1s, l2s = ctx.weights
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or transforms_active():  # create_graph=True, or jacrev
            each = zip(xs, l1s, l2s, needed, strict=True)
            out = [Gradient.apply(x, u, l1, l2) if n else None for x, l1, l2, n in each]
            return None, None, None, *out
        # Given away once: the receiver may keep them as grad and write to them.
        ready, ctx.gradients = ctx.gradients, None
        scale = _eager.upstream(u)
        if type(scale) is float:
            expect_one[ctx.leaf] = scale == 1.0
            if scale == 1.0 and ready is not None:
                return None, None, None, *ready
        return None, None, None, *_eager.gradients(xs, l1s, l2s, scale, needed, ready)


class Gradient(torch.autograd.Function):
    """The gradient as a function of x and the upstream gradient, for second derivatives.

    Its own derivatives are torch's operations, ``2 * l2 * u`` along x and the gradient along u,
    which can be differentiated as often as one likes.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, u: Tensor, l1: float, l2: float) -> Any:
        return _eager.gradients([x], [l1], [l2], _eager.upstream(u), [True])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, u, l1, l2 = inputs
        ctx.save_for_backward(x, u)
        ctx.save_for_forward(x, u)
        ctx.weights = (l1, l2)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        x, u = ctx.saved_tensors
        l1, l2 = ctx.weights
        along_x = (v * (2.0 * l2 * u)).to(x.dtype) if ctx.needs_input_grad[0] else None
        along_u = None
        if ctx.needs_input_grad[1]:
            along_u = (v * _native.gradient(x, torch.ones_like(u), l1, l2)).sum().to(u.dtype)
        return along_x, along_u, None, None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Any, u_tangent: Any, *_: Any) -> Tensor:
        x, u = ctx.saved_tensors
        l1, l2 = ctx.weights
        total = torch.zeros_like(x)
        if x_tangent is not None:
            total = total + (x_tangent * (2.0 * l2 * u)).to(x.dtype)
        if u_tangent is not None:
            total = total + _native.gradient(x, u_tangent, l1, l2)
        return total

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, u: Tensor, l1: float, l2: float) -> Any:
        xs = _examples(x, in_dims[0], info.batch_size)
        us = _examples(u, in_dims[1], info.batch_size)
        return torch.stack(
            [Gradient.apply(xi, ui, l1, l2) for xi, ui in zip(xs, us, strict=True)]
        ), 0


class Transformed(torch.autograd.Function):
    """The penalty of one tensor under torch.func's transforms and forward-mode differentiation."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, l1: float, l2: float, dtype: Any) -> Tensor:
        return _eager.value([x], [l1], [l2], dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, l1, l2, dtype = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        ctx.weights = (l1, l2)
        ctx.dtype = dtype

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return Gradient.apply(x, u, *ctx.weights), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        one = torch.ones((), dtype=x.dtype, device=x.device)
        slope = Gradient.apply(x, one, *ctx.weights)
        return (tangent * slope).sum(dtype=_native.wide(x.device)).to(ctx.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, l1: float, l2: float, dtype: Any) -> Any:
        xs = _examples(x, in_dims[0], info.batch_size)
        return torch.stack([Transformed.apply(xi, l1, l2, dtype) for xi in xs]), 0


def _examples(x: Tensor, dim: int | None, count: int) -> Sequence[Tensor]:
    return [x] * count if dim is None else x.unbind(dim)


class Orthogonal(torch.autograd.Function):
    """The orthogonality penalty in eager mode, with the gradient from the same Gram matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float, rows: bool, dtype: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.arguments = (factor, rows, dtype)
        value, ctx.slope = _eager.orthogonal(x, factor, rows, dtype, want=True)
        return value

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled() or transforms_active():
            with torch.enable_grad():
                value = _native.orthogonal(x, *ctx.arguments)
            (slope,) = torch.autograd.grad(value, x, u, create_graph=True)
            return slope, None, None, None
        # The slope of half precision is float32: a scaled loss brings back what would vanish.
        return (ctx.slope * u).to(x.dtype), None, None, None
