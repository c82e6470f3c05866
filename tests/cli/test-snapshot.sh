#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk snapshot --external, killed at each system call that could matter too.
#
#   tests/cli/test-snapshot.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

# A raw disk and what it holds.
disk() {
    rm -rf case
    mkdir case
    vdisk create -q -f raw case/disk 1M
    vdisk io -f raw -c 'write -q -P 1 0 100k' -c 'write -q -P 2 512k 64k' case/disk
    cp case/disk content
}

# same FILE: its disk is that of `content`
same() {
    vdisk compare -q -F raw "$1" content
}

depth_is() {
    [ "$(vdisk info --backing-chain "$2" | grep -c '^image: ')" -eq "$1" ]
}

same_inode() {
    [ "$(stat -c %i "$1")" = "$(stat -c %i "$2")" ]
}

nothing_else() {
    local names
    names=$(find case -mindepth 1 -printf '%P\n' | sort | tr '\n' ' ')
    [ "$names" = "$* " ] || { echo "there are: $names"; return 1; }
}

# --- as it should go
disk
chmod 640 case/disk
inode=$(stat -c %i case/disk)
want 0 'of a raw disk' vdisk snapshot --external=base -f raw -O add-cow -o image_file=data case/disk
out_is "'case/disk' (add-cow) is now an overlay on 'base' (raw)."
check 'the content has the new name' test "$(stat -c %i case/base)" -eq "$inode"
check 'nothing in it has changed' cmp case/base content
check 'the disk is the same' same case/disk
check 'the overlay has the mode of the image' test "$(stat -c %a case/disk)" = 640
check 'nothing else is left' nothing_else base data disk
want 0 'the overlay names it' vdisk info --output=json case/disk
out_json 'd["backing-filename"] == "base" and d["backing-filename-format"] == "raw"'
vdisk io -c 'write -q -P 3 4k 4k' -c 'write -q -P 4 700k 1k' case/disk
check 'writing changes the overlay only' cmp case/base content
vdisk convert -O raw case/disk content
want 0 'of an overlay, as JSON' vdisk snapshot --output=json --external=middle -O add-cow \
    -o image_file=data2 case/disk
out_json 'd["filename"] == "case/disk" and d["format"] == "add-cow" and len(d) == 6'
out_json 'd["backing-filename"] == "middle" and d["backing-filename-format"] == "add-cow"'
out_json 'd["virtual-size"] == 1 << 20 and d["resumed"] is False'
check 'the disk is the same' same case/disk
check 'three images' depth_is 3 case/disk
want 0 'quiet' vdisk snapshot -q --external=third -O add-cow -o image_file=data3 case/disk
out_is ''
check 'four images' depth_is 4 case/disk

disk
mkdir case/below
want 0 'a name in another directory' vdisk snapshot --external=case/below/base -f raw -O add-cow \
    -o image_file=data case/disk
want 0 'is recorded relative to the image' vdisk info --output=json case/disk
out_json 'd["backing-filename"] == "below/base"'
check 'the disk is the same' same case/disk
disk
mkdir case/side case/up
mv case/disk case/side/disk
want 0 'a name beside' vdisk snapshot --external=case/up/base -f raw -O add-cow \
    -o image_file=data case/side/disk
want 0 'is recorded relative to the image' vdisk info --output=json case/side/disk
out_json 'd["backing-filename"] == "../up/base"'
want 1 'which opening has to be permitted' vdisk map case/side/disk
err_has 'not permitted'
want 0 'as it can be' vdisk map --allow-path=case/up case/side/disk
disk
want 0 'a name like a protocol' vdisk snapshot --external=a:b -f raw -O add-cow -o image_file=data \
    case/disk
check 'the disk is the same' same case/disk

disk
want 0 'an overlay of no special format' vdisk snapshot --external=base -f raw case/disk
out_is "'case/disk' (qed) is now an overlay on 'base' (raw)."
check 'the disk is the same' same case/disk
want 0 'which is a QED image' vdisk snapshot --external=again case/disk
out_is "'case/disk' (qed) is now an overlay on 'again' (qed)."
check 'the disk is the same' same case/disk
check 'three images' depth_is 3 case/disk
want 0 'with options' vdisk snapshot -q --external=third -O qed -o cluster_size=4k case/disk
want 0 'which it has' vdisk info --output=json case/disk
out_json 'd["cluster-size"] == 4096 and d["backing-filename"] == "third"'

