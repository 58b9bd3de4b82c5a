# SPDX-License-Identifier: BSD-3-Clause
"""What may be written in place, and how a kernel's refusal is told to the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from fastreg._core.containers import Parameter, gather
from fastreg._core.frameworks import (
    framework,
    is_model,
    is_torch_module,
    is_variable,
    loaded,
    unwrap,
)
from fastreg._core.identity import address_of
from fastreg._core.roles import is_group, is_optimizer
from fastreg.errors import ArgumentError, DTypeError, FastregError, LayoutError, message

__all__ = ["check_mutable", "check_stored", "named", "naming", "refuse_models", "refuse_weights"]

_requires_grad = attrgetter("requires_grad")
# Frameworks whose arrays are values: nothing may change their memory.
_IMMUTABLE = {"jax": "JAX", "tensorflow": "TensorFlow"}
_PURE = {
    "jax": "call the same function of fastreg.jax, which returns new arrays",
    "tensorflow": "call the same function of fastreg.tensorflow, which assigns to variables and "
    "returns new tensors",
}


def check_mutable(parameters: Sequence[Parameter]) -> None:
    """Refuse to write memory that belongs to values: of JAX, TensorFlow and NumPy's scalars.

    What can be told from the memory alone (read-only, overlapping, integers) the kernels check.

    Raises
    ------
    DTypeError, LayoutError
        Naming the place; LayoutError for weights that are computed.
    """
    check_stored(parameters)
    for p in parameters:
        if type(p.original) is np.ndarray:
            continue
        x = unwrap(p.original)
        home = framework(x)
        owner = _IMMUTABLE.get(home)
        if isinstance(x, np.generic):
            owner = "NumPy's scalars"
        address = getattr(x, "data_ptr", None)
        if callable(address) and p.size and address() != address_of(p.array.data):
            owner = "a lazy view"
        if owner is not None:
            raise DTypeError(
                message(
                    f"an array whose memory may change at {p.label}",
                    f"one of {owner}, which is immutable",
                    _PURE.get(home, "work on a NumPy copy and put the result back"),
                )
            )


def check_stored(parameters: Sequence[Parameter]) -> None:
    """Refuse weights that a module computes for each use: what is at hand is a passing result.

    Raises
    ------
    LayoutError
        Naming the place.
    """
    for p in parameters:
        if p.sources:
            raise LayoutError(
                message(
                    f"a weight that is stored at {p.label}",
                    "one that its module computes from others",
                    "leave it out with select=, or add fastreg.torch.penalty(module) to the loss",
                )
            )


def refuse_weights(grads: Any) -> None:
    """Refuse weights where gradients are meant: clipping would scale them."""
    refuse_models(grads)
    xs = [x for x in grads if x is not None] if type(grads) in (list, tuple) else [grads]
    kinds, torch = set(map(type, xs)), loaded("torch")
    if kinds <= {np.ndarray}:
        return
    if torch is not None and kinds == {torch.Tensor} and not any(map(_requires_grad, xs)):
        return
    gathered = gather(grads, values=True)
    # A state_dict shares the memory of the parameters, though its tensors are others.
    if any(hasattr(holder, "_metadata") for holder, _, _ in gathered.holders) or any(
        is_variable(x) or (framework(x) == "torch" and _is_weight(x))
        for x in (p.original for p in gathered.parameters)
    ):
        raise _weights()


def refuse_models(grads: Any) -> None:
    """Refuse what has weights, gradients or none of its own: models and optimizers."""
    if is_torch_module(grads) or is_model(grads) or _is_optimizer(grads):
        raise _weights()


def _weights() -> ArgumentError:
    return ArgumentError(
        message(
            "gradients to clip",
            "weights themselves",
            "pass [p.grad for p in model.parameters()], or what the tape returned",
        )
    )


def _is_optimizer(x: Any) -> bool:
    """Whether x is an optimizer, or torch's groups of parameters."""
    return is_optimizer(x) or is_group(x[0] if isinstance(x, list) and x else x)


def _is_weight(x: Any) -> bool:
    """Whether a tensor is what gradients are for."""
    return isinstance(x, loaded("torch").nn.Parameter) or (x.requires_grad and x.is_leaf)


def named(error: FastregError, labels: Sequence[str]) -> FastregError:
    """Return a kernel's error with the positions in its message replaced by names."""
    text = re.sub(
        r"positions? (\d+)(?: and (\d+))?",
        lambda m: " and ".join(labels[int(k)] for k in m.groups() if k is not None),
        str(error),
    )
    return type(error)(text)


class naming:
    """Turn the positions in a kernel's errors into names, within a ``with`` block."""

    __slots__ = ("_parameters",)

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = parameters

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, FastregError) and " position" in str(error):
            raise named(error, [p.label for p in self._parameters]) from None
