# SPDX-License-Identifier: BSD-3-Clause
"""What the variables of a model carry: rows, the table of them, and a callback that logs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastreg._core.arguments import number
from fastreg._core.text import Column, Table, plural, shape_text, short_number
from fastreg.keras._layers import carried, counts, variables
from fastreg.keras._registry import host

__all__ = ["PenaltyLogger", "Report", "Row", "report"]


@dataclass(frozen=True, slots=True)
class Row:
    """One variable of a model and what became of it.

    Attributes
    ----------
    path : str
        Its name, as Keras writes it: ``"dense/kernel"``.
    shape : tuple of int
    regularizer : object
        What it carries now; in a report of :func:`~fastreg.keras.detach`, what it carried.
    action : "attached", "detached", "counted" or "skipped"
    reason : str
        Why, in a few words.
    value : float or None
        The penalty, in a report of :func:`~fastreg.keras.report`.
    """

    path: str
    shape: tuple[int, ...]
    regularizer: Any
    action: str
    reason: str
    value: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What a call found in a model, one row for each variable; prints as a table."""

    rows: tuple[Row, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def taken(self) -> tuple[Row, ...]:
        """The rows that carry a penalty now, or from which one was removed."""
        return tuple(r for r in self.rows if r.action != "skipped")

    @property
    def total(self) -> float:
        """Sum of the penalties of all rows, those of frozen variables left out."""
        return sum(r.value or 0.0 for r in self.rows)

    def __repr__(self) -> str:
        rows = self.rows
        kinds = ["" if r.regularizer is None else repr(r.regularizer) for r in rows]
        why = [f"{r.action}: {r.reason}" if r.reason else r.action for r in rows]
        end = f"{len(self.taken):,} of {len(rows):,} {plural(len(rows), 'variable')}"
        columns = [
            Column("name", "variable", [r.path for r in rows], "total", left=True),
            Column("shape", "shape", [shape_text(r.shape) for r in rows]),
            Column("regularizer", "regularizer", kinds, left=True),
        ]
        if any(r.value is not None for r in rows):
            values = ["" if r.value is None else short_number(r.value, 6) for r in rows]
            columns.append(Column("value", "penalty", values, short_number(self.total, 6)))
        columns.append(Column("why", "why", why, end, left=True))
        return "\n".join(Table(columns).lines())


def report(model: Any) -> Report:
    """Return the penalties of a model's weights: see :func:`fastreg.keras.report`."""
    rows = []
    for p in variables(model).parameters:
        found = carried(p)
        shape = tuple(p.shape)
        if found is None:
            row = Row(p.name, shape, None, "skipped", "no regularizer")
        elif not counts(p):
            row = Row(p.name, shape, found, "skipped", "frozen")
        else:
            row = Row(p.name, shape, found, "counted", "", _penalty(found, p.original))
        rows.append(row)
    return Report(tuple(rows))


def _penalty(regularizer: Any, v: Any) -> float:
    """Return a variable's penalty; of fastreg's own classes exact and rounded to float64."""
    ours = type(regularizer).__module__.startswith("fastreg.")
    value = regularizer.value(v, dtype="float64") if ours else regularizer(v)
    return float(value.detach() if hasattr(value, "detach") else value)


class PenaltyLogger(host.callbacks.Callback):
    """Log the penalty of every regularized variable at the end of each epoch.

    Writes ``penalty`` (the total) and ``penalty/<path>`` into the epoch's logs, so that History,
    CSVLogger and TensorBoard record them.

    Parameters
    ----------
    every : int, default 1
        Log each so many epochs.

    Raises
    ------
    ArgumentError (a ValueError)
        For ``every`` below 1.

    Notes
    -----
    Penalties of activities are not logged. Place it before callbacks that read the logs.

    Examples
    --------
    >>> logger = PenaltyLogger()  # model.fit(..., callbacks=[logger])
    """

    __module__ = "fastreg.keras"

    def __init__(self, every: int = 1) -> None:
        super().__init__()
        self.every = int(number(every, "every", least=1.0))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the penalties to the logs."""
        if logs is None or (epoch + 1) % self.every:
            return
        found = report(self.model)
        logs["penalty"] = found.total
        for row in found:
            if row.value is not None:
                logs[f"penalty/{row.path}"] = row.value
