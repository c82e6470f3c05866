#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk serve: options, sockets of all kinds, exports, signals, the process.  What clients get of the
# disks is for tests/interop/test-serve-tools.py.
#
#   tests/cli/test-serve.sh VDISK
# shellcheck disable=SC2016 # inner shells and --run expand
# shellcheck source=lib.sh
. "$(dirname "$0")/lib.sh"

pid=
cleanup()
{
    [ -z "$pid" ] || kill -9 "$pid" 2> /dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# Starts a server, and waits until it has said where it is; URI is its first line then.
start()
{
    : > "$work/said"
    "$C" serve "$@" > "$work/said" 2> "$work/told" < /dev/null &
    pid=$!
    for _ in $(seq 600); do
        [ ! -s "$work/said" ] || break
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.05
    done
    URI=$(head -n 1 "$work/said")
}

# ends STATUS NAME: a test: the server ends by itself, or has been told to, with this status.
ends()
{
    local status=0
    for _ in $(seq 1200); do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.05
    done
    kill -9 "$pid" 2> /dev/null || true # it is never over: status 137
    wait "$pid" || status=$?
    pid=
    last=$2
    cp "$work/said" "$work/out"
    cp "$work/told" "$work/err"
    [ "$status" -eq "$1" ] || echo "# status $status, wanted $1"
    report "$((status != $1))" "$2: ends with status $1"
}

# Debian's module is there for Debian's Python only.
nbdsh()
{
    PATH=/usr/bin:$PATH command nbdsh "$@"
}

# shell URI PYTHON: with nbdsh, whose connection is `h`
shell()
{
    nbdsh -u "$1" -c "$2"
}

for program in nbdsh nbdinfo nbdcopy; do
    have $program || {
        echo "1..0 # SKIP no $program"
        exit 0
    }
done

# --- what is refused before anything is opened
vdisk create -q -f raw disk.raw 1M
vdisk create -q -f qcow2 disk.qcow2 1M
usage()
{
    local message=$1
    shift
    want 1 "serve $*" vdisk serve "$@"
    err_has "^vdisk: serve: $message"
}
usage 'too few arguments: FILE wanted$'
usage "-p: '65536' is not a whole number from 0 to 65535$" -p 65536 disk.raw
usage "-p: 'x' is not" -p x disk.raw
usage "-e: '-1' is not" -e -1 disk.raw
usage "--vsock: '0' is not" --vsock 0 disk.raw
usage "--workers: '0' is not a whole number from 1 to 1024$" --workers 0 disk.raw
usage "--workers: '1025' is not" --workers 1025 disk.raw
usage "--max-connections: '0' is not" --max-connections 0 disk.raw
usage "--max-per-address: '' is not" --max-per-address '' disk.raw
usage "--idle-timeout: '0' is not" --idle-timeout 0 disk.raw
usage "--negotiation-timeout: '86401' is not" --negotiation-timeout 86401 disk.raw
usage "--stall-timeout: '1s' is not" --stall-timeout 1s disk.raw
usage "--max-memory: '33M' is not from 34M to 1T$" --max-memory 33M disk.raw
usage "--cache: unknown cache mode 'fast': use one of" --cache=fast disk.raw
usage '-k: the argument is empty$' -k '' disk.raw
usage '-b: the argument is empty$' -b '' disk.raw
usage '--status: the argument is empty$' --status= disk.raw
usage '--tls-creds, --tls-psk: certificates or keys' --tls-creds . --tls-psk keys disk.raw
usage 'options of TLS need' --tls-required disk.raw
usage 'options of TLS need' --tls-optional disk.raw
usage 'options of TLS need' --tls-verify-peer disk.raw
usage 'options of TLS need' --tls-authz 'CN=*' disk.raw
usage 'options of TLS need' --tls-priority NORMAL disk.raw
usage '--tls-optional contradicts' --tls-psk keys --tls-required --tls-optional disk.raw
usage '--tls-verify-peer is about certificates' --tls-psk keys --tls-verify-peer disk.raw
usage '-x: given 2 times, for 1 FILE:' -x a -x b disk.raw
usage '-D: given 1 time, for 2 FILEs:' -D a disk.raw disk.qcow2
usage '--run waits for its command: not with --fork$' --run true --fork disk.raw
usage '--fd: the socket is there already' --fd 0 -k s disk.raw
usage '--fd: --run would not know' --fd 0 --run true disk.raw
usage '-U: sharing with a writer is for reading only: add -r$' -U disk.raw
usage '-B: a snapshot \(-l\) has no bitmaps$' -B b -l s disk.qcow2
usage '-c: devices of the kernel are not made here' -c /dev/nbd0 disk.raw
usage '-d: devices of the kernel are not made here' -d /dev/nbd0
usage "-L: 'nbdinfo --list URI'" -L
usage '-o: disks are served whole$' -o 512 disk.raw
usage "-s: make an overlay with 'vdisk create -b'" -s disk.raw
usage '--discard=ignore: what clients discard is always' --discard=ignore disk.raw
usage '--detect-zeroes=on: ' --detect-zeroes=on disk.raw
usage '--aio=native: requests run in threads$' --aio=native disk.raw
usage '--image-opts is not supported' --image-opts driver=raw

want 1 'an object of qemu-nbd' vdisk serve --object tls-creds-x509,id=t disk.raw
err_has "^vdisk: serve: --object: the kind that there is, is 'secret'$"
want 1 'a file that is not there' vdisk serve -k s nowhere
err_has '^vdisk: nowhere: .*No such file'
want 1 'a raw file to be written, that nobody called raw' vdisk serve -k s disk.raw
err_has '^vdisk: disk.raw: .*-f raw'
want 1 'one of several is not there' vdisk serve -k s -f raw disk.raw nowhere
err_has '^vdisk: nowhere: '
check 'nothing was left by those' test ! -e s

# --- from beginning to end: a client writes, leaves, and it is over
start -k s -f raw disk.raw
check 'it says where it is' test "$URI" = "nbd+unix:///?socket=$PWD/s"
check 'there is a socket' test -S s
check 'a client writes' shell "$URI" 'h.pwrite(b"\x11" * 65536, 4096); h.flush()'
ends 0 'when the last client has left'
err_is ''
check 'the socket is gone' test ! -e s
want 0 'what was written is there' vdisk io -f raw -c 'read -P 0x11 4k 64k' -c 'read -P 0 0 4k' disk.raw
out_has 'read 65536/65536 bytes'

# --- -t, and signals
for signal in TERM INT; do
    start -t -k s -f raw disk.raw
    check "a first client, then SIG$signal" shell "$URI" 'h.pwrite(b"\x12" * 512, 0)'
    check "a second client, then SIG$signal" shell "$URI" 'assert h.pread(512, 0) == b"\x12" * 512'
    kill -$signal "$pid"
    ends 0 "SIG$signal"
    check "the socket is gone after SIG$signal" test ! -e s
done
start -t -k s -f raw disk.raw
kill -HUP "$pid"
ends 0 'SIGHUP without TLS'
start -k s -f raw disk.raw
kill -TERM "$pid"
ends 0 'SIGTERM before any client'
start -t -k s -f raw disk.raw
check 'SIGTERM while a client is connected' shell "$URI" "
import os, signal
h.pwrite(b'\x13' * 512, 512)
os.kill($pid, signal.SIGTERM)
try:
    while True:
        h.pread(512, 512)
except nbd.Error:
    pass"
ends 0 'the client was disconnected'
want 0 'what it had written is there' vdisk io -f raw -c 'read -P 0x13 512 512' disk.raw

# --- who may do what
start -r -t -k s disk.raw
check 'raw without -f, for reading' nbdinfo --is read-only "$URI"
check 'clients can not write' shell "$URI" '
h.set_strict_mode(0)
try:
    h.pwrite(b"x" * 512, 0)
    assert False
except nbd.Error as error:
    assert error.errnum in (1, 30), error'
check 'several clients may read at once' nbdinfo --can multi-conn "$URI"
want 0 'so may other programs' vdisk info -f raw disk.raw
kill "$pid"
ends 0 'read-only'
start -t -k s -f raw disk.raw
check 'a client of one may not come twice' sh -c '! nbdinfo --can multi-conn "$0"' "$URI"
check 'one client at a time' shell "$URI" "
import subprocess
assert subprocess.run(['nbdinfo', '--size', '$URI'], stderr=subprocess.DEVNULL).returncode != 0
assert h.get_size() == 1 << 20"
for _ in 1 2 3 4 5 6 7 8; do
    nbdinfo --size "$URI" || echo failed
done > "$work/log"
check 'one after the other' test "$(sort -u "$work/log")" = 1048576
want 1 'nobody else may write' vdisk io -f raw -c 'write 0 512' disk.raw
err_has 'disk.raw: .*lock'
kill "$pid"
ends 0 'for one client'
start -t -e 0 -k s -f raw disk.raw
check 'any number of clients' nbdinfo --can multi-conn "$URI"
kill "$pid"
ends 0 'for any number of clients'
start -t -e 2 -k s -f raw disk.raw
check 'two of two clients, and no third' shell "$URI" "
second = nbd.NBD()
second.connect_uri('$URI')
third = nbd.NBD()
try:
    third.connect_uri('$URI')
    assert False
except nbd.Error:
    pass
second.pwrite(b'2' * 512, 0)
assert h.pread(512, 0) == b'2' * 512"
kill "$pid"
ends 0 'for two clients'

# --- several exports
mkdir folder
vdisk create -q -f qed folder/other.qed 2M
start -t -k s -r disk.qcow2 folder/other.qed -D 'the first' -D 'the second'
check 'a URI for each' test "$(cat "$work/said")" = "nbd+unix:///disk.qcow2?socket=$PWD/s
nbd+unix:///other.qed?socket=$PWD/s"
check 'the second one' test "$(nbdinfo --size "nbd+unix:///other.qed?socket=s")" = 2097152
want 0 'a list' nbdinfo --list --json "nbd+unix://?socket=s"
out_json '([(e["export-name"], e["description"]) for e in d["exports"]] ==
    [("disk.qcow2", "the first"), ("other.qed", "the second")])'
