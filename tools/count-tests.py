#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Counts the tests in Meson's testlog.json files, each test of a TAP program as one.

    tools/count-tests.py [--no-skip] [--broken NAME]... [--unhappy BUILD]... BUILD=TESTLOG...

Prints the names of those that failed or were skipped, and as the last line
"N passed, N failed, N skipped".  Exits with 1 if one failed, if none ran, or, with --no-skip, if
one was skipped for another reason than what the machine cannot do: a missing program can be
installed.  --broken adds a failure that left no log, such as a build.
"""
import argparse
import json
import re
import sys

TAP_PLAN = re.compile(r"^1\.\.(\d+)(?:\s*#\s*skip\b\s*(.*))?", re.IGNORECASE)
TAP_LINE = re.compile(r"^(not )?ok\b\s*\d*\s*(?:-\s*)?([^#]*)(?:#\s*(\w+)\s*(.*))?", re.IGNORECASE)

# Reasons that no package mends; cmocka's skip() gives none, and is used for nothing else.
MACHINE_CANNOT = re.compile(r"^$|\broot\b|loop device|direct I/O")


def tap_results(output):
    """Yields (name, "passed" | "failed" | "skipped", reason) for each line of a TAP output."""
    for line in output.splitlines():
        match = TAP_LINE.match(line)
        if not match:
            continue
        failed, name, directive, reason = match.groups()
        if directive and directive.lower() == "skip":
            yield name.strip(), "skipped", reason
        else:
            # A "not ok" that TAP would excuse as work to be done is a failure here.
            yield name.strip(), "failed" if failed else "passed", ""


def program_results(test):
    """The results of one program that Meson ran."""
    output = test.get("stdout") or ""
    is_tap = any(TAP_PLAN.match(line) for line in output.splitlines())
    results = list(tap_results(output)) if is_tap else []
    outcome = test["result"]
    if outcome == "SKIP" and not any(kind == "skipped" for _, kind, _ in results):
        plans = [TAP_PLAN.match(line) for line in output.splitlines()]
        reason = next((plan.group(2) for plan in plans if plan and plan.group(2)), "")
        results.append(("", "skipped", reason))
    elif outcome not in ("OK", "SKIP"):
        # A crash, a timeout, a wrong plan: a failure, though each line may say ok.
        if not any(kind == "failed" for _, kind, _ in results):
            results.append(("", "failed", outcome.lower()))
    elif not results:
        results.append(("", "passed", ""))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-skip", action="store_true")
    parser.add_argument("--broken", action="append", default=[])
    parser.add_argument("--unhappy", action="append", default=[])
    parser.add_argument("logs", nargs="*", metavar="BUILD=TESTLOG")
    options = parser.parse_args()

    count = {"passed": 0, "failed": 0, "skipped": 0}
    told = []
    for log in options.logs:
        build, path = log.split("=", 1)
        with open(path, encoding="utf-8") as lines:
            tests = [json.loads(line) for line in lines if line.strip()]
        failed_before = count["failed"]
        for test in tests:
            for name, kind, reason in program_results(test):
                count[kind] += 1
                if kind != "passed":
                    full = ": ".join(part for part in (build, test["name"], name) if part)
                    told.append((kind, full, reason))
        if build in options.unhappy and count["failed"] == failed_before:
            count["failed"] += 1
            told.append(("failed", build + ": the run", "ended early, or with an error of its own"))
    missing = [reason for kind, _, reason in told
               if kind == "skipped" and not MACHINE_CANNOT.search(reason or "")]
    for name in options.broken:
        count["failed"] += 1
        told.append(("failed", name, ""))

    for kind, name, reason in sorted(told, reverse=True):
        print(f"{kind}: {name}" + (f" ({reason})" if reason else ""))
    if sum(count.values()) == 0:
        count["failed"] = 1
        print("failed: no test ran")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or (options.no_skip and missing) else 0


if __name__ == "__main__":
    sys.exit(main())
