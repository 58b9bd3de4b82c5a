# SPDX-License-Identifier: BSD-3-Clause
"""The arrays of a model: every container flattened into names, and memory when it is wanted.

A container is a list, tuple, mapping, a nested mix of them, an iterable of arrays or of
(name, array) pairs, a torch module, a Keras model or layer, a ``tf.Module``, or a pytree node
registered with JAX or optree. No framework is imported for it: an object brings its own along.
An object with a shape and an element type is a leaf: read, or refused by name, never iterated.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fastreg._core.arrays import HostArray, describe, host_of, is_array
from fastreg._core.dtypes import F16, F32, F64, Dtype, by_name, name_of, narrow_by_name
from fastreg._core.frameworks import (
    framework,
    is_model,
    is_torch_module,
    is_variable,
    loaded,
    untraced,
)
from fastreg._core.identity import are_distinct, identity
from fastreg._core.models import (
    Leaf,
    Modules,
    Path,
    mark_of,
    variable_name,
    variables_of,
    weights_of,
)
from fastreg._core.pytrees import flattened_once, is_box, is_registered, is_static
from fastreg._core.roles import bad_leaf, holds_references, is_group, is_reference, role_of
from fastreg._kernels import pins
from fastreg.errors import ArgumentError, LayoutError, message, printable

__all__ = [
    "Gathered",
    "Parameter",
    "gather",
    "items_of",
    "joined",
    "leaves",
    "place",
]

# Deeper than any model; a container that holds itself is found before.
_MAX_DEPTH = 100
# Native types of the commonest arrays, which need no further look.
_COMMON = {np.dtype("=f4"): F32, np.dtype("=f8"): F64, np.dtype("=f2"): F16}
# The name of an element type object, once it has been seen.
_names: dict[Any, str] = {}
_MOST_NAMES = 1024


class Parameter:
    """One array of a model.

    Attributes
    ----------
    name : str
        Where it was found: keys and positions joined by dots (``"encoder.0.weight"``), or the name
        that the model gives it. Names may repeat if the container's keys hold dots themselves.
    original : object
        What stood there: an ndarray, a tensor, a variable.
    path : tuple
        The keys and positions that lead to it.
    layer : object
        The layer, module or registered node that holds it; None where only containers do.
    dtype : Dtype or None
        Its element type, if kernels have it; ``dtype_name`` is the name of any.
    shape : tuple
        Extents; None for one that is not known yet.
    aliases : tuple of str
        Other names that the same memory was found under: tied weights, which count once.
    sources : tuple
        The tensors that a module computes it from; empty for what is stored.
    role : str
        Why it is no weight, by the class of what holds it; empty for what may be one.
    """

    __slots__ = (
        "_array",
        "_exempt",
        "_pins",
        "_plain",
        "_shared",
        "aliases",
        "dtype",
        "dtype_name",
        "layer",
        "name",
        "original",
        "path",
        "role",
        "shape",
        "sources",
    )

    def __init__(
        self,
        path: Path,
        original: Any,
        layer: Any = None,
        exempt: str = "",
        sources: tuple[Any, ...] = (),
        plain: str = "",
        role: str = "",
        shared: tuple[Any, ...] | None = None,
    ) -> None:
        self.path = path
        self.name = joined(path)
        self.original = original
        self.layer = layer
        self.aliases: tuple[str, ...] = ()
        self.sources = sources
        self._exempt = exempt
        self._plain = plain
        self._shared = shared
        self.role = role
        self._array: HostArray | None = None
        owns = isinstance(original, (np.ndarray, memoryview))
        self._pins = pins(original) if owns else None
        if type(original) is np.ndarray:
            self.shape: tuple[Any, ...] = original.shape
            found = _COMMON.get(original.dtype)
            if found is not None:
                self.dtype: Dtype | None = found
                self.dtype_name = found.name
                self._array = HostArray(original, found)
                return
        elif isinstance(original, HostArray) and original.dtype.code >= 0:
            self.shape, self.dtype, self._array = original.shape, original.dtype, original
            self.dtype_name = original.dtype.name
            return
        elif isinstance(original, (bool, int, float)):
            self.shape, self.dtype = (), None
            self.dtype_name = f"Python's {type(original).__name__}"
            return
        elif isinstance(original, np.ndarray):
            # A subclass may say what it likes of its shape and type.
            as_it_is = np.ndarray.view(original, np.ndarray)
            self.shape, self.dtype_name = as_it_is.shape, _type_name(as_it_is.dtype)
            self.dtype = by_name(self.dtype_name)
            return
        else:
            self.shape = _shape_of(original, path)
        self.dtype_name, self.dtype = _type_of(original, path)

    @property
    def size(self) -> int:
        """Number of elements; extents that are not known count as one."""
        return math.prod(1 if n is None else n for n in self.shape)

    @property
    def identity(self) -> Any:
        """What tells its memory from that of others, None if nothing around it does."""
        return None if self._shared is None else ("shared", id(self._shared[0]), self._shared[1:])

    @property
    def label(self) -> str:
        """The name as error messages show it."""
        return f"'{printable(self.name, 80)}'"

    @property
    def names(self) -> tuple[str, ...]:
        """All names that a rule may know it by; TensorFlow's users see ``"kernel:0"``."""
        names = (self.name, *self.aliases)
        if self._plain:
            names = (*names, self._plain)
        if framework(self.original) == "tensorflow":
            names = (*names, f"{self.name}:0")
        return names

    @property
    def array(self) -> HostArray:
        """Its memory, viewed when first asked for.

        Raises
        ------
        DTypeError, LayoutError
            Naming the place of what cannot be read.
        """
        if self._array is None:
            self._array = host_of(self.original, place(self.path))
        return self._array

    @property
    def elements(self) -> HostArray:
        """Its memory, floats of one byte included, which no kernel reads; errors as `array`."""
        narrow = narrow_by_name(self.dtype_name)
        return self.array if narrow is None else host_of(self.original, place(self.path), narrow)

    @property
    def frozen(self) -> bool:
        """Whether its framework says that it is not trained."""
        x = self.original
        if type(x) is np.ndarray:
            return False
        home = framework(x)
        if self.sources:
            return not any(source.requires_grad for source in self.sources)
        if home == "torch":
            return not x.requires_grad and isinstance(x, loaded("torch").nn.Parameter)
        if getattr(x, "trainable", None) is False:
            return True
        # tf_keras keeps the flag on the layer alone.
        return is_model(self.layer) and getattr(self.layer, "trainable", True) is False

    @property
    def exempt(self) -> str:
        """Why its author says that no weight decay is meant for it; empty if nothing is said."""
        x = self.original
        return self._exempt or (mark_of(x) if framework(x) == "torch" else "")

    def __repr__(self) -> str:
        return f"<Parameter {self.label} {self.shape} {self.dtype_name}>"


