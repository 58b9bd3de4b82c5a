# SPDX-License-Identifier: BSD-3-Clause
"""Calls while other threads and signal handlers change what they were given: nothing may crash.

Run as ``python tests/tools/crash_soak.py SECONDS [SEED]``; it prints how many calls were made and
which errors they raised. What changes under a call's hands: lists and dicts lose and get items,
shapes and strides are assigned to, arrays are resized with ``refcheck=False``, tensors get other
memory by ``.data`` and ``set_``, plans are used from several sides. Numbers read meanwhile mean
nothing; at the end every verb is right again. A storage that somebody frees with
``untyped_storage().resize_(0)`` while a call reads is left out: torch's own operations crash too.
"""

from __future__ import annotations

import collections
import random
import signal
import sys
import threading
import time
import warnings

import numpy as np

import fastreg
from fastreg.errors import FastregError

try:
    import torch

    import fastreg.torch  # not first within a handler, which would see a half of it
except ImportError:
    torch = None

N = 40_000  # long enough to release the interpreter's lock


class Shared:
    """What everybody calls with, and everybody changes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.base = np.ones(4 * N, np.float32)
        self.arrays = [np.ones(N, np.float32) for _ in range(6)]
        self.views = [self.base[:N], self.base[N : 2 * N].reshape(200, -1)]
        self.mapping = {f"w{k}": np.ones((200, N // 200)) for k in range(4)}
        self.deque = collections.deque(np.ones((200, N // 200)) for _ in range(3))
        self.grads = [np.zeros(N, np.float32) for _ in range(6)]
        self.tensors = [] if torch is None else [torch.ones(N) for _ in range(6)]
        self.plan = fastreg.plan(self.mapping, l1=1.0, l2=1.0, select="all")

    def calls(self):
        """Return every verb, on what is shared."""
        plan = self.plan
        found = [
            lambda: fastreg.penalty(self.arrays, l2=1.0),
            lambda: fastreg.penalty(self.mapping, l1={"w*": 1.0}, select="all"),
            lambda: fastreg.penalty(self.deque, l2=1.0),
            lambda: fastreg.global_norm(self.arrays),
            lambda: fastreg.stats(self.mapping),
            lambda: fastreg.clip_by_global_norm_(self.grads, 1.0),
            lambda: fastreg.decay_(self.arrays, 0.01),
            lambda: fastreg.prox_(self.arrays, 0.01, l1=0.1),
            lambda: fastreg.value_and_gradient(self.arrays, l2=1.0),
            lambda: fastreg.value_and_gradient(self.arrays, l2=1.0, out=self.grads),
            lambda: [fastreg.value(x, l2=1.0) for x in self.views],
            lambda: fastreg.gradient(self.arrays[0], l2=1.0, out=self.grads[0]),
            lambda: fastreg.group_lasso_value(self.mapping, weight=1.0, groups=0, select="all"),
            lambda: fastreg.group_lasso_prox_(
                list(self.mapping.values()), 0.01, weight=1.0, groups=0
            ),
            plan.value,
            plan.stats,
            lambda: plan.decay_(0.01),
            lambda: plan.clip_by_global_norm_(1.0),
            lambda: plan.add_gradient_({k: np.zeros_like(x) for k, x in self.mapping.items()}),
        ]
        if torch is not None:
            found += [
                lambda: fastreg.penalty(self.tensors, l2=1.0),
                lambda: fastreg.global_norm(self.tensors),
                lambda: fastreg.clip_by_global_norm_(self.tensors, 1.0),
                lambda: fastreg.torch.penalty(self.tensors, l2=1.0),
                lambda: fastreg.torch.decay_(self.tensors, 0.01),
                lambda: fastreg.stats(self.tensors),
            ]
        return found

    def change(self) -> None:
        """Change one thing."""
        rng = self.rng
        k = rng.randrange(6)
        kind = rng.randrange(9 if torch is None else 13)
        if kind == 0:
            self.arrays[k] = np.ones(N, np.float32)
        elif kind == 1:
            del self.arrays[k % max(len(self.arrays), 1)]
            self.arrays += [np.ones(N, np.float32) for _ in range(6 - len(self.arrays))]
        elif kind == 2:
            self.grads[:] = [np.zeros(N, np.float32) for _ in range(6)]
        elif kind == 3:
            x = self.arrays[k]
            x.shape = (N,) if x.ndim == 2 else (200, -1)
        elif kind == 4:
            self.arrays[k].resize(rng.choice([10, N]), refcheck=False)
        elif kind == 5:
            x = self.views[1]
            x.shape = (N,) if x.ndim == 2 else (200, -1)
        elif kind == 6:
            self.mapping[f"w{k % 4}"] = np.ones((200, N // 200))
        elif kind == 7:
            self.deque.popleft()
            self.deque.append(np.ones((200, N // 200)))
        elif kind == 8:
            self.plan = fastreg.plan(self.mapping, l1=1.0, l2=1.0, select="all")
        elif kind == 9:
            self.tensors[k] = torch.ones(N)
        elif kind == 10:
            self.tensors[k].data = torch.ones(rng.choice([10, N]))
        elif kind == 11:
            self.tensors[k].set_(torch.ones(N))
        elif kind == 12:
            self.tensors[:] = [torch.ones(N) for _ in range(6)]


def soak(seconds: float, seed: int) -> collections.Counter[str]:
    """Call and change for so long; return what came of it, by name."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, for assigning to a shape
    rng = random.Random(seed)
    shared = Shared(rng)
    told: collections.Counter[str] = collections.Counter()
    stop = time.monotonic() + seconds

    def attempt(work) -> None:
        try:
            work()
            told["done"] += 1
        except (FastregError, ValueError, IndexError, RuntimeError, KeyError, TypeError) as e:
            told[type(e).__name__] += 1

    inside = [False]

    def handler(*_) -> None:
        if inside[0]:
            return
        inside[0] = True
        for _ in range(3):
            attempt(shared.change)
        attempt(rng.choice(shared.calls()))
        inside[0] = False

    def caller() -> None:
        while time.monotonic() < stop:
            attempt(rng.choice(shared.calls()))

    def changer() -> None:
        while time.monotonic() < stop:
            attempt(shared.change)
            time.sleep(0.0005)

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    threads = [threading.Thread(target=t) for t in (caller, changer)]
    for t in threads:
        t.start()
    try:
        caller()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        for t in threads:
            t.join()
    check()
    return told


def check() -> None:
    """Every verb is right after all that."""
    x = np.full((200, N // 200), 2.0)
    assert fastreg.penalty([x], l2=1.0) == 4.0 * N
    assert fastreg.plan({"w": x}, l2=1.0).value() == 4.0 * N
    fastreg.clip_by_global_norm_([x], 0.0)
    assert not x.any()
    if torch is not None:
        assert fastreg.penalty([torch.full((N,), 2.0)], l2=1.0) == 4.0 * N


if __name__ == "__main__":
    words = soak(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(", ".join(f"{count:,} {name}" for name, count in words.most_common()))
