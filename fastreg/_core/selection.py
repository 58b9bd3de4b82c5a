# SPDX-License-Identifier: BSD-3-Clause
"""Which arrays of a model a call is about, and why: one rule for every function and backend.

An array, or a list or tuple of arrays, means exactly those arrays. A container with names means its
kernels, unless ``select=`` says otherwise.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TextIO, TypeGuard

import numpy as np

from fastreg._core.arguments import Request, Select, expression, require_two, spellings
from fastreg._core.containers import Gathered, Parameter, gather, leaves
from fastreg._core.dtypes import FLOATS
from fastreg._core.frameworks import compiling
from fastreg._core.kernel_rule import PART, no_array, no_weight, reasons, unread_kernels
from fastreg._core.pytrees import flattened_once
from fastreg._core.roles import OPTIMIZER
from fastreg._core.text import Column, Table, lines_for, printable, shape_text, terminal_width
from fastreg._kernels import clean_environment
from fastreg.errors import ArgumentError, DTypeError, LayoutError, message

__all__ = [
    "Chosen",
    "Decision",
    "Select",
    "chosen",
    "decide",
    "decisions_html",
    "explain",
    "print_decisions",
    "require_some",
    "weights_for",
    "without_numbers",
]


class Decision(NamedTuple):
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


class Chosen(NamedTuple):
    """What a call is about.

    Attributes
    ----------
    gathered : Gathered
        All that the container holds.
    decisions : list of Decision
        One for each of its arrays.
    parameters : list of Parameter
        Those that are in.
    request : Request
        What was asked for.
    """

    gathered: Gathered
    decisions: list[Decision]
    parameters: list[Parameter]
    request: Request

    @property
    def weights(self) -> tuple[list[float], list[float]]:
        """The l1 and l2 of each array that is in; see :meth:`Request.resolve`."""
        return weights_for(self.request, self.parameters)

    @property
    def names(self) -> list[str]:
        """Names of the arrays that are in."""
        return [p.name for p in self.parameters]

    @property
    def originals(self) -> list[Any]:
        """What stood in the container, of the arrays that are in."""
        return [p.original for p in self.parameters]

    def arranged(self, new: Sequence[Any]) -> Any:
        """Return what was made for each array that is in, such as gradients, as params holds them.

        For one array that alone; for a container with names a dict by name; for one without lists
        nested alike, with None for what is not in or was counted before.

        Raises
        ------
        LayoutError
            For two arrays of one name, of which a dict would lose one.
        """
        if self.gathered.single:
            return new[0] if new else None
        if self.gathered.named:
            return dict(zip(self.distinct_names(), new, strict=True))
        by_path = {p.path: x for p, x in zip(self.parameters, new, strict=True)}
        return _filled(self.gathered.outline, by_path)

    def distinct_names(self) -> list[str]:
        """Return the names of the arrays that are in, or raise if two are alike."""
        names = self.names
        if len(set(names)) < len(names):
            twice = printable(Counter(names).most_common(1)[0][0], 80)
            raise LayoutError(
                message(
                    "arrays of distinct names",
                    f"two called '{twice}'",
                    "pass a list of the arrays, or out=",
                )
            )
        return names


def _filled(outline: Sequence[Any], new: Mapping[tuple[Any, ...], Any]) -> list[Any]:
    return [_filled(o, new) if isinstance(o, list) else new.get(o) for o in outline]


def weights_for(
    request: Request, parameters: Sequence[Parameter]
) -> tuple[list[float], list[float]]:
    """Return the l1 and l2 of each array, whatever the caller's floating-point environment is."""
    given = request.resolve(parameters)
    if compiling():
        return given.products(parameters)
    with clean_environment():
        return given.products(parameters)


