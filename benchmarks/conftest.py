# SPDX-License-Identifier: BSD-3-Clause
"""Turn plans into benchmarks, in laps, within a budget; record the machine; report progress."""

from __future__ import annotations

import collections
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.engine import budget, machine
from benchmarks.engine.calls import Case, Missing
from benchmarks.engine.race import Race, Stable, contenders

_START = time.monotonic()
_STABLE = pytest.StashKey[Stable]()
_BUDGET = pytest.StashKey[budget.Budget]()
_WEIGHT = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastreg benchmarks")
    group.addoption("--quick", action="store_true", help="few sizes, few rivals, few laps")
    group.addoption("--laps", type=int, default=0, help="how often each contender's turn comes")
    group.addoption("--seconds", type=float, default=math.inf, help="what all of it may take")
    group.addoption("--progress-fd", type=int, default=-1, help="where to write progress lines")


def pytest_configure(config: pytest.Config) -> None:
    # Other libraries' warnings are theirs; the project's own setting makes them errors.
    config.addinivalue_line("filterwarnings", "ignore")
    config.stash[_STABLE] = Stable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    entry = getattr(metafunc.function, "plan", None)
    if entry is None:
        return
    quick, laps = metafunc.config.getoption("quick"), _laps(metafunc.config)
    arguments, ids = [], []
    for case in entry.cases(quick):
        field = contenders(entry, case, quick)
        for lap in range(laps):
            for contender in field:
                arguments.append((case, contender, lap))
                ids.append(f"{case.key}-{contender}-{lap}")
    metafunc.parametrize(("case", "contender", "lap"), arguments, ids=ids)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Leave out the item that pytest makes for a plan without cases."""
    items[:] = [item for item in items if isinstance(item.callspec.params["case"], Case)]


def _laps(config: pytest.Config) -> int:
    if config.getoption("benchmark_disable", False):
        return 1
    return config.getoption("laps") or budget.LAPS[config.getoption("quick")]


def _case_of(item: Any) -> tuple[str, Any]:
    """Name the case that an item is a turn in."""
    return item.originalname, item.callspec.params["case"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the budget: what importing and collecting took is gone from it."""
    config = session.config
    laps, turn = _laps(config), budget.TURN[config.getoption("quick")]
    fields = collections.Counter(
        key for key, _ in {(_case_of(i), i.callspec.params["contender"]) for i in session.items}
    )
    costs = {
        key: budget.cost(key[1].nbytes * key[1].arrays, size, laps, turn)
        for key, size in fields.items()
    }
    for item in session.items:
        key = _case_of(item)
        item.stash[_WEIGHT] = costs[key] / (fields[key] * laps)
    seconds = config.getoption("seconds") - (time.monotonic() - _START)
    config.stash[_BUDGET] = budget.Budget(seconds, costs, fields)
    _tell(config, total=sum(costs.values()))


@pytest.fixture
def race(
    request: pytest.FixtureRequest, benchmark: Any, case: Any, contender: Any, lap: int
) -> Iterator[Race]:
    """Give a benchmark function the race that it runs one lap of one contender of."""
    function, config = request.function, request.config
    question = Path(str(request.path)).stem.removeprefix("bench_")
    benchmark.group = f"{question} {function.__name__} {case.key}"
    turn = budget.TURN[config.getoption("quick")]
    race = Race(
        benchmark, config.stash[_STABLE], function.plan, case, contender, lap, question, turn
    )
    yield race
    config.stash[_BUDGET].spend(contender.name, race.spent)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: Any, nextitem: Any) -> bool | None:
    """Let a turn pass for which there is no budget; it leaves no record."""
    case, contender, lap = (item.callspec.params[name] for name in ("case", "contender", "lap"))
    purse = item.config.stash[_BUDGET]
    purse.enter(_case_of(item))
    _tell(item.config, at=f"{case.title}, {contender.label}")
    if purse.grants(contender.name, contender.kind != "rival", lap):
        return None
    _tell(item.config, done=item.stash[_WEIGHT])
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    try:
        return (yield)
    except Missing as missing:
        pytest.skip(f"missing: {missing}")
    finally:
        _tell(item.config, done=item.stash[_WEIGHT])


# -- Progress ------------------------------------------------------------------------------------


def _tell(config: pytest.Config, **event: Any) -> None:
    fd = config.getoption("progress_fd")
    if fd >= 0:
        os.write(fd, (json.dumps(event) + "\n").encode())


# -- The record ----------------------------------------------------------------------------------


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine.describe()
