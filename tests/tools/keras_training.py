# SPDX-License-Identifier: BSD-3-Clause
"""Checks of attached regularizers, callbacks and reports, which keras_checks.py runs."""

import json
import tempfile
from pathlib import Path

import numpy as np
from keras_host import (
    HOST,
    LEGACY,
    Skip,
    X,
    Y,
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
)

import fastreg
from fastreg import keras as fk
from fastreg import regularizers as fr


def needs_fit():
    if HOST == "numpy":
        raise Skip("the numpy backend of Keras has no fit")


# -- Attaching -------------------------------------------------------------------------------------


def check_attach():
    model = tools_model()
    before = None
    if HOST != "numpy":
        model.compile("sgd", "mse")
        before = model.evaluate(X, Y, verbose=0)
    taken = fk.attach(model, fr.L2(0.1))
    paths = [short(r.path) for r in taken.taken]
    assert paths == ["a/kernel", "b/kernel"], str(taken)
    reasons = {short(r.path): r.reason for r in taken}
    assert reasons["a/bias"] == "a bias, by its name 'bias'"
    assert reasons["n/gamma"] == "a scale or offset, by its name 'gamma'"
    assert reasons["n/moving_mean"] == "a running statistic, by its name 'moving_mean'"
    assert len(model.losses) == 2
    expected = sum(float(fastreg.value(np.asarray(w), l2=0.1))
                   for w in (model.get_weights()[0], model.get_weights()[6]))  # fmt: skip
    close(fk.report(model).total, expected)
    assert taken.total == fk.report(model).total
    if before is not None:
        close(model.evaluate(X, Y, verbose=0) - before, expected, 1e-4)
    again = fk.attach(model, fk.L1(0.1))
    assert not again.taken
    assert len(fk.attach(model, fk.L1(0.1), select="*b/kernel", replace=True).taken) == 1
    clone = keras.models.clone_model(model)
    assert type(clone.layers[0].kernel_regularizer) is fk.L2
    assert type(clone.layers[2].kernel_regularizer) is fk.L1
    assert len(fk.detach(model, select=lambda path, v: "b/kernel" in path)
               .taken) == 1  # fmt: skip
    assert len(model.losses) == 1
    fk.detach(model)
    assert model.losses == []
    if before is not None:
        close(model.evaluate(X, Y, verbose=0), before, 1e-6)
    text = str(fk.report(model))
    assert text.startswith("variable")
    assert "no regularizer" in text
    assert "0 of 8 variables" in text.splitlines()[-1]
    assert repr(taken) == str(taken)
    assert len(taken) == 8


def check_attach_after_training():
    needs_fit()
    model = tools_model()
    model.compile("sgd", "mse")
    model.fit(X, Y, epochs=1, verbose=0, shuffle=False)
    fk.attach(model, "l2")
    plain = keras.models.clone_model(tools_model())
    plain.set_weights(model.get_weights())
    fk.attach(plain, keras.regularizers.L2(0.01))
    plain.compile("sgd", "mse")
    a = model.fit(X, Y, epochs=2, verbose=0, shuffle=False).history["loss"]
    b = plain.fit(X, Y, epochs=2, verbose=0, shuffle=False).history["loss"]
    close(a, b)


def check_attach_weights():
    """l1= and l2= mean what they mean to penalty: numbers, names and globs, callables."""
    scaled = {"l2": 0.5, "weights": {"*a/kernel": 3.0}, "convention": "half"}
    for weights in (
        {"l2": 0.5}, {"l1": 0.25}, {"l1": 0.25, "l2": 0.5}, {"l2": {"a/kernel": 0.5}},
        {"l2": {"*a/kernel": 0.5, "*": 0.25}, "l1": {"*b/kernel": 2.0}}, scaled,
        {"l2": lambda path, v: 0.5 if "a/" in path else 0.25}, {"l2": 0.0, "l1": 1.0},
        {"l2": 0.5, "select": "*b/*"},
    ):  # fmt: skip
        model = tools_model()
        taken = fk.attach(model, **weights)
        close(taken.total, number(fk.penalty(model, **weights)), 2e-7)
        close(sum(number(v) for v in model.losses), taken.total)
    model = tools_model()
    taken = fk.attach(model, l2={"a/kernel": 0.5}).taken
    assert [(short(r.path), r.regularizer) for r in taken] == [("a/kernel", fk.L2(0.5))]
    assert "named by no entry" in str(fk.attach(tools_model(), l2={"a/kernel": 0.5}))
    first, second = fk.attach(tools_model(), l1=0.1, l2=0.5).taken
    assert first.regularizer == second.regularizer == fk.L1L2(0.1, 0.5)
    assert first.regularizer is not second.regularizer
    assert fk.attach(tools_model(), l2=0.0).taken[0].regularizer == fk.L2(0.0)  # a schedule's start


