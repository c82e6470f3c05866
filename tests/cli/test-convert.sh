#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk convert: what comes out, what is left when it fails, words and statuses.
#
#   tests/cli/test-convert.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

blocks() { # allocated bytes
    echo $(($(stat -c %b "$1") * 512))
}

# takes NAME LOW HIGH: the space a file takes lies between these
takes() {
    [ "$(blocks "$1")" -ge "$2" ] && [ "$(blocks "$1")" -le "$3" ]
}

# files LIST: these are here, hidden ones included, and no others
files() {
    [ "$(find . -mindepth 1 -printf '%P\n' | sort | tr '\n' ' ')" = "$1 " ]
}

# 64 MiB, with 1 MiB of data at 8 MiB, zeros that are written at 16 MiB, and data at the end
truncate -s 64M a
head -c 1M /dev/urandom | dd of=a bs=1M seek=8 conv=notrunc status=none
head -c 1M /dev/zero | dd of=a bs=1M seek=16 conv=notrunc status=none
head -c 12345 /dev/urandom | dd of=a bs=1 seek=$((64 * 1048576 - 12345)) conv=notrunc status=none

want 0 'raw to raw' vdisk convert -f raw -O raw a b
out_is ''
err_is ''
check 'the same bytes' cmp a b
check 'zeros became holes' takes b 1048576 1200000
want 0 'raw is the default' vdisk convert a c
check 'the same bytes' cmp a c
want 0 'to gow3' vdisk convert -f raw -O gow a g
want 0 'from gow3, which is found by looking' vdisk convert g d
check 'the same bytes' cmp a d
check 'with holes' takes d 1048576 1300000
rm b c d

for format in raw gow1 gow2 gow3; do
    for workers in 1 2 3 8 16; do
        want 0 "$format, -m $workers" vdisk convert -q -m "$workers" -W -f raw -O "$format" a t
        want 0 "$format, -m $workers: compared" vdisk compare -q -f raw -F "$format" a t
    done
    rm t
done

# --- holes
want 0 '-S 0' vdisk convert -S 0 a b
check 'the same bytes' cmp a b
check 'no holes' takes b 67108864 70000000
want 0 '-S 0 to gow3' vdisk convert -S 0 -O gow3 a b
want 0 'no holes in it' vdisk map --output=json b
out_json 'all(e["data"] or e["present"] for e in d)'
# 4 KiB of data, 4 KiB of zeros, and so on, all of it written
head -c 8192 /dev/urandom | dd of=unit bs=8k status=none
dd if=/dev/zero of=unit bs=4k seek=1 count=1 conv=notrunc status=none
for _ in $(seq 64); do cat unit; done > stripes
want 0 'short zeros' vdisk convert stripes b
check 'each is a hole' takes b 262144 280000 # the list of extents takes space too
want 0 '-S 8k' vdisk convert -S 8k stripes b
check 'none is a hole' takes b 516096 524288 # but for those at the very end
check 'the same bytes' cmp stripes b
want 0 '-S 512' vdisk convert -S 512 stripes b
check 'the same bytes' cmp stripes b
want 1 '-S, not a multiple of 512' vdisk convert -S 1000 a b
err_has 'sparse_bytes is 1000: must be a multiple of 512'
want 1 '-S, too large' vdisk convert -S 1G a b
want 1 '-S, no size' vdisk convert -S many a b
rm b

# --- several sources
head -c 1000 /dev/urandom > odd
want 0 'several sources' vdisk convert -f raw odd a odd b
truncate -s 1024 odd
check 'one behind the other' cmp <(cat odd a odd) b
rm b

# --- into an image that is there
truncate -s 65M b
tr '\0' '\377' < b > c
cp c b
want 1 '-n does not guess raw' vdisk convert -n a b
check 'nothing was written' cmp b c
want 0 '-n' vdisk convert -n -O raw a b
check 'the bytes of the source' cmp -n $((64 << 20)) a b
check 'and behind them what was there' cmp -i $((64 << 20)) b c
vdisk create -q -f gow3 n 64M
want 0 '-n looks at the target' vdisk convert -n a n
want 0 'the same' vdisk compare -q a n
want 0 'it is still gow3' vdisk info --output=json n
out_json 'd["format"] == "gow3"'
rm n
truncate -s 64M n
want 0 '-n --target-is-zero' vdisk convert -n --target-is-zero -O raw a n
check 'the same bytes' cmp a n
check 'with holes' takes n 1048576 1200000
truncate -s 1M n
want 1 '-n, too small' vdisk convert -n -O raw a n
err_has 'n: the disk has 1048576 bytes, the sources have 67108864: resize it first'
want 1 '-n, not there' vdisk convert -n -O raw a nothing
want 1 '--target-is-zero alone' vdisk convert --target-is-zero a n
err_has '--target-is-zero requires use of -n flag'
want 1 '-n with -o' vdisk convert -n -o size=1G -O raw a n
rm n b c

