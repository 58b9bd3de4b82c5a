# SPDX-License-Identifier: BSD-3-Clause
"""fastreg.jax over eight devices: five shardings, automatic, explicit and by shard_map."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="jax is not installed")


@pytest.mark.parametrize("x64", ["0", "1"])
def test_shardings(x64):
    program = str(Path(__file__).with_name("jax_shards.py"))
    done = subprocess.run(
        [sys.executable, program, x64], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")
