# SPDX-License-Identifier: BSD-3-Clause
"""One table: every kind of input, in every function of every backend, means the same number.

The kernel of each input holds 2, 2, 2, 2 (Σx² = 16), its bias and its scale 3, 3 (Σx² = 18 each). A
container with names means the kernel, a list means all its arrays, norms and statistics mean all.
"""

from __future__ import annotations

import importlib
import inspect
import io
import itertools
import math
import re
from collections import OrderedDict, namedtuple

import numpy as np
import pytest

import fastreg
from fastreg.errors import ArgumentError, FastregError

Named = namedtuple("Named", "kernel bias")
L2 = 0.5
BACKENDS = ("numpy", "torch", "tensorflow", "jax", "keras")


def kernel() -> np.ndarray:
    return np.full((2, 2), 2.0, np.float32)


def bias() -> np.ndarray:
    return np.full(2, 3.0, np.float32)


# input -> (how it is made of `a`, the backend's array; Σx² of a penalty; Σx² of all)
INPUTS = {
    "list": (lambda a: [a(kernel()), a(bias())], 34.0, 34.0),
    "tuple": (lambda a: (a(kernel()), a(bias())), 34.0, 34.0),
    "nested list": (lambda a: [[a(kernel())], [a(bias()), None]], 34.0, 34.0),
    "generator": (lambda a: (a(x()) for x in (kernel, bias)), 34.0, 34.0),
    "dict": (lambda a: {"kernel": a(kernel()), "bias": a(bias())}, 16.0, 34.0),
    "ordered": (lambda a: OrderedDict(kernel=a(kernel()), bias=a(bias())), 16.0, 34.0),
    "nested": (lambda a: {"d": {"kernel": a(kernel()), "bias": a(bias())}}, 16.0, 34.0),
    "named tuple": (lambda a: Named(a(kernel()), a(bias())), 16.0, 34.0),
    "list of dicts": (lambda a: [{"kernel": a(kernel())}, {"bias": a(bias())}], 16.0, 34.0),
    "pairs": (lambda a: [("kernel", a(kernel())), ("bias", a(bias()))], 16.0, 34.0),
    "norm by its name": (lambda a: {"kernel": a(kernel()), "ln": {"scale": a(bias())}}, 16.0, 34.0),
    "lone array": (lambda a: a(kernel()), 16.0, 16.0),
    "lone vector": (lambda a: a(bias()), 18.0, 18.0),
    "tied": (lambda a: tied(a), 16.0, None),
}


def tied(a):
    x = a(kernel())
    return {"kernel": x, "again": x}


def arrays_of(backend: str):
    """Return what makes an array of a backend that may be a weight: variables where there are."""
    if backend == "numpy":
        return np.array
    if backend == "torch":
        torch = pytest.importorskip("torch")
        return lambda x: torch.nn.Parameter(torch.from_numpy(x))
    if backend == "jax":
        return pytest.importorskip("jax").numpy.asarray
    if backend == "tensorflow":
        return pytest.importorskip("tensorflow").Variable
    keras = pytest.importorskip("keras")
    return lambda x: keras.Variable(x)


def module_of(backend: str):
    return fastreg if backend == "numpy" else importlib.import_module(f"fastreg.{backend}")


def number(x) -> float:
    return float(x.detach() if hasattr(x, "detach") else x)


def same(x, squares: float) -> bool:
    return math.isclose(number(x), squares, rel_tol=1e-6)


CELLS = list(itertools.product(INPUTS, BACKENDS))


def made(kind: str, backend: str):
    make, penalty, everything = INPUTS[kind]
    if kind == "tied" and backend == "jax":
        penalty = 32.0  # immutable arrays have no identity: each counts
    return (lambda: make(arrays_of(backend))), penalty, everything


@pytest.mark.parametrize(("kind", "backend"), CELLS)
def test_penalty(kind, backend):
    make, squares, _ = made(kind, backend)
    assert same(module_of(backend).penalty(make(), l2=L2), L2 * squares)
    if kind != "generator":
        assert same(fastreg.penalty(make(), l2=L2), L2 * squares)


@pytest.mark.parametrize(("kind", "backend"), CELLS)
def test_value_and_gradient(kind, backend):
    make, squares, _ = made(kind, backend)
    value, gradient = module_of(backend).value_and_gradient(make(), l2=L2)
    assert same(value, L2 * squares)
    flat = fastreg.stats(gradient) if gradient is not None else None
    assert flat is not None
    assert math.isclose(flat.total["sum_squares"], (2 * L2) ** 2 * squares, rel_tol=1e-6)


