# SPDX-License-Identifier: BSD-3-Clause
"""How a penalty of TensorFlow's tensors is computed: arguments, the choice of a route, both routes.

:mod:`fastreg.tensorflow` says what the routes are and when each is taken; here they are made. The
native one ends in :mod:`fastreg.functional`, the other in plain operations.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fastreg import functional
from fastreg.errors import ArgumentError, DTypeError, message
from fastreg.ndarray import weight

__all__ = [
    "FLOATS",
    "GRAPH_THRESHOLD",
    "as_tensor",
    "fresh_like",
    "is_list",
    "memory_of",
    "native_gradient",
    "native_penalty",
    "native_value",
    "ops_penalty",
    "ops_term",
    "result_dtype",
    "route",
    "takes_kernels",
    "weight_of",
    "weights_of",
    "widened",
]

AnyArray = npt.NDArray[Any]

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
FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
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
        See the text of :mod:`fastreg.tensorflow`. ``"native"`` on a device other than a CPU copies
        the tensor to the host; under XLA it fails when the function is compiled.

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


def takes_kernels(xs: Sequence[Any], l1: Sequence[float], eager: bool) -> bool:
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


def as_tensor(x: Any) -> Any:
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
    if dtype not in FLOATS and not (
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


def is_list(x: Any) -> bool:
    """Whether x stands for several tensors: a list or tuple that holds a tensor or a variable."""
    return isinstance(x, (list, tuple)) and any(
        hasattr(e, "dtype") and not isinstance(e, np.generic) for e in x
    )


def weight_of(name: str, w: Any) -> float:
    if isinstance(w, (tf.Tensor, tf.Variable)):
        raise DTypeError(
            message(
                f"a number as weight {name}",
                f"a {type(w).__name__}, which would get no gradient",
                f"multiply: {name} * penalty(x, {name}=1.0)",
            )
        )
    return weight(name, w)


def weights_of(name: str, w: Any, count: int) -> list[float]:
    if not isinstance(w, (list, tuple)):
        return [weight_of(name, w)] * count
    if len(w) != count:
        raise ArgumentError(
            message(
                f"{count} weights {name}, one for each tensor",
                str(len(w)),
                "pass one number for all tensors, or one for each",
            )
        )
    return [weight_of(name, v) for v in w]


def result_dtype(xs: Sequence[Any], dtype: Any) -> Any:
    """The type of the result: what ``dtype`` asks for, or the widest of the tensors' own."""
    if dtype is not None:
        try:
            result = tf.as_dtype(dtype)
        except TypeError:
            result = None
        if result not in FLOATS:
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
        own = x.dtype if x.dtype in FLOATS else tf.float64
        if result is None or _WIDTH[own] > _WIDTH[result]:
            result = own
        elif own != result and _WIDTH[own] == _WIDTH[result]:
            result = tf.float32  # float16 beside bfloat16
    return tf.float32 if result is None else result


# -- Native kernels on tensors' memory -------------------------------------------------------------


def memory_of(x: Any) -> AnyArray:
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


def fresh_like(x: Any) -> tuple[Any, AnyArray]:
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


def native_value(xs: Sequence[Any], l1: list[float], l2: list[float], dtype: Any) -> Any:
    name = dtype.name
    if tf.executing_eagerly():
        if len(xs) == 1:
            v = functional.value(memory_of(xs[0]), l1=l1[0], l2=l2[0], dtype=name)
        else:
            v = functional.list_value([memory_of(x) for x in xs], l1=l1, l2=l2, dtype=name)
        return tf.constant(float(v), dtype)

    def kernel(*arrays: AnyArray) -> Any:
        return functional.list_value(arrays, l1=l1, l2=l2, dtype=name)

    v = tf.numpy_function(kernel, list(xs), dtype, stateful=False)
    v.set_shape(())
    return v


def _second_order(x: Any, u: Any, v: Any, l1: float, l2: float) -> tuple[Any, Any]:
    """Gradient of sum(v * gradient(x, u)) with respect to x and to u, in plain operations."""
    slope = widened(x, l1, l2)
    to_x = tf.cast(2.0 * l2 * tf.cast(u, slope.dtype), v.dtype) * v
    to_u = tf.cast(tf.reduce_sum(tf.cast(v, slope.dtype) * slope), u.dtype)
    return to_x, to_u


def widened(x: Any, l1: float, l2: float) -> Any:
    """Elementwise 2 l2 x + l1 sign(x) in the type that plain operations compute in."""
    wide = tf.cast(x, _work_dtype(x))
    return 2.0 * l2 * wide + l1 * tf.sign(wide)


def native_gradient(x: Any, u: Any, l1: float, l2: float) -> Any:
    """The gradient of x's term times u; differentiable in x and u."""
    if tf.executing_eagerly():
        g, memory = fresh_like(x)
        _host_gradient(memory_of(x), float(u), l1, l2, memory)
        return _recorded(g, [x, u], lambda v: _second_order(x, u, v, l1, l2))

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def differentiable(x: Any, u: Any) -> Any:
        def kernel(x: AnyArray, u: AnyArray, *memory: AnyArray) -> AnyArray:
            return _host_gradient(x, float(u), l1, l2, *memory)

        inputs = [x, u]
        if (x.shape.num_elements() or 0) >= _RECYCLE_FROM:
            # Memory for the result, as in fresh_like: an uninitialised tensor with one reader.
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


def native_penalty(xs: list[Any], l1: list[float], l2: list[float], dtype: Any) -> Any:
    floats = [k for k, x in enumerate(xs) if x.dtype in FLOATS]

    def backward(u: Any) -> list[Any]:
        return [native_gradient(xs[k], u, l1[k], l2[k]) for k in floats]

    if not floats:
        return native_value(xs, l1, l2, dtype)
    if tf.executing_eagerly():
        return _recorded(native_value(xs, l1, l2, dtype), [xs[k] for k in floats], backward)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def differentiable(*inputs: Any) -> Any:
        full = list(xs)
        for k, x in zip(floats, inputs, strict=True):
            full[k] = x

        def back(u: Any) -> list[Any]:
            return [native_gradient(full[k], u, l1[k], l2[k]) for k in floats]

        return native_value(full, l1, l2, dtype), back

    return differentiable(*[xs[k] for k in floats])


# -- Plain operations ------------------------------------------------------------------------------


def _work_dtype(x: Any) -> Any:
    """The type in which plain operations sum."""
    if x.dtype == tf.float64 or x.dtype not in FLOATS:
        return tf.float64
    n = x.shape.num_elements()
    small = n is not None and n <= _EXACT_BELOW
    # XLA's sums on the CPU are wrong in the fourth digit for large float32 tensors.
    exact = small or (not tf.executing_eagerly() and _compiled_by_xla())
    return tf.float64 if exact and _on_cpu(x) else tf.float32


def ops_term(x: Any, l1: float, l2: float) -> Any:
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


def ops_penalty(xs: list[Any], l1: list[float], l2: list[float], dtype: Any) -> Any:
    terms = [ops_term(x, *w) for x, *w in zip(xs, l1, l2, strict=True)]
    if len({t.dtype for t in terms}) > 1:
        terms = [tf.cast(t, tf.float64) for t in terms]
    return tf.cast(terms[0] if len(terms) == 1 else tf.add_n(terms), dtype)
