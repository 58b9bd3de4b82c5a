# SPDX-License-Identifier: BSD-3-Clause
"""The command line: what it prints, what it exits with, and that nothing makes it trip."""

from __future__ import annotations

import io
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fuzz import Fuzz
from test_checkpoints import entry, safetensors_bytes

import fastreg
import fastreg.cli.main as command_line
from fastreg._checkpoints.opening import read_checkpoint
from fastreg._checkpoints.tensor import Tensor
from fastreg._core.arrays import HostArray
from fastreg._core.pieces import Sums
from fastreg._core.statistics import FIELDS
from fastreg._kernels import Arrays
from fastreg.cli.inspect import inspect
from fastreg.cli.progress import Progress
from fastreg.cli.report import Report, print_report


@pytest.fixture
def run(capsys):
    """Run the command line; return (exit status, standard output, lines of standard error)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        status = command_line.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return call


@pytest.fixture
def model(tmp_path) -> Path:
    """Write a small model with every kind of number in it."""
    rng = np.random.default_rng(11)
    w = (rng.standard_normal((5, 7)) * 10.0 ** rng.integers(-20, 20, (5, 7))).astype("f4")
    parts = [
        ("layer.0.weight", "F32", [5, 7], w.tobytes()),
        ("layer.0.bias", "F64", [3], np.array([1e-200, -3.5, 0.0]).tobytes()),
        ("half", "F16", [2, 2], np.array([1, -2, 6e-8, 65504], "f2").tobytes()),
        ("brain", "BF16", [3], np.array([0x3F80, 0xC000, 0x8000], "u2").tobytes()),
        ("ids", "I64", [3], np.array([-(2**63), 5, 0], "i8").tobytes()),
        ("mask", "BOOL", [4], b"\0\1\1\1"),
        ("small", "F8_E4M3", [2], b"ab"),
    ]
    return write_model(tmp_path / "model.safetensors", parts)


def write_model(path: Path, parts: list[tuple[str, str, list[int], bytes]]) -> Path:
    header, data = {}, b""
    for name, dtype, shape, raw in parts:
        header[name] = entry(dtype, shape, len(data), len(data) + len(raw))
        data += raw
    path.write_bytes(safetensors_bytes(header, data))
    return path


def elements(name: str) -> list[Fraction]:
    """Return the elements of `model` exactly, without the package's readers."""
    rng = np.random.default_rng(11)
    w = (rng.standard_normal((5, 7)) * 10.0 ** rng.integers(-20, 20, (5, 7))).astype("f4")
    table = {
        "layer.0.weight": w.ravel().tolist(),
        "layer.0.bias": [1e-200, -3.5, 0.0],
        "half": np.array([1, -2, 6e-8, 65504], "f2").tolist(),
        "brain": [1.0, -2.0, 0.0],
        "ids": [-(2**63), 5, 0],
        "mask": [0, 1, 1, 1],
        "small": [36.0, 40.0],
    }
    return [Fraction(x) for x in table[name]]


def assert_numbers(report: dict, values: list[Fraction], l1: float, l2: float) -> None:
    """Compare with exact rationals, which ``float`` rounds correctly."""
    sum_abs = sum(map(abs, values), Fraction())
    sum_squares = sum((x * x for x in values), Fraction())
    assert report["sum_abs"] == float(sum_abs)
    assert report["sum_squares"] == float(sum_squares)
    assert report["max_abs"] == float(max(map(abs, values)))
    assert report["zeros"] == values.count(0)
    assert report["nans"] == report["infs"] == 0
    root = report["norm"]
    low, high = Fraction(math.nextafter(root, 0)), Fraction(math.nextafter(root, math.inf))
    assert low**2 < sum_squares < high**2
    if report["penalty"] is not None:
        assert report["penalty"] == float(Fraction(l1) * sum_abs + Fraction(l2) * sum_squares)


