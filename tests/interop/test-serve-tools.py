#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`vdisk serve` and the clients that people have: nbdinfo, nbdcopy, libnbd, qemu-img, qemu-io, fio.

    tests/interop/test-serve-tools.py VDISK [FORMAT]...

For each format, a disk is written, read and asked about by each client, by every command and flag
of the protocol, and compared with a plain array; what the server says of the disk is compared with
what qemu-nbd says of the same image; in the end the image has to be sound.

Debian does not ship nbd-tester-client.  What it does is done by `integrity()`: a client of our own
(nbd_wire.py), which uses the handshake of NBD_OPT_EXPORT_NAME and simple replies, keeps many
requests under way, and compares every byte that comes back; and then reads as fast as it can.

VD_SERVE_OPS       operations of each random test (default 300)
VD_SERVE_SECONDS   of the throughput run (default 1)
VD_TEST_SEED       seed (default: the time)
"""
import json
import os
import random
import shutil
import sys
import time

from serving import QemuServer, Server, run
from tap import Fault, Tap, clear, work_folder

try:
    import nbd
except ImportError:
    nbd = None

KIB = 1 << 10
MIB = 1 << 20
SIZE = 40 * MIB  # more than a request may have
AREA = 4 * MIB   # where random operations go
UNIT = 4 * KIB
OPS = int(os.environ.get("VD_SERVE_OPS", "300"))
SECONDS = float(os.environ.get("VD_SERVE_SECONDS", "1"))
SEED = int(os.environ.get("VD_TEST_SEED", str(int(time.time()))))
FORMATS = ["raw", "gow3", "qed", "add-cow", "qcow2"]
OF_QEMU = {"raw", "qed", "qcow2"}

ZERO = 2  # of base:allocation
EPERM, EINVAL, ENOSPC, EROFS, ENOTSUP, EOVERFLOW = 1, 22, 28, 30, 95, 75


def want(condition, *what):
    if not condition:
        raise Fault(" ".join(map(str, what)))


class Bench:
    """An image of one format, and what has to be in it."""

    def __init__(self, program, image_format, rng):
        self.vdisk = program
        self.format = image_format
        self.rng = rng
        self.image = "disk." + image_format
        self.model = bytearray(SIZE)
        # 1: was discarded, so it may be zero by now
        self.vague = bytearray(SIZE)

    def make(self):
        """A disk with data, zeros that take space, and holes."""
        files = ["-o", "image_file=disk.data"] if self.format == "add-cow" else []
        run(self.vdisk, "create", "-q", "-f", self.format, *files, self.image, SIZE)
        commands = []
        for offset, length, byte in [(0, 64 * KIB, 1), (256 * KIB, 320 * KIB, 2),
                                     (MIB + 512, 3000, 3), (SIZE - 5000, 5000, 4)]:
            commands += ["-c", f"write -q -P {byte} {offset} {length}"]
            self.put(offset, bytes([byte]) * length)
        run(self.vdisk, "io", "-f", self.format, *commands,
            "-c", f"write -q -z {320 * KIB} {64 * KIB}", self.image)
        self.put(320 * KIB, bytes(64 * KIB))

    def put(self, offset, data):
        self.model[offset:offset + len(data)] = data
        self.vague[offset:offset + len(data)] = bytes(len(data))

    def drop(self, offset, length):
        self.vague[offset:offset + length] = b"\1" * length

    def judge(self, offset, data, what):
        """Is that what a read may give?"""
        wanted = self.model[offset:offset + len(data)]
        if data == wanted:
            return
        for at, byte in enumerate(data):
            if byte != wanted[at] and not (byte == 0 and self.vague[offset + at]):
                raise Fault(f"{what}: offset {offset + at} is {byte}, not {wanted[at]}")

    def may_be_zero(self, offset, length):
        part, vague = (array[offset:offset + length] for array in (self.model, self.vague))
        return not any(part) or not any(byte and not is_vague
                                        for byte, is_vague in zip(part, vague))

    def serve(self, *options):
        return Server(self.vdisk, "-f", self.format, *options, self.image)

    def check(self):
        """The image is sound, and holds the disk."""
        if self.format != "raw":
            run(self.vdisk, "check", "-f", self.format, self.image)
        if self.format in OF_QEMU - {"raw"}:
            run("qemu-img", "check", "-f", self.format, self.image)
        run(self.vdisk, "convert", "-f", self.format, "-O", "raw", self.image, "judged.raw")
        with open("judged.raw", "rb") as file:
            self.judge(0, file.read(), "the image")
        os.unlink("judged.raw")


def connect(server, structured=True, contexts=(), strict=True):
    handle = nbd.NBD()
    handle.set_request_structured_replies(structured)
    if not strict:
        handle.set_strict_mode(0)
    for context in contexts:
        handle.add_meta_context(context)
    handle.connect_uri(server.uri)
    return handle


# --- nbdinfo ----------------------------------------------------------------------------------

def flat_map(uri, context):
    """[(offset, length, type)] of nbdinfo --map, neighbours of one type as one."""
    extents = []
    for extent in json.loads(run("nbdinfo", f"--map={context}", "--json", uri)):
        if extents and extents[-1][2] == extent["type"]:
            extents[-1][1] += extent["length"]
        else:
            extents.append([extent["offset"], extent["length"], extent["type"]])
    return extents


def judge_allocation(bench, extents):
    """What is told to be zero has to be zero, and all has to be told."""
    want(sum(length for _, length, _ in extents) == SIZE, "the map is not of the whole disk")
    for offset, length, kind in extents:
        if kind & ZERO:
            want(bench.may_be_zero(offset, length), "data at", offset, "is told to be zero")


def nbdinfo(bench):
    with bench.serve("-r") as server:
        info = json.loads(run("nbdinfo", "--json", server.uri))["exports"][0]
        want(info["export-size"] == SIZE and info["is_read_only"], info)
        want(run("nbdinfo", "--size", server.uri).strip() == str(SIZE), "--size")
        listed = json.loads(run("nbdinfo", "--list", "--json", server.uri))["exports"]
        want([e["export-name"] for e in listed] == [""], listed)
        want("base:allocation" in listed[0]["contexts"], listed)
        want(("vdisk:version" in listed[0]["contexts"]) == (bench.format == "gow3"), listed)
        judge_allocation(bench, flat_map(server.uri, "base:allocation"))
    with bench.serve() as server:
        info = json.loads(run("nbdinfo", "--json", server.uri))["exports"][0]
        for can in ("flush", "fua", "trim", "zero", "fast_zero", "cache", "df"):
            want(info["can_" + can], "can not", can, info)
        want(not info["is_read_only"] and not info["can_multi_conn"], info)
        want(info["block_size_minimum"] == 1 and info["block_size_maximum"] >= 32 * MIB, info)


def same_as_qemu(bench, *contexts):
    """The words of nbdinfo about us, and about qemu-nbd with the same image."""
    options = ["-r", "-e", "0", "-f", bench.format]
    for context in contexts:
        if context.startswith("qemu:dirty-bitmap:"):
            options += ["-B", context.split(":")[2]]
    options += ["-A"]
    with Server(bench.vdisk, *options, bench.image) as ours, \
            QemuServer(*options, bench.image) as theirs:
        mine, other = (json.loads(run("nbdinfo", "--json", s.uri)) for s in (ours, theirs))
        want(mine["protocol"] == other["protocol"] and mine["structured"] == other["structured"],
             mine, other)
        mine, other = mine["exports"][0], other["exports"][0]
        for key, value in other.items():
            if key in ("uri", "export-size-str") or key.startswith("block_size"):
                continue
            want(key in mine, "nbdinfo tells no", key)
            if key == "contexts":
                want(sorted(mine[key]) == sorted(value), mine[key], value)
            else:
                want(mine[key] == value, key, "is", mine[key], "and of qemu-nbd", value)
        for context in ("qemu:allocation-depth", *contexts):
            mine, other = flat_map(ours.uri, context), flat_map(theirs.uri, context)
            want(mine == other, context, mine[:8], "and of qemu-nbd", other[:8])
        mine, other = (flat_map(s.uri, "base:allocation") for s in (ours, theirs))
        want(says_no_less(mine, other), "base:allocation", mine[:8], "and of qemu-nbd", other[:8])
        want(bench.format != "raw" or mine == other, "raw", mine[:8], other[:8])


def says_no_less(extents, than):
    """Each flag that is told there is told here.  We know more: holes of the file within clusters of
    images are holes, and read as zeros."""
    ends = sorted({offset + length for offset, length, _ in extents + than})
    here, there = iter(extents), iter(than)
    mine, other = next(here), next(there)
    for end in ends:
        if other[2] & ~mine[2]:
            return False
        if mine[0] + mine[1] == end:
            mine = next(here, None)
        if other[0] + other[1] == end:
            other = next(there, None)
    return mine is None and other is None


def bitmaps(bench):
    """Dirty bitmaps of qcow2, as many as one likes."""
    names = ["small", "large", "unused"]
    run(bench.vdisk, "bitmap", "--add", "-g", "64k", bench.image, "small")
    run(bench.vdisk, "bitmap", "--add", "-g", "1M", bench.image, "large")
    run(bench.vdisk, "io", "-c", "write -q -P 7 128k 1k", "-c", "write -q -P 8 3M 200k",
        bench.image)
    run(bench.vdisk, "bitmap", "--add", bench.image, "unused")
    bench.put(128 * KIB, b"\7" * KIB)
    bench.put(3 * MIB, b"\10" * 200 * KIB)
    same_as_qemu(bench, *("qemu:dirty-bitmap:" + name for name in names))
    with bench.serve("-B", "small") as server:  # written to while they are shown
        handle = connect(server, contexts=["qemu:dirty-bitmap:small"])
        data = b"\11" * UNIT
        handle.pwrite(data, 10 * MIB)
        bench.put(10 * MIB, data)
        found = []
        handle.block_status(64 * KIB, 10 * MIB,
                            lambda name, offset, entries, error: found.append(entries[1]) or 0)
        want(found == [1], "a write that shows in no bitmap", found)
        handle.shutdown()


def chain(bench):
    """The depth of a chain of three, as qemu-nbd has it."""
    run(bench.vdisk, "create", "-q", "-f", "qed", "-b", bench.image, "-F", bench.format,
        "middle.qed")
    run(bench.vdisk, "io", "-c", "write -q -P 5 512k 128k", "middle.qed")
    top = Bench(bench.vdisk, "qcow2", bench.rng)
    top.image = "top.qcow2"
    run(bench.vdisk, "create", "-q", "-f", "qcow2", "-b", "middle.qed", "-F", "qed", top.image)
    run(bench.vdisk, "io", "-c", "write -q -P 6 576k 128k", top.image)
    same_as_qemu(top)
    os.unlink("middle.qed")
    os.unlink(top.image)


# --- nbdcopy ----------------------------------------------------------------------------------

def nbdcopy(bench):
    with bench.serve("-e", "0") as server:
        for options in [], ["--synchronous"], ["--connections=4", "--requests=32"]:
            run("nbdcopy", *options, server.uri, "out.raw")
            with open("out.raw", "rb") as file:
                bench.judge(0, file.read(), f"nbdcopy {options}")
            os.unlink("out.raw")
        with open("in.raw", "wb") as file:
            file.truncate(SIZE)
            for offset in range(0, AREA, 128 * KIB):
                data = bench.rng.randbytes(64 * KIB)
                file.seek(offset)
                file.write(data)
                bench.put(offset, data)
                bench.put(offset + 64 * KIB, bytes(64 * KIB))
            bench.put(AREA, bytes(SIZE - AREA))
        run("nbdcopy", "--flush", "--connections=4", "in.raw", server.uri)
        run("nbdcopy", server.uri, "out.raw")
        run("cmp", "in.raw", "out.raw")
    run("nbdcopy", "--", "[", bench.vdisk, "serve", "-r", "-f", bench.format, bench.image, "]",
        "activated.raw")
    run("cmp", "in.raw", "activated.raw")
    run("nbdcopy", "--flush", "in.raw", "--", "[", bench.vdisk, "serve", "-f", bench.format,
        bench.image, "]")
    for name in "in.raw", "out.raw", "activated.raw":
        os.unlink(name)
    bench.check()


# --- libnbd: every command and flag ------------------------------------------------------------

class Random:
    """Random requests by one connection, each compared with the array."""

    def __init__(self, bench, handle, structured):
        self.bench = bench
        self.handle = handle
        self.rng = bench.rng
        self.structured = structured
        self.done = {}

    def place(self):
        kind = self.rng.random()
        if kind < 0.3:
            length = self.rng.randint(1, 2000)
        elif kind < 0.7:
            length = UNIT * self.rng.randint(1, 40)
        else:
            length = self.rng.randint(1, 300 * KIB)
        offset = self.rng.randrange(AREA - length)
        if kind > 0.4:
            offset = offset // UNIT * UNIT
        return offset, length

    def flags(self, *choices):
        flags = 0
        for choice in choices:
            if self.rng.random() < 0.4:
                flags |= choice
        return flags

    def read(self, offset, length):
        if not self.structured or self.rng.random() < 0.5:
            self.bench.judge(offset, self.handle.pread(length, offset), "read")
            return
        pieces = bytearray(length)
        told = bytearray(length)

        def chunk(data, at, status, error):
            want(error.value == 0, "an error in a chunk:", error.value)
            if status != nbd.READ_HOLE:
                pieces[at - offset:at - offset + len(data)] = data
                told[at - offset:at - offset + len(data)] = b"\1" * len(data)
            else:
                told[at - offset:at - offset + len(data)] = b"\1" * len(data)
            return 0

        flags = self.flags(nbd.CMD_FLAG_DF)
        self.handle.pread_structured(length, offset, chunk, flags)
        want(all(told), "a read that left something out")
        self.bench.judge(offset, bytes(pieces), "structured read")

    def write(self, offset, length):
        byte = self.rng.randint(1, 255)
        data = bytes([byte]) * length if self.rng.random() < 0.3 else self.rng.randbytes(length)
        self.handle.pwrite(data, offset, self.flags(nbd.CMD_FLAG_FUA))
        self.bench.put(offset, data)

    def zero(self, offset, length):
        flags = self.flags(nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO)
        try:
            self.handle.zero(length, offset, flags)
            self.bench.put(offset, bytes(length))
        except nbd.Error as error:
            want(flags & nbd.CMD_FLAG_FAST_ZERO and error.errnum == ENOTSUP, "zero", flags, error)
            self.done["not fast"] = self.done.get("not fast", 0) + 1

    def trim(self, offset, length):
        self.handle.trim(length, offset, self.flags(nbd.CMD_FLAG_FUA))
        self.bench.drop(offset, length)
        data = self.handle.pread(length, offset)
        self.bench.judge(offset, data, "trimmed")

    def cache(self, offset, length):
        self.handle.cache(length, offset)

    def flush(self, _offset, _length):
        self.handle.flush()

    def status(self, offset, length):
        told = {}

        def extents(name, at, entries, error):
            want(at == offset and error.value == 0, "block status of another place")
            told[name] = entries
            return 0

        flags = self.flags(nbd.CMD_FLAG_REQ_ONE)
        self.handle.block_status(length, offset, extents, flags)
        want("base:allocation" in told, told)
        entries = told["base:allocation"]
        at = offset
        for run_length, kind in zip(entries[::2], entries[1::2]):
            want(run_length > 0, "an extent of nothing")
            if kind & ZERO:
                want(self.bench.may_be_zero(at, run_length), "data told to be zero at", at)
            at += run_length
        if flags:
            want(len(entries) == 2 and at <= offset + length, "REQ_ONE:", entries)

    def go(self, count):
        kinds = ["read"] * 4 + ["write"] * 5 + ["zero"] * 3 + ["trim"] * 2 + ["cache", "flush"]
        if self.structured:
            kinds += ["status"] * 3
        for _ in range(count):
            kind = self.rng.choice(kinds)
            getattr(self, kind)(*self.place())
            self.done[kind] = self.done.get(kind, 0) + 1


def libnbd(bench, structured):
    contexts = ["base:allocation"]
    if bench.format == "gow3":
        contexts.append("vdisk:version")
    with bench.serve("-A") as server:
        handle = connect(server, structured, contexts + ["qemu:allocation-depth"])
        want(handle.get_structured_replies_negotiated() == structured, "structured replies")
        if structured:
            for context in contexts:
                want(handle.can_meta_context(context), "no", context)
        work = Random(bench, handle, structured)
        work.go(OPS)
        handle.flush()
        handle.shutdown()
        print("#", bench.format, " ".join(f"{k} {v}" for k, v in sorted(work.done.items())))
    bench.check()


def payloads(bench):
    """The largest requests that every server has to take."""
    length = 32 * MIB
    with bench.serve() as server:
        handle = connect(server)
        data = bench.rng.randbytes(MIB) * 32
        handle.pwrite(data, 3 * MIB)
        bench.put(3 * MIB, data)
        bench.judge(3 * MIB, handle.pread(length, 3 * MIB), "32 MiB")
        handle.zero(length, 3 * MIB)
        bench.put(3 * MIB, bytes(length))
        handle.trim(SIZE, 0)
        bench.drop(0, SIZE)
        handle.zero(SIZE, 0, nbd.CMD_FLAG_FUA)
        bench.put(0, bytes(SIZE))
        bench.judge(0, handle.pread(length, 0), "zeros")
        handle.cache(SIZE, 0)
        handle.shutdown()
    bench.check()


def fails(handle, errors, what, function, *arguments):
    try:
        function(*arguments)
    except nbd.Error as error:
        want(error.errnum in errors, what, "is answered with", error)
        want(handle.aio_is_ready(), what, "ends the connection")
        return
    raise Fault(f"{what} is answered as if it were good")


def bad_requests(bench):
    """Answered with an error, and the connection goes on."""
    with bench.serve() as server:
        handle = connect(server, contexts=["base:allocation"], strict=False)
        beyond = {EINVAL, ENOSPC, EOVERFLOW}
        fails(handle, beyond, "a read behind the end", handle.pread, 512, SIZE)
        fails(handle, beyond, "a read over the end", handle.pread, 1024, SIZE - 512)
        fails(handle, beyond, "a read at 2^63", handle.pread, 512, (1 << 63) - 512)
        fails(handle, beyond, "a write over the end", handle.pwrite, bytes(1024), SIZE - 512)
        fails(handle, beyond, "a trim over the end", handle.trim, 1024, SIZE - 512)
        fails(handle, beyond, "zeros over the end", handle.zero, 1024, SIZE - 512)
        fails(handle, beyond, "a status behind the end", handle.block_status, 512, SIZE,
              lambda *_: 0)
        fails(handle, {EINVAL}, "DF at a write", handle.pwrite, b"x" * 512, 0, nbd.CMD_FLAG_DF)
        fails(handle, {EINVAL}, "an unknown flag", handle.pread, 512, 0, 1 << 15)
        fails(handle, {EINVAL}, "NO_HOLE at a trim", handle.trim, 512, 0, nbd.CMD_FLAG_NO_HOLE)
        fails(handle, {EINVAL, EOVERFLOW}, "a read of 64 MiB", handle.pread, 64 * MIB - 1, 0)
        for offset in 0, SIZE - 512:
            bench.judge(offset, handle.pread(512, offset), "after bad requests")
        handle.shutdown()
        handle = connect(server, strict=False)
        fails(handle, {EINVAL}, "a status that nobody asked for before", handle.block_status, 512,
              0, lambda *_: 0)
        handle.shutdown()
    with bench.serve("-r") as server:
        handle = connect(server, strict=False)
        for what, function, arguments in [
                ("write", handle.pwrite, (bytes(512), 0)), ("trim", handle.trim, (512, 0)),
                ("zero", handle.zero, (512, 0))]:
            fails(handle, {EPERM, EROFS}, f"read-only: {what}", function, *arguments)
        handle.flush()
        bench.judge(0, handle.pread(512, 0), "read-only")
        handle.shutdown()
    bench.check()


def several_at_once(bench):
    """Connections with many requests under way, each in a stripe of its own; then a flush by one
    covers all of them."""
    with bench.serve("-e", "0") as server:
        handles = [connect(server) for _ in range(4)]
        stripe = AREA // len(handles)
        cookies = []
        for turn in range(max(OPS // 8, 8)):
            for index, handle in enumerate(handles):
                length = bench.rng.randint(1, 20000)
                offset = index * stripe + turn * 20000 % (stripe - 20000)
                data = bench.rng.randbytes(length)
                buffer = nbd.Buffer.from_bytearray(bytearray(data))
                cookies.append((handle, handle.aio_pwrite(buffer, offset), buffer))
                bench.put(offset, data)
            if len(cookies) >= 32:
                settle(cookies)
        settle(cookies)
        handles[0].flush()
        for handle in reversed(handles):
            bench.judge(0, handle.pread(AREA, 0), "another connection")
            handle.shutdown()
    bench.check()


def settle(cookies):
    while cookies:
        handle, cookie, _ = cookies.pop(0)
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)


# --- QEMU --------------------------------------------------------------------------------------

def qemu_img(bench):
    with bench.serve("-e", "0") as server:
        info = json.loads(run("qemu-img", "info", "--output=json", server.uri))
        want(info["virtual-size"] == SIZE and info["format"] == "raw", info)
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri, "out.raw")
        with open("out.raw", "rb") as file:
            bench.judge(0, file.read(), "qemu-img convert")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, "out.raw")
        told = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", server.uri))
        want(sum(extent["length"] for extent in told) == SIZE, told)
        for extent in told:
            want(not extent["zero"] or bench.may_be_zero(extent["start"], extent["length"]),
                 "data told to be zero", extent)
        with open("in.raw", "wb") as file:
            data = bench.rng.randbytes(2 * MIB) + bytes(2 * MIB) + bench.rng.randbytes(MIB // 2)
            file.write(data)
            file.truncate(SIZE)
        bench.put(0, data + bytes(SIZE - len(data)))
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "in.raw", server.uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", "in.raw", server.uri)
        run("qemu-img", "bench", "-w", "-c", "500", "-d", "32", "-f", "raw", "--pattern=9",
            server.uri)
        bench.put(0, b"\11" * 500 * UNIT)
    for name in "in.raw", "out.raw":
        os.unlink(name)
    bench.check()


def qemu_io(bench):
    lines = []
    for _ in range(OPS // 3):
        length = bench.rng.choice([512, UNIT, 3 * UNIT, 65536, 100000])
        offset = bench.rng.randrange(AREA - length)
        kind = bench.rng.random()
        byte = bench.rng.randint(1, 255)
        if kind < 0.4:
            lines.append(f"write{bench.rng.choice(['', ' -f'])} -P {byte} {offset} {length}")
            bench.put(offset, bytes([byte]) * length)
        elif kind < 0.6:
            unmap = bench.rng.choice(["", " -u", " -f"])
            lines.append(f"write -z{unmap} {offset} {length}")
            bench.put(offset, bytes(length))
        elif kind < 0.7:
            lines.append(f"discard {offset} {length}")
            bench.drop(offset, length)
        elif kind < 0.75:
            lines.append("flush")
        else:
            part = bytes(bench.model[offset:offset + length])
            same = len(part) - len(part.lstrip(part[:1]))
            if not any(bench.vague[offset:offset + same]):
                lines.append(f"read -P {part[0]} {offset} {same}")
    with bench.serve() as server:
        out = run("qemu-io", "-f", "raw", "-d", "unmap", server.uri,
                  text="\n".join(lines) + "\n")
        want("rror" not in out and "fail" not in out, out[-500:])
    bench.check()


# --- fio ---------------------------------------------------------------------------------------

def fio(bench):
    with bench.serve("-e", "0") as server:
        for rw, size in ("randwrite", "4k"), ("write", "256k"):
            out = run("fio", "--name=v", "--ioengine=nbd", "--uri=" + server.uri, f"--rw={rw}",
                      f"--bs={size}", "--size=8M", "--iodepth=32", "--verify=crc32c",
                      "--verify_fatal=1", "--randseed=%d" % bench.rng.randrange(1 << 30),
                      "--fsync=64", "--output-format=json")
            job = json.loads(out[out.index("{"):])["jobs"][0]
            want(job["error"] == 0 and job["read"]["total_ios"] > 0, job["error"])
        handle = connect(server)
        bench.put(0, bytes(handle.pread(8 * MIB, 0)))
        handle.shutdown()
    bench.check()


# --- the client of our own -----------------------------------------------------------------------

def integrity(bench):
    from nbd_wire import Wire
    with bench.serve("-e", "0") as server:
        for no_zeroes in False, True:
            wire = Wire(server.socket, "", no_zeroes)
            want(wire.size == SIZE, "a size of", wire.size)
            wire.judge(bench, OPS)
            wire.close()
        wire = Wire(server.socket, "", True)
        requests, seconds = wire.throughput(SECONDS, 4 * KIB, AREA, bench.rng)
        wire.close()
        print(f"# {bench.format}: {requests / seconds:.0f} reads of 4 KiB a second, "
              "16 under way, by a client in Python")
    bench.check()


def tests_of(bench):
    """(name, function) for one format; each goes on with the disk that the one before has left."""
    yield "the disk", bench.make
    yield "nbdinfo", lambda: nbdinfo(bench)
    if bench.format in OF_QEMU:
        yield "nbdinfo tells what it does of qemu-nbd", lambda: same_as_qemu(bench)
        yield "a chain on it, as qemu-nbd has it", lambda: chain(bench)
    if bench.format == "qcow2":
        yield "dirty bitmaps, as qemu-nbd has them", lambda: bitmaps(bench)
    yield "nbdcopy: out, in, started by it", lambda: nbdcopy(bench)
    yield "libnbd, simple replies", lambda: libnbd(bench, False)
    yield "libnbd, structured replies", lambda: libnbd(bench, True)
    yield "libnbd, bad requests", lambda: bad_requests(bench)
    yield "libnbd, several connections with many requests", lambda: several_at_once(bench)
    yield "qemu-img", lambda: qemu_img(bench)
    yield "qemu-io", lambda: qemu_io(bench)
    if shutil.which("fio"):
        yield "fio, verifying", lambda: fio(bench)
    yield "integrity, as nbd-tester-client does it", lambda: integrity(bench)
    yield "requests of 32 MiB, and of the whole disk", lambda: payloads(bench)


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    missing = [name for name in ("nbdinfo", "nbdcopy", "qemu-img", "qemu-nbd", "qemu-io")
               if not shutil.which(name)]
    if not nbd or missing:
        print("1..0 # SKIP no", "libnbd for Python" if not nbd else missing[0])
        return 0
    program = os.path.abspath(sys.argv[1])
    formats = sys.argv[2:] or FORMATS
    print("# seed", SEED)
    tap = Tap()
    with work_folder("serve-tools"):
        for image_format in formats:
            bench = Bench(program, image_format, random.Random(f"{SEED} {image_format}"))
            for name, function in tests_of(bench):
                try:
                    function()
                    tap.report(f"{image_format}: {name}")
                except (Fault, nbd.Error) as fault:
                    tap.report(f"{image_format}: {name}", [fault])
            clear()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
