#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The status page of `vdisk serve`: what it shows is what was done, and it withstands abuse.

    tests/interop/test-serve-page.py VDISK

The page runs in Chromium without a window; without one, what needs it is skipped.  VD_SCREENSHOTS
names a folder for pictures of it, light and dark, wide and narrow.
"""
import decimal
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import struct
import sys
import time

import browser
import serving
from serving import run
from tap import Fault, Tap, work_folder

KIB, MIB = 1 << 10, 1 << 20
CLUSTER = 64 * KIB
KINDS = ["read", "write", "flush", "trim", "write-zeroes", "cache", "block-status"]
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
MARKUP = "<img src=x onerror=alert(1)> \"&'\\ \u00e4\u202e"
PAGE = pathlib.Path(__file__).resolve().parents[2] / "src" / "serve" / "page.html"


def want(what, is_true):
    if not is_true:
        raise Fault(what)


def equal(what, found, wanted):
    want(f"{what}: {found!r}, wanted {wanted!r}", found == wanted)


# --- traffic that is known to the last request ------------------------------------------------------


class Client:
    """An NBD client that asks for what it is told to, and no more."""

    def __init__(self, path, name):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.take(18)
        name = name.encode()
        self.socket.sendall(struct.pack(">I", 3))
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">III", 7, len(name) + 6, len(name)) + name +
                            struct.pack(">H", 0))
        kind = 3
        while kind == 3:
            _, _, kind, length = struct.unpack(">QIII", self.take(20))
            self.take(length)
        equal("the answer to NBD_OPT_GO", kind, 1)
        self.cookie = 0

    def take(self, length):
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise Fault("the server hung up")
            data += part
        return data

    def ask(self, command, offset=0, length=0, data=b"", error=0):
        self.cookie += 1
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, self.cookie, offset,
                                        length) + data)
        magic, code, cookie = struct.unpack(">IIQ", self.take(16))
        equal("the reply", (magic, cookie), (0x67446698, self.cookie))
        equal("its error", code, error)
        return self.take(length) if command == READ and not error else b""

    def close(self):
        self.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, DISC, 0, 0, 0))
        self.socket.close()


class Traffic:
    """What was asked of an export, kind by kind."""

    def __init__(self):
        self.requests = dict.fromkeys(KINDS, 0)
        self.errors = dict.fromkeys(KINDS, 0)
        self.bytes = dict.fromkeys(KINDS, 0)

    def ask(self, client, kind, offset=0, length=0, error=0):
        command = [READ, WRITE, FLUSH, TRIM, ZEROES, CACHE][KINDS.index(kind)]
        data = bytes([1 + offset // CLUSTER % 255]) * length if kind == "write" else b""
        client.ask(command, offset, length, data, error)
        self.requests[kind] += 1
        if error:
            self.errors[kind] += 1
        else:
            self.bytes[kind] += length

    def some(self, client):
        """Writes clusters 0 to 36, reads, and more."""
        for i in range(37):
            self.ask(client, "write", i * CLUSTER, CLUSTER)
        for i in range(11):
            self.ask(client, "read", i * 4 * KIB, 4 * KIB)
        for i in range(3):
            self.ask(client, "read", i * MIB, MIB)
        self.ask(client, "flush")
        self.ask(client, "flush")
        self.ask(client, "read", 1 << 50, 512, error=22)


# --- the server -----------------------------------------------------------------------------------


class Site:
    """HTTP to the status page, as bare as can be."""

    def __init__(self, server):
        found = re.fullmatch(r"http://(127\.0\.0\.1):(\d+)/", server.ready["status"])
        want(f"the address of the page: {server.ready['status']}", found)
        self.url = server.ready["status"]
        self.host, self.port = found[1], int(found[2])

    def get(self, path, method="GET", headers=None, body=None):
        """Status, headers, body."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, path="/status.json"):
        status, headers, body = self.get(path)
        equal(f"the status of {path}", status, 200)
        equal(f"the type of {path}", headers["Content-Type"], "application/json")
        return json.loads(body)

    def raw(self, data, seconds=60):
        """All that is answered to these bytes."""
        answer = b""
        with socket.create_connection((self.host, self.port), seconds) as to:
            try:
                to.sendall(data)
                while part := to.recv(65536):
                    answer += part
            except ConnectionError:
                pass
            return answer


