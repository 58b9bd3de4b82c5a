# SPDX-License-Identifier: BSD-3-Clause
"""The command line: ``python -m fastreg inspect``, ``compare``, ``check``, ``info``, ``bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn, TextIO

import fastreg
from fastreg._checkpoints.finding import find
from fastreg._checkpoints.opening import read_checkpoint
from fastreg._checkpoints.tensor import Budget
from fastreg._core.arguments import weight
from fastreg._core.statistics import to_json
from fastreg._core.text import plural, printable
from fastreg.cli import bench, check, config
from fastreg.cli.compare import compare, print_comparison
from fastreg.cli.inspect import inspect
from fastreg.cli.progress import Progress
from fastreg.cli.report import SORT_KEYS, Report, print_csv, print_report
from fastreg.errors import ArgumentError, CheckpointError, FastregError, message

__all__ = ["main"]

_FILES = """\
a .safetensors, .npz or .npy file; a *.safetensors.index.json, for its shards;
a folder, for the checkpoints in it; - for standard input"""

_INSPECT_EPILOG = """\
Sums over x are exact and rounded once to float64, per tensor and over all.
Integer and boolean tensors are shown, but counted in the totals and the
penalty only with --integers.

The penalty is that of fastreg.penalty(fastreg.load(FILE)): of the kernels, by
the names of the tensors, and not of biases, scales and 8-bit floats, while the
totals are those of all tensors. --select takes what select= does in Python:
all, kernels, a glob ("*.weight") or re:...; then only the tensors that it takes
are read, and they all are in the totals and in the penalty.

exit status: 0 fine; 1 non-finite elements, or tensors that could not be read
and may hold some, with --fail-on-nonfinite; 2 a bad file or argument (good
files are still reported); 130 interrupted.

Names of more than 80 characters are shortened but for --json and --csv.

--json prints one object in strict JSON. Floats have all their digits; those
that are not finite are the strings "nan" and "inf"; what an array lacks is
null. fastreg.stats(...).to_json() prints the parts marked *.
  schema   * "fastreg-stats/3"
  arrays   * [{name, shape, dtype, counted, n, sum_abs, sum_squares, norm,
           max_abs, zeros, subnormals, nans, infs, nonfinite}]; counted is
           whether it is in the totals. In files also {file, nbytes, skipped,
           penalty, share}: file counts from 0; skipped is a text or null;
           penalty is null if it is not in the penalty or there are no weights;
           share is 0 to 1, null where penalty is, and if the whole penalty is
           0 or not finite
  totals   * {n, sum_abs, ..., infs, nonfinite} of the counted arrays, those
           that --top left out included. In files also {arrays, uncounted,
           skipped, nbytes, penalty}
  notes    * [text]
  l1, l2   the weights
  files    [{path, format, nbytes, error}]; format "safetensors", "npz" or
           "npy"; for a bad file error is a text, format and nbytes null
  hidden   how many arrays --top left out

--csv prints a line for each tensor, with the same fields.
"""


_COMPARE_EPILOG = """\
Without --atol and --rtol tensors are equal if their shapes, types and bits are;
"type" are the same numbers in another type. With one of them they are close if
their shapes are equal and all their numbers are close, NaN being close to NaN.

max|a-b| and the norm of a-b are exact for the differences and rounded once. The
difference of two floats is rounded to float64 (that of float16 and floats of
one byte is exact), that of two integers of one type is exact. ulps are the most
steps from one number of the type to the next that lead from a to b.

exit status: 0 the same; 1 different; 2 a file or a tensor that could not be
read, or a bad argument; 130 interrupted.

--json prints one object in strict JSON; non-finite numbers are "nan" and "inf".
  schema   "fastreg-compare/1"
  same     whether the exit status is 0
  arrays   [{name, shape: [A, B], dtype: [A, B], state, differing, max_abs,
           norm, ulps}]; state "equal", "close", "different", "type", "shape",
           "only in A", "only in B" or "unread"; differing counts the elements
           that are not the same; null where there is nothing to say
  totals   how many tensors are in each state; norm of all differences of
           floats; relative, by the norm of A; null if that is 0 or not finite
  errors   [{path, error}]
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
        _hold_standard_descriptors()
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

    def _print_message(self, message: str, file: Any = None) -> None:
        _print(lambda: sys.stdout.write(message))


