# SPDX-License-Identifier: BSD-3-Clause
"""fastreg.regularizers against the numbered behaviours of Keras that need no framework.

`tests/checklist.md` maps the numbers to the tests.
"""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import subprocess
import sys
import threading
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec

import ml_dtypes
import numpy as np
import pytest

import fastreg
from fastreg import errors
from fastreg import regularizers as R

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
MATRIX = [[1.0, -2.0, 3.0], [0.0, -0.5, 4.0]]
ALL = [R.L1, R.L2, R.L1L2, R.OrthogonalRegularizer]


# -- Names and factors ----------------------------------------------------------------------------


def test_aliases_are_the_classes():
    assert R.l1 is R.L1
    assert R.l2 is R.L2
    assert R.l1_l2 is R.L1L2
    assert R.orthogonal_regularizer is R.OrthogonalRegularizer
    assert [c.__name__ for c in ALL] == ["L1", "L2", "L1L2", "OrthogonalRegularizer"]
    assert not hasattr(R, "l1l2")


def test_default_factors():
    assert R.L1().get_config() == {"l1": 0.01}
    assert R.L2().get_config() == {"l2": 0.01}
    assert R.L1L2().get_config() == {"l1": 0.0, "l2": 0.0}
    assert R.OrthogonalRegularizer().get_config() == {"factor": 0.01, "mode": "rows"}


def test_none_means_the_default():
    assert R.L1(None).l1 == R.L2(None).l2 == 0.01
    assert R.L1L2(None, None).get_config() == {"l1": 0.0, "l2": 0.0}
    with pytest.raises(ValueError, match="factor"):
        R.OrthogonalRegularizer(None)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("value", [0, 1, True, False, 0.5, np.float64(0.1)])
def test_numbers_are_stored_as_float(kind, value):
    config = kind(value).get_config()
    first = next(iter(config.values()))
    assert type(first) is float
    assert first == value


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "value",
    [np.float32(0.1), np.float16(0.1), np.int64(1), np.bool_(1), np.array(0.1), np.array([0.1]),
     "0.1", [0.1], 1 + 0j, Fraction(1, 2), Decimal("0.1"), object()],
    ids=["float32", "float16", "int64", "bool", "0-d", "1-d", "text", "list", "complex", "Fraction",
         "Decimal", "object"],
)  # fmt: skip
def test_other_types_are_refused(kind, value):
    with pytest.raises(ValueError, match="non-negative float"):
        kind(value)


NAMES = list(zip(ALL, ["l1", "l2", "l1", "factor"], strict=True))


@pytest.mark.parametrize(("kind", "name"), NAMES)
@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, -math.inf])
def test_numbers_out_of_range_are_refused_by_name(kind, name, value):
    text = rf"argument {name}: expected a non-negative float"
    with pytest.raises(ValueError, match=text) as e:
        kind(value)
    assert isinstance(e.value, errors.ArgumentError)
    assert f"Received: {name}={value!r}" in str(e.value)


def test_minus_zero_and_huge_integers():
    assert math.copysign(1.0, R.L2(-0.0).l2) == -1.0
    assert R.L2(-0.0)(np.array([np.inf])) == 0.0
    assert R.L2(1e39).get_config() == {"l2": 1e39}
    assert R.L1(1e-50).get_config() == {"l1": 1e-50}
    for kind in ALL:
        with pytest.raises(OverflowError):
            kind(10**400)


@pytest.mark.parametrize("kind", ALL)
def test_unknown_arguments_are_type_errors(kind):
    with pytest.raises(TypeError):
        kind(l=0.1)
    with pytest.raises(TypeError):
        kind(*[0.1, 0.1, 0.1] if kind is R.L1L2 else [0.1, "rows", 0.1])


def test_orthogonal_modes():
    assert R.OrthogonalRegularizer(mode="columns").mode == "columns"
    with pytest.raises(ValueError, match=r'one of {"rows", "columns"}. Received: mode=.x.;'):
        R.OrthogonalRegularizer(mode="x")


