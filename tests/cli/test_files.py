# SPDX-License-Identifier: BSD-3-Clause
"""Which files a path means, which are refused with what advice, and what `fastreg.load` returns."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from test_checkpoints import entry, npy_bytes, npy_header, npz_bytes, safetensors_bytes

import fastreg
import fastreg.cli.main as command_line
from fastreg._checkpoints import foreign
from fastreg._core.dtypes import NARROW
from fastreg.errors import CheckpointError, DTypeError

# Escape, newline, DEL, a C1 control, a bidirectional override, a carriage return.
EVIL = "\x1b]0;owned\x07\n\x7f\x9b31m\u202e\r"


@pytest.fixture
def run(capsys):
    """Run the command line; return (exit status, standard output, lines of standard error)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        status = command_line.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return call


def report(run, *arguments: object) -> dict:
    status, out, err = run("inspect", *arguments, "--json")
    assert (status, err) == (0, [])
    return json.loads(out)


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write float32 arrays as safetensors."""
    header, data = {}, b""
    for name, array in arrays.items():
        raw = np.asarray(array, "f4").tobytes()
        header[name] = entry("F32", list(np.shape(array)), len(data), len(data) + len(raw))
        data += raw
    path.write_bytes(safetensors_bytes(header, data))
    return path


@pytest.fixture
def sharded(tmp_path) -> Path:
    """Three shards, one of them compressed elsewhere by nobody, and their index."""
    folder = tmp_path / "model"
    folder.mkdir()
    weights = {}
    for k in range(3):
        name = f"model-{k + 1:05}-of-00003.safetensors"
        write(folder / name, {f"layer.{k}.weight": np.full((2, 2), k + 1.0)})
        weights[f"layer.{k}.weight"] = name
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": weights}))
    (folder / "config.json").write_text("{}")
    return folder


# -- Which files a path means ----------------------------------------------------------------------


def test_an_index_and_its_folder_mean_the_shards(run, sharded):
    for path in (sharded / "model.safetensors.index.json", sharded):
        found = report(run, path)
        assert [a["name"] for a in found["arrays"]] == [f"layer.{k}.weight" for k in range(3)]
        assert found["totals"]["sum_squares"] == 4 * (1 + 4 + 9)
        assert [Path(f["path"]).name[:11] for f in found["files"]] == [
            "model-00001", "model-00002", "model-00003",
        ]  # fmt: skip
        assert fastreg.stats(fastreg.load(path)).total["sum_squares"] == 4 * (1 + 4 + 9)


@pytest.mark.parametrize("indexed", [True, False])
def test_missing_shards_are_named(run, sharded, indexed):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    if not indexed:
        (sharded / "model.safetensors.index.json").unlink()
    status, out, (line,) = run("inspect", sharded)
    assert status == 2
    assert "expected all of 3 shards; received none called 'model-00002-of-00003.sa" in line
    assert "layer.0.weight" in out
    assert "layer.2.weight" in out
    with pytest.raises(CheckpointError, match="model-00002-of-00003"):
        fastreg.load(sharded)


def test_a_shard_without_what_its_index_names_is_an_error(run, sharded):
    write(sharded / "model-00003-of-00003.safetensors", {"other": np.ones(3)})
    status, _, (line,) = run("inspect", sharded / "model.safetensors.index.json")
    assert status == 2
    assert "a file without 'layer.2.weight'" in line


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "../outside.safetensors"}, {"a": "/etc/passwd"}, {"a": ".."}, {"a": ""}, {"a": "a\0"},
        {"a": "..\\outside"}, {"a": 1}, [], None, {"a": EVIL + "/x"},
    ],
)  # fmt: skip
def test_an_index_names_nothing_elsewhere(run, tmp_path, weight_map):
    folder = tmp_path / "model"
    folder.mkdir()
    write(tmp_path / "outside.safetensors", {"a": np.ones(3)})
    index = folder / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    status, out, (line,) = run("inspect", index)
    assert (status, out) == (2, "")
    assert line.isprintable()
    assert "expected " in line


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"weight_map":{"a":"b","a":"c"}}', b"\xff", b"[" * 10**5]
)
def test_a_damaged_index_is_one_line(run, tmp_path, text):
    index = tmp_path / "x.safetensors.index.json"
    index.write_bytes(text)
    status, out, (line,) = run("inspect", index)
    assert (status, out) == (2, "")
    assert "expected " in line


def test_a_folder_means_the_checkpoints_in_it(run, tmp_path):
    write(tmp_path / "b.safetensors", {"b": np.ones(2)})
    np.save(tmp_path / "a.npy", np.ones(3))
    np.savez(tmp_path / "C.NPZ", c=np.ones(4))  # numpy adds .npz
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\2")
    (tmp_path / "below").mkdir()
    np.save(tmp_path / "below" / "d.npy", np.ones(5))
    found = report(run, tmp_path)
    assert sorted(a["n"] for a in found["arrays"]) == [2, 3, 4]
    assert found["notes"] == ["1 other file of weights in the folder not read: pytorch_model.bin"]
    empty = tmp_path / "below" / "empty"
    empty.mkdir()
    assert "one with 0 other files" in run("inspect", empty)[2][0]
    (empty / "model.h5").write_bytes(b"\x89HDF")
    assert "'model.h5', the first of those in the folder: expected" in run("inspect", empty)[2][0]


def test_standard_input(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", w=np.full((2, 2), 2.0))
    np.save(tmp_path / "a.npy", np.full((2, 2), 2.0))
    write(tmp_path / "a.safetensors", {"w": np.full((2, 2), 2.0)})
    code = """
        import io, json, sys
        from fastreg.cli.main import main
        class Pipe:
            def __init__(self, data): self.buffer = io.BytesIO(data)
        for path in sys.argv[1:]:
            sys.stdin = Pipe(open(path, "rb").read())
            assert main(["inspect", "-", "--json"]) == 0
            sys.stdin = Pipe(bytes(101))
            assert main(["inspect", "-", "--max-unpacked-bytes", "100"]) == 2
        sys.stdin = None
        assert main(["inspect", "-"]) == 2
    """
    files = [str(tmp_path / f"a.{s}") for s in ("npz", "npy", "safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *files],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    documents = list(map(json.loads, done.stdout.splitlines()))
    assert [d["totals"]["sum_squares"] for d in documents] == [16.0] * 3
    assert [d["files"][0]["path"] for d in documents] == ["-"] * 3
    errors = done.stderr.splitlines()
    assert ["at most 100 bytes on" in line for line in errors] == [True, True, True, False]
    assert "a closed one" in errors[3]


# -- What a call takes -----------------------------------------------------------------------------


def test_files_are_closed_one_after_the_other(run, tmp_path):
    for k in range(100):
        write(tmp_path / f"{k:03}.safetensors", {f"w{k}": np.ones((2, 2))})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
    try:
        found = report(run, tmp_path)
        with pytest.raises(CheckpointError, match=r"raise the limit \(ulimit -n\)"):
            fastreg.load(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found["totals"]["arrays"] == 100
    assert len(os.listdir("/proc/self/fd")) == used


def test_the_limit_is_for_all_files_together(run, tmp_path):
    for k in range(3):
        np.savez_compressed(tmp_path / f"{k}.npz", **{f"w{k}": np.zeros(1000)})
    status, out, err = run("inspect", tmp_path, "--max-unpacked-bytes", 20_000, "--json")
    assert status == 2
    assert len(json.loads(out)["arrays"]) == 2
    assert "8,128 bytes beside 16,256 of others" in err[0]
    with pytest.raises(CheckpointError, match="raise"):
        fastreg.load(tmp_path, max_unpacked_bytes=20_000)


def test_packed_members_are_never_unpacked_whole(tmp_path):
    """256 MB that deflate to little, in a process of which the heap may not grow by so much."""
    data = np.zeros(1 << 26, "f4")
    np.savez_compressed(tmp_path / "a.npz", w=data)
    code = """
        import resource, sys
        from fastreg.cli.main import main
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
        sys.exit(main(sys.argv[1:]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), "inspect", str(tmp_path / "a.npz")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "67,108,864" in done.stdout


# -- What is printed -------------------------------------------------------------------------------


def test_nothing_of_a_file_is_printed_as_it_is(run, tmp_path):
    """Names, types, metadata, paths: in the table, in JSON, in CSV and in every error."""
    header = "{'descr': '<M8[\x1b[2J]', 'fortran_order': False, 'shape': (1,)}"
    evil_npy = npy_header(header, bytes(8))
    files = {
        "a.npy": evil_npy,
        "b.npz": npz_bytes({EVIL + ".npy": evil_npy}),
        "c.safetensors": safetensors_bytes(
            {EVIL: entry("F32", [1], 0, 4), "__metadata__": {EVIL: EVIL}}, b"\0\0\xc0\x7f"
        ),
        "d.safetensors": safetensors_bytes({EVIL: entry("F32", [2], 0, 4)}, bytes(4)),
        "e.safetensors": safetensors_bytes({"a": entry(EVIL, [2], 0, 4)}, bytes(4)),
        "f.npz": npz_bytes({EVIL: b"x"}),
        EVIL + ".npy": b"\x93NUMPY",
        "g.safetensors.index.json": json.dumps({"weight_map": {EVIL: EVIL}}).encode(),
    }
    paths = []
    for name, data in files.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    for options in ([], ["--json"], ["--csv"], ["--fail-on-nonfinite", "--l1", "1"], ["--top", 1]):
        status, out, err = run("inspect", *paths, "--select", "all", *options)
        assert status == 2
        assert out.replace("\n", "").isprintable()
        assert all(line.isprintable() for line in err)
        assert r"\x1b" in "".join(err)
    for path in paths:
        if path.name != "c.safetensors":
            with pytest.raises(CheckpointError) as caught:
                fastreg.load(path)
            assert str(caught.value).isprintable()
    loaded = fastreg.load(tmp_path / "c.safetensors")
    with pytest.raises(fastreg.errors.NonFiniteError) as found:
        fastreg.check_finite(loaded)
    assert str(found.value).isprintable()
    assert str(fastreg.stats(loaded)).replace("\n", "").isprintable()


def test_paths_that_are_no_text(run, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.npy"
    with open(path, "wb") as file:
        np.save(file, np.ones(3))
    assert fastreg.stats(fastreg.load(path)).total["n"] == 3
    for options in ([], ["--json"], ["--csv"]):
        status, out, err = run("inspect", os.fsdecode(path), tmp_path, *options)
        assert (status, err) == (0, [])
        assert out.replace("\n", "").isprintable()
    with pytest.raises(CheckpointError) as caught:
        fastreg.load(path + b"?")
    assert str(caught.value).isprintable()


def test_no_error_of_the_package_prints_raw_text():
    for kind in vars(fastreg.errors).values():
        if isinstance(kind, type) and issubclass(kind, fastreg.errors.FastregError):
            assert str(kind(EVIL)).isprintable()
            assert str(kind("plain é 漢")) == "plain é 漢"
    assert fastreg.errors.message(EVIL, EVIL, EVIL).isprintable()


def test_a_long_name_costs_its_own_length_only(run, tmp_path):
    arrays = {"n." * 50_000: np.ones(1)} | {f"t{k}": np.ones(1) for k in range(300)}
    path = write(tmp_path / "a.safetensors", arrays)
    out = run("inspect", path)[1]
    assert max(map(len, out.splitlines())) < 200
    assert "…" in out
    for option in ("--json", "--csv"):
        assert "n." * 50_000 in run("inspect", path, option)[1]


def test_csv(run, tmp_path):
    np.savez(tmp_path / "a.npz", **{'a,"b': np.array([[0.1, -np.inf]]), "c": np.ones(2, "c8")})
    status, out, _ = run("inspect", tmp_path / "a.npz", "--csv", "--l2", "1", "--sort", "name")
    assert status == 0
    assert out.splitlines() == [
        "name,file,shape,dtype,counted,n,sum_abs,sum_squares,norm,max_abs,zeros,subnormals,nans,"
        "infs,nonfinite,penalty,share,skipped",
        f'"a,""b",{tmp_path}/a.npz,1x2,f64,True,2,inf,inf,inf,inf,0,0,0,1,1,inf,,',
        f"c,{tmp_path}/a.npz,2,complex64,False,2,,,,,,,,,,,,complex64 is not a type"
        " that fastreg reads",
    ]
    assert run("inspect", tmp_path / "a.npz", "--csv", "--json")[0] == 2


# -- select ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["all", "kernels", "*.weight", "re:^b", "[ab].bias", "norm.*"])
def test_select_is_that_of_the_package(run, tmp_path, rule):
    arrays = {
        "a.weight": np.full((2, 2), 2.0, "f4"),
        "a.bias": np.full(2, 3.0),
        "b.weight": np.ones((3, 1)),
        "b.bias": np.full(3, 0.1),
        "norm.weight": np.full((2, 2), 9.0),
        "step": np.arange(3),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = report(run, tmp_path / "a.npz", "--select", rule, "--l1", "0.1", "--l2", "0.3")
    stats = fastreg.stats(arrays, select=rule)
    assert [a["name"] for a in found["arrays"]] == list(stats)
    assert found["totals"]["norm"] == stats.total["norm"]
    floats = {name: x for name, x in arrays.items() if x.dtype.kind == "f"}
    expected = fastreg.penalty(floats, l1=0.1, l2=0.3, select=rule)
    assert found["totals"]["penalty"] == expected
    default = report(run, tmp_path / "a.npz", "--l1", "0.1", "--l2", "0.3")
    assert default["totals"]["penalty"] == fastreg.penalty(
        fastreg.load(tmp_path / "a.npz"), l1=0.1, l2=0.3
    )
    assert len(default["arrays"]) == len(arrays)


def test_a_rule_that_takes_nothing_is_an_error(run, tmp_path):
    np.savez(tmp_path / "a.npz", bias=np.ones(2))
    for options in (["--l1", 1], ["--select", "w*"], ["--select", "re:("], ["--select", "kernels"]):
        status, out, (line,) = run("inspect", tmp_path / "a.npz", *options)
        assert (status, out) == (2, "")
        assert "expected " in line
    # One array is no container: there is nothing to choose from.
    np.save(tmp_path / "a.npy", np.ones(2))
    assert report(run, tmp_path / "a.npy", "--l1", 1)["totals"]["penalty"] == 2.0


# -- What is not read ------------------------------------------------------------------------------


def test_fail_on_nonfinite_fails_on_what_was_not_read(run, tmp_path):
    np.savez(tmp_path / "a.npz", c=np.array([np.nan + 1j]), w=np.ones(2))
    path = tmp_path / "a.npz"
    assert run("inspect", path)[0] == 0
    status, _, (line,) = run("inspect", path, "--fail-on-nonfinite")
    assert status == 1
    assert "first c: complex128 is not a type that fastreg reads" in line
    assert run("inspect", path, "--fail-on-nonfinite", "--select", "w")[0] == 0


FINITE = {
    "text": np.array(["ab"]),
    "bytes": np.array([b"ab"]),
    "date": np.array(["2020-01-01"], "M8[D]"),
    "span": np.array([3], "m8[s]"),
}


def test_fail_on_nonfinite_passes_what_is_no_number(run, tmp_path):
    """Text and dates are neither NaN nor infinite; raw bytes, records and objects may hold both."""
    path = tmp_path / "a.npz"
    np.savez(path, w=np.ones(2), **FINITE)
    status, out, err = run("inspect", path, "--fail-on-nonfinite")
    assert (status, err) == (0, [])
    assert "4 skipped" in out
    header = {"a": entry("F4", [2], 0, 1), "b": entry("F6_E2M3", [4], 1, 4)}
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, bytes(4)))
    assert run("inspect", tmp_path / "a.safetensors", "--fail-on-nonfinite")[0] == 0
    others = {
        "wide": np.ones(2, "g"),
        "raw": np.zeros(2, "V2"),
        "record": np.zeros(2, [("x", "f4")]),
        "object": np.array([None]),
    }
    for name, x in others.items():
        np.savez(path, **FINITE, **{name: x})
        status, _, (line,) = run("inspect", path, "--fail-on-nonfinite")
        assert status == 1
        assert line.startswith("fastreg: 1 tensor may hold NaN")
        assert f"first {name}: " in line


def test_types_that_are_not_read_have_names_of_their_own(run, tmp_path):
    """NumPy's codes count bytes: its f16 is no float16."""
    arrays = {
        "g": np.ones(2, "g"),
        "c": np.ones(2, "c8"),
        "z": np.ones(2, "c16"),
        "h": np.ones(2, "f2"),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    found = {a["name"]: a["dtype"] for a in report(run, tmp_path / "a.npz")["arrays"]}
    wide = np.dtype("g").name
    assert found == {"g": wide, "c": "complex64", "z": "complex128", "h": "f16"}
    with pytest.raises(CheckpointError, match=f"received {wide} is not a type"):
        fastreg.load(tmp_path / "a.npz")


# -- Cut short -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".bin", "its own"])
@pytest.mark.parametrize("kind", ["safetensors", "npy", "npz", "pt", "keras"])
def test_files_that_are_cut_short_are_called_that(run, tmp_path, kind, suffix):
    values = np.arange(50.0)
    header = {"w": entry("F64", [50], 0, 400), "x": entry("F64", [50], 400, 800)}
    data, least = {
        "safetensors": (safetensors_bytes(header, values.tobytes() * 2), 9),
        "npy": (npy_bytes(values), 6),
        "npz": (npz_bytes({"w.npy": npy_bytes(values)}), 4),
        "pt": (npz_bytes({"model/data.pkl": bytes(300)}), 4),
        "keras": (npz_bytes({"config.json": b"{}", "model.weights.h5": bytes(300)}), 4),
    }[kind]
    path = tmp_path / f"a{f'.{kind}' if suffix == 'its own' else suffix}"
    for n in [least, least + 1, 20, 60, *range(100, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:n])
        status, out, (line,) = run("inspect", path)
        assert (status, out) == (2, "")
        assert "the file is cut short: save or download it again" in line
        assert "permissions" not in line
        if kind == "pt" and suffix != "":
            assert "then, where you trust it: state = torch.load" in line


@pytest.mark.parametrize(
    "suffix", sorted({".h5", ".hdf5", ".gguf", ".keras", ".pt", ".pth", ".pkl"})
)
def test_a_file_that_begins_otherwise_is_not_what_its_name_says(run, tmp_path, suffix):
    for data in (b"\0" * 200, b"\x93", b"P", b"what is this"):
        (tmp_path / f"a{suffix}").write_bytes(data)
        (line,) = run("inspect", tmp_path / f"a{suffix}")[2]
        assert f"a {suffix} file that starts with" in line
        assert line.endswith("it is damaged or misnamed: save or download it again")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".h5", ""])
