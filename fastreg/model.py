# SPDX-License-Identifier: BSD-3-Clause
"""Penalties of whole models: one exact value, one pass of the kernels over all the arrays.

========  ==========================  =====================  =====================================
          value                       gradient               the same strength elsewhere
========  ==========================  =====================  =====================================
"keras"   l1·Σ|x| + l2·Σx²            l1·sign(x) + 2·l2·x    ``keras.regularizers.L1L2(l1, l2)``
"half"    l1·Σ|x| + l2/2·Σx²          l1·sign(x) + l2·x      ``weight_decay=l2`` of torch's SGD
========  ==========================  =====================  =====================================

Nothing is divided by the size of a batch, an array or the number of replicas: with N replicas whose
gradients are summed, divide the weights by N; where gradients are averaged, leave them.
"""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np

from fastreg import _kernels
from fastreg._core import tensors
from fastreg._core.arguments import (
    Convention,
    Nonfinite,
    Request,
    Select,
    Weight,
    flag,
    not_differentiable,
    number,
)
from fastreg._core.arrays import HostArray, empty_like, is_array
from fastreg._core.containers import Parameter, gather, items_of
from fastreg._core.factors import clip_factor
from fastreg._core.mutability import refuse_weights
from fastreg._core.plan import Plan, occurrences
from fastreg._core.selection import chosen, explain
from fastreg._core.shortcuts import are_weights, dense_tensors, distinct_ndarrays, is_all
from fastreg._core.statistics import Stats, Titles
from fastreg._kernels import Arrays, are_writable
from fastreg.errors import ArgumentError, message

__all__ = [
    "Plan",
    "check_finite",
    "clip_by_global_norm_",
    "decay_",
    "explain",
    "global_norm",
    "penalty",
    "plan",
    "prox_",
    "stats",
    "value_and_gradient",
]

_ALL = Request.of(select="all")


def plan(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
) -> Plan:
    """Check and flatten a model once, for many calls.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`.

    Returns
    -------
    Plan
        With ``value``, ``global_norm``, ``add_gradient_``, ``value_and_gradient_``, ``prox_``,
        ``decay_``, ``clip_by_global_norm_``, ``stats``, ``check_finite``, ``explain`` and ``flat``.
        Without a weight it has no value and no gradient.

    Notes
    -----
    Values are read anew in each call: an optimiser that writes the arrays in place needs no new
    plan. One that replaces them, as JAX and TensorFlow do, needs one for each step; so does a torch
    module whose parts or ``requires_grad`` change. Any such change is an error, not a wrong number.
    An iterator (``model.parameters()``) is used up: its arrays are the plan's, whatever becomes of
    the model. A container that makes its arrays anew whenever it is asked is refused.

    What its functions return is in no graph and on no tape, as in :func:`penalty`; gradients are
    added to arrays with ``add_gradient_``.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> params = {"kernel": np.array([[3.0, -4.0]]), "bias": np.ones(2)}
    >>> p = fastreg.plan(params, l2=0.5)
    >>> p.value()
    np.float64(12.5)
    >>> params["kernel"] *= 2.0
    >>> p.value()
    np.float64(50.0)
    >>> params["kernel"] = np.zeros((1, 2))
    >>> p.value()
    Traceback (most recent call last):
    fastreg.errors.StaleError: expected the params that were planned; received at the top \
another object as item 0; make the plan anew
    """
    return Plan(params, l1=l1, l2=l2, select=select, weights=weights, convention=convention)