want 1 'no default export' nbdinfo "nbd+unix://?socket=s"
want 1 'no such export' nbdinfo "nbd+unix:///frob?socket=s"
kill "$pid"
ends 0 'several exports'
start -t -k s -x 'a b/ü' -r disk.qcow2
check 'a name that needs escapes' test "$URI" = "nbd+unix:///a%20b/%C3%BC?socket=$PWD/s"
check 'and a client that uses them' nbdinfo --size "$URI"
check 'the only one is the default' nbdinfo --size "nbd+unix://?socket=s"
kill "$pid"
ends 0 'an export with a name'
want 1 'two of one name' vdisk serve -r -k s disk.raw ./disk.raw
err_has "^vdisk: ./disk.raw: there is an export 'disk.raw' already.*; -x gives each FILE a name$"
want 1 'a name that is no UTF-8' vdisk serve -r -k s -x $'\xff' disk.raw
err_has '^vdisk: disk.raw: .*UTF-8'
start -t -k s -r -x one -x two disk.raw disk.raw
check 'one file twice, by two names' shell "nbd+unix:///two?socket=s" 'h.pread(512, 0)'
kill "$pid"
ends 0 'one file twice'

# --- TCP
start -t -p 0 -r disk.raw
check 'any free port' grep -qE '^nbd://localhost:[1-9][0-9]*/$' "$work/said"
check 'one line for one name' test "$(wc -l < "$work/said")" = 1
check 'by TCP' nbdinfo --size "$URI"
port=$(sed 's|.*:||; s|/||' <<< "$URI")
check 'by its IPv4 address' nbdinfo --size "nbd://127.0.0.1:$port/"
want 1 'a port that is taken' vdisk serve -r -p "$port" disk.raw
err_is "vdisk: -b localhost -p $port: can not listen there: Address already in use"
kill "$pid"
ends 0 'TCP'
start -t -b 127.0.0.1 -p 0 -k s -r disk.raw
check 'both kinds of sockets' grep -qxE "nbd://127\.0\.0\.1:[0-9]+/" "$work/said"
check 'by the Unix socket' nbdinfo --size "$URI"
check 'by the other one' nbdinfo --size "$(sed -n 2p "$work/said")"
kill "$pid"
ends 0 'both kinds of sockets'
want 1 'an address of nobody' vdisk serve -r -p 0 -b 192.0.2.1 disk.raw
err_has '^vdisk: -b 192.0.2.1 -p 0: .*Cannot assign requested address$'
want 1 'a name of nobody' vdisk serve -r -b no.such.host.invalid disk.raw
err_has '^vdisk: -b no.such.host.invalid -p 10809: '
if python3 -c 'import socket; socket.socket(socket.AF_INET6).bind(("::1", 0))' 2> /dev/null; then
    start -b ::1 -p 0 -r disk.raw
    check 'IPv6' grep -qE '^nbd://\[::1\]:[0-9]+/$' "$work/said"
    check 'a client by IPv6' nbdinfo --size "$URI"
    ends 0 'IPv6'
