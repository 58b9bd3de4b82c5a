# SPDX-License-Identifier: BSD-3-Clause
"""C3 and C4: no intermediate overflow or underflow shows, and specials give what is promised."""

from __future__ import annotations

import math

import generators
import hooks
import numpy as np
import oracle
import pytest
from oracle import DTYPES, FORMATS

import fastreg

names = pytest.mark.parametrize("name", FORMATS)
results = pytest.mark.parametrize("result", FORMATS)
LANES = range(71)


def bits(number) -> int:
    return int(oracle.bits_of(number)[0])


def calls(x, l1=1.0, l2=1.0, dtype=None):
    """Every scalar operation of the public API."""
    yield fastreg.sum_squares(x, dtype=dtype)
    yield fastreg.sum_abs(x, dtype=dtype)
    yield fastreg.l2_loss(x, dtype=dtype)
    yield fastreg.norm(x, dtype=dtype)
    yield fastreg.value(x, l1=l1, l2=l2, dtype=dtype)
    yield fastreg.value(x, l1=l1, dtype=dtype)
    yield fastreg.value(x, l2=l2, dtype=dtype)


def agrees(op, x, result, l1=0.0, l2=0.0, isa=None) -> float:
    """The hook's answer, after it was compared with the oracle."""
    exact = oracle.sums(x)
    want = oracle.as_float(oracle.result_bits(op, exact, result, l1, l2), result)
    l1, l2 = oracle.WEIGHTS.get(op, (l1, l2))
    kernel = "norm" if op == "norm" else "value"
    for tier in (0, 1, 2):
        got, _ = hooks.measure(x, kernel, result, l1=l1, l2=l2, isa=isa, first_tier=tier)
        assert got == want, (op, result, tier)
    return want


# --- C3 range --------------------------------------------------------------------------------


def test_weight_brings_an_overflowing_f64_back(isa):
    assert agrees("value", np.array([1e200, 1e200]), "f64", l2=1e-150, isa=isa) == 2e250


def test_weight_brings_an_overflowing_f32_back(isa):
    x = np.array([1e30], np.float32)
    assert agrees("value", x, "f32", l2=1e-30, isa=isa) == np.float32(1e30)


def test_weight_lifts_a_vanishing_square(isa):
    x = np.array([1e-200, 3e-200])
    assert agrees("value", x, "f64", l2=1e300, isa=isa) == pytest.approx(1e-99)
    x = np.array([1e-40], np.float32)
    assert agrees("value", x, "f32", l2=1e60, isa=isa) > 0


@pytest.mark.parametrize("l2", [1e-308, 5e-324, 1e308, 1e-290])
@pytest.mark.parametrize("l1", [0.0, 1e-308, 5e-324, 1e308])
@names
def test_extreme_weights(name, l1, l2, isa):
    rng = np.random.default_rng(1)
    for size in (1, 5, 40):
        for kind in range(generators.FAMILIES):
            x = generators.family(name, size, rng, kind)
            for result in FORMATS:
                agrees("value", x, result, l1, l2, isa)


def test_largest_f64_elements_with_smallest_weight(isa):
    x = np.full(70, np.finfo(np.float64).max)
    assert agrees("value", x, "f64", l2=5e-324, isa=isa) < math.inf
    assert agrees("value", x, "f64", l1=5e-324, isa=isa) < math.inf
    assert agrees("sum_squares", x, "f64", isa=isa) == math.inf
    assert agrees("sum_abs", x, "f64", isa=isa) == math.inf
    assert agrees("sum_abs", x[:1], "f64", isa=isa) == x[0]


def test_norm_of_the_largest_elements(isa):
    assert agrees("norm", np.array([1e200, 1e200]), "f64", isa=isa) < math.inf
    assert agrees("norm", np.array([np.finfo(np.float64).max]), "f64", isa=isa) < math.inf
    assert agrees("norm", np.array([1e30, 1e30], np.float32), "f32", isa=isa) < math.inf
    assert agrees("norm", np.array([60000.0], np.float16), "f16", isa=isa) == 60000.0
    assert agrees("norm", np.full(4, 60000.0, np.float16), "f16", isa=isa) == math.inf


def test_norm_of_the_smallest_elements(isa):
    for name, fmt in FORMATS.items():
        tiny = oracle.as_array([1] * 40, name)
        assert agrees("norm", tiny[:1], name, isa=isa) == 2.0**fmt.low
        assert agrees("norm", tiny[:4], name, isa=isa) == 2 * 2.0**fmt.low
        for n in range(41):
            agrees("norm", tiny[:n], name, isa=isa)
            agrees("norm", tiny[:n], "f64", isa=isa)


