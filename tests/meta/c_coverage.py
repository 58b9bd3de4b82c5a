# SPDX-License-Identifier: BSD-3-Clause
"""Lines, branch outcomes and MC/DC of csrc/ that the C drivers reach on each ISA level.

    python tests/meta/c_coverage.py [--show] [LEVEL ...]     --show lists what is not reached

Needs clang, llvm-profdata and llvm-cov of one version; from 18 on they measure MC/DC too (each
condition of a decision shown to change its outcome by itself). clang counts the source, so a
line or a branch that is included, inlined or expanded many times counts once: it is reached if
one of its copies is, in a unit that belongs to the level. What is constant after preprocessing
(`FR_VEC_FMA`) is no branch. tests/meta/coverage.md names each gap.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc/isa").glob("*.c")])
LEVELS = {"baseline": "sse2", "x86_v3": "avx2", "x86_v4": "avx512"}
# Driver, arguments. environment.c and nested.c are no drivers: the Python tests load them.
RUNS = [
    ("golden", "{}"),
    ("ties", "{} 1000 1"),
    ("fuzz", "{} 100000 1"),
    ("guard", "{} 64"),
    ("exhaust", "pairs {} 9999"),
    ("exhaust", "gradients {} 256"),
    ("units", "-"),
    ("units", "{}"),
    ("contract", ""),
    ("threads", "5"),
    ("outside", ""),
]
EXPANSION, SKIPPED, GAP, CONDITION = 1, 2, 3, 6  # kinds of regions


class Tools(NamedTuple):
    """clang and what reads its profiles, of one version."""

    clang: str
    profdata: str
    cov: str
    mcdc: bool


def tools() -> Tools:
    for version in ("-19", "-20", "-21", "-18", "", "-17", "-16", "-15", "-14"):
        found = [shutil.which(name + version) for name in ("clang", "llvm-profdata", "llvm-cov")]
        if all(found):
            says = run(found[0], "--version")
            return Tools(*found, int(re.search(r"version (\d+)", says)[1]) >= 18)
    sys.exit("needs clang, llvm-profdata and llvm-cov of one version")


def run(*command, **options) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def build(folder: Path, with_: Tools) -> None:
    """Each driver with the library, into the folder."""
    flags = ["-O1", "-fprofile-instr-generate", "-fcoverage-mapping", f"-I{ROOT / 'csrc'}"]
    # Counters of threads must not lose counts: what is derived from them would be wrong.
    flags += ["-fopenmp", "-fprofile-update=atomic", "-Wno-everything"]
    if with_.mcdc:
        flags.append("-fcoverage-mcdc")
    # The OpenMP library of another version serves as well.
    library = [f"-L{p.parent}" for p in sorted(Path("/usr/lib").glob("llvm-*/lib/libomp.so"))]
    library += [f"-Wl,-rpath,{where[2:]}" for where in library]
    headers = sorted(Path("/usr/lib").glob("llvm-*/lib/clang/*/include/omp.h"))
    if headers:
        (folder / "omp.h").write_bytes(headers[0].read_bytes())
        flags.append(f"-I{folder}")
    run(with_.clang, *flags, "-c", *SOURCES, cwd=folder)
    objects = sorted(folder.glob("*.o"))
    for name in dict(RUNS):
        source = ROOT / f"tests/c/{name}.c"
        program = [source, *objects, "-o", folder / name, *library, "-lpthread", "-lm"]
        run(with_.clang, *flags, *program)


def measure(folder: Path, with_: Tools, level: str) -> dict:
    """What llvm-cov says of one level's run."""
    for raw in folder.glob("*.raw"):
        raw.unlink()
    for name, arguments in RUNS:
        # A file for each process: some drivers fork.
        where = {
            "LLVM_PROFILE_FILE": str(folder / f"{name}-%p.raw"),
            "FASTREG_ISA": level,
            "OMP_WAIT_POLICY": "passive",  # more threads than processors
        }
        run(folder / name, *arguments.format(level).split(), env=os.environ | where)
    run(with_.profdata, "merge", "-sparse", *folder.glob("*.raw"), "-o", folder / "merged")
    programs = [folder / name for name in dict(RUNS)]
    others = [word for program in programs[1:] for word in ("-object", program)]
    profile = f"-instr-profile={folder / 'merged'}"
    return json.loads(run(with_.cov, "export", programs[0], *others, profile))["data"][0]


def belongs(path: str, level: str) -> bool:
    """A vocabulary and a unit belong to their level; the other files to all."""
    if "/csrc/" not in path:
        return False
    if match := re.search(r"vec_(\w+)\.h", path):
        return match[1] == LEVELS[level]
    match = re.search(r"isa/(\w+)\.c", path)
    return not match or match[1] == level


