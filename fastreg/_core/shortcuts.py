# SPDX-License-Identifier: BSD-3-Clause
"""The commonest containers, whose arrays are known without a walk."""

from __future__ import annotations

from typing import Any

from fastreg._core import tensors
from fastreg._core.arguments import Select
from fastreg._core.kernel_rule import is_kernel_name, is_weight_name
from fastreg._kernels import own_their_memory

__all__ = ["are_weights", "dense_tensors", "distinct_ndarrays", "is_all"]


def distinct_ndarrays(params: Any, *, everything: bool = False) -> list[Any] | None:
    """Return the chosen arrays of the commonest containers, or None for the long way.

    One ndarray, or a flat list, tuple or dict of distinct ones; they own their memory, of NumPy's
    own floats: nothing is tied.
    """
    kind = type(params)
    if kind is dict:
        items = list(params.values())
    elif kind is list or kind is tuple:
        items = list(params)
    else:
        items = [params]
    if not items or not own_their_memory(items):
        return None
    if everything or kind is not dict:
        return items
    wide = {str(name): x for name, x in params.items() if x.ndim > 1}
    return list(wide.values()) if wide and all(map(is_kernel_name, wide)) else None


def are_weights(params: dict[Any, Any]) -> bool:
    return all(map(is_weight_name, map(str, list(params))))


def dense_tensors(params: Any) -> tensors.Dense | None:
    """Describe a list of ordinary, distinct torch tensors, or None for the long way."""
    if type(params) not in (list, tuple):
        return None
    found = tensors.dense([x for x in params if x is not None])
    return found if found is not None and len(set(found[1])) == len(found[1]) else None


def is_all(select: Select) -> bool:
    return isinstance(select, str) and select == "all"
