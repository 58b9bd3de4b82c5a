# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable, Sequence
from typing import Any, Self

from typing_extensions import disjoint_base

from fastreg._core.dtypes import Dtype

_Weights = float | list[float]

def value(
    x: Any, *, l1: float | None = None, l2: float | None = None, dtype: Any = None
) -> Any: ...
def sum_squares(x: Any, *, dtype: Any = None) -> Any: ...
def sum_abs(x: Any, *, dtype: Any = None) -> Any: ...
def l2_loss(x: Any, *, dtype: Any = None) -> Any: ...
def norm(x: Any, *, dtype: Any = None) -> Any: ...
def gradient(
    x: Any,
    *,
    l1: float | None = None,
    l2: float | None = None,
    scale: float = 1.0,
    out: Any = None,
    accumulate: bool = False,
) -> Any: ...
def value_and_gradient(
    x: Any,
    *,
    l1: Any = None,
    l2: Any = None,
    select: Any = None,
    weights: Any = 1.0,
    convention: str = "keras",
    scale: float = 1.0,
    out: Any = None,
    accumulate: bool | None = None,
    dtype: Any = None,
) -> tuple[Any, Any]: ...
def set_containers(
    is_array: Callable[[Any], bool], value_and_gradient: Callable[..., tuple[Any, Any]]
) -> None: ...

@disjoint_base
class Options:
    def __new__(
        cls,
        *,
        level: str | None = None,
        threads: int = 0,
        bytes_per_thread: int = 0,
        first_tier: int = 0,
        error_factor: float = 0.0,
    ) -> Self: ...
    @property
    def tier(self) -> int: ...

@disjoint_base
class Arrays:
    def __init__(
        self,
        items: Sequence[Any],
        l1: _Weights = 0.0,
        l2: _Weights = 0.0,
        *,
        options: Options | None = None,
    ) -> None: ...
    @staticmethod
    def dense(
        owners: list[Any],
        addresses: list[int],
        lengths: list[int],
        dtypes: list[Dtype],
        l1: _Weights = 0.0,
        l2: _Weights = 0.0,
        *,
        options: Options | None = None,
    ) -> Arrays: ...
    def __len__(self) -> int: ...
    @property
    def n(self) -> int: ...
    def value(self, dtype: Any = None, number: bool = False) -> Any: ...
    def norm(
        self, dtype: Any = None, number: bool = False, times: list[float] | None = None
    ) -> Any: ...
    def bind(self, targets: list[Any], fresh: bool = False) -> None: ...
    def gradient(
        self,
        targets: list[Any] | None = None,
        scale: float = 1.0,
        accumulate: bool = False,
        fresh: bool = False,
    ) -> None: ...
    def value_and_gradient(
        self,
        targets: list[Any] | None = None,
        scale: float = 1.0,
        accumulate: bool = False,
        dtype: Any = None,
        number: bool = False,
        fresh: bool = False,
    ) -> Any: ...
    def scale_(self, factor: float) -> None: ...
    def prox_(self, step: float, flush: bool = False) -> None: ...
    def statistics(self) -> tuple[Any, Any]: ...

def are_writable(arrays: list[Any]) -> bool: ...
def are_the_items(container: Any, items: list[Any]) -> bool: ...
def levels(*, all: bool = False) -> list[str]: ...
def level() -> str | None: ...
def has_openmp() -> bool: ...
def compiler() -> str: ...
def version() -> str: ...
def num_threads() -> int: ...
def set_process_threads(threads: int) -> int: ...
def set_thread_threads(threads: int) -> int: ...
def xla_handlers() -> dict[str, Any]: ...
