# SPDX-License-Identifier: BSD-3-Clause
"""Whether this folder holds fastreg-kernels, built, and nothing else; else how that is said.

Another distribution, named fastreg, has the import name of ours: pip installs one over the other
without a word.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn

from fastreg.errors import message

_HERE = os.path.dirname(__file__)
# The modules of the other distribution that this package has no namesake of.
_FOREIGN = ("formula.py", "general.py", "linear.py", "summary.py", "trees.py")


def no_kernels() -> str:
    """Return why the compiled kernels are not there, and what to do."""
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    if not os.path.isdir(_HERE):
        received = f"a package inside the archive {os.path.dirname(_HERE)}"
        action = "install it; compiled modules cannot be loaded from an archive"
    elif built := sorted(f for f in os.listdir(_HERE) if f.startswith("_kernels.cpython-")):
        received = f"{built[0]} for {version}"
        action = "build it for this interpreter: python -m pip install -e ."
    else:
        received = f"the sources in {_HERE}, not built for {version}"
        action = (
            "build them: python -m pip install -e . in their folder, or leave it if fastreg is "
            "installed elsewhere"
        )
    return message("fastreg's compiled module _kernels", received, action)


def give_up(error: Exception) -> NoReturn:
    """Raise an error of the import, which the command line has no chance to catch: it says so.

    It is one line of standard error and the exit status 2 there, as every other error is.
    """
    if not _is_command_line():
        raise error from None
    if sys.stderr is not None:
        print(f"fastreg: {error}", file=sys.stderr)
    raise SystemExit(2)


def _is_command_line() -> bool:
    """Whether Python was started to run ``fastreg`` or ``python -m fastreg``."""
    words: list[str] = getattr(sys, "argv", None) or [""]
    if words[0] != "-m":
        return os.path.basename(words[0]) == "fastreg"
    # As long as the module is being looked for; its name stands before its arguments.
    name = "".join(sys.orig_argv[-len(words) :][:1])
    return name == "fastreg" or (name.startswith("-") and name.endswith("mfastreg"))


def foreign_files() -> list[str]:
    """Return what another distribution with this import name has left in the package's folder."""
    return [name for name in _FOREIGN if os.path.exists(os.path.join(_HERE, name))]


def warn_of_foreign_files() -> None:
    """Warn, once per process, of a folder that two distributions share."""
    if found := foreign_files():
        warnings.warn(
            message(
                f"only fastreg-kernels in {_HERE}",
                f"files of another distribution as well ({', '.join(found)})",
                REPAIR,
            ),
            RuntimeWarning,
            stacklevel=3,
        )


REPAIR = (
    "run: pip uninstall fastreg; pip install --force-reinstall fastreg-kernels "
    "(one environment can hold only one of the two)"
)
