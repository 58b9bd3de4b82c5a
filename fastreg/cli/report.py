# SPDX-License-Identifier: BSD-3-Clause
"""What the inspect command reports: as a table, as JSON, as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fastreg._checkpoints.tensor import Tensor
from fastreg._core.dtypes import Narrow
from fastreg._core.statistics import FIELDS, SCHEMA, columns, csv_field, entry, totals
from fastreg._core.text import (
    Column,
    Table,
    lines_for,
    nbytes_text,
    plural,
    print_table,
    printable,
    short_number,
    terminal_width,
)

__all__ = ["SORT_KEYS", "Report", "print_csv", "print_report"]


@dataclass(slots=True)
class Report:
    """What the checkpoints hold.

    Attributes
    ----------
    files : list of dict
        ``path``, ``format``, ``nbytes`` and ``error`` of each file, in the order given.
    tensors : list of Tensor
        Of all good files, those that are selected; they say what is there, and hold no file open.
    places : list of int
        Which file each is in, counted from 0.
    counted : list of bool
        Whether each is part of the total: skipped tensors are not, integers and booleans only if
        that was asked for.
    weighed : list of bool
        Whether each is part of the penalty: of those that are counted, the kernels, unless a rule
        says otherwise.
    rows : structured ndarray
        Statistics of each, as :attr:`fastreg.stats` has them; zeros but for n where skipped.
    total : dict
        The same over all counted tensors: exact sums, rounded once.
    l1, l2 : float
        Weights of the penalty.
    penalties : list of float
        l1·Σ|x| + l2·Σx² of each, correctly rounded; 0 if it is not weighed.
    penalty : float
        The same over all weighed tensors.
    left_out : list of str
        What cannot be seen in the rows: tensors that are not selected, other files of a folder.
    """

    l1: float = 0.0
    l2: float = 0.0
    files: list[dict[str, Any]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)
    weighed: list[bool] = field(default_factory=list)
    rows: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    total: dict[str, Any] = field(default_factory=dict)
    penalties: list[float] = field(default_factory=list)
    penalty: float = 0.0
    left_out: list[str] = field(default_factory=list)

    @property
    def weighted(self) -> bool:
        """Whether there is a penalty."""
        return bool(self.l1 or self.l2)

    @property
    def nonfinite(self) -> NDArray[Any]:
        """How many elements of each tensor are NaN or infinite."""
        found: NDArray[Any] = self.rows["nans"] + self.rows["infs"]
        return found

    @property
    def skipped(self) -> list[int]:
        """Positions of the tensors that the kernels do not read."""
        return [k for k, tensor in enumerate(self.tensors) if tensor.skipped]

    @property
    def unknown(self) -> list[int]:
        """Positions of those of them that may hold NaN or infinity."""
        return [k for k in self.skipped if not self.tensors[k].finite]

    @property
    def uncounted(self) -> int:
        """How many tensors were read and are not counted."""
        return len(self.tensors) - sum(self.counted) - len(self.skipped)

    @property
    def nbytes(self) -> int:
        """Bytes of the counted tensors."""
        return sum(t.nbytes for t, yes in zip(self.tensors, self.counted, strict=True) if yes)

    def share(self, k: int) -> float | None:
        """Return a tensor's part of the penalty, 0 to 1.

        None if it is not weighed, there are no weights, or the total is 0, infinite or NaN.
        """
        if self.weighted and self.weighed[k] and 0 < self.penalty < math.inf:
            return self.penalties[k] / self.penalty
        return None

    def order(self, key: str) -> list[int]:
        """Return the positions of the tensors, sorted by a name of :data:`SORT_KEYS`.

        ``file`` keeps the order of the files and in them; ``name`` ascends; numbers descend with
        NaN first, for it is what one looks for. Equal ones keep their order; skipped come last.
        """
        every = range(len(self.tensors))
        if key == "file":
            return list(every)
        if key == "name":
            return sorted(every, key=lambda k: self.tensors[k].name)
        values = SORT_KEYS[key](self)

        def descending(k: int) -> tuple[bool, bool, float]:
            x = values[k]
            return bool(self.tensors[k].skipped), x == x, 0 if x != x else -x

        return sorted(every, key=descending)

    def document(self, order: Sequence[int]) -> dict[str, Any]:
        """Return what ``--json`` prints: :meth:`Stats.to_dict` and what only files have."""

        def one(k: int) -> dict[str, Any]:
            tensor = self.tensors[k]
            row = None if tensor.skipped else self.rows[k]
            penalty = self.penalties[k] if self.weighted and self.weighed[k] else None
            return {
                **entry(tensor.name, tensor.shape, tensor.dtype, self.counted[k], row),
                "n": tensor.n,
                "file": self.places[k],
                "nbytes": tensor.nbytes,
                "skipped": tensor.skipped or None,
                "penalty": penalty,
                "share": self.share(k),
            }

        return {
            "schema": SCHEMA,
            "l1": self.l1,
            "l2": self.l2,
            "files": self.files,
            "arrays": [one(k) for k in order],
            "hidden": len(self.tensors) - len(order),
            "totals": {
                **totals(self.total),
                "arrays": sum(self.counted),
                "uncounted": self.uncounted,
                "skipped": len(self.skipped),
                "nbytes": self.nbytes,
                "penalty": self.penalty if self.weighted else None,
            },
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Say what is in neither the total nor the penalty."""
        found = list(self.left_out)
        if n := self.uncounted:
            verb = "is" if n == 1 else "are"
            text = f"{n:,} {plural(n, 'tensor')} of integers or booleans {verb} not counted"
            found.append(f"{text} (--integers)")
        if self.weighted:
            other = [k for k, yes in enumerate(self.weighed) if self.counted[k] and not yes]
            narrow = sum(isinstance(self.tensors[k].elements, Narrow) for k in other)
            if other:
                some = f", {narrow:,} of them of 8-bit floats" if narrow else ""
                found.append(
                    f"the penalty is that of the kernels, by their names, without {len(other):,} "
                    f"other {plural(len(other), 'tensor')}{some} (--select all)"
                )
        return found


