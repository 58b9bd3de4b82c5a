# SPDX-License-Identifier: BSD-3-Clause
"""JAX: penalties of arrays and tracers, under jit, grad, jvp, vmap, scan and checkpoint.

On the CPU the kernels are handlers of XLA's foreign function interface: they read XLA's own
buffers, write the gradient into XLA's own memory, and run serially on the thread of XLA's pool that
calls them. Values and gradients have the bits that :mod:`fastreg.functional` gives for the same
weights. On every other device, chosen when the program is compiled for it, and wherever the
handlers do not fit the installed jaxlib (:func:`handlers` tells), ``jax.numpy`` operations of the
same meaning take their place; :func:`route` forces either.

A whole pytree is one foreign call for the value and one for all gradients: see :func:`penalty`.
JAX's own operations compute float64 and integers in float64 and everything else in float32, array
by array; their last bits depend on XLA and on the order of the arrays.

Arrays are values in JAX, so nothing is written in place: :func:`prox`, :func:`decay` and
:func:`clip_by_global_norm` return new arrays.

Sharded arrays are summed where they are, by integer operations, exactly, if their sharding is
known: outside of ``jit``, by their type (explicit sharding), or by ``axis_name=``. Within ``jit``
what the compiler shards is gathered for the kernels, as for every foreign call, unless
``axis_name=()`` says not to. For float64 and integers of 64 bits, and in all gradients, JAX's
operations are taken for arrays whose type says how they are sharded (explicit sharding) and for
those whose size is unknown while tracing (symbolic sizes of ``jax.export``, Keras' symbolic build);
a pytree with one such array takes them for all. They stand in every program that ``jax.export``
writes, too, so that it runs where fastreg is not.

A field of a registered class that holds a function (an activation) is no parameter: gradients have
None there, as ``equinox.filter_grad`` has, and steps keep it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fastreg import model
from fastreg._core import formula
from fastreg._core.arguments import Convention, Request, Select, Weight, check_matrix
from fastreg._core.factors import decay_factor
from fastreg._core.statistics import Stats
from fastreg.jax._arrays import (
    arrays_of,
    as_array,
    as_float,
    choose,
    floats_of,
    is_single,
    like,
    result_of,
    scalar,
    zeros_like,
)
from fastreg.jax._ffi import handlers
from fastreg.jax._operations import OPERATIONS, canonical, work_dtype
from fastreg.jax._routes import GRADIENT_THRESHOLD, route
from fastreg.jax._shards import clip_by_exact_norm, norm_over, penalty_over, reach, state
from fastreg.jax._transforms import gradients as _gradients
from fastreg.jax._transforms import norm as _norm
from fastreg.jax._transforms import penalty as _penalty

__all__ = [
    "GRADIENT_THRESHOLD",
    "clip_by_exact_norm",
    "clip_by_global_norm",
    "decay",
    "global_norm",
    "gradient",
    "handlers",
    "l2_loss",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "prox",
    "route",
    "state",
    "stats",
    "value_and_gradient",
]


def __dir__() -> list[str]:
    return __all__


def penalty(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    dtype: Any = None,
    axis_name: Any = None,
) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as a differentiable scalar array.

    Parameters
    ----------
    params : jax.Array, tracer, ndarray, KerasVariable, or a pytree of them
        float16, bfloat16, float32 or float64, any shape. bool and integers have a value and no
        gradient. Of a pytree (lists, tuples, dicts and every registered class, nested or not, of
        any mix of types) the sum over its arrays; None is an empty place.
    l1, l2 : float, mapping or callable, or one float for each array that is in
        Weights, finite and >= 0, known while tracing; at least one of them. A weight of 0 removes
        its term. In a pytree a mapping from names or globs gives each array its own, and 0 to those
        it does not name; a callable gets ``(name, array)``, whose array may be a tracer. Names are
        keys, fields and positions joined by dots (``"encoder.0.kernel"``), as in
        :func:`fastreg.penalty`.
    select : optional
        Which arrays of a pytree: ``"kernels"`` (floats of two or more dimensions, no bias and no
        normalisation), ``"all"``, a glob, ``"re:..."``, a pattern, a callable ``(name, array)`` or
        a tree of bools. By default ``"all"`` for lists and tuples of arrays, nested or not, and
        ``"kernels"`` for every container with names: dicts, named tuples, (name, array) pairs,
        registered classes, and lists of those.
    weights : float, mapping or callable, default 1.0
        Factors of both l1 and l2, in the same forms; a mapping leaves 1 to those it does not name.
    convention : "keras" or "half", default "keras"
        ``l2 * sum(x**2)`` or ``l2 / 2 * sum(x**2)``.
    dtype : dtype, optional
        Type of the result: x's own by default, for a pytree the widest of its arrays' types,
        float64 for integers. Without ``jax_enable_x64`` float64 means float32, as everywhere in
        JAX.
    axis_name : str or tuple of str, optional
        Axes of a mesh over which the arrays are cut; ``()`` for those that the compiler cuts. See
        :func:`state`, whose element types these are: the number is exact and nothing is gathered.

    Returns
    -------
    jax.Array, shape ()
        With the kernels the exact number, rounded once: for a pytree the exact sum over all arrays,
        the same bits in any order and however the numbers are divided among arrays. Its gradient
        ``u * (2*l2*x + l1*sign(x))`` has x's structure, shapes and dtypes, is 0 for the L1 term at
        ±0 and NaN at NaN; forward mode, reverse mode and their compositions (``jax.hessian``) work.
        Under ``vmap`` there is one such number for each example.

    Raises
    ------
    DTypeError (a TypeError)
        For complex, float8 and other element types and keys of random numbers, for objects that are
        no arrays (naming their place), for a traced weight.
    ArgumentError (a ValueError)
        For no weight at all, a negative or non-finite one, and a rule that takes no array.

    Notes
    -----
    NaN in x gives NaN, otherwise an infinity gives +inf; no elements give 0. Nothing is copied;
    the gradient is the only memory taken. The kernels run serially inside XLA's pool. An array that
    stands in a pytree twice counts twice: a tracer does not tell. Variables of Keras count once.

    A pytree is one foreign call, and one more for the gradients of all its small arrays; XLA
    computes those of large ones (:data:`GRADIENT_THRESHOLD`). L2 of float32 arrays, jitted, two
    busy cores, value / value and gradient, against ``sum(jnp.vdot(x, x) for x in leaves)``: 10
    arrays of 8 elements 11 / 24 us, 14 / 25; 100 of 512 62 / 204 us, 251 / 396; 2000 of 512
    3.0 / 8.1 ms, 11.5 / 11.2, with 2 / 5 s to compile against 43 / 45. Most of the rest is JAX
    handing the arrays over: a program that only takes the 2000 arrays needs 2.3 ms.

    The same as ``keras.regularizers.L1L2(l1, l2)(x)`` on JAX, which gives the L1 term's gradient
    at 0 as +l1 (here 0, as TensorFlow and torch have it), at NaN as -l1 (here NaN), and 0 for
    integers.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> x = jnp.array([1.0, -2.0, 0.0])
    >>> v, g = jax.value_and_grad(lambda x: fjax.penalty(x, l1=0.5, l2=0.25))(x)
    >>> float(v), g.tolist()
    (2.75, [1.0, -1.5, 0.0])

    A model: the biases are left out, unless they are asked for.

    >>> params = {"dense": {"kernel": jnp.array([[3.0, -4.0]]), "bias": jnp.ones(2)}}
    >>> g = jax.jit(jax.grad(lambda p: fjax.penalty(p, l2=0.5)))(params)
    >>> g["dense"]["kernel"].tolist(), g["dense"]["bias"].tolist()
    ([[3.0, -4.0]], [0.0, 0.0])
    >>> float(fjax.penalty(params, l2=0.5, select="all", weights={"*.bias": 10.0}))
    22.5
    """
    request = Request.of(l1, l2, select, weights, convention)
    request.require_weight()
    if request.plain and is_single(params):
        xs, (w1, w2) = (as_array(params),), request.numbers
        w1s, w2s = [w1], [w2]
    else:
        _, found = choose(params, request)
        w1s, w2s = found.weights
        xs = arrays_of(found)
    if (axes := reach(xs, axis_name)) is not None:
        return penalty_over(xs, w1s, w2s, result_of(xs, dtype), axes)
    return _penalty(xs, tuple(w1s), tuple(w2s), result_of(xs, dtype))


