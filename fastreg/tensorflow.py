# SPDX-License-Identifier: BSD-3-Clause
"""TensorFlow: penalties of tensors and variables, differentiable, in eager code and in graphs.

Two routes lead to a result, and :func:`route` chooses between them:

``"native"``
    fastreg's kernels, on the tensor's own memory. Eagerly they are called at once; in a graph they
    sit behind ``tf.numpy_function(stateful=False)``. Values and gradients have the bits that
    :mod:`fastreg.functional` gives for the same weights.
``"ops"``
    Plain TensorFlow operations of the same meaning: in float64 for at most 4096 elements and under
    XLA on the CPU, else in float32 (float64 for float64 tensors). Half precision is never summed in
    half precision. Values carry the rounding of TensorFlow's own sums.

``"auto"``, the default, takes the kernels for every eager tensor on the CPU: measured, they are
ahead of ``tf.nn.l2_loss`` from the smallest size on. In a graph it takes them only where they win,
for penalties with an L1 term and for half precision, from :data:`GRAPH_THRESHOLD` elements of
static size on: the call from a graph into Python takes about 50 us, and a pure L2 penalty is
``tf.nn.l2_loss``, which reads x once with all of TensorFlow's threads. Plain operations it is too
for sizes unknown when the graph is traced, under XLA (``jit_compile=True``), wherever a device
other than a CPU may run the operation, and while a SavedModel is written.

Limits of the native route in graphs: it needs Python's lock for microseconds per call, cannot be
part of a SavedModel that another process runs, and cannot be compiled by XLA. A ``tf.function``
that was traced outside XLA and is then called from one with ``jit_compile=True`` keeps the route of
its first trace, so XLA refuses it: trace it within :func:`route` ``("ops")``, and likewise one
that is called under ``tf.autodiff.ForwardAccumulator``; an accumulator within the function is seen.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fastreg import functional
from fastreg.errors import ArgumentError, DTypeError, FastregError, message
from fastreg.ndarray import SHORTEST, check_matrix, not_differentiable, weight
from fastreg.selection import choose

__all__ = [
    "GRAPH_THRESHOLD",
    "get_regularization_loss",
    "get_regularization_losses",
    "get_total_loss",
    "gradient",
    "l2_loss",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "route",
    "scale_regularization_loss",
    "value_and_gradient",
]

AnyArray = npt.NDArray[Any]
Weights = float | Sequence[float]

GRAPH_THRESHOLD = 1 << 18
"""Elements from which a graph calls the kernels for L1 terms and half precision.

Value and gradient of L1L2 in a graph, float32, on two cores: at 65536 elements 0.51 ms by the
kernels and 0.42 ms by Keras' operations, at 262144 0.63 and 0.83 ms, at 16 Mi 19 and 53 ms.
"""

# Plain operations in float64 cost a conversion: nothing measurable up to here, twice the time far
# above.
_EXACT_BELOW = 4096

# From this size on, memory that TensorFlow's allocator recycles is far cheaper than fresh pages: 16
# Mi elements of float32 were written in 5.9 ms instead of 20 ms. Below, making the tensor costs 80
# us.
_RECYCLE_FROM = 1 << 20

_ROUTES = ("auto", "native", "ops")
_FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
_WIDTH = {tf.float16: 1, tf.bfloat16: 1, tf.float32: 2, tf.float64: 3}


# -- Which route -----------------------------------------------------------------------------------


class _Choice(threading.local):
    route = "auto"


_choice = _Choice()


@contextmanager
def route(name: str) -> Iterator[None]:
    """Choose how penalties are computed within a ``with`` block, on the calling thread.

    A ``tf.function`` keeps the route that was in force when it was traced.

    Parameters
    ----------
    name : "auto", "native" or "ops"
        See the module's text. ``"native"`` on a device other than a CPU copies the tensor to the
        host; under XLA it fails when the function is compiled.

    Raises
    ------
    ArgumentError
        For another name.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> with ftf.route("ops"):
    ...     print(float(ftf.penalty(tf.constant([3.0, -4.0]), l2=0.5)))
    12.5
    """
    if name not in _ROUTES:
        raise ArgumentError(
            message(f"a route among {', '.join(_ROUTES)}", repr(name), "pass one of them")
        )
    previous, _choice.route = _choice.route, name
    try:
        yield
    finally:
        _choice.route = previous


def _private(module: str, name: str) -> Any:
    """Return a name of TensorFlow's that has no public spelling, or None where it is not there."""
    try:
        return getattr(importlib.import_module(f"tensorflow.python.{module}"), name, None)
    except ImportError:
        return None


