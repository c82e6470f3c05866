#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes a manual page: puts the options that verbs share in place of `@common NAME...@`.
#
#   docs/man/make-page.sh SCDOC FOLDER PAGE.scd > PAGE
set -eu
scdoc=$1 folder=$2 page=$3

awk -v folder="$folder" '
    /^@common .*@$/ {
        gsub(/^@common |@$/, "")
        count = split($0, names, " ")
        for (i = 1; i <= count; i++) {
            file = folder "/common/" names[i] ".scd"
            lines = 0
            while ((getline line < file) > 0) {
                print line
                lines++
            }
            close(file)
            if (!lines) {
                print FILENAME ": no common option " names[i] > "/dev/stderr"
                exit 1
            }
            if (i < count)
                print ""
        }
        next
    }
    { print }' "$page" | "$scdoc"
