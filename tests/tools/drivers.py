# SPDX-License-Identifier: BSD-3-Clause
"""Small programs for tests: C drivers built against csrc/, and Python in a fresh process."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
    built = run([compiler or tool("cc"), "-o", output, *arguments], timeout=1800)
    words = built.stdout + built.stderr
    assert built.returncode == 0, words
    assert words == ""
    return Path(output)


# Where objects are kept; tests/conftest.py names one folder for all processes of a run.
folder = Path(tempfile.gettempdir(), f"fastreg-objects-{os.getpid()}")


def library(compiler: str, *flags: str) -> list[Path]:
    """Objects of csrc/, compiled once a run for each compiler and flags."""
    made = folder / "-".join([Path(compiler).name, *flags]).replace("/", "_")
    folder.mkdir(exist_ok=True)
    with open(f"{made}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at it
        if not made.exists():
            with tempfile.TemporaryDirectory(dir=folder) as new:
                done = run([compiler, *flags, "-c", *SOURCES], timeout=1800, cwd=new)
                assert (done.returncode, done.stdout + done.stderr) == (0, ""), done.stderr
                shutil.copytree(new, made)
    return sorted(made.glob("*.o"))


def c_driver(folder, name: str, *flags: str, compiler: str | None = None) -> Path:
    """Build tests/c/NAME.c with the library; -O2 if no flags are given."""
    compiler, flags = compiler or tool("cc"), flags or ("-O2",)
    return compile_c(
        Path(folder, name),
        *flags,
        f"-I{CSRC}",
        ROOT / "tests" / "c" / f"{name}.c",
        *library(compiler, *(f for f in flags if f != "-fsanitize=fuzzer")),
        "-lpthread",
        "-lm",
        compiler=compiler,
    )


def clang(least: int = 0) -> str:
    """clang of any version that has been tried, from `least` on, or skip."""
    names = ("clang-16", "clang", "clang-19", "clang-18", "clang-17", "clang-15", "clang-14")
    found = [program for program in map(shutil.which, names) if program]
    for program in found:
        version = re.search(r"clang version (\d+)", run([program, "--version"]).stdout)
        if version and int(version[1]) >= least:
            return program
    pytest.skip(f"this machine has no clang{f' of version {least} or later' * bool(least)}")


def python(code: str, *arguments, timeout: float = 120.0, unset=(), **environment: str) -> str:
    """Run code in a fresh interpreter with extra environment variables; return what it printed.

    It finds the modules that the test finds. A process that ends badly fails the test
    with its words; exit status 77 skips it with them.
    """
    variables = {k: v for k, v in os.environ.items() if k not in unset}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
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
