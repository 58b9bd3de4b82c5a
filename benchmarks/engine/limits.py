# SPDX-License-Identifier: BSD-3-Clause
"""The machine's limits: small C loops, compiled here and now for one ISA level."""

from __future__ import annotations

import atexit
import ctypes
import functools
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import fastreg
from benchmarks.engine import machine
from benchmarks.engine.calls import Call, Missing

SOURCE = Path(__file__).with_name("limits.c")

# What may bound an operation, by what it moves. The best of a list is the limit.
LOOPS = {
    "load": ("load", "load_prefetched", "load_streams"),
    "copy": ("copy", "copy_past", "copy_past_prefetched"),
    "triad": ("triad", "triad_prefetched", "triad_past"),
}
LABELS = {
    "load": "load",
    "load_prefetched": "load, prefetched",
    "load_streams": "load, 4 streams",
    "copy": "copy",
    "copy_past": "copy, non-temporal",
    "copy_past_prefetched": "copy, non-temporal, prefetched",
    "triad": "triad",
    "triad_past": "triad, non-temporal",
    "triad_prefetched": "triad, prefetched",
}
_MARCH = {"baseline": [], "x86_v3": ["-march=x86-64-v3"], "x86_v4": ["-march=x86-64-v4"]}

# One call of a loop touches at least this much, or ctypes' microsecond would show.
_WORK = 32 << 20


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="fastreg-limits-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def library(level: str) -> ctypes.CDLL:
    """Compile the loops for an ISA level and load them."""
    compiler = machine.compiler()
    if compiler is None:
        raise Missing("a C compiler")
    target = _folder() / f"limits-{level}.so"
    flags = _MARCH.get(level, []) if platform.machine() in ("x86_64", "AMD64") else []
    command = [compiler, "-std=gnu11", "-O3", *flags, "-shared", "-fPIC", str(SOURCE)]
    for openmp in (["-fopenmp"], []):
        done = subprocess.run(
            [*command, *openmp, "-o", str(target)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return ctypes.CDLL(str(target))
    raise Missing(f"a C compiler that takes limits.c ({done.stderr.strip()[:200]})")


def limit_call(
    loop: str, x: np.ndarray, g: np.ndarray | None, threads: int, level: str | None = None
) -> Call:
    """Prepare one loop over the memory of x (and g); x may have any element type."""
    function = getattr(library(level or fastreg.get_isa()), f"limit_{loop}")
    function.restype = None
    nbytes = x.nbytes
    reps = max(1, _WORK // max(nbytes, 1))
    return Call(
        function,
        ctypes.c_void_p(x.ctypes.data),
        ctypes.c_void_p(0 if g is None else g.ctypes.data),
        ctypes.c_size_t(nbytes),
        ctypes.c_size_t(reps),
        ctypes.c_int(threads),
        repeats=reps,
    )