def chosen(
    params: Any, request: Request, *, everything: bool = False, values: bool = False
) -> Chosen:
    """Return the arrays of a container that a call is about; nothing is read from memory.

    Parameters
    ----------
    params : array or container of arrays
        As :func:`fastreg._core.containers.gather` takes.
    request : Request
        Whose ``select`` decides; None there means the rule of the container.
    everything : bool, default False
        Whether that rule is "all" for every container, as for norms and statistics, and a torch
        module stands for its buffers too.
    values : bool, default False
        Whether an array that stands there twice counts twice, as gradients do, and a torch module
        stands for its parameters.

    Raises
    ------
    DTypeError, ArgumentError
        For what is no array or no rule, and for a rule that takes none of the arrays.
    """
    modules = "parameters" if values else "state" if everything else "weights"
    gathered = gather(params, values=values, modules=modules)
    select = request.select
    if select is None and (everything or not gathered.named):
        return Chosen(
            gathered,
            [Decision(p, True, "given") for p in gathered.parameters],
            gathered.parameters,
            request,
        )
    weights = not everything
    decisions = decide(gathered, select, weights=weights)
    for d in decisions if select is None or select == "kernels" else ():
        if d.rule.startswith(PART):
            raise ArgumentError(
                message(
                    "a module, which computes its weights",
                    f"{d.parameter.label}, {d.rule}",
                    "pass the module, or say with select= which arrays are meant",
                )
            )
    if select is None or select == "kernels":
        require_readable(gathered)
    for rule in select if _are_rules(select) else [select]:
        said = decisions if rule is select else decide(gathered, rule, weights=weights)
        require_some(said, rule)
    return Chosen(gathered, decisions, [d.parameter for d in decisions if d.included], request)


def without_numbers(found: Chosen) -> tuple[Chosen, list[str]]:
    """Leave out what stands in a model and is no array, and return a note for each.

    Numbers of Python in registered classes, such as the rate of a dropout, and keys of random
    numbers.
    """
    if not found.gathered.named:
        return found, []
    said = [(p, no_array(p)) for p in found.parameters]
    notes = [f"{p.label} is left out: {why}" for p, why in said if why]
    kept = [p for p, why in said if not why]
    return found._replace(parameters=kept), notes


def require_readable(gathered: Gathered) -> None:
    """Refuse to leave out kernels for their type alone: the number would lack them."""
    for p in unread_kernels(gathered.parameters):
        raise DTypeError(
            message(
                f"kernels of type {', '.join(d.name for d in FLOATS)}",
                f"{p.label} of {printable(p.dtype_name, 40)}",
                "convert it, or say with select= which arrays are meant",
            )
        )


def require_some(decisions: Sequence[Decision], select: Select) -> None:
    """Raise ArgumentError if there are arrays and a rule takes none of them.

    Mostly a slip, and a penalty of nothing would never be noticed.
    """
    if not decisions or any(d.included for d in decisions):
        return
    # What the rule itself would take says most.
    first = next((d for d in decisions if d.rule == no_weight(d.parameter)), decisions[0])
    action = "see fastreg.explain(params, select=...)"
    if any(d.rule.startswith(OPTIMIZER) for d in decisions):
        action = f"pass the model's own part, or {action}"
    elif select is None and any(d.rule != "frozen" for d in decisions):
        action = f"pass select='all', or {action}"
    raise ArgumentError(
        message(
            f"select= to take at least one of {len(decisions)} arrays",
            f"{_spelt(select)}, which takes none ({first.parameter.label}: {first.rule})",
            action,
        )
    )


def _spelt(select: Select) -> str:
    """Return a rule as the user wrote it, or what kind it is."""
    if select is None:
        return "'kernels'"
    if isinstance(select, (str, re.Pattern)):
        return repr(getattr(select, "pattern", select))[:80]
    if isinstance(select, (bool, np.bool_, Mapping, list, tuple)):
        return "a mask"
    return f"the callable {printable(_called_name(select), 40)}"


def decide(
    gathered: Gathered, select: Select = None, *, frozen: bool = False, weights: bool = True
) -> list[Decision]:
    """Decide for each array whether it is in.

    Parameters
    ----------
    gathered : Gathered
        As :func:`fastreg._core.containers.gather` returns it.
    select : str, re.Pattern, list of these, callable, bool or tree of bool, optional
        None: ``"all"`` for an array or a list of arrays, ``"kernels"`` for a container with names.

        ``"kernels"``: floats of two or more dimensions, but no bias, no parameter of a
        normalisation, no scale, token or position, no running statistic, nothing that its author
        exempts (by a mark ``_no_weight_decay``, or in the module's ``no_weight_decay()``), and
        nothing frozen (a torch Parameter without ``requires_grad``, a variable or layer of Keras
        that is not trainable). Where a layer holds the array, its class tells what it is;
        elsewhere the name of what holds it does. A weight that a torch module computes
        (parametrizations, ``weight_norm``, pruning) is a kernel as it is used.
        ``"all"``: everything. ``"re:..."`` or a compiled pattern: names in which it is found. Any
        other string: names that match it as a glob, case and all (``"*.weight"``), with dots or
        with slashes, and with or without what wrappers put before them. A callable
        ``(name, array) -> bool`` is given what stood in the container. A container of bools with
        the structure of params, of which one may stand for everything below it. Tied arrays are in
        if they are under one of their names.
    frozen : bool, default False
        Whether "kernels" are also what is frozen, for it may be trained later.
    weights : bool, default True
        Whether only weights may be in, whatever ``select`` says: of a container with names not what
        an optimizer keeps (states of optax and torch, what stands under ``opt_state`` or
        ``optimizer``), no variable of Flax that is no ``Param``, no number of Python and no key.

    Raises
    ------
    ArgumentError
        (a ValueError) For any other ``select``, a mask that does not fit, or an answer that is no
        bool.
    """
    if select is None:
        select = "kernels" if gathered.named else "all"
    decisions = _decided(gathered, select, frozen)
    if not weights or not gathered.named:
        return decisions
    always = isinstance(select, str) and select == "kernels"
    return [_of_weights(d) if always or d.included else d for d in decisions]


