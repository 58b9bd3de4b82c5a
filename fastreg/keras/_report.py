# SPDX-License-Identifier: BSD-3-Clause
"""What the variables of a model carry: rows, the table of them, and a callback that logs them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastreg._core.arguments import number
from fastreg._core.containers import Parameter
from fastreg._core.frameworks import unwrap
from fastreg._core.statistics import to_json
from fastreg._core.text import (
    Column,
    Table,
    lines_for,
    plural,
    printable,
    shape_text,
    short_number,
    terminal_width,
)
from fastreg.errors import ArgumentError, message
from fastreg.keras._layers import carried, counts, variables
from fastreg.keras._registry import host

__all__ = ["PenaltyLogger", "Report", "Row", "report", "row"]

SCHEMA = "fastreg-penalties/1"
"""Name and version of :meth:`Report.to_dict`; a change that breaks a reader raises the number."""


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
        The penalty by that regularizer; None without one, and while the variable is frozen.
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

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"schema", "variables": [{"path", "shape", ...}], "total": float}``.

        Regularizers are text, as the table shows them, or None; the rest is as in :class:`Row`.
        """
        rows = [
            {
                "path": r.path,
                "shape": list(r.shape),
                "regularizer": _text(r.regularizer) or None,
                "action": r.action,
                "reason": r.reason,
                "value": r.value,
            }
            for r in self.rows
        ]
        return {"schema": SCHEMA, "variables": rows, "total": self.total}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return :meth:`to_dict` as strict JSON; numbers that are not finite are "nan", "inf"."""
        return to_json(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        """Return a table that fits the terminal, if standard output is one."""
        width = terminal_width(sys.stdout)
        return "\n".join(lines_for(sys.stdout, lambda clean: self._lines(width, clean)))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return self._table().html()

    def _lines(self, width: int, clean: Callable[[str], str]) -> list[str]:
        return self._table().lines(width, clean)

    def _table(self) -> Table:
        rows = self.rows
        why = [f"{r.action}: {r.reason}" if r.reason else r.action for r in rows]
        end = f"{len(self.taken):,} of {len(rows):,} {plural(len(rows), 'variable')}"
        values = ["" if r.value is None else short_number(r.value, 6) for r in rows]
        kinds = [_text(r.regularizer) for r in rows]
        columns = [
            Column("name", "variable", [r.path for r in rows], "total", left=True),
            Column("shape", "shape", [shape_text(r.shape) for r in rows]),
            Column("regularizer", "regularizer", kinds, left=True),
            Column("value", "penalty", values, short_number(self.total, 6)),
            Column("why", "why", why, end, left=True),
        ]
        return Table(columns)


def _text(regularizer: Any) -> str:
    """Show a regularizer; one without a text of its own by its class and configuration."""
    if regularizer is None:
        return ""
    if getattr(type(regularizer), "__repr__", None) is object.__repr__:
        try:
            items = regularizer.get_config().items()
        except (AttributeError, NotImplementedError):
            items = ()
        # Keras' own hold their factors as the nearest float32.
        shown = (f"{k}={short_number(v, 6) if type(v) is float else repr(v)}" for k, v in items)
        return printable(f"{type(regularizer).__name__}({', '.join(shown)})", 60)
    return printable(getattr(regularizer, "__name__", "") or repr(regularizer), 60)


def report(model: Any) -> Report:
    """Return the penalties of a model's weights: see :func:`fastreg.keras.report`."""
    rows = []
    for p in variables(model).parameters:
        found = carried(p)
        if found is None:
            rows.append(row(p, None, "skipped", "no regularizer"))
        elif not counts(p):
            rows.append(row(p, found, "skipped", "frozen"))
        elif unwrap(p.original) is None:
            raise ArgumentError(
                message(
                    "variables that can be read",
                    f"{p.label} in the middle of fit() on JAX",
                    "pass the whole model, or call this at the end of an epoch",
                )
            )
        else:
            rows.append(row(p, found, "counted", ""))
    return Report(tuple(rows))


def row(p: Parameter, regularizer: Any, action: str, reason: str) -> Row:
    """Return the row of a variable, with the penalty that counts now."""
    value = None
    if regularizer is not None and p.frozen and action == "attached":
        reason += "; frozen, counts once it is trained"
    elif regularizer is not None and counts(p) and unwrap(p.original) is not None:
        value = _penalty(regularizer, p.original)
    return Row(p.name, tuple(p.shape), regularizer, action, reason, value)


def _penalty(regularizer: Any, v: Any) -> float:
    """Return a variable's penalty; of fastreg's own classes exact and rounded to float64."""
    ours = type(regularizer).__module__.startswith("fastreg.")
    value = regularizer.value(v, dtype="float64") if ours else regularizer(v)
    return float(value.detach() if hasattr(value, "detach") else value)


class PenaltyLogger(host.callbacks.Callback):
    """Log the penalty of the weights at the end of each epoch.

    Writes ``penalty``, the total, into the epoch's logs, so that the progress bar shows it, and
    History, CSVLogger and TensorBoard record it.

    Parameters
    ----------
    every : int >= 1, default 1
        Log each so many epochs.
    per_variable : bool, default False
        Whether to log ``penalty/<path>`` of each variable too, which the bar shows as well.

    Raises
    ------
    ArgumentError (a ValueError)
        For ``every`` below 1, or between whole numbers.
    DTypeError (a TypeError)
        For what is no number.

    Notes
    -----
    Penalties of activities are not logged. Place it before callbacks that read the logs.

    Examples
    --------
    >>> logger = PenaltyLogger()  # model.fit(..., callbacks=[logger])
    """

    __module__ = "fastreg.keras"

    def __init__(self, every: int = 1, *, per_variable: bool = False) -> None:
        super().__init__()
        self.every = _whole(every)
        self.per_variable = bool(per_variable)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the penalties to the logs."""
        if logs is None or (epoch + 1) % self.every:
            return
        found = report(self.model)
        logs["penalty"] = found.total
        if self.per_variable:
            counted = [r for r in found if r.value is not None]
            logs.update({f"penalty/{r.path}": r.value for r in counted})

    # tf_keras asks these of every callback, of those of another Keras too: none has to do with
    # batches.
    def _implements_train_batch_hooks(self) -> bool:
        return False

    _implements_test_batch_hooks = _implements_train_batch_hooks
    _implements_predict_batch_hooks = _implements_train_batch_hooks


def _whole(every: Any) -> int:
    """Return a number of epochs."""
    epochs = number(every, "every")
    if epochs < 1.0 or epochs != int(epochs):
        raise ArgumentError(
            message("every=, a whole number of epochs >= 1", repr(every)[:80], "pass 1 for each")
        )
    return int(epochs)
