#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""vdisk check on qcow2 images that were damaged at random, beside qemu-img check.

    tests/interop/test-qcow2-check.py VDISK

Sound images by qemu-img of many kinds (cluster sizes, refcount widths, version 2, snapshots,
compressed clusters, extended L2 entries, bitmaps, a data file) get one to four wrong values each:
in refcounts, L1 and L2 tables, the refcount table, the snapshot table, the header; or lose their
end.  For each of them:

  * the JSON of both checks is the same, number by number, and the exit status too, but for the
    reasons in EXPECTED;
  * vdisk check -r all mends everything: neither tool finds anything after it;
  * what qemu-img could read before, of the disk and of its snapshots, reads the same after, but
    for snapshots whose L1 table is nowhere, which are dropped;
  * a second repair changes nothing.

VD_QCOW2_DAMAGES (160) is the count of images, VD_TEST_SEED the seed of the first.
"""
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

OFFSET = 0x00fffffffffffe00
COPIED = 1 << 63


def run(*args):
    return subprocess.run(args, capture_output=True, text=True, check=False)


def must(*args):
    done = run(*args)
    if done.returncode != 0:
        sys.exit("%s: %s" % (" ".join(args), done.stderr))
    return done


# ---- sound images ----

WRITES = ["write -P 1 0 100k", "write -P 2 300k 50k", "write -P 3 1M 20k", "write -z 200k 40k"]
AGAIN = ["write -P 7 8k 8k", "write -P 8 0 100k", "discard 0 64k"]
PACKED = ["write -c -P %d %dk 4k" % (i + 1, 2048 + 4 * i) for i in range(4)]
PARTS = ["write -P 5 2M 1k", "write -z 1030k 2k", "write -P 5 3M 64k", "write -z 3M 64k"]

# name: (size, options, commands, commands after each snapshot, bitmaps)
BASES = {
    "plain": ("8M", "", WRITES, [], []),
    "4k": ("4M", "cluster_size=4k", WRITES, [], []),
    "512": ("2M", "cluster_size=512", WRITES, [], []),
    "old": ("8M", "compat=0.10,cluster_size=4k", WRITES[:3], [], []),
    "old-snapshots": ("4M", "compat=0.10,cluster_size=4k", WRITES[:3], AGAIN[:2], []),
    "1-bit": ("4M", "refcount_bits=1,cluster_size=4k", WRITES, [], []),
    "2-bit": ("4M", "refcount_bits=2,cluster_size=4k", WRITES, AGAIN[:1], []),
    "8-bit": ("4M", "refcount_bits=8,cluster_size=1k", WRITES, AGAIN[:2], []),
    "64-bit": ("4M", "refcount_bits=64,cluster_size=4k", WRITES, AGAIN[:2], []),
    "snapshots": ("4M", "cluster_size=4k", WRITES, AGAIN, []),
    "snapshots-512": ("1M", "cluster_size=512", WRITES[:2], AGAIN, []),
    "extended": ("8M", "extended_l2=on,cluster_size=16k", WRITES + PARTS, AGAIN[:1], []),
    "compressed": ("4M", "cluster_size=4k", WRITES + PACKED, AGAIN[:1], []),
    "compressed-64k": ("8M", "", ["write -c -P %d %dk 64k" % (i, 64 * i) for i in range(3)], [],
                       []),
    "bitmaps": ("4M", "cluster_size=4k", WRITES, [], ["a", "b"]),
    "bitmap-snapshot": ("8M", "", WRITES, AGAIN[:1], ["a"]),
    "data-file": ("4M", "cluster_size=4k,data_file=base-data-file.raw", WRITES, [], []),
    "metadata": ("8M", "preallocation=metadata", WRITES[:2], [], []),
}


def make_base(name):
    size, options, commands, after, bitmaps = BASES[name]
    path = "base-" + name
    must("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), path,
         size)
    for command in commands:
        must("qemu-io", "-f", "qcow2", "-c", command, path)
    for i, command in enumerate(after):
        must("qemu-img", "snapshot", "-c", "s%d" % i, path)
        must("qemu-io", "-f", "qcow2", "-c", command, path)
    for bitmap in bitmaps:
        must("qemu-img", "bitmap", "--add", path, bitmap)
    if bitmaps:
        must("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 8k", path)
    return path


# ---- damage ----

class Image:
    """The bytes of a sound image, and where its structures are."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = bytearray(file.read())
        get = self.get
        self.version, self.bits = get(4, 4), get(20, 4)
        self.cluster = 1 << self.bits
        self.l1_entries, self.l1, self.reftable = get(36, 4), get(40), get(48)
        self.order = get(96, 4) if self.version > 2 else 4
        self.extended = self.version > 2 and bool(get(72) & 16)
        self.entry = 16 if self.extended else 8
        self.blocks = [block for block in
                       (get(self.reftable + 8 * i) for i in range(get(56, 4) * self.cluster // 8))
                       if block]
        self.snapshots = []
        offset = get(64)
        for _ in range(get(60, 4)):
            self.snapshots.append((offset, get(offset), get(offset + 8, 4)))
            length = 40 + get(offset + 36, 4) + get(offset + 12, 2) + get(offset + 14, 2)
            offset = (offset + length + 7) & ~7
        self.l1s = [(self.l1, self.l1_entries)] + [entry[1:] for entry in self.snapshots]
        self.tables = sorted({get(l1 + 8 * i) & OFFSET for l1, count in self.l1s
                              for i in range(count)} - {0})
        self.clusters = -(-len(self.bytes) // self.cluster)
        self.bitmaps = self.extension(0x23852875)

    def extension(self, wanted):
        """Where the bytes of a header extension are; 0: there is none."""
        offset = self.get(100, 4) if self.version > 2 else 72
        while offset + 8 <= min(self.cluster, len(self.bytes)) and self.get(offset, 4):
            if self.get(offset, 4) == wanted:
                return offset + 8
            offset += 8 + ((self.get(offset + 4, 4) + 7) & ~7)
        return 0

    def get(self, offset, length=8):
        return int.from_bytes(self.bytes[offset:offset + length], "big")

    def put(self, offset, value, length=8):
        if offset + length <= len(self.bytes):
            value &= (1 << 8 * length) - 1
            self.bytes[offset:offset + length] = value.to_bytes(length, "big")

    def place(self, rng):
        """An offset for an entry to lead to: good, unaligned, behind the end, far away."""
        kind = rng.randrange(8)
        if kind < 4:
            return rng.randrange(self.clusters) << self.bits
        if kind == 4:
            return (rng.randrange(self.clusters) << self.bits) + \
                512 * rng.randrange(1, max(2, self.cluster // 512))
        if kind == 5:
            return (self.clusters + rng.randrange(3)) << self.bits
        return rng.randrange(1 << (47 if kind == 6 else 56)) & OFFSET


def damage_refcount(image, rng):
    block = rng.choice(image.blocks) & ~511
    cluster = rng.randrange(image.clusters + 2)
    bit = cluster << image.order
    if image.order >= 3:
        width = 1 << image.order
        value = rng.choice([0, 1, 2, 3, rng.randrange(1 << width)])
        image.put(block + bit // 8, value, width // 8)
        return "refcount %d = %d" % (cluster, value)
    mask = (1 << (1 << image.order)) - 1
    value = rng.randrange(mask + 1)
    old = image.get(block + bit // 8, 1)
    image.put(block + bit // 8, (old & ~(mask << bit % 8)) | value << bit % 8, 1)
    return "refcount %d = %d" % (cluster, value)


def damage_l2(image, rng):
    table = rng.choice(image.tables)
    count = image.cluster // image.entry
    used = [i for i in range(count) if image.get(table + image.entry * i)] or [0]
    index = rng.choice(used) if rng.randrange(4) else rng.randrange(min(count, 64))
    offset = table + image.entry * index
    old = image.get(offset)
    shift = 62 - (image.bits - 8)
    value = [
        lambda: old ^ COPIED, lambda: old ^ (1 << rng.randrange(64)),
        lambda: COPIED | image.place(rng), lambda: image.place(rng), lambda: 0, lambda: old | 1,
        lambda: 1 << 62 | rng.randrange(4) << shift |
        (image.place(rng) + rng.randrange(512)) & ((1 << shift) - 1),
        lambda: image.get(table + image.entry * rng.choice(used)), lambda: rng.randrange(1 << 64),
    ][rng.randrange(9)]()
    image.put(offset, value)
    text = "L2 %#x [%d] = %#x" % (table, index, value)
    if image.extended and rng.randrange(2):
        bits = rng.choice([0, 0xffffffff, 0xffffffff << 32, rng.randrange(1 << 64),
                           image.get(offset + 8) ^ (1 << rng.randrange(64))])
        image.put(offset + 8, bits)
        text += ", %#x" % bits
    return text


def damage_l1(image, rng):
    table, count = rng.choice(image.l1s)
    index = rng.randrange(max(count, 1))
    old = image.get(table + 8 * index)
    value = [old ^ COPIED, old ^ (1 << rng.randrange(64)), COPIED | image.place(rng),
             image.place(rng), 0, (image.tables or [0])[0] | COPIED][rng.randrange(6)]
    image.put(table + 8 * index, value)
    return "L1 %#x [%d] = %#x" % (table, index, value)


def damage_reftable(image, rng):
    index = rng.choice([0, 0, 0, 1, 2])
    offset = image.reftable + 8 * index
    value = [0, image.get(offset) ^ (1 << rng.randrange(64)), image.place(rng), image.blocks[0],
             rng.randrange(1 << 64)][rng.randrange(5)]
    image.put(offset, value)
    return "refcount table [%d] = %#x" % (index, value)


def damage_snapshots(image, rng):
    if not image.snapshots:
        return damage_l2(image, rng)
    offset, _, count = rng.choice(image.snapshots)
    kind = rng.randrange(5)
    if kind == 0:
        value = image.place(rng)
        image.put(offset, value)
        return "a snapshot's L1 table at %#x" % value
    if kind == 1:
        value = rng.choice([0, 1, count + 1, rng.randrange(1 << 32)])
        image.put(offset + 8, value, 4)
        return "a snapshot's L1 entries = %d" % value
    if kind == 2:
        image.put(60, len(image.snapshots) - 1, 4)
        return "one snapshot less"
    if kind == 3:
        image.put(offset, image.snapshots[0][1])
        return "a snapshot has the L1 table of the first"
    value = image.place(rng)
    image.put(64, value)
    return "snapshot table at %#x" % value


def damage_bitmaps(image, rng):
    if not image.bitmaps:
        return damage_refcount(image, rng)
    directory = image.get(image.bitmaps + 16)
    table = image.get(directory)
    offset, length, value = rng.choice([
        (table, 8, image.place(rng)), (table, 8, rng.randrange(1 << 64)), (table, 8, 1),
        (directory, 8, image.place(rng)), (directory + 8, 4, rng.randrange(8)),
        (directory + 12, 4, 1), (image.bitmaps, 4, rng.randrange(4)),
        (image.bitmaps + 8, 8, rng.randrange(128)), (image.bitmaps + 16, 8, image.place(rng))])
    image.put(offset, value, length)
    return "bitmaps: %#x = %#x" % (offset, value)


def damage_header(image, rng):
    offset, length = rng.choice([(40, 8), (48, 8), (56, 4), (36, 4), (60, 4)])
    old = image.get(offset, length)
    if length == 4:
        value = rng.choice([old + 1, old ^ (1 << rng.randrange(32)), 0])
    else:
        value = rng.choice([image.place(rng), old ^ (1 << rng.randrange(64))])
    image.put(offset, value, length)
    return "header %d = %#x" % (offset, value)


def damage_end(image, rng):
    length = rng.randrange(1, 4) * image.cluster // rng.choice([1, 2, 3])
    del image.bytes[len(image.bytes) - length:]
    return "%d bytes less" % length


def damage_features(image, rng):
    if image.version < 3:
        return damage_refcount(image, rng)
    bit = rng.choice([1, 2])
    image.put(72, image.get(72) | bit)
    return "incompatible |= %d" % bit


DAMAGES = [(25, damage_refcount), (35, damage_l2), (15, damage_l1), (8, damage_reftable),
           (7, damage_snapshots), (6, damage_bitmaps), (5, damage_header), (3, damage_end), (2, damage_features)]


def damage(image, rng):
    fn = rng.choices([pair[1] for pair in DAMAGES], [pair[0] for pair in DAMAGES])[0]
    return fn(image, rng)


# ---- the two tools ----

def check(args):
    done = run(*args)
    try:
        found = json.loads(done.stdout)
        found.pop("filename")
        found.pop("format")
    except ValueError:
        found = None
    return done.returncode, found, done.stderr


def theirs(path):
    return check(["qemu-img", "check", "-f", "qcow2", "--output=json", path])


class Ours:
    def __init__(self, vdisk):
        self.vdisk = vdisk

    def check(self, path, *options):
        return check([self.vdisk, "check", "-f", "qcow2", "--output=json", *options, path])


def has_empty_entry(path):
    """Does an L1 entry have bits, but no place?"""
    image = Image(path)
    return any(entry and not entry & OFFSET for l1, count in image.l1s
               for entry in (image.get(l1 + 8 * i) for i in range(min(count, 1 << 22))))


# Why the answers may differ: (reason, f(path, ours, theirs)).
NO_L1 = "what an L1 table that is not in the file has led to can not be told, so nothing is mended"
EXPECTED = [
    (NO_L1, lambda path, ours, theirs: ours[1] is not None and ours[1]["check-errors"] == 1 and
     "the L1 table of the disk" in ours[2] and theirs[0] == 2 and
     "region exceeding the end of the file" in theirs[2]),
    # An image whose header can not be right is not opened; we open it to make refcounts anew.
    ("QEMU refuses a refcount table that can be made anew",
     lambda path, ours, theirs: theirs[1] is None and
     re.search("Reference count table", theirs[2])),
    ("QEMU does not open an image with wrong bitmaps, or ends its check",
     lambda path, ours, theirs: theirs[1] is None and
     re.search("[Bb]itmap|Check failed", theirs[2])),
    ("an L1 table that is not in the file is no image",
     lambda path, ours, theirs: ours[1] is None and "L1 table" in ours[2]),
    ("the header is no refcount table: QEMU takes it for one",
     lambda path, ours, theirs: Image(path).reftable == 0),
    ("the header is no snapshot table: QEMU takes it for one",
     lambda path, ours, theirs: ours[1] is None and "snapshot table at offset 0," in ours[2]),
    ("the header is no L2 table: QEMU takes it for one where an L1 entry has bits, but no place",
     lambda path, ours, theirs: has_empty_entry(path)),
    ("the header is no L1 table: QEMU takes it for one of a snapshot",
     lambda path, ours, theirs: any(l1 == 0 and count for _, l1, count in Image(path).snapshots)),
    ("QEMU can not read zero clusters of version 2, but does not say so",
     lambda path, ours, theirs: "version 2 has no zero clusters" in ours[2]),
    ("QEMU's check does not look for clusters out of place in a data file, which it can not read",
     lambda path, ours, theirs: "not where it has to be in the data file" in ours[2]),
    ("QEMU does not notice tables that are one",
     lambda path, ours, theirs: ours[1] is None and "overlaps the L1 table" in ours[2]),
]


def numbers(found):
    return None if found is None else \
        {key: value for key, value in found.items() if value or key == "check-errors"}


def compare(path, ours, peers):
    """None: the same; else the reason, or '' if there is none."""
    if ours[1] is None and peers[1] is None:
        return None
    if ours[0] == peers[0] and numbers(ours[1]) == numbers(peers[1]):
        return None
    for reason, applies in EXPECTED:
        if applies(path, ours, peers):
            return reason
    return ""


def content(path, snapshots):
    """What qemu-img reads, of the disk and of each snapshot; None: it can not."""
    answer = []
    for snapshot in [None] + snapshots:
        options = ["-l", "snapshot.name=" + snapshot] if snapshot else []
        done = run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", *options, path, "content")
        if done.returncode != 0:
            answer.append(None)
            continue
        with open("content", "rb") as file:
            answer.append(hashlib.sha256(file.read()).hexdigest())
    return answer


# ---- one image ----

def judge(ours, seed, base, tally):
    """The story of what is wrong; empty: nothing."""
    rng = random.Random(seed)
    image = Image(base)
    names = ["s%d" % i for i in range(len(image.snapshots))]
    what = [damage(image, rng) for _ in range(1 if rng.randrange(3) else rng.randrange(2, 5))]
    story = "seed %d: %s: %s" % (seed, base, "; ".join(what))
    with open("image", "wb") as file:
        file.write(image.bytes)
    found, peers = ours.check("image"), theirs("image")
    reason = compare("image", found, peers)
    tally[reason or "same"] = tally.get(reason or "same", 0) + 1
    if reason == "":
        return "%s\nours: %s\nQEMU: %s" % (story, found, peers)
    if found[1] is None:
        return ""
    shutil.copy("image", "peer")
    before = content("peer", names)
    mended = ours.check("image", "-r", "all")
    if found[1].get("check-errors") and (peers[1] is None or reason == NO_L1):
        # What can not be looked at is not mended: it is as before.
        reason = "what neither tool can look at is left as it is"
        tally[reason] = tally.get(reason, 0) + 1
        with open("image", "rb") as file:
            return "" if file.read() == image.bytes else story + ": changed all the same"
    again, peers = ours.check("image"), theirs("image")
    if mended[0] != 0 or again[0] != 0 or peers[0] != 0:
        return "%s: not mended\nrepair: %s\nours: %s\nQEMU: %s" % (story, mended, again, peers)
    after = content("image", names)
    for name, old, new in zip(["the disk"] + names, before, after):
        is_dropped = name != "the disk" and new is None and "dropped" in mended[2]
        if old is not None and old != new and not is_dropped:
            return "%s: the content of %s is not the same\nrepair: %s" % (story, name, mended)
    with open("image", "rb") as file:
        bytes_before = file.read()
    ours.check("image", "-r", "all")
    with open("image", "rb") as file:
        if bytes_before != file.read():
            return story + ": a second repair changes something"
    return ""


def damaged_at_random(ours, report):
    count = int(os.environ.get("VD_QCOW2_DAMAGES", "160"))
    first = int(os.environ.get("VD_TEST_SEED", "20261121"))
    bases = [make_base(name) for name in BASES]
    tally = {}
    stories = []
    for i in range(count):
        story = judge(ours, first + i, bases[i % len(bases)], tally)
        if story:
            stories.append(story)
    print("# seed %d, %d images: %s" % (first, count, tally))
    for story in stories:
        print("# " + story.replace("\n", "\n#   "))
    report("%d damaged images" % count, not stories)


# ---- the bits of the header ----

def dirty(ours, report):
    """A writer with lazy refcounts was killed."""
    must("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "lazy", "8M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 300k", "-c", "flush", "-c", "abort", "lazy")
    report("lazy: the dirty bit is set", Image("lazy").get(72) & 1)
    found, peers = ours.check("lazy"), theirs("lazy")
    report("lazy: both find the same", compare("lazy", found, peers) is None and found[0] == 2)
    before = content("lazy", [])
    shutil.copy("lazy", "written")
    report("lazy: mended", ours.check("lazy", "-r", "all")[0] == 0 and theirs("lazy")[0] == 0)
    report("lazy: clean", Image("lazy").get(72) & 1 == 0)
    report("lazy: content", content("lazy", []) == before)
    done = run(ours.vdisk, "resize", "-f", "qcow2", "written", "9M")
    report("lazy: opened for writing " + done.stderr.strip(), done.returncode == 0)
    report("lazy: and sound", ours.check("written")[0] == 0 and theirs("written")[0] == 0 and
           Image("written").get(72) & 1 == 0)
    must("qemu-img", "resize", "-q", "-f", "qcow2", "lazy", "9M")
    report("lazy: content after that", content("written", []) == content("lazy", []))


def corrupt(ours, report):
    """The corrupt bit goes after a repair of all, and then only."""
    shutil.copy("base-plain", "marked")
    image = Image("marked")
    image.put(72, 2)
    with open("marked", "wb") as file:
        file.write(image.bytes)
    report("corrupt: not written", run(ours.vdisk, "resize", "marked", "9M").returncode == 1)
    report("corrupt: checked", ours.check("marked")[0] == 0)
    report("corrupt: leaks only", ours.check("marked", "-r", "leaks")[0] == 0 and
           Image("marked").get(72) == 2)
    report("corrupt: all", ours.check("marked", "-r", "all")[0] == 0 and
           Image("marked").get(72) == 0)
    report("corrupt: written", run(ours.vdisk, "resize", "marked", "9M").returncode == 0)


def main():
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("1..0 # SKIP no qemu-img")
        return
    ours = Ours(os.path.abspath(sys.argv[1]))
    results = []

    def report(name, passed):
        results.append(passed)
        print("%s %d - %s" % ("ok" if passed else "not ok", len(results), name), flush=True)

    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        damaged_at_random(ours, report)
        dirty(ours, report)
        corrupt(ours, report)
        os.chdir("/")
    print("1..%d" % len(results))
    sys.exit(0 if all(results) else 1)


main()
