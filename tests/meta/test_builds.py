# SPDX-License-Identifier: BSD-3-Clause
"""csrc/ builds everywhere without flags and without a warning; what is in the binaries."""

from __future__ import annotations

import re

import drivers
import pytest

from fastreg import _kernels

# -- Builds -----------------------------------------------------------------------------------

USER = """
#include "fastreg.h"
int main(void)
{
    const double x[] = {3.0, -4.0};
    const ptrdiff_t n = 2;
    fastreg_array a;
    double v = 0.0;
    a.data = x, a.gradient = NULL, a.shape = &n, a.strides = NULL, a.gradient_strides = NULL;
    a.ndim = 1, a.dtype = FASTREG_F64, a.l1 = 0.0, a.l2 = 1.0;
    return fastreg_norm(&a, 1, FASTREG_F64, NULL, &v) != FASTREG_OK || v != 5.0;
}
"""


def test_builds_without_flags(tmp_path):
    """`cc csrc/*.c csrc/isa/*.c` and nothing else makes a library that works."""
    (tmp_path / "user.c").write_text(USER)
    objects = drivers.library(drivers.tool("cc"))
    program = drivers.compile_c(
        tmp_path / "user", f"-I{drivers.CSRC}", tmp_path / "user.c", *objects, "-lpthread"
    )
    assert drivers.run([program]).returncode == 0
    for level in _kernels.levels():
        assert drivers.run([program], env={"FASTREG_ISA": level}).returncode == 0
    assert drivers.run([program], env={"FASTREG_ISA": "typo"}).returncode == 1


@pytest.mark.parametrize("openmp", [False, True], ids=["serial", "openmp"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_no_compiler_warns(tmp_path, compiler, openmp):
    """gcc and clang find nothing to say about standard C11, with OpenMP and without."""
    program = drivers.clang() if compiler == "clang" else drivers.tool(compiler)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    if openmp:
        (tmp_path / "probe.c").write_text("#include <omp.h>\nint main(void) { return 0; }\n")
        flags.append("-fopenmp")
        if drivers.run([program, *flags, tmp_path / "probe.c"]).returncode != 0:
            pytest.skip(f"{program} has no omp.h")
    done = drivers.run([program, *flags, *drivers.SOURCES])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("standard", ["c11", "c17", "c++11", "c++17"])
def test_header_stands_alone(tmp_path, standard):
    """fastreg.h compiles by itself and twice, as C and as C++."""
    suffix, names = ("cpp", ("c++", "g++")) if "++" in standard else ("c", ("cc", "gcc"))
    source = tmp_path / f"alone.{suffix}"
    source.write_text('#include "fastreg.h"\n#include "fastreg.h"\n' + USER)
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{drivers.CSRC}"]
    done = drivers.run([drivers.tool(*names), f"-std={standard}", *flags, source])
    assert (done.returncode, done.stderr) == (0, "")


# -- Binaries ---------------------------------------------------------------------------------


def test_exported_symbols():
    """The extension exports its initialiser, and of the library at most fastreg_*."""
    done = drivers.run([drivers.tool("nm"), "-D", "--defined-only", _kernels.__file__])
    assert done.returncode == 0, done.stderr
    names = {line.split()[-1] for line in done.stdout.splitlines()}
    strangers = {n for n in names if n != "PyInit__kernels" and not n.startswith("fastreg_")}
    assert "PyInit__kernels" in names
    assert strangers <= {"_init", "_fini"}


@pytest.fixture(scope="module")
def objects():
    """Disassembled functions of each unit of csrc/, as an ordinary build makes them."""
    if "x86_v3" not in _kernels.levels(all=True):
        pytest.skip("levels above baseline exist on x86-64 only")
    objdump = drivers.tool("objdump")
    found = {}
    for path in drivers.library(drivers.tool("cc"), "-O2"):
        done = drivers.run([objdump, "-d", "--no-show-raw-insn", path])
        found[path.stem] = dict(
            re.findall(r"^[0-9a-f]+ <(.+?)>:\n(.*?)(?:\n\n|\Z)", done.stdout, re.M | re.S)
        )
    return found


def test_vector_instructions_stay_in_their_level(objects):
    """AVX only in x86_v3 and x86_v4, 512-bit registers and masks only in x86_v4."""
    avx = re.compile(r"%ymm|\tv[a-z]+[0-9a-z]* .*%xmm")
    avx512 = re.compile(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])")
    with_avx = {unit for unit, code in objects.items() if any(map(avx.search, code.values()))}
    with_512 = {unit for unit, code in objects.items() if any(map(avx512.search, code.values()))}
    assert with_avx == {"x86_v3", "x86_v4"}
    assert with_512 == {"x86_v4"}
    # Arithmetic whose rounding vendors disagree on, and registers that outlive it.
    text = "\n".join(c for code in objects.values() for c in code.values())
    assert not re.search(r"dpbf16|\tv[a-z]+ph\b(?<!cvtps2ph)(?<!cvtph2ps)|%mm[0-7]", text)


def test_streamed_stores_are_fenced(objects):
    """Kernels store past the cache; the pass orders these stores before it ends its share."""
    streaming = [
        code for unit in objects.values() for code in unit.values() if re.search(r"\tv?movnt", code)
    ]
    # Two 16-bit elements at a time, as baseline has them, are not worth it.
    assert len(streaming) >= 4 * 3 - 2
    assert "sfence" in objects["pass"]["pass_share"]