def _type_of(x: Any, path: Path) -> tuple[str, Dtype | None]:
    dtype = getattr(x, "dtype", None)
    if dtype is None:  # a buffer, or DLPack without more
        host = host_of(x, place(path))
        return host.dtype.name, host.dtype
    name = _type_name(dtype)
    return name, by_name(name)


@untraced
def _type_name(dtype: Any) -> str:
    try:
        name = _names.get(dtype)
    except TypeError:
        name = None
    if name is None:
        name = name_of(dtype)
        if len(_names) < _MOST_NAMES:
            _names[dtype] = name
    return name


def _shape_of(x: Any, path: Path) -> tuple[Any, ...]:
    if getattr(x, "is_nested", False):
        return (x.size(0), *(None,) * (x.dim() - 1))
    try:
        shape = getattr(x, "shape", None)
    except RuntimeError:
        raise LayoutError(
            message(
                f"a parameter with a shape at {place(path)}",
                "one of a lazy module",
                "call the module once on a batch, which shapes it",
            )
        ) from None
    if type(shape) is tuple:
        return shape
    if shape is None:
        return host_of(x, place(path)).shape
    try:
        return tuple(shape)
    except ValueError:  # TensorFlow knows not even the rank
        return (None, None)


class Gathered:
    """What was found in a container, and what to look at to see whether it changed.

    Attributes
    ----------
    parameters : list of Parameter
    named : bool
        Whether the container has names: a mapping, model, module, named tuple, registered class.
    single : bool
        Whether it is one array.
    holders : list of (list or dict, its items, its name)
        For a :class:`~fastreg._core.guard.Guard`.
    asked : list of (function, what it returned, name)
        The same for containers that have to be asked for their items.
    outline : list
        The container as nested lists of the paths of its leaves, None for an empty place.
    """

    __slots__ = ("asked", "holders", "named", "outline", "parameters", "single")

    def __init__(self) -> None:
        self.parameters: list[Parameter] = []
        self.holders: list[tuple[Any, list[Any], str]] = []
        self.outline: list[Any] = []
        self.asked: list[tuple[Callable[[], list[Any]], list[Any], str]] = []
        self.named = False
        self.single = False

    @property
    def notes(self) -> list[str]:
        """One sentence for each tied array."""
        return [
            f"{p.label} is also {', '.join(printable(a, 80) for a in p.aliases)}: counted once"
            for p in self.parameters
            if p.aliases
        ]


