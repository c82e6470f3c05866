#!/bin/bash
# SPDX-License-Identifier: MIT
# shellcheck disable=SC2016 # inner shells expand
# vdisk map, info, compare and convert on chains of QED images beside qemu-img, in both directions.
#
#   tests/interop/test-qed-map.sh VDISK
#
# Random chains of three images, backing files shorter and longer than what is on them, from a seed
# that is printed: VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS (default 8) the count of chains.
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

for program in qemu-img qemu-io; do
    have "$program" || { echo "1..0 # SKIP no $program"; exit 0; }
done
seed=${VDISK_TEST_SEED:-$(date +%s)}
rounds=${VDISK_TEST_ROUNDS:-8}
echo "# seed $seed"
RANDOM=$((seed % 32768))

# writes FORMAT FILE UNITS PROGRAM: random writes to a disk of so many units of 512 bytes.  Zeros go
# to whole clusters only: a write to a part of a zero cluster is what QEMU gets wrong.
writes() {
    local format=$1 file=$2 units=$3 program=$4 commands=() i offset length
    for ((i = RANDOM % 8; i > 0; i--)); do
        offset=$((RANDOM % units))
        length=$((1 + RANDOM % 300))
        [ $((offset + length)) -le "$units" ] || length=$((units - offset))
        commands+=(-c "write -q -P $((1 + RANDOM % 255)) $((offset * 512)) $((length * 512))")
    done
    offset=$((RANDOM % 32 * 65536))
    if [ $((offset + 65536)) -le $((units * 512)) ]; then
        # Behind the others: nothing is written to a part of it any more.
        commands+=(-c "$([ "$program" = qemu-io ] && echo 'write -q -z' || echo 'write -q -zu') $offset 65536")
    fi
    [ ${#commands[@]} -eq 0 ] || ran "$program" -f "$format" "${commands[@]}" "$file"
}

ran() {
    case $1 in
        qemu-io) "$@" ;;
        *) vdisk io "${@:2}" ;;
    esac > /dev/null
}

random_units() {
    echo $((1 + RANDOM % 4096))
}

# make PROGRAM: base (raw or qed), mid and top, each with some writes
make() {
    local program=$1 name below=base below_format=raw # units stay: those of top
    rm -f base mid top
    units=$(random_units)
    [ $((RANDOM % 2)) = 0 ] || below_format=qed
    case $program in
        qemu-io) qemu-img create -q -f $below_format base $((units * 512)) ;;
        *) vdisk create -q -f $below_format base $((units * 512)) ;;
    esac
    writes $below_format base "$units" "$program"
    for name in mid top; do
        units=$(random_units)
        case $program in
            qemu-io)
                qemu-img create -q -f qed -b $below -F $below_format $name $((units * 512))
                ;;
            *) vdisk create -q -f qed -b $below -F $below_format $name $((units * 512)) ;;
        esac
        below=$name below_format=qed
        writes qed $name "$units" "$program"
    done
}

# What a map of an older qemu-img lacks: 8.2 and later tell of compressed clusters.
as_newer() {
    sed -E '/"compressed"/! s/("data": [a-z]+)(, "offset"|})/\1, "compressed": false\2/'
}

# same ARGUMENT...: both print the same
same() {
    qemu-img "$@" | as_newer > theirs && vdisk "$@" > ours && diff theirs ours
}

# Holes within clusters are told by vdisk, which makes them: so what lies next to each other in the
# file is put together, whether it is told to be zero or not.
same_runs() {
    qemu-img "$@" | as_newer > theirs && vdisk "$@" > ours && python3 -c '
import json
def runs(name):
    joined = []
    for e in json.load(open(name)):
        if "offset" in e:
            del e["zero"], e["data"]
        last = joined[-1] if joined else {}
        if "offset" in e and "offset" in last and last["depth"] == e["depth"] \
                and last["offset"] + last["length"] == e["offset"]:
            last["length"] += e["length"]
        else:
            joined.append(e)
    return joined
assert runs("theirs") == runs("ours")'
}

# Keys that only vdisk has do not count; nor their order.
same_info() {
    qemu-img "$@" > theirs && vdisk "$@" > ours && python3 -c '
import json
theirs, ours = json.load(open("theirs")), json.load(open("ours"))
if not isinstance(theirs, list):
    theirs, ours = [theirs], [ours]
assert len(theirs) == len(ours)
for a, b in zip(theirs, ours):
    assert b == dict(b, **a), (a, b)'
}

for ((round = 1; round <= rounds; round++)); do
    program=$([ $((round % 2)) = 0 ] && echo vdisk || echo qemu-io)
    name="chain $round by $program"
    check "$name" make "$program"
    for image in top mid; do
        check "$name: qemu-img check $image" qemu-img check -q -f qed $image
        check "$name: vdisk check $image" vdisk check -q $image
        if [ "$program" = qemu-io ]; then
            check "$name: map $image" same map -f qed $image
            check "$name: map $image as JSON" same map -f qed --output=json $image
        fi
        check "$name: runs of $image" same_runs map -f qed --output=json $image
        check "$name: info $image" same info -f qed $image
        check "$name: info $image as JSON" same_info info -f qed --output=json $image
    done
    check "$name: a part of the map" same_runs map -f qed --output=json \
        --start-offset=$((RANDOM % units * 512)) --max-length=600k top
    check "$name: the chain" same info -f qed --backing-chain top
    check "$name: the chain as JSON" same_info info -f qed --backing-chain --output=json top

    check "$name: flat by vdisk" vdisk convert -O raw top flat
    check "$name: flat by qemu-img" qemu-img convert -f qed -O raw top flat.theirs
    check "$name: both are the same" cmp flat flat.theirs
    for pair in '-F raw top flat' '-F qed top mid' '-F raw mid flat'; do
        theirs=0
        # shellcheck disable=SC2086 # words
        qemu-img compare -f qed $pair > theirs || theirs=$?
        # shellcheck disable=SC2086 # words
        want "$theirs" "$name: compare $pair" vdisk compare -f qed $pair
        out_is "$(cat theirs)"
    done
    rm -f diff
    check "$name: the differences alone" vdisk convert -O qed -B base -F \
        "$(vdisk info --output=json mid | grep -q 'filename-format' && echo raw || echo qed)" top diff
    check "$name: qemu-img check" qemu-img check -q -f qed diff
    check "$name: qemu-img reads the same" qemu-img compare -q -f qed -F raw diff flat
    check "$name: a snapshot" vdisk snapshot -q --external=before top
    check "$name: qemu-img reads the same" qemu-img compare -q -f qed -F raw top flat
    check "$name: qemu-img check" qemu-img check -q -f qed top
    check "$name: four images" test "$(qemu-img info --backing-chain top | grep -c '^image: ')" -eq 4
    rm -f before
done

# --- what create prints
base_of() {
    rm -f a b base
    qemu-img create -q -f raw base 1000k
}
formats_as() {
    base_of
    qemu-img create "$@" > theirs || return 1
    rm -f a
    vdisk create "$@" > ours || return 1
    diff theirs ours
}
check 'create' formats_as -f qed a 10M
check 'create: clusters' formats_as -f qed -o cluster_size=4k,table_size=2 a 10M
check 'create: an overlay' formats_as -f qed -b base -F raw a
check 'create: a larger overlay' formats_as -f qed -b base -F raw a 2M
check 'create: by options' formats_as -f qed -o backing_file=base,backing_fmt=raw,cluster_size=128k a

finish
