# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Completion of vdisk for bash.  Verbs, options and formats are asked of the command itself, so this
# file need not know them.

# The verbs; with $2, those within that verb.
_vdisk_verbs() {
    "$@" --help 2> /dev/null | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

_vdisk_formats() {
    "$1" --help 2> /dev/null | sed -n 's/^Formats: //p'
}

# The options of verb $2, or of $3 within it, letters and long names; those that take "=ARGUMENT" end
# in "=".
_vdisk_options() {
    "$@" --help 2> /dev/null |
        sed -nE 's/^  (-.*)$/\1/p' | sed -E 's/ {2,}.*//; s/, /\n/; s/=.*/=/; s/ [^\n]*//'
}

_vdisk() {
    local command=$1 current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local verb=${COMP_WORDS[1]:-} inner=${COMP_WORDS[2]:-} words=
    local modes='none writeback writethrough directsync unsafe'
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="$(_vdisk_verbs "$command") help --help --version"
    elif [ "$verb" = help ]; then
        words=$(_vdisk_verbs "$command" ${COMP_WORDS[3]+"$inner"})
    else
        [ "$previous" != = ] || previous=${COMP_WORDS[COMP_CWORD - 2]}
        case $previous in
        -f | -O | -F) words="$(_vdisk_formats "$command") gow" ;;
        -t | -T | --cache) [ "$verb" = serve ] && [ "$previous" = -t ] || words=$modes ;;
        --output) words='human json' ;;
        -r) [ "$verb" != check ] || words='leaks all' ;;
        esac
        if [[ $current == -* ]]; then
            grep -qxF -- "$inner" < <(_vdisk_verbs "$command" "$verb") || inner=
            words=$(_vdisk_options "$command" "$verb" ${inner:+"$inner"})
        elif [ "$COMP_CWORD" -eq 2 ]; then
            words=$(_vdisk_verbs "$command" "$verb")
            [ -n "$(compgen -W "$words" -- "$current")" ] || words= # so files
        fi
    fi
    if [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
        [[ ${COMPREPLY[0]:-} != *= ]] || compopt -o nospace 2> /dev/null
    fi
}

# File names wherever nothing better is known.
complete -o default -F _vdisk vdisk
