#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Snapshots within qcow2 images, by vdisk and by QEMU in turn.

    tests/interop/test-qcow2-snapshots.py VDISK

  * Both tools write to one image in turn, and make snapshots, go back to them and delete them; the
    disk and each snapshot are compared with a model, by both, and both checks stay clean.  For each
    geometry and feature that has to do with it.
  * What both print of snapshots is the same, and so is what names of them mean.
  * The state of a machine, which lies behind the disk, is kept by everything.
  * Snapshot tables and tables of snapshots that contradict the format are refused, soon and in
    little memory, and nothing is changed.
  * The commands that have to mind snapshots do.

VD_SNAPSHOT_ROUNDS (12) is the count of turns for each geometry, VD_TEST_SEED the seed.
"""
import copy
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
import hostile
from disk_model import Fault, Model, Script, Tool
from hostile import digest
from qcow2_image import Image
from tap import Tap, clear

VDISK = sys.argv[1] if "/" not in sys.argv[1] else os.path.abspath(sys.argv[1])
TAP = Tap()
KIB, MIB = 1 << 10, 1 << 20

# (options of create, cluster, with a backing file)
SHAPES = [
    ("", 65536, False),
    ("compat=0.10", 65536, True),
    ("cluster_size=512", 512, False),
    ("cluster_size=4k,refcount_bits=64", 4096, True),
    ("cluster_size=4k,refcount_bits=8", 4096, False),
    ("cluster_size=4k,refcount_bits=4", 4096, False),
    ("extended_l2=on,cluster_size=16k", 16384, True),
    ("extended_l2=on", 65536, False),
    ("lazy_refcounts=on", 65536, False),
    ("cluster_size=2M", 2 << 20, False),
]


def must(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        raise Fault(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def test(name, function, *args):
    faults = []
    try:
        function(*args)
    except Fault as fault:
        faults = str(fault).splitlines()
    TAP.report(name, faults)
    if not faults:
        clear()


def want(condition, what):
    if not condition:
        raise Fault(what)


# ---- in turn ----

class Turns:
    """One image, and what it and its snapshots hold."""

    def __init__(self, options, cluster, has_backing, rng):
        self.rng = rng
        self.cluster = cluster
        self.tools = [Tool(VDISK), Tool()]
        windows = [(0, min(max(16 * cluster, 64 * KIB), 6 * MIB)),
                   (8 * MIB - 64 * KIB, 256 * KIB)]
        self.model = Model(12 * MIB, windows)
        words = ["-f", "qcow2"] + (["-o", options] if options else [])
        if has_backing:
            base = Model(9 * MIB, windows)
            base.fill(0, 64 * KIB, 7)
            base.fill(8 * MIB, 100 * KIB, 8)
            base.write_raw("base.raw")
            self.model = base.overlay(12 * MIB, windows)
            words += ["-b", "base.raw", "-F", "raw"]
        rng.choice(self.tools).run("create", "-q", *words, "image", self.model.size)
        self.snapshots = {}
        self.serial = 0

    def action(self, tool, letter, name):
        tool.run("snapshot", f"-{letter}", name, "image")

    def turn(self):
        tool = self.rng.choice(self.tools)
        script = Script(self.rng, self.model, self.cluster, False)
        tool.io("image", script.commands(tool, self.rng.randint(1, 12)), "qcow2")
        tool = self.rng.choice(self.tools)
        what = self.rng.random()
        names = sorted(self.snapshots)
        if what < 0.5 and len(names) < 5 or not names:
            name = f"snapshot {self.serial}"
            self.serial += 1
            self.action(tool, "c", name)
            self.snapshots[name] = copy.deepcopy(self.model)
        elif what < 0.75:
            name = self.rng.choice(names)
            self.action(tool, "a", name)
            self.model = copy.deepcopy(self.snapshots[name])
        else:
            name = self.rng.choice(names)
            self.action(tool, "d", name)
            del self.snapshots[name]

    def judge(self):
        for tool in self.tools:
            tool.check("image", "qcow2")
        self.rng.choice(self.tools).judge("image", self.model, "qcow2")
        for name, model in self.snapshots.items():
            tool = self.rng.choice(self.tools)
            tool.run("convert", "-l", name, "-O", "raw", "image", "out")
            try:
                model.judge("out")
            except Fault as fault:
                raise Fault(f"{name}, read by {tool.name}: {fault}") from fault


def in_turn(options, cluster, has_backing, rng, rounds):
    turns = Turns(options, cluster, has_backing, rng)
    for number in range(rounds):
        turns.turn()
        try:
            turns.judge()
        except Fault as fault:
            raise Fault(f"turn {number}: {fault}") from fault


# ---- the same words ----

def listing(tool, *words, **env):
    done = subprocess.run([*tool, *words], capture_output=True, text=True, check=False,
                          env={**os.environ, **env})
    return done.returncode, done.stdout


def part_of_info(text):
    """The list in what info prints."""
    found = re.search(r"^Snapshot list:\n(?:.*\n)*?(?=^\S[^\n]*:|\Z)", text, re.MULTILINE)
    return found.group(0) if found else ""


def same_words(path):
    for zone in ("UTC", "Asia/Kolkata", "America/Los_Angeles"):
        ours = listing([VDISK], "snapshot", "-l", path, TZ=zone)
        want(ours == listing(["qemu-img"], "snapshot", "-l", path, TZ=zone),
             f"snapshot -l of {path} with TZ={zone}: {ours[1]}")
        info = listing([VDISK], "info", path, TZ=zone)[1]
        want(part_of_info(info) ==
             part_of_info(listing(["qemu-img"], "info", path, TZ=zone)[1]), f"info: {info}")
    ours = json.loads(must(VDISK, "info", "--output=json", path)).get("snapshots", [])
    theirs = json.loads(must("qemu-img", "info", "--output=json", path)).get("snapshots", [])
    for one in ours:
        del one["virtual-size"]
    want(ours == theirs, f"info as JSON: {ours}, not {theirs}")
    alone = json.loads(must(VDISK, "snapshot", "-l", "--output=json", path))
    want([{k: v for k, v in one.items() if k != "virtual-size"} for one in alone] == theirs,
         f"snapshot -l as JSON: {alone}")


def words_of_qemu():
    must("qemu-img", "create", "-q", "-f", "qcow2", "image", "10M")
    same_words("image")
    for name in ("one", "a name that is longer than the column has room for", "", "ünïcode", "one",
                 "2"):
        must("qemu-img", "snapshot", "-c", name, "image")
    same_words("image")
    must(VDISK, "snapshot", "-c", "ours", "image")
    same_words("image")


def words_of_tables():
    for version in (2, 3):
        image = Image(version=version)
        image.data(0, b"\x11" * image.cluster)
        for number, (state, clock) in enumerate([(0, 0), (1, 999999), (123456, 61 * 10**9),
                                                 (5 * MIB, 36001 * 10**9 + 5 * 10**6),
                                                 (3 << 30, 400 * 3600 * 10**9)]):
            extra = struct.pack(">QQQ", state, image.size, 77 + number) if number % 2 else None
            image.snapshot(f"s{number}", state_bytes=state, clock_nsec=clock, extra=extra,
                           date_nsec=number)
        image.finish().save("image")
        same_words("image")


def disk_byte(path, snapshot=None):
    words = ["-l", snapshot] if snapshot else []
    must(VDISK, "convert", *words, "-O", "raw", path, "out")
    with open("out", "rb") as file:
        return file.read(1)[0]


def names_and_ids():
    """Names that are ids of others."""
    must("qemu-img", "create", "-q", "-f", "qcow2", "first", "1M")
    for byte, name in enumerate(["3", "x", "one", "one", "1"], 1):
        must("qemu-io", "-c", f"write -q -P {byte} 0 64k", "first")
        must("qemu-img", "snapshot", "-c", name, "first")
    for word in ("1", "2", "3", "4", "5", "x", "one", "nothing"):
        for letter in "ad":
            outcomes = []
            for tool in ([VDISK], ["qemu-img"]):
                shutil.copy("first", "image")
                status, _ = listing(tool, "snapshot", f"-{letter}", word, "image")
                left = [one["id"] for one in json.loads(must(
                    "qemu-img", "info", "--output=json", "image")).get("snapshots", [])]
                outcomes.append((status, left, disk_byte("image")))
            # A snapshot that no name means can be deleted by its id.
            if not (letter == "d" and outcomes[1][0] == 1 and word in "245"):
                want(outcomes[0] == outcomes[1], f"-{letter} {word}: {outcomes}")
            else:
                want(outcomes[0][0] == 0 and word not in outcomes[0][1],
                     f"-{letter} {word}: {outcomes}")
    for word in ("1", "4", "x", "one", "snapshot.id=4", "snapshot.name=one", "snapshot.name=1",
                 "snapshot.id=3,snapshot.name=one"):
        must("qemu-img", "convert", "-l", word, "-O", "raw", "first", "theirs")
        must(VDISK, "convert", "-l", word, "-O", "raw", "first", "ours")
        must("cmp", "ours", "theirs")
    for word in ("nothing", "snapshot.id=3,snapshot.name=x", "snapshot.nothing=1"):
        for tool in ([VDISK], ["qemu-img"]):
            want(listing(tool, "convert", "-l", word, "-O", "raw", "first", "out2")[0] == 1,
                 f"{tool}: convert -l {word}")
    want(not os.path.exists("out2"), "a target that was made")


# ---- the state of a machine ----

STATE = bytes(range(256)) * 512  # two clusters


def read_state(path, number):
    """What lies behind the disk in the tables of a snapshot, read from the file itself."""
    with open(path, "rb") as file:
        data = file.read()
    bits, = struct.unpack_from(">I", data, 20)
    cluster = 1 << bits
    at, = struct.unpack_from(">Q", data, 64)
    for _ in range(number):
        fixed = struct.unpack_from(">QIHHIIQII", data, at)
        at += (40 + fixed[8] + fixed[2] + fixed[3] + 7) & ~7
    fixed = struct.unpack_from(">QIHHIIQII", data, at)
    state_bytes, size = struct.unpack_from(">QQ", data, at + 40)
    span = cluster // 8 * cluster
    first = -(-size // span)
    state = b""
    for index in range(first, fixed[1]):
        table = struct.unpack_from(">Q", data, fixed[0] + 8 * index)[0] & 0x00fffffffffffe00
        for entry in range(cluster // 8 if table else 0):
            place = struct.unpack_from(">Q", data, table + 8 * entry)[0] & 0x00fffffffffffe00
            if place:
                state += data[place:place + cluster]
    return state[:state_bytes]


def with_state():
    """An image as QEMU's savevm makes it."""
    image = Image(cluster_bits=16, size=1 * MIB, l1_entries=3)
    image.data(0, b"\x11" * image.cluster)
    image.snapshot("before")
    behind = image.l2_entries
    image.data(behind, STATE[:image.cluster])
    image.data(behind + 1, STATE[image.cluster:])
    image.snapshot("state", state_bytes=len(STATE))
    image.unset(behind)
    image.unset(behind + 1)
    image.data(1, b"\x22" * image.cluster)
    image.finish().save("image")
    Tool().check("image", "qcow2")


