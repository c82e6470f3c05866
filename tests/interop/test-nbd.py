#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Exports of NBD servers as images: every verb, several servers, servers that fail or die.

    tests/interop/test-nbd.py VDISK NBD_STRESS

VD_TEST_SEED is the seed; VD_NBD_OPS (400) is how many operations each thread does on each server.
"""
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
from nbd_server import have, nbdkit, qemu_nbd, vdisk_serve
from tap import Fault, Tap, work_folder

SEED = int(os.environ.get("VD_TEST_SEED", time.time_ns() % 1000000))
OPS = os.environ.get("VD_NBD_OPS", "400")
VDISK = os.path.abspath(sys.argv[1])
STRESS = os.path.abspath(sys.argv[2])
RNG = random.Random(SEED)
MIB = 1 << 20


def run(*command, status=0, says=None):
    """Its output; the exit status and the messages have to be as said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, timeout=300)
    shown = " ".join(command)
    if done.returncode != status:
        raise Fault(f"{shown}: status {done.returncode} instead of {status}: {done.stderr}")
    if says is not None and not re.search(says, done.stderr):
        raise Fault(f"{shown}: says {done.stderr!r}, and not {says!r}")
    return done.stdout


def vdisk(*arguments, **wanted):
    """Runs vdisk."""
    return run(VDISK, *arguments, **wanted)


def make_raw(name, mib=16, pieces=12):
    """A file of holes with random data here and there."""
    with open(name, "wb") as file:
        file.truncate(mib * MIB)
        for _ in range(pieces):
            file.seek(RNG.randrange(mib * MIB - 300000) & ~4095)
            file.write(RNG.randbytes(RNG.randrange(1, 300000)))


def same(first, second):
    """Have both files the same content?"""
    with open(first, "rb") as one, open(second, "rb") as other:
        if one.read() != other.read():
            raise Fault(f"{first} and {second} differ")


def empty(name, mib=16):
    """A file of zeros."""
    with open(name, "wb") as file:
        file.truncate(mib * MIB)


# --- many servers

def stress(server, *more):
    """Threads that do all there is, against a plain array."""
    with server:
        print("# " + run(STRESS, server.uri(), "4", OPS, str(SEED), *more).strip())


def stress_kinds():
    """Servers with one ability or another missing."""
    memory = ["memory", "16M"]

    def policy(minimum, maximum="32M"):
        return ["--filter=blocksize-policy", *memory, f"blocksize-minimum={minimum}",
                f"blocksize-preferred={max(minimum, 4096)}", f"blocksize-maximum={maximum}",
                "blocksize-error-policy=error"]

    yield "nbdkit memory", lambda: nbdkit(*memory), ()
    yield "nbdkit, one connection", lambda: nbdkit(*memory), ("1",)
    yield "nbdkit, many connections", lambda: nbdkit(*memory), ("16",)
    yield "nbdkit, synchronous", lambda: nbdkit(*memory), ("4", "sync")
    yield "nbdkit, blocks of 512", lambda: nbdkit(*policy(512)), ()
    yield "nbdkit, blocks of 4096", lambda: nbdkit(*policy(4096)), ()
    yield "nbdkit, blocks of 64 KiB, synchronous", lambda: nbdkit(*policy(65536)), ("4", "sync")
    yield "nbdkit, at most 64 KiB", lambda: nbdkit(*policy(1, "64K")), ()
    yield "nbdkit, no zeroes", lambda: nbdkit("--filter=nozero", *memory, "zeromode=none"), ()
    yield "nbdkit, no extents", lambda: nbdkit("--filter=noextents", *memory), ()
    yield ("nbdkit, no multi-conn",
           lambda: nbdkit("--filter=multi-conn", *memory, "multi-conn-mode=disable"), ())
    yield ("nbdkit, plain replies",
           lambda: nbdkit("--no-sr", *memory), ())
    yield ("nbdkit, answers late and out of order",
           lambda: nbdkit("--filter=delay", *memory, "rdelay=2ms", "wdelay=1ms"), ())
    yield "nbdkit, a file", lambda: nbdkit("file", "file.raw"), ()
    if have("qemu-nbd"):
        yield ("qemu-nbd, raw",
               lambda: qemu_nbd("--format=raw", "--shared=0", "--discard=unmap",
                                "--detect-zeroes=unmap", "file.raw"), ())
        yield "qemu-nbd, one client", lambda: qemu_nbd("--format=raw", "file.raw"), ()
        yield ("qemu-nbd, two clients",
               lambda: qemu_nbd("--format=raw", "--shared=2", "file.raw"), ())
        yield ("qemu-nbd, qcow2",
               lambda: qemu_nbd("--format=qcow2", "--shared=8", "file.qcow2"), ())


    for name in ("raw", "qcow2", "gow3"):
        yield (f"vdisk serve, {name}",
               lambda n=name: vdisk_serve(VDISK, "-f", n, "-e", "0", f"file.{n}"), ())
    yield "vdisk serve, one client", lambda: vdisk_serve(VDISK, "-f", "raw", "file.raw"), ()
    yield ("vdisk serve, synchronous", lambda: vdisk_serve(VDISK, "-f", "raw", "-e", "0", "file.raw"),
           ("4", "sync"))


