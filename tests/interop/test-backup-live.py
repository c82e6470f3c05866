#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Incremental backups of a disk that QEMU has open, and that is written to all the time.

    tests/interop/test-backup-live.py VDISK

qemu-storage-daemon serves a qcow2 image to a client that writes, zeroes and trims without a pause.
For each backup a transaction of QMP adds the next bitmap, stops the last one and begins to keep what
is overwritten ("fleecing": blockdev-backup, sync=none); the disk of that instant is exported with the
last bitmap, and `vdisk backup` pulls it.  Each point has to be what qemu-img reads of the same export.
Some backups are killed and run again, some are given up: then both bitmaps are merged, as a manager
of virtual machines does it, and the next backup has to have all of it.

VD_LIVE_BACKUPS  incremental ones (default 10)
VD_TEST_SEED     seed (default: the time)
"""
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

from backups import GRANULE, KIB, MIB, Repository, digest, run
from tap import Fault, Tap, work_folder

try:
    import nbd
except ImportError:
    nbd = None

BACKUPS = int(os.environ.get("VD_LIVE_BACKUPS", "10"))
SEED = int(os.environ.get("VD_TEST_SEED", str(int(time.time()))))
SIZE = 64 * MIB
DAEMON = "qemu-storage-daemon"


class Daemon:
    """qemu-storage-daemon with the disk, and its QMP."""

    def __init__(self):
        self.log = open("daemon.log", "wb")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            [DAEMON, "--chardev", "socket,id=qmp,path=qmp,server=on,wait=off",
             "--monitor", "chardev=qmp",
             "--blockdev", "file,node-name=file,filename=disk.qcow2,discard=unmap",
             "--blockdev", "qcow2,node-name=disk,file=file,discard=unmap",
             "--nbd-server", "addr.type=unix,addr.path=nbd,max-connections=100",
             "--export", "nbd,id=guest,node-name=disk,name=guest,writable=on"],
            stdout=self.log, stderr=self.log)
        self.monitor = socket.socket(socket.AF_UNIX)
        self.lines = None

    def connect(self):
        for _ in range(500):
            if self.process.poll() is not None:
                break
            try:
                self.monitor.connect("qmp")
                self.lines = self.monitor.makefile("r", encoding="utf-8")
                self.lines.readline()  # the greeting
                self.qmp("qmp_capabilities")
                return
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.02)
        with open("daemon.log", encoding="utf-8", errors="replace") as log:
            raise Fault(f"{DAEMON} does not start: {log.read()[-500:]}")

    def qmp(self, command, **arguments):
        """What it returns; `arguments` have _ for -."""
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline() or '{"error": "the daemon has died"}')
            if "error" in answer:
                raise Fault(f"QMP: {command} {arguments}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def wait_until_gone(self, job):
        while any(one["id"] == job for one in self.qmp("query-jobs")):
            time.sleep(0.01)

    def wait_until_unexported(self, export):
        while any(one["id"] == export for one in self.qmp("query-block-exports")):
            time.sleep(0.01)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)
        self.monitor.close()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def uri(export):
    return f"nbd+unix:///{export}?socket={os.path.abspath('nbd')}"


class Guest(threading.Thread):
    """Writes, zeroes and trims until it is told to stop."""

    def __init__(self, rng):
        super().__init__()
        self.rng = rng
        self.handle = nbd.NBD()
        self.ends = threading.Event()
        self.goes = threading.Event()
        self.goes.set()
        self.requests = 0
        self.fault = None

    def request(self):
        rng = self.rng
        longest = 256 * KIB
        length = rng.choice([4 * KIB, 4 * KIB, 64 * KIB, rng.randint(1, longest // 512) * 512])
        # Most of it in a small part of the disk: what a backup reads is written to meanwhile.
        offset = int(SIZE * rng.betavariate(0.4, 4)) // 512 * 512 % (SIZE - length + 1)
        kind = rng.random()
        if kind < 0.8:
            self.handle.pwrite(rng.randbytes(length), offset)
        elif kind < 0.9:
            self.handle.zero(length, offset, rng.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        else:
            self.handle.trim(length, offset)
        if rng.random() < 0.02:
            self.handle.flush()
        self.requests += 1

    def run(self):
        try:
            self.handle.connect_uri(uri("guest"))
            while not self.ends.is_set():
                self.goes.wait()
                self.request()
                time.sleep(0.002)
            self.handle.shutdown()
        except nbd.Error as error:
            self.fault = str(error)

    def stop(self):
        self.goes.set()
        self.ends.set()
        self.join()
        if self.fault:
            raise Fault(f"the guest: {self.fault}")


class Manager:
    """Does what a manager of virtual machines does for a backup."""

    def __init__(self, program, daemon, rng):
        self.program = program
        self.daemon = daemon
        self.rng = rng
        self.repository = Repository(program, "repository")
        self.bitmap = None  # it records what has changed since the last point
        self.number = 0
        self.killed = 0

    def begin(self):
        """The disk of this instant becomes an export.  Returns the name of the next bitmap."""
        daemon = self.daemon
        self.number += 1
        following = f"bitmap-{self.number}"
        run("qemu-img", "create", "-q", "-f", "qcow2", "fleece.qcow2", SIZE)
        daemon.qmp("blockdev-add", node_name="fleece", driver="qcow2", backing="disk",
                   file={"driver": "file", "filename": "fleece.qcow2"})
        actions = [("block-dirty-bitmap-add",
                    {"node": "disk", "name": following, "persistent": True,
                     "granularity": GRANULE}),
                   ("blockdev-backup", {"job-id": "fleecing", "device": "disk", "target": "fleece",
                                        "sync": "none"})]
        export = {}
        if self.bitmap:
            actions.insert(1, ("block-dirty-bitmap-disable", {"node": "disk", "name": self.bitmap}))
            export["bitmaps"] = [{"node": "disk", "name": self.bitmap}]
        daemon.qmp("transaction", actions=[{"type": kind, "data": data} for kind, data in actions])
        daemon.qmp("block-export-add", type="nbd", id="backup", node_name="fleece", name="backup",
                   **export)
        return following

    def end(self):
        daemon = self.daemon
        daemon.qmp("block-export-del", id="backup", mode="hard")
        daemon.wait_until_unexported("backup")
        daemon.qmp("job-cancel", id="fleecing")
        daemon.wait_until_gone("fleecing")
        daemon.qmp("blockdev-del", node_name="fleece")
        os.unlink("fleece.qcow2")

    def options(self, following):
        named = ["--bitmap", self.bitmap] if self.bitmap and self.rng.random() < 0.5 else []
        return [*named, "--next-bitmap", following]

    def kill_one(self, following):
        """A backup that does not come to its end.  True: it did, nevertheless."""
        command = [self.program, "backup", "-q", *self.options(following), "--limit-rate", "4M",
                   uri("backup"), self.repository.name]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
            try:
                child.wait(0.1 + self.rng.random() * 0.4)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                self.killed += 1
        return child.returncode == 0

    def reference(self):
        """The digest of the export, by qemu-img."""
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri("backup"), "reference.raw")
        found = digest("reference.raw")
        os.unlink("reference.raw")
        return found

    def dirty_bytes(self):
        """What the last bitmap tells."""
        if not self.bitmap:
            return SIZE
        found = json.loads(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{self.bitmap}",
                               uri("backup")))
        return sum(extent["length"] for extent in found if extent["type"] & 1)

    def backup(self, kills=False):
        """A point."""
        following = self.begin()
        is_made = kills and self.kill_one(following)
        before = self.reference()
        if is_made:
            self.repository.points[max(self.repository.points, default=0) + 1] = before
            self.repository.formats[max(self.repository.points)] = "qcow2"
        else:
            self.judge_told(self.repository.backup(uri("backup"), before, *self.options(following)),
                            kills)
        if self.reference() != before:
            raise Fault("the export changes: this test does not do what it says")
        self.end()
        if self.bitmap:
            self.daemon.qmp("block-dirty-bitmap-remove", node="disk", name=self.bitmap)
        self.bitmap = following

    def judge_told(self, told, was_killed):
        """Was no more read than what the bitmap tells?"""
        dirty = self.dirty_bytes()
        wanted = ("incremental", "nbd") if self.bitmap else ("full", "none")
        if (told["kind"], told["tracker"]) != wanted or told["virtual-size"] != SIZE:
            raise Fault(f"not as wanted: {told}")
        if self.bitmap and not was_killed and told["changed-bytes"] != dirty:
            raise Fault(f"the bitmap tells of {dirty} bytes: {told}")
        if told["read-bytes"] > dirty:
            raise Fault(f"the bitmap tells of {dirty} bytes: {told}")
        print(f"# point {told['point']}: {told['kind']}, {told['changed-bytes']} bytes changed, "
              f"{told['read-bytes']} read, {told['stored-bytes']} stored"
              f"{', resumed' if told['resumed'] else ''}")

    def give_up(self):
        """A backup that is begun and given up: the changes since the last point are those of both
        bitmaps."""
        following = self.begin()
        is_made = self.kill_one(following)
        reference = self.reference()
        self.end()
        if is_made:  # it was too quick
            self.repository.points[max(self.repository.points) + 1] = reference
            self.repository.formats[max(self.repository.points)] = "qcow2"
            self.daemon.qmp("block-dirty-bitmap-remove", node="disk", name=self.bitmap)
            self.bitmap = following
            return
        self.daemon.qmp("block-dirty-bitmap-enable", node="disk", name=self.bitmap)
        self.daemon.qmp("block-dirty-bitmap-merge", node="disk", target=self.bitmap,
                        bitmaps=[following])
        self.daemon.qmp("block-dirty-bitmap-remove", node="disk", name=following)


def back_up_live(program, rng, repository_of):
    run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", SIZE)
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 17 0 24M", "disk.qcow2")
    with Daemon() as daemon:
        daemon.connect()
        guest = Guest(rng)
        guest.start()
        try:
            manager = Manager(program, daemon, rng)
            repository_of.append(manager.repository)
            for number in range(BACKUPS + 1):
                if number % 4 == 3:
                    manager.give_up()
                time.sleep(0.1)
                manager.backup(kills=number % 3 == 2)
        finally:
            guest.stop()
        print(f"# {guest.requests} requests of the guest; {manager.killed} backups killed")
        if guest.requests < BACKUPS or manager.killed == 0:
            raise Fault("the guest, or the test, was idle")


def judge(repository):
    repository.judge_list()
    repository.judge_names()
    repository.verify()
    for number in repository.points:
        repository.judge_point(number, by_qemu=True)


def wrong_bitmaps(program, repository):
    """After the machine has been shut down: what nobody can tell is an error."""
    with Daemon() as daemon:
        daemon.connect()
        for options in ((), ("--bitmap", "nowhere")):
            done = subprocess.run([program, "backup", *options, uri("guest"), repository.name],
                                  capture_output=True, text=True, check=False)
            if done.returncode != 1 or not done.stderr.startswith("vdisk: "):
                raise Fault(f"{options}: status {done.returncode}: {done.stderr}")
    judge(repository)


def go_on_offline(program, repository, rng):
    """The machine is shut down: the next backups read the image itself."""
    for options in (["--compare", "--moved"], [], []):
        run(program, "io", "-f", "qcow2", "-c",
            f"write -q -P {rng.randrange(1, 256)} {rng.randrange(900)}k 100k", "disk.qcow2")
        run(program, "convert", "-q", "-f", "qcow2", "-O", "raw", "disk.qcow2", "reference.raw")
        told = repository.backup("disk.qcow2", digest("reference.raw"), *options)
        if told["kind"] != "incremental" or told["tracker"] != ("compare" if options else "bitmap"):
            raise Fault(f"{options}: {told}")
    judge(repository)


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    missing = [name for name in (DAEMON, "qemu-img", "qemu-io", "nbdinfo") if not shutil.which(name)]
    if not nbd:
        missing.append("libnbd for Python")
    if missing:
        print("1..0 # SKIP no", ", ".join(missing))
        return 0
    program = os.path.abspath(sys.argv[1])
    print("# seed", SEED)
    rng = random.Random(SEED)
    repositories = []
    parts = [(f"{BACKUPS} incremental backups while the disk is written to",
              lambda: back_up_live(program, rng, repositories)),
             ("every point is what the export showed", lambda: judge(repositories[0])),
             ("no bitmap, or a wrong one", lambda: wrong_bitmaps(program, repositories[0])),
             ("and on without QEMU", lambda: go_on_offline(program, repositories[0], rng))]
    tap = Tap()
    with work_folder("backup-live"):
        for name, part in parts:
            try:
                part()
                tap.report(name)
            except (Fault, nbd.Error) as fault:
                tap.report(name, [str(fault)])
                break
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
