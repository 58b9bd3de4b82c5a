# SPDX-License-Identifier: BSD-3-Clause
"""Torch tensors that kernels do not read: what each is called, and what to pass instead.

The advice is an expression of ``x``, what was received.
"""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["as_floats", "is_distributed", "is_transformed", "not_dense", "unread"]

Refusal: TypeAlias = tuple[str, str, str]
"""What was expected, what was received, and what to do."""

_CALL = "call fastreg.torch"


def is_distributed(x: Any) -> bool:
    """Whether x is spread over processes; torch's operations know how to sum it, ours do not."""
    return type(x).__module__.startswith("torch.distributed.")


def not_dense(torch: Any, x: Any) -> Refusal | None:
    """Return why a tensor is refused whatever computes it: its elements are not all there is."""
    kind = type(x)
    if kind.__module__.startswith("torch.masked."):
        return "a tensor without a mask", f"a {kind.__name__}", "pass x.get_data()[x.get_mask()]"
    if x.is_nested:
        return "a dense tensor", "a nested tensor", "pass list(x.unbind())"
    if x.layout is torch.sparse_coo:
        advice = "pass x.to_dense(), or x.coalesce().values() for the stored elements"
        return "a dense tensor", f"layout {x.layout}", advice
    if x.layout is not torch.strided:
        stored = "" if x.is_mkldnn else ", or x.values() for the stored elements"
        return "a dense tensor", f"layout {x.layout}", f"pass x.to_dense(){stored}"
    return None


def unread(torch: Any, x: Any) -> Refusal | None:
    """Return why kernels do not read a tensor, whatever its element type; None if they do."""
    kind = type(x)
    refusal = not_dense(torch, x)
    if refusal is not None:
        return refusal
    if is_distributed(x):
        return (
            "a tensor of this process",
            f"a {kind.__name__}, which is spread over processes",
            f"{_CALL}, or to read pass x.full_tensor(), or x.to_local() for this process' share",
        )
    if x.is_meta:
        return "a tensor with elements", "one on meta, which has none", "load the weights first"
    if not x.is_cpu:
        return "a tensor in host memory", f"one on {x.device}", f"{_CALL}, or pass x.cpu()"
    if is_transformed(torch, x):
        action = f"{_CALL}, whose penalty and norm take it, or this outside of torch.func"
        return "a tensor with memory", "one that torch.func transforms", action
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return "a tensor with memory", f"a {kind.__name__}", f"{_CALL}, or pass a plain tensor"
    return None


def is_transformed(torch: Any, x: Any) -> bool:
    """Whether x stands for others; the test is private, and absent in some releases."""
    functorch = getattr(torch._C, "_functorch", None)
    test = getattr(functorch, "is_functorch_wrapped_tensor", None)
    return test is not None and bool(test(x))


def as_floats(x: Any) -> str:
    """Return what to do with a tensor of elements that no kernel reads."""
    if x.is_quantized:
        return "pass x.dequantize()"
    if x.is_complex():
        whole = "x.resolve_conj()" if x.is_conj() else "x"
        return f"pass torch.view_as_real({whole}), which keeps both parts, or x.abs(), its modulus"
    return "convert it, for example with x.float()"
