#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk resize, dd and io on raw images.
#
#   tests/cli/test-change.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

size_is() {
    [ "$(stat -c %s "$1")" -eq "$2" ]
}

# --- resize
vdisk create -q -f raw a 1M
want 0 'grow' vdisk resize -f raw a 2M
out_is 'Image resized.'
check 'it has grown' size_is a 2097152
want 0 'grow by' vdisk resize -f raw a +512k
check 'it has grown' size_is a 2621440
want 1 'shrink, unasked' vdisk resize -f raw a 1M
err_has '^vdisk: Use the --shrink option to perform a shrink operation\.$'
err_has '^vdisk: warning: Shrinking an image will delete all data beyond'
want 1 'shrink by, unasked' vdisk resize -f raw a -1M
check 'nothing was cut off' size_is a 2621440
want 0 'shrink by' vdisk resize -f raw --shrink a -1M
check 'it has shrunk' size_is a 1572864
want 0 'options behind the size' vdisk resize a -512k --shrink -f raw
check 'it has shrunk' size_is a 1048576
want 0 'no change' vdisk resize -q -f raw a 1M
out_is ''
want 0 'JSON' vdisk resize --output=json -f raw a +1M
out_json 'd == {"filename": "a", "previous-size": 1 << 20, "virtual-size": 2 << 20}'
want 0 'preallocation' vdisk resize -f raw --preallocation=full a +1M
check 'it is allocated' test "$(stat -c %b a)" -ge 2048
want 1 'preallocation and shrinking' vdisk resize -f raw --shrink --preallocation=falloc a 1M
err_has '^vdisk: Preallocation can only be used for growing images: a has 3145728 bytes, 1048576'
want 1 'unknown preallocation' vdisk resize -f raw --preallocation=some a 4M
err_has "^vdisk: --preallocation: 'some' is none of off, metadata, falloc, full$"
want 1 'to nothing' vdisk resize -f raw --shrink a 0
err_has '^vdisk: New image size must be positive: the disk has 3145728 bytes, change 0$'
want 1 'below nothing' vdisk resize -f raw --shrink a -4M
want 1 'no size' vdisk resize -f raw a big
err_has "^vdisk: 'big': Invalid image size specified\."
want 1 'a sign without a size' vdisk resize -f raw a +
want 1 'raw is never guessed for writing' vdisk resize a 4M
err_has '^vdisk: a: .*-f raw'
want 1 'too few arguments' vdisk resize -f raw a
err_has '^vdisk: resize: too few arguments: FILE \[\+\|-\]SIZE wanted$'
check 'failures change nothing' size_is a 3145728

# --- io
vdisk create -q -f raw b 1M
want 0 'write and read' vdisk io -f raw -c 'write -P 0x5a 0 64k' -c 'read -P 0x5a 0 64k' \
    -c 'read -P 90 100 200' b
out_has '^wrote 65536/65536 bytes at offset 0$'
out_has '^64 KiB, 1 ops; [0-9.]+ sec \([0-9.]+ [KMG]iB/sec and [0-9.]+ ops/sec\)$'
out_has '^read 65536/65536 bytes at offset 0$'
out_has '^read 200/200 bytes at offset 100$'
check 'the file holds it' cmp b <(head -c 65536 /dev/zero | tr '\0' 'Z'; head -c 983040 /dev/zero)
want 1 'a wrong pattern' vdisk io -f raw -c 'read -P 0x5b 0 64k' -c 'length' b
out_has '^Pattern verification failed at offset 0, 65536 bytes$'
out_has '^1 MiB$'
want 0 'a part of what is read' vdisk io -f raw -c 'write -P 0 0 512' \
    -c 'read -P 0x5a -s 512 -l 512 0 4k' b
