# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# For tests of the command: source this file with $1 the vdisk to test.
#
#   want STATUS NAME COMMAND...  a test: the command ends with this status; keeps what it printed
#   out_is TEXT / err_is TEXT    a test: exactly that was printed, but for the last newline
#   out_has RE / err_has RE      a test: a line matches the extended regular expression
#   out_json PYTHON              a test: the output is JSON d, and the expression is true
#   check NAME COMMAND...        a test: the command succeeds; what was kept before stays
#   skip NAME WHY                a test that can not run here
#   finish                       the last line of a test script
#
# Each is one line of TAP.  The scripts run in a directory of their own, with `vdisk` as the
# command; C holds its name for where a function does not do.

set -euo pipefail
C=$(realpath "$1")
work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-cli.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/files"
: | tee "$work/out" "$work/err" > "$work/log"
cd "$work/files"
export LC_ALL=C

tests=0
failures=0
last=nothing

vdisk() {
    "$C" "$@"
}

report() {
    local status=$1 name=${2//$'\n'/ } file
    tests=$((tests + 1))
    if [ "$status" -eq 0 ]; then
        echo "ok $tests - $name"
    else
        failures=$((failures + 1))
        echo "not ok $tests - $name"
        for file in out err log; do
            [ ! -s "$work/$file" ] || sed "s/^/# $file: /" "$work/$file" | head -n 20
        done
    fi
}

want() {
    local wanted=$1 status=0
    last=$2
    shift 2
    : > "$work/log"
    "$@" > "$work/out" 2> "$work/err" < /dev/null || status=$?
    [ "$status" -eq "$wanted" ] || echo "# status $status, wanted $wanted: $*"
    report "$((status != wanted))" "$last: status $wanted"
}

is() {
    local status=0
    printf '%s' "$2" > "$work/wanted"
    # The command substitution drops the last newlines of both.
    [ "$(cat "$1")" = "$(cat "$work/wanted")" ] || status=1
    [ "$status" -eq 0 ] || sed 's/^/# wanted: /' "$work/wanted"
    report "$status" "$last: $3"
}

has() {
    local status=0
    grep -qE -- "$2" "$1" || status=1
    report "$status" "$last: $3 matches $2"
}

out_is() { is "$work/out" "$1" 'stdout'; }
err_is() { is "$work/err" "$1" 'stderr'; }
out_has() { has "$work/out" "$1" 'stdout'; }
err_has() { has "$work/err" "$1" 'stderr'; }

out_json() {
    local status=0
    python3 -c '
import json, sys
with open(sys.argv[1]) as file:
    d = json.load(file)
sys.exit(0 if eval(sys.argv[2]) else 1)' "$work/out" "$1" || status=1
    report "$status" "$last: JSON: $1"
}

check() {
    local status=0
    last=$1
    shift
    "$@" > "$work/log" 2>&1 || status=$?
    report "$status" "$last"
}

skip() {
    tests=$((tests + 1))
    echo "ok $tests - $1 # SKIP $2"
}

finish() {
    echo "1..$tests"
    [ "$failures" -eq 0 ]
}

have() {
    command -v "$1" > /dev/null
}
