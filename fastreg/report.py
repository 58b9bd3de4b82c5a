# SPDX-License-Identifier: BSD-3-Clause
"""The numbers of a checkpoint: per tensor, and exactly over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _kernels, functional
from .arrays import bf16_view, host_array
from .checkpoints import Checkpoint, Tensor, printable
from .errors import CheckpointError, message

__all__ = [
    "SCHEMA",
    "SORT_KEYS",
    "Row",
    "Totals",
    "document",
    "measure",
    "scan",
    "sort_rows",
    "total",
    "work",
]

SCHEMA = "fastreg-inspect/1"
"""Name and version of the JSON document; a change that breaks a reader raises the number."""

# Elements that `scan` looks at in one go: at most 2 MiB of temporaries, and they stay in cache.
_CHUNK_N = 1 << 18
# The unit of progress is a byte seen by one kernel.  In memory a byte of `scan` costs about 2 of
# them (13 GB/s beside 17 to 25); if it comes from a disk, `scan` waits for it and it costs far
# more.  A bar matters most in the second case: 8 lies between.
_SCAN_WORK = 8

# dtype -> unsigned view of the bits, and the bits of infinity.
_FLOAT_BITS: dict[str, tuple[str, int]] = {
    "f16": ("u2", 0x7C00),
    "bf16": ("u2", 0x7F80),
    "f32": ("u4", 0x7F80_0000),
    "f64": ("u8", 0x7FF0_0000_0000_0000),
}


@dataclass(frozen=True, slots=True)
class Row:
    """Hold what is known of one tensor.  A skipped tensor has `n` and zeros for the rest.

    Attributes
    ----------
    file : int
        Which of the inspected files it is in, counted from 0.
    tensor : Tensor
        Name, shape, dtype, n and nbytes, and why it is skipped, if it is.
    sum_abs, sum_squares, norm, penalty : float
        Σ|x|, Σx², √Σx² and l1·Σ|x| + l2·Σx², each correctly rounded to float64.
    max_abs : float or int
        Largest |x|, exactly; NaN if there is one, 0 if n is 0.
    zeros, nonfinite : int
        How many elements are ±0; how many are NaN or infinite.
    counted : bool
        Whether it is part of the totals and of the penalty: see :func:`measure`.
    """

    file: int
    tensor: Tensor
    sum_abs: float = 0.0
    sum_squares: float = 0.0
    norm: float = 0.0
    max_abs: float | int = 0.0
    zeros: int = 0
    nonfinite: int = 0
    penalty: float = 0.0
    counted: bool = False
    operand: Any = field(default=None, repr=False, compare=False)

    def share(self, penalty: float) -> float:
        """Return this tensor's part of a total `penalty`, 0 to 1.

        NaN if the tensor is not counted or the total is 0, infinite or NaN.
        """
        return self.penalty / penalty if self.counted and 0 < penalty < math.inf else math.nan


@dataclass(frozen=True, slots=True)
class Totals:
    """Hold the numbers of all counted tensors together; the sums are exact and rounded once."""

    tensors: int
    uncounted: int
    skipped: int
    n: int
    nbytes: int
    sum_abs: float
    sum_squares: float
    norm: float
    max_abs: float | int
    zeros: int
    nonfinite: int
    penalty: float


def measure(
    checkpoint: Checkpoint,
    *,
    file: int = 0,
    l1: float = 0.0,
    l2: float = 0.0,
    integers: bool = False,
    tick: Callable[[int], None] = lambda work: None,
) -> list[Row]:
    """Measure every tensor of a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
        As :func:`fastreg.checkpoints.read_checkpoint` returns it.
    file : int, default 0
        Number to remember in the rows.
    l1, l2 : float, default 0
        Weights of the penalty; finite and >= 0.
    integers : bool, default False
        Count integers and booleans as weights.  By default they are measured but stay out of the
        totals and the penalty: in a checkpoint they are positions, steps and masks, and the
        positions 0 … 511 of one small model outweigh all its weights.
    tick : callable, optional
        Called with the work done since the last call; :func:`work` says how much there is.

    Returns
    -------
    list of Row
        One per tensor, in the order of the checkpoint.

    Raises
    ------
    CheckpointError
        If the elements turn out to be damaged.
    """
    return [
        Row(file, tensor)
        if tensor.skipped
        else _measure_one(tensor, file, l1, l2, integers or tensor.dtype in _FLOAT_BITS, tick)
        for tensor in checkpoint.tensors
    ]


def work(checkpoint: Checkpoint) -> int:
    """Return the sum of all `work` that :func:`measure` and :func:`total` will tick."""
    return sum(
        tensor.nbytes * (_SCAN_WORK + (1 if tensor.dtype in _FLOAT_BITS else 4) + 4)
        for tensor in checkpoint.tensors
        if not tensor.skipped
    )


def _measure_one(
    tensor: Tensor, file: int, l1: float, l2: float, counted: bool, tick: Callable[[int], None]
) -> Row:
    array = tensor.array()
    operand = bf16_view(array) if tensor.dtype == "bf16" else array

    def kernel(function: Callable[..., Any], **weights: float) -> float:
        result = float(function(operand, dtype=np.float64, **weights))
        tick(tensor.nbytes)
        return result

    max_abs: float | int
    if tensor.dtype in _FLOAT_BITS:
        found = _kernels.Plan([host_array(operand)], [0.0], [0.0]).survey()[1]
        tick(_SCAN_WORK * tensor.nbytes)
        max_abs, zeros = float(found["max_abs"]), int(found["zeros"])
        nonfinite = int(found["nans"] + found["infs"])
        sums = tuple(float(found[field]) for field in ("sum_abs", "sum_squares", "norm"))
    else:
        # A survey rounds the largest of 64-bit integers to float64; here it is exact.
        max_abs, zeros, nonfinite = scan(
            array, tensor.dtype, lambda nbytes: tick(_SCAN_WORK * nbytes)
        )
        if tensor.dtype == "bool" and max_abs > 1:
            raise CheckpointError(
                message(
                    f"booleans of 0 or 1 in tensor '{printable(tensor.name, 80)}'",
                    f"a byte of {max_abs}",
                    "the file is damaged or forged: save or download it again",
                )
            )
        sums = tuple(map(kernel, (functional.sum_abs, functional.sum_squares, functional.norm)))
    return Row(
        file,
        tensor,
        sum_abs=sums[0],
        sum_squares=sums[1],
        norm=sums[2],
        max_abs=max_abs,
        zeros=zeros,
        nonfinite=nonfinite,
        penalty=kernel(functional.value, l1=l1, l2=l2) if counted else 0.0,
        counted=counted,
        operand=operand,
    )


def total(
    rows: Sequence[Row],
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    tick: Callable[[int], None] = lambda work: None,
) -> Totals:
    """Add up `rows`, the sums over all elements of all tensors exactly and rounded once.

    Parameters
    ----------
    rows : sequence of Row
        As :func:`measure` returns them, of one or several files.
    l1, l2 : float, default 0
        Weights of the penalty; finite and >= 0.
    tick : callable, optional
        Called with the work done since the last call.

    Returns
    -------
    Totals
        Of the counted tensors; skipped and uncounted ones are in `skipped` and `uncounted` alone.
    """
    skipped = sum(bool(row.tensor.skipped) for row in rows)
    read = [row for row in rows if row.counted]
    operands = [row.operand for row in read]

    nbytes = sum(row.tensor.nbytes for row in read)

    def kernel(function: Callable[..., Any], **weights: float) -> float:
        result = float(function(operands, dtype=np.float64, **weights))
        tick(nbytes)
        return result

    return Totals(
        tensors=len(read),
        uncounted=len(rows) - len(read) - skipped,
        skipped=skipped,
        n=sum(row.tensor.n for row in read),
        nbytes=nbytes,
        sum_abs=kernel(functional.list_value, l1=1.0),
        sum_squares=kernel(functional.list_value, l2=1.0),
        norm=kernel(functional.list_norm),
        max_abs=_largest([row.max_abs for row in read]),
        zeros=sum(row.zeros for row in read),
        nonfinite=sum(row.nonfinite for row in read),
        penalty=kernel(functional.list_value, l1=l1, l2=l2),
    )


def scan(
    array: NDArray[Any], dtype: str, tick: Callable[[int], None] = lambda nbytes: None
) -> tuple[float | int, int, int]:
    """Find the largest |x| and count zeros and non-finite elements, in chunks.

    Parameters
    ----------
    array : ndarray, shape (n,)
        As :meth:`Tensor.array` returns it.
    dtype : str
        :attr:`Tensor.dtype`, which says how to read it.
    tick : callable, optional
        Called with the number of bytes done since the last call.

    Returns
    -------
    max_abs : float or int
        NaN if there is a NaN, else infinite if there is an infinity; 0 for no elements.
    zeros, nonfinite : int
        Counts.

    Notes
    -----
    Floats are compared as unsigned integers without their sign bit: that order is the order of
    |x|, with infinity above every number and NaN above infinity.  It is exact, sets no
    floating-point flag, is the same for bfloat16, which NumPy lacks, and fast for float16.
    """
    largest = 0
    zeros = nonfinite = 0
    is_float = dtype in _FLOAT_BITS
    code, infinity = _FLOAT_BITS.get(dtype, ("u1", 0))
    if is_float or dtype == "bool":
        array = array.view(code)
    magnitude = np.empty(min(array.size, _CHUNK_N), array.dtype)
    for at in range(0, array.size, _CHUNK_N):
        chunk = array[at : at + _CHUNK_N]
        if is_float:
            bits = magnitude[: chunk.size]
            mask = (1 << (8 * bits.itemsize - 1)) - 1
            chunk = np.bitwise_and(chunk, bits.dtype.type(mask), out=bits)
        low, high = int(chunk.min()), int(chunk.max())  # as Python integers: |-128| fits
        largest = max(largest, abs(low), abs(high))
        if low <= 0:
            zeros += chunk.size - int(np.count_nonzero(chunk))
        if is_float and high >= infinity:
            nonfinite += int(np.count_nonzero(chunk >= chunk.dtype.type(infinity)))
        tick(chunk.nbytes)
    if not is_float:
        return largest, zeros, nonfinite
    if dtype == "bf16":  # the upper half of a float32
        largest, code = largest << 16, "u4"
    return float(np.array(largest, code).view(code.replace("u", "f"))), zeros, nonfinite


def _largest(values: Sequence[float | int]) -> float | int:
    """Return the largest, NaN if there is one (``max`` depends on the order then)."""
    return math.nan if any(v != v for v in values) else max(values, default=0.0)


# ---- order ----------------------------------------------------------------------------------

SORT_KEYS: dict[str, Callable[[Row], Any]] = {
    "file": lambda row: 0,
    "name": lambda row: row.tensor.name,
    "n": lambda row: row.tensor.n,
    "l1": lambda row: row.sum_abs,
    "l2": lambda row: row.sum_squares,
    "norm": lambda row: row.norm,
    "max": lambda row: row.max_abs,
    "share": lambda row: row.penalty,
    "zeros": lambda row: row.zeros,
    "nonfinite": lambda row: row.nonfinite,
}
"""What ``--sort`` knows.  ``file`` and ``name`` ascend, numbers descend."""


def sort_rows(rows: Sequence[Row], key: str) -> list[Row]:
    """Sort `rows` by a name of :data:`SORT_KEYS`.

    ``file`` keeps the order of the files and in them; ``name`` ascends; numbers descend with NaN
    first, for it is what one looks for.  Equal rows keep their order; skipped tensors come last.
    """
    of = SORT_KEYS[key]
    if key in ("file", "name"):
        return sorted(rows, key=of)

    def descending(row: Row) -> tuple[bool, bool, float | int]:
        value = of(row)
        return bool(row.tensor.skipped), value == value, 0 if value != value else -value

    return sorted(rows, key=descending)


# ---- JSON -----------------------------------------------------------------------------------


def document(
    files: Sequence[dict[str, Any]],
    rows: Sequence[Row],
    totals: Totals,
    *,
    hidden: int = 0,
    l1: float = 0.0,
    l2: float = 0.0,
) -> dict[str, Any]:
    """Return the report as a dict that ``json.dumps(..., allow_nan=False)`` accepts.

    Parameters
    ----------
    files : sequence of dict
        ``path``, ``format``, ``nbytes`` and ``error`` of each file, in the order given.
    rows : sequence of Row
        Those to show, in the order to show them.
    totals : Totals
        Of all rows, hidden ones included.
    hidden : int, default 0
        How many rows ``--top`` left out.
    l1, l2 : float, default 0
        Weights of the penalty.

    Returns
    -------
    dict
        The schema of ``python -m fastreg inspect --help``.  Numbers that are not finite are the
        strings ``"nan"`` and ``"inf"``; what a skipped tensor does not have is None.
    """

    def number(value: float | int) -> float | int | str:
        return value if math.isfinite(value) else str(value)

    def entry(row: Row) -> dict[str, Any]:
        tensor = row.tensor
        share = row.share(totals.penalty)
        numbers: dict[str, Any] = {
            "sum_abs": number(row.sum_abs),
            "sum_squares": number(row.sum_squares),
            "norm": number(row.norm),
            "max_abs": number(row.max_abs),
            "zeros": row.zeros,
            "nonfinite": row.nonfinite,
            "penalty": number(row.penalty) if row.counted else None,
            "share": number(share) if share == share else None,
        }
        return {
            "file": row.file,
            "name": tensor.name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "n": tensor.n,
            "nbytes": tensor.nbytes,
            "skipped": tensor.skipped or None,
            "counted": row.counted,
            **(dict.fromkeys(numbers) if tensor.skipped else numbers),
        }

    return {
        "schema": SCHEMA,
        "l1": l1,
        "l2": l2,
        "files": list(files),
        "tensors": [entry(row) for row in rows],
        "hidden": hidden,
        "totals": {
            "tensors": totals.tensors,
            "uncounted": totals.uncounted,
            "skipped": totals.skipped,
            "n": totals.n,
            "nbytes": totals.nbytes,
            "sum_abs": number(totals.sum_abs),
            "sum_squares": number(totals.sum_squares),
            "norm": number(totals.norm),
            "max_abs": number(totals.max_abs),
            "zeros": totals.zeros,
            "nonfinite": totals.nonfinite,
            "penalty": number(totals.penalty),
        },
    }
