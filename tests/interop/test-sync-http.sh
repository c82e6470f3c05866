#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk sync from web servers: what it asks for, counted by the server; masters that change
# meanwhile; servers that misbehave.
#
#   tests/interop/test-sync-http.sh VDISK
here=$(dirname "$(realpath "$0")")
# shellcheck source=../cli/lib.sh
. "$here/../cli/lib.sh"
# shellcheck source=nginx.sh
. "$here/nginx.sh"

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi
server_pid=
clean_up() {
    [ -z "$server_pid" ] || kill "$server_pid" 2> /dev/null || true
    nginx_stop "$work"
    rm -rf "$work"
}
trap clean_up EXIT
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY no_proxy NO_PROXY
unset VDISK_HTTP_USER VDISK_HTTP_PASSWORD VDISK_HTTP_BEARER

www=$work/www
gold=$www/m.gow
blocks=$((256 * 16))
mkdir -p "$www"
nginx_start "$work"
url=$NGINX_URL/m.gow

change() {
    local words=() word
    for word; do
        words+=(-c "$word")
    done
    vdisk io "${words[@]}" "$gold" > /dev/null
}

# counted NAME EXPRESSION: holds for n requests and b bytes by the server's log, and for the
# result d, which agrees with the log
counted() {
    local n b
    read -r n b < <(nginx_log "$work" | awk '{ n++; b += $3 } END { print n + 0, b + 0 }')
    nginx_log_clear "$work"
    echo "# $1: $n requests, $b bytes"
    out_json "d['requests'] == $n and d['fetched-bytes'] == $b"
    out_json "(lambda n, b: $2)($n, $b)"
}

identical() {
    check "$1: identical" vdisk compare -q "$gold" "$2"
}

vdisk create -q -f gow3 "$gold" $((blocks * 65536))
change 'write -P 1 0 6M' 'write -P 2 100M 3M' 'write -P 3 255M 1M'

# --- what it asks for
want 0 'first sync' vdisk sync --output=json "$url" r.gow
counted 'first sync' "b <= 160 * 65536 + 8 * $blocks + 4096"
identical 'first sync' r.gow
want 0 'nothing changed' vdisk sync --output=json "$url" r.gow
out_json 'd["unchanged"]'
counted 'nothing changed' 'n == 1 and b <= 4096'
change 'write -P 4 1M 1' 'write -P 4 3M 1' 'write -P 4 50M 1' 'write -P 5 101M 640k' 'discard 2M 1M'
want 0 'delta' vdisk delta --output=json "$url" r.gow
cp "$work/out" delta.json
nginx_log_clear "$work"
want 0 'some blocks' vdisk sync --output=json "$url" r.gow
out_json 'd["changed-blocks"] == 29 and d["fetched-blocks"] == 13 and d["runs"] == 4'
out_json 'd["requests"] == json.load(open("delta.json"))["requests"]'
out_json 'd["fetched-bytes"] == json.load(open("delta.json"))["fetched-bytes"]'
counted 'some blocks' "b <= 13 * 65536 + 8 * $blocks + 4096 and n <= 9"
identical 'some blocks' r.gow
change 'discard 100M 2M'
want 0 'discarded blocks' vdisk sync --output=json "$url" r.gow
counted 'discarded blocks' "b <= 8 * $blocks + 4096"
identical 'discarded blocks' r.gow
# --- ways to the file
for way in redirect norange gzip; do
    change "write -P 7 $((RANDOM % 100))M 64k"
    cp r.gow way.gow
    nginx_log_clear "$work"
    case $way in
    gzip)
        want 1 "$way" vdisk sync "$NGINX_URL/$way/m.gow" way.gow
        err_has 'Content-Encoding'
        continue
        ;;
    esac
    want 0 "$way" vdisk sync "$NGINX_URL/$way/m.gow" way.gow
    identical "$way" way.gow
    want 0 "$way: nothing changed" vdisk sync "$NGINX_URL/$way/m.gow" way.gow
    out_has '^nothing changed'
