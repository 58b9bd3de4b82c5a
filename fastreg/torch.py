# SPDX-License-Identifier: BSD-3-Clause
"""The PyTorch room: penalties of tensors, differentiable, with the same bits as NumPy's.

Dense CPU tensors go to the kernels without a copy. In eager mode an ``autograd.Function`` reads
the tensor once for the value and the gradient. Under ``torch.compile``, ``torch.export``,
``make_fx`` and for fake and meta tensors the operator ``torch.ops.fastreg.penalty`` stands in the
graph. Tensors of other devices are computed there by PyTorch's own operations, accumulated in
float64 (float32 where the device has no float64): the same meaning, not the same bits.

Importing this module imports torch; ``import fastreg`` does not import this module.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from fastreg import _kernels, ndarray
from fastreg.arrays import HostArray, host_array, result_name
from fastreg.errors import (
    ArgumentError,
    DTypeError,
    FastregError,
    LayoutError,
    NotAnArrayError,
    message,
)
from fastreg.parameters import Parameter, dense_tensors, named
from fastreg.selection import choose

__all__ = [
    "add_gradient_",
    "gradient",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "prox_",
    "value_and_gradient",
]

_FLOATS = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
}
_BY_NAME = {name: dtype for dtype, name in _FLOATS.items()}
_INTEGERS = frozenset(
    getattr(torch, name)
    for name in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
    if hasattr(torch, name)
)
# From here on NumPy advises the kernel to use huge pages; and torch's own alignment.
_HUGE_PAGES = 1 << 22
_ALIGNMENT = 64
_ORDINARY = (torch.Tensor, torch.nn.Parameter)
# Subclasses such as fake, functional and distributed tensors answer operators themselves.
_PLAIN_DISPATCH = torch.Tensor.__torch_dispatch__


def _never() -> int:
    return 0


# Private, and absent in some releases; without them the eager route is taken. The compiler knows
# the first one, and evaluates it while it traces.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", _never)
_transform_stack = getattr(torch._C._functorch, "get_interpreter_stack", tuple)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", _never)
_jit_state = getattr(torch._C, "_get_tracing_state", _never)

# Whether the last backward pass came with the upstream gradient 1, for activities and for weights
# (leaves). A guess for the next one: it decides when the gradient is computed, never what it is.
_expect_one = [True, True]


# -- Arguments -------------------------------------------------------------------------------------


def _refuse(x: object) -> Exception:
    if not isinstance(x, torch.Tensor):
        instead = "pass torch.as_tensor(x)"
        return NotAnArrayError(
            message("a torch.Tensor", f"an object of class {type(x).__name__}", instead)
        )
    if torch.nn.parameter.is_lazy(x):
        return LayoutError(
            message("a parameter with a shape", f"an {type(x).__name__} of a lazy module",
                    "call the module once on a batch, which shapes it")
        )
    if _module(x) == "torch.masked":
        return DTypeError(
            message("a tensor without a mask", f"a {type(x).__name__}",
                    "pass x.get_data()[x.get_mask()]")
        )
    if x.layout != torch.strided or x.is_nested:
        layout = "a nested tensor" if x.is_nested else f"layout {x.layout}"
        return DTypeError(
            message("a dense tensor", layout, "pass x.to_dense(), or x.coalesce().values() for "
                    "the penalty of the stored elements")
        )
    return DTypeError(
        message("a tensor of float16, bfloat16, float32, float64, bool or an integer type",
                f"{x.dtype}", "convert it, for example with x.float()")
    )


def _module(x: object) -> str:
    """Return the first two names of the module that defines x's class."""
    return ".".join(type(x).__module__.split(".")[:2])


def _unwrapped(x: Any) -> Any:
    """Return the tensor of a Keras variable, and any other object as it is."""
    value = x if isinstance(x, torch.Tensor) else getattr(x, "value", None)
    return value if isinstance(value, torch.Tensor) else x


def _result(x: Any, dtype: Any) -> Any:
    """Return the torch dtype of the result, or raise."""
    own = x.dtype
    if type(x) not in _ORDINARY and (torch.nn.parameter.is_lazy(x) or _module(x) == "torch.masked"):
        raise _refuse(x)
    if own not in _FLOATS:
        if own not in _INTEGERS:
            raise _refuse(x)
        own = torch.float64
    if x.layout != torch.strided or x.is_nested:
        raise _refuse(x)
    return own if dtype is None else _as_dtype(dtype)


def _as_dtype(dtype: Any) -> Any:
    return dtype if dtype in _FLOATS else _BY_NAME[result_name(dtype)]


def _weight(name: str, weight: Any) -> float:
    """Return a weight as a float; a tensor would silently lose its graph."""
    if isinstance(weight, torch.Tensor):
        raise ArgumentError(
            message(f"a number {name}", "a tensor, which would get no gradient",
                    f"multiply: {name} * penalty(x, {name}=1.0)")
        )
    return ndarray.weight(name, weight)


def _distributed(x: Any) -> bool:
    """Whether x is spread over processes; torch's operations know how to sum it, ours do not."""
    return _module(x) == "torch.distributed"


def _functionalized() -> bool:
    """Whether ``torch.func.functionalize`` is at work, which knows no autograd.Function."""
    layers: Iterable[Any] = _transform_stack() or ()
    return any(layer.key().name == "Functionalize" for layer in layers)


def _in_graph(x: Any) -> bool:
    """Whether x stands for a tensor in a program being recorded, or has no memory."""
    return bool(
        type(x).__torch_dispatch__ is not _PLAIN_DISPATCH
        or _dispatch_modes()
        or _jit_state()
        or x.device.type == "meta"
    )


# -- Numbers: on the CPU the kernels, elsewhere torch's own operations -----------------------------


