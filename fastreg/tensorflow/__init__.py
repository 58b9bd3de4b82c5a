# SPDX-License-Identifier: BSD-3-Clause
"""TensorFlow: penalties of tensors and variables, differentiable, in eager code and in graphs.

Two routes lead to a result, and :func:`route` chooses between them:

``"kernels"``
    fastreg's kernels, on the tensor's own memory. Eagerly they are called at once; in a graph they
    sit behind ``tf.numpy_function(stateful=False)``. Values and gradients have the bits that
    :mod:`fastreg.functional` gives for the same weights.
``"native"``
    TensorFlow's own operations of the same meaning: in float64 for at most 4096 elements and under
    XLA on the CPU, else in float32 (float64 for float64 tensors). Half precision is never summed in
    half precision. Values carry the rounding of TensorFlow's own sums.

``"auto"``, the default, takes the kernels for every eager tensor on the CPU: measured, they are
ahead of ``tf.nn.l2_loss`` from the smallest size on. In a graph it takes them only where they win,
for penalties with an L1 term and for half precision, from :data:`GRAPH_THRESHOLD` elements of
static size on: the call from a graph into Python takes about 50 us, and an L2 penalty alone is
``tf.nn.l2_loss``, which reads x once with all of TensorFlow's threads. TensorFlow's operations it
is too for sizes unknown when the graph is traced, under XLA (``jit_compile=True``), wherever a
device other than a CPU may run the operation, and while a SavedModel is written.

Limits of the kernels in graphs: they need Python's lock for microseconds per call, cannot be part
of a SavedModel that another process runs, and cannot be compiled by XLA. A ``tf.function`` that was
traced outside XLA and is then called from one with ``jit_compile=True`` keeps the route of its
first trace, so XLA refuses it: trace it within :func:`route` ``("native")``, and likewise one that
is called under ``tf.autodiff.ForwardAccumulator``; an accumulator within the function is seen.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fastreg import model
from fastreg._core.arguments import Convention, Select, Weight
from fastreg._core.statistics import Stats
from fastreg.tensorflow import _assign, _clip, _penalties
from fastreg.tensorflow._arrays import as_float
from fastreg.tensorflow._collections import (
    get_regularization_loss,
    get_regularization_losses,
    get_total_loss,
    scale_regularization_loss,
)
from fastreg.tensorflow._routes import GRAPH_THRESHOLD, route

__all__ = [
    "GRAPH_THRESHOLD",
    "clip_by_global_norm",
    "decay_",
    "get_regularization_loss",
    "get_regularization_losses",
    "get_total_loss",
    "global_norm",
    "gradient",
    "l2_loss",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "prox_",
    "route",
    "scale_regularization_loss",
    "stats",
    "value_and_gradient",
]


def __dir__() -> list[str]:
    return __all__


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
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as a differentiable scalar tensor.

    Parameters
    ----------
    params : tensor, variable, KerasVariable, ndarray, list of them, or a model
        float16, bfloat16, float32 or float64, any shape. bool and integer tensors of up to 64 bits
        have a value and no gradient. A list, of any mix of shapes and types
        (``model.trainable_variables``), gives the penalty of all its tensors together. A
        RaggedTensor counts its values, IndexedSlices the dense tensor they stand for. A model is a
        Keras model or layer, a tf.Module, or a mapping; all of it is one call. A variable that
        stands there twice counts once.
    l1, l2 : float, mapping or callable, or one float for each tensor that is in
        Weights, finite and >= 0; at least one of them. A weight of 0 removes its term whatever x
        holds. A mapping from names or globs gives each its own and 0 to those it does not name; a
        callable gets ``(name, tensor)``.
    select : optional
        Which tensors: ``"kernels"`` (no bias, no normalisation, nothing frozen, ndim >= 2),
        ``"all"``, a glob, ``"re:..."``, a pattern, a callable ``(name, tensor)`` or a tree of
        bools. By default ``"kernels"`` of a model and all of a list.
    weights : float, mapping or callable, default 1.0
        Factors of both l1 and l2, in the same forms; a mapping leaves 1 to those it does not name.
    convention : "keras" or "half", default "keras"
        ``l2 * sum(x**2)`` or ``l2 / 2 * sum(x**2)``.
    dtype : dtype, optional
        Type of the result: x's own by default, for a list the widest of its types, float64 for
        integers. Ask for ``"float32"`` under mixed precision.

    Returns
    -------
    tf.Tensor, shape ()
        By the kernels the exact number, rounded once. Its gradient ``u * (2*l2*x + l1*sign(x))``
        has x's dtype, is 0 for the L1 term at ±0 and NaN at NaN, and can be differentiated again,
        in forward and reverse mode. As for ``tf.nn.l2_loss``, u may be one element of any shape.

    Raises
    ------
    DTypeError (a TypeError)
        For complex, string, quantized, float8 and sparse tensors and for objects that are no
        tensors (naming their place), for a tensor as weight.
    ArgumentError (a ValueError)
        For no weight at all, a negative or non-finite one, a list of weights of the wrong length,
        and a rule of names that takes nothing.

    Notes
    -----
    NaN in x gives NaN, otherwise an infinity gives +inf; no elements give 0. x is never copied
    by the kernels: eagerly they read the tensor's own buffer, of a variable without
    ``.numpy()``. Large tensors use fastreg's threads. See the module's text for when graphs use the
    kernels and when TensorFlow's operations; :func:`route` forces either.

    The same as ``keras.regularizers.L1L2(l1, l2)(x)`` and, halved, ``tf.nn.l2_loss(x)``. Keras
    gives 0 for integers, rounds ``l2`` to float32 even for float64 tensors, overflows to inf in
    float16, has no gradient (None) for two zero weights, and fails for lists.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> x = tf.Variable([1.0, -2.0, 0.0])
    >>> with tf.GradientTape() as tape:
    ...     y = ftf.penalty(x, l1=0.5, l2=0.25)
    >>> float(y), tape.gradient(y, x).numpy().tolist()
    (2.75, [1.0, -1.5, 0.0])
    """
    return _penalties.penalty(params, (l1, l2, select, weights, convention), dtype)


def gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: Any = 1.0,
) -> Any:
    """Return ``scale * (2*l2*x + l1*sign(x))``: the gradient of :func:`penalty`, outside any tape.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; the tensors that are in are floats.
    scale : float or 0-d tensor, default 1
        The upstream gradient, any number.

    Returns
    -------
    tf.Tensor, list of them, or dict from names to them
        A tensor for a tensor, of its shape and dtype; for lists, lists nested alike, with None for
        what is not in or was counted before; for a model or mapping those of the tensors that are
        in, by name. New tensors; nothing flows back through them.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`penalty`; for integers, naming their place.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> ftf.gradient(tf.constant([1.0, -2.0, 0.0]), l1=0.5, l2=0.25).numpy().tolist()
    [1.0, -1.5, 0.0]
    """
    return value_and_gradient(
        params, l1=l1, l2=l2, select=select, weights=weights, convention=convention, scale=scale
    )[1]


def value_and_gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: Any = 1.0,
    dtype: Any = None,
) -> tuple[Any, Any]:
    """Return the penalty and its gradient, outside any tape, eagerly from one pass over x.

    Parameters
    ----------
    params, l1, l2, select, weights, convention, scale
        As in :func:`gradient`; the value is not multiplied by scale.
    dtype
        Type of the value, as in :func:`penalty`.

    Returns
    -------
    value : tf.Tensor, shape ()
    gradient : tf.Tensor, list or dict
        As :func:`gradient`; memory for it is the only memory taken.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> v, g = ftf.value_and_gradient(tf.constant([3.0, -4.0]), l2=0.5)
    >>> float(v), g.numpy().tolist()
    (12.5, [3.0, -4.0])
    """
    asked = (l1, l2, select, weights, convention)
    return _penalties.value_and_gradient(params, asked, scale, dtype)


