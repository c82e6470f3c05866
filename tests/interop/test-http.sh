#!/bin/bash
# SPDX-License-Identifier: MIT
# The http storage driver against nginx, and against a server that misbehaves (http_server.py).
#
#   tests/interop/test-http.sh HTTP-CLIENT
#
# HTTP_ROUNDS (default 150): random reads of each thread in the tests that read randomly.
# SEED: of these reads; printed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$here/nginx.sh"
client=$1
rounds=${HTTP_ROUNDS:-150}
export SEED=${SEED:-$RANDOM}

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-http.XXXXXX")
server_pid=
# shellcheck disable=SC2317 # the trap calls it
clean_up()
{
    nginx_stop "$work"
    [ -z "$server_pid" ] || kill "$server_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY no_proxy NO_PROXY
unset VDISK_HTTP_USER VDISK_HTTP_PASSWORD VDISK_HTTP_BEARER

number=0
failed=0
: >"$work/everything"

# report STATUS NAME: one line of TAP; with a status other than 0, the output in front of it
report()
{
    number=$((number + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $number - $2"
    else
        sed 's/^/# /' "$work/out"
        echo "not ok $number - $2"
        failed=1
    fi
}

# expect NAME STATUS REGEX ARGUMENT...: runs the client; its exit status, and a line of its output
expect()
{
    local name=$1 wanted=$2 pattern=$3 status=0
    shift 3
    "$client" "$@" >"$work/out" 2>&1 || status=$?
    cat "$work/out" >>"$work/everything"
    if [ "$status" -ne "$wanted" ] || ! grep -qE -- "$pattern" <(echo; cat "$work/out"); then
        echo "exit status $status (wanted $wanted); wanted: $pattern" >>"$work/out"
        status=1
    else
        status=0
    fi
    report "$status" "$name"
}

# expect_equal NAME WANTED IS
expect_equal()
{
    echo "wanted $2, is $3" >"$work/out"
    if [ "$2" = "$3" ]; then report 0 "$1"; else report 1 "$1"; fi
}

# ------------------------------------------------------------------------------ nginx

mkdir "$work/www"
head -c 3000001 /dev/urandom >"$work/www/image"
: >"$work/www/empty"
head -c 1 /dev/urandom >"$work/www/1"
head -c 4095 /dev/urandom >"$work/www/4095"
head -c 4096 /dev/urandom >"$work/www/4096"
head -c 4097 /dev/urandom >"$work/www/4097"
{ printf 'GOW\0\003\0\0\0\0\0\001'; head -c 9989 /dev/zero; } >"$work/www/gow3"
www=$work/www
nginx_start "$work" '
    location = /downgrade { return 302 http://127.0.0.1:1/image; }
    location = /upgrade { return 302 https://127.0.0.1:TLS_PORT/image; }'

echo "# seed $SEED"

# The promise that deciding "nothing has changed" costs one request of at most 4 KiB.
nginx_log_clear "$work"
expect 'open and read the header of an image' 0 '^requests 1 bytes 4096$' \
    --reference "$www/gow3" "$NGINX_URL/gow3" read 0 4096 read 8 16 stats
expect_equal 'that is one request, says nginx' 1 "$(nginx_requests "$work")"
expect_equal 'of 4096 bytes' '206 4096 "bytes=0-4095"' "$(nginx_log "$work" | cut -d' ' -f1,3,4)"

for size in 1 4095 4096 4097; do
    nginx_log_clear "$work"
    expect "a file of $size bytes" 0 "^size $size$" \
        --reference "$www/$size" "$NGINX_URL/$size" size read 0 "$size" read $((size - 1)) 1
    expect_equal "requests for $size bytes" $((size > 4096 ? 3 : 1)) "$(nginx_requests "$work")"
    expect "a file of $size bytes from a server without ranges" 0 "^size $size$" \
        --reference "$www/$size" "$NGINX_URL/norange/$size" size read 0 "$size" read $((size - 1)) 1
    expect "reading past the end of $size bytes" 1 "^EIO .*file ends at $size$" \
        "$NGINX_URL/$size" read "$size" 1
done
expect 'an empty file' 0 '^requests 1 bytes 0$' "$NGINX_URL/empty" size read 0 0 stats
expect 'an empty file has no bytes' 1 '^EIO .*file ends at 0$' "$NGINX_URL/empty" read 0 1
expect 'an empty file from a server without ranges' 0 '^size 0$' "$NGINX_URL/norange/empty" size

# Bytes fetched are the bytes asked for, over no more connections than allowed.
nginx_log_clear "$work"
expect 'random reads by 1 thread' 0 '^requests' \
    --reference "$www/image" "$NGINX_URL/image" random "$rounds" 1000000 1 stats
read -r _ requests _ bytes <"$work/out"
expect_equal 'requests are those that nginx saw' "$requests" "$(nginx_requests "$work")"
expect_equal 'bytes are those that nginx sent' "$bytes" \
    "$(nginx_log "$work" | awk '{ sum += $3 } END { print sum }')"
expect_equal 'over one connection' 1 "$(nginx_log "$work" | cut -d' ' -f2 | sort -u | wc -l)"

nginx_log_clear "$work"
expect 'random reads by 8 threads' 0 '^requests' --connections 3 \
    --reference "$www/image" "$NGINX_URL/image" random "$rounds" 200000 8 stats
connections=$(nginx_log "$work" | cut -d' ' -f2 | sort -u | wc -l)
echo "connections: $connections" >"$work/out"
report $((connections > 3)) 'over at most 3 connections'

nginx_log_clear "$work"
expect 'random reads by 8 threads, server without ranges' 0 '^requests 1 bytes 3000001$' \
    --reference "$www/image" "$NGINX_URL/norange/image" random "$rounds" 200000 8 \
    read 0 3000001 stats
expect_equal 'that is one request, says nginx' 1 "$(nginx_requests "$work")"
expect 'a server without ranges is not read before it must be' 0 '^requests 1 bytes 0$' \
    --reference "$www/image" "$NGINX_URL/norange/image" read 0 4096 stats
expect 'closing while a slow server sends' 0 '' \
    --reference "$www/image" "$NGINX_URL/norange/image" read 4096 1

nginx_log_clear "$work"
expect 'a redirect is resolved once' 0 '^requests 5 ' \
    --reference "$www/image" "$NGINX_URL/redirect/image" read 10000 100 read 20000 100 \
    read 30000 100 stats
expect_equal 'and pinned' '302 206 206 206 206' \
    "$(nginx_log "$work" | cut -d' ' -f1 | xargs)"
expect 'a redirect that goes round in circles' 1 '^EIO .*more than 10 redirects' "$NGINX_URL/loop"
expect 'the name stays the one given' 0 "^name $NGINX_URL/redirect/image$" \
    "$NGINX_URL/redirect/image" name

expect 'a scheme in capital letters' 0 '^size 1$' "HTTP${NGINX_URL#http}/1" size

expect 'status 404' 1 "^ENOENT $NGINX_URL/absent: .*status 404" "$NGINX_URL/absent"
expect 'status 403' 1 '^EACCES .*status 403' "$NGINX_URL/e403"
expect 'status 401' 1 '^EACCES .*status 401.*user and a password' "$NGINX_URL/auth/image"
expect 'status 500 is tried again' 1 '^EIO .*status 500 \(gave up after 3 tries\)' \
    --retries 2 "$NGINX_URL/e500"
expect 'or not' 1 '^EIO .*status 500 \(gave up after 1 try\)' --retries 0 "$NGINX_URL/e500"
expect 'status 503' 1 '^EIO .*status 503 \(gave up after 2 tries\)' --retries 1 "$NGINX_URL/e503"
expect 'an encoded file' 1 '^EIO .*Content-Encoding' "$NGINX_URL/gzip/image"
expect 'nobody listens' 1 '^ECONNREFUSED .*gave up after 2 tries' --retries 1 http://127.0.0.1:1/x
expect 'a host that does not exist' 1 '^EIO .*resolve' --retries 0 http://does-not-exist.invalid/x

# nginx makes the ETag of the size and of the time in seconds.
cp "$www/image" "$www/changing"
touch -d 2026-01-01 "$www/changing"
expect 'the file is replaced on the server' 1 '^ESTALE .*changed on the server' \
    --reference "$www/image" "$NGINX_URL/changing" read 5000 5000 \
    run "head -c 3000001 /dev/zero >$www/new && mv $www/new $www/changing" read 5000 5000
cp "$www/image" "$www/changing"
expect 'the file is removed on the server' 1 '^ENOENT .*status 404' \
    "$NGINX_URL/changing" read 5000 5000 run "rm $www/changing" read 5000 5000
cp "$www/image" "$www/changing"
expect 'the file gets shorter on the server' 1 '^ESTALE .*changed on the server' \
    "$NGINX_URL/changing" run "truncate -s 6000 $www/changing" read 100000 5000

# ------------------------------------------------------------------------------ TLS

expect 'https with its authority' 0 '^size 3000001$' --ca "$NGINX_CA" \
    --reference "$www/image" "$NGINX_TLS_URL/image" size random 20 100000 4
expect 'https without it' 1 '^EIO .*certificate can not be trusted' "$NGINX_TLS_URL/image"
expect 'https with another name' 1 '^EIO .*certificate' --ca "$NGINX_CA" \
    "${NGINX_TLS_URL/127.0.0.1/127.0.0.2}/image" --retries 0
expect 'a file of certificates that is none' 1 '^E.*' --ca "$www/image" "$NGINX_TLS_URL/image"
expect 'a redirect from https to http is refused' 1 '^EIO .*https to http' --ca "$NGINX_CA" \
    "$NGINX_TLS_URL/downgrade"
expect 'a redirect from http to https is followed' 0 '^size 3000001$' --ca "$NGINX_CA" \
    --reference "$www/image" "$NGINX_URL/upgrade" size read 5000 5000

# ------------------------------------------------------------------------------ credentials

secret=$NGINX_PASSWORD
with_secret=${NGINX_URL/:\/\//:\/\/$NGINX_USER:$secret@}
expect 'user and password in the URL' 0 "^name $NGINX_URL/auth/image$" \
    --reference "$www/image" "$with_secret/auth/image" read 5000 5000 name
expect 'user and password as options' 0 '^size' --user "$NGINX_USER" --password "$secret" \
    --reference "$www/image" "$NGINX_URL/auth/image" size read 5000 5000
VDISK_HTTP_USER=$NGINX_USER VDISK_HTTP_PASSWORD=$secret \
    expect 'user and password in the environment' 0 '^size' \
    --reference "$www/image" "$NGINX_URL/auth/image" size read 5000 5000
expect 'a wrong password' 1 '^EACCES .*status 401.*does not accept' --user "$NGINX_USER" \
    --password "$secret-not" "$NGINX_URL/auth/image"
expect 'errors do not tell the password: 404' 1 '^ENOENT' "$with_secret/absent"
expect 'errors do not tell the password: redirects' 1 '^EIO' "$with_secret/loop"
expect 'errors do not tell the password: no server' 1 '^ECONNREFUSED' --retries 0 \
    "http://$NGINX_USER:$secret@127.0.0.1:1/x"
expect 'errors do not tell the password: no host' 1 '^EIO' --retries 0 \
    "http://$NGINX_USER:$secret@does-not-exist.invalid/x"
expect 'errors do not tell the password: no URL' 1 '^EINVAL' "http://$NGINX_USER:$secret@:99999/x"
expect 'errors do not tell the password: an @ in it' 1 '^E' --retries 0 \
    "http://$NGINX_USER:$secret@$secret@127.0.0.1:1/x"
expect 'errors do not tell the password: TLS' 1 '^EIO' \
    "${NGINX_TLS_URL/:\/\//:\/\/$NGINX_USER:$secret@}/image"
expect 'user and token at once' 1 '^EINVAL .*give one' --user a --bearer b "$NGINX_URL/image"
expect 'a password without user' 1 '^EINVAL .*no user' --password "$secret" "$NGINX_URL/image"
expect 'too many connections' 1 '^EINVAL .*at most 64' --connections 65 "$NGINX_URL/image"

# ------------------------------------------------------------------------------ the bad server

mkfifo "$work/alive"
"$here/http_server.py" "$www/image" <"$work/alive" >"$work/port" 2>"$work/server.log" &
server_pid=$!
exec 7>"$work/alive"
for _ in {1..500}; do
    [ ! -s "$work/port" ] || break
    sleep 0.02
done
bad=http://127.0.0.1:$(cat "$work/port")

# bad NAME STATUS REGEX PATH COMMAND...: with little patience and 2 retries
bad()
{
    local name=$1 status=$2 pattern=$3 path=$4
    shift 4
    expect "$name" "$status" "$pattern" --timeout 400 --retries 2 --reference "$www/image" \
        "$bad/$path" "$@"
}

read=(read 5000 50000)
bad 'a good server' 0 '^requests 2 bytes 54096$' good "${read[@]}" stats
bad 'a server without ETag and date' 0 '' unnamed "${read[@]}"
bad 'odd spelling of header fields' 0 '' odd-spelling "${read[@]}"
bad 'chunks, and trailers that lie' 0 '' chunked "${read[@]}" read 100 60000
bad 'an interim answer' 0 '' interim "${read[@]}"
bad 'the version is asked for' 0 '' checks-if-match "${read[@]}"

bad 'other bytes than asked for' 1 '^EIO .*sends bytes 5001-55000, but 5000-54999' \
    shifted "${read[@]}"
bad 'another total' 1 '^ESTALE .*size was 3000001, is 3000002' other-total "${read[@]}"
bad 'no total' 1 '^EIO .*how long' no-total
bad 'a total that no file can have' 1 '^EIO .*9223372036854775808 bytes: at most' huge-total
bad 'a Content-Range without sense' 1 '^EIO .*Content-Range.*makes no sense' bad-range
bad 'no Content-Range' 1 '^EIO .*without saying which bytes' no-content-range "${read[@]}"
bad 'more bytes than asked for' 1 '^EIO .*Content-Length is 50004' longer "${read[@]}"
bad 'more bytes, no length' 1 '^EIO .*more than the 50000 bytes' longer-unsaid "${read[@]}"
bad 'fewer bytes than asked for' 1 '^EIO .*Content-Length is 49999' shorter "${read[@]}"
bad 'half of what is missing each time, no length' 0 '' shorter-unsaid "${read[@]}"
bad 'all of the file instead of a range' 1 '^EIO .*status 200.*ranges before' \
    whole-later "${read[@]}"
bad 'encoded after the open' 1 '^EIO .*Content-Encoding' encoded-later "${read[@]}"

bad 'a line cut after 20000 bytes' 0 '^requests 4 bytes 54096$' cut/20000 "${read[@]}" stats
bad 'a line cut after 1000 bytes, from the open on' 0 '' cut/1000 read 0 9000
bad 'a line cut before the first byte' 1 '^EIO .*gave up after 3 tries' cut/0
bad 'a line closed without a word' 1 '^EIO .*gave up after 3 tries' silent "${read[@]}"

bad 'the ETag changes' 1 '^ESTALE .*ETag was "one", is "two"' etag-changes "${read[@]}"
bad 'the ETag goes away' 1 '^ESTALE .*ETag was "one", is none' etag-goes "${read[@]}"
bad 'a weak ETag changes' 1 '^ESTALE .*ETag was W/"one"' weak-etag-changes "${read[@]}"
bad 'the date changes' 1 '^ESTALE .*Last-Modified' date-changes "${read[@]}"
bad 'status 412' 1 '^ESTALE .*status 412' refuses-if-match "${read[@]}"

for status in 400 416 501; do
    bad "status $status at the open" 1 "^EIO .*status $status" "status/$status"
    bad "status $status later" 1 "^EIO .*status $status" "status-later/$status" "${read[@]}"
done
bad 'status 410' 1 '^ENOENT .*status 410' status/410
bad 'status 407' 1 '^EACCES .*proxy' status/407
bad 'status 204' 1 '^EIO .*status 204' status-later/204 "${read[@]}"
bad 'status 403 later' 1 '^EACCES .*status 403' status-later/403 "${read[@]}"
bad 'status 302 later' 1 '^EIO .*status 302' status-later/302 "${read[@]}"
bad 'status 304 at the open' 1 '^EIO .*status 304' status/304
for status in 408 429 500 502 503 504; do
    bad "status $status now and then" 0 '^requests 6 ' "flaky/$status" "${read[@]}" stats
done
bad 'status 502 for good' 1 '^EIO .*status 502.*gave up after 3 tries' status-later/502 "${read[@]}"
bad 'Retry-After' 0 '^requests 3 ' busy "${read[@]}" stats

bad 'garbage' 1 '^E' garbage
bad 'garbage later' 1 '^E' later-garbage "${read[@]}"
bad 'a status that is none' 1 '^E' bad-status
bad 'a header without end' 1 '^EIO .*header of the answer is longer' endless-header
bad 'a header line without end' 1 '^E' endless-line
bad 'an error page without end' 1 '^ENOENT .*status 404' endless-error
bad 'no answer' 1 '^ETIMEDOUT .*400 ms.*gave up after 3 tries' never
bad 'no answer later' 1 '^ETIMEDOUT .*400 ms.*gave up after 3 tries' never-later "${read[@]}"
bad 'an answer that stalls is asked for again, the rest of it' 0 '^requests 3 bytes 54096$' \
    stalls "${read[@]}" stats
bad 'a slow answer is no stall' 0 '^requests 2 ' trickles read 5000 2000 stats

bad 'redirects without end' 1 '^EIO .*more than 10 redirects' loop
bad 'a redirect to a file' 1 '^EIO .*the server redirects: ' to/file//etc/passwd
bad 'a redirect to ftp' 1 '^EIO .*only http and https' to/ftp/127.0.0.1/x
bad 'a redirect to nowhere' 1 '^EIO .*Location' nowhere
bad 'a redirect to another server' 0 '^requests 3 ' to-other-port/good "${read[@]}" stats
bad 'a redirect that is good for a while' 1 '^EACCES .*redirected to.*open the file again' \
    moves-for-a-while/403 "${read[@]}"
basic="Basic,$(printf 'a:%s' "$secret" | base64)"
expect 'a password is sent' 0 '' --user a --password "$secret" "$bad/authorization/$basic"
expect 'a token is sent' 0 '' --bearer "$secret" "$bad/authorization/Bearer,$secret" read 5000 10
expect 'neither goes to another server' 0 '' --user a --password "$secret" \
    --reference "$www/image" "$bad/to-other-port/authorization/none" "${read[@]}"
expect 'nor a token' 0 '' --bearer "$secret" \
    --reference "$www/image" "$bad/to-other-port/authorization/none" "${read[@]}"
expect 'nor one from the URL' 0 '' --reference "$www/image" \
    "${bad/:\/\//:\/\/a:$secret@}/to-other-port/authorization/none" "${read[@]}"
expect 'an error says that they are not passed on' 1 '^EACCES .*not passed on' --user a \
    --password "$secret" "$bad/to-other-port/status/401"

whole=(random 20 1000000 4 read 0 3000001)
expect 'a server without ranges' 0 '^requests 1 bytes 3000001$' \
    --reference "$www/image" "$bad/whole" "${whole[@]}" stats
bad 'its line breaks again and again' 0 '^requests [5-9] ' whole-cut/600000 "${whole[@]}" stats
expect 'its line breaks while nobody reads, and that is no try' 0 '^requests 2 ' --retries 0 \
    --reference "$www/image" "$bad/whole-cut-once/100000" "${whole[@]}" stats
bad 'its line breaks always at the same place' 1 '^EIO .*gave up after 3 tries' \
    whole-stuck/600000 read 0 3000001
bad 'what came before that can be read' 0 '' whole-stuck/600000 read 1000 500000
bad 'then it has other content' 1 '^ESTALE' whole-other "${whole[@]}"
bad 'then it has another size' 1 '^ESTALE .*size' whole-grows "${whole[@]}"
bad 'then it has another ETag' 1 '^ESTALE .*ETag' whole-etag "${whole[@]}"
bad 'then it stalls' 1 '^ETIMEDOUT' whole-stalls "${whole[@]}"
expect 'closing does not wait for a stalled server' 0 '' --timeout 3600000 \
    --reference "$www/image" "$bad/whole-stalls" read 5000 1000
bad 'a server without ranges or length' 1 '^EIO .*Content-Length' no-length
(
    trap '' XFSZ
    ulimit -f 1000 # KiB
    exec "$client" --reference "$www/image" "$bad/whole" read 0 100000 read 0 3000001
) >"$work/out" 2>&1 && status=0 || status=$?
if [ "$status" -eq 1 ] && grep -q '^EFBIG .*temporary file' "$work/out"; then
    report 0 'no room for a temporary file'
else
    report 1 'no room for a temporary file'
fi

# ------------------------------------------------------------------------------ secrets

grep -nF "$secret" "$work/everything" >"$work/out" && status=1 || status=0
report "$status" 'no output ever had a password in it'
lines=$(wc -l <"$work/everything")
echo "lines: $lines" >"$work/out"
report $((lines < 60)) 'and there was output'

echo "1..$number"
exit "$failed"
