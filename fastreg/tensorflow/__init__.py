# SPDX-License-Identifier: BSD-3-Clause
"""TensorFlow: penalties of tensors and variables, differentiable, in eager code and in graphs.

Two routes lead to a result, and :func:`route` chooses between them:

``"native"``
    fastreg's kernels, on the tensor's own memory. Eagerly they are called at once; in a graph they
    sit behind ``tf.numpy_function(stateful=False)``. Values and gradients have the bits that
    :mod:`fastreg.functional` gives for the same weights.
``"ops"``
    Plain TensorFlow operations of the same meaning: in float64 for at most 4096 elements and under
    XLA on the CPU, else in float32 (float64 for float64 tensors). Half precision is never summed in
    half precision. Values carry the rounding of TensorFlow's own sums.

``"auto"``, the default, takes the kernels for every eager tensor on the CPU: measured, they are
ahead of ``tf.nn.l2_loss`` from the smallest size on. In a graph it takes them only where they win,
for penalties with an L1 term and for half precision, from :data:`GRAPH_THRESHOLD` elements of
static size on: the call from a graph into Python takes about 50 us, and a pure L2 penalty is
``tf.nn.l2_loss``, which reads x once with all of TensorFlow's threads. Plain operations it is too
for sizes unknown when the graph is traced, under XLA (``jit_compile=True``), wherever a device
other than a CPU may run the operation, and while a SavedModel is written.

Limits of the native route in graphs: it needs Python's lock for microseconds per call, cannot be
part of a SavedModel that another process runs, and cannot be compiled by XLA. A ``tf.function``
that was traced outside XLA and is then called from one with ``jit_compile=True`` keeps the route of
its first trace, so XLA refuses it: trace it within :func:`route` ``("ops")``, and likewise one
that is called under ``tf.autodiff.ForwardAccumulator``; an accumulator within the function is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from fastreg import functional
from fastreg.errors import ArgumentError, DTypeError, FastregError, message
from fastreg.ndarray import SHORTEST, check_matrix, not_differentiable
from fastreg.selection import choose
from fastreg.tensorflow_routes import (
    FLOATS,
    GRAPH_THRESHOLD,
    as_tensor,
    fresh_like,
    is_list,
    memory_of,
    native_gradient,
    native_penalty,
    native_value,
    ops_penalty,
    ops_term,
    result_dtype,
    route,
    takes_kernels,
    weight_of,
    weights_of,
    widened,
)

__all__ = [
    "GRAPH_THRESHOLD",
    "get_regularization_loss",
    "get_regularization_losses",
    "get_total_loss",
    "gradient",
    "l2_loss",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "route",
    "scale_regularization_loss",
    "value_and_gradient",
]

Weights = float | Sequence[float]


# -- Public verbs ----------------------------------------------------------------------------------


def penalty(
    x: Any,
    *,
    l1: Any = 0.0,
    l2: Any = 0.0,
    dtype: Any = None,
    select: Any = None,
    weights: Any = 1.0,
    convention: str = "keras",
) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as a differentiable scalar tensor.

    Parameters
    ----------
    x : tensor, variable, KerasVariable, ndarray, list of them, or a model
        float16, bfloat16, float32 or float64, any shape. bool and integer tensors of up to 64 bits
        have a value and no gradient. A list, of any mix of shapes and types
        (``model.trainable_variables``), gives the penalty of all its tensors together. A
        RaggedTensor counts its values, IndexedSlices the dense tensor they stand for. A model is a
        Keras model or layer, a tf.Module, or a mapping; all of it is one call.
    l1, l2 : float, for a list one float for each tensor, for a model a mapping or callable too
        Weights, finite and >= 0. A weight of 0 removes its term whatever x holds.
    dtype : dtype, optional
        Type of the result: x's own by default, for a list the widest of its types, float64 for
        integers. Ask for ``"float32"`` under mixed precision.
    select : optional
        Which variables of a model, as in :func:`fastreg.penalty`: by default ``"kernels"`` (no
        bias, no normalisation, nothing frozen, ndim >= 2), and all of a list.
    weights, convention
        As in :func:`fastreg.penalty`.

    Returns
    -------
    tf.Tensor, shape ()
        On the native route the exact number, rounded once. Its gradient ``u * (2*l2*x +
        l1*sign(x))`` has x's dtype, is 0 for the L1 term at ±0 and NaN at NaN, and can be
        differentiated again, in forward and reverse mode.

    Raises
    ------
    DTypeError (a TypeError)
        For complex, string, quantized, float8 and sparse tensors and for objects that are no
        tensors.
    ArgumentError (a ValueError)
        For a negative or non-finite weight, or a list of weights of the wrong length.

    Notes
    -----
    NaN in x gives NaN, otherwise an infinity gives +inf; no elements give 0. x is never copied on
    the native route: eagerly the kernels read the tensor's own buffer, of a variable without
    ``.numpy()``. Large tensors use fastreg's threads. See the module's text for when graphs use the
    kernels and when plain operations; :func:`route` forces either.

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
    named = isinstance(x, (tf.Module, Mapping)) or hasattr(x, "trainable_variables")
    plain = select is None and type(weights) is float and weights == 1.0 and convention == "keras"
    if named or not plain:
        chosen = "all" if select is None and not named else "kernels" if select is None else select
        _, x, l1, l2 = choose(
            x, l1=l1, l2=l2, select=chosen, weights=weights, convention=convention
        )
    if is_list(x) or (isinstance(x, (list, tuple)) and not x):
        xs = [as_tensor(e) for e in x]
        if not xs:
            return tf.zeros((), result_dtype(xs, dtype))
        w1, w2 = weights_of("l1", l1, len(xs)), weights_of("l2", l2, len(xs))
    else:
        xs = [as_tensor(x)]
        w1, w2 = [weight_of("l1", l1)], [weight_of("l2", l2)]
    result = result_dtype(xs, dtype)
    eager = tf.executing_eagerly()
    if eager and not all(hasattr(x, "numpy") for x in xs):
        raise FastregError(
            message("an eager tensor in eager code", "a symbolic one", "call within its graph")
        )
    if takes_kernels(xs, w1, eager):
        return native_penalty(xs, w1, w2, result)
    return ops_penalty(xs, w1, w2, result)


def gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Return ``2*l2*x + l1*sign(x)``: the gradient of :func:`penalty`, outside any tape.

    Parameters
    ----------
    x, l1, l2
        One tensor of a float type and its weights, as in :func:`penalty`.

    Returns
    -------
    tf.Tensor
        Of x's shape and dtype. A new tensor; nothing flows back through it.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> ftf.gradient(tf.constant([1.0, -2.0, 0.0]), l1=0.5, l2=0.25).numpy().tolist()
    [1.0, -1.5, 0.0]
    """
    return value_and_gradient(x, l1=l1, l2=l2)[1]


