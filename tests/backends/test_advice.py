# SPDX-License-Identifier: BSD-3-Clause
"""What an error says to do is done: its code is executed, and gives the right number.

Every object here holds numbers that no function reads as they are, or none at all. What an error
advises is followed until a number comes out, which must be the exact one.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import re
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import fastreg
from fastreg.errors import DTypeError, FastregError, LayoutError

A = np.array([[3.0, -4.0, 0.0], [0.0, 12.0, 0.0]])
SQUARES = 169.0
NONE = None  # holds no numbers

VERBS = {
    "sum_squares": fastreg.sum_squares,
    "value": lambda x: fastreg.value(x, l2=1.0),
    "value_and_gradient": lambda x: fastreg.value_and_gradient(x, l2=1.0)[0],
    "penalty": lambda x: fastreg.penalty(x, l2=1.0, select="all"),
    "list": lambda x: fastreg.penalty([x], l2=1.0),
    "dict": lambda x: fastreg.penalty({"w": x}, l2=1.0, select="all"),
    "norm": lambda x: fastreg.global_norm([x]) ** 2,
    "stats": lambda x: fastreg.stats([x], integers=True).total["sum_squares"],
    "plan": lambda x: fastreg.plan([x], l2=1.0).value(),
}


def parts(text: str) -> list[str]:
    """Split advice at ", " and " or " outside of brackets and quotes."""
    out, depth, quoted, last, k = [], 0, "", 0, 0
    while k < len(text):
        c = text[k]
        if quoted:
            quoted = "" if c == quoted else quoted
        elif c in "'\"":
            quoted = c
        else:
            depth += (c in "([{") - (c in ")]}")
            for mark in (", ", " or "):
                if depth == 0 and text.startswith(mark, k):
                    out.append(text[last:k])
                    last = k = k + len(mark)
                    break
        k += 1
    return [*out, text[last:]]


def expressions(advice: str) -> list[str]:
    """The expressions of x in advice."""
    found = []
    for part in parts(advice):
        words = re.sub(r"^(?:or )?(?:(?:pass|use|call|for example with) )?", "", part).split(" ")
        for end in range(len(words), 0, -1):
            code = " ".join(words[:end])
            try:
                tree = ast.parse(code, mode="eval")
            except SyntaxError:
                continue
            if any(isinstance(n, ast.Name) and n.id == "x" for n in ast.walk(tree)):
                found.append(code)
            break
    return found


def test_expressions():
    assert expressions(
        "pass x.view(x.real.dtype), which keeps both parts, or abs(x), its modulus"
    ) == [
        "x.view(x.real.dtype)",
        "abs(x)",
    ]
    assert expressions("pass {name: a[...] for name, a in x.arrays()}") == [
        "{name: a[...] for name, a in x.arrays()}"
    ]
    assert expressions("call fastreg.jax, or pass jax.device_get(x)") == ["jax.device_get(x)"]
    assert expressions("leave it out: it holds no numbers") == []


def library(name: str):
    return pytest.importorskip(name, reason=f"{name} is not installed")


class Namespace(dict):
    """Modules by the names that advice uses, imported when they are first needed."""

    def __missing__(self, name: str):
        try:
            return importlib.import_module({"tf": "tensorflow"}.get(name, name))
        except ImportError:
            raise KeyError(name) from None


def follow(verb, x, squares, steps: int = 0) -> None:
    """Do as the errors say until a number comes, along every way that they name."""
    assert steps < 5, "advice that leads nowhere"
    try:
        result = verb(x)
    except FastregError as e:
        text = str(e)
        assert re.search(r"expected .+; received .+; .+", text, re.DOTALL), text
        advice = text.rsplit("; ", 1)[1]
    else:
        assert steps, "was to be refused"
        assert float(result) == squares
        return
    if squares is NONE:
        assert advice.startswith("leave it out"), text
        return
    if advice.startswith("pass it to fastreg.penalty"):
        follow(VERBS["penalty"], x, squares, steps + 1)
        return
    codes = expressions(advice)
    assert codes, text
    for code in codes:
        follow(verb, eval(code, Namespace(x=x)), squares, steps + 1)


def h5py_file(tmp_path):
    f = library("h5py").File(tmp_path / "w.h5", "w")
    f["a"], f["text"] = A, "text"
    return f


def zarr_group():
    group = library("zarr").group()
    group.create_array("a", data=A)
    return group


class OnlyArray:
    def __array__(self, dtype=None, copy=None):
        return A


class Interface:
    def __init__(self, data, shape):
        self.__array_interface__ = {
            "data": data,
            "shape": shape,
            "typestr": "<f8",
            "version": 3,
        }


def coo_with_a_sum():
    rows, columns = [0, 0, 0, 1], [0, 1, 1, 1]
    return library("scipy.sparse").coo_array(([3.0, -1.0, -3.0, 12.0], (rows, columns)), (2, 3))


def csr_with_a_sum():
    data, columns, ends = (
        np.array([3.0, -1.0, -3.0, 12.0]),
        np.array([0, 1, 1, 1]),
        np.array([0, 3, 4]),
    )
    return library("scipy.sparse").csr_array((data, columns, ends), (2, 3))


def pandas(name: str, *args, **options):
    return getattr(library("pandas"), name)(*args, **options)


def complex_of(a):
    """Σ|z|² of it is 169."""
    return np.array([[3.0 + 4.0j, 0.0], [12.0j, 0.0]], a)


FOREIGN = {
    "h5py dataset": (lambda tmp: h5py_file(tmp)["a"], SQUARES, "Dataset of h5py"),
    "h5py text": (lambda tmp: h5py_file(tmp)["text"], NONE, "Dataset of h5py"),
    "zarr array": (lambda _: library("zarr").array(A), SQUARES, "Array of zarr"),
    "zarr group": (lambda _: zarr_group(), SQUARES, "Group of zarr"),
    "xarray": (lambda _: library("xarray").DataArray(A), SQUARES, "DataArray of xarray"),
    "series": (lambda _: pandas("Series", A.ravel()), SQUARES, "Series of pandas"),
    "nullable integers": (
        lambda _: pandas("array", [3, -4, 12], dtype="Int64"),
        SQUARES,
        "IntegerArray of pandas",
    ),
    "frame": (lambda _: pandas("DataFrame", A), SQUARES, "DataFrame of pandas"),
    "frame with names": (
        lambda _: pandas("DataFrame", {"a": [3.0, 4.0, 12.0], "name": ["p", "q", "r"]}),
        SQUARES,
        "DataFrame of pandas",
    ),
    "index": (lambda _: pandas("Index", A.ravel()), SQUARES, "Index of pandas"),
    "texts of pandas": (lambda _: pandas("Series", ["p", "q"]), NONE, "Series of pandas"),
    "dates of pandas": (lambda _: pandas("to_datetime", ["2020-01-01"]), NONE, "of pandas"),
    "dask": (lambda _: library("dask.array").from_array(A), SQUARES, "Array of dask"),
    **{
        kind: (
            lambda _, kind=kind: getattr(library("scipy.sparse"), kind)(A),
            SQUARES,
            f"{kind} of scipy",
        )
        for kind in ("csr_matrix", "csr_array", "csc_array", "coo_array", "dok_array", "lil_array")
    },
    "dia_array": (
        lambda _: library("scipy.sparse").dia_array(
            ([[3.0, 4.0, 99.0, 99.0], [99.0, 12.0, 0.0, 9.0]], [0, 1]), (2, 2)
        ),
        SQUARES,
        "dia_array of scipy",
    ),
    "coo with a sum": (lambda _: coo_with_a_sum(), SQUARES, "coo_array of scipy"),
    "csr with a sum": (lambda _: csr_with_a_sum(), SQUARES, "csr_array of scipy"),
    "masked": (
        lambda _: np.ma.array([3.0, 99.0, 4.0, 12.0], mask=[0, 1, 0, 0]),
        SQUARES,
        "MaskedArray",
    ),
    "only __array__": (lambda _: OnlyArray(), SQUARES, "OnlyArray"),
    "big endian": (lambda _: A.astype(">f8"), SQUARES, "byte order '>'"),
    "complex": (lambda _: complex_of("c16"), SQUARES, "complex128"),
    "complex, strided": (lambda _: complex_of("c8").T, SQUARES, "complex64"),
    "complex, 0-d": (lambda _: np.array(5.0 + 12.0j), SQUARES, "complex128"),
    "complex scalar": (lambda _: np.complex64(5.0 + 12.0j), SQUARES, "complex64"),
    "object": (lambda _: A.astype(object), SQUARES, "object"),
    "longdouble": (lambda _: A.astype(np.longdouble), SQUARES, np.dtype(np.longdouble).name),
    "float8": (lambda _: A.astype(ml_dtypes.float8_e4m3fn), SQUARES, "float8_e4m3fn"),
    "int4": (lambda _: np.array([3, -4], ml_dtypes.int4), 25.0, "int4"),
    "structured": (
        lambda _: np.array([(3.0, 4.0), (0.0, 12.0)], [("p", "f8"), ("q", "f4")]),
        SQUARES,
        "void",
    ),
    "texts": (lambda _: np.array(["p"]), NONE, "str"),
    "dates": (lambda _: np.array(["2020"], "M8[D]"), NONE, "datetime64"),
    "number": (lambda _: 13.0, SQUARES, "float"),
    "fraction": (lambda _: Fraction(13), SQUARES, "Fraction"),
    "numbers": (lambda _: [3.0, 4.0, 12.0], SQUARES, "of class"),
    "text": (lambda _: "text", NONE, "str"),
    "function": (lambda _: len, NONE, "builtin_function"),
}


def is_read(verb: str, named: str) -> bool:
    """Statistics read floats of one byte as they are."""
    return verb == "stats" and named.startswith("float8")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_arrays(kind, verb, tmp_path):
    make, squares, named = FOREIGN[kind]
    x = make(tmp_path)
    if is_read(verb, named):
        assert VERBS[verb](x) == squares
        return
    with pytest.raises(DTypeError) as e:
        VERBS[verb](x)
    assert named in str(e.value)
    follow(VERBS[verb], x, squares)


@pytest.mark.parametrize("verb", VERBS)
def test_containers_of_foreign_arrays(verb, tmp_path):
    """A mapping is walked; what stands in it is named with its place."""
    dataset = library("xarray").Dataset({"a": (("p", "q"), A)})
    for x, item in ((dataset, "DataArray of xarray"), (h5py_file(tmp_path), "Dataset of h5py")):
        with pytest.raises(DTypeError) as e:
            VERBS[verb](x)
        if "fastreg.penalty" in str(e.value):
            with pytest.raises(DTypeError) as e:
                VERBS["penalty"](x)
        assert re.search(rf"at '[\w.]*a': .*{item}", str(e.value))


def lying(name: str, answer):
    """An array of a class whose attribute says something else."""
    kind = type("Lying", (np.ndarray,), {name: property(lambda self: answer)})
    return np.array([[3.0, 4.0, 12.0]], np.float32).view(kind)


READ = {
    "ctypes": (lambda: (ctypes.c_double * 3)(3.0, 4.0, 12.0), SQUARES),
    "ctypes, 2-d": (lambda: ((ctypes.c_double * 2) * 2)((3.0, 4.0), (12.0, 0.0)), SQUARES),
    "memoryview": (lambda: memoryview(A), SQUARES),
    "matrix": (lambda: A.view(np.matrix), SQUARES),
    "interface": (lambda: Interface((A.ctypes.data, True), A.shape), SQUARES),
    "no elements at NULL": (lambda: Interface((0, False), (0, 3)), 0.0),
    "another type": (lambda: lying("dtype", np.dtype("f8")), SQUARES),
    "another shape": (lambda: lying("shape", (1000, 1000)), SQUARES),
    "another size": (lambda: lying("size", 0), SQUARES),
    "another stride": (lambda: lying("strides", (4000, 400)), SQUARES),
    "another place": (lambda: lying("__array_interface__", {"data": (0, False)}), SQUARES),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", READ)
def test_what_is_read_everywhere(kind, verb):
    """The memory decides, not what a class says of it."""
    make, squares = READ[kind]
    assert VERBS[verb](make()) == squares


def test_elements_at_null_are_refused():
    for verb in VERBS.values():
        with pytest.raises(DTypeError, match="Interface"):
            verb(Interface((0, False), (2, 3)))


def test_a_mapping_that_is_sparse_is_one_array():
    """SciPy's dok_array is a dict, whose items are no arrays of a model."""
    dok = library("scipy.sparse").dok_array(A)
    with pytest.raises(DTypeError, match=r"'w'.*dok_array of scipy"):
        fastreg.stats({"w": dok})


