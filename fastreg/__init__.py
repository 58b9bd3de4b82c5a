# SPDX-License-Identifier: BSD-3-Clause
"""L1 and L2 penalties and their gradients: correctly rounded, the same bits everywhere, fast."""

from fastreg import arrays, errors, functional, runtime
from fastreg.functional import (
    gradient,
    l2_loss,
    norm,
    sum_abs,
    sum_squares,
    value,
    value_and_gradient,
)
from fastreg.runtime import (
    get_isa,
    get_num_threads,
    num_threads,
    set_num_threads,
    show_config,
)

__version__ = "0.1.0"

__all__ = [
    "arrays",
    "errors",
    "functional",
    "get_isa",
    "get_num_threads",
    "gradient",
    "l2_loss",
    "norm",
    "num_threads",
    "runtime",
    "set_num_threads",
    "show_config",
    "sum_abs",
    "sum_squares",
    "value",
    "value_and_gradient",
]

runtime._check_environment()
