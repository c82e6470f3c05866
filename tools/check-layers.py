#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Rejects an #include that points upward in the order of the layers.

    tools/check-layers.py SOURCE-ROOT      checks src/ and examples/
    tools/check-layers.py --self-test      checks that each kind of violation is found
"""
import pathlib
import re
import sys
import tempfile

# Arrows point down only: a layer may include itself and what comes after it.
LAYERS = ["cli", "serve", "backup", "job", "image", "format", "storage", "bitmap", "nbdproto", "util"]
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def include_fault(source, target, is_quoted, root):
    """Why the file @source (relative to src/) may not include @target; None if it may."""
    layer = source.parts[0] if len(source.parts) > 1 else ""
    if target == "vdisk.h":
        return None
    if not is_quoted:
        if target.split("/")[0] in LAYERS:
            return f"<{target}> is a file of ours: use quotes"
        return None
    parts = target.split("/")
    if len(parts) < 2:
        return f'"{target}" is not path-qualified'
    if parts[0] not in LAYERS:
        return f'"{target}" is in no layer; the layers are {" ".join(LAYERS)}'
    if not (root / "src" / target).is_file():
        return f'"{target}" is not there'
    if layer and LAYERS.index(parts[0]) < LAYERS.index(layer):
        return f'"{target}" points upward, from {layer} to {parts[0]}'
    if layer == "cli" and parts[0] not in ("cli", "util"):
        return f'"{target}": the command may only use vdisk.h, util/ and cli/'
    if target.endswith("_priv.h") and str(source.parent) != "/".join(parts[:-1]):
        return f'"{target}" is private to its folder'
    # The driver of one format or storage knows nothing of another one's folder.
    if len(source.parts) > 2 and len(parts) > 2 and source.parts[:2] != tuple(parts[:2]):
        return f'"{target}" belongs to another driver'
    return None


def faults(root):
    """Yields a line for each violation below @root."""
    sources = sorted(path for path in (root / "src").rglob("*") if path.suffix in (".c", ".h"))
    for path in sources:
        relative = path.relative_to(root / "src")
        if len(relative.parts) > 1 and relative.parts[0] not in LAYERS:
            yield f"src/{relative}: in no layer; the layers are {' '.join(LAYERS)}"
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            fault = include_fault(relative, match.group(2), match.group(1) == '"', root)
            if fault:
                yield f"src/{relative}:{number}: {fault}"
    for path in sorted((root / "examples").glob("*.c")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if match and match.group(1) == '"':
                yield f"examples/{path.name}:{number}: an example only has what is installed"


def self_test():
    """Plants one violation at a time; each must be found, and the clean tree must pass."""
    clean = {
        "src/util/err.h": "",
        "src/storage/storage.h": '#include "util/err.h"\n#include <stdio.h>\n',
        "src/format/raw/raw.c": '#include "storage/storage.h"\n#include "format/raw/raw.h"\n',
        "src/format/raw/raw.h": "",
        "src/format/gow/gow.h": "",
        "src/image/image_priv.h": '#include "vdisk.h"\n',
        "src/image/io.c": '#include "image/image_priv.h"\n',
        "src/cli/main.c": '#include "util/err.h"\n#include <vdisk.h>\n',
        "examples/a.c": "#include <vdisk.h>\n",
    }
    planted = [
        ("src/util/err.h", '#include "storage/storage.h"\n'),
        ("src/storage/storage.h", '#  include "format/raw/raw.h"\n'),
        ("src/format/raw/raw.c", '#include "format/gow/gow.h"\n'),
        ("src/format/raw/raw.c", '#include "raw.h"\n'),
        ("src/format/raw/raw.c", "#include <storage/storage.h>\n"),
        ("src/format/raw/raw.c", '#include "util/gone.h"\n'),
        ("src/job/copy.c", '#include "image/image_priv.h"\n'),
        ("src/cli/main.c", '#include "storage/storage.h"\n'),
        ("src/other/a.c", "\n"),
        ("examples/a.c", '#include "util/err.h"\n'),
    ]
    for plant in [None] + planted:
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            tree = dict(clean)
            if plant:
                tree[plant[0]] = plant[1]
            for name, text in tree.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            found = list(faults(root))
            if bool(found) != bool(plant):
                print(f"self-test: planted {plant}, found {found}")
                return 1
    return 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    found = list(faults(pathlib.Path(sys.argv[1])))
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
