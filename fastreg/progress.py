# SPDX-License-Identifier: BSD-3-Clause
"""A progress bar that appears only where somebody waits for it."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Progress"]


class Progress:
    """Show on a terminal how far a long task is; do nothing anywhere else.

    Parameters
    ----------
    stream : text file, optional
        Default ``sys.stderr``.  Nothing is written unless it is a terminal.
    delay : float, default 0.5
        Seconds before the bar appears: a short task shows none.

    Notes
    -----
    Drawn by ``rich`` if that is installed, else as one line that is overwritten; it is wiped at
    the end either way.  Use as a context manager.
    """

    def __init__(self, stream: TextIO | None = None, *, delay: float = 0.5) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._due = time.monotonic() + delay if self._stream.isatty() else float("inf")
        self._bar: _RichBar | _PlainBar | None = None
        self._done = self._total = 0

    def expect(self, work: int) -> None:
        """Add `work`, in any unit, to what is to be done."""
        self._total += work

    def advance(self, work: int) -> None:
        """Add `work` to what is done."""
        self._done += work
        if time.monotonic() >= self._due:
            if self._bar is None:
                self._bar = _new_bar(self._stream)
            self._bar.update(self._done, self._total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _RichBar:
    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._progress: Any = RichProgress(
            BarColumn(bar_width=40),  # not the whole line: a terminal echoes ^C behind it
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=None)

    def update(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        self._progress.stop()


class _PlainBar:
    # Ten frames a second are enough for an eye and cost nothing.
    _PERIOD = 0.1

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = 0.0

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._PERIOD
        room = max(min(shutil.get_terminal_size().columns - 10, 40), 4)
        part = min(done / max(total, 1), 1.0)
        filled = int(room * part)
        self._stream.write(f"\r[{'#' * filled}{'.' * (room - filled)}] {part:4.0%}")
        self._stream.flush()

    def close(self) -> None:
        self._stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
        self._stream.flush()


def _new_bar(stream: TextIO) -> _RichBar | _PlainBar:
    try:
        return _RichBar(stream)
    except ImportError:
        return _PlainBar(stream)
