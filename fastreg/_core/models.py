# SPDX-License-Identifier: BSD-3-Clause
"""What models hold: variables of Keras and TensorFlow; parameters, buffers, weights of torch.

No framework is imported here: a model brings its own along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from fastreg._core.frameworks import comes_from, is_variable
from fastreg.errors import ArgumentError, message, printable

__all__ = ["Leaf", "Modules", "Path", "mark_of", "variable_name", "variables_of", "weights_of"]

_KERAS = ("keras", "tf_keras", "tensorflow")
# Deeper than any model; a module that holds itself is found before.
_MAX_DEPTH = 100
# What wrappers call what they wrap: of torch.compile, checkpointing, FSDP; and of replicas.
_WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_REPLICAS = ("DataParallel", "DistributedDataParallel", "AveragedModel")


Path = tuple[Any, ...]


class Leaf(NamedTuple):
    """What stands at a place of a container, as :class:`fastreg._core.containers.Parameter` has it.

    Attributes
    ----------
    path : tuple
        The keys that lead to it.
    original : object
        The array, tensor or variable.
    layer : object
        The layer, module or registered node that holds it; None where only containers do.
    exempt : str
        Why the module's author wants no weight decay for it; empty if nothing is said.
    sources : tuple of tensors
        What a module computes it from; empty for what is stored.
    plain : str
        Its name without what wrappers put between, such as those of compilers and replicas, and
        without what a model of Keras puts before all, its own name, if that is another one.
    role : str
        Why it is no weight, by the class of what holds it.
    shared : tuple, optional
        What tells its memory where it stands in a variable that models may share.
    """

    path: Path
    original: Any
    layer: Any = None
    exempt: str = ""
    sources: tuple[Any, ...] = ()
    plain: str = ""
    role: str = ""
    shared: tuple[Any, ...] | None = None


# -- Keras and TensorFlow --------------------------------------------------------------------------


def variable_name(v: Any) -> str:
    """Return the path of a variable of Keras or TensorFlow, without the number of its output."""
    return str(getattr(v, "path", v.name)).removesuffix(":0")


def variables_of(model: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, variable, the layer that owns it) of a model or layer."""
    is_layer = _is_layer(type(model))
    if is_layer and getattr(model, "built", True) is False:
        raise ArgumentError(
            message(
                f"a model or layer with weights at {where}",
                "one that is not built",
                "call it once on a batch, or give it an Input",
            )
        )
    owners = {id(v): part for part, v in (_owned_by_layers if is_layer else _owned)(model)}
    for v in weights_of(model):
        yield variable_name(v), v, owners.get(id(v), model)


def weights_of(model: Any) -> list[Any]:
    """Return the variables of a model or layer."""
    return list(_property(model, "weights" if _is_layer(type(model)) else "variables"))


def _is_layer(kind: type) -> bool:
    return comes_from(kind, "keras", "Layer") or comes_from(kind, "tf_keras", "Layer")


def _owned_by_layers(model: Any) -> Iterator[tuple[Any, Any]]:
    flatten = getattr(model, "_flatten_layers", None)
    for layer in flatten() if flatten else ():  # a layer comes before those that it holds
        for name in (
            "_trainable_variables",
            "_non_trainable_variables",
            "_trainable_weights",
            "_non_trainable_weights",
        ):  # Keras 3, tf_keras
            for v in getattr(layer, name, ()):
                yield layer, v


