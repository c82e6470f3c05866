#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes a C file of the status page, and the policy that lets nothing run but what is in it.

    make-page.py PAGE.html PAGE.c
"""
import base64
import hashlib
import re
import sys


def hashes(page, tag):
    """The sources for a policy: one for each element of that kind."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)
    if not found or len(found) != len(re.findall(rf"<{tag}\b".encode(), page)):
        sys.exit(f"make-page: the page has no <{tag}>, or one with attributes")
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in found)


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as file:
        page = file.read()
    policy = "; ".join([
        "default-src 'none'",
        f"script-src {hashes(page, 'script')}",
        f"style-src {hashes(page, 'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ])
    rows = ["".join(f"\\{byte:03o}" for byte in page[at:at + 20]) for at in range(0, len(page), 20)]
    with open(target, "w", encoding="ascii") as file:
        file.write('#include "serve/status.h"\n\n')
        file.write('const char vd_status_page[] =\n    "' + '"\n    "'.join(rows) + '";\n\n')
        file.write(f"const size_t vd_status_page_bytes = {len(page)};\n\n")
        file.write(f'const char vd_status_page_policy[] = "{policy}";\n')


main()
