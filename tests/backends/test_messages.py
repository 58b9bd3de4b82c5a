# SPDX-License-Identifier: BSD-3-Clause
"""Every text of an error is seen: one that is written anew needs a wrong input here, too.

The texts are read from the sources, each as a pattern; the wrong inputs below bring errors about,
and each pattern must be that of one of them.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import re
from collections import UserDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fastreg
from fastreg import _kernels, errors, group_lasso, regularizers, runtime
from fastreg._core import arrays
from fastreg._core.dtypes import narrow_by_name
from fastreg._kernels import Arrays

ROOT = Path(fastreg.__file__).parent
# Texts of backends and commands with tests of their own, and what this machine cannot show.
ELSEWHERE = re.compile(
    "cli/|torch/|keras/|_checkpoints/|__main__|_installation|_core/regularizer|_core/state|_core/flat"
    "|_binding/state|dask|mpi|embedding|jax/_digits|jax/_shards"
)
NOT_HERE = {
    "the package .*, for fastreg": "a package that is not installed",
    "the package ml_dtypes, for a bfloat16 result": "a package that is not installed",
    "handlers that fit the installed jaxlib": "another jaxlib",
    "an array in host memory; received one on": "a device",
    "an array in one piece": "several devices",
    "FASTREG_": "the environment of another process",
    "arrays or a plan that one thread uses at a time": "a second thread",
    "that is used by one call at a time": "a second thread",
    "arrays that nobody changes meanwhile": "a second thread",
    "a DLPack array at address 0": "an exporter of no memory: tests/python/test_lifetimes.py",
    "a call in replica context": "a strategy",
}

A = np.array([[3.0, -4.0]])
FLOAT8 = narrow_by_name("float8_e4m3fn")


def pattern_of(node: ast.expr) -> str:
    """A regular expression of what a part of a text may be."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern_of(v) if isinstance(v, ast.Constant) else ".*" for v in node.values)
    return ".*"


def calls_in(path: Path):
    """The calls of message(), of Cython's files by their text."""
    text = path.read_text()
    if path.suffix == ".py":
        trees = [ast.parse(text)]
    else:
        trees = []
        for start in (m.start() for m in re.finditer(r"\bmessage\(", text)):
            for end in range(start, len(text)):
                if text[end] == ")":
                    try:
                        trees.append(ast.parse(text[start : end + 1]))
                    except SyntaxError:
                        continue
                    break
    for tree in trees:
        for node in ast.walk(tree):
            called = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "message"
            if called and len(node.args) == 3:  # and not a text from elsewhere
                yield node


