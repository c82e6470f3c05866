#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck disable=SC2016 # inner shells expand
# Images as distributions publish them, made by qemu-img: read by vdisk on the first day, and made
# by vdisk for everybody else.
#
#   tests/interop/test-qcow2-distro.sh VDISK
#
# A disk with a partition table, a boot partition and an ext4 file system with real files in it; as
# Debian and Rocky make it (version 3, zlib), as Ubuntu did for long (compat=0.10, zlib), as Fedora
# does (zstd), as CentOS did (not compressed), with preallocated metadata, with subclusters.
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

PATH=$PATH:/usr/sbin:/sbin
for program in qemu-img qemu-io mke2fs e2fsck debugfs sfdisk python3; do
    have "$program" || { echo "1..0 # SKIP no $program"; exit 0; }
done

# --- the disk
root_start=34  # MiB
root_mib=96
mkdir -p tree/etc tree/boot
cp -r "$(python3 -c 'import email; print(email.__path__[0])')" tree/email
cp "$(command -v bash)" tree/boot/vmlinuz
head -c 5000000 /dev/urandom > tree/boot/initrd
head -c 3000000 /dev/zero > tree/etc/zeros
echo 'vdisk distribution' > tree/etc/os-release
truncate -s 160M disk.raw
sfdisk -q disk.raw << 'TABLE'
label: gpt
start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649
start=2MiB, size=32MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
start=34MiB, size=96MiB, type=L
TABLE
mke2fs -q -t ext4 -L root -d tree -E "offset=$((root_start << 20))" disk.raw "${root_mib}m" \
    2> "$work/log"
find tree -type f -exec sha256sum {} + | sort > "$work/sums"

# The root file system of a raw disk is sound, and holds every file as it was.
root_is_whole() {
    rm -rf root.ext4 found
    dd if="$1" of=root.ext4 bs=1M skip=$root_start count=$root_mib conv=sparse status=none
    e2fsck -fn root.ext4 > "$work/log" 2>&1 || return 1
    mkdir found
    debugfs -R "rdump /email /etc /boot found" root.ext4 2> /dev/null
    find found -type f -exec sha256sum {} + | sed 's, found/, tree/,' | sort > "$work/found"
    cmp "$work/sums" "$work/found"
}
check 'the disk to begin with' root_is_whole disk.raw

# published NAME OPTIONS...: qemu-img convert makes NAME.qcow2 of the disk
published() {
    local name=$1
    shift
    qemu-img convert -f raw -O qcow2 "$@" disk.raw "$name.qcow2"
}
published debian -c
published ubuntu -c -o compat=0.10
published fedora -c -o compression_type=zstd
published centos -o compat=1.1
published centos5 -o compat=0.10
published kiwi -o preallocation=metadata
published alpine -c -o cluster_size=4096
published windows -c -o cluster_size=2M,extended_l2=on
published nocloud -o cluster_size=64k,extended_l2=on,lazy_refcounts=on

same_facts() { # what both tell of an image
    qemu-img "$1" --output=json "$2" > "$work/theirs"
    vdisk "$1" --output=json "$2" > "$work/ours"
    python3 - "$work/theirs" "$work/ours" << 'PYTHON'
import json, sys
theirs, ours = (json.load(open(path)) for path in sys.argv[1:])
lacks = {key: value for key, value in theirs.items() if ours.get(key) != value}
print(lacks, ours) if lacks else None
sys.exit(bool(lacks))
PYTHON
}

for image in *.qcow2; do
    name=${image%.qcow2}
    before=$(sha256sum < "$image")
    want 0 "$name: info recognises it" vdisk info --output=json "$image"
    out_json 'd["format"] == "qcow2" and d["virtual-size"] == 160 << 20'
    check "$name: info tells what qemu-img tells" same_facts info "$image"
    check "$name: check tells what qemu-img tells" same_facts check "$image"
    want 0 "$name: to raw" vdisk convert -O raw "$image" out.raw
    check "$name: every byte" cmp disk.raw out.raw
    check "$name: holes stay holes" test "$(stat -c %b out.raw)" -le \
        $(($(stat -c %b disk.raw) * 11 / 10 + 2048))
    want 0 "$name: compare" vdisk compare -F raw "$image" disk.raw
    for format in gow3 qed; do
        want 0 "$name: to $format" vdisk convert -f qcow2 -O "$format" "$image" out
        want 0 "$name: as $format" vdisk compare -f "$format" -F raw out disk.raw
    done
    want 0 "$name: random reads" vdisk bench -q -f qcow2 -c 2000 --random --seed=1 -s 64k "$image"
    check "$name: keeps its bytes" test "$before" = "$(sha256sum < "$image")"
done
vdisk convert -O raw debian.qcow2 out.raw
check 'its file system' root_is_whole out.raw

# --- a machine of one's own from it, as everybody makes them: an overlay, larger than the image
for name in debian ubuntu fedora windows; do
    before=$(sha256sum < "$name.qcow2")
    want 0 "$name: an overlay" vdisk create -q -f qcow2 -b "$name.qcow2" -F qcow2 machine 4G
    want 0 "$name: reads through" vdisk io -r -f qcow2 -c "read -P 0 3G 1M" machine
    want 0 "$name: is written to" vdisk io -f qcow2 -c 'write -q -P 7 130M 3M' \
        -c 'write -q -P 8 3G 100k' -c 'write -q -P 9 40000001 5' machine
    check "$name: qemu-img check" qemu-img check -q -f qcow2 machine
    qemu-img convert -f qcow2 -O raw machine theirs.raw
    want 0 "$name: both read the same" vdisk compare -f qcow2 -F raw machine theirs.raw
    check "$name: the image below keeps its bytes" test "$before" = "$(sha256sum < "$name.qcow2")"
    rm -f machine theirs.raw
done

# --- made by vdisk
made() { # made NAME OPTIONS...
    local name=$1
    shift
    want 0 "made by vdisk: $name" vdisk convert -f raw -O qcow2 "$@" disk.raw made
    check "$name: qemu-img check" qemu-img check -q -f qcow2 made
    check "$name: qemu-img compare" qemu-img compare -q -f qcow2 -F raw made disk.raw
    check "$name: qemu-img convert" qemu-img convert -f qcow2 -O raw made out.raw
    check "$name: every byte" cmp disk.raw out.raw
}
made 'zlib' -c
check 'zlib: about as small as by qemu-img' test "$(stat -c %s made)" -le \
    $(($(stat -c %s debian.qcow2) * 105 / 100))
made 'zlib, version 2' -c -o compat=0.10
made 'zstd' -c -o compression_type=zstd
check 'zstd: about as small as by qemu-img' test "$(stat -c %s made)" -le \
    $(($(stat -c %s fedora.qcow2) * 110 / 100))
made 'not compressed'
check 'no larger than by qemu-img' test "$(stat -c %b made)" -le \
    $(($(stat -c %b centos.qcow2) + 4096))
made 'large clusters, subclusters' -c -o cluster_size=2M,extended_l2=on
made 'small clusters' -c -o cluster_size=512
check 'the file system in it' root_is_whole out.raw

finish
