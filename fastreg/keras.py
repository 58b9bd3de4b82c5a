# SPDX-License-Identifier: BSD-3-Clause
"""Keras 3 on every backend, and tf_keras: regularizers that save, and tools for whole models.

Importing this module registers the classes, so that cloned and loaded models keep fastreg's::

    from fastreg.keras import l2
    layer = keras.layers.Dense(64, kernel_regularizer=l2(1e-4))

The classes are those of :mod:`fastreg.regularizers`, as subclasses of ``keras.Regularizer``. They
are saved as ``fastreg>L2`` with Keras' own class name and configuration: a process that has
imported ``fastreg.keras`` loads fastreg's, one without it Keras' own (but from the SavedModel
format of tf_keras, which asks for fastreg's; serving such a model does not).

One difference from :mod:`fastreg.regularizers`, made for mixed precision: unless ``dtype=`` asks
for another type, the penalty of float16 and bfloat16 tensors is a float32 number, and on the
TensorFlow backend every penalty is of ``keras.config.floatx()``, the type of the losses. Keras
computes and returns penalties in the tensor's type: in half precision they overflow to inf, and on
the TensorFlow backend one that is not of the loss' type is a TypeError in ``fit``.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastreg import functional, hosts, ndarray, regularizers
from fastreg.errors import ArgumentError, DTypeError, message
from fastreg.selection import Weight, choose

try:
    if "keras" not in sys.modules and "tf_keras" in sys.modules:
        import tf_keras as _keras
    else:
        import keras as _keras
except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        message("the package keras (3.x) or tf_keras", f"an environment without it ({e})",
                "install keras, or use fastreg.regularizers"),
        name=e.name,
    ) from e  # fmt: skip

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "OrthogonalRegularizer",
    "PenaltyLogger",
    "Report",
    "Row",
    "attach",
    "deserialize",
    "detach",
    "get",
    "l1",
    "l1_l2",
    "l2",
    "orthogonal_regularizer",
    "penalty",
    "register",
    "report",
    "serialize",
]

_Base: Any = _keras.regularizers.Regularizer


# -- The classes -----------------------------------------------------------------------------------


class _Wide:
    """Call a regularizer so that its penalty can be added to a loss, unless a dtype was given."""

    def __call__(self, x: Any) -> Any:
        """Return the penalty of a tensor or Keras variable: 0-d, of the backend, differentiable.

        Its dtype is ``self.dtype`` if set, otherwise what the module's text says.
        """
        me: Any = self
        weights = _weights(me)
        if weights is None:
            return hosts.orthogonal(x, me.factor, me.mode == "rows", _dtype_for(me, x))
        return hosts.penalty(x, *weights, _dtype_for(me, x))

    def value_and_gradient(self, x: Any) -> tuple[Any, Any]:
        """Return the penalty, as a call does, and its gradient, like x; both in no graph."""
        me: Any = self
        weights = _weights(me)
        if weights is None:
            both = hosts.orthogonal_value_and_gradient(
                x, me.factor, me.mode == "rows", _dtype_for(me, x)
            )
        else:
            both = hosts.value_and_gradient(x, *weights, _dtype_for(me, x))
        value, gradient = both
        return value, gradient


def _dtype_for(regularizer: Any, x: Any) -> str | None:
    """Return the type that was asked for, or that of x's penalty in a loss; None for x's own."""
    asked: str | None = regularizer.dtype
    return _loss_dtype(x) if asked is None else asked


def _loss_dtype(x: Any) -> str | None:
    if (
        hosts.framework(x) in ("keras", "tensorflow")
        and _keras.__name__ == "keras"
        and _keras.backend.backend() == "tensorflow"
    ):
        return str(_keras.config.floatx())
    return "float32" if "float16" in str(getattr(x, "dtype", "")) else None


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
l1_l2 = L1L2
orthogonal_regularizer = OrthogonalRegularizer

_CLASSES: dict[str, Any] = {
    "L1": L1,
    "L2": L2,
    "L1L2": L1L2,
    "OrthogonalRegularizer": OrthogonalRegularizer,
}


def _weights(regularizer: Any) -> tuple[float, float] | None:
    """Return (l1, l2) of one of fastreg's penalties, None for everything else."""
    if isinstance(regularizer, regularizers.L1L2):
        return regularizer.l1, regularizer.l2
    if isinstance(regularizer, regularizers.L1):
        return regularizer.l1, 0.0
    if isinstance(regularizer, regularizers.L2):
        return 0.0, regularizer.l2
    return None


