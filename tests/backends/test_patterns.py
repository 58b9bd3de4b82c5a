# SPDX-License-Identifier: BSD-3-Clause
"""The usage patterns of tutorials, trained on digits with Keras' penalty and with fastreg's."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "patterns"
NEEDS = {
    "legacy_layers": ("tensorflow", "sklearn", "tf_keras"),
    "legacy_keras": ("tensorflow", "sklearn", "tf_keras"),
    "torch_training": ("torch", "sklearn"),
    "jax_training": ("jax", "sklearn"),
}
BACKENDS = dict.fromkeys(("any_backend", "mixed_precision"), ("tensorflow", "torch", "jax"))
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "digits")
APART = "name"


@pytest.mark.parametrize(
    ("name", "backend"), [(n, b) for n in NAMES for b in BACKENDS.get(n, ("tensorflow",))]
)
def test_pattern(name, backend):
    for package in NEEDS.get(name, (backend, "sklearn", "keras")):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    environment["KERAS_BACKEND"] = backend
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        capture_output=True, text=True, timeout=600, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
