# SPDX-License-Identifier: MIT
"""A disk as a plain array, and the two tools that have to agree with it.

A Model holds the bytes of a few windows of a disk that may be terabytes long; everything else of
it is zero.  A Script makes random commands that qemu-io and `vdisk io` both understand, and does
the same to its model.  A Tool runs them, checks, converts.
"""
import os
import re
import subprocess

from tap import Fault

CONVERTED_DATA_MAX = 1 << 30  # more than that outside the windows is a fault in itself


class Model:
    """The bytes of a disk of `size` bytes: windows of (start, length) that hold something."""

    def __init__(self, size, windows):
        self.size = size
        self.starts = [start for start, _ in windows]
        self.parts = [bytearray(length) for _, length in windows]
        # 1: the byte may also be zero by now, because it was discarded.
        self.vague = [bytearray(length) for _, length in windows]

    def overlay(self, size, windows):
        """The disk of an empty overlay on this one: zeros behind its end."""
        above = Model(size, windows)
        for start, part, vague in zip(self.starts, self.parts, self.vague):
            for above_start, above_part, above_vague in zip(above.starts, above.parts,
                                                            above.vague):
                first = max(start, above_start)
                end = min(start + len(part), above_start + len(above_part), self.size)
                if first < end:
                    above_part[first - above_start:end - above_start] = \
                        part[first - start:end - start]
                    above_vague[first - above_start:end - above_start] = \
                        vague[first - start:end - start]
        return above

    def fill(self, offset, length, byte):
        """Bytes outside the windows have to stay zero."""
        done = 0
        for start, part, vague in zip(self.starts, self.parts, self.vague):
            first, end = max(offset, start), min(offset + length, start + len(part))
            if first < end:
                part[first - start:end - start] = bytes([byte]) * (end - first)
                vague[first - start:end - start] = bytes(end - first)
                done += end - first
        assert byte == 0 or done == length

    def discard(self, offset, length):
        for start, vague in zip(self.starts, self.vague):
            first, end = max(offset, start), min(offset + length, start + len(vague))
            if first < end:
                vague[first - start:end - start] = b"\1" * (end - first)

    def run_at(self, offset, most):
        """(byte, length) of a run of one byte from offset on; length 0 if it is vague."""
        for start, part, vague in zip(self.starts, self.parts, self.vague):
            if start <= offset < start + len(part):
                at = offset - start
                piece = bytes(part[at:at + most])
                run = len(piece) - len(piece.lstrip(piece[:1]))
                sure = vague.find(1, at, at + run)
                return piece[0], run if sure < 0 else sure - at
        return 0, 0

    def judge(self, path):
        """Is the raw file at path this disk?  Raises Fault."""
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size != self.size:
                raise Fault(f"{path}: {size} bytes; the disk has {self.size}")
            for start, part, vague in zip(self.starts, self.parts, self.vague):
                file.seek(start)
                self.judge_part(path, start, part, vague, file.read(len(part)))
            self.judge_rest(path, file)

    @staticmethod
    def judge_part(path, start, part, vague, got):
        if got == part:
            return
        for at, (wanted, is_vague, byte) in enumerate(zip(part, vague, got)):
            if byte != wanted and not (is_vague and byte == 0):
                raise Fault(f"{path}: offset {start + at} (0x{start + at:x}) is 0x{byte:02x}; "
                            f"0x{wanted:02x} was written")

    def judge_rest(self, path, file):
        """Whatever is data outside the windows has to be zeros."""
        read = 0
        at = 0
        while at < self.size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < end:
                inside = [start + len(part) for start, part in zip(self.starts, self.parts)
                          if start <= at < start + len(part)]
                if inside:
                    at = inside[0]
                    continue
                behind = [start for start in self.starts if start > at]
                piece = os.pread(file.fileno(), min([end - at, 1 << 20] +
                                                    [start - at for start in behind]), at)
                if piece.strip(b"\0"):
                    raise Fault(f"{path}: not zero near offset {at}, where nothing was written")
                at += len(piece)
                read += len(piece)
                if read > CONVERTED_DATA_MAX:
                    raise Fault(f"{path}: more than {read} bytes of zeros that take space")

    def write_raw(self, path):
        """Makes a sparse raw file of it."""
        with open(path, "wb") as file:
            file.truncate(self.size)
            for start, part in zip(self.starts, self.parts):
                file.seek(start)
                file.write(part[:max(0, self.size - start)])


