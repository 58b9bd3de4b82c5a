# SPDX-License-Identifier: BSD-3-Clause
"""The backend of symbolic tensors of Keras 3 and tf_keras: penalties as operations, for later.

A ``KerasTensor`` has a shape and a type but no elements; a regularizer meets one only where a user
calls it while building a functional model. Halves are summed in float32, integers in float64
(float32 on JAX without x64). Gradients, and the orthogonal penalty, need elements: Keras' own has
no symbolic form either.
"""

from __future__ import annotations

from typing import Any

from fastreg._core import formula
from fastreg._core.arguments import result_dtype, two_weights
from fastreg._core.dtypes import ACCEPTED, F32, F64, Dtype, by_name, name_of
from fastreg._core.foreign import elements
from fastreg._core.frameworks import is_symbolic, loaded
from fastreg.errors import DTypeError, NotAnArrayError, message

__all__ = [
    "gradient",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "value_and_gradient",
]


class _Operations(formula.Operations):
    """The words of the Keras that made a tensor, as far as a penalty needs them."""

    def __init__(self, x: Any) -> None:
        tensorflow = loaded("tensorflow")
        if type(x).__module__.startswith("tf_keras") and tensorflow is not None:
            self._ops, self._sum, self._absolute = tensorflow, tensorflow.reduce_sum, tensorflow.abs
        else:
            self._ops = loaded("keras").ops
            self._sum, self._absolute = self._ops.sum, self._ops.absolute

    def cast(self, x: Any, dtype: str) -> Any:
        return self._ops.cast(x, dtype)

    def sum(self, x: Any) -> Any:
        return self._sum(x)

    def absolute(self, x: Any) -> Any:
        return self._absolute(x)

    def square(self, x: Any) -> Any:
        return self._ops.square(x)

    def zeros_like(self, x: Any) -> Any:
        return self._ops.zeros_like(x)


def _own(x: Any) -> Dtype:
    """Return the float type of x's penalty, or say why there is none."""
    if not is_symbolic(x):
        raise NotAnArrayError(
            message(
                "a tensor or a variable",
                f"a {type(x).__name__} of Keras",
                "pass each of its trainable_variables, or the model to fastreg.keras.penalty",
            )
        )
    name = name_of(x.dtype)
    found = by_name(name)
    if found is None:
        raise DTypeError(message(f"elements of type {ACCEPTED}", name, elements(x, name, "keras")))
    if found.floating:
        return found
    jax, keras = loaded("jax"), loaded("keras")
    on_jax = jax is not None and keras is not None and keras.backend.backend() == "jax"
    return F32 if on_jax and not jax.config.jax_enable_x64 else F64


def penalty(x: Any, *, l1: float | None = None, l2: float | None = None, dtype: Any = None) -> Any:
    """Return a symbolic 0-d ``l1 * sum(|x|) + l2 * sum(x**2)`` of x's float type.

    Parameters, type of the result and errors as in every backend (:mod:`fastreg._core.frameworks`).
    """
    own = _own(x)
    l1, l2 = two_weights(l1, l2)
    result = own if dtype is None else result_dtype(dtype)
    work = F64 if F64 in (own, result) else F32
    return formula.penalty(_Operations(x), x, l1, l2, work.name, result.name)


def _need_elements(x: Any) -> DTypeError:
    _own(x)
    return DTypeError(
        message(
            "a tensor with elements",
            f"a symbolic {type(x).__name__} of shape {tuple(x.shape)}",
            "pass activity_regularizer= to its layer, or call within a layer's call()",
        )
    )


def gradient(x: Any, **_: Any) -> Any:
    """Refuse: a symbolic tensor has no elements."""
    raise _need_elements(x)


value_and_gradient = orthogonal = orthogonal_value_and_gradient = gradient
