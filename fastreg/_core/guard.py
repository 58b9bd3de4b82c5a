# SPDX-License-Identifier: BSD-3-Clause
"""Notice that the items of a container, or the memory of its arrays, are not what they were."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import numpy as np

from fastreg._core.containers import Gathered, Parameter
from fastreg._core.frameworks import framework, is_variable, loaded, unwrap
from fastreg._core.identity import address_of
from fastreg._core.unread import is_distributed
from fastreg._kernels import are_the_items, first_changed
from fastreg.errors import LayoutError, StaleError, message, printable

__all__ = ["Guard"]

_requires_grad = attrgetter("requires_grad")
_dtype = attrgetter("dtype")


class Guard:
    """Watch what was gathered.

    It holds references, so nothing that it watches is freed. Containers are compared item by item,
    by identity; arrays and torch tensors by their memory, type and layout, which a new ``.data``
    changes; Keras variables by the tensor they hold. That NumPy refuses to resize what is watched
    is the affair of ``_kernels.Arrays``.

    Parameters
    ----------
    gathered : Gathered
        What :func:`fastreg._core.containers.gather` found.
    what : str
        What the user calls it, for the message.
    """

    __slots__ = (
        "_arrays",
        "_asked",
        "_deletable",
        "_frozen",
        "_holders",
        "_is_mixed",
        "_places",
        "_tensors",
        "_values",
        "_variables",
        "_what",
    )

    def __init__(self, gathered: Gathered, what: str = "params") -> None:
        self._what = what
        self._holders = gathered.holders
        self._asked = gathered.asked
        arrays = [p for p in gathered.parameters if isinstance(p.original, np.ndarray)]
        others = [p for p in gathered.parameters if not isinstance(p.original, np.ndarray)]
        views = [p.original.view(np.ndarray) for p in arrays]
        self._arrays = (arrays, [p.original for p in arrays], views)
        held = [(p, unwrap(p.original)) for p in others]
        self._values = [(p, x) for p, x in held if x is not p.original]
        tensors = [(p, x) for p, x in held if framework(x) == "torch" and _has_memory(x)]
        self._places = [p for p, _ in tensors]
        self._tensors = _Tensors([x for _, x in tensors]) if tensors else None
        # TensorFlow gives a variable new memory when it is assigned to.
        self._variables = [
            (p, _address(x)) for p, x in held if framework(x) == "tensorflow" and is_variable(x)
        ]
        self._frozen = [(p, p.frozen) for p in others if is_variable(p.original)]
        self._deletable = [p for p in others if callable(getattr(p.original, "is_deleted", None))]
        self._is_mixed = any(
            (self._asked, self._values, self._variables, self._frozen, self._deletable)
        )

    def require_lasting(self) -> None:
        """Refuse containers that make their items anew: nobody could tell if they were replaced.

        Raises
        ------
        LayoutError
            Naming the place of such a container.
        """
        for ask, items, name in self._asked:
            if not _are_alike(ask(), items):
                raise LayoutError(
                    message(
                        f"{self._what} whose items stay the same",
                        f"a container at {_place(name)} that makes them anew each time",
                        "pass a list or dict of them",
                    )
                )

    def check(self) -> None:
        """Raise StaleError, naming the place, if something changed."""
        for holder, items, name in self._holders:
            if not are_the_items(holder, items):
                raise self._stale_item(
                    holder.values() if isinstance(holder, dict) else holder, items, name
                )
        places, arrays, views = self._arrays
        k = first_changed(arrays, views)
        if k >= 0:
            raise self._stale(places[k], "an array with other memory or elements")
        if self._tensors is not None:
            change = self._tensors.change()
            if change is not None:
                raise self._stale(self._places[change[0]], change[1])
        if self._is_mixed:
            self._check_others()

    def _check_others(self) -> None:
        for ask, items, name in self._asked:
            now = ask()
            if not _are_alike(now, items):
                raise self._stale_item(now, items, name)
        for p, value in self._values:
            if unwrap(p.original) is not value:
                raise self._stale(p, "a variable that holds another tensor")
        for p, address in self._variables:
            if _address(unwrap(p.original)) != address:
                raise self._stale(p, "a variable with other memory (assign)")
        for p, frozen in self._frozen:
            if p.frozen is not frozen:
                raise self._stale(p, "another trainable")
        for p in self._deletable:
            if p.original.is_deleted():
                raise self._stale(p, "a deleted array")

    def _stale_item(self, now: Iterable[Any], items: list[Any], name: str) -> StaleError:
        now = list(now)
        if len(now) != len(items):
            return self._stale(_place(name), f"{len(now)} items, where there were {len(items)}")
        pairs = list(zip(now, items, strict=True))
        other = [k for k, pair in enumerate(pairs) if not _is_alike(*pair)]
        k = other[0] if other else next(k for k, (a, b) in enumerate(pairs) if a is not b)
        return self._stale(_place(name), f"another object as item {k}")

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


class _Tensors:
    """Torch tensors as they were: their memory, type, layout, and whether they are trained."""

    __slots__ = ("_scattered", "_seen", "_xs")

    def __init__(self, xs: list[Any]) -> None:
        self._xs = xs
        self._seen = self._look()
        dense = self._seen[4]
        self._scattered = [
            (k, x, x.shape, x.stride())
            for k, (x, plain) in enumerate(zip(xs, dense, strict=True))
            if not plain
        ]

    def _look(self) -> tuple[list[Any], ...]:
        kind, xs = loaded("torch").Tensor, self._xs
        return (
            list(map(kind.data_ptr, xs)),
            list(map(kind.numel, xs)),
            list(map(_dtype, xs)),
            list(map(_requires_grad, xs)),
            list(map(kind.is_contiguous, xs)),
        )

    def change(self) -> tuple[int, str] | None:
        """Return the position of the first tensor that changed, and what it has now."""
        now = self._look()
        if now != self._seen:
            for k, (before, after) in enumerate(
                zip(zip(*self._seen, strict=True), zip(*now, strict=True), strict=True)
            ):
                if before[3] != after[3]:
                    return k, "another requires_grad"
                if before != after:
                    return k, "a tensor with other memory (.data, set_)"
        for k, x, shape, strides in self._scattered:
            if x.shape != shape or x.stride() != strides:
                return k, "a tensor with other memory (.data, set_)"
        return None


def _place(name: str) -> str:
    return f"'{printable(name, 80)}'" if name else "the top"


def _are_alike(now: list[Any], items: list[Any]) -> bool:
    return len(now) == len(items) and all(map(_is_alike, now, items))


def _is_alike(a: Any, b: Any) -> bool:
    """Whether two items are one object, or made anew of the same ones: pairs, views."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return _are_alike(list(a), list(b))
    if isinstance(a, (str, int)):
        return bool(a == b)
    if isinstance(a, np.ndarray):
        return first_changed([a], [b]) < 0
    if framework(a) == "torch" and isinstance(a, loaded("torch").Tensor):
        return _Tensors([a])._look() == _Tensors([b])._look() and a.stride() == b.stride()
    return False


def _address(variable: Any) -> int:
    """Return where the memory of a variable of TensorFlow begins."""
    value = variable.value() if callable(getattr(variable, "value", None)) else variable
    return address_of(np.asarray(value))
