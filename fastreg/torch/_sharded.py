# SPDX-License-Identifier: BSD-3-Clause
"""Norms of tensors that are spread over processes: one number for every mesh and world size.

Each rank sends digits of its part through the engine's own integer SUM, once for each dimension of
a mesh, whatever the number of tensors: first a sum with its proven bound, and only where that bound
leaves a choice the exact state. What is decided is decided on digits that all ranks have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastreg._core.arguments import number, result_dtype
from fastreg._core.arrays import AnyArray, HostArray, host_array
from fastreg._core.factors import clip_factor
from fastreg._core.frameworks import loaded
from fastreg._core.state import State, in_rows
from fastreg._kernels import Arrays, Enclosure, decide
from fastreg.errors import (
    ArgumentError,
    LayoutError,
    NonFiniteError,
    NotAnArrayError,
    message,
    printable,
)
from fastreg.torch._dtypes import FLOATS
from fastreg.torch._memory import refuse, scalar

__all__ = [
    "Member",
    "Total",
    "clip_grad_norm_",
    "is_pending",
    "is_spread",
    "labelled",
    "member",
    "total_norm",
]

Digits = Callable[[list[HostArray]], AnyArray]
# More names than these in an error are a count.
_NAMED = 5


@dataclass(frozen=True)
class Member:
    """One tensor of a call, and what this rank counts of it.

    Attributes
    ----------
    label : str
        Its name, or its position.
    tensor : Tensor
        As it was given; may be a DTensor.
    local : Tensor
        This rank's part of it.
    mesh : DeviceMesh or None
        What it is spread over; None for a plain tensor.
    counts : bool
        Whether this rank's part counts: of replicas, the first.
    """

    label: str
    tensor: Tensor
    local: Tensor
    mesh: Any
    counts: bool


def members_of(tensors: Any) -> list[Member]:
    """Return the tensors of a call; None is left out.

    Raises
    ------
    NotAnArrayError, DTypeError
        For what is no float tensor.
    LayoutError
        For a DTensor whose sum over ranks is still pending.
    """
    return [member(label, x) for label, x in labelled(tensors)]


def labelled(tensors: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tensors, Tensor):
        tensors = [tensors]
    elif isinstance(tensors, dict):
        tensors = tensors.items()
    elif isinstance(tensors, torch.nn.Module):
        tensors = tensors.named_parameters()
    elif isinstance(tensors, (str, bytes)) or not isinstance(tensors, Iterable):
        raise NotAnArrayError(
            message(
                "tensors, parameters or (name, tensor) pairs",
                f"an object of class {type(tensors).__name__}",
                "pass module.parameters(), or the gradients as a list",
            )
        )
    for k, item in enumerate(tensors):
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            yield item
        else:
            yield str(k), item


def is_spread(x: Tensor) -> bool:
    """Tell whether a tensor is a DTensor."""
    module = loaded("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def is_pending(x: Any) -> bool:
    """Tell whether the sum over ranks that a DTensor stands for has not been taken yet."""
    from torch.distributed.tensor import Partial

    return any(isinstance(p, Partial) for p in x.placements)


def member(label: str, x: Any) -> Member:
    if not isinstance(x, Tensor):
        raise refuse(x)
    if x.dtype not in FLOATS:
        raise refuse(x)
    x = x.detach()
    if not is_spread(x):
        return Member(label, x, x, None, True)
    from torch.distributed.tensor import Replicate

    if is_pending(x):
        raise LayoutError(
            message(
                f"a tensor whose elements are known at {printable(label, 80)}",
                f"a DTensor with a pending sum, {x.placements}",
                "redistribute it first: x.redistribute(placements=[Replicate()])",
            )
        )
    where = x.device_mesh.get_coordinate()
    counts = where is not None and all(
        c == 0 for c, p in zip(where, x.placements, strict=True) if isinstance(p, Replicate)
    )
    return Member(label, x, x.to_local(), x.device_mesh, counts)


# -- Sums over ranks ------------------------------------------------------------------------------


def _groups(mesh: Any) -> list[Any]:
    return [mesh.get_group(d) for d in range(mesh.ndim)]


def _summed(digits: AnyArray, groups: Sequence[Any]) -> AnyArray:
    """Add digits of int64 over process groups, one after another, by the engine's own SUM."""
    import torch.distributed as dist

    for group in groups:
        buffer = torch.from_numpy(digits)
        if dist.get_backend(group) == "nccl":
            buffer = buffer.cuda()
        dist.all_reduce(buffer, op=dist.ReduceOp.SUM, group=group)
        digits = buffer.cpu().numpy()
    return digits


