#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Bad QED and add-cow images, and bad chains of them, given to every command.

    tests/interop/test-bad-chain.py VDISK

Each command has to end soon, in little memory, with a status that is no success and one clear line
that names the file, and no file may be changed or made.
"""
import json
import os
import re
import socket
import sys

sys.dont_write_bytecode = True
# pylint: disable=wrong-import-position
from bad_images import CLUSTER, add_cow, add_cow_later, qed, write_file
from hostile import MEMORY_MAX, everything, run
from tap import Tap, clear, work_folder

CHAIN_DEPTH = 300
VDISK = ""

# What opens the image, but not what is behind it.
OWN = [
    ["info", "image"],
    ["check", "image"],
    ["resize", "image", "+1M"],
    ["amend", "-o", "compat=final", "image"],
    ["rebase", "-u", "-b", "", "image"],
]
# What opens the chain.
CHAIN = [
    ["info", "--backing-chain", "image"],
    ["map", "image"],
    ["convert", "-O", "raw", "image", "new"],
    ["compare", "image", "image"],
    ["measure", "-O", "qed", "image"],
    ["io", "-r", "-c", "read 0 64k", "image"],
    ["io", "-c", "write 0 512", "image"],
    ["commit", "image"],
    ["flatten", "image"],
    ["rebase", "-b", "", "image"],
    ["create", "-f", "qed", "-b", "image", "-F", "FORMAT", "new"],
    ["snapshot", "--external", "new", "-O", "qed", "image"],
]
READING = [words for words in CHAIN
           if words[0] in ("info", "map", "convert", "compare", "measure") or "-r" in words]
STATUS = {"compare": (2, 3, 4), "check": (1, 63)}


class Bad:
    """A bad image: how it is built in an empty directory, and what is said of it."""

    def __init__(self, name, build, said, commands=None, options=(), image_format="qed",
                 names="image"):
        self.names = names  # what every message has to name
        self.name = name
        self.build = build
        self.said = said
        self.commands = CHAIN if commands is None else commands
        self.options = list(options)
        self.format = image_format


def words_for(bad, words):
    """The command line: the format is always named, so that no guess stands in its way."""
    verb = words[0]
    rest = [bad.format if word == "FORMAT" else word for word in words[1:]]
    named = [] if verb == "create" else ["-f", bad.format]
    if verb == "compare":
        named += ["-F", bad.format]
    options = [] if verb in ("resize", "amend") else bad.options
    return [VDISK, verb, *named, *options, *rest]


def command_faults(bad, words, before):
    """Yields what is wrong with the way a command ends."""
    command = words_for(bad, words)
    status, out, err, memory = run(command)
    told = " ".join(command[1:])
    if status is None:
        yield f"{told}: had to be killed"
        return
    if status not in STATUS.get(words[0], (1,)):
        yield f"{told}: status {status}: {(err or out).strip()[:300]}"
    elif not re.search(bad.said, err):
        yield f"{told}: does not say /{bad.said}/: {err.strip()[:400]}"
    elif bad.names not in err:
        yield f"{told}: does not name the file: {err.strip()[:300]}"
    elif err.count("\n") > 3:
        yield f"{told}: {err.count(chr(10))} lines of errors"
    if memory > MEMORY_MAX:
        yield f"{told}: took {memory >> 20} MiB"
    after = everything()
    if after != before:
        yield f"{told}: changed {[n for n in {*before, *after} if before.get(n) != after.get(n)]}"
        clear()
        bad.build()


def test_bad(tap, bad):
    clear()
    bad.build()
    before = everything()
    faults = [fault for words in bad.commands for fault in command_faults(bad, words, before)]
    tap.report(f"{bad.format}: {bad.name}", faults)


# --- headers ------------------------------------------------------------------------------------

def qed_headers():
    """Headers that no command accepts."""
    def case(name, said, **fields):
        return Bad(f"header: {name}", lambda: qed("image", **fields), said, OWN + CHAIN)

    for cluster in (0, 1, 2048, 4097, 12288, 128 << 20, 1 << 31):
        yield case(f"cluster size {cluster}", f"cluster size {cluster}\\b", cluster=cluster)
    for table in (0, 3, 32, 0xffffffff):
        yield case(f"table size {table}", f"table size {table}\\b", table=table)
    for header in (0, 0xffffffff):
        yield case(f"header size {header}", f"header size {header}\\b", header=header)
    for bit in (3, 31, 63):
        yield case(f"unknown feature {bit}", f"unknown feature.*0x{1 << bit:x}",
                   more_features=1 << bit)
    for offset in (0, 1, CLUSTER + 512, 1 << 40, (1 << 64) - CLUSTER, 5 * CLUSTER):
        yield case(f"L1 table at {offset}", "L1 table", l1_offset=offset)
    yield case("L1 table in the header", "L1 table", header=2)
    for size in (1, 513, 1 << 40, (1 << 64) - 512, (1 << 64) - 1):
        yield case(f"size {size}", f"size.*{size}\\b", size=size)
    for at, length in ((CLUSTER - 2, 4), (CLUSTER, 4), (64, CLUSTER - 63), (64, 0xffffffff),
                       (0xfffffff0, 0x20), (0xffffffff, 0xffffffff), (64, 0), (0, 4), (10, 4)):
        yield case(f"name of {length} bytes at {at}", "backing file", backing="base",
                   name_offset=at, name_bytes=length)
    nul = case("a name with a NUL in it", "NUL|zero byte", backing="ba\0se")
    nul.commands = [words for words in nul.commands if words[0] != "amend"]  # nothing to change
    yield nul
    for length in (0, 3, 4, 63, 64, CLUSTER, 2 * CLUSTER - 512):
        yield case(f"cut to {length} bytes", "QED|short|L1 table|header", length=length)
    yield case("another magic", "QED", magic=b"QEF\0")


def add_cow_headers():
    def case(name, said, maker=add_cow, **fields):
        def build():
            write_file("image.raw", b"\x11" * 65536)
            write_file("base", b"\x22" * 65536)
            maker("image", **fields)
        commands = [words for words in OWN if words[0] not in ("amend", "check")] + CHAIN
        if maker is add_cow_later:  # which can not be written to, however good it is
            commands = READING
        return Bad(f"header: {name}", build, said, commands, image_format="add-cow")

    for version in (0, 2, 0xffffffff):
        yield case(f"version {version}", f"version {version}\\b", version=version)
    for bit in (2, 31, 63):
        yield case(f"unknown feature {bit}", f"unknown feature.*0x{1 << bit:x}",
                   more_features=1 << bit)
    names = ((35, 4), (0, 4), (4095, 4), (4096, 4), (0xfffffffe, 4), (40, 4057), (40, 0xffffffff),
             (0xffffffff, 0xffffffff))
    for at, length in names:
        yield case(f"raw file's name of {length} bytes at {at}", "raw file", image_offset=at,
                   image_bytes=length)
        if at:
            yield case(f"backing file's name of {length} bytes at {at}", "backing file",
                       backing="base", backing_offset=at, backing_bytes=length)
    yield case("no raw file", "raw file", image_offset=0, image_bytes=0)
    yield case("raw file's name of no bytes", "raw file", image_bytes=0)
    yield case("names that overlap", "overlap", backing="base", backing_at=2004)
    yield case("a NUL in the raw file's name", "NUL|zero byte", image="im\0age")
    yield case("a NUL in the backing file's name", "NUL|zero byte", backing="ba\0se")
    yield case("the backing feature without a name", "feature|backing", more_features=1)
    yield case("a backing file without the feature", "feature|backing", backing="base", features=0)
    yield case("one file for both", "image.raw", backing="image.raw")
    for length in (0, 8, 35, 1500):
        yield case(f"cut to {length} bytes", "add-cow|header|short", length=length)
    yield case("another magic", "add-cow", magic=b"ADD_COW\0")
    for bits in (0, 8, 63, 0xffffffff):
        yield case(f"later kind: cluster bits {bits}", "cluster bits", add_cow_later,
                   cluster_bits=bits)
    yield case("later kind: unknown feature", "unknown feature", add_cow_later, features=1)
    yield case("later kind: an image that is not raw", "qcow2", add_cow_later,
               image_format=b"qcow2")
    yield case("later kind: header size", "size", add_cow_later, header=0xffffffff)
    yield case("later kind: backing format that is none", "backing|format", add_cow_later,
               backing="base", backing_format=b"\x01\xff")


# --- tables -------------------------------------------------------------------------------------

def qed_tables():
    """Entries of tables that no reader can follow."""
    reading = [words for words in CHAIN if words[0] in ("convert", "compare", "io")]
    offsets = (0x2001, 0, 1, 512, 5 * CLUSTER - 512, 5 * CLUSTER, 1 << 40, (1 << 64) - CLUSTER,
               (1 << 64) - 1)
    for offset in offsets:
        if offset != 0:
            yield Bad(f"L1 entry 0x{offset:x}", lambda o=offset: qed("image", l1={0: o}),
                      "L1|L2|table", reading)
        if offset > 1:
            yield Bad(f"L2 entry 0x{offset:x}", lambda o=offset: qed("image", l2={0: o}),
                      "L2|cluster|entry", reading)


def qed_overlaps():
    """(name, build): clusters that are used twice; reading may work, but a check finds it."""
    yield "data in the L1 table", lambda: qed("image", l2={0: CLUSTER})
    yield "data in its own L2 table", lambda: qed("image", l2={0: 2 * CLUSTER})
    yield "data in the header", lambda: qed("image", l2={0: 0x1000, 1: 0}, header=1)
    yield "one cluster twice", lambda: qed("image", l2={0: 4 * CLUSTER})
    yield "the L1 table as L2 table", lambda: qed("image", l1={0: CLUSTER})
    yield "data as L2 table", lambda: qed("image", l1={0: 3 * CLUSTER})
    yield "one L2 table twice", lambda: qed("image", l1={1: 2 * CLUSTER}, size=4 << 20)


def test_overlap(tap, name, build):
    """A check tells of it and changes nothing; a repair ends with an image that is sound."""
    clear()
    build()
    before = everything()
    faults = []
    status, out, err, _ = run([VDISK, "check", "-f", "qed", "image"])
    if status != 2:
        faults.append(f"check: status {status}: {out}{err}")
    if everything() != before:
        faults.append("check changed the image")
    # What is allocated might be in use already.
    status, out, err, _ = run([VDISK, "io", "-f", "qed", "-c", "write -P 1 32k 512", "image"])
    if status == 0:
        faults.append("a write that allocates succeeded")
    elif "image" not in err:
        faults.append(f"a write that allocates: does not name the file: {err}")
    elif everything() != before:
        faults.append("a write that was refused changed the image")
    # What leaks is kept until the next repair: it may be what a wrong entry should have led to.
    for words, wanted in ((["-r", "all"], (0, 3)), (["-r", "leaks"], (0,)), ([], (0,))):
        status, out, err, _ = run([VDISK, "check", "-f", "qed", *words, "image"])
        if status not in wanted:
            faults.append(f"check {' '.join(words)}: status {status}: {out}{err}")
    tap.report(f"qed: {name}", faults)


# --- files that are named -----------------------------------------------------------------------

def make_chain(depth, names=None):
    """image, over 1, over 2, ..."""
    for level in range(depth):
        name = str(level) if level else "image"
        qed(name, backing=names(level + 1) if names else str(level + 1))
    qed(str(depth))


def json_name(driver, filename):
    return "json:" + json.dumps({"driver": driver, "file": {"driver": "file",
                                                           "filename": filename}})


def make_socket():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")


def named_files():
    """(name, what the image names, what makes that, what is said, options)"""
    beside = [
        ("that is missing", "gone", lambda: None, "gone.*No such file", ()),
        ("that is a directory", "dir", lambda: os.mkdir("dir"), "dir", ()),
        ("that is a FIFO", "pipe", lambda: os.mkfifo("pipe"), "pipe", ()),
        ("that is a socket", "sock", make_socket, "sock", ()),
        ("that is a link to nothing", "link", lambda: os.symlink("gone", "link"), "link", ()),
        ("that is a link to itself", "link", lambda: os.symlink("link", "link"), "link", ()),
        ("that is the image itself", "image", lambda: None, "same file", ()),
        ("that is the image by another path", "./././image", lambda: None, "same file", ()),
        ("that is a link to the image", "link", lambda: os.symlink("image", "link"), "same file",
         ()),
        ("that is a hard link to the image", "hard", lambda: os.link("image", "hard"),
         "same file", ()),
        ("in a directory that is a file", "file/x", lambda: write_file("file", b"x"), "file/x",
         ()),
        ("of an empty name within json:", json_name("qed", ""), lambda: None,
         "no filename", ["--allow-json"]),
        ("that json: says is the image", json_name("qed", "image"), lambda: None, "same file",
         ["--allow-json"]),
        ("in json: that is broken", "json:{", lambda: None, "json:", ["--allow-json"]),
        ("in json: with another driver", json_name("blkdebug", "base"),
         lambda: write_file("base", bytes(65536)), "blkdebug", ["--allow-json"]),
        ("in json: that is deeply nested", "json:" + "[" * 3000, lambda: None, "json:",
         ["--allow-json"]),
    ]
    gate = [
        ("above the directory", "../secret", "not permitted"),
        ("above the directory by a detour", "./dir/../../secret", "not permitted"),
        ("with an absolute name", os.path.abspath("../secret"), "not permitted"),
        ("that is a link out of the directory", "link", "not permitted"),
        ("that is the device /dev/zero", "/dev/zero", "not permitted"),
        ("in json:", json_name("raw", "base"), "--allow-json"),
        ("on a server", "http://127.0.0.1:1/x", "not permitted"),
        ("with the protocol nbd:", "nbd:127.0.0.1:1", "protocol|not permitted"),
        ("with the protocol fat:", "fat:rw:.", "protocol|not permitted"),
        ("with an absolute file: name", "file:" + os.path.abspath("../secret"), "not permitted"),
    ]

    def outside():
        os.mkdir("dir")
        os.symlink("../secret", "link")
        write_file("base", bytes(65536))

    beside += [(*case[:2], outside, case[2], ()) for case in gate]
    for device in ("/dev/null", "/dev/zero"):
        beside.append((f"that is {device}, which is permitted", device, lambda: None, device,
                       ["--allow-path", "/dev"]))
    return beside


def bad_names():
    """Backing files of both formats, and raw files of add-cow, that cannot be had."""
    for name, named, prepare, said, options in named_files():
        def qed_case(named=named, prepare=prepare):
            qed("image", backing=named)
            prepare()

        def add_cow_case(named=named, prepare=prepare):
            write_file("image.raw", b"\x11" * 65536)
            if len(named) < 900:
                add_cow("image", backing=named)
            else:
                add_cow("image", backing=named, image_at=40, backing_at=60)
            prepare()

        def raw_case(named=named, prepare=prepare):
            if len(named) < 900:
                add_cow("image", image=named)
            else:
                add_cow("image", image=named, image_at=60)
            prepare()

        yield Bad(f"a backing file {name}", qed_case, said, options=options)
        if "another driver" not in name:  # the format that is recorded counts
            yield Bad(f"a backing file {name}", add_cow_case, said, options=options,
                      image_format="add-cow")
        if "json" not in name:
            yield Bad(f"a raw file {name}", raw_case, said, options=options,
                      image_format="add-cow")


def loops():
    """Chains without an end, and chains that are too long."""
    def two():
        qed("image", backing="other")
        qed("other", backing="image")

    def three():
        qed("image", backing="b")
        qed("b", backing="./c")
        qed("c", backing="b")

    def mixed():
        qed("image", backing="b")
        write_file("b.raw", b"\x11" * 65536)
        add_cow("b", backing="image", image="b.raw", features=1)

    def by_json():
        qed("image", backing=json_name("qed", "b"))
        qed("b", backing=json_name("qed", "./image"))

    def by_links():
        qed("image", backing="b")
        qed("b", backing="hard")
        os.link("image", "hard")

    def raw_of_two():
        qed("image", backing="b")
        add_cow("b", backing="c", image="x.raw", features=1)
        add_cow("c", image="x.raw")
        write_file("x.raw", b"\x11" * 65536)

    again = "same file|only once"
    yield Bad("a loop of two", two, again)
    yield Bad("a loop of two behind the top", three, again)
    yield Bad("a loop through add-cow", mixed, again)
    yield Bad("a loop by json: names", by_json, again, options=["--allow-json"])
    yield Bad("a loop by hard links", by_links, again)
    yield Bad("one raw file of two add-cow images", raw_of_two, again)
    yield Bad(f"a chain {CHAIN_DEPTH} deep", lambda: make_chain(CHAIN_DEPTH), "limit is 256")
    yield Bad(f"a chain {CHAIN_DEPTH} deep by json: names",
              lambda: make_chain(CHAIN_DEPTH, lambda n: json_name("qed", str(n))), "limit is 256",
              options=["--allow-json"])


def other_formats():
    """The backing file is not what the image says."""
    def no_format():
        qed("image", backing="base")
        write_file("base", b"\x33" * 65536)

    def json_says_qed():
        qed("image", backing=json_name("qed", "base"))
        write_file("base", b"\x33" * 65536)

    def later_says_qed():
        write_file("image.raw", b"\x11" * 65536)
        write_file("base", b"\x33" * 65536)
        add_cow_later("image", backing="base", backing_format=b"qed")

    def later_says_vmdk():
        write_file("image.raw", b"\x11" * 65536)
        write_file("base", b"\x33" * 65536)
        add_cow_later("image", backing="base", backing_format=b"vmdk")

    def bad_backing():
        qed("image", backing="base")
        qed("base", cluster=12288)

    def deep_and_bad():
        make_chain(20)
        qed("20", more_features=1 << 40)

    yield Bad("a backing file that looks like nothing, and nothing says it is raw", no_format,
              "rebase -u -F raw")
    yield Bad("a backing file that json: says is qed", json_says_qed, "base",
              options=["--allow-json"])
    yield Bad("a backing file that is not the qed it should be", later_says_qed, "base",
              READING, image_format="add-cow")
    yield Bad("a backing file of a format that nobody knows", later_says_vmdk, "vmdk",
              READING, image_format="add-cow")
    yield Bad("a backing file that is broken", bad_backing, "base.*cluster size 12288")
    yield Bad("a broken image at the end of a chain", deep_and_bad, "20: .*unknown feature",
              names="20: ")


# --- what has to work ---------------------------------------------------------------------------

def expect(tap, name, build, wanted, *words, said=None):
    clear()
    build()
    status, out, err, memory = run([VDISK, *words])
    faults = []
    if status != wanted or memory > MEMORY_MAX:
        faults.append(f"{' '.join(words)}: status {status}, {memory >> 20} MiB: {out}{err}")
    if said and not re.search(said, out + err):
        faults.append(f"{' '.join(words)}: does not say /{said}/: {out}{err}")
    tap.report(name, faults)


def test_good(tap):
    """The gate's ways in, and what can be known without a backing file."""
    outside = os.path.abspath("../secret")
    verify = ["-r", "-f", "qed", "-c", "read -P 0x44 8192 512", "image"]

    def overlay(name):
        return lambda: (qed("image", backing=name, more_features=4), os.mkdir("dir"),
                        os.symlink("../secret", "link"), write_file("base", b"\x44" * 65536))

    expect(tap, "a backing file beside", overlay("base"), 0, "io", *verify)
    for name in ("../secret", outside, "link", "file:" + outside):
        expect(tap, f"--allow-path for {os.path.basename(name)}", overlay(name), 0, "io",
               "--allow-path", os.path.dirname(outside), *verify)
        expect(tap, f"--allow-path of another directory for {os.path.basename(name)}",
               overlay(name), 1, "io", "--allow-path", "dir", *verify, said="not permitted")
    expect(tap, "--allow-path twice", overlay("../secret"), 0, "io", "--allow-path", "dir",
           "--allow-path", outside, *verify)
    expect(tap, "--allow-json", overlay(json_name("raw", "base")), 0, "io", "--allow-json",
           *verify)
    expect(tap, "--no-backing refuses what is beside, too", overlay("base"), 1, "io",
           "--no-backing", *verify, said="base")
    expect(tap, "--no-backing beats --allow-path", overlay("../secret"), 1, "io", "--no-backing",
           "--allow-path", "/", *verify, said="permits nothing")
    for name in ("gone", "/etc/passwd", "json:{}", "image", "/dev/zero"):
        expect(tap, f"info tells the name {name}", lambda n=name: qed("image", backing=n), 0,
               "info", "image", said=re.escape(name))
        expect(tap, f"info --no-backing tells the name {name}",
               lambda n=name: qed("image", backing=n), 0, "info", "--no-backing", "image",
               said=re.escape(name))
    expect(tap, "info does not open a FIFO",
           lambda: (qed("image", backing="pipe"), os.mkfifo("pipe")), 0, "info", "image",
           said="pipe")
    expect(tap, "a chain of 256", lambda: make_chain(255), 0, "io", "-r", "-f", "qed", "-c",
           "read -P 0x11 0 4096", "image")
    expect(tap, "a shorter backing file reads zeros past its end",
           lambda: (qed("image", backing="base", more_features=4),
                    write_file("base", b"\x44" * 9216)), 0, "io", "-r", "-f", "qed", "-c",
           "read -P 0x44 8192 1024", "-c", "read -P 0 9216 50000", "image")
    expect(tap, "a longer backing file is cut",
           lambda: (qed("image", backing="base", more_features=4),
                    write_file("base", b"\x44" * 1000000)), 0, "io", "-r", "-f", "qed", "-c",
           "read -P 0x44 8192 57344", "image")
    expect(tap, "reading past the end of it", lambda: qed("image"), 1, "io", "-r", "-f", "qed",
           "-c", "read 65536 512", "image")
    expect(tap, "raw stays raw, whatever it looks like",
           lambda: (qed("image", backing="base", more_features=4), qed("base")), 0, "io", "-r",
           "-f", "qed", "-c", "read -P 0x22 16384 4096", "image")


