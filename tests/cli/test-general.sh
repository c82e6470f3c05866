#!/bin/bash
# SPDX-License-Identifier: MIT
# What holds for the command as a whole and for every verb.
#
#   tests/cli/test-general.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

want 1 'nothing' vdisk
err_is "vdisk: no verb given
Try 'vdisk --help' for more information."
want 0 'help' vdisk --help
out_has '^Usage: vdisk VERB'
out_has '^  create +Make a new, empty image$'
out_has '^Formats:.* raw'
want 0 'help in short' vdisk -h
want 0 'help as a verb' vdisk help
want 0 'version' vdisk --version
out_has '^vdisk [0-9]+\.[0-9]+\.[0-9]+$'
want 0 'version in short' vdisk -V
want 1 'unknown verb' vdisk frobnicate a b
err_is "vdisk: unknown verb 'frobnicate'
Try 'vdisk --help' for more information."
want 1 'help for an unknown verb' vdisk help frobnicate
want 1 'an option for a verb' vdisk --frobnicate
err_has "^vdisk: unknown option '--frobnicate'$"

mapfile -t verbs < <("$C" --help | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p')
check 'there are verbs' test "${#verbs[@]}" -ge 8
for verb in "${verbs[@]}"; do
    want 0 "$verb --help" vdisk "$verb" --help
    out_has "^Usage: vdisk $verb "
    want 0 "help $verb" vdisk help "$verb"
    want 0 "$verb -h" vdisk "$verb" -h
    want 1 "$verb with an unknown long option" vdisk "$verb" --frobnicate
    err_is "vdisk: $verb: unknown or ambiguous option --frobnicate
Try 'vdisk $verb --help' for more information."
    want 1 "$verb with an unknown letter" vdisk "$verb" -Z
    err_has "^vdisk: $verb: unknown option -Z$"
    want 1 "$verb without arguments" vdisk "$verb"
    err_has "^vdisk: $verb: "
    want 1 "$verb --output=xml" vdisk "$verb" --output=xml a b
    err_has "^vdisk: $verb: --output: 'xml' is neither human nor json$"
    if [ -c /dev/full ]; then
        want 1 "$verb --help to a full disk" sh -c '"$0" "$1" --help > /dev/full' "$C" "$verb"
        err_has '^vdisk: standard output: No space left on device$'
    fi
done

vdisk create -q -f raw a 1M
want 1 'unknown format' vdisk info -f frob a
err_has "^vdisk: Unknown file format 'frob': the formats are .*raw"
want 1 '--image-opts' vdisk info --image-opts driver=raw
err_has '^vdisk: info: --image-opts is not supported: '
want 1 'option without its argument' vdisk info -f
err_has '^vdisk: info: option -f needs an argument$'
want 1 'option with an argument it does not take' vdisk info --force-share=yes a
err_has '^vdisk: info: option --force-share=yes takes no argument$'
want 0 'a long option shortened' vdisk info --outp json a
want 0 'options behind the file' vdisk info a -f raw
want 0 'a file behind --' vdisk info -- a
want 1 'a file that is not there' vdisk info nowhere
err_has '^vdisk: nowhere: .*No such file or directory$'
want 1 'two files where one is wanted' vdisk info a a
err_has "^vdisk: info: unexpected argument 'a': FILE wanted$"

# Cache modes, on a verb that writes.
modes='writeback writethrough unsafe'
if dd if=/dev/zero of=direct bs=4k count=1 oflag=direct status=none 2> /dev/null; then
    modes+=' none directsync'
else
    skip 'cache modes none and directsync' 'the file system has no direct I/O'
fi
for mode in $modes; do
    want 0 "cache mode $mode" vdisk io -f raw -t "$mode" -c 'write -q -P 5 0 64k' \
        -c 'write -q -P 6 100 600' -c flush -c 'read -P 6 100 600' -c 'read -P 5 700 9000' a
done
want 1 'unknown cache mode' vdisk io -f raw -t fast a
err_has "^vdisk: io: -t: unknown cache mode 'fast': use one of none, writeback, "

# Network options are read before any server is asked.
want 1 'timeout 0' vdisk info --timeout=0 a
err_has "^vdisk: info: --timeout: '0' is not a whole number from 1 to 86400$"
want 1 'timeout that is no number' vdisk info --timeout=1m a
want 1 'too many connections' vdisk info --connections=65 a
err_has "^vdisk: info: --connections: '65' is not a whole number from 1 to 64$"
want 1 'retries below 0' vdisk info --retries=-1 a
want 0 'no retries' vdisk info --retries=0 a
want 1 'password file that is not there' vdisk info --password-file=nowhere a
err_is 'vdisk: --password-file: nowhere: No such file or directory'
: > empty
want 1 'empty bearer file' vdisk info --bearer-file=empty a
err_has '^vdisk: --bearer-file: empty: the first line must have 1 to [0-9]+ bytes$'
printf 'secret\n' > password
want 0 'password file' vdisk info --user=me --password-file=password a
want 1 'a secret is not in messages' vdisk info --user=me --password-file=password nowhere
check 'nor is it printed' sh -c '! grep -q secret "$0"/out "$0"/err' "$work"

# A reader that goes away is no reason to complain, but no success either.
want 1 'closed pipe' bash -c 'set -o pipefail; { sleep 0.2; "$0" --help; } | exec true' "$C"
err_is ''
want 1 'JSON to a full disk' sh -c '"$0" info --output=json a > /dev/full' "$C"
err_has 'standard output'

# --- which files images may name
vdisk create -q -f raw named 1M
want 1 'nothing and something' vdisk info --no-backing --allow-path=. named
err_has '^vdisk: info: --no-backing permits nothing'
want 1 'nothing and json: names' vdisk map --allow-json --no-backing named
err_has '^vdisk: map: --no-backing permits nothing'
want 1 'no directory' vdisk map --allow-path= named
err_has '^vdisk: map: --allow-path: the name of a directory is wanted$'
want 0 'two directories' vdisk info --allow-path=/nowhere --allow-path=. --allow-json named
want 0 'nothing is named' vdisk map --no-backing named

finish
