# SPDX-License-Identifier: BSD-3-Clause
"""Losses that close over the model, add_loss in call, Keras' own subclassing, a name filter."""

import digits
import keras
import tensorflow as tf

import fastreg.keras
import fastreg.tensorflow as ft

cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Reference(keras.regularizers.Regularizer):
    """As people write their own: TensorFlow's operations on the variable."""

    def __call__(self, x):
        return 0.01 * tf.reduce_sum(tf.square(x)) + 0.005 * tf.reduce_sum(tf.abs(x))


class Ours(keras.regularizers.Regularizer):
    """The same, by fastreg."""

    def __call__(self, x):
        return ft.penalty(x, l1=0.005, l2=0.01)


class Noted(keras.layers.Layer):
    """Adds the penalty of what passes through."""

    def __init__(self, penalty):
        super().__init__()
        self.penalty = penalty

    def call(self, x):
        self.add_loss(self.penalty(x))
        return x


def train(penalty=None, regularizer=None, noted=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(32, "relu", kernel_regularizer=regularizer),
            *([Noted(noted)] if noted else []),
            keras.layers.Dense(10),
        ]
    )
    loss = cross_entropy
    if penalty is not None:

        def loss(y, p):
            return cross_entropy(y, p) + penalty(model)

    model.compile("adam", loss)
    history = model.fit(digits.x, digits.y, epochs=3, batch_size=64, shuffle=False, verbose=0)
    return history.history["loss"]


def weights(model):
    return [v for v in model.trainable_variables if "bias" not in v.name]


digits.compare(
    "tf.add_n of tf.nn.l2_loss",
    train(lambda m: 0.01 * tf.add_n([tf.nn.l2_loss(v) for v in m.trainable_variables])),
    train(lambda m: ft.penalty(m.trainable_variables, l2=0.005)),
)
digits.compare(
    "sum over the variables, biases left out",
    train(lambda m: sum(0.01 * tf.nn.l2_loss(v) for v in weights(m))),
    train(lambda m: sum(0.01 * ft.l2_loss(v) for v in weights(m))),
)
digits.compare(
    "tf.linalg.global_norm of all variables, squared",
    train(lambda m: 0.01 * tf.linalg.global_norm(m.trainable_variables) ** 2),
    train(lambda m: ft.penalty(m.trainable_variables, l2=0.01)),
)
digits.compare(
    "a regularizer of one's own",
    train(regularizer=Reference()),
    train(regularizer=Ours()),
)
digits.compare(
    "add_loss in call",
    train(noted=lambda x: 0.001 * tf.reduce_sum(tf.square(x))),
    train(noted=fastreg.keras.l2(0.001)),
)
digits.compare(
    "by name",
    train(regularizer="l2"),
    train(regularizer=fastreg.keras.get("l2")),
)
