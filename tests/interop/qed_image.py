#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Builds a QED image byte by byte, with the header of any draft, from docs/formats/qed.md.

    tests/interop/qed_image.py FORM IMAGE DISK [NAME=VALUE]...

FORM is draft-1, draft-2, draft-3 or final.  Writes IMAGE, and the content of its own clusters,
over what DISK has already, to the raw file DISK.  Names: cluster (65536), table (clusters, 4),
size (bytes; a few clusters past the second L2 table if that is near, else 40 clusters), backing
(name), format (of the backing file), features (more bits), tail (bytes that follow the last
cluster, 0), twice (1: the second cluster is stored where the first one is, which is a corruption).
"""
import os
import struct
import sys

MAGIC = b"QED\0"
HAS_BACKING = 1     # features
NO_PROBE = 4        # features: of draft-3 and final
HAS_FORMAT_NAME = 1  # compat_features of draft-1 and draft-2
NAME_AT = {"draft-1": 64, "draft-2": 64, "draft-3": 56, "final": 64}


def header(form, options, l1_offset):
    """The header, and behind it the names."""
    features = int(options["features"])
    compat = 0
    name = options["backing"].encode()
    backing_format = options["format"].encode()
    has_format_name = form in ("draft-1", "draft-2") and name and backing_format
    name_at = NAME_AT[form] if name else 0
    if name:
        features |= HAS_BACKING
        if form in ("draft-3", "final") and backing_format == b"raw":
            features |= NO_PROBE
    if has_format_name:
        compat |= HAS_FORMAT_NAME
    # draft-1 has here the index of the first cluster that may be used, the others the clusters
    # that the header takes: the same number.
    fields = struct.pack("<4sIII", MAGIC, options["cluster"], options["table"], 1)
    fields += struct.pack("<QQ", features, compat)
    if form == "final":
        fields += struct.pack("<Q", 0)  # autoclear_features
    fields += struct.pack("<QQ", l1_offset, options["size"])
    fields += struct.pack("<II", name_at, len(name))
    if form in ("draft-1", "draft-2"):
        fields += struct.pack("<II", name_at + len(name) if has_format_name else 0,
                              len(backing_format) if has_format_name else 0)
    assert len(fields) == NAME_AT[form]
    return fields + name + (backing_format if has_format_name else b"")


def chosen_clusters(options, entries):
    """Numbers of the clusters that hold data: some of every L2 table there is, and the last."""
    last = (options["size"] - 1) // options["cluster"]
    wanted = {0, 1, 7, 8, 20, entries - 1, entries, entries + 3, last}
    return sorted(number for number in wanted if number <= last)


def build(form, image, disk, options):
    """Data clusters come before the L2 table that names them, as QEMU's order is."""
    cluster, table = options["cluster"], options["table"]
    entries = cluster * table // 8
    if not options["size"]:
        clusters = entries + 9 if entries * cluster <= 1 << 26 else 40
        options["size"] = clusters * cluster
    l1_offset = cluster
    end = cluster * (1 + table)
    l1 = {}
    first = b""
    with open(image, "wb") as file, open(disk, "r+b" if os.path.exists(disk) else "wb") as raw:
        file.write(header(form, options, l1_offset))
        raw.truncate(options["size"])
        chosen = chosen_clusters(options, entries)
        for index in sorted({number // entries for number in chosen}):
            l2 = {}
            for number in (n for n in chosen if n // entries == index):
                if number == 1 and options["twice"]:
                    continue
                data = bytes((number * 5 + i // 512) % 255 + 1 for i in range(0, cluster, 512))
                data = b"".join(bytes([byte]) * 512 for byte in data)
                file.seek(end)
                file.write(data)
                first = data if number == 0 else first
                raw.seek(number * cluster)
                raw.write(data[:options["size"] - number * cluster])
                l2[number % entries] = end
                end += cluster
            if index == 0 and options["twice"]:
                l2[1] = l2[0]
                raw.seek(cluster)
                raw.write(first)
            for entry, offset in l2.items():
                file.seek(end + 8 * entry)
                file.write(struct.pack("<Q", offset))
            l1[index] = end
            end += cluster * table
        for entry, offset in l1.items():
            file.seek(l1_offset + 8 * entry)
            file.write(struct.pack("<Q", offset))
        file.truncate(end + options["tail"])


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in NAME_AT:
        print(__doc__)
        return 2
    options = {"cluster": 65536, "table": 4, "size": 0, "backing": "", "format": "",
               "features": 0, "tail": 0, "twice": 0}
    for word in sys.argv[4:]:
        name, value = word.split("=", 1)
        options[name] = value if isinstance(options[name], str) else int(value, 0)
    build(sys.argv[1], sys.argv[2], sys.argv[3], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
