# SPDX-License-Identifier: MIT
"""For tests that give bad images to every command: runs one, and looks at how it ends.

A command that is refused has to end soon, in little memory, with a status that is no success and
one clear line, and no file may be changed or made.
"""
import hashlib
import os
import stat
import subprocess
import time

SECONDS_MAX = 60         # only to find what never ends
MEMORY_MAX = 384 << 20   # sanitizers need some


def digest(path):
    """Of the content, whatever the size: holes are not read."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        state.update(f"{size}".encode())
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole up to the end
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            file.seek(at)
            while at < end:
                data = file.read(min(end - at, 1 << 20))
                if data.strip(b"\0"):  # zeros that were written are as good as a hole
                    state.update(f"@{at}".encode() + data)
                at += len(data)
    return state.hexdigest()


def everything():
    """What lies in the directory, and what it holds."""
    found = {}
    for name in sorted(os.listdir(".")):
        status = os.lstat(name)
        found[name] = stat.S_IFMT(status.st_mode)
        if stat.S_ISREG(status.st_mode):
            found[name] = digest(name)
    return found


def run(command):
    """(status, output, errors, peak memory); status None: it had to be killed."""
    with open("../out", "w+b") as out, open("../err", "w+b") as err:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err) as child:
            deadline = time.monotonic() + SECONDS_MAX
            while True:
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                if pid or time.monotonic() > deadline:
                    break
                time.sleep(0.002)
            if not pid:
                child.kill()
                child.wait()
                return None, "", "", 0
            child.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        return (child.returncode, out.read().decode(errors="replace"),
                err.read().decode(errors="replace"), usage.ru_maxrss << 10)
