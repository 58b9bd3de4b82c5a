# SPDX-License-Identifier: BSD-3-Clause
"""The NumPy bridge: which objects are arrays, of which element type, without a copy.

Everything is brought to a NumPy array that shares the caller's memory. bfloat16, which NumPy does
not know, travels as unsigned 16-bit integers beside the name of its type.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastreg.errors import DTypeError, LayoutError, message

__all__ = [
    "HostArray",
    "bf16_view",
    "bfloat16_dtype",
    "check_target",
    "check_targets",
    "describe",
    "empty_like",
    "host_array",
    "result_name",
]

AnyArray = npt.NDArray[Any]

_NAMES = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "bool": "bool",
    "int8": "i8",
    "uint8": "u8",
    "int16": "i16",
    "uint16": "u16",
    "int32": "i32",
    "uint32": "u32",
    "int64": "i64",
    "uint64": "u64",
}
_FLOATS = ("f16", "bf16", "f32", "f64")
_ACCEPTED = "float16, bfloat16, float32, float64, bool or an integer type of up to 64 bits"


@dataclass(frozen=True, slots=True)
class HostArray:
    """Memory that kernels can read: a native array and the name of its element type.

    ``data`` is a view, never a copy; for ``dtype == "bf16"`` its own dtype is uint16.
    """

    data: AnyArray
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the array."""
        return self.data.shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(self.data.size)


def bf16_view(bits: AnyArray) -> HostArray:
    """Take an array of unsigned 16-bit integers as bfloat16 numbers, without a copy.

    Every function of fastreg accepts the result, with or without ml_dtypes installed.

    Parameters
    ----------
    bits : ndarray of uint16, any shape and layout
        Each element holds the upper half of an IEEE binary32.

    Raises
    ------
    DTypeError
        If ``bits`` is of another type or byte order.

    Examples
    --------
    >>> import numpy as np, fastreg
    >>> fastreg.sum_squares(bf16_view(np.array([0x3f80, 0xc000], np.uint16)), dtype="float64")
    np.float64(5.0)
    """
    if not isinstance(bits, np.ndarray) or bits.dtype != np.uint16 or not bits.dtype.isnative:
        raise DTypeError(
            message("an ndarray of native uint16", describe(bits), "use x.view(numpy.uint16)")
        )
    return HostArray(bits, "bf16")


def bfloat16_dtype() -> np.dtype[Any]:
    """Return ml_dtypes' bfloat16, or say what to install."""
    try:
        import ml_dtypes
    except ImportError:
        raise DTypeError(
            message(
                "the package ml_dtypes, for a bfloat16 result",
                "an environment without it",
                "install ml_dtypes, or ask for dtype='float32'",
            )
        ) from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def describe(x: object) -> str:
    """Name an object's element type, or its class, for an error message."""
    dtype = getattr(x, "dtype", None)
    if isinstance(dtype, np.dtype):
        return f"{dtype.name} ({dtype.str})" if not dtype.isnative else dtype.name
    return str(dtype) if dtype is not None else f"an object of class {type(x).__name__}"


def result_name(dtype: object) -> str:
    """Return the short name of a result type given as NumPy, framework or string type.

    Raises
    ------
    DTypeError
        If it is not one of the four float types.
    """
    name = dtype if isinstance(dtype, str) else None
    if name is None:
        try:
            name = np.dtype(dtype).name  # type: ignore[call-overload]
        except TypeError:
            name = str(dtype).rpartition(".")[2]
    name = _NAMES.get(name, name)
    if name not in _FLOATS:
        raise DTypeError(
            message(
                "a result dtype among float16, bfloat16, float32, float64",
                repr(dtype),
                "leave dtype out for the array's own type",
            )
        )
    return name


