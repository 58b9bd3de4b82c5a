# SPDX-License-Identifier: BSD-3-Clause
"""Which arrays of a model a call is about, with which weights, and why."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, TextIO, TypeAlias

import numpy as np

from fastreg.checkpoints import printable
from fastreg.errors import ArgumentError, message
from fastreg.parameters import FLOATS, Parameter, gather, leaves, outlined

__all__ = [
    "CONVENTIONS",
    "Decision",
    "Select",
    "Weight",
    "choose",
    "decide",
    "explain",
    "print_decisions",
    "resolve",
    "selected",
    "weights_of",
]

Select: TypeAlias = "str | re.Pattern[str] | bool | Callable[[str, Any], bool] | Any"
Weight: TypeAlias = "float | Mapping[str, float] | Callable[[str, Any], float]"

CONVENTIONS = {"keras": 1.0, "half": 0.5}
"""What l2 is multiplied by: Keras' λΣx², or λ/2·Σx² whose gradient is λx, as a weight decay's."""

_BIAS = re.compile(r"(^|_)bias(es)?(_|$)|^intercept_?$")
_SCALE = re.compile(r"^(gamma|beta|scale|offset|shift)$")
# "norm" as in layer_norm, BatchNorm2d, batch_normalization, norm1; not normal, not enormous.
_NORM = re.compile(r"(?<!e)norm(?!al(?!i[sz])|ous)|^(bn|ln|gn)(\d+|_\w+)?$")
_STATISTIC = re.compile(r"^((running|moving)_(mean|var|variance|std)|num_batches_tracked)$")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether an array is in, and the rule that decided.

    Attributes
    ----------
    parameter : Parameter
        The array.
    included : bool
        Whether it is in.
    rule : str
        Why, in a few words.
    """

    parameter: Parameter
    included: bool
    rule: str


def decide(parameters: Sequence[Parameter], select: Select = "kernels") -> list[Decision]:
    """Decide for each array whether it is in.

    Parameters
    ----------
    parameters : sequence of Parameter
        As :func:`fastreg.parameters.collect` returns them.
    select : str, re.Pattern, callable, bool or tree of bool, default "kernels"
        ``"kernels"``: floats of two or more dimensions, but no bias, no scale or offset of a
        normalisation, no running statistic, and nothing frozen (a torch Parameter without
        ``requires_grad``, a Keras variable that is not trainable); names and shapes decide.
        ``"all"``: everything. ``"re:..."`` or a compiled pattern: names in which it is found. Any
        other string: names that match it as a glob, case and all (``"*.weight"``). A callable
        ``(name, array) -> bool`` is given what stood in the container. A container of bools with
        the structure of params, of which one may stand for everything below it.

    Returns
    -------
    list of Decision
        In the order of ``parameters``.

    Raises
    ------
    ArgumentError
        (a ValueError) For any other ``select``, a mask that does not fit, or an answer that is no
        bool.

    Examples
    --------
    >>> import numpy as np
    >>> from fastreg.parameters import collect
    >>> params = {"dense": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}}
    >>> [(d.parameter.name, d.included, d.rule) for d in decide(collect(params))]
    [('dense.kernel', True, 'a kernel'), ('dense.bias', False, "a bias, by its name 'bias'")]
    """
    if isinstance(select, str):
        if select == "all":
            return [Decision(p, True, "select='all'") for p in parameters]
        if select == "kernels":
            return [_kernel(p) for p in parameters]
        if not select.startswith("re:"):
            return [
                Decision(p, hit, f"{'matches' if hit else 'does not match'} {select!r}")
                for p in parameters
                for hit in (fnmatchcase(p.name, select),)
            ]
        try:
            select = re.compile(select[3:])
        except re.error as e:
            raise ArgumentError(
                message("a regular expression after 're:'", f"{select!r} ({e})", "correct it")
            ) from None
    if isinstance(select, re.Pattern):
        return [
            Decision(p, hit, f"{'has' if hit else 'has no'} {select.pattern!r}")
            for p in parameters
            for hit in (bool(select.search(p.name)),)
        ]
    if isinstance(select, (bool, np.bool_, Mapping, list, tuple)):
        return _mask(parameters, select)
    if callable(select):
        name = getattr(select, "__name__", type(select).__name__)
        return [_called(p, select, name) for p in parameters]
    raise ArgumentError(
        message(
            "select= 'kernels', 'all', a glob, 're:...', a pattern, a callable or a tree of bools",
            repr(select)[:80],
            "pass one of them",
        )
    )


