#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A real guest whose disks are exports of `vdisk serve`: Linux under QEMU, with file systems.

    tests/interop/test-serve-guest.py VDISK KERNEL-DIR

Three disks with an ext4 made by the host: a qcow2 overlay over an add-cow one over a GOW v3 image,
a GOW v3 image itself (both by QEMU's NBD client, a virtio disk for the guest), and a QED overlay
over a GOW v3 image by the NBD client of the guest's own kernel, over TCP.  The guest reads what the
host has put there, writes, overwrites, deletes, trims, and powers off.  Then the images are sound,
the file systems too, each file is what the guest said it was, and what is behind has not changed.
KERNEL-DIR is what tools/guest-kernel makes.  Random, from a seed that is printed; SEED sets it.
"""
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
import guest
from tap import Fault, Tap, work_folder

DISK_BYTES = 96 << 20
HOST_BYTES = 3 << 20
GUEST_BYTES = 4 << 20

# What happens on each disk; $1: the device, $2: what the test calls it.
SCRIPT = """
work() {
    wait_for "$1"
    mount -t ext4 -o discard "/dev/$1" /mnt || echo "GUEST fault: $2 can not be mounted"
    tell "$2" found host.bin
    dd if=/dev/urandom of=/mnt/guest.bin bs=64k count=@COUNT@ 2>/dev/null
    dd if=/dev/urandom of=/mnt/host.bin bs=4k seek=77 count=50 conv=notrunc 2>/dev/null
    rm /mnt/gone.bin
    sync
    for i in 1 2 3 4 5 6 7 8; do
        mkdir "/mnt/folder$i"
        echo "file $i of $2" > "/mnt/folder$i/text"
    done
    fstrim /mnt || echo "GUEST fault: fstrim $2"
    tell "$2" wrote host.bin
    tell "$2" wrote guest.bin
    umount /mnt || echo "GUEST fault: $2 can not be unmounted"
    blockdev --flushbufs "/dev/$1" || echo "GUEST fault: flushing $2"
}
tell() {
    sum=$(sha256sum < "/mnt/$3")
    echo "GUEST $1 $2 $3 ${sum%% *}"
}
work vda chain
work vdb gow3
nbd-client 10.0.2.2 @PORT@ /dev/nbd0 -N kernel -b 512 >/dev/null 2>&1 ||
    echo "GUEST fault: nbd-client"
work nbd0 kernel
nbd-client -d /dev/nbd0 >/dev/null 2>&1 || echo "GUEST fault: nbd-client -d"
"""


def run(*command):
    """Its output; it has to succeed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=300, check=False)
    if done.returncode != 0:
        raise Fault(f"{' '.join(command)}: exit status {done.returncode}: "
                    f"{(done.stdout + done.stderr)[-1000:]}")
    return done.stdout


def sum_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Disks:
    """The images of the test."""

    def __init__(self, vdisk):
        self.vdisk = vdisk
        self.tops = {"chain": "chain.qcow2", "gow3": "own.gow", "kernel": "kernel.qed"}
        self.behind = {}
        self.host_sum = ""
        self.generation = 0

    def make(self, source):
        os.mkdir("files")
        for name in ("host.bin", "gone.bin"):
            with open(f"files/{name}", "wb") as file:
                file.write(source.randbytes(HOST_BYTES))
        self.host_sum = sum_of("files/host.bin")
        with open("disk.raw", "wb") as file:
            file.truncate(DISK_BYTES)
        run("mke2fs", "-q", "-t", "ext4", "-d", "files", "disk.raw")
        vdisk = self.vdisk
        run(vdisk, "convert", "-q", "-f", "raw", "-O", "gow3", "disk.raw", "base.gow")
        shutil.copy("base.gow", self.tops["gow3"])
        run(vdisk, "create", "-q", "-f", "add-cow", "-b", "base.gow", "-F", "gow3",
            "-o", "image_file=middle.raw", "middle.add-cow")
        run(vdisk, "create", "-q", "-f", "qcow2", "-b", "middle.add-cow", "-F", "add-cow",
            self.tops["chain"])
        run(vdisk, "create", "-q", "-f", "qed", "-b", "base.gow", "-F", "gow3",
            self.tops["kernel"])
        self.behind = {name: sum_of(name) for name in ("base.gow", "middle.add-cow", "middle.raw")}
        self.generation = self.generation_now()

    def generation_now(self):
        info = json.loads(run(self.vdisk, "info", "--output=json", self.tops["gow3"]))
        return info["format-specific"]["data"]["generation"]

    def serve(self):
        """Starts the server; returns it, and its TCP port."""
        command = [self.vdisk, "serve", "-t", "-k", "socket", "-b", "127.0.0.1", "-p", "0"]
        for name in self.tops:
            command += ["-x", name]
        # pylint: disable=consider-using-with
        server = subprocess.Popen(command + list(self.tops.values()), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  errors="replace")
        said = ""
        for line in server.stdout:  # one for each export and socket, that of TCP last
            said += line
            port = re.search(r"nbd://127\.0\.0\.1:(\d+)/kernel", line)
            if port:
                return server, int(port[1])
        server.kill()
        server.wait()
        raise Fault(f"vdisk serve: {said}")


