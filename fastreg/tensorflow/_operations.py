# SPDX-License-Identifier: BSD-3-Clause
"""TensorFlow's own operations: the words of the formula, and the sums of lists in them.

In float64 for at most 4096 elements and under XLA on the CPU, else in float32 (float64 for float64
and integers). Half precision is never summed in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import tensorflow as tf

from fastreg._core import formula
from fastreg._core.dtypes import F32, F64, FLOATS
from fastreg.tensorflow._routes import compiled_by_xla, on_cpu

__all__ = ["OPERATIONS", "TYPES", "exact_dtype", "gradient", "norm", "penalty", "work_dtype"]

TYPES = {getattr(tf, d.name): d for d in FLOATS}

# Operations in float64 cost a conversion: nothing measurable up to here, twice the time far above.
_EXACT_BELOW = 4096


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _zeros_like(x: Any) -> Any:
    """Zeros with a gradient of zeros, where TensorFlow's have none."""
    return tf.zeros_like(x), tf.zeros_like


class _Operations(formula.Operations):
    """What the formula asks for, in TensorFlow's words."""

    def cast(self, x: Any, dtype: str) -> Any:
        return tf.cast(x, dtype)

    def dtype(self, x: Any) -> str:
        return str(x.dtype.name)

    def sum(self, x: Any) -> Any:
        return tf.reduce_sum(x)

    def absolute(self, x: Any) -> Any:
        return tf.abs(x)

    def sign(self, x: Any) -> Any:
        return tf.sign(x)

    def square(self, x: Any) -> Any:
        return tf.square(x)

    def sum_of_squares(self, x: Any) -> Any:
        return 2.0 * tf.nn.l2_loss(x)  # reads x once, with all of TensorFlow's threads

    def zeros_like(self, x: Any) -> Any:
        return _zeros_like(x)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return tf.where(condition, a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        return tf.maximum(a, tf.cast(b, a.dtype))

    def tiny(self, dtype: str) -> float:
        kind: Any = tf.as_dtype(dtype).as_numpy_dtype
        return float(ml_dtypes.finfo(kind).smallest_normal)

    def largest_in_rows(self, x: Any) -> Any:
        return tf.reduce_max(x, axis=1, keepdims=True)

    def sum_of_rows(self, x: Any) -> Any:
        return tf.reduce_sum(x, axis=1, keepdims=True)

    def rsqrt(self, x: Any) -> Any:
        return tf.math.rsqrt(x)

    def products_of_rows(self, x: Any) -> Any:
        return tf.matmul(x, x, transpose_b=True)

    def transpose(self, x: Any) -> Any:
        return tf.transpose(x)

    def without_diagonal(self, x: Any) -> Any:
        return tf.linalg.set_diag(x, tf.zeros_like(tf.linalg.diag_part(x)))

    def pairs_of_rows(self, x: Any, dtype: str) -> Any:
        n = tf.cast(tf.shape(x)[0], dtype)
        return tf.maximum(n * (n - 1), 1)

    def stop_gradient(self, x: Any) -> Any:
        return tf.stop_gradient(x)


OPERATIONS = _Operations()


def work_dtype(x: Any) -> str:
    """The type in which sums are computed."""
    if x.dtype == tf.float64 or x.dtype not in TYPES:
        return F64.name
    n = x.shape.num_elements()
    small = n is not None and n <= _EXACT_BELOW
    # XLA's sums on the CPU are wrong in the fourth digit for large float32 tensors.
    exact = small or (not tf.executing_eagerly() and compiled_by_xla())
    return F64.name if exact and on_cpu(x) else F32.name


def exact_dtype(x: Any) -> str:
    """The type in which what is returned element by element is computed: rounded once on a CPU."""
    return F64.name if on_cpu(x) else work_dtype(x)


def penalty(xs: Sequence[Any], l1: Sequence[float], l2: Sequence[float], dtype: Any) -> Any:
    """The penalty of a list."""
    terms = []
    for x, w1, w2 in zip(xs, l1, l2, strict=True):
        work = work_dtype(x)
        terms.append(formula.penalty(OPERATIONS, x, w1, w2, work, work))
    if len({t.dtype for t in terms}) > 1:
        terms = [tf.cast(t, tf.float64) for t in terms]
    return _scalar(tf.cast(terms[0] if len(terms) == 1 else tf.add_n(terms), dtype))


def _scalar(x: Any) -> Any:
    """Let an upstream gradient of one element have any shape, as the kernels do."""
    return tf.reshape(x, ())


def gradient(x: Any, u: Any, l1: float, l2: float) -> Any:
    """The gradient of one tensor's penalty times u."""
    return formula.gradient(OPERATIONS, x, u, l1, l2, work_dtype(x))


def norm(xs: Sequence[Any], dtype: Any) -> Any:
    """The Euclidean norm of a list; no square overflows or vanishes on the way."""
    wide = tf.float64 if any(exact_dtype(x) == F64.name for x in xs) else tf.float32
    narrow = wide == tf.float64 and all(x.dtype != wide for x in xs)
    xs = [tf.cast(x, wide) for x in xs]
    scale = tf.ones((), wide)
    if not narrow:
        largest = tf.zeros((), wide)
        for x in xs:
            largest = tf.maximum(largest, tf.reduce_max(tf.abs(tf.stop_gradient(x))))
        usable = (largest > 0) & tf.math.is_finite(largest)
        scale = tf.where(usable, largest, scale)
        xs = [x / scale for x in xs]
    total = tf.add_n([tf.reduce_sum(tf.square(x)) for x in xs])
    # The slope of the root at 0 is infinite; the norm's is taken for 0 there.
    nothing = total == 0
    root = tf.sqrt(tf.where(nothing, tf.ones_like(total), total))
    return _scalar(tf.cast(tf.where(nothing, total, root) * scale, dtype))
