# SPDX-License-Identifier: BSD-3-Clause
"""C7: which objects are arrays, which are refused and how, and where gradients may go."""

from __future__ import annotations

import array
import gc
import mmap
import warnings
import weakref
from fractions import Fraction

import hooks
import ml_dtypes
import numpy as np
import pytest

import fastreg
from fastreg._core import arrays
from fastreg.errors import ArgumentError, DTypeError, FastregError, LayoutError

DATA = [0.5, -3.0, 2.0, 0.25]
X = np.array(DATA, np.float32)
SUM = np.float32(5.75)


class Interface:
    """An object with nothing but `__array_interface__`."""

    def __init__(self, x):
        self.kept = x
        self.__array_interface__ = x.__array_interface__


class DLPack:
    """An object with nothing but DLPack's two methods."""

    def __init__(self, x, device=(1, 0)):
        self.x, self.device = x, device

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


class OldDLPack(DLPack):
    """As before DLPack 1.0: no keyword but stream."""

    def __dlpack__(self, *, stream=None):
        return self.x.__dlpack__(stream=stream)


@pytest.mark.parametrize(
    ("x", "advice"),
    [
        (np.array([1.0, 2], object), "x.astype('float64')"),
        (np.array(3, object), "x.astype('float64')"),
        (np.array([[3.0], [2.0, 1.0]], object), "[numpy.asarray(row) for row in x.flat]"),
        (np.array([np.ones(3), np.ones((2, 2))], object), "[numpy.asarray(row) for row in x.flat]"),
        (np.array(["a", None], object), None),
        (np.array([1.0, None], object), None),
    ],
    ids=["numbers", "0-d", "lists", "arrays", "text", "mixed"],
)
def test_advice_for_objects(x, advice):
    """What is said of an array of objects is true of these objects."""
    with pytest.raises(DTypeError, match="received object") as e:
        fastreg.value(x, l2=1.0)
    action = str(e.value).rpartition("; ")[2]
    if advice is None:
        assert action == "leave it out: it holds no numbers"
    else:
        assert action.startswith(f"pass {advice}")
        given = eval(advice, {"numpy": np, "x": x})
        flat = [float(v) for part in x.flat for v in np.ravel(part)]
        assert fastreg.penalty(given, l2=1.0, select="all") == sum(v * v for v in flat)


def from_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(X.tobytes())
    return np.memmap(path, np.float32, mode="r")