def check_attach_dicts():
    model = tools_model()
    taken = fk.attach(model, {"a/kernel": fr.L2(0.1), "*/kernel": "l1", "*": None}).taken
    assert [r.regularizer for r in taken] == [fk.L2(0.1), fk.L1(0.01)]
    rules = {"*a/kernel": None, "*": {"class_name": "L2", "config": {"l2": 0.5}}}
    taken = fk.attach(model, rules, select="all", replace=True).taken
    assert {short(r.path) for r in taken} == {"a/bias", "n/gamma", "n/beta", "b/kernel", "b/bias"}
    assert all(r.regularizer == fk.L2(0.5) for r in taken)
    config = fk.serialize(fk.L2(0.25))  # is a regularizer, not a dict of them
    assert fk.attach(model, config, replace=True).taken[0].regularizer == fk.L2(0.25)


def check_attach_frozen():
    """Frozen layers are penalised from when they are thawed."""

    def build():
        base = keras.Sequential([layers.Input((5,)), layers.Dense(4), layers.BatchNormalization()])
        return base, keras.Sequential([layers.Input((5,)), base, layers.Dense(3)])

    def half(model):
        return number(fk.penalty(model, l2=0.5))

    keras.utils.set_random_seed(4)
    base, model = build()
    base.trainable = False
    taken = fk.attach(model, l2=0.5).taken
    assert len(taken) == 2
    assert "frozen" in taken[0].reason
    assert taken[0].value is None
    head = half(model)
    (loss,) = model.losses
    assert number(loss) == head
    close(fk.report(model).total, head, 2e-7)
    assert [r.reason for r in fk.report(model) if r.regularizer is not None] == ["frozen", ""]
    if HOST != "numpy":
        model.compile("sgd", "mse")
        before = model.evaluate(X, Y, verbose=0)
    base.trainable = True
    both = half(model)
    assert both > head
    close(sum(number(v) for v in model.losses), both)
    close(fk.report(model).total, both, 2e-7)
    if HOST != "numpy":
        model.compile("sgd", "mse")
        close(model.evaluate(X, Y, verbose=0) - before, both - head, 1e-4)
    base.trainable = False
    assert len(fk.detach(model).taken) == 2
    base.trainable = True
    assert model.losses == []


def check_attach_refuses():
    for call, kind in (
        (lambda: fk.attach(3, "l2"), TypeError),
        (lambda: fk.attach(tools_model(), None), TypeError),
        (lambda: fk.attach(tools_model(), "typo"), ValueError),
        (lambda: fk.attach(tools_model(), "l2", select=3), ValueError),
        (lambda: fk.attach(keras.Sequential([layers.Dense(3)]), "l2"), ValueError),
        (lambda: fk.attach(layers.Flatten(), "l2"), ValueError),
        (lambda: fk.attach(tools_model(), "l1l2"), ValueError),
        (lambda: fk.attach(tools_model(), "regularizer"), ValueError),
        (lambda: fk.attach(tools_model(), "l2", select="c/kernel"), ValueError),
        (lambda: fk.attach(tools_model()), TypeError),
        (lambda: fk.attach(tools_model(), 0.1), ValueError),
        (lambda: fk.attach(tools_model(), {"*a/kernel": 0.1}), ValueError),
        (lambda: fk.attach(tools_model(), {"*a/kernel": "l1l2"}), ValueError),
        (lambda: fk.attach(tools_model(), {"*a/kernel": "l2", "c/kernel": "l2"}), ValueError),
        (lambda: fk.attach(tools_model(), {"*a/bias": "l2"}), ValueError),
        (lambda: fk.attach(tools_model(), {}), ValueError),
        (lambda: fk.attach(tools_model(), {"*a/kernel": None}), ValueError),
        (lambda: fk.attach(tools_model(), l2={}), ValueError),
        (lambda: fk.attach(tools_model(), l2={"c/kernel": 0.1}), ValueError),
        (lambda: fk.attach(tools_model(), l2=-0.1), ValueError),
        (lambda: fk.attach(tools_model(), l1="l1"), TypeError),
        (lambda: fk.attach(tools_model(), "l2", l2=0.1), ValueError),
        (lambda: fk.attach(tools_model(), "l2", weights=2.0), ValueError),
        (lambda: fk.attach(tools_model(), weights=2.0), TypeError),
        (lambda: fk.attach(tools_model(), "l2", select="*moving_mean"), ValueError),
        (lambda: fk.attach(tools_model(), "l2", select=lambda path, v: False), ValueError),
        (lambda: fk.detach(tools_model(), select="re:nothing"), ValueError),
    ):
        raises(kind, "", call)


