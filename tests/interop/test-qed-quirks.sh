#!/bin/bash
# SPDX-License-Identifier: MIT
# What QEMU 7.2 gets wrong with QED: its wrong answers are expected here, and ours are right.
#
#   tests/interop/test-qed-quirks.sh VDISK
#
# That it does not flush between setting NEED_CHECK and its first change of a table can not be seen
# from outside.
build=$(realpath "$(dirname "$0")")/qed_image.py
# shellcheck source=../cli/lib.sh
. "$(dirname "$0")/../cli/lib.sh"

for program in qemu-img qemu-io python3; do
    have "$program" || { echo "1..0 # SKIP no $program"; exit 0; }
done
export PYTHONDONTWRITEBYTECODE=1

need_check() { # is the flag set?
    [ $(($(od -An -tu1 -j16 -N1 "$1") & 2)) -ne 0 ]
}

# --- tables of one cluster: "end of the table is its start" counts as an overflow
check 'table_size=1: QEMU makes one' \
    qemu-img create -q -f qed -o cluster_size=65536,table_size=1 one 10M
want 1 'table_size=1: QEMU does not open it' qemu-img check -f qed one
err_has 'table offset is invalid'
want 0 'table_size=1: written' vdisk io -f qed -c 'write -P 3 1M 300k' -c 'write -P 4 9M 1M' one
want 0 'table_size=1: read' vdisk io -r -f qed -c 'read -P 0 0 1M' -c 'read -P 3 1M 300k' \
    -c 'read -P 4 9M 1M' one
want 0 'table_size=1: checked' vdisk check -f qed one
want 0 'table_size=1: converted' vdisk convert -f qed -O qed -o cluster_size=4096 one four
check 'table_size=1: converted, judged' qemu-io -r -f qed -c 'read -P 3 1M 300k' four
check 'table_size=1: converted, checked' qemu-img check -q -f qed four
rm -- *

# --- the largest disk is computed modulo 2^64
want 1 'limit of 2^64: QEMU makes none' \
    qemu-img create -q -f qed -o cluster_size=4M,table_size=4 big 1G
want 0 'limit of 2^64: made' vdisk create -q -f qed -o cluster_size=4M,table_size=4 big 1P
want 0 'limit of 2^64: written' vdisk io -f qed -c 'write -P 5 1125899906842112 512' big
want 0 'limit of 2^64: read' vdisk io -r -f qed -c 'read -P 5 1125899906842112 512' \
    -c 'read -P 0 1125899906841600 512' big
want 0 'limit of 2^64: checked' vdisk check -f qed big
want 1 'limit of 2^64: QEMU does not open it' qemu-img check -f qed big
want 0 'limit of 2^80' vdisk create -q -f qed -o cluster_size=64M,table_size=16 huge 4E
want 0 'limit of 2^80: written' vdisk io -f qed -c 'write -P 6 4611686018427387392 512' huge
want 0 'limit of 2^80: read' vdisk io -r -f qed -c 'read -P 6 4611686018427387392 512' huge
rm -- *

# --- a cluster is lost for each (cluster size - 1) clusters of the file
check 'phantom leaks: made' qemu-img create -q -f qed -o cluster_size=4096 leaks 20M
check 'phantom leaks: written by QEMU' qemu-io -f qed -c 'write -P 1 0 18M' leaks
want 3 'phantom leaks: QEMU sees them in its own image' qemu-img check -f qed leaks
want 0 'phantom leaks: there are none' vdisk check -f qed leaks
want 0 'phantom leaks: nor in ours' vdisk convert -f qed -O qed -o cluster_size=4096 leaks ours
want 3 'phantom leaks: QEMU sees them in ours, too' qemu-img check -f qed ours
want 0 'phantom leaks: there are none there either' vdisk check -f qed ours
check 'phantom leaks: same content' qemu-img compare -f qed -F qed leaks ours
truncate -s +8192 ours
want 3 'real leaks are seen' vdisk check -f qed ours
want 0 'real leaks are mended' vdisk check -f qed -r leaks ours
rm -- *

# --- a clean end clears NEED_CHECK although the check has left a corruption
"$build" final twice disk twice=1 features=2
cp twice copy
check 'a cluster used twice: it needs a check' need_check twice
want 2 'a cluster used twice: QEMU sees it' qemu-img check -f qed twice
check 'a cluster used twice: QEMU opens it for writing' qemu-io -f qed -c 'read 0 512' twice
want 2 'a cluster used twice: QEMU did not mend it' qemu-img check -f qed twice
check 'a cluster used twice: QEMU forgot of it' bash -c '! (od -An -tu1 -j16 -N1 twice | grep 2)'
want 2 'a cluster used twice: seen' vdisk check -f qed copy
check 'a cluster used twice: seeing does not clear the flag' need_check copy
want 0 'a cluster used twice: info' vdisk info -f qed copy
want 0 'a cluster used twice: opened for reading' vdisk compare -f qed -F raw copy disk
check 'a cluster used twice: reading does not clear the flag' need_check copy
want 0 'a cluster used twice: written to one of its places' \
    vdisk io -f qed -c 'write -P 99 0 512' copy
