# SPDX-License-Identifier: BSD-3-Clause
"""``Dense(kernel_regularizer=l2(0.01))``, ``activity_regularizer=l1(0.01)``, l1_l2, and fit."""

import digits
import tensorflow as tf

import fastreg.keras


def train(l1, l2, l1_l2):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((64,)),
            tf.keras.layers.Dense(64, "relu", kernel_regularizer=l2(0.01)),
            tf.keras.layers.Dense(32, "tanh", activity_regularizer=l1(0.01)),
            tf.keras.layers.Dense(10, kernel_regularizer=l1_l2(l1=0.005, l2=0.01)),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    history = model.fit(digits.x, digits.y, epochs=3, batch_size=64, shuffle=False, verbose=0)
    return history.history["loss"]


k = tf.keras.regularizers
f = fastreg.keras
digits.compare("layer arguments", train(k.L1, k.L2, k.L1L2), train(f.l1, f.l2, f.l1_l2))
