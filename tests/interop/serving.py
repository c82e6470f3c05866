# SPDX-License-Identifier: MIT
"""A server under test: `vdisk serve`, or qemu-nbd with the same image, on a Unix socket."""
import json
import os
import subprocess
import time
import urllib.parse

from tap import Fault

START_SECONDS = 60


def run(*words, status=0, text=None, environment=None):
    """What a command prints; Fault if it ends with another status."""
    command = [str(word) for word in words]
    done = subprocess.run(command, input=text or "", capture_output=True, text=True, check=False,
                          env={**os.environ, **(environment or {})})
    if done.returncode != status:
        raise Fault(f"{' '.join(command)}: status {done.returncode}, wanted {status}: "
                    f"{(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


class Server:
    """`vdisk serve` in the background, on the socket `s` in the current folder."""

    def __init__(self, program, *options):
        self.socket = os.path.abspath("s")
        self.process = subprocess.Popen(
            [program, "serve", "--output=json", "-t", "-k", "s", *map(str, options)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise Fault(f"no server: {self.process.communicate()[1].strip()}")
        self.ready = json.loads(line)
        self.uri = self.ready["exports"][0]["uris"][0]

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.terminate()
        out, err = self.process.communicate()
        if kind is None and (self.process.returncode != 0 or err):
            raise Fault(f"the server ended with status {self.process.returncode}: {err or out}")

    def kill(self):
        """At once, with no chance to do anything."""
        self.process.kill()
        self.process.communicate()
        os.unlink(self.socket)


class QemuServer:
    """qemu-nbd in the background, on the socket `q` in the current folder."""

    def __init__(self, *options):
        self.socket = os.path.abspath("q")
        self.process = subprocess.Popen(
            ["qemu-nbd", "-t", "-k", self.socket, *map(str, options)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.uri = "nbd+unix:///?socket=" + urllib.parse.quote(self.socket)
        end = time.monotonic() + START_SECONDS
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > end:
                raise Fault(f"no qemu-nbd: {self.process.stderr.read()}")
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.process.terminate()
        self.process.communicate()
