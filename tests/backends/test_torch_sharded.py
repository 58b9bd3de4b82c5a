# SPDX-License-Identifier: BSD-3-Clause
"""One norm and one clip for any sharding; planted mistakes of counting show in the account."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

import fastreg
import fastreg.torch as backend
from fastreg.errors import ArgumentError, DTypeError, NonFiniteError, NotAnArrayError

START = """
import sys, hashlib
import torch
import torch.distributed as processes
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor, DTensor
from torch.distributed.device_mesh import init_device_mesh
import fastreg.torch as backend
from fastreg import errors

rank, world = int(sys.argv[1]), int(sys.argv[3])
store = processes.FileStore(sys.argv[2], world)
processes.init_process_group("gloo", store=store, rank=rank, world_size=world)

def arrays(dtype):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype) * 2.0**-7
            for s in ((32, 16), (7,), (5, 12), (64, 3))]
"""

NORMS = """
two = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("a", "b")) if world > 1 else None
one = init_device_mesh("cpu", (world,))
ways = {
    "shard 0": (one, [Shard(0)]),
    "last": (one, [Shard(-1)]),
    "replicate": (one, [Replicate()]),
}
if two is not None:
    ways["2-D"] = (two, [Shard(0), Shard(-1)])
    ways["replicas of shards"] = (two, [Replicate(), Shard(0)])
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    for name, (mesh, placements) in ways.items():
        def spread(x):
            fitting = [Shard(x.ndim - 1) if p == Shard(-1) else p for p in placements]
            return distribute_tensor(x, mesh, fitting)
        for mixed in (False, True):
            params = []
            for k, x in enumerate(arrays(dtype)):
                p = torch.nn.Parameter(spread(torch.zeros_like(x)) if not mixed or k % 2
                                       else torch.zeros_like(x))
                p.grad = spread(x) if not mixed or k % 2 else x.clone()
                params.append(p)
            wide = backend.total_norm([p.grad for p in params], dtype=torch.float64)
            one_norm = backend.total_norm((p.grad for p in params), norm_type=1, dtype="float64")
            largest = backend.total_norm([p.grad for p in params], norm_type=float("inf"))
            norm = backend.clip_grad_norm_(iter(params), 0.01)
            whole = [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
                     for p in params]
            digest = hashlib.sha256()
            for x in whole:
                digest.update(x.contiguous().view(torch.uint8).numpy().tobytes())
            print(rank, dtype, name, mixed, wide.item().hex(), one_norm.item().hex(),
                  largest.item().hex(), norm.item().hex(), digest.hexdigest(), sep="|")
"""


def ranks(tmp_path, world, code):
    store = tmp_path / f"store{world}"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", START + code, str(k), str(store), str(world)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(world)
    ]
    said = []
    for child in children:
        out, err = child.communicate(timeout=240)
        assert child.returncode == 0, err[-3000:]
        said.append(out)
    return said


def whole(dtype):
    g = torch.Generator().manual_seed(1)
    shapes = ((32, 16), (7,), (5, 12), (64, 3))
    return [
        torch.randn(s, generator=g, dtype=torch.float64).to(dtype) * 2.0**-7 for s in shapes
    ]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_one_norm_and_one_clip_for_any_sharding(tmp_path, world):
    wanted = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        xs = whole(dtype)
        exact = fastreg.state(xs)
        own = str(dtype).removeprefix("torch.")
        row = [float(exact.norm()), float(exact.sum_abs())]
        row += [max(float(x.abs().max()) for x in xs), float(exact.norm(own))]
        fastreg.clip_by_global_norm_(xs, 0.01)
        digest = hashlib.sha256()
        for x in xs:
            digest.update(x.view(torch.uint8).numpy().tobytes())
        wanted[str(dtype)] = [*(v.hex() for v in row), digest.hexdigest()]
    lines = [line for out in ranks(tmp_path, world, NORMS) for line in out.splitlines()]
    assert len(lines) == world * 3 * 2 * (5 if world > 1 else 3)
    for line in lines:
        _, dtype, _, _, *found = line.split("|")
        assert found == wanted[dtype], line


def test_near_ties_send_every_rank_to_the_exact_states(tmp_path):
    """Sums that lie on the middle of two results, whose parts cannot decide."""
    code = """
