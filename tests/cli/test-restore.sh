#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck disable=SC2016 # inner shells expand
# vdisk restore, and points as exports of vdisk serve.
#
#   tests/cli/test-restore.sh VDISK
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

vdisk create -q -f qcow2 disk.qcow2 16M
for point in 1 2 3; do
    vdisk io -c "write -q -P $point $((point - 1))M 1M" disk.qcow2
    vdisk backup -q disk.qcow2 repo
    vdisk convert -O raw disk.qcow2 $point.raw
done

# --- which point
want 0 'the last' vdisk restore repo out.raw
out_has "^point 3, of 20[0-9-]{8} [0-9:]{8} UTC, restored to 'out.raw'$"
check 'is the last' cmp 3.raw out.raw
for point in 1 2 3; do
    want 0 "point $point" vdisk restore -q repo@$point out.raw
    out_is ''
    check "is point $point" cmp $point.raw out.raw
done
want 0 'a number with zeros' vdisk restore -q repo@000002 out.raw
check 'is that point' cmp 2.raw out.raw
for word in '' latest 2999-01-01 2999-01-01T00:00:00Z; do
    want 0 "the point '$word'" vdisk restore -q "repo@$word" out.raw
    check "'$word' is the last" cmp 3.raw out.raw
done
want 1 'before there was one' vdisk restore repo@2001-01-01 no.raw
want 1 'no such point' vdisk restore repo@4 no.raw
err_has '4'
want 1 'no point at all' vdisk restore repo@yesterday no.raw
want 1 'no such day' vdisk restore repo@2026-02-31 no.raw
check 'none of these has made a file' test ! -e no.raw
mkdir with@in
mv repo with@in/repo@home
want 0 'a directory with an @' vdisk restore -q with@in/repo@home out.raw
check 'is a repository' cmp 3.raw out.raw
want 0 'and a point of it' vdisk restore -q with@in/repo@home@1 out.raw
check 'is that one' cmp 1.raw out.raw
mv with@in/repo@home repo

# --- where to
for format in qcow2 qed gow3; do
    want 0 "$format" vdisk restore -O $format --output=json repo@2 out.$format
    out_json "d['point'] == 2 and d['format'] == '$format' and d['virtual-size'] == 16 << 20"
    out_json "d['filename'] == 'out.$format' and d['data-bytes'] == 2 << 20"
    check "$format is the disk" vdisk compare -f raw 2.raw out.$format
done
want 0 'compressed' vdisk restore -c -O qcow2 -o compression_type=zstd,cluster_size=32k \
    --output=json repo out.qcow2
out_json "d['compressed-bytes'] == 3 << 20"
check 'it is small' test "$(stat -c %s out.qcow2)" -lt 1000000
want 0 'its options' vdisk info --output=json out.qcow2
out_json "d['cluster-size'] == 32768"
want 0 'options that there are' vdisk restore -O qcow2 -o help
out_has '^cluster_size|cluster_size='
want 1 'a backing file' vdisk restore -O qcow2 -o backing_file=1.raw,backing_fmt=raw repo no.qcow2
err_has 'stands alone'
want 1 'a size' vdisk restore -O qcow2 -o size=1G repo no.qcow2
want 1 'an unknown format' vdisk restore -O vmdk repo no.vmdk
want 1 'a directory that is not there' vdisk restore repo nowhere/out.raw
truncate -s 32M there.raw
printf 'end' | dd of=there.raw bs=1 seek=20M conv=notrunc status=none
want 0 'into what is there' vdisk restore -q -n -O raw repo@1 there.raw
check 'it is the disk' cmp -n $((16 << 20)) 1.raw there.raw
check 'what is behind it stays' cmp -i $((20 << 20)):0 -n 3 there.raw <(printf 'end')
truncate -s 0 zero.raw
truncate -s 16M zero.raw
want 0 'into zeros' vdisk restore -q -n --target-is-zero -O raw repo zero.raw
check 'that is right as well' cmp 3.raw zero.raw
want 1 'zeros of a new file' vdisk restore --target-is-zero repo out.raw
want 1 'options of no new file' vdisk restore -n -o preallocation=full -O raw repo there.raw
truncate -s 1M short.raw
want 1 'into what is too short' vdisk restore -n -O raw repo short.raw
want 0 'slowly, alone' vdisk restore -q -m 1 --limit-rate=100M -t unsafe repo out.raw
check 'is the same' cmp 3.raw out.raw
want 1 'a level of nothing' vdisk restore --compression-level=3 -O qcow2 repo no.qcow2
want 1 'a rate of nothing' vdisk restore --limit-rate=0 repo no.raw
want 1 'one operand' vdisk restore repo
err_has 'REPOSITORY\[@POINT\] and TARGET wanted'
want 1 'no repository' vdisk restore nothing out2.raw
want 1 'an image is no repository' vdisk restore disk.qcow2 out2.raw
want 0 'progress' vdisk restore -p repo out.raw
out_has '\(100.00/100%\)'