@pytest.mark.parametrize(("kind", "backend"), CELLS)
def test_plan(kind, backend):
    make, squares, _ = made(kind, backend)
    container = make()
    assert same(fastreg.plan(container, l2=L2).value(), L2 * squares)


@pytest.mark.parametrize(("kind", "backend"), CELLS)
def test_norm_and_statistics(kind, backend):
    make, _, squares = made(kind, backend)
    if squares is None:
        pytest.skip("a norm counts what stands twice twice, statistics count it once")
    assert same(module_of(backend).global_norm(make()), math.sqrt(squares))
    assert same(module_of(backend).stats(make()).total["sum_squares"], squares)


@pytest.mark.parametrize(("kind", "backend"), CELLS)
def test_prox_and_decay(kind, backend):
    make, squares, _ = made(kind, backend)
    if kind == "generator":
        pytest.skip("its arrays are gone when they could be looked at")
    module = module_of(backend)
    for name, arguments, rest in (("prox", (0.0,), 1.0), ("decay", (0.5,), 0.25)):
        container = make()
        how = {"l2": L2} if name == "prox" else {}
        function = getattr(module, name + "_", None) or getattr(module, name)
        result = function(container, *arguments, **how)
        after = container if result is None else result
        assert same(fastreg.penalty(after, l2=1.0), rest * squares)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["list", "dict", "nested", "lone vector"])
def test_refusals(kind, backend):
    make, *_ = made(kind, backend)
    module = module_of(backend)
    prox = getattr(module, "prox_", None) or module.prox
    for call in (module.penalty, module.value_and_gradient, lambda p: prox(p, 0.1)):
        with pytest.raises(ArgumentError, match="l1= or l2="):
            call(make())
    for how in ({"l2": -1.0}, {"l1": math.nan}, {"l2": 1.0, "convention": "torch"}):
        with pytest.raises(ArgumentError):
            module.penalty(make(), **how)
    for how in ({"l2": "1"}, {"l2": True}, {"l1": 1j}):
        with pytest.raises(TypeError):
            module.penalty(make(), **how)


# Rules that take neither of a kernel and a bias.
NOTHING = {
    "glob": "typo*",
    "pattern": re.compile("typo"),
    "callable": lambda name, array: False,
    "bool": False,
    "tree of bools": {"kernel": False, "bias": np.False_},
}
# What functions take apart from arrays and a rule.
REST = {"l2": 1.0, "weight": 1.0, "groups": 0, "step": 0.1, "rate": 0.1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_that_takes_nothing_is_refused(backend):
    """By every function that takes one, whatever kind of rule it is; explain shows why."""
    a, module = arrays_of(backend), module_of(backend)
    for name in sorted(set(module.__all__) - {"explain", "attach", "detach", "dask", "mpi"}):
        function = getattr(module, name)
        if not inspect.isfunction(function) and name != "value_and_gradient":
            continue
        takes = inspect.signature(function).parameters
        if "select" not in takes:
            continue
        how = {key: x for key, x in REST.items() if key in takes}
        for rule in NOTHING.values():
            params = {"kernel": a(kernel()), "bias": a(bias())}
            with pytest.raises(ArgumentError, match=r"select= to take .* which takes none"):
                function(params, select=rule, **how)
    assert number(module.penalty({}, l2=1.0, select="typo*")) == 0.0
    with pytest.raises(ArgumentError, match="a mask, which takes none"):
        fastreg.penalty([kernel(), bias()], l2=1.0, select=[False, False])
    fastreg.explain({"kernel": kernel()}, select=False, file=(text := io.StringIO()))
    assert "0 of 1 arrays in" in text.getvalue()


@pytest.mark.parametrize("frozen", [False, True])
def test_modules_and_models(frozen):
    torch, keras = pytest.importorskip("torch"), pytest.importorskip("keras")
    net = torch.nn.ModuleDict({"bn_proj": torch.nn.Linear(2, 2), "ln": torch.nn.LayerNorm([2, 2])})
    torch.nn.init.constant_(net["bn_proj"].weight, 2.0)
    net["bn_proj"].weight.requires_grad_(not frozen)
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(
                2, name="bn_proj", kernel_initializer=keras.initializers.Constant(2)
            ),
            keras.layers.LayerNormalization(),
        ]
    )
    model.layers[0].trainable = not frozen
    for params, module in ((net, fastreg.torch), (model, fastreg.keras)):
        for penalty in (fastreg.penalty, module.penalty):
            if frozen:
                with pytest.raises(ArgumentError, match="takes none"):
                    penalty(params, l2=L2)
            else:
                assert same(penalty(params, l2=L2), L2 * 16.0)
            for select in (
                "*bn_proj*weight",
                "*bn_proj.kernel",
                "*bn_proj/kernel",
                "re:proj.*(w|k)e",
            ):
                try:
                    assert same(penalty(params, l2=L2, select=select), L2 * 16.0)
                except ArgumentError:
                    assert ("kernel" in select) is (params is net) or "weight" in select