def state_is(number):
    want(read_state("image", number) == STATE, "the state of the machine is another one")
    for tool in (Tool(VDISK), Tool()):
        tool.check("image", "qcow2")


def keep_state():
    with_state()
    state_is(1)
    same_words("image")
    must(VDISK, "snapshot", "-c", "more", "image")
    state_is(1)
    must(VDISK, "snapshot", "-a", "state", "image")
    state_is(1)
    must(VDISK, "io", "-c", "write -q -P 5 0 1M", "image")
    state_is(1)
    must(VDISK, "snapshot", "-c", "of now", "image")
    state_is(1)
    must(VDISK, "snapshot", "-d", "before", "image")
    state_is(0)
    must(VDISK, "snapshot", "-a", "more", "image")
    state_is(0)
    want(disk_byte("image") == 0x11, "the disk is not as it was")
    must(VDISK, "snapshot", "-d", "more", "image")
    must("qemu-img", "snapshot", "-a", "state", "image")
    state_is(0)
    must(VDISK, "snapshot", "-d", "state", "image")
    Tool().check("image", "qcow2")


def grow_over_state():
    """A disk that grows over the state reads as zero there, and the snapshot keeps it."""
    with_state()
    must(VDISK, "snapshot", "-a", "state", "image")
    must(VDISK, "resize", "-q", "image", "1G")
    must(VDISK, "convert", "-O", "raw", "image", "out")
    with open("out", "rb") as file:
        file.seek(1 * MIB)
        while piece := file.read(8 * MIB):
            want(not piece.strip(b"\0"), "the state shows")
    state_is(1)
    must(VDISK, "snapshot", "-a", "before", "image")
    want(json.loads(must(VDISK, "info", "--output=json", "image"))["virtual-size"] == 1 * MIB,
         "the size of before")
    state_is(1)


