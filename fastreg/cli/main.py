# SPDX-License-Identifier: BSD-3-Clause
"""The command line: ``python -m fastreg inspect``, ``check``, ``info`` and ``bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import fastreg
from fastreg._core.arguments import weight
from fastreg._core.statistics import to_json
from fastreg._core.text import printable
from fastreg.cli import bench, check
from fastreg.cli.checkpoints import DEFAULT_MAX_UNPACKED_BYTES, read_checkpoint
from fastreg.cli.inspect import SORT_KEYS, inspect, print_report
from fastreg.cli.progress import Progress
from fastreg.errors import ArgumentError, CheckpointError, FastregError, message

__all__ = ["main"]

_INSPECT_EPILOG = """\
Sums over x are exact and rounded once to float64, per tensor and over all.
Integer and boolean tensors are shown, but counted in the totals and the
penalty only with --integers.

exit status: 0 fine; 1 non-finite elements, with --fail-on-nonfinite; 2 a bad
file or argument (good files are still reported); 130 interrupted.

--json prints one object in strict JSON. Floats have all their digits; those
that are not finite are the strings "nan" and "inf"; what an array lacks is
null. fastreg.stats(...).to_json() prints the parts marked *.
  schema   * "fastreg-stats/2"
  arrays   * [{name, shape, dtype, counted, n, sum_abs, sum_squares, norm,
           max_abs, zeros, subnormals, nans, infs}]; counted is whether it is
           in the total. In files also {file, nbytes, skipped, penalty, share}:
           file counts from 0; skipped is a text or null; penalty is null if
           not counted or without weights; share is 0 to 1, null where penalty
           is, and if the total penalty is 0 or not finite
  total    * {n, sum_abs, ..., infs} of the counted arrays, those that --top
           left out included. In files also {arrays, uncounted, skipped,
           nbytes, penalty}
  notes    * [text]
  l1, l2   the weights
  files    [{path, format, nbytes, error}]; format "safetensors", "npz" or
           "npy"; for a bad file error is a text, format and nbytes null
  hidden   how many arrays --top left out
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit status: 0 fine, 1 non-finite elements with ``--fail-on-nonfinite``, 2 a bad file or
        argument, 130 interrupted.

    Raises
    ------
    SystemExit
        After ``--help``.
    """
    try:
        if sys.stdout is None:
            raise FastregError(
                message("an open standard output", "a closed one", "redirect it to a file")
            )
        words = list(sys.argv[1:] if argv is None else argv)
        if words[:1] == ["bench"]:
            # The suite has its own parser, which needs no words twice.
            return bench.run(words[1:])
        arguments = _parser().parse_args(words)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except FastregError as error:
        _complain(str(error))
    except MemoryError:
        _complain(message("enough memory", "none left", "free some or give fewer files"))
    return 2


# ---- arguments ------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, like all others."""

    def error(self, text: str) -> NoReturn:
        raise ArgumentError(f"{text}; see {self.prog} --help")


def _parser() -> _Parser:
    parser = _Parser(prog="fastreg", description="Exactly rounded L1 and L2 penalties.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    inspect = commands.add_parser(
        "inspect",
        help="print the sums, norms and penalty shares of a checkpoint",
        description="Print the sums, norms and penalty shares of the tensors in checkpoints.",
        epilog=_INSPECT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = inspect.add_argument
    add("files", nargs="+", metavar="FILE", help="a .safetensors, .npz or .npy file")
    add("--l1", type=_weight, default=0.0, metavar="A", help="weight of sum |x| (default 0)")
    add("--l2", type=_weight, default=0.0, metavar="B", help="weight of sum x^2 (default 0)")
    add("--top", type=_natural, metavar="N", help="show the first N tensors only")
    add(
        "--sort",
        choices=sorted(SORT_KEYS),
        default="file",
        help="order of the tensors (default file); file and name ascend, numbers descend",
    )
    add(
        "--integers",
        action="store_true",
        help="count integers and booleans as weights, in the totals and the penalty",
    )
    add("--json", action="store_true", help="print JSON, see below")
    add("--fail-on-nonfinite", action="store_true", help="exit 1 if an element is NaN or infinite")
    add(
        "--max-unpacked-bytes",
        type=_natural,
        default=DEFAULT_MAX_UNPACKED_BYTES,
        metavar="N",
        help="what the compressed members of one .npz may unpack to (default %(default)s)",
    )
    inspect.set_defaults(run=_inspect)

    checking = commands.add_parser(
        "check",
        help="show that every ISA level and thread count gives the same bits, and how fast",
        description="Sum the squares of a checkpoint's float tensors with every ISA level and "
        "thread count, and with NumPy, in the same run. Exit status 1 if fastreg's bits differ.",
        allow_abbrev=False,
    )
    checking.add_argument("files", nargs="+", metavar="FILE", help="as for inspect")
    checking.set_defaults(run=_check)

    info = commands.add_parser(
        "info",
        help="print how fastreg was built and what it uses here",
        description="Print how fastreg was built and what it uses here.",
        allow_abbrev=False,
    )
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)

    commands.add_parser(
        "bench",
        help="run the benchmark suite of a source checkout (bench --help)",
        add_help=False,
    )
    return parser


