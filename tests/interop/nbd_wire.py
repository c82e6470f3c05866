# SPDX-License-Identifier: MIT
"""A client of the NBD protocol by hand: the old handshake, simple replies, many requests at once.

What nbd-tester-client does: requests under way that do not overlap, and each byte that comes back
compared.  It shares no code with libnbd or QEMU.
"""
import socket
import struct
import time

from tap import Fault

GREETING = b"NBDMAGICIHAVEOPT"
OPTION_EXPORT_NAME = 1
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
REQUEST, REPLY = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1
UNDER_WAY = 16


class Wire:
    """A connection in the transmission phase; `size` and `flags` as the server told them."""

    def __init__(self, path, name, no_zeroes):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")
        if self.take(16) != GREETING:
            raise Fault("not the greeting of a server")
        flags, = struct.unpack(">H", self.take(2))
        if flags & 3 != 3:
            raise Fault(f"handshake flags {flags:#x}")
        name = name.encode()
        self.socket.sendall(struct.pack(">I", FIXED_NEWSTYLE | (NO_ZEROES if no_zeroes else 0)) +
                            b"IHAVEOPT" + struct.pack(">II", OPTION_EXPORT_NAME, len(name)) + name)
        self.size, self.flags = struct.unpack(">QH", self.take(10))
        if not no_zeroes and self.take(124) != bytes(124):
            raise Fault("not 124 zeros")
        self.cookie = 0x1234567800000000
        self.pending = {}

    def take(self, length):
        data = self.file.read(length)
        if len(data) != length:
            raise Fault(f"the server has left: {len(data)} of {length} bytes")
        return data

    def send(self, command, offset, length, data=b"", flags=0, note=None):
        self.cookie += 1
        self.pending[self.cookie] = (command, offset, length, note)
        self.socket.sendall(struct.pack(">IHHQQI", REQUEST, flags, command, self.cookie, offset,
                                        length) + data)

    def reply(self):
        """The next one: (command, offset, length, note), data."""
        magic, error, cookie = struct.unpack(">IIQ", self.take(16))
        if magic != REPLY or cookie not in self.pending:
            raise Fault(f"a reply of magic {magic:#x} to request {cookie:#x}")
        request = self.pending.pop(cookie)
        if error:
            raise Fault(f"request {request}: error {error}")
        return request, self.take(request[2]) if request[0] == READ else b""

    def close(self):
        self.socket.sendall(struct.pack(">IHHQQI", REQUEST, 0, DISCONNECT, 0, 0, 0))
        if self.file.read(1):
            raise Fault("something behind the last reply")
        self.file.close()
        self.socket.close()

    def judge(self, bench, count):
        """`count` random requests, up to UNDER_WAY at once, none of which overlap."""
        place = 128 << 10
        free = list(range(2 * UNDER_WAY))
        for _ in range(count):
            while len(self.pending) >= UNDER_WAY:
                self.settle(bench, free)
            self.ask(bench, place, free)
        while self.pending:
            self.settle(bench, free)

    def ask(self, bench, place, free):
        rng = bench.rng
        kind = rng.choice([READ, READ, WRITE, WRITE, WRITE, ZEROES, TRIM, FLUSH])
        if kind == FLUSH:
            self.send(FLUSH, 0, 0)
            return
        index = free.pop(rng.randrange(len(free)))
        length = rng.randint(1, place)
        offset = index * place + rng.randrange(place - length + 1)
        flags = FUA if kind != READ and rng.random() < 0.1 else 0
        data = b""
        if kind == WRITE:
            data = rng.randbytes(length)
            bench.put(offset, data)
        elif kind == ZEROES:
            bench.put(offset, bytes(length))
        elif kind == TRIM:
            bench.drop(offset, length)
        self.send(kind, offset, length, data, flags, index)

    def settle(self, bench, free):
        (command, offset, _, index), data = self.reply()
        if command == READ:
            bench.judge(offset, data, "a read by hand")
        if index is not None:
            free.append(index)

    def throughput(self, seconds, length, area, rng):
        """Reads as fast as it can: their number, and the time it took."""
        start = time.monotonic()
        requests = 0
        while time.monotonic() - start < seconds:
            while len(self.pending) < UNDER_WAY:
                self.send(READ, rng.randrange(area // length) * length, length)
            self.reply()
            requests += 1
        while self.pending:
            self.reply()
        return requests, time.monotonic() - start
