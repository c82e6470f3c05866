#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Bad qcow2 images, given to every command.

    tests/interop/test-qcow2-bad.py VDISK

Headers and extensions that contradict each other or want too much, tables that lead nowhere or into
other metadata, snapshots and bitmaps that are none, compressed clusters that are garbage, and the
images behind the CVEs of qcow2, each as a case of its own.  A command that is refused has to end
soon, in little memory, with one clear line; no file may be changed or made.  What is written in
place is never metadata: such a write is refused, and the image marked corrupt.
"""
import os
import re
import struct
import sys

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
from bad_images import write_file
from hostile import MEMORY_MAX, everything, run
from qcow2_image import (AUTO, BITMAPS, COMPRESSED, COMPRESSION, COPIED, CORRUPT, DATA_RAW,
                         EXT_BACKING_FORMAT, EXT_BITMAPS, EXT_CRYPTO, EXT_DATA_FILE,
                         EXT_FEATURE_NAMES, EXTENDED_L2, Image, deflate)
from tap import Tap, clear, work_folder

C = 4096  # the cluster size of most images here
VDISK = ""

# What opens an image.
READ = [
    ["map", "image"],
    ["convert", "-O", "raw", "image", "new"],
    ["compare", "-F", "qcow2", "image", "image"],
    ["measure", "-O", "qed", "image"],
    ["io", "-r", "-c", "read 0 64k", "image"],
    ["bench", "-c", "1", "image"],
]
WRITE = [
    ["io", "-c", "write 0 512", "image"],
    ["io", "-c", "write -z 0 64k", "image"],
    ["io", "-c", "discard 0 64k", "image"],
    ["resize", "image", "+1M"],
]
LOOK = [["info", "image"], ["check", "image"]]
OPEN = LOOK + READ + WRITE
STATUS = {"compare": (2, 3, 4), "check": (1, 2)}


class Bad:
    """A bad image: how it is built in an empty directory, and what commands say of it."""

    def __init__(self, name, build, said, commands=None, maybe=(), options=()):
        self.name = name
        self.build = build
        self.said = said          # regular expression
        self.commands = OPEN if commands is None else commands
        self.maybe = list(maybe)  # these may succeed as well, without changing anything
        self.options = list(options)


def command_line(bad, words):
    options = [] if words[0] == "resize" else bad.options
    return [VDISK, words[0], "-f", "qcow2", *options, *words[1:]]


def command_faults(bad, words, before):
    """Yields what is wrong with the way a command ends."""
    status, out, err, memory = run(command_line(bad, words))
    told = " ".join(words)
    if status is None:
        yield f"{told}: had to be killed"
        return
    if status < 0:
        yield f"{told}: died of signal {-status}: {err[-600:]}"
    elif words in bad.maybe and status == 0:
        pass
    elif status not in STATUS.get(words[0], (1,)):
        yield f"{told}: status {status}: {(err or out).strip()[:300]}"
    elif not re.search(bad.said, err):
        yield f"{told}: does not say /{bad.said}/: {err.strip()[:400]}"
    elif "image" not in err and words[0] != "check":  # whose lines are findings
        yield f"{told}: does not name the file: {err.strip()[:300]}"
    elif err.count("\n") > 3 and words[0] != "check":
        yield f"{told}: {err.count(chr(10))} lines of errors"
    if memory > MEMORY_MAX:
        yield f"{told}: took {memory >> 20} MiB"
    after = everything()
    after.pop("new", None)
    if after != before:
        yield f"{told}: changed {[n for n in {*before, *after} if before.get(n) != after.get(n)]}"
        clear()
        bad.build()
    elif status != 0 and os.path.exists("new"):
        yield f"{told}: left a new file"
    if os.path.exists("new"):
        os.unlink("new")


def test_bad(tap, bad):
    clear()
    bad.build()
    before = everything()
    tap.report(bad.name, [fault for words in bad.commands
                          for fault in command_faults(bad, words, before)])


def sound(**given):
    """An image of 16 clusters, of which 0 and 1 hold data, and whatever is given."""
    image = Image(**{"cluster_bits": 12, "size": 16 * C, **given})
    image.data(0, b"\x11" * image.cluster)
    image.data(1, b"\x22" * image.cluster)
    return image


def built(change=None, length=None, **given):
    """Returns what builds the image, changed after it was finished."""
    def build():
        image = sound(**given).finish()
        if change:
            change(image)
        image.save("image", length=length)
    return build


def field(name, value, **given):
    return built(fields={name: value}, **given)


# --- headers ------------------------------------------------------------------------------------

def header_fields():
    """Single fields that no image may have.  (name, build, said)"""
    for version in (0, 1, 4, 0xffffffff):
        yield f"version {version}", field("version", version), f"version {version}\\b"
    for bits in (0, 1, 8, 22, 31, 63, 64, 0xffffffff):
        yield f"cluster bits {bits}", field("cluster_bits", bits), f"cluster bits {bits}\\b"
    yield ("cluster bits 13 with extended L2", field("cluster_bits", 13, incompatible=EXTENDED_L2),
           "cluster bits 13")
    for order in (7, 8, 31, 63, 64, 0xffffffff):
        yield f"refcount order {order}", field("refcount_order", order), "refcount order"
    for size in ((1 << 63) - 1, 1 << 63, (1 << 64) - 512, (1 << 64) - 1, 16 << 40):
        yield f"size {size}", field("size", size), "size|disk of|L1 table"
    for entries in (0, (32 << 20) // 8 + 1, 1 << 31, 0xffffffff):
        yield f"L1 table of {entries} entries", field("l1_entries", entries), "L1 table|disk of"
    yield "L1 table that is too short", field("l1_entries", 1, size=16 << 20), "L1 table"
    places = (1, 512, C + 1, (1 << 63) - 512, 1 << 63, (1 << 64) - C, (1 << 64) - 1)
    for offset in places + (0, 1 << 50):
        yield f"L1 table at {offset}", field("l1_offset", offset), "L1 table"
    for count in (65537, 1 << 31, 0xffffffff):
        yield f"{count} snapshots", field("snapshots", count), f"{count} snapshots"
    for offset in (1, 512, (1 << 63) - 512, 1 << 63, (1 << 64) - C):
        yield (f"snapshot table at {offset}",
               built(fields={"snapshots": 1, "snapshots_offset": offset}), "snapshot table")
    for length in (0, 72, 96, 103, 105, 111, C + 8, 1 << 31, 0xfffffff8, 0xffffffff):
        yield f"header of {length} bytes", field("header_bytes", length), "length"
    for method in (3, 255, 0xffffffff):
        yield f"encryption method {method}", field("crypt_method", method), "encryption method"
    yield "encryption method 2 without an extension", field("crypt_method", 2), "encryption"
    yield ("compression type without its bit", field("compression", 1), "compression type")
    yield ("the bit without a compression type", field("incompatible", COMPRESSION),
           "compression type")
    yield ("the bit of a compression type, and a short header",
           built(incompatible=COMPRESSION, header_bytes=104), "compression type")
    for kind in (2, 255):
        yield (f"compression type {kind}",
               built(fields={"compression": kind, "incompatible": COMPRESSION}),
               f"compression type {kind}")
    yield "raw data file without a data file", field("autoclear", DATA_RAW), "data file"
    yield "another magic", field("magic", b"QFI\xfa"), "magic|not a qcow2"
    for length in (0, 3, 4, 71, 72, 104, 511, C - 8):
        yield f"cut to {length} bytes", built(length=length), "short|length|file has"


def unknown_features():
    """Incompatible bits from the future: named, if the image names them."""
    for bit in (5, 6, 31, 32, 63):
        yield (f"unknown incompatible bit {bit}", field("incompatible", 1 << bit),
               f"0x{1 << bit:x}.*bit {bit}\\b")
    names = struct.pack(">BB46s", 0, 5, b"flux capacitor") + struct.pack(">BB46s", 0, 6, b"y" * 46)
    names += struct.pack(">BB46s", 1, 7, b"not this one")
    given = {"extensions": [(EXT_FEATURE_NAMES, names)]}
    yield ("unknown incompatible bits with names", field("incompatible", 0xe0, **given),
           "0xe0 .*flux capacitor, y{46}, bit 7")
    for data, name in ((b"\0\5", "too short"), (names[:47], "cut"), (b"", "empty")):
        yield (f"unknown incompatible bit, a table of names that is {name}",
               field("incompatible", 32, extensions=[(EXT_FEATURE_NAMES, data)]), "0x20")
    escape = struct.pack(">BB46s", 0, 5, b"a\x1b[2J\nb")
    yield ("a feature's name with control characters",
           field("incompatible", 32, extensions=[(EXT_FEATURE_NAMES, escape)]),
           r"^[^\x1b\n]*0x20[^\x1b\n]*\n\Z")


def backing_names():
    given = {"backing": "base", "backing_format": "raw"}
    for offset in (1, 8, 71, 104, 111, C - 3, C, 1 << 32, (1 << 64) - 4, (1 << 64) - 1):
        yield (f"a backing file's name at {offset}", field("backing_offset", offset, **given),
               "backing file")
    for length in (1024, 4096, 1 << 31, 0xffffffff):
        yield (f"a backing file's name of {length} bytes",
               field("backing_bytes", length, **given), "backing file")
    yield ("a NUL in the backing file's name",
           built(backing="ba\0se", backing_format="raw"), "NUL|zero byte")
    yield ("a NUL in the backing file's format",
           built(backing="base", backing_format="ra\0w"), "NUL|zero byte")
    yield ("the format of a backing file of 64 KiB",
           built(backing="base", extensions=[(EXT_BACKING_FORMAT, b"x" * 60000)]),
           "extension|format|name of the backing file")


def extension_lengths():
    def raw_extension(kind, length):
        def change(image):
            image.put(image.header_bytes, struct.pack(">II", kind, length))
        return change
    for kind in (EXT_BACKING_FORMAT, EXT_FEATURE_NAMES, EXT_BITMAPS, EXT_CRYPTO, EXT_DATA_FILE,
                 0x12345678):
        for length in (C - 119, C, 1 << 31, 0xfffffff8, 0xffffffff):
            yield (f"extension 0x{kind:x} of {length} bytes", built(raw_extension(kind, length)),
                   "extension")
    for kind in (EXT_BACKING_FORMAT, EXT_DATA_FILE):
        yield (f"extension 0x{kind:x} twice",
               built(extensions=[(kind, b"raw"), (kind, b"raw")]), "two extensions")
    for length in (0, 8, 15, 17, 24):
        yield (f"encryption extension of {length} bytes",
               field("crypt_method", 2, extensions=[(EXT_CRYPTO, bytes(length))]),
               "encryption extension")
    for offset, length in ((512, C), (0, C), (1 << 63, C), ((1 << 64) - C, C), (C, 1 << 63),
                           (C, (1 << 64) - 1)):
        data = struct.pack(">QQ", offset, length)
        yield (f"encryption header of {length} bytes at {offset}",
               field("crypt_method", 2, extensions=[(EXT_CRYPTO, data)]), "encryption|LUKS")
    yield ("encryption header without the method",
           built(extensions=[(EXT_CRYPTO, struct.pack(">QQ", C, C))]), "encryption method 0")


def refcount_fields():
    places = (0, 1, 512, C + 1, (1 << 63) - 512, 1 << 63, (1 << 64) - C, (1 << 64) - 1)
    for offset in places:
        yield f"refcount table at {offset}", field("refcount_table", offset), "refcount table"
    for clusters in (0, (8 << 20) // C + 1, 1 << 31, 0xffffffff):
        yield (f"refcount table of {clusters} clusters",
               field("refcount_table_clusters", clusters), "refcount table")


def backing_formats():
    """Backing files that are there, and of no format that is known."""
    def case(content, **given):
        def build():
            built(backing="base", **given)()
            write_file("base", content)
        return build
    yield "a format that nobody knows", case(bytes(65536), backing_format="vhdx9"), "vhdx9"
    yield "no format", case(bytes(65536)), "format"
    yield "the wrong format", case(bytes(65536), backing_format="qed"), "base.*QED"


# The file does not have the L1 table: it can be told of, and checked.
NO_L1 = (f"L1 table at {1 << 50}", "cut to 511 bytes", f"cut to {C - 8} bytes")


def headers():
    for name, build, said in refcount_fields():  # info needs none of them
        yield Bad(f"header: {name}", build, said, maybe=[["info", "image"]])
    for name, build, said in backing_formats():
        yield Bad(f"backing file: {name}", build, said, READ)
    for cases in (header_fields, unknown_features, backing_names, extension_lengths):
        for name, build, said in cases():
            yield Bad(f"header: {name}", build, said,
                      maybe=[["info", "image"]] if name in NO_L1 else ())


# --- tables -------------------------------------------------------------------------------------

PAST = 1 << 40  # far behind the end of the file


def l1_entries():
    reading = [words for words in READ if words[0] != "bench"]
    for value, name in ((512, "unaligned"), (C + 512, "unaligned, further on"),
                        (PAST, "past the end"), ((1 << 56) - C, "at the last offset"),
                        (2 * C | 1, "reserved bit 0"), (2 * C | 1 << 56, "reserved bit 56"),
                        (2 * C | 1 << 62, "reserved bit 62"), ((1 << 64) - 1, "all ones")):
        yield Bad(f"L1 entry: {name}",
                  built(lambda image, v=value: image.put64(image.l1_offset, v)),
                  "L1|L2 table", [["check", "image"], *reading, *WRITE[:3]])


def l2_entries():
    """Entries that no reader can follow."""
    reading = [words for words in READ if words[0] != "bench"]

    def put(value):
        return lambda image: image.put64(image.l2_place(0), value)
    for value, name in ((512, "unaligned"), (4 * C + 512, "unaligned, further on"),
                        (4 * C | 2, "reserved bit 1"), (4 * C | 1 << 8, "reserved bit 8"),
                        (4 * C | 1 << 56, "reserved bit 56"), (4 * C | 1 << 61, "reserved bit 61"),
                        ((1 << 62) - 1, "all ones of 62 bits")):
        yield Bad(f"L2 entry: {name}", built(put(value)), "L2|entry",
                  [["check", "image"], *reading, *WRITE[:3]])
    yield Bad("L2 entry: the zero flag in version 2", built(put(4 * C | 1), version=2), "L2|entry",
              [["check", "image"], *reading, *WRITE[:3]])
    for value, name in (((COMPRESSED | PAST), "past the end of the file"),
                        (COMPRESSED | (1 << 56), "behind the last offset that may be"),
                        (COMPRESSED | ((1 << 62) - 1), "all ones")):
        yield Bad(f"compressed cluster: {name}", built(put(value)), "L2|compressed|cluster|entry",
                  [["check", "image"], *[words for words in reading if words[0] not in
                                         ("map", "measure")]])
    given = {"cluster_bits": 14, "size": 1 << 20, "extended": True}
    for word, bits, name in (("data", 1 | 1 << 32, "allocated and zero"),
                             (0, 1, "allocated at no place"),
                             ("data", (1 << 64) - 1, "all bits"),
                             (COMPRESSED | 0x5000, 1, "of a compressed cluster")):
        def subclusters(image, word=word, bits=bits):
            if word != "data":
                image.put64(image.l2_place(0), word)
            image.put64(image.l2_place(0) + 8, bits)
        yield Bad(f"subclusters: {name}", built(subclusters, **given), "L2|subcluster|entry",
                  [["check", "image"], *reading])


def garbage():
    """Compressed clusters that are none."""
    reading = [words for words in READ if words[0] in ("convert", "compare", "io", "bench")]
    writing = [["io", "-c", "write 512 512", "image"]]  # has to read the rest of the cluster
    streams = (("zeros", bytes(600)), ("all ones", b"\xff" * 600), ("one byte", b"\x01"),
               ("a stream that ends early", deflate(b"\x33" * (C // 2))),
               ("a stored block that is cut", b"\x01\x00\x10\xff\xef" + b"x" * 100),
               ("a distance before the start", b"\x4b\x04\x82\xff"),
               ("a zlib header", b"\x78\x9c" + deflate(b"\x33" * C)),
               ("zstd in a deflate image", b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00" + bytes(20)))
    for name, stream in streams:
        def build(stream=stream):
            image = sound()
            image.compressed(0, bytes(C), stream)
            image.finish().save("image")
        yield Bad(f"deflate: {name}", build, "compressed|inflate|deflate|decode", reading + writing)
    zstd_streams = (("zeros", bytes(4096)), ("all ones", b"\xff" * 4096),
                    ("a frame of 2^62 bytes", b"\x28\xb5\x2f\xfd\xe0" + b"\0" * 7 + b"\x40" +
                     bytes(100)),
                    ("a window of 2^41 bytes", b"\x28\xb5\x2f\xfd\x00\xff" + b"\x01\0\0" * 10),
                    ("a skippable frame of 4 GiB", b"\x50\x2a\x4d\x18\xff\xff\xff\xff" +
                     bytes(100)),
                    ("an empty frame, over and over", b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00" * 400),
                    ("the magic alone", b"\x28\xb5\x2f\xfd"))
    for name, stream in zstd_streams:
        for bits in (12, 21):
            def zstd_build(stream=stream, bits=bits):
                image = Image(cluster_bits=bits, compression=1)
                fill = b"" if bits == 12 else os.urandom(1 << 19)
                image.compressed(0, bytes(1 << bits), stream + fill)
                image.finish().save("image")
            yield Bad(f"zstd: {name}, clusters of {1 << bits} bytes", zstd_build,
                      "compressed|zstd|decode", reading + writing)


def tables():
    for cases in (l1_entries, l2_entries, garbage):
        yield from cases()


# --- snapshots and bitmaps ----------------------------------------------------------------------

def snapshot_tables():
    """Entries of the snapshot table.  What does not look at it may work."""
    looking = [["snapshot", "-l", "image"], ["check", "image"]]

    def case(name, **given):
        def build():
            image = sound()
            image.snapshot("one", **given)
            image.finish().save("image")
        return Bad(f"snapshot: {name}", build, "napshot|L1 table", looking + READ, READ)
    for offset in (1, C + 512, 1 << 63, (1 << 64) - C):
        yield case(f"L1 table at {offset}", l1_offset=offset)
    for entries in (1 << 23, 1 << 31, 0xffffffff):
        yield case(f"L1 table of {entries} entries", l1_entries=entries)
    for extra in (1 << 20, 1 << 31, 0xffffffff):
        yield case(f"{extra} bytes of extra data", extra_bytes=extra)
    yield case("a name past the end", name_bytes=0xffff)
    yield case("an id past the end", ident_bytes=0xffff)


def snapshot_limits():
    """Many snapshots, and a table that would be too large."""
    looking = [["snapshot", "-l", "image"], ["check", "image"]]

    def huge():
        image = sound().finish()
        at = image.take()
        image.put(60, struct.pack(">IQ", 65536, at))
        for number in range(1300):  # the 65536 that the header tells of would take 4 GiB
            image.put(at + (number << 16),
                      struct.pack(">QIHHIIQII", C, 1, 1, 1, 0, 0, 0, 0, (1 << 16) - 42))
        image.save("image", length=at + (1300 << 16))
    yield Bad("snapshot: a table of 4 GiB", huge, "napshot", looking + READ, READ)

    def past():
        image = sound().finish()
        image.put(60, struct.pack(">IQ", 1, PAST))
        image.save("image")
    yield Bad("snapshot: a table past the end of the file", past, "napshot", looking + READ, READ)

    def zeros():
        image = sound().finish()
        image.put(60, struct.pack(">IQ", 65536, image.end))
        image.save("image", length=image.end + (4 << 20))
    yield Bad("snapshot: 65536 entries of zeros", zeros, "napshot", looking + READ,
              READ + looking[:1])


def bitmap_extensions():
    """The extension.  (name, the 24 bytes or others)"""
    def data(entries=1, reserved=0, length=32, offset=5 * C):
        return struct.pack(">IIQQ", entries, reserved, length, offset)
    yield "of no bitmaps", data(entries=0)
    yield "of 65536 bitmaps", data(entries=65536, length=1 << 22)
    yield "of 2^32 - 1 bitmaps", data(entries=0xffffffff, length=1 << 40)
    yield "reserved field", data(reserved=1)
    yield "a directory of no bytes", data(length=0)
    yield "a directory of 2^63 bytes", data(length=1 << 63)
    yield "a directory of 64 MiB", data(length=65535 * 1024 + 1)
    yield "a directory too short for its entries", data(entries=100, length=64)
    yield "a directory at an odd place", data(offset=5 * C + 512)
    yield "a directory at 0", data(offset=0)
    yield "a directory at 2^64 - 4096", data(offset=(1 << 64) - C)
    yield "a directory past the end of the file", data(offset=PAST)
    for length in (0, 8, 23, 25, 32):
        yield f"of {length} bytes", data()[:length].ljust(length, b"\0")


def bitmap_entries():
    """(name, fields of the entry)"""
    yield "of type 0", {"type": 0}
    yield "of type 2", {"type": 2}
    for bits in (0, 8, 32, 63, 64, 255):
        yield f"with granularity bits {bits}", {"given_bits": bits}
    yield "with reserved flags", {"flags": AUTO | 8}
    yield "with all flags", {"flags": 0xffffffff}
    for offset in (0, 512, 1 << 63, (1 << 64) - C, PAST):
        yield f"with a table at {offset}", {"table_offset": offset}
    for entries in (0, 2, 0x8000001, 0xffffffff):
        yield f"with a table of {entries} entries", {"table_entries": entries}
    yield "without a name", {"name_bytes": 0}
    for length in (7, 1024, 0xffff):
        yield f"with a name of {length} bytes", {"name_bytes": length}
    yield "with 2^32 - 1 bytes of extra data", {"extra_bytes": 0xffffffff}
    yield "with extra data that is not there", {"extra_bytes": 4096}
    for value, name in ((5 * C + 512, "unaligned"), (PAST, "past the end"),
                        (5 * C | 1, "both a place and all ones"), (2, "reserved bit 1"),
                        (1 << 63, "reserved bit 63")):
        yield f"with an entry of its table: {name}", {"table": [value]}


def bitmaps():
    """What does not need bitmaps may work; a write may not, as it would have to be recorded."""
    looking = [["check", "image"]]
    for name, data in bitmap_extensions():
        yield Bad(f"bitmaps extension: {name}",
                  built(extensions=[(EXT_BITMAPS, data)], autoclear=BITMAPS), "itmap",
                  looking + [["info", "image"]] + READ + WRITE[:1], READ + [["info", "image"]])
    for name, fields in bitmap_entries():
        def build(fields=fields):
            image = sound()
            given = dict(fields)
            bits = given.pop("given_bits", None)
            if bits is not None:
                given["granularity_bits"] = 16
            image.bitmap("b", bits=[0], **given)
            if bits is not None:
                entry = bytearray(image.bitmap_list[0])
                entry[17] = bits
                image.bitmap_list[0] = bytes(entry)
            image.finish().save("image")
        maybe = READ + [["info", "image"]]
        yield Bad(f"bitmap: {name}", build, "itmap",
                  looking + [["info", "image"]] + READ + WRITE[:1], maybe)

    def twice():
        image = sound()
        image.bitmap("b")
        image.bitmap("b")
        image.finish().save("image")
    yield Bad("bitmap: two of one name", twice, "itmap",
              looking + [["info", "image"]] + READ + WRITE[:1], READ + [["info", "image"]])
    yield Bad("bitmaps: the bit without the extension", field("autoclear", BITMAPS), "itmap",
              looking + [["info", "image"]] + READ, OPEN)


# --- metadata that is in the way ----------------------------------------------------------------

def overlaps():
    """(name, change): a guest cluster, marked as one that is written in place, is metadata."""
    def put(place):
        return lambda image: image.put64(image.l2_place(0), place(image) | COPIED)
    yield "the L1 table", put(lambda image: image.l1_offset)
    yield "its own L2 table", put(lambda image: image.tables[0].offset)
    yield "the refcount table", put(lambda image: image.refcount_table)
    yield "a refcount block", put(lambda image: image.refcount_blocks[0][1])
    yield "the snapshot table", put(lambda image: image.snapshots_offset)
    yield "a snapshot's L1 table", put(lambda image: image.snapshots[0].l1_offset)
    yield "the bitmap directory", put(lambda image: image.directory_offset)


def only_the_corrupt_bit(before, after):
    """Is the one difference the corrupt bit of the header?"""
    changed = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
    return len(before) == len(after) and changed == [79] and after[79] == before[79] | CORRUPT


def test_overlap(tap, name, change):
    """A write into metadata is refused, and the image is marked; then no one writes to it until a
    repair has mended it."""
    clear()
    image = sound()
    image.snapshot("one")
    image.data(0, b"\x33" * C)
    if "bitmap" in name:
        image.bitmap("b", flags=0)
    image.finish()
    change(image)
    image.save("image")
    faults = []
    with open("image", "rb") as file:
        before = file.read()
    status, _, err, _ = run([VDISK, "io", "-f", "qcow2", "-c", "write -P 1 512 512", "image"])
    with open("image", "rb") as file:
        after = file.read()
    if status != 1:
        faults.append(f"write: status {status}: {err}")
    if after != before and not only_the_corrupt_bit(before, after):
        faults.append("write: changed more than the corrupt bit")
    if after == before:
        faults.append("write: the image is not marked corrupt")
    status, out, err, _ = run([VDISK, "io", "-f", "qcow2", "-c", "write 32k 512", "image"])
    if status != 1 or "corrupt" not in err:
        faults.append(f"second write: status {status}: {err}")
    status, out, err, _ = run([VDISK, "check", "-f", "qcow2", "image"])
    if status != 2:
        faults.append(f"check: status {status}: {out}{err}")
    with open("image", "rb") as file:
        if file.read() != after:
            faults.append("check or a refused write changed the image")
    tap.report(f"overlap: a cluster that is {name}", faults)


def refcount_tables():
    """(name, change): refcounts that lie, or lead nowhere."""
    def entry(value):
        return lambda image: image.put64(image.refcount_table, value(image))
    yield "that leads to itself", entry(lambda image: image.refcount_table)
    yield "that leads to the L1 table", entry(lambda image: image.l1_offset)
    yield "that leads to the header", lambda image: image.put64(image.refcount_table + 8, 0 | 512)
    yield "with an entry that is unaligned", entry(lambda image: C + 512)
    yield "with a reserved bit", entry(lambda image: image.refcount_blocks[0][1] | 1)
    yield "with an entry past the end", entry(lambda image: PAST)
    yield "with an entry of 2^64 - 4096", entry(lambda image: (1 << 64) - C)
    yield ("with one block twice",
           lambda image: image.put64(image.refcount_table + 8, image.refcount_blocks[0][1]))
    yield "without blocks", entry(lambda image: 0)
    yield ("with a block of zeros",
           lambda image: image.put(image.refcount_blocks[0][1], bytes(C)))
    yield ("past the end of the file",
           lambda image: image.put(48, struct.pack(">Q", PAST)))


def test_refcounts(tap, name, change):
    """Reading does not need refcounts.  An allocation that does must not touch what is there."""
    clear()
    image = sound().finish()
    change(image)
    image.save("image")
    write_file("wanted", image.content())
    faults = []
    with open("image", "rb") as file:
        before = file.read()
    status, out, err, _ = run([VDISK, "compare", "-f", "qcow2", "-F", "raw", "image", "wanted"])
    if status != 0:
        faults.append(f"compare: status {status}: {out}{err}")
    status, out, err, _ = run([VDISK, "check", "-f", "qcow2", "image"])
    if status not in (1, 2):
        faults.append(f"check: status {status}: {out}{err}")
    with open("image", "rb") as file:
        if file.read() != before:
            faults.append("reading changed the image")
    status, out, err, _ = run([VDISK, "io", "-f", "qcow2", "-c", "write -P 5 32k 32k", "image"])
    if status not in (0, 1) or status == 1 and "image" not in err:
        faults.append(f"write: status {status}: {err}")
    status, out, err, _ = run([VDISK, "io", "-r", "-f", "qcow2", "-c", "read -P 0x11 0 4k", "-c",
                               "read -P 0x22 4k 4k", "image"])
    if status != 0:
        faults.append(f"what was there is lost: {out}{err}")
    status, out, err, _ = run([VDISK, "check", "-q", "-f", "qcow2", "-r", "all", "image"])
    if status == 0:
        status, out, err, _ = run([VDISK, "io", "-r", "-f", "qcow2", "-c", "read -P 0x11 0 4k",
                                   "-c", "read -P 0x22 4k 4k", "image"])
        if status != 0:
            faults.append(f"what was there is lost in the repair: {out}{err}")
        status, out, err, _ = run(["qemu-img", "check", "-f", "qcow2", "image"])
        if status != 0:
            faults.append(f"qemu-img check after the repair: status {status}: {out}{err}")
    elif status not in (1, 2, 3):
        faults.append(f"repair: status {status}: {out}{err}")
    tap.report(f"refcount table: {name}", faults)


# --- CVEs and advisories ------------------------------------------------------------------------

def cves():
    """The images behind them, each as one case.  Several name other formats of QEMU; here is what
    is alike in qcow2."""
    yield Bad("CVE-2014-0142 (division by a field that is 0): no refcount table, no L1 table",
              built(fields={"refcount_table_clusters": 0, "l1_entries": 0, "refcount_table": 0,
                            "l1_offset": 0}), "table|disk of")
    yield Bad("CVE-2014-0143 (integer overflow): a refcount table whose size wraps",
              built(fields={"refcount_table_clusters": 1 << 20 | 1, "cluster_bits": 12}),
              "refcount table", maybe=[["info", "image"]])
    yield Bad("CVE-2014-0143 (integer overflow): a snapshot's L1 table of 2^29 entries",
              _snapshot_of(l1_entries=1 << 29), "napshot",
              [["snapshot", "-l", "image"], ["snapshot", "-a", "one", "image"], ["check", "image"],
               ["convert", "-l", "one", "-O", "raw", "image", "new"]])
    yield Bad("CVE-2014-0144 (validation): the header's length",
              field("header_bytes", 0xfffffff8), "length")
    yield Bad("CVE-2014-0144 (validation): the backing file's name outside the header",
              field("backing_offset", 1 << 40, backing="base", backing_format="raw"),
              "backing file")
    yield Bad("CVE-2014-0144 (validation): a refcount table of 2^32 - 1 clusters",
              field("refcount_table_clusters", 0xffffffff), "refcount table",
              maybe=[["info", "image"]])
    yield Bad("CVE-2014-0144 (validation): a refcount table at an odd place",
              field("refcount_table", C + 0x234), "refcount table", maybe=[["info", "image"]])
    yield Bad("CVE-2014-0144 (validation): the snapshot table's size",
              built(fields={"snapshots": 0xffffffff, "snapshots_offset": C}), "snapshots")
    yield Bad("CVE-2014-0144 (validation): an L1 table of 2^31 entries",
              field("l1_entries", 1 << 31), "L1 table")
    yield Bad("CVE-2014-0145 (buffer overflow): a snapshot with a larger L1 table, looked into",
              _snapshot_of(l1_entries=(32 << 20) // 8), "napshot|L1",
              [["snapshot", "-a", "one", "image"],
               ["convert", "-l", "one", "-O", "raw", "image", "new"]])
    yield Bad("CVE-2014-0146 (NULL dereference): an open that fails behind the snapshots",
              built(fields={"snapshots": 1, "snapshots_offset": 1 << 62,
                            "l1_offset": 1 << 62}), "table")
    yield Bad("CVE-2014-0148 (endless loop): a chain of one image that is its own backing file",
              built(backing="image", backing_format="qcow2"), "same file",
              [words for words in OPEN if words[0] not in ("info", "check", "resize")])


def _snapshot_of(**given):
    def build():
        image = sound()
        image.snapshot("one", **given)
        image.finish().save("image")
    return build


def test_refcount_growth(tap):
    """CVE-2014-0147: an allocation without any refcount that is right."""
    clear()
    image = sound().finish()
    image.put64(image.refcount_table, 0)
    image.save("image")
    faults = []
    status, _, err, _ = run([VDISK, "io", "-f", "qcow2", "-c", "write -P 5 32k 32k", "image"])
    if status not in (0, 1):
        faults.append(f"write: status {status}: {err}")
    status, out, err, _ = run([VDISK, "io", "-r", "-f", "qcow2", "-c", "read -P 0x11 0 4k", "-c",
                               "read -P 0x22 4k 4k", "image"])
    if status != 0:
        faults.append(f"what was there is lost: {out}{err}")
    tap.report("CVE-2014-0147 (refcounts that are not there): an allocation", faults)


def data_files():
    """CVE-2024-32498 and CVE-2024-4467: what an image names as its data file is not opened unless
    it may be."""
    secret = os.path.abspath("../secret")
    given = {"data_raw": True}
    names = [secret, "../secret", "link", "file:" + secret, "/dev/zero",
             'json:{"driver": "raw", "file": {"driver": "file", "filename": "' + secret + '"}}',
             "nbd:127.0.0.1:1", "http://127.0.0.1:1/x"]
    for name in names:
        def build(name=name):
            image = Image(cluster_bits=16, size=1 << 20, data_file="", **given)
            image.data(0, b"\x11" * 65536)
            image.extensions.append((EXT_DATA_FILE, name.encode()))
            image.finish().save("image")
            if name == "link":
                os.symlink("../secret", "link")
        yield Bad(f"CVE-2024-32498 (data file): {name[:40]}", build,
                  "permitted|protocol|--allow", READ + WRITE)
    for name, wanted in (("gone", "gone"), ("image", "same file"), ("", "data file")):
        def odd(name=name):
            image = Image(cluster_bits=16, size=1 << 20, data_file="", **given)
            image.data(0, b"\x11" * 65536)
            if name:
                image.extensions.append((EXT_DATA_FILE, name.encode()))
            image.finish().save("image")
        yield Bad(f"data file: {name or 'without a name'}", odd, wanted, READ + WRITE)

    def compressed():
        image = Image(cluster_bits=16, size=1 << 20, data_file="d.raw")
        image.data(1, b"\x11" * 65536)
        image.entry(0, COMPRESSED | 0x50000)
        image.finish().save("image")
    yield Bad("data file: a compressed cluster", compressed, "L2|compressed|data file",
              [["check", "image"], *[w for w in READ if w[0] in ("convert", "compare", "io")]])

    def elsewhere():
        image = Image(cluster_bits=16, size=1 << 20, data_file="d.raw")
        image.data(1, b"\x11" * 65536)
        image.entry(0, 0x20000 | COPIED)
        image.finish().save("image")
    yield Bad("data file: a cluster that is not at its place", elsewhere, "L2|data file|offset",
              [["check", "image"], *[w for w in READ if w[0] in ("convert", "compare", "io")]])


def test_info_opens_nothing(tap):
    """info tells what is named, and does not open it."""
    clear()
    image = Image(cluster_bits=16, size=1 << 20, data_file="")
    image.extensions.append((EXT_DATA_FILE, os.path.abspath("../secret").encode()))
    image.finish().save("image")
    status, out, err, _ = run([VDISK, "info", "-f", "qcow2", "image"])
    faults = [] if status == 0 and "secret" in out else [f"status {status}: {out}{err}"]
    tap.report("CVE-2024-4467 (info of a data file): told, not opened", faults)


def test_probing(tap):
    """GHSA-jmr4-g2hv-mjj6: a guest writes a qcow2 header to its raw disk, to be taken for qcow2 the
    next time."""
    clear()
    write_file("secret.raw", b"\x44" * 65536)
    sound(backing="secret.raw", backing_format="raw").finish().save("disk")
    faults = []
    with open("disk", "rb") as file:
        content = file.read()
    write_file("wanted", content + bytes(-len(content) % 512))

    def expect(wanted, said, *words):
        status, out, err, _ = run([VDISK, *words])
        if status != wanted or not re.search(said, out + err):
            faults.append(f"{' '.join(words)}: status {status}, not /{said}/: {out}{err}")
    expect(0, "identical", "compare", "-f", "raw", "-F", "raw", "disk", "wanted")
    # An overlay that says raw means raw.
    Image(cluster_bits=16, size=65536, backing="disk", backing_format="raw").finish().save("over")
    status, out, err, _ = run([VDISK, "convert", "-f", "qcow2", "-O", "raw", "over", "out.raw"])
    if status != 0:
        faults.append(f"convert: status {status}: {err}")
    else:
        with open("out.raw", "rb") as file:
            if file.read()[:len(content)] != content:
                faults.append("the raw backing file was not read as raw")
    # Without a format nobody guesses, and nothing is made on a guess.
    expect(1, "backing format", "create", "-f", "qcow2", "-b", "disk", "new", "64k")
    # What looks like nothing is not written to as raw on a guess.
    write_file("plain", bytes(65536))
    expect(1, "raw", "io", "-c", "write 0 512", "plain")
    tap.report("GHSA-jmr4-g2hv-mjj6 (raw disk that looks like qcow2)", faults)


def main():
    global VDISK  # pylint: disable=global-statement
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    VDISK = os.path.realpath(sys.argv[1])
    tap = Tap()
    with work_folder("qcow2-bad", "files"):
        write_file("../secret", b"\x44" * 65536)
        for cases in (headers, tables, snapshot_tables, snapshot_limits, bitmaps, cves,
                      data_files):
            for bad in cases():
                test_bad(tap, bad)
        for name, change in overlaps():
            test_overlap(tap, name, change)
        for name, change in refcount_tables():
            test_refcounts(tap, name, change)
        test_refcount_growth(tap)
        test_info_opens_nothing(tap)
        test_probing(tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
