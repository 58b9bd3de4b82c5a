# SPDX-License-Identifier: BSD-3-Clause
"""The two oracles agree with each other, with hand-worked values and with the built near-ties."""

from __future__ import annotations

import math
from fractions import Fraction

import generators
import numpy as np
import oracle
import pytest
from oracle import DTYPES, FORMATS, bf16

names = pytest.mark.parametrize("name", FORMATS)
sources = pytest.mark.parametrize("source", FORMATS)
results = pytest.mark.parametrize("result", FORMATS)
tied = pytest.mark.parametrize(("op", "source", "result"), generators.combinations())
subnormal = pytest.mark.parametrize(
    ("op", "source", "result"), generators.combinations(generators.subnormal_possible)
)


@pytest.mark.parametrize(
    ("integer", "exponent", "name", "bits"),
    [
        (0, 0, "f64", 0),
        (1, 0, "f64", 0x3FF0000000000000),
        (1, 0, "f32", 0x3F800000),
        (1, 0, "f16", 0x3C00),
        (1, 0, "bf16", 0x3F80),
        (2**53 + 1, 0, "f64", 0x4340000000000000),
        (2**53 + 3, 0, "f64", 0x4340000000000002),
        (2**24 + 1, 0, "f32", 0x4B800000),
        (2**24 + 3, 0, "f32", 0x4B800002),
        ((2**24 + 1) * 2**200 + 1, -200, "f32", 0x4B800001),
        (2049, 0, "f16", 0x6800),
        (2051, 0, "f16", 0x6802),
        (257, 0, "bf16", 0x4380),
        (259, 0, "bf16", 0x4382),
        (65519, 0, "f16", 0x7BFF),
        (65520, 0, "f16", 0x7C00),
        (2**128 - 2**103 - 1, 0, "f32", 0x7F7FFFFF),
        (2**128 - 2**103, 0, "f32", 0x7F800000),
        (2**1024 - 2**970 - 1, 0, "f64", 0x7FEFFFFFFFFFFFFF),
        (2**1024 - 2**970, 0, "f64", 0x7FF0000000000000),
        (1, -1074, "f64", 1),
        (1, -1075, "f64", 0),
        (3, -1075, "f64", 2),
        (2**100 + 1, -1175, "f64", 1),
        (1, -149, "f32", 1),
        (1, -25, "f16", 0),
        (2**30 + 1, -55, "f16", 1),
        (1023, -24, "f16", 0x03FF),
        (2047, -25, "f16", 0x0400),
        (1, -133, "bf16", 1),
    ],
)
def test_round_once_by_hand(integer, exponent, name, bits):
    assert oracle.round_once(integer, exponent, name) == bits


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_every_narrow_pattern_reads_as_numpy_reads_it(name):
    x = oracle.as_array(range(65536), name)
    with np.errstate(invalid="ignore"):
        numbers = x.astype(np.float64)
    mine = np.array([oracle.as_float(i, name) for i in range(65536)])
    split = np.array(oracle.to_floats(x))
    np.testing.assert_array_equal(mine, numbers)
    np.testing.assert_array_equal(split, numbers)
    keep = ~np.isnan(numbers)
    assert np.array_equal(np.signbit(split[keep]), np.signbit(numbers[keep]))
    back = [oracle.round_float(v, name) for v in mine[keep].tolist()]
    assert back == np.arange(65536)[keep].tolist()


@pytest.mark.parametrize("name", ["f32", "f64"])
def test_wide_patterns_read_as_numpy_reads_them(name):
    x = generators.any_finite(name, 20_000, np.random.default_rng(1))
    numbers = x.astype(np.float64).tolist()
    assert oracle.to_floats(x) == numbers
    assert [oracle.as_float(b, name) for b in oracle.bits_of(x).tolist()] == numbers
    assert [oracle.round_float(v, name) for v in numbers] == oracle.bits_of(x).tolist()


@sources
@results
def test_oracles_agree_on_random_vectors(source, result):
    x, ends = generators.small_vectors(source, 240, 5)
    weights = generators.random_weights(len(ends), np.random.default_rng(6))
    start = 0
    for end, l1, l2 in zip(ends, *weights, strict=True):
        v = x[start:end]
        start = end
        exact = oracle.sums(v)
        first = oracle.as_float(oracle.value_bits(exact, l1, l2, result), result)
        assert first == oracle.fraction_value(v, l1, l2, DTYPES[result])
        first = oracle.as_float(oracle.norm_bits(exact, result), result)
        assert first == oracle.fraction_norm(v, DTYPES[result])