class Script:
    """Random commands on one image, by one tool or by both in turn.

    QEMU must not write to a part of a zero cluster of an image with a backing file: it would fill
    the rest from there (docs/formats/qed.md).  So `zeroed` remembers the clusters that may be zero
    clusters, and where `careful` is set, writes to them are made longer.
    """

    def __init__(self, rng, model, cluster, careful):
        self.rng = rng
        self.model = model
        self.cluster = cluster
        self.careful = careful
        self.allocated = set()
        self.zeroed = set()

    def place(self):
        """A random range inside a window."""
        rng, cluster = self.rng, self.cluster
        index = rng.randrange(len(self.model.starts))
        start, room = self.model.starts[index], len(self.model.parts[index])
        kind = rng.random()
        if kind < 0.4:
            length = 512 * rng.randint(1, 16)
        elif kind < 0.6:
            length = rng.randint(1, 5000)
        elif kind < 0.8 or cluster > 256 << 10:
            length = rng.randint(1, min(2 * cluster, 64 << 10))
        else:
            length = cluster * rng.randint(1, 3)
        if cluster > 256 << 10 and rng.random() < 0.1:
            length = cluster * rng.randint(1, 2)
        length = min(length, room)
        offset = start + rng.randrange(room - length + 1)
        unit = rng.choice([cluster, cluster, 512, 512, 512, 512, 1])
        aligned = max(offset // unit * unit, start)
        if rng.random() < 0.1:  # up to the end of the window, and so of the disk
            aligned = start + room - length
        return aligned, length

    def clusters(self, offset, length):
        """Yields (cluster number, is all of it in the range?)"""
        for number in range(offset // self.cluster, (offset + length - 1) // self.cluster + 1):
            first = number * self.cluster
            end = min(first + self.cluster, self.model.size)
            yield number, offset <= first and end <= offset + length

    def spare_zero_clusters(self, offset, length):
        """The range, made longer so that it holds no part of a zero cluster."""
        end = offset + length
        for number, whole in list(self.clusters(offset, length)):
            if number in self.zeroed and not whole:
                offset = min(offset, number * self.cluster)
                end = max(end, min((number + 1) * self.cluster, self.model.size))
        return offset, end - offset

    def was_written(self, offset, length):
        for number, _ in self.clusters(offset, length):
            self.zeroed.discard(number)
            self.allocated.add(number)

    def was_zeroed(self, offset, length, tool):
        for number, whole in self.clusters(offset, length):
            if tool.is_qemu:
                if whole and number not in self.allocated:
                    self.zeroed.add(number)
                elif not whole:
                    self.allocated.add(number)
            elif whole or number not in self.allocated:
                self.allocated.discard(number)
                self.zeroed.add(number)

    def write(self, tool):
        offset, length = self.place()
        if self.careful and tool.is_qemu:
            offset, length = self.spare_zero_clusters(offset, length)
        byte = self.rng.choice([0, self.rng.randint(1, 255), self.rng.randint(1, 255)])
        self.model.fill(offset, length, byte)
        self.was_written(offset, length)
        return f"write -P {byte} {offset} {length}"

    def zero(self, tool):
        offset, length = self.place()
        if self.rng.random() < 0.3:  # far past what one window holds
            length = min(length + self.cluster * self.rng.randint(1, 40), self.model.size - offset)
        if self.careful and tool.is_qemu:
            offset, length = self.spare_zero_clusters(offset, length)
        self.model.fill(offset, length, 0)
        self.was_zeroed(offset, length, tool)
        unmap = self.rng.choice(["", " -u"])
        return f"write -z{unmap} {offset} {length}"

    def discard(self, tool):
        offset, length = self.place()
        self.model.discard(offset, length)
        if not tool.is_qemu:
            self.was_zeroed(offset, length, tool)
        return f"discard {offset} {length}"

    def read(self):
        """A read that the tool compares with the model itself, where that is one byte."""
        offset, length = self.place()
        byte, run = self.model.run_at(offset, length)
        if run == 0:
            return f"read {offset} {length}"
        return f"read -P {byte} {offset} {run}"

    def commands(self, tool, count):
        lines = []
        for _ in range(count):
            kind = self.rng.random()
            if kind < 0.50:
                lines.append(self.write(tool))
            elif kind < 0.68:
                lines.append(self.zero(tool))
            elif kind < 0.74:
                lines.append(self.discard(tool))
            elif kind < 0.76:
                lines.append("flush")
            else:
                lines.append(self.read())
        return lines

    def reads(self, count):
        return [self.read() for _ in range(count)]


class Tool:
    """qemu-img with qemu-io, or vdisk."""

    def __init__(self, program=None):
        self.is_qemu = program is None
        self.name = "qemu" if self.is_qemu else "vdisk"
        self.image_program = ["qemu-img"] if self.is_qemu else [program]
        self.io_program = ["qemu-io"] if self.is_qemu else [program, "io"]

    def run(self, *words, status=0, text=None):
        """What an image command prints; Fault if it ends with another status."""
        command = [*self.image_program, *map(str, words)]
        done = subprocess.run(command, input=text or "", capture_output=True, text=True,
                              check=False)
        if done.returncode != status:
            raise Fault(f"{' '.join(command)}: status {done.returncode}, wanted {status}: "
                        f"{(done.stderr or done.stdout).strip()}")
        return done.stdout

    def io(self, image, lines, image_format="qed", read_only=False):
        """Runs commands; every one has to succeed, and every verified read has to be right."""
        command = [*self.io_program, "-f", image_format]
        if read_only:
            command.append("-r")
        done = subprocess.run([*command, image], input="\n".join(lines) + "\n",
                              capture_output=True, text=True, check=False)
        good = len(re.findall(r"^(?:qemu-io> |vdisk io> )*(?:wrote|read|discard) \d+/\d+ bytes",
                              done.stdout, re.MULTILINE))
        wanted = len(lines) - lines.count("flush")
        bad = [line for line in (done.stdout + done.stderr).splitlines()
               if re.search(r"fail|rror|nvalid|annot|unknown", line)]
        if bad or good != wanted or done.returncode != 0:
            raise Fault(f"{self.name} io {image}: {good} of {wanted} commands succeeded, status "
                        f"{done.returncode}: {'; '.join(bad[:3])}")

    def check(self, image, image_format="qed"):
        """The image is clean, leaks included."""
        self.run("check", "-f", image_format, image)

    def judge(self, image, model, image_format="qed"):
        """Converts the image to raw, and compares that with the model."""
        out = image + ".out"
        self.run("convert", "-f", image_format, "-O", "raw", image, out)
        try:
            model.judge(out)
        except Fault as fault:
            raise Fault(f"read by {self.name}: {fault}") from fault
        finally:
            os.unlink(out)
