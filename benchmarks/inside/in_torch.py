# SPDX-License-Identifier: BSD-3-Clause
"""Torch: tensors, lists, modules, norms of gradients, and a training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import fastreg.torch as backend
from benchmarks.inside.laps import L1, L2, Contest, sizes


def _elastic(x: Any) -> Any:
    return L1 * x.abs().sum() + L2 * (x * x).sum()


def _squares(x: Any) -> Any:
    return L2 * (x * x).sum()


def _vdot(x: Any) -> Any:
    x = x.view(-1)
    return L2 * torch.dot(x, x)


def _backward(loss: Callable[[], Any], xs: list[Any]) -> Callable[[], None]:
    def step() -> None:
        for x in xs:
            x.grad = None
        loss().backward()

    return step


def contests(quick: bool) -> Iterator[Contest]:
    """Yield what users of torch ask for."""
    torch.manual_seed(0)
    for n in sizes(quick):
        yield from _one(n)
        if not quick and n in (1 << 16, 1 << 20):
            yield from _compiled(n)
    for count in (100, 2000):
        yield from _many(count)
    yield from _module()
    yield from _loop()


def _one(n: int) -> Iterator[Contest]:
    x, data = torch.randn(n) * 0.05, f"f32 n = {n}"
    yield Contest(
        "torch eager, value, l2", data,
        lambda: backend.penalty(x, l2=L2),
        {"(x * x).sum()": lambda: _squares(x), "torch.dot": lambda: _vdot(x)},
    )  # fmt: skip
    yield Contest(
        "torch eager, value, l1 and l2", data,
        lambda: backend.penalty(x, l1=L1, l2=L2),
        {"abs().sum(), (x * x).sum()": lambda: _elastic(x)},
    )  # fmt: skip
    w = x.clone().requires_grad_()
    yield Contest(
        "torch eager, forward and backward, l2", data,
        _backward(lambda: backend.penalty(w, l2=L2), [w]),
        {"(x * x).sum()": _backward(lambda: _squares(w), [w]),
         "torch.dot": _backward(lambda: _vdot(w), [w])},
    )  # fmt: skip
    yield Contest(
        "torch eager, forward and backward, l1 and l2", data,
        _backward(lambda: backend.penalty(w, l1=L1, l2=L2), [w]),
        {"abs().sum(), (x * x).sum()": _backward(lambda: _elastic(w), [w])},
    )  # fmt: skip


def _compiled(n: int) -> Iterator[Contest]:
    w = (torch.randn(n) * 0.05).requires_grad_()
    ours = torch.compile(lambda x: backend.penalty(x, l1=L1, l2=L2))
    theirs = torch.compile(_elastic)
    yield Contest(
        "torch.compile, forward and backward, l1 and l2", f"f32 n = {n}",
        _backward(lambda: ours(w), [w]),
        {"abs().sum(), (x * x).sum()": _backward(lambda: theirs(w), [w])},
    )  # fmt: skip


def _many(count: int) -> Iterator[Contest]:
    ws = [(torch.randn(64, 64) * 0.05).requires_grad_() for _ in range(count)]
    gs = [torch.randn(64, 64) for _ in ws]
    data = f"{count} tensors of 64 x 64"

    def ours() -> Any:
        return backend.penalty(ws, l2=L2)

    def theirs() -> Any:
        return L2 * sum((w * w).sum() for w in ws)

    yield Contest("torch eager, list, value", data, ours, {"a loop": theirs})
    yield Contest(
        "torch eager, list, forward and backward", data,
        _backward(ours, ws), {"a loop": _backward(theirs, ws)},
    )  # fmt: skip
    total = getattr(torch.nn.utils, "get_total_norm", None)
    if total is not None:
        yield Contest(
            "torch eager, norm of a list", data,
            lambda: backend.global_norm(gs), {"get_total_norm": lambda: total(gs)},
        )  # fmt: skip
    for w, g in zip(ws, gs, strict=True):
        w.grad = g
    yield Contest(
        "torch eager, clipping that need not clip", data,
        lambda: backend.clip_by_global_norm_([w.grad for w in ws], 1e9),
        {"clip_grad_norm_": lambda: torch.nn.utils.clip_grad_norm_(ws, 1e9)},
    )  # fmt: skip


def _module() -> Iterator[Contest]:
    net = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(500)])
    params, data = list(net.parameters()), "500 Linear layers of 16 x 16"

    def ours() -> Any:
        return backend.penalty(net, l2=L2)

    def theirs() -> Any:
        return L2 * sum((p * p).sum() for n, p in net.named_parameters() if n.endswith("weight"))

    yield Contest("torch eager, module, value", data, ours, {"a loop": theirs})
    yield Contest(
        "torch eager, module, forward and backward", data,
        _backward(ours, params), {"a loop": _backward(theirs, params)},
    )  # fmt: skip
    for p in params:
        p.grad = torch.zeros_like(p)
    plain = torch.optim.SGD(params, lr=1e-6)
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": 2 * L2},
        {"params": [p for p in params if p.ndim < 2]},
    ]
    decaying = torch.optim.SGD(groups, lr=1e-6)

    def step() -> None:
        backend.add_gradient_(net, l2=L2)
        plain.step()

    yield Contest("torch SGD step, add_gradient_", data, step, {"weight_decay": decaying.step})


def _loop() -> Iterator[Contest]:
    linear = torch.nn.Linear
    x, y = torch.randn(64, 256), torch.randn(64, 10)

    def training(penalty: Callable[[Any], Any] | None, decay: float = 0.0) -> Callable[[], None]:
        torch.manual_seed(0)
        relu = torch.nn.ReLU
        net = torch.nn.Sequential(
            linear(256, 512), relu(), linear(512, 512), relu(), linear(512, 10)
        )
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, weight_decay=decay)

        def step() -> None:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(net(x), y)
            if penalty is not None:
                loss = loss + penalty(net)
            loss.backward()
            optimizer.step()

        return step

    def loop(net: Any) -> Any:
        return L2 * sum((p * p).sum() for n, p in net.named_parameters() if n.endswith("weight"))

    yield Contest(
        "torch, training step of an MLP", "0.4 M weights, batch 64",
        training(lambda net: backend.penalty(net, l2=L2)),
        {"a loop": training(loop), "weight_decay": training(None, 2 * L2)},
        base=training(None),
    )  # fmt: skip
