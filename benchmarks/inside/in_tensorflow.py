# SPDX-License-Identifier: BSD-3-Clause
"""TensorFlow: tensors, variables and lists, eagerly, in graphs and under XLA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import tensorflow as tf

import fastreg.tensorflow as backend
from benchmarks.inside.laps import L1, L2, Contest, sizes


def _theirs(x: Any) -> Any:
    return L1 * tf.reduce_sum(tf.abs(x)) + L2 * tf.reduce_sum(tf.square(x))


def _ours(x: Any) -> Any:
    return backend.penalty(x, l1=L1, l2=L2)


def _slope(loss: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
    def step() -> Any:
        with tf.GradientTape() as tape:
            value = loss(x)
        return value, tape.gradient(value, x)

    return step


def _waited(call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: [t.numpy() for t in tf.nest.flatten(call())[:1]]


def contests(quick: bool) -> Iterator[Contest]:
    """Yield what users of TensorFlow ask for."""
    for n in sizes(quick):
        x, data = tf.Variable(tf.random.normal((n,)) * 0.05), f"f32 n = {n}"
        rival = "tf.abs, tf.square"
        value = (partial(_ours, x), partial(_theirs, x))
        both = (_slope(_ours, x), _slope(_theirs, x))
        for text, (ours, theirs), change in (
            ("TF eager, value", value, lambda f: f),
            ("TF eager, forward and backward", both, lambda f: f),
            ("tf.function, forward and backward", both, tf.function),
            ("TF XLA, forward and backward", both, partial(tf.function, jit_compile=True)),
        ):
            pair = _waited(change(ours)), _waited(change(theirs))
            yield Contest(f"{text}, l1 and l2", data, pair[0], {rival: pair[1]})
        half = {"tf.nn.l2_loss": lambda x=x: tf.nn.l2_loss(x)}
        yield Contest("TF eager, l2_loss", data, lambda x=x: backend.l2_loss(x), half)
    for count in (100,) if quick else (100, 2000):
        yield from _many(count)


def _many(count: int) -> Iterator[Contest]:
    xs = [tf.Variable(tf.fill((64, 64), 0.05)) for _ in range(count)]
    data = f"{count} variables of 64 x 64"
    yield Contest(
        "TF eager, list, forward and backward", data,
        _slope(lambda xs: backend.penalty(xs, l2=L2), xs),
        {"a loop": _slope(lambda xs: L2 * tf.add_n([tf.reduce_sum(x * x) for x in xs]), xs)},
    )  # fmt: skip
    tensors = [tf.convert_to_tensor(x) for x in xs]
    yield Contest(
        "TF eager, norm of a list", data,
        lambda: backend.global_norm(tensors),
        {"tf.linalg.global_norm": lambda: tf.linalg.global_norm(tensors)},
    )  # fmt: skip
