# SPDX-License-Identifier: BSD-3-Clause
"""What a norm over ranks is made of, and which mistakes of counting that shows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fastreg import states
from fastreg._core.arrays import host_array
from fastreg._core.text import Column, Table, plural, printable
from fastreg.torch._sharded import Total, is_pending, is_spread, labelled, member

__all__ = ["NormAccount", "explain_norm"]


class NormRow(NamedTuple):
    """One tensor of an account.

    Attributes
    ----------
    name : str
    placement : str
        Of a DTensor on its mesh; "plain" otherwise.
    here, elements : int
        Elements in this rank's memory, and of the whole tensor.
    copies : int
        Ranks of its mesh that hold the same elements.
    counted : bool
        Whether this rank's part counts.
    share : float
        Of the squared norm, from 0 to 1; NaN if the norm is no number.
    """

    name: str
    placement: str
    here: int
    elements: int
    copies: int
    counted: bool
    share: float


class NormAccount:
    """What a norm over ranks is made of: see :func:`fastreg.torch.explain_norm`.

    Attributes
    ----------
    norm : float
        As :func:`fastreg.torch.total_norm` has it, in float64.
    rows : list of NormRow
    warnings : list of str
        What looks like a mistake of counting.
    """

    __slots__ = ("norm", "rows", "warnings")

    def __init__(self, norm: float, rows: list[NormRow], warnings: list[str]) -> None:
        self.norm = norm
        self.rows = rows
        self.warnings = warnings

    def __repr__(self) -> str:
        found = plural(len(self.rows), "tensor")
        return f"<norm {self.norm:.6g} of {found}, {plural(len(self.warnings), 'warning')}>"

    def __str__(self) -> str:
        lines = list(self._table().lines())
        lines += [f"norm {self.norm!r}", *(f"warning: {w}" for w in self.warnings)]
        return "\n".join(lines)

    def _table(self) -> Table:
        rows = self.rows
        return Table(
            [
                Column("name", "tensor", [r.name for r in rows], left=True),
                Column("placement", "placement", [r.placement for r in rows], left=True),
                Column("here", "here", [f"{r.here:,}" for r in rows]),
                Column("elements", "elements", [f"{r.elements:,}" for r in rows]),
                Column("copies", "copies", [str(r.copies) for r in rows]),
                Column(
                    "counted",
                    "counted here",
                    ["yes" if r.counted else "no" for r in rows],
                    left=True,
                ),
                Column("share", "share", [f"{r.share:.1%}" for r in rows]),
            ]
        )


def _word(counted: bool) -> str:
    return "yes" if counted else "no"


def _account_of(tensors: Any, group: Any, pp_mesh: Any) -> NormAccount:
    """Return what each tensor brings into the norm, and what looks wrong; all ranks must call."""
    warnings, members = [], []
    for label, x in labelled(tensors):
        if x is None:
            continue
        if isinstance(x, torch.Tensor) and is_spread(x) and is_pending(x):
            shown = printable(label, 80)
            warnings.append(
                f"{shown}: its sum over ranks is pending ({x.placements}): not counted; "
                "redistribute it to Replicate() or Shard() first"
            )
            continue
        members.append(member(label, x))
    warnings += _twice_here(members) + _between_ranks(members, group, pp_mesh)
    norm = float(Total(members, 2.0, group, pp_mesh).norm("float64"))
    rows = [_row(m, float(Total([m], 2.0, group, pp_mesh).norm("float64")), norm) for m in members]
    return NormAccount(norm, rows, warnings)


def _row(m: Any, own: float, norm: float) -> NormRow:
    placement, copies = "plain", 1
    if m.mesh is not None:
        placement = ", ".join(map(str, m.tensor.placements))
        for size, p in zip(m.mesh.shape, m.tensor.placements, strict=True):
            copies *= size if p.is_replicate() else 1
    share = (own / norm) ** 2 if norm > 0.0 else 0.0
    return NormRow(
        printable(m.label, 80),
        placement,
        m.local.numel(),
        m.tensor.numel(),
        copies,
        m.counts,
        share,
    )


def _twice_here(members: list[Any]) -> list[str]:
    seen: dict[tuple[int, int], str] = {}
    found = []
    for m in members:
        if not m.local.numel():
            continue
        place = (m.local.data_ptr(), m.local.numel())
        if place in seen:
            found.append(f"{m.label} is {seen[place]} once more: it counts twice; pass it once")
        seen.setdefault(place, m.label)
    return found


def _print_of(m: Any) -> str:
    return states.state([host_array(m.local.cpu())]).fingerprint() if m.local.numel() else ""


def _between_ranks(members: list[Any], group: Any, pp_mesh: Any) -> list[str]:
    """Compare what ranks hold: copies that are summed, parts that are not, ranks left out."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return []
    mine = {m.label: _print_of(m) for m in members if m.mesh is None}
    spread = {m.label: _print_of(m) for m in members if m.mesh is not None}
    everyone: list[Any] = [None] * dist.get_world_size()
    ranks = None if group is None else dist.get_process_group_ranks(group)
    dist.all_gather_object(everyone, (mine, spread, ranks))
    found = []
    for label, mark in mine.items():
        others = [
            plain.get(label)
            for k, (plain, _, _) in enumerate(everyone)
            if ranks is None or k in ranks
        ]
        same = all(other == mark for other in others)
        if group is not None and same and len(others) > 1 and mark:
            found.append(
                f"{label} is the same on all {len(others)} ranks of group= and counts "
                f"{len(others)} times; leave it out of the call with group="
            )
        if group is None and pp_mesh is None and not same:
            found.append(
                f"{label} differs between ranks, and only this rank's part counts: a local norm; "
                "pass group= if it is a shard, or the DTensor"
            )
    found += _stages_left_out(members, everyone, group, pp_mesh)
    if pp_mesh is not None:
        found += _shared_by_stages({**mine, **spread}, everyone)
    return found


