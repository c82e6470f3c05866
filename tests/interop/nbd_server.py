# SPDX-License-Identifier: MIT
"""NBD servers for the tests in Python: nbdkit, qemu-nbd, and vdisk itself, on a Unix socket."""
import contextlib
import os
import shutil
import stat
import subprocess
import time

from tap import Fault


class Server:
    """A server that runs in the foreground, on the socket `socket` in the current folder."""

    def __init__(self, command, path="socket"):
        self.command = command
        self.socket = os.path.abspath(path)
        self.child = None

    def uri(self, export="", parameters="", tls=False):
        """Of the export; `parameters`: more of them, with the & before."""
        scheme = "nbds+unix" if tls else "nbd+unix"
        return f"{scheme}:///{export}?socket={self.socket}{parameters}"

    def listens(self):
        """Does somebody accept connections?  Asked without making one."""
        if os.path.exists(self.socket) and not stat.S_ISSOCK(os.stat(self.socket).st_mode):
            return True  # a server of TCP makes a file of its own when it listens
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as sockets:
            return any(line.split()[3] == "00010000" and line.rstrip("\n").endswith(
                " " + self.socket) for line in sockets)

    def start(self):
        """Returns when it listens."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        with open("server.log", "ab") as log:
            # pylint: disable=consider-using-with
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log)
        for _ in range(600):
            if self.listens():
                return self
            if self.child.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        with open("server.log", encoding="utf-8", errors="replace") as log:
            raise Fault(f"{' '.join(self.command)}: does not start: {log.read()[-500:]}")

    def kill(self):
        """As a machine does that loses its power."""
        if self.child:
            self.child.kill()
            self.child.wait()
            self.child = None

    def stop(self):
        """In good order."""
        if self.child:
            self.child.terminate()
            try:
                self.child.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self.child = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def nbdkit(*arguments, path="socket"):
    """`arguments`: options, filters, plugin and its parameters."""
    return Server(["nbdkit", "--foreground", "--unix", os.path.abspath(path), *arguments],
                  path)


def qemu_nbd(*arguments, path="socket"):
    """`arguments`: options and the image."""
    return Server(["qemu-nbd", "--persistent", "--socket", os.path.abspath(path), *arguments],
                  path)


def vdisk_serve(vdisk, *arguments, path="socket"):
    """`vdisk`: the command; `arguments`: options and the image."""
    return Server([vdisk, "serve", "--persistent", "--socket", os.path.abspath(path), *arguments],
                  path)


def have(*programs):
    """Are all of them installed?"""
    return all(shutil.which(program) for program in programs)