# ---- numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("select", [[], ["--select", "all"]], ids=["kernels", "all"])
@pytest.mark.parametrize("integers", [False, True])
def test_json_holds_the_exact_sums(run, model, integers, select):
    l1, l2 = 0.1, 1e-3
    options = [*["--integers"] * integers, *select]
    status, out, err = run("inspect", model, "--json", "--l1", l1, "--l2", l2, *options)
    assert (status, err) == (0, [])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(out, parse_constant=refuse)
    assert report["schema"] == "fastreg-stats/3"
    assert (report["l1"], report["l2"], report["hidden"]) == (l1, l2, 0)
    assert report["files"] == [
        {
            "path": str(model),
            "format": "safetensors",
            "nbytes": model.stat().st_size,
            "error": None,
        }
    ]
    counted, weighed = [], []
    for tensor in report["arrays"]:
        values = elements(tensor["name"])
        assert tensor["n"] == len(values) == math.prod(tensor["shape"])
        assert tensor["skipped"] is None
        assert_numbers(tensor, values, l1, l2)
        assert tensor["counted"] == (integers or tensor["dtype"] not in ("i64", "bool"))
        counted += values if tensor["counted"] else []
        if tensor["name"] in ("layer.0.weight", "half") or (select and tensor["counted"]):
            weighed += values
            assert tensor["share"] == tensor["penalty"] / report["totals"]["penalty"]
        else:
            assert tensor["share"] is tensor["penalty"] is None
    totals = report["totals"]
    assert (totals["arrays"], totals["uncounted"], totals["skipped"]) == (
        (7, 0, 0) if integers else (5, 2, 0)
    )
    assert totals["n"] == len(counted)
    assert totals["nonfinite"] == 0
    penalty = totals.pop("penalty")
    assert_numbers(totals | {"penalty": None}, counted, l1, l2)
    assert penalty == exact_penalty(weighed, l1, l2)


def exact_penalty(values: list[Fraction], l1: float, l2: float) -> float:
    return float(sum((Fraction(l1) * abs(x) + Fraction(l2) * x * x for x in values), Fraction()))


def test_totals_are_rounded_once_and_not_per_tensor(run, tmp_path):
    # 2**53 + 0.5 + 0.5: each addition to the rounded sum would be lost.
    np.savez(tmp_path / "a.npz", a=np.array([2.0**53]), b=np.array([0.5]), c=np.array([0.5]))
    np.save(tmp_path / "b.npy", np.array([1.0]))
    _, out, _ = run("inspect", tmp_path / "a.npz", tmp_path / "b.npy", "--json")
    assert json.loads(out)["totals"]["sum_abs"] == 2.0**53 + 2


def test_non_finite_numbers_are_text_in_json(run, tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([np.nan, np.inf, 0]), b=np.array([-np.inf, 1]))
    status, out, err = run("inspect", tmp_path / "a.npz", "--json", "--l1", 1, "--select", "*")
    assert status == 0
    a, b = json.loads(out)["arrays"]
    assert (a["sum_abs"], a["max_abs"]) == ("nan", "nan")
    assert (a["nans"], a["infs"], a["zeros"]) == (1, 1, 1)
    assert (b["sum_abs"], b["max_abs"]) == ("inf", "inf")
    assert (b["nans"], b["infs"], b["share"]) == (0, 1, None)
    assert len(err) == 1
    assert "warning: 1 NaN and 2 infinite of 5 elements, in 2 of 2 tensors, first in a" in err[0]


def test_fail_on_nonfinite(run, tmp_path):
    np.save(tmp_path / "good.npy", np.ones(3))
    np.save(tmp_path / "bad.npy", np.array([1, np.nan]))
    assert run("inspect", tmp_path / "good.npy", "--fail-on-nonfinite")[0] == 0
    assert run("inspect", tmp_path / "bad.npy", "--fail-on-nonfinite")[0] == 1
    assert run("inspect", tmp_path / "bad.npy")[0] == 0
    assert run("inspect", tmp_path / "bad.npy", tmp_path / "no", "--fail-on-nonfinite")[0] == 2


