#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Compressed clusters as other programs may have written them, and as nobody should have.

    tests/interop/test-qcow2-streams.py VDISK

Images are put together byte by byte, each with one odd cluster between two sound ones.  What is
sound reads as it should, by QEMU as well if there is qemu-img; what is not is refused with an error
that says where it is, in little memory, and --salvage gets at the clusters around it.
"""
import ctypes
import os
import random
import shutil
import struct
import sys
import zlib

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
from hostile import MEMORY_MAX, run
from qcow2_image import Image, deflate, zstd
from tap import Tap, work_folder

RANDOM = random.Random(20261121)
SKIPPABLE = b"\x53\x2a\x4d\x18\x05\x00\x00\x00hello"


def text(length):
    words = [bytes(RANDOM.choices(b"abcdefgh", k=RANDOM.randrange(2, 9))) for _ in range(200)]
    return b" ".join(RANDOM.choices(words, k=length // 2))[:length]


def far(length):
    """What a window of 32 KiB packs, and one of 4 KiB does not."""
    noise = RANDOM.randbytes(min(6000, length // 2))
    return (noise * (length // len(noise) + 1))[:length]


def endless(data):
    """A deflate stream without its end."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -12, 9)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


def frames(data):
    """Several frames, an empty one and one to be skipped."""
    half = len(data) // 2
    return zstd(data[:half]) + SKIPPABLE + zstd(b"") + zstd(data[half:])


def wide(data):
    """A frame that claims a window of 2 GiB, without saying the size of its content."""
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_createCCtx.restype = ctypes.c_void_p
    library.ZSTD_compress2.restype = ctypes.c_size_t
    context = ctypes.c_void_p(library.ZSTD_createCCtx())
    library.ZSTD_CCtx_setParameter(context, 200, 0)  # contentSizeFlag
    out = ctypes.create_string_buffer(len(data) + 1000)
    length = library.ZSTD_compress2(context, out, ctypes.c_size_t(len(out)), data,
                                    ctypes.c_size_t(len(data)))
    library.ZSTD_freeCCtx(context)
    return out.raw[:5] + bytes([21 << 3]) + out.raw[6:length]


def bomb(length):
    """A frame of blocks of one byte, 128 KiB times."""
    count = length >> 17
    block = struct.pack("<I", 1 << 20 | 1 << 1)[:3] + b"x"
    last = struct.pack("<I", 1 << 20 | 1 << 1 | 1)[:3] + b"x"
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * (count - 1) + last


# name: (compression, data of a length, stream of data, tail, does QEMU read it)
SOUND = {
    "deflate, garbage behind": (0, text, deflate, b"\xff" * 300, True),
    "deflate, nothing but its bytes": (0, text, deflate, b"", True),
    "deflate, no end": (0, text, endless, b"\xff" * 40, True),
    "deflate, goes on": (0, text, lambda data: deflate(data + data[:100]), b"", True),
    "deflate, a window of 32 KiB": (0, far, lambda data: deflate(data, 15), b"", True),
    "deflate, stored": (0, RANDOM.randbytes, deflate, b"", True),
    "zstd, garbage behind": (1, text, zstd, b"\x28\xb5\x2f\xfd" * 20, True),
    "zstd, several frames": (1, text, frames, b"\x11" * 100, False),
    "zstd, a window of 2 GiB": (1, text, wide, b"", False),
    "zstd, nothing but its bytes": (1, far, zstd, b"", True),
}

