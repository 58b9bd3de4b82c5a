# SPDX-License-Identifier: BSD-3-Clause
"""Whole models in the PyTorch backend: one node, one pass, steps that are all or nothing."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import fastreg
from fastreg import errors

torch = pytest.importorskip("torch", reason="needs the package torch")
import fastreg.torch as backend  # noqa: E402
from fastreg.torch import _native  # noqa: E402

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Model(torch.nn.Module):
    """Kernels, biases, a normalisation, tied weights and something frozen."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(3)
        self.embed = torch.nn.Embedding(7, 4, dtype=dtype)
        self.hidden = torch.nn.Linear(4, 5, dtype=dtype)
        self.norm = torch.nn.LayerNorm(5, dtype=dtype)
        self.frozen = torch.nn.Linear(5, 4, dtype=dtype).requires_grad_(False)
        self.head = torch.nn.Linear(4, 7, dtype=dtype)
        self.head.weight = self.embed.weight

    def kernels(self):
        return [self.embed.weight, self.hidden.weight]


def bits(x):
    return x.detach().contiguous().view(-1).view(torch.uint8).tolist()


def host(x):
    return x.detach().to(torch.float64).numpy()


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_model_is_its_kernels(dtype):
    model = Model(dtype)
    want = fastreg.penalty([host(w) for w in model.kernels()], l1=0.1, l2=0.3)
    got = backend.penalty(model, l1=0.1, l2=0.3, dtype=torch.float64)
    assert got.item() == want
    assert got.grad_fn.name() == "PenaltyBackward"
    for same in (model.named_parameters(), dict(model.named_parameters()), model):
        assert backend.penalty(same, l1=0.1, l2=0.3, dtype=torch.float64).item() == want
    got.backward()
    for w in model.kernels():
        assert bits(w.grad) == bits(backend.gradient(w, l1=0.1, l2=0.3))
    assert all(p.grad is None for n, p in model.named_parameters() if "kernel" in n or "bias" in n)
    assert model.frozen.weight.grad is None


def test_choices_and_weights():
    model = Model()
    everything = fastreg.penalty(list(map(host, model.parameters())), l2=1.0, select="all")
    assert backend.penalty(model, l2=1.0, select="all", dtype="float64").item() == everything
    assert backend.penalty(model.parameters(), l2=1.0, dtype="float64").item() == everything
    hidden = fastreg.sum_squares(host(model.hidden.weight))
    for select in ("hidden.weight", "re:^hid.*t$", lambda name, w: name == "hidden.weight"):
        assert backend.penalty(model, l2=1.0, select=select, dtype="float64").item() == hidden
    half = backend.penalty(model, l2=1.0, convention="half", dtype="float64").item()
    assert half == backend.penalty(model, l2=0.5, dtype="float64").item()
    weighted = backend.penalty(model, l2=1.0, weights={"hidden.*": 3.0}, dtype="float64").item()
    named = backend.penalty(model, l2={"embed.*": 1.0, "hidden.*": 3.0}, dtype="float64").item()
    assert weighted == named
    with pytest.raises(ValueError, match="takes none"):
        backend.penalty(model, l2=1.0, select="*.kernel")
    with pytest.raises(ValueError, match="which matches none"):
        backend.penalty(model, l2={"hiden": 1.0})


