#!/bin/bash
# SPDX-License-Identifier: MIT
# The commands that change chains, killed (SIGKILL) at random moments: every image opens and has no
# corruption, the disk reads as before or as after, and running the command again completes it.
#
#   tests/interop/test-chain-kill.sh VDISK
#
# VD_KILLS: kills of each command that came before its end, default 3; 100 for a full run.
# SEED: of the moments, and of the content; printed.
here=$(dirname "$(realpath "$0")")
# shellcheck source=../cli/lib.sh
. "$here/../cli/lib.sh"
kills=${VD_KILLS:-3}
SEED=${SEED:-$RANDOM}
RANDOM=$SEED
size=$((12 << 20))
echo "# seed $SEED, $kills kills of each command"

# Runs a command and kills it after so many microseconds; prints whether that was in time.
cat > "$work/kill-after" << 'SCRIPT'
import signal, subprocess, sys, time
process = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL)
time.sleep(int(sys.argv[1]) / 1e6)
process.send_signal(signal.SIGKILL)
status = process.wait()
if status not in (0, -signal.SIGKILL):
    sys.exit(f"status {status}: {sys.argv[2:]}")
print("killed" if status else "done")
SCRIPT

# scribble FORMAT FILE COUNT: writes here and there, data and zeros
scribble() {
    local commands=() i
    for ((i = 0; i < $3; i++)); do
        commands+=(-c "write -q -P $((RANDOM % 255 + 1)) $((RANDOM % (size / 512 - 1024) * 512)) $((RANDOM % 512 + 1))k")
    done
    commands+=(-c "write -q -z $((RANDOM % 100))k $((RANDOM % 900 + 1))k")
    "$C" io -f "$1" "${commands[@]}" "$2" > /dev/null
}

# overlay FORMAT FILE BACKING BACKING_FORMAT
overlay() {
    local options=()
    [ "$1" != add-cow ] || options=(-o "image_file=$2.raw")
    vdisk create -q -f "$1" "${options[@]}" -b "$3" -F "$4" "$2"
}

# make_gold FOLDER BASE MID TOP: base <- mid <- top of these formats, another base, and the content
make_gold() {
    mkdir "$1"
    (
        cd "$1"
        vdisk create -q -f "$2" base $size
        scribble "$2" base 30
        overlay "$3" mid base "$2"
        scribble "$3" mid 20
        overlay "$4" top mid "$3"
        scribble "$4" top 20
        vdisk create -q -f gow3 other $((size + 65536))
        scribble gow3 other 10
        vdisk convert -f "$4" -O raw top before
        cp --sparse=always before longer
        truncate -s $((size + 1000 * 512)) longer
        echo "$4" > format
        [ "$2" != raw ] || touch base-is-raw
    )
}

all=(gold-1 gold-2 gold-3)
make_gold gold-1 raw qed qed
make_gold gold-2 gow3 add-cow add-cow
make_gold gold-3 qed qed add-cow

# The top with the header that the first draft of QED had: no autoclear bits, the rest 8 bytes lower.
cp -r --sparse=always gold-1 draft
python3 - draft/top << 'SCRIPT'
import struct, sys
with open(sys.argv[1], "r+b") as file:
    start = struct.unpack("<4s3I5Q2I", file.read(64))
    magic, cluster, table, header, features, compat, autoclear, l1, size, offset, length = start
    assert magic == b"QED\0" and features == 1 and autoclear == 0 and offset >= 64, start
    file.seek(0)
    file.write(struct.pack("<4s3I4Q4I", magic, cluster, table, header, features, compat, l1, size,
                           offset, length, 0, 0))
SCRIPT

# Is every image of the chain sound?  Leaks (3) are allowed, and raw (63) has nothing to check.
sound() {
    local file status
    for file in base mid top snap out; do
        [ -e $file ] || continue
        [ "$file" != base ] || [ ! -e base-is-raw ] || continue
        status=0
        "$C" check -q "$file" || status=$?
        [ $status -eq 0 ] || [ $status -eq 3 ] || { echo "check of $file: status $status"; return 1; }
    done
}