else
    skip 'IPv6' 'this machine has none'
fi
if python3 -c 'import socket; socket.socket(40).bind((2**32 - 1, 2**32 - 1))' 2> /dev/null; then
    start -t --vsock 28809 -r disk.raw
    check 'vsock' test "$URI" = 'nbd+vsock://2:28809/'
    kill "$pid"
    ends 0 'vsock'
else
    skip 'vsock' 'the kernel has none'
fi

# --- files where the socket is to be
dead='import socket; s = socket.socket(socket.AF_UNIX); s.bind("s")'
python3 -c "$dead"
check 'a dead socket' test -S s
start -k s -r disk.raw
check 'it was replaced' nbdinfo --size "$URI"
ends 0 'a dead socket'
start -t -k s -r disk.raw
want 1 'somebody listens there' vdisk serve -r -k s disk.raw
err_is 'vdisk: s: another process listens there'
check 'and still does' nbdinfo --size "$URI"
rm s
python3 -c "$dead"
kill "$pid"
ends 0 'a server whose socket was taken away'
check "the other's is not removed" test -S s
rm s
echo precious > s
want 1 'a file there' vdisk serve -r -k s disk.raw
err_is 'vdisk: s: there is a file already that is no socket'
check 'it is what it was' test "$(cat s)" = precious
rm s
want 1 'a folder that is not there' vdisk serve -r -k nowhere/s disk.raw
err_is 'vdisk: nowhere/s: can not listen there: No such file or directory'
long=$(printf '%0108d' 0)
want 1 'a path that is too long' vdisk serve -r -k "$long" disk.raw
err_is "vdisk: $long: the path has 108 bytes; that of a socket has at most 107"
: > "$work/said"
(umask 077; exec "$C" serve -t -r -k s disk.raw > "$work/said" 2> "$work/told") &
pid=$!
for _ in $(seq 600); do
    [ ! -s "$work/said" ] || break
    sleep 0.05
