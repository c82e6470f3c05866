#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs a program of TAP tests with a folder, and the URLs under which nginx serves it.
#
#   tests/interop/with-nginx.sh PROGRAM LOCATION...
#
# runs PROGRAM FOLDER URL..., a URL for each location of nginx.sh; / is the plain one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$here/nginx.sh"

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-with-nginx.XXXXXX")
trap 'nginx_stop "$work"; rm -rf "$work"' EXIT
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY

program=$1
shift
nginx_start "$work"
urls=()
for location; do
    urls+=("$NGINX_URL${location%/}")
done
"$program" "$work/www" "${urls[@]}"
