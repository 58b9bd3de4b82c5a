# SPDX-License-Identifier: BSD-3-Clause
"""L1 and L2 penalties and their gradients: correctly rounded, the same bits everywhere, fast."""

from fastreg import arrays, errors, functional, groups, model, parameters, runtime, selection
from fastreg.functional import (
    gradient,
    l2_loss,
    norm,
    sum_abs,
    sum_squares,
    value,
    value_and_gradient,
)
from fastreg.groups import group_lasso_gradient, group_lasso_prox_, group_lasso_value
from fastreg.model import (
    Plan,
    check_finite,
    clip_by_global_norm_,
    decay_,
    global_norm,
    penalty,
    plan,
    prox_,
    stats,
)
from fastreg.runtime import (
    get_isa,
    get_num_threads,
    num_threads,
    set_num_threads,
    show_config,
)
from fastreg.selection import explain

__version__ = "0.1.0"

__all__ = [
    "Plan",
    "arrays",
    "check_finite",
    "clip_by_global_norm_",
    "decay_",
    "errors",
    "explain",
    "functional",
    "get_isa",
    "get_num_threads",
    "global_norm",
    "gradient",
    "group_lasso_gradient",
    "group_lasso_prox_",
    "group_lasso_value",
    "groups",
    "l2_loss",
    "model",
    "norm",
    "num_threads",
    "parameters",
    "penalty",
    "plan",
    "prox_",
    "runtime",
    "selection",
    "set_num_threads",
    "show_config",
    "stats",
    "sum_abs",
    "sum_squares",
    "value",
    "value_and_gradient",
]

runtime._check_environment()