# --- refused, and everything as it was
disk
untouched() {
    cmp case/disk content && nothing_else "${@:-disk}"
}
want 1 'raw has to be named' vdisk snapshot --external=base -O add-cow -o image_file=data case/disk
err_has 'name the format, raw included \(-f raw\)$'
check 'all as it was' untouched
want 1 'no file' vdisk snapshot --external=base -f raw case/nowhere
err_is 'vdisk: case/nowhere: No such file or directory'
want 1 'no name' vdisk snapshot -f raw case/disk
err_has '^vdisk: snapshot: one of -l, -a, -c, -d and --external is wanted'
for name in '' . .. case/ case/..; do
    want 1 "the name '$name'" vdisk snapshot --external="$name" -f raw case/disk
    err_has 'is no name for a file$'
done
want 1 'no directory' vdisk snapshot --external=nowhere/base -f raw case/disk
err_has '^vdisk: nowhere/base: can not look at its directory: No such file or directory$'
want 1 'a format without overlays' vdisk snapshot --external=base -f raw -O gow3 case/disk
err_has 'has no backing files'
want 1 'no raw file' vdisk snapshot --external=base -f raw -O add-cow case/disk
err_has 'image_file='
want 1 'options of no format' vdisk snapshot --external=base -f raw -o image_file=data case/disk
err_has '^vdisk: -o: name the format of the overlay too \(-O\)$'
for option in size=2M backing_file=x backing_fmt=raw; do
    want 1 "-o $option" vdisk snapshot --external=base -f raw -O add-cow -o "$option" \
        case/disk
    err_has "^vdisk: -o ${option%%=*}: the overlay is as large as FILE"
done
want 1 'a snapshot within a raw image' vdisk snapshot -f raw -c x case/disk
err_has '^vdisk: case/disk: images of format raw have no snapshots within them'
want 0 'the snapshots within a raw image' vdisk snapshot -f raw -l case/disk
out_is ''
want 0 'the same as JSON' vdisk snapshot -f raw -l --output=json case/disk
out_json 'd == []'
for option in '-a x' '-d x'; do
    # shellcheck disable=SC2086 # two words
    want 1 "a snapshot within a raw image: $option" vdisk snapshot -f raw $option case/disk
    err_has "^vdisk: case/disk: there is no snapshot with the id or name 'x'$"
done
want 1 'a snapshot of raw is not converted' vdisk convert -f raw -l x case/disk case/base
err_has '^vdisk: case/disk: images of format raw have no snapshots within them$'
want 1 'nothing to do' vdisk snapshot case/disk
err_has '^vdisk: snapshot: one of -l, -a, -c, -d and --external is wanted'
want 1 'two things to do' vdisk snapshot -l -c x case/disk
err_has "^vdisk: snapshot: Cannot mix '-l', '-a', '-c', '-d', '--external'"
want 1 '-O is for overlays' vdisk snapshot -c x -O qed case/disk
err_has '^vdisk: snapshot: -O, -o: are for the overlay that --external makes'
want 1 '-U is for -l' vdisk snapshot -U -c x case/disk
err_has '^vdisk: snapshot: -U: is for -l, which changes nothing'
want 1 'what -l of convert takes' vdisk convert -l snapshot.foo=1 case/disk case/base
err_has "^vdisk: convert: -l: Invalid parameter 'snapshot.foo'"
want 1 'one source only' vdisk convert -l x case/disk case/disk case/base
err_has '^vdisk: convert: No support for concatenating multiple snapshot'
check 'all as it was' untouched
echo other > case/base
want 1 'the name is taken' vdisk snapshot --external=base -f raw -O add-cow -o image_file=data \
    case/disk
err_is 'vdisk: case/base: is there already, and is not overwritten'
check 'what has it stays' grep -q other case/base
rm case/base
ln -s disk case/base
want 1 'by a symbolic link' vdisk snapshot --external=base -f raw -O add-cow -o image_file=data \
    case/disk
