# SPDX-License-Identifier: BSD-3-Clause
"""What the arrays of a model hold: numbers of each and of all, for people and for programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastreg._core.dtypes import by_name
from fastreg._core.text import (
    Column,
    Table,
    lines_for,
    plural,
    shape_text,
    short_number,
    terminal_width,
)
from fastreg._kernels import Arrays
from fastreg.errors import NonFiniteError, UnknownNameError, message, printable

if TYPE_CHECKING:
    from fastreg._core.arrays import AnyArray, HostArray
    from fastreg._core.containers import Parameter

__all__ = [
    "COUNTS",
    "FIELDS",
    "SCHEMA",
    "FloatsAndOthers",
    "Stats",
    "Titles",
    "columns",
    "csv_field",
    "entry",
    "finite_or_raise",
    "to_json",
    "totals",
]

SCHEMA = "fastreg-stats/3"
"""Name and version of the JSON document; a change that breaks a reader raises the number."""

SUMS = ("sum_abs", "sum_squares", "norm", "max_abs")
COUNTS = ("zeros", "subnormals", "nans", "infs")
FIELDS = ("n", *SUMS, *COUNTS)
"""What is known of each array, and of all together."""

_NAMED = 10


class Titles(NamedTuple):
    """What the rows are about: it does not change from one call to the next."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    integers: tuple[int, ...] = ()
    """Positions of the arrays that hold no floats."""

    @classmethod
    def of(cls, parameters: Sequence[Parameter], notes: Sequence[str] = ()) -> Titles:
        """Take them from gathered parameters."""
        hosts = [p.elements for p in parameters]
        return cls(
            tuple(p.name for p in parameters),
            tuple(host.shape for host in hosts),
            tuple(host.dtype.short for host in hosts),
            tuple(notes),
            tuple(k for k, host in enumerate(hosts) if not host.dtype.floating),
        )

    @classmethod
    def of_ndarrays(cls, names: Iterable[Any], arrays: Sequence[AnyArray]) -> Titles:
        """Take them from ndarrays of NumPy's own floats."""
        dtypes = [x.dtype for x in arrays]
        short = {dtype: str(by_name(dtype.name)) for dtype in set(dtypes)}
        return cls(
            tuple(map(str, names)),
            tuple([x.shape for x in arrays]),
            tuple([short[dtype] for dtype in dtypes]),
        )


class FloatsAndOthers:
    """Described arrays of which only those of floats are in the total."""

    __slots__ = ("_count", "_floats", "_others", "_places")

    def __init__(self, hosts: Sequence[HostArray]) -> None:
        self._count = len(hosts)
        places: tuple[list[int], list[int]] = ([], [])
        for k, host in enumerate(hosts):
            places[not host.dtype.floating].append(k)
        self._places = places
        self._floats, self._others = (Arrays([hosts[k] for k in part]) for part in places)

    def statistics(self) -> tuple[AnyArray, Any]:
        """Return the rows of all arrays, and the total of the floats."""
        floats, total = self._floats.statistics()
        rows = np.empty(self._count, floats.dtype)
        rows[self._places[0]] = floats
        rows[self._places[1]] = self._others.statistics()[0]
        return rows, total


