# SPDX-License-Identifier: BSD-3-Clause
"""A value with the level, the threads and the size of a share forced; and which tier decided."""

from __future__ import annotations

from typing import Any

from fastreg._kernels import Arrays, Options


def sum_squares(
    arrays: list[Any], dtype: str, *, isa: str | None = None, threads: int = 1, share: int = 1
) -> tuple[float, int]:
    """Return the sum of squares in a type, as a float, and the tier that decided.

    `share` is the least number of bytes for a thread, 0 for the usual one.
    """
    options = Options(level=isa, threads=threads, bytes_per_thread=share)
    value = Arrays(arrays, 0.0, 1.0, options=options).value(dtype, number=True)
    return value, options.tier
