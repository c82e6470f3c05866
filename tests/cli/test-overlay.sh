#!/bin/bash
# SPDX-License-Identifier: MIT
# Overlays from outside: create, info, map, compare, convert, resize, dd and io on them, which files
# they may name, and amend.
#
#   tests/cli/test-overlay.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

formats=(add-cow)
if vdisk --help | grep -q '^Formats:.* qed'; then
    formats+=(qed)
fi

# What a new overlay NAME of FORMAT needs beside its backing file.
own_options() {
    [ "$1" != add-cow ] || echo "-o image_file=$2.data"
}

# overlay FORMAT NAME ARGUMENT...: vdisk create
overlay() {
    local format=$1 name=$2
    shift 2
    # shellcheck disable=SC2046 # words
    vdisk create -q -f "$format" $(own_options "$format" "$(basename "$name")") "$@" "$name"
}

vdisk create -q -f raw base 4M
vdisk io -f raw -c 'write -q -P 1 0 1M' -c 'write -q -P 9 3M 128k' base
cp base base.was

# --- create
for format in "${formats[@]}"; do
    # shellcheck disable=SC2046 # words
    want 0 "create: $format" vdisk create -f "$format" $(own_options "$format" "$format") -b base \
        -F raw "$format"
    out_has "^Formatting '$format', fmt=$format size=4194304 backing_file=base backing_fmt=raw"
    check 'it reads as its backing file' vdisk compare -q -F raw "$format" base
    # shellcheck disable=SC2046 # words
    want 0 "create: $format, as JSON" vdisk create --output=json -f "$format" \
        $(own_options "$format" big) -B base -F raw big 5M
    out_json 'd["backing-filename"] == "base" and d["backing-filename-format"] == "raw"'
    out_json 'd["virtual-size"] == 5 << 20'
    want 0 'longer than its backing file' vdisk io -r -c 'read -q -P 0 4M 1M' big
    rm -f big big.data
    want 0 "create: $format by -o" overlay "$format" by-o -o backing_file=base,backing_fmt=raw
    rm -f by-o by-o.data
    want 1 'no format of the backing file' overlay "$format" h -b base
    err_has '^vdisk: h: Backing file specified without backing format: .*Detected format of raw\.$'
    want 1 'no format of an overlay' overlay "$format" h -b "$format"
    err_has "Detected format of $format\.$"
    want 1 'no backing file there' overlay "$format" h -b nowhere -F raw
    err_has "nowhere"
    want 1 'an empty name' overlay "$format" h -b '' -F raw
    err_is 'vdisk: Expected backing file name, got empty string'
    want 1 'an unknown format' overlay "$format" h -b base -F qcow9
    err_has "^vdisk: Unknown file format 'qcow9'"
    want 1 'on itself' overlay "$format" base -b base -F raw
    err_has 'same file'
    want 1 'unlooked at, no size' overlay "$format" h -u -b nowhere -F raw
    err_has 'Image creation needs a size parameter'
    want 1 'no size at all' overlay "$format" h -b base -F raw -o size=0
    err_has "^vdisk: size '0': without a size"
    check 'nothing was made' test ! -e h -a ! -e h.data
    want 0 'unlooked at' overlay "$format" h -u -b nowhere -F raw -o size=1M
    want 1 'which does not open' vdisk map h
    rm -f h h.data
    want 0 "options of $format" vdisk create -f "$format" -o help
    out_has '^  backing_file=<str> '
    out_has '^  backing_fmt=<str> '
done
check 'the backing file is as it was' cmp base base.was
want 1 'add-cow without a raw file' vdisk create -f add-cow -b base -F raw h
err_has 'image_file='
for text in 0 5G x; do
    want 1 "cluster size $text" vdisk create -f qed -o "cluster_size=$text" h 1M
done
if [[ " ${formats[*]} " == *' qed '* ]]; then
    want 0 'qed: clusters and tables' vdisk create -f qed -o cluster_size=4k,table_size=2 h 1M
    out_is "Formatting 'h', fmt=qed size=1048576 cluster_size=4096 table_size=2"
    want 0 'qed: info' vdisk info --output=json h
    out_json 'd["cluster-size"] == 4096 and "format-specific" not in d'
    want 0 'qed: measure by clusters' vdisk measure -O qed -o cluster_size=4k --size=1M
    out_has '^required size: [0-9]+$'
    rm h
fi

# --- info
top=${formats[-1]}
want 0 'info' vdisk info "$top"
out_has '^backing file: base$'
out_has '^backing file format: raw$'
want 0 'info as JSON' vdisk info --output=json "$top"
out_json 'd["backing-filename"] == "base" == d["full-backing-filename"]'
out_json 'd["backing-filename-format"] == "raw"'
mkdir dir
overlay "$top" dir/over -b ../base -F raw
want 0 'info from elsewhere' vdisk info dir/over
out_has '^backing file: \.\./base \(actual path: dir/\.\./base\)$'
want 1 'the chain is not permitted' vdisk info --backing-chain dir/over
err_has "names the file '\.\./base' .*not permitted"
want 0 'until it is' vdisk info --allow-path=. --backing-chain dir/over
want 0 'the chain as JSON' vdisk info --allow-path=. --backing-chain --output=json dir/over
out_json '[e["filename"] for e in d] == ["dir/over", "dir/../base"]'
want 1 'nothing named is permitted' vdisk map --no-backing "$top"
err_has 'not permitted'
want 0 'a missing file is told of' sh -c 'mv base away; "$0" info "$1"; s=$?; mv away base; exit $s' \
    "$C" "$top"
