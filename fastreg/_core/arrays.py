# SPDX-License-Identifier: BSD-3-Clause
"""Which objects are arrays, of which element type, without a copy.

Everything is brought to a NumPy array that shares the caller's memory. bfloat16, which NumPy does
not know, travels as unsigned 16-bit integers beside its :class:`~fastreg._core.dtypes.Dtype`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from fastreg._core.dtypes import ACCEPTED, BF16, Dtype, Narrow, by_name, name_of
from fastreg._core.frameworks import framework, is_model, is_torch_module, loaded
from fastreg._core.unread import as_floats, unread
from fastreg.errors import DTypeError, LayoutError, message

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
    "narrow_array",
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
        return _from_ndarray(np.from_dlpack(_DLPack(x)))
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
    if by_name(name_of(x.dtype)) is None:
        raise DTypeError(message(f"elements of type {ACCEPTED}", describe(x), as_floats(x)))
    if x.is_neg():
        x = x.resolve_neg()
    x = x.detach()
    check_storage(x)
    if x.dtype == torch.bfloat16:
        return HostArray(x.view(torch.int16).numpy().view(np.uint16), BF16)
    return _from_ndarray(x.numpy())


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
            x = x.detach()
            check_storage(x)
            return HostArray(x.view(torch.uint8).numpy(), dtype)
    elif not isinstance(x, np.ma.MaskedArray):
        return HostArray(np.asarray(x).view(np.uint8), dtype)
    return host_array(x)  # which says what is wrong with it


def check_storage(x: Any) -> None:
    """Refuse a torch tensor whose storage was freed or cut: NumPy would invent the memory.

    Raises
    ------
    LayoutError
        As FSDP leaves parameters behind, with ``untyped_storage().resize_(0)``.
    """
    n = x.numel()
    if not n:
        return
    last = x.storage_offset() + sum(s * (k - 1) for s, k in zip(x.stride(), x.shape, strict=True))
    if x.untyped_storage().nbytes() < (last + 1) * x.element_size():
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
