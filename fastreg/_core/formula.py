# SPDX-License-Identifier: BSD-3-Clause
"""Value, gradient, proximal step and orthogonality, written once over a vocabulary of operations.

For what the kernels cannot reach: symbolic tensors, traced programs, and memory of other devices.
A framework says its words for :class:`Operations`; the sums then have its rounding, not ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = [
    "SHORTEST",
    "Operations",
    "gradient",
    "orthogonal",
    "penalty",
    "prox",
]

SHORTEST = 1e-7
"""Rows shorter than this count as of this length: Keras clamps the squared norm at 1e-14."""


class Operations(ABC):
    """The words of a framework. Arrays also take ``+ - * /`` with each other and with floats.

    Types are full names: ``"float32"``. Everything but :meth:`stop_gradient` is differentiable
    wherever the framework differentiates.
    """

    @abstractmethod
    def cast(self, x: Any, dtype: str) -> Any:
        """Return x in another element type; x itself if it has it."""

    @abstractmethod
    def sum(self, x: Any) -> Any:
        """Return the 0-d sum of all elements."""

    @abstractmethod
    def absolute(self, x: Any) -> Any:
        """Return |x|, whose derivative is :meth:`sign`."""

    @abstractmethod
    def square(self, x: Any) -> Any:
        """Return x * x."""

    def sum_of_squares(self, x: Any) -> Any:
        """Return the 0-d sum of all x * x."""
        return self.sum(self.square(x))

    @abstractmethod
    def zeros_like(self, x: Any) -> Any:
        """Return zeros of x's shape and type."""

    # What only gradients and proximal steps need.

    def dtype(self, x: Any) -> str:
        """Return the name of x's element type."""
        raise NotImplementedError

    def sign(self, x: Any) -> Any:
        """Return the sign of each element: 0 for ±0, NaN for NaN."""
        raise NotImplementedError

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """Return a where the condition holds, else b."""
        raise NotImplementedError

    def maximum(self, a: Any, b: Any) -> Any:
        """Return the larger of each pair, NaN if there is one; b may be a float."""
        raise NotImplementedError

    def tiny(self, dtype: str) -> float:
        """Return the smallest normal number of a type."""
        raise NotImplementedError

    # What only orthogonality needs.

    def largest_in_rows(self, x: Any) -> Any:
        """Return the largest element of each row of a matrix, as a column; 0 for rows of none."""
        raise NotImplementedError

    def sum_of_rows(self, x: Any) -> Any:
        """Return the sum of each row of a matrix, as a column."""
        raise NotImplementedError

    def rsqrt(self, x: Any) -> Any:
        """Return 1 / sqrt(x)."""
        raise NotImplementedError

    def products_of_rows(self, x: Any) -> Any:
        """Return x @ x.T, in full precision."""
        raise NotImplementedError

    def transpose(self, x: Any) -> Any:
        """Return a matrix with its axes exchanged."""
        raise NotImplementedError

    def without_diagonal(self, x: Any) -> Any:
        """Return a square matrix with zeros on its diagonal, whatever stood there."""
        raise NotImplementedError

    def pairs_of_rows(self, x: Any, dtype: str) -> Any:
        """Return n (n - 1) for the n rows of a matrix, at least 1."""
        raise NotImplementedError

    def stop_gradient(self, x: Any) -> Any:
        """Return x, cut off from what it came from."""
        raise NotImplementedError


def penalty(ops: Operations, x: Any, l1: float, l2: float, work: str, result: str) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)``, computed in `work`; 0 removes a term."""
    y = ops.cast(x, work)
    total = None
    if l1 != 0.0:
        total = l1 * ops.sum(ops.absolute(y))
    if l2 != 0.0:
        square = l2 * ops.sum_of_squares(y)
        total = square if total is None else total + square
    if total is None:
        total = ops.sum(ops.zeros_like(y))
    return ops.cast(total, result)


def gradient(ops: Operations, x: Any, u: Any, l1: float, l2: float, work: str) -> Any:
    """Return ``2 * l2 * u * x + l1 * u * sign(x)``, like x; a weight of 0 removes its term.

    u is the upstream factor, an array that goes with x.
    """
    own = ops.dtype(x)
    y, u = ops.cast(x, work), ops.cast(u, work)
    total = None
    if l2 != 0.0:
        total = (2.0 * l2) * u * y
    if l1 != 0.0:
        step = l1 * u * ops.sign(y)
        total = step if total is None else total + step
    return ops.cast(ops.zeros_like(y) if total is None else total, own)


def prox(ops: Operations, x: Any, step: float, l1: float, l2: float, flush: bool, work: str) -> Any:
    """Return ``sign(x) * max(|x| - step * l1, 0) / (1 + 2 * step * l2)``, like x, zeros positive.

    NaN stays NaN; `flush` turns results that are subnormal in x's type into 0.
    """
    own = ops.dtype(x)
    y = ops.cast(x, work)
    shrunk = ops.maximum(ops.absolute(y) - step * l1, 0.0) / (1.0 + 2.0 * (step * l2))
    out = ops.cast(ops.sign(y) * shrunk, own)
    zero = ops.zeros_like(out)
    if flush:
        out = ops.where(ops.absolute(out) < ops.tiny(own), zero, out)
    return ops.where(out == 0.0, zero, out)


def orthogonal(ops: Operations, x: Any, factor: float, rows: bool, work: str, result: str) -> Any:
    """Return ``factor`` times the mean magnitude of the cosines between a matrix' rows.

    0 for fewer than two rows, and with factor 0 whatever x holds.
    """
    y = ops.cast(x, work)
    if factor == 0.0:
        return ops.cast(ops.sum(ops.zeros_like(y)), result)
    y = y if rows else ops.transpose(y)
    # The largest element of each row is taken out first, so that no square overflows.
    scale = ops.stop_gradient(ops.maximum(ops.largest_in_rows(ops.absolute(y)), SHORTEST))
    parts = y / scale
    squares = ops.sum_of_rows(ops.square(parts))
    units = parts * ops.rsqrt(ops.maximum(squares, ops.square(SHORTEST / scale)))
    cosines = ops.without_diagonal(ops.products_of_rows(units))
    total = ops.sum(ops.absolute(cosines)) / ops.pairs_of_rows(cosines, work)
    return ops.cast(factor * total, result)
