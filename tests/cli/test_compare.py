# SPDX-License-Identifier: BSD-3-Clause
"""The compare command: what differs, by how much, and what it exits with."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from test_checkpoints import entry, npy_header, npz_bytes, safetensors_bytes

import fastreg.cli.main as command_line
from fastreg._core.dtypes import F16, F32, F64, NARROW
from fastreg.cli.differences import most_ulps


@pytest.fixture
def run(capsys):
    """Run the command; return (exit status, standard output, lines of standard error)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        status = command_line.main(["compare", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return call


@pytest.fixture
def documents(run):
    """Run the command with --json; return (exit status, the document, its arrays by name)."""

    def call(*arguments: object) -> tuple[int, dict, dict]:
        status, out, _ = run(*arguments, "--json")
        document = json.loads(out)
        return status, document, {a["name"]: a for a in document["arrays"]}

    return call


def save(folder, name: str, compressed: bool = False, **arrays):
    path = folder / f"{name}.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def test_the_same_however_it_is_kept(run, tmp_path):
    """In one file or several, packed or not, in either byte order and order of axes."""
    w, b = np.random.default_rng(5).standard_normal((300, 400)), np.arange(5, dtype="i8")
    w[0, :3] = [np.nan, np.inf, -0.0]
    first = save(tmp_path, "first", w=w, b=b)
    folder = tmp_path / "folder"
    folder.mkdir()
    save(folder, "x", compressed=True, w=np.asfortranarray(w).astype(">f8"))
    save(folder, "y", b=b)
    assert run(first, folder) == (0, "2 tensors: 2 equal\n", [])
    assert run(folder, first)[0] == 0
    np.save(tmp_path / "p.npy", w)
    np.save(tmp_path / "q.npy", w.T.copy().T)
    assert run(tmp_path / "p.npy", tmp_path / "q.npy")[0] == 0


def test_every_state(documents, tmp_path):
    first = save(tmp_path, "a", same=np.ones(3), off=np.ones(3), kind=np.ones(3), shape=np.ones(6),
                 gone=np.ones(1), z=np.ones(2, "c8"), zz=np.ones(2, "c8"))  # fmt: skip
    second = save(tmp_path, "b", same=np.ones(3), off=np.array([1, 2, 1.5]), kind=np.ones(3, "f4"),
                  shape=np.ones((2, 3)), new=np.ones(1), z=np.ones(2, "c8"),
                  zz=np.array([1, 2], "c8"))  # fmt: skip
    status, document, arrays = documents(first, second)
    assert status == 1
    assert {name: a["state"] for name, a in arrays.items()} == {
        "same": "equal", "off": "different", "kind": "type", "shape": "shape", "gone": "only in A",
        "new": "only in B", "z": "equal", "zz": "different",
    }  # fmt: skip
    assert arrays["off"] == {
        "name": "off", "shape": [[3], [3]], "dtype": ["f64", "f64"], "state": "different",
        "differing": 2, "max_abs": 1.0, "norm": math.sqrt(1.25), "ulps": 2**52,
    }  # fmt: skip
    assert arrays["gone"]["dtype"] == ["f64", None]
    totals = document["totals"]
    assert (totals["equal"], totals["type"], totals["only_in_A"]) == (2, 1, 1)
    assert totals["norm"] == math.sqrt(1.25)
    assert totals["relative"] == math.sqrt(1.25) / 3.0
    assert documents(first, second, "--select", "same")[0] == 0
    assert documents(first, second, "--atol", 0, "--select", "kind")[2]["kind"]["state"] == "close"


@pytest.mark.parametrize("other", ["f2", "f4", "f8", "i4"])
@pytest.mark.parametrize("code", ["f2", "f4", "f8"])
def test_differences_are_exact_and_rounded_once(documents, tmp_path, code, other):
    rng = np.random.default_rng(3)
    a = rng.integers(-50, 50, 2000).astype(code) + rng.standard_normal(2000).astype(code)
    b = (a + (rng.random(2000) < 0.3) * rng.standard_normal(2000)).astype(other)
    row = documents(save(tmp_path, "a", w=a), save(tmp_path, "b", compressed=True, w=b))[2]["w"]
    exact = zip(map(Fraction, a.tolist()), map(Fraction, b.tolist()), strict=True)
    differences = [abs(x - y) for x, y in exact]
    rounded = list(map(Fraction, map(float, differences)))
    assert row["differing"] == sum(d != 0 for d in differences)
    assert row["max_abs"] == float(max(rounded))
    square, norm = sum(d * d for d in rounded), row["norm"]
    low, high = Fraction(math.nextafter(norm, 0)), Fraction(math.nextafter(norm, math.inf))
    assert low * low < square < high * high


@pytest.mark.parametrize("code", ["i1", "i8", "u8", "?"])
def test_integers_differ_exactly(documents, tmp_path, code):
    info = None if code == "?" else np.iinfo(code)
    a, b = ([0, 1], [1, 1]) if info is None else ([info.min, 5], [info.max, 5])
    first, second = (save(tmp_path, n, w=np.array(x, code)) for n, x in (("a", a), ("b", b)))
    row = documents(first, second)[2]["w"]
    expected = 1 if info is None else int(info.max) - int(info.min)
    assert (row["differing"], row["max_abs"], row["norm"]) == (1, float(expected), float(expected))
    assert row["ulps"] is None
    assert documents(first, second)[1]["totals"]["norm"] == 0  # of floats


@pytest.mark.parametrize("dtype", [F16, F32, F64], ids=str)
def test_ulps(dtype):
    one = np.ones(1, dtype.view)
    tiny = np.nextafter(np.zeros(1, dtype.view), one)
    largest = np.full(1, np.finfo(dtype.view).max)
    for x, y, steps in [
        (one, one, 0),
        (one, np.nextafter(one, 2 * one), 1),
        (tiny, -tiny, 2),
        (0 * one, -0 * one, 0),
        (largest, one * np.inf, 1),
        (one * np.nan, one, 0),
    ]:
        assert most_ulps(x, y, dtype) == most_ulps(y, x, dtype) == steps
    bits = 8 * dtype.itemsize
    infinity = int((one * np.inf).view(f"u{dtype.itemsize}")[0])
    assert most_ulps(one * np.inf, -one * np.inf, dtype) == 2 * infinity < 1 << bits


def test_nan_and_infinity(documents, tmp_path):
    a = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0])
    first = save(tmp_path, "a", w=a)
    for k, state in enumerate(["different"] * 4):
        other = a.copy()
        other[k] = 5.0
        row = documents(first, save(tmp_path, "b", w=other))[2]["w"]
        assert (row["state"], row["differing"]) == (state, 1)
        assert row["norm"] == ["nan", "inf", "inf", 5.0][k]
        assert documents(first, tmp_path / "b.npz", "--atol", 1e3)[0] == (0 if k == 3 else 1)
    assert documents(first, save(tmp_path, "b", w=a.astype("f4")))[2]["w"]["state"] == "type"
    assert documents(first, tmp_path / "b.npz", "--rtol", 0)[0] == 0
    minus = a.copy()
    minus[3] = -0.0
    row = documents(first, save(tmp_path, "b", w=minus))[2]["w"]
    assert (row["state"], row["differing"], row["norm"]) == ("different", 1, 0.0)


