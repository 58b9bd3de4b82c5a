# SPDX-License-Identifier: BSD-3-Clause
"""Run the suite: ``python -m benchmarks``, which is what ``python -m fastreg bench`` calls."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reports import guard, records, report, table
from fastreg import _kernels
from fastreg.cli.progress import Progress

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Question:
    """What is asked, how many seconds it gets, and in which variants: a process each."""

    text: str
    full: float
    quick: float
    variants: Callable[[bool], list[str]] = lambda quick: [""]


def _frameworks(quick: bool) -> list[str]:
    return [name for name in FRAMEWORKS if importlib.util.find_spec(name) is not None]


def _levels(quick: bool) -> list[str]:
    """Return the levels of this machine; the two that most machines have, for the quick."""
    return _kernels.levels()[-2:] if quick else _kernels.levels()


FRAMEWORKS = ("torch", "jax", "tensorflow")
# The seconds add up to 24 minutes, and quick to 100 s: where the machine is busy or slow, first
# laps take longer than this, and the limits of half an hour and two minutes still have to hold.
QUESTIONS = {
    "value": Question("how fast is the value", 420, 23),
    "gradient": Question("how fast are gradients", 270, 12),
    "small_call": Question("what does one small call cost", 30, 5),
    "lists": Question("what does a whole model cost", 90, 5),
    "threads": Question("from which size do threads pay", 75, 4),
    "isa": Question("what does each ISA level reach", 150, 10, _levels),
    "exactness": Question("how right is each contender", 90, 7),
    "fallbacks": Question("what do the fallbacks cost", 60, 8),
    "states": Question("what does an exact state cost", 50, 5),
    "frameworks": Question("what do the frameworks take", 240, 24, _frameworks),
    "import": Question("what does fastreg cost before its first call", 20, 3),
}
# OpenBLAS' kernels for our levels, so that a level is compared with the same instructions.
_BLAS = {"x86_v4": "SkylakeX", "x86_v3": "Haswell", "baseline": "Prescott"}


def main(argv: list[str] | None = None) -> int:
    """Run what the arguments say; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.from_results:
        order = list(QUESTIONS)
        paths = [
            path
            for path in sorted(Path(arguments.from_results).glob("*.json"))
            if path.stem.partition("-")[0] in order
        ]
        paths.sort(key=lambda path: order.index(path.stem.partition("-")[0]))
        if not paths:
            return _complain(f"no results in {arguments.from_results}; run without --from first")
    else:
        for name in ("pytest", "pytest_benchmark"):
            if importlib.util.find_spec(name) is None:
                package = name.replace("_", "-")
                return _complain(f"{package} is not installed; pip install {package}")
        paths = run(arguments)
    if not paths:
        return 1
    results = records.load(paths)
    table.show(results, sys.stdout)
    status = 0
    if arguments.report:
        folder = Path(arguments.report)
        report.write(results, folder)
        print(f"\nreport: {folder / 'report.md'}, {folder / 'index.html'}")
    if arguments.readme:
        report.update_readme(results, Path(arguments.readme))

    def again(questions: list[str] | None) -> records.Results | None:
        repeated = run(argparse.Namespace(**vars(arguments) | {"only": questions}))
        return records.load(repeated) if repeated else None

    if arguments.save_baseline:
        second = None if arguments.from_results else again(arguments.only)
        guard.save([results, *([second] if second else [])], guard.BASELINE)
    if arguments.guard:
        once_more = None if arguments.from_results else again
        status = guard.check(results, guard.BASELINE, sys.stdout, once_more)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastreg bench",
        description="Time fastreg beside what a user would pick instead, on this machine.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="few sizes and rivals: at most two minutes")
    add(
        "--only",
        action="append",
        choices=list(QUESTIONS),
        metavar="QUESTION",
        help=f"ask this question only (may be repeated): {', '.join(QUESTIONS)}",
    )
    add("--report", metavar="DIR", help="write report.md, index.html and plots there")
    add(
        "--laps",
        type=int,
        default=0,
        help="turns of each contender, however long that takes (default: up to 5, quick 3, as far "
        "as the budget of a question reaches)",
    )
    add("--from", dest="from_results", metavar="DIR", help="use the results there; measure nothing")
    add("--readme", metavar="FILE", help="put the table between the markers of this file")
    add("--guard", action="store_true", help="compare with the stored baseline; 1 if slower")
    add("--save-baseline", action="store_true", help="store the ratios of two runs as the baseline")
    return parser


