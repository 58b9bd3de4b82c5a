# SPDX-License-Identifier: BSD-3-Clause
"""A GradientTape loop under @tf.function: model.losses, and a sum over ragged
trainable_variables."""

import digits
import tensorflow as tf

import fastreg.keras
import fastreg.tensorflow as ft

cross_entropy = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(penalty, regularizer=None, jit_compile=False):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((64,)),
            tf.keras.layers.Dense(32, "relu", kernel_regularizer=regularizer),
            tf.keras.layers.Dense(10, kernel_regularizer=regularizer),
        ]
    )
    optimizer = tf.keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit_compile)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, model(x)) + penalty(model)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    return [float(step(digits.x[i::5], digits.y[i::5])) for i in range(5)]


def losses(model):
    return tf.add_n(model.losses)


def spelled_out(model):
    return 0.01 * tf.add_n([tf.reduce_sum(tf.square(v)) for v in model.trainable_variables])


def ragged(model):
    return ft.penalty(model.trainable_variables, l2=0.01)


def as_people_write_it(model):
    return 0.01 * tf.reduce_sum(tf.square(model.trainable_variables))


for jit in (False, True):
    digits.compare(
        f"model.losses, jit_compile={jit}",
        train(losses, tf.keras.regularizers.L2(0.01), jit),
        train(losses, fastreg.keras.L2(0.01), jit),
    )
    digits.compare(
        f"all variables, jit_compile={jit}", train(spelled_out, None, jit), train(ragged, None, jit)
    )
try:
    train(as_people_write_it)
except Exception as e:
    print(f"tf.square(model.trainable_variables) fails: {type(e).__name__}")
else:
    raise AssertionError("tf.square takes a ragged list now: say so in the documents")
