#!/bin/bash
# SPDX-License-Identifier: MIT
# Completion for bash: what it offers is what the command has.
#
#   tests/cli/test-completion.sh VDISK COMPLETION
completion=$(realpath "$2")
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=../../completions/vdisk.bash
. "$completion"

# offers WORDS LINE...: completing the last word of the line offers exactly these, sorted
offers() {
    local wanted=$1
    shift
    COMP_WORDS=("$C" "$@")
    COMP_CWORD=$#
    _vdisk "$C" 2> /dev/null
    [ "$(printf '%s\n' "${COMPREPLY[@]}" | sort | xargs)" = "$wanted" ] ||
        { printf '%s\n' "${COMPREPLY[@]}"; return 1; }
}

check 'verbs' offers 'info io' i
check 'verbs for help' offers 'map measure' help m
check 'verbs within a verb' offers 'list merge prune verify' backup ''
check 'one of them' offers 'verify' backup v
check 'help for them' offers 'merge' help backup m
check 'their options' offers '--keep-daily= --keep-last= --keep-weekly= --key-file=' \
    backup prune --ke
check 'options of the outer one' offers '--in-clear --incremental' backup --in
check 'nothing beside verbs, so files' offers '' backup disk
check 'formats' offers 'gow gow1 gow2 gow3' info -f g
check 'a letter' offers '-U' info -U
check 'its long name' offers '--force-share' info --force
check 'a long option with an argument' offers '--max-length=' map --ma
check 'cache modes' offers 'writeback writethrough' io -t wr
check 'repairs' offers 'all leaks' check -r ''
check 'cache modes, where -t means something else' offers 'writeback writethrough' serve --cache = wr
check '-t that takes no argument' offers '' serve -t ''
check 'forms of output behind =' offers 'human json' info --output = ''
check 'forms of output' offers 'human json' info --output ''
check 'nothing, so files' offers '' info ''

finish
