# SPDX-License-Identifier: MIT
"""A server of NBD that keeps to the protocol, of zeros; its children lie in one place each."""
import contextlib
import os
import socket
import struct
import threading

SIZE = 4 << 20
OPTION_REPLY = 0x3E889045565A9
REPLY_SIMPLE = 0x67446698
REPLY_CHUNK = 0x668E33EF
ACK, INFO, META = 1, 3, 4
EXPORT_NAME, ABORT, STARTTLS, INFO_OPTION, GO, STRUCTURED, SET_META = 1, 2, 5, 6, 7, 8, 10
READ, DISC, STATUS = 0, 2, 7
TYPE_NONE, TYPE_DATA, TYPE_HOLE, TYPE_STATUS, TYPE_ERROR = 0, 1, 2, 5, 0x8001
FLAGS = 1 | 4 | 8 | 32 | 64 | 256  # everything that is usual, several connections too


class Gone(Exception):
    """The other side has closed the connection, or this one does."""


class Honest:
    """A server of zeros.  Its children lie in one place each."""

    name = "an honest server"
    status = 0

    def __init__(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("socket")
        self.listener.listen(64)
        self.sent = 0
        self.threads = []

    # --- what may be a lie

    def greeting(self):
        return b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)

    def size(self):
        return SIZE

    def block_sizes(self):
        return (1, 4096, 32 << 20)

    def infos(self):
        """Answers to GO, but for the last."""
        yield INFO, struct.pack(">HQH", 0, self.size(), FLAGS)
        yield INFO, struct.pack(">HIII", 3, *self.block_sizes())

    def option(self, link, number):
        """Answers an option."""
        if number == STRUCTURED:
            self.answer(link, number, ACK)
        elif number == SET_META:
            self.answer(link, number, META, struct.pack(">I", 1) + b"base:allocation")
            self.answer(link, number, ACK)
        elif number in (GO, INFO_OPTION):
            for kind, payload in self.infos():
                self.answer(link, number, kind, payload)
            self.answer(link, number, ACK)
        else:
            self.answer(link, number, 0x80000001)

    def read(self, link, cookie, offset, length):
        """Answers a read."""
        self.chunk(link, 1, TYPE_DATA, cookie, struct.pack(">Q", offset) + bytes(length))

    def extents(self, offset, length):
        """Pairs of length and flags."""
        del offset
        return [(length, 0)]

    def block_status(self, link, cookie, offset, length):
        """Answers a request for block status."""
        self.chunk(link, 1, TYPE_STATUS, cookie, struct.pack(">I", 1) + b"".join(
            struct.pack(">II", *extent) for extent in self.extents(offset, length)))

    # --- the protocol

    def send(self, link, data):
        self.sent += len(data)
        try:
            link.sendall(data)
        except OSError as error:
            raise Gone from error

    @staticmethod
    def receive(link, length):
        data = b""
        while len(data) < length:
            try:
                more = link.recv(min(length - len(data), 1 << 20))
            except OSError as error:
                raise Gone from error
            if not more:
                raise Gone
            data += more
        return data

    def answer(self, link, option, kind, payload=b""):
        self.send(link, struct.pack(">QIII", OPTION_REPLY, option, kind, len(payload)) + payload)

    def chunk(self, link, flags, kind, cookie, payload=b""):
        self.send(link, struct.pack(">IHHQI", REPLY_CHUNK, flags, kind, cookie, len(payload)) +
                  payload)

    def serve(self, link):
        with contextlib.suppress(Gone), contextlib.closing(link):
            self.send(link, self.greeting())
            self.receive(link, 4)
            while True:
                _, number, length = struct.unpack(">QII", self.receive(link, 16))
                self.receive(link, length)
                self.option(link, number)
                if number in (GO, ABORT):
                    break
            while number == GO:
                _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI",
                                                                   self.receive(link, 28))
                if kind == READ:
                    self.read(link, cookie, offset, length)
                elif kind == STATUS:
                    self.block_status(link, cookie, offset, length)
                else:
                    break

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                link, _ = self.listener.accept()
                thread = threading.Thread(target=self.serve, args=(link,), daemon=True)
                thread.start()

    def __enter__(self):
        thread = threading.Thread(target=self.accept, daemon=True)
        thread.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink("socket")


def lie(name, status=1, says="", **methods):
    """A server with these methods of its own."""
    return type("Liar", (Honest,), {"name": name, "status": status, "says": says, **methods})
