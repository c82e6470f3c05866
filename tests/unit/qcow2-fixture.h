/* SPDX-License-Identifier: MIT */
/*
 * qcow2 images made byte by byte from the specification, in sparse memory, and read back the same
 * way: nothing here is the code under test.
 *
 * Layout of a new one: header, refcount table (one cluster), refcount blocks as they are needed,
 * and L1 table, each at the end of the file, as whatever is added later.  All refcounts are right.
 */
#ifndef QCOW2_FIXTURE_H
#define QCOW2_FIXTURE_H

#include <string.h>

#include "drivers/check.h"
#include "drivers/snap.h"
#include "format/qcow2/qcow2_geometry.h"

#define KIB           UINT64_C(1024)
#define MIB           (UINT64_C(1) << 20)
#define GIB           (UINT64_C(1) << 30)
#define TIB           (UINT64_C(1) << 40)

#define Q2_COPIED     (UINT64_C(1) << 63)
#define Q2_COMPRESSED (UINT64_C(1) << 62)
#define Q2_ZERO       UINT64_C(1)

/* What a new image is to be; zeroed: version 3, 64 KiB clusters, 16 bits of refcount, no disk. */
struct q2_shape {
    uint32_t version;
    uint32_t cluster_bits;
    uint32_t refcount_order_plus_1; /* 0: 4, as all of version 2 have */
    uint64_t size;
    uint32_t l1_entries;   /* 0: as many as the size needs */
    uint64_t incompatible; /* 0x10: with extended L2 entries */
    uint64_t compatible;
    uint64_t autoclear;
    uint8_t compression_type;
};

struct q2_image {
    struct vd_storage *file;
    struct vd_qcow2_geometry geometry;
    uint64_t cluster; /* bytes */
    uint64_t size;
    uint64_t l1;
    uint64_t refcount_table;
    uint64_t end; /* of the file, in whole clusters */
};

/* ---- bytes, big-endian ---- */

static inline void q2_store(uint8_t *bytes, size_t offset, uint64_t value, size_t length)
{
    for (size_t i = 0; i < length; i++)
        bytes[offset + i] = (uint8_t)(length - i > 8 ? 0 : value >> (8 * (length - 1 - i)));
}

static inline void q2_put(struct vd_storage *file, uint64_t offset, uint64_t value, size_t length)
{
    uint8_t bytes[8];
    q2_store(bytes, 0, value, length);
    VT_OK(vd_storage_pwrite(file, bytes, length, offset, &vt_err));
}

static inline uint64_t q2_get(struct vd_storage *file, uint64_t offset, size_t length)
{
    uint8_t bytes[8];
    uint64_t value = 0;
    VT_OK(vd_storage_pread(file, bytes, length, offset, &vt_err));
    for (size_t i = 0; i < length; i++)
        value = value << 8 | bytes[i];
    return value;
}

static inline void q2_put_bytes(struct vd_storage *file, uint64_t offset, const void *bytes,
                                size_t length)
{
    VT_OK(vd_storage_pwrite(file, bytes, length, offset, &vt_err));
}

static inline uint64_t q2_length(struct vd_storage *file)
{
    uint64_t bytes = 0;
    VT_OK(vd_storage_size(file, &bytes, &vt_err));
    return bytes;
}

static inline void q2_fill(struct vd_storage *file, uint64_t offset, uint64_t length, uint8_t byte)
{
    uint8_t bytes[512];
    memset(bytes, byte, sizeof(bytes));
    for (uint64_t step; length; offset += step, length -= step) {
        step = vd_min(length, sizeof(bytes));
        q2_put_bytes(file, offset, bytes, (size_t)step);
    }
}

/* ---- refcounts ---- */

