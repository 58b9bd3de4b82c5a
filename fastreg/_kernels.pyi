# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

_Weights: TypeAlias = float | Sequence[float]

def value(x: Any, *, l1: float = 0.0, l2: float = 0.0, dtype: Any = None) -> Any: ...
def sum_squares(x: Any, *, dtype: Any = None) -> Any: ...
def sum_abs(x: Any, *, dtype: Any = None) -> Any: ...
def l2_loss(x: Any, *, dtype: Any = None) -> Any: ...
def norm(x: Any, *, dtype: Any = None) -> Any: ...
def gradient(
    x: Any,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    scale: float = 1.0,
    out: Any = None,
    accumulate: bool = False,
) -> Any: ...
def value_and_gradient(
    x: Any,
    *,
    l1: float = 0.0,
    l2: float = 0.0,
    scale: float = 1.0,
    out: Any = None,
    accumulate: bool = False,
    dtype: Any = None,
) -> tuple[Any, Any]: ...
def list_value(
    arrays: Iterable[Any], *, l1: _Weights = 0.0, l2: _Weights = 0.0, dtype: Any = None
) -> Any: ...
def list_norm(arrays: Iterable[Any], *, dtype: Any = None) -> Any: ...
def levels(*, all: bool = False) -> list[str]: ...
def level() -> str | None: ...
def has_openmp() -> bool: ...
def compiler() -> str: ...
def version() -> str: ...
def num_threads() -> int: ...
def set_process_threads(threads: int) -> int: ...
def set_thread_threads(threads: int) -> int: ...
def _measure(
    arrays: Any,
    op: str,
    l1: _Weights,
    l2: _Weights,
    dtype_name: str,
    isa: str | None = None,
    threads: int = 1,
    first_tier: int = 0,
    error_scale: float = 1.0,
    bytes_per_thread: int = 1,
) -> tuple[float, int]: ...
def _gradient(
    x: Any,
    l1: float,
    l2: float,
    scale: float,
    out: Any,
    accumulate: bool,
    isa: str | None = None,
) -> Any: ...
def _value_and_gradient(
    x: Any,
    l1: float,
    l2: float,
    scale: float,
    out: Any,
    accumulate: bool,
    isa: str | None = None,
) -> tuple[Any, Any]: ...
