# SPDX-License-Identifier: BSD-3-Clause
"""The report: Markdown, plots, one page of HTML that needs nothing else, and the README's table."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from benchmarks.engine import machine, rivals
from benchmarks.reports import floors, guard, plots, table
from benchmarks.reports.records import OURSELVES, Group, Results

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

_QUESTIONS = {
    "value": "How fast is the value?",
    "gradient": "How fast are gradients?",
    "small_call": "What does one small call cost?",
    "lists": "What does a whole model cost?",
    "threads": "From which size do threads pay?",
    "isa": "What does each ISA level reach?",
    "exactness": "How right is each contender?",
    "fallbacks": "What do the fallbacks cost?",
    "states": "What does an exact state cost?",
    "frameworks": "What do the frameworks take?",
    "import": "What does fastreg cost before its first call?",
}
_HOW = """\
Every contender of a case is timed once per lap, shortly after the others, on the same data and
threads. **Ratios are of speeds; above 1, fastreg is faster**: the median over the laps of the ratio
within a lap, then in brackets the ratio of the fastest calls. GB/s count the bytes that must move:
x for values, x and the result for fresh gradients, x and the result twice for accumulated ones. The
limit is the fastest of the project's own loops that only load, copy or add the same bytes. In
caches it does not pay for a Python call; fastreg does. Errors are relative to the exact value. All
contenders are shown, also where fastreg loses. Laps: a question has a budget of time, and who takes
seconds a call has fewer turns in it, at least one. Not asked at every size: math.fsum above a
million elements, NumPy's and other libraries' two-byte loops in memory, which take many seconds.
"""

_MANY = 60

Cells = list[str]
Table = tuple[Cells, list[Cells]]
Section = tuple[str, str, list[Table]]


def write(results: Results, folder: Path) -> None:
    """Write report.md, index.html and the plots to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plots.all_plots(results) if plots.available() else []
    for plot in drawn:
        (folder / f"{plot.name}.png").write_bytes(plots.render(plot, "png"))
        (folder / f"{plot.name}.svg").write_bytes(plots.render(plot, "svg"))
    (folder / "report.md").write_text(_markdown(results, drawn))
    (folder / "index.html").write_text(_page(results, drawn))


# -- What the report says: sections of (heading, text, tables), for both formats -----------------


def _facts(results: Results) -> list[Cells]:
    m = results.machine
    caches = ", ".join(f"{name} {machine.size(size)}" for name, size in m["caches"].items())
    rows = [
        ["CPU", f"{m['cpu']} ({m['cpu_family']}), {m['cores']} cores, {m['machine']}"],
        ["caches", caches],
        ["memory", machine.size(m["memory"])],
        ["ISA level", f"{m['isa']} (of {', '.join(m['isa_available'])})"],
        ["fastreg", f"{m['fastreg']}, {m['commit']}, {m['compiler']}"],
        ["limits", m["limits_compiler"]],
        ["system", f"{m['system']}, Python {m['python']}"],
        ["BLAS", m["blas"] or "none"],
        ["versions", ", ".join(f"{name} {v}" for name, v in m["versions"].items())],
        ["date", f"{m['date']}, load average {m['load']:.1f} of {m['cores']}"],
    ]
    if absent := _absent(results):
        rows.append(["not in this run", ", ".join(absent)])
    if guard.busy(m["load"], m["cores"]):
        rows.append(["caution", "other programs were running: treat all numbers as rough"])
    return rows


def _floor_tables(found: list[floors.Answer]) -> list[Table]:
    """Return the table of floors and, where some are missed, the table of reasons."""
    head = ["what", "data", "thr", "verdict", "figure", "floor", "aim", floors.BESIDE, "fastreg",
            "against"]  # fmt: skip
    rows = [
        [a.text, a.case, str(a.threads), a.verdict, a.figure, a.floor, a.aim, a.beside, a.ours,
         a.other]
        for a in found
    ]  # fmt: skip
    tables = [(head, rows)]
    missed = [
        [f"{a.text}, {a.case}, {a.threads} thr", f"{a.verdict}: {a.figure} of {a.floor}", r.why,
         r.measured, r.tried]
        for a, r in floors.explained(found)
    ]  # fmt: skip
    if missed:
        tables.append(
            (["floor", "figure", "why", "the measurement that shows it", "tried"], missed)
        )
    return tables


def _absent(results: Results) -> list[str]:
    """Name the rivals that raced in no case."""
    present = {name for group in results.groups for name in group.rows}
    every = {name for found in rivals.REGISTRY.values() for name in found}
    return sorted(every - present - set(OURSELVES))


