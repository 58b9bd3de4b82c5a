# SPDX-License-Identifier: BSD-3-Clause
"""Where results may be written: their memory is told apart from all that is read and written."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from fastreg._core.arrays import HostArray
from fastreg._core.frameworks import framework, loaded
from fastreg.errors import DTypeError, LayoutError, message

__all__ = ["check_target", "check_targets", "wrote"]

AnyArray: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


def wrote(out: Any) -> None:
    """Tell torch that its tensor was written, so that a backward pass that needs it says so."""
    if framework(out) == "torch":
        loaded("torch").autograd.graph.increment_version(out)


def check_target(x: AnyArray, out: AnyArray) -> None:
    """Refuse an output that is read-only, overlaps itself, or partly overlaps x.

    Raises
    ------
    LayoutError
        In each of these cases. Being exactly x is allowed.
    """
    if not out.flags.writeable:
        raise LayoutError(message("a writable out", "a read-only array", "pass a copy of it"))
    if out.size == 0:
        return
    if _overlaps_itself(out):
        raise LayoutError(
            message("an out whose elements are distinct", f"strides {out.strides}", "pass a copy")
        )
    same = x.__array_interface__["data"][0] == out.__array_interface__["data"][0] and [
        s for s, n in zip(x.strides, x.shape, strict=True) if n > 1
    ] == [s for s, n in zip(out.strides, out.shape, strict=True) if n > 1]
    if same or not np.may_share_memory(x, out):
        return
    if _share_memory(x, out):
        raise LayoutError(
            message(
                "an out that is x itself or shares no memory with it",
                "a partial overlap",
                "pass another array",
            )
        )


def check_targets(sources: list[HostArray], targets: list[HostArray | None]) -> None:
    """Refuse outputs of a list call that do not fit, are read-only, or share memory.

    Raises
    ------
    LayoutError
        If a target has another shape or type than its source, is read-only, overlaps itself,
        overlaps its source in part, or shares memory with another target or another source. The
        message names the position.
    """
    spans = []
    for k, (x, out) in enumerate(zip(sources, targets, strict=True)):
        spans.append((*np.lib.array_utils.byte_bounds(x.data), k, False, x.data))
        if out is None:
            continue
        if not x.dtype.floating:
            raise DTypeError(
                message(f"a float array at position {k} to write to", str(x.dtype), "leave it out")
            )
        if out.dtype != x.dtype or out.shape != x.shape:
            raise LayoutError(
                message(
                    f"a target of shape {x.shape} and type {x.dtype} at position {k}",
                    f"{out.shape} {out.dtype}",
                    "pass such an array, or None",
                )
            )
        try:
            check_target(x.data, out.data)
        except LayoutError as e:
            raise LayoutError(f"target at position {k}: {e}") from None
        if out.data is not x.data:
            spans.append((*np.lib.array_utils.byte_bounds(out.data), k, True, out.data))
        else:
            spans[-1] = (*spans[-1][:3], True, x.data)
    # Sweep by address: only neighbours can overlap, and only a written one matters.
    spans.sort(key=lambda span: span[:2])
    first = 0
    while first < len(spans):
        last, end = first + 1, spans[first][1]
        while last < len(spans) and spans[last][0] < end:
            end = max(end, spans[last][1])
            last += 1
        if last - first > 1 and not _interleave([span[4] for span in spans[first:last]]):
            _check_pairs(spans[first:last])
        first = last


_Span: TypeAlias = "tuple[int, int, int, bool, AnyArray]"


def _check_pairs(spans: list[_Span]) -> None:
    """Refuse a written array that shares memory with another of these, which are in order."""
    open_spans: list[_Span] = []
    for low, high, k, written, data in spans:
        open_spans = [o for o in open_spans if o[1] > low]
        for _, _, j, other_written, other in open_spans:
            if j != k and (written or other_written) and data.size and _share_memory(data, other):
                raise LayoutError(
                    message(
                        "written arrays that share memory with no other array of the list",
                        f"positions {j} and {k}, which do",
                        "pass each memory once, or write to separate arrays",
                    )
                )
        open_spans.append((low, high, k, written, data))


def _interleave(arrays: list[AnyArray]) -> bool:
    """Whether arrays are like columns of one matrix: combs of one period, whose teeth are apart.

    Each is within its teeth, so none shares memory with another; False says nothing.
    """
    teeth = []
    periods = set()
    for x in arrays:
        steps = sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1)
        if steps:
            periods.add(steps.pop()[0])
        width = x.itemsize + sum(s * (n - 1) for s, n in steps)
        teeth.append((np.lib.array_utils.byte_bounds(x)[0], width if x.size else 0))
    if len(periods) != 1:
        return False
    period = periods.pop()
    teeth = sorted((low % period, width) for low, width in teeth)
    ends = [low + width for low, width in teeth]
    starts = [low for low, _ in teeth[1:]] + [teeth[0][0] + period]
    return all(end <= start for end, start in zip(ends, starts, strict=True))


def _share_memory(a: AnyArray, b: AnyArray) -> bool:
    try:
        return bool(np.shares_memory(a, b, max_work=100_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(x: AnyArray) -> bool:
    """Whether two indices may name one address: sufficient test, strides that nest."""
    reach = x.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False
