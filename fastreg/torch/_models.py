# SPDX-License-Identifier: BSD-3-Clause
"""Lists, mappings and modules: which of their tensors a call is about, and its result for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fastreg import model
from fastreg._core import tensors
from fastreg._core.arguments import Request
from fastreg._core.containers import Parameter
from fastreg._core.dtypes import widest
from fastreg._core.frameworks import unwrap
from fastreg._core.selection import Chosen, chosen
from fastreg._core.statistics import Stats
from fastreg.errors import FastregError, LayoutError, message
from fastreg.torch import _dispatch, _eager, _native
from fastreg.torch._memory import DTYPES, TYPES, as_type, check_differentiable, refuse, result_type

__all__ = ["global_norm", "gradient", "penalty", "stats", "take", "tensors_in", "value_and_gradient"]

Tensor = torch.Tensor
Taken = tuple[Chosen, list[Tensor], list[float], list[float]]


def take(params: Any, request: Request) -> Taken:
    """Return what of a container a call is about, its tensors, and their weights."""
    found = chosen(params, request)
    xs = tensors_in(found.parameters)
    l1s, l2s = found.weights
    return found, xs, l1s, l2s


def tensors_in(parameters: Sequence[Parameter]) -> list[Tensor]:
    """Return the tensors of parameters; what is none is refused by name."""
    xs = [p.original for p in parameters]
    for k, x in enumerate(xs):
        if not isinstance(x, Tensor):
            xs[k] = x = unwrap(x)
            if not isinstance(x, Tensor):
                raise at(parameters[k], refuse(x))
    return xs


def at(parameter: Parameter, error: FastregError) -> FastregError:
    """Return an error that says where."""
    return type(error)(f"at {parameter.label}: {error}")


def _judged(parameters: Sequence[Parameter], xs: Sequence[Tensor], dtype: Any) -> torch.dtype:
    """Return the type of a sum: the one asked for, or the widest of the tensors' types."""
    for p, x in zip(parameters, xs, strict=True):
        try:
            result_type(x)
        except FastregError as e:
            raise at(p, e) from None
    return _widest(xs) if dtype is None else as_type(dtype)


def _widest(xs: Sequence[Tensor]) -> torch.dtype:
    return TYPES[widest([DTYPES[x.dtype] for x in xs])]


def _listed(params: Any, request: Request) -> list[Tensor] | None:
    """Return the tensors of the commonest list: plain, all of them distinct memory; else None."""
    if not request.plain or type(params) not in (list, tuple) or torch.compiler.is_compiling():
        return None
    dense = tensors.dense(params)
    if dense is None or len(set(dense[1])) < len(dense[1]):
        return None
    return dense[0]


def penalty(params: Any, request: Request, dtype: Any) -> Tensor:
    """Return the penalty of a container, differentiable."""
    request.require_weight()
    listed = _listed(params, request)
    if listed is not None:
        xs, (l1, l2) = listed, request.numbers
        result = _widest(xs) if dtype is None else as_type(dtype)
        return _dispatch.penalties(xs, [l1] * len(xs), [l2] * len(xs), result)
    found, xs, l1s, l2s = take(params, request)
    return _dispatch.penalties(xs, l1s, l2s, _judged(found.parameters, xs, dtype))


def gradient(params: Any, request: Request, scale: float) -> Any:
    """Return the gradients of a container, by name or in order; of one tensor a tensor."""
    request.require_weight()
    found, xs, l1s, l2s = take(params, request)
    _check_differentiable(found.parameters, xs)
    return _arranged(params, found, _dispatch.gradients(xs, l1s, l2s, scale))


def value_and_gradient(
    params: Any, request: Request, scale: float, dtype: Any
) -> tuple[Tensor, Any]:
    """Return :func:`penalty` and :func:`gradient`, in no graph."""
    request.require_weight()
    found, xs, l1s, l2s = take(params, request)
    _check_differentiable(found.parameters, xs)
    result = _judged(found.parameters, xs, dtype)
    value, grads = _dispatch.both(xs, l1s, l2s, result, scale)
    return value, _arranged(params, found, grads)


def _check_differentiable(parameters: Sequence[Parameter], xs: Sequence[Tensor]) -> None:
    for p, x in zip(parameters, xs, strict=True):
        try:
            check_differentiable(x)
        except FastregError as e:
            raise at(p, e) from None


def _arranged(params: Any, found: Chosen, grads: list[Tensor]) -> Any:
    """Return gradients as the container stands: one, a dict by name, or lists nested as it is."""
    if found.gathered.single:
        return grads[0] if grads else None
    if found.gathered.named:
        by_name = dict(zip(found.names, grads, strict=True))
        if len(by_name) < len(grads):
            raise LayoutError(
                message("tensors of distinct names", "two of one name", "pass a list of the tensors")
            )
        return by_name
    if type(params) not in (list, tuple):
        return grads
    by_path = {p.path: grad for p, grad in zip(found.parameters, grads, strict=True)}
    return _like(params, (), by_path)


def _like(node: Any, path: tuple[Any, ...], by_path: dict[tuple[Any, ...], Tensor]) -> list[Any]:
    return [
        _like(child, (*path, k), by_path) if type(child) in (list, tuple)
        else by_path.get((*path, k))
        for k, child in enumerate(node)
    ]


def global_norm(grads: Any, dtype: Any) -> Tensor:
    """Return the norm of all tensors together."""
    result = torch.float64 if dtype is None else as_type(dtype)
    found = chosen(grads, Request.of(), everything=True, values=True)
    xs = [x.detach() for x in tensors_in(found.parameters)]
    _judged(found.parameters, xs, None)
    if not xs:
        return torch.zeros((), dtype=result, device="cpu")
    if _dispatch.runs_eagerly(xs):
        return _eager.norm(xs, result)
    return _native.norm(xs, result)


def stats(params: Any, select: Any, integers: bool) -> Stats:
    """Return the statistics of tensors; those of other devices are copied to the CPU."""
    if isinstance(params, Iterator):
        params = list(params)
    found = chosen(params, Request.of(select=select), everything=True)
    xs = tensors_in(found.parameters)
    if all(x.is_cpu for x in xs):
        return model.stats(params, select=select, integers=integers)
    here = [(p.name, x.detach().cpu()) for p, x in zip(found.parameters, xs, strict=True)]
    return model.stats(here, integers=integers)
