# SPDX-License-Identifier: BSD-3-Clause
"""Penalties of whole models: one exact value, one native pass over all the arrays.

========  ==========================  =====================  =====================================
          value                       gradient               the same strength elsewhere
========  ==========================  =====================  =====================================
"keras"   l1·Σ|x| + l2·Σx²            l1·sign(x) + 2·l2·x    ``keras.regularizers.L1L2(l1, l2)``
"half"    l1·Σ|x| + l2/2·Σx²          l1·sign(x) + l2·x      ``weight_decay=l2`` of torch's SGD
========  ==========================  =====================  =====================================

Nothing is divided by the size of a batch, an array or the number of replicas: with N replicas whose
gradients are summed, divide the weights by N; where gradients are averaged, leave them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, TextIO

import numpy as np

from fastreg import _kernels
from fastreg.arrays import HostArray, describe, empty_like
from fastreg.errors import ArgumentError, FastregError, LayoutError, NonFiniteError, message
from fastreg.functional import list_norm, list_value
from fastreg.parameters import (
    FLOATS,
    Gathered,
    Guard,
    Parameter,
    check_mutable,
    collect,
    dense_tensors,
    gather,
    leaves,
    named,
    tensors_of,
    viewed,
    written,
)
from fastreg.selection import (
    Decision,
    Select,
    Weight,
    _rule_of_name,
    print_decisions,
    selected,
    weights_of,
)
from fastreg.survey import Stats, Titles, finite_or_raise

__all__ = [
    "Plan",
    "check_finite",
    "clip_by_global_norm_",
    "decay_",
    "global_norm",
    "penalty",
    "plan",
    "prox_",
    "stats",
    "value_and_gradient",
]


class Plan:
    """A model's arrays, chosen, weighted and described to the kernels once: see :func:`plan`.

    A call then costs one look at the containers and one native call. Before each, the plan checks
    that what it was made of is still there, and raises StaleError instead of reading stale memory.
    It holds references to the arrays, so none is freed; NumPy refuses to resize them meanwhile.

    A plan is used by one thread at a time. Names ending in ``_`` write in place, and check
    everything before the first write.
    """

    __slots__ = (
        "_all",
        "_bound",
        "_decisions",
        "_guard",
        "_hosts",
        "_kernel",
        "_l1",
        "_l2",
        "_mutable",
        "_notes",
        "_parameters",
        "_places",
        "_split",
        "_tensors",
        "_titles",
    )

    def __init__(
        self,
        params: Any,
        *,
        l1: Weight = 0.0,
        l2: Weight = 0.0,
        select: Select = "kernels",
        weights: Weight = 1.0,
        convention: str = "keras",
    ) -> None:
        gathered = gather(params)
        self._all = gathered.parameters
        self._notes = gathered.notes
        self._decisions = selected(self._all, select)
        self._parameters = [d.parameter for d in self._decisions if d.included]
        self._l1, self._l2 = weights_of(self._parameters, l1, l2, weights, convention)
        # Views of our own: assigning to an array's shape must not change what was described.
        self._hosts = [_own_view(p.array) for p in self._parameters]
        self._kernel = _kernels.Plan(self._hosts, self._l1, self._l2)
        self._guard = Guard(gathered)
        self._mutable = False
        self._bound: tuple[Any, Guard, list[Any], list[Any]] | None = None
        self._titles: Titles | None = None
        self._split: list[tuple[list[int], Any]] | None = None
        self._tensors = tensors_of(self._parameters)
        self._places: dict[str, int] | None = None

    def __len__(self) -> int:
        """Return how many arrays are in."""
        return len(self._parameters)

    def __repr__(self) -> str:
        """Say how much is in."""
        return (
            f"<fastreg.Plan of {len(self._parameters):,} of {len(self._all):,} arrays, "
            f"{self.n:,} elements>"
        )

    @property
    def n(self) -> int:
        """Number of elements of the arrays that are in."""
        return int(self._kernel.n)

    @property
    def names(self) -> list[str]:
        """Names of the arrays that are in, in order."""
        return [p.name for p in self._parameters]

    @property
    def l1(self) -> list[float]:
        """Weight of Σ|x| of each array that is in, all factors multiplied in."""
        return list(self._l1)

    @property
    def l2(self) -> list[float]:
        """Weight of Σx² of each array that is in, all factors and the convention multiplied in."""
        return list(self._l2)

    @property
    def decisions(self) -> list[Decision]:
        """What was decided for each array, and why."""
        return list(self._decisions)

    def explain(self, *, file: TextIO | None = None) -> None:
        """Print what is in, what is out and why, as :func:`fastreg.explain` does."""
        print_decisions(self._decisions, self._notes, file or sys.stdout)

    def value(self, dtype: Any = None) -> Any:
        """Return the penalty, the exact sum over all arrays rounded once.

        Parameters
        ----------
        dtype : float16, bfloat16, float32 or float64, optional
            Type of the result; float64 by default.

        Returns
        -------
        NumPy scalar
            As :func:`penalty`.

        Raises
        ------
        StaleError
            (a RuntimeError) If an array was replaced, moved or freed since the plan was made.
        """
        self._guard.check()
        return self._kernel.value(dtype)

    def norm(self, dtype: Any = None) -> Any:
        """Return the Euclidean norm of the arrays together, correctly rounded; weights ignored."""
        self._guard.check()
        return self._kernel.norm(dtype)

    def add_gradient_(self, grads: Any, *, scale: float = 1.0) -> None:
        """Add the penalty's gradient to arrays: ``out = RN_T(out + g)`` for each.

        Parameters
        ----------
        grads : container of writable arrays
            Of the arrays' shapes and types, any layout: a container with the names of params, or a
            flat one with an array for each of params or for each that is in, in order. None takes
            no gradient; entries of arrays that are out are ignored. Passing the same unchanged
            list or dict again costs nothing.
        scale : float, finite, default 1
            The upstream gradient: what the penalty is multiplied by.

        Raises
        ------
        LayoutError
            (a ValueError) Naming the place: for another shape or type, a read-only or missing
            array, and for arrays that share memory with each other or with params.
        StaleError, DTypeError, ArgumentError
            For changed params, for what is no array or immutable, for a scale that is not finite.
        """
        self._write(grads, scale, True)
        with _naming(self._parameters):
            self._kernel.gradient(None, scale, True)
        written(self._bound_tensors())

    def value_and_gradient_(
        self, grads: Any, *, scale: float = 1.0, accumulate: bool = True, dtype: Any = None
    ) -> Any:
        """Add the gradient to arrays and return the value, in one pass.

        Equal, bit for bit, to :meth:`value` and :meth:`add_gradient_`, whose parameters and errors
        it has. ``accumulate=False`` overwrites. ``scale`` does not multiply the value.
        """
        self._write(grads, scale, accumulate)
        with _naming(self._parameters):
            value = self._kernel.value_and_gradient(None, scale, accumulate, dtype)
        written(self._bound_tensors())
        return value

    def _write(self, grads: Any, scale: float, accumulate: bool) -> None:
        """Check everything and bind the targets."""
        self._guard.check()
        if self._bound is not None:
            container, guard, _, arrays = self._bound
            if container is grads and _kernels.are_writable(arrays):
                try:
                    guard.check()
                except FastregError:
                    self._bound = None
                else:
                    return
        self._bound = None
        gathered = Gathered()
        targets = self._match(grads, gathered)
        hosts = [None if t is None else _own_view(t.array) for t in targets]
        with _naming(self._parameters):
            self._kernel.bind(hosts)
        found = [t for t in targets if t is not None]
        gathered.parameters = found
        keep = grads if isinstance(grads, (list, dict, tuple)) else object()
        arrays = [t.original for t in found if isinstance(t.original, np.ndarray)]
        self._bound = (keep, Guard(gathered, "gradients"), tensors_of(found), arrays)

    def _bound_tensors(self) -> list[Any]:
        return [] if self._bound is None else self._bound[2]

    def _match(self, grads: Any, gathered: Gathered) -> list[Parameter | None]:
        """Find the target of each array that is in, by name or else by position."""
        entries = leaves(grads, holders=gathered.holders, keep_none=True)
        if self._places is None:
            self._places = {
                name: k
                for k, p in reversed(list(enumerate(self._all)))
                for name in (*p.aliases, p.name)
            }
        places = self._places
        included = {id(p): k for k, p in enumerate(self._parameters)}
        by_place: dict[int, list[Any]] = {}
        strays = []
        for path, leaf in entries:
            place = places.get(".".join(map(str, path)))
            if place is None:
                strays.append(path)
            else:
                by_place.setdefault(place, []).append((path, leaf))
        missing = [
            p for k, p in enumerate(self._all) if id(p) in included and k not in by_place
        ]
        if strays or missing:
            # By position only where there are no names: a misspelt one must not move the others.
            unnamed = all(isinstance(key, int) for path, _ in entries for key in path)
            order = next(
                (
                    order
                    for order in (self._all, self._parameters)
                    if unnamed and len(order) == len(entries)
                ),
                None,
            )
            if order is None:
                what = (
                    f"no entry for {missing[0].label}"
                    if missing
                    else f"an entry '{'.'.join(map(str, strays[0]))}' for which there is no array"
                )
                raise LayoutError(
                    message(
                        f"gradients named as params, or a list of "
                        f"{' or '.join(map(str, sorted({len(self._parameters), len(self._all)})))}"
                        " in their order",
                        f"{len(entries)}, with {what}",
                        "pass an array or None for each",
                    )
                )
            position = {id(p): k for k, p in enumerate(self._all)}
            by_place = {position[id(p)]: [e] for p, e in zip(order, entries, strict=True)}
        targets: list[Parameter | None] = [None] * len(self._parameters)
        for k, p in enumerate(self._all):
            if id(p) in included:
                targets[included[id(p)]] = _target(p, by_place[k])
        check_mutable([t for t in targets if t is not None])
        return targets

    def prox_(self, step: float, *, flush: bool = False) -> None:
        """Take a proximal step of the penalty in place: see :func:`prox_`."""
        _check_range(step, "step", "finite and >= 0", step_ok)
        self._ready_to_write()
        with _naming(self._parameters):
            self._kernel.prox_(float(step), bool(flush))
        written(self._tensors)

    def decay_(self, rate: float) -> None:
        """Shrink the arrays in place, ``x = RN_T((1 - rate) * x)``: see :func:`decay_`."""
        _check_range(rate, "rate", "from 0 to 1", lambda r: 0.0 <= r <= 1.0)
        self._ready_to_write()
        with _naming(self._parameters):
            self._kernel.scale_(1.0 - float(rate))
        written(self._tensors)

    def clip_norm_(self, max_norm: float, *, nonfinite: str = "raise") -> Any:
        """Scale the arrays to a norm of at most max_norm: see :func:`clip_by_global_norm_`."""
        _check_range(max_norm, "max_norm", ">= 0", lambda m: m >= 0.0)
        if nonfinite not in ("raise", "keep"):
            raise ArgumentError(
                message("nonfinite 'raise' or 'keep'", repr(nonfinite)[:80], "pass one of them")
            )
        self._ready_to_write()
        tied = any(p.aliases for p in self._parameters)
        times = _occurrences(self._parameters)
        norm = list_norm(self._hosts, l2=times) if tied else self._kernel.norm()
        if not math.isfinite(norm):
            if nonfinite == "keep":
                return norm
            finite_or_raise(self._parameters, self._kernel.survey()[0], "to clip")
            raise NonFiniteError(
                message(
                    "a norm below the largest float64",
                    "finite elements whose norm is above it",
                    "scale the arrays down first",
                )
            )
        if norm > max_norm:
            with _naming(self._parameters):
                self._kernel.scale_(float(max_norm) / float(norm))
            written(self._tensors)
        return norm

    def _ready_to_write(self) -> None:
        self._guard.check()
        if not self._mutable:
            check_mutable(self._parameters)
            for p in self._parameters:
                if not p.array.data.flags.writeable:
                    raise LayoutError(
                        message(f"a writable array at {p.label}", "a read-only one",
                                "pass a copy of it, or leave it out with select=")
                    )
            self._mutable = True

    def stats(self, *, integers: bool = False) -> Stats:
        """Return the statistics of the arrays that are in: see :func:`stats`."""
        self._guard.check()
        if self._titles is None:
            self._titles = Titles.of(self._parameters, self._notes)
        if integers or self._titles.integers == 0:
            return Stats.of(self._titles, *self._kernel.survey())
        if self._split is None:
            self._split = _floats_and_others(self._hosts)
        (places, floats), (others, kernel) = self._split
        part, total = floats.survey()
        rows = np.empty(len(self._hosts), part.dtype)
        rows[places] = part
        rows[others] = kernel.survey()[0]
        return Stats.of(self._titles, rows, total, self._titles.integers)

    def check_finite(self) -> None:
        """Raise NonFiniteError, naming the arrays, if one holds NaN or infinity."""
        self._guard.check()
        finite_or_raise(self._parameters, self._kernel.survey()[0], "")


def _floats_and_others(hosts: Sequence[HostArray]) -> list[tuple[list[int], Any]]:
    """Positions and kernels' plan of the arrays of floats, and of the rest."""
    floats = [k for k, host in enumerate(hosts) if host.dtype in FLOATS]
    others = [k for k, host in enumerate(hosts) if host.dtype not in FLOATS]
    return [
        (places, _kernels.Plan([hosts[k] for k in places], zeros := [0.0] * len(places), zeros))
        for places in (floats, others)
    ]


