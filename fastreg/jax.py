# SPDX-License-Identifier: BSD-3-Clause
"""JAX: penalties of arrays and tracers, under jit, grad, jvp, vmap, scan and checkpoint.

On the CPU the kernels are handlers of XLA's foreign function interface: they read XLA's own
buffers, write the gradient into XLA's own memory, and run serially on the thread of XLA's pool that
calls them. Values and gradients have the bits that :mod:`fastreg.functional` gives for the same
weights. On every other device, chosen when the program is compiled for it, and wherever the
handlers do not fit the installed jaxlib (:func:`handlers` tells), plain ``jax.numpy`` operations of
the same meaning take their place; :func:`route` forces either.

Arrays that are sharded over several devices by the compiler are gathered for the kernels, as for
every foreign call. Within ``shard_map`` and ``pmap`` each device's part goes to the kernels. Plain
operations are taken for arrays whose type says how they are sharded (explicit sharding) and for
those whose size is unknown while tracing (``jax.export``, Keras' symbolic build).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastreg import _kernels
from fastreg.errors import ArgumentError, DTypeError, message
from fastreg.ndarray import SHORTEST, check_matrix, not_differentiable, weight

__all__ = [
    "GRADIENT_THRESHOLD",
    "gradient",
    "handlers",
    "l2_loss",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "route",
    "value_and_gradient",
]

GRADIENT_THRESHOLD = 1 << 16
"""Largest size whose gradient the kernels compute by default.

XLA computes a larger one on all its threads and fuses it into what follows, such as the optimizer's
step; the kernels are serial there. Jitted value and gradient of L1L2, float32, two cores: with 1024
elements 7 us by the kernels and 16 us by XLA, with 65536 32 and 37, with 1 Mi 515 and 358. Values
take the kernels at every size: with 16 Mi elements 2.5 ms and 11 ms.
"""

_ROUTES = ("auto", "native", "ops")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


# -- Which route -----------------------------------------------------------------------------------


class _Choice(threading.local):
    route = "auto"


_choice = _Choice()


@contextmanager
def route(name: str) -> Iterator[None]:
    """Choose how penalties are computed within a ``with`` block, on the calling thread.

    A jitted function keeps the route that was in force when it was traced.

    Parameters
    ----------
    name : "auto", "native" or "ops"
        ``"native"``: fastreg's kernels on the CPU; other devices take plain operations all the
        same.
        ``"ops"``: plain ``jax.numpy`` operations. ``"auto"``: the kernels for every value and for
        gradients of at most :data:`GRADIENT_THRESHOLD` elements.

    Raises
    ------
    ArgumentError
        For another name, and for ``"native"`` where the handlers do not fit the installed jaxlib.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> with fjax.route("ops"):
    ...     print(fjax.penalty(jnp.array([3.0, -4.0]), l2=0.5))
    12.5
    """
    if name not in _ROUTES:
        raise ArgumentError(
            message(f"a route among {', '.join(_ROUTES)}", repr(name), "pass one of them")
        )
    if name == "native" and handlers() != "registered":
        raise ArgumentError(
            message("handlers that fit the installed jaxlib", handlers(), "take the route 'ops'")
        )
    previous, _choice.route = _choice.route, name
    try:
        yield
    finally:
        _choice.route = previous


@functools.cache
def handlers() -> str:
    """Return "registered" if the kernels serve this jaxlib, otherwise the reason why not.

    The first question registers them with XLA, which checks the interface's version, and tries
    them.

    Examples
    --------
    >>> import fastreg.jax as fjax
    >>> fjax.handlers()
    'registered'
    """
    try:
        for name, capsule in _kernels.xla_handlers().items():
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
        with jax.ensure_compile_time_eval(), jax.default_device(jax.devices("cpu")[0]):
            x = jnp.asarray(np.array([3.0, -4.0], np.float32))
            v = float(_call_value(x, 0.0, 0.5, np.dtype(np.float32), 0))
            g = np.asarray(_call_gradient(x, jnp.float32(1.0), 0.0, 0.5))
        if v != 12.5 or g.tolist() != [3.0, -4.0]:
            return f"a wrong answer of the handlers: {v}, {g.tolist()}"
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return "registered"


def _native(x: Any) -> tuple[bool, bool]:
    """Whether the kernels compute the value, and whether they compute the gradient."""
    if _choice.route == "ops" or not _callable_on(x):
        return False, False
    if _choice.route == "native":
        return True, True
    fit = handlers() == "registered"
    return fit, fit and x.size <= GRADIENT_THRESHOLD


def _callable_on(x: Any) -> bool:
    """Whether a foreign call can stand for operations on x: known extents, none sharded by type."""
    if not all(isinstance(n, int) for n in x.shape):
        return False
    sharding = getattr(_typeof(x), "sharding", None)
    return all(axis is None for axis in getattr(sharding, "spec", ()))


_typeof = getattr(jax, "typeof", lambda x: None)


# -- Leaves: what is computed, by handler or by operations -----------------------------------------
#
# `rank` counts leading axes of x that are batch axes: one penalty is computed for each position
# there.


def _variation(kind: Any) -> dict[str, Any]:
    """What a type says within ``shard_map``: over which devices its value varies."""
    for name in ("manual_axis_type", "vma"):  # by JAX's version
        if varying := getattr(kind, name, None):
            mesh = kind.sharding.mesh
            place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            return {"sharding": place, name: varying}
    return {}


def _result_like(x: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Describe a foreign call's result, which varies over devices as x does."""
    return jax.ShapeDtypeStruct(shape, dtype, **_variation(_typeof(x)))


