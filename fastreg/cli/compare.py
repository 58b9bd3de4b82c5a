# SPDX-License-Identifier: BSD-3-Clause
"""The compare command: what differs between two checkpoints, and by how much."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fastreg._checkpoints.finding import Found, find, is_standard_input
from fastreg._checkpoints.opening import read_checkpoint
from fastreg._checkpoints.tensor import Budget, Checkpoint, Tensor, quoted
from fastreg._core.arrays import HostArray
from fastreg._core.containers import Gathered
from fastreg._core.dtypes import FLOATS, Dtype
from fastreg._core.pieces import Sums
from fastreg._core.selection import decide, takes
from fastreg._core.text import Column, Table, plural, print_table, shape_text, short_number
from fastreg.cli.differences import (
    absolute_difference,
    aligned,
    count_differing,
    differences,
    float64,
    most_ulps,
    pairs,
)
from fastreg.cli.progress import Progress
from fastreg.errors import ArgumentError, CheckpointError, message

__all__ = ["STATES", "Comparison", "Row", "compare", "print_comparison"]

SCHEMA = "fastreg-compare/1"

STATES = ("equal", "close", "different", "type", "shape", "only in A", "only in B", "unread")
"""What may be said of a tensor. ``type``: the same numbers, kept in another element type."""

# Checkpoints of a side that are open at once: shards may be cut differently on the other side.
_OPEN = 8
# Members that have been listed within the limit may be unpacked.
_UNLIMITED = 1 << 62


@dataclass(slots=True)
class Row:
    """What is said of one tensor.

    Attributes
    ----------
    name : str
    a, b : Tensor or None
        On each side, if it is there.
    state : str
        One of :data:`STATES`.
    differing : int or None
        Elements that are not the same: in their bits, or as numbers where the types differ. NaN is
        as good as NaN there. None where there is nothing to compare.
    statistics : record or None
        Of the differences.
    ulps : int or None
        Most numbers of the type that lie between two elements, and one; None for other than the
        four float types, and unless both are finite numbers or infinite.
    """

    name: str
    a: Tensor | None = None
    b: Tensor | None = None
    state: str = "unread"
    differing: int | None = None
    statistics: Any = None
    ulps: int | None = None

    @property
    def floats(self) -> bool:
        """Whether both sides are of floats."""
        sides = [t.elements for t in (self.a, self.b) if t is not None]
        return all(elements is not None and elements.floating for elements in sides)

    def document(self) -> dict[str, Any]:
        """Return what ``--json`` has of it."""
        s = self.statistics
        return {
            "name": self.name,
            "shape": [None if t is None else list(t.shape) for t in (self.a, self.b)],
            "dtype": [None if t is None else t.dtype for t in (self.a, self.b)],
            "state": self.state,
            "differing": self.differing,
            "max_abs": None if s is None else float(s["max_abs"]),
            "norm": None if s is None else float(s["norm"]),
            "ulps": self.ulps,
        }


@dataclass(slots=True)
class Comparison:
    """What two checkpoints have in common.

    Attributes
    ----------
    rows : list of Row
        In the order of the first, then what only the second has.
    norm : float
        Of all differences of floats together.
    norm_a : float
        Of the tensors of floats of the first that were compared with some of the second.
    errors : list of (path, text)
        Files that could not be read.
    """

    rows: list[Row]
    norm: float
    norm_a: float
    errors: list[tuple[str, str]]

    @property
    def counts(self) -> Counter[str]:
        """How many tensors are in each state."""
        return Counter(row.state for row in self.rows)

    @property
    def status(self) -> int:
        """Exit status: 0 the same, 1 different, 2 something could not be read."""
        counts = self.counts
        if self.errors or counts["unread"]:
            return 2
        return 0 if counts["equal"] + counts["close"] == len(self.rows) else 1

    @property
    def relative(self) -> float | None:
        """The norm of the differences by that of the first; None where that is 0 or not finite."""
        return self.norm / self.norm_a if 0 < self.norm_a < math.inf else None

    def document(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        counts = self.counts
        return {
            "schema": SCHEMA,
            "same": self.status == 0,
            "arrays": [row.document() for row in self.rows],
            "totals": {
                **{state.replace(" ", "_"): counts[state] for state in STATES},
                "norm": self.norm,
                "relative": self.relative,
            },
            "errors": [{"path": path, "error": text} for path, text in self.errors],
        }


# -- Both sides ------------------------------------------------------------------------------------


class _Side:
    """The tensors of one checkpoint by name, whatever files they are in."""

    def __init__(self, path: str, budget: Budget, keep: ExitStack, select: str | None) -> None:
        self.errors: list[tuple[str, str]] = []
        self.tensors: dict[str, Tensor] = {}
        self.formats: set[str] = set()
        self._places: dict[str, Found] = {}
        self._open: OrderedDict[str, Checkpoint] = OrderedDict()
        for found in find([path], most_input=budget.most, keep=keep):
            try:
                if found.error:
                    raise CheckpointError(found.error)
                checkpoint = read_checkpoint(found.place, budget=budget, name=found.path)
                found.check(checkpoint)
                self._add(checkpoint, found, select)
            except CheckpointError as error:
                self.errors.append((found.path, str(error)))

    def _add(self, checkpoint: Checkpoint, found: Found, select: str | None) -> None:
        tensors = [t for t in checkpoint.tensors if select is None or takes(select, t.name, t)]
        for tensor in tensors:
            if tensor.name in self.tensors:
                raise CheckpointError(
                    message(
                        "tensors of distinct names",
                        f"{quoted(tensor.name)} in {quoted(self._places[tensor.name].path)}, too",
                        "compare the files one by one",
                    )
                )
        for tensor in tensors:
            self.tensors[tensor.name] = replace(tensor, source=None)
            self._places[tensor.name] = found
        self.formats.add(checkpoint.format)

    def rename(self, name: str) -> None:
        """Give the only array another name."""
        ((old, tensor),) = self.tensors.items()
        self.tensors = {name: replace(tensor, name=name)}
        self._places = {name: self._places[old]}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor that can be read; its file is kept open for a while."""
        found, expected = self._places[name], self.tensors[name]
        checkpoint = self._open.pop(found.place, None)
        if checkpoint is None:
            checkpoint = read_checkpoint(found.place, budget=Budget(_UNLIMITED), name=found.path)
            while len(self._open) >= _OPEN:
                self._open.popitem(last=False)
        self._open[found.place] = checkpoint
        for tensor in checkpoint.tensors:
            if replace(tensor, source=None, name=name) == expected and (
                tensor.name == name or len(self.tensors) == 1
            ):
                return tensor
        raise CheckpointError(
            message(
                f"{quoted(name)} in {quoted(found.path)}, as before",
                "another file",
                "compare them once they are written",
            )
        )