def test_it_says_what_stats_says(run, model):
    arrays = {}
    for tensor in read_checkpoint(model).tensors:
        if not tensor.skipped:
            arrays[tensor.name] = HostArray(tensor.array(), tensor.elements)
    for integers in (False, True):
        stats = fastreg.stats(arrays, integers=integers).to_dict()
        out = run("inspect", model, "--json", *["--integers"] * integers)[1]
        report = json.loads(out)
        assert report["schema"] == stats["schema"]
        for ours, theirs in zip(stats["arrays"], report["arrays"], strict=False):
            shape = {"shape": theirs["shape"]}  # elements of a file are flat
            assert ours | shape == {key: theirs[key] for key in ours}
        assert stats["totals"] == {key: report["totals"][key] for key in stats["totals"]}


@pytest.fixture
def seen(monkeypatch):
    """How many elements exact sums were filled with."""
    counts = [0]

    add = Sums.add

    def counting(self, x):
        counts[0] += x.size
        add(self, x)

    monkeypatch.setattr(Sums, "add", counting)
    return counts


def test_each_element_is_read_once(run, model, seen):
    n = 35 + 3 + 4 + 3 + 3 + 4 + 2
    run("inspect", model)
    assert seen == [n]
    run("inspect", model, "--l1", "1", "--l2", "0.1")
    assert seen == [2 * n]


def test_ties_between_tensors_of_two_files(run, tmp_path, seen):
    """Each has its own exact sums, and so have all together, from one reading."""
    np.savez(tmp_path / "a.npz", k=np.array([[2.0**53]]), b=np.array([[0.25]]))
    np.savez_compressed(tmp_path / "b.npz", c=np.array([[0.75, 2.0**-60]], ">f8"), i=np.arange(3))
    options = ["--json", "--l1", "1"]
    out = run("inspect", tmp_path / "a.npz", tmp_path / "b.npz", *options)[1]
    report = json.loads(out)
    assert report["totals"]["sum_abs"] == report["totals"]["penalty"] == 2.0**53 + 2
    assert seen == [7]


def test_a_boolean_that_is_neither_is_refused(run, tmp_path):
    path = write_model(tmp_path / "a", [("m", "BOOL", [3], b"\0\1\7")])
    status, _, err = run("inspect", path)
    assert status == 2
    assert len(err) == 1
    assert "byte of 7" in err[0]


# ---- the table ------------------------------------------------------------------------------


def test_the_table(run, model):
    status, out, err = run("inspect", model, "--l2", "1e-3")
    assert (status, err) == (0, [])
    lines = out.splitlines()
    columns = "array shape dtype n Σ|x| Σx² norm max|x| zeros subnormal share"
    assert " ".join(lines[0].split()) == columns
    row = next(line for line in lines if line.startswith("layer.0.weight")).split()
    assert row[1:4] == ["5×7", "f32", "35"]
    assert "2 tensors of integers or booleans are not counted (--integers)" in lines
    assert any(line.startswith("penalty ") and line.endswith(" = 0.001·Σx²") for line in lines)
    assert any(
        line.startswith("the penalty is that of the kernels") and "without 3 other tensors" in line
        for line in lines
    )
    assert lines[-1].startswith("5 tensors, 47 values, 180 B, ")
    assert lines[-1].endswith(" s")


def test_what_is_skipped_is_named(run, tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(2), c=np.ones(2, "c8"))
    lines = run("inspect", tmp_path / "a.npz")[1].splitlines()
    assert "skipped c: complex64 is not a type that fastreg reads" in lines
    assert lines[-1].endswith(" s; 1 skipped")
    (entry,) = [t for t in json.loads(run("inspect", tmp_path / "a.npz", "--json")[1])["arrays"]
                if t["skipped"]]  # fmt: skip
    assert entry["sum_abs"] is entry["zeros"] is entry["penalty"] is entry["nonfinite"] is None


def test_without_weights_there_is_no_share(run, model):
    _, out, _ = run("inspect", model)
    assert "share" not in out
    assert "penalty" not in out