done
check 'rights as the umask leaves them' test "$(stat -c %a s)" = 700
kill "$pid"
ends 0 'rights'

# --- descriptors for all clients, as far as that is permitted
: > "$work/said"
(ulimit -S -n 300; exec "$C" serve -t -r -k s disk.raw > "$work/said" 2> "$work/told") &
pid=$!
for _ in $(seq 600); do
    [ ! -s "$work/said" ] || break
    sleep 0.05
done
check 'descriptors for 1024 clients' awk '
    /^Max open files/ { want = $5 != "unlimited" && $5 < 1536 ? $5 : 1536; ok = $4 >= want }
    END { exit !ok }' "/proc/$pid/limits"
kill "$pid"
ends 0 'descriptors'

# --- sockets from whoever starts us
head -c 1M /dev/urandom > random.raw
check 'nbdcopy starts us' nbdcopy -- [ "$C" serve -r random.raw ] copy.raw
check 'and gets all of it' cmp random.raw copy.raw
check 'nbdcopy starts us, and writes' nbdcopy random.raw -- [ "$C" serve disk.qcow2 ]
want 0 'and all is there' vdisk compare -f raw -F qcow2 random.raw disk.qcow2
nbdcopy -- [ "$C" serve -r random.raw ] - > copy.raw
check 'nothing else goes to standard output' cmp random.raw copy.raw
cat > activate.py << 'PYTHON'
"""activate.py NAMES COMMAND...: starts the command with a listening socket for each name, and for
"pid" names only the process is a wrong one; prints the ports; connects to nothing."""
import os
import socket
import sys

names = sys.argv[1].split(":") if sys.argv[1] else []
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
spare = [os.dup2(s.fileno(), 20 + i) for i, s in enumerate(sockets)]
for i, fd in enumerate(spare):
    os.dup2(fd, 3 + i, inheritable=True)
with open("ports", "w") as file:
    print(*(s.getsockname()[1] for s in sockets), file=file)
