# SPDX-License-Identifier: BSD-3-Clause
"""L1 and L2 penalties and their gradients: correctly rounded, the same bits everywhere, fast.

``fastreg.torch``, ``fastreg.tensorflow``, ``fastreg.jax``, ``fastreg.keras``, ``fastreg.dask``,
``fastreg.mpi`` and ``fastreg.regularizers`` are loaded, with their framework, when first named.
"""

import typing as _typing
from importlib import import_module as _import_module

from fastreg import _installation

try:
    from fastreg._kernels import (
        gradient,
        l2_loss,
        norm,
        sum_abs,
        sum_squares,
        value,
        value_and_gradient,
    )
except ModuleNotFoundError as _e:
    if _e.name != "fastreg._kernels":
        raise
    _installation.give_up(ImportError(_installation.no_kernels(), name=_e.name))
from fastreg import runtime as _runtime
from fastreg.errors import EnvironmentSettingError as _EnvironmentSettingError
from fastreg.model import (
    Plan,
    check_finite,
    clip_by_global_norm_,
    decay_,
    explain,
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

if _typing.TYPE_CHECKING:  # what type checkers see of what is loaded when first named
    from fastreg import (
        dask,
        errors,
        functional,
        group_lasso,
        jax,
        keras,
        model,
        mpi,
        regularizers,
        runtime,
        tensorflow,
        torch,
    )
    from fastreg._checkpoints.loading import load
    from fastreg._core.arrays import bf16_view
    from fastreg.group_lasso import group_lasso_gradient, group_lasso_prox_, group_lasso_value

__version__ = "0.1.0"

# Loaded when first named. Functions, and where they are:
_FUNCTIONS = {
    "bf16_view": "fastreg._core.arrays",
    "get_cmake_dir": "fastreg.embedding",
    "get_function_address": "fastreg.embedding",
    "get_include": "fastreg.embedding",
    "get_pkgconfig_dir": "fastreg.embedding",
    "get_sources": "fastreg.embedding",
    "group_lasso_gradient": "fastreg.group_lasso",
    "group_lasso_prox_": "fastreg.group_lasso",
    "group_lasso_value": "fastreg.group_lasso",
    "load": "fastreg._checkpoints.loading",
    "State": "fastreg.states",
    "state": "fastreg.states",
}
# Modules, and what they need:
_MODULES = {
    "dask": "dask",
    "embedding": "",
    "errors": "",
    "functional": "",
    "group_lasso": "",
    "jax": "jax",
    "keras": "keras, or tf_keras and tensorflow",
    "model": "",
    "mpi": "mpi4py",
    "regularizers": "",
    "runtime": "",
    "states": "",
    "tensorflow": "tensorflow",
    "torch": "torch",
}

__all__ = [
    "Plan",
    "State",
    "bf16_view",
    "check_finite",
    "clip_by_global_norm_",
    "dask",
    "decay_",
    "embedding",
    "errors",
    "explain",
    "functional",
    "get_cmake_dir",
    "get_function_address",
    "get_include",
    "get_isa",
    "get_num_threads",
    "get_pkgconfig_dir",
    "get_sources",
    "global_norm",
    "gradient",
    "group_lasso",
    "group_lasso_gradient",
    "group_lasso_prox_",
    "group_lasso_value",
    "jax",
    "keras",
    "l2_loss",
    "load",
    "model",
    "mpi",
    "norm",
    "num_threads",
    "penalty",
    "plan",
    "prox_",
    "regularizers",
    "runtime",
    "set_num_threads",
    "show_config",
    "state",
    "states",
    "stats",
    "sum_abs",
    "sum_squares",
    "tensorflow",
    "torch",
    "value",
    "value_and_gradient",
]


if not _typing.TYPE_CHECKING:  # for them a name that is not above is a slip

    def __getattr__(name: str) -> object:
        if name in _FUNCTIONS:
            found = getattr(_import_module(_FUNCTIONS[name]), name)
            globals()[name] = found
            return found
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return _import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as e:
            if not _MODULES[name] or (e.name or "").partition(".")[0] == __name__:
                raise
            from fastreg.errors import message

            raise ModuleNotFoundError(
                message(
                    f"the package {_MODULES[name]}, for fastreg.{name}",
                    f"an environment without it ({e})",
                    f"install it, or leave fastreg.{name}",
                ),
                name=e.name,
            ) from e


def __dir__() -> list[str]:
    return sorted(__all__)


_installation.warn_of_foreign_files()
try:
    _runtime.check_environment()
except _EnvironmentSettingError as _error:
    _installation.give_up(_error)
