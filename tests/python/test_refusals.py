# SPDX-License-Identifier: BSD-3-Clause
"""Wrong input, in every backend: Keras' class of exception, and a text that says what to do."""

import re

import ml_dtypes
import numpy as np
import pytest

import fastreg
from fastreg import errors, regularizers
from fastreg._core import frameworks
from fastreg._core.dtypes import F64
from fastreg._kernels import Arrays

BACKENDS = ("numpy", "torch", "tensorflow", "jax")
TEXT = re.compile(r"expected .+; received .+; .+", re.DOTALL)


class Backend:
    """A backend and the ways to make its tensors."""

    def __init__(self, name):
        module = "numpy" if name == "numpy" else name
        self.framework = pytest.importorskip(module, reason=f"{module} is not installed")
        self.name = name
        self.verbs = frameworks.backend(self.tensor(np.ones(2, np.float32)))

    def tensor(self, a):
        if self.name == "torch":
            return self.framework.from_numpy(a)
        if self.name == "tensorflow":
            return self.framework.constant(a)
        return self.framework.numpy.asarray(a) if self.name == "jax" else a

    def float8(self):
        if self.name == "torch":
            return self.framework.ones(3).to(self.framework.float8_e4m3fn)
        if self.name == "tensorflow":
            return self.framework.cast([1.0], self.framework.dtypes.experimental.float8_e4m3fn)
        a = np.ones(3, ml_dtypes.float8_e4m3fn)
        return self.framework.numpy.asarray(a) if self.name == "jax" else a


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return Backend(request.param)


def refused(call, builtin):
    with pytest.raises(builtin) as e:
        call()
    assert isinstance(e.value, errors.FastregError), type(e.value)
    assert TEXT.search(str(e.value)), str(e.value)
    return str(e.value)


PENALTIES = [regularizers.L1(), regularizers.L2(), regularizers.L1L2(0.1, 0.1)]
ALL = [*PENALTIES, regularizers.OrthogonalRegularizer()]


@pytest.mark.parametrize("one", ALL, ids=lambda r: type(r).__name__)
def test_elements_without_a_penalty(backend, one):
    """TypeError: complex, 8-bit floats; strings and objects where the backend has them."""
    calls = [one, getattr(one, "value_and_gradient", one), one.gradient]
    for x, named in ((backend.tensor(np.ones((2, 2), np.complex64)), "complex64"),
                     (backend.float8(), "float8")):  # fmt: skip
        for call in calls:
            assert named in refused(lambda call=call, x=x: call(x), TypeError)
    if backend.name == "tensorflow":
        assert "string" in refused(lambda: one(backend.framework.constant([["a"]])), TypeError)
    if backend.name == "numpy":
        for dtype in ("U1", object, "M8[s]", [("a", "f4")]):
            refused(lambda dtype=dtype: one(np.zeros((2, 2), dtype)), TypeError)


@pytest.mark.parametrize(
    "bad", [[1.0], (1.0, 2.0), 1.0, 3, None, "x", {}, object()], ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize("one", ALL, ids=lambda r: type(r).__name__)
def test_what_is_no_array(bad, one):
    """Keras' AttributeError, which is a TypeError too."""
    for call in (one, one.gradient, one.value_and_gradient):
        refused(lambda call=call: call(bad), AttributeError)
        refused(lambda call=call: call(bad), TypeError)


def test_what_is_no_tensor_of_the_backend(backend):
    for bad in (None, "x", object()):
        refused(lambda bad=bad: backend.verbs.penalty(bad, l2=1.0), TypeError)
        refused(lambda bad=bad: backend.verbs.gradient(bad, l2=1.0), TypeError)
        refused(lambda bad=bad: backend.verbs.orthogonal(bad, factor=1.0), TypeError)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2)])
def test_wrong_rank(backend, shape):
    x = backend.tensor(np.ones(shape, np.float32))
    one = regularizers.OrthogonalRegularizer()
    for call in (one, one.gradient, one.value_and_gradient):
        assert "rank 2" in refused(lambda call=call: call(x), ValueError)


def test_gradients_of_integers(backend):
    for dtype in (np.int32, np.uint8, bool):
        x = backend.tensor(np.ones((2, 2), dtype))
        for one in ALL:
            for call in (one.gradient, one.value_and_gradient):
                refused(lambda call=call, x=x: call(x), TypeError)


