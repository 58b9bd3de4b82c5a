# SPDX-License-Identifier: BSD-3-Clause
"""Checks of fastreg under one Keras, run as a script: KERAS_BACKEND names the backend.

``python tests/tools/keras_checks.py [tf_keras]`` prints one JSON object: check -> "passed",
"skipped: why" or the traceback. tests/backends/test_keras.py runs it once for each backend and
reports each check as a test. Those of training with attached regularizers are in keras_training.py.
"""

import contextlib
import copy
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import keras_training
import numpy as np
from keras_host import (
    HOST,
    LEGACY,
    RNG,
    Skip,
    X,
    Y,
    as_numpy,
    builtin,
    close,
    host_array,
    keras,
    layers,
    network,
    number,
    ours,
    raises,
    short,
    tools_model,
    variable,
)

import fastreg
from fastreg import keras as fk
from fastreg import regularizers as fr
from fastreg.keras import _symbolic


def histories(fit_arguments=None, **compile_arguments):
    if HOST == "numpy":
        raise Skip("the numpy backend of Keras has no fit")
    results = []
    # tf_keras reads as many batches for one step as steps_per_execution says, and finds one
    single = LEGACY and "steps_per_execution" in compile_arguments
    for make in (builtin, ours):
        model = network(make)
        model.compile("sgd", "mse", **compile_arguments)
        h = model.fit(X, Y, epochs=3, batch_size=16, verbose=0, shuffle=False,
                      **(fit_arguments or {}))  # fmt: skip
        results.append([
            h.history["loss"], model.evaluate(X, Y, verbose=0),
            0.0 if single else model.train_on_batch(X[:8], Y[:8]),
            0.0 if single else model.test_on_batch(X[:8], Y[:8]),
            float(np.sum(model.predict(X, verbose=0))),
        ])  # fmt: skip
    for a, b in zip(*results, strict=True):
        close(a, b)


# -- Fitting (items 42, 43) ------------------------------------------------------------------------


def check_fit():
    histories()


def check_fit_eagerly():
    histories(run_eagerly=True)


def check_fit_jit():
    if HOST == "torch" and shutil.which("g++") is None:
        raise Skip("g++, which torch.compile needs, is not installed")
    histories(jit_compile=True)


def check_fit_orthogonal():
    if HOST == "numpy":
        raise Skip("the numpy backend of Keras has no fit")
    results = []
    for kind in (keras.regularizers.OrthogonalRegularizer, fk.OrthogonalRegularizer):
        for mode in ("rows", "columns"):
            model = network(lambda name, kind=kind, mode=mode: kind(0.1, mode) if name == "l2"
                            else None, activity=False)  # fmt: skip
            model.compile("sgd", "mse")
            h = model.fit(X, Y, epochs=3, batch_size=16, verbose=0, shuffle=False)
            results.append(h.history["loss"])
    close(results[:2], results[2:])


def check_fit_with_weights():
    """Penalties are not touched by sample_weight, and a stopped gradient is none of theirs."""
    histories({"sample_weight": np.linspace(0, 1, len(X))})


def check_fit_many_steps():
    if HOST == "tf_keras" or HOST == "tensorflow" or HOST == "jax":
        histories(steps_per_execution=2)
    else:
        raise Skip(f"{HOST} has no steps_per_execution of its own")


# -- Values (items 21-26, 28, 29, 36, 40) ----------------------------------------------------------


def check_values_and_bits():
    a = RNG.normal(size=(7, 9))
    dtypes = ["float16", "float32", "float64"]
    for name in dtypes:
        if name == "float64" and HOST == "jax":
            continue  # without x64 there is none
        x = a.astype(name)
        for r in (fr.L1(0.01), fr.L2(0.02), fr.L1L2(0.01, 0.02)):
            expected = r(x)
            for obj in (host_array(x), variable(x), x):
                v = r(obj)
                assert name in str(v.dtype), (v.dtype, name)
                assert np.shape(np.asarray(number(v))) == ()
                assert number(v) == float(expected), (r, type(obj), number(v), expected)
                g = r.gradient(obj)
                g = np.asarray(g.numpy() if hasattr(g, "numpy") else g)
                assert g.tobytes() == r.gradient(x).tobytes(), (r, type(obj))


def check_specials():
    inf, nan = np.inf, np.nan
    for r in (fk.L1(0.1), fk.L2(0.1), fk.L1L2(0.1, 0.1)):
        assert number(r(host_array(np.zeros((0, 3), "float32")))) == 0.0
        assert np.isnan(number(r(host_array(np.array([nan, 1], "float32")))))
        assert number(r(host_array(np.array([-inf, 1], "float32")))) == inf
        assert number(r(host_array(np.float32(0) + np.zeros((), "float32")))) == 0.0
    assert number(fk.L1L2()(host_array(np.array([nan], "float32")))) == 0.0
    assert number(fk.L2(0.0)(host_array(np.array([inf], "float32")))) == 0.0