def host_array(x: object) -> HostArray:
    """Return a view of anything that gives access to its memory on the host.

    Tried in this order: ndarray; ``__dlpack__`` of a CPU device; ``__array_interface__``; the
    buffer protocol. Nothing is copied.

    Raises
    ------
    DTypeError
        For other objects, for element types without a kernel, for a byte order that is not this
        machine's, for masked arrays and for memory that is not on the host.
    """
    if isinstance(x, HostArray):
        return x
    if isinstance(x, np.ndarray):
        return _from_ndarray(x)
    if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        return _from_dlpack(x)
    if hasattr(x, "__array_interface__"):
        return _from_ndarray(_view_of(x))
    try:
        view = memoryview(x)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DTypeError(
            message(
                "an array (ndarray, or an object with the buffer protocol, __array_interface__ "
                "or a CPU __dlpack__)",
                describe(x),
                "convert it, for example with numpy.asarray(x)",
            )
        ) from None
    try:
        return _from_ndarray(_view_of(view))
    except (TypeError, ValueError) as e:
        raise DTypeError(
            message(f"a buffer of {_ACCEPTED}", f"format {view.format!r} ({e})", "convert it first")
        ) from None


def _view_of(x: object) -> AnyArray:
    """The memory of a buffer as an ndarray.

    Where memory runs out, NumPy reads a buffer as a sequence of numbers instead, into an array of
    its own with elements of another type.
    """
    view = np.asarray(x)
    if view.flags.owndata and not isinstance(x, np.generic):
        raise MemoryError("no memory for a view of the buffer")
    return view


def _from_ndarray(x: AnyArray) -> HostArray:
    dtype = x.dtype
    name = _NAMES.get(dtype.name)
    if name is None or dtype.kind in "mMSUO":
        raise DTypeError(
            message(f"elements of type {_ACCEPTED}", describe(x), "convert the array first")
        )
    if not dtype.isnative:
        raise DTypeError(
            message(
                "elements in this machine's byte order",
                f"{dtype.name} with byte order {dtype.str[0]!r}",
                "use x.astype(x.dtype.newbyteorder('='))",
            )
        )
    if isinstance(x, np.ma.MaskedArray):
        raise DTypeError(
            message(
                "an array without a mask",
                "a MaskedArray, whose hidden elements would be counted",
                "use x.compressed() or x.filled(0)",
            )
        )
    plain = x.view(np.ndarray) if type(x) is not np.ndarray else x
    return HostArray(plain.view(np.uint16) if name == "bf16" else plain, name)


class _DLPack:
    """An exporter whose device was checked, for numpy.from_dlpack."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __dlpack__(self, **options: Any) -> Any:
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def _from_dlpack(x: Any) -> HostArray:
    where = "an unknown device"
    try:
        kind, number = x.__dlpack_device__()
        where = f"device ({int(kind)}, {number})"
        on_host = int(kind) == 1
    except Exception as e:
        where, on_host = f"{where}: {e}", False
    if not on_host:
        raise DTypeError(
            message(
                "an array in host memory (DLPack device type 1, CPU)",
                f"{type(x).__name__} on {where}",
                "move it to the host first, for example with x.cpu()",
            )
        )
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _from_torch(torch, x)
    if str(getattr(x, "dtype", "")) == "bfloat16" and hasattr(x, "__array__"):
        # JAX on the CPU: numpy.asarray is a read-only view with ml_dtypes' type.
        return _from_ndarray(np.asarray(x))
    try:
        return _from_ndarray(np.from_dlpack(_DLPack(x)))
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        raise DTypeError(
            message(f"a DLPack array of {_ACCEPTED}", f"{describe(x)} ({e})", "convert it first")
        ) from None


def _from_torch(torch: Any, x: Any) -> HostArray:
    """View a torch CPU tensor; bfloat16 through its bits, since NumPy cannot name it."""
    if x.layout != torch.strided:
        raise DTypeError(message("a dense tensor", f"layout {x.layout}", "use x.to_dense()"))
    if x.is_conj() or x.is_neg():
        x = x.resolve_conj().resolve_neg()
    x = x.detach()
    if x.dtype == torch.bfloat16:
        return HostArray(x.view(torch.uint16).numpy(), "bf16")
    try:
        return _from_ndarray(x.numpy())
    except TypeError:
        raise DTypeError(
            message(f"elements of type {_ACCEPTED}", describe(x), "convert the tensor first")
        ) from None


def empty_like(x: HostArray) -> tuple[AnyArray, HostArray]:
    """Return a new array for x's gradient: as users see it, and as kernels do."""
    out: AnyArray = np.empty_like(x.data, subok=False)
    if x.dtype == "bf16":
        return out.view(bfloat16_dtype()), HostArray(out, "bf16")
    return out, HostArray(out, x.dtype)