SORT_KEYS: dict[str, Callable[[Report], Sequence[float]]] = {
    "file": lambda report: (),
    "name": lambda report: (),
    "n": lambda report: report.rows["n"].tolist(),
    "l1": lambda report: report.rows["sum_abs"].tolist(),
    "l2": lambda report: report.rows["sum_squares"].tolist(),
    "norm": lambda report: report.rows["norm"].tolist(),
    "max": lambda report: report.rows["max_abs"].tolist(),
    "share": lambda report: report.penalties or [0.0] * len(report.tensors),
    "zeros": lambda report: report.rows["zeros"].tolist(),
    "nonfinite": lambda report: report.nonfinite.tolist(),
}
"""What ``--sort`` knows. ``file`` and ``name`` ascend, numbers descend."""


# -- Printing -------------------------------------------------------------------------------------

# A name is shortened to this before any column is dropped.
_SHORTEST_NAME = 26
# What a narrow terminal loses first: shape gives n, and norm is the root of Σx².
_DROP_ORDER = (
    "dtype", "n", "norm", "zeros", "subnormals", "shape", "max_abs", "infs", "nans",
)  # fmt: skip


def print_report(
    stream: TextIO,
    report: Report,
    order: Sequence[int],
    *,
    seconds: float = 0.0,
    width: int | None = None,
) -> None:
    """Print a report as a table.

    Parameters
    ----------
    stream : text file
        As :func:`fastreg._core.text.print_table` takes it.
    report : Report
        What to print.
    order : sequence of int
        Positions of the tensors to show, in this order.
    seconds : float, default 0
        How long it took.
    width : int, optional
        Columns of the terminal, 0 for no limit; by default those of the stream.
    """
    width = terminal_width(stream) if width is None else width
    table = _table(report, order, 8)
    if not table.fits(width):
        table = _table(report, order, 6)
    end = [
        f"file {number}: {printable(file['path'])}"
        for number, file in enumerate(report.files, 1)
        if len(report.files) > 1
    ]
    skipped, bad = set(report.skipped), report.nonfinite
    end += [
        f"skipped {printable(report.tensors[k].name, 80)}: {report.tensors[k].skipped}"
        for k in order
        if k in skipped
    ]
    end += report.notes()
    if report.weighted:
        terms = [f"{w:g}·{sum_}" for w, sum_ in ((report.l1, "Σ|x|"), (report.l2, "Σx²")) if w]
        end.append(f"penalty {short_number(report.penalty, 10)} = {' + '.join(terms)}")
    arrays, n = sum(report.counted), report.total["n"]
    end.append(
        f"{arrays:,} {plural(arrays, 'tensor')}, {n:,} {plural(n, 'value')}, "
        f"{nbytes_text(report.nbytes)}, {seconds:.2f} s"
        + (f"; {len(skipped):,} skipped" if skipped else "")
    )
    styles = ["dim" if k in skipped else "red" if bad[k] else "" for k in order]
    print_table(table, end, stream, width=width, styles=styles)


_CSV = ("name", "file", "shape", "dtype", "counted", *FIELDS, "nonfinite")


def print_csv(stream: TextIO, report: Report, order: Sequence[int]) -> None:
    """Print a line of CSV for each tensor, with its whole name; parameters as :func:`print_report`.

    Fields as in the JSON document, floats with all their digits; what a tensor lacks is empty, and
    what would steer a terminal is escaped.
    """
    document = report.document(order)
    keys = [*_CSV, *(["penalty", "share"] if report.weighted else []), "skipped"]
    rows = [",".join(keys)]
    for array in document["arrays"]:
        array["file"] = report.files[array["file"]]["path"]
        array["shape"] = "x".join(map(str, array["shape"]))
        rows.append(",".join(csv_field(array[key]) for key in keys))
    lines = lines_for(stream, lambda clean: [clean(row) for row in rows])
    stream.write("".join(f"{line}\n" for line in lines))


def _table(report: Report, order: Sequence[int], digits: int) -> Table:
    tensors = [report.tensors[k] for k in order]
    shown = columns(
        [tensor.name for tensor in tensors],
        [tensor.shape for tensor in tensors],
        [tensor.dtype for tensor in tensors],
        report.rows[list(order)],
        report.total,
        digits=digits,
        blank={k for k, tensor in enumerate(tensors) if tensor.skipped},
    )
    if len(report.files) > 1:
        shown.insert(1, Column("file", "file", [str(report.places[k] + 1) for k in order]))
    if report.weighted:
        shares = [
            "" if t.skipped else _percent(report.share(k))
            for k, t in zip(order, tensors, strict=True)
        ]
        shown.append(Column("share", "share", shares))
    hidden = len(report.tensors) - len(tensors)
    return Table(
        shown,
        _DROP_ORDER,
        shortest_name=_SHORTEST_NAME,
        more=f"… {hidden:,} more {plural(hidden, 'tensor')} (--top)" if hidden else "",
        elsewhere="--json has everything",
    )


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share:.2f}%" if share == 0 or share >= 5e-5 else "<0.01%"
