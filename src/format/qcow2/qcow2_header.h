/* SPDX-License-Identifier: MIT */
/*
 * The first cluster of a qcow2 image: header, extensions, backing file name.
 *
 * N1  What is not known is preserved: fields behind the known ones, and extensions.
 * N2  The first 512 bytes are what switches from old to new.  All that must never be torn apart is
 *     in them after the first rewriting: the fixed fields, and the extensions for the backing
 *     format, bitmaps and encryption, and the data file's name.  A rewriting that changes more than
 *     these 512 bytes takes three steps, each durable before the next: the first sector as it was,
 *     but with the extensions ended behind those; the other sectors, the name of the backing file
 *     where the old one is not; the first sector as it shall be.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_HEADER_H
#define VD_FORMAT_QCOW2_QCOW2_HEADER_H

#include <stddef.h>

#include "format/qcow2/qcow2_geometry.h"
#include "storage/storage.h"
#include "util/err.h"

/* The fixed fields. */
struct vd_qcow2_fields {
    uint32_t version; /* 2 or 3 */
    uint64_t backing_offset;
    uint32_t backing_bytes;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method; /* of enum vd_qcow2_crypt */
    uint32_t l1_entries;
    uint64_t l1_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t snapshot_entries;
    uint64_t snapshots_offset;
    uint64_t incompatible; /* the words and the rest of version 2 are as it means them */
    uint64_t compatible;
    uint64_t autoclear;
    uint32_t refcount_order;
    uint32_t header_bytes;
    uint8_t compression_type;
};

/* An extension that is not one of those below. */
struct vd_qcow2_extension {
    uint32_t type;
    uint32_t length; /* bytes */
    uint8_t *bytes;
};

struct vd_qcow2_bitmaps_extension {
    bool is_present;
    bool is_draft; /* of 16 bytes, as in 2016: nothing else here is set; kept as it is */
    bool is_wrong; /* with VD_QCOW2_HEADER_CHECK only: contradicts the format; kept as it is */
    uint32_t entries;
    uint64_t directory_bytes;
    uint64_t directory_offset;
};

struct vd_qcow2_crypto_extension {
    bool is_present;
    uint64_t offset;
    uint64_t length; /* bytes */
};

struct vd_qcow2_header {
    struct vd_qcow2_fields fields;
    char *backing_name;   /* owned; NULL: none */
    char *backing_format; /* owned; NULL: not recorded */
    char *data_file;      /* owned; NULL: not recorded */
    struct vd_qcow2_bitmaps_extension bitmaps;
    struct vd_qcow2_crypto_extension crypto;
    struct vd_qcow2_extension *others; /* N1; feature names too.  Owned */
    size_t other_entries;
    uint8_t *rest; /* N1: of the header, behind compression_type.  Owned */
    size_t rest_bytes;
};

enum vd_qcow2_header_flag {
    /* For check: what repair makes anew may be wrong: bitmaps, and where refcounts are. */
    VD_QCOW2_HEADER_CHECK = 1 << 0
};

/* Is this the start of such an image? */
bool vd_qcow2_header_is_here(const uint8_t *head, size_t head_bytes);

/*
 * Reads and checks it, each field against the limits and the others: what is good here can be
 * computed with, and the L1 table is in the file.  The bitmaps extension is checked if its
 * autoclear bit is set; that bit without the extension is left to who writes.  Bits that say that
 * the image can not be opened (unknown incompatible ones) are errors with their names; DIRTY and
 * CORRUPT are the caller's.  -EBADMSG, -ENOTSUP.  @header goes to vd_qcow2_header_free(), after a
 * failure too.
 */
int vd_qcow2_header_read(struct vd_storage *file, unsigned flags, struct vd_qcow2_header *header,
                         struct vdisk_error *err);

/* A zeroed one is accepted. */
void vd_qcow2_header_free(struct vd_qcow2_header *header);

/* A copy of its own, to be changed. */
int vd_qcow2_header_copy(const struct vd_qcow2_header *from, struct vd_qcow2_header *to,
                         struct vdisk_error *err);

/*
 * Makes @header what the file has, durably and in the steps of N2; all else is durable already
 * where it has to be.  backing_offset and backing_bytes of @header are filled in.  -ENOSPC: there
 * is not room enough in the first cluster, or its first sector; nothing is changed then.
 */
int vd_qcow2_header_write(struct vd_storage *file, struct vd_qcow2_header *header,
                          struct vdisk_error *err);

/* The same, for who has changed fixed fields only: one write of the first sector, NOT flushed. */
int vd_qcow2_header_write_fields(struct vd_storage *file, const struct vd_qcow2_header *header,
                                 struct vdisk_error *err);

/*
 * The whole first cluster of a new image, in @bytes of geometry.cluster_bytes, zeroed.
 * header_bytes is that of the version; backing_offset and backing_bytes are filled in.
 */
int vd_qcow2_header_format(struct vd_qcow2_header *header, uint8_t *bytes, struct vdisk_error *err);

static inline struct vd_qcow2_geometry vd_qcow2_header_geometry(
    const struct vd_qcow2_header *header)
{
    return vd_qcow2_geometry_of(header->fields.cluster_bits, header->fields.refcount_order,
                                (header->fields.incompatible & VD_QCOW2_EXTENDED_L2) != 0);
}

#endif
