#!/bin/bash
# SPDX-License-Identifier: MIT
# add-cow as users meet it: two files, made, used, looked at, refused.  docs/formats/add-cow.md
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

# A v10 or later header, byte by byte, with an empty bitmap behind it.
le32() { printf '%b' "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) \
    $(($1 >> 16 & 255)) $(($1 >> 24 & 255)))"; }

# later FILE COMPAT BITMAP: clusters of 4096 bytes, over base; BITMAP as printf takes it
later() {
    {
        printf 'ACOW'
        le32 80; le32 4; le32 76; le32 4; le32 12
        le32 0; le32 0; le32 "$2"; le32 0; le32 4096
        printf 'raw\0\0\0\0\0\0\0\0\0\0\0\0\0raw\0\0\0\0\0\0\0\0\0\0\0\0\0datab'
        printf 'ase'
    } > "$1"
    truncate -s 4096 "$1"
    printf '%b' "$3" >> "$1"
    truncate -s 8192 "$1"
}

head -c 1000000 /dev/urandom > base
cp base expected
truncate -s 1000448 expected

# --- making ----------------------------------------------------------------------------------

want 0 'over a base' vdisk create -f add-cow -o backing_file=base,backing_fmt=raw,image_file=raw disk
out_has 'size=1000448 .*image_file=raw'
want 0 'info' vdisk info --output=json disk
out_json 'd["format"] == "add-cow" and d["virtual-size"] == 1000448 and d["cluster-size"] == 65536'
out_json 'd["backing-filename"] == "base" and d["backing-filename-format"] == "raw"'
want 1 'no raw file named' vdisk create -f add-cow other 1M
err_has 'image_file='
want 1 'a raw file with data and no base' vdisk create -f add-cow -o image_file=base other 2M
err_has 'base: holds data'
check 'nothing is left of it' test ! -e other
want 1 'smaller than the raw file' vdisk create -f add-cow \
    -o backing_file=base,backing_fmt=raw,image_file=raw other 512k
err_has 'made no shorter'
check 'the raw file is as it was' test "$(stat -c %s raw)" = 1000448
want 1 'the raw file is the base' vdisk create -f add-cow \
    -o backing_file=base,backing_fmt=raw,image_file=./base other
err_has 'same file'
want 1 'the raw file is the image' vdisk create -f add-cow -o image_file=./other other 1M
err_has 'same file'
check 'and is not left behind' test ! -e other
want 1 'no size at all' vdisk create -f add-cow -o image_file=new other
err_has 'size'
check 'no raw file is left' test ! -e new
long=$(printf '%05000d' 0)
want 1 'a long name' vdisk create -f add-cow -o "image_file=$long" other 1M
err_has 'have to fit into 4060 bytes'
want 0 'measure' vdisk measure -O add-cow --size 8G --output=json
out_json 'd["required"] == d["fully-allocated"] == 20480'

# --- using -----------------------------------------------------------------------------------

want 0 'write' vdisk io -c 'write -P 7 65000 2000' -c 'write -z 300000 100000' disk
python3 - <<'END'
d = bytearray(open("expected", "rb").read())
d[65000:67000] = b"\7" * 2000
d[300000:400000] = bytes(100000)
open("expected", "wb").write(d)
END
want 0 'to raw' vdisk convert -O raw disk out
check 'the same' cmp out expected
want 0 'to add-cow' vdisk convert -O add-cow -o image_file=raw2 disk copy
want 0 'compare' vdisk compare disk copy
want 0 'map' vdisk map --output=json disk
out_json 'all(e["depth"] == (1 if e["start"] // 65536 not in (0, 1, 4, 5, 6) else 0) for e in d)'
want 0 'grown' vdisk resize disk 3M
truncate -s 3M expected
want 0 'to raw again' vdisk convert -O raw disk out
check 'zeros were added' cmp out expected
want 0 'shrunk' vdisk resize --shrink disk 128k
want 0 'and grown' vdisk resize disk 1M
truncate -s 128k expected
truncate -s 1M expected
want 0 'to raw, a last time' vdisk convert -O raw disk out
check 'nothing came back' cmp out expected
want 0 'sound' vdisk check disk
out_has '^No errors'
check 'the base was never written to' test "$(stat -c %s base)" = 1000000

# --- what is refused -------------------------------------------------------------------------

cp disk broken
printf '\2' | dd of=broken bs=1 seek=28 conv=notrunc status=none
want 1 'feature and name disagree' vdisk info broken
err_has 'check -r all'
want 2 'checked' vdisk check broken
want 0 'mended' vdisk check -r all broken
want 0 'as before' vdisk compare broken disk
printf '\377' | dd of=broken bs=1 seek=16 conv=notrunc status=none
want 2 'a name that ends nowhere good' vdisk check -r all broken
printf '\11' | dd of=broken bs=1 seek=8 conv=notrunc status=none
want 1 'another version' vdisk info broken
err_has 'version 9'

mv raw away
want 1 'check without the raw file' vdisk check disk
err_has 'raw'
want 0 'info without it' vdisk info disk
mkfifo raw
want 1 'a pipe as raw file' timeout 20 "$C" map disk
err_has 'pipe'
rm raw
mkdir raw
want 1 'a directory' vdisk map disk
err_has '^vdisk: disk: data file: raw: it is a directory'
rmdir raw
ln -s disk raw
want 1 'the image itself' vdisk map disk
err_has 'same file'
ln -sf base raw
want 1 'its base' vdisk map disk
err_has 'same file'
rm raw
mkdir ../elsewhere
cp away ../elsewhere/raw
ln -s ../elsewhere/raw raw
want 1 'a raw file somewhere else' vdisk map disk
err_has 'not permitted'
want 0 'permitted' vdisk map --allow-path ../elsewhere disk
rm raw
mv away raw

# --- the later header ------------------------------------------------------------------------

head -c 40960 /dev/urandom > data
truncate -s 40448 data
later newer 0 '\x05\x02'
python3 - <<'END'
base, data = open("base", "rb").read(), open("data", "rb").read()
open("expected", "wb").write(b"".join(
    (data if c in (0, 2, 9) else base)[c * 4096:(c + 1) * 4096][:len(data) - c * 4096]
    for c in range(10)))
END
want 0 'read' vdisk convert -O raw newer out
check 'as it should be' cmp out expected
want 0 'its info' vdisk info newer
out_has 'variant: v18'
want 0 'checked' vdisk check newer
out_has '^3/10 '
want 1 'not written' vdisk io -c 'write 0 512' newer
err_has 'can only be read: convert it'
want 0 'converted' vdisk convert -O add-cow -o image_file=raw3 newer written
want 0 'the same disk' vdisk compare written newer
later newer 1 '\x00'
mv base gone
want 0 'all allocated: no base is needed' vdisk convert -O raw newer out
check 'the raw file alone' cmp out data
finish
