#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A C program, by pkg-config.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
export PKG_CONFIG_PATH=$("$PYTHON" -m fastreg config --pkgconfigdir)
cc -O2 penalty.c $(pkg-config --cflags --libs fastreg) -o "$OUT/penalty"
"$OUT/penalty"
