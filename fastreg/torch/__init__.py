# SPDX-License-Identifier: BSD-3-Clause
"""The PyTorch backend: penalties of tensors and modules, differentiable, with the bits of NumPy's.

Dense CPU tensors go to the kernels without a copy. In eager mode an ``autograd.Function`` reads
the tensors once for value and gradient. Under ``torch.compile``, ``torch.export``, ``make_fx`` and
for fake and meta tensors the operator ``torch.ops.fastreg.penalty`` stands in the graph. Tensors of
other devices are computed there by PyTorch's own operations, accumulated in float64 (float32 where
the device has no float64): the same meaning, not the same bits.

Importing this module imports torch; ``import fastreg`` does not import this module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastreg._core.arguments import (
    Convention,
    Nonfinite,
    Request,
    Select,
    Weight,
    check_matrix,
    number,
    two_weights,
)
from fastreg._core.frameworks import unwrap
from fastreg._core.selection import explain
from fastreg._core.statistics import Stats
from fastreg.torch import _compiled, _dispatch, _models, _steps
from fastreg.torch._account import explain_norm
from fastreg.torch._memory import check_differentiable, refuse, result_type
from fastreg.torch._sharded import clip_grad_norm_, total_norm

__all__ = [
    "add_gradient_",
    "clip_by_global_norm_",
    "clip_grad_norm_",
    "decay_",
    "explain",
    "explain_norm",
    "global_norm",
    "gradient",
    "l2_loss",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "prox_",
    "stats",
    "total_norm",
    "value_and_gradient",
]


def __dir__() -> list[str]:
    return __all__


_compiled.register()
_compiled.hide()


def _is_plain(params: Any, l1: Any, l2: Any, select: Any, weights: Any, convention: Any) -> bool:
    """Whether a call is about one tensor and two numbers: small calls are to cost little."""
    return (
        isinstance(params, Tensor)
        and (type(l1) is float or l1 is None)
        and (type(l2) is float or l2 is None)
        and not (l1 is l2 is None)
        and select is None
        and type(weights) is float
        and weights == 1.0
        and convention == "keras"
    )


def penalty(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    dtype: Any = None,
) -> Tensor:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` of a tensor or a model, differentiable.

    What Keras' ``L1L2(l1, l2)(x)`` returns, and ``l1 * x.abs().sum() + l2 * (x * x).sum()`` up to
    its rounding errors and overflows: on the CPU this is the exact number rounded once, the bits
    that :func:`fastreg.value` and :func:`fastreg.gradient` give for the same memory.

    Parameters
    ----------
    params : torch.Tensor, or a container of tensors
        A tensor, or a list or iterable of tensors, means those. A container with names (a module, a
        mapping, ``model.named_parameters()``) means its kernels: ndim >= 2, no bias, no
        normalisation, no scale, token or position, nothing frozen or exempt; a weight that a module
        computes counts as it is used, without a step of power iteration. Tensors of any shape and
        strides, dense; float16, bfloat16, float32, float64, or bool and integers, which are summed
        exactly and have no gradient. Never copied.
        Variables of Keras on torch stand for their tensors. What stands there twice, tied or by
        another name, counts once. A :class:`fastreg.Plan` alone, without weights or a rule beside
        it, stands for its tensors and weights; it raises StaleError when they have changed.
    l1, l2 : float, mapping, callable, or a list of one number for each tensor
        Weights, finite and >= 0, of which one at least is given; zero removes a term (also where
        Keras gives ``0 * inf = nan``). A mapping goes from names or globs to numbers.
    select : str, pattern, callable or tree of bools, optional
        Which tensors, as in :func:`fastreg.penalty`: a glob on their names, ``"re:..."``,
        ``"kernels"`` or ``"all"``.
    weights, convention
        As in :func:`fastreg.penalty`.
    dtype : torch.dtype or str, optional
        Type of the result: by default that of the tensor, or the one to which the tensors' types
        promote; float64 for integers. ``torch.float32`` keeps penalties of half precision finite.

    Returns
    -------
    torch.Tensor
        0-d, on the tensors' device. Requires grad if a tensor does and grad mode is on. A NaN gives
        NaN, otherwise an infinity gives inf, an empty tensor or container 0. The sum over all
        tensors is rounded once if they are in host memory.

    Raises
    ------
    NotAnArrayError
        (a TypeError and an AttributeError) For what is no tensor.
    DTypeError
        (a TypeError) For complex, quantized and 8-bit float elements, sparse and nested tensors;
        for a weight that is a tensor, which would get no gradient.
    ArgumentError
        (a ValueError) For a weight that is negative or not finite, for none at all, and for a rule
        that takes no tensor.
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
    operations sum in float64 (float32 on ``mps``) and compute the gradient in x's type, float32 for
    half precision. The penalty of a ``DTensor`` is that of the whole tensor, in each process.

    In compiled programs a weight of ``torch.nn.utils.parametrizations`` is computed as the module
    does it there; one of the older hooks, or of pruning, is refused.

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
    'PenaltyBackward'
    """
    if not isinstance(params, Tensor):
        params = unwrap(params)
    if not _is_plain(params, l1, l2, select, weights, convention):
        return _models.penalty(params, Request.of(l1, l2, select, weights, convention), dtype)
    return _dispatch.penalty(params, *two_weights(l1, l2), result_type(params, dtype))


def gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: float = 1.0,
) -> Any:
    """Return the gradient of :func:`penalty`, in no graph.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; integers are refused.
    scale : float, default 1
        The upstream gradient: any number, inside the one rounding of each element.

    Returns
    -------
    torch.Tensor, list or dict
        Of a tensor one like it; of a list or tuple a list with a tensor for each, None where one is
        left out or counted before; of an iterator a list of those that are in; of a container with
        names a dict of those, by name.

    Raises
    ------
    NotAnArrayError, DTypeError, ArgumentError, LayoutError
        As :func:`penalty`, and for integers.

    Examples
    --------
    >>> import torch
    >>> gradient(torch.tensor([1.0, -2.0]), l2=0.5)
    tensor([ 1., -2.])
    >>> gradient(torch.nn.Linear(2, 1), l1=0.5, select="bias").keys()
    dict_keys(['bias'])
    """
    if not isinstance(params, Tensor):
        params = unwrap(params)
    scale = number(scale, "scale", finite=False)
    if not _is_plain(params, l1, l2, select, weights, convention):
        return _models.gradient(params, Request.of(l1, l2, select, weights, convention), scale)
    check_differentiable(params)
    return _dispatch.gradient(params, *two_weights(l1, l2), scale)


def value_and_gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: float = 1.0,
    dtype: Any = None,
) -> tuple[Tensor, Any]:
    """Return :func:`penalty` and :func:`gradient`, on the CPU from one pass; in no graph.

    Parameters
    ----------
    params, l1, l2, select, weights, convention, dtype
        As in :func:`penalty`; integers are refused.
    scale : float, default 1
        The upstream gradient, as in :func:`gradient`; it does not multiply the value.

    Returns
    -------
    torch.Tensor, and what :func:`gradient` returns

    Examples
    --------
    >>> import torch
    >>> value_and_gradient(torch.tensor([1.0, -2.0]), l2=0.5)
    (tensor(2.5000), tensor([ 1., -2.]))
    """
    if not isinstance(params, Tensor):
        params = unwrap(params)
    scale = number(scale, "scale", finite=False)
    if not _is_plain(params, l1, l2, select, weights, convention):
        request = Request.of(l1, l2, select, weights, convention)
        return _models.value_and_gradient(params, request, scale, dtype)
    check_differentiable(params)
    l1, l2 = two_weights(l1, l2)
    value, grads = _dispatch.both([params], [l1], [l2], result_type(params, dtype), scale)
    return value, grads[0]