def test_top_says_how_many_it_hides(run, model):
    _, out, _ = run("inspect", model, "--top", 2, "--sort", "n")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["layer.0.weight", "half"]
    assert lines[4] == "… 5 more tensors (--top)"
    _, out, _ = run("inspect", model, "--top", 2, "--sort", "n", "--json")
    report = json.loads(out)
    assert [t["name"] for t in report["arrays"]] == ["layer.0.weight", "half"]
    assert report["hidden"] == 5
    assert report["totals"]["arrays"] == 5
    _, out, _ = run("inspect", model, "--top", 99)
    assert "more tensor" not in out
    assert run("inspect", model, "--top", 0)[0] == 0


def report_of(tensors, *, l2=0.0, **fields) -> Report:
    """A report whose statistics are made up; what is not given is 0."""
    rows = np.zeros(len(tensors), Arrays([]).statistics()[0].dtype)
    rows["n"] = [tensor.n for tensor in tensors]
    for key, values in fields.items():
        rows[key] = values
    total = {key: float(rows[key].sum()) for key in FIELDS}
    total |= {key: int(rows[key].sum()) for key in ("n", *FIELDS[5:])}
    return Report(
        l2=l2,
        files=[{"path": "a"}],
        tensors=tensors,
        places=[0] * len(tensors),
        counted=[not tensor.skipped for tensor in tensors],
        weighed=[not tensor.skipped for tensor in tensors],
        rows=rows,
        total=total,
        penalties=[1.0] * len(tensors) if l2 else [],
        penalty=float(len(tensors)),
    )


def test_sort_directions():
    def tensor(name: str, n: int, skipped: str = "") -> Tensor:
        return Tensor(name, (n,), "f32", n, 4 * n, skipped)

    tensors = [tensor("b", 1), tensor("s", 9, "why"), tensor("c", 3), tensor("a", 2)]
    tensors.append(tensor("d", 3))
    report = report_of(tensors, norm=[2.0, 0.0, math.nan, math.inf, 1.0])
    expected = {"file": "bscad", "name": "abcds", "n": "cdabs", "norm": "cabds", "zeros": "bcads"}
    for key, order in expected.items():
        assert "".join(tensors[k].name for k in report.order(key)) == order


def test_several_files_are_numbered(run, tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.ones(3))
    _, out, _ = run("inspect", tmp_path / "a.npy", tmp_path / "b.npy")
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["array", "file"]
    assert [line.split()[:2] for line in lines[2:4]] == [["a", "1"], ["b", "2"]]
    assert f"file 2: {tmp_path / 'b.npy'}" in lines
    assert "6 values" in lines[-1]


def _long_report() -> Report:
    names = [f"encoder.layer.{i}.attention.self.query.weight" for i in range(3)]
    names += ["x" * 200, "漢" * 90, "embeddings"]
    n = 30522 * 384
    return report_of(
        [Tensor(name, (30522, 384), "f32", n, 4 * n) for name in names],
        l2=1.0, sum_abs=123456.789, sum_squares=1.5e-7, norm=1e300, max_abs=0.1, zeros=12,
        nans=range(6),
    )  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 200])
def test_the_table_fits_the_terminal(width):
    stream = io.StringIO()
    report = _long_report()
    print_report(stream, report, range(6), width=width)
    table = stream.getvalue().split("\n\n")[0].splitlines()
    cells = [len(line) + line.count("漢") for line in table]
    assert max(cells) <= width
    assert "Σ|x|" in table[0]
    assert "share" in table[0]
    if width >= 80:
        # Shortened, but still telling layers apart.
        assert len({line.split()[0] for line in table[2:5]}) == 3
    if width < 120:
        assert "not shown: " in stream.getvalue()


def test_nothing_in_a_file_steers_the_terminal(run, tmp_path):
    evil = "\x1b]0;owned\x07\n[bold red]x[/]\u202e\r{}%s"
    parts = [(evil, "F32", [1], bytes(4)), (evil + "2", "F8_E4M3", [1], b"a")]
    path = write_model(tmp_path / "\x1b[31m[red].safetensors", parts)
    np.save(tmp_path / "a.npy", np.full(1, np.nan))
    status, out, err = run("inspect", path, tmp_path / "a.npy", f"{tmp_path}/\x1bno\n")
    assert status == 2
    assert "".join(err).isprintable()
    assert out.replace("\n", "").isprintable()
    assert r"\x1b]0;owned\x07\n[bold red]x[/]\u202e\r{}%s" in out
    assert len(err) == 2