_record_operation = _private("eager.record", "record_operation")
_could_record = _private("eager.record", "could_possibly_record")
_in_xla = _private("ops.control_flow_util", "GraphOrParentsInXlaContext")
_in_save = _private("saved_model.save_context", "in_save_context")
_tangents = _private("eager.forwardprop_util", "pack_tangents")


def _compiled_by_xla() -> bool:
    return _in_xla is not None and bool(_in_xla(tf.compat.v1.get_default_graph()))


def _only_cpus() -> bool:
    return all(d.device_type == "CPU" for d in tf.config.get_visible_devices())


def _on_cpu(x: Any) -> bool:
    """Whether a tensor's device is a CPU; if none was chosen, whether all devices are."""
    device = x.device or ""
    return "CPU:" in device.upper() if device else _only_cpus()


def _native(xs: Sequence[Any], l1: Sequence[float], eager: bool) -> bool:
    """Whether the kernels compute this penalty."""
    if not eager and _tangents is not None and _tangents(list(xs)).indices:
        return False  # a ForwardAccumulator: it would take the derivative of a Python call for 0
    if _choice.route != "auto":
        return _choice.route == "native"
    if not all(_on_cpu(x) for x in xs):
        return False
    if eager:
        return True
    sizes = [x.shape.num_elements() for x in xs]
    if any(n is None for n in sizes) or sum(sizes) < GRAPH_THRESHOLD:
        return False
    if not any(l1) and all(x.dtype in (tf.float32, tf.float64) for x in xs):
        return False
    return not (_compiled_by_xla() or (_in_save is not None and _in_save()))


# -- Arguments -------------------------------------------------------------------------------------


def _tensor(x: Any) -> Any:
    """Return a dense tensor: of a variable, its current value, without a copy."""
    if isinstance(x, tf.Tensor):
        tensor = x
    elif isinstance(x, tf.RaggedTensor):
        tensor = x.flat_values
    elif isinstance(x, tf.sparse.SparseTensor):
        raise DTypeError(
            message("a dense tensor", "a SparseTensor", "pass x.values, or tf.sparse.to_dense(x)")
        )
    else:
        try:
            tensor = tf.convert_to_tensor(x)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as e:
            raise DTypeError(
                message(
                    "a tensor, a variable, or what tf.convert_to_tensor takes",
                    f"an object of class {type(x).__name__} ({str(e).splitlines()[0]})",
                    "convert it first",
                )
            ) from None
    dtype = tensor.dtype
    if dtype not in _FLOATS and not (
        (dtype.is_integer and not dtype.is_quantized) or dtype.is_bool
    ):
        raise DTypeError(
            message(
                "a tensor of float16, bfloat16, float32, float64, bool or an integer type",
                f"dtype {dtype.name}",
                "convert it, for example with tf.cast(x, tf.float32)",
            )
        )
    return tensor


def _is_list(x: Any) -> bool:
    """Whether x stands for several tensors: a list or tuple that holds a tensor or a variable."""
    return isinstance(x, (list, tuple)) and any(
        hasattr(e, "dtype") and not isinstance(e, np.generic) for e in x
    )


def _weight(name: str, w: Any) -> float:
    if isinstance(w, (tf.Tensor, tf.Variable)):
        raise DTypeError(
            message(
                f"a number as weight {name}",
                f"a {type(w).__name__}, which would get no gradient",
                f"multiply: {name} * penalty(x, {name}=1.0)",
            )
        )
    return weight(name, w)


def _weights(name: str, w: Any, count: int) -> list[float]:
    if not isinstance(w, (list, tuple)):
        return [_weight(name, w)] * count
    if len(w) != count:
        raise ArgumentError(
            message(
                f"{count} weights {name}, one for each tensor",
                str(len(w)),
                "pass one number for all tensors, or one for each",
            )
        )
    return [_weight(name, v) for v in w]


