#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""qcow2 images in which one thing lies in the place of another, given to all that writes.

    tests/interop/test-qcow2-overlap.py VDISK

A hostile image leads a write to its own metadata: an entry of a table, or a field of the header,
has the place of something else.  Each field that leads somewhere is given the place of every kind
of metadata.  A command whose way leads through it is refused, and nothing of the file changes but
the corrupt bit; where it is a cluster of the disk, that is set.  Others may do their work; then all
of the disk and of its snapshot that could be read before reads the same, but for what was asked.

VD_QCOW2_OVERLAPS=full gives each image to each command, else to those that lead there and to some
of the others.
"""
import os
import struct
import sys

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
from hostile import MEMORY_MAX, run
from qcow2_image import AUTO, COMPRESSED, COPIED, CORRUPT, Image
from tap import Tap, clear, work_folder

C = 4096
FAR = 700           # a guest cluster behind another L2 table
VDISK = ""

PLACES = {
    "the header": lambda image: 0,
    "the L1 table": lambda image: image.l1_offset,
    "its L2 table": lambda image: image.tables[0].offset,
    "another L2 table": lambda image: image.tables[1].offset,
    "the refcount table": lambda image: image.refcount_table,
    "a refcount block": lambda image: image.refcount_blocks[0][1],
    "the snapshot table": lambda image: image.snapshots_offset,
    "a snapshot's L1 table": lambda image: image.snapshots[0].l1_offset,
    "the bitmap directory": lambda image: image.directory_offset,
    "a bitmap's table": lambda image: image.bitmaps["b"][1],
}

# Commands whose way leads to guest cluster 0 and writes there; to its table; to another table.
HERE = {
    "write": ["io", "-c", "write -P 1 512 512", "image"],
    "write a cluster": ["io", "-c", "write -P 1 0 4k", "image"],
    "write more": ["io", "-c", "write -P 1 0 64k", "image"],
    "zero": ["io", "-c", "write -z 0 4k", "image"],
    "zero a part": ["io", "-c", "write -z 512 512", "image"],
    "discard": ["io", "-c", "discard 0 4k", "image"],
}
ELSEWHERE = {
    "write behind it": ["io", "-c", "write -P 1 20k 4k", "image"],
    "write far away": ["io", "-c", f"write -P 1 {FAR * C} 4k", "image"],
    "write where nothing was": ["io", "-c", f"write -P 1 {1100 * C} 4k", "image"],
    "discard far away": ["io", "-c", f"discard {FAR * C} 4k", "image"],
    "grow": ["resize", "image", "+16M"],
    "shrink": ["resize", "--shrink", "image", "1M"],
    "snapshot": ["snapshot", "-c", "two", "image"],
    "go back": ["snapshot", "-a", "one", "image"],
    "delete the snapshot": ["snapshot", "-d", "one", "image"],
    "add a bitmap": ["bitmap", "--add", "image", "c"],
    "clear a bitmap": ["bitmap", "--clear", "image", "b"],
    "remove a bitmap": ["bitmap", "--remove", "image", "b"],
    "compact": ["compact", "-q", "image"],
    "refcounts of 64 bits": ["amend", "-o", "refcount_bits=64", "image"],
}


def header64(image, offset, value):
    image.put(offset, struct.pack(">Q", value))


def encoded(place):
    """A compressed cluster at `place`, of two sectors."""
    return COMPRESSED | 1 << (62 - (12 - 8)) | place


def entry_of_table(number):
    def change(image, place):
        image.put64(image.refcount_table + 8 * number, place)
    return change


def in_directory(image, offset, form, value):
    image.put(image.directory_offset + image.bitmaps["b"][0] + offset, struct.pack(form, value))


TABLE_OF_SNAPSHOT = "an L2 table of a snapshot"

# What leads there: (change of the image, commands that go that way).
HOLDERS = {
    "a guest cluster": (
        lambda image, place: image.put64(image.l2_place(0), place | COPIED), HERE),
    "a shared guest cluster": (lambda image, place: image.put64(image.l2_place(0), place), HERE),
    "a compressed guest cluster": (
        lambda image, place: image.put64(image.l2_place(0), encoded(place or 512)), HERE),
    "an L2 table": (lambda image, place: image.put64(image.l1_offset, place | COPIED), HERE),
    "a shared L2 table": (lambda image, place: image.put64(image.l1_offset, place), HERE),
    "a refcount block": (entry_of_table(0), {**HERE, **ELSEWHERE}),
    "a refcount block more": (entry_of_table(1), {}),
    "the L1 table": (lambda image, place: header64(image, 40, place), {**HERE, **ELSEWHERE}),
    "the refcount table": (lambda image, place: header64(image, 48, place),
                           {**HERE, **ELSEWHERE}),
    "the snapshot table": (
        lambda image, place: header64(image, 64, place),
        {name: ELSEWHERE[name] for name in ("snapshot", "go back", "delete the snapshot")}),
    "a snapshot's L1 table": (
        lambda image, place: header64(image, image.snapshots_offset, place),
        {name: ELSEWHERE[name] for name in ("go back", "delete the snapshot")}),
    TABLE_OF_SNAPSHOT: (
        lambda image, place: image.put64(image.snapshots[0].l1_offset, place),
        {name: ELSEWHERE[name] for name in ("go back", "delete the snapshot")}),
    "a bitmap's table": (
        lambda image, place: in_directory(image, 0, ">Q", place),
        {**HERE, **{name: ELSEWHERE[name] for name in ("clear a bitmap", "remove a bitmap",
                                                       "add a bitmap")}}),
    "bits of a bitmap": (
        lambda image, place: image.put64(image.bitmaps["b"][1], place),
        {**HERE, **{name: ELSEWHERE[name] for name in ("clear a bitmap", "remove a bitmap")}}),
}


def build(is_enabled):
    image = Image(cluster_bits=12, size=1200 * C)
    image.data(0, b"\x11" * C)
    image.data(1, b"\x22" * C)
    image.data(FAR, b"\x44" * C)
    image.snapshot("one")
    image.data(0, b"\x33" * C)
    image.data(FAR, b"\x55" * C)
    image.bitmap("b", bits=[0], flags=AUTO if is_enabled else 0)
    return image.finish()


def slurp():
    with open("image", "rb") as file:
        return file.read()


def succeeds(*words):
    return run([VDISK, *words])[0] == 0


def snapshot_is(cluster, byte):
    """Does the snapshot have that?"""
    if not succeeds("convert", "-l", "one", "-O", "raw", "image", "new"):
        return False
    with open("new", "rb") as file:
        file.seek(cluster * C)
        return file.read(C) == bytes([byte]) * C


# What there is besides cluster 0: (does it read as it should?, commands that change it)
PROBES = {
    "cluster 1": (lambda: succeeds("io", "-r", "-c", f"read -P 34 {C} {C}", "image"),
                  ("write more", "go back")),
    "the cluster far away": (
        lambda: succeeds("io", "-r", "-c", f"read -P 85 {FAR * C} {C}", "image"),
        ("write far away", "discard far away", "shrink", "go back")),
    "cluster 0 of the snapshot": (lambda: snapshot_is(0, 0x11), ("delete the snapshot",)),
    "the cluster far away of the snapshot": (lambda: snapshot_is(FAR, 0x44),
                                             ("delete the snapshot",)),
}


def readable():
    """The probes that are right."""
    return [name for name, (is_right, _) in PROBES.items() if is_right()]


def changed(before, after):
    """Where bytes differ, but for the corrupt bit."""
    if len(before) != len(after):
        return f"its length, {len(before)} to {len(after)}"
    where = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
    if where == [79] and after[79] == before[79] | CORRUPT:
        return ""
    return f"{len(where)} bytes, the first at {where[0]:#x}" if where else ""


class Case:
    """An image, and what could be read of it."""

    def __init__(self, holder, place):
        clear()
        # Compressed clusters are looked at when they are read, before anything is written.
        self.is_marked = holder in MARKED and (holder, place) != (MARKED[2], "the header")
        image = build("bitmap" in holder)
        HOLDERS[holder][0](image, PLACES[place](image))
        image.save("image")
        self.before = slurp()
        self.readable = [name for name in readable()
                         if not (name.endswith("snapshot") and holder == TABLE_OF_SNAPSHOT)]
        clear()

    def judge(self, name, words, is_through):
        """Yields what is wrong with how a command ends."""
        with open("image", "wb") as file:
            file.write(self.before)
        status, out, err, memory = run([VDISK, *words])
        after = slurp()
        what = changed(self.before, after)
        if status is None or status < 0:
            yield f"status {status}: {err[-500:]}"
        elif status and what:
            yield f"refused, and changed {what}: {(err or out).strip()[:200]}"
        elif status and "image" not in err:
            yield f"does not name the file: {err.strip()[:200]}"
        elif status and is_through and self.is_marked and after == self.before:
            yield f"refused, and the corrupt bit is not set: {err.strip()[:200]}"
        elif status == 0 and is_through:
            yield f"it was not refused; changed {what or 'nothing'}"
        elif status == 0:
            now = readable()
            for probe in self.readable:
                if probe not in now and name not in PROBES[probe][1]:
                    yield f"{probe} was lost"
        if memory > MEMORY_MAX:
            yield f"took {memory >> 20} MiB"
        TALLY[status != 0] += 1
        clear()


TALLY = [0, 0]  # commands that did their work; refused

# Those of the disk itself, whatever they lead to.
MARKED = ["a guest cluster", "a shared guest cluster", "a compressed guest cluster"]

# What is no overlap: itself; an entry of 0, which leads nowhere; and a table that nothing else
# leads to any more.
SAME = {
    ("an L2 table", "the header"), ("an L2 table", "its L2 table"),
    ("a shared L2 table", "its L2 table"), ("the L1 table", "its L2 table"),
    ("the L1 table", "another L2 table"),
    *((holder, "the header") for holder in HOLDERS if holder.startswith(
        ("a guest", "a shared", "an L2 table of", "bits of", "a refcount block more"))),
}


def test(tap, holder, place, number, is_full):
    case = Case(holder, place)
    through = HOLDERS[holder][1]
    faults = []
    for index, (name, words) in enumerate({**HERE, **ELSEWHERE}.items()):
        if is_full or name in through or (index + number) % 5 == 0:
            faults += [f"{name}: {fault}" for fault in case.judge(name, words, name in through)]
    tap.report(f"{holder} in the place of {place}", faults)


def main():
    global VDISK  # pylint: disable=global-statement
    VDISK = os.path.abspath(sys.argv[1])
    is_full = os.environ.get("VD_QCOW2_OVERLAPS") == "full"
    tap = Tap()
    with work_folder("qcow2-overlap", "here"):
        for holder in HOLDERS:
            for number, place in enumerate(PLACES):
                if holder != place and (holder, place) not in SAME:
                    test(tap, holder, place, number, is_full)
    print(f"# {sum(TALLY)} commands, {TALLY[1]} of them refused")
    return tap.end()


sys.exit(main())
