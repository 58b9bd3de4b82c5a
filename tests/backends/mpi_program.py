# SPDX-License-Identifier: BSD-3-Clause
"""What test_mpi.py runs on several ranks: parts of one array give the bytes of the whole."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

import fastreg
import fastreg.mpi

comm = MPI.COMM_WORLD
rank, ranks = comm.rank, comm.size


def error_of(call) -> str:
    try:
        call()
    except (TypeError, ValueError) as e:
        return str(e)
    raise AssertionError("no error")


for dtype in ("float32", "float64", "float16"):
    x = np.random.default_rng(0).standard_normal(20003).astype(dtype)
    cuts = np.sort(np.random.default_rng(ranks).integers(0, x.size + 1, ranks - 1))
    part = np.split(x, cuts)[rank]
    assert bytes(fastreg.mpi.allreduce(fastreg.state(part))) == bytes(fastreg.state(x))
    assert fastreg.mpi.norm(part) == fastreg.global_norm([x])
    value = fastreg.mpi.value(part, l1=0.1, l2=0.2, dtype="float32")
    assert value == fastreg.value(x, l1=0.1, l2=0.2, dtype="float32")

# float64 on one rank, a rank without elements, a NaN on one rank.
ones = np.ones(3, "f8" if rank == 0 else "f4")
assert fastreg.mpi.norm(ones) == np.sqrt(3.0 * ranks)
assert fastreg.mpi.allreduce(fastreg.State() if rank else fastreg.state(ones)).n == 3
assert np.isnan(fastreg.mpi.norm(np.array([np.nan if rank == ranks - 1 else 1.0])))

rows = fastreg.state({"a": ones, "b": ones.copy()}, rows="arrays", l2={"a": 1.0, "b": 2.0})
assert fastreg.mpi.allreduce(rows).value() == 9.0 * ranks
assert fastreg.mpi.norm(ones, comm=MPI.COMM_SELF) == np.sqrt(3.0)

# An error on one rank is one on all, and nobody waits.
bad = error_of(lambda: fastreg.mpi.norm("text" if rank == ranks - 1 else ones))
assert ("errors on 1 of" in bad) == (rank < ranks - 1), bad
assert "fastreg.State" in error_of(lambda: fastreg.mpi.allreduce(3.0))
if ranks > 1:
    other = fastreg.state({"a" if rank else "b": ones}, rows="arrays")
    assert "same rows on every rank" in error_of(lambda: fastreg.mpi.allreduce(other))
comm.Barrier()