def _parser() -> _Parser:
    parser = _Parser(prog="fastreg", description="Exactly rounded L1 and L2 penalties.")
    parser.add_argument("--version", action="version", version=f"fastreg {fastreg.__version__}")
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
    add("files", nargs="+", metavar="FILE", help=_FILES)
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
    add("--select", metavar="RULE", help="read only the tensors whose names it takes, see below")
    form = inspect.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, see below")
    form.add_argument("--csv", action="store_true", help="print CSV, see below")
    add(
        "--fail-on-nonfinite",
        action="store_true",
        help="exit 1 if an element is NaN or infinite, or a tensor could not be read",
    )
    add(
        "--max-unpacked-bytes",
        type=_natural,
        default=Budget.DEFAULT,
        metavar="N",
        help="what the compressed members of all .npz may unpack to, together, and how long "
        "standard input may be (default %(default)s)",
    )
    inspect.set_defaults(run=_inspect)

    comparing = commands.add_parser(
        "compare",
        help="print what differs between two checkpoints, and by how much",
        description="Print which tensors of two checkpoints differ, and by how much.",
        epilog=_COMPARE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = comparing.add_argument
    add("first", metavar="A", help=_FILES)
    add("second", metavar="B", help="the same")
    add("--atol", type=_weight, metavar="X", help="tensors are the same if |a-b| <= X + Y |b| ...")
    add("--rtol", type=_weight, metavar="Y", help="... for all their elements, in whatever type")
    add("--select", metavar="RULE", help="compare only the tensors whose names it takes")
    add("--all", action="store_true", help="print equal tensors, too")
    add("--json", action="store_true", help="print JSON, see below")
    add(
        "--max-unpacked-bytes",
        type=_natural,
        default=Budget.DEFAULT,
        metavar="N",
        help="as for inspect (default %(default)s)",
    )
    comparing.set_defaults(run=_compare)

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

    configuring = commands.add_parser(
        "config",
        help="print the folders and files that a C program needs",
        description="Print the folders and files that a C program needs; all of them by default.",
        allow_abbrev=False,
    )
    config.add_arguments(configuring)
    configuring.set_defaults(run=_config)

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
            select=arguments.select,
            integers=arguments.integers,
            max_unpacked_bytes=arguments.max_unpacked_bytes,
            progress=progress,
        )
    shown = report.order(arguments.sort)[: arguments.top]
    bad = [file for file in report.files if file["error"] is not None]
    if arguments.json:
        _print(lambda: print(to_json(report.document(shown))))
    elif arguments.csv:
        _print(lambda: print_csv(sys.stdout, report, shown))
    elif len(bad) < len(report.files):
        seconds = time.monotonic() - start
        _print(lambda: print_report(sys.stdout, report, shown, seconds=seconds))
    # After the table: a long one would scroll them away.
    for file in bad:
        _complain(f"{file['path']}: {file['error']}")
    nonfinite = _warn_of_nonfinite(report)
    unread = report.unknown if arguments.fail_on_nonfinite else []
    if unread:
        first = report.tensors[unread[0]]
        _complain(
            f"{len(unread):,} {plural(len(unread), 'tensor')} may hold NaN or infinity and could "
            f"not be read, first {printable(first.name, 80)}: {first.skipped}"
        )
    if bad:
        return 2
    return 1 if arguments.fail_on_nonfinite and (nonfinite or unread) else 0


def _warn_of_nonfinite(report: Report) -> bool:
    """Say where NaN and infinity are; return whether there are any."""
    where = [k for k, count in enumerate(report.nonfinite) if count]
    if where:
        read = len(report.tensors) - len(report.skipped)
        _complain(
            f"warning: {report.rows['nans'].sum():,} NaN and {report.rows['infs'].sum():,} "
            f"infinite of {report.rows['n'].sum():,} elements, in {len(where):,} of {read:,} "
            f"{plural(read, 'tensor')}, first in {printable(report.tensors[where[0]].name, 80)}"
        )
    return bool(where)


def _compare(arguments: argparse.Namespace) -> int:
    """Say what differs; complain about what could not be read."""
    with Progress() as progress:
        comparison = compare(
            arguments.first,
            arguments.second,
            select=arguments.select,
            atol=arguments.atol,
            rtol=arguments.rtol,
            max_unpacked_bytes=arguments.max_unpacked_bytes,
            progress=progress,
        )
    if arguments.json:
        _print(lambda: print(to_json(comparison.document())))
    elif comparison.rows or not comparison.errors:
        _print(lambda: print_comparison(sys.stdout, comparison, every=arguments.all))
    for path, error in comparison.errors:
        _complain(f"{path}: {error}")
    return comparison.status


def _check(arguments: argparse.Namespace) -> int:
    """Compare the bits and the speed of every way to sum a checkpoint's squares."""
    checkpoints = []
    budget = Budget()
    with ExitStack() as keep:
        for found in find(arguments.files, most_input=Budget.DEFAULT, keep=keep):
            try:
                if found.error:
                    raise CheckpointError(found.error)
                checkpoints.append(read_checkpoint(found.place, budget=budget, name=found.path))
            except CheckpointError as error:
                raise CheckpointError(f"{found.path}: {error}") from None
    arrays = check.operands(checkpoints)
    with Progress() as progress:
        progress.expect(check.ROUNDS)
        ways = check.check(arrays, tick=progress.advance)
    _print(lambda: check.print_ways(ways, arrays, sys.stdout))
    return 0 if len({way.bits for way in ways if way.exact}) == 1 else 1


def _info(arguments: argparse.Namespace) -> int:
    def show() -> None:
        if arguments.json:
            found = fastreg.show_config(mode="dict")
            print(to_json(json.loads(json.dumps(found, default=str)), indent=1))
        else:
            fastreg.show_config()

    _print(show)
    return 0


def _config(arguments: argparse.Namespace) -> int:
    _print(lambda: print("\n".join(config.run(arguments))))
    return 0


# ---- output ---------------------------------------------------------------------------------


def _hold_standard_descriptors() -> None:
    """Let no file that is opened take the place of a closed standard input, output or error."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _print(write: Callable[[], object]) -> None:
    """Call `write` and flush; a reader that has gone (``| head``) had what it wanted."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)
    except OSError as error:
        _give_up(sys.stdout)
        raise FastregError(
            message("a place to print to", str(error), "redirect the output elsewhere")
        ) from None


def _complain(text: str) -> None:
    """Print one line to standard error, with nothing in it that could steer a terminal.

    Where there is no place for it, the exit status has to do.
    """
    if sys.stderr is None:
        return
    try:
        print(f"fastreg: {printable(text)}", file=sys.stderr, flush=True)
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Python flushes once more at exit: let that go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
