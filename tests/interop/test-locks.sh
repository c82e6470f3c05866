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

# hold COMMAND...: a program that keeps a.raw open until let_go; returns when it has it
hold()
{
    "$@" < commands > held 2>&1 &
    holder=$!
    exec 9> commands
    for _ in {1..400}; do
        if grep -qs OFDLCK "/proc/$holder"/fdinfo/*; then
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

echo "1..$number"
exit "$failed"