# ---- what contradicts the format ----

def plain(**given):
    image = Image(size=1 * MIB, **given)
    image.data(0, b"\x11" * image.cluster)
    image.data(3, b"\x33" * image.cluster)
    image.snapshot("one")
    image.snapshot("two")
    image.data(0, b"\x22" * image.cluster)
    return image


def refused(command):
    before = hostile.everything()
    status, _, errors, memory = hostile.run(command)
    name = " ".join(command[1:])
    want(status is not None, f"{name}: does not end")
    want(status == 1, f"{name}: status {status}: {errors}")
    want(errors.startswith("vdisk: ") and len(errors.splitlines()) <= 2, f"{name}: {errors}")
    want(memory < hostile.MEMORY_MAX, f"{name}: {memory} bytes of memory")
    want(hostile.everything() == before, f"{name}: a file has changed")


def bad_table(change):
    image = plain()
    image.finish()
    change(image)
    image.save("image")
    for words in (["-l"], ["-c", "x"], ["-a", "one"], ["-d", "one"]):
        refused([VDISK, "snapshot", *words, "image"])
    refused([VDISK, "convert", "-l", "one", "-O", "raw", "image", "out"])


def field(offset, form, value):
    """Of the first entry of the table."""
    return lambda image: image.put(image.snapshots_offset + offset, struct.pack(form, value))