def check_layouts():
    a = np.arange(24, dtype="float32").reshape(4, 6)
    for x in (a[::2], a[::-1], a.T, np.asfortranarray(a), np.broadcast_to(a[0], (3, 6))):
        assert number(fk.L2(0.5)(x)) == float(fastreg.value(np.ascontiguousarray(x), l2=0.5))


def check_refused_objects():
    for bad in ([1.0], 1.0, None, "x"):
        try:
            fk.L2(0.1)(bad)
        except (TypeError, AttributeError):
            continue
        raise AssertionError(f"no error for {bad!r}")
    try:
        fk.L2(0.1)(host_array(np.array([1j], "complex64")))
    except TypeError:
        return
    raise AssertionError("no error for complex")


def check_integers():
    assert number(fk.L2(0.5)(host_array(np.array([1, 2], "int32")))) == 2.5


# -- Names (items 1, 13-18) ------------------------------------------------------------------------


def check_names():
    assert fk.l1 is fk.L1
    assert fk.l2 is fk.L2
    if LEGACY:
        assert fk.l1_l2().get_config() == {"l1": 0.01, "l2": 0.01}  # as tf_keras' function
        assert type(fk.l1_l2(0.5)) is fk.L1L2
    else:
        assert fk.l1_l2 is fk.L1L2
    assert fk.orthogonal_regularizer is fk.OrthogonalRegularizer
    assert fk.get(None) is None
    r = fk.L2(0.3)
    assert fk.get(r) is r
    assert isinstance(fk.get("l2"), fk.L2)
    assert isinstance(fk.get(fk.L1), fk.L1)
    assert isinstance(fk.get({"class_name": "l2", "config": {"l2": 0.3}}), fk.L2)
    assert keras.regularizers.get(r) is r
    config = keras.regularizers.serialize(r)
    text = json.dumps(config)
    assert "L2" in config["class_name"], text
    assert config["config"] == {"l2": 0.3}, text
    assert isinstance(keras.regularizers.deserialize(json.loads(text)), fk.L2)
    for bad in ("l1_l2", "typo", "", 3, [1], b"l2"):
        try:
            fk.get(bad)
        except ValueError:
            continue
        raise AssertionError(f"no error for {bad!r}")
    assert isinstance(r, keras.regularizers.Regularizer)
    assert "float64" in str(fk.L1(0.5, dtype="float64")(np.ones(3)).dtype)
    again = fk.deserialize(json.loads(json.dumps(fk.serialize(r))))
    assert (type(again), again.get_config()) == (fk.L2, {"l2": 0.3})
    assert fr.serialize(keras.regularizers.L2(0.5))["class_name"] == "L2"


def check_names_of_others():
    """What is not fastreg's is left to Keras: registered classes, functions, scopes."""

    @keras.saving.register_keras_serializable(package="mine")
    class Mine(keras.regularizers.Regularizer):
        def __init__(self, factor=1.0):
            self.factor = factor

        def __call__(self, x):
            return self.factor

        def get_config(self):
            return {"factor": self.factor}

    @keras.saving.register_keras_serializable(package="mine")
    def function(x):
        return 0.0

    class Scoped(Mine):
        pass

    for module in (fk, fr):
        config = module.serialize(Mine(2.0))
        assert config["registered_name"] == "mine>Mine"
        for again in (module.deserialize(config), module.get(config)):
            assert type(again) is Mine
            assert again.factor == 2.0
        assert type(module.get("mine>Mine")) is Mine
        assert module.get("mine>function") is module.get(module.serialize(function)) is function
        raises(ValueError, "identifier", lambda module=module: module.get("Scoped"))
        with keras.saving.custom_object_scope({"Scoped": Scoped, "f": function}):
            assert type(module.get("Scoped")) is Scoped
            assert module.get("f") is function
            assert module.get({"class_name": "Scoped", "config": {"factor": 3.0}}).factor == 3.0
            assert type(module.get("l2")).__name__ == "L2"


# -- Layers (items 38, 39) -------------------------------------------------------------------------


def check_layer_arguments():
    keras.utils.set_random_seed(1)
    x = np.ones((2, 6, 6, 4), "float32")
    cases = [
        (layers.Dense(3, kernel_regularizer=fk.l2(0.1), bias_regularizer=fk.l1(0.1)), x),
        (layers.Conv2D(3, 3, kernel_regularizer=fk.l2(0.1)), x),
        (layers.DepthwiseConv2D(3, depthwise_regularizer=fk.l2(0.1)), x),
        (layers.SeparableConv2D(3, 3, depthwise_regularizer=fk.l2(0.1),
                                pointwise_regularizer=fk.l1(0.1)), x),
        (layers.BatchNormalization(gamma_regularizer=fk.l2(0.1), beta_regularizer=fk.l1(0.1)), x),
        (layers.LSTM(3, kernel_regularizer=fk.l2(0.1), recurrent_regularizer=fk.l1(0.1)), x[:, 0]),
        (layers.Embedding(7, 3, embeddings_regularizer=fk.l2(0.1)), np.ones((2, 4), "int32")),
        (layers.PReLU(alpha_regularizer=fk.l2(0.1)), x),
    ]  # fmt: skip
    for layer, value in cases:
        layer(value)
        total = 0.0
        for v in layer.trainable_weights:
            r = getattr(v, "regularizer", None)
            if LEGACY:
                name = v.name.rpartition("/")[2].partition(":")[0].removesuffix("_kernel")
                owner = getattr(layer, "cell", layer)
                r = getattr(owner, f"{name}_regularizer", None)
                r = r or getattr(owner, "depthwise_regularizer", None)
            if r is not None:
                a = v.numpy() if LEGACY else keras.ops.convert_to_numpy(v)
                total += float(r(np.asarray(a)))
        assert len(layer.losses) >= 1, layer
        close(sum(number(v) for v in layer.losses), total, 1e-6)


