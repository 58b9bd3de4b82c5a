# SPDX-License-Identifier: BSD-3-Clause
"""Write the C library as a few files for one folder, which any compiler takes without flags.

    python tools/amalgamate.py FOLDER

fastreg.h, fastreg.c, and one file for each instruction set beyond the baseline, for each needs its
own pragma. cgo, node-gyp and the like compile whatever lies in their folder.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"

INCLUDE = re.compile(r'^#\s*include\s+"([^"]+)"', re.MULTILINE)
VECTOR = re.compile(r'^(#\s*define)\s+FR_VECTOR\s+"vec_(\w+)\.h"')
GUARD = re.compile(r"^#ifndef (FR_\w+_H|FASTREG_H)$", re.MULTILINE)

# What host.c asks of the system, before the first header of the system.
HEAD = """\
/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fastreg {version}, made by tools/amalgamate.py from {units}. Edit those.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#    define _GNU_SOURCE
#endif
/* Of headers, which are no headers here. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-const-variable"
"""


class Unit:
    """One file to be written: sources with what they include, each guarded header once."""

    def __init__(self) -> None:
        self.seen: set[Path] = set()
        self.vectors: list[str] = []

    def text(self, path: Path) -> str:
        """Return the file with its includes in place."""
        words = path.read_text(encoding="utf-8")
        if GUARD.search(words):
            if path in self.seen:
                return ""
            self.seen.add(path)
        if path.name == "fastreg.h":  # stays a file of its own
            return '#include "fastreg.h"\n'
        words = words.replace("/* SPDX-License-Identifier: BSD-3-Clause */\n", "")
        words = words.replace("/* SPDX-License-Identifier: BSD-3-Clause\n *\n", "/*\n")
        return "".join(self.line(path, line) for line in words.splitlines(keepends=True))

    def line(self, path: Path, line: str) -> str:
        if found := INCLUDE.match(line):
            return self.text((path.parent / found[1]).resolve())
        if found := VECTOR.match(line):
            self.vectors.append(found[2])
            return f"{found[1]} FR_VECTOR_{found[2]}\n"
        if re.match(r"#\s*include FR_VECTOR", line):
            return self.vocabularies(path)
        return line

    def vocabularies(self, path: Path) -> str:
        """Return each vocabulary that the unit may name, under the condition that it does."""
        parts = []
        for name in self.vectors:
            parts.append(f"{'#elif' if parts else '#if'} defined(FR_VECTOR_{name})\n")
            parts.append(self.text(path.parent / f"vec_{name}.h"))
        return "".join([*parts, "#endif\n"])


def version() -> str:
    return re.findall(r'FASTREG_VERSION "([^"]+)"', (CSRC / "fastreg.h").read_text())[0]


# What a unit keeps to itself: functions, objects, types and constants of its file scope.
OWN = (
    re.compile(r"^(?:_Thread_local )?static [^;=({]*?\b(\w+)(?:\(|\[| =|;)", re.MULTILINE),
    re.compile(r"^\} (\w+);", re.MULTILINE),
    re.compile(r"^enum \{(.*?)\};", re.MULTILINE | re.DOTALL),
)


def own_names(path: Path) -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    functions, types, enums = (pattern.findall(text) for pattern in OWN)
    constants = [re.match(r"\s*(\w+)", part) for body in enums for part in body.split(",")]
    return {*functions, *types, *(found[1] for found in constants if found)}


def written(units: list[Path]) -> str:
    """Return the units as one file; where two have a name of their own in common, it is parted."""
    unit = Unit()
    names = " ".join(str(p.relative_to(ROOT)) for p in units)
    parts = [HEAD.format(version=version(), units=names)]
    for path in units:
        others = set().union(*(own_names(p) for p in units if p != path))
        shared = sorted(own_names(path) & others)
        parts += [f"#define {name} {name}_{path.stem}\n" for name in shared]
        parts += [unit.text(path), *(f"#undef {name}\n" for name in shared)]
    return "".join(parts)


def amalgamate(folder: Path) -> list[Path]:
    """Write the files into the folder; return the sources among them."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CSRC / "fastreg.h", folder)
    made = {"fastreg.c": [*sorted(CSRC.glob("*.c")), CSRC / "isa" / "baseline.c"]}
    for path in sorted((CSRC / "isa").glob("*.c")):
        if path.stem != "baseline":
            made[f"fastreg_{path.name}"] = [path]
    for name, units in made.items():
        (folder / name).write_text(written(units), encoding="utf-8")
    return [folder / name for name in made]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    amalgamate(Path(sys.argv[1]))