# --- interrupted
vdisk create -q -f qcow2 long.qcow2 64M
vdisk io -c 'write -q -P 1 0 64M' long.qcow2
vdisk backup -q long.qcow2 long
"$C" restore --limit-rate=8M long long.raw > "$work/out" 2> "$work/err" &
sleep 1
kill -TERM $!
status=0
wait $! || status=$?
check 'interrupted: its status' test "$status" -eq 143
check 'nothing is left of it' bash -c '! ls -A | grep -q long.raw'

# --- while others have it open
want 0 'a point is served' vdisk serve repo@2 --run "'$C' restore -q -n -O raw repo@1 there.raw"
want 1 'what is served is not merged' vdisk serve repo@2 --run "'$C' backup merge repo 1 2"
err_has 'repo'
want 0 'but may be added to' vdisk serve repo@2 --run "'$C' backup -q disk.qcow2 repo"

# --- serving
if ! have nbdinfo || ! have nbdcopy; then
    skip 'points as exports' 'no nbdinfo, or no nbdcopy'
    finish
    exit
fi
for point in 1 2 3; do
    want 0 "point $point" vdisk serve repo@$point --run 'nbdcopy "$uri" out.raw'
    check "point $point is served" cmp $point.raw out.raw
done
want 0 'the last point' vdisk serve repo@ --run 'nbdcopy "$uri" out.raw'
check 'is served' cmp 3.raw out.raw
want 0 'it is for reading' vdisk serve repo@1 --run 'nbdinfo --is read-only "$uri"'
want 0 'for many' vdisk serve repo@1 --run 'nbdinfo --can multi-conn "$uri"'
want 0 'only what is there is data' vdisk serve repo@1 --run 'nbdinfo --map --totals --json "$uri"'
out_json "[e['size'] for e in d if e['type'] == 0] == [1 << 20]"
want 0 'beside an image' vdisk serve repo@1 disk.qcow2 --run 'nbdinfo --list --json "$uri"'
out_json "[e['export-name'] for e in d['exports']] == ['repo@1', 'disk.qcow2']"
out_json "[e['is_read_only'] for e in d['exports']] == [True, False]"
for option in '-f raw' '-l x' '-B x' '-U' '--cache=none'; do
    # shellcheck disable=SC2086 # two words
    want 1 "not with $option" vdisk serve -r $option repo@1 --run true
    err_has 'is a point of a repository'
done
want 1 'a repository without a point' vdisk serve repo --run true
err_has 'repo@ is its last point'
want 1 'no such point' vdisk serve repo@77 --run true
want 1 'a key of nothing' vdisk serve --key-file=1.raw disk.qcow2 --run true
err_has '--key-file'
head -c 20 /dev/urandom > key
vdisk backup -q --key-file=key disk.qcow2 keyed
want 1 'without its key' vdisk serve keyed@1 --run true
want 0 'with its key' vdisk serve --key-file=key keyed@1 --run 'nbdcopy "$uri" out.raw'
check 'the disk is served' cmp 3.raw out.raw

# Damage is an error of reading, never other data.
middle=$(($(stat -c %s repo/000001.qcow2) / 2))
printf '\377' | dd of=repo/000001.qcow2 bs=1 seek=$middle conv=notrunc status=none
want 1 'a damaged point' vdisk serve repo@1 --run 'nbdcopy "$uri" out.raw'

finish
