# SPDX-License-Identifier: BSD-3-Clause
"""Text for people: what is safe to print, how numbers and names are shortened, and one table."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TextIO

from fastreg.errors import printable

__all__ = [
    "Column",
    "Table",
    "cells",
    "lines_for",
    "nbytes_text",
    "plural",
    "print_table",
    "printable",
    "shape_text",
    "short_number",
    "shorten",
    "terminal_width",
    "to_ascii",
]

_ASCII = str.maketrans({"Σ": "sum ", "²": "^2", "×": "x", "…": "~", "─": "-", "·": "*"})
_LONGEST_SHAPE = 24
# Of a longer name not even a wide terminal shows more than its ends.
_LONGEST_NAME = 1000


# -- Text that somebody else wrote ----------------------------------------------------------------


def to_ascii(text: str) -> str:
    """Spell our own signs in ASCII, and escape what names may hold besides."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def lines_for(
    stream: TextIO | None, layout: Callable[[Callable[[str], str]], Sequence[str]]
) -> Sequence[str]:
    """Return the lines of a layout, in ASCII if the stream's encoding takes no more.

    The layout is called with the function that cleans each of its texts, for widths depend on it.
    """
    lines = layout(str)
    try:
        "".join(lines).encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return layout(to_ascii)
    return lines


def terminal_width(stream: TextIO | None = None) -> int:
    """Return the columns of the terminal that a stream is; 0, for no limit, if it is none.

    Without a stream, return those of the terminal of this process, or 80.
    """
    if stream is not None and not stream.isatty():
        return 0
    import shutil  # brings compressors along, which `import fastreg` has no use for

    return shutil.get_terminal_size().columns


# -- Names and numbers ----------------------------------------------------------------------------


