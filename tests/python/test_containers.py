# SPDX-License-Identifier: BSD-3-Clause
"""Containers flattened into names and memory, the rules that choose, and the weights."""

from __future__ import annotations

import io
import re
from array import array
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest

import fastreg
from fastreg._core import arguments
from fastreg._core.arguments import Request
from fastreg._core.containers import Gathered, Parameter, gather
from fastreg._core.selection import Decision
from fastreg._core.selection import decide as decide_of
from fastreg.errors import ArgumentError, DTypeError

X = np.ones((2, 3), np.float32)


def collect(params) -> list[Parameter]:
    """The arrays of a container, each of them read."""
    found = gather(params).parameters
    for p in found:
        assert p.array.shape == tuple(p.shape)
    return found


def decide(parameters, select="kernels") -> list[Decision]:
    gathered = Gathered()
    gathered.parameters = parameters
    return decide_of(gathered, select)


def resolve(weight, parameters, *, what, rest) -> list[float]:
    return arguments._each(arguments._rule(weight, what), parameters, what, rest)


def weights_of(parameters, l1, l2, weights, convention):
    return Request.of(l1, l2, None, weights, convention).resolve(parameters).products(parameters)


def names(params) -> list[str]:
    return [p.name for p in collect(params)]


def new(*shape, dtype=np.float64):
    return np.ones(shape or (2, 3), dtype)


# --- containers ------------------------------------------------------------------------------

Pair = namedtuple("Pair", "kernel bias")


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda: new(), ["0"]),
        (lambda: [new(), new()], ["0", "1"]),
        (lambda: (new(), [new(), (new(),)]), ["0", "1.0", "1.1.0"]),
        (lambda: {"b": new(), "a": {"c": new()}}, ["b", "a.c"]),
        (lambda: OrderedDict(x=new()), ["x"]),
        (lambda: MappingProxyType({"x": new()}), ["x"]),
        (lambda: {3: new(), ("a", 1): new()}, ["3", "('a', 1)"]),
        (lambda: Pair(new(), new()), ["kernel", "bias"]),
        (lambda: [("w", new()), ("b", new())], ["w", "b"]),
        (lambda: ((f"w{i}", new()) for i in range(2)), ["w0", "w1"]),
        (lambda: iter([new(), new()]), ["0", "1"]),
        (lambda: {"a": new()}.values(), ["0"]),
        (lambda: {"a": new()}.items(), ["a"]),
        (lambda: [None, new(), {"a": None}], ["1"]),
        (lambda: [array("d", [1.0, 2.0]), memoryview(array("f", [1.0]))], ["0", "1"]),
        (lambda: [np.float32(3.0)], ["0"]),
        (list, []),
        (dict, []),
    ],
)
def test_names_follow_the_container(make, want):
    assert names(make()) == want


def test_leaves_are_views_and_originals():
    x = new()
    (p,) = collect({"a": x})
    assert p.original is x
    assert np.shares_memory(p.array.data, x)


def test_safetensors_file(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    load_file = pytest.importorskip("safetensors.numpy").load_file
    save_file({"a.weight": X, "a.bias": np.ones(3, np.float16)}, tmp_path / "x.safetensors")
    assert sorted(names(load_file(tmp_path / "x.safetensors"))) == ["a.bias", "a.weight"]


@pytest.mark.parametrize(
    ("params", "place", "received"),
    [
        ({"a": [X, "text"]}, "a.1", "str"),
        ({"a": [X, b"bytes"]}, "a.1", "bytes"),
        ({"a": {"b": 1.5}}, "a.b", "float"),
        ([[1.0, 2.0]], "0.0", "float"),
        ([object()], "0", "object"),
        ([X.astype(complex)], "0", "complex128"),
        ({"k": X.astype(">f4")}, "k", "byte order"),
        ({"k": np.array(["a"])}, "k", "str"),
        ({"k": np.ma.array([1.0, 2.0], mask=[0, 1])}, "k", "MaskedArray"),
        ("text", "top", "str"),
        (3.0, "top", "float"),
        (None, "top", "NoneType"),
    ],
)
def test_a_bad_leaf_is_named(params, place, received):
    with pytest.raises(DTypeError) as e:
        collect(params)
    assert place in str(e.value)
    assert received in str(e.value)


def test_a_container_inside_itself():
    params = {"a": [X]}
    params["a"].append(params)
    with pytest.raises(ArgumentError, match="inside itself"):
        collect(params)
    deep = X
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ArgumentError, match="deep"):
        collect(deep)