def register(keras: Any) -> None:
    """Register fastreg's classes with one Keras, so that its models keep them when loaded.

    Importing ``fastreg.keras`` does it for ``keras``, and for ``tf_keras`` if that has been
    imported or ``TF_USE_LEGACY_KERAS`` is set; call this for a tf_keras imported later. Objects of
    :mod:`fastreg.regularizers` used in layers are saved and cloned under the same names.

    Parameters
    ----------
    keras : module
        ``keras`` or ``tf_keras``.

    Examples
    --------
    >>> import keras
    >>> register(keras)
    >>> keras.saving.get_registered_name(L2)
    'fastreg>L2'
    """
    decorate = keras.saving.register_keras_serializable
    known = keras.saving.get_registered_name
    for name, kind in _CLASSES.items():
        # The class registered last is the one that loading makes.
        for each in (getattr(regularizers, name), kind):
            if known(each) != f"fastreg>{name}":
                decorate("fastreg", name)(each)


def _register_all() -> None:
    register(_keras)
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
    for name in ("keras", "tf_keras"):
        if name in sys.modules or (legacy and name == "tf_keras"):
            try:
                register(importlib.import_module(name))
            except ModuleNotFoundError:
                continue


_register_all()


def serialize(regularizer: Any) -> Any:
    """Return the configuration of a regularizer, as ``keras.regularizers.serialize`` does.

    Examples
    --------
    >>> serialize(L2(0.5))["registered_name"]
    'fastreg>L2'
    """
    return _keras.regularizers.serialize(regularizer)


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Return the regularizer that a configuration describes, of this module's classes.

    Names and classes that are not fastreg's are left to Keras.

    Examples
    --------
    >>> deserialize({"class_name": "L2", "config": {"l2": 0.5}})
    L2(l2=0.5)
    """
    return _of_keras(regularizers.deserialize(config, custom_objects))


def get(identifier: Any) -> Any:
    """Return a regularizer for a name, a configuration, a class or an object.

    As :func:`fastreg.regularizers.get`, which follows Keras 3 (``"l1_l2"`` is a ValueError, also
    where tf_keras is the host); names and configurations give this module's classes.

    Examples
    --------
    >>> get("l2")
    L2(l2=0.01)
    """
    found = regularizers.get(identifier)
    return found if found is identifier else _of_keras(found)


def _of_keras(regularizer: Any) -> Any:
    """Return an object of this module's class for one of fastreg.regularizers."""
    kind = _CLASSES.get(type(regularizer).__name__)
    if kind is None or type(regularizer) is not getattr(regularizers, kind.__name__):
        return regularizer
    return kind.from_config(regularizer.get_config())


# -- Whole models ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One variable of a model and what became of it."""

    path: str
    shape: tuple[int, ...]
    regularizer: Any
    action: str
    reason: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a call found in a model, one row for each variable; prints as a table."""

    rows: tuple[Row, ...] = field(default=())

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def taken(self) -> tuple[Row, ...]:
        """The rows that carry a penalty now, or from which one was removed."""
        return tuple(r for r in self.rows if r.action != "skipped")

    @property
    def total(self) -> float:
        """Sum of the penalties of all rows, those of frozen variables left out."""
        return sum(r.value or 0.0 for r in self.rows)

    def __str__(self) -> str:
        lines = [
            (
                r.path,
                "x".join(map(str, r.shape)) or "scalar",
                "" if r.regularizer is None else repr(r.regularizer),
                "" if r.value is None else f"{r.value:.6g}",
                f"{r.action}: {r.reason}" if r.reason else r.action,
            )
            for r in self.rows
        ]
        head = ("variable", "shape", "regularizer", "penalty", "why")
        widths = [max(len(line[k]) for line in [head, *lines]) for k in range(len(head))]
        text = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
                for line in [head, *lines]]  # fmt: skip
        return "\n".join(text)


Select = Callable[[str, Any], bool] | str | None


def _variables(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, variable, the layer that owns it), each variable once."""
    if not hasattr(model, "_flatten_layers"):
        raise DTypeError(
            message("a Keras model or layer", f"a {type(model).__name__}", "pass the model")
        )
    owners: dict[int, Any] = {}
    try:
        weights = model.weights
    except ValueError:  # tf_keras, before the model is built
        return
    for layer in model._flatten_layers():  # a layer comes before those that it holds
        for v in layer.weights:
            owners[id(v)] = layer
    for v in weights:
        yield str(getattr(v, "path", v.name)).partition(":")[0], v, owners[id(v)]


