# SPDX-License-Identifier: BSD-3-Clause
"""Torch tensors as memory: described by address, and told when they were written.

Torch is never imported here: an object of it brings it along.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from fastreg._core.dtypes import FLOATS, Dtype
from fastreg._core.frameworks import framework, loaded, unwrap

__all__ = ["Dense", "are_distinct", "dense", "identity", "tensors_of", "written"]

Dense = tuple[list[Any], list[int], list[int], list[Dtype]]

_dtype_of = attrgetter("dtype")
_placement_of = attrgetter("is_cpu", "layout", "is_nested")
_floats: dict[Any, Dtype] = {}


def dense(xs: Sequence[Any]) -> Dense | None:
    """Describe ordinary torch tensors by address, which takes a tenth of making them ndarrays.

    Returns
    -------
    owners, addresses, lengths, dtypes : lists
        The arguments of ``_kernels.Arrays.dense``; None unless all are plain, dense, contiguous
        float tensors or parameters that own memory on the host.
    """
    torch = loaded("torch")
    if torch is None or not xs:
        return None
    if not _floats:
        _floats.update({getattr(torch, d.name): d for d in FLOATS})
    kind = torch.Tensor
    if not set(map(type, xs)) <= {kind, torch.nn.Parameter}:
        return None
    dtypes = list(map(_dtype_of, xs))
    if (
        not _floats.keys() >= set(dtypes)
        or _is_recording(torch)
        or set(map(_placement_of, xs)) != {(True, torch.strided, False)}
        or not all(map(kind.is_contiguous, xs))
        or any(map(kind.is_neg, xs))
    ):
        return None
    addresses = list(map(kind.data_ptr, xs))
    lengths = list(map(kind.numel, xs))
    found = [_floats[d] for d in dtypes]
    if not all(addresses) and any(n for a, n in zip(addresses, lengths, strict=True) if not a):
        return None  # a storage that was freed: the long way says so
    return list(xs), addresses, lengths, found


def _is_recording(torch: Any) -> bool:
    """Whether tensors may stand for others: in a program being recorded, under a transform."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active())


def are_distinct(xs: Sequence[Any]) -> bool:
    """Whether these are plain tensors that begin at different addresses: the commonest case."""
    torch = loaded("torch")
    if torch is None or torch.compiler.is_compiling() or _is_recording(torch):
        return False
    if not set(map(type, xs)) <= {torch.Tensor, torch.nn.Parameter}:
        return False
    try:
        addresses = set(map(torch.Tensor.data_ptr, xs))
    except RuntimeError:  # sparse, or without a storage
        return False
    return len(addresses) == len(xs) and 0 not in addresses


def identity(x: Any) -> Any:
    """Return what tells the memory of a tensor from that of others: the same for views of it.

    Its object's identity where it has no memory that can be asked for: in a program that is being
    traced, or for a subclass that answers for itself.
    """
    torch = loaded("torch")
    if (
        torch.compiler.is_compiling()
        or type(x) not in (torch.Tensor, torch.nn.Parameter)
        or _is_recording(torch)
        or x.layout is not torch.strided
        or x.is_nested
        or not x.numel()
        or not (address := x.data_ptr())
    ):
        return id(x)
    if x.is_contiguous():
        return (address, x.dtype, x.numel())
    steps = sorted((s, n) for s, n in zip(x.stride(), x.shape, strict=True) if n > 1)
    return (address, x.dtype, x.numel() if is_dense(steps, 1) else tuple(steps))


def is_dense(steps: Sequence[tuple[int, int]], step: int) -> bool:
    """Whether (stride, extent) pairs, rising, fill memory without a gap."""
    for stride, n in steps:
        if stride != step:
            return False
        step *= n
    return True


def tensors_of(originals: Sequence[Any]) -> list[Any]:
    """Return torch's tensors among objects, Keras variables' too, for :func:`written`."""
    if loaded("torch") is None:
        return []
    tensors = [x for x in map(unwrap, originals) if framework(x) == "torch"]
    return [x for x in tensors if not x.is_inference()]


def written(tensors: Sequence[Any]) -> None:
    """Tell torch that tensors changed, so that a backward pass needing the old ones says so."""
    if tensors:
        loaded("torch").autograd.graph.increment_version(tensors)
