# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark suite holds together: names, rivals' answers, reports. Nothing is timed here."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastreg
import fastreg.cli.main as command_line
from fastreg.cli import progress

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import __main__ as suite  # noqa: E402, RUF100
from benchmarks.engine import (  # noqa: E402
    budget,
    calls,
    forced,
    limits,
    machine,
    oracle,
    race,
    rivals,
)
from benchmarks.reports import floors, guard, plots, records, report  # noqa: E402

MODULES = sorted(path.stem for path in (ROOT / "benchmarks/questions").glob("bench_*.py"))
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
    loaded = importlib.import_module(f"benchmarks.questions.{module}")
    return [item for name, item in vars(loaded).items() if name.startswith("test_")]


@pytest.mark.parametrize("module", [m for m in MODULES if m != "bench_frameworks"])
def test_operands_and_rivals_of_every_question_can_be_made(module):
    """What a race needs before it times anything, for the small cases of each question."""
    made = 0
    for function in benchmarks_of(module):
        cases = [case for case in function.plan.cases(True) if case.nbytes <= 1 << 20]
        for case in cases[:12]:
            operands = function.plan.make(case)
            for rival in rivals.REGISTRY.get(function.plan.operation, {}).values():
                if "fastreg" in rival.name:
                    rival.prepare(operands)()
                    made += 1
            made += 1
    assert made or module in ("bench_import", "bench_exactness", "bench_lists")


def test_a_forced_sum_is_the_sum():
    x = np.arange(1000, dtype=np.float32)
    for isa in (None, *fastreg._kernels.levels()):
        value, tier = forced.sum_squares([x], "f32", isa=isa, threads=2)
        assert (value, tier in (0, 1, 2)) == (float(fastreg.sum_squares(x)), True)


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
    # numba looks for the package coverage, and need not find it here.
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
        made = results(**how)
        made["machine_info"] = made["machine_info"] | {"load": 0.0}
        path.write_text(json.dumps(made))
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
    guard.save([load()], baseline)
    assert guard.check(load(), baseline, sys.stdout) == 0
    assert guard.check(load(slower=1.05, spread=0.3), baseline, sys.stdout) == 0
    assert guard.check(load(slower=1.3), baseline, sys.stdout) == 1
    assert "bound" in capsys.readouterr().out


