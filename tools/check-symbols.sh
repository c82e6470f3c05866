#!/bin/bash
# SPDX-License-Identifier: MIT
# The library exports what vdisk.h declares and nothing else, its archive takes no name outside
# vdisk_ and vd_, and it has no state: no byte of .data or .bss.
#
#   tools/check-symbols.sh SOURCE-ROOT LIBVDISK.SO LIBVDISK.A
set -euo pipefail
root=$1 shared=$2 archive=$3
status=0

declared=$(python3 "$root/tools/check-headers.py" --list "$root/include/vdisk.h" | sort)
exported=$(nm -D --defined-only "$shared" |
    awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)
if [ "$declared" != "$exported" ]; then
    echo "declared in vdisk.h (<) and exported by the library (>) differ:"
    diff <(echo "$declared") <(echo "$exported") || true
    status=1
fi

stray=$(nm -g --defined-only "$archive" | awk 'NF == 3 && $3 !~ /^(vdisk|vd)_/ { print $3 }')
if [ -n "$stray" ]; then
    echo "global symbols of the archive without vdisk_ or vd_ in front:"
    echo "$stray"
    status=1
fi

# Constant tables of pointers are in .data.rel.ro, which is read-only once it is relocated.
state=$(size -A "$archive" |
    awk '/:$/ { object = $1 }
         $1 ~ /^\.(data|bss|tdata|tbss)/ && $1 !~ /^\.data\.rel\.ro/ && $2 > 0 {
             print object, $1, $2
         }')
if [ -n "$state" ]; then
    echo "mutable globals in the library (object, section, bytes):"
    echo "$state"
    status=1
fi
exit "$status"