def _host(x: Any) -> Any:
    """View a dense CPU tensor as the kernels see it, without a copy."""
    if x.dtype is torch.bfloat16:
        bits = x.detach().resolve_neg().view(torch.int16)
        return HostArray(bits.numpy().view(np.uint16), "bf16")
    return (x.detach().resolve_neg() if x.is_neg() else x.detach()).numpy()


def _empty_like(x: Any) -> Any:
    """Return new memory for the gradient of a dense CPU tensor.

    From NumPy if it is large, because NumPy asks for huge pages: 64 MiB are then first touched in
    half the time (value and gradient of 16 Mi float32: 25 ms, with torch's memory 49 ms).
    """
    nbytes = x.nbytes
    if nbytes < _HUGE_PAGES or not x.is_contiguous():
        return torch.empty_like(x, requires_grad=False)
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return torch.from_numpy(memory[start : start + nbytes]).view(x.dtype).view(x.shape)


def _scalar(value: Any, dtype: Any) -> Any:
    """Return a 0-d CPU tensor, whatever the default device is."""
    if dtype is torch.bfloat16:
        return torch.tensor(value, dtype=dtype, device="cpu")
    return torch.from_numpy(np.asarray(value))


def _value_now(x: Any, l1: float, l2: float, dtype: Any) -> Any:
    if x.device.type != "cpu":
        return _native_value(x, l1, l2, dtype)
    return _scalar(_kernels.plain_value(_host(x), l1, l2, _FLOATS[dtype]), dtype)


def _number(u: Any) -> float:
    """Return a 0-d tensor's number; NaN for a batch of them (``is_grads_batched``)."""
    try:
        return float(u)
    except RuntimeError:
        return math.nan


def _gradient_now(x: Any, u: Any, l1: float, l2: float, out: Any = None) -> Any:
    """Return the gradient times the 0-d upstream gradient u, rounded once."""
    if x.device.type != "cpu":
        return _native_gradient(x, u, l1, l2)
    scale = _number(u)
    if not math.isfinite(scale):  # a loss that overflowed: optimizers look for what comes of it
        return _native_gradient(x, u, l1, l2)
    if out is None:
        out = _empty_like(x)
    if l1 == l2 == 0.0:
        return out.zero_()
    _kernels.plain_gradient(_host(x), l1, l2, scale, _host(out))
    return out


def _both_now(x: Any, l1: float, l2: float, dtype: Any) -> tuple[Any, Any]:
    if x.device.type != "cpu":
        one = torch.ones((), dtype=torch.float32, device=x.device)
        return _native_value(x, l1, l2, dtype), _native_gradient(x, one, l1, l2)
    out = _empty_like(x)
    if l1 == l2 == 0.0:
        return torch.zeros((), dtype=dtype, device="cpu"), out.zero_()
    value = _kernels.plain_value_and_gradient(_host(x), l1, l2, _host(out), _FLOATS[dtype])
    return _scalar(value, dtype), out


def _wide(device: Any) -> Any:
    """Return the widest float type of a device: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _sign(x: Any) -> Any:
    """Return the sign of each element, NaN for NaN (torch.sign gives 0)."""
    return torch.where(x.isnan(), x, x.sign())


def _native_value(x: Any, l1: float, l2: float, dtype: Any) -> Any:
    """Sum in the device's widest type without a temporary of x's size; no graph."""
    wide = _wide(x.device)
    if x.dtype not in _FLOATS:
        x = x.to(wide)
    total = torch.zeros((), dtype=wide, device=x.device)
    if l1 != 0.0:
        total = total + l1 * torch.linalg.vector_norm(x, 1, dtype=wide)
    if l2 != 0.0:
        total = total + l2 * torch.linalg.vector_norm(x, 2, dtype=wide).square()
    return total.to(dtype)


def _native_gradient(x: Any, u: Any, l1: float, l2: float) -> Any:
    """Return ``u * (2 * l2 * x + l1 * sign(x))`` in torch's operations, differentiable."""
    work = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    y, u = x.to(work), u.to(work)
    total = torch.zeros_like(y)
    if l2 != 0.0:
        total = y * (u * (2.0 * l2))
    if l1 != 0.0:
        total = total + _sign(y) * (u * l1)
    return total.to(x.dtype)


def _native_penalty(x: Any, l1: float, l2: float, dtype: Any) -> Any:
    """Return the penalty as torch's operations that autograd, vmap and compilers see through."""
    y = x.to(_wide(x.device))
    total = y.new_zeros(())
    if l1 != 0.0:
        total = total + l1 * (y * _sign(y).detach()).sum()
    if l2 != 0.0:
        total = total + l2 * (y * y).sum()
    return total.to(dtype)


# -- Eager: one pass for value and gradient --------------------------------------------------------