def functions_of(data: dict, level: str) -> list[dict]:
    """Those that are not in another level's unit."""
    chosen = []
    for function in data["functions"]:
        unit = re.search(r"(\w+)\.c(?::|$)", function["name"])
        if unit and unit[1] in LEVELS and unit[1] != level:
            continue
        if any("/isa/" in f and not belongs(f, level) for f in function["filenames"]):
            continue
        chosen.append(function)
    return chosen


def has_code(line: str) -> bool:
    """Something other than a comment, a directive or a brace."""
    return not re.fullmatch(r"\s*(?:#.*|/\*.*|\*.*|[{})]*;?|case .*:|default:|break;)?\s*\\?", line)


def lines_of(functions: list[dict], level: str) -> dict:
    """(file, line) -> times.

    Lines that only have braces, labels or directives are none.

    A line counts what runs when it begins (the innermost region around its start, gaps included)
    or what begins on it, whichever is more: llvm-cov's own rule.
    """
    found: dict = defaultdict(int)
    for function in functions:
        for which, file in enumerate(function["filenames"]):
            if not belongs(file, level):
                continue
            regions = [r for r in function["regions"] if r[5] == which and r[7] != SKIPPED]
            regions.sort(key=lambda r: (r[0], r[1], -r[2], -r[3]))
            around, begins = {}, {}
            for first, column, last, end, count, _, _, kind in regions:
                for line in range(first + 1, last + (end > 1)):
                    around[line] = count
                if kind != GAP:
                    begins[first] = max(begins.get(first, 0), count)
                del column
            for line in around.keys() | begins.keys():
                found[file, line] += max(around.get(line, 0), begins.get(line, 0))
    texts = {file: Path(file).read_text().splitlines() for file, _ in found}
    return {key: n for key, n in found.items() if has_code(texts[key[0]][key[1] - 1])}


def sites_of(function: dict) -> list[tuple]:
    """Where each of a function's files is: its path, and the macros that were expanded on the way.

    clang gives each expansion a number of its own, and places what a macro's argument holds in
    the macro; without the way, all uses of a macro would count as one.
    """
    above = {r[6]: (r[5], r[0], r[1]) for r in function["regions"] if r[7] == EXPANSION}
    sites = []
    for which in range(len(function["filenames"])):
        way: tuple = ()
        while which in above:
            which, *place = above[which]
            way = (*place, *way)
        sites.append((function["filenames"][which], *way))
    return sites


def branches_of(functions: list[dict], level: str) -> dict:
    """(file, where, number there, outcome) -> times."""
    found: dict = defaultdict(int)
    for function in functions:
        sites, seen = sites_of(function), defaultdict(int)
        for line, column, _, _, yes, no, which, *_ in function["branches"]:
            place = (*sites[which], line, column)
            seen[place] += 1
            if belongs(place[0], level):
                found[*place, f"branch {seen[place]}", "true"] += yes
                found[*place, f"branch {seen[place]}", "false"] += no
    return found


def conditions_of(functions: list[dict], level: str) -> dict:
    """(file, where, condition) -> 1 if it was seen to change the outcome by itself."""
    found: dict = defaultdict(int)
    for function in functions:
        sites = sites_of(function)
        conditions = [b for b in function["branches"] if b[8] == CONDITION]
        for line, column, last, end, _, _, shown in function.get("mcdc_records", []):
            # The record does not say its file; its conditions do, which come in the same order.
            inside = [
                b
                for b in conditions
                if (line, column) <= (b[0], b[1]) and (b[2], b[3]) <= (last, end)
            ]
            if not inside:
                continue  # constants only
            mine = [b for b in inside if b[6] == inside[0][6]][: len(shown)]
            conditions = [b for b in conditions if not any(b is m for m in mine)]
            place = (*sites[mine[0][6]], line, column)
            if belongs(place[0], level):
                for number, yes in enumerate(shown, 1):
                    found[*place, f"condition {number} of {len(shown)}"] |= yes
    return found


def main() -> None:
    show = "--show" in sys.argv[1:]
    wanted = [level for level in LEVELS if level in sys.argv[1:]] or list(LEVELS)
    with_ = tools()
    with tempfile.TemporaryDirectory(prefix="coverage-") as at:
        folder = Path(at)
        build(folder, with_)
        for level in wanted:
            functions = functions_of(measure(folder, with_, level), level)
            kinds = {
                "lines": lines_of(functions, level),
                "branch outcomes": branches_of(functions, level),
                "conditions by themselves": conditions_of(functions, level),
            }
            for kind, found in kinds.items() if show else ():
                for (file, *where), count in sorted(found.items()):
                    if not count:
                        place = ":".join(map(str, where))
                        print(f"{level} {kind}: {Path(file).relative_to(ROOT)}:{place}")
            words = [
                f"{sum(map(bool, found.values()))} of {len(found)} {kind}"
                for kind, found in kinds.items()
                if found
            ]
            print(f"{level}: {', '.join(words)}", flush=True)


if __name__ == "__main__":
    main()