def test_a_container_met_twice_is_fine():
    shared = [X]
    assert [(p.name, p.aliases) for p in collect([shared, shared])] == [("0.0", ("1.0",))]


# --- tied arrays -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x,
        lambda x: x[:],
        lambda x: x.T,
        lambda x: x[::-1, ::-1],
        lambda x: x.reshape(1, 2, 1, 3),
    ],
)
def test_the_same_memory_counts_once(other):
    x = new(2, 3)
    found = collect([x, other(x), new(2, 3)])
    assert [(p.name, p.aliases) for p in found] == [("0", ("1",)), ("2", ())]
    assert fastreg.penalty([x, other(x)], l2=1.0) == 6.0


@pytest.mark.parametrize(
    "other", [lambda x: x[:1], lambda x: x[:, 1:], lambda x: x.view(np.int64), lambda x: x.copy()]
)
def test_other_memory_counts_by_itself(other):
    x = new(2, 3)
    assert len(collect([x, other(x)])) == 2


def test_empty_arrays_are_never_tied():
    x = new(2, 0)
    assert len(collect([x, x])) == 2


# --- frameworks ------------------------------------------------------------------------------


def test_torch_modules():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3))
    assert names(model) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    assert names(model.named_parameters()) == names(model)
    assert names(dict(model.named_parameters())) == names(model)
    assert names(model.parameters()) == [str(k) for k in range(6)]
    assert names({"net": model})[0] == "net.0.weight"
    assert [d.parameter.name for d in decide(collect(model)) if d.included] == [
        "0.weight",
        "2.weight",
    ]
    model[2].weight.requires_grad_(False)
    assert decide(collect(model))[4].rule == "frozen"


def test_torch_tied_weights():
    torch = pytest.importorskip("torch")
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5)})
    model["head"].weight = model["embed"].weight
    assert [(p.name, p.aliases) for p in collect(model)] == [
        ("embed.weight", ("head.weight",)),
        ("head.bias", ()),
    ]


def test_torch_mixed_with_numpy():
    torch = pytest.importorskip("torch")
    params = [torch.ones(2, 2, dtype=torch.bfloat16), X, torch.ones(2, 2, requires_grad=True)]
    assert [str(p.array.dtype) for p in collect(params)] == ["bf16", "f32", "f32"]
    assert fastreg.penalty(params, l2=1.0) == 14.0
    with pytest.raises(DTypeError, match=r"'0'.*dense"):
        collect([torch.eye(3).to_sparse()])


def test_optree_nodes():
    optree = pytest.importorskip("optree")

    @optree.dataclasses.dataclass(namespace=optree.registry.__GLOBAL_NAMESPACE)
    class Dense:
        kernel: object
        bias: object

    assert names({"d": Dense(new(), new())}) == ["d.kernel", "d.bias"]


def test_jax_pytrees():
    jax = pytest.importorskip("jax")

    @jax.tree_util.register_dataclass
    @dataclass
    class Dense:
        kernel: object
        name: str = field(metadata={"static": True})

    assert names({"d": Dense(jax.numpy.ones(3), "text")}) == ["d.kernel"]


