#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck disable=SC2016 # inner shells expand
# vdisk backup, with list, verify, prune and merge: options, words, JSON, exit statuses, and what is
# wrong with a source or a repository.
#
#   tests/cli/test-backup.sh VDISK
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# same POINT RAW: what the repository has is that disk; fails if nothing can be restored
same() {
    rm -f restored
    vdisk restore -q "$1" restored && cmp "$2" restored
}

# Keeps the disk of an image as it is now.
keep() {
    vdisk convert -f "$1" -O raw "$2" "$3"
}

# The file of a point gets another byte in its middle.
damage() {
    local middle=$(($(stat -c %s "$1") / 2)) byte
    byte=$(od -An -tu1 -j "$middle" -N 1 "$1")
    printf '%b' "\\x$(printf %02x $((byte ^ 1)))" | dd of="$1" bs=1 seek="$middle" conv=notrunc \
        status=none
}

# --- bad usage, in which nothing is made
want 1 'no operands' vdisk backup
err_has '^vdisk: backup: too few arguments: SOURCE and REPOSITORY wanted$'
want 1 'one operand' vdisk backup disk.qcow2
want 1 'three operands' vdisk backup a b c
err_has "unexpected argument 'c'"
want 1 'two kinds' vdisk backup --full --differential a repo
err_has 'choose one'
want 1 'a full one that compares' vdisk backup --full --compare a repo
want 1 'another format' vdisk backup -O raw a repo
err_has "^vdisk: backup: -O: 'raw' can not be stored"
want 1 'compressed qed' vdisk backup -c -O qed a repo
want 1 'a level of nothing' vdisk backup --compression-level=3 a repo
want 1 'a level that there is not' vdisk backup -c --compression-level=10 a repo
want 1 'a bitmap without a name' vdisk backup --bitmap= a repo
want 1 'a rate of nothing' vdisk backup --limit-rate=0 a repo
err_has 'would never end'
want 1 'workers' vdisk backup -m 0 a repo
want 1 'a verb behind options' vdisk backup -q list repo
err_has "'list' goes before all options: vdisk backup list"
want 1 'no such source' vdisk backup nothing.qcow2 repo
err_has '^vdisk: nothing.qcow2: '
check 'no repository is made of it' test ! -e repo
want 1 'a repository in no directory' vdisk backup -f raw /dev/null nowhere/repo
want 1 'list of nothing' vdisk backup list repo
err_has '^vdisk: repo'
want 1 'list without an operand' vdisk backup list
err_has "^Try 'vdisk backup list --help'"
want 1 'verify of nothing' vdisk backup verify repo
want 1 'prune that keeps nothing' vdisk backup prune repo
err_has 'say what to keep'
want 1 'prune that keeps 0' vdisk backup prune --keep-last=0 repo
want 1 'merge of one' vdisk backup merge repo 1
want 0 'help' vdisk backup --help
out_has '^  verify +Compare every byte'
want 0 'help of a verb within' vdisk help backup verify
out_has '^Usage: vdisk backup verify '
want 0 'its own help' vdisk backup prune --help
out_has '^Usage: vdisk backup prune '
want 1 'help of no verb within' vdisk help backup nothing

