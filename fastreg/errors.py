# SPDX-License-Identifier: BSD-3-Clause
"""Every exception that fastreg raises on its own; each is also the builtin it means."""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DTypeError",
    "EnvironmentSettingError",
    "FastregError",
    "LayoutError",
    "NonFiniteError",
    "NotAnArrayError",
    "StaleError",
    "UnknownNameError",
]


def printable(text: str, limit: int = 0) -> str:
    r"""Escape what could steer a terminal or hide: control, bidirectional and unpaired characters.

    Parameters
    ----------
    text : str
        Anything, such as a tensor name from an untrusted file.
    limit : int, default 0
        How many characters of a longer text are shown, its middle replaced by ``…``; 0 for all.

    Returns
    -------
    str
        Only printable characters; the others as ``\x1b`` or ``\u202e``.
    """
    if limit and len(text) > limit:
        head = limit // 2
        text = f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


class FastregError(Exception):
    """Base of all of fastreg's own exceptions; their texts quote nothing raw."""

    def __str__(self) -> str:
        return printable(Exception.__str__(self))  # not that of KeyError, which quotes


# TensorFlow raises an error of traced code again, with its place in that code added. It keeps the
# class of those whose constructor is this very one, and makes a StagingError of all others.
FastregError.__init__ = Exception.__init__  # type: ignore[method-assign]


class DTypeError(FastregError, TypeError):
    """An element type or an object that no kernel accepts."""


class NotAnArrayError(DTypeError, AttributeError):
    """An object that is no array at all; Keras' AttributeError, for it looks for ``x.dtype``."""


class ArgumentError(FastregError, ValueError):
    """A weight, thread count or option outside its range."""


class UnknownNameError(ArgumentError, KeyError):
    """A name that nothing has; also a KeyError, which mappings raise."""


class LayoutError(FastregError, ValueError):
    """A shape, a writability or an overlap that a call cannot work with."""


class NonFiniteError(FastregError, ValueError):
    """NaN or infinity where a call needs finite numbers."""


class StaleError(FastregError, RuntimeError):
    """A plan whose arrays were replaced, resized or moved since it was made."""


class EnvironmentSettingError(FastregError, RuntimeError):
    """A ``FASTREG_*`` environment variable that names something impossible."""


class CheckpointError(FastregError, ValueError):
    """A checkpoint file that is truncated, inconsistent or of an unknown kind."""


def message(expected: str, received: str, action: str) -> str:
    """Join the three parts of every message: what was expected, what came, what to do."""
    return printable(f"expected {expected}; received {received}; {action}")
