# SPDX-License-Identifier: BSD-3-Clause
"""C5: the floating-point environment neither changes a result nor is changed."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
import threading

import drivers
import hooks
import numpy as np
import pytest

import fastreg
from fastreg import _kernels

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not sys.platform.startswith("linux"),
    reason="tests/c/environment.c reads MXCSR",
)

MODES = range(4)
FLAGS = 0x3F
# Subnormal elements and results, exact ties, inexact sums, overflows: all that modes can change.
SOURCES = {
    "f16": [6e-8, 1e-7, 0.3, -1.5, 60000.0],
    "f32": [1e-45, 1e-40, 0.1, -3.3, 3e38],
    "f64": [5e-324, 1e-310, 0.1, -3.3, 1e308],
}
DTYPES = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


@pytest.fixture(scope="module")
def library_path(tmp_path_factory):
    """tests/c/environment.c as a shared library."""
    path = tmp_path_factory.mktemp("environment") / "environment.so"
    source = drivers.ROOT / "tests" / "c" / "environment.c"
    return drivers.compile_c(path, "-O2", "-shared", "-fPIC", source, "-lm")


@pytest.fixture(scope="module")
def machine(library_path):
    """The functions of tests/c/environment.c."""
    library = ctypes.CDLL(str(library_path))
    library.environment.restype = ctypes.c_ulonglong
    library.set_environment.restype = ctypes.c_ulonglong
    library.set_environment.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint]
    return library


def calls(level, threads):
    """Every kind of call on small and large data, as functions without arguments."""
    found = []
    for name, few in SOURCES.items():
        small = np.array(few, DTYPES[name])
        tiny = np.array(few[:2] * 9, DTYPES[name])
        large = np.resize(np.array(few[:4], DTYPES[name]), 600_011)
        strided = np.resize(small, 4000)[::-3]
        large_tiny = np.resize(tiny, 100_003)
        for x in (small, tiny, large, large_tiny, strided):
            out = np.ones(x.shape, x.dtype)
            for op, tier in (("value", 0), ("value", 1), ("value", 2), ("norm", 0)):
                if x.size > 100_000 and tier == 2 and level != hooks.levels()[-1]:
                    continue
                found.append(
                    lambda x=x, op=op, tier=tier, name=name: hooks.measure(
                        x, op, name, l1=0.1, l2=0.3, isa=level, threads=threads, first_tier=tier
                    )[0]
                )
            found.append(lambda x=x: hooks.gradient(x, l1=0.1, l2=0.3, isa=level).tobytes())

            def accumulate(x=x, out=out):
                out[...] = np.array(1, out.dtype)
                return hooks.gradient(
                    x, l1=0.1, l2=0.3, out=out, accumulate=True, isa=level
                ).tobytes()

            found.append(accumulate)
        found.append(lambda x=small: fastreg.value(x, l1=0.1, l2=0.3).tobytes())
        found += [lambda x=x: state_bits(x, level, threads) for x in (small, large_tiny)]
        found.append(lambda x=small: fastreg.norm(x, dtype="bf16").tobytes())
        found.append(lambda x=small: fastreg.value_and_gradient(x, l1=0.1)[1].tobytes())
    ints = np.arange(-3000, 3000)
    found.append(lambda: hooks.measure(ints, "value", "f32", l2=0.1, isa=level, threads=threads)[0])
    found.append(lambda: hooks.measure([], "value", "f64", l2=0.1, isa=level)[0])
    return found


def state_bits(x, level, threads) -> bytes:
    """A state, what it and a sum with a bound answer, and its digits."""
    arrays = _kernels.Arrays([x], 0.1, 0.3, options=hooks.options(level, threads))
    states = _kernels.States(1)
    states.fill(arrays)
    out = states.save(0) + states.digits(0, False, True).tobytes()
    out += states.plus(states).minus(states).save(0)
    for root in (False, True):
        for dtype in ("f16", "f64"):
            out += states.value([0.1], [0.3], dtype, root).tobytes()
    digits = _kernels.Enclosure.of(arrays).digits()
    for root in (False, True):
        decided = _kernels.decide(digits, None, root)
        out += b"undecided" if decided is None else decided.tobytes()
    return out


def bits(result) -> bytes:
    return result if isinstance(result, bytes) else np.float64(result).tobytes()


def in_every_environment(machine, work, wanted, ignored: int = 0) -> None:
    """Make each call in each environment: same result, same environment behind it.

    ``ignored`` are bits of the environment that Python's own arithmetic may change.
    """
    bad = []
    for mode in MODES:
        for flush in (0, 1):
            for flags in (0, FLAGS):
                for i, (call, want) in enumerate(zip(work, wanted, strict=True)):
                    machine.set_environment(mode, flush, flags)
                    before = machine.environment()
                    try:
                        got = bits(call())
                        after = machine.environment()
                    finally:
                        machine.reset_environment()
                    if got != want or (before ^ after) & ~ignored:
                        bad.append((mode, flush, flags, i, hex(before), hex(after)))
    assert bad == []


@pytest.mark.parametrize("threads", [1, 2])
def test_modes_neither_matter_nor_change(machine, isa, threads):
    """Four rounding modes, flush-to-zero and raised flags, on the caller and its workers."""
    work = calls(isa, threads)
    in_every_environment(machine, work, [bits(call()) for call in work])


def test_no_flag_is_raised(machine):
    """Inexact, overflowing and invalid steps inside leave no sticky flag and no mask changed."""
    machine.reset_environment()
    specials = np.array([np.nan, np.inf, 1e308, 5e-324, 0.1], np.float64)
    signalling = np.array([0x7F800001, 0x7F7FFFFF, 1], np.uint32).view(np.float32)
    clean = machine.environment()
    for x in (specials, specials[1:], specials[2:], signalling, signalling[1:]):
        for call in (fastreg.value, fastreg.gradient, fastreg.value_and_gradient):
            call(x, l1=0.1, l2=0.3)
            assert machine.environment() == clean
        fastreg.norm(x)
        assert machine.environment() == clean
        assert machine.tags() == 0xFFFF


def test_errors_leave_the_environment(machine):
    """A refused call changes nothing either."""
    x = np.ones(5)
    before = machine.set_environment(2, 1, 0x21)
    try:
        for arguments in ({"l1": -1.0}, {"l2": np.inf}, {"l1": np.nan}):
            with pytest.raises(ValueError, match="finite and >= 0"):
                fastreg.value(x, **arguments)
        with pytest.raises(ValueError, match="l2"):
            fastreg.gradient(x, l2=-1.0)
        after = machine.environment()
    finally:
        machine.reset_environment()
    assert after & 0xFFC0 == before & 0xFFC0


def test_threads_with_environments_of_their_own(machine):
    """Concurrent callers, each in another environment: each keeps it and gets the same bits."""
    x = np.resize(np.array(SOURCES["f32"], np.float32), 300_007)
    wanted = bits(hooks.measure(x, "value", "f32", l1=0.1, l2=0.3, threads=1)[0])
    bad = []

    def call(mode, flush):
        before = machine.set_environment(mode, flush, FLAGS * flush)
        for _ in range(20):
            got = bits(hooks.measure(x, "value", "f32", l1=0.1, l2=0.3, threads=2)[0])
            if got != wanted or machine.environment() != before:
                bad.append((mode, flush))

    workers = [threading.Thread(target=call, args=(m, f)) for m in MODES for f in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert bad == []


# Runs before fastreg has had any worker: they inherit the environment of whoever starts them.
FIRST_CALL = """
import ctypes, sys
import numpy as np
import hooks
machine = ctypes.CDLL(sys.argv[1])
machine.environment.restype = machine.set_environment.restype = ctypes.c_ulonglong
mode, flush = int(sys.argv[2]), int(sys.argv[3])
x = np.resize(np.array([1e-45, 1e-40, 0.1, -3.3, 3e38], np.float32), 600_011)
y = np.resize(np.array([5e-324, 1e-310, 0.1, -3.3], np.float64), 300_011)
before = machine.set_environment(mode, flush, 0)
found = []
for a, name in ((x, "f32"), (y, "f64")):
    for tier in (0, 1, 2):
        found.append(hooks.measure(a, "value", name, l1=0.1, l2=0.3, threads=4, first_tier=tier)[0])
        if machine.environment() != before:
            sys.exit("the environment changed")