out_has '^backing file: base$'
want 1 'but not in a chain' sh -c \
    'mv base away; "$0" info --backing-chain "$1"; s=$?; mv away base; exit $s' "$C" "$top"
err_has 'base'
overlay "$top" odd -u -b $'a\nfile format: raw' -F raw -o size=1M
want 0 'a name with a line end' vdisk info odd
out_has '^backing file: a\?file format: raw'
want 0 'a name with a line end as JSON' vdisk info --output=json odd
out_json 'd["backing-filename"] == "a\nfile format: raw"'
rm odd
vdisk create -q -f add-cow -o image_file=gone cow 1M
rm gone
want 0 'info without the raw file' vdisk info cow
out_has '^virtual size: unavailable$'
out_has '^    data file: gone$'
want 0 'info without the raw file as JSON' vdisk info --output=json cow
out_json '"virtual-size" not in d and d["format-specific"]["data"]["data-file"] == "gone"'

# --- reading and writing
for format in "${formats[@]}"; do
    want 0 "$format: io" vdisk io -c 'write -q -P 3 64k 512' -c 'write -q -zu 3M 64k' \
        -c 'read -q -P 3 64k 512' -c 'read -q -P 1 66048 65024' -c 'read -q -P 0 3M 64k' \
        -c 'read -q -P 9 3136k 64k' -c 'write -q -P 4 2M 64k' "$format"
    check 'the backing file is as it was' cmp base base.was
    want 0 "$format: check" vdisk check "$format"
    want 0 "$format: map" vdisk map "$format"
    out_has '^0               0x10000         0               base$'
    want 0 "$format: map as JSON" vdisk map --output=json "$format"
    out_json 'sum(e["length"] for e in d) == 4 << 20 and {e["depth"] for e in d} == {0, 1}'
    out_json '[e["depth"] for e in d if e["start"] == 0] == [1]'
    out_json 'all(e["zero"] for e in d if e["start"] == 3 << 20)'
    want 1 "$format: compare" vdisk compare -F raw "$format" base
    out_is 'Content mismatch at offset 65536!'
    want 0 "$format: convert" vdisk convert -O raw "$format" flat
    want 0 "$format: compare with its content" vdisk compare -F raw "$format" flat
    want 0 "$format: dd" vdisk dd bs=64k skip=1 count=2 if="$format" of=part
    check 'dd takes what the disk shows' cmp -n 131072 -i 65536:0 flat part
    cp "$format" keep
    [ ! -e "$format.data" ] || cp "$format.data" keep.data
    want 0 "$format: resize" vdisk resize "$format" 6M
    want 0 "$format: what is added is zero" vdisk io -r -c 'read -q -P 0 4M 2M' "$format"
    overlay "$format" short -b base -F raw -o size=64k
    want 0 "$format: growing over a longer backing file" vdisk resize short 4M
    want 0 "$format: shows zeros" vdisk io -r -c 'read -q -P 1 0 64k' -c 'read -q -P 0 64k 3M' short
    rm -f short short.data
done

# compare -s: what has to be the same is what the whole chain says.
overlay "$top" one -b base -F raw
cp base twin
want 0 'strict: an untouched overlay' vdisk compare -s -F raw one twin
vdisk io -c 'write -q -P 1 0 64k' one
want 0 'strict: data is data' vdisk compare -s -F raw one twin
vdisk io -c 'write -q -P 0 2M 64k' one
want 1 'strict: zeros that take space' vdisk compare -s -F raw one twin
out_is 'Strict mode: Offset 2097152 block status mismatch!'

# --- convert -B
vdisk convert -f raw -O raw base source
vdisk io -f raw -c 'write -q -P 2 100k 10k' -c 'write -q -z 256k 128k' -c 'write -q -P 5 2M 1k' \
    source