def _of_weights(decision: Decision) -> Decision:
    why = no_weight(decision.parameter)
    return Decision(decision.parameter, False, why) if why else decision


def _decided(gathered: Gathered, select: Any, frozen: bool) -> list[Decision]:
    """Decide by a rule alone."""
    parameters = gathered.parameters
    if isinstance(select, str):
        if select == "all":
            return [Decision(p, True, "select='all'") for p in parameters]
        if select == "kernels":
            return [
                Decision(p, not why, why or ("a kernel, computed" if p.sources else "a kernel"))
                for p, why in zip(parameters, reasons(parameters, frozen=frozen), strict=True)
            ]
        if not select.startswith("re:"):
            is_name = any(select in p.names for p in parameters)  # whatever it is as a glob
            matches = partial(_same, select) if is_name else re.compile(expression(select)).match
            return [
                Decision(p, hit, f"{'matches' if hit else 'does not match'} {select!r}")
                for p in parameters
                for hit in (_fits(p, matches),)
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
            for hit in (_fits(p, select.search),)
        ]
    if _are_rules(select):
        each = zip(*(_decided(gathered, rule, frozen) for rule in select), strict=True)
        return [next((d for d in said if d.included), said[0]) for said in each]
    if isinstance(select, (bool, np.bool_, Mapping, list, tuple)):
        return _mask(parameters, select)
    if callable(select):
        require_two(select, "select")
        return [_called(p, select) for p in parameters]
    if isinstance(select, int):
        raise _position(select)
    raise ArgumentError(
        message(
            "select= 'kernels', 'all', a glob, 're:...', a pattern, a list of these, "
            "a callable or a tree of bools",
            repr(select)[:80],
            "pass one of them",
        )
    )


def _are_rules(select: Any) -> TypeGuard[Sequence[str | re.Pattern[str]]]:
    """Whether these are rules of names, of which one is enough, and no mask."""
    return (
        isinstance(select, (list, tuple))
        and bool(select)
        and all(isinstance(rule, (str, re.Pattern)) for rule in select)
    )


def takes(select: Select, name: str, described: Any) -> bool:
    """Whether a rule takes an array that is only described, by its ``shape`` and ``dtype``."""
    gathered = Gathered()
    gathered.parameters = [Parameter((name,), described)]
    return decide(gathered, select)[0].included


def _same(name: str, other: str) -> Any:
    return name == other


def _fits(p: Parameter, matches: Callable[[str], Any]) -> bool:
    return any(matches(s) for name in p.names for s in spellings(name))


def _called_name(select: Any) -> str:
    return str(getattr(select, "__name__", type(select).__name__))


def _called(p: Parameter, select: Callable[[str, Any], Any]) -> Decision:
    answers = [select(name, p.original) for name in (p.name, *p.aliases)]
    for answer in answers:
        if not isinstance(answer, (bool, np.bool_)):
            raise ArgumentError(
                message(
                    f"True or False from the callable select= for {p.label}",
                    repr(answer)[:80],
                    "return a bool",
                )
            )
    answer = any(answers)
    return Decision(p, answer, f"{printable(_called_name(select), 40)}() is {answer}")


