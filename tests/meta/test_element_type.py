# SPDX-License-Identifier: BSD-3-Clause
"""The example of CONTRIBUTING.md, an element type that is added: built, and used everywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import drivers
import pytest
from planted import run as planted

PATCH = Path(__file__).parent / "element_type.patch"
# Files that it touches, and how many lines it adds to each.
TOUCHED = {
    "csrc/fastreg.h": 2,
    "csrc/registry.h": 2,
    "csrc/walk.c": 7,
    "fastreg/_core/dtypes.py": 2,
}

# The value of code k is k / 256, so each answer is that of the float64 array beside it.
USE = """
import numpy as np

import fastreg
from fastreg._core.arrays import HostArray
from fastreg._core.dtypes import by_name

codes = np.random.default_rng(0).integers(-(2**15), 2**15, (301, 7)).astype(np.int16)
real = codes / 256.0
for rows in (slice(None), slice(None, None, -3)):
    x, y = HostArray(codes[rows], by_name("fixed8_8")), real[rows]
    assert fastreg.value(x, l1=0.1, l2=0.3) == fastreg.value(y, l1=0.1, l2=0.3)
    assert fastreg.penalty({"w": x}, l2=0.3, select="all") == fastreg.penalty({"w": y}, l2=0.3)
    assert fastreg.global_norm([x, x]) == fastreg.global_norm([y, y])
    assert fastreg.state(x) == fastreg.state(y)
    rows = fastreg.stats({"w": x}).rows
    assert rows.tolist() == fastreg.stats({"w": y}).rows.tolist()
try:
    fastreg.gradient(x, l1=0.1)
except TypeError as e:
    print(e)
"""


def test_it_touches_what_the_example_says():
    drivers.tool("patch")
    planted.applies(PATCH, drivers.ROOT, dry=True)
    lines = PATCH.read_text().splitlines()
    files = [line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")]
    parts = PATCH.read_text().split("\n+++ b/")[1:]
    added = [sum(line.startswith("+") for line in part.splitlines()) for part in parts]
    assert dict(zip(files, added, strict=True)) == TOUCHED
    text = (drivers.ROOT / "CONTRIBUTING.md").read_text()
    assert f"{sum(TOUCHED.values())} lines in {len(TOUCHED)} files" in text


def test_it_is_built_and_used(tmp_path):
    pytest.importorskip("Cython")
    drivers.tool("patch")
    drivers.tool("gcc")
    tree = planted.copy_of_the_tree(tmp_path / "tree")
    planted.applies(PATCH, tree)
    cache = tmp_path / "objects"
    cache.mkdir()
    planted.Builder(cache, ("-O1", "-DFASTREG_BASELINE_ONLY")).extension(tree)
    done = drivers.run([sys.executable, "-c", USE], cwd=tree, env={"PYTHONPATH": str(tree)})
    assert done.returncode == 0, done.stderr
    assert "expected" in done.stdout
    assert "fixed8_8" in done.stdout
