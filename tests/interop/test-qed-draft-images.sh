#!/bin/bash
# SPDX-License-Identifier: MIT
# QED images with the headers of the drafts of 2010, built byte by byte by qed_image.py: they open
# for reading, convert, are refused for writing with the way out, and QEMU reads what `amend` made.
#
#   tests/interop/test-qed-draft-images.sh VDISK
build=$(realpath "$(dirname "$0")")/qed_image.py
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

for program in qemu-img qemu-io python3; do
    have "$program" || { echo "1..0 # SKIP no $program"; exit 0; }
done
export PYTHONDONTWRITEBYTECODE=1

sums() {
    sha256sum -- * > ../sums
}
unchanged() {
    sha256sum --quiet -c ../sums
}

# refused NAME COMMAND...: fails, tells of `vdisk amend` and of the image, changes nothing
refused() {
    local name=$1
    shift
    sums
    want 1 "$name" "$@"
    err_has 'image.*vdisk amend'
    check "$name: nothing is written" unchanged
}

# A backing file of the kind $1, and on `disk` what shows through the image.
make_backing() {
    qemu-img create -q -f raw disk 900k
    qemu-io -f raw -c 'write -P 0x77 0 600k' -c 'write -P 0x33 800k 100k' disk > ../log
    case $1 in
        none) rm disk ;;
        raw) cp disk base ;;
        qed) qemu-img convert -f raw -O qed disk base ;;
    esac
}

# try FORM BACKING BUILD-OPTION...
try() {
    local form=$1 backing=$2 name="$1, backing file $2${3:+, ${*:3}}"
    rm -rf -- *
    make_backing "$backing"
    shift 2
    [ "$backing" = none ] || set -- "$@" backing=base format="$backing"
    check "$name: built" "$build" "$form" image disk "$@"
    sums
    want 0 "$name: info" vdisk info image
    out_has '^file format: qed'
    out_has 'draft-[123]'
    want 0 "$name: info as JSON" vdisk info --output=json image
    out_json 'd["format"] == "qed" and d["virtual-size"] > 0'
    want 0 "$name: check" vdisk check -f qed image
    want 0 "$name: map" vdisk map image
    want 0 "$name: convert, recognised" vdisk convert -O raw image ../raw
    check "$name: convert, judged" cmp ../raw disk
    want 0 "$name: convert to qed" vdisk convert -f qed -O qed image ../qed
    check "$name: convert to qed, judged" qemu-img compare -f qed -F raw ../qed disk
    want 0 "$name: compare" vdisk compare -f qed -F raw image disk
    want 0 "$name: read" vdisk io -r -f qed -c 'read 0 64k' image
    check "$name: reading leaves it as it was" unchanged
    refused "$name: write" vdisk io -f qed -c 'write 0 512' image
    refused "$name: resize" vdisk resize -f qed image +1M
    refused "$name: repair" vdisk check -r all -f qed image
    refused "$name: rebase" vdisk rebase -u -f qed -b '' image
    [ "$backing" = none ] || refused "$name: commit" vdisk commit -f qed image

    want 0 "$name: amend" vdisk amend -f qed -o compat=final image
    check "$name: amended: checked by QEMU" qemu-img check -q -f qed image
    check "$name: amended: read by QEMU" qemu-img convert -f qed -O raw image ../raw
    check "$name: amended: judged" cmp ../raw disk
    want 0 "$name: amended: checked" vdisk check -f qed image
    want 0 "$name: amended: compare" vdisk compare -s -f qed -F qed image image
    want 0 "$name: amended: info" vdisk info image
    check "$name: amended: it is no draft" bash -c '! grep draft "$1"' - "$work/out"
    if [ "$backing" != none ]; then
        want 0 "$name: amended: the backing file's format, by QEMU" qemu-img info image
        out_has '^backing file: base'
        [ "$backing" != raw ] || out_has '^backing file format: raw'
    fi
    sums
    want 0 "$name: amended once more" vdisk amend -f qed -o compat=final image
    check "$name: amended once more: the same" unchanged
    check "$name: amended: written by QEMU" qemu-io -f qed -c 'write -P 0x11 64k 200k' image
    want 0 "$name: amended: written" vdisk io -f qed -c 'read -P 0x11 64k 200k' \
        -c 'write -P 0x12 100k 300k' image
    check "$name: amended: checked again" qemu-img check -q -f qed image
}

for form in draft-1 draft-2 draft-3; do
    for backing in none raw qed; do
        try "$form" "$backing"
    done
    try "$form" none cluster=4096 table=2
    try "$form" raw cluster=4096 table=16
    try "$form" qed cluster=1048576 table=2 size=20971520
done

# --- bytes behind the last cluster, which the first draft rounds up and the others down
rm -rf -- *
"$build" draft-1 image disk tail=1000
want 0 'an incomplete cluster at the end: convert' vdisk convert -O raw image ../raw
check 'an incomplete cluster at the end: judged' cmp ../raw disk
want 0 'an incomplete cluster at the end: amend' vdisk amend -f qed -o compat=final image
want 0 'an incomplete cluster at the end: write' vdisk io -f qed -c 'write -P 9 2M 64k' image
check 'an incomplete cluster at the end: checked by QEMU' qemu-img check -q -f qed image
check 'an incomplete cluster at the end: read by QEMU' qemu-io -r -f qed -c 'read -P 9 2M 64k' image

# --- told, not looked at
rm -rf -- *
"$build" draft-1 image disk
want 0 'a draft that is named' vdisk amend -f qed -o compat=final,draft=draft-1 image
check 'a draft that is named, judged' qemu-img compare -f qed -F raw image disk
rm image disk
"$build" draft-3 image disk
want 1 'another kind of header' vdisk amend -f qed -o compat=0.10 image
want 1 'a draft that there is not' vdisk amend -f qed -o compat=final,draft=draft-9 image
want 1 'an option that there is not' vdisk amend -f qed -o size=1M image
want 0 'it is still a draft' vdisk info image
out_has 'draft-'

# --- the prototype before the first draft, which is not QED
printf 'COW2' > old
truncate -s 1M old
want 1 'a header of the prototype' vdisk info -f qed old
err_has 'old'

finish
