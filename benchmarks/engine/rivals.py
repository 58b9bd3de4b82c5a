# SPDX-License-Identifier: BSD-3-Clause
"""What a user would pick instead: one function per rival and operation, all with one signature.

A rival takes `Operands` and returns the `Call` to time; what it needs to prepare (compile, wrap,
move) it does before. It raises `Missing` if a library is not installed. Libraries are imported only
when their rival is asked for, so that none disturbs another's measurement before its turn.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

import fastreg
from benchmarks.engine.calls import L1, L2, STEP, Call, Missing, Operands

FLOATS = ("f32", "f64")
ALL = ("f16", "bf16", "f32", "f64")


@dataclass(frozen=True)
class Rival:
    """A way to compute an operation, and where it applies."""

    operation: str
    name: str
    prepare: Callable[[Operands], Call]
    dtypes: tuple[str, ...] = FLOATS
    contiguous: bool = False  # takes contiguous arrays only
    max_n: int = 1 << 62
    min_n: int = 0
    threaded: bool = False  # uses the threads it is given
    framework: str = ""  # races only where a plan asks for its framework: it brings a thread pool

    def takes(self, dtype: str, n: int, layout: str) -> bool:
        """Tell whether the rival applies to such arrays."""
        return (
            (dtype in self.dtypes or not dtype)
            and self.min_n <= n <= self.max_n
            and not (self.contiguous and layout not in ("contiguous", "misaligned"))
        )


REGISTRY: dict[str, dict[str, Rival]] = {}


def rival(operation: str, name: str, **where: Any) -> Callable[[Any], Any]:
    """Register a function as the rival `name` for an operation."""

    def register(prepare: Callable[[Operands], Call]) -> Callable[[Operands], Call]:
        REGISTRY.setdefault(operation, {})[name] = Rival(operation, name, prepare, **where)
        return prepare

    return register


def need(name: str) -> ModuleType:
    """Import a library, or raise `Missing` with its name."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Missing(name.partition(".")[0]) from None


@functools.lru_cache(1)
def _pools(loaded: int) -> Any:
    """Return the thread pools of the libraries that are loaded; finding them takes milliseconds."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Give fastreg and every loaded library n threads."""
    import sys

    with ExitStack() as stack:
        stack.enter_context(fastreg.num_threads(n))
        if (pools := _pools(len(sys.modules))) is not None:
            stack.enter_context(pools.limit(limits=n))
        for library, getter, setter in (
            ("numba", "get_num_threads", "set_num_threads"),
            ("torch", "get_num_threads", "set_num_threads"),
        ):
            if (module := sys.modules.get(library)) is not None:
                stack.callback(getattr(module, setter), getattr(module, getter)())
                most = module.config.NUMBA_NUM_THREADS if library == "numba" else n
                getattr(module, setter)(min(n, most))
        if (module := sys.modules.get("numexpr")) is not None:
            stack.callback(
                module.set_num_threads, module.set_num_threads(min(n, module.MAX_THREADS))
            )
        yield


# -- NumPy ---------------------------------------------------------------------------------------


@rival("sum_squares", "numpy.vdot", dtypes=("f16", "f32", "f64"))
def _(o: Operands) -> Call:
    return Call(np.vdot, o.x, o.x)


def numpy_sum_of_products(x: np.ndarray) -> Any:
    return np.sum(x * x)


@rival("sum_squares", "numpy sum(x*x)", dtypes=ALL)
def _(o: Operands) -> Call:
    return Call(numpy_sum_of_products, o.x)


def numpy_norm_squared(x: np.ndarray) -> Any:
    return np.linalg.norm(x) ** 2


@rival("sum_squares", "numpy norm**2")
def _(o: Operands) -> Call:
    return Call(numpy_norm_squared, o.x)


def numpy_einsum(x: np.ndarray) -> Any:
    axes = list(range(x.ndim))
    return np.einsum(x, axes, x, axes, [])


@rival("sum_squares", "numpy.einsum")
def _(o: Operands) -> Call:
    return Call(numpy_einsum, o.x)


@rival("norm", "numpy.linalg.norm")
def _(o: Operands) -> Call:
    return Call(np.linalg.norm, o.x)


