# SPDX-License-Identifier: BSD-3-Clause
"""What fastreg has set itself: ratios with a floor and an aim, answered from one run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks import machine
from benchmarks.race import EMPTY
from benchmarks.records import Group, Ratio, Results


@dataclass(frozen=True)
class Answer:
    """One line of the table of floors."""

    text: str
    case: str
    threads: int
    ours: str
    other: str
    ratio: Ratio | None
    floor: float | None
    aim: float | None

    @property
    def verdict(self) -> str:
        """Return met, missed, or what stands between."""
        if self.ratio is None or self.floor is None:
            return ""
        # On a busy machine the two estimates differ; only where they agree is there an answer.
        low, high = sorted((self.ratio.best, self.ratio.median))
        if low >= self.floor:
            return "aim met" if self.aim is not None and low >= self.aim else "met"
        return "missed" if high < self.floor else "unsure"


def _largest(groups: list[Group]) -> list[Group]:
    most = max((group.first.nbytes for group in groups), default=0)
    return [group for group in groups if group.first.nbytes == most]


def _plain(groups: list[Group]) -> list[Group]:
    keep = []
    for group in groups:
        first = group.first
        if first.layout == "contiguous" and not first.cold and first.test.count("_") <= 4:
            keep.append(group)
    return keep


def answers(results: Results) -> list[Answer]:
    """Return every line that the run can answer."""
    return [*_value(results), *_calls(results), *_gradients(results), *_rivals(results)]


def _answer(
    text: str,
    group: Group,
    other: str,
    ratio: Ratio | None,
    floor: float | None = None,
    aim: float | None = None,
) -> Answer:
    ours = group.ours
    assert ours is not None
    speed = machine.seconds(ours.best) if not ours.gbs or ours.n <= 1024 else f"{ours.gbs:.1f} GB/s"
    return Answer(text, group.first.title, group.first.threads, speed, other, ratio, floor, aim)


def _limit_name(group: Group) -> str:
    fastest = min(group.limits, key=lambda row: row.best)
    return f"{fastest.contender.removeprefix('limit: ')} {fastest.gbs:.1f} GB/s"


def _simple(results: Results, dtype: str) -> list[Group]:
    return [
        group
        for group in _plain(results.find("value", "sum_squares", dtype=dtype))
        if group.first.test == "test_sum_squares" and group.ours
    ]


def _value(results: Results) -> Iterator[Answer]:
    for dtype, floor_one, aim_one in (
        ("f32", 0.95, 0.98), ("f64", 0.95, 0.98), ("bf16", 0.9, 0.97), ("f16", 0.8, 0.97),
    ):  # fmt: skip
        for group in _largest(_simple(results, dtype)):
            if group.limits and group.first.level == "DRAM":
                # The core's floor holds for every number of threads.
                yield _answer("value / load only", group, _limit_name(group), group.share(),
                              floor_one, aim_one)  # fmt: skip
    for dtype, level, floor, aim in (
        ("f32", "L2", 0.55, 1.0), ("f64", "L2", 0.65, 1.0), ("f64", "L3", 0.95, 1.0),
    ):  # fmt: skip
        # Half of a cache: what fills it exactly does not stay in it.
        room = results.machine["caches"].get(level, 0) // 2
        fitting = [
            g for g in _simple(results, dtype) if g.first.level == level and g.first.nbytes <= room
        ]
        for group in _largest([g for g in fitting if g.first.threads == 1]):
            if row := group.rows.get("scipy blas dot"):
                other = f"OpenBLAS {'sdot' if dtype == 'f32' else 'ddot'} {row.gbs:.1f} GB/s"
                ratio = group.against("scipy blas dot")
                yield _answer("value / BLAS dot", group, other, ratio, floor, aim)


def _calls(results: Results) -> Iterator[Answer]:
    for group in results.find("small_call", "sum_squares", n=64):
        if group.ours is None:
            continue
        loop = group.rows.get(EMPTY)
        for name in ("scipy blas dot", "numkong.dot", "bottleneck.ss", "numpy.vdot"):
            if row := group.rows.get(name):
                other = f"{name} {machine.seconds(row.best)}"
                answer = _answer("one call", group, other, group.against(name), 1.0, 1 / 0.6)
                if loop:
                    net = machine.seconds(max(group.ours.best - loop.best, 0.0))
                    answer = replace(answer, ours=f"{answer.ours} ({net} + loop)")
                yield answer


def _gradients(results: Results) -> Iterator[Answer]:
    for operation, text in (
        ("gradient_out", "fresh gradient / copy"),
        ("gradient_accumulate", "accumulate / triad"),
        ("value_and_gradient_out", "value and gradient / copy"),
        ("value_and_gradient_accumulate", "value and accumulate / triad"),
    ):
        for dtype in ("f32", "f64"):
            for group in _largest(results.find("gradient", operation, dtype=dtype)):
                if group.ours and group.limits:
                    yield _answer(text, group, _limit_name(group), group.share(), 0.9, 0.97)


_BEATEN = ("numpy.vdot", "numkong.dot", "bottleneck.ss", "numexpr", "numba parallel")


def _rivals(results: Results) -> Iterator[Answer]:
    for dtype in ("f32", "f64"):
        for group in _simple(results, dtype):
            if group.first.level in ("L1", "L2"):
                continue
            rows = [group.rows[name] for name in _BEATEN if name in group.rows]
            if rows:
                row = min(rows, key=lambda row: row.best)
                other = f"{row.contender} {row.gbs:.1f} GB/s"
                ratio = group.against(row.contender)
                yield _answer("value / fastest rival", group, other, ratio, 1.0)


def geometric_mean(numbers: list[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, numbers)) / len(numbers)) if numbers else math.nan
