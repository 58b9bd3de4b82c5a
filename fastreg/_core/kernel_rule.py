# SPDX-License-Identifier: BSD-3-Clause
"""What is a kernel: the one rule, by the class, the name, the shape and the author's marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastreg._core.frameworks import comes_from, untraced
from fastreg._core.text import printable

if TYPE_CHECKING:
    from fastreg._core.containers import Parameter

__all__ = ["PART", "is_kernel_name", "reasons"]

# What an array is by its own name, the first that fits.
_STATISTIC = re.compile(r"^((running|moving)_(mean|var|variance|std)|num_batches_tracked)$")
_BIAS = re.compile(r"(^|_)bias(es)?(_|$)|^intercept_?$")
# "norm" as in layer_norm, BatchNorm2d, batch_normalization, norm1; not normal, not enormous.
_NORM = re.compile(r"norm(?!al(?!i[sz])|ous|ity)|^(bn|ln|gn)(\d+|_\w+)?$")
_SCALE = re.compile(r"^(gamma|beta|offset|shift)(_?\d+)?$|(^|_)scales?(_?\d+)?$")
_TOKEN = re.compile(r"^cls$|(?<!embed)_tokens?(_?\d+)?$")
_POSITION = re.compile(
    r"(^|_)(pos|positions?|positional)_?(emb(ed(ding)?)?|enc(oding)?)s?(_|$)"
    r"|(^|_)rel(ative)?_pos(ition)?(_|$)"
)
_SHIFT = re.compile(rf"{_BIAS.pattern}|{_STATISTIC.pattern}|^(beta|offset|shift)$")
# What a weight of this name is computed from, as torch calls it.
_PART = re.compile(r"parametrizations\.(?P<name>\w+)\.original\d*$|_orig$")
_RATE = re.compile(r"^a_logs?$")  # of a state-space model
_OWN_NAMES = (
    (_STATISTIC, "a running statistic"),
    (_BIAS, "a bias"),
    (_NORM, "of a normalisation"),
    (_SCALE, "a scale or offset"),
    (_RATE, "a rate"),
    (_TOKEN, "a token"),
    (_POSITION, "a position"),
)
# Classes of torch that may hold anything.
_HOLDERS = ("ParameterList", "ParameterDict", "Module", "InterpreterModule")
# Classes of one number for each channel; and layers that are more than the norm in their names.
_SCALING = re.compile(r"^(prelu|scale|layer_?scale|weightnorm)$", re.I)
_LAYER = re.compile(
    r"(linear|dense|conv(olution)?(transpose)?(\dd?)?|embedding|attention|projection|head"
    r"|classifier|mlp|rnn|lstm|gru|cell|block|transformer|encoder|decoder|net|network)$",
    re.I,
)
PART = "a part of "
"""How the reason begins for what a weight is computed from."""
_ELEMENTWISE = "a scale, by the shape of its bias"


def reasons(parameters: Sequence[Parameter]) -> list[str]:
    """Return why each array is no kernel; an empty text for a kernel.

    A kernel is of floats, of two or more dimensions, trained, not exempted by its author, and
    neither its name nor the class of the layer that holds it says that it is something else.
    """
    # A layer whose bias has the shape of its weight works element by element: norms over several
    # axes do, also of ensembles that were stacked, where no class tells.
    shifts = {
        (_parent(p.name), p.shape)
        for p in parameters
        if len(p.shape) > 1 and _SHIFT.search(_own(p.name).lower())
    }
    computed = _parts(parameters)
    return [
        _reason(p)
        or (shifts and (_parent(p.name), p.shape) in shifts and _ELEMENTWISE)
        or (p.name in computed and f"{PART}'{printable(computed[p.name], 40)}'")
        or ""
        for p in parameters
    ]


def _reason(p: Parameter) -> str:
    """Return why an array is no kernel, as far as it tells by itself."""
    if p.dtype is None or not p.dtype.floating:
        return f"{printable(p.dtype_name, 40)} is no float type with kernels"
    if p.frozen:
        return "frozen"
    has_class = _has_class(p)
    reason = p.exempt or _reason_of_name(p.name, has_class)
    if not reason and has_class:
        kind = type(p.layer)
        # A module of torch.jit has the class of all of them, and the name of its own.
        scripted = comes_from(kind, "torch", "ScriptModule")
        reason = _reason_of_class(kind, p.layer.original_name if scripted else kind.__name__)
    return reason or (f"ndim {len(p.shape)} < 2" if len(p.shape) < 2 else "")


def _parts(parameters: Sequence[Parameter]) -> dict[str, str]:
    """Return which arrays, by their names, a weight is computed from: its name by theirs.

    Parametrizations, pruning and norms of weights in torch leave such names in a ``state_dict`` and
    in ``named_parameters``. A module itself is asked for the weights.
    """
    found = {}
    shapes = {p.name: p.shape for p in parameters if not _has_class(p)}
    for name, shape in shapes.items():
        if "orig" in name and (part := _PART.search(name)):
            found[name] = name[: part.start()] + (part["name"] or "")
        elif name.endswith("_v") and _are_lengths(shapes.get(f"{name[:-1]}g"), shape):
            found[name] = found[f"{name[:-1]}g"] = name[:-2]
    return found


def _are_lengths(g: tuple[Any, ...] | None, v: tuple[Any, ...]) -> bool:
    """Whether an array of shape g has one number for each slice of one of shape v, or for all."""
    if g is None or len(v) < 2:
        return False
    axes = [(n, m) for n, m in zip(g, v, strict=False) if n != 1]
    return not g or (len(g) == len(v) and len(axes) <= 1 and all(n == m for n, m in axes))


def _has_class(p: Parameter) -> bool:
    """Whether a layer holds an array, of a class that tells what it is."""
    return p.layer is not None and not _is_anonymous(type(p.layer))


@untraced
def _is_anonymous(kind: type) -> bool:
    """Whether a class of torch only holds: lists of parameters, modules of exported programs."""
    return kind.__name__ in _HOLDERS and kind.__module__.startswith("torch.")


def _own(name: str) -> str:
    return re.split(r"[./]", name.removesuffix(":0"))[-1]


def _parent(name: str) -> str:
    return name[: len(name) - len(_own(name))]


_by_name: dict[tuple[str, bool], str] = {}
_MOST_NAMES = 65536
_by_class: dict[tuple[type, str], str] = {}
_MOST_CLASSES = 1024  # classes made in a loop must not pile up


@untraced
def _reason_of_name(name: str, has_class: bool) -> str:
    """Return why a name is no kernel's, or nothing; without a class, its holder's name counts."""
    key = (name, has_class)
    reason = _by_name.get(key)
    if reason is None:
        reason = _judged(name, has_class)
        if len(_by_name) < _MOST_NAMES:
            _by_name[key] = reason
    return reason


def is_kernel_name(name: str) -> bool:
    """Whether nothing in a name, which no layer's class judges, says that it is no kernel's."""
    return not (_reason_of_name(name, False) or _PART.search(name) or name.endswith(("_g", "_v")))


def _judged(name: str, has_class: bool) -> str:
    words = re.split(r"[./]", name.removesuffix(":0"))
    own = words[-1]
    for pattern, what in _OWN_NAMES:
        if pattern.search(own.lower()):
            return f"{what}, by its name '{printable(own, 40)}'"
    # A norm may hold a whole projection (adaptive ones do), but hardly another holder of arrays.
    if not has_class and len(words) > 1 and _NORM.search(words[-2].lower()):
        return f"of a normalisation, by the name '{printable(words[-2], 40)}'"
    return ""


@untraced
def _reason_of_class(kind: type, name: str) -> str:
    """Return why the parameters of a layer are no kernels, or nothing; `name` is its class's."""
    key = (kind, name)
    reason = _by_class.get(key)
    if reason is None:
        names = [name, *(base.__name__ for base in kind.__mro__[1:])]
        names = [n for n in names if n != "SpectralNormalization"]
        reason, shown = "", printable(name, 40)
        if any(map(_SCALING.search, names)):
            reason = f"a scale, by the class {shown}"
        # Not a convolution or projection that is normalised, whatever it is called.
        elif any(_NORM.search(n.lower()) for n in names) and not any(map(_LAYER.search, names)):
            reason = f"of a normalisation, by the class {shown}"
        if len(_by_class) < _MOST_CLASSES:
            _by_class[key] = reason
    return reason
