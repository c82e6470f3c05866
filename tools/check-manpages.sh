#!/bin/bash
# SPDX-License-Identifier: MIT
# Holds the manual pages against --help: each verb has a page, those within verbs too, each page a
# verb, and both tell of the same options with the same arguments.
#
#   tools/check-manpages.sh VDISK PAGE...      (pages as scdoc makes them: vdisk.1, vdisk-info.1 ...)
set -euo pipefail
vdisk=$1
shift

# "-q, --quiet" and "--output=human|json" of --help, one option a line; $1: the verb, VERB-INNER for
# one within another
help_options()
{
    local words
    IFS=- read -r -a words <<< "$1"
    "$vdisk" "${words[@]}" --help |
        sed -nE 's/^  (-.*)$/\1/p' |
        sed -E 's/ {2,}.*//'
}

# The same of a page: lines that begin with an option in bold
page_options()
{
    sed -nE '/^\\fB-/{s/\\f[BIRP]//g;s/\\&//g;p}' "$1"
}

faults=0
fault()
{
    echo "$*"
    faults=$((faults + 1))
}

declare -A pages
overview=
for page in "$@"; do
    name=$(basename "$page" .1)
    if [ "$name" = vdisk ]; then
        overview=$page
    else
        pages[${name#vdisk-}]=$page
    fi
done

# list_verbs [VERB]: what --help says there is, of a verb what is within it
list_verbs()
{
    "$vdisk" "$@" --help | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

verbs=$(list_verbs)
[ -n "$verbs" ] || fault 'vdisk --help lists no verbs'
for verb in $verbs; do
    for inner in $(list_verbs "$verb"); do
        verbs+=" $verb-$inner"
    done
done
[ -n "$overview" ] || fault 'there is no vdisk.1'
for verb in $verbs; do
    [ -z "$overview" ] || grep -q "vdisk-$verb" "$overview" || fault "vdisk.1 does not name $verb"
    page=${pages[$verb]:-}
    if [ -z "$page" ]; then
        fault "$verb has no page: docs/man/vdisk-$verb.1.scd, and its line in docs/man/meson.build"
        continue
    fi
    unset "pages[$verb]"
    difference=$(diff <(help_options "$verb" | sort) <(page_options "$page" | sort) || true)
    [ -z "$difference" ] || fault "$verb: options of --help (<) and of its page (>):
$difference"
done
for name in "${!pages[@]}"; do
    fault "vdisk-$name.1 tells of a verb that is not there"
done
[ "$faults" -eq 0 ]
