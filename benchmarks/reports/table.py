# SPDX-License-Identifier: BSD-3-Clause
"""The run as a table for a terminal: one line a case, the fastest rival beside fastreg."""

from __future__ import annotations

import shutil
from typing import TextIO

from benchmarks.engine import machine
from benchmarks.reports import floors
from benchmarks.reports.records import Group, Results

_HEAD = ("what", "data", "thr", "fastreg", "of limit", "fastest rival", "", "faster")


def speed(group: Group, row: object) -> str:
    """Write how fast a contender is: GB/s where bytes are counted, else the time of a call."""
    gbs: float = row.gbs  # type: ignore[attr-defined]
    if gbs and group.first.n > 1024:
        return f"{gbs:.1f} GB/s"
    return machine.seconds(row.best)  # type: ignore[attr-defined]


def lines(results: Results, question: str) -> list[tuple[str, ...]]:
    """Return the cells of a question's table."""
    found = []
    for group in results.groups:
        if group.question != question or group.ours is None:
            continue
        share = group.share()
        rival = group.rivals[0] if group.rivals else None
        faster = group.against(rival.contender) if rival else None
        found.append(
            (
                group.first.test.removeprefix("test_"),
                group.first.title,
                str(group.first.threads),
                speed(group, group.ours),
                f"{share.median:.2f}" if share else "",
                rival.contender if rival else "",
                speed(group, rival) if rival else "",
                f"{faster.median:.2f}x" if faster else "",
            )
        )
    return found


def render(head: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> list[str]:
    """Lay cells out in columns; shorten the first two where the terminal is narrow."""
    used = [i for i in range(len(head)) if any(cells[i] for cells in rows)]
    left = {used.index(i) for i in (0, 1, 5) if i in used}
    head = tuple(head[i] for i in used)
    rows = [tuple(cells[i] for i in used) for cells in rows]
    widths = [max(len(cells[i]) for cells in [head, *rows]) for i in range(len(head))]
    spare = width - sum(widths) - 2 * (len(widths) - 1)
    for i in sorted(left, reverse=True):
        if spare < 0:
            cut = min(-spare, max(0, widths[i] - 12))
            widths[i] -= cut
            spare += cut
    out = []
    for cells in [head, *rows]:
        parts = []
        for i, (cell, room) in enumerate(zip(cells, widths, strict=True)):
            text = cell if len(cell) <= room else cell[: room - 1] + "~"
            parts.append(text.ljust(room) if i in left else text.rjust(room))
        out.append("  ".join(parts).rstrip())
    return out


def show(results: Results, stream: TextIO) -> None:
    """Print every question's table, then the floors."""
    width = shutil.get_terminal_size().columns if stream.isatty() else 200
    m = results.machine
    caches = ", ".join(f"{name} {machine.size(size)}" for name, size in m["caches"].items())
    stream.write(f"{m['cpu']} ({m['cpu_family']}), {m['cores']} cores, {caches}, {m['isa']}\n")
    stream.write(f"{m['date']}, load {m['load']:.1f}; {m['compiler']}; {m['blas']}\n")
    for question in results.questions():
        rows = lines(results, question)
        if rows:
            stream.write(f"\n{question}\n")
            for line in render(_HEAD, rows, width):
                stream.write(line + "\n")
    answers = floors.answers(results)
    if answers:
        stream.write("\nfloors\n")
        head = ("what", "data", "thr", "fastreg", "ratio", "against", "floor", "aim", "")
        cells = [
            (a.text, a.case, str(a.threads), a.ours, a.figure, a.other, a.floor, a.aim, a.verdict)
            for a in answers
        ]
        for line in render(head, cells, width):
            stream.write(line + "\n")
    wrong = wrong_answers(results)
    if wrong:
        stream.write("\nwrong answers (more than half off, or not finite)\n")
        stream.writelines(f"{text}\n" for text in wrong)


def wrong_answers(results: Results) -> list[str]:
    """Name the contenders whose answers were far off."""
    found = [
        f"{row.contender}: {group.first.test.removeprefix('test_')} {group.first.title}"
        for group in results.groups
        for row in group.rows.values()
        if row.facts.get("wrong")
    ]
    return list(dict.fromkeys(found))
