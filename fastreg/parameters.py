# SPDX-License-Identifier: BSD-3-Clause
"""The arrays of a model: every kind of container flattened into names and host memory.

A container is a list, tuple, dict or any mapping, a nested mix of them, an iterable of arrays or of
(name, array) pairs, a torch module, a Keras model or layer, or a pytree node registered with JAX or
optree. No framework is imported for it: an object of one brings its framework along.
"""

from __future__ import annotations

import math
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np

from fastreg._kernels import are_the_items
from fastreg.arrays import HostArray, describe, host_array
from fastreg.checkpoints import printable
from fastreg.errors import (
    ArgumentError,
    DTypeError,
    FastregError,
    LayoutError,
    StaleError,
    message,
)

__all__ = [
    "FLOATS",
    "Gathered",
    "Guard",
    "Outline",
    "Parameter",
    "check_mutable",
    "collect",
    "dense_tensors",
    "gather",
    "leaves",
    "named",
    "outlined",
    "tensors_of",
    "viewed",
    "written",
]

FLOATS = ("f16", "bf16", "f32", "f64")
"""Element types that have a gradient and can be written in place."""

# Deeper than any model; a container that holds itself is found before.
_MAX_DEPTH = 100
# Frameworks whose arrays are values: nothing may change their memory.
_IMMUTABLE = {"jax": "JAX", "jaxlib": "JAX", "tensorflow": "TensorFlow"}
# Native types of the commonest arrays, which need no further look.
_COMMON = {np.dtype("=f4"): "f32", np.dtype("=f8"): "f64", np.dtype("=f2"): "f16"}

_packages: dict[type, str] = {np.ndarray: ""}


_SHORT_NAMES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be told of an array without its memory: on another device, or in a traced program.

    Attributes
    ----------
    dtype : str
        Short name of a float type, or the framework's own name of another.
    shape : tuple
        Extents; None for one that is not known yet.
    """

    dtype: str
    shape: tuple[Any, ...]

    @property
    def size(self) -> int:
        """Number of elements; extents that are not known count as one."""
        return math.prod(1 if n is None else n for n in self.shape)


@dataclass(slots=True)
class Parameter:
    """One array of a model.

    Attributes
    ----------
    name : str
        Where it was found: keys and positions joined by dots (``"encoder.0.weight"``), or the name
        that the model gives it. Names may repeat if the container's keys hold dots themselves.
    original : object
        What stood there: an ndarray, a tensor, a variable.
    array : HostArray
        Its memory; only an Outline of it from :func:`outlined`.
    path : tuple
        The keys and positions that lead to it.
    aliases : tuple of str
        Other names that the same memory was found under: tied weights, which count once.
    """

    name: str
    original: Any
    array: HostArray
    path: tuple[Any, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name as error messages show it."""
        return f"'{printable(self.name, 80)}'"


@dataclass(slots=True)
class Gathered:
    """What was found in a container, and what to look at to see whether it changed."""

    parameters: list[Parameter] = field(default_factory=list)
    holders: list[tuple[Any, list[Any], str]] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """One sentence for each tied array."""
        return [
            f"{p.label} is also {', '.join(printable(a, 80) for a in p.aliases)}: counted once"
            for p in self.parameters
            if p.aliases
        ]


def collect(params: Any) -> list[Parameter]:
    """Return the arrays of a model in order, each with its name; nothing is copied.

    Parameters
    ----------
    params : array or container of arrays
        A list, tuple, mapping, nested mix, iterable of arrays or of (name, array) pairs
        (``model.named_parameters()``), a torch module, a Keras model, layer or list of variables, a
        pytree of nodes registered with JAX or optree (if the program imported it). Leaves are
        arrays of any shape, layout and element type that :func:`fastreg.value` takes, of any mix
        of frameworks, in host memory. None is an empty place. An iterator is used up.

    Returns
    -------
    list of Parameter
        Empty for an empty container. Memory found twice is listed once, with its other names in
        ``aliases``; the order of axes does not make memory another.

    Raises
    ------
    DTypeError
        (a TypeError) Naming the place of a leaf that is not such an array.
    ArgumentError
        (a ValueError) If a container holds itself, or is more than 100 deep.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((2, 3))
    >>> [(p.name, p.aliases) for p in collect({"a": [x, np.zeros(4)], "b": x.T})]
    [('a.0', ('b',)), ('a.1', ())]
    """
    return gather(params).parameters


