#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Chains of raw and QED images that QEMU and vdisk make, change and read in turn.

    tests/interop/test-qemu-chain.py VDISK

Each round makes a chain, every image by one tool or the other, and then commits, rebases,
converts, compares and maps; after each step both tools read the top image, which has to be what
the model says, and check every image.

VD_TEST_SEED is the seed, VD_CHAIN_ROUNDS (6) the count of rounds.  With "-" for VDISK, QEMU plays
both parts, which tests this test.
"""
import json
import os
import random
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
from disk_model import Fault, Model, Script, Tool

STEPS = 14
LEVELS = 4
ROOM = 3 << 20


class Level:
    """An image of the chain."""

    def __init__(self, name, image_format, model, script):
        self.name = name
        self.format = image_format
        self.model = model
        self.script = script

    def forget_clusters(self):
        """Somebody else wrote to it: any cluster may be a zero cluster now."""
        self.script.allocated.clear()
        self.script.zeroed = set(range(-(-self.model.size // self.script.cluster)))


class Chain:
    """What a round works on; levels[0] is the bottom."""

    def __init__(self, rng, tools):
        self.rng = rng
        self.tools = tools
        self.levels = []
        self.names = 0
        self.log = []

    @property
    def top(self):
        return self.levels[-1]

    def tool(self):
        return self.rng.choice(self.tools)

    def say(self, tool, what):
        self.log.append(f"{tool.name}: {what}")

    def size(self):
        return 512 * self.rng.randint(1, ROOM // 512)

    def make(self, backing=None, size=None):
        """A new image over backing, or at the bottom."""
        rng, tool = self.rng, self.tool()
        name = f"{self.names}.img"
        self.names += 1
        size = size or (backing.model.size if backing and rng.random() < 0.5 else self.size())
        image_format = "qed" if backing or rng.random() < 0.5 else "raw"
        cluster = 4096 << rng.randint(0, 6) if image_format == "qed" else 65536
        words = ["create", "-q", "-f", image_format]
        if image_format == "qed":
            words += ["-o", f"cluster_size={cluster},table_size={2 << rng.randint(0, 3)}"]
        if backing:
            words += ["-b", backing.name, "-F", backing.format]
        tool.run(*words, name, size)
        self.say(tool, " ".join(map(str, words + [name, size])))
        windows = [(0, size)]
        model = backing.model.overlay(size, windows) if backing else Model(size, windows)
        return Level(name, image_format, model,
                     Script(rng, model, cluster, careful=backing is not None))

    def write(self, level, count):
        tool = self.tool()
        self.say(tool, f"write to {level.name}")
        tool.io(level.name, level.script.commands(tool, count), level.format)
        self.settle(level)

    def settle(self, level):
        """What was discarded is read back, for all tools to agree on from here on."""
        self.tools[0].run("convert", "-f", level.format, "-O", "raw", level.name, "settled")
        level.model.judge("settled")
        with open("settled", "rb") as file:
            level.model.parts[0][:] = file.read()
        level.model.vague[0][:] = bytes(level.model.size)

    def push(self):
        backing = self.levels[-1] if self.levels else None
        self.levels.append(self.make(backing))
        self.write(self.top, 30)

    def judge(self):
        for tool in self.tools:
            tool.judge(self.top.name, self.top.model, self.top.format)
            for level in self.levels:
                if level.format == "qed":
                    tool.check(level.name)

    # --- steps -------------------------------------------------------------------------------

    def replace(self, level, source):
        """The base level gets the content of source."""
        model = source.model.overlay(max(level.model.size, source.model.size),
                                     [(0, max(level.model.size, source.model.size))])
        model.parts[0][source.model.size:level.model.size] = \
            level.model.parts[0][source.model.size:]
        level.model = level.script.model = model
        level.forget_clusters()

    def can_commit(self, tool, base):
        """QEMU would write parts of zero clusters, and does not hide what lies past the old end."""
        above = self.levels.index(base) > 0
        return not (tool.is_qemu and above)

    def commit(self):
        tool = self.tool()
        base = self.levels[-2]
        if not self.can_commit(tool, base):
            return
        self.say(tool, f"commit {self.top.name}")
        tool.run("commit", "-q", "-f", self.top.format, self.top.name)
        self.replace(base, self.top)
        self.top.forget_clusters()
        for reader in self.tools:
            reader.judge(base.name, base.model, base.format)

    def commit_to_base(self):
        tool = self.tool()
        index = self.rng.randrange(len(self.levels) - 1)
        base = self.levels[index]
        if not self.can_commit(tool, base):
            return
        self.say(tool, f"commit -b {base.name} {self.top.name}")
        tool.run("commit", "-q", "-f", self.top.format, "-b", base.name, self.top.name)
        self.replace(base, self.top)
        self.judge_top_only()
        for level in self.levels[index + 1:]:
            os.unlink(level.name)
        del self.levels[index + 1:]

    def judge_top_only(self):
        for tool in self.tools:
            tool.judge(self.top.name, self.top.model, self.top.format)

    def rebase(self):
        """Onto an image further down, or one that has nothing to do with it, or none."""
        tool = self.tool()
        backing, below = None, []
        kind = self.rng.random()
        if kind < 0.5 and len(self.levels) > 2:
            index = self.rng.randrange(len(self.levels) - 2)
            backing, below = self.levels[index], self.levels[:index + 1]
        elif kind < 0.85:
            backing = self.make()
            self.write(backing, 20)
            below = [backing]
        words = ["-b", backing.name, "-F", backing.format] if backing else ["-b", ""]
        self.say(tool, f"rebase {' '.join(words)} {self.top.name}")
        tool.run("rebase", "-f", "qed", *words, self.top.name)
        self.levels = below + [self.top]
        self.top.forget_clusters()

    def rebase_unsafe(self):
        """Onto a copy of the backing file."""
        tool, copier = self.tool(), self.tool()
        base = self.levels[-2]
        image_format = self.rng.choice(["raw", "qed"])
        name = f"{self.names}.img"
        self.names += 1
        copier.run("convert", "-f", base.format, "-O", image_format, base.name, name)
        self.say(copier, f"convert {base.name} to {name}, {image_format}")
        tool.run("rebase", "-u", "-f", "qed", "-b", name, "-F", image_format, self.top.name)
        self.say(tool, f"rebase -u -b {name} {self.top.name}")
        copy = Level(name, image_format, base.model, Script(self.rng, base.model, 65536, False))
        copy.forget_clusters()
        self.levels = [copy, self.top]

    def convert_to_overlay(self):
        """convert -B: a copy of the top image that keeps its backing file."""
        tool = self.tool()
        base = self.levels[-2]
        name = f"{self.names}.img"
        self.names += 1
        tool.run("convert", "-f", "qed", "-O", "qed", "-B", base.name, "-F", base.format,
                 self.top.name, name)
        self.say(tool, f"convert -B {base.name} {self.top.name} {name}")
        for reader in self.tools:
            reader.check(name)
            reader.judge(name, self.top.model)
            told = json.loads(reader.run("info", "--output=json", "-f", "qed", name))
            if told["backing-filename"] != base.name:
                raise Fault(f"{name}: backing file {told['backing-filename']}, not {base.name}")
        self.levels[-1] = Level(name, "qed", self.top.model,
                                Script(self.rng, self.top.model, 65536, True))
        self.top.forget_clusters()

    def convert(self):
        """The whole disk to one file, of the other format."""
        tool = self.tool()
        image_format = self.rng.choice(["raw", "qed"])
        tool.run("convert", "-f", self.top.format, "-O", image_format, self.top.name, "copy")
        self.say(tool, f"convert {self.top.name} to {image_format}")
        for reader in self.tools:
            reader.judge("copy", self.top.model, image_format)
            reader.run("compare", "-f", self.top.format, "-F", image_format, self.top.name, "copy")

    def flatten(self):
        """QEMU has no command for it but rebase."""
        tool = self.tool()
        self.say(tool, f"flatten {self.top.name}")
        if tool.is_qemu:
            tool.run("rebase", "-f", "qed", "-b", "", self.top.name)
        else:
            tool.run("flatten", "-f", "qed", self.top.name)
        self.levels = [self.top]
        self.top.forget_clusters()

    def compare(self):
        """Both tools say the same of two images of the chain."""
        other = self.rng.choice(self.levels)
        words = ["-f", self.top.format, "-F", other.format, self.top.name, other.name]
        long = max(self.top.model.size, other.model.size)
        same = (bytes(self.top.model.parts[0]).ljust(long, b"\0") ==
                bytes(other.model.parts[0]).ljust(long, b"\0"))
        if other is self.top:
            return
        said = [tool.run("compare", *words, status=0 if same else 1) for tool in self.tools]
        if said[0].splitlines()[-1] != said[-1].splitlines()[-1]:
            raise Fault(f"compare {' '.join(words)}: {said[0]!r}, but {said[-1]!r}")

    def map(self):
        """Both tools tell which image each part of the disk is in.

        vdisk knows of holes within clusters, and counts zeros past the end of a short image as
        that image's, so only what it calls data has to be the same.
        """
        maps = [json.loads(tool.run("map", "--output=json", "-f", self.top.format, self.top.name))
                for tool in self.tools]
        for one in maps:
            ends = [0] + [entry["start"] + entry["length"] for entry in one]
            if ends[:-1] != [entry["start"] for entry in one] or ends[-1] != self.top.model.size:
                raise Fault(f"map of {self.top.name}: does not cover the disk")
        for theirs, ours in pieces(*maps):
            if ours["data"] and (not theirs["data"] or theirs["depth"] != ours["depth"]) or \
                    theirs["zero"] and not ours["zero"]:
                raise Fault(f"map of {self.top.name}: {ours}, but by QEMU {theirs}")

    def step(self):
        if len(self.levels) < LEVELS and (len(self.levels) < 2 or self.rng.random() < 0.5):
            self.push()
            return
        choice = self.rng.choice([self.commit, self.commit_to_base, self.rebase,
                                  self.rebase_unsafe, self.convert_to_overlay, self.convert,
                                  self.flatten, self.compare, self.map])
        choice()
        if self.rng.random() < 0.5:
            self.write(self.top, 20)


def pieces(first, second):
    """Yields the entries of two maps that share a piece of the disk."""
    first, second = iter(first), iter(second)
    one, two = next(first, None), next(second, None)
    while one and two:
        yield one, two
        ends = [entry["start"] + entry["length"] for entry in (one, two)]
        one = next(first, None) if ends[0] <= ends[1] else one
        two = next(second, None) if ends[1] <= ends[0] else two


def run_round(number, seed, tools):
    """Raises Fault with what was done."""
    chain = Chain(random.Random(f"{seed}/{number}"), tools)
    try:
        chain.push()
        for _ in range(STEPS):
            chain.step()
            chain.judge()
    except Fault as fault:
        said = "\n# ".join(chain.log[-12:])
        raise Fault(f"{fault}\n# {said}") from fault


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("1..0 # SKIP no qemu-img")
        return 0
    ours = Tool() if sys.argv[1] == "-" else Tool(os.path.realpath(sys.argv[1]))
    seed = os.environ.get("VD_TEST_SEED", str(time.time_ns() % 100000))
    rounds = int(os.environ.get("VD_CHAIN_ROUNDS", "6"))
    print(f"# VD_TEST_SEED={seed} VD_CHAIN_ROUNDS={rounds}")
    failures = 0
    work = tempfile.mkdtemp(prefix="vdisk-qemu-chain.", dir=os.environ.get("TMPDIR", "/tmp"))
    try:
        os.chdir(work)
        for number in range(1, rounds + 1):
            for name in os.listdir("."):
                os.unlink(name)
            try:
                run_round(number, seed, [Tool(), ours])
                print(f"ok {number} - round {number}")
            except Fault as fault:
                failures += 1
                print(f"not ok {number} - round {number}\n# {fault}")
            sys.stdout.flush()
    finally:
        os.chdir("/")
        shutil.rmtree(work)
    print(f"1..{rounds}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