# --- qcow2, day by day
vdisk create -q -f qcow2 disk.qcow2 64M
vdisk io -c 'write -q -P 1 0 3M' -c 'write -q -P 2 40M 1M' disk.qcow2
want 0 'the first' vdisk backup disk.qcow2 repo
out_has '^point 1: full: looked at 64 MiB of 64 MiB, read 4 MiB, stored '
keep qcow2 disk.qcow2 1.raw
vdisk io -c 'write -q -P 3 1M 1M' -c 'write -q -z 40M 512k' disk.qcow2
want 0 'the second' vdisk backup --output=json disk.qcow2 repo
out_json "d['point'] == 2 and d['kind'] == 'incremental' and d['parent'] == 1"
out_json "d['tracker'] == 'bitmap' and d['virtual-size'] == 64 << 20 and not d['resumed']"
out_json "d['changed-bytes'] == 1536 << 10 and d['read-bytes'] == 1 << 20"
out_json "d['image'] == '000002.qcow2' and 1 << 20 < d['stored-bytes'] < 2 << 20"
keep qcow2 disk.qcow2 2.raw
vdisk io -c 'write -q -P 4 50M 64k' disk.qcow2
want 0 'differential' vdisk backup --differential disk.qcow2 repo
out_has '^point 3: differential on 1, by a bitmap: looked at 1.56 MiB of 64 MiB, '
keep qcow2 disk.qcow2 3.raw
want 0 'nothing has changed' vdisk backup --incremental disk.qcow2 repo
out_has '^point 4: incremental on 3, by a bitmap: looked at 0 B of 64 MiB, read 0 B, '
want 0 'quiet' vdisk backup -q disk.qcow2 repo
out_is ''
vdisk io -c 'write -q -P 5 10M 2M' disk.qcow2
want 0 'compressed' vdisk backup -c --compression-level=9 -m 2 disk.qcow2 repo
keep qcow2 disk.qcow2 6.raw
want 0 'all again' vdisk backup --full --limit-rate=1G disk.qcow2 repo
out_has '^point 7: full: '
for point in 1 2 3; do
    check "point $point" same repo@$point $point.raw
done
check 'point 4 is as the one before' same repo@4 3.raw
check 'point 6' same repo@6 6.raw
check 'the last one' same repo 6.raw
want 0 'bitmaps of the source' vdisk bitmap --list --output=json disk.qcow2
out_json "all(b['name'].startswith('vdisk-') and b['enabled'] for b in d) and 1 <= len(d) <= 2"
check 'the source is sound' vdisk check -q disk.qcow2

want 0 'list' vdisk backup list repo
out_has '^ POINT  TIME \(UTC\) +KIND +ON +SIZE +STORED +TRACKER +FLAGS$'
out_has '^     1  20[0-9-]{8} [0-9:]{8}  full  +-  +64 MiB  .* none +-$'
out_has '^     6  .*  incremental +5  +64 MiB .* bitmap +compressed$'
want 0 'list for programs' vdisk backup list --output=json repo
out_json "[p['point'] for p in d] == list(range(1, 8))"
out_json "[p['parent'] for p in d] == [0, 1, 1, 3, 4, 5, 0]"
out_json "[p['image'] for p in d][:2] == ['000001.qcow2', '000002.qcow2']"
out_json "d[5]['compressed'] and not d[4]['compressed'] and d[0]['time'].endswith('Z')"
out_json "not any(p['damaged'] or p['orphan'] for p in d) and d[0]['source-format'] == 'qcow2'"
want 0 'verify' vdisk backup verify repo
out_has '^7 points, [0-9]+ files, .*: no damage$'
want 0 'verify for programs' vdisk backup verify --output=json -m 1 repo
out_json "d['points'] == 7 and d['damages'] == 0 and d['damaged-points'] == 0"
out_json "d['bytes'] > 4 << 20 and d['files'] >= 7"
want 0 'verify of a point' vdisk backup verify --output=json repo@3
out_json "d['points'] == 2"
want 1 'verify of no point' vdisk backup verify repo@99
want 1 'verify of no name of a point' vdisk backup verify repo@tuesday
err_has 'tuesday'

# --- progress
want 0 'progress' vdisk backup -p disk.qcow2 repo
out_has '\(100.00/100%\)'
want 0 'progress for programs' bash -c '"$1" backup -q --progress=3 disk.qcow2 repo 3> lines' - "$C"
check 'its last line' bash -c 'tail -n 1 lines | grep -q "\"state\": \"done\""'