def prox_(
    params: Any,
    step: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    flush: bool = False,
) -> Any:
    """Take a proximal step of variables: the soft threshold, which makes weights exactly zero.

    ``sign(x) * max(|x| - step * l1, 0) / (1 + 2 * step * l2)``. After a gradient step of the
    unpenalised objective with learning rate ``step``, that is proximal gradient descent (ISTA).

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; what is in are variables of a float type.
    step : float, or a 0-d tensor in a graph; finite, >= 0
        The learning rate.
    flush : bool, default False
        Turn results that are subnormal in the variable's type into 0.

    Returns
    -------
    None
        In a graph of version 1 the operation that assigns.

    Raises
    ------
    DTypeError, ArgumentError
        For what is no variable or no float, naming its place; for a bad step, weight or select.
        Nothing has been assigned then.

    Notes
    -----
    Eagerly on the CPU the kernels compute it, with the bits of :func:`fastreg.prox_`. In graphs,
    and on other devices, TensorFlow's operations do: in float64 on the CPU, rounded once more to
    the variable's type. NaN stays NaN; zeros are positive.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> v = tf.Variable([3.0, -0.5, 1.0])
    >>> ftf.prox_(v, 0.5, l1=2.0)
    >>> v.numpy().tolist()
    [2.0, 0.0, 0.0]
    """
    return _assign.prox(params, (l1, l2, select, weights, convention), step, flush)


def decay_(params: Any, rate: Any, *, select: Select = None) -> Any:
    """Shrink variables, ``x = (1 - rate) * x``: a decoupled weight decay.

    Parameters
    ----------
    params, select
        As in :func:`penalty`; what is in are variables of a float type.
    rate : float, or a 0-d tensor in a graph; from 0 to 1
        The learning rate times the weight decay for AdamW's step.

    Returns
    -------
    None
        In a graph of version 1 the operation that assigns.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`prox_`; for a bad rate.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> v = tf.Variable([4.0, -8.0])
    >>> ftf.decay_(v, 0.25)
    >>> v.numpy().tolist()
    [3.0, -6.0]
    """
    return _assign.decay(params, select, rate)


def global_norm(grads: Any, *, dtype: Any = None) -> Any:
    """Return the Euclidean norm of all tensors together, as a differentiable scalar tensor.

    Parameters
    ----------
    grads : tensor, or list or mapping of tensors
        All of them count, whatever their names; None is left out. Of IndexedSlices the rows of the
        same index are added first, as an optimizer adds them; ``tf.linalg.global_norm`` does not.
    dtype : dtype, optional
        Type of the result: float64 by default.

    Returns
    -------
    tf.Tensor, shape ()
        By the kernels correctly rounded. In graphs by TensorFlow's operations, in float64 on the
        CPU, where no square overflows or vanishes on the way. +0 for no elements; NaN or infinity
        if an element is. Its derivative at 0 is 0.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> float(ftf.global_norm([tf.constant([3.0, 0.0]), None, tf.constant([4.0])]))
    5.0
    """
    return _clip.global_norm(grads, dtype)


def clip_by_global_norm(grads: Any, max_norm: Any) -> tuple[Any, Any]:
    """Scale tensors so that their norm together is at most ``max_norm``.

    ``max_norm / norm * x`` if the norm is finite and above max_norm; otherwise the tensors as they
    are. Rounding the elements may leave a norm a few units above max_norm.

    Parameters
    ----------
    grads : float tensor, or list or mapping of them
        As in :func:`global_norm`; None stays None, and IndexedSlices stay such.
    max_norm : float, or a 0-d tensor in a graph; >= 0
        Infinity only measures.

    Returns
    -------
    clipped : tensor or structure of tensors
        As grads was.
    norm : tf.Tensor, shape ()
        The norm before, float64. If it is NaN or infinite nothing has been scaled: a graph cannot
        raise. ``tf.clip_by_global_norm`` gives NaN for all then.

    Raises
    ------
    DTypeError, ArgumentError
        For integers and what is no tensor, naming their place; for a bad max_norm.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> clipped, norm = ftf.clip_by_global_norm([tf.constant([3.0, 4.0]), None], 2.5)
    >>> clipped[0].numpy().tolist(), clipped[1], float(norm)
    ([1.5, 2.0], None, 5.0)
    """
    return _clip.clip_by_global_norm(grads, max_norm)