def check_kernel_and_activity():
    x = np.full((4, 3), 2.0, "float32")
    layer = layers.Dense(2, kernel_initializer="ones", kernel_regularizer=fk.l2(0.1))
    layer(x)
    close(number(layer.losses[0]), 0.6)
    layer = layers.Dense(2, kernel_initializer="ones", activity_regularizer=fk.l1(0.1))
    layer(x)
    close(number(layer.losses[0]), 1.2)


def check_slice_of_predictions():
    if HOST == "numpy":
        raise Skip("the numpy backend of Keras has no fit")

    def loss(y, p):
        mse = keras.ops.mean if not LEGACY else __import__("tensorflow").reduce_mean
        return mse((y - p) ** 2) + fk.L2(0.01)(p[:, :1])

    def reference(y, p):
        if LEGACY:
            import tensorflow as tf

            return tf.reduce_mean((y - p) ** 2) + 0.01 * tf.reduce_sum(p[:, :1] ** 2)
        return keras.ops.mean((y - p) ** 2) + 0.01 * keras.ops.sum(p[:, :1] ** 2)

    results = []
    for each in (reference, loss):
        model = network(lambda name: None)
        model.compile("sgd", each)
        results.append(model.fit(X, Y, epochs=2, verbose=0, shuffle=False).history["loss"])
    close(*results)


def check_shared_instance():
    r = fk.L2(0.1)
    keras.utils.set_random_seed(3)
    model = keras.Sequential([
        layers.Input((4,)), layers.Dense(3, kernel_regularizer=r),
        layers.Dense(2, kernel_regularizer=r),
    ])  # fmt: skip
    assert len(model.losses) == 2
    if not LEGACY:
        model.layers[0].trainable = False
        assert len(model.losses) == 1


# -- Saving (items 19, 20, 56) ---------------------------------------------------------------------


def saved_model():
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(3, kernel_regularizer=fk.L2(0.3), activity_regularizer=fk.L1(0.1)),
            layers.Dense(2, kernel_regularizer=fr.L1L2(0.1, 0.2)),
        ]
    )


def check_saving():
    model = saved_model()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("m.keras", "m.h5"):
            path = str(Path(folder, name))
            model.save(path)
            # tf_keras' loader of .h5 files looks for the bare class name, among its own first.
            bare = {"L1": fk.L1, "L2": fk.L2, "L1L2": fk.L1L2}
            options = {"custom_objects": bare} if LEGACY and name == "m.h5" else {}
            again = keras.models.load_model(path, **options)
            assert type(again.layers[0].kernel_regularizer) is fk.L2, name
            assert again.layers[0].kernel_regularizer.l2 == 0.3
            assert type(again.layers[0].activity_regularizer) is fk.L1
            kind = fk.L1L2 if LEGACY and name == "m.h5" else fr.L1L2
            assert type(again.layers[1].kernel_regularizer) is kind
            code = (
                f"import {'tf_keras' if LEGACY else 'keras'} as keras, sys\n"
                f"m = keras.models.load_model({path!r})\n"
                "r = m.layers[0].kernel_regularizer\n"
                "assert 'fastreg' not in sys.modules\n"
                "assert type(r) is keras.regularizers.L2 and abs(r.l2 - 0.3) < 1e-6, r\n"
                "assert type(m.layers[1].kernel_regularizer) is keras.regularizers.L1L2\n"
            )
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                  timeout=300)  # fmt: skip
            assert done.returncode == 0, (name, done.stderr[-2000:])
        clone = keras.models.clone_model(model)
        assert type(clone.layers[0].kernel_regularizer) is fk.L2
        assert type(clone.layers[1].kernel_regularizer) is fr.L1L2
        again = keras.models.model_from_json(model.to_json())
        assert type(again.layers[0].kernel_regularizer) is fk.L2


