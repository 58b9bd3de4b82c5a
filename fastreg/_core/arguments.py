# SPDX-License-Identifier: BSD-3-Clause
"""What a user may ask for, checked once: numbers, weights, and the request they make together."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from fnmatch import translate
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from fastreg._core.dtypes import FLOATS, Dtype, by_name, name_of
from fastreg._core.frameworks import NAMES, compiling, framework, untraced
from fastreg.errors import ArgumentError, DTypeError, LayoutError, message, printable

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Globs",
    "Nonfinite",
    "Request",
    "Select",
    "Weight",
    "check_matrix",
    "entries",
    "expression",
    "flag",
    "not_differentiable",
    "number",
    "require_two",
    "result_dtype",
    "set_environment",
    "spellings",
    "two_weights",
    "weight",
    "weights_of",
]

Convention: TypeAlias = Literal["keras", "half"]
Nonfinite: TypeAlias = Literal["raise", "keep"]
Select: TypeAlias = (
    "Literal['kernels', 'all'] | str | re.Pattern[str] | bool | Callable[[str, Any], bool] | Any"
)
Weight: TypeAlias = "float | Mapping[str, float] | Sequence[float] | Callable[[str, Any], float]"

CONVENTIONS = {"keras": 1.0, "half": 0.5}
"""What l2 is multiplied by: Keras' λΣx², or λ/2·Σx² whose gradient is λx, as a weight decay's."""

# What messages call an argument whose name alone does not say what it is.
_WORDS = {"l1": "weight l1", "l2": "weight l2", "weights": "factor in weights="}

_LARGEST = 1.7976931348623157e308

# What keeps the caller's rounding mode and flush-to-zero out of a conversion.
_environment: Callable[[], AbstractContextManager[None]] = nullcontext


def set_environment(clean: Callable[[], AbstractContextManager[None]]) -> None:
    """Take the context manager of the kernels, which import this module."""
    global _environment
    _environment = clean


def number(
    x: Any,
    what: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    finite: bool = True,
    where: str = "",
) -> float:
    """Return an argument as a float: the one check of every weight, scale, step, rate and factor.

    Parameters
    ----------
    x : int, float, Fraction, Decimal, NumPy number or 0-d array
        Not a bool, a text, or a tensor, which would silently lose its graph.
    what : str
        The argument's name, for messages.
    least, most : float
        The range, bounds included.
    finite : bool, default True
        Whether infinity and NaN are refused; NaN is out of every range in any case.
    where : str
        Which array it is for, for messages.

    Raises
    ------
    DTypeError
        (a TypeError) For what is no real number.
    ArgumentError
        (a ValueError) For one out of range.
    """
    value = x if type(x) is float else _as_float(x, what, where)
    if least <= value <= most and (not finite or -_LARGEST <= value <= _LARGEST):
        return value
    if not finite and least == -math.inf and most == math.inf:
        return value  # NaN is a number where any is allowed
    if least == -math.inf:
        wanted = "that is finite"
    elif most == math.inf:
        wanted = f"that is finite and >= {least:g}" if finite else f"that is >= {least:g}"
    else:
        wanted = f"from {least:g} to {most:g}"
    place = f" for {where}" if where else ""
    action = "pass a non-negative number" if least == 0.0 else "pass such a number"
    expected = f"a {_WORDS.get(what, what)} {wanted}{place}"
    raise ArgumentError(message(expected, repr(x)[:80], action))


def _shown(x: Any) -> str:
    """Return a number as text; one of very many digits, which Python may refuse to write, not."""
    try:
        return repr(x) if abs(x) < 10**80 else f"a {type(x).__name__} of more than 80 digits"
    except (TypeError, ValueError):
        return f"a {type(x).__name__}"


def _as_float(x: Any, what: str, where: str) -> float:
    expected = f"a number as {_WORDS.get(what, what)}" + (f" for {where}" if where else "")
    home = framework(x)
    if home != "numpy":
        action = f"pass float({what})"
        if getattr(x, "ndim", 0):
            action = "pass Python floats"
        elif what in ("l1", "l2"):
            action += f", or multiply: {what} * penalty(x, {what}=1.0)"
        received = f"a {type(x).__name__} of {NAMES[home]}, which would get no gradient"
        raise DTypeError(message(expected, received, action))
    value = None
    plain = not isinstance(x, (str, bytes, bytearray, bool, np.bool_, complex, np.complexfloating))
    if (
        plain
        and getattr(x, "ndim", 0) == 0
        and getattr(getattr(x, "dtype", None), "kind", "f") in "fiuVO"
    ):
        try:
            if compiling():
                value = float(x)
            else:
                with _environment():
                    value = float(x)
        except OverflowError:
            raise ArgumentError(
                message(f"{expected} that float64 holds", _shown(x), "pass a smaller number")
            ) from None
        except (TypeError, ValueError):
            value = None
    if value is None:
        raise DTypeError(message(expected, f"a {type(x).__name__}: {x!r}"[:160], "pass a float"))
    return value


def weight(x: Any, what: str, where: str = "") -> float:
    """Return a weight as a float that is finite and >= 0, or raise as :func:`number`."""
    if type(x) is float and 0.0 <= x <= _LARGEST:
        return x
    return number(x, what, least=0.0, where=where)


def two_weights(l1: Any, l2: Any) -> tuple[float, float]:
    """Return the weights of one array, 0 for one that was not given.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`number`; if neither was given, for a penalty of nothing is a slip.
    """
    if l1 is None and l2 is None:
        raise ArgumentError(message("a weight, l1= or l2=", "neither", "pass l2=1e-4, or both"))
    return 0.0 if l1 is None else weight(l1, "l1"), 0.0 if l2 is None else weight(l2, "l2")


def flag(x: Any, what: str, *choices: str) -> str:
    """Return a word that is one of `choices`, or raise ArgumentError."""
    if not isinstance(x, str) or x not in choices:
        names = " or ".join(repr(c) for c in choices)
        raise ArgumentError(message(f"{what} {names}", repr(x)[:80], "pass one of them"))
    return x


def not_differentiable(received: str, conversion: str) -> DTypeError:
    """Return the error of a gradient of integers."""
    return DTypeError(
        message(
            "a float array (float16, bfloat16, float32, float64) to differentiate",
            received,
            f"convert it, for example with {conversion}",
        )
    )


def result_dtype(dtype: Any) -> Dtype:
    """Return the type of a result that the user asked for.

    Raises
    ------
    DTypeError
        (a TypeError) If it is not one of the four float types.
    """
    try:
        found = by_name(name_of(dtype))
    except (TypeError, ValueError):
        found = None
    if found is None or not found.floating:
        raise DTypeError(
            message(
                f"a result dtype among {', '.join(d.name for d in FLOATS)}",
                repr(dtype)[:80],
                "leave dtype out for the array's own type",
            )
        )
    return found


def check_matrix(shape: tuple[Any, ...], factor: Any) -> float:
    """Return the factor of a regularizer of rows, or raise unless it can work with these."""
    checked = weight(factor, "factor")
    if len(shape) != 2:
        raise LayoutError(
            message(
                "a matrix. Inputs to OrthogonalRegularizer must have rank 2",
                f"inputs.shape={tuple(shape)}",
                "reshape it, for example x.reshape(-1, x.shape[-1])",
            )
        )
    return checked


# -- Names and globs -------------------------------------------------------------------------------

# What wrappers put before or between names: torch.compile, checkpointing, FSDP, DDP.
_WRAPPERS = re.compile(r"(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)[./]")


def spellings(name: str) -> tuple[str, ...]:
    """Return a name as rules may spell it: as it is, without wrappers, with dots for slashes."""
    bare = _WRAPPERS.sub("", name) if "_mod" in name else name  # as in all of them
    bare = bare.removeprefix("module.")
    if bare == name and "/" not in name:
        return (name,)
    return tuple(
        dict.fromkeys(n for n in (name, bare, name.replace("/", "."), bare.replace("/", ".")))
    )


@untraced
def expression(glob: str) -> str:
    """Return the regular expression of a glob."""
    return translate(glob)


class Globs:
    """Names and globs, of which the first that fits a name is found without trying them all.

    A key that is a name goes before a glob, and an earlier glob before a later one. A glob can fit
    only names that hold its literal parts: each is filed under the one that the fewest others have,
    and a name is looked up by its own parts of that length.
    """

    __slots__ = ("_exact", "_filed", "_lengths", "_patterns")

    def __init__(self, keys: Iterable[Any], names: Iterable[str] = ()) -> None:
        self._exact = {str(key): key for key in keys}
        globs = [text for text in self._exact if set(text) & set("*?[")]
        if globs:  # a key that is the name of an array, of `names`, is no glob
            literal = {s for name in names for s in spellings(name)}
            globs = [text for text in globs if text not in literal]
        self._patterns: dict[str, re.Pattern[str]] = {}
        literals = {text: _literals(text) for text in globs}
        shared = Counter(part for parts in literals.values() for part in set(parts))
        self._filed: dict[str, list[tuple[int, str]]] = {}
        for k, text in enumerate(globs):
            part = min(literals[text], key=lambda p: (shared[p], -len(p)), default="")
            self._filed.setdefault(part, []).append((k, text))
        self._lengths = sorted({len(part) for part in self._filed})

    def find(self, names: Iterable[str]) -> Any:
        """Return the first key that one of the names of an array is or matches; None if none."""
        spelt = [s for name in names for s in spellings(name)]
        for name in spelt:
            if name in self._exact:
                return self._exact[name]
        first = min(self._matching(spelt), default=None)
        return None if first is None else self._exact[first[1]]

    def fitting(self, names: Iterable[str]) -> set[Any]:
        """Return the keys that fit, also those that an earlier one overrules."""
        spelt = [s for name in names for s in spellings(name)]
        found = {self._exact[s] for s in spelt if s in self._exact}
        return found | {self._exact[text] for _, text in self._matching(spelt)}

    def _matching(self, spelt: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Yield the globs that fit a name, with their places."""
        for name in spelt:
            parts = {
                name[k : k + length]
                for length in self._lengths
                for k in range(len(name) - length + 1)
            }
            for part in parts & self._filed.keys():
                for k, text in self._filed[part]:
                    if self._fits(text, name):
                        yield k, text

    def _fits(self, text: str, name: str) -> bool:
        if "?" not in text and "[" not in text:
            return _fits_stars(text.split("*"), name)  # compiling a pattern takes 100 us
        pattern = self._patterns.get(text)
        if pattern is None:
            pattern = self._patterns[text] = re.compile(expression(text))
        return pattern.match(name) is not None


