# SPDX-License-Identifier: BSD-3-Clause
"""Seeded inputs that a wrong rounding cannot survive, small and reproducible.

Random data does not see a misrounding; these cases do. A near-tie is built backwards: take the odd
midpoint between two neighbouring results, add -1, 0 or +1 unit far below it, and split that
integer into elements whose exact sum it is. The rounded answer is then known without an oracle.
Every split is free to move by powers of two, signs and order, so each case is placed somewhere
else in the range of its formats.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np
from oracle import DTYPES, FORMATS, as_array

OPERATIONS = ("sum_squares", "sum_abs", "value", "norm", "l2_loss")
POWER = {"sum_squares": 2, "sum_abs": 1, "l2_loss": 2}
SHIFT = {"sum_squares": 0, "sum_abs": 0, "l2_loss": -1}


@dataclass
class Cases:
    """Many small vectors in one flat array, each with weights and the result it must give."""

    op: str
    source: str
    result: str
    x: np.ndarray
    ends: list[int]
    want: list[float]
    l1: list[float]
    l2: list[float]

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[tuple[np.ndarray, float, float, float]]:
        start = 0
        for end, l1, l2, want in zip(self.ends, self.l1, self.l2, self.want, strict=True):
            yield self.x[start:end], l1, l2, want
            start = end


@dataclass
class Builder:
    """Collects cases as Python numbers, then shuffles, signs and converts them in bulk."""

    op: str
    source: str
    result: str
    values: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    want: list[float] = field(default_factory=list)
    l1: list[float] = field(default_factory=list)
    l2: list[float] = field(default_factory=list)

    def add(self, parts, scale: int, want: float, l1: float = 0.0, l2: float = 0.0) -> None:
        self.values += [math.ldexp(v, scale) for v in parts]
        self.ends.append(len(self.values))
        self.want.append(want)
        self.l1.append(l1)
        self.l2.append(l2)

    def build(self, seed: int) -> Cases:
        rng = np.random.default_rng(seed)
        values = np.array(self.values, dtype=np.float64)
        lengths = np.diff(np.array([0, *self.ends]))
        case = np.repeat(np.arange(len(self.ends)), lengths)
        values = values[np.lexsort((rng.random(values.size), case))]
        values = np.where(rng.random(values.size) < 0.5, -values, values)
        x = values.astype(DTYPES[self.source])
        assert np.array_equal(x.astype(np.float64), values), "an element is not representable"
        return Cases(self.op, self.source, self.result, x, self.ends, self.want, self.l1, self.l2)


# --- integers as sums of elements ------------------------------------------------------------


def trim(v: int, precision: int) -> int:
    """Largest integer <= v with at most `precision` significant bits."""
    extra = v.bit_length() - precision
    return v >> extra << extra if extra > 0 else v


def split(n: int, precision: int, power: int, rng: random.Random) -> list[int]:
    """Elements of `precision` bits with sum of v**power equal to n.

    A few elements of comparable size at random, then the largest that fits again and again.
    """
    parts = []
    root = math.isqrt if power == 2 else int
    for _ in range(int(rng.random() * 4)):
        v = trim(root(n * (1 + int(rng.random() * 1023)) >> 11), precision)
        if v:
            parts.append(v)
            n -= v**power
    while n:
        v = trim(root(n), precision)
        parts.append(v)
        n -= v**power
    return parts


def split_pronic(n: int, precision: int) -> list[int]:
    """Elements with sum of v*v + v equal to the even n: both penalties at once, equal weights."""
    parts = []
    while n:
        v = trim((math.isqrt(4 * n + 1) - 1) // 2, precision)
        parts.append(v)
        n -= v * v + v
    return parts


def is_prime(n: int) -> bool:
    """Miller-Rabin: a liar would only cost a failed assertion in `four_squares`."""
    small = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if n < 38 or any(n % p == 0 for p in small):
        return n in small
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in small[:6]:
        power = pow(base, odd, n)
        if power in (1, n - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % n
            if power == n - 1:
                break
        else:
            return False
    return True


def two_squares(prime: int, rng: random.Random) -> tuple[int, int]:
    """Prime = 4k + 1 as a sum of two squares (Hermite, Serret)."""
    while True:
        root = pow(rng.randrange(2, prime - 1), (prime - 1) // 4, prime)
        if root * root % prime == prime - 1:
            break
    big, small = prime, root
    while small * small > prime:
        big, small = small, big % small
    return small, math.isqrt(prime - small * small)


def four_squares(n: int, rng: random.Random) -> list[int]:
    """Any n > 0 as four squares of comparable size (Lagrange; Rabin and Shallit's search)."""
    twos = 0
    while n % 4 == 0:
        n, twos = n // 4, twos + 1
    while True:
        a = rng.randrange(math.isqrt(n) + 1)
        b = rng.randrange(math.isqrt(n - a * a) + 1)
        rest = n - a * a - b * b
        if rest <= 2:
            parts = [a, b, min(rest, 1), max(rest - 1, 0)]
        elif rest % 4 == 1 and is_prime(rest):
            parts = [a, b, *two_squares(rest, rng)]
        else:
            continue
        assert sum(v * v for v in parts) == n
        return [v << twos for v in parts]


# --- midpoints -------------------------------------------------------------------------------


def mantissa(precision: int, rng: random.Random) -> int:
    """A full mantissa; often all ones or a power of two, where the carry goes furthest."""
    low = 1 << (precision - 1)
    pick = rng.random()
    if pick < 0.1:
        return 2 * low - 1
    return low if pick < 0.2 else low + int(rng.random() * low)


def rounded(m: int, d: int) -> int:
    """Result mantissa for the midpoint above m, moved by d."""
    return m + (d > 0 or (d == 0 and m & 1))


@cache
def four_square_pool(precision: int, result: str, count: int = 150):
    """Near-ties as (four elements, mantissa, unit exponent, d), elements of `precision` bits."""
    rng = random.Random(f"pool {precision} {result}")
    p = FORMATS[result].precision
    pool = []
    while len(pool) < count:
        deep = rng.randrange(2 * precision - p)
        m, d = mantissa(p, rng), rng.choice((-1, 0, 1))
        n = ((2 * m + 1) << deep) + d
        parts = four_squares(n, rng)
        if max(parts) < 1 << precision:
            pool.append((parts, m, deep + 1, d))
    return pool


def near_ties(op: str, source: str, result: str, count: int, seed: int) -> Cases:
    """Near-ties of a plain sum: four squares, and splits into up to about twenty elements.

    Half of those just on the midpoint get a tail far below it, as deep as the format goes, which
    double-double arithmetic cannot see.
    """
    rng = random.Random(f"{op} {source} {result} {seed}")
    src, dst = FORMATS[source], FORMATS[result]
    power, shift = POWER[op], SHIFT[op]
    p, q = dst.precision, src.precision
    # Elements must hold both the root of the sum and the unit.
    deepest = min(3 * q, (src.emax - src.low - 2) * power - p)
    pool = four_square_pool(q, result) if power == 2 and 2 * q > p + 1 else []
    cases = Builder(op, source, result)
    while len(cases.ends) < count:
        if pool and rng.random() < 0.4:
            parts, m, k, d = pool[int(rng.random() * len(pool))]
            parts = list(parts)
            bits = p + k
        else:
            k = 1 + int(rng.random() * deepest)
            m, d = mantissa(p, rng), int(rng.random() * 3) - 1
            n = ((2 * m + 1) << (k - 1)) + d
            parts = split(n, q, power, rng)
            bits = n.bit_length()
        top = max(parts).bit_length()
        lowest = max(src.low, -((bits - 1 + shift - dst.emin) // power))
        highest = min(src.emax + 1 - top, (dst.emax - bits - shift) // power)
        if lowest > highest:
            continue
        j = lowest + int(rng.random() * (highest - lowest + 1))
        if d == 0 and j > src.low and rng.random() < 0.5:
            parts.append(math.ldexp(1.0, max(src.low, j - 1 - int(rng.random() * 150)) - j))
            d = 1
        want = math.ldexp(rounded(m, d), k + power * j + shift)
        cases.add(parts, j, want)
    return cases.build(seed)


def norm_near_ties(source: str, result: str, count: int, seed: int) -> Cases:
    """Sums of squares equal to, or one unit beside, the square of an odd midpoint."""
    rng = random.Random(f"norm {source} {result} {seed}")
    src, dst = FORMATS[source], FORMATS[result]
    p, q = dst.precision, src.precision
    cases = Builder("norm", source, result)
    while len(cases.ends) < count:
        m, d = mantissa(p, rng), int(rng.random() * 3) - 1
        s = int(rng.random() * 12)
        n = ((2 * m + 1) << s) ** 2 + d
        parts = split(n, q, 2, rng)
        bits = p + 1 + s
        top = max(parts).bit_length()
        lowest = max(src.low, dst.emin - bits + 1)
        highest = min(src.emax + 1 - top, dst.emax - bits)
        if lowest > highest:
            continue
        j = lowest + int(rng.random() * (highest - lowest + 1))
        if d == 0 and j > src.low and rng.random() < 0.5:
            parts.append(math.ldexp(1.0, max(src.low, j - 1 - int(rng.random() * 150)) - j))
            d = 1
        cases.add(parts, j, math.ldexp(rounded(m, d), s + 1 + j))
    return cases.build(seed)


def place(src, dst, top: int, bits: int, rng: random.Random) -> tuple[int, int]:
    """Exponents (of x, of the result) that keep elements, result and weights in range."""
    lowest, highest = max(src.low, -300), min(src.emax + 1 - top, 300)
    j = lowest + int(rng.random() * (highest - lowest + 1))
    low, high = max(dst.emin - bits + 1, -400), min(dst.emax - bits, 350)
    return j, low + int(rng.random() * (high - low + 1))


def two_weight_case(src, dst, rng: random.Random):
    """Full-width weights A, B with A * sum|v| + B * sum v*v on a near-tie (Bezout)."""
    while True:
        width = min(src.precision, rng.randrange(4, 26))
        parts = [rng.getrandbits(width) for _ in range(rng.randrange(2, 7))]
        s1, s2 = sum(parts), sum(v * v for v in parts)
        least = max((s1 * s2).bit_length() + 1, dst.precision + 2)
        most = 52 + s2.bit_length()
        if s2 < 2 or least > most or math.gcd(s1, s2) != 1:
            continue
        k = rng.randrange(least, most + 1) - dst.precision
        m, d = mantissa(dst.precision, rng), int(rng.random() * 3) - 1
        n = ((2 * m + 1) << (k - 1)) + d
        a = n * pow(s1, -1, s2) % s2
        b = (n - a * s1) // s2
        turns = int(rng.random() * min(((1 << 53) - a) // s2, b // s1))
        a, b = a + turns * s2, b - turns * s1
        assert a * s1 + b * s2 == n
        if a >> 53 == 0 and b > 0 and b >> 53 == 0:
            return parts, a, b, m, k, d


def one_weight_case(src, dst, power: int, rng: random.Random):
    """A full-width weight B with B * sum v**power on a near-tie (inverse modulo 2**k)."""
    p = dst.precision
    while True:
        width = min(src.precision, rng.randrange(2, p + 1 if power == 1 else p // 2 + 2))
        parts = [rng.getrandbits(width) for _ in range(rng.randrange(1, 5))]
        total = sum(v**power for v in parts)
        size = total.bit_length()
        if total % 2 == 0 or size > p:
            continue
        k = 53 - p + size
        k -= rng.randrange(min(k, 8))
        if k < 2:
            continue
        d = int(rng.random() * 3) - 1
        b = ((1 << (k - 1)) + d) * pow(total, -1, 1 << k) % (1 << k)
        b += rng.getrandbits(p - size + 1) << k
        n = b * total
        if n.bit_length() == p + k and b >> 53 == 0:
            return parts, b, n >> k, k, d


def weighted_near_ties(source: str, result: str, count: int, seed: int) -> Cases:
    """Near-ties of l1 * sum|x| + l2 * sum x*x: full-width weights, or full-width elements."""
    rng = random.Random(f"value {source} {result} {seed}")
    src, dst = FORMATS[source], FORMATS[result]
    cases = Builder("value", source, result)
    deepest = 20 if source == "f16" else 60
    while len(cases.ends) < count:
        kind = rng.random()
        if kind < 0.4:
            parts, a, b, m, k, d = two_weight_case(src, dst, rng)
        elif kind < 0.7:
            k = 2 + int(rng.random() * deepest)
            m, d = mantissa(dst.precision, rng), int(rng.random() * 3) - 1
            parts = split_pronic(2 * (((2 * m + 1) << (k - 1)) + d), src.precision)
            # The unit of the sum is 2: the elements' pronic sum is twice the near-tie.
            a = b = 0.5
        else:
            power = 1 + (rng.random() < 0.5)
            parts, b, m, k, d = one_weight_case(src, dst, power, rng)
            a, b = (b, 0) if power == 1 else (0, b)
        j, t = place(src, dst, max(parts).bit_length(), dst.precision + k, rng)
        e1, e2 = t - j, t - 2 * j
        if not (-1000 < e1 < 950 and -1000 < e2 < 950) or max(parts).bit_length() + j > src.emax:
            continue
        if d == 0 and j - 54 >= src.low and rng.random() < 0.5:
            # Below 2**-53, a tail adds less than one unit even times a weight of 53 bits.
            parts.append(math.ldexp(1.0, -min(54 + int(rng.random() * 150), j - src.low)))
            d = 1
        want = math.ldexp(rounded(m, d), k + t)
        cases.add(parts, j, want, math.ldexp(a, e1), math.ldexp(b, e2))
    return cases.build(seed)


def possible(op: str, source: str, result: str) -> bool:
    """Whether near-ties exist: 40 bits span all f16 numbers, too few for a 54-bit midpoint."""
    return not (op in ("norm", "sum_abs") and source == "f16" and result == "f64")


def combinations(exists=possible) -> list[tuple[str, str, str]]:
    """All (operation, source, result) for which the cases exist."""
    return [c for c in itertools.product(OPERATIONS, FORMATS, FORMATS) if exists(*c)]


@lru_cache(maxsize=2)
def ties(op: str, source: str, result: str, count: int, seed: int = 0) -> Cases:
    """`count` near-ties of an operation, elements in `source`, result in `result`."""
    if op == "norm":
        return norm_near_ties(source, result, count, seed)
    if op == "value":
        return weighted_near_ties(source, result, count, seed)
    return near_ties(op, source, result, count, seed)


# --- the ends of the range -------------------------------------------------------------------


@cache
def overflow_edge(op: str, name: str, count: int = 300, seed: int = 0) -> Cases:
    """Sums one unit below, on and above the midpoint between the largest finite number and inf."""
    rng = random.Random(f"edge {op} {name} {seed}")
    fmt = FORMATS[name]
    p = fmt.precision
    largest = as_array([fmt.inf_bits - 1], name).astype(np.float64).item()
    cases = Builder(op, name, name)
    odd = (1 << (p + 1)) - 1
    while len(cases.ends) < count:
        d = rng.choice((-1, 0, 1))
        if op == "norm":
            s = rng.randrange(8)
            n, j = (odd << s) ** 2 + d, fmt.emax - p - s
            parts = split(n, p, 2, rng)
        else:
            power, shift = POWER[op], SHIFT[op]
            k = rng.randrange(1, 40)
            if (fmt.emax - p - k - shift) % power:
                continue
            n, j = (odd << k) + d, (fmt.emax - p - k - shift) // power
            parts = split(n, p, power, rng)
        if j < fmt.low:
            continue
        cases.add(parts, j, largest if d < 0 else math.inf)
    return cases.build(seed)


@cache
def subnormal_ties(op: str, source: str, result: str, count: int, seed: int = 0) -> Cases:
    """Near-ties between neighbouring subnormal results, where the rounding position has moved."""
    rng = random.Random(f"subnormal {op} {source} {result} {seed}")
    src, dst = FORMATS[source], FORMATS[result]
    cases = Builder(op, source, result)
    while len(cases.ends) < count:
        m, d = rng.getrandbits(rng.randrange(1, dst.precision)), rng.choice((-1, 0, 1))
        if op == "norm" and src.low == dst.low:
            # Elements are multiples of the result's unit: (m + 1/2)**2 lies between two integers.
            d = rng.choice((-1, 1))
            parts, j = split(m * m + m + (d > 0), src.precision, 2, rng), src.low
        elif op == "norm":
            s = rng.randrange(4)
            j = dst.low - 1 - s
            if j < src.low:
                continue
            parts = split(((2 * m + 1) << s) ** 2 + d, src.precision, 2, rng)
        else:
            power, shift = POWER[op], SHIFT[op]
            k = rng.randrange(1, 60)
            j, odd = divmod(dst.low - k - shift, power)
            if odd or j < src.low:
                continue
            parts = split(((2 * m + 1) << (k - 1)) + d, src.precision, power, rng)
        if not parts or max(parts).bit_length() + j > src.emax + 1:
            continue
        cases.add(parts, j, math.ldexp(rounded(m, d), dst.low))
    return cases.build(seed)


def subnormal_possible(op: str, source: str, result: str) -> bool:
    """Whether small elements of `source` can meet a tie between subnormals of `result`."""
    src, dst = FORMATS[source], FORMATS[result]
    power = POWER.get(op, 1)
    if op == "value":
        return False
    if op == "norm":
        return src.low == dst.low or src.low < dst.low - 1
    return power * src.low < dst.low + 1 - power - SHIFT[op]


# --- random vectors --------------------------------------------------------------------------


def scatter(name: str, size: int, rng: np.random.Generator, low: int, high: int) -> np.ndarray:
    """Signed elements with random mantissas and exponents uniform in [low, high)."""
    numbers = np.ldexp(rng.uniform(1.0, 2.0, size), rng.integers(low, high, size))
    return np.where(rng.random(size) < 0.5, -numbers, numbers).astype(DTYPES[name])


def any_finite(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform bit patterns without NaN and inf: every exponent, subnormals, zeros of both signs."""
    fmt = FORMATS[name]
    bits = rng.integers(0, fmt.inf_bits, size, dtype=np.uint64)
    bits |= rng.integers(0, 2, size, dtype=np.uint64) << np.uint64(fmt.width - 1)
    return as_array(bits, name)


def family(name: str, size: int, rng: np.random.Generator, kind: int) -> np.ndarray:
    """Finite elements of one of the families: bits, log-uniform, Cauchy, normal, band, integers."""
    fmt = FORMATS[name]
    if kind == 0:
        return any_finite(name, size, rng)
    if kind == 1:
        return scatter(name, size, rng, -12, 13)
    if kind == 2:
        heavy = np.clip(rng.standard_cauchy(size), -6e4, 6e4)
        return heavy.astype(DTYPES[name])
    if kind == 3:
        return rng.standard_normal(size).astype(DTYPES[name])
    if kind == 4:
        # Squares around the smallest normal number: they lose bits, or vanish, in the type itself.
        low = fmt.low // 2 - 2
        return scatter(name, size, rng, low, min(low + fmt.precision + 4, 0))
    return rng.integers(-300, 300, size).astype(DTYPES[name])


FAMILIES = 6


def small_vectors(name: str, count: int, seed: int) -> tuple[np.ndarray, list[int]]:
    """`count` vectors of 1 to 8 elements, one flat array and the ends, all families in turn."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, 9, count))
    starts = np.linspace(0, count, FAMILIES + 1).astype(int)[1:-1]
    cuts = [0, *ends[starts - 1].tolist(), int(ends[-1])]
    parts = [family(name, cuts[i + 1] - cuts[i], rng, i) for i in range(FAMILIES)]
    return np.concatenate(parts), ends.tolist()


def random_weights(count: int, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Weights: the usual ones, zeros, and full-width ones over a wide range."""
    usual = np.array([0.0, 1.0, 0.5, 0.01, 0.1, 1e-4])
    out = []
    for _ in range(2):
        wide = np.ldexp(rng.uniform(1.0, 2.0, count), rng.integers(-40, 20, count))
        pick = usual[rng.integers(0, usual.size, count)]
        out.append(np.where(rng.random(count) < 0.5, wide, pick).tolist())
    return out[0], out[1]


# --- large vectors ---------------------------------------------------------------------------


def spread(name: str, n: int, seed: int) -> np.ndarray:
    """Exponents uniform over the whole range in which a sum of squares can still matter."""
    rng = np.random.default_rng(seed)
    fmt = FORMATS[name]
    return scatter(name, n, rng, fmt.low + 1, fmt.emax // 2 - 10)


def one_huge(name: str, n: int, where: str, seed: int) -> np.ndarray:
    """Many tiny elements and one huge element first, last or in the middle."""
    rng = np.random.default_rng(seed)
    fmt = FORMATS[name]
    x = scatter(name, n, rng, fmt.low + 1, fmt.low + 9)
    x[{"first": 0, "middle": n // 2, "last": n - 1}[where]] = 2.0 ** (fmt.emax // 2 - 1) * 1.25
    return x


def underflowing(name: str, n: int, seed: int) -> np.ndarray:
    """Elements whose squares fall below the normal range of their own type."""
    rng = np.random.default_rng(seed)
    fmt = FORMATS[name]
    return scatter(name, n, rng, fmt.low // 2, (fmt.emin + fmt.precision) // 2 + 1)


def half_unit(name: str, d: int, seed: int) -> tuple[np.ndarray, float]:
    """A one and some 10**3 tiny squares that add up to half a unit of the result, plus d of them.

    Half the unit of 1 is 2**-precision; each tiny square is 4**-h.
    """
    fmt = FORMATS[name]
    h = (fmt.precision + 10) // 2
    count = (1 << (2 * h - fmt.precision)) + d
    x = np.full(count + 1, 2.0**-h).astype(DTYPES[name])
    x[0] = 1.0
    np.random.default_rng(seed).shuffle(x)
    return x, 1.0 + (2.0 ** (1 - fmt.precision) if d > 0 else 0.0)


def large_tie(op: str, name: str, result: str, n: int, seed: int, alike: bool = False):
    """n full-width elements and a few more that bring the sum to a midpoint, or beside it.

    The distance to the midpoint is 0 or anything from the lowest bit to a quarter of the result's
    unit, so that some cases lie just inside and some just outside any error bound. `alike` makes
    the n elements equal: then the errors of ordinary additions do not cancel. Returns the vector
    and the result it must give.
    """
    rng = np.random.default_rng(seed)
    py = random.Random(f"large {op} {name} {result} {n} {seed}")
    power = POWER[op]
    fmt = FORMATS[name]
    low, high = (-8, -2) if "f16" in (name, result) else (-12, 9)
    body = scatter(name, n, rng, low, high)
    if alike:
        body[:] = body[0]
    j = low - fmt.precision + 1
    units = [int(v) for v in np.abs(np.ldexp(body.astype(np.float64), -j)).tolist()]
    total = sum(v**power for v in units)
    p = FORMATS[result].precision
    k = max(total.bit_length() - p, 4)
    m = max((total >> k) + 1, 1 << (p - 1))
    if m >> p:
        m, k = m >> 1, k + 1
    d = py.choice((-1, 0, 1)) * py.getrandbits(py.randrange(1, k - 1))
    tail = split(((2 * m + 1) << (k - 1)) + d - total, fmt.precision, power, py)
    values = np.ldexp(np.array(units + tail, dtype=np.float64), j)
    rng.shuffle(values)
    values = np.where(rng.random(values.size) < 0.5, -values, values)
    x = values.astype(DTYPES[name])
    assert np.array_equal(x.astype(np.float64), values), "an element is not representable"
    return x, math.ldexp(rounded(m, d), k + SHIFT[op] + power * j)
