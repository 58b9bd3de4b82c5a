# SPDX-License-Identifier: BSD-3-Clause
"""Dask: values, norms and statistics of arrays in chunks, with the bits of one array in memory.

Every chunk becomes an exact state of a few hundred bytes, and a tree of tasks adds those up. No
chunk meets another, so what does not fit into memory is read once and never held whole, and neither
the chunks nor the scheduler nor the number of workers can change a bit. Everything is lazy, as
``dask.delayed`` objects: call ``.compute()``, or ``dask.compute`` for several in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.array
import numpy as np
from dask.delayed import Delayed

from fastreg import states
from fastreg._core.arguments import Convention, Request, Select, Weight, flag, result_dtype
from fastreg._core.containers import Parameter
from fastreg._core.dtypes import by_name, name_of, narrow_by_name, widest
from fastreg._core.foreign import title
from fastreg._core.selection import Chosen, chosen
from fastreg._core.statistics import Stats, Titles
from fastreg.errors import DTypeError, FastregError, message
from fastreg.model import stats as stats_of
from fastreg.states import State

__all__ = ["norm", "state", "stats", "value"]

_FAN_IN = 16
"""How many states a task of the tree adds: at 900 bytes each the messages stay small, and 10^4
chunks need four levels."""


def __dir__() -> list[str]:
    return __all__


def state(params: Any, *, select: Select = "all", rows: str = "one") -> Any:
    """Return what dask arrays hold, exactly, as :func:`fastreg.state` does; lazily.

    Parameters
    ----------
    params : dask.array.Array, array, or container of them
        As in :func:`fastreg.state`. Chunks may be of unknown size; they are arrays of NumPy, or
        others that :func:`fastreg.state` takes.
    select : optional
        As in :func:`fastreg.state`.
    rows : "one" or "arrays", default "one"
        All arrays in one row, or a row for each by its name.

    Returns
    -------
    dask.delayed.Delayed
        Of a :class:`fastreg.State`: the same for any chunks.

    Raises
    ------
    DTypeError
        (a TypeError) At once, for element types that are not read and for what is no array; when
        computed, naming the place, for chunks that cannot be read (sparse, masked, on a GPU).
    ArgumentError
        (a ValueError) As :func:`fastreg.state`.

    Notes
    -----
    A chunk is read once, in place; each task uses fastreg's threads. Set
    ``fastreg.set_num_threads(1)`` where dask's own threads keep all cores busy.

    Examples
    --------
    >>> import dask.array as da, fastreg.dask
    >>> x = da.ones((1000, 1000), chunks=(300, 1000), dtype="float32")
    >>> fastreg.dask.state(x).compute()
    <fastreg.State: 1,000,000 elements, Σ|x| 1e6, norm 1000>
    """
    flag(rows, "rows", "one", "arrays")
    found = _found(params, Request.of(select=select))
    each = [_state_of(p) for p in found.parameters]
    if rows == "one":
        return _tree(each)
    return dask.delayed(_stacked, pure=True)(each, tuple(found.names))


def value(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    dtype: Any = None,
) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)``, rounded once; lazily.

    Parameters
    ----------
    params : dask.array.Array, array, or container of them
    l1, l2, select, weights, convention, dtype
        As in :func:`fastreg.penalty`; by default one array's result has its own type, and a
        container's float64.

    Returns
    -------
    dask.delayed.Delayed
        Of a NumPy scalar, with the bits of :func:`fastreg.penalty` of the arrays in memory.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`state`; for no weight, or a bad one.

    Examples
    --------
    >>> import dask.array as da, fastreg.dask
    >>> x = da.arange(4, chunks=3, dtype="float32")
    >>> fastreg.dask.value(x, l1=0.5, l2=0.25).compute()
    np.float32(6.5)
    """
    request = Request.of(l1, l2, select, weights, convention)
    request.require_weight()
    found = _found(params, request)
    pairs = list(zip(*found.weights, strict=True))
    distinct = sorted(set(pairs))
    each = [_state_of(p) for p in found.parameters]
    rows = [
        _tree([s for s, own in zip(each, pairs, strict=True) if own == pair]) for pair in distinct
    ]
    return dask.delayed(_value, pure=True)(rows, distinct, _result(found, dtype))


