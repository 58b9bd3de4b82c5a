# SPDX-License-Identifier: BSD-3-Clause
"""Other processors, all values of a format, and memory that runs out."""

from __future__ import annotations

import os
import platform
import sys

import drivers
import numpy as np
import pytest
from test_golden import GOLDEN

import fastreg

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 processors")


# -- Older processors ---------------------------------------------------------------------------

# What each is the first to lack decides the level.
PROCESSORS = {
    "qemu64": "baseline",
    "core2duo": "baseline",
    "Nehalem": "baseline",
    "SandyBridge": "baseline",
    "Haswell": "x86_v3",
    "Skylake-Client": "x86_v3",
}


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    return drivers.c_driver(tmp_path_factory.mktemp("golden"), "golden")


@x86
@pytest.mark.parametrize("processor", PROCESSORS)
def test_older_processors(golden, processor):
    """The library takes what the processor has, refuses what it lacks; the bits are the same."""
    emulator = [drivers.tool("qemu-x86_64"), "-cpu", processor]
    assert drivers.run([*emulator, golden]).stdout.strip() == GOLDEN
    has = PROCESSORS[processor]
    for level in ("baseline", "x86_v3", "x86_v4"):
        done = drivers.run([*emulator, golden, level])
        if level <= has:
            assert done.stdout.strip() == GOLDEN
        else:
            assert done.returncode == 1, level
            assert "expected an ISA level" in done.stderr


OLD = """
import numpy as np
import fastreg
x = np.arange(1000, dtype=np.float32) / 7
print(fastreg.get_isa(), float(fastreg.value(x, l1=0.1, l2=0.3)).hex())
"""


@x86
@pytest.mark.parametrize("processor", ["Nehalem", "SandyBridge", "Haswell"])
def test_the_package_on_older_processors(processor):
    """Import and answer, emulated. (Before Nehalem, NumPy itself does not run.)"""
    emulator = [drivers.tool("qemu-x86_64"), "-cpu", processor]
    here = os.environ | {"PYTHONPATH": str(drivers.ROOT)}
    if drivers.run([*emulator, sys.executable, "-c", "import numpy"], env=here).returncode != 0:
        pytest.skip(f"NumPy does not run on {processor}")
    done = drivers.run([*emulator, sys.executable, "-c", OLD], env=here)
    x = np.arange(1000, dtype=np.float32) / 7
    wanted = [PROCESSORS[processor], float(fastreg.value(x, l1=0.1, l2=0.3)).hex()]
    assert done.stdout.split() == wanted, done.stderr


# -- All there is -------------------------------------------------------------------------------

# Each so many-th: default run, and all with --soak.
STEPS = {"pairs": (1999, 1), "gradients": (128, 1)}


@pytest.mark.parametrize("what", STEPS)
def test_all_values(tmp_path, what, isa, soak):
    """Every pair of f16 magnitudes, and every f32 through each kind of gradient."""
    program = drivers.c_driver(tmp_path, "exhaust")
    step = STEPS[what][soak]
    done = drivers.run([program, what, isa, step], timeout=7200)
    assert done.returncode == 0, done.stdout
    if what == "pairs":
        firsts = range(0, 0x7C00, step)
        assert int(done.stdout) == 2 * sum(0x7C00 - a for a in firsts)
    else:
        assert int(done.stdout) == 18 * 2**32 // step


# -- Memory that runs out -------------------------------------------------------------------------

# Fails the k-th allocation of a call, for every k, and the three after it. Not with out=: its
# check reads __array_interface__, in which NumPy 2.4 itself crashes when an allocation fails.
SWEEP = """
import sys
try:
    import _testcapi
except ImportError:
    print("this Python has no _testcapi")
    sys.exit(77)
import numpy as np
import fastreg
import hooks
from fastreg import functional
x = np.arange(12, dtype=np.float32) - 5
f = np.asfortranarray(x.reshape(3, 4))
calls = [
    lambda: fastreg.value(x, l1=0.1, l2=0.3),
    lambda: fastreg.value(x, l1=0.1, dtype="float16"),
    lambda: fastreg.value(f, l1=0.1, l2=0.2),
    lambda: fastreg.norm(x),
    lambda: fastreg.gradient(x, l1=0.1),
    lambda: fastreg.value_and_gradient(f, l2=0.1),
    lambda: hooks.list_value([x, f], l1=[0.1, 0.2]),
    lambda: hooks.list_norm([x, f]),
]
if sys.argv[1] == "memoryview":
    calls = [lambda: fastreg.value(memoryview(x), l1=0.1)]
def same(a, b):
    if isinstance(a, tuple):
        return all(map(same, a, b))
    return a.dtype == b.dtype and np.array_equal(a, b)

failed = 0
for call in calls:
    for _ in range(3):
        wanted = call()
    for stop in (1, 4):
        clean = 0
        for k in range(2000):
            got = None
            _testcapi.set_nomemory(k, k + stop)
            try:
                got = call()
            except MemoryError:
                pass
            finally:
                _testcapi.remove_mem_hooks()
            if got is None:
                failed += 1
                clean = 0
            else:
                assert same(got, wanted), (got, wanted)
                clean += 1
                if clean > 20:
                    break
        else:
            raise AssertionError("does not end")
    assert same(call(), wanted)
print(failed)
"""


# The same of a generator alone: Python 3.13 itself crashes where there is no memory for one.
GENERATORS = """
import sys
try:
    import _testcapi
except ImportError:
    sys.exit(0)
def call():
    return any(x == 4 for x in (1, 2, 3))
for _ in range(3):
    call()
for k in range(30):
    try:
        _testcapi.set_nomemory(k, k + 1)
        call()
    except MemoryError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
"""


@pytest.mark.parametrize("what", ["arrays", "memoryview"])
def test_every_allocation_may_fail(what):
    """A call whose k-th allocation fails raises MemoryError or is right, for every k."""
    if what == "memoryview" and drivers.run([sys.executable, "-c", GENERATORS]).returncode != 0:
        version = platform.python_version()
        pytest.skip(f"Python {version} itself crashes where a generator gets no memory")
    assert int(drivers.python(SWEEP, what)) > 10


def test_the_library_allocates_nothing(tmp_path):
    """Nothing of csrc/ asks for memory, but for what starts and counts threads."""
    nm = drivers.tool("nm")
    for path in drivers.library(drivers.tool("cc"), "-O2"):
        names = {line.split()[-1] for line in drivers.run([nm, "-u", path]).stdout.splitlines()}
        assert not names & {"malloc", "calloc", "realloc", "aligned_alloc", "alloca", "mmap"}, path
        if path.stem != "host":
            assert not names & {"free", "fopen", "exit", "abort", "printf"}, path