def _cell(c: str) -> int:
    if unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def cells(text: str) -> int:
    """Count the terminal cells of a text: wide East Asian ones are 2, combining marks 0."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def shorten(name: str, room: int) -> str:
    """Fit a name into so many cells: ``encoder.layer.0.output`` becomes ``e.l.0.output``.

    Leading parts shrink to a letter, as fish does with paths, as many as it takes; numbers stay,
    for they tell layers apart. If that is not enough, the middle goes.
    """
    if len(name) > _LONGEST_NAME:  # whatever its length, and however many its dots
        name = f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 2 :]}"
    excess = cells(name) - room
    if excess <= 0:
        return name
    parts = re.split(r"([./])", name)
    for i in range(0, len(parts) - 1, 2):
        part = parts[i]
        if not part.isdigit():
            parts[i] = part[:1]
            excess -= cells(part[1:])
            if excess <= 0:
                return "".join(parts)
    name = "".join(parts)
    head, tail, left, right = 0, len(name), 0, 0
    while True:  # one character from the front, one from the back, and a cell for the sign
        left += _cell(name[head])
        if left + right >= room:
            break
        head += 1
        right += _cell(name[tail - 1])
        if left + right >= room:
            break
        tail -= 1
    return f"{name[:head]}…{name[tail:]}"


def shape_text(shape: Sequence[int | None]) -> str:
    """Show a shape as ``2×3``, shortened beyond 24 characters; ``scalar`` if it is empty."""
    if not shape:
        return "scalar"
    text = "×".join(map(str, shape[:_LONGEST_SHAPE]))
    return text if len(text) <= _LONGEST_SHAPE else text[: _LONGEST_SHAPE - 1] + "…"


def short_number(x: float | int, digits: int) -> str:
    """Show so many significant digits, trailing zeros and a padded exponent left out."""
    if isinstance(x, int) and abs(x) < 10**digits:
        return str(x)
    mantissa, e, exponent = f"{float(x):.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def plural(n: int, noun: str) -> str:
    """Return the noun, with an s unless there is one of it; the number is not in the text."""
    return noun if n == 1 else noun + "s"


def nbytes_text(nbytes: int) -> str:
    """Show a number of bytes with a decimal unit, B to TB."""
    if nbytes < 1000:
        return f"{nbytes} B"
    power = min((len(str(nbytes)) - 1) // 3, 4)
    return f"{nbytes / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


# -- The table ------------------------------------------------------------------------------------

_GAP = "  "
# A name has at least this many cells, however narrow the terminal.
_LEAST_NAME = 8
# Where there is no terminal, one long name makes neither its own line nor the others longer.
_MOST_NAME = 80


class Column(NamedTuple):
    """One column of a :class:`Table`: numbers stand right, text left."""

    key: str
    title: str
    cells: Sequence[str]
    total: str = ""
    left: bool = False


class Table:
    """Columns laid out as lines, as many of them as fit.

    Parameters
    ----------
    columns : sequence of Column
        All of the same length. What stands in them may come from an untrusted file: everything is
        printed through :func:`printable`.
    drop_order : sequence of str
        Keys of the columns that a narrow terminal loses, in this order.
    name_key : str
        The column whose texts are shortened before any column is dropped.
    shortest_name : int
        How far they are shortened for that.
    ruled : bool
        Whether lines separate the titles and the totals from the rest.
    more : str
        A line behind the rows, such as how many of them are not shown.
    elsewhere : str
        What has the columns that do not fit, for :attr:`note`.

    Attributes
    ----------
    dropped : list of str
        Titles of the columns that the last call of :meth:`lines` left out.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        drop_order: Sequence[str] = (),
        name_key: str = "name",
        shortest_name: int = 20,
        ruled: bool = True,
        more: str = "",
        elsewhere: str = "",
    ) -> None:
        self.columns = columns
        self.drop_order = drop_order
        self.name_key = name_key
        self.shortest_name = shortest_name
        self.ruled = ruled
        self.more = more
        self.elsewhere = elsewhere
        self.dropped: list[str] = []

    def fits(self, width: int, clean: Callable[[str], str] = str) -> bool:
        """Whether no column has to go for a terminal of so many columns (0: no limit)."""
        widest = {c.key: max(map(cells, self._texts(c, clean))) for c in self.columns}
        return not width or self._needed(widest) <= width

    def lines(self, width: int = 0, clean: Callable[[str], str] = str) -> list[str]:
        """Lay the table out.

        Parameters
        ----------
        width : int, default 0
            Columns of the terminal; 0 for no limit, as for a file: there names of more than 80
            cells are shortened, and nothing else.
        clean : callable, default str
            Applied to each text: :func:`to_ascii` where a stream takes no more.

        Returns
        -------
        list of str
            The titles, a rule, one line for each row, `more`, and if a column has a total, a rule
            (unless there is nothing to separate) and the totals.
        """
        texts = {c.key: self._texts(c, clean) for c in self.columns}
        rooms = {key: max(map(cells, column)) for key, column in texts.items()}
        self.dropped = []
        for key in self.drop_order:
            if not width or self._needed(rooms) <= width:
                break
            if key in rooms:
                del rooms[key]
                self.dropped.append(texts[key][0])
        shown = [c for c in self.columns if c.key in rooms]
        # Text at the end of a line may be cut there; a number never.
        cut = bool(width and shown and shown[-1].left and shown[-1].key != self.name_key)
        if not width:
            rooms = {key: min(room, _MOST_NAME) for key, room in rooms.items()}
        elif self.name_key in rooms:
            least = self.shortest_name if cut else _LEAST_NAME
            spare = width - self._needed(rooms, names=False)
            rooms[self.name_key] = min(rooms[self.name_key], max(spare, least))

        def line(k: int) -> str:
            parts = []
            for column in shown:
                text, room = texts[column.key][k], rooms[column.key]
                if column.key == self.name_key:
                    text = clean(shorten(text, room))
                pad = " " * (room - cells(text))
                parts.append(text + pad if column.left else pad + text)
            joined = _GAP.join(parts).rstrip()
            return clean(_cut(joined, width)) if cut else joined

        rule = clean("─") * (sum(rooms.values()) + len(_GAP) * (len(rooms) - 1))
        rules = [rule[:width] if cut else rule] if self.ruled else []
        rows = [line(k) for k in range(1, len(texts[self.columns[0].key]) - 1)]
        rows += [clean(self.more)] if self.more else []
        out = [line(0), *rules, *rows]
        if any(column.total for column in self.columns):
            out += [*(rules if rows else []), line(-1)]
        return out

    def html(self, below: Sequence[str] = ()) -> str:
        """Return the table for a notebook: every column, whole names, lines of text below."""
        from html import escape

        def row(tag: str, texts: Iterable[str]) -> str:
            styles = ("left" if c.left or c.key == self.name_key else "right" for c in self.columns)
            return "".join(
                f'<{tag} style="text-align: {style}">{escape(printable(text))}</{tag}>'
                for style, text in zip(styles, texts, strict=True)
            )

        head = row("th", (c.title for c in self.columns))
        rows = zip(*(c.cells for c in self.columns), strict=True)
        body = "".join(f"<tr>{row('td', texts)}</tr>" for texts in rows)
        total = row("td", (c.total for c in self.columns))
        foot = f"<tfoot><tr>{total}</tr></tfoot>" if any(c.total for c in self.columns) else ""
        lines = "".join(f"<p>{escape(printable(text))}</p>" for text in below)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table>{lines}"

    @property
    def note(self) -> str:
        """Which columns the last call of :meth:`lines` left out; empty if none."""
        if not self.dropped:
            return ""
        elsewhere = f" ({self.elsewhere})" if self.elsewhere else ""
        return f"not shown: {', '.join(self.dropped)}{elsewhere}"

    @staticmethod
    def _texts(column: Column, clean: Callable[[str], str]) -> list[str]:
        texts = (column.title, *column.cells, column.total)
        return [clean(printable(text, _LONGEST_NAME)) for text in texts]

    def _needed(self, rooms: dict[str, int], names: bool = True) -> int:
        """Return the width of the columns, names as short as they get, or none at all."""
        name = min(rooms.get(self.name_key, 0), self.shortest_name) if names else 0
        others = sum(room for key, room in rooms.items() if key != self.name_key)
        return name + others + len(_GAP) * (len(rooms) - 1)


