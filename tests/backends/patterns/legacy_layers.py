# SPDX-License-Identifier: BSD-3-Clause
"""tf.compat.v1.layers.dense(kernel_regularizer=), which needs tf_keras, and get_total_loss."""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import digits
import tensorflow as tf

import fastreg.tensorflow as ft
from fastreg.regularizers import L2

v1 = tf.compat.v1


def train(regularizer, total_loss):
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 64))
        y = v1.placeholder(tf.int32, (None,))
        glorot = v1.glorot_uniform_initializer
        h = v1.layers.dense(
            x, 32, tf.nn.relu, kernel_initializer=glorot(seed=1), kernel_regularizer=regularizer
        )
        logits = v1.layers.dense(h, 10, kernel_initializer=glorot(seed=2),
                                 kernel_regularizer=regularizer)  # fmt: skip
        v1.losses.sparse_softmax_cross_entropy(y, logits)
        loss = total_loss()
        step = v1.train.GradientDescentOptimizer(0.1).minimize(loss)
        session.run(v1.global_variables_initializer())
        feeds = [{x: digits.x[i::5], y: digits.y[i::5]} for i in range(5)]
        return [float(session.run([loss, step], feed)[0]) for feed in feeds]


digits.compare(
    "legacy layers",
    train(tf.keras.regularizers.L2(0.01), v1.losses.get_total_loss),
    train(L2(0.01), ft.get_total_loss),
)
