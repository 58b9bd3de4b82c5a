# SPDX-License-Identifier: BSD-3-Clause
"""Steps in place: all checks come first, so that a call writes everything or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from fastreg import model
from fastreg._core import tensors
from fastreg._core.arguments import Nonfinite, Request, flag, number
from fastreg._core.containers import Parameter, items_of
from fastreg._core.factors import clip_factor, decay_factor
from fastreg._core.mutability import check_stored, naming, refuse_models, refuse_weights
from fastreg._core.selection import chosen
from fastreg._core.shortcuts import dense_tensors
from fastreg._kernels import Arrays
from fastreg.errors import FastregError, LayoutError, NonFiniteError, message
from fastreg.torch import _dispatch, _native
from fastreg.torch._memory import (
    at,
    check_differentiable,
    describe,
    host,
    plain_list,
    scalar,
    tensors_in,
)
from fastreg.torch._memory import targets as targets_of
from fastreg.torch._modes import (
    compiling,
    in_graph,
    is_distributed,
    is_transformed,
    on_cpu,
    tracing,
)
from fastreg.torch._remembered import Question

__all__ = ["add_gradient_", "clip_by_global_norm_", "decay_", "prox_"]


_is_leaf = attrgetter("is_leaf")
_grad = attrgetter("grad")
_requires_grad = attrgetter("requires_grad")
_shape = attrgetter("shape")


# -- Gradients ------------------------------------------------------------------------------------


def add_gradient_(params: Any, request: Request, scale: float) -> None:
    """Add the penalty's gradient times scale to the ``grad`` of each tensor that is trained."""
    request.require_weight()
    listed = plain_list(params, request)
    if listed is not None and _added(listed, *request.numbers, scale):
        return
    question = Question(params, request)
    said = question.said
    if said is not None and _added(question.xs, said.l1s, said.l2s, scale):
        return
    found, xs, l1s, l2s = _taken(params, request, question)
    if _ordinary(xs) is None:
        for p, x in zip(found, xs, strict=True):
            _check_leaf(p, x)
    for p, x in zip(found, xs, strict=True):
        _check_trained(p, x)
    trained = [k for k, x in enumerate(xs) if x.requires_grad]  # a frozen one gets none
    if found and not trained:
        raise _untrained(found[0])
    parameters = [found[k] for k in trained]
    xs = [xs[k] for k in trained]
    l1s, l2s = [l1s[k] for k in trained], [l2s[k] for k in trained]
    if _added(xs, l1s, l2s, scale):
        return
    grads = list(map(_grad, xs))
    for p, x, grad in zip(parameters, xs, grads, strict=True):
        _check_grad(p, x, grad)

    here = [k for k, x in enumerate(xs) if _is_here(x)]
    if any(grads[k] is not None for k in here):
        near = [xs[k] for k in here], [l1s[k] for k in here], [l2s[k] for k in here]
        with naming([parameters[k] for k in here]):
            _accumulate(*near, [grads[k] for k in here], scale)
    for k, (x, grad) in enumerate(zip(xs, grads, strict=True)):
        if grad is None:
            x.grad = _dispatch.gradient(x, l1s[k], l2s[k], scale)
        elif not _is_here(x):
            grad.add_(_dispatch.gradient(x, l1s[k], l2s[k], scale))


def _check_trained(p: Parameter, x: Tensor) -> None:
    """Refuse a tensor that takes no gradient, unless it is a parameter, which was frozen."""
    if not x.requires_grad and not isinstance(x, torch.nn.Parameter):
        raise _untrained(p)


def _untrained(p: Parameter) -> LayoutError:
    return LayoutError(
        message(
            f"a tensor that requires grad at {p.label}",
            "one that does not",
            "call requires_grad_() on it, or pass the module or its parameters()",
        )
    )


def _ordinary(xs: list[Tensor]) -> tensors.Dense | None:
    """Describe leaves that need no closer look: plain and dense, in host memory, in no program."""
    dense = tensors.dense(xs)
    if dense is None or in_graph(xs[0]) or not all(map(_is_leaf, xs)):
        return None
    return dense


