# SPDX-License-Identifier: BSD-3-Clause
"""The C drivers under clang's sanitizers, libFuzzer and valgrind: no report, nothing suppressed.

gcc's address sanitizer does not see masked vector accesses and its thread sanitizer reports
libgomp's own barriers, so clang is needed; Archer tells the sanitizer what OpenMP orders.
"""

from __future__ import annotations

import os
import platform
import random

import drivers
import hooks
import pytest

pytestmark = pytest.mark.full

# clang 14 takes ten minutes, and not seconds, for a unit with these.
LEAST_CLANG = 15
UNDEFINED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ARGUMENTS = {"ties": (1000, 3), "fuzz": (60_000, 4), "golden": (), "units": ()}


def clang() -> str:
    return drivers.clang(LEAST_CLANG)


def good(command, timeout: float = 900.0, **environment: str) -> str:
    done = drivers.run(command, timeout=timeout, env=os.environ | environment)
    words = done.stdout[-2000:] + done.stderr[-6000:]
    assert done.returncode == 0, f"status {done.returncode}\n{words}"
    assert "runtime error" not in words
    assert "WARNING: ThreadSanitizer" not in words
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def instrumented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instrumented")
    names = (*ARGUMENTS, "contract")
    return {n: drivers.c_driver(folder, n, *UNDEFINED, compiler=clang()) for n in names}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_address_and_undefined(instrumented, name, isa):
    """No invalid access and nothing undefined, on every level."""
    good([instrumented[name], isa, *ARGUMENTS[name]])


def test_address_and_undefined_of_arguments(instrumented):
    for level in hooks.levels():
        good([instrumented["contract"]], FASTREG_ISA=level)


def test_the_address_sanitizer_bites(tmp_path):
    """The proof that it is on: one element too many is reported."""
    (tmp_path / "over.c").write_text(
        '#include "fastreg.h"\n#include <stdlib.h>\n'
        "int main(void) { double *x = malloc(8 * 37), v; ptrdiff_t n = 38;\n"
        "  for (int i = 0; i < 37; ++i) x[i] = i;\n"
        "  fastreg_array a = {.data = x, .shape = &n, .ndim = 1, .dtype = FASTREG_F64, .l2 = 1};\n"
        "  return fastreg_value(&a, 1, FASTREG_F64, NULL, &v); }\n"
    )
    program = drivers.compile_c(
        tmp_path / "over",
        *UNDEFINED,
        f"-I{drivers.CSRC}",
        tmp_path / "over.c",
        *drivers.library(clang(), *UNDEFINED),
        "-lpthread",
        compiler=clang(),
    )
    done = drivers.run([program])
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def tsan(program, *arguments) -> str:
    """Run under the thread sanitizer with Archer; addresses must not be randomised for it."""
    no_random = [drivers.tool("setarch"), platform.machine(), "-R"]
    return good(
        [*no_random, program, *arguments],
        TSAN_OPTIONS="ignore_noninstrumented_modules=1:halt_on_error=1",
        ARCHER_OPTIONS="verbose=1",
    )


def build_for_threads(folder, name):
    flags = ("-g", "-O1", "-fopenmp", "-fsanitize=thread")
    (folder / "probe.c").write_text("#include <omp.h>\nint main(void) { return 0; }\n")
    probe = [clang(), *flags, folder / "probe.c", "-o", folder / "probe"]
    if drivers.run(probe).returncode != 0:
        pytest.skip("clang has no OpenMP here: install libomp")
    return drivers.c_driver(folder, name, *flags, compiler=clang())


def test_threads(tmp_path):
    """No race: callers with teams, settings that change, first calls of all at once."""
    words = tsan(build_for_threads(tmp_path, "threads"), 10)
    if "Archer detected" not in words:
        pytest.skip("libomp comes without Archer here")
    assert "good\n" in words


def test_threads_of_random_calls(tmp_path, isa):
    words = tsan(build_for_threads(tmp_path, "fuzz"), isa, 5000, 6)
    if "Archer detected" not in words:
        pytest.skip("libomp comes without Archer here")
    assert "5000\n" in words


def test_valgrind(tmp_path):
    """No use of memory that nobody wrote, which the other tools do not see.

    valgrind has no AVX-512: the levels below are what it can run.
    """
    memcheck = [drivers.tool("valgrind"), "-q", "--error-exitcode=9", "--leak-check=full"]
    ties = drivers.c_driver(tmp_path, "ties", "-O1", "-g")
    golden = drivers.c_driver(tmp_path, "golden", "-O1", "-g")
    for level in [name for name in hooks.levels() if name != "x86_v4"]:
        good([*memcheck, ties, level, 10, 8])
        good([*memcheck, golden, level])


SECONDS = 30, 1800


def seeds(folder) -> None:
    """A small corpus: headers of every function and type, with a few bytes of data."""
    folder.mkdir()
    rng = random.Random(5)
    for operation in range(6):
        for dtype in range(13):
            head = [operation, *rng.randbytes(3), 2, 0, dtype]
            body = rng.randbytes(rng.randrange(20, 300))
            (folder / f"{operation}-{dtype}").write_bytes(bytes(head) + body)


def test_fuzzer(tmp_path, soak):
    """libFuzzer looks for a call that differs from the oracle, or that a sanitizer reports."""
    # The library is instrumented for coverage as well; only the program has libFuzzer's main.
    flags = (*UNDEFINED, "-fsanitize=fuzzer-no-link", "-DLIBFUZZER", "-fsanitize=fuzzer")
    program = drivers.c_driver(tmp_path, "fuzz", *flags, compiler=clang())
    seeds(tmp_path / "corpus")
    seconds = SECONDS[soak]
    limits = [f"-max_total_time={seconds}", "-max_len=1000", f"-artifact_prefix={tmp_path}/"]
    words = good([program, *limits, tmp_path / "corpus"], timeout=3 * seconds + 120)
    done = next(line for line in words.splitlines() if line.startswith("Done "))
    assert int(done.split()[1]) > 200 * seconds, done
