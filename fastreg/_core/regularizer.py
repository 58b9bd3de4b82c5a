# SPDX-License-Identifier: BSD-3-Clause
"""What all regularizers share: arguments that are attributes, by which they compare and are shown.

A step that a framework compiled while a regularizer was called holds the arguments as constants.
Who can have such steps compiled anew is told when an argument changes.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any, ClassVar

from fastreg._core.arguments import result_dtype, weight
from fastreg._core.frameworks import (
    framework,
    introduce,
    is_model,
    is_symbolic,
    is_torch_module,
    unwrap,
)
from fastreg.errors import ArgumentError, DTypeError, NotAnArrayError, message

__all__ = ["OfArrays", "Regularizer", "on_change"]

_MODES = ("rows", "columns")

# Set by a call that may have been traced; cleared when what was compiled is compiled anew.
_traced = Event()
_listeners: list[Callable[[], None]] = []


def on_change(renew: Callable[[], None]) -> None:
    """Call `renew` when an argument of a regularizer that may have been traced has changed."""
    _listeners.append(renew)


def _changed() -> None:
    if not _traced.is_set():
        return
    _traced.clear()
    introduce()  # whoever has been imported adds itself
    for renew in _listeners:
        renew()


def _dtype_name(dtype: Any) -> str | None:
    if dtype is None:
        return None
    try:
        return result_dtype(dtype).name
    except DTypeError as e:
        raise ArgumentError(f"Invalid value for argument dtype: {e}") from None


def _mode(mode: Any) -> str:
    if isinstance(mode, str) and mode in _MODES:
        return mode
    raise ArgumentError(
        'Invalid value for argument `mode`. Expected one of {"rows", "columns"}. '
        f"Received: mode={mode!r}; pass one of the two"
    )


class Regularizer:
    """Base of all regularizers: a penalty of 0.

    Subclasses define ``__call__(x)``, returning a 0-d tensor, and ``get_config()``, returning what
    their constructor takes. Those of this module are equal if their class and their arguments are,
    hold plain numbers, and may be called from any number of threads.

    As ``keras.Regularizer``. Keras does not ask for its own base class; any object that can be
    called and configured is a regularizer to it.

    Examples
    --------
    >>> Regularizer()(None)
    0.0
    """

    def __call__(self, x: Any) -> Any:
        """Return the penalty of x; here the number 0.0 whatever x is."""
        return 0.0

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal object, as plain Python values.

        Raises
        ------
        NotImplementedError
            In the base class.
        """
        raise NotImplementedError(
            message(
                "a regularizer with its own get_config()",
                f"one of class {type(self).__name__} without it",
                "define get_config, returning the constructor's arguments",
            )
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return ``cls(**config)``.

        Raises
        ------
        TypeError
            For a key that the constructor does not know.
        """
        return cls(**config)


class OfArrays(Regularizer):
    """A penalty of one array, whose arguments are attributes of their names."""

    _arguments: ClassVar[tuple[str, ...]] = ()
    _built_in = False  # Whether a symbolic tensor, whose operations keep the arguments, came.
    dtype: str | None

    def _penalty(self, x: Any, dtype: Any) -> Any:
        raise NotImplementedError

    def _penalty_and_gradient(self, x: Any, dtype: Any) -> Any:
        raise NotImplementedError

    def _dtype_for(self, x: Any) -> str | None:
        """Return the type of the penalty of x; None means x's own."""
        return self.dtype

    def _tensor(self, x: Any) -> Any:
        """Return the tensor of a variable, and any other object but a whole model as it is."""
        if framework(x) == "numpy":
            return x
        x = unwrap(x)
        # torch's compiler watches attributes; a trace of any other framework keeps numbers.
        if framework(x) != "torch" and not _traced.is_set():
            _traced.set()
        # Backends take models as well; a regularizer is for one array.
        if is_torch_module(x) or is_model(x):
            raise NotAnArrayError(
                message(
                    "an array or tensor",
                    f"an object of class {type(x).__name__}",
                    f"pass one of its weights, or call fastreg.{framework(x)}.penalty",
                )
            )
        if framework(x) == "keras" and is_symbolic(x):
            object.__setattr__(self, "_built_in", True)
        return x

    def __call__(self, x: Any) -> Any:
        """Return the penalty of one array or tensor: 0-d, in x's framework, differentiable there.

        Parameters
        ----------
        x : array or tensor
            Any shape and layout; for OrthogonalRegularizer a matrix. Never copied.

        Returns
        -------
        NumPy scalar or 0-d tensor
            Of ``self.dtype`` if it is set, otherwise of x's float type (float64 for integers).

        Raises
        ------
        NotAnArrayError
            (an AttributeError, as in Keras, and a TypeError) For lists, Python numbers, None.
        DTypeError
            (a TypeError) For complex, object, string and 8-bit float elements.
        LayoutError
            (a ValueError) From OrthogonalRegularizer, if x is not of rank 2.
        """
        return self._penalty(self._tensor(x), self._dtype_for(x))

    def value(self, x: Any, *, dtype: Any = None) -> Any:
        """Return the penalty as calling the object does, in another type if one is given."""
        return self._penalty(self._tensor(x), self._dtype_for(x) if dtype is None else dtype)

    def gradient(self, x: Any) -> Any:
        """Return the penalty's gradient, an array like x that is in no graph.

        Raises
        ------
        DTypeError
            (a TypeError) For integers, and what the call refuses.
        """
        return self.value_and_gradient(x)[1]

    def value_and_gradient(self, x: Any) -> tuple[Any, Any]:
        """Return the penalty and its gradient from one pass over x, both in no graph."""
        value, gradient = self._penalty_and_gradient(self._tensor(x), self._dtype_for(x))
        return value, gradient

    def get_config(self) -> dict[str, Any]:
        """Return the arguments under Keras' names, and ``dtype`` if it is set."""
        introduce()
        config = {name: getattr(self, name) for name in self._arguments}
        if self.dtype is not None:
            config["dtype"] = self.dtype
        return config

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute: an argument is checked first, and compiled steps learn of a change."""
        if name not in self._arguments and name != "dtype":
            object.__setattr__(self, name, value)
            return
        if name == "dtype":
            value = _dtype_name(value)
        elif name == "mode":
            value = _mode(value)
        else:
            value = weight(value, name)
        if self.__dict__.get(name, value) == value:
            object.__setattr__(self, name, value)
            return
        if self._built_in:
            raise ArgumentError(
                message(
                    f"a {name} that nothing was built with",
                    f"{name}={value!r} for a regularizer whose {name}={getattr(self, name)!r} is "
                    "part of a functional model",
                    "build the model anew, with a new regularizer",
                )
            )
        object.__setattr__(self, name, value)
        _changed()

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in (*self._arguments, "dtype"))

    def __eq__(self, other: object) -> bool:
        """Whether the other is of the same class and configuration."""
        if self is other:
            return True
        if type(self) is not type(other) or not isinstance(other, OfArrays):
            return NotImplemented
        return self._values() == other._values() and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        """Return the same for equal objects; another one once an argument has been changed."""
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        names = self._arguments if self.dtype is None else (*self._arguments, "dtype")
        return f"{type(self).__name__}({', '.join(f'{k}={getattr(self, k)!r}' for k in names)})"
