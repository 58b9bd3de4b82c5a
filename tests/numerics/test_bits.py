# SPDX-License-Identifier: BSD-3-Clause
"""C2: the same bits whatever the level, threads, alignment, layout, order and division of data.

GOLDEN holds one digest for each element type and size. All forms of a computation must reach it, so
it also pins the bits between releases: a digest that changes is a breaking change. Running this
file as a program prints the table.
"""

from __future__ import annotations

import hashlib
import itertools
import struct

import hooks
import ml_dtypes
import numpy as np
import oracle
import pytest

import fastreg

FLOATS = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64}
INTEGERS = {
    "bool": np.bool_,
    **{
        f"{kind}{bits}": np.dtype(f"{kind}{bits // 8}") for bits in (8, 16, 32, 64) for kind in "iu"
    },
}
DTYPES = {name: np.dtype(dtype) for name, dtype in (FLOATS | INTEGERS).items()}
SMALL, LARGE = 960, 40_009
THREADS = (1, 2, 3, 7, 16)
# (operation, l1, l2); norms take no weights.
CALLS = [("value", 0.3, 0.0), ("value", 0.0, 0.7), ("value", 0.1, 1e-3), ("norm", 0.0, 1.0)]
SLOPES = [(0.3, 0.0, 1.0), (0.0, 0.7, 1.0), (0.1, 1e-3, -2.5)]

GOLDEN = {
    ("f16", SMALL): "3b4d27269b472b98d0ab241a777dafbc36c44f7f6c12bfd80d5647ade7594c20",
    ("f16", LARGE): "ea4449ef81aae506b52a280cd73e34558244a9e5266f8df444ca561de1d7aa66",
    ("bf16", SMALL): "00171c263a761da5046e1086503c13a2703e84a2c74ed8b0fbfda4a2b65fdaf9",
    ("bf16", LARGE): "d86265f95ff37da0743aa25d5ba66720b8a9d4117c7f76977be7b082cf04064f",
    ("f32", SMALL): "47987daafd5ad6715ff5733d15aa5f4005e1b4faaccc835238b7265cbce416c2",
    ("f32", LARGE): "1e80a544d2fe28c62f49919b18a21efbb8d5f88f606cfc794015d7f31db75046",
    ("f64", SMALL): "fcbd1c0130b90dcfdcbb089ad233ab1a4347e5f7db9484d611c58e54163f10fb",
    ("f64", LARGE): "0d90108b624ab5bb87c3718c0a84d5211b0dfebdae2d9b65ee25424c855a6a13",
    ("bool", SMALL): "ad23466ad628e0a4eb0341b0ad8a9b7910c958594718f63ad6577098e4254ca4",
    ("bool", LARGE): "58874204818a95b909a2e7f2df64200fe2f6f6049d9036f04dce13e1909614fc",
    ("i8", SMALL): "1c9ef00391a3b0e96324778230b7c54f38247fa4064f21c9e040ce9aa460cfd9",
    ("i8", LARGE): "6d3fca7fe3bbecada50a98781beb1623f7e8fc45d0f164c10663bc46cf75d2d1",
    ("u8", SMALL): "c9e9b19ff46b2ff431e541a71767a92b5e9e080bc85e0ba5e38fcf069e080e2c",
    ("u8", LARGE): "4d17ebc0f53d1d2dab7cddf1b38c5d869c5f20fbd541b26f4405bc2adb786d4f",
    ("i16", SMALL): "9b07123e6f1d0a476e21b912ae293829a986fc2424ef08a74cbaf7b90d3af7fd",
    ("i16", LARGE): "5ac4b87dca6e7d2f8999e12be58967d3df3472c61d822efeb4d65f3f7020b089",
    ("u16", SMALL): "b2c4aa552cc7f89125423fa2ca58fe245f00ed3ab291c632fd5a890436acc1ba",
    ("u16", LARGE): "7bd88358f9e00e8281e633291adf381bfc289f07fe4bd8ac45df29e18d9644bc",
    ("i32", SMALL): "603e287aeddc5a019b87a1d5d7636edef8e709a27c39e54a5b29f9307b81ccf9",
    ("i32", LARGE): "58bca21fa38e0ead7275dd4274faac891298eeb5a3f3c66f4ed52290bcc2b0a1",
    ("u32", SMALL): "3e2e9580cc5458166c6f93391ff1cda4cfabaee9cf9320f3bec4736b666e445a",
    ("u32", LARGE): "d747ae0bc0cb3b6b21f294b939d3ae1fb7681ff24a28e6d34990221815a7a0ee",
    ("i64", SMALL): "2dc010115bc4b61a7e940824247ee594b701fec7e764b4fc93f993d1ec78c4ad",
    ("i64", LARGE): "a48494a257b32c00918a1b47a1be4e83d2c25ca33c5df99fb39034e346743b28",
    ("u64", SMALL): "879793c9526fd74b92bf784bb70433bccafef28f004bc5c75c86b24db71edd2d",
    ("u64", LARGE): "5c806b63ab93ee8d32ec1ed92c43393b33d558d2d44f7ef87bb963f9946226ba",
}