def test_ascii_streams_get_ascii():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    report = _long_report()
    report.files.append({"path": "é"})
    print_report(stream, report, range(5))
    stream.seek(0)
    text = stream.read()
    assert "sum |x|" in text
    assert "30522x384" in text
    assert r"\u6f22" in text


def test_an_empty_checkpoint(run, tmp_path):
    path = write_model(tmp_path / "a", [])
    status, out, err = run("inspect", path, "--l1", 1)
    assert (status, err) == (0, [])
    assert "0 tensors, 0 values, 0 B" in out
    assert json.loads(run("inspect", path, "--json")[1])["totals"]["sum_abs"] == 0


# ---- arguments, bad files, exit status ------------------------------------------------------


@pytest.mark.parametrize("option", ["--l1", "--l2"])
@pytest.mark.parametrize("text", ["-1", "nan", "inf", "-inf", "x", "", "1e999"])
def test_weights_are_finite_and_not_negative(run, model, option, text):
    status, out, err = run("inspect", model, f"{option}={text}")
    assert (status, out, len(err)) == (2, "", 1)
    assert err[0].startswith(f"fastreg: argument {option}: expected a finite number >= 0")
    assert repr(text) in err[0]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["inspect"],
        ["inspekt", "a"],
        ["inspect", "a", "--top", "-1"],
        ["inspect", "a", "--top", "1.5"],
        ["inspect", "a", "--top", "²"],
        ["inspect", "a", "--sort", "size"],
        ["inspect", "a", "--max-unpacked-bytes", "4GiB"],
        ["inspect", "a", "--nonsense\x1b"],
        ["inspect", "a", "--js"],
        ["info", "x"],
    ],
)
def test_bad_arguments_are_one_line(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out, len(err)) == (2, "", 1)
    assert err[0].startswith("fastreg: ")
    assert err[0].isprintable()


def test_help(run, capsys):
    for arguments in (["--help"], ["inspect", "--help"], ["info", "--help"]):
        with pytest.raises(SystemExit) as caught:
            command_line.main(arguments)
        assert caught.value.code == 0
    assert "fastreg-stats/3" in capsys.readouterr().out


def test_good_files_are_reported_beside_bad_ones(run, model, tmp_path):
    bad = tmp_path / "bad.npy"
    bad.write_bytes(b"\x93NUMPY")
    status, out, err = run("inspect", bad, model, tmp_path / "absent", "--json")
    assert (status, len(err)) == (2, 2)
    assert err[0].startswith(f"fastreg: {bad}: expected ")
    report = json.loads(out)
    assert [entry["error"] is None for entry in report["files"]] == [False, True, False]
    assert {t["file"] for t in report["arrays"]} == {1}
    assert report["totals"]["arrays"] == 5
    (tmp_path / "empty").mkdir()
    status, out, err = run("inspect", bad, tmp_path / "empty")
    assert (status, out, len(err)) == (2, "", 2)