def _one(x: Any) -> Any:
    """Return 1 as an upstream gradient: of x's type, varying over devices as x does."""
    one = jnp.ones((), x.dtype)
    return one + jnp.sum(jnp.ravel(x)[:0]) if _variation(_typeof(x)) else one


def _call_value(x: Any, l1: float, l2: float, dtype: Any, rank: int) -> Any:
    shape = _result_like(x, x.shape[:rank], dtype)
    call = jax.ffi.ffi_call("fastreg_value", shape, vmap_method="broadcast_all")
    return call(x, l1=np.float64(l1), l2=np.float64(l2))


def _call_gradient(x: Any, u: Any, l1: float, l2: float) -> Any:
    shape = _result_like(x, x.shape, x.dtype)
    call = jax.ffi.ffi_call("fastreg_gradient", shape, vmap_method="broadcast_all")
    return call(x, u, l1=np.float64(l1), l2=np.float64(l2))


def _work_dtype(x: Any) -> Any:
    """The type in which plain operations compute: for integers the widest."""
    narrow = str(x.dtype) in _FLOATS and x.dtype != jnp.float64
    return jax.dtypes.canonicalize_dtype(np.float32 if narrow else np.float64)


def _inner(x: Any, rank: int) -> tuple[int, ...]:
    return tuple(range(rank, x.ndim))


def _ops_value(x: Any, l1: float, l2: float, dtype: Any, rank: int) -> Any:
    wide = x.astype(_work_dtype(x))
    total = jnp.zeros(x.shape[:rank], wide.dtype)
    if l1 != 0.0:
        total = total + l1 * jnp.sum(jnp.abs(wide), axis=_inner(x, rank))
    if l2 != 0.0:
        total = total + l2 * jnp.sum(jnp.square(wide), axis=_inner(x, rank))
    return total.astype(dtype)


def _slope(x: Any, l1: float, l2: float) -> Any:
    """2 l2 x + l1 sign(x), in the type that plain operations compute in."""
    wide = x.astype(_work_dtype(x))
    slope = jnp.zeros_like(wide)
    if l2 != 0.0:
        slope = slope + (2.0 * l2) * wide
    if l1 != 0.0:
        slope = slope + l1 * jnp.sign(wide)
    return slope


def _spread(u: Any, x: Any, dtype: Any) -> Any:
    """Give u, which has x's leading axes, x's rank."""
    return u.astype(dtype).reshape(u.shape + (1,) * (x.ndim - u.ndim))


def _ops_gradient(x: Any, u: Any, l1: float, l2: float) -> Any:
    slope = _slope(x, l1, l2)
    return (_spread(u, x, slope.dtype) * slope).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _value(x: Any, l1: float, l2: float, dtype: Any, rank: int, native: bool) -> Any:
    if not native:
        return _ops_value(x, l1, l2, dtype, rank)
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: _call_value(x, l1, l2, dtype, rank),
        default=lambda x: _ops_value(x, l1, l2, dtype, rank),
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _gradient(x: Any, u: Any, l1: float, l2: float, native: bool) -> Any:
    """The gradient of the penalty times u; linear in u, differentiable in both."""
    if not native:
        return _ops_gradient(x, u, l1, l2)
    return jax.lax.platform_dependent(
        x,
        u,
        cpu=lambda x, u: _call_gradient(x, u, l1, l2),
        default=lambda x, u: _ops_gradient(x, u, l1, l2),
    )


