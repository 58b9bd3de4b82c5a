#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# WebAssembly, compiled by zig (PyPI: ziglang) and run by wasmtime (PyPI).
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
"$PYTHON" -m ziglang cc -target wasm32-wasi -O2 \
    $("$PYTHON" -m fastreg config --includes --sources) penalty.c -o "$OUT/penalty.wasm"
"$PYTHON" run.py "$OUT/penalty.wasm"
