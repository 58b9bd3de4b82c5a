# SPDX-License-Identifier: BSD-3-Clause
"""Which tensors a call is about, as TensorFlow sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from fastreg._core.arguments import Request, not_differentiable, number, result_dtype
from fastreg._core.arrays import describe, host_array, instead
from fastreg._core.containers import Parameter
from fastreg._core.dtypes import ACCEPTED, ALL, by_name, widest
from fastreg._core.foreign import elements
from fastreg._core.frameworks import is_symbolic, unwrap
from fastreg._core.selection import Chosen, chosen
from fastreg.errors import DTypeError, FastregError, message
from fastreg.tensorflow._operations import TYPES
from fastreg.tensorflow._routes import private

__all__ = [
    "Asked",
    "as_float",
    "as_tensor",
    "choose",
    "floats_of",
    "is_single",
    "placed",
    "result_of",
    "scalar",
    "tensors_of",
]

Asked: TypeAlias = tuple[Any, Any, Any, Any, Any]
"""The arguments of a Request: l1, l2, select, weights, convention."""

# What tf.Variable makes outside of strategies.
_Variable = private("ops.resource_variable_ops", "ResourceVariable")
_READABLE = {d.name for d in ALL} | {"int4", "uint4"}


def as_tensor(x: Any) -> Any:
    """Return a dense tensor: of a variable, its current value, without a copy."""
    if type(x) is _Variable:
        x = x.value()  # what converting it comes to, in two thirds of the time
    if isinstance(x, tf.Tensor):
        tensor = x
    elif isinstance(x, tf.RaggedTensor):
        tensor = x.flat_values
    else:
        tensor = _converted(unwrap(x))
    name = tensor.dtype.name
    if name not in _READABLE:
        raise DTypeError(
            message(f"a tensor of {ACCEPTED}", name, elements(tensor, name, "tensorflow"))
        )
    if by_name(tensor.dtype.name) is None:
        tensor = tf.cast(tensor, tf.int8)
    if not hasattr(tensor, "numpy") and tf.executing_eagerly():
        raise FastregError(
            message("an eager tensor in eager code", "a symbolic one", "call within its graph")
        )
    return tensor


def _converted(x: Any) -> Any:
    if is_symbolic(x):
        action = "call fastreg.keras within a layer's call()"
        raise DTypeError(message("a tensor with elements", f"a {type(x).__name__}", action))
    if isinstance(x, np.ma.MaskedArray):
        host_array(x)  # refuses it
    try:
        return tf.convert_to_tensor(x)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
        if isinstance(x, np.ndarray):
            name = x.dtype.name
            error = message(f"a tensor of {ACCEPTED}", describe(x), elements(x, name))
        else:
            error = message(
                "a tensor, a variable, or what tf.convert_to_tensor takes", describe(x), instead(x)
            )
        raise DTypeError(error) from None


def as_float(x: Any) -> Any:
    """Return a dense tensor of a type that has a gradient."""
    tensor = as_tensor(x)
    if tensor.dtype not in TYPES:
        raise not_differentiable(f"dtype {tensor.dtype.name}", "tf.cast(x, tf.float64)")
    return tensor


def is_single(x: Any) -> bool:
    """Whether x is one array, told at a glance; other single arrays take the long way.

    Python's numbers, and lists of nothing else, are what TensorFlow makes one tensor of.
    """
    if isinstance(x, (tf.Tensor, tf.Variable, np.ndarray, np.generic)) or x is None:
        return True
    if isinstance(x, (list, tuple)) and x:
        return all(isinstance(e, (bool, int, float, list, tuple)) and is_single(e) for e in x)
    return isinstance(x, (bool, int, float))


def choose(params: Any, request: Request, *, everything: bool = False, values: bool = False) -> Any:
    """Return which tensors of a container a call is about.

    Variables and NumPy arrays that stand there twice count once, tensors, which are values, twice;
    with ``values`` everything does.
    """
    if is_single(params) and not isinstance(params, tf.Variable):
        params = as_tensor(params)
    return chosen(params, request, everything=everything, values=values)


def placed(found: Chosen, p: Parameter, function: Callable[[Any], Any]) -> Any:
    """Call a function with an array; an error names its place, unless there is but one."""
    try:
        return function(p.original)
    except DTypeError as e:
        if found.gathered.single:
            raise
        raise DTypeError(f"at {p.label}: {e}") from None


def tensors_of(found: Chosen) -> list[Any]:
    """Return the tensors that are in."""
    return [placed(found, p, as_tensor) for p in found.parameters]


def floats_of(found: Chosen) -> list[Any]:
    """Return the tensors that are in, all of types that have a gradient."""
    return [placed(found, p, as_float) for p in found.parameters]


def result_of(xs: Sequence[Any], dtype: Any) -> Any:
    """Return the type of a result: what is asked for, or the widest of the tensors' own."""
    if dtype is None and len(xs) == 1 and xs[0].dtype in TYPES:
        return xs[0].dtype
    found = widest(by_name(x.dtype.name) for x in xs) if dtype is None else result_dtype(dtype)
    return tf.as_dtype(found.name)


def scalar(x: Any, what: str, **bounds: Any) -> Any:
    """Return a number as a float, or as the 0-d tensor that it is in a graph."""
    if type(x) is float:
        return number(x, what, **bounds)
    if isinstance(x, (tf.Tensor, tf.Variable)) and x.dtype in TYPES and x.shape.rank == 0:
        tensor = tf.convert_to_tensor(x)
        if not hasattr(tensor, "numpy"):
            return tensor
        x = float(tensor)
    return number(x, what, **bounds)
