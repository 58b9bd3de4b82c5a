# SPDX-License-Identifier: BSD-3-Clause
"""Which objects are arrays, of which element type, without a copy.

Everything is brought to a NumPy array that shares the caller's memory. bfloat16, which NumPy does
not know, travels as unsigned 16-bit integers beside its :class:`~fastreg._core.dtypes.Dtype`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from fastreg._core.dtypes import ACCEPTED, BF16, F32, F64, U8, Dtype, Narrow, by_name, name_of
from fastreg._core.foreign import conversion, elements, is_sparse, title
from fastreg._core.frameworks import (
    framework,
    is_model,
    is_recording,
    is_sharded,
    is_symbolic,
    is_torch_module,
    is_variable,
    loaded,
    unwrap,
)
from fastreg._core.pytrees import flattened_once
from fastreg._core.unread import as_floats, unread
from fastreg.errors import DTypeError, FastregError, LayoutError, message

__all__ = [
    "HostArray",
    "bf16_view",
    "bfloat16_dtype",
    "check_storage",
    "deleted",
    "describe",
    "empty_like",
    "host_array",
    "host_of",
    "instead",
    "is_array",
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
        return title(x)
    if isinstance(x, (np.ndarray, np.generic)) or type(x).__module__.startswith("torch"):
        return str(dtype)
    return f"{title(x)} with {name_of(dtype)}"


def is_array(x: Any) -> bool:
    """Whether an object is a leaf: an array or a tensor, of whatever kind, readable or not."""
    kind = type(x)
    if kind is np.ndarray:
        return True
    if kind in (dict, list, tuple) or x is None:
        return False
    home = framework(x)
    if home == "torch":
        return isinstance(x, loaded("torch").Tensor)
    if is_sparse(x):
        return True  # some are mappings, too
    if isinstance(x, (Mapping, list, tuple, str, bytes)):
        return False
    if isinstance(x, (HostArray, np.ndarray, np.generic, memoryview, bytearray)):
        return True
    if home in ("keras", "tensorflow") and (is_model(x) or is_sharded(x)):
        return False
    if home == "numpy" and flattened_once(x) is not None:
        return False  # a box around an array, which passes on its attributes
    return (
        (hasattr(x, "shape") and hasattr(x, "dtype"))
        or hasattr(kind, "__dlpack__")
        or hasattr(kind, "__array__")
        or hasattr(x, "__array_interface__")
        or _has_buffer(x)
    )


def _has_buffer(x: Any) -> bool:
    """Whether x has the buffer protocol, as those of ``array`` and ``ctypes`` have."""
    if isinstance(x, Iterator):
        return False  # nor can torch's compiler ask
    try:
        memoryview(x)
    except TypeError:
        return False
    return True


def host_array(x: object) -> HostArray:
    """Return a view of anything that gives access to its memory on the host.

    Tried in this order: ndarray; the frameworks' arrays and variables; ``__dlpack__`` of a CPU
    device; ``__array_interface__``; the buffer protocol. Nothing is copied, but for
    ``tf.IndexedSlices``, whose rows of one index are added up as an optimizer does.

    Raises
    ------
    DTypeError
        For other objects, for element types without a kernel, for a byte order that is not this
        machine's, for masked arrays and for memory that is not on the host.
    LayoutError
        For an array that was deleted or whose storage was freed.
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
    x = unwrap(x)
    home = framework(x)
    if is_symbolic(x):
        raise _symbolic(x, "call fastreg.keras within a layer's call()")
    if home == "torch" and isinstance(x, loaded("torch").Tensor):
        return _from_torch(loaded("torch"), x)
    if home == "jax" and isinstance(x, loaded("jax").Array):
        return _from_jax(loaded("jax"), x)
    if home == "tensorflow" and (found := _from_tensorflow(loaded("tensorflow"), x)) is not None:
        return found
    if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        return _from_dlpack(x)
    if hasattr(x, "__array_interface__"):
        return _from_interface(x)
    if _holds_arrays(x):
        raise DTypeError(
            message(
                "one array",
                describe(x),
                instead(x),
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
                conversion(x),
            )
        ) from None
    try:
        buffer = _view_of(view)
    except (TypeError, ValueError) as e:
        raise DTypeError(
            message(f"a buffer of {ACCEPTED}", f"format {view.format!r} ({e})", conversion(x))
        ) from None
    return _from_ndarray(buffer)


def instead(x: object) -> str:
    """Return what to do with what is no array, but may be a container of some."""
    code = conversion(x)
    if not _holds_arrays(x) or "asarray" in code:
        return code
    return "pass it to fastreg.penalty or fastreg.value_and_gradient, which take containers"


def _holds_arrays(x: object) -> bool:
    """Whether x is a container, which functions of one array do not take."""
    if is_sparse(x) or framework(x) == "jax":
        return False
    return (
        isinstance(x, (list, tuple, Mapping))
        or is_torch_module(x)
        or is_model(x)
        or is_sharded(x)
        or flattened_once(x) is not None
    )


def own_view(x: object) -> HostArray:
    """Return :func:`host_array` as a view that nobody else can reshape."""
    host = x if isinstance(x, HostArray) else host_array(x)
    return HostArray(host.data.view(), host.dtype)


