#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Checks the words: documents name only what there is, and nothing is left half-said.

    tools/check-prose.py SOURCE-ROOT

Links of Markdown files lead to files that are there; `make TARGET` and `vdisk VERB` in a code
block exist; no file holds a note of work to do, a path of somebody's machine, or a host that
packages come from.
"""
import pathlib
import re
import subprocess
import sys

# Written so that this file does not find itself.
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|TB" r"D|lorem" r" ipsum|coming" r" soon)\b")
MACHINE = re.compile(r"(?<![\w.~-])/(?:home|ro" r"ot|wo" r"rk|Us" r"ers)/\w")
REGISTRY = re.compile(r"\b(?:deb\.debian|pypi|npmjs|crates|registry\.\w+)\.(?:org|io|com)\b")
TEXT = {".c", ".h", ".md", ".py", ".sh", ".build", ".txt", ".scd", ".map", ""}
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def text_files(root):
    """The files that git knows, or, outside a repository, those of the source folders."""
    try:
        names = subprocess.run(["git", "-C", root, "ls-files"],
                               capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = [str(path.relative_to(root)) for path in root.rglob("*")
                 if not re.match(r"build|\.git$", path.relative_to(root).parts[0])]
    for name in names:
        path = root / name
        if path.is_file() and path.suffix in TEXT and "corpus" not in path.parts:
            yield path


def word_faults(path):
    """Yields a fault for each word that should not be in a file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        yield "not UTF-8"
        return
    for number, line in enumerate(lines, 1):
        for pattern, what in ((UNFINISHED, "unfinished"), (MACHINE, "path of a machine"),
                              (REGISTRY, "host of packages")):
            match = pattern.search(line)
            if match:
                yield f"{number}: {what}: {match.group(0)}"
        if line != line.rstrip():
            yield f"{number}: blanks at the end of the line"


def document_faults(path, targets, verbs):
    """Yields a fault for each thing that a Markdown file names and that is not there."""
    text = path.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if "://" not in link and not link.startswith("mailto:"):
            if not (path.parent / link).exists():
                yield f"link to {link}, which is not there"
    for block in FENCE.findall(text):
        for line in block.splitlines():
            command = re.sub(r"^\s*[$#]\s+", "", line)
            match = re.match(r"(?:sudo\s+)?make((?:\s+[\w.-]+(?!\S*=))*)", command)
            for target in match.group(1).split() if match else []:
                if target not in targets:
                    yield f"`make {target}`, which is not in the Makefile"
            match = re.match(r"(?:\./|\S*/)?vdisk\s+([a-z]\w*)\b", command)
            if match and match.group(1) not in verbs:
                yield f"`vdisk {match.group(1)}`, which is no command"


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    root = pathlib.Path(sys.argv[1])
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w[\w-]*):", makefile, re.MULTILINE)
    verbs = {path.stem.replace("cmd_", "") for path in (root / "src/cli").glob("cmd_*.c")}
    found = []
    count = 0
    for path in text_files(root):
        count += 1
        faults = list(word_faults(path))
        if path.suffix == ".md":
            faults += document_faults(path, targets, verbs)
        found += [f"{path.relative_to(root)}: {fault}" for fault in faults]
    print("\n".join(found))
    return 1 if found or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
