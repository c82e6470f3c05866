#!/bin/bash
# SPDX-License-Identifier: MIT
# The storage contract for files that nginx serves: with ranges, without, and redirected.
#
#   tests/interop/test-http-contract.sh HTTP-CONTRACT
#
# VD_TEST_OPS and VD_TEST_SEED: as for the other drivers (tests/contract/storage.h).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR
. "$here/nginx.sh"

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-http-contract.XXXXXX")
trap 'nginx_stop "$work"; rm -rf "$work"' EXIT
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY

nginx_start "$work"
"$1" "$work/www" "$NGINX_URL" "$NGINX_URL/norange" "$NGINX_URL/redirect"
