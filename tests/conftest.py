# SPDX-License-Identifier: BSD-3-Clause
"""Options and fixtures that every test may use."""

from __future__ import annotations

import hooks
import pytest


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the tests that need minutes too")
    parser.addoption("--soak", action="store_true", help="run the long forms of all tests")


def pytest_collection_modifyitems(config, items):
    soak = config.getoption("--soak")
    off = {}
    if not soak:
        off["soak"] = pytest.mark.skip(reason="long run: give --soak")
        if not config.getoption("--full"):
            off["full"] = pytest.mark.skip(reason="takes minutes: give --full or --soak")
    for item in items:
        for name, skip in off.items():
            if name in item.keywords:
                item.add_marker(skip)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
    """`isa` runs a test once for every level that this machine can run.

    It varies fastest, so that the levels share the cached cases.
    """
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", hooks.levels())


@pytest.fixture(scope="session")
def soak(request):
    """Whether `--soak` was given."""
    return request.config.getoption("--soak")
