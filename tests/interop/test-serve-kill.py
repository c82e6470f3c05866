#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""kill -9 of `vdisk serve` at random moments, under clients that write, zero, trim and flush.

    tests/interop/test-serve-kill.py VDISK [FORMAT]...

After each kill the image has to be sound (leaked clusters are allowed), and each sector to hold what
it was told to hold before the last flush, or by a request after it; a request that was not answered
may have happened or not.  Then the next server goes on with the same image.

VD_KILLS      kills, of all formats together (default 10; 200 for a full run)
VD_TEST_SEED  seed (default: the time)
"""
import os
import random
import shutil
import subprocess
import sys
import threading
import time

from serving import Server, run
from tap import Fault, Tap, clear, work_folder

try:
    import nbd
except ImportError:
    nbd = None

KILLS = int(os.environ.get("VD_KILLS", "10"))
SEED = int(os.environ.get("VD_TEST_SEED", str(int(time.time()))))
FORMATS = ["raw", "gow3", "qed", "add-cow", "qcow2"]

SECTOR = 512
SIZE = 8 << 20
SECTORS = SIZE // SECTOR
LONGEST = 96 << 10
UNDER_WAY = 24
KILL_SECONDS = 0.25  # after the first request at the latest
ZEROS = bytes(SECTOR)


class Disk:
    """What each sector may hold: the contents that are possible, most of them one."""

    def __init__(self):
        self.may = [{ZEROS} for _ in range(SECTORS)]
        self.flushed = [0] * SECTORS  # how many times a flush has settled it

    def told(self, first, contents):
        """A request for these sectors is on its way: it may happen or not."""
        for index, content in enumerate(contents):
            self.may[first + index] = self.may[first + index] | {content}

    def settled(self, settled):
        """A flush has covered {sector: contents of its last request}."""
        for sector, contents in settled.items():
            self.may[sector] = contents
            self.flushed[sector] += 1

    def judge(self, path):
        """Compares, and knows what it is from now on.  Returns how many flushed sectors there were;
        raises Fault."""
        lost = []
        with open(path, "rb") as file:
            for sector, may in enumerate(self.may):
                found = file.read(SECTOR)
                if found not in may:
                    lost.append(sector)
                self.may[sector] = {found}
        if lost:
            raise Fault(f"{len(lost)} sectors hold what they must not, the first at offset "
                        f"{lost[0] * SECTOR}")
        return sum(1 for count in self.flushed if count)


class Client:
    """Keeps requests under way that do not overlap, until the server is gone.

    `acknowledged` has what was answered since the last flush was sent; a flush settles what was
    answered before it was sent, and was not asked for anew since.
    """

    def __init__(self, disk, rng, uri):
        self.disk = disk
        self.rng = rng
        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)
        self.under_way = {}     # cookie: (kind, first, contents, what a flush covers)
        self.busy = set()       # sectors of requests under way
        self.acknowledged = {}  # sector: contents, of which one is there for certain
        self.answers = 0
        self.flushes = 0

    def ask(self):
        rng = self.rng
        if rng.random() < 0.06:
            cookie = self.handle.aio_flush()
            self.under_way[cookie] = ("flush", 0, (), dict(self.acknowledged))
            return
        length = SECTOR * rng.choice([1, 3, 8, 8, 16, rng.randint(1, LONGEST // SECTOR)])
        first = rng.randrange(SECTORS - length // SECTOR + 1)
        sectors = range(first, first + length // SECTOR)
        if rng.random() < 0.5:
            first -= first % 8
            sectors = range(first, first + len(sectors))
        if not self.busy.isdisjoint(sectors):
            return
        self.send(first, length, sectors)

    def send(self, first, length, sectors):
        rng = self.rng
        kind = rng.choice(["write"] * 6 + ["zero", "zero", "trim"])
        flags = nbd.CMD_FLAG_FUA if rng.random() < 0.05 else 0
        contents = [ZEROS] * len(sectors)
        if kind == "write":
            data = rng.randbytes(length)
            contents = [data[at:at + SECTOR] for at in range(0, length, SECTOR)]
            buffer = nbd.Buffer.from_bytearray(bytearray(data))
            cookie = self.handle.aio_pwrite(buffer, first * SECTOR, flags=flags)
        elif kind == "zero":
            buffer = None
            flags |= rng.choice([0, nbd.CMD_FLAG_NO_HOLE])
            cookie = self.handle.aio_zero(length, first * SECTOR, flags=flags)
        else:
            buffer = None
            cookie = self.handle.aio_trim(length, first * SECTOR, flags=flags)
        before = [self.acknowledged.get(s, self.disk.may[s]) for s in sectors]
        self.disk.told(first, contents)
        for sector in sectors:  # a flush that is under way settles none of these any more
            self.acknowledged.pop(sector, None)
        self.busy.update(sectors)
        self.under_way[cookie] = (kind, first, contents, (before, flags, buffer))

    def answered(self, cookie):
        kind, first, contents, more = self.under_way.pop(cookie)
        self.answers += 1
        if kind == "flush":
            self.flushes += 1
            current = {s: c for s, c in more.items() if self.acknowledged.get(s) is c}
            self.disk.settled(current)
            return
        before, flags, _ = more
        for index, content in enumerate(contents):
            sector = first + index
            # What is trimmed may be zero, or any of what it may have been.
            may = {content} | (before[index] if kind == "trim" else set())
            self.acknowledged[sector] = may
            self.busy.discard(sector)
        if flags & nbd.CMD_FLAG_FUA:
            self.disk.settled({first + i: self.acknowledged[first + i]
                               for i in range(len(contents))})

    def work(self):
        """Returns when the connection breaks."""
        try:
            while True:
                while len(self.under_way) < UNDER_WAY:
                    self.ask()
                self.handle.poll(-1)
                for cookie in list(self.under_way):
                    if self.handle.aio_command_completed(cookie):
                        self.answered(cookie)
        except nbd.Error as error:
            if not self.handle.aio_is_dead() and not self.handle.aio_is_closed():
                raise Fault(f"a request failed: {error}") from error


class Killer(threading.Thread):
    """Kills the server after a while."""

    def __init__(self, server, seconds):
        super().__init__()
        self.server = server
        self.seconds = seconds

    def run(self):
        time.sleep(self.seconds)
        self.server.process.kill()


def check(program, image_format, image):
    """Sound, but for leaks.  Returns whether there were any."""
    if image_format == "raw":
        return False
    statuses = []
    commands = [[program, "check", "-f", image_format, image]]
    if image_format in ("qcow2", "qed"):
        commands.append(["qemu-img", "check", "-f", image_format, image])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            raise Fault(f"{' '.join(command)}: status {done.returncode}: "
                        f"{(done.stdout + done.stderr)[-400:]}")
        statuses.append(done.returncode)
    return 3 in statuses


def kill_once(program, image_format, image, disk, rng):
    server = Server(program, "-f", image_format, image)
    killer = Killer(server, rng.random() * KILL_SECONDS)
    try:
        client = Client(disk, rng, server.uri)
        killer.start()
        client.work()
    finally:
        server.kill()
        if killer.is_alive():
            killer.join()
    leaks = check(program, image_format, image)
    run(program, "convert", "-f", image_format, "-O", "raw", image, "judged.raw")
    flushed = disk.judge("judged.raw")
    os.unlink("judged.raw")
    return client, leaks, flushed


def run_format(program, image_format, kills, rng):
    image = "disk." + image_format
    files = ["-o", "image_file=disk.data"] if image_format == "add-cow" else []
    run(program, "create", "-q", "-f", image_format, *files, image, SIZE)
    disk = Disk()
    answers = flushes = leaks = flushed = 0
    for number in range(kills):
        try:
            client, has_leaks, flushed = kill_once(program, image_format, image, disk, rng)
        except Fault as fault:
            raise Fault(f"kill {number + 1}: {fault}") from fault
        answers += client.answers
        flushes += client.flushes
        leaks += has_leaks
    print(f"# {image_format}: {kills} kills, {answers} requests answered, {flushes} flushes; "
          f"{flushed * SECTOR} bytes flushed at least once, none lost; leaks after {leaks} kills")
    if kills and not answers:
        raise Fault("no request was ever answered")
    with Server(program, "-f", image_format, image) as server:  # a good end, after all
        handle = nbd.NBD()
        handle.connect_uri(server.uri)
        handle.pwrite(b"\1" * SECTOR, 0)
        handle.shutdown()
    if image_format != "raw":
        run(program, "check", "-r", "all", "-f", image_format, image)
        run(program, "check", "-f", image_format, image)


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    if not nbd or not shutil.which("qemu-img"):
        print("1..0 # SKIP no", "qemu-img" if nbd else "libnbd for Python")
        return 0
    program = os.path.abspath(sys.argv[1])
    formats = sys.argv[2:] or FORMATS
    print("# seed", SEED)
    tap = Tap()
    with work_folder("serve-kill"):
        for index, image_format in enumerate(formats):
            kills = KILLS // len(formats) + (index < KILLS % len(formats))
            rng = random.Random(f"{SEED} {image_format}")
            try:
                run_format(program, image_format, kills, rng)
                tap.report(f"{image_format}: {kills} kills")
            except (Fault, nbd.Error) as fault:
                tap.report(f"{image_format}: {kills} kills", [fault])
            clear()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
