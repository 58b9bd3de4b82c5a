# SPDX-License-Identifier: BSD-3-Clause
"""Which objects are arrays, of which element type, without a copy.

Everything is brought to a NumPy array that shares the caller's memory. bfloat16, which NumPy does
not know, travels as unsigned 16-bit integers beside its :class:`~fastreg._core.dtypes.Dtype`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from fastreg._core.dtypes import ACCEPTED, BF16, F32, F64, U8, Dtype, Narrow, by_name, name_of
from fastreg._core.frameworks import (
    framework,
    is_model,
    is_recording,
    is_torch_module,
    loaded,
    unwrap,
)
from fastreg._core.unread import as_floats, unread
from fastreg.errors import DTypeError, FastregError, LayoutError, message

__all__ = [
    "HostArray",
    "bf16_view",
    "bfloat16_dtype",
    "check_storage",
    "check_target",
    "check_targets",
    "describe",
    "empty_like",
    "host_array",
    "host_of",
    "narrow_array",
    "own_view",
    "torch_view",
]

AnyArray: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


class HostArray:
    """Memory that kernels can read: a native array and its element type.

    ``data`` is a view, never a copy; its own dtype is ``dtype.view``.
    """

    __slots__ = ("data", "dtype")

    def __init__(self, data: AnyArray, dtype: Dtype) -> None:
        self.data = data
        self.dtype = dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the array."""
        shape: tuple[int, ...] = self.data.shape
        return shape

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
    return HostArray(bits, BF16)


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
    if isinstance(dtype, np.dtype) and isinstance(x, (np.ndarray, np.generic)):
        return f"{dtype.name} ({dtype.str})" if not dtype.isnative else dtype.name
    if dtype is None:
        return f"an object of class {type(x).__name__}"
    own = isinstance(x, (np.ndarray, np.generic)) or framework(x) != "numpy"
    return str(dtype) if own else f"a {type(x).__name__} of {dtype}"


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
        if x.dtype.code < 0:
            raise DTypeError(
                message(
                    f"elements of type {ACCEPTED}",
                    x.dtype.name,
                    "convert the array first; fastreg.stats and check_finite read it as it is",
                )
            )
        return x
    if isinstance(x, np.ndarray):
        return _from_ndarray(x)
    if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        return _from_dlpack(x)
    if hasattr(x, "__array_interface__"):
        return _from_ndarray(_view_of(x))
    if isinstance(x, (list, tuple, dict)) or is_torch_module(x) or is_model(x):
        raise DTypeError(
            message(
                "one array",
                describe(x),
                "pass it to fastreg.penalty or value_and_gradient, which take containers, or "
                "numpy.asarray(x) of numbers",
            )
        )
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
            message(f"a buffer of {ACCEPTED}", f"format {view.format!r} ({e})", "convert it first")
        ) from None


def own_view(x: object) -> HostArray:
    """Return :func:`host_array` as a view that nobody else can reshape."""
    host = host_array(x)
    return HostArray(host.data.view(), host.dtype)


def _view_of(x: object) -> AnyArray:
    """The memory of a buffer as an ndarray.

    Where memory runs out, NumPy reads a buffer as a sequence of numbers instead, into an array of
    its own with elements of another type.
    """
    try:
        view = np.asarray(x)
    except ValueError as e:  # __array_interface__ without memory
        raise LayoutError(
            message("an array that owns its elements", f"{describe(x)} ({e})", "pass another one")
        ) from None
    if view.size and view.flags.owndata and not isinstance(x, np.generic):
        raise MemoryError("no memory for a view of the buffer")
    return view


