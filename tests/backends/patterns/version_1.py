# SPDX-License-Identifier: BSD-3-Clause
"""TensorFlow 1 style: get_variable(regularizer=), get_regularization_loss, a Session."""

import digits
import tensorflow as tf

import fastreg.tensorflow as ft
from fastreg.regularizers import L2

v1 = tf.compat.v1


def train(regularizer, regularization_loss):
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(0)
        x = v1.placeholder(tf.float32, (None, 64))
        y = v1.placeholder(tf.int32, (None,))
        with v1.variable_scope("net", regularizer=regularizer):
            w = v1.get_variable("w", (64, 32), initializer=v1.glorot_uniform_initializer(seed=1))
            u = v1.get_variable("u", (32, 10), initializer=v1.glorot_uniform_initializer(seed=2))
        logits = tf.nn.relu(x @ w) @ u
        loss = (
            tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
            + regularization_loss()
        )
        step = v1.train.GradientDescentOptimizer(0.1).minimize(loss)
        session.run(v1.global_variables_initializer())
        feeds = [{x: digits.x[i::5], y: digits.y[i::5]} for i in range(5)]
        return [float(session.run([loss, step], feed)[0]) for feed in feeds]


digits.compare(
    "version 1",
    train(lambda w: 0.01 * tf.reduce_sum(tf.square(w)), v1.losses.get_regularization_loss),
    train(L2(0.01), ft.get_regularization_loss),
)
