#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A Meson project, by its dependency().
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
export PKG_CONFIG_PATH=$("$PYTHON" -m fastreg config --pkgconfigdir)
meson setup "$OUT/build" .
meson test -C "$OUT/build"