def l2_loss(x: Any, *, dtype: Any = None) -> Any:
    """Return ``sum(x**2) / 2``, as ``optax.l2_loss(x).sum()`` does; its gradient is exactly u*x.

    Parameters and result as in :func:`penalty`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> float(fjax.l2_loss(jnp.array([3.0, 4.0])))
    12.5
    """
    return penalty(x, l2=0.5, dtype=dtype)


def gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: Any = 1.0,
) -> Any:
    """Return ``scale * (2*l2*x + l1*sign(x))``: the gradient of :func:`penalty`, cut off from x.

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; the arrays that are in are floats.
    scale : float or 0-d array, default 1
        The upstream gradient, any number. It may be traced.

    Returns
    -------
    jax.Array, or a pytree of params' structure
        Of the arrays' shapes and dtypes: what ``jax.grad`` gives, 0 for arrays that are not in (and
        no gradient, of type ``float0``, for integers among those). What is no pytree of arrays for
        JAX (a model, pairs of names and arrays) gives a dict of those that are in, by name.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`penalty`; for integers that are in, naming their place.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> fjax.gradient(jnp.array([1.0, -2.0, 0.0]), l1=0.5, l2=0.25).tolist()
    [1.0, -1.5, 0.0]
    >>> g = fjax.gradient({"kernel": jnp.array([[3.0]]), "bias": jnp.ones(2)}, l2=0.5)
    >>> g["kernel"].tolist(), g["bias"].tolist()
    ([[3.0]], [0.0, 0.0])
    """
    request = Request.of(l1, l2, select, weights, convention)
    request.require_weight()
    return _differentiated(params, request, scale)[1]


