# SPDX-License-Identifier: BSD-3-Clause
"""What a torch module holds: kernels by class and mark, buffers, weights it computes, names."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.utils.parametrizations as parametrizations
import torch.nn.utils.parametrize as parametrize
import torch.nn.utils.prune as prune
from torch import nn

import fastreg
import fastreg.torch as backend
from fastreg.errors import ArgumentError, DTypeError, LayoutError, NonFiniteError


def squares(*tensors):
    """The penalty with l2=1 of small integers, which no rounding touches."""
    return float(sum((t.detach().double() ** 2).sum() for t in tensors))


def rules(module):
    plan = fastreg.plan(module, l2=1.0)
    return {d.parameter.name: (d.included, d.rule) for d in plan.decisions}


def filled(module, value=2.0):
    for p in module.parameters():
        nn.init.constant_(p, value)
    return module


# -- Kernels by the class that holds them ----------------------------------------------------------


class RMSNorm(nn.Module):
    """As every model has its own, here over two axes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 4), 9.0))


class InstanceNormPlus(RMSNorm):
    pass


class AdaptiveNorm(nn.Module):
    """A norm that holds a projection, which is a kernel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 4), 9.0))
        self.norm = nn.Linear(4, 2)


class NormalizedLinear(nn.Linear):
    pass


class NormHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))


class Affine(nn.Module):
    """A scale for each channel, as its offset shows."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, 1, 4))
        self.beta = nn.Parameter(torch.ones(1, 1, 4))


