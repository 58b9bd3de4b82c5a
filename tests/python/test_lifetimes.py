# SPDX-License-Identifier: BSD-3-Clause
"""Memory lives as long as a call reads it, and a plan notices what is no longer there."""

from __future__ import annotations

import asyncio
import collections
import copy
import pickle
import signal
import threading
import types

import drivers
import numpy as np
import pytest

import fastreg
from fastreg import _kernels
from fastreg._kernels import Arrays
from fastreg.errors import FastregError, LayoutError, StaleError

LONG = 30_000_000


def kernel(v: float) -> np.ndarray:
    return np.full((2, 2), v, np.float32)


# --- what changes during a call ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_nothing_crashes_under_changes(seed, soak):
    """Lists, shapes, sizes and tensors' memory change under every verb's hands."""
    seconds = "300" if soak else "4"
    code = "import sys, crash_soak; print(crash_soak.soak(float(sys.argv[1]), int(sys.argv[2])))"
    assert "done" in drivers.python(code, seconds, str(seed), timeout=600.0)


def endless(base: np.ndarray) -> np.ndarray:
    """Return a view that takes long to read: a signal is served within the call."""
    return np.broadcast_to(base, (2**19, base.size))


def in_a_call(make) -> Exception:
    """Return the error that the work of a signal's handler raised within a call.

    ``make`` returns call and work anew: a signal may come too late, when the call is over.
    """
    answers: list = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: answers.append(raised_by(work)))
    try:
        for _ in range(20):
            call, work = make()
            timer = threading.Timer(
                0.005, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            )
            timer.start()
            call()
            timer.join()
            if any(answers):
                return next(filter(None, answers))
    finally:
        signal.signal(signal.SIGUSR1, previous)
    pytest.fail("nothing was refused within a call")


def raised_by(work) -> Exception | None:
    try:
        work()
    except Exception as e:
        return e
    return None


@pytest.mark.parametrize("form", ["array", "list", "statistics", "buffer"])
def test_what_a_call_reads_cannot_be_resized(form):
    """Nor what it is a view of, though ``refcheck=False`` asks for it."""

    def make():
        base = np.ones(4096, np.float16)
        x = endless(base)
        calls = {
            "array": lambda: _kernels.value(x, l2=1.0),
            "list": Arrays([x], 0.0, 1.0).value,
            "statistics": Arrays([x]).statistics,
            "buffer": Arrays([memoryview(x)], 0.0, 1.0).value,
        }
        return calls[form], lambda: base.resize(10, refcheck=False)

    assert isinstance(in_a_call(make), ValueError)


class Meddler:
    """An array whose interface does something whenever it is asked for."""

    def __init__(self, work):
        self.x = np.ones((2, 2))
        self.work = work

    @property
    def __array_interface__(self):
        self.work()
        return self.x.__array_interface__


def test_what_has_been_described_cannot_be_resized():
    """While the arrays that come after are looked at; to be read or written."""
    x, g = np.ones((100, 100)), np.zeros((100, 100))
    told = []

    def work():
        told.append(raised_by(lambda: x.resize(10, refcheck=False)))
        told.append(raised_by(lambda: g.resize(10, refcheck=False)) if bound else ValueError())

    bound = False
    arrays = Arrays([x, Meddler(work)], 0.0, 1.0)
    assert arrays.value() == 10_004.0
    bound = True
    arrays.gradient([g, Meddler(work)])
    assert (g == 2.0).all()
    assert len(told) > 2
    assert all(isinstance(e, ValueError) for e in told)


def test_a_plan_holds_what_its_arrays_are_views_of():
    base = np.ones((4, 4))
    planned = fastreg.plan([base[:2]], l2=1.0)
    with pytest.raises(ValueError, match="resize"):
        base.resize(1, refcheck=False)
    assert planned.value() == 8.0


def test_a_plan_serves_one_call_at_a_time():
    """A handler within a call, or another thread, is refused; afterwards all is well."""
    x = endless(np.ones(4096, np.float16))
    planned = fastreg.plan([x], l2=1.0)
    for call in (planned.value, planned.stats):
        for work in (planned.value, planned.global_norm):
            error = in_a_call(lambda call=call, work=work: (call, work))
            assert isinstance(error, FastregError)
            assert "one call at a time" in str(error)
    assert planned.value() == x.size