def gather(params: Any) -> Gathered:
    """Do what :func:`collect` does, and remember the containers for a :class:`Guard`."""
    out = Gathered()
    if _package(params) == "keras" and getattr(params, "built", True) is False:
        raise ArgumentError(
            message("a Keras model or layer with weights", "one that is not built",
                    "build it first, or give it an Input")
        )
    found = [
        viewed(path, leaf) for path, leaf in leaves(params, holders=out.holders)
    ]
    out.parameters = _untied(found)
    return out


def outlined(params: Any) -> list[Parameter]:
    """Do what :func:`collect` does without reading memory: on any device, and in traced programs.

    An object found twice is listed once; two objects that share memory are two. Leaves are all
    objects with a shape and a dtype; the ``array`` of each is an :class:`Outline`.
    """
    kept: dict[int, Parameter] = {}
    for path, leaf in leaves(params, is_leaf=_has_outline):
        p = kept.get(id(leaf))
        if p is not None:
            p.aliases = (*p.aliases, _join(path))
            continue
        name = getattr(leaf.dtype, "name", None) or str(leaf.dtype).removeprefix("torch.")
        if not _READABLE.fullmatch(name):
            raise DTypeError(
                f"at {_place(path)}: "
                + message("elements of a float, integer or boolean type", name,
                          "convert the array first, or leave it out of params")
            )
        try:
            shape = tuple(leaf.shape)
        except ValueError:  # TensorFlow knows not even the rank
            shape = (None, None)
        except RuntimeError:
            raise _shapeless(path) from None
        outline: Any = Outline(_SHORT_NAMES.get(name, name), shape)
        kept[id(leaf)] = Parameter(_join(path), leaf, outline, path)
    return list(kept.values())


# Names of element types that kernels read; JAX's float0 stands for no gradient.
_READABLE = re.compile(r"float(0|16|32|64)|bfloat16|bool|u?int(2|4|8|16|32|64)|half|double")


def _has_outline(x: Any) -> bool:
    if isinstance(x, (Mapping, list, tuple)):
        return False
    return hasattr(type(x), "shape") and hasattr(x, "dtype")


def _shapeless(path: tuple[Any, ...]) -> LayoutError:
    return LayoutError(
        message(f"a parameter with a shape at {_place(path)}", "one of a lazy module",
                "call the module once on a batch, which shapes it")
    )


def viewed(path: tuple[Any, ...], leaf: Any) -> Parameter:
    """Return one leaf as a Parameter."""
    return Parameter(_join(path), leaf, _host(path, leaf), path)


def _untied(found: list[Parameter]) -> list[Parameter]:
    """Drop what repeats the memory of an earlier parameter, and note its name there."""
    if all(type(p.original) is np.ndarray and p.original.base is None for p in found):
        # Arrays that own their memory share it only by being the same object.
        keys: Iterable[Any] = (id(p.original) for p in found)
    else:
        keys = map(_memory_of, found)
    kept: dict[Any, Parameter] = {}
    for k, (key, p) in enumerate(zip(keys, found, strict=True)):
        first = kept.setdefault(key if p.array.size else ("empty", k), p)
        if first is not p:
            first.aliases = (*first.aliases, p.name)
    return list(kept.values()) if len(kept) < len(found) else found


def _memory_of(p: Parameter) -> Any:
    """Return the addresses of the elements, whatever the order of axes, and how they are read."""
    x = p.array.data
    steps = sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1)
    return _lowest(x), p.array.dtype, tuple(steps)


def _lowest(x: np.ndarray[Any, Any]) -> int:
    """Return the lowest address of an array's elements."""
    low = _address(x)
    for stride, n in zip(x.strides, x.shape, strict=True):
        low += min(stride, 0) * (n - 1)
    return low


# -- Leaves ----------------------------------------------------------------------------------------


