# SPDX-License-Identifier: BSD-3-Clause
"""The NumPy room: arrays, NumPy scalars and every other memory of the host."""

from __future__ import annotations

from typing import Any

from fastreg import functional
from fastreg.arrays import describe
from fastreg.errors import DTypeError, NotAnArrayError, message

__all__ = ["gradient", "penalty", "value_and_gradient"]


def _refuse(x: object, error: DTypeError) -> DTypeError:
    """Return Keras' AttributeError for what has no dtype at all, otherwise the error itself."""
    if hasattr(x, "dtype"):
        return error
    return NotAnArrayError(
        message(
            "one array or tensor (ndarray, torch, TensorFlow, JAX, Keras variable)",
            describe(x),
            "pass numpy.asarray(x), or call once for each item of a list",
        )
    )


def penalty(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as a NumPy scalar; see :func:`fastreg.value`."""
    try:
        return functional.value(x, l1=l1, l2=l2, dtype=dtype)
    except DTypeError as e:
        raise _refuse(x, e) from None


def gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Return the gradient of the penalty; see :func:`fastreg.gradient`."""
    try:
        return functional.gradient(x, l1=l1, l2=l2)
    except DTypeError as e:
        raise _refuse(x, e) from None


def value_and_gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return value and gradient from one pass; see :func:`fastreg.value_and_gradient`."""
    try:
        return functional.value_and_gradient(x, l1=l1, l2=l2, dtype=dtype)
    except DTypeError as e:
        raise _refuse(x, e) from None
