# SPDX-License-Identifier: BSD-3-Clause
"""The plots: bandwidth against size, ratios per rival, thread scaling, error against n."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.engine import machine
from benchmarks.engine.race import FORCED, OURS
from benchmarks.reports.floors import geometric_mean
from benchmarks.reports.records import Group, Results, Row

# Okabe and Ito's colours, told apart by all common kinds of colour blindness; lighter on a dark
# page.
# Marks and strokes differ, too: lines are told apart in grey, and where one covers another.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A", "#8C6D31")
_ON_DARK = ("#56B4E9", "#F0793A", "#2FBF8F", "#E79AC6", "#E69F00", "#F0E442", "#B0B0B0", "#C09A5B")
_MARKS = "osD^vP*X"
_STROKES = (
    "-", (0, (5, 1.5)), (0, (3, 1.5)), (0, (1, 1)), (0, (6, 2, 1, 2)), (0, (4, 1, 1, 1, 1, 1)),
    (0, (8, 3)), (0, (2, 3)),
)  # fmt: skip
_NAMES = (
    OURS, "numpy.vdot", "scipy blas dot", "numkong.dot", "bottleneck.ss", "numba parallel",
    "numexpr", "numpy sum(x*x)",
)  # fmt: skip
LIGHT = {"ink": "#1b1f24", "paper": "#ffffff", "grid": "#d8dde3"}
DARK = {"ink": "#e6e9ed", "paper": "#14171a", "grid": "#39414a"}
# Inches: a page's column, and a telephone held upright.
_WIDE, _NARROW = 8.0, 4.3


@dataclass(frozen=True)
class Plot:
    """A figure that can be drawn in any theme."""

    name: str
    title: str
    alt: str
    draw: Callable[[Any], None]
    height: float = 5.0


def available() -> bool:
    """Tell whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def render(plot: Plot, kind: str, *, narrow: bool = False) -> bytes:
    """Draw a plot as "svg" or "png"; narrow for a small window, with text as large."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    c = LIGHT
    style = {
        "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": plot.name,
        "text.color": c["ink"], "axes.labelcolor": c["ink"], "axes.edgecolor": c["ink"],
        "xtick.color": c["ink"], "ytick.color": c["ink"], "axes.facecolor": c["paper"],
        "figure.facecolor": c["paper"], "grid.color": c["grid"], "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False, "axes.axisbelow": True,
        "savefig.facecolor": c["paper"],
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(_NARROW if narrow else _WIDE, plot.height), layout="constrained")
        FigureCanvasAgg(figure)
        figure.narrow = narrow  # type: ignore[attr-defined]
        plot.draw(figure)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=120, metadata=metadata)
    return buffer.getvalue()


def darkened(svg: bytes) -> bytes:
    """Return a drawing in the colours for a dark page: laying it out again takes a second."""
    pairs = {LIGHT[role]: DARK[role] for role in LIGHT} | dict(zip(COLOURS, _ON_DARK, strict=True))
    found = {old.lower().encode(): new.lower().encode() for old, new in pairs.items()}
    return re.sub(b"#[0-9a-f]{6}", lambda m: found.get(m.group(), m.group()), svg)


def all_plots(results: Results) -> list[Plot]:
    """Return the plots that the results hold something for."""
    found: list[Plot] = []
    for dtype in ("f32", "f64"):
        for threads in sorted({g.first.threads for g in results.groups if g.question == "value"}):
            found += _bandwidth(results, dtype, threads)
    return [*found, *_ratios(results), *_scaling(results), *_errors(results)]


def _style(name: str) -> dict[str, Any]:
    i = _NAMES.index(name) if name in _NAMES else len(_NAMES) - 1
    ours = name == OURS
    return {
        "color": COLOURS[i], "marker": _MARKS[i], "linestyle": _STROKES[i],
        "linewidth": 2.4 if ours else 1.5, "markersize": 6 if ours else 5,
        "zorder": 5 if ours else 3,
    }  # fmt: skip


def _legend(figure: Any) -> None:
    columns = 2 if figure.narrow else 4
    figure.legend(loc="outside lower center", fontsize=10, ncols=columns, handlelength=2.6)


def _bytes_axis(axes: Any, sizes: list[int]) -> None:
    axes.set_xscale("log", base=2)
    low, high = min(sizes), max(sizes)
    step = 1 if high / low < 64 else 8 if axes.figure.narrow and high / low > 1 << 16 else 4
    ticks = [1 << k for k in range(8, 36, step) if low / 2 <= 1 << k <= 2 * high]
    axes.set_xticks(ticks, [machine.size(t) for t in ticks])
    axes.minorticks_off()


def _cache_lines(axes: Any, results: Results, sizes: list[int]) -> None:
    low, high = axes.get_xlim()
    edges = [low]
    names = []
    for name, size in results.machine["caches"].items():
        if low < size < high:
            axes.axvline(size, color=LIGHT["ink"], linewidth=0.8, linestyle=(0, (2, 3)), alpha=0.6)
        edges.append(min(max(size, low), high))
        names.append(name)
    edges.append(high)
    names.append("DRAM")
    for name, left, right in zip(names, edges, edges[1:], strict=False):
        if right / left > 1.5:
            middle = math.sqrt(left * right)
            axes.annotate(
                name, (middle, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", ha="center", va="bottom", fontsize=10, alpha=0.8,
            )  # fmt: skip


def _bandwidth(results: Results, dtype: str, threads: int) -> list[Plot]:
    groups = [
        g
        for g in results.find("value", "sum_squares", dtype=dtype, threads=threads)
        if g.first.test == "test_sum_squares" and g.ours and g.limits
    ]
    groups.sort(key=lambda g: g.first.nbytes)
    if len(groups) < 2:
        return []
    sizes = [g.first.nbytes for g in groups]
    names = [n for n in _NAMES if any(n in g.rows for g in groups)]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        ink = LIGHT["ink"]
        best = [max(row.gbs for row in g.limits) for g in groups]
        axes.plot(sizes, best, color=ink, linestyle="--", linewidth=1.5, label="load only (limit)")
        for name in names:
            points = [(g.first.nbytes, g.rows[name].gbs) for g in groups if name in g.rows]
            axes.plot(*zip(*points, strict=True), label=name, **_style(name))
        axes.set_yscale("log")
        _plain_log(axes.yaxis)
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 0.05))
        _bytes_axis(axes, sizes)
        _cache_lines(axes, results, sizes)
        axes.grid(axis="y")
        axes.set_xlabel("size of x")
        axes.set_ylabel("GB/s of x read")
        _legend(figure)

    plural = "thread" if threads == 1 else "threads"
    title = f"Sum of squares, {dtype}, {threads} {plural}: bandwidth against size"
    alt = (
        f"{title}. Log axes; dotted lines are the cache sizes, the dashed line is a load-only loop."
    )
    return [Plot(f"bandwidth-{dtype}-{threads}", title, alt, draw)]


def _plain_log(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(NullFormatter())


_FAMILIES = {
    "value": "value",
    "gradient": "gradients",
    "small_call": "one small call",
    "lists": "whole models",
    "frameworks": "frameworks",
}


def _ratios(results: Results) -> list[Plot]:
    """Draw how many times faster fastreg is than each rival, one plot a question."""
    return [
        plot
        for question, title in _FAMILIES.items()
        for plot in _ratio_plot(
            [g for g in results.groups if g.question == question], question, title
        )
    ]


def _place(group: Group) -> str:
    if group.question in ("small_call", "lists"):
        return ""
    if group.first.n <= 1024:
        return ", one call"
    return ", in memory" if group.first.level == "DRAM" else ", in cache"


def _ratio_plot(groups: list[Group], question: str, family: str) -> list[Plot]:
    """Draw one bar for each operation, place and rival: the mean of its cases, and their range."""
    found: dict[str, dict[str, list[float]]] = {}
    for group in groups:
        if group.first.layout != "contiguous" or group.first.cold:
            continue
        for row in group.rivals:
            if r := group.against(row.contender):
                operation = group.operation.replace("_", " ") + _place(group)
                found.setdefault(operation, {}).setdefault(row.contender, []).append(r.median)
    bars: list[tuple[str, list[float]]] = []
    headings: list[int] = []
    for operation, by_rival in found.items():
        headings.append(len(bars))
        bars.append((operation, []))
        bars += sorted(by_rival.items(), key=lambda item: geometric_mean(item[1]))
    if not bars:
        return []

    def draw(figure: Any) -> None:
        from matplotlib.ticker import LogLocator

        axes = figure.subplots()
        ink = LIGHT["ink"]
        everything = [r for _, ratios in bars for r in ratios]
        lowest, highest = min(everything), max(everything)
        for i, (_, ratios) in enumerate(bars):
            if not ratios:
                continue
            mean = geometric_mean(ratios)
            axes.barh(i, mean - 1, left=1, color=COLOURS[0 if mean >= 1 else 1], height=0.65)
            if len(ratios) > 1:
                axes.plot([min(ratios), max(ratios)], [i, i], color=ink, linewidth=1.1, marker="|")
            axes.annotate(
                _times(mean), (max(*ratios, mean, 1), i),
                xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5,
            )  # fmt: skip
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
        left, right = min(lowest, 0.8) / 1.3, max(highest, 1.2)
        room = 0.35 if figure.narrow else 0.14  # for the number behind the longest bar
        axes.set_xlim(left, right * (right / left) ** room)
        axes.spines["left"].set_visible(False)
        if highest / lowest > 100:
            axes.xaxis.set_major_locator(LogLocator(base=10))
        axes.axvline(1, color=ink, linewidth=1)
        names = ["" if i in headings else name for i, (name, _) in enumerate(bars)]
        axes.set_yticks(range(len(bars)), names, fontsize=10)
        across = axes.get_yaxis_transform()
        for i in headings:
            # Over the whole width, on paper of its own: no grid line runs through the words.
            text = axes.text(
                0.0, i, bars[i][0], transform=across, fontsize=10, fontweight="bold", va="center",
                bbox={"facecolor": LIGHT["paper"], "edgecolor": "none", "pad": 1.0},
            )  # fmt: skip
            text.set_in_layout(False)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.set_xlabel("times as fast as the rival\nbar: mean of the cases, line: range")

    title = f"fastreg against each rival: {family}"
    alt = f"{title}. Bars to the right of 1 are wins, bars to the left losses."
    return [Plot(f"ratios-{question}", title, alt, draw, 1.2 + 0.27 * len(bars))]


def _times(ratio: float) -> str:
    if ratio < 0.1:
        return f"{ratio:.1g}×"
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.0f}×"


def _scaling(results: Results) -> list[Plot]:
    groups = [g for g in results.find("threads", "sum_squares", dtype="f32") if g.ours and g.limits]
    counts = sorted({g.first.threads for g in groups})
    if len(counts) < 2:
        return []
    sizes = sorted({g.first.nbytes for g in groups})

    def draw(figure: Any) -> None:
        axes = figure.subplots()

        def times(pick: Callable[[Group], Row | None], threads: int) -> dict[int, float]:
            found = {}
            for g in groups:
                if g.first.threads == threads and (row := pick(g)):
                    found[g.first.nbytes] = row.best
            return found

        def limit(g: Group) -> Row:
            return min(g.limits, key=lambda row: row.best)

        def ours(g: Group) -> Row | None:
            return g.ours

        def forced(g: Group) -> Row | None:
            return g.rows.get(FORCED)

        most = counts[-1]
        lines = (
            ("fastreg", ours, {"color": COLOURS[0], "marker": "o", "linewidth": 2.4}),
            (
                "fastreg, threads forced",
                forced,
                {"color": COLOURS[2], "marker": "D", "linestyle": _STROKES[2]},
            ),
            ("load only (limit)", limit, {"color": LIGHT["ink"], "linestyle": "--"}),
        )
        for name, pick, style in lines:
            one = times(ours if pick is forced else pick, 1)
            for threads in counts[1:]:
                many = times(pick, threads)
                points = [(n, one[n] / many[n]) for n in sizes if n in one and n in many]
                if points:
                    faint = {} if threads == most else {"alpha": 0.45}
                    axes.plot(*zip(*points, strict=True), label=f"{name}, {threads} threads",
                              **style, **faint)  # fmt: skip
        axes.axhline(1, color=LIGHT["ink"], linewidth=0.8)
        axes.set_ylim(bottom=0)
        _bytes_axis(axes, sizes)
        _cache_lines(axes, results, sizes)
        axes.grid(axis="y")
        axes.set_xlabel("size of x")
        axes.set_ylabel("times as fast as one thread")
        _legend(figure)

    title = "Threads: gain over one thread, f32 sum of squares"
    return [Plot("threads", title, f"{title}, against the size of x.", draw)]


def _errors(results: Results) -> list[Plot]:
    groups = [
        g
        for g in results.find("value", "sum_squares", dtype="f32", threads=1, layout="contiguous")
        if g.first.test == "test_sum_squares"
    ]
    groups.sort(key=lambda g: g.first.n)
    if len(groups) < 2:
        return []
    names = [n for n in _NAMES if any(n in g.rows for g in groups)]
    exact = 2.0**-25  # below half a unit in the last place an error is drawn on the floor
    lengths = [g.first.n for g in groups]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name in names:
            points = [
                (g.first.n, max(g.rows[name].facts["relative_error"], exact / 4))
                for g in groups
                if name in g.rows and g.rows[name].facts.get("relative_error") is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, **_style(name))
        axes.axhspan(
            exact / 8, 2 * exact, color=COLOURS[0], alpha=0.15, linewidth=0,
            label="within half a unit of f32",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(min(lengths) / 1.5, max(lengths) * 1.5)
        axes.set_ylim(bottom=exact / 8)
        axes.grid(axis="y")
        axes.set_xlabel("n (elements)")
        axes.set_ylabel("relative error")
        _legend(figure)

    title = "Error of f32 sums of squares against n"
    return [Plot("error", title, f"{title}; log axes.", draw)]
