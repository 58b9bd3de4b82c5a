# SPDX-License-Identifier: BSD-3-Clause
"""The contests inside the frameworks: both sides compute the same; the table goes to its place."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.inside import __main__ as command
from benchmarks.inside.laps import Contest, Row, run

ROW = Row("what", "f32 n = 64", 1e-3, "rival", 2e-3, 2.0, 1.5, None)


def test_both_sides_of_torch_compute_the_same():
    torch = pytest.importorskip("torch")
    from benchmarks.inside import in_torch

    compared = 0
    for contest in (*in_torch._one(64), *in_torch._many(3), *in_torch._module()):
        ours = contest.ours()
        for name, theirs in contest.theirs.items():
            found = theirs()
            if isinstance(ours, torch.Tensor) and isinstance(found, torch.Tensor):
                compared += 1
                assert torch.allclose(ours.double(), found.double(), rtol=1e-5), (contest, name)
    assert compared >= 7


def test_a_contest_counts_steps_and_takes_the_fastest_rival():
    calls = []
    slow, fast = (lambda: [calls.append(0) for _ in range(20000)]), lambda: None
    row = run(Contest("w", "d", fast, {"slow": slow, "fast": fast}, base=fast, steps=4), True)
    assert row.rival == "fast"
    assert row.base is not None
    assert row.ours < 1e-4


def test_the_table_goes_between_its_markers(tmp_path):
    path = tmp_path / "x.md"
    path.write_text(f"a\n{command.BEGIN}\nold\n{command.END}\nb\n")
    command._put(path, command.table([ROW, dataclasses.replace(ROW, base=1e-6)]))
    text = path.read_text()
    assert text.startswith(f"a\n{command.BEGIN}\n| what ")
    assert text.endswith(f"{command.END}\nb\n")
    assert "old" not in text
    assert "2.00× (1.50)" in text


@pytest.mark.parametrize(
    ("what", "data", "short"),
    [
        ("torch eager, value, l2", "f32 n = 64", False),
        ("torch eager, forward and backward, l2", "f32 n = 64", True),
        ("torch eager, forward and backward, l2", "f32 n = 65536", False),
        ("torch eager, norm of a list", "2000 tensors of 64 x 64", True),
    ],
)
def test_the_readme_has_gradients_and_models(what, data, short):
    assert command._is_short(dataclasses.replace(ROW, what=what, data=data)) is short