def selected(parameters: Sequence[Parameter], select: Select) -> list[Decision]:
    """Return what :func:`decide` does, but refuse to leave everything out by a rule of names.

    Raises
    ------
    ArgumentError
        If there are arrays, and a string or pattern takes none: mostly a slip, and a penalty of
        nothing would never be noticed.
    """
    decisions = decide(parameters, select)
    if (
        decisions
        and isinstance(select, (str, re.Pattern))
        and not any(d.included for d in decisions)
    ):
        first = decisions[0]
        raise ArgumentError(
            message(
                f"select= to take at least one of {len(decisions)} arrays",
                f"{getattr(select, 'pattern', select)!r}, which takes none "
                f"({first.parameter.label}: {first.rule})",
                "pass select='all', or see fastreg.explain(params, select=...)",
            )
        )
    return decisions


def _kernel(p: Parameter) -> Decision:
    if p.array.dtype not in FLOATS:
        return Decision(p, False, f"{p.array.dtype} is no float type")
    if _frozen(p.original):
        return Decision(p, False, "frozen")
    rule = _rule_of_name(p.name)
    if rule:
        return Decision(p, False, rule)
    ndim = len(p.array.shape)
    if ndim < 2:
        return Decision(p, False, f"ndim {ndim} < 2")
    return Decision(p, True, "a kernel")


@lru_cache(maxsize=65536)
def _rule_of_name(name: str) -> str:
    """Return why a name is not a kernel's, or nothing."""
    parts = re.split(r"[./]", name.removesuffix(":0"))
    last = parts[-1]
    low = last.lower()
    if _STATISTIC.search(low):
        return f"a running statistic, by its name '{printable(last, 40)}'"
    if _BIAS.search(low):
        return f"a bias, by its name '{printable(last, 40)}'"
    # Only the array and what it belongs to: a norm may hold a whole projection (adaptive ones do).
    for part in parts[-2:]:
        if _NORM.search(part.lower()):
            return f"of a normalisation, by the name '{printable(part, 40)}'"
    if _SCALE.search(low):
        return f"a scale or offset, by its name '{printable(last, 40)}'"
    return ""


def _frozen(x: Any) -> bool:
    if type(x) is np.ndarray:
        return False
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.nn.Parameter):
        return not x.requires_grad
    trainable = getattr(x, "trainable", None)
    return trainable is False


def _called(p: Parameter, select: Callable[[str, Any], Any], name: str) -> Decision:
    answer = select(p.name, p.original)
    if not isinstance(answer, (bool, np.bool_)):
        raise ArgumentError(
            message(
                f"True or False from the callable select= for {p.label}",
                repr(answer)[:80],
                "return a bool",
            )
        )
    return Decision(p, bool(answer), f"{printable(name, 40)}() is {bool(answer)}")


def _mask(parameters: Sequence[Parameter], mask: Any) -> list[Decision]:
    marks = dict(leaves(mask, is_leaf=lambda x: not isinstance(x, (Mapping, list, tuple))))
    for path, mark in marks.items():
        if not isinstance(mark, (bool, np.bool_)):
            raise ArgumentError(
                message("bools in a mask", f"{mark!r} at {path}"[:120], "pass True or False")
            )
    if isinstance(mask, (bool, np.bool_)):
        return [Decision(p, bool(mask), f"mask {bool(mask)}") for p in parameters]
    used = set()
    out = []
    for p in parameters:
        prefixes = [p.path[:k] for k in range(len(p.path), 0, -1)]
        hits = [path for path in prefixes if path in marks]
        if not hits:
            raise ArgumentError(
                message(f"a mask with an entry for {p.label}", "none", "add True or False for it")
            )
        path = hits[0]
        used.add(path)
        out.append(Decision(p, bool(marks[path]), f"mask {bool(marks[path])}"))
    aliases = {a for p in parameters for a in p.aliases}
    for path in marks:
        name = ".".join(map(str, path))
        if path not in used and name not in aliases:
            raise ArgumentError(
                message(
                    "a mask of params' structure",
                    f"an entry '{printable(name, 80)}' for which there is no array",
                    "leave it out",
                )
            )
    return out


