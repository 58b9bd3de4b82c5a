# SPDX-License-Identifier: BSD-3-Clause
"""How contenders race: who takes part in a case, in which order, and what is written down.

On a shared machine the speed of memory wanders by tens of percent within seconds. So every case is
run in laps: in each lap each contender has a turn, shortly after the others, limits first. A ratio
is formed within a lap; the report gives the median over the laps beside the ratio of the minima.
How many laps there are is a matter of the budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import fastreg
from benchmarks.engine import limits, rivals
from benchmarks.engine.budget import ONCE, calibrate
from benchmarks.engine.calls import L1, L2, STEP, Call, Case, Missing, Operands, make_operands

OURS = "fastreg"
# A contender that calls nothing: what the harness' own loop costs.
EMPTY = "nothing (the loop itself)"
# fastreg in another way: with threads at any size, and on arrays that begin on a cache line.
FORCED = "threads forced"
ON_A_LINE = "fastreg, arrays on a line"

# Bytes that have to move for one byte of x.
_MOVED = {"load": 1, "copy": 2, "triad": 3, None: 1}
_SAMPLES = 4096
# Rivals that are asked not to err more are still timed, but marked as wrong.
WRONG = 0.5

PlanOf = Callable[[bool], Sequence[Case]]


class _Out:
    """Stands in a benchmark's arguments for the case's result array."""


OUT = _Out()


@dataclass(frozen=True)
class Contender:
    """Who computes: kind is "limit", "fastreg" or "rival"; label is what tables show."""

    kind: str
    name: str
    label: str

    def __str__(self) -> str:
        return self.label.replace(" ", "-")


@dataclass
class Plan:
    """What a benchmark function runs: its cases, and the operation whose rivals take part."""

    cases: PlanOf
    operation: str
    make: Callable[[Case], Operands] = make_operands
    quick_rivals: tuple[str, ...] | None = None
    frameworks: tuple[str, ...] = ()  # whose rivals take part, too; every case needs one


def plan(
    cases: PlanOf,
    operation: str = "",
    *,
    make: Callable[[Case], Operands] = make_operands,
    quick_rivals: tuple[str, ...] | None = None,
    frameworks: tuple[str, ...] = (),
) -> Callable[[Any], Any]:
    """Give a benchmark function its cases and rivals; the operation defaults to its name."""

    def mark(function: Any) -> Any:
        name = operation or function.__name__.removeprefix("test_")
        function.plan = Plan(cases, name, make, quick_rivals, frameworks)
        return function

    return mark


def contenders(entry: Plan, case: Case, quick: bool) -> list[Contender]:
    """List who takes part in a case: limits, fastreg, rivals."""
    found = [
        Contender("limit", loop, f"limit: {limits.LABELS[loop]}")
        for loop in limits.LOOPS.get(case.limit or "", ())
    ]
    found.append(Contender(OURS, OURS, OURS))
    for name, rival in rivals.REGISTRY.get(entry.operation, {}).items():
        if not rival.takes(case.dtype, case.n, case.layout):
            continue
        if rival.framework and rival.framework not in entry.frameworks:
            continue
        if case.rivals is not None:
            if name not in case.rivals:
                continue
        elif quick and entry.quick_rivals is not None and name not in entry.quick_rivals:
            continue
        found.append(Contender("rival", name, name))
    if entry.frameworks and not any(contender.kind == "rival" for contender in found):
        return []
    return found


@dataclass
class Stable:
    """The operands and prepared calls of the case that runs now; the case before is let go."""

    key: Any = None
    data: Any = None  # what the operands were made for
    operands: Operands | None = None
    calls: dict[str, Call | Missing] = field(default_factory=dict)
    turns: dict[str, tuple[int, int]] = field(default_factory=dict)  # calls a round, rounds
    reference: float | None = None
    best: dict[int, float] = field(default_factory=dict)  # lap -> GB/s of the limit

    def enter(self, key: Any, entry: Plan, case: Case) -> None:
        """Make a case's operands unless they are there: thread counts share them."""
        if key == self.key:
            return
        self.key = None
        self.reference = None
        self.calls.clear()
        self.turns.clear()
        self.best.clear()
        data = (entry.make, replace(case, threads=1, limit=None, rivals=None))
        if data != self.data:
            self.data = self.operands = None
            self.operands = entry.make(case)
            self.data = data
        assert self.operands is not None
        self.operands.threads = case.threads
        self.key = key

    def call(self, contender: Contender, entry: Plan, case: Case, ours: Call) -> Call:
        """Return a contender's call, prepared once per case; raise `Missing`."""
        if contender.name not in self.calls:
            assert self.operands is not None
            try:
                self.calls[contender.name] = prepare(contender, entry, case, self.operands, ours)
            except Missing as missing:
                self.calls[contender.name] = missing
        call = self.calls[contender.name]
        if isinstance(call, Missing):
            raise call
        return call


