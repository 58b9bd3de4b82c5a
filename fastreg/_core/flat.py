# SPDX-License-Identifier: BSD-3-Clause
"""A model's arrays as one vector, for solvers that know of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreg._core.arrays import HostArray
from fastreg._core.containers import Parameter, joined, leaves
from fastreg._core.dtypes import BF16, F64
from fastreg._kernels import Arrays, clean_environment, one_at_a_time
from fastreg.errors import ArgumentError, DTypeError, LayoutError, message

__all__ = ["Flat"]

Vector = NDArray[np.float64]


class Flat:
    """All float arrays of a plan as one float64 vector: see :meth:`Plan.flat`.

    The penalty is that of the vector: of its elements as they are, float64, whatever types the
    arrays have. Elements of arrays that the plan leaves out (biases, say) are part of the vector
    and not of the penalty; their gradient is 0. Integers are not in the vector. Tied arrays are in
    it once.

    Used by one call at a time, as a plan is.
    """

    __slots__ = (
        "_arrays",
        "_check",
        "_hosts",
        "_inside",
        "_parameters",
        "_ready",
        "_slices",
        "_use",
        "_vector",
        "_written",
    )

    def __init__(
        self,
        parameters: Sequence[Parameter],
        included: Sequence[Parameter],
        weights: tuple[list[float], list[float]],
        check: Callable[[], None],
        ready: Callable[[Sequence[Parameter]], None],
        written: Callable[[Sequence[Parameter]], None],
    ) -> None:
        self._parameters = [p for p in parameters if p.array.dtype.floating]
        self._check, self._ready, self._written = check, ready, written
        self._use = one_at_a_time("a flat plan")
        self._slices: dict[str, slice] = {}
        end = 0
        for p in self._parameters:
            if p.array.dtype is BF16:
                raise DTypeError(
                    message(
                        f"float16, float32 or float64 at {p.label}",
                        "bfloat16",
                        "keep a float32 copy of the weights for the solver",
                    )
                )
            if p.name in self._slices:
                raise LayoutError(
                    message("distinct names", f"two arrays at {p.label}", "rename one of them")
                )
            self._slices[p.name] = slice(end, end + p.size)
            end += p.size
        self._vector: Vector = np.zeros(end)
        chosen = {id(p): k for k, p in enumerate(included)}
        at = [(chosen[id(p)], p) for p in self._parameters if id(p) in chosen]
        self._inside = [(self._slices[p.name], p.shape) for _, p in at]
        l1, l2 = weights
        self._arrays = Arrays(
            self._hosts_of(self._vector), [l1[k] for k, _ in at], [l2[k] for k, _ in at]
        )

    def _hosts_of(self, vector: Vector) -> list[HostArray]:
        return [HostArray(vector[span], F64) for span, _ in self._inside]

    def __len__(self) -> int:
        """Return the length of the vector."""
        return len(self._vector)

    def __repr__(self) -> str:
        """Say how long the vector is."""
        return f"<fastreg.Flat of {len(self._slices):,} arrays, {len(self):,} elements>"

    @property
    def slices(self) -> dict[str, slice]:
        """Where each array is, by name."""
        return dict(self._slices)

    @property
    def x0(self) -> Vector:
        """The arrays as they are now: a new vector.

        Raises
        ------
        StaleError
            If an array was replaced since the plan was made.
        """
        with self._use:
            self._check()
            vector = np.empty(len(self))
            for p, span in zip(self._parameters, self._slices.values(), strict=True):
                vector[span] = p.array.data.reshape(-1)
            return vector

    def value_and_gradient(self, vector: Any) -> tuple[float, Vector]:
        """Return the penalty of a vector, exact and rounded once to float64, and its gradient.

        Also what calling the object does, as ``scipy.optimize.minimize(flat, flat.x0, jac=True)``
        wants it.

        Parameters
        ----------
        vector : array of len(self) numbers
            Copied, and not kept.

        Returns
        -------
        value : float
        gradient : ndarray of float64
            A new one, for the caller to keep or change; 0 for arrays that are out.

        Raises
        ------
        LayoutError
            (a ValueError) For another shape.
        """
        given = self._checked(vector)
        gradient = np.zeros(len(self))
        with self._use:
            self._vector[...] = given
            value = self._arrays.value_and_gradient(
                self._hosts_of(gradient), 1.0, False, "float64", fresh=True
            )
        return float(value), gradient

    __call__ = value_and_gradient

    def views(self, vector: Vector) -> dict[str, Vector]:
        """Return a vector's arrays by name, in their shapes.

        Views of it where it is a contiguous array of float64: what is written to them is written to
        it. For anything else they are of a copy.
        """
        given = self._checked(vector)
        return {
            p.name: given[span].reshape(p.shape)
            for p, span in zip(self._parameters, self._slices.values(), strict=True)
        }

    def vector(self, arrays: Any) -> Vector:
        """Return arrays, such as the gradients of a loss, as a new vector.

        Parameters
        ----------
        arrays : container
            With the names of params, or a list with an array for each, in order. None is 0, as is
            what is missing.

        Raises
        ------
        LayoutError
            (a ValueError) For a name that params lack, and for another shape.
        """
        entries = leaves(arrays, keep_none=True)
        unnamed = all(len(path) == 1 and isinstance(path[0], int) for path, _ in entries)
        if unnamed and len(entries) == len(self._parameters):
            entries = [(p.path, x) for p, (_, x) in zip(self._parameters, entries, strict=True)]
        vector = np.zeros(len(self))
        shapes = {p.name: p.shape for p in self._parameters}
        for path, leaf in entries:
            name = joined(path)
            span = self._slices.get(name)
            if span is None:
                if any(name == alias for p in self._parameters for alias in p.aliases):
                    continue  # tied: its gradient is that of the first name
                raise LayoutError(
                    message("arrays named as params", repr(name), "pass those of params alone")
                )
            if leaf is None:
                continue
            found = Parameter(path, leaf).array.data
            if found.shape != shapes[name]:
                raise LayoutError(
                    message(
                        f"shape {shapes[name]} at {name!r}",
                        str(found.shape),
                        "pass the gradient of that array",
                    )
                )
            vector[span] = found.reshape(-1)
        return vector

    def put_(self, vector: Any) -> None:
        """Write a vector into the plan's arrays, each element rounded to the array's type.

        Raises
        ------
        LayoutError, DTypeError
            For another shape; for read-only and immutable arrays (JAX, TensorFlow), of which
            :meth:`views` gives the values. Nothing has been written then.
        StaleError
            If an array was replaced since the plan was made.
        """
        given = self._checked(vector)
        with self._use:
            self._check()
            self._ready(self._parameters)
            try:
                with clean_environment(), np.errstate(all="ignore"):
                    for p, span in zip(self._parameters, self._slices.values(), strict=True):
                        p.array.data[...] = given[span].reshape(p.shape)
            finally:
                self._written(self._parameters)

    def _checked(self, vector: Any) -> Vector:
        found = np.ascontiguousarray(vector)
        if found.dtype.kind not in "fiub":
            raise ArgumentError(
                message("a vector of real numbers", str(found.dtype), "pass what x0 gave")
            )
        if found.shape != self._vector.shape:
            raise LayoutError(
                message(
                    f"a vector of {len(self):,} elements",
                    f"shape {found.shape}",
                    "pass one of the shape of x0",
                )
            )
        return found.astype(np.float64, copy=False)
