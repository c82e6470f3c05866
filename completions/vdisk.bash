# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Completion of vdisk for bash.  Verbs, options and formats are asked of the command itself, so this
# file need not know them.

_vdisk_verbs() {
    "$1" --help 2> /dev/null | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

_vdisk_formats() {
    "$1" --help 2> /dev/null | sed -n 's/^Formats: //p'
}

# The options of verb $2, letters and long names; those that take "=ARGUMENT" end in "=".
_vdisk_options() {
    "$1" "$2" --help 2> /dev/null |
        sed -nE 's/^  (-.*)$/\1/p' | sed -E 's/ {2,}.*//; s/, /\n/; s/=.*/=/; s/ [^\n]*//'
}

_vdisk() {
    local command=$1 current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local verb=${COMP_WORDS[1]:-} words=
    local modes='none writeback writethrough directsync unsafe'
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="$(_vdisk_verbs "$command") help --help --version"
    elif [ "$verb" = help ]; then
        words=$(_vdisk_verbs "$command")
    else
        [ "$previous" != = ] || previous=${COMP_WORDS[COMP_CWORD - 2]}
        case $previous in
        -f | -O | -F) words="$(_vdisk_formats "$command") gow" ;;
        -t | -T | --cache) [ "$verb" = serve ] && [ "$previous" = -t ] || words=$modes ;;
        --output) words='human json' ;;
        -r) [ "$verb" != check ] || words='leaks all' ;;
        esac
        [[ $current != -* ]] || words=$(_vdisk_options "$command" "$verb")
    fi
    if [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
        [[ ${COMPREPLY[0]:-} != *= ]] || compopt -o nospace 2> /dev/null
    fi
}

# File names wherever nothing better is known.
complete -o default -F _vdisk vdisk