# --- the target that was there
echo precious > t
chmod 640 t
ln t hard
ln -s t soft
want 0 'over an old file, through a link' vdisk convert a soft
check 'the same bytes' cmp a t
check 'its mode' test "$(stat -c %a t)" = 640
check 'the link is still one' test -L soft
check 'another name keeps the old content' grep -q precious hard
rm t hard soft
(umask 027 && vdisk convert -q a t)
check 'a new file obeys the umask' test "$(stat -c %a t)" = 640
rm t

# --- refusals
echo precious > t
want 1 '-c into raw' vdisk convert -c a t
err_has '^vdisk: t: images of format raw have no compressed clusters: use another one \(-O qcow2\)$'
want 1 '-c into gow3' vdisk convert -c -O gow3 a t
want 1 '-c -n into raw' vdisk convert -c -n -O raw b t
check 'the file is as it was' grep -q precious t
want 1 '-c with -C' vdisk convert -c -C a t
err_has 'Cannot enable copy offloading when -c is used'
want 1 'a level without -c' vdisk convert --compression-level=3 a t
err_has '^vdisk: convert: --compression-level: has a meaning with -c only$'
for level in 0 10 a ''; do
    want 1 "level '$level'" vdisk convert -c --compression-level="$level" a t
done
err_has "^vdisk: convert: --compression-level: '' is not one of 1 to 9$"
rm t

want 1 'the same file' vdisk convert a a
err_has '^vdisk: a: source and target are the same file \(a\)$'
ln -s a soft
ln a hard
want 1 'the same file by a symbolic link' vdisk convert a soft
want 1 'the same file by a hard link' vdisk convert -n -O raw hard a
rm soft hard
want 1 'one name' vdisk convert a
err_has 'SOURCE... TARGET wanted'
want 1 'no source' vdisk convert nothing b
err_has '^vdisk: nothing: .*No such file'
want 1 'no directory' vdisk convert a no/where
err_has 'no/where'
want 1 'a directory' vdisk convert a .
want 1 'a device that is no disk' vdisk convert a /dev/full
want 1 'a URL' vdisk convert a http://127.0.0.1:1/x
want 1 'an unknown format' vdisk convert -O vmdk a b
want 1 'too large for the format' vdisk convert -O gow1 -o size=65G a b
want 1 'a size below that of the source' vdisk convert -o size=1M a b
err_has 'b: size of 1048576 bytes: the sources have 67108864'
want 1 'an overlay of a format without' vdisk convert -B x -F raw a b
err_is "vdisk: Backing file not supported for file format 'raw'"
want 1 'a format of no backing file' vdisk convert -F raw a b
err_is 'vdisk: -F has no meaning without a backing file (-b)'
want 1 '--bitmaps of a source that has none' vdisk convert --bitmaps -O qcow2 a b
err_is 'vdisk: a: the source lacks bitmap support'
want 1 '--skip-broken-bitmaps alone' vdisk convert --skip-broken-bitmaps a b
err_has 'Use of --skip-broken-bitmaps requires --bitmaps'
for option in --target-image-opts --image-opts '--object x'; do
    # shellcheck disable=SC2086 # an option and its argument
    want 1 "$option is refused" vdisk convert $option a b
    err_has '^vdisk: convert: -'
done
want 1 '-r 0' vdisk convert -r 0 a b
want 1 '-m 0' vdisk convert -m 0 a b
want 1 '-m 65' vdisk convert -m 65 a b
want 1 '-C with --salvage' vdisk convert -C --salvage a b
check 'no refusal has left anything' files 'a g odd stripes unit'

# --- a locked target
vdisk create -q -f raw busy 1M
cp busy before
exec 7<> busy
python3 - 7 <<'PYTHON'
import fcntl, struct, sys
# "write" is in use: QEMU's byte 101, held by the open file, not by this process.
fcntl.fcntl(int(sys.argv[1]), 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 101, 1, 0))
PYTHON
want 1 'a target in use is not replaced' vdisk convert a busy
err_has 'lock'
check 'it is as it was' cmp busy before
exec 7>&-
rm busy before