def value_and_gradient(
    params: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    scale: Any = 1.0,
    dtype: Any = None,
) -> tuple[Any, Any]:
    """Return the penalty and its gradient, both cut off from x.

    Parameters
    ----------
    params, l1, l2, select, weights, convention, scale
        As in :func:`gradient`; the value is not multiplied by scale.
    dtype
        Type of the value, as in :func:`penalty`.

    Returns
    -------
    value : jax.Array, shape ()
    gradient : jax.Array or pytree
        As :func:`gradient`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> v, g = fjax.value_and_gradient(jnp.array([3.0, -4.0]), l2=0.5)
    >>> float(v), g.tolist()
    (12.5, [3.0, -4.0])
    """
    request = Request.of(l1, l2, select, weights, convention)
    request.require_weight()
    (xs, w1, w2), g = _differentiated(params, request, scale)
    return jax.lax.stop_gradient(_penalty(xs, w1, w2, result_of(xs, dtype))), g


def _differentiated(params: Any, request: Request, scale: Any) -> Any:
    """Return the arrays that are in with their weights, and the container of gradients."""
    scale = scalar(scale, "scale", finite=False)
    if request.plain and is_single(params):
        w1, w2 = request.numbers
        xs = (as_float(params),)
        return (xs, (w1,), (w2,)), _gradients(xs, scale, (w1,), (w2,))[0]
    params, found = choose(params, request)
    xs, (w1s, w2s) = floats_of(found), map(tuple, found.weights)
    gs = _gradients(xs, scale, w1s, w2s)
    return (xs, w1s, w2s), like(params, found, gs, zeros_like)


def prox(
    params: Any,
    step: Any,
    *,
    l1: Weight | None = None,
    l2: Weight | None = None,
    select: Select = None,
    weights: Weight = 1.0,
    convention: Convention = "keras",
    flush: bool = False,
) -> Any:
    """Return the proximal step of the penalty: the soft threshold, which makes weights exactly 0.

    ``sign(x) * max(|x| - step * l1, 0) / (1 + 2 * step * l2)``. After a gradient step of the
    unpenalised objective with learning rate ``step``, that is proximal gradient descent (ISTA).

    Parameters
    ----------
    params, l1, l2, select, weights, convention
        As in :func:`penalty`; the arrays that are in are floats.
    step : float or 0-d array, finite, >= 0
        The learning rate. It may be traced, and then its range is not checked.
    flush : bool, default False
        Turn results that are subnormal in the array's type into 0. XLA may do so anyway.

    Returns
    -------
    jax.Array, or a pytree of params' structure
        With the arrays that are not in as they are; a dict by name as in :func:`gradient`.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`gradient`; for a bad step.

    Notes
    -----
    JAX's own operations on every device, fused by XLA into what stands around them: in float64 with
    ``jax_enable_x64``, otherwise in float32. The result is within a unit in the last place of
    :func:`fastreg.prox_`'s; XLA may multiply by a reciprocal. NaN stays NaN; zeros are positive.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> fjax.prox(jnp.array([3.0, -0.5, 1.0]), 0.5, l1=2.0).tolist()
    [2.0, 0.0, 0.0]
    """
    request = Request.of(l1, l2, select, weights, convention)
    request.require_weight()
    step = scalar(step, "step", least=0.0)
    params, found = choose(params, request)
    w1s, w2s = found.weights
    work = canonical("float64").name
    if isinstance(step, jax.Array):
        step = step.astype(work)
    new = [
        formula.prox(OPERATIONS, x, step, w1, w2, flush, work)
        for x, w1, w2 in zip(floats_of(found), w1s, w2s, strict=True)
    ]
    return like(params, found, new, lambda x: x)


