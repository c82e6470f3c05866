#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk sync, delta and sums between local files: what is fetched, what is refused, what is left.
#
#   tests/cli/test-sync.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# gow FILE PYTHON: evaluates or runs PYTHON on the file: f, u32(offset), put(offset, format, value)
gow() {
    python3 - "$1" "$2" << 'PYTHON'
import struct, sys
f = open(sys.argv[1], "r+b")
MAP, VERSIONS, DATA = 320, 320 + (16 << 20), 0x2000200
def get(offset, form):
    f.seek(offset)
    return struct.unpack(form, f.read(struct.calcsize(form)))[0]
def u32(offset):
    return get(offset, "<I")
def put(offset, form, value):
    f.seek(offset)
    f.write(struct.pack(form, value))
exec(sys.argv[2])
PYTHON
}

# Sound, but for space that a discard left behind.
is_sound() {
    local status=0
    vdisk check -q "$1" || status=$?
    [ "$status" = 0 ] || [ "$status" = 3 ]
}

# The replica says it is one, is complete, and has lineage, versions and content of its master.
is_replica_of() {
    python3 - "$1" "$2" << 'PYTHON' && vdisk compare -q "$1" "$2" && is_sound "$1"
import struct, sys
def facts(name):
    f = open(name, "rb")
    head = f.read(64)
    size, flags = struct.unpack_from("<QI", head, 8)
    f.seek(320 + (16 << 20))
    return flags, size, head[24:48], f.read((size + 65535) // 65536 * 4)
replica, master = facts(sys.argv[1]), facts(sys.argv[2])
assert replica[0] == 4, "flags %d" % replica[0]
assert replica[1:4] == master[1:4], "size, generation, UUID or versions differ"
PYTHON
}

same_bytes() {
    cmp "$1" "$2"
}

# changes COMMAND...: one write session on the master
changes() {
    local words=() word
    for word; do
        words+=(-c "$word")
    done
    vdisk io "${words[@]}" m.gow > /dev/null
}

vdisk create -q -f gow3 m.gow 20M
changes 'write -P 1 0 3M' 'write -P 2 10M 1M' 'write -P 3 20905984 64k'

# --- the first sync, and nothing to do
want 0 'delta without a replica' vdisk delta --output=json m.gow r.gow
out_json 'd["changed-blocks"] == 65 and d["fetched-blocks"] == 65 and d["total-blocks"] == 320'
out_json 'd["fetched-bytes"] == 65 * 65536 + 2 * 4 * 320 + 320'
check 'delta makes nothing' test ! -e r.gow
want 0 'first sync' vdisk sync --output=json m.gow r.gow
out_json 'd["created"] and not d["unchanged"] and not d["resumed"] and not d["forced"]'
out_json 'd["changed-blocks"] == 65 and d["generation"] == 1 and d["restarts"] == 0'
check 'first sync: identical' is_replica_of r.gow m.gow
check 'first sync: no other file is left' test "$(echo ./*)" = './m.gow ./r.gow'
cp r.gow before
want 0 'nothing changed' vdisk sync --output=json m.gow r.gow
out_json 'd["unchanged"] and d["requests"] == 1 and d["fetched-bytes"] <= 4096'
check 'nothing changed: not one byte' same_bytes before r.gow
want 0 'nothing changed, in words' vdisk sync m.gow r.gow
out_has '^nothing changed since generation 1: 320 B in 1 request$'
want 0 'quiet' vdisk sync -q m.gow r.gow
out_is ''

# --- changes
changes 'write -P 4 100k 10' 'write -P 5 15M 200k' 'discard 1M 128k' 'write -z -u 10M 64k'
want 0 'delta' vdisk delta m.gow r.gow
out_has '^changed: 8 of 320 blocks, 5 with data$'
want 0 'changed blocks' vdisk sync --output=json m.gow r.gow
out_json 'd["changed-blocks"] == 8 and d["fetched-blocks"] == 5'
out_json 'd["fetched-bytes"] <= 5 * 65536 + 8 * 320 + 4096'
check 'changed blocks: identical' is_replica_of r.gow m.gow
want 0 'changed blocks: nothing is left' vdisk sync m.gow r.gow
out_has '^nothing changed'

# --- size
vdisk resize -q m.gow 33M
changes 'write -P 6 32M 1M'
want 0 'a larger master' vdisk sync m.gow r.gow
check 'a larger master: identical' is_replica_of r.gow m.gow
vdisk resize -q --shrink m.gow 12M
want 0 'a smaller master' vdisk sync m.gow r.gow
check 'a smaller master: identical' is_replica_of r.gow m.gow
vdisk resize -q --shrink m.gow 2098688
vdisk resize -q m.gow 12M
want 0 'a master cut within a block, and larger again' vdisk sync m.gow r.gow
check 'cut and larger again: identical' is_replica_of r.gow m.gow
vdisk resize -q m.gow 20M
changes 'write -P 7 13M 1M'
want 0 'blocks that had been cut off' vdisk sync m.gow r.gow
check 'blocks that had been cut off: identical' is_replica_of r.gow m.gow
changes 'discard 0 20M'
want 0 'an emptied master' vdisk sync m.gow r.gow
check 'an emptied master: identical' is_replica_of r.gow m.gow
check 'an emptied master: the space is given back' test "$(stat -c %s r.gow)" -le $((33 << 20))
changes 'write -P 8 0 4M' 'write -P 9 11M 1M'
want 0 'a full one again' vdisk sync m.gow r.gow
check 'a full one again: identical' is_replica_of r.gow m.gow

# --- a replica that is a master itself
want 0 'a replica of a replica' vdisk sync r.gow rr.gow
check 'a replica of a replica: identical' is_replica_of rr.gow m.gow

# --- a copy of the master's file
cp m.gow copy.gow
changes 'write -P 10 64k 64k'
want 0 'a copy of the master as replica' vdisk sync --output=json m.gow copy.gow
out_json 'd["changed-blocks"] == 1'
check 'a copy of the master: identical' is_replica_of copy.gow m.gow

# --- refused replicas, and --force
vdisk sync -q m.gow r.gow
vdisk io -c 'write -P 99 128k 64k' r.gow > /dev/null
cp r.gow before
want 1 'a replica that was written to' vdisk sync m.gow r.gow
err_has 'r\.gow: not synced from m\.gow: it was written to since its last sync.*--force'
check 'written to: unchanged' same_bytes before r.gow
want 1 'delta to one that was written to' vdisk delta m.gow r.gow
want 0 'delta --force' vdisk delta --force --output=json m.gow r.gow
out_json 'd["fetched-blocks"] == 80 and d["forced"]'
want 0 'written to: forced' vdisk sync --force --output=json m.gow r.gow
out_json 'd["forced"]'
check 'written to: forced: identical' is_replica_of r.gow m.gow

vdisk create -q -f gow3 other.gow 40M
vdisk io -c 'write -P 77 0 40M' other.gow > /dev/null
want 1 'another lineage' vdisk sync m.gow other.gow
err_has 'belongs to another master.*UUID'
want 0 'another lineage: forced' vdisk sync --force m.gow other.gow
check 'another lineage: forced: identical' is_replica_of other.gow m.gow

cp m.gow old.gow
changes 'write -P 11 3M 64k'
vdisk sync -q m.gow r.gow
want 1 'ahead by generation' vdisk sync old.gow r.gow
err_has 'ahead of its master.*older state'
want 0 'ahead: forced' vdisk sync --force old.gow r.gow
check 'ahead: forced: identical' is_replica_of r.gow old.gow
vdisk sync -q m.gow r.gow
cp r.gow before
vdisk io -c 'write -P 12 5M 64k' -c 'write -P 13 0 64k' old.gow > /dev/null
vdisk io -c 'write -P 14 0 64k' old.gow > /dev/null
want 1 'ahead by a block' vdisk sync old.gow r.gow
err_has 'ahead of its master: block 48 has version [0-9]+, in old\.gow it has'
check 'ahead by a block: unchanged' same_bytes before r.gow
want 0 'ahead by a block: forced' vdisk sync --force old.gow r.gow
check 'ahead by a block: forced: identical' is_replica_of r.gow old.gow

# --- what is never overwritten
echo precious > text
: > empty
vdisk create -q -f gow2 two.gow 1M
for target in text empty two.gow; do
    cp $target before
    want 1 "$target" vdisk sync --force m.gow $target
    err_has 'is there, and is no GOW v3 image'
    check "$target: unchanged" same_bytes before $target
done
want 1 'the same file' vdisk sync m.gow ./m.gow
err_has 'are the same file'
want 1 'a replica on a server' vdisk sync m.gow http://127.0.0.1:1/r.gow
err_has 'a replica is a local file'
want 1 'no such directory' vdisk sync m.gow nowhere/r.gow
err_has 'nowhere'
want 1 'no such master' vdisk sync missing.gow new.gow
check 'no such master: no replica' test ! -e new.gow
want 1 'a master that is no GOW v3' vdisk sync two.gow new.gow
err_has 'only version 3'
want 1 'a master that is no GOW' vdisk sync text new.gow
check 'bad masters: no replica' test ! -e new.gow

# --- an incomplete replica is not a disk, but is synced
vdisk sync -q m.gow inc.gow
gow inc.gow 'put(16, "<I", 6); put(VERSIONS, "<I", 0)'
for verb in 'info' 'compare inc.gow' 'map' 'io -c length'; do
    read -ra words <<< "$verb"
    [ "${words[0]}" != info ] || continue
    want "$([ "${words[0]}" = compare ] && echo 2 || echo 1)" "incomplete: ${words[0]}" \
        vdisk "${words[@]}" inc.gow
    err_has 'incomplete'
done
want 2 'an incomplete master' vdisk sync inc.gow new.gow
err_has 'has not finished'
want 0 'an incomplete replica' vdisk sync --output=json m.gow inc.gow
out_json 'd["resumed"] and d["changed-blocks"] == 1'
check 'an incomplete replica: identical' is_replica_of inc.gow m.gow

# --- locks: somebody has it open
hold() {
    mkfifo hold
    "$C" io "$1" < hold > held &
    holder=$!
    exec 8> hold
    echo 'write 0 512' >&8
    for _ in {1..500}; do
        ! grep -q wrote held || break
        sleep 0.02
    done
}
let_go() {
    exec 8>&-
    wait "$holder"
    rm hold held
}
hold r.gow
want 1 'a replica in use' vdisk sync m.gow r.gow
err_has 'r\.gow'
let_go
vdisk sync -q --force m.gow r.gow
hold m.gow
want 2 'a master in use' vdisk sync m.gow r.gow
err_has 'being changed'
want 2 'a master in use: delta' vdisk delta m.gow r.gow
want 2 'a master in use: sums' vdisk sums m.gow
vdisk sync --wait 60 m.gow r.gow > waited 2>&1 8>&- &
waiter=$!
sleep 0.5
let_go
check 'waiting for a master in use' wait "$waiter"
wait
check 'waiting for a master in use: identical' is_replica_of r.gow m.gow

# --- a master whose writer died
cp m.gow dead.gow
hold dead.gow
kill -9 "$holder"
exec 8>&-
wait "$holder" 2> /dev/null || true
rm -f hold held
want 2 'a dead writer' vdisk sync --wait 20 dead.gow r.gow
err_has 'vdisk check -r all'
want 0 'a dead writer: repaired' vdisk check -q -r all dead.gow
cp m.gow r2.gow
want 0 'a dead writer: synced' vdisk sync dead.gow r2.gow
check 'a dead writer: identical' is_replica_of r2.gow dead.gow

# --- a damaged master
cp m.gow bad.gow
gow bad.gow 'put(MAP, "<I", 5000)'
want 1 'a map entry past the end of the file' vdisk sync bad.gow new.gow
err_has 'map entry 0 names host block 5000'
gow bad.gow 'put(MAP, "<I", u32(MAP + 4))'
want 1 'two map entries for one host block' vdisk sync bad.gow new.gow
err_has 'both name host block'
check 'damaged masters: no replica' test ! -e new.gow
gow bad.gow 'put(16, "<I", 0x80)'
want 1 'unknown flags' vdisk sync bad.gow new.gow
err_has 'unknown flags 0x80'
cp m.gow bad.gow
truncate -s 1000 bad.gow
want 1 'a master cut short' vdisk sync bad.gow new.gow
err_has 'bad\.gow'

# --- a damaged replica
vdisk sync -q m.gow hurt.gow
gow hurt.gow 'put(MAP, "<I", 5000); put(24, "<Q", 1)'
cp hurt.gow before
want 1 'a damaged replica' vdisk sync m.gow hurt.gow
err_has 'hurt\.gow: map entry 0 names host block 5000.*vdisk check'
check 'a damaged replica: unchanged' same_bytes before hurt.gow

# --- sums
want 0 'sums' vdisk sums --output=json m.gow
out_json 'd["blocks"] > 64 and d["generation"] > 1'
check 'sums: the file' test "$(stat -c %s m.gow.sums)" -gt 2000
want 0 'verified' vdisk sync --verify m.gow v.gow
check 'verified: identical' is_replica_of v.gow m.gow
changes 'write -P 15 64k 64k'
want 1 'sums of an older state' vdisk sync --verify m.gow v.gow
err_has 'm\.gow\.sums: these sums are of generation'
want 0 'sums elsewhere' vdisk sums -q -o elsewhere m.gow
want 0 'verified by sums elsewhere' vdisk sync --sums elsewhere m.gow v.gow
check 'verified by sums elsewhere: identical' is_replica_of v.gow m.gow
want 1 'no sums' vdisk sync --verify r.gow new.gow
err_has 'r\.gow\.sums'

# --- bad usage
want 1 'no operand' vdisk sync
err_has 'SOURCE and REPLICA'
want 1 'one operand' vdisk delta m.gow
want 1 'a bad window' vdisk sync --window 1K m.gow r.gow
err_has '--window'
want 1 'a bad run' vdisk sync --run 100000 m.gow r.gow
err_has 'multiple of 64K'
want 1 'a bad wait' vdisk sync --wait soon m.gow r.gow
err_has '--wait'
want 1 'no connections' vdisk sync --connections 100 m.gow r.gow

# --- options that change how it is fetched, not what
changes 'write -P 16 0 20M'
cp r.gow r1.gow
cp r.gow r2.gow
want 0 'one connection, small runs and window' \
    vdisk sync --connections 1 --run 64K --window 64K --output=json m.gow r1.gow
out_json 'd["runs"] == 320 and d["requests"] >= 322'
check 'one connection: identical' is_replica_of r1.gow m.gow
want 0 'a limited rate' vdisk sync --limit-rate 80M m.gow r2.gow
check 'a limited rate: identical' is_replica_of r2.gow m.gow
want 0 'progress' sh -c '"$0" sync -p --progress=5 m.gow r.gow 5> lines' "$C"
out_has '\(100\.00/100%\)'
check 'progress: JSON lines' grep -q '"phase": "sync".*"total-blocks": 320' lines

# --- no space for the replica
if [ "$(id -u)" = 0 ] && unshare -m true 2> /dev/null; then
    mkdir small
    want 0 'no space' unshare -m bash -c '
        set -e
        mount -t tmpfs -o size=25m none small
        status=0
        "$0" sync m.gow small/r.gow 2> message || status=$?
        [ "$status" = 1 ] && grep -q "No space left" message
        mount -o remount,size=100m small
        "$0" sync --output=json m.gow small/r.gow > json
        cp small/r.gow full.gow' "$C"
    check 'no space: goes on when there is some' python3 -c '
import json
d = json.load(open("json"))
assert d["resumed"] or d["created"], d
assert d["changed-blocks"] <= 320'
    check 'no space: identical in the end' is_replica_of full.gow m.gow
else
    skip 'no space' 'needs root'
fi

finish
