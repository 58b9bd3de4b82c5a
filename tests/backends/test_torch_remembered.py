# SPDX-License-Identifier: BSD-3-Clause
"""Decisions about a module that are kept between steps: none outlives a change of the module."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.utils.parametrize as parametrize
import torch.nn.utils.prune as pruning
from torch import nn

import fastreg
import fastreg.torch as backend
from fastreg._core.arguments import Request
from fastreg._core.models import Modules
from fastreg._core.selection import chosen
from fastreg.errors import ArgumentError, DTypeError, StaleError
from fastreg.torch import _remembered


class Exempting(nn.Module):
    """Names what it exempts in an attribute, as some models do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.exempt = set()

    def no_weight_decay(self):
        return self.exempt


def linear(n, m):
    """Return a layer of small integers, whose squares no rounding touches."""
    layer = nn.Linear(n, m)
    for p in layer.parameters():
        nn.init.constant_(p, 7.0)
    return layer


def model():
    net = nn.Sequential(linear(4, 3), nn.Sequential(), linear(3, 3), Exempting())
    for k, p in enumerate(net.parameters()):
        nn.init.constant_(p, k + 1.0)
    return net


@pytest.fixture
def walks(monkeypatch):
    """Count the ways through whole modules, which a kept decision spares."""
    count = []
    walk = Modules.walk

    def counted(self, module, prefix="", plain=""):
        if not prefix:
            count.append(module)
        walk(self, module, prefix, plain)

    monkeypatch.setattr(Modules, "walk", counted)
    return count


def expected(net, select=None):
    """Names and penalty for l2=1 from a choice made now."""
    found = chosen(net, Request.of(select=select))
    return found.names, float(sum((x.detach().double() ** 2).sum() for x in found.originals))


def seen(net, select=None):
    return (
        list(backend.gradient(net, l2=1.0, select=select)),
        float(backend.penalty(net, l2=1.0, select=select, dtype="float64").detach()),
    )


def add_layer(net):
    net.append(linear(3, 2))


def fill_an_empty_layer(net):
    net[1].append(linear(3, 2))


def remove_layer(net):
    del net[2]


def replace_layer(net):
    net[2] = linear(3, 3)


def replace_layer_by_a_norm(net):
    net[2] = nn.LayerNorm((3, 3))


def change_class(net):
    net[2].__class__ = nn.LayerNorm


def rename_layer(net):
    net._modules = {("a" if k == "2" else k): m for k, m in net._modules.items()}


def rename_parameter(net):
    kept = net[2]._parameters
    net[2]._parameters = {"offset" if k == "weight" else k: p for k, p in kept.items()}


def move_layer(net):
    net[1].append(net[2])
    net[2] = nn.Identity()


def freeze(net):
    net[2].weight.requires_grad_(False)


def freeze_layer(net):
    net[0].requires_grad_(False)


def swap_parameter(net):
    net[2].weight = nn.Parameter(torch.full((3, 3), 7.0))


def swap_memory(net):
    net[2].weight.data = torch.full((3, 3), 7.0)


def swap_shape(net):
    net[2].weight.data = torch.full((9,), 7.0)


def shape_of_the_bias(net):
    net[2].bias.data = torch.full((3, 3), 7.0)


def tie(net):
    net[2].weight = net[3].inner.weight


def tie_by_memory(net):
    net[2].weight.data = net[3].inner.weight.data


def remove_parameter(net):
    net[2].weight = None


def add_parameter(net):
    net[2].register_parameter("more", nn.Parameter(torch.full((2, 2), 3.0)))


def mark(net):
    net[2].weight._no_weight_decay = True


def mark_by_options(net):
    net[2].weight._optim = {"weight_decay": 0.0}


def exempt(net):
    net[3].exempt = {"inner.weight"}


def change_type(net):
    net.double()


def values_only(net):
    with torch.no_grad():
        net[2].weight.mul_(2.0)


def parametrize_a_weight(net):
    class Double(nn.Module):
        def forward(self, x):
            return 2.0 * x

    parametrize.register_parametrization(net[2], "weight", Double())


def prune(net):
    pruning.l1_unstructured(net[2], "weight", amount=3)


def move_a_parameter(net):
    net[2]._parameters["weight"] = net[0]._parameters.pop("weight")


def move_the_only_one(net):
    own = net[3].inner._parameters
    own["bias"], own["weight"] = own["weight"], None


