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
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastreg._core.arguments import Request
from fastreg._core.frameworks import is_recording
from fastreg._core.models import mark_of
from fastreg._core.selection import Chosen
from fastreg.torch._modes import ORDINARY, compiling, tracing

__all__ = ["Decided", "Look", "key_of", "look_at", "recall", "remember"]

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


class Look(NamedTuple):
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


def key_of(params: Any, request: Request) -> Any:
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


def look_at(module: torch.nn.Module) -> Look | None:
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
        return Look(
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


def recall(key: Any, look: Look) -> Decided | None:
    """Return what was decided for a module that looked just so."""
    decided = _kept.get(key)
    return decided if decided is not None and decided.signature == look.signature else None


def remember(key: Any, look: Look, found: Chosen, dtype: torch.dtype) -> None:
    """Keep a decision, unless it is about what a module computes for each use."""
    places = {id(x): k for k, x in reversed(list(enumerate(look.xs)))}
    positions = [places.get(id(p.original)) for p in found.parameters]
    names = found.names
    if (
        not positions
        or None in positions
        or len(set(names)) < len(names)
        or any(p.sources for p in found.gathered.parameters)
    ):
        return
    kept: list[Any] = positions
    _kept[key] = Decided(look.signature, names, kept, *found.weights, dtype)
    while len(_kept) > _MOST_DECISIONS:
        _kept.popitem(last=False)
