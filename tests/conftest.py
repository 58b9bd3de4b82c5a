# SPDX-License-Identifier: BSD-3-Clause
"""Options and fixtures that every test may use."""

from __future__ import annotations

import os

import drivers
import pytest

# Teams whose threads wait busily hold up a machine that does something else as well, such as
# another process of the same tests: 45 ms for a call of 50 microseconds. GCC's OpenMP reads this
# when the package is first imported, here and in every process that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the tests that need minutes too")
    parser.addoption("--soak", action="store_true", help="run the long forms of all tests")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config, items):
    soak = config.getoption("--soak")
    off = {}
    if not soak:
        off["soak"] = pytest.mark.skip(reason="long run: give --soak")
        if not config.getoption("--full"):
            off["full"] = pytest.mark.skip(reason="takes minutes: give --full or --soak")
    for item in items:
        for name, skip in off.items():
            if item.get_closest_marker(name):  # keywords hold the names of folders too
                item.add_marker(skip)
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(group_of(item)))


def group_of(item) -> str:
    """Tests of one group run in one process, one after another: those of a file, which share what
    they build; where a file names a parameter as its `APART`, those with the same value of it.
    """
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    value = parameters.get(getattr(item.module, "APART", None))
    return item.path.name if value is None else f"{item.path.name} {value}"


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
    """`isa` runs a test once for every level that this machine can run.

    It varies fastest, so that the levels share the cached cases.
    """
    if "isa" in metafunc.fixturenames:
        import hooks  # which imports the package

        metafunc.parametrize("isa", hooks.levels())


@pytest.fixture(scope="session", autouse=True)
def _one_folder_of_objects(tmp_path_factory):
    """Processes of pytest-xdist have temporary folders side by side."""
    own = tmp_path_factory.getbasetemp()
    drivers.folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "objects"


@pytest.fixture(scope="session")
def full(request):
    """Whether `--full` or `--soak` was given."""
    return request.config.getoption("--full") or request.config.getoption("--soak")


@pytest.fixture(scope="session")
def soak(request):
    """Whether `--soak` was given."""
    return request.config.getoption("--soak")
