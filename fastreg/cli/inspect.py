# SPDX-License-Identifier: BSD-3-Clause
"""The inspect command: the statistics of tensors in checkpoints, of each and of all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from fastreg._core.arrays import HostArray
from fastreg._core.statistics import FIELDS, SCHEMA, FloatsAndOthers, columns, entry
from fastreg._core.text import (
    Column,
    Table,
    nbytes_text,
    plural,
    print_table,
    printable,
    short_number,
    terminal_width,
)
from fastreg._kernels import Arrays
from fastreg.cli.checkpoints import DEFAULT_MAX_UNPACKED_BYTES, Tensor, read_checkpoint
from fastreg.cli.progress import Progress
from fastreg.errors import CheckpointError

__all__ = ["SORT_KEYS", "Report", "inspect", "print_report"]

# What is read ahead of the kernels between two steps of the bar, in bytes.
_PIECE_NBYTES = 16 << 20
_PAGE_NBYTES = 4096
# Reading a byte from a disk, in passes over it in memory.
_READING = 4


@dataclass(slots=True)
class Report:
    """What the checkpoints hold.

    Attributes
    ----------
    files : list of dict
        ``path``, ``format``, ``nbytes`` and ``error`` of each file, in the order given.
    tensors : list of Tensor
        Of all good files.
    places : list of int
        Which file each is in, counted from 0.
    counted : list of bool
        Whether each is part of the total and of the penalty: skipped tensors are not, integers and
        booleans only if that was asked for.
    rows : structured ndarray
        Statistics of each, as :attr:`fastreg.stats` has them; zeros but for n where skipped.
    total : dict
        The same over all counted tensors: exact sums, rounded once.
    l1, l2 : float
        Weights of the penalty.
    penalties : list of float
        l1·Σ|x| + l2·Σx² of each, correctly rounded; 0 if it is not counted. Empty if both weights
        are 0: then nothing more is read.
    penalty : float
        The same over all counted tensors.
    """

    l1: float = 0.0
    l2: float = 0.0
    files: list[dict[str, Any]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)
    rows: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    total: dict[str, Any] = field(default_factory=dict)
    penalties: list[float] = field(default_factory=list)
    penalty: float = 0.0

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
    def uncounted(self) -> int:
        """How many tensors were read and are not counted."""
        return len(self.tensors) - sum(self.counted) - len(self.skipped)

    @property
    def nbytes(self) -> int:
        """Bytes of the counted tensors."""
        return sum(t.nbytes for t, yes in zip(self.tensors, self.counted, strict=True) if yes)

    def share(self, k: int) -> float | None:
        """Return a tensor's part of the penalty, 0 to 1.

        None if it is not counted, there are no weights, or the total is 0, infinite or NaN.
        """
        if self.weighted and self.counted[k] and 0 < self.penalty < math.inf:
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
            penalty = self.penalties[k] if self.weighted and self.counted[k] else None
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
            "total": {
                **self.total,
                "arrays": sum(self.counted),
                "uncounted": self.uncounted,
                "skipped": len(self.skipped),
                "nbytes": self.nbytes,
                "penalty": self.penalty if self.weighted else None,
            },
            "notes": self.notes(),
        }

    def notes(self) -> list[str]:
        """Say what is not in the total."""
        n = self.uncounted
        verb = "is" if n == 1 else "are"
        text = f"{n:,} {plural(n, 'tensor')} of integers or booleans {verb} not counted"
        return [f"{text} (--integers)"] if n else []


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


# -- Measuring ------------------------------------------------------------------------------------


def inspect(
    paths: Sequence[str],
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    integers: bool = False,
    max_unpacked_bytes: int = DEFAULT_MAX_UNPACKED_BYTES,
    progress: Progress | None = None,
) -> Report:
    """Measure every tensor of some checkpoints, and all of them together.

    Parameters
    ----------
    paths : sequence of str
        Files; one that cannot be read has its error in the report, and nothing else there.
    l1, l2 : float, default 0
        Weights of the penalty; finite and >= 0.
    integers : bool, default False
        Count integers and booleans as weights. By default they are measured but stay out of the
        total and the penalty: in a checkpoint they are positions, steps and masks, and the
        positions 0 … 511 of one small model outweigh all its weights.
    max_unpacked_bytes : int, default 4 GiB
        What the compressed members of one ``.npz`` may unpack to, together.
    progress : Progress, optional
        Told of bytes read and measured.
    """
    report = Report(l1, l2)
    hosts: list[HostArray | None] = []
    shown = progress or Progress(delay=math.inf)
    for number, path in enumerate(paths):
        file: dict[str, Any] = {"path": path, "format": None, "nbytes": None, "error": None}
        report.files.append(file)
        try:
            checkpoint = read_checkpoint(path, max_unpacked_bytes=max_unpacked_bytes)
            read = _read(checkpoint.tensors, 3 if report.weighted else 1, shown)
        except CheckpointError as error:
            file["error"] = str(error)
            continue
        file.update(format=checkpoint.format, nbytes=checkpoint.nbytes)
        hosts += read
        report.tensors += checkpoint.tensors
        report.places += [number] * len(read)
    _measure(report, hosts, integers, shown)
    return report


def _read(tensors: Sequence[Tensor], passes: int, progress: Progress) -> list[HostArray | None]:
    """Return the elements of tensors, None where skipped; expect passes over them to follow."""
    nbytes = sum(tensor.nbytes for tensor in tensors if not tensor.skipped)
    progress.expect(nbytes * (_READING + passes))
    hosts: list[HostArray | None] = []
    for tensor in tensors:
        host = None if tensor.skipped else tensor.host_array()
        hosts.append(host)
        if host is None:
            continue
        data = host.data.view(np.uint8)
        for at in range(0, data.size, _PIECE_NBYTES):
            piece = data[at : at + _PIECE_NBYTES]
            if progress.visible:
                # The one pass of the kernels cannot say how far it is: who watches waits here for
                # the disk, in pieces, and not there.
                piece[::_PAGE_NBYTES].max()
            progress.advance(piece.size * _READING)
    return hosts


def _measure(
    report: Report, hosts: Sequence[HostArray | None], integers: bool, progress: Progress
) -> None:
    """Fill in the statistics of what was read, and the penalties if there are weights."""
    read = [k for k, host in enumerate(hosts) if host is not None]
    arrays = [host for host in hosts if host is not None]
    nbytes = sum(host.data.nbytes for host in arrays)
    together = integers or all(host.dtype.floating for host in arrays)
    found, total = (Arrays(arrays) if together else FloatsAndOthers(arrays)).statistics()
    progress.advance(nbytes)
    report.rows = np.zeros(len(hosts), found.dtype)
    report.rows["n"] = [tensor.n for tensor in report.tensors]
    report.rows[read] = found
    report.total = dict(zip(FIELDS, total.tolist(), strict=True))
    report.counted = [host is not None and (integers or host.dtype.floating) for host in hosts]
    if not report.weighted:
        return
    # Exact sums do not leave a call, so each tensor's penalty is a pass, and that of all another.
    weights = report.l1, report.l2
    counted = []
    for host, yes in zip(hosts, report.counted, strict=True):
        one = 0.0
        if host is not None and yes:
            counted.append(host)
            one = Arrays([host], *weights).value(number=True)
        report.penalties.append(one)
        progress.advance(0 if host is None else host.data.nbytes)
    report.penalty = Arrays(counted, *weights).value(number=True)
    progress.advance(nbytes)


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
