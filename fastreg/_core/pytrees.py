# SPDX-License-Identifier: BSD-3-Clause
"""Containers that JAX or optree know because somebody registered their class."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

__all__ = ["flattened_once", "is_box", "is_registered", "is_static"]

# How classes that stand around one array call it, or do not, as its holder calls the box.
_IN_A_BOX = ("value", "raw_value", "array", "data")
_STATIC = (str, type, partial, FunctionType, BuiltinFunctionType, MethodType)


def is_static(x: Any) -> bool:
    """Whether a leaf of a registered class is code and no parameter, as its activations are.

    JAX takes a field that is a function for a leaf, unless it is marked as static. An object that
    may be called is no function: it may hold arrays.
    """
    if isinstance(x, _STATIC):
        return True
    home = type(x).__module__.partition(".")[0]
    return home in ("jax", "jaxlib") and callable(x) and not hasattr(x, "dtype")


def is_registered(node: Any) -> bool:
    """Whether a node is of a class of somebody's own that JAX or optree knows."""
    plain = isinstance(node, (Mapping, list, tuple, deque))
    return not plain and flattened_once(node) is not None


def is_box(children: list[tuple[Any, Any]], is_leaf: Callable[[Any], bool]) -> bool:
    """Whether a registered class adds nothing to the one array that it holds."""
    if len(children) != 1:
        return False
    key, child = children[0]
    return (isinstance(key, int) or key in _IN_A_BOX) and is_leaf(child)


def flattened_once(node: Any) -> list[tuple[Any, Any]] | None:
    """Flatten one level of a pytree node that JAX or optree knows; None if neither does."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return None  # a program of torch, whose compiler cannot follow JAX
    tree_util = sys.modules.get("jax.tree_util")
    # JAX warns of iterables that it takes for leaves; asking first avoids that.
    if tree_util is not None and not tree_util.all_leaves([node]):
        flat = tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
        if not (len(flat) == 1 and flat[0][1] is node):
            return [(_jax_key(entries[0]) if entries else 0, child) for entries, child in flat]
    optree = sys.modules.get("optree")
    if optree is not None:
        paths, children, _ = optree.tree_flatten_with_path(
            node, is_leaf=lambda x: x is not node, none_is_leaf=True
        )
        if not (len(children) == 1 and children[0] is node):
            return [(p[0] if p else 0, c) for p, c in zip(paths, children, strict=True)]
    return None


def _jax_key(entry: Any) -> Any:
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return str(entry)