def run(arguments: argparse.Namespace) -> list[Path]:
    """Ask the questions, each in a process of its own; return the files with the answers."""
    RESULTS.mkdir(exist_ok=True)
    for old in RESULTS.glob("*.json"):
        if not arguments.only or old.stem.partition("-")[0] in arguments.only:
            old.unlink()
    jobs = [
        (name, variant)
        for name in arguments.only or QUESTIONS
        for variant in QUESTIONS[name].variants(arguments.quick)
    ]
    seconds = {job: _seconds(*job, arguments) for job in jobs}
    written: list[Path] = []
    start = time.monotonic()
    with Progress(log=True) as progress:
        progress.expect(sum(seconds.values()))
        for i, job in enumerate(jobs, 1):
            progress.stage(f"{' '.join(filter(None, job))} ({i} of {len(jobs)})")
            path = RESULTS / ("-".join(filter(None, job)) + ".json")
            if _ask(*job, path, arguments, progress, seconds[job]):
                written.append(path)
    print(f"{len(written)} of {len(jobs)} runs in {time.monotonic() - start:.0f} s\n")
    return written


def _seconds(name: str, variant: str, arguments: argparse.Namespace) -> float:
    """Return the budget of one process."""
    question = QUESTIONS[name]
    seconds = question.quick if arguments.quick else question.full
    return seconds / max(len(question.variants(arguments.quick)), 1)


def _environment(name: str, variant: str) -> dict[str, str]:
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
    if name == "frameworks":
        found |= {"FASTREG_BENCH_FRAMEWORK": variant, "KERAS_BACKEND": variant}
    if name == "isa":
        found |= {"FASTREG_ISA": variant}
        found |= {"OPENBLAS_CORETYPE": _BLAS[variant]} if variant in _BLAS else {}
    return found


def _ask(
    name: str,
    variant: str,
    path: Path,
    arguments: argparse.Namespace,
    progress: Progress,
    seconds: float,
) -> bool:
    reader, writer = os.pipe()
    command = [
        sys.executable, "-m", "pytest", str(HERE / f"questions/bench_{name}.py"),
        "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", f"--progress-fd={writer}",
        "--benchmark-disable-gc", f"--benchmark-json={path}", "--benchmark-quiet",
        f"--laps={arguments.laps}", *(["--quick"] if arguments.quick else []),
        *([] if arguments.laps else [f"--seconds={seconds}"]),
    ]  # fmt: skip
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=_environment(name, variant),
            cwd=HERE.parent, pass_fds=(writer,),
        )  # fmt: skip
        os.close(writer)
        try:
            _follow(reader, progress, seconds)
            process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            raise
        log.seek(0)
        text = log.read()
    if process.returncode not in (0, 1, 5) or not path.exists() or not path.stat().st_size:
        width = shutil.get_terminal_size().columns
        last = [line[:width] for line in text.strip().splitlines()[-12:]]
        print(f"fastreg: {name} {variant} failed:\n" + "\n".join(last), file=sys.stderr)
        return False
    if process.returncode == 1:
        failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
        print(f"fastreg: {name} {variant}: " + "\n".join(failed[:5]), file=sys.stderr)
    return True


def _follow(reader: int, progress: Progress, seconds: float) -> None:
    """Show what a process tells until it ends; its work counts as the seconds that it may take."""
    total, done, rest = 1.0, 0.0, b""
    try:
        while True:
            if not select.select([reader], [], [], 0.2)[0]:
                progress.advance(0)
                continue
            chunk = os.read(reader, 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                total = event.get("total", total)
                if "at" in event:
                    progress.detail(event["at"])
                step = event.get("done", 0.0) / total * seconds
                done += step
                progress.advance(step)
    finally:
        os.close(reader)
    progress.advance(seconds - done)


def _complain(text: str) -> int:
    print(f"fastreg: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("fastreg: interrupted", file=sys.stderr)
        sys.exit(130)
