# SPDX-License-Identifier: BSD-3-Clause
"""The door to the rooms: which framework an object belongs to, and its verbs there.

A room is a module with these verbs, all of the same meaning in every room::

    penalty(x, *, l1=0.0, l2=0.0, dtype=None)             0-d of the framework, differentiable
    gradient(x, *, l1=0.0, l2=0.0)                        like x, outside any graph
    value_and_gradient(x, *, l1=0.0, l2=0.0, dtype=None)  (0-d, like x), outside any graph
    orthogonal(x, *, factor, rows=True, dtype=None)       0-d, differentiable
    orthogonal_value_and_gradient(...the same...)         (0-d, like x), outside any graph

``dtype=None`` means x's float type, and float64 for integers; otherwise it is "float16",
"bfloat16", "float32", "float64" or the framework's own name for one of them. Weights arrive
checked: finite floats >= 0.

An object is judged by the modules that its class and the bases of its class come from, so nothing
is imported to find out; the room is imported when the first of its objects arrives, which is after
the user imported the framework. A Keras variable is replaced by its ``value``, a tensor of Keras'
backend.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fastreg import ndarray
from fastreg.errors import FastregError, NotAnArrayError, message

__all__ = [
    "framework",
    "gradient",
    "is_symbolic",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "room",
    "unwrap",
    "value_and_gradient",
]

# Top-level package of a class -> the framework. A Keras variable is both Keras' and the backend's:
# the first base that is listed decides.
_PACKAGES = {
    "torch": "torch",
    "tensorflow": "tensorflow",
    "jax": "jax",
    "jaxlib": "jax",
    "keras": "keras",
}

# The tensor of a Keras variable comes from the backend; what is left of Keras is symbolic.
_MODULES = {
    "torch": "fastreg.torch",
    "tensorflow": "fastreg.tensorflow",
    "jax": "fastreg.jax",
    "keras": "fastreg.symbolic",
}

_frameworks: dict[type, str] = {}
_rooms: dict[str, Any] = {"numpy": ndarray}


def framework(x: object) -> str:
    """Return the name of the framework that an object belongs to; import nothing.

    "torch", "tensorflow", "jax", "keras" (a Keras variable or symbolic tensor), or "numpy" for
    everything else, array or not.

    Examples
    --------
    >>> framework(3.0)
    'numpy'
    """
    kind = type(x)
    name = _frameworks.get(kind)
    if name is None:
        name = _judge(kind)
        if len(_frameworks) < 1024:  # classes made in a loop must not pile up here
            _frameworks[kind] = name
    return name


def _judge(kind: type) -> str:
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package == "tf_keras" and base.__name__ == "KerasTensor":
            return "keras"  # all else of tf_keras is TensorFlow's
        if package in _PACKAGES:
            return _PACKAGES[package]
    return "numpy"


def unwrap(x: Any) -> Any:
    """Return the backend's tensor for a Keras variable, and any other object as it is.

    In a stateless scope, as Keras on JAX trains, that is what stands for the variable there.
    """
    if framework(x) != "keras" or is_symbolic(x):
        return x
    try:
        return x.value
    except AttributeError:
        return x


def is_symbolic(x: object) -> bool:
    """Whether x is a symbolic tensor of Keras 3 or tf_keras; judged by its class alone."""
    return any(base.__name__ == "KerasTensor" for base in type(x).__mro__)


def room(x: object) -> Any:
    """Return the module that has the verbs for an (unwrapped) object.

    Raises
    ------
    FastregError
        If there is no room for that framework.
    """
    name = framework(x)
    found = _rooms.get(name)
    return _open(name) if found is None else found


def _open(name: str) -> Any:
    """Import a room. For torch with a statement, which its compiler can follow."""
    try:
        if name == "torch":
            import fastreg.torch as torch_room

            _rooms[name] = torch_room
        else:
            _rooms[name] = import_module(_MODULES[name])
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] != "fastreg":
            raise
        raise FastregError(
            message(
                f"an object of a framework that this build of fastreg serves ({_served()})",
                f"one of {name}",
                "pass numpy.asarray(x), or install a complete fastreg",
            )
        ) from None
    return _rooms[name]


def _served() -> str:
    rooms = [n for n in ("torch", "tensorflow", "jax") if find_spec(_MODULES[n])]
    return ", ".join(["numpy", *rooms])


def _refuse_model(x: Any) -> None:
    """Rooms take whole models; a regularizer is for one array."""
    kind = type(x)
    if hasattr(kind, "trainable_variables") or hasattr(kind, "named_parameters"):
        raise NotAnArrayError(
            message(
                "an array or tensor",
                f"an object of class {type(x).__name__}",
                f"pass one of its weights, or call fastreg.{framework(x)}.penalty",
            )
        )


def penalty(x: Any, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as x's framework would: 0-d, differentiable there.

    Parameters
    ----------
    x : array or tensor
        ndarray, NumPy scalar, buffer; torch, TensorFlow or JAX tensor or tracer; Keras variable.
    l1, l2 : float
        Finite and >= 0; zero removes a term.
    dtype : dtype or str, optional
        Type of the result: x's own float type by default, float64 for integers.

    Raises
    ------
    NotAnArrayError
        (a TypeError and an AttributeError) For a list, a Python number, None, a string.
    DTypeError
        (a TypeError) For element types without a kernel.

    Examples
    --------
    >>> import numpy as np
    >>> penalty(np.ones(3, np.float32), l2=0.5)
    np.float32(1.5)
    """
    x = unwrap(x)
    _refuse_model(x)
    return room(x).penalty(x, l1=l1, l2=l2, dtype=dtype)


def gradient(x: Any, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Return the gradient of :func:`penalty`, an array of x's framework, shape and type."""
    x = unwrap(x)
    return room(x).gradient(x, l1=l1, l2=l2)


def value_and_gradient(x: Any, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return the penalty and its gradient from one pass over x, neither attached to a graph."""
    x = unwrap(x)
    return room(x).value_and_gradient(x, l1=l1, l2=l2, dtype=dtype)


def orthogonal(x: Any, factor: float, rows: bool = True, dtype: Any = None) -> Any:
    """Return ``factor`` times the mean |cosine| between the rows (or columns) of a matrix."""
    x = unwrap(x)
    return room(x).orthogonal(x, factor=factor, rows=rows, dtype=dtype)


def orthogonal_value_and_gradient(
    x: Any, factor: float, rows: bool = True, dtype: Any = None
) -> Any:
    """Return :func:`orthogonal` and its gradient, neither attached to a graph."""
    x = unwrap(x)
    return room(x).orthogonal_value_and_gradient(x, factor=factor, rows=rows, dtype=dtype)
