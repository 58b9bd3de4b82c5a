# SPDX-License-Identifier: BSD-3-Clause
"""States, values and norms of arrays that are spread over devices, without gathering them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fastreg._core.arguments import Request, Select
from fastreg.jax import _operations as native
from fastreg.jax import _rounding as rounding
from fastreg.jax._arrays import arrays_of, choose, result_of
from fastreg.jax._digits import LENGTH, digits, summed
from fastreg.jax._operations import Weights

__all__ = ["clip_by_exact_norm", "norm_over", "penalty_over", "reach", "state"]

_INTEGERS = ("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32")
_TYPES = (*_INTEGERS, "float16", "bfloat16", "float32")


def state(params: Any, *, select: Select = "all", axis_name: Any = ()) -> Any:
    """Return the exact state of arrays as digits, by integer operations on their own devices.

    Parameters
    ----------
    params : jax.Array, tracer, or a pytree of them
        float16, bfloat16, float32, bool and integers of up to 32 bits; sharded in any way.
    select : optional
        As in :func:`fastreg.state`.
    axis_name : str or tuple of str, default ()
        Axes of the mesh over which arrays are cut, within ``shard_map`` or ``pmap``. An array that
        is replicated along one of them counts once, unless ``check_vma=False`` hides that.

    Returns
    -------
    jax.Array of int32, shape (86,)
        What ``fastreg.State.from_digits`` reads: the same state for every sharding. It may be
        summed over up to 2**15 - 1 processes or devices.

    Raises
    ------
    DTypeError
        (a TypeError) For other element types, float64 among them.

    Notes
    -----
    Devices exchange a few hundred bytes; no array is gathered. The array is read once for the
    counts and once for each 16 binades that its elements span, two or three times as a rule: about
    15 ns an element on one core. ``jax_enable_x64`` may be on or off. For :func:`fastreg.State`'s
    faster sums in host memory use :func:`fastreg.state`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpy as np, fastreg
    >>> x = jnp.linspace(-1.0, 1.0, 1000)
    >>> s = fastreg.State.from_digits(np.asarray(jax.jit(fastreg.jax.state)(x)))
    >>> s == fastreg.state(x)
    True
    """
    _, found = choose(params, Request.of(select=select))
    return _summed(arrays_of(found), _axes(axis_name))


def clip_by_exact_norm(max_norm: float, *, axis_name: Any = ()) -> Any:
    """Return an optax transformation that clips updates by their correctly rounded global norm.

    Parameters
    ----------
    max_norm : float, >= 0
    axis_name : str or tuple of str, default ()
        As in :func:`state`.

    Returns
    -------
    optax.GradientTransformation
        In place of ``optax.clip_by_global_norm(max_norm)``: the factor has the same bits for every
        sharding. Updates of a norm that is NaN or infinite are left as they are.

    Examples
    --------
    >>> import jax.numpy as jnp, fastreg, optax
    >>> clip = fastreg.jax.clip_by_exact_norm(2.5)
    >>> grads = {"w": jnp.array([3.0, 4.0])}
    >>> clip.update(grads, clip.init(grads))[0]["w"].tolist()
    [1.5, 2.0]
    """
    import optax

    from fastreg.jax import clip_by_global_norm

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return clip_by_global_norm(updates, max_norm, axis_name=axis_name)[0], state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


# -- Which arrays ----------------------------------------------------------------------------------


def _axes(axis_name: Any) -> tuple[str, ...]:
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name)


def reach(xs: Sequence[Any], axis_name: Any) -> tuple[str, ...] | None:
    """Return the axes to sum over; None where nothing says that arrays are spread over devices."""
    if axis_name is not None:
        return _axes(axis_name)
    fits = all(x.dtype.name in _TYPES for x in xs)
    return () if fits and any(map(_is_spread, xs)) else None


def _is_spread(x: Any) -> bool:
    if not isinstance(x, jax.core.Tracer):
        return not x.is_fully_replicated
    sharding = getattr(jax.typeof(x), "sharding", None)
    return any(part is not None for part in getattr(sharding, "spec", ()))


def _varying(x: Any, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the axes along which an array is cut: all of them where types do not tell."""
    along = _cut(x)
    told = [axis for axis in axes if axis in _cut(jax.lax.axis_index(axis))]
    return tuple(axis for axis in axes if axis in along or axis not in told)