def l2_loss(x: Any, *, dtype: Any = None) -> Tensor:
    """Return ``sum(x**2) / 2`` of a tensor, as ``tf.nn.l2_loss``; differentiable.

    Parameters, result and errors as in :func:`penalty`, whose ``l2=0.5`` this is.

    Examples
    --------
    >>> import torch
    >>> l2_loss(torch.tensor([3.0, 4.0]))
    tensor(12.5000)
    """
    x = unwrap(x)
    if not isinstance(x, Tensor):
        raise refuse(x)
    return _dispatch.penalty(x, 0.0, 0.5, result_type(x, dtype))


# -- Steps in place -------------------------------------------------------------------------------


def add_gradient_(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: float = 1.0,
) -> None:
    """Add the gradient of :func:`penalty` to the ``grad`` of each tensor, in one pass.

    After ``loss.backward()`` and before the optimiser's step this is what adding the penalty to the
    loss would have done, without a graph: ``grad = RN_T(grad + g)``. Without a ``grad`` there it
    becomes g. Frozen parameters are left alone. Not for compiled functions: call it outside of
    them.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; leaves of float types.
    scale : float, default 1
        The upstream gradient: what the penalty is multiplied by, as a GradScaler's ``get_scale()``.

    Raises
    ------
    DTypeError, ArgumentError
        As in :func:`penalty`, and for integers.
    LayoutError
        (a ValueError) Naming the tensor: for one that is no leaf, that does not require grad and is
        no parameter (or if none of them does), or that its module computes, a ``grad`` that is
        sparse or expanded, and memory that two of them share in part. Nothing has been written
        then.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C. Then, and only then, tensors may be partly written; autograd is
        told that they changed.

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
    scale = number(scale, "scale", finite=False)
    _steps.add_gradient_(params, Request.of(l1, l2, select, weights, convention), scale)


def prox_(
    params: Any,
    step: float,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
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
    KeyboardInterrupt
        As in :func:`add_gradient_`.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([3.0, -0.5, 1.0], requires_grad=True)
    >>> prox_(w, 0.5, l1=2.0)
    >>> w
    tensor([2., 0., 0.], requires_grad=True)
    """
    request = Request.of(l1, l2, select, weights, convention)
    _steps.prox_(params, request, step, bool(flush))


def decay_(params: Any, rate: float, *, select: Select = None) -> None:
    """Shrink tensors in place, ``x = RN_T((1 - rate) * x)``: a decoupled weight decay.

    What :func:`fastreg.decay_` does, on any device and under ``no_grad``.

    Parameters
    ----------
    params, select
        As in :func:`penalty`; leaves of float types.
    rate : float from 0 to 1
        The learning rate times the weight decay, for AdamW's step.

    Raises
    ------
    DTypeError, ArgumentError, LayoutError
        As in :func:`add_gradient_`, and for a bad rate. Nothing has been written then.
    KeyboardInterrupt
        As in :func:`add_gradient_`.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> _ = torch.nn.init.constant_(layer.weight, 4.0)
    >>> decay_(layer, 0.25)
    >>> layer.weight.tolist()
    [[3.0, 3.0]]
    """
    _steps.decay_(params, Request.of(select=select), rate)


# -- Norms and statistics -------------------------------------------------------------------------


def global_norm(grads: Any, *, dtype: Any = None) -> Tensor:
    """Return the Euclidean norm of all tensors together, correctly rounded for host memory.

    Parameters
    ----------
    grads : torch.Tensor or container of tensors
        All of them count, whatever they are called; None is left out, and a module means its
        parameters. A tensor that stands in a list or mapping twice counts twice: gradients of a sum
        are often one object.
    dtype : torch.dtype or str, optional
        Type of the result; float64 by default.

    Returns
    -------
    torch.Tensor
        0-d, in no graph: ``torch.func`` and forward mode alone differentiate it. +0 for no
        elements; NaN or infinity if an element is. Finite norms do not overflow on the way.

    Examples
    --------
    >>> import torch
    >>> global_norm([torch.full((2,), 3e38), torch.zeros(3), None])
    tensor(4.2426e+38, dtype=torch.float64)
    """
    return _models.global_norm(grads, dtype)