@pytest.mark.parametrize("kind", ALL)
def test_configurations_round_trip_exactly(kind):
    config = kind(0.1).get_config()
    assert next(iter(config.values())) == 0.1
    again = kind.from_config(config)
    assert type(again) is kind
    assert again.get_config() == config
    assert all(type(v) in (float, str) for v in config.values())
    assert json.loads(json.dumps(config)) == config
    with pytest.raises(TypeError):
        kind.from_config({"nonsense": 1.0})


@pytest.mark.parametrize("kind", ALL)
def test_objects_are_equal_if_their_configurations_are(kind):
    one = kind(0.25, dtype="float32")
    assert one != kind(0.5, dtype="float32")
    assert one != kind(0.25)
    assert len({one, kind(0.25), kind(0.25, dtype="float32")}) == 2
    same = (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)),
            kind.from_config(one.get_config()), R.deserialize(R.serialize(one)))  # fmt: skip
    for again in same:
        assert type(again) is kind
        assert again == one
        assert hash(again) == hash(one)
    setattr(same[0], next(iter(one.get_config())), 0.5)
    assert same[0] != one
    assert one != object()
    assert len({k(0.25) for k in ALL}) == len(ALL)


def test_a_subclass_with_more_arguments_is_told_apart_by_them():
    class Scaled(R.L2):
        def __init__(self, l2=0.01, scale=1.0):
            super().__init__(l2)
            self.scale = scale

        def get_config(self):
            return {**super().get_config(), "scale": self.scale}

    assert Scaled(0.1, 2.0) == Scaled(0.1, 2.0)
    assert Scaled(0.1, 2.0) != Scaled(0.1, 3.0)
    assert Scaled(0.1) != R.L2(0.1)


def test_attributes_are_read_at_every_call():
    x = np.ones(3)
    r = R.L1L2(1.0, 0.0)
    r.l2 = 7
    assert r(x) == 24.0
    assert r.get_config() == {"l1": 1.0, "l2": 7.0}
    o = R.OrthogonalRegularizer(1.0)
    before = o(np.array(MATRIX))
    o.factor = 2.0
    assert o(np.array(MATRIX)) == 2 * before
    o.mode = "columns"
    assert o(np.array(MATRIX)) == R.OrthogonalRegularizer(2.0, "columns")(np.array(MATRIX))
    r.dtype = np.float32
    assert r.dtype == "float32"
    r.l2 = np.float32(0.5)
    assert type(r.l2) is float


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("l1", -1.0, ValueError), ("l2", math.nan, ValueError), ("l2", "0.1", TypeError),
        ("l1", True, TypeError), ("l2", None, TypeError), ("dtype", "int8", ValueError),
        ("factor", math.inf, ValueError), ("mode", "x", ValueError), ("mode", ["rows"], ValueError),
    ],
)  # fmt: skip
def test_attributes_are_checked_when_they_are_assigned(name, value, error):
    r = R.OrthogonalRegularizer() if name in ("factor", "mode") else R.L1L2(0.1, 0.2)
    before = r.get_config()
    with pytest.raises(error, match=name):
        setattr(r, name, value)
    assert r.get_config() == before


def test_factors_are_plain_floats():
    for kind in ALL:
        for value in vars(kind(0.1)).values():
            assert value is None or type(value) in (float, str)


def test_repr_can_be_evaluated():
    for one in (R.L1(0.1), R.L2(3), R.L1L2(0.1, 0.2, dtype="float32"),
                R.OrthogonalRegularizer(0.5, "columns")):  # fmt: skip
        again = eval(repr(one), vars(R))
        assert again.get_config() == one.get_config()


def test_the_base_class():
    base = R.Regularizer()
    assert base(None) == 0.0
    assert type(base(np.ones(2))) is float
    with pytest.raises(NotImplementedError, match="get_config"):
        base.get_config()
    assert type(R.Regularizer.from_config({})) is R.Regularizer


# -- get, serialize, deserialize ------------------------------------------------------------------


