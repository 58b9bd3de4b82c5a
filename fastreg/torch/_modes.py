# SPDX-License-Identifier: BSD-3-Clause
"""How torch is running just now: eagerly, under transforms, or recording a program."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastreg._core import unread

__all__ = [
    "ORDINARY",
    "compiling",
    "differentiated",
    "forward_mode",
    "functionalized",
    "home",
    "in_graph",
    "is_distributed",
    "is_transformed",
    "on_cpu",
    "tracing",
    "transforms_active",
]

# Subclasses such as fake, functional and distributed tensors answer operators themselves.
_PLAIN_DISPATCH = Tensor.__torch_dispatch__


ORDINARY = (torch.Tensor, torch.nn.Parameter)


def _never() -> int:
    return 0


# Private, and absent in some releases; without them the eager way is taken. The compiler knows the
# first one, and evaluates it while it traces.
transforms_active = getattr(torch._C, "_are_functorch_transforms_active", _never)
_transform_stack = getattr(torch._C._functorch, "get_interpreter_stack", tuple)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", _never)
_jit_state = getattr(torch._C, "_get_tracing_state", _never)
tracing = _jit_state
compiling = torch.compiler.is_compiling

on_cpu = attrgetter("is_cpu")
"""Whether a tensor's memory is the host's, where kernels are."""


def home(x: object) -> str:
    """Return the first two names of the module that defines x's class."""
    return ".".join(type(x).__module__.split(".")[:2])


def is_distributed(x: Tensor) -> bool:
    """Whether x is spread over processes; torch's operations know how to sum it, ours do not."""
    return type(x) not in ORDINARY and unread.is_distributed(x)


def is_transformed(x: Tensor) -> bool:
    """Whether x stands for what torch.func transforms."""
    return bool(transforms_active()) and unread.is_transformed(torch, x)


def forward_mode() -> bool:
    """Whether a level of forward-mode differentiation is open."""
    return bool(getattr(forward_ad, "_current_level", -1) >= 0)


def differentiated() -> bool:
    """Whether a derivative may be taken that is in no graph: by torch.func, in forward mode."""
    return bool(transforms_active()) or forward_mode()


def functionalized() -> bool:
    """Whether ``torch.func.functionalize`` is at work, which knows no autograd.Function."""
    layers: Iterable[Any] = _transform_stack() or ()
    return any(layer.key().name == "Functionalize" for layer in layers)


def in_graph(x: Tensor) -> bool:
    """Whether x stands for a tensor in a program being recorded, or has no memory."""
    return bool(
        type(x).__torch_dispatch__ is not _PLAIN_DISPATCH
        or _dispatch_modes()
        or _jit_state()
        or x.is_meta
    )
