#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measures the C sources against the limits of HACKING.md.

    tools/check-sources.py SOURCE-ROOT

A file has at most 1000 lines (but for vdisk.h: the whole interface is one header) and begins with
its licence, a header guards itself, a function has at most 70 lines, functions of the C library that
cannot be used safely are not used, and a test program tells its results as TAP: meson would take it
for skipped.
"""
import pathlib
import re
import sys

FILE_LINES_MAX = 1000
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
UNSAFE = re.compile(
    r"\b(alloca|gets|strcpy|strcat|v?sprintf|strtok|atoi|atoll?|tmpnam|mktemp)\s*\(")
SPDX = "/* SPDX-License-Identifier: MIT */"


def function_faults(lines):
    """A function's body is between a "{" and a "}" that stand alone in the first column."""
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{":
            start = number
        elif line == "}" and start is not None:
            length = number - start + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{start}: a function of {length} lines; at most {FUNCTION_LINES_MAX}"
            start = None


def file_faults(path, guard):
    """Yields "LINE: what" for each fault of one file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != SPDX:
        yield f"1: the first line is not {SPDX}"
    if len(lines) > FILE_LINES_MAX and path.name != "vdisk.h":
        yield f"{len(lines)}: at most {FILE_LINES_MAX} lines"
    if guard and f"#ifndef {guard}" not in lines:
        yield f"1: no include guard {guard}"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            yield f"{number}: {len(line)} columns; at most {COLUMNS_MAX}"
        match = UNSAFE.search(line)
        if match:
            yield f"{number}: {match.group(1)}() cannot be used safely"
    text = "\n".join(lines)
    if "cmocka_run_group_tests(" in text and "CM_OUTPUT_TAP" not in text:
        yield "1: a test program has to call cmocka_set_message_output(CM_OUTPUT_TAP)"
    yield from function_faults(lines)


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    root = pathlib.Path(sys.argv[1])
    paths = [path for folder in ("include", "src", "tests", "examples", "bench")
             for path in sorted((root / folder).rglob("*.[ch]"))]
    found = []
    for path in paths:
        relative = path.relative_to(root)
        guard = None
        if path.suffix == ".h":
            parts = relative.parts[1:]
            if relative.parts[0] == "include":
                guard = "VDISK_H"
            elif relative.parts[0] == "src":
                guard = "VD_" + re.sub(r"\W", "_", "_".join(parts)).upper()
                short = "VD_" + re.sub(r"\W", "_", "_".join((parts[0], parts[-1]))).upper()
                if f"#ifndef {short}" in path.read_text(encoding="utf-8"):
                    guard = short
        found += [f"{relative}:{fault}" for fault in file_faults(path, guard)]
    print("\n".join(found))
    return 1 if found or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
