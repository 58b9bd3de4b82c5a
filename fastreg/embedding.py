# SPDX-License-Identifier: BSD-3-Clause
"""What other programs need to carry the kernels inside: headers, sources, libraries, addresses."""

from __future__ import annotations

import os

from fastreg import _kernels
from fastreg.errors import ArgumentError, message

__all__ = [
    "get_cmake_dir",
    "get_function_address",
    "get_include",
    "get_pkgconfig_dir",
    "get_sources",
]

_HERE = os.path.dirname(os.path.abspath(__file__))


def get_include() -> str:
    """Return the folder of fastreg.h, fastreg_capi.h and fastreg_dlpack.h.

    Returns
    -------
    str
        An absolute path, for the compiler's ``-I``.

    Examples
    --------
    >>> import fastreg, os
    >>> os.path.exists(os.path.join(fastreg.get_include(), "fastreg.h"))
    True
    """
    return os.path.join(_HERE, "include")


def get_sources() -> list[str]:
    """Return the C library as source files, to be compiled into something else.

    Returns
    -------
    list of str
        Absolute paths of the .c files; compile all of them. They need no flags but get_include().

    Notes
    -----
    ``-O2`` or ``-O3`` gives the speed, ``-fopenmp`` the threads. Copies in several modules of one
    process do not meet.

    Examples
    --------
    >>> import fastreg
    >>> len(fastreg.get_sources())
    3
    """
    folder = os.path.join(_HERE, "src")
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name[-2:] == ".c")


def get_cmake_dir() -> str:
    """Return the folder of fastreg-config.cmake, whose target is ``fastreg::fastreg``.

    Returns
    -------
    str
        An absolute path, for ``cmake -Dfastreg_DIR=...``.

    Examples
    --------
    >>> import fastreg, os
    >>> os.listdir(fastreg.get_cmake_dir()) != []
    True
    """
    return os.path.join(_HERE, "cmake")


def get_pkgconfig_dir() -> str:
    """Return the folder of fastreg.pc.

    Returns
    -------
    str
        An absolute path, for ``PKG_CONFIG_PATH``.

    Examples
    --------
    >>> import fastreg, os
    >>> os.listdir(fastreg.get_pkgconfig_dir())
    ['fastreg.pc']
    """
    return os.path.join(_HERE, "pkgconfig")


def get_function_address(name: str) -> int:
    """Return the address of a C function, for numba, cffi, ctypes and llvmlite.

    Parameters
    ----------
    name : str
        As in fastreg.h, with or without ``fastreg_``: ``"value"``.

    Returns
    -------
    int
        An address that is good for the life of the process. The functions need no lock.

    Raises
    ------
    ArgumentError
        If there is no such function.

    Examples
    --------
    >>> import ctypes, fastreg
    >>> level = ctypes.CFUNCTYPE(ctypes.c_char_p)(fastreg.get_function_address("level"))
    >>> level().decode() == fastreg.get_isa()
    True
    """
    known = _kernels.addresses()
    short = name.removeprefix("fastreg_") if isinstance(name, str) else name
    if not isinstance(name, str) or short not in known:
        raise ArgumentError(
            message(
                f"one of {', '.join(sorted(known))}", repr(name), "name a function of fastreg.h"
            )
        )
    return known[short]
