# SPDX-License-Identifier: BSD-3-Clause
"""Which framework an object belongs to, and the module that serves it: the one detector.

An object is judged by the modules that its class and the bases of its class come from, so nothing
is imported to find out. A backend is imported when the first of its objects arrives, which is after
the user imported the framework. Every backend has these verbs, of the same meaning::

    penalty(x, *, l1=None, l2=None, dtype=None)             0-d of the framework, differentiable
    gradient(x, *, l1=None, l2=None)                        like x, outside any graph
    value_and_gradient(x, *, l1=None, l2=None, dtype=None)  (0-d, like x), outside any graph
    orthogonal(x, *, factor, rows=True, dtype=None)         0-d, differentiable
    orthogonal_value_and_gradient(...the same...)           (0-d, like x), outside any graph
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeVar

__all__ = [
    "NAMES",
    "backend",
    "comes_from",
    "compiling",
    "framework",
    "introduce",
    "is_model",
    "is_recording",
    "is_sharded",
    "is_symbolic",
    "is_torch_module",
    "is_variable",
    "loaded",
    "on_introduce",
    "untraced",
    "unwrap",
]

NAMES = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "keras": "Keras",
}
"""Frameworks by the names used here, as people write them."""

# Top-level package of a class -> the framework. tf_keras' variables and tensors are TensorFlow's.
_PACKAGES = {
    "torch": "torch",
    "tensorflow": "tensorflow",
    "jax": "jax",
    "jaxlib": "jax",
    "keras": "keras",
    "tf_keras": "keras",
}
_BACKENDS = {
    "numpy": "fastreg._core.numpy_backend",
    "torch": "fastreg.torch",
    "tensorflow": "fastreg.tensorflow",
    "jax": "fastreg.jax",
    "keras": "fastreg.keras._symbolic",
}

Function = TypeVar("Function", bound=Callable[..., Any])

_known: dict[type, str] = {}
_MOST_KNOWN = 1024  # classes made in a loop must not pile up


def framework(x: object) -> str:
    """Return the name of the framework that an object belongs to; import nothing.

    "torch", "tensorflow", "jax", "keras" (a variable, symbolic tensor, layer or model of Keras 3 or
    tf_keras), or "numpy" for everything else, array or not.

    Examples
    --------
    >>> framework(3.0)
    'numpy'
    """
    return _of_class(type(x))


def untraced(function: Function) -> Function:
    """Have torch's compiler call a function of plain values while it traces, and not look inside.

    It cannot follow everything, and would compile anew whenever a cache that it saw has grown. As
    ``torch.compiler.assume_constant_result``.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@untraced
def _of_class(kind: type) -> str:
    name = _known.get(kind)
    if name is None:
        name = _judge(kind)
        if len(_known) < _MOST_KNOWN:
            _known[kind] = name
    return name


def _judge(kind: type) -> str:
    # A Keras variable is both Keras' and the backend's: the first base that is listed decides.
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package == "tf_keras" and base.__name__.endswith("Variable"):
            continue  # TensorFlow's, whatever wraps it
        if package in _PACKAGES:
            return _PACKAGES[package]
    return "numpy"


def loaded(name: str) -> Any:
    """Return a framework's module if the program has imported it, else None."""
    return sys.modules.get(name)


def is_recording(torch: Any) -> bool:
    """Whether torch's tensors may stand for others: in a program being recorded, or transformed."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active())


def compiling() -> bool:
    """Whether torch's compiler is reading this, which cannot follow everything."""
    torch = loaded("torch")
    return torch is not None and bool(torch.compiler.is_compiling())


def is_symbolic(x: object) -> bool:
    """Whether x is a symbolic tensor of Keras 3 or tf_keras; judged by its class alone."""
    return any(base.__name__ == "KerasTensor" for base in type(x).__mro__)


def comes_from(kind: type, package: str, name: str) -> bool:
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] == package
        for base in kind.__mro__
    )


def _class_of(x: Any) -> Any:
    return type(x)


def is_torch_module(x: object) -> bool:
    """Whether x is a ``torch.nn.Module``, whatever else it can be taken for."""
    return framework(x) == "torch" and comes_from(type(x), "torch", "Module")


def is_model(x: Any) -> bool:
    """Whether x is a model or layer of Keras 3 or tf_keras, or a ``tf.Module``."""
    return framework(x) in ("keras", "tensorflow") and _is_model_class(_class_of(x))


def is_variable(x: Any) -> bool:
    """Whether x is a variable of Keras or TensorFlow: it has a name, and its value may change."""
    return framework(x) in ("keras", "tensorflow") and _is_variable_class(_class_of(x))


@lru_cache(_MOST_KNOWN)
def _is_model_class(kind: type) -> bool:
    return not _is_variable_class(kind) and (
        comes_from(kind, "keras", "Layer")
        or comes_from(kind, "tf_keras", "Layer")
        or comes_from(kind, "tensorflow", "Module")
    )


@lru_cache(_MOST_KNOWN)
def _is_variable_class(kind: type) -> bool:
    return comes_from(kind, "keras", "Variable") or any(
        base.__name__.endswith("Variable") and base.__module__.startswith("tensorflow")
        for base in kind.__mro__
        if base.__name__ != "ShardedVariable"
    )


def is_sharded(x: Any) -> bool:
    """Whether x is a ``ShardedVariable``, which is a list of variables."""
    return framework(x) == "tensorflow" and comes_from(type(x), "tensorflow", "ShardedVariable")


def unwrap(x: Any) -> Any:
    """Return the backend's tensor for a Keras variable, and any other object as it is.

    In a stateless scope, as Keras on JAX trains, that is what stands for the variable there.
    """
    if framework(x) != "keras" or is_symbolic(x):
        return x
    try:
        value = x.value
    except AttributeError:
        return x
    return value() if callable(value) else value


def backend(x: object) -> Any:
    """Return the module that has the verbs for an (unwrapped) object.

    Examples
    --------
    >>> backend(3.0).__name__
    'fastreg._core.numpy_backend'
    """
    return _opened(framework(x))


_open: dict[str, Any] = {}


def _opened(name: str) -> Any:
    found = _open.get(name)
    if found is None:
        if name == "torch":  # with a statement, which torch's compiler can follow
            import fastreg.torch as found
        else:
            found = import_module(_BACKENDS[name])
        _open[name] = found
    return found


# -- Classes that frameworks want to know --------------------------------------------------------

_introductions: list[Callable[[], None]] = []


def on_introduce(hook: Callable[[], None]) -> None:
    """Call `hook` whenever :func:`introduce` is called: a backend registers our classes there."""
    _introductions.append(hook)


def introduce() -> None:
    """Make our serialisable classes known to every framework that has been imported.

    Keras asks for an object's configuration before it looks up the name to save it by, and takes a
    class of an unregistered name ``L2`` for its own.
    """
    if not _introductions and ("keras" in sys.modules or "tf_keras" in sys.modules):
        import_module("fastreg.keras")
    for hook in _introductions:
        hook()