def test_boxes_around_arrays():
    """A class that adds nothing to its one array leaves the name and the layer to its holder."""
    jax = pytest.importorskip("jax")

    @jax.tree_util.register_dataclass
    @dataclass
    class Box:
        value: object

    class Unnamed:
        def __init__(self, x):
            self.x = x

    jax.tree_util.register_pytree_node(Unnamed, lambda b: ((b.x,), None), lambda _, c: Unnamed(*c))

    @jax.tree_util.register_dataclass
    @dataclass
    class LayerNorm:
        weight: object

    @jax.tree_util.register_dataclass
    @dataclass
    class Linear:
        weight: object

    params = {
        "norm_proj": Linear(Box(new(2, 3))),
        "ln": LayerNorm(Box(new(2, 3))),
        "fc": {"kernel": Unnamed(new(2, 3)), "bias": Box(new(2, 3))},
        "LayerNorm_0": {"w": Box(new(2, 3))},
    }
    rules = {d.parameter.name: d.included for d in decide(collect(params))}
    assert rules == {
        "norm_proj.weight": True,
        "ln.weight": False,
        "fc.kernel": False,
        "fc.bias": False,
        "LayerNorm_0.w": False,
    }
    assert fastreg.penalty(params, l2=1.0, select="*.kernel") == 6.0


class Variable:
    """What fastreg sees of a Keras variable."""

    __module__ = "keras.src.backend.numpy"

    def __init__(self, path, value, trainable=True):
        self.path, self.name, self.value = path, path.split("/")[-1], value
        self.trainable = trainable
        self.shape, self.dtype = value.shape, value.dtype


class Layer:
    """What fastreg sees of a Keras model."""

    __module__ = "keras.src.layers"

    def __init__(self, variables):
        self.weights = variables
        self.trainable_variables = [v for v in variables if v.trainable]


def test_keras_models():
    model = Layer(
        [
            Variable("dense/kernel", new(2, 3)),
            Variable("dense/bias", new(3)),
            Variable("batch_normalization/moving_mean", new(3), False),
            Variable("frozen/kernel", new(2, 3), False),
        ]
    )
    want = [v.path for v in model.weights]
    assert names(model) == want
    assert names(model.weights) == want
    assert [d.included for d in decide(collect(model))] == [True, False, False, False]
    planned = fastreg.plan(model, l2=1.0)
    assert planned.value() == 6.0
    model.weights[0].value = new(2, 3)
    with pytest.raises(fastreg.errors.StaleError, match="dense/kernel"):
        planned.value()


# --- selection -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "included"),
    [
        ("encoder.layer.0.attention.self.query.weight", (4, 4), True),
        ("embeddings.word_embeddings.weight", (9, 4), True),
        ("conv/kernel", (3, 3, 1, 8), True),
        ("relative_attention_bias.weight", (4, 4), True),
        ("blocks.0.norm1.linear.weight", (4, 4), True),
        ("abnormal.weight", (4, 4), True),
        ("normal_head.kernel", (4, 4), True),
        ("enormous.weight", (4, 4), True),
        ("weight", (4, 4), True),
        ("encoder.bias", (4, 4), False),
        ("lstm.bias_ih_l0", (4, 4), False),
        ("attn.in_proj_bias", (4, 4), False),
        ("intercept_", (4, 4), False),
        ("linear/b", (4, 4), True),
        ("enormity.w", (4, 4), True),
        ("scaled.kernel", (4, 4), True),
        ("decoder.embed_positions.weight", (9, 4), True),
        ("embed.token", (9, 4), True),
        ("embed_tokens", (9, 4), True),
        ("encoder.InstanceNorm_0.w", (2, 4), False),
        ("prenorm.w", (2, 4), False),
        ("blocks.0.norm_weight", (1, 4), False),
        ("vit.cls", (1, 1, 4), False),
        ("vit.class_token", (1, 1, 4), False),
        ("encoder.pos_embedding", (1, 9, 4), False),
        ("encoder.absolute_pos_embed", (1, 9, 4), False),
        ("attn.rel_pos_w", (9, 4), False),
        ("attn.relative_position_bias_table", (9, 2), False),
        ("blocks.0.gamma_2", (1, 4), False),
        ("visual.logit_scale", (1, 1), False),
        ("mixer.A_log", (4, 8), False),
        ("mixer.log", (4, 8), True),
        ("blocks.0.layer_scale_1", (4, 1, 1), False),
        ("stack.layer_norm.scale", (12, 4), False),
        ("LayerNorm.weight", (12, 4), False),
        ("batch_normalization_3/gamma:0", (2, 4), False),
        ("bn1.weight", (2, 4), False),
        ("ln_f.g", (2, 4), False),
        ("x.beta", (2, 4), False),
        ("x.running_mean", (2, 4), False),
        ("dense.kernel", (4,), False),
        ("dense.kernel", (), False),
    ],
)
def test_kernels_rule(name, shape, included):
    (decision,) = decide(collect([(name, new(*shape) if shape else np.array(1.0))]))
    assert decision.included == included, decision.rule
    assert decision.rule