def _from_ndarray(x: AnyArray) -> HostArray:
    if type(x) is not np.ndarray and not isinstance(x, np.ma.MaskedArray):
        x = x.view(np.ndarray)  # a subclass may say what it likes of its type
    dtype = x.dtype
    found = by_name(dtype.name)
    if found is None or dtype.kind in "mMSUO":
        raise DTypeError(
            message(f"elements of type {ACCEPTED}", describe(x), "convert the array first")
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
    return HostArray(x.view(found.view) if found is BF16 else x, found)


class _DLPack:
    """An exporter whose device was checked, for numpy.from_dlpack."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __dlpack__(self, **options: Any) -> Any:
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def _from_dlpack(x: Any) -> HostArray:
    if framework(x) == "torch" and isinstance(x, loaded("torch").Tensor):
        return _from_torch(loaded("torch"), x)
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
                _to_host(x),
            )
        )
    if str(getattr(x, "dtype", "")) == "bfloat16" and hasattr(x, "__array__"):
        # JAX on the CPU: numpy.asarray is a read-only view with ml_dtypes' type.
        return _from_ndarray(np.asarray(x))
    try:
        view = np.from_dlpack(_DLPack(x))
        if view.size and view.flags.owndata:  # NumPy allocates where the address is NULL
            raise LayoutError(
                message(
                    "an array that owns its elements",
                    "a DLPack array at address 0",
                    "pass one whose memory is still there",
                )
            )
        return _from_ndarray(view)
    except FastregError:
        raise
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        raise DTypeError(
            message(f"a DLPack array of {ACCEPTED}", f"{describe(x)} ({e})", "convert it first")
        ) from None


def _to_host(x: Any) -> str:
    """Say how an array that is elsewhere comes to the host, in its framework's words."""
    if framework(x) == "jax":
        if any(base.__name__ == "Tracer" for base in type(x).__mro__):
            return "within jit and grad, call fastreg.jax"
        return "call fastreg.jax, or pass jax.device_get(x)"
    return "move it to the host first, for example with x.cpu()"


def _from_torch(torch: Any, x: Any) -> HostArray:
    """View a torch CPU tensor; bfloat16 through its bits, since NumPy cannot name it."""
    refused = unread(torch, x)
    if refused is not None:
        raise DTypeError(message(*refused))
    found = by_name(name_of(x.dtype))
    if found is None:
        raise DTypeError(message(f"elements of type {ACCEPTED}", describe(x), as_floats(x)))
    return torch_view(x.resolve_neg() if x.is_neg() else x, found)


class _Memory:
    """Memory of a tensor, as NumPy asks for it."""

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, x: Any, dtype: Dtype) -> None:
        self._owner = x
        item = np.dtype(dtype.view)
        self.__array_interface__ = {
            "version": 3,
            "data": (x.data_ptr(), False),
            "typestr": item.str,
            "shape": tuple(x.shape),
            "strides": tuple(s * item.itemsize for s in x.stride()),
        }


def torch_view(x: Any, dtype: Dtype) -> HostArray:
    """View a dense tensor of the CPU, of this element type.

    Not with ``x.numpy()``, after which torch refuses to resize the storage for good: FSDP could no
    longer free the parameters that somebody looked at.

    Raises
    ------
    LayoutError
        As :func:`check_storage`, and for more dimensions than NumPy has.
    """
    x = x.detach()  # holds the storage, whatever becomes of the caller's tensor
    check_storage(x)
    if not x.numel():
        return HostArray(np.empty(tuple(x.shape), dtype.view), dtype)
    try:
        return HostArray(np.asarray(_Memory(x, dtype)), dtype)
    except ValueError as e:
        raise LayoutError(
            message(
                "a tensor that NumPy can view",
                f"one of shape {tuple(x.shape)} ({e})",
                "reshape it to fewer dimensions",
            )
        ) from None


def narrow_array(x: Any, dtype: Narrow) -> HostArray:
    """View the codes of an ndarray, or of a torch or JAX array, of a narrow type.

    Raises
    ------
    DTypeError, LayoutError
        As :func:`host_array`.
    """
    if isinstance(x, HostArray):
        return x
    torch = loaded("torch")
    if framework(x) == "torch" and isinstance(x, torch.Tensor):
        if unread(torch, x) is None:
            return HostArray(torch_view(x.view(torch.uint8), U8).data, dtype)
    elif not isinstance(x, np.ma.MaskedArray):
        return HostArray(np.asarray(x).view(np.uint8), dtype)
    return host_array(x)  # which says what is wrong with it


def host_of(x: Any, where: str, narrow: Narrow | None = None) -> HostArray:
    """View the memory of a leaf; `narrow` is its type if that has one byte.

    Raises
    ------
    DTypeError, LayoutError
        As :func:`host_array`, with the place.
    """
    try:
        if narrow is not None:
            return narrow_array(_memory(x), narrow)
        if framework(x) == "torch" and (found := _host_of_tensor(x)) is not None:
            return found
        return host_array(_memory(x))
    except FastregError as e:
        raise type(e)(f"at {where}: {e}") from None
    except (RuntimeError, BufferError) as e:  # a deleted JAX array
        raise DTypeError(
            f"at {where}: "
            + message("an array that can be read", f"{describe(x)} ({e})", "pass it anew")
        ) from None


