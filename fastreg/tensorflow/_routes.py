# SPDX-License-Identifier: BSD-3-Clause
"""Which way a penalty of TensorFlow's tensors is computed: by the kernels or by TensorFlow."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

import tensorflow as tf

from fastreg._core.routes import Route

__all__ = [
    "GRAPH_THRESHOLD",
    "compiled_by_xla",
    "on_cpu",
    "outside_autograph",
    "private",
    "reads_memory",
    "route",
    "takes_kernels",
]

GRAPH_THRESHOLD = 1 << 18
"""Elements from which a graph calls the kernels for L1 terms and half precision.

Value and gradient of L1L2 in a graph, float32, on two cores: at 65536 elements 0.51 ms by the
kernels and 0.42 ms by Keras' operations, at 262144 0.63 and 0.83 ms, at 16 Mi 19 and 53 ms.
"""

P = ParamSpec("P")
T = TypeVar("T")

_route = Route()


def route(name: str) -> AbstractContextManager[None]:
    """Choose how penalties are computed within a ``with`` block, on the calling thread.

    A ``tf.function`` keeps the route that was in force when it was traced.

    Parameters
    ----------
    name : "auto", "kernels" or "native"
        ``"native"`` means TensorFlow's own operations: see the text of :mod:`fastreg.tensorflow`.
        ``"kernels"`` on a device other than a CPU copies the tensor to the host; under XLA it fails
        when the function is compiled.

    Raises
    ------
    ArgumentError
        For another name.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import fastreg.tensorflow as ftf
    >>> with ftf.route("native"):
    ...     print(float(ftf.penalty(tf.constant([3.0, -4.0]), l2=0.5)))
    12.5
    """
    return _route.choose(name)


def private(module: str, name: str) -> Any:
    """Return a name of TensorFlow's that has no public spelling, or None where it is not there."""
    try:
        return getattr(importlib.import_module(f"tensorflow.python.{module}"), name, None)
    except ImportError:
        return None


def outside_autograph(function: Callable[P, T]) -> Callable[P, T]:
    """Keep a function from being rewritten where it is traced, which takes a second at first."""
    hidden = tf.autograph.experimental.do_not_convert(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        chosen = function if tf.executing_eagerly() else hidden
        return chosen(*args, **kwargs)

    return call


_in_xla = private("ops.control_flow_util", "GraphOrParentsInXlaContext")
_in_save = private("saved_model.save_context", "in_save_context")
_tangents = private("eager.forwardprop_util", "pack_tangents")


def compiled_by_xla() -> bool:
    """Whether the graph that is being made is for XLA."""
    return _in_xla is not None and bool(_in_xla(tf.compat.v1.get_default_graph()))


def _only_cpus() -> bool:
    return all(d.device_type == "CPU" for d in tf.config.get_visible_devices())


def on_cpu(x: Any) -> bool:
    """Whether a tensor's device is a CPU; if none was chosen, whether all devices are."""
    device = x.device or ""
    return "CPU:" in device.upper() if device else _only_cpus()


def takes_kernels(xs: Sequence[Any], l1: Sequence[float]) -> bool:
    """Whether the kernels compute this penalty."""
    eager = tf.executing_eagerly()
    if not eager and _tangents is not None and _tangents(list(xs)).indices:
        return False  # a ForwardAccumulator: it would take the derivative of a Python call for 0
    if _route.name != "auto":
        return _route.name == "kernels"
    if not all(on_cpu(x) for x in xs):
        return False
    if eager:
        return True
    sizes = [x.shape.num_elements() for x in xs]
    if any(n is None for n in sizes) or sum(sizes) < GRAPH_THRESHOLD:
        return False
    if not any(l1) and all(x.dtype in (tf.float32, tf.float64) for x in xs):
        return False
    return not (compiled_by_xla() or (_in_save is not None and _in_save()))


def reads_memory(xs: Sequence[Any]) -> bool:
    """Whether the kernels compute what has no form in a graph: of eager tensors, on the CPU."""
    if not tf.executing_eagerly() or _route.name == "native":
        return False
    return _route.name == "kernels" or all(on_cpu(x) for x in xs)
