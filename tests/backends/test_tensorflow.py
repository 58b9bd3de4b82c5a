# SPDX-License-Identifier: BSD-3-Clause
"""The TensorFlow backend: values, gradients, routes, graphs of both versions, helpers."""

import os
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

import fastreg  # noqa: E402
import fastreg.tensorflow as ftf  # noqa: E402
from fastreg.errors import ArgumentError, DTypeError, LayoutError  # noqa: E402
from fastreg.tensorflow import _collections, _graph, _routes  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

DTYPES = [tf.float16, tf.bfloat16, tf.float32, tf.float64]
WEIGHTS = [(0.01, 0.0), (0.0, 0.01), (0.3, 0.7)]


def sample(n=1000, dtype=tf.float32, seed=0):
    return tf.cast(np.random.default_rng(seed).normal(size=n), dtype)


def bits(x):
    return np.asarray(x.numpy() if hasattr(x, "numpy") else x).tobytes()


def taped(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y, tape.gradient(y, x)


# -- Values and gradients have the bits of the NumPy functions -------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("l1", "l2"), WEIGHTS)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_bits_of_the_kernels(dtype, l1, l2, mode):
    x = sample(5000, dtype)

    def function(x):
        with ftf.route("kernels"):
            return taped(lambda x: ftf.penalty(x, l1=l1, l2=l2), x)

    y, g = (tf.function(function) if mode == "graph" else function)(x)
    v, e = fastreg.value_and_gradient(np.asarray(x), l1=l1, l2=l2)
    assert y.dtype == g.dtype == dtype
    assert y.shape == ()
    assert bits(y) == bits(v)
    assert bits(g) == bits(e)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_large_results_in_recycled_memory(dtype, mode):
    x = sample((1 << 20) + 3, dtype)

    def function(x):
        return taped(lambda x: ftf.penalty(x, l1=0.3, l2=0.7), x)

    for _ in range(3):
        y, g = (tf.function(function) if mode == "graph" else function)(x)
        v, e = fastreg.value_and_gradient(np.asarray(x), l1=0.3, l2=0.7)
        assert bits(y) == bits(v)
        assert bits(g) == bits(e)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("l1", "l2"), WEIGHTS)
@pytest.mark.parametrize("n", [100, 5000])
@pytest.mark.parametrize("xla", [False, True])
def test_native_operations_agree(dtype, l1, l2, n, xla):
    x = sample(n, dtype)

    @tf.function(jit_compile=xla)
    def function(x):
        return taped(lambda x: ftf.penalty(x, l1=l1, l2=l2), x)

    y, g = function(x)
    v, e = fastreg.value_and_gradient(np.asarray(x), l1=l1, l2=l2)
    eps = float(np.finfo(np.float32).eps if dtype != tf.float64 else 1e-15)
    if dtype in (tf.float16, tf.bfloat16):
        eps = 2.0**-10 if dtype == tf.float16 else 2.0**-7
    np.testing.assert_allclose(float(y), float(v), rtol=4 * eps)
    np.testing.assert_allclose(
        np.asarray(g).astype(float), np.asarray(e).astype(float), rtol=2 * eps
    )


def test_xla_holds_no_python_call():
    def operations(jit):
        f = tf.function(lambda x: ftf.penalty(x, l1=1.0), jit_compile=jit)
        if jit:
            f(tf.zeros(1 << 19))
        graph = f.get_concrete_function(tf.TensorSpec((1 << 19,))).graph
        return {op.type for op in graph.get_operations()}

    assert "PyFuncStateless" in operations(False)
    assert not any("PyFunc" in op for op in operations(True))


@pytest.mark.parametrize("n", [10, 1 << 19])
def test_inner_function_first_traced_under_xla(n):
    inner = tf.function(lambda x: ftf.penalty(x, l1=0.5, l2=0.5))
    outer = tf.function(lambda x: 2.0 * inner(x), jit_compile=True)
    x = tf.ones(n)
    assert float(outer(x)) == pytest.approx(2.0 * n, rel=1e-6)
    assert float(inner(x)) == pytest.approx(1.0 * n, rel=1e-6)


def test_automatic_route_in_graphs():
    def python_calls(n, dtype=tf.float32, **weights):
        f = tf.function(lambda x: ftf.penalty(x, **weights))
        graph = f.get_concrete_function(tf.TensorSpec(n, dtype)).graph
        return sum(op.type == "PyFuncStateless" for op in graph.get_operations())

    big = (ftf.GRAPH_THRESHOLD,)
    assert python_calls(big, l1=1.0) == 1
    assert python_calls(big, l1=1.0, l2=1.0) == 1
    assert python_calls(big, tf.float16, l2=1.0) == 1
    assert python_calls(big, l2=1.0) == 0  # tf.nn.l2_loss is ahead
    assert python_calls((100,), l1=1.0) == 0
    assert python_calls((None, 1 << 20), l1=1.0) == 0


