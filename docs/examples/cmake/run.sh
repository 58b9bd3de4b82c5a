#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A CMake project, by find_package.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
cmake -S . -B "$OUT/build" -Dfastreg_DIR="$("$PYTHON" -m fastreg config --cmakedir)"
cmake --build "$OUT/build"
cd "$OUT/build"
ctest --output-on-failure