class World:
    """Two servers: of qcow2 images with a bitmap, and of a GOW v3 image."""

    def __init__(self, vdisk):
        self.vdisk = vdisk
        self.traffic = {"system": Traffic(), MARKUP: Traffic()}
        for name in ("a.qcow2", "b.qcow2"):
            run(vdisk, "create", "-q", "-f", "qcow2", name, "64M")
            run(vdisk, "bitmap", "--add", name, "daily")
        self.server = serving.Server(
            vdisk, "-f", "qcow2", "-e", "0", "-A", "-B", "daily", "--status", "127.0.0.1:0",
            "-x", "system", "-D", "the first one", "-x", MARKUP, "-D", "", "a.qcow2", "b.qcow2")
        self.site = Site(self.server)
        self.clients = []

    def client(self, name):
        self.clients.append(Client(self.server.socket, name))
        return self.clients[-1]

    def export(self, name):
        return next(e for e in self.site.json()["exports"] if e["name"] == name)


# --- numbers --------------------------------------------------------------------------------------


def check_json(world):
    """Every counter is what was asked for."""
    status = world.site.json()
    equal("the exports", [e["name"] for e in status["exports"]], list(world.traffic))
    for export in status["exports"]:
        traffic = world.traffic[export["name"]]
        equal("format and size", (export["format"], export["size"], export["writable"]),
              ("qcow2", 64 * MIB, True))
        for kind in KINDS:
            told = export["requests"][kind]
            where = f"{export['name']}, {kind}"
            equal(f"{where}: requests", told["requests"], traffic.requests[kind])
            equal(f"{where}: errors", told["errors"], traffic.errors[kind])
            equal(f"{where}: bytes", told["bytes"], traffic.bytes[kind])
            equal(f"{where}: latencies", sum(told["latencies"]), told["requests"])
            equal(f"{where}: classes", len(told["latencies"]), len(status["latency-limits-us"]) + 1)
    for kind in KINDS:
        equal(f"the server, {kind}", status["server"]["requests"][kind]["requests"],
              sum(t.requests[kind] for t in world.traffic.values()))
    equal("clients", sorted(c["export"] or "" for c in status["clients"]),
          sorted(name for name in ["system", MARKUP]))
    for client in status["clients"]:
        traffic = world.traffic[client["export"]]
        requests = sum(traffic.requests.values())
        # 28 bytes a request and 16 a reply, beside the negotiation.
        sent = traffic.bytes["read"] + 16 * requests
        received = traffic.bytes["write"] + 28 * requests
        want(f"bytes of {client}", 0 < client["sent-bytes"] - sent < 1000)
        want(f"bytes of {client}", 0 < client["received-bytes"] - received < 1000)


def check_map(world):
    answer = world.site.json("/map.json?export=system")
    equal("contexts", [m["context"] for m in answer["maps"]],
          ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:daily"])
    equal("the size", answer["size"], 64 * MIB)
    equal("the cells", answer["cell-size"], CLUSTER)
    for one in answer["maps"]:
        want(f"{one['context']}: complete", one["complete"])
        equal(one["context"], one["bytes"], [CLUSTER] * 37 + [0] * (1024 - 37))
    one = world.site.json("/map.json?export=system&context=qemu:dirty-bitmap:daily&context=x:y")
    equal("one context", [m["context"] for m in one["maps"]], ["qemu:dirty-bitmap:daily"])


def check_versions(vdisk):
    os.mkdir("versions")
    os.chdir("versions")
    run(vdisk, "create", "-q", "-f", "gow3", "v.gow", "100M")
    run(vdisk, "io", "-f", "gow3", "-c", "write 0 1M", "v.gow")
    run(vdisk, "io", "-f", "gow3", "-c", "write 512k 1M", "v.gow")
    with serving.Server(vdisk, "-f", "gow3", "-r", "--status", "127.0.0.1:0", "v.gow") as server:
        answer = Site(server).json("/map.json?export=&context=vdisk:version")
        cell = answer["cell-size"]
        equal("cells of versions", cell, 128 * KIB)
        equal("versions", answer["maps"][0]["highest"], [1] * 4 + [2] * 4 + [1] * 4 + [0] * 788)
        equal("written", sum(answer["maps"][0]["bytes"]), 1536 * KIB)
    os.chdir("..")


# --- Prometheus -----------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')


def parse_metrics(text):
    """{name: (type, {labels: value})}, by the letter of the format; families are in one piece."""
    want("metrics end with a newline", text.endswith("\n"))
    families, current, helped = {}, None, None
    for line in text[:-1].split("\n"):
        if found := re.fullmatch(r"# HELP (\S+) (.+)", line):
            helped = found[1]
        elif found := re.fullmatch(r"# TYPE (\S+) (counter|gauge|histogram)", line):
            equal("TYPE follows HELP", found[1], helped)
            want(f"{line}: once", found[1] not in families)
            current = families[found[1]] = (found[2], {})
        else:
            found = SAMPLE.fullmatch(line)
            want(f"a sample: {line!r}", found and current)
            labels, rest = [], found[2] or ""
            while rest:
                label = LABEL.match(rest)
                want(f"a label: {rest!r} of {line!r}", label)
                value = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), label[2])
                labels.append((label[1], value))
                rest = rest[label.end():]
            base = re.sub("_(bucket|sum|count)$", "", found[1]) if current[0] == "histogram" \
                else found[1]
            equal(f"the family of {line!r}", families.get(base), current)
            key = (found[1], tuple(sorted(labels)))
            want(f"{key}: once", key not in current[1])
            current[1][key] = float(found[3])
    return families