def stats(params: Any, *, select: Select = "all", integers: bool = False) -> Stats:
    """Return n, Σ|x|, Σx², norm, max|x| and counts of zeros, subnormals, NaN and inf, per tensor.

    Parameters and result as :func:`fastreg.stats`; the tensors are eager and in host memory.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> ftf.stats({"w": tf.constant([3.0, -4.0])}).total["norm"]
    5.0
    """
    return model.stats(params, select=select, integers=integers)


def orthogonal(x: Any, *, factor: float, rows: bool = True, dtype: Any = None) -> Any:
    """Return ``factor`` times the mean absolute cosine between the rows of a matrix.

    Parameters
    ----------
    x : tensor or variable, shape (m, n)
        Of a float type, or of integers, which have no gradient.
    factor : float
        Finite and >= 0.
    rows : bool, default True
        False for columns.
    dtype : dtype, optional
        Type of the result; x's own by default.

    Returns
    -------
    tf.Tensor, shape ()
        Differentiable. 0 for fewer than two rows, and with factor 0 whatever x holds.

    Raises
    ------
    DTypeError (a TypeError)
        For other element types.
    LayoutError (a ValueError)
        If x is not a matrix.

    Notes
    -----
    TensorFlow's own operations on every device: the work is a product of matrices. Squared norms
    below 1e-14 count as 1e-14, as in ``keras.regularizers.OrthogonalRegularizer``, which works on
    TensorFlow for float32 only and gives NaN for one row. Half precision computes in float32.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> float(ftf.orthogonal(tf.constant([[1.0, 0.0], [3.0, 4.0]]), factor=0.5))  # cosine 0.6
    0.30000001192092896
    """
    return _penalties.orthogonal(x, factor, rows, dtype)


def orthogonal_value_and_gradient(
    x: Any, *, factor: float, rows: bool = True, dtype: Any = None
) -> tuple[Any, Any]:
    """Return :func:`orthogonal` and its gradient, neither attached to a tape.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> v, g = ftf.orthogonal_value_and_gradient(tf.eye(3), factor=0.5)
    >>> float(v), g.shape.as_list()
    (0.0, [3, 3])
    """
    x = tf.stop_gradient(as_float(x))
    with tf.GradientTape() as tape:
        tape.watch(x)
        v = orthogonal(x, factor=factor, rows=rows, dtype=dtype)
    return tf.stop_gradient(v), tf.stop_gradient(tape.gradient(v, x))


def l2_loss(x: Any, *, dtype: Any = None) -> Any:
    """Return ``sum(x**2) / 2``, as ``tf.nn.l2_loss`` does, rounded once.

    Parameters
    ----------
    x : tensor, variable, ndarray, list of numbers, or list of tensors
        float16, bfloat16, float32 or float64, any shape.
    dtype : dtype, optional
        Type of the result; x's own by default.

    Returns
    -------
    tf.Tensor, shape ()
        Its gradient is exactly ``u * x``. NaN, infinity, copies and threads as in :func:`penalty`.

    Raises
    ------
    DTypeError (a TypeError)
        For integers and every other type; ``tf.nn.l2_loss`` raises InvalidArgumentError.

    Notes
    -----
    In float16 ``tf.nn.l2_loss`` sums in float16: 1000 elements of 1e-4 give 0, here 5e-6.

    Examples
    --------
    >>> import fastreg.tensorflow as ftf
    >>> float(ftf.l2_loss([3.0, 4.0]))
    12.5
    """
    return _penalties.l2_loss(x, dtype)