def step_ok(step: float) -> bool:
    """Whether a step is finite and >= 0."""
    return 0.0 <= step < math.inf


def _check_range(x: Any, what: str, wanted: str, good: Any) -> None:
    if isinstance(x, (str, bytes, bool)) or not hasattr(x, "__float__") or not good(float(x)):
        raise ArgumentError(
            message(f"a {what} that is {wanted}", repr(x)[:80], "pass such a number")
        )


class _naming:
    """Turn the positions in a kernel's errors into names."""

    __slots__ = ("_parameters",)

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = parameters

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, FastregError) and " position" in str(error):
            raise named(error, self._parameters) from None


def _own_view(x: HostArray) -> HostArray:
    return HostArray(x.data.view(), x.dtype)


def _target(p: Parameter, entries: list[tuple[tuple[Any, ...], Any]]) -> Parameter | None:
    """Return the one target of an array that may have been found under several names."""
    given = [(path, leaf) for path, leaf in entries if leaf is not None]
    if not given:
        return None
    found = [viewed(*given[0])]
    if len(given) > 1:
        found = collect({".".join(map(str, path)): leaf for path, leaf in given})
    if len(found) > 1:
        raise LayoutError(
            message(
                f"one gradient for {p.label}, which is also {', '.join(p.aliases)}",
                f"{len(found)} different arrays",
                "pass None for all but one of them",
            )
        )
    target = found[0]
    x, out = p.array, target.array
    if x.shape != out.shape or x.dtype != out.dtype:
        raise LayoutError(
            message(
                f"a gradient of shape {x.shape} and type {x.dtype} at {p.label}",
                f"{out.shape} {out.dtype} ({describe(target.original)})",
                "pass such an array, or None",
            )
        )
    if (
        x.size
        and x.data.ctypes.data == out.data.ctypes.data
        and np.may_share_memory(x.data, out.data)
    ):
        raise LayoutError(
            message(
                f"a gradient that is not the array itself at {p.label}",
                "the same memory",
                "pass arrays of their own",
            )
        )
    return target