def patterns() -> dict[str, str]:
    found = {}
    for path in sorted(ROOT.rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in (".py", ".pyx", ".pxi") and not ELSEWHERE.search(name):
            for call in calls_in(path):
                expected, received, action = map(pattern_of, call.args)
                found[f"expected {expected}; received {received}; {action}"] = name
    return found


class NoInterface:
    __array_interface__ = 7


class BadPack:
    """An exporter of memory that fails."""

    def __init__(self, device):
        self.device = device

    def __dlpack__(self, **options):
        raise BufferError("not today")

    def __dlpack_device__(self):
        return self.device


def plan_of(x=A, **options):
    return fastreg.plan({"w": x.copy(), "v": x.copy()}, **{"l2": 1.0, **options})


def deep(levels: int):
    x = [A]
    for _ in range(levels):
        x = [x]
    return x


class Anew(UserDict):
    """A mapping that makes its items when it is asked for them."""

    def items(self):
        return [(name, x.copy()) for name, x in self.data.items()]

    def values(self):
        return [x for _, x in self.items()]


def used_up():
    return iter(())


def replaced():
    params = {"w": A.copy()}
    plan = fastreg.plan(params, l2=1.0)
    params["w"] = A.copy()
    return plan.value()


def tied():
    x = A.copy()
    plan = fastreg.plan({"p": x, "q": x}, l2=1.0)
    plan.add_gradient_({"p": A.copy(), "q": A.copy()})


def read_only(x=A):
    x = x.copy()
    x.flags.writeable = False
    return x


def overlapping():
    x = np.zeros((3, 2))
    Arrays([x[:2, 0], x[1:, 0]]).scale_(0.5)


def regularizer_without_config():
    class Mine(regularizers.Regularizer):
        pass

    return Mine().get_config()


def serialize_without_config():
    with pytest.MonkeyPatch.context() as patch:  # Keras, if it is there, has a text of its own
        patch.setattr(regularizers, "_registries", list)
        regularizers.serialize(object())


BIG = np.full((2, 2), 1e308)
GROUPS = {"weight": 1.0, "groups": 0}

CORE = [
    # Numbers
    lambda: fastreg.value(A, l2=-1.0),
    lambda: fastreg.decay_([A.copy()], 2.0),
    lambda: fastreg.value(A, l2="1"),
    lambda: fastreg.value(A, l2=10**400),
    lambda: fastreg.penalty([A], l2=[1.0, 2.0]),
    lambda: fastreg.value(A),
    lambda: fastreg.penalty([A]),
    lambda: fastreg.penalty([A], l2=1.0, weights=None),
    lambda: fastreg.penalty([A], l2=1.0, convention="mine"),
    lambda: fastreg.penalty([A], l2={"nothing": 1.0}),
    lambda: fastreg.gradient(np.ones(2, int), l2=1.0),
    lambda: fastreg.value(A, l2=1.0, dtype="int8"),
    lambda: Arrays([A, A], [1.0], 0.0),
    # Arrays
    lambda: arrays.bf16_view(A),
    lambda: fastreg.value([A], l2=1.0),
    lambda: fastreg.value(object(), l2=1.0),
    lambda: regularizers.L2(0.1)(object()),
    lambda: fastreg.value(memoryview((ctypes.c_wchar * 2)()), l2=1.0),
    lambda: fastreg.value(NoInterface(), l2=1.0),
    lambda: fastreg.value(np.array(["a"]), l2=1.0),
    lambda: fastreg.value(A.astype(">f8"), l2=1.0),
    lambda: fastreg.value(np.ma.array(A), l2=1.0),
    lambda: fastreg.value(BadPack((2, 0)), l2=1.0),
    lambda: fastreg.value(BadPack((1, 0)), l2=1.0),
    lambda: Arrays([arrays.HostArray(np.zeros(3, "u1"), arrays.by_name("float64"))]),
    lambda: fastreg.value(arrays.HostArray(np.zeros(3, "u1"), FLOAT8), l2=1.0),
    # Outputs
    lambda: fastreg.gradient(A, l2=1.0, out=read_only()),
    lambda: fastreg.gradient(A, l2=1.0, out=np.broadcast_to(np.zeros(1), (1, 2))),
    lambda: fastreg.gradient(
        A, l2=1.0, out=np.lib.stride_tricks.as_strided(A.copy(), (1, 2), (8, 0))
    ),
    lambda: (lambda x: fastreg.gradient(x[:2], l2=1.0, out=x[1:]))(np.zeros(3)),
    lambda: fastreg.gradient(A, l2=1.0, out=np.zeros(3)),
    lambda: fastreg.gradient(A, l2=1.0, accumulate=True),
    lambda: fastreg.value_and_gradient([A], l2=1.0, accumulate=True),
    lambda: Arrays([A]).bind([]),
    lambda: Arrays([A]).gradient(),
    lambda: Arrays([A]).__init__([A]),
    lambda: Arrays([A]).bind([np.zeros(3)]),
    lambda: Arrays([np.ones(2, int)]).scale_(0.5),
    overlapping,
    lambda: (lambda x: fastreg.decay_([x[:3], x[1:]], 0.5))(np.ones(4)),
    # Containers
    lambda: fastreg.penalty({"w": object()}, l2=1.0),
    lambda: fastreg.penalty(deep(200), l2=1.0),
    lambda: fastreg.penalty(used_up(), l2=1.0),
    lambda: fastreg.global_norm(used_up()),
    lambda: fastreg.value_and_gradient({1: A, "1": A.copy()}, l2=1.0),
    lambda: fastreg.decay_([np.float64(1.0)], 0.5),
    lambda: fastreg.decay_([read_only()], 0.5),
    lambda: fastreg.clip_by_global_norm_([np.array([np.nan])], 1.0),
    lambda: fastreg.clip_by_global_norm_([BIG], 1.0),
    lambda: fastreg.check_finite([np.array([np.nan])]),
    lambda: fastreg.stats([A])["nothing"],
    # Rules
    lambda: fastreg.penalty({"bias": A}, l2=1.0),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select="nothing"),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select="re:("),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select=3),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select=lambda name, x: 1),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select={"w": 1}),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select=3.5),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select={"w": 0.5}),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select=lambda name: True),
    lambda: fastreg.penalty({"w": np.ones((2, 2), "c8")}, l2=1.0),
    lambda: fastreg.stats([("w", A), ("w", A.copy())])["w"],
    lambda: fastreg.penalty({"w": A, "v": A.copy()}, l2=1.0, select={"w": True}),
    lambda: fastreg.penalty({"w": A}, l2=1.0, select={"w": True, "v": True}),
    # Plans
    replaced,
    lambda: fastreg.plan(Anew(w=A), l2=1.0),
    tied,
    lambda: plan_of().__reduce__(),
    lambda: plan_of().add_gradient_({"w": A.copy()}),
    lambda: plan_of().add_gradient_({"w": A.copy(), "v": np.zeros(3)}),
    lambda: (lambda x: fastreg.plan([x], l2=1.0).add_gradient_([x]))(A.copy()),
    # Group lasso, regularizers, the run
    lambda: group_lasso.group_lasso_value([A], weight=1.0, groups="axis"),
    lambda: group_lasso.group_lasso_gradient([np.ones((2, 2), int)], **GROUPS),
    lambda: group_lasso.group_lasso_value([A], weight=1.0, groups=5),
    lambda: group_lasso.group_lasso_value([A], weight=1.0, groups=[np.array([0.5])]),
    lambda: group_lasso.group_lasso_value([A], weight=1.0, groups=[np.array([9])]),
    lambda: group_lasso.group_lasso_value([A], weight=1.0, groups=[np.array([0]), np.array([0])]),
    lambda: group_lasso.group_lasso_value({"w": A}, weight=1.0, groups={"v": 0}, select="all"),
    lambda: regularizers.OrthogonalRegularizer()(np.ones(3)),
    regularizer_without_config,
    serialize_without_config,
    lambda: runtime.set_num_threads(1.5),
    lambda: runtime.set_num_threads(0),
    lambda: runtime.show_config("mine"),
    lambda: _kernels.set_process_threads(-1),
]


