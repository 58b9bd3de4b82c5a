# SPDX-License-Identifier: BSD-3-Clause
"""What fastreg has set itself: numbers with a floor and an aim, answered from one run."""

from __future__ import annotations

import fnmatch
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine import machine
from benchmarks.engine.race import EMPTY, OURS
from benchmarks.reports.records import Group, Ratio, Results

MISSES = Path(__file__).with_name("misses.toml")

# The level whose figures stand beside those of the level in use.
BESIDE = "x86_v3"
_CALL = 70e-9


@dataclass(frozen=True)
class Answer:
    """One line of the table of floors; `key` names it for the explanations of misses."""

    key: str
    text: str
    case: str
    threads: int
    ours: str
    figure: str
    floor: str
    aim: str
    other: str
    verdict: str
    beside: str = ""  # the same figure on the level BESIDE


def judge(low: float, high: float, floor: float | None, aim: float | None) -> str:
    """Return what two estimates of a number say of its floor and aim; "" without a floor.

    On a busy machine they differ; only where they agree is there an answer.
    """
    if floor is None:
        return ""
    low, high = sorted((low, high))
    if low >= floor:
        return "aim met" if aim is not None and low >= aim else "met"
    return "missed" if high < floor else "unsure"


def answers(results: Results) -> list[Answer]:
    """Return every line that the run can answer."""
    return [
        *_load_only(results), *_blas(results), *_layouts(results), *_calls(results),
        *_frameworks(results), *_gradients(results), *_scaling(results), *_exactness(results),
        *_rivals(results),
    ]  # fmt: skip


# -- Lines of ratios -----------------------------------------------------------------------------


def _line(
    text: str,
    group: Group,
    other: str,
    ratio: Ratio | None,
    floor: float | None = None,
    aim: float | None = None,
    *,
    ours: str = "",
    beside: str = "",
) -> Iterator[Answer]:
    row, first = group.ours, group.first
    if row is None or ratio is None:
        return
    speed = machine.seconds(row.best) if not row.gbs or row.n <= 1024 else f"{row.gbs:.1f} GB/s"
    place = first.layout if first.layout != "contiguous" else first.level
    yield Answer(
        f"{text} {first.dtype} {place} {first.threads}t",
        text,
        first.title,
        first.threads,
        ours or speed,
        show(ratio),
        f"{floor:.2f}" if floor is not None else "",
        f"{aim:.2f}" if aim is not None else "",
        other,
        judge(ratio.best, ratio.median, floor, aim),
        beside,
    )


def show(ratio: Ratio | None) -> str:
    """Write a ratio: the median over the laps, then that of the fastest calls."""
    return f"{ratio.median:.2f} ({ratio.best:.2f})" if ratio else ""


def _largest(groups: list[Group]) -> list[Group]:
    most = max((group.first.nbytes for group in groups), default=0)
    return [group for group in groups if group.first.nbytes == most]


def _limit_name(group: Group) -> str:
    fastest = min(group.limits, key=lambda row: row.best)
    return f"{fastest.contender.removeprefix('limit: ')} {fastest.gbs:.1f} GB/s"


def _fastest(group: Group, names: Iterable[str]) -> str:
    """Name the fastest of some contenders; "" if none took part."""
    rows = [group.rows[name] for name in names if name in group.rows]
    return str(min(rows, key=lambda row: row.best).contender) if rows else ""


def _named(group: Group, name: str, label: str = "") -> str:
    row = group.rows[name]
    how_fast = f"{row.gbs:.1f} GB/s" if row.gbs and row.n > 1024 else machine.seconds(row.best)
    return f"{label or name} {how_fast}"


def _at_level(results: Results, group: Group, pick: Callable[[Group], Ratio | None]) -> str:
    """Return the figure that BESIDE has for the same operation, type and place."""
    first = group.first
    if results.machine.get("isa") == BESIDE or first.threads != 1:
        return ""
    for other in results.find("isa", group.operation, dtype=first.dtype, isa=BESIDE):
        if other.first.level == first.level and (ratio := pick(other)):
            return show(ratio)
    return ""


