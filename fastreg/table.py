# SPDX-License-Identifier: BSD-3-Clause
"""The report as a table for people: which columns fit, how numbers and names are shortened."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from .checkpoints import printable
from .report import Row, Totals

__all__ = ["print_table"]

_GAP = "  "
# A name is shortened to this before any column is dropped.
_SHORTEST_NAME = 26
_LONGEST_SHAPE = 24
# What a narrow terminal loses first: shape gives n, and norm is the root of Σx².
_DROP_ORDER = ("dtype", "n", "norm", "zeros", "shape", "max", "nonfinite")
_ASCII = str.maketrans({"Σ": "sum ", "²": "^2", "×": "x", "…": "~", "─": "-", "·": "*"})


@dataclass(frozen=True, slots=True)
class _Column:
    key: str
    title: str
    cell: Callable[[Row], str]
    total: str
    left: bool = False


def print_table(
    stream: TextIO,
    rows: Sequence[Row],
    totals: Totals,
    *,
    files: Sequence[str],
    hidden: int = 0,
    l1: float = 0.0,
    l2: float = 0.0,
    seconds: float = 0.0,
    width: int = 0,
) -> None:
    """Print the report.

    Parameters
    ----------
    stream : text file
        Its encoding decides between Σ, ², × and plain ASCII; a terminal gets bold and red through
        ``rich``, if that is installed.
    rows : sequence of Row
        Those to show, in the order to show them.
    totals : Totals
        Of all rows, hidden ones included.
    files : sequence of str
        Paths; with more than one, a column says which file a tensor is in.
    hidden : int, default 0
        How many rows ``--top`` left out.
    l1, l2 : float, default 0
        Weights; the penalty and its shares are shown if one is not 0.
    seconds : float, default 0
        How long it took.
    width : int, default 0
        Columns of the terminal; 0 for no limit, as for a pipe: then nothing is shortened.

    Notes
    -----
    Names and paths are untrusted: everything goes through
    :func:`fastreg.checkpoints.printable`, and rich is given text, never markup.
    """

    def lines(clean: Callable[[str], str]) -> list[tuple[str, str]]:
        columns, dropped = _fit(rows, totals, len(files) > 1, bool(l1 or l2), width)
        table = _table(columns, rows, hidden, width, clean)
        notes = [
            f"file {number}: {printable(path)}"
            for number, path in enumerate(files, 1)
            if len(files) > 1
        ]
        notes += [
            f"skipped {printable(row.tensor.name, 80)}: {row.tensor.skipped}"
            for row in rows
            if row.tensor.skipped
        ]
        if dropped:
            names = ", ".join(column.title for column in dropped)
            notes.append(f"not shown at {width} columns: {names} (--json has everything)")
        if totals.uncounted:
            what = (
                "tensor of integers or booleans is"
                if totals.uncounted == 1
                else ("tensors of integers or booleans are")
            )
            notes.append(f"{totals.uncounted:,} {what} not counted (--integers)")
        end = []
        if l1 or l2:
            terms = [f"{w:g}·{sum_}" for w, sum_ in ((l1, "Σ|x|"), (l2, "Σx²")) if w]
            end.append(f"penalty {_short(totals.penalty, 10)} = {' + '.join(terms)}")
        end.append(_summary(totals, seconds))
        return [
            *table,
            ("", ""),
            *(("dim", clean(text)) for text in notes),
            *(("", clean(text)) for text in end),
        ]

    _write(stream, lines)


def _table(
    columns: Sequence[_Column],
    rows: Sequence[Row],
    hidden: int,
    width: int,
    clean: Callable[[str], str],
) -> list[tuple[str, str]]:
    """Lay the table out as (style, line)."""
    titles = [clean(column.title) for column in columns]
    totals = [clean(column.total) for column in columns]
    cells = [[clean(column.cell(row)) for column in columns] for row in rows]
    widths = [max(map(_cells, texts)) for texts in zip(titles, totals, *cells, strict=True)]
    if width:
        spare = width - sum(widths[1:]) - len(_GAP) * (len(widths) - 1)
        widths[0] = min(widths[0], max(spare, 8))

    def line(texts: Sequence[str]) -> str:
        parts = []
        for text, column, room in zip(texts, columns, widths, strict=True):
            if column.key == "name":
                text = clean(_shorten(text, room))
            pad = " " * (room - _cells(text))
            parts.append(text + pad if column.left else pad + text)
        return _GAP.join(parts).rstrip()

    rule = ("dim", clean("─") * (sum(widths) + len(_GAP) * (len(widths) - 1)))
    out = [("bold", line(titles)), rule]
    for row, texts in zip(rows, cells, strict=True):
        out.append(("dim" if row.tensor.skipped else "red" if row.nonfinite else "", line(texts)))
    if hidden:
        out.append(("dim", clean(f"… {hidden:,} more {_plural(hidden, 'tensor')} (--top)")))
    if rows or hidden:
        out.append(rule)
    return [*out, ("bold", line(totals))]


def _summary(totals: Totals, seconds: float) -> str:
    text = (
        f"{totals.tensors:,} {_plural(totals.tensors, 'tensor')}, "
        f"{totals.n:,} {_plural(totals.n, 'value')}, {_bytes(totals.nbytes)}, {seconds:.2f} s"
    )
    return text + (f"; {totals.skipped:,} skipped" if totals.skipped else "")


# ---- columns --------------------------------------------------------------------------------


def _columns(totals: Totals, several: bool, weighted: bool, digits: int) -> list[_Column]:
    def read(cell: Callable[[Row], str]) -> Callable[[Row], str]:
        return lambda row: "" if row.tensor.skipped else cell(row)

    def short(value: float | int) -> str:
        return _short(value, digits)

    columns = [
        _Column("name", "name", lambda row: printable(row.tensor.name), "total", left=True),
        _Column("file", "file", lambda row: str(row.file + 1), ""),
        _Column("shape", "shape", lambda row: _shape(row.tensor.shape), ""),
        _Column("dtype", "dtype", lambda row: row.tensor.dtype, "", left=True),
        _Column("n", "n", lambda row: f"{row.tensor.n:,}", f"{totals.n:,}"),
        _Column("l1", "Σ|x|", read(lambda row: short(row.sum_abs)), short(totals.sum_abs)),
        _Column("l2", "Σx²", read(lambda row: short(row.sum_squares)), short(totals.sum_squares)),
        _Column("norm", "norm", read(lambda row: short(row.norm)), short(totals.norm)),
        _Column("max", "max|x|", read(lambda row: short(row.max_abs)), short(totals.max_abs)),
        _Column("zeros", "zeros", read(lambda row: f"{row.zeros:,}"), f"{totals.zeros:,}"),
        _Column(
            "nonfinite", "nan/inf", read(lambda row: f"{row.nonfinite:,}"), f"{totals.nonfinite:,}"
        ),
        _Column("share", "share", read(lambda row: _percent(row.share(totals.penalty))), ""),
    ]
    absent = {key for key, there in (("file", several), ("share", weighted)) if not there}
    return [column for column in columns if column.key not in absent]


def _fit(
    rows: Sequence[Row], totals: Totals, several: bool, weighted: bool, width: int
) -> tuple[list[_Column], list[_Column]]:
    """Choose columns, and digits, so that the table fits `width`; return also what went."""
    dropped: list[_Column] = []
    for digits, names in ((8, math.inf), (8, _SHORTEST_NAME), (6, _SHORTEST_NAME)):
        columns = _columns(totals, several, weighted, digits)
        if not width or _needed(columns, rows, names) <= width:
            return columns, dropped
    # A count that is 0 everywhere says nothing that the absent column does not.
    order = [key for key in ("nonfinite", "zeros") if not getattr(totals, key)]
    for key in (*order, *_DROP_ORDER):
        gone = [column for column in columns if column.key == key]
        if gone:
            columns = [column for column in columns if column.key != key]
            dropped += [] if key in order else gone
        if _needed(columns, rows, _SHORTEST_NAME) <= width:
            break
    return columns, dropped


def _needed(columns: Sequence[_Column], rows: Sequence[Row], names: float) -> float:
    needed = 0.0
    for column in columns:
        widest = max(
            [_cells(column.title), _cells(column.total)]
            + [_cells(column.cell(row)) for row in rows]
        )
        needed += min(widest, names) if column.key == "name" else widest
    return needed + len(_GAP) * (len(columns) - 1)


# ---- cells ----------------------------------------------------------------------------------


def _short(value: float | int, digits: int) -> str:
    """Show `digits` significant digits, trailing zeros and a padded exponent left out."""
    if isinstance(value, int) and value < 10**digits:
        return str(value)
    mantissa, e, exponent = f"{float(value):.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def _percent(share: float) -> str:
    if share != share:
        return "-"
    return f"{100 * share:.2f}%" if share == 0 or share >= 5e-5 else "<0.01%"


def _shape(shape: tuple[int, ...]) -> str:
    if not shape:
        return "scalar"
    text = "×".join(map(str, shape[:_LONGEST_SHAPE]))
    return text if len(text) <= _LONGEST_SHAPE else text[: _LONGEST_SHAPE - 1] + "…"


def _bytes(nbytes: int) -> str:
    if nbytes < 1000:
        return f"{nbytes} B"
    power = min((len(str(nbytes)) - 1) // 3, 4)
    return f"{nbytes / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def _plural(n: int, noun: str) -> str:
    return noun if n == 1 else noun + "s"


def _cells(text: str) -> int:
    """Count the terminal cells of `text`: wide East Asian ones are 2, combining marks 0."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _shorten(name: str, room: int) -> str:
    """Fit a name into `room` cells: ``encoder.layer.0.output`` → ``e.l.0.output``.

    Leading parts shrink to a letter, as fish does with paths, as many as it takes; numbers stay,
    for they tell layers apart.  If that is not enough, the middle goes.
    """
    if _cells(name) <= room:
        return name
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        parts[i] = part if part.isdigit() else part[:1]
        if _cells(".".join(parts)) <= room:
            return ".".join(parts)
    name = ".".join(parts)
    head = tail = ""
    while True:
        head, old_head = head + name[len(head)], head
        if _cells(head + tail) >= room:
            return f"{old_head}…{tail}"
        tail, old_tail = name[-1 - len(tail)] + tail, tail
        if _cells(head + tail) >= room:
            return f"{head}…{old_tail}"


# ---- output ---------------------------------------------------------------------------------


def _ascii(text: str) -> str:
    """Spell our own signs in ASCII, and escape what names may hold besides."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def _write(
    stream: TextIO, lines: Callable[[Callable[[str], str]], Sequence[tuple[str, str]]]
) -> None:
    """Write (style, text) lines: with rich on a terminal, else plainly."""
    written = lines(str)
    try:
        "".join(text for _, text in written).encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        written = lines(_ascii)
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        Console = None  # type: ignore[assignment,misc]
    if Console is None or not stream.isatty():
        stream.write("".join(f"{text}\n" for _, text in written))
        return
    console = Console(file=stream, highlight=False, soft_wrap=True)
    for style, text in written:
        console.print(Text(text, style=style))