def _mask(parameters: Sequence[Parameter], mask: Any) -> list[Decision]:
    if isinstance(mask, (bool, np.bool_)):
        return [Decision(p, bool(mask), f"mask {bool(mask)}") for p in parameters]
    marks = dict(leaves(mask, is_leaf=_is_mark))
    for path, mark in marks.items():
        if type(mark) is int:
            raise _position(mark)
        if not isinstance(mark, (bool, np.bool_)):
            raise ArgumentError(
                message("bools in a mask", f"{mark!r} at {path}"[:120], "pass True or False")
            )
    by_name = {".".join(map(str, path)): path for path in marks}
    used = set()
    out = []
    for p in parameters:
        found = {path for path in (p.path[:k] for k in range(len(p.path), 0, -1)) if path in marks}
        found |= {by_name[name] for name in _names_above(p) if name in by_name}
        if not found:
            raise ArgumentError(
                message(f"a mask with an entry for {p.label}", "none", "add True or False for it")
            )
        used |= found
        included = any(marks[path] for path in found)
        out.append(Decision(p, included, f"mask {included}"))
    for path in marks:
        if path not in used:
            raise ArgumentError(
                message(
                    "a mask of params' structure",
                    f"an entry '{printable('.'.join(map(str, path)), 80)}' for which there is no "
                    "array",
                    "leave it out",
                )
            )
    return out


def _position(k: int) -> ArgumentError:
    return ArgumentError(
        message(
            "names in select=, or a tree of bools",
            repr(k)[:80],
            f"pass the name, '{k}' for position {k} of a list",
        )
    )


def _is_mark(x: Any) -> bool:
    return not isinstance(x, (Mapping, list, tuple)) and flattened_once(x) is None


def _names_above(p: Parameter) -> Iterator[str]:
    """Yield the names of an array, and of what holds it under each of them."""
    for name in (p.name, *p.aliases):
        for end in (m.start() for m in re.finditer(r"[./]|$", name)):
            yield name[:end]


# -- Explaining ------------------------------------------------------------------------------------


def explain(params: Any, *, select: Select = None, file: TextIO | None = None) -> None:
    """Print which arrays a penalty takes, which it leaves out, and the rule that decided.

    Parameters
    ----------
    params : array or container of arrays
        As in :func:`fastreg.penalty`; nothing is read from their memory.
    select : optional
        As in :func:`fastreg.penalty`.
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
    print_decisions(decide(gathered, select), gathered.notes, file or sys.stdout)


def print_decisions(decisions: Sequence[Decision], notes: Sequence[str], file: TextIO) -> None:
    """Print decisions as :func:`explain` does."""
    end = _summary(decisions, notes)
    width = terminal_width(file)

    def layout(clean: Callable[[str], str]) -> list[str]:
        table = _table(decisions, [d.rule for d in decisions])
        if not table.fits(width, clean):
            table = _table(decisions, [_without_name(d.rule) for d in decisions])
        return [*table.lines(width, clean), "", *map(clean, end)]

    print("\n".join(lines_for(file, layout)), file=file)


def decisions_html(decisions: Sequence[Decision], notes: Sequence[str]) -> str:
    """Return decisions as a table for a notebook."""
    return _table(decisions, [d.rule for d in decisions]).html(_summary(decisions, notes))


def _summary(decisions: Sequence[Decision], notes: Sequence[str]) -> list[str]:
    inside = [d.parameter for d in decisions if d.included]
    total = sum(d.parameter.size for d in decisions)
    end = [
        *notes,
        f"{len(inside):,} of {len(decisions):,} arrays in, "
        f"{sum(p.size for p in inside):,} of {total:,} elements",
    ]
    kinds = Counter(_without_name(d.rule) for d in decisions if not d.included)
    if len(kinds) > 1:
        end.append("out: " + ", ".join(f"{kind} ({n:,})" for kind, n in kinds.most_common()))
    return end


def _table(decisions: Sequence[Decision], rules: Sequence[str]) -> Table:
    parameters = [d.parameter for d in decisions]
    return Table(
        [
            Column("mark", "", ["in" if d.included else "out" for d in decisions], left=True),
            Column("name", "array", [p.name for p in parameters], left=True),
            Column("shape", "shape", [shape_text(p.shape) for p in parameters]),
            Column("n", "n", [f"{p.size:,}" for p in parameters]),
            Column("rule", "rule", rules, left=True),
        ],
        ruled=False,
    )


def _without_name(rule: str) -> str:
    """Return a rule without the name that it found, which the line shows anyway."""
    return re.sub(r",? by (its|the) (name '.*'|class \w+|shape of its bias)$", "", rule)