class Stats(Mapping[str, dict[str, Any]]):
    """Statistics of arrays: a mapping of names to numbers, a table when printed.

    ``dict(stats)`` has a dict for each array, so that
    ``pandas.DataFrame.from_dict(dict(stats), orient="index")`` is its table.

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
    left_out : tuple of int
        Positions of the arrays that are not in the total.
    """

    __slots__ = ("_places", "dtypes", "left_out", "names", "notes", "rows", "shapes", "total")

    def __init__(
        self,
        names: tuple[str, ...],
        shapes: tuple[tuple[int, ...], ...],
        dtypes: tuple[str, ...],
        rows: AnyArray,
        total: dict[str, Any],
        notes: tuple[str, ...] = (),
        left_out: tuple[int, ...] = (),
    ) -> None:
        self.names = names
        self.shapes = shapes
        self.dtypes = dtypes
        self.rows = rows
        self.total = total
        self.notes = notes
        self.left_out = left_out
        self._places: dict[str, int] | None = None

    @classmethod
    def of(cls, titles: Titles, rows: AnyArray, total: Any, *, integers: bool = True) -> Stats:
        """Put together titles, rows and total; say whether integers are in the total."""
        notes, left_out = titles.notes, () if integers else titles.integers
        if left_out:
            what = plural(len(left_out), "array")
            verb = "is" if len(left_out) == 1 else "are"
            notes = (
                *notes,
                f"{len(left_out):,} {what} of integers or booleans {verb} not in the total "
                "(integers=True)",
            )
        numbers = dict(zip(FIELDS, total.tolist(), strict=True))
        return cls(titles.names, titles.shapes, titles.dtypes, rows, numbers, notes, left_out)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names)

    def __getitem__(self, name: str | int) -> dict[str, Any]:
        """Return one array's numbers; of a list, a position is a name as well.

        Raises
        ------
        UnknownNameError
            (a KeyError and a ValueError) If there is no array of that name, or more than one.
        """
        if self._places is None:
            self._places = {n: k for k, n in reversed(list(enumerate(self.names)))}
        name = str(name) if type(name) is int else name
        k = self._places.get(name) if isinstance(name, str) else None
        if k is not None and len(self._places) < len(self.names) and self.names.count(name) > 1:
            raise UnknownNameError(
                message("a name that one array has", repr(name)[:80], "see to_dict(), or rows")
            )
        if k is None:
            raise UnknownNameError(
                message("the name of an array", repr(name)[:80], "see stats.names")
            )
        numbers = self._entry(k, k not in self.left_out)
        del numbers["name"]
        return numbers

    def _entry(self, k: int, counted: bool) -> dict[str, Any]:
        return entry(self.names[k], self.shapes[k], self.dtypes[k], counted, self.rows[k])

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"schema", "arrays": [{"name", "shape", "dtype", ...}], "totals", "notes"}``.

        Each array has "counted", whether it is in the totals, the fields of :attr:`rows`, and
        "nonfinite", its NaNs and infinities together.
        Numbers are Python's own; those that are not finite stay NaN and infinity.
        """
        left_out = frozenset(self.left_out)
        return {
            "schema": SCHEMA,
            "arrays": [self._entry(k, k not in left_out) for k in range(len(self))],
            "totals": totals(self.total),
            "notes": list(self.notes),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Return :meth:`to_dict` as strict JSON; numbers that are not finite are "nan", "inf"."""
        return to_json(self.to_dict(), indent=indent)

    def to_csv(self) -> str:
        """Return a line for each array, the titles first; floats have all their digits.

        What would steer a terminal is escaped in names, as it is in tables.
        """
        keys = ("name", "shape", "dtype", "counted", *FIELDS, "nonfinite")
        rows = [",".join(keys)]
        for numbers in self.to_dict()["arrays"]:
            numbers["shape"] = "x".join(map(str, numbers["shape"]))
            rows.append(",".join(csv_field(numbers[key]) for key in keys))
        return "".join(f"{row}\n" for row in rows)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        shown = columns(self.names, self.shapes, self.dtypes, self.rows, self.total)
        return Table(shown).html([*self.notes, self._summary()])

    def __str__(self) -> str:
        """Return a table that fits the terminal, in ASCII if standard output takes no more."""
        width = terminal_width()
        return "\n".join(lines_for(sys.stdout, lambda clean: self._lines(width, clean)))

    __repr__ = __str__

    def _lines(self, width: int, clean: Callable[[str], str]) -> list[str]:
        import textwrap

        shown = columns(self.names, self.shapes, self.dtypes, self.rows, self.total)
        table = Table(shown, _DROP_ORDER, elsewhere="to_dict() has everything")
        lines = [*table.lines(width, clean), ""]
        for note in filter(None, (table.note, *self.notes)):
            lines += textwrap.wrap(clean(note), max(width, 20))
        return [*lines, self._summary()]

    def _summary(self) -> str:
        nans, infs = self.total["nans"], self.total["infs"]
        state = "all finite" if not nans and not infs else f"{nans:,} NaN and {infs:,} infinite"
        n = int(self.rows["n"].sum())
        return f"{len(self):,} {plural(len(self), 'array')}, {n:,} elements, {state}"


def csv_field(value: Any) -> str:
    """Spell a value for CSV (RFC 4180); None is empty."""
    if value is None:
        return ""
    text = printable(value if isinstance(value, str) else str(value))
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"') else text


def finite_or_raise(parameters: Sequence[Parameter], rows: AnyArray, what: str) -> None:
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


# -- For programs: what Stats and the inspect command have in common -------------------------------


def entry(
    name: str, shape: Sequence[int], dtype: str, counted: bool, row: Any = None
) -> dict[str, Any]:
    """Return one array's part of the document; without a row all its numbers are None."""
    numbers = dict.fromkeys(FIELDS) if row is None else dict(zip(FIELDS, row.tolist(), strict=True))
    return {
        "name": name,
        "shape": list(shape),
        "dtype": dtype,
        "counted": counted,
        **(totals(numbers) if row is not None else {**numbers, "nonfinite": None}),
    }


def totals(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of one row or total as the document has them."""
    return {**numbers, "nonfinite": numbers["nans"] + numbers["infs"]}


def to_json(document: dict[str, Any], *, indent: int | None = None) -> str:
    """Return a document as strict JSON; numbers that are not finite are "nan", "inf"."""
    import json

    def plain(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: plain(item) for key, item in x.items()}
        if isinstance(x, list):
            return [plain(item) for item in x]
        return x if not isinstance(x, float) or math.isfinite(x) else str(x)

    # JSON leaves DEL as it is.
    return json.dumps(plain(document), allow_nan=False, indent=indent).replace("\x7f", "\\u007f")


# -- For people ------------------------------------------------------------------------------------

# What a narrow terminal loses first; a count that is 0 everywhere is not shown at any width.
_DROP_ORDER = ("dtype", "sum_abs", "shape", "zeros", "sum_squares", "n", "max_abs", "subnormals")
_TITLES = {
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


def columns(
    names: Sequence[str],
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[str],
    rows: AnyArray,
    total: dict[str, Any],
    *,
    digits: int = 6,
    blank: Collection[int] = (),
) -> list[Column]:
    """Return the columns of a table of statistics, without counts that are 0 everywhere.

    Numbers of the rows at the positions in `blank` are left empty but for n.
    """

    def cell(key: str, value: Any) -> str:
        return short_number(value, digits) if key in SUMS else f"{value:,}"

    def numbers(key: str) -> Column:
        texts = [
            "" if k in blank and key != "n" else cell(key, value)
            for k, value in enumerate(rows[key].tolist())
        ]
        return Column(key, _TITLES[key], texts, cell(key, total[key]))

    return [
        Column("name", "array", names, "total", left=True),
        Column("shape", "shape", [shape_text(shape) for shape in shapes]),
        Column("dtype", "dtype", dtypes, left=True),
        *(numbers(k) for k in FIELDS if k not in COUNTS[1:] or total[k] or rows[k].any()),
    ]