def _fits_stars(parts: Sequence[str], name: str) -> bool:
    """Whether a name is these parts in order, with anything between them."""
    head, *middle, tail = parts
    end = len(name) - len(tail)
    place = len(head)
    if place > end or not (name.startswith(head) and name.endswith(tail)):
        return False
    for part in middle:
        found = name.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _literals(glob: str) -> list[str]:
    """Return the parts of a glob that stand in every name that it fits."""
    return [part for part in re.split(r"\*|\?|\[!?\]?[^\]]*\]", glob) if part]


# -- The request -----------------------------------------------------------------------------------


class Request(NamedTuple):
    """What a call asks for: weights, and which arrays they are for.

    Made by :meth:`of` from whatever the user passed, and passed on as one.

    Attributes
    ----------
    l1, l2 : float, or what gives one for each array; None if not given
    select : what :func:`fastreg._core.selection.decide` takes; None for the rule of the container
    weights : float, or what gives a factor for each array
    convention : "keras" or "half"
    """

    l1: Any
    l2: Any
    select: Any
    weights: Any
    convention: str

    @classmethod
    def of(
        cls,
        l1: Any = None,
        l2: Any = None,
        select: Any = None,
        weights: Any = 1.0,
        convention: Convention = "keras",
    ) -> Request:
        """Check everything that can be checked without the arrays.

        Raises
        ------
        DTypeError, ArgumentError
            As :func:`number` for each weight; for another convention.
        """
        if convention not in ("keras", "half"):
            flag(convention, "convention", *CONVENTIONS)
        return cls(_rule(l1, "l1"), _rule(l2, "l2"), select, _rule(weights, "weights"), convention)

    @property
    def plain(self) -> bool:
        """Whether there are numbers for all arrays alike, and nothing else was asked."""
        return self.select is None and self.uniform

    @property
    def uniform(self) -> bool:
        """Whether all arrays that are in have the same two weights, :attr:`numbers`."""
        return (
            type(self.weights) is float
            and self.weights == 1.0
            and self.convention == "keras"
            and (self.l1 is None or type(self.l1) is float)
            and (self.l2 is None or type(self.l2) is float)
        )

    @property
    def numbers(self) -> tuple[float, float]:
        """The two weights of a uniform request; one that was not given is 0."""
        # Not `or`: where denormals count as zero, a weight of 1e-310 is false.
        return 0.0 if self.l1 is None else self.l1, 0.0 if self.l2 is None else self.l2

    def require_weight(self) -> None:
        """Raise ArgumentError if neither weight was given."""
        if self.l1 is None and self.l2 is None:
            two_weights(None, None)

    def resolve(self, parameters: Sequence[Any]) -> Resolved:
        """Return the l1, l2 and factor of each array, as the user gave them.

        Raises
        ------
        DTypeError, ArgumentError
            As :func:`number`, naming the array; for a mapping's entry that names none, and a list
            of another length.
        """
        if type(self.weights) is float and self.weights == 1.0:
            factors = None
        else:
            factors = _each(self.weights, parameters, "weights", 1.0)
        return Resolved(
            None if self.l1 is None else _each(self.l1, parameters, "l1", 0.0),
            None if self.l2 is None else _each(self.l2, parameters, "l2", 0.0),
            factors,
            CONVENTIONS[self.convention],
        )


