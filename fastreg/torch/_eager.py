# SPDX-License-Identifier: BSD-3-Clause
"""Numbers of tensors that have memory: from the kernels on the CPU, from torch elsewhere.

Nothing here is in a graph. Tensors of a call are all on the CPU, or one is elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastreg._core import numpy_backend, tensors
from fastreg._kernels import Arrays
from fastreg.torch import _native
from fastreg.torch._dtypes import FLOATS
from fastreg.torch._memory import describe, empty_like, host, scalar, targets
from fastreg.torch._modes import on_cpu

__all__ = ["both", "gradients", "norm", "orthogonal", "upstream", "value"]


def value(xs: Sequence[Tensor], l1s: list[float], l2s: list[float], dtype: torch.dtype) -> Tensor:
    """Return the penalty of all tensors together, 0-d."""
    if not on_cpu(xs[0]):
        return _native.value(xs[0], l1s[0], l2s[0], dtype)
    arrays, _ = describe(xs, l1s, l2s)
    return scalar(arrays.value(FLOATS[dtype], number=True), dtype)


def gradients(
    xs: Sequence[Tensor],
    l1s: list[float],
    l2s: list[float],
    u: float | Tensor,
    needed: Sequence[bool],
    out: list[Any] | None = None,
) -> list[Any]:
    """Return the gradient of each tensor times u, rounded once; None where it is not needed.

    ``u`` is a number, or what :func:`upstream` found none in; ``out`` is memory to write to.
    """
    if isinstance(u, Tensor) or not on_cpu(xs[0]):
        if not isinstance(u, Tensor):
            u = factor(u, xs[0])
        each = zip(xs, l1s, l2s, needed, strict=True)
        return [_native.gradient(x, u, l1, l2) if n else None for x, l1, l2, n in each]
    if out is None:
        out = [empty_like(x) if n else None for x, n in zip(xs, needed, strict=True)]
    arrays, by_address = describe(xs, l1s, l2s)
    arrays.gradient(targets(out, by_address), u, fresh=True)
    return out


def both(
    xs: Sequence[Tensor],
    l1s: list[float],
    l2s: list[float],
    dtype: torch.dtype,
    needed: Sequence[bool],
    u: float = 1.0,
) -> tuple[Tensor, list[Any]]:
    """Return :func:`value` and :func:`gradients` of tensors of the CPU, from one pass."""
    out = [empty_like(x) if n else None for x, n in zip(xs, needed, strict=True)]
    arrays, by_address = describe(xs, l1s, l2s)
    found = arrays.value_and_gradient(
        targets(out, by_address), u, dtype=FLOATS[dtype], number=True, fresh=True
    )
    return scalar(found, dtype), out


def upstream(u: Tensor) -> float | Tensor:
    """Return a 0-d tensor's number; the tensor itself if it is elsewhere, or a batch of them."""
    if not on_cpu(u):
        return u  # asking would wait for the device
    try:
        return float(u)
    except RuntimeError:  # ``is_grads_batched``
        return u


def factor(u: float, x: Tensor) -> Tensor:
    """Return an upstream factor as torch's operations on x take it."""
    return torch.full((), u, dtype=_native.wide(x.device), device=x.device)


def norm(xs: Sequence[Tensor], dtype: torch.dtype, dense: tensors.Dense | None = None) -> Tensor:
    """Return the Euclidean norm of all tensors of the CPU together, described already or not."""
    arrays = describe(xs)[0] if dense is None else Arrays.dense(*dense)
    return scalar(arrays.norm(FLOATS[dtype], number=True), dtype)


def orthogonal(
    x: Tensor, factor: float, rows: bool, dtype: torch.dtype, *, want: bool
) -> tuple[Tensor, Any]:
    """Return the orthogonality penalty of a matrix on the CPU.

    If wanted with its gradient, in the type of the work, which is wider than half precision.
    """
    found, slope = numpy_backend.cosines(host(x), factor, rows, want)
    return torch.tensor(found, dtype=dtype, device="cpu"), (
        torch.from_numpy(slope) if want else None
    )
