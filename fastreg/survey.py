# SPDX-License-Identifier: BSD-3-Clause
"""What the arrays of a model hold: numbers of each and of all, for people and for programs."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from fastreg.checkpoints import printable
from fastreg.errors import ArgumentError, NonFiniteError, message
from fastreg.parameters import FLOATS, Parameter
from fastreg.table import _ascii, _cells, _shape, _short, _shorten

__all__ = ["FIELDS", "SCHEMA", "Stats", "Titles", "finite_or_raise"]

SCHEMA = "fastreg-stats/1"
"""Name and version of the JSON document; a change that breaks a reader raises the number."""

FIELDS = (
    "n",
    "sum_abs",
    "sum_squares",
    "norm",
    "max_abs",
    "zeros",
    "subnormals",
    "nans",
    "infs",
)
"""What is known of each array, and of all together."""

_GAP = "  "
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Titles:
    """What the rows are about: it does not change from one call to the next."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    notes: tuple[str, ...]
    integers: int
    """How many arrays hold no floats."""

    @classmethod
    def of(cls, parameters: Sequence[Parameter], notes: Sequence[str]) -> Titles:
        """Take them from gathered parameters."""
        dtypes = tuple(p.array.dtype for p in parameters)
        return cls(
            tuple(p.name for p in parameters),
            tuple(p.array.shape for p in parameters),
            dtypes,
            tuple(notes),
            sum(dtype not in FLOATS for dtype in dtypes),
        )

    @classmethod
    def of_ndarrays(
        cls, names: Iterable[Any], arrays: Sequence[npt.NDArray[Any]]
    ) -> Titles:
        """Take them from ndarrays of NumPy's own floats."""
        dtypes = list(map(_DTYPE, arrays))
        short = {dtype: f"f{8 * dtype.itemsize}" for dtype in set(dtypes)}
        alike = len(short) == 1
        return cls(
            tuple(map(str, names)),
            tuple(map(_SHAPE, arrays)),
            tuple(short.values()) * len(dtypes) if alike else tuple(short[d] for d in dtypes),
            (),
            0,
        )


