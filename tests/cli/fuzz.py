# SPDX-License-Identifier: BSD-3-Clause
"""Damaged files for inspect, compare and load: ``python tests/cli/fuzz.py --count 1000000``.

Whatever is in a file, a command prints a report or one line for each file, ends with the status 0,
1 or 2, and writes no byte that could steer a terminal; memory stays within bounds.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import sys
import tempfile
import time
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
from test_checkpoints import entry, mutations, npy_bytes, npy_header, npz_bytes, safetensors_bytes

import fastreg
import fastreg.cli.main as command_line
from fastreg.cli.compare import compare
from fastreg.cli.inspect import inspect
from fastreg.cli.report import print_csv, print_report
from fastreg.errors import FastregError

INDEX = "model.safetensors.index.json"
EVIL = "\x1b[31m\n\x7f\x9b\u202e"
NAMES = ["a.weight", "b", "", "x" * 3000, "n." * 2000, "漢" * 50, EVIL, "__metadata__", "a/../b"]
DTYPES = ["F32", "F64", "BF16", "F16", "F8_E4M3", "F8_E8M0", "F4", "C64", "BOOL", "I64", EVIL]
DESCRS = ["<f4", ">f8", "|b1", "<i8", ">u2", "|V2", "<c8", "|O", "<U3", "<M8[\x1b]", EVIL]


def seeds() -> dict[str, bytes]:
    """Small good files of every kind, by the name that each has."""
    values = np.arange(6, dtype="f4")
    members = {"a.npy": npy_bytes(values), "b.npy": npy_bytes(np.arange(40).reshape(4, 10))}
    header = {
        "__metadata__": {"format": "np"},
        "a.weight": entry("F32", [2, 3], 0, 24),
        "b": entry("BF16", [2], 24, 28),
        "c": entry("F8_E5M2", [1], 28, 29),
        "d": entry("BOOL", [1], 29, 30),
        "e": entry("C64", [1], 30, 38),
    }
    index = {"metadata": {"total_size": 1}, "weight_map": {"a.weight": "shard.safetensors"}}
    date = "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1,), }"
    other = values.astype(">f8").reshape(2, 3)
    return {
        "a.safetensors": safetensors_bytes(header, values.tobytes() + bytes(14)),
        "a.npy": npy_bytes(values),
        "big.npy": npy_bytes(np.asfortranarray(other)),
        "text.npy": npy_header(date, bytes(8)),
        "a.npz": npz_bytes(members),
        "packed.npz": npz_bytes(members, zipfile.ZIP_DEFLATED),
        INDEX: json.dumps(index).encode(),
    }


def forged(name: str, rng: random.Random) -> bytes:
    """Make up a file that is right in its outer parts: what is wrong, or odd, lies deeper."""
    shape = rng.choice([[], [2], [2, 3], [0, 5], [1] * 40, [7], [2**40], [3, 1]])
    size = rng.choice([0, 1, 2, 4, 8, 16, 24, 48, rng.randrange(100)])
    data = rng.randbytes(size)
    if name == INDEX:
        files = ["shard.safetensors", "gone.safetensors", EVIL, "../x", ""]
        weights = {n: rng.choice(files) for n in rng.sample(NAMES, rng.randrange(3))}
        return json.dumps({"weight_map": weights}).encode()
    if name.endswith(".safetensors"):
        header, at = {}, 0
        for n in rng.sample(NAMES, rng.randrange(1, 4)):
            end = rng.choice([size, at + 24, at + 8, at])
            header[n] = entry(rng.choice(DTYPES), shape, at, end)
            at = end
        return safetensors_bytes(header, rng.randbytes(at) if rng.random() < 0.8 else data)

    def npy() -> bytes:
        fields = (rng.choice(DESCRS), rng.choice([True, False]), tuple(shape))
        return npy_header("{'descr': %r, 'fortran_order': %r, 'shape': %r}" % fields, data)  # noqa: UP031

    if name.endswith(".npy"):
        return npy()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    members = {n + rng.choice([".npy", ".npy", "?"]): npy() for n in rng.sample(NAMES, 2)}
    return npz_bytes(members, method)


class Fuzz:
    """One run in a folder of its own.

    Attributes
    ----------
    statuses : dict
        How often the commands ended with each.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.seeds = seeds()
        self.statuses: dict[int, int] = {}
        (folder / "shard.safetensors").write_bytes(self.seeds["a.safetensors"])

    def run(self, count: int) -> None:
        """Try so many damaged files."""
        streams = {
            name: mutations(data, count, self.random.random()) for name, data in self.seeds.items()
        }
        names = sorted(streams)
        for k in range(count):
            name = names[k % len(names)]
            data = next(streams[name])
            if self.random.random() < 0.5:
                data = forged(name, self.random)
            path = self.folder / name
            path.write_bytes(data)
            status, out, err = self.one(path)
            self.statuses[status] = self.statuses.get(status, 0) + 1
            assert status in (0, 1, 2), (status, data)
            assert out.replace("\n", "").isprintable(), data
            assert err.replace("\n", "").isprintable(), data
            assert len(out) + len(err) < 20_000, data
            assert status != 2 or "expected " in err, data

    def one(self, path: Path) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = self.verb(path)
            except FastregError as error:
                print(error, file=sys.stderr)
                status = 2
        return status, out.getvalue(), err.getvalue()

    def verb(self, path: Path) -> int:
        """Do one of the things that read files; most often without parsing arguments again."""
        choice = self.random.randrange(20)
        if choice == 0:
            options = self.random.choice(
                [[], ["--json"], ["--csv"], ["--fail-on-nonfinite"], ["--select", "*a*"]]
            )
            return command_line.main(["inspect", str(path), "--max-unpacked-bytes=9999", *options])
        if choice == 1:
            return command_line.main(["compare", str(path), str(self.folder / "shard.safetensors")])
        if choice == 2:
            loaded = fastreg.load(path)
            print(fastreg.stats(loaded))
            return 0
        if choice == 3:
            return compare(str(path), str(path), max_unpacked_bytes=9999).status and 1
        report = inspect([str(path)], l2=0.5, select="all", max_unpacked_bytes=9999)
        printing = print_csv if choice == 4 else print_report
        printing(sys.stdout, report, range(len(report.tensors)))
        errors = [file["error"] for file in report.files if file["error"] is not None]
        print(*errors, sep="\n", file=sys.stderr)
        return 2 if errors else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder), arguments.seed)
        start, step = time.monotonic(), 10_000
        for done in range(0, arguments.count, step):
            fuzz.run(min(step, arguments.count - done))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(f"{done + step:,} files, {time.monotonic() - start:.0f} s, statuses "
                  f"{fuzz.statuses}, peak RSS {peak // 1024} MiB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