def decay(params: Any, rate: Any, *, select: Select = None) -> Any:
    """Return the arrays shrunk, ``(1 - rate) * x``: a decoupled weight decay.

    Parameters
    ----------
    params, select
        As in :func:`penalty`; the arrays that are in are floats.
    rate : float or 0-d array, from 0 to 1
        The learning rate times the weight decay for AdamW's step. It may be traced, and then its
        range is not checked.

    Returns
    -------
    jax.Array, or a pytree of params' structure
        As :func:`prox`.

    Raises
    ------
    DTypeError, ArgumentError
        As :func:`gradient`; for a bad rate.

    Notes
    -----
    JAX's own operations, in float64 with ``jax_enable_x64`` and otherwise in float32, rounded once
    more to the array's type.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> fjax.decay([jnp.array([4.0, -8.0])], 0.25)[0].tolist()
    [3.0, -6.0]
    """
    rate = scalar(rate, "rate", least=0.0, most=1.0)
    params, found = choose(params, Request.of(select=select))
    rest = _factor(decay_factor(rate) if type(rate) is float else 1.0 - rate)
    new = [_times(rest, x) for x in floats_of(found)]
    return like(params, found, new, lambda x: x)


def _factor(x: Any) -> Any:
    return jnp.asarray(x, canonical("float64"))


def _times(factor: Any, x: Any) -> Any:
    return (factor * x.astype(factor.dtype)).astype(x.dtype)


def global_norm(grads: Any, *, dtype: Any = None, axis_name: Any = None) -> Any:
    """Return the Euclidean norm of all arrays together, as a differentiable scalar array.

    Parameters
    ----------
    grads : array or pytree of arrays
        All of them count, whatever their names; None is left out, and so is ``float0``, which
        stands for no gradient.
    dtype : dtype, optional
        Type of the result: float64 by default, which is float32 without ``jax_enable_x64``.
    axis_name : optional
        As in :func:`penalty`; the norm is then correctly rounded.

    Returns
    -------
    jax.Array, shape ()
        With the kernels the root of the exact sum of squares, which is rounded once before and once
        after it: within one unit in the last place of the exact norm, and for arrays below float64
        with ``jax_enable_x64`` almost always the nearest number. No square overflows or vanishes on
        the way. +0 for no elements; NaN or infinity if an element is. Its derivative at 0 is 0.

    Notes
    -----
    ``optax.global_norm`` sums in the arrays' own types.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> float(fjax.global_norm({"w": jnp.array([3.0, 0.0]), "b": jnp.array([4.0]), "none": None}))
    5.0
    >>> x = jnp.full(4, 1e38)
    >>> bool(fjax.global_norm([x]) == jnp.float32(2e38)), float(jnp.linalg.norm(x))
    (True, inf)
    """
    _, found = choose(grads, Request.of(), everything=True)
    xs = arrays_of(found, [p for p in found.parameters if not _is_none(p)])
    dtype = "float64" if dtype is None else dtype
    if (axes := reach(xs, axis_name)) is not None:
        return norm_over(xs, dtype, axes)
    return _norm(xs, result_of(xs, dtype))


def _is_none(p: Any) -> bool:
    """Whether an array stands for no gradient."""
    return bool(getattr(p.original, "dtype", None) == jax.dtypes.float0)