def _result_dtype(xs: Sequence[Any], dtype: Any) -> Any:
    """The type of the result: what ``dtype`` asks for, or the widest of the tensors' own."""
    if dtype is not None:
        try:
            result = tf.as_dtype(dtype)
        except TypeError:
            result = None
        if result not in _FLOATS:
            raise DTypeError(
                message(
                    "a result dtype among float16, bfloat16, float32, float64",
                    repr(dtype),
                    "leave dtype out for the tensor's own type",
                )
            )
        return result
    result = None
    for x in xs:
        own = x.dtype if x.dtype in _FLOATS else tf.float64
        if result is None or _WIDTH[own] > _WIDTH[result]:
            result = own
        elif own != result and _WIDTH[own] == _WIDTH[result]:
            result = tf.float32  # float16 beside bfloat16
    return tf.float32 if result is None else result


# -- Native kernels on tensors' memory -------------------------------------------------------------


def _memory(x: Any) -> AnyArray:
    """Return a read-only view of an eager tensor's memory."""
    return np.asarray(x) if x.shape.rank else np.asarray(x.numpy())


def _aligned(shape: tuple[int, ...], dtype: Any) -> AnyArray:
    """Return an uninitialised array at an address that TensorFlow takes without a copy."""
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + 63, np.uint8)
    start = -raw.ctypes.data % 64
    out: AnyArray = raw[start : start + nbytes].view(dtype).reshape(shape)
    return out


def _host_gradient(
    x: AnyArray, u: float, l1: float, l2: float, out: AnyArray | None = None
) -> AnyArray:
    """Gradient by the kernels; for an upstream factor that is not finite, the formula itself."""
    if out is None:
        out = _aligned(x.shape, x.dtype)
    if l1 == 0.0 and l2 == 0.0:
        out.fill(0)
    elif math.isfinite(u):
        functional.gradient(x, l1=l1, l2=l2, scale=u, out=out)
    else:
        _plain_gradient(x, u, l1, l2, out)
    return out


def _plain_gradient(x: AnyArray, u: float, l1: float, l2: float, out: AnyArray) -> None:
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        g = np.zeros_like(wide)
        if l2:
            g += 2.0 * l2 * u * wide
        if l1:
            g += l1 * u * np.sign(wide)
        out[...] = g.astype(x.dtype)


def _fresh_like(x: Any) -> tuple[Any, AnyArray]:
    """Return an eager tensor like x without elements yet, and its memory to write them to.

    The tensor is new and nobody else holds it, which is what makes writing through its address
    sound; NumPy's own view of it is read-only.
    """
    shape = x.shape.as_list()
    if x.shape.num_elements() >= _RECYCLE_FROM:
        tensor = tf.raw_ops.Empty(shape=shape, dtype=x.dtype, init=False)
        view = np.asarray(tensor)
        memory = (ctypes.c_char * view.nbytes).from_address(view.ctypes.data)
        return tensor, np.frombuffer(memoryview(memory), np.uint8).view(view.dtype).reshape(
            view.shape
        )
    array = _aligned(tuple(shape), np.dtype(x.dtype.as_numpy_dtype))
    return _eager_tensor(array, x.dtype), array


def _eager_tensor(a: AnyArray, dtype: Any) -> Any:
    """Hand an aligned array to TensorFlow, which keeps it alive, without a copy."""
    if a.size == 0:
        return tf.zeros(a.shape, dtype)
    if dtype == tf.bfloat16:
        return tf.bitcast(tf.experimental.dlpack.from_dlpack(a.view(np.uint16).__dlpack__()), dtype)
    return tf.experimental.dlpack.from_dlpack(a.__dlpack__())


def _native_value(xs: Sequence[Any], l1: list[float], l2: list[float], dtype: Any) -> Any:
    name = dtype.name
    if tf.executing_eagerly():
        if len(xs) == 1:
            v = functional.value(_memory(xs[0]), l1=l1[0], l2=l2[0], dtype=name)
        else:
            v = functional.list_value([_memory(x) for x in xs], l1=l1, l2=l2, dtype=name)
        return tf.constant(float(v), dtype)

    def kernel(*arrays: AnyArray) -> Any:
        return functional.list_value(arrays, l1=l1, l2=l2, dtype=name)

    v = tf.numpy_function(kernel, list(xs), dtype, stateful=False)
    v.set_shape(())
    return v