@overload
def penalty(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    dtype: Literal["float64"] | None = None,
) -> np.float64: ...
@overload
def penalty(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    dtype: Any,
) -> Any: ...
def penalty(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    dtype: Any = None,
) -> Any:
    """Return the penalty of a model: the exact sum over all chosen arrays, rounded once.

    Parameters
    ----------
    params : array or container of arrays
        Any nested mix of lists, tuples and mappings, an iterable of arrays or of (name, array)
        pairs, a torch module, a Keras model, layer or variables, a registered pytree. Arrays of any
        shape, layout, element type and framework, in host memory; nothing is copied. Memory found
        twice (tied weights) counts once; arrays that overlap in part each count as they stand. A
        weight that a torch module computes (parametrizations, ``weight_norm``, pruning) counts
        once, as it is used.
    l1, l2 : float, mapping, list or callable
        Weights of Σ|x| and Σx², finite and >= 0; one that is left out is 0. A mapping from names or
        globs gives each array its own and 0 to those it does not name; a list has one for each
        array that is in; a callable gets ``(name, array)``.
    select : optional
        Which arrays. An array, and a list or tuple of arrays, means exactly those. A container with
        names (dict, module, model, pytree, (name, array) pairs) means its ``"kernels"``: floats of
        two and more dimensions, no bias, no normalisation, no scale, token or position, nothing
        frozen and nothing that its author exempts (``_no_weight_decay``, ``no_weight_decay()``);
        the class of the layer that holds an array decides, or where there is none its name.
        ``"all"``, a glob on the names, ``"re:..."``, a pattern, a list of these, a callable
        ``(name, array)`` or a tree of bools say otherwise: :func:`fastreg.explain` shows what they
        do. Tied arrays are in under any of their names.
    weights : float, mapping or callable, default 1
        Factors of both l1 and l2, in the same forms; a mapping leaves 1 to those it does not name.
    convention : "keras" or "half", default "keras"
        ``l2 * Σx²`` or ``l2 / 2 * Σx²``.
    dtype : float16, bfloat16, float32 or float64, optional
        Type of the result; float64 by default.

    Returns
    -------
    NumPy scalar
        The same bits for every order of the arrays, number of threads and machine. +0 for an empty
        container; NaN if a chosen array with a weight holds a NaN, else infinity if one holds that.

    Raises
    ------
    DTypeError
        (a TypeError) Naming the place of what is no array, or cannot be read.
    ArgumentError
        (a ValueError) For a bad weight, or none at all, and for a rule of names that takes no
        array.

    Notes
    -----
    Equal to the exactly rounded sum of what ``keras.Model.losses`` would hold for regularised
    kernels. A product of weights is a float64 number, rounded once before the sum.

    The result is a number, in no graph and on no tape: added to a loss it shows, but gives no
    gradient. The functions of the same name in :mod:`fastreg.torch`, :mod:`fastreg.tensorflow`,
    :mod:`fastreg.jax` and :mod:`fastreg.keras` are for losses.

    What an optimizer keeps beside the weights, Flax' variables that are no ``Param`` and numbers of
    Python in a model count in no penalty, whatever ``select`` says; kernels of a float or complex
    type that cannot be read are an error.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> model = {"dense": {"kernel": np.array([[3.0, -4.0]], np.float32), "bias": np.ones(2)}}
    >>> fastreg.penalty(model, l2=0.5)
    np.float64(12.5)
    >>> fastreg.penalty(model, l2=0.5, select="all", weights={"*.bias": 10.0})
    np.float64(22.5)
    """
    request = Request.of(l1, l2, select, weights, convention)
    request.require_weight()
    everything = is_all(select)
    if request.uniform and (everything or select is None):
        quick = distinct_ndarrays(params, everything=everything)
        if quick is not None and (type(params) is not dict or are_weights(params)):
            return Arrays(quick, *request.numbers).value(dtype)
        dense = dense_tensors(params)
        if dense is not None:
            return Arrays.dense(*dense, *request.numbers).value(dtype)
    found = chosen(params, request)
    return Arrays([p.array for p in found.parameters], *found.weights).value(dtype)