os.environ["LISTEN_PID"] = str(os.getpid() + ("wrong" in names))
os.environ["LISTEN_FDS"] = os.environ.get("FDS", str(len(names)))
os.environ["LISTEN_FDNAMES"] = sys.argv[1]
os.execv(sys.argv[2], sys.argv[2:])
PYTHON
# activated NAMES OPTION...: in the background; waits until it serves
activated()
{
    local names=$1
    shift
    rm -f ports pid
    : > "$work/said"
    python3 activate.py "$names" "$C" serve --pid-file pid "$@" > "$work/said" 2> "$work/told" &
    pid=$!
    for _ in $(seq 600); do
        [ ! -s pid ] || break
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.05
    done
    read -r port status < ports
}
activated nbd -r disk.raw
check 'socket activation' nbdinfo --size "nbd://127.0.0.1:$port"
ends 0 'socket activation'
out_is ''
activated one:two -r -t disk.raw
check 'two sockets: the first' nbdinfo --size "nbd://127.0.0.1:$port"
check 'two sockets: the second' nbdinfo --size "nbd://127.0.0.1:$status"
kill "$pid"
ends 0 'two sockets'
activated wrong -r -k s -t disk.raw
check 'sockets for another process are left alone' nbdinfo --size 'nbd+unix://?socket=s'
kill "$pid"
ends 0 'sockets for another process'
want 1 'activation and -k' python3 activate.py nbd "$C" serve -r -k s disk.raw
err_has '^vdisk: serve: socket activation brought the sockets: not with -k, '
want 1 'activation and --run' python3 activate.py nbd "$C" serve -r --run true disk.raw
err_has '^vdisk: serve: socket activation: --run would not know'
want 1 'none for clients' python3 activate.py status "$C" serve -r disk.raw
err_is 'vdisk: LISTEN_FDS: there is no socket for clients'
want 1 'two for the page' python3 activate.py a:status:status "$C" serve -r disk.raw
err_is "vdisk: LISTEN_FDNAMES: two sockets are called 'status'"
want 1 'more than there are' env FDS=9 python3 activate.py nbd "$C" serve -r disk.raw
err_has '^vdisk: LISTEN_FDS=9: file descriptor [0-9]+: Bad file descriptor$'
want 1 'a number that is none' env FDS=1x python3 activate.py nbd "$C" serve -r disk.raw
err_is "vdisk: LISTEN_FDS: '1x' is not a number from 0 to 1000"

check 'a connection as standard input and output' nbdsh -c "
h.connect_command(['$C', 'serve', '--fd', '0', '-f', 'raw', 'disk.raw'])
h.pwrite(b'\x14' * 512, 1024)
assert h.pread(512, 1024) == b'\x14' * 512
h.shutdown()"
want 0 'it wrote' vdisk io -f raw -c 'read -P 0x14 1k 512' disk.raw
want 1 'no file descriptor' vdisk serve --fd 77 -r disk.raw
err_is 'vdisk: --fd 77: Bad file descriptor'
want 1 'no socket' vdisk serve --fd 0 -r disk.raw
err_has '^vdisk: '

# --- in the background
want 0 '--fork' vdisk serve --fork --pid-file pid -t -k s -r disk.raw
out_is "nbd+unix:///?socket=$PWD/s"
check '--fork: at once there is a server' nbdinfo --size 'nbd+unix://?socket=s'
check '--fork: its id is in the file' kill -0 "$(cat pid)"
want 1 'a second one with that file' vdisk serve --pid-file pid -p 0 -r disk.raw
err_is 'vdisk: --pid-file: pid: another server has this file'
check 'the file is what it was' kill -0 "$(cat pid)"
pid=$(cat pid)
kill "$pid"
for _ in $(seq 600); do
    [ -e pid ] || break
    sleep 0.05
done
check 'the file is gone in the end' test ! -e pid
pid=
want 1 '--fork of what does not work' vdisk serve --fork --pid-file pid -t -k s nowhere
err_has '^vdisk: nowhere: '
want 1 '--pid-file in no folder' vdisk serve --fork --pid-file nowhere/pid -k s -r disk.raw
err_is 'vdisk: --pid-file: nowhere/pid: No such file or directory'
check 'that leaves no socket' test ! -e s
uri=$("$C" serve --fork -p 0 -f raw disk.raw)
check '$(vdisk serve --fork) is where it is' nbdinfo --size "$uri"

