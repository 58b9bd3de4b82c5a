# SPDX-License-Identifier: BSD-3-Clause
"""The one place where tests touch the private hooks of `fastreg._kernels`."""

from __future__ import annotations

from fastreg import _kernels

levels = _kernels.levels


def measure(
    x, op, dtype, *, l1=0.0, l2=0.0, isa=None, threads=1, first_tier=0, error_scale=1.0
) -> tuple[float, int]:
    """Value or norm as a Python float and the tier that decided it; dtype is a short name."""
    return _kernels._measure(x, op, l1, l2, dtype, isa, threads, first_tier, error_scale)


def gradient(x, *, l1=0.0, l2=0.0, scale=1.0, out=None, accumulate=False, isa=None):
    """Gradient on one ISA level."""
    return _kernels._gradient(x, l1, l2, scale, out, accumulate, isa)
