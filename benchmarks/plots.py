# SPDX-License-Identifier: BSD-3-Clause
"""The plots: bandwidth against size, ratios per rival, thread scaling, error against n."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import machine
from benchmarks.floors import geometric_mean
from benchmarks.race import OURS
from benchmarks.records import Group, Results, Row

# Okabe and Ito's colours, told apart by all common kinds of colour blindness; shapes differ too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#8C6D31")
_MARKS = "osD^vP*X"
_NAMES = (
    OURS, "numpy.vdot", "scipy blas dot", "numkong.dot", "bottleneck.ss", "numba parallel",
    "numexpr", "numpy sum(x*x)",
)  # fmt: skip
THEMES = {
    "light": {"ink": "#1b1f24", "paper": "#ffffff", "grid": "#d8dde3"},
    "dark": {"ink": "#e6e9ed", "paper": "#14171a", "grid": "#39414a"},
}


@dataclass(frozen=True)
class Plot:
    """A figure that can be drawn in any theme."""

    name: str
    title: str
    alt: str
    draw: Callable[[Any], None]
    width: float = 8.0
    height: float = 4.4


def available() -> bool:
    """Tell whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def render(plot: Plot, theme: str, kind: str) -> bytes:
    """Draw a plot as "svg" or "png"."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    c = THEMES[theme]
    style = {
        "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": plot.name,
        "text.color": c["ink"], "axes.labelcolor": c["ink"], "axes.edgecolor": c["ink"],
        "xtick.color": c["ink"], "ytick.color": c["ink"], "axes.facecolor": c["paper"],
        "figure.facecolor": c["paper"], "grid.color": c["grid"], "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False, "axes.axisbelow": True,
        "savefig.facecolor": c["paper"],
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(plot.width, plot.height), layout="constrained")
        FigureCanvasAgg(figure)
        figure.theme = c  # type: ignore[attr-defined]
        plot.draw(figure)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=120, metadata=metadata)
    return buffer.getvalue()


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
        "color": _COLOURS[i], "marker": _MARKS[i], "linewidth": 2.4 if ours else 1.3,
        "markersize": 6 if ours else 4.5, "zorder": 5 if ours else 3,
    }  # fmt: skip


def _bytes_axis(axes: Any, sizes: list[int]) -> None:
    axes.set_xscale("log", base=2)
    low, high = min(sizes), max(sizes)
    ticks = [
        1 << k for k in range(6, 36, 1 if high / low < 64 else 4) if low / 2 <= 1 << k <= 2 * high
    ]
    axes.set_xticks(ticks, [machine.size(t) for t in ticks])
    axes.minorticks_off()


def _cache_lines(axes: Any, results: Results, theme: dict[str, str], sizes: list[int]) -> None:
    low, high = axes.get_xlim()
    edges = [low]
    names = []
    for name, size in results.machine["caches"].items():
        if low < size < high:
            axes.axvline(size, color=theme["ink"], linewidth=0.8, linestyle=(0, (2, 3)), alpha=0.6)
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
        ink = figure.theme["ink"]
        best = [max(row.gbs for row in g.limits) for g in groups]
        axes.plot(sizes, best, color=ink, linestyle="--", linewidth=1.5, label="load only (limit)")
        for name in names:
            points = [(g.first.nbytes, g.rows[name].gbs) for g in groups if name in g.rows]
            axes.plot(*zip(*points, strict=True), label=name, **_style(name))
        axes.set_yscale("log")
        _plain_log(axes.yaxis)
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 0.05))
        _bytes_axis(axes, sizes)
        _cache_lines(axes, results, figure.theme, sizes)
        axes.grid(axis="y")
        axes.set_xlabel("size of x")
        axes.set_ylabel("GB/s of x read")
        figure.legend(loc="outside lower center", fontsize=10, ncols=4)

    plural = "thread" if threads == 1 else "threads"
    title = f"Sum of squares, {dtype}, {threads} {plural}: bandwidth against size"
    alt = (
        f"{title}. Log axes; dotted lines are the cache sizes, the dashed line is a load-only loop."
    )
    return [Plot(f"bandwidth-{dtype}-{threads}", title, alt, draw, 8.0, 5.0)]


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
        ink = figure.theme["ink"]
        everything = [r for _, ratios in bars for r in ratios]
        lowest, highest = min(everything), max(everything)
        for i, (_, ratios) in enumerate(bars):
            if not ratios:
                continue
            mean = geometric_mean(ratios)
            axes.barh(i, mean - 1, left=1, color=_COLOURS[0 if mean >= 1 else 1], height=0.65)
            if len(ratios) > 1:
                axes.plot([min(ratios), max(ratios)], [i, i], color=ink, linewidth=1.1, marker="|")
            axes.annotate(
                f"{mean:.2f}×" if mean < 10 else f"{mean:.0f}×", (max(*ratios, mean, 1), i),
                xytext=(6, 0), textcoords="offset points", va="center", fontsize=9.5,
            )  # fmt: skip
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
        axes.set_xlim(min(lowest, 0.8) / 1.3, max(highest, 1.2) * 2.5)
        if highest / lowest > 100:
            axes.xaxis.set_major_locator(LogLocator(base=10))
        axes.axvline(1, color=ink, linewidth=1)
        labels = axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=10)
        for i in headings:
            labels[i].label1.set_fontweight("bold")
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.set_xlabel("times as fast as the rival; bar: mean of the cases,\nline: their range")

    title = f"fastreg against each rival: {family}"
    alt = f"{title}. Bars to the right of 1 are wins, bars to the left losses."
    return [Plot(f"ratios-{question}", title, alt, draw, 8.0, 1.2 + 0.27 * len(bars))]


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
            return g.rows.get("threads forced")

        most = counts[-1]
        lines = (
            ("fastreg", ours, {"color": _COLOURS[0], "marker": "o", "linewidth": 2.4}),
            ("fastreg, threads forced", forced, {"color": _COLOURS[2], "marker": "D"}),
            ("load only (limit)", limit, {"color": figure.theme["ink"], "linestyle": "--"}),
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
        axes.axhline(1, color=figure.theme["ink"], linewidth=0.8)
        axes.set_ylim(bottom=0)
        _bytes_axis(axes, sizes)
        _cache_lines(axes, results, figure.theme, sizes)
        axes.grid(axis="y")
        axes.set_xlabel("size of x")
        axes.set_ylabel("times as fast as one thread")
        figure.legend(loc="outside lower center", fontsize=10, ncols=2)

    title = "Threads: gain over one thread, f32 sum of squares"
    return [Plot("threads", title, f"{title}, against the size of x.", draw, 8.0, 5.0)]


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
                (g.first.n, max(g.rows[name].facts.get("relative_error") or 0.0, exact / 4))
                for g in groups
                if name in g.rows and not g.rows[name].facts.get("wrong")
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, **_style(name))
        axes.axhspan(
            exact / 8, 2 * exact, color=_COLOURS[0], alpha=0.15, linewidth=0,
            label="within half a unit of f32",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(min(lengths) / 1.5, max(lengths) * 1.5)
        axes.set_ylim(bottom=exact / 8)
        axes.grid(axis="y")
        axes.set_xlabel("n (elements)")
        axes.set_ylabel("relative error")
        figure.legend(loc="outside lower center", fontsize=10, ncols=4)

    title = "Error of f32 sums of squares against n"
    return [Plot("error", title, f"{title}; log axes.", draw, 8.0, 5.0)]