def leaves(
    tree: Any,
    *,
    is_leaf: Callable[[Any], bool] | None = None,
    holders: list[tuple[Any, list[Any], str]] | None = None,
    keep_none: bool = False,
) -> list[tuple[tuple[Any, ...], Any]]:
    """Return the leaves of a container with the keys that lead to them.

    Parameters
    ----------
    tree : object
        As in :func:`collect`; a leaf by itself has the path ``(0,)``.
    is_leaf : callable, optional
        Whether an object is a leaf; by default, whether it looks like an array.
    holders : list, optional
        Receives (container, its items, its name) for each list, dict and torch module found.
    keep_none : bool, default False
        Return None as a leaf instead of leaving it out.
    """
    out: list[tuple[tuple[Any, ...], Any]] = []
    is_leaf = is_leaf or _is_array
    if is_leaf(tree):
        return [((0,), tree)]
    _descend(tree, (), is_leaf, [] if holders is None else holders, keep_none, out, set())
    return out


def _descend(
    node: Any,
    path: tuple[Any, ...],
    is_leaf: Callable[[Any], bool],
    holders: list[tuple[Any, list[Any], str]],
    keep_none: bool,
    out: list[tuple[tuple[Any, ...], Any]],
    above: set[int],
) -> None:
    children = _children(node, path, holders)
    if id(node) in above or len(path) > _MAX_DEPTH:
        raise ArgumentError(
            message(
                f"containers at most {_MAX_DEPTH} deep, none inside itself",
                f"one that goes on at {_place(path[:3])}…",
                "pass the arrays in a flat list or dict",
            )
        )
    above.add(id(node))
    for key, child in children:
        if is_leaf(child):
            out.append(((*path, key), child))
        elif child is None:
            if keep_none:
                out.append(((*path, key), None))
        else:
            _descend(child, (*path, key), is_leaf, holders, keep_none, out, above)
    above.discard(id(node))


def _is_array(x: Any) -> bool:
    if type(x) is np.ndarray:
        return True
    if _package(x) == "torch" and hasattr(x, "data_ptr"):
        return True
    if isinstance(x, (dict, list, tuple, str, bytes)) or x is None:
        return False
    return (
        isinstance(x, (HostArray, np.ndarray, np.generic, memoryview, bytearray))
        or hasattr(x, "__dlpack__")
        or hasattr(x, "__array_interface__")
        or type(x).__module__ == "array"
        or (_package(x) in ("keras", "tensorflow") and hasattr(x, "shape") and hasattr(x, "dtype"))
    )


def _children(
    node: Any, path: tuple[Any, ...], holders: list[tuple[Any, list[Any], str]]
) -> list[tuple[Any, Any]]:
    """Return a container's items with their keys, and note it if its items may be replaced."""
    if node is None:
        return []
    if isinstance(node, Mapping):
        if isinstance(node, dict):
            holders.append((node, list(node.values()), _join(path)))
        return list(node.items())
    if isinstance(node, (list, tuple)):
        if isinstance(node, list):
            holders.append((node, list(node), _join(path)))
        return _items(node)
    if isinstance(node, (str, bytes)):
        raise _bad_leaf(path, node)
    if _package(node) in ("keras", "tensorflow") and hasattr(node, "trainable_variables"):
        variables = getattr(node, "weights", None)
        variables = node.trainable_variables if variables is None else variables
        return [(str(getattr(v, "path", v.name)), v) for v in variables]
    if callable(getattr(node, "named_parameters", None)) and not isinstance(node, type):
        return _module(node, path, holders)
    registered = _registered(node)
    if registered is not None:
        return registered
    if isinstance(node, Iterable) and not isinstance(node, type):
        return _items(list(node))
    raise _bad_leaf(path, node)