def norm(params: Any, *, dtype: Any = None) -> Any:
    """Return the Euclidean norm of all arrays together, correctly rounded; lazily.

    Parameters
    ----------
    params : dask.array.Array, array, or container of them
        All arrays count.
    dtype : float16, bfloat16, float32 or float64, optional
        Type of the result. By default that of :func:`fastreg.norm` for one array, its own, and of
        :func:`fastreg.global_norm` for a container, float64.

    Returns
    -------
    dask.delayed.Delayed
        Of a NumPy scalar.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`state`.

    Notes
    -----
    ``dask.array.linalg.norm`` squares and sums in the array's type, chunk by chunk.

    Examples
    --------
    >>> import dask.array as da, fastreg.dask
    >>> fastreg.dask.norm(da.full(4, 1e30, chunks=3, dtype="float32")).compute()
    np.float32(2e+30)
    """
    found = _found(params, Request.of(), everything=True)
    return dask.delayed(_norm, pure=True)(
        _tree([_state_of(p) for p in found.parameters]), _result(found, dtype)
    )


def stats(params: Any, *, select: Select = "all", integers: bool = False) -> Any:
    """Return n, Σ|x|, Σx², norm, max|x| and counts, per array and in all; lazily.

    Parameters
    ----------
    params : dask.array.Array, array, or container of them
    select, integers : optional
        As in :func:`fastreg.stats`.

    Returns
    -------
    dask.delayed.Delayed
        Of a :class:`~fastreg._core.statistics.Stats`, equal to that of the arrays in memory.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`state`.

    Examples
    --------
    >>> import dask.array as da, fastreg.dask
    >>> s = fastreg.dask.stats({"w": da.ones((4, 4), chunks=2)}).compute()
    >>> s.total["norm"], s["w"]["n"]
    (4.0, 16)
    """
    found = _found(params, Request.of(select=select), everything=True)
    each = [_over_chunks(p, _described, _described_together) for p in found.parameters]
    kinds = tuple(_type_of(p) for p in found.parameters)
    shapes = tuple(tuple(None if n != n else n for n in p.shape) for p in found.parameters)
    return dask.delayed(_stats, pure=True)(each, tuple(found.names), shapes, kinds, integers)


# -- The graph -------------------------------------------------------------------------------------


def _found(params: Any, request: Request, *, everything: bool = False) -> Chosen:
    if dask.is_dask_collection(params) and not isinstance(params, dask.array.Array):
        raise DTypeError(
            message("an array of dask, or a container of them", title(params), _instead(params))
        )
    return chosen(params, request, everything=everything)


def _instead(x: Any) -> str:
    """Return what makes an array of another collection of dask's."""
    if isinstance(x, Delayed):
        return "pass dask.array.from_delayed(x, shape, dtype), or dask.delayed(fastreg.state)(x)"
    if hasattr(x, "to_dask_array"):
        return "pass x.to_dask_array()"
    return "map fastreg.state over its parts, and add up the states"


def _state_of(p: Parameter) -> Any:
    return _over_chunks(p, _state, _sum)


def _over_chunks(
    p: Parameter,
    function: Callable[[Any, str], Any],
    together: Callable[[Sequence[Any]], Any],
) -> Any:
    """Return the task that joins what a function makes of each chunk."""
    where = f"a chunk of {p.label}"
    one = dask.delayed(function, pure=True)
    if not isinstance(p.original, dask.array.Array):
        _ = p.elements  # or an error, before anything runs
        return one(p.original, where)
    try:
        states.state(np.empty(0, p.original.dtype))
    except FastregError as e:
        raise _placed(e, f"at {p.label}") from None
    return _tree([one(chunk, where) for chunk in p.original.to_delayed().ravel()], together)


