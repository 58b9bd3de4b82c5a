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
from fastreg.jax._operations import Weights, full_shape

__all__ = ["alike", "call_gradient", "call_value", "handlers", "is_callable_on", "one", "variation"]


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
    shape = _result_like(xs[0], (), dtype)
    call = jax.ffi.ffi_call("fastreg_value", shape, vmap_method="expand_dims")
    return call(*xs, **_attributes(l1, l2))


def call_gradient(xs: Any, u: Any, l1: Weights, l2: Weights) -> Any:
    """The gradients of a list's penalty times u."""
    shapes = tuple(_result_like(x, full_shape(x, u), x.dtype) for x in xs)
    call = jax.ffi.ffi_call("fastreg_gradient", shapes, vmap_method="expand_dims")
    return tuple(call(*xs, u, **_attributes(l1, l2)))


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
