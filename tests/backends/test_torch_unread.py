# SPDX-License-Identifier: BSD-3-Clause
"""Tensors that kernels do not read: each is refused by name, and the advice works."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch

import fastreg
import fastreg.torch as backend
from fastreg.errors import FastregError, LayoutError

KERNEL = torch.full((2, 2), 2.0)


def quietly(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def masked():
    from torch.masked import masked_tensor

    return masked_tensor(torch.tensor([3.0, 4.0]), torch.tensor([True, False]))


class Wrapper(torch.Tensor):
    """A subclass that answers for itself, as those of quantization and tracing do."""

    @staticmethod
    def __new__(cls, x):
        return torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(function)

    def __repr__(self):
        return "Wrapper()"


def nested(layout):
    parts = [torch.full((2, 2), 1.0), torch.full((3, 2), 2.0)]
    return torch.nested.nested_tensor(parts, layout=layout)


# What is refused; what it is called; Σx² of what the advice gives.
UNREAD = {
    "coo": (lambda: torch.diag(torch.tensor([3.0, 4.0])).to_sparse(), "torch.sparse_coo", 25.0),
    "csr": (lambda: torch.diag(torch.tensor([3.0, 4.0])).to_sparse_csr(), "sparse_csr", 25.0),
    "bsc": (lambda: torch.diag(torch.tensor([3.0, 4.0])).to_sparse_bsc((1, 1)), "sparse_bsc", 25.0),
    "mkldnn": (lambda: torch.tensor([3.0, 4.0]).to_mkldnn(), "torch._mkldnn", 25.0),
    "nested": (lambda: nested(torch.strided), "a nested tensor", 28.0),
    "jagged": (lambda: nested(torch.jagged), "a nested tensor", 28.0),
    "masked": (masked, "a MaskedTensor", 9.0),
    "complex": (lambda: torch.tensor([3 + 4j]), "torch.complex64", 25.0),
    "conjugate": (lambda: torch.tensor([3 + 4j]).conj(), "torch.complex64", 25.0),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.tensor([3.0, 4.0]), 1.0, 0, torch.qint8),
        "torch.qint8",
        25.0,
    ),
    "float8": (lambda: torch.tensor([3.0, 4.0]).to(torch.float8_e4m3fn), "float8_e4m3fn", 25.0),
}
READS = {
    "penalty": lambda x, to: to.penalty([KERNEL, x], l2=1.0),
    "value_and_gradient": lambda x, to: to.value_and_gradient([KERNEL, x], l2=1.0),
    "global_norm": lambda x, to: to.global_norm([KERNEL, x]),
    "stats": lambda x, to: to.stats([KERNEL, x]),
    "clip": lambda x, to: to.clip_by_global_norm_([KERNEL, x], 0.1),
    "decay": lambda x, to: to.decay_([KERNEL, x], 0.5),
    "prox": lambda x, to: to.prox_([KERNEL, x], 0.5, l1=1.0),
}


def advised(error, x):
    """Return what the advice of an error gives for x."""
    code = re.search(r"(?:pass|with) (.+?[)\]])(?:[,;: ]|$)", str(error))[1]
    return eval(code, {"x": x, "torch": torch, "list": list})


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize("to", [fastreg, backend], ids=["fastreg", "fastreg.torch"])
def test_what_is_unread_is_refused_and_the_advice_works(kind, to):
    make, called, squares = UNREAD[kind]
    x = quietly(make)
    for name, call in READS.items():
        if (name, kind) == ("stats", "float8"):
            continue
        with pytest.raises(FastregError) as e:
            call(x, to)
        text = str(e.value)
        assert called in text, (name, text)
        assert "'1'" in text, (name, text)
        assert fastreg.penalty(advised(e.value, x), l2=1.0) == squares, (name, text)
    assert (KERNEL == 2.0).all()


@pytest.mark.parametrize("kind", UNREAD)
def test_what_a_rule_leaves_out_need_not_be_read(kind):
    x = quietly(UNREAD[kind][0])
    params = {"a.weight": KERNEL, "b": x}
    for to in (fastreg, backend):
        assert to.penalty(params, l2=1.0, select="a*") == 16.0
        assert to.stats(params, select="a*").total["n"] == 4
    plan = fastreg.plan(params, l2=1.0, select=lambda name, _: name == "a.weight")
    assert plan.value() == 16.0
    fastreg.check_finite(params, select="a*")
    fastreg.explain(params)
    backend.prox_(params, 0.0, l1=1.0, select="a*")


def test_frozen_parameters_need_not_be_read():
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2, bias=False)})
    module["b"] = torch.nn.Linear(2, 2, dtype=torch.complex64).requires_grad_(False)
    module["c"] = torch.nn.Linear(2, 2, device="meta").requires_grad_(False)
    squares = backend.penalty(module["a"].weight, l2=1.0)
    assert backend.penalty(module, l2=1.0) == squares
    assert fastreg.plan(module, l2=1.0).value(dtype="float32") == squares.item()
    backend.add_gradient_(module, l2=1.0)


@pytest.mark.parametrize(
    ("make", "called"),
    [
        (lambda: torch.ones(2, device="meta"), "one on meta, which has none; load the weights"),
        (lambda: Wrapper(torch.ones(2)), "a Wrapper; call fastreg.torch"),
    ],
)
def test_tensors_without_memory_are_called_so(make, called):
    for name in ("penalty", "stats", "global_norm", "clip", "decay"):
        with pytest.raises(FastregError, match=called):
            READS[name](make(), fastreg)


def test_tensors_that_are_transformed_are_called_so():
    def f(x):
        return torch.as_tensor(float(fastreg.penalty([x], l2=1.0)))

    for transformed in (torch.func.vmap(f), torch.func.grad(f)):
        with pytest.raises(FastregError, match=r"torch\.func transforms; call fastreg\.torch"):
            transformed(torch.ones(2))


@pytest.mark.parametrize("order", [1, -1])
def test_tensors_with_and_without_elements(order):
    module = torch.nn.Sequential(
        *[torch.nn.Linear(3, 3), torch.nn.Linear(3, 3, device="meta")][::order]
    )
    places = r"'\d\.weight' on meta and '\d\.weight' on cpu"
    with pytest.raises(LayoutError, match=places):
        backend.penalty(module, l2=1.0)
    with pytest.raises(LayoutError, match=places):
        backend.value_and_gradient(module, l2=1.0)
    with pytest.raises(LayoutError, match="on meta and"):
        backend.global_norm(list(module.parameters()))
    grads = [torch.ones(2), torch.ones(2, device="meta")][::order]
    for step in (
        lambda: backend.add_gradient_(module, l2=1.0),
        lambda: backend.prox_(module, 0.1, l1=1.0),
        lambda: backend.clip_by_global_norm_(grads, 0.1),
    ):
        with pytest.raises(LayoutError, match="one on meta; load the weights first"):
            step()
    assert all(p.grad is None for p in module.parameters())
    everywhere = torch.nn.Linear(3, 3, device="meta")
    assert backend.penalty(everywhere, l2=1.0).is_meta  # as in a program


# -- Steps write all or nothing --------------------------------------------------------------------


def test_memory_that_stands_for_several_elements_is_not_written():
    first = torch.nn.Parameter(torch.ones(2, 2))
    expanded = torch.ones(1, 2).expand(2, 2)
    for to in (fastreg, backend):
        for step in (
            lambda to=to: to.prox_([first.detach(), expanded], 0.1, l1=1.0),
            lambda to=to: to.decay_([first.detach(), expanded], 0.1),
            lambda to=to: to.clip_by_global_norm_([first.detach(), expanded], 0.1),
        ):
            with pytest.raises(LayoutError, match="distinct"):
                step()
    second = torch.nn.Parameter(torch.ones(2, 2))
    first.grad, second.grad = torch.ones(2, 2), expanded
    for parameters in ([first, second], [second, first]):
        with pytest.raises(LayoutError, match=r"a grad whose elements are distinct at '\d'"):
            backend.add_gradient_(parameters, l2=1.0)
    assert (first == 1.0).all()
    assert (first.grad == 1.0).all()


@pytest.mark.parametrize("bad", ["sparse", "other type", "another's memory"])
@pytest.mark.parametrize("last", [True, False])
def test_a_bad_grad_anywhere_stops_all(bad, last):
    good, other = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    fresh = torch.nn.Parameter(torch.ones(2, 2))
    good.grad = torch.ones(2, 2)
    if bad == "sparse":
        other.grad = torch.eye(2).to_sparse()
    elif bad == "other type":
        other = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
        if not hasattr(other, "grad_dtype"):
            pytest.skip("this release of torch has grads of the tensor's own type only")
        other.grad_dtype = torch.float32
        other.grad = torch.ones(2, 2)
    else:
        other.grad = good.detach()
    parameters = [fresh, good, other] if last else [other, good, fresh]
    with pytest.raises(LayoutError):
        backend.add_gradient_(parameters, l2=1.0)
    assert (good.grad == 1.0).all()
    assert fresh.grad is None
    np.testing.assert_array_equal(good.detach(), 1.0)
