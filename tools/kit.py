# SPDX-License-Identifier: BSD-3-Clause
"""What a wheel carries for other programs: headers, sources, a static library, files for builds."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from amalgamate import CSRC, amalgamate, version

FOLDERS = ("cmake", "include", "lib", "pkgconfig", "src")

PKG_CONFIG = """\
prefix=${{pcfiledir}}/..
includedir=${{prefix}}/include
libdir=${{prefix}}/lib
sources={sources}

Name: fastreg
Description: L1 and L2 penalties of arrays, correctly rounded
Version: {version}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -lfastreg {libs}
"""

CMAKE = """\
# fastreg::fastreg, the static library of the Python package fastreg-kernels.
include(CMakeFindDependencyMacro)
get_filename_component(_fastreg "${{CMAKE_CURRENT_LIST_DIR}}/.." ABSOLUTE)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_dependency(Threads)
if(NOT TARGET fastreg::fastreg)
  add_library(fastreg::fastreg STATIC IMPORTED)
  set_target_properties(
    fastreg::fastreg
    PROPERTIES IMPORTED_LOCATION "${{_fastreg}}/lib/{library}"
               IMPORTED_LINK_INTERFACE_LANGUAGES C
               INTERFACE_INCLUDE_DIRECTORIES "${{_fastreg}}/include"
               INTERFACE_LINK_LIBRARIES "Threads::Threads{libs}")
endif()
set(fastreg_SOURCES {sources})
list(TRANSFORM fastreg_SOURCES PREPEND "${{_fastreg}}/src/")
"""

CMAKE_VERSION = """\
set(PACKAGE_VERSION "{version}")
if(PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION STREQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
"""


def install(package: Path, library: Path, openmp: bool) -> None:
    """Put the kit beside the compiled module.

    ``library``: the static library, which is moved to ``package/lib``; openmp: what it needs.
    """
    include, lib, src = (package / name for name in ("include", "lib", "src"))
    sources = amalgamate(src)
    (src / "fastreg.h").unlink()
    include.mkdir(exist_ok=True)
    for name in ("fastreg.h", "fastreg_dlpack.h"):
        shutil.copy(CSRC / name, include)
    lib.mkdir(exist_ok=True)
    shutil.move(library, lib / library.name)
    libs = [*(["-fopenmp"] if openmp else []), "-lpthread", "-lm"]
    written = {
        "pkgconfig/fastreg.pc": PKG_CONFIG.format(
            version=version(),
            libs=" ".join(libs),
            sources=" ".join(f"${{prefix}}/src/{path.name}" for path in sources),
        ),
        "cmake/fastreg-config.cmake": CMAKE.format(
            library=library.name,
            libs="".join(f";{flag}" for flag in libs if flag != "-lpthread"),
            sources=" ".join(path.name for path in sources),
        ),
        "cmake/fastreg-config-version.cmake": CMAKE_VERSION.format(version=version()),
    }
    for name, text in written.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
