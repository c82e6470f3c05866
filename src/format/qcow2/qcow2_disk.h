/* SPDX-License-Identifier: MIT */
/* What is on disk in a qcow2 image, big-endian: docs/formats/qcow2.md. */
#ifndef VD_FORMAT_QCOW2_QCOW2_DISK_H
#define VD_FORMAT_QCOW2_QCOW2_DISK_H

#include <assert.h>

#include "util/endian.h"

#define VD_QCOW2_MAGIC                UINT32_C(0x514649fb) /* "QFI\xfb" */

#define VD_QCOW2_CLUSTER_BITS_MIN     9u
#define VD_QCOW2_CLUSTER_BITS_MAX     21u
#define VD_QCOW2_REFCOUNT_ORDER_MAX   6u
#define VD_QCOW2_COMPRESSION_MAX      1u /* zstd */

#define VD_QCOW2_EXTENDED_L2_BITS_MIN 14u /* of cluster_bits */

/* Limits that QEMU has too: what is larger does not open. */
#define VD_QCOW2_L1_BYTES_MAX             (UINT64_C(32) << 20)
#define VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX (UINT64_C(8) << 20)
#define VD_QCOW2_CRYPTO_BYTES_MAX         (UINT64_C(16) << 20) /* LUKS takes 2 MiB */
#define VD_QCOW2_SNAPSHOTS_MAX            65536u
#define VD_QCOW2_SNAPSHOT_BYTES_MAX       (UINT64_C(64) << 20) /* the whole table */
#define VD_QCOW2_NAME_BYTES_MAX           1023u
#define VD_QCOW2_BITMAPS_MAX              65535u

/* The header; version 2 ends before `incompatible`. */
struct vd_qcow2_disk_header {
    struct be32 magic;
    struct be32 version;
    struct be64 backing_offset;
    struct be32 backing_bytes;
    struct be32 cluster_bits;
    struct be64 size;
    struct be32 crypt_method;
    struct be32 l1_entries;
    struct be64 l1_offset;
    struct be64 refcount_table_offset;
    struct be32 refcount_table_clusters;
    struct be32 snapshot_entries;
    struct be64 snapshots_offset;
    struct be64 incompatible;
    struct be64 compatible;
    struct be64 autoclear;
    struct be32 refcount_order;
    struct be32 header_bytes;
    uint8_t compression_type; /* there if header_bytes > 104 */
    uint8_t padding[7];
};
static_assert(sizeof(struct vd_qcow2_disk_header) == 112, "the header with compression type");

#define VD_QCOW2_V2_HEADER_BYTES 72u
#define VD_QCOW2_V3_HEADER_BYTES 104u /* at least */
#define VD_QCOW2_REST_OFFSET     105u /* of the header: behind compression_type */

enum vd_qcow2_incompatible {
    VD_QCOW2_DIRTY = 1 << 0,
    VD_QCOW2_CORRUPT = 1 << 1,
    VD_QCOW2_DATA_FILE = 1 << 2,
    VD_QCOW2_COMPRESSION = 1 << 3, /* compression_type is not 0 */
    VD_QCOW2_EXTENDED_L2 = 1 << 4
};
#define VD_QCOW2_INCOMPATIBLE_KNOWN UINT64_C(0x1f)

enum vd_qcow2_compatible {
    VD_QCOW2_LAZY_REFCOUNTS = 1 << 0
};

enum vd_qcow2_autoclear {
    VD_QCOW2_BITMAPS = 1 << 0, /* the bitmaps extension is up to date */
    VD_QCOW2_DATA_RAW = 1 << 1 /* the data file alone is the whole disk */
};
#define VD_QCOW2_AUTOCLEAR_KNOWN UINT64_C(0x3)

enum vd_qcow2_crypt {
    VD_QCOW2_CRYPT_NONE = 0,
    VD_QCOW2_CRYPT_AES = 1,
    VD_QCOW2_CRYPT_LUKS = 2
};