def numpy_sum_abs(x: np.ndarray) -> Any:
    return np.abs(x).sum()


@rival("sum_abs", "numpy abs().sum()", dtypes=ALL)
def _(o: Operands) -> Call:
    return Call(numpy_sum_abs, o.x)


def numpy_value(x: np.ndarray, l1: float, l2: float) -> Any:
    return l1 * np.abs(x).sum() + l2 * np.vdot(x, x)


@rival("value", "numpy")
def _(o: Operands) -> Call:
    return Call(numpy_value, o.x, L1, L2)


@rival("gradient_out", "numpy.multiply", dtypes=ALL)
def _(o: Operands) -> Call:
    return Call(np.multiply, o.x, o.x.dtype.type(STEP), out=o.g)


def numpy_gradient(x: np.ndarray, step: Any) -> Any:
    return step * x


@rival("gradient_new", "numpy c*x", dtypes=ALL)
def _(o: Operands) -> Call:
    return Call(numpy_gradient, o.x, o.x.dtype.type(STEP))


def numpy_accumulate(x: np.ndarray, step: Any, g: np.ndarray) -> Any:
    g += step * x
    return g


@rival("gradient_accumulate", "numpy g += c*x", dtypes=ALL)
def _(o: Operands) -> Call:
    return Call(numpy_accumulate, o.x, o.x.dtype.type(STEP), o.g)


def numpy_both(x: np.ndarray, l2: float, step: Any, g: np.ndarray) -> Any:
    return l2 * np.vdot(x, x), np.multiply(x, step, out=g)


@rival("value_and_gradient_out", "numpy vdot, multiply")
def _(o: Operands) -> Call:
    return Call(numpy_both, o.x, L2, o.x.dtype.type(STEP), o.g)


def numpy_both_accumulate(x: np.ndarray, l2: float, step: Any, g: np.ndarray) -> Any:
    value = l2 * np.vdot(x, x)
    g += step * x
    return value, g


@rival("value_and_gradient_accumulate", "numpy vdot, g += c*x")
def _(o: Operands) -> Call:
    return Call(numpy_both_accumulate, o.x, L2, o.x.dtype.type(STEP), o.g)


def numpy_list(arrays: list[np.ndarray], l2: float) -> Any:
    return l2 * sum(float(np.vdot(x, x)) for x in arrays)


@rival("penalty", "numpy.vdot loop")
def _(o: Operands) -> Call:
    return Call(numpy_list, o.x, L2)


def numpy_global_norm(arrays: list[np.ndarray]) -> Any:
    return math.sqrt(sum(float(np.vdot(x, x)) for x in arrays))


@rival("global_norm", "numpy.vdot loop")
def _(o: Operands) -> Call:
    return Call(numpy_global_norm, o.x)


def python_fsum(x: np.ndarray) -> float:
    return math.fsum(np.square(x, dtype=np.float64).ravel().tolist())


@rival("sum_squares", "math.fsum", max_n=1 << 20)
def _(o: Operands) -> Call:
    return Call(python_fsum, o.x)


# -- BLAS through SciPy --------------------------------------------------------------------------


def _blas(o: Operands, name: str) -> Any:
    letter = "s" if o.x.dtype == np.float32 else "d"
    return getattr(need("scipy.linalg.blas"), letter + name)


@rival("sum_squares", "scipy blas dot", contiguous=True, threaded=True)
def _(o: Operands) -> Call:
    return Call(_blas(o, "dot"), o.x, o.x)


@rival("sum_abs", "scipy blas asum", contiguous=True, threaded=True)
def _(o: Operands) -> Call:
    return Call(_blas(o, "asum"), o.x)


@rival("norm", "scipy blas nrm2", contiguous=True)
def _(o: Operands) -> Call:
    return Call(_blas(o, "nrm2"), o.x)


@rival("gradient_accumulate", "scipy blas axpy", contiguous=True, threaded=True)
def _(o: Operands) -> Call:
    return Call(_blas(o, "axpy"), o.x, o.g, o.x.size, STEP)


# -- NumKong, bottleneck, numexpr ----------------------------------------------------------------


@rival("sum_squares", "numkong.dot", dtypes=ALL, contiguous=True)
def _(o: Operands) -> Call:
    return Call(need("numkong").dot, o.x, o.x)


