# SPDX-License-Identifier: BSD-3-Clause
"""The PyTorch backend: the same bits as NumPy, in every mode of execution.

`tests/checklist.md` maps Keras' numbered behaviours to the tests.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import fastreg
from fastreg import errors
from fastreg import regularizers as R

torch = pytest.importorskip("torch", reason="needs the package torch")
import fastreg.torch as backend  # noqa: E402
from fastreg.torch import _autograd, _native  # noqa: E402

# Of torch's own doing, in a few of the modes below.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support.*:UserWarning"),
]

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
WEIGHTS = [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7)]


def sample(*shape, dtype=torch.float32, seed=0, **options):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).requires_grad_(**options) if options else x.to(dtype)


def host(x):
    """The tensor's numbers for the NumPy functions, without this backend."""
    x = x.detach()
    if x.dtype == torch.bfloat16:
        return fastreg.bf16_view(x.contiguous().view(torch.int16).numpy().view(np.uint16))
    return x.numpy()


def bits(x):
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.dtype.itemsize]
    return x.detach().contiguous().view(kind)


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert torch.equal(bits(a), bits(b))


def numpy_gradient(x, l1, l2, scale=1.0):
    """fastreg.gradient of the same memory, as a tensor."""
    out = torch.empty(x.shape, dtype=x.dtype)
    target = (
        out.view(torch.int16).numpy().view(np.uint16)
        if x.dtype == torch.bfloat16
        else (out.numpy())
    )
    if x.dtype == torch.bfloat16:
        target = fastreg.bf16_view(target)
    fastreg.gradient(host(x), l1=l1, l2=l2, scale=scale, out=target)
    return out


# -- Values and gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("l1", "l2"), WEIGHTS)
@pytest.mark.parametrize("shape", [(), (1,), (17,), (3, 5), (70_000,)])
def test_the_bits_of_numpy(dtype, l1, l2, shape):
    x = sample(*shape, dtype=dtype, requires_grad=True)
    y = backend.penalty(x, l1=l1, l2=l2)
    assert y.shape == ()
    assert y.dtype == dtype
    assert y.device.type == "cpu"
    assert y.requires_grad
    assert y.item() == float(fastreg.value(host(x), l1=l1, l2=l2))
    y.backward()
    same(x.grad, numpy_gradient(x, l1, l2))
    same(backend.gradient(x, l1=l1, l2=l2), x.grad)
    value, gradient = backend.value_and_gradient(x, l1=l1, l2=l2)
    assert value.item() == y.item()
    assert not value.requires_grad
    same(gradient, x.grad)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("factor", [1.0, 3.0, 1e-3, -2.5, 0.0])
def test_the_upstream_gradient_is_inside_the_rounding(dtype, factor):
    for repeat in range(3):  # the second forward pass knows what the first backward pass met
        x = sample(500, dtype=dtype, seed=repeat, requires_grad=True)
        (backend.penalty(x, l1=0.3, l2=0.7, dtype=torch.float64) * factor).backward()
        same(x.grad, numpy_gradient(x, 0.3, 0.7, factor))


def test_loss_scaling_keeps_what_would_vanish():
    x = torch.full((10,), 1e-4, dtype=torch.float16, requires_grad=True)
    (R.L2(1e-5, dtype="float32")(x) * 65536).backward()
    assert x.grad[0].item() == pytest.approx(2e-5 * 1e-4 * 65536, rel=1e-3)
    y = x.detach().requires_grad_()
    R.L2(1e-5)(y).backward()
    assert (y.grad == 0).all()


@pytest.mark.parametrize("factor", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("l1", "l2"), [*WEIGHTS, (0.0, 0.0)])
def test_a_loss_that_overflowed_is_seen(factor, l1, l2):
    x = sample(20, requires_grad=True)
    (backend.penalty(x, l1=l1, l2=l2) * factor).backward()
    assert torch.isfinite(x.grad).any() == (l1 == l2 == 0.0)
    same(x.grad, numpy_gradient(x, l1, l2, factor))
    same(x.grad, backend.gradient(x, l1=l1, l2=l2, scale=factor))


def test_empty_and_specials():
    for shape in ((0,), (0, 3)):
        x = torch.zeros(shape, requires_grad=True)
        y = R.L1L2(0.1, 0.2)(x)
        y.backward()
        assert y.item() == 0
        assert x.grad.shape == shape
    assert math.isnan(R.L1(0.5)(torch.tensor([1.0, math.nan, math.inf])))
    assert R.L2(0.5)(torch.tensor([1.0, -math.inf])) == math.inf