@pytest.mark.parametrize(
    ("shapes", "kernels"),
    [
        ({"n.weight": (3, 4), "n.bias": (3, 4)}, []),
        ({"n.w": (3, 4), "n.running_var": (3, 4)}, []),
        ({"n/a": (3, 4), "n/beta": (3, 4)}, []),
        ({"n/kernel:0": (3, 4), "n/bias:0": (3, 4)}, []),
        ({"n.weight": (3, 4), "m.bias": (3, 4)}, ["n.weight"]),
        ({"stack.weight": (5, 3, 4), "stack.bias": (5, 3)}, ["stack.weight"]),
        ({"weight": (4,), "bias": (4,), "kernel": (4, 4)}, ["kernel"]),
    ],
)
def test_a_bias_of_the_shape_of_its_weight_tells_a_scale(shapes, kernels):
    params = {name: new(*shape) for name, shape in shapes.items()}
    assert [d.parameter.name for d in decide(collect(params)) if d.included] == kernels
    if kernels:
        want = fastreg.sum_squares(params[kernels[0]], dtype="float64")
        assert fastreg.penalty(params, l2=1.0) == want


def test_integers_are_no_kernels():
    decision = decide(collect({"ids": np.ones((2, 2), np.int64)}))[0]
    assert (decision.included, decision.rule) == (False, "int64 is no float type with kernels")


@pytest.mark.parametrize(
    ("select", "want"),
    [
        ("all", [1, 1, 1]),
        ("kernels", [1, 0, 1]),
        ("a.*", [1, 1, 0]),
        ("*.kernel", [1, 0, 1]),
        ("re:^b|bias", [0, 1, 1]),
        (re.compile("BIAS", re.IGNORECASE), [0, 1, 0]),
        (lambda name, x: x.ndim == 1, [0, 1, 0]),
        (lambda name, x: np.bool_(name == "b.kernel"), [0, 0, 1]),
        (["a.b*", "re:^b"], [0, 1, 1]),
        (("kernels", "a.bias"), [1, 1, 1]),
        (True, [1, 1, 1]),
        (False, [0, 0, 0]),
        ({"a": {"kernel": True, "bias": False}, "b": {"kernel": True}}, [1, 0, 1]),
        ({"a": False, "b": True}, [0, 0, 1]),
    ],
)
def test_select(select, want):
    params = {"a": {"kernel": new(2, 2), "bias": new(3)}, "b": {"kernel": new(2, 2)}}
    decisions = decide(collect(params), select)
    assert [int(d.included) for d in decisions] == want
    assert all(d.rule for d in decisions)


@pytest.mark.parametrize(
    "select",
    [
        "re:(",
        3,
        1.5,
        lambda name, x: "yes",
        lambda name, x: x > 0,
        {"a": True},
        {"a": True, "b": True, "c": True},
        {"a": {"kernel": "yes", "bias": True}, "b": True},
        b"all",
        ["a.*", True],
    ],
)
def test_bad_select(select):
    params = {"a": {"kernel": new(2, 2), "bias": new(3)}, "b": {"kernel": new(2, 2)}}
    with pytest.raises(ArgumentError):
        fastreg.penalty(params, l2=1.0, select=select)