def from_mmap(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\1\2\3\0")
    with open(path, "rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)


def read_only():
    x = X.copy()
    x.flags.writeable = False
    return x


def matrix():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.matrix(X)


# Objects and the sum of their magnitudes.
ACCEPTED = {
    "ndarray": (lambda _: X, SUM),
    "read-only ndarray": (lambda _: read_only(), SUM),
    "memmap": (from_file, SUM),
    "mmap": (from_mmap, np.float64(6)),
    "matrix": (lambda _: matrix(), SUM),
    "memoryview": (lambda _: memoryview(X), SUM),
    "strided memoryview": (lambda _: memoryview(X)[::-2], np.float32(3.25)),
    "array.array of floats": (lambda _: array.array("f", DATA), SUM),
    "array.array of doubles": (lambda _: array.array("d", DATA), np.float64(5.75)),
    "array.array of ints": (lambda _: array.array("q", [-5, 2]), np.float64(7)),
    "bytes": (lambda _: b"\1\2\xff", np.float64(258)),
    "bytearray": (lambda _: bytearray(b"\1\2\xff"), np.float64(258)),
    "empty bytes": (lambda _: b"", np.float64(0)),
    "interface": (lambda _: Interface(X), SUM),
    "interface of a view": (lambda _: Interface(X[::-2]), np.float32(3.25)),
    "dlpack": (lambda _: DLPack(X), SUM),
    "dlpack of a view": (lambda _: DLPack(X[::-2]), np.float32(3.25)),
    "dlpack of before 1.0": (lambda _: OldDLPack(X), SUM),
    "dlpack of ints": (lambda _: DLPack(np.array([-5, 2], np.int16)), np.float64(7)),
    "dlpack of bools": (lambda _: DLPack(np.array([True, False, True])), np.float64(2)),
    "scalar": (lambda _: np.float32(-2.5), np.float32(2.5)),
    "0-d": (lambda _: np.array(-2.5, np.float16), np.float16(2.5)),
    "bfloat16": (lambda _: X.astype(ml_dtypes.bfloat16), ml_dtypes.bfloat16(5.75)),
    "bfloat16 scalar": (lambda _: ml_dtypes.bfloat16(-2.5), ml_dtypes.bfloat16(2.5)),
    "bfloat16 by its bits": (
        lambda _: arrays.bf16_view(X.astype(ml_dtypes.bfloat16).view(np.uint16)),
        ml_dtypes.bfloat16(5.75),
    ),
    "explicitly native order": (lambda _: X.astype(X.dtype.newbyteorder("=")), SUM),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_is_an_array(kind, tmp_path):
    """Everything that gives access to its memory is read in place, and is not written."""
    make, total = ACCEPTED[kind]
    x = make(tmp_path)
    got = fastreg.sum_abs(x)
    assert (got, got.dtype) == (total, np.dtype(type(total)))
    assert hooks.list_value([x, x], l1=1.0) == 2 * np.float64(total)
    if total.dtype.kind == "f" and total.dtype != np.float64 and kind != "mmap":
        gradient = fastreg.gradient(x, l1=1.0)
        assert type(gradient) is np.ndarray
        assert gradient.dtype == total.dtype
        assert set(np.abs(gradient.astype(float)).ravel()) == {1.0}


def test_nothing_is_copied():
    """A host array shares the caller's memory whatever object it came from."""
    for x in (X, X[::-2], memoryview(X), Interface(X), DLPack(X), X.view(np.recarray)):
        assert np.shares_memory(arrays.host_array(x).data, X)


def test_exporters_are_released():
    """Buffers and capsules live as long as the call, and no longer."""
    held = bytearray(16)
    fastreg.sum_abs(held)
    held.extend(b"more")  # BufferError if a view were left
    x = X.copy()
    alive = weakref.ref(x)
    for wrapped in (DLPack(x), Interface(x)):
        fastreg.sum_abs(wrapped)
        fastreg.gradient(wrapped, l1=1.0)
        hooks.list_value([wrapped] * 3, l1=1.0)
        fastreg.value_and_gradient(wrapped, l2=1.0)
    del x, wrapped
    gc.collect()
    assert alive() is None


def test_temporary_exporters_live_through_the_call():
    """A list of views whose owners nobody else holds."""
    made = (DLPack(np.full(50_000, k, np.float32)) for k in range(20))
    assert hooks.list_value(made, l1=1.0) == 50_000 * 190


STRUCTURED = np.dtype([("a", "f4"), ("b", "f4")])
REFUSED = {
    "big-endian" if X.dtype.newbyteorder(">").str[0] == ">" else "little-endian": (
        X.astype(X.dtype.newbyteorder("S")),
        "byte order",
    ),
    "swapped ints": (np.arange(3, dtype=np.dtype(np.int32).newbyteorder("S")), "byte order"),
    "complex64": (X.astype(np.complex64), "complex64"),
    "complex128": (X.astype(np.complex128), "complex128"),
    "longdouble": (X.astype(np.longdouble), np.dtype(np.longdouble).name),
    "object": (X.astype(object), "object"),
    "str": (np.array(["a", "b"]), "str"),
    "bytes strings": (np.array([b"a", b"b"]), "bytes"),
    "structured": (np.zeros(3, STRUCTURED), "void"),
    "record": (np.zeros(3, STRUCTURED).view(np.recarray), "record"),
    "void": (np.zeros(3, "V2"), "void"),
    "datetime64": (np.zeros(3, "M8[s]"), "datetime64"),
    "timedelta64": (np.zeros(3, "m8[s]"), "timedelta64"),
    "float8": (X.astype(ml_dtypes.float8_e4m3fn), "float8"),
    "int4": (np.zeros(3, ml_dtypes.int4), "int4"),
    "masked": (np.ma.masked_array(X, [0, 1, 0, 0]), "mask"),
    "list": ([1.0, 2.0], "list"),
    "tuple": ((1.0,), "tuple"),
    "float": (1.0, "float"),
    "int": (3, "int"),
    "None": (None, "NoneType"),
    "text": ("1.0", "str"),
    "dlpack of complex": (DLPack(X.astype(np.complex64)), "complex64"),
    "interface of complex": (Interface(X.astype(np.complex64)), "complex64"),
    "buffer of complex": (memoryview(X.astype(np.complex64)), "complex64"),
    "buffer of records": (memoryview(np.zeros(3, STRUCTURED)), "void"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind):
    """Other objects and elements are a TypeError that names them, from every entry point."""
    x, named = REFUSED[kind]
    calls = [
        lambda: fastreg.value(x, l1=1.0),
        lambda: fastreg.norm(x),
        lambda: fastreg.gradient(x, l1=1.0),
        lambda: fastreg.value_and_gradient(x, l1=1.0),
        lambda: hooks.list_value([X, x], l1=1.0),
        lambda: fastreg.gradient(X, l1=1.0, out=x) if x is not None else fastreg.norm(x),
    ]
    for call in calls:
        with pytest.raises(DTypeError, match=r"^expected .*; received .*; ") as caught:
            call()
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, FastregError)
        # Of a list it is the first item that is no array.
        assert named in str(caught.value) or (
            kind in ("list", "tuple") and "float" in str(caught.value)
        )


@pytest.mark.parametrize("device", [(2, 0), (2, 3), (10, 0), (8, 0), (13, 1)])
def test_memory_on_a_device_is_refused(device):
    """CUDA and other devices: the error says where the array is and how to move it."""
    with pytest.raises(DTypeError) as caught:
        fastreg.value(DLPack(X, device), l1=1.0)
    assert str(device) in str(caught.value)
    assert "x.cpu()" in str(caught.value)


def test_exporters_that_fail():
    """What an exporter raises, or a protocol that is half there, is an error and nothing worse."""

    class NoDevice:
        def __dlpack__(self, **options):
            return X.__dlpack__(**options)

    class Broken(DLPack):
        def __dlpack__(self, **options):
            raise BufferError("not today")

    class Odd(DLPack):
        def __dlpack__(self, **options):
            return 5

    class BadInterface:
        __array_interface__ = 7

    for x in (NoDevice(), Broken(X), Odd(X), DLPack(X, None), DLPack(X, ("a", 1))):
        with pytest.raises(DTypeError, match="expected"):
            fastreg.value(x, l1=1.0)
    with pytest.raises((DTypeError, ValueError, TypeError)):
        fastreg.value(BadInterface(), l1=1.0)


@pytest.mark.parametrize("name", ["torch", "jax.numpy"])
def test_frameworks(name):
    """Tensors of a framework that is installed, on the host, are read in place."""
    framework = pytest.importorskip(name, reason=f"{name} is not installed")
    make = framework.tensor if name == "torch" else framework.asarray
    x = make(DATA, dtype=framework.float32)
    assert fastreg.sum_abs(x) == SUM
    narrow = make(DATA, dtype=framework.bfloat16)
    assert fastreg.sum_abs(narrow, dtype="float32") == SUM


# -- Results ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, "float32", "f32", np.dtype("f4"), "<f4"])
def test_names_of_result_types(dtype):
    """A result type by class, dtype or name."""
    if dtype == "<f4":
        dtype = np.dtype(dtype)
    assert fastreg.sum_abs(X.astype(np.float64), dtype=dtype).dtype == np.float32


@pytest.mark.parametrize(
    "dtype", ["int32", np.int64, bool, "complex64", "typo", object, 3, "M8[s]"]
)
def test_result_types_that_do_not_exist(dtype):
    """A result that is no float type is a TypeError."""
    with pytest.raises(DTypeError, match="result dtype among float16, bfloat16, float32, float64"):
        fastreg.value(X, l1=1.0, dtype=dtype)


# -- Weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1.0, -5e-324, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["l1", "l2"])
def test_bad_weights(which, bad):
    """A weight that is negative or not finite is refused and named; nothing is written."""
    out = X.copy()
    calls = [
        lambda: fastreg.value(X, **{which: bad}),
        lambda: fastreg.value(X[:0], **{which: bad}),
        lambda: fastreg.gradient(X, out=out, **{which: bad}),
        lambda: fastreg.value_and_gradient(X, out=out, **{which: bad}),
        lambda: hooks.list_value([X, X], **{which: bad}),
        lambda: hooks.list_value([X, X], **{which: [0.1, bad]}),
    ]
    for call in calls:
        with pytest.raises(ArgumentError, match=rf"weight {which}.*received {bad!r}") as caught:
            call()
        assert isinstance(caught.value, ValueError)
    assert np.array_equal(out, X)


@pytest.mark.parametrize("bad", ["0.1", [0.1], 1j, b"1", True, np.bool_(True), np.complex128(1.0)])
def test_weights_that_are_no_numbers(bad):
    """Text, truth values and other objects are no weights."""
    for which in ("l1", "l2"):
        with pytest.raises(TypeError):
            fastreg.value(X, **{which: bad})
        with pytest.raises(TypeError):
            fastreg.penalty([X], **{which: [bad]})


def test_no_weight_at_all():
    """A penalty of nothing is a slip; a weight of 0 is not."""
    calls = (
        fastreg.value, fastreg.gradient, fastreg.value_and_gradient, fastreg.penalty,
        lambda x: fastreg.value_and_gradient([x]), lambda x: fastreg.plan(x).value(),
        lambda x: fastreg.prox_(x, 0.1),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ArgumentError, match="expected a weight, l1= or l2=; received neither"):
            call(X.copy())
    assert fastreg.value(X, l2=0.0) == fastreg.penalty([X], l1=0.0) == 0.0


@pytest.mark.parametrize(
    "weight", [np.float32(0.5), np.float64(0.5), 1, np.array(0.5), np.int64(1), Fraction(1, 2)]
)
def test_weights_of_any_number_type(weight):
    """Numbers of Python and NumPy are weights of one array and of lists."""
    assert fastreg.value(X, l1=weight, dtype="f64") == float(weight) * 5.75
    assert hooks.list_value([X], l1=weight) == float(weight) * 5.75
    assert hooks.list_value([X], l1=[weight]) == float(weight) * 5.75


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_any_scale(scale):
    """A scale that is not finite gives what IEEE 754 gives for the formula."""
    with np.errstate(invalid="ignore"):
        wanted = 2.0 * 0.5 * scale * X + 1.0 * scale * np.sign(X)
    out = X.copy()
    fastreg.gradient(X, l1=1.0, l2=0.5, scale=scale, out=out)
    assert np.array_equal(out, wanted, equal_nan=True)
    fastreg.value_and_gradient(X, l1=1.0, l2=0.5, scale=scale, out=out)
    assert np.array_equal(out, wanted, equal_nan=True)


def test_lists_of_the_wrong_length():
    """As many weights as arrays."""
    with pytest.raises(ArgumentError, match="2 numbers l1, one for each array; received 1"):
        hooks.list_value([X, X], l1=[1.0])
    assert hooks.list_value([], l1=[]) == 0.0


# -- Outputs ----------------------------------------------------------------------------------


def ramp(n: int) -> np.ndarray:
    return np.arange(1, n + 1, dtype=np.float32)


def test_outputs_are_returned():
    """`out` itself is what comes back, and holds the gradient."""
    x = ramp(40)
    for out in (
        np.zeros(40, np.float32),
        np.zeros(80, np.float32)[::2],
        np.zeros(40, np.float32)[::-1],
    ):
        assert fastreg.gradient(x, l2=0.5, out=out) is out
        assert np.array_equal(out, x)
        assert fastreg.value_and_gradient(x, l2=0.5, out=out, accumulate=True)[1] is out
        assert np.array_equal(out, 2 * x)


def test_an_output_that_is_x():
    """The gradient may overwrite its own array, of any layout, value included."""
    for view in (lambda a: a, lambda a: a[::2], lambda a: a[::-3], lambda a: a.reshape(8, 5).T):
        x = view(ramp(40))
        value, gradient = fastreg.value_and_gradient(x, l2=1.0, out=x, dtype="f64")
        assert gradient is x
        assert np.array_equal(x, 2 * view(ramp(40)))
        assert value == float(np.sum(view(ramp(40)).astype(float) ** 2))


def bad_outputs():
    x = ramp(40)
    frozen = np.zeros(40, np.float32)
    frozen.flags.writeable = False
    zero = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (40,), (0,))
    crossing = np.lib.stride_tricks.as_strided(np.zeros(50, np.float32), (8, 5), (8, 4))
    return {
        "read-only": (x, frozen, LayoutError, "a read-only array"),
        "other dtype": (x, np.zeros(40), LayoutError, "float64"),
        "bfloat16 for uint16": (x, np.zeros(40, np.uint16), LayoutError, "uint16"),
        "other shape": (x, np.zeros(41, np.float32), LayoutError, r"\(41,\)"),
        "other number of dimensions": (x, np.zeros((40, 1), np.float32), LayoutError, r"\(40, 1\)"),
        "shifted": (x[1:], x[:-1], LayoutError, "partial overlap"),
        "reversed onto itself": (x, x[::-1], LayoutError, "partial overlap"),
        "half its elements": (x[:20], x[::2], LayoutError, "partial overlap"),
        "transposed onto itself": (
            ramp(36).reshape(6, 6),
            None,
            LayoutError,
            "partial overlap",
        ),
        "one element for all": (x, zero, LayoutError, "distinct"),
        "rows that cross": (x.reshape(8, 5), crossing, LayoutError, "distinct"),
        "a list": (x, [0.0] * 40, DTypeError, "list"),
        "swapped": (x, np.zeros(40, np.dtype("f4").newbyteorder("S")), DTypeError, "byte order"),
    }


@pytest.mark.parametrize("kind", bad_outputs())
def test_bad_outputs(kind):
    """Outputs that cannot hold the gradient are refused before anything is written."""
    x, out, error, named = bad_outputs()[kind]
    if out is None:
        out = x.T
    before = (x.tobytes(), np.asarray(out).tobytes())
    for call in (fastreg.gradient, fastreg.value_and_gradient):
        for accumulate in (False, True):
            with pytest.raises(error, match=named):
                call(x, l1=1.0, out=out, accumulate=accumulate)
    assert (x.tobytes(), np.asarray(out).tobytes()) == before


def test_outputs_that_interleave():
    """Sharing an allocation is no overlap: the gradient of one column into the next."""
    both = np.stack([ramp(40), np.zeros(40, np.float32)], axis=1)
    fastreg.gradient(both[:, 0], l2=0.5, out=both[:, 1])
    assert np.array_equal(both[:, 1], ramp(40))


def test_empty_outputs():
    """Arrays without elements, of any shape, have gradients without elements."""
    for shape in ((0,), (3, 0), (0, 2**40)):
        x = np.zeros(shape, np.float32)
        assert fastreg.value(x, l1=1.0) == 0.0
        assert fastreg.gradient(x, l1=1.0).shape == shape
        out = np.zeros(shape, np.float32)
        assert fastreg.gradient(x, l1=1.0, out=out, accumulate=True) is out
        assert fastreg.gradient(x, l1=1.0, out=x) is x


def test_accumulating_needs_an_output():
    """There is nothing to add to without `out`."""
    for call in (fastreg.gradient, fastreg.value_and_gradient):
        with pytest.raises(ArgumentError, match="an array out= to accumulate into"):
            call(X, l1=1.0, accumulate=True)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64])
def test_integers_have_no_gradient(dtype):
    """Values of integers are exact floats; gradients are refused."""
    x = np.ones(5, dtype)
    assert fastreg.value(x, l1=1.0).dtype == np.float64
    for call in (fastreg.gradient, fastreg.value_and_gradient):
        with pytest.raises(DTypeError, match="convert it, for example"):
            call(x, l1=1.0)


@pytest.mark.parametrize("x", [X, X[:2], np.array(2.0)])
def test_fresh_gradients_own_their_memory(x):
    """A gradient without `out` is a new ndarray of x's shape and type."""
    gradient = fastreg.gradient(x, l1=1.0)
    assert type(gradient) is np.ndarray
    assert (gradient.shape, gradient.dtype) == (x.shape, x.dtype)
    assert not np.shares_memory(gradient, x)
