#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Holds the public header to its promise: each declaration documented, each name in its comment.

    tools/check-headers.py HEADER                  checks the comments
    tools/check-headers.py HEADER COMPILER...      and compiles it alone: C11 by cc, C++17 by c++
    tools/check-headers.py --list HEADER           prints the names of the public functions
    tools/check-headers.py --self-test             checks that each kind of fault is found
"""
import os
import re
import subprocess
import sys
import tempfile

# A comment /** ... */ and the declaration behind it, up to ";" or the end of a struct or enum.
DECLARATION = re.compile(
    r"(?P<comment>/\*\*(?:(?!\*/).)*\*/)?\s*"
    r"(?P<code>^(?:"
    r"(?:VDISK_PUBLIC\b[^;]*);"
    r"|typedef\b[^;]*;"
    r"|(?:struct|enum)\s+\w+\s*\{(?:(?!^\};).)*^\};"
    r"|struct\s+\w+;"
    r"))",
    re.DOTALL | re.MULTILINE,
)
PLAIN_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def parameters(code):
    """Names of the parameters of a function or callback type."""
    inside = code[code.rindex("(") + 1 : code.rindex(")")]
    names = []
    for part in inside.split(","):
        part = part.strip()
        if part not in ("", "void"):
            names.append(re.findall(r"\w+", part)[-1])
    return names


def fields(code):
    """Names of the fields of a struct."""
    body = PLAIN_COMMENT.sub("", code[code.index("{") + 1 : code.rindex("}")])
    lines = [re.sub(r"\[.*", "", line) for line in body.split(";") if line.strip()]
    return [re.findall(r"\w+", line)[-1] for line in lines]


def undocumented_values(code):
    """Values of an enum without a /**< comment of their own."""
    body = code[code.index("{") + 1 : code.rindex("}")]
    return re.findall(r"^\s*(\w+)[^,/\n]*,?\s*(?!\s*/\*\*<)$", body, re.MULTILINE)


def documented(comment):
    """Names that the comment has a line "@name: text" or "@name, @name: text" for."""
    names = set()
    for line in re.findall(r"^\s*\*\s*((?:@\w+(?:,\s*)?)+):", comment, re.MULTILINE):
        names.update(re.findall(r"@(\w+)", line))
    return names


def declaration_faults(comment, code):
    """Yields what is wrong with one declaration."""
    if code.startswith("VDISK_PUBLIC"):
        name = re.search(r"(\w+)\s*\(", code.replace("VDISK_PUBLIC", "")).group(1)
        head, wanted = f"{name}() - ", parameters(code)
        returns = not re.match(r"VDISK_PUBLIC\s+(VDISK_MUST_CHECK\s+)?void\s+\w", code)
    elif code.startswith("typedef"):
        name = re.search(r"\(\*(\w+)\)", code).group(1)
        head, wanted = f"{name} - ", parameters(code)
        returns = not re.match(r"typedef\s+void\s*\(", code)
    else:
        kind, name = re.match(r"(struct|enum)\s+(\w+)", code).groups()
        returns = False
        if "{" not in code or kind == "enum":
            head, wanted = "", []
        else:
            head, wanted = f"struct {name} - ", fields(code)
    if not comment:
        yield f"{name}: no comment"
        return
    if head and head not in comment:
        yield f'{name}: the comment does not begin with "{head.strip()}"'
    names = documented(comment)
    for want in wanted:
        if want not in names:
            yield f"{name}: @{want} is not in its comment"
    for extra in sorted(names - set(wanted)):
        yield f"{name}: @{extra} is in its comment only"
    if returns and "Return:" not in comment:
        yield f"{name}: the comment does not say what it returns"
    if code.startswith("enum"):
        for value in undocumented_values(code):
            yield f"{name}: {value} has no comment"


def functions(text):
    """Names of the public functions."""
    return re.findall(r"^VDISK_PUBLIC[^;(]*?(\w+)\s*\(", text, re.MULTILINE)


def faults(text):
    """Yields what is wrong with the comments of the header @text."""
    seen = []
    for match in DECLARATION.finditer(text):
        code = match.group("code")
        if code.startswith("VDISK_PUBLIC"):
            seen.extend(functions(code))
        yield from declaration_faults(match.group("comment"), code)
    if not seen:
        yield "no public function found"
    for name in functions(text):
        if name not in seen:
            yield f"{name}: declaration not understood"


def compile_faults(header, compilers):
    """Yields what the compilers say to a file that holds nothing but the header."""
    flags = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only"]
    for compiler in compilers:
        is_cxx = os.path.basename(compiler).split("-")[0].rstrip("0123456789").endswith("++")
        kind = ["-x", "c++", "-std=c++17"] if is_cxx else ["-x", "c", "-std=c11"]
        with tempfile.NamedTemporaryFile("w", suffix=".cc" if is_cxx else ".c") as source:
            source.write(f'#include "{os.path.abspath(header)}"\n')
            source.flush()
            command = [compiler, *kind, *flags, source.name]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                yield f"{' '.join(command)}:\n{result.stderr}"


GOOD = """
/**
 * struct vdisk_a - it
 * @x, @y: numbers
 */
struct vdisk_a {
    int x; /* small */
    char y[4];
};
/** Kinds. */
enum vdisk_kind {
    VDISK_KIND_A = 0, /**< first */
    VDISK_KIND_B      /**< last */
};
/**
 * vdisk_f() - does it
 * @a:   where
 * @err: story
 *
 * Return: 0.
 */
VDISK_PUBLIC VDISK_MUST_CHECK int vdisk_f(struct vdisk_a *a,
                                          struct vdisk_error *err);
"""


def self_test():
    """The good header passes; with any of these taken away it does not."""
    if list(faults(GOOD)):
        print(f"self-test: {list(faults(GOOD))}")
        return 1
    for gone in (" * @a:   where\n", "@y", " - does it", "Return", "/**< first */",
                 "/** Kinds. */"):
        if not list(faults(GOOD.replace(gone, "", 1))):
            print(f"self-test: {gone!r} was not missed")
            return 1
    return 0


def main():
    arguments = sys.argv[1:]
    if arguments == ["--self-test"]:
        return self_test()
    if len(arguments) == 2 and arguments[0] == "--list":
        with open(arguments[1], encoding="utf-8") as header:
            print("\n".join(functions(header.read())))
        return 0
    if not arguments:
        print(__doc__)
        return 2
    with open(arguments[0], encoding="utf-8") as header:
        found = list(faults(header.read()))
    found += compile_faults(arguments[0], arguments[1:])
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