def _timing_table(results: Results, question: str) -> tuple[Cells, list[Cells]]:
    head = ["what", "data", "thr", "contender", "fastest", "median", "GB/s", "of limit",
            "times faster", "error", "laps"]  # fmt: skip
    rows = []
    for group in results.groups:
        if group.question != question:
            continue
        order = {"fastreg": 0, "rival": 1, "limit": 2}
        best_limit = min((row.best for row in group.limits), default=0.0)
        for row in sorted(group.rows.values(), key=lambda r: (order[r.kind], r.best)):
            against = group.against(row.contender) if row.kind == "rival" else None
            share = group.share() if row.kind == "fastreg" else None
            rows.append(
                [
                    group.first.test.removeprefix("test_"),
                    group.first.title,
                    str(group.first.threads),
                    row.contender,
                    machine.seconds(row.best),
                    machine.seconds(row.median),
                    f"{row.gbs:.1f}" if row.gbs else "",
                    floors.show(share) or (f"({best_limit / row.best:.2f})" if best_limit else ""),
                    floors.show(against),
                    _error(row.facts),
                    str(len(row.laps)),
                ]
            )
    return head, rows


def _error(facts: dict[str, Any]) -> str:
    if facts.get("wrong"):
        return "wrong"
    error = facts.get("relative_error")
    return "" if error is None else f"{error:.1e}" if error else "0"


def _exactness_table(groups: list[Group]) -> tuple[Cells, list[Cells]]:
    head = ["contender", "data", "misrounded", "largest error", "mean error", "distinct answers"]
    rows = []
    for group in groups:
        for row in group.rows.values():
            f = row.facts
            if "misrounded" in f:
                cells = [f"{f['misrounded']} of {f['vectors']}", _ulps(f["max_ulps"]),
                         _ulps(f["mean_ulps"]), ""]  # fmt: skip
            elif "patterns" in f:
                cells = ["", "", "", f"{f['patterns']} in {f['ways']} ways"]
            else:
                continue
            rows.append([row.contender, f"{group.first.dtype} {f['data']}", *cells])
    return head, sorted(rows, key=lambda cells: cells[1])


def _ulps(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.3g} ulp"


def _fallback_table(groups: list[Group]) -> tuple[Cells, list[Cells]]:
    head = ["data", "deciding tier", "fastreg", "GB/s", "times ordinary data", "against numpy.vdot"]
    rows = []
    ordinary = {
        (g.first.dtype, g.first.nbytes): g.ours.best
        for g in groups
        if g.first.data == "normal" and g.ours
    }
    for g in groups:
        if g.ours:
            base = ordinary.get((g.first.dtype, g.first.nbytes))
            rows.append(
                [g.first.title + (" normal" if g.first.data == "normal" else ""),
                 f"T{g.first.facts.get('tier', '?')}", machine.seconds(g.ours.best),
                 f"{g.ours.gbs:.1f}", f"{g.ours.best / base:.2f}" if base else "",
                 floors.show(g.against("numpy.vdot"))]
            )  # fmt: skip
    return head, rows


def _import_note(groups: list[Group]) -> str:
    for group in groups:
        f = group.first.facts
        if "import_share" in f:
            return (
                f"The extension has {machine.size(f['extension_bytes'])}, everything zipped as a "
                f"wheel does {machine.size(f['wheel_bytes'])}. Times are of a process that starts "
                "Python, imports and ends; fastreg's import includes NumPy's, to which it adds "
                f"{f['import_share']:.0%}."
            )
    return ""


_PLOTS = "Plots"


def _sections(results: Results) -> list[Section]:
    found: list[Section] = []
    if answers := floors.answers(results):
        text = (
            "What the project has set itself. Figures are the median over the laps and, in "
            "brackets, the ratio of the fastest calls; a verdict is given where the two agree, "
            "unsure otherwise. Below the table: why floors are missed."
        )
        if any(a.beside for a in answers):
            text += f" The column {floors.BESIDE} has the same figure at that ISA level."
        found.append(("Floors and aims", text, _floor_tables(answers)))
    found.append((_PLOTS, "", []))
    for question in results.questions():
        title = _QUESTIONS.get(question, question)
        groups = [g for g in results.groups if g.question == question]
        if question == "exactness":
            text = (
                "Sums of squares of float32 (answers rounded to float32) and float64 vectors "
                "against exact integers. Near ties: sums built to lie on, or just above, the "
                "middle of two float32. Distinct answers: one vector at 16 byte offsets, forward, "
                "reversed and shuffled, with 1, 2, 3 and all threads; fastreg on every ISA level."
            )
            found.append((title, text, [_exactness_table(groups)]))
        elif question == "fallbacks":
            text = "The tier that had to decide: T0 float64 lanes, T1 anchored, T2 exact blocks."
            found.append((title, text, [_fallback_table(groups)]))
        elif question == "import":
            found.append((title, _import_note(groups), [_timing_table(results, question)]))
        else:
            found.append((title, "", [_timing_table(results, question)]))
    return found


