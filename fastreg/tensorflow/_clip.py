# SPDX-License-Identifier: BSD-3-Clause
"""The norm of gradients, and gradients of a bounded norm."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fastreg._core.arguments import Request
from fastreg._core.containers import items_of
from fastreg._core.mutability import refuse_weights
from fastreg._core.selection import Chosen
from fastreg.tensorflow import _graph
from fastreg.tensorflow import _operations as native
from fastreg.tensorflow._arrays import as_float, as_tensor, choose, placed, result_of, scalar
from fastreg.tensorflow._routes import outside_autograph, takes_kernels

__all__ = ["clip_by_global_norm", "global_norm"]


@outside_autograph
def global_norm(grads: Any, dtype: Any) -> Any:
    """The norm of all tensors of a container."""
    found = choose(grads, Request.of(), everything=True, values=True)
    xs = [placed(found, p, lambda x: as_tensor(_counted(x))) for p in found.parameters]
    return _norm(xs, dtype)


@outside_autograph
def clip_by_global_norm(grads: Any, max_norm: Any) -> tuple[Any, Any]:
    """The container with its tensors scaled, and the norm before."""
    grads = items_of(grads)
    refuse_weights(grads)
    max_norm = scalar(max_norm, "max_norm", least=0.0, finite=False)
    found = choose(grads, Request.of(), everything=True, values=True)
    norm = _norm(_floats(found), None)
    max_norm = tf.cast(max_norm, norm.dtype)
    factor = tf.where(
        (norm > max_norm) & tf.math.is_finite(norm),
        max_norm / norm,
        tf.ones_like(norm),
    )
    if found.gathered.single:
        return _scaled(found.originals[0], factor), norm
    return tf.nest.map_structure(lambda x: _scaled(x, factor), grads), norm


def _floats(found: Chosen) -> list[Any]:
    return [placed(found, p, lambda x: as_float(_counted(x))) for p in found.parameters]


def _norm(xs: list[Any], dtype: Any) -> Any:
    result = result_of(xs, "float64" if dtype is None else dtype)
    if not xs:
        return tf.zeros((), result)
    if takes_kernels(xs, ()):
        return _graph.norm(xs, result)
    return native.norm(xs, result)


def _counted(x: Any) -> Any:
    """Return the elements of a gradient: of slices the sums of those with the same index."""
    if not isinstance(x, tf.IndexedSlices):
        return x
    indices, places = tf.unique(x.indices)
    return tf.math.unsorted_segment_sum(x.values, places, tf.size(indices))


def _scaled(x: Any, factor: Any) -> Any:
    if x is None:
        return None
    if isinstance(x, tf.IndexedSlices):
        return tf.IndexedSlices(_scaled(x.values, factor), x.indices, x.dense_shape)
    if isinstance(x, tf.RaggedTensor):
        return x.with_flat_values(_scaled(x.flat_values, factor))
    x = as_tensor(x)
    work = native.exact_dtype(x)
    return tf.cast(tf.cast(factor, work) * tf.cast(x, work), x.dtype)