def test_a_page_of_the_web_is_called_that(run, tmp_path, suffix):
    for page in (b"<!DOCTYPE html><html>", b"\n<html><body>404", b"<?xml version='1.0'?><Error>"):
        (tmp_path / f"a{suffix}").write_bytes(page + bytes(100))
        (line,) = run("inspect", tmp_path / f"a{suffix}")[2]
        assert "a page of the web; download the file itself" in line


@pytest.mark.parametrize(
    ("name", "data", "advice"),
    [
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
        ("a.pt", npz_bytes({"a/data.pkl": b"\x80\2."}), "torch.load"),
        ("a.bin", b"\x80\2", "torch.load"),
        ("a.ckpt", b"\x80\2", "torch.load"),
        ("a.ckpt", b"what", "tf.train.load_checkpoint"),
        ("ckpt.index", b"what", "tf.train.load_checkpoint"),
        ("a.h5", b"\x89HDF\r\n", "h5py.File"),
        ("a.keras", npz_bytes({"config.json": b"{}", "model.weights.h5": b""}), "load_model"),
        ("a.gguf", b"GGUF\3\0", "converted from"),
        ("a.onnx", b"\x08\x07", "onnx.load"),
        ("a.pkl", b"\x80\4", "numpy.savez"),
        ("a", b"\x80\4", "numpy.savez"),
        ("a.msgpack", b"\x81", "msgpack_restore"),
    ],
)
def test_other_files_are_refused_with_advice(run, tmp_path, name, data, advice):
    (tmp_path / name).write_bytes(data)
    status, out, (line,) = run("inspect", tmp_path / name)
    assert (status, out) == (2, "")
    assert advice in line


