# SPDX-License-Identifier: BSD-3-Clause
"""The Keras that checks are run under, and what they share: KERAS_BACKEND names the backend."""

import os
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")
HOST = "tf_keras" if "tf_keras" in sys.argv[1:] else os.environ.get("KERAS_BACKEND", "tensorflow")
if HOST == "tf_keras":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras as keras
else:
    import keras

import numpy as np  # noqa: E402

from fastreg import keras as fk  # noqa: E402

LEGACY = HOST == "tf_keras"
layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 5)).astype("float32")
Y = RNG.normal(size=(64, 3)).astype("float32")


class Skip(Exception):
    pass


def number(v):
    return float(v.detach() if hasattr(v, "detach") else v)


def close(a, b, rtol=1e-6):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-9)


def host_array(a):
    """An array of the backend."""
    if HOST in ("tensorflow", "tf_keras"):
        import tensorflow as tf

        return tf.constant(a)
    if HOST == "numpy":
        return a
    return keras.ops.convert_to_tensor(a)


def variable(a):
    if LEGACY:
        import tensorflow as tf

        return tf.Variable(a)
    return keras.Variable(a, dtype=str(a.dtype), trainable=a.dtype.kind == "f")


def raises(kind, text, call):
    """Demand that a call raises an error of a class whose text holds some words."""
    found = "no error"
    try:
        call()
    except kind as e:
        found = str(e)
    assert text in found, found


def builtin(name):
    return {
        "l1": keras.regularizers.L1(0.01),
        "l2": keras.regularizers.L2(0.02),
        "l1l2": keras.regularizers.L1L2(0.01, 0.02),
    }[name]


def ours(name):
    return {"l1": fk.L1(0.01), "l2": fk.L2(0.02), "l1l2": fk.L1L2(0.01, 0.02)}[name]


def network(make, activity=True):
    keras.utils.set_random_seed(7)
    return keras.Sequential([
        layers.Input((5,)),
        layers.Dense(8, activation="tanh", kernel_regularizer=make("l1l2"),
                     # jax.grad(abs)(0) is 1, fastreg's is 0: biases must not start at 0
                     bias_regularizer=make("l1"),
                     bias_initializer=keras.initializers.Constant(0.1),
                     activity_regularizer=make("l2") if activity else None),
        layers.Dense(3, kernel_regularizer=make("l2")),
    ])  # fmt: skip


def tools_model():
    keras.utils.set_random_seed(2)
    return keras.Sequential([
        layers.Input((5,)), layers.Dense(4, name="a"), layers.BatchNormalization(name="n"),
        layers.Dense(3, name="b"),
    ])  # fmt: skip


def short(path):
    """The layer's and the variable's name."""
    return "/".join(path.split("/")[-2:])


def as_numpy(x):
    return np.asarray(x if LEGACY else keras.ops.convert_to_numpy(x))
