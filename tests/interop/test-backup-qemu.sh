#!/bin/bash
# SPDX-License-Identifier: MIT
# qemu-img reads every point of a repository by itself: its content, its check, its chain.
#
#   tests/interop/test-backup-qemu.sh VDISK
#
# Random disks from a seed that is printed: VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS (default 6)
# the points of each repository.
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

for program in qemu-img qemu-io; do
    have "$program" || { echo "1..0 # SKIP no $program"; exit 0; }
done
seed=${VDISK_TEST_SEED:-$(date +%s)}
rounds=${VDISK_TEST_ROUNDS:-6}
echo "# seed $seed"
RANDOM=$((seed % 32768))

below() { # a number below $1, up to 2^30
    echo $(((RANDOM * 32768 + RANDOM) % $1))
}

# QEMU writes to the image, so that its bitmaps are kept by QEMU.
change() {
    local size=$1 file=$2 commands=() i offset length
    for ((i = 1 + $(below 8); i > 0; i--)); do
        length=$(((1 + $(below 600)) * 512))
        offset=$(($(below $(((size - length) / 512))) * 512))
        case $(below 5) in
            0) commands+=(-c "write -z $offset $length") ;;
            1) commands+=(-c "discard $offset $length") ;;
            *) commands+=(-c "write -P $((1 + $(below 255))) $offset $length") ;;
        esac
    done
    qemu-io -f qcow2 "${commands[@]}" "$file" > /dev/null
}

# judge REPOSITORY FORMAT POINT RAW: what qemu-img reads is that disk, it finds nothing wrong with the
# image, and its chain is that of the points
judge() {
    local repository=$1 format=$2 point=$3 raw=$4 image
    image=$repository/$(printf '%06d' "$point").$format
    check "$repository, point $point: the content, judged" qemu-img compare -f raw -F "$format" \
        "$raw" "$image"
    check "$repository, point $point: converted" qemu-img convert -f "$format" -O raw "$image" theirs
    check "$repository, point $point: restored" vdisk restore -q "$repository@$point" ours
    check "$repository, point $point: both are the same" cmp ours theirs
    want 0 "$repository, point $point: check" qemu-img check -q -f "$format" "$image"
    want 0 "$repository, point $point: chain" qemu-img info --backing-chain --output=json "$image"
    cp "$work/out" chain.json
    want 0 "$repository, point $point: list" vdisk backup list --output=json "$repository"
    cp "$work/out" list.json
    check "$repository, point $point: the chain is that of the list" python3 - "$point" <<'EOF'
import json, sys
points = {p["point"]: p for p in json.load(open("list.json"))}
chain = json.load(open("chain.json"))
number, at = int(sys.argv[1]), 0
while number:
    point, image = points[number], chain[at]
    parent = points.get(point["parent"])
    assert image["filename"].endswith(point["image"])
    assert image["virtual-size"] == point["virtual-size"]
    # A plain name beside it: the directory may be moved.
    assert image.get("backing-filename") == (parent and parent["image"]), image
    # QED has no place for the format of what is behind, but that it is not raw.
    if parent and point["image"].endswith(".qcow2"):
        assert image["backing-filename-format"] == parent["image"].rpartition(".")[2]
    number, at = point["parent"], at + 1
assert at == len(chain)
EOF
}

# run REPOSITORY FORMAT OPTION...: points with these options
run() {
    local repository=$1 format=$2 size=$((24 << 20)) point kind
    shift 2
    vdisk create -q -f qcow2 "$repository.qcow2" $size
    for ((point = 1; point <= rounds; point++)); do
        case $((point % 4)) in
            0) kind=--differential ;;
            *) kind=--incremental ;;
        esac
        [ "$point" -ne 1 ] || kind=--full
        if [ $((point % 3)) -eq 0 ]; then
            size=$(((16 + $(below 32)) << 20))
            vdisk resize -q --shrink "$repository.qcow2" $size
        fi
        change $size "$repository.qcow2"
        want 0 "$repository: backup $point" vdisk backup $kind "$@" "$repository.qcow2" "$repository"
        check "$repository: the source is sound" qemu-img check -q "$repository.qcow2"
        qemu-img convert -O raw "$repository.qcow2" "$repository-$point.raw"
    done
    mv "$repository" "moved-$repository" # what images name is beside them
    repository=moved-$repository
    for ((point = 1; point <= rounds; point++)); do
        judge "$repository" "$format" "$point" "${repository#moved-}-$point.raw"
    done
    check "$repository: 2 goes" vdisk backup merge -q "$repository" 2 3
    judge "$repository" "$format" 3 "${repository#moved-}-3.raw"
    check "$repository: prune" vdisk backup prune -q --keep-last=2 "$repository"
    for ((point = rounds - 1; point <= rounds; point++)); do
        judge "$repository" "$format" "$point" "${repository#moved-}-$point.raw"
    done
    check "$repository: verify" vdisk backup verify -q "$repository"
}

run plain qcow2
run compressed qcow2 -c
run qed qed -O qed

finish
