#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk convert from and to a pipe.
#
#   tests/cli/test-pipe.sh VDISK
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# A disk of 150 MiB and a bit, with holes, and bytes at both ends: it grows twice on its way.
truncate -s 157287424 disk
printf 'first' | dd of=disk conv=notrunc status=none
printf 'middle' | dd of=disk conv=notrunc bs=1 seek=70000001 status=none
printf 'last' | dd of=disk conv=notrunc bs=1 seek=157287420 status=none

from() { # FORMAT TARGET [OPTION...]: in pieces that are no sectors
    local format=$1 target=$2
    shift 2
    dd if=disk bs=70001 status=none | vdisk convert -f raw -O "$format" "$@" - "$target"
}

to() { # FILE: as a stream, which a program reads in pieces of its own
    vdisk convert -O raw "$1" - | dd bs=33333 status=none > stream
}

for format in raw gow3 qed qcow2; do
    check "$format from a pipe" from "$format" "copy.$format"
    check "$format: the same disk" vdisk compare -f raw -F "$format" disk "copy.$format"
    check "$format: as long" test "$(vdisk info -f "$format" --output=json "copy.$format" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["virtual-size"])')" = 157287424
    check "$format to a pipe" to "copy.$format"
    check "$format: the same bytes" cmp disk stream
done
check 'holes stay holes' test "$(du -k copy.raw | cut -f1)" -lt 1024
check 'checked' vdisk check -q -f qcow2 copy.qcow2

check 'a size that is given' from qcow2 long -o size=200M
want 1 'longer than the disk it goes to' vdisk compare -s -f raw -F qcow2 disk long
check 'the rest is zero' vdisk compare -f raw -F qcow2 disk long
too_long() { from qcow2 short -o size=100M; }
want 1 'a stream that is too long' too_long
err_has 'the stream is longer than the disk'
check 'nothing is made' test ! -e short
check 'into what is there' vdisk create -q -f qcow2 there 160M
check 'without a new image' from qcow2 there -n
check 'the same disk' vdisk compare -f raw -F qcow2 disk there
empty() { vdisk convert -f raw -O raw - empty < /dev/null; }
check 'an empty stream' empty
check 'an empty disk' test ! -s empty
odd() { printf 'abc' | vdisk convert -f raw -O raw - odd; }
check 'a stream that ends within a sector' odd
check 'is filled up with zeros' cmp <(printf 'abc'; head -c 509 /dev/zero) odd

want 1 'a stream has to be named raw' vdisk convert -O qcow2 - x
err_has 'format has to be named \(-f raw\)'
want 1 'no other format from a pipe' vdisk convert -f qcow2 -O raw - x
want 1 'no other format to a pipe' vdisk convert -O qed disk -
err_has 'of format qed make a file'
for options in cluster_size=64k cluster_size=512 cluster_size=2M,refcount_bits=1 compat=0.10 \
    refcount_bits=64,size=1T; do
    stream() { vdisk convert -f raw -O qcow2 -o "$options" disk - | cat > streamed; }
    check "qcow2 to a pipe, $options" stream
    want 0 "qcow2 to a pipe, $options: nothing is wrong" vdisk check -f qcow2 streamed
    out_has 'No errors were found'
    check "qcow2 to a pipe, $options: the same disk" vdisk compare -f raw -F qcow2 disk streamed
done
check 'qcow2 to a pipe: no larger than it has to be' test "$(stat -c %s streamed)" -lt 4194304
: > none
nothing() { vdisk convert -f raw -O qcow2 none - | cat > streamed; }
check 'qcow2 to a pipe: no disk at all' nothing
check 'qcow2 to a pipe: and nothing wrong' vdisk check -q -f qcow2 streamed
want 1 'qcow2 to a pipe: what has to go back' vdisk convert -f raw -O qcow2 \
    -o preallocation=metadata disk -
err_has 'with preallocation is not written to a pipe'
want 1 'compression' vdisk convert -c -f raw -O qcow2 - x
err_has '^vdisk: convert: -c, '
want 1 'two sources' vdisk convert -f raw -O raw - disk x
want 1 'from a pipe to a pipe' vdisk convert -f raw -O raw - -
want 1 'JSON beside the disk' vdisk convert --output=json -O raw disk -
check 'a file that is called so' cp disk ./-
want 0 'is named by its path' vdisk convert -f raw -O raw ./- copy.of
check 'and is the same' cmp disk copy.of

finish