@pytest.mark.parametrize("mode", ["eager", "kernels", "native"])
def test_specials(mode):
    inf, nan = float("inf"), float("nan")
    x = tf.constant([0.0, -0.0, 1.0, -2.0, nan, inf, -inf, 3e-39])

    def function(x):
        with ftf.route("auto" if mode == "eager" else mode):
            return taped(lambda x: ftf.penalty(x, l1=0.1), x), taped(
                lambda x: ftf.penalty(x, l2=0.1), x
            )

    (v1, g1), (v2, g2) = (function if mode == "eager" else tf.function(function))(x)
    assert np.isnan(v1)
    assert np.isnan(v2)
    np.testing.assert_allclose(g1[:7], [0, 0, 0.1, -0.1, nan, 0.1, -0.1], rtol=1e-6)
    np.testing.assert_allclose(g2[:7], [0, -0.0, 0.2, -0.4, nan, inf, -inf], rtol=1e-6)
    assert np.signbit(g2.numpy()[:2]).tolist() == [False, True]
    if mode != "native":  # TensorFlow flushes subnormals
        assert g1.numpy()[7] == np.float32(0.1)
        assert g2.numpy()[7] == np.float32(0.2 * float(np.float32(3e-39)))


@pytest.mark.parametrize("name", ["kernels", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_small_and_empty_inputs(name, mode):
    def function(x, l1, l2):
        def inner(x):
            with ftf.route(name):
                return taped(lambda x: ftf.penalty(x, l1=l1, l2=l2), x)

        return (inner if mode == "eager" else tf.function(inner))(x)

    v, g = function(tf.zeros((0, 3)), 1.0, 1.0)
    assert (float(v), g.shape) == (0.0, (0, 3))
    v, g = function(tf.constant(-3.0), 0.0, 0.01)
    assert float(v) == pytest.approx(0.09)
    assert float(g) == pytest.approx(-0.06)
    v, g = function(tf.constant([float("nan"), 1.0]), 0.0, 0.0)
    assert float(v) == 0.0
    assert g.numpy().tolist() == [0.0, 0.0]
    assert float(function(tf.constant([float("inf")]), 1.0, 0.0)[0]) == float("inf")


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", ["kernels", "native"])
def test_second_order(mode, name):
    x = tf.constant([1.0, -2.0, 0.5])

    def function(x):
        with ftf.route(name), tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = ftf.penalty(x, l1=0.3, l2=0.25) ** 2
            g = inner.gradient(y, x)
            s = tf.reduce_sum(g * tf.constant([1.0, 2.0, 3.0]))
        return y, g, outer.gradient(s, x)

    y, g, h = (function if mode == "eager" else tf.function(function))(x)
    xs = x.numpy().astype(float)
    p = 0.3 * np.abs(xs).sum() + 0.25 * (xs**2).sum()
    d = 0.3 * np.sign(xs) + 0.5 * xs
    c = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(y, p**2, rtol=1e-6)
    np.testing.assert_allclose(g, 2 * p * d, rtol=1e-6)
    np.testing.assert_allclose(h, 2 * d * (d @ c) + 2 * p * 0.5 * c, rtol=1e-5)


def test_forward_mode():
    x = tf.constant([1.0, -2.0])
    with tf.autodiff.ForwardAccumulator(x, tf.constant([1.0, 1.0])) as acc:
        y = ftf.penalty(x, l1=0.5, l2=0.25)
    assert float(acc.jvp(y)) == pytest.approx(-0.5)


@pytest.mark.parametrize("name", ["auto", "kernels", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_forward_mode_of_values_and_gradients(name, mode):
    x, t = tf.constant([1.0, -2.0, 0.5]), tf.constant([1.0, 0.0, 2.0])

    def function(x, t):
        with ftf.route(name), tf.autodiff.ForwardAccumulator(x, t) as acc:
            y, g = taped(lambda x: ftf.penalty(x, l1=0.1, l2=0.5), x)
        return acc.jvp(y), acc.jvp(g)

    along, slope = (function if mode == "eager" else tf.function(function))(x, t)
    assert float(along) == pytest.approx(1.1 + 2 * 0.6)
    np.testing.assert_allclose(slope, t)


@pytest.mark.parametrize("name", ["kernels", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_jacobians(name, mode):
    def function(x):
        with ftf.route(name), tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            y, g = taped(lambda x: ftf.penalty(x, l1=0.1, l2=0.5), x)
            both = tf.stack([y, 3.0 * y])
        return outer.jacobian(g, x), outer.jacobian(both, x)

    x = tf.constant([1.0, -2.0, 0.0])
    h, j = (function if mode == "eager" else tf.function(function))(x)
    np.testing.assert_allclose(h, np.eye(3))
    slope = np.array([1.1, -2.1, 0.0])
    np.testing.assert_allclose(j, [slope, 3 * slope], rtol=1e-6)


@pytest.mark.parametrize("name", ["kernels", "native"])
def test_recomputed_gradients_and_unknown_rank(name):
    @tf.function(input_signature=[tf.TensorSpec(None)])
    def function(x):
        with ftf.route(name):
            f = tf.recompute_grad(lambda x: ftf.penalty(2.0 * x, l2=0.5))
            return taped(f, x)

    for x in (tf.ones(3), tf.ones((2, 2)), tf.constant(3.0), tf.zeros((0, 2))):
        y, g = function(x)
        assert float(y) == pytest.approx(2.0 * float(tf.reduce_sum(x * x)))
        np.testing.assert_allclose(g, 4.0 * x)


def test_a_function_is_traced_once_for_each_shape():
    traces = []

    @tf.function
    def function(x):
        traces.append(x.shape)
        return ftf.penalty(x, l1=0.1, l2=0.5)

    for k in range(4):
        function(tf.fill((3,), float(k)))
    function(tf.ones(4))
    assert len(traces) == 2


def test_errors_keep_their_class_in_traced_code():
    """TensorFlow raises them again, with their place in the code added."""

    @tf.function
    def penalty(x, w):
        return ftf.penalty(x, l2=w)

    @tf.function
    def orthogonal(x):
        return ftf.orthogonal(x, factor=0.5)

    with pytest.raises(DTypeError, match="would get no gradient; pass float"):
        penalty(tf.ones(3), tf.constant(0.5))
    with pytest.raises(DTypeError, match="complex64"):
        penalty(tf.constant([1j], tf.complex64), 0.5)
    with pytest.raises(ArgumentError, match="finite and >= 0"):
        penalty(tf.ones(3), -1.0)
    with pytest.raises(LayoutError, match="rank 2"):
        orthogonal(tf.ones(3))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("scale", [32768.0, float("inf"), float("nan")])
def test_upstream_factor(mode, scale):
    def function(x):
        with ftf.route("kernels"):
            return taped(lambda x: tf.constant(scale) * ftf.penalty(x, l1=0.5, l2=0.25), x)[1]

    g = (function if mode == "eager" else tf.function(function))(tf.constant([1.0, -2.0]))
    np.testing.assert_allclose(g, np.array([1.0, -1.5]) * scale)


def test_public_custom_gradient_when_tensorflows_own_recorder_is_missing(monkeypatch):
    monkeypatch.setattr(_graph, "_record_operation", None)
    monkeypatch.setattr(_graph, "_could_record", None)
    test_second_order("eager", "kernels")


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_half_precision_is_finite(dtype, mode):
    x = tf.fill((128, 64), tf.cast(4.0, dtype))
    f = lambda x: ftf.penalty(x, l2=1e-4, dtype="float32")  # noqa: E731
    y = (f if mode == "eager" else tf.function(f))(x)
    assert y.dtype == tf.float32
    assert float(y) == pytest.approx(13.1072, rel=1e-6)
    assert float(ftf.penalty(x, l2=1e-4)) == pytest.approx(13.1072, rel=4e-3)
    y, g = taped(lambda x: ftf.penalty(x, l2=1.0), tf.constant([300.0, 300.0], dtype))
    assert np.isfinite(np.asarray(g).astype(float)).all()


# -- Objects ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_variables(dtype):
    v = tf.Variable(sample(50, dtype))
    with tf.GradientTape() as tape:
        y = ftf.penalty(v, l1=0.3, l2=0.7)
    expected, g = fastreg.value_and_gradient(v.numpy(), l1=0.3, l2=0.7)
    assert bits(y) == bits(expected)
    assert bits(tape.gradient(y, v)) == bits(g)


def test_other_objects():
    assert float(ftf.penalty(np.array([3.0, 4.0], np.float32), l2=1.0)) == 25.0
    assert float(ftf.penalty([3.0, 4.0], l2=1.0)) == 25.0
    assert float(ftf.penalty(np.float32(3.0), l2=1.0)) == 9.0
    ragged = tf.ragged.constant([[1.0, 2.0], [3.0]])
    assert float(ftf.penalty(ragged, l2=1.0)) == 14.0
    slices = tf.IndexedSlices(tf.constant([[1.0, 2.0]]), tf.constant([1]), tf.constant([3, 2]))
    assert float(ftf.penalty(slices, l2=1.0)) == 5.0
    assert float(ftf.penalty(tf.constant([1, -2, 3]), l1=0.5)) == 3.0
    assert ftf.penalty(tf.constant([True, False]), l2=1.0).dtype == tf.float64


@pytest.mark.parametrize(
    "bad",
    [tf.constant([1j]), tf.constant(["a"]), None, "text", object(),
     tf.sparse.from_dense([1.0]), tf.cast([1.0], tf.dtypes.experimental.float8_e4m3fn)],
    ids=["complex", "string", "None", "str", "object", "sparse", "float8"],
)  # fmt: skip
def test_refused_objects(bad):
    with pytest.raises(DTypeError, match=r"expected .*; received .*; "):
        ftf.penalty(bad, l2=1.0)


@pytest.mark.parametrize("name", ["kernels", "native"])
@pytest.mark.parametrize("weight", [-1e-9, float("nan"), float("inf")])
def test_refused_weights(name, weight):
    with ftf.route(name), pytest.raises(ArgumentError, match="l2 that is finite and >= 0"):
        ftf.penalty(tf.ones(3), l2=weight)
    with pytest.raises(ArgumentError, match="2 numbers l1"):
        ftf.penalty([tf.ones(3), tf.ones(2)], l1=[1.0])
    with pytest.raises(ArgumentError, match="a weight, l1= or l2="):
        ftf.penalty(tf.ones(3))
    for bad in ("a", 1j, tf.constant(0.5), tf.Variable(0.5)):
        with pytest.raises(DTypeError, match="a number as weight l2"):
            ftf.penalty(tf.ones(3), l2=bad)


def test_refused_route_and_dtype():
    with pytest.raises(ArgumentError, match="route 'auto'"), ftf.route("fast"):
        pass
    with pytest.raises(DTypeError, match="a result dtype"):
        ftf.penalty(tf.ones(3), l2=1.0, dtype="int32")


def test_inputs_are_not_written_nor_kept():
    x = tf.Variable(sample(100))
    before = x.numpy()
    ftf.penalty(x, l1=1.0)
    address = np.asarray(tf.convert_to_tensor(x)).ctypes.data
    x.assign_add(tf.ones(100))
    assert np.asarray(tf.convert_to_tensor(x)).ctypes.data == address
    np.testing.assert_array_equal(x.numpy(), before + 1)


# -- Lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kernels", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_ragged_list_of_variables(name, mode):
    vs = [tf.Variable(sample((4, 3))), tf.Variable(sample(3)), tf.Variable(sample((2, 2, 2)))]

    def function():
        with ftf.route(name), tf.GradientTape() as tape:
            y = ftf.penalty(vs, l1=0.1, l2=[0.1, 0.2, 0.3])
        return y, tape.gradient(y, vs)

    y, gs = (function if mode == "eager" else tf.function(function))()
    arrays = [v.numpy() for v in vs]
    expected = fastreg.penalty(arrays, l1=0.1, l2=[0.1, 0.2, 0.3], dtype="float32")
    assert y.dtype == tf.float32
    assert float(y) == pytest.approx(float(expected), rel=1e-6)
    for g, a, l2 in zip(gs, arrays, [0.1, 0.2, 0.3], strict=True):
        np.testing.assert_allclose(g, fastreg.gradient(a, l1=0.1, l2=l2), rtol=1e-6)
    if name == "kernels":
        assert bits(y) == bits(expected)


def test_lists_of_mixed_types_and_empty_lists():
    xs = [tf.ones(3, tf.float16), tf.ones((2, 2)), tf.ones(2, tf.float64)]
    for name in ("kernels", "native"):
        with ftf.route(name):
            y = ftf.penalty(xs, l2=1.0)
            assert (y.dtype, float(y)) == (tf.float64, 9.0)
            half = ftf.penalty([xs[0], tf.ones(1, tf.bfloat16)], l2=1.0)
            assert (half.dtype, float(half)) == (tf.float32, 4.0)
    assert float(ftf.penalty([], l2=1.0)) == 0.0


# -- Graphs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kernels", "native"])
def test_map_fn_while_and_vectorized_map(name):
    x = sample((5, 7))
    expected = [float(fastreg.value(row, l1=0.5, l2=0.5)) for row in x.numpy()]

    def row(r):
        with ftf.route(name):
            return ftf.penalty(r, l1=0.5, l2=0.5)

    np.testing.assert_allclose(tf.function(lambda x: tf.map_fn(row, x))(x), expected, rtol=1e-6)
    np.testing.assert_allclose(tf.vectorized_map(row, x), expected, rtol=1e-6)

    @tf.function
    def loop(x):
        return tf.while_loop(
            lambda i, s: i < 5, lambda i, s: (i + 1, s + row(x[i])), (0, tf.constant(0.0))
        )[1]

    np.testing.assert_allclose(loop(x), sum(expected), rtol=1e-6)


def test_concurrent_calls():
    f = tf.function(
        lambda xs: tf.map_fn(lambda r: ftf.penalty(r, l1=0.5), xs, parallel_iterations=8)
    )
    with ftf.route("kernels"):
        x = sample((64, 3000))
        y = f(x)
    assert [bits(v) for v in y] == [bits(fastreg.value(r, l1=0.5)) for r in x.numpy()]


def test_version_1_session():
    for name in ("kernels", "native"):
        with tf.Graph().as_default(), ftf.route(name):
            v = tf.compat.v1.get_variable(
                "w", (2, 3), initializer=tf.compat.v1.ones_initializer(),
                regularizer=lambda w: ftf.penalty(w, l2=0.1),
            )  # fmt: skip
            loss = ftf.get_regularization_loss()
            tf.compat.v1.losses.add_loss(tf.reduce_sum(v))
            total = ftf.get_total_loss()
            step = tf.compat.v1.train.GradientDescentOptimizer(1.0).minimize(loss)
            gradient = tf.gradients(loss, v)[0]
            second = tf.gradients(gradient, v)[0]
            with tf.compat.v1.Session() as session:
                session.run(tf.compat.v1.global_variables_initializer())
                assert session.run(loss) == pytest.approx(0.6)
                assert session.run(total) == pytest.approx(6.6)
                np.testing.assert_allclose(session.run(second), np.full((2, 3), 0.2), rtol=1e-6)
                session.run(step)
                np.testing.assert_allclose(session.run(v), np.full((2, 3), 0.8), rtol=1e-6)


def test_version_1_collections():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        assert ftf.get_regularization_losses() == []
        assert session.run(ftf.get_regularization_loss()) == 0.0
        with pytest.raises(ArgumentError, match="at least one loss"):
            ftf.get_total_loss()
        key = tf.compat.v1.GraphKeys.REGULARIZATION_LOSSES
        with tf.name_scope("a"):
            tf.compat.v1.add_to_collection(key, tf.constant(1.0, tf.float64, name="one"))
        with tf.name_scope("b"):
            tf.compat.v1.add_to_collection(key, tf.constant(2.0, name="two"))
        assert session.run(ftf.get_regularization_loss()) == 3.0
        assert session.run(ftf.get_regularization_loss(scope="b")) == 2.0
        assert session.run(ftf.get_total_loss()) == 3.0
        with pytest.raises(ArgumentError, match="at least one loss"):
            ftf.get_total_loss(add_regularization_losses=False)
    for question in (ftf.get_regularization_losses, ftf.get_total_loss):
        with pytest.raises(RuntimeError, match="eager code"):
            question()


def test_saved_model_in_another_process(tmp_path):
    module = tf.Module()
    module.v = tf.Variable(tf.ones((2, 3)))
    with ftf.route("native"):
        module.f = tf.function(lambda x: ftf.penalty(module.v, l1=0.1) + ftf.penalty(x, l2=1.0))
        module.f.get_concrete_function(tf.TensorSpec((None,)))
    # The kernels' call does no harm where the served result does not need it.
    big = tf.TensorSpec((1 << 19,))
    module.g = tf.function(lambda x: (ftf.penalty(x, l1=1.0), tf.reduce_sum(x))[1])
    module.g.get_concrete_function(big)
    tf.saved_model.save(module, str(tmp_path))
    code = f"""
        import tensorflow as tf
        m = tf.saved_model.load({str(tmp_path)!r})
        print(float(m.f(tf.constant([3.0, 4.0]))), float(m.g(tf.ones(1 << 19))))
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    a, b = map(float, out.stdout.split())
    assert a == pytest.approx(25.6)
    assert b == 1 << 19


def test_strategies():
    code = """
        import tensorflow as tf
        import fastreg.tensorflow as ftf
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            v = tf.Variable(tf.ones((2, 3)))
            try:
                ftf.scale_regularization_loss([tf.ones(())])
                raise SystemExit("no error")
            except RuntimeError as e:
                assert "replica context" in str(e)
        def step():
            with ftf.route("kernels"), tf.GradientTape() as tape:
                y = ftf.scale_regularization_loss([ftf.penalty(v, l2=0.1)])
            return y, tape.gradient(y, v)
        y, g = tf.function(lambda: strategy.run(step))()
        total = strategy.reduce("SUM", y, axis=None)
        assert abs(float(total) - 0.6) < 1e-6, total
        assert abs(float(strategy.reduce("SUM", g, axis=None)[0, 0]) - 0.2) < 1e-6
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=300)


# -- Helpers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_l2_loss(dtype):
    x = sample(300, dtype)
    y, g = taped(ftf.l2_loss, x)
    assert bits(y) == bits(fastreg.l2_loss(np.asarray(x)))
    assert bits(g) == bits(x)
    if dtype in (tf.float32, tf.float64):
        assert float(y) == pytest.approx(float(tf.nn.l2_loss(x)), rel=1e-6)
    assert float(ftf.l2_loss(tf.fill(1000, tf.constant(1e-4, tf.float16)))) > 0.0


def test_l2_loss_objects():
    assert float(ftf.l2_loss([3.0, 4.0])) == 12.5
    assert float(ftf.l2_loss(3.0)) == 4.5
    assert float(ftf.l2_loss([tf.ones(3), tf.ones((2, 2))])) == 3.5
    assert float(ftf.l2_loss(tf.zeros(0))) == 0.0
    for bad in (tf.constant([1, 2]), [1, 2], None):
        with pytest.raises(TypeError):
            ftf.l2_loss(bad)


def test_scale_regularization_loss():
    assert float(ftf.scale_regularization_loss(tf.constant([1.0, 3.0]), 2)) == 2.0
    assert float(ftf.scale_regularization_loss([tf.ones(3), tf.ones((2, 2))])) == 7.0
    assert ftf.scale_regularization_loss(3).dtype == tf.float64
    assert ftf.scale_regularization_loss(tf.ones(2, tf.float16)).dtype == tf.float16
    assert float(ftf.scale_regularization_loss([])) == 0.0
    with pytest.raises(ArgumentError, match="replicas >= 1"):
        ftf.scale_regularization_loss(1.0, replicas=0)


@pytest.mark.parametrize("mode", ["eager", "kernels", "native"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_value_and_gradient(mode, dtype):
    x = sample(100, dtype)

    def function(x):
        with ftf.route("auto" if mode == "eager" else mode):
            return ftf.value_and_gradient(x, l1=0.3, l2=0.7)

    v, g = (function if mode == "eager" else tf.function(function))(x)
    ev, eg = fastreg.value_and_gradient(np.asarray(x), l1=0.3, l2=0.7)
    np.testing.assert_allclose(float(v), float(ev), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(g).astype(float), np.asarray(eg).astype(float), rtol=1e-6)
    np.testing.assert_array_equal(ftf.gradient(x, l1=0.3, l2=0.7), eg)
    with pytest.raises(DTypeError):
        ftf.gradient(tf.constant([1, 2]), l2=1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_orthogonal(dtype):
    x = sample((4, 3), dtype)
    for rows in (True, False):
        a = np.asarray(x).astype(float)
        a = a if rows else a.T
        u = a / np.linalg.norm(a, axis=1, keepdims=True)
        n = len(a)
        expected = 0.5 * (np.abs(u @ u.T).sum() - n) / (n * (n - 1))
        y, g = taped(lambda x, rows=rows: ftf.orthogonal(x, factor=0.5, rows=rows), x)
        assert y.dtype == g.dtype == dtype
        assert float(y) == pytest.approx(expected, rel=1e-2 if dtype.size == 2 else 1e-5)
    assert float(ftf.orthogonal(x[:1], factor=0.5)) == 0.0
    with pytest.raises(LayoutError, match="rank 2"):
        ftf.orthogonal(tf.ones(3), factor=0.5)
    with pytest.raises(DTypeError, match="to differentiate"):
        ftf.orthogonal_value_and_gradient(tf.ones((3, 3), tf.int32), factor=0.5)


def test_orthogonal_edges():
    from fastreg._core import numpy_backend

    for x in (np.full((2, 2), 1e30, "float32"), np.full((2, 3), 1e-20), np.zeros((2, 3)),
              np.zeros((3, 0)), np.zeros((0, 3)), np.array([[3, 4, 0], [1, 0, 0]])):  # fmt: skip
        expected = numpy_backend.orthogonal(x, factor=0.5)
        got = ftf.orthogonal(tf.constant(x), factor=0.5)
        assert float(got) == pytest.approx(float(expected))
        assert got.dtype.name == expected.dtype
    x = tf.constant([[1.0, np.nan], [1.0, 1.0]])
    assert np.isnan(ftf.orthogonal(x, factor=0.5))
    assert float(ftf.orthogonal(x, factor=0.0)) == 0.0
    _, g = ftf.orthogonal_value_and_gradient(x, factor=0.0)
    assert g.numpy().tolist() == [[0, 0], [0, 0]]
    assert np.isnan(ftf.orthogonal(tf.constant([[1.0, np.inf], [1.0, 1.0]]), factor=0.5))
    short = np.array([[1e-9, 2e-9], [1.0, 1.0]])
    _, g = ftf.orthogonal_value_and_gradient(tf.constant(short), factor=0.5)
    _, e = numpy_backend.orthogonal_value_and_gradient(short, factor=0.5)
    np.testing.assert_allclose(g, e, rtol=1e-6)


@pytest.mark.parametrize("xla", [False, True])
def test_orthogonal_of_unknown_shapes(xla):
    from fastreg._core import numpy_backend

    for shape in (None, (None, None)):
        f = tf.function(
            lambda x: ftf.orthogonal(x, factor=0.5), jit_compile=xla,
            input_signature=[tf.TensorSpec(shape)],
        )  # fmt: skip
        for size in ((2, 3), (1, 3), (0, 3)):
            x = np.ones(size, "float32")
            expected = numpy_backend.orthogonal(x, factor=0.5)
            assert float(f(x)) == pytest.approx(float(expected))
        with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError)):
            f(tf.ones(3))


def test_examples():
    import doctest

    assert doctest.testmod(ftf).failed == 0
    assert doctest.testmod(_collections).failed == 0
    assert doctest.testmod(_routes).failed == 0


def test_a_plan_notices_assignments():
    v = tf.Variable(tf.ones((20, 20)))
    for change in (lambda: v.assign(2 * v), lambda: v.assign_add(v)):
        plan = fastreg.plan([v], l2=1.0)
        assert plan.value() == plan.value() == fastreg.penalty([v], l2=1.0)
        change()
        with pytest.raises(RuntimeError, match="make the plan anew"):
            plan.value()


# -- Containers ------------------------------------------------------------------------------------


def test_gradients_of_containers():
    w, b = tf.Variable(sample((3, 2))), tf.Variable(sample(2, seed=1))
    v, g = ftf.value_and_gradient({"kernel": w, "bias": b}, l1=0.3, l2=0.7, scale=-2.0)
    assert bits(v) == bits(fastreg.value(w.numpy(), l1=0.3, l2=0.7))
    assert list(g) == ["kernel"]
    assert bits(g["kernel"]) == bits(fastreg.gradient(w.numpy(), l1=0.3, l2=0.7, scale=-2.0))
    g = ftf.gradient([w, [b, None], w], l2=0.5)
    np.testing.assert_array_equal(g[0], w)
    np.testing.assert_array_equal(g[1][0], b)
    assert (g[1][1], g[2]) == (None, None)
    assert ftf.gradient([], l2=0.5) == []
    with pytest.raises(DTypeError, match=r"at '1': expected a float array"):
        ftf.gradient([w, tf.constant([1])], l2=1.0)
    with pytest.raises(DTypeError, match=r"at '1': expected a tensor of float16"):
        ftf.penalty([w, tf.constant([1j])], l2=1.0)


@pytest.mark.parametrize("name", ["auto", "kernels", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_gradients_of_containers_on_every_route(name, mode):
    xs = {"a": sample((3, 2)), "b": sample((2, 2), tf.float16), "bias": sample(2)}

    def function(xs, u):
        with ftf.route(name):
            return ftf.value_and_gradient(xs, l1=0.3, l2={"a": 0.5, "b": 0.25}, scale=u)

    function = function if mode == "eager" else tf.function(function)
    v, g = function(xs, tf.constant(0.5))
    host = {k: np.array(x) for k, x in xs.items()}
    ev, eg = fastreg.model.value_and_gradient(host, l1=0.3, l2={"a": 0.5, "b": 0.25}, scale=0.5)
    assert float(v) == pytest.approx(float(ev), rel=1e-6)
    assert g.keys() == eg.keys()
    for k in g:
        np.testing.assert_allclose(np.float64(g[k]), np.float64(eg[k]), rtol=1e-3)


def test_shared_variables_count_once_and_tensors_each_time():
    v, x = tf.Variable(tf.ones((2, 2))), tf.ones((2, 2))
    assert float(ftf.penalty([v, v], l2=1.0)) == 4.0
    assert float(ftf.penalty({"a": v, "b": v}, l2=1.0)) == 4.0
    assert float(ftf.penalty([x, x], l2=1.0)) == 8.0
    assert float(ftf.global_norm([v, v])) == float(ftf.global_norm([x, x])) == 8.0**0.5


@pytest.mark.parametrize("name", ["kernels", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_upstream_gradients_of_one_element(name, mode, shape):
    """As tf.nn.l2_loss takes them."""
    x = sample(5)

    def gradient(f, u):
        def function(x):
            with ftf.route(name), tf.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
            return tape.gradient(y, x, output_gradients=tf.constant(2.0, y.dtype, u))

        return (function if mode == "eager" else tf.function(function))(x)

    for f in (
        lambda x: ftf.penalty(x, l1=0.25, l2=0.5),
        lambda x: ftf.penalty([x, x], l2=0.5, dtype="float64"),
        lambda x: ftf.global_norm([x]),
    ):
        np.testing.assert_array_equal(gradient(f, shape), gradient(f, ()))
    np.testing.assert_allclose(
        gradient(lambda x: ftf.penalty(x, l1=0.25, l2=0.5), shape),
        2 * fastreg.gradient(x.numpy(), l1=0.25, l2=0.5), rtol=1e-6,
    )  # fmt: skip


def test_upstream_gradients_of_one_element_in_v1_graphs():
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, (2, 3))
        (g,) = tf.gradients(ftf.penalty(x, l2=0.5), x, grad_ys=tf.fill((1,), 2.0))
        with tf.compat.v1.Session() as session:
            assert (session.run(g, {x: np.ones((2, 3))}) == 2).all()


# -- Steps by assignment ---------------------------------------------------------------------------


class Model(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(sample((40, 30)), name="w")
        self.bias = tf.Variable(sample(5), name="bias")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["auto", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_prox_and_decay(dtype, name, mode):
    vs = [tf.Variable(sample((40, 30), dtype)), tf.Variable(sample(5, dtype))]
    host = [v.numpy() for v in vs]

    def steps(step):
        with ftf.route(name):
            ftf.prox_(vs, step, l1=3.0, l2=0.7)
            ftf.decay_(vs, step)

    (steps if mode == "eager" else tf.function(steps))(tf.constant(0.125, tf.float64))
    fastreg.prox_(host, 0.125, l1=3.0, l2=0.7)
    assert 0 < np.count_nonzero(host[0]) < host[0].size
    fastreg.decay_(host, 0.125)
    for v, x in zip(vs, host, strict=True):
        if (name, mode) == ("auto", "eager"):
            assert bits(v) == bits(x)
        eps = float(ml_dtypes.finfo(x.dtype).eps)
        np.testing.assert_allclose(v.numpy().astype("f8"), x.astype("f8"), rtol=eps)


def test_steps_of_models_and_what_they_refuse():
    m = Model()
    bias = m.bias.numpy()
    ftf.prox_(m, 0.5, l1=1e9)
    assert not m.w.numpy().any()
    assert bits(m.bias) == bits(bias)
    m = Model()
    before = m.w.numpy()
    for call, error, text in (
        (lambda: ftf.prox_(m, -1.0, l1=0.1), ArgumentError, "step that is finite"),
        (lambda: ftf.prox_(m, 0.1), ArgumentError, "a weight"),
        (lambda: ftf.prox_(m, 0.1, l1=0.1, select="x*"), ArgumentError, "which takes none"),
        (lambda: ftf.decay_(m, 2.0), ArgumentError, "a rate from 0 to 1"),
        (lambda: ftf.decay_([m.w, tf.ones(3)], 0.5), DTypeError, "a variable to assign to at '1'"),
        (lambda: ftf.prox_([m.w, np.ones(3)], 0.1, l1=0.1), DTypeError, "at '1'"),
        (lambda: ftf.prox_([m.w, tf.Variable([1, 2])], 0.1, l1=0.1), DTypeError, "at "),
    ):
        with pytest.raises(error, match=text):
            call()
        assert bits(m.w) == bits(before)


def test_steps_in_a_version_1_graph():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        v = tf.compat.v1.get_variable("w", initializer=[3.0, -0.5])
        step = ftf.prox_(v, 0.5, l1=2.0)
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(step)
        assert session.run(v).tolist() == [2.0, 0.0]


# -- Norms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "kernels", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_global_norm(name, mode):
    def f(*xs, dtype=None):
        with ftf.route(name):
            return ftf.global_norm(list(xs), dtype=dtype)

    wrap = (lambda f: f) if mode == "eager" else tf.function
    xs = [sample((50, 3)), sample(5, tf.float16), sample(7, tf.bfloat16), tf.range(3)]
    v = wrap(f)(*xs, None)
    assert v.dtype == tf.float64
    expected = float(fastreg.global_norm([np.array(x) for x in xs]))
    assert float(v) == pytest.approx(expected, rel=1e-15)
    if name == "kernels" or (name, mode) == ("auto", "eager"):
        assert float(v) == expected
    for dtype in ("float32", "float64"):
        top = 2.0**1020 if dtype == "float64" else 1e38
        for size in (top, 1e-30, 0.0):
            x = tf.constant(size, dtype, (4,))
            assert float(wrap(f)(x)) == pytest.approx(2.0 * float(x[0]), rel=1e-15)
    assert wrap(lambda x: f(x, dtype="float32"))(tf.ones(4)).dtype == tf.float32
    assert np.isnan(wrap(f)(tf.constant([np.nan, np.inf])))
    assert float(wrap(f)(tf.constant([1.0, -np.inf]))) == np.inf
    assert float(wrap(f)()) == float(wrap(f)(tf.zeros((0, 2)))) == 0.0

    def slopes(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            g = taped(lambda x: f(x), x)[1]
            s = tf.reduce_sum(g * tf.constant([1.0, 2.0]))
        return g, outer.gradient(s, x)

    g, h = wrap(slopes)(tf.constant([3.0, 4.0]))
    np.testing.assert_allclose(g, [0.6, 0.8], rtol=1e-6)
    unit = np.array([0.6, 0.8])
    c = np.array([1.0, 2.0])
    np.testing.assert_allclose(h, (c - unit * (unit @ c)) / 5.0, rtol=1e-5)
    assert wrap(lambda x: taped(f, x)[1])(tf.zeros(2)).numpy().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["auto", "native"])
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_clip_by_global_norm(name, mode):
    slices = tf.IndexedSlices(tf.constant([[3.0, 0.0], [0.0, 1.0], [0.0, 3.0]]),
                              tf.constant([1, 0, 0]), tf.constant([3, 2]))  # fmt: skip

    def f(m):
        with ftf.route(name):
            return ftf.clip_by_global_norm({"a": [tf.constant([0.0, 12.0]), None], "b": slices}, m)

    function = f if mode == "eager" else tf.function(f)
    clipped, norm = function(tf.constant(6.5))
    assert float(norm) == 13.0  # the slices of row 0 are added: 3, 4, 12
    np.testing.assert_array_equal(clipped["a"][0], [0.0, 6.0])
    assert clipped["a"][1] is None
    assert isinstance(clipped["b"], tf.IndexedSlices)
    np.testing.assert_array_equal(clipped["b"].values, slices.values / 2)
    clipped, _ = function(tf.constant(np.inf))
    np.testing.assert_array_equal(clipped["a"][0], [0.0, 12.0])


def test_clip_keeps_what_is_not_finite_and_refuses_the_rest():
    x = tf.constant([1.0, np.inf])
    clipped, norm = ftf.clip_by_global_norm(x, 0.5)
    np.testing.assert_array_equal(clipped, x)
    assert np.isinf(norm)
    clipped, norm = ftf.clip_by_global_norm(iter([tf.constant([3.0, 4.0], tf.float16)]), 2.5)
    assert (clipped[0].dtype, clipped[0].numpy().tolist()) == (tf.float16, [1.5, 2.0])
    assert ftf.clip_by_global_norm([], 1.0)[0] == []
    with pytest.raises(ArgumentError, match="max_norm"):
        ftf.clip_by_global_norm(x, -1.0)
    with pytest.raises(DTypeError, match="at '1'"):
        ftf.clip_by_global_norm([x, tf.constant([1])], 1.0)


def test_stats():
    s = ftf.stats({"w": tf.Variable([3.0, -4.0]), "n": tf.range(2)})
    assert (s.total["norm"], s["n"]["n"]) == (5.0, 2)


def test_a_variable_that_is_assigned_to_during_a_call(monkeypatch):
    """One call reads the values that it met first; only a plan that is kept notices."""
    v = tf.Variable(np.ones((2, 2)))
    of = fastreg.model.Plan.for_statistics.__func__

    def made(cls, *args, **options):
        plan = of(cls, *args, **options)
        v.assign(tf.zeros((2, 2), tf.float64))
        return plan

    monkeypatch.setattr(fastreg.model.Plan, "for_statistics", classmethod(made))
    assert fastreg.stats([v]).total["sum_squares"] == 4.0
    assert fastreg.stats([v]).total["sum_squares"] == 0.0