def check_saved_models_of_tf_keras():
    """That format names fastreg's classes: Keras needs them, a server does not."""
    if not LEGACY:
        raise Skip("a format of tf_keras")
    keras.utils.set_random_seed(5)
    large = layers.Dense(1024, kernel_regularizer=fk.L1(0.01), activity_regularizer=fk.L2(0.1))
    model = keras.Sequential([layers.Input((300,)), large])  # large enough for the kernels in fit
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 300)), np.ones((2, 1024)), verbose=0)
    expected = float(np.sum(model.predict(np.ones((2, 300), "float32"), verbose=0)))
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, save_format="tf")
        code = (
            "import sys, numpy as np, tensorflow as tf\n"
            f"m = tf.saved_model.load({folder!r})\n"
            "y = m.signatures['serving_default'](tf.ones((2, 300)))\n"
            "print(float(np.sum([v.numpy() for v in y.values()])))\n"
            "assert 'fastreg' not in sys.modules\n"
            "import tf_keras, fastreg.keras\n"
            f"m = tf_keras.models.load_model({folder!r})\n"
            "assert type(m.layers[0].kernel_regularizer) is fastreg.keras.L1\n"
            "m.fit(np.ones((2, 300)), np.ones((2, 1024)), verbose=0)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    close(float(done.stdout.split()[0]), expected, 1e-5)


def check_copies():
    model = saved_model()
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(again.layers[0].kernel_regularizer) is fk.L2
        assert again.layers[0].kernel_regularizer.l2 == 0.3
    r = pickle.loads(pickle.dumps(fk.L1L2(0.1, 0.2)))
    assert r.get_config() == {"l1": 0.1, "l2": 0.2}


def check_plain_objects_without_importing_the_backend():
    """Objects of fastreg.regularizers stay fastreg's, though nobody imported fastreg.keras."""
    code = (
        f"import {'tf_keras' if LEGACY else 'keras'} as keras\n"
        "from fastreg.regularizers import L2\n"
        "m = keras.Sequential([keras.layers.Input((4,)),\n"
        "    keras.layers.Dense(3, kernel_regularizer=L2(0.3))])\n"
        "r = keras.models.clone_model(m).layers[0].kernel_regularizer\n"
        "assert isinstance(r, L2) and r.l2 == 0.3, type(r)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


# -- Mixed precision (items 41, 54; W1, W2) --------------------------------------------------------


def check_mixed_precision():
    if HOST == "numpy":
        raise Skip("the numpy backend of Keras has no fit")
    set_policy = (
        keras.mixed_precision.set_global_policy if LEGACY else keras.config.set_dtype_policy
    )
    policies = ["mixed_float16", "mixed_bfloat16"] + ([] if LEGACY else ["float16", "bfloat16"])
    try:
        for policy in policies:
            set_policy(policy)
            keras.utils.set_random_seed(1)
            layer = layers.Dense(64, kernel_initializer=keras.initializers.Constant(4.0),
                                 kernel_regularizer=fk.L2(1e-4))  # fmt: skip
            layer.build((None, 128))
            penalty = layer.losses[0]
            assert "float32" in str(penalty.dtype)
            close(number(penalty), 13.1072)
            layer = layers.Activation("linear", activity_regularizer=fk.L2(1e-4))
            layer(host_array(np.full((32, 64), 256, "float16" if "b" not in policy else "float32")))
            close(number(layer.losses[0]) * 32, 13421.7728, 1e-5)
            if HOST == "torch" and policy == "float16":
                continue
            model = network(ours)
            model.compile("sgd", "mse", jit_compile=False)
            history = model.fit(X, Y, epochs=1, verbose=0)
            assert np.isfinite(history.history["loss"]).all()
    finally:
        set_policy("float32")


def check_big_half_activity():
    x = host_array(np.full((32, 64), 256.0, "float16"))
    assert number(fk.L2(1e-4)(x)) == float(np.float32(32 * 64 * 256.0**2 * 1e-4))
    assert number(keras.regularizers.L2(1e-4)(x)) == np.inf
    for r in (fk.L2(1e-4), fk.L1L2(0.1, 1e-4), fk.OrthogonalRegularizer()):
        value, gradient = r.value_and_gradient(x)
        assert number(value) == number(r.value(x)) == number(r(x))
        assert "float32" in str(value.dtype)
        assert "float16" in str(gradient.dtype)
    small = host_array(np.full((1000,), 1e-4, "float16"))
    assert number(fk.L2(0.5)(small)) > 4.9e-6
    bf16 = host_array(np.ones((1000,), "float32"))
    bf16 = (
        bf16.astype("bfloat16")
        if HOST in ("numpy", "jax")
        else (
            bf16.bfloat16() if HOST == "torch" else __import__("tensorflow").cast(bf16, "bfloat16")
        )
    )
    assert number(fk.L2(0.01)(bf16)) == float(np.float32(10))  # Keras on numpy: 2.5625


def layer_of(values, regularizer, dtype):
    return layers.Dense(
        2, dtype=dtype, activity_regularizer=regularizer, kernel_regularizer=regularizer,
        kernel_initializer=keras.initializers.Constant(values),
    )  # fmt: skip


def check_layers_of_other_types_than_the_loss():
    """Keras on TensorFlow refuses to add their penalties to a float32 loss."""
    if HOST == "numpy":
        raise Skip("the numpy backend of Keras has no fit")
    types = ["float64", "mixed_float16", "mixed_bfloat16", "bfloat16", "float16"]
    if HOST == "torch":
        types.remove("float16")  # torch has no such product of matrices on every CPU
    for dtype in types:
        for make in (fk.L2, fk.L1, fk.OrthogonalRegularizer, keras.regularizers.L2):
            model = keras.Sequential([layers.Input((5,)), layer_of(0.5, make(0.01), dtype),
                                      layers.Dense(3)])  # fmt: skip
            model.compile("sgd", "mse", jit_compile=False)
            try:
                loss = model.fit(X, Y, verbose=0).history["loss"]
            except TypeError:
                # W2: a fix of Keras' own would be worth a word in the documents
                assert make is keras.regularizers.L2, (dtype, make)
                assert HOST == "tensorflow"
                continue
            assert np.isfinite(loss).all(), (dtype, make)
            if make is keras.regularizers.L2:
                assert HOST != "tensorflow", dtype


def check_integer_activities():
    if HOST == "numpy":
        raise Skip("the numpy backend of Keras has no fit")

    class Rounded(layers.Layer):
        def call(self, x):
            cast = __import__("tensorflow").cast if LEGACY else keras.ops.cast
            return cast(x, "int32")

    x = layers.Input((5,))
    out = layers.Dense(3)(x)
    model = keras.Model(x, [out, Rounded(activity_regularizer=fk.L2(0.1))(x)])
    model.compile("sgd", ["mse", None])
    assert np.isfinite(model.fit(X * 3, Y, verbose=0).history["loss"]).all()
    close(number(fk.L2(0.5)(host_array(np.ones(4, "int32")))), 2.0)


# -- Backends' own ---------------------------------------------------------------------------------


def check_penalty_of_a_model():
    """One call for all kernels: exact, differentiable, the same number as fastreg.penalty's."""
    model = tools_model()
    kernels = [w for w in model.trainable_weights if len(w.shape) > 1]
    arrays = [np.asarray(keras.ops.convert_to_numpy(w) if not LEGACY else w) for w in kernels]
    want = fastreg.penalty(arrays, l1=0.01, l2=0.02, dtype="float32")
    assert np.float32(number(fk.penalty(model, l1=0.01, l2=0.02))) == want
    assert np.float32(number(fk.penalty(kernels, l2=0.02))) == fastreg.penalty(
        arrays, l2=0.02, dtype="float32"
    )
    half = number(fk.penalty(model, l2=0.02, convention="half"))
    assert np.float32(half) == fastreg.penalty(arrays, l2=0.01, dtype="float32")
    first = kernels[0]
    path = str(getattr(first, "path", first.name))
    only = fastreg.penalty(arrays[:1], l2=1.0, dtype="float32")
    assert np.float32(number(fk.penalty(model, l2=1.0, select=path))) == only
    threefold = [3.0] + [1.0] * (len(arrays) - 1)
    weighted = fastreg.penalty(arrays, l2=threefold, dtype="float32")
    assert np.float32(number(fk.penalty(model, l2=1.0, weights={path: 3.0}))) == weighted
    for bad, kind, text in (
        (3, TypeError, "a container of arrays"), (keras.layers.Dense(2), ValueError, "not built"),
        (keras.layers.Dense, TypeError, "a container of arrays"),
    ):  # fmt: skip
        raises(kind, text, lambda bad=bad: fk.penalty(bad, l2=1.0))

    half = keras.Sequential([layers.Input((4,)), layers.Dense(3, dtype="float16")])
    assert np.isfinite(number(fk.penalty(half, l2=1e6)))
    plan = fastreg.plan(model, l2=1.0)
    before = plan.value()
    model.set_weights([2 * w for w in model.get_weights()])
    with contextlib.suppress(fastreg.errors.StaleError):  # the variables have new memory
        assert plan.value() == 4 * before

    kernels = [w for w in model.trainable_weights if len(w.shape) > 1]
    arrays = [np.asarray(keras.ops.convert_to_numpy(w) if not LEGACY else w) for w in kernels]
    want = fastreg.penalty(arrays, l1=0.01, l2=0.02, dtype="float32")
    gradients = [fastreg.gradient(a, l1=0.01, l2=0.02) for a in arrays]
    if HOST in ("tensorflow", "tf_keras"):
        import tensorflow as tf

        def step():
            with tf.GradientTape() as tape:
                y = fk.penalty(model, l1=0.01, l2=0.02)
            return y, tape.gradient(y, kernels)

        for call in (step, tf.function(step), tf.function(step, jit_compile=True)):
            y, got = call()
            close(float(y), want)
            for g, expected in zip(got, gradients, strict=True):
                close(g, expected)
    elif HOST == "torch":
        fk.penalty(model, l1=0.01, l2=0.02).backward()
        for w, expected in zip(kernels, gradients, strict=True):
            assert np.array_equal(w.value.grad.cpu().numpy(), expected)
    elif HOST == "jax":
        import jax

        def loss(values):
            with keras.StatelessScope(list(zip(kernels, values, strict=True))):
                return fk.penalty(model, l1=0.01, l2=0.02)

        for call in (jax.value_and_grad(loss), jax.jit(jax.value_and_grad(loss))):
            y, got = call([w.value for w in kernels])
            close(float(y), want)
            for g, expected in zip(got, gradients, strict=True):
                assert np.array_equal(g, expected)


def check_one_meaning():
    """Lists are exactly those arrays, models their kernels, in every function."""
    model = tools_model()
    weights = [as_numpy(w) for w in model.trainable_weights]
    kernels = [w for w in weights if w.ndim > 1]
    x = np.float32(fastreg.penalty(weights, l2=0.02, dtype="float32"))
    assert np.float32(number(fk.penalty(model.trainable_weights, l2=0.02))) == x
    assert np.float32(number(fk.penalty(model, l2=0.02, select="all"))) != x
    value, gradients = fk.value_and_gradient(model, l1=0.01, l2=0.02, scale=3.0)
    assert number(value) == number(fk.penalty(model, l1=0.01, l2=0.02))
    assert [short(name) for name in gradients] == ["a/kernel", "b/kernel"]
    for g, w in zip(gradients.values(), kernels, strict=True):
        assert np.array_equal(as_numpy(g), fastreg.gradient(w, l1=0.01, l2=0.02, scale=3.0))
    again = fk.gradient(model, l1=0.01, l2=0.02, scale=3.0)
    assert all(np.array_equal(as_numpy(again[k]), as_numpy(gradients[k])) for k in again)
    listed = fk.gradient(model.trainable_weights, l2=0.5)
    assert isinstance(listed, list)
    assert len(listed) == len(weights)
    norm = fastreg.global_norm([as_numpy(w) for w in model.weights])
    close(number(fk.global_norm(model)), norm, 2e-7)
    close(fk.stats(model).total["norm"], norm, 1e-15)
    assert len(fk.stats(model)) == 8
    assert fk.stats(model, select="*b/kernel").total["n"] == 12
    assert number(fk.penalty([], l2=1.0)) == 0.0
    for call in (fk.penalty, fk.gradient, fk.value_and_gradient):
        raises(ValueError, "l1= or l2=", lambda call=call: call(model))
        raises(ValueError, "takes none", lambda call=call: call(model, l2=1.0, select="nothing"))


def check_rules_may_leave_out_the_name_of_the_model():
    model = tools_model()
    want = number(fk.penalty(model, l2=1.0, select="*a/kernel"))
    for select in ("a/kernel", "a.kernel", "a/*", "re:^a/"):
        assert number(fk.penalty(model, l2=1.0, select=select)) == want, select
    assert number(fk.penalty(model, l2={"a/kernel": 1.0})) == want
    inner = keras.Sequential([layers.Input((5,)), layers.Dense(4, name="a")], name="inner")
    outer = keras.Sequential([layers.Input((5,)), inner, layers.Dense(2, name="b")])
    raises(ValueError, "takes none", lambda: fk.penalty(outer, l2=1.0, select="a/kernel/kernel"))
    one = "a/kernel" if LEGACY else "inner/a/kernel"
    kernel = as_numpy(inner.weights[0])
    want = fastreg.penalty([kernel], l2=1.0, dtype="float32")
    assert np.float32(number(fk.penalty(outer, l2=1.0, select=one))) == want


def check_layers_judge_before_names():
    """A kernel in a layer that is merely called like a normalisation is a kernel."""
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2, name="bn_projection")])
    assert len(fk.attach(model, "l2").taken) == 1
    assert number(fk.penalty(model, l2=1.0)) > 0
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2), layers.Dense(2)])
    model.layers[0].trainable = False
    kernel = as_numpy(model.layers[1].weights[0])
    got = np.float32(number(fk.penalty(model, l2=1.0)))
    assert got == fastreg.penalty([kernel], l2=1.0, dtype="float32")


