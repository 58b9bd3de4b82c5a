#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A handler for XLA's FFI in C++, for JAX.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
c++ -std=c++17 -O2 -shared -fPIC -I"$("$PYTHON" -c 'import jax; print(jax.ffi.include_dir())')" \
    $("$PYTHON" -m fastreg config --includes) penalty.cc -o "$OUT/penalty.so" \
    -L"$("$PYTHON" -c 'import fastreg, os; print(os.path.dirname(fastreg.__file__))')/lib" \
    -lfastreg -fopenmp
"$PYTHON" use.py "$OUT/penalty.so"