@pytest.mark.parametrize("select", [None, "kernels", "*kernel", "*.kernel", "re:kernel$"])
def test_attach_speaks_the_same_language(select):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="ones")])
    report = fastreg.keras.attach(model, fastreg.keras.L2(0.5), select=select)
    assert [row.action for row in report] == ["attached", "skipped"]
    assert same(sum(model.losses), number(fastreg.penalty(model, l2=0.5, select=select)))


def test_attach_refuses_a_rule_that_takes_nothing():
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    for select in NOTHING.values():
        if not isinstance(select, dict):
            with pytest.raises(ArgumentError, match="takes none"):
                fastreg.keras.attach(model, "l2", select=select)
            with pytest.raises(ArgumentError, match="takes none"):
                fastreg.keras.detach(model, select=select)
    with pytest.raises(ArgumentError):
        fastreg.keras.attach(model, "l1l2")


WEIGHTS = {
    "module": lambda net, torch: net,
    "parameters": lambda net, torch: net.parameters(),
    "named parameters": lambda net, torch: net.named_parameters(),
    "list": lambda net, torch: list(net.parameters()),
    "list of pairs": lambda net, torch: list(net.named_parameters()),
    "dict": lambda net, torch: dict(net.named_parameters()),
    "set": lambda net, torch: set(net.parameters()),
    "nested": lambda net, torch: {"a": [net.weight]},
    "beside gradients": lambda net, torch: [np.ones(2), net.weight],
    "one": lambda net, torch: net.weight,
    "module in a list": lambda net, torch: [net],
    "state": lambda net, torch: net.state_dict(),
    "state in a checkpoint": lambda net, torch: {"model": net.state_dict()},
    "leaf": lambda net, torch: [net.weight.detach().requires_grad_()],
    "average": lambda net, torch: torch.optim.swa_utils.AveragedModel(net),
    "optimizer": lambda net, torch: torch.optim.SGD(net.parameters(), lr=0.1),
    "groups": lambda net, torch: torch.optim.SGD(net.parameters(), lr=0.1).param_groups,
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_clip_takes_gradients_only(kind):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 2)
    before = net.weight.detach().clone()
    for clip in (fastreg.clip_by_global_norm_, fastreg.torch.clip_by_global_norm_):
        with pytest.raises(FastregError) as e:
            clip(WEIGHTS[kind](net, torch), 1e-3)
        if kind != "beside gradients":  # where torch's function looks at the arrays first
            assert "weights themselves; pass [p.grad for p in" in str(e.value)
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_iterator_that_was_used_up_is_an_error(backend):
    module = module_of(backend)
    array = arrays_of(backend)

    def used_up():
        arrays = (array(x()) for x in (kernel, bias))
        return arrays if list(arrays) else None

    calls = {
        **dict.fromkeys(
            ("penalty", "value_and_gradient", "plan", "add_gradient_"), ((), {"l2": L2})
        ),
        **dict.fromkeys(("global_norm", "stats", "check_finite", "explain"), ((), {})),
        **dict.fromkeys(("prox", "prox_"), ((0.5,), {"l2": L2})),
        **dict.fromkeys(("decay", "decay_"), ((0.5,), {})),
        **dict.fromkeys(("clip_by_global_norm", "clip_by_global_norm_"), ((0.5,), {})),
    }
    for name, (arguments, options) in calls.items():
        call = getattr(module, name, None)
        if call is not None:
            with pytest.raises(ArgumentError, match="used up"):
                call(used_up(), *arguments, **options)
    with pytest.raises(ArgumentError, match="used up"):
        fastreg.global_norm({"a": array(kernel()), "b": used_up()})


def test_gradients_that_are_not_there_are_none():
    """As in torch: nothing to clip is no error, for nothing was used up."""
    for nothing in ([None, None], {"a": None}, (x for x in [None])):
        assert fastreg.global_norm(nothing) == 0.0
    assert fastreg.clip_by_global_norm_((x for x in [None, None]), 1.0) == 0.0
