# SPDX-License-Identifier: BSD-3-Clause
"""Build the extension: the C library of csrc/ and the Cython seam, OpenMP if the compiler has it.

Environment: FASTREG_OPENMP=1 makes a missing OpenMP an error, =0 builds without it;
FASTREG_WERROR=1 turns warnings into errors; FASTREG_SANITIZE=address,undefined instruments.
"""

import os
import sys
import tempfile
from glob import glob
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Results would no longer be exact, or the process' floating-point mode would change at import (gcc
# links crtfastmath.o for these); a dispatching library must not be built for one CPU either.
BANNED = (
    "-Ofast",
    "-ffast-math",
    "-funsafe-math-optimizations",
    "-fassociative-math",
    "-freciprocal-math",
    "-ffinite-math-only",
    "-march=",
    "-mcpu=native",
    "-mavx",
    "-mfma",
)

PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


class BuildExtension(build_ext):
    def build_extensions(self):
        for tool in ("compiler_so", "linker_so", "compiler"):
            kept = [f for f in getattr(self.compiler, tool, None) or [] if not f.startswith(BANNED)]
            self.compiler.set_executable(tool, kept)
        compile_flags = [
            "-std=c11",
            "-O3",
            "-ffp-contract=off",
            "-fno-math-errno",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
        ]
        link_flags = []
        if os.environ.get("FASTREG_WERROR") == "1":
            compile_flags.append("-Werror")
        if sanitize := os.environ.get("FASTREG_SANITIZE"):
            compile_flags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
            link_flags.append(f"-fsanitize={sanitize}")
        if self.openmp_works():
            compile_flags.append("-fopenmp")
            link_flags.append("-fopenmp")
        for extension in self.extensions:
            extension.extra_compile_args = compile_flags
            extension.extra_link_args = link_flags
        super().build_extensions()

    def openmp_works(self):
        wish = os.environ.get("FASTREG_OPENMP", "")
        if wish not in ("", "0", "1"):
            sys.exit(f"fastreg: expected FASTREG_OPENMP to be 0 or 1; received {wish!r}; unset it")
        if wish == "0":
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(PROBE)
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=["-fopenmp"]
                )
                self.compiler.link_executable(
                    objects, str(Path(folder, "probe")), extra_postargs=["-fopenmp"]
                )
                return True
            except Exception as e:
                if wish == "1":
                    sys.exit(f"fastreg: FASTREG_OPENMP=1, but the compiler has no OpenMP: {e}")
        print("fastreg: no OpenMP; building without threads", file=sys.stderr)
        return False


kernels = Extension(
    "fastreg._kernels",
    sources=[
        "fastreg/_kernels.pyx",
        "fastreg/jax/_xla.c",
        *sorted(glob("csrc/*.c") + glob("csrc/isa/*.c")),
    ],
    depends=[
        "fastreg/jax/_xla.h",
        *sorted(glob("fastreg/_binding/*.pxi")),
        *glob("csrc/**/*.h", recursive=True),
        *glob("csrc/**/*.inc", recursive=True),
    ],
    include_dirs=["csrc", "fastreg/jax", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
)

setup(
    ext_modules=cythonize([kernels], language_level=3),
    cmdclass={"build_ext": BuildExtension},
)
