# SPDX-License-Identifier: BSD-3-Clause
"""Keras on each backend, and tf_keras: the checks of keras_checks.py, each backend in
a process of its own."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
SCRIPT = TOOLS / "keras_checks.py"
CHECKS = [
    name
    for path in (SCRIPT, TOOLS / "keras_training.py")
    for name in re.findall(r"^def (check_\w+)\(", path.read_text(), re.MULTILINE)
]
BACKENDS = {
    "tensorflow": ("keras", "tensorflow"),
    "torch": ("keras", "torch"),
    "jax": ("keras", "jax"),
    "numpy": ("keras", "jax", "scipy"),
    "tf_keras": ("tf_keras", "tensorflow"),
}


APART = "backend"  # a process each, which takes a minute or two


@functools.cache
def results(backend):
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    environment["KERAS_BACKEND"] = "tensorflow" if backend == "tf_keras" else backend
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *(["tf_keras"] if backend == "tf_keras" else [])],
        capture_output=True, text=True, timeout=1200, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_keras_on(backend, check):
    for package in BACKENDS[backend]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    result = results(backend)[check]
    if result.startswith("skipped: "):
        pytest.skip(result.removeprefix("skipped: "))
    assert result == "passed", result


def test_examples():
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    code = (
        "import doctest, fastreg.keras as a, fastreg.keras._classes as b\n"
        "raise SystemExit(doctest.testmod(a).failed + doctest.testmod(b).failed)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


# The Keras of fastreg.keras is one of two; the model may be of the other.
OTHER = """
import warnings

warnings.filterwarnings("ignore")
import {first}
import fastreg.keras as fk
import numpy as np
import {other} as keras

assert fk.PenaltyLogger.__mro__[1].__module__.partition(".")[0] == "{first}"
model = keras.Sequential([
    keras.layers.Input((3,)),
    keras.layers.Dense(2, kernel_regularizer=fk.L2(0.5)),
])
model.compile("sgd", "mse")
x, y = np.ones((8, 3), "float32"), np.ones((8, 2), "float32")
logged = model.fit(x, y, epochs=2, verbose=0, callbacks=[fk.PenaltyLogger(2)]).history["penalty"]
model.evaluate(x, y, verbose=0, callbacks=[fk.PenaltyLogger()])
model.predict(x, verbose=0, callbacks=[fk.PenaltyLogger()])
assert logged == [fk.report(model).total] and logged[0] > 0.0, logged
"""


@pytest.mark.parametrize(("first", "other"), [("keras", "tf_keras"), ("tf_keras", "keras")])
def test_the_logger_of_one_keras_logs_the_other(first, other):
    for package in ("keras", "tf_keras", "tensorflow"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    if first == "tf_keras":  # without it TensorFlow imports keras, which is taken
        environment["TF_USE_LEGACY_KERAS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", OTHER.format(first=first, other=other)],
        capture_output=True, text=True, timeout=300,
        env=environment | {"KERAS_BACKEND": "tensorflow"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
