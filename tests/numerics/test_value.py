# SPDX-License-Identifier: BSD-3-Clause
"""C1 and C2: every value and norm is the exact number rounded once, on every level.

The default run takes 10**5 near-ties and 3 * 10**4 random vectors per operation and dtype, fewer
where the result has another dtype than the elements; `--soak` takes 10**6 of each.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import lru_cache

import generators
import hooks
import hypothesis
import numpy as np
import oracle
import pytest
from hypothesis import strategies as st
from oracle import DTYPES, FORMATS

import fastreg

sources = pytest.mark.parametrize("source", FORMATS)
results = pytest.mark.parametrize("result", FORMATS)
names = pytest.mark.parametrize("name", FORMATS)
operations = pytest.mark.parametrize("op", generators.OPERATIONS)
tied = pytest.mark.parametrize(("op", "source", "result"), generators.combinations())
subnormal = pytest.mark.parametrize(
    ("op", "source", "result"), generators.combinations(generators.subnormal_possible)
)

# Cases in the default run and with --soak.
TIES = 100_000, 1_000_000
MIXED_TIES = 4_000, 100_000
RANDOM = 30_000, 1_000_000
MIXED_RANDOM = 5_000, 100_000


def answers(cases, **how) -> tuple[list[float], list[int]]:
    """Values and deciding tiers of all cases."""
    kernel = "norm" if cases.op == "norm" else "value"
    fixed = oracle.WEIGHTS.get(cases.op)
    values, tiers = [], []
    for x, l1, l2, _ in cases:
        if fixed:
            l1, l2 = fixed
        got, tier = hooks.measure(x, kernel, cases.result, l1=l1, l2=l2, **how)
        values.append(got)
        tiers.append(tier)
    return values, tiers


def wrong(values, wanted) -> np.ndarray:
    """Indices at which the bits differ."""
    values, wanted = (np.array(v, dtype=np.float64).view(np.uint64) for v in (values, wanted))
    return np.flatnonzero(values != wanted)


def all_right(cases, values) -> None:
    """Fail with the shortest reproducer if any value is not the wanted one."""
    bad = wrong(values, cases.want)
    if not bad.size:
        return
    starts = [0, *cases.ends]
    i = min(bad.tolist(), key=lambda i: cases.ends[i] - starts[i])
    x = cases.x[starts[i] : cases.ends[i]].astype(np.float64)
    pytest.fail(
        f"{bad.size} of {len(cases)} wrong; {cases.op} of {cases.source} to {cases.result}: "
        f"x={[v.hex() for v in x.tolist()]} l1={cases.l1[i].hex()} l2={cases.l2[i].hex()} "
        f"got {values[i].hex()} want {cases.want[i].hex()}"
    )


def public(op, x, dtype, l1=0.0, l2=0.0):
    """The public function of an operation."""
    if op == "value":
        return fastreg.value(x, l1=l1, l2=l2, dtype=dtype)
    return getattr(fastreg, op)(x, dtype=dtype)


# --- near-ties -------------------------------------------------------------------------------


@tied
def test_near_ties(op, source, result, isa, soak):
    count = (TIES if source == result else MIXED_TIES)[soak]
    cases = generators.ties(op, source, result, count)
    all_right(cases, answers(cases, isa=isa)[0])


@tied
def test_public_functions_on_near_ties(op, source, result):
    cases = generators.ties(op, source, result, 500)
    dtype = DTYPES[result]
    for x, l1, l2, want in cases:
        got = public(op, x, dtype, l1, l2)
        assert type(got) is dtype.type
        assert float(got) == want, (x.tolist(), l1, l2)


@subnormal
def test_subnormal_results(op, source, result, isa):
    cases = generators.subnormal_ties(op, source, result, 2000)
    all_right(cases, answers(cases, isa=isa)[0])


@pytest.mark.parametrize("op", ["sum_squares", "sum_abs", "l2_loss", "norm"])
@names
def test_at_the_largest_finite_number(op, name, isa):
    cases = generators.overflow_edge(op, name)
    all_right(cases, answers(cases, isa=isa)[0])


def walked_to_a_midpoint(op, name, n, seed):
    """n random elements and a few that bring the sum just below, onto or above a midpoint.

    Long enough that f32 lanes round thousands of times, so that only a sound bound sends them on.
    """
    dtype, power = DTYPES[name], 2 if op == "sum_squares" else 1
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.25, 1.0, n).astype(dtype)
    total = sum(Fraction(float(v)) ** power for v in x)
    unit = Fraction(2) ** (math.frexp(float(total))[1] - FORMATS[name].precision)
    left = (total // unit + 1) * unit + unit / 2 - total
    steps = []
    while left and len(steps) < 12:
        v = dtype.type(float(left) ** (1 / power))
        while Fraction(float(v)) ** power > left:
            v = np.nextafter(v, dtype.type(0))
        if v == 0:
            break
        steps.append(v)
        left -= Fraction(float(v)) ** power
    tiny = dtype.type(2.0**-20)
    yield np.concatenate([x, np.array(steps, dtype)])
    yield np.concatenate([x, np.array(steps[:-1], dtype)])
    yield np.concatenate([x, np.array([*steps, tiny], dtype)])


@pytest.mark.parametrize("op", ["sum_squares", "sum_abs"])
@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_long_halves_near_a_midpoint(op, name, isa):
    l1, l2 = oracle.WEIGHTS[op]
    for n, seed in itertools.product((3000, 20_000), range(6)):
        for x in walked_to_a_midpoint(op, name, n, seed):
            want = oracle.as_float(oracle.result_bits(op, oracle.sums(x), name), name)
            assert hooks.measure(x, "value", name, l1=l1, l2=l2, isa=isa)[0] == want


# --- tiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("first_tier", [1, 2])
@tied
def test_every_tier_is_right_by_itself(op, source, result, first_tier, isa):
    cases = generators.ties(op, source, result, 3000, 7)
    values, tiers = answers(cases, isa=isa, first_tier=first_tier)
    all_right(cases, values)
    assert min(tiers) >= first_tier


@tied
def test_wide_error_bounds_fall_back_and_stay_right(op, source, result, isa):
    cases = generators.ties(op, source, result, 2000, 8)
    values, tiers = answers(cases, isa=isa, error_scale=2.0**30)
    all_right(cases, values)
    assert max(tiers) == 2
    assert sum(answers(cases, isa=isa)[1]) <= sum(tiers)


@pytest.mark.parametrize("op", ["sum_squares", "sum_abs", "value", "norm"])
@pytest.mark.parametrize("name", ["bf16", "f32", "f64"])
def test_near_ties_bite_without_the_rounding_test(op, name, isa):
    """The proof that these cases can fail: without the rounding test some of them do."""
    cases = generators.ties(op, name, name, 5000, 9)
    assert wrong(answers(cases, isa=isa, error_scale=0.0)[0], cases.want).size > 0


# --- every value, random values --------------------------------------------------------------


@lru_cache(maxsize=4)
def truths_of_all_narrow(op, source, result):
    x = oracle.as_array(range(65536), source)
    split = oracle.elements(x)
    one = zip(split.mantissas, split.exponents, split.nan, split.inf, strict=True)
    exact = [oracle.sums_of([m], [e], nan, inf) for m, e, nan, inf in one]
    bits = [oracle.result_bits(op, s, result, 0.5, 3.0) for s in exact]
    return x, [oracle.as_float(b, result) for b in bits]


@pytest.mark.parametrize("op", ["sum_squares", "sum_abs", "norm"])
@pytest.mark.parametrize("source", ["f16", "bf16"])
@results
def test_every_narrow_element_alone(op, source, result, isa):
    x, wanted = truths_of_all_narrow(op, source, result)
    kernel = "norm" if op == "norm" else "value"
    l1, l2 = oracle.WEIGHTS.get(op, (0.5, 3.0))
    got = [
        hooks.measure(x[i : i + 1], kernel, result, l1=l1, l2=l2, isa=isa)[0] for i in range(x.size)
    ]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    keep = ~np.isnan(wanted)
    bad = np.flatnonzero(keep)[wrong(np.array(got)[keep], np.array(wanted)[keep])]
    assert not bad.size, [hex(i) for i in bad[:5]]


@lru_cache(maxsize=2)
def random_sums(source, count):
    x, ends = generators.small_vectors(source, count, 11)
    return x, ends, oracle.sums_of_slices(x, ends)


@lru_cache(maxsize=2)
def random_cases(op, source, result, count):
    x, ends, exact = random_sums(source, count)
    l1, l2 = generators.random_weights(count, np.random.default_rng(12))
    bits = map(oracle.result_bits, [op] * count, exact, [result] * count, l1, l2)
    want = [oracle.as_float(b, result) for b in bits]
    return generators.Cases(op, source, result, x, ends, want, l1, l2)


@sources
@results
@operations
def test_random_vectors(op, source, result, isa, soak):
    count = (RANDOM if source == result else MIXED_RANDOM)[soak]
    cases = random_cases(op, source, result, count)
    all_right(cases, answers(cases, isa=isa)[0])


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(
    st.lists(st.floats(width=64), max_size=40),
    st.sampled_from([(0.0, 1.0), (1.0, 0.0), (0.01, 0.1), (0.0, 0.0), (1e300, 1e-300)]),
    st.randoms(use_true_random=False),
)
@names
def test_any_list_of_floats(name, numbers, weights, random):
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.array(numbers).astype(DTYPES[name])
    l1, l2 = weights
    want = oracle.expected("value", x, None, l1, l2)
    assert oracle.bits_of(fastreg.value(x, l1=l1, l2=l2))[0] == want
    order = list(range(x.size))
    random.shuffle(order)
    turned = np.concatenate([-x[order], np.zeros(random.randrange(40), x.dtype)])
    assert oracle.bits_of(fastreg.value(turned, l1=l1, l2=l2))[0] == want
    assert oracle.bits_of(fastreg.norm(turned))[0] == oracle.expected("norm", x)


# --- large vectors ---------------------------------------------------------------------------


def judge_everywhere(x, isa, threads=(1,)) -> None:
    """Every operation and result type against the oracle, from one pass of the oracle."""
    exact = oracle.sums(x)
    for op in generators.OPERATIONS:
        for result in FORMATS:
            want = oracle.as_float(oracle.result_bits(op, exact, result, 0.3, 0.7), result)
            l1, l2 = oracle.WEIGHTS.get(op, (0.3, 0.7))
            kernel = "norm" if op == "norm" else "value"
            for t in threads:
                got, _ = hooks.measure(x, kernel, result, l1=l1, l2=l2, isa=isa, threads=t)
                assert got == want, (op, result, t)


@lru_cache(maxsize=2)
def large_ties(op, source, result):
    """Vectors of 300 to 40,000 elements with their results."""
    lengths = [300] * 20 + [1000] * 20 + [9000] * 4 + [40_000] * 2
    return [
        generators.large_tie(op, source, result, n, seed, seed % 2 == 0)
        for seed, n in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("op", "source", "result"), [c for c in generators.combinations() if c[0] in generators.POWER]
)
def test_large_near_ties(op, source, result, isa):
    l1, l2 = oracle.WEIGHTS[op]
    for i, (x, want) in enumerate(large_ties(op, source, result)):
        for threads in (1, 2, 3) if x.size > 5000 else (1,):
            got, _ = hooks.measure(x, "value", result, l1=l1, l2=l2, isa=isa, threads=threads)
            assert got == want, (i, x.size, threads)


@names
def test_every_length(name, isa):
    x = generators.scatter(name, 600, np.random.default_rng(21), -9, 7)
    split = oracle.elements(x)
    for n in range(601):
        exact = oracle.sums_of(split.mantissas[:n], split.exponents[:n])
        want = oracle.as_float(oracle.value_bits(exact, 0.3, 0.7, name), name)
        assert hooks.measure(x[:n], "value", name, l1=0.3, l2=0.7, isa=isa)[0] == want, n
        want = oracle.as_float(oracle.norm_bits(exact, "f64"), "f64")
        assert hooks.measure(x[:n], "norm", "f64", isa=isa)[0] == want, n


@names
@pytest.mark.parametrize("n", [2049, 8191, 65_536])
@pytest.mark.parametrize("kind", range(generators.FAMILIES))
def test_large_random_vectors(name, n, kind, isa):
    x = generators.family(name, n, np.random.default_rng(n + kind), kind)
    judge_everywhere(x, isa, (1, 2))


@names
def test_exponents_over_the_whole_range(name, isa):
    for n in (17, 1000, 20_000):
        judge_everywhere(generators.spread(name, n, n), isa)


@names
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_huge_element_among_tiny_ones(name, where, isa):
    for n in (9, 300, 20_001):
        judge_everywhere(generators.one_huge(name, n, where, n), isa)


@names
@pytest.mark.parametrize("d", [-1, 0, 1])
def test_tiny_squares_that_make_half_a_unit(name, d, isa):
    x, want = generators.half_unit(name, d, 5)
    assert hooks.measure(x, "value", name, l2=1.0, isa=isa)[0] == want


@names
def test_plateau(name, isa):
    """Ones past the point at which an accumulator of the type itself stands still."""
    p = min(FORMATS[name].precision, 24)
    n = (1 << p) + 1
    ones = np.ones(n + 2, DTYPES[name])
    for count in (n, n + 2):
        want = oracle.as_float(oracle.round_once(count, 0, name), name)
        assert hooks.measure(ones[:count], "value", name, l2=1.0, isa=isa)[0] == want
        assert hooks.measure(ones[:count], "value", name, l1=1.0, isa=isa)[0] == want
        assert hooks.measure(ones[:count], "value", "f64", l2=1.0, isa=isa)[0] == count


@names
def test_layouts_do_not_change_bits(name):
    x = generators.scatter(name, 24 * 35, np.random.default_rng(3), -8, 9).reshape(24, 35)
    views = [x, x.T, x[::-1], x[:, ::-1], x[::3, ::2], x[1:, 5], np.asfortranarray(x)]
    views += [np.broadcast_to(x[0], (7, 35)), x[3, 4], x[:0], np.broadcast_to(x[0, 0], (9, 9))]
    raw = np.zeros(x.nbytes + 1, np.uint8)
    raw[1:] = x.reshape(-1).view(np.uint8)
    views.append(raw[1:].view(x.dtype))
    for v in views:
        v = np.asarray(v)
        for op in generators.OPERATIONS:
            got = oracle.bits_of(public(op, v, None, 0.3, 0.7))[0]
            assert got == oracle.expected(op, v, None, 0.3, 0.7)


@pytest.mark.parametrize("dtype", [np.bool_, *np.typecodes["AllInteger"]])
def test_integers_are_exact(dtype):
    rng = np.random.default_rng(4)
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        x = rng.random(1000) < 0.5
    else:
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, 1000, dtype=dtype, endpoint=True)
        x[:2] = info.min, info.max
    for v in (x, x[:1], x[1:2], x[::-3], x[:0], x[5]):
        for op in generators.OPERATIONS:
            got = public(op, v, None, 0.3, 0.7)
            assert type(got) is np.float64
            assert oracle.bits_of(got)[0] == oracle.expected(op, v, None, 0.3, 0.7)
