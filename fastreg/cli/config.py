# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fastreg config``: what a build needs to know, one answer a line."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import fastreg
from fastreg import embedding

__all__ = ["add_arguments", "run"]

_ANSWERS: dict[str, tuple[str, Callable[[], str]]] = {
    "includes": ("-I and the folder of the headers", lambda: f"-I{embedding.get_include()}"),
    "sources": ("the .c files to compile", lambda: " ".join(embedding.get_sources())),
    "cmakedir": ("the folder of fastreg-config.cmake", embedding.get_cmake_dir),
    "pkgconfigdir": ("the folder of fastreg.pc", embedding.get_pkgconfig_dir),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser a flag for each answer."""
    for name, (text, _) in _ANSWERS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"print {text}")
    parser.add_argument("--version", action="store_true", help="print the version")


def run(arguments: argparse.Namespace) -> list[str]:
    """Return what was asked for, or everything if nothing was."""
    asked = [name for name in _ANSWERS if getattr(arguments, name)]
    if not asked and not arguments.version:
        return [f"{name}: {answer()}" for name, (_, answer) in _ANSWERS.items()]
    lines = [_ANSWERS[name][1]() for name in asked]
    return [*lines, fastreg.__version__] if arguments.version else lines
