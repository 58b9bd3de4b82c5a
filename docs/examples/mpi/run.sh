#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# MPI: one value for 1, 2 and 3 ranks.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
mpicc -O2 $("$PYTHON" -m fastreg config --includes --sources) sum.c -lm -lpthread -o "$OUT/sum"
for ranks in 1 2 3; do
    mpirun --allow-run-as-root --oversubscribe -n $ranks "$OUT/sum"
done | tee "$OUT/said"
test "$(sort -u "$OUT/said" | wc -l)" = 1