def gather(params: Any, *, values: bool = False, modules: str = "weights") -> Gathered:
    """Return the arrays of a model in order, each with its name; nothing is read or copied.

    Parameters
    ----------
    params : array or container of arrays
        As the module's text says. None is an empty place; an iterator is used up.
    values : bool, default False
        Whether an array that stands there twice is listed twice, as gradients are.
    modules : "weights", "parameters" or "state", default "weights"
        What torch modules stand for: the weights that they use, of which they may compute some
        (parametrizations); their parameters; or these and their buffers.

    Returns
    -------
    Gathered
        Without parameters for an empty container. Memory that can be written and is found twice is
        listed once, with its other names in ``aliases``; immutable arrays (JAX's, TensorFlow's
        tensors) have no identity.

    Raises
    ------
    DTypeError
        (a TypeError) Naming the place of a leaf that is no array.
    ArgumentError
        (a ValueError) If a container holds itself or is more than 100 deep, for a model that has
        not been built, and an iterator that yields nothing.
    """
    if params is None:
        raise bad_leaf(place(()), params, describe(params))
    out = Gathered()
    found = [Parameter(*leaf) for leaf in _flat(params, out, modules=modules)]
    out.parameters = found if values and not _is_tied(params) else _untied(found)
    return out


def _is_tied(params: Any) -> bool:
    """Whether a container's own parts are tied on purpose: those of models and modules."""
    return is_torch_module(params) or is_model(params) or holds_references(type(params))


def _untied(found: list[Parameter]) -> list[Parameter]:
    """Drop what repeats the memory of an earlier parameter, and note its name there."""
    if are_distinct([p.original for p in found]):
        return found  # one variable's arrays are one object
    kept: dict[Any, Parameter] = {}
    for k, p in enumerate(found):
        x = p.original.data if isinstance(p.original, HostArray) else p.original
        first = kept.setdefault(p.identity or identity(x, k), p)
        if first is not p:
            first.aliases = (*first.aliases, p.name)
    return list(kept.values()) if len(kept) < len(found) else found


# -- Leaves ----------------------------------------------------------------------------------------