every_dtype = pytest.mark.parametrize("name", DTYPES)
every_float = pytest.mark.parametrize("name", FLOATS)


def raw(n: int, seed: int) -> np.ndarray:
    """Random 64-bit words, the same for every version of NumPy."""
    return np.random.PCG64(seed).random_raw(n)


def data(name: str, n: int) -> np.ndarray:
    """Finite elements over much of the type's range, zeros and subnormals among them."""
    dtype = DTYPES[name]
    words = raw(n, 1)
    if name == "bool":
        return (words >> 63).astype(bool)
    if name not in FLOATS:
        return (words >> (64 - 8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype)
    fmt = oracle.FORMATS[name]
    fraction = fmt.precision - 1
    # A window of exponents in the middle, and one element in 32 with exponent 0.
    width = min(40, 2 * fmt.emax)
    exponents = (raw(n, 2) % width).astype(np.uint64) + np.uint64(max(fmt.emax - 25, 1))
    exponents[raw(n, 3) % 32 == 0] = 0
    exponents = np.minimum(exponents, np.uint64(2 * fmt.emax))
    bits = (words >> np.uint64(63)) << np.uint64(fmt.width - 1)
    bits |= exponents << np.uint64(fraction)
    bits |= words & np.uint64((1 << fraction) - 1)
    bits[raw(n, 4) % 32 == 0] &= np.uint64(fmt.sign_bit)
    return bits.astype(oracle.UNSIGNED[name]).view(dtype)


def with_specials(name: str, n: int) -> np.ndarray:
    """The same with infinities and NaNs of any payload, for gradients."""
    x = data(name, n)
    fmt, bits = oracle.FORMATS[name], x.view(oracle.UNSIGNED[name])
    odd = [fmt.inf_bits, fmt.inf_bits | fmt.sign_bit, fmt.inf_bits | 1, (1 << fmt.width) - 1]
    bits[7::41] = np.resize(np.array(odd, bits.dtype), bits[7::41].size)
    return x


def value_bits(arrays, calls=CALLS, results=tuple(FLOATS), **how) -> bytes:
    """Bits of every value and norm of the arrays, in every result type."""
    results = [
        hooks.measure(arrays, op, dtype, l1=l1, l2=l2, **how)[0]
        for op, l1, l2 in calls
        for dtype in results
    ]
    return struct.pack(f"<{len(results)}d", *results)


def shared_bits(arrays, threads: int, isa=None) -> bytes:
    """Bits of two calls that threads share; teams are slow on a busy machine."""
    return value_bits(arrays, CALLS[2:], ("f64",), threads=threads, isa=isa)


def flat_bits(x: np.ndarray) -> bytes:
    """Bits of the elements in C order."""
    return np.ascontiguousarray(x).reshape(-1).view(f"u{x.dtype.itemsize}").tobytes()


def gradient_bits(x, slopes=SLOPES, **how) -> list[bytes]:
    """Bits of every gradient, fresh and accumulated, in x's logical order."""
    found = []
    for l1, l2, scale in slopes:
        found.append(flat_bits(hooks.gradient(x, l1=l1, l2=l2, scale=scale, **how)))
        out = np.ones(x.shape, x.dtype)
        hooks.gradient(x, l1=l1, l2=l2, scale=scale, out=out, accumulate=True, **how)
        found.append(flat_bits(out))
    return found


def digest(values: bytes, gradients=()) -> str:
    """SHA-256 of results."""
    return hashlib.sha256(values + b"".join(gradients)).hexdigest()


def digest_of(name: str, n: int, **how) -> str:
    """Digest of the plain form: one dense array."""
    values = value_bits(data(name, n), **how)
    return digest(values, gradient_bits(with_specials(name, n)) if name in FLOATS else ())


# -- The digests themselves -------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_golden_digest(name, n):
    """The bits are those of every earlier release."""
    assert digest_of(name, n) == GOLDEN[name, n]


@every_dtype
def test_golden_digest_is_the_truth(name):
    """The digests are those of the exact results, from the oracle."""
    x = data(name, SMALL)
    exact = oracle.sums(x)
    truth = [
        oracle.as_float(oracle.result_bits(op, exact, dtype, l1, l2), dtype)
        for op, l1, l2 in CALLS
        for dtype in FLOATS
    ]
    gradients = []
    if name in FLOATS:
        x = with_specials(name, SMALL)
        one = np.ones(SMALL, x.dtype)
        for l1, l2, scale in SLOPES:
            for out in (None, one):
                bits = oracle.gradient_bits(x, l1, l2, scale, out)
                gradients.append(np.array(bits, oracle.UNSIGNED[name]).tobytes())
    assert digest(struct.pack(f"<{len(truth)}d", *truth), gradients) == GOLDEN[name, SMALL]


# -- Level, threads, tier ---------------------------------------------------------------------


@every_dtype
def test_levels_threads_and_tiers(name, isa):
    """Every level with every number of threads, from every tier."""
    x = data(name, LARGE)
    gradients = gradient_bits(with_specials(name, LARGE), isa=isa) if name in FLOATS else ()
    for threads, tier in itertools.product(THREADS, (0, 1, 2)):
        values = value_bits(x, isa=isa, threads=threads, first_tier=tier)
        assert digest(values, gradients) == GOLDEN[name, LARGE], (threads, tier)


@every_dtype
def test_fallbacks(name, isa):
    """Bounds made so wide that calls fall from tier to tier."""
    for scale in (1e3, 1e9, 1e300):
        values = value_bits(data(name, SMALL), isa=isa, error_scale=scale)
        assert values == value_bits(data(name, SMALL)), scale


@every_float
def test_gradient_threads(name, isa):
    """Gradients shared between up to 16 threads: large enough that each gets its part."""
    x = np.resize(with_specials(name, SMALL), 2_500_000 // DTYPES[name].itemsize)
    wanted = [
        np.resize(np.frombuffer(bits, oracle.UNSIGNED[name]), x.size).tobytes()
        for bits in gradient_bits(with_specials(name, SMALL), SLOPES[:1])
    ]
    for threads in THREADS:
        with fastreg.num_threads(threads):
            assert gradient_bits(x, SLOPES[:1], isa=isa) == wanted, threads


@every_float
def test_streamed_gradient(name, isa):
    """Outputs beyond the cache, written past it, at several alignments."""
    n = (68 << 20) // DTYPES[name].itemsize
    x = np.resize(with_specials(name, SMALL), n)
    l1, l2, scale = SLOPES[0]
    piece = hooks.gradient(with_specials(name, SMALL), l1=l1, l2=l2, scale=scale)
    wanted = np.resize(piece, n).view(oracle.UNSIGNED[name])
    buffer = np.empty(n * x.itemsize + 64, np.uint8)
    for offset in (0, x.itemsize, 63):
        out = buffer[offset : offset + x.nbytes].view(x.dtype)
        hooks.gradient(x, l1=l1, l2=l2, scale=scale, out=out, isa=isa)
        assert np.array_equal(out.view(wanted.dtype), wanted), offset


# -- Where the elements lie -------------------------------------------------------------------


@every_dtype
def test_byte_offsets(name, isa):
    """Arrays at all 64 byte offsets of a cache line, outputs at others."""
    x = data(name, SMALL)
    special = with_specials(name, SMALL) if name in FLOATS else None
    buffer = np.zeros(x.nbytes + 192, np.uint8)
    base = -buffer.ctypes.data % 64
    for offset in range(64):
        view = buffer[base + offset :][: x.nbytes].view(x.dtype)
        view[...] = x
        values = value_bits(view, isa=isa)
        gradients = ()
        if special is not None:
            view[...] = special
            gradients = gradient_bits(view, isa=isa)
        assert digest(values, gradients) == GOLDEN[name, SMALL], offset


def spread_out(x: np.ndarray, shape, steps) -> np.ndarray:
    """A view of that shape, stepping so, into a larger array with x's elements in order."""
    buffer = np.zeros([n * abs(s) for n, s in zip(shape, steps, strict=True)], x.dtype)
    view = buffer[tuple(slice(None, None, s) for s in steps)]
    view[...] = x.reshape(shape)
    return view


def in_axes(x: np.ndarray, shape, axes) -> np.ndarray:
    """A view of that shape whose memory has its axes in another order."""
    buffer = np.zeros([shape[a] for a in axes], x.dtype)
    view = buffer.transpose(np.argsort(axes))
    view[...] = x.reshape(shape)
    return view


def odd_bytes(x: np.ndarray) -> np.ndarray:
    """A field of a packed record: a stride that is no multiple of the element."""
    buffer = np.zeros(x.size, np.dtype([("a", "u1"), ("x", x.dtype), ("b", "u2")]))
    buffer["x"] = x
    return buffer["x"]


# Views with the elements of x, SMALL of them, in x's logical order.
LAYOUTS = {
    "C order": lambda x: x.reshape(24, 40),
    "F order": lambda x: np.asfortranarray(x.reshape(24, 40)),
    "transposed": lambda x: in_axes(x, (24, 40), (1, 0)),
    "every second": lambda x: spread_out(x, (SMALL,), (2,)),
    "every 33rd": lambda x: spread_out(x, (SMALL,), (33,)),
    "reversed": lambda x: spread_out(x, (SMALL,), (-1,)),
    "every second, reversed": lambda x: spread_out(x, (SMALL,), (-2,)),
    "reversed in three dimensions": lambda x: spread_out(x, (8, 10, 12), (-1, -2, -1)),
    "reversed in some dimensions": lambda x: spread_out(x, (8, 10, 12), (1, -1, -3)),
    "three dimensions, all permuted": lambda x: in_axes(x, (8, 10, 12), (1, 2, 0)),
    "three dimensions, a hole in each": lambda x: spread_out(x, (8, 10, 12), (2, 3, 2)),
    "rows of 3": lambda x: spread_out(x, (320, 3), (1, 2)),
    "rows of 1": lambda x: spread_out(x, (960, 1), (1, 5)),
    "columns of 2": lambda x: in_axes(x, (480, 2), (1, 0)),
    "64 dimensions": lambda x: x.reshape((2,) * 6 + (1,) * 57 + (15,)),
    "64 dimensions, permuted": lambda x: in_axes(
        x, (2, 1) * 6 + (1,) * 51 + (15,), (63, *range(5, 63), 4, 2, 0, 1, 3)
    ),
    "packed record": odd_bytes,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype),
}


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name, layout, isa):
    """Any strides and any number of dimensions; gradients go where their elements are."""
    x = LAYOUTS[layout](data(name, SMALL))
    gradients = ()
    if name in FLOATS:
        gradients = gradient_bits(LAYOUTS[layout](with_specials(name, SMALL)), isa=isa)
    assert digest(value_bits(x, isa=isa), gradients) == GOLDEN[name, SMALL]
    assert shared_bits(x, 3, isa) == shared_bits(data(name, SMALL), 1)


