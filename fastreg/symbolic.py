# SPDX-License-Identifier: BSD-3-Clause
"""The room of symbolic tensors of Keras 3 and tf_keras: the penalty as their operations, for later.

A ``KerasTensor`` has a shape and a type but no elements; a regularizer meets one only where a user
calls it while building a functional model. Halves are summed in float32, integers in float64
(float32 on JAX without x64). Gradients, and the orthogonal penalty, need elements: Keras' own has
no symbolic form either.
"""

from __future__ import annotations

import sys
from typing import Any

from fastreg.arrays import result_name
from fastreg.errors import DTypeError, NotAnArrayError, message
from fastreg.hosts import is_symbolic
from fastreg.ndarray import weight

__all__ = [
    "gradient",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "value_and_gradient",
]

_NAMES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"}


class _Operations:
    """What the sums need, in the words of the Keras that made the tensor."""

    def __init__(self, x: Any) -> None:
        tensorflow = sys.modules.get("tensorflow")
        if type(x).__module__.startswith("tf_keras") and tensorflow is not None:
            self.cast, self.sum = tensorflow.cast, tensorflow.reduce_sum
            self.absolute, self.square = tensorflow.abs, tensorflow.square
            self.zeros_like = tensorflow.zeros_like
        else:
            ops = sys.modules["keras"].ops
            self.cast, self.sum, self.zeros_like = ops.cast, ops.sum, ops.zeros_like
            self.absolute, self.square = ops.absolute, ops.square


def _own(x: Any) -> str:
    """Return the float type of x's penalty, or say why there is none."""
    if not is_symbolic(x):
        raise NotAnArrayError(
            message(
                "a tensor or a variable",
                f"a {type(x).__name__} of Keras",
                "pass each of its trainable_variables, or the model to fastreg.penalty",
            )
        )
    name = getattr(x.dtype, "name", str(x.dtype))
    if name in _NAMES.values():
        return name
    if not (name == "bool" or name.startswith(("int", "uint"))):
        raise DTypeError(
            message(
                "elements of type float16, bfloat16, float32, float64, bool or an integer type",
                name,
                "cast the tensor first",
            )
        )
    jax = sys.modules.get("jax")
    on_jax = "keras" in sys.modules and sys.modules["keras"].backend.backend() == "jax"
    narrow = on_jax and jax is not None and not jax.config.jax_enable_x64
    return "float32" if narrow else "float64"


def penalty(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return a symbolic 0-d ``l1 * sum(|x|) + l2 * sum(x**2)`` of x's float type.

    Parameters, type of the result and errors as in every room (:mod:`fastreg.hosts`).
    """
    own = _own(x)
    l1, l2 = weight("l1", l1), weight("l2", l2)
    result = own if dtype is None else _NAMES[result_name(dtype)]
    wide = "float64" if "float64" in (own, result) else "float32"
    ops = _Operations(x)
    x = ops.cast(x, wide)
    total = ops.sum(ops.zeros_like(x))
    if l1 != 0.0:
        total = total + l1 * ops.sum(ops.absolute(x))
    if l2 != 0.0:
        total = total + l2 * ops.sum(ops.square(x))
    return ops.cast(total, result)


def _need_elements(x: Any) -> DTypeError:
    _own(x)
    return DTypeError(
        message(
            "a tensor with elements",
            f"a symbolic {type(x).__name__} of shape {tuple(x.shape)}",
            "pass activity_regularizer= to its layer, or call within a layer's call()",
        )
    )


def gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Refuse: a symbolic tensor has no elements."""
    raise _need_elements(x)


def value_and_gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Refuse: a symbolic tensor has no elements."""
    raise _need_elements(x)


def orthogonal(x: Any, *, factor: float, rows: bool = True, dtype: Any = None) -> Any:
    """Refuse: a symbolic tensor has no elements."""
    raise _need_elements(x)


def orthogonal_value_and_gradient(
    x: Any, *, factor: float, rows: bool = True, dtype: Any = None
) -> Any:
    """Refuse: a symbolic tensor has no elements."""
    raise _need_elements(x)
