# SPDX-License-Identifier: BSD-3-Clause
"""Factors that arrays are scaled by, rounded to nearest in any environment."""

from __future__ import annotations

from typing import Any

from fastreg._core.arguments import number
from fastreg._kernels import clean_environment

__all__ = ["clip_factor", "decay_factor"]


def decay_factor(rate: Any) -> float:
    """Return ``1 - rate``, rounded to nearest in any environment, or raise as :func:`number`."""
    checked = number(rate, "rate", least=0.0, most=1.0)
    with clean_environment():
        return 1.0 - checked


def clip_factor(most: float, norm: float) -> float | None:
    """Return ``most / norm``, rounded to nearest in any environment; None if norm is not above."""
    with clean_environment():
        return most / float(norm) if norm > most else None