def advised(run, path: str) -> str:
    """The statements that a refusal gives as advice."""
    (line,) = run("inspect", path)[2]
    text = line.partition("where you trust it: ")[2].partition("; for a file of weights")[0]
    return text.partition("; from tf_keras: ")[0]


def test_the_advice_for_torch_works(run, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors")
    pytest.importorskip("safetensors.torch")
    monkeypatch.chdir(tmp_path)
    w = torch.arange(6.0).reshape(2, 3)
    state = {"a.weight": w.t(), "tied": w, "b": torch.ones(3, dtype=torch.bfloat16)}
    torch.save(state, "model.pt")
    exec(advised(run, "model.pt"), {"torch": torch, "safetensors": safetensors})
    loaded = fastreg.load("model.safetensors")
    assert {k: fastreg.sum_squares(x, dtype="float64") for k, x in loaded.items()} == {
        "a.weight": 55.0, "tied": 55.0, "b": 3.0,
    }  # fmt: skip


def test_the_advice_for_hdf5_works(run, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    with h5py.File("model.h5", "w") as file:
        file["layers/dense/vars/0"] = np.full((2, 2), 3.0, "f4")
        file["layers/dense/vars/1"] = np.arange(2)
        file["name"] = "text"
        file["optimizer/vars/1"] = np.full((2, 2), 7.0, "f4")
    line = run("inspect", "model.h5")[2][0]
    exec(line[line.index("found = {}") :], {"numpy": np, "h5py": h5py})
    loaded = fastreg.load("model.npz")
    assert list(loaded) == ["layers/dense/vars/0", "layers/dense/vars/1"]
    assert fastreg.stats(loaded).total["sum_squares"] == 36.0


@pytest.mark.filterwarnings("ignore:__array__")
def test_the_advice_for_keras_works(run, tmp_path, monkeypatch):
    keras = pytest.importorskip("keras")
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    model.save("model.keras")
    exec(advised(run, "model.keras"), {"numpy": np, "keras": keras})
    loaded = fastreg.load("model.npz")
    ours = fastreg.penalty(loaded, l2=1.0)
    assert ours == fastreg.penalty([np.asarray(model.layers[0].kernel)], l2=1.0, dtype="float64")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.weights.h5"])
def test_the_advice_for_tf_keras_works(run, tmp_path, monkeypatch, name):
    """What tf_keras saves: its optimizer keeps arrays of the weights' shapes, which are none."""
    tf_keras = pytest.importorskip("tf_keras")
    monkeypatch.chdir(tmp_path)
    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,), name="dense")])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    (model.save_weights if ".weights" in name else model.save)(name)
    (line,) = run("inspect", name)[2]
    begin, scope = "from tf_keras: ", {"numpy": np, "tf_keras": tf_keras}
    if name.endswith("h5"):
        begin, scope = "an HDF5 file; ", {"numpy": np, "h5py": pytest.importorskip("h5py")}
        (tmp_path / name).replace("model.h5")
    exec(line.partition(begin)[2].partition("; for a file of weights")[0], scope)
    ours = fastreg.penalty(fastreg.load("model.npz"), l2=1.0)
    assert ours == fastreg.penalty([model.layers[0].kernel.numpy()], l2=1.0, dtype="float64")


