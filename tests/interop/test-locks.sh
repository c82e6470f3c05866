#!/bin/bash
# SPDX-License-Identifier: MIT
# Byte locks against QEMU's own tools: who may open an image while somebody else has it open.
#
#   tests/interop/test-locks.sh VDISK
set -euo pipefail
vdisk=$(realpath "$1")

for tool in qemu-io qemu-img; do
    if ! command -v "$tool" > /dev/null; then
        echo "1..0 # SKIP no $tool"
        exit 0
    fi
done

work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-locks.XXXXXX")
holder=
# shellcheck disable=SC2317 # the trap calls it
clean_up()
{
    [ -z "$holder" ] || kill "$holder" 2> /dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
cd "$work"
mkfifo commands

number=0
failed=0

# fine NAME COMMAND...: the command succeeds
fine()
{
    local name=$1
    shift
    number=$((number + 1))
    if "$@" > out 2>&1; then
        echo "ok $number - $name"
    else
        failed=1
        echo "not ok $number - $name"
        sed 's/^/# /' out
    fi
}

# refused RE NAME COMMAND...: the command fails, and a line that it prints matches
refused()
{
    local re=$1 name=$2 status=0
    shift 2
    number=$((number + 1))
    "$@" > out 2>&1 || status=$?
    if [ "$status" -ne 0 ] && grep -Eq "$re" out; then
        echo "ok $number - $name"
    else
        failed=1
        echo "not ok $number - $name (status $status)"
        sed 's/^/# /' out
    fi
}

# hold COMMAND...: a program that keeps an image open until let_go; returns when it has locked as
# many files as $files says
files=1
hold()
{
    local locked
    "$@" < commands > held 2>&1 &
    holder=$!
    exec 9> commands
    for _ in {1..400}; do
        locked=$(grep -ls OFDLCK "/proc/$holder"/fdinfo/* | wc -l) || true
        if [ "$locked" -ge "$files" ]; then
            return 0
        fi
        sleep 0.025
    done
    echo "Bail out! $1 does not open the image"
    sed 's/^/# /' held
    exit 1
}

let_go()
{
    exec 9>&-
    wait "$holder" || true
    holder=
}

# qemu-io ends with status 0 although it could not open the image, so look at what it did.
# shellcheck disable=SC2317 # called by fine and refused
qemu_write()
{
    qemu-io -f "$1" -c 'write -P 7 0 4096' "$2" 2>&1 | tee written
    grep -q 'wrote 4096' written
}
# shellcheck disable=SC2317 # called by fine and refused
qemu_read()
{
    qemu-io -r "$@" -c 'read 0 4096' 2>&1 | tee seen
    grep -q 'read 4096' seen
}
# shellcheck disable=SC2317 # called by fine
is_as_it_was()
{
    [ "$(stat -c %s a.raw)" = 1048576 ] && qemu-io -r -f raw -c 'read -P 7 0 4096' a.raw > seen &&
        ! grep 'verification failed' seen
}

# QEMU minds writers beside its reader only where a format's metadata could change under it, so
# some of these need a qcow2 file; to us that is just another raw file.
qemu-img create -q -f raw a.raw 1M
qemu-img create -q -f qcow2 q.raw 1M
lock='Failed to get (shared )?"(write|resize|consistent read)" lock'

hold "$vdisk" io -f raw a.raw
refused "$lock" 'we write: QEMU may not write' qemu_write raw a.raw
refused "$lock.*\\(process $holder \"vdisk\" has it open\\)" 'we write: another of us may not' \
    "$vdisk" io -f raw -c 'write 0 512' a.raw
refused "$lock" 'we write: another of us may not read' "$vdisk" info -f raw a.raw
fine 'we write: another of us may look with -U' "$vdisk" info -U -f raw a.raw
let_go

hold "$vdisk" io -f raw q.raw
refused "$lock" 'we write: QEMU may not read' qemu_read -f qcow2 q.raw
refused "$lock" 'we write: no qemu-img info' qemu-img info -f qcow2 q.raw
fine 'we write: QEMU may read with -U' qemu_read -U -f qcow2 q.raw
let_go

hold "$vdisk" io -r -f raw a.raw
refused "$lock" 'we read: QEMU may not write' qemu_write raw a.raw
fine 'we read: QEMU may read' qemu_read -f raw a.raw
let_go

hold "$vdisk" io -r -U -f raw a.raw
fine 'we read with -U: QEMU may write' qemu_write raw a.raw
let_go

hold qemu-io -f raw a.raw
refused "$lock.*\\(process $holder \"qemu-io\" has it open\\)" 'QEMU writes: we may not write' \
    "$vdisk" io -f raw -c 'write 0 512' a.raw
refused "$lock" 'QEMU writes: we may not read' "$vdisk" info -f raw a.raw
refused "$lock" 'QEMU writes: no resize' "$vdisk" resize -f raw a.raw 2M
refused "$lock" 'QEMU writes: no new image in its place' "$vdisk" create -f raw a.raw 4M
fine 'QEMU writes: we may look with -U' "$vdisk" info -U -f raw a.raw
let_go
fine 'the refused left the image as it was' is_as_it_was

hold qemu-io -r -f qcow2 q.raw
refused "$lock" 'QEMU reads: we may not write' "$vdisk" io -f raw -c 'write 0 512' q.raw
refused "$lock" 'QEMU reads: no new image in its place' "$vdisk" create -f raw q.raw 4M
fine 'QEMU reads: we may read' "$vdisk" info -f raw q.raw
let_go
fine 'the refused left that one as it was, too' qemu-img check -q q.raw

hold qemu-io -r -U -f qcow2 q.raw
fine 'QEMU reads with -U: we may write' "$vdisk" io -f raw -c 'length' q.raw
let_go

fine 'nobody is left: we may write' "$vdisk" io -f raw -c 'write -P 9 0 512' a.raw
fine 'nobody is left: QEMU may write' qemu_write raw a.raw

# --- chains: the overlay, the backing file and the raw file of add-cow.  qemu-io does not mind if a
# raw backing file is written to, so it is of a format.
qemu-img create -q -f qed base 1M
for name in o other; do
    qemu-img create -q -f qed -b base -F qed $name.qed
done
qemu_write qed base > out
qemu_write qed other.qed > out # something to commit

# A program that writes to the overlay holds the backing file against writers, too.
overlay_is_written_by()
{
    local who=$1
    refused "$lock" "$who writes to the overlay: QEMU may not write" qemu_write qed o.qed
    refused "$lock" "$who writes to the overlay: QEMU may not read" qemu_read -f qed o.qed
    refused "o.qed.*$lock" "$who writes to the overlay: we may not write" \
        "$vdisk" io -f qed -c 'write 0 512' o.qed
    refused "o.qed.*$lock" "$who writes to the overlay: we may not read" \
        "$vdisk" io -r -f qed -c 'read 0 512' o.qed
    refused "o.qed.*$lock" "$who writes to the overlay: no check" "$vdisk" check -f qed o.qed
    refused "o.qed.*$lock" "$who writes to the overlay: no commit" "$vdisk" commit -f qed o.qed
    refused "o.qed.*$lock" "$who writes to the overlay: no rebase" \
        "$vdisk" rebase -f qed -b '' o.qed
    refused "o.qed.*$lock" "$who writes to the overlay: no rebase -u" \
        "$vdisk" rebase -u -f qed -b '' o.qed
    refused "o.qed.*$lock" "$who writes to the overlay: no flatten" "$vdisk" flatten -f qed o.qed
    refused "o.qed.*$lock" "$who writes to the overlay: no amend" \
        "$vdisk" amend -f qed -o compat=final o.qed
    refused "$lock" "$who writes to the overlay: no external snapshot" \
        "$vdisk" snapshot -f qed --external new.qed o.qed
    refused "$lock" "$who writes to the overlay: no new image in its place" \
        "$vdisk" create -f qed o.qed 1M
    fine "$who writes to the overlay: we may look with -U" "$vdisk" info -U -f qed o.qed
    fine "$who writes to the overlay: we may read with -U" \
        "$vdisk" convert -U -f qed -O raw o.qed copy
    backing_is_held_by "$who"
}

backing_is_held_by()
{
    local who=$1
    refused "$lock" "$who has the overlay: QEMU may not write to the backing file" \
        qemu_write qed base
    refused "base.*$lock" "$who has the overlay: we may not write to the backing file" \
        "$vdisk" io -f qed -c 'write 0 512' base
    refused "base.*$lock" "$who has the overlay: no resize of the backing file" \
        "$vdisk" resize -f qed base 2M
    refused "$lock" "$who has the overlay: QEMU may not commit another to the backing file" \
        qemu-img commit -q -f qed other.qed
    refused "base.*$lock" "$who has the overlay: we may not commit another to the backing file" \
        "$vdisk" commit -f qed other.qed
    refused "base.*$lock" "$who has the overlay: nor with -b" \
        "$vdisk" commit -f qed -b base other.qed
    fine "$who has the overlay: QEMU may read the backing file" qemu_read -f qed base
    fine "$who has the overlay: we may read the backing file" \
        "$vdisk" io -r -f qed -c 'read 0 512' base
    fine "$who has the overlay: QEMU may read another one" qemu_read -f qed other.qed
    fine "$who has the overlay: we may write to another one" \
        "$vdisk" io -f qed -c 'write 512k 512' other.qed
}

files=2
hold "$vdisk" io -f qed o.qed
overlay_is_written_by 'one of us'
let_go
hold qemu-io -f qed o.qed
overlay_is_written_by QEMU
let_go

for who in 'one of us' QEMU; do
    case $who in
    QEMU) hold qemu-io -r -f qed o.qed ;;
    *) hold "$vdisk" io -r -f qed o.qed ;;
    esac
    refused "$lock" "$who reads the overlay: QEMU may not write" qemu_write qed o.qed
    refused "o.qed.*$lock" "$who reads the overlay: we may not write" \
        "$vdisk" io -f qed -c 'write 0 512' o.qed
    refused "o.qed.*$lock" "$who reads the overlay: no commit" "$vdisk" commit -f qed o.qed
    fine "$who reads the overlay: QEMU may read" qemu_read -f qed o.qed
    fine "$who reads the overlay: we may read" "$vdisk" io -r -f qed -c 'read 0 512' o.qed
    backing_is_held_by "$who"
    let_go
done

files=1
hold qemu-io -f qed base
refused "base.*$lock" 'QEMU writes to the backing file: no overlay opens' \
    "$vdisk" io -r -f qed -c 'read 0 512' o.qed
refused "base.*$lock" 'QEMU writes to the backing file: nor for writing' \
    "$vdisk" io -f qed -c 'write 0 512' o.qed
refused "base.*$lock" 'QEMU writes to the backing file: no commit' "$vdisk" commit -f qed other.qed
refused "base.*$lock" 'QEMU writes to the backing file: no rebase' \
    "$vdisk" rebase -f qed -b '' other.qed
fine 'QEMU writes to the backing file: info of the overlay' "$vdisk" info -f qed o.qed
fine 'QEMU writes to the backing file: read with -U' \
    "$vdisk" io -U -r -f qed -c 'read 0 512' o.qed
let_go
hold "$vdisk" io -f qed base
refused "$lock" 'we write to the backing file: QEMU opens no overlay' qemu_read -f qed o.qed
refused "base.*$lock" 'we write to the backing file: nor do we' \
    "$vdisk" io -r -f qed -c 'read 0 512' o.qed
fine 'we write to the backing file: QEMU reads with -U' qemu_read -U -f qed o.qed
let_go

# --- add-cow, which QEMU does not know: its raw file and its backing file it does
"$vdisk" create -q -f add-cow -o backing_file=base,backing_fmt=qed,image_file=c.raw c.add-cow 1M
files=3
hold "$vdisk" io -f add-cow c.add-cow
refused "c.add-cow.*$lock" 'add-cow is written to: another may not write' \
    "$vdisk" io -f add-cow -c 'write 0 512' c.add-cow
refused "c.add-cow.*$lock" 'add-cow is written to: another may not read' \
    "$vdisk" io -r -f add-cow -c 'read 0 512' c.add-cow
fine 'add-cow is written to: read with -U' "$vdisk" io -U -r -f add-cow -c 'read 0 512' c.add-cow
refused "$lock" 'add-cow is written to: QEMU may not write to its raw file' qemu_write raw c.raw
refused "c.raw.*$lock" 'add-cow is written to: nor may we' "$vdisk" io -f raw -c 'write 0 512' c.raw
refused "c.raw.*$lock" 'add-cow is written to: its raw file may not be read' \
    "$vdisk" io -r -f raw -c 'read 0 512' c.raw
refused "c.raw.*$lock" 'add-cow is written to: no second one with its raw file' \
    "$vdisk" create -f add-cow -o image_file=c.raw second.add-cow 1M
refused "c.add-cow.*$lock" 'add-cow is written to: no check' "$vdisk" check -f add-cow c.add-cow
backing_is_held_by 'one of us'
let_go

hold "$vdisk" io -r -f add-cow c.add-cow
refused "$lock" 'add-cow is read: QEMU may not write to its raw file' qemu_write raw c.raw
refused "$lock" 'add-cow is read: QEMU may not write to its backing file' qemu_write qed base
refused "c.raw.*$lock" 'add-cow is read: nor may we write to the raw file' \
    "$vdisk" io -f raw -c 'write 0 512' c.raw
fine 'add-cow is read: QEMU may read the raw file' qemu_read -f raw c.raw
fine 'add-cow is read: another may read' "$vdisk" io -r -f add-cow -c 'read 0 512' c.add-cow
let_go

files=1
hold qemu-io -f raw c.raw
refused "c.raw.*$lock" 'QEMU writes to the raw file: add-cow does not open' \
    "$vdisk" io -r -f add-cow -c 'read 0 512' c.add-cow
refused "c.raw.*$lock" 'QEMU writes to the raw file: nor for writing' \
    "$vdisk" io -f add-cow -c 'write 0 512' c.add-cow
refused "c.raw.*$lock" 'QEMU writes to the raw file: no new add-cow with it' \
    "$vdisk" create -f add-cow -o image_file=c.raw second.add-cow 1M
fine 'QEMU writes to the raw file: read with -U' \
    "$vdisk" io -U -r -f add-cow -c 'read 0 512' c.add-cow
let_go
hold qemu-io -f qed base
refused "base.*$lock" 'QEMU writes to the backing file: add-cow does not open' \
    "$vdisk" io -r -f add-cow -c 'read 0 512' c.add-cow
let_go

fine 'all of it is as it was: the backing file' qemu-io -r -f qed -c 'read -P 7 0 4096' base
fine 'all of it is as it was: the overlay' qemu-img compare -f qed -F qed base o.qed
fine 'all of it is as it was: add-cow' "$vdisk" compare -f qed -F add-cow base c.add-cow
fine 'nobody is left: we may write' "$vdisk" io -f qed -c 'write 0 512' o.qed
fine 'nobody is left: commit' "$vdisk" commit -f qed other.qed

echo "1..$number"
exit "$failed"
