#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A web server that misbehaves on demand.

    tests/interop/http_server.py FILE

It serves the bytes of FILE at /BEHAVIOUR/ARGUMENT/..., in the way that the function of that name
below describes, and prints its port on the first line.  It ends when its standard input does.
"""
import http
import pathlib
import socket
import socketserver
import sys
import threading
import time

CONTENT = b""
OTHER_PORT = 0
LOCK = threading.Lock()
REQUESTS = {}  # path: how many so far


class Request:
    """One request, and the means to answer it."""

    def __init__(self, stream, line, fields):
        self.stream = stream
        self.path = line.split(" ")[1]
        words = self.path.split("?")[0].strip("/").split("/")
        self.behaviour = words[0].replace("-", "_")
        self.arguments = words[1:]
        self.fields = fields
        self.first, self.last = self.wanted_range()
        with LOCK:
            self.number = REQUESTS.get(self.path, 0)  # of this path: 0, 1, 2, ...
            REQUESTS[self.path] = self.number + 1

    def wanted_range(self):
        text = self.fields.get("range", "")
        if not text.startswith("bytes="):
            return 0, len(CONTENT) - 1
        first, last = text[6:].split("-")
        return int(first), min(int(last), len(CONTENT) - 1)

    def send(self, data):
        self.stream.sendall(data)

    def head(self, status, *lines):
        phrase = http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else "Odd"
        self.send("\r\n".join([f"HTTP/1.1 {status} {phrase}", *lines, "", ""]).encode())

    def part(self, content_range=None, length=None, etag='"one"', body=None, extra=(),
             status=206):
        """A good answer to a range request, but for what is given; None leaves a field out."""
        data = CONTENT[self.first:self.last + 1] if body is None else body
        if content_range is None:
            content_range = f"bytes {self.first}-{self.last}/{len(CONTENT)}"
        lines = [f"Content-Range: {content_range}"] if content_range else []
        if length is None:
            length = len(data)
        lines += [f"Content-Length: {length}"] if length >= 0 else ["Connection: close"]
        lines += [f"ETag: {etag}"] if etag else []
        self.head(status, *lines, *extra)
        self.send(data)
        return length == len(data)  # keep the line open?

    def whole(self, content=None, length=None, etag='"one"', cut=None):
        """All of the file, whatever was asked for."""
        data = CONTENT if content is None else content
        lines = [f"Content-Length: {len(data) if length is None else length}"]
        lines += [f"ETag: {etag}"] if etag else []
        self.head(200, *lines)
        self.send(data if cut is None else data[:cut])
        return cut is None


def good(request):
    return request.part()


def unnamed(request):
    """No ETag and no date."""
    return request.part(etag=None)


def shifted(request):
    """After the open: one byte further than asked for, and says so."""
    if request.number == 0:
        return request.part()
    first, last = request.first + 1, request.last + 1
    return request.part(content_range=f"bytes {first}-{last}/{len(CONTENT)}")


def other_total(request):
    size = len(CONTENT) + (1 if request.number else 0)
    return request.part(content_range=f"bytes {request.first}-{request.last}/{size}", etag=None)


def no_total(request):
    return request.part(content_range=f"bytes {request.first}-{request.last}/*")


def huge_total(request):
    return request.part(content_range=f"bytes {request.first}-{request.last}/{2**63}")


def bad_range(request):
    return request.part(content_range="bytes 18446744073709551616-0/-5")


def no_content_range(request):
    return request.part(content_range="" if request.number else None)


def longer(request):
    """After the open: more bytes than the range has, by Content-Length."""
    if request.number == 0:
        return request.part()
    return request.part(body=CONTENT[request.first:request.last + 1] + b"more")


def longer_unsaid(request):
    if request.number == 0:
        return request.part()
    return request.part(body=CONTENT[request.first:request.last + 1] + b"more", length=-1)


def shorter(request):
    if request.number == 0:
        return request.part()
    return request.part(body=CONTENT[request.first:request.last])


def shorter_unsaid(request):
    """Half of what was asked for, no Content-Length, each time."""
    half = (request.last - request.first) // 2
    return request.part(body=CONTENT[request.first:request.first + half + 1], length=-1)


def cut(request):
    """The line breaks after so many bytes, each time."""
    data = CONTENT[request.first:request.last + 1]
    limit = int(request.arguments[0])
    return request.part(body=data[:limit], length=len(data)) and len(data) <= limit


def silent(request):
    """Closes the line without a word, after the open."""
    return request.part() if request.number == 0 else False


def etag_changes(request):
    return request.part(etag='"one"' if request.number == 0 else '"two"')


def etag_goes(request):
    return request.part(etag='"one"' if request.number == 0 else None)


def weak_etag_changes(request):
    return request.part(etag='W/"one"' if request.number == 0 else 'W/"two"')


def checks_if_match(request):
    """Serves only who asks for this very version."""
    if request.number and request.fields.get("if-match") != '"one"':
        return request.part(status=400)
    return request.part()


def refuses_if_match(request):
    if "if-match" in request.fields:
        request.head(412, "Content-Length: 0")
        return True
    return request.part()


def date_changes(request):
    second = min(request.number, 1)
    return request.part(etag=None, extra=[f"Last-Modified: Sat, 21 Nov 2026 10:00:0{second} GMT"])


def whole_later(request):
    """Ranges at first, then all of the file."""
    return request.part() if request.number == 0 else request.whole()


def whole(request):
    return request.whole()


def whole_cut(request):
    """All of the file; the n-th line breaks after n times so many bytes."""
    return request.whole(cut=int(request.arguments[0]) * (request.number + 1))


def whole_cut_once(request):
    return request.whole(cut=int(request.arguments[0]) if request.number == 0 else None)


def whole_stuck(request):
    """All of the file; each line breaks at the same place."""
    return request.whole(cut=int(request.arguments[0]))


def whole_other(request):
    """The line breaks; then other content, with nothing that would tell."""
    if request.number == 0:
        return request.whole(etag=None, cut=len(CONTENT) // 2)
    changed = bytearray(CONTENT)
    changed[10000] ^= 1
    return request.whole(bytes(changed), etag=None)


def whole_grows(request):
    if request.number == 0:
        return request.whole(etag=None, cut=len(CONTENT) // 2)
    return request.whole(CONTENT + b"x", etag=None)


def whole_etag(request):
    if request.number == 0:
        return request.whole(cut=len(CONTENT) // 2)
    return request.whole(etag='"two"')


def whole_stalls(request):
    """Half of the file, and then nothing more."""
    request.whole(cut=len(CONTENT) // 2)
    time.sleep(3600)


def no_length(request):
    request.head(200, "Connection: close")
    request.send(CONTENT)
    return False


def status(request):
    """Always this status."""
    request.head(int(request.arguments[0]), "Content-Length: 5")
    request.send(b"sorry")
    return True


def status_later(request):
    return request.part() if request.number == 0 else status(request)


def flaky(request):
    """Two of three requests fail with this status."""
    return request.part() if request.number % 3 == 2 else status(request)


def busy(request):
    """Retry-After, once."""
    if request.number == 1:
        request.head(503, "Content-Length: 0", "Retry-After: 1")
        return True
    return request.part()


def garbage(request):
    request.send(bytes(range(256)) * 8)
    return False


def later_garbage(request):
    return request.part() if request.number == 0 else garbage(request)


def bad_status(request):
    request.send(b"HTTP/1.1 abc def\r\n\r\n")
    return False


def never(request):
    time.sleep(3600)


def never_later(request):
    return request.part() if request.number == 0 else never(request)


def stalls(request):
    """Half of the range and then nothing, the first time it is asked for after the open."""
    if request.number != 1:
        return request.part()
    data = CONTENT[request.first:request.last + 1]
    request.part(body=data[:len(data) // 2], length=len(data))
    time.sleep(3600)


def trickles(request):
    """Slower than the timeout in all, but never silent for long."""
    if request.number == 0:
        return request.part()
    data = CONTENT[request.first:request.last + 1]
    request.part(body=b"", length=len(data))
    for start in range(0, len(data), 100):
        request.send(data[start:start + 100])
        time.sleep(0.05)
    return True


def endless_header(request):
    request.send(b"HTTP/1.1 206 Partial Content\r\n")
    while True:
        request.send(b"X-More: and more and more and more and more\r\n" * 100)


def endless_line(request):
    request.send(b"HTTP/1.1 206 Partial Content\r\nX-More: ")
    while True:
        request.send(b"and more and more and more" * 100)


def endless_error(request):
    """A status 404 with a body that does not end."""
    request.head(404, "Connection: close")
    while True:
        request.send(b"no such file" * 1000)


def moves_for_a_while(request):
    """Redirects to a place that serves the open, and then no more."""
    request.head(302, "Content-Length: 0", f"Location: /status-later/{request.arguments[0]}/moved")
    return True


def loop(request):
    request.head(302, f"Location: /loop?{request.number}", "Content-Length: 0")
    return True


def to(request):
    """Redirects to SCHEME/REST..."""
    request.head(302, "Content-Length: 0",
                 f"Location: {request.arguments[0]}://{'/'.join(request.arguments[1:])}")
    return True


def to_other_port(request):
    request.head(307, "Content-Length: 0",
                 f"Location: http://127.0.0.1:{OTHER_PORT}/{'/'.join(request.arguments)}")
    return True


def nowhere(request):
    request.head(301, "Content-Length: 0")
    return True


def authorization(request):
    """Only with this Authorization, whose blank is a comma in the path; "none" for without."""
    if request.fields.get("authorization", "none") != request.arguments[0].replace(",", " "):
        request.head(401, "Content-Length: 0", "WWW-Authenticate: Basic")
        return True
    return request.part()


def chunked(request):
    """A good answer in chunks, with trailers that lie."""
    request.head(206, "Transfer-Encoding: chunked", 'ETag: "one"',
                 f"Content-Range: bytes {request.first}-{request.last}/{len(CONTENT)}")
    data = CONTENT[request.first:request.last + 1]
    for start in range(0, len(data), 1000):
        chunk = data[start:start + 1000]
        request.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
    request.send(b'0\r\nContent-Range: bytes 7-8/9\r\nETag: "two"\r\n\r\n')
    return True


def interim(request):
    """An interim answer in front."""
    request.head(103, 'ETag: "two"', "Content-Range: bytes 7-8/9", "Link: </x>; rel=preload")
    return request.part()


def odd_spelling(request):
    data = CONTENT[request.first:request.last + 1]
    request.head(206, f"content-length:{len(data)}", 'eTAG:   "one"  ',
                 f"CONTENT-range: Bytes {request.first}-{request.last}/{len(CONTENT)}\t")
    request.send(data)
    return True


def encoded_later(request):
    return request.part(extra=["Content-Encoding: gzip"] if request.number else [])


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        stream = self.request
        reader = stream.makefile("rb")
        try:
            while line := reader.readline():
                fields = {}
                while (field := reader.readline().strip()):
                    name, value = field.decode("latin-1").split(":", 1)
                    fields[name.lower()] = value.strip()
                request = Request(stream, line.decode("latin-1").strip(), fields)
                if not globals()[request.behaviour](request):
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass
        # A half-close first, so that what was sent arrives in spite of unread input.
        try:
            stream.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


def main():
    global CONTENT, OTHER_PORT
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    CONTENT = pathlib.Path(sys.argv[1]).read_bytes()
    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    OTHER_PORT = servers[1].server_address[1]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(servers[0].server_address[1], flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