@pytest.mark.parametrize("verb", ["penalty", "gradient", "value_and_gradient", "orthogonal"])
def test_weights_that_are_none(backend, verb):
    x = backend.tensor(np.ones((2, 2), np.float32))
    call = getattr(backend.verbs, verb)
    for name in ["factor"] if verb == "orthogonal" else ["l1", "l2"]:
        for number in (-1.0, -1e-300, np.inf, -np.inf, np.nan):
            refused(lambda number=number, name=name: call(x, **{name: number}), ValueError)
        for other in ("0.1", "a", 1j, b"1", True, ["0.5"], object()):
            refused(lambda other=other, name=name: call(x, **{name: other}), TypeError)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_weights_of_described_arrays(name):
    """The binding's own class asks the same check, of one number and of each in a list."""
    x = np.ones(3)
    described = [x], [x.ctypes.data], [3], [F64]
    for number in (True, "1", None, 1j, (1.0,), np.ones(1)):
        for given in (number, [number]):
            refused(lambda given=given: Arrays([x], **{name: given}), TypeError)
            refused(lambda given=given: Arrays.dense(*described, **{name: given}), TypeError)
    for number in (-1.0, np.nan, -1):
        refused(lambda number=number: Arrays([x], **{name: number}).value(), ValueError)
    assert Arrays([x], **{name: [np.float32(0.5)]}).value() == 1.5


def test_words_for_weights():
    """A message calls an argument by its name, and its advice can be followed."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, number, vector = [np.ones(3)], torch.tensor(1.0), torch.ones(1)
    for how, expected, action in (
        ({"l2": -1.0}, "a weight l2 that is finite and >= 0", "pass a non-negative number"),
        ({"weights": -1.0}, "a factor in weights= that is", "pass a non-negative number"),
        ({"weights": {"*": -1.0}}, "a factor in weights= that is", "pass a non-negative number"),
        ({"weights": [True]}, "a number as factor in weights= for", "pass a float"),
        ({"l2": number}, "a number as weight l2;", "or multiply: l2 * penalty(x, l2=1.0)"),
        ({"weights": number}, "a number as factor in weights=;", "pass float(weights)"),
        ({"l2": vector}, "a number as weight l2;", "pass Python floats"),
    ):
        text = refused(lambda how=how: fastreg.penalty(x, **{"l2": 1.0, **how}), Exception)
        assert text.startswith(f"expected {expected}"), text
        assert text.endswith(action), text
    text = refused(lambda: fastreg.prox_(x, number, l1=1.0), TypeError)
    assert text.endswith("pass float(step)")


@pytest.mark.parametrize(
    "dtype",
    ["int32", "float8_e4m3fn", "nonsense", np.int64, 3, object()],
    ids=lambda x: type(x).__name__,
)
def test_types_that_no_penalty_has(backend, dtype):
    x = backend.tensor(np.ones((2, 2), np.float32))
    refused(lambda: backend.verbs.penalty(x, l2=1.0, dtype=dtype), TypeError)
    refused(lambda: backend.verbs.value_and_gradient(x, l2=1.0, dtype=dtype), TypeError)
    refused(lambda: backend.verbs.orthogonal(x, factor=1.0, dtype=dtype), TypeError)
    with pytest.raises(ValueError, match=r"argument dtype: expected .*; received .*; "):
        regularizers.L2(dtype=dtype)


def test_wrong_device():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert "meta" in refused(lambda: fastreg.value(torch.ones(3, device="meta"), l2=1.0), TypeError)


@pytest.mark.parametrize(
    "factor", [-1, -1e-9, np.nan, np.inf, "0.1", [0.1], 1j, np.float32(0.1), np.ones(1)], ids=repr
)
@pytest.mark.parametrize("kind", ALL, ids=lambda r: type(r).__name__)
def test_factors(kind, factor):
    """Keras' words for factors, and what to do."""
    with pytest.raises(ValueError, match=r"expected a non-negative float. Received: .*; pass "):
        type(kind)(factor)
    config = {"class_name": type(kind).__name__, "config": {next(iter(kind.get_config())): factor}}
    with pytest.raises(ValueError, match="non-negative float"):
        regularizers.get(config)
