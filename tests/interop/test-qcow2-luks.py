#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Encrypted qcow2 images that QEMU and vdisk make, write and read in turn.

    tests/interop/test-qcow2-luks.py VDISK

Images of several ciphers, made by either tool; each is written to by both, in random order and at
any offset, and both have to read what the model says and find nothing wrong.  Then facts, key
slots, wrong passphrases, and what is refused.

VD_TEST_SEED is the seed; VD_LUKS_STEPS (12) the writes to each image; VD_LUKS_FULL=1 tries every
cipher with images by QEMU too, which measures seconds for each.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

VDISK = os.path.abspath(sys.argv[1])
STEPS = int(os.environ.get("VD_LUKS_STEPS", "12"))
FULL = os.environ.get("VD_LUKS_FULL", "") == "1"
SEED = int(os.environ.get("VD_TEST_SEED", str(time.time_ns() % (1 << 32))))
SIZE = (3 << 20) + 512
SECRET = "correct horse"
OTHER = "battery staple"

# cipher-alg, cipher-mode, ivgen-alg, hash-alg
USUAL = ("aes-256", "xts", "plain64", "sha256")
CIPHERS = [
    USUAL,
    ("aes-128", "cbc", "essiv", "sha256"),
    ("serpent-256", "xts", "plain64", "sha512"),
    ("aes-256", "cbc", "plain", "sha1"),
    ("twofish-256", "xts", "plain64", "ripemd160"),
    ("cast5-128", "cbc", "plain64", "sha256"),
    ("twofish-128", "cbc", "plain64", "sha384"),
    ("aes-256", "ecb", "plain64", "sha224"),
    ("aes-128", "ctr", "plain64", "sha256"),
]
LAYOUTS = [[], ["cluster_size=4096"], ["cluster_size=2M"], ["extended_l2=on"], ["compat=0.10"],
           ["cluster_size=512"], ["data_file=DATA"], ["lazy_refcounts=on"]]


class Fault(Exception):
    """Something is not as it has to be."""


def run(*words, status=0):
    """Runs a command; its output.  Whatever it prints must not have a passphrase in it."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, timeout=300)
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != status:
        raise Fault(f"{' '.join(words)}: status {done.returncode}, not {status}: {text}")
    if SECRET in text or OTHER in text:
        raise Fault(f"{' '.join(words)}: shows a passphrase: {text}")
    return text


class Qemu:
    """qemu-img and qemu-io."""
    name = "qemu"

    @staticmethod
    def words(key):
        return ["--object", f"secret,id=s,file={key}"]

    @staticmethod
    def image(path, chain=()):
        opts = f"driver=qcow2,file.filename={path},encrypt.key-secret=s"
        for depth, is_encrypted in enumerate(chain, 1):
            if is_encrypted:
                opts += "," + "backing." * depth + "encrypt.key-secret=s"
        return ["--image-opts", opts]

    def create(self, path, cipher, layout, key, size):
        options = layout + [f"encrypt.{name}={value}" for name, value in
                            zip(("cipher-alg", "cipher-mode", "ivgen-alg", "hash-alg"), cipher)]
        options += ["encrypt.format=luks", "encrypt.key-secret=s", "encrypt.iter-time=10"]
        if cipher[2] == "essiv":
            options.append("encrypt.ivgen-hash-alg=sha256")
        for _ in range(40):  # it can not always measure how fast it is
            try:
                return run("qemu-img", "create", "-q", "-f", "qcow2", *self.words(key), "-o",
                           ",".join(options), path, str(size))
            except Fault as fault:
                if "accurate CPU usage" not in str(fault):
                    raise
        raise Fault(f"qemu-img could not make {path}")

    def write(self, path, key, commands, chain=()):
        words = [word for command in commands for word in ("-c", command)]
        text = run("qemu-io", *self.words(key), *self.image(path, chain), *words)
        if "failed" in text or "rror" in text:
            raise Fault(f"qemu-io {commands}: {text}")

    def read(self, path, key, target, chain=()):
        run("qemu-img", "convert", *self.words(key), *self.image(path, chain), "-O", "raw", target)

    def check(self, path, key, chain=()):
        run("qemu-img", "check", "-q", *self.words(key), *self.image(path, chain))


class Ours:
    """vdisk."""
    name = "vdisk"

    def create(self, path, cipher, layout, key, size):
        options = layout + [f"encrypt.{name}={value}" for name, value in
                            zip(("cipher-alg", "cipher-mode", "ivgen-alg", "hash-alg"), cipher)]
        options += ["encrypt.format=luks", "encrypt.key-secret=s", "encrypt.iter-time=10"]
        return run(VDISK, "create", "-q", "-f", "qcow2", *Qemu.words(key), "-o",
                   ",".join(options), path, str(size))

    def write(self, path, key, commands, chain=()):
        del chain
        words = [word for command in commands for word in ("-c", command)]
        run(VDISK, "io", "-f", "qcow2", *Qemu.words(key), *words, path)

    def read(self, path, key, target, chain=()):
        del chain
        run(VDISK, "convert", "-f", "qcow2", *Qemu.words(key), "-O", "raw", path, target)

    def check(self, path, key, chain=()):
        del key, chain
        run(VDISK, "check", "-q", "-f", "qcow2", path)


QEMU, OURS = Qemu(), Ours()
TOOLS = [QEMU, OURS]


def some_writes(rng, model, count):
    """Random commands, done to the model as well; any offset, not only whole sectors."""
    commands = []
    for _ in range(count):
        unit = rng.choice((1, 1, 512, 4096))
        length = max(unit, rng.choice((100, 700, 5000, 70000, 300000)) // unit * unit)
        offset = rng.randrange(0, (len(model) - length) // unit + 1) * unit
        if rng.random() < 0.25:
            commands.append(f"write -z {offset} {length}")
            model[offset:offset + length] = bytes(length)
        else:
            byte = rng.randint(1, 255)
            commands.append(f"write -P {byte} {offset} {length}")
            model[offset:offset + length] = bytes([byte]) * length
    return commands


def judge(path, key, model, what, chain=()):
    for tool in TOOLS:
        tool.read(path, key, "read.raw", chain)
        with open("read.raw", "rb") as file:
            found = file.read()
        if found != model:
            at = next(i for i, (a, b) in enumerate(zip(found, model)) if a != b) \
                if len(found) == len(model) else -1
            raise Fault(f"{what}: {tool.name} reads something else at {at}")
        tool.check(path, key, chain)


def take_turns(rng, path, key, model, what, chain=()):
    for _ in range(STEPS // 3):
        tool = rng.choice(TOOLS)
        commands = some_writes(rng, model, 3)
        tool.write(path, key, commands, chain)
    judge(path, key, model, what, chain)


def layout_of(layout, path):
    return [word.replace("DATA", f"{path}.data") for word in layout]


def ciphertext_only(path, model):
    """No block of the disk's repeated bytes lies in the file as it is."""
    with open(path, "rb") as file:
        content = file.read()
    for byte in set(model):
        if byte and bytes([byte]) * 512 in content:
            raise Fault(f"{path}: plain data is in it")