# -- Functions -------------------------------------------------------------------------------------


def plan(
    params: Any,
    *,
    l1: Weight = 0.0,
    l2: Weight = 0.0,
    select: Select = "kernels",
    weights: Weight = 1.0,
    convention: str = "keras",
) -> Plan:
    """Check and flatten a model once, for many calls.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`.

    Returns
    -------
    Plan
        With ``value``, ``norm``, ``add_gradient_``, ``value_and_gradient_``, ``prox_``, ``decay_``,
        ``clip_norm_``, ``stats``, ``check_finite`` and ``explain``.

    Notes
    -----
    Values are read anew in each call: an optimiser that writes the arrays in place needs no new
    plan. One that replaces them, as JAX and TensorFlow do, needs one for each step; so does a torch
    module whose parts or ``requires_grad`` change. Any other such change is an error, not a wrong
    number; but an array that is only seen otherwise (other strides at the same address) is not
    noticed.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> params = {"kernel": np.array([[3.0, -4.0]]), "bias": np.ones(2)}
    >>> p = fastreg.plan(params, l2=0.5)
    >>> p.value()
    np.float64(12.5)
    >>> params["kernel"] *= 2.0
    >>> p.value()
    np.float64(50.0)
    >>> params["kernel"] = np.zeros((1, 2))
    >>> p.value()
    Traceback (most recent call last):
    fastreg.errors.StaleError: expected the params that were planned; received at the top \
another object as item 0; make the plan anew
    """
    return Plan(
        params, l1=l1, l2=l2, select=select, weights=weights, convention=convention
    )


