#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Prints what has to be built for the tests of some suites, as targets of ninja.

    tools/test-targets.py BUILD-DIR SUITE...
"""
import json
import os
import subprocess
import sys


def introspect(build_dir, what):
    done = subprocess.run(["meson", "introspect", f"--{what}", build_dir], check=True,
                          capture_output=True, text=True)
    return json.loads(done.stdout)


def main():
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    build_dir, wanted = sys.argv[1], set(sys.argv[2:])
    needed = set()
    for test in introspect(build_dir, "tests"):
        if wanted & {suite.rpartition(":")[2] for suite in test["suite"]}:
            needed.update(test["depends"])
    for target in introspect(build_dir, "targets"):
        if target["id"] in needed:
            for path in target["filename"]:
                print(os.path.relpath(path, os.path.abspath(build_dir)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
