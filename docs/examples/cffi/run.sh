#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# cffi, by the address of a function.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
"$PYTHON" use.py