def _items(items: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Key a sequence: by its fields, by the names it brings, or by position."""
    fields = getattr(items, "_fields", None)
    if fields is not None:
        return list(zip(fields, items, strict=True))
    if not items or type(items[0]) is np.ndarray:
        return list(enumerate(items))
    if all(type(i) is tuple and len(i) == 2 and type(i[0]) is str for i in items):
        return [(name, item) for name, item in items]
    if all(_is_variable(i) for i in items):
        return [(str(getattr(i, "path", i.name)), i) for i in items]
    return list(enumerate(items))


def _is_variable(x: Any) -> bool:
    """Whether an object is a Keras or TensorFlow variable, which knows its name."""
    return _package(x) in ("keras", "tensorflow") and hasattr(x, "name") and hasattr(x, "value")


def _module(
    module: Any, path: tuple[Any, ...], holders: list[tuple[Any, list[Any], str]]
) -> list[tuple[Any, Any]]:
    """List the parameters of a torch module, tied ones under each of their names."""
    try:
        named = list(module.named_parameters(remove_duplicate=False))
    except TypeError:
        return list(module.named_parameters())
    for name, part in module.named_modules():
        for own in (getattr(part, "_parameters", None), getattr(part, "_modules", None)):
            if isinstance(own, dict):
                holders.append((own, list(own.values()), _join((*path, name) if name else path)))
    return named


def _registered(node: Any) -> list[tuple[Any, Any]] | None:
    """Flatten one level of a pytree node that JAX or optree knows; None if neither does."""
    tree_util = sys.modules.get("jax.tree_util")
    # JAX warns of iterables that it takes for leaves; asking first avoids that.
    if tree_util is not None and not tree_util.all_leaves([node]):
        flat = tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
        if not (len(flat) == 1 and flat[0][1] is node):
            return [(_jax_key(entries[0]) if entries else 0, child) for entries, child in flat]
    optree = sys.modules.get("optree")
    if optree is not None:
        paths, children, _ = optree.tree_flatten_with_path(
            node, is_leaf=lambda x: x is not node, none_is_leaf=True
        )
        if not (len(children) == 1 and children[0] is node):
            return [(p[0] if p else 0, c) for p, c in zip(paths, children, strict=True)]
    return None


def _jax_key(entry: Any) -> Any:
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return str(entry)


def _package(x: Any) -> str:
    """Return "keras", "tensorflow", "torch", "jax" or "jaxlib" for an object of theirs, else ""."""
    kind = type(x)
    package = _packages.get(kind)
    if package is None:
        package = ""
        for base in kind.__mro__:
            top = base.__module__.partition(".")[0]
            if top in ("keras", "tf_keras", "tensorflow", "torch", "jax", "jaxlib"):
                package = top.removeprefix("tf_")
                break
        if len(_packages) < 1024:  # classes made in a loop must not pile up here
            _packages[kind] = package
    return package


def _join(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _place(path: tuple[Any, ...]) -> str:
    return f"'{printable(_join(path), 80)}'" if path else "the top"


def _bad_leaf(path: tuple[Any, ...], x: Any) -> DTypeError:
    return DTypeError(
        message(
            f"an array or a container of arrays at {_place(path)}",
            describe(x),
            "leave it out of params, or convert it, for example with numpy.asarray",
        )
    )


def _host(path: tuple[Any, ...], x: Any) -> HostArray:
    """View a leaf's memory; an error names its place."""
    if type(x) is np.ndarray:
        name = _COMMON.get(x.dtype)
        if name is not None:
            return HostArray(x, name)
    elif _package(x) == "torch" and type(x).__name__.startswith("Uninitialized"):
        raise _shapeless(path)
    elif _package(x) == "torch" and (found := _host_of_tensor(x)) is not None:
        return found
    try:
        return host_array(_unwrapped(x))
    except FastregError as e:
        raise type(e)(f"at {_place(path)}: {e}") from None
    except (RuntimeError, BufferError) as e:  # a deleted JAX array
        raise DTypeError(
            f"at {_place(path)}: "
            + message("an array that can be read", f"{describe(x)} ({e})", "pass it anew")
        ) from None


def _host_of_tensor(x: Any) -> HostArray | None:
    """View the commonest tensors without a detour through DLPack; None for the others."""
    torch = sys.modules["torch"]
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or not x.is_cpu:
        return None
    dtype = x.dtype
    if (dtype is not torch.float32 and dtype is not torch.float64) or (
        x.layout is not torch.strided or x.is_nested or x.is_neg()
    ):
        return None
    return HostArray(x.detach().numpy(), "f32" if dtype is torch.float32 else "f64")


def _unwrapped(x: Any) -> Any:
    """Return what holds a variable's memory: the backend's tensor, for TensorFlow its bytes."""
    if _package(x) == "keras":
        x = getattr(x, "value", x)
        x = x() if callable(x) else x
    if _package(x) == "tensorflow":
        x = x.value() if callable(getattr(x, "value", None)) else x
        return np.asarray(x)
    return x


def dense_tensors(xs: Sequence[Any]) -> tuple[list[int], list[int], list[str]] | None:
    """Describe ordinary torch tensors by address, which takes a tenth of making them ndarrays.

    Returns
    -------
    addresses, lengths, short names of types : lists
        For the kernels' ``dense_`` functions; None unless all are plain, dense, contiguous float
        tensors or parameters in host memory. What they describe lives as long as the tensors.
    """
    torch = sys.modules.get("torch")
    if torch is None or not xs:
        return None
    kind = torch.Tensor
    names = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16",
             torch.float64: "f64"}  # fmt: skip
    dtypes = list(map(_dtype_of, xs)) if set(map(type, xs)) <= {kind, torch.nn.Parameter} else []
    if (
        not dtypes
        or not set(dtypes) <= names.keys()
        or torch._C._len_torch_dispatch_stack()
        or set(map(_placement_of, xs)) != {(True, torch.strided, False)}
        or not all(map(kind.is_contiguous, xs))
        or any(map(kind.is_neg, xs))
    ):
        return None
    return list(map(kind.data_ptr, xs)), list(map(kind.numel, xs)), [names[d] for d in dtypes]


