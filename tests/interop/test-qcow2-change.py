#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""qcow2 images of every kind, written by both tools, then amended and compacted.

    tests/interop/test-qcow2-change.py VDISK

Each kind is a cluster size, a refcount width, a version, extended L2 entries or not, a data file or
not, preallocation, and a backing file (none, raw, qcow2).  Random operations by one tool, read and
checked by both; then some by the other.  What `info` and `map` say as JSON has to agree on every
field that both have.  Then vdisk changes the version or the width of the refcounts, and compacts the
image: it is as sound as before, and reads the same.

VD_QCOW2_CHANGE=full takes all 262 kinds, which makes 524 images; else 20 are taken at random;
VD_QCOW2_CHANGE_OPS (60) is the count of operations, VD_TEST_SEED the seed.
"""
import itertools
import json
import os
import random
import shutil
import sys
import time

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
from disk_model import Fault, Model, Script, Tool
from tap import Tap, work_folder

CLUSTERS = [512, 4096, 65536, 2 << 20]
WIDTHS = [1, 2, 4, 8, 16, 32, 64]
SOME = 20


def kinds():
    """All of them: (cluster, refcount bits, compat, extended, data file, preallocation, backing)"""
    for cluster, compat, backing in itertools.product(CLUSTERS, ["0.10", "1.1"],
                                                      ["none", "raw", "qcow2"]):
        yield cluster, 16, compat, False, False, "off", backing
        if compat == "0.10":
            continue
        for width in WIDTHS:
            for extended in (False, True):
                if extended and cluster < 16384:
                    continue
                if backing == "none":
                    yield cluster, width, compat, extended, True, "off", backing
                    for preallocation in ("metadata", "falloc"):
                        if cluster > 512:
                            yield cluster, width, compat, extended, False, preallocation, backing
                yield cluster, width, compat, extended, False, "off", backing


class Cell:
    """One image, and one direction."""

    def __init__(self, kind, writer, reader, ours, seed, operations):
        (self.cluster, self.width, self.compat, self.extended, self.data_file,
         self.preallocation, self.backing) = kind
        self.writer, self.reader, self.ours = writer, reader, ours
        self.operations = operations
        self.name = f"{self.option()}, backing {self.backing}: {writer.name} writes"
        self.rng = random.Random(f"{seed}/{self.name}")

    def option(self):
        words = [f"cluster_size={self.cluster}", f"compat={self.compat}"]
        if self.width != 16:
            words.append(f"refcount_bits={self.width}")
        if self.extended:
            words.append("extended_l2=on")
        if self.data_file:
            words.append("data_file=data")
        if self.preallocation != "off":
            words.append(f"preallocation={self.preallocation}")
        return ",".join(words)

    def geometry(self):
        """(size, windows): the start of the disk, and where the second L2 table begins."""
        border = self.cluster * (self.cluster // (16 if self.extended else 8))
        room = min(max(64 * self.cluster, 64 << 10), 4 << 20)
        if border > 1 << 30 or self.preallocation != "off":
            border = 5 * room
        size = max(border, 2 * room) + room // 2 - 512 * self.rng.randrange(40)
        border = max(border, 2 * room)
        return size, [(0, room), (border - room // 2, size - border + room // 2)]

    def make(self):
        size, windows = self.geometry()
        words = ["create", "-q", "-f", "qcow2", "-o", self.option()]
        model = Model(size, windows)
        if self.backing != "none":
            script = Script(self.rng, model, self.cluster, careful=False)
            if self.backing == "qcow2":
                self.reader.run("create", "-q", "-f", "qcow2", "base", size)
                self.reader.io("base", script.commands(self.reader, 40), "qcow2")
            else:
                for _ in range(40):
                    script.write(self.reader)
                model.write_raw("base")
            model = model.overlay(size, windows)
            words += ["-b", "base", "-F", self.backing]
        self.writer.run(*words, "image", size)
        return model

    def judge(self, model):
        for tool in (self.reader, self.writer):
            tool.check("image", "qcow2")
            tool.judge("image", model, "qcow2")

    def run(self):
        model = self.make()
        script = Script(self.rng, model, self.cluster, careful=False)
        for writer, count in ((self.writer, self.operations), (self.reader, self.operations // 3)):
            writer.io("image", script.commands(writer, count), "qcow2")
            self.judge(model)
        compare_info(self.writer, self.reader)
        if self.preallocation == "off":
            compare_map(self.writer, self.reader)
        self.change()
        self.judge(model)

    def change(self):
        if self.compat == "0.10":
            self.ours.run("amend", "-q", "-o", f"compat=1.1,refcount_bits={self.rng.choice(WIDTHS)}",
                          "image")
        else:
            self.ours.run("amend", "-q", "-o", f"refcount_bits={self.rng.choice(WIDTHS)}", "image")
        if not self.extended and not self.data_file and self.rng.random() < 0.5:
            self.ours.run("amend", "-q", "-o", "compat=0.10,refcount_bits=16", "image")
        self.ours.run("compact", "-q", "image")


def compare_info(one, other):
    told = [json.loads(tool.run("info", "--output=json", "-f", "qcow2", "image"))
            for tool in (one, other)]
    for key in told[0].keys() & told[1].keys():
        if told[0][key] != told[1][key]:
            raise Fault(f"info: {key}: {one.name} says {told[0][key]}, "
                        f"{other.name} {told[1][key]}")


def runs(tool):
    """What map says, neighbours of one kind put together.

    Whether data is a hole in the file, and so zero, QEMU looks at only where it guesses that an
    image was preallocated; and it tells where zero clusters would be."""
    merged = []
    for entry in json.loads(tool.run("map", "--output=json", "-f", "qcow2", "image")):
        is_data = entry["data"]
        state = entry["depth"], entry["present"], is_data, is_data or entry["zero"]
        offset = entry.get("offset") if is_data else None
        if merged:
            last = merged[-1]
            follows = offset is None if last[3] is None else offset == last[3] + last[1]
            if last[2] == state and follows:
                last[1] += entry["length"]
                continue
        merged.append([entry["start"], entry["length"], state, offset])
    return merged


def compare_map(one, other):
    told = runs(one), runs(other)
    if told[0] != told[1]:
        differ = next((pair for pair in zip(*told) if pair[0] != pair[1]), "lengths")
        raise Fault(f"map: {one.name} and {other.name} differ: {differ}")


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("1..0 # SKIP no qemu-img")
        return 0
    qemu, ours = Tool(), Tool(os.path.realpath(sys.argv[1]))
    seed = os.environ.get("VD_TEST_SEED", str(time.time_ns() % 100000))
    operations = int(os.environ.get("VD_QCOW2_CHANGE_OPS", "60"))
    chosen = list(kinds())
    print(f"# VD_TEST_SEED={seed} VD_QCOW2_CHANGE_OPS={operations}; {len(chosen)} kinds")
    if os.environ.get("VD_QCOW2_CHANGE") != "full":
        chosen = random.Random(seed).sample(chosen, SOME)
    tap = Tap()
    with work_folder("qcow2-change"):
        for kind in chosen:
            for writer, reader in ((ours, qemu), (qemu, ours)):
                cell = Cell(kind, writer, reader, ours, seed, operations)
                tap.attempt(cell.name, cell.run)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