def test_get_returns_what_can_be_called():
    one = R.L2(0.3)
    assert R.get(None) is None
    assert R.get(one) is one
    assert R.get(len) is len
    assert type(R.get(R.L2)) is R.L2
    assert R.get(int) == 0  # any class is called, as in Keras


@pytest.mark.parametrize(
    ("name", "kind"),
    [("l1", R.L1), ("L1", R.L1), ("l2", R.L2), ("L2", R.L2), ("l1l2", R.L1L2), ("L1L2", R.L1L2),
     ("orthogonal_regularizer", R.OrthogonalRegularizer), ("regularizer", R.Regularizer),
     ("OrthogonalRegularizer", R.OrthogonalRegularizer), ("Regularizer", R.Regularizer)],
)  # fmt: skip
def test_get_knows_both_spellings(name, kind):
    one = R.get(name)
    assert type(one) is kind
    if kind is not R.Regularizer:
        assert one.get_config() == kind().get_config()


def test_l1_l2_is_refused_as_in_keras_3():
    with pytest.raises(ValueError, match=r"L1L2\(l1=0.01, l2=0.01\)"):
        R.get("l1_l2")


@pytest.mark.parametrize(
    "identifier", ["typo", "", "L1_L2", 3, 0.1, [1], (1,), b"l2", np.ones(2)], ids=repr
)
def test_get_refuses_everything_else(identifier):
    with pytest.raises(ValueError, match="Could not interpret regularizer identifier"):
        R.get(identifier)


def test_dictionaries():
    for name in ("L2", "l2", "fastreg>L2", "fastreg.regularizers>L2"):
        assert R.get({"class_name": name, "config": {"l2": 0.3}}).l2 == 0.3
    assert R.get({"class_name": "L2"}).l2 == 0.01
    assert R.get({"class_name": "L2", "config": None}).l2 == 0.01
    keras_wrote = {"module": "keras.regularizers", "class_name": "L1L2",
                   "config": {"l1": 0.1, "l2": 0.2}, "registered_name": None}  # fmt: skip
    assert R.deserialize(keras_wrote).get_config() == {"l1": 0.1, "l2": 0.2}
    with pytest.raises(ValueError, match="Unknown config as a dict"):
        R.get({})
    with pytest.raises(ValueError, match="Could not interpret"):
        R.get({"class_name": "typo", "config": {}})
    with pytest.raises(TypeError):
        R.get({"class_name": "L2", "config": {"nonsense": 1}})
    with pytest.raises(ValueError, match="l2"):
        R.get({"class_name": "L2", "config": {"l2": -1}})


def test_serialize_as_keras_does_for_a_registered_class():
    assert R.serialize(None) is None
    assert R.deserialize(None) is None
    assert R.serialize(R.L2(0.3)) == {
        "module": "fastreg.regularizers",
        "class_name": "L2",
        "config": {"l2": 0.3},
        "registered_name": "fastreg.regularizers>L2",
    }
    for one in (R.L1(0.1), R.L1L2(0.1, 0.2, dtype="float32"), R.OrthogonalRegularizer(2)):
        again = R.get(json.loads(json.dumps(R.serialize(one))))
        assert type(again) is type(one)
        assert again.get_config() == one.get_config()
    with pytest.raises(TypeError, match="get_config"):
        R.serialize(object())


def test_custom_objects_come_first(monkeypatch):
    class Mine(R.L2):
        pass

    assert type(R.deserialize({"class_name": "L2"}, custom_objects={"L2": Mine})) is Mine
    assert type(R.deserialize("Mine", custom_objects={"Mine": Mine})) is Mine
    foreign = {"class_name": "L2", "config": {}, "registered_name": "other>L2"}
    # Keras, where it is imported, has the last word on other packages' names.
    monkeypatch.setattr(R, "_others", [])
    with pytest.raises(ValueError, match="Could not interpret"):
        R.deserialize(foreign)


# -- Values ---------------------------------------------------------------------------------------