def _second_order(x: Any, u: Any, v: Any, l1: float, l2: float) -> tuple[Any, Any]:
    """Gradient of sum(v * gradient(x, u)) with respect to x and to u, in plain operations."""
    slope = _widened(x, l1, l2)
    to_x = tf.cast(2.0 * l2 * tf.cast(u, slope.dtype), v.dtype) * v
    to_u = tf.cast(tf.reduce_sum(tf.cast(v, slope.dtype) * slope), u.dtype)
    return to_x, to_u


def _widened(x: Any, l1: float, l2: float) -> Any:
    """Elementwise 2 l2 x + l1 sign(x) in the type that plain operations compute in."""
    wide = tf.cast(x, _work_dtype(x))
    return 2.0 * l2 * wide + l1 * tf.sign(wide)


def _native_gradient(x: Any, u: Any, l1: float, l2: float) -> Any:
    """The gradient of x's term times u; differentiable in x and u."""
    if tf.executing_eagerly():
        g, memory = _fresh_like(x)
        _host_gradient(_memory(x), float(u), l1, l2, memory)
        return _recorded(g, [x, u], lambda v: _second_order(x, u, v, l1, l2))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def differentiable(x: Any, u: Any) -> Any:
        def kernel(x: AnyArray, u: AnyArray, *memory: AnyArray) -> AnyArray:
            return _host_gradient(x, float(u), l1, l2, *memory)

        inputs = [x, u]
        if (x.shape.num_elements() or 0) >= _RECYCLE_FROM:
            # Memory for the result, as in _fresh_like: an uninitialised tensor with one reader.
            inputs.append(tf.raw_ops.Empty(shape=tf.shape(x), dtype=x.dtype, init=False))
        g = tf.numpy_function(kernel, inputs, x.dtype, stateful=False)
        g.set_shape(x.shape)
        return g, lambda v: _second_order(x, u, v, l1, l2)

    return differentiable(x, u)


def _recorded(result: Any, inputs: list[Any], backward: Callable[[Any], Any]) -> Any:
    """Attach a gradient to an eager result: what tf.custom_gradient does, in 5 us instead of 60."""
    if _could_record is not None and not _could_record():
        return result
    if _record_operation is not None:
        _record_operation("FastregPenalty", [result], inputs, lambda u: list(backward(u)))
        return result

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def attached(*_: Any) -> Any:
        return result, lambda u: backward(u)

    return attached(*inputs)


def _native_penalty(xs: list[Any], l1: list[float], l2: list[float], dtype: Any) -> Any:
    floats = [k for k, x in enumerate(xs) if x.dtype in _FLOATS]

    def backward(u: Any) -> list[Any]:
        return [_native_gradient(xs[k], u, l1[k], l2[k]) for k in floats]

    if not floats:
        return _native_value(xs, l1, l2, dtype)
    if tf.executing_eagerly():
        return _recorded(_native_value(xs, l1, l2, dtype), [xs[k] for k in floats], backward)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def differentiable(*inputs: Any) -> Any:
        full = list(xs)
        for k, x in zip(floats, inputs, strict=True):
            full[k] = x

        def back(u: Any) -> list[Any]:
            return [_native_gradient(full[k], u, l1[k], l2[k]) for k in floats]

        return _native_value(full, l1, l2, dtype), back

    return differentiable(*[xs[k] for k in floats])


# -- Plain operations ------------------------------------------------------------------------------


def _work_dtype(x: Any) -> Any:
    """The type in which plain operations sum."""
    if x.dtype == tf.float64 or x.dtype not in _FLOATS:
        return tf.float64
    n = x.shape.num_elements()
    small = n is not None and n <= _EXACT_BELOW
    # XLA's sums on the CPU are wrong in the fourth digit for large float32 tensors.
    exact = small or (not tf.executing_eagerly() and _compiled_by_xla())
    return tf.float64 if exact and _on_cpu(x) else tf.float32


