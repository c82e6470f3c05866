#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Backups, merges, prunes and restores that do not come to their end.

    tests/interop/test-backup-kill.py VDISK [SOURCE]...

They are killed (SIGKILL) at a random system call that writes, names or makes durable, found by
strace, or at a random moment; or from one such call on the disk is full, or reading fails as it does
when the source is lost.  Several such ends may come one after the other, each command finding what
the one before has left, and the disk changes in between.  After each of them:

  - every point that was there, and was not to go, is restored and is what the disk was;
  - `verify` finds nothing wrong, and neither does the check of the source, by vdisk and QEMU;
  - the bitmap that somebody else keeps in the source tells what it told;
  - sooner or later a backup comes to its end: it is what the disk is, whatever was lost before, and
    nothing is left of those before: no file, no bitmap.

Then there is a file system that is really full, and an NBD server, and a file, that really go away.

VD_KILLS      such ends in all (default 30; 300 for a full run)
VD_TEST_SEED  seed (default: the time)
"""
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import nbd_server
from backups import KIB, MIB, Disk, Repository, digest, run
from tap import Fault, Tap, clear, work_folder

KILLS = int(os.environ.get("VD_KILLS", "30"))
SEED = int(os.environ.get("VD_TEST_SEED", str(int(time.time()))))

SOURCES = ["qcow2", "qcow2", "qcow2", "gow3", "add-cow"]  # how often each has its turn
SIZE = 12 * MIB
POINTS_MAX = 8
# Not write(), by which threads wake each other, too: no room for that is only in full_file_system().
FULL = "pwrite64,pwritev,pwritev2,fallocate,ftruncate,copy_file_range"
NAMES = "rename,renameat,renameat2,unlink,unlinkat,link,linkat,mkdir,mkdirat"
CALLS = f"{FULL},write,{NAMES},fsync,fdatasync"
READS = "pread64,preadv,preadv2"
COUNTED = re.compile(r"^(\d+) +\w+\(", re.MULTILINE)
KILLED = (-9, 137)
SECONDS_MAX = 300  # of a command; more is a fault

DONE, FAILED, DIED = "done", "failed", "died"


class Ender:
    """Runs commands that are to end before their time."""

    def __init__(self, rng):
        self.rng = rng
        self.has_strace = bool(shutil.which("strace")) and subprocess.run(
            ["strace", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode == 0
        self.calls = {}  # (verb, way): about how many calls one thread makes
        self.counts = {}  # (verb, way): how often it ended so

    def run(self, verb, command, way):
        """DONE, FAILED or DIED.  `way`: "kill", "time", "full", "lost"."""
        if way == "time" or not self.has_strace:
            how, message = self.run_timed(command)
        else:
            how, message = self.run_traced(verb, command, way)
        if how == FAILED and not message.startswith("vdisk: ") and \
                "error while loading shared libraries" not in message:  # which reads, too
            raise Fault(f"{' '.join(command)}: no message, but: {message}")
        if how == DIED and way in ("full", "lost"):
            raise Fault(f"{' '.join(command)}: died")
        if how == FAILED and way in ("kill", "time"):
            raise Fault(f"{' '.join(command)}: {message}")
        if how != DONE:
            self.counts[verb, way] = self.counts.get((verb, way), 0) + 1
        return how

    @staticmethod
    def end_of(status, message):
        if status == 0:
            return DONE, ""
        if status in KILLED:
            return DIED, ""
        return FAILED, message

    def run_timed(self, command):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True) as child:
            try:
                message = child.communicate(timeout=0.002 + self.rng.random() * 0.1)[1]
            except subprocess.TimeoutExpired:
                child.kill()
                message = child.communicate()[1]
        return self.end_of(child.returncode, message)

    def run_traced(self, verb, command, way):
        calls, action, repeats = {"kill": (CALLS, "signal=KILL", ""),
                                  "full": (FULL, "error=ENOSPC", "+"),
                                  "lost": (READS, "error=EIO", "+")}[way]
        about = self.calls.setdefault((verb, way), 20)
        when = self.rng.randint(1, max(1, int(about)))
        tracer = ["strace", "-f", "-o", "calls", "-e", f"trace={calls}",
                  "-e", f"inject={calls}:{action}:when={when}{repeats}"]
        # A check for leaks needs to trace the process itself.
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        try:
            done = subprocess.run([*tracer, *command], capture_output=True, text=True, check=False,
                                  env=environment, timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            raise Fault(f"{' '.join([*tracer, *command])}: hangs") from error
        how, message = self.end_of(done.returncode, done.stderr)
        with open("calls", encoding="utf-8", errors="replace") as log:
            threads = COUNTED.findall(log.read())
        os.unlink("calls")
        if how == DONE:
            self.calls[verb, way] = max(map(threads.count, set(threads)), default=1)
        else:
            self.calls[verb, way] = about * 1.1 + 1
        return how, message

    def total(self):
        return sum(self.counts.values())


class World:
    """A disk, its repository, and what has to be in it."""

    def __init__(self, program, rng, ender, source):
        self.program = program
        self.rng = rng
        self.ender = ender
        options = ()
        if source == "add-cow":
            options = ("-o", "backing_file=base.raw,backing_fmt=raw,image_file=own.raw")
            run(program, "create", "-q", "-f", "raw", "base.raw", SIZE)
            run(program, "io", "-f", "raw", "-c", "write -q -P 77 1M 3M", "base.raw")
        self.disk = Disk(program, rng, source, SIZE, options)
        if source == "qcow2":
            run(program, "bitmap", "--add", self.disk.image, "somebody-else")
        self.repository = Repository(program, "repository")
        self.now = None  # digest of the disk
        self.ended_late = 0  # commands that failed, or died, after all was done
        self.made = 0

    def somebody_elses(self):
        if self.disk.format != "qcow2":
            return None
        return run(self.program, "bitmap", "--map", "--output=json", self.disk.image,
                   "somebody-else")

    # --- the commands ---------------------------------------------------------------------------

    def finish(self, verb, command, way):
        """Runs a command to some end."""
        if way:
            return self.ender.run(verb, [self.program, *command], way)
        run(self.program, *command)
        return DONE

    def present(self):
        """The numbers of the points."""
        if not os.path.exists("repository/vdisk-repository.json"):
            return set()
        return {point["point"] for point in self.repository.listed()}

    def judge_end(self, how, before, may_go, may_come):
        """Are the points those that may be there?  Returns what is there."""
        there = self.present()
        if not before - may_go <= there <= before | may_come:
            raise Fault(f"{how}: there are points {sorted(there)}, and were {sorted(before)}")
        if how == DONE and there != (before - may_go) | may_come:
            raise Fault(f"done, but there are points {sorted(there)}, and were {sorted(before)}")
        if how != DONE and there == (before - may_go) | may_come:
            self.ended_late += 1
        return there

    def knows_full(self):
        """Is there a record of what has changed since the last full point?  Not if a merge has made
        it one."""
        if self.disk.format != "qcow2":
            return True
        fulls = [point for point in self.repository.listed() if point["kind"] == "full"]
        found = json.loads(run(self.program, "bitmap", "--list", "--output=json", self.disk.image))
        return fulls[-1].get("bitmap") in {bitmap["name"] for bitmap in found}

    def backup(self, way):
        rng, repository = self.rng, self.repository
        options = rng.choice([[], [], [], ["--full"], ["--differential"], ["--compare"],
                              ["--restart"]])
        if not repository.points or (options == ["--differential"] and not self.knows_full()):
            options = []
        if rng.random() < 0.2:
            options = [*options, "-c"]
        if rng.random() < 0.3:
            options = [*options, "-m", "1"]
        number = max(repository.points, default=0) + 1
        how = self.finish("backup", ["backup", "-q", *options, self.disk.image, "repository"], way)
        there = self.judge_end(how, set(repository.points), set(), {number})
        if number in there:
            repository.points[number] = self.now
            repository.formats[number] = "qcow2"
        if how == DONE:
            self.made += 1
            repository.judge_names()
            self.judge_bitmaps(is_settled=way not in ("full", "lost"))
            repository.judge_point(number, by_qemu=True)

    def shrink(self, verb, command, goes, way):
        """A merge or prune after which the points `goes` are gone."""
        points = self.repository.points
        how = self.finish(verb, command, way)
        there = self.judge_end(how, set(points), goes, set())
        for number in set(points) - there:
            del points[number]
        if how == DONE:
            self.repository.judge_names(partial=True)

    def merge(self, way):
        chains = [self.repository.chain(number) for number in self.repository.points]
        chains = [chain for chain in chains if len(chain) > 1]
        if not chains:
            return
        chain = self.rng.choice(chains)
        top = self.rng.randrange(len(chain) - 1)
        bottom = self.rng.randrange(top + 1, min(len(chain), top + 4))
        self.shrink("merge", ["backup", "merge", "-q", "repository", str(chain[bottom]),
                              str(chain[top])], set(chain[top + 1:bottom + 1]), way)

    def prune(self, way):
        points = self.repository.points
        keep = self.rng.randint(max(1, len(points) - 3), max(1, len(points) - 1))
        self.shrink("prune", ["backup", "prune", "-q", f"--keep-last={keep}", "repository"],
                    set(sorted(points)[:-keep]), way)

    def restore(self, way):
        points = self.repository.points
        number = self.rng.choice(list(points))
        os.makedirs("target", exist_ok=True)
        how = self.finish("restore", ["restore", "-q", f"repository@{number}", "target/disk.raw"],
                          way)
        if how == DONE or os.path.exists("target/disk.raw"):
            self.repository.judge_restored(number, "target/disk.raw")
        if how != DONE:
            self.repository.restore(number, "target/disk.raw")
            self.repository.judge_restored(number, "target/disk.raw")
        for name in os.listdir("target"):
            # Whose name is random, so that two of them are not in each other's way.
            if how != DIED or not re.fullmatch(r"\.disk\.raw\.vdisk-[0-9a-f]{8}\.part", name):
                raise Fault(f"restore {how}: left behind: {name}")
            os.unlink(os.path.join("target", name))

    # --- what is looked at ----------------------------------------------------------------------

    def judge_bitmaps(self, is_settled):
        """After a backup: those of this repository that are needed, and what others have.  Where the
        source could not be written, older ones are left for the next backup to remove."""
        if self.disk.format != "qcow2":
            return
        found = json.loads(run(self.program, "bitmap", "--list", "--output=json", self.disk.image))
        ours = {bitmap["name"] for bitmap in found} - {"somebody-else"}
        points = self.repository.judge_list()
        named = {point.get("bitmap") for point in points.values()}
        latest = points[max(points)]["bitmap"]
        if latest not in ours or (is_settled and (not ours <= named or len(ours) > 2)):
            raise Fault(f"the source has the bitmaps {sorted(ours)}; that of the last point is "
                        f"{latest}")
        if any(bitmap["inconsistent"] for bitmap in found):
            raise Fault(f"the source has the bitmaps {found}")

    def judge(self, somebody_elses):
        """After each end."""
        repository, image = self.repository, self.disk.image
        if repository.points:
            repository.judge_list()
            repository.verify()
        some = set(sorted(repository.points)[-2:])
        some |= set(self.rng.sample(sorted(repository.points), min(3, len(repository.points))))
        for number in some:
            repository.judge_point(number)
        if self.disk.digest() != self.now:
            raise Fault("the source has changed")
        tools = [[self.program, "check", "-q"]]
        if self.disk.format == "qcow2":
            tools.append(["qemu-img", "check", "-q"])
        for tool in tools:
            done = subprocess.run([*tool, "-f", self.disk.format, image], capture_output=True,
                                  text=True, check=False)
            if done.returncode not in (0, 3):
                raise Fault(f"{' '.join(tool)}: the source is not sound: "
                            f"{done.stdout}{done.stderr}")
        if self.somebody_elses() != somebody_elses:
            raise Fault("the bitmap of somebody else has changed")

    def step(self, verb, way):
        """A command, and a look at everything."""
        somebody_elses = self.somebody_elses()
        try:
            getattr(self, verb)(way)
            self.judge(somebody_elses)
        except Fault as fault:
            raise Fault(f"{verb}, {way or 'to its end'}: {fault}") from fault

    def turn(self, ends):
        """Some commands of which so many end before their time, and one backup that does not."""
        rng = self.rng
        for _ in range(ends):
            if rng.random() < 0.6:
                self.change()
            verb = rng.choice(["backup"] * 4 + ["merge", "merge", "prune", "restore"])
            if not self.repository.points:
                verb = "backup"
            self.step(verb, rng.choice(["kill"] * 6 + ["time", "full", "lost"]))
        if rng.random() < 0.5:
            self.change()
        self.step("backup", None)
        if len(self.repository.points) > POINTS_MAX:
            self.step("prune", None)

    def change(self):
        self.disk.change()
        self.now = self.disk.digest()


def run_source(program, rng, ender, source, ends):
    world = World(program, rng, ender, source)
    world.disk.write(10)
    world.change()
    wanted = ender.total() + ends
    turns = 0
    while ender.total() < wanted:
        turns += 1
        if turns > 20 + 4 * ends:
            raise Fault("too few commands end before their time")
        world.turn(rng.choice([1, 1, 2, 3]))
    return world


# --- a full file system, a server and a file that go away -----------------------------------------

def fill(path, leave):
    """Until so many bytes are free."""
    free = os.statvfs(".").f_bavail * os.statvfs(".").f_frsize
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))


def full_file_system(program, rng, rounds):
    """A small tmpfs that has no room for the next backup, merge or restore."""
    os.mkdir("small")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40M", "tmpfs", "small"], check=False,
                      capture_output=True).returncode != 0:
        return "no file system can be mounted"
    try:
        disk = Disk(program, rng, "qcow2", SIZE)
        disk.write(20)
        image = os.path.abspath(disk.image)
        with contextlib.chdir("small"):
            fill_up(program, rng, rounds, disk, image)
    finally:
        subprocess.run(["umount", "small"], check=True)
    return None


def fill_up(program, rng, rounds, disk, image):
    repository = Repository(program, "repository")
    full = 0
    with contextlib.chdir(".."):
        now = disk.digest()
    repository.backup(image, now)
    for number in range(rounds):
        with contextlib.chdir(".."):
            disk.write(6)
            now = disk.digest()
        fill("filler", rng.randrange(1 * MIB))
        chain = repository.chain(max(repository.points))
        command = ["backup", "-q", image, "repository"]
        if number % 3 == 2 and len(chain) > 2:
            command = ["backup", "merge", "-q", "repository", str(chain[2]), str(chain[1])]
        done = subprocess.run([program, *command], capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1) or (done.returncode == 1 and
                                             "No space left" not in done.stderr):
            raise Fault(f"{command}: {done.returncode}: {done.stderr}")
        full += done.returncode
        if done.returncode == 1:
            repository.judge_list()
            repository.verify()
            # And while there is no room, all of it can be restored.
            for point in repository.points:
                repository.restore(point, "../restored.raw")
                repository.judge_restored(point, "../restored.raw")
        os.unlink("filler")
        if done.returncode == 1:
            run(program, *command)
        if command[1] == "merge":
            del repository.points[chain[2]]
        else:
            repository.points[max(repository.points) + 1] = now
        repository.judge_names()
        repository.verify()
        for point in repository.points:
            repository.judge_point(point)
        if len(repository.points) > 5:
            run(program, "backup", "prune", "-q", "--keep-last=2", "repository")
            for point in sorted(repository.points)[:-2]:
                del repository.points[point]
    print(f"# {full} commands had no room")
    if not full:
        raise Fault("there was always room")


def lost_server(program, rng, rounds):
    """An NBD server is killed in the middle of a backup."""
    disk = Disk(program, rng, "qcow2", SIZE)
    disk.write(40)
    repository = Repository(program, "repository")
    lost = 0
    for number in range(rounds):
        disk.change()
        now = disk.digest()
        server = nbd_server.qemu_nbd("-r", "-f", "qcow2", disk.image)
        command = [program, "backup", "-q", "--retries=0", "--limit-rate=16M", server.uri(),
                   "repository"] + (["--compare"] if number else [])
        with server:
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
                time.sleep(0.05 + rng.random() * 0.3)
                server.kill()
                message = child.communicate()[1]
        points = {point["point"] for point in repository.listed()} if \
            os.path.exists("repository/vdisk-repository.json") else set()
        if child.returncode == 0:
            repository.points[max(repository.points, default=0) + 1] = now
            repository.formats[max(repository.points)] = "qcow2"
        elif not message.startswith("vdisk: "):
            raise Fault(f"{command}: {child.returncode}: {message}")
        lost += child.returncode != 0
        if points != set(repository.points):
            raise Fault(f"points {points}, wanted {set(repository.points)}")
        if child.returncode:
            if number % 2:
                disk.change()
                now = disk.digest()
            with server:
                repository.backup(server.uri(), now, *(["--compare"] if number else []))
        repository.judge_names()
        repository.verify()
        for point in repository.points:
            repository.judge_point(point)
    print(f"# {lost} servers lost")
    if not lost:
        raise Fault("no server was lost")


def lost_file(program, rng, rounds):
    """A raw file is cut off, or removed, in the middle of a backup."""
    with open("disk.raw", "wb") as file:
        file.write(rng.randbytes(SIZE))
    repository = Repository(program, "repository")
    failed = 0
    for number in range(rounds):
        now = digest("disk.raw")
        shutil.copyfile("disk.raw", "kept.raw")
        command = [program, "backup", "-q", "--limit-rate=16M", "-f", "raw", "disk.raw",
                   "repository"] + (["--compare"] if number else [])
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            time.sleep(0.05 + rng.random() * 0.3)
            if number % 3 == 2:
                os.unlink("disk.raw")
            else:
                os.truncate("disk.raw", rng.randrange(SIZE // 512) * 512)
            message = child.communicate()[1]
        if child.returncode == 0:
            # It was done before; or the file was removed, and is still there for who has it open.
            repository.points[max(repository.points, default=0) + 1] = now
            repository.formats[max(repository.points)] = "qcow2"
        elif not message.startswith("vdisk: "):
            raise Fault(f"{command}: {child.returncode}: {message}")
        failed += child.returncode != 0
        os.rename("kept.raw", "disk.raw")
        if number and rng.random() < 0.5:
            with open("disk.raw", "r+b") as file:
                file.seek(rng.randrange(SIZE - 100 * KIB))
                file.write(rng.randbytes(100 * KIB))
        repository.backup("disk.raw", digest("disk.raw"), "-f", "raw",
                          *(["--compare"] if repository.points else []))
        repository.judge_list()
        repository.judge_names()
        repository.verify()
        for point in repository.points:
            repository.judge_point(point)
    print(f"# {failed} backups failed as their file was gone")
    if not failed:
        raise Fault("no file was lost")


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    if not nbd_server.have("qemu-img", "qemu-io", "qemu-nbd"):
        print("1..0 # SKIP no qemu-img, qemu-io, qemu-nbd")
        return 0
    program = os.path.abspath(sys.argv[1])
    sources = sys.argv[2:] or SOURCES
    print("# seed", SEED)
    tap = Tap()
    ender = Ender(random.Random(f"{SEED} ends"))
    if not ender.has_strace:
        print("# no strace: they are killed at random moments only")
    made = late = 0
    rounds = 3 + KILLS // 20

    def one(name, function):
        try:
            skipped = function()
            tap.report(name + (f" # SKIP {skipped}" if skipped else ""))
        except Fault as fault:
            tap.report(name, [str(fault)])
            keep = os.environ.get("VD_KEEP")
            if keep:
                shutil.copytree(".", os.path.join(keep, f"kill-{tap.count}"))
        clear()

    with work_folder("backup-kill"):
        for index, source in enumerate(sources):
            ends = KILLS // len(sources) + (index < KILLS % len(sources))
            rng = random.Random(f"{SEED} {index} {source}")

            def play(source=source, ends=ends, rng=rng):
                nonlocal made, late
                world = run_source(program, rng, ender, source, ends)
                made += world.made
                late += world.ended_late
            one(f"{source}: {ends} commands that end before their time", play)
        table = sorted((verb, way, count) for (verb, way), count in ender.counts.items())
        print(f"# {ender.total()} ends in all, {late} of them after all was done:",
              ", ".join(f"{verb} {way} {count}" for verb, way, count in table))
        print(f"# {made} backups came to their end after that, each was what the disk was")
        rng = random.Random(f"{SEED} lost")
        one("a file system that is full", lambda: full_file_system(program, rng, 2 * rounds))
        one("an NBD server that goes away", lambda: lost_server(program, rng, rounds))
        one("a file that goes away", lambda: lost_file(program, rng, rounds))
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
