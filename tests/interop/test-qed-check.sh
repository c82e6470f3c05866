#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk check on QED images that were damaged on purpose, beside qemu-img check.
#
#   tests/interop/test-qed-check.sh VDISK
#
# Where QEMU's answer is known to be wrong, that is what is expected of it; ours is right.  After
# each repair of ours qemu-img check finds nothing, and qemu-io reads what was there.
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

for program in qemu-img qemu-io; do
    have "$program" || { echo "1..0 # SKIP no $program"; exit 0; }
done

# poke FILE OFFSET VALUE: 8 bytes, little-endian
poke() {
    local i text=
    for ((i = 0; i < 8; i++)); do
        text+=$(printf '\\x%02x' $((($3 >> (8 * i)) & 255)))
    done
    printf '%b' "$text" | dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}

# reads FILE COMMAND...: qemu-io finds the patterns
reads() {
    local file=$1 command commands=()
    shift
    for command; do
        commands+=(-c "read $command")
    done
    qemu-io -r -f qed "${commands[@]}" "$file" > "$work/reads" 2>&1 || return 1
    ! grep -q 'verification failed' "$work/reads"
}

# An image as QEMU lays it out:
#   0x00000 header, 0x10000 L1, 0x50000 cluster 0, 0x60000 its table, 0xa0000 cluster 1,
#   0xb0000 cluster 2, 0xc0000 the cluster at 2 GiB, 0xd0000 its table, which the file ends with
base() {
    rm -f pristine
    qemu-img create -q -f qed pristine 8G
    qemu-io -f qed -c 'write -P 1 0 64k' -c 'write -P 2 64k 64k' -c 'write -P 3 128k 64k' \
        -c 'write -P 4 2g 64k' -c 'write -z 320k 64k' pristine > /dev/null
}
base
contents=('-P 1 0 64k' '-P 2 64k 64k' '-P 3 128k 64k' '-P 4 2g 64k' '-P 0 192k 1m')

want 0 'sound: ours' vdisk check pristine
want 0 'sound: QEMU' qemu-img check -f qed pristine
check 'sound: content' reads pristine "${contents[@]}"

# damaged NAME OURS QEMU MENDED CONTENT... : x is checked by both, mended by us (3: leaks are kept
# then, as they may be what was lost), checked again, read
damaged() {
    local name=$1 ours=$2 peers=$3 mended=$4
    shift 4
    want "$ours" "$name: ours" vdisk check x
    cp x y
    want "$peers" "$name: QEMU" qemu-img check -f qed x
    want "$mended" "$name: mended" vdisk check -r all x
    want "$mended" "$name: mended, and QEMU sees the same" qemu-img check -f qed x
    want 0 "$name: without leaks" vdisk check -r leaks x
    want 0 "$name: mended, says QEMU" qemu-img check -f qed x
    want 0 "$name: mended, say we" vdisk check x
    check "$name: content" reads x "$@"
}

# After QEMU's own repair of y.
qemu_repairs_to() {
    want "$1" "$2" qemu-img check -f qed -r all y
}

entry() { echo $((0x60000 + 8 * $1)); } # of cluster $1 of the first table

cp pristine x
poke x "$(entry 10)" 0xa0000
damaged 'a cluster twice' 2 2 0 "${contents[@]:0:4}" '-P 2 640k 64k'
qemu_repairs_to 2 'a cluster twice: QEMU can not mend that'

cp pristine x
poke x 0x10010 0x60000
damaged 'a table twice' 2 2 0 "${contents[@]}" '-P 1 4g 64k' '-P 2 4295032832 64k' '-P 3 4295098368 64k'
qemu_repairs_to 2 'a table twice: QEMU can not mend that'

cp pristine x
poke x "$(entry 10)" 0xd0000
damaged 'a table as data' 2 2 3 "${contents[@]:0:4}"
qemu_repairs_to 2 'a table as data: QEMU can not mend that'

cp pristine x
poke x 0x10010 0xb0000
damaged 'data as a table' 2 2 0 "${contents[@]}"
qemu_repairs_to 2 'data as a table: QEMU can not mend that'

cp pristine x
poke x 0x10008 0x10000
damaged 'L1 as a table' 2 2 3 "${contents[@]:0:3}" '-P 0 192k 1m'
qemu_repairs_to 2 'L1 as a table: QEMU can not mend that'

cp pristine x
poke x "$(entry 0)" 0x110000
damaged 'data behind the end' 2 2 3 '-P 0 0 64k' "${contents[@]:1}"

cp pristine x
poke x "$(entry 0)" 0x50200
damaged 'data at no cluster' 2 2 3 '-P 0 0 64k' "${contents[@]:1}"

cp pristine x
poke x "$(entry 0)" 0x1000
damaged 'data in the header' 2 2 3 '-P 0 0 64k' "${contents[@]:1}"

