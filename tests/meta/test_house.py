# SPDX-License-Identifier: BSD-3-Clause
"""The house keeps its walls: what imports what, what includes what, what a binary holds."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from pathlib import Path

import drivers
import pytest

from fastreg import _kernels

PACKAGE = drivers.ROOT / "fastreg"
MODULES = sorted(PACKAGE.rglob("*.py"))
C_FILES = sorted(p for p in drivers.CSRC.rglob("*") if p.suffix in {".c", ".h", ".inc"})
TEST_FILES = sorted((drivers.ROOT / "tests").rglob("*.[pch]*"))
FRAMEWORKS = {"torch", "tensorflow", "jax", "jaxlib", "keras", "tf_keras"}
# Packages that are asked for when a function needs them, never when a module is imported.
OPTIONAL = FRAMEWORKS | {"ml_dtypes", "rich", "safetensors", "threadpoolctl", "scipy", "sklearn"}
# The frameworks that a backend may import; the others bring theirs along.
OWN = {
    "torch": {"torch"},
    "tensorflow": {"tensorflow", "ml_dtypes"},  # TensorFlow itself needs it
    "jax": {"jax"},
    "keras": {"keras", "tf_keras"},
}


def imports(tree: ast.AST, top_level: bool) -> set[str]:
    """Dotted names that a module imports; at import, or anywhere."""
    found = set()
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if not (top_level and isinstance(node, inner)):
            todo += ast.iter_child_nodes(node)
    return found


def name_of(path) -> str:
    return str(path.relative_to(PACKAGE).with_suffix(""))


# -- Python -----------------------------------------------------------------------------------


def test_layers():
    """The layers of pyproject.toml hold: thick modules import thin ones, and no circle stands."""
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed")
    done = drivers.run([Path(sys.executable).with_name("lint-imports")], cwd=drivers.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_chains_of_imports_are_short():
    """Nobody has to climb more than eight modules to learn what one of them stands on."""
    dotted = [f"fastreg.{name_of(path)}".replace("/", ".") for path in MODULES]
    paths = {name.removesuffix(".__init__"): p for name, p in zip(dotted, MODULES, strict=True)}

    @functools.cache
    def chain(module: str) -> tuple[str, ...]:
        below = set()
        for name in imports(ast.parse(paths[module].read_text()), top_level=True):
            below.add(name if name in paths else name.rpartition(".")[0])
        below &= paths.keys() - {module, "fastreg"}
        return (module, *max(map(chain, below), key=len, default=()))

    longest = max(map(chain, paths), key=len)
    assert len(longest) <= 8, " > ".join(longest)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_optional_is_imported(path):
    """Modules import nothing optional when they are imported, but a backend its own framework."""
    outer = {name.split(".")[0] for name in imports(ast.parse(path.read_text()), top_level=True)}
    allowed = OWN.get(path.relative_to(PACKAGE).parts[0], set())
    assert not outer & (OPTIONAL - allowed)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_can_be_read_at_once(path):
    """No module is longer than 600 lines."""
    assert path.read_text().count("\n") <= 600


def test_the_binding_imports_along_the_arrows():
    """The Cython file too, which the linter cannot read."""
    text = (PACKAGE / "_kernels.pyx").read_text()
    named = set(re.findall(r"^from (fastreg[.\w]*) import", text, re.M))
    assert named == {"fastreg._core", "fastreg._core.dtypes", "fastreg.errors"}
    modules = set(re.findall(r"^from fastreg\._core import (\w+)", text, re.M))
    assert modules == {"arguments", "arrays"}


# Who includes whom in csrc, by folders and the files at the top: what csrc/README.md draws.
def test_c_includes_have_no_circle():
    """No header or unit of the C library includes, through others, itself."""
    files = {p.name: p for p in C_FILES}
    graph = {
        name: {Path(i).name for i in re.findall(r'#\s*include\s*"([^"]+)"', p.read_text())}
        & files.keys()
        for name, p in files.items()
    }

    def below(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        for other in graph[name]:
            below(other, (*above, name))

    for name in graph:
        below(name, ())
    # Mathematics and exact arithmetic know nothing of calls, threads or layouts.
    thin = {p.name for p in C_FILES if p.parent.name in {"kernels", "exact", "isa"}}
    above = {p.name for p in C_FILES if p.parent == drivers.CSRC} - {"common.h", "lists.h"}
    for name in thin:
        assert not graph[name] & above, name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_code_from_data(path):
    """No module evaluates, unpickles or imports what data names."""
    tree = ast.parse(path.read_text())
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not names & {"eval", "exec", "compile", "__import__"}
    assert not {name.split(".")[0] for name in imports(tree, False)} & {
        "pickle",
        "marshal",
        "shelve",
    }


def test_import_brings_no_framework():
    """`import fastreg` loads NumPy and itself, and nothing optional."""
    code = "import sys, fastreg; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(drivers.python(code).split())
    assert not loaded & OPTIONAL
    assert {"fastreg", "numpy"} <= loaded


def test_import_is_thin():
    """`import fastreg` loads no parser of files, no command line, and nothing thick."""
    code = "import sys, numpy; before = set(sys.modules); import fastreg\n"
    code += "print(*sorted(set(sys.modules) - before))"
    more = set(drivers.python(code).split())
    assert not more & {"zipfile", "mmap", "ast", "argparse", "dataclasses", "inspect"}
    assert not {m for m in more if m.startswith(("fastreg.cli", "fastreg.regularizers"))}


def test_frameworks_are_loaded_when_they_are_named():
    """`fastreg.regularizers` and the backends are there at once, and without theirs an error is."""
    drivers.python("import fastreg; assert fastreg.regularizers.L2(0.01).l2 == 0.01")
    code = "import sys; sys.modules['torch'] = None\nimport fastreg\ntry:\n    fastreg.torch\n"
    code += "except ModuleNotFoundError as e:\n    print(e)"
    assert "expected the package torch" in drivers.python(code)


def test_every_file_names_its_licence():
    """One SPDX line at the top of every source file."""
    for path in [*MODULES, *C_FILES, *TEST_FILES]:
        head = path.read_text().split("\n")[:2]
        assert any("SPDX-License-Identifier: BSD-3-Clause" in line for line in head), path


# -- C source ---------------------------------------------------------------------------------


def including(pattern: str) -> list[str]:
    """C files with a line that matches."""
    return [
        str(p.relative_to(drivers.CSRC)) for p in C_FILES if re.search(pattern, p.read_text(), re.M)
    ]


def test_c_knows_nothing_of_python():
    """No file of csrc/ includes Python or NumPy."""
    assert including(r'#\s*include\s*[<"](Python|numpy|structmember)') == []


def test_one_file_knows_openmp():
    """omp.h, pragmas and functions of OpenMP are in one file only."""
    assert including(r"omp\.h|#\s*pragma omp|\bomp_\w+\(") == ["threads.c"]


def test_one_file_asks_the_processor():
    """CPUID, XGETBV and builtins that ask for features are in dispatch.c only."""
    assert including(r"cpuid|xgetbv|__builtin_cpu|getauxval") == ["dispatch.c"]


def test_kernels_ask_for_nothing():
    """Kernels and exact arithmetic neither allocate, print, read the environment nor keep state."""
    for path in C_FILES:
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        if path.parent.name in {"kernels", "exact", "isa"} or path.name in {"walk.c", "pass.c"}:
            assert not re.search(
                r"\b(malloc|calloc|free|printf|getenv|errno|_Thread_local)\b", text
            )
        assert not re.search(r"\b(malloc|calloc|realloc|alloca|abort|exit)\s*\(", text), path


def test_levels_are_units_of_their_own():
    """Each level of lists.h is one file of isa/, and the binary lists it."""
    text = (drivers.CSRC / "lists.h").read_text()
    listed = re.search(r"#\s*define FR_LEVELS\(X\)(.*?)#else", text, re.S)[1]
    names = re.findall(r"X\((\w+)\)", listed)
    assert {p.stem for p in drivers.CSRC.glob("isa/*.c")} == set(names)
    assert set(_kernels.levels(all=True)) <= set(names)


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
    program = drivers.compile_c(
        tmp_path / "user", tmp_path / "user.c", f"-I{drivers.CSRC}", *drivers.SOURCES, "-lpthread"
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
def objects(tmp_path_factory):
    """Disassembled functions of each unit of csrc/, as the flagless build makes them."""
    if "x86_v3" not in _kernels.levels(all=True):
        pytest.skip("levels above baseline exist on x86-64 only")
    folder = tmp_path_factory.mktemp("objects")
    objdump, cc = drivers.tool("objdump"), drivers.tool("cc")
    found = {}
    done = drivers.run([cc, "-O1", "-c", *drivers.SOURCES], cwd=folder)
    assert done.returncode == 0, done.stderr
    for path in folder.glob("*.o"):
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
