# SPDX-License-Identifier: BSD-3-Clause
"""Group lasso: whole rows, channels or sets of weights become zero together.

The penalty is ``Σ_g c_g · ‖x_g‖`` with ``c_g = weight · √n_g`` for a group of n_g elements (Yuan
and Lin 2006), or ``c_g = weight`` with ``scaling="none"``. Each norm is correctly rounded to
float64, as are the root and the product in c_g, and the product with the norm; the sum of these is
exact and rounded once. So the value has the same bits for every order of arrays and groups, number
of threads and machine, and is within about 3 units in the last place of the real number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fastreg._core.arguments import Globs, Request, Select, Weight, flag, number, weights_of
from fastreg._core.arrays import HostArray, empty_like
from fastreg._core.containers import Parameter
from fastreg._core.dtypes import BF16, Dtype
from fastreg._core.mutability import check_mutable, naming
from fastreg._core.selection import Chosen, chosen
from fastreg._core.targets import check_targets
from fastreg._core.tensors import tensors_of, written
from fastreg._kernels import Arrays, clean_environment
from fastreg._kernels import norm as norm_of
from fastreg.errors import ArgumentError, DTypeError, message

__all__ = ["Groups", "group_lasso_gradient", "group_lasso_prox_", "group_lasso_value"]

Scaling: TypeAlias = Literal["sqrt", "none"]
Groups: TypeAlias = "int | tuple[int, ...] | Sequence[npt.NDArray[Any]] | Mapping[str, Any]"

# Elements that NumPy works on between two looks at pending signals: some milliseconds.
_PIECE = 1 << 20
# What the elements of a group are divided by whose norm float64 does not hold.
_HUGE = 2.0**64


def _undisturbed() -> ExitStack:
    """The caller's rounding mode, flush-to-zero and ``numpy.errstate`` play no part within."""
    stack = ExitStack()
    stack.enter_context(np.errstate(all="ignore"))
    stack.enter_context(clean_environment())
    return stack


