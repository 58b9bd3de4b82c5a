# SPDX-License-Identifier: BSD-3-Clause
"""Ask all frameworks, each in a process of its own: ``python -m benchmarks.inside [--quick]``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.engine import machine
from benchmarks.inside.laps import Row, run

BEGIN, END = "<!-- inside:begin -->", "<!-- inside:end -->"
# Module of this package, and the backend of Keras in its process.
PARTS = {
    "torch": ("in_torch", "torch"),
    "jax": ("in_jax", "jax"),
    "tensorflow": ("in_tensorflow", "tensorflow"),
    "keras-torch": ("in_keras", "torch"),
    "keras-jax": ("in_keras", "jax"),
    "keras-tensorflow": ("in_keras", "tensorflow"),
}
_HEAD = ("what", "data", "fastreg", "what it replaces", "", "fastreg is", "without a penalty")


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inside", allow_abbrev=False)
    add = parser.add_argument
    add("--quick", action="store_true", help="few sizes and laps, nothing that compiles long")
    add("--only", action="append", choices=list(PARTS), help="this part only; may be repeated")
    add("--cores", type=int, default=0, help="use so many cores (default: all that there are)")
    add("--docs", metavar="FILE", help="put the table between the markers of this file")
    add("--readme", metavar="FILE", help="put its shorter form between the markers of this file")
    add("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.cores and hasattr(os, "sched_setaffinity"):
        # Before anything counts them: all libraries then have as many threads.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    if arguments.part:
        return _measure(PARTS[arguments.part][0], arguments.quick)
    rows: list[Row] = []
    failed = False
    for part in arguments.only or PARTS:
        module, framework = PARTS[part]
        needed = [framework, *(["keras"] if module == "in_keras" else [])]
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            print(f"{part}: {missing[0]} is not installed", file=sys.stderr)
            continue
        found = _ask(part, framework, arguments.quick)
        failed |= found is None
        rows += found or []
    text = table(rows)
    print(text)
    if arguments.docs:
        _put(Path(arguments.docs), text)
    if arguments.readme:
        _put(Path(arguments.readme), table([row for row in rows if _is_short(row)]))
    return int(failed)


def _measure(module: str, quick: bool) -> int:
    """Run the contests of one part and print a line of JSON for each."""
    for contest in importlib.import_module(f"benchmarks.inside.{module}").contests(quick):
        print(json.dumps(dataclasses.asdict(run(contest, quick))), flush=True)
    return 0


def _ask(part: str, framework: str, quick: bool) -> list[Row] | None:
    command = [sys.executable, "-m", "benchmarks.inside", "--part", part]
    environment = os.environ | {"KERAS_BACKEND": framework, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command + ["--quick"] * quick, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{part} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return [Row(**json.loads(line)) for line in lines]


# What the README shows, of each framework: a gradient, a model, a step, and where fastreg loses.
_SHORT = (
    ("torch eager, forward and backward, l2", "f32 n = 64"),
    ("torch eager, forward and backward, l1 and l2", "f32 n = 1048576"),
    ("torch eager, norm of a list", "2000 tensors of 64 x 64"),
    ("torch SGD step, add_gradient_", "500 Linear layers of 16 x 16"),
    ("JAX jit, value and gradient, l2", "f32 n = 1048576"),
    ("tf.function, forward and backward, l1 and l2", "f32 n = 1048576"),
    ("Keras on torch, fit of an MLP", "0.4 M weights, batch 32"),
    ("Keras on jax, fit of a transformer", "0.1 M weights, batch 32"),
    ("Keras on tensorflow, fit of a transformer", "0.1 M weights, batch 32"),
)


def _is_short(row: Row) -> bool:
    """Whether a row stands in the README."""
    return (row.what, row.data) in _SHORT


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown, losses included."""
    lines = [_HEAD, ("---", "---", "--:", "---", "--:", "--:", "--:")]
    for row in rows:
        base = "" if row.base is None else machine.seconds(row.base)
        ratio = f"{row.median:.2f}× ({row.fastest:.2f})"
        ours, theirs = machine.seconds(row.ours), machine.seconds(row.theirs)
        lines.append((row.what, row.data, ours, row.rival, theirs, ratio, base))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    date = time.strftime("%Y-%m-%d")
    note = (
        f"{_counted(machine.cores())}, load {load:.1f}, {date}. Each call is what "
        "a user writes, tensors in and out. Times of the fastest call or step; ratios "
        "are medians over laps, in brackets of the fastest. Below 1×, fastreg is slower."
    )
    if load > machine.cores():
        note += " Other programs were running: treat all numbers as rough."
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + f"\n\n{note}"


def _counted(cores: int) -> str:
    return "1 core" if cores == 1 else f"{cores} cores"


def _put(path: Path, text: str) -> None:
    old = path.read_text(encoding="utf-8")
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
