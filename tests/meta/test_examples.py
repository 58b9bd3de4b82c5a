# SPDX-License-Identifier: BSD-3-Clause
"""The examples of docs/examples: other programs, built from the package as it is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import drivers
import pytest

import fastreg
from fastreg import _kernels

EXAMPLES = drivers.ROOT / "docs" / "examples"

# What each needs beside cc: programs, modules of Python, files.
NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "adamw": (("pkg-config",), (), ()),
    "c": (("pkg-config",), (), ()),
    "cffi": ((), ("cffi",), ()),
    "cmake": (("cmake", "ctest"), (), ()),
    "cpp": (("c++", "pkg-config"), (), ()),
    "cython": ((), ("Cython",), ()),
    "go": (("go",), (), ()),
    "meson": (("meson", "ninja", "pkg-config"), (), ()),
    "mpi": (("mpicc", "mpirun"), (), ()),
    "node": (("node",), (), ("/usr/include/node/node_api.h",)),
    "numba": ((), ("numba",), ()),
    "rust": (("rustc",), (), ()),
    "sqlite": (("sqlite3",), (), ("/usr/include/sqlite3ext.h",)),
    "torch": (("c++", "ninja"), ("torch",), ()),
    "wasm": ((), ("ziglang", "wasmtime"), ()),
    "xla": (("c++",), ("jax",), ()),
}
# Those of a few seconds; the others with --full.
QUICK = ("c", "cpp", "cmake", "cffi", "cython", "rust")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """A folder with the package as a wheel lays it, and no checkout around it."""
    folder = tmp_path_factory.mktemp("site")
    here = Path(fastreg.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "_binding", "_kernels.c", "*.pyx", "_xla.*")
    shutil.copytree(here, folder / "fastreg", ignore=ignored)
    if not (folder / "fastreg" / Path(_kernels.__file__).name).exists():
        shutil.copy(_kernels.__file__, folder / "fastreg")
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.full) for n in NEEDS]
)
def test_example(name, site, tmp_path):
    programs, modules, files = NEEDS[name]
    for program in ("sh", "cc", *programs):
        drivers.tool(program)
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"this environment has no {module}")
    for file in files:
        if not Path(file).exists():
            pytest.skip(f"this machine has no {file}")
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(site),
        "OUT": str(tmp_path),
    }
    done = drivers.run(["sh", EXAMPLES / name / "run.sh"], timeout=900, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_example_is_run():
    assert {p.name for p in EXAMPLES.iterdir() if p.is_dir()} == set(NEEDS)