def test_an_error_leaves_a_plan_free():
    planned = fastreg.plan({"w": kernel(1)}, l2=1.0)
    with pytest.raises(LayoutError):
        planned.add_gradient_({"w": np.zeros(3, np.float32)})
    assert planned.value() == 4.0


def test_torch_storages_outlive_a_new_data():
    """A tensor whose memory is exchanged during a call: the call reads what it began with."""
    torch = pytest.importorskip("torch")
    for call in (
        lambda xs: fastreg.penalty(xs, l2=1.0),
        fastreg.global_norm,
        lambda xs: [fastreg.value(x, l2=1.0) for x in xs],
        lambda xs: [fastreg.torch.penalty(x, l2=1.0) for x in xs],
        lambda xs: [fastreg.torch.decay_(x, 1.0) for x in xs],
    ):
        xs = [torch.ones(LONG, dtype=torch.float16)]
        want = call(xs)
        xs[0].fill_(1.0)

        def work(*_, xs=xs):
            if xs:
                xs[0].data = torch.zeros(1, dtype=torch.float16)
                xs.clear()

        previous = signal.signal(signal.SIGUSR1, work)
        try:
            timer = threading.Timer(
                0.002, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            )
            timer.start()
            got = call(xs)
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert got in (want, 0.0, [], [0.0])  # the last three: the signal came before the call


def test_looking_at_a_torch_storage_leaves_it_resizable():
    """FSDP frees the storages of parameters; a look at them must not forbid it for good."""
    torch = pytest.importorskip("torch")
    for look in (
        lambda x: fastreg.value(x, l2=1.0),
        lambda x: fastreg.stats([x]),
        lambda x: fastreg.plan([x], l2=1.0).value(),
        lambda x: fastreg.torch.penalty(x[::2], l2=1.0),
        lambda x: fastreg.decay_([x], 0.5),
    ):
        for dtype in (torch.float32, torch.bfloat16, torch.int32):
            x = torch.ones(8, dtype=dtype)
            if dtype is torch.int32 and look(torch.ones(2)) is None:
                continue  # decay_ takes no integers
            look(x)
            x.untyped_storage().resize_(0)


@pytest.mark.parametrize("left", [0, 40])
def test_freed_and_cut_torch_storages_are_refused(left):
    torch = pytest.importorskip("torch")
    for call in (
        lambda x: fastreg.value(x, l2=1.0),
        lambda x: fastreg.penalty([x], l2=1.0),
        lambda x: fastreg.penalty([torch.ones(3), x], l2=1.0),
        lambda x: fastreg.global_norm([x]),
        lambda x: fastreg.clip_by_global_norm_([x], 1.0),
        lambda x: fastreg.stats([x]),
        lambda x: fastreg.torch.penalty(x, l2=1.0),
        lambda x: fastreg.torch.penalty([x, torch.ones(3)], l2=1.0),
        lambda x: fastreg.torch.decay_(x, 0.5),
        lambda x: fastreg.plan([x], l2=1.0),
    ):
        x = torch.ones(1000)
        x.untyped_storage().resize_(left)
        with pytest.raises(LayoutError, match="storage"):
            call(x)


# --- plans and what they were made of ------------------------------------------------------------


class Box:
    """Anything that can be iterated over, again and again."""

    def __init__(self, x):
        self.items = [x]

    def __iter__(self):
        return iter(self.items)


INNER: dict = {}


def inner() -> dict:
    INNER.clear()
    INNER["w"] = kernel(1)
    return INNER