def _gradient_jvp(l1: float, l2: float, native: bool, primals: Any, tangents: Any) -> Any:
    x, u = primals
    dx, du = tangents
    slope = _slope(x, l1, l2)
    along_x = (2.0 * l2) * _spread(u, x, slope.dtype) * dx.astype(slope.dtype)
    along_u = slope * _spread(du, x, slope.dtype)
    return _gradient(x, u, l1, l2, native), (along_x + along_u).astype(x.dtype)


_gradient.defjvp(_gradient_jvp)


# -- The directional derivative --------------------------------------------------------------------
#
# sum(slope(x) * t), linear in t. Forward mode computes just that. Its transpose, which is what
# reverse mode asks for, is the gradient by the kernels: a plain product would make XLA store the
# slope and multiply it, with other bits. JAX has no public way to give a linear function a
# transpose of its own that vmap also understands, hence a primitive; where that cannot be made, the
# plain product serves.


def _ops_directional(x: Any, t: Any, l1: float, l2: float, dtype: Any, rank: int) -> Any:
    slope = _slope(x, l1, l2)
    return jnp.sum(slope * t.astype(slope.dtype), axis=_inner(x, rank)).astype(dtype)


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

    def plain(x: Any, t: Any, *, native: bool, **weights: Any) -> Any:
        return _ops_directional(x, t, **weights)

    def abstract(x: Any, t: Any, *, dtype: Any, rank: int, **_: Any) -> Any:
        return shaped(x.shape[:rank], dtype, **_variation(x))

    def jvp(primals: Any, tangents: Any, **p: Any) -> Any:
        x, t = primals
        dx, dt = tangents
        out = primitive.bind(x, t, **p)
        parts = []
        if type(dx) is not zero:
            wide = _work_dtype(x)
            product = (2.0 * p["l2"]) * dx.astype(wide) * t.astype(wide)
            parts.append(jnp.sum(product, axis=_inner(x, p["rank"])).astype(p["dtype"]))
        if type(dt) is not zero:
            parts.append(primitive.bind(x, dt, **p))
        return out, sum(parts[1:], parts[0])

    def transpose(ct: Any, x: Any, t: Any, *, l1: float, l2: float, native: bool, **_: Any) -> Any:
        if not undefined(t) or undefined(x):
            raise NotImplementedError("fastreg's directional derivative is linear in t only")
        if type(ct) is zero:
            return [None, zero(t.aval)]
        return [None, _gradient(x, ct, l1, l2, native)]

    def batch(args: Any, dims: Any, *, rank: int, **p: Any) -> Any:
        size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        front = [
            jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
            for a, d in zip(args, dims, strict=True)
        ]
        return primitive.bind(*front, rank=rank + 1, **p), 0

    primitive.def_impl(jax.jit(plain, static_argnames=("l1", "l2", "dtype", "rank", "native")))
    primitive.def_abstract_eval(abstract)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    return primitive


_directional = _make_directional()


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _penalty(x: Any, l1: float, l2: float, dtype: Any, native: tuple[bool, bool]) -> Any:
    return _value(x, l1, l2, dtype, 0, native[0])


def _penalty_jvp(
    l1: float, l2: float, dtype: Any, native: tuple[bool, bool], primals: Any, tangents: Any
) -> Any:
    (x,), (t,) = primals, tangents
    if _directional is None or not _callable_on(x):
        along = _ops_directional(x, t, l1, l2, dtype, 0)
    else:
        along = _directional.bind(x, t, l1=l1, l2=l2, dtype=dtype, rank=0, native=native[1])
    return _penalty(x, l1, l2, dtype, native), along


_penalty.defjvp(_penalty_jvp)


# -- Arguments -------------------------------------------------------------------------------------


