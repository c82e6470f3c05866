#!/bin/bash
# SPDX-License-Identifier: MIT
# Images that are block devices: a loop device, for which this test has to be root.
#
#   tests/interop/test-block.sh VDISK
set -euo pipefail
vdisk=$(realpath "$1")

work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-block.XXXXXX")
devices=()
mounted=
# shellcheck disable=SC2317 # the trap calls it
clean_up()
{
    [ -z "$mounted" ] || umount "$mounted" || true
    for device in "${devices[@]}"; do
        losetup -d "$device" || true
    done
    rm -rf "$work"
}
trap clean_up EXIT
cd "$work"

truncate -s 8M disk
if [ "$(id -u)" != 0 ] || ! devices=("$(losetup -f --show disk 2> /dev/null)"); then
    devices=()
    echo '1..0 # SKIP no right to make a loop device'
    exit 0
fi
device=${devices[0]}

number=0
failed=0

# ends STATUS RE NAME COMMAND...: the command ends with it, and a line that it prints matches
ends()
{
    local wanted=$1 re=$2 name=$3 status=0
    shift 3
    number=$((number + 1))
    "$@" > out 2>&1 || status=$?
    if [ "$status" -eq "$wanted" ] && grep -Eq "$re" out; then
        echo "ok $number - $name"
    else
        failed=1
        echo "not ok $number - $name (status $status)"
        sed 's/^/# /' out
    fi
}

# allocated MAX NAME: no more than so many KiB of the file behind the device are in use
allocated()
{
    number=$((number + 1))
    local kib=$(($(stat -c %b disk) / 2))
    if [ "$kib" -le "$1" ]; then
        echo "ok $number - $2"
    else
        failed=1
        echo "not ok $number - $2 ($kib KiB)"
    fi
}

ends 0 '"virtual-size": 8388608' 'its size is that of the device' \
    "$vdisk" info -f raw --output=json "$device"
for cache in writeback none writethrough; do
    ends 0 'wrote 1234' "$cache: any bytes are written" \
        "$vdisk" io -f raw -t "$cache" -c 'write -P 0x31 1000000 1234' -c flush "$device"
    ends 0 'read 1234' "$cache: and read" \
        "$vdisk" io -r -f raw -t "$cache" -c 'read -P 0x31 1000000 1234' "$device"
    ends 0 'wrote 1048576' "$cache: zeros" \
        "$vdisk" io -f raw -t "$cache" -c 'write -P 0x32 0 4M' -c 'write -z 1M 1M' "$device"
    ends 0 'read 1048576' "$cache: read as zeros" \
        "$vdisk" io -r -f raw -t "$cache" -c 'read -P 0 1M 1M' "$device"
    ends 0 'read 1048576' "$cache: and what is beside them is as it was" \
        "$vdisk" io -r -f raw -t "$cache" -c 'read -P 0x32 0 1M' -c 'read -P 0x32 2M 1M' "$device"
    ends 0 'wrote 1000' "$cache: zeros that are no whole blocks" \
        "$vdisk" io -f raw -t "$cache" -c 'write -z 100 1000' -c 'read -P 0 100 1000' \
        -c 'read -P 0x32 1100 1000' "$device"
    ends 0 'discard' "$cache: discard" \
        "$vdisk" io -f raw -t "$cache" -c 'discard 0 8M' "$device"
    allocated 64 "$cache: what was discarded is given back"
done
ends 1 'resize|fixed|device' 'it can not grow' "$vdisk" resize -f raw "$device" 16M
ends 0 . 'an image can be made in it' "$vdisk" create -f raw "$device" 8M
ends 1 'the device has 8388608' 'not one that is too large' "$vdisk" create -f raw "$device" 9M

if command -v mkfs.ext4 > /dev/null; then
    mkfs.ext4 -q "$device"
    mkdir mnt
    if mount "$device" mnt; then
        mounted=$PWD/mnt
        ends 1 'is it mounted' 'mounted: not for writing' \
            "$vdisk" io -f raw -c 'write 0 512' "$device"
        ends 0 'virtual' 'mounted: for reading' "$vdisk" info -f raw "$device"
    fi
fi

echo "1..$number"
exit "$failed"