def check_steps():
    """Proximal steps and decay write the kernels of a model, on every backend the same numbers."""
    model = tools_model()
    before = [as_numpy(w).copy() for w in model.weights]
    fk.prox_(model, 0.5, l1=0.4, l2=0.1)
    for w, old in zip(model.weights, before, strict=True):
        if old.ndim > 1:
            fastreg.prox_([old], 0.5, l1=0.4, l2=0.1)
            assert (old == 0).any()
        assert np.array_equal(as_numpy(w), old)
    fk.decay_(model, 0.25)
    fk.decay_([], 0.25)
    fk.prox_(model, 0.5, l1={"*bias": 0.0}, l2={"*bias": 1.0}, select="*bias")
    for w, old in zip(model.weights, before, strict=True):
        assert np.array_equal(as_numpy(w), old * np.float32(0.75) if old.ndim > 1 else old)
    last = [as_numpy(w).copy() for w in model.weights]
    floats, integers = (variable(np.ones((2, 2), t)) for t in ("float32", "int32"))
    for kind, text, call in (
        (ValueError, "step", lambda: fk.prox_(model, -1.0, l1=1.0)),
        (ValueError, "rate", lambda: fk.decay_(model, 2.0)),
        (ValueError, "l1= or l2=", lambda: fk.prox_(model, 1.0)),
        (ValueError, "takes none", lambda: fk.decay_(model, 0.5, select="nothing")),
        (TypeError, "expected", lambda: fk.prox_([floats, integers], 1.0, l1=1.0)),
    ):  # fmt: skip
        raises(kind, text, call)
    for w, old in zip(model.weights, last, strict=True):
        assert np.array_equal(as_numpy(w), old)
    assert (as_numpy(floats) == 1).all()
    if HOST in ("tensorflow", "tf_keras", "jax"):
        value = [host_array(np.ones(2, "float32"))]
        raises(TypeError, "expected", lambda: fk.prox_(value, 1.0, l1=1.0))


