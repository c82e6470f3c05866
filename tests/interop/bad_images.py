# SPDX-License-Identifier: MIT
"""Small QED and add-cow images whose every field can be set to anything.

docs/formats/qed.md and docs/formats/add-cow.md say what the fields are.
"""
import struct

CLUSTER = 4096


def write_file(path, data, length=None):
    with open(path, "wb") as file:
        file.write(data)
        if length is not None:
            file.truncate(length)


def qed(path, **given):
    """A QED image of 64 KiB with clusters of 4 KiB and tables of one.

    Its file: header; L1 table; one L2 table; two clusters of data, of 0x11 and 0x22.  backing and
    name_at make a name; whatever is given besides overrides a field of the header.  l1 and l2 are
    dictionaries of more table entries; length cuts the file.
    """
    backing = given.pop("backing", None)
    name_at = given.pop("name_at", 64)
    l1 = {0: 2 * CLUSTER, **given.pop("l1", {})}
    l2 = {0: 3 * CLUSTER, 1: 4 * CLUSTER, **given.pop("l2", {})}
    length = given.pop("length", 5 * CLUSTER)
    name = (backing or "").encode()
    fields = {"magic": b"QED\0", "cluster": CLUSTER, "table": 1, "header": 1,
              "features": (1 if backing is not None else 0) | given.pop("more_features", 0),
              "compat": 0, "autoclear": 0, "l1_offset": CLUSTER, "size": 65536,
              "name_offset": name_at if backing is not None else 0, "name_bytes": len(name)}
    assert set(given) <= set(fields), given
    fields.update(given)
    data = bytearray(5 * CLUSTER)
    data[:64] = struct.pack("<4sIIIQQQQQII", *fields.values())
    data[name_at:name_at + len(name)] = name
    for table, at in ((l1, CLUSTER), (l2, 2 * CLUSTER)):
        for entry, offset in table.items():
            struct.pack_into("<Q", data, at + 8 * entry, offset)
    data[3 * CLUSTER:4 * CLUSTER] = b"\x11" * CLUSTER
    data[4 * CLUSTER:] = b"\x22" * CLUSTER
    write_file(path, data[:length], length)


def add_cow(path, **given):
    """An add-cow v10 image with the first cluster of its raw file in use.

    image and backing are names, placed at image_at and backing_at; whatever is given besides
    overrides a field.  bitmap is what follows the header; length cuts the file.
    """
    backing = given.pop("backing", None)
    image = given.pop("image", "image.raw")
    backing_at, image_at = given.pop("backing_at", 1000), given.pop("image_at", 2000)
    bitmap = given.pop("bitmap", b"\1")
    length = given.pop("length", None)
    name = (backing or "").encode()
    fields = {"magic": b"ADD_COW\xff", "version": 1,
              "backing_offset": backing_at if backing is not None else 0,
              "backing_bytes": len(name), "image_offset": image_at,
              "image_bytes": len(image.encode()),
              "features": (3 if backing is not None else 0) | given.pop("more_features", 0)}
    assert set(given) <= set(fields), given
    fields.update(given)
    data = bytearray(4096)
    data[:36] = struct.pack("<8sIIIIIQ", *fields.values())
    data[backing_at:backing_at + len(name)] = name
    data[image_at:image_at + len(image)] = image.encode()
    data = bytes(data[:4096]) + bitmap
    write_file(path, data[:length], length)


def add_cow_later(path, **given):
    """The same with the later header, of 4096 bytes and clusters of 64 KiB."""
    backing = given.pop("backing", None)
    image = given.pop("image", "image.raw")
    backing_at, image_at = given.pop("backing_at", 1000), given.pop("image_at", 2000)
    name = (backing or "").encode()
    fields = {"magic": b"ACOW", "backing_offset": backing_at if backing is not None else 0,
              "backing_bytes": len(name), "image_offset": image_at,
              "image_bytes": len(image.encode()), "cluster_bits": 16, "features": 0, "compat": 0,
              "header": 65536, "backing_format": b"raw" if backing is not None else b"",
              "image_format": b"raw"}
    assert set(given) <= set(fields), given
    fields.update(given)
    data = bytearray(65536)
    data[:76] = struct.pack("<4sIIIIIQQI16s16s", *fields.values())
    data[backing_at:backing_at + len(name)] = name
    data[image_at:image_at + len(image)] = image.encode()
    write_file(path, bytes(data) + b"\1" + bytes(65535))
