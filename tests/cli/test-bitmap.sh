#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk bitmap: what it prints, and what is refused.  The bits themselves, beside QEMU:
# tests/interop/test-qcow2-bitmap.py.
#
#   tests/cli/test-bitmap.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

vdisk create -q -f qcow2 a.qcow2 64M

want 0 'none' vdisk bitmap --list a.qcow2
out_is ''
want 0 'none, JSON' vdisk bitmap --list --output=json a.qcow2
out_json 'd == []'
want 0 'add' vdisk bitmap --add a.qcow2 daily
out_is ''
want 0 'add with a granularity' vdisk bitmap --add -g 4k a.qcow2 fine
check 'write' vdisk io -c 'write -q 1M 100k' a.qcow2
want 0 'list' vdisk bitmap --list a.qcow2
out_is 'GRANULARITY DIRTY       STATE                 NAME
64 KiB      128 KiB     enabled               daily
4 KiB       100 KiB     enabled               fine'
want 0 'list, JSON' vdisk bitmap --list --output=json -U a.qcow2
out_json '[b["name"] for b in d] == ["daily", "fine"]'
out_json 'd[1]["granularity"] == 4096 and d[1]["flags"] == ["auto"] and d[1]["enabled"]'
out_json 'd[0]["dirty-bytes"] == 128 << 10 and d[0]["virtual-size"] == 64 << 20'
out_json 'not (d[0]["inconsistent"] or d[0]["recoverable"] or d[0]["hidden"])'
want 0 'map' vdisk bitmap --map a.qcow2 fine
out_is 'Offset          Length
0x100000        0x19000'
want 0 'map, JSON' vdisk bitmap --map --output=json a.qcow2 fine
out_json 'd[1] == {"start": 1 << 20, "length": 100 << 10, "dirty": True} and len(d) == 3'
out_json 'd[2]["start"] + d[2]["length"] == 64 << 20 and not d[2]["dirty"]'
want 0 'info' vdisk info a.qcow2
out_has '^ +name: daily$'
out_has '^ +granularity: 4096$'
want 0 'info, JSON' vdisk info --output=json a.qcow2
out_json 'd["format-specific"]["data"]["bitmaps"][0] == {"name": "daily", "granularity": 65536, "flags": ["auto"]}'

want 0 'several actions' vdisk bitmap --clear --merge fine --disable a.qcow2 daily
want 0 'their outcome' vdisk bitmap --list --output=json a.qcow2
out_json 'd[0]["dirty-bytes"] == 128 << 10 and not d[0]["enabled"] and d[0]["flags"] == []'
want 1 'all or nothing' vdisk bitmap --clear --enable --merge gone a.qcow2 daily
err_has "^vdisk: .*no bitmap 'gone'"
want 0 'nothing was done' vdisk bitmap --list --output=json a.qcow2
out_json 'd[0]["dirty-bytes"] == 128 << 10 and not d[0]["enabled"]'

# A program that does not know bitmaps has written.
cp a.qcow2 b.qcow2
printf '\0' | dd of=b.qcow2 bs=1 seek=95 conv=notrunc status=none
want 0 'hidden' vdisk bitmap --list b.qcow2
out_has '^4 KiB +- +inconsistent, hidden +fine$'
want 1 'not to be mapped' vdisk bitmap --map b.qcow2 fine
err_has 'inconsistent'
want 0 'recover' vdisk bitmap --recover b.qcow2 fine
out_is 'Bitmap recovered: 64 MiB of 64 MiB are dirty.'
want 1 'recover it again' vdisk bitmap --recover b.qcow2 fine
err_has 'nothing to recover'
want 0 'recover by comparing' vdisk bitmap --recover --compare a.qcow2 --output=json b.qcow2 daily
out_json 'd["dirty-bytes"] == 0 and d["bitmap"] == "daily" and d["virtual-size"] == 64 << 20'
want 0 'recovered' vdisk bitmap --list --output=json b.qcow2
out_json 'not any(b["inconsistent"] for b in d) and d[1]["dirty-bytes"] == 64 << 20'
check 'no corruption' bash -c '"$1" check -q b.qcow2 || [ $? = 3 ]' - "$C"
check 'leaks are given back' vdisk check -q -r leaks b.qcow2

want 0 'remove' vdisk bitmap --remove a.qcow2 fine
want 0 'remove the last' vdisk bitmap --remove a.qcow2 daily
want 0 'none are left' vdisk info --output=json a.qcow2
out_json '"bitmaps" not in d["format-specific"]["data"]'

# Usage.
want 1 'no action' vdisk bitmap a.qcow2 b
err_has 'Need at least one of --add'
want 1 'an action and --list' vdisk bitmap --list --add a.qcow2
want 1 'no name' vdisk bitmap --add a.qcow2
want 1 'a name for --list' vdisk bitmap --list a.qcow2 b
want 1 '-g without --add' vdisk bitmap --clear -g 4k a.qcow2 b
err_has 'granularity only supported with --add'
want 1 '-b without --merge' vdisk bitmap --add -b a.qcow2 a.qcow2 b
err_has 'source file only supported with --merge'
want 1 '-F alone' vdisk bitmap --add -F qcow2 a.qcow2 b
want 1 '--compare without --recover' vdisk bitmap --add --compare a.qcow2 a.qcow2 b
want 1 '-U and a change' vdisk bitmap -U --add a.qcow2 b
want 1 '-g 0' vdisk bitmap --add -g 0 a.qcow2 b
want 1 '-g 5000' vdisk bitmap --add -g 5000 a.qcow2 b
err_has 'power of two from 512 to 2147483648'
vdisk create -q -f qed c.qed 1M
want 1 'a format without bitmaps' vdisk bitmap --add c.qed b
err_has 'format qed have no dirty bitmaps'
want 0 'listing what has none' vdisk bitmap --list c.qed
want 1 'convert to such a format' vdisk convert --bitmaps -O qed b.qcow2 d.qed
check 'and nothing is there' test ! -e d.qed
want 0 'convert' vdisk convert --bitmaps -O qcow2 b.qcow2 d.qcow2
want 0 'converted' vdisk bitmap --list --output=json d.qcow2
out_json 'd[1]["dirty-bytes"] == 64 << 20 and d[1]["enabled"] and not d[0]["enabled"]'
want 0 'measure' vdisk measure -O qcow2 --output=json b.qcow2
out_json 'd["bitmaps"] > 0'
finish
