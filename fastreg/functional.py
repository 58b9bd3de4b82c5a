# SPDX-License-Identifier: BSD-3-Clause
"""Penalties of one array: values, gradients, both. The functions are compiled; this names them."""

from fastreg._kernels import (
    gradient,
    l2_loss,
    norm,
    sum_abs,
    sum_squares,
    value,
    value_and_gradient,
)

__all__ = [
    "gradient",
    "l2_loss",
    "norm",
    "sum_abs",
    "sum_squares",
    "value",
    "value_and_gradient",
]
