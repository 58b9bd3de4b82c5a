# SPDX-License-Identifier: BSD-3-Clause
"""No flag changes a result: under each the golden digest, or a refusal by compiler or call."""

from __future__ import annotations

from pathlib import Path

import drivers
import pytest
from test_golden import GOLDEN, digest

# By compiler: flags, and whether they must be refused (True), must do (False), or may be either
# (None: it depends on the compiler's version).
FLAGS = {
    "gcc": {
        "-Ofast": True,
        "-ffast-math": True,
        "-funsafe-math-optimizations": True,
        "-fassociative-math -fno-signed-zeros -fno-trapping-math": True,
        "-freciprocal-math": True,
        "-ffinite-math-only": True,
        "-fno-signed-zeros": True,
        "-fsingle-precision-constant": True,
        "-mfpmath=387": True,
        "-mfpmath=sse,387": True,
        "-march=native": False,
        "-march=native -ffp-contract=fast": False,
        "-mavx": False,
        "-frounding-math -fsignaling-nans": False,
        "-fno-trapping-math -fno-math-errno": False,
        "-fshort-enums -funsigned-char -ftrapv": False,
        "-ffloat-store -fexcess-precision=fast": False,
        "-flto=auto": False,
    },
    "clang": {
        "-Ofast": True,
        "-ffast-math": True,
        "-ffp-model=fast": True,
        "-ffinite-math-only": True,
        "-funsafe-math-optimizations": None,
        "-fassociative-math -freciprocal-math -fno-signed-zeros -fno-trapping-math": None,
        "-fno-honor-nans": None,
        "-fno-honor-infinities": None,
        "-fno-signed-zeros": None,
        "-fapprox-func": None,
        "-march=native": False,
        "-march=native -ffp-contract=fast": None,
        "-march=native -funsafe-math-optimizations": None,
        "-frounding-math": False,
        "-fdenormal-fp-math=preserve-sign,preserve-sign": None,
    },
}
# Those that stand for the rest where time is short: a macro, the pragma, the question asked.
QUICK = {
    "gcc": ("-ffast-math", "-fsingle-precision-constant", "-mfpmath=387", "-march=native"),
    "clang": ("-ffinite-math-only", "-funsafe-math-optimizations", "-fno-honor-nans"),
}
CASES = [
    pytest.param(c, f, marks=() if f in QUICK[c] else pytest.mark.full)
    for c in FLAGS
    for f in FLAGS[c]
]


def build(compiler: str, flags: list[str], folder: Path) -> Path | None:
    """The golden driver compiled under these flags as a whole; None if the compiler refuses."""
    program = folder / "golden"
    for source in drivers.SOURCES:
        done = drivers.run([compiler, *flags, "-fsyntax-only", source])
        if done.returncode:
            assert "fastreg cannot be compiled" in done.stderr, done.stderr
            return None
    objects = drivers.library(compiler, *flags)
    driver = drivers.ROOT / "tests/c/golden.c"
    drivers.compile_c(program, *flags, driver, *objects, "-lm", "-lpthread", compiler=compiler)
    return program


def answers(program: Path, levels) -> set[str]:
    """What the driver says at each level: a digest, or that the build is refused."""
    said = set()
    for level in levels:
        done = drivers.run([program, level])
        refused = "expected a build whose arithmetic follows IEEE 754" in done.stderr
        said.add("refused" if done.returncode and refused else digest(program, level))
    return said


@pytest.mark.parametrize(("compiler", "flags"), CASES)
def test_flags_change_no_result(compiler, flags, tmp_path, full):
    """All levels with --full; the baseline, which has most to lose, without."""
    path = drivers.clang() if compiler == "clang" else drivers.tool("gcc")
    small = () if full else ("-DFASTREG_BASELINE_ONLY",)
    levels = ("baseline", "x86_v3", "x86_v4") if full else ("baseline",)
    program = build(path, ["-O2", *flags.split(), *small], tmp_path)
    said = {"refused"} if program is None else answers(program, levels)
    expected = {True: [{"refused"}], False: [{GOLDEN}], None: [{"refused"}, {GOLDEN}]}
    assert said in expected[FLAGS[compiler][flags]]