/* Extensions begin with this, and are padded to 8 bytes. */
struct vd_qcow2_disk_extension {
    struct be32 type;
    struct be32 bytes; /* of what follows, padding not counted */
};
static_assert(sizeof(struct vd_qcow2_disk_extension) == 8, "an extension's head");

#define VD_QCOW2_EXT_END            UINT32_C(0)
#define VD_QCOW2_EXT_BACKING_FORMAT UINT32_C(0xe2792aca)
#define VD_QCOW2_EXT_FEATURE_NAMES  UINT32_C(0x6803f857)
#define VD_QCOW2_EXT_BITMAPS        UINT32_C(0x23852875)
#define VD_QCOW2_EXT_CRYPTO         UINT32_C(0x0537be77)
#define VD_QCOW2_EXT_DATA_FILE      UINT32_C(0x44415441)

struct vd_qcow2_disk_feature_name {
    uint8_t kind; /* 0: incompatible, 1: compatible, 2: autoclear */
    uint8_t bit;
    char name[46];
};
static_assert(sizeof(struct vd_qcow2_disk_feature_name) == 48, "a feature's name");

struct vd_qcow2_disk_bitmaps {
    struct be32 entries;
    struct be32 reserved;
    struct be64 directory_bytes;
    struct be64 directory_offset;
};
static_assert(sizeof(struct vd_qcow2_disk_bitmaps) == 24, "the bitmaps extension");

struct vd_qcow2_disk_crypto {
    struct be64 offset;
    struct be64 bytes;
};
static_assert(sizeof(struct vd_qcow2_disk_crypto) == 16, "the crypto extension");

/* An entry of the snapshot table; extra data, id and name follow, padded to 8 bytes. */
struct vd_qcow2_disk_snapshot {
    struct be64 l1_offset;
    struct be32 l1_entries;
    struct be16 id_bytes;
    struct be16 name_bytes;
    struct be32 date_sec;
    struct be32 date_nsec;
    struct be64 vm_clock_nsec;
    struct be32 vm_state_bytes;
    struct be32 extra_bytes;
};
static_assert(sizeof(struct vd_qcow2_disk_snapshot) == 40, "a snapshot's fixed part");

/* The start of its extra data, as far as it is there. */
struct vd_qcow2_disk_snapshot_extra {
    struct be64 vm_state_bytes;
    struct be64 disk_size;
    struct be64 icount;
};
static_assert(sizeof(struct vd_qcow2_disk_snapshot_extra) == 24, "a snapshot's extra data");

/* An entry of the bitmap directory; extra data and name follow, padded to 8 bytes. */
struct vd_qcow2_disk_bitmap {
    struct be64 table_offset;
    struct be32 table_entries;
    struct be32 flags;
    uint8_t type;
    uint8_t granularity_bits;
    struct be16 name_bytes;
    struct be32 extra_bytes;
};
static_assert(sizeof(struct vd_qcow2_disk_bitmap) == 24, "a bitmap's fixed part");

/* Entries of L1 and L2 tables. */
#define VD_QCOW2_OFFSET_BITS       56u /* no place in the file is at 2^56 or behind */
#define VD_QCOW2_ENTRY_OFFSET      UINT64_C(0x00fffffffffffe00)
#define VD_QCOW2_ENTRY_COPIED      (UINT64_C(1) << 63) /* its cluster's refcount is exactly 1 */
#define VD_QCOW2_ENTRY_COMPRESSED  (UINT64_C(1) << 62) /* L2 only */
#define VD_QCOW2_ENTRY_ZERO        UINT64_C(1)         /* L2, version 3, not extended */
#define VD_QCOW2_L1_RESERVED       UINT64_C(0x7f000000000001ff)
#define VD_QCOW2_L2_RESERVED       UINT64_C(0x3f000000000001fe) /* of standard clusters */
#define VD_QCOW2_REFTABLE_RESERVED UINT64_C(0x1ff)

#endif
