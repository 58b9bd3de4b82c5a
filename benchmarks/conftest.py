# SPDX-License-Identifier: BSD-3-Clause
"""Turn plans into benchmarks, in laps; record the machine; tell how far the run is."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import machine
from benchmarks.calls import Missing
from benchmarks.race import Race, Stable, contenders

_STABLE = pytest.StashKey[Stable]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastreg benchmarks")
    group.addoption("--quick", action="store_true", help="few sizes, few rivals, few laps")
    group.addoption("--laps", type=int, default=0, help="how often each contender's turn comes")
    group.addoption("--progress-fd", type=int, default=-1, help="where to write progress lines")


def pytest_configure(config: pytest.Config) -> None:
    # Other libraries' warnings are theirs; the project's own setting makes them errors.
    config.addinivalue_line("filterwarnings", "ignore")
    config.stash[_STABLE] = Stable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    entry = getattr(metafunc.function, "plan", None)
    if entry is None:
        return
    quick = metafunc.config.getoption("quick")
    laps = metafunc.config.getoption("laps") or (3 if quick else 5)
    if metafunc.config.getoption("benchmark_disable", False):
        laps = 1
    arguments, ids = [], []
    for case in entry.cases(quick):
        field = contenders(entry, case, quick)
        for lap in range(laps):
            for contender in field:
                arguments.append((case, contender, lap))
                ids.append(f"{case.key}-{contender}-{lap}")
    metafunc.parametrize(("case", "contender", "lap"), arguments, ids=ids)


@pytest.fixture
def race(
    request: pytest.FixtureRequest, benchmark: Any, case: Any, contender: Any, lap: int
) -> Any:
    """Give a benchmark function the race that it runs one lap of one contender of."""
    function = request.function
    question = Path(str(request.path)).stem.removeprefix("bench_")
    stable = request.config.stash[_STABLE]
    benchmark.group = f"{question} {function.__name__} {case.key}"
    return Race(benchmark, stable, function.plan, case, contender, lap, question)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    try:
        return (yield)
    except Missing as missing:
        pytest.skip(f"missing: {missing}")


# -- Progress ------------------------------------------------------------------------------------


def _tell(config: pytest.Config, **event: Any) -> None:
    fd = config.getoption("progress_fd")
    if fd >= 0:
        os.write(fd, (json.dumps(event) + "\n").encode())


def pytest_collection_finish(session: pytest.Session) -> None:
    _tell(session.config, total=len(session.items))


def pytest_runtest_logfinish(nodeid: str, location: tuple[str, int | None, str]) -> None:
    config = _config[0]
    _tell(config, done=1)


_config: list[pytest.Config] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    _config[:] = [session.config]


# -- The record ----------------------------------------------------------------------------------


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine.describe()