static inline void q2_set_refcount_in(struct q2_image *image, uint64_t block, uint64_t index,
                                      uint64_t refcount)
{
    unsigned bits = 1u << image->geometry.refcount_order;
    if (bits >= 8) {
        q2_put(image->file, block + index * (bits / 8), refcount, bits / 8);
        return;
    }
    unsigned per_byte = 8 / bits;
    unsigned shift = (unsigned)(index % per_byte) * bits;
    uint64_t at = block + index / per_byte;
    uint64_t mask = ((UINT64_C(1) << bits) - 1) << shift;
    q2_put(image->file, at, (q2_get(image->file, at, 1) & ~mask) | refcount << shift, 1);
}

static inline uint64_t q2_block_of(struct q2_image *image, uint64_t host)
{
    uint64_t index = host / image->cluster / image->geometry.block_entries;
    assert_true(index < image->cluster / 8);
    return q2_get(image->file, image->refcount_table + index * 8, 8);
}

static inline uint64_t q2_refcount(struct q2_image *image, uint64_t host)
{
    unsigned bits = 1u << image->geometry.refcount_order;
    uint64_t block = q2_block_of(image, host);
    uint64_t index = host / image->cluster % image->geometry.block_entries;
    if (block == 0)
        return 0;
    if (bits >= 8)
        return q2_get(image->file, block + index * (bits / 8), bits / 8);
    unsigned per_byte = 8 / bits;
    unsigned shift = (unsigned)(index % per_byte) * bits;
    return q2_get(image->file, block + index / per_byte, 1) >> shift & ((UINT64_C(1) << bits) - 1);
}

/* The file gets longer by @clusters, which read as zero. */
static inline uint64_t q2_extend(struct q2_image *image, uint64_t clusters)
{
    uint64_t at = image->end;
    image->end += clusters * image->cluster;
    VT_OK(vd_storage_resize(image->file, image->end, &vt_err));
    return at;
}

static inline void q2_set_refcount(struct q2_image *image, uint64_t host, uint64_t refcount)
{
    uint64_t block = q2_block_of(image, host);
    if (block == 0) {
        uint64_t index = host / image->cluster / image->geometry.block_entries;
        block = q2_extend(image, 1);
        q2_put(image->file, image->refcount_table + index * 8, block, 8);
        q2_set_refcount(image, block, 1);
    }
    q2_set_refcount_in(image, block, host / image->cluster % image->geometry.block_entries,
                       refcount);
}

/* New clusters, neighbours, at the end of the file: with refcount 1, zeros. */
static inline uint64_t q2_alloc(struct q2_image *image, uint64_t clusters)
{
    uint64_t at = q2_extend(image, clusters);
    for (uint64_t i = 0; i < clusters; i++)
        q2_set_refcount(image, at + i * image->cluster, 1);
    return at;
}

/* ---- header ---- */

/* A header of 112 bytes, or of 72 in version 2, in @head of 112 zeroed bytes. */
static inline void q2_store_header(uint8_t *head, const struct q2_shape *shape)
{
    uint32_t version = shape->version ? shape->version : 3;
    q2_store(head, 0, 0x514649fb, 4);
    q2_store(head, 4, version, 4);
    q2_store(head, 20, shape->cluster_bits ? shape->cluster_bits : 16, 4);
    q2_store(head, 24, shape->size, 8);
    if (version < 3)
        return;
    q2_store(head, 72, shape->incompatible, 8);
    q2_store(head, 80, shape->compatible, 8);
    q2_store(head, 88, shape->autoclear, 8);
    q2_store(head, 96, shape->refcount_order_plus_1 ? shape->refcount_order_plus_1 - 1 : 4, 4);
    q2_store(head, 100, 112, 4);
    head[104] = shape->compression_type;
}