for format in "${formats[@]}"; do
    to=target-$format
    # shellcheck disable=SC2046 # words
    want 0 "$format: convert -B" vdisk convert --output=json -f raw -O "$format" -B base -F raw \
        $(own_options "$format" "$to") source "$to"
    out_json 'd["data-bytes"] == 131072'
    check 'the disk is right' vdisk compare -q -F raw "$to" source
    want 0 'it holds the differences' vdisk map --output=json "$to"
    out_json '[e["start"] for e in d if not e["depth"]] == [64 << 10, 256 << 10, 2 << 20]'
    want 0 'and names its backing file' vdisk info --output=json "$to"
    out_json 'd["backing-filename"] == "base" and d["backing-filename-format"] == "raw"'
    want 0 "$format: check" vdisk check "$to"
    # shellcheck disable=SC2046 # words
    want 0 "$format: onto what it is on already" vdisk convert --output=json -O "$format" \
        -o backing_file=base,backing_fmt=raw $(own_options "$format" "$to-2") "$to" "$to-2"
    out_json 'd["data-bytes"] == 131072'
    check 'the disk is right' vdisk compare -q "$to" "$to-2"
    # shellcheck disable=SC2046 # words
    want 0 "$format: no holes" vdisk convert -S 0 -O "$format" -b base -F raw \
        $(own_options "$format" "$to-3") "$to" "$to-3"
    want 0 'holds everything' vdisk map --output=json "$to-3"
    out_json '{e["depth"] for e in d} == {0}'
    # shellcheck disable=SC2046 # words
    want 0 "$format: longer than the source" vdisk convert -f raw -O "$format" -B base -F raw \
        -o size=4M $(own_options "$format" "$to-4") part "$to-4"
    want 0 'the rest is zeros' vdisk io -r -c 'read -q -P 0 128k 3968k' "$to-4"
done
check 'the backing file is as it was' cmp base base.was

# Whatever the backing file holds, the disk is that of the source.
seed=${VDISK_TEST_SEED:-$RANDOM}
echo "# seed $seed"
RANDOM=$seed
random_disk() {
    local i command='write -q -P' commands=()
    vdisk create -q -f raw "$1" "$((RANDOM % 4096 * 512 + 512))"
    for ((i = 0; i < 12; i++)); do
        commands+=(-c "$command $((RANDOM % 4)) $((RANDOM % 2048 * 512)) $((RANDOM % 256 * 512))")
    done
    vdisk io -f raw "${commands[@]}" "$1" > /dev/null 2>&1 || true # some are behind the end
}
whatever() {
    local i format
    for ((i = 0; i < 12; i++)); do
        format=${formats[RANDOM % ${#formats[@]}]}
        rm -f r-*
        random_disk r-base
        random_disk r-source
        random_disk r-other
        # Every other source is an overlay on the same file.
        if ((i % 2)); then
            overlay "$format" r-middle -b r-base -F raw -o size=2M
            vdisk io -c 'write -q -P 7 100k 3k' -c 'write -q -z 640k 64k' r-middle
            mv r-source r-unused
            mv r-middle r-source
        fi
        # shellcheck disable=SC2046 # words
        vdisk convert -f "$([ "$((i % 2))" = 1 ] && echo "$format" || echo raw)" -O "$format" \
            -B r-base -F raw $(own_options "$format" r-target) r-source r-target || return 1
        vdisk convert -f "$([ "$((i % 2))" = 1 ] && echo "$format" || echo raw)" -O raw r-source \
            r-flat || return 1
        vdisk compare -F raw r-target r-flat || return 1
        vdisk check -q r-target || return 1
    done
}
check 'whatever the backing file holds' whatever

want 1 '-B with -n' vdisk convert -n -f raw -O raw -B base -F raw source flat
err_has '^vdisk: convert: -B, -F: have no meaning with -n'
want 1 '-B without a format' vdisk convert -f raw -O add-cow -o image_file=new.data -B base source new
err_has 'Detected format of raw\.$'
want 1 '-B of a format without overlays' vdisk convert -f raw -O gow3 -B base -F raw source new
err_is "vdisk: Backing file not supported for file format 'gow3'"
want 1 'the backing file as the target' vdisk convert -f raw -O add-cow -o image_file=new.data \
    -B base -F raw source base
err_has 'same file'
want 1 'a backing file of the source as the target' vdisk convert -O raw one base
err_is "vdisk: base: is a backing file of the source 'one'"
echo holds > holds
want 1 'a raw file that holds something' vdisk convert -f raw -O add-cow -o image_file=holds source \
    new
err_has "data file 'holds': it is there already, and what it holds would be overwritten"
check 'it is as it was' grep -q holds holds
ln -s dir/link link
want 1 'a link as the target' vdisk convert -f raw -O add-cow -B base -F raw -o image_file=new.data \
    source link
err_has 'is a symbolic link'
check 'failures leave nothing behind' test ! -e new -a ! -e new.data
check 'the backing file is as it was' cmp base base.was

# --- amend
want 1 'amend: nothing to do' vdisk amend base
err_has '^vdisk: amend: Must specify options \(-o\)$'
want 1 'amend: an unknown option' vdisk amend -o size=1M base
err_has '^vdisk: amend: -o size: can not be changed'
want 1 'amend: an option without a value' vdisk amend -o compat base
err_has '^vdisk: amend: -o compat: needs a value'
want 1 'amend: only a draft' vdisk amend -o draft=draft-1 base
err_has '^vdisk: amend: -o draft: '
want 1 'amend: raw' vdisk amend -f raw -o compat=final base
err_is 'vdisk: base: format raw has nothing to amend'
want 0 'amend: help' vdisk amend -o help
out_has '^  compat=<str> '

finish