# --- with a command
want 0 '--run' vdisk serve -r disk.raw --run 'nbdinfo --size "$uri"; echo "$unixsocket" "$port"'
out_has '^1048576$'
out_has '/vdisk-serve\.[^/]*/socket $'
check 'its folder is gone' test ! -e "$(dirname "$(tail -n 1 "$work/out" | tr -d ' ')")"
want 0 '--run by TCP' vdisk serve -r -p 0 -x name disk.raw \
    --run 'test "$uri" = "nbd://localhost:$port/name" && test "$nbd" = "$uri" &&
        test "$exportname" = name && test -z "$unixsocket" && nbdinfo --size "$uri" &&
        nbdinfo --size "$uri"'
out_is '1048576
1048576'
want 7 'the status is that of the command' vdisk serve -r disk.raw --run 'exit 7'
want 143 'a command that was killed' vdisk serve -r disk.raw --run 'kill -TERM $$'
want 0 'a command that never connects' vdisk serve -r disk.raw --run true
want 0 'what it writes is durable when it is over' vdisk serve -f raw disk.raw \
    --run 'PATH=/usr/bin:$PATH nbdsh -u "$uri" -c "h.pwrite(b\"\\x15\" * 512, 2048)"'
want 0 'and there' vdisk io -f raw -c 'read -P 0x15 2k 512' disk.raw
check 'a signal ends the command, and then us' sh -c '
    "$0" serve -r disk.raw --run "echo ready > started; exec sleep 1000" &
    while [ ! -s started ]; do sleep 0.05; done
    kill "$!"
    wait "$!"
    test "$?" = 143' "$C"

# --- what is told
start --output=json -t -k s -p 0 -r -x e disk.raw -vv
cp "$work/said" "$work/out"
last='--output=json'
out_json '(d["event"] == "ready" and d["pid"] > 1 and len(d["exports"][0]["uris"]) == 2 and
    d["exports"][0]["name"] == "e" and d["exports"][0]["filename"] == "disk.raw")'
nbdinfo --size 'nbd+unix:///e?socket=s' > /dev/null
kill "$pid"
ends 0 '--output=json'
check 'all lines are objects' python3 -c '
import json
lines = [json.loads(line) for line in open("../said")]
assert len(lines) > 1 and all(line["event"] == "log" and line["message"] for line in lines[1:])'
err_is ''
start -q -t -k s --log log -v -r --pid-file pid disk.raw &
wait "$!"
for _ in $(seq 600); do
    [ ! -s pid ] || break
    sleep 0.05
done
nbdinfo --size 'nbd+unix://?socket=s' > /dev/null
kill "$(cat pid)"
while [ -e pid ]; do sleep 0.05; done
check '-q says nothing' test ! -s "$work/said"
check '--log' grep -qE '^20[0-9-]{8}T[0-9:.]{12}Z (info|debug|warning): ' log
want 1 'a log in no folder' vdisk serve --log nowhere/log -r disk.raw
err_is 'vdisk: --log: nowhere/log: No such file or directory'

# --- the second signal: a client that takes no replies keeps the server for a while
cat > greedy.py << 'PYTHON'
"""Asks for a lot, takes nothing, and says when it has asked."""
import socket
import struct
import time

s = socket.socket(socket.AF_UNIX)
s.connect("s")
s.recv(18)
s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 0))
s.recv(10)
s.sendall(b"".join(struct.pack(">IHHQQI", 0x25609513, 0, 0, i, 0, 1 << 20) for i in range(32)))
open("asked", "w").write("yes")
time.sleep(1000)
PYTHON
start -t -k s -r disk.raw
python3 greedy.py &
greedy=$!
while [ ! -s asked ]; do sleep 0.05; done
kill "$pid"
while [ -e s ]; do sleep 0.05; done
kill "$pid"
ends 143 'a second SIGTERM'
kill "$greedy"
wait "$greedy" || true

# --- the page about the server
start --output=json -t -k s --status 0 -r disk.raw
if [ -n "$URI" ]; then
    cp "$work/said" "$work/out"
    last='--status'
    out_json 'd["status"].startswith("http://127.0.0.1:")'
    check 'the page' python3 -c '
import json, urllib.request
url = json.load(open("../said"))["status"]
assert b"<html" in urllib.request.urlopen(url).read()
assert urllib.request.urlopen(url + "status.json").read()'
    kill "$pid"
    ends 0 'the page'
    activated nbd:status -r -t disk.raw
    check 'socket activation brings a socket for the page' python3 -c "
