# SPDX-License-Identifier: BSD-3-Clause
"""From the harness' JSON to rows: one per case and contender, laps joined, ratios formed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine.race import EMPTY, FORCED, ON_A_LINE, OURS

# Who races beside fastreg without being a rival: the harness, and fastreg in another way.
OURSELVES = (EMPTY, FORCED, ON_A_LINE)


@dataclass
class Row:
    """One contender in one case, over all laps. Times are seconds per call."""

    facts: dict[str, Any]
    laps: dict[int, float] = field(default_factory=dict)  # lap -> fastest call
    medians: dict[int, float] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """Fastest call of all laps."""
        return min(self.laps.values())

    @property
    def median(self) -> float:
        """Median over the laps of their median call."""
        return statistics.median(self.medians.values())

    @property
    def gbs(self) -> float:
        """Bytes moved per second in the fastest call, in GB/s; 0 if no bytes are counted."""
        moved = self.facts.get("moved") or 0
        return float(moved) / self.best / 1e9

    def __getattr__(self, name: str) -> Any:
        if name == "facts":
            raise AttributeError(name)
        try:
            return self.facts[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Ratio:
    """How many times faster a is than b: of the fastest calls, and the median over the laps."""

    best: float
    median: float
    spread: float  # median absolute deviation over the laps, relative

    def __str__(self) -> str:
        return f"{self.median:.2f}"


@dataclass
class Group:
    """A case with everybody who ran it."""

    question: str
    operation: str
    case: str
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def ours(self) -> Row | None:
        """Return fastreg's row."""
        return self.rows.get(OURS)

    @property
    def limits(self) -> list[Row]:
        """Return the rows of the limits."""
        return [row for row in self.rows.values() if row.kind == "limit"]

    @property
    def rivals(self) -> list[Row]:
        """Return the rivals' rows, fastest first; what only measures the harness is none."""
        found = [
            row
            for row in self.rows.values()
            if row.kind == "rival" and row.contender not in OURSELVES
        ]
        return sorted(found, key=lambda row: row.best)

    @property
    def first(self) -> Row:
        """Return any row, for the facts that all share."""
        return self.ours or next(iter(self.rows.values()))

    def share(self) -> Ratio | None:
        """Return fastreg's speed as a share of the limit: the best loop of each lap."""
        if not self.ours or not self.limits:
            return None
        joined = {
            lap: min(row.laps[lap] for row in self.limits if lap in row.laps)
            for lap in self.limits[0].laps
        }
        return ratio(self.ours.laps, joined)

    def against(self, contender: str) -> Ratio | None:
        """Return how many times faster fastreg is than a contender."""
        row = self.rows.get(contender)
        return ratio(self.ours.laps, row.laps) if self.ours and row else None


def ratio(a: dict[int, float], b: dict[int, float]) -> Ratio | None:
    """Compare times lap by lap: above 1, a is faster."""
    laps = [b[lap] / a[lap] for lap in sorted(a) if lap in b]
    if not laps:
        return None
    middle = statistics.median(laps)
    spread = statistics.median(abs(r - middle) for r in laps) / middle
    return Ratio(min(b.values()) / min(a.values()), middle, spread)


@dataclass
class Results:
    """Everything that one run measured."""

    machine: dict[str, Any]
    groups: list[Group]

    def find(self, question: str, operation: str, **facts: Any) -> list[Group]:
        """Return the groups of a question and operation with the given facts."""
        return [
            group
            for group in self.groups
            if (group.question, group.operation) == (question, operation)
            and all(group.first.facts.get(key) == item for key, item in facts.items())
        ]

    def questions(self) -> list[str]:
        """Return the questions asked, in order."""
        return list(dict.fromkeys(group.question for group in self.groups))


def load(paths: Iterable[Path]) -> Results:
    """Read the harness' JSON files."""
    groups: dict[tuple[str, ...], Group] = {}
    machine: dict[str, Any] = {}
    for path in paths:
        document = json.loads(path.read_text())
        machine = document["machine_info"] | {
            "versions": machine.get("versions", {}) | document["machine_info"]["versions"],
            "blas": machine.get("blas") or document["machine_info"].get("blas"),
            "load": max(machine.get("load") or 0.0, document["machine_info"].get("load") or 0.0),
        }
        for record in document["benchmarks"]:
            facts = record["extra_info"]
            if "case" not in facts:
                continue
            test = record["name"].partition("[")[0]
            key = (facts["question"], test, facts["case"])
            group = groups.setdefault(
                key, Group(facts["question"], facts["operation"], facts["case"])
            )
            row = group.rows.setdefault(facts["contender"], Row({}))
            row.facts = facts | row.facts | {"test": test}
            row.laps[facts["lap"]] = record["stats"]["min"] / facts["repeats"]
            row.medians[facts["lap"]] = record["stats"]["median"] / facts["repeats"]
    return Results(machine, list(groups.values()))
