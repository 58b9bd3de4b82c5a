# SPDX-License-Identifier: BSD-3-Clause
"""mixed_float16 with an activity regularizer: a TypeError or inf with Keras' own penalty."""

import digits
import keras
import numpy as np

import fastreg.keras


def train(regularizer, policy, factor=1.0):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(32, "relu", dtype=policy, activity_regularizer=regularizer),
            keras.layers.Dense(10, dtype="float32"),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = (digits.x * factor).astype("float32")
    history = model.fit(x, digits.y, epochs=2, batch_size=64, shuffle=False, verbose=0)
    return history.history["loss"]


exact = train(keras.regularizers.L2(1e-4), "float32")
for policy, rtol in (("mixed_float16", 1e-3), ("mixed_bfloat16", 1e-2)):
    digits.compare(policy, exact, train(fastreg.keras.L2(1e-4), policy), rtol=rtol)
    try:
        print(policy, "with Keras' own:", train(keras.regularizers.L2(1e-4), policy))
    except TypeError as e:
        assert keras.backend.backend() == "tensorflow"
        print(policy, f"with Keras' own: {type(e).__name__}")
large = train(fastreg.keras.L2(1e-9), "mixed_float16", factor=100.0)
assert np.isfinite(large).all(), large
if keras.backend.backend() != "tensorflow":
    assert not np.isfinite(train(keras.regularizers.L2(1e-7), "mixed_float16", factor=100.0)).all()