class _Penalty(torch.autograd.Function):
    """The penalty in eager mode.

    When the upstream gradient is exactly 1, backward hands over what forward computed. For any
    other it computes anew from x, so that the result is rounded once and a scaled loss (float16
    training) loses nothing; the next forward then leaves the gradient to backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, l1: float, l2: float, dtype: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.weights = (l1, l2)
        ctx.leaf = leaf = x.is_leaf
        ctx.gradient = None
        if _expect_one[leaf] and x.device.type == "cpu":
            value, ctx.gradient = _both_now(x, l1, l2, dtype)
            return value
        return _value_now(x, l1, l2, dtype)

    @staticmethod
    def backward(ctx: Any, u: Any) -> Any:
        (x,) = ctx.saved_tensors  # refuses an x that was written to since, whatever u is
        if torch.is_grad_enabled() or _transforms_active():  # create_graph=True, or jacrev
            return _Gradient.apply(x, u, *ctx.weights), None, None, None
        # Given away once: the receiver may keep it as x.grad and write to it.
        ready, ctx.gradient = ctx.gradient, None
        if u.device.type == "cpu":
            one = _expect_one[ctx.leaf] = _number(u) == 1.0
            if one and ready is not None:
                return ready, None, None, None
        l1, l2 = ctx.weights
        return _gradient_now(x, u, l1, l2, ready), None, None, None


class _Gradient(torch.autograd.Function):
    """The gradient as a function of x and the upstream gradient, for second derivatives.

    Its own derivatives are torch's operations, ``2 * l2 * u`` along x and the gradient along u,
    which can be differentiated as often as one likes.
    """

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Any, u: Any, l1: float, l2: float) -> Any:
        return _gradient_now(x, u, l1, l2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, u, l1, l2 = inputs
        ctx.save_for_backward(x, u)
        ctx.save_for_forward(x, u)
        ctx.weights = (l1, l2)

    @staticmethod
    def backward(ctx: Any, v: Any) -> Any:
        x, u = ctx.saved_tensors
        l1, l2 = ctx.weights
        along_x = (v * (2.0 * l2 * u)).to(x.dtype) if ctx.needs_input_grad[0] else None
        along_u = None
        if ctx.needs_input_grad[1]:
            along_u = (v * _native_gradient(x, torch.ones_like(u), l1, l2)).sum().to(u.dtype)
        return along_x, along_u, None, None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Any, u_tangent: Any, *_: Any) -> Any:
        x, u = ctx.saved_tensors
        l1, l2 = ctx.weights
        total = torch.zeros_like(x)
        if x_tangent is not None:
            total = total + (x_tangent * (2.0 * l2 * u)).to(x.dtype)
        if u_tangent is not None:
            total = total + _native_gradient(x, u_tangent, l1, l2)
        return total

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, u: Any, l1: float, l2: float) -> Any:
        xs = _examples(x, in_dims[0], info.batch_size)
        us = _examples(u, in_dims[1], info.batch_size)
        return torch.stack(
            [_Gradient.apply(xi, ui, l1, l2) for xi, ui in zip(xs, us, strict=True)]
        ), 0


class _Transformed(torch.autograd.Function):
    """The penalty under torch.func's transforms and forward-mode differentiation."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Any, l1: float, l2: float, dtype: Any) -> Any:
        return _value_now(x, l1, l2, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, l1, l2, dtype = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        ctx.weights = (l1, l2)
        ctx.dtype = dtype

    @staticmethod
    def backward(ctx: Any, u: Any) -> Any:
        (x,) = ctx.saved_tensors
        return _Gradient.apply(x, u, *ctx.weights), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Any, *_: Any) -> Any:
        (x,) = ctx.saved_tensors
        one = torch.ones((), dtype=x.dtype, device=x.device)
        slope = _Gradient.apply(x, one, *ctx.weights)
        return (tangent * slope).sum(dtype=_wide(x.device)).to(ctx.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Any, l1: float, l2: float, dtype: Any) -> Any:
        xs = _examples(x, in_dims[0], info.batch_size)
        return torch.stack([_Transformed.apply(xi, l1, l2, dtype) for xi in xs]), 0


def _examples(x: Any, dim: int | None, count: int) -> Sequence[Any]:
    return [x] * count if dim is None else x.unbind(dim)


# -- In programs: operators that compilers keep as they are ----------------------------------------


def _fake_penalty(x: Any, l1: float, l2: float, dtype: Any = None) -> Any:
    return x.new_empty((), dtype=_result(x, dtype))


def _run_penalty(x: Any, l1: float, l2: float, dtype: Any = None) -> Any:
    return _value_now(x, l1, l2, _result(x, dtype))


def _fake_gradient(x: Any, u: Any, l1: float, l2: float) -> Any:
    return torch.empty_like(x, requires_grad=False)


def _run_gradient(x: Any, u: Any, l1: float, l2: float) -> Any:
    # The strides that _fake_gradient promises, whatever route was taken.
    return torch.empty_like(x, requires_grad=False).copy_(g) if (
        (g := _gradient_now(x, u, l1, l2)).stride() != x.stride() and x.device.type != "cpu"
    ) else g


def _keep_penalty(ctx: Any, inputs: Any, output: Any) -> None:
    x, l1, l2, _ = inputs
    ctx.save_for_backward(x)
    ctx.weights = (l1, l2)


def _penalty_backward(ctx: Any, u: Any) -> Any:
    (x,) = ctx.saved_tensors
    return torch.ops.fastreg.gradient(x, u, *ctx.weights), None, None, None


def _keep_gradient(ctx: Any, inputs: Any, output: Any) -> None:
    x, u, l1, l2 = inputs
    ctx.save_for_backward(x, u)
    ctx.weights = (l1, l2)


def _register() -> None:
    """Define the operators, unless an earlier copy of this module did."""
    if hasattr(torch.ops.fastreg, "penalty"):
        return
    tags = (torch.Tag.pt2_compliant_tag,)
    everywhere = "CompositeExplicitAutograd"
    library = torch.library
    library.define(
        "fastreg::penalty",
        "(Tensor x, float l1, float l2, ScalarType? dtype=None) -> Tensor",
        tags=tags,
    )
    library.impl("fastreg::penalty", everywhere)(_run_penalty)
    library.register_fake("fastreg::penalty", _fake_penalty)
    library.register_autograd(
        "fastreg::penalty", _penalty_backward, setup_context=_keep_penalty
    )
    library.define(
        "fastreg::gradient", "(Tensor x, Tensor u, float l1, float l2) -> Tensor", tags=tags
    )
    library.impl("fastreg::gradient", everywhere)(_run_gradient)
    library.register_fake("fastreg::gradient", _fake_gradient)
    library.register_autograd(
        "fastreg::gradient", _Gradient.backward, setup_context=_keep_gradient
    )


