#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# An AdamW step: norm, finiteness and decay from fastreg.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
export PKG_CONFIG_PATH=$("$PYTHON" -m fastreg config --pkgconfigdir)
cc -O2 step.c $(pkg-config --cflags --libs fastreg) -o "$OUT/step"
"$OUT/step"