def value_and_gradient(
    x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None
) -> tuple[Any, Any]:
    """Return the penalty and its gradient, outside any tape, eagerly from one pass over x.

    Parameters
    ----------
    x, l1, l2, dtype
        One tensor of a float type, its weights and the type of the value, as in :func:`penalty`.

    Returns
    -------
    value : tf.Tensor, shape ()
    gradient : tf.Tensor
        Of x's shape and dtype; memory for it is the only memory taken.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> v, g = ftf.value_and_gradient(tf.constant([3.0, -4.0]), l2=0.5)
    >>> float(v), g.numpy().tolist()
    (12.5, [3.0, -4.0])
    """
    x = tf.stop_gradient(as_tensor(x)) if not tf.executing_eagerly() else as_tensor(x)
    if x.dtype not in FLOATS:
        raise not_differentiable(f"dtype {x.dtype.name}", "tf.cast(x, tf.float32)")
    w1, w2 = weight_of("l1", l1), weight_of("l2", l2)
    result = result_dtype([x], dtype)
    if takes_kernels([x], [w1], tf.executing_eagerly()):
        if tf.executing_eagerly():
            g, memory = fresh_like(x)
            v, _ = functional.value_and_gradient(
                memory_of(x), l1=w1, l2=w2, out=memory, dtype=result.name
            )
            return tf.constant(float(v), result), g
        one = tf.ones((), result)
        return native_value([x], [w1], [w2], result), native_gradient(x, one, w1, w2)
    v = tf.stop_gradient(ops_penalty([x], [w1], [w2], result))
    return v, tf.stop_gradient(tf.cast(widened(x, w1, w2), x.dtype))


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
    Plain TensorFlow operations on every device: the work is a product of matrices. Squared norms
    below 1e-14 count as 1e-14, as in ``keras.regularizers.OrthogonalRegularizer``, which works on
    TensorFlow for float32 only and gives NaN for one row. Half precision computes in float32.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> float(ftf.orthogonal(tf.constant([[1.0, 0.0], [3.0, 4.0]]), factor=0.5))  # cosine 0.6
    0.30000001192092896
    """
    x = as_tensor(x)
    if x.shape.rank is None:
        x = tf.ensure_shape(x, (None, None))  # checked when the graph runs
    factor = weight_of("factor", factor)
    check_matrix(tuple(x.shape), factor)
    result = result_dtype([x], dtype)
    work = tf.float32 if x.dtype in FLOATS and x.dtype != tf.float64 else tf.float64
    wide = tf.cast(x, work)
    if factor == 0.0:
        return tf.cast(ops_term(wide, 0.0, 0.0), result)
    wide = wide if rows else tf.transpose(wide)
    # The largest element of each row is taken out first, so that no square overflows.
    shortest = tf.constant(SHORTEST, work)
    largest = tf.reduce_max(tf.abs(wide), axis=1, keepdims=True)
    scale = tf.stop_gradient(tf.maximum(largest, shortest))
    parts = wide / scale
    squares = tf.reduce_sum(tf.square(parts), axis=1, keepdims=True)
    unit = parts * tf.math.rsqrt(tf.maximum(squares, tf.square(shortest / scale)))
    cosines = tf.matmul(unit, unit, transpose_b=True)
    n = tf.shape(cosines)[0]
    cosines *= 1 - tf.eye(n, dtype=work)
    pairs = tf.maximum(tf.cast(n, work) * tf.cast(n - 1, work), 1)
    return tf.cast(tf.constant(factor, work) * tf.reduce_sum(tf.abs(cosines)) / pairs, result)


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
    x = tf.stop_gradient(as_tensor(x))
    if x.dtype not in FLOATS:
        raise not_differentiable(f"dtype {x.dtype.name}", "tf.cast(x, tf.float32)")
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
    xs = [as_tensor(e) for e in x] if is_list(x) else [as_tensor(x)]
    for tensor in xs:
        if tensor.dtype not in FLOATS:
            raise DTypeError(
                message(
                    "float16, bfloat16, float32 or float64",
                    f"dtype {tensor.dtype.name}",
                    "convert it, for example with tf.cast(x, tf.float32)",
                )
            )
    return penalty(xs, l2=0.5, dtype=dtype)


def scale_regularization_loss(regularization_loss: Any, replicas: int | None = None) -> Any:
    """Return the sum of regularization losses divided by the number of replicas in sync.

    In a custom training loop under ``tf.distribute`` each replica adds the whole penalty, and
    gradients are summed over replicas: without this division the penalty counts once per replica.

    Parameters
    ----------
    regularization_loss : tensor, number, or list of tensors
        What ``model.losses`` holds. The tensors of a list may differ in shape and in float type.
    replicas : int >= 1, optional
        By default the number of replicas in sync of the strategy in scope.

    Returns
    -------
    tf.Tensor, shape ()
        In the widest float type of the inputs; float64 for integers; 0 for an empty list.

    Raises
    ------
    FastregError (a RuntimeError)
        In a cross-replica context, where no replica would add the result.

    Notes
    -----
    The same as ``tf.nn.scale_regularization_loss``, which fails for lists of different shapes.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> float(ftf.scale_regularization_loss([tf.ones(3), tf.ones((2, 2))], replicas=2))
    3.5
    """
    if tf.distribute.has_strategy() and tf.distribute.in_cross_replica_context():
        raise CrossReplicaError(
            message(
                "a call in replica context",
                "the cross-replica context",
                "call it inside the function passed to strategy.run",
            )
        )
    if replicas is None:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas < 1:
        raise ArgumentError(message("replicas >= 1", str(replicas), "pass a positive integer"))
    items = regularization_loss
    items = [as_tensor(t) for t in (items if isinstance(items, (list, tuple)) else [items])]
    result = result_dtype(items, None)
    if not items:
        return tf.zeros((), result)
    total = tf.add_n([tf.reduce_sum(tf.cast(t, result)) for t in items])
    return total / tf.cast(replicas, result)


class CrossReplicaError(FastregError, RuntimeError):
    """A per-replica helper that was called outside every replica."""


# -- Version 1 graphs ------------------------------------------------------------------------------


class EagerCollectionError(FastregError, RuntimeError):
    """A question about a graph's collections in eager code, where they are always empty."""