err_is 'vdisk: case/base: is there already, and is not overwritten'
want 1 'a symbolic link as the image' vdisk snapshot --external=new -f raw case/base
err_has 'is a symbolic link: name the file that it leads to'
rm case/base
want 1 'a folder' vdisk snapshot --external=new -f raw case
err_has 'is no regular file'
echo holds > case/data
want 1 'a raw file that holds something' vdisk snapshot --external=base -f raw -O add-cow \
    -o image_file=data case/disk
err_has "data file 'case/.*data': it is there already, and what it holds would be overwritten"
check 'all as it was' untouched data disk
rm case/data
if mountpoint -q /dev/shm && [ "$(stat -c %d /dev/shm)" != "$(stat -c %d .)" ]; then
    want 1 'another file system' vdisk snapshot --external="/dev/shm/vdisk-test-$$" -f raw \
        -O add-cow -o image_file=data case/disk
    err_has 'is on another file system'
    check 'all as it was' untouched
else
    skip 'another file system' 'there is none'
fi

# Names that would mean something else from there.
disk
vdisk snapshot -q --external=base -f raw -O add-cow -o image_file=data case/disk
mkdir case/below
want 1 'relative names would break' vdisk snapshot --external=case/below/top -O add-cow \
    -o image_file=data2 case/disk
err_has "names the file 'base', which it would not find from the directory of 'case/below/top'"
check 'all as it was' nothing_else base below data disk

# Another process has it.
disk
mkfifo hold
vdisk io -f raw case/disk < hold > /dev/null &
holder=$!
exec 5> hold
echo 'write -q -P 1 0 512' >&5
for _ in {1..100}; do
    grep -q "OFDLCK.*:$(stat -c %i case/disk) " /proc/locks && break
    sleep 0.05
done
want 1 'open elsewhere' vdisk snapshot --external=base -f raw -O add-cow -o image_file=data case/disk
err_has 'Is another process using|lock'
exec 5>&-
wait "$holder"
check 'all as it was' untouched

# --- killed before each system call that changes or makes durable
calls=openat,link,linkat,rename,renameat2,unlink,fsync,fdatasync,pwrite64,pwritev,ftruncate,fallocate
calls+=,fchmod,close

run_killed() {
    # In a shell of its own, which tells nobody that it was killed.
    (
        # A check for leaks needs to trace the process itself.
        ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 \
            strace -f -o "$work/strace" -e "trace=$calls" -e "inject=$calls:signal=KILL:when=$1" \
            "$C" "${@:2}"
        exit
    ) > /dev/null 2>&1
}

# killed FORMAT OPTION...: how often it was killed, and how often each of the ends came
killed() {
    local when=0 before=0 after=0 again=0 resumed
    while [ $((when += 1)) -lt 500 ]; do
        disk
        if run_killed "$when" snapshot --external=base -f raw -O "$@" case/disk; then
            echo "killed at $((when - 1)) system calls: $before times before, $after after the end;" \
                "$again second names"
            [ "$before" -gt 0 ] && [ "$after" -gt 0 ] && [ "$again" -gt 0 ]
            return
        fi
        if [ -e case/base ] && ! same_inode case/base case/disk; then
            after=$((after + 1))
        else
            before=$((before + 1))
            cmp case/disk content || return 1
            resumed=false
            [ ! -e case/base ] || { again=$((again + 1)) && resumed=true; }
            vdisk snapshot --output=json --external=base -f raw -O "$@" case/disk > "$work/again" ||
                return 1
            grep -q "\"resumed\": $resumed" "$work/again" || return 1
        fi
        cmp case/base content || return 1
        same case/disk || return 1
        depth_is 2 case/disk || return 1
        vdisk check -q case/disk || return 1
    done
    return 1
}
if have strace && strace -o /dev/null true 2> /dev/null; then
    check 'killed: an add-cow overlay' killed add-cow -o image_file=data
    sed 's/^/# /' "$work/log"
    check 'killed: a QED overlay' killed qed
    sed 's/^/# /' "$work/log"
else
    skip 'killed' 'no strace'
fi

finish
