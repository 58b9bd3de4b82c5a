# SPDX-License-Identifier: BSD-3-Clause
"""What is shipped is complete and small, and says so where it cannot work."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastreg
from fastreg import _installation, _kernels

TOP = Path(__file__).resolve().parents[2]
PACKAGE = Path(fastreg.__file__).parent
SHIPPED_BY_GIT_ONLY = (".", "MANIFEST.in")


def run(*command, cwd, **environment):
    """Run a command that finds no fastreg but the one in ``cwd``."""
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={"PATH": "", **environment}
    )


@pytest.fixture
def copied(tmp_path):
    """Return a folder with a copy of the package, built, and nothing else."""
    shutil.copytree(PACKAGE, tmp_path / "fastreg", ignore=shutil.ignore_patterns("__pycache__"))
    kernels = Path(_kernels.__file__)
    shutil.copy(kernels, tmp_path / "fastreg" / kernels.name)
    return tmp_path


def python(code, cwd):
    """Run code that imports the package of ``cwd``, not one that is installed as editable."""
    first = (
        "import sys; sys.meta_path[:] = "
        "[f for f in sys.meta_path if getattr(f, '__name__', '') != '_EditableFinder']; "
    )
    return run(sys.executable, "-c", first + code, cwd=cwd)


def test_the_version_is_the_same_everywhere():
    header = (TOP / "csrc" / "fastreg.h").read_text()
    assert re.search(r'define FASTREG_VERSION "(.+)"', header)[1] == fastreg.__version__
    assert _kernels.version() == fastreg.__version__
    assert f"## {fastreg.__version__}" in (TOP / "CHANGELOG.md").read_text()
    assert fastreg.show_config(mode="dict")["version"] == fastreg.__version__


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    if not (TOP / ".git").exists():
        pytest.skip("needs a git checkout, to know which files there are")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    tracked = [name for name in listed if name and (TOP / name).exists()]
    tree = tmp_path_factory.mktemp("tree")
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, tree / name)
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", str(out)],
        cwd=tree,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {n.partition("/")[2] for n in tar.getnames()}
    return tracked, names


def test_a_source_distribution_has_every_source(sdist):
    tracked, names = sdist
    missing = [n for n in tracked if n not in names and not n.startswith(SHIPPED_BY_GIT_ONLY)]
    assert missing == []


def test_a_source_distribution_has_nothing_built(sdist):
    _, names = sdist
    assert [n for n in names if n.endswith((".so", ".o", ".pyc", "_kernels.c"))] == []


def test_the_compiled_module_carries_no_debug_information():
    kernels = Path(_kernels.__file__).read_bytes()
    if b"__asan_init" in kernels or (b".debug_info" in kernels and "FASTREG_DEBUG" in os.environ):
        pytest.skip("needs a build without sanitizers and debug information")
    assert b".debug_info" not in kernels
    assert len(kernels) < 1_500_000


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path):
    done = run(
        sys.executable,
        str(TOP / "setup.py"),
        "-q",
        "build_ext",
        "--build-temp",
        str(tmp_path / "temp"),
        "--build-lib",
        str(tmp_path / "lib"),
        cwd=TOP,
        CC="no-such-compiler",
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fastreg: expected a C compiler; received 'no-such-compiler'")
    assert "apt install gcc" in last


def test_a_tree_that_is_not_built_says_how_to_build_it(copied):
    for suffix in EXTENSION_SUFFIXES:
        (copied / "fastreg" / f"_kernels{suffix}").unlink(missing_ok=True)
    done = python("import fastreg", copied)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: expected fastreg's compiled module _kernels; received the")
    assert "python -m pip install -e ." in last


def test_a_build_for_another_interpreter_is_named(copied):
    for suffix in EXTENSION_SUFFIXES:
        (copied / "fastreg" / f"_kernels{suffix}").unlink(missing_ok=True)
    (copied / "fastreg" / "_kernels.cpython-39-x86_64-linux-gnu.so").touch()
    assert "received _kernels.cpython-39" in python("import fastreg", copied).stderr


def test_an_archive_says_that_it_must_be_installed(copied):
    archive = shutil.make_archive(str(copied / "app"), "zip", copied, "fastreg")
    done = python(f"import sys; sys.path[:] = [{archive!r}] + sys.path[1:]; import fastreg", "/")
    assert "inside the archive" in done.stderr
    assert "install it" in done.stderr


def test_files_of_the_other_distribution_are_noticed(copied):
    assert python("import fastreg", copied).stderr == ""
    (copied / "fastreg" / "linear.py").touch()
    done = python("import fastreg; print(fastreg.show_config('dict')['foreign files'])", copied)
    assert done.returncode == 0
    assert "RuntimeWarning: expected only fastreg-kernels" in done.stderr
    assert _installation.REPAIR in done.stderr
    assert done.stdout == "['linear.py']\n"


def test_the_command_line_says_that_it_was_installed_over(copied):
    (copied / "fastreg" / "__init__.py").write_text("from . import linear\n")
    (copied / "fastreg" / "linear.py").touch()
    done = run(sys.executable, "-m", "fastreg", "info", cwd=copied)
    assert done.returncode == 1
    assert done.stderr.startswith("expected fastreg-kernels; received the package fastreg of")
    assert _installation.REPAIR in done.stderr


def test_no_module_of_ours_is_taken_for_foreign():
    assert _installation.foreign_files() == []
