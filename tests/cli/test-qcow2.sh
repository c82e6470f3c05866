#!/bin/bash
# SPDX-License-Identifier: MIT
# qcow2 from the command line: create and its options, info, amend, compact, overlays.
#
#   tests/cli/test-qcow2.sh VDISK
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

want 0 'create' vdisk create -f qcow2 a 64M
out_is "Formatting 'a', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=67108864 lazy_refcounts=off refcount_bits=16"
want 0 'a new image is sound' vdisk check a
out_is 'No errors were found on the image.
Image end offset: 262144'
want 0 'info' vdisk info --output=json a
out_json 'd["format"] == "qcow2" and d["cluster-size"] == 65536 and not d["dirty-flag"]'
out_json 'd["format-specific"]["type"] == "qcow2"'
out_json 'd["format-specific"]["data"] == {"compat": "1.1", "compression-type": "zlib", "lazy-refcounts": False, "refcount-bits": 16, "corrupt": False, "extended-l2": False}'

want 0 'create with options' vdisk create -f qcow2 -o \
    compat=v3,cluster_size=16k,refcount_bits=8,lazy_refcounts=on,extended_l2=on,compression_type=zstd,preallocation=metadata,data_file=d.raw,data_file_raw=on b 1M
out_is "Formatting 'b', fmt=qcow2 cluster_size=16384 extended_l2=on preallocation=metadata compression_type=zstd size=1048576 compat=v3 data_file=d.raw data_file_raw=on lazy_refcounts=on refcount_bits=8"
want 0 'info of them' vdisk info b
out_has '^    compression type: zstd$'
out_has '^    data file: d.raw$'
out_has '^    data file raw: true$'
want 0 'a raw data file is the disk' vdisk io -c 'write -q -P 5 0 1M' b
check 'read alone' vdisk io -f raw -c 'read -q -P 5 0 1M' d.raw

refused() {
    local name=$1 words=$2
    shift 2
    want 1 "$name" vdisk create -f qcow2 "$@"
    err_has "$words"
}
refused 'cluster size' 'between 512 and 2048k' -o cluster_size=3k x 1M
refused 'large clusters' 'between 512 and 2048k' -o cluster_size=4M x 1M
refused 'refcount width' 'must be 1, 2, 4, 8, 16, 32 or 64' -o refcount_bits=3 x 1M
refused 'version' 'must be 0.10 \(or v2\) or 1.1 \(or v3\)' -o compat=1.0 x 1M
refused 'lazy refcounts of version 2' 'lazy refcounts: need compatibility level 1.1' -o compat=0.10,lazy_refcounts=on x 1M
refused 'subclusters of small clusters' 'at least 16384' -o extended_l2=on,cluster_size=4k x 1M
refused 'compression type' 'must be zlib or zstd' -o compression_type=lzma x 1M
refused 'raw without a data file' 'needs a data file' -o data_file_raw=on x 1M
refused 'preallocation that hides' 'would hide the backing file' -o preallocation=metadata -b a -F qcow2 x
refused 'too large a disk' 'try using a larger cluster size' -o cluster_size=512 x 1T
check 'nothing was left of them' test ! -e x
want 1 'options of qcow2 for another format' vdisk create -f qed -o refcount_bits=8 x 1M

# An image with holes: 32 MiB of which every second one is discarded again.
make_holes() {
    rm -f h h.raw
    vdisk create -q -f qcow2 h 64M
    vdisk io -c 'write -q -P 7 0 32M' h
    for i in $(seq 0 2 31); do
        vdisk io -c "discard -q ${i}M 1M" h
    done
    vdisk io -c 'write -q -P 9 40M 1M' h
    vdisk convert -O raw h h.raw
}
make_holes
old=$(stat -c %s h)
want 0 'compact' vdisk compact h
out_has '^Image compacted: it takes .* MiB were moved.$'
check 'the file is shorter' test "$(stat -c %s h)" -lt $((old * 2 / 3))
check 'the disk is the same' vdisk compare -q h h.raw
check 'no leaks' vdisk check -q h
want 0 'once more' vdisk compact --output=json h
out_json 'd["moved-bytes"] == 0 and d["file-size"] == d["old-file-size"]'
make_holes
want 0 'with progress' vdisk compact -p h
out_has '\(100.00/100%\)'
want 1 'a format without free space' vdisk compact -f raw h.raw
err_has 'images of format raw can not be compacted'
want 1 'no file' vdisk compact nothing

