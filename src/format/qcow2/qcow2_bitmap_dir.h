/* SPDX-License-Identifier: MIT */
/*
 * The bitmap directory of a qcow2 image, and the entries of bitmap tables: bytes to structs and
 * back, with every field checked.  No I/O.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_BITMAP_DIR_H
#define VD_FORMAT_QCOW2_QCOW2_BITMAP_DIR_H

#include <stdbool.h>
#include <stddef.h>

#include "format/qcow2/qcow2_header.h"

#define VD_QCOW2_BITMAP_NAME_BYTES_MAX      1023u
#define VD_QCOW2_BITMAP_DIR_BYTES_MAX       (UINT64_C(65535) * 1024)
#define VD_QCOW2_BITMAP_TABLE_ENTRIES_MAX   UINT32_C(0x8000000)
#define VD_QCOW2_BITMAP_DATA_BYTES_MAX      (UINT64_C(1) << 29) /* clusters of one bitmap */
#define VD_QCOW2_BITMAP_GRANULARITY_MIN     9u                  /* bits */
#define VD_QCOW2_BITMAP_GRANULARITY_MAX     31u
#define VD_QCOW2_BITMAP_TYPE_DIRTY_TRACKING 1u

enum vd_qcow2_bitmap_flag {
    VD_QCOW2_BITMAP_IN_USE = 1 << 0, /* memory knows more than the file, or did when it was lost */
    VD_QCOW2_BITMAP_AUTO = 1 << 1    /* enabled: records what is written */
};

/* One entry of the directory. */
struct vd_qcow2_bitmap_entry {
    char *name; /* owned; 1 .. VD_QCOW2_BITMAP_NAME_BYTES_MAX bytes */
    uint64_t table_offset;
    uint32_t table_entries; /* of 8 bytes */
    uint32_t flags;         /* of enum vd_qcow2_bitmap_flag */
    uint32_t granularity_bits;
};

/* Starts zeroed; goes to vd_qcow2_bitmap_dir_free(). */
struct vd_qcow2_bitmap_dir {
    struct vd_qcow2_bitmap_entry *entries;
    size_t count;
};

/* Zeroed ones are accepted. */
void vd_qcow2_bitmap_dir_free(struct vd_qcow2_bitmap_dir *dir);

/* Is the place that the header gives one that a directory can have?  -EBADMSG, or -ENOTSUP for the
 * draft of 2016. */
int vd_qcow2_bitmap_dir_check_place(const struct vd_qcow2_bitmaps_extension *extension,
                                    uint32_t cluster_bits, struct vdisk_error *err);

/*
 * @bytes: extension->directory_bytes of the file; the extension has passed check_place(). -EBADMSG;
 * -ENOTSUP: what this library does not know.
 */
int vd_qcow2_bitmap_dir_decode(const struct vd_qcow2_bitmaps_extension *extension,
                               const uint8_t *bytes, uint32_t cluster_bits,
                               struct vd_qcow2_bitmap_dir *dir, struct vdisk_error *err);

/* Of the entry in the directory, padding included. */
size_t vd_qcow2_bitmap_entry_bytes(const struct vd_qcow2_bitmap_entry *entry);

/* What encode() makes of @dir. */
uint64_t vd_qcow2_bitmap_dir_bytes(const struct vd_qcow2_bitmap_dir *dir);

/* @bytes: vd_qcow2_bitmap_dir_bytes(). */
void vd_qcow2_bitmap_dir_encode(const struct vd_qcow2_bitmap_dir *dir, uint8_t *bytes);

/* Is @name one that a bitmap can have?  -EINVAL */
int vd_qcow2_bitmap_check_name(const char *name, struct vdisk_error *err);

/* How many table entries has a bitmap of a disk of @disk_bytes? */
static inline uint64_t vd_qcow2_bitmap_table_entries(uint64_t disk_bytes, uint32_t granularity_bits,
                                                     uint32_t cluster_bits)
{
    uint64_t bits = vd_div_up(disk_bytes, UINT64_C(1) << granularity_bits);
    return vd_div_up(vd_div_up(bits, 8), UINT64_C(1) << cluster_bits);
}

enum vd_qcow2_bitmap_piece {
    VD_QCOW2_BITMAP_ZEROS,
    VD_QCOW2_BITMAP_ONES,
    VD_QCOW2_BITMAP_DATA /* a cluster of bits */
};

/* An entry of a table: one cluster of bits.  False: it is none. */
bool vd_qcow2_bitmap_piece_decode(uint64_t value, uint32_t cluster_bits,
                                  enum vd_qcow2_bitmap_piece *piece, uint64_t *host);

static inline uint64_t vd_qcow2_bitmap_piece_encode(enum vd_qcow2_bitmap_piece piece, uint64_t host)
{
    return piece == VD_QCOW2_BITMAP_DATA ? host : piece == VD_QCOW2_BITMAP_ONES;
}

#endif
