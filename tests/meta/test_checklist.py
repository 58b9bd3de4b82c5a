# SPDX-License-Identifier: BSD-3-Clause
"""The checklist names tests that exist, all 61 behaviours, and no unknown difference."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]
TEXT = (FOLDER / "checklist.md").read_text()
ROWS = [[c.strip() for c in line.strip("|").split(" | ")]
        for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]  # fmt: skip
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", TEXT)))


@cache
def found(file):
    """The file of tests/ that the checklist names, without the folder of its part."""
    return next(FOLDER.glob(f"*/{file}"))


@cache
def functions(path):
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda x: x)
def test_named_tests_exist(file, name):
    path = found(file)
    assert not name or name in functions(path)


def test_every_file_that_the_readme_names_exists():
    text = (FOLDER / "README.md").read_text()
    for file in set(re.findall(r"`([\w/]+\.(?:py|[ch]))`", text)):
        assert list(FOLDER.rglob(file)), file


def test_every_behaviour_has_tests_and_results():
    assert [int(row[0]) for row in ROWS] == list(range(1, 62))
    for number, _, tests, *results in ROWS:
        assert re.search(r"`[\w/]+\.py(::\w+)?`", tests), number
        assert len(results) == 9, number
        for result in results:
            assert re.fullmatch(r"ok|–|D\d+( D\d+)*", result), (number, result)


def test_every_difference_is_explained_and_used():
    used = set(re.findall(r"D\d+", " ".join(" ".join(row[3:]) for row in ROWS)))
    explained = set(re.findall(r"\*\*(D\d+)\*\*", TEXT))
    assert used == explained


def test_every_check_under_keras_is_listed_or_of_tools():
    """A check that nobody lists would be read by nobody."""
    listed = {name for file, name in NAMED if file == "keras_checks.py"}
    tools = re.compile(
        "check_(penalty_of_a_model|one_meaning|rules_may|layers_judge|steps|clipping)"
    )
    checks = {n for n in functions(found("keras_checks.py")) if n.startswith("check_")}
    assert {c for c in checks - listed if not tools.match(c)} == set()
