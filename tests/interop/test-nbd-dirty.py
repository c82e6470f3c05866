#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Dirty bitmaps of NBD servers, as a backup reads them: of qemu-nbd, of `vdisk serve`, and of servers
that lie.

    tests/interop/test-nbd-dirty.py VDISK NBD-DIRTY

VD_TEST_SEED is the seed, VD_DIRTY_ROUNDS (6) the images.
"""
import errno
import json
import os
import random
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
import nbd_liar
import nbd_server
from nbd_liar import ACK, META, SET_META
from serving import run
from tap import Fault, Tap, work_folder

VDISK, DIRTY = (os.path.abspath(name) for name in sys.argv[1:3])
SEED = int(os.environ.get("VD_TEST_SEED", time.time_ns()))
ROUNDS = int(os.environ.get("VD_DIRTY_ROUNDS", "6"))
RNG = random.Random(SEED)
GRANULE = 65536
LIST_META = 9


def ask(uri, bitmap, size):
    """(errno, what it prints)"""
    done = subprocess.run([DIRTY, uri, bitmap, str(size)], capture_output=True, text=True,
                          check=False, timeout=120)
    if done.returncode == 0:
        return 0, done.stdout
    if done.returncode != 1 or done.stdout or done.stderr.count("\n") != 1:
        raise Fault(f"status {done.returncode}: {done.stdout}{done.stderr}")
    return int(done.stderr.split(":")[0]), done.stderr


def granules(runs):
    """Numbers of those that runs of (offset, length) touch."""
    return {granule for offset, length in runs
            for granule in range(offset // GRANULE, (offset + length - 1) // GRANULE + 1)}


def read(uri, bitmap, size):
    """Granules that are dirty."""
    code, text = ask(uri, bitmap, size)
    if code:
        raise Fault(text)
    return granules(tuple(map(int, line.split())) for line in text.splitlines())


def make_image(size, granularities):
    """With a bitmap b0, b1, ... of each granularity, and things written."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "image", size)
    for index, granularity in enumerate(granularities):
        run("qemu-img", "bitmap", "--add", "-g", granularity, "image", f"b{index}")
    commands = []
    for _ in range(RNG.choice([0, 1, 40, 400])):
        offset = RNG.randrange(size // 512) * 512
        length = min(size - offset, 512 * RNG.choice([1, 1, 8, 128, 4096]))
        commands += ["-c", f"write -P 7 {offset} {length}"]
    if commands:
        run("qemu-io", "-f", "qcow2", *commands, "image")


def same_as_nbdinfo(server, bitmap, size):
    """By our client and by libnbd's."""
    with server:
        mine = read(server.uri(), bitmap, size)
        runs = json.loads(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{bitmap}",
                              server.uri()))
    wanted = granules((one["offset"], one["length"]) for one in runs if one["type"])
    if mine != wanted:
        raise Fault(f"{bitmap}: {len(mine)} granules instead of {len(wanted)}")


def bitmaps_of_servers():
    """Random images: qemu-nbd and vdisk serve."""
    for _ in range(ROUNDS):
        size = 512 * RNG.choice([1, 127, 2048, 65536, 300001, 1 << 22])
        steps = [512, 4096, 65536, 1 << 20] if size < 1 << 28 else [65536, 1 << 20]
        make_image(size, steps)
        for index in range(len(steps)):
            bitmap = f"b{index}"
            same_as_nbdinfo(nbd_server.qemu_nbd("-r", "-f", "qcow2", "-B", bitmap, "image"),
                            bitmap, size)
            same_as_nbdinfo(nbd_server.vdisk_serve(VDISK, "-r", "-B", bitmap, "image"), bitmap,
                            size)
        os.unlink("image")


def refused(uri, bitmap, size, code, *words):
    """It fails so, and says this."""
    found, text = ask(uri, bitmap, size)
    if found != code or not all(word in text for word in words):
        raise Fault(f"{errno.errorcode.get(found, found)}: {text.strip()}")


def one_that_is_not_there():
    """The message tells what is."""
    make_image(1 << 20, [65536, 65536])
    for server in [nbd_server.qemu_nbd("-r", "-f", "qcow2", "-B", "b0", "image"),
                   nbd_server.vdisk_serve(VDISK, "-r", "-B", "b0", "-B", "b1", "image"),
                   nbd_server.vdisk_serve(VDISK, "-r", "image")]:
        with server:
            refused(server.uri(), "b2", 1 << 20, errno.ENOENT, "no bitmap 'b2'",
                    "'base:allocation'", *["'qemu:dirty-bitmap:b0'"][:"b0" in server.command])
            refused(server.uri(), "b" * 1000, 1 << 20, errno.ENOENT)
            refused(server.uri("other"), "b0", 1 << 20, errno.ENOENT)
    with nbd_server.nbdkit("null", "1M") as server:
        refused(server.uri(), "b0", 1 << 20, errno.ENOENT, "'base:allocation'")


