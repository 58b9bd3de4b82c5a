# SPDX-License-Identifier: BSD-3-Clause
"""JAX's own operations: the words of the formula, and the sums of lists in them.

Computed in float64 for float64 and integers and in float32 for everything else, array by array;
their last bits depend on XLA and on the order of the arrays.

``xs`` is a tuple of arrays, ``l1`` and ``l2`` are tuples of their weights; a single array is a list
of one. ``rank`` counts leading axes of every array that are batch axes: one penalty is computed for
each position there. An extent of 1 among them stands for the same at every position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fastreg._core import formula
from fastreg._core.dtypes import F32, F64, by_name, name_of, widest

__all__ = [
    "OPERATIONS",
    "Weights",
    "add",
    "canonical",
    "directional",
    "full_shape",
    "gradient",
    "inner_axes",
    "is_float",
    "norm",
    "picked",
    "slope",
    "spread",
    "value",
    "work_dtype",
]

Weights: TypeAlias = tuple[float, ...]


class _Operations(formula.Operations):
    """What the formula asks for, in the words of ``jax.numpy``."""

    def cast(self, x: Any, dtype: str) -> Any:
        return x.astype(dtype)

    def dtype(self, x: Any) -> str:
        return name_of(x.dtype)

    def sum(self, x: Any) -> Any:
        return jnp.sum(x)

    def absolute(self, x: Any) -> Any:
        return jnp.abs(x)

    def sign(self, x: Any) -> Any:
        return jnp.sign(x)

    def square(self, x: Any) -> Any:
        return jnp.square(x)

    def zeros_like(self, x: Any) -> Any:
        return jnp.zeros_like(x)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return jnp.where(condition, a, b)

    def maximum(self, a: Any, b: Any) -> Any:
        return jnp.maximum(a, b)

    def tiny(self, dtype: str) -> float:
        return float(jnp.finfo(dtype).tiny)

    def largest_in_rows(self, x: Any) -> Any:
        return jnp.max(x, axis=1, keepdims=True, initial=0.0)

    def sum_of_rows(self, x: Any) -> Any:
        return jnp.sum(x, axis=1, keepdims=True)

    def rsqrt(self, x: Any) -> Any:
        return jax.lax.rsqrt(x)

    def products_of_rows(self, x: Any) -> Any:
        return jnp.matmul(x, x.T, precision="highest")

    def transpose(self, x: Any) -> Any:
        return x.T

    def without_diagonal(self, x: Any) -> Any:
        return jnp.where(jnp.eye(x.shape[0], dtype=bool), jnp.zeros((), x.dtype), x)

    def pairs_of_rows(self, x: Any, dtype: str) -> Any:
        n = x.shape[0]  # which may be a size unknown while tracing
        return jax.core.max_dim(n * (n - 1), 1)

    def stop_gradient(self, x: Any) -> Any:
        return jax.lax.stop_gradient(x)


OPERATIONS = _Operations()


def is_float(x: Any) -> bool:
    """Whether an array is of a type that has a gradient."""
    dtype = by_name(name_of(x.dtype))
    return dtype is not None and dtype.floating


def canonical(name: str) -> np.dtype[Any]:
    """Return a type by name, or what stands for it without ``jax_enable_x64``."""
    dtype: np.dtype[Any] = jax.dtypes.canonicalize_dtype(jnp.dtype(name))
    return dtype


def work_dtype(x: Any) -> str:
    """The type in which operations compute: for integers the widest."""
    narrow = is_float(x) and x.dtype != F64.name
    return canonical(F32.name if narrow else F64.name).name


def picked(which: Sequence[int], *lists: Any) -> list[Any]:
    """Return the items at some positions of each list."""
    return [tuple(items[k] for k in which) for items in lists]


def inner_axes(x: Any, rank: int) -> tuple[int, ...]:
    """The axes behind the batch's."""
    return tuple(range(rank, x.ndim))


def full_shape(x: Any, u: Any) -> tuple[int, ...]:
    """The shape of x's gradient: u's extents, which are the batch's, and x's own."""
    return (*u.shape, *x.shape[u.ndim :])


def spread(u: Any, x: Any) -> Any:
    """Give u, which has x's leading axes, x's rank."""
    return u.reshape(u.shape + (1,) * (x.ndim - u.ndim))


def add(parts: Iterable[Any], xs: Any, rank: int) -> Any:
    """Add one number for each array, in the widest type that they were computed in."""
    wide = widest(by_name(work_dtype(x)) for x in xs).name
    total = jnp.zeros((1,) * rank, wide)
    for part in parts:
        total = total + part.astype(wide)
    return total


def value(xs: Any, l1: Weights, l2: Weights, dtype: Any) -> Any:
    """The penalty of a list."""
    parts = []
    for x, w1, w2 in zip(xs, l1, l2, strict=True):
        work = work_dtype(x)
        parts.append(formula.penalty(OPERATIONS, x, w1, w2, work, work))
    return add(parts, xs, 0).astype(dtype)


def gradient(xs: Any, u: Any, l1: Weights, l2: Weights) -> Any:
    """The gradients of a list's penalty times u."""
    return tuple(
        formula.gradient(OPERATIONS, x, spread(u, x), w1, w2, work_dtype(x)).astype(x.dtype)
        for x, w1, w2 in zip(xs, l1, l2, strict=True)
    )


def slope(x: Any, l1: float, l2: float) -> Any:
    """``2 l2 x + l1 sign(x)`` in the type that operations compute in."""
    wide = x.astype(work_dtype(x))
    one = jnp.ones((), wide.dtype)
    return formula.gradient(OPERATIONS, wide, one, l1, l2, work_dtype(x))


def directional(xs: Any, ts: Any, l1: Weights, l2: Weights, dtype: Any, rank: int) -> Any:
    """The sum of slope times t over all arrays, for each position of the batch."""
    parts = []
    for x, t, w1, w2 in zip(xs, ts, l1, l2, strict=True):
        g = slope(x, w1, w2)
        parts.append(jnp.sum(g * t.astype(g.dtype), axis=inner_axes(x, rank)))
    return add(parts, xs, rank).astype(dtype)


def norm(xs: Any, dtype: Any) -> Any:
    """The Euclidean norm of a list; no square overflows or vanishes on the way."""
    wide = widest(by_name(work_dtype(x)) for x in xs).name
    largest = jnp.zeros((), wide)
    for x in xs:
        inside = jnp.max(jnp.abs(x.astype(wide)), initial=0.0)
        largest = jnp.maximum(largest, inside)
    scale = jnp.where((largest > 0.0) & (largest < jnp.inf), largest, 1.0).astype(wide)
    total = jnp.zeros((), wide)
    for x in xs:
        total = total + jnp.sum(jnp.square(x.astype(wide) / scale))
    return (jnp.sqrt(total) * scale).astype(dtype)