CHANGES = (
    move_a_parameter,
    move_the_only_one,
    add_layer,
    fill_an_empty_layer,
    remove_layer,
    replace_layer,
    replace_layer_by_a_norm,
    change_class,
    rename_layer,
    rename_parameter,
    move_layer,
    freeze,
    freeze_layer,
    swap_parameter,
    swap_memory,
    swap_shape,
    shape_of_the_bias,
    tie,
    tie_by_memory,
    remove_parameter,
    add_parameter,
    mark,
    mark_by_options,
    exempt,
    change_type,
    values_only,
    parametrize_a_weight,
    prune,
)


@pytest.mark.parametrize("select", [None, "all", "*weight*"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_no_decision_outlives_a_change(change, select):
    net = model()
    assert seen(net, select) == seen(net, select) == expected(net, select)
    change(net)
    for _ in range(3):
        assert seen(net, select) == expected(net, select)


@pytest.mark.parametrize("move", ["part", "parameter", "name"])
def test_what_only_moves_to_a_neighbour_has_another_name(move):
    net = nn.Sequential(nn.Sequential(linear(3, 3)), nn.Sequential())
    if move != "part":
        net = nn.Sequential(nn.Module(), nn.Module())
        net[0].register_parameter("weight", nn.Parameter(torch.ones(2, 2)))
    if move == "name":
        net[0].register_parameter("bias", None)
    assert seen(net) == expected(net)
    if move == "part":
        net[1]._modules = net[0]._modules
        net[0]._modules = {}
    elif move == "parameter":
        net[1]._parameters = net[0]._parameters
        net[0]._parameters = {}
    else:
        own = net[0]._parameters
        own["weight"], own["bias"] = None, own["weight"]
        with pytest.raises(ArgumentError):
            seen(net)
        return
    for _ in range(2):
        assert seen(net) == expected(net)


@pytest.mark.parametrize("change", [freeze, tie, swap_parameter, replace_layer_by_a_norm, mark])
def test_gradients_are_added_to_what_is_chosen_now(change):
    net = model()
    for again in range(3):
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        backend.add_gradient_(net, l2=0.5)
        taken = {id(x) for x in chosen(net, Request.of()).originals}
        for p in net.parameters():
            assert torch.equal(p.grad, 1.0 + p.detach() if id(p) in taken else torch.ones_like(p))
        if again == 1:
            change(net)


def test_adding_gradients_walks_an_unchanged_module_once(walks):
    net = model()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    for _ in range(3):
        backend.add_gradient_(net, l2=0.5)
        backend.penalty(net, l2=0.5)
    assert len(walks) == 1


def test_a_change_that_is_taken_back_is_taken_back():
    net = model()
    before = seen(net)
    for _ in range(3):
        freeze(net)
        assert seen(net) == expected(net) != before
        net[2].weight.requires_grad_()
        assert seen(net) == before


def test_an_unchanged_module_is_walked_once_for_each_rule(walks):
    net = model()
    for _ in range(3):
        backend.penalty(net, l2=0.5)
        backend.penalty(net, l2=0.5, select="0.*")
    assert len(walks) == 2


def test_a_swapped_parameter_of_the_same_look_gets_the_gradient():
    net = model()
    backend.penalty(net, l2=0.5).backward()
    old = net[2].weight
    net[2].weight = nn.Parameter(old.data)  # the same memory, another object
    net.zero_grad()
    old.grad = None
    backend.penalty(net, l2=0.5).backward()
    assert old.grad is None
    assert torch.equal(net[2].weight.grad, old.data)


def test_tied_parameters_that_part_and_keep_the_memory():
    net = model()
    tie(net)
    assert seen(net) == expected(net)
    net[3].inner.weight = nn.Parameter(net[3].inner.weight.data)
    assert seen(net) == expected(net)
    backend.penalty(net, l2=0.5).backward()
    assert net[2].weight.grad is not None  # the first of the two, as without a decision kept
    assert net[3].inner.weight.grad is None


def test_a_frozen_model_is_refused_after_a_step():
    net = model()
    backend.penalty(net, l2=0.5)
    net.requires_grad_(False)
    with pytest.raises(ArgumentError):
        backend.penalty(net, l2=0.5)


def test_a_kernel_that_no_kernel_reads_is_refused_after_a_step():
    net = model()
    backend.penalty(net, l2=0.5)
    net[2].weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))
    with pytest.raises(DTypeError, match=r"2\.weight"):
        backend.penalty(net, l2=0.5)


