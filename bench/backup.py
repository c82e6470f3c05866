#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Incremental backups side by side; prints the rows of a Markdown table.

    bench/backup.py VDISK WORK MIB ROUNDS

A disk with MIB of random data, in a disk of twice that, changes in scattered pieces of 64 KiB, and
is backed up by each subject in turn: every one has its own copy of the disk, in the form that it
takes, which changes in the same way, and its own repository.  Each backup is durable when its time
ends.  What was read is rchar of /proc/PID/io of all processes of the subject: whatever they have read
by system calls, from the disk and elsewhere.  What was stored is how much larger the files of the
repository are.
"""
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

VDISK, WORK, MIB, ROUNDS = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5])
PIECE = 64 << 10
PERCENTS = (0.1, 1, 10)


def call(*words, **more):
    subprocess.run([str(word) for word in words], check=True, **more)


def measured(script, **variables):
    """Seconds and bytes read of a shell script."""
    begun = time.monotonic()
    with subprocess.Popen(["bash", "-euc", script], stdout=subprocess.DEVNULL,
                          env={**os.environ, "VDISK": VDISK, **variables}) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.monotonic() - begun
        with open(f"/proc/{child.pid}/io", encoding="ascii") as counts:
            read = int(counts.readline().split()[1])  # of those that it has waited for, too
    if child.returncode:
        sys.exit(f"bench: failed: {script}")
    return seconds, read


def size_of(path):
    """Bytes that its files take."""
    return sum(os.lstat(os.path.join(folder, name)).st_blocks * 512
               for folder, _, names in os.walk(path) for name in names)


class Subject:
    """Something that makes backups.  Its disk is `disk`, of `format`, its repository `folder`."""

    name = shown = format = None

    def __init__(self):
        self.folder = os.path.join(WORK, self.name)
        self.disk = os.path.join(WORK, f"{self.name}.{self.format}")
        self.number = 0

    def begin(self, raw):
        """Makes its disk, and the first, full backup."""
        if self.format == "raw":
            call("cp", "--sparse=always", raw, self.disk)
        else:
            call(VDISK, "convert", "-q", "-f", "raw", "-O", self.format, raw, self.disk)
        self.prepare()
        self.run()

    def prepare(self):
        os.mkdir(self.folder)

    def change(self, commands):
        call(VDISK, "io", "-f", self.format, self.disk, input=commands, text=True)

    def run(self):
        """A backup: seconds, bytes read, bytes stored."""
        self.number += 1
        before = size_of(self.folder)
        os.sync()
        seconds, read = measured(self.script(), DISK=self.disk, REPO=self.folder,
                                 N=str(self.number), BEFORE=str(self.number - 1))
        return seconds, read, size_of(self.folder) - before

    def script(self):
        raise NotImplementedError

    def judge(self, raw):
        """Is the last backup the disk?"""
        raise NotImplementedError


class Vdisk(Subject):
    name, shown, format = "vdisk", "`vdisk backup`, bitmap of qcow2", "qcow2"
    options = ""

    def script(self):
        return f"$VDISK backup -q {self.options} -f {self.format} $DISK $REPO"

    def judge(self, raw):
        restored = os.path.join(WORK, "restored.raw")
        call(VDISK, "restore", "-q", "-t", "unsafe", self.folder, restored)
        call("cmp", raw, restored)
        os.unlink(restored)


class VdiskGow(Vdisk):
    name, shown, format = "vdisk-gow", "`vdisk backup`, versions of GOW3", "gow3"


class VdiskCompare(Vdisk):
    name, shown, format = "vdisk-compare", "`vdisk backup --compare`, raw", "raw"

    def script(self):
        options = "--compare" if self.number > 1 else "--full"
        return f"$VDISK backup -q {options} -f raw $DISK $REPO"


class Script(Subject):
    """What scripts for bitmaps do: qemu-nbd serves the image with its bitmap, nbdinfo tells what is
    dirty, and qemu-io, which copies what it reads, brings that into an overlay."""

    name, shown, format = "script", "qemu-nbd, nbdinfo, qemu-io by the bitmap", "qcow2"

    def script(self):
        if self.number == 1:
            return """qemu-img bitmap --add -f qcow2 $DISK b1
                qemu-img convert -t writeback -f qcow2 -O qcow2 $DISK $REPO/1.qcow2"""
        return """
            uri="nbd+unix:///?socket=$REPO/socket"
            qemu-img bitmap --add -f qcow2 $DISK b$N
            qemu-nbd -r -t -k $REPO/socket -f qcow2 -B b$BEFORE $DISK & server=$!
            until [ -S $REPO/socket ]; do sleep 0.01; done
            qemu-img create -q -f qcow2 -b "$uri" -F raw $REPO/$N.qcow2
            nbdinfo --map=qemu:dirty-bitmap:b$BEFORE "$uri" |
                awk '$3 == 1 { for (at = 0; at < $2; at += 1048576)
                    print "read -q", $1 + at, ($2 - at < 1048576 ? $2 - at : 1048576) }' |
                qemu-io -C -f qcow2 $REPO/$N.qcow2
            kill $server
            wait $server || true
            rm -f $REPO/socket
            qemu-img rebase -u -f qcow2 -b $BEFORE.qcow2 -F qcow2 $REPO/$N.qcow2
            sync $REPO/$N.qcow2
            qemu-img bitmap --remove -f qcow2 $DISK b$BEFORE"""

    def judge(self, raw):
        call("qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", raw,
             f"{self.folder}/{self.number}.qcow2")


class Full(Subject):
    name, shown, format = "full", "`qemu-img convert`, all of it", "qcow2"

    def script(self):
        return """rm -f $REPO/$BEFORE.qcow2
            qemu-img convert -t writeback -f qcow2 -O qcow2 $DISK $REPO/$N.qcow2"""

    def run(self):
        seconds, read, _ = super().run()
        return seconds, read, size_of(self.folder)  # only the last one is kept here

    def judge(self, raw):
        call("qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", raw,
             f"{self.folder}/{self.number}.qcow2")


class Borg(Subject):
    """Of the raw file, which is what borg knows."""

    name, shown, format = "borg", "`borg create`, raw", "raw"
    options = ""

    def __init__(self):
        super().__init__()
        os.environ.update({"BORG_BASE_DIR": os.path.join(WORK, "borg-home"),
                           "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
                           "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"})

    def prepare(self):
        call("borg", "init", "--encryption=none", self.folder, stderr=subprocess.DEVNULL)

    def script(self):
        return f"borg create --compression=none {self.options} $REPO::$N $DISK"

    def judge(self, raw):
        with subprocess.Popen(["borg", "extract", "--stdout", f"{self.folder}::{self.number}"],
                              stdout=subprocess.PIPE) as child:
            call("cmp", raw, "-", stdin=child.stdout)


class BorgFixed(Borg):
    name, shown = "borg-fixed", "`borg create`, raw, pieces of 4 MiB"
    options = "--sparse --chunker-params=fixed,4194304"


SUBJECTS = (Vdisk, VdiskGow, VdiskCompare, Script, Full, Borg, BorgFixed)


def fill(path):
    """Data in chunks of 8 MiB, spread evenly."""
    with open(path, "wb") as raw:
        raw.truncate(MIB << 21)
        for chunk in range(MIB // 8):
            raw.seek(chunk << 24)
            raw.write(os.urandom(8 << 20))


def change(rng, raw, percent, subjects):
    """Pieces of the data, in all disks alike."""
    folder = os.path.join(WORK, "pieces")
    os.mkdir(folder)
    commands = []
    wanted = max(1, round((MIB << 20) * percent / 100 / PIECE))
    with open(raw, "r+b") as file:
        for number, piece in enumerate(rng.sample(range((MIB << 20) // PIECE), wanted)):
            data = rng.randbytes(PIECE)
            offset = piece // 128 * (16 << 20) + piece % 128 * PIECE
            os.pwrite(file.fileno(), data, offset)
            with open(f"{folder}/{number}", "wb") as out:
                out.write(data)
            commands.append(f"write -q -s {folder}/{number} {offset} {PIECE}\n")
    for subject in subjects:
        subject.change("".join(commands))
    shutil.rmtree(folder)


def mib(count):
    return f"{count / (1 << 20):,.1f} MiB"


def rows(percent, subjects, results):
    medians = {subject: [statistics.median(values) for values in zip(*results[subject])]
               for subject in subjects}
    ours = medians[subjects[0]]
    for subject in subjects:
        seconds = [result[0] for result in results[subject]]
        median = medians[subject]
        ratios = [f"{mine / theirs:.2f}" for mine, theirs in zip(ours, median)]
        if subject is subjects[0]:
            ratios = [""] * 3
        print(f"| {percent} % | {subject.shown} | {ratios[0]} | {median[0]:.3f} "
              f"({min(seconds):.3f}-{max(seconds):.3f}) | {ratios[1]} | {mib(median[1])} | "
              f"{ratios[2]} | {mib(median[2])} |", flush=True)


def main():
    rng = random.Random(6)
    raw = os.path.join(WORK, "backup-source.raw")
    fill(raw)
    subjects = [subject() for subject in SUBJECTS]
    for subject in subjects:
        subject.begin(raw)
    for percent in PERCENTS:
        print(f"bench: backups, {percent} % changed", file=sys.stderr)
        results = {subject: [] for subject in subjects}
        for count in range(ROUNDS + 1):
            change(rng, raw, percent, subjects)
            turns = subjects[count % len(subjects):] + subjects[:count % len(subjects)]
            for subject in turns:
                result = subject.run()
                if count:
                    results[subject].append(result)
        # Speed counts for nothing if the bytes are wrong.
        for subject in subjects:
            subject.judge(raw)
        rows(percent, subjects, results)
    # What the disk says itself of what was looked at.
    told = json.loads(subprocess.run(
        [VDISK, "backup", "list", "--output=json", subjects[0].folder], check=True,
        capture_output=True, text=True).stdout)
    if len(told) != (ROUNDS + 1) * len(PERCENTS) + 1:
        sys.exit(f"bench: {len(told)} points")


main()