def _left_alone(v: Any, layer: Any) -> str:
    """Say why the default choice skips a variable; an empty text if it does not."""
    name = _name(v)
    if "bias" in name:
        return "a bias"
    if "Normalization" in type(layer).__name__ or name in ("gamma", "beta"):
        return f"a parameter of {type(layer).__name__}"
    if len(v.shape) < 2:
        return f"of rank {len(v.shape)}, a shift or a scale"
    return ""


def _chosen(select: Select, path: str, v: Any, layer: Any) -> tuple[bool, str]:
    if select is None:
        why = _left_alone(v, layer)
        return not why, why or "a matrix or kernel of weights"
    if isinstance(select, str):
        hit = re.search(select, path) is not None
        return hit, f"{'matches' if hit else 'does not match'} {select!r}"
    if not callable(select):
        raise ArgumentError(
            message("select as None, a regular expression or a function of (path, variable)",
                    repr(select), "pass one of them")
        )  # fmt: skip
    hit = bool(select(path, v))
    return hit, f"select answered {hit}"


def _legacy(layer: Any) -> bool:
    """Whether a layer or model is of tf_keras."""
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(layer).__mro__)


def _carried(layer: Any) -> list[tuple[Any, Any, Any]]:
    """Return (entry, variable, regularizer) of the penalties that a layer of tf_keras carries.

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


def _present(v: Any, layer: Any) -> Any:
    """Return the regularizer that a variable has, or None."""
    if not _legacy(layer):
        return getattr(v, "regularizer", None)
    return next((r for _, carrier, r in _carried(layer) if carrier is v), None)


def _counts(v: Any, layer: Any) -> bool:
    """Whether Keras adds a variable's penalty: Keras 3 leaves frozen ones out."""
    return bool(v.trainable) or _legacy(layer)


def _name(v: Any) -> str:
    return str(v.name).rpartition("/")[2].partition(":")[0]


def _set(v: Any, layer: Any, regularizer: Any) -> bool:
    """Give a variable its regularizer, and its layer too; say whether the layer will save it."""
    if not _legacy(layer):
        v.regularizer = regularizer
    else:
        gone = [entry for entry, carrier, _ in _carried(layer) if carrier is v]
        kept = [e for e in layer._callable_losses if not any(e is entry for entry in gone)]
        layer._callable_losses[:] = kept
        if regularizer is not None:
            layer._handle_weight_regularization(_name(v), v, regularizer)
    name = _name(v)
    names = [name, name.removesuffix("_kernel")]
    if name == "kernel":
        names.append("depthwise")
    for attribute in (f"{n}_regularizer" for n in names):
        if hasattr(layer, attribute):
            setattr(layer, attribute, regularizer)
            return True
    return False


def _tell_attention(model: Any) -> None:
    """Tell attention layers what their inner kernels have in common: they save only that."""
    for layer in model._flatten_layers():
        for name in ("kernel", "bias"):
            if not hasattr(layer, f"_{name}_regularizer"):
                continue
            owned = [(v, each) for _, v, each in _variables(layer) if _name(v) == name]
            found = [_present(v, each) for v, each in owned]
            if found and all(r is found[0] for r in found):
                setattr(layer, f"_{name}_regularizer", found[0])


def _recompile(model: Any) -> None:
    """Drop compiled steps: they were traced with the penalties of before."""
    for name in ("train_function", "test_function"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)