# --- prune and merge
want 0 'what would go' vdisk backup prune -n --keep-last=3 repo
out_has '^[0-9]+ points? would go$'
want 0 'nothing has gone' vdisk backup list --output=json repo
out_json 'len(d) == 9'
want 0 'merge' vdisk backup merge repo 4 6
out_has '^2 points removed, '
check 'what it made' same repo@6 6.raw
want 0 'list after it' vdisk backup list --output=json repo
out_json "[p['point'] for p in d] == [1, 2, 3, 6, 7, 8, 9] and d[3]['parent'] == 3"
want 1 'merge of points of two chains' vdisk backup merge repo 2 6
want 1 'merge backwards' vdisk backup merge repo 6 3
want 1 'merge of no point' vdisk backup merge repo 4 6
want 0 'prune' vdisk backup prune --keep-last=4 --output=json repo
out_json "d['removed-points'] == 3 and not d['dry-run'] and 'freed-bytes' in d"
want 0 'what is left' vdisk backup list --output=json repo
out_json "[p['point'] for p in d] == [6, 7, 8, 9] and d[0]['parent'] == 0"
check 'it reads as before' same repo@6 6.raw
want 0 'a day and a week' vdisk backup prune --keep-daily=2 --keep-weekly=1 repo
want 0 'the last of the day' vdisk backup list --output=json repo
out_json "1 <= len(d) <= 2 and d[-1]['point'] == 9"
want 0 'it is sound' vdisk backup verify repo
check 'it still is the disk' same repo 6.raw
vdisk io -c 'write -q -P 9 0 64k' disk.qcow2
want 0 'and goes on' vdisk backup --output=json disk.qcow2 repo
out_json "d['point'] == 10 and d['tracker'] == 'bitmap' and d['changed-bytes'] == 65536"
keep qcow2 disk.qcow2 10.raw
check 'as the disk is' same repo 10.raw

# --- qed repositories, and names of bitmaps
want 0 'qed' vdisk backup -q -O qed --bitmap=mine disk.qcow2 qed-repo
vdisk io -c 'write -q -P 10 2M 64k' disk.qcow2
want 0 'qed, the next one' vdisk backup -O qed --bitmap=mine --output=json disk.qcow2 qed-repo
out_json "d['image'] == '000002.qed' and d['changed-bytes'] == 65536"
keep qcow2 disk.qcow2 11.raw
check 'qed as the disk is' same qed-repo 11.raw
want 0 'bitmaps of both' vdisk bitmap --list --output=json disk.qcow2
out_json "{b['name'].split('-')[0] for b in d} == {'vdisk', 'mine'}"

# --- a source that stays as it is
vdisk create -q -f qcow2 still.qcow2 8M
vdisk io -c 'write -q -P 1 0 1M' still.qcow2
before=$(sha256sum still.qcow2)
want 0 'untracked' vdisk backup --untracked still.qcow2 still
check 'not one byte of it changed' test "$(sha256sum still.qcow2)" = "$before"
want 1 'nothing has recorded' vdisk backup still.qcow2 still
err_has 'make a full backup, or --compare$'
vdisk io -c 'write -q -P 2 1M 64k' still.qcow2
want 0 'so it is compared' vdisk backup --compare --output=json still.qcow2 still
out_json "d['tracker'] == 'compare' and d['changed-bytes'] == 8 << 20 and d['parent'] == 1"
out_json "d['stored-bytes'] < 1 << 20"
keep qcow2 still.qcow2 still.raw
check 'compared and right' same still still.raw
want 0 'after which it is recorded' vdisk backup --output=json still.qcow2 still
out_json "d['tracker'] == 'bitmap' and d['changed-bytes'] == 0"