def stress_one(start, more):
    """With the files that some servers serve."""
    make_raw("file.raw")
    vdisk("convert", "-O", "qcow2", "file.raw", "file.qcow2")
    vdisk("convert", "-O", "gow3", "file.raw", "file.gow3")
    stress(start(), *more)


# --- verbs

def from_and_to():
    """Out of an export and into one, beside qemu-img."""
    make_raw("a.raw")
    for back in (lambda name: nbdkit("file", name), lambda name: qemu_nbd("-f", "raw", name),
                 lambda name: vdisk_serve(VDISK, "-f", "raw", "-e", "0", name)):
        with back("a.raw") as server:
            uri = server.uri()
            vdisk("convert", "-O", "raw", uri, "b.raw")
            same("a.raw", "b.raw")
            vdisk("convert", "-O", "qcow2", uri, "b.qcow2")
            vdisk("compare", uri, "b.qcow2")
            run("qemu-img", "compare", "a.raw", "b.qcow2")
            vdisk("dd", f"if={uri}", "of=d.raw", "-O", "raw", "bs=1M", "count=3", "skip=1")
            vdisk("measure", "-O", "qcow2", uri)
            vdisk("bench", "-f", "raw", "-c", "200", "-d", "8", uri)
            vdisk("check", "-f", "raw", uri, status=63)
            info = json.loads(vdisk("info", "--output=json", uri))
            if info["format"] != "raw" or info["virtual-size"] != 16 * MIB:
                raise Fault(f"info says {info}")
            ours = json.loads(vdisk("map", "-f", "raw", "--output=json", uri))
            theirs = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", uri))
            zeros = [[(e["start"], e["length"]) for e in it if e["zero"]] for it in (ours, theirs)]
            if zeros[0] != zeros[1]:
                raise Fault(f"map: {zeros[0]} instead of {zeros[1]}")
        empty("c.raw")
        with back("c.raw") as server:
            vdisk("convert", "-n", "-O", "raw", "a.raw", server.uri())
            vdisk("compare", "-f", "raw", "-F", "raw", "a.raw", server.uri())
            same("a.raw", "c.raw")
            vdisk("io", "-f", "raw", "-c", "write -P 7 1M 1M", "-c", "write -z 1M 64k", "-c",
                  "read -P 0 1M 64k", "-c", "read -P 7 1088k 960k", "-c", "discard 4M 4M", "-c",
                  "flush", server.uri())
            vdisk("convert", "-n", "-O", "raw", "a.raw", server.uri())
            same("a.raw", "c.raw")


