# SPDX-License-Identifier: BSD-3-Clause
"""Time is what a question gets, laps are what its cases buy with it.

The seconds of a question are dealt out case by case, in proportion to what each must cost; what a
case leaves falls to those behind it. Within a case every contender may spend an equal part, lap by
lap: a fast one has all its laps, one that takes seconds a call has its first lap and no more. The
first lap is everybody's, whatever it costs: nobody is dropped, and the tables show the laps. The
limits and fastreg, that every ratio needs, have a median of three laps at least, unless a turn
takes seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

# A median needs so many.
CORE_LAPS = 3
_CORE_SECONDS = 1.0
# What a turn of a fast contender lasts, and how often a contender has one at most.
TURN = {False: 0.015, True: 0.006}
LAPS = {False: 5, True: 3}
# A call that lasts longer is timed once a turn: it averages over the machine's moods itself.
ONCE = 0.25
# A round this long is not a measurement of the clock.
_ROUND = 1e-4

# For a guess of what a case costs: seconds to make and to move a gigabyte, and of a small turn.
_MAKE, _MOVE, _CALLS = 1.5, 0.15, 4


@dataclass
class Part:
    """What one contender has spent on the case that runs."""

    spent: float = 0.0
    last: float = 0.0


@dataclass
class Budget:
    """The seconds of one question.

    Parameters
    ----------
    seconds : float
        What the question may take; infinite without a budget.
    costs : mapping
        Case -> what it is expected to cost, in any unit.
    fields : mapping
        Case -> how many contenders it has.
    """

    seconds: float
    costs: Mapping[Any, float]
    fields: Mapping[Any, int]
    clock: Callable[[], float] = time.monotonic
    share: float = math.inf  # of the case that runs
    _ahead: float = field(init=False)
    _end: float = field(init=False)
    _case: Hashable = field(init=False, default=None)
    _parts: dict[str, Part] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds
        self._ahead = sum(self.costs.values())

    def enter(self, case: Hashable) -> None:
        """Begin a case unless it runs already: deal out its share."""
        if case == self._case:
            return
        self._case = case
        self._parts.clear()
        cost = self.costs[case]
        left = max(self._end - self.clock(), 0.0)
        self.share = left * min(cost / self._ahead, 1.0) if self._ahead > 0 else left
        self._ahead -= cost

    def grants(self, contender: str, core: bool, lap: int) -> bool:
        """Tell whether a contender may have its turn in a lap."""
        part = self._parts.get(contender)
        if lap == 0 or part is None:
            return True
        if core and lap < CORE_LAPS and part.last < _CORE_SECONDS:
            return True
        return part.spent + part.last <= self.share / self.fields[self._case]

    def spend(self, contender: str, seconds: float) -> None:
        """Write a turn down."""
        part = self._parts.setdefault(contender, Part())
        part.spent += seconds
        part.last = seconds


def cost(nbytes: int, contenders: int, laps: int, turn: float) -> float:
    """Guess what a case costs in seconds, from the bytes that one call touches."""
    gigabytes = nbytes / 1e9
    return _MAKE * gigabytes + contenders * laps * max(turn, _CALLS * _MOVE * gigabytes)


def calibrate(call: Callable[[], object], turn: float) -> tuple[int, int]:
    """Return how many calls make a round, and how many rounds a turn.

    The call has run before: nothing compiles or allocates for the first time in here.
    """
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = time.perf_counter() - start
        if seconds >= _ROUND:
            break
        calls = max(2 * calls, math.ceil(1.2 * calls * _ROUND / max(seconds, 1e-9)))
    return calls, rounds(seconds, turn)


def rounds(seconds: float, turn: float) -> int:
    """Return how many rounds of so many seconds make a turn: two at least of what is short."""
    return 1 if seconds > ONCE else max(2, math.ceil(turn / seconds))
