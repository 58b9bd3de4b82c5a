# SPDX-License-Identifier: BSD-3-Clause
"""Steps that Keras has compiled: they hold the penalties of when they were traced."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

from fastreg._core.frameworks import loaded

__all__ = ["renew"]

_STEPS = ("train", "test")


def renew(*parts: Any) -> None:
    """Have all models compile their steps anew, also in the middle of ``fit`` or ``evaluate``.

    All that are alive, and those given: a layer does not know the models that it is part of.
    """
    kinds = {
        id(kind)
        for name in ("keras", "tf_keras")
        if (keras := loaded(name)) is not None and hasattr(keras, "Model")
        for kind in _with_subclasses(keras.Model)
    }
    # tf_keras' evaluate() asks the model for its function before the callbacks are called.
    runner = getattr(loaded("tf_keras.src.engine.training"), "_TestFunction", None)
    models, runners = {}, []
    for x in (*parts, *gc.get_objects()):
        if id(type(x)) in kinds:
            models[id(x)] = x
        elif type(x) is runner:
            runners.append(x)
    for model in models.values():
        for name in _STEPS:
            old = vars(model).get(f"{name}_function")
            if old is None:
                continue
            _make(model, name)
            for x in runners:
                if x._function is old:
                    x._function = getattr(model, f"{name}_function")


def _make(model: Any, name: str) -> None:
    """Have a model make the function that takes its steps, from a step that JAX does not know.

    JAX finds what it traced before by equality, and methods of one object are equal.
    """
    attributes, step = vars(model), getattr(model, f"{name}_step")
    own = attributes.get(f"{name}_step")
    attributes[f"{name}_step"] = lambda *args: step(*args)
    try:
        getattr(model, f"make_{name}_function")(force=True)
    finally:
        del attributes[f"{name}_step"]
        if own is not None:
            attributes[f"{name}_step"] = own


def _with_subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _with_subclasses(below)
