# SPDX-License-Identifier: BSD-3-Clause
"""A guard for regressions: ratios against the limit and NumPy compared with a stored baseline.

Ratios, not times: both sides of a ratio were measured within a second of each other, so most of the
machine's moods cancel. What is left is bounded by the spread over the laps, of then and of now; and
what falls is asked again: a regression falls twice, a mood once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.engine.race import ON_A_LINE
from benchmarks.reports.records import Ratio, Results

BASELINE = Path(__file__).with_name("baseline.json")

# A ratio may fall by this much, or by so many of its own and the baseline's deviations. On a busy
# machine, where three laps agree by chance only, one of 127 ratios fell by a fifth, and twice.
_SLACK, _SLACK_IF_BUSY = 0.10, 0.30
_DEVIATIONS = 4.0


def busy(load: float | None, cores: int) -> bool:
    """Tell whether other programs ran: the suite's own threads make a load of all cores at most."""
    return (load or 0.0) > 1.25 * cores


def ratios(results: Results, threads: bool = True) -> dict[str, Ratio]:
    """Return fastreg's ratios by name: against the limit, each NumPy rival, and on a line.

    Without ``threads``, those of one thread only.
    """
    found: dict[str, Ratio] = {}
    for group in results.groups:
        if group.ours is None or (group.first.threads > 1 and not threads):
            continue
        name = f"{group.question} {group.first.test} {group.case}"
        if (share := group.share()) is not None:
            found[f"{name} / limit"] = share
        for rival in group.rows:
            guarded = rival.startswith("numpy") or rival == ON_A_LINE
            if guarded and (against := group.against(rival)):
                found[f"{name} / {rival}"] = against
    return found


def _where(results: Results) -> dict[str, Any]:
    return {key: results.machine.get(key) for key in ("cpu", "cpu_family", "cores", "isa")}


def save(runs: Sequence[Results], path: Path) -> None:
    """Store the ratios of some runs as the baseline: of each the lowest, that luck alone beats."""
    every = [ratios(results) for results in runs]
    table = {
        name: {
            "median": round(min(found[name].median for found in every), 4),
            "spread": round(max(found[name].spread for found in every), 4),
        }
        for name in sorted(set.intersection(*map(set, every)))
    }
    last = runs[-1]
    document = {
        "machine": _where(last),
        "date": last.machine.get("date"),
        "load": max(results.machine.get("load") or 0.0 for results in runs),
        "ratios": table,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _idle(results: Results, baseline: dict[str, Any]) -> bool:
    """Tell whether ratios of several threads mean anything: a busy machine starves one of them."""
    cores = results.machine["cores"]
    return not busy(results.machine.get("load"), cores) and not busy(baseline.get("load"), cores)


def regressions(
    results: Results, baseline: dict[str, Any]
) -> list[tuple[str, float, float, float]]:
    """Return (name, baseline, now, bound) of every ratio that fell below its bound."""
    fallen = []
    idle = _idle(results, baseline)
    least = _SLACK if idle else _SLACK_IF_BUSY
    for name, now in ratios(results, idle).items():
        then = baseline["ratios"].get(name)
        if then is None:
            continue
        slack = max(least, _DEVIATIONS * (then["spread"] + now.spread))
        bound = then["median"] * (1.0 - min(slack, 0.9))
        # The fastest calls see the least of other programs: both must have fallen.
        if max(now.median, now.best) < bound:
            fallen.append((name, then["median"], now.median, bound))
    return fallen


def check(
    results: Results,
    path: Path,
    stream: TextIO,
    again: Callable[[list[str]], Results | None] | None = None,
) -> int:
    """Compare with the baseline; return 1 if a ratio fell, 2 if there is nothing to compare.

    ``again`` asks the questions that it is given once more; then only what falls twice counts.
    """
    if not path.exists():
        stream.write("guard: no baseline; store one with --save-baseline\n")
        return 2
    baseline = json.loads(path.read_text())
    if baseline["machine"] != _where(results):
        stream.write(f"guard: the baseline is of another machine, {baseline['machine']}\n")
        return 2
    fallen = regressions(results, baseline)
    suspects = list(dict.fromkeys(name.partition(" ")[0] for name, *_ in fallen))
    if suspects and again is not None:
        stream.write(f"guard: {len(fallen)} fell; asked again: {', '.join(suspects)}\n")
        if (second := again(suspects)) is not None:
            twice = {name for name, *_ in regressions(second, baseline)}
            fallen = [entry for entry in fallen if entry[0] in twice]
    for name, then, now, bound in fallen:
        stream.write(f"guard: {name}: {now:.3f}, was {then:.3f}, bound {bound:.3f}\n")
    idle = _idle(results, baseline)
    if not idle:
        stream.write("guard: the machine is or was busy: one thread only, wider bounds\n")
    known = sum(name in baseline["ratios"] for name in ratios(results, idle))
    stream.write(f"guard: {known} ratios compared, {len(fallen)} fell\n")
    return 1 if fallen else 0
