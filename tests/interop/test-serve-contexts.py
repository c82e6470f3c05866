#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Metadata contexts of `vdisk serve` beside those of qemu-nbd, for the same images.

    tests/interop/test-serve-contexts.py VDISK

VD_TEST_SEED is the seed, VD_CONTEXT_ROUNDS (2) the images of each kind.
"""
import json
import os
import random
import sys
import time

import serving
from serving import run
from tap import Fault, Tap, work_folder

KIB, MIB = 1 << 10, 1 << 20
SIZE = 24 * MIB + 512
HOLE, ZERO = 1, 2


def change(rng, name, form, count):
    """Random writes, zeros and discards, by QEMU."""
    commands = []
    for _ in range(count):
        offset = rng.randrange(SIZE // 512) * 512
        length = min(SIZE - offset, 512 * rng.choice([1, 8, 128, 128, 512, 4096]))
        what = rng.choice(["write -P 7", "write -P 7", "write -z", "write -z -u", "discard"])
        if rng.random() < 0.5 and length >= 64 * KIB:
            offset -= offset % (64 * KIB)
        commands += ["-c", f"{what} {offset} {length}"]
    run("qemu-io", "-f", form, "-d", "unmap", *commands, name)


def map_of(server, context):
    """[(offset, length, flags)] of all of the disk."""
    runs = json.loads(run("nbdinfo", "--json", f"--map={context}", server.uri))
    at = 0
    for one in runs:
        if one["offset"] != at:
            raise Fault(f"{context}: a gap at {at}")
        at += one["length"]
    if at != SIZE:
        raise Fault(f"{context}: ends at {at}")
    return [(one["offset"], one["length"], one["type"]) for one in runs]


def merged(runs):
    """Without neighbours that say the same."""
    result = []
    for offset, length, flags in runs:
        if result and result[-1][2] == flags:
            result[-1] = (result[-1][0], result[-1][1] + length, flags)
        else:
            result.append((offset, length, flags))
    return result


def pieces(ours, theirs):
    """(offset, length, our flags, their flags) for each piece that has one of each."""
    i = j = at = 0
    while at < SIZE:
        end = min(ours[i][0] + ours[i][1], theirs[j][0] + theirs[j][1])
        yield at, end - at, ours[i][2], theirs[j][2]
        i += ours[i][0] + ours[i][1] == end
        j += theirs[j][0] + theirs[j][1] == end
        at = end


def check_allocation(ours, theirs, content):
    """Zeros are those of QEMU, or more; what is no zero for it but for us, is zeros; holes are zeros."""
    for offset, length, mine, its in pieces(ours, theirs):
        where = f"base:allocation at {offset}, {length} bytes: {mine}, and {its} by QEMU"
        if mine not in (0, ZERO, HOLE | ZERO):
            raise Fault(f"{where}: no such flags")
        if its & ZERO and not mine & ZERO:
            raise Fault(f"{where}: QEMU knows that it is zero")
        if mine & ZERO and any(content[offset:offset + length]):
            raise Fault(f"{where}: it is not zero")


def check(vdisk, form, name, bitmaps):
    """Both servers, one after the other."""
    offers = [word for bitmap in bitmaps for word in ("-B", bitmap)]
    contexts = ["base:allocation", "qemu:allocation-depth"] + [f"qemu:dirty-bitmap:{b}"
                                                                for b in bitmaps]
    with serving.Server(vdisk, "-f", form, "-r", "-A", *offers, name) as server:
        ours = {context: map_of(server, context) for context in contexts}
    with serving.QemuServer("-f", form, "-r", "-A", *offers, name) as server:
        theirs = {context: map_of(server, context) for context in contexts}
    run("qemu-img", "convert", "-f", form, "-O", "raw", name, "content.raw")
    with open("content.raw", "rb") as file:
        content = file.read()
    for context in contexts:
        if ours[context] != merged(ours[context]):
            raise Fault(f"{context}: neighbours that say the same: {ours[context]}")
    check_allocation(ours["base:allocation"], theirs["base:allocation"], content)
    for context in contexts[1:]:
        if ours[context] != merged(theirs[context]):
            raise Fault(f"{context}: {ours[context]}, and {merged(theirs[context])} by QEMU")


def raw_image(rng, vdisk):
    run("qemu-img", "create", "-q", "-f", "raw", "a.raw", SIZE)
    change(rng, "a.raw", "raw", 20)
    check(vdisk, "raw", "a.raw", [])


def qcow2_image(rng, vdisk):
    options = rng.choice(["cluster_size=64k", "cluster_size=4k", "extended_l2=on",
                          "preallocation=metadata", "compat=0.10", "lazy_refcounts=on"])
    bitmaps = [] if "compat" in options else ["day", "week"]
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "a.qcow2", SIZE)
    change(rng, "a.qcow2", "qcow2", 15)
    if bitmaps:
        run("qemu-img", "bitmap", "--add", "-g", "4k", "a.qcow2", "day")
    change(rng, "a.qcow2", "qcow2", 5)
    if bitmaps:
        run("qemu-img", "bitmap", "--add", "a.qcow2", "week")
    change(rng, "a.qcow2", "qcow2", 5)
    check(vdisk, "qcow2", "a.qcow2", bitmaps)


def chain(rng, vdisk):
    """Three images, the one in the middle perhaps shorter."""
    run("qemu-img", "create", "-q", "-f", "raw", "base.raw", SIZE)
    change(rng, "base.raw", "raw", 10)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle.qcow2",
        SIZE)
    change(rng, "middle.qcow2", "qcow2", 10)
    if rng.random() < 0.5:
        run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", "middle.qcow2", "15M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2",
        SIZE)
    change(rng, "top.qcow2", "qcow2", 10)
    check(vdisk, "qcow2", "top.qcow2", [])


def main():
    vdisk = os.path.abspath(sys.argv[1])
    seed = int(os.environ.get("VD_TEST_SEED", time.time_ns() % 1000000))
    rounds = int(os.environ.get("VD_CONTEXT_ROUNDS", 2))
    print(f"# VD_TEST_SEED={seed}")
    tap = Tap()
    with work_folder("serve-contexts"):
        for name, function in (("raw", raw_image), ("qcow2", qcow2_image), ("chains", chain)):
            for turn in range(rounds):
                rng = random.Random(f"{seed} {name} {turn}")
                tap.attempt(f"{name} {turn}", lambda f=function, r=rng: f(r, vdisk))
    return tap.end()


sys.exit(main())