def _cut(x: Any) -> frozenset[str]:
    """Return the manual axes along which the type of an array says that it varies."""
    kind = jax.typeof(x)
    names = getattr(getattr(kind, "manual_axis_type", None), "varying", None)
    return frozenset(getattr(kind, "vma", ()) if names is None else names)


def _summed(xs: Sequence[Any], axes: tuple[str, ...]) -> Any:
    groups: dict[tuple[str, ...], list[Any]] = {}
    for x in xs:
        groups.setdefault(_varying(x, axes), []).append(x)
    out = [summed(digits(some), own) for own, some in groups.items()]
    return sum(out[1:], out[0]) if out else jnp.zeros(LENGTH, jnp.int32)


# -- Values and norms, differentiable --------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _value(xs: Any, l1: Weights, l2: Weights, dtype: str, axes: tuple[str, ...]) -> Any:
    groups: dict[tuple[float, float], list[Any]] = {}
    for x, w1, w2 in zip(xs, l1, l2, strict=True):
        groups.setdefault((w1, w2), []).append(x)
    terms = [(_summed(some, axes), w1, w2) for (w1, w2), some in groups.items()]
    return rounding.value(terms, dtype)


def _value_jvp(
    l1: Weights, l2: Weights, dtype: str, axes: tuple[str, ...], primals: Any, tangents: Any
) -> Any:
    (xs,), (ts,) = primals, tangents
    parts = [
        native.directional((x,), (t,), (w1,), (w2,), jnp.dtype(dtype), 0)
        for x, t, w1, w2 in zip(xs, ts, l1, l2, strict=True)
        if native.is_float(x)
    ]
    return _value(xs, l1, l2, dtype, axes), _along(xs, parts, dtype, axes)


_value.defjvp(_value_jvp)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
@functools.partial(jax.jit, static_argnums=(1, 2))
def _norm(xs: Any, dtype: str, axes: tuple[str, ...]) -> Any:
    return rounding.norm(_summed(xs, axes), dtype)


def _norm_jvp(dtype: str, axes: tuple[str, ...], primals: Any, tangents: Any) -> Any:
    (xs,), (ts,) = primals, tangents
    out = _norm(xs, dtype, axes)
    parts = []
    for x, t in zip(xs, ts, strict=True):
        if native.is_float(x):
            wide = native.work_dtype(x)
            length = jnp.where(out == 0.0, 1.0, out).astype(wide)
            parts.append(jnp.sum(x.astype(wide) / length * t.astype(wide)).astype(dtype))
    return out, _along(xs, parts, dtype, axes)


_norm.defjvp(_norm_jvp)


def _along(xs: Any, parts: list[Any], dtype: str, axes: tuple[str, ...]) -> Any:
    """Add up the parts of a derivative over the axes along which their arrays are cut."""
    floats = [x for x in xs if native.is_float(x)]
    total = jnp.zeros((), dtype)
    for x, part in zip(floats, parts, strict=True):
        total = total + summed(part, _varying(x, axes))
    return total


def penalty_over(
    xs: tuple[Any, ...], l1: Sequence[float], l2: Sequence[float], dtype: Any, axes: tuple[str, ...]
) -> Any:
    """The penalty of arrays that are spread over devices."""
    return _value(xs, tuple(l1), tuple(l2), dtype.name, axes)


def norm_over(xs: tuple[Any, ...], dtype: Any, axes: tuple[str, ...]) -> Any:
    """The norm of arrays that are spread over devices."""
    return _norm(xs, result_of(xs, dtype).name, axes)
