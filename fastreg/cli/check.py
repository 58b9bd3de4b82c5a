# SPDX-License-Identifier: BSD-3-Clause
"""The promise on one's own machine: every ISA level and thread count, one bit pattern, how fast."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from fastreg import _kernels
from fastreg._checkpoints.tensor import Checkpoint
from fastreg._core.arrays import HostArray
from fastreg._core.dtypes import BF16, FLOATS
from fastreg._core.text import Column, Table, plural, print_table
from fastreg.errors import CheckpointError, message

__all__ = ["EXACT", "ROUNDS", "Way", "check", "operands", "print_ways"]

ROUNDS = 7
"""Rounds of all ways in turn, so that what disturbs one disturbs all; the quickest counts."""

EXACT = "exact integers"
"""Name of the way that rounds nothing but the result."""


@dataclass(slots=True)
class Way:
    """One way to sum the squares of all weights.

    Attributes
    ----------
    name : str
        ISA level and threads, or the rival.
    value : float
        What it answered.
    seconds : float
        Of its quickest round.
    exact : bool
        Whether it is fastreg's, whose answers must be equal.
    """

    name: str
    run: Callable[[], float]
    exact: bool
    value: float = math.nan
    seconds: float = math.inf

    @property
    def bits(self) -> str:
        """The answer's float64 bit pattern, in hexadecimal."""
        return struct.pack(">d", self.value).hex()


def operands(checkpoints: Sequence[Checkpoint]) -> list[HostArray]:
    """Return what kernels read of the float tensors of checkpoints.

    Raises
    ------
    CheckpointError
        If there is none with an element.
    """
    found = []
    for checkpoint in checkpoints:
        for tensor in checkpoint.tensors:
            if tensor.n and tensor.elements in FLOATS:
                found.append(HostArray(tensor.array(), tensor.elements))
    if not found:
        raise CheckpointError(
            message("a float tensor to check", "none in these files", "give another checkpoint")
        )
    return found


def check(
    arrays: Sequence[HostArray], *, tick: Callable[[int], None] = lambda work: None
) -> list[Way]:
    """Sum the squares of all arrays in every way there is.

    Parameters
    ----------
    arrays : sequence of HostArray
        Floats.
    tick : callable, optional
        Told 1 after each of the :data:`ROUNDS` rounds.

    Returns
    -------
    list of Way
        fastreg with each ISA level, with 1, 2, 4, … threads up to the number in use, from the exact
        integer tier, and NumPy's ``vdot`` (which has no bfloat16).
    """
    most = _kernels.num_threads()
    counts = sorted({most, *(1 << k for k in range(most.bit_length()))})

    def kernels(level: str, threads: int, tier: int = 0) -> Callable[[], float]:
        options = _kernels.Options(level=level, threads=threads, first_tier=tier)
        described = _kernels.Arrays(list(arrays), 0.0, 1.0, options=options)
        return lambda: described.value(number=True)

    ways = [
        Way(f"{level}, {n} {plural(n, 'thread')}", kernels(level, n), True)
        for level in _kernels.levels()
        for n in counts
    ]
    ways.append(Way(EXACT, kernels(_kernels.levels()[-1], most, 2), True))
    if all(x.dtype is not BF16 for x in arrays):
        plain = [x.data for x in arrays]
        vdot = Way("numpy.vdot", lambda: math.fsum(float(np.vdot(x, x)) for x in plain), False)
        ways.append(vdot)
    for _ in range(ROUNDS):
        for way in ways:
            start = time.perf_counter()
            way.value = way.run()
            way.seconds = min(way.seconds, time.perf_counter() - start)
        tick(1)
    return ways


def print_ways(
    ways: Sequence[Way], arrays: Sequence[HostArray], stream: TextIO, *, width: int | None = None
) -> None:
    """Print what :func:`check` found, as a table."""
    n, nbytes = sum(x.size for x in arrays), sum(x.data.nbytes for x in arrays)
    table = Table(
        [
            Column("name", "sum of squares", [way.name for way in ways], left=True),
            Column("value", "value", [f"{way.value:.17g}" for way in ways]),
            Column("bits", "bits", [way.bits for way in ways]),
            Column("time", "ms", [f"{way.seconds * 1e3:.2f}" for way in ways]),
            Column("speed", "GB/s", [f"{nbytes / way.seconds * 1e-9:.1f}" for way in ways]),
        ],
        drop_order=("value", "speed", "time"),
    )
    exact = next(way.value for way in ways if way.name == EXACT)
    end = [f"{n:,} floats in {len(arrays):,} {plural(len(arrays), 'array')}, as float64"]
    for way in ways:
        if not way.exact:
            off = abs(way.value - exact) / exact if exact else 0.0
            end.append(f"{way.name} is off by {off:.1e} of the value")
    patterns = len({way.bits for way in ways if way.exact})
    end.append(f"fastreg: {patterns} bit {plural(patterns, 'pattern')}")
    print_table(table, end, stream, width=width)
