#!/bin/bash
# SPDX-License-Identifier: MIT
# QED images with the headers of the three drafts: read, converted, brought to the final form, and
# then read by QEMU.
#
#   tests/interop/test-qed-draft.sh VDISK
#
# The images are QEMU's, with a header put together here from the tables of qed §9.
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

for program in qemu-img qemu-io; do
    have "$program" || { echo "1..0 # SKIP no $program"; exit 0; }
done

# poke FILE OFFSET BYTES VALUE: little-endian
poke() {
    local i text=
    for ((i = 0; i < $3; i++)); do
        text+=$(printf '\\x%02x' $((($4 >> (8 * i)) & 255)))
    done
    printf '%b' "$text" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

put() { # FILE OFFSET TEXT
    printf '%s' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# make_draft FILE NUMBER BACKING FORMAT: in place of the final header, which has no other features
make_draft() {
    local file=$1 draft=$2 backing=$3 format=$4 features=0 compat=0 name=64
    [ "$draft" != 3 ] || name=56
    poke "$file" 32 8 $((0x10000)) # L1
    poke "$file" 40 8 $((16 << 20)) # size
    poke "$file" 48 8 0
    poke "$file" 56 8 0
    if [ -n "$backing" ]; then
        features=1
        poke "$file" 48 4 $name
        poke "$file" 52 4 ${#backing}
        put "$file" $name "$backing"
        if [ -n "$format" ] && [ "$draft" = 3 ]; then
            features=5 # no other format than raw is recorded
        elif [ -n "$format" ]; then
            compat=1
            poke "$file" 56 4 $((name + ${#backing}))
            poke "$file" 60 4 ${#format}
            put "$file" $((name + ${#backing})) "$format"
        fi
    fi
    # Nothing else tells the second draft from the first.
    [ "$draft" != 2 ] || features=$((features | 2))
    poke "$file" 16 8 $features
    poke "$file" 24 8 $compat
}

qemu-img create -q -f raw base.raw 16M
qemu-io -f raw -c 'write -P 9 0 16m' base.raw > /dev/null

for backing in '' base.raw; do
    rm -f pristine.qed
    qemu-img create -q -f qed pristine.qed 16M
    # A zero cluster and parts of clusters would read as QEMU sees them without a backing file.
    qemu-io -f qed -c 'write -P 1 1m 128k' -c 'write -P 2 8m 64k' pristine.qed > /dev/null
    if [ -n "$backing" ]; then
        cp base.raw disk
    else
        truncate -s 0 disk
        truncate -s 16M disk
    fi
    qemu-io -f raw -c 'write -P 1 1m 128k' -c 'write -P 2 8m 64k' disk > /dev/null
    for draft in 1 2 3; do
        name="draft $draft${backing:+, on raw}"
        cp pristine.qed x.qed
        make_draft x.qed $draft "$backing" "${backing:+raw}"
        cp x.qed before.qed
        variant="draft-$draft"
        # Without a name and the bit of a format the third looks like the first.
        [ -n "$backing" ] || [ $draft != 3 ] || variant='draft-1'

        want 0 "$name: info" vdisk info --output=json x.qed
        out_json "'$variant' in json.dumps(d)"
        want 0 "$name: check" vdisk check x.qed
        want 0 "$name: read" vdisk compare -f qed -F raw x.qed disk
        want 0 "$name: converted" vdisk convert -f qed -O raw x.qed out
        check "$name: converted, the same" cmp out disk
        want 1 "$name: is not written to" vdisk io -f qed -c 'write -P 3 0 512' x.qed
        err_has 'vdisk amend'
        want 1 "$name: is not mended" vdisk check -r all x.qed
        check "$name: nothing was changed" cmp x.qed before.qed

        want 0 "$name: amended" vdisk amend -f qed -o compat=final x.qed
        want 0 "$name: read by QEMU" qemu-img compare -f qed -F raw x.qed disk
        want 0 "$name: checked by QEMU" qemu-img check -f qed x.qed
        want 0 "$name: written to" vdisk io -f qed -c 'write -P 3 0 64k' x.qed
        want 0 "$name: read again" qemu-io -r -f qed -c 'read -P 3 0 64k' -c 'read -P 2 8m 64k' x.qed

        cp before.qed x.qed
        want 0 "$name: amended as said" vdisk amend -f qed -o "compat=final,draft=draft-$draft" x.qed
        want 0 "$name: read by QEMU, too" qemu-img compare -f qed -F raw x.qed disk
    done
done

finish
