# SPDX-License-Identifier: BSD-3-Clause
"""Keras on each backend, and tf_keras: the checks of keras_checks.py, each host in its own
process."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools/keras_checks.py"
CHECKS = re.findall(r"^def (check_\w+)\(", SCRIPT.read_text(), re.MULTILINE)
HOSTS = {
    "tensorflow": ("keras", "tensorflow"),
    "torch": ("keras", "torch"),
    "jax": ("keras", "jax"),
    "numpy": ("keras", "jax", "scipy"),
    "tf_keras": ("tf_keras", "tensorflow"),
}


@functools.cache
def results(host):
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    environment["KERAS_BACKEND"] = "tensorflow" if host == "tf_keras" else host
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *(["tf_keras"] if host == "tf_keras" else [])],
        capture_output=True, text=True, timeout=1200, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("host", HOSTS)
def test_host(host, check):
    for package in HOSTS[host]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    result = results(host)[check]
    if result.startswith("skipped: "):
        pytest.skip(result.removeprefix("skipped: "))
    assert result == "passed", result


def test_importing_fastreg_imports_no_framework():
    names = ("tensorflow", "torch", "jax", "keras", "tf_keras")
    code = (
        "import sys, fastreg, fastreg.regularizers\n"
        f"print([m for m in {names} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_examples():
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    code = (
        "import doctest, fastreg.keras as a, fastreg.keras._classes as b\n"
        "raise SystemExit(doctest.testmod(a).failed + doctest.testmod(b).failed)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