def penalty(
    params: Any,
    *,
    l1: Weight = 0.0,
    l2: Weight = 0.0,
    select: Select = "kernels",
    weights: Weight = 1.0,
    convention: str = "keras",
    dtype: Any = None,
) -> Any:
    """Return the penalty of a model: the exact sum over all chosen arrays, rounded once.

    Parameters
    ----------
    params : array or container of arrays
        Any nested mix of lists, tuples and mappings, an iterable of arrays or of (name, array)
        pairs, a torch module, a Keras model, layer or variables, a registered pytree. Arrays of any
        shape, layout, element type and framework, in host memory; nothing is copied. Memory found
        twice (tied weights) counts once.
    l1, l2 : float, mapping or callable, default 0
        Weights of Σ|x| and Σx², finite and >= 0. A mapping from names or globs gives each array its
        own and 0 to those it does not name; a callable gets ``(name, array)``.
    select : default "kernels"
        Which arrays: ``"kernels"`` (no bias, no normalisation, ndim >= 2), ``"all"``, a glob,
        ``"re:..."``, a pattern, a callable or a tree of bools: see
        :func:`fastreg.selection.decide`, and :func:`fastreg.explain` for what it does.
    weights : float, mapping or callable, default 1
        Factors of both l1 and l2, in the same forms; a mapping leaves 1 to those it does not name.
    convention : "keras" or "half", default "keras"
        ``l2 * Σx²`` or ``l2 / 2 * Σx²``.
    dtype : float16, bfloat16, float32 or float64, optional
        Type of the result; float64 by default.

    Returns
    -------
    NumPy scalar
        The same bits for every order of the arrays, number of threads and machine. +0 for an empty
        container; NaN if a chosen array with a weight holds a NaN, else infinity if one holds that.

    Raises
    ------
    DTypeError
        (a TypeError) Naming the place of what is no array, or cannot be read.
    ArgumentError
        (a ValueError) For a bad weight, and for a rule of names that takes no array at all.

    Notes
    -----
    Equal to the exactly rounded sum of what ``keras.Model.losses`` would hold for regularised
    kernels. A product of weights is a float64 number, rounded once before the sum.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> model = {"dense": {"kernel": np.array([[3.0, -4.0]], np.float32), "bias": np.ones(2)}}
    >>> fastreg.penalty(model, l2=0.5)
    np.float64(12.5)
    >>> fastreg.penalty(model, l2=0.5, select="all", weights={"*.bias": 10.0})
    np.float64(22.5)
    """
    if type(l1) is type(l2) is type(weights) is float and weights == 1.0 and convention == "keras":
        plain = _plain(params, select)
        if plain is not None:
            return list_value(plain, l1=l1, l2=l2, dtype=dtype)
        dense = _dense(params, select)
        if dense is not None:
            return _kernels.dense_value(dense, l1, l2, dtype)
    parameters = [d.parameter for d in selected(collect(params), select) if d.included]
    l1s, l2s = weights_of(parameters, l1, l2, weights, convention)
    return list_value([p.array for p in parameters], l1=l1s, l2=l2s, dtype=dtype)