ERRORS = (errors.FastregError, TypeError, ValueError, NotImplementedError)


def seen(provocations) -> list[str]:
    """The texts of the errors; every one of the inputs brings one about."""
    texts, silent = [], []
    for call in provocations:
        try:
            call()
        except ERRORS as e:
            texts.append(str(e))
        except Exception as e:
            silent.append((call.__code__.co_firstlineno, repr(e)))
        else:
            silent.append(call.__code__.co_firstlineno)
    assert not silent, f"no error by the lines {silent}"
    return texts


def jax_provocations():
    pytest.importorskip("jax", reason="jax is not installed")
    import jax

    import fastreg.jax as fjax

    deleted = jax.numpy.ones(3) + 1
    deleted.delete()
    return [
        lambda: fjax.penalty(deleted, l2=1.0),
        lambda: fjax.orthogonal(object(), factor=1.0),
        lambda: fjax.penalty({1: A, "1": A}, l2=1.0),
        lambda: fjax.penalty(jax.random.key(0), l2=1.0),
        lambda: fjax.penalty(np.array(["a"]), l2=1.0),
        lambda: fastreg.value(deleted, l2=1.0),
        lambda: fastreg.value(jax.random.key(0), l2=1.0),
        lambda: jax.jit(fastreg.sum_squares)(jax.numpy.ones(3)),
        lambda: fastreg.value(A, l2=jax.numpy.ones(())),
        lambda: fastreg.decay_([jax.numpy.ones(3)], 0.5),
        lambda: fastreg.value(jax.numpy.ones(3, ml_dtypes.float8_e4m3fn), l2=1.0),
    ]


def tensorflow_provocations():
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    ftf = importlib.import_module("fastreg.tensorflow")
    kept = []
    tf.function(lambda x: kept.append(x), autograph=False)(tf.constant(A))
    with tf.Graph().as_default():
        empty = tf.compat.v1.get_default_graph()

    def in_a_graph(function, *arguments, **options):
        with empty.as_default():
            function(*arguments, **options)

    return [
        lambda: ftf.penalty(tf.constant(["a"]), l2=1.0),
        lambda: ftf.penalty(np.array(["2020"], "M8[D]"), l2=1.0),
        lambda: ftf.orthogonal(object(), factor=1.0),
        lambda: ftf.penalty(kept[0], l2=1.0),
        lambda: ftf.penalty(keras.KerasTensor((2,)), l2=1.0),
        lambda: fastreg.value(tf.constant(["a"]), l2=1.0),
        lambda: ftf.decay_([tf.constant(A)], 0.5),
        lambda: ftf.get_regularization_losses(),
        lambda: ftf.scale_regularization_loss(1.0, replicas=0),
        lambda: in_a_graph(ftf.get_total_loss),
        lambda: fastreg.clip_by_global_norm_([tf.Variable(A)], 1.0),
        lambda: fastreg.penalty(keras.layers.Dense(3), l2=1.0),
    ]


def torch_provocations():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    freed = torch.ones(3)
    freed.untyped_storage().resize_(0)
    inside = torch.nn.Linear(2, 2)
    inside._modules["again"] = inside
    computed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2))
    return [
        lambda: fastreg.decay_(computed, 0.5),
        lambda: fastreg.penalty(dict(computed.named_parameters()), l2=1.0),
        lambda: fastreg.value(torch.ones(3, device="meta"), l2=1.0),
        lambda: fastreg.value(torch.ones((1,) * 65), l2=1.0),
        lambda: fastreg.value(torch.ones(3).to_sparse(), l2=1.0),
        lambda: fastreg.value(torch.ones(3, dtype=torch.complex64), l2=1.0),
        lambda: fastreg.value(freed, l2=1.0),
        lambda: fastreg.penalty(torch.nn.LazyLinear(3), l2=1.0),
        lambda: fastreg.penalty(inside, l2=1.0),
        lambda: regularizers.L2(0.1)(torch.nn.Linear(2, 2)),
    ]


def test_every_text_is_seen():
    texts = seen([*CORE, *jax_provocations(), *tensorflow_provocations(), *torch_provocations()])
    unseen = {}
    for pattern, name in patterns().items():
        if any(re.search(pattern, text, re.DOTALL) for text in texts):
            continue
        if any(re.search(start, pattern.replace("\\", "")) for start in NOT_HERE):
            continue
        unseen[pattern] = name
    assert not unseen, "\n".join(f"{name}: {pattern}" for pattern, name in unseen.items())
    assert len(patterns()) > 60  # they were found at all
