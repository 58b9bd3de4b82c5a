# SPDX-License-Identifier: BSD-3-Clause
"""Calls with every choice forced: the ISA level, the threads, the tier, the error bounds."""

from __future__ import annotations

from fastreg import _kernels
from fastreg._kernels import Arrays, Options

levels = _kernels.levels


def options(isa=None, threads=1, first_tier=0, error_scale=1.0, bytes_per_thread=1) -> Options:
    """Options; `error_scale` multiplies the proven bounds, 0 removes the rounding test."""
    return Options(
        level=isa,
        threads=threads,
        bytes_per_thread=bytes_per_thread,
        first_tier=first_tier,
        error_factor=error_scale or 1e-300,
    )


def measure(
    x, op, dtype, *, l1=0.0, l2=0.0, isa=None, threads=1, first_tier=0, error_scale=1.0
) -> tuple[float, int]:
    """Value or norm as a Python float and the tier that decided it; x is an array or a list."""
    forced = options(isa, threads, first_tier, error_scale)
    items = x if isinstance(x, list) else [x]
    arrays = Arrays(items, _plain(l1), _plain(l2), options=forced)
    value = (arrays.value if op == "value" else arrays.norm)(dtype, number=True)
    return value, forced.tier


def _plain(weights):
    return list(map(float, weights)) if isinstance(weights, (list, tuple)) else float(weights)


def gradient(x, *, l1=0.0, l2=0.0, scale=1.0, out=None, accumulate=False, isa=None):
    """Gradient on one ISA level."""
    return _gradient(x, l1, l2, scale, out, accumulate, isa)[1]


def value_and_gradient(x, *, l1=0.0, l2=0.0, scale=1.0, out=None, accumulate=False, isa=None):
    """Value, of x's type, and gradient of one pass on one ISA level."""
    return _gradient(x, l1, l2, scale, out, accumulate, isa, both=True)


def _gradient(x, l1, l2, scale, out, accumulate, isa, both=False):
    from fastreg._core.arrays import empty_like, host_array

    host = host_array(x)
    target = out
    if out is None:
        out, target = empty_like(host)
    forced = Options(level=isa)
    arrays = Arrays([host], float(l1), float(l2), options=forced)
    value = None
    if both:
        value = arrays.value_and_gradient([target], scale, accumulate, host.dtype)
    else:
        arrays.gradient([target], scale, accumulate)
    return value, out


def statistics(arrays, isa=None, threads=1, error_scale=1.0):
    """Rows and total of a list on one ISA level."""
    return Arrays(list(arrays), options=options(isa, threads, 0, error_scale)).statistics()


def list_value(arrays, *, l1=0.0, l2=0.0, dtype=None):
    """The penalty of arrays, each as often as it stands there, whatever they are named."""
    return Arrays(list(arrays), _plain(l1), _plain(l2)).value(dtype)


def list_norm(arrays, *, dtype=None):
    """The norm of arrays, each as often as it stands there."""
    return Arrays(list(arrays)).norm(dtype)