def test_command_says_in_one_line_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command_line.main(["bench", "--quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pytest-benchmark" in line
    monkeypatch.setattr("fastreg.cli.bench.__file__", "/nowhere/fastreg/cli/bench.py")
    assert command_line.main(["bench"]) == 2
    assert "source checkout" in capsys.readouterr().err


def test_harness_runs_with_timing_disabled(tmp_path):
    pytest.importorskip("pytest_benchmark")
    question = "benchmarks/questions/bench_small_call.py"
    command = [sys.executable, "-m", "pytest", question, "--quick", "-q"]
    command += ["--benchmark-disable", "-p", "no:cacheprovider", "-k", "fastreg or vdot"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


# -- Budgets -------------------------------------------------------------------------------------


class _Clock:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def spend(purse, clock, contender, seconds):
    clock.now += seconds
    purse.spend(contender, seconds)


def test_a_case_gets_its_part_and_leaves_what_it_does_not_need():
    clock = _Clock()
    purse = budget.Budget(100.0, {"a": 1.0, "b": 3.0, "c": 4.0}, {"a": 2, "b": 2, "c": 2}, clock)
    purse.enter("a")
    assert purse.share == pytest.approx(12.5)
    clock.now = 2.0
    purse.enter("a")  # it runs already
    assert purse.share == pytest.approx(12.5)
    purse.enter("b")
    assert purse.share == pytest.approx(98 * 3 / 7)
    clock.now = 200.0
    purse.enter("c")
    assert purse.share == 0.0


def test_slow_contenders_have_one_lap_and_fast_ones_all():
    clock = _Clock()
    purse = budget.Budget(10.0, {"a": 1.0}, {"a": 5}, clock)  # 2 s for each contender
    purse.enter("a")
    turns = {"fast": 0, "slow": 0, "crawling": 0, "limit": 0, "fastreg": 0}
    seconds = {"fast": 0.01, "slow": 0.8, "crawling": 30.0, "limit": 0.9, "fastreg": 4.0}
    for lap in range(5):
        for name in turns:
            core = name in ("limit", "fastreg")
            if purse.grants(name, core, lap):
                turns[name] += 1
                spend(purse, clock, name, seconds[name])
    # The core's median of three does not hold where a turn takes seconds.
    assert turns == {"fast": 5, "slow": 2, "crawling": 1, "limit": 3, "fastreg": 1}


def test_without_a_budget_everybody_has_every_lap():
    purse = budget.Budget(float("inf"), {"a": 1.0, "b": 1.0}, {"a": 1, "b": 1})
    for case in "ab":
        purse.enter(case)
        for lap in range(9):
            assert purse.grants("x", False, lap)
            purse.spend("x", 1e6)


def test_a_spent_budget_still_gives_each_case_its_first_lap():
    purse = budget.Budget(0.0, {"a": 1.0, "b": 1.0}, {"a": 1, "b": 1})
    for case in "ab":
        purse.enter(case)
        assert purse.grants("x", False, 0)
        purse.spend("x", 1.0)
        assert not purse.grants("x", False, 1)


def test_costs_grow_with_what_is_moved():
    small, large = (budget.cost(n, 10, 5, 0.01) for n in (256, 2 * 10**9))
    assert 0.4 < small < 0.6
    assert large > 10 * small


def test_rounds_and_calibration():
    assert budget.rounds(1.0, 0.01) == 1
    assert budget.rounds(0.1, 0.01) == 2
    assert budget.rounds(0.001, 0.01) == 10
    calls_a_round, rounds = budget.calibrate(lambda: None, 0.005)
    assert calls_a_round > 100  # calls of nothing, in a round of 100 us
    assert rounds >= 2


def test_budgets_add_up_to_what_the_command_promises():
    for full, most in ((True, 25 * 60), (False, 110)):
        assert sum(q.full if full else q.quick for q in suite.QUESTIONS.values()) < most
    assert set(suite.QUESTIONS) == {module.removeprefix("bench_") for module in MODULES}


def test_each_question_is_one_process_or_one_a_variant():
    arguments = argparse.Namespace(quick=False)
    isa = suite.QUESTIONS["isa"]
    assert suite._seconds("isa", "", arguments) == isa.full / len(isa.variants(False))
    environment = suite._environment("isa", "x86_v3")
    assert (environment["FASTREG_ISA"], environment["OPENBLAS_CORETYPE"]) == ("x86_v3", "Haswell")
    assert suite._environment("frameworks", "jax")["KERAS_BACKEND"] == "jax"
    assert "FASTREG_BENCH_FRAMEWORK" not in suite._environment("value", "")


# -- Floors --------------------------------------------------------------------------------------


class _Run:
    """Records as the harness writes them, one contender at a time."""

    def __init__(self, folder):
        self.folder = folder
        self.benchmarks = []

    def add(self, contender, seconds, *, question="value", operation="sum_squares", lap=0, **more):
        kind = {"fastreg": "fastreg", "limit": "limit"}.get(contender.partition(":")[0], "rival")
        facts = {
            "question": question, "operation": operation, "title": "f32 DRAM 2 GB", "kind": kind,
            "contender": contender, "limit": None, "dtype": "f32", "n": 5 * 10**8,
            "nbytes": 2 * 10**9, "moved": 2 * 10**9, "level": "DRAM", "layout": "contiguous",
            "data": "normal", "cold": False, "threads": 1, "isa": "x86_v4", "lap": lap,
            "repeats": 1,
        } | more  # fmt: skip
        facts["case"] = " ".join(
            str(facts[k]) for k in ("dtype", "n", "layout", "data", "threads", "isa")
        )
        stats = {"min": seconds, "median": seconds}
        self.benchmarks.append(
            {"name": f"test_{operation}[x]", "extra_info": facts, "stats": stats}
        )

    def answers(self, **machine_facts):
        path = self.folder / "run.json"
        info = machine.describe() | {
            "isa": "x86_v4",
            "caches": {"L1": 1 << 15, "L2": 1 << 20, "L3": 1 << 25},
        }
        path.write_text(
            json.dumps({"machine_info": info | machine_facts, "benchmarks": self.benchmarks})
        )
        self.results = records.load([path])
        return {(a.text, a.threads): a for a in floors.answers(self.results)}


@pytest.fixture
def made(tmp_path):
    return _Run(tmp_path)


def test_floor_of_the_value_depends_on_threads_and_shows_the_other_level(made):
    for threads, ours in ((1, 1.04), (2, 0.535)):
        made.add("limit: load", 1.0 / threads, threads=threads, limit="load")
        made.add("fastreg", ours, threads=threads, limit="load")
    for name, seconds in (("limit: load", 1.0), ("fastreg", 1.25)):
        made.add(name, seconds, question="isa", isa="x86_v3", limit="load")
    found = made.answers()
    one, two = found["value / load only", 1], found["value / load only", 2]
    assert (one.floor, one.verdict, one.beside) == ("0.95", "met", "0.80 (0.80)")
    assert (two.floor, two.verdict, two.beside) == ("0.93", "met", "")
    gain = found["threads' gain / load only's", 2]
    assert gain.figure.startswith("0.97")
    assert gain.ours == "1.94x"
    assert gain.other == "load only 2.00x"
    assert gain.verdict == "met"
    # On the level itself nothing stands beside.
    assert made.answers(isa="x86_v3")["value / load only", 1].beside == ""


def test_floor_of_layouts_is_against_numpys_best(made):
    for name, seconds in (
        ("fastreg", 1.0),
        ("numpy.vdot", 3.0),
        ("numpy.einsum", 1.5),
        ("numexpr", 0.5),
    ):
        made.add(name, seconds, layout="strided")
    answer = made.answers()["value / NumPy's best", 1]
    assert (answer.figure, answer.verdict) == ("1.50 (1.50)", "missed")
    assert answer.other.startswith("numpy.einsum")


def test_floor_of_the_call_is_against_the_fastest_rival(made):
    common = {"question": "small_call", "n": 64, "nbytes": 256, "moved": 256, "title": "f32 n = 64"}
    for name, seconds in (
        ("fastreg", 60e-9),
        (race.EMPTY, 20e-9),
        ("numkong.dot", 90e-9),
        ("numpy.vdot", 5e-7),
    ):
        made.add(name, seconds, **common)
    found = made.answers()
    answer = found["one call / fastest rival's", 1]
    assert (answer.figure, answer.verdict, answer.other) == (
        "1.50 (1.50)",
        "met",
        "numkong.dot 90 ns",
    )
    assert answer.ours == "60 ns (40 ns + loop)"
    assert found["one call", 1].verdict == "aim met"


def test_floors_of_the_frameworks_take_the_largest_arrays(made):
    for nbytes in (256, 10**9):
        for name, slower in (
            ("fastreg", 1.0),
            ("jax jit", 1.1),
            ("tensorflow XLA", 2.5),
            ("torch eager", 7.0),
        ):
            made.add(
                name,
                slower * (1 if nbytes > 256 else 100),
                question="frameworks",
                operation="value_and_gradient_new",
                threads=2,
                nbytes=nbytes,
                n=nbytes // 4,
            )
    found = made.answers()
    verdicts = {
        name: found[f"value and new gradient / {name}", 2].verdict
        for name in ("jax jit", "tensorflow XLA", "torch eager")
    }
    assert verdicts == {"jax jit": "missed", "tensorflow XLA": "aim met", "torch eager": "met"}


def test_floors_of_exactness_print_every_rivals_figure(made):
    common = {"question": "exactness", "n": 1000, "nbytes": 4000, "moved": 4000}
    for name, wrong in (("fastreg", 0), ("numpy.vdot", 17), ("numkong.dot", 3)):
        made.add(name, 1e-6, misrounded=wrong, vectors=50, data="random", **common)
    for name, patterns in (("fastreg", 2), ("numpy.vdot", 4)):
        made.add(name, 1e-6, patterns=patterns, ways=66, data="one vector", **common)
    found = made.answers()
    assert found["misroundings", 1].verdict == "aim met"
    assert found["misroundings", 1].ours == "0 of 50"
    assert found["misroundings", 1].other == "numpy.vdot 17, numkong.dot 3"
    assert found["distinct answers", 1].verdict == "missed"


def test_verdicts_need_both_estimates():
    assert floors.judge(0.96, 0.99, 0.95, 0.98) == "met"
    assert floors.judge(1.0, 0.99, 0.95, 0.98) == "aim met"
    assert floors.judge(0.90, 0.96, 0.95, 0.98) == "unsure"
    assert floors.judge(0.90, 0.94, 0.95, 0.98) == "missed"
    assert floors.judge(0.90, 0.94, None, None) == ""


def test_missed_floors_stand_with_their_reasons(made, tmp_path):
    made.add("limit: load", 1.0, limit="load")
    made.add("fastreg", 2.0, limit="load")
    answer = made.answers()["value / load only", 1]
    assert answer.key == "value / load only f32 DRAM 1t"
    reason = floors.Reason("value / load only f?? *", "because", "by counting")
    ((missed, why),) = floors.explained([answer], [floors.Reason("other *", "no"), reason])
    assert (missed, why) == (answer, reason)
    assert floors.explained([answer], [])[0][1] is floors.UNKNOWN
    assert floors.explained([dataclasses.replace(answer, verdict="met")], [reason]) == []
    report.write(made.results, tmp_path / "report")
    ((_, stored),) = floors.explained([answer])
    assert stored.why in (tmp_path / "report" / "report.md").read_text()


def test_the_stored_reasons_can_be_read():
    for reason in floors.reasons():
        assert reason.why
        assert reason.measured
        assert "*" in reason.rows


# -- The guard asks twice, progress has lines ----------------------------------------------------


def test_the_baseline_is_the_lower_of_two_runs(load, tmp_path):
    guard.save([load(), load(slower=1.3)], tmp_path / "baseline.json")
    stored = json.loads((tmp_path / "baseline.json").read_text())["ratios"]
    ((_, share), *_) = [item for item in stored.items() if item[0].endswith("/ limit")]
    assert share["median"] == pytest.approx(1 / (1.1 * 1.3), abs=1e-4)


def test_guard_counts_what_falls_twice(load, tmp_path, capsys):
    baseline = tmp_path / "baseline.json"
    guard.save([load()], baseline)
    asked = []

    def again(slower):
        def ask(questions):
            asked.append(questions)
            return load(slower=slower)

        return ask

    assert guard.check(load(slower=1.3), baseline, sys.stdout, again(1.3)) == 1
    assert guard.check(load(slower=1.3), baseline, sys.stdout, again(1.0)) == 0
    assert guard.check(load(), baseline, sys.stdout, again(1.3)) == 0
    assert asked == [["value"], ["value"]]
    assert "asked again: value" in capsys.readouterr().out


@pytest.mark.parametrize(("then", "now", "status"), [(0.5, 0.5, 1), (0.5, 9.0, 0), (9.0, 0.5, 0)])
def test_guard_compares_threads_on_an_idle_machine_only(made, tmp_path, capsys, then, now, status):
    def measure(slower, load):
        made.benchmarks.clear()
        made.add("limit: load", 1.0, limit="load", threads=2)
        made.add("fastreg", slower, limit="load", threads=2)
        made.answers(load=load, cores=2)
        return made.results

    guard.save([measure(1.0, then)], tmp_path / "baseline.json")
    assert guard.check(measure(2.0, now), tmp_path / "baseline.json", sys.stdout) == status
    assert ("busy" in capsys.readouterr().out) == (status == 0)


@pytest.mark.parametrize(
    ("slower", "load", "status"), [(1.25, 0.0, 1), (1.25, 9.0, 0), (2.0, 9.0, 1)]
)
def test_guard_has_wider_bounds_on_a_busy_machine(made, tmp_path, slower, load, status):
    def measure(seconds):
        made.benchmarks.clear()
        made.add("numpy.vdot", 1.0)
        made.add("fastreg", seconds)
        made.answers(load=load, cores=2)
        return made.results

    guard.save([measure(1.0)], tmp_path / "baseline.json")
    assert guard.check(measure(slower), tmp_path / "baseline.json", sys.stdout) == status


def test_guard_has_a_ratio_for_arrays_off_the_line(made):
    made.add("fastreg", 1.0, operation="gradient_anywhere")
    made.add(race.ON_A_LINE, 0.9, operation="gradient_anywhere")
    made.answers()
    ((name, ratio),) = guard.ratios(made.results).items()
    assert name.endswith(race.ON_A_LINE)
    assert ratio.median == pytest.approx(0.9)


def test_progress_writes_a_line_a_stage_where_nobody_looks(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr("fastreg.cli.progress.time.monotonic", clock)
    stream = io.StringIO()
    with progress.Progress(stream, log=True) as bar:
        bar.expect(100)
        bar.stage("value (1 of 2)")
        bar.detail("f32 DRAM 2 GB, numpy.vdot")
        clock.now = 59.0
        bar.advance(30)
        assert stream.getvalue() == ""
        clock.now = 61.0
        bar.advance(10)
        clock.now = 80.0
        bar.stage("gradient (2 of 2)")
        clock.now = 85.0
        bar.advance(60)
    assert stream.getvalue().splitlines() == [
        "value (1 of 2): f32 DRAM 2 GB, numpy.vdot (40% of all, 61 s)",
        "value (1 of 2): 80 s",
        "gradient (2 of 2): 5 s",
    ]


class _Bar:
    """Remembers what it was to show."""

    def __init__(self):
        self.parts = []

    def advance(self, work):
        self.parts.append(work)

    def detail(self, text):
        self.text = text


def test_what_a_process_tells_adds_up_to_its_seconds():
    reader, writer = os.pipe()
    events = [{"total": 4.0}, {"at": "f32, numpy.vdot"}, {"done": 1.0}, {"done": 2.0}]
    text = "".join(json.dumps(event) + "\n" for event in events)
    os.write(writer, text[:30].encode())
    os.write(writer, text[30:].encode())
    os.close(writer)
    bar = _Bar()
    suite._follow(reader, bar, 60.0)
    assert bar.text == "f32, numpy.vdot"
    assert sum(bar.parts) == pytest.approx(60.0)
    assert 15.0 in bar.parts
    assert 30.0 in bar.parts


def test_dark_plots_have_no_light_colours_left():
    pairs = dict(zip(plots.COLOURS, plots._ON_DARK, strict=True))
    drawn = "".join(f'stroke="{colour.lower()}" ' for colour in [*pairs, *plots.LIGHT.values()])
    dark = plots.darkened(drawn.encode()).decode()
    assert plots.LIGHT["paper"] not in dark
    assert dark.split() == [
        f'stroke="{colour.lower()}"' for colour in [*pairs.values(), *plots.DARK.values()]
    ]