def check_attach_is_saved():
    keras.utils.set_random_seed(0)
    tokens = layers.Input((6,))
    x = layers.Embedding(9, 4)(tokens)
    x = layers.LSTM(3, return_sequences=True)(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.SeparableConv1D(3, 2)(x)
    model = keras.Model(tokens, layers.GRU(3)(x))
    taken = fk.attach(model, fk.L2(0.3)).taken
    assert len(taken) == len(model.losses) == 11, taken
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "m.keras"))
        model.save(path)
        again = keras.models.load_model(path)
    assert len(again.losses) == 11
    close(fk.report(again).total, fk.report(model).total)
    fk.detach(model)
    assert model.losses == []
    assert keras.models.clone_model(model).losses == []


def check_attach_says_what_is_forgotten():
    class Bare(layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(5, 3), name="matrix", initializer="ones")
            self.built = True

        def call(self, x):
            return x

    model = keras.Sequential([layers.Input((5,)), Bare()])
    (row,) = fk.attach(model, "l2").taken
    assert row.reason.endswith("forgotten when the model is saved")
    close(fk.report(model).total, 0.15)

    # Attention layers save one regularizer for all their kernels.
    x = layers.Input((4, 6))
    attention = layers.MultiHeadAttention(2, 3)
    model = keras.Model(x, attention(x, x))
    assert not any("forgotten" in row.reason for row in fk.attach(model, "l2"))
    assert len(keras.models.clone_model(model).losses) == 4
    (row,) = fk.attach(model, "l1", select="*query/kernel", replace=True).taken
    assert row.reason.endswith("forgotten when the model is saved")
    assert len(model.losses) == 4
    assert keras.models.clone_model(model).losses == []


def check_report_counts_what_keras_counts():
    model = network(lambda name: fk.L2(0.1) if name == "l2" else None, activity=False)
    model.layers[-1].trainable = False
    counted = sum(number(v) for v in model.losses)
    close(fk.report(model).total, counted)
    assert (counted > 0) == LEGACY  # tf_keras penalises frozen weights, Keras 3 does not


# -- Callbacks -------------------------------------------------------------------------------------


class At(keras.callbacks.Callback):
    """Call something of the model whenever Keras calls a method."""

    def __init__(self, moment, action):
        super().__init__()
        setattr(self, moment, lambda *arguments, **_: action(self.model, *arguments))


def small_model(regularizer=None, **arguments):
    keras.utils.set_random_seed(7)
    model = keras.Sequential([
        layers.Input((5,)), layers.Dense(4, kernel_regularizer=regularizer, name="a"),
        layers.Dense(3, kernel_regularizer=regularizer, name="b"),
    ])  # fmt: skip
    model.compile("sgd", "mse", **arguments)
    return model


def fit(model, *callbacks, epochs=3, **arguments):
    arguments = {"batch_size": 32, "verbose": 0, "shuffle": False, **arguments}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **arguments).history


def set_factor(model, factor):
    for layer in model.layers:
        layer.kernel_regularizer.l2 = factor


def attach_anew(model, factor):
    fk.attach(model, l2=factor, replace=True)


def attach_a_layer_anew(model, factor):
    """A part knows nothing of the model that it was compiled in."""
    for layer in model.layers:
        fk.attach(layer, fk.L2(factor), replace=True)