# --- the other formats
vdisk create -q -f gow3 disk.gow 32M
vdisk io -c 'write -q -P 1 0 1M' disk.gow
want 0 'gow3' vdisk backup disk.gow gow
vdisk io -c 'write -q -P 2 5M 64k' disk.gow
want 0 'gow3, by versions' vdisk backup --output=json disk.gow gow
out_json "d['tracker'] == 'versions' and d['changed-bytes'] == 65536"
keep gow3 disk.gow gow.raw
check 'gow3 as it is' same gow gow.raw
truncate -s 32M base.raw
printf 'base' | dd of=base.raw conv=notrunc status=none
vdisk create -q -f add-cow -b base.raw -F raw -o image_file=cow.raw disk.cow
vdisk io -c 'write -q -P 1 1M 64k' disk.cow
want 0 'add-cow' vdisk backup disk.cow cow
vdisk io -c 'write -q -P 2 1M 128k' disk.cow
want 0 'add-cow, by what it has' vdisk backup --output=json disk.cow cow
out_json "d['tracker'] == 'overlay' and d['changed-bytes'] == 131072"
keep add-cow disk.cow cow-now.raw
check 'add-cow as it is' same cow cow-now.raw
cp base.raw disk.raw
want 0 'raw' vdisk backup -f raw disk.raw raw
want 1 'raw, of which nothing records' vdisk backup -f raw disk.raw raw
err_has 'compare'
printf 'more' | dd of=disk.raw bs=1 seek=20000000 conv=notrunc status=none
want 0 'raw, compared' vdisk backup --compare -f raw disk.raw raw
check 'raw as it is' same raw disk.raw

# --- bitmaps of NBD servers
vdisk create -q -f qcow2 served.qcow2 16M
vdisk io -c 'write -q -P 1 0 1M' served.qcow2
vdisk bitmap --add served.qcow2 monday

# from_server COMMAND...: with the export of served.qcow2 as $uri
from_server() {
    vdisk serve -r -k served.sock "$@"
}

want 0 'an export' from_server served.qcow2 \
    --run "'$C' backup --next-bitmap=monday --output=json \"\$uri\" nbd"
out_json "d['kind'] == 'full' and d['read-bytes'] == 1 << 20"
vdisk io -c 'write -q -P 2 8M 64k' -c 'write -q -P 0 8M 4k' served.qcow2
want 1 'an export without the bitmap' from_server served.qcow2 --run "'$C' backup \"\$uri\" nbd"
err_has 'monday'
want 0 'an export with it' from_server -B monday served.qcow2 \
    --run "'$C' backup --output=json \"\$uri\" nbd"
out_json "d['tracker'] == 'nbd' and d['parent'] == 1 and d['changed-bytes'] == 65536"
keep qcow2 served.qcow2 served.raw
check 'it is the disk' same nbd served.raw
want 1 'of which nothing records any more' from_server -B monday served.qcow2 \
    --run "'$C' backup \"\$uri\" nbd"
err_has 'no record'
want 0 'the one that is named' from_server -B monday served.qcow2 \
    --run "'$C' backup --bitmap=monday --next-bitmap=monday -q \"\$uri\" nbd"
check 'it is the disk as well' same nbd served.raw
want 1 'a bitmap for what has none' vdisk backup --bitmap=monday disk.gow gow
want 1 'a next bitmap for a file' vdisk backup --next-bitmap=monday disk.qcow2 repo

# --- a source that goes away
vdisk create -q -f raw gone.raw 64M
vdisk io -f raw -c 'write -q -P 7 0 64M' gone.raw
"$C" serve -q -t -r -f raw -k gone.sock gone.raw &
server=$!
until [ -S gone.sock ]; do sleep 0.1; done
"$C" backup --retries=0 --limit-rate=8M 'nbd+unix:///?socket=gone.sock' gone > "$work/out" \
    2> "$work/err" &
backup=$!
until [ -e gone/partial.json ]; do sleep 0.1; done
kill -9 "$server"
wait "$server" || true
rm -f gone.sock
status=0
wait "$backup" || status=$?
check 'the source goes away: status 1' test "$status" -eq 1
err_has 'gone.sock'
want 0 'there is no point' vdisk backup list --output=json gone
out_json 'd == []'
"$C" serve -q -t -r -f raw -k gone.sock gone.raw &
server=$!
until [ -S gone.sock ]; do sleep 0.1; done
want 0 'and is here again' vdisk backup --output=json 'nbd+unix:///?socket=gone.sock' gone
out_json "d['resumed'] and d['point'] == 1"
kill "$server"
wait "$server" || true
check 'it is all there' same gone gone.raw

