# SPDX-License-Identifier: BSD-3-Clause
"""Steps on variables in place, by assignment; everything is checked before the first of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from fastreg._core import formula
from fastreg._core.arguments import Request
from fastreg._core.arrays import describe
from fastreg._core.factors import decay_factor
from fastreg._core.selection import Chosen
from fastreg._kernels import Arrays
from fastreg.errors import DTypeError, message
from fastreg.tensorflow._arrays import Asked, choose, floats_of, scalar
from fastreg.tensorflow._memory import fresh_like, memory_of
from fastreg.tensorflow._operations import OPERATIONS, exact_dtype
from fastreg.tensorflow._routes import outside_autograph, reads_memory

__all__ = ["decay", "prox"]


@outside_autograph
def prox(params: Any, asked: Asked, step: Any, flush: bool) -> Any:
    """Take a proximal step of the chosen variables."""
    request = Request.of(*asked)
    request.require_weight()
    step = scalar(step, "step", least=0.0)
    found = choose(params, request)
    l1, l2 = found.weights
    variables, xs = _variables(found), floats_of(found)
    if reads_memory(xs):
        new = _changed(xs, Arrays.prox_, l1, l2, step, flush)
    else:
        new = [
            formula.prox(OPERATIONS, x, _factor(step, x), w1, w2, flush, exact_dtype(x))
            for x, w1, w2 in zip(xs, l1, l2, strict=True)
        ]
    return _assigned(variables, new)


@outside_autograph
def decay(params: Any, select: Any, rate: Any) -> Any:
    """Shrink the chosen variables."""
    rate = scalar(rate, "rate", least=0.0, most=1.0)
    found = choose(params, Request.of(select=select))
    variables, xs = _variables(found), floats_of(found)
    rest = decay_factor(rate) if type(rate) is float else 1.0 - rate
    if reads_memory(xs):
        new = _changed(xs, Arrays.scale_, 0.0, 0.0, rest)
    else:
        new = [tf.cast(_factor(rest, x) * tf.cast(x, exact_dtype(x)), x.dtype) for x in xs]
    return _assigned(variables, new)


def _variables(found: Chosen) -> list[Any]:
    for p in found.parameters:
        if not callable(getattr(p.original, "assign", None)):
            raise DTypeError(
                message(
                    f"a variable to assign to at {p.label}",
                    describe(p.original),
                    "make it a tf.Variable, or leave it out with select=",
                )
            )
    return found.originals


def _factor(x: Any, like: Any) -> Any:
    """Return a number as operations on a tensor take it."""
    return tf.cast(x, exact_dtype(like))


def _changed(
    xs: Sequence[Any], method: Callable[..., None], l1: Any, l2: Any, *arguments: Any
) -> list[Any]:
    """Let the kernels change copies of tensors."""
    pairs = [fresh_like(x) for x in xs]
    for x, (_, memory) in zip(xs, pairs, strict=True):
        memory[...] = memory_of(x)
    method(Arrays([memory for _, memory in pairs], l1, l2), *arguments)
    return [tensor for tensor, _ in pairs]


def _assigned(variables: Sequence[Any], new: Sequence[Any]) -> Any:
    """Assign; in a graph of version 1, return the operation that does."""
    done = [v.assign(x) for v, x in zip(variables, new, strict=True)]
    if tf.compat.v1.executing_eagerly_outside_functions():
        return None
    return tf.group(*[getattr(d, "op", d) for d in done])