def test_squares_of_f16_beyond_its_range(isa):
    x = np.array([256, 300, 1000, 65504], np.float16)
    assert agrees("sum_squares", x, "f16", isa=isa) == math.inf
    assert agrees("value", x, "f16", l2=1e-9, isa=isa) > 0
    want = np.float32(65504.0**2 + 256**2 + 300**2 + 1000**2)
    assert agrees("sum_squares", x, "f32", isa=isa) == want


def test_squares_of_f16_that_vanish(isa):
    x = np.full(4000, 1.7e-4, np.float16)
    assert agrees("sum_squares", x[:1], "f16", isa=isa) == 0.0
    assert agrees("sum_squares", x, "f16", isa=isa) > 1e-4


def test_bf16_squares_beyond_f32(isa):
    x = np.array([1e20, 1e20], DTYPES["bf16"])
    assert agrees("sum_squares", x, "bf16", isa=isa) == math.inf
    assert agrees("sum_squares", x, "f64", isa=isa) > 1e40
    assert agrees("norm", x, "bf16", isa=isa) < math.inf


def test_a_million_underflowing_squares(isa):
    x = np.full(1_000_000, 1.8e-162)
    assert hooks.measure(x, "value", "f64", l2=1.0, isa=isa)[0] == 3.24e-318


@names
def test_underflowing_squares(name, isa):
    for n in (1, 7, 64, 1000):
        x = generators.underflowing(name, n, n)
        for op in ("sum_squares", "l2_loss", "norm"):
            for result in FORMATS:
                agrees(op, x, result, isa=isa)
        agrees("value", x, name, 1e-30, 1e20, isa)


@names
def test_largest_finite_sum_of_magnitudes_stays_finite(name, isa):
    fmt = FORMATS[name]
    x = oracle.as_array([fmt.inf_bits - 1, 1, fmt.sign_bit | 1], name)
    largest = oracle.as_float(fmt.inf_bits - 1, name)
    assert agrees("sum_abs", x, name, isa=isa) == largest
    half = oracle.as_array([fmt.inf_bits - 1 - (1 << (fmt.precision - 1))] * 2, name)
    assert agrees("sum_abs", half, name, isa=isa) == largest
    assert agrees("sum_abs", np.repeat(half, 2), name, isa=isa) == math.inf


@names
@results
def test_no_warning_and_no_floating_point_error(name, result):
    fmt = FORMATS[name]
    x = oracle.as_array([fmt.inf_bits - 1, 1, 0, fmt.inf_bits - 2], name)
    with np.errstate(all="raise"):
        for _ in calls(x, dtype=DTYPES[result]):
            pass


# --- C4 specials -----------------------------------------------------------------------------


def nans(name):
    """Quiet, signalling, negative and full-payload NaN patterns."""
    fmt = FORMATS[name]
    return [fmt.nan_bits, fmt.inf_bits | 1, fmt.sign_bit | fmt.nan_bits, (1 << fmt.width) - 1]


@names
def test_nan_in_every_lane(name, isa):
    for pattern in nans(name):
        for n in (1, 8, 71):
            for i in range(n):
                x = np.ones(n, DTYPES[name])
                x.view(oracle.UNSIGNED[name])[i] = pattern
                assert math.isnan(hooks.measure(x, "value", name, l1=1.0, isa=isa)[0])
                assert math.isnan(hooks.measure(x, "value", name, l2=1.0, isa=isa)[0])
                assert math.isnan(hooks.measure(x, "norm", name, isa=isa)[0])


@names
def test_infinity_in_every_lane(name, isa):
    for number in (math.inf, -math.inf):
        for i in LANES:
            x = np.ones(len(LANES), DTYPES[name])
            x[i] = number
            for result in FORMATS:
                assert hooks.measure(x, "value", result, l1=1e-300, isa=isa)[0] == math.inf
                assert hooks.measure(x, "value", result, l2=1e-300, isa=isa)[0] == math.inf
                assert hooks.measure(x, "norm", result, isa=isa)[0] == math.inf


