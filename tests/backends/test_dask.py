# SPDX-License-Identifier: BSD-3-Clause
"""fastreg.dask: any chunks and any scheduler give the bits of the array in memory."""

from __future__ import annotations

import numpy as np
import pytest

import fastreg
from fastreg.errors import ArgumentError, DTypeError

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask is not installed")

CHUNKS = ((500, 300), (3000, 1111), (100, 1111), (3000, 37), (777, 200))


@pytest.fixture(scope="module")
def x():
    # 2^±30, so that an order of adding up would show
    rng = np.random.default_rng(0)
    return (rng.standard_normal((3000, 1111)) * 2.0 ** rng.integers(-30, 30, 1111)).astype("f4")


def test_chunks(x):
    whole = fastreg.state(x)
    for chunks in CHUNKS:
        d = da.from_array(x, chunks=chunks)
        parts = (
            fastreg.dask.state(d),
            fastreg.dask.value(d, l1=0.1, l2=0.3),
            fastreg.dask.norm(d),
            fastreg.dask.norm(d, dtype="float64"),
        )
        state, value, norm, wide = dask.compute(*parts)
        assert bytes(state) == bytes(whole)
        assert value == fastreg.value(x, l1=0.1, l2=0.3)
        assert value.dtype == np.float32
        assert norm == fastreg.norm(x)
        assert wide == whole.norm()


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_schedulers(x, scheduler):
    d = da.from_array(x[:300], chunks=(70, 500))
    assert fastreg.dask.state(d).compute(scheduler=scheduler) == fastreg.state(x[:300])


def test_distributed(x):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    d = da.from_array(x[:300], chunks=(70, 500))
    local = {"n_workers": 2, "threads_per_worker": 1, "processes": False}
    with (
        distributed.LocalCluster(dashboard_address=None, **local) as cluster,
        distributed.Client(cluster),
    ):
        assert fastreg.dask.state(d.persist()).compute() == fastreg.state(x[:300])
        assert fastreg.dask.stats(d).compute().total == fastreg.stats([x[:300]]).total


def test_containers(x):
    y = x[:3].copy()
    y[0, :3] = 1e-40, 0.0, 2.0
    mine = {"kernel": y, "bias": np.ones(5), "n": np.arange(5), "own": np.ones((3, 2))}
    lazy = {k: da.from_array(v, chunks=2) for k, v in mine.items()} | {"own": mine["own"]}
    assert fastreg.dask.stats(lazy).compute().to_dict() == fastreg.stats(mine).to_dict()
    every = fastreg.dask.stats(lazy, integers=True).compute()
    assert every.to_dict() == fastreg.stats(mine, integers=True).to_dict()
    rows = fastreg.dask.state(lazy, rows="arrays").compute()
    assert rows == fastreg.state(mine, rows="arrays")
    for options in ({"l2": 0.1}, {"l2": {"kernel": 0.1, "bias": 0.3}, "select": "all"}):
        assert fastreg.dask.value(lazy, **options).compute() == fastreg.penalty(mine, **options)
    assert fastreg.dask.norm(lazy).compute() == fastreg.global_norm(mine)
    assert fastreg.dask.norm(lazy).compute().dtype == np.float64


def test_special_elements_and_unknown_sizes(x):
    y = x[:40].copy()
    y[3, 3], y[7, 7] = np.nan, -np.inf
    d = da.from_array(y, chunks=(9, 300))
    assert fastreg.dask.stats(d).compute().total["nans"] == 1
    assert np.isnan(fastreg.dask.norm(d).compute())
    assert fastreg.dask.norm(d[7:]).compute() == np.inf
    some = d[d[:, 0] > 0]
    assert fastreg.dask.state(some).compute() == fastreg.state(y[y[:, 0] > 0])
    assert fastreg.dask.stats(some).compute().total["n"] == y[y[:, 0] > 0].size
    assert fastreg.dask.norm(da.zeros(0)).compute() == 0.0


def test_refusals():
    d = da.ones((4, 4), chunks=2)
    for bad in (d.astype(complex), [d, "text"], 3.0, dask.delayed(np.ones)(3)):
        with pytest.raises(DTypeError):
            fastreg.dask.norm(bad)
    with pytest.raises(DTypeError, match=r"a chunk of 'w': expected an array without a mask"):
        fastreg.dask.norm({"w": da.ma.masked_greater(d, 1)}).compute()
    with pytest.raises(ArgumentError, match="a weight"):
        fastreg.dask.value(d)
    for verb in (fastreg.norm, lambda x: fastreg.penalty([x], l2=1.0)):
        with pytest.raises(DTypeError, match=r"call fastreg\.dask, or pass x\.compute\(\)"):
            verb(d)