def check_steps_within_a_program():
    model = tools_model()
    before = [as_numpy(w).copy() for w in model.weights]
    if HOST == "jax":
        import jax

        def program(values):
            with keras.StatelessScope(list(zip(model.weights, values, strict=True))) as scope:
                fk.prox_(model, 0.5, l1=0.4)
                fk.decay_(model, 0.25)
            return [scope.get_current_value(w) for w in model.weights]

        after = jax.jit(program)([w.value for w in model.weights])
    elif HOST in ("tensorflow", "tf_keras"):
        import tensorflow as tf

        @tf.function
        def program():
            fk.prox_(model, 0.5, l1=0.4)
            fk.decay_(model, 0.25)

        program()
        after = model.weights
    else:
        raise Skip(f"{HOST} does not trace")
    for w, old in zip(after, before, strict=True):
        if old.ndim > 1:
            fastreg.prox_([old], 0.5, l1=0.4)
            fastreg.decay_([old], 0.25)
        np.testing.assert_allclose(as_numpy(w), old, rtol=2e-7, atol=1e-8)


def check_steps_under_mixed_precision():
    set_policy = (
        keras.mixed_precision.set_global_policy if LEGACY else keras.config.set_dtype_policy
    )
    try:
        set_policy("mixed_bfloat16")
        dense = layers.Dense(2, kernel_initializer="ones")
        dense.build((None, 3))
    finally:
        set_policy("float32")
    fk.decay_(dense, 0.25)
    assert (as_numpy(dense.weights[0]) == 0.75).all()
    assert number(fk.penalty(dense, l1=1.0)) == 4.5