done
echo "$NGINX_PASSWORD" > password
want 0 'TLS and a password' vdisk sync --ca-file "$NGINX_CA" --user "$NGINX_USER" \
    --password-file password "$NGINX_TLS_URL/auth/m.gow" r.gow
identical 'TLS and a password' r.gow
cp r.gow before
want 1 'a certificate nobody vouches for' vdisk sync "$NGINX_TLS_URL/m.gow" r.gow
want 1 'no password' vdisk sync "$NGINX_URL/auth/m.gow" r.gow
want 1 'not there' vdisk sync "$NGINX_URL/missing" r.gow
err_has 'no such file'
want 1 'refused' vdisk sync "$NGINX_URL/e403" r.gow
want 1 'an error of the server' vdisk sync --retries 1 "$NGINX_URL/e500" r.gow
want 1 'a busy server' vdisk sync --retries 1 "$NGINX_URL/e503" r.gow
want 1 'redirects in circles' vdisk sync "$NGINX_URL/loop" r.gow
nginx_stop "$work"
want 1 'no server' vdisk sync --retries 0 "$url" r.gow
check 'bad servers: the replica is as it was' cmp before r.gow
nginx_start "$work"
url=$NGINX_URL/m.gow

# --- a master that is being changed
cp "$gold" m2.gow
printf '\1' | dd of="$gold" bs=1 seek=16 conv=notrunc status=none
want 2 'being changed' vdisk sync "$url" r.gow
err_has 'is being changed, or its writer died'
"$C" sync --wait 60 "$url" r.gow > waited 2>&1 &
waiter=$!
sleep 0.5
printf '\0' | dd of="$gold" bs=1 seek=16 conv=notrunc status=none
check 'being changed: waited' wait "$waiter"
identical 'being changed: waited' r.gow
rm m2.gow

# --- a master that changes while it is fetched
change 'write -P 20 0 6M'
"$C" sync --output=json --run 256K --limit-rate 3M "$url" r.gow > "$work/out" 2> "$work/err" &
syncer=$!
sleep 0.7
cp "$gold" next.gow
vdisk io -c 'write -P 21 1M 2M' -c 'write -P 22 30M 64k' next.gow > /dev/null
mv next.gow "$gold"
check 'replaced meanwhile' wait "$syncer"
last='replaced meanwhile'
out_json 'd["restarts"] >= 1 and d["generation"] > 5'
identical 'replaced meanwhile' r.gow

change 'write -P 23 0 6M'
status=0
"$C" sync --run 256K --limit-rate 3M "$url" r.gow > "$work/out" 2> "$work/err" &
syncer=$!
sleep 0.7
mkfifo hold
"$C" io "$gold" < hold > held &
writer=$!
exec 8> hold
printf 'write -P 24 1M 1M\nflush\n' >&8
wait "$syncer" || status=$?
check 'changed in place: busy' test "$status" = 2
want 1 'changed in place: incomplete' vdisk map r.gow
err_has 'incomplete'
exec 8>&-
wait "$writer"
want 0 'changed in place: afterwards' vdisk sync "$url" r.gow
identical 'changed in place: afterwards' r.gow

# --- a server that misbehaves after its first answers
change 'write -P 25 0 3M'
mkfifo alive
"$here/http_server.py" "$gold" < alive > port 2> server.log &
server_pid=$!
exec 7> alive
for _ in {1..500}; do
    [ ! -s port ] || break
    sleep 0.02
done
bad=http://127.0.0.1:$(cat port)
cp r.gow before
for behaviour in shifted longer longer-unsaid shorter silent whole-later refuses-if-match; do
    cp before r.gow
    want 1 "$behaviour" "$C" sync --retries 1 --timeout 5 "$bad/$behaviour/1" r.gow
    err_has "$behaviour"
done
# What gets a little further each time, or is another version of the file, is got over.
for behaviour in other-total shorter-unsaid etag-changes weak-etag-changes date-changes \
    cut/300000; do
    cp before r.gow
    want 0 "$behaviour" "$C" sync --retries 1 --timeout 5 "$bad/$behaviour/1" r.gow
    identical "$behaviour" r.gow
done
exec 7>&-

finish
