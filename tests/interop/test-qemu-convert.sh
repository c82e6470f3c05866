#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck disable=SC2016 # inner shells expand
# vdisk convert and compare beside qemu-img, which judges every result.
#
#   tests/interop/test-qemu-convert.sh VDISK
#
# Random disks from a seed that is printed: VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS (default 6)
# the count of disks.
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

for program in qemu-img qemu-io; do
    have "$program" || { echo "1..0 # SKIP no $program"; exit 0; }
done
seed=${VDISK_TEST_SEED:-$(date +%s)}
rounds=${VDISK_TEST_ROUNDS:-6}
echo "# seed $seed"
RANDOM=$((seed % 32768))

below() { # a number below $1, up to 2^30
    echo $(((RANDOM * 32768 + RANDOM) % $1))
}

# A raw disk of some MiB, written by qemu-io: data, zeros that are written, holes.
random_disk() {
    local units=$((1 + $(below 48000))) commands=() i offset length
    rm -f "$1"
    truncate -s $((units * 512)) "$1"
    for ((i = $(below 20); i > 0; i--)); do
        offset=$(($(below "$units") * 512))
        length=$((1 + $(below 600)))
        [ $((offset / 512 + length)) -le "$units" ] || length=$((units - offset / 512))
        case $(below 4) in
            0) commands+=(-c "write -z $offset $((length * 512))") ;;
            1) commands+=(-c "write -P 0 $offset $((length * 512))") ;;
            *) commands+=(-c "write -P $((1 + $(below 255))) $offset $((length * 512))") ;;
        esac
    done
    [ ${#commands[@]} -eq 0 ] || qemu-io -f raw "${commands[@]}" "$1" > /dev/null
}

# The space that a file takes, in bytes.
space() {
    sync "$1"
    echo $(($(stat -c %b "$1") * 512))
}

# no_larger OURS PEERS: within the blocks that the file system needs for itself
no_larger() {
    [ "$(space "$1")" -le $(($(space "$2") + 65536)) ]
}

for ((round = 1; round <= rounds; round++)); do
    random_disk a
    workers=$((1 + $(below 16)))
    sparse=$(set -- 0 512 4k 64k 1M; shift "$(below 5)"; echo "$1")
    name="disk $round, -m $workers -S $sparse"
    check "$name: raw" vdisk convert -f raw -O raw -m $workers -S "$sparse" a ours
    check "$name: raw, judged" qemu-img compare -f raw -F raw a ours
    check "$name: raw by qemu-img" qemu-img convert -f raw -O raw -S "$sparse" a peers
    # Longer runs of zeros are counted differently, where they meet the edge of a buffer.
    case $sparse in
        512 | 4k) check "$name: raw, no more space" no_larger ours peers ;;
    esac
    for format in gow1 gow2 gow3; do
        check "$name: $format" vdisk convert -m $workers -S "$sparse" -f raw -O $format a g
        check "$name: $format and back" vdisk convert -m $workers -f $format -O raw g back
        check "$name: $format and back, judged" qemu-img compare -f raw -F raw a back
        [ "$sparse" != 4k ] || check "$name: $format and back, no more space" no_larger back peers
    done
    # What qemu-img made, and what it says about two disks.
    check "$name: compare with qemu-img's" vdisk compare -s -f raw -F raw peers peers
    check "$name: the same" vdisk compare -f raw -F raw a peers
    random_disk b
    qemu-img compare -f raw -F raw a b > said 2>&1 && status=0 || status=$?
    want "$status" "$name: two disks" vdisk compare -f raw -F raw a b
    out_is "$(cat said)"
    check "$name: -n into another disk" cp b c
    if [ "$(stat -c %s a)" -le "$(stat -c %s b)" ]; then
        check "$name: -n" vdisk convert -n -m $workers -f raw -O raw a b
        check "$name: -n by qemu-img" qemu-img convert -n -f raw -O raw a c
        check "$name: -n, judged" cmp b c
    fi
done

