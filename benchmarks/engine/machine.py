# SPDX-License-Identifier: BSD-3-Clause
"""The machine and the software that the numbers belong to."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import fastreg

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")
# Where the system says nothing about its caches.
_DEFAULT_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
_PACKAGES = [
    "numpy",
    "scipy",
    "numkong",
    "bottleneck",
    "numexpr",
    "numba",
    "torch",
    "jax",
    "jaxlib",
    "optax",
    "tensorflow",
    "tensorflow_cpu",
    "keras",
    "ml_dtypes",
    "threadpoolctl",
    "pytest",
    "pytest-benchmark",
]


@functools.cache
def caches() -> dict[str, int]:
    """Return the bytes of each data cache of the first processor, innermost first."""
    sizes: dict[int, int] = {}
    for index in sorted(_CPU.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            text = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind in ("Data", "Unified") and text:
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1], 1)
            sizes[level] = int(text.rstrip("KMG")) * unit
    found = {f"L{level}": size for level, size in sorted(sizes.items())}
    return found or dict(_DEFAULT_CACHES)


def level_of(nbytes: int) -> str:
    """Name the innermost cache that a working set of so many bytes fits, or DRAM."""
    for name, capacity in caches().items():
        if nbytes <= capacity:
            return name
    return "DRAM"


def inside(name: str) -> int:
    """Return a size, a power of two, that fits the named cache with room to spare.

    At most 16 MB: of a server's last-level cache, a virtual machine has only a part.
    """
    known = caches()
    capacity = known.get(name, 2 * max(known.values()))
    inner = [size for other, size in known.items() if other < name]
    half = 1 << ((capacity // 2).bit_length() - 1)
    floor = 2 * max(inner, default=0)
    return half if name not in known else max(min(half, 16 << 20), floor)


def last_level() -> int:
    """Return the bytes of the last-level cache."""
    return max(caches().values())


def cores() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def size(nbytes: float) -> str:
    """Write a number of bytes: 256 B, 64 kB, 16 MB for powers of 1024; 2 GB for 2e9."""
    base = 1000 if nbytes >= 10**6 and nbytes % 10**6 == 0 else 1024
    for unit in ("B", "kB", "MB"):
        if nbytes < base:
            return f"{nbytes:.3g} {unit}"
        nbytes /= base
    return f"{nbytes:.3g} GB"


def seconds(t: float) -> str:
    """Write a time with its unit."""
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if t * factor < 1000:
            return f"{t * factor:.3g} {unit}"
    return f"{t:.3g} s"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cpu_family() -> str:
    """Return family and model: the names of virtual processors tell little."""
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, item = line.partition(":")
            if key.strip() in ("cpu family", "model"):
                found.setdefault(key.strip(), item.strip())
    except OSError:
        pass
    return ", ".join(f"{key} {item}" for key, item in found.items())


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def compiler() -> str | None:
    """Return the C compiler's command, if there is one."""
    configured = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return next(filter(None, map(shutil.which, ("cc", configured, "gcc", "clang"))), None)


def versions() -> dict[str, str]:
    """Return the versions of the rivals that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def blas() -> str:
    """Return the BLAS that NumPy and SciPy loaded, with its version and kernel."""
    try:
        import scipy.linalg.blas  # noqa: F401
        from threadpoolctl import threadpool_info
    except ImportError:
        return ""
    names = {
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', '?')})"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    return ", ".join(sorted(names))


@functools.cache
def describe() -> dict[str, Any]:
    """Return everything a reader needs to know about where the numbers come from."""
    config = fastreg.show_config(mode="dict")
    loops = _run(compiler() or "", "--version").partition("\n")[0]
    return {
        "cpu": _cpu_name(),
        "cpu_family": _cpu_family(),
        "cores": cores(),
        "machine": platform.machine(),
        "caches": caches(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "isa": config["isa"],
        "isa_available": config["isa available"],
        "threads": config["threads"],
        "compiler": config["compiler"],
        "limits_compiler": loops or "no C compiler: no limits",
        "fastreg": config["version"],
        "commit": _run("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"),
        "versions": versions(),
        "blas": blas(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