def truth(x, l1, l2):
    """The exact penalty as a Fraction."""
    terms = [Fraction(float(v)) for v in np.asarray(x).ravel()]
    return Fraction(l1) * sum(map(abs, terms)) + Fraction(l2) * sum(t * t for t in terms)


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_and_their_type(dtype):
    x = np.random.default_rng(1).standard_normal((7, 9)).astype(dtype)
    for one, l1, l2 in ((R.L1(0.3), 0.3, 0.0), (R.L2(0.7), 0.0, 0.7), (R.L1L2(0.3, 0.7), 0.3, 0.7)):
        result = one(x)
        assert type(result) is dtype
        assert np.ndim(result) == 0
        wide = fastreg.value(x, l1=l1, l2=l2, dtype=np.float64)
        assert wide == float(truth(x, l1, l2))
        assert result == fastreg.value(x, l1=l1, l2=l2)
        assert one.value(x) == result
        both = one.value_and_gradient(x)
        assert both[0] == result
        assert both[1].dtype == dtype
        expected = fastreg.gradient(x, l1=l1, l2=l2)
        assert both[1].tobytes() == one.gradient(x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
def test_empty_scalar_and_specials(dtype):
    one = R.L1L2(0.5, 0.25)
    assert one(np.zeros((0, 3), dtype)) == 0
    assert one(np.array(-2, dtype)) == 2
    assert math.isnan(one(np.array([1, np.nan, np.inf], dtype)))
    assert one(np.array([1, -np.inf], dtype)) == np.inf


def test_zero_factors_remove_the_term():
    x = np.array([np.nan, np.inf], np.float32)
    for one in (R.L1L2(), R.L1(0.0), R.L2(0.0)):  # Keras: NaN for the last two
        result = one(x)
        assert type(result) is np.float32
        assert result == 0
    assert R.L1L2().gradient(x).tolist() == [0.0, 0.0]


def test_layouts_do_not_matter():
    x = np.random.default_rng(2).standard_normal((8, 6)).astype(np.float32)
    one = R.L1L2(0.1, 0.2)
    for view in (x.T, x[::-1], x[:, ::2], np.asfortranarray(x), x[::-2, ::-1]):
        assert one(view) == one(np.ascontiguousarray(view))
    stretched = np.broadcast_to(np.float32(1.5), (3, 4))
    assert one(stretched) == one(stretched.copy())
    with pytest.raises(TypeError, match="byte order"):  # refused, never misread
        one(x.astype(">f4"))


def test_scalars_and_buffers():
    assert R.L2(2.0)(np.float32(3)) == 18
    assert type(R.L2(2.0)(np.float32(3))) is np.float32
    buffer = memoryview(np.ones(3, np.float32))
    assert R.L2(2.0)(buffer) == 6
    value, gradient = R.L2(2.0).value_and_gradient(buffer)
    assert value == 6
    assert gradient.tolist() == [4, 4, 4]
    assert R.L2(2.0).value(np.ones(3, np.float16), dtype="float64").dtype == np.float64


@pytest.mark.parametrize("bad", [[1.0, 2.0], [np.ones(2)], 3.0, 3, None, "x"], ids=repr)
@pytest.mark.parametrize("one", [R.L1(), R.L2(), R.L1L2(0.1, 0.1), R.OrthogonalRegularizer()])
def test_no_array_is_kerass_attribute_error(bad, one):
    with pytest.raises(AttributeError) as e:
        one(bad)
    assert isinstance(e.value, errors.NotAnArrayError)
    assert isinstance(e.value, TypeError)
    text = str(e.value)
    assert "expected" in text
    assert "received" in text
    assert text.count(";") >= 2
    for call in (one.gradient, one.value_and_gradient):
        with pytest.raises(AttributeError):
            call(bad)


def test_integers_are_computed():
    for dtype in (bool, np.int8, np.uint8, np.int32, np.int64, np.uint64):
        x = np.array(MATRIX).clip(0).astype(dtype)
        result = R.L1L2(0.01, 0.02)(x)
        assert type(result) is np.float64
        assert result == float(truth(x.astype(float), 0.01, 0.02))
    with pytest.raises(TypeError, match="differentiate"):
        R.L2().gradient(np.arange(3))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, object, "U1", "M8[s]"])