# --- several sources, as qemu-img does
random_disk a
random_disk b
check 'several sources' vdisk convert -f raw -O raw a b a ours
check 'several sources by qemu-img' qemu-img convert -f raw -O raw a b a peers
check 'several sources, judged' cmp ours peers

# --- locks that QEMU takes
qemu-img create -q -f raw busy 1M
mkfifo hold
qemu-io -f raw busy < hold > held 2>&1 &
holder=$!
exec 8> hold
# It answers when it has the locks; who tried them meanwhile could be the one who keeps it out.
echo length >&8
for _ in $(seq 300); do
    ! grep -q MiB held || break
    sleep 0.1
done
want 2 'compare an image that QEMU writes to' vdisk compare -f raw -F raw busy a
err_has 'lock'
want 1 'convert it' vdisk convert -f raw busy t
want 0 'convert it with -U' vdisk convert -U -f raw busy t
want 1 'convert over it' vdisk convert -f raw a busy
err_has 'lock'
exec 8>&-
wait "$holder"

# --- blocks that the file system shares
mount_xfs() {
    truncate -s 320M fs && mkfs.xfs -q -m reflink=1 fs && mkdir -p mnt && mount -o loop fs mnt
}
if [ "$(id -u)" -eq 0 ] && have mkfs.xfs && mount_xfs > "$work/log" 2>&1; then
    trap 'umount -l "$work/files/mnt"; rm -rf "$work"' EXIT
    head -c 64M /dev/urandom > mnt/a
    truncate -s 1G mnt/a
    used=$(df --output=used -B1 mnt | tail -n 1)
    want 0 'raw to raw where blocks can be shared' vdisk convert --output=json -f raw mnt/a mnt/b
    out_json 'd["shared-bytes"] == d["data-bytes"] == 64 << 20'
    sync -f mnt
    check 'no space is taken' test $(($(df --output=used -B1 mnt | tail -n 1) - used)) -lt 8388608
    check 'judged' qemu-img compare -f raw -F raw mnt/a mnt/b
    want 0 'gow3, where they can not' vdisk convert -f raw -O gow3 mnt/a mnt/g
    want 0 'the same' vdisk compare -f raw -F gow3 mnt/a mnt/g
    for _ in 1 2 3 4 5; do
        ! umount mnt 2> "$work/log" || break
        sleep 0.2 # busy for a moment
    done
    trap 'rm -rf "$work"' EXIT
else
    skip 'shared blocks' 'no XFS can be mounted'
fi

# --- a pipe: tables first, then data, each in one pass
random_disk a
for options in cluster_size=64k cluster_size=512,refcount_bits=1 compat=0.10,cluster_size=2M; do
    stream() { vdisk convert -f raw -O qcow2 -o "$options" a - | cat > stream.qcow2; }
    check "qcow2 through a pipe, $options" stream
    check 'QEMU finds nothing wrong' qemu-img check -q -f qcow2 stream.qcow2
    check 'QEMU reads the same' qemu-img compare -q -f raw -F qcow2 a stream.qcow2
done

# --- a block device, which is written in place and need not read as zero
if [ "$(id -u)" -eq 0 ] && head -c 32M /dev/urandom > disk &&
    device=$(losetup -f --show disk 2> "$work/log"); then
    trap 'losetup -d "$device"; rm -rf "$work"' EXIT
    random_disk a
    want 0 'to a block device' vdisk convert -f raw -O raw a "$device"
    check 'judged' cmp -n "$(stat -c %s a)" a "$device"
    want 0 'gow1 on a block device' bash -c 'head -c 8M /dev/urandom > s &&
        "$0" convert -f raw -O gow1 s "$1" && "$0" compare -f raw -F gow1 s "$1"' "$C" "$device"
    want 1 'a device that is too small' bash -c 'truncate -s 33M s && "$0" convert s "$1"' \
        "$C" "$device"
    want 1 'onto itself' vdisk convert -f raw "$device" "$device"
    err_has 'same file'
    losetup -d "$device"
    trap 'rm -rf "$work"' EXIT
else
    skip 'block devices' 'no loop device'
fi

finish
