#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk bench: the requests it makes, and what it refuses.
#
#   tests/cli/test-bench.sh VDISK
here=$(dirname "$(realpath "$0")")
# shellcheck source=tests/cli/lib.sh
. "$here/lib.sh"

# reads_as OFFSET LENGTH BYTE...: the disk holds these bytes, each for LENGTH bytes, from OFFSET on
reads_as()
{
    local offset=$1 length=$2 byte
    shift 2
    for byte; do
        vdisk io -r -f raw -c "read -q -P $byte $offset $length" disk
        offset=$((offset + length))
    done
}

fresh()
{
    rm -f disk
    truncate -s 1M disk
    vdisk io -f raw -c 'write -q -P 9 0 1M' disk
}

fresh
want 0 'reading' vdisk bench -f raw -c 1000 -d 4 disk
out_has '^Sending 1000 read requests, 4096 bytes each, 4 in parallel \(starting at offset 0, step size 4096\)$'
out_has '^Run completed in [0-9]+\.[0-9]{3} seconds\.$'
check 'changes nothing' reads_as 0 1M 9
want 0 'no request' vdisk bench -f raw -c 0 disk
want 0 'quiet' vdisk bench -q -f raw -c 10 disk
out_is ''
want 0 'JSON' vdisk bench -f raw --output=json -c 100 -d 2 -s 8k -S 64k -o 512 disk
out_json 'd["operation"] == "read" and d["requests"] == 100 and d["request-bytes"] == 8192'
out_json 'd["depth"] == 2 and d["offset"] == 512 and d["step"] == 65536 and d["flushes"] == 0'
out_json 'd["seconds"] > 0 and d["bytes-per-second"] > 8192 and "seed" not in d'
out_json 'abs(d["requests-per-second"] * 8192 / d["bytes-per-second"] - 1) < 1e-9'

# --- where requests lie
want 0 'writing' vdisk bench -w --pattern 1 -f raw -c 4 -d 2 -s 64k -S 128k -o 64k disk
check 'at offset and by steps' reads_as 0 64k 9 1 9 1 9 1 9 1 9
fresh
want 0 'zeros by default' vdisk bench -w -f raw -c 1 -d 1 disk
check 'are written' reads_as 0 4k 0 9
fresh
want 0 'begins again at the end' vdisk bench -w --pattern=0x5a -f raw -c 3 -s 256k -o 512k disk
check 'of the disk' reads_as 0 256k 0x5a 9 0x5a 0x5a
fresh
want 0 'what reaches past the end' vdisk bench -w --pattern 2 -f raw -c 2 -s 600k disk
check 'is moved back' reads_as 0 1M 2
fresh
want 0 'a step of 0' vdisk bench -w --pattern 2 -f raw -c 20 -S 0 -s 4k -o 4k disk
check 'stays where it is' reads_as 0 4k 9 2 9
fresh
want 0 'one request of the whole disk' vdisk bench -w --pattern 3 -f raw -c 1 -s 1M disk
check 'fits' reads_as 0 1M 3

# --- random
fresh
want 0 'random' vdisk bench -w --pattern 4 --random -f raw -c 64 -s 4k -S 64k -o 512k disk
out_has '\(at random from offset 524288, multiples of 65536, seed [0-9]+\)$'
check 'is on the grid, and not before the offset' python3 - <<'PYTHON'
data = open("disk", "rb").read()
written = {i for i in range(0, len(data), 4096) if data[i] == 4}
assert len(written) > 2 and all(i >= 524288 and i % 65536 == 0 for i in written), written
PYTHON
for run in 1 2; do
    fresh
    vdisk bench -w --pattern 5 --random --seed=7 -f raw -c 40 -d "$run" disk > /dev/null
    mv disk "run-$run"
done
check 'the same seed is the same run, at any depth' cmp run-1 run-2
fresh
vdisk bench -w --pattern 5 --random --seed=8 -f raw -c 40 disk > /dev/null
want 1 'another seed another one' cmp -s run-1 disk
want 0 'the seed' vdisk bench --random --seed 9223372036854775807 --output=json -f raw -c 1 disk
out_json 'd["seed"] == 2**63 - 1'