def test_other_elements_are_type_errors(dtype):
    x = np.array([1, 2]).astype(dtype)
    for one in (R.L1(), R.L2(), R.L1L2(0.1), R.OrthogonalRegularizer()):
        with pytest.raises(TypeError, match="expected"):
            one(x)


def test_float64_uses_the_exact_factor():
    assert R.L1(0.1)(np.array([1.0])) == 0.1
    assert R.L2(0.1)(np.array([1.0])) == 0.1


# -- Gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_at_specials(dtype):
    x = np.array([0.0, -0.0, 1, -2, np.nan, np.inf, -np.inf], dtype)
    one, two = R.L1(0.5).gradient(x), R.L2(0.5).gradient(x)
    assert one.dtype == two.dtype == dtype
    np.testing.assert_array_equal(one.astype(float)[:5], [0, 0, 0.5, -0.5, np.nan])
    assert one[5:].astype(float).tolist() == [0.5, -0.5]
    np.testing.assert_array_equal(two.astype(float), [0, -0.0, 1, -2, np.nan, np.inf, -np.inf])
    assert np.signbit(two[:2].astype(float)).tolist() == [False, True]


def test_the_gradient_is_finite_where_the_value_is_not():
    x = np.full(1000, 300, np.float16)
    value, gradient = R.L2(0.5).value_and_gradient(x)
    assert value == np.inf
    assert (gradient == 300).all()


# -- The dtype of the penalty ---------------------------------------------------------------------


def test_float32_penalties_of_half_precision_stay_finite():
    x = np.full((128, 64), 4, np.float16)
    assert R.L2(0.01)(x * np.float16(50)) == np.inf
    one = R.L2(1e-4, dtype="float32")
    result = one(x * np.float16(50))
    assert type(result) is np.float32
    assert result == np.float32(1e-4 * 8192 * 200**2)
    assert one.gradient(x).dtype == np.float16
    assert one.get_config() == {"l2": 1e-4, "dtype": "float32"}
    assert R.L2.from_config(one.get_config()).dtype == "float32"


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float32"), "float32"])
def test_dtype_is_stored_by_name(dtype):
    assert R.L1(dtype=dtype).dtype == "float32"
    with pytest.raises(ValueError, match=r"dtype.*float16, bfloat16, float32, float64"):
        R.L1(dtype="int32")


# -- Orthogonality --------------------------------------------------------------------------------


def cosines(x, factor, rows):
    """The definition, in float64 and pair by pair."""
    lines = np.asarray(x, float) if rows else np.asarray(x, float).T
    n = len(lines)
    total = 0.0
    for i in range(n):
        for j in range(i):
            total += abs(lines[i] @ lines[j]) / (
                np.linalg.norm(lines[i]) * np.linalg.norm(lines[j])
            )
    return factor * total / (n * (n - 1) / 2)


@pytest.mark.parametrize("mode", ["rows", "columns"])
@pytest.mark.parametrize("dtype", [*FLOATS, np.int32])
def test_orthogonal_values_and_gradients(dtype, mode):
    x = (np.random.default_rng(3).standard_normal((5, 7)) * 4).astype(dtype)
    one = R.OrthogonalRegularizer(0.3, mode)
    expected = cosines(x, 0.3, mode == "rows")
    value = one(x)
    tolerance = {2: 1e-2, 4: 1e-6, 8: 1e-14}[value.dtype.itemsize]
    assert float(value) == pytest.approx(expected, rel=tolerance)
    if dtype is np.int32:
        assert type(value) is np.float64
        return
    assert type(value) is dtype
    again, gradient = one.value_and_gradient(x)
    assert again == value
    assert gradient.dtype == dtype
    assert gradient.shape == x.shape
    wide, step = x.astype(float), 1e-6
    for i, j in [(0, 0), (2, 3), (4, 6)]:
        up, down = wide.copy(), wide.copy()
        up[i, j] += step
        down[i, j] -= step
        slope = (cosines(up, 0.3, mode == "rows") - cosines(down, 0.3, mode == "rows")) / 2 / step
        assert float(gradient[i, j]) == pytest.approx(slope, rel=2e-2, abs=1e-5)


