# SPDX-License-Identifier: BSD-3-Clause
"""JAX training loops with a penalty: jit, value_and_grad, a pytree, scan, half of the output."""

import digits
import jax
import jax.numpy as jnp

import fastreg.jax as fj

X, Y = jnp.asarray(digits.x), jnp.asarray(digits.y)


def start():
    a, b = jax.random.split(jax.random.key(0))
    # biases away from 0, where jax.grad(jnp.abs) is 1 and fastreg's 0
    return {
        "hidden": {"kernel": 0.1 * jax.random.normal(a, (64, 32)), "bias": jnp.full(32, 0.1)},
        "out": {"kernel": 0.1 * jax.random.normal(b, (32, 10)), "bias": jnp.full(10, 0.1)},
    }


def outputs(params):
    h = jnp.tanh(X @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return h @ params["out"]["kernel"] + params["out"]["bias"]


def train(term, steps=20, scanned=False):
    def loss(params):
        p = outputs(params)
        right = jnp.take_along_axis(jax.nn.log_softmax(p), Y[:, None], axis=1)
        return -right.mean() + term(params, p)

    def step(params, _):
        value, slope = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda w, g: w - 0.2 * g, params, slope), value

    params = start()
    if scanned:
        return jax.lax.scan(step, params, length=steps)[1]
    losses = []
    step = jax.jit(step)
    for _ in range(steps):
        params, value = step(params, None)
        losses.append(float(value))
    return losses


def kernels(params):
    return [layer["kernel"] for layer in params.values()]


PATTERNS = {
    "sum over the leaves": (
        lambda w, _: 1e-3 * sum(jnp.sum(v**2) for v in jax.tree.leaves(w)),
        lambda w, _: fj.penalty(w, l2=1e-3, select="all"),
    ),
    "elastic net of the kernels": (
        lambda w, _: sum(1e-4 * jnp.abs(v).sum() + 1e-3 * (v * v).sum() for v in kernels(w)),
        lambda w, _: fj.penalty(kernels(w), l1=1e-4, l2=1e-3),
    ),
    "half of the predictions": (
        lambda _, p: 1e-5 * jnp.sum(jnp.square(p[:, : p.shape[1] // 2])),
        lambda _, p: fj.penalty(p[:, : p.shape[1] // 2], l2=1e-5),
    ),
    "activities, divided by the batch": (
        lambda _, p: 1e-3 * jnp.abs(p).sum() / len(p),
        lambda _, p: fj.penalty(p, l1=1e-3) / len(p),
    ),
}
for name, (plain, ours) in PATTERNS.items():
    for scanned in (False, True):
        digits.compare(name, train(plain, scanned=scanned), train(ours, scanned=scanned))
