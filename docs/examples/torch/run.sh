#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A C++ extension of PyTorch with a gradient.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
OUT=$OUT "$PYTHON" use.py
