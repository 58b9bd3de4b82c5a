# SPDX-License-Identifier: BSD-3-Clause
"""The NumPy room: arrays, NumPy scalars and every other memory of the host.

Also what the rooms of the frameworks say alike about arguments.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np

from fastreg import functional
from fastreg.arrays import HostArray, bfloat16_dtype, describe, host_array, result_name
from fastreg.errors import ArgumentError, DTypeError, LayoutError, NotAnArrayError, message

__all__ = [
    "gradient",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "value_and_gradient",
]

# The type in which cosines are computed; integers in float64.
_WORK: dict[str, Any] = {
    "f16": np.float32,
    "bf16": np.float32,
    "f32": np.float32,
    "f64": np.float64,
}
_FULL = {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"}


def _refuse(x: object, error: DTypeError) -> DTypeError:
    """Return Keras' AttributeError for what has no dtype at all, otherwise the error itself."""
    if hasattr(x, "dtype"):
        return error
    return NotAnArrayError(
        message(
            "one array or tensor (ndarray, torch, TensorFlow, JAX, Keras variable)",
            describe(x),
            "pass numpy.asarray(x), or call once for each item of a list",
        )
    )


def _weights(l1: Any, l2: Any) -> tuple[float, float]:
    if type(l1) is type(l2) is float:
        return l1, l2  # the kernels' door looks at their range
    return weight("l1", l1), weight("l2", l2)


