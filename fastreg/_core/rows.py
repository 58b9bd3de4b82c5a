# SPDX-License-Identifier: BSD-3-Clause
"""Which arrays share a row of a state."""

from __future__ import annotations

from fastreg._core.arguments import flag
from fastreg._core.arrays import HostArray
from fastreg._core.state import State, of_rows
from fastreg.errors import ArgumentError, message

__all__ = ["in_rows"]


def in_rows(
    hosts: list[HostArray],
    names: list[str],
    weights: tuple[list[float], list[float]] | None,
    rows: str,
) -> State:
    """Return the state of arrays in one row, in one for each pair of weights, or one each.

    Raises
    ------
    ArgumentError
        For rows by weights without weights, and for two arrays of one name.
    """
    flag(rows, "rows", "one", "weights", "arrays")
    pairs = None if weights is None else list(zip(*weights, strict=True))
    if rows == "arrays":
        own = None if weights is None else (tuple(weights[0]), tuple(weights[1]))
        return of_rows(hosts, range(len(hosts)), tuple(names), own)
    if pairs is None:
        if rows == "weights":
            raise ArgumentError(
                message('l1 or l2 for rows="weights"', "neither", 'pass them, or rows="one"')
            )
        return of_rows(hosts, [0] * len(hosts), ())
    distinct = sorted(set(pairs))
    l1, l2 = tuple(w for w, _ in distinct), tuple(w for _, w in distinct)
    if rows == "one":
        return of_rows(hosts, [0] * len(hosts), (), (l1, l2) if len(distinct) == 1 else None)
    titles = tuple(f"l1={w1!r}, l2={w2!r}" for w1, w2 in distinct)
    return of_rows(hosts, [distinct.index(pair) for pair in pairs], titles, (l1, l2))
