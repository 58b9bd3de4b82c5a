# SPDX-License-Identifier: BSD-3-Clause
"""State as users type it: containers, rows, weights, pickles, refusals."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import ml_dtypes
import numpy as np
import pytest

import fastreg
from fastreg import State
from fastreg.errors import ArgumentError, DTypeError, StaleError, UnknownNameError

X = np.linspace(-3.0, 5.0, 1000)
PARAMS = {"dense": {"kernel": X.reshape(20, 50), "bias": np.ones(7, np.float32)}, "n": np.arange(4)}


@pytest.mark.parametrize("select", ["all", None, "kernels", "*bias", ["*.kernel", "n"]])
def test_the_arrays_are_those_of_penalty(select):
    state = fastreg.state(PARAMS, select=select)
    assert state.value(0.1, 0.3) == fastreg.penalty(PARAMS, l1=0.1, l2=0.3, select=select)


def test_containers():
    whole = fastreg.state(X)
    cube = X.reshape(10, 10, 10)
    for given in ([X[:10], X[10:]], (X,), {"a": X}, cube, iter([X]), memoryview(X)):
        assert fastreg.state(given) == whole
    assert fastreg.state([]) == fastreg.state({}) == State()
    assert fastreg.state(np.empty((3, 0))) == State()
    assert fastreg.state([X, X]) == whole  # one memory, as in penalty
    assert fastreg.state([X, X.copy()]).n == 2000
    with pytest.raises(DTypeError):
        fastreg.state({"a": "text"})
    with pytest.raises(DTypeError):
        fastreg.state(np.ones(3, complex))
    with pytest.raises(ArgumentError):
        fastreg.state(PARAMS, select="nothing*")


@pytest.mark.parametrize("name", ["torch", "jax.numpy", "tensorflow"])
def test_frameworks(name):
    library = pytest.importorskip(name, reason=f"{name} is not installed")
    small = X.astype(np.float32)
    make = library.constant if name == "tensorflow" else getattr(library, "as_tensor", None)
    x = (make or library.asarray)(small)
    assert fastreg.state(x) == fastreg.state(small)
    assert fastreg.state({"a": x}, rows="arrays").names == ("a",)


def test_torch_module():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    rows = fastreg.state(net, rows="arrays")
    assert rows.names == tuple(name for name, _ in net.named_parameters())
    assert rows.value(l2=0.5) == fastreg.penalty(net, l2=0.5, select="all")
    assert fastreg.plan(net, l2=0.5).state().value() == fastreg.penalty(net, l2=0.5)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_floats_of_one_byte(name):
    x = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, name))
    assert fastreg.state(x) == fastreg.state(x.astype(np.float64))


def test_rows():
    rows = fastreg.state(PARAMS, rows="arrays")
    assert rows.names == ("dense.kernel", "dense.bias", "n")
    assert len(rows) == len(list(rows)) == 3
    assert rows["dense.kernel"] == rows[0] == fastreg.state(X)
    assert rows[-1] == fastreg.state(np.arange(4))
    assert rows.total() == fastreg.state(PARAMS)
    assert rows != rows.total()
    assert rows.n == 1011
    assert rows.zeros == 1
    assert (rows + rows)["n"].n == 8
    with pytest.raises(UnknownNameError, match=r"see state\.names"):
        rows["dense"]
    with pytest.raises(IndexError):
        rows[3]
    with pytest.raises(ArgumentError, match='rows="one" always adds'):
        rows + rows.total()
    with pytest.raises(ArgumentError, match="distinct names"):
        fastreg.state([("a", np.ones(1)), ("a", np.zeros(1))], rows="arrays")
    with pytest.raises(ArgumentError, match="arrays"):
        fastreg.state(X, rows="all")


def test_weights_of_rows():
    by_name = {"*kernel": 0.5, "*bias": 2.0}
    rows = fastreg.state(PARAMS, rows="arrays")
    expected = fastreg.penalty(PARAMS, l2=by_name, select="all")
    assert rows.value(l2=by_name) == rows.value(l2=[0.5, 2.0, 0.0]) == expected
    assert rows.value(l2=np.array([0.5, 2.0, 0.0])) == expected
    grouped = fastreg.state(PARAMS, rows="weights", l2=by_name)
    assert grouped.names == ("l1=0.0, l2=0.0", "l1=0.0, l2=0.5", "l1=0.0, l2=2.0")
    assert grouped.value() == expected
    assert (grouped + grouped).value() == 2 * expected
    assert grouped["l1=0.0, l2=2.0"].value() == 14.0
    plan = fastreg.plan(PARAMS, l1=0.1, l2=by_name, select="all")
    assert plan.state(rows="weights").value() == plan.state(rows="arrays").value() == plan.value()
    assert fastreg.state(X, l2=0.5, convention="half").value() == fastreg.value(X, l2=0.25)
    for bad, words in (
        ({"l2": [1.0, 2.0]}, "for each row"),
        ({"l2": {"kernel": 1.0}}, "see state.names"),
        ({"l2": -1.0}, "finite and >= 0"),
        ({"l2": {"*": np.nan}}, "finite and >= 0"),
        ({}, "a weight"),
    ):
        with pytest.raises(ArgumentError, match=words):
            rows.value(**bad)
    with pytest.raises(DTypeError):
        rows.value(l2="0.5")
    with pytest.raises(ArgumentError, match='or rows="one"'):
        fastreg.state(PARAMS, rows="weights")


def test_plan_follows_its_arrays():
    params = {"kernel": np.ones((2, 3)), "bias": np.ones(3)}
    plan = fastreg.plan(params, l2=1.0)
    before = plan.state()
    assert before.n == 6
    params["kernel"] *= 3.0
    assert plan.state().value() == plan.value() == 54.0
    assert before.value() == 6.0
    params["kernel"] = np.ones((2, 3))
    with pytest.raises(StaleError):
        plan.state()


@pytest.mark.parametrize("rows", ["one", "arrays", "weights"])
def test_values(rows):
    """Equality, hashes, copies, pickles and bytes."""
    state = fastreg.state(PARAMS, rows=rows, l2={"*kernel": 0.5, "*bias": 2.0})
    for other in (
        copy.copy(state),
        copy.deepcopy(state),
        pickle.loads(pickle.dumps(state)),
        State.from_bytes(bytes(state)),
        State.from_bytes(bytearray(bytes(state))),
    ):
        assert other == state
        assert hash(other) == hash(state)
        assert other.names == state.names
        assert other.fingerprint() == state.fingerprint()
    again = pickle.loads(pickle.dumps(state))
    assert again.weights == state.weights
    assert again.digits().shape == state.digits().shape
    assert State.from_digits(state.digits(), state.names) == state
    assert len({state, again, State()}) == 2
    assert state != bytes(state)
    for name in ("names", "weights"):
        with pytest.raises(AttributeError):
            setattr(state, name, ())
    assert "elements" in repr(state)
    assert "\n" not in repr(state)


def test_a_pickle_keeps_the_layout_of_its_digits():
    """A shard of float64 without elements, or of small numbers, still sends the wide layout."""
    for x in (np.empty(0), np.ones(3)):
        state = fastreg.state(x)
        assert pickle.loads(pickle.dumps(state)).digits().size == state.digits().size == 214


def test_named_bytes_that_were_changed():
    data = bytes(fastreg.state(PARAMS, rows="arrays"))
    rng = np.random.default_rng(1)
    for cut in range(0, len(data), 7):
        with pytest.raises(ArgumentError):
            State.from_bytes(data[:cut])
    with pytest.raises(ArgumentError):
        State.from_bytes(data + b"\0")
    for _ in range(3000):
        spoilt = bytearray(data)
        spoilt[rng.integers(0, len(data))] = rng.integers(0, 256)
        try:
            state = State.from_bytes(spoilt)
        except ArgumentError:
            continue
        assert bytes(state) == bytes(spoilt)
    for no_bytes in ("text", None, 7, [1]):
        with pytest.raises(DTypeError):
            State.from_bytes(no_bytes)


def test_sum_and_operands():
    state = fastreg.state(X)
    assert sum([state, state]) == state + state
    assert sum([], State()) == State()
    assert np.sum([state, state, state]) == state + state + state
    with pytest.raises(DTypeError, match=r"state\.value"):
        np.asarray(state, np.float64)
    for other in (1, None, "a", X):
        with pytest.raises(TypeError):
            state + other
        with pytest.raises(TypeError):
            state - other
    with pytest.raises(TypeError):
        1 + state


def test_digits_refuse_what_they_are_not():
    state = fastreg.state(X)
    for dtype in (np.float64, np.uint64, np.int16, "text", None, object):
        with pytest.raises(DTypeError, match="int64 or int32"):
            state.digits(dtype)
    with pytest.raises(ArgumentError, match="layout"):
        state.digits(layout="middle")
    with pytest.raises(ArgumentError, match="a name for each row"):
        State.from_digits(np.stack([state.digits()] * 2))
    with pytest.raises(ArgumentError, match="a name for each row"):
        State.from_digits(state.digits(), ["a"])
    with pytest.raises(ArgumentError, match="distinct"):
        State.from_digits(np.stack([state.digits()] * 2), ["a", "a"])
    assert State.from_digits(np.asfortranarray(np.stack([state.digits()] * 2)), "ab").n == 2000
    assert State.from_digits(state.digits().tolist()) == state
    assert State.from_digits(np.zeros(44, np.int64)) == State()


def _work(part):
    return bytes(fastreg.state(part))


def test_processes():
    parts = np.array_split(X, 5)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        states = [State.from_bytes(data) for data in pool.map(_work, parts)]
    assert sum(states) == fastreg.state(X)


def test_following_updates():
    """Subtract the old part, add the new one, many times: never a difference."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal(500)
    state = fastreg.state(x)
    for _ in range(200):
        here = slice(*np.sort(rng.integers(0, 501, 2)))
        old = x[here].copy()
        x[here] = np.ldexp(rng.standard_normal(old.size), rng.integers(-300, 300))
        state = state - fastreg.state(old) + fastreg.state(x[here])
    assert state == fastreg.state(x)