want 1 'a part that is wrong' vdisk io -f raw -c 'read -P 0x5a -s 256 -l 512 0 4k' b
out_has '^Pattern verification failed at offset 256, 512 bytes$'
want 1 'a part outside' vdisk io -f raw -c 'read -P 0x5a -s 4k -l 1 0 4k' b
want 1 'a part without a pattern' vdisk io -f raw -c 'read -l 1 0 4k' b
want 0 'dump' vdisk io -f raw -c 'write -q -P 0x41 0x10 20' -c 'read -q -v 0 37' b
out_is '00000000:  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................
00000010:  41 41 41 41 41 41 41 41 41 41 41 41 41 41 41 41  AAAAAAAAAAAAAAAA
00000020:  41 41 41 41 00                                   AAAA.'
want 0 'several buffers' vdisk io -f raw -c 'writev -P 7 1k 512 1k 3' -c 'readv -P 7 1k 1k 515' b
out_has '^wrote 1539/1539 bytes at offset 1024$'
want 0 'zeroes' vdisk io -f raw -c 'write -z 0 8k' -c 'write -z -u 64k 64k' -c 'read -P 0 0 8k' \
    -c 'read -P 0 64k 64k' b
want 0 'zeroes, options in one' vdisk io -f raw -c 'write -zuq 0 8k' b
out_is ''
want 0 'discard' vdisk io -f raw -c 'discard 0 64k' -c flush -c 'write -f 0 512' b
out_has '^discard 65536/65536 bytes at offset 0$'
printf 'abc' > pattern
want 0 'a file over and over' vdisk io -f raw -c 'write -s pattern 512k 7' -c 'read -qv 512k 7' b
out_has '^00080000:  61 62 63 61 62 63 61 +abcabca$'
want 0 'truncate' vdisk io -f raw -c 'truncate 2M' -c length b
out_is '2 MiB'
want 0 'info and map' vdisk io -f raw -c info -c map -c 'alloc 0 1M' b
out_has '^format name: raw$'
out_has '^cluster size: 0 bytes$'
out_has '^[0-9.]+ [KM]iB \(0x[0-9a-f]+\) bytes     allocated at offset 0 bytes \(0x0\)$'
out_has '^1048576/1048576 bytes allocated at offset 0 bytes$'
want 0 'quit' vdisk io -f raw -c quit -c frob b
want 0 'help' vdisk io -f raw -c help -c 'help write' b
out_has '^write \[-fqzu\] '
want 0 'commands from standard input' bash -c \
    'printf "write 0 4k\n\n  length  \nquit\nfrob\n" | "$0" io -f raw b' "$C"
out_has '^wrote 4096/4096'
out_has '^2 MiB$'
want 1 'a failure does not stop the rest' vdisk io -f raw -c frob -c length b
err_is "vdisk: command \"frob\" not found: 'help' lists them"
out_is '2 MiB'
for line in 'write' 'write 0' 'write 0 1 2' 'read -x 0 1' 'read -P' 'write -P 256 0 1' \
    'write -P x 0 1' 'write x 1' 'write 0 -1' 'write 0 3G' 'write 3M 1' 'read 2M 1' \
    'write -z -P 1 0 1' 'write -u 0 1' 'write -s nowhere 0 1' 'write -s empty 0 1' \
    'discard 2M 512' 'truncate' 'truncate x' 'flush now' 'alloc' 'help frob' 'sleep 4000000' \
    'write -P 1 -s pattern 0 1' 'readv 0' 'write 9223372036854775807 9223372036854775807'; do
    : > empty
    want 1 "io refuses: $line" vdisk io -f raw -c "$line" b
    err_has '^vdisk: '
done
want 1 'read-only' vdisk io -r -f raw -c 'write 0 512' b
err_has '^vdisk: write failed: b: '
want 0 'read-only, and not guessed' vdisk io -r -c 'read 0 512' b
want 1 'raw is never guessed for writing' vdisk io -c 'read 0 512' b
want 1 'shared, yet writable' vdisk io -U -f raw -c length b
want 1 'JSON' vdisk io -f raw --output=json -c 'write 0 4k' -c 'read -P 1 0 512' -c length \
    -c 'alloc 0' -c map -c info -c frob b
