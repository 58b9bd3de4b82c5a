# SPDX-License-Identifier: BSD-3-Clause
"""Keras 3 on every backend, and tf_keras: regularizers that save, and tools for whole models.

Importing this module registers the classes, so that cloned and loaded models keep fastreg's::

    from fastreg.keras import l2
    layer = keras.layers.Dense(64, kernel_regularizer=l2(1e-4))

The classes are those of :mod:`fastreg.regularizers`, as subclasses of ``keras.Regularizer``. They
are saved as ``fastreg>L2`` with Keras' own class name and configuration: a process that has
imported ``fastreg.keras`` loads fastreg's, one without it Keras' own (but from the SavedModel
format of tf_keras, which asks for fastreg's; serving such a model does not). Objects of
:mod:`fastreg.regularizers` in layers are saved as ``fastreg.regularizers>L2``, and stay what they
are.

Factors may be changed, and :func:`attach` and :func:`detach` be called, while ``fit`` or
``evaluate`` runs: steps compiled before are compiled anew when they are next run.

One difference from :mod:`fastreg.regularizers`, made for mixed precision: unless ``dtype=`` asks
for another type, the penalty of float16 and bfloat16 tensors is a float32 number, and on the
TensorFlow backend every penalty is of ``keras.config.floatx()``, the type of the losses. Keras
computes and returns penalties in the tensor's type: in half precision they overflow to inf, and on
the TensorFlow backend one that is not of the loss' type is a TypeError in ``fit``.
"""

from __future__ import annotations

from typing import Any

from fastreg._core.arguments import Convention, Nonfinite, Request, Select, Weight, number
from fastreg._core.selection import explain
from fastreg._core.statistics import Stats
from fastreg.keras import _attach, _models, _registry, _report
from fastreg.keras._classes import (
    L1,
    L1L2,
    L2,
    OrthogonalRegularizer,
    deserialize,
    get,
    l1,
    l1_l2,
    l2,
    orthogonal_regularizer,
    serialize,
)
from fastreg.keras._report import PenaltyLogger, Report, Row

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "OrthogonalRegularizer",
    "PenaltyLogger",
    "Report",
    "Row",
    "attach",
    "clip_by_global_norm_",
    "decay_",
    "deserialize",
    "detach",
    "explain",
    "get",
    "global_norm",
    "gradient",
    "l1",
    "l1_l2",
    "l2",
    "orthogonal_regularizer",
    "penalty",
    "prox_",
    "register",
    "report",
    "serialize",
    "stats",
    "value_and_gradient",
]


def __dir__() -> list[str]:
    return __all__


