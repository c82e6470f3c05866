#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk info, map, check and measure on raw images: beside qemu-img where both can.
#
#   tests/cli/test-look.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# What a map of an older qemu-img lacks: 8.2 and later tell of compressed clusters.
as_newer() {
    sed -E '/"compressed"/! s/("data": [a-z]+)(, "offset"|})/\1, "compressed": false\2/'
}

# same NAME ARGUMENT...: vdisk and qemu-img print the same
same() {
    local name=$1 theirs=0
    shift
    if ! have qemu-img; then
        skip "$name" 'no qemu-img'
        return
    fi
    qemu-img "$@" > theirs 2> theirs.err || theirs=$?
    want "$theirs" "$name" vdisk "$@"
    out_is "$(as_newer < theirs)"
}

# same_json NAME ARGUMENT...: as JSON they are the same, but for keys that only vdisk has
same_json() {
    local name=$1
    shift
    if ! have qemu-img; then
        skip "$name" 'no qemu-img'
        return
    fi
    qemu-img "$@" > theirs
    want 0 "$name" vdisk "$@"
    out_json 'd == dict(d, **json.load(open("theirs")))'
}

vdisk create -q -f raw a 3M
vdisk io -f raw -c 'write -P 1 1M 64k' -c 'write -P 2 1572864 512k' a > /dev/null
head -c 100000 /dev/zero | tr '\0' x > odd
: > empty
printf 'a name of two words' > 'two words'
# A name that is no UTF-8.
cp odd "$(printf 'not\377utf8')"

# --- info
want 0 'info' vdisk info -f raw a
out_has '^image: a$'
out_has '^file format: raw$'
out_has '^virtual size: 3 MiB \(3145728 bytes\)$'
out_has '^disk size: '
same 'info as qemu-img' info -f raw a
same 'info of an odd length' info -f raw odd
same 'info of nothing' info -f raw empty
same_json 'info as JSON' info -f raw --output=json a
same_json 'info of a name with a blank' info -f raw --output=json 'two words'
want 0 'info as JSON' vdisk info --output=json a
out_json '{"filename", "format", "virtual-size", "actual-size", "dirty-flag"} == set(d)'
out_json 'd["filename"] == "a" and d["format"] == "raw" and d["dirty-flag"] is False'
want 0 'the chain' vdisk info --backing-chain --output=json a
out_json 'isinstance(d, list) and len(d) == 1 and d[0]["virtual-size"] == 3 << 20'
want 0 'a name that is no UTF-8' vdisk info --output=json "$(printf 'not\377utf8')"
out_json 'd["filename"] == "not\ufffdutf8"'
want 1 'info of a folder' vdisk info .
err_has '^vdisk: \.: '

# --- map
same 'map as qemu-img' map -f raw a
same 'map as JSON, byte by byte' map -f raw --output=json a
same 'map of a part' map -f raw --start-offset=1M --max-length=100k a
same 'map of a part as JSON' map -f raw --output=json --start-offset=1000000 --max-length=1M a
same 'map of an odd length' map -f raw odd
same 'map from behind the end' map -f raw --start-offset=5M a
want 0 'map of nothing as JSON' vdisk map -f raw --output=json empty
out_is '[]'
want 0 'map as JSON' vdisk map --output=json a
out_json 'sum(e["length"] for e in d) == 3 << 20'
out_json 'all(list(e)[:7] == ["start", "length", "depth", "present", "zero", "data", "compressed"] for e in d)'
out_json 'all(a["start"] + a["length"] == b["start"] for a, b in zip(d, d[1:]))'
check 'one entry a line' python3 - "$work/out" << 'SCRIPT'
import json, sys
text = open(sys.argv[1]).read()
assert len(text.splitlines()) == len(json.loads(text))
SCRIPT
want 1 'map from no offset' vdisk map --start-offset=x a
err_has "^vdisk: --start-offset 'x': Invalid image size specified"
want 1 'map of no length' vdisk map --max-length=1.5 a
err_has "^vdisk: --max-length '1.5': Invalid image size specified"
want 1 'map to a full disk' sh -c '"$0" map a > /dev/full' "$C"

# --- check
same 'check of raw' check -f raw a
want 63 'check of raw' vdisk check -f raw a
err_has '^vdisk: a: This image format does not support checks'
want 63 'check of what looks like raw' vdisk check a
want 63 'repair of raw' vdisk check -r all -f raw a
want 63 'repair of what looks like raw' vdisk check -r leaks a
want 1 'check of nothing' vdisk check nowhere
want 1 'repair of nobody knows what' vdisk check -r some a
err_has "^vdisk: check: Unknown option value for -r \(expecting 'leaks' or 'all'\): some$"
want 1 'repair beside a writer' vdisk check -r all -U a

# --- measure
same 'measure of a size' measure --size 1G -O raw
same 'measure of a file' measure -O raw -f raw a
same_json 'measure as JSON' measure -O raw --output=json --size 123456
want 0 'measure as JSON' vdisk measure --output=json --size 1M
out_json 'd == {"required": 1048576, "fully-allocated": 1048576}'
want 0 'size as an option' vdisk measure -o size=1M
out_has '^required size: 1048576$'
want 1 'neither size nor file' vdisk measure
err_has '^vdisk: measure: Either --size N or one filename must be specified\.$'
want 1 'size and file' vdisk measure --size 1M a
err_has '^vdisk: measure: --size N cannot be used together with a filename\.$'
want 1 'size as an option and file' vdisk measure -o size=1M a
err_has "^vdisk: -o size and a file: the size is that of 'a'$"
want 1 'size twice' vdisk measure -o size=1M --size 1M
want 1 'format of no file' vdisk measure -f raw --size 1M
err_has '^vdisk: measure: -f, -l and -U can only be used with a filename\.$'
want 1 'two files' vdisk measure a a
want 1 'unknown target format' vdisk measure -O frob --size 1M
want 1 'unknown option' vdisk measure -o frob=1 --size 1M
want 0 'help for options' vdisk measure -O raw -o help

finish
