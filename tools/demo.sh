#!/bin/bash
# SPDX-License-Identifier: MIT
# Delta sync of a gold image, from beginning to end, on this machine and in about a minute: a real
# partitioned disk with an ext4 file system, a real web server, two caches, a change through the
# file system, a sync that is killed half way and resumed, and the proof that nothing was lost.  Then
# overlays on a cache, as qemu-img sees them in the end.
#
#   tools/demo.sh          VDISK: the command to use, default build/src/cli/vdisk
#                          DEMO_MIB: how much of this machine's files goes in, default 300
#
# Needs no root, no loop device and no mount.  Everything is in a temporary directory and removed.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
vdisk=${VDISK:-$here/build/src/cli/vdisk}
mib=${DEMO_MIB:-300}
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=../tests/interop/nginx.sh
. "$here/tests/interop/nginx.sh"

for program in "$vdisk" sfdisk mke2fs debugfs e2fsck nginx openssl qemu-img; do
    command -v "$program" > /dev/null || {
        echo "demo: no $program: tools/install-deps demo installs what is needed" >&2
        exit 1
    }
done

work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-demo.XXXXXX")
sync_pid=
cleanup() {
    [ -z "$sync_pid" ] || kill -9 "$sync_pid" 2> /dev/null || true
    nginx_stop "$work"
    rm -rf "$work"
}
trap cleanup EXIT

start=$EPOCHSECONDS
partition_offset=$((1 << 20))
disk_mib=$((mib * 2 + 200))
gold=$work/www/gold.gow
mkdir -p "$work/www" "$work/files"

# ---- telling the story ----

step=0
title() {
    step=$((step + 1))
    printf '\n%d. %s\n' "$step" "$*"
}

say() {
    printf '   %s\n' "$*"
}