def prepare(contender: Contender, entry: Plan, case: Case, operands: Operands, ours: Call) -> Call:
    """Prepare the call of one contender."""
    if contender.kind == OURS:
        return ours
    if contender.kind == "rival":
        return rivals.REGISTRY[entry.operation][contender.name].prepare(operands)
    return limits.limit_call(
        contender.name, operands.x, operands.g, case.threads, operands.options.get("isa")
    )


def bind(fn: Callable[..., Any], operands: Operands, *args: Any, **kwargs: Any) -> Call:
    """Return fastreg's call on the operands, the result array put where `OUT` stands."""
    kwargs = {key: operands.g if item is OUT else item for key, item in kwargs.items()}
    args = tuple(operands.g if item is OUT else item for item in args)
    return Call(fn, operands.x, *args, **kwargs)


# -- The same answer -----------------------------------------------------------------------------


def reference_value(operation: str, x: Any) -> float:
    """Return the exact value, rounded to float64, of an operation on an array or a list."""
    weights = {
        "sum_squares": (0.0, 1.0),
        "sum_abs": (1.0, 0.0),
        "l2_loss": (0.0, 0.5),
        "value": (L1, L2),
        "penalty": (0.0, L2),
    }.get(operation, (0.0, L2))
    if operation == "norm":
        return float(fastreg.norm(x, dtype=np.float64))
    if operation == "global_norm":
        return float(fastreg.global_norm(x))
    if operation == "penalty":
        return float(fastreg.penalty(x, l2=L2))
    return float(fastreg.value(x, l1=weights[0], l2=weights[1], dtype=np.float64))


def number(result: Any) -> float:
    """Read a float out of whatever a contender returned."""
    if isinstance(result, tuple):
        result = result[0]
    if hasattr(result, "detach"):
        result = result.detach().float() if "bfloat16" in str(result.dtype) else result.detach()
    try:
        return float(result)
    except TypeError:
        return float(np.asarray(result))


def relative_error(received: float, expected: float) -> float:
    """Return |received - expected| / expected; infinite if received is not finite."""
    if not math.isfinite(received):
        return 0.0 if received == expected else math.inf
    return abs(received - expected) / abs(expected) if expected else abs(received)