def _second(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)[1]


@rival("sum_squares", "numkong.moments", dtypes=ALL, min_n=1024)
def _(o: Operands) -> Call:
    return Call(_second, need("numkong").moments, o.x)


@rival("norm", "numkong.norm", dtypes=ALL)
def _(o: Operands) -> Call:
    return Call(need("numkong").norm, o.x)


@rival("sum_squares", "bottleneck.ss")
def _(o: Operands) -> Call:
    return Call(need("bottleneck").ss, o.x)


def _numexpr(text: str, o: Operands, *names: str) -> Any:
    # numexpr calls float32 `float` and float64 `double`.
    kind = float if o.x.dtype == np.float32 else np.float64
    return need("numexpr").NumExpr(text, [(name, kind) for name in names])


@rival("sum_squares", "numexpr")
def _(o: Operands) -> Call:
    return Call(_numexpr("sum(x*x)", o, "x"), o.x)


@rival("sum_abs", "numexpr")
def _(o: Operands) -> Call:
    return Call(_numexpr("sum(abs(x))", o, "x"), o.x)


@rival("gradient_out", "numexpr", threaded=True)
def _(o: Operands) -> Call:
    step = o.x.dtype.type(STEP)
    return Call(_numexpr("c*x", o, "c", "x"), step, o.x, out=o.g, ex_uses_vml=False)


@rival("gradient_accumulate", "numexpr", threaded=True)
def _(o: Operands) -> Call:
    step = o.x.dtype.type(STEP)
    return Call(_numexpr("g+c*x", o, "c", "g", "x"), step, o.g, o.x, out=o.g, ex_uses_vml=False)


# -- numba: loops that a careful user would write ------------------------------------------------


@functools.cache
def _numba() -> dict[str, Any]:
    numba = need("numba")

    @numba.njit(parallel=True, fastmath=True)
    def sum_squares(x):  # type: ignore[no-untyped-def]
        s = 0.0
        for i in numba.prange(x.size):
            v = np.float64(x[i])
            s += v * v
        return s

    @numba.njit(parallel=True, fastmath=True)
    def sum_abs(x):  # type: ignore[no-untyped-def]
        s = 0.0
        for i in numba.prange(x.size):
            s += abs(np.float64(x[i]))
        return s

    @numba.njit(parallel=True, fastmath=True)
    def value(x, l1, l2):  # type: ignore[no-untyped-def]
        s = 0.0
        q = 0.0
        for i in numba.prange(x.size):
            v = np.float64(x[i])
            s += abs(v)
            q += v * v
        return l1 * s + l2 * q

    @numba.njit(parallel=True, fastmath=True)
    def gradient(x, step, g):  # type: ignore[no-untyped-def]
        for i in numba.prange(x.size):
            g[i] = step * x[i]
        return g

    @numba.njit(parallel=True, fastmath=True)
    def accumulate(x, step, g):  # type: ignore[no-untyped-def]
        for i in numba.prange(x.size):
            g[i] += step * x[i]
        return g

    @numba.njit(parallel=True, fastmath=True)
    def both(x, l2, step, g):  # type: ignore[no-untyped-def]
        s = 0.0
        for i in numba.prange(x.size):
            v = np.float64(x[i])
            s += v * v
            g[i] = step * x[i]
        return l2 * s

    @numba.njit(parallel=True, fastmath=True)
    def both_accumulate(x, l2, step, g):  # type: ignore[no-untyped-def]
        s = 0.0
        for i in numba.prange(x.size):
            v = np.float64(x[i])
            s += v * v
            g[i] += step * x[i]
        return l2 * s

    return {
        "sum_squares": sum_squares,
        "sum_abs": sum_abs,
        "value": value,
        "gradient_out": gradient,
        "gradient_accumulate": accumulate,
        "value_and_gradient_out": both,
        "value_and_gradient_accumulate": both_accumulate,
    }


