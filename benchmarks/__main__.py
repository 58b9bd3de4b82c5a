# SPDX-License-Identifier: BSD-3-Clause
"""Run the suite: ``python -m benchmarks``, which is what ``python -m fastreg bench`` calls."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import guard, records, report, table
from fastreg.progress import Progress

HERE = Path(__file__).parent
RESULTS = HERE / "results"
QUESTIONS = {
    "value": "how fast is the value",
    "gradient": "how fast are gradients",
    "small_call": "what does one small call cost",
    "lists": "what does a whole model cost",
    "threads": "from which size do threads pay",
    "isa": "what does each ISA level reach",
    "exactness": "how right is each contender",
    "fallbacks": "what do the fallbacks cost",
    "frameworks": "what do the frameworks take",
    "import": "what does fastreg cost before its first call",
}
FRAMEWORKS = ("torch", "jax", "tensorflow")


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
    if arguments.save_baseline:
        guard.save(results, guard.BASELINE)
    if arguments.guard:
        status = guard.check(results, guard.BASELINE, sys.stdout)
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
    add("--laps", type=int, default=0, help="turns of each contender (default 5; quick 3)")
    add("--from", dest="from_results", metavar="DIR", help="use the results there; measure nothing")
    add("--readme", metavar="FILE", help="put the table between the markers of this file")
    add("--guard", action="store_true", help="compare with the stored baseline; 1 if slower")
    add("--save-baseline", action="store_true", help="store these ratios as the baseline")
    return parser


def run(arguments: argparse.Namespace) -> list[Path]:
    """Ask the questions, each in a process of its own; return the files with the answers."""
    RESULTS.mkdir(exist_ok=True)
    for old in RESULTS.glob("*.json"):
        if not arguments.only or old.stem.partition("-")[0] in arguments.only:
            old.unlink()
    jobs = [
        (question, variant)
        for question in arguments.only or QUESTIONS
        for variant in (_frameworks() if question == "frameworks" else [""])
    ]
    written: list[Path] = []
    start = time.monotonic()
    with Progress() as progress:
        # A job of unknown length counts as much as an ordinary one until it is known.
        guesses = dict.fromkeys(jobs, 200)
        progress.expect(sum(guesses.values()))
        for job in jobs:
            path = RESULTS / ("-".join(filter(None, job)) + ".json")
            if _ask(*job, path, arguments, progress, guesses[job]):
                written.append(path)
    print(f"{len(written)} of {len(jobs)} runs in {time.monotonic() - start:.0f} s\n")
    return written


def _frameworks() -> list[str]:
    return [name for name in FRAMEWORKS if importlib.util.find_spec(name) is not None]


def _ask(
    question: str,
    variant: str,
    path: Path,
    arguments: argparse.Namespace,
    progress: Progress,
    guess: int,
) -> bool:
    reader, writer = os.pipe()
    command = [
        sys.executable, "-m", "pytest", str(HERE / f"bench_{question}.py"),
        "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", f"--progress-fd={writer}",
        f"--benchmark-min-rounds={1 if arguments.quick else 2}",
        "--benchmark-disable-gc", "--benchmark-warmup=off",
        f"--benchmark-max-time={0.01 if arguments.quick else 0.04}",
        "--benchmark-min-time=0.00005", f"--benchmark-json={path}", "--benchmark-quiet",
        f"--laps={arguments.laps}", *(["--quick"] if arguments.quick else []),
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        ),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if variant:
        environment |= {"FASTREG_BENCH_FRAMEWORK": variant, "KERAS_BACKEND": variant}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment,
            cwd=HERE.parent, pass_fds=(writer,),
        )  # fmt: skip
        os.close(writer)
        done = 0
        with os.fdopen(reader) as events:
            try:
                for line in events:
                    event = json.loads(line)
                    if "total" in event:
                        progress.expect(event["total"] - guess)
                    done += event.get("done", 0)
                    progress.advance(event.get("done", 0))
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
        print(f"fastreg: {question} {variant} failed:\n" + "\n".join(last), file=sys.stderr)
        return False
    if process.returncode == 1:
        failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
        print(f"fastreg: {question} {variant}: " + "\n".join(failed[:5]), file=sys.stderr)
    return True


def _complain(text: str) -> int:
    print(f"fastreg: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("fastreg: interrupted", file=sys.stderr)
        sys.exit(130)
