# SPDX-License-Identifier: BSD-3-Clause
"""Containers that JAX or optree know because somebody registered their class."""

from __future__ import annotations

from typing import Any

from fastreg._core.frameworks import compiling, loaded

__all__ = ["flattened_once"]


def flattened_once(node: Any) -> list[tuple[Any, Any]] | None:
    """Flatten one level of a pytree node that JAX or optree knows; None if neither does."""
    if compiling():
        return None  # a program of torch, whose compiler cannot follow JAX
    tree_util = loaded("jax.tree_util")
    # JAX warns of iterables that it takes for leaves; asking first avoids that.
    if tree_util is not None and not tree_util.all_leaves([node]):
        flat = tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
        if not (len(flat) == 1 and flat[0][1] is node):
            return [(_jax_key(entries[0]) if entries else 0, child) for entries, child in flat]
    optree = loaded("optree")
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
