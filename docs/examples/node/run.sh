#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# A module for Node, without node-gyp.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3} OUT=${OUT:-/tmp}
include=${NODE_INCLUDE:-/usr/include/node}
cc -O2 -shared -fPIC -I"$include" $("$PYTHON" -m fastreg config --includes --sources) penalty.c \
    -lm -lpthread -o "$OUT/penalty.node"
node use.cjs "$OUT/penalty.node"