def _weight(text: str) -> float:
    try:
        return weight(float(text), "weight")
    except ValueError:  # an ArgumentError is one, too
        raise argparse.ArgumentTypeError(
            f"expected a finite number >= 0; received {text!r}"
        ) from None


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"expected a whole number >= 0; received {text!r}")
    return int(text)


# ---- commands -------------------------------------------------------------------------------


def _inspect(arguments: argparse.Namespace) -> int:
    """Report on every file that can be read; complain about the others."""
    start = time.monotonic()
    with Progress() as progress:
        report = inspect(
            arguments.files,
            l1=arguments.l1,
            l2=arguments.l2,
            integers=arguments.integers,
            max_unpacked_bytes=arguments.max_unpacked_bytes,
            progress=progress,
        )
    shown = report.order(arguments.sort)[: arguments.top]
    bad = [file for file in report.files if file["error"] is not None]
    if arguments.json:
        _print(lambda: print(to_json(report.document(shown))))
    elif len(bad) < len(report.files):
        seconds = time.monotonic() - start
        _print(lambda: print_report(sys.stdout, report, shown, seconds=seconds))
    # After the table: a long one would scroll them away.
    for file in bad:
        _complain(f"{file['path']}: {file['error']}")
    counted = [k for k, yes in enumerate(report.counted) if yes]
    where = [k for k in counted if report.nonfinite[k]]
    if where:
        _complain(
            f"warning: NaN or infinite: {report.nonfinite[where].sum():,} of "
            f"{report.total['n']:,} elements, in {len(where):,} of {len(counted):,} tensors, "
            f"first in {printable(report.tensors[where[0]].name, 80)}"
        )
    if bad:
        return 2
    return 1 if where and arguments.fail_on_nonfinite else 0


def _check(arguments: argparse.Namespace) -> int:
    """Compare the bits and the speed of every way to sum a checkpoint's squares."""
    checkpoints = []
    for path in arguments.files:
        try:
            checkpoints.append(read_checkpoint(path))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
    arrays = check.operands(checkpoints)
    with Progress() as progress:
        progress.expect(check.ROUNDS)
        ways = check.check(arrays, tick=progress.advance)
    _print(lambda: check.print_ways(ways, arrays, sys.stdout))
    return 0 if len({way.bits for way in ways if way.exact}) == 1 else 1


def _info(arguments: argparse.Namespace) -> int:
    def show() -> None:
        if arguments.json:
            print(json.dumps(fastreg.show_config(mode="dict"), indent=1, default=str))
        else:
            fastreg.show_config()

    _print(show)
    return 0


# ---- output ---------------------------------------------------------------------------------


def _print(write: Callable[[], object]) -> None:
    """Call `write` and flush; a reader that has gone (``| head``) had what it wanted."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
    except OSError as error:
        _close_stdout()
        raise FastregError(
            message("a place to print to", str(error), "redirect the output elsewhere")
        ) from None


def _close_stdout() -> None:
    """Python flushes once more at exit: let that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    """Print one line to standard error, with nothing in it that could steer a terminal."""
    print(f"fastreg: {printable(text)}", file=sys.stderr)
