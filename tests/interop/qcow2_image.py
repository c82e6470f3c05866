# SPDX-License-Identifier: MIT
"""Builds qcow2 images from nothing: sound ones of any geometry, odd ones and hostile ones.

    from qcow2_image import Image

    image = Image(cluster_bits=16, size=1 << 20)    # version 3, refcounts of 16 bits
    image.data(0, b"\\x11" * 65536)                  # guest cluster 0: an allocated cluster
    image.zero(1)                                   # a zero cluster
    image.compressed(2, b"\\x22" * 65536)
    image.snapshot("first")                         # what there is so far, kept
    image.data(0, b"\\x33" * 65536)                  # in the same place only without a snapshot
    image.bitmap("dirty", bits=[0, 2])
    image.finish()                                  # places everything, counts references
    image.put64(image.l2_place(0), 0x1234)          # now anything can be made wrong
    image.save("image")

finish() makes an image without a fault: COPIED bits and refcounts are those of the references.
Whatever is given to Image(fields={...}) overrides fields of the header, by the names of FIELDS.
Where things lie: image.l1_offset, refcount_table, refcount_blocks, snapshots_offset, bitmaps
({name: (directory entry, table, [data])}), l2_place(cluster), l1_place(cluster), end.
image.content() is what a guest reads, zeros where a backing file would show.

docs/formats/qcow2.md says what the fields are.
"""
import ctypes
import struct
import zlib

MAGIC = b"QFI\xfb"
COPIED = 1 << 63
COMPRESSED = 1 << 62
OFFSET_MASK = 0x00fffffffffffe00

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = 1, 2, 4, 8, 16  # incompatible
LAZY_REFCOUNTS = 1                                                    # compatible
BITMAPS, DATA_RAW = 1, 2                                              # autoclear
IN_USE, AUTO, EXTRA_COMPATIBLE = 1, 2, 4                              # flags of a bitmap

EXT_END = 0
EXT_BACKING_FORMAT = 0xe2792aca
EXT_FEATURE_NAMES = 0x6803f857
EXT_BITMAPS = 0x23852875
EXT_CRYPTO = 0x0537be77
EXT_DATA_FILE = 0x44415441

FIELDS = {  # name: (offset, format)
    "magic": (0, ">4s"), "version": (4, ">I"), "backing_offset": (8, ">Q"),
    "backing_bytes": (16, ">I"), "cluster_bits": (20, ">I"), "size": (24, ">Q"),
    "crypt_method": (32, ">I"), "l1_entries": (36, ">I"), "l1_offset": (40, ">Q"),
    "refcount_table": (48, ">Q"), "refcount_table_clusters": (56, ">I"),
    "snapshots": (60, ">I"), "snapshots_offset": (64, ">Q"), "incompatible": (72, ">Q"),
    "compatible": (80, ">Q"), "autoclear": (88, ">Q"), "refcount_order": (96, ">I"),
    "header_bytes": (100, ">I"), "compression": (104, ">B"), "padding": (105, ">7s"),
}


