#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk sync from a real nginx, killed (SIGKILL) at random moments and run again until it is done:
# the replica is identical in the end, and no kill costs more than the window.
#
#   tests/interop/test-sync-kill.sh VDISK
#
# VD_KILLS: kills in all, default 20; 200 for a full run.
# SEED: of the moments; printed.
# shellcheck disable=SC2016 # inner shells expand
here=$(dirname "$(realpath "$0")")
# shellcheck source=../cli/lib.sh
. "$here/../cli/lib.sh"
# shellcheck source=nginx.sh
. "$here/nginx.sh"
kills_wanted=${VD_KILLS:-20}
SEED=${SEED:-$RANDOM}
RANDOM=$SEED

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi
sync_pid=
clean_up() {
    [ -z "$sync_pid" ] || kill -9 "$sync_pid" 2> /dev/null || true
    nginx_stop "$work"
    rm -rf "$work"
}
trap clean_up EXIT
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY no_proxy NO_PROXY

blocks=512 # of the disk
window=$((1 << 20))
run=$((256 << 10))
metadata=$((8 * blocks + 2 * 4096)) # of one run: header (asked for twice at most), versions, map
rate=24M # so that a sync takes long enough to be killed in the middle of everything
gold=$work/www/m.gow

mkdir -p "$work/www"
vdisk create -q -f gow3 "$gold" $((blocks * 65536))
nginx_start "$work"
url=$NGINX_URL/m.gow
echo "# seed $SEED, $kills_wanted kills"

sync_command=("$C" sync -q --window "$window" --run "$run" --limit-rate "$rate" "$url")

# A new state of the master: scattered writes, some discards.
number=0
change_master() {
    local commands=() length
    for _ in {1..60}; do
        length=$(((RANDOM % 12 + 1) * 41 * 512))
        commands+=(-c "write -q -P $((RANDOM % 256)) $((RANDOM % blocks * 65536)) $length")
    done
    for _ in {1..5}; do
        commands+=(-c "discard -q $((RANDOM % blocks * 65536)) 131072")
    done
    number=$((number + 1))
    # A write that would pass the end says so, and is left out.
    "$C" io "${commands[@]}" "$gold" > "$work/log" 2>&1 || true
}

fetched() {
    nginx_log "$work" | awk '$NF == "/m.gow" { bytes += $3 } END { print bytes + 0 }'
}

versions_of() {
    dd if="$1" bs=1 count=$((4 * blocks)) skip=$((320 + (16 << 20))) status=none | sha256sum
}

microseconds() {
    echo $((${EPOCHREALTIME/./}))
}

# One change, synced with random kills; adds to the sums below.
kills=0
all_fetched=0
all_allowed=0
useful=0
round() {
    local changed before duration wait_for killed=0 runs=1 sent allowed
    change_master
    changed=$(vdisk delta --run $run --output=json "$gold" r.gow |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["fetched-blocks"])')
    # How long does it take when nobody kills it?
    cp r.gow calibration.gow
    before=$(microseconds)
    "${sync_command[@]}" calibration.gow
    duration=$(($(microseconds) - before))
    nginx_log_clear "$work"
    while :; do
        "${sync_command[@]}" r.gow 2> "$work/err" &
        sync_pid=$!
        wait_for=$(((RANDOM * 32768 + RANDOM) % (duration + 1)))
        if [ "$kills" -lt "$kills_wanted" ] && [ "$killed" -lt 8 ]; then
            sleep "$(printf '%d.%06d' $((wait_for / 1000000)) $((wait_for % 1000000)))"
            if kill -9 "$sync_pid" 2> /dev/null; then
                killed=$((killed + 1))
                kills=$((kills + 1))
            fi
        fi
        if wait "$sync_pid" 2> /dev/null; then
            break
        fi
        runs=$((runs + 1))
    done
    sync_pid=
    sent=$(fetched)
    allowed=$((changed * 65536 + runs * metadata + killed * window))
    all_fetched=$((all_fetched + sent))
    all_allowed=$((all_allowed + allowed))
    useful=$((useful + changed * 65536))
    echo "# $changed blocks changed, one sync takes $((duration / 1000)) ms;" \
        "killed $killed times, $runs runs; fetched $sent bytes, allowed $allowed"
    check "round $number: the same guest content" vdisk compare -q "$gold" r.gow
    check "round $number: the same versions" test "$(versions_of "$gold")" = "$(versions_of r.gow)"
    check "round $number: no corruption" sh -c '"$0" check -q r.gow || [ $? = 3 ]' "$C"
    check "round $number: no kill costs more than the window" test "$sent" -le "$allowed"
}

change_master
vdisk sync -q "$url" r.gow
for _ in {1..400}; do
    [ "$kills" -lt "$kills_wanted" ] || break
    round
done
check 'there were enough kills' test "$kills" -ge "$kills_wanted"
echo "# in all: $kills kills, fetched $all_fetched bytes, changed $useful," \
    "allowed $all_allowed; one kill cost $(((all_fetched - useful) / kills)) bytes"
finish
