# SPDX-License-Identifier: BSD-3-Clause
"""Text for people: what is safe to print, what fits, and the one table."""

from __future__ import annotations

import io
import time

import pytest

from fastreg._core.text import (
    Column,
    Table,
    cells,
    lines_for,
    nbytes_text,
    plural,
    print_table,
    printable,
    shape_text,
    short_number,
    shorten,
    to_ascii,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("encoder.0.weight", "encoder.0.weight"),
        ("漢字 é", "漢字 é"),
        ("\x1b[31m\n\r\t\x7f", r"\x1b[31m\n\r\t\x7f"),
        ("\x9b0m", r"\x9b0m"),
        ("a\u202eb\u2066\ufeff", r"a\u202eb\u2066\ufeff"),
        ("\ud800\udc80", r"\ud800\udc80"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_printable_shortens_the_middle():
    assert printable("a" * 50 + "b" * 50, 10) == "aaaaa…bbbb"
    for limit in range(1, 12):
        assert len(printable("x" * 12, limit)) == limit
    assert printable("x" * 12, 12) == "x" * 12


def test_cells_of_wide_and_combining_characters():
    assert cells("kernel") == 6
    assert cells("漢字") == 4
    assert cells("e\u0301") == cells("a\u20dd") == 1


@pytest.mark.parametrize(
    ("name", "room", "short"),
    [
        ("encoder.layer.0.output", 22, "encoder.layer.0.output"),
        ("encoder.layer.0.output", 18, "e.layer.0.output"),
        ("encoder.layer.10.output", 13, "e.l.10.output"),
        ("encoder/layer/0/output", 12, "e/l/0/output"),
        ("encoder.layer.0.output", 8, "e.l.…put"),
        ("漢字漢字漢字", 7, "漢字…字"),
        ("abcdef", 1, "…"),
        ("..a...", 3, ".…."),
    ],
)
def test_shorten(name, room, short):
    assert shorten(name, room) == short
    assert cells(short) <= room


def test_shorten_takes_linear_time():
    start = time.process_time()
    for name in ("a." * 200_000, "ab." * 200_000, "a\u0301" * 200_000, "\u0301" * 200_000 + "ab"):
        assert cells(shorten(name, 1)) <= 1
        assert cells(shorten(name, 40)) <= 40
    assert time.process_time() - start < 20.0  # quadratic: hours


def test_numbers_and_shapes():
    assert [short_number(x, 6) for x in (7, 123456789, 0.1, 1e-7, 1e300, float("nan"))] == [
        "7", "1.23457e8", "0.1", "1e-7", "1e300", "nan",
    ]  # fmt: skip
    assert short_number(-(10**9), 6) == "-1e9"
    assert [shape_text(s) for s in ((), (3,), (2, 3))] == ["scalar", "3", "2×3"]
    assert shape_text((None, 3)) == "None×3"
    assert len(shape_text((1,) * 40)) == 24
    assert [nbytes_text(n) for n in (999, 1000, 10**16)] == ["999 B", "1.0 kB", "10000.0 TB"]
    assert [plural(n, "array") for n in (0, 1, 2)] == ["arrays", "array", "arrays"]


# -- The table ------------------------------------------------------------------------------------


def table(**options) -> Table:
    return Table(
        [
            Column("name", "array", ["encoder.dense.kernel", "b"], "total", left=True),
            Column("shape", "shape", ["20×30", "30"]),
            Column("n", "n", ["600", "30"], "630"),
        ],
        ("shape", "n"),
        shortest_name=10,
        **options,
    )


def test_lines():
    made = table()
    assert made.lines() == [
        "array                 shape    n",
        "────────────────────────────────",
        "encoder.dense.kernel  20×30  600",
        "b                        30   30",
        "────────────────────────────────",
        "total                        630",
    ]
    assert (made.dropped, made.note) == ([], "")


def test_narrow_lines_shorten_names_then_lose_columns():
    made = table(elsewhere="see above")
    assert made.fits(22)
    assert made.lines(22)[2] == "e.d.kernel  20×30  600"
    assert not made.fits(21)
    assert made.lines(21)[2] == "e.dense.kernel    600"
    assert made.note == "not shown: shape (see above)"
    assert made.lines(8) == ["array", "─" * 8, "e.d.…nel", "b", "─" * 8, "total"]
    assert made.dropped == ["shape", "n"]
    made.lines()
    assert made.dropped == []


def test_without_rules_and_with_more():
    made = table(ruled=False, more="… 3 more")
    assert [line.split()[0] for line in made.lines()] == [
        "array", "encoder.dense.kernel", "b", "…", "total",
    ]  # fmt: skip
    assert made.lines(0, to_ascii)[3] == "~ 3 more"


def test_no_rows():
    made = Table([Column("name", "array", [], "total", left=True), Column("n", "n", [], "0")])
    assert made.lines() == ["array  n", "────────", "total  0"]


def test_text_at_the_end_of_a_line_is_cut_there():
    rules = ["a kernel", "a bias, by the name of the layer that holds it 漢字"]
    columns = [Column("name", "array", ["w", "b" * 30], left=True)]
    made = Table([*columns, Column("rule", "rule", rules, left=True)])
    for width in (30, 40, 60, 66):
        assert max(map(cells, made.lines(width))) <= width
    assert made.lines(40)[3] == "bbbbbbbbbb…bbbbbbbbb  a bias, by the na…"


def test_a_long_name_does_not_widen_every_line_of_a_file():
    names = ["n" * 5000, *("b" for _ in range(50))]
    made = Table([Column("name", "array", names, left=True), Column("n", "n", ["1"] * 51)])
    lines = made.lines()
    assert lines[2].split() == [f"{'n' * 40}…{'n' * 39}", "1"]
    assert max(map(len, lines)) < 100
    # No name makes others shorter, and nothing but names is shortened.
    long = Table([Column("name", "array", ["b"], left=True), Column("x", "x", ["y" * 500])])
    assert long.lines()[2].split() == ["b", "y" * 500]


@pytest.mark.parametrize("part", ["a.", "漢.", "layer/", "\x1b.", "n"])
def test_the_longest_name_is_shortened_at_once(part):
    name = part * (100_000 // len(part))
    made = Table([Column("name", "array", [name] * 3, left=True)])
    start = time.perf_counter()
    for width in (0, 40, 100):
        assert max(map(cells, made.lines(width))) <= (width or 80)
    assert cells(shorten(name, 30)) <= 30
    assert time.perf_counter() - start < 0.5  # a time quadratic in the dots: 26 s for each


def test_what_stands_in_a_table_cannot_steer_a_terminal():
    evil = "\x1b[31m\n"
    made = Table([Column(evil, evil, [evil], evil)], more="x")
    stream = io.StringIO()
    print_table(made, [evil], stream)
    assert stream.getvalue().replace("\n", "").isprintable()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "no-such-encoding"])
def test_streams_that_take_no_more_get_ascii(encoding):
    class Stream(io.StringIO):
        pass

    Stream.encoding = encoding
    stream = Stream()
    print_table(table(), ["Σ|x|"], stream)
    assert stream.getvalue().isascii()
    assert "20x30" in stream.getvalue()
    assert lines_for(None, lambda clean: [clean("Σ")]) == ["Σ"]
