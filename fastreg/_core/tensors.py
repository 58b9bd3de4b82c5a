# SPDX-License-Identifier: BSD-3-Clause
"""Torch tensors as memory: described by address, and told when they were written.

Torch is never imported here: an object of it brings it along.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from fastreg._core.dtypes import FLOATS, Dtype
from fastreg._core.frameworks import framework, is_recording, loaded, unwrap

__all__ = ["Dense", "dense", "holds", "tensors_of", "written"]

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
        float tensors or parameters that own memory on the host. The owners are the storages: a
        tensor may get another one while a call reads the one that it had.
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
        or is_recording(torch)
        or set(map(_placement_of, xs)) != {(True, torch.strided, False)}
        or not all(map(kind.is_contiguous, xs))
        or any(map(kind.is_neg, xs))
    ):
        return None
    owners = list(map(kind.untyped_storage, xs))
    addresses = list(map(kind.data_ptr, xs))
    lengths = list(map(kind.numel, xs))
    found = [_floats[d] for d in dtypes]
    sizes = {d: d.itemsize for d in set(found)}
    firsts = [storage.data_ptr() for storage in owners]
    ends = [first + storage.nbytes() for first, storage in zip(firsts, owners, strict=True)]
    each = zip(firsts, addresses, lengths, found, ends, strict=True)
    if all(not n or first <= at <= end - n * sizes[d] for first, at, n, d, end in each):
        return owners, addresses, lengths, found
    return None  # a storage that was freed, cut or exchanged: the long way says so


def holds(storage: Any, address: int, n: int, dtype: Dtype) -> bool:
    """Whether a storage holds n elements from an address on."""
    first = storage.data_ptr()
    return not n or first <= address <= first + storage.nbytes() - n * dtype.itemsize


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
