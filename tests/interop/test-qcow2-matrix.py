#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""qcow2 images written by one tool and read by the other, for every feature and geometry.

    tests/interop/test-qcow2-matrix.py VDISK

A cell is a feature of the format, a cluster size, a version and a refcount width, and a direction.
One tool makes the image and does random writes, zeros and discards; both read all of it as it was
written, find nothing wrong, and tell the same of it: every field of the JSON of qemu-img's info
(of the whole chain), map and check is in vdisk's, with the same value.  Then the other tool goes on
writing, and both read again.

VD_QCOW2_MATRIX=full takes all cells (more than 300 in each direction), else each feature is taken
once in each direction; VD_QCOW2_OPS (60) is the count of operations, VD_TEST_SEED the seed.  With
"-" for VDISK, QEMU plays both parts, which tests this test.
"""
import copy
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

CLUSTERS = [512, 1024, 4096, 16384, 65536, 512 << 10, 2 << 20]
WIDTHS = [1, 2, 4, 8, 32, 64]  # besides 16
F = "qcow2"


class Feature:
    """What is special about an image."""

    def __init__(self, name, options="", **given):
        self.name = name
        self.options = options
        self.version_2 = given.pop("version_2", True)     # may it be of version 2?
        self.cluster_min = given.pop("cluster_min", 512)
        self.width_min = given.pop("width_min", 1)
        self.is_small = given.pop("is_small", False)      # all of the disk takes space
        self.backing = given.pop("backing", None)         # (format, size: of the image's)
        self.packed = given.pop("packed", False)          # begins as a compressed copy
        self.snapshots = given.pop("snapshots", 0)
        self.bitmaps = given.pop("bitmaps", 0)
        self.data_file = given.pop("data_file", None)     # "plain" or "raw"
        self.rest = given.pop("rest", 1.0)                # of a cluster that is in the disk
        assert not given, given


FEATURES = [
    Feature("plain"),
    Feature("metadata preallocated", "preallocation=metadata", is_small=True),
    Feature("space preallocated", "preallocation=falloc", is_small=True),
    Feature("zeros preallocated", "preallocation=full", is_small=True),
    Feature("lazy refcounts", "lazy_refcounts=on", version_2=False),
    Feature("zlib", packed=True),
    Feature("zstd", "compression_type=zstd", version_2=False, packed=True),
    Feature("extended L2", "extended_l2=on", version_2=False, cluster_min=16384),
    Feature("extended L2, zstd", "extended_l2=on,compression_type=zstd", version_2=False,
            cluster_min=16384, packed=True),
    Feature("extended L2, preallocated", "extended_l2=on,preallocation=metadata",
            version_2=False, cluster_min=16384, is_small=True),
    Feature("extended L2 on qcow2", "extended_l2=on", version_2=False, cluster_min=16384,
            backing=(F, 1.0)),
    Feature("data file", version_2=False, data_file="plain", is_small=True),
    Feature("raw data file", version_2=False, data_file="raw", is_small=True),
    Feature("extended L2, data file", "extended_l2=on", version_2=False, cluster_min=16384,
            data_file="plain", is_small=True),
    Feature("on raw", backing=("raw", 1.0)),
    Feature("on a shorter raw", backing=("raw", 0.4)),
    Feature("on qcow2", backing=(F, 1.0)),
    Feature("on a shorter qcow2", backing=(F, 0.4)),
    Feature("on a longer qcow2", backing=(F, 1.5)),
    Feature("on a longer raw", "lazy_refcounts=on", version_2=False, backing=("raw", 1.5)),
    Feature("snapshots", snapshots=3, width_min=4),
    Feature("snapshots, compressed", snapshots=2, packed=True, width_min=16),
    Feature("snapshots, extended L2", "extended_l2=on", version_2=False, cluster_min=16384,
            snapshots=2, width_min=4),
    Feature("snapshots on qcow2", snapshots=2, width_min=4, backing=(F, 1.0)),
    Feature("bitmaps", version_2=False, bitmaps=3),
    Feature("bitmaps and snapshots", version_2=False, bitmaps=2, snapshots=1, width_min=2),
]


def geometry(feature, cluster, rng):
    """(size, windows): the start of the disk, and a place where a second L2 table begins."""
    room = 64 * cluster if cluster <= 65536 else max(4 << 20, 2 * cluster)
    entry = 16 if "extended_l2" in feature.options else 8
    border = cluster * (cluster // entry)
    if feature.is_small and border > 16 << 20:
        border = 0
    border = max(border, 2 * room)
    size = border + room // 2 - 512 * rng.randrange(min(cluster // 512, 200))
    return size, [(0, room), (border - room // 2, size - border + room // 2)]


def clip(size, windows):
    """The windows of a disk of another size."""
    return size, [(start, min(length, size - start)) for start, length in windows if start < size]


# --- what the tools tell of an image ------------------------------------------------------------

def canonical_map(entries):
    """Neighbours that say the same, as one: where a tool cuts is its own business.  Left out are
    - where zeros would lie: vdisk tells it only of zeros that the image has, not of subclusters
      that it has not, nor behind the end of the file;
    - whether data is a hole of the file: vdisk always looks, QEMU only if it believes that the
      image's metadata was preallocated;
    - the one entry of length 0 that QEMU has for a disk of no bytes."""
    merged = []
    for entry in entries:
        entry = {key: value for key, value in entry.items() if entry["length"] and
                 not (key == "zero" and entry["data"]) and
                 not (key == "offset" and not entry["data"])}
        if not entry:
            continue
        last = merged[-1] if merged else None
        if last and all(last.get(key) == entry.get(key)
                        for key in ("depth", "present", "zero", "data", "compressed")):
            follows = ("offset" in last) == ("offset" in entry)
            if follows and "offset" in last:
                follows = last["offset"] + last["length"] == entry["offset"]
            if follows:
                last["length"] += entry["length"]
                continue
        merged.append(entry)
    return merged


def differences(theirs, ours, where=""):
    """Yields what QEMU tells and vdisk does not, or not so."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key, value in theirs.items():
            if key not in ours:
                yield f"{where}.{key}: {value!r}, which vdisk lacks"
            else:
                yield from differences(value, ours[key], f"{where}.{key}")
    elif isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            yield f"{where}: {len(theirs)} entries, vdisk has {len(ours)}: {theirs} {ours}"[:600]
        for number, (one, other) in enumerate(zip(theirs, ours)):
            yield from differences(one, other, f"{where}[{number}]")
    elif theirs != ours:
        yield f"{where}: {theirs!r}, vdisk has {ours!r}"


