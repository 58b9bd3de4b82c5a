# SPDX-License-Identifier: BSD-3-Clause
"""Penalties and their gradients: what is asked for, and the way that computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fastreg._core import formula
from fastreg._core.arguments import Request, check_matrix
from fastreg.tensorflow import _graph
from fastreg.tensorflow import _operations as native
from fastreg.tensorflow._arrays import (
    Asked,
    as_float,
    as_tensor,
    choose,
    floats_of,
    is_single,
    result_of,
    scalar,
    tensors_of,
)
from fastreg.tensorflow._routes import outside_autograph, takes_kernels

__all__ = ["l2_loss", "orthogonal", "penalty", "value_and_gradient"]


@outside_autograph
def penalty(params: Any, asked: Asked, dtype: Any) -> Any:
    """The penalty of a tensor or a container."""
    request = Request.of(*asked)
    request.require_weight()
    if request.plain and is_single(params):
        w1, w2 = request.numbers
        return _penalty([as_tensor(params)], [w1], [w2], dtype)
    found = choose(params, request)
    l1s, l2s = found.weights
    return _penalty(tensors_of(found), l1s, l2s, dtype)


def _penalty(xs: list[Any], l1: list[float], l2: list[float], dtype: Any) -> Any:
    result = result_of(xs, dtype)
    if not xs:
        return tf.zeros((), result)
    if takes_kernels(xs, l1):
        return _graph.penalty(xs, l1, l2, result)
    return native.penalty(xs, l1, l2, result)


@outside_autograph
def l2_loss(x: Any, dtype: Any) -> Any:
    """Half the sum of squares of floats."""
    xs = [as_float(x)] if is_single(x) else floats_of(choose(x, Request.of()))
    return _penalty(xs, [0.0] * len(xs), [0.5] * len(xs), dtype)


@outside_autograph
def value_and_gradient(params: Any, asked: Asked, scale: Any, dtype: Any) -> tuple[Any, Any]:
    """The penalty, and its gradient as the container was."""
    request = Request.of(*asked)
    request.require_weight()
    scale = scalar(scale, "scale", finite=False)
    if request.plain and is_single(params):
        w1, w2 = request.numbers
        v, (g,) = _both([as_float(params)], scale, [w1], [w2], dtype)
        return v, g
    found = choose(params, request)
    l1s, l2s = found.weights
    v, gs = _both(floats_of(found), scale, l1s, l2s, dtype)
    return v, found.arranged(gs)


def _both(
    xs: list[Any], scale: Any, l1: list[float], l2: list[float], dtype: Any
) -> tuple[Any, Sequence[Any]]:
    result = result_of(xs, dtype)
    if not xs:
        return tf.zeros((), result), []
    if not tf.executing_eagerly():
        xs = [tf.stop_gradient(x) for x in xs]
    if takes_kernels(xs, l1):
        return _graph.value_and_gradients(xs, scale, l1, l2, result)
    v = tf.stop_gradient(native.penalty(xs, l1, l2, result))
    u = tf.cast(scale, tf.float64)
    gs = [
        tf.stop_gradient(native.gradient(x, u, w1, w2))
        for x, w1, w2 in zip(xs, l1, l2, strict=True)
    ]
    return v, gs


@outside_autograph
def orthogonal(x: Any, factor: Any, rows: bool, dtype: Any) -> Any:
    """The mean magnitude of the cosines between rows, times a factor."""
    x = as_tensor(x)
    if x.shape.rank is None:
        x = tf.ensure_shape(x, (None, None))  # checked when the graph runs
    factor = check_matrix(tuple(x.shape), factor)
    work = "float32" if x.dtype in native.TYPES and x.dtype != tf.float64 else "float64"
    return formula.orthogonal(native.OPERATIONS, x, factor, rows, work, result_of([x], dtype).name)
