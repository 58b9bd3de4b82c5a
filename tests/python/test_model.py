# SPDX-License-Identifier: BSD-3-Clause
"""Whole-model calls: exact, the same bits however a list is cut, nothing written on errors."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import subprocess
import sys
from collections import deque
from fractions import Fraction

import generators
import hooks
import ml_dtypes
import numpy as np
import oracle
import pytest
from oracle import DTYPES, FORMATS
from slow_plan import SlowPlan, joined, prox_exact, weighted_bits

import fastreg
from fastreg import errors
from fastreg._core import shortcuts
from fastreg._kernels import own_their_memory
from fastreg.errors import ArgumentError, DTypeError, LayoutError, NonFiniteError, StaleError

bf16 = ml_dtypes.bfloat16


def bits(x) -> list[int]:
    return oracle.bits_of(x).tolist()


def mixed(seed: int, count: int = 12, specials: bool = False) -> list[np.ndarray]:
    """Arrays of all float types, of many shapes, layouts and magnitudes."""
    rng = np.random.default_rng(seed)
    out = []
    for k in range(count):
        shape = tuple(rng.integers(0 if k % 5 == 4 else 1, 6, rng.integers(1, 4)).tolist())
        x = rng.standard_normal(shape) * 2.0 ** rng.integers(-20, 12)
        x = np.where(rng.random(shape) < 0.2, 0.0, x).astype(list(DTYPES.values())[k % 4])
        x = (x, x.T, np.asfortranarray(x), x[..., ::-1], np.repeat(x, 2, 0)[::2])[k % 5]
        out.append(x)
    if specials:
        out.append(np.array([[5e-324, -1e-310, np.inf]]))
        out.append(np.array([[np.nan, 6e-8, -0.0]], np.float16))
    return out


def copies(arrays) -> list[np.ndarray]:
    return [np.array(x) for x in arrays]


def weights(seed: int, count: int) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    w = rng.random((2, count)) * (rng.random((2, count)) < 0.8)
    return w[0].tolist(), w[1].tolist()


def by_name(values) -> dict[str, float]:
    return {str(k): v for k, v in enumerate(values)}


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", range(20))
def test_value_and_norm_are_the_oracles(seed, name):
    arrays = mixed(seed, specials=seed % 4 == 3)
    l1, l2 = weights(seed, len(arrays))
    dtype = DTYPES[name]
    twin = SlowPlan(arrays, l1, l2)
    how = {"l1": by_name(l1), "l2": by_name(l2), "select": "all"}
    planned = fastreg.plan(arrays, **how)
    assert bits(fastreg.penalty(arrays, **how, dtype=dtype)) == [twin.value(name)]
    assert bits(planned.value(dtype)) == [twin.value(name)]
    assert bits(fastreg.global_norm(arrays, dtype=dtype)) == [twin.norm(name)]
    assert bits(planned.global_norm(dtype)) == [twin.norm(name)]


@pytest.mark.parametrize("source", FORMATS)
def test_near_ties_cut_into_lists(source):
    """A near-tie keeps its value however its elements are spread over arrays."""
    rng = random.Random(source)
    cases = generators.ties("value", source, source, 400)
    for x, l1, l2, want in cases:
        cuts = sorted(rng.sample(range(len(x) + 1), min(3, len(x))))
        parts = np.split(x, cuts)
        rng.shuffle(parts)
        got = fastreg.penalty(copies(parts), l1=l1, l2=l2, select="all", dtype=DTYPES[source])
        assert float(got) == want


@pytest.mark.parametrize("seed", range(10))
def test_order_cutting_threads_and_levels_do_not_matter(seed):
    arrays = mixed(seed, 30)
    rng = np.random.default_rng(seed)
    arrays.append(rng.standard_normal((400, 300)).astype(np.float32))
    want = fastreg.penalty(arrays, l1=0.1, l2=0.3, select="all")
    assert bits(want) == [weighted_bits(arrays, [0.1] * 31, [0.3] * 31, "f64")]
    shuffled = [arrays[k] for k in rng.permutation(len(arrays))]
    pieces = [p for x in shuffled for p in np.array_split(x.reshape(-1), 3)]
    nested = {"a": shuffled[:9], "b": {"c": tuple(shuffled[9:])}}
    for params in (shuffled, pieces, copies(pieces), nested):
        planned = fastreg.plan(params, l1=0.1, l2=0.3, select="all")
        for threads in (1, 2, 5):
            with fastreg.num_threads(threads):
                assert bits(fastreg.penalty(params, l1=0.1, l2=0.3, select="all")) == bits(want)
                assert bits(planned.value()) == bits(want)
    for isa in hooks.levels():
        got = hooks.measure(copies(pieces), "value", "f64", l1=0.1, l2=0.3, isa=isa)[0]
        assert bits(np.float64(got)) == bits(want)


_PROGRAM = """
import numpy as np, fastreg
from test_model import mixed
arrays = mixed(5, 20)
p = fastreg.plan(arrays, l1=0.1, l2=0.3, select="all")
g = [np.zeros(x.shape, x.dtype) for x in arrays]
print(p.value_and_gradient_(g).hex(), p.global_norm().hex(), [x.tobytes().hex() for x in g])
q = fastreg.plan([np.array(x) for x in arrays], l1=0.1, l2=0.3, select="all")
q.prox_(0.25); q.decay_(0.125); print(q.stats().rows.tobytes().hex())
"""


def test_every_level_gives_the_same_bits():
    answers = set()
    for isa in hooks.levels():
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "FASTREG_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.add(done.stdout)
    assert len(answers) == 1


def test_range_over_a_list():
    big = np.full((2, 2), 1e200)
    assert fastreg.penalty([big, big.copy()], l2=1e-150) == 8e250
    assert fastreg.global_norm([big, np.full(12, 1e200)]) == 4e200
    assert fastreg.penalty([np.full((1, 1), 256, np.float16)] * 1, l2=1.0) == 65536.0


def test_what_counts_and_what_does_not():
    x = np.array([[3.0, -4.0]])
    assert fastreg.penalty([], l2=1.0) == 0.0
    assert fastreg.penalty({"a": [], "b": None}, l2=1.0) == 0.0
    assert fastreg.penalty([x], l2=0.0) == 0.0
    assert fastreg.penalty([np.array([[np.nan]])], l1=0.0) == 0.0
    assert math.isnan(fastreg.penalty([x, np.array([[np.nan]]), np.array([[np.inf]])], l2=1.0))
    assert fastreg.penalty([x, np.array([[np.inf]])], l2=1.0) == math.inf
    inf_free = fastreg.penalty([x, np.array([[np.inf]])], l2={"0": 1.0})
    assert inf_free == 25.0
    assert fastreg.penalty([np.arange(4).reshape(2, 2)], l2=1.0, select="all") == 14.0
    assert fastreg.penalty(x, l2=1.0, convention="half") == 12.5
    assert type(fastreg.penalty(x, l2=1.0, dtype="float32")) is np.float32
    assert fastreg.penalty([x, np.ones(9)], l2=1.0) == 34.0  # a list means its arrays
    assert fastreg.penalty({"x": x, "y": np.ones(9)}, l2=1.0) == 25.0  # names mean the kernels


def test_the_short_way_equals_the_long_way():
    rng = np.random.default_rng(0)
    params = {
        f"{k}.{part}": rng.standard_normal(shape).astype(np.float32)
        for k in range(5)
        for part, shape in (("kernel", (4, 4)), ("bias", (4,)), ("norm.scale", (4,)))
    }
    how = {"l1": 0.1, "l2": 0.2}
    for container in (params, list(params.values()), tuple(params.values())):
        assert shortcuts.distinct_ndarrays(container) is not None
        assert fastreg.penalty(container, **how) == fastreg.plan(container, **how).value()
        planned = fastreg.plan(container, **how, select="all")
        assert fastreg.penalty(container, **how, select="all") == planned.value()
        assert fastreg.global_norm(container) == planned.global_norm()
        assert fastreg.stats(container).to_dict() == planned.stats().to_dict()
    (x,) = alone = [params["0.kernel"]]
    assert (
        fastreg.penalty(x, **how)
        == fastreg.penalty(alone, **how)
        == fastreg.value(x, **how, dtype="f64")
    )
    assert fastreg.stats(x).to_dict() == fastreg.plan(x, select="all").stats().to_dict()


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (lambda x: np.ones(3, np.float16), True),
        (lambda x: np.asfortranarray(x), True),
        (lambda x: x, False),
        (lambda x: x[:1], False),
        (lambda x: x.view(np.matrix), False),
        (lambda x: np.ones(3, np.longdouble), False),
        (lambda x: np.ones(3, np.dtype(np.float32).newbyteorder()), False),
        (lambda x: np.ones(3, int), False),
        (lambda x: np.float64(1.0), False),
        (lambda x: None, False),
    ],
)
def test_what_has_memory_of_its_own_for_the_short_way(other, alike):
    x = np.ones((2, 2))
    y = other(x)
    for items in ([x, y], [y, x]):
        assert own_their_memory(items) is alike
        assert (shortcuts.distinct_ndarrays(items) is not None) is alike


@pytest.mark.parametrize("seed", range(4))
def test_the_short_way_to_clip_equals_the_long_way(seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((4, 3)).astype(t) for t in (np.float64, np.float32, np.float16)]
    short, long = copies(arrays), copies(arrays)
    planned = fastreg.plan(long, select="all")
    for most in (math.inf, 1e3, 1.0, 0.1):
        assert fastreg.clip_by_global_norm_(short, most) == planned.clip_by_global_norm_(most)
        assert list(map(bits, short)) == list(map(bits, long))
    short[1].flags.writeable = False
    with pytest.raises(LayoutError, match="writable array at '1'"):
        fastreg.clip_by_global_norm_(short, math.inf)


# --- gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("accumulate", [False, True])
def test_gradients_are_the_oracles(seed, accumulate):
    arrays = mixed(seed, 8, specials=True)
    l1, l2 = weights(seed, len(arrays))
    rng = np.random.default_rng(seed)
    grads = [rng.standard_normal(x.shape).astype(x.dtype) for x in arrays]
    how = {"l1": by_name(l1), "l2": by_name(l2), "select": "all"}
    before = copies(grads) if accumulate else None
    want = SlowPlan(arrays, l1, l2).gradient(-0.7, before)
    singles = [
        fastreg.gradient(x, l1=a, l2=b, scale=-0.7, out=g.copy(), accumulate=accumulate)
        for x, a, b, g in zip(arrays, l1, l2, grads, strict=True)
    ]
    planned = fastreg.plan(arrays, **how)
    value = planned.value_and_gradient_(grads, scale=-0.7, accumulate=accumulate)
    assert bits(value) == bits(planned.value())
    assert [bits(g) for g in grads] == want
    assert [bits(g) for g in singles] == want


def test_fresh_gradients():
    params = {"k": np.array([[3.0, -4.0]], np.float32), "h": np.ones((1, 2), bf16), "b": np.ones(2)}
    value, grads = fastreg.value_and_gradient(params, l2=0.5)
    assert value == 13.5
    assert list(grads) == ["k", "h"]
    assert grads["k"].dtype == np.float32
    assert grads["h"].dtype == bf16
    assert grads["k"].tolist() == [[3.0, -4.0]]
    with pytest.raises(ArgumentError, match="out="):
        fastreg.value_and_gradient(params, l2=0.5, accumulate=True)
    given = {"k": np.ones((1, 2), np.float32), "h": None}
    value, same = fastreg.value_and_gradient(params, out=given, l2=0.5)
    assert same is given
    assert given["k"].tolist() == [[4.0, -3.0]]
    fastreg.value_and_gradient(params, out=given, l2=0.5, accumulate=False)
    assert given["k"].tolist() == [[3.0, -4.0]]


@pytest.mark.parametrize(
    "shape",
    [
        lambda a, b, c: {"a": a, "b": b, "c": c},
        lambda a, b, c: {"a": a, "c": c},
        lambda a, b, c: {"c": c, "a": a, "b": None},
        lambda a, b, c: [a, b, c],
        lambda a, b, c: (a, c),
        lambda a, b, c: iter([a, None, c]),
        lambda a, b, c: iter([("a", a), ("c", c)]),
    ],
)
def test_gradients_by_name_or_position(shape):
    params = {"a": np.full((2, 2), 1.0), "b": np.ones(2), "c": np.full((2, 2), 2.0)}
    a, b, c = np.zeros((2, 2)), np.zeros(2), np.zeros((2, 2))
    planned = fastreg.plan(params, l2=0.5)
    planned.add_gradient_(shape(a, b, c))
    assert (a.ravel()[0], b[0], c.ravel()[0]) == (1.0, 0.0, 2.0)


def test_bound_gradients_follow_their_container():
    params, grads = [np.full((2, 2), 1.0)], [np.zeros((2, 2))]
    planned = fastreg.plan(params, l2=0.5)
    planned.add_gradient_(grads)
    planned.add_gradient_(grads)
    first, grads[0] = grads[0], np.zeros((2, 2))
    planned.add_gradient_(grads)
    assert (first[0, 0], grads[0][0, 0]) == (2.0, 1.0)
    grads[0] = None
    planned.add_gradient_(grads)
    assert first[0, 0] == 2.0


def test_tied_weights_have_one_gradient():
    x = np.full((2, 2), 3.0)
    planned = fastreg.plan({"a": x, "b": x.T}, l2=0.5)
    assert planned.names == ["a"]
    g = np.zeros((2, 2))
    planned.add_gradient_({"a": g, "b": None})
    planned.add_gradient_({"b": g})
    planned.add_gradient_({"a": g, "b": g})
    assert g.tolist() == [[9.0, 9.0], [9.0, 9.0]]
    with pytest.raises(LayoutError, match="one gradient for 'a', which is also b"):
        planned.add_gradient_({"a": g, "b": np.zeros((2, 2))})


def read_only(x):
    x.flags.writeable = False
    return x


BIG = np.zeros((4, 4), np.float32)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda x: np.zeros((3, 2), np.float32), LayoutError),
        (lambda x: np.zeros((2, 2)), LayoutError),
        (lambda x: read_only(np.zeros((2, 2), np.float32)), LayoutError),
        (lambda x: np.broadcast_to(np.float32(0), (2, 2)), LayoutError),
        (lambda x: np.lib.stride_tricks.as_strided(BIG, (2, 2), (0, 4)), LayoutError),
        (lambda x: x, LayoutError),
        (lambda x: x.T, LayoutError),
        (lambda x: "text", DTypeError),
        (lambda x: 3.0, DTypeError),
        (lambda x: np.zeros((2, 2), np.int32), LayoutError),
        (lambda x: np.zeros((2, 2), ">f4"), DTypeError),
        (lambda x: BIG[1:3, :2], LayoutError),  # overlaps the first gradient
    ],
)
@pytest.mark.parametrize("method", ["add_gradient_", "value_and_gradient_"])
def test_bad_gradients_write_nothing(bad, error, method):
    params = {"a": np.ones((2, 2), np.float32), "b": np.arange(4, dtype=np.float32).reshape(2, 2)}
    planned = fastreg.plan(params, l2=0.5)
    BIG[...] = 0
    first = BIG[:2, :2]
    before = copies(params.values())
    with pytest.raises(error, match=r"'b'|'a'"):
        getattr(planned, method)({"a": first, "b": bad(params["b"])})
    assert not BIG.any()
    assert all((x == y).all() for x, y in zip(params.values(), before, strict=True))


def test_the_same_gradient_twice():
    g = np.zeros((2, 2))
    planned = fastreg.plan({"a": np.ones((2, 2)), "b": np.ones((2, 2))}, l2=0.5)
    with pytest.raises(LayoutError, match=r"'a'.*'b'"):
        planned.add_gradient_({"a": g, "b": g})
    with pytest.raises(LayoutError, match="'b'"):
        planned.add_gradient_({"a": g})
    with pytest.raises(LayoutError, match="typo"):
        planned.add_gradient_({"a": g, "b": np.zeros((2, 2)), "typo": g})
    assert not g.any()


# --- plans -----------------------------------------------------------------------------------


def stale(planned, match):
    calls = [
        planned.value,
        planned.global_norm,
        planned.stats,
        planned.check_finite,
        lambda: planned.prox_(0.1),
        lambda: planned.decay_(0.1),
        lambda: planned.clip_by_global_norm_(0.1),
        lambda: planned.add_gradient_([]),
        lambda: planned.value_and_gradient_([]),
    ]
    for call in calls:
        with pytest.raises(StaleError, match=match):
            call()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: p["list"].__setitem__(0, np.ones((2, 2))), "'list' another object as item 0"),
        (lambda p: p["list"].append(np.ones((2, 2))), "'list' 3 items"),
        (lambda p: p["list"].pop(), "'list' 1 items"),
        (lambda p: p["dict"].__setitem__("a", np.ones((2, 2))), "'dict' another object"),
        (lambda p: p["dict"].__setitem__("new", None), "'dict' 2 items"),
        (lambda p: p["dict"].clear(), "'dict' 0 items"),
        (lambda p: p.__setitem__("list", list(p["list"])), "top another object as item 0"),
        (lambda p: p["tuple"][1].reverse(), "'tuple.1' another object"),
    ],
)
def test_a_plan_notices_replacement(change, match):
    params = {
        "list": [np.ones((2, 2)), np.ones((2, 2))],
        "dict": {"a": np.ones((2, 2))},
        "tuple": (np.ones((2, 2)), [np.ones((2, 2)), np.ones((2, 2))]),
    }
    planned = fastreg.plan(params, l2=1.0)
    assert planned.value() == 24.0
    change(params)
    stale(planned, match)


def test_a_planned_array_cannot_be_resized_or_freed():
    x = np.ones((2, 2))
    planned = fastreg.plan([x], l2=1.0)
    with pytest.raises(ValueError, match="resize"):
        x.resize((200, 200), refcheck=False)
    x.shape = (4, 1)
    assert planned.value() == 4.0
    params = [np.full((300, 300), 2.0)]
    planned = fastreg.plan(tuple(params), l2=1.0)
    params.clear()
    assert planned.value() == 360_000.0
    buffer = bytearray(np.ones(16).tobytes())
    planned = fastreg.plan([np.frombuffer(buffer).reshape(4, 4)], l2=1.0)
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    assert planned.value() == 16.0


def test_a_plan_sees_values_written_in_place():
    x = np.ones((2, 2))
    planned = fastreg.plan([x], l2=1.0)
    x *= 3.0
    assert planned.value() == 36.0


def test_a_plan_notices_torchs_ways():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))
    changes = [
        (lambda: setattr(net[0].weight, "data", torch.ones(4, 3)), "'0.weight'"),
        (lambda: net[0].weight.set_(torch.ones(4, 3)), "'0.weight'"),
        (lambda: setattr(net[0].weight, "data", net[0].weight.data[:2]), "'0.weight'"),
        (lambda: setattr(net[1], "weight", torch.nn.Parameter(torch.ones(3, 4))), "'1' another"),
        (lambda: net[1].register_parameter("more", net[1].bias), "'1' 3 items"),
    ]
    for change, match in changes:
        planned = fastreg.plan(net, l2=1.0)
        planned.value()
        with torch.no_grad():
            change()
        stale(planned, match)
    planned = fastreg.plan(net, l2=1.0)
    net[1].weight.data.untyped_storage().resize_(0)  # as FSDP does: looking must not forbid it
    stale(planned, "'1.weight'")


def test_torch_is_told_of_writes():
    torch = pytest.importorskip("torch")
    w = torch.ones(2, 2, requires_grad=True)
    out = (w * w).sum()
    fastreg.prox_([w], l1=1.0, step=0.5)
    assert w.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()
    w.grad = torch.zeros(2, 2)
    fastreg.plan([w], l2=0.5).add_gradient_([w.grad])
    assert w.grad.tolist() == w.tolist()
    fastreg.plan([w.to(torch.bfloat16)], l2=0.5).add_gradient_([torch.zeros(2, 2).bfloat16()])


def test_a_plan_tells_about_itself(capsys):
    planned = fastreg.plan({"a": np.ones((2, 2)), "b": np.ones(3)}, l1=0.1, l2=0.2, weights=2.0)
    assert (len(planned), planned.n, planned.names) == (1, 4, ["a"])
    assert (planned.l1, planned.l2) == ([0.2], [0.4])
    assert [d.included for d in planned.decisions] == [True, False]
    assert repr(planned) == "<fastreg.Plan of 1 of 2 arrays, 4 elements>"
    planned.explain()
    assert "1 of 2 arrays in" in capsys.readouterr().out


# --- in place --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("flush", [False, True])
def test_prox_is_the_oracles(seed, flush):
    arrays = copies(mixed(seed, 8, specials=True))
    arrays.append(np.array([[3e-310, -4e-310, 1e-308]]))
    l1, l2 = weights(seed, len(arrays))
    l1 = [w * 2.0 ** (seed - 6) for w in l1]
    want = SlowPlan(arrays, l1, l2).prox(0.3, flush)
    fastreg.prox_(arrays, l1=by_name(l1), l2=by_name(l2), step=0.3, select="all", flush=flush)
    assert [bits(x) for x in arrays] == want


@pytest.mark.parametrize("name", ["f32", "f64"])
def test_prox_zeros_are_those_of_the_real_numbers(name):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 50)).astype(DTYPES[name])
    x[0, :3] = (0.5, -0.5, np.nextafter(DTYPES[name].type(0.5), DTYPES[name].type(1)))
    exact = [prox_exact(float(v), 2.0, 0.5, 0.25) for v in x.ravel()]
    fastreg.prox_([x], l1=2.0, l2=0.5, step=0.25)
    got = x.ravel()
    assert [v == 0 for v in got] == [v == 0 for v in exact]
    assert not np.signbit(got[got == 0]).any()
    for v, w in zip(got, exact, strict=True):
        assert abs(Fraction(float(v)) - w) <= Fraction(float(np.spacing(abs(v) or x.dtype.type(0))))


@pytest.mark.parametrize("seed", range(4))
def test_decay_is_the_oracles(seed):
    arrays = copies(mixed(seed, 8))
    want = SlowPlan(arrays, [], []).scale(1.0 - 0.3)
    fastreg.decay_(arrays, 0.3, select="all")
    got = [oracle.to_floats(x) for x in arrays]
    names = [oracle.name_of(x.dtype) for x in arrays]
    assert got == [[oracle.as_float(b, n) for b in bs] for bs, n in zip(want, names, strict=True)]


def test_clip():
    grads = [np.array([3.0, 0.0]), np.array([[4.0]], np.float32), None]
    before = copies(grads[:2])
    assert fastreg.clip_by_global_norm_(grads, 5.0) == 5.0
    assert all((x == y).all() for x, y in zip(grads, before, strict=False))
    assert fastreg.clip_by_global_norm_(grads, math.inf) == 5.0
    assert fastreg.clip_by_global_norm_(grads, 1.0) == 5.0
    assert [x.tolist() for x in grads[:2]] == [[0.2 * 3.0, 0.0], [[np.float32(0.2 * 4.0)]]]
    assert fastreg.clip_by_global_norm_(grads, 0.0) > 0
    assert not any(x.any() for x in grads[:2])
    assert fastreg.clip_by_global_norm_([], 1.0) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_names_what_is_not_finite(bad):
    grads = {"a": np.array([1.0, 2.0]), "b": np.array([1.0, bad])}
    with pytest.raises(NonFiniteError, match=r"1 of 2 arrays: 'b' \(. NaN and . inf of 2\)"):
        fastreg.clip_by_global_norm_(grads, 1.0)
    norm = fastreg.clip_by_global_norm_(grads, 1.0, nonfinite="keep")
    assert not math.isfinite(norm)
    assert grads["a"].tolist() == [1.0, 2.0]
    torch = pytest.importorskip("torch")
    for x in (grads["b"], torch.tensor(grads["b"])):
        with pytest.raises(NonFiniteError, match="1 of 1 arrays: '0'"):
            fastreg.clip_by_global_norm_([x], math.inf)
    with pytest.raises(NonFiniteError, match="largest float64"):
        fastreg.clip_by_global_norm_([np.full(4, 1.7e308)], 1.0)


OPERATIONS = {
    "prox_": lambda p: fastreg.prox_(p, l1=1.0, step=0.1, select="all"),
    "decay_": lambda p: fastreg.decay_(p, 0.1, select="all"),
    "clip": lambda p: fastreg.clip_by_global_norm_(p, 0.1),
    "group": lambda p: fastreg.group_lasso_prox_(p, weight=0.1, groups=0, step=0.1, select="all"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda x: read_only(np.ones((2, 2))), LayoutError),
        (lambda x: np.broadcast_to(1.0, (2, 2)), LayoutError),
        (lambda x: x[:1], LayoutError),
        (lambda x: np.ones((2, 2), np.int64), DTypeError),
        (lambda x: np.ones((2, 2), bool), DTypeError),
        (lambda x: np.float64(3.0), DTypeError),
        (lambda x: np.ones((2, 2), complex), DTypeError),
        (lambda x: "text", DTypeError),
        (lambda x: np.lib.stride_tricks.as_strided(np.ones(9), (2, 2), (8, 8)), LayoutError),
    ],
)
def test_in_place_on_bad_arrays_writes_nothing(operation, bad, error):
    x = np.arange(1.0, 5.0).reshape(2, 2)
    y = bad(x)
    if operation == "group" and np.ndim(y) == 0:  # it has no axis 0 either
        error = (DTypeError, ArgumentError)
    with pytest.raises(error, match="'b'"):
        OPERATIONS[operation]({"a": x, "b": y})
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "call",
    [
        lambda p: fastreg.prox_(p, l1=1.0, step=-0.1),
        lambda p: fastreg.prox_(p, l1=1.0, step=math.nan),
        lambda p: fastreg.prox_(p, l1=1.0, step=math.inf),
        lambda p: fastreg.prox_(p, l1=-1.0, step=0.1),
        lambda p: fastreg.prox_(p, l2=math.nan, step=0.1),
        lambda p: fastreg.prox_(p, l1=1.0, step=0.1, select="typo"),
        lambda p: fastreg.prox_(p, l1=1.0, step=0.1, convention="torch"),
        lambda p: fastreg.decay_(p, -0.1),
        lambda p: fastreg.decay_(p, 1.5),
        lambda p: fastreg.decay_(p, math.nan),
        lambda p: fastreg.clip_by_global_norm_(p, -1.0),
        lambda p: fastreg.clip_by_global_norm_(p, math.nan),
        lambda p: fastreg.clip_by_global_norm_(p, 1.0, nonfinite="ignore"),
        lambda p: fastreg.penalty(p, l2=1.0, convention=2),
        lambda p: fastreg.plan(p, l2=math.inf),
        lambda p: fastreg.group_lasso_value(p, weight=-1.0, groups=0),
        lambda p: fastreg.group_lasso_prox_(p, weight=1.0, groups=0, step=-1.0),
    ],
)
def test_bad_arguments_write_nothing(call):
    x = np.arange(1.0, 5.0).reshape(2, 2)
    with pytest.raises(ArgumentError, match=r"expected .*; received .*; "):
        call([x])
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("bad", ["1", True, None, 1j, [1.0]])
def test_what_is_no_number_writes_nothing(bad):
    x = np.arange(1.0, 5.0).reshape(2, 2)
    calls = (
        lambda: fastreg.prox_([x], bad, l1=1.0),
        lambda: fastreg.decay_([x], bad),
        lambda: fastreg.clip_by_global_norm_([x], bad),
        lambda: fastreg.plan([x], l2=1.0).add_gradient_([x.copy()], scale=bad),
    )
    for call in calls:
        with pytest.raises(DTypeError, match=r"expected a number as .*; received .*; "):
            call()
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_bad_dtypes():
    for call in (lambda x, **how: fastreg.penalty(x, l2=1.0, **how), fastreg.global_norm):
        with pytest.raises(DTypeError, match="int32"):
            call([np.ones((2, 2))], dtype="int32")


def test_none_is_no_model():
    for call in (fastreg.global_norm, fastreg.stats, lambda p: fastreg.penalty(p, l2=1.0)):
        with pytest.raises(DTypeError, match="NoneType"):
            call(None)


def test_empty_trees():
    for params in ([], {}, [None], {"a": []}, np.zeros((0, 3))):
        assert fastreg.penalty(params, l1=1.0, l2=1.0) == 0.0
        assert fastreg.global_norm(params) == 0.0
        assert fastreg.stats(params).total["n"] == 0
        fastreg.check_finite(params)
        fastreg.prox_(params, l1=1.0, step=1.0)
        fastreg.decay_(params, 0.5)
        assert fastreg.clip_by_global_norm_(params, 1.0) == 0.0
        assert fastreg.group_lasso_value(params, weight=1.0, groups=0) == 0.0
        planned = fastreg.plan(params, l2=1.0)
        planned.add_gradient_(None if len(planned) == 0 else [np.zeros((0, 3))])
        str(fastreg.stats(params))


# --- statistics ------------------------------------------------------------------------------


@pytest.mark.parametrize("specials", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_stats_are_the_oracles(seed, specials):
    arrays = mixed(seed, specials=specials)
    s = fastreg.stats(arrays)
    want = SlowPlan(arrays, [], []).statistics()
    assert np.array_equal(
        np.array(s.rows.tolist(), np.float64), np.array(want, np.float64), equal_nan=True
    )
    exact = joined(arrays)
    for field, op in (("sum_abs", "sum_abs"), ("sum_squares", "sum_squares"), ("norm", "norm")):
        assert bits(np.float64(s.total[field])) == [oracle.result_bits(op, exact, "f64")]
    assert s.total["zeros"] == sum(row[5] for row in want)
    assert math.isnan(s.total["max_abs"]) == specials


@pytest.mark.parametrize(
    ("op", "source"),
    [
        (op, source)
        for op, source, result in generators.combinations()
        if result == "f64" and op in ("sum_squares", "sum_abs", "norm")
    ],
)
def test_stats_of_near_ties(op, source):
    cases = generators.ties(op, source, "f64", 300)
    s = fastreg.stats([x.copy() for x, *_ in cases])
    want = [want for _, _, _, want in cases]
    assert s.rows[op].tolist() == want


def statistics_cases(name: str):
    """Arrays that take each way through the statistics: exact plain sums, and what forbids them."""
    dtype = DTYPES[name]
    rng = np.random.default_rng(8)
    fmt = oracle.FORMATS[name]
    tiny, normal = 2.0**fmt.emin * 2.0 ** (1 - fmt.precision), 2.0**fmt.emin
    ordinary = rng.standard_normal(1000)
    wide = ordinary * 2.0 ** rng.integers(-12, 5, 1000)
    for n in (1, 2, 3, 5, 8, 15, 16, 17, 31, 64, 100, 999):
        yield ordinary[:n].astype(dtype)
        yield wide[:n].astype(dtype)
    for at in (0, 7, 500, 998, 999):
        for special in (0.0, -0.0, tiny, -3 * tiny, normal, math.inf, -math.inf, math.nan):
            x = ordinary.astype(dtype)
            x[at] = special
            yield x
    x = ordinary.astype(dtype)
    x[::2] = 0.0
    yield x
    yield np.zeros(777, dtype)
    yield np.full(40, math.nan).astype(dtype)
    yield np.full(40, -math.inf).astype(dtype)
    yield np.full(9000, tiny).astype(dtype)
    yield np.full(20000, 1.5).astype(dtype)
    if name != "f16":
        # Sums that just exceed 53 bits, where lanes would round many times.
        for bits_more in (1, 2, 4, 9):
            top = 2.0 ** (54 - fmt.precision + bits_more)
            yield np.array([top] + [1.0 + 2.0 ** (1 - fmt.precision)] * 600).astype(dtype)


@pytest.mark.parametrize("name", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error_scale", [1.0, 2.0**60])
def test_statistics_of_every_level_are_the_oracles(name, threads, error_scale, isa):
    """Rows and total, on every level, decided by the first pass and by integers."""
    arrays = list(statistics_cases(name))
    finite = [x for x in arrays if np.isfinite(x.astype(np.float64)).all()]
    finite += [np.zeros((0, 3), DTYPES[name])[:, ::2], np.zeros((3, 0), DTYPES[name]).T]
    for chosen in (arrays, finite):
        rows, total = hooks.statistics(chosen, isa, threads, error_scale)
        want = SlowPlan(chosen, [], []).statistics()
        assert np.array_equal(
            np.array(rows.tolist(), np.float64), np.array(want, np.float64), equal_nan=True
        )
        exact = joined(chosen)
        for op in ("sum_abs", "sum_squares", "norm"):
            assert bits(np.float64(total[op])) == [oracle.result_bits(op, exact, "f64")]
        for field, column in (("n", 0), ("zeros", 5), ("subnormals", 6), ("nans", 7), ("infs", 8)):
            assert total[field] == sum(row[column] for row in want)
        largest = [row[4] for row in want]
        assert total["max_abs"] == max(largest) or math.isnan(sum(largest))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u8", "?"])
def test_statistics_of_large_and_strided_arrays(dtype):
    """Arrays that threads share, beside small ones and views."""
    rng = np.random.default_rng(3)
    large = rng.integers(0 if dtype == "u8" else -100, 100, 150_000).astype(dtype)
    arrays = [large, large[::3], large[:100], large[:60_000].reshape(200, 300).T[1:]]
    for threads in (1, 2, 7):
        rows, total = hooks.statistics(arrays, None, threads)
        for x, row in zip(arrays, rows, strict=True):
            exact = oracle.sums(x)
            for op in ("sum_abs", "norm"):
                want = oracle.as_float(oracle.result_bits(op, exact, "f64"), "f64")
                assert row[op] == want
            assert (row["n"], row["zeros"]) == (x.size, x.size - np.count_nonzero(x))
        exact = joined(arrays)
        assert bits(np.float64(total["sum_squares"])) == [
            oracle.result_bits("sum_squares", exact, "f64")
        ]


def test_stats_of_squares_that_underflow():
    rows = fastreg.stats([np.array([3e-320, 4e-320]), np.array([1e-200]), np.array([3e200])]).rows
    assert rows["norm"].tolist() == [5e-320, 1e-200, 3e200]
    assert rows["sum_squares"].tolist() == [0.0, 0.0, math.inf]


def test_stats_keep_integers_out_of_the_total():
    params = {"ids": np.arange(512), "w": np.array([3.0, -4.0])}
    s = fastreg.stats(params)
    assert (s.total["norm"], s.total["n"], s["ids"]["max_abs"]) == (5.0, 2, 511)
    assert s.notes == ("1 array of integers or booleans is not in the total (integers=True)",)
    assert (s["ids"]["counted"], s["w"]["counted"]) == (False, True)
    s = fastreg.stats(params, integers=True)
    assert (s.total["n"], s["ids"]["counted"]) == (514, True)


def test_stats_for_programs():
    s = fastreg.stats({"a": np.array([[1.0, np.inf]]), "b": np.array([0.0, np.nan], np.float16)})
    assert s["a"]["infs"] == 1
    assert (s["b"]["shape"], s["b"]["dtype"], s["b"]["zeros"]) == ([2], "f16", 1)
    assert list(s) == ["a", "b"]
    document = json.loads(s.to_json(), parse_constant=pytest.fail)
    assert document["schema"] == "fastreg-stats/3"
    assert document["arrays"][0]["sum_abs"] == "inf"
    assert document["totals"]["max_abs"] == "nan"
    assert [a["name"] for a in s.to_dict()["arrays"]] == ["a", "b"]
    with pytest.raises(ArgumentError, match="typo"):
        s["typo"]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_stats_fit_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    rng = np.random.default_rng(0)
    params = {
        f"encoder.layer.{k}.attention.output.dense.weight": rng.standard_normal((300, 70)) * 1e-7
        for k in range(12)
    }
    params["x\n\x1b[31m"] = np.array([np.nan, np.inf, 0.0, 5e-324])
    lines = str(fastreg.stats(params)).splitlines()
    assert max(map(len, lines)) <= columns
    assert "nan" in lines[0]
    assert "1 NaN and 1 infinite" in lines[-1]
    shown = [line.split()[0] for line in lines[2:15]]
    assert len(set(shown)) == 13
    assert all("weight" in name for name in shown[:12])


def test_check_finite_names_the_arrays():
    params = {f"layer{k}": np.array([1.0, np.nan if k % 2 else 0.0]) for k in range(40)}
    with pytest.raises(NonFiniteError, match=r"20 of 40 arrays: 'layer1' .* 10 more"):
        fastreg.check_finite(params)
    fastreg.check_finite(params, select="re:[02468]$")
    with pytest.raises(NonFiniteError, match=r"\(0 NaN and 1 inf of 1\)"):
        fastreg.check_finite(np.array([-np.inf], bf16))


@pytest.mark.parametrize("names", [("model.b", "model.a"), ("b", "A")])
def test_misnamed_gradients_are_refused_and_nothing_is_written(names):
    a, b = np.ones((2, 2)), np.full((2, 2), 10.0)
    plan = fastreg.plan({"a": a, "b": b}, l2=1)
    targets = [np.zeros((2, 2)), np.zeros((2, 2))]
    with pytest.raises(fastreg.errors.LayoutError, match=r"no array|no entry"):
        plan.value_and_gradient_(dict(zip(names, targets, strict=True)))
    assert not any(t.any() for t in targets)


def test_aliased_gradients_count_as_often_as_they_stand():
    g = np.array([3.0, 4.0])
    assert fastreg.global_norm([g, g]) == np.sqrt(np.float64(50.0))
    assert fastreg.clip_by_global_norm_({"a": g, "b": g}, 1.0) == np.sqrt(np.float64(50.0))
    assert np.linalg.norm([g, g]) == pytest.approx(1.0)


def test_a_bound_gradient_that_became_read_only_is_refused():
    params, grads = {"a": np.ones((2, 2))}, [np.zeros((2, 2))]
    plan = fastreg.plan(params, l2=1.0)
    plan.add_gradient_(grads)
    grads[0].flags.writeable = False
    with pytest.raises(LayoutError, match="writable"):
        plan.add_gradient_(grads)
    assert grads[0].tolist() == [[2, 2], [2, 2]]
    grads[0].flags.writeable = True
    plan.add_gradient_(grads)
    assert grads[0].tolist() == [[4, 4], [4, 4]]


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: [deque([a, b]), 3 * b],
        lambda a, b: ((x for x in (a, b)), 3 * b),
        lambda a, b: [{0: a, 1: b}.values(), 3 * b],
    ],
    ids=["deque", "generator", "view"],
)
def test_gradients_of_an_iterable_within_a_list(make):
    """Lists nested as the container is, whatever its parts are."""
    a, b = np.ones((2, 2)), np.full((2, 2), 2.0)
    _, (inner, last) = fastreg.value_and_gradient(make(a, b), l2=0.5)
    assert [g.tolist() for g in inner] == [a.tolist(), b.tolist()]
    assert last.tolist() == (3 * b).tolist()
    outer = deque([a, None, a, b])
    got = fastreg.value_and_gradient(outer, l2=0.5)[1]
    assert [None if g is None else g[0, 0] for g in got] == [1.0, None, None, 2.0]


def test_a_bound_gradient_that_took_another_shape_is_refused():
    params, memory = {"a": np.ones((2, 2))}, np.zeros((2, 4))
    grads = [memory[:, ::2]]
    plan = fastreg.plan(params, l2=1.0)
    plan.add_gradient_(grads)
    grads[0] = grads[0].reshape(1, 4)
    with pytest.raises(LayoutError, match=r"received \(1, 4\)"):
        plan.add_gradient_(grads)


# --- statistics among a program's own data ---------------------------------------------------


def test_stats_are_a_mapping():
    stats = fastreg.stats({"a": np.array([3.0, -4.0]), "b": np.zeros(2)})
    assert list(stats.keys()) == ["a", "b"]
    assert "a" in stats
    assert stats.get("c") is None
    assert dict(stats)["a"]["sum_squares"] == 25.0
    assert [numbers["zeros"] for numbers in stats.values()] == [0, 2]
    for error in (KeyError, ValueError, errors.UnknownNameError):
        with pytest.raises(error, match="expected the name of an array; received 'c'"):
            stats["c"]


def test_stats_as_csv_read_back():
    name = 'odd "name", of\x1b[2J two\nlines'
    stats = fastreg.stats({name: np.array([[0.1, np.nan]]), "b": np.array([1 / 3])})
    text = stats.to_csv()
    assert "\x1b" not in text
    assert text.count("\n") == 3
    rows = list(csv.DictReader(text.splitlines()))
    assert rows[0]["name"] == name.replace("\x1b", r"\x1b").replace("\n", r"\n")
    assert (rows[0]["shape"], rows[0]["nans"], rows[0]["counted"]) == ("1x2", "1", "True")
    assert float(rows[1]["sum_abs"]) == 1 / 3


def test_tables_for_notebooks_escape_names_and_keep_every_column():
    params = {"<b>&\x1b": np.ones((2, 2)), "bias": np.ones(2)}
    for shown in (fastreg.stats(params), fastreg.plan(params, l2=1.0)):
        html = shown._repr_html_()
        assert "&lt;b&gt;&amp;\\x1b" in html
        assert "<b>" not in html
        assert html.count("<tr>") == html.count("</tr>") >= 3
    assert "1 of 2 arrays in" in html