BAD_TABLES = {
    "65537 snapshots": lambda image: image.put(60, struct.pack(">I", 65537)),
    "2^32 - 1 snapshots": lambda image: image.put(60, struct.pack(">I", 0xffffffff)),
    "a table behind the end": lambda image: image.put64(64, 1 << 40),
    "a table that is not aligned": lambda image: image.put64(64, image.snapshots_offset + 8),
    "more snapshots than the table has": lambda image: image.put(60, struct.pack(">I", 60000)),
    "4 GiB of extra data": field(36, ">I", 0xffffffff),
    "1025 bytes of extra data": field(36, ">I", 1025),
    "an L1 table of 2^31 entries": field(8, ">I", 1 << 31),
    "an L1 table of 2^32 - 1 entries": field(8, ">I", 0xffffffff),
    "an L1 table that is not aligned": field(0, ">Q", 0x50200),
    "an L1 table beyond all": field(0, ">Q", 0xffffffffffff0000),
}

BAD_SNAPSHOTS = {
    "an L1 table behind the end": field(0, ">Q", 1 << 40),
    "a disk of 2^63 bytes": field(48, ">Q", 1 << 63),
}


def bad_snapshot(change):
    """The table can be read, and the snapshot can not be used."""
    image = plain()
    image.finish()
    change(image)
    image.save("image")
    must(VDISK, "snapshot", "-l", "image")
    for words in (["-a", "one"], ["-d", "one"]):
        refused([VDISK, "snapshot", *words, "image"])
    refused([VDISK, "convert", "-l", "one", "-O", "raw", "image", "out"])