machine.reset_environment()
# And workers that were started flushing serve callers who do not.
for a, name in ((x, "f32"), (y, "f64")):
    found.append(hooks.measure(a, "value", name, l1=0.1, l2=0.3, threads=4)[0])
print([v.hex() for v in found])
"""


def test_workers_started_in_a_strange_environment(library_path):
    """Workers whose first environment is the caller's odd one give the same bits, also later."""
    found = {
        drivers.python(FIRST_CALL, str(library_path), str(mode), str(flush))
        for mode, flush in ((0, 0), (1, 1), (2, 0), (3, 1))
    }
    assert len(found) == 1


SPOILED_WORKERS = """
import ctypes, sys
import numpy as np
import hooks
other = ctypes.CDLL(sys.argv[1])
THREADS = 4
def exchange(values):
    held = (ctypes.c_uint * THREADS)(*values)
    other.exchange_environments(THREADS, held)
    return list(held)
x = np.resize(np.array([1e-45, 1e-40, 0.1, -3.3], np.float32), 600_011)
y = np.resize(np.array([5e-324, 1e-310, 1e-160, 3e-155], np.float64), 300_011)
# Nothing but subnormals: what flushing makes zero is not lost among larger numbers.
tiny32, tiny64 = np.resize(x[:2], 200_003), np.resize(y[:2], 200_003)
def results(threads):
    return [
        hooks.measure(a, "value", name, l1=0.1, l2=0.3, threads=threads, first_tier=tier)[0]
        for a, name in ((x, "f32"), (y, "f64"), (tiny32, "f32"), (tiny32, "f64"), (tiny64, "f64"))
        for tier in (0, 1, 2)
    ]
wanted = results(1)
# Rounding modes, flushing, and some flags raised already; this thread as it was.
for worker in (0x9fc0, 0x7f80, 0xbfc5, 0xdfff, 0x1f80):
    odd = [0x1f80] + [worker] * (THREADS - 1)
    exchange(odd)
    for _ in range(3):
        if results(THREADS) != wanted:
            sys.exit(f"other bits from workers in {worker:#x}")
    left = exchange([0x1f80] * THREADS)
    if left[1:] != odd[1:]:
        sys.exit(f"workers in {worker:#x} were left in {left}")
print("good")
"""