def test_totals_are_rounded_once(documents, tmp_path):
    """Squares of differences that add up to (2^53 + 1)^2: a tie of the norm, and a little more."""
    numbers = {"x": 2.0**53, "y": 2.0**27, "z": 1.0}
    for least, norm in ((0.0, 2.0**53), (2.0**-30, 2.0**53 + 2)):
        second = {name: np.array([x]) for name, x in {**numbers, "w": least}.items()}
        first = {name: np.zeros(1) for name in second}
        totals = documents(save(tmp_path, "a", **first), save(tmp_path, "b", **second))[1]["totals"]
        assert totals["norm"] == norm
        assert totals["relative"] is None


@pytest.mark.parametrize("dtype", NARROW[:5], ids=str)
def test_floats_of_one_byte(documents, tmp_path, dtype):
    codes = np.arange(256, dtype="u1")
    header = {"w": entry(dtype.short.upper(), [256], 0, 256)}
    for name, data in (("a", codes), ("b", codes[::-1])):
        (tmp_path / name).write_bytes(safetensors_bytes(header, data.tobytes()))
    save(tmp_path, "wide", w=dtype.table)
    status, _, arrays = documents(tmp_path / "a", tmp_path / "wide.npz")
    assert (status, arrays["w"]["state"], arrays["w"]["differing"]) == (1, "type", 0)
    assert documents(tmp_path / "a", tmp_path / "wide.npz", "--atol", 0)[0] == 0
    assert documents(tmp_path / "a", tmp_path / "b")[2]["w"]["differing"] == 256


