# SPDX-License-Identifier: BSD-3-Clause
"""Which way a penalty of JAX's arrays is computed: by the kernels or by JAX's own operations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from fastreg._core.routes import Route
from fastreg.errors import ArgumentError, message
from fastreg.jax._ffi import handlers, is_callable_on

__all__ = ["GRADIENT_THRESHOLD", "kernels_for", "route"]

GRADIENT_THRESHOLD = 1 << 16
"""Largest size whose gradient the kernels compute by default.

XLA computes a larger one on all its threads and fuses it into what follows, such as the optimizer's
step; the kernels are serial there. Jitted value and gradient of L1L2, float32, two cores: with 1024
elements 7 us by the kernels and 16 us by XLA, with 65536 32 and 37, with 1 Mi 515 and 358. Values
take the kernels at every size: with 16 Mi elements 2.5 ms and 11 ms.

It holds for each array of a pytree, too, while those that it lets in have at most 32 times as many
elements together; if they have more, only arrays of a quarter of that size get in. Jitted value and
gradient of L2, the same machine: 100 arrays of 16384 elements take 0.6 ms by the kernels and 0.6 ms
by XLA, 100 of 65536 12.7 and 4.0 ms, most of it the pages of 26 MB of new memory.
"""

_route = Route()


def route(name: str) -> AbstractContextManager[None]:
    """Choose how penalties are computed within a ``with`` block, on the calling thread.

    A jitted function keeps the route that was in force when it was traced.

    Parameters
    ----------
    name : "auto", "kernels" or "native"
        ``"kernels"``: fastreg's kernels on the CPU; other devices take JAX's operations all the
        same. ``"native"``: JAX's own operations. ``"auto"``: the kernels for every value and for
        gradients of at most :data:`GRADIENT_THRESHOLD` elements.

    Raises
    ------
    ArgumentError
        For another name, and for ``"kernels"`` where the handlers do not fit the installed jaxlib.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> with fjax.route("native"):
    ...     print(fjax.penalty(jnp.array([3.0, -4.0]), l2=0.5))
    12.5
    """
    return _route.choose(name, _need_handlers)


def _need_handlers() -> None:
    if handlers() != "registered":
        raise ArgumentError(
            message("handlers that fit the installed jaxlib", handlers(), "take the route 'native'")
        )


def kernels_for(xs: Sequence[Any]) -> tuple[bool, tuple[bool, ...]]:
    """Whether the kernels compute the value of a list, and whether the gradient of each array."""
    none, every = (False,) * len(xs), (True,) * len(xs)
    if _route.name == "native" or not all(map(is_callable_on, xs)):
        return False, none
    if _route.name == "kernels":
        return True, every
    if handlers() != "registered":
        return False, none
    sizes, limit = [x.size for x in xs], GRADIENT_THRESHOLD
    if sum(n for n in sizes if n <= limit) > 32 * limit:
        limit //= 4
    return True, tuple(n <= limit for n in sizes)