def penalty(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as a NumPy scalar; see :func:`fastreg.value`."""
    l1, l2 = _weights(l1, l2)
    try:
        return functional.value(x, l1=l1, l2=l2, dtype=dtype)
    except DTypeError as e:
        raise _refuse(x, e) from None


def gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0) -> Any:
    """Return the gradient of the penalty; see :func:`fastreg.gradient`.

    With both weights 0 it is 0 whatever x holds, as the value is.
    """
    l1, l2 = _weights(l1, l2)
    try:
        g = functional.gradient(x, l1=l1, l2=l2)
    except DTypeError as e:
        raise _refuse(x, e) from None
    if l1 == l2 == 0.0:
        g.fill(0)
    return g


def value_and_gradient(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any:
    """Return value and gradient from one pass; see :func:`fastreg.value_and_gradient`."""
    l1, l2 = _weights(l1, l2)
    try:
        value, g = functional.value_and_gradient(x, l1=l1, l2=l2, dtype=dtype)
    except DTypeError as e:
        raise _refuse(x, e) from None
    if l1 == l2 == 0.0:
        g.fill(0)
    return value, g


# -- Orthogonality -------------------------------------------------------------------------------

# Keras clamps the squared norm at 1e-14; a row shorter than that counts as of this length.
SHORTEST = 1e-7
# Rows of one block of the Gram matrix: with 4096 columns of float64 it takes 16 MiB.
_BLOCK_ELEMENTS = 1 << 21


def orthogonal(x: Any, *, factor: float, rows: bool = True, dtype: Any = None) -> Any:
    """Return ``factor`` times the mean magnitude of the cosines between a matrix' rows.

    Parameters
    ----------
    x : array, 2-d
        As :func:`fastreg.value` takes; integers are computed in float64.
    factor : float
        Finite and >= 0.
    rows : bool, default True
        False for columns.
    dtype : dtype or str, optional
        Type of the result: x's by default, float64 for integers.

    Returns
    -------
    NumPy scalar
        0 for fewer than two rows, or with factor 0; NaN if a NaN or an infinity is in x.

    Raises
    ------
    LayoutError
        (a ValueError) If x is not of rank 2.

    Notes
    -----
    The norms are correctly rounded and neither overflow nor vanish; the cosines come from BLAS in
    x's type (float32 for half precision), so their last bits depend on it. The Gram matrix is never
    held whole: it is made in blocks of rows of 16 MiB. The kernels sum their magnitudes exactly.
    """
    return _orthogonal(x, factor, rows, dtype, want=False)[0]


def orthogonal_value_and_gradient(
    x: Any, *, factor: float, rows: bool = True, dtype: Any = None
) -> tuple[Any, Any]:
    """Return :func:`orthogonal` and its gradient, an array of x's shape and type.

    A cosine of 0 has the gradient 0; rows shorter than 1e-7 have that of Keras' clamp.
    """
    return _orthogonal(x, factor, rows, dtype, want=True)


def weight(name: str, w: Any) -> float:
    """Return a weight as a float, or say what a weight is."""
    value = None
    if not isinstance(w, (str, bytes, bytearray)):  # which float() would read
        with suppress(TypeError, ValueError):
            value = float(w)
    if value is None:
        raise DTypeError(
            message(f"a number as weight {name}", f"a {type(w).__name__}: {w!r}", "pass a float")
        )
    if not 0.0 <= value < math.inf:
        raise ArgumentError(
            message(
                f"a weight {name} that is finite and >= 0", repr(w), "pass a non-negative number"
            )
        )
    return value


def not_differentiable(received: str, conversion: str) -> DTypeError:
    """Return the error of a gradient of integers."""
    return DTypeError(
        message(
            "a float array (float16, bfloat16, float32, float64) to differentiate",
            received,
            f"convert it, for example with {conversion}",
        )
    )


def check_matrix(shape: tuple[int, ...], factor: float) -> None:
    """Raise unless a regularizer of rows can work with these."""
    weight("factor", factor)
    if len(shape) != 2:
        raise LayoutError(
            message(
                "a matrix (rank 2) for the orthogonal regularizer",
                f"shape {tuple(shape)}",
                "reshape it, for example x.reshape(-1, x.shape[-1])",
            )
        )


def _orthogonal(x: Any, factor: float, rows: bool, dtype: Any, want: bool) -> tuple[Any, Any]:
    try:
        host = host_array(x)
    except DTypeError as e:
        raise _refuse(x, e) from None
    check_matrix(host.shape, factor)
    if want and host.dtype not in _WORK:
        raise not_differentiable(describe(x), "x.astype('float32')")
    result = result_name(dtype) if dtype is not None else host.dtype
    value, slope = cosines(host, factor, rows, want)
    # The penalty of one number is the number, rounded to the type that is asked for.
    rounded = functional.sum_abs(np.float64(value), dtype=_FULL.get(result, "float64"))
    if not want:
        return rounded, None
    own = bfloat16_dtype() if host.dtype == "bf16" else host.data.dtype
    return rounded, slope.astype(own, copy=False)


def cosines(host: HostArray, factor: float, rows: bool, want: bool) -> tuple[float, Any]:
    """Return the value in float64, and if wanted the gradient in the type it was computed in."""
    work = _WORK.get(host.dtype, np.float64)
    data = host.data
    if host.dtype == "bf16":
        data = (np.ascontiguousarray(data).astype(np.uint32) << 16).view(np.float32)
    lines = data if rows else data.T
    n = lines.shape[0]
    if n < 2 or factor == 0.0:
        return 0.0, np.zeros(data.shape, work)
    norms = np.array([functional.norm(line, dtype=np.float64) for line in lines])
    with np.errstate(all="ignore"):  # NaN and infinity are answers, not accidents
        longest = np.maximum(norms, SHORTEST)
        units = (lines / longest[:, None]).astype(work, copy=False)
        pairs = float(n) * (n - 1)
        sums = []
        slope = np.empty_like(units) if want else None
        step = max(1, _BLOCK_ELEMENTS // n)
        for first in range(0, n, step):
            gram = units[first : first + step] @ units.T
            inside = np.arange(gram.shape[0])
            gram[inside, inside + first] = 0.0
            sums.append(functional.sum_abs(gram, dtype=np.float64))
            if slope is not None:
                slope[first : first + step] = np.sign(gram, out=gram) @ units
        value = factor / pairs * float(functional.sum_abs(np.array(sums)))
        if slope is None:
            return value, None
        slope *= work(2.0 * factor / pairs)
        # Of the unit vector: what points along it is lost, unless its length was the clamp's.
        along = np.einsum("ij,ij->i", units, slope)
        along[norms < SHORTEST] = 0.0
        slope -= units * along[:, None]
        slope /= longest[:, None].astype(work)
    return value, slope if rows else slope.T
