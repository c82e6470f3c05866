#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Dirty bitmaps of qcow2 images, between QEMU and vdisk.

    tests/interop/test-qcow2-bitmap.py VDISK

Every bitmap is read by qemu-nbd and nbdinfo, and by `vdisk bitmap --map`; it has to be the model's.
VD_TEST_SEED is the seed, VD_BITMAP_TURNS (200) the turns of the alternating session,
VD_BITMAP_ROUNDS (25) the images that get random changes of their bitmaps.
"""
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20


class Fault(Exception):
    """Something is not as it should be."""


def run(*words, code=0, text=None):
    """Runs a command, which has to end with `code`; returns what it printed."""
    words = [str(word) for word in words]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode != code:
        raise Fault(f"{' '.join(words)}: exit {done.returncode}, not {code}\n{done.stdout}"
                    f"{done.stderr}")
    return done.stdout + done.stderr


class Tests:
    """Counts, and prints TAP."""

    def __init__(self, vdisk):
        self.vdisk = vdisk
        self.count = 0
        self.failed = 0

    def try_one(self, name, function):
        self.count += 1
        try:
            function(self)
            print(f"ok {self.count} - {name}", flush=True)
        except Fault as fault:
            self.failed += 1
            for line in str(fault).splitlines():
                print(f"# {line}")
            print(f"not ok {self.count} - {name}", flush=True)


# --- looking -------------------------------------------------------------------------------------

def accepts(path):
    """Is somebody listening there?  The name is there before that."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def read_by_qemu(image, names):
    """{name: [(start, end), ...]} of what is dirty, by qemu-nbd."""
    words = ["qemu-nbd", "-r", "-t", "-k", os.path.abspath("sock"), "-f", "qcow2", "-x", "x"]
    for name in names:
        words += ["-B", name]
    if os.path.exists("sock"):
        os.unlink("sock")
    with subprocess.Popen(words + [image], stderr=subprocess.PIPE, text=True) as server:
        try:
            deadline = time.monotonic() + 60
            while not accepts("sock"):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise Fault(f"qemu-nbd: {server.stderr.read()}")
                time.sleep(0.01)
            uri = "nbd+unix:///x?socket=" + os.path.abspath("sock")
            return {name: read_one(uri, name) for name in names}
        finally:
            server.terminate()
            server.wait()


