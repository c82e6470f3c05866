#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk compare: outcomes, words, statuses, the list of differences.
#
#   tests/cli/test-compare.sh VDISK
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

put() { # FILE OFFSET TEXT
    printf '%s' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

truncate -s 16M a
head -c 3M <(yes vdisk-test) | dd of=a bs=1M seek=5 conv=notrunc status=none
cp --sparse=never a b
want 0 'identical, holes or not' vdisk compare a b
out_is 'Images are identical.'
want 0 'quiet' vdisk compare -q a b
out_is ''
want 0 'quiet JSON' vdisk compare -q --output=json a b
out_is ''
want 0 'JSON' vdisk compare --output=json a b
out_json 'd == {"outcome": "identical", "virtual-sizes": [16 << 20, 16 << 20]}'
want 0 'a file and itself' vdisk compare a a
vdisk convert -O gow3 a g
want 0 'raw and gow3' vdisk compare -f raw -F gow3 a g
want 0 'gow3 and raw, by looking' vdisk compare g a
want 1 'the format counts' vdisk compare -f raw -F raw a g

# --- one difference; qemu-img rounds down to 512
put b 70000 x
want 1 'a difference' vdisk compare a b
out_is 'Content mismatch at offset 69632!'
want 1 'quiet' vdisk compare -q a b
out_is ''
want 1 'JSON' vdisk compare --output=json a b
out_json 'd == {"outcome": "content", "offset": 69632, "virtual-sizes": [16 << 20, 16 << 20]}'
want 1 '-p' vdisk compare -p a b
check 'qemu-img bytes' grep -q '^    (0.00/100%)' "$work/out"

# --- several: the lowest one, however many threads there are
cp a b
for offset in 15000000 9000000 6000000 6000512 5500000; do
    put b $offset x
done
for _ in 1 2 3 4 5; do
    want 1 'the lowest of several' vdisk compare a b
    out_is 'Content mismatch at offset 5499904!'
done
want 1 '--list' vdisk compare --list a b
out_is 'Content differs at offset 5499904, 512 bytes
Content differs at offset 5999616, 1024 bytes
Content differs at offset 8999936, 512 bytes
Content differs at offset 14999552, 512 bytes
Content mismatch at offset 5499904!'
want 1 '--list, JSON' vdisk compare --list --output=json b a
out_json '[(x["offset"], x["length"]) for x in d["differences"]] == [(5499904, 512), (5999616, 1024), (8999936, 512), (14999552, 512)]'
out_json 'd["different-bytes"] == 2560 and d["outcome"] == "content" and d["offset"] == 5499904'
want 0 '--list, none' vdisk compare --list --output=json a a
out_json 'd["differences"] == [] and d["different-bytes"] == 0 and d["outcome"] == "identical"'
want 1 '--list -s' vdisk compare --list -s a b
err_has 'does not go with -s'

# --- sizes
cp a longer
truncate -s 20M longer
want 0 'longer by zeros' vdisk compare a longer
out_is 'Warning: Image size mismatch!
Images are identical.'
want 0 'the other way round' vdisk compare longer a
out_is 'Warning: Image size mismatch!
Images are identical.'
want 1 'strict' vdisk compare -s a longer
out_is 'Strict mode: Image size mismatch!'
want 1 'strict, JSON' vdisk compare -s --output=json a longer
out_json 'd == {"outcome": "size", "virtual-sizes": [16 << 20, 20 << 20]}'
put longer 20000000 x
want 1 'longer by more than zeros' vdisk compare a longer
out_is 'Warning: Image size mismatch!
Content mismatch at offset 19999744!'
want 1 'the other way round' vdisk compare longer a
out_is 'Warning: Image size mismatch!
Content mismatch at offset 19999744!'
put longer 100 x
want 1 'a difference before the end of the shorter one' vdisk compare a longer
out_is 'Content mismatch at offset 0!'

# --- allocation
truncate -s 1M hole full
want 0 'strict, the same' vdisk compare -s hole full
out_is 'Images are identical.'
dd if=/dev/zero of=full bs=64k seek=4 count=1 conv=notrunc status=none
want 0 'written zeros' vdisk compare hole full
want 1 'written zeros, strict' vdisk compare -s hole full
out_is 'Strict mode: Offset 262144 block status mismatch!'

# --- failures
want 2 'no first image' vdisk compare nothing a
err_has '^vdisk: nothing: .*No such file'
want 2 'no second image' vdisk compare a nothing
want 2 'JSON' vdisk compare --output=json a nothing
out_json 'd["outcome"] == "failed"'
want 2 'the wrong format' vdisk compare -f gow3 a a
want 1 'one name' vdisk compare a
want 1 'three names' vdisk compare a b a
want 1 'an unknown format' vdisk compare -F vmdk a a
want 1 '--object' vdisk compare --object x a a
want 1 '--image-opts' vdisk compare --image-opts a a
# Metadata that points nowhere is met when data is read, or when it is looked at.
size=$(stat -c %s g)
truncate -s $((size - 1048576)) g
status=0
"$C" compare -q a g 2> "$work/err" || status=$?
check 'an image that is cut off' test "$status" -ge 2

finish
