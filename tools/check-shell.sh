#!/bin/bash
# SPDX-License-Identifier: MIT
# Every shell script passes shellcheck.
#
#   tools/check-shell.sh SOURCE-ROOT
set -euo pipefail
cd "$1"

mapfile -t scripts < <(
    find . -path ./.git -prune -o -path './build*' -prune -o -type f -print |
        while read -r file; do
            case $file in
            *.sh) echo "$file" ;;
            *) ! head -c 64 "$file" | head -n 1 | grep -qaE '^#!.*\b(ba)?sh\b' || echo "$file" ;;
            esac
        done
)
[ ${#scripts[@]} -gt 0 ]
# SC2317 calls functions that are called by name, from a trap or a test runner, unreachable; SC2016
# doubts single quotes around what another shell is to expand.
shellcheck --exclude=SC2016,SC2317 --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