def test_zero_factors():
    x = torch.tensor([math.nan, math.inf, 1.0], requires_grad=True)
    for one in (R.L1L2(), R.L1(0.0), R.L2(0.0)):
        y = one(x)
        assert y.item() == 0
        (gradient,) = torch.autograd.grad(y, x)
        assert gradient.tolist() == [0, 0, 0]
        (gradient,) = torch.autograd.grad(2 * one(x), x)
        assert gradient.tolist() == [0, 0, 0]


def test_gradients_at_specials():
    x = torch.tensor([0.0, -0.0, 1, -2, math.nan], requires_grad=True)
    (one,) = torch.autograd.grad(R.L1(0.5)(x), x)
    np.testing.assert_array_equal(one.numpy(), [0, 0, 0.5, -0.5, np.nan])
    (two,) = torch.autograd.grad(R.L2(0.5)(x), x)
    np.testing.assert_array_equal(two.numpy(), [0, 0, 1, -2, np.nan])
    tiny = torch.tensor([3e-39, 1e-45], requires_grad=True)
    (one,) = torch.autograd.grad(R.L1(0.1)(tiny), tiny)
    assert one.tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_layouts(dtype):
    base = sample(8, 6, dtype=dtype)
    for view in (base.T, base[::2, 1:4], base[:, 3], base[0:1].expand(5, 6), base[3, 2]):
        x = view.detach().requires_grad_()
        plain = view.clone(memory_format=torch.contiguous_format)
        y = backend.penalty(x, l1=0.3, l2=0.7)
        assert y.item() == backend.penalty(plain, l1=0.3, l2=0.7).item()
        (gradient,) = torch.autograd.grad(y, x)
        same(gradient, numpy_gradient(plain, 0.3, 0.7))
    four = sample(2, 3, 4, 5, dtype=dtype).to(memory_format=torch.channels_last)
    four.requires_grad_()
    backend.penalty(four, l2=1.0).backward()
    same(four.grad, numpy_gradient(four.detach().contiguous(), 0.0, 1.0))


def test_views_with_lazy_signs():
    x = torch.complex(sample(5), sample(5, seed=1)).conj().imag
    assert x.is_neg()
    assert backend.penalty(x, l2=1.0) == backend.penalty(x.resolve_neg(), l2=1.0)
    y = torch.randn(4, dtype=torch.float16)
    assert backend.penalty(y.view(2, 2).T, l1=1.0) == backend.penalty(y, l1=1.0)


def test_large_gradients_are_ordinary_tensors():
    x = sample(3 << 19, requires_grad=True)
    backend.penalty(x, l1=0.1, l2=0.2).backward()
    same(x.grad, numpy_gradient(x, 0.1, 0.2))
    assert x.grad.data_ptr() % 64 == 0
    x.grad.add_(1.0)
    half = sample(2 << 20, dtype=torch.bfloat16, requires_grad=True)
    backend.penalty(half.view(2, -1), l1=0.1).backward()
    same(half.grad, numpy_gradient(half, 0.1, 0.0))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.uint8, torch.int32, torch.int64])
def test_integers(dtype):
    x = torch.tensor([[1, 0, 3], [0, 2, 4]]).to(dtype)
    y = R.L1L2(0.01, 0.02)(x)
    assert y.dtype == torch.float64
    assert y.item() == float(fastreg.value(x.numpy(), l1=0.01, l2=0.02))
    assert not y.requires_grad
    with pytest.raises(TypeError, match="differentiate"):
        R.L2().gradient(x)