@every_float
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "read-only"])
def test_layouts_of_outputs(name, layout, isa):
    """Gradients into outputs of any layout, and into x itself, are those of the dense form."""
    x = with_specials(name, SMALL)
    wanted = gradient_bits(x)
    got = []
    for l1, l2, scale in SLOPES:
        for accumulate in (False, True):
            out = LAYOUTS[layout](np.ones(SMALL, x.dtype))
            hooks.gradient(
                x.reshape(out.shape),
                l1=l1,
                l2=l2,
                scale=scale,
                out=out,
                accumulate=accumulate,
                isa=isa,
            )
            got.append(flat_bits(out))
        own = LAYOUTS[layout](x)
        if not np.shares_memory(own, x):
            hooks.gradient(own, l1=l1, l2=l2, scale=scale, out=own, isa=isa)
            assert flat_bits(own) == got[-2]
    assert got == wanted


@every_dtype
def test_broadcast_arrays(name, isa):
    """Zero strides count an element as often as it appears."""
    x = data(name, 120)
    views = [
        np.broadcast_to(x, (8, 120)),
        np.broadcast_to(x[:, None], (120, 8)),
        np.broadcast_to(x.reshape(10, 1, 12), (10, 8, 12)),
        np.broadcast_to(x[::-1].reshape(1, 120, 1), (2, 120, 4)),
    ]
    tiled = np.tile(x, 8)
    for view in views:
        assert value_bits(view, isa=isa) == value_bits(tiled), view.strides
        assert shared_bits(view, 3, isa) == shared_bits(tiled, 1), view.strides


