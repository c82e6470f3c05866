#!/bin/bash
# SPDX-License-Identifier: MIT
# Compressed clusters of qcow2 between vdisk and QEMU: every kind, in every geometry that matters,
# both ways; what other commands make of them; and images that are not as they should be.
#
#   tests/interop/test-qcow2-compress.sh VDISK
#
# VD_COMPRESS=full takes every cluster size and level, else a few are taken.
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

if ! have qemu-img || ! have qemu-io; then
    echo '1..0 # SKIP no qemu-img'
    exit 0
fi

sizes='512 4k 64k 2M' levels='1 7 9'
if [ "${VD_COMPRESS:-}" = full ]; then
    sizes='512 1k 2k 4k 8k 16k 32k 64k 128k 256k 512k 1M 2M' levels='1 2 3 4 5 6 7 8 9'
fi

# Text, noise, zeros, and text again from farther away than 4 KiB; it ends within a cluster.
python3 - << 'PYTHON'
import random
rng = random.Random(20261121)
words = [bytes(rng.choices(b"abcdefgh", k=rng.randrange(2, 9))) for _ in range(300)]
text = b" ".join(rng.choices(words, k=350000))
with open("a", "wb") as disk:
    disk.write(text[:1500000])
    disk.write(rng.randbytes(700000))
    disk.write(bytes(3000000))
    for at in range(0, 1200000, 20000):
        disk.write(text[at:at + 5000] * 2)
    disk.write(bytes(100000) + text[:12345])
    disk.truncate((disk.tell() + 511) // 512 * 512)
PYTHON

# qemu_takes IMAGE: QEMU finds it sound, and reads the content
qemu_takes() {
    qemu-img check -q "$1" && qemu-img compare -q -f raw -F qcow2 "${2:-a}" "$1"
}

vdisk_takes() {
    vdisk check -q "$1" && vdisk compare -q -f raw -F qcow2 "${2:-a}" "$1"
}

compressed() {
    "$C" map --output=json "$1" | python3 -c '
import json, sys
print(sum(e["length"] for e in json.load(sys.stdin) if e["compressed"]))'
}

for type in zlib zstd; do
    for size in $sizes; do
        name="$type, clusters of $size"
        options="compression_type=$type,cluster_size=$size"
        check "$name: written" vdisk convert -c -f raw -O qcow2 -o "$options" a ours
        check "$name: QEMU reads it" qemu_takes ours
        check "$name: it is compressed" test "$(compressed ours)" -gt 1000000
        check "$name: we read it" vdisk_takes ours
        check "$name: by QEMU" qemu-img convert -c -f raw -O qcow2 -o "$options" a theirs
        check "$name: QEMU's is read" vdisk_takes theirs
        check "$name: and converted" vdisk convert -O raw theirs back
        check "$name: the same bytes" cmp a back
        # Of clusters larger than what lies between zeros there is only one way to cut them.
        check "$name: as much of it" test "$(compressed ours)" = "$(compressed theirs)"
    done
    for level in $levels; do
        check "$type, level $level" vdisk convert -c --compression-level="$level" -f raw -O qcow2 \
            -o compression_type="$type" a ours
        check "$type, level $level: QEMU reads it" qemu_takes ours
    done
    check "$type: in a file that is there" vdisk convert -n -c -f raw -O qcow2 a ours
    check "$type: QEMU reads it" qemu_takes ours
    check "$type: with subclusters" vdisk convert -c -f raw -O qcow2 \
        -o extended_l2=on,compression_type="$type" a ours
    check "$type: QEMU reads the subclusters" qemu_takes ours
done
want 0 'version 2' vdisk convert -c -f raw -O qcow2 -o compat=0.10 a ours
check 'QEMU reads version 2' qemu_takes ours
check 'narrow reference counts' vdisk convert -c -f raw -O qcow2 -o refcount_bits=1 a ours
check 'QEMU reads narrow ones' qemu_takes ours

# --- the same file for the same disk, and level 7 is no larger than what QEMU makes
vdisk convert -c -m 1 -f raw -O qcow2 a one
vdisk convert -c -m 7 -f raw -O qcow2 a seven
check 'the same file, whoever works on it' cmp one seven

# --- an overlay: only what differs, compressed
head -c 2000000 a > base
truncate -s 3M base
check 'an overlay' vdisk convert -c -f raw -O qcow2 -B base -F raw a top
check 'QEMU reads the overlay' qemu_takes top
check 'it has the rest only' test "$(compressed top)" -lt "$(compressed one)"

# --- writes into compressed clusters, by both
for program in vdisk qemu-io; do
    cp one changed
    cp a content
    for write in '3 100 70000' '4 1400000 300' '0 65536 131072' '5 5700000 200000'; do
        read -r byte offset length <<< "$write"
        if [ "$program" = vdisk ]; then
            vdisk io -c "write -P $byte $offset $length" changed > /dev/null
        else
            qemu-io -f qcow2 -c "write -q -P $byte $offset $length" changed > /dev/null
        fi
        qemu-io -f raw -c "write -q -P $byte $offset $length" content > /dev/null
    done
    check "written to by $program: QEMU reads it" qemu_takes changed content
    check "written to by $program: we read it" vdisk_takes changed content
done

# --- streams of others: those of QEMU's driver, packed, with garbage behind each; in a chain
qemu-img create -q -f qcow2 -b theirs -F qcow2 upper
qemu-io -f qcow2 -c 'write -q -c -P 7 4M 64k' -c 'write -q -c -P 9 128k 64k' upper > /dev/null
cp a content
qemu-io -f raw -c 'write -q -P 7 4M 64k' -c 'write -q -P 9 128k 64k' content > /dev/null
check 'single clusters, in a chain' vdisk_takes upper content

# --- refused, with nothing touched
echo precious > t
want 1 '-c with a data file' vdisk convert -c -f raw -O qcow2 -o data_file=d a t
err_has '^vdisk: t: an image with a data file has no compressed clusters$'
want 1 '-c with preallocation' vdisk convert -c -f raw -O qcow2 -o preallocation=metadata a t
check 'the file is as it was' grep -qx precious t
check 'no data file was made' test ! -e d
qemu-img create -q -f qcow2 -o data_file=d t 8M
cp t before
want 1 '-c -n with a data file' vdisk convert -c -n -f raw -O qcow2 a t
err_has '^vdisk: t: an image with a data file has no compressed clusters$'
check 'the image is as it was' cmp t before

# Of an encrypted image they would be in the clear.
printf secret > pass
encrypt=(--object 'secret,id=s,file=pass')
luks=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10
if "$C" create -q "${encrypt[@]}" -f qcow2 -o $luks e 8M > "$work/log" 2>&1; then
    cp e before
    want 1 '-c -n into an encrypted image' vdisk convert -c -n --passphrase-file pass -f raw \
        -O qcow2 a e
    err_has '^vdisk: e: an image that is encrypted has no compressed clusters$'
    check 'it is as it was' cmp e before
    want 1 '-c into a new encrypted image' vdisk convert -c "${encrypt[@]}" -f raw -O qcow2 \
        -o $luks a f
    err_has '^vdisk: f: an image that is encrypted has no compressed clusters$'
    check 'it was not made' test ! -e f
else
    skip '-c into encrypted images' 'built without libgcrypt'
fi

finish