check 'a cluster used twice: mended' qemu-img check -f qed copy
check 'a cluster used twice: the flag is clear' bash -c '! (od -An -tu1 -j16 -N1 copy | grep 2)'
qemu-io -f raw -c 'write -P 99 0 512' disk > ../log
check 'a cluster used twice: the other place is as it was' \
    qemu-img compare -f qed -F raw copy disk
want 0 'a cluster used twice: repaired on demand' vdisk check -f qed -r all twice
check 'a cluster used twice: repaired, judged by QEMU' qemu-img check -f qed twice
rm -- *

# --- the text on sizes
want 1 'sizes: too large' vdisk create -f qed -o cluster_size=4096,table_size=2 a 4097M
err_has '4294967296'
want 0 'sizes: the largest' vdisk create -q -f qed -o cluster_size=4096,table_size=2 a 4G
want 0 'sizes: the last bytes' vdisk io -f qed -c 'write -P 8 4294966784 512' a
check 'sizes: QEMU reads them' qemu-io -r -f qed -c 'read -P 8 4294966784 512' a
want 1 'sizes: it can not grow' vdisk resize -f qed a +512
err_has '4294967296'
want 0 'sizes: any multiple of 512' vdisk create -q -f qed b 1536
want 0 'sizes: grown by one sector' vdisk resize -q -f qed b 2048
check 'sizes: QEMU opens it' qemu-img check -q -f qed b
check 'sizes: QEMU grows it' qemu-img resize -q -f qed b 2560
want 0 'sizes: read' vdisk info -f qed b
out_has '2560 bytes'
want 0 'sizes: none at all' vdisk create -q -f qed c 0
check 'sizes: none at all, by QEMU' qemu-img check -q -f qed c
rm -- *

# --- a write to a part of a zero cluster over a backing file brings the backing data back
qemu-img create -q -f raw base 1M
qemu-io -f raw -c 'write -P 9 0 1M' base > ../log
for name in theirs ours mixed; do
    qemu-img create -q -f qed -b base -F raw $name
done
check 'zero clusters: QEMU' qemu-io -f qed -c 'write -z 64k 64k' -c 'write -P 7 96k 512' theirs
check 'zero clusters: QEMU loses the zeros in front' qemu-io -r -f qed -c 'read -P 9 64k 32k' theirs
check 'zero clusters: and behind' qemu-io -r -f qed -c 'read -P 9 98816 32256' theirs
check 'zero clusters: and sees nothing wrong' qemu-img check -q -f qed theirs

lines=(-c 'read -P 9 0 64k' -c 'read -P 0 64k 32k' -c 'read -P 7 96k 512' -c 'read -P 0 98816 32256'
    -c 'read -P 9 128k 128k')
want 0 'zero clusters: ours' vdisk io -f qed -c 'write -z 64k 64k' -c 'write -P 7 96k 512' ours
want 0 'zero clusters: ours keep the zeros' vdisk io -r -f qed "${lines[@]}" ours
check 'zero clusters: QEMU agrees' qemu-io -r -f qed "${lines[@]}" ours
check 'zero clusters: made by QEMU' qemu-io -f qed -c 'write -z 64k 64k' mixed
want 0 'zero clusters: made by QEMU, written by us' vdisk io -f qed -c 'write -P 7 96k 512' mixed
want 0 'zero clusters: made by QEMU, kept' vdisk io -r -f qed "${lines[@]}" mixed
check 'zero clusters: made by QEMU, and it agrees' qemu-io -r -f qed "${lines[@]}" mixed

want 0 'zero clusters: all kinds of parts' vdisk io -f qed -c 'write -z 256k 512k' \
    -c 'write -P 1 256k 1' -c 'write -P 2 384k 1000' -c 'write -P 3 447k 1k' \
    -c 'write -z 450k 3k' -c 'discard 513k 7k' -c 'write -P 4 600k 80k' ours
lines=(-c 'read -P 1 256k 1' -c 'read -P 0 262145 131071' -c 'read -P 2 384k 1000'
    -c 'read -P 0 394216 63512' -c 'read -P 3 447k 1k' -c 'read -P 0 448k 152k'
    -c 'read -P 4 600k 80k' -c 'read -P 0 680k 88k' -c 'read -P 9 768k 256k')
want 0 'zero clusters: all kinds of parts, kept' vdisk io -r -f qed "${lines[@]}" ours
check 'zero clusters: all kinds of parts, by QEMU' qemu-io -r -f qed "${lines[@]}" ours
check 'zero clusters: checked by QEMU' qemu-img check -q -f qed ours
want 0 'zero clusters: checked' vdisk check -f qed ours

# --- unknown autoclear bits: kept by readers, cleared by writers, whether they write or not
printf '\1' | dd of=ours bs=1 seek=39 conv=notrunc status=none
cp ours theirs
want 0 'autoclear bits: read' vdisk io -r -f qed -c 'read 0 512' ours
check 'autoclear bits: kept' cmp ours theirs
want 0 'autoclear bits: open for writing' vdisk io -f qed -c length ours
check 'autoclear bits: QEMU opens for writing' qemu-io -f qed -c length theirs
check 'autoclear bits: both cleared them' cmp ours theirs
check 'autoclear bits: they are clear' bash -c 'od -An -tu1 -j32 -N8 ours | grep -v "[1-9]"'

finish