def restored():
    """A point of a repository goes to an export, over what is there."""
    make_raw("a.raw")
    vdisk("backup", "-f", "raw", "a.raw", "repo")
    shutil.copyfile("a.raw", "first.raw")
    with open("a.raw", "r+b") as file:
        file.seek(5 * MIB + 512)
        file.write(RNG.randbytes(100000))
        file.seek(RNG.randrange(16) * MIB)
        file.write(bytes(MIB))
    vdisk("backup", "--compare", "-f", "raw", "a.raw", "repo")
    for back in (lambda name: nbdkit("file", name), lambda name: qemu_nbd("-f", "raw", name),
                 lambda name: vdisk_serve(VDISK, "-f", "raw", "-e", "0", name)):
        for point, disk in ("repo@1", "first.raw"), ("repo", "a.raw"):
            with open("c.raw", "wb") as file:
                file.write(RNG.randbytes(16 * MIB))
            with back("c.raw") as server:
                vdisk("restore", "-n", "-O", "raw", point, server.uri())
            same(disk, "c.raw")
    empty("c.raw", 15)
    with qemu_nbd("-f", "raw", "c.raw") as server:
        vdisk("restore", "-n", "-O", "raw", "repo", server.uri(), status=1, says="resize it first")
    image = "repo/000001.qcow2"
    with open(image, "r+b") as file:
        file.seek(os.path.getsize(image) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    empty("c.raw")
    with qemu_nbd("-f", "raw", "c.raw") as server:
        vdisk("restore", "-n", "-O", "raw", "repo", server.uri(), status=1,
              says="000001.qcow2: damaged")


def formats():
    """Images within an export: made, written, checked, read by QEMU."""
    make_raw("a.raw", 8)
    for name in ("qcow2", "gow3", "qed"):
        empty("room.img", 64)
        with nbdkit("file", "room.img") as server:
            uri = server.uri()
            if name == "qed":
                vdisk("create", "-f", name, uri, "8M", status=1, says="can not change its length")
                continue
            vdisk("create", "-f", name, uri, "8M")
            vdisk("convert", "-n", "-f", "raw", "-O", name, "a.raw", uri)
            vdisk("compare", "-f", "raw", "-F", name, "a.raw", uri)
            vdisk("io", "-f", name, "-c", "write -P 9 1M 300k", "-c", "write -z 2M 64k", "-c",
                  "discard 3M 1M", "-c", "flush", "-c", "read -P 9 1M 300k", uri)
            # The end of an export that holds GOW may be no whole block: a leak.
            vdisk("check", uri, status=3 if name == "gow3" else 0)
            vdisk("convert", "-f", name, "-O", "raw", uri, "b.raw")
        vdisk("compare", "-f", name, "-F", "raw", "room.img", "b.raw")
        if name == "qcow2":
            run("qemu-img", "check", "-f", name, "room.img")
            run("qemu-img", "compare", "-f", name, "-F", "raw", "room.img", "b.raw")
    # Where there is no room, nothing is lost.
    empty("small.img", 2)
    with nbdkit("file", "small.img") as server:
        uri = server.uri()
        vdisk("create", "-f", "qcow2", uri, "8M")
        vdisk("io", "-f", "qcow2", "-c", "write -P 1 0 1M", uri)
        vdisk("io", "-f", "qcow2", "-c", "write -P 2 1M 4M", uri, status=1, says="no room")
        vdisk("check", uri)
        vdisk("io", "-f", "qcow2", "-c", "read -P 1 0 1M", uri)
        vdisk("resize", "-f", "raw", uri, "4M", status=1, says="the device has")


def sync():
    """A master of GOW v3 behind a server: only what has changed is fetched."""
    make_raw("a.raw", 64, 60)
    vdisk("convert", "-O", "gow3", "a.raw", "master.gow")
    with nbdkit("--filter=log", "file", "master.gow", "logfile=log") as server:
        def synced():
            done = json.loads(vdisk("sync", "--output=json", server.uri(), "replica.gow"))
            vdisk("compare", "master.gow", "replica.gow")
            return done
        synced()
        if not synced()["unchanged"]:
            raise Fault("nothing has changed, and it was fetched")
        vdisk("io", "-f", "gow3", "-c", "write -P 3 5M 128k", "-c", "write -P 4 40M 64k",
              "master.gow")
        done = synced()
        if done["fetched-blocks"] != 3:
            raise Fault(f"3 blocks have changed: {done}")
    with open("log", encoding="utf-8") as log:
        reads = [int(n, 0) for n in re.findall(r" Read .*?count=(0x[0-9a-f]+)", log.read())]
    total = sum(reads)
    print(f"# {len(reads)} reads, {total} bytes")
    if total > 64 * MIB:
        raise Fault(f"{total} bytes were read of the master")


# --- errors

def refused():
    """What can not be opened says why, and names the export."""
    vdisk("info", f"nbd+unix:///x?socket={os.getcwd()}/nobody", status=1,
          says="nbd.unix:///x.*(No such file|refused)")
    vdisk("info", "nbd://127.0.0.1:1/x", status=1, says="nbd://127.0.0.1:1/x.*refused")
    vdisk("info", "nbd://127.0.0.1:1/x?tls-psk-file=k", status=1, says="only nbds")
    make_raw("a.raw")
    with nbdkit("--exportname=", "--filter=exportname", "file", "a.raw", "exportname=disk",
                "exportname-strict=true") as server:
        vdisk("info", server.uri("disk"))
        vdisk("info", server.uri("disc"), status=1, says="disc.*export")
        vdisk("info", server.uri("disk", tls=True), status=1, says="TLS")
    with nbdkit("-r", "file", "a.raw") as server:
        vdisk("io", "-f", "raw", "-c", "write 0 4k", server.uri(), status=1, says="only be read")
        vdisk("convert", "-n", "-O", "raw", "a.raw", server.uri(), status=1, says="only be read")
    with nbdkit("--filter=error", "file", "a.raw", "error-pread=EIO", "error-pread-rate=1") as bad:
        vdisk("convert", "-O", "raw", bad.uri(), "b.raw", status=1, says="can not read .*offset")
        if os.path.exists("b.raw"):
            raise Fault("half a copy is left")
    empty("c.raw")
    with nbdkit("--filter=error", "file", "c.raw", "error-pwrite=ENOSPC",
                "error-pwrite-rate=1") as full:
        vdisk("convert", "-n", "-O", "raw", "a.raw", full.uri(), status=1, says="No space left")
    with nbdkit("--filter=delay", "file", "a.raw", "rdelay=60") as slow:
        begin = time.monotonic()
        vdisk("convert", "--timeout", "1", "--retries", "1", "-f", "raw", "-O", "raw", slow.uri(),
              "b.raw", status=1, says="did not answer for 1000 ms")
        if time.monotonic() - begin > 50:
            raise Fault("a silent server was waited for too long")
        slow.kill()


def make_overlay(name, backing):
    """An image that names `backing`, as anybody may write it."""
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, name, "16M")


