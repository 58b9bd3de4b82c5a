# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch training loops with a penalty, on scikit-learn's digits: torch's operations and fastreg.

Each pattern trains the same model twice, with the penalty as people write it and with fastreg's;
the losses must agree to 1e-6 of their size.
"""

import torch
from sklearn.datasets import load_digits

from fastreg import regularizers
from fastreg.torch import penalty

X, Y = load_digits(return_X_y=True)
X = torch.tensor(X / 16, dtype=torch.float32)
Y = torch.tensor(Y)


def train(term, steps=20, half=False):
    """Losses of a training whose loss has ``term(model, prediction)`` added."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    scale = 1024.0 if half else 1.0
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        prediction = model(X)
        loss = torch.nn.functional.cross_entropy(prediction, Y) + term(model, prediction)
        (loss * scale).backward()
        if half:
            for p in model.parameters():
                p.grad /= scale
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def weights(model):
    return [p for name, p in model.named_parameters() if "bias" not in name]


l2 = regularizers.L2(1e-3)
elastic = regularizers.L1L2(1e-4, 1e-3)

PATTERNS = {
    "sum over the parameters": (
        lambda m, _: 1e-3 * sum((p**2).sum() for p in m.parameters()),
        lambda m, _: sum(l2(p) for p in m.parameters()),
    ),
    "the ragged list in one call": (
        lambda m, _: 1e-3 * sum(p.pow(2.0).sum() for p in m.parameters()),
        lambda m, _: penalty(m.parameters(), l2=1e-3),
    ),
    "weights without biases, elastic net": (
        lambda m, _: sum(1e-4 * p.abs().sum() + 1e-3 * p.square().sum() for p in weights(m)),
        lambda m, _: sum(elastic(p) for p in weights(m)),
    ),
    "norm of the parameters": (
        lambda m, _: 1e-4 * sum(torch.linalg.vector_norm(p, 1) for p in m.parameters()),
        lambda m, _: penalty(m.parameters(), l1=1e-4),
    ),
    "activities, divided by the batch": (
        lambda _, y: 1e-3 * y.abs().sum() / len(y),
        lambda _, y: regularizers.L1(1e-3)(y) / len(y),
    ),
    "half of the predictions": (
        lambda _, y: 1e-5 * (y[:, : y.shape[1] // 2] ** 2).sum(),
        lambda _, y: penalty(y[:, : y.shape[1] // 2], l2=1e-5),
    ),
    "every second prediction": (
        lambda _, y: 1e-5 * (y[:, ::2] ** 2).sum(),
        lambda _, y: penalty(y[:, ::2], l2=1e-5),
    ),
}

for name, (plain, ours) in PATTERNS.items():
    for half in (False, True):
        expected, got = train(plain, half=half), train(ours, half=half)
        error = ((expected - got).abs() / expected).max().item()
        print(f"{name}{', scaled loss' if half else '':14} {error:.1e}")
        assert error <= 1e-6, (name, error)
        assert got[-1] < got[0]
