# SPDX-License-Identifier: BSD-3-Clause
"""Contests of calls: every contender once per lap, ratios within a lap."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["L1", "L2", "Contest", "Row", "run", "sizes"]

L1, L2 = 2.0**-10, 2.0**-11


@dataclass(frozen=True)
class Contest:
    """One thing that users want, fastreg's way and theirs; ``base`` is the step without it."""

    what: str
    data: str
    ours: Callable[[], Any]
    theirs: dict[str, Callable[[], Any]]
    base: Callable[[], Any] | None = None
    steps: int = 1
    """How many steps one call takes."""


@dataclass(frozen=True)
class Row:
    """What a contest came to: seconds for a step; ratios are theirs by ours."""

    what: str
    data: str
    ours: float
    rival: str
    theirs: float
    median: float
    fastest: float
    base: float | None


def sizes(quick: bool) -> list[int]:
    """Return the numbers of elements that are asked."""
    return [64, 1 << 16, 1 << 20] if quick else [64, 1024, 1 << 16, 1 << 20, 1 << 24]


def run(contest: Contest, quick: bool) -> Row:
    """Run the laps; the rival of the row is the one with the fastest call."""
    turn, laps = (0.02, 5) if quick else (0.05, 9)
    calls = {"fastreg": contest.ours, **contest.theirs}
    if contest.base is not None:
        calls["none"] = contest.base
    counts = {}
    for name, call in calls.items():
        call()  # compiles
        start = time.perf_counter()
        call()
        counts[name] = max(1, int(turn / max(time.perf_counter() - start, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(laps):
        for name, call in calls.items():
            count = counts[name]
            start = time.perf_counter()
            for _ in range(count):
                call()
            times[name].append((time.perf_counter() - start) / count / contest.steps)
    best = {name: min(found) for name, found in times.items()}
    rival = min(contest.theirs, key=best.__getitem__)
    ratios = [t / o for t, o in zip(times[rival], times["fastreg"], strict=True)]
    return Row(
        contest.what,
        contest.data,
        best["fastreg"],
        rival,
        best[rival],
        statistics.median(ratios),
        best[rival] / best["fastreg"],
        best.get("none"),
    )