def test_orthogonal_edges():
    one = R.OrthogonalRegularizer(0.5)
    assert one(np.ones((1, 3), np.float32)) == 0  # Keras: NaN
    assert type(one(np.ones((1, 3), np.float32))) is np.float32
    assert one(np.ones((0, 3))) == 0
    assert one(np.zeros((3, 0))) == 0
    assert one(np.zeros((3, 4))) == 0
    assert one.gradient(np.zeros((3, 4))).tolist() == np.zeros((3, 4)).tolist()
    assert one.gradient(np.ones((1, 3))).tolist() == [[0, 0, 0]]
    assert math.isnan(one(np.array([[1, np.nan], [1, 1]])))
    assert math.isnan(one(np.array([[1, np.inf], [1, 1]])))
    assert one(np.eye(3)) == 0
    assert one(np.full((2, 2), 1e200)) == pytest.approx(0.5)  # Keras: NaN
    assert R.OrthogonalRegularizer(0)(np.full((2, 2), np.nan)) == 0
    for bad in (np.ones(3), np.float32(1), np.ones((2, 2, 2))):
        with pytest.raises(ValueError, match=r"rank 2.*shape"):
            one(bad)
    with pytest.raises(TypeError, match="differentiate"):
        one.gradient(np.ones((2, 2), int))


def test_orthogonal_blocks_agree_with_the_whole(monkeypatch):
    x = np.random.default_rng(4).standard_normal((50, 8))
    one = R.OrthogonalRegularizer(0.3)
    value, gradient = one.value_and_gradient(x)
    monkeypatch.setattr("fastreg._core.numpy_backend._BLOCK_ELEMENTS", 350)
    again, blocked = one.value_and_gradient(x)
    assert again == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(blocked, gradient, rtol=1e-12, atol=1e-15)


def test_orthogonal_of_views_and_bfloat16_bits():
    x = np.random.default_rng(5).standard_normal((6, 8)).astype(np.float32)
    one = R.OrthogonalRegularizer(0.3)
    for view in (x.T, x[::-1, ::2]):
        assert one(view) == pytest.approx(one(view.copy()), rel=1e-6)
    half = x.astype(ml_dtypes.bfloat16)
    assert one(fastreg.bf16_view(half.view(np.uint16))) == one(half)


# -- Process --------------------------------------------------------------------------------------