@pytest.mark.parametrize("scale", [1.0, 3.0, -0.5, 65536.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_node_gives_each_tensors_own_gradient(dtype, scale):
    """Whether forward computed it (upstream 1) or backward does, however often it alternates."""
    model = Model(dtype)
    for _ in range(3):
        model.zero_grad()
        (scale * backend.penalty(model, l1=0.1, l2=0.3, dtype=torch.float64)).backward()
        for w in model.kernels():
            with_scale = backend.gradient(w, l1=0.1, l2=0.3, scale=scale)
            assert bits(w.grad) == bits(with_scale)


def test_a_write_between_forward_and_backward_is_noticed():
    model = Model()
    for scale in (1.0, 2.0, 1.0):
        loss = scale * backend.penalty(model, l2=0.5)
        with torch.no_grad():
            model.hidden.weight.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        loss = scale * backend.penalty(model, l2=0.5)
        backend.prox_(model, l1=0.1, step=0.1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_unweighted_and_infinite_upstream():
    x, y = (torch.ones(2, 2, requires_grad=True) for _ in range(2))
    backend.penalty([x, y], l2=[0.0, 1.0]).backward()
    assert x.grad is None or x.grad.tolist() == [[0, 0], [0, 0]]
    assert y.grad.tolist() == [[2, 2], [2, 2]]
    y.grad = None
    (math.inf * backend.penalty([x, y], l2=1.0)).backward()
    assert y.grad.tolist() == [[math.inf] * 2] * 2


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_add_gradient_is_what_the_penalty_in_the_loss_adds(dtype, scale):
    model = Model(dtype)
    for k, w in enumerate(model.parameters()):
        w.grad = None if k == 1 else torch.full_like(w, 0.25)
    want = {}
    for name, w in model.named_parameters():
        g = backend.gradient(w, l1=0.1, l2=0.3, scale=scale)
        if any(w is k for k in model.kernels()):
            want[name] = g if w.grad is None else torch.add(w.grad, g)
        else:
            want[name] = w.grad
    version = model.embed.weight.grad._version
    backend.add_gradient_(model, l1=0.1, l2=0.3, scale=scale)
    assert model.embed.weight.grad._version > version
    for name, w in model.named_parameters():
        assert (w.grad is None and want[name] is None) or bits(w.grad) == bits(want[name])


def test_training_with_add_gradient_is_training_with_the_penalty():
    x = torch.randn(32, 7, generator=torch.Generator().manual_seed(0))
    runs = []
    for inside in (True, False):
        torch.manual_seed(1)
        net = torch.nn.Sequential(torch.nn.Linear(7, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(50):
            optimizer.zero_grad()
            loss = (net(x).squeeze() - x.sum(1)).square().mean()
            if inside:
                loss = loss + backend.penalty(net, l1=1e-3, l2=1e-2)
            loss.backward()
            if not inside:
                backend.add_gradient_(net, l1=1e-3, l2=1e-2)
            optimizer.step()
        runs.append([w.detach().clone() for w in net.parameters()])
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("flush", [False, True])
def test_prox_is_the_functions(dtype, flush):
    model = Model(dtype)
    twins = [w.detach().clone() for w in model.kernels()]
    bias = bits(model.hidden.bias)
    fastreg.prox_(twins, l1=2.0, l2=0.5, step=0.125, flush=flush)
    backend.prox_(model, l1=2.0, l2=0.5, step=0.125, flush=flush)
    for w, twin in zip(model.kernels(), twins, strict=True):
        assert bits(w) == bits(twin)
    assert (model.embed.weight == 0).any()
    assert bits(model.hidden.bias) == bias
    native = _native.prox(torch.linspace(-3, 3, 13, dtype=dtype), 0.5, 2.0, 0.25, flush)
    kernel = torch.linspace(-3, 3, 13, dtype=dtype)
    backend.prox_(kernel, l1=2.0, l2=0.25, step=0.5, flush=flush)
    assert bits(native) == bits(kernel)


def shared():
    memory = torch.zeros(12)
    return [memory[:8].view(2, 4).requires_grad_(), memory[4:].view(2, 4).requires_grad_()]


LEAF = torch.ones(2, 2, requires_grad=True)
BAD = {
    "no leaf": ([LEAF, LEAF * 2], ValueError, "leaf"),
    "integers": ([LEAF, torch.ones(2, 2, dtype=torch.int64)], TypeError, "float"),
    "complex": ([LEAF, torch.ones(2, 2, dtype=torch.complex64)], TypeError, "complex64"),
    "meta": ([LEAF, torch.ones(2, 2, device="meta", requires_grad=True)], ValueError, "memory"),
    "array": ([LEAF, np.ones((2, 2))], TypeError, "torch.Tensor"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("call", ["prox_", "add_gradient_"])
def test_nothing_is_written_on_bad_input(what, call):
    xs, kind, text = BAD[what]
    step = {"step": 0.5} if call == "prox_" else {}
    with pytest.raises(kind, match=text) as e:
        getattr(backend, call)(xs, l1=1.0, **step)
    assert isinstance(e.value, errors.FastregError)
    assert LEAF.tolist() == [[1, 1], [1, 1]]
    assert LEAF.grad is None


def test_tensors_that_share_memory_are_not_written():
    xs = shared()
    for bad in (xs, [torch.zeros(1, 2).expand(2, 2)]):
        with pytest.raises(ValueError, match=r"share|distinct"):
            backend.prox_(bad, l1=1.0, step=0.5)
    backend.add_gradient_(xs, l2=1.0)  # their gradients do not
    assert xs[0].grad.tolist() == [[0, 0, 0, 0]] * 2


def test_bad_grads():
    x, y = (torch.ones(2, 2, requires_grad=True) for _ in range(2))
    memory = torch.zeros(2, 2)
    x.grad, y.grad = memory, memory
    with pytest.raises(ValueError, match="'0' and '1'"):
        backend.add_gradient_([x, y], l2=1.0)
    x.grad = x.detach()
    with pytest.raises(ValueError, match="memory of its own"):
        backend.add_gradient_([x, y], l2=1.0)
    x.grad = torch.eye(2).to_sparse()
    with pytest.raises(ValueError, match="dense grad at '0'"):
        backend.add_gradient_([x, y], l2=1.0)
    assert memory.tolist() == [[0, 0], [0, 0]]
    for scale in ("1", True, torch.ones(())):
        with pytest.raises(TypeError, match="as scale"):
            backend.add_gradient_([y], l2=1.0, scale=scale)
    for step in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step"):
            backend.prox_([y], l1=1.0, step=step)


def test_grads_and_weights_of_any_layout():
    x = torch.ones(3, 4, requires_grad=True)
    x.grad = torch.ones(4, 3).T
    backend.add_gradient_([x], l2=1.0)
    assert x.grad.tolist() == [[3.0] * 4] * 3
    y = torch.ones(4, 6)[:, ::2].requires_grad_()
    backend.prox_([y], 0.5, l1=1.0)
    assert y.tolist() == [[0.5] * 3] * 4
    x.grad = torch.complex(torch.ones(3, 4), torch.ones(3, 4)).conj().imag
    with pytest.raises(ValueError, match="no lazy negation at '0'"):
        backend.add_gradient_([x], l2=1.0)
    with pytest.raises(ValueError, match="no lazy negation at '0'"):
        backend.decay_([x.grad], 0.5)


def test_empty_and_none():
    backend.add_gradient_([], l2=1.0)
    backend.prox_([], l1=1.0, step=1.0)
    assert backend.penalty({}, l2=1.0).item() == 0.0
    x = torch.zeros(0, 3, requires_grad=True)
    backend.add_gradient_([x], l2=1.0)
    assert x.grad.shape == (0, 3)


def test_frozen_and_repeated_tensors_get_what_the_loss_would_give():
    for params in ("all", "*.weight"):
        model = Model()
        backend.add_gradient_(model, l2=1.0, select=params)
        assert model.frozen.weight.grad is None
    w = torch.ones(2, 2, requires_grad=True)
    backend.penalty([w, w], l2=1.0).backward()
    expected = bits(w.grad)
    for _ in range(2):
        w.grad = None
        backend.add_gradient_([w, w], l2=1.0)
        assert bits(w.grad) == expected


def test_tensors_that_take_no_gradient_are_refused():
    """Unless they are parameters that were frozen, beside some that are trained."""
    w = torch.ones(2, 2, requires_grad=True)
    frozen = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    backend.add_gradient_([frozen, w], l2=0.5)
    assert frozen.grad is None
    assert (w.grad == 1.0).all()
    model = torch.nn.Linear(2, 2)
    for given, at in (
        ([torch.ones(2)], "0"),
        ([w, torch.ones(2)], "1"),
        (torch.ones(2), "0"),
        (model.state_dict(), "weight"),
        ([frozen], "0"),
    ):
        w.grad = None
        with pytest.raises(errors.LayoutError, match=f"requires grad at '{at}'.*parameters"):
            backend.add_gradient_(given, l2=1.0)
        assert w.grad is None


def test_a_grad_that_is_another_parameter_is_refused():
    a, b = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    a.grad = b.data
    with pytest.raises(ValueError, match="'0' and '1'"):
        backend.add_gradient_([a, b], l2=1.0)
    assert b.tolist() == [[1, 1], [1, 1]]
    assert b.grad is None


def test_refusals_name_what_to_do():
    model = Model()
    for weight in (torch.tensor(0.1), torch.nn.Parameter(torch.tensor(0.1))):
        with pytest.raises(errors.FastregError, match="multiply"):
            backend.penalty(model, l2=weight)
        with pytest.raises(errors.FastregError, match="multiply"):
            backend.penalty(model, l2={"hidden.*": weight})
    mixed = torch.nn.ModuleList([torch.nn.Linear(2, 2, dtype=torch.complex64)])
    with pytest.raises(TypeError, match=r"'0\.weight' of complex64; convert it"):
        backend.penalty(mixed, l2=1.0)
    with pytest.raises(TypeError, match=r"at '0\.weight': expected a tensor of float16"):
        backend.penalty(mixed, l2=1.0, select="all")
    lazy = torch.nn.Sequential(torch.nn.LazyLinear(3))
    calls = (backend.penalty, backend.add_gradient_, fastreg.penalty, fastreg.plan, fastreg.stats)
    for call in calls:
        with pytest.raises(ValueError, match="call the module once"):
            call(lazy, **({} if call is fastreg.stats else {"l2": 1.0}))
    for bad in (None, "a"):
        with pytest.raises(TypeError, match="a number as scale"):
            backend.add_gradient_(model, l2=1.0, scale=bad)
        with pytest.raises(TypeError, match="a number as step"):
            backend.prox_(model, l1=1.0, step=bad)
    for what in (model, list(model.parameters())):
        for clip in (fastreg.clip_by_global_norm_, backend.clip_by_global_norm_):
            with pytest.raises(ValueError, match="for p in model"):
                clip(what, 1.0)


def test_a_plan_notices_what_changes_in_a_module():
    def sequence():
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))

    changes = {
        "replaced": lambda m: m.__setitem__(0, torch.nn.Linear(3, 4)),
        "appended": lambda m: m.append(torch.nn.Linear(2, 2)),
        "deleted": lambda m: m.__delitem__(0),
        "registered": lambda m: m.register_parameter("w", torch.nn.Parameter(torch.ones(2, 2))),
        "frozen": lambda m: m[0].requires_grad_(False),
        "reassigned": lambda m: setattr(m[0], "weight", torch.nn.Parameter(torch.ones(4, 3))),
        "moved": lambda m: m.double(),
    }
    for name, change in changes.items():
        model = sequence()
        plan = fastreg.plan(model, l2=1.0)
        before = [w.detach().clone() for w in model.parameters()]
        assert plan.value() > 0
        change(model)
        for call in (plan.value, lambda plan=plan: plan.prox_(0.1)):
            with pytest.raises(errors.StaleError, match="make the plan anew"):
                call()
        if name in ("appended", "registered", "frozen"):
            now = [w.detach() for w in model.parameters()]
            assert all(any(torch.equal(a, b) for b in now) for a in before), name


def test_gradients_that_are_one_object_count_as_often_as_they_stand():
    a, b = (torch.ones(2, 2, requires_grad=True) for _ in range(2))
    grads = torch.autograd.grad(((a + b) ** 2).sum(), [a, b])
    if grads[0].data_ptr() != grads[1].data_ptr():
        grads = [grads[0], grads[0]]
    want = torch.nn.utils.get_total_norm(grads).item()
    assert fastreg.global_norm(grads) == pytest.approx(want, rel=1e-6)
    assert fastreg.clip_by_global_norm_(grads, 1.0) == pytest.approx(want, rel=1e-6)
    assert torch.nn.utils.get_total_norm(grads).item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_models_on_another_device():
    model = Model().cuda()
    want = backend.penalty(Model(), l1=0.1, l2=0.3).item()
    assert backend.penalty(model, l1=0.1, l2=0.3).item() == pytest.approx(want, rel=1e-6)
    backend.add_gradient_(model, l1=0.1, l2=0.3)
    backend.prox_(model, l1=2.0, l2=0.5, step=0.125)
    twin = Model()
    backend.prox_(twin, l1=2.0, l2=0.5, step=0.125)
    for a, b in zip(model.kernels(), twin.kernels(), strict=True):
        torch.testing.assert_close(a.cpu(), b)


# -- Which tensors --------------------------------------------------------------------------------


class Iterable(torch.nn.Sequential):
    """A module that iterates, and has the attributes of an array."""

    dtype = torch.float32
    shape = (3,)


@pytest.mark.parametrize("holder", [
    Iterable,
    lambda *parts: torch.nn.ModuleList(parts),
    lambda *parts: torch.nn.ModuleDict({str(k): part for k, part in enumerate(parts)}),
    torch.nn.Sequential,
])  # fmt: skip
def test_modules_that_iterate_are_modules(holder):
    module = holder(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    kernels = [module_.weight for module_ in module.modules() if type(module_) is torch.nn.Linear]
    want = backend.penalty(kernels, l1=0.1, l2=0.3, dtype="float64")
    for params in (module, {"part": module}, [module]):
        assert backend.penalty(params, l1=0.1, l2=0.3, dtype="float64") == want
        assert fastreg.penalty(params, l1=0.1, l2=0.3) == want.item()


def test_memory_that_is_shared_counts_once():
    a = torch.nn.Parameter(torch.full((2, 3), 2.0))
    b = torch.nn.Parameter(a.data)
    c = torch.nn.Parameter(a.data.T)
    module = torch.nn.Module()
    module.a, module.b, module.c = a, b, c
    for params in ([a, b, c], [a, a], (a, [b]), module, {"x": a, "y": b}):
        assert backend.penalty(params, l2=1.0).item() == 24.0
        a.grad = b.grad = c.grad = None
        backend.add_gradient_(params, l2=1.0)
        assert a.grad.tolist() == [[4.0] * 3] * 2
        assert b.grad is None
        assert c.grad is None
    assert backend.penalty([a, a.detach().clone()], l2=1.0).item() == 48.0
    backend.decay_([a, a, b], 0.5)
    assert a.tolist() == [[1.0] * 3] * 2


def test_wrappers_do_not_matter_to_names():
    model = Model()
    want = backend.penalty(model.hidden.weight, l2=0.5)
    compiled = torch.compile(model, backend="eager")
    parallel = torch.nn.DataParallel(model)
    for wrapped in (model, compiled, parallel, torch.nn.DataParallel(compiled)):
        for select in ("hidden.weight", "hidden.*t", "re:^hidden.weight"):
            assert backend.penalty(wrapped, l2=0.5, select=select) == want
        assert backend.penalty(wrapped, l2={"hidden.weight": 0.5}) == want


def test_the_class_of_a_layer_decides_before_its_name():
    module = torch.nn.Module()
    module.bn_proj = torch.nn.Linear(2, 2, bias=False)
    module.plain = torch.nn.LayerNorm((2, 2))
    want = backend.penalty(module.bn_proj.weight, l2=1.0)
    assert backend.penalty(module, l2=1.0) == want
    by_name = {"bn_proj.weight": module.bn_proj.weight, "w": torch.ones(2, 2)}
    assert backend.penalty(by_name, l2=1.0).item() == 4.0


@pytest.mark.parametrize("scale", [1.0, -3.0, math.inf])
def test_gradients_stand_as_the_container_does(scale):
    a, b, c = torch.randn(2, 3), torch.randn(4), torch.randn(3, 2, dtype=torch.float64)
    options = {"l1": 0.3, "l2": 0.7, "scale": scale}
    ga, gb, gc = (bits(backend.gradient(x, **options)) for x in (a, b, c))

    def seen(node):
        if isinstance(node, list):
            return [seen(x) for x in node]
        return None if node is None else bits(node)

    for params, want in [
        (a, ga),
        ([a, b, c], [ga, gb, gc]),
        ((a, [b, a], None, c), [ga, [gb, None], None, gc]),
        (iter([a, b]), [ga, gb]),
        ([], []),
    ]:
        again = [a, b] if isinstance(params, type(iter([]))) else params
        assert seen(backend.gradient(params, **options)) == want
        value, grads = backend.value_and_gradient(again, **options)
        assert seen(grads) == want
        assert value.item() == backend.penalty(again, l1=0.3, l2=0.7).item()
        assert not value.requires_grad
    model = Model()
    grads = backend.gradient(model, **options)
    assert list(grads) == ["embed.weight", "hidden.weight"]
    for grad, w in zip(grads.values(), model.kernels(), strict=True):
        assert bits(grad) == bits(backend.gradient(w, **options))
    assert list(backend.value_and_gradient({"w": a, "bias": b}, **options)[1]) == ["w"]
    with pytest.raises(ValueError, match="distinct names"):
        backend.gradient([("w", a), ("w", c)], l2=1.0)
    with pytest.raises(TypeError, match="at '1': expected a float array"):
        backend.value_and_gradient([a, torch.arange(3)], l2=1.0)


def test_weights_for_a_lone_tensor():
    x = torch.full((2,), 2.0)
    assert backend.penalty(x, l2=1.0, convention="half").item() == 4.0
    assert backend.penalty(x, l2=1, weights=3.0).item() == 24.0
    assert backend.penalty(x, l1=[0.5]).item() == 2.0
    assert backend.penalty(x, l2=lambda name, array: array.numel()).item() == 16.0
    assert backend.gradient(x, l2=1.0, convention="half").tolist() == [2.0, 2.0]
    assert backend.value_and_gradient(x, l2=1.0, weights=2.0)[1].tolist() == [8.0, 8.0]


# -- The other functions --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_norms_clipping_decay_and_statistics_are_the_functions(dtype):
    model = Model(dtype)
    twins = [w.detach().clone() for w in model.parameters()]
    norm = backend.global_norm(model)
    assert norm.dtype == torch.float64
    assert norm.item() == fastreg.global_norm(model)
    assert backend.global_norm(twins, dtype=dtype).dtype == dtype
    assert backend.global_norm([twins[0], None, twins[0]]).item() == fastreg.global_norm(
        [twins[0], twins[0]]
    )
    assert str(backend.stats(model)) == str(fastreg.stats(model))
    assert backend.stats(iter(twins)).total == fastreg.stats(twins).total
    grads = [w.clone() for w in twins]
    assert backend.clip_by_global_norm_(iter(grads), 0.5).item() == norm.item()
    assert fastreg.clip_by_global_norm_(twins, 0.5) == norm.item()
    assert list(map(bits, grads)) == list(map(bits, twins))
    kernels = [w.detach().clone() for w in model.kernels()]
    fastreg.decay_(kernels, 0.125)
    backend.decay_(model, 0.125)
    assert list(map(bits, model.kernels())) == list(map(bits, kernels))
    assert backend.global_norm([]).item() == 0.0
    for bad in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="rate"):
            backend.decay_(model, bad)
    with pytest.raises(ValueError, match="max_norm"):
        backend.clip_by_global_norm_(grads, -1.0)
    with pytest.raises(errors.NonFiniteError, match="'0'"):
        backend.clip_by_global_norm_([torch.tensor([math.nan])], 1.0)


def test_l2_loss_is_half_a_sum_of_squares():
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    y = backend.l2_loss(x)
    y.backward()
    assert y.item() == fastreg.l2_loss(x.detach().numpy()) == 12.5
    assert x.grad.tolist() == [3.0, 4.0]
    assert backend.l2_loss(torch.full((9,), 300.0).half()).item() == math.inf
    assert backend.l2_loss(torch.full((9,), 300.0).half(), dtype="float32").item() == 405000.0
    with pytest.raises(TypeError, match=r"torch\.as_tensor"):
        backend.l2_loss(np.ones(3))


def test_explain_is_at_hand(capsys):
    backend.explain(Model())
    assert "in   hidden.weight" in capsys.readouterr().out


# -- In programs ----------------------------------------------------------------------------------

MODEL = Model()
PARTS = list(MODEL.parameters())
IN_PROGRAMS = {
    "module": lambda: backend.penalty(MODEL, l1=0.1, l2=1),
    "glob": lambda: backend.penalty(MODEL, l2=0.1, select="*.weight", convention="half"),
    "mapping": lambda: backend.penalty(MODEL, l2={"hidden.*": 0.1}, weights={"embed.*": 2.0}),
    "callable": lambda: backend.penalty(MODEL, l2=0.1, select=lambda name, w: w.ndim == 1),
    "list": lambda: backend.penalty(PARTS, l1=0.1),
    "nested": lambda: backend.penalty([PARTS[:2], (PARTS[2], PARTS[2])], l1=0.1),
    "iterator": lambda: backend.penalty(MODEL.parameters(), l1=0.1),
    "pairs": lambda: backend.penalty(MODEL.named_parameters(), l1=0.1, select="hidden*"),
    "mapping of modules": lambda: backend.penalty({"model": MODEL}, l1=0.1),
    "gradient": lambda: backend.gradient(MODEL, l1=0.1)["hidden.weight"].sum(),
    "both": lambda: backend.value_and_gradient(MODEL, l1=0.1, dtype="float64")[0],
    "norm": lambda: backend.global_norm(PARTS),
    "scaled": lambda: backend.gradient(PARTS[0], l2=0.1, scale=1e9).sum(),
}


@pytest.mark.filterwarnings("error:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("name", IN_PROGRAMS)
def test_containers_in_compiled_programs(name):
    f = IN_PROGRAMS[name]
    got = torch.compile(f, fullgraph=True, backend="aot_eager")()
    torch.testing.assert_close(got, f(), rtol=1e-6, atol=0)


def test_programs_are_compiled_anew_only_for_what_changes_the_choice():
    model = Model()
    compiled = torch.compile(
        lambda: backend.penalty(model, l2=0.1), fullgraph=True, backend="aot_eager"
    )
    first = compiled()
    # What other calls leave in caches is not looked at.
    backend.penalty({f"w{k}": torch.ones(2, 2).double() for k in range(40)}, l2=0.1)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert compiled() == first
        with torch.no_grad():
            model.hidden.weight.mul_(2.0)
        assert compiled() > first
    model.hidden.requires_grad_(False)
    assert compiled() == backend.penalty(model.embed.weight, l2=0.1)


# -- Other devices, which are the CPU here, without its kernels -----------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    from fastreg.torch import _autograd, _dispatch, _eager, _models, _steps

    for module in (_autograd, _dispatch, _eager, _models, _steps):
        monkeypatch.setattr(module, "on_cpu", lambda x: False)


@pytest.mark.parametrize("dtype", FLOATS)
def test_other_devices_mean_the_same(dtype, elsewhere, monkeypatch):
    def steps():
        model = Model(dtype)
        value = backend.penalty(model, l1=0.1, l2=0.3)
        value.backward()
        for scale in (0.5, 2.0):
            backend.add_gradient_(model, l1=0.1, l2=0.3, scale=scale, select="all")
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        before = backend.clip_by_global_norm_([*grads, grads[0]], 0.5)
        backend.prox_(model, 0.125, l1=0.5, l2=0.1)
        backend.decay_(model, 0.25)
        both = backend.value_and_gradient(list(model.parameters()), l2=0.3, scale=2.0)
        alone = backend.value_and_gradient(model.embed.weight, l1=0.3, scale=2.0)
        norm = backend.global_norm(model)
        row = backend.stats(model)["embed.weight"]["norm"]
        numbers = [value, before, both[0], *both[1], *alone, norm, torch.tensor(row)]
        return [x.detach().double() for x in (*numbers, *grads, *model.parameters())]

    there = steps()
    monkeypatch.undo()
    tolerance = 2e-2 if dtype.itemsize == 2 else 1e-6 if dtype.itemsize == 4 else 1e-12
    for a, b in zip(there, steps(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_the_orthogonal_penalty_on_other_devices(elsewhere, monkeypatch):
    x = torch.randn(4, 5, requires_grad=True)
    value, slope = backend.orthogonal_value_and_gradient(x, factor=0.3)
    backend.orthogonal(x, factor=0.3).backward()
    torch.testing.assert_close(slope, x.grad)
    monkeypatch.undo()
    want = backend.orthogonal_value_and_gradient(x, factor=0.3)
    torch.testing.assert_close((value, slope), want)


def test_other_devices_refuse_the_same(elsewhere):
    with pytest.raises(errors.NonFiniteError, match="'1'"):
        backend.clip_by_global_norm_([torch.ones(2), torch.tensor([math.inf])], 1.0)
    bad = [torch.tensor([math.inf])]
    assert backend.clip_by_global_norm_(bad, 1.0, nonfinite="keep").item() == math.inf
    with pytest.raises(ValueError, match="for p in model"):
        backend.clip_by_global_norm_(Model(), 1.0)
    with pytest.raises(TypeError, match="int64"):
        backend.clip_by_global_norm_([torch.arange(3)], 1.0)
    with pytest.raises(ValueError, match="nonfinite"):
        backend.clip_by_global_norm_([torch.ones(2)], 1.0, nonfinite="ignore")


def trained():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    "penalty", [fastreg.penalty, lambda *a, **k: backend.penalty(*a, **k).item()]
)
def test_what_an_optimizer_keeps_is_no_weight(penalty):
    """Moments beside weights count in nothing but statistics, whatever is selected."""
    model, optimizer = trained()
    weights, moments = model.state_dict(), optimizer.state_dict()["state"]
    flat = {f"optimizer.state.{k}.{n}": x for k, d in moments.items() for n, x in d.items()}
    for held in (
        {"model": weights, "optimizer": moments},
        {"model": weights, "moments": moments},
        {"model": weights, "state": optimizer.state},
        {**{f"model.{n}": x for n, x in weights.items()}, **flat},
    ):
        for select in (None, "re:weight|exp_avg|kernel"):
            assert penalty(held, l2=1.0, select=select) == penalty(weights, l2=1.0, select=None)
    arrays = {"w": np.ones((2, 2)), "exp_avg": np.ones((2, 2))}
    assert fastreg.penalty(arrays, l2=1.0) == fastreg.penalty(arrays, l2=1.0, select="all") == 4.0
    assert fastreg.stats({"optimizer": moments}).names[:2] == (
        "optimizer.0.step",
        "optimizer.0.exp_avg",
    )
    for alone in (moments, optimizer.state):
        with pytest.raises(errors.ArgumentError, match=r"of an optimizer.*the model's own part"):
            penalty(alone, l2=1.0)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (lambda m, o: o.param_groups, "pass [p for group in optimizer.param_groups"),
        (lambda m, o: o, "pass the model whose weights it trains"),
        (lambda m, o: o.state_dict(), "pass the model's part alone"),
        (
            lambda m, o: {"model": m.state_dict(), "optimizer": o.state_dict()},
            "pass the model's part alone",
        ),
    ],
)
def test_optimizers_are_refused_with_what_to_pass(held, said):
    model, optimizer = trained()
    for verb in (fastreg.penalty, backend.penalty, backend.add_gradient_):
        with pytest.raises(errors.DTypeError, match=re.escape(said)):
            verb(held(model, optimizer), l2=1.0)
    groups = [p for group in optimizer.param_groups for p in group["params"]]
    assert fastreg.penalty(groups, l2=1.0) == fastreg.penalty(model, l2=1.0, select="all")


W = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
NUMBERS = {
    "penalty": (lambda x: backend.penalty(x, l2=0.5), lambda x: (x * x).sum() / 2),
    "of a list": (lambda x: backend.penalty([x, x * 2], l2=0.5), lambda x: 2.5 * (x * x).sum()),
    "of names": (lambda x: backend.penalty({"w": x}, l1=0.5), lambda x: x.abs().sum() / 2),
    "loss": (backend.l2_loss, lambda x: (x * x).sum() / 2),
    "orthogonal": (
        lambda x: backend.orthogonal(x, factor=0.5),
        lambda x: _native.orthogonal(x, 0.5, True, torch.float32),
    ),
    "gradient": (lambda x: (backend.gradient(x, l2=0.5) ** 2).sum(), lambda x: (x * x).sum()),
    "value of both": (
        lambda x: backend.value_and_gradient(x, l2=0.5)[0],
        lambda x: (x * x).sum() / 2,
    ),
    "gradient of both": (
        lambda x: (backend.value_and_gradient([x], l2=0.5)[1][0] ** 2).sum(),
        lambda x: (x * x).sum(),
    ),
    "value of orthogonality": (
        lambda x: backend.orthogonal_value_and_gradient(x, factor=0.5)[0],
        lambda x: _native.orthogonal(x, 0.5, True, torch.float32),
    ),
    "norm": (lambda x: backend.global_norm([x, 2 * x]), lambda x: 5**0.5 * x.norm()),
}


def tangent(f):
    with torch.autograd.forward_ad.dual_level():
        x = torch.autograd.forward_ad.make_dual(W, torch.ones_like(W))
        return torch.autograd.forward_ad.unpack_dual(f(x)).tangent


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, in forward mode
@pytest.mark.parametrize("verb", NUMBERS)
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.func.grad(f)(W),
        lambda f: torch.func.jacrev(f)(W),
        lambda f: torch.func.jacfwd(f)(W),
        lambda f: torch.func.hessian(f)(W),
        lambda f: torch.func.vmap(f)(torch.stack([W, 2 * W])),
        lambda f: torch.func.jvp(f, (W,), (torch.ones_like(W),))[1],
        tangent,
    ],
    ids=["grad", "jacrev", "jacfwd", "hessian", "vmap", "jvp", "forward mode"],
)
def test_transforms_of_every_number(verb, transform):
    """What is in no graph of autograd has a derivative for torch.func, not one of zero."""
    f, plain = NUMBERS[verb]
    got, want = transform(f), transform(plain)
    assert want.abs().sum() > 0 or (want == 0).all()
    torch.testing.assert_close(got.float(), want.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "verb",
    [
        lambda x: backend.decay_([x], 0.5),
        lambda x: backend.prox_([x], 0.5, l1=1.0),
        lambda x: backend.add_gradient_([x], l2=1.0),
        lambda x: backend.clip_by_global_norm_([x], 1.0),
        lambda x: backend.stats([x]),
        lambda x: fastreg.penalty([x], l2=1.0),
        lambda x: fastreg.global_norm([x]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd, torch.func.vmap])
def test_what_reads_or_writes_memory_refuses_transforms(verb, transform):
    def function(x):
        y = x * 1.0
        verb(y)
        return y.sum()

    with pytest.raises(errors.FastregError, match=r"tensor with memory at '0'|at '0': expected"):
        transform(function)(W)


@pytest.mark.parametrize("convention", ["keras", "half"])
def test_a_weight_may_change_from_step_to_step_in_a_program(convention):
    torch._dynamo.reset()

    def step(module, strength):
        return backend.penalty(module, l1=0.5, l2=strength, convention=convention)

    program = torch.compile(step, fullgraph=True, backend="aot_eager")
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    for strength in (0.125, 0.25, 0.5):
        torch.testing.assert_close(program(module, strength), step(module, strength))
