# SPDX-License-Identifier: BSD-3-Clause
"""Threads, instruction sets, and what is in use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, overload

import numpy as np

from fastreg import _installation, _kernels
from fastreg._core.text import lines_for, printable
from fastreg.errors import ArgumentError, EnvironmentSettingError, message

__all__ = ["get_isa", "get_num_threads", "num_threads", "set_num_threads", "show_config"]

_MOST_THREADS = 4096


def _threads_from_environment() -> int:
    """Return FASTREG_NUM_THREADS, or 0 if it is not set."""
    text = os.environ.get("FASTREG_NUM_THREADS", "").strip()
    if not text:
        return 0
    if not (
        text.isascii() and text.isdigit() and 1 <= int(text.lstrip("0")[:8] or 0) <= _MOST_THREADS
    ):
        raise EnvironmentSettingError(
            message(
                f"FASTREG_NUM_THREADS to be an integer from 1 to {_MOST_THREADS}",
                repr(text[:40]),
                "correct or unset it",
            )
        )
    return int(text.lstrip("0"))


def check_environment() -> None:
    """Apply and check FASTREG_ISA and FASTREG_NUM_THREADS; called once, by the import."""
    if _kernels.level() is None:
        raise EnvironmentSettingError(
            message(
                f"FASTREG_ISA to be one of {', '.join(_kernels.levels())} on this machine",
                repr(os.environ.get("FASTREG_ISA", "")[:40]),
                "correct or unset it",
            )
        )
    _kernels.set_process_threads(_threads_from_environment())


def _checked(threads: int | None) -> int:
    if threads is None:
        return 0
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)):
        raise ArgumentError(
            message("a thread count (int) or None", repr(threads), "pass a positive integer")
        )
    if not 1 <= threads <= _MOST_THREADS:
        raise ArgumentError(
            message(f"a thread count from 1 to {_MOST_THREADS}", str(threads), "pass such a number")
        )
    return int(threads)


def set_num_threads(threads: int | None) -> None:
    """Set how many threads large calls of this process use.

    Results never depend on it. Small calls use one thread in any case.

    Parameters
    ----------
    threads : int from 1 to 4096, or None
        None returns to FASTREG_NUM_THREADS, or without it to the automatic choice: OpenMP's own
        setting (OMP_NUM_THREADS, threadpoolctl), at most the processors that the affinity mask and
        the cgroup's CPU quota leave.

    Raises
    ------
    ArgumentError
        For any other value.

    Notes
    -----
    Threads that wait for one another do so busily, as GCC's OpenMP has it. Where other programs
    keep the processors occupied, a call of 50 microseconds can take milliseconds: one thread, or
    ``OMP_WAIT_POLICY=passive`` in the environment before the process starts, avoids that (4 MB of
    float32 on two occupied processors, median of 400 calls: 6.9 ms, passive 0.1 ms, one thread
    0.09 ms).

    Examples
    --------
    >>> import fastreg
    >>> fastreg.set_num_threads(2)
    >>> fastreg.get_num_threads()
    2
    >>> fastreg.set_num_threads(None)
    """
    n = _checked(threads)
    _kernels.set_process_threads(n if n else _threads_from_environment())


def get_num_threads() -> int:
    """Return how many threads a large call made here and now would use.

    1 in a forked child and inside another library's OpenMP region: fastreg is serial there.
    """
    return _kernels.num_threads()


@contextmanager
def num_threads(threads: int | None) -> Iterator[None]:
    """Use that many threads within a ``with`` block, in the calling thread or task only.

    Parameters
    ----------
    threads : int from 1 to 4096, or None
        None for the process' setting.

    Notes
    -----
    A variable of the context (``contextvars``): tasks of one event loop have each their own
    setting, threads that are started within the block do not inherit it.

    Examples
    --------
    >>> import fastreg
    >>> with fastreg.num_threads(1):
    ...     fastreg.get_num_threads()
    1
    """
    previous = _kernels.set_scoped_threads(_checked(threads))
    try:
        yield
    finally:
        _kernels.set_scoped_threads(previous)


def get_isa() -> str:
    """Return the ISA level in use: ``baseline``, ``x86_v3`` (AVX2) or ``x86_v4`` (AVX-512).

    The fastest that the processor has, or the one that FASTREG_ISA named at import.
    """
    level = _kernels.level()
    assert level is not None  # checked at import
    return level


@overload
def show_config(mode: Literal["print"] = "print") -> None: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, Any]: ...
def show_config(mode: str = "print") -> dict[str, Any] | None:
    """Print, or return, what is in use and why; for bug reports.

    Parameters
    ----------
    mode : "print" or "dict"
        As in ``numpy.show_config``.
    """
    import platform  # only here: it takes a while

    forced = os.environ.get("FASTREG_ISA")
    wanted = os.environ.get("FASTREG_NUM_THREADS")
    config: dict[str, Any] = {
        "version": _kernels.version(),
        "isa": get_isa(),
        "isa chosen by": f"FASTREG_ISA={forced}" if forced else "the fastest of this processor",
        "isa available": _kernels.levels(),
        "isa compiled": _kernels.levels(all=True),
        "openmp": _kernels.has_openmp(),
        "threads": get_num_threads(),
        "threads chosen by": (
            "no OpenMP in this build"
            if not _kernels.has_openmp()
            else f"FASTREG_NUM_THREADS={wanted}"
            if wanted
            else "OpenMP, capped by affinity and CPU quota (or set_num_threads)"
        ),
        "compiler": _kernels.compiler(),
        "machine": platform.machine(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
    }
    if foreign := _installation.foreign_files():
        config["foreign files"] = foreign
    if mode == "dict":
        return config
    if mode != "print":
        raise ArgumentError(message("mode 'print' or 'dict'", repr(mode), "pass one of them"))
    width = max(map(len, config))
    texts = [
        f"{key:{width}}  {', '.join(item) if isinstance(item, list) else item}"
        for key, item in config.items()
    ]
    # The environment and the compiler's name are not ours.
    print("\n".join(lines_for(sys.stdout, lambda clean: [clean(printable(t)) for t in texts])))
    return None
