# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark suite holds together: names, rivals' answers, reports. Nothing is timed here."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastreg
import fastreg.__main__ as command_line

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import calls, guard, limits, machine, oracle, race, records, report, rivals  # noqa: E402, I001, RUF100

MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("bench_*.py"))
# Importing a framework takes seconds: the question about frameworks checks their answers.
_LIGHT = [
    pytest.param(operation, rival, id=f"{operation}-{rival.name}".replace(" ", "-"))
    for operation, found in rivals.REGISTRY.items()
    for rival in found.values()
    if not rival.framework
]
# Two-byte floats: NumPy adds them in two bytes.
_TOLERANCE = {"f16": 4e-2, "bf16": 1e-1, "f32": 1e-5, "f64": 1e-12}


def benchmarks_of(module: str) -> list:
    loaded = importlib.import_module(f"benchmarks.{module}")
    return [item for name, item in vars(loaded).items() if name.startswith("test_")]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_benchmarks_with_plans(module):
    found = benchmarks_of(module)
    assert found
    for function in found:
        for quick in (True, False):
            for case in function.plan.cases(quick):
                assert case.threads >= 1
                assert case.limit in (None, *limits.LOOPS)


class _Recorder:
    """Stands in for a race: remembers the function that a benchmark hands over."""

    def __call__(self, fn, *args, **kwargs):
        self.fn = fn


@pytest.mark.parametrize("module", MODULES)
def test_benchmarks_are_named_for_the_function_they_call(module):
    for function in benchmarks_of(module):
        if module == "bench_exactness":
            assert function.plan.operation == function.__name__.removeprefix("test_")
            continue
        recorder = _Recorder()
        case = next(iter(function.plan.cases(False) or function.plan.cases(True)))
        wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
        function(*[recorder if name == "race" else case for name in wanted])
        name = recorder.fn.__name__.strip("_")
        assert function.__name__.removeprefix("test_").startswith(name)


def test_the_operation_of_a_plan_has_rivals_or_needs_none():
    for module in MODULES:
        for function in benchmarks_of(module):
            for case in function.plan.cases(False):
                for name in case.rivals or ():
                    assert name in rivals.REGISTRY[function.plan.operation]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("operation", "rival"), _LIGHT)
def test_rivals_agree_on_small_data(operation, rival, monkeypatch):
    # numba would take tests/coverage.py for the package of that name.
    monkeypatch.setitem(sys.modules, "coverage", None)
    if operation == "import_package" or rival.name in (race.EMPTY,):
        pytest.skip("answers nothing")
    for dtype in rival.dtypes:
        n = max(64 if calls.ITEMSIZE[dtype] == 2 else 2000, rival.min_n)
        try:
            case = calls.Case(dtype, n * calls.ITEMSIZE[dtype], arrays=2)
            operands = calls.make_operands(case)
            if operation.startswith("list_"):
                operands = calls.Operands([operands.x.reshape(40, 50), operands.x[:7]])
            call = rival.prepare(operands)
            # Compiling takes numba seconds; the loop that it would compile runs in Python, too.
            call.fn = getattr(call.fn, "py_func", call.fn)
        except calls.Missing as missing:
            pytest.skip(f"{missing} is not installed")
        with rivals.threads(1):
            result = call()
            expected = race.reference_value(operation, operands.x)
            error = race.check(operation, call, operands, result, expected)
        assert error < _TOLERANCE[dtype], (dtype, error)


@pytest.mark.parametrize("loop", sorted(limits.LABELS))
def test_limits_load_copy_and_add(loop):
    operands = calls.make_operands(calls.Case("f32", 100 * 4096, arrays=2))
    try:
        call = limits.limit_call(loop, operands.x, operands.g, 2)
    except calls.Missing as missing:
        pytest.skip(f"{missing} is not installed")
    call.args[3].value = 1
    call()
    if loop.startswith("copy"):
        assert np.array_equal(operands.g, operands.x)
    elif loop.startswith("triad"):
        assert np.array_equal(operands.g, operands.x * np.float32(2.0**-10))
    else:
        assert not operands.g.any()


