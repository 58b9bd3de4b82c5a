# SPDX-License-Identifier: BSD-3-Clause
"""The room of Keras' symbolic tensors: the penalty as Keras operations, computed later.

A ``KerasTensor`` has a shape and a type but no elements; a regularizer meets one only where a user
calls it while building a functional model. Halves are summed in float32.
"""

from __future__ import annotations

import sys
from typing import Any

from fastreg.errors import DTypeError, message

__all__ = ["penalty"]


def penalty(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return a symbolic 0-d ``l1 * sum(|x|) + l2 * sum(x**2)`` of x's float type."""
    if not hasattr(x, "dtype"):
        raise DTypeError(
            message("a Keras variable or tensor", f"a {type(x).__name__}", "pass such an object")
        )
    ops = sys.modules["keras"].ops
    own = str(x.dtype)
    result = own if "float" in own else "float32"
    if dtype is not None:
        result = str(dtype).rpartition(".")[2]
    wide = "float64" if "float64" in (own, result) else "float32"
    x = ops.cast(x, wide)
    total = 0.0 * ops.sum(ops.zeros_like(x))
    if l1 != 0.0:
        total = total + l1 * ops.sum(ops.absolute(x))
    if l2 != 0.0:
        total = total + l2 * ops.sum(ops.square(x))
    return ops.cast(total, result)
