# SPDX-License-Identifier: BSD-3-Clause
"""Give the variables of a model that has been built a regularizer, and take it away."""

from __future__ import annotations

from typing import Any

from fastreg._core.arguments import Select
from fastreg._core.selection import Decision, decide, require_some
from fastreg.errors import ArgumentError, message
from fastreg.keras._layers import assign, carried, recompile, tell_attention, variables
from fastreg.keras._report import Report, Row

__all__ = ["attach", "detach"]


def attach(model: Any, regularizer: Any, select: Select, replace: bool) -> Report:
    """Penalise the weights of a model: see :func:`fastreg.keras.attach`."""
    gathered = variables(model)
    if not gathered.parameters:
        raise ArgumentError(
            message("a model with weights", "one without", "pass one that has some")
        )
    decisions = decide(gathered, select)
    decisions = [
        Decision(d.parameter, False, "frozen") if d.included and d.parameter.frozen else d
        for d in decisions
    ]
    require_some(decisions, select)
    rows = []
    for d in decisions:
        p, found, hit, why = d.parameter, carried(d.parameter), d.included, d.rule
        if hit and found is not None and not replace:
            hit, why = False, "has a regularizer; pass replace=True"
        if hit:
            if not assign(p, regularizer):
                why += "; forgotten when the model is saved"
            found = regularizer
        rows.append(Row(p.name, tuple(p.shape), found, "attached" if hit else "skipped", why))
    _changed(model)
    return Report(tuple(rows))


def detach(model: Any, select: Select) -> Report:
    """Remove the penalties of a model's weights: see :func:`fastreg.keras.detach`."""
    gathered = variables(model)
    decisions = decide(gathered, "all" if select is None else select)
    if select is not None:
        require_some(decisions, select)
    rows = []
    for d in decisions:
        p, found = d.parameter, carried(d.parameter)
        if found is None:
            continue
        if d.included:
            assign(p, None)
        why = "" if select is None else d.rule
        action = "detached" if d.included else "skipped"
        rows.append(Row(p.name, tuple(p.shape), found, action, why))
    _changed(model)
    return Report(tuple(rows))


def _changed(model: Any) -> None:
    tell_attention(model)
    recompile(model)
