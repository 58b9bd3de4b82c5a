# SPDX-License-Identifier: BSD-3-Clause
"""Lists, mappings and modules: which of their tensors a call is about, and its result for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from fastreg import model
from fastreg._core import tensors
from fastreg._core.arguments import CONVENTIONS, Request
from fastreg._core.containers import items_of
from fastreg._core.frameworks import untraced
from fastreg._core.plan import Plan
from fastreg._core.selection import Chosen, chosen
from fastreg._core.statistics import Stats
from fastreg.errors import ArgumentError, FastregError, LayoutError, message, printable
from fastreg.torch import _dispatch, _eager, _native
from fastreg.torch._memory import (
    as_type,
    at,
    check_differentiable,
    plain_list,
    result_type,
    tensors_in,
)
from fastreg.torch._modes import compiling, differentiated, on_cpu
from fastreg.torch._remembered import Question

__all__ = [
    "Taken",
    "global_norm",
    "gradient",
    "penalty",
    "stats",
    "take",
    "value_and_gradient",
]


@dataclass(frozen=True, slots=True)
class Taken:
    """What of a container a call is about: names, tensors and weights, one of each for each."""

    names: list[str]
    xs: list[Tensor]
    l1s: list[float]
    l2s: list[float]
    found: Chosen | None = None
    """None for a module in a program that is being compiled, or decided before."""
    dtype: torch.dtype | None = None
    """The type to which those of the tensors promote, all floats, where that is known already."""


def take(params: Any, request: Request) -> Taken:
    """Return what of a container a call is about."""
    if isinstance(params, Plan):
        return _from_plan(params, request)
    if compiling() and isinstance(params, torch.nn.Module):
        return _from_program(params, request)
    question = Question(params, request)
    said = question.said
    if said is not None:
        return Taken(said.names, question.xs, said.l1s, said.l2s, None, said.dtype)
    found = chosen(params, request)
    taken = Taken(found.names, tensors_in(found.parameters), *found.weights, found)
    question.remember(found)
    return taken


def _from_plan(plan: Plan, request: Request) -> Taken:
    """Return what a plan is about, if it still is what it was made of."""
    if request != Request.of():
        raise ArgumentError(
            message(
                "a plan alone, which has its weights and its rule",
                "l1, l2, select, weights or convention beside it",
                "leave them out, or pass what the plan was made of",
            )
        )
    if compiling():  # the program would keep the memory that the plan has now
        raise ArgumentError(
            message("a model in a compiled program", "a plan", "pass what the plan was made of")
        )
    plan.require_fresh()
    parameters = [d.parameter for d in plan.decisions if d.included]
    return Taken([p.name for p in parameters], tensors_in(parameters), plan.l1, plan.l2)


def _require_weight(params: Any, request: Request) -> None:
    """Raise ArgumentError if there is no weight; a plan has its own."""
    if not isinstance(params, Plan):
        request.require_weight()


def _from_program(module: torch.nn.Module, request: Request) -> Taken:
    l1, l2, select, weights, convention = request
    if {type(l1), type(l2)} <= {float, type(None)} and weights == 1.0:
        # Numbers stay out of the choice: a program may get others in each call.
        names, *_ = _choice(module, None, None, select, 1.0, "keras")
        l1s: Any = [0.0 if l1 is None else l1] * len(names)
        l2s: Any = [0.0 if l2 is None else l2 * CONVENTIONS[convention]] * len(names)
    else:
        names, l1s, l2s = _choice(module, l1, l2, select, weights, convention)
    by_name = dict(module.named_parameters(remove_duplicate=False))
    xs = [by_name[n] if n in by_name else reduce(getattr, n.split("."), module) for n in names]
    return Taken(list(names), xs, list(l1s), list(l2s))


@untraced
def _choice(module: torch.nn.Module, *arguments: Any) -> tuple[tuple[Any, ...], ...]:
    """Return names and weights of what of a module a call is about, as plain values.

    What the choice depends on, names and requires_grad, the compiler guards where
    :func:`_from_program` lists them.
    """
    found = chosen(module, Request.of(*arguments))
    for p in found.parameters:
        if p.sources and not hasattr(p.layer, "parametrizations"):
            raise LayoutError(
                message(
                    f"a weight that the program computes at {p.label}",
                    "one that a hook computes between calls (torch.nn.utils.weight_norm, prune)",
                    "use torch.nn.utils.parametrizations, or call this outside of the program",
                )
            )
    l1s, l2s = found.weights
    return tuple(found.names), tuple(l1s), tuple(l2s)


def _result(taken: Taken, dtype: Any) -> torch.dtype:
    """Return the type of a sum of what was taken; see :func:`_judged`."""
    if taken.dtype is None:
        return _judged(taken.names, taken.xs, dtype)
    return taken.dtype if dtype is None else as_type(dtype)


def _judged(names: Sequence[str], xs: Sequence[Tensor], dtype: Any) -> torch.dtype:
    """Return the type of a sum: the one asked for, or that to which the tensors' types promote."""
    own = []
    for name, x in zip(names, xs, strict=True):
        try:
            own.append(result_type(x))
        except FastregError as e:
            raise at(name, e) from None
    empty = [x.is_meta for x in xs]
    if any(empty) and not all(empty):
        a, b = printable(names[empty.index(True)], 80), printable(names[empty.index(False)], 80)
        raise LayoutError(
            message(
                "tensors that all have elements, or are all on meta",
                f"'{a}' on meta and '{b}' on {xs[empty.index(False)].device}",
                "load the weights first, or leave one of them out",
            )
        )
    return _promoted(own) if dtype is None else as_type(dtype)