def check_clipping():
    x = np.array([3.0, 4.0], "float32")
    raises(ValueError, "variables", lambda: fk.clip_by_global_norm_([variable(x)], 1.0))
    raises(ValueError, "gradients", lambda: fk.clip_by_global_norm_(tools_model(), 1.0))
    g = host_array(x.copy())
    if HOST in ("numpy", "torch"):
        assert number(fk.clip_by_global_norm_([g, None], 2.5)) == 5.0
        assert as_numpy(g).tolist() == [1.5, 2.0]
    else:
        raises(TypeError, "immutable", lambda: fk.clip_by_global_norm_([g], 2.5))


def check_meta_device():
    if HOST != "torch":
        raise Skip("only torch has a meta device")
    import torch

    v = fk.L2(0.1)(torch.ones(3, device="meta"))
    assert v.device.type == "meta"
    assert v.shape == ()
    assert fk.L2(0.1)(torch.nn.Parameter(torch.ones(3))).requires_grad
    with torch.no_grad():
        assert not fk.L2(0.1)(torch.nn.Parameter(torch.ones(3))).requires_grad


def check_symbolic_tensor():
    x = layers.Input((4,))
    for r in (fk.L1(0.1), fk.L2(0.2), fk.L1L2(0.1, 0.2), fk.L1L2()):
        model = keras.Model(x, r(x))
        a = RNG.normal(size=(3, 4)).astype("float32")
        close(number(model(host_array(a))), float(r(a)))
    for dtype, result in (("float16", "float32"), ("float32", "float32"), ("bool", None)):
        v = fk.L2(0.1)(layers.Input((4,), dtype=dtype))
        assert v.shape == ()
        expected = result or ("float64" if HOST != "jax" else "float32")
        if HOST == "tensorflow":
            expected = "float32"
        assert expected in str(v.dtype), (v.dtype, dtype)
    assert "float16" in str(fr.L2(0.1)(layers.Input((4,), dtype="float16")).dtype)
    assert "float64" in str(fr.L2(0.1, dtype="float64")(x).dtype)
    for call in (lambda: fk.L2(0.1).gradient(x), lambda: fk.L2(0.1).value_and_gradient(x),
                 lambda: fk.OrthogonalRegularizer()(x), lambda: fk.L2(0.1)(network(ours)),
                 lambda: fk.OrthogonalRegularizer().gradient(x),
                 lambda: fk.L2(0.1)(layers.Dense(2)),
                 lambda: fk.L2(0.1)(layers.Input((4,), dtype="string"))):  # fmt: skip
        try:
            call()
        except TypeError as e:
            assert all(word in str(e) for word in ("expected", "; received ", "; ")), e  # noqa: PT017
            continue
        raise AssertionError("no error")
    raises(ValueError, "l1= or l2=", lambda: _symbolic.penalty(x))
    for no_number in (False, "", ()):
        raises(TypeError, "a number as weight l1", lambda w=no_number: _symbolic.penalty(x, l1=w))