def check_histogram(samples):
    """Buckets go up, the last one is +Inf, and equals the count."""
    series = {}
    for (name, labels), value in samples.items():
        rest = tuple(l for l in labels if l[0] != "le")
        series.setdefault(rest, {})[(name.rsplit("_", 1)[1], dict(labels).get("le"))] = value
    for rest, values in series.items():
        buckets = [(float(le), v) for (part, le), v in values.items() if part == "bucket"]
        equal(f"{rest}: limits go up", [b[0] for b in buckets], sorted({b[0] for b in buckets}))
        equal(f"{rest}: counts go up", [b[1] for b in buckets], sorted(b[1] for b in buckets))
        equal(f"{rest}: the last", buckets[-1][0], float("inf"))
        equal(f"{rest}: the count", values[("count", None)], buckets[-1][1])
        want(f"{rest}: the sum", values[("sum", None)] >= 0)
    return {rest: values[("count", None)] for rest, values in series.items()}


def check_metrics(world):
    status, headers, body = world.site.get("/metrics")
    equal("the status", status, 200)
    equal("the type", headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
    families = parse_metrics(body.decode())
    version = run(world.vdisk, "--version").split()[1]
    equal("the version", list(families["vdisk_info"][1]),
          [("vdisk_info", (("version", version),))])
    counts = check_histogram(families["vdisk_export_request_duration_seconds"][1])
    for name, traffic in world.traffic.items():
        for kind in KINDS:
            labels = (("export", name), ("kind", kind))
            for metric, wanted in (("requests", traffic.requests), ("request_errors", traffic.errors),
                                   ("request_bytes", traffic.bytes)):
                full = f"vdisk_export_{metric}_total"
                equal(f"{full} {labels}", families[full][1][(full, labels)], wanted[kind])
            equal(f"the histogram of {labels}", counts[labels], traffic.requests[kind])
        full = "vdisk_export_size_bytes"
        equal(full, families[full][1][(full, (("export", name),))], 64 * MIB)
    equal("clients", families["vdisk_clients"][1][("vdisk_clients", ())], 2)


# --- the page in a browser ------------------------------------------------------------------------


def as_shown(n):
    """The page's way to write sizes."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    unit = 0
    while n >= 1024:
        n, unit = n / 1024, unit + 1
    step = "0.01" if n < 10 else "0.1" if n < 100 else "1"
    text = str(round(n)) if n == int(n) \
        else str(decimal.Decimal(n).quantize(decimal.Decimal(step), decimal.ROUND_HALF_UP))
    return f"{text} {units[unit]}"


ROWS = """[...document.querySelectorAll("%s tbody tr")].map((row) => [...row.cells].map(
    (cell) => ({text: cell.textContent, value: cell.dataset.value})))"""


def wait_for_polls(page, more=2):
    polls = int(page.run("document.body.dataset.polls || 0"))
    page.wait_until(f"Number(document.body.dataset.polls) >= {polls + more}")


def check_exports(page, world):
    rows = page.run(ROWS % "#exports")
    equal("rows of exports", len(rows), 2)
    for row, (name, traffic) in zip(rows, world.traffic.items()):
        about = "the first one" if name == "system" else ""
        equal("name", row[0]["text"], name + about)
        equal("format, access", [row[1]["text"], row[2]["text"]], ["qcow2", "writable"])
        requests, errors = sum(traffic.requests.values()), sum(traffic.errors.values())
        for cell, n, text in ((3, 64 * MIB, "64 MiB"), (4, 1, "1"),
                              (5, traffic.bytes["read"], as_shown(traffic.bytes["read"])),
                              (6, traffic.bytes["write"], as_shown(traffic.bytes["write"])),
                              (7, requests, f"{requests:,}"), (8, errors, f"{errors:,}")):
            equal(f"{name}: cell {cell}", row[cell], {"text": text, "value": str(n)})


def check_page(page, world):
    wait_for_polls(page)
    check_exports(page, world)
    for kind in ("read", "write"):
        total = sum(t.bytes[kind] for t in world.traffic.values())
        node = page.run(f"(({{textContent: text, dataset: {{value}}}}) => ({{text, value}}))"
                        f"(document.getElementById('{kind}-sum'))")
        equal(f"{kind} in all", node, {"text": as_shown(total) + " in all", "value": str(total)})
    total = sum(sum(t.requests.values()) for t in world.traffic.values())
    equal("requests in all", page.run("document.getElementById('requests-sum').dataset.value"),
          str(total))
    equal("clients", page.run("document.getElementById('clients-now').dataset.value"), "2")
    equal("peers", sorted(row[1]["text"] for row in page.run(ROWS % "#clients")),
          sorted(world.traffic))


def check_kinds(page, world, name):
    index = list(world.traffic).index(name)
    page.run(f"document.querySelectorAll('#exports tbody button')[{index}].click()")
    rows, traffic = page.run(ROWS % "#kinds"), world.traffic[name]
    wanted = [kind for kind in KINDS if traffic.requests[kind]]
    equal("kinds", [row[0]["text"].lower().replace(" ", "-") for row in rows], wanted)
    for row, kind in zip(rows, wanted):
        equal(f"{name}, {kind}", [cell["value"] for cell in row[1:4]],
              [str(n[kind]) for n in (traffic.requests, traffic.errors, traffic.bytes)])


def check_shown_map(page, title, wanted):
    """Chooses what the map shows; `wanted` bytes are marked."""
    page.run(f"[...document.querySelectorAll('#contexts button')].find((b) => b.textContent === "
             f"{json.dumps(title)}).click()")
    page.wait_until(f"document.getElementById('map-sum').dataset.value === '{wanted}'")
    equal("what is pressed",
          page.run("document.querySelector('#contexts [aria-pressed=true]').textContent"), title)
    page.run("document.getElementById('map').focus()")
    for key in ("Home", "ArrowRight", "ArrowDown"):
        page.ask("Input.dispatchKeyEvent", type="keyDown", key=key)
        page.ask("Input.dispatchKeyEvent", type="keyUp", key=key)
    text = page.run("document.getElementById('maptext').textContent")
    want(f"a cell by the keys: {text}", re.match(r"(4.06|2.06) MiB to (4.13|2.13) MiB: 0 B ", text))


def check_quiet(page, site):
    """It asked nobody else, and met nothing to complain of."""
    strangers = [url for url in page.requests
                 if not url.startswith(site.url) and not url.startswith("data:")
                 and url != "about:blank"]
    equal("requests to others", strangers, [])
    want("requests to the server", any(url.endswith("/status.json") for url in page.requests))
    equal("complaints of the browser", page.complaints, [])
    equal("failures in the browser", page.failures, [])


def check_looks(page):
    """Fits any width.  Pictures, if they are wanted."""
    folder = os.environ.get("VD_SCREENSHOTS")
    for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light"), (320, "dark")):
        page.look(width, 900, scheme)
        wait_for_polls(page, 1)
        wide = page.run("document.documentElement.scrollWidth")
        equal(f"the width of the page at {width} pixels", wide, width)
        image = pathlib.Path(f"{scheme}-{width}.png")
        page.screenshot(image)
        want(f"a picture of {width} pixels", image.stat().st_size > 10000)
        if folder:
            shutil.copy(image, folder)
    names = page.run("[...document.querySelectorAll('button, [tabindex], a')].filter((n) => "
                     "n.checkVisibility() && !(n.ariaLabel || n.textContent).trim()).length")
    equal("controls without a name", names, 0)


def check_contrast():
    """Text against what is behind it, in both schemes: at least 4.5 (WCAG AA); marks at least 3."""
    style = PAGE.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    def luminance(colour):
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    for scheme in (light, dark):
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", scheme))
        for front, least in (("ink", 7), ("soft", 4.5), ("bad", 4.5), ("good", 3), ("read", 3),
                             ("write", 3), ("dirty", 3), ("version", 3)):
            for back in ("page", "card", "hover", "chosen"):
                a, b = sorted((luminance(colours[front]), luminance(colours[back])))
                ratio = (b + 0.05) / (a + 0.05)
                want(f"contrast of {front} on {back}: {ratio:.2f}, at least {least}",
                     ratio >= least)


# --- abuse ----------------------------------------------------------------------------------------


def check_rules(world):
    site = world.site
    for path in ("/", "/status.json", "/metrics", "/map.json?export=system"):
        status, headers, body = site.get(path)
        equal(path, status, 200)
        want(f"{path}: a body", len(body) > 100)
        for name, value in (("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"),
                            ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"),
                            ("Cross-Origin-Resource-Policy", "same-origin")):
            equal(f"{path}: {name}", headers[name], value)
        policy = headers["Content-Security-Policy"]
        want(f"{path}: {policy}", "default-src 'none'" in policy and "unsafe" not in policy
             and "frame-ancestors 'none'" in policy)
        want(f"{path}: not for others", "Access-Control-Allow-Origin" not in headers)
        status, head, body = site.get(path, "HEAD")
        equal(f"HEAD {path}", (status, head["Content-Type"], body),
              (200, headers["Content-Type"], b""))
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
        status, headers, _ = site.get("/", method)
        equal(method, (status, headers["Allow"]), (405, "GET, HEAD"))
    equal("POST with a body", site.get("/", "POST", body=b"x" * 100000)[0], 405)
    equal("GET with a body", site.get("/", body=b"x")[0], 400)
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//", "/status.json/", "/page.html",
                 "/STATUS.JSON", "/index.html", "/map.json%2f?export=system"):
        equal(path, site.get(path)[0], 404)
    for path in ("/map.json", "/map.json?context=base:allocation", "/map.json?export=system&x=y",
                 "/map.json?export=system" + "&context=a:b" * 9):
        equal(path, site.get(path)[0], 400)
    for path in ("/map.json?export=nobody", "/map.json?export=system%00", "/map.json?export=%ff%fe"):
        equal(path, site.get(path)[0], 404)
    equal("no such context", site.json("/map.json?export=system&context=%3Cb%3E")["maps"], [])


def check_hosts(world):
    """A name that is not this machine's may be somebody's whose page runs in a browser here."""
    site = world.site
    for host in ("localhost", "127.0.0.1", "[::1]", f"localhost:{site.port}", "LOCALHOST:1",
                 f"127.0.0.1:{site.port}", "[::1]:65535"):
        equal(host, site.get("/status.json", headers={"Host": host})[0], 200)
    for host in ("evil.example", f"evil.example:{site.port}", "localhost.evil.example",
                 "127.0.0.1.evil.example", "localhost:80x", "localhost:123456", "127.0.0.1@evil",
                 "::1", "", "[::1", "0x7f000001"):
        status, _, body = site.get("/status.json", headers={"Host": host})
        want(f"Host {host!r}: {status}", status in (400, 403) and b"exports" not in body)
    want("no Host", b"200 OK" not in site.raw(b"GET /status.json HTTP/1.0\r\n\r\n"))
    want("no Host in 1.1", b"200 OK" not in site.raw(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"))


def check_garbage(world):
    site, local = world.site, b"Host: localhost\r\n"
    for data in (b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n" + local + b"\r\n",
                 b"GET / HTTP/1.1\r\n" + local + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + local + b"A: b\r\n" * 100000 + b"\r\n",
                 b"GET /?" + b"a=b&" * 50000 + b" HTTP/1.1\r\n" + local + b"\r\n"):
        want("a head of a megabyte", b"200 OK" not in site.raw(data))
    for data in (b"\0" * 4096 + b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\r\n" * 1000, b"GET\r\n\r\n",
                 b"GET / HTTP/9.9\r\n\r\n", b"GET /%zz HTTP/1.1\r\n" + local + b"\r\n",
                 b"POST / HTTP/1.1\r\n" + local + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n",
                 b"GET / HTTP/1.1\r\n" + local + b"Content-Length: 18446744073709551616\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + local + b"Content-Length: -1\r\n\r\n"):
        with socket.create_connection((site.host, site.port), 60) as to:
            to.sendall(data)
    equal("the page afterwards", site.get("/")[0], 200)


def check_dawdlers(world, client):
    """Whoever takes his time takes it from others who ask for the page, and only for a while."""
    site, started = world.site, time.monotonic()
    sockets = []
    for i in range(100):
        to = socket.create_connection((site.host, site.port), 60)
        to.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + (b"\r\n" if i % 2 else b"X: "))
        sockets.append(to)
    traffic = world.traffic["system"]
    for _ in range(200):
        traffic.ask(client, "read", 0, 4 * KIB)
    while True:
        for to in sockets[::2]:
            try:
                to.sendall(b"a")
            except OSError:
                pass
        try:
            connection = http.client.HTTPConnection(site.host, site.port, timeout=3)
            connection.request("GET", "/status.json")
            if connection.getresponse().status == 200:
                break
        except OSError:
            want("the page after the dawdlers", time.monotonic() - started < 120)
        finally:
            connection.close()
    for to in sockets:
        to.close()


# --- all of it ------------------------------------------------------------------------------------


def in_browser(tap, world, path):
    page = browser.Browser(path)
    try:
        page.look(1280, 900)
        page.open(world.site.url)
        attempt(tap, "the page shows what was done", lambda: check_page(page, world))
        attempt(tap, "the page shows the kinds of requests",
                lambda: [check_kinds(page, world, name) for name in (MARKUP, "system")])
        world.traffic[MARKUP].some(world.clients[1])
        attempt(tap, "the page follows what is done", lambda: check_page(page, world))
        for title in ("Allocation", "Depth", "Dirty: daily"):
            attempt(tap, f"the map of the disk: {title}",
                    lambda title=title: check_shown_map(page, title, 37 * CLUSTER))
        attempt(tap, "the page fits any width", lambda: check_looks(page))
        attempt(tap, "the browser asked nobody else, and complains of nothing",
                lambda: check_quiet(page, world.site))
        world.server.process.terminate()
        attempt(tap, "the page tells that the server is gone",
                lambda: page.wait_until("/^no answer/.test(document.getElementById('live')."
                                        "textContent)"))
    finally:
        page.close()


def attempt(tap, name, function):
    try:
        function()
        tap.report(name)
    except Fault as fault:
        tap.report(name, [fault])


def test_all(tap, vdisk):
    world = World(vdisk)
    with world.server:
        for name in world.traffic:
            world.client(name)
        for traffic, client in zip(world.traffic.values(), world.clients):
            traffic.some(client)
        attempt(tap, "status.json tells what was done", lambda: check_json(world))
        attempt(tap, "map.json", lambda: check_map(world))
        attempt(tap, "map.json of block versions", lambda: check_versions(vdisk))
        attempt(tap, "metrics as Prometheus takes them", lambda: check_metrics(world))
        attempt(tap, "methods, paths and headers", lambda: check_rules(world))
        attempt(tap, "names of hosts", lambda: check_hosts(world))
        attempt(tap, "garbage", lambda: check_garbage(world))
        attempt(tap, "many who dawdle", lambda: check_dawdlers(world, world.clients[0]))
        attempt(tap, "contrast of the colours", check_contrast)
        path = browser.find()
        if path:
            in_browser(tap, world, path)
        else:
            tap.report("the page in a browser # SKIP no chromium")


def main():
    vdisk = os.path.abspath(sys.argv[1])
    tap = Tap()
    with work_folder("serve-page"):
        test_all(tap, vdisk)
    return tap.end()


sys.exit(main())