def _simple(results: Results, dtype: str) -> list[Group]:
    return [
        group
        for group in results.find("value", "sum_squares", dtype=dtype)
        if group.first.test == "test_sum_squares" and group.ours
    ]


def _load_only(results: Results) -> Iterator[Answer]:
    for dtype, one, team in (
        ("f32", (0.95, 0.98), (0.93, 0.97)), ("f64", (0.95, 0.98), (0.93, 0.97)),
        ("bf16", (0.9, 0.97), (0.9, 0.97)), ("f16", (0.8, 0.97), (0.8, 0.97)),
    ):  # fmt: skip
        for group in _largest(_simple(results, dtype)):
            if group.limits and group.first.level == "DRAM":
                floor, aim = one if group.first.threads == 1 else team
                beside = _at_level(results, group, Group.share)
                yield from _line("value / load only", group, _limit_name(group), group.share(),
                                 floor, aim, beside=beside)  # fmt: skip


def _blas(results: Results) -> Iterator[Answer]:
    dot = "scipy blas dot"
    for dtype, level, floor, aim in (
        ("f32", "L2", 0.55, 1.0), ("f64", "L2", 0.65, 1.0), ("f64", "L3", 0.95, 1.0),
    ):  # fmt: skip
        # Half of a cache: what fills it exactly does not stay in it.
        room = results.machine["caches"].get(level, 0) // 2
        fitting = [
            g
            for g in _simple(results, dtype)
            if g.first.level == level and g.first.nbytes <= room and g.first.threads == 1
        ]
        for group in _largest([g for g in fitting if dot in g.rows]):
            name = _named(group, dot, f"OpenBLAS {'sdot' if dtype == 'f32' else 'ddot'}")
            beside = _at_level(results, group, lambda g: g.against(dot))
            yield from _line("value / BLAS dot", group, name, group.against(dot), floor, aim,
                             beside=beside)  # fmt: skip


def _layouts(results: Results) -> Iterator[Answer]:
    for layout in ("strided", "transposed", "column"):
        for group in results.find("value", "sum_squares", layout=layout):
            best = _fastest(group, [name for name in group.rows if name.startswith("numpy")])
            if best and group.first.dtype in ("f32", "f64"):
                yield from _line("value / NumPy's best", group, _named(group, best),
                                 group.against(best), 2.0, 5.0)  # fmt: skip


def _calls(results: Results) -> Iterator[Answer]:
    for group in results.find("small_call", "sum_squares", n=64):
        if group.ours is None or not group.rivals:
            continue
        best = group.rivals[0].contender
        ours, loop = machine.seconds(group.ours.best), group.rows.get(EMPTY)
        if loop:
            ours += f" ({machine.seconds(max(group.ours.best - loop.best, 0.0))} + loop)"
        yield from _line("one call / fastest rival's", group, _named(group, best),
                         group.against(best), 1.0, 1 / 0.6, ours=ours)  # fmt: skip
        first, best_time = group.first, group.ours.best
        yield Answer(
            f"one call {first.dtype}", "one call", first.title, first.threads, ours,
            machine.seconds(best_time), "", machine.seconds(_CALL), "",
            "aim met" if best_time <= _CALL else "aim missed",
        )  # fmt: skip


def _frameworks(results: Results) -> Iterator[Answer]:
    groups = results.find("frameworks", "value_and_gradient_new", dtype="f32")
    for name, floor, aim in (
        ("jax jit", 1.2, 2.0), ("tensorflow XLA", 1.2, 2.0), ("torch eager", 6.0, 10.0),
    ):  # fmt: skip
        for group in _largest([g for g in groups if name in g.rows and g.ours]):
            yield from _line(f"value and new gradient / {name}", group, _named(group, name),
                             group.against(name), floor, aim)  # fmt: skip


