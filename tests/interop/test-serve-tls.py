#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""`vdisk serve` with TLS: who comes in, and who does not.

    tests/interop/test-serve-tls.py VDISK

The clients are those of libnbd (nbdinfo, nbdcopy) and of QEMU (qemu-img); both have to be served,
or both be refused.  Certificates are made by certtool.
"""
import json
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.parse

import nbd_abuse
from certificates import Authority, write
from serving import Server, run
from tap import Fault, Tap, clear, work_folder

SIZE = 8 << 20
SECONDS = 60  # more than anything here takes
VDISK = os.path.abspath(sys.argv[1])

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO = 1, 2, 3, 5, 6, 7
STRUCTURED, LIST_META, SET_META, EXTENDED = 8, 9, 10, 11
ACK, TLS_REQUIRED = 1, 0x80000005

ALICE = "alice:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"
BOB = "bob:ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100\n"


def want(condition, *what):
    if not condition:
        raise Fault(" ".join(map(str, what)))


class TlsServer(Server):
    """On a free port of the loopback as well; its log is in the file `log`."""

    def __init__(self, *options, writable=False):
        kind = ["-e", "0"] if writable else ["-r"]
        super().__init__(VDISK, "-f", "raw", "-b", "127.0.0.1", "-p", "0", "--log=log", *kind,
                         *options, "disk")
        uris = self.ready["exports"][0]["uris"]
        tcp = [uri for uri in uris if not uri.startswith(("nbd+unix", "nbds+unix"))]
        self.port = urllib.parse.urlsplit(tcp[0]).port

    def reload(self):
        """Tells it to, and waits until it has said that it did, or could not."""
        before = len(self.lines())
        self.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + SECONDS
        while len(self.lines()) == before:
            want(time.monotonic() < end, "SIGHUP: nothing is logged")
            time.sleep(0.01)

    @staticmethod
    def lines():
        with open("log", encoding="utf-8") as file:
            return file.readlines()


# ---- Clients ----

class Client:
    """How one of the programs gets at the server; `creds` is a folder, or a file of keys."""

    def __init__(self, server, creds=None, user=None, host="localhost", priority=None):
        self.server = server
        self.creds = creds
        self.user = user
        self.host = host
        self.priority = priority

    def uri(self, scheme):
        """For libnbd: the name in it is the one that the server's certificate has to have."""
        query = {}
        if self.creds and self.user:
            query["tls-psk-file"] = os.path.abspath(self.creds)
        elif self.creds:
            query["tls-certificates"] = os.path.abspath(self.creds)
        at = f"{self.user}@" if self.user else ""
        words = urllib.parse.urlencode(query, quote_via=urllib.parse.quote, safe="/")
        return f"{scheme}://{at}{self.host}:{self.server.port}/?{words}"

    def qemu(self):
        """The options by which qemu-img finds it."""
        words = []
        more = f",priority={self.priority}" if self.priority else ""
        image = f"driver=nbd,host=127.0.0.1,port={self.server.port}"
        if self.creds and self.user:
            folder = "qemu-psk-" + self.creds.replace("/", "-")
            os.makedirs(folder, exist_ok=True)
            with open(self.creds, encoding="utf-8") as file:
                write(f"{folder}/keys.psk", file.read())
            words = ["--object", f"tls-creds-psk,id=t,dir={folder},username={self.user},"
                                 f"endpoint=client{more}"]
        elif self.creds:
            words = ["--object", f"tls-creds-x509,id=t,dir={self.creds},endpoint=client{more}"]
        if self.creds:
            image += f",tls-creds=t,tls-hostname={self.host}"
        return words, image

    def qemu_info(self):
        words, image = self.qemu()
        return ["qemu-img", "info", "--output=json", *words, "--image-opts", image]

    def nbdinfo(self, *options):
        return ["nbdinfo", "--json", *options, self.uri("nbds" if self.creds else "nbd")]


def attempt(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False, timeout=SECONDS)