def _hosts(members: Iterable[Member]) -> list[HostArray]:
    """View what counts here; what is on a device is copied to the host."""
    return [host_array(m.local.cpu()) for m in members if m.counts and m.local.numel()]


def _stages(members: Sequence[Member], group: Any) -> list[tuple[list[Member], list[Any]]]:
    """Return which members are summed over which groups.

    Plain tensors are whole in every rank unless there is a group that they are spread over. What
    ranks compute from whole tensors may differ in digits that do not matter, so beside tensors that
    are spread one rank's are taken: all must see the same digits.
    """
    meshes: dict[Any, list[Member]] = {}
    plain = [m for m in members if m.mesh is None]
    for m in members:
        if m.mesh is not None:
            meshes.setdefault(m.mesh, []).append(m)
    stages = [(found, _groups(mesh)) for mesh, found in meshes.items()]
    if group is not None:
        stages.append((plain, [group]))
    elif plain and meshes:
        mesh = next(iter(meshes))
        first = all(c == 0 for c in mesh.get_coordinate() or (1,))
        stages.append(
            ([Member(m.label, m.tensor, m.local, None, first) for m in plain], _groups(mesh))
        )
    else:
        stages.append((plain, []))
    return stages


def _together(members: Sequence[Member], group: Any, pp_mesh: Any, digits_of: Digits) -> AnyArray:
    """Return the digits of all members over all ranks, the same in each."""
    total: AnyArray = digits_of([])
    for found, groups in _stages(members, group):
        total += _summed(digits_of(_hosts(found)), groups)
    return _summed(total, [] if pp_mesh is None else _groups(pp_mesh))


def _enclosed(l1: float, l2: float) -> Digits:
    def digits_of(hosts: list[HostArray]) -> AnyArray:
        digits: AnyArray = Enclosure.of(Arrays(hosts, l1, l2)).digits()
        return digits

    return digits_of


def _exact(hosts: list[HostArray]) -> AnyArray:
    return in_rows(hosts, [str(k) for k in range(len(hosts))], None, "one").digits(np.int64, "wide")


class Total:
    """A norm over ranks: by bounds where they decide, and by exact states where not."""

    def __init__(
        self, members: Sequence[Member], norm_type: float, group: Any, pp_mesh: Any
    ) -> None:
        self._of = members, group, pp_mesh
        self._root = norm_type == 2.0
        self._weights = (0.0, 1.0) if self._root else (1.0, 0.0)
        self._digits = _together(*self._of, _enclosed(*self._weights))
        self._state: State | None = None

    def norm(self, dtype: Any) -> Any:
        """Return it in a type, correctly rounded; every rank takes the same branch."""
        found = decide(self._digits, dtype, self._root) if self._state is None else None
        if found is not None:
            return found
        if self._state is None:
            self._state = State.from_digits(_together(*self._of, _exact))
        return self._state.norm(dtype) if self._root else self._state.sum_abs(dtype)


def _largest(members: Sequence[Member], group: Any, pp_mesh: Any) -> float:
    """Return the largest |x| over ranks, which needs no rounding; NaN if there is one."""
    import torch.distributed as dist

    def over(pair: Tensor, groups: Sequence[Any]) -> Tensor:
        for g in groups:
            dist.all_reduce(pair, op=dist.ReduceOp.MAX, group=g)
        return pair

    total = torch.zeros(2, dtype=torch.float64)  # the largest; whether there is a NaN
    for found, groups in _stages(members, group):
        rows = [m.local.double().abs().max().cpu() for m in found if m.local.numel()]
        part = torch.zeros(2, dtype=torch.float64)
        for row in rows:
            if row.isnan():
                part[1] = 1.0
            else:
                part[0] = torch.maximum(part[0], row)
        total = torch.maximum(total, over(part, groups))
    if pp_mesh is not None:
        total = over(total, _groups(pp_mesh))
    return math.nan if total[1] else float(total[0])