def judge_words(qemu, ours, image, has_backing):
    """Fault if the tools do not tell the same of the image."""
    for words in ([["info"], ["map"], ["check"]] +
                  ([["info", "--backing-chain"]] if has_backing else [])):
        told = [json.loads(tool.run(*words, "--output=json", "-f", F, image))
                for tool in (qemu, ours)]
        if words == ["map"]:
            told = [canonical_map(entries) for entries in told]
        faults = list(differences(*told, where=" ".join(words)))
        if faults:
            raise Fault("; ".join(faults[:3]))


# --- cells --------------------------------------------------------------------------------------

class Cell:
    """One image, one direction."""

    def __init__(self, feature, cluster, width, tools, **given):
        self.feature = feature
        self.cluster = cluster
        self.version = given["version"]
        self.width = width
        self.writer, self.reader = tools
        self.operations = given["operations"]
        self.name = (f"{feature.name}, cluster {cluster}, version {self.version}, refcounts of "
                     f"{width} bits: {self.writer.name} writes, {self.reader.name} reads")
        self.rng = random.Random(f"{given['seed']}/{self.name}")
        self.kept = {}  # snapshot: model
        self.names = 0  # given so far

    def options(self):
        words = [f"cluster_size={self.cluster}", f"compat={['0.10', '1.1'][self.version - 2]}",
                 f"refcount_bits={self.width}"]
        if self.feature.options:
            words.append(self.feature.options)
        if self.feature.data_file:
            words.append("data_file=image.data")
        if self.feature.data_file == "raw":
            words.append("data_file_raw=on")
        return ",".join(words)

    def make_backing(self, size, windows):
        """Returns the model of the backing file that was made."""
        rng = self.rng
        form, part = self.feature.backing
        size = size if part == 1.0 else int(size * part) // 512 * 512
        model = Model(*clip(size, windows))
        if form == "raw":
            script = Script(rng, model, 65536, careful=False)
            for _ in range(20):
                script.write(self.reader)
            model.write_raw("base")
            return model
        cluster = rng.choice([self.cluster, self.cluster, 65536, 4096])
        self.reader.run("create", "-q", "-f", F, "-o", f"cluster_size={cluster}", "base", size)
        script = Script(rng, model, cluster, careful=False)
        self.reader.io("base", script.commands(self.reader, 30), F)
        return model

    def make(self):
        """Returns the model of the image that was made."""
        feature = self.feature
        size, windows = geometry(feature, self.cluster, self.rng)
        model = Model(size, windows)
        if feature.packed:
            script = Script(self.rng, model, self.cluster, careful=False)
            for _ in range(self.operations // 2):
                script.write(self.writer)
            model.write_raw("packed.raw")
            self.writer.run("convert", "-c", "-f", "raw", "-O", F, "-o", self.options(),
                            "packed.raw", "image")
            return model
        words = ["create", "-q", "-f", F, "-o", self.options()]
        if feature.backing:
            model = self.make_backing(size, windows).overlay(size, windows)
            words += ["-b", "base", "-F", feature.backing[0]]
        self.writer.run(*words, "image", size)
        return model

    def change(self, tool, script, count):
        """Operations, with snapshots and bitmaps among them."""
        feature = self.feature
        times = max(feature.snapshots, feature.bitmaps, 1)
        for number in range(times):
            self.names += 1
            name = f"{tool.name}{self.names}"
            if number < feature.bitmaps:
                tool.run("bitmap", "--add", "-f", F, *self.rng.choice([[], ["-g", "512"],
                                                                       ["-g", "1M"]]),
                         "image", name)
                if number == 1:
                    tool.run("bitmap", "--disable", "-f", F, "image", name)
            tool.io("image", script.commands(tool, count // times), F)
            if number < feature.snapshots:
                tool.run("snapshot", "-c", name, "image")
                self.kept[name] = copy.deepcopy(script.model)
                tool.io("image", script.commands(tool, count // times // 2), F)

    def judge(self, model):
        """Both tools read the disk as it is, and its snapshots as they were."""
        qemu, ours = sorted((self.writer, self.reader), key=lambda tool: not tool.is_qemu)
        for tool in (self.reader, self.writer):
            tool.check("image", F)
            tool.judge("image", model, F)
        judge_words(qemu, ours, "image", bool(self.feature.backing))
        for name, kept in self.kept.items():
            for tool in (self.reader, self.writer):
                tool.run("convert", "-l", name, "-f", F, "-O", "raw", "image", "out")
                try:
                    kept.judge("out")
                except Fault as fault:
                    raise Fault(f"snapshot {name} read by {tool.name}: {fault}") from fault
        if self.feature.data_file == "raw":
            shutil.copyfile("image.data", "data")
            os.truncate("data", model.size)  # it has whole clusters
            model.judge("data")

    def run(self):
        model = self.make()
        before = fingerprint("base") if self.feature.backing else None
        script = Script(self.rng, model, self.cluster, careful=False)
        for writer, reader, count in ((self.writer, self.reader, self.operations),
                                      (self.reader, self.writer, self.operations // 4)):
            self.change(writer, script, count)
            self.judge(model)
            reader.io("image", script.reads(20), F, read_only=True)
        for number, name in enumerate(list(self.kept)):
            if number % 2:
                (self.writer, self.reader)[number // 2 % 2].run("snapshot", "-d", name, "image")
                del self.kept[name]
        if self.kept and not self.feature.bitmaps:
            name = self.rng.choice(list(self.kept))
            self.rng.choice((self.writer, self.reader)).run("snapshot", "-a", name, "image")
            model = copy.deepcopy(self.kept[name])
        if self.kept:
            self.judge(model)
            script = Script(self.rng, model, self.cluster, careful=False)
            self.writer.io("image", script.commands(self.writer, 20), F)
            self.judge(model)
        if before and fingerprint("base") != before:
            raise Fault("the backing file was changed")


def fingerprint(path):
    """Enough to notice a change of a large sparse file."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def geometries(feature, rng):
    """Yields (cluster, version, width) of all cells of a feature."""
    widths = [width for width in WIDTHS if width >= feature.width_min]
    for cluster in CLUSTERS:
        if cluster < feature.cluster_min:
            continue
        yield cluster, 3, 16
        yield cluster, 3, rng.choice(widths)
        if feature.version_2:
            yield cluster, 2, 16
        else:
            yield cluster, 3, rng.choice(widths)


def cells(tools, full, seed, operations):
    """All, or for each feature one of each direction, at random."""
    rng = random.Random(seed)
    for feature in FEATURES:
        chosen = list(geometries(feature, rng))
        for direction in (tools, tools[::-1]):
            for cluster, version, width in chosen if full else [rng.choice(chosen)]:
                yield Cell(feature, cluster, width, direction, version=version, seed=seed,
                           operations=operations)


def test_sizes(tap, tools):
    """Disks of sizes that are no whole clusters, or nothing at all."""
    for writer, reader in (tools, tools[::-1]):
        for cluster in (512, 65536, 2 << 20):
            for size in (0, 512, cluster - 512, cluster, cluster + 512, 3 * cluster,
                         cluster * (cluster // 8), cluster * (cluster // 8) + 512):
                def cell(writer=writer, reader=reader, cluster=cluster, size=size):
                    writer.run("create", "-q", "-f", F, "-o", f"cluster_size={cluster}", "image",
                               size)
                    model = Model(size, [(max(size - 512, 0), min(size, 512))])
                    if size:
                        model.fill(size - 512, 512, 7)
                        writer.io("image", [f"write -P 7 {size - 512} 512"], F)
                    for tool in (reader, writer):
                        tool.check("image", F)
                        tool.judge("image", model, F)
                    qemu, ours = sorted(tools, key=lambda tool: not tool.is_qemu)
                    judge_words(qemu, ours, "image", False)
                tap.attempt(f"size {size}, cluster {cluster}: {writer.name} writes, {reader.name} "
                            "reads", cell)


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
    operations = int(os.environ.get("VD_QCOW2_OPS", "60"))
    full = os.environ.get("VD_QCOW2_MATRIX") == "full"
    print(f"# VD_TEST_SEED={seed} VD_QCOW2_OPS={operations}")
    tap = Tap()
    with work_folder("qcow2-matrix"):
        test_sizes(tap, (ours, qemu))
        for cell in cells((ours, qemu), full, seed, operations):
            tap.attempt(cell.name, cell.run)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