def check_penalty_added_in_call():
    if HOST == "numpy":
        raise Skip("the numpy backend of Keras has no fit")

    def fit(regularizer):
        class Penalised(layers.Layer):
            def call(self, x):
                self.add_loss(regularizer(x))
                return x

        keras.utils.set_random_seed(1)
        model = keras.Sequential([layers.Input((5,)), layers.Dense(3), Penalised()])
        model.compile("sgd", "mse")
        return model.fit(X, Y, epochs=2, verbose=0, shuffle=False).history["loss"]

    for name in ("l1", "l2", "l1l2"):
        close(fit(builtin(name)), fit(ours(name)))


def check_built_inside_a_trace():
    if HOST == "numpy" or HOST == "torch":
        raise Skip(f"{HOST} does not trace")
    kept = []

    def inside(x):
        kept.append(fk.L1(0.25))
        return kept[-1](x)

    if HOST == "jax":
        import jax

        jax.jit(inside)(X)
    else:
        import tensorflow as tf

        tf.function(inside)(tf.constant(X))
    assert kept[0].get_config() == {"l1": 0.25}
    assert number(kept[0](host_array(np.ones(4, "float32")))) == 1.0


def check_ragged_trainable_variables():
    model = network(lambda name: None)
    if HOST in ("tensorflow", "tf_keras"):
        import fastreg.tensorflow as backend
    elif HOST == "jax":
        import fastreg.jax as backend
    elif HOST == "torch":
        import fastreg.torch as backend
    else:
        raise Skip("the numpy backend has fastreg.penalty")
    vs = model.trainable_variables
    if HOST == "torch":
        vs = [v.value for v in vs]
    expected = fastreg.penalty([np.asarray(w) for w in model.get_weights()], l2=0.01)
    close(number(backend.penalty(vs, l2=0.01)), float(expected))


def check_export():
    if HOST != "tensorflow":
        raise Skip("SavedModels are TensorFlow's")
    model = network(ours)
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        code = (
            "import sys, numpy as np, tensorflow as tf\n"
            f"m = tf.saved_model.load({folder!r})\n"
            "print(float(np.sum(m.serve(tf.ones((2, 5))))))\n"
            "assert 'fastreg' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        expected = float(np.sum(model.predict(np.ones((2, 5), "float32"), verbose=0)))
        close(float(done.stdout.split()[-1]), expected, 1e-5)


def check_mirrored_strategy():
    if HOST not in ("tensorflow", "tf_keras"):
        raise Skip("tf.distribute is TensorFlow's")
    import tensorflow as tf

    cpus = tf.config.list_logical_devices("CPU")
    if len(cpus) < 2:
        raise Skip("one logical CPU: they are split before TensorFlow starts")
    results = []
    for make in (builtin, ours):
        with tf.distribute.MirroredStrategy([d.name for d in cpus]).scope():
            model = network(make, activity=False)
            model.compile("sgd", "mse")
        results.append(model.fit(X, Y, epochs=2, verbose=0, shuffle=False).history["loss"])
    close(*results)


def check_legacy_layers():
    if not LEGACY:
        raise Skip("tf.compat.v1.layers need tf_keras")
    import tensorflow as tf

    import fastreg.tensorflow as ft

    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 3))
        y = tf.compat.v1.layers.dense(
            x, 2, kernel_initializer=tf.compat.v1.ones_initializer(), kernel_regularizer=fr.L2(0.1)
        )
        tf.compat.v1.losses.mean_squared_error(tf.zeros_like(y), y)
        penalty, total = ft.get_regularization_loss(), ft.get_total_loss()
        step = tf.compat.v1.train.GradientDescentOptimizer(0.1).minimize(total)
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            feed = {x: np.ones((2, 3), "float32")}
            close(session.run(penalty), 0.6)
            first = session.run(total, feed)
            close(first, 9.6)
            session.run(step, feed)
            assert session.run(total, feed) < first


def main():
    if HOST in ("tensorflow", "tf_keras"):
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    results = {}
    for name, check in [*globals().items(), *vars(keras_training).items()]:
        if not name.startswith("check_"):
            continue
        try:
            check()
            results[name] = "passed"
        except Skip as e:
            results[name] = f"skipped: {e}"
        except Exception:
            results[name] = traceback.format_exc(limit=-4)[-3000:]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
