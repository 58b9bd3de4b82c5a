# SPDX-License-Identifier: BSD-3-Clause
"""Layer arguments, activities, half of the predictions: on whichever backend Keras has."""

import digits
import keras

import fastreg.keras as ours
from fastreg import regularizers

cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(l1, l2, l1_l2, term=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(64, "tanh", kernel_regularizer=l2(0.01)),
            keras.layers.Dense(32, "tanh", activity_regularizer=l1(0.01)),
            keras.layers.BatchNormalization(gamma_regularizer=l2(0.01)),
            keras.layers.Dense(10, kernel_regularizer=l1_l2(l1=0.005, l2=0.01)),
        ]
    )

    def loss(y, p):
        return cross_entropy(y, p) + term(p)

    model.compile("adam", cross_entropy if term is None else loss)
    history = model.fit(digits.x, digits.y, epochs=3, batch_size=64, shuffle=False, verbose=0)
    return history.history["loss"]


k = keras.regularizers
theirs = k.L1, k.L2, k.L1L2
digits.compare("fastreg.keras", train(*theirs), train(ours.l1, ours.l2, ours.l1_l2))
r = regularizers
digits.compare("fastreg.regularizers", train(*theirs), train(r.L1, r.L2, r.L1L2))
digits.compare(
    "half of the predictions",
    train(*theirs, lambda p: 0.001 * keras.ops.sum(keras.ops.square(p[:, : p.shape[1] // 2]))),
    train(*theirs, lambda p: ours.L2(0.001)(p[:, : p.shape[1] // 2])),
)