# -- Order and division -----------------------------------------------------------------------


@every_dtype
def test_orders(name, isa):
    """Shuffled, sorted either way, by value and by magnitude."""
    x = data(name, LARGE)
    wanted = value_bits(x)
    keys = x.astype(np.float64)
    orders = [np.argsort(raw(LARGE, seed), kind="stable") for seed in range(10, 14)]
    orders += [np.argsort(keys, kind="stable"), np.argsort(-np.abs(keys), kind="stable")]
    orders += [np.argsort(np.abs(keys), kind="stable"), np.arange(LARGE)[::-1]]
    for i, order in enumerate(orders):
        assert value_bits(x[order], isa=isa) == wanted, i
        assert shared_bits(x[order], 3, isa) == shared_bits(x, 1), i


@every_dtype
def test_lists(name, isa):
    """One array or many: any division, in any order, 0-d and empty arrays among them."""
    x = data(name, SMALL)
    wanted = value_bits(x)
    divisions = [
        [x[:0], x],
        [x[:1], x[1:]],
        np.array_split(x, 7),
        [x[:500].reshape(20, 25).T, x[500:][::-1], x[:0].reshape(0, 3)],
        [x[i::13] for i in range(13)],
        [x[i : i + 1].reshape(()) for i in range(SMALL)],
    ]
    for parts in divisions:
        order = np.argsort(raw(len(parts), 5))
        for form in (parts, parts[::-1], [parts[i] for i in order]):
            assert value_bits(list(form), isa=isa) == wanted, len(parts)
            assert shared_bits(list(form), 7, isa) == shared_bits(x, 1), len(parts)


