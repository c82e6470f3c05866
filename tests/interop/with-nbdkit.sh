#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs a program of TAP tests with files, and NBD URIs under which nbdkit serves them:
#
#   tests/interop/with-nbdkit.sh PROGRAM     runs PROGRAM PATH URI [PATH URI]...
#
# Each server has another set of abilities.
set -euo pipefail

if ! command -v nbdkit > /dev/null; then
    echo '1..0 # SKIP no nbdkit'
    exit 0
fi
program=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-with-nbdkit.XXXXXX")
pids=()
finish()
{
    for pid in "${pids[@]}"; do
        kill "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT

arguments=()

# serve NAME NBDKIT-OPTION...
serve()
{
    local name=$1
    shift
    : > "$work/$name.img"
    nbdkit --foreground --unix "$work/$name" --pidfile "$work/$name.pid" "$@" \
        2> "$work/$name.log" > /dev/null &
    pids+=($!)
    for _ in {1..200}; do
        [ ! -s "$work/$name.pid" ] || break
        sleep 0.05
    done
    [ -s "$work/$name.pid" ] || {
        sed 's/^/# /' "$work/$name.log"
        echo "1..0 # SKIP nbdkit does not start: $name"
        exit 1
    }
    arguments+=("$work/$name.img" "nbd+unix:///?socket=$work/$name")
}

serve plain file "$work/plain.img"
serve single --filter=multi-conn file "$work/single.img" multi-conn-mode=disable
serve poor --filter=nozero --filter=noextents file "$work/poor.img" zeromode=none
serve threadless --filter=noparallel --filter=fua --filter=nozero file "$work/threadless.img" \
    serialize=all-requests fuamode=emulate zeromode=notrim

"$program" "${arguments[@]}"