def leaves(
    tree: Any,
    *,
    is_leaf: Callable[[Any], bool] | None = None,
    gathered: Gathered | None = None,
    keep_none: bool = False,
) -> list[tuple[Path, Any]]:
    """Return the leaves of a container with the keys that lead to them.

    Parameters
    ----------
    tree : object
        As in :func:`gather`; a leaf by itself has the path ``(0,)``.
    is_leaf : callable, optional
        Whether an object is a leaf; by default, whether it is an array.
    gathered : Gathered, optional
        Receives what is known of the container.
    keep_none : bool, default False
        Return None as a leaf instead of leaving it out.
    """
    found = _flat(tree, gathered or Gathered(), is_leaf, keep_none)
    return [(leaf.path, leaf.original) for leaf in found]


def items_of(params: Any) -> Any:
    """Return an iterator's items as a list, and any other container as it is.

    Raises
    ------
    ArgumentError
        For one that yields nothing: it was used up before, and a norm of 0 would hide that.
    """
    if not isinstance(params, Iterator):
        return params
    items = list(params)
    if not items:
        raise ArgumentError(
            message(
                "an iterator that still has arrays",
                "one that is used up, or empty",
                "make it anew, or pass a list",
            )
        )
    return items


def _flat(
    tree: Any,
    gathered: Gathered,
    is_leaf: Callable[[Any], bool] | None = None,
    keep_none: bool = False,
    modules: str = "weights",
) -> list[Leaf]:
    walk = _Walk(is_leaf or is_array, gathered, keep_none, modules)
    if walk.is_leaf(tree):
        gathered.single = True
        return [Leaf((0,), tree)]
    gathered.outline = walk.descend(tree, ())
    return walk.out


