#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A C++17 program with threads of its own.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
export PKG_CONFIG_PATH=$("$PYTHON" -m fastreg config --pkgconfigdir)
flags="-std=c++17 -O2 -Wall -Wextra -Wold-style-cast -Wconversion -Werror"
c++ $flags penalty.cpp $(pkg-config --cflags --libs fastreg) -o "$OUT/penalty"
"$OUT/penalty"