def round_up(value, unit):
    return -(-value // unit) * unit


def deflate(data, window_bits=12):
    """A raw deflate stream, as clusters hold it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -window_bits, 9)
    return packer.compress(data) + packer.flush()


def zstd(data):
    """A zstd frame."""
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
    room = library.ZSTD_compressBound(ctypes.c_size_t(len(data)))
    out = ctypes.create_string_buffer(room)
    length = library.ZSTD_compress(out, ctypes.c_size_t(room), data, ctypes.c_size_t(len(data)), 3)
    assert length <= room, "ZSTD_compress"
    return out.raw[:length]


class Table:
    """An L2 table: entries of (word, subcluster bits), by their index."""

    def __init__(self, offset, entries=None):
        self.offset = offset
        self.entries = dict(entries or {})
        self.is_shared = False


class Snapshot:
    """What a snapshot keeps, and the fields of its entry."""

    def __init__(self, name, tables, l1_place, entries, **given):
        self.name = name
        self.tables = tables
        self.l1_offset = l1_place
        self.l1_entries = entries
        self.ident = given.pop("ident", "1")
        self.extra = given.pop("extra", None)  # bytes; None: 16 bytes of sizes in version 3
        self.size = given.pop("size", 0)
        self.state_bytes = given.pop("state_bytes", 0)
        self.fields = given  # of the fixed part, in its order

    def entry(self, version):
        extra = self.extra
        if extra is None:
            extra = struct.pack(">QQ", self.state_bytes, self.size) if version >= 3 else b""
        ident, name = self.ident.encode(), self.name.encode()
        fields = {"l1_offset": self.l1_offset, "l1_entries": self.l1_entries,
                  "ident_bytes": len(ident), "name_bytes": len(name), "date_sec": 1234567890,
                  "date_nsec": 0, "clock_nsec": 0, "state_bytes": self.state_bytes,
                  "extra_bytes": len(extra)}
        assert set(self.fields) <= set(fields), self.fields
        fields.update(self.fields)
        data = struct.pack(">QIHHIIQII", *fields.values()) + extra + ident + name
        return data + bytes(-len(data) % 8)


class Image:  # pylint: disable=too-many-instance-attributes
    """An image under construction."""

    def __init__(self, **given):
        self.version = given.pop("version", 3)
        self.cluster_bits = given.pop("cluster_bits", 16)
        self.cluster = 1 << self.cluster_bits
        self.size = given.pop("size", 16 * self.cluster)
        self.refcount_order = given.pop("refcount_order", 4)
        self.extended = given.pop("extended", False)
        self.compression = given.pop("compression", 0)  # 0: deflate, 1: zstd
        self.backing = given.pop("backing", None)       # name
        self.backing_format = given.pop("backing_format", None)
        self.data_file = given.pop("data_file", None)   # name
        self.data_raw = given.pop("data_raw", False)
        self.incompatible = given.pop("incompatible", 0)
        self.compatible = given.pop("compatible", 0)
        self.autoclear = given.pop("autoclear", 0)
        self.header_bytes = given.pop("header_bytes", 112 if self.version >= 3 else 72)
        self.extensions = list(given.pop("extensions", []))  # (type, bytes)
        self.fields = given.pop("fields", {})
        l1_entries = given.pop("l1_entries", None)
        refcount_table_clusters = given.pop("refcount_table_clusters", 1)
        assert not given, given
        self.entry_bytes = 16 if self.extended else 8
        self.l2_entries = self.cluster // self.entry_bytes
        self.l1_entries = l1_entries or max(-(-self.size // (self.l2_entries * self.cluster)), 1)
        self.parts = []       # (offset in the file, bytes), later ones over earlier ones
        self.data_parts = {}  # the same of the data file
        self.disk = {}        # guest cluster: bytes
        self.end = self.cluster
        self.packed = None    # where the next compressed cluster goes
        self.refcount_table_clusters = refcount_table_clusters
        self.refcount_table = self.take(refcount_table_clusters)
        self.l1_offset = self.take(max(-(-self.l1_entries * 8 // self.cluster), 1))
        self.tables = {}      # L1 index: Table
        self.snapshots = []
        self.snapshots_offset = 0
        self.bitmap_list = []
        self.bitmaps = {}
        self.directory_offset = 0
        self.refcount_blocks = []
        self.references = {}  # host cluster: count; extra ones may be added before finish()

    # --- places -------------------------------------------------------------------------------

    def take(self, clusters=1):
        """Room at the end."""
        offset = self.end
        self.end += clusters * self.cluster
        return offset

    def put(self, offset, data):
        self.parts.append((offset, bytes(data)))

    def put64(self, offset, value):
        self.put(offset, struct.pack(">Q", value))

    def refer(self, offset, length, count=1):
        """More references to the clusters that this range touches."""
        for number in range(offset // self.cluster, -(-(offset + length) // self.cluster)):
            self.references[number] = self.references.get(number, 0) + count

    # --- guest clusters -----------------------------------------------------------------------

    def table(self, cluster):
        """The L2 table of a guest cluster, to be changed."""
        index = cluster // self.l2_entries
        table = self.tables.get(index)
        if not table or table.is_shared:
            table = Table(self.take(), table.entries if table else None)
            self.tables[index] = table
        return table

    def entry(self, cluster, word, bits=None):
        """Any L2 entry.  COPIED is for finish() to set."""
        if bits is None:
            has_data = word & OFFSET_MASK and not word & COMPRESSED
            bits = 0xffffffff if self.extended and has_data else 0
        self.table(cluster).entries[cluster % self.l2_entries] = (word, bits)

    def l1_place(self, cluster):
        return self.l1_offset + cluster // self.l2_entries * 8

    def l2_place(self, cluster):
        """Where the L2 entry of a guest cluster lies in the file."""
        return (self.tables[cluster // self.l2_entries].offset +
                cluster % self.l2_entries * self.entry_bytes)

    def data(self, cluster, data, bits=None):
        """An allocated cluster; bits of extended L2: which subclusters are, and which are zero."""
        assert len(data) == self.cluster
        if self.data_file is not None:
            place = cluster * self.cluster
            self.data_parts[place] = bytes(data)
            self.entry(cluster, place | COPIED, bits if bits is not None else
                       0xffffffff if self.extended else 0)
        else:
            place = self.take()
            self.put(place, data)
            self.entry(cluster, place, bits)
        if bits is not None:
            unit = self.cluster // 32
            data = b"".join(data[i * unit:(i + 1) * unit] if bits >> i & 1 else bytes(unit)
                            for i in range(32))
        self.disk[cluster] = bytes(data)
        return place

    def zero(self, cluster, allocated=False):
        """A cluster that reads as zero, with space of its own or without."""
        place = self.take() if allocated else 0
        if allocated:
            self.put(place, b"\xee" * self.cluster)  # never to be seen
        if self.extended:
            self.entry(cluster, place, 0xffffffff << 32)
        else:
            self.entry(cluster, place | 1)
        self.disk[cluster] = bytes(self.cluster)
        return place

    def compressed(self, cluster, data, stream=None, tail=b""):
        """A compressed cluster, behind the one before it; stream overrides how it is stored, tail
        is garbage behind it in its last sector."""
        if stream is None:
            stream = zstd(data) if self.compression else deflate(data)
        is_last = self.packed is not None and round_up(self.packed, self.cluster) == self.end
        at = self.packed if is_last else self.take()
        stop = at + len(stream)
        if stop > self.end:
            self.take(-(-(stop - self.end) // self.cluster))
        self.put(at, stream + tail)
        self.packed = stop if stop % self.cluster else None
        self.entry(cluster, self.descriptor(at, len(stream)), 0)
        self.disk[cluster] = bytes(data)
        return at

    def descriptor(self, at, length):
        """The L2 entry of a compressed cluster."""
        sectors = (at + length - 1) // 512 - at // 512
        return COMPRESSED | sectors << (62 - (self.cluster_bits - 8)) | at

    def unset(self, cluster):
        """No entry any more."""
        self.table(cluster).entries.pop(cluster % self.l2_entries, None)
        self.disk.pop(cluster, None)

    def content(self):
        data = bytearray(self.size)
        for cluster, part in self.disk.items():
            at = cluster * self.cluster
            if at < self.size:
                data[at:at + len(part)] = part[:self.size - at]
        return bytes(data)

    # --- snapshots and bitmaps ----------------------------------------------------------------

    def snapshot(self, name, **given):
        """Keeps what there is; given: ident, extra, size, state_bytes, or any field."""
        given.setdefault("ident", str(len(self.snapshots) + 1))
        given.setdefault("size", self.size)
        for table in self.tables.values():
            table.is_shared = True
        l1_offset = self.take(max(-(-self.l1_entries * 8 // self.cluster), 1))
        self.snapshots.append(Snapshot(name, dict(self.tables), l1_offset, self.l1_entries,
                                       **given))

    def bitmap(self, name, granularity_bits=16, bits=(), flags=AUTO, **given):
        """A bitmap with these bits set; given: table (entries), table_entries, type, extra,
        table_offset, name_bytes."""
        wanted = -(-self.size // (1 << granularity_bits))
        entries = max(-(-wanted // (8 * self.cluster)), 1)
        data = bytearray(entries * self.cluster)
        for bit in bits:
            data[bit // 8] |= 1 << bit % 8
        table = []
        places = []
        for number in range(entries):
            part = bytes(data[number * self.cluster:(number + 1) * self.cluster])
            place = 0
            if any(part):
                place = self.take()
                self.put(place, part)
                self.refer(place, self.cluster)
            table.append(place)
            places.append(place)
        table = given.pop("table", table)
        at = self.take(max(-(-len(table) * 8 // self.cluster), 1))
        self.put(at, struct.pack(f">{len(table)}Q", *table))
        self.refer(at, max(len(table) * 8, 1))
        extra = given.pop("extra", b"")
        fields = {"table_offset": at, "table_entries": len(table), "flags": flags, "type": 1,
                  "granularity_bits": granularity_bits, "name_bytes": len(name.encode()),
                  "extra_bytes": len(extra)}
        assert set(given) <= set(fields), given
        fields.update(given)
        entry = struct.pack(">QIIBBHI", *fields.values()) + extra + name.encode()
        self.bitmap_list.append(entry + bytes(-len(entry) % 8))
        self.bitmaps[name] = (sum(len(e) for e in self.bitmap_list[:-1]), at, places)

    # --- putting it together ------------------------------------------------------------------

    def place_l1(self, offset, entries, tables, is_active):
        words = [0] * entries
        for index, table in tables.items():
            copied = is_active and self.references[table.offset // self.cluster] == 1
            words[index] = table.offset | (COPIED if copied else 0)
        self.put(offset, struct.pack(f">{entries}Q", *words))

    def place_l2(self, table, is_active):
        data = bytearray(self.cluster)
        for index, (word, bits) in table.entries.items():
            host = word & OFFSET_MASK
            if is_active and host and not word & COMPRESSED and self.data_file is None:
                # What leads nowhere is as the caller wants it.
                if self.references.get(host // self.cluster) == 1:
                    word |= COPIED
            struct.pack_into(">Q", data, index * self.entry_bytes, word)
            if self.extended:
                struct.pack_into(">Q", data, index * 16 + 8, bits)
        self.put(table.offset, data)

    def count_tables(self, tables):
        """References of an L1 table: to L2 tables, and what those lead to."""
        for table in tables.values():
            self.refer(table.offset, self.cluster)
            for word, _ in table.entries.values():
                if word & COMPRESSED:
                    shift = 62 - (self.cluster_bits - 8)
                    at = word & ((1 << shift) - 1)
                    sectors = (word & (COMPRESSED - 1)) >> shift
                    self.refer(at, (sectors + 1) * 512 - at % 512)
                elif word & OFFSET_MASK and self.data_file is None:
                    self.refer(word & OFFSET_MASK, self.cluster)

    def place_refcounts(self):
        """Blocks behind everything else, for themselves too."""
        per_block = self.cluster * 8 >> self.refcount_order
        numbers = set()
        while True:
            wanted = {cluster // per_block for cluster in self.references} - numbers
            if not wanted:
                break
            for number in sorted(wanted):
                place = self.take()
                self.refer(place, self.cluster)
                numbers.add(number)
                self.refcount_blocks.append((number, place))
        assert max(numbers) < self.refcount_table_clusters * self.cluster // 8, "refcount table"
        width = 1 << self.refcount_order
        for number, place in self.refcount_blocks:
            block = 0 if width < 8 else bytearray(self.cluster)
            for cluster, count in self.references.items():
                if cluster // per_block != number:
                    continue
                index = cluster % per_block
                assert count < 1 << width, f"refcount {count} of cluster {cluster}"
                if width < 8:
                    block |= count << index * width
                else:
                    block[index * width // 8:(index + 1) * width // 8] = count.to_bytes(width // 8,
                                                                                       "big")
            if width < 8:
                block = block.to_bytes(self.cluster, "little")
            self.put(place, block)
            self.put64(self.refcount_table + number * 8, place)

    def header(self):
        """The first cluster."""
        fields = {"magic": MAGIC, "version": self.version, "backing_offset": 0,
                  "backing_bytes": 0, "cluster_bits": self.cluster_bits, "size": self.size,
                  "crypt_method": 0, "l1_entries": self.l1_entries, "l1_offset": self.l1_offset,
                  "refcount_table": self.refcount_table,
                  "refcount_table_clusters": self.refcount_table_clusters,
                  "snapshots": len(self.snapshots), "snapshots_offset": self.snapshots_offset}
        if self.version >= 3:
            fields.update({"incompatible": self.incompatible, "compatible": self.compatible,
                           "autoclear": self.autoclear, "refcount_order": self.refcount_order,
                           "header_bytes": self.header_bytes})
            if self.header_bytes > 104:
                fields["compression"] = self.compression
        extensions = list(self.extensions)
        if self.backing_format is not None:
            extensions.append((EXT_BACKING_FORMAT, self.backing_format.encode()))
        if self.data_file:
            extensions.append((EXT_DATA_FILE, self.data_file.encode()))
        if self.bitmap_list:
            extensions.append((EXT_BITMAPS, struct.pack(
                ">IIQQ", len(self.bitmap_list), 0, sum(len(e) for e in self.bitmap_list),
                self.directory_offset)))
        more = b""
        for kind, data in extensions:
            more += struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
        if not any(kind == EXT_END for kind, _ in self.extensions):
            more += bytes(8)
        if self.backing is not None:
            fields["backing_offset"] = self.header_bytes + len(more)
            fields["backing_bytes"] = len(self.backing.encode())
            more += self.backing.encode()
        fields.update(self.fields)
        data = bytearray(max(self.header_bytes + len(more), self.cluster))
        data[self.header_bytes:self.header_bytes + len(more)] = more
        for name, value in fields.items():
            offset, form = FIELDS[name]
            struct.pack_into(form, data, offset, value)
        return data

    def finish(self):
        """Places what is left, and counts the references to everything."""
        if self.extended:
            self.incompatible |= EXTENDED_L2
        if self.compression:
            self.incompatible |= COMPRESSION
        if self.data_file is not None:
            self.incompatible |= DATA_FILE
            self.autoclear |= DATA_RAW if self.data_raw else 0
        l1_bytes = max(self.l1_entries * 8, 1)
        self.refer(0, 1)
        self.refer(self.refcount_table, self.refcount_table_clusters * self.cluster)
        self.refer(self.l1_offset, l1_bytes)
        self.count_tables(self.tables)
        for snapshot in self.snapshots:
            self.refer(snapshot.l1_offset, l1_bytes)
            self.count_tables(snapshot.tables)
        if self.snapshots:
            entries = b"".join(s.entry(self.version) for s in self.snapshots)
            self.snapshots_offset = self.take(-(-len(entries) // self.cluster))
            self.put(self.snapshots_offset, entries)
            self.refer(self.snapshots_offset, len(entries))
        if self.bitmap_list:
            self.autoclear |= BITMAPS
            directory = b"".join(self.bitmap_list)
            self.directory_offset = self.take(-(-len(directory) // self.cluster))
            self.put(self.directory_offset, directory)
            self.refer(self.directory_offset, len(directory))
        self.place_refcounts()
        for snapshot in self.snapshots:
            self.place_l1(snapshot.l1_offset, self.l1_entries, snapshot.tables, False)
            for table in snapshot.tables.values():
                self.place_l2(table, False)
        self.place_l1(self.l1_offset, self.l1_entries, self.tables, True)
        for table in self.tables.values():
            self.place_l2(table, self.references[table.offset // self.cluster] == 1)
        self.put(0, self.header())
        return self

    def save(self, path, length=None):
        """Writes the file, and its data file beside it; length cuts or lengthens it."""
        with open(path, "wb") as file:
            file.truncate(self.end)
            for offset, data in self.parts:
                file.seek(offset)
                file.write(data)
            if length is not None:
                file.truncate(length)
        if self.data_file:
            with open(self.data_file, "wb") as file:
                for offset, data in self.data_parts.items():
                    file.seek(offset)
                    file.write(data)
                file.truncate(round_up(self.size, self.cluster))
        return self