def check_target(x: AnyArray, out: AnyArray) -> None:
    """Refuse an output that is read-only, overlaps itself, or partly overlaps x.

    Raises
    ------
    LayoutError
        In each of these cases. Being exactly x is allowed.
    """
    if not out.flags.writeable:
        raise LayoutError(message("a writable out", "a read-only array", "pass a copy of it"))
    if out.size == 0:
        return
    if _overlaps_itself(out):
        raise LayoutError(
            message("an out whose elements are distinct", f"strides {out.strides}", "pass a copy")
        )
    same = (
        x.__array_interface__["data"][0] == out.__array_interface__["data"][0]
        and [s for s, n in zip(x.strides, x.shape, strict=True) if n > 1]
        == [s for s, n in zip(out.strides, out.shape, strict=True) if n > 1]
    )
    if same or not np.may_share_memory(x, out):
        return
    if _share_memory(x, out):
        raise LayoutError(
            message("an out that is x itself or shares no memory with it", "a partial overlap",
                    "pass another array")
        )


def check_targets(sources: list[HostArray], targets: list[HostArray | None]) -> None:
    """Refuse outputs of a list call that do not fit, are read-only, or share memory.

    Raises
    ------
    LayoutError
        If a target has another shape or type than its source, is read-only, overlaps itself,
        overlaps its source in part, or shares memory with another target or another source. The
        message names the position.
    """
    spans = []
    for k, (x, out) in enumerate(zip(sources, targets, strict=True)):
        spans.append((*np.lib.array_utils.byte_bounds(x.data), k, False, x.data))
        if out is None:
            continue
        if x.dtype not in _FLOATS:
            raise DTypeError(
                message(f"a float array at position {k} to write to", x.dtype, "leave it out")
            )
        if out.dtype != x.dtype or out.shape != x.shape:
            raise LayoutError(
                message(
                    f"a target of shape {x.shape} and type {x.dtype} at position {k}",
                    f"{out.shape} {out.dtype}",
                    "pass such an array, or None",
                )
            )
        try:
            check_target(x.data, out.data)
        except LayoutError as e:
            raise LayoutError(f"target at position {k}: {e}") from None
        if out.data is not x.data:
            spans.append((*np.lib.array_utils.byte_bounds(out.data), k, True, out.data))
        else:
            spans[-1] = (*spans[-1][:3], True, x.data)
    # Sweep by address: only neighbours can overlap, and only a written one matters.
    spans.sort(key=lambda span: span[:2])
    open_spans: list[tuple[int, int, int, bool, AnyArray]] = []
    for low, high, k, written, data in spans:
        open_spans = [o for o in open_spans if o[1] > low]
        for _, _, j, other_written, other in open_spans:
            if j != k and (written or other_written) and data.size and _share_memory(data, other):
                raise LayoutError(
                    message(
                        "written arrays that share memory with no other array of the list",
                        f"positions {j} and {k}, which do",
                        "pass each memory once, or write to separate arrays",
                    )
                )
        open_spans.append((low, high, k, written, data))


def _share_memory(a: AnyArray, b: AnyArray) -> bool:
    try:
        return bool(np.shares_memory(a, b, max_work=100_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(x: AnyArray) -> bool:
    """Whether two indices may name one address: sufficient test, strides that nest."""
    reach = x.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False