def test_rows_of_statistics_have_states_under_the_same_names():
    rng = np.random.default_rng(5)
    params = {
        "a": {"kernel": rng.normal(size=(40, 3)).astype(np.float32), "bias": np.zeros(3)},
        "steps": np.arange(5),
        "b": [np.array([np.nan, -np.inf, 0.0]), rng.normal(size=9).astype(np.float16)],
    }
    stats, state = fastreg.stats(params, integers=True), fastreg.state(params, rows="arrays")
    planned = fastreg.plan(params, select="all").state(rows="arrays")
    assert state.names == stats.names
    assert planned == state
    for name in stats:
        row, one = stats[name], state[name]
        numbers = one.n, one.zeros, one.nans, sum(one.infs)
        assert numbers == (row["n"], row["zeros"], row["nans"], row["infs"])
        for verb in ("sum_abs", "sum_squares", "norm"):
            np.testing.assert_array_equal(getattr(one, verb)(), row[verb])
    total = state.total()
    assert total == fastreg.state(params)
    np.testing.assert_array_equal(total.norm(), stats.total["norm"])


def test_a_state_is_true_and_says_what_it_holds():
    empty = fastreg.State()
    assert empty
    assert len(empty) == 1
    assert "0 elements" in repr(empty)
    x = np.array([3.0, -4.0])
    s = fastreg.state({"a": x, "b": x.copy()}, rows="arrays")
    assert "4 elements" in repr(s)
    assert "2 rows" in repr(s)
    assert s.l2_loss() == 25.0
    assert s.l2_loss("float32").dtype == np.float32
    assert all(row.l2_loss() == fastreg.l2_loss(x) for row in s)
