# SPDX-License-Identifier: BSD-3-Clause
"""What is a kernel: the one rule, by the class, the name, the shape and the author's marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastreg._core.frameworks import comes_from, untraced
from fastreg._core.roles import is_traced_number, number_or_key, role_by_name
from fastreg._core.text import printable

if TYPE_CHECKING:
    from fastreg._core.containers import Parameter

__all__ = [
    "PART",
    "is_kernel_name",
    "is_weight_name",
    "no_array",
    "no_weight",
    "reasons",
    "unread_kernels",
]

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
_SHIFT = re.compile(rf"^(bias|beta|offset|shift)$|{_STATISTIC.pattern}")
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


def reasons(parameters: Sequence[Parameter], *, frozen: bool = False) -> list[str]:
    """Return why each array is no kernel; an empty text for a kernel. ``frozen`` lets them be.

    A kernel is of floats, of two or more dimensions, trained, not exempted by its author, and
    neither its name nor the class of the layer that holds it says that it is something else.
    """
    # A layer whose bias has the shape of its weight works element by element: norms over several
    # axes do, also of ensembles that were stacked, where no class tells.
    shifts = {
        (_reading(p.name).parent, p.shape)
        for p in parameters
        if len(p.shape) > 1 and _reading(p.name).is_shift
    }
    computed = _parts(parameters)
    return [
        _reason(p, frozen)
        or (shifts and (_reading(p.name).parent, p.shape) in shifts and _ELEMENTWISE)
        or (p.name in computed and f"{PART}'{printable(computed[p.name], 40)}'")
        or ""
        for p in parameters
    ]


def no_weight(p: Parameter) -> str:
    """Return why an array counts in no penalty, step or decay whatever is selected, or nothing."""
    return (
        p.role
        or ("" if _has_class(p) else _reading(p.name).role)
        or no_array(p)
        or ("a number of Python, traced" if is_traced_number(p.original, p.layer) else "")
    )


def no_array(p: Parameter) -> str:
    """Return what a leaf of a model is that is no array of numbers, or nothing.

    One that a plain container holds is refused where it is read.
    """
    inside = p.layer is not None or p.role
    return number_or_key(p.original, p.dtype_name) if inside else ""


def _reason(p: Parameter, frozen: bool) -> str:
    """Return why an array is no kernel, as far as it tells by itself."""
    if p.dtype is None or not p.dtype.floating:
        return f"{printable(p.dtype_name, 40)} is no float type with kernels"
    if p.frozen and not frozen:
        return "frozen"
    return _reason_of_place(p)


def unread_kernels(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return the arrays that would be kernels if kernels read their float or complex type."""
    return [
        p
        for p in parameters
        if p.dtype is None
        and re.match(r"float\d|longdouble|complex", p.dtype_name)
        and not no_weight(p)
        and not p.frozen
        and not _reason_of_place(p)
    ]


def _reason_of_place(p: Parameter) -> str:
    name, has_class = _reading(p.name), _has_class(p)
    reason = p.exempt or (name.reason_in_layer if has_class else name.reason)
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
        whole = _reading(name).part_of
        if whole is not None:
            found[name] = whole
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


class _Reading(NamedTuple):
    """What a name says, whatever array has it."""

    parent: str
    """All of it but the array's own name."""
    reason: str
    """Why it is no kernel's, or nothing; the name of what holds the array counts."""
    reason_in_layer: str
    """The same where a layer's class judges, so that the array's own name alone counts."""
    is_shift: bool
    role: str
    """Why it is no weight at all, but what an optimizer keeps; or nothing."""
    part_of: str | None
    """The name of the weight that is computed from an array of this name."""


_readings: dict[str, _Reading] = {}
_MOST_NAMES = 65536
_by_class: dict[tuple[type, str], str] = {}
_MOST_CLASSES = 1024  # classes made in a loop must not pile up


@untraced
def _reading(name: str) -> _Reading:
    found = _readings.get(name)
    if found is None:
        found = _read(name)
        if len(_readings) < _MOST_NAMES:
            _readings[name] = found
    return found


def _read(name: str) -> _Reading:
    bare = name.removesuffix(":0")
    words = re.split(r"[./]", bare)
    own = words[-1]
    reason = ""
    for pattern, what in _OWN_NAMES:
        if pattern.search(own.lower()):
            reason = f"{what}, by its name '{printable(own, 40)}'"
            break
    reason_in_layer = reason
    # A norm may hold a whole projection (adaptive ones do), but hardly another holder of arrays.
    if not reason and len(words) > 1 and _NORM.search(words[-2].lower()):
        reason = f"of a normalisation, by the name '{printable(words[-2], 40)}'"
    part = _PART.search(name)
    return _Reading(
        bare[: len(bare) - len(own)],
        reason,
        reason_in_layer,
        bool(_SHIFT.search(own.lower())),
        role_by_name(words),
        name[: part.start()] + (part["name"] or "") if part else None,
    )


def is_kernel_name(name: str) -> bool:
    """Whether nothing in a name, which no layer's class judges, says that it is no kernel's."""
    said = _reading(name)
    plain = not said.reason and not said.role and said.part_of is None
    return plain and not name.endswith(("_g", "_v"))


def is_weight_name(name: str) -> bool:
    """Whether nothing in a name says that it is of what an optimizer keeps."""
    return not _reading(name).role


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
