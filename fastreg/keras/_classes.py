# SPDX-License-Identifier: BSD-3-Clause
"""The regularizer classes, as Keras' own, and what makes them of names and configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastreg import regularizers
from fastreg._core.frameworks import framework
from fastreg.keras._registry import LEGACY, host, serve

__all__ = [
    "CLASSES",
    "L1",
    "L1L2",
    "L2",
    "OrthogonalRegularizer",
    "deserialize",
    "get",
    "l1",
    "l1_l2",
    "l2",
    "of_keras",
    "orthogonal_regularizer",
    "serialize",
]

_Base: Any = host.regularizers.Regularizer


class _Wide:
    """Penalties that can be added to a loss, unless a dtype was given."""

    dtype: str | None

    def _dtype_for(self, x: Any) -> str | None:
        """Return the type that was asked for, or that of a loss; None for x's own."""
        if self.dtype is not None:
            return self.dtype
        if framework(x) in ("keras", "tensorflow") and _on_tensorflow():
            return str(host.config.floatx())
        return "float32" if "float16" in str(getattr(x, "dtype", "")) else None


def _on_tensorflow() -> bool:
    return not LEGACY and bool(host.backend.backend() == "tensorflow")


class L1(_Wide, regularizers.L1, _Base):
    """``l1 * sum(|x|)``: :class:`fastreg.regularizers.L1` for Keras' layers.

    Parameters, attributes and errors are its; of ``dtype`` the default is the module's.

    Examples
    --------
    >>> import keras
    >>> layer = keras.layers.Dense(2, activity_regularizer=L1(0.1))
    """


class L2(_Wide, regularizers.L2, _Base):
    """``l2 * sum(x**2)``: :class:`fastreg.regularizers.L2` for Keras' layers.

    Parameters, attributes and errors are its; of ``dtype`` the default is the module's.

    Examples
    --------
    >>> import keras
    >>> keras.layers.Dense(2, kernel_regularizer=L2(0.1)).kernel_regularizer
    L2(l2=0.1)
    """


class L1L2(_Wide, regularizers.L1L2, _Base):
    """``l1 * sum(|x|) + l2 * sum(x**2)``: :class:`fastreg.regularizers.L1L2` for Keras' layers.

    Parameters, attributes and errors are its; of ``dtype`` the default is the module's.

    Examples
    --------
    >>> import keras
    >>> layer = keras.layers.Dense(2, kernel_regularizer=L1L2(l1=0.1, l2=0.2))
    """


class OrthogonalRegularizer(_Wide, regularizers.OrthogonalRegularizer, _Base):
    """:class:`fastreg.regularizers.OrthogonalRegularizer` for Keras' layers.

    Parameters, attributes and errors are its; of ``dtype`` the default is the module's.

    Examples
    --------
    >>> import keras
    >>> layer = keras.layers.Dense(2, kernel_regularizer=OrthogonalRegularizer(0.1))
    """


l1 = L1
l2 = L2
orthogonal_regularizer = OrthogonalRegularizer
if LEGACY:

    def l1_l2(l1: float | None = 0.01, l2: float | None = 0.01, *, dtype: Any = None) -> L1L2:
        """Return an L1L2 with the defaults that tf_keras' function of this name has."""
        return L1L2(l1, l2, dtype=dtype)

else:
    l1_l2 = L1L2

CLASSES: dict[str, Any] = {
    "L1": L1,
    "L2": L2,
    "L1L2": L1L2,
    "OrthogonalRegularizer": OrthogonalRegularizer,
}
for _kind in CLASSES.values():
    _kind.__module__ = "fastreg.keras"  # where users, and files that were saved, find it
serve(CLASSES)


def serialize(regularizer: Any) -> Any:
    """Return the configuration of a regularizer, as ``keras.regularizers.serialize`` does.

    Examples
    --------
    >>> serialize(L2(0.5))["registered_name"]
    'fastreg>L2'
    """
    return host.regularizers.serialize(regularizer)


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return the regularizer that a configuration describes, of this module's classes.

    Names and classes that are not fastreg's are left to Keras.

    Examples
    --------
    >>> deserialize({"class_name": "L2", "config": {"l2": 0.5}})
    L2(l2=0.5)
    """
    return of_keras(regularizers.deserialize(config, custom_objects))


def get(identifier: Any) -> Any:
    """Return a regularizer for a name, a configuration, a class or an object.

    As :func:`fastreg.regularizers.get`, which follows Keras 3 (``"l1_l2"`` is a ValueError, also
    with tf_keras); names and configurations give this module's classes.

    Examples
    --------
    >>> get("l2")
    L2(l2=0.01)
    """
    found = regularizers.get(identifier)
    return found if found is identifier else of_keras(found)


def of_keras(regularizer: Any) -> Any:
    """Return an object of this module's class for one of fastreg.regularizers."""
    kind = CLASSES.get(type(regularizer).__name__)
    if kind is None or type(regularizer) is not getattr(regularizers, kind.__name__):
        return regularizer
    return kind.from_config(regularizer.get_config())