def print_table(
    table: Table,
    end: Sequence[str],
    stream: TextIO,
    *,
    width: int | None = None,
    styles: Sequence[str] | None = None,
) -> None:
    """Print a table, an empty line, and some lines below it.

    Parameters
    ----------
    table : Table
        What to print.
    end : sequence of str
        Lines below; they may come from an untrusted file, too.
    stream : text file
        Its encoding decides between Σ, ², × and plain ASCII.
    width : int, optional
        0 for no limit; by default that of the terminal, if the stream is one.
    styles : sequence of str, optional
        Of each row, in words of ``rich``, which colours them on a terminal if it is installed.
    """
    columns = terminal_width(stream) if width is None else width

    def layout(clean: Callable[[str], str]) -> list[str]:
        lines = table.lines(columns, clean)
        below = [table.note, *end] if table.dropped else end
        return [*lines, "", *(clean(printable(text)) for text in below)]

    lines = lines_for(stream, layout)
    if styles is None or not stream.isatty():
        stream.write("".join(f"{line}\n" for line in lines))
        return
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        stream.write("".join(f"{line}\n" for line in lines))
        return
    above = [*["bold", "dim"][: 1 + table.ruled], *styles, *["dim"] * bool(table.more)]
    console = Console(file=stream, highlight=False, soft_wrap=True)
    for k, line in enumerate(lines):
        console.print(Text(line, style=above[k] if k < len(above) else ""))


def _cut(text: str, room: int) -> str:
    """Cut a text off at so many cells."""
    if cells(text) <= room:
        return text
    end = used = 0
    while used + _cell(text[end]) < room:
        used += _cell(text[end])
        end += 1
    return text[:end] + "…"
