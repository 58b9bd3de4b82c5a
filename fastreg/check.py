# SPDX-License-Identifier: BSD-3-Clause
"""The promise on one's own machine: every ISA level and thread count, one bit pattern, how fast."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _kernels
from .arrays import bf16_view
from .checkpoints import Checkpoint
from .errors import CheckpointError, message

__all__ = ["ROUNDS", "Way", "check", "operands"]

ROUNDS = 7
"""Rounds of all ways in turn, so that what disturbs one disturbs all; the quickest counts."""


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


def operands(checkpoints: Sequence[Checkpoint]) -> list[Any]:
    """Return what kernels read of the float tensors of checkpoints.

    Raises
    ------
    CheckpointError
        If there is none with an element.
    """
    found = []
    for checkpoint in checkpoints:
        for tensor in checkpoint.tensors:
            if not tensor.skipped and tensor.n and tensor.dtype in ("f16", "bf16", "f32", "f64"):
                array = tensor.array()
                found.append(bf16_view(array) if tensor.dtype == "bf16" else array)
    if not found:
        raise CheckpointError(
            message("a float tensor to check", "none in these files", "give another checkpoint")
        )
    return found


def check(arrays: Sequence[Any], *, tick: Callable[[int], None] = lambda work: None) -> list[Way]:
    """Sum the squares of all arrays in every way there is.

    Parameters
    ----------
    arrays : sequence of arrays or HostArray
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
    items = list(arrays)

    def native(level: str, threads: int, tier: int) -> Callable[[], float]:
        return lambda: _kernels._measure(
            items, "value", 0.0, 1.0, "f64", level, threads, tier, 1.0, 0
        )[0]

    ways = [
        Way(f"{level}, {n} thread{'s' * (n > 1)}", native(level, n, 0), True)
        for level in _kernels.levels()
        for n in counts
    ]
    ways.append(Way("exact integers", native(_kernels.levels()[-1], most, 2), True))
    plain = [x for x in items if isinstance(x, np.ndarray)]
    if len(plain) == len(items):
        vdot = Way("numpy.vdot", lambda: math.fsum(float(np.vdot(x, x)) for x in plain), False)
        ways.append(vdot)
    for _ in range(ROUNDS):
        for way in ways:
            start = time.perf_counter()
            way.value = way.run()
            way.seconds = min(way.seconds, time.perf_counter() - start)
        tick(1)
    return ways