# --- growing, options, output
want 0 '-o size' vdisk convert -o size=100M a b
check 'the size' test "$(stat -c %s b)" = 104857600
want 0 '-o preallocation' vdisk convert -o preallocation=falloc a b
check 'space is set aside' takes b 67108864 70000000
check 'the same bytes' cmp a b
want 0 '-o help' vdisk convert -O raw -o help
out_has preallocation
want 0 'quiet JSON' vdisk convert -q --output=json -O gow3 a b
out_is ''
want 0 'JSON' vdisk convert --output=json -O gow3 a b
out_json 'd["filename"] == "b" and d["format"] == "gow3" and d["virtual-size"] == 64 << 20'
out_json '1 << 20 <= d["data-bytes"] < 2 << 20 and d["salvaged-bytes"] == 0'
want 0 '-p' vdisk convert -p a b
check 'qemu-img bytes' grep -q '^    (0.00/100%)' "$work/out"
out_has '\(100\.00/100%\)'
want 0 '-q wins' vdisk convert -p -q a b
out_is ''
want 0 '--progress=FD' bash -c '"$0" convert --progress=3 a b 3> lines' "$C"
check 'JSON lines' python3 -c 'import json
lines = [json.loads(line) for line in open("lines")]
assert lines[0]["state"] == "begin" and lines[-1]["state"] == "done"
assert lines[-1]["percent"] == 100 and lines[-1]["phase"] == "copy"'
rm lines b
for cache in none writeback writethrough directsync unsafe; do
    want 0 "-t $cache -T $cache" vdisk convert -t "$cache" -T "$cache" -O gow3 a b
    want 0 "-t $cache -T $cache: compared" vdisk compare -q a b
done
want 0 '-C' vdisk convert -C a b
check 'the same bytes' cmp a b
want 0 '-r' vdisk convert -r 100M a b
check 'the same bytes' cmp a b
rm b

# --- cancelled in the middle: 40 MiB of data at 2 MiB/s would take 20 s
head -c 40M /dev/urandom > data
echo precious > t
for signal in INT TERM; do
    status=0
    "$C" convert -r 2M -m 1 data t & pid=$!
    for _ in $(seq 100); do
        [ -z "$(find . -name '*.part' -size +0)" ] || break
        sleep 0.1
    done
    kill -s "$signal" "$pid"
    wait "$pid" || status=$?
    check "SIG$signal: status" test "$status" = $((128 + $(kill -l "$signal")))
    check "SIG$signal: the old target is there, nothing else" files 'a data g odd stripes t unit'
    check "SIG$signal: as it was" grep -q precious t
done
"$C" convert -r 2M -m 1 data t & pid=$!
for _ in $(seq 100); do
    [ -z "$(find . -name '*.part' -size +0)" ] || break
    sleep 0.1
done
kill -s KILL "$pid"
wait "$pid" || :
check 'SIGKILL: as it was' grep -q precious t
check 'SIGKILL: only the unfinished file is left' test "$(find . -name '.t.vdisk-*.part' | wc -l)" = 1
rm -f .t.vdisk-*.part t

# --- a full disk
mkdir small
if [ "$(id -u)" -eq 0 ] && unshare -m true 2> /dev/null; then
    full() { # TARGET-COMMAND...: runs in a small file system, which then is looked at
        unshare -m bash -c 'mount -t tmpfs -o size=1M none small && cd small &&
            { [ "$1" != old ] || echo precious > t; } && shift && "$@"; status=$?
            ls -A; cat t 2>&1; exit $status' full "$@"
    }
    want 1 'a full disk, raw' full new "$C" convert ../data t
    err_has '^vdisk: t: .*No space left on device'
    out_is 'cat: t: No such file or directory'
    want 1 'a full disk, an old file' full old "$C" convert ../data t
    out_is 't
precious'
    want 1 'a full disk, gow3' full new "$C" convert -O gow3 ../data t
    err_has '^vdisk: t: .*No space left on device'
    out_is 'cat: t: No such file or directory'
    want 1 'a full disk, -S 0' full new "$C" convert -S 0 ../a t
    out_is 'cat: t: No such file or directory'
else
    skip 'a full disk' 'not root'
fi
rmdir small

finish