want 0 'amend' vdisk amend -o refcount_bits=64,lazy_refcounts=on h
check 'sound' vdisk check -q h
want 0 'what was amended' vdisk info --output=json h
out_json 'd["format-specific"]["data"]["refcount-bits"] == 64 and d["format-specific"]["data"]["lazy-refcounts"]'
want 1 'version 2 with such refcounts' vdisk amend -o compat=0.10 h
err_has 'say refcount_bits=16 too'
want 0 'version 2' vdisk amend -o compat=0.10,refcount_bits=16 h
want 0 'is version 2' vdisk info h
out_has '^    compat: 0.10$'
check 'still the disk' vdisk compare -q h h.raw
check 'still sound' vdisk check -q h
want 0 'and back' vdisk amend -o compat=1.1 h
vdisk bitmap --add h b0
want 1 'bitmaps are not lost unasked' vdisk amend -o compat=0.10 h
err_has 'remove them first'
want 1 'a data file that there is none of' vdisk amend -o data_file=x h
want 1 'for another format' vdisk amend -f raw -o refcount_bits=8 h.raw
mv d.raw e.raw
want 0 'the data file has another name' vdisk amend -o data_file=e.raw b
check 'it is found' vdisk io -c 'read -q -P 5 0 1M' b

vdisk create -q -f qcow2 -o data_file=p.raw p 8M
vdisk io -c 'write -q -P 5 0 8M' p
before=$(stat -c %b p.raw)
want 0 'discard' vdisk io -c 'discard -q 1M 4M' p
check 'it gives space of the data file back' test $((before - $(stat -c %b p.raw))) -ge 8192
check 'and reads as it should' vdisk io -c 'read -q -P 5 0 1M' -c 'read -q -P 0 1M 4M' \
    -c 'read -q -P 5 5M 3M' p

# The disk ends within a compressed cluster, where a subcluster ends.
head -c $((2 * 65536 + 4096)) < <(yes compressible) >end.raw
for words in extended_l2=off extended_l2=on; do
    vdisk convert -c -f raw -O qcow2 -o "$words" end.raw end
    want 0 "it grows: $words" vdisk resize -q end 1M
    vdisk convert -O raw end grown.raw
    check 'and keeps its end' cmp -n "$(stat -c %s end.raw)" end.raw grown.raw
    check 'with zeros behind it' vdisk io -c "read -q -P 0 $((2 * 65536 + 4096)) 64k" end
    check 'and is sound' vdisk check -q end
done

# is_bound OPTIONS: no file is longer than measure says.
is_bound() {
    local most
    most=$(vdisk measure -O qcow2 -o "$1" --size 40M | sed -n 's/^fully allocated size: //p')
    rm -f m
    vdisk create -q -f qcow2 -o "$1" m 40M
    vdisk io -c 'write -q -P 1 20M 20M' -c 'write -q -P 1 0 20M' m
    [ "$(stat -c %s m)" -le "$most" ]
}
for words in cluster_size=512 cluster_size=1k,refcount_bits=64 cluster_size=64k extended_l2=on; do
    check "measure is a bound: $words" is_bound "$words"
done

vdisk create -q -f qcow2 -b a -F qcow2 top
vdisk io -c 'write -q -P 3 1M 1M' a
want 0 'an overlay shows what is behind' vdisk io -c 'read -q -P 3 1M 1M' top
vdisk io -c 'write -q -P 4 2M 64k' top
want 0 'rebase to none' vdisk rebase -q -b '' top
check 'it stands alone' vdisk io -c 'read -q -P 3 1M 1M' -c 'read -q -P 4 2M 64k' top
want 0 'no backing file' vdisk info --output=json top
out_json '"backing-filename" not in d'
check 'and is sound' vdisk check -q top
finish
