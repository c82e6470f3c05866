#!/bin/bash
# SPDX-License-Identifier: MIT
# Progress: the bytes that scripts read, the bar, JSON lines; and signals.
#
#   tests/cli/test-progress.sh VDISK
# shellcheck disable=SC2016 # inner shells expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

vdisk create -q -f raw a 16M
vdisk io -f raw -c 'write -q -P 1 0 16M' a

want 0 'progress' vdisk convert -p -r 16M -f raw a b
check 'every byte of it is as qemu-img prints' python3 - "$work/out" << 'SCRIPT'
import re, sys
text = open(sys.argv[1], "rb").read()
assert re.fullmatch(rb"(    \(\d+\.\d\d/100%\)\r)+\n", text), text
steps = [float(step) for step in re.findall(rb"([\d.]+)/100%", text)]
assert steps[0] == 0 and steps[-1] == 100 and steps.count(100) == 1, steps
assert all(b - a >= 1 for a, b in zip(steps, steps[1:-1])) and len(steps) > 3, steps
SCRIPT
want 0 'quiet wins' vdisk dd -q -p -f raw if=a of=b
out_is ''
want 0 'quiet wins in any order' vdisk dd -p -q -f raw if=a of=b
out_is ''
want 0 'JSON keeps its output to itself' vdisk dd -p --output=json -f raw if=a of=b
out_json 'd["bytes"] == 16 << 20'
err_has '/100%'
want 0 'an empty disk' bash -c '"$0" create -q zero 0 && "$0" dd -p -f raw if=zero of=b' "$C"
check 'has progress too' cmp "$work/out" <(printf '    (0.00/100%%)\r    (100.00/100%%)\r\n')

want 0 'JSON lines' bash -c '"$0" dd --progress=7 -f raw if=a of=b 7> lines' "$C"
out_is ''
check 'are JSON, from begin to done' python3 - << 'SCRIPT'
import json
lines = [json.loads(line) for line in open("lines")]
assert lines[0]["state"] == "begin" and lines[-1]["state"] == "done", lines
assert lines[-1]["percent"] == 100 and lines[-1]["done-bytes"] == 16 << 20, lines
keys = ["state", "phase", "percent", "done-bytes", "total-bytes", "moved-bytes", "done-blocks",
        "total-blocks", "rate", "seconds"]
assert all(list(line) == keys for line in lines), lines
SCRIPT
want 0 'a descriptor that is not open' vdisk dd --progress=77 -f raw if=a of=b
err_has '^vdisk: warning: --progress=77: Bad file descriptor$'
want 1 'no descriptor' vdisk dd --progress=x -f raw if=a of=b
err_has "^vdisk: dd: --progress: 'x' is not a whole number from 0 to 2147483647$"

check 'a bar on a terminal' python3 - "$C" << 'SCRIPT'
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], "dd", "-p", "-f", "raw", "if=a", "of=b"])
text = b""
while True:
    try:
        part = os.read(fd, 4096)
    except OSError:
        break
    if not part:
        break
    text += part
assert os.waitpid(pid, 0)[1] == 0
assert b"\rcopy [" in text and b"100.0 %" in text and b"16 MiB/16 MiB" in text, text
SCRIPT

# A pipe that nobody reads from holds the command up in the middle of its work: with descriptor 7
# on it, the command waits there for as long as the test wants.
held_up() {
    python3 - "$C" "$@" << 'SCRIPT'
import fcntl, os, signal, subprocess, sys, time
command, number, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
read_end, write_end = os.pipe()
fcntl.fcntl(write_end, 1031, 4096)  # F_SETPIPE_SZ: one page
os.write(write_end, b"\n" * 4000)   # the next lines do not fit
os.set_inheritable(write_end, True)
if os.path.exists("out"):
    os.unlink("out")
process = subprocess.Popen(
    [command, "dd", f"--progress={write_end}", "-f", "raw", "if=a", "of=out"],
    close_fds=False, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
deadline = time.monotonic() + 60
# Blocked in write(): the pipe is what it waits for.
while time.monotonic() < deadline:
    with open(f"/proc/{process.pid}/wchan") as file:
        if "pipe" in file.read():
            break
    time.sleep(0.01)
process.send_signal(getattr(signal, number))
# Nothing pending: the signal has been taken, and is being acted upon.
while time.monotonic() < deadline:
    with open(f"/proc/{process.pid}/status") as file:
        if "ShdPnd:\t0000000000000000\n" in file.read():
            break
    time.sleep(0.01)
time.sleep(0.2)
os.close(write_end)
with os.fdopen(read_end, "rb") as file:
    file.read()
_, err = process.communicate(timeout=60)
status = process.returncode
assert status == wanted, (status, err)
assert os.path.exists("out") == (wanted == 0), "what was half made must go"
if wanted != 0:
    assert b"canceled" in err, err
    assert not [name for name in os.listdir(".") if name.endswith(".part")], os.listdir(".")
SCRIPT
}
check 'SIGINT cancels' held_up SIGINT 130
check 'SIGTERM cancels' held_up SIGTERM 143

# SIGUSR1 asks how far it is: sent while a rate keeps the command at work for two seconds.
check 'SIGUSR1 prints a line on stderr' python3 - "$C" << 'SCRIPT'
import re, signal, subprocess, sys, time
process = subprocess.Popen([sys.argv[1], "convert", "-f", "raw", "-r", "8M", "a", "out2"],
                           stderr=subprocess.PIPE)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    with open(f"/proc/{process.pid}/status") as file:
        blocked = re.search(r"^SigBlk:\t([0-9a-f]+)$", file.read(), re.MULTILINE)
    if int(blocked.group(1), 16) & 1 << (signal.SIGUSR1 - 1):
        break  # before that, the signal would end the command
    time.sleep(0.01)
while process.poll() is None and time.monotonic() < deadline:
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
err = process.stderr.read()
assert process.wait() == 0, err
assert re.fullmatch(rb"(    \(\d+\.\d\d/100%\)\n)+", err), err
SCRIPT

finish
