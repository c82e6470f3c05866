#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk commit: what is written where, what is said of it, and what is refused.
#
#   tests/cli/test-commit.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# base (raw, 4 MiB of 1) <- mid (add-cow, 2 from 1 MiB on) <- top (add-cow, 3 from 2 MiB on)
make_chain() {
    rm -f base mid mid.raw top top.raw
    vdisk create -q -f raw base 4M
    vdisk io -f raw -c 'write -q -P 1 0 4M' base
    vdisk create -q -f add-cow -o image_file=mid.raw -b base -F raw mid
    vdisk io -c 'write -q -P 2 1M 2M' mid
    vdisk create -q -f add-cow -o image_file=top.raw -b mid -F add-cow top "${1:-4M}"
    vdisk io -c 'write -q -P 3 2M 1M' -c 'write -q -z 3M 512k' top
}

# shows FILE FORMAT: the content of the whole chain
shows() {
    vdisk io -f "$2" -c 'read -q -P 1 0 1M' -c 'read -q -P 2 1M 1M' -c 'read -q -P 3 2M 1M' \
        -c 'read -q -P 0 3M 512k' -c 'read -q -P 1 3584k 512k' "$1"
}

make_chain
want 0 'commit' vdisk commit top
out_is 'Image committed.'
err_is ''
check 'the backing file has it' shows mid add-cow
check 'the disk is as before' shows top add-cow
check 'the image is empty' bash -c '[ "$("$0" map --output=json top |
    python3 -c "import json, sys; print(sum(e[\"depth\"] == 0 for e in json.load(sys.stdin)))")" = 0 ]' "$C"
want 0 'once more' vdisk commit --output=json top
out_json 'd["filename"] == "top" and d["base"] == "mid" and d["base-depth"] == 1'
out_json 'd["emptied"] and not d["base-grew"] and d["virtual-size"] == 4 << 20'
out_json 'd["data-bytes"] == 0 and d["zero-bytes"] == 0'

make_chain
want 0 'the data may stay' vdisk commit -d --output=json top
out_json 'not d["emptied"] and d["data-bytes"] == 1 << 20 and d["zero-bytes"] == 512 << 10'
check 'and is in both' shows mid add-cow
check 'the image still has it' bash -c '"$0" rebase -u -b "" top &&
    "$0" io -c "read -q -P 3 2M 1M" top' "$C"

make_chain
want 0 'into the lowest of the chain' vdisk commit -b base top
out_is 'Image committed.'
err_has "^vdisk: warning: the images between 'top' and 'base' are not to be used on their own"
check 'the base has it all' shows base raw
check 'the disk is the same' shows top add-cow
check 'so is a rebase to it' vdisk rebase -b base -F raw top
check 'the disk is the same still' shows top add-cow
make_chain
want 0 'quiet' vdisk commit -q -b base top
out_is ''
err_is ''
make_chain
want 0 'a base by its path' vdisk commit --output=json -b "$PWD/base" top
out_json 'd["base"] == "base" and d["base-depth"] == 2'
want 1 'a base that is none' vdisk commit -b other top
err_is "vdisk: top: 'other' is none of the images behind it, which are 'mid', 'base'"
want 1 'the image itself' vdisk commit -b top top
err_is 'vdisk: top: is the image itself, and can not be the base of its commit'

make_chain 6M
want 0 'a longer disk' vdisk commit --output=json top
out_json 'd["base-grew"] and d["virtual-size"] == 6 << 20'
check 'makes the other one longer' shows mid add-cow
check 'with zeros' vdisk io -c 'read -q -P 0 4M 2M' mid

for mode in none writeback writethrough directsync unsafe; do
    make_chain
    want 0 "cache mode $mode" vdisk commit -q -t $mode top
    check 'the backing file has it' shows mid add-cow
    check 'the disk is as before' shows top add-cow
done

make_chain
want 0 'with progress, slowly' vdisk commit -p -d -m 1 -r 4M top
check 'every byte of it is as qemu-img prints' python3 - "$work/out" << 'SCRIPT'
import re, sys
text = open(sys.argv[1], "rb").read()
assert re.fullmatch(rb"(    \(\d+\.\d\d/100%\)\r)+\nImage committed.\n", text), text
steps = [float(step) for step in re.findall(rb"([\d.]+)/100%", text)]
assert steps[0] == 0 and steps[-1] == 100, steps
SCRIPT
want 0 'JSON lines' bash -c '"$0" commit -q --progress=7 top 7> lines' "$C"
check 'name the phase' grep -q '"phase": *"commit"' lines

make_chain
want 1 'no backing file' vdisk commit -f raw base
err_is 'vdisk: base: has no backing file to commit to'
want 1 'a base that is open elsewhere' bash -c '
    coproc io { "$0" io mid; }
    echo length >&"${io[1]}"
    read -r _ <&"${io[0]}" # it is open now
    "$0" commit top || exit' "$C"
err_has '^vdisk: top: backing file: mid: Failed to get "write" lock'
mkdir -p elsewhere
mv base elsewhere/
vdisk rebase -u -b elsewhere/base -F raw mid
check 'a directory below is permitted' vdisk commit -q -d top
vdisk rebase -u -b "$work/files/../base" -F raw mid
mv elsewhere/base "$work/base"
want 1 'a directory above is not' vdisk commit -q -d top
err_has 'not permitted'
check 'unless the user says so' vdisk commit -q -d --allow-path="$work" top
rm "$work/base"
want 1 'a backing file that has gone' vdisk commit --allow-path="$work" top
err_has 'base'

want 1 'a rate of nothing' vdisk commit -r 0 top
err_has '^vdisk: commit: -r: a rate of 0 bytes'
want 1 'too many workers' vdisk commit -m 65 top
want 1 'no operand' vdisk commit
want 1 'two operands' vdisk commit top mid
want 1 'objects' vdisk commit --object x top
err_has '^vdisk: commit: --object: the kind that there is'
finish
