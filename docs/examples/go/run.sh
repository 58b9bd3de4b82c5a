#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A Go program: cgo compiles the flat sources that lie beside it.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
cp main.go go.mod $("$PYTHON" -m fastreg config --sources) "$OUT"
cp "$("$PYTHON" -c 'import fastreg; print(fastreg.get_include())')/fastreg.h" "$OUT"
cd "$OUT"
go build -o penalty .
./penalty