def test_parameters_and_subclasses():
    w = torch.nn.Parameter(sample(5))
    y = R.L2(0.5)(w)
    assert type(y) is torch.Tensor
    assert y.requires_grad

    class Mine(torch.Tensor):
        pass

    x = sample(5).as_subclass(Mine)
    assert float(R.L2(0.5)(x)) == float(R.L2(0.5)(sample(5)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_penalties_of_half_precision(dtype):
    x = torch.full((128, 64), 256.0, dtype=dtype, requires_grad=True)
    y = R.L2(1e-4, dtype="float32")(x)
    assert y.dtype == torch.float32
    assert y.item() == np.float32(1e-4 * 8192 * 65536)
    y.backward()
    assert x.grad.dtype == dtype
    assert R.L2(1e-4, dtype=torch.float32).dtype == "float32"
    assert backend.penalty(x, l2=1e-4, dtype="float64").dtype == torch.float64


def test_bad_input():
    cases = [
        (torch.ones(3, dtype=torch.complex64), TypeError, "complex64"),
        (torch.ones(3).to(torch.float8_e4m3fn), TypeError, "float8"),
        (torch.eye(3).to_sparse(), TypeError, "sparse_coo"),
        (torch.eye(3).to_sparse_csr(), TypeError, "sparse_csr"),
        (np.ones(3), TypeError, "torch.as_tensor"),
        (3.0, TypeError, "float"),
        ("x", TypeError, "str"),
        ([1.0], TypeError, "float"),
        ([np.ones(3)], AttributeError, "at '0': expected a torch.Tensor"),
    ]
    for x, kind, text in cases:
        with pytest.raises(kind, match=text) as e:
            backend.penalty(x, l2=1.0)
        assert isinstance(e.value, errors.FastregError)
        assert "expected" in str(e.value)
    x = torch.ones(3)
    for weight in (-1.0, math.nan, math.inf, np.float32(-1)):
        with pytest.raises(ValueError, match="l2"):
            backend.penalty(x, l2=weight)
        with pytest.raises(ValueError, match="l1"):
            backend.gradient(x, l1=weight)
    for call in (backend.penalty, backend.gradient, backend.value_and_gradient):
        with pytest.raises(ValueError, match="a weight, l1= or l2=; received neither"):
            call(x)
    with pytest.raises(TypeError, match="float16, bfloat16, float32, float64"):
        backend.penalty(x, l2=1.0, dtype=torch.int32)
    with pytest.raises(TypeError):
        backend.penalty(x, 1.0)


def test_refused_weights_and_containers_say_what_to_pass():
    for weight in ("a", 1j, torch.ones(()), True):
        with pytest.raises(TypeError, match="expected a number as weight l2; received"):
            backend.penalty(torch.ones(2), l2=weight)
    for x in (torch.nn.Linear, object(), [torch.ones(2), "x"], np.ones((2, 2)), {"a": "x"}):
        with pytest.raises(TypeError, match="expected a"):
            backend.penalty(x, l2=1.0)


def test_lazy_parameters_are_refused_until_they_have_a_shape():
    module = torch.nn.LazyLinear(3)
    for call in (R.L2(), R.OrthogonalRegularizer(), lambda w: backend.penalty([w], l2=1.0)):
        with pytest.raises(ValueError, match=r"with a shape.*call the module once"):
            call(module.weight)
    module(torch.ones(2, 5))
    assert R.L2(0.5)(module.weight).requires_grad


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors:UserWarning")
def test_masked_tensors_are_refused():
    x = torch.masked.masked_tensor(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
    with pytest.raises(TypeError, match=r"get_data\(\)\[x.get_mask\(\)\]"):
        R.L2()(x)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype.*:UserWarning")
def test_nested_tensors_are_refused():
    with pytest.raises(TypeError, match="nested"):
        backend.penalty(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), l2=1.0)


# -- Lists ----------------------------------------------------------------------------------------


def test_ragged_lists():
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    y = backend.penalty(model.parameters(), l1=0.1, l2=0.2)
    arrays = [p.detach().numpy() for p in model.parameters()]
    assert y.dtype == torch.float32
    expected = fastreg.penalty(arrays, l1=0.1, l2=0.2, dtype="float32")
    assert y.item() == expected
    (3 * y).backward()
    for p in model.parameters():
        same(p.grad, numpy_gradient(p, 0.1, 0.2, 3.0))
    weights = [0.1 if p.ndim > 1 else 0.0 for p in model.parameters()]
    alone = backend.penalty(list(model.parameters()), l2=weights, dtype=torch.float64)
    assert alone.item() == fastreg.penalty(arrays, l2=weights)
    mixed = [sample(3), sample(3, dtype=torch.float64)]
    assert backend.penalty(mixed, l2=1.0).dtype == torch.float64
    assert backend.penalty([sample(3, dtype=torch.bfloat16)], l2=1.0).dtype == torch.bfloat16
    assert backend.penalty([], l2=1.0).item() == 0
    with pytest.raises(ValueError, match="2 numbers l1"):
        backend.penalty([sample(3), sample(4)], l1=[1.0])


def test_lists_have_second_derivatives_and_frozen_members():
    a, b, c = sample(3, requires_grad=True), sample(4), sample(5, requires_grad=True)
    y = backend.penalty([a, b, c], l2=0.5)
    (g,) = torch.autograd.grad(y, a, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), a)
    assert h.tolist() == [1.0, 1.0, 1.0]
    backend.penalty([a, b, c], l2=0.5).backward()
    assert b.grad is None
    same(c.grad, numpy_gradient(c, 0.0, 0.5))


# -- Autograd -------------------------------------------------------------------------------------


def test_no_graph_without_need():
    x = sample(5, requires_grad=True)
    with torch.no_grad():
        assert R.L2()(x).grad_fn is None
    with torch.inference_mode():
        assert not R.L2()(x).requires_grad
    assert not R.L2()(x.detach()).requires_grad
    assert R.L2()(x).requires_grad
    assert not R.L2().gradient(x).requires_grad


def test_the_gradient_is_given_and_not_copied():
    _autograd.expect_one[:] = [True, True]
    x = sample(1000, requires_grad=True)
    y = backend.penalty(x, l2=0.5)
    ready = y.grad_fn.gradients[0].data_ptr()
    y.backward()
    assert x.grad.data_ptr() == ready


def test_backward_twice():
    x = sample(100, requires_grad=True)
    y = backend.penalty(x, l1=0.1, l2=0.2)
    y.backward(retain_graph=True)
    once = x.grad.clone()
    y.backward()
    same(x.grad, once + once)
    z = 2 * backend.penalty(x, l2=0.2)
    z.backward()
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("one", [R.L2(0.5), R.OrthogonalRegularizer(0.5)], ids=["L2", "orthogonal"])
def test_an_input_written_to_since_is_an_error_whatever_the_factor(one, factor):
    x = sample(3, 3, requires_grad=True)
    y = one(x) * factor
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_loss_scaling_of_the_orthogonal_one():
    x = sample(3, 3, dtype=torch.float16, requires_grad=True)
    (expected,) = torch.autograd.grad(R.OrthogonalRegularizer(1e-7 * 65536, dtype="float32")(x), x)
    (got,) = torch.autograd.grad(R.OrthogonalRegularizer(1e-7, dtype="float32")(x) * 65536, x)
    assert expected.abs().max() > 1e-4
    assert torch.allclose(got, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    for factor in (1.0, 3.0):
        x = sample(20, requires_grad=True)
        y = torch.utils.checkpoint.checkpoint(
            lambda x: backend.penalty(x * 2, l2=0.5), x, use_reentrant=reentrant
        )
        (y * factor).backward()
        assert torch.allclose(x.grad, 4 * factor * x.detach())


def test_saved_tensors_may_be_packed():
    x = sample(5, requires_grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True),
                                                     torch.from_numpy)  # fmt: skip
    with hooks:
        y = 3 * backend.penalty(x, l2=0.5)
    y.backward()
    same(x.grad, numpy_gradient(x, 0.0, 0.5, 3.0))


def test_second_derivatives():
    x = sample(6, requires_grad=True)
    for one, second in ((R.L1(0.3), 0.0), (R.L2(0.3), 0.6), (R.L1L2(0.3, 0.3), 0.6)):
        (g,) = torch.autograd.grad(3 * one(x), x, create_graph=True)
        (h,) = torch.autograd.grad(g.sum(), x)
        assert h.tolist() == pytest.approx([3 * second] * 6)
    y = backend.penalty(x, l2=0.5)  # a gradient penalty, as people write it
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    (g.square().sum()).backward()
    same(x.grad, 2 * x.detach())


@pytest.mark.parametrize("seed", range(2))
def test_gradcheck(seed):
    x = sample(20, dtype=torch.float64, seed=seed, requires_grad=True)

    def scaled(x, u):
        return backend.penalty(x, l1=0.3, l2=0.7) * u

    u = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    for f, inputs in [
        (lambda x: backend.penalty(x, l1=0.3, l2=0.7), (x,)),
        (lambda x: torch.ops.fastreg.penalty(x, 0.3, 0.7), (x,)),
        (scaled, (x, u)),
        (lambda a, b: backend.penalty([a, b], l1=0.3, l2=0.7), (x, sample(3, dtype=torch.float64,
                                                                      requires_grad=True))),
    ]:  # fmt: skip
        assert torch.autograd.gradcheck(f, inputs)
        assert torch.autograd.gradgradcheck(f, inputs)
    assert torch.autograd.gradcheck(
        lambda x: backend.penalty(x, l1=0.3, l2=0.7), x,
        check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True,
    )  # fmt: skip
    m = x.detach().reshape(4, 5).requires_grad_()
    for mode in ("rows", "columns"):
        assert torch.autograd.gradcheck(R.OrthogonalRegularizer(0.3, mode), m)
        assert torch.autograd.gradgradcheck(R.OrthogonalRegularizer(0.3, mode), m)


def test_func_transforms():
    def f(x):
        return backend.penalty(x, l1=0.3, l2=0.7)

    x = sample(4, 6)
    same(torch.func.grad(f)(x[0]), backend.gradient(x[0], l1=0.3, l2=0.7))
    value = torch.func.grad_and_value(f)(x[0])[1]
    assert value.item() == f(x[0]).item()
    same(torch.vmap(f)(x), torch.stack([f(row) for row in x]))
    same(torch.vmap(f, in_dims=1)(x), torch.stack([f(row) for row in x.T]))
    same(torch.vmap(torch.func.grad(f))(x), backend.gradient(x, l1=0.3, l2=0.7))
    expected = 1.4 * torch.eye(6)
    assert torch.allclose(torch.func.hessian(f)(x[0]), expected)
    assert torch.allclose(torch.func.jacrev(torch.func.jacrev(f))(x[0]), expected)
    assert torch.allclose(torch.func.jacrev(torch.func.grad(f))(x[0]), expected)
    value, tangent = torch.func.jvp(f, (x[0],), (x[1],))
    assert value.item() == f(x[0]).item()
    assert tangent.item() == pytest.approx(float(backend.gradient(x[0], l1=0.3, l2=0.7) @ x[1]))
    assert torch.allclose(torch.autograd.functional.hvp(f, x[0], x[1])[1], 1.4 * x[1])
    slope = torch.func.grad(R.OrthogonalRegularizer())(x)
    assert torch.allclose(slope, R.OrthogonalRegularizer().gradient(x), atol=1e-7)
    same(torch.vmap(lambda x: backend.gradient(x, l1=0.3))(x), backend.gradient(x, l1=0.3))


def elastic(x):
    return backend.penalty(x, l1=0.25, l2=0.5)


TRANSFORMED = {
    "vmap": torch.vmap(elastic),
    "vmap of grad": torch.vmap(torch.func.grad(elastic)),
    "grad": torch.func.grad(elastic),
    "jvp": lambda x: torch.func.jvp(elastic, (x,), (x.cos(),))[1],
    "hessian": lambda x: torch.func.hessian(elastic)(x[0]),
    "list": torch.func.grad(lambda x: backend.penalty([x, x + 1], l2=0.5)),
    "vmap of gradient": torch.vmap(lambda x: backend.gradient(x, l2=0.5)),
    "both": lambda x: backend.value_and_gradient(x, l1=0.25)[1],
    "orthogonal": lambda x: backend.orthogonal(x, factor=0.3),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transforms_within_recorded_programs(name):
    from torch.fx.experimental.proxy_tensor import make_fx

    f = TRANSFORMED[name]
    graph = make_fx(f)(sample(3, 4))
    x = sample(3, 4, seed=9)
    assert torch.allclose(graph(x), f(x), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
def test_linearize_has_the_directional_derivative():
    x, t = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.0, 1.0, 2.0])
    value, along = torch.func.linearize(elastic, x)
    assert value.item() == elastic(x).item()
    assert along(t).item() == pytest.approx(float(backend.gradient(x, l1=0.25, l2=0.5) @ t))


def test_forward_mode_in_compiled_programs():
    from torch.autograd import forward_ad

    def f(x, t):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(elastic(forward_ad.make_dual(x, t))).tangent

    x, t = sample(5), sample(5, seed=1)
    assert torch.allclose(torch.compile(f, backend="aot_eager")(x, t), f(x, t))


def test_functionalize():
    x = sample(3, 4)
    for f in (elastic, torch.func.grad(elastic), TRANSFORMED["list"],
              lambda x: backend.gradient(x, l2=0.5)):  # fmt: skip
        assert torch.allclose(torch.func.functionalize(f)(x), f(x))


def test_distributed_tensors():
    if not torch.distributed.is_available():
        pytest.skip("this build of torch has no torch.distributed")
    code = """
import torch
import torch.distributed as processes
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
import fastreg.torch as backend
from fastreg import regularizers as R
store = processes.HashStore()
processes.init_process_group("gloo", store=store, rank=0, world_size=1)
plain = torch.arange(12.0).reshape(4, 3) - 5
x = distribute_tensor(plain, init_device_mesh("cpu", (1,)), [Shard(0)]).requires_grad_()
one = R.L1L2(0.25, 0.5)
y = one(x)
y.backward()
same = lambda a, b: torch.testing.assert_close(a.full_tensor(), b)
same(y.detach(), one(plain))
same(x.grad, one.gradient(plain))
same(backend.gradient(x, l2=0.5), plain)
same(backend.penalty([x, 2 * x], l2=0.5).detach(), 5 * backend.penalty(plain, l2=0.5))
same(backend.penalty([x, x], l2=0.5).detach(), backend.penalty(plain, l2=0.5))
torch.testing.assert_close(R.OrthogonalRegularizer()(x).detach(), R.OrthogonalRegularizer()(plain))
processes.destroy_process_group()
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-3000:]


# -- Programs -------------------------------------------------------------------------------------


def test_opcheck():
    x = sample(5, 6, dtype=torch.float64, requires_grad=True)
    u = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for arguments in [(x, 0.3, 0.7), (x.detach().half().T, 0.3, 0.7, torch.float32),
                      (torch.arange(4), 0.3, 0.7)]:  # fmt: skip
        done = torch.library.opcheck(torch.ops.fastreg.penalty, arguments)
        assert set(done.values()) == {"SUCCESS"}
    for arguments in [(x, u, 0.3, 0.7), (x.detach().T, u.detach(), 0.3, 0.0),
                      (x.detach()[:, ::2], u.detach(), 0.0, 0.7)]:  # fmt: skip
        done = torch.library.opcheck(torch.ops.fastreg.gradient, arguments)
        assert set(done.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", FLOATS)
def test_compiled_programs_have_no_break(dtype):
    one = R.L1L2(0.3, 0.7, dtype="float32")

    def f(x):
        return one(x * 2) + x.float().sum()

    x = sample(40, dtype=dtype, requires_grad=True)
    y = torch.compile(f, fullgraph=True, backend="aot_eager")(x)
    y.backward()
    got = x.grad
    x.grad = None
    expected = f(x)
    expected.backward()
    assert y.item() == expected.item()
    same(got, x.grad)


def test_programs_with_breaks():
    """What runs between two graphs, and the backward pass that it starts, stay eager."""
    model = torch.nn.Linear(8, 8)
    one = R.L1L2(0.1, 0.2)

    def step(x):
        loss = model(x).square().mean()
        torch._dynamo.graph_break()
        loss = loss + one(model.weight) + sum(one(p.double()) for p in model.parameters())
        loss.backward()
        return loss.detach()

    compiled = torch.compile(step, backend="aot_eager")
    for n in (4, 5, 6):  # the second length makes sizes symbolic
        x = sample(n, 8)
        model.zero_grad()
        expected = step(x)
        wanted = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        assert compiled(x).item() == pytest.approx(expected.item())
        for p, g in zip(model.parameters(), wanted, strict=True):
            assert torch.allclose(p.grad, g)


def test_other_verbs_compile():
    x = sample(4, 6)
    compiled = {
        "list": lambda x: backend.penalty([x, x + 1], l2=1.0),
        "gradient": lambda x: backend.gradient(x, l1=0.3, l2=0.7),
        "scaled gradient": lambda x: backend.gradient(x, l1=0.3, l2=0.7, scale=1e9),
        "both": lambda x: backend.value_and_gradient(x, l1=0.3, l2=0.7)[1],
        "grad": torch.func.grad(lambda x: backend.penalty(x, l1=0.3, l2=0.7)),
        "orthogonal": lambda x: backend.orthogonal(x, factor=0.3),
        "base": lambda x: R.L1()(x) + R.L2(0.5)(x),
    }
    for f in compiled.values():
        got = torch.compile(f, fullgraph=True, backend="aot_eager")(x)
        assert torch.allclose(got, f(x))


def test_a_process_that_has_not_met_the_backend(tmp_path, soak):
    code = (
        f"BACKEND = {'inductor' if soak else 'aot_eager'!r}"
        + """
import torch
from fastreg import regularizers as R
x = torch.arange(9.0, requires_grad=True)
f = torch.compile(lambda x: R.L1L2(0.25, 0.5)(x) + x.sum(), fullgraph=True, backend=BACKEND)
y = f(x)
y.backward()
print(y.item(), x.grad.tolist())
"""
    )
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    if "InvalidCxxCompiler" in out.stderr or "Python.h" in out.stderr:
        pytest.skip("inductor needs a C++ compiler and Python's headers")
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.strip() == f"147.0 {[1.0, *[1.25 + i for i in range(1, 9)]]}"


def test_export_and_make_fx():
    class Model(torch.nn.Module):
        def forward(self, x):
            return R.L2(0.5)(x)

    x = sample(7)
    program = torch.export.export(Model(), (x,))
    assert "fastreg.penalty" in str(program.graph)
    assert program.module()(x).item() == R.L2(0.5)(x).item()
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: backend.penalty(x, l1=0.3, l2=0.7))(x)
    assert "fastreg.penalty" in graph.code
    other = sample(7, seed=5)
    assert graph(other).item() == backend.penalty(other, l1=0.3, l2=0.7).item()


def test_meta_and_fake_tensors():
    x = torch.empty(3, 4, device="meta", requires_grad=True)
    for one in (R.L1(), R.L2(), R.L1L2(0.1, 0.1), R.OrthogonalRegularizer(), R.L1L2()):
        y = one(x)
        assert y.device.type == "meta"
        assert y.shape == ()
        assert y.dtype == torch.float32
    R.L2()(x).backward()
    assert x.grad.device.type == "meta"
    assert R.L2(dtype="float64")(x.bfloat16()).dtype == torch.float64
    with pytest.raises(TypeError, match="complex"):
        R.L2()(torch.empty(3, dtype=torch.complex64, device="meta"))
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert R.L2()(torch.ones(3)).shape == ()


def test_default_devices_do_not_matter():
    x = sample(5)
    with torch.device("meta"):
        y = R.L2(0.5)(x)
    assert y.device.type == "cpu"
    same(y, R.L2(0.5)(x))


# -- Other devices: torch's own operations, here on the CPU ---------------------------------------


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int32])
@pytest.mark.parametrize(("l1", "l2"), WEIGHTS)
def test_native_operations_mean_the_same(dtype, l1, l2):
    x = (sample(300, dtype=torch.float64) * 3).to(dtype)
    result = dtype if dtype.is_floating_point else torch.float64
    expected = backend.penalty(x, l1=l1, l2=l2).item()
    tolerance = 1e-2 if result.itemsize == 2 else 1e-6 if result.itemsize == 4 else 1e-13
    assert _native.value(x, l1, l2, result).item() == pytest.approx(expected, rel=tolerance)
    if not dtype.is_floating_point:
        return
    y = x.clone().requires_grad_()
    value = _native.penalty(y, l1, l2, result)
    assert value.item() == pytest.approx(expected, rel=tolerance)
    value.backward()
    u = torch.tensor(1.0)
    exact = backend.gradient(x, l1=l1, l2=l2).double()
    for got in (y.grad, _native.gradient(x, u, l1, l2)):
        assert got.dtype == dtype
        assert torch.allclose(got.double(), exact, rtol=tolerance)
    odd = torch.tensor([0.0, math.nan], requires_grad=True)
    _native.penalty(odd, 0.5, 0.0, torch.float32).backward()
    assert odd.grad[0].item() == 0
    assert math.isnan(odd.grad[1].item())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", FLOATS)
def test_cuda(dtype):
    x = sample(1000, dtype=dtype)
    y = x.cuda().requires_grad_()
    for one in (R.L1(0.3), R.L2(0.7), R.L1L2(0.3, 0.7)):
        value = one(y)
        assert value.device == y.device
        (gradient,) = torch.autograd.grad(3 * value, y)
        rel = 1e-2 if dtype.itemsize == 2 else 1e-6
        assert value.item() == pytest.approx(one(x).item(), rel=rel)
        assert torch.allclose(gradient.cpu().double(), 3 * one.gradient(x).double(), rtol=rel)
    assert torch.compile(R.L2(0.5), fullgraph=True)(y).device == y.device


# -- Orthogonality --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rows", "columns"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_orthogonal(dtype, mode):
    x = sample(5, 7, dtype=dtype, requires_grad=True)
    one = R.OrthogonalRegularizer(0.3, mode)
    y = one(x)
    assert y.dtype == dtype
    y.backward()
    value, gradient = one.value_and_gradient(x)
    same(value, y.detach())
    same(gradient, x.grad)
    wide = x.detach().double().requires_grad_()
    expected = _native.orthogonal(wide, 0.3, mode == "rows", torch.float64)
    expected.backward()
    tolerance = 1e-2 if dtype.itemsize == 2 else 1e-5
    assert y.item() == pytest.approx(expected.item(), rel=tolerance)
    assert torch.allclose(x.grad.double(), wide.grad, rtol=3e-2, atol=tolerance * 1e-1)
    if dtype != torch.bfloat16:
        both = one.value_and_gradient(x.detach().numpy())
        assert y.item() == both[0]
        np.testing.assert_array_equal(gradient.numpy(), both[1])


def test_orthogonal_edges():
    one = R.OrthogonalRegularizer(0.5)
    x = torch.ones(1, 3, requires_grad=True)
    y = one(x)
    y.backward()
    assert y.item() == 0  # Keras: NaN
    assert x.grad.tolist() == [[0, 0, 0]]
    assert one(torch.ones(2, 3, dtype=torch.int32)).item() == pytest.approx(0.5)
    with pytest.raises(AttributeError, match=r"torch\.as_tensor"):
        backend.orthogonal(np.ones((2, 2)), factor=0.5)
    for bad in (torch.ones(3), torch.ones(2, 2, 2)):
        with pytest.raises(ValueError, match="rank 2"):
            one(bad)
    assert _native.orthogonal(x, 0.5, True, torch.float32).item() == 0


# -- Keras on torch -------------------------------------------------------------------------------


def run_with_keras(code, tmp_path):
    if find_spec("keras") is None:
        pytest.skip("needs the package keras")
    env = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path),
           "PYTHONWARNINGS": "ignore"}  # fmt: skip
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert out.returncode == 0, out.stderr[-3000:]
    return out.stdout


def test_training_equals_keras(tmp_path, soak):
    out = run_with_keras(
        f"SOAK = {soak}"
        """
import numpy as np, keras
from fastreg import regularizers as R
K = keras.regularizers
v = keras.Variable(np.ones((2, 3), "float32"))
print(float(R.L2(0.1)(v)), R.L2(0.1)(v).dtype)
d = keras.layers.Dense(2, kernel_initializer="ones", kernel_regularizer=R.L2(0.1),
                       activity_regularizer=R.L1(0.1))
d(np.full((4, 3), 2.0, "float32"))
print([round(float(x), 5) for x in d.losses])
rng = np.random.default_rng(0)
x, y = rng.standard_normal((64, 8)).astype("f"), rng.standard_normal((64, 1)).astype("f")
def fit(M, **options):
    keras.utils.set_random_seed(1)
    m = keras.Sequential([
        keras.layers.Dense(8, kernel_regularizer=M.L2(0.01), bias_regularizer=M.L1(0.01),
                           activity_regularizer=M.L1(0.01)),
        keras.layers.Dense(4, kernel_regularizer=M.OrthogonalRegularizer(0.01)),
        keras.layers.BatchNormalization(gamma_regularizer=M.L2(0.1), beta_regularizer=M.L1(0.1)),
        keras.layers.Dense(1, kernel_regularizer=M.L1L2(0.01, 0.02))])
    m.compile("sgd", "mse", **options)
    h = m.fit(x, y, epochs=3, verbose=0).history["loss"]
    return h + [m.evaluate(x, y, verbose=0), float(m.train_on_batch(x, y)),
                float(m.test_on_batch(x, y))]
# Tracing and compiling Keras' own training step takes minutes.
for options in ({}, {"run_eagerly": True}, *[{"jit_compile": True}] * SOAK):
    a, b = np.array(fit(K, **options)), np.array(fit(R, **options))
    assert np.abs(a - b).max() <= 1e-6 * np.abs(a).max(), (a, b)
keras.mixed_precision.set_global_policy("mixed_float16")
d = keras.layers.Dense(64, use_bias=False, kernel_initializer=keras.initializers.Constant(256.0),
                       activity_regularizer=R.L2(1e-4, dtype="float32"))
d(np.eye(32, 8, dtype="float32"))
print(float(d.losses[0]))
""",
        tmp_path,
    )
    lines = out.splitlines()
    assert lines[0] == f"{float(np.float32(0.6))} torch.float32"
    assert lines[1] == "[1.2, 0.6]"
    # 8 * 64 outputs of 256, 1e-4 times their squares, over a batch of 32: float16 gives inf
    assert float(lines[2]) == pytest.approx(1e-4 * 512 * 65536 / 32)


def test_models_can_be_copied():
    model = torch.nn.Linear(3, 2)
    model.regularizer = R.L1L2(0.1, 0.2)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.regularizer(again.weight).item() == model.regularizer(model.weight).item()


def test_autograd_is_told_of_gradients_written_into_a_tensor():
    for call in (fastreg.gradient, fastreg.value_and_gradient):
        x = torch.ones(2, requires_grad=True)
        y = (x * x).sum()
        call(torch.ones(2), l2=1.0, out=x.detach())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()
