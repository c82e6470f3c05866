#!/bin/bash
# SPDX-License-Identifier: MIT
# Every C file looks as clang-format would have it (`make format`).
#
#   tools/check-format.sh SOURCE-ROOT
set -euo pipefail
cd "$1"
mapfile -t sources < <(find include src tests examples bench -name '*.[ch]')
[ ${#sources[@]} -gt 0 ]
clang-format --dry-run --Werror "${sources[@]}"
