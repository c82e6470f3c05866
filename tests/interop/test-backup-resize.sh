#!/bin/bash
# SPDX-License-Identifier: MIT
# Disks that qemu-img makes shorter and longer again, which its bitmaps do not record.
#
#   tests/interop/test-backup-resize.sh VDISK
set -euo pipefail

for program in qemu-img qemu-io; do
    command -v "$program" >/dev/null || { echo "1..0 # SKIP no $program"; exit 0; }
done
vdisk=$(realpath "$1")
work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-backup-resize.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
count=0
failures=0

report() { # NAME STATUS
    count=$((count + 1))
    if [ "$2" = 0 ]; then
        echo "ok $count - $1"
    else
        echo "not ok $count - $1"
        failures=$((failures + 1))
    fi
}

# Is what can be restored what the source shows?
check() { # NAME
    local status=0
    "$vdisk" restore -q -O raw repo copy >log 2>&1 || status=$?
    [ "$status" != 0 ] || qemu-img compare -q -f raw -F qcow2 copy disk >log 2>&1 || status=$?
    [ "$status" = 0 ] || sed 's/^/# /' log
    report "$1" "$status"
    rm -f copy
}

make_disk() { # BASE CLUSTER
    rm -rf repo disk base
    if [ "$1" = yes ]; then
        qemu-img create -q -f raw base 4M
        qemu-io -f raw -c 'write -P 9 0 4M' base >log
        qemu-img create -q -f qcow2 -o "cluster_size=$2" -b base -F raw disk
    else
        qemu-img create -q -f qcow2 -o "cluster_size=$2" disk 4M
    fi
    qemu-io -f qcow2 -c 'write -P 1 0 4M' disk >log
    "$vdisk" backup -q disk repo
}

for base in no yes; do
    for cluster in 64k 1M; do
        for end in 1081856 1114112 3145728 512; do
            for between in nothing backup write; do
                make_disk "$base" "$cluster"
                qemu-img resize -q --shrink -f qcow2 disk "$end"
                [ "$between" != backup ] || "$vdisk" backup -q disk repo
                qemu-img resize -q -f qcow2 disk 4M
                [ "$between" != write ] ||
                    qemu-io -f qcow2 -c 'write -P 5 2M 4k' -c 'write -P 5 1114112 4k' disk >log
                "$vdisk" backup -q disk repo
                check "clusters of $cluster, base: $base, ended at $end, in between: $between"
            done
        done
    done
done

echo "1..$count"
[ "$failures" = 0 ]