static inline void q2_create(struct q2_image *image, const struct q2_shape *shape)
{
    uint8_t head[112] = {0};
    uint32_t cluster_bits = shape->cluster_bits ? shape->cluster_bits : 16;
    *image = (struct q2_image){
        .geometry = vd_qcow2_geometry_of(
            cluster_bits, shape->refcount_order_plus_1 ? shape->refcount_order_plus_1 - 1 : 4,
            (shape->incompatible & 0x10) != 0),
        .cluster = UINT64_C(1) << cluster_bits,
        .size = shape->size,
    };
    uint64_t l1_entries = shape->l1_entries;
    if (l1_entries == 0)
        l1_entries = (shape->size + image->geometry.l2_span - 1) / image->geometry.l2_span;
    VT_OK(vt_snap_open(0, &image->file, &vt_err));
    q2_store_header(head, shape);
    q2_extend(image, 1);
    q2_put_bytes(image->file, 0, head, shape->version == 2 ? 72 : sizeof(head));
    image->refcount_table = q2_extend(image, 1);
    q2_set_refcount(image, 0, 1);
    q2_set_refcount(image, image->refcount_table, 1);
    uint64_t l1_clusters = (l1_entries * 8 + image->cluster - 1) / image->cluster;
    if (l1_clusters)
        image->l1 = q2_alloc(image, l1_clusters);
    q2_put(image->file, 36, l1_entries, 4);
    q2_put(image->file, 40, image->l1, 8);
    q2_put(image->file, 48, image->refcount_table, 8);
    q2_put(image->file, 56, 1, 4);
}

static inline void q2_destroy(struct q2_image *image)
{
    vd_storage_close(image->file);
}

/* Writes extension @type at *at, which goes behind it. */
static inline void q2_put_extension(struct q2_image *image, uint64_t *at, uint32_t type,
                                    const void *bytes, uint32_t length)
{
    q2_put(image->file, *at, type, 4);
    q2_put(image->file, *at + 4, length, 4);
    if (length)
        q2_put_bytes(image->file, *at + 8, bytes, length);
    *at += 8 + (length + 7) / 8 * 8;
}

/* The name of a backing file, at @at in the first cluster. */
static inline void q2_put_backing(struct q2_image *image, uint64_t at, const char *name)
{
    q2_put_bytes(image->file, at, name, strlen(name));
    q2_put(image->file, 8, at, 8);
    q2_put(image->file, 16, strlen(name), 4);
}

/* ---- tables ---- */

static inline uint64_t q2_l1_entry_at(const struct q2_image *image, uint64_t guest)
{
    return image->l1 + guest / image->geometry.l2_span * 8;
}

/* The L2 table for @guest, which is made if there is none. */
static inline uint64_t q2_table(struct q2_image *image, uint64_t guest)
{
    uint64_t at = q2_l1_entry_at(image, guest);
    uint64_t value = q2_get(image->file, at, 8);
    if (value == 0) {
        value = q2_alloc(image, 1) | Q2_COPIED;
        q2_put(image->file, at, value, 8);
    }
    return value & UINT64_C(0x00fffffffffffe00);
}

/* Where the L2 entry for @guest is; its table is made if there is none. */
static inline uint64_t q2_entry_at(struct q2_image *image, uint64_t guest)
{
    uint64_t index = guest / image->cluster % image->geometry.l2_entries;
    return q2_table(image, guest) + index * image->geometry.entry_bytes;
}

/* @subclusters: the second word of an extended entry. */
static inline void q2_set_entry(struct q2_image *image, uint64_t guest, uint64_t value,
                                uint64_t subclusters)
{
    uint64_t at = q2_entry_at(image, guest);
    q2_put(image->file, at, value, 8);
    if (image->geometry.entry_bytes == 16)
        q2_put(image->file, at + 8, subclusters, 8);
}

static inline uint64_t q2_entry(struct q2_image *image, uint64_t guest)
{
    return q2_get(image->file, q2_entry_at(image, guest), 8);
}

/* A new cluster full of @byte is what @guest has.  Returns where it is. */
static inline uint64_t q2_add_data(struct q2_image *image, uint64_t guest, uint8_t byte)
{
    uint64_t at = q2_alloc(image, 1);
    q2_fill(image->file, at, image->cluster, byte);
    q2_set_entry(image, guest, at | Q2_COPIED, UINT32_MAX);
    return at;
}

#endif