def test_weights_and_conventions_are_not_mixed_up():
    net = model()
    one = float(backend.penalty(net, l2=1.0).detach())
    for _ in range(2):
        assert float(backend.penalty(net, l2=0.5).detach()) == one / 2
        assert float(backend.penalty(net, l2=1.0, convention="half").detach()) == one / 2
        assert float(backend.penalty(net, l2=1.0, weights=0.25).detach()) == one / 4
        assert float(backend.penalty(net, l2={"*": 1.0}).detach()) == one
        assert backend.penalty(net, l2=1.0, dtype="float64").dtype is torch.float64
        assert backend.penalty(net, l2=1.0).dtype is torch.float32


def test_a_callable_is_asked_each_time():
    net = model()
    said = [True]

    def select(name, x):
        return said[0] and name == "0.weight"

    assert backend.gradient(net, l2=0.5, select=select).keys() == {"0.weight"}
    said[0] = False
    with pytest.raises(ArgumentError):
        backend.gradient(net, l2=0.5, select=select)


def test_another_module_in_the_place_of_one_that_is_gone():
    for k in range(20):  # ids and memory are used again
        net = nn.Sequential(linear(4, 3), nn.LayerNorm(3) if k % 2 else linear(3, 3))
        assert seen(net) == expected(net)
        del net


def test_nothing_is_kept_alive():
    net = model()
    backend.penalty(net, l2=0.5).backward()
    gone = [weakref.ref(net), weakref.ref(net[2]), weakref.ref(net[2].weight)]
    del net
    gc.collect()
    assert [r() for r in gone] == [None] * 3


def test_decisions_are_bounded():
    nets = [model() for _ in range(50)]
    for net in nets:
        backend.penalty(net, l2=0.5)
    assert len(_remembered._kept) <= _remembered._MOST_DECISIONS


def test_copies_decide_for_themselves():
    net = model()
    seen(net)
    other = copy.deepcopy(net)
    freeze(other)
    assert seen(other) == expected(other)
    assert seen(net) == expected(net) != seen(other)


def test_transforms_and_programs_after_an_eager_step():
    net = model()
    before = float(backend.penalty(net, l2=0.5).detach())
    params = {name: p.detach() for name, p in net.named_parameters()}

    def loss(params):
        with torch.nn.utils.stateless._reparametrize_module(net, params):
            return backend.penalty(net, l2=0.5)

    grads = torch.func.grad(loss)(params)
    assert torch.equal(grads["2.weight"], params["2.weight"])
    assert not grads["2.bias"].any()
    assert float(backend.penalty(net, l2=0.5).detach()) == before


# -- Plans -----------------------------------------------------------------------------------------


def test_a_plan_is_differentiable_with_the_bits_of_the_module():
    net = model()
    options = {"l1": {"0.*": 0.25}, "l2": 0.3, "select": "*.weight", "convention": "half"}
    plan = fastreg.plan(net, **options)
    for _ in range(2):
        value, grads = backend.value_and_gradient(plan)
        want, wanted = backend.value_and_gradient(net, **options)
        assert value == want == backend.penalty(plan)
        assert grads.keys() == wanted.keys() == backend.gradient(plan).keys()
        net.zero_grad()
        backend.penalty(plan).backward()
        for name, p in net.named_parameters():
            assert (p.grad is None) is (name not in wanted)
            assert p.grad is None or torch.equal(p.grad, wanted[name])
        with torch.no_grad():
            net[0].weight.mul_(3.0)  # steps in place go on
    assert backend.penalty(plan, dtype="float64").dtype is torch.float64


@pytest.mark.parametrize("change", [add_layer, freeze, swap_parameter, swap_memory])
def test_a_plan_of_what_changed_is_refused(change):
    net = model()
    plan = fastreg.plan(net, l2=0.5)
    change(net)
    for function in (backend.penalty, backend.gradient, backend.value_and_gradient):
        with pytest.raises(StaleError):
            function(plan)


@pytest.mark.parametrize(
    "beside", [{"l2": 0.5}, {"l1": 0.5}, {"select": "all"}, {"weights": 2.0}], ids=str
)
def test_a_plan_has_its_own_weights_and_rule(beside):
    plan = fastreg.plan(model(), l2=0.5)
    with pytest.raises(ArgumentError, match="a plan alone"):
        backend.penalty(plan, **beside)


def test_a_plan_without_weights_or_without_tensors_is_refused():
    with pytest.raises(ArgumentError, match="l1= or l2="):
        backend.penalty(fastreg.plan(model()))
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        backend.penalty(fastreg.plan({"kernel": np.ones((2, 2))}, l2=0.5))
