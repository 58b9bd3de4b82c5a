#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Check all proofs, then print what all their theorems assume. Needs coqc and Flocq.
set -e
cd "$(dirname "$0")"
rm -f ./*.vo ./*.vok ./*.vos ./*.glob ./.*.aux
files=$(grep '\.v$' _CoqProject)
for file in $files; do
    coqc -q -Q . Fastreg "$file"
done
{
    for file in $files; do echo "From Fastreg Require ${file%.v}."; done
    for file in $files; do
        sed -n "s/^\(Theorem\|Lemma\) \([A-Za-z0-9_']*\).*/Print Assumptions Fastreg.${file%.v}.\2./p" "$file"
    done
} >Assumptions.v
coqc -q -Q . Fastreg Assumptions.v
rm -f Assumptions.* .Assumptions.aux
