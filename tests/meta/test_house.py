# SPDX-License-Identifier: BSD-3-Clause
"""The structure of the sources: what imports what, what includes what."""

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
FRAMEWORKS = {"torch", "tensorflow", "jax", "jaxlib", "keras", "tf_keras", "dask", "mpi4py"}
# Packages that are asked for when a function needs them, never when a module is imported.
OPTIONAL = FRAMEWORKS | {"ml_dtypes", "rich", "safetensors", "threadpoolctl", "scipy", "sklearn"}
# The frameworks that a backend may import; the others bring theirs along.
OWN = {
    "torch": {"torch"},
    "tensorflow": {"tensorflow", "ml_dtypes"},  # TensorFlow itself needs it
    "jax": {"jax"},
    "keras": {"keras", "tf_keras"},
    "dask.py": {"dask"},
    "mpi.py": {"mpi4py"},
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
    assert modules == {"arguments", "arrays", "targets"}


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
    above = {p.name for p in C_FILES if p.parent == drivers.CSRC} - {"common.h", "registry.h"}
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
    """Each level of registry.h is one file of isa/, and the binary lists it."""
    text = (drivers.CSRC / "registry.h").read_text()
    listed = re.search(r"#\s*define FR_LEVELS\(X\)(.*?)#else", text, re.S)[1]
    names = re.findall(r"X\((\w+)\)", listed)
    assert {p.stem for p in drivers.CSRC.glob("isa/*.c")} == set(names)
    assert set(_kernels.levels(all=True)) <= set(names)
