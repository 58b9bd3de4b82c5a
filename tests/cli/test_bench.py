# SPDX-License-Identifier: BSD-3-Clause
"""The bench command: whom it starts, and what it says where it cannot."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from fastreg.cli import bench
from fastreg.cli.main import main
from fastreg.errors import EnvironmentSettingError


class Process:
    """The suite, which ends by itself after a Ctrl-C that the terminal has told it of."""

    def __init__(self, command, env):
        self.command, self.env, self.interrupts = command, env, 1

    def wait(self) -> int:
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        return 7


@pytest.fixture
def started(monkeypatch):
    """The processes that were started, none of which exists."""
    found = []

    def start(command, env):
        found.append(Process(command, env))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return found


def test_it_waits_for_the_suite_and_passes_on_its_status(started, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert main(["bench", "--quick"]) == 7
    (process,) = started
    assert process.command == [sys.executable, "-m", "benchmarks", "--quick"]


def test_it_says_what_is_missing(started, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentSettingError, match="pip install pytest-benchmark"):
        bench.run([])
    monkeypatch.setattr(bench, "__file__", "/nowhere/fastreg/cli/bench.py")
    with pytest.raises(EnvironmentSettingError, match="from a source checkout"):
        bench.run([])
    assert started == []
