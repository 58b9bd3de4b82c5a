# SPDX-License-Identifier: BSD-3-Clause
"""The bench command: finds the benchmark suite of a source checkout and runs it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fastreg.errors import EnvironmentSettingError, message

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Run the suite in a process of its own.

    Parameters
    ----------
    arguments : sequence of str
        What stands behind ``bench`` on the command line.

    Returns
    -------
    int
        The suite's exit status.

    Raises
    ------
    EnvironmentSettingError
        Without a source checkout or pytest-benchmark.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks" / "__main__.py").is_file():
        raise EnvironmentSettingError(
            message(
                "benchmarks/ beside the package",
                "an installation without it",
                "run bench from a source checkout, installed with pip install -e .",
            )
        )
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise EnvironmentSettingError(
            message(
                "pytest-benchmark",
                "an environment without it",
                "pip install pytest-benchmark, or pip install -e '.[bench]' with all rivals",
            )
        )
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has told the child as well; it ends by itself.
            continue