def check_changes_between_epochs():
    """A change in a callback counts from the next step on, as one between calls of fit does."""
    needs_fit()
    cases = [({}, change) for change in (set_factor, attach_anew, attach_a_layer_anew)]
    if HOST != "torch":
        cases += [({"jit_compile": True}, set_factor), ({"steps_per_execution": 2}, set_factor)]
    before, after = small_model(fk.L2(0.0)), small_model(fk.L2(0.3))
    truth = fit(before, epochs=1)["loss"]
    after.set_weights(before.get_weights())
    truth += fit(after, epochs=1)["loss"]
    assert truth[1] > truth[0]
    for options, change in cases:
        model = small_model(fk.L2(0.0), **options)
        kept = model.make_train_function(), model.train_function  # what JAX traced stays alive

        def turn(model, epoch, *_, change=change):
            change(model, 0.3 * epoch)

        close(fit(model, At("on_epoch_begin", turn), epochs=2)["loss"], truth)
        del kept


def check_changes_at_every_moment():
    needs_fit()
    for change in (set_factor, attach_anew):
        model = small_model(fk.L2(0.0))
        plain = model.evaluate(X, Y, verbose=0)
        for moment in ("on_test_begin", "on_test_batch_begin"):
            change(model, 0.0)
            callback = At(moment, lambda model, *_, f=change: f(model, 0.5))
            loss = model.evaluate(X, Y, verbose=0, callbacks=[callback])
            close(loss - plain, number(fk.penalty(model, l2=0.5)), 1e-5)
        truth = fit(small_model(fk.L2(0.0)), epochs=1)["loss"]
        model = small_model(fk.L2(0.0))
        end = At("on_epoch_end", lambda model, *_, f=change: f(model, 0.5))
        losses = fit(model, end, epochs=2, validation_data=(X, Y))["loss"]
        close(losses[0], truth[0])
        assert losses[1] > losses[0]
        # One batch is one epoch: the change before it counts in it, that after it does not.
        for moment, counts in (("on_train_batch_begin", True), ("on_train_batch_end", False)):
            model = small_model(fk.L2(0.0))
            before = number(fk.penalty(model, l2=0.5))
            callback = At(moment, lambda model, *_, f=change: f(model, 0.5))
            (loss,) = fit(model, callback, epochs=1, batch_size=64)["loss"]
            close(loss, plain + before * counts, 1e-5)
            assert len(model.losses) == 2


def check_detach_in_a_callback():
    needs_fit()
    model = small_model(fk.L2(0.5))
    penalty = number(fk.penalty(model, l2=0.5))
    plain = model.evaluate(X, Y, verbose=0) - penalty
    callback = At("on_epoch_begin", lambda model, *_: fk.detach(model))
    close(fit(model, callback, epochs=1, batch_size=64)["loss"], [plain], 1e-5)
    assert model.losses == []


def check_factors_of_every_kind():
    """Factors, modes and types of penalties change in steps that were compiled before."""
    needs_fit()
    x = np.arange(15, dtype="float32").reshape(5, 3) - 7
    for r, changes in (
        (fk.L1(0.0), {"l1": 0.5}), (fr.L2(0.0), {"l2": 0.5}), (fk.L1L2(), {"l1": 0.5, "l2": 0.25}),
        (fk.OrthogonalRegularizer(0.1), {"factor": 0.5, "mode": "columns"}),
    ):  # fmt: skip
        model = keras.Sequential([
            layers.Input((5,)), layers.Dense(3, kernel_initializer=keras.initializers.Constant(x),
                                             kernel_regularizer=r),
        ])  # fmt: skip
        model.compile("sgd", "mse")
        before = model.evaluate(X, Y, verbose=0) - float(r(x))
        for name, value in changes.items():
            setattr(r, name, value)
            close(model.evaluate(X, Y, verbose=0) - before, float(r(x)), 1e-4)