def _promoted(own: Sequence[torch.dtype]) -> torch.dtype:
    result = own[0] if own else torch.get_default_dtype()
    for other in own[1:]:
        if other is not result:
            result = torch.promote_types(result, other)
    return result


def penalty(params: Any, request: Request, dtype: Any) -> Tensor:
    """Return the penalty of a container, differentiable."""
    _require_weight(params, request)
    listed = plain_list(params, request)
    if listed is not None:
        xs, (l1, l2) = listed, request.numbers
        result = _promoted([x.dtype for x in xs]) if dtype is None else as_type(dtype)
        return _dispatch.penalties(xs, [l1] * len(xs), [l2] * len(xs), result)
    taken = take(params, request)
    result = _result(taken, dtype)
    return _dispatch.penalties(taken.xs, taken.l1s, taken.l2s, result)


def gradient(params: Any, request: Request, scale: float) -> Any:
    """Return the gradients of a container, by name or in order; of one tensor a tensor."""
    _require_weight(params, request)
    taken = take(params, request)
    _check_differentiable(taken)
    grads = _dispatch.gradients(taken.xs, taken.l1s, taken.l2s, scale)
    return _arranged(taken, grads)


def value_and_gradient(
    params: Any, request: Request, scale: float, dtype: Any
) -> tuple[Tensor, Any]:
    """Return :func:`penalty` and :func:`gradient`, in no graph."""
    _require_weight(params, request)
    taken = take(params, request)
    _check_differentiable(taken)
    result = _result(taken, dtype)
    value, grads = _dispatch.both(taken.xs, taken.l1s, taken.l2s, result, scale)
    return value, _arranged(taken, grads)


def _check_differentiable(taken: Taken) -> None:
    if taken.dtype is not None:
        return
    for name, x in zip(taken.names, taken.xs, strict=True):
        try:
            check_differentiable(x)
        except FastregError as e:
            raise at(name, e) from None


def _arranged(taken: Taken, grads: list[Tensor]) -> Any:
    """Return gradients as the container stands: one, a dict by name, or lists nested as it is."""
    if taken.found is None:
        return dict(zip(taken.names, grads, strict=True))
    return taken.found.arranged(grads)


def global_norm(grads: Any, dtype: Any) -> Tensor:
    """Return the norm of all tensors together."""
    result = torch.float64 if dtype is None else as_type(dtype)
    if type(grads) in (list, tuple) and not differentiated() and not compiling():
        listed = [x for x in grads if x is not None]
        dense = tensors.dense(listed)
        if dense is not None and _dispatch.runs_eagerly(listed[:1]):  # a program takes all of them
            return _eager.norm(listed, result, dense)
    found = chosen(grads, Request.of(), everything=True, values=True)
    xs = tensors_in(found.parameters)
    if not differentiated():  # where a derivative of zero would come
        xs = [x.detach() for x in xs]
    _judged(found.names, xs, None)
    if not xs:
        return torch.zeros((), dtype=result, device="cpu")
    if _dispatch.runs_eagerly(xs):
        return _eager.norm(xs, result)
    return _native.norm(xs, result)


def stats(params: Any, select: Any, integers: bool) -> Stats:
    """Return the statistics of tensors; those of other devices are copied to the CPU."""
    params = items_of(params)
    found = chosen(params, Request.of(select=select), everything=True)
    xs = tensors_in(found.parameters)
    if all(on_cpu(x) or x.is_meta for x in xs):
        return model.stats(params, select=select, integers=integers)
    here = [(p.name, x.detach().cpu()) for p, x in zip(found.parameters, xs, strict=True)]
    return model.stats(here, integers=integers)