def _ops_term(x: Any, l1: float, l2: float) -> Any:
    wide = tf.cast(x, _work_dtype(x))
    if l1 == 0.0 and l2 == 0.0:

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def nothing(wide: Any) -> Any:
            return tf.zeros((), wide.dtype), lambda u: tf.zeros_like(wide)

        return nothing(wide)
    terms = []
    if l1 != 0.0:
        terms.append(tf.constant(l1, wide.dtype) * tf.reduce_sum(tf.abs(wide)))
    if l2 != 0.0:
        terms.append(tf.constant(2.0 * l2, wide.dtype) * tf.nn.l2_loss(wide))
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def _ops_penalty(xs: list[Any], l1: list[float], l2: list[float], dtype: Any) -> Any:
    terms = [_ops_term(x, *w) for x, *w in zip(xs, l1, l2, strict=True)]
    if len({t.dtype for t in terms}) > 1:
        terms = [tf.cast(t, tf.float64) for t in terms]
    return tf.cast(terms[0] if len(terms) == 1 else tf.add_n(terms), dtype)


# -- Public verbs ----------------------------------------------------------------------------------


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
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as a differentiable scalar tensor.

    Parameters
    ----------
    x : tensor, variable, KerasVariable, ndarray, list of them, or a model
        float16, bfloat16, float32 or float64, any shape. bool and integer tensors of up to 64 bits
        have a value and no gradient. A list, of any mix of shapes and types
        (``model.trainable_variables``), gives the penalty of all its tensors together. A
        RaggedTensor counts its values, IndexedSlices the dense tensor they stand for. A model is a
        Keras model or layer, a tf.Module, or a mapping; all of it is one call.
    l1, l2 : float, for a list one float for each tensor, for a model a mapping or callable too
        Weights, finite and >= 0. A weight of 0 removes its term whatever x holds.
    dtype : dtype, optional
        Type of the result: x's own by default, for a list the widest of its types, float64 for
        integers. Ask for ``"float32"`` under mixed precision.
    select : optional
        Which variables of a model, as in :func:`fastreg.penalty`: by default ``"kernels"`` (no
        bias, no normalisation, nothing frozen, ndim >= 2), and all of a list.
    weights, convention
        As in :func:`fastreg.penalty`.

    Returns
    -------
    tf.Tensor, shape ()
        On the native route the exact number, rounded once. Its gradient ``u * (2*l2*x +
        l1*sign(x))`` has x's dtype, is 0 for the L1 term at ±0 and NaN at NaN, and can be
        differentiated again, in forward and reverse mode.

    Raises
    ------
    DTypeError (a TypeError)
        For complex, string, quantized, float8 and sparse tensors and for objects that are no
        tensors.
    ArgumentError (a ValueError)
        For a negative or non-finite weight, or a list of weights of the wrong length.

    Notes
    -----
    NaN in x gives NaN, otherwise an infinity gives +inf; no elements give 0. x is never copied on
    the native route: eagerly the kernels read the tensor's own buffer, of a variable without
    ``.numpy()``. Large tensors use fastreg's threads. See the module's text for when graphs use the
    kernels and when plain operations; :func:`route` forces either.

    The same as ``keras.regularizers.L1L2(l1, l2)(x)`` and, halved, ``tf.nn.l2_loss(x)``. Keras
    gives 0 for integers, rounds ``l2`` to float32 even for float64 tensors, overflows to inf in
    float16, has no gradient (None) for two zero weights, and fails for lists.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> x = tf.Variable([1.0, -2.0, 0.0])
    >>> with tf.GradientTape() as tape:
    ...     y = ftf.penalty(x, l1=0.5, l2=0.25)
    >>> float(y), tape.gradient(y, x).numpy().tolist()
    (2.75, [1.0, -1.5, 0.0])
    """
    named = isinstance(x, (tf.Module, Mapping)) or hasattr(x, "trainable_variables")
    plain = select is None and type(weights) is float and weights == 1.0 and convention == "keras"
    if named or not plain:
        chosen = "all" if select is None and not named else "kernels" if select is None else select
        _, x, l1, l2 = choose(
            x, l1=l1, l2=l2, select=chosen, weights=weights, convention=convention
        )
    if _is_list(x) or (isinstance(x, (list, tuple)) and not x):
        xs = [_tensor(e) for e in x]
        if not xs:
            return tf.zeros((), _result_dtype(xs, dtype))
        w1, w2 = _weights("l1", l1, len(xs)), _weights("l2", l2, len(xs))
    else:
        xs = [_tensor(x)]
        w1, w2 = [_weight("l1", l1)], [_weight("l2", l2)]
    result = _result_dtype(xs, dtype)
    eager = tf.executing_eagerly()
    if eager and not all(hasattr(x, "numpy") for x in xs):
        raise FastregError(
            message("an eager tensor in eager code", "a symbolic one", "call within its graph")
        )
    if _native(xs, w1, eager):
        return _native_penalty(xs, w1, w2, result)
    return _ops_penalty(xs, w1, w2, result)


def gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Return ``2*l2*x + l1*sign(x)``: the gradient of :func:`penalty`, outside any tape.

    Parameters
    ----------
    x, l1, l2
        One tensor of a float type and its weights, as in :func:`penalty`.

    Returns
    -------
    tf.Tensor
        Of x's shape and dtype. A new tensor; nothing flows back through it.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> ftf.gradient(tf.constant([1.0, -2.0, 0.0]), l1=0.5, l2=0.25).numpy().tolist()
    [1.0, -1.5, 0.0]
    """
    return value_and_gradient(x, l1=l1, l2=l2)[1]


