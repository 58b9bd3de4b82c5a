# SPDX-License-Identifier: BSD-3-Clause
"""C7: no byte outside an array is read or written, no byte of an input is written."""

from __future__ import annotations

import sys

import drivers
import hooks
import pytest

from fastreg import _kernels

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mmap as Linux has it")


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """The driver of tests/c/guard.c, built with nothing but -O2."""
    return drivers.c_driver(tmp_path_factory.mktemp("guard"), "guard")


def sweep(program, level: str, longest: int) -> int:
    """Number of cases that the driver found good."""
    done = drivers.run([program, level, longest])
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout)


def test_every_kernel_beside_an_unreadable_page(guard, isa):
    """Every kernel, call, element type and tier: both pages, lengths 0 to 2048, 64 byte offsets,
    strides of both signs, read-only inputs, marks around outputs, stores past the cache.
    """
    assert sweep(guard, isa, 2048) > 6_500_000


def test_an_unknown_level_is_not_swept(guard):
    """The driver refuses a level that it cannot run, so that none passes untested."""
    assert drivers.run([guard, "typo"]).returncode == 3


@pytest.mark.soak
@pytest.mark.parametrize(
    ("compiler", "flags"),
    [("gcc", "-O0"), ("gcc", "-O3 -fopenmp"), ("clang", "-O2"), ("clang", "-O3")],
)
def test_every_kernel_as_other_compilers_make_it(tmp_path, compiler, flags):
    """The same sweep for the code of other compilers, and with threads."""
    names = (compiler, f"{compiler}-19", f"{compiler}-16")
    program = drivers.c_driver(tmp_path, "guard", *flags.split(), compiler=drivers.tool(*names))
    assert hooks.levels() == _kernels.levels()
    for level in hooks.levels():
        assert sweep(program, level, 2048) > 6_500_000