def _host_of_tensor(x: Any) -> HostArray | None:
    """View the commonest tensors without a detour through DLPack; None for the others."""
    torch = loaded("torch")
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or not x.is_cpu or is_recording(torch):
        return None
    dtype = x.dtype
    if (dtype is not torch.float32 and dtype is not torch.float64) or (
        x.layout is not torch.strided or x.is_nested or x.is_neg()
    ):
        return None
    return torch_view(x, F32 if dtype is torch.float32 else F64)


def _memory(x: Any) -> Any:
    """Return what holds a variable's memory: the backend's tensor, for TensorFlow its bytes."""
    x = unwrap(x)
    if framework(x) == "tensorflow":
        x = x.value() if callable(getattr(x, "value", None)) else x
        return np.asarray(x)
    return x


def check_storage(x: Any) -> None:
    """Refuse a torch tensor whose storage was freed or cut: NumPy would invent the memory.

    Raises
    ------
    LayoutError
        As FSDP leaves parameters behind, with ``untyped_storage().resize_(0)``.
    """
    if not x.numel():
        return
    last = x.storage_offset() + sum(s * (k - 1) for s, k in zip(x.stride(), x.shape, strict=True))
    if not x.data_ptr() or x.untyped_storage().nbytes() < (last + 1) * x.element_size():
        raise LayoutError(
            message(
                "a tensor that owns its elements",
                "one whose storage was freed or is too small",
                "call this where its parameters are gathered (FSDP: summon_full_params)",
            )
        )


def empty_like(x: HostArray) -> tuple[AnyArray, HostArray]:
    """Return a new array for x's gradient: as users see it, and as kernels do."""
    out: AnyArray = np.empty_like(x.data, subok=False)
    shown = out.view(bfloat16_dtype()) if x.dtype is BF16 else out
    return shown, HostArray(out, x.dtype)


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
    same = x.__array_interface__["data"][0] == out.__array_interface__["data"][0] and [
        s for s, n in zip(x.strides, x.shape, strict=True) if n > 1
    ] == [s for s, n in zip(out.strides, out.shape, strict=True) if n > 1]
    if same or not np.may_share_memory(x, out):
        return
    if _share_memory(x, out):
        raise LayoutError(
            message(
                "an out that is x itself or shares no memory with it",
                "a partial overlap",
                "pass another array",
            )
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
        if not x.dtype.floating:
            raise DTypeError(
                message(f"a float array at position {k} to write to", str(x.dtype), "leave it out")
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
    first = 0
    while first < len(spans):
        last, end = first + 1, spans[first][1]
        while last < len(spans) and spans[last][0] < end:
            end = max(end, spans[last][1])
            last += 1
        if last - first > 1 and not _interleave([span[4] for span in spans[first:last]]):
            _check_pairs(spans[first:last])
        first = last


_Span: TypeAlias = "tuple[int, int, int, bool, AnyArray]"


def _check_pairs(spans: list[_Span]) -> None:
    """Refuse a written array that shares memory with another of these, which are in order."""
    open_spans: list[_Span] = []
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


def _interleave(arrays: list[AnyArray]) -> bool:
    """Whether arrays are like columns of one matrix: combs of one period, whose teeth are apart.

    Each is within its teeth, so none shares memory with another; False says nothing.
    """
    teeth = []
    periods = set()
    for x in arrays:
        steps = sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1)
        if steps:
            periods.add(steps.pop()[0])
        width = x.itemsize + sum(s * (n - 1) for s, n in steps)
        teeth.append((np.lib.array_utils.byte_bounds(x)[0], width if x.size else 0))
    if len(periods) != 1:
        return False
    period = periods.pop()
    teeth = sorted((low % period, width) for low, width in teeth)
    ends = [low + width for low, width in teeth]
    starts = [low for low, _ in teeth[1:]] + [teeth[0][0] + period]
    return all(end <= start for end, start in zip(ends, starts, strict=True))


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