# --- what the source names, and how it is opened
mkdir elsewhere
cp base.raw elsewhere/base.raw
mkdir below
vdisk create -q -f qcow2 -b elsewhere/base.raw -F raw overlays.qcow2
mv overlays.qcow2 below/
vdisk rebase -q -u --allow-path=. -b ../elsewhere/base.raw -F raw below/overlays.qcow2
want 1 'a backing file that may not be opened' vdisk backup below/overlays.qcow2 overlays
err_has '--allow-path'
want 0 'that may' vdisk backup -T none --allow-path=elsewhere below/overlays.qcow2 overlays
check 'a point is all of the disk' same overlays base.raw
want 1 'a backing file that is not wanted' vdisk backup --no-backing below/overlays.qcow2 overlays
want 1 'sharing, and so no bitmaps' vdisk backup -U disk.qcow2 repo
err_has 'no record'
want 0 'sharing, and none' vdisk backup -U disk.qcow2 shared
want 0 'progress beside JSON' vdisk backup -p --output=json --compare -f raw base.raw progress
out_json "d['point'] == 1"
err_has '\(100.00/100%\)'

# --- a source that is in the way, or not the right one
vdisk create -q -f qcow2 other.qcow2 64M
want 1 'another disk' vdisk backup other.qcow2 repo
err_has 'other.qcow2'
want 1 'another disk, compared' vdisk backup --compare other.qcow2 repo
want 0 'nothing has changed by that' vdisk backup list --output=json repo
out_json "d[-1]['point'] == 10"
want 0 'which the source does not notice' vdisk bitmap --list --output=json other.qcow2
out_json 'd == []'
mv still.qcow2 moved.qcow2
want 0 'a file that has moved is known by its bitmap' vdisk backup moved.qcow2 still
mv disk.raw moved.raw
want 1 'one that nothing proves' vdisk backup --compare -f raw moved.raw raw
err_has '--moved'
want 0 'unless somebody says so' vdisk backup --moved --compare -f raw moved.raw raw

vdisk create -q -f qcow2 resized.qcow2 8M
vdisk io -c 'write -q -P 1 0 8M' resized.qcow2
vdisk backup -q resized.qcow2 resized
for size in 12M 6M 9M; do
    vdisk resize -q --shrink resized.qcow2 $size
    want 0 "a disk that is $size now" vdisk backup --output=json resized.qcow2 resized
    out_json "d['virtual-size'] == ${size%M} << 20 and d['kind'] == 'incremental'"
    keep qcow2 resized.qcow2 "$size.raw"
done
for size in 12M:2 6M:3 9M:4; do
    check "as it was at ${size%:*}" same "resized@${size#*:}" "${size%:*}.raw"
done

printf 'secret' > pass
vdisk create -q -f qcow2 --object secret,id=s,file=pass \
    -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 crypt.qcow2 1M
want 1 'an encrypted disk' vdisk backup --passphrase-file=pass crypt.qcow2 crypt
err_has '--in-clear'
want 0 'in clear' vdisk backup --in-clear --passphrase-file=pass crypt.qcow2 crypt
want 1 'an encrypted disk without its passphrase' vdisk backup --in-clear crypt.qcow2 crypt

