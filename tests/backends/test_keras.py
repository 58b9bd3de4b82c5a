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
