# SPDX-License-Identifier: BSD-3-Clause
"""What a type checker says of a user's program: right ones pass, slips do not."""

from __future__ import annotations

import sys

import drivers
import pytest

USER = """
import numpy as np
import fastreg

params = {"kernel": np.ones((2, 2)), "bias": np.zeros(2)}
value: np.float64 = fastreg.penalty(params, l1={"*": 0.1}, l2=1e-4, select="kernels")
norm: np.float64 = fastreg.global_norm(params, dtype="float64")
before: np.float64 = fastreg.clip_by_global_norm_([np.ones(2)], 1.0, nonfinite="keep")
small = fastreg.penalty(params, l2=1.0, select=["*.k", "re:b"], convention="half", dtype=np.float32)
small_too: np.float32 = small
by_rule = fastreg.penalty(params, l2=1.0, select=lambda name, x: name == "kernel")
plan: fastreg.Plan = fastreg.plan(params, l2=1.0, select="all")
again: np.float64 = plan.value()
flat = plan.flat()
loss, gradient = flat(flat.x0)
total: float = loss + float(gradient.sum()) + sum(v.size for v in flat.views(flat.x0).values())
with fastreg.num_threads(2):
    rows = fastreg.stats(params)
fastreg.group_lasso_value(params, weight=1.0, groups=0, scaling="none")
loaded = fastreg.load("model.npz")["kernel"]
shown = fastreg.bf16_view(np.zeros(2, np.uint16)).shape
l2 = fastreg.regularizers.L2(0.01)
config = fastreg.show_config("dict")["version"]
"""
SLIPS = (
    'fastreg.penalty(params, l2=1.0, convention="torch")',
    'fastreg.plan(params, l2=1.0, convention="Half")',
    'fastreg.clip_by_global_norm_([np.ones(2)], 1.0, nonfinite="skip")',
    'fastreg.penalty(params, l2="0.1")',
    "wrong_0: str = fastreg.penalty(params, l2=1.0)",
    "wrong_1: str = fastreg.plan(params, l2=1.0).value()",
    "wrong_2: str = fastreg.plan(params, l2=1.0).flat()(np.ones(4))[0]",
    "fastreg.set_num_threads(1.5)",
    "fastreg.set_num_threads('2')",
    'fastreg.group_lasso_value(params, weight=1.0, groups=0, scaling="mean")',
    'fastreg.show_config("json")',
    "fastreg.load(3)",
    "fastreg.no_such_name",
)


def test_a_users_program_is_checked(tmp_path):
    """One run for all: each slip is an error of its line, and nothing else is one."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    first = len(USER.splitlines()) + 1
    program = tmp_path / "yours.py"
    program.write_text(USER + "".join(f"{slip}\n" for slip in SLIPS))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty"]
    command += ["--config-file", drivers.ROOT / "pyproject.toml", "--cache-dir", tmp_path, program]
    said = drivers.run(command, env={"PATH": "", "MYPYPATH": str(drivers.ROOT)})
    wrong = {
        int(line.split(":")[1])
        for line in said.stdout.splitlines()
        if line.startswith(f"{program}:") and ": error: " in line
    }
    assert wrong == set(range(first, first + len(SLIPS))), said.stdout
