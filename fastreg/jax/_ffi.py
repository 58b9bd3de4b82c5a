# SPDX-License-Identifier: BSD-3-Clause
"""The kernels as foreign calls of XLA, on the CPU.

The handlers read XLA's own buffers, write the gradient into XLA's own memory, and run serially on
the thread of XLA's pool that calls them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastreg import _kernels
from fastreg.jax import _operations as native
from fastreg.jax._operations import Weights

__all__ = [
    "alike",
    "call_gradient",
    "call_value",
    "handlers",
    "is_callable_on",
    "one",
    "over_batch",
    "unless_exported",
    "variation",
]


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
            weights = (0.0, 0.0), (0.5, 0.25)
            v = float(call_value((x, x), *weights, np.dtype(np.float32)))
            g = [e.tolist() for e in call_gradient((x, x), jnp.float32(1.0), *weights)]
        if v != 18.75 or g != [[3.0, -4.0], [1.5, -2.0]]:
            return f"a wrong answer of the handlers: {v}, {g}"
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return "registered"


def call_value(xs: Any, l1: Weights, l2: Weights, dtype: Any) -> Any:
    """The penalty of a list, exact and rounded once to dtype."""
    call = _value if _value_primitive is None else _value_primitive.bind
    return call(*xs, l1=l1, l2=l2, dtype=dtype, rank=0)[0]


def call_gradient(xs: Any, u: Any, l1: Weights, l2: Weights) -> Any:
    """The gradients of a list's penalty times u."""
    call = _gradient if _gradient_primitive is None else _gradient_primitive.bind
    return tuple(call(*xs, u, l1=l1, l2=l2, rank=u.ndim))


def _value(*xs: Any, l1: Weights, l2: Weights, dtype: Any, rank: int) -> Any:
    shape = _result_like(xs[0], _batch(xs, rank), dtype)
    call = jax.ffi.ffi_call("fastreg_value", shape, vmap_method="expand_dims")
    return [call(*xs, **_attributes(l1, l2))]


def _native_value(*xs: Any, l1: Weights, l2: Weights, dtype: Any, rank: int) -> Any:
    return [over_batch(lambda *xs: native.value(xs, l1, l2, dtype), xs, rank)]


def over_batch(function: Any, args: Any, rank: int) -> Any:
    """Call a function of single examples at every position of the batch."""
    if rank == 0:
        return function(*args)
    same = not _is_one(_batch(args, rank)[0])
    axes = tuple(None if same and _is_one(a.shape[0]) else 0 for a in args)
    args = [a[0] if axis is None else a for a, axis in zip(args, axes, strict=True)]
    return jax.vmap(lambda *args: over_batch(function, args, rank - 1), in_axes=axes)(*args)


def _gradient(*xs_and_u: Any, l1: Weights, l2: Weights, rank: int) -> Any:
    *xs, u = xs_and_u
    batch = _batch(xs_and_u, rank)
    shapes = tuple(_result_like(x, (*batch, *x.shape[rank:]), x.dtype) for x in xs)
    call = jax.ffi.ffi_call("fastreg_gradient", shapes, vmap_method="expand_dims")
    return call(*xs, u, **_attributes(l1, l2))


def _native_gradient(*xs_and_u: Any, l1: Weights, l2: Weights, rank: int) -> Any:
    *xs, u = _spread(xs_and_u, rank)
    return native.gradient(xs, u, l1, l2)


def _batch(args: Any, rank: int) -> tuple[int, ...]:
    """The extents of the batch: an argument that is the same at every position has 1."""
    return tuple(
        next((a.shape[k] for a in args if not _is_one(a.shape[k])), 1) for k in range(rank)
    )


def _is_one(extent: Any) -> bool:
    return isinstance(extent, int) and extent == 1  # and not a size unknown while tracing


def _spread(args: Any, rank: int) -> list[Any]:
    batch = _batch(args, rank)
    return [jnp.broadcast_to(a, (*batch, *a.shape[rank:])) for a in args]