def _plain(params: Any, select: Any) -> list[Any] | None:
    """Return the chosen arrays of the commonest container, or None for the long way.

    A flat list, tuple or dict of distinct ndarrays that own their memory, of NumPy's own floats:
    nothing is tied, and only the rules "all" and "kernels" are known here.
    """
    kind = type(params)
    if kind is dict:
        items = list(params.values())
    elif kind is list or kind is tuple:
        items = params
    else:
        return None
    if set(map(type, items)) != {np.ndarray} or len(set(map(id, items))) != len(items):
        return None
    if set(map(_base, items)) != {None} or any(d.kind != "f" for d in set(map(_dtype, items))):
        return None
    if isinstance(select, str) and select == "all":
        return list(items)
    if not (isinstance(select, str) and select == "kernels"):
        return None
    if kind is dict:
        chosen = [
            x for name, x in params.items() if x.ndim > 1 and not _rule_of_name(str(name))
        ]
    else:
        chosen = [x for x in items if x.ndim > 1]
    return chosen or None


def _dense(params: Any, select: Any) -> tuple[list[int], list[int], list[str]] | None:
    """Return the memory of a list of ordinary, distinct torch tensors, or None for the long way."""
    if type(params) not in (list, tuple) or not isinstance(select, str):
        return None
    xs = [x for x in params if x is not None]
    if select == "kernels":
        xs = [x for x in xs if getattr(x, "ndim", 2) > 1]
        if not all(getattr(x, "requires_grad", False) for x in xs):
            return None  # a frozen one is out, a plain tensor is in
    elif select != "all":
        return None
    dense = dense_tensors(xs)
    return dense if dense is not None and len(set(dense[0])) == len(xs) else None


