# SPDX-License-Identifier: BSD-3-Clause
"""What layers of Keras 3 and tf_keras keep of their variables' penalties, some of it private."""

from __future__ import annotations

from typing import Any

from fastreg._core.containers import Gathered, Parameter, gather
from fastreg._core.frameworks import is_model
from fastreg.errors import DTypeError, message

__all__ = ["assign", "carried", "counts", "recompile", "tell_attention", "variables"]


def variables(model: Any) -> Gathered:
    """Return the variables of a model or layer, each once, with the layer that owns it.

    Raises
    ------
    DTypeError
        For what is no model of Keras.
    ArgumentError
        For one that has not been built.
    """
    if not is_model(model) or not hasattr(model, "_flatten_layers"):
        raise DTypeError(
            message("a Keras model or layer", f"a {type(model).__name__}", "pass the model")
        )
    return gather(model)


def _is_legacy(layer: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(layer).__mro__)


def counts(p: Parameter) -> bool:
    """Whether Keras adds a variable's penalty: Keras 3 leaves frozen ones out."""
    return bool(p.original.trainable) or _is_legacy(p.layer)


def carried(p: Parameter) -> Any:
    """Return the regularizer that a variable has, or None."""
    if not _is_legacy(p.layer):
        return getattr(p.original, "regularizer", None)
    return next((r for _, v, r in _losses(p.layer) if v is p.original), None)


def _losses(layer: Any) -> list[tuple[Any, Any, Any]]:
    """Return (entry, variable, regularizer) of the penalties that a layer of tf_keras keeps.

    Its variables do not know them: the layer keeps a function for each, which holds both.
    """
    found = []
    for entry in getattr(layer, "_callable_losses", ()):
        for inner in getattr(entry, "args", ()):
            function: Any = getattr(inner, "func", None)
            cells: Any = getattr(function, "__closure__", None)
            if not cells or not inner.args:
                continue
            free = dict(zip(function.__code__.co_freevars, cells, strict=True))
            if "regularizer" in free:
                found.append((entry, inner.args[0], free["regularizer"].cell_contents))
    return found


def _name(v: Any) -> str:
    return str(v.name).rpartition("/")[2].partition(":")[0]


def assign(p: Parameter, regularizer: Any) -> bool:
    """Give a variable its regularizer, and its layer too; say whether the layer will save it."""
    v, layer, name = p.original, p.layer, _name(p.original)
    if not _is_legacy(layer):
        v.regularizer = regularizer
    else:
        gone = [entry for entry, owner, _ in _losses(layer) if owner is v]
        kept = [e for e in layer._callable_losses if not any(e is entry for entry in gone)]
        layer._callable_losses[:] = kept
        if regularizer is not None:
            layer._handle_weight_regularization(name, v, regularizer)
    names = [name, name.removesuffix("_kernel")]
    if name == "kernel":
        names.append("depthwise")
    for attribute in (f"{n}_regularizer" for n in names):
        if hasattr(layer, attribute):
            setattr(layer, attribute, regularizer)
            return True
    return False


def tell_attention(model: Any) -> None:
    """Tell attention layers what their inner kernels have in common: they save only that."""
    for layer in model._flatten_layers():
        names = [n for n in ("kernel", "bias") if hasattr(layer, f"_{n}_regularizer")]
        if not names or not layer.built:
            continue
        owned = gather(layer).parameters
        for name in names:
            found = [carried(p) for p in owned if _name(p.original) == name]
            if found and all(r is found[0] for r in found):
                setattr(layer, f"_{name}_regularizer", found[0])


def recompile(model: Any) -> None:
    """Drop compiled steps: they were traced with the penalties of before."""
    for name in ("train_function", "test_function"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
