#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`vdisk serve` and clients that nobody wants, while another one verifies its data.

    tests/interop/test-serve-abuse.py VDISK

After each kind of abuse the server has to be there, the client that verifies has to have met no
error, what it was told has to be on the disk, and memory, threads and descriptors of the server
have to be what they were, or nearly.

VD_ABUSE_CONNECTIONS  that are opened and abandoned (default 1000)
VD_ABUSE_GARBAGE      that talk nonsense (default 400)
VD_ABUSE_HALF_OPEN    that say nothing (default 2000)
VD_TEST_SEED          seed (default: the time)
"""
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.parse

import nbd_abuse as abuse
from nbd_abuse import Client, Gone, Verifier, option, request, status_of
from serving import Server, run
from tap import Fault, Tap, clear, work_folder

VDISK = os.path.abspath(sys.argv[1])
CONNECTIONS = int(os.environ.get("VD_ABUSE_CONNECTIONS", "1000"))
GARBAGE = int(os.environ.get("VD_ABUSE_GARBAGE", "400"))
HALF_OPEN = int(os.environ.get("VD_ABUSE_HALF_OPEN", "2000"))
SEED = int(os.environ.get("VD_TEST_SEED", str(int(time.time()))))
SECONDS = 60
MIB = 1 << 20
SIZE = 16 * MIB
VERIFIED = "verified-5f0c1d"  # nobody hits upon this name by chance
VICTIM = "victim"


def want(condition, *what):
    if not condition:
        raise Fault(" ".join(map(str, what)))


class Scene:
    """A server of two disks, one of which somebody verifies, and what it was like before."""

    def __init__(self, *options, image_format="qcow2", tls=False):
        clear()
        self.format = image_format
        for name in (VERIFIED, VICTIM):
            run(VDISK, "create", "-q", "-f", image_format, name, SIZE)
        if tls:
            make_certificate("server")
            options += ("--tls-creds", "server", "--tls-optional")
        self.server = Server(VDISK, "-f", image_format, "-e", "0", "-b", "127.0.0.1", "-p", "0",
                             "--log=log", *options, "-x", VERIFIED, "-x", VICTIM, VERIFIED, VICTIM)
        uris = self.server.ready["exports"][0]["uris"]
        port = [urllib.parse.urlsplit(uri).port for uri in uris if "unix" not in uri][0]
        self.addresses = [self.server.socket, ("127.0.0.1", port)]
        self.tcp = self.addresses[1]
        self.pid = self.server.process.pid
        self.verifier = Verifier(self.server.socket, VERIFIED, SIZE, SEED)
        # What is there after the first clients, by TLS as well, is there for good.
        for address in self.addresses:
            for is_encrypted in (False, tls):
                client = Client(address)
                client.greet()
                if is_encrypted:
                    client.start_tls()
                client.choose(VICTIM)
                client.close()
        self.settle(2, None)
        self.before = status_of(self.pid)

    def settle(self, threads_more, before):
        """Waits until the server has found out that clients have left."""
        end = time.monotonic() + SECONDS
        last = None
        while time.monotonic() < end:
            time.sleep(0.1)
            now = status_of(self.pid)
            if before:
                if now[1] <= before[1] + threads_more and now[2] <= before[2]:
                    return
            elif now[1:] == last:
                return
            last = now[1:]
        want(not before, f"threads and descriptors: {before[1:]} before, {now[1:]} now")

    def end(self, growth_mib=64, workers=32):
        """All is well.  Returns a line about it."""
        want(self.server.process.poll() is None, "the server is gone:",
             self.server.process.returncode)
        self.settle(workers, self.before)
        after = status_of(self.pid)
        requests, fault, model = self.verifier.stop()
        want(not fault, "the client that verifies:", fault)
        want(requests > 0, "nothing was verified")
        with self.server:
            pass
        run(VDISK, "check", "-f", self.format, VERIFIED)
        run(VDISK, "check", "-f", self.format, VICTIM)
        run(VDISK, "convert", "-f", self.format, "-O", "raw", VERIFIED, "judged")
        with open("judged", "rb") as file:
            want(file.read() == model, "the image is not what was acknowledged")
        line = (f"{requests} requests verified; VmRSS {self.before[0]} KiB before, {after[0]} KiB "
                f"after")
        want(after[0] - self.before[0] <= growth_mib * 1024, "memory:", line)
        return line

    def abandon(self):
        """After a fault."""
        self.server.process.kill()
        self.verifier.process.kill()


def make_certificate(folder):
    os.makedirs(folder)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-subj", "/CN=localhost", "-days", "30", "-keyout", f"{folder}/server-key.pem",
        "-out", f"{folder}/server-cert.pem")
    shutil.copy(f"{folder}/server-cert.pem", f"{folder}/ca-cert.pem")


# ---- Connections that are abandoned ----

def negotiation(rng):
    """Some options before the export is chosen, as bytes."""
    name = struct.pack(">I", len(VICTIM)) + VICTIM.encode()
    options = [option(abuse.LIST), option(abuse.STRUCTURED), option(99, rng.randbytes(20)),
               option(abuse.INFO, name + struct.pack(">H", 0)),
               option(abuse.STRUCTURED) +
               option(abuse.SET_META, name + struct.pack(">II", 1, 15) + b"base:allocation"),
               option(abuse.EXTENDED)]
    return b"".join(rng.sample(options, rng.randint(0, 3)))


def transmission(rng):
    """Some requests, as bytes."""
    data = b""
    for cookie in range(rng.randint(1, 20)):
        offset = rng.randrange(SIZE - MIB)
        length = rng.choice([1, 512, 4096, 65536, MIB])
        command = rng.choice([abuse.READ, abuse.WRITE, abuse.FLUSH, abuse.TRIM, abuse.ZEROES,
                              abuse.CACHE])
        if command == abuse.FLUSH:
            offset = length = 0
        data += request(command, offset, length,
                        rng.randbytes(length) if command == abuse.WRITE else b"",
                        rng.choice([0, 0, 1]), cookie)
    return data


def abandon(address, rng):
    """Opens a connection, gets somewhere, and leaves it."""
    client = Client(address)
    try:
        phase = rng.randrange(9)
        if phase >= 1:
            client.take(rng.randint(1, 18) if phase == 1 else 18)
        if phase >= 2:
            client.put(struct.pack(">I", 3)[:rng.randint(1, 3) if phase == 2 else 4])
        if phase >= 3 and rng.random() < 0.3:
            if rng.random() < 0.3:
                client.put(option(abuse.STARTTLS))
                client.put(rng.randbytes(rng.randint(1, 300)) if rng.random() < 0.5 else
                           b"\x16\x03\x01\x02\x00"[:rng.randint(1, 5)])
                return client
            client.start_tls()
        if phase >= 3:
            data = negotiation(rng)
            client.put(data[:rng.randint(0, len(data))] if phase == 3 else data)
        if phase >= 4:
            data = abuse.go(VICTIM)
            client.put(data[:rng.randint(1, len(data))] if phase == 4 else data)
        if phase >= 5:
            data = transmission(rng)
            client.put(data[:rng.randint(1, len(data))] if phase <= 6 else data)
        if phase == 7:
            client.socket.settimeout(0.05)  # there may be fewer
            client.take(rng.randint(1, 100))
        if phase == 8:
            client.put(request(abuse.FLUSH) + request(abuse.DISC))
    except (Gone, socket.timeout):
        pass
    return client


def connections_are_abandoned():
    scene = Scene(tls=True)
    try:
        rng = random.Random(SEED)
        for part in range(2):
            clients = []
            for _ in range(CONNECTIONS // 2):
                clients.append(abandon(rng.choice(scene.addresses), rng))
                while len(clients) > rng.randint(0, 40):
                    clients.pop(rng.randrange(len(clients))).close(rng.random() < 0.3)
            for client in clients:
                client.close()
            print(f"# {CONNECTIONS // 2 * (part + 1)} abandoned: VmRSS "
                  f"{status_of(scene.pid)[0]} KiB")
        return scene.end()
    except BaseException:
        scene.abandon()
        raise


# ---- Connections that say nothing ----

def silent_connections_hold_no_place():
    scene = Scene("--max-connections=100", "--negotiation-timeout=2")
    try:
        clients = []
        refused = 0
        for index in range(HALF_OPEN):
            client = Client(scene.addresses[index % 2])
            if index % 3:
                try:
                    client.put(b"\0\0\0")  # of four bytes
                except Gone:
                    refused += 1
            clients.append(client)
            if len(clients) > 500:
                clients.pop(0).close()
        most = status_of(scene.pid)
        want(most[1] <= 100 + 32 + 8, "threads:", most[1])
        want(most[2] <= 100 * 2 + 64, "descriptors:", most[2])
        # They are dropped when their time is over; then others get in.
        late = enter(scene.tcp)
        want(late.ask(abuse.READ, 0, 512) == (0, bytes(512)), "no data")
        late.close()
        for client in clients[-50:]:
            try:
                while True:
                    client.take(1)
            except Gone:
                client.close()
        for client in clients:
            client.close()
        return scene.end()
    except BaseException:
        scene.abandon()
        raise


def enter(address, source=None):
    """A client that is let in; that others have left may not be known yet."""
    end = time.monotonic() + SECONDS
    while True:
        client = Client(address, source)
        try:
            client.greet()
            client.choose(VICTIM)
            return client
        except Gone:
            client.close()
            want(time.monotonic() < end, "nobody gets in")
            time.sleep(0.05)


def an_address_has_its_limit():
    scene = Scene("--max-per-address=3")
    try:
        inside = []
        for source in ("127.0.0.1", "127.0.0.2"):
            for _ in range(3):
                inside.append(enter(scene.tcp, source))
            for _ in range(20):
                client = Client(scene.tcp, source)
                try:
                    client.greet()
                    client.choose(VICTIM)
                    raise Fault(f"a fourth client from {source}")
                except Gone:
                    client.close()
        for client in inside:
            want(client.ask(abuse.READ, 0, 512)[0] == 0, "one that is in is not served")
            client.close()
        return scene.end()
    except BaseException:
        scene.abandon()
        raise


# ---- Clients that take nothing, or give half ----

def clog(scene, length=MIB):
    """Asks for more than it will ever take, until the server takes no request any more."""
    client = enter(scene.tcp)
    client.socket.settimeout(0.5)
    try:
        for _ in range(4096):
            client.socket.sendall(request(abuse.READ, 0, length))
    except (socket.timeout, ConnectionError):
        pass
    return client


def who_takes_no_replies_takes_no_more_memory():
    scene = Scene("--max-memory=34M")
    try:
        clients = [clog(scene) for _ in range(4)]
        most = status_of(scene.pid)[0] - scene.before[0]
        want(most <= (4 * 34 + 48) * 1024, "memory of four clients:", most, "KiB")
        want(scene.server.process.poll() is None, "the server is gone")
        for client in clients:
            client.close(True)
        return f"{most} KiB for four of them at 34 MiB; " + scene.end()
    except BaseException:
        scene.abandon()
        raise


def time_is_limited():
    scene = Scene("--stall-timeout=3", "--idle-timeout=3")
    try:
        idle = enter(scene.tcp)
        stalled = clog(scene)
        end = time.monotonic() + SECONDS
        lines = ""
        for client in (idle, stalled):
            client.socket.settimeout(SECONDS)
        try:
            idle.take(1)
            raise Fault("an idle client got something")
        except Gone:
            idle.close()
        while lines.count("disconnected") < 2:
            want(time.monotonic() < end, "the one that takes nothing is still there:", lines)
            time.sleep(0.1)
            with open("log", encoding="utf-8") as file:
                lines = file.read()
        stalled.close()
        return scene.end()
    except BaseException:
        scene.abandon()
        raise


def half_a_write_is_none():
    scene = Scene()
    try:
        rng = random.Random(SEED + 1)
        base = enter(scene.server.socket)
        want(base.ask(abuse.WRITE, 0, 4 * MIB, b"\x11" * (4 * MIB))[0] == 0, "no write")
        for _ in range(100):
            client = enter(rng.choice(scene.addresses))
            length = rng.choice([512, 4096, 65536, MIB, 4 * MIB])
            data = request(abuse.WRITE, 0, length, b"\x22" * length)
            client.put(data[:rng.randint(1, len(data) - 1)])
            client.close(rng.random() < 0.5)
        want(base.ask(abuse.READ, 0, 4 * MIB) == (0, b"\x11" * (4 * MIB)), "half a write was done")
        base.close()
        return scene.end()
    except BaseException:
        scene.abandon()
        raise


def a_flush_and_a_close_may_race():
    scene = Scene()
    try:
        rng = random.Random(SEED + 2)
        for _ in range(200):
            clients = []
            for _ in range(3):
                client = enter(rng.choice(scene.addresses))
                clients.append(client)
            for client in clients:
                client.put(request(abuse.WRITE, rng.randrange(SIZE - 4096), 4096,
                                   rng.randbytes(4096)) + request(abuse.FLUSH) +
                           (request(abuse.DISC) if rng.random() < 0.3 else b""))
            for client in clients:
                client.close(rng.random() < 0.5)
        return scene.end()
    except BaseException:
        scene.abandon()
        raise


# ---- Nonsense ----

def nonsense(address, rng):
    """A conversation of which some bytes are others, or missing, or too many."""
    data = bytearray(struct.pack(">I", 3) + negotiation(rng) + abuse.go(VICTIM) +
                     transmission(rng)[:rng.choice([100, 5000, 200000])])
    start = rng.choice([0, 0, rng.randrange(len(data))])
    for _ in range(rng.randint(1, 10)):
        at = min(start + int(rng.expovariate(0.02)), len(data) - 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at:at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 30))
        else:
            del data[at:at + rng.randint(1, 30)]
    client = Client(address)
    client.socket.settimeout(0.01)
    try:
        client.put(bytes(data))
        client.take(rng.choice([1, 18, 1000]))
    except (Gone, socket.timeout):
        pass
    client.close(rng.random() < 0.3)


def nonsense_hurts_nobody():
    scene = Scene()
    try:
        rng = random.Random(SEED + 3)
        for _ in range(GARBAGE):
            nonsense(rng.choice(scene.addresses), rng)
        return scene.end()
    except BaseException:
        scene.abandon()
        raise


# ---- The end, in the middle of all that ----

def it_stops_in_the_middle():
    for turn in range(5):
        scene = Scene(tls=True, image_format="gow3")
        try:
            rng = random.Random(SEED + 10 + turn)
            clients = [abandon(rng.choice(scene.addresses), rng) for _ in range(30)]
            clients.append(clog(scene))
            requests, fault, model = scene.verifier.stop()
            want(not fault, fault)
            scene.server.process.send_signal(signal.SIGTERM)
            try:
                scene.server.process.wait(SECONDS)
            except subprocess.TimeoutExpired as error:
                raise Fault("it does not stop") from error
            with scene.server:
                pass
            run(VDISK, "convert", "-f", scene.format, "-O", "raw", VERIFIED, "judged")
            with open("judged", "rb") as file:
                want(file.read() == model, "the image is not what was acknowledged")
            want(requests > 0, "nothing was verified")
            for client in clients:
                client.close()
        except BaseException:
            scene.abandon()
            raise


def main():
    tap = Tap()
    print(f"# seed {SEED}")
    tests = [connections_are_abandoned, silent_connections_hold_no_place, an_address_has_its_limit,
             who_takes_no_replies_takes_no_more_memory, time_is_limited, half_a_write_is_none,
             a_flush_and_a_close_may_race, nonsense_hurts_nobody, it_stops_in_the_middle]
    wanted = sys.argv[2:]
    with work_folder("serve-abuse"):
        for test in tests:
            if wanted and test.__name__ not in wanted:
                continue
            name = test.__name__.replace("_", " ")
            try:
                line = test()
                tap.report(name)
                if line:
                    print(f"# {line}")
            except Fault as fault:
                tap.report(name, [fault])
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
