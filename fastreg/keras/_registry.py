# SPDX-License-Identifier: BSD-3-Clause
"""Which Keras this process uses, and how it learns fastreg's classes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from fastreg import regularizers
from fastreg._core.frameworks import on_introduce
from fastreg._core.regularizer import on_change
from fastreg.errors import message
from fastreg.keras._steps import renew

__all__ = ["LEGACY", "host", "register", "register_all", "serve"]

try:
    if "keras" not in sys.modules and "tf_keras" in sys.modules:
        import tf_keras as host
    else:
        import keras as host
except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        message("the package keras (3.x) or tf_keras", f"an environment without it ({e})",
                "install keras, or use fastreg.regularizers"),
        name=e.name,
    ) from e  # fmt: skip

LEGACY = host.__name__ == "tf_keras"

# Package -> classes by name. What is saved as fastreg.regularizers' is loaded as that.
_classes: dict[str, Mapping[str, Any]] = {}


def serve(classes: Mapping[str, Any]) -> None:
    """Register this package's classes now, and whenever an object is about to be saved."""
    _classes["fastreg"] = classes
    _classes[regularizers.__name__] = {name: getattr(regularizers, name) for name in classes}
    register_all()
    on_introduce(register_all)
    regularizers.add_registry(host.regularizers)
    on_change(renew)


def register(keras: Any) -> None:
    """Register all classes with one Keras: see :func:`fastreg.keras.register`."""
    known = keras.saving.get_registered_name
    for package, classes in _classes.items():
        for name, kind in classes.items():
            if known(kind) != f"{package}>{name}":
                keras.saving.register_keras_serializable(package, name)(kind)


def register_all() -> None:
    """Register all classes with each Keras that has been imported or asked for."""
    register(host)
    wanted = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
    for name in ("keras", "tf_keras"):
        if name in sys.modules or (wanted and name == "tf_keras"):
            try:
                register(importlib.import_module(name))
            except ModuleNotFoundError:
                continue
