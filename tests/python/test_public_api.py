# SPDX-License-Identifier: BSD-3-Clause
"""The public names of every module are those of public_api.txt, and nothing else is public.

A change of the interface changes that file: run this file with Python to write it anew.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import drivers
import pytest

import fastreg

FILE = Path(__file__).with_name("public_api.txt")
MODULES = ("", "errors", "functional", "group_lasso", "model", "regularizers", "runtime", "states")
BACKENDS = ("torch", "tensorflow", "jax", "keras", "dask", "mpi")
PACKAGES = {"mpi": "mpi4py"}  # where it is not the name itself


def names(module: str) -> list[str]:
    found = importlib.import_module(f"fastreg.{module}" if module else "fastreg")
    return [f"fastreg.{module}.{name}".replace("..", ".") for name in sorted(found.__all__)]


def listed(module: str) -> list[str]:
    prefix = f"fastreg.{module}." if module else "fastreg."
    lines = FILE.read_text().split()
    return [x for x in lines if x.startswith(prefix) and "." not in x.removeprefix(prefix)]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m or "fastreg")
def test_public_names(module):
    assert names(module) == listed(module)


@pytest.mark.parametrize("module", BACKENDS)
def test_public_names_of_a_backend(module):
    package = PACKAGES.get(module, module)
    pytest.importorskip(package, reason=f"{package} is not installed")
    assert names(module) == listed(module)


def test_dir_shows_the_public_names():
    assert dir(fastreg) == sorted(fastreg.__all__)
    for name in fastreg.__all__:
        package = PACKAGES.get(name, name)
        if name not in BACKENDS or importlib.util.find_spec(package) is not None:
            assert getattr(fastreg, name) is not None


def test_frameworks_are_loaded_when_they_are_named():
    """`fastreg.regularizers` and the backends are there at once, and without theirs an error is."""
    drivers.python("import fastreg; assert fastreg.regularizers.L2(0.01).l2 == 0.01")
    code = "import sys; sys.modules['torch'] = None\nimport fastreg\ntry:\n    fastreg.torch\n"
    code += "except ModuleNotFoundError as e:\n    print(e)"
    assert "expected the package torch" in drivers.python(code)


if __name__ == "__main__":
    lines = [name for module in (*MODULES, *BACKENDS) for name in names(module)]
    FILE.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow", "keras"])
def test_a_prompt_completes_to_public_names(name):
    pytest.importorskip(name, reason=f"{name} is not installed")
    module = importlib.import_module(f"fastreg.{name}")
    assert sorted(dir(module)) == sorted(module.__all__)


# What returns numbers or gradients of NumPy's; others say that their notes are those of value.
NUMBERS = (
    "penalty", "value", "gradient", "value_and_gradient", "global_norm", "plan",
    "group_lasso_value", "group_lasso_gradient",
)  # fmt: skip
AS_VALUE = ("sum_squares", "sum_abs", "l2_loss", "norm")


def test_numbers_say_that_no_gradient_flows_through_them():
    for name in NUMBERS:
        text = " ".join(getattr(fastreg, name).__doc__.split())
        assert "in no graph and on no tape" in text, name
    for name in AS_VALUE:
        text = " ".join(getattr(fastreg, name).__doc__.split())
        assert "notes are" in text, name
        assert "those of :func:`value`" in text, name