_dtype = attrgetter("dtype")


def _base(x: Any) -> Any:
    return None if x.base is None else 1


def value_and_gradient(
    params: Any,
    *,
    grads: Any = None,
    l1: Weight = 0.0,
    l2: Weight = 0.0,
    select: Select = "kernels",
    weights: Weight = 1.0,
    convention: str = "keras",
    scale: float = 1.0,
    accumulate: bool | None = None,
    dtype: Any = None,
) -> tuple[Any, Any]:
    """Return a model's penalty and its gradient, of one pass over the arrays.

    Parameters
    ----------
    params, l1, l2, select, weights, convention, dtype
        As in :func:`penalty`.
    grads : container of writable arrays, optional
        Where the gradients go, as in :meth:`Plan.add_gradient_`; by default new arrays.
    scale : float, finite, default 1
        The upstream gradient; it does not multiply the value.
    accumulate : bool, optional
        Add to ``grads`` (the default if it is given) or overwrite.

    Returns
    -------
    value : NumPy scalar
        As :func:`penalty`.
    grads : dict of str to ndarray, or what was passed
        New arrays by name, for the arrays that are in.

    Raises
    ------
    LayoutError, DTypeError, ArgumentError
        As in :meth:`Plan.add_gradient_`; nothing has been written then.

    Examples
    --------
    >>> import numpy as np
    >>> from fastreg.model import value_and_gradient
    >>> value_and_gradient({"kernel": np.array([[3.0, -4.0]])}, l2=0.5)
    (np.float64(12.5), {'kernel': array([[ 3., -4.]])})
    """
    made = Plan(params, l1=l1, l2=l2, select=select, weights=weights, convention=convention)
    if grads is not None:
        adding = True if accumulate is None else bool(accumulate)
        return made.value_and_gradient_(grads, scale=scale, accumulate=adding, dtype=dtype), grads
    if accumulate:
        raise ArgumentError(
            message("grads= to accumulate into", "grads=None", "pass it, or leave accumulate out")
        )
    pairs = [empty_like(p.array) for p in made._parameters]
    value = made._kernel.value_and_gradient([host for _, host in pairs], scale, False, dtype)
    return value, {p.name: new for p, (new, _) in zip(made._parameters, pairs, strict=True)}