def _tree(level: list[Any], together: Callable[[Sequence[Any]], Any] | None = None) -> Any:
    """Return the task at the root of a tree that joins what tasks give."""
    join = dask.delayed(together or _sum, pure=True)
    while len(level) > 1:
        level = [join(level[k : k + _FAN_IN]) for k in range(0, len(level), _FAN_IN)]
    return level[0] if level else join([])


def _type_of(p: Parameter) -> tuple[str, bool]:
    """Return an element type as tables show it, and whether it is one of floats."""
    found = by_name(p.dtype_name) or narrow_by_name(p.dtype_name)
    return (p.dtype_name, True) if found is None else (found.short, found.floating)


def _result(found: Chosen, dtype: Any) -> str:
    if dtype is not None:
        return result_dtype(dtype).name
    if not found.gathered.single:
        return "float64"
    return widest(by_name(name_of(p.original.dtype)) for p in found.parameters).name


def _placed(e: FastregError, where: str) -> FastregError:
    return type(e)(f"{where}: {str(e).removeprefix(_ALONE)}")


_ALONE = "at '0': "
"""How an error begins that names the place of an array by itself."""


# -- Tasks -----------------------------------------------------------------------------------------


def _state(chunk: Any, where: str) -> State:
    try:
        return states.state(chunk)
    except FastregError as e:
        raise _placed(e, f"in {where}") from None


def _sum(parts: Sequence[State]) -> State:
    return sum(parts, State())


def _stacked(parts: Sequence[State], names: tuple[str, ...]) -> State:
    rows = np.stack([part.digits(layout="wide") for part in parts])
    return State.from_digits(rows, names)


def _value(rows: Sequence[State], weights: Sequence[tuple[float, float]], dtype: str) -> Any:
    stacked = _stacked(rows, tuple(map(str, range(len(rows)))))
    l1, l2 = zip(*weights, strict=True)
    return stacked.value(l1=list(l1), l2=list(l2), dtype=dtype)


def _norm(total: State, dtype: str) -> Any:
    return total.norm(dtype=dtype)


def _described(chunk: Any, where: str) -> tuple[State, float, int]:
    """A chunk's state, largest magnitude and count of subnormals, which no state has."""
    sums = _state(chunk, where)
    row = stats_of([chunk]).rows[0]
    return sums, float(row["max_abs"]), int(row["subnormals"])


def _described_together(parts: Sequence[tuple[State, float, int]]) -> tuple[State, float, int]:
    sums, largest, subnormals = zip(*parts, strict=True)
    return _sum(sums), float(np.max(largest)), sum(subnormals)


def _stats(
    parts: Sequence[tuple[State, float, int]],
    names: tuple[str, ...],
    shapes: tuple[tuple[Any, ...], ...],
    kinds: Sequence[tuple[str, bool]],
    integers: bool,
) -> Stats:
    counted = [k for k, (_, floating) in enumerate(kinds) if floating or integers]
    total = _described_together([parts[k] for k in counted] or [_described(np.empty(0), "")])
    rows = stats_of([np.empty(0)] * (len(parts) + 1)).rows
    for row, (sums, largest, subnormals) in zip(rows, [*parts, total], strict=True):
        row["n"], row["zeros"], row["nans"] = sums.n, sums.zeros, sums.nans
        row["sum_abs"], row["sum_squares"] = sums.sum_abs(), sums.sum_squares()
        row["norm"], row["max_abs"] = sums.norm(), largest
        row["subnormals"], row["infs"] = subnormals, sum(sums.infs)
    others = tuple(k for k, (_, floating) in enumerate(kinds) if not floating)
    titles = Titles(names, shapes, tuple(short for short, _ in kinds), (), others)
    return Stats.of(titles, rows[:-1], rows[-1], integers=integers)
