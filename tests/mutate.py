# SPDX-License-Identifier: BSD-3-Clause
"""Change the C sources one token at a time, and see the C drivers notice.

    python tests/mutate.py [--seconds N] [--workers N] FILE ...     for example csrc/pass.c

A mutant is killed if it does not compile or if a driver of tests/c, with sizes like those of the
default test run, fails, crashes or hangs. One whose object code is that of the original is no
mutant. What lives is printed; tests/mutants.md explains each. Mutants come in a fixed random
order, so that a run that is cut short by --seconds is a fair sample.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent / "planted"))
import run as planted

ROOT = planted.ROOT

# Token, replacements. Error bounds are made a million times smaller; a larger one would only be
# slower.
SWAPS = [
    (r"(?<![<>=!+\-*/&|^-])<(?![<=])", ["<=", ">"]),
    (r"(?<![<>=!-])>(?![>=])", [">=", "<"]),
    (r"<=(?!=)", ["<"]),
    (r">=", [">"]),
    (r"==", ["!="]),
    (r"!=", ["=="]),
    (r"&&", ["||"]),
    (r"\|\|", ["&&"]),
    (r"<<(?!=)", [">>"]),
    (r">>(?!=)", ["<<"]),
    (r"(?<=[\w)\]] )\+(?= [\w(*&-])", ["-"]),
    (r"(?<=[\w)\]] )-(?= [\w(*&-])", ["+"]),
    (r"(?<=[\w)\]] )\*(?= [\w(-])", ["+"]),
    (r"(?<=[\w)\]] )/(?= [\w(-])", ["*"]),
    (r"(?<=[\w)\]] )%(?= [\w(-])", ["/"]),
    (r"(?<=[\w)\]] )&(?= [\w(-])", ["|"]),
    (r"(?<=[\w)\]] )\|(?= [\w(-])", ["&"]),
    (r"\+=", ["-=", "="]),
    (r"-=", ["+="]),
    (r"\|=", ["="]),
    (r"(?<![\w.])0(?![\w.])", ["1"]),
    (r"(?<![\w.])1(?![\w.])", ["0", "2"]),
    (r"(?<![\w.])(?:[2-9]|[1-9]\d+)(?![\w.])", ["{+1}", "{-1}"]),
    (r"0x1p-(\d+)\b", ["{-20}"]),
    (r"\bvd_add\b", ["vd_sub"]),
    (r"\bvd_sub\b", ["vd_add"]),
    (r"\bFR_MIN\b", ["FR_MAX"]),
    (r"\bFR_MAX\b", ["FR_MIN"]),
    (r"\bif \((?!.*\belse\b)", ["if (0 && ", "if (1 || "]),
    (r"(?<=[(= ])!(?=[\w(])", [""]),
    (r"\breturn 0;", ["return 1;"]),
    (r"\breturn 1;", ["return 0;"]),
]
STATEMENT = re.compile(
    r"^\s+(?!return|const |static |typedef |enum |for |if |while |else|case|default|#|"
    r"(?:u?int\d*(?:_t)?|size_t|double|float|vd|T|fr_\w+|unsigned|fastreg_\w+) )"
    r"[^;]*;\s*\\?$"
)


class Mutant(NamedTuple):
    """One change of one line."""

    file: str
    line: int
    old: str
    new: str


def without_comments(text: str) -> str:
    """The text with comments and strings blanked, lines kept."""
    blank = lambda m: re.sub(r"[^\n]", " ", m[0])  # noqa: E731
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def replacement(token: str, new: str) -> str:
    if new in ("{+1}", "{-1}"):
        return str(int(token) + int(new[1:-1]))
    if new == "{-20}":
        return f"0x1p-{int(token[5:]) + 20}"
    return new


def mutants_of(file: str) -> list[Mutant]:
    text = (ROOT / file).read_text()
    lines, code = text.splitlines(), without_comments(text).splitlines()
    found = []
    for i, (line, bare) in enumerate(zip(lines, code, strict=True)):
        if bare.lstrip().startswith("#") or not bare.strip():
            continue
        if "_Static_assert" in bare or "poll_context" in bare:
            continue
        for pattern, news in SWAPS:
            for match in re.finditer(pattern, bare):
                for new in news:
                    changed = replacement(match[0], new)
                    found.append(line[: match.start()] + changed + line[match.end() :])
                    found[-1] = Mutant(file, i, line, found[-1])
                    # A condition that is closed where it was.
                    if changed.startswith("if ("):
                        found[-1] = closed(found[-1], match.start())
        if STATEMENT.match(bare) and bare.count("(") == bare.count(")"):
            kept = " \\" if line.endswith("\\") else ""
            found.append(Mutant(file, i, line, ";" + kept))
    return [m for m in found if m is not None and m.new != m.old]


def closed(mutant: Mutant, start: int) -> Mutant | None:
    """Put the parentheses of a condition around what it was: `if (0 && (...))`."""
    rest = mutant.new[start:]
    head = re.match(r"if \([01] (?:&&|\|\|) ", rest)[0]
    depth = 1
    for i, c in enumerate(rest[len(head) :], len(head)):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            inner = rest[len(head) : i]
            return mutant._replace(new=f"{mutant.new[:start]}{head}({inner}){rest[i:]}")
    return None


# What is tried, quick things first. (driver, flags of the build, arguments)
PLAIN, THREADS = ("-O1",), ("-O1", "-fopenmp")
QUICK = [
    ("golden", PLAIN, ("x86_v3",)),
    ("fuzz", PLAIN, ("x86_v3", "6000", "1")),
    ("ties", PLAIN, ("x86_v3", "120", "1")),
]
LONG = [
    ("golden", PLAIN, ("baseline",)),
    ("golden", PLAIN, ("x86_v4",)),
    ("fuzz", PLAIN, ("baseline", "40000", "2")),
    ("fuzz", PLAIN, ("x86_v4", "40000", "3")),
    ("contract", PLAIN, ()),
    ("ties", PLAIN, ("baseline", "2000", "2")),
    ("ties", PLAIN, ("x86_v3", "2000", "3")),
    ("guard", PLAIN, ("x86_v3", "600")),
    ("fuzz", THREADS, ("x86_v3", "4000", "5")),
    ("contract", THREADS, ()),
    ("fuzz", PLAIN, ("x86_v3", "100000", "1")),
    ("guard", PLAIN, ("baseline", "600")),
    ("guard", THREADS, ("x86_v4", "2048")),
]
GOLDEN = re.search(r'GOLDEN = "(.*)"', (ROOT / "tests/test_golden.py").read_text())[1]


def judge(mutant: Mutant, builder: planted.Builder, originals: list[str]) -> str:
    """'same', or the name of what killed it, or 'ALIVE'."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder)
        shutil.copytree(ROOT / "csrc", tree / "csrc")
        (tree / "tests").mkdir()
        shutil.copytree(ROOT / "tests/c", tree / "tests/c")
        path = tree / mutant.file
        lines = path.read_text().splitlines(keepends=True)
        lines[mutant.line] = mutant.new + "\n"
        path.write_text("".join(lines))
        try:
            objects = builder.library(tree, "gcc", PLAIN)
        except RuntimeError:
            return "compiler"
        if [o.read_bytes() for o in objects] == originals:
            return "same"
        for name, flags, arguments in [*QUICK, *LONG]:
            try:
                program = builder.driver(tree, name, "gcc", flags)
                done = planted.sh(program, *arguments, check=False, timeout=60)
            except subprocess.TimeoutExpired:
                return f"{name} (does not end)"
            if done.returncode != 0 or (name == "golden" and done.stdout.strip() != GOLDEN):
                return name
        return "ALIVE"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("files", nargs="+")
    given = parser.parse_args()
    mutants = [m for file in given.files for m in mutants_of(file)]
    random.Random(1).shuffle(mutants)
    begun, tally, alive = time.monotonic(), {}, 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as cache:
        builder = planted.Builder(Path(cache))
        originals = [o.read_bytes() for o in builder.library(ROOT, "gcc", PLAIN)]

        def one(mutant):
            if time.monotonic() - begun > given.seconds:
                return mutant, None
            return mutant, judge(mutant, builder, originals)

        with ThreadPoolExecutor(given.workers) as pool:
            for mutant, verdict in pool.map(one, mutants):
                if verdict is None:
                    continue
                tally[verdict] = tally.get(verdict, 0) + 1
                if verdict == "ALIVE":
                    alive += 1
                    print(f"{mutant.file}:{mutant.line + 1}\n  - {mutant.old.strip()}\n"
                          f"  + {mutant.new.strip()}", flush=True)
    real = sum(n for verdict, n in tally.items() if verdict not in ("same", "compiler"))
    print(f"{len(mutants)} mutants, {sum(tally.values())} tried, {real} that differ, {alive} alive")
    print(", ".join(f"{verdict} {n}" for verdict, n in sorted(tally.items(), key=lambda t: -t[1])))
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())