def global_norm(grads: Any, *, dtype: Any = None) -> Any:
    """Return the Euclidean norm of all arrays together, correctly rounded.

    Parameters
    ----------
    grads : array or container of arrays
        As ``params`` in :func:`penalty`; all of them count, None is left out. An array that stands
        there twice counts twice: gradients of a sum are often one object.
    dtype : float16, bfloat16, float32 or float64, optional
        Type of the result; float64 by default.

    Returns
    -------
    NumPy scalar
        +0 for no elements; NaN or infinity if an element is. Finite norms do not overflow on the
        way.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.global_norm([np.full(2, 3e38, np.float32), np.zeros(3), None])
    np.float64(4.2426406948942856e+38)
    """
    dense = _dense(grads, "all")
    if dense is not None:
        return _kernels.dense_norm(dense, dtype)
    plain = _plain(grads, "all")
    if plain is not None:
        return list_norm(plain, dtype=dtype)
    found = collect(grads)
    return list_norm([p.array for p in found], l2=_occurrences(found), dtype=dtype)


def _occurrences(parameters: Sequence[Parameter]) -> list[float]:
    """How often each array stands in the container: gradients of a sum are often one object."""
    return [1.0 + len(p.aliases) for p in parameters]


def clip_by_global_norm_(grads: Any, max_norm: float, *, nonfinite: str = "raise") -> Any:
    """Scale arrays in place so that their norm together is at most ``max_norm``.

    ``x = RN_T(max_norm / norm * x)`` if the exactly rounded norm is above max_norm, with the
    quotient rounded to float64; otherwise nothing is written. Rounding the elements may leave a
    norm a few units above max_norm. torch divides by norm + 1e-6.

    Parameters
    ----------
    grads : container of writable float arrays
        As in :func:`global_norm`.
    max_norm : float >= 0
        Infinity only measures.
    nonfinite : "raise" or "keep", default "raise"
        What to do with NaN or infinity in an array: name it in an error, or leave everything as it
        is and return the norm. torch by default fills all gradients with NaN.

    Returns
    -------
    NumPy float64
        The norm before.

    Raises
    ------
    NonFiniteError
        (a ValueError) Naming the arrays that hold NaN or infinity.
    ArgumentError, LayoutError, DTypeError
        For a bad max_norm; read-only or overlapping arrays; integers and immutable arrays. Nothing
        has been written then.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> g = np.array([3.0, 4.0])
    >>> fastreg.clip_by_global_norm_([g], 2.5)
    np.float64(5.0)
    >>> g
    array([1.5, 2. ])
    """
    _refuse_weights(grads)
    dense = _dense(grads, "all")
    if dense is not None and _max_norm_ok(max_norm) and nonfinite in ("raise", "keep"):
        norm = _kernels.dense_norm(dense)
        if math.isfinite(norm):
            if norm <= max_norm:
                return norm
            factor = float(max_norm) / float(norm)
            if _kernels.dense_gradient(dense, 0.0, 0.5, dense[0], scale=factor):
                written([x for x in grads if x is not None and not x.is_inference()])
                return norm
    return Plan(grads, select="all").clip_norm_(max_norm, nonfinite=nonfinite)


