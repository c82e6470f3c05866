# SPDX-License-Identifier: MIT
"""A small Linux guest under QEMU, without hardware help, for the tests that need a real kernel.

Debian's kernel for virtual machines as tools/guest-kernel lays it ready, an initramfs with busybox
and the kernel's NBD client, and a script that is the guest's only program.
"""
import os
import re
import shutil
import stat
import subprocess

from tap import Fault

BUSYBOX = "/bin/busybox"
NBD_CLIENT = "/usr/sbin/nbd-client"
QEMU = "qemu-system-x86_64"
TIMEOUT = 600  # seconds; it takes about five

APPLETS = ("blockdev cat cut dd echo fstrim head insmod ip ls mkdir mount poweroff rm seq sh "
           "sha256sum sleep sync test umount").split()

# Everything up to the test's own part.
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read module; do
    insmod "/modules/$module" || echo "GUEST fault: insmod $module"
done < /modules/order
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
wait_for() { # a device, to have a size
    for i in $(seq 100); do
        test "$(cat "/sys/block/$1/size" 2>/dev/null || echo 0)" -gt 0 && return
        sleep 0.1
    done
    echo "GUEST fault: no $1"
}
"""


def missing(kernel_dir):
    """What is not there that a guest needs, or None."""
    for program in (QEMU, "mke2fs", "e2fsck", "debugfs"):
        if not shutil.which(program):
            return program
    for path, name in ((BUSYBOX, "busybox"), (NBD_CLIENT, "nbd-client"),
                       (f"{kernel_dir}/modules/order", "a kernel by tools/guest-kernel")):
        if not os.path.exists(path):
            return name
    return None


class Archive:
    """An initramfs: cpio's format "newc", not compressed, as to unpack it costs the guest more."""

    def __init__(self):
        self.parts = []
        self.names = set()

    def _add(self, name, mode, data=b""):
        if name in self.names:
            return
        self.names.add(name)
        folder = os.path.dirname(name)
        if folder:
            self._add(folder, stat.S_IFDIR | 0o755)
        fields = [len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        for part in (head, data):
            self.parts.append(part + bytes(-len(part) % 4))

    def folder(self, name):
        self._add(name, stat.S_IFDIR | 0o755)

    def text(self, name, text):
        self._add(name, stat.S_IFREG | 0o755, text.encode())

    def copy(self, path, name=None):
        with open(path, "rb") as file:
            self._add(name or path.lstrip("/"), stat.S_IFREG | 0o755, file.read())

    def link(self, name, target):
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def program(self, path):
        """With its libraries, where its loader looks for them."""
        self.copy(path)
        libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=True)
        for library in re.findall(r"(/\S+) \(0x", libraries.stdout):
            self.copy(library)

    def write(self, path):
        self._add("TRAILER!!!", 0)
        with open(path, "wb") as file:
            file.write(b"".join(self.parts))


def make_initramfs(path, kernel_dir, script):
    """`script` is what the guest does, in its shell; then it powers off."""
    archive = Archive()
    archive.copy(BUSYBOX, "bin/busybox")
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    archive.program(NBD_CLIENT)
    for name in os.listdir(f"{kernel_dir}/modules"):
        archive.copy(f"{kernel_dir}/modules/{name}", f"modules/{name}")
    for name in ("dev", "proc", "sys", "mnt", "tmp"):
        archive.folder(name)
    archive.text("init", INIT + script + "\necho GUEST done\npoweroff -f\n")
    archive.write(path)


def boot(kernel_dir, initramfs, drives):
    """Runs the guest to its end; returns what it said in lines of "GUEST ".

    `drives`: what QEMU's -blockdev takes, each without its node-name: vda, vdb, ...
    """
    command = [QEMU, "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "256", "-smp", "1",
               "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
               "-kernel", f"{kernel_dir}/vmlinuz", "-initrd", initramfs,
               "-append", "console=ttyS0 loglevel=1 panic=1 no_timer_check",
               "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    for i, drive in enumerate(drives):
        command += ["-blockdev", f"{drive},node-name=drive{i}",
                    "-device", f"virtio-blk-pci,drive=drive{i}"]
    try:
        guest = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                               timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"")[-2000:].decode(errors="replace")
        raise Fault(f"the guest does not end; it said last: {said}") from None
    said = guest.stdout.decode(errors="replace").replace("\r", "")
    lines = re.findall(r"GUEST (.*)", said)
    if guest.returncode != 0 or not lines or lines[-1] != "done":
        raise Fault(f"the guest ended with {guest.returncode}: {said[-2000:]} "
                    f"{guest.stderr[-1000:].decode(errors='replace')}")
    return lines