def attach(model: Any, regularizer: Any, *, select: Select = None, replace: bool = False) -> Report:
    """Penalise the weights of a model that has been built already.

    Setting ``layer.kernel_regularizer`` after a layer was built does nothing in Keras; this sets
    the regularizer of the variables, and of the layers' configurations, so that it is saved.

    Parameters
    ----------
    model : Model or Layer of Keras 3 or tf_keras, built
    regularizer : Regularizer, str or dict
        What :func:`get` takes. One object may serve all variables: it has no state.
    select : None, str or callable, optional
        Which trainable variables: by default those of rank 2 and more that are neither biases nor
        parameters of a normalisation layer; a regular expression searched in the variable's path
        (``"dense/kernel"``); or a function of (path, variable) that answers True.
    replace : bool, default False
        Whether to replace a regularizer that a variable has already.

    Returns
    -------
    Report
        A row for every variable of the model: taken or skipped, and why.

    Raises
    ------
    DTypeError (a TypeError)
        For objects that are no models, and for a regularizer that cannot be called.
    ArgumentError (a ValueError)
        For a model that has no weights yet.

    Notes
    -----
    Frozen variables are skipped (Keras 3 leaves their penalties out, tf_keras does not). Steps
    compiled before are compiled anew. If a layer has no such argument, saving the model forgets its
    penalty, and the row says so. Attention layers save what their kernels have in common;
    Bidirectional layers of tf_keras save the layer that they were given, and forget.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> for row in attach(model, "l2"):
    ...     print(row.shape, row.action, row.reason, sep=", ")
    (3, 2), attached, a matrix or kernel of weights
    (2,), skipped, a bias
    """
    found = get(regularizer)
    if not callable(found):
        raise DTypeError(
            message("a regularizer", f"a {type(regularizer).__name__}", "pass for example l2(1e-4)")
        )
    found = _of_keras(found)
    rows = []
    for path, v, layer in _variables(model):
        present = _present(v, layer)
        if not v.trainable:
            hit, why = False, "not trainable"
        else:
            hit, why = _chosen(select, path, v, layer)
        if hit and present is not None and not replace:
            hit, why = False, "has a regularizer; pass replace=True"
        if hit and not _set(v, layer, found):
            why += "; forgotten when the model is saved"
        now = found if hit else present
        rows.append(Row(path, tuple(v.shape), now, "attached" if hit else "skipped", why))
    if not rows:
        raise ArgumentError(
            message("a model with weights", "one without", "build it first, or give it an Input")
        )
    _tell_attention(model)
    _recompile(model)
    return Report(tuple(rows))


def detach(model: Any, *, select: Select = None) -> Report:
    """Remove the penalties of a model's weights.

    Parameters
    ----------
    model : Model or Layer of Keras 3 or tf_keras
    select : None, str or callable, optional
        From which variables: by default all that have one; a regular expression or a function as in
        :func:`attach`.

    Returns
    -------
    Report
        A row for every variable that had a regularizer; it shows the one removed.

    Notes
    -----
    Activity regularizers are attributes of layers and stay.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    >>> len(attach(model, "l2").taken), len(detach(model).taken), len(model.losses)
    (1, 1, 0)
    """
    rows = []
    for path, v, layer in _variables(model):
        present = _present(v, layer)
        if present is None:
            continue
        hit, why = (True, "") if select is None else _chosen(select, path, v, layer)
        if hit:
            _set(v, layer, None)
        rows.append(Row(path, tuple(v.shape), present, "detached" if hit else "skipped", why))
    _tell_attention(model)
    _recompile(model)
    return Report(tuple(rows))


