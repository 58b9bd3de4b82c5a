# SPDX-License-Identifier: BSD-3-Clause
"""Sums of penalties that others have collected: in models, and in graphs of version 1."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fastreg.errors import ArgumentError, FastregError, message
from fastreg.tensorflow._arrays import as_tensor, result_of

__all__ = [
    "get_regularization_loss",
    "get_regularization_losses",
    "get_total_loss",
    "scale_regularization_loss",
]


class CrossReplicaError(FastregError, RuntimeError):
    """A per-replica helper that was called outside every replica."""


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
    result = result_of(items, None)
    if not items:
        return tf.zeros((), result)
    total = tf.add_n([tf.reduce_sum(tf.cast(t, result)) for t in items])
    return total / tf.cast(replicas, result)


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
    result = result_of(losses, None)
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
