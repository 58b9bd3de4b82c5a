# SPDX-License-Identifier: BSD-3-Clause
"""A progress bar that appears only where somebody waits for it."""

from __future__ import annotations

import importlib.util
import io
import sys
import time
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Progress"]


class Progress:
    """Show on a terminal how far a long task is, if ``rich`` is installed.

    Parameters
    ----------
    stream : text file, optional
        Default ``sys.stderr``. The bar is wiped at the end.
    delay : float, default 0.5
        Seconds before the bar appears: a short task shows none.
    log : bool, default False
        Where no bar can be shown, write a line for every stage that ends, and one each minute of a
        long one: for tasks of many minutes, whose logs have to show life.

    Attributes
    ----------
    visible : bool
        Whether there is a bar, or will be.

    Notes
    -----
    Use as a context manager.
    """

    def __init__(
        self, stream: TextIO | None = None, *, delay: float = 0.5, log: bool = False
    ) -> None:
        # A process without standard error has nowhere to show anything.
        self._stream: TextIO = stream or sys.stderr or io.StringIO()
        self.visible = self._stream.isatty() and importlib.util.find_spec("rich") is not None
        self._due = time.monotonic() + delay if self.visible else float("inf")
        self._bar: _Bar | None = None
        self._log = _Log(self._stream) if log and not self.visible else None
        self._done = self._total = 0.0
        self._label = ""

    def expect(self, work: float) -> None:
        """Add `work`, in any unit, to what is to be done."""
        self._total += work

    def advance(self, work: float) -> None:
        """Add `work` to what is done; none, to show that time passes."""
        self._done += work
        if self._log is not None:
            self._log.update(self._done, self._total, self._label)
        if time.monotonic() >= self._due:
            if self._bar is None:
                self._bar = _Bar(self._stream)
            self._bar.update(self._done, self._total, self._label)

    def stage(self, name: str) -> None:
        """Name the part that begins; the one before is over."""
        self._label = name
        if self._log is not None:
            self._log.stage(name)
        self.advance(0)

    def detail(self, text: str) -> None:
        """Say what the current stage is at, until it is said again."""
        self._label = f"{self._label.partition(': ')[0]}: {text}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._log is not None:
            self._log.stage("")
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Log:
    # A reader of a log wants to know that it lives, not each step.
    _PERIOD = 60.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._name = ""
        self._begun = self._next = time.monotonic()

    def stage(self, name: str) -> None:
        now = time.monotonic()
        if self._name:
            self._write(f"{self._name}: {now - self._begun:.0f} s")
        self._name = name
        self._begun, self._next = now, now + self._PERIOD

    def update(self, done: float, total: float, label: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._PERIOD
            part = min(done / total, 1.0) if total else 0.0
            self._write(f"{label} ({part:.0%} of all, {now - self._begun:.0f} s)")

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


class _Bar:
    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._progress: Any = RichProgress(
            BarColumn(bar_width=40),  # not the whole line: a terminal echoes ^C behind it
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=Console(file=stream),
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=None)

    def update(self, done: float, total: float, label: str) -> None:
        self._progress.update(self._task, completed=done, total=total, description=label)

    def close(self) -> None:
        self._progress.stop()