@pytest.mark.parametrize(
    "select", ["kernels", "lyaer*", "re:nothing", re.compile("nothing"), ["bias", "lyaer*"]]
)
def test_a_rule_that_takes_nothing_is_an_error(select):
    with pytest.raises(ArgumentError, match="takes none"):
        fastreg.penalty({"bias": new(3)}, l2=1.0, select=select)
    assert fastreg.penalty({}, l2=1.0, select=select) == 0.0


# --- weights ---------------------------------------------------------------------------------

PARAMS = {"a.kernel": new(2, 2), "a.bias": new(3), "b.kernel": new(2, 2)}


@pytest.mark.parametrize(
    ("weight", "want"),
    [
        (2, [2.0, 2.0, 2.0]),
        (np.float32(0.5), [0.5, 0.5, 0.5]),
        ({"a.kernel": 3.0}, [3.0, 7.0, 7.0]),
        ({"*.kernel": 3.0, "a.*": 4.0}, [3.0, 4.0, 3.0]),
        ({"*": 5.0, "a.bias": 0.0}, [5.0, 0.0, 5.0]),
        (lambda name, x: x.ndim, [2.0, 1.0, 2.0]),
    ],
)
def test_weights(weight, want):
    assert resolve(weight, collect(PARAMS), what="weights", rest=7.0) == want


@pytest.mark.parametrize(
    "bad", [-1.0, np.nan, np.inf, [1.0], {"a.kernel": -1.0}, {"typo*": 1.0}, lambda name, x: np.nan]
)
@pytest.mark.parametrize("argument", ["l1", "l2", "weights"])
def test_bad_weights(argument, bad):
    with pytest.raises(ArgumentError, match=argument):
        fastreg.penalty(PARAMS, **{"l1": 1.0, "l2": 1.0, argument: bad}, select="all")


def test_weights_multiply_and_the_convention_halves():
    l1, l2 = weights_of(collect(PARAMS), 0.1, {"*.kernel": 0.2}, {"a.*": 3.0}, "half")
    assert l1 == [0.1 * 3.0, 0.1 * 3.0, 0.1]
    assert l2 == [0.2 * 3.0 * 0.5, 0.0, 0.1]
    with pytest.raises(ArgumentError, match=r"l2 \* weights"):
        weights_of(collect(PARAMS), 0.0, 1e200, {"a.kernel": 1e200}, "keras")
    with pytest.raises(ArgumentError, match="convention"):
        weights_of(collect(PARAMS), 0.0, 1.0, 1.0, "torch")


# --- explain ---------------------------------------------------------------------------------


def test_explain_names_the_rules():
    text = io.StringIO()
    fastreg.explain({**PARAMS, "tied": PARAMS["a.kernel"].T, "\x1b[31m": new(2, 2)}, file=text)
    lines = text.getvalue().splitlines()
    assert lines[1].split() == ["in", "a.kernel", "2×2", "4", "a", "kernel"]
    assert "a bias, by its name 'bias'" in lines[2]
    assert "'a.kernel' is also tied: counted once" in lines
    assert "3 of 4 arrays in, 12 of 15 elements" in lines
    assert "\x1b" not in text.getvalue()


def test_explain_fits_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    params = {
        f"encoder.layer.{k}.attention.output.dense.{part}": new(2, 2)
        for k in range(3)
        for part in ("weight", "bias", "LayerNorm.weight")
    }
    text = Terminal()
    fastreg.explain(params, file=text)
    assert max(map(len, text.getvalue().splitlines())) <= 80
    assert ".2.a.o.d.bias" in text.getvalue() or "bias" in text.getvalue()


def test_explain_on_an_ascii_stream():
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as text:
        fastreg.explain(PARAMS, file=text)
        text.flush()
        assert b"2x2" in raw.getvalue()


def test_deques_are_lists_with_optree_and_without():
    """optree knows deques, and the frameworks bring optree along."""
    pytest.importorskip("optree", reason="optree is not installed")
    w, b = new(2, 3), new(3)
    assert names(deque([w, b])) == ["0", "1"]
    assert not gather(deque([w, b])).named
    assert fastreg.penalty(deque([w, b]), l2=1.0) == 9.0


