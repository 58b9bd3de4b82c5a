# SPDX-License-Identifier: BSD-3-Clause
"""Change the C sources one token at a time, and see the C drivers notice.

    python tests/meta/mutate.py [--results FILE] [--resume | --again] [--sample N] [--seed N]
                           [--seconds N] [--workers N] FILE ...      for example csrc/pass.c

A mutant is killed if it does not compile without a warning, if a driver of tests/c fails, crashes
or does not end, or if it changes a line that a theorem of csrc/proofs speaks of (proofs.toml). One
whose object code is that of the original is no mutant. What lives and is not explained in
tests/meta/mutants.toml is printed, and the status is 1. Mutants come in an order that --seed
fixes, so that --sample and a run that --seconds cuts short are fair samples.
Each verdict is written to --results at once: --resume skips what stands there, --again tries
again what lives there.

Only what a mutant can change is compiled: first the units without kernels, then one ISA level
after the other, each followed by the drivers that end most mutants in least time. Those that are
left meet the long list, once all have met the short one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import proofs

ROOT = Path(__file__).resolve().parents[2]

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


HEAD = re.compile(r"(?:[A-Za-z_]\w*[ *]+)+(?:F\()?(\w+)\)?\(.*[^;]$")


class Mutant(NamedTuple):
    """One change of one line."""

    file: str
    line: int
    old: str
    new: str


class Place(NamedTuple):
    """A mutant as tests/meta/mutants.toml names it, wherever its line has moved."""

    file: str
    function: str
    old: str
    new: str


def place(mutant: Mutant, lines: list[str]) -> Place:
    """The function is the last one that begins above; none above the first."""
    heads = (HEAD.match(line) for line in reversed(lines[: mutant.line + 1]))
    function = next((head[1] for head in heads if head), "")
    return Place(mutant.file, function, mutant.old.strip(), mutant.new.strip())


def explained() -> dict[Place, str]:
    """The mutants that may live, and why."""
    given = tomllib.loads((ROOT / "tests/meta/mutants.toml").read_text())
    why = given.pop("why")
    return {
        Place(file, function, old, new): why[name]
        for file, functions in given.items()
        for function, lines in functions.items()
        for old, news in lines.items()
        for new, name in news.items()
    }


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
    # Two swaps may end in the same line.
    return list(dict.fromkeys(m for m in found if m is not None and m.new != m.old))


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


# -- What is tried ------------------------------------------------------------------------------


class Run(NamedTuple):
    """A driver with its arguments; with threads if `omp`."""

    driver: str
    arguments: str
    omp: bool = False


# What compiles fastest comes first.
LEVELS = ["baseline", "x86_v3", "x86_v4"]
GOLDEN = re.search(r'GOLDEN = "(.*)"', (ROOT / "tests/c/test_golden.py").read_text())[1]


def quick(level: str) -> list[Run]:
    """Most mutants end here: in order of how many each ends a second."""
    return [
        Run("golden", level),
        Run("fuzz", f"{level} 4000 1"),
        Run("units", level),
        Run("ties", f"{level} 60 1"),
    ]


# What mutants outside the kernels meet.
GENERAL = [
    Run("golden", "x86_v3"),
    Run("fuzz", "x86_v3 4000 1"),
    Run("contract", ""),
    Run("ties", "x86_v3 60 1"),
    Run("fuzz", "x86_v3 1500 5", omp=True),
    Run("contract", "", omp=True),
]
# The drivers that include sources of csrc/ which are tested there by themselves.
ALONE = {
    "csrc/exact/": Run("units", "-"),
    "csrc/host.c": Run("outside", "", omp=True),
    "csrc/threads.c": Run("outside", "", omp=True),
    "csrc/dispatch.c": Run("outside", "", omp=True),
}


def long(level: str) -> list[Run]:
    return [
        Run("guard", f"{level} 80"),
        Run("fuzz", f"{level} 30000 2"),
        Run("contract", "", omp=True),
        Run("ties", f"{level} 200 2"),
        Run("fuzz", f"{level} 5000 77", omp=True),
        Run("threads", "3", omp=True),
    ]


# All levels have met the short list; for the long one the first of these is enough.
LONG_LEVELS = ["x86_v3", "baseline", "x86_v4"]


# -- Building and judging -----------------------------------------------------------------------


def sh(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )


class Unit(NamedTuple):
    """A source, and what it is compiled with."""

    source: str
    flags: tuple[str, ...]


# No warning is allowed anywhere (test_builds.py), so none is here.
PLAIN = ("-O1", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
THREADS = (*PLAIN, "-fopenmp")
DRIVERS = ["golden", "units", "fuzz", "ties", "contract", "guard", "threads", "outside"]


def all_units() -> list[Unit]:
    """Objects that programs are linked from. Only two sources know OpenMP."""
    sources = sorted([*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc/isa").glob("*.c")])
    units = [Unit(str(p.relative_to(ROOT)), PLAIN) for p in sources]
    units.append(Unit("csrc/threads.c", THREADS))
    for name in DRIVERS:
        if (ROOT / f"tests/c/{name}.c").exists():
            units.append(Unit(f"tests/c/{name}.c", THREADS if name == "outside" else PLAIN))
    return units


class Tree:
    """A copy of the sources that one worker changes, its objects and its programs."""

    def __init__(self, folder: Path, compiler: str) -> None:
        self.folder, self.compiler = folder, compiler
        shutil.copytree(ROOT / "csrc", folder / "csrc")
        shutil.copytree(ROOT / "tests/c", folder / "tests/c")
        (folder / "objects").mkdir()

    def compile(self, unit: Unit) -> bytes | None:
        """The object code, None if the compiler refuses."""
        to = self.folder / "made.o"
        # From within, so that no object holds the name of its tree.
        command = (self.compiler, *unit.flags, "-Icsrc", "-c", unit.source, "-o", "made.o")
        done = sh(*command, cwd=self.folder)
        return to.read_bytes() if done.returncode == 0 else None

    def put(self, objects: dict[Unit, bytes]) -> None:
        """Write objects where `program` finds them."""
        for unit, code in objects.items():
            self.path(unit).write_bytes(code)
        for program in self.folder.glob("program-*"):
            program.unlink()

    def path(self, unit: Unit) -> Path:
        name = "-".join([*Path(unit.source).with_suffix("").parts, *unit.flags])
        return self.folder / "objects" / f"{name}.o"

    def program(self, units: list[Unit], run: Run) -> Path:
        """Link a driver, unless it has been since `put`."""
        made = self.folder / f"program-{run.driver}-{int(run.omp)}"
        if made.exists():
            return made
        kind = THREADS if run.omp else PLAIN
        chosen = [
            self.path(u)
            for u in units
            if u.source == f"tests/c/{run.driver}.c"
            or (u.source == "csrc/threads.c" and u.flags == kind)
            or (u.source.startswith("csrc/") and u.source != "csrc/threads.c")
        ]
        done = sh(self.compiler, *kind, *chosen, "-o", made, "-lpthread", "-lm")
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return made


class Judge:
    """Originals, which file each object reads, and how long each run takes."""

    def __init__(self, folder: Path, compiler: str) -> None:
        self.folder, self.compiler = folder, compiler
        self.trees, self.lock, self.local = 0, threading.Lock(), threading.local()
        self.units = all_units()
        self.original = tree = Tree(folder / "original", compiler)
        self.objects, self.reads = {}, {}
        for unit in self.units:
            code = tree.compile(unit)
            if code is None:
                sys.exit(f"{unit.source} does not compile")
            self.objects[unit] = code
            listed = sh(
                *(compiler, *unit.flags, f"-I{tree.folder}/csrc", "-MM"),
                tree.folder / unit.source,
            ).stdout
            self.reads[unit] = {
                str(Path(word).resolve().relative_to(tree.folder.resolve()))
                for word in listed.replace("\\\n", " ").split()[1:]
            }
        tree.put(self.objects)
        self.limits: dict[Run, int] = {}

    def limit(self, run: Run) -> int:
        """Seconds that a run may take: the original is asked, once."""
        with self.lock:
            if run not in self.limits:
                before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
                if words := self.fails(self.original, run, seconds=600):
                    raise RuntimeError(f"the original fails: {run}: {words}")
                spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
                self.limits[run] = int(5 * spent) + 2
        return self.limits[run]

    def tree(self) -> Tree:
        """The tree of this thread."""
        if not hasattr(self.local, "tree"):
            with self.lock:
                self.trees += 1
                at = self.folder / f"tree-{self.trees}"
            self.local.tree = Tree(at, self.compiler)
            self.local.tree.put(self.objects)
        return self.local.tree

    def fails(self, tree: Tree, run: Run, seconds: int) -> str:
        """How a run fails; empty if it does not, or if there is no such driver."""
        if not any(u.source == f"tests/c/{run.driver}.c" for u in self.units):
            return ""
        program = tree.program(self.units, run)
        # Seconds of the processor, so that a busy machine kills nobody; and of the clock, for
        # those that wait for ever.
        limit = f'ulimit -t {seconds}; exec "$0" "$@"'
        try:
            done = sh(
                *("sh", "-c", limit, program, *run.arguments.split()),
                timeout=60 + 5 * seconds,
                env=os.environ | {"OMP_WAIT_POLICY": "passive"},  # more threads than processors
            )
        except subprocess.TimeoutExpired:
            return "waits for ever"
        if done.returncode in (-24, -9):
            return "does not end"
        if done.returncode != 0:
            return f"status {done.returncode}: {(done.stdout + done.stderr).strip()[-100:]}"
        if run.driver == "golden" and done.stdout.strip() != GOLDEN:
            return "another digest"
        return ""

    def first_failure(self, tree: Tree, runs: list[Run]) -> str:
        for run in runs:
            if words := self.fails(tree, run, self.limit(run)):
                return f"{run.driver}: {words}"
        return ""

    def stages(self, mutant: Mutant, levels: list[str]) -> list[tuple[list[Unit], list[Run]]]:
        """What to compile, then what to run, step by step."""
        reading = [u for u in self.units if mutant.file in self.reads[u]]
        stages = []
        for prefix, run in ALONE.items():
            if mutant.file.startswith(prefix):
                driver = [u for u in reading if u.source == f"tests/c/{run.driver}.c"]
                stages.append((driver, [run]))
        plain = [u for u in reading if "/isa/" not in u.source and u.source.startswith("csrc/")]
        if plain:
            stages.append((plain, GENERAL))
        for level in levels:
            unit = [u for u in reading if u.source == f"csrc/isa/{level}.c"]
            if unit:
                stages.append((unit, quick(level)))
        return stages

    def verdict(self, mutant: Mutant, *, short: bool, thorough: bool) -> tuple[str, str]:
        """'same', 'compiler', 'killed' and by what; 'left' by the short list, 'ALIVE' by both."""
        tree = self.tree()
        path = tree.folder / mutant.file
        text = path.read_text()
        lines = text.splitlines(keepends=True)
        lines[mutant.line] = mutant.new + "\n"
        differ: dict[Unit, bytes] = {}
        try:
            path.write_text("".join(lines))
            if proofs.broken(tree.folder, mutant.file):
                return "killed", "proofs"
            for units, runs in self.stages(mutant, LEVELS if short else LONG_LEVELS):
                changed = {}
                for unit in units:
                    code = tree.compile(unit)
                    if code is None:
                        return "compiler", ""
                    if code != self.objects[unit]:
                        changed[unit] = code
                if changed:
                    differ |= changed
                    tree.put(changed)
                    if short and (words := self.first_failure(tree, runs)):
                        return "killed", words
                    if not short and any("/isa/" in u.source for u in changed):
                        break
            if not differ:
                return "same", ""
            if not thorough:
                return "left", ""
            isa = [v for v in LONG_LEVELS if any(u.source == f"csrc/isa/{v}.c" for u in differ)]
            words = self.first_failure(tree, long((isa or LONG_LEVELS)[0]))
            return ("killed", words) if words else ("ALIVE", "")
        finally:
            path.write_text(text)
            tree.put({unit: self.objects[unit] for unit in differ})


# -- The run ------------------------------------------------------------------------------------


def recorded(results: Path) -> dict[Mutant, str]:
    """Verdicts of runs before; the last one counts."""
    found = {}
    if results.exists():
        for line in results.read_text().splitlines():
            entry = json.loads(line)
            found[Mutant(entry["file"], entry["line"], entry["old"], entry["new"])] = entry[
                "verdict"
            ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--compiler", default="gcc")
    parser.add_argument("files", nargs="+")
    given = parser.parse_args()
    mutants = [m for file in given.files for m in mutants_of(file)]
    made = len(mutants)
    random.Random(given.seed).shuffle(mutants)
    mutants = mutants[: given.sample]
    before = recorded(given.results) if given.resume or given.again else {}
    if not before:
        given.results.write_text("")
    known = explained()
    texts = {file: (ROOT / file).read_text().splitlines() for file in given.files}
    first = [m for m in mutants if m not in before]
    second = [m for m in mutants if before.get(m) == "left"]
    if given.again:
        first, second = [], [m for m in mutants if before.get(m) in ("left", "ALIVE")]
    tally: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        judge = Judge(Path(folder), given.compiler)
        begun = time.monotonic()

        def one(mutant, thorough):
            at = time.monotonic()
            if at - begun > given.seconds:
                return mutant, None, "", 0.0
            # The second round need not repeat the first, but if the tests have changed since.
            short = given.again or not thorough
            verdict = judge.verdict(mutant, short=short, thorough=thorough)
            return mutant, *verdict, time.monotonic() - at

        with ThreadPoolExecutor(given.workers) as pool:
            for thorough, some in ((False, first), (True, second)):
                for mutant, verdict, words, seconds in pool.map(one, some, [thorough] * len(some)):
                    if verdict is None:
                        continue
                    excused = place(mutant, texts[mutant.file]) in known
                    if verdict == "left":
                        second.append(mutant)
                    else:
                        final = "explained" if verdict == "ALIVE" and excused else verdict
                        tally[final] = tally.get(final, 0) + 1
                    entry = mutant._asdict() | {"verdict": verdict, "by": words}
                    with given.results.open("a") as out:
                        out.write(json.dumps(entry | {"seconds": round(seconds, 1)}) + "\n")
                    if verdict == "ALIVE" and not excused:
                        print(
                            f"{mutant.file}:{mutant.line + 1}\n  - {mutant.old.strip()}\n"
                            f"  + {mutant.new.strip()}",
                            flush=True,
                        )
                minutes = (time.monotonic() - begun) / 60
                print(f"{sum(tally.values())} judged after {minutes:.0f} minutes", flush=True)
    print(f"{made} mutants of these files, {len(mutants)} chosen")
    print(", ".join(f"{verdict} {n}" for verdict, n in sorted(tally.items(), key=lambda t: -t[1])))
    return int(tally.get("ALIVE", 0) > 0)


if __name__ == "__main__":
    sys.exit(main())