# --- flushes
want 0 'flushes' vdisk bench -w -f raw -c 100 -d 4 --flush-interval=16 disk
out_has '^Sending flush every 16 requests$'
for drain in '' --no-drain; do
    # shellcheck disable=SC2086
    want 0 "flushes counted $drain" vdisk bench -w -f raw -c 100 -d 4 --flush-interval 16 \
        $drain --output=json disk
    out_json 'd["flushes"] == 6'
done
want 0 'not drained' vdisk bench -w -f raw -c 100 -d 4 --flush-interval=16 --no-drain disk
out_has '^Sending flush every 16 undrained requests$'

# --- formats and cache modes
for format in gow3 qed; do
    vdisk create -q -f "$format" "image.$format" 4M
    want 0 "$format: writing" vdisk bench -q -w --pattern 7 -f "$format" -c 512 -d 16 -s 8k \
        --flush-interval=64 "image.$format"
    check "$format: writes what it says" vdisk io -r -f "$format" -c 'read -q -P 7 0 4M' \
        "image.$format"
    check "$format: leaves a sound image" vdisk check -q -f "$format" "image.$format"
    want 0 "$format: reading" vdisk bench -q -f "$format" -c 512 --random "image.$format"
done
for cache in none writeback writethrough directsync unsafe; do
    want 0 "cache mode $cache" vdisk bench -q -w -t "$cache" -f raw -c 16 -d 2 disk
done
want 0 'sharing' vdisk bench -q -U -f raw -c 1 disk
want 0 'threads' vdisk bench -q -i threads -f raw -c 1 disk

# --- what it refuses
refuses()
{
    local said=$1
    shift
    want 1 "bench $*" vdisk bench "$@"
    err_has "^vdisk: $said"
}
before=$(sha256sum < disk)
refuses 'bench: -i native is not supported' -i native -f raw disk
refuses 'bench: -i io_uring is not supported' -i io_uring -f raw disk
refuses 'bench: -n is not supported' -n -f raw disk
refuses 'bench: --flush-interval is only available in write tests' --flush-interval 64 -f raw disk
refuses "bench: Flush interval can't be smaller than depth" -w --flush-interval 3 -d 4 -f raw disk
refuses 'bench: --no-drain' -w --no-drain -f raw disk
refuses 'bench: --pattern is only' --pattern 1 -f raw disk
refuses "bench: --pattern: '256' is not a byte" -w --pattern 256 -f raw disk
refuses 'bench: --seed' --seed 1 -f raw disk
refuses 'bench: -S 0' --random -S 0 -f raw disk
refuses 'bench: -U' -U -w -f raw disk
refuses 'bench: -d' -d 0 -f raw disk
refuses 'bench: -d' -d 1025 -f raw disk
refuses 'bench: -c' -c 2147483648 -f raw disk
refuses 'bench: -s: 0 is not from 1' -s 0 -f raw disk
refuses 'bench: -s: 2G is not' -s 2G -f raw disk
refuses 'bench: -S: 2G is not' -S 2G -f raw disk
refuses 'disk: a request of 2097152 bytes at 0 .* does not fit' -s 2M -f raw disk
refuses 'disk: a request of 4096 bytes at 1044481 .* does not fit' -o 1044481 -f raw disk
refuses 'nowhere: ' -f raw nowhere
refuses 'bench: too few arguments' -f raw
refuses 'bench: unexpected argument' -f raw disk disk
truncate -s 0 empty
refuses 'empty: a request of 4096 bytes' -f raw empty
check 'and the disk keeps its bytes' test "$before" = "$(sha256sum < disk)"

# A request that fails ends the run.
vdisk create -q -f qed limited.qed 64M
want 1 'a file that must not grow' bash -c \
    "trap '' XFSZ; ulimit -f 8000; exec '$C' bench -w -f qed -c 1000 -s 64k limited.qed"
err_has 'limited\.qed.*File too large'
check 'is told in one line' test "$(wc -l < "$work/err")" -le 2
check 'stays sound' vdisk check -q -f qed limited.qed

finish
