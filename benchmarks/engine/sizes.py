# SPDX-License-Identifier: BSD-3-Clause
"""The sizes that the questions are asked at, named by the caches of this machine."""

from __future__ import annotations

from benchmarks.engine import machine

GB = 10**9


def levels(quick: bool) -> list[int]:
    """Return a size inside each cache and one in memory, in bytes; the first is L1's."""
    known = [machine.inside(name) for name in machine.caches()]
    return [*known, dram(quick)]


def dram(quick: bool) -> int:
    """Return a size that only memory holds: 2 GB, or when quick at least 4 last-level caches.

    At most 2 GB, or a run would not fit an ordinary machine.
    """
    if not quick:
        return 2 * GB
    return min(max(256_000_000, 4 * machine.last_level() // 10**6 * 10**6), 2 * GB)


def team() -> tuple[int, ...]:
    """Return the thread counts of most questions: one and all."""
    return (1,) if machine.cores() == 1 else (1, machine.cores())


def curve(quick: bool, step: int = 2) -> list[int]:
    """Return sizes from 256 bytes to memory, for bandwidth against size; none when quick.

    Neighbours differ by a factor of 2**step.
    """
    return [] if quick else [*(1 << k for k in range(8, 29, step)), 2 * GB]
