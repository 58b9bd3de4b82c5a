# SPDX-License-Identifier: BSD-3-Clause
"""The penalty of a list of arrays as JAX's transformations see it.

Value and gradients are each a kernel's call or JAX's operations, chosen for the device when the
program is compiled; here are their derivatives, batches and transposes. What is computed, and the
words ``xs``, ``l1``, ``l2`` and ``rank``, are those of :mod:`fastreg.jax._operations`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastreg.jax import _operations as native
from fastreg.jax._ffi import (
    alike,
    call_gradient,
    call_value,
    is_callable_on,
    one,
    over_batch,
    unless_exported,
    variation,
)
from fastreg.jax._operations import Weights, picked
from fastreg.jax._routes import kernels_for

__all__ = ["gradients", "norm", "penalty"]


# -- Values and gradients --------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _value(xs: Any, l1: Weights, l2: Weights, dtype: Any, kernels: bool) -> Any:
    if not kernels:
        return native.value(xs, l1, l2, dtype)
    return jax.lax.platform_dependent(
        *xs,
        cpu=lambda *xs: call_value(xs, l1, l2, dtype),
        default=lambda *xs: native.value(xs, l1, l2, dtype),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _gradient(xs: Any, u: Any, l1: Weights, l2: Weights, kernels: tuple[bool, ...]) -> Any:
    """The gradients of the penalty times u; linear in u, differentiable in all.

    ``kernels`` says of each array whether they compute it, which is one call for all of them.
    """
    out = [None] * len(xs)
    for ours, function in ((True, _either_gradient), (False, native.gradient)):
        if chosen := [k for k, n in enumerate(kernels) if n is ours]:
            some, w1, w2 = picked(chosen, xs, l1, l2)
            for k, g in zip(chosen, function(some, u, w1, w2), strict=True):
                out[k] = g
    return tuple(out)


def _either_gradient(xs: Any, u: Any, l1: Weights, l2: Weights) -> Any:
    return jax.lax.platform_dependent(
        *xs,
        u,
        cpu=lambda *a: call_gradient(a[:-1], a[-1], l1, l2),
        default=lambda *a: native.gradient(a[:-1], a[-1], l1, l2),
    )


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _gradient_jvp(
    l1: Weights, l2: Weights, kernels: tuple[bool, ...], primals: Any, tangents: Any
) -> Any:
    xs, u = primals
    dxs, du = tangents
    along = []
    for x, dx, w1, w2 in zip(xs, dxs, l1, l2, strict=True):
        wide = native.work_dtype(x)
        total = jnp.zeros((), wide)
        if not _is_zero(dx) and w2 != 0.0:
            total = total + (2.0 * w2) * native.spread(u, x).astype(wide) * dx.astype(wide)
        if not _is_zero(du):
            total = total + native.slope(x, w1, w2) * native.spread(du, x).astype(wide)
        along.append(jnp.broadcast_to(total, native.full_shape(x, u)).astype(x.dtype))
    return _gradient(xs, u, l1, l2, kernels), tuple(along)


_gradient.defjvp(_gradient_jvp, symbolic_zeros=True)


# -- The directional derivative --------------------------------------------------------------------
#
# sum(slope(x) * t) over all arrays, linear in the t. Forward mode computes just that. Its
# transpose, which is what reverse mode asks for, is the gradients by the kernels: an ordinary
# product would make XLA store the slope and multiply it, with other bits. JAX has no public way to
# give a linear function a transpose of its own that vmap also understands, hence a primitive; where
# that cannot be made, the ordinary product serves.


def _make_directional() -> Any:
    """Return the primitive, or None where this JAX has not what it needs."""
    try:
        from jax.extend.core import Primitive
        from jax.interpreters import ad, batching, mlir

        primitive = Primitive("fastreg_directional")
        shaped = jax.core.ShapedArray
        zero, undefined = ad.Zero, ad.is_undefined_primal
    except (ImportError, AttributeError):
        return None

    # The arguments: all xs, then as many ts, which have the batch's full extents.

    def halves(args: Any) -> tuple[Any, Any]:
        return args[: len(args) // 2], args[len(args) // 2 :]

    def bind(xs: Any, ts: Any, which: Sequence[int], p: dict[str, Any]) -> Any:
        xs, ts, l1, l2, kernels = picked(which, xs, ts, p["l1"], p["l2"], p["kernels"])
        return primitive.bind(*xs, *ts, **{**p, "l1": l1, "l2": l2, "kernels": kernels})

    def operations(*args: Any, kernels: Any, **weights: Any) -> Any:
        return native.directional(*halves(args), **weights)

    def abstract(*args: Any, dtype: Any, rank: int, **_: Any) -> Any:
        return shaped(args[-1].shape[:rank], dtype, **variation(args[0]))

    def jvp(primals: Any, tangents: Any, **p: Any) -> Any:
        (xs, ts), (dxs, dts) = halves(primals), halves(tangents)
        out = primitive.bind(*primals, **p)
        moved = [k for k, dx in enumerate(dxs) if type(dx) is not zero]
        parts, sums = [], []
        for k in moved:
            wide = native.work_dtype(xs[k])
            product = (2.0 * p["l2"][k]) * dxs[k].astype(wide) * ts[k].astype(wide)
            sums.append(jnp.sum(product, axis=native.inner_axes(xs[k], p["rank"])))
        if sums:
            total = native.add(sums, picked(moved, xs)[0], p["rank"])
            parts.append(total.astype(p["dtype"]))
        if turned := [k for k, dt in enumerate(dts) if type(dt) is not zero]:
            parts.append(bind(xs, dts, turned, p))
        return out, sum(parts[1:], parts[0])

    def transpose(ct: Any, *args: Any, l1: Any, l2: Any, kernels: Any, **_: Any) -> Any:
        xs, ts = halves(args)
        wanted = [k for k, t in enumerate(ts) if undefined(t)]
        if not wanted or any(map(undefined, xs)):
            raise NotImplementedError("fastreg's directional derivative is linear in t only")
        out = [None] * len(args)
        if type(ct) is zero:
            for k in wanted:
                out[len(xs) + k] = zero(ts[k].aval)
            return out
        some, w1, w2, which = picked(wanted, xs, l1, l2, kernels)
        for k, g in zip(wanted, _gradient(some, ct, w1, w2, which), strict=True):
            out[len(xs) + k] = g
        return out

    def batch(args: Any, dims: Any, *, rank: int, **p: Any) -> Any:
        size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        front = [
            a[None] if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)
        ]
        xs, ts = halves(front)
        ts = [jnp.broadcast_to(t, (size, *t.shape[1:])) for t in ts]
        return primitive.bind(*xs, *ts, rank=rank + 1, **p), 0

    primitive.def_impl(
        jax.jit(operations, static_argnames=("l1", "l2", "dtype", "rank", "kernels"))
    )
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(operations, multiple_results=False))
    return primitive


_directional = _make_directional()


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _penalty(
    xs: Any, l1: Weights, l2: Weights, dtype: Any, kernels: tuple[bool, tuple[bool, ...]]
) -> Any:
    return _value(xs, l1, l2, dtype, kernels[0])


def _penalty_jvp(
    l1: Weights,
    l2: Weights,
    dtype: Any,
    kernels: tuple[bool, tuple[bool, ...]],
    primals: Any,
    tangents: Any,
) -> Any:
    (xs,), (ts,) = primals, tangents
    value = _penalty(xs, l1, l2, dtype, kernels)
    turned = [k for k, t in enumerate(ts) if not _is_zero(t)]
    if not turned:
        return value, jnp.zeros_like(value)
    some, ts, w1, w2, which = picked(turned, xs, ts, l1, l2, kernels[1])
    if _directional is None or not all(map(is_callable_on, some)):
        return value, native.directional(some, ts, w1, w2, dtype, 0)
    along = _directional.bind(*some, *ts, l1=w1, l2=w2, dtype=dtype, rank=0, kernels=which)
    return value, along


_penalty.defjvp(_penalty_jvp, symbolic_zeros=True)


# -- The norm --------------------------------------------------------------------------------------

# Weights with which the sum of squares neither overflows nor falls among the subnormals, where it
# would with 1: even powers of two, for sums above and below the range in which 1 serves. Twice the
# exponent of the largest number, and a few for how many there are, must fit; so must twice that of
# the smallest normal number.
_RANGES = {
    "float32": (2.0**-80, 2.0**-130, 2.0**200),
    "float64": (2.0**-900, 2.0**-1040, 2.0**1022),
}


def _kernel_norm(xs: Any, dtype: Any) -> Any:
    """The root of the exact sum of squares, rounded to the widest type at hand and rooted there."""
    wide = native.canonical("float64")
    none = (0.0,) * len(xs)

    def root(weight: float) -> Any:
        total = call_value(xs, none, (weight,) * len(xs), wide)
        return jnp.sqrt(total) * weight**-0.5

    total = call_value(xs, none, (1.0,) * len(xs), wide)
    least, down, up = _RANGES[wide.name]
    if wide.name == "float64" and not any(x.dtype == wide for x in xs):
        return jnp.sqrt(total).astype(dtype)
    out = jax.lax.cond(
        (total >= least) & (total < jnp.inf),
        lambda: jnp.sqrt(total),
        lambda: jax.lax.cond(total < least, lambda: root(up), lambda: root(down)),
    )
    return out.astype(dtype)


def _kernel_norms(*xs: Any, dtype: Any, rank: int) -> Any:
    return [over_batch(lambda *xs: _kernel_norm(xs, dtype), xs, rank)]


def _native_norms(*xs: Any, dtype: Any, rank: int) -> Any:
    return [over_batch(lambda *xs: native.norm(xs, dtype), xs, rank)]


_norm_primitive = unless_exported("fastreg_norm", _kernel_norms, _native_norms, "dtype", "rank")


@functools.partial(jax.jit, static_argnums=(1, 2))
def _norm_of(xs: Any, dtype: Any, kernels: bool) -> Any:
    if not kernels:
        return native.norm(xs, dtype)
    return jax.lax.platform_dependent(
        *xs,
        cpu=lambda *xs: (
            _norm_primitive.bind(*xs, dtype=dtype, rank=0)[0]
            if _norm_primitive is not None
            else _kernel_norm(xs, dtype)
        ),
        default=lambda *xs: native.norm(xs, dtype),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _norm(xs: Any, dtype: Any, kernels: bool) -> Any:
    return _norm_of(xs, dtype, kernels)


def _norm_jvp(dtype: Any, kernels: bool, primals: Any, tangents: Any) -> Any:
    (xs,), (ts,) = primals, tangents
    value = _norm(xs, dtype, kernels)
    turned = [k for k, t in enumerate(ts) if not _is_zero(t)]
    some, ts = picked(turned, xs, ts)
    parts = []
    for x, t in zip(some, ts, strict=True):
        wide = native.work_dtype(x)
        length = value.astype(wide)
        unit = x.astype(wide) / jnp.where(length == 0.0, 1.0, length).astype(wide)
        parts.append(jnp.sum(unit * t.astype(wide)))
    return value, native.add(parts, some, 0).astype(dtype)


_norm.defjvp(_norm_jvp, symbolic_zeros=True)


# -- For the public functions ----------------------------------------------------------------------


def penalty(xs: tuple[Any, ...], l1: Weights, l2: Weights, result: np.dtype[Any]) -> Any:
    """The penalty of a list: one call for all whose weights are not 0."""
    if len(xs) > 1:
        inside = [k for k in range(len(xs)) if l1[k] != 0.0 or l2[k] != 0.0]
        xs, l1, l2 = picked(inside, xs, l1, l2)
    if not xs:
        return jnp.zeros((), result)
    kernels = kernels_for(xs)
    if not any(isinstance(x, jax.core.Tracer) and native.is_float(x) for x in xs):
        return _value(alike(xs), l1, l2, result, kernels[0])  # nothing to differentiate here
    return _penalty(alike(xs), l1, l2, result, kernels)


def gradients(xs: tuple[Any, ...], u: Any, l1: Weights, l2: Weights) -> tuple[Any, ...]:
    """The gradients of a list of floats, cut off from them, times a float or 0-d array u."""
    if not xs:
        return ()
    xs = alike(tuple(map(jax.lax.stop_gradient, xs)))
    unit = one(xs[0])
    if isinstance(u, float):
        u, l1, l2 = _folded(u, l1, l2)
        if abs(u) != 1.0:
            unit = unit.astype(native.canonical("float64"))
    else:
        u = jax.lax.stop_gradient(u)
        unit = unit.astype(native.work_dtype(u))
    plain = isinstance(u, float) and u == 1.0  # a product costs an operation
    factor = unit if plain else unit * jnp.asarray(u, unit.dtype)
    return tuple(_gradient(xs, factor, l1, l2, kernels_for(xs)[1]))


def _folded(u: float, l1: Weights, l2: Weights) -> tuple[float, Weights, Weights]:
    """Move a factor into the weights, whose products with it are float64 numbers anyway.

    An array cannot hold it without ``jax_enable_x64``. A factor of 0 stays, and so does one with
    which a product would overflow or vanish: a weight of 0 would remove its term.
    """
    size = abs(u)
    w1, w2 = (tuple(w * size for w in weights) for weights in (l1, l2))
    if 0.0 < size < math.inf and all(
        a < math.inf and (b > 0.0) == (a > 0.0) for a, b in zip(w1 + w2, l1 + l2, strict=True)
    ):
        return math.copysign(1.0, u), w1, w2
    return u, l1, l2


def norm(xs: tuple[Any, ...], result: np.dtype[Any]) -> Any:
    """The Euclidean norm of a list."""
    if not xs:
        return jnp.zeros((), result)
    return _norm(alike(xs), result, kernels_for(xs)[0])