@dataclass(slots=True)
class _Grouped:
    """One array cut into groups.

    Attributes
    ----------
    parts : list
        What picks each group from ``view``: a tuple of indices that ends in ``...``, or a tuple of
        one array of positions, which :meth:`pieces` makes indices.
    view : ndarray
        The array with the axes of groups in front, or as it is for groups of positions.
    weights : list of float
        c_g of each group.
    order : list of int
        The order of the array's axes in ``view``.
    """

    parameter: Parameter
    view: npt.NDArray[Any]
    parts: list[tuple[Any, ...]]
    weights: list[float]
    order: list[int]

    def norms(self) -> list[tuple[float, float]]:
        """Return the correctly rounded norm of each group, as a number and the unit it counts.

        The unit is 1, or 2**64 where float64 does not hold the norm of finite elements.
        """
        dtype = self.parameter.array.dtype
        rows = Arrays([HostArray(self.group(part), dtype) for part in self.parts]).statistics()[0]
        norms = [(norm, 1.0) for norm in rows["norm"].tolist()]
        for k in np.flatnonzero((rows["norm"] == math.inf) & (rows["infs"] == 0)).tolist():
            small = np.concatenate(
                [(self.view[piece] / _HUGE).reshape(-1) for piece in self.pieces(self.parts[k])]
            )
            norms[k] = (float(norm_of(small)), _HUGE)
        return norms

    def group(self, part: tuple[Any, ...]) -> npt.NDArray[Any]:
        """Return the elements of a group: a view where axes cut, a copy of positions."""
        out: npt.NDArray[Any]
        if part[-1] is ...:
            out = self.view[part]
            return out
        out = np.empty(len(part[0]), self.view.dtype)
        for first, piece in zip(range(0, out.size, _PIECE), self.pieces(part), strict=False):
            out[first : first + _PIECE] = self.view[piece]
        return out

    def pieces(self, part: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """Cut what picks a group, so that Ctrl-C is served between."""
        if part[-1] is not ...:
            for first in range(0, max(len(part[0]), 1), _PIECE):
                yield np.unravel_index(part[0][first : first + _PIECE], self.view.shape)
            return
        shape = self.view[part].shape
        if math.prod(shape) <= _PIECE:
            yield part
            return
        for box in _boxes(shape):
            yield (*part[:-1], *box)


def _boxes(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Yield slices that cut a shape into boxes of at most _PIECE elements."""
    if math.prod(shape) <= _PIECE:
        yield tuple(map(slice, shape))
        return
    rest = math.prod(shape[1:])
    step = max(1, _PIECE // rest)
    for first in range(0, shape[0], step):
        for box in _boxes(shape[1:]) if rest > _PIECE else [tuple(map(slice, shape[1:]))]:
            yield (slice(first, first + step), *box)


def group_lasso_value(
    params: Any,
    *,
    weight: Weight,
    groups: Groups,
    scaling: Scaling = "sqrt",
    select: Select = None,
) -> np.float64:
    """Return the group lasso penalty ``Σ_g c_g · ‖x_g‖``.

    Parameters
    ----------
    params : array or container of arrays
        As in :func:`fastreg.penalty`; floats only.
    weight : float, mapping or callable
        As l1 in :func:`fastreg.penalty`.
    groups : int, tuple of int, sequence of index arrays, or mapping
        An axis: one group for each position along it (0 for the rows of a matrix, the output
        channels of a torch convolution). Several axes: one for each combination of positions.
        Index arrays: positions in the array's C order, each in one group at most; those in none are
        free. A mapping from names or globs to any of these; it must name every array that is in.
    scaling : "sqrt" or "none", default "sqrt"
        ``c_g = weight * sqrt(n_g)``, or ``c_g = weight``.
    select : optional
        As in :func:`fastreg.penalty`.

    Returns
    -------
    NumPy float64
        +0 without groups. NaN if a group with a weight holds a NaN, else infinity if one does.

    Raises
    ------
    ArgumentError
        (a ValueError) For a bad weight or select, an axis or position that an array does not have,
        and positions in two groups.
    DTypeError
        For integers, and for what is no array.

    Notes
    -----
    Slices along an axis are read in place; positions are gathered group by group. The result is a
    number, in no graph and on no tape, as in :func:`fastreg.penalty`.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.group_lasso_value([np.array([[3.0, 4.0], [0.0, 0.0]])], weight=1.0, groups=0,
    ...                           scaling="none")
    np.float64(5.0)
    """
    all_grouped = _prepare(params, weight, groups, scaling, select)[1]
    terms = []
    with _undisturbed():
        for grouped in all_grouped:
            for c, (norm, unit) in zip(grouped.weights, grouped.norms(), strict=True):
                if c and norm:
                    terms.append(c * norm * unit)
        try:
            return np.float64(math.fsum(terms))
        except OverflowError:  # all terms are >= 0
            return np.float64(math.inf)


def group_lasso_gradient(
    params: Any,
    *,
    weight: Weight,
    groups: Groups,
    scaling: Scaling = "sqrt",
    select: Select = None,
) -> Any:
    """Return the gradient of :func:`group_lasso_value`: ``c_g · x / ‖x_g‖``, and 0 where x_g is 0.

    At a group of zeros the penalty has no gradient; 0 is the subgradient of least norm, as
    ``sign(0) = 0`` is for l1. So zeros that a proximal step made stay zeros.

    Parameters
    ----------
    params, weight, groups, scaling, select
        As in :func:`group_lasso_value`, whose errors it has.

    Returns
    -------
    dict, list or ndarray
        New arrays, arranged as in :func:`fastreg.value_and_gradient`: of a container with names a
        dict by name. Each element is ``RN_T(c_g * (x / ‖x_g‖))``, quotient and product rounded to
        float64. Elements in no group have 0; a group that holds NaN has NaN.

    Notes
    -----
    The arrays are in no graph and on no tape.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> x = np.array([[3.0, 4.0], [0.0, 0.0]])
    >>> fastreg.group_lasso_gradient({"w": x}, weight=5.0, groups=0, scaling="none")
    {'w': array([[3., 4.],
           [0., 0.]])}
    """
    found, all_grouped = _prepare(params, weight, groups, scaling, select)
    out = []
    for grouped in all_grouped:
        x = grouped.parameter.array
        new, target = empty_like(x)
        for box in _boxes(x.shape):
            target.data[box] = 0
        into = target.data.reshape(target.data.shape or (1,)).transpose(grouped.order)
        with _undisturbed():
            for part, c, (norm, unit) in zip(
                grouped.parts, grouped.weights, grouped.norms(), strict=True
            ):
                if norm == 0.0 or c == 0.0:
                    continue
                for piece in grouped.pieces(part):
                    g = np.atleast_1d(_wide(grouped.view[piece], x.dtype))
                    g /= unit
                    g /= norm  # inf / inf is NaN, as it should be
                    np.multiply(g, c, out=g, where=g != 0.0)  # c may be infinite
                    _store(into, piece, g.reshape(into[piece].shape), x.dtype)
        out.append(new)
    return found.arranged(out)


def group_lasso_prox_(
    params: Any,
    step: float,
    *,
    weight: Weight,
    groups: Groups,
    scaling: Scaling = "sqrt",
    select: Select = None,
) -> None:
    """Take a proximal step of the group lasso in place: small groups become exactly zero.

    With ``t = step * c_g``: a group with ``‖x_g‖ <= t`` becomes +0, otherwise
    ``x = RN_T((‖x_g‖ - t) / ‖x_g‖ * x)``, each operation rounded to float64.

    Parameters
    ----------
    params
        As in :func:`group_lasso_value`; the arrays are writable.
    step : float, finite, >= 0
        The learning rate.
    weight, groups, scaling, select
        As in :func:`group_lasso_value`.

    Raises
    ------
    ArgumentError, LayoutError, DTypeError
        Also for a bad step; read-only or overlapping arrays; immutable arrays. Nothing has been
        written then.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C. Then, and only then, arrays may be partly written.

    Notes
    -----
    A group that holds NaN becomes NaN; one that holds infinity stays as it is.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> x = np.array([[3.0, 4.0], [0.3, 0.4]])
    >>> fastreg.group_lasso_prox_([x], 1.0, weight=1.0, groups=0, scaling="none")
    >>> x
    array([[2.4, 3.2],
           [0. , 0. ]])
    """
    step = number(step, "step", least=0.0)
    found, grouped = _prepare(params, weight, groups, scaling, select)
    check_mutable(found.parameters)
    hosts = [p.array for p in found.parameters]
    with naming(found.parameters):
        check_targets(hosts, list(hosts))
    with _undisturbed():
        all_norms = [g.norms() for g in grouped]
        try:
            for g, norms in zip(grouped, all_norms, strict=True):
                _shrink(g, norms, step)
        finally:
            written(tensors_of(found.originals))


def _shrink(g: _Grouped, norms: list[tuple[float, float]], step: float) -> None:
    """Multiply each group by what the proximal step leaves of its norm."""
    dtype = g.parameter.array.dtype
    parts, factors, lost = [], [], []
    for part, c, (norm, unit) in zip(g.parts, g.weights, norms, strict=True):
        t = step * c / unit if step else 0.0
        if norm <= t and norm != math.inf:
            parts.append(part)
            factors.append(0.0)
        elif t and norm < math.inf:
            parts.append(part)
            factors.append((norm - t) / norm)
        elif t and math.isnan(norm):
            lost.append(part)
    # The kernel of a gradient: RN(2 * l2 * scale * x).
    for chosen_parts, halves, scale in (
        (parts, [factor / 2.0 for factor in factors], 1.0),
        (lost, [0.5] * len(lost), math.nan),
    ):
        groups = [g.group(part) for part in chosen_parts]
        hosts = [HostArray(x, dtype) for x in groups]
        Arrays(hosts, 0.0, halves).gradient(hosts, scale, fresh=True)
        for part, x in zip(chosen_parts, groups, strict=True):
            if part[-1] is not ...:
                first = 0
                for piece in g.pieces(part):
                    g.view[piece] = x[first : first + len(piece[0])]
                    first += len(piece[0])


def _prepare(
    params: Any, weight: Weight, groups: Groups, scaling: Scaling, select: Select
) -> tuple[Chosen, list[_Grouped]]:
    """Check everything and cut each array that is in into groups."""
    flag(scaling, "scaling", "sqrt", "none")
    found = chosen(params, Request.of(select=select))
    globs = Globs(groups) if isinstance(groups, Mapping) else None
    out = []
    weights = weights_of(weight, found.parameters, "weight")
    for p, w in zip(found.parameters, weights, strict=True):
        if not p.array.dtype.floating:
            raise DTypeError(
                message(f"a float array at {p.label}", p.dtype_name, "leave it out with select=")
            )
        of_this = groups
        if isinstance(groups, Mapping) and globs is not None:
            key = globs.find(p.names)
            if key is None:
                raise ArgumentError(
                    message(
                        f"groups= with a name or glob for {p.label}",
                        "none",
                        "add it, or use select=",
                    )
                )
            of_this = groups[key]
        out.append(_cut(p, w, of_this, scaling))
    return found, out


def _cut(p: Parameter, weight: float, groups: Any, scaling: Scaling) -> _Grouped:
    x = p.array.data
    if isinstance(groups, (int, np.integer)) and not isinstance(groups, bool):
        groups = (int(groups),)
    if isinstance(groups, tuple) and all(isinstance(a, (int, np.integer)) for a in groups):
        bad = [a for a in groups if not -x.ndim <= a < x.ndim]
        axes = [a % x.ndim for a in groups if not bad]
        if bad or not axes or len(set(axes)) < len(axes):
            raise ArgumentError(
                message(
                    f"axes of an array of {x.ndim} dimensions at {p.label}, each once",
                    repr(groups),
                    "pass others, a mapping for each array, or leave it out with select=",
                )
            )
        order = [*axes, *(a for a in range(x.ndim) if a not in axes)]
        view = x.transpose(order)
        parts: list[tuple[Any, ...]] = list(np.ndindex(view.shape[: len(axes)]))
        size = math.prod(view.shape[len(axes) :])
        weights = [_product(weight, size, scaling)] * len(parts)
        # The ellipsis keeps a view where an index leaves no axis.
        return _Grouped(p, view, [(*part, ...) for part in parts], weights, order)
    if isinstance(groups, (str, bytes)) or not hasattr(groups, "__len__"):
        raise ArgumentError(
            message(
                "an axis, axes, index arrays or a mapping as groups=",
                repr(groups)[:80],
                "pass one of them",
            )
        )
    flat = x if x.ndim else x.reshape(1)
    places = np.zeros(x.size, np.int32)
    parts, weights = [], []
    for group in groups:
        index = np.asarray(group).reshape(-1)
        if index.size and index.dtype.kind not in "iu":
            raise ArgumentError(
                message(
                    f"positions as integers in the groups of {p.label}",
                    str(index.dtype),
                    "pass arrays of integers",
                )
            )
        index = index.astype(np.int64, copy=False)
        for first in range(0, index.size, _PIECE):
            _check_positions(index[first : first + _PIECE], places, p)
        parts.append((index,))
        weights.append(_product(weight, index.size, scaling))
    return _Grouped(p, flat, parts, weights, list(range(flat.ndim)))


def _check_positions(
    piece: npt.NDArray[np.int64], places: npt.NDArray[np.int32], p: Parameter
) -> None:
    """Refuse positions that are outside the array or were met before.

    ``places`` is 0 at those that were not, and receives a number above that differs in the piece.
    """
    if not (piece.min() >= 0 and piece.max() < places.size):
        raise ArgumentError(
            message(
                f"positions from 0 to {places.size - 1} in the groups of {p.label}",
                f"{piece.min()} to {piece.max()}",
                "count in C order",
            )
        )
    order = np.arange(1, piece.size + 1, dtype=np.int32)
    met = places[piece].any()
    places[piece] = order
    if met or (places[piece] != order).any():
        raise ArgumentError(
            message(
                f"each position of {p.label} in one group at most",
                "one that is in two",
                "make the groups disjoint",
            )
        )


def _product(weight: float, n: int, scaling: Scaling) -> float:
    with clean_environment():
        return weight * math.sqrt(n) if scaling == "sqrt" else weight


def _wide(x: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[np.float64]:
    """Return elements as float64, exactly."""
    if dtype is BF16:
        x = (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return x.astype(np.float64)


def _store(
    into: npt.NDArray[Any], part: tuple[Any, ...], x: npt.NDArray[np.float64], dtype: Dtype
) -> None:
    """Round float64 numbers to the type of ``into`` and put them there."""
    into[part] = _bf16_bits(x) if dtype is BF16 else x


def _bf16_bits(x: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Round float64 to bfloat16, once: to float32 with ties kept apart, then to the nearest.

    float32 has more than two bits beyond bfloat16, so rounding to odd first (the lower neighbour,
    its last bit set if something was lost) makes the second rounding see every tie as it is
    (Boldo and Melquiond, 2008).
    """
    single = np.atleast_1d(x.astype(np.float32))
    wide = np.atleast_1d(x)
    bits = single.view(np.uint32).astype(np.uint64)
    beyond = np.abs(single.astype(np.float64)) > np.abs(wide)
    bits -= beyond
    lost = bits.astype(np.uint32).view(np.float32).astype(np.float64) != wide
    bits |= lost
    rounded = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    out = rounded.astype(np.uint16)
    out[np.isnan(wide)] = 0x7FC0
    return out.reshape(x.shape)
