# SPDX-License-Identifier: BSD-3-Clause
"""fastreg.mpi on 1 to 4 ranks."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import drivers
import pytest

PROGRAM = Path(__file__).with_name("mpi_program.py")
PAGE = drivers.ROOT / "docs" / "howto" / "mpi.md"


def run(ranks: int, program: Path) -> str:
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")
    if shutil.which("mpiexec") is None:
        pytest.skip("mpiexec is not installed")
    works = subprocess.run([sys.executable, "-c", "from mpi4py import MPI"], capture_output=True)
    if works.returncode:
        pytest.skip("mpi4py finds no MPI library (MPI4PY_MPIABI names its kind)")
    # Open MPI's own: root may be all there is, and fewer cores than ranks.
    more = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    more |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PYTHONPATH": str(drivers.ROOT)}
    done = subprocess.run(
        ["mpiexec", "-n", str(ranks), sys.executable, "-W", "error", str(program)],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks(ranks):
    run(ranks, PROGRAM)


def test_the_program_of_the_page(tmp_path):
    program = tmp_path / "norm.py"
    program.write_text(
        re.search(r"```\{code-block\} python\n(.*?)^```", PAGE.read_text(), re.M | re.S)[1]
    )
    assert len({run(ranks, program) for ranks in (1, 3)}) == 1
