# SPDX-License-Identifier: BSD-3-Clause
"""The theorems of csrc/proofs hold, and the C sources are what they speak of."""

from __future__ import annotations

import re
import shutil
import subprocess

import drivers
import mutate
import proofs
import pytest

TIED = [(tie.file, line) for tie in proofs.ties() for line in tie.code]
CITED = re.compile(r"proofs: ((?:\w+\.\w+(?:, )?)+)")


@pytest.fixture
def copy(tmp_path):
    """What the comparison reads, to be changed."""
    for folder in ("csrc", "tests/meta"):
        shutil.copytree(proofs.ROOT / folder, tmp_path / folder)
    return tmp_path


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_c_has_what_the_theorems_assume():
    assert proofs.broken() == []


def test_the_theorems_of_the_ties_exist():
    stated = set(proofs.theorems())
    named = {theorem for tie in proofs.ties() for theorem in tie.theorems}
    assert named <= stated, named - stated


def test_the_theorems_that_comments_cite_exist():
    stated = set(proofs.theorems())
    cited = [
        theorem
        for path in (proofs.ROOT / "csrc").rglob("*.*")
        if path.suffix in (".c", ".h", ".inc")
        for match in CITED.finditer(path.read_text())
        for theorem in match[1].split(", ")
        if theorem
    ]
    assert cited
    assert set(cited) <= stated, set(cited) - stated


def test_nothing_is_admitted():
    assert proofs.unproven() == []


def test_every_file_is_checked():
    written = {path.stem for path in (proofs.ROOT / "csrc/proofs").glob("*.v")}
    assert set(proofs.files()) == written


def test_the_page_names_every_tied_theorem():
    page = (proofs.ROOT / "docs/proofs.md").read_text()
    named = {theorem for tie in proofs.ties() for theorem in tie.theorems}
    assert [theorem for theorem in sorted(named) if f"`{theorem}`" not in page] == []


def numbers(line):
    """Each number of a line of C, one larger in turn."""
    filled = proofs.filled(proofs.ROOT, line)
    for match in re.finditer(r"(?<![\w.])(0x1p-?)?(\d+)(?![\w.]*\w*\()", filled):
        wrong = f"{match[1] or ''}{int(match[2]) + 1}"
        yield filled, filled[: match.start()] + wrong + filled[match.end() :]


def test_any_number_that_changes_in_c_alone_is_noticed(copy):
    tried = 0
    for file, line in TIED:
        path = copy / file
        text = path.read_text()
        bare = proofs.one_line(proofs.without_comments(text, "/*", "*/"))
        for right, wrong in numbers(line):
            path.write_text(bare.replace(proofs.one_line(right), wrong))
            assert proofs.broken(copy, file), wrong
            tried += 1
        path.write_text(text)
    assert tried > 60


def test_any_number_that_changes_in_a_proof_alone_is_noticed(copy):
    names = {match.groups() for _, line in TIED for match in proofs.NAME.finditer(line)}
    assert len(names) > 30
    for file, name in names:
        path = copy / f"csrc/proofs/{file}.v"
        text = path.read_text()
        pattern = proofs.DEFINITION.format(name)
        match = re.search(pattern, text, re.M)
        wrong = text[: match.start(1)] + str(int(match[1]) + 1) + text[match.end(1) :]
        path.write_text(wrong)
        assert proofs.broken(copy), name
        path.write_text(text)


@pytest.mark.parametrize(
    "words",
    ["Lemma hope : 0 = 1. Admitted.", "Axiom hope : 0 = 1.", "Goal True. admit. Abort."],
)
def test_what_is_not_proven_is_noticed(copy, words):
    with (copy / "csrc/proofs/Plain.v").open("a") as out:
        out.write(f"\n{words}\n")
    assert proofs.unproven(copy)


def test_mutants_of_bounds_die():
    """No mutant of a tied line makes the same line, so mutate.py kills all of them."""
    for file in sorted({file for file, _ in TIED}):
        lines = [proofs.one_line(proofs.filled(proofs.ROOT, c)) for f, c in TIED if f == file]
        for mutant in mutate.mutants_of(file):
            old, new = proofs.one_line(mutant.old.strip()), proofs.one_line(mutant.new.strip())
            if old in lines:
                assert new not in lines


def test_no_excuse_is_a_smaller_bound():
    assert "bound" not in mutate.explained().values()


def coq(folder):
    """Check the proofs of a tree; how that went, and what was printed."""
    drivers.tool("coqc")
    where = subprocess.run(["coqc", "-where"], capture_output=True, text=True, check=True)
    if not any(
        (path / "Flocq").exists()
        for path in map(drivers.Path, [f"{where.stdout.strip()}/user-contrib"])
    ):
        pytest.skip("this machine has no Flocq")
    return drivers.run(["sh", folder / "csrc/proofs/check.sh"], timeout=900)


@pytest.mark.full
def test_the_proofs_hold_and_assume_only_the_reals(copy):
    done = coq(copy)
    assert done.returncode == 0, done.stderr[-2000:]
    found = proofs.assumptions(done.stdout)
    assert found == proofs.AXIOMS
    assert len(proofs.CLOSED.findall(done.stdout)) == len(proofs.theorems())


@pytest.mark.full
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("Plain", "plain_chains := 2%nat", "plain_chains := 0%nat"),
        ("Exact", "middle_more := 2%nat", "middle_more := 0%nat"),
        ("Anchored", "anchored_rests := 4%nat", "anchored_rests := 0%nat"),
        ("Pair", "twofold_loss := (-103)", "twofold_loss := (-105)"),
        ("Rounding", "decide_exponent := (-51)", "decide_exponent := (-54)"),
        ("Digits", "digit_additions := 2 ^ 30", "digit_additions := 2 ^ 31"),
        ("Gradient", "gradient_factor := (-22)", "gradient_factor := (-23)"),
    ],
)
def test_a_bound_too_small_has_no_proof(copy, file, old, new):
    """The constants are those that the proofs use: a smaller bound stops them."""
    names = proofs.files(copy)
    listed = copy / "csrc/proofs/_CoqProject"
    listed.write_text("".join(f"{name}.v\n" for name in names[: names.index(file) + 1]))
    change(copy / f"csrc/proofs/{file}.v", old, new)
    done = coq(copy)
    assert done.returncode != 0
    assert f"{file}.v" in done.stderr
