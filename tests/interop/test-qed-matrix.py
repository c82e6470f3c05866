#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""QED images written by one tool and read by the other, for every geometry.

    tests/interop/test-qed-matrix.py VDISK

For each pair of cluster size and table size that QEMU accepts, without a backing file, over a raw
one and over a QED one: 500 random operations by one tool, read and checked by the other; then 50
more by the other, read by the first.  Both directions.  The pairs that QEMU wrongly refuses are
tested with vdisk alone.  That QEMU refuses exactly those is a test, too.

VD_QED_MATRIX=full takes all pairs, else a few are taken; VD_QED_OPS (500) is the count of
operations, VD_TEST_SEED the seed.  With "-" for VDISK, QEMU plays both parts, which tests this
test.
"""
import os
import random
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
from disk_model import Fault, Model, Script, Tool
from tap import Tap, work_folder

CLUSTERS = [1 << bits for bits in range(12, 27)]
TABLES = [1, 2, 4, 8, 16]
BACKINGS = ["none", "raw", "qed"]
RAW_MAX = 8 << 40  # longer raw files cannot be made everywhere

# Without VD_QED_MATRIX=full: the corners, the default, and some between.
FEW = {(4096, 1), (4096, 2), (16384, 8), (65536, 4), (262144, 16), (4 << 20, 2), (4 << 20, 4),
       (64 << 20, 4)}


def qemu_should_take(cluster, table):
    """QEMU opens no table of one cluster, and computes the largest disk modulo 2^64."""
    entries = cluster * table // 8
    return table > 1 and (entries * entries * cluster) % (1 << 64) != 0


def geometry(cluster, table, rng):
    """(size, windows): the start of the disk, and a place where a second L2 table begins."""
    room = 64 * cluster if cluster <= 65536 else max(4 << 20, 2 * cluster)
    if cluster > 4 << 20:
        room = 1 << 20
    border = cluster * (cluster * table // 8)
    if border > RAW_MAX or cluster > 4 << 20:
        border = cluster * 5
    border = max(border, 2 * room)
    size = border + room // 2 - 512 * rng.randrange(min(cluster // 512, 200))
    return size, [(0, room), (border - room // 2, size - border + room // 2)]


def clip(size, windows):
    """The windows of a shorter disk."""
    clipped = [(start, min(length, size - start)) for start, length in windows if start < size]
    return size, clipped


class Cell:
    """One geometry, one kind of backing file, one direction."""

    def __init__(self, pair, backing, writer, reader, seed, operations):
        self.cluster, self.table = pair
        self.backing = backing
        self.writer, self.reader = writer, reader
        self.operations = operations
        self.name = (f"cluster {self.cluster}, table {self.table}, backing {backing}: "
                     f"{writer.name} writes, {reader.name} reads")
        self.rng = random.Random(f"{seed}/{self.name}")

    def option(self):
        return f"cluster_size={self.cluster},table_size={self.table}"

    def make_backing(self, size, windows):
        """A backing file, shorter or longer than the disk, by the tool that will not write to the
        overlay.  Returns its model."""
        rng = self.rng
        size = rng.choice([size, size - size // 1024 // 512 * 512, size + 512 * 77,
                           windows[0][1] // 2])
        model = Model(*clip(size, windows))
        if self.backing == "qed":
            self.reader.run("create", "-q", "-f", "qed", "-o", self.option(), "base", size)
            script = Script(rng, model, self.cluster, careful=False)
            self.reader.io("base", script.commands(self.reader, 60))
            self.reader.check("base")
        else:
            script = Script(rng, model, 65536, careful=False)
            for _ in range(40):
                script.write(self.reader)
            model.write_raw("base")
        return model

    def make(self):
        size, windows = geometry(self.cluster, self.table, self.rng)
        words = ["create", "-q", "-f", "qed", "-o", self.option()]
        model = Model(size, windows)
        if self.backing != "none":
            model = self.make_backing(size, windows).overlay(size, windows)
            words += ["-b", "base", "-F", self.backing]
        self.writer.run(*words, "image", size)
        return model

    def run(self):
        model = self.make()
        before = fingerprint("base") if self.backing != "none" else None
        script = Script(self.rng, model, self.cluster, careful=self.backing != "none")
        for writer, reader, count in ((self.writer, self.reader, self.operations),
                                      (self.reader, self.writer, self.operations // 10)):
            writer.io("image", script.commands(writer, count))
            for tool in (reader, writer):
                tool.check("image")
                tool.judge("image", model)
            reader.io("image", script.reads(40), read_only=True)
        if before and fingerprint("base") != before:
            raise Fault("the backing file was changed")


def fingerprint(path):
    """Enough to notice a change of a large sparse file."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def qemu_takes(cluster, table):
    """Does QEMU create such an image, and open it?"""
    created = subprocess.run(["qemu-img", "create", "-q", "-f", "qed", "-o",
                              f"cluster_size={cluster},table_size={table}", "image", "1M"],
                             capture_output=True, check=False)
    opened = subprocess.run(["qemu-img", "check", "-q", "-f", "qed", "image"],
                            capture_output=True, check=False)
    return created.returncode == 0 and opened.returncode == 0


def test_pairs(tap):
    wrong = [pair for pair in ((cluster, table) for cluster in CLUSTERS for table in TABLES)
             if qemu_takes(*pair) != qemu_should_take(*pair)]
    tap.report("QEMU refuses the pairs that it is known to refuse wrongly, and no other",
               f"not so: {wrong}" if wrong else None)


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("1..0 # SKIP no qemu-img")
        return 0
    qemu = Tool()
    ours = Tool() if sys.argv[1] == "-" else Tool(os.path.realpath(sys.argv[1]))
    seed = os.environ.get("VD_TEST_SEED", str(time.time_ns() % 100000))
    operations = int(os.environ.get("VD_QED_OPS", "500"))
    full = os.environ.get("VD_QED_MATRIX") == "full"
    print(f"# VD_TEST_SEED={seed} VD_QED_OPS={operations}")

    tap = Tap()
    common = [pair for pair in ((cluster, table) for cluster in CLUSTERS for table in TABLES)
              if qemu_should_take(*pair)]
    alone = [(cluster, table) for cluster in CLUSTERS for table in TABLES
             if not qemu_should_take(cluster, table)]
    print(f"# {len(common)} pairs that both accept; {len(alone)} that QEMU wrongly refuses:")
    print(f"# {' '.join(f'{cluster >> 10}Kx{table}' for cluster, table in alone)}")
    cells = [(pair, *tools) for pair in common for tools in ((ours, qemu), (qemu, ours))]
    if ours.name != "qemu":
        cells += [(pair, ours, ours) for pair in alone]
    with work_folder("qed-matrix"):
        test_pairs(tap)
        for pair, writer, reader in cells:
            if not full and pair not in FEW:
                continue
            for backing in BACKINGS:
                cell = Cell(pair, backing, writer, reader, seed, operations)
                tap.attempt(cell.name, cell.run)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