class _Walk:
    """One way through a container."""

    __slots__ = ("above", "gathered", "is_leaf", "keep_none", "modules", "out")

    def __init__(
        self, is_leaf: Callable[[Any], bool], gathered: Gathered, keep_none: bool, modules: str
    ) -> None:
        self.is_leaf = is_leaf
        self.gathered = gathered
        self.keep_none = keep_none
        self.modules = modules
        self.out: list[Leaf] = []
        self.above: set[int] = set()

    def descend(self, node: Any, path: Path, holder: Any = None) -> list[Any]:
        """List the leaves of a container, and return its outline."""
        if id(node) in self.above or len(path) > _MAX_DEPTH:
            raise ArgumentError(
                message(
                    f"containers at most {_MAX_DEPTH} deep, none inside itself",
                    f"one that goes on at {place(path[:3])}…",
                    "pass the arrays in a flat list or dict",
                )
            )
        self.above.add(id(node))
        outline: list[Any] = []
        first = len(self.out)
        ordinary = type(node) in (dict, list, tuple)  # told at a glance
        if not ordinary and is_torch_module(node):
            self.gathered.named = True
            self.module(node, path)
        elif not ordinary and is_model(node):
            self.gathered.named = True
            title = f"{getattr(node, 'name', '')}/"
            found = list(variables_of(node, place(path)))
            for name, variable, owner in found:
                bare = name.removeprefix(title)
                plain = joined((*path, bare)) if bare != name else ""
                self.out.append(Leaf((*path, name), variable, owner, plain=plain))
            held = [v for _, v, _ in found]
            self.gathered.asked.append((partial(weights_of, node), held, joined(path)))
        else:
            # In plain containers names decide.
            layer = None if ordinary or not is_registered(node) else node
            children = self.children(node, path)
            if layer is not None and path and is_box(children, self.is_leaf):
                self.out.append(Leaf(path, children[0][1], holder))
                children = []
            for key, child in children:
                if self.is_leaf(child):
                    self.out.append(Leaf((*path, key), child, layer))
                    outline.append((*path, key))
                elif layer is not None and is_static(child):
                    pass
                elif layer is not None and isinstance(child, (bool, int, float)):
                    self.out.append(Leaf((*path, key), child, layer))  # which may be trained
                elif child is not None:
                    outline.append(self.descend(child, (*path, key), layer))
                else:
                    outline.append(None)
                    if self.keep_none:
                        self.out.append(Leaf((*path, key), None, layer))
        self.above.discard(id(node))
        if not ordinary:
            self.judge(type(node), node, path, first)
        return outline or [leaf.path for leaf in self.out[first:]]

    def judge(self, kind: type, node: Any, path: Path, first: int) -> None:
        """Note what a node's class says of the leaves below it, from the first one on."""
        role, shared = role_of(kind), is_reference(kind)
        for k in range(first, len(self.out)) if role or shared else ():
            leaf = self.out[k]
            own = (node, *leaf.path[len(path) :]) if shared else leaf.shared
            self.out[k] = leaf._replace(role=leaf.role or role, shared=own)

    def module(self, module: Any, path: Path) -> None:
        """List what a torch module holds, tied tensors under each of their names."""
        way = Modules(self.modules, path)
        way.walk(module)
        self.gathered.holders += way.holders
        self.out += way.leaves

    def children(self, node: Any, path: Path) -> list[tuple[Any, Any]]:
        """Return a container's items with their keys, and note it if its items may be replaced."""
        gathered = self.gathered
        if node is None:
            return []
        if isinstance(node, Mapping):
            gathered.named = True
            if is_group(node):
                raise bad_leaf(place(path), node, describe(node))
            items = list(node.items())
            values = [x for _, x in items]
            if not all(type(key) is str for key, _ in items):  # torch's optimizers have tensors
                items = [(k if is_array(key) else key, x) for k, (key, x) in enumerate(items)]
            if isinstance(node, dict):
                gathered.holders.append((node, values, joined(path)))
            else:
                gathered.asked.append((partial(_values, node), values, joined(path)))
            return items
        if isinstance(node, (list, tuple, deque)):  # optree knows deques, but names nothing in them
            if isinstance(node, list):
                gathered.holders.append((node, list(node), joined(path)))
            elif isinstance(node, deque):
                gathered.asked.append((partial(_items, node), list(node), joined(path)))
            return self.items(node)
        if isinstance(node, (str, bytes)):
            raise bad_leaf(place(path), node, describe(node))
        registered = flattened_once(node)
        if registered is not None:
            gathered.named = True
            children = [x for _, x in registered]
            gathered.asked.append((partial(_children, node), children, joined(path)))
            return registered
        if isinstance(node, Iterable) and not isinstance(node, type):
            children = list(items_of(node))
            if not any(isinstance(i, str) for i in children):  # names, whatever they are for
                if not isinstance(node, Iterator):  # which is used up: nobody can see it change
                    gathered.asked.append((partial(_items, node), children, joined(path)))
                return self.items(children)
        raise bad_leaf(place(path), node, describe(node))

    def items(self, items: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Key a sequence: by its fields, by the names it brings, or by position."""
        fields = getattr(items, "_fields", None)
        if fields is not None:
            self.gathered.named = True
            return list(zip(fields, items, strict=True))
        if not items or type(items[0]) is np.ndarray:
            return list(enumerate(items))
        if all(type(i) is tuple and len(i) == 2 and type(i[0]) is str for i in items):
            self.gathered.named = True
            return [(name, item) for name, item in items]
        if all(map(is_variable, items)):
            names = list(map(variable_name, items))
            if len(set(names)) == len(names):  # TensorFlow calls all that have no name "Variable"
                return list(zip(names, items, strict=True))
        return list(enumerate(items))


def _items(node: Any) -> list[Any]:
    return list(items_of(node))


def _values(node: Mapping[Any, Any]) -> list[Any]:
    return list(node.values())


def _children(node: Any) -> list[Any]:
    return [x for _, x in flattened_once(node) or ()]


def joined(path: Path) -> str:
    """Return the name of a path."""
    return path[0] if len(path) == 1 and type(path[0]) is str else ".".join(map(str, path))


def place(path: Path) -> str:
    """Return a path as error messages show it."""
    return f"'{printable(joined(path), 80)}'" if path else "the top"