REPLACED = {
    "UserDict": (lambda: collections.UserDict(w=kernel(1)), lambda c: c.update(w=kernel(9))),
    "UserList": (
        lambda: collections.UserList([kernel(1)]),
        lambda c: c.__setitem__(0, kernel(9)),
    ),
    "MappingProxyType": (
        lambda: types.MappingProxyType(inner()),
        lambda c: INNER.update(w=kernel(9)),
    ),
    "ChainMap": (lambda: collections.ChainMap(inner()), lambda c: c.update(w=kernel(9))),
    "deque": (lambda: collections.deque([kernel(1)]), lambda c: c.__setitem__(0, kernel(9))),
    "iterable": (lambda: Box(kernel(1)), lambda c: c.items.__setitem__(0, kernel(9))),
    "nested": (
        lambda: {"a": (Box(kernel(1)),)},
        lambda c: c["a"][0].items.__setitem__(0, kernel(9)),
    ),
    "values": (lambda: inner().values(), lambda c: INNER.update(w=kernel(9))),
    "items": (lambda: inner().items(), lambda c: INNER.update(w=kernel(9))),
    "grown": (lambda: collections.deque([kernel(1)]), lambda c: c.append(kernel(9))),
}


@pytest.mark.parametrize("kind", REPLACED)
def test_a_plan_of_any_container_notices_replacement(kind):
    """Reading and writing alike; the old arrays are not written to."""
    make, change = REPLACED[kind]
    container = make()
    planned = fastreg.plan(container, l2=1.0, select="all")
    assert planned.value() == 4.0
    old = planned._hosts[0].data
    change(container)
    for call in (planned.value, planned.stats, lambda: planned.decay_(0.5)):
        with pytest.raises(StaleError, match="make the plan anew"):
            call()
    assert (old == 1.0).all()


@pytest.mark.parametrize("library", ["jax", "optree"])
def test_a_plan_of_registered_nodes_notices_replacement(library):
    class Layer:
        def __init__(self, x):
            self.x = x

    if library == "jax":
        jax = pytest.importorskip("jax")
        jax.tree_util.register_pytree_node(Layer, lambda n: ((n.x,), None), lambda _, c: Layer(*c))
    else:
        optree = pytest.importorskip("optree")
        optree.register_pytree_node(
            Layer,
            lambda n: ((n.x,), None),
            lambda _, c: Layer(*c),
            namespace=optree.registry.__GLOBAL_NAMESPACE,
        )
    layer = Layer(kernel(1))
    planned = fastreg.plan({"a": layer}, l2=1.0, select="all")
    assert planned.value() == 4.0
    layer.x = kernel(9)
    with pytest.raises(StaleError, match="another object"):
        planned.value()


class Maker:
    """A container that makes its arrays anew."""

    def __iter__(self):
        return iter([np.ones((2, 2))])


class Viewer:
    """A container that makes views of one array anew."""

    def __init__(self):
        self.x = np.ones((2, 2))

    def __iter__(self):
        return iter([self.x[:1], self.x[1:]])


def test_containers_that_make_their_items_anew():
    """New memory each time cannot be planned, but be looked at; views of one memory can."""
    with pytest.raises(LayoutError, match="anew each time"):
        fastreg.plan(Maker(), l2=1.0)
    assert fastreg.penalty(Maker(), l2=1.0) == 4.0
    assert fastreg.stats(Maker()).total["n"] == 4
    viewer = Viewer()
    planned = fastreg.plan(viewer, l2=1.0)
    planned.decay_(0.5)
    assert planned.value() == 1.0
    viewer.x = np.ones((2, 2))
    with pytest.raises(StaleError):
        planned.value()


def test_a_plan_notices_another_type_or_layout_at_the_same_address():
    torch = pytest.importorskip("torch")
    changes = [
        lambda x: x.view(torch.int32),
        lambda x: x.view(-1)[:6].view(3, 2),
        lambda x: x.as_strided((4, 2), (0, 1)),
        lambda x: x.as_strided((2, 4), (2, 1)),
    ]
    for change in changes:
        x = torch.ones(4, 2)
        planned = fastreg.plan([x], l2=1.0)
        planned.value()
        x.data = change(x.data)
        with pytest.raises(StaleError, match="'0'"):
            planned.value()
    x = torch.arange(16.0).view(4, 4).T[:, 1:3]  # never contiguous
    planned = fastreg.plan([x], l2=1.0)
    planned.value()
    x.data = x.data.as_strided((4, 2), (1, 8))
    with pytest.raises(StaleError, match="'0'"):
        planned.value()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_plan_notices_another_numpy_type_but_not_another_shape():
    x = np.ones((4, 2))
    planned = fastreg.plan([x], l2=1.0)
    x.shape = (2, 4)
    assert planned.value() == 8.0
    x.dtype = np.int64
    with pytest.raises(StaleError, match="'0'"):
        planned.value()


