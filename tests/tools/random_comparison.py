# SPDX-License-Identifier: BSD-3-Clause
"""Random calls against the oracle of Python integers: steps in place, weights, groups, norms.

Run as ``python tests/tools/random_comparison.py COUNT [SEED]``: it prints how many numbers were
compared and exits with status 1 if one is wrong. Small arrays of all float types, of any magnitude,
zeros of both signs, subnormal numbers and specials among them.
"""

from __future__ import annotations

import math
import sys
from fractions import Fraction

import numpy as np
import oracle
from oracle import DTYPES

import fastreg


def rounded(x: Fraction) -> float:
    """A rational number as float64, to nearest, overflowing to infinity."""
    return oracle.fraction_round(x, np.float64) if x else 0.0


def magnitude(rng: np.random.Generator, low: int = -1074, high: int = 1023) -> float:
    """A float64 > 0 of any size."""
    return max(math.ldexp(1.0 + rng.random(), int(rng.integers(low, high))), 5e-324)


def sample(rng: np.random.Generator, name: str, specials: bool = True) -> np.ndarray:
    """A small array, often of numbers near each other, at times of random bits."""
    fmt, n = oracle.FORMATS[name], int(rng.integers(1, 9))
    if rng.random() < 0.3:
        bits = rng.integers(0, 1 << fmt.width, n, dtype=np.uint64).astype(oracle.UNSIGNED[name])
        x = oracle.as_array(bits, name)
    else:
        wide = rng.standard_normal(n) * 2.0 ** int(rng.integers(fmt.low, fmt.emax - 2))
        x = wide.astype(DTYPES[name])
    with np.errstate(all="ignore"):
        if not specials:
            x[~np.isfinite(x)] = 1
    x[rng.random(n) < 0.1] = -0.0
    return x


def same(got: np.ndarray, want: list[int]) -> bool:
    return oracle.bits_of(got).tolist() == want


def scaled(x: np.ndarray, factor: float, name: str) -> list[int]:
    """RN_T(RN_64(factor * x)) of each element."""
    out = []
    for v in oracle.to_floats(x):
        if math.isfinite(v):
            product = rounded(Fraction(factor) * Fraction(v))
            product = product if product else math.copysign(product, math.copysign(1.0, v) * factor)
        else:
            product = factor * v
        out.append(oracle.round_float(product, name))
    return out


def check_weights(rng: np.random.Generator, name: str) -> tuple[int, int]:
    """A penalty with weights, factors and the convention: products are rounded once."""
    xs = [sample(rng, name, specials=rng.random() < 0.2) for _ in range(3)]
    l2, factor = magnitude(rng, -1074, 400), magnitude(rng, -500, 400)
    part = 0.5 if rng.random() < 0.5 else 1.0
    product = rounded(Fraction(l2) * Fraction(factor) * Fraction(part))
    got = fastreg.penalty(
        {"w": xs[0], "b": xs[1], "c": xs[2]},
        l2=l2,
        select="all",
        weights={"w": factor, "b": factor, "*": factor},
        convention="half" if part == 0.5 else "keras",
    )
    want = oracle.expected("value", np.concatenate(xs), np.float64, 0.0, product)
    return 1, oracle.bits_of(np.array([got])).tolist() != [want]


def check_decay(rng: np.random.Generator, name: str) -> tuple[int, int]:
    x = sample(rng, name)
    rate = float(rng.choice([0.0, 1.0, 0.5, 1e-17, 5e-324, rng.random(), magnitude(rng, -60, -1)]))
    factor = rounded(1 - Fraction(rate))
    want = oracle.bits_of(x).tolist() if factor == 1.0 else scaled(x, factor, name)
    fastreg.decay_([x], rate)
    return x.size, not same(x, want)


def check_clip(rng: np.random.Generator, name: str) -> tuple[int, int]:
    x = sample(rng, name, specials=False)
    norm = oracle.as_float(oracle.expected("norm", x, np.float64), "f64")
    if not math.isfinite(norm):
        return 0, 0
    most = float(rng.choice([norm, norm * rng.random(), magnitude(rng), 0.0]))
    want = oracle.bits_of(x).tolist()
    if norm > most:
        want = scaled(x, rounded(Fraction(most) / Fraction(norm)), name)
    got = fastreg.clip_by_global_norm_([x], most)
    return x.size + 1, not same(x, want) or got != norm


