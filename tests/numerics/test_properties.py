# SPDX-License-Identifier: BSD-3-Clause
"""What follows from C1 and C2 for any array, as exact equations: no oracle, no tolerance.

Whatever computes the exact number and rounds it once has all of these properties; what rounds
twice, or depends on order, breaks most of them.
"""

from __future__ import annotations

import math

import hooks
import numpy as np
import oracle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import DTYPES, FORMATS

import fastreg

names = pytest.mark.parametrize("name", FORMATS)
quick = settings(deadline=None, max_examples=150)

WEIGHTS = st.sampled_from([0.0, 1.0, 0.5, 0.01, 0.1, 3.0, 1e-30, 1e30]) | st.floats(
    0.0, 1e300, allow_subnormal=True
)


@st.composite
def arrays(draw, name, finite=True, most=70):
    """Elements of any bits, or of few bits and alike in size, so that ties are frequent."""
    fmt = FORMATS[name]
    n = draw(st.integers(0, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        bits = rng.integers(0, 2**fmt.width, n, dtype=np.uint64)
        if finite:
            magnitude = bits & np.uint64(fmt.sign_bit - 1)
            bits = np.where(magnitude < fmt.inf_bits, bits, bits & np.uint64(fmt.sign_bit | 0x3))
        return oracle.as_array(bits, name)
    scale = draw(st.integers(-8, 6))
    return np.ldexp(rng.integers(-31, 32, n).astype(np.float64), scale).astype(DTYPES[name])


def bits(value) -> int:
    return int(oracle.bits_of(value)[0])


def everything(x, l1, l2) -> list[int]:
    """Bits of every reduction of an array in every result type."""
    found = []
    for dtype in DTYPES.values():
        found.append(bits(fastreg.value(x, l1=l1, l2=l2, dtype=dtype)))
        found.append(bits(fastreg.norm(x, dtype=dtype)))
        found.append(bits(fastreg.sum_abs(x, dtype=dtype)))
        found.append(bits(fastreg.sum_squares(x, dtype=dtype)))
    return found


@names
@quick
@given(data=st.data(), l1=WEIGHTS, l2=WEIGHTS)
def test_order_sign_and_zeros(name, data, l1, l2):
    """A shuffled array, with other signs and with zeros put anywhere, has the same penalty."""
    x = data.draw(arrays(name, finite=False))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    wanted = everything(x, l1, l2)
    assert everything(rng.permutation(x), l1, l2) == wanted
    assert everything(x[::-1], l1, l2) == wanted
    # Not by arithmetic: that could change a NaN, which has a sign but is none of the two's
    # business.
    flipped = x.copy().view(oracle.UNSIGNED[name])
    signs = rng.integers(0, 2, x.size, dtype=np.uint64) << np.uint64(FORMATS[name].width - 1)
    flipped ^= signs.astype(flipped.dtype)
    assert everything(flipped.view(x.dtype), l1, l2) == wanted
    zeros = np.insert(x.view(flipped.dtype), rng.integers(0, x.size + 1, 5), 0)
    zeros[zeros == 0] = int(rng.integers(0, 2)) * FORMATS[name].sign_bit
    assert everything(zeros.view(x.dtype), l1, l2) == wanted


@names
@quick
@given(data=st.data(), l1=WEIGHTS, l2=WEIGHTS, k=st.integers(-6, 6))
def test_powers_of_two(name, data, l1, l2, k):
    """2**k times the weights gives 2**k times the penalty; 2**k times x gives that of the norm."""
    x = data.draw(arrays(name))
    w1, w2 = math.ldexp(l1, k), math.ldexp(l2, k)
    assume(math.ldexp(w1, -k) == l1 and math.ldexp(w2, -k) == l2)
    fmt = FORMATS[name]
    value = float(fastreg.value(x, l1=l1, l2=l2))
    scaled = float(fastreg.value(x, l1=w1, l2=w2))
    normal = 2.0 ** (fmt.emin + 8) < value < 2.0 ** (fmt.emax - 8) or value == 0.0
    if normal:
        assert scaled == math.ldexp(value, k)
    wide = x.astype(np.float64)
    norm = float(fastreg.norm(wide))
    if 1e-280 < norm < 1e280:
        assume(np.all(np.ldexp(np.ldexp(wide, k), -k) == wide))
        assert float(fastreg.norm(np.ldexp(wide, k))) == math.ldexp(norm, k)
        assert float(fastreg.sum_abs(np.ldexp(wide, k))) == math.ldexp(fastreg.sum_abs(wide), k)


@names
@quick
@given(data=st.data(), l1=WEIGHTS, l2=WEIGHTS)
def test_division_into_a_list(name, data, l1, l2):
    """An array is its pieces, in any order; twice the array is twice the weights."""
    x = data.draw(arrays(name, finite=False))
    cuts = sorted(data.draw(st.lists(st.integers(0, x.size), max_size=5)))
    pieces = np.split(x, cuts)
    for dtype in DTYPES.values():
        wanted = bits(fastreg.value(x, l1=l1, l2=l2, dtype=dtype))
        for form in (pieces, pieces[::-1]):
            assert bits(hooks.list_value(form, l1=l1, l2=l2, dtype=dtype)) == wanted
        norm = bits(fastreg.norm(x, dtype=dtype))
        assert bits(hooks.list_norm(pieces, dtype=dtype)) == norm
        twice = bits(fastreg.value(x, l1=2 * l1, l2=2 * l2, dtype=dtype))
        assert bits(fastreg.value(np.concatenate([x, x]), l1=l1, l2=l2, dtype=dtype)) == twice
        assert bits(hooks.list_value([x, x[::-1]], l1=l1, l2=l2, dtype=dtype)) == twice


@st.composite
def views(draw, name):
    """A view with steps of any sign, transposed or broadcast, of a small array."""
    x = draw(arrays(name, finite=False))
    if x.size >= 12 and draw(st.booleans()):
        x = x[: x.size // 6 * 6].reshape(draw(st.sampled_from([(2, -1), (-1, 3), (3, 2, -1)])))
    x = x[tuple(slice(None, None, draw(st.sampled_from([1, 2, -1, -3]))) for _ in x.shape)]
    if draw(st.booleans()):
        x = x.T
    return np.broadcast_to(x, (3, *x.shape)) if draw(st.integers(0, 4)) == 0 else x


@names
@quick
@given(data=st.data(), l1=WEIGHTS, l2=WEIGHTS)
def test_a_view_is_its_copy(name, data, l1, l2):
    x = data.draw(views(name))
    copy = np.ascontiguousarray(x).copy()
    assert everything(x, l1, l2) == everything(copy, l1, l2)
    got = fastreg.gradient(x, l1=l1, l2=l2, scale=-0.75)
    wanted = fastreg.gradient(copy, l1=l1, l2=l2, scale=-0.75)
    assert got.shape == x.shape
    assert oracle.bits_of(got).tolist() == oracle.bits_of(wanted).tolist()


@names
@quick
@given(data=st.data(), l1=WEIGHTS, l2=WEIGHTS, scale=st.floats(-1e300, 1e300))
def test_fused_is_separate(name, data, l1, l2, scale):
    """Both at once are each by itself; adding into an output is one addition in the type."""
    x = data.draw(views(name))
    value, gradient = fastreg.value_and_gradient(x, l1=l1, l2=l2, scale=scale)
    assert bits(value) == bits(fastreg.value(x, l1=l1, l2=l2))
    alone = fastreg.gradient(x, l1=l1, l2=l2, scale=scale)
    assert oracle.bits_of(gradient).tolist() == oracle.bits_of(alone).tolist()
    out = np.zeros(x.shape, x.dtype)
    fastreg.gradient(x, l1=l1, l2=l2, scale=scale, out=out, accumulate=True)
    # 0 + -0 is 0, and nothing else differs.
    assert np.array_equal(out, alone, equal_nan=True)
    # An output that is x.
    own = np.array(x, copy=True)
    fastreg.gradient(own, l1=l1, l2=l2, scale=scale, out=own)
    assert oracle.bits_of(own).tolist() == oracle.bits_of(alone).tolist()


@names
@quick
@given(data=st.data(), l1=WEIGHTS, l2=WEIGHTS)
def test_larger_elements_are_not_cheaper(name, data, l1, l2):
    """Growing one element never lowers the penalty, and no penalty is negative."""
    x = data.draw(arrays(name))
    assume(x.size)
    grown = x.copy()
    i = data.draw(st.integers(0, x.size - 1))
    grown.view(oracle.UNSIGNED[name])[i] += 1
    for dtype in DTYPES.values():
        before = float(fastreg.value(x, l1=l1, l2=l2, dtype=dtype))
        after = float(fastreg.value(grown, l1=l1, l2=l2, dtype=dtype))
        assert before >= 0.0
        assert not math.copysign(1.0, before) < 0
        assert after >= before or math.isnan(after)


@names
@quick
@given(data=st.data(), l1=WEIGHTS, l2=WEIGHTS)
def test_narrower_results_follow_from_wider_ones(name, data, l1, l2):
    """The result in a narrow type lies between the neighbours of the f64 result."""
    x = data.draw(arrays(name))
    wide = float(fastreg.value(x, l1=l1, l2=l2, dtype=np.float64))
    below, above = np.nextafter(wide, 0.0), np.nextafter(wide, np.inf)
    for short in ("f16", "bf16", "f32"):
        got = bits(fastreg.value(x, l1=l1, l2=l2, dtype=DTYPES[short]))
        assert oracle.round_float(below, short) <= got <= oracle.round_float(above, short)
