# SPDX-License-Identifier: BSD-3-Clause
"""The readers against the libraries that write the formats, and against files that lie."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import sys
import traceback
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from fastreg._checkpoints.opening import read_checkpoint
from fastreg._checkpoints.tensor import Budget, Checkpoint
from fastreg.errors import CheckpointError, FastregError

_DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
_NAMES = ["f16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool"]
_SAFETENSORS_NAMES = [name.upper() for name in _NAMES]


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors file with any header: a dict, text or bytes."""
    if not isinstance(header, bytes):
        text = header if isinstance(header, str) else json.dumps(header)
        header = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def npy_bytes(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def npy_header(text: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """Return a .npy file with any header text."""
    code = "<H" if version == b"\1\0" else "<I"
    return b"\x93NUMPY" + version + struct.pack(code, len(text)) + text.encode("latin1") + data


def npz_bytes(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def read(path: Path, data: bytes, budget: Budget | None = None) -> Checkpoint:
    path.write_bytes(data)
    return read_checkpoint(path, budget=budget)


def read_all(path: Path, data: bytes) -> int:
    """Read the elements of all tensors; return how many bytes they take."""
    total = 0
    for tensor in read(path, data).tensors:
        if not tensor.skipped:
            assert tensor.array().nbytes == tensor.nbytes
            total += tensor.nbytes
    return total


def sample(code: str, shape: tuple[int, ...]) -> np.ndarray:
    numbers = np.random.default_rng(7).integers(0, 100, shape)
    return np.asarray(numbers % 2 if code == "?" else numbers, code)


# ---- what is right is read ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4), (2, 0, 3), (1,) * 40])
def test_safetensors_agrees_with_the_library_that_writes_it(tmp_path, shape):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    if np.lib.NumpyVersion(np.__version__) < "2.0.0" and len(shape) > 32:
        pytest.skip("NumPy 1 has at most 32 dimensions")
    arrays = {f"layer.{code}": sample(code, shape) for code in _DTYPES}
    path = tmp_path / "a.safetensors"
    save_file(arrays, path, metadata={"format": "np"})
    checkpoint = read_checkpoint(path)
    assert (checkpoint.format, checkpoint.nbytes) == ("safetensors", path.stat().st_size)
    assert {t.name for t in checkpoint.tensors} == set(arrays)
    for tensor in checkpoint.tensors:
        expected = arrays[tensor.name]
        assert (tensor.shape, tensor.n, tensor.nbytes) == (shape, expected.size, expected.nbytes)
        assert tensor.dtype == _NAMES[_DTYPES.index(tensor.name.split(".")[1])]
        assert tensor.array().dtype == expected.dtype
        np.testing.assert_array_equal(tensor.array(), expected.ravel())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("code", _DTYPES)
def test_npy_agrees_with_numpy(tmp_path, code, version, order):
    for shape in [(), (0,), (5,), (3, 4), (2, 0, 3)]:
        expected = np.asarray(sample(code, shape), order=order)
        checkpoint = read(tmp_path / "weights.npy", npy_bytes(expected, version=version))
        (tensor,) = checkpoint.tensors
        assert (checkpoint.format, tensor.name) == ("npy", "weights")
        assert (tensor.shape, tensor.n, tensor.nbytes) == (shape, expected.size, expected.nbytes)
        assert tensor.dtype == _NAMES[_DTYPES.index(code)]
        np.testing.assert_array_equal(tensor.array(), expected.ravel(order="K"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_agrees_with_numpy(tmp_path, save):
    arrays = {f"a/{code}": sample(code, (50, 3)) for code in _DTYPES} | {"e": np.zeros((0, 2))}
    save(tmp_path / "a.npz", **arrays)
    checkpoint = read_checkpoint(tmp_path / "a.npz")
    assert checkpoint.format == "npz"
    assert [t.name for t in checkpoint.tensors] == list(arrays)
    for tensor in checkpoint.tensors:
        np.testing.assert_array_equal(tensor.array(), arrays[tensor.name].ravel())


def test_bfloat16_comes_as_bits(tmp_path):
    bits = np.array([0x3F80, 0xBF80, 0, 0x7FC0], np.uint16)
    data = safetensors_bytes({"w": entry("BF16", [4], 0, 8)}, bits.tobytes())
    (tensor,) = read(tmp_path / "a", data).tensors
    assert (tensor.dtype, tensor.array().dtype) == ("bf16", np.uint16)
    np.testing.assert_array_equal(tensor.array(), bits)


@pytest.mark.parametrize("pad", range(8))
def test_views_are_mapped_read_only_and_may_be_misaligned(tmp_path, pad):
    values = np.arange(6.0)
    text = json.dumps({"w": entry("F64", [6], 0, 48)}) + " " * pad
    stored = npz_bytes({"x" * (pad + 1) + ".npy": npy_bytes(values)})
    for data in (safetensors_bytes(text, values.tobytes()), npy_bytes(values), stored):
        (tensor,) = read(tmp_path / "a", data).tensors
        array = tensor.array()
        assert not array.flags.owndata
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, values)


def test_the_content_decides_not_the_suffix(tmp_path):
    files = {
        "safetensors": safetensors_bytes({}),
        "npy": npy_bytes(np.zeros(2)),
        "npz": npz_bytes({"a.npy": npy_bytes(np.zeros(2))}),
    }
    for kind, data in files.items():
        for suffix in ("", ".bin", ".npy", ".npz", ".safetensors"):
            assert read(tmp_path / f"a{suffix}", data).format == kind


def test_what_is_not_read_is_listed_and_skipped(tmp_path):
    header = {
        "a": entry("F8_E4M3", [3], 0, 3),
        "b": entry("F32", [1], 3, 7),
        "c": entry("F4", [3, 2], 7, 10),
        "d": entry("C64", [1], 10, 18),
    }
    tensors = read(tmp_path / "a.safetensors", safetensors_bytes(header, bytes(18))).tensors
    assert [(t.dtype, t.n, bool(t.skipped)) for t in tensors] == [
        ("f8_e4m3", 3, False),
        ("f32", 1, False),
        ("f4", 6, True),
        ("c64", 1, True),
    ]
    with pytest.raises(CheckpointError, match="c64"):
        tensors[3].array()

    arrays = {
        "complex": np.ones(3, "c8"),
        "text": np.array(["ab"]),
        "record": np.zeros(2, [("x", "f4")]),
        "void": np.zeros(2, "V2"),
        "date": np.zeros(2, "M8[s]"),
        "object": np.array([None]),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    tensors = read_checkpoint(tmp_path / "a.npz").tensors
    assert [t.name for t in tensors if t.skipped] == list(arrays)
    assert [t.shape for t in tensors] == [a.shape for a in arrays.values()]


@pytest.mark.parametrize("code", ["f2", "f4", "f8", "i2", "u8"])
def test_the_other_byte_order_is_turned(tmp_path, code):
    other = np.dtype(code).newbyteorder(">" if sys.byteorder == "little" else "<")
    array = sample(code, (7, 11)).astype(other)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    for name in ("a.npy", "a.npz"):
        (tensor,) = read_checkpoint(tmp_path / name).tensors
        assert tensor.array().dtype == np.dtype(code)
        np.testing.assert_array_equal(tensor.array(), array.ravel())


@pytest.mark.parametrize("piece", [16, 48, 4096])
@pytest.mark.parametrize("code", ["?", "f2", "f4", ">f8"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pieces_are_the_whole(tmp_path, monkeypatch, piece, code, method):
    """However a member is cut, and wherever its header ends, no element is lost or split."""
    monkeypatch.setattr("fastreg._checkpoints.tensor.PIECE_NBYTES", piece)
    monkeypatch.setattr("fastreg._checkpoints.numpy_files._PIECE_NBYTES", piece + 1)
    array = sample(code.strip(">"), (1013,)).astype(code)
    header = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': (1013,)}}"
    for pad in range(3):
        data = npz_bytes({"a.npy": npy_header(header + " " * pad, array.tobytes())}, method)
        (tensor,) = read(tmp_path / "a.npz", data).tensors
        found = list(tensor.pieces())
        assert len(found) > 1 or piece > 2000
        np.testing.assert_array_equal(np.concatenate(found), array)
        np.testing.assert_array_equal(tensor.array(), array)


# ---- what is wrong is refused ---------------------------------------------------------------

_F32 = entry("F32", [2], 0, 8)
_GOOD_NPY = npy_bytes(np.arange(100.0))
_SAFETENSORS_LIES = {
    "short": b"\x01\0\0",
    "length beyond the file": struct.pack("<Q", 99) + b"{}",
    "length of 2**63": struct.pack("<Q", 2**63) + b"{}",
    "length over 100 MB": struct.pack("<Q", 100_000_001) + b"{}",
    "no object": safetensors_bytes("[]"),
    "not JSON": safetensors_bytes("{,}"),
    "not UTF-8": safetensors_bytes(b'{"\xff": 1}'),
    "two objects": safetensors_bytes("{}{}"),
    "deep": safetensors_bytes('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "long number": safetensors_bytes('{"a":' + "9" * 5000 + "}"),
    "a name twice": safetensors_bytes(
        '{"a":%s,"a":%s}' % ((json.dumps(entry("F32", [0], 0, 0)),) * 2)
    ),
    "a key twice": safetensors_bytes(
        '{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    ),
    "unpaired surrogate": safetensors_bytes({"\ud800": _F32}, bytes(8)),
    "raw control character": safetensors_bytes(b'{"\x1b":{}}'),
    "NaN": safetensors_bytes('{"a":NaN}'),
    "no entry": safetensors_bytes({"a": 1}),
    "list entry": safetensors_bytes({"a": ["dtype", "shape", "data_offsets"]}),
    "no shape": safetensors_bytes({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "metadata of numbers": safetensors_bytes({"__metadata__": {"a": 1}}),
    "metadata list": safetensors_bytes({"__metadata__": []}),
    "unknown dtype": safetensors_bytes({"a": entry("F33", [2], 0, 8)}, bytes(8)),
    "lower-case dtype": safetensors_bytes({"a": entry("f32", [2], 0, 8)}, bytes(8)),
    "dtype list": safetensors_bytes({"a": entry(["F32"], [2], 0, 8)}, bytes(8)),
    "negative dimension": safetensors_bytes({"a": entry("F32", [-2], 0, 8)}, bytes(8)),
    "two negative": safetensors_bytes({"a": entry("F32", [-2, -1], 0, 8)}, bytes(8)),
    "float dimension": safetensors_bytes({"a": entry("F32", [2.0], 0, 8)}, bytes(8)),
    "boolean dimension": safetensors_bytes({"a": entry("F32", [True], 0, 4)}, bytes(4)),
    "shape text": safetensors_bytes({"a": entry("F32", "2", 0, 8)}, bytes(8)),
    "overflowing shape": safetensors_bytes({"a": entry("F32", [2**33, 2**31], 0, 0)}),
    "overflow, then zero": safetensors_bytes({"a": entry("F32", [2**40, 2**40, 0], 0, 0)}),
    "huge dimension": safetensors_bytes({"a": entry("F32", [2**64, 0], 0, 0)}),
    "span too short": safetensors_bytes({"a": entry("F32", [2], 0, 7)}, bytes(7)),
    "span too long": safetensors_bytes({"a": entry("F32", [2], 0, 12)}, bytes(12)),
    "offsets reversed": safetensors_bytes({"a": entry("F32", [2], 8, 0)}, bytes(8)),
    "negative offset": safetensors_bytes({"a": entry("F32", [2], -8, 0)}, bytes(8)),
    "three offsets": safetensors_bytes(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, bytes(8)
    ),
    "offsets object": safetensors_bytes(
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": {"0": 0, "8": 8}}}, bytes(8)
    ),
    "beyond the data": safetensors_bytes({"a": entry("F32", [2], 0, 8)}, bytes(7)),
    "bytes left over": safetensors_bytes({"a": _F32}, bytes(9)),
    "hole": safetensors_bytes({"a": entry("F32", [2], 4, 12)}, bytes(12)),
    "overlap": safetensors_bytes({"a": _F32, "b": entry("F32", [2], 4, 12)}, bytes(12)),
    "the same span": safetensors_bytes({"a": _F32, "b": _F32}, bytes(8)),
    "half a byte": safetensors_bytes({"a": entry("F4", [3], 0, 2)}, bytes(2)),
}
_NPY_LIES = {
    "magic only": b"\x93NUMPY",
    "no length": b"\x93NUMPY\1\0\1",
    "version 4": npy_header("{}", version=b"\4\0"),
    "length beyond the file": b"\x93NUMPY\1\0\xff\x0f{}",
    "length over the limit": npy_header(" " * 20_000),
    "no dict": npy_header("[]"),
    "not Python": npy_header("{'descr'"),
    "a call": npy_header("{'descr': print('<f8'), 'fortran_order': False, 'shape': ()}"),
    "deep": npy_header("(" * 5000),
    "deep minus": npy_header("-" * 9000 + "1"),
    "missing key": npy_header("{'descr': '<f8', 'shape': ()}", bytes(8)),
    "more keys": npy_header(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (), 'x': 1}", bytes(8)
    ),
    "shape list": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': [1]}", bytes(8)),
    "shape text": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': ('1',)}", bytes(8)),
    "negative": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", bytes(8)),
    "boolean": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}", bytes(8)),
    "overflow": npy_header(
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**32}, {2**32})}}", bytes(8)
    ),
    "order": npy_header("{'descr': '<f8', 'fortran_order': 0, 'shape': ()}", bytes(8)),
    "unknown descr": npy_header("{'descr': '<f8,', 'fortran_order': False, 'shape': ()}", bytes(8)),
    "descr number": npy_header("{'descr': 8, 'fortran_order': False, 'shape': ()}", bytes(8)),
    "descr tuple": npy_header("{'descr': (), 'fortran_order': False, 'shape': ()}", bytes(8)),
    "unhashable": npy_header("{[]: 1}"),
    "escape": npy_header("{'descr': '\\d', 'fortran_order': False, 'shape': ()}"),
    "truncated": _GOOD_NPY[:-1],
    "bytes left over": _GOOD_NPY + b"\0",
    "object": npy_bytes(np.array([None]), allow_pickle=True),
    "object field": npy_bytes(np.zeros(1, [("a", "O")]), allow_pickle=True),
}


def _patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert old in data
    return data.replace(old, new)


def _npz_lies() -> dict[str, bytes]:
    stored = npz_bytes({"a.npy": _GOOD_NPY})
    packed = npz_bytes({"a.npy": _GOOD_NPY}, zipfile.ZIP_DEFLATED)
    size = struct.pack("<I", len(_GOOD_NPY))
    crc = struct.pack("<I", zlib.crc32(_GOOD_NPY))
    central = stored.index(b"PK\1\2")
    local = stored[:central]
    encrypted = bytearray(stored)
    encrypted[central + 8] |= 1
    doubled = npz_bytes({"a.npy": _GOOD_NPY, "b.npy": _GOOD_NPY}).replace(b"b.npy", b"a.npy")
    return {
        "magic only": b"PK\3\4",
        "no directory": local,
        "truncated": stored[:-1],
        "cut in the middle": stored[: len(stored) // 2],
        "stored, wrong size": _patched(stored, size, struct.pack("<I", len(_GOOD_NPY) + 8)),
        "packed, size too big": _patched(packed, size, struct.pack("<I", len(_GOOD_NPY) + 8)),
        "packed, size too small": _patched(packed, size, struct.pack("<I", len(_GOOD_NPY) - 8)),
        "stored, wrong checksum": _patched(stored, crc, bytes(4)),
        "packed, wrong checksum": _patched(packed, crc, bytes(4)),
        "stored, flipped bit": _patched(stored, np.float64(77).tobytes(), np.float64(78).tobytes()),
        "encrypted": bytes(encrypted),
        "local header elsewhere": stored[:central]
        + stored[central:].replace(
            struct.pack("<I", 0) + b"a.npy", struct.pack("<I", 9) + b"a.npy"
        ),
        "other local name": b"PK\3\4" + stored[4:].replace(b"a.npy", b"b.npy", 1),
        "the name twice": doubled,
        "bzip2": npz_bytes({"a.npy": _GOOD_NPY}, zipfile.ZIP_BZIP2),
        "lzma": npz_bytes({"a.npy": _GOOD_NPY}, zipfile.ZIP_LZMA),
        "torch": npz_bytes({"archive/data.pkl": b"\x80\2.", "archive/data/0": bytes(8)}),
        "another zip": npz_bytes({"word/document.xml": b"<a/>"}),
        "no .npy": npz_bytes({"a.npy": b"nothing"}),
        "empty member": npz_bytes({"a.npy": b""}),
        "empty packed member": npz_bytes({"a.npy": b""}, zipfile.ZIP_DEFLATED),
        "truncated .npy": npz_bytes({"a.npy": _GOOD_NPY[:-1]}),
        "longer .npy": npz_bytes({"a.npy": _GOOD_NPY + b"\0"}, zipfile.ZIP_DEFLATED),
    }


_OTHER_LIES = {
    "empty": b"",
    "text": b"hello, world",
    "pickle": b"\x80\x04\x95\x10",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(20),
}
_LIES = [
    pytest.param(data, suffix, id=f"{suffix}: {name}")
    for suffix, table in {
        "safetensors": _SAFETENSORS_LIES,
        "npy": _NPY_LIES,
        "npz": _npz_lies(),
        "pt": _OTHER_LIES,
        "": _OTHER_LIES,
    }.items()
    for name, data in table.items()
]


@pytest.mark.parametrize(("data", "suffix"), _LIES)
def test_a_lying_file_is_refused_in_one_line(tmp_path, data, suffix):
    with pytest.raises(CheckpointError) as caught:
        read_all(tmp_path / f"a.{suffix}", data)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 600
    assert "expected" in text
    assert "received" in text


def test_every_truncation_is_refused(tmp_path):
    values = np.arange(4.0)
    good = [
        safetensors_bytes({"w": entry("F64", [4], 0, 32)}, values.tobytes()),
        npy_bytes(values),
        npz_bytes({"w.npy": npy_bytes(values)}),
        npz_bytes({"w.npy": npy_bytes(values)}, zipfile.ZIP_DEFLATED),
    ]
    for data in good:
        assert len(read(tmp_path / "a", data).tensors) == 1
        for n in range(len(data)):
            with pytest.raises(CheckpointError):
                read(tmp_path / "a", data[:n])


def test_a_bomb_is_not_unpacked(tmp_path):
    bomb = npz_bytes({"a.npy": npy_bytes(np.zeros(1 << 20))}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 15
    with pytest.raises(CheckpointError, match="--max-unpacked-bytes"):
        read(tmp_path / "a.npz", bomb, budget=Budget(1 << 20))
    (tensor,) = read(tmp_path / "a.npz", bomb, budget=Budget(9 << 20)).tensors
    assert tensor.array().size == 1 << 20
    # Stored members are mapped, so the limit does not concern them.
    stored = npz_bytes({"a.npy": npy_bytes(np.zeros(1 << 10))})
    read(tmp_path / "a.npz", stored, budget=Budget(0))


def test_overlapping_members_are_refused(tmp_path):
    # Two directory entries for the same bytes: the way a small zip unpacks many times over.
    data = npz_bytes({"a.npy": _GOOD_NPY})
    at = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    record = data[at:end]
    other = record.replace(b"a.npy", b"b.npy")
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 2, 2, 2 * len(record))
    with pytest.raises(CheckpointError):
        read(tmp_path / "a.npz", data[:at] + record + other + bytes(tail))


def test_members_that_are_no_arrays_are_skipped(tmp_path):
    data = npz_bytes({"note.txt": b"hello", "a.npy": npy_bytes(np.ones(3))})
    note, array = read(tmp_path / "a.npz", data).tensors
    assert (note.name, note.skipped, note.n) == ("note.txt", "a member that is no .npy", 0)
    np.testing.assert_array_equal(array.array(), np.ones(3))


def test_a_member_that_stands_twice_is_refused(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", npy_bytes(np.ones(3)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy_bytes(np.ones(3)))
    with pytest.raises(CheckpointError, match=r"'a\.npy' twice"):
        read(tmp_path / "a.npz", stream.getvalue())


def test_paths_that_are_no_files(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, word in [
        (tmp_path, "directory"),
        (tmp_path / "absent", "No such file"),
        (fifo, "pipe"),
        ("/dev/zero", "device"),
        ("a\0b", "null"),
        (tmp_path / "absent" / "x", "No such file"),
        ("", "No such file"),
    ]:
        with pytest.raises(CheckpointError, match=word):
            read_checkpoint(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(_GOOD_NPY)
    path.chmod(0)
    with pytest.raises(CheckpointError, match="ermission"):
        read_checkpoint(path)


def test_errors_are_value_errors_of_the_package():
    assert issubclass(CheckpointError, FastregError)
    assert issubclass(CheckpointError, ValueError)


def test_a_type_that_could_steer_a_terminal_is_escaped(tmp_path):
    header = "{'descr': '<M8[\x1b[31m ns]', 'fortran_order': False, 'shape': (1,)}"
    (tensor,) = read(tmp_path / "a.npy", npy_header(header, bytes(8))).tensors
    assert tensor.skipped
    assert (tensor.dtype + tensor.skipped).isprintable()


def test_errors_do_not_quote_a_file_as_their_cause(tmp_path):
    """Python shows the line that a SyntaxError is about, with all that is in it."""
    for data in (npy_header("{'descr': \x1b[31m"), safetensors_bytes('{"\x1b[31m')):
        with pytest.raises(CheckpointError) as caught:
            read(tmp_path / "a.npy", data)
        assert "".join(traceback.format_exception(caught.value)).replace("\n", "").isprintable()


# ---- mutations ------------------------------------------------------------------------------


def mutations(data: bytes, count: int, seed: float):
    """Yield `count` damaged copies: bits, bytes, cuts, insertions, numbers made extreme."""
    rng = random.Random(seed)
    signs = b'{}[]",:-0123456789eE.\\\xff\0 \x1b'
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(len(copy)) if copy else 0
            match rng.randrange(6):
                case 0:
                    copy[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    copy[at : at + 1] = bytes([rng.choice(signs)])
                case 2:
                    copy[at:at] = bytes(rng.choices(signs, k=rng.randrange(1, 4)))
                case 3:
                    del copy[at : at + rng.randrange(1, 9)]
                case 4:
                    copy[at : at + 8] = rng.choice((0, 1, 2**31, 2**32 - 1, 2**63)).to_bytes(
                        8, "little"
                    )
                case 5:
                    del copy[rng.randrange(len(copy) + 1) :]
        yield bytes(copy)


def mutation_seeds() -> dict[str, bytes]:
    values = np.arange(6, dtype="f4")
    header = {
        "__metadata__": {"format": "np"},
        "a.weight": entry("F32", [2, 3], 0, 24),
        "b": entry("BF16", [2], 24, 28),
        "c": entry("F8_E5M2", [1], 28, 29),
    }
    members = {"a.npy": npy_bytes(values), "b.npy": npy_bytes(np.arange(40).reshape(4, 10))}
    return {
        "safetensors": safetensors_bytes(header, values.tobytes() + bytes(5)),
        "npy": npy_bytes(values),
        "npz": npz_bytes(members),
        "packed.npz": npz_bytes(members, zipfile.ZIP_DEFLATED),
    }


@pytest.mark.parametrize("kind", mutation_seeds())
def test_mutated_files_are_read_or_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    accepted = refused = 0
    for data in mutations(mutation_seeds()[kind], 1500, seed=1):
        try:
            assert read_all(path, data) <= 1 << 12
            accepted += 1
        except CheckpointError:
            refused += 1
    assert accepted
    assert refused


def test_what_is_accepted_the_safetensors_library_accepts(tmp_path):
    library = pytest.importorskip("safetensors")
    accepted = 0
    for data in mutations(mutation_seeds()["safetensors"], 3000, seed=2):
        try:
            tensors = read(tmp_path / "a.safetensors", data).tensors
        except CheckpointError:
            continue
        accepted += 1
        theirs = dict(library.deserialize(data))
        assert {t.name: (t.dtype.upper(), list(t.shape)) for t in tensors} == {
            name: (info["dtype"], info["shape"]) for name, info in theirs.items()
        }
        for tensor in tensors:
            if not tensor.skipped:
                assert tensor.array().tobytes() == bytes(theirs[tensor.name]["data"])
    assert accepted > 100
