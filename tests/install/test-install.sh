#!/bin/bash
# SPDX-License-Identifier: MIT
# Installs vdisk into a directory, and compiles the examples there with nothing but what pkg-config
# says: as C11 and as C++17, against the shared and against the static library.  Then they run.
#
#   tests/install/test-install.sh SOURCE-ROOT BUILD-DIRECTORY CC CXX
set -euo pipefail
source_root=$1 build=$2 cc=$3 cxx=$4

work=$(mktemp -d "${TMPDIR:-/tmp}/vdisk-install.XXXXXX")
trap 'rm -rf "$work"' EXIT
number=0

# report STATUS NAME: one line of TAP; with a status other than 0, the log in front of it
report()
{
    number=$((number + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $number - $2"
    else
        sed 's/^/# /' "$work/log"
        echo "not ok $number - $2"
        failed=1
    fi
}

# try NAME COMMAND...: a test that passes if the command does
try()
{
    local name=$1 status=0
    shift
    "$@" >"$work/log" 2>&1 || status=$?
    report "$status" "$name"
}

failed=0
try 'meson install' meson install -C "$build" --no-rebuild --destdir "$work/root"

pc=$(find "$work/root" -name vdisk.pc)
libdir=$(dirname "$(dirname "$pc")")
bin=$(find "$work/root" -type f -path '*/bin/vdisk')
export PKG_CONFIG_PATH=${pc%/*} PKG_CONFIG_SYSROOT_DIR=$work/root

version=$(sed -n "s/^ *version: '\(.*\)',$/\1/p" "$source_root/meson.build" | head -n 1)
try 'pkg-config knows the version' test "$(pkg-config --modversion vdisk)" = "$version"
try 'the header is installed' test -f "$(pkg-config --variable=includedir vdisk)/vdisk.h"

formats=(raw gow1 gow2 gow3)

# build_and_run LIBRARY-PATH "COMPILER OPTION..." LINK-FLAG...: one example writes, the other reads
build_and_run()
{
    local library_path=$1 compiler flags example format
    read -ra compiler <<<"$2"
    read -ra flags <<<"$(pkg-config --cflags vdisk)"
    shift 2
    for example in makedisk readblock; do
        "${compiler[@]}" -Wall -Wextra -Werror "${flags[@]}" "$source_root/examples/$example.c" \
            -o "$work/$example" "$@" || return 1
    done
    for format in "${formats[@]}"; do
        LD_LIBRARY_PATH=$library_path "$work/makedisk" "$work/$format.img" "$format" \
            'sixteen letters.' || return 1
        LD_LIBRARY_PATH=$library_path "$work/readblock" "$work/$format.img" >"$work/out" ||
            return 1
        grep -q '^1073741824 bytes: 73 69 78 74 65 65 6e 20 6c 65 74 74 65 72 73 2e$' \
            "$work/out" || { cat "$work/out"; return 1; }
        rm "$work/$format.img"
    done
}

read -ra shared <<<"$(pkg-config --libs vdisk)"
try 'C11, shared library' build_and_run "$libdir" "$cc -std=c11" "${shared[@]}"
try 'C++17, shared library' build_and_run "$libdir" "$cxx -std=c++17 -x c++" "${shared[@]}"

# Without the shared library, -lvdisk means the archive.
mkdir "$work/shared"
mv "$libdir"/libvdisk.so* "$work/shared"
read -ra static <<<"$(pkg-config --static --libs vdisk)"
try 'C11, static library' build_and_run /nowhere "$cc -std=c11" "${static[@]}"
try 'C++17, static library' build_and_run /nowhere "$cxx -std=c++17 -x c++" "${static[@]}"
mv "$work/shared"/libvdisk.so* "$libdir"

try 'the installed command runs' env LD_LIBRARY_PATH="$libdir" "${bin:-missing}" --version

echo "1..$number"
exit "$failed"