# -- JAX -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jax():
    library("jax")
    import jax

    return jax


@pytest.fixture(scope="module")
def fjax(jax):
    import fastreg.jax

    return fastreg.jax


def jax_verbs(fjax):
    return [
        *VERBS.values(),
        lambda x: fjax.penalty(x, l2=1.0, select="all"),
        lambda x: fjax.penalty({"w": x}, l2=1.0, select="all"),
        lambda x: fjax.value_and_gradient([x], l2=1.0)[0],
        lambda x: fjax.global_norm([x]) ** 2,
    ]


def test_arrays_of_jax(jax, fjax):
    from jax.experimental import sparse

    jnp = jax.numpy
    cases = [
        (jnp.asarray(complex_of("c8")), SQUARES, "complex64"),
        (jnp.asarray(A, jnp.float8_e4m3fn), SQUARES, "float8_e4m3fn"),
        (sparse.BCOO.fromdense(jnp.asarray(A)), SQUARES, "BCOO of jax"),
        (jax.random.key(0), NONE, "key<fry>"),
        (jax.random.split(jax.random.key(0), 3), NONE, "key<fry>"),
        (jax.ShapeDtypeStruct((2, 3), jnp.float32), NONE, "ShapeDtypeStruct of jax"),
    ]
    if hasattr(jax, "new_ref"):
        cases.append((jax.new_ref(jnp.asarray(A)), SQUARES, "Ref of jax"))
    for x, squares, named in cases:
        for verb in jax_verbs(fjax):
            if verb is VERBS["stats"] and is_read("stats", named):
                assert verb(x) == squares
                continue
            with pytest.raises(DTypeError, match=re.escape(named)):
                verb(x)
            follow(verb, x, squares)
    for verb in VERBS.values():  # which is what stands for no gradient in fastreg.jax
        follow(verb, np.zeros(3, jax.dtypes.float0), NONE)