def _kind_of_norm(norm_type: Any) -> float:
    kind = number(norm_type, "norm_type", finite=False)
    if kind not in (1.0, 2.0, math.inf):
        raise ArgumentError(
            message("a norm_type of 1, 2 or inf", repr(norm_type), "use torch's own for others")
        )
    return kind


def _result(members: Sequence[Member], dtype: Any) -> torch.dtype:
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        result_dtype(name)
        kind: torch.dtype = getattr(torch, name)
        return kind
    found: torch.dtype | None = None
    for m in members:
        found = m.tensor.dtype if found is None else torch.promote_types(found, m.tensor.dtype)
    return torch.float32 if found is None else found


def _norm(
    tensors: Any, norm_type: float, group: Any, pp_mesh: Any, dtype: Any
) -> tuple[Tensor, list[Member], Total | None]:
    """Return the norm of all tensors over all ranks, as a 0-d tensor, and what it came from."""
    members = members_of(tensors)
    kind = _kind_of_norm(norm_type)
    result = _result(members, dtype)
    if kind == math.inf:
        return scalar(_largest(members, group, pp_mesh), result), members, None
    total = Total(members, kind, group, pp_mesh)
    name = str(result).removeprefix("torch.")
    return scalar(float(total.norm(name)), result), members, total


def _gradients(parameters: Any) -> list[tuple[str, Tensor]]:
    """Return the gradients there are, each once: a tied parameter may stand there twice."""
    found: dict[int, tuple[str, Tensor]] = {}
    for label, x in labelled(parameters):
        if not isinstance(x, Tensor):
            raise refuse(x)
        if x.grad is not None:
            found.setdefault(id(x.grad), (label, x.grad))
    return list(found.values())


def _clip(
    parameters: Any,
    max_norm: float,
    norm_type: float,
    error_if_nonfinite: bool,
    group: Any,
    pp_mesh: Any,
) -> Tensor:
    """Scale the gradients of parameters so that their norm over all ranks is at most max_norm."""
    most = number(max_norm, "max_norm", least=0.0, finite=False)
    grads = _gradients(parameters)
    norm, members, total = _norm(grads, norm_type, group, pp_mesh, None)
    wide = float(norm) if total is None else float(total.norm("float64"))
    if not math.isfinite(wide):
        if error_if_nonfinite:
            raise _not_finite(members, group, pp_mesh)
        return norm
    factor = clip_factor(most, wide)
    if factor is None:
        return norm
    here = [m.local for m in members if m.local.numel()]
    on_host = [x for x in here if x.device.type == "cpu"]
    Arrays([host_array(x) for x in on_host]).scale_(factor)
    with torch.no_grad():
        for x in here:
            if x.device.type != "cpu":
                x.mul_(factor)
            else:
                torch.autograd.graph.increment_version(x)
    return norm


