#!/bin/bash
# SPDX-License-Identifier: MIT
# The verbs on GOW images.
#
#   tests/cli/test-gow.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

GIB=$((1 << 30))
BLOCK=65536

# --- create and info
for version in 1 2 3; do
    name=gow$version
    want 0 "create $name" vdisk create -f "$name" "$name" 1G
    out_is "Formatting '$name', fmt=$name size=$GIB"
    want 0 "info of $name" vdisk info "$name"
    out_has "^file format: $name$"
    out_has '^virtual size: 1 GiB \(1073741824 bytes\)$'
    out_has '^cluster_size: 65536$'
    out_has '^Format specific information:$'
    out_has '^    generation: 0$'
    out_has '^    uuid: [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    want 0 "info of $name as JSON" vdisk info --output=json "$name"
    out_json "d['format'] == '$name' and d['cluster-size'] == $BLOCK and not d['dirty-flag']"
    out_json "d['format-specific']['type'] == '$name'"
    out_json "set(d['format-specific']['data']) == {'generation', 'uuid', 'replica', 'incomplete'}"
    want 0 "info of $name by its name" vdisk info -f "$name" "$name"
    limit=256
    [ "$version" != 1 ] || limit=64
    want 1 "$name above its limit" vdisk create -f "$name" big "$((limit * GIB + 512))"
    err_has "^vdisk: big: .*size of $((limit * GIB + 512)) bytes: the limit of .* is $((limit * GIB))"
    want 1 "$name of an odd size" vdisk create -f "$name" big 1000
    err_has '^vdisk: big: .*1000 bytes.*multiple of 512'
    check 'makes nothing' test ! -e big
done
want 0 'gow means gow3' vdisk create -f gow gow 1M
out_is "Formatting 'gow', fmt=gow3 size=1048576"
want 0 'options of gow3' vdisk create -f gow3 -o help
out_is 'Supported options:
  size=<size>            - size of the disk'
want 1 'preallocation' vdisk create -f gow3 -o preallocation=full big 1M
err_has '^vdisk: -o preallocation=full: format gow3 allocates only as it is written'
want 1 'the wrong version' vdisk info -f gow2 gow3
err_has '^vdisk: gow3: .*version 3: open it as gow3$'
want 1 'what is no image' bash -c 'head -c 100000 /dev/zero > junk; "$0" info -f gow3 junk' "$C"
err_has '^vdisk: junk: '

# --- io, map, check, measure: the same for each version
for version in 1 2 3; do
    name=gow$version
    want 0 "write to $name, whose format is found" vdisk io -c 'write -P 1 1M 128k' \
        -c 'write -P 2 200k 4k' -c 'read -P 1 1M 128k' -c 'read -P 0 0 200k' "$name"
    want 0 "generation of $name" vdisk info --output=json "$name"
    out_json 'd["format-specific"]["data"]["generation"] == 1'
    want 0 "map of $name" vdisk map "$name"
    out_has "^0x100000        0x20000         0x[0-9a-f]+ +$name$"
    want 0 "map of $name as JSON" vdisk map --output=json "$name"
    out_json "sum(e['length'] for e in d) == $GIB"
    out_json "sum(e['length'] for e in d if e['present']) == 3 * $BLOCK"
    out_json 'all(("offset" in e) == e["present"] for e in d)'
    out_json 'list(d[0].values()) == [0, 196608, 0, False, True, False, False]'
    want 0 "check of $name" vdisk check "$name"
    out_has '^No errors were found on the image\.$'
    out_has '^3/16384 = 0\.02% allocated, [0-9.]+% fragmented, 0\.00% compressed clusters$'
    out_has "^Image end offset: $(stat -c %s "$name")$"
    want 0 "check of $name as JSON" vdisk check --output=json "$name"
    out_json 'd["check-errors"] == 0 and d["total-clusters"] == 16384'
    out_json 'd["allocated-clusters"] == 3 and "leaks" not in d and "corruptions" not in d'
    want 0 "quiet check of $name" vdisk check -q --output=json "$name"
    out_is ''
    want 0 "measure for $name" vdisk measure -O "$name" --output=json --size 1G
    out_json "d['fully-allocated'] - d['required'] == $GIB"
    want 0 "measure of $name" vdisk measure -O "$name" --output=json "$name"
    out_json "d['required'] == $(stat -c %s "$name")"
done

# --- resize
want 0 'grow' vdisk resize gow3 +1G
want 0 'what was added is zero' vdisk io -c 'read -P 0 1G 1M' -c 'read -P 2 200k 4k' gow3
want 1 'shrink, unasked' vdisk resize gow3 1G
want 0 'shrink' vdisk resize --shrink gow3 1G
want 1 'to an odd size' vdisk resize gow3 +1000
err_has '^vdisk: gow3: .*multiple of 512'
want 1 'above the limit' vdisk resize gow3 257G
err_has '^vdisk: gow3: .*the limit of '
want 1 'preallocation' vdisk resize --preallocation=full gow3 +1G
want 0 'check after it' vdisk check gow3

# --- dd between formats
want 0 'dd to gow3' vdisk dd -O gow bs=1M skip=1 count=1 if=gow1 of=part
want 0 'has what was copied' vdisk io -r -c 'read -P 1 0 128k' -c 'read -P 0 128k 896k' part
want 0 'and only that' vdisk check --output=json part
out_json 'd["format"] == "gow3" and d["allocated-clusters"] == 2'

# --- damage
# leaks and corruptions through bytes of the map: entry N is at 64 (gow2) + 4 N, little-endian.
set_entry() {
    printf '%b' "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($3 & 255)) $(($3 >> 8 & 255)) \
        $(($3 >> 16 & 255)) $(($3 >> 24 & 255)))" |
        dd of="$1" bs=1 seek=$((64 + 4 * $2)) conv=notrunc status=none
}
cp gow2 leaked
set_entry leaked 16 0xffffffff
want 3 'a leak' vdisk check leaked
out_has '^1 leaked clusters were found on the image\.$'
out_has '^This means waste of disk space, but no harm to data\.$'
want 3 'a leak as JSON' vdisk check --output=json leaked
out_json 'd["leaks"] == 1 and "corruptions" not in d'
want 3 'a leak, quietly' vdisk check -q leaked
out_is ''
want 0 'mending it' vdisk check -r leaks leaked
out_has '^The following inconsistencies were found and repaired:$'
out_has '^    1 leaked clusters$'
out_has '^Double checking the fixed image now\.\.\.$'
out_has '^No errors were found on the image\.$'
want 0 'it stays mended' vdisk check leaked
cp gow2 leaked
set_entry leaked 16 0xffffffff
want 0 'mending it, as JSON' vdisk check -r all --output=json leaked
out_json 'd["leaks-fixed"] == 1 and "leaks" not in d'

cp gow2 corrupt
set_entry corrupt 16 1000000
want 2 'a corruption' vdisk check corrupt
out_has '^[0-9]+ errors were found on the image\.$'
out_has '^Data may be corrupted, or further writes to the image may corrupt it\.$'
check 'is told of on stderr' test -s "$work/err"
want 2 'a corruption as JSON' vdisk check --output=json corrupt
out_json 'd["corruptions"] >= 1'
want 2 'leaks are not all there is' vdisk check -q -r leaks corrupt
want 0 'info of a corrupt image' vdisk info corrupt
want 0 'mending it' vdisk check -r all corrupt
want 0 'it stays mended' vdisk check corrupt
cp gow2 future
printf '\x80' | dd of=future bs=1 seek=16 conv=notrunc status=none
want 1 'a flag from the future' vdisk check future
err_has '^vdisk: future: '

finish
