# SPDX-License-Identifier: BSD-3-Clause
"""What the rules decided for a module, kept for the next step and looked at again before use.

A decision depends on classes, names, shapes, types, marks, requires_grad and memory that is shared.
All of that is kept by value, and compared with what the module has now: no tensor and no module is
held, the tensors of a call are those that stand in the module then, and a module that came to the
place of one that is gone has its own decision unless it is the same in all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastreg._core.arguments import Request
from fastreg._core.frameworks import is_recording
from fastreg._core.models import mark_of
from fastreg._core.selection import Chosen
from fastreg.torch._dtypes import FLOATS
from fastreg.torch._modes import ORDINARY, compiling, tracing

__all__ = ["Decided", "Question"]

# Those of a few models, under a few rules each; one about 1000 parameters takes 150 kB.
_MOST_DECISIONS = 32
# More than any model has; a module inside itself would go on for ever.
_MOST_MODULES = 100_000
_PLAIN_DICTS = {dict, OrderedDict}

_own = attrgetter("_parameters")
_parts = attrgetter("_modules")
_hooks = attrgetter("_forward_pre_hooks")
_dtype = attrgetter("dtype")
_shape = attrgetter("shape")
_requires_grad = attrgetter("requires_grad")
_is_cpu = attrgetter("is_cpu")
_attributes = attrgetter("__dict__")


class _Look(NamedTuple):
    """A module as it is now: all that decisions depend on, and its tensors in a fixed order."""

    signature: tuple[Any, ...]
    xs: list[Tensor]


class Decided(NamedTuple):
    """What was decided for a module that looks like ``signature``."""

    signature: tuple[Any, ...]
    names: list[str]
    positions: list[int]
    l1s: list[float]
    l2s: list[float]
    dtype: torch.dtype
    """The type to which those of the tensors promote."""


_kept: OrderedDict[Any, Decided] = OrderedDict()


def _key_of(params: Any, request: Request) -> Any:
    """Return what a decision is kept under, or None for what may decide otherwise each time."""
    if (
        not isinstance(params, torch.nn.Module)
        or not {type(request.l1), type(request.l2)} <= {float, type(None)}
        or type(request.select) not in (str, type(None))
        or type(request.weights) is not float
        or compiling()
        or is_recording(torch)
        or tracing()
    ):
        return None
    return (id(params), *request)


def _look_at(module: torch.nn.Module) -> _Look | None:
    """Return how a module is, or None where that does not tell all: the long way decides."""
    modules: list[Any] = [module]
    try:
        for part in modules:
            if part is not None and part._modules:
                modules.extend(part._modules.values())
                if len(modules) > _MOST_MODULES:
                    return None
        kinds = list(map(type, modules))
        present = [part for part in modules if part is not None]
        own, parts, hooks = (list(map(get, present)) for get in (_own, _parts, _hooks))
        if not set(map(type, own)) | set(map(type, parts)) <= _PLAIN_DICTS:
            return None
        values = [x for kept in own for x in kept.values()]
        xs = [x for x in values if x is not None]
        held = list(map(type, values))
        if not set(map(type, xs)) <= set(ORDINARY):
            return None
        addresses = list(map(Tensor.data_ptr, xs))
        distinct = len(set(addresses)) == len(xs)
        if 0 in addresses or not all(map(_is_cpu, xs)) or not all(map(Tensor.is_contiguous, xs)):
            return None
        return _Look(
            (
                kinds,
                list(map(len, own)),
                list(chain.from_iterable(own)),
                list(map(len, parts)),
                list(chain.from_iterable(parts)),
                [list(map(type, kept.values())) for kept in hooks] if any(hooks) else None,
                held,
                list(map(_dtype, xs)),
                list(map(_shape, xs)),
                list(map(_requires_grad, xs)),
                addresses,
                None if distinct else _first_places(xs),
                [mark_of(x) for x in xs] if any(map(_attributes, xs)) else None,
                _exempted(present, set(kinds)),
            ),
            xs,
        )
    except (AttributeError, RuntimeError, TypeError):  # lazy, sparse, or half made
        return None


def _first_places(xs: Sequence[Tensor]) -> list[int]:
    """Return for each tensor where the same object stands first: who is tied to whom."""
    first: dict[int, int] = {}
    return [first.setdefault(id(x), k) for k, x in enumerate(xs)]


def _exempted(modules: Sequence[Any], kinds: set[type]) -> list[Any] | None:
    """Return what each module's author exempts by name; None where no class says anything."""
    asked = ("no_weight_decay", "no_weight_decay_keywords")
    telling = [(k, name) for k in kinds for name in asked if callable(getattr(k, name, None))]
    if not telling:
        return None
    found = []
    for k, module in enumerate(modules):
        for kind, name in telling:
            if type(module) is kind:
                found.append((k, name, sorted(getattr(kind, name)(module) or ())))
    return found


class Question:
    """What is asked of a module: answered from memory, or to be decided and then remembered."""

    __slots__ = ("_key", "_look", "said", "xs")

    def __init__(self, params: Any, request: Request) -> None:
        self._key = _key_of(params, request)
        self._look = None if self._key is None else _look_at(params)
        self.said: Decided | None = None
        """What was decided for a module that looked just so, or None."""
        self.xs: list[Tensor] = []
        """The tensors that stand in the module now, of those that are in."""
        if self._look is not None:
            kept = _kept.get(self._key)
            if kept is not None and kept.signature == self._look.signature:
                self.said = kept
                self.xs = [self._look.xs[k] for k in kept.positions]

    def remember(self, found: Chosen) -> None:
        """Keep a decision, unless it is about what a module computes, or about integers."""
        look = self._look
        if look is None or any(p.sources for p in found.gathered.parameters):
            return
        places = {id(x): k for k, x in reversed(list(enumerate(look.xs)))}
        positions = [places[id(p.original)] for p in found.parameters if id(p.original) in places]
        names, dtypes = found.names, [look.xs[k].dtype for k in positions]
        if (
            not names
            or len(positions) < len(names)
            or len(set(names)) < len(names)
            or not FLOATS.keys() >= set(dtypes)
        ):
            return
        dtype = reduce(torch.promote_types, dict.fromkeys(dtypes))
        _kept[self._key] = Decided(look.signature, names, positions, *found.weights, dtype)
        while len(_kept) > _MOST_DECISIONS:
            _kept.popitem(last=False)
