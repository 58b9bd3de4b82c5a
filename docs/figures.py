# SPDX-License-Identifier: BSD-3-Clause
"""The site's figures, drawn while it is built: the directive ``figures`` with a figure's name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from docutils import nodes
from docutils.parsers.rst import Directive

import fastreg

GREEN, RED, GREY = "#0b6e4f", "#b3423a", "#555555"


def draw_tiers(axes_pair: Any) -> None:
    """Draw an interval that decides the rounding, and one that does not."""
    for axes, low, high, title, color in (
        (axes_pair[0], 1.12, 1.34, "decided", GREEN),
        (axes_pair[1], 1.42, 1.58, "ask the next tier", RED),
    ):
        axes.axhline(0, color=GREY, lw=1)
        for x in (0, 1, 2):
            axes.plot([x, x], [-0.25, 0.25], color="black", lw=2)
            axes.text(x, -0.6, f"$y_{x}$", ha="center")
        for x in (0.5, 1.5):
            axes.plot([x, x], [-0.12, 0.12], color=GREY, lw=1, ls=":")
        axes.text(1.5, -0.6, "midpoint", ha="center", color=GREY, fontsize=8)
        axes.plot([low, high], [0, 0], color=color, lw=7, solid_capstyle="butt")
        axes.text((low + high) / 2, 0.4, "sum ± bound", ha="center", color=color, fontsize=9)
        axes.set_title(title, fontsize=10, color=color)
        axes.set(xlim=(-0.2, 2.2), ylim=(-1, 1))
        axes.axis("off")


def draw_errors(axes: Any) -> None:
    """Draw the relative error of sums of squares against the exact sum."""
    rng = np.random.default_rng(0)
    sizes = [2**k for k in range(6, 23, 2)]
    ways = {
        "a float32 loop": lambda x: np.cumsum(x * x, dtype=np.float32)[-1],
        "numpy.sum(x * x)": lambda x: np.sum(x * x),
        "numpy.vdot(x, x)": lambda x: np.vdot(x, x),
        "fastreg.sum_squares(x)": fastreg.sum_squares,
    }
    errors: dict[str, list[float]] = {name: [] for name in ways}
    for n in sizes:
        x = rng.standard_normal(n).astype(np.float32)
        # Squares of float32 on the grid of 2^-298 are integers, whose sum is exact.
        mantissas, exponents = np.frexp(x.astype(np.float64))
        squares = np.square((mantissas * 2**24).astype(np.int64)).astype(object)
        shifts = 2 * (exponents.astype(int) - 24)
        lowest = int(shifts.min())
        exact = (
            Fraction(int((squares << (shifts - lowest).astype(object)).sum()))
            * Fraction(2) ** lowest
        )
        for name, way in ways.items():
            errors[name].append(float(abs(Fraction(float(way(x))) - exact) / exact) or 1e-10)
    for (name, values), style in zip(errors.items(), ("v:", "s--", "o-.", "D-"), strict=True):
        last = name.startswith("fastreg")
        axes.loglog(
            sizes, values, style, label=name, color=GREEN if last else None, lw=2 if last else 1.3
        )
    axes.axhline(2.0**-24, color=GREY, lw=0.8, ls=":")
    axes.text(
        sizes[-1],
        2.0**-24 * 1.2,
        "half a unit in the last place",
        fontsize=8,
        color=GREY,
        ha="right",
    )
    axes.set(xlabel="numbers", ylabel="relative error", ylim=(1e-10, None))
    axes.legend(fontsize=8, frameon=False)


def draw(name: str, folder: Path) -> str:
    """Draw a figure into a file; return the file's name."""
    if name == "tiers":
        figure, axes = plt.subplots(1, 2, figsize=(7.5, 1.7), layout="constrained")
        draw_tiers(axes)
    else:
        figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
        draw_errors(axes)
    folder.mkdir(parents=True, exist_ok=True)
    file = f"{name}.svg"
    figure.savefig(folder / file, transparent=True)
    plt.close(figure)
    return file


class Figures(Directive):
    """A drawn figure, with its caption."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        environment = self.state.document.settings.env
        name = self.arguments[0]
        file = draw(name, Path(environment.srcdir, "_static", "figures"))
        caption = nodes.caption("", " ".join(self.content))
        image = nodes.image(uri=f"/_static/figures/{file}", alt=" ".join(self.content))
        return [nodes.figure("", image, caption)]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive with Sphinx."""
    app.add_directive("figures", Figures)
    return {"parallel_read_safe": True}
