# SPDX-License-Identifier: BSD-3-Clause
"""Keras on the backend that KERAS_BACKEND names: regularizers by themselves and in ``fit``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import fastreg.keras as backend
from benchmarks.inside.laps import L1, L2, Contest, sizes

_STEPS = 10
_BATCH = 32


def contests(quick: bool) -> Iterator[Contest]:
    """Yield what users of Keras ask for."""
    title = f"Keras on {keras.backend.backend()}"
    for n in sizes(quick):
        x = keras.ops.convert_to_tensor(np.full(n, 0.05, np.float32))
        ours, theirs = backend.L1L2(L1, L2), keras.regularizers.L1L2(L1, L2)
        yield Contest(
            f"{title}, eager, L1L2(x)", f"f32 n = {n}",
            lambda x=x, f=ours: float(f(x)),
            {"keras.regularizers": lambda x=x, f=theirs: float(f(x))},
        )  # fmt: skip
    for text, data, build, shape in (
        ("fit of an MLP", f"0.4 M weights, batch {_BATCH}", _mlp, (256,)),
        ("fit of a transformer", f"0.1 M weights, batch {_BATCH}", _transformer, (16, 64)),
    ):
        yield Contest(
            f"{title}, {text}", data,
            _fit(build(backend.L2(L2)), shape),
            {"keras.regularizers": _fit(build(keras.regularizers.L2(L2)), shape)},
            base=_fit(build(None), shape), steps=_STEPS,
        )  # fmt: skip


def _mlp(regularizer: Any) -> Any:
    dense = keras.layers.Dense
    return keras.Sequential(
        [
            keras.layers.Input((256,)),
            dense(512, "relu", kernel_regularizer=regularizer),
            dense(512, "relu", kernel_regularizer=regularizer),
            dense(10, kernel_regularizer=regularizer),
        ]
    )


def _transformer(regularizer: Any) -> Any:
    layers = keras.layers
    given = layers.Input((16, 64))
    x = given
    for _ in range(2):
        attended = layers.MultiHeadAttention(4, 16, kernel_regularizer=regularizer)(x, x)
        x = layers.LayerNormalization()(x + attended)
        wide = layers.Dense(128, "gelu", kernel_regularizer=regularizer)(x)
        x = layers.LayerNormalization()(x + layers.Dense(64, kernel_regularizer=regularizer)(wide))
    pooled = layers.GlobalAveragePooling1D()(x)
    return keras.Model(given, layers.Dense(10, kernel_regularizer=regularizer)(pooled))


def _fit(model: Any, shape: tuple[int, ...]) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((_STEPS * _BATCH, *shape), np.float32)
    y = rng.standard_normal((_STEPS * _BATCH, 10), np.float32)
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return lambda: model.fit(x, y, batch_size=_BATCH, shuffle=False, verbose=0)
