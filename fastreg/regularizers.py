# SPDX-License-Identifier: BSD-3-Clause
"""Keras' regularizers, exactly rounded, for the arrays of every framework.

A drop-in for ``keras.regularizers`` (Keras 3.14.1 and later): the same names, signatures, defaults,
validation, configuration and exception classes, without importing any framework. An object answers
in the type of what it is called with: a NumPy scalar for arrays, a 0-d tensor, differentiable, for
PyTorch, TensorFlow and JAX, also when it is a Keras variable.

Where it differs from Keras, on purpose:

* Values are the exact number rounded once. Keras' float64 results on TensorFlow use a factor that
  was rounded to float32, and its sums in half precision overflow or vanish.
* A factor of 0 removes its term: ``L2(0.0)`` of an array with infinities is 0, Keras' is NaN.
* Integers and bools are computed, in float64; Keras casts the factor to the integer 0.
* Complex numbers are refused with a TypeError; Keras' L2 sums ``x * x``, not
  ``abs(x) ** 2``.
* ``L1``'s gradient is 0 at 0 and NaN at NaN everywhere; Keras' depends on the backend there.
* ``L1L2(0, 0)`` has the gradient 0; Keras' has none, which is an error in PyTorch.
* Factors are Python floats: ``L1(0.1).get_config()`` holds 0.1, Keras' the nearest float32.
* ``OrthogonalRegularizer`` works in every float type and both modes, and is 0 for a single row
  (Keras: NaN).
* Objects are equal if their class and configuration are; Keras' only if they are the same.
* An attribute that is assigned later, in a callback too, counts in the steps that Keras compiled
  before: they are compiled anew, which takes its time, so change it for an epoch rather than a
  batch. Keras' own are without effect there on TensorFlow and JAX. A ``tf.function`` or ``jax.jit``
  of one's own keeps what it was traced with, as of every number.
* Every class takes ``dtype=``, the type of the penalty: ``L2(1e-4, dtype="float32")`` stays finite
  on float16 activations. A configuration holds the key only if it was given, since Keras' own
  classes, which load a file where fastreg is missing, do not know it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from fastreg._core.arguments import weight
from fastreg._core.frameworks import backend, introduce
from fastreg._core.regularizer import OfArrays, Regularizer
from fastreg.errors import ArgumentError, DTypeError, message

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "OrthogonalRegularizer",
    "Regularizer",
    "deserialize",
    "get",
    "l1",
    "l1_l2",
    "l2",
    "orthogonal_regularizer",
    "serialize",
]


def _factor(name: str, value: Any) -> float:
    """Return a factor as a float if Keras would accept it."""
    if isinstance(value, (float, int)):
        with suppress(ArgumentError):
            return weight(float(value), name)
    raise ArgumentError(
        f"Invalid value for argument {name}: expected a non-negative float. "
        f"Received: {name}={value!r}; pass a finite number >= 0, for example {name}=0.01"
    )


class _Penalty(OfArrays):
    """L1, L2 and L1L2: two weights."""

    def _weights(self) -> tuple[float, float]:
        raise NotImplementedError

    def _penalty(self, x: Any, dtype: Any) -> Any:
        l1, l2 = self._weights()
        return backend(x).penalty(x, l1=l1, l2=l2, dtype=dtype)

    def _penalty_and_gradient(self, x: Any, dtype: Any) -> Any:
        l1, l2 = self._weights()
        return backend(x).value_and_gradient(x, l1=l1, l2=l2, dtype=dtype)

    def gradient(self, x: Any) -> Any:
        """Return the penalty's gradient, an array like x that is in no graph.

        Raises
        ------
        DTypeError
            (a TypeError) For integers, and what the call refuses.
        """
        l1, l2 = self._weights()
        x = self._tensor(x)
        return backend(x).gradient(x, l1=l1, l2=l2)


class L1(_Penalty):
    """``l1 * sum(|x|)``, as ``keras.regularizers.L1``.

    Parameters
    ----------
    l1 : float, default 0.01
        Finite and >= 0; None means the default. A writable attribute, read at every call.
    dtype : str or dtype, optional
        Type of the penalty: "float16", "bfloat16", "float32" or "float64"; x's own by default.

    Raises
    ------
    ArgumentError
        (a ValueError) For a factor that is not a Python float or int, negative or not finite.
    OverflowError
        For an int beyond the range of float.

    Examples
    --------
    >>> import numpy as np
    >>> L1(0.5)(np.array([1.0, -2.0], np.float32))
    np.float32(1.5)
    """

    _arguments = ("l1",)

    def __init__(self, l1: float | None = 0.01, *, dtype: Any = None) -> None:
        self.l1 = _factor("l1", 0.01 if l1 is None else l1)
        self.dtype = dtype

    def _weights(self) -> tuple[float, float]:
        return self.l1, 0.0


class L2(_Penalty):
    """``l2 * sum(x**2)``, as ``keras.regularizers.L2``; without the half of ``tf.nn.l2_loss``.

    Parameters
    ----------
    l2 : float, default 0.01
        Finite and >= 0; None means the default. A writable attribute, read at every call.
    dtype : str or dtype, optional
        Type of the penalty: "float16", "bfloat16", "float32" or "float64"; x's own by default.

    Raises
    ------
    ArgumentError
        (a ValueError) For a factor that is not a Python float or int, negative or not finite.
    OverflowError
        For an int beyond the range of float.

    Examples
    --------
    >>> import numpy as np
    >>> L2(0.5)(np.array([1.0, -2.0], np.float32))
    np.float32(2.5)
    >>> L2(0.5).value_and_gradient(np.array([1.0, -2.0], np.float32))
    (np.float32(2.5), array([ 1., -2.], dtype=float32))
    """

    _arguments = ("l2",)

    def __init__(self, l2: float | None = 0.01, *, dtype: Any = None) -> None:
        self.l2 = _factor("l2", 0.01 if l2 is None else l2)
        self.dtype = dtype

    def _weights(self) -> tuple[float, float]:
        return 0.0, self.l2


class L1L2(_Penalty):
    """``l1 * sum(|x|) + l2 * sum(x**2)`` in one pass, as ``keras.regularizers.L1L2``.

    Parameters
    ----------
    l1, l2 : float, default 0.0
        Finite and >= 0; None means the default, which is no penalty. Writable attributes, read at
        every call.
    dtype : str or dtype, optional
        Type of the penalty: "float16", "bfloat16", "float32" or "float64"; x's own by default.

    Raises
    ------
    ArgumentError
        (a ValueError) For a factor that is not a Python float or int, negative or not finite.
    OverflowError
        For an int beyond the range of float.

    Examples
    --------
    >>> import numpy as np
    >>> L1L2(l1=0.5, l2=0.25)(np.array([1.0, -2.0]))
    np.float64(2.75)
    """

    _arguments = ("l1", "l2")

    def __init__(
        self, l1: float | None = 0.0, l2: float | None = 0.0, *, dtype: Any = None
    ) -> None:
        self.l1 = _factor("l1", 0.0 if l1 is None else l1)
        self.l2 = _factor("l2", 0.0 if l2 is None else l2)
        self.dtype = dtype

    def _weights(self) -> tuple[float, float]:
        return self.l1, self.l2


class OrthogonalRegularizer(OfArrays):
    """``factor`` times the mean magnitude of the cosines between a matrix' rows.

    As ``keras.regularizers.OrthogonalRegularizer``.

    Keras fails on TensorFlow for anything but float32, in columns mode on NumPy, and is NaN for a
    single row; here every float type and both modes work and one row (or none) gives 0.

    Parameters
    ----------
    factor : float, default 0.01
        Finite and >= 0. A writable attribute, read at every call.
    mode : "rows" or "columns", default "rows"
        Which vectors of the matrix are to be orthogonal.
    dtype : str or dtype, optional
        Type of the penalty: "float16", "bfloat16", "float32" or "float64"; x's own by default.

    Raises
    ------
    ArgumentError
        (a ValueError) For another mode, and for a factor that is not a Python float or int,
        negative or not finite.

    Notes
    -----
    The products are BLAS' (the framework's), in float32 for half precision, so the last bits depend
    on it; the Gram matrix is not held whole for host memory. NaN and infinities give NaN. Rows
    shorter than 1e-7 count as of that length.

    Examples
    --------
    >>> import numpy as np
    >>> OrthogonalRegularizer(factor=0.5)(np.array([[3.0, 0.0], [1.0, 1.0]]))
    np.float64(0.35355339059327373)
    """

    _arguments = ("factor", "mode")

    def __init__(
        self, factor: float = 0.01, mode: Literal["rows", "columns"] = "rows", *, dtype: Any = None
    ) -> None:
        self.factor = _factor("factor", factor)
        self.mode = mode
        self.dtype = dtype

    def _penalty(self, x: Any, dtype: Any) -> Any:
        rows = self.mode == "rows"
        return backend(x).orthogonal(x, factor=self.factor, rows=rows, dtype=dtype)

    def _penalty_and_gradient(self, x: Any, dtype: Any) -> Any:
        rows = self.mode == "rows"
        return backend(x).orthogonal_value_and_gradient(
            x, factor=self.factor, rows=rows, dtype=dtype
        )


Regularizer.__module__ = __name__  # where users find it

l1 = L1
l2 = L2
l1_l2 = L1L2
orthogonal_regularizer = OrthogonalRegularizer

# Packages of classes by these names: this module, and what fastreg.keras registers.
_PACKAGES = ("", __name__, "fastreg")
# Keras' names for each class: as written, and in snake case (which has no underscore in l1l2).
_BY_NAME: dict[str, Callable[..., Any]] = {
    "Regularizer": Regularizer,
    "regularizer": Regularizer,
    "L1": L1,
    "l1": L1,
    "L2": L2,
    "l2": L2,
    "L1L2": L1L2,
    "l1l2": L1L2,
    "OrthogonalRegularizer": OrthogonalRegularizer,
    "orthogonal_regularizer": OrthogonalRegularizer,
}


# What writes and reads the configurations of other classes: modules with serialize and deserialize.
_others: list[Any] = []


def add_registry(other: Any) -> None:
    """Let another package's ``serialize`` and ``deserialize`` have what is not fastreg's."""
    _others.append(other)


def _registries() -> list[Any]:
    introduce()  # whoever has been imported adds itself
    return _others


def _uninterpretable(identifier: object) -> ArgumentError:
    names = ", ".join(repr(name) for name in ("l1", "l2", "l1l2", "orthogonal_regularizer"))
    misspelt = isinstance(identifier, str) and identifier == "l1_l2"
    hint = "L1L2(l1=0.01, l2=0.01)" if misspelt else "an object such as L2(0.01)"
    return ArgumentError(
        f"Could not interpret regularizer identifier: {identifier!r}; expected None, one of "
        f"{names}, a configuration, a class or a callable; pass {hint}"
    )


def serialize(regularizer: Any) -> Any:
    """Return a configuration from which :func:`deserialize` makes an equal regularizer.

    As ``keras.regularizers.serialize`` does for these classes, which are registered in the package
    "fastreg.regularizers".

    Parameters
    ----------
    regularizer : Regularizer or None

    Returns
    -------
    dict or None
        ``module``, ``class_name``, ``config``, ``registered_name``; None for None.

    Examples
    --------
    >>> serialize(L2(0.3))["config"]
    {'l2': 0.3}
    """
    if regularizer is None:
        return None
    kind = type(regularizer)
    if kind.__module__ != __name__:
        registries = _registries()
        if registries:
            return registries[0].serialize(regularizer)
    if not hasattr(regularizer, "get_config"):
        raise DTypeError(
            message(
                "a regularizer with get_config()",
                f"an object of class {kind.__name__}",
                "define get_config, or use a class of fastreg.regularizers",
            )
        )
    own = kind.__module__ == __name__
    return {
        "module": kind.__module__,
        "class_name": kind.__name__,
        "config": regularizer.get_config(),
        "registered_name": f"{__name__}>{kind.__name__}" if own else kind.__name__,
    }


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return the regularizer that a configuration describes.

    Parameters
    ----------
    config : dict, str or None
        As :func:`serialize` or Keras writes it; ``class_name`` in either of Keras' spellings, a
        missing ``config`` means the defaults.
    custom_objects : mapping, optional
        Further classes by name, which come first. Names that neither it nor fastreg knows are left
        to Keras if it has been imported.

    Raises
    ------
    ArgumentError
        (a ValueError) If it cannot be interpreted, and for factors out of range.
    TypeError
        For a key that the class does not know.
    """
    if config is None:
        return None
    name: Any = config
    arguments: dict[str, Any] = {}
    package = ""
    if isinstance(config, Mapping):
        if "class_name" not in config:
            raise ArgumentError(
                f"Unknown config as a dict: {dict(config)!r}; expected the keys 'class_name' and "
                "'config'; pass what serialize() returned"
            )
        registered = str(config.get("registered_name") or config["class_name"])
        package = registered.rpartition(">")[0]
        name = str(config["class_name"]).rpartition(">")[2]
        arguments = config.get("config") or {}
    if custom_objects and name in custom_objects:
        kind = custom_objects[name]
    elif package in _PACKAGES and isinstance(name, str) and name in _BY_NAME:
        kind = _BY_NAME[name]
    else:
        for other in _registries():
            found = other.deserialize(config, custom_objects=custom_objects)
            if callable(found):  # Keras hands back what it does not know
                return found
        raise _uninterpretable(config)
    if not isinstance(config, Mapping) and not inspect.isclass(kind):
        return kind
    return kind.from_config(arguments) if hasattr(kind, "from_config") else kind(**arguments)


def get(identifier: Any) -> Any:
    """Return a regularizer for a name, a configuration, a class or an object.

    Parameters
    ----------
    identifier : None, str, dict, class or callable
        None gives None; "l1", "L1", "l2", "L2", "l1l2", "L1L2", "orthogonal_regularizer",
        "OrthogonalRegularizer" an object with the defaults (no penalty for "l1l2", as in Keras); a
        dict is deserialized, and so is another name; a class is called; any other callable is
        returned as it is.

    Raises
    ------
    ArgumentError
        (a ValueError) For everything else, also "l1_l2", which Keras 3 refuses and tf_keras takes
        as ``L1L2(0.01, 0.01)``.

    Examples
    --------
    >>> get("l2")
    L2(l2=0.01)
    """
    if identifier is None:
        return None
    if isinstance(identifier, str) and identifier == "l1_l2":
        raise _uninterpretable(identifier)
    found = deserialize(identifier) if isinstance(identifier, (dict, str)) else identifier
    if callable(found):
        return found() if inspect.isclass(found) else found
    raise _uninterpretable(identifier)