def penalty(
    model: Any,
    *,
    l1: Weight = 0.0,
    l2: Weight = 0.0,
    select: Any = "kernels",
    weights: Weight = 1.0,
    convention: str = "keras",
    dtype: Any = None,
) -> Any:
    """Return the penalty of a model's weights, differentiable, in one call for all of them.

    For a training step of one's own: ``loss = loss_fn(y, model(x)) + penalty(model, l2=1e-4)``. It
    is what ``sum(model.losses)`` gives where each layer has a regularizer, but without one
    anywhere, and without a term for each layer.

    Parameters
    ----------
    model : keras.Model or keras.Layer (of Keras 3 or tf_keras), built, or a container of variables
    l1, l2, weights, convention
        As in :func:`fastreg.penalty`.
    select : default "kernels"
        Which variables, as in :func:`fastreg.penalty`: no bias, no normalisation, nothing frozen,
        ndim >= 2. Names are the variables' paths (``"dense/kernel"``).
    dtype : optional
        Type of the result; by default the widest of the variables' types, at least float32.

    Returns
    -------
    tensor, 0-d
        Of the backend; a NumPy scalar on the numpy backend. On the CPU the exact sum over all
        variables, rounded once.

    Raises
    ------
    DTypeError (a TypeError)
        For objects that hold no variables.
    ArgumentError (a ValueError)
        For a bad weight or select, and a model without weights.

    Notes
    -----
    Inside ``compile``/``fit`` use ``kernel_regularizer=``, or :func:`attach`.

    Examples
    --------
    >>> import keras
    >>> dense = keras.layers.Dense(2, kernel_initializer="ones")
    >>> model = keras.Sequential([keras.layers.Input((3,)), dense])
    >>> float(penalty(model, l2=0.5))
    3.0
    """
    container = hasattr(model, "weights") or isinstance(model, (list, tuple, Mapping))
    if isinstance(model, type) or not container:
        raise DTypeError(
            message("a Keras model or layer", f"a {type(model).__name__}", "pass the model")
        )
    if hasattr(model, "weights") and not model.weights:
        raise ArgumentError(
            message("a model with weights", "one without", "build it first, or give it an Input")
        )
    _, variables, l1s, l2s = choose(
        model, l1=l1, l2=l2, select=select, weights=weights, convention=convention
    )
    tensors = [hosts.unwrap(v) for v in variables]
    if not tensors:
        return hosts.unwrap(_keras.ops.zeros((), dtype or _keras.config.floatx()))
    room = hosts.room(tensors[0])
    own = {str(getattr(x.dtype, "name", x.dtype)).removeprefix("torch.") for x in tensors}
    if dtype is None and own <= {"float16", "bfloat16"}:
        dtype = "float32"  # as fastreg.keras' regularizers: a penalty that stays finite
    if room is ndarray:
        widest = np.result_type(*(x.dtype for x in tensors)) if dtype is None else dtype
        return functional.list_value(tensors, l1=l1s, l2=l2s, dtype=widest)
    return room.penalty(tensors, l1=l1s, l2=l2s, dtype=dtype)


def _penalty_of(v: Any, regularizer: Any) -> float:
    """A variable's penalty; of fastreg's regularizers exact and rounded to float64."""
    weights = _weights(regularizer)
    value = regularizer(v) if weights is None else hosts.penalty(v, *weights, "float64")
    return float(value.detach() if hasattr(value, "detach") else value)


def report(model: Any) -> Report:
    """Return the penalties of a model's weights as they are now, one row for each variable.

    Parameters
    ----------
    model : Model or Layer of Keras 3 or tf_keras

    Returns
    -------
    Report
        ``value`` of a row is the penalty: exact and rounded to float64 for fastreg's regularizers
        (to float32 on JAX without x64), None without a regularizer and for frozen variables
        in Keras 3, which leaves them out. ``total`` is their sum. Penalties of activities depend on
        the batch and are not part of it.

    Examples
    --------
    >>> import keras
    >>> dense = keras.layers.Dense(2, kernel_initializer="ones", kernel_regularizer=l2(0.5))
    >>> model = keras.Sequential([keras.layers.Input((3,)), dense])
    >>> report(model).total
    3.0
    """
    rows = []
    for path, v, layer in _variables(model):
        present = _present(v, layer)
        if present is None:
            row = Row(path, tuple(v.shape), None, "skipped", "no regularizer")
        elif not _counts(v, layer):
            row = Row(path, tuple(v.shape), present, "skipped", "not trainable")
        else:
            row = Row(path, tuple(v.shape), present, "counted", "", _penalty_of(v, present))
        rows.append(row)
    return Report(tuple(rows))


class PenaltyLogger(_keras.callbacks.Callback):
    """Log the penalty of every regularized variable at the end of each epoch.

    Writes ``penalty`` (the total) and ``penalty/<path>`` into the epoch's logs, so that History,
    CSVLogger and TensorBoard record them.

    Parameters
    ----------
    every : int, default 1
        Log each so many epochs.

    Raises
    ------
    ArgumentError (a ValueError)
        For ``every`` below 1.

    Notes
    -----
    Penalties of activities are not logged. Place it before callbacks that read the logs.

    Examples
    --------
    >>> logger = PenaltyLogger()  # model.fit(..., callbacks=[logger])
    """

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise ArgumentError(message("every >= 1", str(every), "pass a positive integer"))
        self.every = every

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the penalties to the logs."""
        if logs is None or (epoch + 1) % self.every:
            return
        found = report(self.model)
        logs["penalty"] = found.total
        for row in found:
            if row.value is not None:
                logs[f"penalty/{row.path}"] = row.value