_dtype_of = attrgetter("dtype")
_requires_grad = attrgetter("requires_grad")
_placement_of = attrgetter("is_cpu", "layout", "is_nested")


# -- Writing ---------------------------------------------------------------------------------------


def check_mutable(parameters: Sequence[Parameter]) -> None:
    """Refuse to write memory that belongs to values: of JAX, TensorFlow and NumPy's scalars.

    What can be told from the memory alone (read-only, overlapping, integers) the kernels check.

    Raises
    ------
    DTypeError
        Naming the place.
    """
    for p in parameters:
        if type(p.original) is np.ndarray:
            continue
        x = _value_of(p.original)
        owner = _IMMUTABLE.get(_package(x))
        if isinstance(x, np.generic):
            owner = "NumPy's scalars"
        address = getattr(x, "data_ptr", None)
        if callable(address) and p.array.size and address() != _address(p.array.data):
            owner = "a lazy view"
        if owner is not None:
            raise DTypeError(
                message(
                    f"an array whose memory may change at {p.label}",
                    f"one of {owner}, which is immutable",
                    "work on a NumPy copy and put the result back",
                )
            )


def tensors_of(parameters: Sequence[Parameter]) -> list[Any]:
    """Return torch's tensors among arrays, for :func:`written`."""
    if "torch" not in sys.modules:
        return []
    tensors = [x for x in (_value_of(p.original) for p in parameters) if _package(x) == "torch"]
    return [x for x in tensors if not x.is_inference()]


def written(tensors: list[Any]) -> None:
    """Tell torch that tensors changed, so that a backward pass needing the old ones says so."""
    if tensors:
        sys.modules["torch"].autograd.graph.increment_version(tensors)


def named(error: FastregError, parameters: Sequence[Parameter]) -> FastregError:
    """Return a kernel's error with the positions in its message replaced by names."""
    text = re.sub(
        r"positions? (\d+)(?: and (\d+))?",
        lambda m: " and ".join(parameters[int(k)].label for k in m.groups() if k is not None),
        str(error),
    )
    return type(error)(text)


def _value_of(x: Any) -> Any:
    """Return the tensor that a Keras variable holds, and any other object as it is."""
    if _package(x) == "keras":
        value = getattr(x, "value", x)
        return x if callable(value) else value
    return x


def _address(x: np.ndarray[Any, Any]) -> int:
    address: int = x.__array_interface__["data"][0]
    return address


# -- Watching --------------------------------------------------------------------------------------


