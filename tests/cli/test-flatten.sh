#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk flatten: no backing file any more; what is said of it, and what is refused.
#
#   tests/cli/test-flatten.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

make_chain() {
    rm -f base top top.raw
    vdisk create -q -f raw base 8M
    vdisk io -f raw -c 'write -q -P 1 0 1M' base
    vdisk create -q -f add-cow -o image_file=top.raw -b base -F raw top
    vdisk io -c 'write -q -P 3 512k 1M' top
}

# shows FILE FORMAT
shows() {
    vdisk io -f "$2" -c 'read -q -P 1 0 512k' -c 'read -q -P 3 512k 1M' -c 'read -q -P 0 1536k 6656k' "$1"
}

make_chain
want 0 'flatten' vdisk flatten top
out_is "Image flattened.
The raw image 'top.raw' is the whole disk now: 'top' is not needed any more."
rm base
check 'the disk is the same' shows top add-cow
check 'without the image too' shows top.raw raw
check 'zeros take no space' bash -c '[ "$(stat -c %b top.raw)" -lt 4096 ]'
want 0 'once more' vdisk flatten top
out_is "There was no backing file.
The raw image 'top.raw' is the whole disk now: 'top' is not needed any more."
check 'no leaks' vdisk check -q top

make_chain
want 0 'JSON' vdisk flatten --output=json top
out_json 'd["filename"] == "top" and d["dropped"] and d["data-file"] == "top.raw"'
out_json 'd["virtual-size"] == 8 << 20 and d["data-bytes"] == 512 << 10'
want 0 'JSON, once more' vdisk flatten --output=json top
out_json 'not d["dropped"] and d["data-bytes"] == 0 and d["zero-bytes"] == 0'
make_chain
want 0 'quiet' vdisk flatten -q top
out_is ''

for mode in none writeback writethrough directsync unsafe; do
    make_chain
    want 0 "cache mode $mode" vdisk flatten -q -t $mode top
    check 'the disk is the same' shows top.raw raw
done

make_chain
want 0 'with progress, slowly' vdisk flatten -p -m 1 -r 2M --progress=7 top 7> lines
check 'every byte of it is as qemu-img prints' python3 - "$work/out" << 'SCRIPT'
import re, sys
text = open(sys.argv[1], "rb").read()
assert re.match(rb"(    \(\d+\.\d\d/100%\)\r)+\nImage flattened.\n", text), text
steps = [float(step) for step in re.findall(rb"([\d.]+)/100%", text)]
assert steps[0] == 0 and steps[-1] == 100, steps
SCRIPT
check 'the lines name the phase' grep -q '"phase": *"flatten"' lines

make_chain
vdisk create -q -f qed -b base -F raw top.qed
want 0 'without a raw file' vdisk flatten top.qed
out_is 'Image flattened.'
want 0 'without a raw file, once more' vdisk flatten top.qed
out_is 'There was no backing file.'
want 0 'without a raw file, JSON' vdisk flatten --output=json top.qed
out_json '"data-file" not in d and not d["dropped"]'
check 'the disk is the same' vdisk compare -q -F raw top.qed base

make_chain
want 1 'no backing files in raw' vdisk flatten -f raw base
err_is 'vdisk: base: format raw has no backing files'
want 1 'not permitted' vdisk flatten --no-backing top
err_has 'not permitted'
mv base away
want 1 'a backing file that has gone' vdisk flatten top
err_has "'base'"
mv away base
check 'the disk is the same' shows top add-cow
want 1 'a rate of nothing' vdisk flatten -r 0 top
want 1 'no operand' vdisk flatten
want 1 'no such option' vdisk flatten -b base top
finish
