# SPDX-License-Identifier: BSD-3-Clause
"""MPI: values and norms of arrays that are spread over ranks, by MPI's own integer SUM.

Each rank makes the exact state of its part; the digits of the states, some hundred int64, go
through ``Allreduce`` with ``MPI_SUM`` on ``MPI_INT64_T``. Integers add up the same in every order,
so that neither the number of ranks nor the algorithm of the library can change a bit; there is no
operation or datatype of our own. All ranks call together; what is wrong on one is an error on all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from fastreg import states
from fastreg._core.arguments import Convention, Select, Weight, result_dtype
from fastreg.errors import ArgumentError, DTypeError, message
from fastreg.states import State

__all__ = ["allreduce", "norm", "value"]


def __dir__() -> list[str]:
    return __all__


def allreduce(state: State, comm: Any = None) -> State:
    """Return the sum of the states of all ranks, on every rank.

    Parameters
    ----------
    state : State
        This rank's part. All ranks have rows of the same names, or one row; each element is in one
        rank's state. A rank without elements passes ``fastreg.State()``.
    comm : mpi4py.MPI.Comm, optional
        ``MPI.COMM_WORLD`` by default.

    Returns
    -------
    State
        With this rank's weights. Its bytes are those of the state of all arrays on one machine.

    Raises
    ------
    DTypeError
        (a TypeError) For what is no state.
    ArgumentError
        (a ValueError) If ranks have different rows, or another rank has failed: on every rank.

    Notes
    -----
    Two calls of ``Allreduce``: one of 19 numbers, on which the ranks agree what follows, and one of
    44 a row, or of 214 if some rank has float64. Up to 2**31 ranks.

    Examples
    --------
    >>> import numpy as np, fastreg.mpi
    >>> fastreg.mpi.allreduce(fastreg.state(np.ones(3))).n  # times the number of ranks
    3
    """
    return _together(lambda: state, comm)


def value(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = "all",
    weights: Weight = 1.0,
    convention: Convention = "keras",
    dtype: Any = None,
    comm: Any = None,
) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` over all ranks, rounded once, on every rank.

    Parameters
    ----------
    params : array or container of arrays
        This rank's part. With several pairs of weights all ranks have the same pairs.
    l1, l2, select, weights, convention
        As in :func:`fastreg.state`: all arrays are in by default.
    dtype : float16, bfloat16, float32 or float64, optional
        Type of the result; float64 by default.
    comm : mpi4py.MPI.Comm, optional
        ``MPI.COMM_WORLD`` by default.

    Returns
    -------
    NumPy scalar

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`fastreg.state` and :func:`allreduce`.

    Examples
    --------
    >>> import numpy as np, fastreg.mpi
    >>> fastreg.mpi.value(np.ones(4), l2=0.5)  # times the number of ranks
    np.float64(2.0)
    """

    def part() -> State:
        if dtype is not None:
            result_dtype(dtype)
        return states.state(
            params,
            select=select,
            rows="weights",
            l1=l1,
            l2=l2,
            weights=weights,
            convention=convention,
        )

    return _together(part, comm).value(dtype=dtype)


def norm(params: Any, *, dtype: Any = None, comm: Any = None) -> Any:
    """Return the Euclidean norm of the arrays of all ranks together, correctly rounded, on each.

    Parameters
    ----------
    params : array or container of arrays
        This rank's part.
    dtype : float16, bfloat16, float32 or float64, optional
        Type of the result; float64 by default.
    comm : mpi4py.MPI.Comm, optional
        ``MPI.COMM_WORLD`` by default.

    Returns
    -------
    NumPy scalar
        NaN on every rank if one of them has a NaN.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`fastreg.state` and :func:`allreduce`.

    Examples
    --------
    >>> import numpy as np, fastreg.mpi
    >>> from mpi4py import MPI
    >>> fastreg.mpi.norm(np.array([3.0, 4.0]), comm=MPI.COMM_SELF)
    np.float64(5.0)
    """

    def part() -> State:
        if dtype is not None:
            result_dtype(dtype)
        return states.state(params)

    return _together(part, comm).norm(dtype)


# -- Together --------------------------------------------------------------------------------------

_PIECES = 8
"""Pieces of a hash of the rows' names, 15 bits each: 2^31 ranks' squares stay below 2^61."""


def _together(part: Callable[[], State], comm: Any) -> State:
    """Add up what each rank makes; whoever fails takes part in the agreement, and then raises."""
    comm = MPI.COMM_WORLD if comm is None else comm
    error, own = None, State()
    try:
        own = part()
        if not isinstance(own, State):
            raise DTypeError(
                message("a fastreg.State", type(own).__name__, "pass fastreg.state(arrays)")
            )
    except BaseException as e:
        error, own = e, State()
    wide = _is_wide(own)
    total = _summed(np.array([error is not None, wide, 1, *_hash(own.names)], np.int64), comm)
    failed, some_wide, ranks = map(int, total[:3])
    if error is not None:
        raise error
    if failed:
        raise ArgumentError(
            message(
                "a part from each rank",
                f"errors on {failed:,} of {ranks:,}",
                "see what those say",
            )
        )
    first, second = total[3 : 3 + _PIECES], total[3 + _PIECES :]
    if any(ranks * int(b) != int(a) ** 2 for a, b in zip(first, second, strict=True)):
        raise ArgumentError(
            message(
                "the same rows on every rank",
                "other names, or another order, on some",
                'give all ranks arrays of the same names, or use rows="one"',
            )
        )
    digits = own.digits(layout="wide" if some_wide else "narrow")
    return _with_weights(State.from_digits(_summed(digits, comm), own.names), own)


def _hash(names: tuple[str, ...]) -> list[int]:
    """Pieces of a hash, and their squares: equal on all iff ranks * sum of b = (sum of a)²."""
    text = "\0".join(names).encode("utf-8", "surrogatepass")
    data = hashlib.sha256(text if names else b"\0").digest()
    pieces = [int.from_bytes(data[2 * k : 2 * k + 2], "little") >> 1 for k in range(_PIECES)]
    return pieces + [a * a for a in pieces]


def _is_wide(state: State) -> bool:
    return bool(state.digits().shape[-1] > 44)  # the numbers of the narrow layout


def _summed(x: Any, comm: Any) -> Any:
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    comm.Allreduce([x, MPI.INT64_T], [out, MPI.INT64_T], op=MPI.SUM)
    return out


def _with_weights(total: State, own: State) -> State:
    return total if own.weights is None else State._of(total._states, own.names, own.weights)