# Runs the command as it is printed, with short names for what is printed.
show() {
    local words="$*"
    words=${words//$vdisk/vdisk}
    words=${words//$work\/www\//}
    words=${words//$work\//}
    printf '   $ %s\n' "$words"
    "$@" 2>&1 | sed "s|$work/www/||g; s|$work/||g; s|^|     |"
    return "${PIPESTATUS[0]}"
}

size_of() {
    awk -v bytes="$1" 'BEGIN {
        if (bytes < 1048576) printf "%d bytes", bytes; else printf "%.1f MiB", bytes / 1048576
    }'
}

# What the web server really sent since the last look: bytes and requests of the gold image.
sent_bytes=0
sent_requests=0
count_sent() {
    read -r sent_requests sent_bytes < <(nginx_log "$work" |
        awk '$NF == "/gold.gow" { n++; bytes += $3 } END { print n + 0, bytes + 0 }')
    nginx_log_clear "$work"
}

say_sent() {
    count_sent
    say "the server's own log: $sent_requests request$([ "$sent_requests" = 1 ] || echo s)," \
        "$(size_of "$sent_bytes")"
}

# ---- the parts ----

# Files of this machine, as they come, until there are enough.
gather_files() {
    local list=$work/list
    find /usr/bin /usr/lib /usr/share /usr/include -xdev -type f -readable -size -8M \
        -printf '%s %p\n' 2> /dev/null |
        awk -v want=$((mib << 20)) '
            { sum += $1; sub(/^[0-9]+ /, ""); print; if (sum > want) exit }' > "$list" || true
    tar -C / -cf - --no-recursion -T <(sed 's|^/||' "$list") 2> /dev/null |
        tar -C "$work/files" -xf -
    say "$(wc -l < "$list") files of this machine, $(du -sm "$work/files" | cut -f1) MiB"
}

make_disk() {
    truncate -s "${disk_mib}M" "$work/disk.raw"
    printf 'label: gpt\nstart=2048, type=linux, name="root"\n' |
        sfdisk -q "$work/disk.raw" > /dev/null
    mke2fs -q -t ext4 -L gold -d "$work/files" -E "offset=$partition_offset" "$work/disk.raw" \
        "$((disk_mib - 2))M" 2> /dev/null
    rm -rf "$work/files"
    say "a $disk_mib MiB disk, one GPT partition, ext4"
}

# A working day: a new program, a changed one, two files gone, a setting edited.
change_files() {
    local disk="$work/disk.raw?offset=$partition_offset" victim
    head -c 24M /dev/urandom > "$work/new-program"
    date > "$work/setting"
    victim=$(sed -n 5p "$work/list")
    debugfs -w -f - "$disk" > "$work/debugfs.log" 2>&1 << COMMANDS
mkdir /opt
write $work/new-program /opt/new-program
write $work/setting /opt/setting
rm $victim
rm $(sed -n 9p "$work/list")
set_inode_field $(sed -n 7p "$work/list") mtime now
COMMANDS
    say "one 24 MiB program came, two files went, a setting and a time stamp changed"
}

# Carries what is different now into the gold image, in place, in one write session.
change_gold() {
    local offset length number=0
    "$vdisk" compare --list "$gold" -F raw "$work/disk.raw" > "$work/differences" || true
    while read -r offset length; do
        number=$((number + 1))
        dd if="$work/disk.raw" of="$work/piece-$number" bs=1M status=none \
            iflag=skip_bytes,count_bytes skip="$offset" count="$length"
        echo "write -q -s $work/piece-$number $offset $length"
    done < <(sed -n 's/^Content differs at offset \([0-9]*\), \([0-9]*\) bytes$/\1 \2/p' \
        "$work/differences") > "$work/commands"
    "$vdisk" io "$gold" < "$work/commands" > "$work/io.log"
    say "$(wc -l < "$work/commands") ranges of the disk are different now:" \
        "written into the gold image, in place"
    rm -f "$work"/piece-*
}

# Syncs cache B, and kills that when half of it is done.
kill_half_way() {
    local line percent
    mkfifo "$work/progress"
    "$vdisk" sync -q --limit-rate 10M --window 4M --progress=7 "$NGINX_URL/gold.gow" \
        "$work/cache-b.gow" 7> "$work/progress" 2> /dev/null &
    sync_pid=$!
    while read -r line; do
        percent=$(sed -n 's/.*"phase": "sync", "percent": \([0-9]*\).*/\1/p' <<< "$line")
        if [ "${percent:-0}" -ge 50 ]; then
            kill -9 "$sync_pid"
            break
        fi
    done < "$work/progress"
    wait "$sync_pid" 2> /dev/null || true
    sync_pid=
    say "killed (SIGKILL) at ${percent:-?} %"
}

digest() {
    "$vdisk" convert -O raw "$1" "$work/digest.raw"
    sha256sum < "$work/digest.raw" | cut -d ' ' -f 1
}

prove() {
    local name wanted found
    wanted=$(sha256sum < "$work/disk.raw" | cut -d ' ' -f 1)
    say "the disk that the gold image is made of: ${wanted:0:32}..."
    for name in cache-a cache-b; do
        found=$(digest "$work/$name.gow")
        say "the disk in $name.gow:               ${found:0:32}..."
        [ "$found" = "$wanted" ] || { echo "demo: $name.gow is not identical" >&2; exit 1; }
        dd if="$work/digest.raw" of="$work/file-system" bs=1M status=none conv=sparse \
            iflag=skip_bytes skip="$partition_offset"
        truncate -s "$((disk_mib - 2))M" "$work/file-system"
        e2fsck -fn "$work/file-system" > "$work/e2fsck.log" 2>&1 ||
            { cat "$work/e2fsck.log" >&2; exit 1; }
        say "e2fsck on its partition: $(tail -n 1 "$work/e2fsck.log" | sed 's/^gold: //')"
        debugfs -R "dump /opt/new-program $work/dumped" "$work/file-system" 2> /dev/null
        cmp "$work/new-program" "$work/dumped"
        rm -f "$work/digest.raw" "$work/file-system" "$work/dumped"
    done
    say "/opt/new-program reads the same in both caches, byte for byte"
}

# The same bytes into an image and into a plain file that nobody makes overlays of.
write_both() {
    local offset=$1 mib=$2
    head -c "${mib}M" /dev/urandom > "$work/piece"
    "$vdisk" io -c "write -q -s $work/piece $offset ${mib}M" "$work/desk.qed"
    dd if="$work/piece" of="$work/disk.raw" bs=1M status=none conv=notrunc oflag=seek_bytes \
        seek="$offset"
    rm "$work/piece"
}

overlays() {
    show "$vdisk" create -f qed -b cache-a.gow -F gow3 "$work/desk.qed"
    write_both $((partition_offset + (5 << 20) + 512)) 3
    say 'three megabytes are written to it, and its state is kept:'
    show "$vdisk" snapshot --external "$work/monday.qed" "$work/desk.qed"
    write_both $((partition_offset + (6 << 20))) 5
    say 'five more, which go into the overlay on top; then all goes back into one image:'
    show "$vdisk" commit "$work/desk.qed"
    show "$vdisk" flatten "$work/monday.qed"
    show qemu-img check "$work/monday.qed"
    show qemu-img compare -f qed -F raw "$work/monday.qed" "$work/disk.raw"
    say 'and the cache below is what it was:'
    show "$vdisk" compare "$gold" "$work/cache-a.gow"
}

# ---- the story ----

title "A disk with files of this machine"
gather_files
make_disk

title "It becomes a gold image, published by nginx"
show "$vdisk" convert -f raw -O gow3 "$work/disk.raw" "$gold"
nginx_start "$work"
say "$(size_of "$(stat -c %s "$gold")") at $NGINX_URL/gold.gow"

title "Two caches get it for the first time"
show "$vdisk" sync "$NGINX_URL/gold.gow" "$work/cache-a.gow"
show "$vdisk" sync "$NGINX_URL/gold.gow" "$work/cache-b.gow"
count_sent

title "Is there anything new?  One request tells"
show "$vdisk" sync "$NGINX_URL/gold.gow" "$work/cache-a.gow"
say_sent

title "The gold image is changed, through its file system"
change_files
change_gold

title "What would a sync fetch?"
show "$vdisk" delta "$NGINX_URL/gold.gow" "$work/cache-a.gow"
count_sent

title "Cache A is synced"
show "$vdisk" sync "$NGINX_URL/gold.gow" "$work/cache-a.gow"
say_sent
bytes_a=$sent_bytes

title "Cache B is synced over a slow line, and killed half way"
kill_half_way
count_sent
bytes_killed=$sent_bytes
say "the server had sent $(size_of "$bytes_killed"); the cache knows that it is incomplete:"
show "$vdisk" compare "$gold" "$work/cache-b.gow" || true

title "The same command again goes on where it was"
show "$vdisk" sync "$NGINX_URL/gold.gow" "$work/cache-b.gow"
say_sent
bytes_resumed=$sent_bytes

title "Proof"
show "$vdisk" compare "$gold" "$work/cache-a.gow"
show "$vdisk" compare "$gold" "$work/cache-b.gow"
prove

title "A desk on top of cache A"
overlays

full=$(stat -c %s "$gold")
row() {
    printf '   %-24s %12s  %6s\n' "$1" "$(size_of "$2")" \
        "$(awk -v part="$2" -v all="$full" 'BEGIN { printf "%.1f %%", part * 100 / all }')"
}
printf '\nWhat the update took over the network:\n'
row 'a full download' "$full"
row 'cache A' "$bytes_a"
row 'cache B, killed once' "$((bytes_killed + bytes_resumed))"
printf '\nDone in %d s; everything is cleaned up.\n' "$((EPOCHSECONDS - start))"