def test_deleted_arrays_of_jax(jax, fjax):
    x = jax.numpy.asarray(A) + 1.0
    x.delete()
    for verb in jax_verbs(fjax):
        with pytest.raises(LayoutError, match="a deleted one"):
            verb(x)


def test_arrays_of_jax_on_many_devices(jax):
    """One that every device holds whole is read; one in parts is not, and the advice works."""
    code = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy as np, fastreg
mesh = jax.sharding.Mesh(np.array(jax.devices()), "d")
def put(*axes):
    spec = jax.sharding.PartitionSpec(*axes)
    return jax.device_put(np.full((4, 3), 2.0, "f4"), jax.sharding.NamedSharding(mesh, spec))
assert fastreg.sum_squares(put()) == 48.0
assert fastreg.penalty({"w": put()}, l2=1.0) == 48.0 == fastreg.stats([put()]).total["sum_squares"]
for verb in (fastreg.sum_squares, lambda x: fastreg.penalty([x], l2=1.0)):
    try:
        verb(put("d"))
    except TypeError as e:
        assert "sharded over 2 devices" in str(e) and "jax.device_get(x)" in str(e), e
    else:
        raise AssertionError
    assert verb(jax.device_get(put("d"))) == 48.0
import fastreg.jax
assert fastreg.jax.penalty(put("d"), l2=1.0) == 48.0
"""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_traced_arrays_of_jax(jax, fjax):
    """The message names what serves within jit, and that does."""
    for verb in VERBS.values():
        for traced in (jax.jit(verb), jax.grad(verb)):
            with pytest.raises(DTypeError, match=r"traced.*the same function of fastreg\.jax"):
                traced(jax.numpy.asarray(A))
    assert jax.jit(lambda x: fjax.penalty([x], l2=1.0))(jax.numpy.asarray(A)) == SQUARES


def test_writing_arrays_of_jax(jax, fjax):
    for name, arguments in (
        ("decay_", (0.5,)),
        ("clip_by_global_norm_", (1.0,)),
        ("prox_", (1.0,)),
    ):
        extra = {"l1": 1.0} if name == "prox_" else {}
        x = jax.numpy.asarray(A)
        with pytest.raises(DTypeError, match=r"call the same function of fastreg\.jax"):
            getattr(fastreg, name)([x], *arguments, **extra)
        assert getattr(fjax, name.removesuffix("_"))([x], *arguments, **extra) is not None


# -- TensorFlow ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    return library("tensorflow")


@pytest.fixture(scope="module")
def ftf(tf):
    import fastreg.tensorflow

    return fastreg.tensorflow


def tensorflow_verbs(ftf):
    return [
        *VERBS.values(),
        lambda x: ftf.penalty(x, l2=1.0, select="all"),
        lambda x: ftf.penalty({"w": x}, l2=1.0, select="all"),
        lambda x: ftf.value_and_gradient([x], l2=1.0)[0],
        lambda x: ftf.global_norm([x]) ** 2,
    ]


def test_tensors_that_are_refused(tf, ftf):
    """Asked for its memory by DLPack, a tensor of strings would end the process."""
    cases = [
        (tf.constant(complex_of("c8")), SQUARES, "complex64"),
        (tf.cast(A, tf.dtypes.experimental.float8_e4m3fn), SQUARES, "float8_e4m3fn"),
        (tf.sparse.from_dense(A), SQUARES, "SparseTensor of tensorflow"),
        (tf.constant(["text"]), NONE, "string"),
        (tf.TensorSpec((2, 3)), NONE, "TensorSpec of tensorflow"),
    ]
    for x, squares, named in cases:
        for verb in tensorflow_verbs(ftf):
            if verb is VERBS["stats"] and is_read("stats", named):
                assert verb(x) == squares
                continue
            with pytest.raises(DTypeError, match=re.escape(named)):
                verb(x)
            follow(verb, x, squares)


def test_tensors_that_are_read(tf, ftf):
    """Variables of every kind, ragged tensors, and slices as the dense tensor they stand for."""
    table = tf.Variable(tf.ones((6, 2)))
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(tf.gather(table, [1, 1, 3]) * [[3.0, 0.0], [2.0, 0.0], [0.0, 12.0]])
    slices = tape.gradient(y, table)
    assert isinstance(slices, tf.IndexedSlices)
    for x in (
        tf.constant(A),
        tf.Variable(A),
        tf.Variable(A, shape=tf.TensorShape(None)),
        tf.ragged.constant([[3.0, 4.0], [12.0]]),
        slices,
        tf.IndexedSlices(slices.values, slices.indices),
    ):
        for verb in VERBS.values():
            assert float(verb(x)) == SQUARES
    shape_of = fastreg.stats({"w": slices})["w"]["shape"]
    assert shape_of == [6, 2]
    assert (
        fastreg.gradient(slices, l2=0.5).tolist() == tf.convert_to_tensor(slices).numpy().tolist()
    )


def test_sharded_variables(tf, ftf):
    sharded = pytest.importorskip("tensorflow.python.distribute.sharded_variable")
    shards = [tf.Variable(tf.fill((2, 3), 2.0)), tf.Variable(tf.fill((3, 3), 3.0))]
    x = sharded.ShardedVariable(shards)
    for container in (x, [x], {"w": x}, [x, shards[1]]):
        assert fastreg.penalty(container, l2=1.0) == 105.0
        assert float(ftf.penalty(container, l2=1.0)) == 105.0
    for gradient in (fastreg.value_and_gradient(x, l2=0.5)[1], ftf.gradient(x, l2=0.5)):
        assert [np.asarray(g).tolist() for g in gradient] == [s.numpy().tolist() for s in shards]
    assert fastreg.stats({"w": x}).names == ("w.0", "w.1")
    with pytest.raises(
        DTypeError, match=r"ShardedVariable of tensorflow.*; pass it to fastreg\.penalty"
    ):
        fastreg.sum_squares(x)


def test_traced_tensors(tf, ftf):
    for verb in VERBS.values():
        with pytest.raises(DTypeError, match=r"within tf.function, call .* of fastreg\.tensorflow"):
            tf.function(verb, autograph=False)(tf.constant(A))
    traced = tf.function(lambda x: ftf.penalty([x], l2=1.0), autograph=False)
    assert float(traced(tf.constant(A))) == SQUARES


def test_symbolic_tensors(tf, ftf):
    keras = library("keras")
    x = keras.KerasTensor((2, 3))
    for verb in tensorflow_verbs(ftf):
        with pytest.raises(DTypeError, match=r"call fastreg\.keras within a layer's call\(\)"):
            verb(x)


def test_writing_tensors(tf, ftf):
    v = tf.Variable(A)
    with pytest.raises(DTypeError, match=r"call the same function of fastreg\.tensorflow"):
        fastreg.decay_([v], 0.5)
    ftf.decay_([v], 0.5)
    assert v.numpy().tolist() == (A / 2).tolist()
    with pytest.raises(DTypeError, match=r"call the same function of fastreg\.tensorflow"):
        fastreg.clip_by_global_norm_([tf.constant(A)], 6.5)
    assert ftf.clip_by_global_norm([tf.constant(A)], 6.5)[0][0].numpy().tolist() == (A / 2).tolist()


# -- Torch and Keras -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:.*quant.*deprecated")
def test_tensors_of_torch():
    torch = library("torch")
    ft = importlib.import_module("fastreg.torch")
    nested = torch.nested.nested_tensor(
        [torch.tensor([3.0, 4.0]), torch.tensor([12.0])], layout=torch.jagged
    )
    z = torch.tensor(complex_of("c8"))
    cases = [
        (z, SQUARES, "complex64"),
        (z.conj(), SQUARES, "complex64"),
        (torch.tensor(A).to(torch.float8_e4m3fn), SQUARES, "float8_e4m3fn"),
        (torch.tensor(A).to_sparse(), SQUARES, "sparse"),
        (torch.tensor(A).to_sparse_csr(), SQUARES, "sparse"),
        (torch.quantize_per_tensor(torch.tensor(A).float(), 1.0, 0, torch.qint8), SQUARES, "qint8"),
        (nested, SQUARES, "nested"),
    ]
    for x, squares, named in cases:
        for verb in (
            fastreg.sum_squares,
            VERBS["list"],
            lambda x: ft.penalty(x, l2=1.0),
            lambda x: ft.penalty([x], l2=1.0),
        ):
            with pytest.raises(DTypeError, match=named):
                verb(x)
            follow(verb, x, squares)


# -- Numbers and names -----------------------------------------------------------------------------


def test_weights_that_are_tensors(jax, fjax):
    l2 = jax.numpy.float32(0.5)
    penalty = fastreg.penalty
    with pytest.raises(DTypeError, match="expected a number as weight l2") as e:
        penalty([A], l2=l2)
    x, codes = [A], str(e.value).rsplit("; ", 1)[1]
    first, second = parts(codes.removeprefix("pass "))
    assert penalty(x, l2=eval(first)) == SQUARES / 2
    assert eval(second.removeprefix("or multiply: ")) == SQUARES / 2


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: {1: a, "1": b},
        lambda a, b: [("w", a), ("w", b)],
        lambda a, b: {"p": {"q": a}, "p.q": b},
    ],
    ids=["keys", "pairs", "dots"],
)
def test_names_that_collide(make):
    """Of two arrays of one name a dict would lose a gradient."""
    a, b = np.ones((2, 2)), np.full((2, 2), 2.0)
    for backend, tensor in (
        (fastreg, lambda x: x),
        ("torch", lambda x: library("torch").from_numpy(x)),
        ("tensorflow", lambda x: library("tensorflow").constant(x)),
    ):
        if isinstance(backend, str):
            backend = importlib.import_module(f"fastreg.{backend}")
        params = make(tensor(a), tensor(b))
        with pytest.raises(LayoutError, match=r"distinct names.*pass a list of the arrays"):
            backend.value_and_gradient(params, l2=1.0, select="all")
        as_list = [tensor(a), tensor(b)]
        assert len(backend.value_and_gradient(as_list, l2=1.0)[1]) == 2


def test_variables_without_names(tf, ftf):
    variables = [tf.Variable(A), tf.Variable(2 * A)]
    module = tf.Module()
    module.parts = variables
    for backend in (fastreg, ftf):
        assert len(backend.value_and_gradient(variables, l2=1.0)[1]) == 2
        with pytest.raises(LayoutError, match="distinct names"):
            backend.value_and_gradient(module, l2=1.0)


def test_one_array_takes_what_containers_take():
    x = np.array([3.0, -4.0])
    for asked, value in (
        ({"l2": 1.0, "convention": "half"}, 12.5),
        ({"l2": 1.0, "weights": 2.0}, 50.0),
        ({"l2": [1.0], "select": "all"}, 25.0),
        ({"l2": lambda name, array: 2.0}, 50.0),
        ({"l2": Fraction(1, 2), "weights": [2]}, 25.0),
    ):
        got, gradient = fastreg.value_and_gradient(x, **asked)
        assert (got, gradient.tolist()) == (value, (value / 25.0 * 2.0 * x).tolist())
        assert fastreg.penalty(x, **asked) == value
    assert fastreg.value_and_gradient(x.astype("f4"), l2=1.0, weights=2.0)[0].dtype == np.float32
    with pytest.raises(
        FastregError, match="1 number l1, one for each array that is in; received 2"
    ):
        fastreg.value_and_gradient(x, l1=np.array([0.5, 0.25]))
