# SPDX-License-Identifier: BSD-3-Clause
"""Penalties of one array, and of lists of arrays: values, gradients, both.

The functions are compiled; this module only names them.
"""

from fastreg._kernels import (
    gradient,
    l2_loss,
    list_norm,
    list_value,
    norm,
    sum_abs,
    sum_squares,
    value,
    value_and_gradient,
)

__all__ = [
    "gradient",
    "l2_loss",
    "list_norm",
    "list_value",
    "norm",
    "sum_abs",
    "sum_squares",
    "value",
    "value_and_gradient",
]