def _owned(module: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each ``tf.Module`` within one with the variables that are its own attributes."""
    for part in (module, *_property(module, "submodules")):
        for v in part._flatten(recursive=False, predicate=is_variable):
            yield part, v


def _property(x: Any, name: str) -> Any:
    """Return a property as a framework's class has it, whatever a user's class calls its own."""
    for base in type(x).__mro__:
        found = vars(base).get(name)
        if isinstance(found, property) and base.__module__.partition(".")[0] in _KERAS:
            return found.__get__(x)
    return getattr(x, name)


# -- Torch -----------------------------------------------------------------------------------------


class Modules:
    """One way through a module and what it is made of.

    Parameters
    ----------
    kind : "weights", "parameters" or "state"
        What modules stand for, as :func:`fastreg._core.containers.gather` says.
    path : tuple
        The keys that lead to the module.

    Attributes
    ----------
    leaves : list of Leaf
        Tensors by their names in a ``state_dict()``, tied ones under each; computed weights by the
        name that they are used by.
    holders : list of (dict, its items, name)
        Where modules keep them.
    """

    __slots__ = ("_above", "_exempting", "_kind", "_known", "_path", "_title", "holders", "leaves")

    def __init__(self, kind: str, path: Path) -> None:
        self.leaves: list[Leaf] = []
        self.holders: list[tuple[dict[str, Any], list[Any], str]] = []
        self._kind = kind
        self._path = path
        self._title = "".join(f"{key}." for key in path)
        self._above: set[int] = set()
        self._known: dict[tuple[int, str], Any] = {}
        self._exempting: list[tuple[int, Callable[[str], str]]] = []

    def walk(self, module: Any, prefix: str = "", plain: str = "") -> None:
        """List what a module holds, its parts too; `plain` is the prefix without wrappers."""
        if id(module) in self._above or prefix.count(".") > _MAX_DEPTH:
            raise ArgumentError(
                message(
                    "a module that is not inside itself",
                    f"one at '{printable(self._title + prefix[:-1], 80)}'",
                    "pass its parameters in a list",
                )
            )
        self._above.add(id(module))
        exempting = _exemption(module)
        if exempting is not None:
            self._exempting.append((len(plain), exempting))
        own, parts = module._parameters, module._modules
        buffers = module._buffers if self._kind == "state" else {}
        for kept in (own, parts, buffers):
            if isinstance(kept, dict):
                name = (self._title + prefix).removesuffix(".")
                self.holders.append((kept, list(kept.values()), name))
        computed: list[_Computed] = []
        if self._kind == "weights" and (module._forward_pre_hooks or "parametrizations" in parts):
            computed = list(_computed(module))
        sources = {name for weight in computed for name in weight.names}
        for name, x in own.items():
            if x is not None and name not in sources:
                self._add(prefix, plain, name, x, module)
        for weight in computed:
            key = (id(module), weight.name)  # a module met twice has one weight
            if key not in self._known:
                self._known[key] = weight.compute()
            self._add(prefix, plain, weight.name, self._known[key], module, weight.sources)
        for name, x in buffers.items():
            if x is not None:
                self._add(prefix, plain, name, x, module)
        if _is_packed(module):
            self._add(prefix, plain, "weight", module.weight(), module)
        for name, part in parts.items():
            if part is not None and name not in sources:
                through = name in _WRAPPED or (name == "module" and _is_replica(type(module)))
                self.walk(part, f"{prefix}{name}.", plain if through else f"{plain}{name}.")
        if exempting is not None:
            self._exempting.pop()
        self._above.discard(id(module))

    def _add(
        self,
        prefix: str,
        plain: str,
        name: str,
        x: Any,
        module: Any,
        sources: tuple[Any, ...] = (),
    ) -> None:
        exempt = ""
        for start, why in self._exempting:
            exempt = exempt or why((plain + name)[start:])
        bare = self._title + plain + name if plain != prefix else ""
        self.leaves.append(Leaf((*self._path, prefix + name), x, module, exempt, sources, bare))


def _is_replica(kind: type) -> bool:
    """Whether a class runs the module that it calls ``module``."""
    return any(comes_from(kind, "torch", name) for name in _REPLICAS)


# -- Marks -----------------------------------------------------------------------------------------


def mark_of(x: Any) -> str:
    """Return why a tensor itself says that no weight decay is meant for it, or nothing."""
    if getattr(x, "_no_weight_decay", False) is True:
        return "exempt, by its mark _no_weight_decay"
    options = getattr(x, "_optim", None)  # of state-space models
    if isinstance(options, dict) and options.get("weight_decay") == 0.0:
        return "exempt, by its mark _optim"
    return ""


def _exemption(module: Any) -> Callable[[str], str] | None:
    """Return what tells why a module's author exempts one of its names; None if none is."""
    kind = type(module)
    names: Any = getattr(kind, "no_weight_decay", None)
    keywords: Any = getattr(kind, "no_weight_decay_keywords", None)
    if not callable(names) and not callable(keywords):
        return None
    exact = set(names(module) or ()) if callable(names) else set()
    parts = set(keywords(module) or ()) if callable(keywords) else set()
    who = printable(kind.__name__, 40)

    def exempt(name: str) -> str:
        if name in exact:
            return f"exempt, by no_weight_decay() of {who}"
        if any(part in name for part in parts):
            return f"exempt, by no_weight_decay_keywords() of {who}"
        return ""

    return exempt


# -- Weights that are computed ---------------------------------------------------------------------


class _Computed(NamedTuple):
    """A weight that is computed for each use: its name, how, and the module's items it is from."""

    name: str
    compute: Callable[[], Any]
    names: Sequence[str]
    sources: tuple[Any, ...]


def _computed(module: Any) -> Iterator[_Computed]:
    """Yield what a module computes from its parameters: by parametrizations, and older hooks."""
    parametrizations = module._modules.get("parametrizations")
    if parametrizations is not None and comes_from(type(parametrizations), "torch", "ModuleDict"):
        for name, part in parametrizations.items():
            if comes_from(type(part), "torch", "ParametrizationList"):
                sources = tuple(part.parameters())
                if sources:  # else of a buffer
                    yield _Computed(name, _at_rest(part), ("parametrizations",), sources)
    own = module._parameters
    for hook in module._forward_pre_hooks.values():
        kind = type(hook)
        if comes_from(kind, "torch", "WeightNorm"):
            name, compute = hook.name, partial(hook.compute_weight, module)
            names = [f"{name}_g", f"{name}_v"]
        elif comes_from(kind, "torch", "SpectralNorm"):  # without a power iteration
            name, compute = hook.name, partial(hook.compute_weight, module, False)
            names = [f"{name}_orig"]
        elif comes_from(kind, "torch", "BasePruningMethod"):
            name, compute = hook._tensor_name, partial(hook.apply_mask, module)
            names = [f"{name}_orig"]
        else:
            continue
        if all(own.get(n) is not None for n in names):
            yield _Computed(name, compute, names, tuple(own[n] for n in names))


def _at_rest(parametrization: Any) -> Callable[[], Any]:
    """Return what computes a weight as evaluation does: no power iteration, no dropout of it."""

    def compute() -> Any:
        training = [m for m in parametrization.modules() if m.training]
        for m in training:
            m.training = False
        try:
            return parametrization()
        finally:
            for m in training:
                m.training = True

    return compute


def _is_packed(module: Any) -> bool:
    """Whether a module's weights are packed for quantized arithmetic, and no parameters."""
    kind = type(module)
    return kind.__module__.startswith("torch.ao.nn.") and callable(getattr(module, "weight", None))