def _refuse_weights(grads: Any) -> None:
    """Refuse parameters where gradients are meant: clipping would scale the weights."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    items = list(grads.values()) if isinstance(grads, dict) else grads
    if isinstance(items, torch.nn.Module) or (
        isinstance(items, (list, tuple)) and any(isinstance(x, torch.nn.Parameter) for x in items)
    ):
        raise ArgumentError(
            message("gradients to clip", "the parameters themselves",
                    "pass [p.grad for p in model.parameters()]")
        )


def _max_norm_ok(max_norm: Any) -> bool:
    return isinstance(max_norm, (int, float)) and max_norm >= 0.0


def decay_(params: Any, rate: float, *, select: Select = "kernels") -> None:
    """Shrink arrays in place, ``x = RN_T((1 - rate) * x)``: a decoupled weight decay.

    Parameters
    ----------
    params : container of writable float arrays
        As in :func:`penalty`.
    rate : float from 0 to 1
        The learning rate times the weight decay for AdamW's step. ``1 - rate`` is rounded to
        float64, as is the product before its rounding to the array's type.
    select : default "kernels"
        As in :func:`penalty`.

    Raises
    ------
    ArgumentError, LayoutError, DTypeError
        For a bad rate or select; read-only or overlapping arrays; integers and immutable arrays.
        Nothing has been written then.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> x = np.array([[4.0, -8.0]])
    >>> fastreg.decay_([x], 0.25)
    >>> x
    array([[ 3., -6.]])
    """
    Plan(params, select=select).decay_(rate)


def prox_(
    params: Any,
    *,
    step: float,
    l1: Weight = 0.0,
    l2: Weight = 0.0,
    select: Select = "kernels",
    weights: Weight = 1.0,
    convention: str = "keras",
    flush: bool = False,
) -> None:
    """Take a proximal step in place: the soft threshold, which makes weights exactly zero.

    ``t = |x| - step * l1`` in float64; ``t <= 0`` gives +0, otherwise
    ``sign(x) * RN_T(t / (1 + 2 * step * l2))``. After a gradient step of the unpenalised objective
    with learning rate ``step``, that is proximal gradient descent (ISTA) for Lasso and elastic net.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; the arrays are writable floats.
    step : float, finite, >= 0
        The learning rate.
    flush : bool, default False
        Turn results that are subnormal in the array's type into 0, which keeps later arithmetic
        fast.

    Raises
    ------
    ArgumentError, LayoutError, DTypeError
        For a bad step, weight or select; read-only or overlapping arrays; integers and immutable
        arrays. Nothing has been written then.

    Notes
    -----
    NaN stays NaN. Parikh and Boyd, Proximal Algorithms (2014), section 6.5.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> x = np.array([[3.0, -0.5, 1.0]])
    >>> fastreg.prox_([x], l1=2.0, step=0.5)
    >>> x
    array([[2., 0., 0.]])
    """
    Plan(
        params, l1=l1, l2=l2, select=select, weights=weights, convention=convention
    ).prox_(step, flush=flush)


def stats(params: Any, *, select: Select = "all", integers: bool = False) -> Stats:
    """Return n, Σ|x|, Σx², norm, max|x| and counts of zeros, subnormals, NaN and inf, per array.

    Parameters
    ----------
    params : array or container of arrays
        As in :func:`penalty`.
    select : default "all"
        As in :func:`penalty`.
    integers : bool, default False
        Count integers and booleans in the total. By default they have rows of their own only: in a
        checkpoint they are positions, steps and masks, and would outweigh the weights.

    Returns
    -------
    Stats
        A table when printed; ``to_dict()``, ``to_json()`` and the structured array ``rows``
        otherwise. Sums and norms are correctly rounded to float64, those of ``total`` as well: the
        exact sums over all arrays, rounded once.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> s = fastreg.stats({"w": np.array([3.0, -4.0]), "b": np.zeros(2)})
    >>> s.total["norm"], s["b"]["zeros"]
    (5.0, 2)
    >>> print(s)
    array  shape  dtype  n  Σ|x|  Σx²  norm  max|x|  zeros
    ──────────────────────────────────────────────────────
    w          2  f64    2     7   25     5       4      0
    b          2  f64    2     0    0     0       0      2
    ──────────────────────────────────────────────────────
    total                4     7   25     5       4      2
    <BLANKLINE>
    2 arrays, 4 elements, all finite
    """
    plain = _plain(params, "all") if isinstance(select, str) and select == "all" else None
    if plain is not None:  # nothing is tied, and all are floats
        names = params if isinstance(params, dict) else range(len(plain))
        titles = Titles.of_ndarrays(names, plain)
        return Stats.of(titles, *_kernels.list_survey(plain))
    return Plan(params, select=select).stats(integers=integers)


def check_finite(params: Any, *, select: Select = "all") -> None:
    """Raise an error that names the arrays, if one holds NaN or infinity.

    Parameters
    ----------
    params, select
        As in :func:`stats`.

    Raises
    ------
    NonFiniteError
        (a ValueError) With the name and the counts of each such array (of the first ten).

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.check_finite({"w": np.ones(3)})
    """
    Plan(params, select=select).check_finite()