def check(operation: str, call: Call, operands: Operands, result: Any, expected: float) -> float:
    """Return the largest relative error of a contender's answer.

    Values are compared with the exact one, gradients element by element on a sample.
    """
    worst = 0.0
    if not operation.startswith("gradient"):
        kind = getattr(result, "dtype", None)
        if isinstance(kind, np.dtype) and kind.kind == "f":
            # What overflows or underflows the type of the answer may do so.
            with np.errstate(over="ignore", under="ignore"):
                rounded = float(kind.type(expected))
            expected = expected if 0.0 < rounded < math.inf else rounded
        worst = relative_error(number(result), expected)
    if "gradient" in operation:
        if "accumulate" in operation:
            clear(operands)
            result = call()
        g = call.kwargs["out"] if call.kwargs.get("out") is not None else operands.g
        if operation.endswith("_new"):
            g = result[1] if isinstance(result, tuple) else result
        step = max(1, operands.x.size // _SAMPLES)
        wanted = np.asarray(operands.x.reshape(-1)[::step], np.float64) * STEP
        received = np.asarray(_numpy(g).reshape(-1)[::step], np.float64)
        scale = float(np.max(np.abs(wanted), initial=0.0)) or 1.0
        worst = max(worst, float(np.max(np.abs(received - wanted), initial=0.0)) / scale)
    return worst


def clear(operands: Operands) -> None:
    """Forget the contender before, where `check` looks: clearing a gigabyte takes a turn."""
    if operands.g is not None:
        operands.g.reshape(-1)[:: max(1, operands.x.size // _SAMPLES)] = 0


def _numpy(g: Any) -> Any:
    if isinstance(g, np.ndarray):
        return g
    return g.detach().numpy() if hasattr(g, "detach") else np.asarray(g)


# -- One race ------------------------------------------------------------------------------------


class Race:
    """What a benchmark function is given: call it with the public function that it measures."""

    def __init__(
        self,
        benchmark: Any,
        stable: Stable,
        entry: Plan,
        case: Case,
        contender: Contender,
        lap: int,
        question: str,
        turn: float = 0.01,
    ):
        self.benchmark = benchmark
        self.stable = stable
        self.entry = entry
        self.case = case
        self.contender = contender
        self.lap = lap
        self.question = question
        self.turn = turn  # seconds, of a contender whose call is shorter
        self.spent = 0.0

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Time the contender on the case; `fn` with its arguments is fastreg's part."""
        case, contender, stable, entry = self.case, self.contender, self.stable, self.entry
        stable.enter((self.question, entry.operation, case), entry, case)
        assert stable.operands is not None
        operands = stable.operands
        call = stable.call(contender, entry, case, bind(fn, operands, *args, **kwargs))
        if self.lap == 0:
            clear(operands)
        with rivals.threads(case.threads):
            result = self.time(call, operands)
            facts = self.facts(call)
            if (
                contender.kind != "limit"
                and contender.name != EMPTY
                and self.lap == 0
                and self.checked(operands)
            ):
                if stable.reference is None:
                    stable.reference = reference_value(entry.operation, operands.x)
                error = check(entry.operation, call, operands, result, stable.reference)
                facts["relative_error"] = error if math.isfinite(error) else None
                facts["wrong"] = not error < WRONG
        self.benchmark.extra_info.update(facts)
        return result

    def time(self, call: Call, operands: Operands) -> Any:
        """Let pytest-benchmark time one turn; the first lap finds out how long that is."""
        name, turns = self.contender.name, self.stable.turns
        if name not in turns and not self.benchmark.disabled:
            call.compile()
            start = time.perf_counter()
            call()  # touches pages, wakes threads
            seconds = time.perf_counter() - start
            turns[name] = (1, 1) if seconds > ONCE else calibrate(call, self.turn)
        calls, count = turns.get(name, (1, 1))
        pedantic, start = self.benchmark.pedantic, time.monotonic()
        if self.case.cold:
            result = pedantic(call.fn, setup=_rotate(operands, call), rounds=_COLD_ROUNDS)
        else:
            result = pedantic(call.fn, call.args, call.kwargs, iterations=calls, rounds=count)
        self.spent = time.monotonic() - start
        return result

    @property
    def operands(self) -> Operands:
        """The operands of the case that runs."""
        assert self.stable.operands is not None
        return self.stable.operands

    def checked(self, operands: Operands) -> bool:
        """Tell whether there is a value to compare answers with."""
        return isinstance(operands.x, (np.ndarray, list))

    def facts(self, call: Call) -> dict[str, Any]:
        """Return what a record carries besides its times."""
        case, contender = self.case, self.contender
        facts: dict[str, Any] = {
            "question": self.question,
            "operation": self.entry.operation,
            "case": case.key,
            "title": case.title,
            "kind": contender.kind,
            "contender": contender.label,
            "limit": case.limit,
            "dtype": case.dtype,
            "n": case.n,
            "nbytes": case.nbytes,
            "level": case.level,
            "layout": case.layout,
            "data": case.data,
            "cold": case.cold,
            "threads": case.threads,
            "isa": fastreg.get_isa(),
            "lap": self.lap,
            "repeats": call.repeats,
            "when": time.time(),
        }
        options = self.stable.operands.options if self.stable.operands else {}
        facts.update({key: item for key, item in options.items() if key != "pool"})
        stats = getattr(self.benchmark.stats, "stats", None)
        if stats is not None and case.nbytes:
            moved = case.nbytes * _MOVED[case.limit]
            rate = moved * call.repeats / stats.min / 1e9
            facts.update(moved=moved, gbs=rate)
            best = self.stable.best
            if contender.kind == "limit":
                best[self.lap] = max(best.get(self.lap, 0.0), rate)
            elif self.lap in best:
                facts["share"] = rate / best[self.lap]
        return facts


_COLD_ROUNDS = 32


def _rotate(operands: Operands, call: Call) -> Callable[[], tuple[Any, Any]]:
    """Return a setup that gives each round another part of a buffer larger than every cache."""
    pool = operands.options["pool"]
    turn = [0]

    def setup() -> tuple[Any, Any]:
        fresh = pool[turn[0] % len(pool)]
        turn[0] += 1
        return tuple(fresh if item is operands.x else item for item in call.args), call.kwargs

    return setup