def test_the_advice_for_objects_works(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.array([np.ones(3), np.ones(2)], object)
    np.save("rows.npy", x)
    (line,) = run("inspect", "rows.npy")[2]
    exec(line.partition("arrays of their own with ")[2], {"numpy": np, "x": x})
    assert fastreg.stats(fastreg.load("rows.npz")).total["sum_squares"] == 5.0


def test_every_suffix_that_is_refused_has_advice():
    for suffix in foreign.SUFFIXES:
        text = str(foreign.refusal(b"what is this", suffix))
        assert len(text.split("; ")) >= 3
        assert text.isprintable()


# -- load ------------------------------------------------------------------------------------------


def test_load_returns_arrays_with_shapes_and_types(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(4, dtype=">f4"),
        "i": np.arange(3),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3)),
        "bool": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        loaded = fastreg.load(tmp_path / "a.npz")
        assert list(loaded) == list(arrays)
        for name, array in arrays.items():
            assert loaded[name].dtype == array.dtype.newbyteorder("=")
            assert loaded[name].shape == array.shape
            np.testing.assert_array_equal(loaded[name], array)
    data = np.array([0x3F80, 0xC000], "<u2").tobytes() + bytes([0x38, 0x7F, 0x7C])
    header = {
        "b": entry("BF16", [2, 1], 0, 4),
        "e": entry("F8_E4M3", [2], 4, 6),
        "g": entry("F8_E5M2", [1], 6, 7),
    }
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, data))
    loaded = fastreg.load(tmp_path / "a.safetensors")
    assert loaded["b"].dtype == ml_dtypes.bfloat16
    assert loaded["b"].tolist() == [[1.0], [-2.0]]
    assert not loaded["b"].flags.owndata
    assert not loaded["b"].flags.writeable
    assert loaded["e"].dtype == ml_dtypes.float8_e4m3fn
    stats = fastreg.stats(loaded)
    assert (stats["e"]["nans"], stats["g"]["infs"], stats["b"]["sum_abs"]) == (1, 1, 3.0)
    with pytest.raises(fastreg.errors.NonFiniteError, match=r"'e' \(1 NaN and 0 inf of 2\), 'g'"):
        fastreg.check_finite(loaded)