class Guard:
    """Notice that the items of a container, or the memory of its arrays, are not what they were.

    It holds references, so nothing that it watches is freed. Lists, dicts and torch modules are
    compared item by item, by identity; torch tensors by address and number of elements, which a new
    ``.data`` changes; Keras variables by the tensor they hold. A NumPy array that is watched cannot
    be resized: NumPy refuses that for an array with a weak reference, even with
    ``refcheck=False``.

    Parameters
    ----------
    gathered : Gathered
        What :func:`gather` found.
    what : str
        What the user calls it, for the message.
    """

    __slots__ = (
        "_deletable",
        "_holders",
        "_places",
        "_references",
        "_tensors",
        "_trained",
        "_values",
        "_variables",
        "_what",
    )

    def __init__(self, gathered: Gathered, what: str = "params") -> None:
        originals = [p.original for p in gathered.parameters]
        self._what = what
        self._holders = gathered.holders
        self._references = [weakref.ref(x) for x in originals if isinstance(x, np.ndarray)]
        self._values = [(p, _value_of(p.original)) for p in gathered.parameters
                        if _package(p.original) == "keras"]
        tensors = [(p, _value_of(p.original)) for p in gathered.parameters]
        tensors = [(p, x) for p, x in tensors if _package(x) == "torch"]
        self._places = [p for p, _ in tensors]
        self._trained: list[bool] = []
        self._tensors: tuple[Any, Any, list[Any], list[int], list[int]] | None = None
        if tensors:
            kind = sys.modules["torch"].Tensor
            xs = [x for _, x in tensors]
            self._trained = list(map(_requires_grad, xs))
            self._tensors = (
                kind.data_ptr,
                kind.numel,
                xs,
                list(map(kind.data_ptr, xs)),
                list(map(kind.numel, xs)),
            )
        # TensorFlow gives a variable new memory when it is assigned to.
        self._variables = [
            (p, _address(p.array.data))
            for p in gathered.parameters
            if _package(x := _value_of(p.original)) == "tensorflow" and hasattr(x, "assign")
        ]
        self._deletable = [
            p for p in gathered.parameters if callable(getattr(p.original, "is_deleted", None))
        ]

    def check(self) -> None:
        """Raise StaleError, naming the place, if something changed."""
        for holder, items, name in self._holders:
            if not are_the_items(holder, items):
                now = holder.values() if isinstance(holder, dict) else holder
                raise self._stale_item(now, items, name)
        if self._tensors is not None:
            data_ptr, numel, xs, addresses, sizes = self._tensors
            if list(map(data_ptr, xs)) != addresses or list(map(numel, xs)) != sizes:
                changed = zip(map(data_ptr, xs), map(numel, xs), addresses, sizes, strict=True)
                k = next(k for k, (a, n, b, m) in enumerate(changed) if (a, n) != (b, m))
                raise self._stale(self._places[k].label, "a tensor with other memory (.data, set_)")
            if list(map(_requires_grad, xs)) != self._trained:
                k = next(k for k, x in enumerate(xs) if x.requires_grad != self._trained[k])
                raise self._stale(self._places[k].label, "another requires_grad")
        for p, value in self._values:
            if _value_of(p.original) is not value:
                raise self._stale(p.label, "a variable that holds another tensor")
        for p, address in self._variables:
            if _address(_unwrapped(p.original)) != address:
                raise self._stale(p.label, "a variable with other memory (assign)")
        for p in self._deletable:
            if p.original.is_deleted():
                raise self._stale(p.label, "a deleted array")

    def _stale_item(self, now: Iterable[Any], items: list[Any], name: str) -> StaleError:
        now = list(now)
        k = next((k for k, (a, b) in enumerate(zip(now, items)) if a is not b), None)  # noqa: B905
        where = f"'{printable(name, 80)}'" if name else "the top"
        if k is None or len(now) != len(items):
            return self._stale(where, f"{len(now)} items, where there were {len(items)}")
        return self._stale(where, f"another object as item {k}")

    def _stale(self, where: str, received: str) -> StaleError:
        return StaleError(
            message(
                f"the {self._what} that were planned",
                f"at {where} {received}",
                "make the plan anew",
            )
        )