_SHAPE, _DTYPE = attrgetter("shape"), attrgetter("dtype")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Stats:
    """Statistics of arrays: a table when printed.

    Attributes
    ----------
    names : tuple of str
        Of the arrays, in order; ``stats[name]`` is a dict of one array's numbers.
    shapes, dtypes : tuple
        The same for shapes and short names of element types.
    rows : structured ndarray, one row for each array
        Fields n, sum_abs, sum_squares, norm, max_abs (float64; NaN if there is a NaN), zeros,
        subnormals, nans, infs (int64).
    total : dict
        The same fields over all arrays (of floats, unless asked otherwise): exact sums, rounded
        once.
    notes : tuple of str
        Which arrays are tied and counted once, and how many are not in the total.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    rows: npt.NDArray[Any]
    total: dict[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, titles: Titles, rows: npt.NDArray[Any], total: Any, left_out: int = 0) -> Stats:
        """Put together titles, the kernels' rows and the total, of which some are left out."""
        notes = titles.notes
        if left_out:
            what = "array of integers or booleans is" if left_out == 1 else (
                "arrays of integers or booleans are"
            )
            notes = (*notes, f"{left_out:,} {what} not in the total (integers=True)")
        numbers = dict(zip(FIELDS, total.tolist(), strict=True))
        return cls(titles.names, titles.shapes, titles.dtypes, rows, numbers, notes)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names)

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return one array's numbers.

        Raises
        ------
        ArgumentError
            (a ValueError) If there is no array of that name.
        """
        try:
            k = self.names.index(name)
        except ValueError:
            raise ArgumentError(
                message("the name of an array", repr(name)[:80], "see names")
            ) from None
        return self._entry(k)

    def _entry(self, k: int) -> dict[str, Any]:
        numbers = dict(zip(FIELDS, self.rows[k].tolist(), strict=True))
        return {"shape": list(self.shapes[k]), "dtype": self.dtypes[k], **numbers}

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"schema", "arrays": [{"name", "shape", "dtype", ...}], "total", "notes"}``.

        Numbers are Python's own; those that are not finite stay NaN and infinity.
        """
        return {
            "schema": SCHEMA,
            "arrays": [{"name": name, **self._entry(k)} for k, name in enumerate(self.names)],
            "total": dict(self.total),
            "notes": list(self.notes),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Return :meth:`to_dict` as strict JSON; numbers that are not finite are "nan", "inf"."""

        def plain(x: Any) -> Any:
            if isinstance(x, dict):
                return {key: plain(item) for key, item in x.items()}
            if isinstance(x, list):
                return [plain(item) for item in x]
            return x if not isinstance(x, float) or math.isfinite(x) else str(x)

        return json.dumps(plain(self.to_dict()), allow_nan=False, indent=indent)

    def __str__(self) -> str:
        """Return a table that fits the terminal, in ASCII if standard output takes no more."""
        table = _table(self, shutil.get_terminal_size().columns)
        try:
            table.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except (UnicodeEncodeError, LookupError):
            return _ascii(table)
        return table

    __repr__ = __str__


def finite_or_raise(parameters: Sequence[Parameter], rows: npt.NDArray[Any], what: str) -> None:
    """Raise NonFiniteError, naming the arrays, if the kernels' rows count NaN or infinity."""
    bad = np.flatnonzero((rows["nans"] > 0) | (rows["infs"] > 0)).tolist()
    if not bad:
        return
    lines = [
        f"{parameters[k].label} ({rows['nans'][k]:,} NaN and {rows['infs'][k]:,} inf "
        f"of {rows['n'][k]:,})"
        for k in bad[:_NAMED]
    ]
    if len(bad) > _NAMED:
        lines.append(f"{len(bad) - _NAMED:,} more")
    raise NonFiniteError(
        message(
            f"finite elements{' ' + what if what else ''}",
            f"NaN or infinity in {len(bad):,} of {len(rows):,} arrays: {', '.join(lines)}",
            "find where they come from" + ("; nothing was written" if what else ""),
        )
    )


# -- The table -------------------------------------------------------------------------------------

# What a narrow terminal loses first; a count that is 0 everywhere is not shown at any width.
_DROP_ORDER = ("dtype", "sum_abs", "shape", "zeros", "sum_squares", "n", "max_abs", "subnormals")
_TITLES = {
    "name": "array",
    "shape": "shape",
    "dtype": "dtype",
    "n": "n",
    "sum_abs": "Σ|x|",
    "sum_squares": "Σx²",
    "norm": "norm",
    "max_abs": "max|x|",
    "zeros": "zeros",
    "subnormals": "subnormal",
    "nans": "nan",
    "infs": "inf",
}
_LEFT = ("name", "dtype")
_DIGITS = 6
_SHORTEST_NAME = 20


def _table(stats: Stats, width: int) -> str:
    def cell(field: str, value: Any) -> str:
        if field in ("n", "zeros", "subnormals", "nans", "infs"):
            return f"{value:,}"
        return _short(float(value), _DIGITS)

    columns: dict[str, list[str]] = {
        "name": [printable(name) for name in stats.names],
        "shape": [_shape(shape) for shape in stats.shapes],
        "dtype": list(stats.dtypes),
    }
    columns |= {field: [cell(field, v) for v in stats.rows[field].tolist()] for field in FIELDS}
    totals = {"name": "total", "shape": "", "dtype": ""}
    totals |= {field: cell(field, stats.total[field]) for field in FIELDS}
    for field in FIELDS[6:]:
        if not stats.total[field]:
            del columns[field]

    def room(field: str) -> int:
        return max(map(_cells, [_TITLES[field], totals[field], *columns[field]]))

    def needed() -> int:
        rooms = [min(room(f), _SHORTEST_NAME) if f == "name" else room(f) for f in columns]
        return sum(rooms) + len(_GAP) * (len(rooms) - 1)

    dropped = []
    for field in _DROP_ORDER:
        if needed() <= width:
            break
        if field not in columns:
            continue
        del columns[field]
        dropped.append(_TITLES[field])
    rooms = {field: room(field) for field in columns}
    others = sum(rooms.values()) - rooms["name"] + len(_GAP) * (len(rooms) - 1)
    rooms["name"] = min(rooms["name"], max(width - others, 8))

    def line(cells: dict[str, str]) -> str:
        parts = []
        for field, space in rooms.items():
            text = _shorten(cells[field], space) if field == "name" else cells[field]
            pad = " " * (space - _cells(text))
            parts.append(text + pad if field in _LEFT else pad + text)
        return _GAP.join(parts).rstrip()

    rule = "─" * (sum(rooms.values()) + len(_GAP) * (len(rooms) - 1))
    out = [line(_TITLES), rule]
    out += [
        line({field: texts[k] for field, texts in columns.items()})
        for k in range(len(stats.names))
    ]
    out += [rule] if stats.names else []
    out += [line(totals), ""]
    notes = list(stats.notes)
    if dropped:
        notes.insert(0, f"not shown: {', '.join(dropped)} (to_dict() has everything)")
    for note in notes:
        out += textwrap.wrap(note, max(width, 20))
    nans, infs = stats.total["nans"], stats.total["infs"]
    state = "all finite" if not nans and not infs else f"{nans:,} NaN and {infs:,} infinite"
    arrays = f"{len(stats.names):,} array{'s' * (len(stats.names) != 1)}"
    out.append(f"{arrays}, {int(stats.rows['n'].sum()):,} elements, {state}")
    return "\n".join(out)