def _added(
    xs: list[Tensor], l1s: float | list[float], l2s: float | list[float], scale: float
) -> bool:
    """Add to the grads of ordinary leaves that are all trained and have one; else do nothing."""
    dense = _ordinary(xs)
    if dense is None or not all(map(_requires_grad, xs)):
        return False
    grads = list(map(_grad, xs))
    there = tensors.dense(grads)
    if (
        there is None
        or dense[2:] != there[2:]
        or list(map(_shape, xs)) != list(map(_shape, grads))
        or not set(dense[1]).isdisjoint(there[1])
    ):
        return False
    arrays = Arrays.dense(*dense, l1s, l2s)
    try:
        arrays.bind(there[1])
    except LayoutError:  # of shared memory: the long way names it
        return False
    try:
        arrays.gradient(None, scale, accumulate=True)
    finally:  # also if a Ctrl-C came between
        tensors.written(tensors.tensors_of(grads))
    return True


def _accumulate(
    xs: list[Tensor], l1s: list[float], l2s: list[float], grads: list[Tensor | None], scale: float
) -> None:
    """Add to the grads of tensors of the CPU that have one, in one call."""
    there = [g for g in grads if g is not None]
    dense, memory = tensors.dense(xs), tensors.dense(there)
    if dense is not None and memory is not None and all(map(_alike, xs, grads)):
        ready = {id(g): (address, n) for g, address, n in zip(there, *memory[1:3], strict=True)}
        targets: list[Any] = [0 if g is None else ready[id(g)][0] for g in grads]
        if any(
            g is not None and ready[id(g)][1] != n for g, n in zip(grads, dense[2], strict=True)
        ):
            raise LayoutError(
                message("tensors that nobody changes meanwhile", "another size", "call it again")
            )
        arrays = Arrays.dense(*dense, l1s, l2s)
    else:
        arrays, targets = Arrays(list(map(host, xs)), l1s, l2s), targets_of(grads, False)
    try:
        arrays.gradient(targets, scale, accumulate=True)
    finally:  # also if a Ctrl-C came between
        tensors.written(tensors.tensors_of(there))
    del memory  # which was written to


def _alike(x: Tensor, grad: Tensor | None) -> bool:
    return grad is None or (x.dtype == grad.dtype and x.shape == grad.shape)


def _check_grad(p: Parameter, x: Tensor, grad: Tensor | None) -> None:
    if grad is None:
        return
    if grad.layout != torch.strided or grad.is_nested:
        raise LayoutError(
            message(
                f"a dense grad at {p.label}",
                f"one of layout {grad.layout}",
                "make the layer's gradient dense (sparse=False), or leave it out",
            )
        )
    if _is_here(x) and grad.is_neg():
        raise _lazy(p)
    _check_elements(p, grad, "grad")
    if x.numel() and not is_distributed(x) and grad.data_ptr() == x.data_ptr():
        raise LayoutError(
            message(
                f"a grad with memory of its own at {p.label}",
                "the tensor's own memory",
                "set it to None, or to a copy",
            )
        )


def _taken(
    params: Any, request: Request, question: Question | None = None
) -> tuple[list[Parameter], list[Tensor], list[float], list[float]]:
    found = chosen(params, request)
    check_stored(found.parameters)
    if question is not None:
        question.remember(found)
    return found.parameters, tensors_in(found.parameters), *found.weights


# -- Weights --------------------------------------------------------------------------------------


def prox_(params: Any, request: Request, step: float, flush: bool) -> None:
    """Take a proximal step of the penalty."""
    request.require_weight()
    step = number(step, "step", least=0.0)
    _write(
        *_taken(params, request),
        lambda arrays: arrays.prox_(step, flush),
        lambda x, l1, l2: _native.prox(x, step, l1, l2, flush),
    )


def decay_(params: Any, request: Request, rate: float) -> None:
    """Shrink tensors by ``1 - rate``."""
    factor = decay_factor(rate)
    _write(
        *_taken(params, request),
        lambda arrays: arrays.scale_(factor),
        lambda x, l1, l2: (x.to(_native.wide(x.device)) * factor).to(x.dtype),
    )


def _write(
    parameters: Sequence[Parameter],
    xs: Sequence[Tensor],
    l1s: list[float],
    l2s: list[float],
    here: Callable[[Arrays], Any],
    there: Callable[[Tensor, float, float], Tensor],
) -> None:
    """Let the kernels write to what is on the CPU, and torch to the rest."""
    for p, x in zip(parameters, xs, strict=True):
        _check_leaf(p, x)
        if x.is_neg():
            raise _lazy(p)
    near = [k for k, x in enumerate(xs) if _is_here(x)]
    if near:
        written = [xs[k] for k in near]
        arrays, _ = describe(written, [l1s[k] for k in near], [l2s[k] for k in near])
        try:
            with naming([parameters[k] for k in near]):
                here(arrays)
        finally:  # also if a Ctrl-C came between
            tensors.written(tensors.tensors_of(written))
    with torch.no_grad():
        for x, l1, l2 in zip(xs, l1s, l2s, strict=True):
            if not _is_here(x):
                x.copy_(there(x, l1, l2))