def _numba_call(operation: str, o: Operands) -> Call:
    step = o.x.dtype.type(STEP)
    args: tuple[Any, ...] = {
        "sum_squares": (),
        "sum_abs": (),
        "value": (L1, L2),
        "gradient_out": (step, o.g),
        "gradient_accumulate": (step, o.g),
    }.get(operation, (L2, step, o.g))
    call = Call(_numba()[operation], o.x, *args)
    # The types decide what is compiled, not the lengths.
    nothing = [a[:0] if isinstance(a, np.ndarray) else a for a in (o.x, *args)]
    call.compile = lambda: call.fn(*nothing)
    return call


for _operation in (
    "sum_squares",
    "sum_abs",
    "value",
    "gradient_out",
    "gradient_accumulate",
    "value_and_gradient_out",
    "value_and_gradient_accumulate",
):
    rival(_operation, "numba parallel", contiguous=True, threaded=True)(
        functools.partial(_numba_call, _operation)
    )


# -- torch ---------------------------------------------------------------------------------------


def _tensor(x: np.ndarray) -> Any:
    torch = need("torch")
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


@rival("sum_squares", "torch.dot", contiguous=True, threaded=True, framework="torch")
def _(o: Operands) -> Call:
    t = _tensor(o.x)
    return Call(need("torch").dot, t, t)


def torch_square_sum(t: Any) -> Any:
    return t.square().sum()


@rival("sum_squares", "torch square().sum()", dtypes=ALL, threaded=True, framework="torch")
def _(o: Operands) -> Call:
    return Call(torch_square_sum, _tensor(o.x))


@rival("norm", "torch vector_norm", dtypes=ALL, threaded=True, framework="torch")
def _(o: Operands) -> Call:
    return Call(need("torch").linalg.vector_norm, _tensor(o.x))


@rival("sum_abs", "torch vector_norm(1)", dtypes=ALL, threaded=True, framework="torch")
def _(o: Operands) -> Call:
    return Call(need("torch").linalg.vector_norm, _tensor(o.x), ord=1)


@rival("gradient_accumulate", "torch add_", dtypes=ALL, threaded=True, framework="torch")
def _(o: Operands) -> Call:
    return Call(_tensor(o.g).add_, _tensor(o.x), alpha=STEP)


def torch_both(t: Any, l2: float) -> Any:
    t.grad = None
    value = l2 * t.square().sum()
    value.backward()
    return value, t.grad


@rival("value_and_gradient_new", "torch eager", threaded=True, framework="torch")
def _(o: Operands) -> Call:
    return Call(torch_both, _tensor(o.x).requires_grad_(), L2)


@rival("value_and_gradient_new", "torch.compile", threaded=True, min_n=1 << 16, framework="torch")
def _(o: Operands) -> Call:
    torch = need("torch")
    t = _tensor(o.x)
    step = 2 * L2

    # What a user who cares would compile: autograd's own graph is not faster.
    @torch.compile(dynamic=False)
    def both(t: Any) -> Any:
        return L2 * t.square().sum(), step * t

    both(t)
    return Call(both, t)


def torch_foreach_norm(tensors: list[Any]) -> Any:
    torch = need("torch")
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


@rival("global_norm", "torch _foreach_norm", threaded=True, framework="torch")
def _(o: Operands) -> Call:
    return Call(torch_foreach_norm, [_tensor(x) for x in o.x])


@rival("global_norm", "torch get_total_norm", threaded=True, framework="torch")
def _(o: Operands) -> Call:
    torch = need("torch")
    return Call(torch.nn.utils.get_total_norm, [_tensor(x) for x in o.x])


@rival("global_norm", "torch clip_grad_norm_", threaded=True, framework="torch")
def _(o: Operands) -> Call:
    """Clipping also scales; with an infinite bound by 1."""
    torch = need("torch")
    parameters = []
    for x in o.x:
        p = torch.nn.Parameter(_tensor(x), requires_grad=True)
        p.grad = _tensor(x.copy())
        parameters.append(p)
    return Call(torch.nn.utils.clip_grad_norm_, parameters, math.inf)


def torch_list(tensors: list[Any], l2: float) -> Any:
    return l2 * sum(t.square().sum() for t in tensors)


@rival("penalty", "torch square().sum() loop", threaded=True, framework="torch")
def _(o: Operands) -> Call:
    return Call(torch_list, [_tensor(x) for x in o.x], L2)