# --- a bitmap that is inconsistent, as a writer that died leaves it
mkfifo commands
"$C" io disk.qcow2 < commands > /dev/null 2>&1 &
writer=$!
exec 9> commands
printf 'write -q -P 6 3M 64k\nflush\n' >&9
until vdisk bitmap -U --list --output=json disk.qcow2 2> /dev/null | grep -q in-use; do sleep 0.1; done
want 1 'a source that somebody writes' vdisk backup disk.qcow2 repo
err_has 'disk.qcow2'
kill -9 "$writer"
wait "$writer" || true
exec 9>&-
want 1 'an inconsistent bitmap' vdisk backup disk.qcow2 repo
err_has 'vdisk bitmap --recover'
want 0 'the points are as before' vdisk backup list --output=json repo
out_json "d[-1]['point'] == 10"
name=$(vdisk bitmap --list --output=json disk.qcow2 | python3 -c '
import json, sys
print([b["name"] for b in json.load(sys.stdin) if b["name"].startswith("vdisk-")][-1])')
for name in $(vdisk bitmap --list --output=json disk.qcow2 | python3 -c '
import json, sys
print(*[b["name"] for b in json.load(sys.stdin) if b["name"].startswith("vdisk-")])'); do
    want 0 'it is recovered' vdisk bitmap --recover disk.qcow2 "$name"
done
want 0 'after which it can go on' vdisk backup --output=json disk.qcow2 repo
out_json "d['point'] == 11 and d['tracker'] == 'bitmap'"
keep qcow2 disk.qcow2 12.raw
check 'and is right' same repo 12.raw

# --- two at once
truncate -s 64M slow.raw
vdisk io -f raw -c 'write -q -P 1 0 64M' slow.raw
"$C" backup -q -f raw --limit-rate=8M slow.raw slow > /dev/null 2>&1 &
first=$!
until [ -e slow/partial.json ]; do sleep 0.1; done
want 1 'two backups at once' vdisk backup -f raw --full slow.raw slow
err_has 'slow'
want 1 'a prune meanwhile' vdisk backup prune --keep-last=1 slow
want 0 'a list meanwhile' vdisk backup list --output=json slow
out_json 'd == []'
kill -9 "$first"
wait "$first" || true
want 0 'and when the first was killed' vdisk backup -f raw --output=json slow.raw slow
out_json "d['point'] == 1 and d['resumed']"
check 'it is the disk' same slow slow.raw
"$C" backup -q -f raw --full --limit-rate=8M slow.raw slow > /dev/null 2>&1 &
first=$!
until [ -e slow/partial.json ]; do sleep 0.1; done
kill -9 "$first"
wait "$first" || true
want 0 'it may also begin anew' vdisk backup -f raw --full --restart --output=json slow.raw slow
out_json "d['point'] == 2 and not d['resumed'] and d['read-bytes'] == 64 << 20"
check 'it is the disk, too' same slow@2 slow.raw

# --- a full target
vdisk create -q -f qcow2 large.qcow2 16M
vdisk io -c 'write -q -P 1 0 512k' large.qcow2
vdisk backup -q large.qcow2 limited
keep qcow2 large.qcow2 large.raw
vdisk io -c 'write -q -P 2 1M 8M' large.qcow2
want 1 'files that may not be so long' bash -c '
    trap "" XFSZ
    ulimit -f 4096
    exec "$1" backup large.qcow2 limited' - "$C"
err_has 'limited/'
want 0 'the point is as before' vdisk backup verify --output=json limited
out_json "d['points'] == 1"
check 'and so is the disk' same limited large.raw
keep qcow2 large.qcow2 large.raw
want 0 'and the next one gets all' vdisk backup --output=json large.qcow2 limited
out_json "d['point'] == 2 and d['resumed'] and d['changed-bytes'] == 8 << 20"
check 'all of it' same limited large.raw

if [ "$(id -u)" -eq 0 ] && mkdir small && mount -t tmpfs -o size=3m tmpfs small 2> /dev/null; then
    trap 'umount "$work/files/small"; rm -rf "$work"' EXIT
    vdisk create -q -f qcow2 full.qcow2 16M
    vdisk io -c 'write -q -P 1 0 512k' full.qcow2
    want 0 'a small target' vdisk backup full.qcow2 small/repo
    keep qcow2 full.qcow2 small.raw
    vdisk io -c 'write -q -P 2 1M 4M' full.qcow2
    want 1 'that is full' vdisk backup full.qcow2 small/repo
    err_has 'small/repo.*: No space left on device|small/repo.*[Nn]o space'
    want 0 'has the point that it had' vdisk backup verify --output=json small/repo
    out_json "d['points'] == 1"
    check 'which reads as before' same small/repo small.raw
    mount -o remount,size=16m small
    want 0 'and goes on when there is room' vdisk backup --output=json full.qcow2 small/repo
    out_json "d['point'] == 2 and d['resumed']"
    keep qcow2 full.qcow2 small.raw
    check 'with all of it' same small/repo small.raw
else
    skip 'a full target' 'needs the rights to mount'
fi

# --- damage
want 0 'before it' vdisk backup verify raw
damage raw/000002.qcow2
want 2 'a byte is altered' vdisk backup verify raw
err_has '000002.qcow2'
out_has '2 points can not be restored|2 damage'
want 2 'and quietly' vdisk backup verify -q raw
out_is ''
want 2 'for programs' vdisk backup verify --output=json raw
out_json "d['damages'] == 1 and d['damaged-points'] == 2 and d['points'] == 3"
want 0 'what lies below it is good' vdisk backup verify raw@1
want 1 'it is not restored' vdisk restore raw@2 damaged.raw
err_has '000002.qcow2'
check 'not even in part' test ! -e damaged.raw
damage raw/000002.json
want 2 'a manifest is altered' vdisk backup verify raw
err_has '000002.json'
want 0 'the list has it' vdisk backup list raw
out_has '^     2  - .* damaged$'
out_has '^     3  20.* orphan$'
want 0 'for programs, too' vdisk backup list --output=json raw
out_json "d[1] == {'point': 2, 'damaged': True} and d[2]['orphan']"
rm raw/000001.qcow2
want 2 'a parent is missing' vdisk backup verify raw
err_has '000001.qcow2'
want 1 'so nothing is restored' vdisk restore raw@3 damaged.raw
want 1 'nor added to' vdisk backup --compare --moved -f raw moved.raw raw
want 0 'but for a full one' vdisk backup --full --moved -f raw moved.raw raw
check 'which is good' same raw moved.raw

# --- keys
head -c 32 /dev/urandom > key
{ cat key; echo; } > key-and-newline
head -c 32 /dev/urandom > wrong
head -c 15 /dev/urandom > short
want 1 'a short key' vdisk backup --key-file=short moved.qcow2 keyed
err_has 'at least 16'
want 1 'no file with a key' vdisk backup --key-file=nothing moved.qcow2 keyed
want 0 'a key' vdisk backup --key-file=key moved.qcow2 keyed
keep qcow2 moved.qcow2 keyed.raw
want 0 'a newline behind it is not part of it' vdisk backup list --key-file=key-and-newline keyed
for verb in 'backup list' 'backup verify' 'backup prune --keep-last=1'; do
    # shellcheck disable=SC2086 # two words
    want 1 "$verb without it" vdisk $verb keyed
    err_has 'key'
    # shellcheck disable=SC2086 # two words
    want 1 "$verb with another" vdisk $verb --key-file=wrong keyed
done
want 1 'restore without it' vdisk restore keyed keyed-restored.raw
want 1 'backup without it' vdisk backup moved.qcow2 keyed
want 1 'backup with another' vdisk backup --key-file=wrong moved.qcow2 keyed
want 0 'verify with it' vdisk backup verify --key-file=key keyed
check 'the key is not in the repository' bash -c '! grep -rqaFf key keyed'
damage keyed/000001.json
want 2 'a manifest that is altered' vdisk backup verify --key-file=key keyed
err_has '000001.json'
want 1 'a key for one that has none' vdisk backup list --key-file=key repo
want 1 'nor for a backup to it' vdisk backup --key-file=key disk.qcow2 repo

# --- interrupted
vdisk create -q -f qcow2 long.qcow2 64M
vdisk io -c 'write -q -P 1 0 64M' long.qcow2
"$C" backup --limit-rate=8M long.qcow2 long > "$work/out" 2> "$work/err" &
until [ -e long/partial.json ]; do sleep 0.1; done
kill -TERM $!
status=0
wait $! || status=$?
last=interrupted
check 'interrupted: its status' test "$status" -eq 143
err_has 'goes on from there'
want 0 'the next one goes on' vdisk backup --output=json long.qcow2 long
out_json "d['point'] == 1 and d['resumed']"
keep qcow2 long.qcow2 long.raw
check 'and has all of it' same long long.raw

finish