def register(keras: Any) -> None:
    """Register fastreg's classes with one Keras, so that its models keep them when loaded.

    Importing ``fastreg.keras`` does it for ``keras``, and for ``tf_keras`` if that has been
    imported or ``TF_USE_LEGACY_KERAS`` is set; call this for a tf_keras imported later. The classes
    of :mod:`fastreg.regularizers` are registered too, in a package of that name.

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
    _registry.register(keras)


# -- Attaching ------------------------------------------------------------------------------------


def attach(
    model: Any,
    regularizer: Any = None,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    replace: bool = False,
) -> Report:
    """Penalise the weights of a model that has been built already.

    Setting ``layer.kernel_regularizer`` after a layer was built does nothing in Keras; this sets
    the regularizer of the variables, and of the layers' configurations, so that it is saved.

    Parameters
    ----------
    model : Model or Layer of Keras 3 or tf_keras, built
    regularizer : Regularizer, str or dict, optional
        What :func:`get` takes, one object for all variables; or a dict by paths and globs of such,
        ``{"fc/kernel": L2(0.1), "*": "l1"}``, of which the first that fits is taken, and None
        means none.
    l1, l2, weights, convention : optional
        In place of a regularizer, as in :func:`penalty`: each variable gets an L1, L2 or L1L2 of
        its own with its weights. What dicts do not name gets none.
    select : optional
        Which variables, as in :func:`penalty`: by default the kernels; a glob on their paths
        (``"*dense*/kernel"``), ``"re:..."``, ``"all"``, a callable ``(path, variable)`` or a tree
        of bools. What is never trained, such as running means, is skipped whatever it says.
    replace : bool, default False
        Whether to replace a regularizer that a variable has already.

    Returns
    -------
    Report
        A row for every variable of the model: attached or skipped, why, and the penalty now. Prints
        as a table.

    Raises
    ------
    DTypeError (a TypeError)
        For objects that are no models, and for a regularizer that cannot be called, or none.
    ArgumentError (a ValueError)
        For a model that has not been built or has no weights, for a bad weight, for a select that
        takes none, for an entry of a dict that names none, and for a name such as "l1l2" whose
        default is no penalty. Nothing has been changed then.

    Notes
    -----
    Frozen variables get their regularizer too, and their penalties count once they are trained, as
    with ``kernel_regularizer=`` in Keras 3. (tf_keras' own counts frozen ones as well; so does a
    model of tf_keras that was loaded.)

    May be called in callbacks: steps compiled before, of all models, are compiled anew when they
    are next run. If a layer has no such argument, saving the model forgets its penalty, and the row
    says so. Attention layers save what their kernels have in common; Bidirectional layers of
    tf_keras save the layer that they were given, and forget.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> for row in attach(model, "l2"):
    ...     print(row.shape, row.action, row.reason, sep=", ")
    (3, 2), attached, a kernel
    (2,), skipped, a bias, by its name 'bias'
    >>> attach(model, l2={"d/kernel": 0.5}, replace=True).taken[0].regularizer
    L2(l2=0.5)
    """
    request = Request.of(l1, l2, select, weights, convention)
    return _attach.attach(model, regularizer, request, replace)


def detach(model: Any, *, select: Select = None) -> Report:
    """Remove the penalties of a model's weights.

    Parameters
    ----------
    model : Model or Layer of Keras 3 or tf_keras
    select : optional
        From which variables: by default all that have one; otherwise as in :func:`attach`.

    Returns
    -------
    Report
        A row for every variable that had a regularizer; it shows the one removed.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`attach`, for the model and for select.

    Notes
    -----
    Activity regularizers are attributes of layers and stay. May be called in callbacks, as
    :func:`attach`.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    >>> len(attach(model, "l2").taken), len(detach(model).taken), len(model.losses)
    (1, 1, 0)
    """
    return _attach.detach(model, select)


def report(model: Any) -> Report:
    """Return the penalties of a model's weights as they are now, one row for each variable.

    Parameters
    ----------
    model : Model or Layer of Keras 3 or tf_keras, built

    Returns
    -------
    Report
        ``value`` of a row is the penalty: exact and rounded to float64 for fastreg's regularizers
        (to float32 on JAX without x64), None without a regularizer and for frozen variables
        in Keras 3, which leaves them out. ``total`` is their sum. Penalties of activities depend on
        the batch and are not part of it.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`attach`, for the model; for a layer of a model that JAX is training.

    Examples
    --------
    >>> import keras
    >>> dense = keras.layers.Dense(2, kernel_initializer="ones", kernel_regularizer=l2(0.5))
    >>> model = keras.Sequential([keras.layers.Input((3,)), dense])
    >>> report(model).total
    3.0
    """
    return _report.report(model)


# -- Whole models ---------------------------------------------------------------------------------


def penalty(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    dtype: Any = None,
) -> Any:
    """Return the penalty of a model's weights, differentiable, in one call for all of them.

    For a training step of one's own: ``loss = loss_fn(y, model(x)) + penalty(model, l2=1e-4)``. It
    is what ``sum(model.losses)`` gives where each layer has a regularizer, but without one
    anywhere, and without a term for each layer.

    Parameters
    ----------
    params : keras.Model or keras.Layer (of Keras 3 or tf_keras), built, or a container of variables
        A model means its kernels: no bias, no normalisation, nothing frozen, ndim >= 2. A list of
        variables means those. What stands there twice counts once.
    l1, l2, weights, convention
        As in :func:`fastreg.penalty`; at least one weight.
    select : optional
        Which variables, as in :func:`fastreg.penalty`. Names are their paths
        (``"sequential/dense/kernel"``).
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
        For a bad weight, or none; for a model that has not been built, and a rule that takes no
        variable.

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
    return _models.penalty(params, Request.of(l1, l2, select, weights, convention), dtype)


def gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: float = 1.0,
) -> Any:
    """Return the gradient of :func:`penalty`, in no graph.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; integers are refused.
    scale : float, default 1
        The upstream gradient.

    Returns
    -------
    dict, list or tensor
        Tensors of the backend: of a model a dict by path, of a list of variables a list.

    Raises
    ------
    DTypeError, ArgumentError, LayoutError
        As :func:`penalty`; for integers, and for two variables of one path.

    Examples
    --------
    >>> import keras
    >>> dense = keras.layers.Dense(2, kernel_initializer="ones", name="d")
    >>> dense.build((None, 3))
    >>> list(gradient(dense, l2=0.5))
    ['d/kernel']
    """
    scale = number(scale, "scale", finite=False)
    return _models.gradient(params, Request.of(l1, l2, select, weights, convention), scale)


