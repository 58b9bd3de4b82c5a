# SPDX-License-Identifier: BSD-3-Clause
"""Give the variables of a model that has been built a regularizer, and take it away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastreg import regularizers
from fastreg._core.arguments import Globs, Request, Select, entries
from fastreg._core.containers import Parameter
from fastreg._core.selection import Decision, decide, require_some, weights_for
from fastreg._core.text import printable
from fastreg.errors import ArgumentError, DTypeError, message
from fastreg.keras._classes import L1, L1L2, L2, get, of_keras
from fastreg.keras._layers import assign, carried, is_state, tell_attention, variables
from fastreg.keras._report import Report, row
from fastreg.keras._steps import renew

__all__ = ["attach", "detach"]


def attach(model: Any, regularizer: Any, request: Request, replace: bool) -> Report:
    """Penalise the weights of a model: see :func:`fastreg.keras.attach`."""
    _require_one(regularizer, request)
    rule = None if regularizer is None else _rule(regularizer)
    gathered = variables(model)
    if not gathered.parameters:
        raise ArgumentError(
            message("a model with weights", "one without", "pass one that has some")
        )
    decisions = [
        Decision(d.parameter, False, "never trained") if d.included and is_state(d.parameter) else d
        for d in decide(gathered, request.select, frozen=True)
    ]
    require_some(decisions, request.select)
    inside = [d.parameter for d in decisions if d.included]
    new = _of_weights(request, inside) if rule is None else _of_rule(rule, inside)
    if all(r is None for r in new):
        raise ArgumentError(
            message(
                "a dict with a regularizer or weight for some variable", "one without", "add one"
            )
        )
    rows, kept = [], []
    each = iter(new)
    for d in decisions:
        p, found, hit, why = d.parameter, carried(d.parameter), d.included, d.rule
        given = next(each) if hit else None
        if hit and given is None:
            hit, why = False, "named by no entry"
        elif hit and found is not None and not replace:
            hit, why = False, "has a regularizer; pass replace=True"
        if hit:
            kept.append((p, given))
        rows.append((p, given if hit else found, "attached" if hit else "skipped", why))
    forgotten = {id(p.original) for p, given in kept if not assign(p, given)}
    forgotten |= _changed(model)
    end = "; forgotten when the model is saved"
    return Report(
        tuple(row(p, r, do, why + end * (id(p.original) in forgotten)) for p, r, do, why in rows)
    )


def detach(model: Any, select: Select) -> Report:
    """Remove the penalties of a model's weights: see :func:`fastreg.keras.detach`."""
    decisions = decide(variables(model), "all" if select is None else select, frozen=True)
    if select is not None:
        require_some(decisions, select)
    rows = []
    for d in decisions:
        found = carried(d.parameter)
        if found is not None:
            why = "" if select is None else d.rule
            action = "detached" if d.included else "skipped"
            rows.append(row(d.parameter, found, action, why))
    for d in decisions:
        if d.included and carried(d.parameter) is not None:
            assign(d.parameter, None)
    _changed(model)
    return Report(tuple(rows))


def _changed(model: Any) -> set[int]:
    """Tell who holds what was changed; return the ids of the variables that are not saved."""
    renew(model)
    return tell_attention(model)


# -- Which regularizer ----------------------------------------------------------------------------


def _require_one(regularizer: Any, request: Request) -> None:
    """Raise unless there is a regularizer, or weights, and not both."""
    if regularizer is None:
        if request.l1 is None and request.l2 is None:
            raise DTypeError(
                message("a regularizer, or a weight l1= or l2=", "neither", "pass l2(1e-4)")
            )
    elif request._replace(select=None) != Request.of():
        raise ArgumentError(
            message(
                "a regularizer or weights",
                f"{printable(repr(regularizer), 80)} and l1=, l2=, weights= or convention=",
                "pass one of the two",
            )
        )


def _rule(regularizer: Any) -> Any:
    """Return one regularizer, or those of the names and globs in a dict; None is for nothing."""
    if isinstance(regularizer, Mapping) and "class_name" not in regularizer:
        return {
            key: None if r is None else _one(r, f" for '{printable(str(key), 80)}'")
            for key, r in regularizer.items()
        }
    return _one(regularizer, "")


def _one(regularizer: Any, where: str) -> Any:
    """Return a regularizer for what :func:`fastreg.keras.get` takes, of Keras' classes."""
    found = get(regularizer)
    if not callable(found):
        raise DTypeError(
            message(
                f"a regularizer{where}",
                f"a {type(regularizer).__name__}",
                "pass for example l2(1e-4)",
            )
        )
    if isinstance(regularizer, str) and _is_nothing(found):
        raise ArgumentError(
            message(
                f"a regularizer that penalises something{where}",
                f"{regularizer!r}, whose weights are 0",
                "pass for example l1_l2(1e-5, 1e-4)",
            )
        )
    return of_keras(found)


def _is_nothing(regularizer: Any) -> bool:
    """Whether a regularizer is one of those that names stand for, and gives 0 for every array."""
    kind = type(regularizer)
    return kind is regularizers.Regularizer or (
        isinstance(regularizer, L1L2) and regularizer.l1 == regularizer.l2 == 0.0
    )


def _of_rule(rule: Any, parameters: Sequence[Parameter]) -> list[Any]:
    """Return the regularizer of each variable; None where a dict has none for it."""
    if not isinstance(rule, dict):
        return [rule] * len(parameters)
    return entries(rule, parameters, "regularizer")


def _of_weights(request: Request, parameters: Sequence[Parameter]) -> list[Any]:
    """Return a regularizer for the weights of each variable; None where dicts do not name it."""
    rules = [rule for rule in (request.l1, request.l2) if rule is not None]
    globs = [Globs(rule) for rule in rules if isinstance(rule, dict)]
    everywhere = len(globs) < len(rules)
    out: list[Any] = []
    for p, l1, l2 in zip(parameters, *weights_for(request, parameters), strict=True):
        if not everywhere and all(g.find(p.names) is None for g in globs):
            out.append(None)
        elif request.l2 is None:
            out.append(L1(l1))
        else:
            out.append(L2(l2) if request.l1 is None else L1L2(l1, l2))
    return out
