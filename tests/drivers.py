# SPDX-License-Identifier: BSD-3-Clause
"""Small programs for tests: C drivers built against csrc/, and Python in a fresh process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
SOURCES = sorted(map(str, [*CSRC.glob("*.c"), *CSRC.glob("isa/*.c")]))


def tool(*names: str) -> str:
    """Path of the first of these programs that exists; skip the test if none does."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"this machine has no {' or '.join(names)}")


def run(command, timeout: float = 300.0, **options) -> subprocess.CompletedProcess:
    """Run a program to its end, its output as text."""
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def compile_c(output, *arguments, compiler: str | None = None) -> Path:
    """Compile and link C; fail with the compiler's words, which must be none."""
    built = run([compiler or tool("cc"), "-o", output, *arguments])
    words = built.stdout + built.stderr
    assert built.returncode == 0, words
    assert words == ""
    return Path(output)


def python(code: str, *arguments, timeout: float = 120.0, unset=(), **environment: str) -> str:
    """Run code in a fresh interpreter with extra environment variables; return what it printed.

    A process that ends badly fails the test with its words; exit status 77 skips it with them.
    """
    variables = {k: v for k, v in os.environ.items() if k not in unset}
    done = run(
        [sys.executable, "-c", code, *arguments],
        timeout=timeout,
        env=variables | environment,
        cwd=ROOT / "tests",
    )
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
