# SPDX-License-Identifier: BSD-3-Clause
"""A model's arrays, chosen, weighted and described to the kernels once, for many calls."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, TextIO, overload

import numpy as np

from fastreg._core.arguments import Convention, Nonfinite, Request, Select, Weight, flag, number
from fastreg._core.arrays import HostArray, describe, own_view
from fastreg._core.containers import Gathered, Parameter, gather, joined, leaves
from fastreg._core.factors import clip_factor, decay_factor
from fastreg._core.flat import Flat
from fastreg._core.frameworks import is_model, is_torch_module
from fastreg._core.guard import Guard
from fastreg._core.identity import address_of
from fastreg._core.mutability import check_mutable, check_stored, naming
from fastreg._core.pieces import InPieces
from fastreg._core.selection import (
    Decision,
    chosen,
    decisions_html,
    print_decisions,
    without_numbers,
)
from fastreg._core.state import State, in_rows
from fastreg._core.statistics import FloatsAndOthers, Stats, Titles, finite_or_raise
from fastreg._core.tensors import tensors_of, written
from fastreg._kernels import Arrays, are_writable, one_at_a_time
from fastreg.errors import FastregError, LayoutError, NonFiniteError, message

__all__ = ["Plan", "occurrences", "own_views"]


class Decisions(list[Decision]):
    """What was decided for each array: a list that a prompt shows in one line."""

    __slots__ = ()

    def __repr__(self) -> str:
        included = sum(d.included for d in self)
        return (
            f"<{len(self):,} decisions: {included:,} in, {len(self) - included:,} out; "
            "explain() prints them>"
        )


class Plan:
    """A model's arrays, chosen, weighted and described once: see :func:`fastreg.plan`.

    A call then costs one look at the containers and one call of the kernels. Before each, the plan
    checks that what it was made of is still there, and raises StaleError instead of reading stale
    memory. It holds references to the arrays, so none is freed; NumPy refuses to resize them, and
    what they are views of, meanwhile. A torch storage that another thread frees with ``resize_``
    during a call is out of its reach, as it is of torch's own operations.

    A plan is used by one call at a time: another thread, or a signal handler that runs within the
    call, gets a FastregError. Names ending in ``_`` write in place, and check everything before the
    first write; after a KeyboardInterrupt, and only then, arrays may be partly written. A plan
    cannot be copied or pickled, nor what holds it: make one of the copy.
    """

    __slots__ = (
        "_all",
        "_arrays",
        "_bound",
        "_decisions",
        "_floats",
        "_guard",
        "_hosts",
        "_mutable",
        "_notes",
        "_parameters",
        "_places",
        "_request",
        "_tensors",
        "_times",
        "_titles",
        "_use",
        "_weights",
    )

    def __init__(
        self,
        params: Any,
        *,
        l1: Weight | None = None,
        l2: Weight | None = None,
        select: Select = None,
        weights: Weight = 1.0,
        convention: Convention = "keras",
    ) -> None:
        self._prepare(params, Request.of(l1, l2, select, weights, convention), False, True)

    @classmethod
    def once(cls, params: Any, request: Request, *, everything: bool = False) -> Plan:
        """Make a plan for one call, of a request that has been checked: nothing is watched.

        ``everything`` as in :func:`chosen`.
        """
        plan = cls.__new__(cls)
        plan._prepare(params, request, everything, False)
        return plan

    @classmethod
    def for_statistics(cls, params: Any, request: Request) -> Plan:
        """Make a plan that measures once and no more: it takes floats of one byte, too."""
        plan = cls.__new__(cls)
        plan._prepare(params, request, True, False, statistics=True)
        return plan

    def _prepare(
        self,
        params: Any,
        request: Request,
        everything: bool,
        watched: bool,
        statistics: bool = False,
    ) -> None:
        found = chosen(params, request, everything=everything)
        left_out: list[str] = []
        if statistics:
            found, left_out = without_numbers(found)
        check_stored(found.parameters)
        # First: what changes while the arrays are being described is then noticed.
        self._guard = Guard(found.gathered) if watched else None
        self._use = one_at_a_time("a plan")
        self._request = request
        self._all = found.gathered.parameters
        self._notes = found.gathered.notes + left_out
        self._decisions = found.decisions
        self._parameters = found.parameters
        self._weights = found.weights
        # Views of our own: assigning to an array's shape must not change what was described.
        self._hosts = own_views(self._parameters, statistics)
        if self._guard is not None:
            self._guard.require_lasting()
        self._arrays: Any = (
            InPieces(self._hosts)
            if any(host.dtype.code < 0 for host in self._hosts)
            else Arrays(self._hosts, *self._weights)
        )
        self._mutable = False
        self._bound: tuple[Any, Guard | None, list[Any], list[Any]] | None = None
        self._titles: Titles | None = None
        self._floats: FloatsAndOthers | InPieces | None = None
        self._tensors = tensors_of(found.originals)
        self._times = occurrences(params, self._parameters)
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

    def _repr_html_(self) -> str:
        """Return for a notebook what :meth:`explain` prints."""
        return decisions_html(self._decisions, self._notes)

    def __reduce__(self) -> Any:
        raise TypeError(
            message(
                "something that can be copied",
                "a Plan, which stands for memory of this process",
                "take it out of what is copied or pickled, and make a plan of the copy",
            )
        )

    @property
    def n(self) -> int:
        """Number of elements of the arrays that are in."""
        return int(self._arrays.n)

    @property
    def names(self) -> list[str]:
        """Names of the arrays that are in, in order."""
        return [p.name for p in self._parameters]

    @property
    def l1(self) -> list[float]:
        """Weight of Σ|x| of each array that is in, all factors multiplied in."""
        return list(self._weights[0])

    @property
    def l2(self) -> list[float]:
        """Weight of Σx² of each array that is in, all factors and the convention multiplied in."""
        return list(self._weights[1])

    @property
    def decisions(self) -> list[Decision]:
        """What was decided for each array, and why."""
        return Decisions(self._decisions)

    def explain(self, *, file: TextIO | None = None) -> None:
        """Print what is in, what is out and why, as :func:`fastreg.explain` does."""
        print_decisions(self._decisions, self._notes, file or sys.stdout)

    @overload
    def value(self, dtype: Literal["float64"] | None = None) -> np.float64: ...
    @overload
    def value(self, dtype: Any) -> Any: ...
    def value(self, dtype: Any = None) -> Any:
        """Return the penalty, the exact sum over all arrays rounded once.

        Parameters
        ----------
        dtype : float16, bfloat16, float32 or float64, optional
            Type of the result; float64 by default.

        Returns
        -------
        NumPy scalar
            As :func:`fastreg.penalty`.

        Raises
        ------
        StaleError
            (a RuntimeError) If an array was replaced, moved or freed since the plan was made.
        ArgumentError
            If the plan was made without a weight.
        """
        self._request.require_weight()
        with self._use:
            self._check()
            return self._arrays.value(dtype)

    def require_fresh(self) -> None:
        """Raise StaleError if what the plan was made of changed, ArgumentError without weights."""
        self._request.require_weight()
        with self._use:
            self._check()

    def _check(self) -> None:
        if self._guard is not None:
            self._guard.check()

    @overload
    def global_norm(self, dtype: Literal["float64"] | None = None) -> np.float64: ...
    @overload
    def global_norm(self, dtype: Any) -> Any: ...
    def global_norm(self, dtype: Any = None) -> Any:
        """Return the Euclidean norm of the arrays together, correctly rounded; weights ignored."""
        with self._use:
            self._check()
            return self._arrays.norm(dtype, times=self._times)

    def add_gradient_(self, grads: Any, *, scale: float = 1.0) -> None:
        """Add the penalty's gradient to arrays: ``out = RN_T(out + g)`` for each.

        Parameters
        ----------
        grads : container of writable arrays
            Of the arrays' shapes and types, any layout: a container with the names of params, or a
            flat one with an array for each of params or for each that is in, in order. None takes
            no gradient; entries of arrays that are out are ignored. Passing the same unchanged
            list or dict again costs nothing.
        scale : float, default 1
            The upstream gradient: what the penalty is multiplied by.

        Raises
        ------
        LayoutError
            (a ValueError) Naming the place: for another shape or type, a read-only or missing
            array, and for arrays that share memory with each other or with params.
        StaleError, DTypeError, ArgumentError
            For changed params, for what is no array or immutable, for a scale that is no number.
        KeyboardInterrupt
            Within 100 ms of Ctrl-C. Then, and only then, the arrays may be partly written.
        """
        with self._use:
            self._bind(grads)
            try:
                with naming(self._parameters):
                    self._arrays.gradient(None, scale, True)
            finally:
                written(self._bound_tensors())

    def value_and_gradient_(
        self, grads: Any, *, scale: float = 1.0, accumulate: bool = True, dtype: Any = None
    ) -> Any:
        """Add the gradient to arrays and return the value, in one pass.

        Equal, bit for bit, to :meth:`value` and :meth:`add_gradient_`, whose parameters and errors
        it has. ``accumulate=False`` overwrites. ``scale`` does not multiply the value.
        """
        with self._use:
            self._bind(grads)
            try:
                with naming(self._parameters):
                    return self._arrays.value_and_gradient(None, scale, bool(accumulate), dtype)
            finally:
                written(self._bound_tensors())

    def into_fresh(self, targets: list[HostArray], scale: float, dtype: Any) -> Any:
        """Write the gradients into arrays that the caller has just made, and return the value."""
        self._request.require_weight()
        with self._use:
            self._bound = None
            return self._arrays.value_and_gradient(targets, scale, False, dtype, fresh=True)

    def _bind(self, grads: Any) -> None:
        """Check everything and bind the targets."""
        self._request.require_weight()
        self._check()
        if self._bound is not None:
            container, guard, _, arrays = self._bound
            if guard is not None and container is grads and are_writable(arrays):
                try:
                    guard.check()
                except FastregError:
                    self._bound = None
                else:
                    return
        self._bound = None
        gathered = Gathered()
        targets = self._match(grads, gathered)
        found = [t for t in targets if t is not None]
        with naming(self._parameters):
            self._arrays.bind([None if t is None else t.array for t in targets])
        gathered.parameters = found
        again = self._guard is not None and isinstance(grads, (list, dict, tuple))
        guard = Guard(gathered, "gradients") if again and not gathered.asked else None
        arrays = [t.original for t in found if isinstance(t.original, np.ndarray)]
        tensors = tensors_of([t.original for t in found])
        self._bound = (grads, guard, tensors, arrays)

    def _bound_tensors(self) -> list[Any]:
        return [] if self._bound is None else self._bound[2]

    def _match(self, grads: Any, gathered: Gathered) -> list[Parameter | None]:
        """Find the target of each array that is in, by name or else by position."""
        entries = leaves(grads, gathered=gathered, keep_none=True)
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
            at = places.get(joined(path))
            if at is None:
                strays.append(path)
            else:
                by_place.setdefault(at, []).append((path, leaf))
        missing = [p for k, p in enumerate(self._all) if id(p) in included and k not in by_place]
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
                stray = Parameter(strays[0], np.empty(0)).label if strays else ""
                what = (
                    f"no entry for {missing[0].label}"
                    if missing
                    else f"an entry {stray} for which there is no array"
                )
                counts = sorted({len(self._parameters), len(self._all)})
                raise LayoutError(
                    message(
                        f"gradients named as params, or a list of {' or '.join(map(str, counts))}"
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
        """Take a proximal step of the penalty in place: see :func:`fastreg.prox_`."""
        self._request.require_weight()
        step = number(step, "step", least=0.0)
        with self._use:
            self._write(lambda: self._arrays.prox_(step, bool(flush)))

    def decay_(self, rate: float) -> None:
        """Shrink the arrays in place, ``x = RN_T((1 - rate) * x)``: see :func:`fastreg.decay_`."""
        factor = decay_factor(rate)
        with self._use:
            self._write(lambda: self._arrays.scale_(factor))

    def clip_by_global_norm_(
        self, max_norm: float, *, nonfinite: Nonfinite = "raise"
    ) -> np.float64:
        """Scale the arrays to a norm: see :func:`fastreg.clip_by_global_norm_`."""
        max_norm = number(max_norm, "max_norm", least=0.0, finite=False)
        flag(nonfinite, "nonfinite", "raise", "keep")
        with self._use:
            self._ready_to_write()
            norm: np.float64 = self._arrays.norm(times=self._times)
            if math.isfinite(norm):
                factor = clip_factor(max_norm, norm)
                if factor is not None:
                    self._write(lambda: self._arrays.scale_(factor))
                return norm
            if nonfinite == "keep":
                return norm
            finite_or_raise(self._parameters, self._arrays.statistics()[0], "to clip")
        raise NonFiniteError(
            message(
                "a norm below the largest float64",
                "finite elements whose norm is above it",
                "scale the arrays down first",
            )
        )

    def _write(self, work: Callable[[], None]) -> None:
        """Write in place, and tell frameworks, even if the call was interrupted."""
        self._ready_to_write()
        try:
            with naming(self._parameters):
                work()
        finally:
            written(self._tensors)

    def _ready_to_write(self) -> None:
        self._check()
        if not self._mutable:
            _check_writable(self._parameters)
            self._mutable = True

    def state(self, *, rows: str = "one") -> State:
        """Return what the arrays that are in hold, exactly: see :func:`fastreg.state`.

        The rows keep the plan's weights, so that ``plan.state(rows="weights").value()``, of one or
        of the sum over parts, has the bits of :meth:`value`.
        """
        weighted = self._request.l1 is not None or self._request.l2 is not None
        with self._use:
            self._check()
            return in_rows(self._hosts, self.names, self._weights if weighted else None, rows)

    def flat(self) -> Flat:
        """Return all float arrays as one vector, for solvers such as SciPy's.

        ``minimize(fun, flat.x0, jac=True)``, where ``fun`` adds ``flat(x)``, the penalty and its
        gradient, to those of the loss; ``flat.views(x)`` are the arrays in x, ``flat.vector(g)`` a
        vector of their gradients, ``flat.put_(x)`` writes x back.

        Returns
        -------
        Flat
            Of the arrays that the plan leaves out, too: a solver moves biases as well. Everything
            is float64, and the penalty is that of the vector, not of arrays that it is rounded to.

        Raises
        ------
        DTypeError, LayoutError
            For bfloat16; for two arrays of one name.
        ArgumentError
            If the plan was made without a weight.

        Examples
        --------
        >>> import numpy as np, fastreg
        >>> params = {"kernel": np.array([[3.0, -4.0]]), "bias": np.ones(2)}
        >>> flat = fastreg.plan(params, l2=0.5).flat()
        >>> flat.x0
        array([ 3., -4.,  1.,  1.])
        >>> flat(flat.x0)
        (12.5, array([ 3., -4.,  0.,  0.]))
        """
        self._request.require_weight()
        with self._use:
            self._check()
            return Flat(
                self._all,
                self._parameters,
                self._weights,
                check=self._check,
                ready=_check_writable,
                written=lambda ps: written(tensors_of([p.original for p in ps])),
            )

    def stats(self, *, integers: bool = False) -> Stats:
        """Return the statistics of the arrays that are in: see :func:`fastreg.stats`."""
        with self._use:
            self._check()
            if self._titles is None:
                self._titles = Titles.of(self._parameters, self._notes)
            if integers or not self._titles.integers:
                return Stats.of(self._titles, *self._arrays.statistics())
            if self._floats is None:
                in_pieces = isinstance(self._arrays, InPieces)
                self._floats = (
                    InPieces(self._hosts, False) if in_pieces else FloatsAndOthers(self._hosts)
                )
            return Stats.of(self._titles, *self._floats.statistics(), integers=False)

    def check_finite(self) -> None:
        """Raise NonFiniteError, naming the arrays, if one holds NaN or infinity."""
        with self._use:
            self._check()
            finite_or_raise(self._parameters, self._arrays.statistics()[0], "")


def _check_writable(parameters: Sequence[Parameter]) -> None:
    """Raise LayoutError or DTypeError, naming the first array that cannot be written."""
    check_mutable(parameters)
    for p in parameters:
        if not p.array.data.flags.writeable:
            raise LayoutError(
                message(
                    f"a writable array at {p.label}",
                    "a read-only one",
                    "pass a copy of it, or leave it out with select=",
                )
            )


def occurrences(params: Any, parameters: list[Parameter]) -> list[float] | None:
    """How often each array counts in a norm; None: once.

    Gradients of a sum are often one object, which counts as often as it stands in a container; what
    a model or module ties counts once.
    """
    if is_torch_module(params) or is_model(params) or not any(p.aliases for p in parameters):
        return None
    return [1.0 + len(p.aliases) for p in parameters]


def own_views(parameters: list[Parameter], statistics: bool = False) -> list[HostArray]:
    """Return the memory of arrays as views that nobody else can reshape."""
    return [own_view(p.elements if statistics else p.array) for p in parameters]


def _target(p: Parameter, entries: list[tuple[tuple[Any, ...], Any]]) -> Parameter | None:
    """Return the one target of an array that may have been found under several names."""
    given = [(path, leaf) for path, leaf in entries if leaf is not None]
    if not given:
        return None
    found = [Parameter(*given[0])]
    if len(given) > 1:
        found = gather({joined(path): leaf for path, leaf in given}).parameters
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
    if x.shape != out.shape or x.dtype is not out.dtype:
        raise LayoutError(
            message(
                f"a gradient of shape {x.shape} and type {x.dtype} at {p.label}",
                f"{out.shape} {out.dtype} ({describe(target.original)})",
                "pass such an array, or None",
            )
        )
    if x.size and address_of(x.data) == address_of(out.data):
        raise LayoutError(
            message(
                f"a gradient that is not the array itself at {p.label}",
                "the same memory",
                "pass arrays of their own",
            )
        )
    return target
