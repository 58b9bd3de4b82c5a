# SPDX-License-Identifier: BSD-3-Clause
"""What the library shows to a linker, and copies of it that meet in one process."""

from __future__ import annotations

import re
import sys

import drivers
import pytest

SMALL = ("-O1", "-DFASTREG_BASELINE_ONLY")
HEADER = drivers.CSRC / "fastreg.h"
PUBLIC = set(re.findall(r"^FASTREG_API [^(]*?(fastreg_\w+)\(", HEADER.read_text(), re.MULTILINE))

linux = pytest.mark.skipif(sys.platform != "linux", reason="ELF and its nm")


def symbols(path, *options: str) -> set[str]:
    said = drivers.run([drivers.tool("nm"), "--defined-only", *options, path])
    assert said.returncode == 0, said.stderr
    return {line.split()[-1] for line in said.stdout.splitlines() if len(line.split()) == 3}


def shared(folder, *flags: str, sources=drivers.SOURCES, name="libfastreg.so"):
    return drivers.compile_c(
        folder / name, *SMALL, "-fPIC", "-shared", f"-I{drivers.CSRC}", *flags, *sources, "-lm"
    )


def test_the_header_renames_what_it_declares():
    """Each public function has its line under FASTREG_PREFIX."""
    text = HEADER.read_text().replace("\\\n", "")
    renamed = re.findall(r"define +(fastreg_\w+) +FASTREG_PASTE", text)
    assert len(PUBLIC) > 20
    assert sorted(renamed) == sorted(PUBLIC)


@linux
@pytest.mark.parametrize("visibility", ["default", "hidden"])
def test_a_shared_library_exports_the_public_functions_alone(tmp_path, visibility):
    made = shared(tmp_path, "-DFASTREG_SHARED", f"-fvisibility={visibility}")
    assert symbols(made, "-D") == PUBLIC


@linux
def test_a_plugin_exports_none_of_them(tmp_path):
    plugin = tmp_path / "plugin.c"
    plugin.write_text(
        '#include "fastreg.h"\nint plugin(void);\nint plugin(void) { return fastreg_abi(); }\n'
    )
    made = shared(tmp_path, "-fvisibility=default", sources=[*drivers.SOURCES, plugin])
    assert symbols(made, "-D") == {"plugin"}


@linux
@pytest.mark.parametrize("levels", [(), ("-DFASTREG_BASELINE_ONLY",)])
def test_a_prefix_renames_every_symbol(levels):
    """Global names of a static library: two copies of one program share none."""
    objects = drivers.library(drivers.tool("cc"), "-O0", "-DFASTREG_PREFIX=acme_", *levels)
    names = {name for path in objects for name in symbols(path, "-g")}
    assert {f"acme_{name}" for name in PUBLIC} <= names
    assert {name for name in names if not name.startswith("acme_f")} == set()


PREFIXED = """
#define FASTREG_PREFIX {prefix}
#include "fastreg.h"
double {prefix}half(void);
double {prefix}half(void)
{{
    const float x[] = {{3, -4}};
    const ptrdiff_t n = 2;
    double v = 0;
    fastreg_array a = {{0}};
    a.data = x, a.shape = &n, a.ndim = 1, a.dtype = FASTREG_F32, a.l2 = 0.5;
    return fastreg_value(&a, 1, FASTREG_F32, 0, &v) == FASTREG_OK ? v : -1;
}}
"""
BOTH = """
double a_half(void), b_half(void);
int main(void) { return a_half() == 12.5 && b_half() == 12.5 ? 0 : 1; }
"""


def test_two_copies_in_one_program(tmp_path):
    cc, parts = drivers.tool("cc"), []
    for prefix in ("a_", "b_"):
        source = tmp_path / f"{prefix}.c"
        source.write_text(PREFIXED.format(prefix=prefix))
        parts += [source, *drivers.library(cc, *SMALL, f"-DFASTREG_PREFIX={prefix}")]
    main = tmp_path / "main.c"
    main.write_text(BOTH)
    program = drivers.compile_c(
        tmp_path / "both", f"-I{drivers.CSRC}", main, *parts, "-lpthread", "-lm"
    )
    assert drivers.run([program]).returncode == 0