def test_a_name_comes_before_a_glob():
    a, b = np.ones((2, 2)), np.full((2, 2), 3.0)
    assert fastreg.penalty({"w[0]": a, "w0": b}, l2=1.0, select="w[0]") == 4.0
    assert fastreg.penalty({"w0": b, "w1": a}, l2=1.0, select="w[0]") == 36.0


def test_a_bias_of_its_shape_tells_a_scale_only_of_its_own_layer():
    ones = np.ones((3, 4))
    norm = {"weight": ones, "bias": ones.copy()}
    attention = {"w_q": ones.copy(), "rel_bias": ones.copy(), "weight": ones.copy()}
    assert fastreg.plan({"ensemble": norm, "attention": attention}, l2=1.0).names == [
        "attention.w_q",
        "attention.weight",
    ]


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float128", "complex64"])
def test_kernels_of_types_without_kernels_are_not_left_out_in_silence(dtype):
    """They are refused by name; frozen ones, biases and what select= leaves out are not."""
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    odd = np.ones((2, 2)).astype(dtype)
    params = {"a": {"kernel": np.ones((2, 2))}, "b": {"kernel": odd, "bias": odd[0]}}
    for verb in (
        lambda p: fastreg.penalty(p, l2=1.0),
        lambda p: fastreg.penalty(p, l2=1.0, select="kernels"),
        lambda p: fastreg.plan(p, l2=1.0),
        lambda p: fastreg.value_and_gradient(p, l2=1.0),
        lambda p: fastreg.decay_(p, 0.5),
    ):
        with pytest.raises(DTypeError, match=r"'b\.kernel' of .*convert it, or .* select="):
            verb(params)
    assert fastreg.penalty(params, l2=1.0, select="a.*") == 4.0
    del params["b"]["kernel"]
    assert fastreg.penalty(params, l2=1.0) == 4.0


def test_a_name_that_looks_like_a_glob_is_a_name():
    params = {"w[0]": np.ones((2, 2)), "w0": np.full((2, 2), 3.0), "w1": np.ones((2, 2))}
    assert fastreg.penalty(params, l2={"w[0]": 1.0}) == 4.0
    assert fastreg.penalty(params, l2={"w[0]": 1.0, "w[01]": 2.0}) == 4.0 + 2.0 * (36.0 + 4.0)
    assert fastreg.penalty(params, l2=1.0, weights={"w[0]": 0.0}) == 40.0


@pytest.mark.parametrize("what", ["l2", "weights", "select"])
def test_callables_of_one_argument_are_refused(what):
    arguments = {"l2": 1.0, what: lambda name: True if what == "select" else 1.0}
    said = rf"callable {what}= of two arguments.*\(name\); write it as lambda name, array"
    with pytest.raises(ArgumentError, match=said):
        fastreg.penalty({"w": X}, **arguments)
    arguments[what] = lambda *names: True if what == "select" else 1.0
    assert fastreg.penalty({"w": X}, **arguments) == 6.0


def test_positions_are_names_of_a_list():
    stats = fastreg.stats([np.ones(2), np.ones(3)])
    assert stats[1] == stats["1"]
    assert stats[1]["n"] == 3
    for select in (0, [0], [0, 1]):
        with pytest.raises(ArgumentError, match="pass the name, '0' for position 0"):
            fastreg.penalty([np.ones(2), np.ones(3)], l2=1.0, select=select)
    assert fastreg.penalty([np.ones(2), np.ones(3)], l2=1.0, select="0") == 2.0


def test_statistics_of_equal_names_are_not_lost():
    stats = fastreg.stats([("a", np.ones(2)), ("a", np.ones(3)), ("b", np.ones(1))])
    for lose in (dict, lambda s: s["a"]):
        with pytest.raises(KeyError, match="a name that one array has"):
            lose(stats)
    assert stats["b"]["n"] == 1
    assert [a["n"] for a in stats.to_dict()["arrays"]] == [2, 3, 1]