def _need_graph(what: str) -> None:
    if tf.executing_eagerly():
        raise EagerCollectionError(
            message(
                f"{what} in a version 1 graph",
                "eager code, whose collections are always empty",
                "sum model.losses, or pass the variables to fastreg.tensorflow.penalty",
            )
        )


def get_regularization_losses(scope: str | None = None) -> list[Any]:
    """Return the penalties that variables of the current version 1 graph carry.

    ``get_variable(regularizer=...)``, ``variable_scope(regularizer=...)`` and the legacy layers of
    ``tf.compat.v1.layers`` write them; Keras layers do not.

    Parameters
    ----------
    scope : str, optional
        Only losses whose name begins with this regular expression.

    Returns
    -------
    list of tf.Tensor

    Raises
    ------
    EagerCollectionError (a RuntimeError)
        In eager code; ``tf.compat.v1.losses`` answers an empty list there.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> with tf.Graph().as_default():
    ...     ftf.get_regularization_losses()
    []
    """
    _need_graph("get_regularization_losses")
    keys = tf.compat.v1.GraphKeys.REGULARIZATION_LOSSES
    return list(tf.compat.v1.get_collection(keys, scope))


def _sum(losses: list[Any], name: str) -> Any:
    """Sum scalars of possibly different float types in the widest of them."""
    result = result_dtype(losses, None)
    return tf.add_n([tf.cast(t, result) for t in losses], name=name)


