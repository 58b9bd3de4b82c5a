# SPDX-License-Identifier: BSD-3-Clause
"""The NumPy backend: arrays, NumPy scalars and every other memory of the host, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastreg import _kernels
from fastreg._core.arguments import check_matrix, not_differentiable, result_dtype
from fastreg._core.arrays import HostArray, bfloat16_dtype, describe, host_array, instead
from fastreg._core.dtypes import BF16, F16, F32, F64
from fastreg._core.formula import SHORTEST
from fastreg.errors import DTypeError, NotAnArrayError, message

__all__ = [
    "cosines",
    "gradient",
    "orthogonal",
    "orthogonal_value_and_gradient",
    "penalty",
    "value_and_gradient",
]


def penalty(x: Any, *, l1: float | None = None, l2: float | None = None, dtype: Any = None) -> Any:
    """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` as a NumPy scalar; see :func:`fastreg.value`."""
    try:
        return _kernels.value(x, l1=l1, l2=l2, dtype=dtype)
    except DTypeError as e:
        raise _refusal(x, e) from None


def gradient(x: Any, *, l1: float | None = None, l2: float | None = None) -> Any:
    """Return the gradient of the penalty; see :func:`fastreg.gradient`."""
    try:
        return _kernels.gradient(x, l1=l1, l2=l2)
    except DTypeError as e:
        raise _refusal(x, e) from None


def value_and_gradient(
    x: Any, *, l1: float | None = None, l2: float | None = None, dtype: Any = None
) -> Any:
    """Return value and gradient from one pass; see :func:`fastreg.value_and_gradient`."""
    try:
        if not isinstance(x, np.ndarray):
            host_array(x)  # the kernels' function takes containers as well
        return _kernels.value_and_gradient(x, l1=l1, l2=l2, dtype=dtype)
    except DTypeError as e:
        raise _refusal(x, e) from None


def _refusal(x: object, error: DTypeError) -> DTypeError:
    """Return Keras' AttributeError for what is no array at all, otherwise the error itself."""
    if hasattr(x, "dtype"):
        return error
    try:
        host_array(x)
    except DTypeError:
        return NotAnArrayError(
            message(
                "one array or tensor (ndarray, torch, TensorFlow, JAX, Keras variable)",
                describe(x),
                instead(x),
            )
        )
    return error


# -- Orthogonality -------------------------------------------------------------------------------

# The type in which cosines are computed; integers in float64.
_WORK: dict[Any, Any] = {F16: np.float32, BF16: np.float32, F32: np.float32, F64: np.float64}
# Elements of one block of the Gram matrix: with 4096 columns of float64 it takes 16 MiB.
_BLOCK_ELEMENTS = 1 << 21
# Multiplications of one block, after which Ctrl-C is served: some 15 ms.
_BLOCK_WORK = 1 << 28


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


def _orthogonal(x: Any, factor: float, rows: bool, dtype: Any, want: bool) -> tuple[Any, Any]:
    try:
        host = host_array(x)
    except DTypeError as e:
        raise _refusal(x, e) from None
    factor = check_matrix(host.shape, factor)
    if want and not host.dtype.floating:
        raise not_differentiable(describe(x), "numpy.asarray(x).astype('float64')")
    own = host.dtype if host.dtype.floating else F64
    value, slope = cosines(host, factor, rows, want)
    # The penalty of one number is the number, rounded to the type that is asked for.
    result = own if dtype is None else result_dtype(dtype)
    rounded = _kernels.sum_abs(np.float64(value), dtype=result)
    if not want:
        return rounded, None
    kind = bfloat16_dtype() if own is BF16 else host.data.dtype
    return rounded, slope.astype(kind, copy=False)


def cosines(host: HostArray, factor: float, rows: bool, want: bool) -> tuple[float, Any]:
    """Return the value in float64, and if wanted the gradient in the type it was computed in."""
    work = _WORK.get(host.dtype, np.float64)
    data = host.data
    if host.dtype is BF16:
        data = (np.ascontiguousarray(data).astype(np.uint32) << 16).view(np.float32)
    lines = data if rows else data.T
    n = lines.shape[0]
    if n < 2 or factor == 0.0:
        return 0.0, np.zeros(data.shape, work)
    norms = np.array([_kernels.norm(line, dtype=np.float64) for line in lines])
    width = max(1, lines.shape[1])
    # NaN and infinity are answers, not accidents; rounding modes of the caller play no part.
    with np.errstate(all="ignore"), _kernels.clean_environment():
        longest = np.maximum(norms, SHORTEST)
        units = np.empty(lines.shape, work)
        for here in _blocks(n, _BLOCK_ELEMENTS // width):
            units[here] = lines[here] / longest[here, None]
        pairs = float(n) * (n - 1)
        sums = []
        slope = np.empty_like(units) if want else None
        for here in _blocks(n, min(_BLOCK_ELEMENTS // n, _BLOCK_WORK // (n * width))):
            gram = units[here] @ units.T
            inside = np.arange(gram.shape[0])
            gram[inside, inside + here.start] = 0.0
            sums.append(_kernels.sum_abs(gram, dtype=np.float64))
            if slope is not None:
                part = np.sign(gram, out=gram) @ units
                part *= work(2.0 * factor / pairs)
                # What points along the unit vector is lost, but where the clamp was its length.
                along = np.einsum("ij,ij->i", units[here], part)
                along[norms[here] < SHORTEST] = 0.0
                part -= units[here] * along[:, None]
                part /= longest[here, None].astype(work)
                slope[here] = part
        value = factor / pairs * float(_kernels.sum_abs(np.array(sums)))
        if slope is None:
            return value, None
    return value, slope if rows else slope.T


def _blocks(n: int, step: int) -> list[slice]:
    """Cut n rows into blocks of at most `step`, but at least one."""
    step = max(1, step)
    return [slice(first, min(first + step, n)) for first in range(0, n, step)]
