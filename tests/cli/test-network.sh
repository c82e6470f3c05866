#!/bin/bash
# SPDX-License-Identifier: MIT
# The verbs that read, on images behind a real web server, and the options for servers.
#
#   tests/cli/test-network.sh VDISK
here=$(dirname "$(realpath "$0")")
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=../interop/nginx.sh
. "$here/../interop/nginx.sh"

if ! nginx_available; then
    skip 'images on a web server' 'no nginx, or no openssl'
    finish
    exit
fi
trap 'nginx_stop "$work"; rm -rf "$work"' EXIT
mkdir -p "$work/www"
vdisk create -q -f gow3 "$work/www/disk.gow" 64M
vdisk io -c 'write -q -P 1 1M 200k' -c 'write -q -P 2 5000 100' "$work/www/disk.gow"
vdisk create -q -f raw "$work/www/disk.raw" 3M
vdisk io -f raw -c 'write -q -P 3 1M 1M' "$work/www/disk.raw"
nginx_start "$work"

# --- the same answers as for the file
for image in disk.gow disk.raw; do
    url=$NGINX_URL/$image
    want 0 "info of $image" vdisk info --output=json "$url"
    out_json "d['filename'] == '$url' and d['virtual-size'] in (64 << 20, 3 << 20)"
    want 0 "dd of $image" vdisk dd -p -O raw "if=$url" of=copy
    vdisk dd -O raw "if=$work/www/$image" of=wanted
    check "$image has arrived" cmp wanted copy
done
want 0 'map' vdisk map --output=json "$NGINX_URL/disk.gow"
out_json 'sum(e["length"] for e in d if e["present"]) == 5 * 65536'
want 0 'check' vdisk check "$NGINX_URL/disk.gow"
out_has '^No errors were found on the image\.$'
want 0 'measure' vdisk measure -O gow3 --output=json "$NGINX_URL/disk.gow"
out_json "d['required'] == $(stat -c %s "$work/www/disk.gow")"
want 0 'io, for reading' vdisk io -r -c 'read -P 1 1M 200k' -c 'read -P 2 5000 100' \
    "$NGINX_URL/disk.gow"
want 1 'io, for writing' vdisk io -c 'write 0 512' "$NGINX_URL/disk.gow"
err_has "^vdisk: $NGINX_URL/disk.gow: "
want 1 'resize' vdisk resize -f gow3 "$NGINX_URL/disk.gow" +1M
want 1 'create' vdisk create -f raw "$NGINX_URL/new" 1M
want 1 'a repair' vdisk check -r all "$NGINX_URL/disk.gow"

# --- what is not there, not allowed, or not answered
want 1 'an image that is not there' vdisk info "$NGINX_URL/nothing"
err_has "^vdisk: $NGINX_URL/nothing: .*404"
want 1 'a server that is not there' vdisk info --retries=0 "http://127.0.0.1:$(nginx_free_port)/x"
printf '%s\n' "$NGINX_PASSWORD" > password
printf 'wrong\n' > wrong
want 1 'no password' vdisk info "$NGINX_URL/auth/disk.gow"
err_has '401'
want 0 'user and password' vdisk info --user="$NGINX_USER" --password-file=password \
    "$NGINX_URL/auth/disk.gow"
want 1 'the wrong password' vdisk info --user="$NGINX_USER" --password-file=wrong \
    "$NGINX_URL/auth/disk.gow"
want 0 'user and password from the environment' env VDISK_HTTP_USER="$NGINX_USER" \
    VDISK_HTTP_PASSWORD="$NGINX_PASSWORD" "$C" info "$NGINX_URL/auth/disk.gow"
want 1 'TLS with a certificate of nobody' vdisk info --retries=0 "$NGINX_TLS_URL/disk.gow"
want 0 'TLS with the authority named' vdisk info --ca-file="$NGINX_CA" "$NGINX_TLS_URL/disk.gow"
out_has '^file format: gow3$'
want 1 'a file of certificates that is not there' vdisk info --ca-file=nowhere \
    "$NGINX_TLS_URL/disk.gow"
nginx_log_clear "$work"
want 1 'errors of the server, without retries' vdisk info --retries=0 "$NGINX_URL/e503"
check 'one request' test "$(nginx_requests "$work")" -eq 1

finish
