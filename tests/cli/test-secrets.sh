#!/bin/bash
# SPDX-License-Identifier: MIT
# Nothing that a verb prints has the user and password of a URL in it.
#
#   tests/cli/test-secrets.sh VDISK
here=$(dirname "$(realpath "$0")")
# shellcheck source=lib.sh
. "$here/lib.sh"
# shellcheck source=../interop/nginx.sh
. "$here/../interop/nginx.sh"

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi
if vdisk info http://127.0.0.1:1/x 2>&1 | grep -q 'built without HTTP'; then
    echo '1..0 # SKIP built without HTTP'
    exit 0
fi
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY no_proxy NO_PROXY
trap 'nginx_stop "$work"; rm -rf "$work"' EXIT
mkdir "$work/www"
nginx_start "$work"

vdisk create -q -f gow3 "$work/www/gold.gow" 1M
vdisk create -q -f gow3 other.gow 1M
vdisk create -q -f raw disk.raw 1M

good=${NGINX_URL/:\/\//:\/\/$NGINX_USER:$NGINX_PASSWORD@}/auth/gold.gow
absent=${NGINX_URL/:\/\//:\/\/$NGINX_USER:$NGINX_PASSWORD@}/auth/absent.gow
dead=http://$NGINX_USER:$NGINX_PASSWORD@127.0.0.1:1/gold.gow

# silent NAME COMMAND...: whatever it says and however it ends, it says something, and no password
silent() {
    local name=$1 status=0
    shift
    timeout 60 "$C" "$@" > "$work/out" 2>&1 < /dev/null || true
    [ -s "$work/out" ] || status=1
    ! grep -F "$NGINX_PASSWORD" "$work/out" || status=1
    report "$status" "$name: $1"
}

for json in '' --output=json; do
    for url in "$good" "$absent" "$dead"; do
        case $url in
            "$good") name=good ;;
            "$absent") name=absent ;;
            *) name='no server' ;;
        esac
        name="$name${json:+, JSON}"
        options=(--retries 0 ${json:+"$json"})
        silent "$name" info "${options[@]}" "$url"
        silent "$name" check "${options[@]}" "$url"
        silent "$name" map "${options[@]}" "$url"
        silent "$name" compare "${options[@]}" "$url" disk.raw
        silent "$name, replica of another master" sync "${options[@]}" "$url" other.gow
        silent "$name, as a replica" sync "${options[@]}" other.gow "$url"
        silent "$name" delta "${options[@]}" "$url" other.gow
        silent "$name, no file for them" sums "${options[@]}" "$url"
        silent "$name, an argument too many" sums "${options[@]}" "$url" "$url"
        silent "$name, as a target" create -f gow3 ${json:+"$json"} "$url" 1M
        silent "$name, too large" create -f gow3 ${json:+"$json"} "$url" 1T
        silent "$name" resize ${json:+"$json"} "$url" 2M
        silent "$name, as a target" convert -O gow3 ${json:+"$json"} disk.raw "$url"
    done
done
finish