# -- JAX -----------------------------------------------------------------------------------------


@functools.cache
def _jax() -> ModuleType:
    jax = need("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def _jax_array(x: np.ndarray) -> Any:
    return _jax().numpy.asarray(x).block_until_ready()


def _blocking(fn: Callable[..., Any], *args: Any) -> Any:
    return _jax().block_until_ready(fn(*args))


@functools.cache
def _jitted(operation: str) -> Any:
    jax = _jax()
    jnp = jax.numpy
    functions: dict[str, Any] = {
        "sum_squares": lambda x: jnp.sum(x * x),
        "sum_abs": lambda x: jnp.sum(jnp.abs(x)),
        "value_and_gradient_new": jax.value_and_grad(lambda x: L2 * jnp.sum(x * x)),
        "penalty": lambda xs: L2 * sum(jnp.sum(x * x) for x in xs),
    }
    return jax.jit(functions[operation])


def _jax_call(operation: str, o: Operands) -> Call:
    arguments = [_jax_array(x) for x in o.x] if isinstance(o.x, list) else _jax_array(o.x)
    function = _jitted(operation)
    _blocking(function, arguments)
    return Call(_blocking, function, arguments)


for _operation in ("sum_squares", "sum_abs", "value_and_gradient_new", "penalty"):
    rival(_operation, "jax jit", dtypes=ALL, threaded=True, framework="jax")(
        functools.partial(_jax_call, _operation)
    )


@functools.cache
def _optax_norm() -> Any:
    """Return optax's norm, compiled: once for all thread counts, thousands of arrays take long."""
    optax = need("optax")
    return _jax().jit(optax.tree.norm if hasattr(optax, "tree") else optax.global_norm)


@rival("global_norm", "optax jit", threaded=True, framework="jax")
def _(o: Operands) -> Call:
    function = _optax_norm()
    arrays = [_jax_array(x) for x in o.x]
    _blocking(function, arrays)
    return Call(_blocking, function, arrays)


# -- TensorFlow and Keras ------------------------------------------------------------------------


@rival("l2_loss", "tensorflow l2_loss", dtypes=ALL, threaded=True, framework="tensorflow")
def _(o: Operands) -> Call:
    tf = need("tensorflow")
    return Call(tf.nn.l2_loss, tf.constant(o.x))


@functools.cache
def _tensorflow_both(compiled: bool) -> Any:
    tf = need("tensorflow")

    def both(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = (2 * L2) * tf.nn.l2_loss(x)
        return value, tape.gradient(value, x)

    return tf.function(both, jit_compile=True) if compiled else both


@rival("value_and_gradient_new", "tensorflow eager", threaded=True, framework="tensorflow")
def _(o: Operands) -> Call:
    return Call(_tensorflow_both(False), need("tensorflow").constant(o.x))


@rival("value_and_gradient_new", "tensorflow XLA", threaded=True, framework="tensorflow")
def _(o: Operands) -> Call:
    x = need("tensorflow").constant(o.x)
    _tensorflow_both(True)(x)
    return Call(_tensorflow_both(True), x)


def _keras_value(penalty: Any, x: Any) -> Any:
    return _finished(penalty(x))


def _finished(value: Any) -> Any:
    return value.block_until_ready() if hasattr(value, "block_until_ready") else value


@rival("value", "keras L1L2", threaded=True, framework="keras")
def _(o: Operands) -> Call:
    keras = need("keras")
    x = keras.ops.convert_to_tensor(o.x)
    return Call(_keras_value, keras.regularizers.L1L2(l1=L1, l2=L2), x)


@rival("value", "keras L1L2, compiled", threaded=True, framework="keras")
def _(o: Operands) -> Call:
    keras = need("keras")
    x = keras.ops.convert_to_tensor(o.x)
    penalty = keras.regularizers.L1L2(l1=L1, l2=L2)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        function = need("tensorflow").function(penalty, jit_compile=True)
    elif backend == "jax":
        function = _jax().jit(penalty)
    elif backend == "torch":
        function = need("torch").compile(penalty, dynamic=False)
    else:
        raise Missing(f"a compiler for Keras' backend {backend}")
    _keras_value(function, x)
    return Call(_keras_value, function, x)