def test_one_object_serves_many_threads():
    one = R.L1L2(0.1, 0.2)
    arrays = [np.random.default_rng(i).standard_normal(20_000 + i) for i in range(8)]
    expected = [one(x) for x in arrays]
    results = [None] * 8

    def work(i):
        for _ in range(20):
            results[i] = one(arrays[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == expected


def test_the_input_is_not_written():
    x = np.random.default_rng(6).standard_normal((4, 5))
    before = x.copy()
    x.flags.writeable = False
    for one in (R.L1(), R.L2(), R.L1L2(0.1, 0.1), R.OrthogonalRegularizer()):
        one(x)
        one.value_and_gradient(x)
    np.testing.assert_array_equal(x, before)


def test_importing_imports_no_framework():
    code = (
        "import sys, numpy, fastreg.regularizers as R; R.L2()(numpy.ones(3)); R.get('l1')\n"
        "names = ('torch', 'tensorflow', 'jax', 'keras', 'tf_keras')\n"
        "print([m for m in names if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


KERAS_PARITY = r"""
import json, sys
import numpy as np
import keras
from fastreg import regularizers as R

assert keras.backend.backend() == "numpy"
K = keras.regularizers
rng = np.random.default_rng(0)
worst = {}
for dtype in ("float16", "float32", "float64"):
    for shape in ((3, 4), (17,), (2, 3, 5), (), (0, 3)):
        x = rng.standard_normal(shape).astype(dtype)
        x = np.asarray(x)
        for name, arguments in (("L1", (0.3,)), ("L2", (0.7,)), ("L1L2", (0.3, 0.7))):
            ours, theirs = getattr(R, name)(*arguments)(x), getattr(K, name)(*arguments)(x)
            assert str(ours.dtype) == str(theirs.dtype) == dtype, (name, ours.dtype, theirs.dtype)
            error = abs(float(ours) - float(theirs)) / max(abs(float(theirs)), 1e-30)
            worst[dtype] = max(worst.get(dtype, 0.0), error)
m = rng.standard_normal((5, 7)).astype("float32")
a, b = R.OrthogonalRegularizer(0.3)(m), K.OrthogonalRegularizer(0.3)(m)
worst["orthogonal"] = abs(float(a) - float(b)) / float(b)

def outcome(call):
    try:
        result = call()
    except Exception as e:
        builtin = [k.__name__ for k in type(e).__mro__ if k.__module__ == "builtins"]
        return sorted(builtin), "raised"
    return type(result).__name__, "returned"

cases = {}
for name in ("L1", "L2", "L1L2", "OrthogonalRegularizer"):
    for value in (0, 1, True, 0.5, np.float64(.1), np.float32(.1), np.int64(1), np.bool_(1),
                  np.array(.1), "0.1", [0.1], 1+0j, -1, -1e-9, float("nan"), float("inf"),
                  10**400, -0.0):
        pair = [outcome(lambda: getattr(M, name)(value)) for M in (K, R)]
        cases[f"{name}({value!r})"[:60]] = pair
for identifier in (None, "l1", "L1", "l2", "L2", "l1l2", "L1L2",
                   "orthogonal_regularizer",
                   "OrthogonalRegularizer", "Regularizer", "regularizer", "l1_l2", "", "typo",
                   "L1_L2", 1, 0.5, [1], (1,), b"l2", {}, {"class_name": "L2"}, int,
                   {"class_name": "l2", "config": {"l2": 0.3}},
                   {"class_name": "L2", "config": {"x": 1}},
                   {"class_name": "L2", "config": {"l2": -1}}, {"class_name": "x", "config": {}}):
    cases[f"get({identifier!r})"] = [outcome(lambda: M.get(identifier)) for M in (K, R)]
for x in ([1.0], 3.0, None, "x"):
    cases[f"L2()({x!r})"] = [outcome(lambda: M.L2()(x)) for M in (K, R)]
differ = {}
for case, (theirs, ours) in cases.items():
    same = theirs == ours
    if theirs[1] == ours[1] == "raised":
        same = set(theirs[0]) <= set(ours[0])
    if not same:
        differ[case] = (theirs, ours)
keras.saving.register_keras_serializable("fastreg.regularizers")(R.L2)
mine = K.serialize(R.L2(0.3))
print(json.dumps([worst, differ, len(cases), mine == R.serialize(R.L2(0.3)),
                  R.serialize(K.L2(0.3))["module"],
                  type(R.get(K.serialize(K.L2(0.3)))).__module__]))
"""


@pytest.mark.skipif(find_spec("keras") is None, reason="needs the package keras")
def test_parity_with_keras_on_numpy():
    env = {**os.environ, "KERAS_BACKEND": "numpy", "PYTHONWARNINGS": "ignore"}
    for package in ("jax", "scipy"):
        if find_spec(package) is None:
            pytest.skip(f"Keras' numpy backend needs the package {package}")
    out = subprocess.run(
        [sys.executable, "-c", KERAS_PARITY], capture_output=True, text=True, env=env, check=False
    )
    assert out.returncode == 0, out.stderr[-2000:]
    worst, differ, count, same, module, ours = json.loads(out.stdout.splitlines()[-1])
    assert count > 90
    assert differ == {}
    assert worst["float64"] <= 1e-7  # Keras' L1 rounds the factor to float32
    assert worst["float32"] <= 1e-6
    assert worst["float16"] <= 4e-3
    assert worst["orthogonal"] <= 1e-6
    assert same
    assert module == "keras.regularizers"
    assert ours == "fastreg.regularizers"