def another_size():
    """The disk has been resized since."""
    make_image(1 << 20, [65536])
    with nbd_server.qemu_nbd("-r", "-f", "qcow2", "-B", "b0", "image") as server:
        refused(server.uri(), "b0", 2 << 20, errno.EMSGSIZE, "1048576", "2097152")
        refused(server.uri(), "b0", 1 << 19, errno.EMSGSIZE)


def no_server():
    """Nobody is there."""
    refused("nbd+unix:///?socket=nobody", "b0", 1 << 20, errno.ENOENT)
    refused("nbd+unix:///?socke=x", "b0", 1 << 20, errno.EINVAL)


# --- servers that lie

CONTEXT = b"qemu:dirty-bitmap:b0"


class HasBitmap(nbd_liar.Honest):
    """The context is b0, of which nothing is dirty."""

    name = "an honest server"
    context_name = CONTEXT

    def option(self, link, number):
        if number in (SET_META, LIST_META):
            self.answer(link, number, META, struct.pack(">I", 1) + self.context_name)
            self.answer(link, number, ACK)
        else:
            super().option(link, number)


def liar(name, wanted, **methods):
    """`wanted`: an error number, or the granules that are to be dirty."""
    return wanted, type("Liar", (HasBitmap,), {"name": name, **methods})


def close_once(self, link, cookie, offset, length):
    """The first connection ends in the middle."""
    if not getattr(self, "closed", False):
        self.closed = True
        raise nbd_liar.Gone
    nbd_liar.Honest.block_status(self, link, cookie, offset, length)


SIZE = nbd_liar.SIZE
ALL = set(range(SIZE // GRANULE))
LIES = [
    liar("nothing is dirty", set()),
    liar("all is dirty", ALL, extents=lambda self, offset, length: [(length, 1)]),
    liar("another bit than the one that is known", ALL,
         extents=lambda self, offset, length: [(length, 2)]),
    liar("a byte here and there", {1, 2, 8}, extents=lambda self, offset, length: [
        (2 * GRANULE - 1, 0), (2, 1), (6 * GRANULE - 1, 0), (1, 1), (length, 0)]),
    liar("answers of 4 KiB", ALL, extents=lambda self, offset, length: [
        (min(length, 4096), offset // 4096 & 1)]),
    liar("more than was asked for", ALL, extents=lambda self, offset, length: [
        (2**32 - 1, 1), (2**32 - 1, 1)]),
    liar("a connection that ends", {0}, block_status=close_once,
         extents=lambda self, offset, length: [(1, 1), (length - 1, 0)]),
    liar("no extents", errno.EIO, extents=lambda self, offset, length: []),
    liar("extents of no bytes", errno.EBADMSG, extents=lambda self, offset, length: [
        (length, 0), (0, 0)]),
    liar("no chunk", errno.EBADMSG, block_status=lambda self, link, cookie, offset, length:
         self.chunk(link, 1, nbd_liar.TYPE_NONE, cookie)),
    liar("extents of another context", errno.EBADMSG,
         block_status=lambda self, link, cookie, offset, length: self.chunk(
             link, 1, nbd_liar.TYPE_STATUS, cookie, struct.pack(">III", 9, length, 0))),
    liar("an error", errno.EIO, block_status=lambda self, link, cookie, offset, length:
         self.chunk(link, 1, nbd_liar.TYPE_ERROR, cookie, struct.pack(">IH", 5, 0))),
    liar("less than its smallest block", errno.EBADMSG,
         block_sizes=lambda self: (4096, 4096, 32 << 20),
         extents=lambda self, offset, length: [(512, 0)]),
    liar("another context", errno.ENOENT, context_name=b"qemu:dirty-bitmap:\x1b[31m"),
    liar("silence", errno.ETIMEDOUT, block_status=lambda self, link, *rest:
         self.receive(link, 1 << 30)),
]


def believe(wanted, server_class):
    """Asks a server that may lie."""
    with server_class():
        uri = "nbd+unix:///?socket=socket"
        if isinstance(wanted, set):
            found = read(uri, "b0", SIZE)
            if found != wanted:
                raise Fault(f"{sorted(found)} instead of {sorted(wanted)}")
        else:
            refused(uri, "b0", SIZE, wanted)


def main():
    """All tests."""
    tap = Tap()
    print(f"# VD_TEST_SEED={SEED}")
    with work_folder("nbd-dirty"):
        if nbd_server.have("qemu-nbd", "qemu-img", "nbdinfo"):
            tap.attempt("bitmaps of qemu-nbd and vdisk", bitmaps_of_servers)
            tap.attempt("a bitmap that is not there", one_that_is_not_there)
            tap.attempt("a disk of another size", another_size)
        tap.attempt("no server", no_server)
        for wanted, server_class in LIES:
            tap.attempt(server_class.name, lambda w=wanted, s=server_class: believe(w, s))
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
