# SPDX-License-Identifier: BSD-3-Clause
"""Build the extension: the C library (csrc/) and the Cython binding, OpenMP if the compiler has it.

Environment: FASTREG_OPENMP=1 makes a missing OpenMP an error, =0 builds without it;
FASTREG_WERROR=1 turns warnings into errors; FASTREG_SANITIZE=address,undefined instruments;
FASTREG_DEBUG=1 keeps debug information, which is ten times the size of the code.
"""

import os
import sys
import sysconfig
import tempfile
from glob import glob
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))
import kit

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

EMPTY = "#include <stdio.h>\nint main(void) { return 0; }\n"
PYTHON = "#include <Python.h>\nint main(void) { return 0; }\n"
OPENMP = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


class BuildExtension(build_ext):
    def build_extensions(self):
        for tool in ("compiler_so", "linker_so", "compiler"):
            kept = [f for f in getattr(self.compiler, tool, None) or [] if not f.startswith(BANNED)]
            self.compiler.set_executable(tool, kept)
        self.require_compiler()
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
        sanitize = os.environ.get("FASTREG_SANITIZE")
        if sanitize:
            compile_flags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
            link_flags.append(f"-fsanitize={sanitize}")
        elif os.environ.get("FASTREG_DEBUG") != "1":
            compile_flags.append("-g0")  # Python's own flags ask for it
            if sys.platform == "linux":
                link_flags.append("-Wl,--strip-all")
        openmp = self.openmp_works()
        if openmp:
            compile_flags.append("-fopenmp")
            link_flags.append("-fopenmp")
        for extension in self.extensions:
            extension.extra_compile_args = compile_flags
            extension.extra_link_args = link_flags
        super().build_extensions()
        self.build_kit(openmp)

    def build_kit(self, openmp):
        """Archive the objects of csrc/ and put them and the headers beside the module."""
        objects = self.compiler.object_filenames(SOURCES, output_dir=self.build_temp)
        self.compiler.create_static_lib(objects, "fastreg", output_dir=self.build_temp)
        library = self.compiler.library_filename("fastreg", output_dir=self.build_temp)
        package = Path(self.get_ext_fullpath("fastreg._kernels")).parent
        kit.install(package, Path(library), openmp)

    def copy_extensions_to_source(self):
        """Put the kit beside the module where that is in the source tree, too."""
        super().copy_extensions_to_source()
        built = Path(self.build_lib, "fastreg")
        for path in (p for name in kit.FOLDERS for p in (built / name).iterdir()):
            place = Path("fastreg", path.relative_to(built))
            place.parent.mkdir(exist_ok=True)
            self.copy_file(str(path), str(place))

    def require_compiler(self):
        """End with one line that says what to install, if C cannot be compiled here."""
        try:
            self.build_program(EMPTY)
        except Exception as e:
            compiler = " ".join(self.compiler.compiler[:1])
            sys.exit(
                f"fastreg: expected a C compiler; received {compiler!r}, which cannot build an "
                f"empty program ({e}); install one, for example: apt install gcc libc6-dev, "
                "dnf install gcc, xcode-select --install"
            )
        include = sysconfig.get_path("include")
        try:
            self.build_program(PYTHON, include=[include], link=False)
        except Exception:
            sys.exit(
                f"fastreg: expected Python's C headers; received none in {include}; install them, "
                "for example: apt install python3-dev, dnf install python3-devel"
            )

    def build_program(self, text, flags=(), include=(), link=True):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(text)
            objects = self.compiler.compile(
                [str(source)],
                output_dir=folder,
                include_dirs=list(include),
                extra_postargs=list(flags),
            )
            if link:
                program = str(Path(folder, "probe"))
                self.compiler.link_executable(objects, program, extra_postargs=list(flags))

    def openmp_works(self):
        wish = os.environ.get("FASTREG_OPENMP", "")
        if wish not in ("", "0", "1"):
            sys.exit(f"fastreg: expected FASTREG_OPENMP to be 0 or 1; received {wish!r}; unset it")
        if wish == "0":
            return False
        try:
            self.build_program(OPENMP, ["-fopenmp"])
            return True
        except Exception as e:
            if wish == "1":
                sys.exit(f"fastreg: FASTREG_OPENMP=1, but the compiler has no OpenMP: {e}")
        print("fastreg: no OpenMP; building without threads", file=sys.stderr)
        return False


SOURCES = sorted(glob("csrc/*.c") + glob("csrc/isa/*.c"))

kernels = Extension(
    "fastreg._kernels",
    sources=[
        "fastreg/_kernels.pyx",
        "fastreg/jax/_xla.c",
        *SOURCES,
    ],
    depends=[
        "fastreg/jax/_xla.h",
        "fastreg/include/fastreg_capi.h",
        *sorted(glob("fastreg/_binding/*.pxi")),
        *glob("csrc/**/*.h", recursive=True),
        *glob("csrc/**/*.inc", recursive=True),
    ],
    include_dirs=["csrc", "fastreg/jax", "fastreg/include", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
)

setup(
    ext_modules=cythonize([kernels], language_level=3),
    cmdclass={"build_ext": BuildExtension},
)