def test_load_without_ml_dtypes(tmp_path, monkeypatch):
    header = {"b": entry("BF16", [1, 2], 0, 4), "e": entry("F8_E4M3", [2], 4, 6)}
    data = np.array([0x3F80, 0xC000], "<u2").tobytes() + bytes([0x38, 0x7F])
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, data))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    loaded = fastreg.load(tmp_path / "a.safetensors")
    assert fastreg.penalty({"b": loaded["b"]}, l2=1.0) == 5.0
    stats = fastreg.stats(loaded)
    assert (stats["b"]["shape"], stats["e"]["nans"], stats["e"]["dtype"]) == ([1, 2], 1, "f8_e4m3")
    with pytest.raises(DTypeError, match=r"float8_e4m3fn.*fastreg\.stats"):
        fastreg.value(loaded["e"], l2=1.0)


def test_load_refuses_what_it_cannot_return(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(1), c=np.ones(2, "c8"))
    with pytest.raises(CheckpointError, match=r"a\.npz: expected a tensor that can be read at 'c'"):
        fastreg.load(tmp_path / "a.npz")
    np.save(tmp_path / "w.npy", np.ones(2))
    np.savez(tmp_path / "a.npz", w=np.ones(1))
    with pytest.raises(CheckpointError, match="'w' in two files"):
        fastreg.load(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        fastreg.load("-")
    path = tmp_path / "deep.safetensors"
    path.write_bytes(safetensors_bytes({"a": entry("F32", [1] * 70, 0, 4)}, bytes(4)))
    with pytest.raises(CheckpointError, match="as many dimensions"):
        fastreg.load(path)


# -- Floats of one byte ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_floats_of_one_byte_are_those_of_ml_dtypes(dtype):
    """All codes, and the statistics of all, which are those of the same numbers as float32."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = getattr(ml_dtypes, dtype.name)
    bits = ml_dtypes.finfo(kind).bits
    x = np.arange(1 << bits, dtype=np.uint8).view(kind)
    wide = x.astype("f4")
    np.testing.assert_array_equal(wide, dtype.table[: 1 << bits])
    low = float(ml_dtypes.finfo(kind).smallest_normal)
    for array in (x, x.reshape(2, -1).T, x[::-3], x[:0], np.tile(x[np.isfinite(wide)], 9000)):
        ours = fastreg.stats([array]).total
        theirs = fastreg.stats([array.astype("f4")]).total
        for key in theirs:
            if key == "subnormals":
                numbers = np.abs(array.astype("f8"))
                assert ours[key] == np.count_nonzero((numbers > 0) & (numbers < low))
            else:
                np.testing.assert_equal(ours[key], theirs[key])


def test_floats_of_one_byte_beside_others_are_rounded_once():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half, i = np.full(1, 0.5, ml_dtypes.float8_e4m3fn), np.arange(5)
    stats = fastreg.stats({"a": np.array([2.0**53]), "b": half, "c": half.copy(), "i": i})
    assert stats.total["sum_abs"] == 2.0**53
    least = np.array([2.0**-9])
    more = fastreg.stats({"a": np.array([2.0**53]), "b": half, "c": half.copy(), "d": least})
    assert more.total["sum_abs"] == 2.0**53 + 2
    assert fastreg.stats([half, i], integers=True).total["sum_abs"] == 10.5


def test_floats_of_one_byte_in_files(run, tmp_path):
    names = ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"]
    header = {n: entry(n, [256], 256 * k, 256 * (k + 1)) for k, n in enumerate(names)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(range(256)) * 5))
    arrays = json.loads(run("inspect", path, "--json")[1])["arrays"]
    assert [(a["nans"], a["infs"], a["zeros"], a["skipped"]) for a in arrays] == [
        (2, 0, 2, None), (6, 2, 2, None), (1, 0, 1, None), (1, 0, 1, None), (1, 0, 0, None),
    ]  # fmt: skip
    assert run("inspect", path, "--fail-on-nonfinite")[0] == 1


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_floats_of_one_byte_of_torch_and_jax(name):
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax.numpy")
    codes = np.arange(0, 100, dtype=np.uint8)
    state = {"w": torch.from_numpy(codes).view(getattr(torch, name)), "v": torch.ones(2)}
    ml_dtypes = pytest.importorskip("ml_dtypes")
    expected = fastreg.stats([codes.view(getattr(ml_dtypes, name)), np.ones(2)]).total
    assert fastreg.stats(state).total == fastreg.torch.stats(state).total == expected
    fastreg.check_finite(state)
    ours = fastreg.stats([jnp.asarray(codes.view(getattr(ml_dtypes, name))), jnp.ones(2)]).total
    assert ours == expected
    with pytest.raises(DTypeError, match=name):
        fastreg.penalty(list(state.values()), l2=1.0)