class Resolved(NamedTuple):
    """The numbers of each array: l1, l2 and factors, None where none were given.

    ``part`` is what the convention multiplies l2 by.
    """

    l1: list[float] | None
    l2: list[float] | None
    factors: list[float] | None
    part: float

    def products(self, parameters: Sequence[Any]) -> tuple[list[float], list[float]]:
        """Return the l1 and l2 of each array, the factors and the convention multiplied in.

        A product is a float64 number, rounded once; these are the weights of which the penalty is
        then exact. In an environment that rounds to nearest and keeps subnormal numbers.

        Raises
        ------
        ArgumentError
            For a product that float64 does not hold, naming the array.
        """
        out = []
        for what, each, by in (("l1", self.l1, 1.0), ("l2", self.l2, self.part)):
            if each is None:
                out.append([0.0] * len(parameters))
            elif self.factors is None:
                out.append([w * by for w in each])
            else:
                # The larger one is halved exactly, or the product is 0.
                products = [
                    max(w, f) * by * min(w, f) for w, f in zip(each, self.factors, strict=True)
                ]
                for p, product in zip(parameters, products, strict=True):
                    if not product <= _LARGEST:
                        number(product, f"product {what} * weights", least=0.0, where=p.label)
                out.append(products)
        return out[0], out[1]