# -- Weights ---------------------------------------------------------------------------------------


def resolve(
    weight: Weight, parameters: Sequence[Parameter], *, what: str, rest: float
) -> list[float]:
    """Return one weight for each array.

    Parameters
    ----------
    weight : float, mapping or callable
        A number for all; a mapping from names or globs to numbers, of which a name goes before a
        glob and an earlier glob before a later one; or ``(name, array) -> number``.
    parameters : sequence of Parameter
        The arrays.
    what : str
        The argument's name, for messages.
    rest : float
        For arrays that a mapping does not name.

    Raises
    ------
    ArgumentError
        For a weight that is negative, NaN, infinite or no number, and for a mapping's entry that
        names no array.
    """
    if isinstance(weight, Mapping):
        used = set()
        out = []
        for p in parameters:
            names = (p.name, *p.aliases)
            key = next((n for n in names if n in weight), None)
            if key is None:
                key = next((g for g in weight if any(fnmatchcase(n, g) for n in names)), None)
            used.add(key)
            out.append(rest if key is None else _number(weight[key], what, f"'{key}'"))
        shadowed = {
            g for g in weight if any(fnmatchcase(n, g) for p in parameters for n in (p.name,))
        }
        for key, number in weight.items():
            _number(number, what, f"'{key}'")
            if key not in used and key not in shadowed:
                raise ArgumentError(
                    message(
                        f"names or globs of selected arrays in {what}=",
                        f"'{printable(str(key), 80)}', which matches none",
                        "correct it, or see fastreg.explain(params, select=...)",
                    )
                )
        return out
    if callable(weight):
        return [_number(weight(p.name, p.original), what, p.label) for p in parameters]
    return [_number(weight, what, "")] * len(parameters)


def _number(x: Any, what: str, where: str) -> float:
    try:
        if isinstance(x, (str, bytes, bool, np.bool_)):
            raise TypeError
        number = float(x)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise ArgumentError(
            message(
                f"a number {what} that is finite and >= 0{f' for {where}' if where else ''}",
                repr(x)[:80],
                "pass a non-negative number",
            )
        )
    return number


def weights_of(
    parameters: Sequence[Parameter],
    l1: Weight,
    l2: Weight,
    weights: Weight,
    convention: str,
) -> tuple[list[float], list[float]]:
    """Return the l1 and l2 of each array, the factors ``weights`` and the convention multiplied in.

    The products are float64 numbers, rounded once each; they are the weights of which the penalty
    is then exact.
    """
    if convention not in CONVENTIONS:
        raise ArgumentError(
            message(
                "convention 'keras' (l2 * sum x^2) or 'half' (l2 / 2 * sum x^2)",
                repr(convention)[:80],
                "pass one of them",
            )
        )
    part = CONVENTIONS[convention]
    if type(l1) is float and type(l2) is float and type(weights) is float and weights == 1.0:
        return (
            [_number(l1, "l1", "")] * len(parameters),
            [_number(l2, "l2", "") * part] * len(parameters),
        )
    factors = resolve(weights, parameters, what="weights", rest=1.0)
    out = []
    for what, weight, by in (("l1", l1, 1.0), ("l2", l2, part)):
        products = [
            w * f * by
            for w, f in zip(resolve(weight, parameters, what=what, rest=0.0), factors, strict=True)
        ]
        for p, product in zip(parameters, products, strict=True):
            _number(product, f"{what} * weights", p.label)
        out.append(products)
    return out[0], out[1]