def test_create(tap):
    """A new overlay on something that cannot be its backing file."""
    def base():
        write_file("base", b"\x33" * 65536)
        write_file("d.raw", b"")

    for form, more in (("qed", []), ("add-cow", ["-o", "image_file=d.raw"])):
        def create(name, wanted, *words, said, form=form, more=more):
            expect(tap, f"create -f {form}: {name}", base, wanted, "create", "-f", form, *more,
                   *words, said=said)
            tap.report(f"create -f {form}: {name}: nothing is made",
                       [f"{os.listdir('.')}"] if os.path.exists("image") else [])
        create("no format of the backing file", 1, "-b", "base", "image",
               said="without backing format")
        create("the wrong format", 1, "-b", "base", "-F", "qed", "image", said="base")
        create("an unknown format", 1, "-b", "base", "-F", "vmdk", "image", said="vmdk")
        create("a backing file that is missing", 1, "-b", "gone", "-F", "raw", "image",
               said="gone")
        create("a directory", 1, "-b", ".", "-F", "raw", "image", said="director")
        create("the image itself", 1, "-b", "image", "-F", "raw", "image", "1M", said="image")
    for name in ("base", "image", "gone/x", "/dev/zero", "."):
        expect(tap, f"create -f add-cow over base: raw file {name}", base, 1, "create", "-f",
               "add-cow", "-o", f"backing_file=base,backing_fmt=raw,image_file={name}", "image",
               said=re.escape(name))
        tap.report(f"create -f add-cow over base: raw file {name}: nothing is made",
                   [f"{os.listdir('.')}"] if os.path.exists("image") else [])


def main():
    global VDISK  # pylint: disable=global-statement
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    VDISK = os.path.realpath(sys.argv[1])
    tap = Tap()
    with work_folder("bad-chain", "files"):
        write_file("../secret", b"\x44" * 65536)
        for cases in (qed_headers, add_cow_headers, qed_tables, bad_names, loops, other_formats):
            for bad in cases():
                test_bad(tap, bad)
        for name, build in qed_overlaps():
            test_overlap(tap, name, build)
        test_good(tap)
        test_create(tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