def is_served(client):
    """Both programs get in, see the disk, and copy all of it."""
    seen = json.loads(run(*client.nbdinfo()))["exports"][0]["export-size"]
    want(seen == SIZE, "nbdinfo sees", seen)
    seen = json.loads(run(*client.qemu_info()))["virtual-size"]
    want(seen == SIZE, "qemu-img sees", seen)
    words, image = client.qemu()
    run("qemu-img", "convert", *words, "--image-opts", image, "-O", "raw", "by-qemu")
    run("nbdcopy", client.uri("nbds" if client.creds else "nbd"), "by-nbdcopy")
    for copy in ("by-qemu", "by-nbdcopy"):
        run("cmp", "disk", copy)
        os.unlink(copy)


def is_refused(client, *options):
    """Neither of them gets in."""
    commands = [client.nbdinfo(*options)]
    if not options:
        commands.append(client.qemu_info())
    for command in commands:
        done = attempt(command)
        want(done.returncode == 1, " ".join(command), "was not refused:", done.stdout or done.stderr)


class Raw:
    """Options of the negotiation, byte by byte."""

    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS)
        want(self.take(18)[:16] == b"NBDMAGICIHAVEOPT", "no greeting")
        self.socket.sendall(struct.pack(">I", 3))

    def take(self, length):
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def option(self, number, data=b""):
        """Types of the replies, and their data."""
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
        replies = []
        while not replies or replies[-1][0] in (2, 3, 4):
            magic, option, kind, length = struct.unpack(">QIII", self.take(20))
            want(magic == 0x3e889045565a9 and option == number, "a reply to", option)
            replies.append((kind, self.take(length)))
        return replies

    def start_tls(self):
        """The certificate of the server, as it is on the wire."""
        want(self.option(STARTTLS) == [(ACK, b"")], "STARTTLS is refused")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)
        return self.socket.getpeercert(binary_form=True)


# ---- What there is ----

class Scene:
    """The disk, two authorities, and folders of certificates for servers and clients."""

    def __init__(self):
        clear()
        with open("disk", "wb") as file:
            file.write(random.Random(5).randbytes(SIZE))
        self.ours = Authority("ours")
        self.theirs = Authority("theirs")
        self.server = self.make_server("server")
        self.client = self.ours.issue("client", "client", "client one")

    def make_server(self, folder, *lines):
        return self.ours.issue(folder, "server", "localhost", "tls_www_server",
                               *(lines or ['dns_name = "localhost"', "ip_address = 127.0.0.1"]))


PAST = ['activation_date = "2020-01-01 00:00:00"', 'expiration_date = "2020-02-01 00:00:00"']


# ---- Tests ----

def certificates_are_enough(scene):
    with TlsServer("--tls-creds", scene.server) as server:
        is_served(Client(server, scene.client))
        is_served(Client(server, scene.ours.where))  # has none of its own


def the_client_refuses_the_server(scene):
    with TlsServer("--tls-creds", scene.server) as server:
        is_refused(Client(server, scene.theirs.issue("stranger", "client", "client one")))
        is_served(Client(server, scene.client))
    expired = scene.make_server("server-expired", 'dns_name = "localhost"', *PAST)
    with TlsServer("--tls-creds", expired) as server:
        is_refused(Client(server, scene.client))
    other = scene.make_server("server-other", 'dns_name = "other.example"')
    with TlsServer("--tls-creds", other) as server:
        is_refused(Client(server, scene.client))


def the_server_refuses_clients(scene):
    with TlsServer("--tls-creds", scene.server, "--tls-verify-peer") as server:
        is_served(Client(server, scene.client))
        is_refused(Client(server, scene.ours.where))  # no certificate
        stranger = scene.theirs.issue("wrong-ca", "client", "client one")
        with open(scene.ours.certificate, encoding="utf-8") as file:
            write("wrong-ca/ca-cert.pem", file.read())
        is_refused(Client(server, stranger))
        is_refused(Client(server, scene.ours.issue("expired", "client", "client one",
                                                   "tls_www_client", *PAST)))
        is_refused(Client(server, scene.ours.issue("purpose", "client", "client one",
                                                   "tls_www_server")))
        is_served(Client(server, scene.client))
        lines = "".join(server.lines())
        for words in ("expired", "certificate is required", "intended purpose"):
            want(words.lower() in lines.lower(), "the log does not say", words, ":", lines)


