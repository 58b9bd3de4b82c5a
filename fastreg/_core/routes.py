# SPDX-License-Identifier: BSD-3-Clause
"""The user's choice between the kernels and a framework's own operations, one for each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastreg._core.arguments import flag

__all__ = ["Route"]


class Route(threading.local):
    """Which way results are computed on the calling thread.

    Attributes
    ----------
    name : "auto", "kernels" or "native"
        ``"native"`` means the framework's own operations.
    """

    name = "auto"

    @contextmanager
    def choose(self, name: str, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Take a route within a ``with`` block; `check` may refuse the kernels."""
        flag(name, "route", "auto", "kernels", "native")
        if name == "kernels":
            check()
        previous, self.name = self.name, name
        try:
            yield
        finally:
            self.name = previous
