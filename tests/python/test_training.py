# SPDX-License-Identifier: BSD-3-Clause
"""Train scikit-learn's digits with torch and an L1 penalty whose zeros are zeros.

Three runs of the same model from the same start: without a penalty; with the penalty's gradient
added to torch's, as people write it, which leaves small weights; and with a proximal step after
each step of the optimiser, which leaves zeros. Run it, or let pytest.
"""

from __future__ import annotations

import pytest

import fastreg

STEPS, RATE, L1 = 200, 0.5, 4e-3


def train(torch, features, labels, way: str):
    """Train a linear classifier with full batches; return it and its accuracy."""
    torch.manual_seed(0)
    net = torch.nn.Linear(64, 10)
    optimiser = torch.optim.SGD(net.parameters(), lr=RATE)
    objective = torch.nn.CrossEntropyLoss()
    plan = fastreg.plan(net, l1=L1)
    for _ in range(STEPS):
        optimiser.zero_grad(set_to_none=False)
        objective(net(features), labels).backward()
        if way == "gradient":
            plan.add_gradient_({"weight": net.weight.grad})
        optimiser.step()
        if way == "prox":
            plan.prox_(RATE)
    return net, (net(features).argmax(1) == labels).float().mean().item()


def zeros(net) -> int:
    """Number of kernel weights that are exactly zero."""
    return fastreg.stats(net, select="kernels").total["zeros"]


def digits(torch):
    """Return the digits in [0, 1] and their labels, as tensors."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)


def test_prox_makes_exact_zeros():
    torch = pytest.importorskip("torch")
    features, labels = digits(torch)
    plain, plain_accuracy = train(torch, features, labels, "plain")
    graded, _ = train(torch, features, labels, "gradient")
    proxed, accuracy = train(torch, features, labels, "prox")
    assert zeros(plain) == 0
    assert zeros(graded) < 10
    assert zeros(proxed) > 0.4 * proxed.weight.numel()
    assert accuracy > plain_accuracy - 0.04
    assert fastreg.penalty(proxed, l1=L1) < fastreg.penalty(plain, l1=L1)


def test_a_plans_gradient_is_torchs_own():
    """L2 through a plan and through torch's expression end at the same weights."""
    torch = pytest.importorskip("torch")
    features, labels = digits(torch)
    ends = []
    for way in ("torch", "plan"):
        torch.manual_seed(0)
        net = torch.nn.Linear(64, 10)
        optimiser = torch.optim.SGD(net.parameters(), lr=RATE)
        plan = fastreg.plan(net, l2=1e-3)
        for _ in range(STEPS):
            optimiser.zero_grad(set_to_none=False)
            value = torch.nn.functional.cross_entropy(net(features), labels)
            if way == "torch":
                value = value + 1e-3 * net.weight.square().sum()
            value.backward()
            if way == "plan":
                plan.add_gradient_({"weight": net.weight.grad})
            optimiser.step()
        ends.append(net.weight.detach())
    assert (ends[0] - ends[1]).abs().max().item() <= 1e-6


@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_proximal_gradient_finds_scikit_learns_support(l2):
    """ISTA with prox_ ends at Lasso's and ElasticNet's coefficients, zeros included."""
    np = pytest.importorskip("numpy")
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    a = rng.standard_normal((80, 20))
    truth = np.where(np.arange(20) < 5, 2.0, 0.0)
    b = a @ truth + 0.1 * rng.standard_normal(80)
    alpha = 0.1
    # ElasticNet: 1/(2n) |b - a w|^2 + alpha ratio |w| + alpha (1 - ratio) / 2 w^2
    ratio = alpha / (alpha + l2)
    fitted = linear_model.ElasticNet(
        alpha=alpha + l2, l1_ratio=ratio, fit_intercept=False, tol=1e-12, max_iter=100_000
    ).fit(a, b)
    step = 80 / np.linalg.norm(a, 2) ** 2
    w = np.zeros(20)
    plan = fastreg.plan([w], l1=alpha, l2=l2, select="all", convention="half")
    for _ in range(5000):
        w -= step / 80 * (a.T @ (a @ w - b))
        plan.prox_(step)
    assert (w == 0).tolist() == (fitted.coef_ == 0).tolist()
    assert 0 < (w == 0).sum() < 20
    assert np.abs(w - fitted.coef_).max() < 1e-9


def main() -> None:
    """Print what each way leaves."""
    import torch

    features, labels = digits(torch)
    print(f"{'':28}{'accuracy':>9}{'zeros':>7}{'sum |w|':>9}")
    for way, title in (
        ("plain", "no penalty"),
        ("gradient", "gradient of the penalty"),
        ("prox", "proximal step, plan.prox_"),
    ):
        net, accuracy = train(torch, features, labels, way)
        print(f"{title:28}{accuracy:9.3f}{zeros(net):7}{fastreg.penalty(net, l1=1.0):9.2f}")


if __name__ == "__main__":
    main()