@pytest.mark.parametrize(
    ("module", "kernels"),
    [
        (nn.LayerNorm([3, 4]), []),
        (nn.RMSNorm([3, 4]), []),
        (RMSNorm(), []),
        (InstanceNormPlus(), []),
        (AdaptiveNorm(), ["norm.weight"]),
        (NormalizedLinear(3, 2), ["weight"]),
        (NormHead(), ["weight"]),
        (Affine(), []),
        (nn.PReLU(4), []),
        (nn.ModuleDict({"bn": nn.Linear(3, 2)}), ["bn.weight"]),
        (nn.ParameterDict({"norm": torch.ones(2, 2), "w": torch.ones(2, 2)}), ["w"]),
        (nn.ParameterList([torch.ones(2, 2), torch.ones(2)]), ["0"]),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_the_class_of_a_layer_tells_kernels(module, kernels):
    whole = nn.ModuleDict({"whole": module, "fc": nn.Linear(2, 2)})
    names = [f"whole.{name}" for name in kernels]
    assert set(backend.gradient(whole, l2=1.0)) == {*names, "fc.weight"}


class Holding(nn.Module):
    """Norms that only their class or their holder's name tells, and a kernel."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.RMSNorm([2, 2]), nn.Linear(2, 2)

    def forward(self, x):
        return self.norm(self.fc(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("how", ["script", "fx", "export"])
def test_programs_made_of_modules_tell_kernels(how):
    x, module = torch.ones(2, 2), Holding()
    if how == "export":
        module = torch.export.export(module, (x,)).module()
    else:
        module = torch.jit.script(module) if how == "script" else torch.fx.symbolic_trace(module)
    assert list(backend.gradient(module, l2=1.0)) == ["fc.weight"]


def test_ensembles_that_were_stacked():
    """Where classes are gone, a bias that has the shape of its weight tells a norm."""
    members = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(3)]
    params, buffers = torch.func.stack_module_state(members)
    assert list(backend.gradient(params, l2=1.0)) == ["0.weight"]
    assert list(backend.gradient({**params, **buffers}, l2=1.0)) == ["0.weight"]
    arrays = {name: x.detach().numpy() for name, x in params.items()}
    assert fastreg.penalty(arrays, l2=1.0) == fastreg.penalty([params["0.weight"]], l2=1.0)


# -- What authors exempt ---------------------------------------------------------------------------


class Exempting(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("cls_token", "pos_embed", "register_tokens", "rel_pos_h", "gamma_1"):
            setattr(self, name, nn.Parameter(torch.ones(1, 2, 4)))
        self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
        self.A = nn.Parameter(torch.ones(4, 8))
        self.A._no_weight_decay = True
        self.S = nn.Parameter(torch.ones(4, 8))
        self.S._optim = {"lr": 0.1, "weight_decay": 0.0}
        self.table = nn.Embedding(3, 4)
        self.bucket = nn.Embedding(3, 4)
        self.embed_tokens = nn.Embedding(3, 4)
        self.fc = nn.Linear(4, 2)

    def no_weight_decay(self):
        return {"table.weight"}

    def no_weight_decay_keywords(self):
        return {"bucket"}


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, lambda m: nn.ModuleList([m])])
def test_tokens_positions_scales_and_marks_are_no_kernels(wrap):
    found = rules(wrap(Exempting()))
    kernels = [name.rpartition("embed_tokens")[1] or name[-9:] for name in found if found[name][0]]
    assert sorted(kernels) == ["embed_tokens", "fc.weight"]
    said = {
        name.removeprefix("module.").removeprefix("0."): rule for name, (_, rule) in found.items()
    }
    assert said["cls_token"] == "a token, by its name 'cls_token'"
    assert said["pos_embed"] == "a position, by its name 'pos_embed'"
    assert said["layer_scale"] == "a scale or offset, by its name 'layer_scale'"
    assert said["A"] == "exempt, by its mark _no_weight_decay"
    assert said["S"] == "exempt, by its mark _optim"
    assert said["table.weight"] == "exempt, by no_weight_decay() of Exempting"
    assert said["bucket.weight"] == "exempt, by no_weight_decay_keywords() of Exempting"


def test_a_mark_is_looked_at_without_a_module_too():
    w, a = torch.ones(2, 2), torch.ones(2, 2)
    a._no_weight_decay = True
    assert backend.penalty({"w": w, "a": a}, l2=1.0) == 4.0
    assert backend.penalty([w, a], l2=1.0) == 8.0  # a list means what it holds


# -- Weights that a module computes ----------------------------------------------------------------


def _old(function):
    def make(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(layer)

    return make


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(3, 1)), nn.Parameter(torch.ones(1, 4))

    def forward(self, w):
        return w + self.a @ self.b


def _low_rank(layer):
    parametrize.register_parametrization(layer, "weight", LowRank())
    return layer


def _pruned_twice(layer):
    prune.random_unstructured(layer, "weight", amount=0.5)
    return prune.l1_unstructured(layer, "weight", amount=0.5)


COMPUTED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "low rank": _low_rank,
    "old weight_norm": _old(nn.utils.weight_norm),
    "old spectral_norm": _old(nn.utils.spectral_norm),
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", amount=0.5),
    "pruned twice": _pruned_twice,
}
IN_USE = list(COMPUTED)[:4]


def computing(how):
    torch.manual_seed(0)
    module = nn.Sequential(COMPUTED[how](nn.Linear(4, 3)), nn.Linear(3, 2))
    module(torch.ones(2, 4))  # a step of power iteration
    return module


def weight_in_use(module):
    """What the layer multiplies by, when nothing more is iterated."""
    module.eval()
    module(torch.ones(2, 4))
    weight = module[0].weight
    module.train()
    return weight


@pytest.mark.parametrize("how", COMPUTED)
def test_a_computed_weight_counts_once_as_it_is_used(how):
    module = computing(how)
    before = {name: x.clone() for name, x in module.state_dict().items()}
    used = weight_in_use(module)
    want = backend.penalty([used, module[1].weight], l1=0.5, l2=2.0)
    want.backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    module.zero_grad()
    got = backend.penalty(module, l1=0.5, l2=2.0)
    got.backward()
    assert got == want
    assert fastreg.penalty(module, l1=0.5, l2=2.0, dtype="float32") == want.item()
    for name, p in module.named_parameters():
        assert (p.grad is None) == (grads[name] is None)
        assert p.grad is None or torch.equal(p.grad, grads[name])
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    assert module.training
    assert all(m.training for m in module.modules())
    assert backend.penalty(module, l2=1.0, select="0.weight") == backend.penalty(used, l2=1.0)
    assert list(backend.gradient(module, l2=1.0)) == ["0.weight", "1.weight"]


@pytest.mark.parametrize("how", COMPUTED)
def test_a_computed_weight_cannot_be_written(how):
    module = computing(how)
    before = {name: x.clone() for name, x in module.state_dict().items()}
    steps = [
        lambda **s: backend.prox_(module, 0.1, l1=1.0, **s),
        lambda **s: backend.decay_(module, 0.1, **s),
        lambda **s: backend.add_gradient_(module, l2=1.0, **s),
        lambda **s: fastreg.prox_(module, 0.1, l1=1.0, **s),
        lambda **s: fastreg.group_lasso_prox_(module, 0.1, weight=1.0, groups=0, **s),
        lambda **s: fastreg.plan(module, l1=1.0, **s),
    ]
    for step in steps:
        with pytest.raises(LayoutError, match=r"'0\.weight'.*leave it out with select="):
            step()
        assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
        step(select="1.weight")
        module.load_state_dict(before)


@pytest.mark.parametrize("how", COMPUTED)
@pytest.mark.parametrize(
    "named",
    [
        nn.Module.state_dict,
        lambda m: m.named_parameters(),
        lambda m: {k: x.detach().numpy() for k, x in m.state_dict().items()},
    ],
    ids=["state_dict", "named_parameters", "ndarrays"],
)
def test_parts_without_their_module_are_no_weights(how, named):
    with pytest.raises(ArgumentError, match=r"expected a module.*, a part of '0\.weight'; pass"):
        fastreg.penalty(named(computing(how)), l2=1.0)
    assert fastreg.penalty(named(computing(how)), l2=1.0, select="1.weight") > 0.0
    assert fastreg.penalty(named(computing(how)), l2=1.0, select="all") > 0.0


def test_a_bias_that_is_computed_is_a_bias():
    layer = prune.random_unstructured(nn.Linear(4, 3), "bias", amount=0.5)
    for named in (layer, layer.state_dict(), layer.named_parameters()):
        assert list(backend.gradient(named, l2=1.0)) == ["weight"]


@pytest.mark.parametrize("names", ["vg", "qg", "kv"])
def test_kernels_that_end_like_parts_are_kernels(names):
    params = {f"w_{n}": np.full((2, 3), 2.0) for n in names}
    assert fastreg.penalty(params, l2=1.0) == 48.0


@pytest.mark.parametrize("how", IN_USE)
def test_computed_weights_in_programs(how):
    module = computing(how).eval()
    program = torch.compile(
        lambda: backend.penalty(module, l2=1.0), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(program(), backend.penalty(module, l2=1.0), rtol=1e-6, atol=0)


def test_a_computed_weight_is_frozen_and_tied_as_its_sources_are():
    layer = parametrizations.weight_norm(nn.Linear(3, 3))
    both = nn.ModuleDict({"a": layer, "b": layer})
    assert backend.penalty(both, l2=1.0) == backend.penalty(layer.weight, l2=1.0)
    assert backend.penalty(both, l2=1.0, select="b.weight") == backend.penalty(both, l2=1.0)
    layer.requires_grad_(False)
    with torch.no_grad(), pytest.raises(ArgumentError, match=r"'a\.weight': frozen|frozen"):
        backend.penalty(both, l2=1.0)


def test_statistics_are_of_what_is_stored():
    module = computing("weight_norm")
    assert len(fastreg.stats(module)) == 5
    with torch.no_grad():
        module[0].parametrizations.weight.original0[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"original0"):
        fastreg.check_finite(module)
    want = fastreg.global_norm([p.detach() for p in module.parameters()])
    np.testing.assert_equal(fastreg.global_norm(module), want)


# -- Buffers ---------------------------------------------------------------------------------------


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = filled(nn.Linear(2, 2))
        self.register_buffer("kept", torch.ones(2, 2))
        self.register_buffer("passing", torch.ones(2, 2), persistent=False)
        self.register_buffer("none", None)


@pytest.mark.parametrize("name", ["kept", "passing"])
@pytest.mark.parametrize("check", [fastreg.check_finite, lambda m: fastreg.check_finite([m])])
def test_a_nan_in_a_buffer_is_found(name, check):
    module = Buffered()
    check(module)
    getattr(module, name)[1, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=f"'(0\\.)?{name}'"):
        check(module)
    for stats in (fastreg.stats(module), backend.stats(module)):
        assert stats.total["nans"] == 1
        assert stats[name]["nans"] == 1
    # Penalties, steps and norms are about parameters.
    assert backend.penalty(module, l2=1.0, select="all") == 24.0
    assert fastreg.penalty(module, l2=1.0, select="all") == 24.0
    assert fastreg.global_norm(module) ** 2 == pytest.approx(24.0)
    assert backend.global_norm(module) == fastreg.global_norm(module)
    backend.decay_(module, 0.5, select="all")
    assert backend.penalty(module, l2=1.0, select="all") == 6.0
    assert getattr(module, name)[0, 0] == 1.0


def test_running_statistics_are_found():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[1].running_var[1] = float("inf")
    with pytest.raises(NonFiniteError, match=r"'1\.running_var' \(0 NaN and 1 inf of 3\)"):
        fastreg.check_finite(module)
    assert list(fastreg.stats(module).names) == list(module.state_dict())


def test_weights_that_are_packed_are_not_passed_over():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
    for call in (fastreg.stats, fastreg.check_finite):
        with pytest.raises(DTypeError, match=r"'0\.weight'.*qint8; pass x\.dequantize"):
            call(packed)
    with pytest.raises(ArgumentError, match=r"'0\.weight': qint8"):
        backend.penalty(packed, l2=1.0)


# -- Names -----------------------------------------------------------------------------------------


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec = filled(nn.Linear(2, 2)), filled(nn.Linear(2, 2), 3.0)


class Held(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


def compiled(module):
    return torch.compile(module, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, compiled, torch.optim.swa_utils.AveragedModel],
    ids=["replicas", "compiled", "averaged"],
)
def test_wrappers_do_not_matter_to_names_wherever_they_stand(wrap):
    assert backend.penalty(wrap(Pair()), l2=1.0, select="enc.weight") == 16.0
    assert backend.penalty(Held(wrap(Pair())), l2=1.0, select="model.enc.*") == 24.0
    assert backend.penalty([Held(wrap(Pair()))], l2=1.0, select=r"re:^0\.model\.enc\.w") == 16.0
    weights = {"model.enc.weight": 1.0, "*.dec.*": 0.5}
    assert fastreg.penalty(Held(wrap(Pair())), l2=weights) == 16.0 + 18.0


def test_a_part_called_module_is_a_part():
    module = nn.ModuleDict({"module": nn.ModuleDict({"a": filled(nn.Linear(2, 2))})})
    inner = nn.ModuleDict({"x": module})
    with pytest.raises(ArgumentError, match=r"takes none"):
        backend.penalty(inner, l2=1.0, select="x.a.weight")


class Shaped(Pair):
    """With attributes of its own, called as arrays and frameworks call theirs."""

    dtype = torch.float32
    shape = (3,)
    weights: tuple = ()
    variables = "x"
    layers = None
    built = False

    def __iter__(self):
        return iter([self.enc])

    def __len__(self):
        return 1

    def keys(self):
        return ["enc"]


def test_attributes_of_a_module_do_not_make_it_something_else():
    module = Shaped()
    norm = 24.0 + 54.0
    assert backend.penalty(module, l2=1.0) == fastreg.penalty(module, l2=1.0) == 52.0
    assert backend.penalty([module, torch.ones(2)], l2=1.0, select="all") == norm + 2.0
    assert backend.value_and_gradient(module, l2=1.0)[0] == 52.0
    assert list(backend.gradient(module, l2=1.0)) == ["enc.weight", "dec.weight"]
    assert backend.global_norm(module) ** 2 == pytest.approx(norm)
    assert backend.stats(module).total["sum_squares"] == norm
    assert fastreg.plan(module, l2=1.0).value() == 52.0
    fastreg.check_finite(module)
    with pytest.raises(ArgumentError, match="weights themselves"):
        backend.clip_by_global_norm_(module, 1.0)
    backend.add_gradient_(module, l2=1.0)
    assert module.dec.weight.grad[0, 0] == 6.0
    backend.decay_(module, 0.5)
    backend.prox_(module, 1.0, l1=0.5)
    assert backend.penalty(module, l2=1.0) == 4 * 0.25 + 4 * 1.0


# -- Ties ------------------------------------------------------------------------------------------


def tied():
    embed, head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
    head.weight = filled(embed).weight
    return nn.ModuleDict({"embed": embed, "head": head})  # 24


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({"l2": 1.0, "select": "head.*"}, 24.0),
        ({"l2": 1.0, "select": "re:^head"}, 24.0),
        ({"l2": 1.0, "select": lambda name, x: name == "head.weight"}, 24.0),
        ({"l2": 1.0, "select": {"embed.weight": False, "head.weight": True}}, 24.0),
        ({"l2": 1.0, "select": {"embed": False, "head": {"weight": True}}}, 24.0),
        ({"l2": 1.0, "select": {"embed": True}}, 24.0),
        ({"l2": {"head.weight": 0.5}}, 12.0),
        ({"l2": lambda name, x: 0.5 if name == "head.weight" else 0.0}, 12.0),
        ({"l2": 1.0, "weights": lambda name, x: 2.0 if name == "head.weight" else 1.0}, 48.0),
        ({"l2": 1.0, "weights": {"head.*": 2.0}}, 48.0),
    ],
)
def test_rules_see_each_name_of_a_tied_weight(options, want):
    assert backend.penalty(tied(), **options) == want
    assert fastreg.penalty(tied(), **options) == want


def test_memory_tells_what_is_tied_in_any_framework():
    x = torch.full((3, 2), 2.0)
    same = [x, x.detach(), x.t(), x.reshape(-1), nn.Parameter(x), x.numpy(), x.numpy()[::-1]]
    assert fastreg.penalty(same, l2=1.0) == 24.0
    assert backend.penalty(same[:5], l2=1.0) == 24.0
    # What shares memory in part is other arrays: each counts as it stands, none is written.
    assert (
        backend.penalty([x[:2], x[1:]], l2=1.0) == fastreg.penalty([x[:2], x[1:]], l2=1.0) == 32.0
    )
    with pytest.raises(LayoutError, match="share memory"):
        backend.decay_([x[:2], x[1:]], 0.5)
    assert (x == 2.0).all()