from fastreg.torch import _sharded
mesh = init_device_mesh("cpu", (world,))
asked = []
exact = _sharded._exact
_sharded._exact = lambda hosts: asked.append(1) or exact(hosts)
# 2^26 + 1 squared has 53 bits; with 2^53 and a last 1 the sum is a tie of 54.
x = torch.zeros(64, dtype=torch.float64)
x[5], x[40], x[41] = 2.0**26 + 1, 2.0**26, 2.0**26
for tail in (0.0, 2.0**-40):
    x[63] = tail
    asked.clear()
    total = _sharded.Total(_sharded.members_of([distribute_tensor(x, mesh, [Shard(0)])]), 2.0,
                           None, None)
    total._root = False
    first = _sharded.decide(total._digits, "float64", False)
    print(first is None)
    assert len(asked) == 0
"""
    for out in ranks(tmp_path, 2, code):
        assert out.split() == ["True", "True"], out


def test_plain_tensors_are_whole_or_parts_of_a_group(tmp_path):
    code = """
group = processes.new_group(list(range(world)))
part = torch.full((3,), float(rank + 1))
assert backend.total_norm([part], group=group, dtype="float64").item() == (3.0 * 5) ** 0.5
assert backend.total_norm([part], dtype="float64").item() == (3.0 * (rank + 1) ** 2) ** 0.5
pp = init_device_mesh("cpu", (world,), mesh_dim_names=("pp",))
w = torch.nn.Parameter(torch.zeros(3))
w.grad = part.clone()
assert backend.clip_grad_norm_([w], 1.0, pp_mesh=pp).item() == torch.tensor(15.0).sqrt().item()
assert abs(w.grad[0].item() - (rank + 1) / 15**0.5) < 1e-7
"""
    ranks(tmp_path, 2, code)


def test_what_is_not_finite_is_named_on_all_ranks(tmp_path):
    code = """
mesh = init_device_mesh("cpu", (world,))
x = torch.ones(8)
x[-1] = float("nan")
w = torch.nn.Parameter(distribute_tensor(torch.zeros(8), mesh, [Shard(0)]))
w.grad = distribute_tensor(x, mesh, [Shard(0)])
before = w.grad.to_local().clone()
try:
    backend.clip_grad_norm_([("layer.w", w)], 1.0)
except errors.NonFiniteError as e:
    print(e)
norm = backend.clip_grad_norm_([("layer.w", w)], 1.0, error_if_nonfinite=False)
assert norm.isnan()
assert torch.equal(w.grad.to_local().nan_to_num(), before.nan_to_num())
"""
    for out in ranks(tmp_path, 2, code):
        assert "NaN or infinity in layer.w; skip" in out


MISTAKES = """
mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("pp",))
group = processes.new_group(list(range(world)))
x = torch.arange(1.0, 9.0).reshape(4, 2)
def show(title, *arguments, **options):
    account = backend.explain_norm(*arguments, **options)
    print(title, "|".join(account.warnings), sep="#")
show("good", {"w": distribute_tensor(x, mesh, [Shard(0)])})
show("whole", {"w": x})
show("pending", {"w": DTensor.from_local(x, mesh, [Partial()])})
show("twice", [("a", x), ("b", x)])
show("copies", {"w": x}, group=group)
show("local", {"w": x + rank})
show("stage", {f"stage{rank}.w": x + rank})
show("shared", {f"stage{rank}.tied": x, f"stage{rank}.own": x + 1 + rank}, pp_mesh=mesh)
"""


def test_mistakes_of_counting_show_in_the_account(tmp_path):
    for rank, out in enumerate(ranks(tmp_path, 2, MISTAKES)):
        said = dict(line.split("#", 1) for line in out.splitlines())
        assert said["good"] == said["whole"] == ""
        assert "its sum over ranks is pending" in said["pending"]
        assert said["twice"] == "b is a once more: it counts twice; pass it once"
        assert "the same on all 2 ranks of group= and counts 2 times" in said["copies"]
        assert "w differs between ranks, and only this rank's part counts" in said["local"]
        assert "a pipeline stage is left out; pass pp_mesh=" in said["stage"]
        twin = f"stage{rank}.tied holds what stage{1 - rank}.tied of rank {1 - rank} holds"
        assert said["shared"].startswith(twin)
        assert "|" not in said["shared"]


def test_pending_sums_are_refused_with_what_to_call(tmp_path):
    code = """