def gate():
    """What an image names is opened only if the user permits it, and never with his keys."""
    make_raw("a.raw")
    with nbdkit("file", "a.raw") as server:
        uri = server.uri("e")
        make_overlay("top.qcow2", uri)
        vdisk("convert", "-O", "raw", "top.qcow2", "b.raw", status=1, says="not permitted")
        vdisk("convert", "--allow-path", uri, "-O", "raw", "top.qcow2", "b.raw")
        same("a.raw", "b.raw")
        name = json.dumps({"driver": "raw", "file": {
            "driver": "nbd", "export": "e",
            "server": {"type": "unix", "path": server.socket}}})
        make_overlay("json.qcow2", "json:" + name)
        vdisk("compare", "json.qcow2", "a.raw", status=2, says="--allow-json")
        vdisk("compare", "--allow-json", "json.qcow2", "a.raw", status=2, says="not permitted")
        vdisk("compare", "--allow-json", "--allow-path", uri, "json.qcow2", "a.raw")
        keys = server.uri("e", "&tls-psk-file=/etc/passwd", tls=True)
        make_overlay("keys.qcow2", keys)
        vdisk("convert", "--allow-path", keys, "-O", "raw", "keys.qcow2", "b.raw", status=1,
              says="keys")
        # An image in an export does not reach what else its server has.
        make_overlay("inner.qcow2", server.uri("other"))
    with nbdkit("file", "inner.qcow2") as server:
        vdisk("convert", "-O", "raw", server.uri(), "b.raw", status=1, says="not permitted")
        make_overlay("inner.qcow2", "a.raw")
        vdisk("convert", "-O", "raw", server.uri(), "b.raw", status=1, says="only a whole URI")


