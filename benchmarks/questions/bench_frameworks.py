# SPDX-License-Identifier: BSD-3-Clause
"""What do the frameworks take for the same penalty: torch, JAX, TensorFlow, Keras; eager, compiled.

The command line runs this file once per framework, named by FASTREG_BENCH_FRAMEWORK, each in its
own process: their thread pools and floating-point modes disturb each other. Threads are each
framework's own choice, all of them; fastreg's too.
"""

from __future__ import annotations

import os

import fastreg
from benchmarks.engine import machine, sizes
from benchmarks.engine.calls import L1, L2, Case
from benchmarks.engine.race import plan
from benchmarks.engine.rivals import REGISTRY

FRAMEWORK = os.environ.get("FASTREG_BENCH_FRAMEWORK", "torch")
os.environ.setdefault("KERAS_BACKEND", FRAMEWORK)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_FRAMEWORKS = (FRAMEWORK, "keras")


# All but what compiles for longer than a quick run lasts.
_QUICK = (
    "torch.dot",
    "torch square().sum()",
    "torch vector_norm",
    "torch eager",
    "jax jit",
    "tensorflow l2_loss",
    "tensorflow eager",
    "tensorflow XLA",
    "keras L1L2",
)


def _rivals(operation: str, quick: bool) -> tuple[str, ...]:
    """Name the frameworks' ways only: the other rivals have questions of their own."""
    found = [name for name, r in REGISTRY.get(operation, {}).items() if r.framework in _FRAMEWORKS]
    return tuple(name for name in found if not quick or name in _QUICK)


def _cases(operation: str, large: int = sizes.GB):
    def cases(quick: bool) -> list[Case]:
        places = (256, machine.inside("L2"), 128_000_000 if quick else large)
        return [
            Case("f32", n, machine.cores(), data=FRAMEWORK, rivals=_rivals(operation, quick))
            for n in places
        ]

    return cases


@plan(_cases("sum_squares", 2 * sizes.GB), frameworks=_FRAMEWORKS)
def test_sum_squares(race):
    race(fastreg.sum_squares)


@plan(_cases("norm"), frameworks=_FRAMEWORKS)
def test_norm(race):
    race(fastreg.norm)


@plan(_cases("l2_loss"), frameworks=_FRAMEWORKS)
def test_l2_loss(race):
    race(fastreg.l2_loss)


@plan(_cases("value"), frameworks=_FRAMEWORKS)
def test_value(race):
    race(fastreg.value, l1=L1, l2=L2)


@plan(_cases("value_and_gradient_new"), "value_and_gradient_new", frameworks=_FRAMEWORKS)
def test_value_and_gradient_new(race):
    race(fastreg.value_and_gradient, l2=L2)
