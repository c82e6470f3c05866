#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A server of NBD that lies, stops, or says nothing: a clear error, soon, and in little memory.

    tests/interop/test-nbd-hostile.py VDISK

VD_NBD_CUTS (40) is at how many places of a conversation the server closes the connection; "full"
takes every byte.
"""
import contextlib
import os
import struct
import sys
import time

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
import hostile
from nbd_liar import (ACK, FLAGS, GO, Gone, Honest, INFO, META, OPTION_REPLY, REPLY_CHUNK,
                      REPLY_SIMPLE, SET_META, SIZE, TYPE_DATA, TYPE_ERROR, TYPE_HOLE, TYPE_NONE,
                      TYPE_STATUS, lie)
from tap import Tap, work_folder

VDISK = os.path.abspath(sys.argv[1])
CUTS = os.environ.get("VD_NBD_CUTS", "40")


def raw(link, server, data):
    server.send(link, data)


def silent(_self, link, *_):
    """Waits until the client gives up."""
    Honest.receive(link, 1 << 30)


def endless(kind, payload):
    """Answers an option without end."""
    def option(self, link, number):
        while number in (GO, SET_META):
            self.answer(link, number, kind, payload)
        Honest.option(self, link, number)
    return option


def option_of(number_wanted, function):
    """Answers this one option by `function`."""
    def option(self, link, number):
        if number == number_wanted:
            function(self, link, number)
        else:
            Honest.option(self, link, number)
    return option


def drip(self, link, cookie, offset, length):
    """One byte after the other."""
    self.send(link, struct.pack(">IHHQI", REPLY_CHUNK, 1, TYPE_DATA, cookie, length + 8) +
              struct.pack(">Q", offset))
    for _ in range(64):
        self.send(link, b"\0")
    raise Gone


MANY = [(1, i & 3) for i in range(1 << 16)]


def scattered(self, link, cookie, offset, length):
    """The second half, and then the first."""
    half = length // 2
    self.chunk(link, 0, TYPE_DATA, cookie, struct.pack(">Q", offset + half) + bytes(length - half))
    self.chunk(link, 0, TYPE_HOLE, cookie, struct.pack(">QI", offset, half))
    self.chunk(link, 1, TYPE_NONE, cookie)


def chatter(self, link, cookie, offset, length):
    """Says something all the time, and never comes to an end."""
    while True:
        self.chunk(link, 0, TYPE_HOLE, cookie, struct.pack(">QI", offset, length))
        time.sleep(0.01)


LIES = [
    lie("data in any order, which is right", status=0, read=scattered),
    lie("parts without end", read=chatter, says="did not answer for 10000 ms"),
    lie("the same part twice", read=lambda self, link, cookie, offset, length: [
        self.chunk(link, last, TYPE_DATA, cookie, struct.pack(">Q", offset) + bytes(length // 2))
        for last in (0, 1)], says="gaps"),
    lie("nothing at all", says="come to terms", greeting=lambda self: b""),
    lie("another protocol", greeting=lambda self: b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64)),
    lie("half the magic", greeting=lambda self: b"NBDMAGICIHAVEOPS\0\3"),
    lie("the old style", status=None, greeting=lambda self: b"NBDMAGIC" + struct.pack(
        ">QQHH", 0x00420281861253, SIZE, 0, 1) + bytes(124)),
    lie("2^64 - 1 bytes", size=lambda self: 2**64 - 1),
    lie("2^63 bytes", size=lambda self: 2**63),
    lie("2^63 - 1 bytes", size=lambda self: 2**63 - 1),
    lie("no block", block_sizes=lambda self: (0, 4096, 32 << 20), status=None),
    lie("a block of 3 bytes", block_sizes=lambda self: (3, 4096, 32 << 20), status=None),
    lie("a block of 2 GiB", block_sizes=lambda self: (2**31, 2**31, 2**31), status=None),
    lie("a block of 128 KiB", block_sizes=lambda self: (131072, 131072, 32 << 20), status=None),
    lie("at most 1 byte", block_sizes=lambda self: (1, 4096, 1), status=None),
    lie("less at most than at least", block_sizes=lambda self: (4096, 4096, 512), status=None),
    lie("at most 0 bytes", block_sizes=lambda self: (512, 4096, 0), status=None),
    lie("an information too short", infos=lambda self: [(INFO, b"\0\0\0")]),
    lie("an information too long", infos=lambda self: [(INFO, bytes(4096))]),
    lie("no information", infos=lambda self: []),
    lie("information without end", option=endless(INFO, struct.pack(">HQH", 0, SIZE, FLAGS))),
    lie("contexts without end", says="come to terms", option=endless(META, struct.pack(">I", 1) + b"base:allocation")),
    lie("an option's reply of 4 GiB", option=option_of(GO, lambda self, link, number: self.send(
        link, struct.pack(">QIII", OPTION_REPLY, number, INFO, 2**32 - 1) + bytes(1 << 20)))),
    lie("a reply to another option", option=option_of(
        GO, lambda self, link, number: self.answer(link, 77, ACK))),
    lie("a reply of another magic", option=option_of(GO, lambda self, link, number: self.send(
        link, struct.pack(">QIII", 1, number, ACK, 0)))),
    lie("no such export", option=option_of(GO, lambda self, link, number: self.answer(
        link, number, 0x80000006, b"none \x1b[31mof\x07 mine\n"))),
    lie("TLS is wanted", option=option_of(GO, lambda self, link, number: self.answer(
        link, number, 0x80000005)), says="TLS"),
    lie("silence at the options", option=silent, says="come to terms"),
    lie("silence at a read", read=silent, says="did not answer"),
    lie("silence at block status", block_status=silent, says="did not answer"),
    lie("another cookie", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_DATA, cookie + 99, struct.pack(">Q", offset) + bytes(length))),
    lie("another magic", read=lambda self, link, cookie, offset, length: self.send(
        link, struct.pack(">IHHQI", 7, 1, TYPE_DATA, cookie, 8 + length) + bytes(length))),
    lie("a plain reply", read=lambda self, link, cookie, offset, length: self.send(
        link, struct.pack(">IIQ", REPLY_SIMPLE, 0, cookie) + bytes(length))),
    lie("no data", says="gaps", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_NONE, cookie)),
    lie("half the data", says="gaps", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_DATA, cookie, struct.pack(">Q", offset) + bytes(length // 2))),
    lie("more data", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_DATA, cookie, struct.pack(">Q", offset) + bytes(length + 1))),
    lie("data of another place", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_DATA, cookie, struct.pack(">Q", offset + length) + bytes(length))),
    lie("data of a place before 0", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_DATA, cookie, struct.pack(">Q", 2**64 - 4096) + bytes(length))),
    lie("4 GiB of data", read=lambda self, link, cookie, offset, length: self.send(
        link, struct.pack(">IHHQI", REPLY_CHUNK, 1, TYPE_DATA, cookie, 2**32 - 1) + bytes(length))),
    lie("a chunk of no known type", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, 99, cookie, bytes(16))),
    lie("a hole longer than the request", read=lambda self, link, cookie, offset, length:
        self.chunk(link, 1, TYPE_HOLE, cookie, struct.pack(">QI", offset, 2**32 - 1))),
    lie("an error of no number", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_ERROR, cookie, struct.pack(">IH", 0, 0))),
    lie("an error whose text is longer than it", read=lambda self, link, cookie, offset, length:
        self.chunk(link, 1, TYPE_ERROR, cookie, struct.pack(">IH", 5, 60000) + b"x")),
    lie("an error, with text", read=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_ERROR, cookie, struct.pack(">IH", 5, 9) + b"\x1b[31m\n\0\r!"),
        says="can not read"),
    lie("data, byte by byte, and never whole", read=drip),
    lie("extents of no bytes", extents=lambda self, offset, length: [(0, 0), (length, 0)],
        says="block status"),
    lie("no extents", extents=lambda self, offset, length: []),
    lie("half an extent", block_status=lambda self, link, cookie, offset, length: self.chunk(
        link, 1, TYPE_STATUS, cookie, struct.pack(">III", 1, length, 0) + b"\0\0\0\0")),
    lie("extents past the end", status=0, extents=lambda self, offset, length: [
        (2**32 - 1, 0), (2**32 - 1, 3), (2**32 - 1, 0)]),
    lie("extents that stop early", status=0, extents=lambda self, offset, length: [
        (min(length, 65536), 0)]),
    lie("very many extents", status=0, extents=lambda self, offset, length: MANY),
    lie("extents of another context", block_status=lambda self, link, cookie, offset, length:
        self.chunk(link, 1, TYPE_STATUS, cookie, struct.pack(">III", 9, length, 0))),
    lie("data in the place of block status",
        block_status=lambda self, link, cookie, offset, length: self.chunk(
            link, 1, TYPE_DATA, cookie, struct.pack(">Q", offset) + bytes(512))),
]


def cut_at(byte):
    """Each connection is closed behind so many bytes."""
    class Cut(Honest):
        """Counts per connection."""
        name = f"closes behind byte {byte}"
        says = ""

        def serve(self, link):
            left = [byte]
            honest = super().send

            def send(to, data):
                honest(to, data[:left[0]])
                left[0] -= len(data)
                if left[0] <= 0:
                    raise Gone
            self.send = send
            super().serve(link)
    return Cut


def attempt(tap, liar, label=None):
    """Copies what it serves."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink("copy")
    with liar():
        status, _, errors, memory = hostile.run(
            [VDISK, "convert", "--timeout", "1", "--retries", "1", "--connections", "2", "-f", "raw",
             "-O", "raw", f"nbd+unix:///?socket={os.path.abspath('socket')}", "copy"])
    faults = []
    wanted = (0, 1) if liar.status is None else (liar.status,)
    if status is None:
        faults.append("it does not end")
    elif status not in wanted:
        faults.append(f"status {status} instead of {wanted}: {errors}")
    elif status and (errors.count("\n") != 1 or not errors.isprintable() and not
                     errors[:-1].isprintable()):
        faults.append(f"not one clear line: {errors!r}")
    elif status and liar.says not in errors:
        faults.append(f"not {liar.says!r}: {errors!r}")
    elif status and "nbd+unix://" not in errors:
        faults.append(f"does not name the export: {errors!r}")
    elif status and os.path.exists("copy"):
        faults.append("half a copy is left")
    if memory > hostile.MEMORY_MAX:
        faults.append(f"{memory >> 20} MiB of memory")
    if label is None:
        tap.report(liar.name, faults)
        if status:
            print(f"# {errors.strip()}")
    return faults


def cuts(tap):
    """Closes the connection at every byte of a conversation, or at some."""
    whole = 900  # the negotiation, block status, and the beginning of the data
    step = 1 if CUTS == "full" else max(1, whole // int(CUTS))
    faults = []
    for byte in range(0, whole, step):
        liar = cut_at(byte)
        liar.status = 1
        faults += [f"byte {byte}: {fault}" for fault in attempt(tap, liar, label="")]
    tap.report(f"connections that end, every {step} bytes", faults)


def main():
    """All lies."""
    tap = Tap()
    with work_folder("nbd-hostile", "inner"):
        honest = type("Truth", (Honest,), {"says": ""})
        attempt(tap, honest)
        for liar in LIES:
            attempt(tap, liar)
        cuts(tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
