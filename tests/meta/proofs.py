# SPDX-License-Identifier: BSD-3-Clause
"""What the theorems of csrc/proofs assume, compared with what the C sources have.

Used by test_proofs.py, and by mutate.py: a mutant of a line that a theorem speaks of is killed.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\{(\w+)\.(\w+)\}")
DEFINITION = r"^Definition {} := \(?(?:2 \^ )?(-?\d+)\)?(?:%\w+)?\.$"
STATED = re.compile(r"^(?:Theorem|Lemma) (\w+)", re.M)
CLOSED = re.compile(r"Closed under the global context|Axioms:")
# The real numbers of Coq's library.
AXIOMS = {
    "ClassicalDedekindReals.sig_forall_dec",
    "ClassicalDedekindReals.sig_not_dec",
    "FunctionalExtensionality.functional_extensionality_dep",
    "Classical_Prop.classic",
}


class Tie(NamedTuple):
    """A promise, the theorems that it rests on, and the lines of C that keep it."""

    promise: str
    theorems: list[str]
    file: str
    code: list[str]


def ties(root: Path = ROOT) -> list[Tie]:
    given = tomllib.loads((root / "tests/meta/proofs.toml").read_text())
    return [Tie(**tie) for tie in given["tie"]]


def without_comments(text: str, begin: str, end: str) -> str:
    """The text without comments, which nest in Coq and not in C."""
    kept, depth = [], 0
    for part in re.split(f"({re.escape(begin)}|{re.escape(end)})", text):
        if part == begin:
            depth = depth + 1 if begin == "(*" else 1
        elif part == end and depth:
            depth -= 1
        elif not depth:
            kept.append(part)
    return "".join(kept)


def proof(root: Path, name: str) -> str:
    return without_comments((root / f"csrc/proofs/{name}.v").read_text(), "(*", "*)")


def one_line(text: str) -> str:
    return re.sub(r"[\s\\]+", " ", text)


def filled(root: Path, line: str) -> str:
    """The line with the numbers that the proofs have; 2 ^ n gives n."""

    def number(match: re.Match[str]) -> str:
        found = re.findall(DEFINITION.format(match[2]), proof(root, match[1]), re.M)
        return found[0] if len(found) == 1 else f"<no {match[0]}>"

    return NAME.sub(number, line)


def broken(root: Path = ROOT, only: str | None = None) -> list[str]:
    """Lines that a theorem assumes and the sources of `root`, or one of them, do not have once.

    The proofs and the list of ties are this tree's own where `root` has none.
    """
    home = root if (root / "tests/meta/proofs.toml").exists() else ROOT
    missing = []
    for tie in ties(home):
        if only not in (None, tie.file):
            continue
        text = one_line(without_comments((root / tie.file).read_text(), "/*", "*/"))
        for line in tie.code:
            wanted = one_line(filled(home, line))
            if text.count(wanted) != 1:
                missing.append(f"{tie.file}: {wanted} ({', '.join(tie.theorems)})")
    return missing


def files(root: Path = ROOT) -> list[str]:
    """The proofs, in the order in which they are checked."""
    lines = (root / "csrc/proofs/_CoqProject").read_text().split()
    return [line.removesuffix(".v") for line in lines if line.endswith(".v")]


def theorems(root: Path = ROOT) -> list[str]:
    return [f"{f}.{name}" for f in files(root) for name in STATED.findall(proof(root, f))]


def unproven(root: Path = ROOT) -> list[str]:
    """Words by which a proof would claim what it does not show."""
    words = r"\b(Admitted|admit|Axiom|Axioms|Parameter|Parameters|Conjecture|Abort|give_up)\b"
    return [f"{f}: {w}" for f in files(root) for w in re.findall(words, proof(root, f))]


def assumptions(printed: str) -> set[str]:
    """Names of all axioms in the output of Print Assumptions."""
    return set(re.findall(r"^([\w.]+)(?= :|$)", printed, re.M)) - {"Axioms"}
