#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""NBD servers side by side: vdisk serve, qemu-nbd, nbdkit; prints the rows of a Markdown table.

    bench/nbd.py VDISK WORK MIB ROUNDS SECONDS

Each case is measured in turns, a server started for each turn, after one turn that is not counted.
All clients are the same: nbdcopy, and fio with libnbd.  The ratio is that of the time of one
request, or copy, to that of the faster peer: below 1.00 vdisk is the faster one.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

VDISK, WORK, MIB, ROUNDS, SECONDS = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
TICKS = os.sysconf("SC_CLK_TCK")
CPUS = len(os.sched_getaffinity(0))
BLOCK = 4096


def serve_command(server, socket, image, fmt):
    """How a server is started; all of them keep on when a client has left."""
    if server == "vdisk":
        return [VDISK, "serve", "-q", "-t", "-e", "0", "-k", socket, "-f", fmt, image]
    if server == "qemu-nbd":
        # The names of the formats are the same; --shared=0 is "any number" only in newer ones.
        return ["qemu-nbd", "-t", "-e", "16", "--cache=writeback", "-k", socket, "-f", fmt, image]
    return ["nbdkit", "-f", "-U", socket, "file", image]


class Server:
    """A server that runs, and the CPU time that it takes."""

    def __init__(self, server, image, fmt):
        self.directory = tempfile.mkdtemp(prefix="vdisk-bench-nbd.")
        socket = os.path.join(self.directory, "socket")
        self.uri = "nbd+unix:///?socket=" + socket
        self.process = subprocess.Popen(serve_command(server, socket, image, fmt))
        deadline = time.monotonic() + 30
        while subprocess.run(["nbdinfo", "--size", self.uri], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                sys.exit(f"bench: {server} does not serve {image}")
            time.sleep(0.02)

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory)


def run_copy(uri, way, source):
    """Seconds that a copy of all takes; bytes."""
    ends = [uri, "null:"] if way == "read" else [source, uri]
    begun = time.monotonic()
    subprocess.run(["nbdcopy", *ends], check=True)
    return time.monotonic() - begun, MIB << 20


def run_fio(uri, way, depth, jobs):
    """Seconds that a request takes, all of them side by side; bytes."""
    with tempfile.NamedTemporaryFile(dir=WORK) as output:
        subprocess.run(
            ["fio", "--name=bench", "--ioengine=nbd", "--uri=" + uri, "--rw=rand" + way,
             f"--bs={BLOCK}", f"--iodepth={depth}", f"--numjobs={jobs}", f"--size={MIB}m",
             "--norandommap", "--time_based", f"--runtime={SECONDS}", "--group_reporting",
             "--output-format=json", "--output=" + output.name],
            stdout=subprocess.DEVNULL, check=True)
        with open(output.name, encoding="utf-8") as results:
            job = json.load(results)["jobs"][0][way]
    return job["runtime"] / 1000 / job["total_ios"], job["total_ios"] * BLOCK


def turn(server, image, fmt, run):
    """(seconds of a request or copy, CPU seconds of the server for each GiB, its share of a CPU)"""
    with open(image, "rb") as warm:
        while warm.read(1 << 20):
            pass
    running = Server(server, image, fmt)
    try:
        before, begun = running.cpu(), time.monotonic()
        seconds, moved = run(running.uri)
        used, passed = running.cpu() - before, time.monotonic() - begun
    finally:
        running.stop()
    return seconds, used / (moved / 2**30), used / passed


def shown(seconds):
    """As a rate: requests in a second, or a copy's GiB."""
    return f"{1 / seconds:,.0f}/s" if seconds < 0.01 else f"{MIB / 1024 / seconds:.2f} GiB/s"


def measure(name, run, subjects):
    """A row; @subjects: server, image, format; vdisk first."""
    print("bench:", name, file=sys.stderr)
    results = [[] for _ in subjects]
    for count in range(ROUNDS + 1):
        for which, subject in enumerate(subjects):
            result = turn(*subject, run)
            if count:
                results[which].append(result)
    medians = [[statistics.median(values) for values in zip(*result)] for result in results]
    ratio = medians[0][0] / min(median[0] for median in medians[1:])
    cells = []
    for median in medians + [None] * (3 - len(medians)):
        cells.append("" if median is None else
                     f"{shown(median[0])}, {median[1]:.2f} s/GiB, {median[2] / CPUS:.0%} busy")
    print(f"| {name} | {ratio:.2f} | {' | '.join(cells)} |", flush=True)


def fill(path):
    with open(path, "wb") as raw:
        for _ in range(MIB):
            raw.write(os.urandom(1 << 20))


def convert(raw, fmt, path):
    if fmt == "qcow2":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, raw, path], check=True)
    else:
        subprocess.run([VDISK, "convert", "-q", "-f", "raw", "-O", fmt, raw, path], check=True)


def compare(subjects, raw):
    """Speed counts for nothing if the bytes are wrong: after all copies of @raw have been made."""
    for _, image, fmt in subjects:
        subprocess.run([VDISK, "compare", "-q", "-f", "raw", "-F", fmt, raw, image], check=True)


def measure_format(fmt, place, label, subjects, fio_cases):
    """Copies and requests of one format."""
    raw = os.path.join(WORK, "nbd-source.raw")
    if place == WORK:
        for way in ("read", "write"):
            measure(f"{label}, copy, {way}", lambda uri, way=way: run_copy(uri, way, raw), subjects)
        compare(subjects, raw)
    for way in ("read", "write"):
        for depth, jobs in fio_cases:
            plural = "s" if jobs > 1 else ""
            measure(f"{label}, random 4 KiB, {way}, depth {depth}, {jobs} connection{plural}",
                    lambda uri, way=way, depth=depth, jobs=jobs: run_fio(uri, way, depth, jobs),
                    subjects)


def main():
    source = os.path.join(WORK, "nbd-source.raw")
    fill(source)
    raw = [os.path.join(WORK, name) for name in ("nbd-0.raw", "nbd-1.raw", "nbd-2.raw")]
    for path in raw:
        shutil.copyfile(source, path)
    measure_format("raw", WORK, "raw",
                   [("vdisk", raw[0], "raw"), ("qemu-nbd", raw[1], "raw"),
                    ("nbdkit", raw[2], "raw")],
                   [(depth, jobs) for depth in (1, 16, 64) for jobs in (1, 4)])
    for path in raw:
        os.unlink(path)
    # What a file system adds to a write of 4 KiB is the same for all: here it adds next to nothing.
    if os.path.isdir("/dev/shm"):
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="vdisk-bench.") as memory:
            path = os.path.join(memory, "nbd.raw")
            shutil.copyfile(source, path)
            measure_format("raw", memory, "raw in memory (tmpfs)",
                           [(server, path, "raw") for server in ("vdisk", "qemu-nbd", "nbdkit")],
                           [(16, 1), (64, 4)])
    peer = os.path.join(WORK, "nbd-peer.qcow2")
    for fmt in ("qcow2", "gow3", "qed"):
        image = os.path.join(WORK, "nbd-image." + fmt)
        convert(source, fmt, image)
        convert(source, "qcow2", peer)
        label = "qcow2" if fmt == "qcow2" else fmt + " (qcow2)"
        measure_format(fmt, WORK, label, [("vdisk", image, fmt), ("qemu-nbd", peer, "qcow2")],
                       [(1, 1), (16, 1), (64, 4)])
        os.unlink(image)
        os.unlink(peer)
    os.unlink(source)


main()