def read_one(uri, name):
    runs = []
    for part in json.loads(run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", uri)):
        start, end = part["offset"], part["offset"] + part["length"]
        if part["type"] & 1:
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
    return runs


def bitmaps_of_qemu(image):
    data = json.loads(run("qemu-img", "info", "--output=json", image))["format-specific"]["data"]
    return {b["name"]: (b["granularity"], sorted(b["flags"])) for b in data.get("bitmaps", [])}


def listed(tests, image):
    return {b["name"]: b
            for b in json.loads(run(tests.vdisk, "bitmap", "--list", "--output=json", image))}


def bitmaps_of_info(tests, image):
    data = json.loads(run(tests.vdisk, "info", "--output=json", image))["format-specific"]["data"]
    return {b["name"]: (b["granularity"], sorted(b["flags"])) for b in data.get("bitmaps", [])}


def check(tests, image):
    run("qemu-img", "check", image)
    run(tests.vdisk, "check", image)


class Model:
    """The granules that are dirty."""

    def __init__(self, size, granularity):
        self.size = size
        self.granularity = granularity
        self.granules = set()

    def mark(self, offset, length):
        if length:
            first, last = offset // self.granularity, (offset + length - 1) // self.granularity
            self.granules.update(range(first, last + 1))

    def runs(self):
        runs = []
        for granule in sorted(self.granules):
            start = granule * self.granularity
            end = min(start + self.granularity, self.size)
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], end)
            else:
                runs.append((start, end))
        return runs

    def resize(self, size, cluster_bytes=None):
        """With cluster_bytes: what shares a cluster with the end becomes dirty."""
        old, self.size = self.size, size
        self.granules = {g for g in self.granules if g * self.granularity < size}
        if cluster_bytes and size < old and size % self.granularity:
            self.mark(size - 1, 1)
        if cluster_bytes and size > old:
            self.mark(old, min(size, -(-old // cluster_bytes) * cluster_bytes) - old)


def judge(tests, image, models):
    """models: {name: (Model, enabled)}; both tools see these bitmaps, and no others."""
    expected = {name: (model.granularity, ["auto"] if enabled else [])
                for name, (model, enabled) in models.items()}
    for who, seen in (("qemu-img info", bitmaps_of_qemu(image)),
                      ("vdisk info", bitmaps_of_info(tests, image))):
        if seen != expected:
            raise Fault(f"{who}: {seen}, not {expected}")
    ours = listed(tests, image)
    theirs = read_by_qemu(image, list(models)) if models else {}
    for name, (model, _) in models.items():
        runs = model.runs()
        if theirs[name] != runs:
            raise Fault(f"{name}: qemu-nbd says {theirs[name]}, the model {runs}")
        dirty = sum(end - start for start, end in runs)
        mapped = [(part["start"], part["start"] + part["length"]) for part in json.loads(
            run(tests.vdisk, "bitmap", "--map", "--output=json", image, name)) if part["dirty"]]
        if mapped != runs:
            raise Fault(f"{name}: vdisk says {mapped}, the model {runs}")
        if ours[name]["dirty-bytes"] != dirty:
            raise Fault(f"{name}: vdisk says {ours[name]['dirty-bytes']} bytes, the model {dirty}")


# --- the tests -----------------------------------------------------------------------------------

def random_io(rng, size, models):
    """Commands for qemu-io and `vdisk io`; the models get what they write."""
    words = []
    for _ in range(rng.randint(1, 4)):
        length = 512 * rng.randint(1, rng.choice([8, 300]))
        offset = 512 * rng.randint(0, (size - length) // 512)
        what = rng.choice(["write -P %d" % rng.randint(1, 255), "write -z", "discard",
                           "write -P 7"])
        words += ["-c", f"{what} {offset} {length}"]
        for model, enabled in models.values():
            if enabled:
                model.mark(offset, length)
    return words


def alternate(tests):
    """qemu-io and vdisk take turns writing to one image with two enabled bitmaps."""
    rng = random.Random(tests.seed)
    size = 64 * MIB
    turns = int(os.environ.get("VD_BITMAP_TURNS", "200"))
    run("qemu-img", "create", "-q", "-f", "qcow2", "turns.qcow2", size)
    run(tests.vdisk, "bitmap", "--add", "turns.qcow2", "ours")
    run("qemu-img", "bitmap", "--add", "-g", "4k", "turns.qcow2", "theirs")
    models = {"ours": (Model(size, 65536), True), "theirs": (Model(size, 4096), True)}
    for turn in range(turns):
        words = random_io(rng, size, models)
        if turn % 2:
            run("qemu-io", "-f", "qcow2", *words, "turns.qcow2")
        else:
            run(tests.vdisk, "io", "-f", "qcow2", *words, "turns.qcow2")
        check(tests, "turns.qcow2")
        if turn % 20 == 19 or turn == turns - 1:
            judge(tests, "turns.qcow2", models)
    print(f"# {turns} turns")


GRANULARITIES = [1 << bits for bits in range(9, 32)]


def granularities(tests):
    """Every granularity, added by one tool, written through by the other, read by both."""
    rng = random.Random(tests.seed + 1)
    for number, granularity in enumerate(GRANULARITIES):
        cluster = rng.choice([512, 4096, 65536, 2 * MIB])
        size = 9 * MIB + 512 * rng.randint(1, 2000)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "g.qcow2",
            size)
        tools = [tests.vdisk, "qemu-img"]
        if number % 2:
            tools.reverse()
        run(tools[0], "bitmap", "--add", "-g", granularity, "g.qcow2", "b")
        models = {"b": (Model(size, granularity), True)}
        for io in (["qemu-io", "-f", "qcow2"], [tests.vdisk, "io", "-f", "qcow2"]):
            run(*io, *random_io(rng, size, models), "g.qcow2")
            judge(tests, "g.qcow2", models)
            check(tests, "g.qcow2")


def random_actions(rng, models, names):
    """Options for one `bitmap` command, and the model of what it does; None for the model: it
    fails.  The same for both tools."""
    name = rng.choice(names)
    words = []
    after = {key: (value[0], value[1], set(value[0].granules)) for key, value in models.items()}
    for _ in range(rng.randint(1, 3)):
        what = rng.choice(["--add", "--remove", "--clear", "--enable", "--disable", "--merge"])
        words.append(what)
        if what == "--add":
            if name in after:
                return name, words, None
            after[name] = (Model(models["base"][0].size, 65536), True, set())
            continue
        if what == "--merge":
            source = rng.choice(names)
            words.append(source)
            if source not in after:
                return name, words, None
        if name not in after:
            return name, words, None
        model, enabled, granules = after[name]
        if what == "--remove":
            del after[name]
        elif what == "--clear":
            after[name] = (model, enabled, set())
        elif what in ("--enable", "--disable"):
            after[name] = (model, what == "--enable", granules)
        else:
            other, _, theirs = after[source]
            merged = Model(model.size, model.granularity)
            merged.granules = set(granules)
            for granule in theirs:
                start = granule * other.granularity
                merged.mark(start, min(other.granularity, model.size - start))
            after[name] = (model, enabled, merged.granules)
    return name, words, after


def adopt(after):
    models = {}
    for name, (model, enabled, granules) in after.items():
        new = Model(model.size, model.granularity)
        new.granules = granules
        models[name] = (new, enabled)
    return models


def changes(tests):
    """Random actions by either tool; ours are all or nothing."""
    rng = random.Random(tests.seed + 2)
    rounds = int(os.environ.get("VD_BITMAP_ROUNDS", "25"))
    for _ in range(rounds):
        size = 20 * MIB + 512 * rng.randint(0, 999)
        cluster = rng.choice([512, 4096, 65536])
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "c.qcow2",
            size)
        run(tests.vdisk, "bitmap", "--add", "-g", 1 << rng.randint(9, 20), "c.qcow2", "base")
        granularity = listed(tests, "c.qcow2")["base"]["granularity"]
        models = {"base": (Model(size, granularity), True)}
        for _ in range(6):
            run(tests.vdisk, "io", "-f", "qcow2", *random_io(rng, size, models), "c.qcow2")
            name, words, after = random_actions(rng, models, ["one", "two", "base"])
            if "--add" in words:
                words = ["-g", "65536"] + words
            if after is None:
                run(tests.vdisk, "bitmap", *words, "c.qcow2", name, code=1)
            else:
                tool = rng.choice([tests.vdisk, "qemu-img"])
                run(tool, "bitmap", *words, "c.qcow2", name)
                models = adopt(after)
            if "base" not in models:
                run(tests.vdisk, "bitmap", "--add", "-g", 8192, "c.qcow2", "base")
                models["base"] = (Model(size, 8192), True)
            judge(tests, "c.qcow2", models)
            check(tests, "c.qcow2")
    print(f"# {rounds} images")


def merge_from_file(tests):
    """--merge -b, with another granularity."""
    for tool in (tests.vdisk, "qemu-img"):
        for name, granularity in (("from.qcow2", 512), ("to.qcow2", 65536)):
            run("qemu-img", "create", "-q", "-f", "qcow2", name, "10M")
            run(tool, "bitmap", "--add", "-g", granularity, name, "b")
        run("qemu-io", "-f", "qcow2", "-c", "write 1M 512", "-c", "write 5M 70000", "from.qcow2")
        run("qemu-io", "-f", "qcow2", "-c", "write 9M 1", "to.qcow2")
        run(tool, "bitmap", "--merge", "b", "-b", "from.qcow2", "-F", "qcow2", "to.qcow2", "b")
        model = Model(10 * MIB, 65536)
        for offset, length in ((MIB, 512), (5 * MIB, 70000), (9 * MIB, 1)):
            model.mark(offset, length)
        judge(tests, "to.qcow2", {"b": (model, True)})
    run("qemu-img", "create", "-q", "-f", "qcow2", "short.qcow2", "9M")
    run(tests.vdisk, "bitmap", "--add", "short.qcow2", "b")
    said = run(tests.vdisk, "bitmap", "--merge", "b", "-b", "short.qcow2", "to.qcow2", "b", code=1)
    if "have to be the same" not in said:
        raise Fault(said)
    judge(tests, "to.qcow2", {"b": (model, True)})


def resizes(tests):
    """Bits of what was cut off are gone, what is added is clean; vdisk knows the last cluster."""
    rng = random.Random(tests.seed + 3)
    size = 32 * MIB
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "r.qcow2", size)
    models = {}
    for name, granularity in (("fine", 512), ("usual", 65536), ("coarse", 4 * MIB)):
        run(tests.vdisk, "bitmap", "--add", "-g", granularity, "r.qcow2", name)
        models[name] = (Model(size, granularity), True)
    run(tests.vdisk, "bitmap", "--add", "r.qcow2", "fixed")
    run(tests.vdisk, "io", *random_io(rng, size, models), "r.qcow2")
    run(tests.vdisk, "bitmap", "--clear", "--merge", "fine", "--disable", "r.qcow2", "fixed")
    models["fixed"] = (Model(size, 4096), False)
    for start, end in models["fine"][0].runs():
        models["fixed"][0].mark(start, end - start)
    for number in range(12):
        size = 512 * rng.randint(1, 80 * MIB // 512)
        tool = "qemu-img" if number % 3 == 2 else tests.vdisk
        run(tool, "resize", "-q", "-f", "qcow2", "--shrink", "r.qcow2", size)
        for model, enabled in models.values():
            model.resize(size, 4096 if enabled and tool == tests.vdisk else None)
        if size > MIB:
            run(tests.vdisk, "io", "-f", "qcow2", *random_io(rng, size, models), "r.qcow2")
        judge(tests, "r.qcow2", models)
        check(tests, "r.qcow2")


def crashes(tests):
    """What a killed writer leaves is inconsistent for both, and can be recovered."""
    size = 16 * MIB
    run("qemu-img", "create", "-q", "-f", "qcow2", "k.qcow2", size)
    for name in ("all", "some", "fixed"):
        run(tests.vdisk, "bitmap", "--add", "k.qcow2", name)
    run(tests.vdisk, "bitmap", "--disable", "k.qcow2", "fixed")
    run(tests.vdisk, "io", "-f", "qcow2", "-c", "write -P 5 0 1M", "k.qcow2")
    run("qemu-img", "convert", "-O", "qcow2", "k.qcow2", "older.qcow2")
    with subprocess.Popen([tests.vdisk, "io", "-f", "qcow2", "k.qcow2"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as writer:
        writer.stdin.write("write -P 6 3M 100k\nwrite -P 5 0 64k\nflush\n"
                           "read -P 6 3M 100k\n")
        writer.stdin.flush()
        seen = ""
        while "read 102400" not in seen:
            line = writer.stdout.readline()
            if not line:
                raise Fault(f"vdisk io ended: {seen}")
            seen += line
        writer.kill()
    if bitmaps_of_qemu("k.qcow2") != {"all": (65536, ["auto", "in-use"]),
                                      "some": (65536, ["auto", "in-use"]), "fixed": (65536, [])}:
        raise Fault(f"after the kill: {bitmaps_of_qemu('k.qcow2')}")
    for name, fact in listed(tests, "k.qcow2").items():
        if fact["inconsistent"] != (name != "fixed") or fact["recoverable"] != (name != "fixed"):
            raise Fault(f"after the kill: {fact}")
    run(tests.vdisk, "bitmap", "--clear", "k.qcow2", "all", code=1)
    run(tests.vdisk, "bitmap", "--recover", "k.qcow2", "fixed", code=1)
    run(tests.vdisk, "bitmap", "--recover", "k.qcow2", "all")
    run(tests.vdisk, "bitmap", "--recover", "--compare", "older.qcow2", "-F", "qcow2", "k.qcow2",
        "some")
    everything, some = Model(size, 65536), Model(size, 65536)
    everything.mark(0, size)
    some.mark(3 * MIB, 100 << 10)
    judge(tests, "k.qcow2", {"all": (everything, True), "some": (some, True),
                             "fixed": (Model(size, 65536), False)})
    run("qemu-img", "check", "-r", "leaks", "k.qcow2")
    check(tests, "k.qcow2")
    # QEMU's crash: the same.
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 8M 64k", "-c", "abort", "k.qcow2", code=-6)
    run(tests.vdisk, "bitmap", "--recover", "--compare", "older.qcow2", "k.qcow2", "some")
    some.mark(8 * MIB, 65536)
    run(tests.vdisk, "bitmap", "--remove", "k.qcow2", "all")
    run(tests.vdisk, "bitmap", "--remove", "k.qcow2", "fixed")
    judge(tests, "k.qcow2", {"some": (some, True)})


def converts(tests):
    """convert --bitmaps and measure, as qemu-img; broken ones are told of."""
    rng = random.Random(tests.seed + 4)
    size = 24 * MIB
    run("qemu-img", "create", "-q", "-f", "qcow2", "s.qcow2", size)
    models = {}
    for name, granularity in (("on", 4096), ("off", 65536)):
        run(tests.vdisk, "bitmap", "--add", "-g", granularity, "s.qcow2", name)
        models[name] = (Model(size, granularity), True)
    run(tests.vdisk, "io", *random_io(rng, size, models), "s.qcow2")
    run(tests.vdisk, "bitmap", "--disable", "s.qcow2", "off")
    models["off"] = (models["off"][0], False)
    for words in ([], ["-c"], ["-o", "cluster_size=512"]):
        run(tests.vdisk, "convert", "-O", "qcow2", "--bitmaps", *words, "s.qcow2", "t.qcow2")
        judge(tests, "t.qcow2", models)
        check(tests, "t.qcow2")
        run("qemu-img", "compare", "s.qcow2", "t.qcow2")
    measured = [json.loads(run(tool, "measure", "--output=json", "-O", "qcow2", "s.qcow2"))
                for tool in (tests.vdisk, "qemu-img")]
    if measured[0]["bitmaps"] != measured[1]["bitmaps"]:
        raise Fault(f"measure: {measured}")
    for words, reason in ((["-O", "raw"], "no bitmaps"),
                          (["-O", "qcow2", "-o", "compat=0.10"], "version 2")):
        said = run(tests.vdisk, "convert", "--bitmaps", *words, "s.qcow2", "u.img", code=1)
        if reason not in said or os.path.exists("u.img"):
            raise Fault(said)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 8M 64k", "-c", "abort", "s.qcow2", code=-6)
    said = run(tests.vdisk, "convert", "-O", "qcow2", "--bitmaps", "s.qcow2", "u.img", code=1)
    if "cannot copy the inconsistent bitmap" not in said or os.path.exists("u.img"):
        raise Fault(said)
    said = run(tests.vdisk, "convert", "-O", "qcow2", "--bitmaps", "--skip-broken-bitmaps",
               "s.qcow2", "u.img")
    if "left out the inconsistent bitmap 'on'" not in said:
        raise Fault(said)
    judge(tests, "u.img", {})


def chains(tests):
    """commit marks what it writes into the base, and leaves the overlay's bits; so does rebase."""
    size = 8 * MIB
    run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", size)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
    run(tests.vdisk, "bitmap", "--add", "base.qcow2", "b")
    run(tests.vdisk, "bitmap", "--add", "top.qcow2", "t")
    base, top = Model(size, 65536), Model(size, 65536)
    run(tests.vdisk, "io", "-f", "qcow2", "-c", "write -P 1 1M 200k", "-c", "write -P 2 5M 1",
        "top.qcow2")
    for model in (base, top):
        model.mark(MIB, 200 << 10)
        model.mark(5 * MIB, 1)
    run(tests.vdisk, "commit", "-f", "qcow2", "top.qcow2")
    judge(tests, "base.qcow2", {"b": (base, True)})
    judge(tests, "top.qcow2", {"t": (top, True)})
    run(tests.vdisk, "rebase", "-f", "qcow2", "-b", "", "top.qcow2")
    check(tests, "top.qcow2")
    facts = listed(tests, "top.qcow2")["t"]
    if facts["inconsistent"] or facts["dirty-bytes"] < sum(e - s for s, e in top.runs()):
        raise Fault(str(facts))


def patch(name, offset, data):
    with open(name, "r+b") as file:
        file.seek(offset)
        file.write(data)


def extension_at(name):
    """File offset of the data of the bitmaps extension."""
    with open(name, "rb") as file:
        head = file.read(65536)
    at = struct.unpack(">I", head[100:104])[0]
    while True:
        kind, length = struct.unpack(">II", head[at:at + 8])
        if kind == 0x23852875:
            return at + 8
        if kind == 0:
            raise Fault("no bitmaps extension")
        at += 8 + (length + 7) // 8 * 8


def forgotten(tests):
    """A program that does not know bitmaps has written: they are hidden, and can be recovered."""
    # Clusters of bits that are all set as a whole, and in part.
    for cluster, granularity in ((512, 512), (65536, 8192)):
        forget(tests, cluster, granularity)


def forget(tests, cluster, granularity):
    size = 9 * MIB
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "f.qcow2", size)
    run(tests.vdisk, "bitmap", "--add", "-g", granularity, "f.qcow2", "b")
    patch("f.qcow2", 88, bytes(8))
    facts = listed(tests, "f.qcow2")
    if not (facts["b"]["hidden"] and facts["b"]["inconsistent"] and facts["b"]["recoverable"]):
        raise Fault(str(facts))
    if bitmaps_of_info(tests, "f.qcow2"):
        raise Fault("vdisk info lists bitmaps that are hidden")
    run(tests.vdisk, "io", "-f", "qcow2", "-c", "write 1M 64k", "f.qcow2")
    run(tests.vdisk, "bitmap", "--recover", "f.qcow2", "b")
    model = Model(size, granularity)
    model.mark(0, size)
    judge(tests, "f.qcow2", {"b": (model, True)})
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", "f.qcow2")
    judge(tests, "f.qcow2", {"b": (model, True)})
    run(tests.vdisk, "check", "-r", "leaks", "f.qcow2")
    check(tests, "f.qcow2")


def odd_images(tests):
    """Drafts, missing extensions, broken directories: told, and the disk can be read."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "o.qcow2", "8M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 3 1M 64k", "o.qcow2")
    run("qemu-img", "bitmap", "--add", "o.qcow2", "b")
    at = extension_at("o.qcow2")
    with open("o.qcow2", "rb") as file:
        whole = file.read()
    count, _, length, directory = struct.unpack(">IIQQ", whole[at:at + 24])

    def image(name, offset, data):
        shutil.copy("o.qcow2", name)
        patch(name, offset, data)
        return name

    def refused(name, words):
        """The disk reads, the bitmaps do not, and nothing is written behind their back."""
        run(tests.vdisk, "io", "-r", "-f", "qcow2", "-c", "read -P 3 1M 64k", name)
        for verb in (["bitmap", "--list", name], ["bitmap", "--add", name, "c"],
                     ["io", "-f", "qcow2", "-c", "write 0 512", name]):
            said = run(tests.vdisk, *verb, code=1)
            if words not in said:
                raise Fault(f"{name}: {verb}: {said}")

    draft = struct.pack(">IIIIQ", 0x23852875, 16, count, length, directory) + bytes(8)
    refused(image("draft.qcow2", at - 8, draft), "draft")
    entry = directory
    for name, offset, data, words in (
            ("flags.qcow2", entry + 12, struct.pack(">I", 6), "unknown flags"),
            ("type.qcow2", entry + 16, b"\2", "type 2"),
            ("granularity.qcow2", entry + 17, b"\x20", "granularity"),
            ("name.qcow2", entry + 18, b"\x04\x00", "name"),
            ("extra.qcow2", entry + 20, struct.pack(">I", 8), "extra data"),
            ("table.qcow2", entry, struct.pack(">Q", 0x1234), "no cluster begins"),
            ("entries.qcow2", entry + 8, struct.pack(">I", 0), "0 entries"),
            ("many.qcow2", entry + 8, struct.pack(">I", 0x8000000), "entries")):
        refused(image(name, offset, data), words)
    # The table is where the L1 table is: it would be written over, or released.
    l1 = struct.unpack(">Q", whole[40:48])[0]
    name = image("overlap.qcow2", entry, struct.pack(">Q", l1))
    for verb in (["bitmap", "--clear", name, "b"], ["io", "-f", "qcow2", "-c", "write 0 512", name]):
        said = run(tests.vdisk, *verb, code=1)
        if "L1" not in said and "corrupt" not in said:
            raise Fault(said)
    run(tests.vdisk, "io", "-r", "-f", "qcow2", "-c", "read -P 3 1M 64k", name)
    # A bit that says there are bitmaps, and none: the next writer mends it.
    run("qemu-img", "create", "-q", "-f", "qcow2", "bit.qcow2", "8M")
    patch("bit.qcow2", 88, struct.pack(">Q", 1))
    run(tests.vdisk, "io", "-f", "qcow2", "-c", "write 0 64k", "bit.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", "bit.qcow2")
    check(tests, "bit.qcow2")


def refusals(tests):
    """What qemu-img refuses, with a reason."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "v2.qcow2", "8M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "v3.qcow2", "8M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "none.qcow2", "0")
    run("qemu-img", "create", "-q", "-f", "qcow2", "big.qcow2", "3T")
    run("qemu-img", "create", "-q", "-f", "raw", "plain.raw", "8M")
    run(tests.vdisk, "bitmap", "--add", "v3.qcow2", "there")
    for words, reason in (
            (["--add", "v2.qcow2", "b"], "version 2"),
            (["--add", "v3.qcow2", "there"], "already"),
            (["--add", "v3.qcow2", ""], "0 bytes"),
            (["--add", "v3.qcow2", "n" * 1024], "1024 bytes"),
            (["--add", "-g", "1000", "v3.qcow2", "b"], "power of two"),
            (["--add", "-g", "256", "v3.qcow2", "b"], "power of two"),
            (["--add", "-g", "4G", "v3.qcow2", "b"], "power of two"),
            (["--add", "none.qcow2", "b"], "0 bytes"),
            (["--add", "-g", "512", "big.qcow2", "b"], "at most"),
            (["--remove", "v3.qcow2", "gone"], "no bitmap 'gone'"),
            (["--merge", "gone", "v3.qcow2", "there"], "no bitmap 'gone'"),
            (["--recover", "v3.qcow2", "there"], "consistent"),
            (["-f", "raw", "--add", "plain.raw", "b"], "no dirty bitmaps")):
        said = run(tests.vdisk, "bitmap", *words, code=1)
        if reason not in said:
            raise Fault(f"{words}: {said}")
    judge(tests, "v3.qcow2", {"there": (Model(8 * MIB, 65536), True)})


def full_disk(tests):
    """A full file system shows in the write that makes bits dirty, and loses no bitmap."""
    if os.geteuid() != 0:
        print("# not root: no file system of a given size can be mounted")
        return
    with open("fs.img", "wb") as file:
        file.truncate(24 * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-F", "fs.img")
    os.mkdir("mnt")
    run("mount", "-o", "loop", "fs.img", "mnt")
    try:
        image = "mnt/full.qcow2"
        size = 1 << 40
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", image, size)
        run(tests.vdisk, "bitmap", "--add", "-g", "4096", image, "b")
        words = []
        for number in range(400):
            words += ["-c", f"write -P 1 {number * 2}G 64k"]
        said = subprocess.run([tests.vdisk, "io", "-f", "qcow2", *words, image], check=False,
                              capture_output=True, text=True)
        if "No space left" not in said.stdout + said.stderr:
            raise Fault(f"it never got full: {said.stdout[-500:]}{said.stderr[-500:]}")
        facts = listed(tests, image)
        if facts["b"]["inconsistent"]:
            raise Fault(f"the bitmap is lost: {said.stderr[-500:]}")
        written = said.stdout.count("wrote 65536/65536")
        if facts["b"]["dirty-bytes"] < written * 65536:
            raise Fault(f"{written} writes, {facts}")
        print(f"# {written} writes until it was full")
        run(tests.vdisk, "check", image)
    finally:
        for _ in range(20):
            if subprocess.run(["umount", "mnt"], check=False).returncode == 0:
                break
            time.sleep(0.2)


def main():
    tests = Tests(os.path.abspath(sys.argv[1]))
    tests.seed = int(os.environ.get("VD_TEST_SEED", "20261121"))
    print(f"# seed {tests.seed}")
    directory = tempfile.mkdtemp(dir=os.environ.get("TMPDIR", "/tmp"))
    os.chdir(directory)
    try:
        for function in (alternate, granularities, changes, merge_from_file, resizes, crashes,
                         converts, chains, forgotten, odd_images, refusals, full_disk):
            tests.try_one(function.__doc__.split("\n", maxsplit=1)[0].rstrip("."), function)
    finally:
        os.chdir("/")
        shutil.rmtree(directory)
    print(f"1..{tests.count}")
    return 1 if tests.failed else 0


if __name__ == "__main__":
    sys.exit(main())