def test_a_plan_cannot_be_copied_and_says_so():
    planned = fastreg.plan([kernel(1)], l2=1.0)
    for work in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="make a plan of the copy"):
            work(planned)


class Holder:
    """A model that keeps its plan."""

    def __init__(self) -> None:
        self.params = {"layer.kernel": kernel(1)}
        self.plan = fastreg.plan(self.params, l2=1.0)


@pytest.mark.parametrize("work", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_what_holds_a_plan_is_copied_as_the_error_says(work):
    model = Holder()
    with pytest.raises(TypeError, match="take it out of what is copied"):
        work(model)
    plan = vars(model).pop("plan")
    again = work(model)
    again.plan = fastreg.plan(again.params, l2=1.0)
    again.params["layer.kernel"] *= 2.0
    assert again.plan.value() == 4.0 * plan.value()


def test_decisions_are_shown_in_one_line():
    params = {f"layer{k}.kernel": kernel(1) for k in range(3000)} | {"norm.bias": np.ones(2)}
    planned = fastreg.plan(params, l2=1.0)
    assert repr(planned.decisions) == ("<3,001 decisions: 3,000 in, 1 out; explain() prints them>")
    assert planned.decisions[0].included


# --- interruption --------------------------------------------------------------------------------


class Stop(Exception):
    """What the handler raises."""


def forever(call) -> None:
    while True:
        call()


def test_torch_is_told_of_what_an_interrupted_call_wrote():
    """The version rises also if a handler's exception ended the call."""
    torch = pytest.importorskip("torch")

    def stop(*_):
        raise Stop

    def verbs(x):
        big = x.numel()
        return [
            lambda: fastreg.decay_([x], 0.5),
            lambda: fastreg.prox_([x], 1e-9, l1=1.0),
            lambda: fastreg.plan([x], l1=1.0).prox_(1e-9),
            lambda: fastreg.clip_by_global_norm_([x], fastreg.global_norm([x]) / 2),
            lambda: fastreg.torch.decay_(x, 0.5),
            lambda: fastreg.group_lasso_prox_([x.view(4, big // 4)], 1e-9, weight=1.0, groups=0),
        ]

    x = torch.ones(LONG, dtype=torch.float16)
    previous = signal.signal(signal.SIGUSR1, stop)
    try:
        for k in range(len(verbs(x))):
            x = torch.ones(LONG, dtype=torch.float16)
            verb = verbs(x)[k]
            timer = threading.Timer(
                0.2, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            )
            timer.start()
            with pytest.raises(Stop):
                forever(verb)
            timer.join()
            assert x._version > 0, k
    finally:
        signal.signal(signal.SIGUSR1, previous)


# --- tasks ---------------------------------------------------------------------------------------


def test_interleaved_tasks_have_their_own_thread_counts():
    async def task(count, seconds):
        with fastreg.num_threads(count):
            await asyncio.sleep(seconds)
            return fastreg.get_num_threads()

    async def main():
        return await asyncio.gather(task(2, 0.01), task(1, 0.03), task(3, 0.02))

    before = fastreg.get_num_threads()
    assert asyncio.run(main()) == [2, 1, 3]
    assert fastreg.get_num_threads() == before


def test_a_thread_count_ends_with_its_block_also_in_another_context():
    """A generator that is closed elsewhere leaves its own context as it was."""

    def held():
        with fastreg.num_threads(3):
            yield fastreg.get_num_threads()

    before = fastreg.get_num_threads()
    steps = held()
    assert next(steps) == 3
    steps.close()
    assert fastreg.get_num_threads() == before