out_json '[e["ok"] for e in d] == [True, False, True, True, True, True, False]'
out_json 'd[0]["command"] == "write 0 4k" and d[0]["bytes"] == 4096 and d[0]["offset"] == 0'
out_json '"0xcd" in d[1]["error"] and d[2]["virtual-size"] == 2 << 20'
out_json 'd[4]["extents"][0]["start"] == 0 and d[5]["format"] == "raw" and "error" in d[6]'
want 0 'a dump as JSON' vdisk io -f raw --output=json -c 'write -P 0xa5 1 2' -c 'read -v 0 4' b
out_json 'd[1]["data"][2:6] == "a5a5" and len(d[1]["data"]) == 8'

# --- dd
head -c 300000 /dev/urandom > c
vdisk io -f raw -c 'truncate 1M' -c 'write -P 3 512k 64k' c > /dev/null
dd_as() {
    dd if=c of=wanted status=none conv=sparse "$@"
    truncate -s "$((($(stat -c %s wanted) + 511) / 512 * 512))" wanted
    vdisk dd -f raw -O raw "$@" if=c of=d
    cmp wanted d
}
check 'dd of all' dd_as
check 'dd in large blocks' dd_as bs=1M
check 'dd with skip and count' dd_as bs=64k skip=3 count=2
check 'dd in odd blocks' dd_as bs=513 skip=7 count=100
check 'dd past the end' dd_as bs=1000k skip=1 count=5
check 'dd of no block' dd_as count=0
want 0 'holes' vdisk dd bs=1M if=c of=e
out_is ''
check 'stay holes' test "$(stat -c %b e)" -lt 1100
want 0 'skip beyond the end' vdisk dd bs=1k skip=1G if=c of=d
err_has '^vdisk: warning: c: cannot skip to specified offset: skip=1073741824 blocks of 1024 bytes'
check 'is an empty disk' size_is d 0
want 0 'JSON' vdisk dd --output=json bs=1k skip=1 count=2 if=c of=d
out_json 'd["offset"] == 1024 and d["bytes"] == 2048 and d["filename"] == "d"'
want 1 'no output' vdisk dd if=c
err_has '^vdisk: dd: Must specify both input and output files'
want 1 'no input' vdisk dd of=d
want 1 'bs of 0' vdisk dd bs=0 if=c of=d
err_has '^vdisk: dd: Invalid bs specified\. Must be between 1 and 2147483647: bs=0$'
want 1 'bs too large' vdisk dd bs=2G if=c of=d
want 1 'bs that is none' vdisk dd bs=3x if=c of=d
err_has "^vdisk: bs '3x': Invalid image size"
want 1 'seek' vdisk dd seek=1 if=c of=d
err_has '^vdisk: dd: seek=1: there is no seek=: the output is always a new image$'
want 1 'unknown operand' vdisk dd conv=sparse if=c of=d
err_has '^vdisk: dd: unrecognized operand conv=sparse'
want 1 'input that is not there' vdisk dd if=nowhere of=new
check 'no output is made then' test ! -e new
want 1 'output that can not be made' vdisk dd if=c of=nowhere/new
ln c c2
want 1 'input that is the output' vdisk dd if=c of=c2
err_has '^vdisk: c: source and target are the same file \(c2\)'
check 'and keeps its bytes' size_is c 1048576

# An output that is a device keeps its size, and has old bytes where the copy has holes.
loop=$(head -c 2M /dev/urandom > disk && losetup -f --show disk 2> /dev/null) || loop=
if [ -n "$loop" ]; then
    trap 'losetup -d "$loop" 2> /dev/null || true; rm -rf "$work"' EXIT
    check 'dd to a device' vdisk dd -f raw -O raw if=c "of=$loop"
    check 'clears what it does not write' cmp -n 1048576 c "$loop"
    check 'and leaves the rest' cmp <(tail -c 1M disk) <(tail -c 1M "$loop")
    losetup -d "$loop"
else
    skip 'dd to a device' 'no loop device'
fi

finish
