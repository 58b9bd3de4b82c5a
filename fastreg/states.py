# SPDX-License-Identifier: BSD-3-Clause
"""Exact states of models: sums that merge over chunks, processes and time."""

from __future__ import annotations

from typing import Any

from fastreg._core.arguments import Convention, Request, Select, Weight
from fastreg._core.selection import chosen
from fastreg._core.state import State, in_rows

__all__ = ["State", "state"]


def state(
    params: Any,
    *,
    select: Select = "all",
    rows: str = "one",
    l1: Weight | None = None,
    l2: Weight | None = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
) -> State:
    """Return what arrays hold, exactly: counts, Σ|x| and Σx² that add up over parts.

    Parameters
    ----------
    params : array or container of arrays
        As in :func:`fastreg.penalty`; floats of one byte (``float8_e4m3fn`` and the others) too.
    select : optional
        As in :func:`fastreg.penalty`, but by default all arrays; None means its default.
    rows : "one", "weights" or "arrays", default "one"
        All arrays in one row, a row for each pair of weights, or one for each array by its name.
    l1, l2, weights, convention : optional
        Weights as in :func:`fastreg.penalty`, which the rows keep for :meth:`State.value`. In one
        row only where all arrays have the same.

    Returns
    -------
    State
        ``state(x).value(l1, l2)`` has the bits of ``penalty(x, l1=l1, l2=l2, select="all")``, and
        so has the sum of the states of any parts of x.

    Raises
    ------
    DTypeError
        (a TypeError) Naming the place of what is no array, or cannot be read.
    ArgumentError
        (a ValueError) For a bad weight, rows of the same name, and ``rows="weights"`` without
        weights.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C.

    Notes
    -----
    Nothing is copied. Each element adds to integers wide enough for every bit of it, so nothing is
    ever rounded, and the order plays no part. Large arrays are read by several threads without the
    interpreter's lock.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> x = np.linspace(-1.0, 1.0, 10_000)
    >>> parts = [fastreg.state(part) for part in np.array_split(x, 7)]
    >>> sum(parts) == fastreg.state(x)
    True
    >>> sum(parts).norm() == fastreg.norm(x)
    np.True_
    """
    request = Request.of(l1, l2, select, weights, convention)
    weighted = l1 is not None or l2 is not None
    found = chosen(params, request)
    pairs = found.weights if weighted else None
    return in_rows([p.elements for p in found.parameters], found.names, pairs, rows)
