# SPDX-License-Identifier: BSD-3-Clause
"""Plant each bug of this folder in a copy of the sources, and see the test named for it fail.

    python tests/meta/planted/run.py [NAME ...]

A patch begins with a sentence and a line `Caught by:`, which names a driver of tests/c with a
level (run with the sizes of the default test run; those that end in `-omp` have threads, `tsan`
is clang's thread sanitizer) or pytest and its arguments. Prints one line each; status 1 if a bug
lives.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[2]
PATCHES = sorted(FOLDER.glob("*.patch"))
IGNORED = shutil.ignore_patterns("*.so", "*.o", "__pycache__", ".*", "build", "planted")

# The arguments that the default test run gives the drivers (tests/c/test_drivers.py and others).
ARGUMENTS = {
    "fuzz": ["100000", "1"],
    "fuzz-omp": ["10000", "77"],
    "ties": ["4000", "1"],
    "guard": ["2048"],
    "golden": [],
    "states": ["5000", "1"],
    "exact": ["6000", "1"],
    "contract": [],
    "contract-omp": [],
    "threads": ["10"],
    "units": [],
}
SECONDS = 300


class Planted(NamedTuple):
    """Whether a bug was caught, and how it showed."""

    caught: bool
    words: str


def sh(*command, check=True, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


def applies(patch: Path, tree: Path, *, dry=False) -> None:
    """Apply a patch; raise if it does not fit."""
    options = ["--dry-run"] if dry else []
    sh("patch", "-p1", "-s", "-f", "--fuzz=2", *options, "-i", patch, cwd=tree)


def copy_of_the_tree(to: Path) -> Path:
    for folder in ("csrc", "fastreg", "tests"):
        shutil.copytree(ROOT / folder, to / folder, ignore=IGNORED, copy_function=shutil.copy2)
    for name in ("pyproject.toml", "setup.py", "README.md", "Makefile"):
        shutil.copy2(ROOT / name, to / name)
    return to


class Builder:
    """Compiles a copy; a source that reads the same as in another copy is compiled once."""

    def __init__(self, cache: Path, options: tuple[str, ...] = ("-O1",)) -> None:
        self.cache = cache
        self.options = options

    def object(self, tree: Path, source: Path, compiler: str, flags: tuple[str, ...]) -> Path:
        folders = [f"-I{tree / part}" for part in ("csrc", "fastreg/jax", "fastreg/include")]
        read = sh(compiler, *flags, *folders, "-E", "-P", source).stdout
        key = hashlib.sha256("\0".join([compiler, *flags, read]).encode()).hexdigest()
        made = self.cache / f"{key}.o"
        if not made.exists():
            sh(compiler, *flags, *folders, "-c", source, "-o", made)
        return made

    def library(self, tree: Path, compiler: str, flags: tuple[str, ...]) -> list[Path]:
        sources = sorted([*(tree / "csrc").glob("*.c"), *(tree / "csrc/isa").glob("*.c")])
        return [self.object(tree, source, compiler, flags) for source in sources]

    def driver(self, tree: Path, name: str, compiler: str, flags: tuple[str, ...]) -> Path:
        objects = self.library(tree, compiler, flags)
        objects.append(self.object(tree, tree / f"tests/c/{name}.c", compiler, flags))
        sh(compiler, *flags, *objects, "-o", tree / name, "-lpthread", "-lm")
        return tree / name

    def extension(self, tree: Path) -> None:
        import numpy as np

        flags = (*self.options, "-fPIC", "-fopenmp", "-fvisibility=hidden", "-ffp-contract=off")
        include = [f"-I{np.get_include()}", f"-I{sysconfig.get_path('include')}"]
        unchanged = (tree / "fastreg/_kernels.pyx").read_bytes() == (
            ROOT / "fastreg/_kernels.pyx"
        ).read_bytes()
        if not unchanged or not (tree / "fastreg/_kernels.c").exists():
            sh(sys.executable, "-m", "cython", "-3", "fastreg/_kernels.pyx", cwd=tree)
        binding = (*flags, *include, "-DNPY_NO_DEPRECATED_API=NPY_1_7_API_VERSION")
        objects = self.library(tree, "gcc", flags)
        for name in ("_kernels.c", "jax/_xla.c"):
            objects.append(self.object(tree, tree / "fastreg" / name, "gcc", binding))
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        sh("gcc", "-shared", "-fopenmp", *objects, "-o", tree / f"fastreg/_kernels{suffix}")


def clang() -> str:
    return next(p for v in ("-16", "", "-19", "-14") if (p := shutil.which(f"clang{v}")))


def run_named(builder: Builder, tree: Path, by: list[str]) -> Planted:
    """Build what the patch names and run it. Caught: it fails as a test does, or hangs."""
    kind, *rest = by
    try:
        if kind == "pytest":
            builder.extension(tree)
            done = sh(
                *[sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *rest],
                check=False,
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree)},
                timeout=SECONDS,
            )
            last = done.stdout.strip().splitlines()[-1:]
            return Planted(done.returncode == 1, " ".join(last))
        if kind == "tsan":
            flags = ("-O1", "-g", "-fopenmp", "-fsanitize=thread")
            program = builder.driver(tree, rest[0], clang(), flags)
            command = ["setarch", os.uname().machine, "-R", program, *ARGUMENTS[rest[0]]]
            done = sh(*command, check=False, timeout=SECONDS)
            return Planted("WARNING: ThreadSanitizer" in done.stderr, "data race")
        flags = ("-O1", "-fopenmp") if kind.endswith("-omp") else ("-O1",)
        name = kind.removesuffix("-omp")
        program = builder.driver(tree, name, "gcc", flags)
        done = sh(program, *rest, *ARGUMENTS[kind], check=False, timeout=SECONDS)
        lines = (done.stdout + done.stderr).strip().splitlines()
        if name == "golden":
            text = (ROOT / "tests/c/test_golden.py").read_text()
            return Planted(lines[-1] not in text, lines[-1])
        if name == "ties":
            lines = [line for line in lines if line.split()[-1] != "0"]
        # Status 3 and above are the driver's own troubles.
        return Planted(done.returncode in (1, -6, -11), lines[0] if lines else "")
    except subprocess.TimeoutExpired:
        return Planted(True, "does not end")


def named(patch: Path) -> list[str]:
    return next(
        line.removeprefix("Caught by:").split()
        for line in patch.read_text().splitlines()
        if line.startswith("Caught by:")
    )


def plant(patch: Path, cache: Path) -> Planted:
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        tree = copy_of_the_tree(Path(folder))
        applies(patch, tree)
        return run_named(Builder(cache), tree, named(patch))


def main(names: list[str]) -> int:
    alive = 0
    with tempfile.TemporaryDirectory(prefix="objects-") as cache:
        for patch in PATCHES:
            if names and patch.stem not in names:
                continue
            begun = time.monotonic()
            found = plant(patch, Path(cache))
            alive += not found.caught
            seconds = time.monotonic() - begun
            said = "caught" if found.caught else "ALIVE "
            print(f"{said} {patch.stem:28} {seconds:5.1f} s  {found.words[:110]}", flush=True)
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