@pytest.mark.skipif(not _kernels.has_openmp(), reason="built without OpenMP")
def test_workers_that_another_library_left_strange(tmp_path):
    """Workers with modes of their own give the same bits and keep their modes and flags."""
    if "gcc" not in _kernels.compiler():
        pytest.skip("needs the OpenMP runtime of gcc, as the extension has it")
    source = drivers.ROOT / "tests" / "c" / "nested.c"
    library = drivers.compile_c(
        tmp_path / "nested.so",
        *("-O2", "-fopenmp", "-shared", "-fPIC", source),
        compiler=drivers.tool("gcc"),
    )
    assert drivers.python(SPOILED_WORKERS, str(library)) == "good\n"


IMPORT = """
import ctypes, sys
import numpy as np
machine = ctypes.CDLL(sys.argv[1])
machine.environment.restype = machine.set_environment.restype = ctypes.c_ulonglong
threads = lambda: len(__import__("os").listdir("/proc/self/task"))
for mode, flush, flags in ((0, 0, 0), (2, 1, 0x3f)):
    for name in [n for n in sys.modules if n.split(".")[0] == "fastreg"]:
        del sys.modules[name]
    before, count = machine.set_environment(mode, flush, flags), threads()
    if flush == 0:
        import fastreg
    else:
        ctypes.CDLL(fastreg_file)
    after = machine.environment()
    machine.reset_environment()
    # Python's own import raises flags: controls only.
    assert (before ^ after) & 0xffff0000ffc0 == 0, (hex(before), hex(after))
    assert threads() == count, "the import starts threads"
    fastreg_file = fastreg._kernels.__file__
assert 5e-324 * 1.0 != 0.0
fastreg.sum_squares(np.ones(1 << 20, np.float32))
assert 5e-324 * 1.0 != 0.0
print("good")
"""


def test_import_is_inert(library_path):
    """Importing changes no floating-point setting and starts no thread."""
    assert drivers.python(IMPORT, str(library_path)) == "good\n"


def disassembly(*arguments) -> str:
    done = drivers.run([drivers.tool("objdump"), *arguments])
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_no_crtfastmath(shared_object) -> None:
    """No constructor of gcc's that sets FTZ is linked in."""
    assert "set_fast_math" not in disassembly("-t", shared_object)
    functions = disassembly("-d", "--no-show-raw-insn", shared_object).split("\n\n")
    setting = [function for function in functions if "ldmxcsr" in function]
    assert setting
    assert all("stmxcsr" in function for function in setting)


def test_the_extension_sets_nothing_when_loaded():
    """The extension in use holds no crtfastmath, and every load of MXCSR follows a store of it."""
    assert_no_crtfastmath(fastreg._kernels.__file__)