def judged_right(cases, second_oracle_on: int) -> None:
    """The answers known by construction are those of both oracles."""
    exact = oracle.sums_of_slices(cases.x, cases.ends)
    for i, (case, s) in enumerate(zip(cases, exact, strict=True)):
        x, l1, l2, want = case
        bits = oracle.result_bits(cases.op, s, cases.result, l1, l2)
        assert oracle.as_float(bits, cases.result) == want, (x.tolist(), l1, l2)
        if i < second_oracle_on:
            dtype = DTYPES[cases.result]
            if cases.op == "norm":
                again = oracle.fraction_norm(x, dtype)
            else:
                again = oracle.fraction_value(x, *oracle.WEIGHTS.get(cases.op, (l1, l2)), dtype)
            assert again == want


@tied
def test_near_ties_have_the_answers_they_were_built_for(op, source, result):
    judged_right(generators.ties(op, source, result, 500), 50)


@subnormal
def test_subnormal_ties_have_the_answers_they_were_built_for(op, source, result):
    judged_right(generators.subnormal_ties(op, source, result, 200), 20)


@pytest.mark.parametrize("op", ["sum_squares", "sum_abs", "l2_loss", "norm"])
@names
def test_overflow_edges_have_the_answers_they_were_built_for(op, name):
    judged_right(generators.overflow_edge(op, name), 30)


@names
def test_large_ties_have_the_answers_they_were_built_for(name):
    for op in ("sum_squares", "sum_abs"):
        for seed in range(20):
            x, want = generators.large_tie(op, name, name, 500, seed, seed % 2 == 0)
            assert oracle.as_float(oracle.expected(op, x), name) == want


@names
def test_half_a_unit_of_tiny_squares(name):
    for d in (-1, 0, 1):
        x, want = generators.half_unit(name, d, 1)
        assert oracle.as_float(oracle.expected("sum_squares", x), name) == want


def test_values_by_hand():
    def value(x, l1, l2, name):
        return oracle.as_float(oracle.expected("value", x, DTYPES[name], l1, l2), name)

    assert value(np.array([3.0, -4.0]), 0.0, 1.0, "f64") == 25.0
    assert value(np.array([3.0, -4.0]), 1.0, 0.0, "f64") == 7.0
    assert value(np.array([3.0, -4.0]), 2.0, 0.5, "f16") == 26.5
    assert value(np.array([1e200, 1e200]), 0.0, 1e-150, "f64") == 2e250
    assert value(np.array([1e30], np.float32), 0.0, 1e-30, "f32") == np.float32(1e30)
    # 0.1 is 3602879701896397 * 2**-55: three of them are not 0.3.
    assert value(np.array([1.0, 1.0, 1.0]), 0.1, 0.0, "f64") == 0.30000000000000004
    assert value(np.array([np.inf, np.nan]), 0.0, 0.0, "f64") == 0.0
    assert value(np.array([-np.inf]), 0.0, 1e-300, "f64") == math.inf
    assert math.isnan(value(np.array([np.inf, np.nan]), 1.0, 0.0, "f64"))
    assert value(np.array([True, True, False]), 1.0, 0.0, "f64") == 2.0
    assert value(np.array([-(2**63), 2**62]), 0.0, 1.0, "f64") == 2.0**126 + 2.0**124
    assert value(np.array([2**64 - 1], np.uint64), 1.0, 0.0, "f64") == 2.0**64
    assert value(np.array(-3, np.int8), 0.0, 1.0, "f64") == 9.0
    assert value(np.zeros((0, 3)), 1.0, 1.0, "f64") == 0.0