def get_regularization_loss(
    scope: str | None = None, name: str = "total_regularization_loss"
) -> Any:
    """Return the sum of :func:`get_regularization_losses`, or 0.0 if there are none.

    Parameters
    ----------
    scope : str, optional
        Only losses whose name begins with this regular expression.
    name : str
        Name of the sum in the graph.

    Returns
    -------
    tf.Tensor, shape ()
        In the widest type of the losses; float32 if there are none.

    Raises
    ------
    EagerCollectionError (a RuntimeError)
        In eager code.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    ...     float(session.run(ftf.get_regularization_loss()))
    0.0
    """
    losses = get_regularization_losses(scope)
    return _sum(losses, name) if losses else tf.constant(0.0)


def get_total_loss(
    add_regularization_losses: bool = True, name: str = "total_loss", scope: str | None = None
) -> Any:
    """Return the sum of the current graph's losses, penalties included.

    Parameters
    ----------
    add_regularization_losses : bool, default True
        Whether to add the penalties.
    name : str
        Name of the sum in the graph.
    scope : str, optional
        Only losses whose name begins with this regular expression.

    Returns
    -------
    tf.Tensor, shape ()
        In the widest type of the losses.

    Raises
    ------
    EagerCollectionError (a RuntimeError)
        In eager code.
    ArgumentError (a ValueError)
        If there is nothing to sum, as in ``tf.compat.v1.losses.get_total_loss``.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    ...     tf.compat.v1.losses.add_loss(tf.constant(1.5))
    ...     float(session.run(ftf.get_total_loss()))
    1.5
    """
    _need_graph("get_total_loss")
    losses = list(tf.compat.v1.losses.get_losses(scope))
    if add_regularization_losses:
        losses += get_regularization_losses(scope)
    if not losses:
        raise ArgumentError(
            message(
                "at least one loss in the graph's collections",
                "none",
                "add one with tf.compat.v1.losses.add_loss, or check scope",
            )
        )
    return _sum(losses, name)