# -- Markdown ------------------------------------------------------------------------------------


def _markdown_table(head: Cells, rows: list[Cells]) -> str:
    numeric = [_is_number(i, rows) for i in range(len(head))]
    lines = [head, ["--:" if right else "---" for right in numeric], *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def _is_number(i: int, rows: list[Cells]) -> bool:
    filled = [row[i] for row in rows if row[i]]
    return bool(filled) and sum(c[0].isdigit() or c[0] == "(" for c in filled) > 0.7 * len(filled)


def _markdown(results: Results, drawn: list[plots.Plot]) -> str:
    parts = ["# Benchmarks of fastreg", _HOW.strip(), "## Machine"]
    parts.append(_markdown_table(["", ""], _facts(results)))
    for title, text, tables in _sections(results):
        if title != _PLOTS or drawn:
            parts.append(f"## {title}")
        if title == _PLOTS:
            parts += [f"### {p.title}\n\n![{p.alt}]({p.name}.svg)" for p in drawn]
        if text:
            parts.append(text)
        parts += [_markdown_table(head, rows) for head, rows in tables if rows]
    return "\n\n".join(parts) + "\n"


# -- HTML ----------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #f3f5f7;
  --line: #d8dde3; --good: #0072B2; --bad: #B34700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --paper: #14171a; --soft: #1d2226; --line: #39414a; --good: #56B4E9;
    --bad: #E69F00; } }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 4rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } p { max-width: 46rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: 1rem 0; }
.tall { max-height: 32rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: 0.8rem; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.45rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--soft); }
td.n, th.n { text-align: right; }
tr.ours td { background: var(--soft); font-weight: 600; }
td.good { color: var(--good); font-weight: 600; } td.bad { color: var(--bad); font-weight: 600; }
td.long { white-space: normal; min-width: 11rem; max-width: 30rem; }
.facts td { white-space: normal; } .facts td:first-child { font-weight: 600; vertical-align: top; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; margin-bottom: 0.4rem; }
img { display: block; width: 100%; max-width: 56rem; }
@media (max-width: 40rem) { body { padding: 0.5rem 0.9rem 3rem; }
  td:first-child { white-space: normal; min-width: 6.5rem; } th, td { padding: 0.2rem 0.3rem; } }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; } a { color: var(--good); }
