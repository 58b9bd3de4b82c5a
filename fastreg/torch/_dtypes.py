# SPDX-License-Identifier: BSD-3-Clause
"""Torch's names of the element types that kernels read."""

from __future__ import annotations

import torch

from fastreg._core.dtypes import ALL

__all__ = ["DTYPES", "FLOATS"]

DTYPES = {getattr(torch, d.name): d for d in ALL if hasattr(torch, d.name)}
FLOATS = {kind: dtype for kind, dtype in DTYPES.items() if dtype.floating}
