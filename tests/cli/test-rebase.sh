#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk rebase: another backing file; what is said of it, and what is refused.
#
#   tests/cli/test-rebase.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# base (raw, 4 MiB of 1) <- mid (2 from 1 MiB on) <- top (3 from 2 MiB on); other is all 7
make_chain() {
    rm -f base other mid mid.raw top top.raw
    vdisk create -q -f raw base 4M
    vdisk io -f raw -c 'write -q -P 1 0 4M' base
    vdisk create -q -f gow3 other "${1:-4M}"
    vdisk io -c "write -q -P 7 0 ${1:-4M}" other
    vdisk create -q -f add-cow -o image_file=mid.raw -b base -F raw mid
    vdisk io -c 'write -q -P 2 1M 2M' mid
    vdisk create -q -f add-cow -o image_file=top.raw -b mid -F add-cow top
    vdisk io -c 'write -q -P 3 2M 1M' -c 'write -q -z 3M 512k' top
}

shows() {
    vdisk io -c 'read -q -P 1 0 1M' -c 'read -q -P 2 1M 1M' -c 'read -q -P 3 2M 1M' \
        -c 'read -q -P 0 3M 512k' -c 'read -q -P 1 3584k 512k' top
}

# names WORD: the backing file of top, or - for none
names() {
    [ "$(vdisk info --output=json top |
        python3 -c 'import json, sys; print(json.load(sys.stdin).get("backing-filename", "-"))')" = "$1" ]
}

make_chain
want 0 'to the one behind' vdisk rebase -b base -F raw top
out_is ''
err_is ''
check 'the disk is the same' shows
check 'the name is another' names base
want 0 'once more' vdisk rebase --output=json -b base -F raw top
out_json 'd["filename"] == "top" and d["backing-filename"] == "base" and d["read-bytes"] == 0'
out_json 'd["virtual-size"] == 4 << 20 and d["data-bytes"] == 0 and d["zero-bytes"] == 0'

make_chain
want 0 'only what differs is read and written' vdisk rebase --output=json -b base -F raw top
out_json 'd["read-bytes"] == 1 << 20 and d["data-bytes"] == 1 << 20'

make_chain
want 0 'to another one' vdisk rebase -b other top
check 'the disk is the same' shows
check 'the name is another' names other
make_chain 1M
want 0 'to a short one' vdisk rebase -b other -F gow3 top
check 'the disk is the same' shows
make_chain 8M
want 0 'to a long one' vdisk rebase -b other -F gow3 top
check 'the disk is the same' shows
make_chain
want 0 'to none' vdisk rebase --output=json -b '' top
out_json '"backing-filename" not in d'
check 'the disk is the same' shows
check 'it has none' names -
want 0 'and back' vdisk rebase -b base -F raw top
check 'the disk is the same' shows

make_chain
want 0 'unsafe' vdisk rebase -u --output=json -b other top
out_json 'd["read-bytes"] == 0 and d["data-bytes"] == 0'
check 'shows the other one' vdisk io -c 'read -q -P 7 0 2M' -c 'read -q -P 3 2M 1M' top
want 0 'unsafe, and not there' vdisk rebase -u -b gone -F raw top
check 'the name is another' names gone
want 1 'what is gone is named' vdisk rebase -b base -F raw top
err_has 'gone'
want 0 'unsafe helps' vdisk rebase -u -b mid top
check 'the disk is the same' shows
want 1 'raw has to be named' vdisk rebase -u -b base top
err_is "vdisk: backing file 'base': no known format found in it: name the format, raw included (-F raw)"
want 1 'raw has to be named' vdisk rebase -b base top
err_has 'name the format, raw included \(-F raw\)'
check 'nothing has changed' names mid

want 1 'not itself' vdisk rebase -u -b top top
err_is 'vdisk: top: can not be its own backing file'
want 1 'not itself' vdisk rebase -b top top
err_has 'only once'
want 1 'not in a circle' vdisk rebase -b top mid
err_has 'only once'
want 1 'not one that is not there' vdisk rebase -b nothing -F raw top
err_has "nothing"
want 1 'not of a wrong format' vdisk rebase -b other -F add-cow top
want 1 'not of an unknown format' vdisk rebase -b other -F what top
err_has "^vdisk: Unknown file format 'what'"
want 1 'not one without backing files' vdisk rebase -b base -F raw other
err_is 'vdisk: other: format gow3 has no backing files'
check 'the disk is the same after all that' shows

mkdir sub
want 0 'relative to the image' bash -c 'cd sub && "$0" rebase -b base -F raw ../top' "$C"
check 'the name is as it was given' names base
check 'the disk is the same' shows

for mode in none writeback writethrough directsync unsafe; do
    make_chain
    want 0 "cache mode $mode" vdisk rebase -t $mode -T $mode -b other top
    check 'the disk is the same' shows
done

make_chain
want 0 'with progress' vdisk rebase -p -m 1 -b '' top
check 'every byte of it is as qemu-img prints' python3 - "$work/out" << 'SCRIPT'
import re, sys
text = open(sys.argv[1], "rb").read()
assert re.fullmatch(rb"(    \(\d+\.\d\d/100%\)\r)+\n", text), text
steps = [float(step) for step in re.findall(rb"([\d.]+)/100%", text)]
assert steps[0] == 0 and steps[-1] == 100, steps
SCRIPT
want 0 'JSON lines' bash -c '"$0" rebase -q --progress=7 -b base -F raw top 7> lines' "$C"
check 'name the phase' grep -q '"phase": *"rebase"' lines

want 1 'nothing named' vdisk rebase top
err_has "^vdisk: rebase: -b BACKING is needed"
want 1 'a format of nothing' vdisk rebase -b '' -F raw top
want 1 'compression' vdisk rebase -c -b base -F raw top
err_has '^vdisk: rebase: -c: none of the formats'
want 1 'objects' vdisk rebase --object x -b base top
err_has '^vdisk: rebase: --object: the kind that there is'
want 1 'no operand' vdisk rebase -b base
finish
