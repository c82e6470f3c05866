#!/bin/bash
# SPDX-License-Identifier: MIT
# Chains behind a web server: relative names and absolute paths stay on the server, and the gate
# lets through only what it is told to.
#
#   tests/interop/test-chain-http.sh VDISK
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$here/nginx.sh"
vdisk=$(realpath "$1")

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-chain-http.XXXXXX")
# shellcheck disable=SC2317 # the trap calls it
clean_up()
{
    nginx_stop "$work"
    rm -rf "$work"
}
trap clean_up EXIT
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY no_proxy NO_PROXY
unset VDISK_HTTP_USER VDISK_HTTP_PASSWORD VDISK_HTTP_BEARER

number=0
failed=0

# passes NAME COMMAND...: the command succeeds
passes()
{
    local name=$1
    shift
    number=$((number + 1))
    if "$@" >"$work/log" 2>&1; then
        echo "ok $number - $name"
    else
        sed 's/^/# /' "$work/log"
        echo "not ok $number - $name"
        failed=1
    fi
}

# refused NAME WORDS COMMAND...: it fails, and says WORDS
refused()
{
    local name=$1 words=$2
    shift 2
    number=$((number + 1))
    if ! "$@" >"$work/log" 2>&1 && grep -q -- "$words" "$work/log"; then
        echo "ok $number - $name"
    else
        sed 's/^/# /' "$work/log"
        echo "not ok $number - $name"
        failed=1
    fi
}

www=$work/www
mkdir -p "$www/dir/sub"
truncate -s 4M "$www/dir/sub/base.raw"
head -c 100000 /dev/urandom | dd of="$www/dir/sub/base.raw" conv=notrunc status=none
cd "$www/dir"
"$vdisk" create -q -f qed -b sub/base.raw -F raw middle.qed
"$vdisk" io -c 'write -P 7 1M 64k' middle.qed >/dev/null
"$vdisk" create -q -f qed -b middle.qed -F qed top.qed
"$vdisk" create -q -u -f qed -b /dir/middle.qed -F qed absolute.qed 4M
"$vdisk" create -q -u -f qed -b /etc/passwd -F raw passwd.qed 4M
"$vdisk" create -q -u -f qed -b ../outside.raw -F raw up.qed 4M
"$vdisk" create -q -u -f qed -b sub/%2e%2e/%2E%2E/outside.raw -F raw encoded.qed 4M
cp sub/base.raw ../outside.raw
cd "$work"
nginx_start "$work"
url=$NGINX_URL/dir

echo 1..11
passes 'relative names count from the URL' "$vdisk" compare "$url/top.qed" "$www/dir/top.qed"
passes 'absolute paths are paths on the server' \
    "$vdisk" compare "$url/absolute.qed" "$www/dir/top.qed"
refused 'a path of this machine is asked of the server, if at all' 'not permitted' \
    "$vdisk" map "$url/passwd.qed"
refused '.. leads to another directory of the server' 'not permitted' "$vdisk" map "$url/up.qed"
refused 'so does its encoding' 'not permitted' "$vdisk" map "$url/encoded.qed"
refused 'and no prefix permits it' 'not permitted' \
    "$vdisk" map --allow-path="$NGINX_URL/" "$url/up.qed"

"$vdisk" create -q -f qed -b "$url/top.qed" -F qed local.qed
refused 'a local image may name no URL' 'not permitted' "$vdisk" map local.qed
refused 'another directory does not permit it' 'not permitted' \
    "$vdisk" map --allow-path="$url/sub/" local.qed
passes 'one that is permitted is read' \
    "$vdisk" io -r --allow-path="$url/" -c 'read -P 7 1M 64k' local.qed
passes 'and written over' \
    "$vdisk" io --allow-path="$url/" -c 'write -P 8 1M 512' -c 'read -P 7 1049088 512' local.qed
"$vdisk" flatten -q --allow-path="$url/" local.qed
passes 'after flatten the server is not needed' "$vdisk" io -r -c 'read -P 8 1M 512' local.qed
exit "$failed"