def value_and_gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: float = 1.0,
    out: Any = None,
    accumulate: bool | None = None,
    dtype: Any = None,
) -> tuple[Any, Any]:
    """Return a model's penalty and its gradient: :func:`fastreg.value_and_gradient` of a container.

    Parameters
    ----------
    params, l1, l2, select, weights, convention, dtype
        As in :func:`penalty`.
    scale : float, default 1
        The upstream gradient; it does not multiply the value.
    out : container of writable arrays, optional
        Where the gradients go, as in :meth:`Plan.add_gradient_`; by default new arrays.
    accumulate : bool, optional
        Add to ``out`` (the default if it is given) or overwrite.

    Returns
    -------
    value : NumPy scalar
        As :func:`penalty`.
    gradients : what was passed as ``out``, or new arrays
        For a list or tuple of arrays a list with an array for each, None where one is left out or
        counted before; for one array an array; for a container with names a dict of those that are
        in, by name. In no graph and on no tape, as the value is.

    Raises
    ------
    LayoutError, DTypeError, ArgumentError
        As in :meth:`Plan.add_gradient_`; nothing has been written then. Also for two arrays of one
        name, of which a dict would lose one.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C. Then, and only then, ``out`` may be partly written.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.value_and_gradient([np.array([3.0, -4.0])], l2=0.5)
    (np.float64(12.5), [array([ 3., -4.])])
    """
    request = Request.of(l1, l2, select, weights, convention)
    request.require_weight()
    if out is None and accumulate:
        raise ArgumentError(
            message("out= to accumulate into", "out=None", "pass it, or leave accumulate out")
        )
    if out is not None:
        adding = True if accumulate is None else bool(accumulate)
        made = Plan.once(params, request)
        return made.value_and_gradient_(out, scale=scale, accumulate=adding, dtype=dtype), out
    found = chosen(params, request)
    if found.gathered.named:
        found.distinct_names()
    pairs = [empty_like(_differentiable(p)) for p in found.parameters]
    arrays = Arrays([p.array for p in found.parameters], *found.weights)
    value = arrays.value_and_gradient([host for _, host in pairs], scale, False, dtype, fresh=True)
    return value, found.arranged([shown for shown, _ in pairs])


def _differentiable(p: Parameter) -> HostArray:
    if p.array.dtype.floating:
        return p.array
    advice = "numpy.asarray(x).astype('float64')"
    raise not_differentiable(f"{p.dtype_name} at {p.label}", advice)


@overload
def global_norm(grads: Any, *, dtype: Literal["float64"] | None = None) -> np.float64: ...
@overload
def global_norm(grads: Any, *, dtype: Any) -> Any: ...
def global_norm(grads: Any, *, dtype: Any = None) -> Any:
    """Return the Euclidean norm of all arrays together, correctly rounded.

    Parameters
    ----------
    grads : array or container of arrays
        As ``params`` in :func:`penalty`; all of them count, None is left out. An array that stands
        there twice counts twice, for gradients of a sum are often one object; what a module or
        model ties counts once. A torch module means its parameters.
    dtype : float16, bfloat16, float32 or float64, optional
        Type of the result; float64 by default.

    Returns
    -------
    NumPy scalar
        +0 for no elements; NaN or infinity if an element is. Finite norms do not overflow on the
        way. A number, in no graph and on no tape.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.global_norm([np.full(2, 3e38, np.float32), np.zeros(3), None])
    np.float64(4.2426406948942856e+38)
    """
    quick = distinct_ndarrays(grads, everything=True)
    if quick is not None:
        return Arrays(quick).norm(dtype)
    dense = dense_tensors(grads)
    if dense is not None:
        return Arrays.dense(*dense).norm(dtype)
    found = gather(grads, modules="parameters").parameters
    return Arrays([p.array for p in found]).norm(dtype, times=occurrences(grads, found))


