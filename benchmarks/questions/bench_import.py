# SPDX-License-Identifier: BSD-3-Clause
"""What does fastreg cost before its first call: import time, size of wheel and extension."""

from __future__ import annotations

import importlib.util
import os
import re
import statistics
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import fastreg
from benchmarks.engine.calls import Call, Case, Missing, Operands
from benchmarks.engine.race import plan
from benchmarks.engine.rivals import rival


def import_package(name: str) -> None:
    """Start Python, import a package, end."""
    subprocess.run([sys.executable, "-c", f"import {name}" if name else ""], check=True)


def installed_bytes() -> dict[str, int]:
    """Return the bytes of the extension, and of the package zipped as a wheel does."""
    folder = Path(fastreg.__file__).parent
    extension = Path(sys.modules["fastreg._kernels"].__file__ or "")
    files = [p for p in folder.rglob("*") if p.suffix in (".py", ".pyi", ".pxd", ".typed")]
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in {*files, extension}:
            wheel.write(path, path.relative_to(folder))
    return {
        "extension_bytes": extension.stat().st_size,
        "wheel_bytes": len(buffer.getvalue()),
    }


def import_share(runs: int) -> float:
    """Return what `import fastreg` adds to NumPy's time, as a share of it: a median of runs.

    The interpreter's own clock (`-X importtime`): fastreg with all that it brings but NumPy.
    """
    shares = []
    for _ in range(runs):
        command = [sys.executable, "-X", "importtime", "-c", "import numpy, fastreg"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        spent = {name: int(t) for t, name in re.findall(r"\| +(\d+) \| (\w+)$", said, re.M)}
        shares.append(spent["fastreg"] / spent["numpy"])
    return statistics.median(shares)


def _cases(quick: bool) -> list[Case]:
    return [Case("", 0, 1, label="import")]


def _make(case: Case) -> Operands:
    return Operands("fastreg", None, 1, installed_bytes() | {"import_share": import_share(7)})


for _name in ("", "numpy", "scipy.linalg.blas", "numkong", "bottleneck", "numexpr", "numba"):

    @rival("import_package", _name or "python alone")
    def _(o, name=_name):
        if name and importlib.util.find_spec(name.partition(".")[0]) is None:
            raise Missing(name)
        return Call(import_package, name)


@plan(_cases, make=_make, quick_rivals=("python alone", "numpy"))
def test_import_package(race):
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    race(import_package)