BAD = {
    "deflate, too short": (0, lambda data: deflate(data[:-1])),
    "deflate, zeros": (0, lambda data: bytes(400)),
    "deflate, noise": (0, lambda data: b"\xff" + RANDOM.randbytes(len(data) // 2)),
    "zstd, cut off": (1, lambda data: zstd(data)[:-30]),
    "zstd, too short": (1, lambda data: zstd(data[:-1])),
    "zstd, too long": (1, lambda data: zstd(data + b"x")),
    "zstd, zeros": (1, lambda data: bytes(400)),
    "zstd, noise": (1, lambda data: RANDOM.randbytes(len(data) - 1)),
    "zstd, noise behind the magic": (1, lambda data: zstd(b"")[:4] + RANDOM.randbytes(300)),
    "zstd, frames of nothing": (1, lambda data: (zstd(b"") + SKIPPABLE) * 9),
    "zstd, of another time": (1, lambda data: b"\x27\xb5\x2f\xfd" + zstd(data)[4:]),
    "zstd, claims 4 EiB": (1, lambda data: b"\x28\xb5\x2f\xfd\xe0" + b"\x3f" * 8 + bytes(300)),
    "zstd, makes 1 GiB": (1, lambda data: bomb(1 << 30)),
}


class Bench:
    def __init__(self, vdisk):
        self.vdisk = vdisk
        self.tap = Tap()
        self.has_qemu = shutil.which("qemu-img") is not None

    def build(self, bits, compression, data, stream, tail=b""):
        image = Image(cluster_bits=bits, compression=compression, size=4 << bits)
        image.compressed(0, text(image.cluster))
        image.compressed(1, data, stream=stream, tail=tail)
        image.compressed(2, text(image.cluster))
        image.data(3, RANDOM.randbytes(image.cluster))
        return image.finish()

    def converts(self, image, *options):
        """What the disk reads as, with faults; None: it was refused."""
        if os.path.exists("back"):
            os.unlink("back")
        status, out, err, memory = run([self.vdisk, "convert", "-f", "qcow2", "-O", "raw",
                                        *options, "image", "back"])
        faults = []
        if status not in (0, 1):
            faults.append(f"status {status}: {out} {err}")
        if memory > MEMORY_MAX:
            faults.append(f"{memory >> 20} MiB of memory")
        content = None
        if os.path.exists("back"):
            with open("back", "rb") as back:
                content = back.read()
        return faults, content, err, image

    def sound(self, name, bits, case):
        compression, make, pack, tail, qemu = case
        data = make(1 << bits)
        stream = pack(data)
        if len(stream) >= 2 << bits:
            return
        image = self.build(bits, compression, data, stream, tail).save("image")
        faults, content, err, _ = self.converts(image)
        if content != image.content():
            faults.append(f"reads as something else: {err}")
        if self.has_qemu and qemu and not faults:
            status, out, err, _ = run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", "back",
                                       "image"])
            if status:
                faults.append(f"not to QEMU: {out} {err}")
        self.tap.report(f"{name}, clusters of {1 << bits}", faults)

    def bad(self, name, image, at=1):
        """The cluster @at is refused, and salvaged to zeros; the others are there."""
        image.save("image")
        faults, content, err, _ = self.converts(image)
        if content is not None:
            faults.append("it was taken")
        place = f"at offset {at * image.cluster} of the disk"
        if place not in err and "L2" not in err:
            faults.append(f"the error says no place: {err}")
        more, content, err, _ = self.converts(image, "--salvage")
        expected = bytearray(image.content())
        start = at * image.cluster // 4096 * 4096
        end = -(-(at + 1) * image.cluster // 4096) * 4096
        expected[start:end] = bytes(len(expected[start:end]))
        if content != bytes(expected):
            faults.append(f"salvaged as something else: {err}")
        self.tap.report(name, faults + more)

    def outside(self, bits):
        """Descriptors that lead out of the file, or that two clusters have."""
        image = self.build(bits, 0, text(1 << bits), None)
        image.put64(image.l2_place(1), image.descriptor(image.end + 5 * image.cluster, 100))
        self.bad(f"behind the end of the file, clusters of {1 << bits}", image)
        image = Image(cluster_bits=bits, size=2 << bits)
        image.data(0, RANDOM.randbytes(image.cluster))
        at = image.compressed(1, text(image.cluster))
        image.finish()
        path_length = at + len(deflate(image.disk[1]))
        if image.end > path_length:
            image.save("image", path_length)
            faults, content, err, _ = self.converts(image)
            if content != image.content():
                faults.append(f"reads as something else: {err}")
            self.tap.report(f"the file ends with it, clusters of {1 << bits}", faults)
        image.save("image", at + 3)
        faults, content, err, _ = self.converts(image)
        if content is not None:
            faults.append("it was taken")
        self.tap.report(f"the file ends within it, clusters of {1 << bits}", faults)

    def twice(self, bits):
        image = self.build(bits, 1, text(1 << bits), None)
        image.put(image.l2_place(2), next(
            data for offset, data in reversed(image.parts)
            if offset <= image.l2_place(1) < offset + len(data))[
                image.l2_place(1) % image.cluster:][:8])
        image.disk[2] = image.disk[1]
        image.save("image")
        faults, content, err, _ = self.converts(image)
        if content != image.content():
            faults.append(f"reads as something else: {err}")
        self.tap.report(f"two clusters of one stream, clusters of {1 << bits}", faults)


def main():
    bench = Bench(os.path.abspath(sys.argv[1]))
    with work_folder("streams", "files"):
        for bits in (9, 12, 16, 21):
            for name, case in SOUND.items():
                bench.sound(name, bits, case)
        for bits in (12, 16, 21):
            for name, (compression, pack) in BAD.items():
                data = text(1 << bits)
                stream = pack(data)
                if len(stream) < 2 << bits:
                    bench.bad(f"{name}, clusters of {1 << bits}",
                              bench.build(bits, compression, data, stream))
            bench.outside(bits)
            bench.twice(bits)
    return bench.tap.end()


if __name__ == "__main__":
    sys.exit(main())
