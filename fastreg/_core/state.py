# SPDX-License-Identifier: BSD-3-Clause
"""Exact sums that leave the process: what arrays hold, as numbers that add and compare."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastreg._core.arguments import Globs, flag, two_weights, weight
from fastreg._core.pieces import widened
from fastreg._core.text import plural, short_number
from fastreg._kernels import Arrays, States, clean_environment
from fastreg.errors import ArgumentError, DTypeError, UnknownNameError, message, printable

if TYPE_CHECKING:
    from fastreg._core.arrays import AnyArray, HostArray

__all__ = ["Infinities", "State", "in_rows", "of_rows"]

# The head of bytes with named rows; one row without a name is the C library's bytes alone.
_ROWS = struct.Struct("<4sHHQ")
_MAGIC, _VERSION = b"FRSR", 1
_LENGTH = struct.Struct("<I")
# The C library's head: its magic, version and layout, and how many bytes each layout takes.
_HEAD = struct.Struct("<4sHH")
_NBYTES = {1: 176, 2: 856}

_Weights = tuple[tuple[float, ...], tuple[float, ...]]


class Infinities(NamedTuple):
    """How many elements are +inf, and how many -inf."""

    positive: int
    negative: int


class State:
    """What arrays hold, exactly: counts, and Σ|x| and Σx² as integers; see :func:`fastreg.state`.

    States are values: they add (``+``, ``sum``), subtract and compare, in any order and grouping,
    and pickle. Two are equal if their rows have the same names, counts and sums, whatever layout,
    order, division, machine or element type the arrays had. ``State()`` is that of no arrays.

    Attributes
    ----------
    names : tuple of str
        Of the rows; empty for the one row of ``rows="one"``.
    weights : tuple of two tuples of float, or None
        The l1 and l2 of each row, where the state was made with weights: what :meth:`value` takes
        if it is given none. No part of equality or bytes.
    """

    __slots__ = ("_bytes", "_states", "names", "weights")

    names: tuple[str, ...]
    weights: _Weights | None

    def __init__(self) -> None:
        self._set(States(1))

    def _set(
        self, states: States, names: tuple[str, ...] = (), weights: _Weights | None = None
    ) -> State:
        self._states = states
        self._bytes: bytes | None = None
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "weights", weights)
        return self

    @classmethod
    def _of(
        cls, states: States, names: tuple[str, ...] = (), weights: _Weights | None = None
    ) -> State:
        return cls.__new__(cls)._set(states, names, weights)

    # -- Rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._states)

    def __bool__(self) -> bool:
        """Return True, also for no rows."""
        return True

    def __iter__(self) -> Iterator[State]:
        """Iterate over the rows, as states of one row without a name."""
        return (self[k] for k in range(len(self)))

    def __getitem__(self, row: int | str) -> State:
        """Return one row, by name or position, as a state of one row without a name.

        Raises
        ------
        UnknownNameError
            (a KeyError and a ValueError) If there is no row of that name.
        """
        if isinstance(row, str):
            if row not in self.names:
                raise UnknownNameError(
                    message("the name of a row", repr(row)[:80], "see state.names")
                )
            row = self.names.index(row)
        k = range(len(self))[row]
        own = self.weights
        weights = None if own is None else ((own[0][k],), (own[1][k],))
        return State._of(self._states.row(k), (), weights)

    def total(self) -> State:
        """Return the sum of all rows, as a state of one row without a name."""
        return State._of(self._states.total())

    # -- Counts

    def _count(self, which: int) -> int:
        return sum(self._states.counts(k)[which] for k in range(len(self)))

    @property
    def n(self) -> int:
        """Number of elements, of all rows."""
        return self._count(0)

    @property
    def zeros(self) -> int:
        """Number of zeros of either sign."""
        return self._count(1)

    @property
    def nans(self) -> int:
        """Number of NaNs."""
        return self._count(2)

    @property
    def infs(self) -> Infinities:
        """Numbers of positive and of negative infinities."""
        return Infinities(self._count(3), self._count(4))

    # -- Adding and taking away

    def _combined(self, other: State, combine: Callable[[States], States]) -> State:
        if self.names != other.names:
            raise ArgumentError(
                message(
                    f"states with the same rows, {_rows_text(self)}",
                    _rows_text(other),
                    'make both with the same rows=, of the same arrays; rows="one" always adds',
                )
            )
        weights = self.weights if self.weights == other.weights else None
        return State._of(combine(other._states), self.names, weights)

    def __add__(self, other: Any) -> State:
        """Return the state of the arrays of both, row by row."""
        if not isinstance(other, State):
            return NotImplemented
        return self._combined(other, self._states.plus)

    def __radd__(self, other: Any) -> State:
        """Let ``sum(states)`` begin with its 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Any) -> State:
        """Return the state of the arrays that are left without the other's.

        Raises
        ------
        ArgumentError
            (a ValueError) If a count or a sum would fall below zero, or what is left could not be
            the state of any arrays.
        """
        if not isinstance(other, State):
            return NotImplemented
        return self._combined(other, self._states.minus)

    __array_ufunc__ = None  # `state + array` is an error, and no array of states

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        """Return an object array of this one state, which ``numpy.sum`` of several adds up."""
        if dtype is not None and np.dtype(dtype) != np.dtype(object):
            raise DTypeError(
                message("a state where a state is meant", str(dtype), "ask for state.value(...)")
            )
        alone = np.empty((), object)
        alone[()] = self
        return alone

    # -- Answers

    def value(self, l1: Any = None, l2: Any = None, dtype: Any = None) -> Any:
        """Return ``l1 * sum(|x|) + l2 * sum(x**2)`` over all rows, rounded once.

        Parameters
        ----------
        l1, l2 : float, sequence or mapping, optional
            Weights, finite and >= 0: a number for all rows, one for each, or by name or glob. One
            that is left out is 0. Without both, the state's own :attr:`weights`.
        dtype : float16, bfloat16, float32 or float64, optional
            Type of the result; float64 by default.

        Returns
        -------
        NumPy scalar
            The bits of :func:`fastreg.penalty` of the arrays. A row whose weights are both 0 plays
            no part; NaN if another one counts a NaN, else infinity if one counts that.

        Raises
        ------
        ArgumentError
            (a ValueError) For a weight out of range, a sequence of another length, a name that no
            row has, or no weight at all.

        Examples
        --------
        >>> import numpy as np, fastreg
        >>> s = fastreg.state({"a": np.array([3.0, -4.0]), "b": np.ones(2)}, rows="arrays")
        >>> s.value(l1=1.0, l2={"a": 0.5, "b": 10.0})
        np.float64(41.5)
        """
        if l1 is None and l2 is None:
            if self.weights is None:
                two_weights(None, None)
            l1, l2 = self.weights  # type: ignore[misc]
        return self._states.value(self._each(l1, "l1"), self._each(l2, "l2"), dtype)

    def _each(self, given: Any, what: str) -> list[float]:
        """Return the weight of each row."""
        if given is None:
            return [0.0] * len(self)
        if isinstance(given, Mapping):
            return self._by_name(given, what)
        if isinstance(given, (list, tuple)) or (isinstance(given, np.ndarray) and given.ndim == 1):
            if len(given) != len(self):
                raise ArgumentError(
                    message(
                        f"one number {what} for each row, {len(self)}",
                        str(len(given)),
                        "pass one number for all rows, or one for each of state.names",
                    )
                )
            return [weight(w, what, f"position {k}") for k, w in enumerate(given)]
        return [weight(given, what)] * len(self)

    def _by_name(self, given: Mapping[Any, Any], what: str) -> list[float]:
        globs = Globs(given)
        found = [globs.find((name,)) for name in self.names]
        fitting = {key for name in self.names for key in globs.fitting((name,))}
        for key in given:
            if key not in fitting:
                raise ArgumentError(
                    message(
                        f"names or globs of rows in {what}=",
                        f"'{printable(str(key), 80)}', which matches none",
                        "see state.names" if self.names else "pass a number for the one row",
                    )
                )
        each = {key: weight(w, what, f"'{printable(str(key), 80)}'") for key, w in given.items()}
        return [0.0 if key is None else each[key] for key in found]

    def _plain(self, l1: float, l2: float, dtype: Any, root: bool = False) -> Any:
        return self._states.value([l1] * len(self), [l2] * len(self), dtype, root)

    def norm(self, dtype: Any = None) -> Any:
        """Return the Euclidean norm of all arrays together, as :func:`fastreg.global_norm`."""
        return self._plain(0.0, 1.0, dtype, True)

    def sum_squares(self, dtype: Any = None) -> Any:
        """Return Σx² rounded once, as :func:`fastreg.sum_squares`; float64 by default."""
        return self._plain(0.0, 1.0, dtype)

    def sum_abs(self, dtype: Any = None) -> Any:
        """Return Σ|x| rounded once, as :func:`fastreg.sum_abs`; float64 by default."""
        return self._plain(1.0, 0.0, dtype)

    def l2_loss(self, dtype: Any = None) -> Any:
        """Return Σx²/2 rounded once, as :func:`fastreg.l2_loss`; float64 by default."""
        return self._plain(0.0, 0.5, dtype)

    # -- Bytes

    def __bytes__(self) -> bytes:
        """Return the canonical bytes: equal states have equal bytes, on every machine."""
        if self._bytes is None:
            rows = [self._states.save(k) for k in range(len(self))]
            self._bytes = b"".join(rows) if not self.names else self._named(rows)
        return self._bytes

    def _named(self, rows: list[bytes]) -> bytes:
        parts = [_ROWS.pack(_MAGIC, _VERSION, 0, len(rows))]
        for name, row in zip(self.names, rows, strict=True):
            text = name.encode("utf-8", "surrogatepass")
            parts += [_LENGTH.pack(len(text)), text, row]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: Any) -> State:
        """Return the state that ``bytes(state)`` stands for.

        Parameters
        ----------
        data : bytes, bytearray or memoryview

        Raises
        ------
        ArgumentError
            (a ValueError) For anything that is not the canonical bytes of a state: a message that
            was cut, another version, numbers that no arrays could have given.
        DTypeError
            (a TypeError) For what is no bytes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise DTypeError(message("bytes", type(data).__name__, "pass bytes(state)"))
        data = bytes(data)
        if data[:4] != _MAGIC:
            states = States(1)
            states.load(0, data)
            return cls._of(states)
        try:
            rows, names = _parsed(data)
        except (struct.error, UnicodeDecodeError, KeyError):
            raise _not_canonical() from None
        states = States(len(rows))
        for k, row in enumerate(rows):
            states.load(k, row)
        return cls._of(states, names)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the bytes, in hexadecimal.

        It sees a change of any element's magnitude by any amount, and of any count. It cannot see
        what exact sums do not depend on: the order of the elements, their signs, shapes and element
        types, and how they are divided into arrays (but by ``rows="arrays"``). It is no protection
        against somebody who chooses the elements: other numbers may have the same two sums.

        Examples
        --------
        >>> import numpy as np, fastreg
        >>> x = np.linspace(-1.0, 1.0, 1000)
        >>> one = fastreg.state(x).fingerprint()
        >>> one == fastreg.state([x[500:], x[:500]]).fingerprint()
        True
        >>> one == fastreg.state(np.nextafter(x, 2.0)).fingerprint()
        False
        """
        import hashlib

        return hashlib.sha256(bytes(self)).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Whether rows, counts and sums are equal."""
        if not isinstance(other, State):
            return NotImplemented
        return bytes(self) == bytes(other)

    def __hash__(self) -> int:
        return hash(bytes(self))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("names", "weights"):
            raise AttributeError(f"a State is a value: its {name} cannot be set")
        object.__setattr__(self, name, value)

    def __copy__(self) -> State:
        return self

    def __deepcopy__(self, memo: Any) -> State:
        return self

    def __reduce__(self) -> Any:
        wide = tuple(self._states.is_wide(k) for k in range(len(self)))
        return _unpickled, (bytes(self), self.weights, wide)

    # -- Digits

    def digits(self, dtype: Any = np.int64, layout: str | None = None) -> AnyArray:
        """Return small integers that any engine's plain integer SUM may add element by element.

        Parameters
        ----------
        dtype : int64 or int32, default int64
            Digits of 32 bits, of which up to 2**31 states may be summed, or of 16, up to 2**15 - 1.
        layout : "narrow" or "wide", optional
            Narrow has room for float16, bfloat16, float32, bool and integers; wide for float64 too.
            By default wide if float64 was put in, whatever its values. Processes must agree.

        Returns
        -------
        ndarray
            44 (narrow) or 214 (wide) digits of int64, 86 or 426 of int32; with named rows a row of
            them for each.

        Raises
        ------
        ArgumentError
            (a ValueError) If the narrow layout has no room for the values.

        Examples
        --------
        >>> import numpy as np, fastreg
        >>> parts = [fastreg.state(np.full(5, 0.1, np.float32)).digits() for _ in range(8)]
        >>> State.from_digits(sum(parts)).n
        40
        """
        kind = _digit_type(dtype)
        if layout is None:
            wide = any(self._states.is_wide(k) for k in range(len(self)))
        else:
            wide = flag(layout, "layout", "narrow", "wide") == "wide"
        rows = [self._states.digits(k, kind is np.int32, wide) for k in range(len(self))]
        return np.stack(rows) if self.names else rows[0]

    @classmethod
    def from_digits(cls, digits: Any, names: Iterable[str] = ()) -> State:
        """Return the state that digits, or a sum of digits, stand for.

        Parameters
        ----------
        digits : array of int64 or int32
            One dimension, or two with a row for each name.
        names : iterable of str, optional
            Names of the rows, which digits do not have.

        Raises
        ------
        ArgumentError
            (a ValueError) If too many states were summed, layouts mixed, or the digits are no sum
            of states.
        DTypeError
            (a TypeError) For an array of another type.
        """
        digits = np.ascontiguousarray(digits)
        _digit_type(digits.dtype)
        names = tuple(names)
        if digits.ndim != 1 + bool(names) or (names and len(digits) != len(names)):
            expected = f"{len(names)} rows of digits" if names else "one row of digits, or names="
            raise ArgumentError(
                message(expected, f"shape {digits.shape}", "pass a name for each row, or none")
            )
        rows = digits if names else [digits]
        _require_distinct(names)
        states = States(len(rows))
        for k, row in enumerate(rows):
            states.read_digits(k, np.ascontiguousarray(row))
        return cls._of(states, names)

    def __repr__(self) -> str:
        """Say in one line what there is."""
        with clean_environment():
            parts = [f"{self.n:,} {plural(self.n, 'element')}"]
            parts += [f"Σ|x| {short_number(float(self.sum_abs()), 6)}"]
            parts += [f"norm {short_number(float(self.norm()), 6)}"]
        if self.names:
            parts.append(f"{len(self):,} {plural(len(self), 'row')}")
        return f"<fastreg.State: {', '.join(parts)}>"


def of_rows(
    hosts: Sequence[HostArray],
    places: Sequence[int],
    names: tuple[str, ...],
    weights: _Weights | None = None,
) -> State:
    """Return the state of arrays, each in the row whose position is given.

    Parameters
    ----------
    hosts : sequence of HostArray
        Floats of one byte included.
    places : sequence of int
    names : tuple of str
        Of the rows; empty for a single one.
    weights : optional
        Of the rows.
    """
    _require_distinct(names)
    states = States(len(names) if names else 1)
    rows: dict[int, list[HostArray]] = {}
    for host, place in zip(hosts, places, strict=True):
        rows.setdefault(place, []).append(host)
    for place, members in rows.items():
        plain = [host for host in members if host.dtype.code >= 0]
        if plain:
            states.fill(Arrays(plain), place)
        for host in members:
            for piece, _ in widened(host) if host.dtype.code < 0 else ():
                states.fill(Arrays([piece]), place)
    return State._of(states, names, weights)


def _unpickled(data: bytes, weights: _Weights | None, wide: tuple[bool, ...]) -> State:
    state = State.from_bytes(data)
    for k, yes in enumerate(wide):
        if yes:  # no elements, but of float64
            state._states.fill(Arrays([np.empty(0)]), k)
    return State._of(state._states, state.names, weights)


def _parsed(data: bytes) -> tuple[list[bytes], tuple[str, ...]]:
    """Take bytes with named rows apart."""
    magic, version, reserved, count = _ROWS.unpack_from(data)
    at, rows, names = _ROWS.size, [], []
    if (magic, version, reserved) != (_MAGIC, _VERSION, 0) or count > len(data):
        raise KeyError
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise KeyError
        names.append(data[at : at + length].decode("utf-8", "surrogatepass"))
        at += length
        nbytes = _NBYTES[_HEAD.unpack_from(data, at)[2]]
        rows.append(data[at : at + nbytes])
        at += nbytes
    if at != len(data) or not rows or len(set(names)) < len(names):
        raise KeyError
    return rows, tuple(names)


def _not_canonical() -> ArgumentError:
    return ArgumentError(
        message(
            "the canonical bytes of a state",
            "bytes that are cut, or of another format",
            "pass bytes(state) as it was",
        )
    )


def _digit_type(dtype: Any) -> type[np.int64] | type[np.int32]:
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    for found in (np.int64, np.int32):
        if kind == np.dtype(found):
            return found
    raise DTypeError(
        message(
            "digits of int64 or int32",
            printable(str(dtype), 80),
            "use numpy.int64, or numpy.int32 where the engine has no more",
        )
    )


def _require_distinct(names: tuple[str, ...]) -> None:
    if len(set(names)) == len(names):
        return
    twice = next(name for k, name in enumerate(names) if name in names[:k])
    raise ArgumentError(
        message(
            "rows of distinct names",
            f"two called '{printable(twice, 80)}'",
            'use rows="one", or rename one of them',
        )
    )


def _rows_text(state: State) -> str:
    if not state.names:
        return "one without a name"
    shown = ", ".join(f"'{printable(name, 40)}'" for name in state.names[:3])
    return f"{len(state):,} ({shown}{', …' * (len(state) > 3)})"


def in_rows(
    hosts: list[HostArray],
    names: list[str],
    weights: tuple[list[float], list[float]] | None,
    rows: str,
) -> State:
    """Return the state of arrays in one row, in one for each pair of weights, or one each.

    Raises
    ------
    ArgumentError
        For rows by weights without weights, and for two arrays of one name.
    """
    flag(rows, "rows", "one", "weights", "arrays")
    pairs = None if weights is None else list(zip(*weights, strict=True))
    if rows == "arrays":
        own = None if weights is None else (tuple(weights[0]), tuple(weights[1]))
        return of_rows(hosts, range(len(hosts)), tuple(names), own)
    if pairs is None:
        if rows == "weights":
            raise ArgumentError(
                message('l1 or l2 for rows="weights"', "neither", 'pass them, or rows="one"')
            )
        return of_rows(hosts, [0] * len(hosts), ())
    distinct = sorted(set(pairs))
    l1, l2 = tuple(w for w, _ in distinct), tuple(w for _, w in distinct)
    if rows == "one":
        return of_rows(hosts, [0] * len(hosts), (), (l1, l2) if len(distinct) == 1 else None)
    titles = tuple(f"l1={w1!r}, l2={w2!r}" for w1, w2 in distinct)
    return of_rows(hosts, [distinct.index(pair) for pair in pairs], titles, (l1, l2))
