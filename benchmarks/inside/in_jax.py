# SPDX-License-Identifier: BSD-3-Clause
"""JAX: arrays, trees and a training step, under jit and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import fastreg.jax as backend
from benchmarks.inside.laps import L1, L2, Contest, sizes


def _theirs(x: Any) -> Any:
    return L1 * jnp.abs(x).sum() + L2 * (x * x).sum()


def _ours(x: Any) -> Any:
    return backend.penalty(x, l1=L1, l2=L2)


def _ready(f: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(f(*arguments))


def contests(quick: bool) -> Iterator[Contest]:
    """Yield what users of JAX ask for."""
    for n in sizes(quick):
        x, data = jax.random.normal(jax.random.key(0), (n,)) * 0.05, f"f32 n = {n}"
        rival = "jnp.abs, x * x"
        for text, change in (
            ("JAX eager, value", lambda f: f),
            ("JAX jit, value", jax.jit),
            ("JAX jit, value and gradient", lambda f: jax.jit(jax.value_and_grad(f))),
        ):
            pair = _ready(change(_ours), x), _ready(change(_theirs), x)
            yield Contest(f"{text}, l1 and l2", data, pair[0], {rival: pair[1]})
        change = jax.jit(jax.value_and_grad(lambda x: backend.penalty(x, l2=L2)))
        native = jax.jit(jax.value_and_grad(lambda x: L2 * (x * x).sum()))
        yield Contest(
            "JAX jit, value and gradient, l2", data, _ready(change, x), {"x * x": _ready(native, x)}
        )
    yield from _tree(100)
    if not quick:
        yield from _tree(2000)
    yield from _step()


def _tree(count: int) -> Iterator[Contest]:
    xs = [jnp.full((64, 64), 0.05) for _ in range(count)]
    ours = jax.jit(jax.value_and_grad(lambda xs: backend.penalty(xs, l2=L2)))
    theirs = jax.jit(jax.value_and_grad(lambda xs: L2 * sum((x * x).sum() for x in xs)))
    yield Contest(
        "JAX jit, list, value and gradient", f"{count} arrays of 64 x 64",
        _ready(ours, xs), {"a loop": _ready(theirs, xs)},
    )  # fmt: skip


def _step() -> Iterator[Contest]:
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = ((256, 512), (512, 512), (512, 10))
    weights = {
        f"layer{k}": {"kernel": jax.random.normal(key, s) * 0.05, "bias": jnp.zeros(s[1])}
        for k, (key, s) in enumerate(zip(keys, shapes, strict=False))
    }
    x, y = jax.random.normal(keys[3], (64, 256)), jax.random.normal(keys[4], (64, 10))

    def step(penalty: Callable[[Any], Any] | None) -> Callable[[], Any]:
        def loss(p: Any) -> Any:
            h = x
            for k in range(3):
                h = h @ p[f"layer{k}"]["kernel"] + p[f"layer{k}"]["bias"]
                h = jax.nn.relu(h) if k < 2 else h
            error = ((h - y) ** 2).mean()
            return error if penalty is None else error + penalty(p)

        @jax.jit
        def update(p: Any) -> Any:
            return jax.tree.map(lambda w, g: w - 1e-3 * g, p, jax.grad(loss)(p))

        return _ready(update, weights)

    yield Contest(
        "JAX jit, training step of an MLP", "0.4 M weights, batch 64",
        step(lambda p: backend.penalty(p, l2=L2)),
        {"a loop": step(lambda p: L2 * sum((q["kernel"] ** 2).sum() for q in p.values()))},
        base=step(None),
    )  # fmt: skip