def test_guest(disks, kernel_dir):
    """Returns what the guest said of files: {(disk, when, file): sum}."""
    server, port = disks.serve()
    script = SCRIPT.replace("@PORT@", str(port)).replace("@COUNT@", str(GUEST_BYTES >> 16))
    guest.make_initramfs("initramfs", kernel_dir, script)
    try:
        lines = guest.boot(kernel_dir, "initramfs", [
            f"driver=nbd,server.type=unix,server.path=socket,export={name},discard=unmap"
            for name in ("chain", "gow3")])
        server.terminate()
        said = server.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        raise Fault("vdisk serve: does not end at SIGTERM") from None
    finally:
        server.kill()
        server.wait()
    if server.returncode != 0:
        raise Fault(f"vdisk serve: exit status {server.returncode}: {said}")
    faults = [line for line in lines if "fault" in line]
    if faults:
        raise Fault("; ".join(faults))
    matches = [re.fullmatch(r"(\w+) (found|wrote) (\S+) ([0-9a-f]{64})", line) for line in lines]
    return {match.groups()[:3]: match[4] for match in matches if match}


def test_found(disks, name, said):
    if said.get((name, "found", "host.bin")) != disks.host_sum:
        raise Fault("the guest has not found what the host had put there")


def test_sound(disks, name):
    run(disks.vdisk, "check", "-q", disks.tops[name])
    if name == "gow3" and disks.generation_now() != disks.generation + 1:
        raise Fault(f"generation {disks.generation}, then {disks.generation_now()}")


def test_files(disks, name, said):
    """The file system is sound, and has what the guest said."""
    run(disks.vdisk, "convert", "-q", "-O", "raw", disks.tops[name], "out.raw")
    run("e2fsck", "-f", "-n", "out.raw")
    for file in ("host.bin", "guest.bin"):
        run("debugfs", "-R", f"dump /{file} {file}", "out.raw")
        if sum_of(file) != said.get((name, "wrote", file)):
            raise Fault(f"{file} is not what the guest has written")
    if os.path.getsize("guest.bin") != GUEST_BYTES or sum_of("host.bin") == disks.host_sum:
        raise Fault("the guest has not written what it should")
    for i in range(1, 9):
        text = run("debugfs", "-R", f"cat /folder{i}/text", "out.raw")
        if text != f"file {i} of {name}\n":
            raise Fault(f"folder{i}/text is {text!r}")
    if "gone.bin" in run("debugfs", "-R", "ls /", "out.raw"):
        raise Fault("gone.bin is still there")


def test_behind(disks):
    for name, before in disks.behind.items():
        if sum_of(name) != before:
            raise Fault(f"{name} has changed")


def run_tests(vdisk, kernel_dir, tap):
    seed = int(os.environ.get("SEED") or time.time())
    print(f"# SEED={seed}")
    disks = Disks(vdisk)
    said = {}

    def boot():
        disks.make(random.Random(seed))
        said.update(test_guest(disks, kernel_dir))

    def attempt(name, function, *arguments):
        try:
            function(*arguments)
            tap.report(name)
        except Fault as fault:
            tap.report(name, [fault])

    attempt("a guest boots, works on three disks and powers off", boot)
    for name, what in (("chain", "qcow2 over add-cow over gow3"), ("gow3", "gow3"),
                       ("kernel", "qed over gow3, by the guest's kernel")):
        attempt(f"{what}: the guest finds what the host wrote", test_found, disks, name, said)
        attempt(f"{what}: the image is sound", test_sound, disks, name)
        attempt(f"{what}: the file system is sound and the files are the guest's", test_files,
                disks, name, said)
    attempt("what is behind the overlays has not changed", test_behind, disks)


def main():
    if len(sys.argv) != 3:
        print(__doc__)
        return 2
    vdisk, kernel_dir = (os.path.abspath(path) for path in sys.argv[1:])
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = guest.missing(kernel_dir)
    if missing:
        print(f"1..0 # SKIP {missing} is not there")
        return 0
    tap = Tap()
    with work_folder("guest"):
        run_tests(vdisk, kernel_dir, tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