"""


def _html_table(head: Cells, rows: list[Cells], kind: str = "") -> str:
    # What a reader came for stands there whole; hundreds of rows do not push the rest away.
    tall = " tall" if len(rows) > _MANY else ""
    numeric = [' class="n"' if _is_number(i, rows) else "" for i in range(len(head))]
    out = [
        f'<div class="scroll{tall}" tabindex="0">',
        f'<table class="{kind}">',
    ]
    if any(head):
        cells = "".join(f"<th{n}>{html.escape(c)}</th>" for c, n in zip(head, numeric, strict=True))
        out.append(f"<thead><tr>{cells}</tr></thead>")
    out.append("<tbody>")
    for row in rows:
        cells = "".join(
            f"<td{_cell_class(c, n)}>{html.escape(c)}</td>"
            for c, n in zip(row, numeric, strict=True)
        )
        out.append(f"<tr{_row_class(head, row)}>{cells}</tr>")
    return "\n".join([*out, "</tbody></table></div>"])


def _cell_class(cell: str, numeric: str) -> str:
    if cell in ("met", "aim met"):
        return ' class="good"'
    if cell in ("missed", "wrong", "unsure"):
        return ' class="bad"'
    # A sentence, or a list of rivals, is wrapped: a table is no wider for it.
    return ' class="long"' if len(cell) > 34 else numeric


def _row_class(head: Cells, row: Cells) -> str:
    return ' class="ours"' if "contender" in head and "fastreg" in row else ""


def _uri(data: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(data).decode()


def _figure(plot: plots.Plot) -> str:
    small, dark = "(max-width: 40rem)", "(prefers-color-scheme: dark)"
    wide, narrow = plots.render(plot, "svg"), plots.render(plot, "svg", narrow=True)
    sources = {
        f"{small} and {dark}": plots.darkened(narrow),
        small: narrow,
        dark: plots.darkened(wide),
    }
    tags = "".join(
        f'<source media="{media}" srcset="{_uri(svg)}">' for media, svg in sources.items()
    )
    return (
        f"<figure><figcaption>{html.escape(plot.title)}</figcaption>"
        f'<picture>{tags}<img src="{_uri(wide)}" alt="{html.escape(plot.alt)}"></picture></figure>'
    )


def _page(results: Results, drawn: list[plots.Plot]) -> str:
    sections = [section for section in _sections(results) if section[0] != _PLOTS or drawn]
    names = ["Machine", *(title for title, _, _ in sections)]
    links = "".join(f'<a href="#s{i}">{html.escape(name)}</a>' for i, name in enumerate(names))
    how = html.escape(_HOW).replace("**", "<strong>", 1).replace("**", "</strong>", 1)
    body = [f"<h1>Benchmarks of fastreg</h1><p>{how}</p><nav>{links}</nav>"]
    body.append('<h2 id="s0">Machine</h2>' + _html_table(["", ""], _facts(results), "facts"))
    for i, (title, text, tables) in enumerate(sections, 1):
        body.append(f'<h2 id="s{i}">{html.escape(title)}</h2>')
        body.append(f"<p>{html.escape(text)}</p>" if text else "")
        body += map(_figure, drawn if title == _PLOTS else [])
        body += [_html_table(head, rows) for head, rows in tables if rows]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Benchmarks of fastreg</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


# -- The README's table --------------------------------------------------------------------------


def readme_table(results: Results) -> str:
    """Return the short table: the value and the gradient in memory and in cache, one small call."""
    m = results.machine
    rows = []
    for question, operation, what in (
        ("value", "sum_squares", "sum of squares"),
        ("gradient", "gradient_out", "fresh gradient"),
        ("gradient", "gradient_accumulate", "accumulated gradient"),
        ("small_call", "sum_squares", "one call"),
    ):
        for group in _readme_groups(results, question, operation):
            share, rival = group.share(), group.rivals[0]
            against = group.against(rival.contender)
            rows.append(
                [what, group.first.title, str(group.first.threads),
                 table.speed(group, group.ours), f"{100 * share.median:.0f} %" if share else "",
                 f"{rival.contender}, {table.speed(group, rival)}",
                 f"{against.median:.2f}×" if against else ""]
            )  # fmt: skip
    head = ["what", "data", "threads", "fastreg", "of the limit", "fastest rival", "fastreg is"]
    when = str(m["date"]).split()[0]
    note = (
        f"{m['cpu']} ({m['cpu_family']}), {m['cores']} cores, ISA level {m['isa']}, "
        f"{m['compiler']}, {m['blas']}, {when}, commit {m['commit']}. Limit: a loop that only "
        "loads, copies or adds the same bytes. Below 1×, the rival is faster. "
    )
    note += "All of it: `python -m fastreg bench --report DIR`."
    return f"{_markdown_table(head, rows)}\n\n{note}"


def _readme_groups(results: Results, question: str, operation: str) -> list[Group]:
    groups = [
        g
        for g in results.find(question, operation, layout="contiguous", cold=False)
        if g.ours and g.rivals and g.first.dtype in ("f32", "f64")
        and g.first.test in ("test_sum_squares", "test_gradient_into", "test_gradient_accumulate")
    ]  # fmt: skip
    if question == "small_call":
        return [g for g in groups if g.first.n == 64]
    largest = max((g.first.nbytes for g in groups), default=0)
    # Half of the cache: what fills it exactly does not stay in it.
    room = results.machine["caches"].get("L2", 0) // 2
    inner = [
        g
        for g in groups
        if g.first.level == "L2" and g.first.nbytes <= room and g.first.threads == 1
    ]
    chosen = [g for g in groups if g.first.nbytes == largest]
    if question == "value":
        for dtype in ("f32", "f64"):
            fitting = [g for g in inner if g.first.dtype == dtype]
            chosen += sorted(fitting, key=lambda g: g.first.nbytes)[-1:]
    return chosen


def update_readme(results: Results, path: Path) -> None:
    """Put the short table between the markers of a file."""
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise SystemExit(f"fastreg: {path} needs one line {BEGIN} and, below it, one line {END}")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{readme_table(results)}\n{END}{tail}")
