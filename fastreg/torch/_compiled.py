# SPDX-License-Identifier: BSD-3-Clause
"""Programs: the operators ``torch.ops.fastreg``, which compilers keep as they are.

They stand in the graphs of ``torch.compile``, ``torch.export`` and ``make_fx``, and their names and
arguments in programs that were saved: they stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastreg.torch import _eager
from fastreg.torch._autograd import Gradient, Orthogonal, Penalty, Transformed
from fastreg.torch._memory import result_type

__all__ = ["hide", "register"]


def _fake_penalty(x: Tensor, l1: float, l2: float, dtype: Any = None) -> Tensor:
    return x.new_empty((), dtype=result_type(x, dtype))


def _run_penalty(x: Tensor, l1: float, l2: float, dtype: Any = None) -> Tensor:
    return _eager.value([x], [l1], [l2], result_type(x, dtype))


def _fake_gradient(x: Tensor, u: Tensor, l1: float, l2: float) -> Tensor:
    return torch.empty_like(x, requires_grad=False)


def _run_gradient(x: Tensor, u: Tensor, l1: float, l2: float) -> Tensor:
    out: Tensor = _eager.gradients([x], [l1], [l2], _eager.upstream(u), [True])[0]
    if x.device.type != "cpu" and out.stride() != x.stride():
        return torch.empty_like(x, requires_grad=False).copy_(out)  # what _fake_gradient promises
    return out


def _keep_penalty(ctx: Any, inputs: Any, output: Any) -> None:
    x, l1, l2, _ = inputs
    ctx.save_for_backward(x)
    ctx.weights = (l1, l2)


def _penalty_backward(ctx: Any, u: Tensor) -> Any:
    (x,) = ctx.saved_tensors
    return torch.ops.fastreg.gradient(x, u, *ctx.weights), None, None, None


def _keep_gradient(ctx: Any, inputs: Any, output: Any) -> None:
    x, u, l1, l2 = inputs
    ctx.save_for_backward(x, u)
    ctx.weights = (l1, l2)


def register() -> None:
    """Define the operators, unless an earlier copy of this module did."""
    if hasattr(torch.ops.fastreg, "penalty"):
        return
    tags = (torch.Tag.pt2_compliant_tag,)
    everywhere = "CompositeExplicitAutograd"
    library = torch.library
    library.define(
        "fastreg::penalty",
        "(Tensor x, float l1, float l2, ScalarType? dtype=None) -> Tensor",
        tags=tags,
    )
    library.impl("fastreg::penalty", everywhere)(_run_penalty)
    library.register_fake("fastreg::penalty", _fake_penalty)
    library.register_autograd("fastreg::penalty", _penalty_backward, setup_context=_keep_penalty)
    library.define(
        "fastreg::gradient", "(Tensor x, Tensor u, float l1, float l2) -> Tensor", tags=tags
    )
    library.impl("fastreg::gradient", everywhere)(_run_gradient)
    library.register_fake("fastreg::gradient", _fake_gradient)
    library.register_autograd("fastreg::gradient", Gradient.backward, setup_context=_keep_gradient)


def hide() -> None:
    """Keep torch.compile out of what runs eagerly between the graphs of a broken program.

    Without it the compiler traces it when autograd calls it there, and finds memory addresses.
    ``torch.compiler.disable`` would do the same, but imports the compiler (seconds) and costs
    microseconds in every call.
    """
    kinds: tuple[Any, ...] = (Penalty, Orthogonal, Gradient, Transformed)
    functions: list[Any] = [f for kind in kinds for f in (kind.forward, kind.backward)]
    functions += [_eager.value, _eager.both, _eager.gradients, _eager.norm, _eager.orthogonal]
    try:
        frames: Any = torch._C._dynamo.eval_frame
        skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        for function in functions:
            frames.set_code_exec_strategy(function.__code__, skip)
    except (AttributeError, TypeError):  # private; another release has another way
        return