def test_images(rng, tool, cipher, layout):
    path = "image"
    tool.create(path, cipher, layout_of(layout, path), "key", SIZE)
    model = bytearray(SIZE)
    what = f"{tool.name} {'-'.join(cipher)} {layout}"
    judge(path, "key", model, what + ": new")
    take_turns(rng, path, "key", model, what)
    if cipher[1] != "ecb":
        ciphertext_only(f"{path}.data" if layout == ["data_file=DATA"] else path, model)
    if "compat=0.10" in layout or "data_file=DATA" in layout:
        return
    before = bytes(model)
    run(VDISK, "snapshot", "-q", "-c", "then", path)
    take_turns(rng, path, "key", model, what + ": after a snapshot")
    run(VDISK, "snapshot", "-q", "-a", "then", path)
    model[:] = before
    judge(path, "key", model, what + ": back at the snapshot")


def test_aes(rng):
    run("qemu-img", "create", "-q", "-f", "qcow2", *Qemu.words("key"), "-o",
        "encrypt.format=aes,encrypt.key-secret=s", "image", str(SIZE))
    model = bytearray(SIZE)
    take_turns(rng, "image", "key", model, "aes")
    info = json.loads(run(VDISK, "info", "--output=json", "image"))
    if info["format-specific"]["data"]["encrypt"] != {"format": "aes"}:
        raise Fault(f"aes: info: {info}")
    run(VDISK, "convert", "--passphrase-file", "key", "--passphrase-file", "other", "-O", "raw",
        "image", "x.raw", status=1)


def test_backing(rng, base_is_encrypted):
    base = bytearray(SIZE)
    if base_is_encrypted:
        OURS.create("base", USUAL, [], "key", SIZE)
        take_turns(rng, "base", "key", base, "base")
    else:
        run(VDISK, "create", "-q", "-f", "qcow2", "base", str(SIZE))
        commands = some_writes(rng, base, 9)
        run(VDISK, "io", "-f", "qcow2", *[w for c in commands for w in ("-c", c)], "base")
    OURS.create("top", USUAL, ["backing_file=base", "backing_fmt=qcow2"], "key", SIZE)
    model = bytearray(base)
    chain = (base_is_encrypted,)
    judge("top", "key", model, "overlay: new", chain)
    take_turns(rng, "top", "key", model, "overlay", chain)
    run(VDISK, "commit", "-q", "-f", "qcow2", *Qemu.words("key"), "top")
    judge("top", "key", model, "overlay: committed", chain)
    OURS.read("base", "key", "base.raw")
    with open("base.raw", "rb") as file:
        if file.read() != model:
            raise Fault("the base is not what was committed")


