# SPDX-License-Identifier: MIT
"""What the tests of backups have in common: disks that change at random, and what they held."""
import hashlib
import json
import os
import random
import subprocess

from tap import Fault

KIB = 1 << 10
MIB = 1 << 20
GRANULE = 64 * KIB  # what a bitmap, or a version, tells of
WRITTEN = "written.bin"  # random data to write from
WRITTEN_BYTES = 1 * MIB


def run(*words, status=0, text=None):
    """What a command prints; Fault if it ends with another status."""
    words = [str(word) for word in words]
    done = subprocess.run(words, input=text or "", capture_output=True, text=True, check=False)
    if done.returncode != status:
        raise Fault(f"{' '.join(words)}: status {done.returncode}, wanted {status}: "
                    f"{(done.stderr or done.stdout).strip()[-700:]}")
    return done.stdout


def digest(path):
    """Of all that is in a file, its length too."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_disk(program, image_format, image, by_qemu=False):
    """Of the content of a disk, read by `vdisk convert` or by qemu-img."""
    raw = "digest.raw"
    if by_qemu:
        run("qemu-img", "convert", "-f", image_format, "-O", "raw", image, raw)
    else:
        run(program, "convert", "-q", "-t", "unsafe", "-f", image_format, "-O", "raw", image, raw)
    try:
        return digest(raw)
    finally:
        os.unlink(raw)


class Disk:
    """An image that changes at random.

    `touched`: the granules that were written to since it was last emptied; None: more happened than
    writes.
    """

    def __init__(self, program, rng, image_format, size, options=()):
        self.program = program
        self.rng = rng
        self.format = image_format
        self.image = "disk." + image_format
        self.size = size
        self.options = options
        self.largest = size
        self.snapshots = []
        self.touched = set()
        self.counts = {}
        run(program, "create", "-q", "-f", image_format, *options, self.image, size)
        if not os.path.exists(WRITTEN):
            with open(WRITTEN, "wb") as file:
                file.write(random.Random(1).randbytes(WRITTEN_BYTES))

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def place(self, longest):
        """A random range; often at one of a few places, and on borders."""
        rng = self.rng
        length = rng.choice([512, 4 * KIB, 64 * KIB, rng.randint(1, longest // 512) * 512])
        length = min(length, longest, self.size)
        offset = rng.randrange(0, self.size - length + 1)
        if rng.random() < 0.4:
            offset = int(self.size * rng.betavariate(0.5, 3)) % (self.size - length + 1)
        step = rng.choice([512, 4 * KIB, 64 * KIB])
        return offset - offset % step, length

    def command(self):
        """One for `vdisk io` and qemu-io alike."""
        rng = self.rng
        kind = rng.choice(["write"] * 4 + ["random"] * 4 + ["zero", "unmap", "discard"])
        offset, length = self.place(2 * MIB if kind in ("zero", "unmap", "discard") else 384 * KIB)
        self.count(kind)
        if self.touched is not None:
            self.touched.update(range(offset // GRANULE, (offset + length - 1) // GRANULE + 1))
        options = {"write": f"write -q -P {rng.randrange(1, 256)}",
                   "random": f"write -q -s {WRITTEN}",
                   "zero": "write -q -z", "unmap": "write -q -z -u", "discard": "discard -q"}
        return f"{options[kind]} {offset} {length}\n"

    def write(self, commands, by_qemu=False):
        """So many random changes, in one process."""
        text = "".join(self.command() for _ in range(commands))
        tool = ["qemu-io"] if by_qemu else [self.program, "io"]
        run(*tool, "-f", self.format, self.image, text=text)
        self.count("sessions of QEMU" if by_qemu else "sessions")

    def resize(self, size, by_qemu=False):
        """To so many bytes."""
        tool = "qemu-img" if by_qemu else self.program
        run(tool, "resize", "-q", "-f", self.format, "--shrink", self.image, size)
        self.size = size
        self.touched = None
        self.count("resizes")

    def random_resize(self, by_qemu=False):
        """Larger, smaller, or smaller and then larger again."""
        rng = self.rng
        size = rng.randint(self.largest // 4 // 512, self.largest // 512) * 512
        if rng.random() < 0.5:
            size -= size % GRANULE
        if rng.random() < 0.4:
            before = self.size
            self.resize(min(size, before - 512), by_qemu)
            if rng.random() < 0.5:
                self.write(rng.randint(1, 2))
            self.resize(before, rng.random() < 0.5 and by_qemu)
            self.count("shrunk and grown again")
        else:
            self.resize(size, by_qemu)

    def snapshot(self):
        """One is made, deleted, or the disk becomes it again."""
        rng = self.rng
        kind = rng.choice(["create", "create", "apply", "delete"])
        if not self.snapshots or (kind == "create" and len(self.snapshots) < 4):
            name = f"snapshot-{rng.randrange(1 << 30)}"
            run(self.program, "snapshot", "-c", name, self.image)
            self.snapshots.append(name)
            self.count("snapshots created")
        elif kind == "apply":
            run(self.program, "snapshot", "-a", rng.choice(self.snapshots), self.image)
            info = json.loads(run(self.program, "info", "--output=json", self.image))
            self.size = info["virtual-size"]
            self.touched = None
            self.count("snapshots applied")
        else:
            name = self.snapshots.pop(rng.randrange(len(self.snapshots)))
            run(self.program, "snapshot", "-d", name, self.image)
            self.count("snapshots deleted")

    def change(self):
        """Something happens between two backups; seldom nothing."""
        rng = self.rng
        qcow2 = self.format == "qcow2"
        for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3])):
            what = rng.random()
            if what < 0.12 and self.format != "add-cow":
                self.random_resize(by_qemu=qcow2 and rng.random() < 0.3)
            elif what < 0.27 and qcow2:
                self.snapshot()
            else:
                self.write(rng.randint(1, 10), by_qemu=qcow2 and rng.random() < 0.25)

    def check(self):
        """Is the image sound?"""
        run(self.program, "check", "-q", "-f", self.format, self.image)

    def digest(self, by_qemu=False):
        return digest_of_disk(self.program, self.format, self.image, by_qemu)


class Repository:
    """A repository, and the digest of each point that has to be in it."""

    def __init__(self, program, name, options=()):
        self.program = program
        self.name = name
        self.options = options  # of all commands: --key-file
        self.points = {}        # number: digest
        self.formats = {}       # number: "qcow2", "qed"

    def command(self, *words):
        """One of `vdisk backup list`, `merge`, ..."""
        return run(self.program, "backup", words[0], *self.options, *words[1:])

    def backup(self, source, disk_digest, *options):
        """A new point; what the command tells of it."""
        told = json.loads(run(self.program, "backup", *self.options, *options, "--output=json",
                              source, self.name))
        self.points[told["point"]] = disk_digest
        self.formats[told["point"]] = told["image"].rsplit(".", 1)[1]
        return told

    def listed(self):
        return json.loads(self.command("list", "--output=json", self.name))

    def judge_list(self):
        """Are the points those that there have to be, and is nothing else left behind?"""
        found = self.listed()
        numbers = [point["point"] for point in found]
        if numbers != sorted(self.points):
            raise Fault(f"{self.name}: points {numbers}, wanted {sorted(self.points)}")
        wrong = [point for point in found if point["damaged"] or point["orphan"]]
        if wrong:
            raise Fault(f"{self.name}: {wrong}")
        return {point["point"]: point for point in found}

    def judge_names(self, partial=False):
        """Is there no file that no point has?  `partial`: an unfinished backup may be there."""
        wanted = {"vdisk-repository.json", "lock"}
        for point in self.listed():
            wanted |= {point["image"], point["manifest"]}
            wanted.add(point["manifest"].replace(".json", ".versions"))
        left = [name for name in os.listdir(self.name) if name not in wanted and
                not (partial and name.startswith("partial."))]
        if left:
            raise Fault(f"{self.name}: left behind: {sorted(left)}")

    def verify(self):
        self.command("verify", self.name)

    def restore(self, number, target="restored.raw"):
        """Writes a point to a raw file."""
        run(self.program, "restore", "-q", *self.options, "-t", "unsafe",
            f"{self.name}@{number}", target)

    def judge_restored(self, number, target="restored.raw"):
        """Does the restored file hold what the disk held?"""
        if digest(target) != self.points[number]:
            raise Fault(f"{self.name}@{number}: restored, it is not what the disk was")
        os.unlink(target)

    def judge_point(self, number, by_qemu=False):
        """Is a point what the disk was when it was made: restored, and as QEMU reads it?"""
        self.restore(number)
        self.judge_restored(number)
        if by_qemu:
            self.judge_by_qemu(number)

    def judge_by_qemu(self, number):
        """Does qemu-img read the image of a point, and find it sound?"""
        image_format = self.formats[number]
        image = os.path.join(self.name, f"{number:06}.{image_format}")
        if digest_of_disk(self.program, image_format, image, by_qemu=True) != self.points[number]:
            raise Fault(f"{image}: qemu-img reads something else than the disk was")
        run("qemu-img", "check", "-q", "-f", image_format, image)

    def chain(self, number):
        """The numbers below a point, from the top down, itself first."""
        parents = {point["point"]: point["parent"] for point in self.listed()}
        chain = [number]
        while parents[chain[-1]]:
            chain.append(parents[chain[-1]])
        return chain