# same RAW: the disk has this content and length
same() {
    "$C" compare -q -F raw top "$1" && [ "$(virtual_size)" = "$(stat -c %s "$1")" ]
}

virtual_size() {
    "$C" info --output=json top |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["virtual-size"])'
}

fresh() {
    rm -rf run
    cp -r --sparse=always "$1" run
}

# A new image is there only when it is complete.
complete() {
    [ ! -e out ] || "$C" compare -q -F raw out before || { echo 'what is new reads otherwise'; return 1; }
}

# names NAME: the backing file of top; - for none
names() {
    [ "$("$C" info --output=json top |
        python3 -c 'import json, sys; print(json.load(sys.stdin).get("backing-filename", "-"))')" = "$1" ]
}

# one_kill AFTER BACKING COMMAND...: in the folder run; one run of the command takes $duration
# microseconds
one_kill() {
    local outcome after=$1 backing=$2
    shift 2
    outcome=$(python3 "$work/kill-after" $(((RANDOM << 15 | RANDOM) % (duration + 1))) "$@") || return 1
    [ "$outcome" != killed ] || killed=$((killed + 1))
    sound && complete || return 1
    same before || same "$after" || { echo 'the disk reads otherwise'; return 1; }
    # What has been snapshot is not snapshot again.
    "$@" > /dev/null || [ -e snap ] || { echo 'the second run has failed'; return 1; }
    sound && complete || return 1
    same "$after" || { echo 'the disk reads otherwise after the second run'; return 1; }
    names "$backing" || { echo 'the backing file is another one'; return 1; }
}

# try_kills NAME AFTER BACKING COMMAND...: AFTER is what the disk reads as when the command is done,
# BACKING what its backing file is then
try_kills() {
    local name=$1 after=$2 i gold start duration=0 killed=0 status=0
    shift 2
    : > "$work/log"
    # The last moments may be after the end, and so no kill.
    for ((i = 0; killed < kills && i < kills * 20 && status == 0; i++)); do
        gold=${golds[i % ${#golds[@]}]}
        if [ "$i" -eq 0 ]; then # how long does it take?
            fresh "$gold"
            cd run
            start=${EPOCHREALTIME/./}
            "${@:2}" > /dev/null 2>> "$work/log" || status=1
            duration=$(((${EPOCHREALTIME/./} - start) * 5 / 4))
            cd ..
        fi
        fresh "$gold"
        cd run
        one_kill "$after" "$@" >> "$work/log" 2>&1 || status=1
        cd ..
        [ "$status" -eq 0 ] || echo "# $gold, kill $i"
    done
    echo "# $name: $killed of $i runs were killed before the end"
    [ "$killed" -eq "$kills" ] || status=1
    last=$name
    report $status "$name"
}

golds=("${all[@]}")
try_kills 'commit' before mid "$C" commit -q top
try_kills 'commit -d' before mid "$C" commit -q -d top
try_kills 'commit -b' before mid "$C" commit -q -b base top
try_kills 'rebase' before other "$C" rebase -b other top
try_kills 'rebase -u' before ./mid "$C" rebase -u -b ./mid top
try_kills 'rebase to none' before - "$C" rebase -b '' top
try_kills 'flatten' before - "$C" flatten -q top
try_kills 'resize' longer mid "$C" resize -q top $((size + 1000 * 512))
try_kills 'snapshot --external' before snap "$C" snapshot -q --external snap -O qed top
golds=(gold-1 gold-3) # with a qed image in the middle
try_kills 'convert -B' before mid "$C" convert -O qed -B mid -F qed top out
golds=(draft)
try_kills 'amend' before mid "$C" amend -q -o compat=final top
finish