def _not_finite(members: Sequence[Member], group: Any, pp_mesh: Any) -> NonFiniteError:
    """Return the error that names what is not finite in any rank, the same in all of them."""
    import torch.distributed as dist

    names = {m.label for m in members if m.local.numel() and not m.local.isfinite().all()}
    groups = {id(g): g for _, gs in _stages(members, group) for g in gs}
    everywhere = [*groups.values(), *(_groups(pp_mesh) if pp_mesh is not None else [])]
    for g in everywhere:
        found: list[Any] = [None] * dist.get_world_size(g)
        dist.all_gather_object(found, sorted(names), group=g)
        names = set().union(*found)
    shown = ", ".join(printable(name, 80) for name in sorted(names)[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return NonFiniteError(
        message(
            "finite gradients on all ranks",
            f"NaN or infinity in {shown or 'their norm'}{more}",
            "skip the step, or pass error_if_nonfinite=False",
        )
    )


# -- Public ----------------------------------------------------------------------------------------


def total_norm(
    tensors: Any,
    *,
    norm_type: float = 2.0,
    group: Any = None,
    pp_mesh: Any = None,
    dtype: Any = None,
) -> Tensor:
    """Return the norm of tensors over all ranks, correctly rounded: one number for any sharding.

    Every element counts once, however many ranks hold it: of the replicas of a ``DTensor`` one is
    taken. The bits are those of the same call on the whole tensors in one process, for any mesh and
    number of ranks.

    Parameters
    ----------
    tensors : tensor, iterable of tensors or of (name, tensor) pairs, mapping or module
        float16, bfloat16, float32 or float64; plain tensors and ``DTensor`` of any meshes. A
        generator is read once. Plain tensors are whole on every rank, as after DDP, unless `group`
        is given. What stands there twice counts twice.
    norm_type : 2, 1 or inf, default 2
        The root of the sum of squares, the sum of absolute values, or the largest.
    group : ProcessGroup, optional
        What plain tensors are spread over: every rank holds a part of its own.
    pp_mesh : DeviceMesh, optional
        The pipeline's mesh, whose ranks hold other tensors.
    dtype : torch.dtype or str, optional
        Type of the result; by default the widest of the tensors' own.

    Returns
    -------
    torch.Tensor
        0-d, on the CPU, in no graph, the same on all ranks. NaN or infinity if an element is; +0
        without elements.

    Raises
    ------
    LayoutError
        For a ``DTensor`` with a pending sum (``Partial``): redistribute it first.
    ArgumentError, DTypeError, NotAnArrayError
        For another norm_type, integer tensors, and what is no tensor.

    Notes
    -----
    All ranks of the meshes and groups must call. One all-reduce of 143 integers for each dimension
    of a mesh, whatever the number of tensors; where the bound that it carries leaves a choice, all
    ranks send 214 more. Tensors of other devices are copied to the host.

    Examples
    --------
    >>> import torch
    >>> total_norm([torch.full((2,), 3.0), torch.tensor([1.0])])
    tensor(4.3589)
    """
    return _norm(tensors, norm_type, group, pp_mesh, dtype)[0]


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = True,
    foreach: bool | None = None,
    *,
    pp_mesh: Any = None,
    group: Any = None,
) -> Tensor:
    """Scale gradients in place so that their norm over all ranks is at most ``max_norm``.

    Takes the place of ``torch.nn.utils.clip_grad_norm_`` for plain, DDP, FSDP2 and tensor-parallel
    parameters, and of trainers' own versions for pipeline stages.

    Parameters
    ----------
    parameters : tensor, iterable of parameters or of (name, parameter) pairs, mapping or module
        Those without a gradient are left out; one that stands there twice counts once.
    max_norm : float >= 0
        Infinity only measures.
    norm_type : 2, 1 or inf, default 2
    error_if_nonfinite : bool, default True
        Whether NaN or infinity in any rank is an error on all of them, which names the parameters
        (torch's default is False); then nothing has been scaled, nor has it otherwise.
    foreach : ignored
        There for torch's signature.
    pp_mesh, group : optional
        As in :func:`total_norm`.

    Returns
    -------
    torch.Tensor
        The norm before, as :func:`total_norm` returns it.

    Raises
    ------
    NonFiniteError
        On all ranks, if one has NaN or infinity.
    ArgumentError, DTypeError, LayoutError, NotAnArrayError
        As :func:`total_norm`.

    Notes
    -----
    The factor is ``max_norm / norm``, rounded to float64 once, without torch's 1e-6; each element
    is multiplied in float64 and rounded once, and left as it is if the norm is not above max_norm.

    Examples
    --------
    >>> import torch
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> w.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_([w], 2.5)
    tensor(5.)
    >>> w.grad
    tensor([1.5000, 2.0000])
    """
    return _clip(parameters, max_norm, norm_type, error_if_nonfinite, group, pp_mesh)
