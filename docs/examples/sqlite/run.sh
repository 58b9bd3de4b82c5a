#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# An aggregate for SQLite: one result for all orders of the rows.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
cc -O2 -shared -fPIC $("$PYTHON" -m fastreg config --includes --sources) sum_squares.c \
    -lm -lpthread -o "$OUT/sumsquares.so"
said=$(sqlite3 -cmd ".load $OUT/sumsquares" ":memory:" < use.sql)
echo "$said"
test "$said" = "1|1"