def _view_of(x: object) -> AnyArray:
    """The memory of a buffer as an ndarray.

    Where memory runs out, NumPy reads a buffer as a sequence of numbers instead, into an array of
    its own with elements of another type.
    """
    view = np.asarray(x)
    if view.size and view.flags.owndata and not isinstance(x, np.generic):
        raise MemoryError("no memory for a view of the buffer")
    return view


def _from_interface(x: Any) -> HostArray:
    try:
        view = _view_of(x)
    except (TypeError, ValueError) as e:
        raise DTypeError(
            message(
                "an __array_interface__ that describes memory", f"{title(x)} ({e})", conversion(x)
            )
        ) from None
    return _from_ndarray(view)


def _from_ndarray(x: AnyArray) -> HostArray:
    if type(x) is not np.ndarray and not isinstance(x, np.ma.MaskedArray):
        x = np.ndarray.view(x, np.ndarray)  # a subclass may say what it likes of its type
    dtype = x.dtype
    found = by_name(dtype.name)
    if found is None or dtype.kind in "mMSUO":
        raise DTypeError(
            message(f"elements of type {ACCEPTED}", describe(x), elements(x, dtype.name))
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
                f"{title(x)} on {where}",
                "copy it to the host first, with its own library (x.cpu(), x.get())",
            )
        )
    try:
        view = np.from_dlpack(_DLPack(x))
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        raise DTypeError(
            message(f"a DLPack array of {ACCEPTED}", f"{describe(x)} ({e})", conversion(x))
        ) from None
    if view.size and view.flags.owndata:  # NumPy allocates where the address is NULL
        raise LayoutError(
            message(
                "an array that owns its elements",
                "a DLPack array at address 0",
                "pass one whose memory is still there",
            )
        )
    return _from_ndarray(view)


def _from_jax(jax: Any, x: Any) -> HostArray:
    x = _at_hand(jax, x)
    name = name_of(x.dtype)
    if by_name(name) is None:
        raise DTypeError(message(f"elements of type {ACCEPTED}", name, elements(x, name, "jax")))
    return _from_ndarray(np.asarray(x))


def _at_hand(jax: Any, x: Any) -> Any:
    """Return a JAX array of the host: that of one that every device holds whole, too."""
    if isinstance(x, jax.core.Tracer):
        raise _symbolic(x, "within jit and grad, call the same function of fastreg.jax")
    if x.is_deleted():
        raise deleted()
    devices = x.sharding.device_set
    if not x.is_fully_replicated:
        raise DTypeError(
            message(
                "an array in one piece",
                f"one sharded over {len(devices)} devices",
                "call fastreg.jax, or pass jax.device_get(x)",
            )
        )
    device = next(iter(devices))
    if device.platform != "cpu":
        raise DTypeError(
            message(
                "an array in host memory",
                f"one on {device}",
                "call fastreg.jax, or pass jax.device_get(x)",
            )
        )
    return x.addressable_shards[0].data if len(devices) > 1 else x


def deleted() -> LayoutError:
    """Return the error of a JAX array whose memory has been given away."""
    return LayoutError(
        message(
            "an array that holds its elements",
            "a deleted one (donated to a compiled function, or x.delete())",
            "pass what that function returned",
        )
    )


def _from_tensorflow(tf: Any, x: Any) -> HostArray | None:
    """View a tensor's or a variable's memory; None for what TensorFlow itself makes no tensor of.

    Not by DLPack: asked for a string, TensorFlow's ends the process.
    """
    if isinstance(x, tf.IndexedSlices):
        x = _densified(tf, x)
    elif isinstance(x, tf.RaggedTensor):
        x = x.flat_values
    elif is_variable(x) and callable(getattr(x, "value", None)):
        x = x.value()
    if not isinstance(x, tf.Tensor):
        return None
    if not hasattr(x, "numpy"):
        raise _symbolic(x, "within tf.function, call the same function of fastreg.tensorflow")
    name = x.dtype.name
    if by_name(name) is None:
        raise DTypeError(
            message(f"elements of type {ACCEPTED}", name, elements(x, name, "tensorflow"))
        )
    return _from_ndarray(np.asarray(x))


def _densified(tf: Any, x: Any) -> Any:
    if x.dense_shape is not None:
        return tf.convert_to_tensor(x)
    indices, places = tf.unique(x.indices)
    return tf.math.unsorted_segment_sum(x.values, places, tf.size(indices))


def _symbolic(x: Any, action: str) -> DTypeError:
    kind = "traced" if framework(x) == "jax" else "symbolic"
    return DTypeError(
        message("an array with elements", f"a {kind} one ({type(x).__name__})", action)
    )


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
    x, torch = unwrap(x), loaded("torch")
    if framework(x) == "jax":
        x = _at_hand(loaded("jax"), x)
    elif is_variable(x):
        x = x.value()
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
            return narrow_array(x, narrow)
        if framework(x) == "torch" and (found := _host_of_tensor(x)) is not None:
            return found
        return host_array(x)
    except FastregError as e:
        raise type(e)(f"at {where}: {e}") from None


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