_register()


def _hide_from_the_compiler() -> None:
    """Keep torch.compile out of what runs eagerly between the graphs of a broken program.

    Without it the compiler traces these functions when autograd calls them there, and finds memory
    addresses in them. ``torch.compiler.disable`` would do the same, but imports the compiler
    (seconds) and costs microseconds in every call.
    """
    kinds: tuple[Any, ...] = (_Penalty, _ListPenalty, _Orthogonal, _Gradient, _Transformed)
    eager: list[Any] = [_value_now, _both_now, _gradient_now, _list_now, _orthogonal_now]
    eager += [f for kind in kinds for f in (kind.forward, kind.backward)]
    try:
        frames = torch._C._dynamo.eval_frame
        skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        for function in eager:
            frames.set_code_exec_strategy(function.__code__, skip)
    except (AttributeError, TypeError):  # private; another release has another way
        return


# -- Public ----------------------------------------------------------------------------------------


def penalty(
    x: Any,
    *,
    l1: Any = 0.0,
    l2: Any = 0.0,
    dtype: Any = None,
    select: Any = None,
    weights: Any = 1.0,
    convention: str = "keras",
) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` of a tensor or a model, differentiable.

    What Keras' ``L1L2(l1, l2)(x)`` returns, and ``l1 * x.abs().sum() + l2 * (x * x).sum()`` up to
    its rounding errors and overflows: on the CPU this is the exact number rounded once, the bits
    that :func:`fastreg.value` and :func:`fastreg.gradient` give for the same memory.

    Parameters
    ----------
    x : torch.Tensor, an iterable of tensors, or a model
        A model is a module, a mapping, or an iterable of (name, tensor) such as
        ``model.named_parameters()``: one node of the graph for all of it. Tensors of any shape and
        strides, dense; float16, bfloat16, float32, float64, or bool and integers, which are summed
        exactly and have no gradient. Never copied. Variables of Keras on torch stand for their
        tensors. What stands in a list twice counts twice; a parameter that a module ties, once.
    l1, l2 : float, for a list one float for each tensor, for a model a mapping or callable too
        Weights, finite and >= 0; zero removes a term (also where Keras gives ``0 * inf = nan``).
    dtype : torch.dtype or str, optional
        Type of the result: x's by default, for a list the type to which its tensors' types promote;
        float64 for integers. ``torch.float32`` keeps penalties of half precision finite.
    select : optional
        Which tensors of a model, as in :func:`fastreg.penalty`: by default ``"kernels"`` where
        there are names (no bias, no normalisation, nothing frozen, ndim >= 2), and all of a list.
    weights, convention
        As in :func:`fastreg.penalty`.

    Returns
    -------
    torch.Tensor
        0-d, on x's device. Requires grad if x does and grad mode is on. A NaN in x gives NaN,
        otherwise an infinity gives inf, an empty tensor 0. For a list the sum over all tensors,
        rounded once if they are in host memory.

    Raises
    ------
    NotAnArrayError
        (a TypeError and an AttributeError) If x is no tensor.
    DTypeError
        (a TypeError) For complex, quantized and 8-bit float elements, sparse and nested tensors.
    ArgumentError
        (a ValueError) For a weight that is negative, not finite, or a tensor.
    LayoutError
        (a ValueError) For a parameter of a lazy module that has no shape yet.

    Notes
    -----
    The gradient is ``u * (2 * l2 * x + l1 * sign(x))`` with ``sign(0) = 0`` and
    ``sign(nan) = nan`` (torch's own is 0 there), computed in float64 with one fused multiply-add
    and rounded once to x's type, for every upstream gradient u. For ``u == 1`` it is the one that
    the forward pass computed while it read x for the value; otherwise it is computed again with u
    inside the rounding, so that a loss scaled by 65536 keeps the gradients that would vanish in
    float16. Second derivatives are ``2 * l2 * u``; they and forward mode are torch's operations.

    ``torch.func`` transforms work; ``vmap`` computes one example after the other. Large calls
    release the interpreter's lock and use :func:`fastreg.get_num_threads` threads, not torch's.

    There is no size below which torch's operations are taken: they are not exact, and no faster
    than this but for one case. On one core of an x86-64 with AVX-512, 1024 elements of float32 with
    ``l2`` take 5 us and 47 us with backward; Keras' operations 9 and 49, ``l2 * (x * x).sum()``
    7 and 41.

    On other devices, for a ``DTensor`` and in programs under ``torch.func`` transforms torch's
    operations sum in float64 (float32 on ``mps``) and compute the
    gradient in x's type, float32 for half precision.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> loss = penalty(w, l1=0.5, l2=0.25)
    >>> loss.backward()
    >>> loss.item(), w.grad
    (2.75, tensor([ 1.0000, -1.5000]))
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    >>> penalty(model, l2=1e-4).grad_fn.name()  # of the one kernel: no bias, no LayerNorm
    '_ListPenaltyBackward'
    """
    if not isinstance(x, torch.Tensor):
        x = _unwrapped(x)
    if not isinstance(x, torch.Tensor) or not (
        select is None and type(weights) is float and weights == 1.0 and convention == "keras"
    ):
        return _list_penalty(x, l1, l2, dtype, select, weights, convention)
    if not (type(l1) is type(l2) is float and 0.0 <= l1 < math.inf and 0.0 <= l2 < math.inf):
        l1, l2 = _weight("l1", l1), _weight("l2", l2)
    result = _result(x, dtype)
    if torch.compiler.is_compiling():
        if _transforms_active() or _forward_mode() or x.device.type not in ("cpu", "meta"):
            return _native_penalty(x, l1, l2, result)
        return torch.ops.fastreg.penalty(x, l1, l2, result)
    if _in_graph(x):
        if _transforms_active() or _forward_mode() or _distributed(x):
            return _native_penalty(x, l1, l2, result)
        return torch.ops.fastreg.penalty(x, l1, l2, result)
    if _transforms_active() or _forward_mode():
        if _functionalized():
            return _native_penalty(x, l1, l2, result)
        return _Transformed.apply(x, l1, l2, result)
    if x.requires_grad and torch.is_grad_enabled():
        return _Penalty.apply(x, l1, l2, result)
    return _value_now(x, l1, l2, result)


def _forward_mode() -> bool:
    return bool(getattr(forward_ad, "_current_level", -1) >= 0)


class _ListPenalty(torch.autograd.Function):
    """The penalty of several host tensors, summed exactly over all of them: one node.

    As in :class:`_Penalty`, the gradients come from the pass that reads the values, if the upstream
    gradient was 1 the last time.
    """

    @staticmethod
    def forward(ctx: Any, l1s: list[float], l2s: list[float], dtype: Any, *xs: Any) -> Any:
        ctx.save_for_backward(*xs)
        ctx.weights = (l1s, l2s)
        ctx.leaf = leaf = all(x.is_leaf for x in xs)
        ctx.gradients = None
        if not _expect_one[leaf]:
            return _list_now(xs, l1s, l2s, dtype)
        memory = dense_tensors(xs)
        if memory is None:
            return _list_now(xs, l1s, l2s, dtype)
        ctx.gradients = [
            _empty_like(x) if x.requires_grad and (l1 or l2) else None
            for x, l1, l2 in zip(xs, l1s, l2s, strict=True)
        ]
        value = _kernels.dense_value_and_gradient(
            memory, l1s, l2s, _addresses(ctx.gradients), _FLOATS[dtype], True
        )
        return _scalar(value, dtype)

    @staticmethod
    def backward(ctx: Any, u: Any) -> Any:
        xs = ctx.saved_tensors  # refuses tensors that were written to since, whatever u is
        l1s, l2s = ctx.weights
        needed = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or _transforms_active():
            each = zip(xs, l1s, l2s, needed, strict=True)
            out = [_Gradient.apply(x, u, l1, l2) if n else None for x, l1, l2, n in each]
            return None, None, None, *out
        # Given away once: the receiver may keep them as grad and write to them.
        ready, ctx.gradients = ctx.gradients, None
        scale = _number(u)
        one = _expect_one[ctx.leaf] = scale == 1.0
        if one and ready is not None:
            return None, None, None, *ready
        memory = dense_tensors(xs) if math.isfinite(scale) else None
        if memory is None:
            each = zip(xs, l1s, l2s, needed, strict=True)
            out = [_gradient_now(x, u, l1, l2) if n else None for x, l1, l2, n in each]
            return None, None, None, *out
        # No weight: no gradient, which autograd takes for zeros.
        out = ready or [
            _empty_like(x) if n and (l1 or l2) else None
            for x, l1, l2, n in zip(xs, l1s, l2s, needed, strict=True)
        ]
        _kernels.dense_gradient(memory, l1s, l2s, _addresses(out), scale=scale, fresh=True)
        return None, None, None, *out


def _addresses(xs: Iterable[Any]) -> list[int]:
    return [0 if x is None else x.data_ptr() for x in xs]


def _list_now(xs: Sequence[Any], l1s: list[float], l2s: list[float], dtype: Any) -> Any:
    memory = dense_tensors(xs)
    if memory is not None:
        return _scalar(_kernels.dense_value(memory, l1s, l2s, _FLOATS[dtype], True), dtype)
    hosts = [_host(x) for x in xs]
    return _scalar(_kernels.plain_list_value(hosts, l1s, l2s, _FLOATS[dtype]), dtype)


def _weights(name: str, weight: Any, count: int) -> list[float]:
    """Return one weight for each tensor of a list."""
    if isinstance(weight, Iterable) and not isinstance(weight, (str, bytes, torch.Tensor)):
        weights = [_weight(name, w) for w in weight]
        if len(weights) != count:
            raise ArgumentError(
                message(f"{count} weights {name}, one for each tensor", f"{len(weights)}",
                        "pass one number for all tensors, or one for each")
            )
        return weights
    return [_weight(name, weight)] * count


def _chosen(
    params: Any, l1: Any, l2: Any, select: Any, weights: Any, convention: str
) -> tuple[list[str], list[Any], list[float], list[float]]:
    """Return names, tensors and weights of what a call is about: see :func:`penalty`."""
    containers = (torch.Tensor, torch.nn.Module, Mapping, Iterable)
    foreign = not isinstance(params, torch.Tensor) and hasattr(params, "dtype")
    if foreign or isinstance(params, (str, bytes)) or not isinstance(params, containers):
        raise _refuse(params)
    if isinstance(params, Iterable) and not isinstance(params, (torch.Tensor, Mapping)):
        params = list(params)
        for x in params:
            if not isinstance(_unwrapped(x), (torch.Tensor, torch.nn.Module, Mapping, tuple, list)):
                raise _refuse(x)
    for name, weight in (("l1", l1), ("l2", l2), ("weights", weights)):
        for number in weight.values() if isinstance(weight, Mapping) else [weight]:
            if isinstance(number, torch.Tensor):
                _weight(name, number)
    bare = isinstance(params, torch.Tensor) or (
        isinstance(params, list) and all(isinstance(_unwrapped(x), torch.Tensor) for x in params)
    )
    if bare and select is None:
        xs = [params] if isinstance(params, torch.Tensor) else [_unwrapped(x) for x in params]
        if type(weights) is float and weights == 1.0 and convention == "keras":
            count = len(xs)
            names = [str(k) for k in range(count)]
            return names, xs, _weights("l1", l1, count), _weights("l2", l2, count)
        select = "all"
    names, xs, l1s, l2s = choose(
        params, l1=l1, l2=l2, select="kernels" if select is None else select, weights=weights,
        convention=convention,
    )
    return names, [_unwrapped(x) for x in xs], l1s, l2s


def _list_penalty(
    params: Any, l1: Any, l2: Any, dtype: Any, select: Any, weights: Any, convention: str
) -> Any:
    _, xs, l1s, l2s = _chosen(params, l1, l2, select, weights, convention)
    for x in xs:
        if not isinstance(x, torch.Tensor):
            raise _refuse(x)
    own = [_result(x, None) for x in xs]
    if dtype is None:
        result = own[0] if own else torch.get_default_dtype()
        for other in own[1:]:
            result = torch.promote_types(result, other)
    else:
        result = _as_dtype(dtype)
    if not xs:
        return torch.zeros((), dtype=result, device="cpu")
    if torch.compiler.is_compiling() or _transforms_active() or _forward_mode() or any(
        x.device.type != "cpu" or _in_graph(x) for x in xs
    ):
        wide = _wide(xs[0].device)
        terms = [
            penalty(x, l1=w1, l2=w2, dtype=wide) for x, w1, w2 in zip(xs, l1s, l2s, strict=True)
        ]
        return torch.stack(terms).sum().to(result)
    if torch.is_grad_enabled() and any(x.requires_grad for x in xs):
        return _ListPenalty.apply(l1s, l2s, result, *xs)
    return _list_now(xs, l1s, l2s, result)


def _differentiable(x: Any) -> None:
    if not isinstance(x, torch.Tensor):
        raise _refuse(x)
    _result(x, None)
    if x.dtype not in _FLOATS:
        raise ndarray.not_differentiable(str(x.dtype), "x.float()")


def gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Return the gradient of :func:`penalty`, a tensor like x that is in no graph.

    Parameters and errors as in :func:`penalty`; integers are refused.

    Examples
    --------
    >>> import torch
    >>> gradient(torch.tensor([1.0, -2.0]), l2=0.5)
    tensor([ 1., -2.])
    """
    _differentiable(x)
    l1, l2 = _weight("l1", l1), _weight("l2", l2)
    x = x.detach()
    one = torch.ones((), dtype=x.dtype, device=x.device)
    if _distributed(x) or (
        _transforms_active() and (torch.compiler.is_compiling() or _functionalized())
    ):
        return _native_gradient(x, one, l1, l2)
    if torch.compiler.is_compiling() or _in_graph(x):
        return torch.ops.fastreg.gradient(x, one, l1, l2)
    if _transforms_active():
        return _Gradient.apply(x, one, l1, l2)
    return _gradient_now(x, one, l1, l2)


def value_and_gradient(
    x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None
) -> tuple[Any, Any]:
    """Return :func:`penalty` and :func:`gradient`, on the CPU from one pass over x; in no graph.

    Parameters and errors as in :func:`penalty`; integers are refused.

    Examples
    --------
    >>> import torch
    >>> value_and_gradient(torch.tensor([1.0, -2.0]), l2=0.5)
    (tensor(2.5000), tensor([ 1., -2.]))
    """
    _differentiable(x)
    l1, l2 = _weight("l1", l1), _weight("l2", l2)
    x = x.detach()
    if torch.compiler.is_compiling() or _in_graph(x) or _transforms_active():
        return penalty(x, l1=l1, l2=l2, dtype=dtype), gradient(x, l1=l1, l2=l2)
    return _both_now(x, l1, l2, _result(x, dtype))


# -- Models, in place ------------------------------------------------------------------------------


def add_gradient_(
    params: Any,
    *,
    l1: Any = 0.0,
    l2: Any = 0.0,
    select: Any = None,
    weights: Any = 1.0,
    convention: str = "keras",
    scale: float = 1.0,
) -> None:
    """Add the gradient of :func:`penalty` to the ``grad`` of each tensor, in one pass.

    After ``loss.backward()`` and before the optimiser's step this is what adding the penalty to the
    loss would have done, without a graph: ``grad = RN_T(grad + g)``. Without a ``grad`` there it
    becomes g. Tensors that do not require grad are left alone. Not for compiled functions: call it
    outside of them.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; leaves of float types.
    scale : float, finite, default 1
        The upstream gradient: what the penalty is multiplied by, as a GradScaler's ``get_scale()``.

    Raises
    ------
    DTypeError, ArgumentError
        As in :func:`penalty`; for integers, and for a scale that is not finite.
    LayoutError
        (a ValueError) Naming the tensor: for one that is no leaf, a ``grad`` that is sparse, and
        memory that two of them share. Nothing has been written then.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> _ = torch.nn.init.constant_(layer.weight, 3.0)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> add_gradient_(layer, l2=0.5)
    >>> layer.weight.grad, layer.bias.grad
    (tensor([[4., 4.]]), tensor([1.]))
    """
    names, xs, l1s, l2s = _chosen(params, l1, l2, select, weights, convention)
    scale = _real("a finite scale", scale, -math.inf)
    # A frozen tensor gets no gradient, as from a penalty in the loss; one that stands here twice
    # gets two, of which the second round of calls adds the second.
    trained = [k for k, x in enumerate(xs) if getattr(x, "requires_grad", True)]
    for k in set(range(len(xs))) - set(trained):
        _differentiable(xs[k])
    rounds: dict[int, list[int]] = {}
    seen: Counter[int] = Counter()
    for k in trained:
        rounds.setdefault(seen[id(xs[k])], []).append(k)
        seen[id(xs[k])] += 1
    for places in rounds.values():
        _add_gradient(
            [names[k] for k in places], [xs[k] for k in places], [l1s[k] for k in places],
            [l2s[k] for k in places], scale,
        )


def _add_gradient(
    names: list[str], xs: list[Any], l1s: list[float], l2s: list[float], scale: float
) -> None:
    """Add the gradients of distinct tensors."""
    if _add_quickly(xs, l1s, l2s, scale):
        return
    for name, x in zip(names, xs, strict=True):
        _check_leaf(name, x)
        if x.grad is not None and (x.grad.layout != torch.strided or x.grad.is_nested):
            raise LayoutError(
                message(f"a dense grad at '{name}'", f"one of layout {x.grad.layout}",
                        "make the layer's gradient dense (sparse=False), or leave it out")
            )
        if x.grad is not None and x.numel() and x.grad.data_ptr() == x.data_ptr():
            raise LayoutError(
                message(f"a grad with memory of its own at '{name}'", "the tensor's own memory",
                        "set it to None, or to a copy")
            )
    here = [k for k, x in enumerate(xs) if x.device.type == "cpu"]
    with torch.no_grad():
        _add_here(names, xs, l1s, l2s, here, scale)
        for k, x in enumerate(xs):
            if x.grad is None:
                x.grad = _gradient_now(x.detach(), _upstream(scale, x), l1s[k], l2s[k])
            elif x.device.type != "cpu":
                x.grad.add_(_native_gradient(x.detach(), _upstream(scale, x), l1s[k], l2s[k]))


def _add_quickly(xs: list[Any], l1s: list[float], l2s: list[float], scale: float) -> bool:
    """Do the ordinary case: leaves in host memory that all have a ``grad``. Else do nothing."""
    memory = dense_tensors(xs)
    if memory is None or not all(map(_is_leaf, xs)):
        return False
    grads = list(map(_grad, xs))
    targets = dense_tensors(grads)
    if targets is None or memory[1:] != targets[1:] or not {0}.issuperset(
        set(memory[0]).intersection(targets[0])
    ):
        return False
    if not _kernels.dense_gradient(memory, l1s, l2s, targets[0], scale=scale, accumulate=True):
        return False
    torch.autograd.graph.increment_version(grads)
    return True


_is_leaf = attrgetter("is_leaf")
_grad = attrgetter("grad")


def _upstream(scale: float, x: Any) -> Any:
    return torch.tensor(scale, dtype=_wide(x.device), device=x.device)


def _add_here(
    names: list[str], xs: list[Any], l1s: list[float], l2s: list[float], places: list[int],
    scale: float,
) -> None:
    """Add to the ``grad`` of tensors in host memory, in one call."""
    xs = [xs[k] for k in places]
    l1s, l2s = [l1s[k] for k in places], [l2s[k] for k in places]
    with _names(names, places):
        _kernels.list_gradient(
            [_host(x) for x in xs], l1s, l2s,
            [None if x.grad is None else _grad_memory(x.grad) for x in xs],
            scale=scale, accumulate=True,
        )
    torch.autograd.graph.increment_version([x.grad for x in xs if x.grad is not None])


def prox_(
    params: Any,
    *,
    step: float,
    l1: Any = 0.0,
    l2: Any = 0.0,
    select: Any = None,
    weights: Any = 1.0,
    convention: str = "keras",
    flush: bool = False,
) -> None:
    """Take a proximal step of the penalty in place: the soft threshold, which makes exact zeros.

    After ``optimizer.step()`` of the loss without the penalty, with ``step`` the learning rate:
    what :func:`fastreg.prox_` does, on any device and under ``no_grad``.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; leaves of float types.
    step : float, finite, >= 0
        The learning rate.
    flush : bool, default False
        Turn results that are subnormal in the tensor's type into 0.

    Raises
    ------
    DTypeError, ArgumentError, LayoutError
        As in :func:`add_gradient_`, and for a bad step. Nothing has been written then.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([3.0, -0.5, 1.0], requires_grad=True)
    >>> prox_(w, l1=2.0, step=0.5)
    >>> w
    tensor([2., 0., 0.], requires_grad=True)
    """
    names, xs, l1s, l2s = _chosen(params, l1, l2, select, weights, convention)
    step = _real("a step that is finite and >= 0", step, 0.0)
    for name, x in zip(names, xs, strict=True):
        _check_leaf(name, x)
    here = [k for k, x in enumerate(xs) if x.device.type == "cpu"]
    written = [xs[k] for k in here]
    w1, w2 = [l1s[k] for k in here], [l2s[k] for k in here]
    memory = dense_tensors(written)
    if memory is None or not _kernels.dense_prox_(memory, w1, w2, step, bool(flush)):
        with _names(names, here):
            hosts = [host_array(_grad_memory(x)) for x in written]
            _kernels.Plan(hosts, w1, w2).prox_(step, bool(flush))
    torch.autograd.graph.increment_version(written)
    with torch.no_grad():
        for k, x in enumerate(xs):
            if x.device.type != "cpu":
                x.copy_(_native_prox(x, step, l1s[k], l2s[k], bool(flush)))


def _real(wanted: str, x: Any, least: float) -> float:
    """Return a finite number that is not below ``least``, or raise."""
    try:
        number = math.nan if isinstance(x, (bool, str, bytes)) else float(x)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        raise ArgumentError(message(wanted, repr(x)[:80], "pass such a number"))
    return number


def _check_leaf(name: str, x: Any) -> None:
    """Refuse what has no ``grad`` or no memory to be written."""
    if not isinstance(x, torch.Tensor):
        raise _refuse(x)
    _differentiable(x)
    if not x.is_leaf:
        raise LayoutError(
            message(f"a leaf, such as a parameter, at '{name}'", "a result of other tensors",
                    "pass the parameters that it was computed from")
        )
    if _in_graph(x):
        raise LayoutError(
            message(f"a tensor with memory at '{name}'", f"a {type(x).__name__} on {x.device}",
                    "call this outside of compiled or traced functions")
        )


def _grad_memory(x: Any) -> Any:
    """View the memory that is to be written."""
    if x.is_neg():
        raise LayoutError(
            message("a tensor that is no lazy negation", "one", "pass x.resolve_neg()")
        )
    return _host(x)


class _names:
    """Replace positions in the kernels' errors by names."""

    def __init__(self, names: list[str], places: list[int]) -> None:
        self._names = [names[k] for k in places]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, FastregError):
            nothing: Any = None
            raise named(error, [Parameter(n, nothing, nothing) for n in self._names]) from None


def _native_prox(x: Any, step: float, l1: float, l2: float, flush: bool) -> Any:
    wide = x.to(_wide(x.device))
    shrunk = (wide.abs() - step * l1).clamp_min(0.0) / (1.0 + 2.0 * step * l2)
    out = torch.copysign(shrunk, wide).to(x.dtype)
    if flush:
        out = torch.where(out.abs() < torch.finfo(x.dtype).tiny, 0.0, out)
    return torch.where(out == 0.0, 0.0, out).to(x.dtype)  # zeros are positive


# -- Orthogonality --------------------------------------------------------------------------------


def _native_orthogonal(x: Any, factor: float, rows: bool, dtype: Any) -> Any:
    """Return the orthogonality penalty as torch's operations."""
    if _distributed(x):
        x = x.full_tensor()
    lines = x if rows else x.mT
    n = lines.shape[0]
    wide = _wide(x.device)
    if n < 2 or factor == 0.0:
        return lines[:0].to(wide).sum().to(dtype)
    work = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    y = lines.to(wide)
    norms = torch.linalg.vector_norm(y, dim=1, keepdim=True).clamp(min=1e-7)
    units = (y / norms).to(work if work in _FLOATS else wide)
    gram = units @ units.mT
    itself = torch.eye(n, dtype=torch.bool, device=x.device)
    gram = torch.where(itself, torch.zeros_like(gram), gram)
    total = (gram * _sign(gram).detach()).sum(dtype=wide)
    return (total * (factor / (float(n) * (n - 1)))).to(dtype)


def _orthogonal_now(x: Any, factor: float, rows: bool, dtype: Any, want: bool) -> tuple[Any, Any]:
    host = _host(x)
    value, slope = ndarray.cosines(
        host if isinstance(host, HostArray) else host_array(host), factor, rows, want
    )
    value = torch.tensor(value, dtype=dtype, device="cpu")
    return value, torch.from_numpy(slope) if want else None


class _Orthogonal(torch.autograd.Function):
    """The orthogonality penalty in eager mode, with the gradient from the same Gram matrix."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: float, rows: bool, dtype: Any) -> Any:
        ctx.save_for_backward(x)
        ctx.arguments = (factor, rows, dtype)
        value, ctx.slope = _orthogonal_now(x, factor, rows, dtype, want=True)
        return value

    @staticmethod
    def backward(ctx: Any, u: Any) -> Any:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled() or _transforms_active():
            with torch.enable_grad():
                value = _native_orthogonal(x, *ctx.arguments)
            (slope,) = torch.autograd.grad(value, x, u, create_graph=True)
            return slope, None, None, None
        # The slope of half precision is float32: a scaled loss brings back what would vanish.
        return (ctx.slope * u).to(x.dtype), None, None, None


def orthogonal(x: Any, *, factor: float, rows: bool = True, dtype: Any = None) -> Any:
    """Return ``factor`` times the mean magnitude of the cosines between rows; differentiable.

    Parameters and errors as in :func:`fastreg.ndarray.orthogonal`, of which it has the bits for CPU
    tensors in eager mode; programs, ``torch.func`` and other devices use torch's operations.

    Examples
    --------
    >>> import torch
    >>> orthogonal(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), factor=0.5)
    tensor(0.3536)
    """
    result = _matrix(x, factor, dtype)
    if (
        torch.compiler.is_compiling()
        or _in_graph(x)
        or _transforms_active()
        or _forward_mode()
        or x.device.type != "cpu"
    ):
        return _native_orthogonal(x, factor, rows, result)
    if x.requires_grad and torch.is_grad_enabled():
        return _Orthogonal.apply(x, factor, rows, result)
    return _orthogonal_now(x, factor, rows, result, want=False)[0]


def _matrix(x: Any, factor: float, dtype: Any) -> Any:
    if not isinstance(x, torch.Tensor):
        raise _refuse(x)
    result = _result(x, dtype)
    ndarray.check_matrix(tuple(x.shape), factor)
    return result


def orthogonal_value_and_gradient(
    x: Any, *, factor: float, rows: bool = True, dtype: Any = None
) -> tuple[Any, Any]:
    """Return :func:`orthogonal` and its gradient, a tensor like x; neither in a graph."""
    result = _matrix(x, factor, dtype)
    _differentiable(x)
    x = x.detach()
    if x.device.type == "cpu" and not (_in_graph(x) or _transforms_active()):
        value, slope = _orthogonal_now(x, factor, rows, result, want=True)
        return value, slope.to(x.dtype)
    x.requires_grad_()
    with torch.enable_grad():
        value = _native_orthogonal(x, factor, rows, result)
        return value.detach(), torch.autograd.grad(value, x)[0]


_hide_from_the_compiler()
