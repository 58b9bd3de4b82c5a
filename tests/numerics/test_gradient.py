# SPDX-License-Identifier: BSD-3-Clause
"""C6: every bit of the gradient, fresh, into a given array, accumulated and fused."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from functools import lru_cache

import generators
import hooks
import numpy as np
import oracle
import pytest
from oracle import DTYPES, FORMATS

import fastreg

names = pytest.mark.parametrize("name", FORMATS)

# (l1, l2, scale): the usual, one weight only, large, small, negative and vanishing products.
WEIGHTS = [
    (0.01, 0.1, 1.0),
    (0.3, 0.0, 1.0),
    (0.0, 0.7, 1.0),
    (0.0, 0.0, 1.0),
    (1e-4, 1 / 3, -2.5),
    (1e-300, 1e-300, 1e-10),
    (5e-324, 5e-324, 0.5),
    (1e300, 1e300, 1e5),
    (1.0, 0.5, 1e-20),
    (0.1, 0.01, 0.0),
    (0.1, 0.01, -0.0),
    (1.7e308, 1.7e308, -1.0),
    (1.7e308, 0.5, 1.0),
    (1e-310, 0.3, 1.0),
    (0.0, 1.7e308, 0.25),
    (0.3, 0.0, -1.0),
    (0.0, 0.0, math.inf),
    (0.3, 0.0, math.inf),
    (0.0, 0.7, -math.inf),
    (0.1, 0.01, math.inf),
    (0.1, 0.01, math.nan),
]
weights = pytest.mark.parametrize(("l1", "l2", "scale"), WEIGHTS)


def same_bits(got, wanted) -> None:
    """Fail on the first element whose bits differ."""
    bits = oracle.bits_of(got)
    wanted = np.array(wanted, dtype=bits.dtype).reshape(-1)
    assert bits.shape == wanted.shape
    bad = np.flatnonzero(bits != wanted)
    if bad.size:
        i = bad[0]
        pytest.fail(f"{bad.size} wrong; element {i}: {bits[i]:#x}, wanted {wanted[i]:#x}")


def mixed(name: str, n: int, seed: int) -> np.ndarray:
    """Elements of every family with NaN, inf and both zeros among them."""
    rng = np.random.default_rng(seed)
    each = -(-n // generators.FAMILIES)
    parts = [generators.family(name, each, rng, kind) for kind in range(generators.FAMILIES)]
    x = np.concatenate(parts)[rng.permutation(each * generators.FAMILIES)[:n]]
    fmt = FORMATS[name]
    odd = [0, fmt.sign_bit, fmt.inf_bits, fmt.sign_bit | fmt.inf_bits, fmt.nan_bits]
    odd += [fmt.inf_bits | 1, (1 << fmt.width) - 1, 1, fmt.sign_bit | 1, fmt.inf_bits - 1]
    where = rng.permutation(n)[: len(odd)]
    x.view(oracle.UNSIGNED[name])[where] = odd[: where.size]
    return x


@lru_cache(maxsize=2)
def gradients_of_all_narrow(name, l1, l2, scale_hex):
    """The scale travels as text: a cache takes 0.0 and -0.0 for the same key."""
    scale = float.fromhex(scale_hex)
    x = oracle.as_array(range(65536), name)
    return x, oracle.gradient_bits(x, l1, l2, scale)


@pytest.mark.parametrize("name", ["f16", "bf16"])
@weights
def test_every_narrow_element(name, l1, l2, scale, isa):
    x, wanted = gradients_of_all_narrow(name, l1, l2, scale.hex())
    same_bits(hooks.gradient(x, l1=l1, l2=l2, scale=scale, isa=isa), wanted)


@lru_cache(maxsize=2)
def random_gradients(name, n, l1, l2, scale_hex):
    """Elements, what `out` holds before, and the bits of the fresh and the accumulated gradient.

    Every third sum of the two cancels.
    """
    scale = float.fromhex(scale_hex)
    x, out = mixed(name, n, 31), mixed(name, n, 33)
    fresh = oracle.gradient_bits(x, l1, l2, scale)
    out[::3] = -oracle.as_array(fresh, name)[::3]
    return x, out, fresh, oracle.gradient_bits(x, l1, l2, scale, out)


@names
@weights
def test_random_elements(name, l1, l2, scale, isa, soak):
    n = 500_000 if soak else 10_000
    x, before, fresh, accumulated = random_gradients(name, n, l1, l2, scale.hex())
    got = hooks.gradient(x, l1=l1, l2=l2, scale=scale, isa=isa)
    assert got.dtype == x.dtype
    same_bits(got, fresh)
    out = before.copy()
    got = hooks.gradient(x, l1=l1, l2=l2, scale=scale, out=out, accumulate=True, isa=isa)
    assert got is out
    same_bits(out, accumulated)


@names
def test_random_weights(name, isa):
    rng = np.random.default_rng(34)
    for l1, l2 in zip(*generators.random_weights(60, rng), strict=True):
        x = mixed(name, 150, int(rng.integers(1 << 30)))
        scale = float(rng.standard_normal())
        got = hooks.gradient(x, l1=l1, l2=l2, scale=scale, isa=isa)
        same_bits(got, oracle.gradient_bits(x, l1, l2, scale))


@names
def test_every_length(name, isa):
    """Nothing before or behind the array is written, whatever the tail."""
    x = mixed(name, 140, 35)
    wanted = np.array(oracle.gradient_bits(x, 0.3, 0.7, 1.5), dtype=oracle.UNSIGNED[name])
    for n in range(141):
        for start in (0, 1, 3):
            buffer = np.full(n + 8, 7.0, DTYPES[name])
            out = buffer[start : start + n]
            hooks.gradient(x[:n], l1=0.3, l2=0.7, scale=1.5, out=out, isa=isa)
            same_bits(out, wanted[:n])
            assert np.all(buffer[:start] == 7)
            assert np.all(buffer[start + n :] == 7)


def test_double_rounding_is_the_documented_one():
    """Rounded to float64, then to the type: 1 + 2**-11 + 2**-60 becomes a tie of float16."""
    x = np.array([1.0], np.float16)
    exact_tie = 1 + 2.0**-11
    got = fastreg.gradient(x, l2=0.5 * exact_tie, l1=2.0**-60)
    same_bits(got, oracle.gradient_bits(x, 2.0**-60, 0.5 * exact_tie))
    assert got[0] == 1.0


def test_one_fused_multiply_add_not_two_roundings():
    x = np.array([1 + 2.0**-52])
    got = fastreg.gradient(x, l1=2.0**-60, l2=0.5 * (1 + 2.0**-52))
    assert got[0] == 1 + 2.0**-51
    x = np.array([1 + 2.0**-27])
    got = fastreg.gradient(x, l1=2.0**-53, l2=0.5 * (1 + 2.0**-27))
    # (1 + 2**-27)**2 = 1 + 2**-26 + 2**-54 and with 2**-53 it is past a midpoint.
    assert got[0] == 1 + 2.0**-26 + 2.0**-52


def test_fused_multiply_add_near_ties(isa):
    """Products beside midpoints of float64, normal or subnormal, with a term that may tip them."""
    rng = random.Random(45)
    f64 = FORMATS["f64"]
    for _ in range(5000):
        while True:
            parts, b, _, k, _ = generators.one_weight_case(f64, f64, 1, rng)
            if len(parts) == 1:
                break
        e = rng.choice((0, rng.randrange(-500, 500)))
        x = math.ldexp(parts[0], e)
        # The result's lowest bit: anywhere, or where the result is subnormal.
        t = rng.choice((rng.randrange(-900, 800), rng.randrange(-1130, -1022))) - k
        slope = math.ldexp(b, max(-1074, min(t - e, 960)))
        tip = math.ldexp(rng.choice((0.0, 0.5, 1.0, rng.random())), t + rng.randrange(-60, 3))
        want = oracle.gradient_element(x, tip, slope / 2, 1.0, "f64")
        for sign in (1.0, -1.0):
            got = hooks.gradient(np.array([sign * x]), l1=tip, l2=slope / 2, isa=isa)
            assert oracle.bits_of(got)[0] == want | (f64.sign_bit if sign < 0 else 0)


@names
@pytest.mark.parametrize("accumulate", [False, True])
def test_large_gradients(name, accumulate, isa):
    """Longer than any cache, where stores may go past it, from every kind of start."""
    pattern = mixed(name, 1009, 46)
    before = mixed(name, 1009, 47)
    n = (66 << 20) // pattern.itemsize + 13
    wanted = oracle.gradient_bits(pattern, 0.3, 0.7, 1.5, before if accumulate else None)
    wanted = np.array(wanted, dtype=oracle.UNSIGNED[name])
    x = np.resize(pattern, n)
    buffer = np.resize(before, n + 8)
    for start in (0, 3):
        out = buffer[start : start + n]
        out[...] = np.resize(before, n)
        buffer[:start] = buffer[start + n :] = 7
        hooks.gradient(x, l1=0.3, l2=0.7, scale=1.5, out=out, accumulate=accumulate, isa=isa)
        got = out.view(oracle.UNSIGNED[name])
        whole = got[: n - n % 1009].reshape(-1, 1009)
        assert np.array_equal(whole, np.broadcast_to(wanted, whole.shape))
        assert np.array_equal(got[n - n % 1009 :], wanted[: n % 1009])
        assert np.all(buffer[:start] == 7)
        assert np.all(buffer[start + n :] == 7)


@names
def test_zeros(name):
    fmt = FORMATS[name]
    x = oracle.as_array([0, fmt.sign_bit], name)
    for l1, l2, scale in WEIGHTS:
        got = fastreg.gradient(x, l1=l1, l2=l2, scale=scale)
        same_bits(got, oracle.gradient_bits(x, l1, l2, scale))
    same_bits(fastreg.gradient(x, l1=1.0, l2=1.0), [0, 0])
    same_bits(fastreg.gradient(x, l1=1.0), [0, 0])


@names
def test_specials(name):
    fmt = FORMATS[name]
    patterns = [fmt.nan_bits, fmt.inf_bits | 1, (1 << fmt.width) - 1]
    x = oracle.as_array([*patterns, fmt.inf_bits, fmt.sign_bit | fmt.inf_bits], name)
    wanted = [fmt.nan_bits] * 3 + [fmt.inf_bits, fmt.sign_bit | fmt.inf_bits]
    same_bits(fastreg.gradient(x, l1=0.1, l2=0.1), wanted)
    same_bits(fastreg.gradient(x, l2=0.1), wanted)
    same_bits(fastreg.gradient(x, l2=0.1, scale=-1.0), [*wanted[:3], wanted[4], wanted[3]])
    step = oracle.round_float(0.1, name)
    same_bits(fastreg.gradient(x, l1=0.1), [*wanted[:3], step, fmt.sign_bit | step])
    same_bits(fastreg.gradient(x, l1=0.0), [0] * 5)
    out = np.zeros(5, x.dtype)
    out[3], out[4] = -math.inf, -math.inf
    fastreg.gradient(x, l2=0.1, out=out, accumulate=True)
    same_bits(out, [fmt.nan_bits] * 4 + [fmt.sign_bit | fmt.inf_bits])


@names
def test_empty_and_zero_dimensional(name):
    dtype = DTYPES[name]
    assert fastreg.gradient(np.zeros((0, 3), dtype), l2=1.0).shape == (0, 3)
    got = np.asarray(fastreg.gradient(np.array(-2.0, dtype), l1=0.5, l2=1.0))
    assert got.dtype == dtype
    assert got.shape == ()
    assert got == -4.5


@names
def test_fresh_result_keeps_shape_and_dtype(name):
    x = mixed(name, 60, 36).reshape(3, 4, 5)
    for v in (x, x.T, x[::-1, :, ::2], np.broadcast_to(x[0], (2, 4, 5)), np.asfortranarray(x)):
        got = fastreg.gradient(v, l1=0.3, l2=0.7)
        assert got.shape == v.shape
        assert got.dtype == v.dtype
        same_bits(got, oracle.gradient_bits(v, 0.3, 0.7))


@names
@pytest.mark.parametrize("accumulate", [False, True])
def test_strided_out(name, accumulate, isa):
    x = mixed(name, 77, 37)
    for step in (2, 3, -1, -2):
        buffer = np.full(77 * abs(step), 7.0, DTYPES[name])
        out = buffer[::step]
        assert out.size == 77
        out[...] = mixed(name, 77, 38)
        wanted = oracle.gradient_bits(x, 0.3, 0.7, 1.5, out if accumulate else None)
        hooks.gradient(x, l1=0.3, l2=0.7, scale=1.5, out=out, accumulate=accumulate, isa=isa)
        same_bits(out, wanted)
        if abs(step) > 1:
            untouched = np.delete(buffer, np.arange(buffer.size)[::step])
            assert np.all(untouched == 7)


@names
@pytest.mark.parametrize("accumulate", [False, True])
def test_out_may_be_x_itself(name, accumulate, isa):
    for n in (1, 16, 100, 5000):
        x = mixed(name, n, 39 + n)
        wanted = oracle.gradient_bits(x, 0.3, 0.7, -1.5, x if accumulate else None)
        hooks.gradient(x, l1=0.3, l2=0.7, scale=-1.5, out=x, accumulate=accumulate, isa=isa)
        same_bits(x, wanted)


@names
def test_x_is_not_written(name):
    x = mixed(name, 1000, 40)
    before = oracle.bits_of(x)
    x.flags.writeable = False
    fastreg.gradient(x, l1=0.1, l2=0.2)
    fastreg.value_and_gradient(x, l1=0.1, l2=0.2)
    assert np.array_equal(oracle.bits_of(x), before)


@names
@pytest.mark.parametrize("result", [None, *FORMATS])
@weights
def test_fused_equals_separate(name, result, l1, l2, scale):
    dtype = DTYPES[result] if result else None
    for n in (0, 1, 7, 64, 3001):
        for x in (mixed(name, n, 41), generators.scatter(name, n, np.random.default_rng(n), -9, 9)):
            given, start = {"l1": l1, "l2": l2}, mixed(name, n, 42)
            value, gradient = fastreg.value_and_gradient(x, **given, scale=scale, dtype=dtype)
            alone = fastreg.value(x, **given, dtype=dtype)
            assert type(value) is type(alone)
            assert oracle.bits_of(value)[0] == oracle.bits_of(alone)[0]
            same_bits(gradient, oracle.bits_of(fastreg.gradient(x, **given, scale=scale)))
            together, apart = start.copy(), start.copy()
            value, _ = fastreg.value_and_gradient(
                x, **given, scale=scale, dtype=dtype, out=together, accumulate=True
            )
            fastreg.gradient(x, **given, scale=scale, out=apart, accumulate=True)
            assert oracle.bits_of(value)[0] == oracle.bits_of(alone)[0]
            same_bits(together, oracle.bits_of(apart))


@names
def test_fused_in_place_reads_before_it_writes(name):
    for n in (5, 4000):
        x = generators.scatter(name, n, np.random.default_rng(43), -9, 9)
        wanted = oracle.gradient_bits(x, 0.3, 0.7, 2.0)
        value = oracle.expected("value", x, None, 0.3, 0.7)
        got, _ = fastreg.value_and_gradient(x, l1=0.3, l2=0.7, scale=2.0, out=x)
        assert oracle.bits_of(got)[0] == value
        same_bits(x, wanted)


@names
def test_fused_on_near_ties(name):
    for x, l1, l2, want in generators.ties("value", name, name, 300, 44):
        got, gradient = fastreg.value_and_gradient(x, l1=l1, l2=l2)
        assert float(got) == want
        same_bits(gradient, oracle.gradient_bits(x, l1, l2))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
def test_integers_have_no_gradient(dtype):
    with pytest.raises(TypeError):
        fastreg.gradient(np.ones(3, dtype), l2=1.0)


# -- Weights times a factor --------------------------------------------------------------------

WIDE = [
    *(5e-324, 1e-310, 2.0**-1022, 0.3, 0.75, 1.0, 1.5),
    *(3e153, 2.0**1023, 1e308, 1.7976931348623157e308),
]


def nearest(exact: Fraction) -> float:
    """The float64 nearest to a number, infinite where that is."""
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


@pytest.mark.parametrize("l2", WIDE)
def test_a_weight_times_a_factor_is_rounded_once(l2):
    """2·l2·u overflows only where the product does, and underflows only there."""
    one = np.ones(1)
    for u in (0.0, *WIDE, *(-w for w in WIDE)):
        wanted = nearest(2 * Fraction(l2) * Fraction(u))
        assert fastreg.gradient(one, l2=l2, scale=u) == wanted, u
        if u >= 0:
            x = one.copy()
            fastreg.prox_(x, u, l2=l2)
            assert x == 1.0 / (1.0 + wanted), u