import urllib.request
assert urllib.request.urlopen('http://127.0.0.1:$status/status.json').read()"
    check 'and one for clients' nbdinfo --size "nbd://127.0.0.1:$port"
    kill "$pid"
    ends 0 'activation with a page'
    want 1 'two sockets for the page' python3 activate.py nbd:status "$C" serve -r --status 0 disk.raw
    err_is 'vdisk: --status: socket activation brought a socket for it'
else
    pid=
    skip 'the page' 'this build has none'
fi
want 1 'a page at no port' vdisk serve -r -k s --status localhost:http disk.raw
err_is "vdisk: --status localhost:http: 'http' is no port from 0 to 65535"
want 1 'a page at an IPv6 address without brackets' vdisk serve -r -k s --status ::1:80 disk.raw
err_is 'vdisk: --status ::1:80: an IPv6 address stands in brackets: [::1]:80'
want 1 'a page at a port that is too large' vdisk serve -r -k s --status 65536 disk.raw
err_has "'65536' is no port"

# --- TLS
alice=0123456789abcdef0123456789abcdef
bob=fedcba9876543210fedcba9876543210
echo "alice:$alice" > keys
cp keys alice.keys
echo "bob:$bob" > bob.keys
chmod 600 keys alice.keys bob.keys
by_alice='nbds+unix://alice@/?socket=s&tls-psk-file=alice.keys'
by_bob='nbds+unix://bob@/?socket=s&tls-psk-file=bob.keys'
start -t -k s --tls-psk keys -r disk.raw
if [ -n "$URI" ]; then
    check 'TLS' test "$URI" = "nbds+unix:///?socket=$PWD/s"
    check 'a user with a key' nbdinfo --size "$by_alice"
    want 1 'a user without' nbdinfo --size "$by_bob"
    want 1 'a client that does not encrypt' nbdinfo --size 'nbd+unix://?socket=s'
    cp bob.keys keys
    kill -HUP "$pid"
    for _ in $(seq 200); do
        ! nbdinfo --size "$by_bob" > "$work/log" 2>&1 || break
        sleep 0.05
    done
    check 'SIGHUP: there is a new user' nbdinfo --size "$by_bob"
    want 1 'SIGHUP: and the old one is gone' nbdinfo --size "$by_alice"
    rm keys
    kill -HUP "$pid"
    for _ in $(seq 200); do
        ! grep -q '^vdisk: keys: ' "$work/told" || break
        sleep 0.05
    done
    check 'SIGHUP without keys: the old ones stay' nbdinfo --size "$by_bob"
    kill "$pid"
    ends 0 'TLS'
    cat alice.keys bob.keys > keys
    start -t -k s --tls-psk keys --tls-authz 'b*' --tls-optional -r disk.raw
    check '--tls-authz: one may' nbdinfo --size "$by_bob"
    want 1 '--tls-authz: the other one may not' nbdinfo --size "$by_alice"
    check '--tls-optional' nbdinfo --size 'nbd+unix://?socket=s'
    kill "$pid"
    ends 0 '--tls-authz'
    want 1 'no keys' vdisk serve -r -k s --tls-psk nowhere disk.raw
    err_has '^vdisk: .*nowhere'
    want 1 'no certificates' vdisk serve -r -k s --tls-creds nowhere disk.raw
    err_has '^vdisk: .*nowhere'
    want 1 'methods that are none' vdisk serve -r -k s --tls-psk keys --tls-priority FROB disk.raw
    err_has '^vdisk: .*FROB'
else
    pid=
    skip 'TLS' 'this build has none'
fi