def test_what_cannot_be_read_is_status_2(run, tmp_path):
    good = save(tmp_path, "a", w=np.ones(3), x=np.ones(2))
    status, out, (line,) = run(good, tmp_path / "absent.npz")
    assert status == 2
    assert "absent.npz: expected a readable file" in line
    assert "only in A" not in out  # nobody knows
    assert "2 tensors: 2 unread" in out
    assert "2 tensors: 2 unread" in run(tmp_path / "absent.npz", good)[1]
    data = npz_bytes({"note.txt": b"hello"} | {"w.npy": npy_header("x")})
    (tmp_path / "b.npz").write_bytes(data)
    assert run(good, tmp_path / "b.npz")[0] == 2
    bad = bytearray(good.read_bytes())
    bad[bad.index(np.ones(3).tobytes())] ^= 1
    (tmp_path / "d.npz").write_bytes(bad)
    status, out, (line,) = run(good, tmp_path / "d.npz")
    assert (status, out) == (2, "")
    assert "checksum" in line
    assert run(good, good, "--select", "nothing")[0] == 2
    assert run(good, good, "--atol", "-1")[0] == 2
    np.save(tmp_path / "w.npy", np.ones(3))
    assert run(tmp_path / "w.npy", good)[0] == 1


@pytest.mark.parametrize("words", [("-", "-"), ("-", "/dev/stdin"), ("/dev/fd/0", "-")])
def test_standard_input_is_one_side_only(run, words):
    status, out, (line,) = run(*words)
    assert (status, out) == (2, "")
    assert "expected standard input for one of the two" in line


def test_names_twice_in_one_side_are_an_error(run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    save(folder, "x", w=np.ones(3))
    save(folder, "y", w=np.ones(3))
    status, _, (line,) = run(folder, folder / "x.npz")
    assert status == 2
    assert "distinct names" in line


def test_the_table(run, tmp_path):
    evil = "\x1b[31m\n"
    first = save(tmp_path, "a", **{evil: np.ones((2, 2)), "same": np.ones(2)})
    second = save(tmp_path, "b", **{evil: np.zeros((2, 2)), "same": np.ones(2)})
    status, out, err = run(first, second)
    lines = out.splitlines()
    assert (status, err) == (1, [])
    assert out.replace("\n", "").isprintable()
    assert lines[0].split() == ["array", "shape", "dtype", "differing", "max|a-b|", "ulps", "‖a-b‖"]
    assert lines[2].split()[:5] == [r"\x1b[31m\n", "different", "2×2", "f64", "4"]
    assert lines[-1] == "2 tensors: 1 equal, 1 different; ‖a-b‖ 2, 0.816 of ‖a‖"
    assert "same" in run(first, second, "--all")[1]
