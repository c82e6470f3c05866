#!/bin/bash
# SPDX-License-Identifier: MIT
# GOW images that nginx serves, read in random pieces and compared.
#
#   tests/interop/test-http-format.sh HTTP-FORMAT
#
# VD_TEST_OPS=1000000 for a full run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$here/nginx.sh"

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-http-format.XXXXXX")
trap 'nginx_stop "$work"; rm -rf "$work"' EXIT
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY

nginx_start "$work"
"$1" "$work/www" "$NGINX_URL"