def test_norms_by_hand():
    def norm(x, name):
        return oracle.as_float(oracle.expected("norm", x, DTYPES[name]), name)

    assert norm(np.array([3.0, 4.0]), "f64") == 5.0
    assert norm(np.array([1e-300, 0.0]), "f64") == 1e-300
    assert norm(np.array([3.0, 4.0]) * 2.0**600, "f64") == 5 * 2.0**600
    assert norm(np.array([5e-324]), "f64") == 5e-324
    assert norm(np.array([5e-324, 5e-324]), "f64") == 5e-324
    assert norm(np.array([5e-324] * 3), "f64") == 1e-323
    assert norm(np.array([1.0, 1.0]), "f64") == math.sqrt(2)
    # 2049**2 is the square of a midpoint of float16: ties go to even, a tail goes up.
    assert norm(np.array([2049.0]), "f16") == 2048.0
    assert norm(np.array([2049.0, 2.0**-500]), "f16") == 2050.0
    assert norm(np.array([65504.0, 65504.0], np.float16), "f16") == math.inf
    assert norm(np.array([0.0]), "bf16") == 0.0


@pytest.mark.parametrize(
    ("a", "b", "c", "want"),
    [
        (1 + 2**-52, 1 + 2**-52, -1.0, 2**-51 + 2**-104),
        (1e308, 10.0, -1e308, math.inf),
        (1e200, 1e200, -math.inf, -math.inf),
        (2**-600, 2**-600, 1.0, 1.0),
        (2.0**-1074, 0.5, 0.0, 0.0),
        (2.0**-1074, -0.5, 0.0, -0.0),
        (2.0**-1074, 0.5, 2.0**-1074, 2.0**-1073),
        (2.0, -0.0, 0.0, 0.0),
        (2.0, -0.0, -0.0, -0.0),
        (-2.0, 0.0, -0.0, -0.0),
        (2.0, 3.0, -6.0, 0.0),
    ],
)
def test_fused_multiply_add_by_hand(a, b, c, want):
    got = oracle.fma64(a, b, c)
    assert got == want
    assert math.copysign(1.0, got) == math.copysign(1.0, want)


def test_fused_multiply_add_agrees_with_fractions():
    a, b, c = (generators.scatter("f64", 3000, np.random.default_rng(i), -30, 30) for i in range(3))
    for i, j, k in zip(a.tolist(), b.tolist(), c.tolist(), strict=True):
        exact = Fraction(i) * Fraction(j) + Fraction(k)
        assert oracle.fma64(i, j, k) == oracle.fraction_round(exact, np.float64)


@names
def test_gradient_oracles_agree(name):
    rng = np.random.default_rng(9)
    x = generators.any_finite(name, 600, rng)
    x = x[x != 0]
    for l1, l2, scale in [(0.01, 0.1, 1.0), (0.0, 0.3, -2.5), (1e-300, 1e300, 1e-5), (0.7, 0, 3)]:
        bits = oracle.gradient_bits(x, l1, l2, scale)
        for v, b in zip(x, bits, strict=True):
            want = oracle.fraction_gradient(float(v), l1, l2, scale, DTYPES[name])
            assert oracle.as_float(b, name) == want


def test_gradients_by_hand():
    def gradient(x, dtype, *weights):
        bits = oracle.gradient_bits(np.array(x, dtype), *weights)
        return [oracle.as_float(b, oracle.name_of(dtype)) for b in bits]

    assert gradient([1, -2, 0, -0.0], np.float64, 0.5, 0.25) == [1.0, -1.5, 0.0, 0.0]
    # 65519.999... rounds to 65520 in float64 and then to inf in float16.
    assert gradient([65504], np.float16, 16.0, 0.5) == [math.inf]
    assert gradient([65504], np.float16, 15.5, 0.5) == [65504.0]
    assert gradient([1.0], bf16, 0.0, 0.001953125 * 257) == [1.0]
    assert [math.copysign(1.0, v) for v in gradient([0.0, -0.0], np.float64, 1.0, 1.0, -1.0)] == [
        -1.0,
        1.0,
    ]


@names
def test_addition_agrees_with_fractions(name):
    rng = np.random.default_rng(2)
    a, b = (generators.any_finite(name, 500, rng) for _ in range(2))
    b[::3] = -a[::3]
    for p, q in zip(a, b, strict=True):
        got = oracle.as_float(oracle.add_element(float(p), float(q), name), name)
        assert got == oracle.fraction_round(Fraction(float(p)) + Fraction(float(q)), DTYPES[name])
    assert oracle.add_element(-0.0, -0.0, name) == FORMATS[name].sign_bit
    assert oracle.add_element(math.inf, -math.inf, name) == FORMATS[name].nan_bits
