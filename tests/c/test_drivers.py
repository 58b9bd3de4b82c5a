# SPDX-License-Identifier: BSD-3-Clause
"""The library against tests/c/truth.h, an oracle in C that shares nothing with it, without Python.

Near-ties are right by construction; random calls are judged element by element and byte by byte,
under any rounding mode, flush setting and raised flag, which must stay as they are.
"""

from __future__ import annotations

import sys

import drivers
import hooks
import pytest

# Near-ties for each operation, element type and result type: default run, --full, --soak.
TIES = 4_000, 20_000, 1_000_000
STATES = 5_000, 100_000, 3_000_000
CASES = 100_000, 1_000_000, 33_400_000  # 10^8 on three levels together


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Each driver, built once."""
    folder = tmp_path_factory.mktemp("drivers")
    return {
        "ties": drivers.c_driver(folder, "ties"),
        "fuzz": drivers.c_driver(folder, "fuzz"),
        "contract": drivers.c_driver(folder, "contract"),
        "states": drivers.c_driver(folder, "states"),
        "units": drivers.c_driver(folder, "units"),
        "exact": drivers.c_driver(folder, "exact"),
        "threads": drivers.c_driver(folder, "threads", "-O2", "-fopenmp"),
    }


@pytest.fixture
def how_long(request):
    """Index into the sizes above."""
    return 2 if request.config.getoption("--soak") else request.config.getoption("--full")


def ends_well(*command, timeout=300.0) -> str:
    done = drivers.run(command, timeout=timeout)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout[-4000:]}{done.stderr}"
    return done.stdout


def test_near_ties(built, isa, how_long):
    """No misrounding on, just below and just above the midpoint of two results."""
    lines = ends_well(built["ties"], isa, TIES[how_long], 1 + how_long, timeout=7200).splitlines()
    found = {tuple(line.split()[:3]): line.split()[3:] for line in lines[:-1]}
    # 40 bits span all numbers of f16, too few for a midpoint of f64, but for squares.
    none = {("sum_abs", "f16", "f64"), ("norm", "f16", "f64")}
    assert len(found) == 5 * 4 * 4 + 4
    assert {name for name, (cases, _) in found.items() if cases == "0"} == none
    assert {cases for cases, _ in found.values()} == {"0", str(TIES[how_long])}
    assert {wrong for _, wrong in found.values()} == {"0"}
    # They are hard: most need the second tier or the third.
    tiers = [int(word) for word in lines[-1].split()[-3:]]
    assert tiers[1] + tiers[2] > tiers[0]


def test_random_calls(built, isa, how_long):
    """Any function on lists of any types, layouts and weights: the exact bits, and no others."""
    cases = CASES[how_long]
    seed = 1 + how_long
    assert int(ends_well(built["fuzz"], isa, cases, seed, timeout=7200)) == cases


def test_random_calls_with_threads(tmp_path, isa):
    """The same with teams of up to four threads, shares as small as 64 elements."""
    program = drivers.c_driver(tmp_path, "fuzz", "-O2", "-fopenmp")
    assert int(ends_well(program, isa, 10_000, 77)) == 10_000


def test_states(built, isa, how_long):
    """Exact sums of any arrays: merged, taken apart, sent as digits and bytes, and spoilt."""
    cases = STATES[how_long]
    assert int(ends_well(built["states"], isa, cases, 1 + how_long, timeout=7200)) == cases


def test_states_with_threads(tmp_path, isa):
    """The same with teams of up to four threads."""
    program = drivers.c_driver(tmp_path, "states", "-O2", "-fopenmp")
    assert int(ends_well(program, isa, 1_000, 5)) == 1_000


def test_the_contract_of_the_header(built):
    """Statuses, untouched results, polls, thread settings, packing."""
    for level in hooks.levels():
        done = drivers.run([built["contract"]], env={"FASTREG_ISA": level})
        assert (done.returncode, done.stdout) == (0, "good\n"), done.stdout


def test_contract_with_threads(tmp_path):
    """The same with teams: polls are asked on the calling thread only, and stop all."""
    assert ends_well(drivers.c_driver(tmp_path, "contract", "-O2", "-fopenmp")) == "good\n"


@pytest.mark.parametrize("flags", [("-O2",), ("-O2", "-fopenmp")])
def test_the_callers_own_threads(tmp_path, flags):
    """1 to 64 shares on pools that reorder, drop and repeat calls: the bits of one thread."""
    ends_well(drivers.c_driver(tmp_path, "pool", *flags))


def test_units_below_the_interface(built):
    """Rounding, integers, pairs with bounds: by themselves, where no call reaches them."""
    assert ends_well(built["units"], "-") == "good\n"


def test_kernel_tables(built, isa):
    """Each kernel as compiled: its bounds hold and are no looser than they say."""
    assert ends_well(built["units"], isa) == "good\n"


def test_exact_blocks(built, isa, how_long):
    """Integers of blocks of any kind; one unit inside and outside each condition of the proof."""
    assert ends_well(built["exact"], isa, (6_000, 60_000, 3_000_000)[how_long], 1) == "good\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a world made for Linux")
def test_the_world_outside(tmp_path):
    """Files, variables, threads and processors that are not there."""
    assert ends_well(drivers.c_driver(tmp_path, "outside", "-O2", "-fopenmp")) == "good\n"


def test_callers_side_by_side(built):
    """Four threads with teams of their own, on every level, from their first call on."""
    assert ends_well(built["threads"], 10) == "good\n"


def test_an_unknown_level_is_not_tested(built):
    """The drivers do not pass on a level that the library refuses."""
    assert drivers.run([built["ties"], "typo", 1, 1]).returncode == 1
    assert drivers.run([built["fuzz"], "typo", 1, 1]).returncode != 0