def check_factors_of_activities_and_added_losses():
    needs_fit()
    r = fk.L2(0.0)

    class Penalised(layers.Layer):
        def call(self, x):
            self.add_loss(r(x))
            return x

    for layer in (Penalised(), layers.Activation("linear", activity_regularizer=r)):
        r.l2 = 0.0
        model = keras.Sequential([layers.Input((5,)), layers.Dense(3), layer])
        model.compile("sgd", "mse")
        before = model.evaluate(X, Y, verbose=0, batch_size=64)
        r.l2 = 0.5
        penalty = float(r(np.asarray(model.predict(X, verbose=0))))
        share = penalty if isinstance(layer, Penalised) else penalty / 64
        close(model.evaluate(X, Y, verbose=0, batch_size=64) - before, share, 1e-4)


def check_factors_that_a_model_is_built_with():
    """A symbolic tensor's operations hold the factor: another one is refused."""
    if LEGACY:
        raise Skip("as in Keras 3")
    r = fk.L2(0.25)
    x = layers.Input((4,))
    model = keras.Model(x, r(x))
    r.l2 = 0.25
    raises(ValueError, "build the model anew", lambda: setattr(r, "l2", 0.5))
    assert r.l2 == 0.25
    assert number(model(host_array(np.ones((2, 4), "float32")))) == 2.0


def check_tools_in_the_middle_of_an_epoch():
    """On JAX the variables of a model in training are empty, until they are put back."""
    needs_fit()
    seen = []

    def look(model, *_):
        value = number(fk.penalty(model, l2=0.5))
        seen.append(fk.report(model).total)
        close(value, seen[-1], 2e-7)
        close(fk.stats(model, select="kernels").total["sum_squares"], seen[-1] * 2, 2e-7)
        close(number(fk.global_norm(model)) ** 2, fk.stats(model).total["sum_squares"], 1e-6)
        fk.decay_(model, 0.5)

    truth = fit(small_model(fk.L2(0.5)), epochs=1, batch_size=16)["loss"]
    model = small_model(fk.L2(0.5))
    decayed = fit(model, At("on_train_batch_end", look), epochs=1, batch_size=16)["loss"]
    assert len(seen) == 4
    assert decayed[0] < truth[0]
    close(fk.report(model).total, seen[-1] / 4, 2e-7)


# -- Reports ---------------------------------------------------------------------------------------


def check_report_texts():
    model = tools_model()
    fk.attach(model, {"a/kernel": keras.regularizers.L1(0.1), "b/kernel": fk.L2(0.5)})
    found = fk.report(model)
    assert repr(found) == str(found)
    text = str(found)
    assert "L1(l1=0.1)" in text
    assert "L2(l2=0.5)" in text
    assert "object at" not in text
    assert text.splitlines()[-1].split()[0] == "total"
    fk.attach(model, lambda x: host_array(np.float32(1)), select="a/kernel", replace=True)
    assert "<lambda>" in str(fk.report(model))
    document = found.to_dict()
    assert document["total"] == found.total == sum(v["value"] or 0 for v in document["variables"])
    assert document["variables"][0]["shape"] == [5, 4]
    assert document["variables"][0]["regularizer"] == "L1(l1=0.1)"
    assert document["variables"][1]["regularizer"] is document["variables"][1]["value"] is None
    assert json.loads(found.to_json()) == document


def check_logger():
    needs_fit()
    import contextlib
    import io

    model = network(ours)
    model.compile("sgd", "mse")
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        h = fit(model, fk.PenaltyLogger(), epochs=2, verbose=2)
    assert [k for k in h if "penalty" in k] == ["penalty"]
    assert screen.getvalue().count("penalty") == 2, screen.getvalue()
    close(h["penalty"][-1], fk.report(model).total)
    h = fit(model, fk.PenaltyLogger(2, per_variable=True), epochs=3)
    names = [k for k in h if k.startswith("penalty/")]
    assert len(names) == 3, names
    assert len(h["penalty"]) == 1
    close(h["penalty"][-1], sum(h[k][-1] for k in names))
    for every in (0, -1, 1.5):
        raises(ValueError, "a whole number of epochs >= 1", lambda: fk.PenaltyLogger(every))  # noqa: B023
    raises(TypeError, "a number as every", lambda: fk.PenaltyLogger("2"))
    h = fit(model, fk.PenaltyLogger(per_variable=True), epochs=1)
    close(h[names[0]][-1], float(fastreg.value(model.get_weights()[0], l1=0.01, l2=0.02)), 1e-6)
