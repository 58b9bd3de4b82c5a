# SPDX-License-Identifier: BSD-3-Clause
"""What the README shows runs, and its commands exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
FRAMEWORKS = ("keras", "torch", "tensorflow")


def needs(block: str) -> list[str]:
    return [name for name in FRAMEWORKS if re.search(rf"^import {name}\b", block, re.M)]


def test_there_are_blocks():
    assert len(BLOCKS) >= 4


def test_plain_blocks_run_one_after_another():
    code = "\n".join(block for block in BLOCKS if not needs(block))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("block", [b for b in BLOCKS if needs(b)], ids=lambda b: needs(b)[0])
def test_framework_block_runs(block):
    for name in needs(block):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    subprocess.run([sys.executable, "-c", block], check=True, cwd=ROOT)


def test_make_has_the_targets_it_names():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z]+)\b", README)) <= targets


def test_it_never_says_to_install_the_other_fastreg():
    assert not re.search(r"pip install fastreg(?!-)", README)