def clip_by_global_norm_(
    grads: Any, max_norm: float, *, nonfinite: Nonfinite = "raise"
) -> np.float64:
    """Scale arrays in place so that their norm together is at most ``max_norm``.

    ``x = RN_T(max_norm / norm * x)`` if the exactly rounded norm is above max_norm, with the
    quotient rounded to float64; otherwise nothing is written. Rounding the elements may leave a
    norm a few units above max_norm. torch divides by norm + 1e-6.

    Parameters
    ----------
    grads : container of writable float arrays
        As in :func:`global_norm`; not the weights, whose gradients are meant: parameters,
        variables, models, optimizers and a ``state_dict`` are refused. A tensor such as ``p.data``
        does not say that it is a weight.
    max_norm : float >= 0
        Infinity only measures.
    nonfinite : "raise" or "keep", default "raise"
        What to do with NaN or infinity in an array: name it in an error, or leave everything as it
        is and return the norm. torch by default fills all gradients with NaN.

    Returns
    -------
    NumPy float64
        The norm before.

    Raises
    ------
    NonFiniteError
        (a ValueError) Naming the arrays that hold NaN or infinity.
    ArgumentError, LayoutError, DTypeError
        For a bad max_norm; parameters, variables and models; read-only or overlapping arrays;
        integers and immutable arrays. Nothing has been written then.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C. Then, and only then, some elements may be scaled and others not.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> g = np.array([3.0, 4.0])
    >>> fastreg.clip_by_global_norm_([g], 2.5)
    np.float64(5.0)
    >>> g
    array([1.5, 2. ])
    """
    max_norm = number(max_norm, "max_norm", least=0.0, finite=False)
    flag(nonfinite, "nonfinite", "raise", "keep")
    grads = items_of(grads)
    refuse_weights(grads)
    quick = distinct_ndarrays(grads, everything=True)
    given = list(grads) if type(grads) in (list, tuple) else []  # another thread may clear it
    dense = dense_tensors(given)
    arrays = None
    if dense is not None:
        arrays = Arrays.dense(*dense)
    elif quick is not None and are_writable(quick):
        arrays = Arrays(quick)
    if arrays is not None:
        norm: np.float64 = arrays.norm()
        if math.isfinite(norm):
            factor = clip_factor(max_norm, norm)
            if factor is not None:
                try:
                    arrays.scale_(factor)
                finally:
                    tensors.written([] if dense is None else tensors.tensors_of(given))
            return norm
    return Plan.once(grads, _ALL, everything=True).clip_by_global_norm_(
        max_norm, nonfinite=nonfinite
    )


def decay_(params: Any, rate: float, *, select: Select = None) -> None:
    """Shrink arrays in place, ``x = RN_T((1 - rate) * x)``: a decoupled weight decay.

    Parameters
    ----------
    params : container of writable float arrays
        As in :func:`penalty`.
    rate : float from 0 to 1
        The learning rate times the weight decay for AdamW's step. ``1 - rate`` is rounded to
        float64, as is the product before its rounding to the array's type.
    select : optional
        As in :func:`penalty`.

    Raises
    ------
    ArgumentError, LayoutError, DTypeError
        For a bad rate or select; read-only or overlapping arrays; integers and immutable arrays.
        Nothing has been written then.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C. Then, and only then, some elements may be shrunk and others not.

    Notes
    -----
    -0 stays -0. A factor of 1, as of rate 0, writes nothing.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> x = np.array([[4.0, -8.0]])
    >>> fastreg.decay_([x], 0.25)
    >>> x
    array([[ 3., -6.]])
    """
    Plan.once(params, Request.of(select=select)).decay_(rate)


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
    """Take a proximal step in place: the soft threshold, which makes weights exactly zero.

    ``t = |x| - step * l1`` in float64; ``t <= 0`` gives +0, otherwise
    ``sign(x) * RN_T(t / (1 + 2 * step * l2))``. After a gradient step of the unpenalised objective
    with learning rate ``step``, that is proximal gradient descent (ISTA) for Lasso and elastic net.

    Parameters
    ----------
    params : container of writable float arrays
        As in :func:`penalty`.
    step : float, finite, >= 0
        The learning rate.
    l1, l2, select, weights, convention
        As in :func:`penalty`.
    flush : bool, default False
        Turn results that are subnormal in the array's type into 0, which keeps later arithmetic
        fast.

    Raises
    ------
    ArgumentError, LayoutError, DTypeError
        For a bad step, weight or select; read-only or overlapping arrays; weights that a module
        computes; integers and immutable arrays. Nothing has been written then.
    KeyboardInterrupt
        Within 100 ms of Ctrl-C. Then, and only then, some elements may be stepped and others not.

    Notes
    -----
    NaN stays NaN. Parikh and Boyd, Proximal Algorithms (2014), section 6.5.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> x = np.array([[3.0, -0.5, 1.0]])
    >>> fastreg.prox_([x], 0.5, l1=2.0)
    >>> x
    array([[2., 0., 0.]])
    """
    request = Request.of(l1, l2, select, weights, convention)
    Plan.once(params, request).prox_(step, flush=flush)


