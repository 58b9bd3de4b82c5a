# SPDX-License-Identifier: BSD-3-Clause
"""Notice that the items of a container, or the memory of its arrays, are not what they were."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import numpy as np

from fastreg._core.containers import Gathered, Parameter
from fastreg._core.frameworks import framework, is_variable, loaded, unwrap
from fastreg._core.identity import address_of
from fastreg._core.unread import is_distributed
from fastreg._kernels import are_the_items
from fastreg.errors import StaleError, message, printable

__all__ = ["Guard"]

_requires_grad = attrgetter("requires_grad")


class Guard:
    """Watch what was gathered.

    It holds references, so nothing that it watches is freed. Lists, mappings and torch modules are
    compared item by item, by identity; torch tensors by address and number of elements, which a new
    ``.data`` changes; Keras variables by the tensor they hold. A NumPy array that is watched cannot
    be resized: NumPy refuses that for an array with a weak reference, even with
    ``refcheck=False``.

    Parameters
    ----------
    gathered : Gathered
        What :func:`fastreg._core.containers.gather` found.
    what : str
        What the user calls it, for the message.
    """

    __slots__ = (
        "_deletable",
        "_holders",
        "_places",
        "_references",
        "_tensors",
        "_trained",
        "_values",
        "_variables",
        "_what",
    )

    def __init__(self, gathered: Gathered, what: str = "params") -> None:
        parameters = gathered.parameters
        self._what = what
        self._holders = [
            # Any other mapping shows its values anew each time.
            (None if isinstance(holder, (dict, list, tuple)) else holder, holder, items, name)
            for holder, items, name in gathered.holders
        ]
        self._references = [
            weakref.ref(p.original) for p in parameters if isinstance(p.original, np.ndarray)
        ]
        others = [p for p in parameters if type(p.original) is not np.ndarray]
        held = [(p, unwrap(p.original)) for p in others]
        self._values = [(p, x) for p, x in held if x is not p.original]
        tensors = [(p, x) for p, x in held if framework(x) == "torch" and _has_memory(x)]
        self._places = [p for p, _ in tensors]
        self._trained: list[bool] = []
        self._tensors: tuple[Any, Any, list[Any], list[int], list[int]] | None = None
        if tensors:
            kind = loaded("torch").Tensor
            xs = [x for _, x in tensors]
            self._trained = list(map(_requires_grad, xs))
            self._tensors = (
                kind.data_ptr,
                kind.numel,
                xs,
                list(map(kind.data_ptr, xs)),
                list(map(kind.numel, xs)),
            )
        # TensorFlow gives a variable new memory when it is assigned to.
        self._variables = [
            (p, _address(x)) for p, x in held if framework(x) == "tensorflow" and is_variable(x)
        ]
        self._deletable = [p for p in others if callable(getattr(p.original, "is_deleted", None))]

    def check(self) -> None:
        """Raise StaleError, naming the place, if something changed."""
        for mapping, holder, items, name in self._holders:
            if mapping is not None:
                holder = list(mapping.values())
            if not are_the_items(holder, items):
                now = holder.values() if isinstance(holder, dict) else holder
                raise self._stale_item(now, items, name)
        if self._tensors is not None:
            data_ptr, numel, xs, addresses, sizes = self._tensors
            if list(map(data_ptr, xs)) != addresses or list(map(numel, xs)) != sizes:
                changed = zip(map(data_ptr, xs), map(numel, xs), addresses, sizes, strict=True)
                k = next(k for k, (a, n, b, m) in enumerate(changed) if (a, n) != (b, m))
                raise self._stale(self._places[k], "a tensor with other memory (.data, set_)")
            if list(map(_requires_grad, xs)) != self._trained:
                k = next(k for k, x in enumerate(xs) if x.requires_grad != self._trained[k])
                raise self._stale(self._places[k], "another requires_grad")
        for p, value in self._values:
            if unwrap(p.original) is not value:
                raise self._stale(p, "a variable that holds another tensor")
        for p, address in self._variables:
            if _address(unwrap(p.original)) != address:
                raise self._stale(p, "a variable with other memory (assign)")
        for p in self._deletable:
            if p.original.is_deleted():
                raise self._stale(p, "a deleted array")

    def _stale_item(self, now: Iterable[Any], items: list[Any], name: str) -> StaleError:
        now = list(now)
        k = next((k for k, (a, b) in enumerate(zip(now, items)) if a is not b), None)  # noqa: B905
        where = f"'{printable(name, 80)}'" if name else "the top"
        if k is None or len(now) != len(items):
            return self._stale(where, f"{len(now)} items, where there were {len(items)}")
        return self._stale(where, f"another object as item {k}")

    def _stale(self, where: Parameter | str, received: str) -> StaleError:
        label = where if isinstance(where, str) else where.label
        return StaleError(
            message(
                f"the {self._what} that were planned",
                f"at {label} {received}",
                "make the plan anew",
            )
        )


def _has_memory(x: Any) -> bool:
    """Whether a tensor has an address: what kernels do not read may stand there if it is not in."""
    return x.layout is loaded("torch").strided and not x.is_nested and not is_distributed(x)


def _address(variable: Any) -> int:
    """Return where the memory of a variable of TensorFlow begins."""
    value = variable.value() if callable(getattr(variable, "value", None)) else variable
    return address_of(np.asarray(value))