def test_lists_of_all_types(isa):
    """A list of every element type, each with its own weights, in any order."""
    arrays = [data(name, 300) for name in DTYPES]
    l1 = [0.1 * (i % 3) for i in range(len(arrays))]
    l2 = [0.01 * (i % 5) for i in range(len(arrays))]
    found = set()
    for seed in range(8):
        order = np.argsort(raw(len(arrays), seed))
        for threads, tier in ((1, 0), (3, 0), (2, 2)):
            value, _ = hooks.measure(
                [arrays[i] for i in order],
                "value",
                "f64",
                l1=[l1[i] for i in order],
                l2=[l2[i] for i in order],
                isa=isa,
                threads=threads,
                first_tier=tier,
            )
            found.add(value)
    assert found == {float(hooks.list_value(arrays, l1=l1, l2=l2))}


# -- The public calls are the same kernels ------------------------------------------------------


@every_dtype
def test_public_functions_agree_with_the_hooks(name):
    """What a user calls gives the bits that the hooks give, for small and large arrays."""
    for n in (0, 1, 63, SMALL, LARGE):
        x = data(name, n)
        for result in FLOATS:
            calls = [
                (fastreg.value(x, l1=0.1, l2=1e-3, dtype=DTYPES[result]), "value", 0.1, 1e-3),
                (fastreg.sum_abs(x, dtype=DTYPES[result]), "value", 1.0, 0.0),
                (fastreg.sum_squares(x, dtype=DTYPES[result]), "value", 0.0, 1.0),
                (fastreg.l2_loss(x, dtype=DTYPES[result]), "value", 0.0, 0.5),
                (fastreg.norm(x, dtype=DTYPES[result]), "norm", 0.0, 1.0),
            ]
            for got, op, l1, l2 in calls:
                assert got.dtype == DTYPES[result]
                assert float(got) == hooks.measure(x, op, result, l1=l1, l2=l2)[0]


@every_float
def test_fused_calls_equal_their_parts(name, isa):
    """value_and_gradient is value and gradient, bit for bit."""
    for n in (0, 1, 63, SMALL, LARGE):
        x = data(name, n)
        for l1, l2, scale in SLOPES:
            value, gradient = hooks.value_and_gradient(x, l1=l1, l2=l2, scale=scale, isa=isa)
            assert float(value) == hooks.measure(x, "value", name, l1=l1, l2=l2)[0]
            wanted = hooks.gradient(x, l1=l1, l2=l2, scale=scale)
            assert flat_bits(gradient) == flat_bits(wanted)