def _check_leaf(p: Parameter, x: Tensor) -> None:
    """Refuse what has no ``grad``, or no memory to be written."""
    _check_memory(p, x)
    if not x.is_leaf:
        raise LayoutError(
            message(
                f"a leaf, such as a parameter, at {p.label}",
                "a result of other tensors",
                "pass the parameters that it was computed from",
            )
        )


def _is_here(x: Tensor) -> bool:
    """Whether kernels may write to x; torch's own operations write elsewhere."""
    return on_cpu(x) and not is_distributed(x)


def _check_memory(p: Parameter, x: Tensor) -> None:
    try:
        check_differentiable(x)
    except FastregError as e:
        raise at(p.name, e) from None
    _check_elements(p, x, "tensor")
    if is_distributed(x):
        return
    if x.is_meta:
        raise LayoutError(
            message(f"a tensor with memory at {p.label}", "one on meta", "load the weights first")
        )
    if in_graph(x) or is_transformed(x):
        raise LayoutError(
            message(
                f"a tensor with memory at {p.label}",
                f"a {type(x).__name__} on {x.device}",
                "call this outside of compiled, traced or transformed functions",
            )
        )


def _check_elements(p: Parameter, x: Tensor, what: str) -> None:
    """Refuse memory that is seen as several elements: it would be written as often."""
    if x.numel() and any(s == 0 and n > 1 for s, n in zip(x.stride(), x.shape, strict=True)):
        raise LayoutError(
            message(
                f"a {what} whose elements are distinct at {p.label}",
                "an expanded one",
                "pass the one that it was expanded from, or a copy",
            )
        )


def _lazy(p: Parameter) -> LayoutError:
    return LayoutError(
        message(f"a tensor that is no lazy negation at {p.label}", "one", "pass x.resolve_neg()")
    )


# -- Clipping -------------------------------------------------------------------------------------


def clip_by_global_norm_(grads: Any, max_norm: float, nonfinite: Nonfinite) -> Tensor:
    """Scale tensors so that their norm together is at most max_norm; return the norm before."""
    grads = items_of(grads)
    refuse_models(grads)
    if not compiling() and not tracing() and dense_tensors(grads) is not None:
        norm = model.clip_by_global_norm_(grads, max_norm, nonfinite=nonfinite)
        return scalar(float(norm), torch.float64)
    found = chosen(grads, Request.of(), everything=True)
    xs = tensors_in(found.parameters)
    if any(map(is_transformed, xs)):
        for p, x in zip(found.parameters, xs, strict=True):
            _check_memory(p, x)
    if all(map(_is_here, xs)):
        norm = model.clip_by_global_norm_(grads, max_norm, nonfinite=nonfinite)
        return scalar(float(norm), torch.float64)
    most = number(max_norm, "max_norm", least=0.0, finite=False)
    flag(nonfinite, "nonfinite", "raise", "keep")
    refuse_weights(grads)
    for p, x in zip(found.parameters, xs, strict=True):
        _check_memory(p, x)
    # Gradients of a sum are often one object, which counts as often as it stands there.
    each = [x.detach() for p, x in zip(found.parameters, xs, strict=True) for _ in (p, *p.aliases)]
    norm = _native.norm(each, _native.wide(xs[0].device))
    before = float(norm)
    if not math.isfinite(before) and nonfinite == "raise":
        bad = [
            p.label
            for p, x in zip(found.parameters, xs, strict=True)
            if not math.isfinite(_native.norm([x.detach()], torch.float64))
        ]
        raise NonFiniteError(
            message(
                "finite arrays",
                f"NaN or infinity in {', '.join(bad[:10]) or 'their norm'}",
                "skip the step, or pass nonfinite='keep'",
            )
        )
    factor = clip_factor(most, before) if math.isfinite(before) else None
    if factor is not None:
        with torch.no_grad():
            for x in xs:
                x.mul_(factor)
    return norm