def tls_psk():
    """With a key that both know."""
    make_raw("a.raw")
    with open("keys", "w", encoding="utf-8") as keys:
        keys.write("alice:" + RNG.randbytes(32).hex() + "\n")
    with open("wrong", "w", encoding="utf-8") as keys:
        keys.write("alice:" + RNG.randbytes(32).hex() + "\n")
    psk = f"&tls-psk-file={os.path.abspath('keys')}"
    with nbdkit("--tls=require", f"--tls-psk={os.path.abspath('keys')}", "file",
                "a.raw") as server:
        secret = server.uri("", psk, tls=True).replace("//", "//alice@", 1)
        vdisk("convert", "-O", "raw", secret, "b.raw")
        same("a.raw", "b.raw")
        vdisk("info", server.uri("", "&tls-certificates=/", tls=True), status=1, says="key")
        wrong = secret.replace("/keys", "/wrong")
        vdisk("info", wrong, status=1, says="TLS|tls|gnutls")
        vdisk("info", server.uri(), status=1, says="TLS")


def tls_certificates():
    """The server's certificate has to be for the name that was asked for."""
    make_raw("a.raw")
    os.mkdir("pki")

    def openssl(*arguments):
        run("openssl", *arguments)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=authority",
            "-keyout", "pki/ca-key.pem", "-out", "pki/ca-cert.pem")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout",
            "pki/server-key.pem", "-out", "request")
    with open("extensions", "w", encoding="utf-8") as file:
        file.write("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-days", "2", "-in", "request", "-CA", "pki/ca-cert.pem", "-CAkey",
            "pki/ca-key.pem", "-CAcreateserial", "-extfile", "extensions", "-out",
            "pki/server-cert.pem")
    os.mkdir("client")
    with open("pki/ca-cert.pem", "rb") as one, open("client/ca-cert.pem", "wb") as other:
        other.write(one.read())
    os.mkdir("nothing")
    os.mkdir("others")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other",
            "-keyout", "others/key.pem", "-out", "others/ca-cert.pem")
    port = str(RNG.randrange(20000, 30000))
    server = nbdkit("--tls=require", f"--tls-certificates={os.path.abspath('pki')}", "file",
                    "a.raw")
    place = server.command.index("--unix")
    server.command[place:place + 2] = ["--port", port, "--pidfile", server.socket]
    with server:
        trust = f"?tls-certificates={os.path.abspath('client')}"
        vdisk("convert", "-O", "raw", f"nbds://localhost:{port}/{trust}", "b.raw")
        same("a.raw", "b.raw")
        vdisk("info", f"nbds://127.0.0.1:{port}/{trust}", status=1, says="erti|TLS|tls")
        vdisk("info", f"nbds://localhost:{port}/", status=1, says="who is to be trusted")
        vdisk("info", f"nbds://localhost:{port}/?tls-certificates={os.path.abspath('nothing')}",
              status=1, says="nothing/ca-cert.pem")
        vdisk("info", f"nbds://localhost:{port}/?tls-certificates={os.path.abspath('others')}",
              status=1, says="erti")
        vdisk("info", "--ca-file", "pki/ca-cert.pem", f"nbds://localhost:{port}/", status=1,
              says="tls-certificates")
        vdisk("info", f"nbd://localhost:{port}/", status=1, says="TLS")


# --- servers that die

SLOW = ["--filter=delay", "file"]
DELAYS = ["rdelay=30ms", "wdelay=20ms"]


class Killer(threading.Thread):
    """Kills the server `moment` seconds from now, and starts it again after `pause`.

    nbdkit ends when the thread that started it does, so this one stays until it is left.
    """

    def __init__(self, server, moment, pause, meanwhile=lambda: None):
        super().__init__()
        self.server = server
        self.moment = moment
        self.pause = pause
        self.meanwhile = meanwhile
        self.over = threading.Event()

    def run(self):
        time.sleep(self.moment)
        self.server.kill()
        if self.pause is not None:
            time.sleep(self.pause)
            self.meanwhile()
            self.server.start()
        self.over.wait()
        self.server.stop()

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.over.set()
        self.join()