def value_and_gradient(
    x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None
) -> tuple[Any, Any]:
    """Return the penalty and its gradient, outside any tape, eagerly from one pass over x.

    Parameters
    ----------
    x, l1, l2, dtype
        One tensor of a float type, its weights and the type of the value, as in :func:`penalty`.

    Returns
    -------
    value : tf.Tensor, shape ()
    gradient : tf.Tensor
        Of x's shape and dtype; memory for it is the only memory taken.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> v, g = ftf.value_and_gradient(tf.constant([3.0, -4.0]), l2=0.5)
    >>> float(v), g.numpy().tolist()
    (12.5, [3.0, -4.0])
    """
    x = tf.stop_gradient(_tensor(x)) if not tf.executing_eagerly() else _tensor(x)
    if x.dtype not in _FLOATS:
        raise not_differentiable(f"dtype {x.dtype.name}", "tf.cast(x, tf.float32)")
    w1, w2 = _weight("l1", l1), _weight("l2", l2)
    result = _result_dtype([x], dtype)
    if _native([x], [w1], tf.executing_eagerly()):
        if tf.executing_eagerly():
            g, memory = _fresh_like(x)
            v, _ = functional.value_and_gradient(
                _memory(x), l1=w1, l2=w2, out=memory, dtype=result.name
            )
            return tf.constant(float(v), result), g
        one = tf.ones((), result)
        return _native_value([x], [w1], [w2], result), _native_gradient(x, one, w1, w2)
    v = tf.stop_gradient(_ops_penalty([x], [w1], [w2], result))
    return v, tf.stop_gradient(tf.cast(_widened(x, w1, w2), x.dtype))


def orthogonal(x: Any, *, factor: float, rows: bool = True, dtype: Any = None) -> Any:
    """Return ``factor`` times the mean absolute cosine between the rows of a matrix.

    Parameters
    ----------
    x : tensor or variable, shape (m, n)
        Of a float type, or of integers, which have no gradient.
    factor : float
        Finite and >= 0.
    rows : bool, default True
        False for columns.
    dtype : dtype, optional
        Type of the result; x's own by default.

    Returns
    -------
    tf.Tensor, shape ()
        Differentiable. 0 for fewer than two rows, and with factor 0 whatever x holds.

    Raises
    ------
    DTypeError (a TypeError)
        For other element types.
    LayoutError (a ValueError)
        If x is not a matrix.

    Notes
    -----
    Plain TensorFlow operations on every device: the work is a product of matrices. Squared norms
    below 1e-14 count as 1e-14, as in ``keras.regularizers.OrthogonalRegularizer``, which works on
    TensorFlow for float32 only and gives NaN for one row. Half precision computes in float32.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> float(ftf.orthogonal(tf.constant([[1.0, 0.0], [3.0, 4.0]]), factor=0.5))  # cosine 0.6
    0.30000001192092896
    """
    x = _tensor(x)
    if x.shape.rank is None:
        x = tf.ensure_shape(x, (None, None))  # checked when the graph runs
    factor = _weight("factor", factor)
    check_matrix(tuple(x.shape), factor)
    result = _result_dtype([x], dtype)
    work = tf.float32 if x.dtype in _FLOATS and x.dtype != tf.float64 else tf.float64
    wide = tf.cast(x, work)
    if factor == 0.0:
        return tf.cast(_ops_term(wide, 0.0, 0.0), result)
    wide = wide if rows else tf.transpose(wide)
    # The largest element of each row is taken out first, so that no square overflows.
    shortest = tf.constant(SHORTEST, work)
    largest = tf.reduce_max(tf.abs(wide), axis=1, keepdims=True)
    scale = tf.stop_gradient(tf.maximum(largest, shortest))
    parts = wide / scale
    squares = tf.reduce_sum(tf.square(parts), axis=1, keepdims=True)
    unit = parts * tf.math.rsqrt(tf.maximum(squares, tf.square(shortest / scale)))
    cosines = tf.matmul(unit, unit, transpose_b=True)
    n = tf.shape(cosines)[0]
    cosines *= 1 - tf.eye(n, dtype=work)
    pairs = tf.maximum(tf.cast(n, work) * tf.cast(n - 1, work), 1)
    return tf.cast(tf.constant(factor, work) * tf.reduce_sum(tf.abs(cosines)) / pairs, result)


