#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk create, and sizes as qemu-img takes them.
#
#   tests/cli/test-create.sh VDISK
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

want 0 'raw' vdisk create -f raw a 10M
out_is "Formatting 'a', fmt=raw size=10485760"
check 'it has the size' test "$(stat -c %s a)" -eq 10485760
check 'it is sparse' test "$(stat -c %b a)" -eq 0
want 0 'raw is what is made if nothing is said' vdisk create b 1M
out_is "Formatting 'b', fmt=raw size=1048576"
want 0 'quiet' vdisk create -q c 1M
out_is ''
want 0 'size as an option' vdisk create -o size=3k d
check 'it has the size' test "$(stat -c %s d)" -eq 3072
want 0 'rounded up to 512' vdisk create e 10
check 'it has the size' test "$(stat -c %s e)" -eq 512
want 0 'size 0' vdisk create zero 0
want 0 'an image that is there is made anew' vdisk create a 1M
check 'it has the size' test "$(stat -c %s a)" -eq 1048576
want 0 'preallocation' vdisk create -o preallocation=full,size=64k f
out_is "Formatting 'f', fmt=raw size=65536 preallocation=full"
check 'it is allocated' test "$(stat -c %b f)" -ge 128
want 0 'every zero of it is written' vdisk map --output=json -f raw f
out_json '[(e["length"], e["data"]) for e in d] == [(65536, True)]'
want 0 'JSON' vdisk create --output=json g 1M
out_json 'd == {"filename": "g", "format": "raw", "virtual-size": 1048576, "preallocation": "off"}'
want 0 'options of raw' vdisk create -o help
out_has '^  preallocation=<str> '
out_has '^  size=<size> '
want 0 'options by question mark' vdisk create -f raw -o '?' h
check 'nothing was made' test ! -e h

want 1 'no size' vdisk create h
err_is 'vdisk: Image creation needs a size parameter'
want 1 'size twice' vdisk create -o size=1M h 1M
err_has "^vdisk: size given twice: as argument '1M' and as -o size=1M$"
want 1 'three operands' vdisk create h 1M more
err_has "^vdisk: create: unexpected argument 'more': FILE \[SIZE\] wanted$"
want 1 'unknown option' vdisk create -o cluster_size=64k h 1M
err_is 'vdisk: -o cluster_size: format raw has no such option; -o help lists them'
want 1 'option without a value' vdisk create -o size h
err_has '^vdisk: -o size: needs a value'
want 1 'unknown preallocation' vdisk create -o preallocation=some h 1M
err_is "vdisk: -o preallocation: 'some' is none of off, metadata, falloc, full"
want 1 'preallocation of what is not there' vdisk create -o preallocation=metadata h 1M
err_is 'vdisk: h: raw: preallocation=metadata: raw images have no metadata'
want 1 'empty option' vdisk create -o size=1M, h
err_has '^vdisk: Invalid option list: size=1M,: an option without a name$'
want 1 'backing files' vdisk create -b base -F raw h 1M
err_is "vdisk: Backing file not supported for file format 'raw'"
want 1 'a format of no backing file' vdisk create -F raw h 1M
err_is 'vdisk: -F has no meaning without a backing file (-b)'
want 1 'no backing file to look at' vdisk create -u h 1M
err_is 'vdisk: -u has no meaning without a backing file (-b)'
want 1 'too large' vdisk create h 8E
err_is "vdisk: '8E': Invalid image size specified. Must be between 0 and 9223372036854775807."
want 1 'no size at all' vdisk create h 1kb
err_is "vdisk: '1kb': Invalid image size specified. You may use k, M, G, T, P or E suffixes for
vdisk: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes."
want 1 'a folder that is not there' vdisk create nowhere/h 1M
err_has '^vdisk: nowhere/h: .*No such file or directory$'
check 'failures leave nothing behind' test ! -e h

# Which sizes are sizes: as qemu-img, one by one.  (Sizes the file system may refuse are left out.)
same_as_qemu() {
    local text=$1 ours=0 theirs=0
    rm -f x y
    qemu-img create -q -f raw x -- "$text" || theirs=$?
    vdisk create -q -f raw y -- "$text" || ours=$?
    [ "$ours" -eq "$theirs" ] || return 1
    [ "$ours" -ne 0 ] || [ "$(stat -c %s x)" -eq "$(stat -c %s y)" ]
}
for text in 1.5 1.5G 0x1000 0X1000 1kb 1KiB '1 G' '' 1b 1B 8E 9223372036854775808 -1 +1 ' 1' 1.5k \
    0x1k 0x10M 1e3 1.0 .5G 1.G 0 00010 1T 1t 1K 1g 0.1K 1.00001k 18446744073709551615 0x 1.5b inf \
    nan 1kk 0b 0x1.8k 513 1000.3M; do
    if have qemu-img; then
        check "size '$text' as qemu-img" same_as_qemu "$text"
    else
        skip "size '$text' as qemu-img" 'no qemu-img'
    fi
done

finish