def clip_by_global_norm(grads: Any, max_norm: Any, *, axis_name: Any = None) -> tuple[Any, Any]:
    """Scale arrays so that their norm together is at most ``max_norm``.

    ``max_norm / norm * x`` if the norm is finite and above max_norm; otherwise the arrays as they
    are. Rounding the elements may leave a norm a few units above max_norm.

    Parameters
    ----------
    grads : float array or pytree of them
        As in :func:`global_norm`.
    max_norm : float or 0-d array, >= 0
        Infinity only measures. It may be traced, and then its range is not checked.
    axis_name : optional
        As in :func:`global_norm`.

    Returns
    -------
    clipped : jax.Array, or a pytree of grads' structure
    norm : jax.Array, shape ()
        The norm before, as :func:`global_norm` gives it. If it is NaN or infinite nothing has been
        scaled: a traced program cannot raise. ``optax.clip_by_global_norm`` gives NaN for all then.

    Raises
    ------
    DTypeError, ArgumentError
        For integers and what is no array, naming their place; for a bad max_norm.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> clipped, norm = fjax.clip_by_global_norm([jnp.array([3.0, 4.0])], 2.5)
    >>> clipped[0].tolist(), float(norm)
    ([1.5, 2.0], 5.0)
    """
    max_norm = scalar(max_norm, "max_norm", least=0.0, finite=False)
    grads, found = choose(grads, Request.of(), everything=True)
    taken = [p for p in found.parameters if not _is_none(p)]
    xs = floats_of(found, taken)
    axes = reach(xs, axis_name)
    wide = canonical("float64")
    norm = _norm(xs, wide) if axes is None else norm_over(xs, wide.name, axes)
    factor = jnp.where((norm > max_norm) & (norm < jnp.inf), max_norm / norm, 1.0)
    new = {id(p): _times(_factor(factor), x) for p, x in zip(taken, xs, strict=True)}
    each = [new.get(id(p), p.original) for p in found.parameters]
    return like(grads, found, each, lambda x: x), norm


def stats(params: Any, *, select: Select = "all", integers: bool = False) -> Stats:
    """Return n, Σ|x|, Σx², norm, max|x| and counts of zeros, subnormals, NaN and inf, per array.

    Parameters and result as :func:`fastreg.stats`; the arrays are in host memory, and not traced.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> fjax.stats({"w": jnp.array([3.0, -4.0])}).total["norm"]
    5.0
    """
    return model.stats(params, select=select, integers=integers)


def orthogonal(x: Any, *, factor: float, rows: bool = True, dtype: Any = None) -> Any:
    """Return ``factor`` times the mean absolute cosine between the rows of a matrix.

    Parameters
    ----------
    x : jax.Array, shape (m, n)
        Of a float type, or of integers, which have no gradient.
    factor : float
        Finite and >= 0.
    rows : bool, default True
        False for columns.
    dtype : dtype, optional
        Type of the result; x's own by default.

    Returns
    -------
    jax.Array, shape ()
        Differentiable. 0 for fewer than two rows, and with factor 0 whatever x holds.

    Raises
    ------
    DTypeError (a TypeError)
        For other element types.
    LayoutError (a ValueError)
        If x is not a matrix.

    Notes
    -----
    JAX's own operations on every device. Squared norms below 1e-14 count as 1e-14, as in
    ``keras.regularizers.OrthogonalRegularizer``, which gives NaN for one row. Half precision
    computes in float32.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> round(float(fjax.orthogonal(jnp.array([[1.0, 0.0], [3.0, 4.0]]), factor=0.5)), 6)
    0.3
    """
    x = as_array(x)
    factor = check_matrix(x.shape, factor)
    result = result_of((x,), dtype).name
    return formula.orthogonal(OPERATIONS, x, factor, rows, work_dtype(x), result)


def orthogonal_value_and_gradient(
    x: Any, *, factor: float, rows: bool = True, dtype: Any = None
) -> tuple[Any, Any]:
    """Return :func:`orthogonal` and its gradient, both cut off from x.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import fastreg.jax as fjax
    >>> v, g = fjax.orthogonal_value_and_gradient(jnp.eye(3), factor=0.5)
    >>> float(v), g.shape
    (0.0, (3, 3))
    """
    x = jax.lax.stop_gradient(as_float(x))

    def value(x: Any) -> Any:
        return orthogonal(x, factor=factor, rows=rows, dtype=dtype)

    v, g = jax.value_and_grad(value)(x)
    return jax.lax.stop_gradient(v), jax.lax.stop_gradient(g)