def test_hostile_flags_build_an_inert_extension(tmp_path, library_path):
    """CFLAGS and LDFLAGS of -Ofast reach neither the kernels nor the link line."""
    pytest.importorskip("setuptools", "77", reason="setuptools >= 77 builds it")
    pytest.importorskip("Cython", reason="Cython builds it")
    drivers.tool("gcc")
    tree = tmp_path / "tree"
    for folder in ("csrc", "fastreg", "tools"):
        shutil.copytree(
            drivers.ROOT / folder,
            tree / folder,
            ignore=shutil.ignore_patterns("*.so", "_kernels.c", "__pycache__"),
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(drivers.ROOT / name, tree)
    hostile = dict.fromkeys(("CFLAGS", "LDFLAGS", "CPPFLAGS"), "-Ofast -ffast-math -march=native")
    done = drivers.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        timeout=600,
        cwd=tree,
        env=os.environ | hostile,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = tree.glob("fastreg/_kernels*.so")
    assert_no_crtfastmath(built)
    code = f"import sys; sys.path.insert(0, {str(tree)!r})\n" + IMPORT
    assert drivers.python(code, str(library_path)) == "good\n"
    code = f"import sys; sys.path.insert(0, {str(tree)!r})\n" + FIRST_CALL
    unhurt = drivers.python(FIRST_CALL, str(library_path), "0", "0")
    assert drivers.python(code, str(library_path), "0", "0") == unhurt


ALL_FLAGS = FLAGS | FLAGS << 32


def arithmetic_around_the_kernels():
    """Calls whose weights, rates, norms and groups are computed before or after the kernels."""
    tiny = np.array([1e-310, 3e-310])
    small = np.array([[1e-40, 3e-40], [5e-41, 0.0]], np.float32)
    half = np.array([[1e-5, 6e-8], [0.3, 2.0]], np.float16)
    big = np.array([1e150, 3e150])
    most = float(fastreg.norm(tiny)) / 10
    narrow = np.float32(1e-40)

    def written(x, work):
        x = x.copy()
        work(x)
        return x.tobytes()

    def group(verb, x, weight):
        return verb([x], weight=weight, groups=0)

    return [
        lambda: fastreg.penalty([big], l2=1e-310),
        lambda: fastreg.penalty([big], l2=1e-310, weights=2.0),
        lambda: fastreg.penalty([big], l2=1e-310, convention="half"),
        lambda: fastreg.penalty({"w": big}, l2={"*": 1e-155}, weights={"w": 1e-155}, select="all"),
        lambda: fastreg.penalty([big], l2=0.1, weights=0.7),
        lambda: fastreg.penalty([big], l2=narrow),
        lambda: fastreg.value_and_gradient(big, l2=1e-310, convention="half")[0],
        lambda: fastreg.plan([big], l2=1e-310).value(),
        lambda: written(tiny, lambda x: fastreg.decay_([x], 0.3)),
        lambda: written(np.ones(3), lambda x: fastreg.decay_([x], 1e-17)),
        lambda: written(tiny, lambda x: fastreg.clip_by_global_norm_([x], most)),
        lambda: written(small, lambda x: fastreg.clip_by_global_norm_([x], 1e-41)),
        lambda: written(tiny, lambda x: fastreg.prox_([x], 0.1, l1=1e-310, weights=0.7)),
        *(
            lambda verb=verb, x=x, w=w: np.asarray(group(verb, x, w)).tobytes()
            for verb in (fastreg.group_lasso_value, fastreg.group_lasso_gradient)
            for x, w in ((small, 0.7), (small, 1e-310), (half, 0.1))
        ),
        *(
            lambda x=x, step=step: written(
                x, lambda y: fastreg.group_lasso_prox_([y], step, weight=0.7, groups=0)
            )
            for x, step in ((small, 1e-41), (half, 0.1), (half, 3e-8))
        ),
        lambda: fastreg.regularizers.OrthogonalRegularizer(0.1)(half).tobytes(),
        lambda: fastreg.regularizers.L2(1e-310)(big),
    ]


def test_arithmetic_around_the_kernels(machine):
    """Products of weights, rates, quotients of norms and groups too are of no environment."""
    work = arithmetic_around_the_kernels()
    in_every_environment(machine, work, [bits(call()) for call in work], ALL_FLAGS)


def test_torch_results_of_any_environment(machine):
    """A subnormal result becomes a tensor as it is."""
    torch = pytest.importorskip("torch")
    tiny = torch.full((3,), 1e-20)
    work = [
        lambda: fastreg.torch.penalty(tiny, l2=1.0).numpy().tobytes(),
        lambda: fastreg.torch.penalty(tiny, l2=1.0, dtype="bfloat16").view(torch.int16).item(),
        lambda: fastreg.torch.penalty([tiny, tiny], l2=1.0).numpy().tobytes(),
        lambda: fastreg.torch.penalty(tiny, l1=1e-310, dtype="float64").numpy().tobytes(),
        lambda: fastreg.torch.gradient(tiny, l2=1e-20).numpy().tobytes(),
    ]
    in_every_environment(machine, work, [bits(call()) for call in work], ALL_FLAGS)


def test_weights_below_zero_are_refused_where_denormals_are_zero(machine):
    machine.set_environment(0, 1, 0)
    try:
        for call in (
            lambda: fastreg.value(np.ones(3), l2=-5e-324),
            lambda: fastreg.penalty([np.ones(3)], l2=-5e-324),
        ):
            with pytest.raises(ValueError, match="weight l2"):
                call()
    finally:
        machine.reset_environment()