def revoked_certificates_are_refused(scene):
    folder = scene.make_server("server-crl")
    revoked = scene.ours.issue("revoked", "client", "client two")
    scene.ours.revoke(f"{folder}/ca-crl.pem", f"{revoked}/client-cert.pem")
    with TlsServer("--tls-creds", folder, "--tls-verify-peer") as server:
        is_refused(Client(server, revoked))
        is_served(Client(server, scene.client))
        want("revoked" in "".join(server.lines()), "the log does not say why")


def only_those_on_the_list_come_in(scene):
    other = scene.ours.issue("client-two", "client", "client two")
    for names in (["CN=client one,O=vdisk\\, test"], ["O=vdisk\\, test,CN=client one"],
                  ["CN=nobody,*", "CN=* one,*"]):
        words = [word for name in names for word in ("--tls-authz", name)]
        with TlsServer("--tls-creds", scene.server, *words) as server:
            is_served(Client(server, scene.client))
            is_refused(Client(server, other))
            is_refused(Client(server, scene.ours.where))
            want("client two" in "".join(server.lines()), "the log does not say who")


def plain_clients_see_nothing(scene):
    with TlsServer("--tls-creds", scene.server) as server:
        is_refused(Client(server))
        is_refused(Client(server), "--list")
        name = struct.pack(">I", 0)
        info = name + struct.pack(">H", 0)
        meta = name + struct.pack(">I", 0)
        raw = Raw(server)
        for number, data in ((LIST, b""), (INFO, info), (GO, info), (LIST_META, meta),
                             (SET_META, meta), (STRUCTURED, b""), (EXTENDED, b"")):
            kinds = [kind for kind, _ in raw.option(number, data)]
            want(kinds == [TLS_REQUIRED], "option", number, "is answered by", kinds)
        raw.start_tls()
        want([kind for kind, _ in raw.option(LIST)] == [2, ACK], "no list by TLS")
        raw = Raw(server)
        try:
            replies = raw.option(EXPORT_NAME)
            raise Fault(f"EXPORT_NAME is answered by {replies}")
        except (EOFError, ConnectionResetError):
            pass
        # What came before the handshake of TLS, together with STARTTLS, does not count after it.
        raw = Raw(server)
        raw.socket.sendall(b"IHAVEOPT" + struct.pack(">II", STARTTLS, 0) +
                           b"IHAVEOPT" + struct.pack(">II", LIST, 0))
        try:
            while True:
                raw.take(1)
        except (EOFError, ConnectionResetError):
            pass
        is_served(Client(server, scene.client))


def optional_tls_works_both_ways(scene):
    with TlsServer("--tls-creds", scene.server, "--tls-optional", "--tls-verify-peer") as server:
        is_served(Client(server, scene.client))
        is_served(Client(server))
        is_refused(Client(server, scene.ours.where))
        want([kind for kind, _ in Raw(server).option(LIST)] == [2, ACK], "no list")


def old_versions_are_refused(scene):
    with TlsServer("--tls-creds", scene.server) as server:
        for version, is_good in (("1.0", False), ("1.1", False), ("1.2", True), ("1.3", True)):
            client = Client(server, scene.client,
                            priority=f"NORMAL:-VERS-ALL:+VERS-TLS{version}:%COMPAT")
            done = attempt(client.qemu_info())
            want((done.returncode == 0) == is_good, "TLS", version, done.stderr)
    with TlsServer("--tls-creds", scene.server, "--tls-priority",
                   "NORMAL:-VERS-ALL:+VERS-TLS1.3") as server:
        done = attempt(Client(server, scene.client,
                              priority="NORMAL:-VERS-ALL:+VERS-TLS1.2").qemu_info())
        want(done.returncode == 1, "TLS 1.2, which is not allowed")
        is_served(Client(server, scene.client))


