# SPDX-License-Identifier: BSD-3-Clause
"""One digest of results, and one of states, over levels, compilers, architectures, byte orders.

The digest is part of the contract: a change of it is a change of results.
"""

from __future__ import annotations

import platform
from pathlib import Path

import drivers
import pytest

from fastreg import _kernels

GOLDEN = "8cf62f56e9736b30 of 5291880 results\n27d4d35a510b0ca1 of 3360 states"

BUILDS = {
    "cc without flags": ["cc"],
    "gcc -O3 -std=gnu17 -ffp-contract=fast": [
        *("gcc", "-O3", "-std=gnu17", "-ffp-contract=fast", "-fopenmp")
    ],
    "clang -O2 -ffp-contract=fast": ["clang", "-O2", "-ffp-contract=fast"],
}
LONG_BUILDS = {
    "gcc -O1": ["gcc", "-O1"],
    "gcc -O2": ["gcc", "-O2", "-fopenmp"],
    "gcc -O3": ["gcc", "-O3", "-fopenmp"],
    "clang -O0": ["clang", "-O0"],
    "clang -O3": ["clang", "-O3"],
}
CROSS = {
    "aarch64": (["aarch64-linux-gnu-gcc", "-O2", "-static"], "qemu-aarch64"),
    "s390x, big-endian": (["s390x-linux-gnu-gcc", "-O2", "-static"], "qemu-s390x"),
}


def found(name: str) -> str:
    """The tool, or a versioned one of that name; else skip, naming it."""
    return drivers.tool(name, *(f"{name}-{v}" for v in range(22, 13, -1)))


def build(command: list[str], folder) -> Path:
    compiler, *flags = command
    compiler = found(compiler)
    source = drivers.ROOT / "tests/c/golden.c"
    objects = drivers.library(compiler, *flags)
    program = folder / "golden"
    return drivers.compile_c(
        program, *flags, source, *objects, "-lm", "-lpthread", compiler=compiler
    )


def digest(*command) -> str:
    done = drivers.run(command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "name", [*BUILDS, *(pytest.param(name, marks=pytest.mark.soak) for name in LONG_BUILDS)]
)
def test_digest_of_every_build_and_level(name, tmp_path):
    program = build((BUILDS | LONG_BUILDS)[name], tmp_path)
    levels = _kernels.levels()
    assert levels
    assert {level: digest(program, level) for level in levels} == dict.fromkeys(levels, GOLDEN)


@pytest.mark.parametrize("name", CROSS)
def test_digest_of_other_architectures(name, tmp_path):
    command, emulator = CROSS[name]
    if emulator.endswith(platform.machine()):
        pytest.skip(f"this machine is {platform.machine()}")
    assert digest(found(emulator), build(command, tmp_path)) == GOLDEN