def compare(
    first: str,
    second: str,
    *,
    select: str | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    max_unpacked_bytes: int = Budget.DEFAULT,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two checkpoints tensor by tensor.

    Parameters
    ----------
    first, second : str
        Each a file, an index, a folder or ``-``. The one array of a ``.npy`` is compared with that
        of another whatever the two are called; all others by their names.
    select : str, optional
        Which tensors, by their names, as :func:`fastreg.penalty` has it; by default all.
    atol, rtol : float, optional
        Two numbers are close if |a - b| <= atol + rtol·|b|, NaN being close to NaN. Without them
        tensors are the same if their shapes, types and bits are; with one of them if their shapes
        are, and all their numbers are close, in whatever type.
    max_unpacked_bytes : int, default 4 GiB
        What the compressed members of all ``.npz`` may unpack to, together.
    progress : Progress, optional
        Told of bytes compared.

    Notes
    -----
    The difference of two floats is rounded to float64, once: for float16 and floats of one byte it
    is exact. That of two integers of one type is exact, whatever their size; of integers beside
    floats, float64 of each is taken. Norms and maxima are exact for these differences and rounded
    once. Where both elements are NaN, or the same infinity, the difference is 0.

    Raises
    ------
    ArgumentError
        For a rule that takes no tensor, and for standard input on both sides.
    CheckpointError
        If a file changes meanwhile, or proves damaged when its elements are read.
    """
    decide(Gathered(), select)
    if is_standard_input(first) and is_standard_input(second):
        raise ArgumentError(
            message(
                "standard input for one of the two",
                f"{quoted(first)} and {quoted(second)}",
                "save one of them to a file",
            )
        )
    shown = progress or Progress(delay=math.inf)
    budget = Budget(max_unpacked_bytes)
    with ExitStack() as keep:
        a, b = (_Side(path, budget, keep, select) for path in (first, second))
        if a.formats == b.formats == {"npy"} and len(a.tensors) == len(b.tensors) == 1:
            b.rename(next(iter(a.tensors)))
        names = [*a.tensors, *(name for name in b.tensors if name not in a.tensors)]
        if select is not None and not names and not a.errors and not b.errors:
            raise ArgumentError(
                message("--select to take at least one tensor", "none", "give another rule")
            )
        shown.expect(sum(t.nbytes for t in a.tensors.values() if t.name in b.tensors))
        task = _Task(a, b, atol, rtol, shown)
        rows = [task.row(name) for name in names]
        return Comparison(rows, *task.norms(), a.errors + b.errors)


class _Task:
    """One comparison, while it goes on."""

    def __init__(
        self, a: _Side, b: _Side, atol: float | None, rtol: float | None, progress: Progress
    ) -> None:
        self.a, self.b = a, b
        self.tolerance = None if atol is None and rtol is None else (atol or 0.0, rtol or 0.0)
        self.progress = progress
        self.differences, self.first = Sums(), Sums()

    def row(self, name: str) -> Row:
        row = Row(name, self.a.tensors.get(name), self.b.tensors.get(name))
        if row.b is None or row.a is None:
            # Where a file could not be read nobody knows what is in it.
            if row.b is None:
                row.state = "unread" if self.b.errors else "only in A"
            else:
                row.state = "unread" if self.a.errors else "only in B"
        elif row.a.shape != row.b.shape:
            row.state = "shape"
        else:
            self.compare(row, self.a.tensor(name), self.b.tensor(name))
            self.progress.advance(row.a.nbytes)
        return row

    def compare(self, row: Row, a: Tensor, b: Tensor) -> None:
        """Read a pair once: most are equal, and then nothing is subtracted."""
        if a.source is None or b.source is None:
            return
        same_type = a.dtype == b.dtype
        if a.elements is None or b.elements is None:
            if not same_type:
                row.state = "different"
            elif all((x == y).all() for x, y in aligned(a.source.pieces(), b.source.pieces())):
                row.state, row.differing = "equal", 0
            else:
                row.state = "different"
            return
        floats = a.elements.floating and b.elements.floating
        differing = far = 0
        ulps: int | None = 0 if same_type and a.elements in FLOATS else None
        for x, y in pairs(a, b):
            differing += count_differing(x, y, a.elements, b.elements)
            far += self.far(x, y, a.elements, b.elements)
            if ulps is not None:
                ulps = max(ulps, most_ulps(x, y, a.elements))
            if floats:
                self.first.add(HostArray(x, a.elements))
        row.differing, row.ulps = differing, ulps
        row.statistics = Sums().statistics()
        if differing:
            sums = Sums.of(differences(a, b))
            row.statistics = sums.statistics()
            if floats:
                self.differences.merge(sums)
        if self.tolerance is not None:
            row.state = "different" if far else "equal" if same_type and not differing else "close"
        elif differing:
            row.state = "different"
        else:
            row.state = "equal" if same_type else "type"

    def far(self, x: NDArray[Any], y: NDArray[Any], a: Dtype, b: Dtype) -> int:
        """Count the pairs that are not close."""
        if self.tolerance is None:
            return 0
        atol, rtol = self.tolerance
        d = absolute_difference(x, y, a, b).astype(np.float64)
        with np.errstate(all="ignore"):
            allowed = atol + rtol * np.abs(float64(y, b))
        return int(np.count_nonzero(~((d == 0) | ((d <= allowed) & np.isfinite(d)))))

    def norms(self) -> tuple[float, float]:
        """Return the norm of all differences, and that of what was compared."""
        return self.differences.statistics()["norm"].item(), self.first.statistics()["norm"].item()


# -- Printing --------------------------------------------------------------------------------------


def print_comparison(
    stream: TextIO, comparison: Comparison, *, every: bool = False, width: int | None = None
) -> None:
    """Print the tensors that are not the same, or all of them, and a line that sums up."""
    rows = [row for row in comparison.rows if every or row.state != "equal"]

    def both(a: str, b: str) -> str:
        return a if a == b else f"{a} → {b}"

    def number(row: Row, key: str) -> str:
        return "" if row.statistics is None else short_number(float(row.statistics[key]), 6)

    sides = [(row.a or row.b, row.b or row.a) for row in rows]
    table = Table(
        [
            Column("name", "array", [row.name for row in rows], left=True),
            Column("state", "", [row.state for row in rows], left=True),
            Column("shape", "shape", [both(shape_text(a.shape), shape_text(b.shape))
                                      for a, b in sides if a and b]),
            Column("dtype", "dtype", [both(a.dtype, b.dtype) for a, b in sides if a and b]),
            Column("differing", "differing", ["" if row.differing is None
                                              else f"{row.differing:,}" for row in rows]),
            Column("max_abs", "max|a-b|", [number(row, "max_abs") for row in rows]),
            Column("ulps", "ulps", ["" if row.ulps is None else f"{row.ulps:,}" for row in rows]),
            Column("norm", "‖a-b‖", [number(row, "norm") for row in rows]),
        ],
        ("dtype", "shape", "ulps", "norm", "differing", "max_abs"),
        elsewhere="--json has everything",
    )  # fmt: skip
    counts = comparison.counts
    n = len(comparison.rows)
    told = ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])
    end = f"{n:,} {plural(n, 'tensor')}: {told or 'none'}"
    if comparison.norm:
        relative = comparison.relative
        end += f"; ‖a-b‖ {short_number(comparison.norm, 6)}"
        end += "" if relative is None else f", {short_number(relative, 3)} of ‖a‖"
    if rows:
        print_table(table, [end], stream, width=width)
    else:
        stream.write(f"{end}\n")
