#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One disk after the other is backed up again and again, while it changes in between.

    tests/interop/test-backup-soak.py VDISK [KIND]...

Between two backups there are random writes, zeros, discards, resizes, and snapshots that are made,
applied and deleted, by `vdisk io` and by QEMU; now and then an older copy of the image is put in its
place, as somebody does who has restored it.  The digest of the whole disk is recorded each time. In
the end every point is restored, and read by qemu-img as it stands, and compared; then points are
merged and pruned at random, and what is kept is compared once more.

VD_SOAK_FULLS, VD_SOAK_INCREMENTALS  of the qcow2 disk (default 3 and 40; 64 and 900 for a full run)
VD_SOAK_MERGES  merges and prunes (default 12; 200 for a full run)
VD_TEST_SEED    seed (default: the time)
"""
import os
import random
import shutil
import subprocess
import sys
import time

from backups import GRANULE, MIB, Disk, Repository, run
from tap import Fault, Tap, clear, work_folder

FULLS = int(os.environ.get("VD_SOAK_FULLS", "3"))
INCREMENTALS = int(os.environ.get("VD_SOAK_INCREMENTALS", "40"))
MERGES = int(os.environ.get("VD_SOAK_MERGES", "12"))
SEED = int(os.environ.get("VD_TEST_SEED", str(int(time.time()))))

KINDS = {
    # name: (format, options, size, fulls, incrementals, formats of points)
    "qcow2": ("qcow2", (), 48 * MIB, FULLS, INCREMENTALS, ("qcow2",)),
    "qcow2-4k": ("qcow2", ("-o", "cluster_size=4k,extended_l2=off"), 12 * MIB, 1, 8,
                 ("qcow2", "qed")),
    "gow3": ("gow3", (), 24 * MIB, 2, 8, ("qcow2",)),
    "add-cow": ("add-cow", ("-o", "backing_file=base.raw,backing_fmt=raw,image_file=own.raw"),
                24 * MIB, 1, 8, ("qcow2",)),
}


class Soak:
    """The life of one disk."""

    def __init__(self, program, kind):
        image_format, options, size, self.fulls, self.incrementals, self.formats = KINDS[kind]
        self.rng = random.Random(f"{SEED} {kind}")
        self.program = program
        if image_format == "add-cow":
            run(program, "create", "-q", "-f", "raw", "base.raw", size)
            run(program, "io", "-f", "raw", "-c", "write -q -P 77 1M 9M", "base.raw")
        self.disk = Disk(program, self.rng, image_format, size, options)
        self.repository = Repository(program, "repository")
        self.copy = None  # of the image, from some time ago: its size, snapshots, and known points
        self.known = set()  # the points since which the bitmaps of the image tell what has changed
        self.parents = {}
        self.seconds = 0.0
        self.counts = {}

    def options(self, is_full):
        """Of the next backup."""
        rng = self.rng
        options = ["-O", rng.choice(self.formats)]
        if options[1] == "qcow2" and rng.random() < 0.25:
            options.append("-c")
        if is_full:
            options.append("--full")
        elif rng.random() < 0.12:
            options.append("--differential")
        elif rng.random() < 0.05:
            options.append("--compare")
        return options

    def backup(self, is_full):
        disk, repository = self.disk, self.repository
        now = disk.digest(by_qemu=disk.format == "qcow2" and self.rng.random() < 0.2)
        before = max(repository.points, default=0)
        options = self.options(is_full)
        if not self.has_record(options, before):
            self.refused(options)
            options = [*options[:2], "--compare"]
        begun = time.monotonic()
        told = repository.backup(disk.image, now, *options)
        self.seconds += time.monotonic() - begun
        kind = "full" if is_full else \
            "differential" if "--differential" in options else "incremental"
        wanted = {"point": before + 1, "kind": kind, "virtual-size": disk.size, "resumed": False}
        if kind == "incremental":
            wanted["parent"] = before
        for key, value in wanted.items():
            if told[key] != value:
                raise Fault(f"backup {' '.join(options)}: {key} is {told[key]}, not {value}")
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.parents[told["point"]] = told["parent"]
        # That of the full one stays, where it is.
        self.known = {told["point"]} | (self.known & {self.below(told["point"])[-1]})
        self.judge_cost(told, kind, options)
        disk.touched = set()

    def below(self, number):
        """The points that one lies on, itself first, as they were made."""
        chain = [number]
        while self.parents[chain[-1]]:
            chain.append(self.parents[chain[-1]])
        return chain

    def has_record(self, options, before):
        """Do the bitmaps of the image tell what has changed since the parent, or one below it?"""
        if self.disk.format != "qcow2" or "--full" in options or "--compare" in options:
            return True
        chain = self.below(before)
        if "--differential" in options:
            chain = chain[-1:]
        return not self.known.isdisjoint(chain)

    def refused(self, options):
        """Nobody can tell what has changed."""
        done = subprocess.run([self.program, "backup", *options, self.disk.image, "repository"],
                              capture_output=True, text=True, check=False)
        if done.returncode != 1 or "there is no record" not in done.stderr:
            raise Fault(f"with an older copy in place: {done.returncode}: {done.stderr}")
        self.disk.count("older copies without a record")

    def judge_cost(self, told, kind, options):
        """Was no more looked at than what was written to?"""
        touched = self.disk.touched
        if kind != "incremental" or touched is None or "--compare" in options or \
                self.disk.format == "add-cow":
            return
        if told["changed-bytes"] > len(touched) * GRANULE or \
                told["read-bytes"] > told["changed-bytes"]:
            raise Fault(f"point {told['point']}: {told['changed-bytes']} bytes looked at, "
                        f"{told['read-bytes']} read; {len(touched)} pieces of {GRANULE} bytes "
                        "were written to")

    def turn_back(self):
        """An older copy of the image takes its place; or the image is put aside for that."""
        disk = self.disk
        if disk.format != "qcow2":
            return
        if self.copy is None:
            shutil.copyfile(disk.image, "older")
            self.copy = (disk.size, list(disk.snapshots), set(self.known))
        else:
            os.rename("older", disk.image)
            disk.size, disk.snapshots, self.known = self.copy
            self.copy = None
            disk.touched = None
            disk.count("older copies put in place")

    def live(self):
        """All the backups."""
        points = [True] * self.fulls + [False] * self.incrementals
        self.rng.shuffle(points)
        points.remove(True)
        points.insert(0, True)
        self.disk.write(12)
        for is_full in points:
            if self.rng.random() < 0.06:
                self.turn_back()
            self.disk.change()
            self.backup(is_full)
        self.disk.check()

    def judge(self):
        """Every point."""
        self.repository.judge_list()
        self.repository.judge_names()
        self.repository.verify()
        for number in self.repository.points:
            self.repository.judge_point(number, by_qemu=True)

    def merge_one(self):
        """Some points of one chain become one."""
        repository, rng = self.repository, self.rng
        chain = repository.chain(rng.choice(list(repository.points)))
        if len(chain) < 2:
            return
        top = rng.randrange(len(chain) - 1)
        bottom = rng.randrange(top + 1, min(len(chain), top + 1 + rng.choice([1, 1, 3, 10])))
        repository.command("merge", "-q", repository.name, chain[bottom], chain[top])
        for number in chain[top + 1:bottom + 1]:
            del repository.points[number]
        self.counts["merged"] = self.counts.get("merged", 0) + bottom - top
        self.look(chain[top])

    def prune_one(self):
        """All but the last ones go."""
        repository = self.repository
        keep = max(2, len(repository.points) * self.rng.randint(60, 95) // 100)
        repository.command("prune", "-q", f"--keep-last={keep}", repository.name)
        for number in sorted(repository.points)[:-keep]:
            del repository.points[number]
            self.counts["pruned"] = self.counts.get("pruned", 0) + 1
        self.look(min(repository.points))

    def look(self, number):
        """After a change of the repository: at one point and at some others."""
        self.repository.judge_list()
        some = self.rng.sample(sorted(self.repository.points), min(3, len(self.repository.points)))
        for one in {number, *some}:
            self.repository.judge_point(one, by_qemu=True)

    def merge(self):
        merges = MERGES if self.disk.format == "qcow2" else MERGES // 3
        for number in range(merges):
            if number % 8 == 7:
                self.prune_one()
            else:
                self.merge_one()
            if self.rng.random() < 0.2:
                self.disk.change()
                self.backup(False)
        self.judge()


def run_kind(program, kind):
    begun = time.monotonic()
    soak = Soak(program, kind)
    soak.live()
    backups = len(soak.repository.points)
    soak.judge()
    middle = time.monotonic()
    soak.merge()
    print(f"# {kind}: {backups} points restored and compared, 0 differences: "
          f"{middle - begun:.1f} s, of these {soak.seconds:.1f} s for backups; merging "
          f"{time.monotonic() - middle:.1f} s, {len(soak.repository.points)} points are left")
    counts = {**soak.counts, **soak.disk.counts}
    print(f"# {kind}:", ", ".join(f"{value} {key}" for key, value in counts.items()))


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("1..0 # SKIP no qemu-img, qemu-io")
        return 0
    program = os.path.abspath(sys.argv[1])
    print("# seed", SEED)
    tap = Tap()
    with work_folder("backup-soak"):
        for kind in sys.argv[2:] or KINDS:
            clear()
            try:
                run_kind(program, kind)
                tap.report(f"{kind}: every point is what the disk was")
            except Fault as fault:
                tap.report(f"{kind}: every point is what the disk was", [fault])
                keep = os.environ.get("VD_KEEP")
                if keep:
                    shutil.copytree(".", os.path.join(keep, kind), symlinks=True)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