def ragged(name, n):
    """Numbers of which each few thousand are unlike those before: zeros, small, large, special."""
    x = np.resize(with_specials(name, SMALL), n)
    x[: n // 3] = 0
    x[n // 3 : n // 2] = data(name, n)[n // 3 : n // 2]
    with np.errstate(over="ignore", invalid="ignore"):
        x[n // 2 : n - 9000] *= DTYPES[name].type(64)
    x[: n // 3 : 1000] = DTYPES[name].type(1e-3)
    return x


@every_float
@pytest.mark.parametrize("specials", [False, True])
def test_fused_calls_over_ragged_data(name, specials, isa):
    """Sums that must be taken again, or cannot be bounded, cost no gradient, and none twice."""
    n = 3 * LARGE
    x = ragged(name, n) if specials else np.abs(np.sort(data(name, n)))[::-1].copy()
    start = data(name, n)[::-1].copy()
    for l1, l2, scale in [*SLOPES, (0.0, 1e-3, 0.0)]:
        for accumulate in (False, True):
            out, wanted = start.copy(), start.copy()
            value, _ = hooks.value_and_gradient(
                x, l1=l1, l2=l2, scale=scale, out=out, accumulate=accumulate, isa=isa
            )
            hooks.gradient(x, l1=l1, l2=l2, scale=scale, out=wanted, accumulate=accumulate)
            assert flat_bits(out) == flat_bits(wanted)
            expected = hooks.measure(x, "value", name, l1=l1, l2=l2)[0]
            assert struct.pack("d", float(value)) == struct.pack("d", expected)


@every_float
def test_streamed_gradient_with_its_value(name, isa):
    """The fused loops write past the cache, too, wherever the output begins in a line."""
    n = (68 << 20) // DTYPES[name].itemsize
    x = np.resize(data(name, LARGE), n)
    l1, l2, scale = SLOPES[2]
    wanted = np.resize(hooks.gradient(data(name, LARGE), l1=l1, l2=l2, scale=scale), n)
    expected = hooks.measure(x, "value", name, l1=l1, l2=l2)[0]
    buffer = np.empty(n * x.itemsize + 64, np.uint8)
    for offset in (0, 16, x.itemsize, 63):
        out = buffer[offset : offset + x.nbytes].view(x.dtype)
        out.fill(0)
        value, _ = hooks.value_and_gradient(x, l1=l1, l2=l2, scale=scale, out=out, isa=isa)
        assert float(value) == expected, offset
        unsigned = oracle.UNSIGNED[name]
        assert np.array_equal(out.view(unsigned), wanted.view(unsigned)), offset


def random_weight(rng):
    kind = rng.integers(6)
    if kind == 0:
        return 0.0
    if kind == 1:
        return float(2.0 ** rng.integers(-40, 20))
    if kind == 2:
        return float(np.float32(rng.random() * 10.0 ** rng.integers(-8, 4)))
    if kind == 3:
        return float(rng.random() * 2.0 ** rng.integers(-140, 140))
    return float(rng.random() * 10.0 ** rng.integers(-8, 4))


def near_tie_weight(rng, precision):
    """An l2 for which 2 l2 x is nearly a tie, for the elements x of one significand."""
    x = int(rng.integers(2 ** (precision - 1), 2**precision))
    tie = 2 * int(rng.integers(2 ** (precision - 1), 2**precision)) + 1
    off = float(rng.choice([-1.0, 0.0, 1.0])) * 2.0 ** float(rng.integers(-50, -22))
    return tie / x * (1.0 + off) * 2.0**-4


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_half_gradients_of_any_weights(name, isa, soak):
    """f32 lanes, where a level has them, leave to f64 lanes whatever they cannot be sure of.

    A rounding of f32 decides where an element's gradient lies beside a tie: made so for one
    significand in every second trial, since bfloat16 has but 128 of them. The baseline level has
    f64 lanes alone; test_gradient_exact.py judges those.
    """
    rng = np.random.default_rng(20)
    everything = np.arange(65536, dtype=np.uint16)
    for i in range(3000 if soak else 120):
        x = rng.permutation(everything).view(DTYPES[name])
        start = rng.permutation(everything).view(DTYPES[name])
        l1, l2 = random_weight(rng), random_weight(rng) or 0.01
        scale = (1.0, -1.0, float(rng.standard_normal()))[rng.integers(3)]
        if i % 4 < 2:
            l1, l2, scale = 0.0, near_tie_weight(rng, oracle.FORMATS[name].precision), 1.0
        outs = [start.copy(), start.copy()]
        for out, level in zip(outs, ("baseline", isa), strict=True):
            hooks.gradient(x, l1=l1, l2=l2, scale=scale, out=out, accumulate=i % 2 == 0, isa=level)
        assert flat_bits(outs[0]) == flat_bits(outs[1]), (l1, l2, scale)


if __name__ == "__main__":
    for dtype_name in DTYPES:
        for size, text in ((SMALL, "SMALL"), (LARGE, "LARGE")):
            print(f'    ("{dtype_name}", {text}): "{digest_of(dtype_name, size)}",')