def orthogonal_value_and_gradient(
    x: Any, *, factor: float, rows: bool = True, dtype: Any = None
) -> tuple[Any, Any]:
    """Return :func:`orthogonal` and its gradient, neither attached to a tape.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> v, g = ftf.orthogonal_value_and_gradient(tf.eye(3), factor=0.5)
    >>> float(v), g.shape.as_list()
    (0.0, [3, 3])
    """
    x = tf.stop_gradient(_tensor(x))
    if x.dtype not in _FLOATS:
        raise not_differentiable(f"dtype {x.dtype.name}", "tf.cast(x, tf.float32)")
    with tf.GradientTape() as tape:
        tape.watch(x)
        v = orthogonal(x, factor=factor, rows=rows, dtype=dtype)
    return tf.stop_gradient(v), tf.stop_gradient(tape.gradient(v, x))


def l2_loss(x: Any, *, dtype: Any = None) -> Any:
    """Return ``sum(x**2) / 2``, as ``tf.nn.l2_loss`` does, rounded once.

    Parameters
    ----------
    x : tensor, variable, ndarray, list of numbers, or list of tensors
        float16, bfloat16, float32 or float64, any shape.
    dtype : dtype, optional
        Type of the result; x's own by default.

    Returns
    -------
    tf.Tensor, shape ()
        Its gradient is exactly ``u * x``. NaN, infinity, copies and threads as in :func:`penalty`.

    Raises
    ------
    DTypeError (a TypeError)
        For integers and every other type; ``tf.nn.l2_loss`` raises InvalidArgumentError.

    Notes
    -----
    In float16 ``tf.nn.l2_loss`` sums in float16: 1000 elements of 1e-4 give 0, here 5e-6.

    Examples
    --------
    >>> import fastreg.tensorflow as ftf
    >>> float(ftf.l2_loss([3.0, 4.0]))
    12.5
    """
    xs = [_tensor(e) for e in x] if _is_list(x) else [_tensor(x)]
    for tensor in xs:
        if tensor.dtype not in _FLOATS:
            raise DTypeError(
                message(
                    "float16, bfloat16, float32 or float64",
                    f"dtype {tensor.dtype.name}",
                    "convert it, for example with tf.cast(x, tf.float32)",
                )
            )
    return penalty(xs, l2=0.5, dtype=dtype)


def scale_regularization_loss(regularization_loss: Any, replicas: int | None = None) -> Any:
    """Return the sum of regularization losses divided by the number of replicas in sync.

    In a custom training loop under ``tf.distribute`` each replica adds the whole penalty, and
    gradients are summed over replicas: without this division the penalty counts once per replica.

    Parameters
    ----------
    regularization_loss : tensor, number, or list of tensors
        What ``model.losses`` holds. The tensors of a list may differ in shape and in float type.
    replicas : int >= 1, optional
        By default the number of replicas in sync of the strategy in scope.

    Returns
    -------
    tf.Tensor, shape ()
        In the widest float type of the inputs; float64 for integers; 0 for an empty list.

    Raises
    ------
    FastregError (a RuntimeError)
        In a cross-replica context, where no replica would add the result.

    Notes
    -----
    The same as ``tf.nn.scale_regularization_loss``, which fails for lists of different shapes.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> float(ftf.scale_regularization_loss([tf.ones(3), tf.ones((2, 2))], replicas=2))
    3.5
    """
    if tf.distribute.has_strategy() and tf.distribute.in_cross_replica_context():
        raise CrossReplicaError(
            message(
                "a call in replica context",
                "the cross-replica context",
                "call it inside the function passed to strategy.run",
            )
        )
    if replicas is None:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas < 1:
        raise ArgumentError(message("replicas >= 1", str(replicas), "pass a positive integer"))
    items = regularization_loss
    items = [_tensor(t) for t in (items if isinstance(items, (list, tuple)) else [items])]
    result = _result_dtype(items, None)
    if not items:
        return tf.zeros((), result)
    total = tf.add_n([tf.reduce_sum(tf.cast(t, result)) for t in items])
    return total / tf.cast(replicas, result)


