# SPDX-License-Identifier: MIT
"""What the tests in Python have in common: they number their tests, in a folder of their own."""
import contextlib
import os
import shutil
import sys
import tempfile


class Fault(Exception):
    """Something is not as it has to be."""


def clear():
    """Empties the current folder."""
    for name in os.listdir("."):
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name)
        else:
            os.unlink(name)


class Tap:
    """Numbers the tests."""

    def __init__(self):
        self.count = 0
        self.failures = 0

    def report(self, name, faults=()):
        """`faults`: what is wrong, one or several; none: all is well."""
        self.count += 1
        self.failures += bool(faults)
        print(f"{'not ' if faults else ''}ok {self.count} - {name}")
        for fault in faults if isinstance(faults, (list, tuple)) else [faults]:
            print(f"# {fault}")
        sys.stdout.flush()

    def attempt(self, name, function):
        """Runs a test in the empty folder."""
        clear()
        try:
            function()
            self.report(name)
        except Fault as fault:
            self.report(name, [fault])

    def end(self):
        """The exit status."""
        print(f"1..{self.count}")
        return 1 if self.failures else 0


@contextlib.contextmanager
def work_folder(name, inner=""):
    """A folder, in the end removed, or the folder `inner` in it, is the current one meanwhile."""
    work = tempfile.mkdtemp(prefix=f"vdisk-{name}.", dir=os.environ.get("TMPDIR", "/tmp"))
    try:
        os.makedirs(os.path.join(work, inner), exist_ok=True)
        os.chdir(os.path.join(work, inner))
        yield
    finally:
        os.chdir("/")
        shutil.rmtree(work)