def test_facts():
    for cipher in (USUAL, CIPHERS[1]):
        OURS.create("image", cipher, [], "key", SIZE)
        ours = json.loads(run(VDISK, "info", "--output=json", "image"))
        theirs = json.loads(run("qemu-img", "info", "--output=json", "image"))
        if not ours["encrypted"] or not theirs["encrypted"]:
            raise Fault("info: not encrypted")
        a = ours["format-specific"]["data"]["encrypt"]
        b = theirs["format-specific"]["data"]["encrypt"]
        if a != b:
            raise Fault(f"info: {a} is not {b}")
        words = run(VDISK, "info", "image")
        if "encrypted: yes" not in words or "cipher alg: " + cipher[0] not in words:
            raise Fault(f"info: {words}")
        os.remove("image")


def test_key_slots(rng):
    model = bytearray(SIZE)
    OURS.create("image", USUAL, [], "key", SIZE)
    take_turns(rng, "image", "key", model, "before")
    words = ["amend", "-q", "-f", "qcow2", *Qemu.words("key"), "--object",
             "secret,id=new,file=other"]
    run(VDISK, *words, "-o",
        "encrypt.state=active,encrypt.new-secret=new,encrypt.iter-time=10", "image")
    judge("image", "other", model, "a key slot by us")
    judge("image", "key", model, "the first key slot")
    run("qemu-img", "amend", "-q", *Qemu.words("other"), *Qemu.image("image"), "-o",
        "encrypt.state=inactive,encrypt.keyslot=0")
    judge("image", "other", model, "QEMU erased the first")
    run(VDISK, "convert", *Qemu.words("key"), "-O", "raw", "image", "x.raw", status=1)
    text = run(VDISK, "amend", "-o", "encrypt.state=inactive,encrypt.keyslot=1", "image", status=1)
    if "no active key slot would be left" not in text:
        raise Fault(text)
    run(VDISK, *words, "-o", "encrypt.state=active,encrypt.new-secret=s,encrypt.old-secret=new,"
        "encrypt.keyslot=7,encrypt.iter-time=10", "image")
    run(VDISK, *words, "-o", "encrypt.state=inactive,encrypt.old-secret=new", "image")
    judge("image", "key", model, "slot 7 alone")
    run("qemu-io", *Qemu.words("other"), *Qemu.image("image"), "-c", "read 0 512", status=1)
    run(VDISK, "amend", "--force", "-o", "encrypt.state=inactive,encrypt.keyslot=7", "image")
    run(VDISK, "convert", *Qemu.words("key"), "-O", "raw", "image", "x.raw", status=1)