# certificate NAME SUBJECT: NAME-cert.pem and NAME-key.pem in pki
certificate()
{
    openssl req -newkey rsa:2048 -nodes -keyout "pki/$1-key.pem" -out pki/request \
        -subj "/CN=$2" 2> "$work/log"
    openssl x509 -req -in pki/request -CA pki/ca-cert.pem -CAkey pki/ca-key.pem -CAcreateserial \
        -days 2 -extfile pki/extensions -out "pki/$1-cert.pem" 2> "$work/log"
}
if have openssl && [ -e keys ]; then
    mkdir pki
    echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' > pki/extensions
    openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/ca-key.pem -out pki/ca-cert.pem \
        -subj /CN=authority -days 2 2> "$work/log"
    certificate server localhost
    certificate client tester
    mkdir stranger
    cp pki/ca-cert.pem stranger
    for options in '' '--tls-verify-peer' '--tls-authz=CN=tester' \
        '--tls-authz=CN=x --tls-authz=CN=t*r'; do
        # shellcheck disable=SC2086 # several options
        start -t -p 0 --tls-creds pki $options -r disk.raw
        check "certificates $options" nbdinfo --size "$URI?tls-certificates=$PWD/pki"
        wanted=1
        [ -n "$options" ] || wanted=0
        want $wanted "a client without one $options" \
            nbdinfo --size "$URI?tls-certificates=$PWD/stranger"
        kill "$pid"
        ends 0 "certificates $options"
    done
    start -t -p 0 --tls-creds pki --tls-authz=CN=somebody -r disk.raw
    want 1 'a client with another name' nbdinfo --size "$URI?tls-certificates=$PWD/pki"
    kill "$pid"
    ends 0 'a client with another name'
    check "who it was is in the log" grep -q "CN=tester.* is not on the list" "$work/told"
else
    skip 'certificates' 'no openssl, or a build without TLS'
fi

# --- parts of images
vdisk bitmap --add disk.qcow2 b
vdisk io -c 'write -q -P 1 64k 64k' disk.qcow2
start -t -k s -r -B b -A disk.qcow2
want 0 'bitmaps' nbdinfo --json "$URI"
out_json '(sorted(d["exports"][0]["contexts"]) ==
    ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b"])'
want 0 'a bitmap' nbdinfo --map=qemu:dirty-bitmap:b --json "$URI"
out_json '([(e["offset"], e["length"], e["type"]) for e in d] ==
    [(0, 65536, 0), (65536, 65536, 1), (131072, 917504, 0)])'
kill "$pid"
ends 0 'bitmaps'
want 1 'no such bitmap' vdisk serve -r -k s -B frob disk.qcow2
err_has "^vdisk: disk.qcow2: .*frob"
vdisk snapshot -c monday disk.qcow2
vdisk io -c 'write -q -P 2 64k 64k' disk.qcow2
start -t -k s -l monday disk.qcow2
check 'a snapshot' shell "$URI" 'assert h.pread(1, 65536) == b"\x01"; assert h.is_read_only()'
kill "$pid"
ends 0 'a snapshot'
want 1 'no such snapshot' vdisk serve -k s -l never disk.qcow2
err_has '^vdisk: disk.qcow2: .*never'
vdisk create -q -f qed -b disk.qcow2 -F qcow2 folder/over.qed -u 1M 2> "$work/log" || true
vdisk create -q -f qed -b ../disk.qcow2 -F qcow2 folder/over.qed
want 1 'a backing file elsewhere' vdisk serve -k s folder/over.qed
err_has '^vdisk: folder/over.qed: .*--allow-path'
start -t -k s --allow-path . folder/over.qed
check 'permitted' shell "$URI" 'assert h.pread(1, 65536) == b"\x02"'
kill "$pid"
ends 0 'a backing file elsewhere'
echo secret > key
if vdisk create -q -f qcow2 -o encrypt.format=luks,encrypt.iter-time=10 --passphrase-file key \
    locked.qcow2 1M 2> "$work/log"; then
    start -k s --passphrase-file key locked.qcow2
    check 'an encrypted image' shell "$URI" 'h.pwrite(b"\x16" * 512, 0)'
    ends 0 'an encrypted image'
    want 0 'it was written to' vdisk io --passphrase-file key -c 'read -P 0x16 0 512' locked.qcow2
else
    skip 'an encrypted image' 'this build has none'
fi
for mode in writeback writethrough unsafe; do
    start -k s --cache=$mode -f raw disk.raw
    check "cache mode $mode" shell "$URI" 'h.pwrite(b"\x17" * 512, 0); h.flush()'
    ends 0 "cache mode $mode"
done
if dd if=/dev/zero of=direct bs=4k count=1 oflag=direct status=none 2> /dev/null; then
    start -k s -n -f raw disk.raw
    check 'without cache' shell "$URI" 'h.pwrite(b"\x17" * 700, 100); h.flush()'
    ends 0 'without cache'
else
    skip 'without cache' 'the file system has no direct I/O'
fi

finish