def _gradients(results: Results) -> Iterator[Answer]:
    for operation, text in (
        ("gradient_out", "fresh gradient / copy"),
        ("gradient_accumulate", "accumulate / triad"),
        ("value_and_gradient_out", "value and gradient / copy"),
        ("value_and_gradient_accumulate", "value and accumulate / triad"),
    ):
        for dtype in ("f32", "f64"):
            for group in _largest(results.find("gradient", operation, dtype=dtype)):
                if group.limits:
                    yield from _line(text, group, _limit_name(group), group.share(), 0.9, 0.97,
                                     beside=_at_level(results, group, Group.share))  # fmt: skip


def _scaling(results: Results) -> Iterator[Answer]:
    """All cores against one, relative to what the load-only loop gains: a ratio of shares."""
    for dtype in ("f32", "f64"):
        for groups in (
            _simple(results, dtype),
            results.find("threads", "sum_squares", dtype=dtype),
        ):
            by_threads = {
                g.first.threads: g
                for g in _largest([g for g in groups if g.first.level == "DRAM" and g.share()])
            }
            most = max(by_threads, default=1)
            if most == 1 or 1 not in by_threads:
                continue
            one, team = by_threads[1], by_threads[most]
            a, b = team.share(), one.share()
            assert a
            assert b
            gains = [
                min(first.laps.values()) / min(last.laps.values())
                for first, last in (
                    (one.rows[OURS], team.rows[OURS]),
                    *[min(((one.rows[row.contender], row) for row in team.limits),
                          key=lambda pair: pair[1].best)],
                )
            ]  # fmt: skip
            ratio = Ratio(a.best / b.best, a.median / b.median, max(a.spread, b.spread))
            yield from _line("threads' gain / load only's", team, f"load only {gains[1]:.2f}x",
                             ratio, 0.95, 1.0, ours=f"{gains[0]:.2f}x")  # fmt: skip


def _rivals(results: Results) -> Iterator[Answer]:
    for dtype in ("f32", "f64"):
        for group in _largest(_simple(results, dtype)):
            if group.rivals:
                name = group.rivals[0].contender
                yield from _line("value / fastest rival", group, _named(group, name),
                                 group.against(name))  # fmt: skip


# -- Lines of counts -----------------------------------------------------------------------------


def _exactness(results: Results) -> Iterator[Answer]:
    for fact, text, best in (
        ("misrounded", "misroundings", 0),
        ("patterns", "distinct answers", 1),
    ):
        for group in results.groups:
            ours = group.ours
            if group.question != "exactness" or ours is None or fact not in ours.facts:
                continue
            count, first = ours.facts[fact], group.first
            of = ours.facts["vectors" if fact == "misrounded" else "ways"]
            rivals = ", ".join(
                f"{r.contender} {r.facts[fact]}" for r in group.rivals if fact in r.facts
            )
            yield Answer(
                f"{text} {first.dtype} {first.data}", text, f"{first.dtype} {first.data}",
                first.threads, f"{count} of {of}", str(count), str(best), str(best), rivals,
                "aim met" if count == best else "missed",
            )  # fmt: skip


# -- Why a floor is missed -----------------------------------------------------------------------


@dataclass(frozen=True)
class Reason:
    """What is known of a missed floor: why, the measurement that shows it, what was tried."""

    rows: str  # a pattern of keys, with * as in file names
    why: str
    measured: str = ""
    tried: str = ""


UNKNOWN = Reason("*", "not explained yet")


def reasons(path: Path = MISSES) -> list[Reason]:
    """Read the explanations."""
    return [Reason(**entry) for entry in tomllib.loads(path.read_text())["miss"]]


def explained(
    found: list[Answer], known: list[Reason] | None = None
) -> list[tuple[Answer, Reason]]:
    """Return the lines whose floor is missed, or may be, each with its reason."""
    known = reasons() if known is None else known
    return [
        (a, next((r for r in known if fnmatch.fnmatchcase(a.key, r.rows)), UNKNOWN))
        for a in found
        if a.verdict in ("missed", "unsure")
    ]


def geometric_mean(numbers: list[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, numbers)) / len(numbers)) if numbers else math.nan
