# SPDX-License-Identifier: BSD-3-Clause
"""Lines and branches of csrc/ that the C drivers reach on each ISA level, as clang counts them.

    python tests/coverage.py [--show]     needs clang, llvm-profdata, llvm-cov; --show lists gaps

A file that is included for each element type counts once: what one type reaches is reached.
tests/coverage.md names each gap.
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

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc/isa").glob("*.c")])
FLAGS = ["-O1", "-fprofile-instr-generate", "-fcoverage-mapping", "-fopenmp", f"-I{ROOT / 'csrc'}"]
LEVELS = {"baseline": "sse2", "x86_v3": "avx2", "x86_v4": "avx512"}
RUNS = [
    ("golden", "{}"),
    ("ties", "{} 1000 1"),
    ("fuzz", "{} 100000 1"),
    ("guard", "{} 64"),
    ("contract", ""),
    ("threads", "5"),
]


def tool(name: str) -> str:
    for version in ("-16", "", "-19", "-18", "-17", "-15", "-14"):
        if path := shutil.which(name + version):
            return path
    sys.exit(f"needs {name}")


def run(*command, **options) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def measure(folder: Path, level: str) -> dict:
    """What llvm-cov says of one level's run."""
    for name, arguments in RUNS:
        where = {"FASTREG_ISA": level, "LLVM_PROFILE_FILE": str(folder / f"{name}.raw")}
        run(folder / name, *arguments.format(level).split(), env=os.environ | where)
    raw = [folder / f"{name}.raw" for name, _ in RUNS]
    run(tool("llvm-profdata"), "merge", "-sparse", *raw, "-o", folder / "merged")
    programs = [folder / name for name, _ in RUNS]
    others = [word for program in programs[1:] for word in ("-object", program)]
    export = [tool("llvm-cov"), "export", programs[0], *others]
    export.append(f"-instr-profile={folder / 'merged'}")
    data = json.loads(run(*export))["data"][0]
    data["lines"] = run(*export, "-format=lcov")
    return data


def belongs(path: str, level: str) -> bool:
    """A vocabulary and a unit belong to their level; the other files to all."""
    if "/csrc/" not in path:
        return False
    if match := re.search(r"vec_(\w+)\.h", path):
        return match[1] == LEVELS[level]
    match = re.search(r"isa/(\w+)\.c", path)
    return not match or match[1] == level


def branches_of(data: dict, level: str) -> dict:
    """(file, line, column, outcome) -> times, over all functions that are this level's."""
    found = defaultdict(int)
    for function in data["functions"]:
        unit = re.search(r"(\w+)\.c(?::|$)", function["name"])
        if unit and unit[1] in LEVELS and unit[1] != level:
            continue
        files = function["filenames"]
        if any("/isa/" in f and not belongs(f, level) for f in files):
            continue
        for branch in function["branches"]:
            line, column, _, _, yes, no, which, *_ = branch
            if belongs(files[which], level):
                found[files[which], line, column, "true"] += yes
                found[files[which], line, column, "false"] += no
    return found


def lines_of(data: dict, level: str) -> dict:
    """(file, line) -> times."""
    found, file = {}, ""
    for record in data["lines"].splitlines():
        kind, _, rest = record.partition(":")
        if kind == "SF":
            file = rest
        elif kind == "DA" and belongs(file, level):
            line, count = rest.split(",")[:2]
            found[file, int(line)] = max(found.get((file, int(line)), 0), int(count))
    return found


def main() -> None:
    show = "--show" in sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="coverage-") as at:
        folder = Path(at)
        run(tool("clang"), *FLAGS, "-c", *SOURCES, cwd=folder)
        objects = sorted(folder.glob("*.o"))
        for name, _ in RUNS:
            source = ROOT / f"tests/c/{name}.c"
            run(tool("clang"), *FLAGS, source, *objects, "-o", folder / name, "-lpthread", "-lm")
        for level in LEVELS:
            data = measure(folder, level)
            lines, branches = lines_of(data, level), branches_of(data, level)
            if show:
                for (file, line), count in sorted(lines.items()):
                    if not count:
                        print(f"{level} {Path(file).relative_to(ROOT)}:{line}: line")
                for (file, line, column, which), count in sorted(branches.items()):
                    if not count:
                        where = f"{Path(file).relative_to(ROOT)}:{line}:{column}"
                        print(f"{level} {where}: never {which}")
            done = sum(map(bool, lines.values())), sum(map(bool, branches.values()))
            print(f"{level}: lines {done[0]} of {len(lines)}, ", end="")
            print(f"branches {done[1]} of {len(branches)}")


if __name__ == "__main__":
    main()
