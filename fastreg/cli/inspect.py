# SPDX-License-Identifier: BSD-3-Clause
"""The inspect command: the statistics of tensors in checkpoints, of each and of all together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from fastreg._checkpoints.finding import Found, find
from fastreg._checkpoints.opening import read_checkpoint
from fastreg._checkpoints.tensor import Budget, Checkpoint, Tensor
from fastreg._core.arrays import HostArray
from fastreg._core.containers import Gathered
from fastreg._core.pieces import Sums
from fastreg._core.selection import decide, takes
from fastreg._core.statistics import FIELDS
from fastreg._core.text import plural, printable
from fastreg.cli.progress import Progress
from fastreg.cli.report import Report
from fastreg.errors import ArgumentError, CheckpointError, message

__all__ = ["inspect"]


def inspect(
    paths: Sequence[str],
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    select: str | None = None,
    integers: bool = False,
    max_unpacked_bytes: int = Budget.DEFAULT,
    progress: Progress | None = None,
) -> Report:
    """Measure every tensor of some checkpoints, and all of them together.

    Each file is closed before the next is opened, and each tensor read once, in pieces.

    Parameters
    ----------
    paths : sequence of str
        Files, indexes, folders, or ``-``; a file that cannot be read has its error in the report,
        and nothing else there.
    l1, l2 : float, default 0
        Weights of the penalty; finite and >= 0.
    select : str, optional
        Which tensors, as :func:`fastreg.stats` has it, by their names: only these are read. By
        default all of them are; the penalty then takes the kernels, as :func:`fastreg.penalty`
        does, and the one array of a ``.npy``.
    integers : bool, default False
        Count integers and booleans as weights. By default they are measured but stay out of the
        total and the penalty: in a checkpoint they are positions, steps and masks, and the
        positions 0 … 511 of one small model outweigh all its weights.
    max_unpacked_bytes : int, default 4 GiB
        What the compressed members of all ``.npz`` may unpack to, together.
    progress : Progress, optional
        Told of bytes measured.

    Raises
    ------
    ArgumentError
        If the rule takes no tensor at all.
    CheckpointError
        If a file changes between the first reading and the second.
    """
    with ExitStack() as keep:
        found = list(find(paths, most_input=max_unpacked_bytes, keep=keep))
        task = _Task(l1, l2, select, integers, progress or Progress(delay=math.inf))
        return task.run(found, Budget(max_unpacked_bytes))


class _Task:
    """One inspection, while it goes on."""

    def __init__(
        self, l1: float, l2: float, select: str | None, integers: bool, progress: Progress
    ) -> None:
        decide(Gathered(), select)  # a bad rule is an error even where there is nothing to decide
        self.report = Report(l1, l2)
        self.weights = l1, l2
        self.select = select
        self.integers = integers
        self.progress = progress
        self.total, self.weighed = Sums(), Sums()
        self.rows: list[Any] = []
        self.unselected = 0

    def run(self, found: Sequence[Found], budget: Budget) -> Report:
        report = self.report
        sizes = [os.path.getsize(f.place) if os.path.isfile(f.place) else 0 for f in found]
        self.progress.expect(sum(sizes))
        for number, (one, size) in enumerate(zip(found, sizes, strict=True)):
            file: dict[str, Any] = {"path": one.path, "format": None, "nbytes": None, "error": None}
            report.files.append(file)
            try:
                checkpoint = self.open(one, budget)
                self.progress.expect(_nbytes(checkpoint) - size)
                self.measure(checkpoint, number)
            except CheckpointError as error:
                file["error"] = str(error)
                continue
            file.update(format=checkpoint.format, nbytes=checkpoint.nbytes)
            if one.left_out:
                names = ", ".join(printable(name, 40) for name in one.left_out[:5])
                n = len(one.left_out)
                report.left_out.append(
                    f"{n:,} other {plural(n, 'file')} of weights in the folder not read: {names}"
                    + (", …" if n > 5 else "")
                )
            del checkpoint  # what is mapped is let go before the next file is opened
        self.check_rule()
        self.finish()
        return report

    def open(self, one: Found, budget: Budget) -> Checkpoint:
        if one.error:
            raise CheckpointError(one.error)
        checkpoint = read_checkpoint(one.place, budget=budget, name=one.path)
        one.check(checkpoint)
        return checkpoint

    def measure(self, checkpoint: Checkpoint, number: int) -> None:
        """Read a file; only if all of it is good does it become part of the report."""
        report, total, weighed = self.report, Sums(), Sums()
        rows: list[Any] = []
        penalties: list[float] = []
        tensors = self.selected(checkpoint)
        counted = [not t.skipped and (self.integers or _is_float(t)) for t in tensors]
        weighs = [c and self.weighs(t, checkpoint) for c, t in zip(counted, tensors, strict=True)]
        for k, tensor in enumerate(tensors):
            if tensor.skipped:
                rows.append(None)
                penalties.append(0.0)
                continue
            sums = Sums.of(self.pieces(tensor))
            rows.append(sums.statistics())
            penalties.append(sums.penalty(*self.weights) if weighs[k] else 0.0)
            if counted[k]:
                total.merge(sums)
            if weighs[k]:
                weighed.merge(sums)
        self.total.merge(total)
        self.weighed.merge(weighed)
        self.unselected += len(checkpoint.tensors) - len(tensors)
        self.rows += rows
        report.penalties += penalties
        report.counted += counted
        report.weighed += weighs
        report.tensors += [replace(tensor, source=None) for tensor in tensors]
        report.places += [number] * len(tensors)

    def pieces(self, tensor: Tensor) -> Iterator[HostArray]:
        for piece in tensor.pieces():
            assert tensor.elements is not None
            yield HostArray(piece, tensor.elements)
            self.progress.advance(piece.nbytes)

    def selected(self, checkpoint: Checkpoint) -> list[Tensor]:
        if self.select is None:
            return list(checkpoint.tensors)
        return [t for t in checkpoint.tensors if takes(self.select, t.name, t)]

    def weighs(self, tensor: Tensor, checkpoint: Checkpoint) -> bool:
        """Whether a tensor is in the penalty; one that was selected is, as the array of a file."""
        return (
            self.select is not None
            or checkpoint.format == "npy"
            or takes("kernels", tensor.name, tensor)
        )

    def check_rule(self) -> None:
        """Refuse a rule that takes nothing, as penalty does: it is mostly a slip."""
        report = self.report
        if self.select is not None and self.unselected and not report.tensors:
            n, rule = self.unselected, self.select
        elif report.weighted and any(report.counted) and not any(report.weighed):
            n, rule = sum(report.counted), "kernels"
        else:
            if self.unselected:
                n, verb = self.unselected, "is" if self.unselected == 1 else "are"
                report.left_out.append(
                    f"{n:,} {plural(n, 'tensor')} {verb} not selected (--select)"
                )
            return
        raise ArgumentError(
            message(
                f"--select to take at least one of {n:,} {plural(n, 'tensor')}",
                f"{printable(rule, 80)!r}, which takes none",
                "give --select all, or another rule",
            )
        )

    def finish(self) -> None:
        """Fill in the rows and the totals."""
        report, zero = self.report, Sums().statistics()
        report.rows = np.zeros(len(self.rows), zero.dtype)
        report.rows["n"] = [tensor.n for tensor in report.tensors]
        for k, row in enumerate(self.rows):
            if row is not None:
                report.rows[k] = row
        report.total = dict(zip(FIELDS, self.total.statistics().tolist(), strict=True))
        report.penalty = self.weighed.penalty(*self.weights)


def _is_float(tensor: Tensor) -> bool:
    return tensor.elements is not None and tensor.elements.floating


def _nbytes(checkpoint: Checkpoint) -> int:
    return sum(tensor.nbytes for tensor in checkpoint.tensors if not tensor.skipped)
