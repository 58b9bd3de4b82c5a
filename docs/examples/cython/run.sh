#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A Cython module: rows in parallel, without the lock.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
cp rows.pyx setup.py use.py "$OUT"
cd "$OUT"
"$PYTHON" setup.py -q build_ext --inplace
"$PYTHON" use.py
