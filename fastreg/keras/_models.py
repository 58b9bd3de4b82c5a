# SPDX-License-Identifier: BSD-3-Clause
"""Models and lists of variables: which backend computes, and how steps are written back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastreg import model
from fastreg._core.arguments import Request, number
from fastreg._core.containers import Parameter, items_of
from fastreg._core.dtypes import BF16, F16, F32, widest
from fastreg._core.frameworks import backend, framework, is_model, is_variable, loaded, unwrap
from fastreg._core.selection import Chosen, chosen
from fastreg._core.statistics import Stats
from fastreg.errors import ArgumentError, DTypeError, message
from fastreg.keras._layers import synchronise
from fastreg.keras._registry import host

__all__ = [
    "clip_by_global_norm_",
    "decay_",
    "global_norm",
    "gradient",
    "penalty",
    "prox_",
    "stats",
    "value_and_gradient",
]

_ALL = Request.of()


def _chosen(params: Any, request: Request, **options: Any) -> Chosen:
    """Return the variables that a call is about, with values, also while JAX trains the model."""
    if is_model(params):
        synchronise(params)
    return chosen(params, request, **options)


def _backend(tensors: Sequence[Any]) -> Any:
    """Return the module that has the verbs for lists of these; for none, that of Keras' backend."""
    x = tensors[0] if tensors else host.initializers.Zeros()((0,))
    return model if framework(x) == "numpy" else backend(x)


def _dtype(parameters: Sequence[Parameter], dtype: Any) -> Any:
    """Return the type of a penalty: of halves float32, which stays finite, as the regularizers'."""
    if dtype is not None:
        return dtype
    found = widest(p.dtype for p in parameters)
    return (F32 if found in (F16, BF16) else found).name


def penalty(params: Any, request: Request, dtype: Any) -> Any:
    """Return the penalty of a model, differentiable."""
    request.require_weight()
    found = _chosen(params, request)
    l1s, l2s = found.weights
    tensors = list(map(unwrap, found.originals))
    dtype = _dtype(found.parameters, dtype)
    return _backend(tensors).penalty(tensors, l1=l1s, l2=l2s, dtype=dtype)


def gradient(params: Any, request: Request, scale: float) -> Any:
    """Return the gradients of a model, by name or in order."""
    return value_and_gradient(params, request, scale, None)[1]


def value_and_gradient(params: Any, request: Request, scale: float, dtype: Any) -> tuple[Any, Any]:
    """Return the penalty of a model and its gradients, in no graph."""
    request.require_weight()
    params = items_of(params)
    found = _chosen(params, request)
    if found.gathered.named:
        found.distinct_names()
    l1s, l2s = found.weights
    tensors = list(map(unwrap, found.originals))
    value, grads = _backend(tensors).value_and_gradient(
        tensors, l1=l1s, l2=l2s, scale=scale, dtype=_dtype(found.parameters, dtype)
    )
    return value, found.arranged(grads)


def global_norm(grads: Any, dtype: Any) -> Any:
    """Return the norm of all arrays together."""
    found = _chosen(grads, _ALL, everything=True, values=True)
    tensors = list(map(unwrap, found.originals))
    return _backend(tensors).global_norm(tensors, dtype=dtype)


def clip_by_global_norm_(grads: Any, max_norm: float, nonfinite: str) -> Any:
    """Scale gradients in place; immutable ones are refused by name."""
    grads = items_of(grads)
    originals = _chosen(grads, _ALL, everything=True, values=True).originals
    if any(map(is_variable, originals)):
        raise ArgumentError(
            message("gradients to clip", "variables", "pass what the tape or backward() returned")
        )
    return _in_memory(originals).clip_by_global_norm_(grads, max_norm, nonfinite=nonfinite)


def stats(params: Any, select: Any, integers: bool) -> Stats:
    """Return the statistics of the arrays of a model."""
    params = items_of(params)
    request = Request.of(select=select)
    originals = list(map(unwrap, _chosen(params, request, everything=True).originals))
    found: Stats = _in_memory(originals).stats(params, select=select, integers=integers)
    return found


def _in_memory(tensors: Sequence[Any]) -> Any:
    """Return the module for what can be done in memory: torch's, whose memory may be elsewhere."""
    return _backend(tensors) if tensors and framework(tensors[0]) == "torch" else model


# -- Steps ----------------------------------------------------------------------------------------


def prox_(params: Any, step: float, request: Request, flush: bool) -> None:
    """Take a proximal step of the penalty."""
    request.require_weight()
    step = number(step, "step", least=0.0)
    found = _chosen(params, request)
    l1s, l2s = found.weights
    _write(
        found.parameters,
        lambda home, xs: home.prox_(xs, step, l1=l1s, l2=l2s, select="all", flush=flush),
        lambda jax, xs: jax.prox(xs, step, l1=l1s, l2=l2s, select="all", flush=flush),
    )


def decay_(params: Any, rate: float, request: Request) -> None:
    """Shrink variables by ``1 - rate``."""
    rate = number(rate, "rate", least=0.0, most=1.0)
    _write(
        _chosen(params, request).parameters,
        lambda home, xs: home.decay_(xs, rate, select="all"),
        lambda jax, xs: jax.decay(xs, rate, select="all"),
    )


def _write(
    parameters: Sequence[Parameter],
    in_place: Callable[[Any, Any], None],
    pure: Callable[[Any, Any], list[Any]],
) -> None:
    """Take a step, by assignment where arrays are values; check everything before that."""
    tensors = [unwrap(p.original) for p in parameters]
    if not tensors:
        return
    if framework(tensors[0]) != "jax":
        names = [p.name for p in parameters]
        in_place(_backend(tensors), list(zip(names, tensors, strict=True)))
        return
    for p in parameters:
        if not is_variable(p.original):
            raise DTypeError(
                message(
                    f"a variable at {p.label}",
                    "an array of JAX, which is immutable",
                    "use fastreg.jax.prox or fastreg.jax.decay, which return new arrays",
                )
            )
    if all(map(_is_near, tensors)):
        new = list(map(np.array, tensors))
        in_place(model, [(p.name, x) for p, x in zip(parameters, new, strict=True)])
    else:
        new = pure(backend(tensors[0]), tensors)
    for p, x in zip(parameters, new, strict=True):
        p.original.assign(x)


def _is_near(x: Any) -> bool:
    """Whether a JAX array is one piece in host memory, where the kernels can do the work."""
    if isinstance(x, loaded("jax").core.Tracer):
        return False
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"
