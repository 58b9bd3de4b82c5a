# SPDX-License-Identifier: BSD-3-Clause
"""What seldom happens: packages that are missing, objects that lie, numbers past every range."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import zipfile
from textwrap import dedent

import numpy as np
import pytest

import fastreg
from fastreg import _installation
from fastreg._core import arguments, arrays, dtypes, formula, pytrees, targets
from fastreg.errors import ArgumentError, DTypeError, LayoutError


def in_a_new_process(code):
    """Run code where no other test has imported a framework."""
    code = "import sys\nimport numpy as np\nimport pytest\nimport fastreg\n" + dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bfloat16_needs_a_package_only_where_its_type_is_named():
    in_a_new_process("""
        sys.modules["ml_dtypes"] = None
        bits = fastreg.bf16_view(np.array([0x3F80, 0xC000], np.uint16))
        with pytest.raises(TypeError, match="ml_dtypes"):
            fastreg.value(bits, l2=1.0)
        assert fastreg.value(bits, l2=1.0, dtype="float64") == 5.0
    """)


@pytest.mark.parametrize(
    "bad", [[1], np.ones(2, np.int16), np.ones(2, ">u2"), np.float32(1)], ids=repr
)
def test_bits_of_bfloat16_are_native_uint16(bad):
    with pytest.raises(DTypeError, match="expected an ndarray of native uint16; received"):
        fastreg.bf16_view(bad)


def test_byte_orders_are_named():
    with pytest.raises((DTypeError, LayoutError), match="byte order '>'"):
        fastreg.value(np.ones(2, ">f4"), l1=1.0)


def test_numbers_past_every_range():
    for bad in (10**400, -(10**400)):
        with pytest.raises(ArgumentError):
            fastreg.value(np.ones(2), l1=bad)
    assert np.isnan(fastreg.gradient(np.ones(2), l1=1.0, scale=np.nan)).all()


def test_a_result_type_that_is_none():
    class Odd:
        dtype = property(lambda self: 1 / 0)

    for bad in (Odd, object(), [("a", "f4")], "complex64"):
        with pytest.raises(DTypeError):
            fastreg.value(np.ones(2), l1=1.0, dtype=bad)


def test_a_rule_that_another_overrules_everywhere_is_used():
    params = {"a.kernel": np.ones((1, 2)), "b.kernel": np.ones((1, 2))}
    assert fastreg.penalty(params, l1={"a.kernel": 1.0, "*.kernel": 2.0, "*": 9.0}) == 6.0
    with pytest.raises(ArgumentError, match="c"):
        fastreg.penalty(params, l1={"*.kernel": 2.0, "c.*": 1.0})


def test_views_that_nobody_can_tell_apart_count_as_shared(monkeypatch):
    def hard(*arguments, **options):
        raise np.exceptions.TooHardError

    monkeypatch.setattr(np, "shares_memory", hard)
    x = np.zeros(12)
    with pytest.raises(LayoutError):
        fastreg.gradient(x[::2], l1=1.0, out=x[1::2])


def test_targets_of_integers_are_refused_by_their_place():
    host = arrays.host_array
    with pytest.raises(DTypeError, match="position 1"):
        targets.check_targets(
            [host(np.ones(2)), host(np.ones(2, np.int8))], [None, host(np.ones(2))]
        )


def test_a_plan_is_not_copied():
    plan = fastreg.plan([np.ones(2)], l1=1.0)
    for act in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="expected"):
            act(plan)


def test_clipping_overflows_into_the_long_way():
    grads = [np.array([1e200, 1e200]), np.array([3.0])]
    norm = fastreg.clip_by_global_norm_(grads, 1.0)
    assert np.isfinite(norm)
    assert np.isclose(grads[0][0], 0.5**0.5)


def test_deep_modules_end_somewhere():
    inner = {}
    params = {"a": inner}
    for _ in range(1200):
        inner["a"] = {}
        inner = inner["a"]
    inner["w"] = np.ones(1)
    with pytest.raises(ArgumentError, match="expected"):
        fastreg.penalty(params, l1=1.0)


def test_keys_of_pytrees_by_what_they_are_called():
    class Entry:
        def __init__(self, **attributes):
            self.__dict__.update(attributes)

        def __str__(self):
            return "spelt"

    assert pytrees._jax_key(Entry(name="n", idx=1)) == "n"
    assert pytrees._jax_key(Entry(key="k")) == "k"
    assert pytrees._jax_key(Entry(idx=3)) == 3
    assert pytrees._jax_key(Entry()) == "spelt"


def test_records_of_types_show_their_names():
    assert repr(dtypes.F32) == "<Dtype float32>"


def test_what_is_not_built_says_what_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(_installation, "_HERE", str(tmp_path))
    assert "not built for" in _installation.no_kernels()
    (tmp_path / "_kernels.cpython-39-x.so").touch()
    assert "build it for this interpreter" in _installation.no_kernels()
    archive = tmp_path / "a.zip"
    zipfile.ZipFile(archive, "w").close()
    monkeypatch.setattr(_installation, "_HERE", str(archive / "fastreg"))
    assert "archive" in _installation.no_kernels()
    monkeypatch.setattr(_installation, "_HERE", str(tmp_path))
    (tmp_path / _installation._FOREIGN[0]).touch()
    with pytest.warns(RuntimeWarning, match="another distribution"):
        _installation.warn_of_foreign_files()


def test_reals_without_a_bound_are_finite():
    with pytest.raises(ArgumentError, match="that is finite"):
        arguments.number(np.inf, "x")


def test_a_formula_without_weights_is_zero():
    class Numpy(formula.Operations):
        def cast(self, x, dtype):
            return np.asarray(x, dtype)

        sum = staticmethod(np.sum)
        zeros_like = staticmethod(np.zeros_like)

    Numpy.__abstractmethods__ = frozenset()
    x = np.array([[np.inf, np.nan]])
    assert formula.penalty(Numpy(), x, 0.0, 0.0, "float64", "float64") == 0.0
    assert formula.orthogonal(Numpy(), x, 0.0, True, "float64", "float64") == 0.0


def test_an_iterator_that_is_spent():
    with pytest.raises(ArgumentError, match="expected"):
        fastreg.penalty(iter([]), l1=1.0)


def test_integers_of_a_model_have_no_gradient():
    with pytest.raises(DTypeError, match="int64"):
        fastreg.model.value_and_gradient({"w": np.ones((2, 2), np.int64)}, l2=1.0, select="all")


def test_what_cannot_be_serialised_says_so():
    in_a_new_process("""
        with pytest.raises(TypeError, match="expected"):
            fastreg.regularizers.serialize(lambda x: 0.0)
    """)


def test_tensors_whose_memory_is_gone():
    torch = pytest.importorskip("torch", reason="needs the package torch")
    x = torch.ones(4, 4)
    x.untyped_storage().resize_(0)
    for call in (
        lambda: fastreg.value(x, l1=1.0),
        lambda: fastreg.penalty([x], l1=1.0),
        lambda: fastreg.global_norm([x, torch.ones(2)]),
    ):
        with pytest.raises(LayoutError, match="expected"):
            call()


def test_lazy_views_are_read_and_not_written():
    torch = pytest.importorskip("torch", reason="needs the package torch")
    x = torch.ones(2, 2)
    view = torch._neg_view(x)
    assert fastreg.value(view, l2=1.0) == 4.0
    with pytest.raises(DTypeError, match="lazy view"):
        fastreg.decay_([view], 0.5)
    assert (x == 1).all()


def test_the_same_tensor_twice_counts_twice_in_a_norm():
    torch = pytest.importorskip("torch", reason="needs the package torch")
    x = torch.full((4,), 1.5)
    assert fastreg.global_norm([x, x]) == np.sqrt(18.0)
    assert fastreg.global_norm({"a": x, "b": [x]}) == np.sqrt(18.0)
