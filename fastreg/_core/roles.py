# SPDX-License-Identifier: BSD-3-Clause
"""What is no weight, whatever its name and shape: the state of optimizers, statistics, caches.

No framework is imported here: classes are judged by where they come from.
"""

from __future__ import annotations

import re
from typing import Any

from fastreg._core.foreign import conversion
from fastreg._core.frameworks import comes_from, framework, untraced
from fastreg.errors import DTypeError, message, printable

__all__ = [
    "OPTIMIZER",
    "bad_leaf",
    "holds_references",
    "is_group",
    "is_optimizer",
    "is_reference",
    "is_traced_number",
    "number_or_key",
    "role_by_name",
    "role_of",
]

OPTIMIZER = "of an optimizer"
"""How the reason begins for what an optimizer keeps."""

# What torch's optimizers call what they keep for a parameter.
_MOMENT = re.compile(
    r"^((max_)?exp_avgs?(_sqs?)?|exp_inf|momentum_buffer|square_avg|acc_delta|grad_avg)$"
)
# How containers call what an optimizer keeps: of JAX, torch, Keras and TensorFlow.
_KEEPER = re.compile(
    r"^(opt|optim|optimi[sz]er)_?(states?|state_dict|variables|vars|slots?)(_?\d+)?$"
    r"|^(optim|optimi[sz]er)s?(_?\d+)?$",
    re.I,
)
_by_class: dict[type, str] = {}
_MOST_CLASSES = 1024  # classes made in a loop must not pile up


@untraced
def role_of(kind: type) -> str:
    """Return why a node of this class, and all below it, holds no weights; or nothing.

    The states of optax are, and variables of Flax that are of one of its own classes and no
    ``Param``: optimizers' states, batch statistics, caches, keys of random numbers.
    """
    role = _by_class.get(kind)
    if role is None:
        role, name = "", printable(kind.__name__, 40)
        if kind.__module__.partition(".")[0] == "optax" and kind.__name__.endswith("State"):
            role = f"{OPTIMIZER}, by the class {name}"
        elif is_reference(kind) and not comes_from(kind, "flax", "Param"):
            own = [c.__name__ for c in kind.__mro__ if c.__module__.startswith("flax.nnx.")]
            if "OptState" in own:
                role = f"{OPTIMIZER}, by the class {name}"
            elif own[: own.index("Variable")]:
                role = f"no Param, by the class {name}"
        if len(_by_class) < _MOST_CLASSES:
            _by_class[kind] = role
    return role


@untraced
def is_reference(kind: type) -> bool:
    """Whether an object of this class is a variable that models may share: one of Flax's NNX."""
    return comes_from(kind, "flax", "Variable") and kind.__module__ != "flax.core.scope"


@untraced
def holds_references(kind: type) -> bool:
    """Whether an object of this class is a module of Flax's, which may share variables."""
    return comes_from(kind, "flax", "Module")


def role_by_name(words: list[str]) -> str:
    """Return the same for an array by its own name, the last word, and those that hold it."""
    if _MOMENT.search(words[-1]):
        return f"{OPTIMIZER}, by its name '{printable(words[-1], 40)}'"
    for word in words[:-1]:
        if _KEEPER.search(word):
            return f"{OPTIMIZER}, by the name '{printable(word, 40)}'"
    return ""


def number_or_key(x: Any, dtype_name: str) -> str:
    """Return whether a leaf is a number of Python or a key of random numbers, in words."""
    if dtype_name.startswith("key<"):
        return "a key of random numbers"
    return "a number of Python" if type(x) in (bool, int, float) else ""  # no np.float64


def is_traced_number(x: Any, layer: Any) -> bool:
    """Whether a leaf of a registered class is what ``jax.jit`` makes of a number of Python.

    That cannot be told from a 0-d array of such a number.
    """
    if layer is None or framework(x) != "jax":
        return False
    return x.ndim == 0 and bool(getattr(x, "weak_type", False))


def is_optimizer(x: Any) -> bool:
    """Whether x is an optimizer of torch or Keras."""
    kind = type(x)
    return comes_from(kind, "torch", "Optimizer") or any(
        comes_from(kind, package, name)
        for package in ("keras", "tf_keras")
        for name in ("BaseOptimizer", "_BaseOptimizer", "OptimizerV2")
    )


def is_group(x: Any) -> bool:
    """Whether x is a group of parameters of torch's optimizers, with its options."""
    return isinstance(x, dict) and {"params", "lr"} <= x.keys()


def bad_leaf(where: str, x: Any, received: str) -> DTypeError:
    """Return the error of what is no array, and no container of arrays."""
    action = conversion(x)
    if is_group(x):
        received = "an optimizer's group of parameters with its options"
        action = "pass [p for group in optimizer.param_groups for p in group['params']]"
        if any(isinstance(p, int) for p in x["params"]):  # of its state_dict()
            action = "pass the model's part alone, such as checkpoint['model']"
    elif is_optimizer(x):
        action = "pass the model whose weights it trains"
    expected = f"an array or a container of arrays at {where}"
    return DTypeError(message(expected, received, action))