class CrossReplicaError(FastregError, RuntimeError):
    """A per-replica helper that was called outside every replica."""


# -- Version 1 graphs ------------------------------------------------------------------------------


class EagerCollectionError(FastregError, RuntimeError):
    """A question about a graph's collections in eager code, where they are always empty."""


def _need_graph(what: str) -> None:
    if tf.executing_eagerly():
        raise EagerCollectionError(
            message(
                f"{what} in a version 1 graph",
                "eager code, whose collections are always empty",
                "sum model.losses, or pass the variables to fastreg.tensorflow.penalty",
            )
        )


def get_regularization_losses(scope: str | None = None) -> list[Any]:
    """Return the penalties that variables of the current version 1 graph carry.

    ``get_variable(regularizer=...)``, ``variable_scope(regularizer=...)`` and the legacy layers of
    ``tf.compat.v1.layers`` write them; Keras layers do not.

    Parameters
    ----------
    scope : str, optional
        Only losses whose name begins with this regular expression.

    Returns
    -------
    list of tf.Tensor

    Raises
    ------
    EagerCollectionError (a RuntimeError)
        In eager code; ``tf.compat.v1.losses`` answers an empty list there.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> with tf.Graph().as_default():
    ...     ftf.get_regularization_losses()
    []
    """
    _need_graph("get_regularization_losses")
    keys = tf.compat.v1.GraphKeys.REGULARIZATION_LOSSES
    return list(tf.compat.v1.get_collection(keys, scope))


def _sum(losses: list[Any], name: str) -> Any:
    """Sum scalars of possibly different float types in the widest of them."""
    result = _result_dtype(losses, None)
    return tf.add_n([tf.cast(t, result) for t in losses], name=name)


def get_regularization_loss(
    scope: str | None = None, name: str = "total_regularization_loss"
) -> Any:
    """Return the sum of :func:`get_regularization_losses`, or 0.0 if there are none.

    Parameters
    ----------
    scope : str, optional
        Only losses whose name begins with this regular expression.
    name : str
        Name of the sum in the graph.

    Returns
    -------
    tf.Tensor, shape ()
        In the widest type of the losses; float32 if there are none.

    Raises
    ------
    EagerCollectionError (a RuntimeError)
        In eager code.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    ...     float(session.run(ftf.get_regularization_loss()))
    0.0
    """
    losses = get_regularization_losses(scope)
    return _sum(losses, name) if losses else tf.constant(0.0)


def get_total_loss(
    add_regularization_losses: bool = True, name: str = "total_loss", scope: str | None = None
) -> Any:
    """Return the sum of the current graph's losses, penalties included.

    Parameters
    ----------
    add_regularization_losses : bool, default True
        Whether to add the penalties.
    name : str
        Name of the sum in the graph.
    scope : str, optional
        Only losses whose name begins with this regular expression.

    Returns
    -------
    tf.Tensor, shape ()
        In the widest type of the losses.

    Raises
    ------
    EagerCollectionError (a RuntimeError)
        In eager code.
    ArgumentError (a ValueError)
        If there is nothing to sum, as in ``tf.compat.v1.losses.get_total_loss``.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    ...     tf.compat.v1.losses.add_loss(tf.constant(1.5))
    ...     float(session.run(ftf.get_total_loss()))
    1.5
    """
    _need_graph("get_total_loss")
    losses = list(tf.compat.v1.losses.get_losses(scope))
    if add_regularization_losses:
        losses += get_regularization_losses(scope)
    if not losses:
        raise ArgumentError(
            message(
                "at least one loss in the graph's collections",
                "none",
                "add one with tf.compat.v1.losses.add_loss, or check scope",
            )
        )
    return _sum(losses, name)
