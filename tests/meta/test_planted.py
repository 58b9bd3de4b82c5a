# SPDX-License-Identifier: BSD-3-Clause
"""A test of the tests: each bug of tests/meta/planted is caught by what its patch names."""

from __future__ import annotations

import sys

import drivers
import pytest
from planted import run as planted

patches = pytest.mark.parametrize("patch", planted.PATCHES, ids=lambda p: p.stem)

if not planted.PATCHES:
    pytest.skip("the patches are not here", allow_module_level=True)


def test_there_are_enough():
    assert len(planted.PATCHES) >= 40


@patches
def test_every_patch_applies(patch):
    """A patch that no longer fits tests nothing: plant its bug in the sources as they are now."""
    drivers.tool("patch")
    planted.applies(patch, drivers.ROOT, dry=True)
    kind, *rest = planted.named(patch)
    assert kind in ("pytest", "tsan", *planted.ARGUMENTS)
    assert kind != "pytest" or all((drivers.ROOT / r.split("::")[0]).exists() for r in rest)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return tmp_path_factory.mktemp("objects")


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the drivers are for Linux")
@patches
def test_every_bug_is_caught(patch, objects):
    """The named test fails on a copy that has the bug."""
    for needed in ("gcc", "patch"):
        drivers.tool(needed)
    if planted.named(patch)[0] == "tsan":
        drivers.clang()
    found = planted.plant(patch, objects)
    assert found.caught, found.words
