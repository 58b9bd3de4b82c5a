# SPDX-License-Identifier: BSD-3-Clause
"""Tensors that two processes hold shares of: every number is that of the whole tensor."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

CODE = """
import sys
import torch
import torch.distributed as processes
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
import fastreg
import fastreg.torch as backend
from fastreg import errors, regularizers

rank = int(sys.argv[1])
store = processes.FileStore(sys.argv[2], 2)
processes.init_process_group("gloo", store=store, rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
whole = torch.arange(1.0, 9.0).reshape(4, 2)  # 204
plain = torch.ones(2, 2)

def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except errors.DTypeError as e:
        assert "which is spread over processes; call fastreg.torch, or to read" in str(e), e
    else:
        raise AssertionError(call)

for placement in (Shard(0), Shard(1), Replicate()):
    def spread():
        return distribute_tensor(whole.clone(), mesh, [placement])

    x = spread().requires_grad_()
    loss = backend.penalty(x, l2=1.0)
    assert loss.item() == 204.0, loss
    loss.backward()
    assert torch.equal(x.grad.full_tensor(), 2 * whole)
    assert backend.penalty(spread(), l1=0.5, l2=1.0).item() == 222.0
    assert backend.l2_loss(x).item() == 102.0
    assert regularizers.L2(1.0)(x).item() == 204.0
    x.grad = None
    loss = backend.penalty([plain, x], l2=1.0)
    assert loss.item() == 208.0
    loss.backward()
    assert torch.equal(x.grad.full_tensor(), 2 * whole)
    value, grads = backend.value_and_gradient({"a.w": x, "b.w": plain}, l2=1.0, scale=2.0)
    assert value.item() == 208.0
    assert torch.equal(grads["a.w"].full_tensor(), 4 * whole)
    assert abs(backend.global_norm([spread(), plain]).item() - 208.0**0.5) < 1e-12

    module = torch.nn.Linear(2, 4)
    module.weight = torch.nn.Parameter(spread())
    assert backend.penalty(module, l2=1.0).item() == 204.0
    backend.add_gradient_(module, l2=1.0)
    backend.add_gradient_(module, l2=1.0)
    assert torch.equal(module.weight.grad.full_tensor(), 4 * whole)
    backend.prox_(module, 1.0, l1=1.0)
    assert torch.equal(module.weight.full_tensor(), whole - 1)
    backend.decay_(module, 0.5)
    assert torch.equal(module.weight.full_tensor(), (whole - 1) / 2)

    grads = [spread(), torch.full((2, 2), 26.0**0.5)]  # 204 + 104
    norm = backend.clip_by_global_norm_(grads, 0.5 * 308.0**0.5)
    torch.testing.assert_close(norm.item(), 308.0**0.5)
    torch.testing.assert_close(grads[0].full_tensor(), whole / 2)
    grads = [spread() * float("nan")]
    try:
        backend.clip_by_global_norm_(grads, 1.0)
    except errors.NonFiniteError as e:
        assert "'0'" in str(e)
    else:
        raise AssertionError

    for call in (fastreg.penalty, fastreg.plan, fastreg.value_and_gradient):
        refused(call, [x], l2=1.0)
    for call in (fastreg.stats, fastreg.check_finite, fastreg.global_norm, backend.stats):
        refused(call, {"a.w": x})
    refused(fastreg.clip_by_global_norm_, [spread()], 1.0)
    assert fastreg.penalty({"a.w": x, "b.w": plain}, l2=1.0, select="b.*") == 4.0

both = init_device_mesh("cpu", (1, 2))
xs = [distribute_tensor(whole, m, [Shard(0)] * m.ndim) for m in (mesh, both)]
assert backend.penalty(xs, l2=1.0).item() == 408.0
processes.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_shares_of_two_processes(tmp_path):
    command = [sys.executable, "-c", CODE]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)[-3000:]
