#!/bin/bash
# SPDX-License-Identifier: MIT
# The storage contract on other file systems than the one under $TMPDIR: tmpfs, and for root XFS
# (with 512 and with 4096 byte sectors, so other units for direct I/O) and btrfs, on loop devices.
# Those that this machine does not have are named in the output, and left out.
#
#   tests/interop/test-filesystems.sh TEST-STORAGE VDISK
#
# VD_TEST_OPS, VD_TEST_SEED: as in tests/contract/storage.h.
set -euo pipefail
suite=$(realpath "$1")
vdisk=$(realpath "$2")

work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-fs.XXXXXX")
devices=()
mounts=()
# shellcheck disable=SC2317 # the trap calls it
clean_up()
{
    # Right after use a mount may be busy for a moment.
    for mount in "${mounts[@]}"; do
        for _ in {1..20}; do
            ! umount "$mount" 2> /dev/null || break
            sleep 0.1
        done
    done
    for device in "${devices[@]}"; do
        losetup -d "$device" || true
    done
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
cd "$work"

number=0
failed=0
report()
{
    number=$((number + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $number - $2"
    else
        failed=1
        echo "not ok $number - $2"
        sed 's/^/# /' out
    fi
}

# try NAME FOLDER: the whole suite there
try()
{
    local status=0
    TMPDIR=$2 "$suite" > out 2>&1 || status=$?
    report "$status" "$1"
}

# mounted NAME SECTOR-BYTES MKFS...: makes a file system on a loop device, mounts it at ./NAME
mounted()
{
    local name=$1 sector=$2 device
    shift 2
    truncate -s 600M "$name.disk"
    command -v "$1" > /dev/null && device=$(losetup -f --show --sector-size "$sector" "$name.disk") ||
        return 1
    devices+=("$device")
    mkdir "$name"
    "$@" "$device" > out 2>&1 && mount "$device" "$name" || return 1
    mounts+=("$PWD/$name")
}

# shares FOLDER: a converted raw image shares the blocks of its source
shares()
{
    local before after status=0
    dd if=/dev/urandom of="$1/a.raw" bs=1M count=64 status=none
    sync -f "$1"
    before=$(stat -f -c %a "$1")
    "$vdisk" convert -f raw -O raw "$1/a.raw" "$1/b.raw" > out 2>&1 && cmp "$1/a.raw" "$1/b.raw" ||
        status=1
    sync -f "$1"
    after=$(stat -f -c %a "$1")
    echo "$((before - after)) blocks of $(stat -f -c %S "$1") bytes were taken" >> out
    [ $(((before - after) * $(stat -f -c %S "$1"))) -lt $((16 << 20)) ] || status=1
    report "$status" "$2"
}

if [ -d /dev/shm ] && [ -w /dev/shm ]; then
    try tmpfs /dev/shm
else
    echo '# no tmpfs'
fi
if [ "$(id -u)" != 0 ]; then
    echo '# not root: no XFS, no btrfs'
else
    if mounted xfs 512 mkfs.xfs -q; then
        try XFS "$work/xfs"
        shares "$work/xfs" 'convert on XFS shares blocks'
    else
        echo '# no XFS'
    fi
    if mounted xfs4k 4096 mkfs.xfs -q -s size=4096; then
        try 'XFS on 4 KiB sectors' "$work/xfs4k"
    else
        echo '# no XFS on 4 KiB sectors'
    fi
    if mounted btrfs 512 mkfs.btrfs -q; then
        try btrfs "$work/btrfs"
        shares "$work/btrfs" 'convert on btrfs shares blocks'
    else
        echo '# no btrfs'
    fi
fi

[ "$number" -gt 0 ] && echo "1..$number" || echo "1..0 # SKIP nothing to run on"
exit "$failed"