cp pristine x
poke x 0x10008 1
damaged 'a table at 1' 2 2 3 "${contents[@]:0:3}" '-P 0 2g 64k'

cp pristine x
poke x 0x10008 0xe0000
damaged 'a table that ends behind the end' 2 2 3 "${contents[@]:0:3}" '-P 0 2g 64k'

# QEMU gives up the table, and with it all data that it leads to; we go on with zeros.
cp pristine x
truncate -s $((0x10f000)) x
damaged 'cut in a table' 2 2 0 "${contents[@]}"
qemu_repairs_to 3 'cut in a table: mended by QEMU'
check 'cut in a table: QEMU loses its data' reads y '-P 0 2g 64k'

cp pristine x
poke x 0x10008 0
truncate -s $((0xcf000)) x
poke x "$(entry 7)" 0xc0000
damaged 'cut in data' 2 2 0 "${contents[@]:0:3}" '-P 4 448k 60k' '-P 0 508k 4k'

# --- leaks ------------------------------------------------------------------------------------

cp pristine x
poke x "$(entry 0)" 0
want 3 'a leak: ours' vdisk check x
want 3 'a leak: QEMU' qemu-img check -f qed x
cp x y
want 3 'a leak: QEMU never gives it back' qemu-img check -f qed -r leaks y
want 0 'a leak: we do' vdisk check -r leaks x
want 0 'a leak: none, says QEMU' qemu-img check -f qed x
check 'a leak: the file is shorter' test "$(stat -c %s x)" -eq $((0x100000))
check 'a leak: content' reads x '-P 0 0 64k' "${contents[@]:1}"

# In many places, tables among them, of small clusters.
rm -f x
qemu-img create -q -f qed -o cluster_size=4096,table_size=2 x 64M
for ((i = 0; i < 16; i++)); do
    qemu-io -f qed -c "write -P $((i + 1)) $((i * 4 + i % 3))m 12k" x > /dev/null
    head -c $((4096 * (i % 5))) /dev/urandom >> x
done
want 3 'many leaks: ours' vdisk check x
want 3 'many leaks: QEMU' qemu-img check -f qed x
want 0 'many leaks: given back' vdisk check -r leaks x
want 0 'many leaks: none, says QEMU' qemu-img check -f qed x
patterns=()
for ((i = 0; i < 16; i++)); do
    patterns+=("-P $((i + 1)) $((i * 4 + i % 3))m 12k")
done
check 'many leaks: content' reads x "${patterns[@]}"

# --- a writer that died -----------------------------------------------------------------------

features() { od -An -tu8 -j16 -N8 "$1" | tr -d ' '; }

rm -f x
qemu-img create -q -f qed x 1G
bash -c "qemu-io -f qed -c 'write -P 7 1m 64k' -c abort x; true" > /dev/null 2>&1
check 'died: it asks for a check' test "$(features x)" -eq 2
want 0 'died: info' vdisk info --output=json x
out_json 'd["dirty-flag"] is True'
want 0 'died: only looked at' vdisk check x
check 'died: which changes nothing' test "$(features x)" -eq 2
want 0 'died: read' vdisk io -r -c 'read -P 7 1m 64k' x
check 'died: which changes nothing, too' test "$(features x)" -eq 2
poke x "$(entry 100)" 0x50000
want 0 'died: written to' vdisk io -c 'write -P 8 2m 64k' x
check 'died: has been checked' test "$(features x)" -eq 0
want 0 'died: and mended, says QEMU' qemu-img check -f qed x
check 'died: content' reads x '-P 7 1m 64k' '-P 8 2m 64k'

# --- what QEMU gets wrong ---------------------------------------------------------------------

# Clusters of 4 KiB are counted as of 4095 bytes, so that a large file seems to have leaks.
rm -f x
vdisk create -q -f qed -o cluster_size=4096,table_size=16 x 256M
vdisk io -c 'write -P 1 0 32m' -c 'write -P 2 32m 32m' x > /dev/null
want 0 'many small clusters: ours' vdisk check x
want 3 'many small clusters: QEMU invents leaks' qemu-img check -f qed x
check 'many small clusters: content' reads x '-P 1 0 32m' '-P 2 32m 32m'

# Tables of one cluster are taken for ones whose end wraps.
rm -f x
vdisk create -q -f qed -o cluster_size=65536,table_size=1 x 256M
vdisk io -c 'write -P 1 0 1m' x > /dev/null
want 0 'tables of one cluster: ours' vdisk check x
want 1 'tables of one cluster: QEMU can not open them' qemu-img check -f qed x
want 0 'tables of one cluster: content' vdisk io -r -c 'read -P 1 0 1m' x

# The limit of 2^64 bytes is taken for 0.
rm -f x
vdisk create -q -f qed -o cluster_size=4194304 x 256M
want 0 'clusters of 4 MiB: ours' vdisk check x
want 1 'clusters of 4 MiB: QEMU can not open them' qemu-img check -f qed x

finish