def unless_exported(name: str, call: Any, operations: Any, *static: str) -> Any:
    """Return a primitive for a foreign call, or None where this JAX has not what it needs.

    Another process that runs an exported program has no handlers, so JAX's own operations stand
    there. Which program is for export is only known when it is lowered. The leading `rank` axes of
    all arguments are batch axes; `static` names the parameters.
    """
    try:
        from jax.extend.core import Primitive
        from jax.interpreters import batching, mlir

        primitive = Primitive(name)
        shaped = jax.core.ShapedArray
    except (ImportError, AttributeError):
        return None

    def abstract(*args: Any, rank: int, dtype: Any = None, **_: Any) -> Any:
        batch, varies = _batch(args, rank), variation(args[0])
        if dtype is not None:
            return [shaped(batch, dtype, **varies)]
        return [shaped((*batch, *x.shape[rank:]), x.dtype, **varies) for x in args[:-1]]

    def batched(args: Any, dims: Any, *, rank: int, **p: Any) -> Any:
        front = [
            a[None] if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)
        ]
        out = primitive.bind(*front, rank=rank + 1, **p)
        return out, [0] * len(out)

    def lowered(ctx: Any, *args: Any, **p: Any) -> Any:
        parameters = getattr(ctx.module_context, "lowering_parameters", None)
        chosen = operations if getattr(parameters, "for_export", False) else call
        return mlir.lower_fun(chosen, multiple_results=True)(ctx, *args, **p)

    primitive.multiple_results = True
    primitive.def_impl(jax.jit(call, static_argnames=static))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, lowered)
    return primitive


_value_primitive = unless_exported(
    "fastreg_value", _value, _native_value, "l1", "l2", "dtype", "rank"
)
_gradient_primitive = unless_exported(
    "fastreg_gradient", _gradient, _native_gradient, "l1", "l2", "rank"
)


def _attributes(l1: Weights, l2: Weights) -> dict[str, Any]:
    return {"l1": np.array(l1, np.float64), "l2": np.array(l2, np.float64)}


# -- What types say of devices ---------------------------------------------------------------------

_typeof = getattr(jax, "typeof", lambda x: None)


def is_callable_on(x: Any) -> bool:
    """Whether a foreign call can stand for operations on x: known extents, none sharded by type."""
    if not all(isinstance(n, int) for n in x.shape):
        return False
    sharding = getattr(_typeof(x), "sharding", None)
    return all(axis is None for axis in getattr(sharding, "spec", ()))


def variation(kind: Any) -> dict[str, Any]:
    """What a type says within ``shard_map``: over which devices its value varies."""
    for name in ("manual_axis_type", "vma"):  # by JAX's version
        if varying := getattr(kind, name, None):
            mesh = kind.sharding.mesh
            place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            return {"sharding": place, name: varying}
    return {}


def _result_like(x: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Describe a foreign call's result, which varies over devices as x does."""
    return jax.ShapeDtypeStruct(shape, dtype, **variation(_typeof(x)))


def _varying(x: Any) -> frozenset[str]:
    """The names of the device axes over which x varies within ``shard_map``."""
    kind = _typeof(x)
    names = getattr(getattr(kind, "manual_axis_type", None), "varying", None)
    return frozenset(getattr(kind, "vma", ()) if names is None else names)


def alike(xs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let all arrays vary over the same devices, as foreign calls want their arguments."""
    if len(xs) == 1:
        return xs
    over = [_varying(x) for x in xs]
    union: frozenset[str] = frozenset().union(*over)
    return tuple(
        x if names == union else _vary(x, tuple(sorted(union - names)))
        for x, names in zip(xs, over, strict=True)
    )


def _vary(x: Any, names: tuple[str, ...]) -> Any:
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, names, to="varying")
    return jax.lax.pvary(x, names)


def one(x: Any) -> Any:
    """Return 1 as an upstream gradient: of x's type, varying over devices as x does."""
    unit = jnp.ones((), x.dtype)
    return unit + jnp.sum(jnp.ravel(x)[:0]) if variation(_typeof(x)) else unit