def test_refused():
    OURS.create("image", USUAL, [], "key", SIZE)
    text = run(VDISK, "convert", "--passphrase-file", "other", "-O", "raw", "image", "x.raw",
               status=1)
    if "wrong passphrase" not in text:
        raise Fault(text)
    OURS.write("image", "key", ["write -P 5 0 64k"])
    text = run(VDISK, "convert", "-O", "raw", "image", "x.raw", status=1)
    if "passphrase" not in text:
        raise Fault(text)
    text = run(VDISK, "io", "-f", "qcow2", "-c", "write -P 1 0 512", "image", status=1)
    if "passphrase" not in text:
        raise Fault(text)
    run(VDISK, "check", "-q", "image")
    run(VDISK, "convert", "-c", "-O", "qcow2", *Qemu.words("key"), "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "image", "y", status=1)
    run(VDISK, "create", "-f", "qcow2", *Qemu.words("key"), "-o",
        "encrypt.format=aes,encrypt.key-secret=s", "z", "1M", status=1)
    run(VDISK, "create", "-f", "qcow2", "-o", "encrypt.format=luks", "z", "1M", status=1)
    if os.path.exists("z") or os.path.exists("y"):
        raise Fault("something was made")


def test_compressed(rng):
    """QEMU writes compressed clusters into an encrypted image as they are."""
    OURS.create("image", USUAL, [], "key", SIZE)
    model = bytearray(SIZE)
    QEMU.write("image", "key", ["write -c -P 77 0 64k"])
    model[:65536] = bytes([77]) * 65536
    judge("image", "key", model, "compressed")
    take_turns(rng, "image", "key", model, "compressed, written to")


def test_external():
    """An overlay on an encrypted image is not left plain by accident."""
    OURS.create("image", USUAL, [], "key", SIZE)
    OURS.write("image", "key", ["write -P 9 1M 300k"])
    text = run(VDISK, "snapshot", "--external=old", "image", status=1)
    if "the overlay would not be" not in text or os.path.exists("old"):
        raise Fault(text)
    run(VDISK, "snapshot", "--external=old", "-O", "qcow2", *Qemu.words("key"), "-o",
        "encrypt.format=luks,encrypt.iter-time=10", "image")
    model = bytearray(SIZE)
    model[1 << 20:(1 << 20) + 307200] = bytes([9]) * 307200
    OURS.write("image", "key", ["write -P 8 0 64k"])
    model[:65536] = bytes([8]) * 65536
    judge("image", "key", model, "overlay", (True,))
    ciphertext_only("image", model)


def test_repair():
    """Two clusters of the disk in one place, which can be counted once only: one has to move."""
    OURS.create("image", USUAL, ["refcount_bits=1"], "key", SIZE)
    OURS.write("image", "key", ["write -P 9 0 128k"])
    with open("image", "r+b") as file:
        file.seek(40)
        file.seek(int.from_bytes(file.read(8), "big"))
        table = int.from_bytes(file.read(8), "big") & 0x00fffffffffffe00
        file.seek(table)
        entry = file.read(8)
        file.seek(table + 8)
        file.write(entry)
    model = bytearray(SIZE)
    model[:131072] = bytes([9]) * 131072
    # The second one reads what the first has: noise, unless it is decrypted for where it is.
    text = run(VDISK, "check", "-r", "all", "image", status=1)
    if "give the passphrase" not in text:
        raise Fault(text)
    run(VDISK, "check", "-r", "all", "--passphrase-file", "key", "image")
    judge("image", "key", model, "repaired")


def test_convert():
    OURS.create("image", USUAL, [], "key", SIZE)
    OURS.write("image", "key", ["write -P 9 1M 300k"])
    OURS.read("image", "key", "raw")
    with open("raw", "rb") as file:
        model = bytearray(file.read())
    run(VDISK, "convert", *Qemu.words("key"), "--object", "secret,id=new,file=other", "-O",
        "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=new,encrypt.iter-time=10", "image",
        "copy")
    judge("copy", "other", model, "converted")
    run(VDISK, "compare", "--passphrase-file", "key", "--passphrase-file", "other", "image", "copy")
    run(VDISK, "resize", "-q", "--passphrase-file", "other", "copy", str(SIZE + (1 << 20)))
    model += bytes(1 << 20)
    judge("copy", "other", model, "resized")
    for mode in ("metadata", "falloc", "full"):
        OURS.create("full", USUAL, [f"preallocation={mode}"], "key", SIZE)
        judge("full", "key", bytearray(SIZE), f"preallocation={mode}")
        os.remove("full")


def main():
    for program in ("qemu-img", "qemu-io"):
        if not shutil.which(program):
            print(f"1..0 # SKIP no {program}")
            return 0
    rng = random.Random(SEED)
    print(f"# VD_TEST_SEED={SEED}")
    tests = []
    for i, cipher in enumerate(CIPHERS):
        layout = LAYOUTS[i % len(LAYOUTS)]
        tests.append((f"made by vdisk: {'-'.join(cipher)} {layout}",
                      lambda c=cipher, l=layout: test_images(rng, OURS, c, l)))
    for i, cipher in enumerate(CIPHERS if FULL else CIPHERS[:3]):
        layout = LAYOUTS[(i + 3) % len(LAYOUTS)]
        tests.append((f"made by QEMU: {'-'.join(cipher)} {layout}",
                      lambda c=cipher, l=layout: test_images(rng, QEMU, c, l)))
    tests += [
        ("the older method", lambda: test_aes(rng)),
        ("overlay on a plain image", lambda: test_backing(rng, False)),
        ("overlay on an encrypted image", lambda: test_backing(rng, True)),
        ("facts", test_facts),
        ("key slots", lambda: test_key_slots(rng)),
        ("refused", test_refused),
        ("external snapshot", test_external),
        ("repair", test_repair),
        ("compressed clusters", lambda: test_compressed(rng)),
        ("convert, compare, resize, preallocation", test_convert),
    ]
    failures = 0
    start = os.getcwd()
    for number, (name, test) in enumerate(tests, 1):
        with tempfile.TemporaryDirectory(prefix="vdisk-luks.") as folder:
            os.chdir(folder)
            for key, secret in (("key", SECRET), ("other", OTHER)):
                with open(key, "w", encoding="ascii") as file:
                    file.write(secret)
            try:
                test()
                print(f"ok {number} - {name}", flush=True)
            except (Fault, subprocess.TimeoutExpired) as fault:
                failures += 1
                print(f"not ok {number} - {name}")
                for line in str(fault).splitlines()[:20]:
                    print(f"# {line}", flush=True)
            os.chdir(start)
    print(f"1..{len(tests)}")
    return 1 if failures else 0


sys.exit(main())
