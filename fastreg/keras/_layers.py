# SPDX-License-Identifier: BSD-3-Clause
"""What layers of Keras 3 and tf_keras keep of their variables' penalties, some of it private."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastreg._core.containers import Gathered, Parameter, gather
from fastreg._core.frameworks import is_model
from fastreg.errors import DTypeError, message

__all__ = [
    "assign",
    "carried",
    "counts",
    "is_state",
    "synchronise",
    "tell_attention",
    "variables",
]


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
    synchronise(model)
    return gather(model)


def synchronise(model: Any) -> None:
    """Have a model that JAX is training put the values of its variables back."""
    put_back = getattr(model, "jax_state_sync", None)
    if put_back is not None:
        put_back()


def _is_legacy(layer: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(layer).__mro__)


def is_state(p: Parameter) -> bool:
    """Whether a variable is not frozen for now, but was made not to be trained."""
    for name in ("_trainable_variables", "_trainable_weights"):  # Keras 3, tf_keras
        for v in getattr(p.layer, name, ()):
            if v is p.original:
                return False
    return p.frozen


def counts(p: Parameter) -> bool:
    """Whether Keras adds a variable's penalty: that of a frozen one only tf_keras, by itself."""
    if not _is_legacy(p.layer):
        return not p.frozen
    return bool(p.layer.trainable) or any(
        v is p.original and not ours for _, v, _, ours in _losses(p.layer)
    )


def carried(p: Parameter) -> Any:
    """Return the regularizer that a variable has, or None."""
    if not _is_legacy(p.layer):
        return getattr(p.original, "regularizer", None)
    return next((r for _, v, r, _ in _losses(p.layer) if v is p.original), None)


def _losses(layer: Any) -> list[tuple[Any, Any, Any, bool]]:
    """Return (entry, variable, regularizer, whether :func:`assign` made it) of tf_keras' penalties.

    Its variables do not know them: the layer keeps a function for each, which holds both.
    """
    found = []
    for entry in getattr(layer, "_callable_losses", ()):
        for inner in getattr(entry, "args", ()):
            function: Any = getattr(inner, "func", None)
            if function is _while_trained:
                found.append((entry, *inner.args[1:], True))
                continue
            cells: Any = getattr(function, "__closure__", None)
            if not cells or not inner.args:
                continue
            free = dict(zip(function.__code__.co_freevars, cells, strict=True))
            if "regularizer" in free:
                found.append((entry, inner.args[0], free["regularizer"].cell_contents, False))
    return found


def _while_trained(layer: Any, v: Any, regularizer: Any) -> Any:
    """Return the penalty of a variable of tf_keras, and nothing while its layer is frozen."""
    return regularizer(v) if layer.trainable else None


def _name(v: Any) -> str:
    return str(v.name).rpartition("/")[2].partition(":")[0]


def assign(p: Parameter, regularizer: Any) -> bool:
    """Give a variable its regularizer, and its layer too; say whether the layer will save it."""
    v, layer, name = p.original, p.layer, _name(p.original)
    if not _is_legacy(layer):
        v.regularizer = regularizer
    else:
        gone = [entry for entry, owner, _, _ in _losses(layer) if owner is v]
        kept = [e for e in layer._callable_losses if not any(e is entry for entry in gone)]
        layer._callable_losses[:] = kept
        if regularizer is not None:
            layer.add_loss(partial(_while_trained, layer, v, regularizer))
    names = [name, name.removesuffix("_kernel")]
    if name == "kernel":
        names.append("depthwise")
    for attribute in (f"{n}_regularizer" for n in names):
        if hasattr(layer, attribute):
            setattr(layer, attribute, regularizer)
            return True
    return False


def tell_attention(model: Any) -> set[int]:
    """Tell attention layers what their inner kernels have in common: they save only that.

    Return the ids of the variables that have something else.
    """
    others = set()
    for layer in model._flatten_layers():
        names = [n for n in ("kernel", "bias") if hasattr(layer, f"_{n}_regularizer")]
        if not names or not layer.built:
            continue
        owned = gather(layer).parameters
        for name in names:
            found = [(p, carried(p)) for p in owned if _name(p.original) == name]
            alike = all(r == found[0][1] for _, r in found)
            if found:
                setattr(layer, f"_{name}_regularizer", found[0][1] if alike else None)
            if not alike:
                others |= {id(p.original) for p, r in found if r is not None}
    return others
