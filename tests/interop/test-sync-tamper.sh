#!/bin/bash
# SPDX-License-Identifier: MIT
# vdisk sync --verify from a web server whose files somebody has altered: nothing of that reaches
# the replica, and everything else does.
#
#   tests/interop/test-sync-tamper.sh VDISK
here=$(dirname "$(realpath "$0")")
# shellcheck source=../cli/lib.sh
. "$here/../cli/lib.sh"
# shellcheck source=nginx.sh
. "$here/nginx.sh"

if ! nginx_available; then
    echo '1..0 # SKIP no nginx or openssl'
    exit 0
fi
trap 'nginx_stop "$work"; rm -rf "$work"' EXIT
unset http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY no_proxy NO_PROXY
www=$work/www
gold=$www/m.gow
data=$((0x2000200))

mkdir -p "$www"
nginx_start "$work"
url=$NGINX_URL/m.gow
vdisk create -q -f gow3 "$gold" 8M
vdisk io -c 'write -P 1 0 2M' -c 'write -P 2 4M 1M' "$gold" > /dev/null

# alter FILE OFFSET: changes one byte there
alter() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf '%b' "\\x$(printf %02x $((byte ^ 0x5a)))" |
        dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
keep() {
    rm -rf kept
    cp -r "$www" kept
}
put_back() {
    cp kept/* "$www/"
}

# --- keys of each kind
for kind in ed25519 ecdsa rsa; do
    case $kind in
    ed25519) openssl genpkey -algorithm ed25519 -out $kind.pem ;;
    ecdsa) openssl ecparam -name prime256v1 -genkey -noout -out $kind.pem ;;
    rsa) openssl genrsa -out $kind.pem 2048 2> /dev/null ;;
    esac
    openssl pkey -in $kind.pem -pubout -out $kind.pub
    want 0 "$kind: signed sums" vdisk sums --sign $kind.pem "$gold"
    want 0 "$kind: verified" vdisk sync --sums-key $kind.pub "$url" $kind.gow
    check "$kind: identical" vdisk compare -q "$gold" $kind.gow
    vdisk io -c "write -P 9 64k 64k" "$gold" > /dev/null
done
openssl genrsa -out weak.pem 1024 2> /dev/null
want 1 'a weak key' vdisk sums --sign weak.pem "$gold"
err_has '1024 bits'
want 1 'no key' vdisk sums --sign nowhere.pem "$gold"
err_has 'nowhere\.pem'
echo nonsense > nonsense.pem
want 1 'a key that is none' vdisk sums --sign nonsense.pem "$gold"

# OpenSSL agrees about the signatures.
vdisk sums -q --sign rsa.pem "$gold"
check 'openssl accepts the RSA signature' openssl dgst -sha256 -verify rsa.pub \
    -signature "$gold.sums.sig" "$gold.sums"
vdisk sums -q --sign ecdsa.pem "$gold"
check 'openssl accepts the ECDSA signature' openssl dgst -sha256 -verify ecdsa.pub \
    -signature "$gold.sums.sig" "$gold.sums"
vdisk sums -q --sign ed25519.pem "$gold"
check 'openssl accepts the Ed25519 signature' openssl pkeyutl -verify -rawin -pubin \
    -inkey ed25519.pub -in "$gold.sums" -sigfile "$gold.sums.sig"
# ... and sha256sum about the sums: the first entry is of block 0.
check 'sha256sum agrees' test \
    "$(od -An -v -tx1 -j 92 -N 32 "$gold.sums" | tr -d ' \n')" = \
    "$(dd if="$gold" bs=65536 iflag=skip_bytes skip=$data count=1 status=none |
        sha256sum | cut -c 1-64)"

want 0 'a replica of the first state' vdisk sync --sums-key ed25519.pub "$url" first.gow
vdisk io -c 'write -P 3 1M 640k' -c 'write -P 4 6M 320k' -c 'discard 4M 128k' "$gold" > /dev/null
vdisk sums -q --sign ed25519.pem "$gold"
keep

# tampered NAME REGEX [OPTION...]: refused with this message; the replica keeps what it had
tampered() {
    local name=$1 pattern=$2
    shift 2
    cp first.gow r.gow
    want 1 "$name" vdisk sync "$@" "$url" r.gow
    err_has "$pattern"
    put_back
    want 0 "$name: afterwards" vdisk sync --sums-key ed25519.pub "$url" r.gow
    check "$name: identical in the end" vdisk compare -q "$gold" r.gow
}

# Host block 20 is block 20: one that was written to; 3 is one that was not.
alter "$gold" $((data + 20 * 65536 + 777))
cp first.gow r.gow
want 1 'an altered block' vdisk sync --connections 1 --run 64K --verify "$url" r.gow
err_has 'block 20 \(offset 1310720 of the disk\) does not match its sum'
want 2 'an altered block: the replica is incomplete' vdisk compare "$gold" r.gow
err_has 'incomplete'
python3 - r.gow "$gold" > checked << 'PYTHON'
import struct, sys
def tables(name):
    data = open(name, "rb").read()
    unpack = lambda at: struct.unpack_from("<128I", data, at)
    return data, unpack(320), unpack(320 + (16 << 20))
data, hosts, versions = tables(sys.argv[1])
master, master_hosts, master_versions = tables(sys.argv[2])
start = 0x2000200
block = lambda data, host: data[start + host * 65536:start + (host + 1) * 65536]
assert versions[20] < master_versions[20]
assert block(data, hosts[20]) != block(master, master_hosts[20]), "the altered block was written"
same = 0
for i in range(128):
    if versions[i] == master_versions[i] and versions[i] and hosts[i] != 0xffffffff:
        assert block(data, hosts[i]) == block(master, master_hosts[i]), i
        same += 1
print(same)
PYTHON
check 'an altered block: not written, and the others are intact' test "$(cat checked)" -ge 30
put_back
want 0 'an altered block: put right' vdisk sync --verify "$url" r.gow
check 'an altered block: identical in the end' vdisk compare -q "$gold" r.gow

alter "$gold" $((data + 17 * 65536))
tampered 'an altered block, many connections' 'block 17 .*does not match its sum' --verify

alter "$gold" $((320 + (16 << 20) + 4 * 18))
tampered 'an altered version' 'block versions do not match' --verify

printf '\377\377\377\377' | dd of="$gold" bs=1 seek=$((320 + 4 * 18)) conv=notrunc status=none
tampered 'a block taken off the map' 'block 18 has no data, but a sum' --verify

python3 - "$gold" << 'PYTHON'
import sys
f = open(sys.argv[1], "r+b")
def swap(a, b):
    f.seek(320 + 4 * a)
    one = f.read(4)
    f.seek(320 + 4 * b)
    two = f.read(4)
    f.seek(320 + 4 * a)
    f.write(two)
    f.seek(320 + 4 * b)
    f.write(one)
swap(18, 97)
PYTHON
tampered 'two blocks swapped' 'block (18|97) .*does not match its sum' --verify

alter "$gold.sums" 200
tampered 'altered sums' 'was altered' --verify
truncate -s -10 "$gold.sums"
tampered 'sums cut short' 'is it complete' --verify
rm "$gold.sums"
tampered 'no sums' 'm\.gow\.sums' --verify
rm "$gold.sums.sig"
tampered 'no signature' 'm\.gow\.sums\.sig' --sums-key ed25519.pub
alter "$gold.sums.sig" 5
tampered 'an altered signature' 'the signature is not one by the key' --sums-key ed25519.pub
vdisk sums -q --sign ecdsa.pem "$gold"
tampered 'signed by somebody else' 'the signature is not one by the key' --sums-key ed25519.pub

# Whoever alters a block and its sum can not sign that.
alter "$gold" $((data + 20 * 65536 + 777))
vdisk sums -q "$gold"
tampered 'an altered block with a new sum' 'the signature is not one by the key' \
    --sums-key ed25519.pub

# Old sums with old signature, new image.
vdisk io -c 'write -P 5 1M 64k' "$gold" > /dev/null
cp first.gow r.gow
want 1 'sums of an older generation' vdisk sync --sums-key ed25519.pub "$url" r.gow
err_has 'make them again'
check 'sums of an older generation: the replica is as it was' cmp first.gow r.gow

finish