def test_a_file_that_proves_damaged_late_leaves_no_rows(run, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", a=np.ones(9), b=np.arange(9.0))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    at = data.rindex(b"b.npy") - 46  # the directory entry of b; its checksum is at 16
    data[at + 16] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    status, out, err = run("inspect", tmp_path / "a.npz", "--json")
    assert (status, len(err)) == (2, 1)
    assert "checksum" in err[0]
    assert json.loads(out)["arrays"] == []


def test_damaged_files_never_trip_it(tmp_path):
    fuzz = Fuzz(tmp_path, seed=3)
    fuzz.run(2000)
    assert min(fuzz.statuses[0], fuzz.statuses[2]) > 20


@pytest.mark.soak
def test_many_damaged_files_never_trip_it(tmp_path):
    """A million: in pieces, and within 300 MiB."""
    fuzz = Fuzz(tmp_path, seed=4)
    for _ in range(100):
        fuzz.run(10_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 300 << 10


def test_ctrl_c_and_lack_of_memory(run, model, monkeypatch):
    for error, status in ((KeyboardInterrupt, 130), (MemoryError, 2)):

        def fail(*_: object, error: type[BaseException] = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(command_line, "inspect", fail)
        got, out, err = run("inspect", model)
        assert (got, out, len(err)) == (status, "", 1)
        assert err[0].startswith("fastreg: ")


def sparse(path: Path, dtype: str, nbytes: int) -> Path:
    """Write a file of one tensor of zeros that takes no place on the disk."""
    itemsize = 1 if dtype.startswith("F8") else 8
    head = safetensors_bytes({"w": entry(dtype, [nbytes // itemsize], 0, nbytes)})
    path.write_bytes(head)
    os.truncate(path, len(head) + nbytes)
    return path


@pytest.mark.parametrize("kind", ["F64", "I64", "F8_E4M3", "packed", "compare"])
def test_ctrl_c_ends_it_soon(run, tmp_path, kind):
    """One line and status 130, after no more work than each processor does in 100 ms."""
    command = ["inspect"]
    if kind == "packed":
        np.savez_compressed(tmp_path / "a.npz", w=np.zeros(1 << 25))
        paths = [tmp_path / "a.npz"] * 100
    else:
        paths = [sparse(tmp_path / "a", "F64" if kind == "compare" else kind, 1 << 37)]
        if kind == "compare":
            command, paths = ["compare"], paths * 2
    sent = []

    def interrupt() -> None:
        sent.append(time.process_time())
        signal.raise_signal(signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, interrupt)
    timer.start()
    try:
        status, out, err = run(*command, *paths)
        seconds = time.process_time() - sent[0]
    finally:
        timer.join()
        signal.signal(signal.SIGINT, previous)
    assert (status, out, err) == (130, "", ["fastreg: interrupted"])
    assert seconds < 0.1 * len(os.sched_getaffinity(0))


def test_info(run):
    status, out, err = run("info")
    assert (status, err) == (0, [])
    assert out
    status, out, err = run("info", "--json")
    assert (status, err) == (0, [])
    assert isinstance(json.loads(out), dict)


# ---- as a process ---------------------------------------------------------------------------


def _process(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fastreg", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **options)


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    # More than a pipe holds, so that a write fails.
    parts = [(f"{'x' * 100}.{i}", "F32", [1], bytes(4)) for i in range(3000)]
    path = write_model(tmp_path / "a.safetensors", parts)
    for option in ([], ["--json"]):
        process = _process("inspect", path, *option, stdout=subprocess.PIPE)
        assert process.stdout.read(10)
        process.stdout.close()
        with process.stderr as stderr:
            assert stderr.read() == b""
        assert process.wait() == 0


def test_places_to_print_that_are_gone(model, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert command_line.main(["inspect", str(model)]) == 0
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert command_line.main(["inspect", str(model)]) == 2
    monkeypatch.setattr(sys, "stdout", None)
    assert command_line.main(["inspect", str(model)]) == 2
    assert all("redirect" in line for line in capsys.readouterr().err.splitlines())


def test_bench_runs_the_suite_of_the_checkout(capfd):
    pytest.importorskip("pytest_benchmark")
    assert command_line.main(["bench", "--help"]) == 0
    assert "usage: fastreg bench" in capfd.readouterr().out


@pytest.mark.parametrize(
    "words",
    ["inspect absent.npy", "compare a b", "check a", "info", "bench", "--version", "--help", ""],
)
@pytest.mark.parametrize(
    ("setting", "bad"), [("FASTREG_ISA", "typo"), ("FASTREG_NUM_THREADS", "0")]
)
def test_a_bad_setting_is_one_line(setting, bad, words):
    """From every command: what the import refuses, it refuses as the command line does."""
    environment = {**os.environ, setting: bad, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = subprocess.run(
        [sys.executable, "-m", "fastreg", *words.split()],
        capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip
    (line,) = started.stderr.splitlines()
    assert (started.returncode, started.stdout) == (2, "")
    assert line.startswith(f"fastreg: expected {setting} to be ")
    assert line.endswith(f"received {bad!r}; correct or unset it")


def test_other_ways_to_start_it(tmp_path):
    """The installed command and joined options are it; a module that imports fastreg is not."""
    command = "from fastreg.cli.main import main; raise SystemExit(main())"
    (tmp_path / "fastreg").write_text(command)
    (tmp_path / "other.py").write_text("import fastreg")
    environment = {"FASTREG_ISA": "typo", "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])}

    def start(*words: str) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True,
            env=os.environ | environment, timeout=60, cwd=Path(command_line.__file__).parents[2],
        )  # fmt: skip
        assert "correct or unset it" in done.stderr
        return done.returncode, len(done.stderr.splitlines())

    assert start(str(tmp_path / "fastreg"), "info") == (2, 1)
    assert start("-Bmfastreg", "info") == (2, 1)
    assert start("-X", "utf8", "-m", "fastreg", "inspect", "-m") == (2, 1)
    for words in (["-m", "other", "fastreg"], ["-c", "import fastreg", "fastreg"]):
        status, lines = start(*words)
        assert status == 1
        assert lines > 1


def test_kernels_that_are_not_built_are_one_line(tmp_path):
    package = Path(command_line.__file__).parents[1]
    shutil.copytree(package, tmp_path / "fastreg", ignore=shutil.ignore_patterns("*.so", "*.c"))
    # Without site's hooks, of which one may lead to a package that is installed as editable.
    found = os.pathsep.join([str(tmp_path), str(Path(np.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-S", "-m", "fastreg", "info"], capture_output=True, text=True,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": found}, timeout=60,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "not built for" in line


def test_it_runs_as_a_module(model):
    process = _process("inspect", model, "absent", stdout=subprocess.PIPE)
    out, err = process.communicate()
    assert process.returncode == 2
    assert b"layer.0.weight" in out
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("missing", [["rich"], ["safetensors"], ["ml_dtypes"]])
def test_optional_packages_may_be_missing(model, missing):
    hide = "".join(f"sys.modules[{name!r}] = None;" for name in missing)
    code = f"import sys; {hide} from fastreg.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-W", "error", "-c", code, "inspect", str(model), "--l1", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "brain" in done.stdout


# ---- terminals ------------------------------------------------------------------------------


class _Terminal:
    """A pseudo-terminal: a text stream to write to, and what came out of the other end."""

    def __enter__(self):
        self._master, slave = os.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 4096):
                self._output += data
        except OSError:  # Linux reports the last close as EIO
            pass

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self._reader.join()
        os.close(self._master)

    @property
    def output(self) -> str:
        return self._output.decode()


@pytest.fixture(params=["rich", "plain"])
def looks(request, monkeypatch):
    """With rich and without."""
    if request.param == "rich":
        pytest.importorskip("rich")
    else:
        for name in ("rich", "rich.console", "rich.progress", "rich.text"):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return request.param


def test_progress_appears_on_a_terminal_after_a_while(looks, monkeypatch):
    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("fastreg.cli.progress.time", clock)
    with _Terminal() as terminal, Progress(terminal.stream, delay=0.5) as progress:
        progress.expect(4_000_000)
        now[0] = 0.4
        progress.advance(1_000_000)
        early = terminal.output
        now[0] = 0.6
        progress.advance(2_000_000)
        end = time.monotonic() + 60
        while looks == "rich" and "75%" not in terminal.output and time.monotonic() < end:
            time.sleep(0.01)  # a thread of rich's draws
    assert early == ""
    if looks == "plain":
        assert terminal.output == ""
    else:
        assert "75%" in terminal.output
        # Wiped: the last thing written clears the line.
        assert terminal.output.endswith("\x1b[2K")


def test_who_watches_sees_each_piece(looks, model, monkeypatch):
    monkeypatch.setattr("fastreg._checkpoints.tensor.PIECE_NBYTES", 16)
    with _Terminal() as terminal, Progress(terminal.stream, delay=0.0) as progress:
        steps: list[float] = []
        expected: list[float] = []
        monkeypatch.setattr(progress, "advance", steps.append)
        monkeypatch.setattr(progress, "expect", expected.append)
        report = inspect([str(model)], l1=1.0, progress=progress)
    assert sum(expected) == sum(steps)
    assert max(steps) == 16
    assert report.total == inspect([str(model)]).total


def test_a_log_shows_life_where_no_bar_can(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    with _Terminal() as terminal, Progress(terminal.stream, log=True) as progress:
        progress.stage("one")
        progress.stage("two")
    assert terminal.output.splitlines() == ["one: 0 s", "two: 0 s"]


def test_progress_is_silent_elsewhere():
    stream = io.StringIO()
    with Progress(stream, delay=0.0) as progress:
        progress.expect(10)
        progress.advance(10)
    assert stream.getvalue() == ""


def test_the_table_on_a_terminal(looks):
    report = report_of([Tensor("a[red]b\x1b[31m", (1,), "f32", 1, 4)], nans=1)
    with _Terminal() as terminal:
        print_report(terminal.stream, report, [0], width=100)
    assert r"a[red]b\x1b[31m" in terminal.output
    assert ("\x1b[31m" in terminal.output) == (looks == "rich")


# Redirections of the shell: what is written where, and the status. The file holds a NaN.
STREAMS = [
    ("inspect nan.npy --fail-on-nonfinite --json >out 2>&-", 1),
    ("inspect nan.npy --fail-on-nonfinite --json >out 2>/dev/full", 1),
    ("inspect nan.npy no.npy --json >out 2>&-", 2),
    ("inspect nan.npy --json >out 2>&- <&-", 0),
    ("inspect nan.npy >/dev/full", 2),
    ("inspect nan.npy >&-", 2),
    ("inspect nan.npy >&- 2>&- <&-", 2),
    ("compare nan.npy nan.npy --json >out 2>&-", 0),
    ("check nan.npy >&-", 2),
    ("--version >/dev/full", 2),
    ("--version", 0),
    ("inspect - <&-", 2),
]


@pytest.mark.parametrize(("arguments", "status"), STREAMS)
def test_closed_and_full_streams(tmp_path, arguments, status):
    np.save(tmp_path / "nan.npy", np.array([np.nan]))
    done = subprocess.run(
        f"{sys.executable} -m fastreg {arguments}", shell=True, cwd=tmp_path, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(Path(fastreg.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == status
    assert done.stderr.count("\n") <= 1, done.stderr
    assert done.stderr == "" or done.stderr.startswith("fastreg: ")
    if "--json" in arguments:
        json.loads((tmp_path / "out").read_text())
        assert done.stdout == done.stderr == ""
    if arguments == "--version":
        assert done.stdout == f"fastreg {fastreg.__version__}\n"


def test_check_compares_every_way(run, model):
    status, out, err = run("check", model)
    assert (status, err) == (0, [])
    lines = out.splitlines()
    assert lines[0].split() == ["sum", "of", "squares", "value", "bits", "ms", "GB/s"]
    assert any(line.startswith("exact integers ") for line in lines)
    assert {line.split()[-3] for line in lines if ", 1 thread" in line} == {
        np.float64(float(sum((x * x for x in map_elements()), Fraction()))).tobytes()[::-1].hex()
    }
    assert lines[-2:] == ["45 floats in 4 arrays, as float64", "fastreg: 1 bit pattern"]


def map_elements() -> list[Fraction]:
    names = ("layer.0.weight", "layer.0.bias", "half", "brain")
    return [x for name in names for x in elements(name)]


def test_check_says_how_far_a_rival_is_off(run, tmp_path):
    np.save(tmp_path / "a.npy", np.full(1000, 0.1, "f4"))
    out = run("check", tmp_path / "a.npy")[1]
    assert "numpy.vdot is off by " in out
    np.save(tmp_path / "b.npy", np.arange(3))
    status, out, err = run("check", tmp_path / "b.npy")
    assert (status, out) == (2, "")
    assert "a float tensor" in err[0]


def test_check_names_the_bad_file(run, tmp_path):
    status, out, (line,) = run("check", tmp_path / "none.npy")
    assert (status, out) == (2, "")
    assert "none.npy: expected a readable file" in line