def weights_of(x: Any, parameters: Sequence[Any], what: str) -> list[float]:
    """Return the weight of each array from a number, list, mapping or callable, all checked."""
    return _each(weight(x, what) if x is None else _rule(x, what), parameters, what, 0.0)


def entries(rule: dict[Any, Any], parameters: Sequence[Any], what: str) -> list[Any]:
    """Return the entry of a dict by names and globs for each array, None where there is none.

    Raises
    ------
    ArgumentError
        For an entry that names no array.
    """
    return _each(rule, parameters, what, None)


def _rule(x: Any, what: str) -> Any:
    """Check a weight as far as it can be without the arrays; numbers become floats."""
    if type(x) is float and 0.0 <= x <= _LARGEST:
        return x
    if x is None:
        if what == "weights":
            raise ArgumentError(message("weights= as factors", "None", "leave it out"))
        return None
    if isinstance(x, Mapping):
        return {key: weight(v, what, f"'{printable(str(key), 80)}'") for key, v in x.items()}
    if isinstance(x, (list, tuple)) or (isinstance(x, np.ndarray) and x.ndim == 1):
        return [weight(v, what, f"position {k}") for k, v in enumerate(x)]
    if callable(x) and framework(x) == "numpy" and not hasattr(x, "__float__"):
        require_two(x, what)
        return x
    return weight(x, what)


def require_two(function: Callable[..., Any], what: str) -> None:
    """Refuse a callable that cannot be called with a name and an array.

    Raises
    ------
    ArgumentError
        Not for what does not tell its arguments.
    """
    if compiling():
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind("", None)
    except TypeError:
        raise ArgumentError(
            message(
                f"a callable {what}= of two arguments, a name and an array",
                f"one of {printable(str(signature), 80)}",
                "write it as lambda name, array: ...",
            )
        ) from None


def _called(rule: Callable[[str, Any], Any], p: Any, what: str, rest: float) -> float:
    """Return what a callable says of an array; of a tied one, the first name that it knows."""
    said = [weight(rule(name, p.original), what, p.label) for name in (p.name, *p.aliases)]
    return next((w for w in said if w != rest), rest)


def _each(rule: Any, parameters: Sequence[Any], what: str, rest: Any) -> list[Any]:
    """Return one number for each array."""
    if isinstance(rule, float):
        return [rule] * len(parameters)
    if isinstance(rule, list):
        if len(rule) != len(parameters):
            raise ArgumentError(
                message(
                    f"{len(parameters)} number{'s' * (len(parameters) != 1)} {what}, one for each "
                    "array that is in",
                    str(len(rule)),
                    "pass one number for all arrays, or one for each",
                )
            )
        return list(rule)
    if not isinstance(rule, dict):
        return [_called(rule, p, what, rest) for p in parameters]
    globs = Globs(rule, (name for p in parameters for name in p.names))
    unused = set(rule)
    out = []
    for p in parameters:
        key = globs.find(p.names)
        unused.discard(key)
        out.append(rest if key is None else rule[key])
    if unused:  # overruled everywhere, or fitting nothing?
        for p in parameters:
            unused -= globs.fitting(p.names)
            if not unused:
                break
    for key in rule:
        if key in unused:
            raise ArgumentError(
                message(
                    f"names or globs of selected arrays in {what}=",
                    f"'{printable(str(key), 80)}', which matches none",
                    "correct it, or see fastreg.explain(params, select=...)",
                )
            )
    return out