def stats(params: Any, *, select: Select = None, integers: bool = False) -> Stats:
    """Return n, Σ|x|, Σx², norm, max|x| and counts of zeros, subnormals, NaN and inf, per array.

    Parameters
    ----------
    params : array or container of arrays
        As in :func:`penalty`; a torch module means its parameters and buffers as they are stored.
        Floats of one byte (``float8_e4m3fn`` and the others of ml_dtypes, torch and JAX) are read
        as well, a million at a time.
    select : optional
        As in :func:`penalty`; by default all arrays.
    integers : bool, default False
        Count integers and booleans in the total. By default they have rows of their own only: in a
        checkpoint they are positions, steps and masks, and would outweigh the weights.

    Returns
    -------
    Stats
        A table when printed; ``to_dict()``, ``to_json()`` and the structured array ``rows``
        otherwise. Sums and norms are correctly rounded to float64, those of ``total`` as well: the
        exact sums over all arrays, rounded once.

    Notes
    -----
    Rounded numbers of parts do not add up to those of the whole. What does is the exact state of
    each row, which ``fastreg.state(params, rows="arrays")`` gives under the same names: a pass of
    its own, and a few hundred bytes a row.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> s = fastreg.stats({"w": np.array([3.0, -4.0]), "b": np.zeros(2)})
    >>> s.total["norm"], s["b"]["zeros"]
    (5.0, 2)
    >>> print(s)
    array  shape  dtype  n  Σ|x|  Σx²  norm  max|x|  zeros
    ──────────────────────────────────────────────────────
    w          2  f64    2     7   25     5       4      0
    b          2  f64    2     0    0     0       0      2
    ──────────────────────────────────────────────────────
    total                4     7   25     5       4      2
    <BLANKLINE>
    2 arrays, 4 elements, all finite
    """
    everything = select is None or is_all(select)
    quick = distinct_ndarrays(params, everything=True) if everything else None
    if quick is not None:
        names = params if isinstance(params, dict) else range(len(quick))
        return Stats.of(Titles.of_ndarrays(names, quick), *Arrays(quick).statistics())
    return Plan.for_statistics(params, Request.of(select=select)).stats(integers=integers)


def check_finite(params: Any, *, select: Select = None) -> None:
    """Raise an error that names the arrays, if one holds NaN or infinity.

    Parameters
    ----------
    params, select
        As in :func:`stats`.

    Raises
    ------
    NonFiniteError
        (a ValueError) With the name and the counts of each such array (of the first ten).

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.check_finite({"w": np.ones(3)})
    """
    Plan.for_statistics(params, Request.of(select=select)).check_finite()


def _weights_of_one(x: Any, *asked: Any) -> tuple[float, float]:
    """Return the l1 and l2 of one array from what may be asked for a container."""
    request = Request.of(*asked)
    request.require_weight()
    (l1,), (l2,) = chosen(x, request).weights
    return l1, l2


_kernels.set_containers(is_array, value_and_gradient, _weights_of_one)