def shrunk(v: float, step: float, l1: float, l2: float, flush: bool, name: str) -> int:
    """The bits of one element after a proximal step, each operation as documented."""
    t = rounded(Fraction(abs(v)) - Fraction(rounded(Fraction(step) * Fraction(l1))))
    divisor = rounded(1 + Fraction(min(rounded(2 * Fraction(step) * Fraction(l2)), 1.7e308)))
    if t <= 0:
        return 0
    fmt = oracle.FORMATS[name]
    bits = oracle.round_float(rounded(Fraction(t) / Fraction(divisor)), name)
    if bits == 0 or (flush and bits < 1 << (fmt.precision - 1)):
        return 0
    return bits | (fmt.sign_bit if v < 0 else 0)


def check_prox(rng: np.random.Generator, name: str) -> tuple[int, int]:
    x = sample(rng, name, specials=False)
    typical = max((abs(v) for v in oracle.to_floats(x)), default=1.0) or 1.0
    step = float(rng.choice([0.0, rng.random(), magnitude(rng, -300, 10)]))
    l1 = min(float(rng.choice([0.0, typical * rng.random()])), 1e300)
    l2 = float(rng.choice([0.0, rng.random(), magnitude(rng, -300, 300)]))
    flush = bool(rng.random() < 0.3)
    want = [shrunk(v, step, l1, l2, flush, name) for v in oracle.to_floats(x)]
    fastreg.prox_([x], step, l1=l1, l2=l2, flush=flush)
    return x.size, not same(x, want)


def check_groups(rng: np.random.Generator, name: str) -> tuple[int, int]:
    """Value, gradient and proximal step of one group, over positions."""
    x = sample(rng, name, specials=False)
    weight = magnitude(rng, -300, 300)
    how = {"weight": weight, "groups": [np.arange(x.size)], "scaling": "none"}
    exact = oracle.as_float(oracle.expected("norm", x, np.float64), "f64")
    if not math.isfinite(exact):
        return 0, 0
    wrong = fastreg.group_lasso_value([x], **how) != rounded(Fraction(weight) * Fraction(exact))
    slope, left = [], []
    t = rounded(Fraction(0.5) * Fraction(weight))
    for v in oracle.to_floats(x):
        quotient = rounded(Fraction(v) / Fraction(exact)) if exact else 0.0
        g = rounded(Fraction(weight) * Fraction(quotient))
        g = math.copysign(g, v) if exact else 0.0
        slope.append(oracle.round_float(g, name))
    if exact <= t:
        left = [0] * x.size
    else:
        difference = rounded(Fraction(exact) - Fraction(t))
        left = scaled(x, rounded(Fraction(difference) / Fraction(exact)), name)
    wrong |= not same(fastreg.group_lasso_gradient([x], **how)[0], slope)
    fastreg.group_lasso_prox_([x], 0.5, **how)
    return 2 * x.size + 1, wrong or not same(x, left)


CHECKS = [check_weights, check_decay, check_clip, check_prox, check_groups]


def compare(count: int, seed: int) -> tuple[int, list[str]]:
    """Compare at least so many numbers; return how many, and which calls were wrong."""
    rng = np.random.default_rng(seed)
    done, wrong, k = 0, [], 0
    while done < count:
        check, name = CHECKS[k % len(CHECKS)], list(DTYPES)[k % 4]
        before = rng.bit_generator.state
        n, bad = check(rng, name)
        if bad:
            wrong.append(f"{check.__name__} of {name}, call {k}, state {before['state']}")
        done, k = done + n, k + 1
    return done, wrong


if __name__ == "__main__":
    total, mistakes = compare(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{total:,} numbers compared, {len(mistakes)} calls wrong")
    print("\n".join(mistakes[:20]))
    sys.exit(bool(mistakes))