def value_and_gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: float = 1.0,
    dtype: Any = None,
) -> tuple[Any, Any]:
    """Return :func:`penalty` and :func:`gradient`, whose parameters they are, from one pass.

    ``scale`` does not multiply the value. Neither is in a graph.

    Examples
    --------
    >>> import keras
    >>> kernel = keras.Variable([[3.0, -4.0]])
    >>> value, gradients = value_and_gradient([kernel], l2=0.5)
    >>> float(value), len(gradients)
    (12.5, 1)
    """
    scale = number(scale, "scale", finite=False)
    request = Request.of(l1, l2, select, weights, convention)
    return _models.value_and_gradient(params, request, scale, dtype)


def prox_(
    params: Any,
    step: float,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    flush: bool = False,
) -> None:
    """Take a proximal step of the penalty: the soft threshold, which makes exact zeros.

    After a step of the optimizer for the loss without the penalty, with ``step`` the learning rate:
    what :func:`fastreg.prox_` does, on any backend, by assignment where tensors are values.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; variables of float types.
    step : float, finite, >= 0
        The learning rate.
    flush : bool, default False
        Turn results that are subnormal in the variable's type into 0.

    Raises
    ------
    DTypeError, ArgumentError, LayoutError
        As in :func:`penalty`; for a bad step, for integers, and for what cannot be assigned to.
        Nothing has been written then.

    Examples
    --------
    >>> import keras
    >>> kernel = keras.Variable([[3.0, -0.5, 1.0]])
    >>> prox_([kernel], 0.5, l1=2.0)
    >>> keras.ops.convert_to_numpy(kernel).tolist()
    [[2.0, 0.0, 0.0]]
    """
    request = Request.of(l1, l2, select, weights, convention)
    _models.prox_(params, step, request, bool(flush))


def decay_(params: Any, rate: float, *, select: Select = None) -> None:
    """Shrink variables, ``x = RN_T((1 - rate) * x)``: a decoupled weight decay.

    Parameters
    ----------
    params, select
        As in :func:`penalty`; variables of float types.
    rate : float from 0 to 1
        The learning rate times the weight decay, for AdamW's step.

    Raises
    ------
    DTypeError, ArgumentError, LayoutError
        As in :func:`prox_`, and for a bad rate. Nothing has been written then.

    Examples
    --------
    >>> import keras
    >>> kernel = keras.Variable([[4.0, -8.0]])
    >>> decay_([kernel], 0.25)
    >>> keras.ops.convert_to_numpy(kernel).tolist()
    [[3.0, -6.0]]
    """
    _models.decay_(params, rate, Request.of(select=select))


def global_norm(grads: Any, *, dtype: Any = None) -> Any:
    """Return the Euclidean norm of all arrays together.

    Parameters
    ----------
    grads : tensors or variables in a container, or a model
        All of them count. A tensor that stands in a list twice counts twice.
    dtype : optional
        Type of the result, float64 by default (float32 on JAX without x64).

    Returns
    -------
    tensor, 0-d
        Of the backend; correctly rounded as its ``global_norm`` says.

    Examples
    --------
    >>> import keras
    >>> float(global_norm([keras.ops.convert_to_tensor([3.0, 4.0])]))
    5.0
    """
    return _models.global_norm(grads, dtype)


def clip_by_global_norm_(grads: Any, max_norm: float, *, nonfinite: Nonfinite = "raise") -> Any:
    """Scale gradients in place so that their norm together is at most ``max_norm``.

    On the torch and numpy backends, as :func:`fastreg.clip_by_global_norm_`, whose parameters,
    result and errors it has. On TensorFlow and JAX gradients are values: use
    ``fastreg.tensorflow.clip_by_global_norm`` or ``fastreg.jax.clip_by_global_norm``.

    Raises
    ------
    ArgumentError (a ValueError)
        For variables, which would be scaled themselves.
    DTypeError (a TypeError)
        For tensors of TensorFlow and JAX.

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([3.0, 4.0])
    >>> clip_by_global_norm_([g], 2.5)
    np.float64(5.0)
    """
    return _models.clip_by_global_norm_(grads, max_norm, nonfinite)


def stats(params: Any, *, select: Select = None, integers: bool = False) -> Stats:
    """Return n, Σ|x|, Σx², norm, max|x| and counts of zeros, subnormals, NaN and inf, per variable.

    Parameters, result and errors as :func:`fastreg.stats`; by default all variables.

    Examples
    --------
    >>> import keras
    >>> stats([keras.Variable([3.0, -4.0])]).total["norm"]
    5.0
    """
    return _models.stats(params, select, integers)