@names
def test_nan_wins_over_infinity_in_every_lane(name, isa):
    for i in LANES:
        x = np.ones(len(LANES), DTYPES[name])
        x[i], x[i - 1], x[(i + 9) % x.size] = math.nan, math.inf, -math.inf
        assert math.isnan(hooks.measure(x, "value", name, l1=1.0, l2=1.0, isa=isa)[0])
        assert math.isnan(hooks.measure(x, "norm", name, isa=isa)[0])


@names
def test_specials_far_inside_a_large_array(name, isa):
    for n, i in ((5000, 4999), (70_001, 40_000), (300_000, 3)):
        for threads in (1, 2):
            x = np.ones(n, DTYPES[name])
            x[i] = -math.inf
            how = {"isa": isa, "threads": threads}
            assert hooks.measure(x, "value", name, l2=1.0, **how)[0] == math.inf
            x[n - 1 - i] = math.nan
            assert math.isnan(hooks.measure(x, "value", name, l2=1.0, **how)[0])


@names
@results
def test_nan_result_is_the_canonical_one(name, result):
    for pattern in nans(name):
        x = oracle.as_array([0, pattern, FORMATS[name].inf_bits], name)
        for got in calls(x, dtype=DTYPES[result]):
            assert bits(got) == FORMATS[result].nan_bits


@names
@results
def test_infinity_gives_plus_infinity(name, result):
    x = oracle.as_array([0, FORMATS[name].inf_bits | FORMATS[name].sign_bit], name)
    for got in calls(x, 1e-300, 1e-300, DTYPES[result]):
        assert bits(got) == FORMATS[result].inf_bits


@names
@results
@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0, 2)])
def test_empty_gives_plus_zero(name, result, shape):
    for got in calls(np.zeros(shape, DTYPES[name]), dtype=DTYPES[result]):
        assert type(got) is DTYPES[result].type
        assert bits(got) == 0


@names
@results
def test_minus_zero_counts_as_zero(name, result):
    for n in (1, 2, 17, 71):
        x = oracle.as_array([FORMATS[name].sign_bit] * n, name)
        for got in calls(x, dtype=DTYPES[result]):
            assert bits(got) == 0


@names
def test_zero_weights_give_plus_zero_whatever_x_holds(name, isa):
    fmt = FORMATS[name]
    for held in ([], [0x1234], [fmt.inf_bits], nans(name), [fmt.inf_bits | fmt.sign_bit] * 40):
        x = oracle.as_array(held, name)
        for result in FORMATS:
            got = hooks.measure(x, "value", result, l1=0.0, l2=0.0, isa=isa)[0]
            assert bits(np.float64(got)) == 0
            assert bits(fastreg.value(x, l2=0.0, dtype=DTYPES[result])) == 0
            assert bits(fastreg.value(x, l1=-0.0, l2=-0.0, dtype=DTYPES[result])) == 0


@names
def test_a_zero_weight_removes_its_term_but_not_the_specials(name):
    x = np.array([2.0, -3.0], DTYPES[name])
    assert fastreg.value(x, l1=1.0, l2=0.0) == 5.0
    assert fastreg.value(x, l1=0.0, l2=1.0) == 13.0
    x = oracle.as_array([FORMATS[name].inf_bits], name)
    assert fastreg.value(x, l1=1.0, l2=0.0) == math.inf
    assert fastreg.value(x, l1=0.0, l2=1.0) == math.inf


@pytest.mark.parametrize("bad", [-1.0, math.inf, -math.inf, math.nan])
def test_weights_must_be_finite_and_not_negative(bad):
    x = np.ones(3)
    with pytest.raises(ValueError, match="l1"):
        fastreg.value(x, l1=bad)
    with pytest.raises(ValueError, match="l2"):
        fastreg.value(x, l2=bad)
    with pytest.raises(ValueError, match="l2"):
        fastreg.gradient(x, l2=bad)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, object, "U3", "S3", [("a", "f4")]])
def test_other_dtypes_are_refused(dtype):
    x = np.zeros(3, dtype)
    for function in (fastreg.sum_squares, fastreg.sum_abs, fastreg.l2_loss, fastreg.norm):
        with pytest.raises(TypeError):
            function(x)
    with pytest.raises(TypeError):
        fastreg.gradient(x, l2=1.0)


@names
def test_scalars_and_zero_dimensional_arrays(name):
    x = np.array(-1.5, DTYPES[name])
    assert fastreg.sum_squares(x) == 2.25
    assert fastreg.sum_abs(x) == 1.5
    assert fastreg.norm(x[()]) == 1.5
    assert type(fastreg.sum_abs(x)) is DTYPES[name].type