def test_oracle_and_near_ties():
    for i, x in enumerate(oracle.near_ties(6, 100)):
        exact = oracle.sum_squares(x)
        middle = int(exact)
        assert middle % 2 == 1
        assert (exact > middle) == bool(i % 2)
        assert float(fastreg.sum_squares(x)) == oracle.rounded(exact, "f32")
    x = np.random.default_rng(1).standard_normal(500) * 1e-160
    assert fastreg.sum_squares(x) == oracle.rounded(oracle.sum_squares(x), "f64")
    assert oracle.ulps(1.0 + 2.0**-23, oracle.Fraction(1), "f32") == 1.0
    assert oracle.rounded(oracle.Fraction(2) ** 128, "f32") == float("inf")


def test_levels_are_named_by_the_cache_that_fits():
    for name, capacity in machine.caches().items():
        assert machine.level_of(machine.inside(name)) == name
        assert machine.level_of(capacity) == name
    assert machine.level_of(2 * machine.last_level()) == "DRAM"
    assert [machine.size(n) for n in (256, 1 << 16, 2 * 10**9)] == ["256 B", "64 kB", "2 GB"]


def results(slower: float = 1.0, spread: float = 0.0) -> dict:
    """Return a small run as the harness writes it."""
    benchmarks = []
    for lap in range(3):
        for kind, name, seconds in (
            ("limit", "limit: load", 1.0),
            ("fastreg", "fastreg", 1.1 * slower),
            ("rival", "numpy.vdot", 2.0),
        ):
            facts = {
                "question": "value", "operation": "sum_squares", "case": "f32-DRAM-2-GB-1t",
                "title": "f32 DRAM 2 GB", "kind": kind, "contender": name, "limit": "load",
                "dtype": "f32", "n": 5 * 10**8, "nbytes": 2 * 10**9, "moved": 2 * 10**9,
                "level": "DRAM", "layout": "contiguous", "data": "normal", "cold": False,
                "threads": 1, "lap": lap, "repeats": 1,
            }  # fmt: skip
            t = seconds * (1.0 + spread * lap)
            stats = {"min": t, "median": t}
            name = "test_sum_squares[x]"
            benchmarks.append({"name": name, "extra_info": facts, "stats": stats})
    return {"machine_info": machine.describe(), "benchmarks": benchmarks}


@pytest.fixture
def load(tmp_path):
    """Read a run that `results` made."""

    def read(**how: float) -> records.Results:
        path = tmp_path / "value.json"
        path.write_text(json.dumps(results(**how)))
        return records.load([path])

    return read


def test_ratios_are_formed_within_laps(load):
    (group,) = load(spread=0.5).groups
    share, against = group.share(), group.against("numpy.vdot")
    assert share.median == pytest.approx(1 / 1.1)
    assert against.best == pytest.approx(2 / 1.1)
    assert against.spread == pytest.approx(0.0)


def test_report_readme_and_their_markers(load, tmp_path):
    run = load()
    report.write(run, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "numpy.vdot" in (tmp_path / "report" / "report.md").read_text()
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n")
    report.update_readme(run, readme)
    text = readme.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "old" not in text
    assert "1.82×" in text
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match="needs one line"):
        report.update_readme(run, readme)


def test_guard_sees_a_fall_and_no_noise(load, tmp_path, capsys):
    baseline = tmp_path / "baseline.json"
    assert guard.check(load(), baseline, sys.stdout) == 2
    guard.save(load(), baseline)
    assert guard.check(load(), baseline, sys.stdout) == 0
    assert guard.check(load(slower=1.05, spread=0.3), baseline, sys.stdout) == 0
    assert guard.check(load(slower=1.3), baseline, sys.stdout) == 1
    assert "bound" in capsys.readouterr().out


def test_command_says_in_one_line_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command_line.main(["bench", "--quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pytest-benchmark" in line
    monkeypatch.setattr("fastreg.bench.__file__", "/nowhere/fastreg/bench.py")
    assert command_line.main(["bench"]) == 2
    assert "source checkout" in capsys.readouterr().err


def test_harness_runs_with_timing_disabled(tmp_path):
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "benchmarks/bench_small_call.py", "--quick", "-q"]
    command += ["--benchmark-disable", "-p", "no:cacheprovider", "-k", "fastreg or vdot"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