def choose(
    params: Any,
    *,
    l1: Weight = 0.0,
    l2: Weight = 0.0,
    select: Select = "kernels",
    weights: Weight = 1.0,
    convention: str = "keras",
) -> tuple[list[str], list[Any], list[float], list[float]]:
    """Return the chosen arrays of a container and their weights, without looking at their memory.

    For framework rooms, whose arrays may be on another device or in a traced program.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`fastreg.penalty`.

    Returns
    -------
    names, arrays, l1s, l2s : lists of the same length
        The objects that stood in the container, with the weights of each.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`fastreg.penalty`.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"dense": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}}
    >>> names, arrays, l1s, l2s = choose(params, l2={"dense.*": 0.5}, convention="half")
    >>> names, l1s, l2s
    (['dense.kernel'], [0.0], [0.25])
    """
    chosen = [d.parameter for d in selected(outlined(params), select) if d.included]
    l1s, l2s = weights_of(chosen, l1, l2, weights, convention)
    return [p.name for p in chosen], [p.original for p in chosen], l1s, l2s


# -- Explaining ------------------------------------------------------------------------------------


def explain(params: Any, *, select: Select = "kernels", file: TextIO | None = None) -> None:
    """Print which arrays are in, which are out, and the rule that decided.

    Parameters
    ----------
    params : array or container of arrays
        As in :func:`fastreg.parameters.collect`.
    select : default "kernels"
        As in :func:`decide`.
    file : text file, optional
        Default ``sys.stdout``. On a terminal, names are shortened to its width.

    Raises
    ------
    DTypeError, ArgumentError
        For a leaf that is no array, and a ``select`` that fits nothing known.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.explain({"dense": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}})
         array         shape  n  rule
    in   dense.kernel    2×3  6  a kernel
    out  dense.bias        3  3  a bias, by its name 'bias'
    <BLANKLINE>
    1 of 2 arrays in, 6 of 9 elements
    """
    gathered = gather(params)
    print_decisions(decide(gathered.parameters, select), gathered.notes, file or sys.stdout)


def print_decisions(decisions: Sequence[Decision], notes: Sequence[str], file: TextIO) -> None:
    """Print decisions as :func:`explain` does."""
    from fastreg.table import _ascii, _cells, _shape, _shorten

    width = shutil.get_terminal_size().columns if file.isatty() else 0
    try:
        "×…".encode(file.encoding or "utf-8")
        clean: Callable[[str], str] = str
    except (UnicodeEncodeError, LookupError):
        clean = _ascii
    names = [printable(d.parameter.name) for d in decisions]
    shapes = [_shape(d.parameter.array.shape) for d in decisions]
    sizes = [f"{d.parameter.array.size:,}" for d in decisions]
    rules = [d.rule for d in decisions]
    rooms = [
        max(map(_cells, texts), default=0)
        for texts in (["array", *names], ["shape", *shapes], ["n", *sizes])
    ]
    if width:
        others = 5 + rooms[1] + rooms[2] + 6
        if others + rooms[0] + max(map(len, rules), default=0) > width:
            rules = [_without_name(rule) for rule in rules]
        rest = others + max(map(len, rules), default=0)
        rooms[0] = max(min(rooms[0], width - rest), min(rooms[0], 16))

    def line(mark: str, name: str, shape: str, n: str, rule: str) -> None:
        name = _shorten(name, rooms[0])
        text = (
            f"{mark:3}  {name}{' ' * (rooms[0] - _cells(name))}  "
            f"{shape:>{rooms[1]}}  {n:>{rooms[2]}}  {rule}"
        )
        print(clean(_shortened(text, width)).rstrip(), file=file)

    line("", "array", "shape", "n", "rule")
    for d, *cells in zip(decisions, names, shapes, sizes, rules, strict=True):
        line("in" if d.included else "out", *cells)
    print(file=file)
    for note in notes:
        print(clean(note), file=file)
    inside = [d.parameter for d in decisions if d.included]
    total = sum(d.parameter.array.size for d in decisions)
    print(
        f"{len(inside):,} of {len(decisions):,} arrays in, "
        f"{sum(p.array.size for p in inside):,} of {total:,} elements",
        file=file,
    )
    kinds = Counter(_without_name(d.rule) for d in decisions if not d.included)
    if len(kinds) > 1:
        print("out: " + ", ".join(f"{kind} ({n:,})" for kind, n in kinds.most_common()), file=file)


def _without_name(rule: str) -> str:
    """Return a rule without the name that it found, which the line shows anyway."""
    return re.sub(r",? by (its|the) name '.*'$", "", rule)


def _shortened(text: str, width: int) -> str:
    return text[: width - 1] + "…" if width and len(text) > width else text
