# SPDX-License-Identifier: BSD-3-Clause
"""A loss with an L2 term on the predictions, on half of them, and on the model's weights."""

import digits
import tensorflow as tf

import fastreg.tensorflow as ft

cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(penalty):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((64,)),
            tf.keras.layers.Dense(32, "relu"),
            tf.keras.layers.Dense(10),
        ]
    )
    model.compile("adam", lambda y, p: cross_entropy(y, p) + penalty(p, model))
    history = model.fit(digits.x, digits.y, epochs=2, batch_size=64, shuffle=False, verbose=0)
    return history.history["loss"]


digits.compare(
    "all predictions",
    train(lambda p, model: 0.001 * tf.reduce_sum(tf.square(p))),
    train(lambda p, model: ft.penalty(p, l2=0.001)),
)
digits.compare(
    "half of the predictions",
    train(lambda p, model: 0.001 * tf.reduce_sum(tf.square(p[:, : p.shape[1] // 2]))),
    train(lambda p, model: ft.penalty(p[:, : p.shape[1] // 2], l2=0.001)),
)
digits.compare(
    "every second prediction",
    train(lambda p, model: 0.001 * tf.reduce_sum(tf.square(p[:, ::2]))),
    train(lambda p, model: ft.penalty(p[:, ::2], l2=0.001)),
)
digits.compare(
    "the weights, without biases",
    train(lambda p, model: 0.01 * tf.add_n(
        [tf.nn.l2_loss(v) for v in model.trainable_variables if "bias" not in v.name])),
    train(lambda p, model: 0.01 * ft.l2_loss(
        [v for v in model.trainable_variables if "bias" not in v.name])),
)  # fmt: skip
