# SPDX-License-Identifier: BSD-3-Clause
"""Time is linear in the arrays: counted in steps, for clocks of a busy machine tell little."""

from __future__ import annotations

import random
import re
from fnmatch import translate

import numpy as np
import pytest

import fastreg
from fastreg._core import targets
from fastreg._core.arguments import Globs, spellings
from fastreg.errors import ArgumentError, LayoutError

KEYS = {
    "names": "layer{}.attention.kernel",
    "prefixes": "layer{}.*",
    "suffixes": "*r{}.attention.kernel",
    "middles": "*r{}.*",
    "wildcards": "layer?{}*",
    "sets": "*[rx]{}.*",
}


def slow(keys, names, every=False):
    """The first key that fits, or all of them, by trying each."""
    spelt = [s for name in names for s in spellings(name)]
    fits = [k for k in keys if k in spelt] + [
        k for k in keys if set(k) & set("*?[") and any(re.match(translate(k), s) for s in spelt)
    ]
    return set(fits) if every else (fits[0] if fits else None)


def test_globs_fit_what_fnmatch_says():
    rng = random.Random(5)
    for _ in range(3000):
        keys = list(
            {
                "".join(rng.choice("ab./*?[]!-") for _ in range(rng.randrange(7)))
                for _ in range(rng.randint(1, 5))
            }
        )
        names = [
            "".join(rng.choice("ab./") for _ in range(rng.randrange(7)))
            for _ in range(rng.randint(1, 2))
        ]
        globs = Globs(keys)
        exact = [s for n in names for s in spellings(n) if s in keys]
        assert globs.find(names) == (exact[0] if exact else slow(keys, names))
        assert globs.fitting(names) == slow(keys, names, every=True)


@pytest.mark.parametrize("kind", KEYS)
def test_a_rule_for_each_array_is_tried_on_few(kind, monkeypatch):
    """Not every rule on every array; also where a later rule is overruled everywhere."""
    tried = []
    fits = Globs._fits
    monkeypatch.setattr(Globs, "_fits", lambda s, t, n: tried.append(t) or fits(s, t, n))
    count = 300
    names = [f"layer{k}.attention.kernel" for k in range(100, 100 + count)]
    params = {name: np.ones((1, 1), np.float32) for name in names}
    rules = {KEYS[kind].format(k if kind != "wildcards" else k % 100): 1.0 for k in range(100, 400)}
    if kind != "wildcards":
        rules |= {f"layer{k}.*": 2.0 for k in range(100, 400)}
    assert fastreg.penalty(params, l2=rules) >= count
    assert len(tried) <= 12 * count


def test_interleaved_arrays_are_not_compared_in_pairs(monkeypatch):
    """Columns of one matrix, as arrays and as their gradients' targets."""
    asked = []
    exact = targets._share_memory
    monkeypatch.setattr(targets, "_share_memory", lambda a, b: asked.append(1) or exact(a, b))
    matrix = np.ones((3, 400), np.float32)
    xs = [matrix[:, 4 * k : 4 * k + 2] for k in range(100)]
    gs = [matrix[:, 4 * k + 2 : 4 * k + 4] for k in range(100)]
    fastreg.plan(xs, l2=0.5).add_gradient_(gs)
    fastreg.decay_(xs, 0.5)
    assert (matrix.reshape(3, 100, 4) == [0.5, 0.5, 2.0, 2.0]).all()
    assert len(asked) <= 100  # each with its own target


def test_interleaved_arrays_that_overlap_are_refused():
    matrix = np.ones((3, 40))
    clean = [matrix[:, 4 * k : 4 * k + 2] for k in range(10)]
    for bad in (
        matrix[:, 1:3],
        matrix[:, 39:],  # fits
        matrix[1:, 5:7],
        matrix.reshape(-1)[39:42],  # over the end of a row
        matrix[1:2, 3:5],
        matrix[::2, 1:2],
    ):
        shares = any(np.shares_memory(bad, x) for x in clean)
        before = matrix.copy()
        if shares:
            with pytest.raises(LayoutError, match="share memory"):
                fastreg.decay_([*clean, bad], 0.5)
            assert (matrix == before).all()
        else:
            fastreg.decay_([*clean, bad], 0.5)
            matrix[...] = 1.0


class Unsearched(tuple):
    """Names that nobody may search one after the other."""

    def index(self, *_):
        pytest.fail("a search")

    __contains__ = index


def test_a_row_of_statistics_is_found_by_name_at_once():
    found = fastreg.stats({"a": np.ones(1), "b": np.ones(2)})
    found.names = Unsearched(found.names)
    assert [found[name]["n"] for name in found] == [1, 2]
    with pytest.raises(ArgumentError, match="'c'"):
        found["c"]
