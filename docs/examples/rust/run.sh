#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A Rust program, with the flat sources compiled in.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
for source in $("$PYTHON" -m fastreg config --sources); do
    cc -O2 $("$PYTHON" -m fastreg config --includes) -c "$source" -o "$OUT/$(basename "$source" .c).o"
done
ar rcs "$OUT/libfastreg.a" "$OUT"/*.o
rustc -O main.rs -L native="$OUT" -l static=fastreg -o "$OUT/penalty"
"$OUT/penalty"