def keys_are_enough(_):
    write("keys", ALICE + BOB)
    write("mixed", ALICE.replace("alice", "bob"))
    write("mallory", ALICE.replace("alice", "mallory"))
    with TlsServer("--tls-psk", "keys") as server:
        is_served(Client(server, "keys", "alice"))
        is_served(Client(server, "keys", "bob"))
        is_refused(Client(server, "mixed", "bob"))        # a key of somebody else
        is_refused(Client(server, "mallory", "mallory"))  # whom nobody knows
        is_refused(Client(server))
    with TlsServer("--tls-psk", "keys", "--tls-authz", "b*") as server:
        is_served(Client(server, "keys", "bob"))
        is_refused(Client(server, "keys", "alice"))


def writes_arrive(scene):
    with TlsServer("--tls-creds", scene.server, "--tls-verify-peer", writable=True) as server:
        data = random.Random(6).randbytes(SIZE)
        with open("new", "wb") as new:
            new.write(data)
        client = Client(server, scene.client)
        run("nbdcopy", "--flush", "new", client.uri("nbds"))
        run("cmp", "new", "disk")
        words, image = client.qemu()
        file = "driver=raw,file.driver=file,file.filename=new"
        run("qemu-img", "compare", *words, "--image-opts", file, image)
        with open("new", "wb") as new:
            new.write(random.Random(7).randbytes(SIZE))
        run("qemu-img", "convert", "-n", *words, "--image-opts", "--target-image-opts", file, image)
        run("cmp", "new", "disk")


def a_reload_takes_what_is_new(scene):
    folder = scene.make_server("server-reload")
    victim = scene.ours.issue("victim", "client", "client three")
    with TlsServer("-v", "--tls-creds", folder, "--tls-verify-peer") as server:
        old = nbd_abuse.Client(("127.0.0.1", server.port))
        old.greet()
        old.start_tls(victim)
        old.choose("")
        is_served(Client(server, victim))

        with open(f"{folder}/server-cert.pem", encoding="utf-8") as file:
            good = file.read()
        write(f"{folder}/server-cert.pem", "nonsense\n")
        server.reload()  # fails: all is as before
        is_served(Client(server, victim))
        write(f"{folder}/server-cert.pem", good)

        scene.ours.revoke(f"{folder}/ca-crl.pem", f"{victim}/client-cert.pem")
        server.reload()
        is_refused(Client(server, victim))
        is_served(Client(server, scene.client))
        with open("disk", "rb") as file:
            want(old.ask(nbd_abuse.READ, 0, SIZE) == (0, file.read()),
                 "the old connection reads other bytes")
        old.close()


def a_reload_shows_the_new_certificate(scene):
    folder = scene.make_server("server-new")
    with TlsServer("-v", "--tls-creds", folder) as server:
        before = Raw(server).start_tls()
        want(Raw(server).start_tls() == before, "another certificate each time")
        scene.make_server("server-new")
        server.reload()
        want(Raw(server).start_tls() != before, "the old certificate still")


def wrong_files_stop_it_at_once(scene):
    cases = [("--tls-creds", "nowhere"), ("--tls-psk", "nowhere"), ("--tls-psk", "disk"),
             ("--tls-creds", scene.server, "--tls-priority", "NONSENSE")]
    mixed = scene.make_server("server-mixed")
    with open(f"{scene.server}/server-key.pem", encoding="utf-8") as file:
        write(f"{mixed}/server-key.pem", file.read())
    cases.append(("--tls-creds", mixed))
    for case in cases:
        done = attempt([VDISK, "serve", "-f", "raw", "-r", "-k", "s", *case, "disk"])
        want(done.returncode == 1 and done.stderr, case, "status", done.returncode)


def main():
    tap = Tap()
    tests = [certificates_are_enough, the_client_refuses_the_server, the_server_refuses_clients,
             revoked_certificates_are_refused, only_those_on_the_list_come_in,
             plain_clients_see_nothing, optional_tls_works_both_ways, old_versions_are_refused,
             keys_are_enough, writes_arrive, a_reload_takes_what_is_new,
             a_reload_shows_the_new_certificate, wrong_files_stop_it_at_once]
    with work_folder("serve-tls"):
        scene = Scene()
        for test in tests:
            try:
                test(scene)
                tap.report(test.__name__.replace("_", " "))
            except Fault as fault:
                tap.report(test.__name__.replace("_", " "), [fault])
    return tap.end()


sys.exit(main())
