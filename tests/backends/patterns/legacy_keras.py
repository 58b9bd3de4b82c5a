# SPDX-License-Identifier: BSD-3-Clause
"""tf_keras: layer arguments, "l1_l2" by name, model.add_loss, add_n(model.losses) in a loop."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import digits
import tensorflow as tf

import fastreg.keras
import fastreg.tensorflow as ft

keras = tf.keras
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(l1, l2, l1_l2):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(32, "relu", kernel_regularizer=l2),
            keras.layers.Dense(16, "tanh", activity_regularizer=l1),
            keras.layers.Dense(10, kernel_regularizer=l1_l2),
        ]
    )


def fit(model, loss=cross_entropy):
    model.compile("adam", loss)
    history = model.fit(digits.x, digits.y, epochs=3, batch_size=64, shuffle=False, verbose=0)
    return history.history["loss"]


def loop(model):
    optimizer = keras.optimizers.SGD(0.1)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, model(x)) + tf.add_n(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return [float(step(digits.x[i::5], digits.y[i::5])) for i in range(5)]


def added(term):
    model = network(None, None, None)
    model.add_loss(lambda: term(model.trainable_variables))
    return fit(model)


def closed_over(term):
    model = network(None, None, None)
    return fit(model, lambda y, p: cross_entropy(y, p) + term(model.trainable_variables))


theirs = keras.regularizers.l1(0.01), keras.regularizers.l2(0.01), "l1_l2"
ours = fastreg.keras.l1(0.01), fastreg.keras.l2(0.01), fastreg.keras.l1_l2(0.01, 0.01)
digits.compare("layer arguments", fit(network(*theirs)), fit(network(*ours)))
digits.compare("tf.add_n(model.losses)", loop(network(*theirs)), loop(network(*ours)))
digits.compare(
    "model.add_loss",
    added(lambda vs: 0.01 * tf.add_n([tf.nn.l2_loss(v) for v in vs])),
    added(lambda vs: 0.01 * ft.l2_loss(vs)),
)
digits.compare(
    "a loss that closes over the model",
    closed_over(lambda vs: 0.01 * tf.add_n([tf.reduce_sum(tf.square(v)) for v in vs])),
    closed_over(lambda vs: ft.penalty(vs, l2=0.01)),
)
try:
    closed_over(lambda vs: 0.01 * tf.reduce_sum(tf.square(vs)))
except (tf.errors.InvalidArgumentError, ValueError) as e:
    print(f"tf.square(model.trainable_variables) fails: {type(e).__name__}")
else:
    raise AssertionError("tf.square takes a ragged list now: say so in the documents")
