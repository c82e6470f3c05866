# SPDX-License-Identifier: MIT
"""An NBD client by hand that can stop, vanish or talk nonsense at any byte; and one that verifies."""
import multiprocessing
import os
import random
import socket
import ssl
import struct
import traceback

SECONDS = 120  # more than any answer takes
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = \
    1, 2, 3, 5, 6, 7, 8, 9, 10, 11
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
INFO_REPLIES = (2, 3, 4)  # after which others follow
REPLY_MAGIC = 0x3e889045565a9
UNIT = 4096


def option(number, data=b""):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def go(name):
    name = name.encode()
    return option(GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))


def request(command, offset=0, length=0, data=b"", flags=0, cookie=1):
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + data


class Gone(Exception):
    """The server has hung up."""


class Client:
    """A connection; nothing is sent before it is asked for."""

    def __init__(self, address, source=None):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(SECONDS)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect(address)

    def take(self, length):
        data = bytearray()
        while len(data) < length:
            try:
                part = self.socket.recv(length - len(data))
            except (ConnectionError, ssl.SSLError) as error:
                raise Gone from error
            if not part:
                raise Gone
            data += part
        return bytes(data)

    def put(self, data):
        try:
            self.socket.sendall(data)
        except (ConnectionError, ssl.SSLError) as error:
            raise Gone from error

    def greet(self):
        self.take(18)
        self.put(struct.pack(">I", 3))

    def answers(self):
        """Types of the replies to an option."""
        kinds = []
        while not kinds or kinds[-1] in INFO_REPLIES:
            _, _, kind, length = struct.unpack(">QIII", self.take(20))
            self.take(length)
            kinds.append(kind)
        return kinds

    def start_tls(self, folder=None):
        """`folder`: of the client's certificate and key, if it has one."""
        self.put(option(STARTTLS))
        self.answers()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if folder:
            context.load_cert_chain(f"{folder}/client-cert.pem", f"{folder}/client-key.pem")
        try:
            self.socket = context.wrap_socket(self.socket)
        except (OSError, ssl.SSLError) as error:
            raise Gone from error

    def choose(self, name):
        self.put(go(name))
        kinds = self.answers()
        if kinds[-1] != 1:
            raise Gone

    def ask(self, command, offset=0, length=0, data=b"", flags=0):
        """Sends a request, and returns (error, data) of its reply."""
        self.put(request(command, offset, length, data, flags))
        magic, error, _ = struct.unpack(">IIQ", self.take(16))
        if magic != 0x67446698:
            raise Gone
        return error, self.take(length) if command == READ and not error else b""

    def close(self, is_rude=False):
        """Rude: by a reset, where there is such a thing."""
        if is_rude:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Verifier:
    """A process that writes, reads and compares until it is told to stop."""

    def __init__(self, address, name, size, seed):
        self.ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=self.main,
                                               args=(theirs, address, name, size, seed))
        self.process.start()
        theirs.close()
        if self.ours.recv() != "connected":
            raise RuntimeError("the verifier cannot connect")

    @staticmethod
    def main(pipe, address, name, size, seed):
        requests = 0
        model = bytearray(size)
        fault = None
        rng = random.Random(seed)
        try:
            client = Client(address)
            client.greet()
            client.choose(name)
            pipe.send("connected")
            while not pipe.poll():
                length = UNIT * rng.randint(1, 16)
                offset = UNIT * rng.randrange((size - length) // UNIT)
                kind = rng.random()
                if kind < 0.4:
                    data = rng.randbytes(UNIT) * (length // UNIT)
                    error, _ = client.ask(WRITE, offset, length, data)
                    model[offset:offset + length] = data
                elif kind < 0.45:
                    error, _ = client.ask(ZEROES, offset, length)
                    model[offset:offset + length] = bytes(length)
                elif kind < 0.5:
                    error, _ = client.ask(FLUSH)
                else:
                    error, data = client.ask(READ, offset, length)
                    if not error and data != model[offset:offset + length]:
                        fault = f"wrong bytes at {offset}, request {requests}"
                if error:
                    fault = f"request {requests}: error {error}"
                if fault:
                    break
                requests += 1
            client.put(request(DISC))
            client.close()
        except Exception:  # pylint: disable=broad-except
            fault = traceback.format_exc()
        pipe.send((requests, fault, bytes(model)))

    def stop(self):
        """How many requests it made, what was wrong, and what has to be on the disk."""
        self.ours.send("stop")
        result = self.ours.recv()
        self.process.join()
        return result


def status_of(pid):
    """Resident memory in KiB, and threads and descriptors."""
    values = {}
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            values[key] = value.split()
    return (int(values["VmRSS"][0]), int(values["Threads"][0]),
            len(os.listdir(f"/proc/{pid}/fd")))