mesh = init_device_mesh("cpu", (world,))
try:
    backend.total_norm([DTensor.from_local(torch.ones(2), mesh, [Partial()])])
except errors.LayoutError as e:
    print(e)
"""
    for out in ranks(tmp_path, 2, code):
        assert "x.redistribute(placements=[Replicate()])" in out


def test_in_one_process():
    g = [torch.tensor([3.0, 4.0]), None, torch.zeros(0)]
    assert backend.total_norm([x for x in g if x is not None]).item() == 5.0
    module = torch.nn.Linear(3, 2)
    assert backend.clip_grad_norm_(module, 1.0).item() == 0.0  # no gradients yet
    module(torch.ones(1, 3)).sum().backward()
    before = fastreg.global_norm([p.grad.numpy().copy() for p in module.parameters()])
    found = backend.clip_grad_norm_(module.parameters(), 0.5)
    assert found.dtype == torch.float32
    assert found.item() == np.float32(before)
    assert len(backend.explain_norm(module.named_parameters()).rows) == 2
    assert "norm 5.0" in str(backend.explain_norm([torch.tensor([3.0, 4.0])]))


def test_a_tied_parameter_counts_and_is_scaled_once():
    w = torch.nn.Parameter(torch.zeros(2))
    w.grad = torch.tensor([3.0, 4.0])
    assert backend.clip_grad_norm_([w, w], 2.5).item() == 5.0
    assert w.grad.tolist() == [1.5, 2.0]


TRAINING = """
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

def train(mesh, how):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    if "tp" in how:
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if "fsdp" in how:
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = torch.linspace(-1, 1, 32).reshape(4, 8)
    norms = []
    for step in range(5):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        norms.append(backend.clip_grad_norm_(model.parameters(), 0.5).item().hex())
        optimizer.step()
    digest = hashlib.sha256()
    for p in model.parameters():
        full = p.detach().full_tensor() if isinstance(p, DTensor) else p.detach()
        digest.update(full.contiguous().view(torch.uint8).numpy().tobytes())
    return norms, digest.hexdigest()

mesh = init_device_mesh("cpu", (world,))
norms, digest = train(mesh, "fsdp")
print(*norms, digest)
if world > 1:
    tp, _ = train(mesh, "tp")
    assert abs(float.fromhex(tp[0]) - float.fromhex(norms[0])) < 1e-5  # its products differ
"""


def test_training_with_fsdp_is_the_same_on_any_number_of_ranks(tmp_path):
    """The same batch on every rank, whose gradients are averaged exactly: one model comes out."""
    said = {line for world in (1, 2, 4) for line in ranks(tmp_path, world, TRAINING)}
    assert len(said) == 1, said


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: backend.total_norm([torch.ones(2)], norm_type=3), ArgumentError),
        (lambda: backend.total_norm("weights"), NotAnArrayError),
        (lambda: backend.total_norm([torch.ones(2, dtype=torch.int32)]), DTypeError),
        (lambda: backend.clip_grad_norm_([torch.nn.Parameter(torch.ones(2))], -1.0), ArgumentError),
    ],
)
def test_refusals(call, error):
    with pytest.raises(error):
        call()


def test_infinite_gradients_are_an_error_unless_asked():
    w = torch.nn.Parameter(torch.ones(2))
    w.grad = torch.tensor([float("inf"), 1.0])
    with pytest.raises(NonFiniteError, match="in 0; skip"):
        backend.clip_grad_norm_([w], 1.0)
    assert backend.clip_grad_norm_([w], 1.0, error_if_nonfinite=False).item() == float("inf")
    assert w.grad.tolist() == [float("inf"), 1.0]