def dies_while_read():
    """A conversion goes on where it was when the server is back."""
    make_raw("a.raw", 64, 150)
    for _ in range(4):
        with nbdkit(*SLOW, "a.raw", *DELAYS) as server:
            with Killer(server, RNG.uniform(0.3, 0.7), RNG.uniform(0, 0.5)):
                vdisk("convert", "-f", "raw", "-O", "raw", server.uri(), "b.raw")
        same("a.raw", "b.raw")


def dies_while_written():
    """What a dead server had acknowledged is not known to be there: this is said, never hidden."""
    make_raw("a.raw", 64, 150)
    ends = {0: 0, 1: 0}
    for _ in range(6):
        empty("c.raw", 64)
        with nbdkit(*SLOW, "c.raw", *DELAYS) as server:
            with Killer(server, RNG.uniform(0.2, 0.7), RNG.uniform(0, 0.3)):
                done = subprocess.run([VDISK, "convert", "-n", "-f", "raw", "-O", "raw", "a.raw",
                                       server.uri()], stdin=subprocess.DEVNULL,
                                      capture_output=True, text=True, check=False, timeout=300)
        if done.returncode not in ends:
            raise Fault(f"status {done.returncode}: {done.stderr}")
        ends[done.returncode] += 1
        if done.returncode == 0:
            same("a.raw", "c.raw")
        elif not re.search("may be lost|refused|No such file", done.stderr):
            raise Fault(f"says {done.stderr!r}")
    print(f"# {ends[0]} good, {ends[1]} said that data may be lost")


def dies_between_durable_writes():
    """Where each write is durable before it is acknowledged, none is lost, and all goes on."""
    empty("c.raw", 64)
    with nbdkit(*SLOW, "c.raw", *DELAYS) as server:
        with Killer(server, 0.5, 0.3):
            vdisk("io", "-f", "raw", "-t", "directsync",
                  *[word for i in range(40) for word in ("-c", f"write -P {i + 1} {i}M 64k")],
                  server.uri())
    with nbdkit("file", "c.raw") as server:
        vdisk("io", "-f", "raw",
              *[word for i in range(40) for word in ("-c", f"read -P {i + 1} {i}M 64k")],
              server.uri())


def never_comes_back():
    """An end, and soon."""
    make_raw("a.raw", 64, 150)
    with nbdkit(*SLOW, "a.raw", *DELAYS) as server:
        with Killer(server, 0.4, None):
            vdisk("convert", "--retries", "2", "-f", "raw", "-O", "raw", server.uri(), "b.raw",
                  status=1, says="refused|closed|reset|disconnected")


def another_disk():
    """A server that comes back with another disk is not taken for the old one."""
    make_raw("a.raw", 64, 150)
    with nbdkit(*SLOW, "a.raw", *DELAYS) as server:
        with Killer(server, 0.4, 0, lambda: os.truncate("a.raw", 32 * MIB)):
            vdisk("convert", "-f", "raw", "-O", "raw", server.uri(), "b.raw", status=1,
                  says="export has changed")


def main():
    """All tests."""
    tap = Tap()
    print(f"# seed {SEED}")
    if not have("nbdkit", "qemu-nbd", "qemu-img", "openssl"):
        print("1..0 # SKIP no nbdkit, qemu-nbd or openssl")
        return 0
    with work_folder("nbd"):
        for name, start, more in stress_kinds():
            tap.attempt("stress: " + name, lambda s=start, m=more: stress_one(s, m))
        for test in (from_and_to, restored, formats, sync, refused, gate, tls_psk, tls_certificates,
                     dies_while_read, dies_while_written,
                     dies_between_durable_writes, never_comes_back, another_disk):
            tap.attempt(test.__name__.replace("_", " "), test)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