def leads_astray(place):
    """The tables of a snapshot lead to the image's own tables: nothing of them may be freed."""
    image = plain()
    places = {"header": 0, "L1": image.l1_offset, "refcounts": image.refcount_table}
    table = image.snapshots[0].tables[0]
    image.finish()
    if place == "an L2 table in the refcount table":
        image.put64(image.snapshots[0].l1_offset, image.refcount_table)
    elif place == "reserved bits of L1":
        image.put64(image.snapshots[0].l1_offset, table.offset | 1 << 60)
    elif place == "an L2 table that is not aligned":
        image.put64(image.snapshots[0].l1_offset, table.offset + 512)
    elif place == "an L2 table behind the end":
        image.put64(image.snapshots[0].l1_offset, 1 << 40)
    else:
        image.put64(table.offset + 5 * 8, places[place] or 512)
    image.save("image")
    for words in (["-a", "one"], ["-d", "one"]):
        refused([VDISK, "snapshot", *words, "image"])


# ---- other commands ----

def shape_of(path):
    return json.loads(must("qemu-img", "info", "--output=json", path))


def other_commands():
    must(VDISK, "create", "-q", "-f", "raw", "base", "4M")
    must(VDISK, "io", "-f", "raw", "-c", "write -q -P 9 0 4M", "base")
    must(VDISK, "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "image")
    must(VDISK, "io", "-c", "write -q -P 1 0 1M", "image")
    must(VDISK, "snapshot", "-c", "one", "image")
    must(VDISK, "io", "-c", "write -q -P 2 0 128k", "image")
    must(VDISK, "convert", "-l", "one", "-O", "raw", "image", "one.raw")
    must(VDISK, "resize", "-q", "image", "8M")
    must(VDISK, "convert", "-l", "one", "-O", "raw", "image", "again.raw")
    must("cmp", "one.raw", "again.raw")
    must(VDISK, "resize", "-q", "--shrink", "image", "64k")
    must(VDISK, "convert", "-l", "one", "-O", "raw", "image", "again.raw")
    must("cmp", "one.raw", "again.raw")
    must(VDISK, "snapshot", "-a", "one", "image")
    must(VDISK, "convert", "-O", "raw", "image", "again.raw")
    must("cmp", "one.raw", "again.raw")
    must(VDISK, "commit", "-q", "image")
    want(disk_byte("image") == 1 and disk_byte("image", "one") == 1, "after commit")
    must(VDISK, "convert", "-l", "one", "-O", "raw", "image", "again.raw")
    must("cmp", "one.raw", "again.raw")
    want(len(shape_of("image")["snapshots"]) == 1, "commit keeps snapshots")
    for tool in (Tool(VDISK), Tool()):
        tool.check("image", "qcow2")
    ours = json.loads(must(VDISK, "measure", "-O", "raw", "-l", "one", "--output=json", "image"))
    want(ours["required"] == 4 * MIB, f"measure -l: {ours}")


def old_version():
    """Version 2 does not record how large the disk of a snapshot is, unless somebody has."""
    must(VDISK, "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "image", "4M")
    must(VDISK, "snapshot", "-c", "one", "image")
    before = digest("image")
    status, _ = listing([VDISK], "resize", "image", "8M")
    want(status == 1, "resize of version 2 with snapshots")
    want(digest("image") == before, "the image has changed")
    must(VDISK, "snapshot", "-d", "one", "image")
    must(VDISK, "resize", "-q", "image", "8M")
    Tool().check("image", "qcow2")


def narrow_refcounts():
    must(VDISK, "create", "-q", "-f", "qcow2", "-o", "refcount_bits=1", "image", "4M")
    must(VDISK, "snapshot", "-c", "of nothing", "image")
    must(VDISK, "snapshot", "-d", "of nothing", "image")
    must(VDISK, "io", "-c", "write -q -P 2 0 128k", "image")
    status, _ = listing([VDISK], "snapshot", "-c", "one", "image")
    want(status == 1, "a snapshot with refcounts of one bit")
    for tool in (Tool(VDISK), Tool()):
        tool.check("image", "qcow2")
    want(disk_byte("image") == 2, "the disk")


def data_file():
    must("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=data", "image", "1M")
    refused([VDISK, "snapshot", "-c", "one", "image"])


def bitmaps_of(path):
    data = shape_of(path)["format-specific"]["data"]
    return {one["name"]: (one["flags"], one["granularity"]) for one in data.get("bitmaps", [])}


def bitmaps():
    """Enabled ones are all dirty after going back, and follow the size of the disk."""
    must("qemu-img", "create", "-q", "-f", "qcow2", "image", "4M")
    must("qemu-io", "-c", "write -q -P 1 0 1M", "image")
    must(VDISK, "snapshot", "-c", "one", "image")
    must("qemu-img", "resize", "-q", "image", "8M")
    must("qemu-img", "bitmap", "--add", "image", "on")
    must("qemu-img", "bitmap", "--add", "--disable", "-g", "4k", "image", "off")
    must("qemu-io", "-c", "write -q -P 2 0 64k", "image")
    must(VDISK, "snapshot", "-a", "one", "image")
    want(disk_byte("image") == 1, "the disk")
    kept = {"on": (["auto"], 65536), "off": ([], 4096)}
    want(bitmaps_of("image") == kept, f"the bitmaps: {bitmaps_of('image')}")
    dirty = {one["name"]: (one["dirty-bytes"], one["virtual-size"]) for one in
             json.loads(must(VDISK, "bitmap", "--list", "--output=json", "image"))}
    want(dirty == {"on": (4 * MIB, 4 * MIB), "off": (0, 4 * MIB)}, f"what is dirty: {dirty}")
    for words in (["-c", "two"], ["-d", "one"]):
        must(VDISK, "snapshot", *words, "image")
        want(bitmaps_of("image") == kept, f"the bitmaps after {words}: {bitmaps_of('image')}")
    for tool in (Tool(VDISK), Tool()):
        tool.check("image", "qcow2")


def main():
    seed = os.environ.get("VD_TEST_SEED") or str(time.time_ns())
    rounds = int(os.environ.get("VD_SNAPSHOT_ROUNDS") or 12)
    print(f"# VD_TEST_SEED={seed}")
    folder = tempfile.mkdtemp(prefix="vdisk-snapshots-")
    os.mkdir(f"{folder}/work")
    os.chdir(f"{folder}/work")
    try:
        for options, cluster, has_backing in SHAPES:
            rng = random.Random(f"{seed}/{options}")
            test(f"in turn: {options or 'defaults'}", in_turn, options, cluster, has_backing, rng,
                 rounds)
        test("the same words, of QEMU's and ours", words_of_qemu)
        test("the same words, of states and clocks", words_of_tables)
        test("names and ids", names_and_ids)
        test("the state of a machine is kept", keep_state)
        test("the disk grows over the state of a machine", grow_over_state)
        for name, change in BAD_TABLES.items():
            test(f"refused: {name}", bad_table, change)
        for name, change in BAD_SNAPSHOTS.items():
            test(f"refused: {name}", bad_snapshot, change)
        for place in ("header", "L1", "refcounts", "an L2 table in the refcount table",
                      "reserved bits of L1", "an L2 table that is not aligned",
                      "an L2 table behind the end"):
            test(f"refused: a snapshot that leads astray: {place}", leads_astray, place)
        test("other commands", other_commands)
        test("version 2", old_version)
        test("refcounts of one bit", narrow_refcounts)
        test("a data file", data_file)
        test("bitmaps", bitmaps)
    finally:
        os.chdir("/")
        if not TAP.failures:
            shutil.rmtree(folder)
        else:
            print(f"# what failed is in {folder}")
    sys.exit(TAP.end())


main()