PLUGIN = """
#include "fastreg.h"
const char *plugin_version(void);
const char *plugin_version(void) { return fastreg_version(); }
"""
HOST = """
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; ++i) {
        void *const at = dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL);
        const char *(*version)(void) = 0;
        if (at)
            version = (const char *(*)(void))dlsym(at, "plugin_version");
        if (!version)
            return 1;
        puts(version());
    }
    return 0;
}
"""


@linux
def test_copies_in_two_plugins_answer_each_for_itself(tmp_path):
    """Loaded globally, without a linker flag: neither copy's names reach the other."""
    made = []
    for version in ("1.0", "2.0"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "fastreg.h").write_text(
            re.sub(r'(FASTREG_VERSION) "[^"]*"', rf'\1 "{version}"', HEADER.read_text())
        )
        api = folder / "api.c"
        text = (drivers.CSRC / "api.c").read_text()
        plugin = folder / "plugin.c"
        plugin.write_text(PLUGIN)
        sources = [s for s in drivers.SOURCES if not s.endswith("/api.c")]
        text = '#include "common.h"\n' + f'#include "{folder}/fastreg.h"\n' + text
        api.write_text(text)
        made.append(shared(folder, sources=[*sources, api, plugin], name="plugin.so"))
    host = tmp_path / "host.c"
    host.write_text(HOST)
    program = drivers.compile_c(tmp_path / "host", host, "-ldl")
    assert drivers.run([program, *made]).stdout.split() == ["1.0", "2.0"]


UNLOADED = """
#include <dlfcn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    (void)argc;
    for (int round = 0; round < 5; ++round) {
        void *const at = dlopen(argv[1], RTLD_NOW);
        int (*work)(void) = (int (*)(void))(at ? dlsym(at, "work") : 0);
        if (!work || work() || dlclose(at))
            return 1;
        const pid_t child = fork();
        if (child == 0)
            _exit(0);
        int status;
        if (waitpid(child, &status, 0) != child || status)
            return 2;
    }
    return 0;
}
"""
WORK = """
#include "fastreg.h"
static float x[1 << 22];
int work(void);
int work(void)
{
    const ptrdiff_t n = 1 << 22;
    double v;
    fastreg_array a = {0};
    fastreg_options o = {0};
    a.data = x, a.shape = &n, a.ndim = 1, a.dtype = FASTREG_F32, a.l2 = 0.5;
    o.threads = 2;
    return fastreg_value(&a, 1, FASTREG_F32, &o, &v) != FASTREG_OK || v != 0;
}
"""


@linux
def test_a_plugin_with_threads_may_be_unloaded(tmp_path):
    """With -z nodelete, as the header says: threads of OpenMP outlive the call."""
    (tmp_path / "work.c").write_text(WORK)
    (tmp_path / "host.c").write_text(UNLOADED)
    sources = [*drivers.SOURCES, tmp_path / "work.c"]
    made = shared(tmp_path, "-fopenmp", "-Wl,-z,nodelete", sources=sources, name="work.so")
    program = drivers.compile_c(tmp_path / "host", tmp_path / "host.c", "-ldl")
    done = drivers.run([program, made], timeout=60)
    assert done.returncode == 0, done


STANDARDS = {
    "c99": ["gcc", "-std=c99"],
    "c11": ["gcc", "-std=c11"],
    "c2x": ["gcc", "-std=c2x"],
    "c++11": ["g++", "-xc++", "-std=c++11", "-Wold-style-cast", "-Wzero-as-null-pointer-constant"],
    "c++17": ["g++", "-xc++", "-std=c++17", "-Wold-style-cast", "-Wzero-as-null-pointer-constant"],
    "everything": ["clang", "-Weverything", "-Wno-unused-macros"],
}


@pytest.mark.parametrize("standard", STANDARDS)
def test_the_header_alone_has_no_diagnostic(tmp_path, standard):
    compiler, *flags = STANDARDS[standard]
    (tmp_path / "use.c").write_text(
        '#include "fastreg.h"\nextern int used;\nint used = FASTREG_OK;\n'
    )
    warnings = ("-Wall", "-Wextra", "-Wconversion", "-Wundef", "-pedantic-errors", "-Werror")
    done = drivers.run(
        [
            *(drivers.clang() if compiler == "clang" else drivers.tool(compiler), *flags),
            *(*warnings, f"-I{drivers.CSRC}", "-fsyntax-only", tmp_path / "use.c"),
        ]
    )
    assert done.returncode == 0, done.stderr