def _stages_left_out(members: list[Any], everyone: Any, group: Any, pp_mesh: Any) -> list[str]:
    if group is not None or pp_mesh is not None:
        return []
    names = set(everyone[0][0]) | set(everyone[0][1])
    if any(set(plain) | set(spread) != names for plain, spread, _ in everyone):
        return ["ranks hold tensors of other names: a pipeline stage is left out; pass pp_mesh="]
    meshes = [m.mesh for m in members if m.mesh is not None]
    if any(mesh.size() < len(everyone) for mesh in meshes):
        return [
            f"a mesh of {min(mesh.size() for mesh in meshes)} ranks out of {len(everyone)}: what "
            "the others hold is not in this norm; pass pp_mesh= if they are pipeline stages"
        ]
    return []


def _shared_by_stages(mine: dict[str, str], everyone: Any) -> list[str]:
    import torch.distributed as dist

    found = []
    for label, mark in mine.items():
        for k, (plain, spread, _) in enumerate(everyone):
            twins = [
                name
                for name, other in {**plain, **spread}.items()
                if other == mark and mark and k != dist.get_rank() and name != label
            ]
            if twins:
                found.append(
                    f"{label} holds what {twins[0]} of rank {k} holds: a weight shared by two "
                    "stages counts twice; pass it in one of them"
                )
                break
    return found


def explain_norm(tensors: Any, *, group: Any = None, pp_mesh: Any = None) -> NormAccount:
    """Return the account of a norm over ranks: what is counted where, and what looks wrong.

    Parameters
    ----------
    tensors, group, pp_mesh
        As :func:`total_norm` takes them; all ranks must call. A ``DTensor`` with a pending sum is
        not refused but warned of.

    Returns
    -------
    NormAccount
        ``print`` shows a line for each tensor and the warnings: a tensor that stands there twice, a
        shared weight in two pipeline stages, a copy on every rank of `group`, a part taken for the
        whole, a stage left out, a pending sum. ``norm``, ``rows`` and ``warnings`` hold the same.

    Notes
    -----
    For looking, not for every step: it compares fingerprints of all tensors between all ranks.

    Examples
    --------
    >>> import torch
    >>> print(explain_norm({"w": torch.tensor([3.0, 4.0])}))  # doctest: +ELLIPSIS
    tensor...
    """
    return _account_of(tensors, group, pp_mesh)