def clip_by_global_norm_(grads: Any, max_norm: float, *, nonfinite: Nonfinite = "raise") -> Tensor:
    """Scale tensors in place so that their norm together is at most ``max_norm``.

    What :func:`fastreg.clip_by_global_norm_` does, on any device.

    Parameters
    ----------
    grads : container of tensors
        As in :func:`global_norm`; gradients, not the parameters themselves.
    max_norm : float >= 0
        Infinity only measures.
    nonfinite : "raise" or "keep", default "raise"
        What to do with NaN or infinity in a tensor: name it in an error, or leave everything as it
        is and return the norm.

    Returns
    -------
    torch.Tensor
        0-d, float64: the norm before.

    Raises
    ------
    NonFiniteError
        (a ValueError) Naming the tensors that hold NaN or infinity.
    ArgumentError, LayoutError, DTypeError
        For a bad max_norm, parameters instead of gradients, memory that cannot be written. Nothing
        has been written then.

    Examples
    --------
    >>> import torch
    >>> g = torch.tensor([3.0, 4.0])
    >>> clip_by_global_norm_([g], 2.5)
    tensor(5., dtype=torch.float64)
    >>> g
    tensor([1.5000, 2.0000])
    """
    return _steps.clip_by_global_norm_(grads, max_norm, nonfinite)


def stats(params: Any, *, select: Select = "all", integers: bool = False) -> Stats:
    """Return n, Σ|x|, Σx², norm, max|x| and counts of zeros, subnormals, NaN and inf, per tensor.

    What :func:`fastreg.stats` returns; tensors of other devices are copied to the CPU for it.

    Parameters
    ----------
    params, select
        As in :func:`penalty`, but all tensors by default, and a module's buffers too.
    integers : bool, default False
        Count integers and booleans in the total.

    Examples
    --------
    >>> import torch
    >>> stats({"w": torch.tensor([3.0, -4.0])})["w"]["norm"]
    5.0
    """
    return _models.stats(params, select, integers)


# -- Orthogonality --------------------------------------------------------------------------------


def orthogonal(x: Any, *, factor: float, rows: bool = True, dtype: Any = None) -> Tensor:
    """Return ``factor`` times the mean magnitude of the cosines between rows; differentiable.

    As :class:`fastreg.regularizers.OrthogonalRegularizer`. CPU tensors in eager mode have the bits
    of the NumPy backend; programs, ``torch.func`` and other devices use torch's operations.

    Parameters
    ----------
    x : torch.Tensor, 2-d
        Integers are computed in float64.
    factor : float
        Finite and >= 0.
    rows : bool, default True
        False for columns.
    dtype : torch.dtype or str, optional
        Type of the result: x's by default, float64 for integers.

    Raises
    ------
    LayoutError
        (a ValueError) If x is not of rank 2.

    Examples
    --------
    >>> import torch
    >>> orthogonal(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), factor=0.5)
    tensor(0.3536)
    """
    x, factor, result = _matrix(x, factor, dtype)
    return _dispatch.orthogonal(x, factor, rows, result)


def orthogonal_value_and_gradient(
    x: Any, *, factor: float, rows: bool = True, dtype: Any = None
) -> tuple[Tensor, Tensor]:
    """Return :func:`orthogonal` and its gradient, a tensor like x; neither in a graph.

    Parameters and errors as in :func:`orthogonal`; integers are refused.
    """
    x, factor, result = _matrix(x, factor, dtype)
    check_differentiable(x)
    return _dispatch.orthogonal_and_gradient(x, factor, rows, result)


def _matrix(x: Any, factor: Any, dtype: Any) -> tuple[Tensor, float, torch.dtype]:
    x = unwrap(x)
    if not isinstance(x, Tensor):
        raise refuse(x)
    result = result_type(x, dtype)
    return x, check_matrix(tuple(x.shape), factor), result
