# SPDX-License-Identifier: BSD-3-Clause
"""Which arrays a call is about, as JAX sees them, and containers made of the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastreg._core.arguments import Request, not_differentiable, number, result_dtype
from fastreg._core.arrays import deleted, describe, host_array, instead
from fastreg._core.containers import Parameter, items_of, leaves
from fastreg._core.dtypes import ACCEPTED, BF16, by_name, name_of, widest
from fastreg._core.foreign import elements
from fastreg._core.frameworks import is_variable, unwrap
from fastreg._core.pytrees import is_static
from fastreg._core.roles import is_reference
from fastreg._core.selection import Chosen, chosen
from fastreg.errors import ArgumentError, DTypeError, FastregError, message
from fastreg.jax._operations import canonical, is_float

__all__ = [
    "arrays_of",
    "as_array",
    "as_float",
    "choose",
    "floats_of",
    "is_single",
    "like",
    "result_of",
    "scalar",
    "zeros_like",
]


def as_array(x: Any) -> Any:
    """Return x as an array of JAX of an element type that there are kernels for."""
    x = unwrap(x)
    if not isinstance(x, jax.Array):
        if not isinstance(x, (np.ndarray, np.generic)):
            raise DTypeError(
                message(
                    "a JAX array, a tracer, an ndarray or a Keras variable", describe(x), instead(x)
                )
            )
        x = _from_numpy(x)
    elif not isinstance(x, jax.core.Tracer) and x.is_deleted():
        raise deleted()
    name = "float0" if x.dtype == jax.dtypes.float0 else name_of(x.dtype)
    if by_name(name) is not None:
        return x
    if name.startswith(("int", "uint")) and x.dtype.itemsize == 1:  # of one, two or four bits
        return x.astype(jnp.int8 if name.startswith("i") else jnp.uint8)
    raise DTypeError(message(f"elements of type {ACCEPTED}", name, elements(x, name, "jax")))


def _from_numpy(x: Any) -> Any:
    if isinstance(x, np.ma.MaskedArray):
        host_array(x)  # refuses it
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        name = x.dtype.name
        raise DTypeError(
            message(f"elements of type {ACCEPTED}", describe(x), elements(x, name))
        ) from None


def as_float(x: Any) -> Any:
    """Return x as an array of JAX of a type that has a gradient."""
    x = as_array(x)
    if not is_float(x):
        raise not_differentiable(name_of(x.dtype), "x.astype('float32')")
    return x


def arrays_of(found: Chosen, parameters: Sequence[Parameter] | None = None) -> tuple[Any, ...]:
    """Return the arrays that are in; an error names their place, unless there is but one."""
    return tuple(
        _placed(found, p, as_array)
        for p in (found.parameters if parameters is None else parameters)
    )


def floats_of(found: Chosen, parameters: Sequence[Parameter] | None = None) -> tuple[Any, ...]:
    """Do what :func:`arrays_of` does, but refuse what has no gradient."""
    return tuple(
        _placed(found, p, as_float)
        for p in (found.parameters if parameters is None else parameters)
    )


def _placed(found: Chosen, p: Parameter, function: Callable[[Any], Any]) -> Any:
    try:
        return function(p.original)
    except FastregError as e:
        if found.gathered.single:
            raise
        raise type(e)(f"at {p.label}: {e}") from None


def is_single(x: Any) -> bool:
    """Whether x is one array, told at a glance; other single arrays take the long way."""
    return isinstance(x, (jax.Array, np.ndarray, np.generic)) or x is None


def choose(params: Any, request: Request, *, everything: bool = False) -> tuple[Any, Chosen]:
    """Return a container, and which of its arrays a call is about.

    Arrays are values here: what stands there twice counts twice, as it would inside a traced
    program. Variables of Keras and of Flax's NNX, which may be shared, count once.
    """
    params = items_of(params)
    try:
        flat = jax.tree.leaves(params, is_leaf=lambda x: is_reference(type(x)))
    except ValueError as e:
        raise ArgumentError(
            message(
                "a container that JAX can flatten",
                f"one of which it says: {str(e).splitlines()[0]}",
                "give each dict keys of one type",
            )
        ) from None
    shared = any(is_variable(x) or is_reference(type(x)) for x in flat)
    return params, chosen(params, request, everything=everything, values=not shared)


def result_of(xs: Sequence[Any], dtype: Any) -> np.dtype[Any]:
    """Return the type of a result: what is asked for, or the widest of the arrays' own."""
    if dtype is None:
        return canonical(widest(by_name(name_of(x.dtype)) for x in xs).name)
    return canonical(result_dtype(dtype).name)


def scalar(x: Any, what: str, **bounds: Any) -> Any:
    """Return a number as a float, or as the 0-d array that it is, which may be traced."""
    if isinstance(x, jax.Array) and x.ndim == 0 and is_float(x):
        if not isinstance(x, jax.core.Tracer):
            number(float(x), what, **bounds)
        return x.astype(jnp.float32) if x.dtype.itemsize == BF16.itemsize else x
    return number(x, what, **bounds)


# -- Containers of results -------------------------------------------------------------------------


class _Mark:
    """A position among the leaves of a pytree."""

    def __init__(self, k: int) -> None:
        self.k = k


def zeros_like(x: Any) -> Any:
    """Return the gradient of what is not in, as ``jax.grad`` has it; None for what is no array."""
    x = unwrap(x)
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        return None
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


def like(params: Any, found: Chosen, results: Sequence[Any], other: Callable[[Any], Any]) -> Any:
    """Put results where the chosen arrays stood, and ``other(x)`` where any other leaf did.

    Returns
    -------
    pytree
        Of the structure of params. What is no pytree of its arrays for JAX (models, pairs of names
        and arrays, variables that stand there twice) gives what other backends give: a dict by
        names, or lists if there are none, of the arrays that are in.
    """
    parameters = found.gathered.parameters
    flat, structure = jax.tree.flatten(params)
    marked = structure.unflatten(map(_Mark, range(len(flat))))
    places = {path: mark.k for path, mark in leaves(marked, is_leaf=lambda x: isinstance(x, _Mark))}
    static = {path for path, k in places.items() if is_static(flat[k])}
    if places.keys() - static == {p.path for p in parameters}:
        new = {places[p.path]: r for p, r in zip(found.parameters, results, strict=True)}
        return structure.unflatten(new[k] if k in new else other(x) for k, x in enumerate(flat))
    return found.arranged(results)