def _array(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        if isinstance(x, (str, bytes)) or x is None or not hasattr(x, "dtype"):
            raise DTypeError(
                message(
                    "a JAX array, a tracer, an ndarray or a Keras variable",
                    f"an object of class {type(x).__name__}",
                    "convert it, for example with jax.numpy.asarray(x)",
                )
            )
        try:
            x = jnp.asarray(x)
        except Exception as e:
            what = f"{x.dtype} ({str(e).splitlines()[0]})"
            raise DTypeError(message("an array of numbers", what, "convert it first")) from None
    name = str(x.dtype)
    kind = getattr(x.dtype, "kind", "")  # types of keys have none
    if name not in _FLOATS and not (kind in tuple("biu") and x.dtype.itemsize <= 8):
        raise DTypeError(
            message(
                "elements of type float16, bfloat16, float32, float64, bool or an integer type",
                name,
                "convert the array, for example with x.astype('float32')",
            )
        )
    if name in ("int2", "int4", "uint2", "uint4", "int1", "uint1"):
        x = x.astype(jnp.int8 if name.startswith("i") else jnp.uint8)
    return x


def _is_tree(x: Any) -> bool:
    """Whether x is a container that JAX knows, and no array (which sparse ones are, too)."""
    return not (x is None or hasattr(x, "dtype") or jax.tree_util.all_leaves([x]))


def _weight(name: str, w: Any) -> float:
    if isinstance(w, jax.core.Tracer):
        raise DTypeError(
            message(
                f"a number as weight {name}, known while tracing",
                "a traced value",
                "multiply the penalty of weight 1 by it, or mark the argument static",
            )
        )
    return weight(name, w)


def _result_dtype(x: Any, dtype: Any) -> Any:
    if dtype is None:
        name = str(x.dtype) if str(x.dtype) in _FLOATS else "float64"
    else:
        try:
            name = str(jnp.dtype(dtype))
        except TypeError:
            name = str(dtype).rpartition(".")[2]
        if name not in _FLOATS:
            raise DTypeError(
                message(
                    "a result dtype among float16, bfloat16, float32, float64",
                    repr(dtype),
                    "leave dtype out for the array's own type",
                )
            )
    return jax.dtypes.canonicalize_dtype(jnp.dtype(name))


# -- Public verbs ----------------------------------------------------------------------------------


def penalty(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as a differentiable scalar array.

    Parameters
    ----------
    x : jax.Array, tracer, ndarray, KerasVariable, or a pytree of them
        float16, bfloat16, float32 or float64, any shape. bool and integers have a value and no
        gradient. A pytree (lists, tuples, dicts and every registered class, nested or not) gives
        the sum of its leaves' penalties, each rounded to the result's type.
    l1, l2 : float, default 0.0
        Weights, finite and >= 0, known while tracing. A weight of 0 removes its term.
    dtype : dtype, optional
        Type of the result: x's own by default, for a pytree what JAX promotes to, float64 for
        integers. Without ``jax_enable_x64`` float64 means float32, as everywhere in JAX.

    Returns
    -------
    jax.Array, shape ()
        With the kernels the exact number, rounded once. Its gradient ``u * (2*l2*x + l1*sign(x))``
        has x's dtype, is 0 for the L1 term at ±0 and NaN at NaN; forward mode, reverse mode and
        their compositions (``jax.hessian``) work.

    Raises
    ------
    DTypeError (a TypeError)
        For complex, float8 and other element types, for objects that are no arrays, for a
        traced weight.
    ArgumentError (a ValueError)
        For a negative or non-finite weight.

    Notes
    -----
    NaN in x gives NaN, otherwise an infinity gives +inf; no elements give 0. Nothing is copied;
    the gradient is the only memory taken. The kernels run serially inside XLA's pool.

    The same as ``keras.regularizers.L1L2(l1, l2)(x)`` on JAX, which gives the L1 term's gradient
    at 0 as +l1 (here 0, as TensorFlow and torch have it), at NaN as -l1 (here NaN), and 0 for
    integers.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> x = jnp.array([1.0, -2.0, 0.0])
    >>> v, g = jax.value_and_grad(lambda x: fjax.penalty(x, l1=0.5, l2=0.25))(x)
    >>> float(v), g.tolist()
    (2.75, [1.0, -1.5, 0.0])
    """
    w1, w2 = _weight("l1", l1), _weight("l2", l2)
    if _is_tree(x):
        leaves = [penalty(e, l1=w1, l2=w2, dtype=dtype) for e in jax.tree.leaves(x)]
        if not leaves:
            return jnp.zeros((), _result_dtype(np.float32(0), dtype))
        return sum(leaves[1:], leaves[0])
    x = _array(x)
    result = _result_dtype(x, dtype)
    native = _native(x)
    if not isinstance(x, jax.core.Tracer) or str(x.dtype) not in _FLOATS:
        return _value(x, w1, w2, result, 0, native[0])  # nothing can be differentiated here
    return _penalty(x, w1, w2, result, native)


def l2_loss(x: Any, *, dtype: Any = None) -> Any:
    """Return ``sum(x**2) / 2``, as ``optax.l2_loss(x).sum()`` does; its gradient is exactly u*x.

    Parameters and result as in :func:`penalty`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> float(fjax.l2_loss(jnp.array([3.0, 4.0])))
    12.5
    """
    return penalty(x, l2=0.5, dtype=dtype)


def gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Return ``2*l2*x + l1*sign(x)``: the gradient of :func:`penalty`, cut off from x.

    Parameters
    ----------
    x, l1, l2
        One array of a float type and its weights, as in :func:`penalty`.

    Returns
    -------
    jax.Array
        Of x's shape and dtype.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> fjax.gradient(jnp.array([1.0, -2.0, 0.0]), l1=0.5, l2=0.25).tolist()
    [1.0, -1.5, 0.0]
    """
    x = jax.lax.stop_gradient(_array(x))
    if str(x.dtype) not in _FLOATS:
        raise not_differentiable(str(x.dtype), "x.astype('float32')")
    return _gradient(x, _one(x), _weight("l1", l1), _weight("l2", l2), _native(x)[1])


def value_and_gradient(
    x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None
) -> tuple[Any, Any]:
    """Return the penalty and its gradient, both cut off from x.

    Parameters
    ----------
    x, l1, l2, dtype
        One array of a float type, its weights and the type of the value, as in :func:`penalty`.

    Returns
    -------
    value : jax.Array, shape ()
    gradient : jax.Array
        Of x's shape and dtype.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> v, g = fjax.value_and_gradient(jnp.array([3.0, -4.0]), l2=0.5)
    >>> float(v), g.tolist()
    (12.5, [3.0, -4.0])
    """
    g = gradient(x, l1=l1, l2=l2)
    return jax.lax.stop_gradient(penalty(_array(x), l1=l1, l2=l2, dtype=dtype)), g


def orthogonal(x: Any, *, factor: float, rows: bool = True, dtype: Any = None) -> Any:
    """Return ``factor`` times the mean absolute cosine between the rows of a matrix.

    Parameters
    ----------
    x : jax.Array, shape (m, n)
        Of a float type, or of integers, which have no gradient.
    factor : float
        Finite and >= 0.
    rows : bool, default True
        False for columns.
    dtype : dtype, optional
        Type of the result; x's own by default.

    Returns
    -------
    jax.Array, shape ()
        Differentiable. 0 for fewer than two rows, and with factor 0 whatever x holds.

    Raises
    ------
    DTypeError (a TypeError)
        For other element types.
    LayoutError (a ValueError)
        If x is not a matrix.

    Notes
    -----
    Plain ``jax.numpy`` operations on every device. Squared norms below 1e-14 count as 1e-14, as in
    ``keras.regularizers.OrthogonalRegularizer``, which gives NaN for one row. Half precision
    computes in float32.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> round(float(fjax.orthogonal(jnp.array([[1.0, 0.0], [3.0, 4.0]]), factor=0.5)), 6)
    0.3
    """
    x = _array(x)
    result = _result_dtype(x, dtype)
    factor = _weight("factor", factor)
    check_matrix(x.shape, factor)
    wide = x.astype(_work_dtype(x))
    if factor == 0.0:
        return jnp.sum(wide[:0]).astype(result)
    wide = wide if rows else wide.T
    # The largest element of each row is taken out first, so that no square overflows.
    scale = jnp.maximum(jnp.max(jnp.abs(wide), axis=1, keepdims=True, initial=0.0), SHORTEST)
    scale = jax.lax.stop_gradient(scale)
    parts = wide / scale
    squares = jnp.sum(jnp.square(parts), axis=1, keepdims=True)
    unit = parts * jax.lax.rsqrt(jnp.maximum(squares, jnp.square(SHORTEST / scale)))
    cosines = jnp.matmul(unit, unit.T, precision="highest")
    n = cosines.shape[0]
    cosines = cosines * (1 - jnp.eye(n, dtype=wide.dtype))
    pairs = jax.core.max_dim(n * (n - 1), 1)  # n may be a size unknown while tracing
    total = factor * jnp.sum(jnp.abs(cosines)) / pairs
    return total.astype(result)


def orthogonal_value_and_gradient(
    x: Any, *, factor: float, rows: bool = True, dtype: Any = None
) -> tuple[Any, Any]:
    """Return :func:`orthogonal` and its gradient, both cut off from x.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> v, g = fjax.orthogonal_value_and_gradient(jnp.eye(3), factor=0.5)
    >>> float(v), g.shape
    (0.0, (3, 3))
    """
    x = jax.lax.stop_gradient(_array(x))
    if str(x.dtype) not in _FLOATS:
        raise not_differentiable(str(x.dtype), "x.astype('float32')")

    def value(x: Any) -> Any:
        return orthogonal(x, factor=factor, rows=rows, dtype=dtype)

    v, g = jax.value_and_grad(value)(x)
    return jax.lax.stop_gradient(v), jax.lax.stop_gradient(g)
