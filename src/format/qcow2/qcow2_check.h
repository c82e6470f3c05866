/* SPDX-License-Identifier: MIT */
/*
 * A check of a qcow2 image, shared by its files.  It works on the file itself, whatever the caches
 * of an open image have.
 *
 * K1  What QEMU counts as a corruption, a leak or an error is counted the same, once for each way
 *     that leads to it.  A table is read once, however often something leads to it: what is found
 * in it counts as often as there are ways to it. K2  Time and memory are limited by what the file
 * really has: places behind its end take none, and tables that lie over each other are read up to
 * VD_QCOW2_CHECK_EXTRA_BYTES.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_CHECK_H
#define VD_FORMAT_QCOW2_QCOW2_CHECK_H

#include "format/format.h"
#include "format/qcow2/qcow2_counts.h"
#include "format/qcow2/qcow2_header.h"

/* K2: most bytes of tables that are read although other tables have them, too. */
#define VD_QCOW2_CHECK_EXTRA_BYTES (UINT64_C(1) << 30)
/* K2: most bytes of the L1 tables of all snapshots. */
#define VD_QCOW2_CHECK_L1_BYTES (UINT64_C(16) << 30)
/* Findings that are told in words; all are counted. */
#define VD_QCOW2_CHECK_REPORTS 10000u

/* A place that L1 entries lead to, as an L2 table. */
struct vd_qcow2_way {
    uint64_t offset;   /* 0: free */
    uint64_t active;   /* entries of the active L1 table */
    uint64_t others;   /* entries of snapshots */
    uint64_t l1_index; /* of one of them */
};

/* All of them: by a hash, or sorted by offset. */
struct vd_qcow2_ways {
    struct vd_qcow2_way *entries;
    size_t capacity; /* of the hash; a power of two, or 0 */
    size_t used;
    bool is_sorted; /* the first `used` ones */
};

/* A snapshot's L1 table. */
struct vd_qcow2_old_l1 {
    uint64_t offset;
    uint64_t entries;
    uint64_t weight; /* so many snapshots have it */
    uint64_t moved;  /* where a repair has put it; 0: nowhere else */
};

struct vd_qcow2_check_run {
    struct vd_storage *file;
    struct vd_qcow2_header *header; /* the caller's; a repair changes it */
    const struct vd_cipher *cipher; /* of guest data; NULL: none, or there is no key */
    struct vd_qcow2_geometry geometry;
    const struct vd_check *check;
    struct vdisk_check_result *result;
    bool has_data_file;
    bool skips_refcounts; /* what refcount table and blocks take is left out */
    uint64_t counts_bytes_max;
    bool refcounts_only;       /* and COPIED bits: all else is left to who asks for it */
    bool was_dirty;            /* before the repair */
    uint64_t new_place;        /* of refcounts that are made anew: first cluster; 0: to be chosen */
    bool moves_refcounts;      /* the work is to bring them nearer to the start */
    const uint32_t *new_order; /* NULL, or the work is to give refcounts this width */

    /* Of one look at all. */
    uint64_t file_bytes; /* rounded up to 512 */
    uint64_t clusters;   /* of the file, a last incomplete one included */
    uint64_t end;        /* one more than the last cluster with a reference or a refcount */
    struct vd_qcow2_counts counts;
    struct vd_qcow2_ways ways;
    struct vd_qcow2_old_l1 *old_l1; /* sorted, each once */
    size_t old_l1_entries;
    struct be64 *refcount_table;
    uint64_t refcount_table_entries;
    bool needs_rebuild;      /* refcounts can not be mended where they are */
    bool has_io_errors;      /* something could not be read: nothing is mended */
    bool has_excess;         /* more references than a refcount holds */
    uint64_t bad_entries;    /* of tables: to be mended one by one */
    bool bad_bitmaps;        /* some lead nowhere */
    bool bad_directory;      /* of bitmaps */
    bool bad_snapshots;      /* the snapshot table has to be made anew */
    uint64_t snapshot_bytes; /* of the snapshot table */
    bool has_seen_snapshots;
    uint32_t snapshots_there; /* when first seen: those before the end of the file */
    uint64_t extra_bytes;     /* K2: left */
    unsigned reports;

    uint8_t *table;       /* room for an L2 table */
    struct be64 *l1;      /* room for VD_QCOW2_CHECK_L1_PART entries */
    uint8_t *block;       /* room for a refcount block: */
    uint64_t block_index; /* this one, UINT64_MAX: none */
    bool block_is_empty;
};

#define VD_QCOW2_CHECK_L1_PART 65536u /* entries that are read at once */

/* One finding, counted @weight times. */
__attribute__((format(printf, 3, 4))) void vd_qcow2_check_corruption(struct vd_qcow2_check_run *run,
                                                                     uint64_t weight,
                                                                     const char *fmt, ...);

/* In words only, as long as there are not too many. */
__attribute__((format(printf, 2, 3))) void vd_qcow2_check_tell(struct vd_qcow2_check_run *run,
                                                               const char *fmt, ...);

/* Reads what the file has there; the rest is zero.  *is_empty: all is zero. */
int vd_qcow2_check_read(struct vd_qcow2_check_run *run, uint64_t offset, void *buffer,
                        uint64_t bytes, bool *is_empty, struct vdisk_error *err);

/* What could not be read, in @inner: an error of the check; nothing will be mended. */
void vd_qcow2_check_unreadable(struct vd_qcow2_check_run *run, const char *what,
                               const struct vdisk_error *inner);

/* Does [@offset, @offset + @bytes) end so far behind the file's end that it can not be there? */
bool vd_qcow2_check_is_behind(const struct vd_qcow2_check_run *run, uint64_t offset,
                              uint64_t bytes);

/* @weight more references to all clusters that the range touches; a finding if it is behind the
 * end.  @what: for words. */
int vd_qcow2_check_refer(struct vd_qcow2_check_run *run, struct vd_range range, uint64_t weight,
                         const char *what, struct vdisk_error *err);

/* The same for metadata other than L2 tables. */
int vd_qcow2_check_refer_meta(struct vd_qcow2_check_run *run, struct vd_range range,
                              uint64_t weight, const char *what, struct vdisk_error *err);

/* Makes *fields what the header has, durably; as it was, if that fails. */
int vd_qcow2_check_write_fields(struct vd_qcow2_check_run *run,
                                const struct vd_qcow2_fields *fields, struct vdisk_error *err);

/* ---- qcow2_check_map.c: L1 and L2 tables ---- */

/* References of the active tables and of those of snapshots; COPIED bits. */
int vd_qcow2_check_map(struct vd_qcow2_check_run *run, struct vdisk_error *err);

/* The way to @offset, NULL: none.  The ways are sorted. */
const struct vd_qcow2_way *vd_qcow2_check_way(const struct vd_qcow2_check_run *run,
                                              uint64_t offset);

/* ---- qcow2_check_snap.c ---- */

/* The snapshot table: fills old_l1, and refers to the table itself. */
int vd_qcow2_check_snapshots(struct vd_qcow2_check_run *run, struct vdisk_error *err);

/* ---- qcow2_check_bitmaps.c ---- */

struct vd_qcow2_bitmap_dir;

/* Are there any?  Without the autoclear bit they mean nothing, and what they take is leaked. */
bool vd_qcow2_check_has_bitmaps(const struct vd_qcow2_check_run *run);

/* The directory that there is.  -EBADMSG: it is none; -ENOTSUP: it has what is not known here. */
int vd_qcow2_check_read_directory(struct vd_qcow2_check_run *run, struct vd_qcow2_bitmap_dir *dir,
                                  struct vdisk_error *err);

/* Is this how long the table of a bitmap has to be? */
bool vd_qcow2_check_bitmap_length(const struct vd_qcow2_check_run *run, uint32_t flags,
                                  uint32_t granularity_bits, uint32_t table_entries);

/* References of bitmaps. */
int vd_qcow2_check_bitmaps(struct vd_qcow2_check_run *run, struct vdisk_error *err);

/* ---- qcow2_check_refs.c ---- */

/* Reads the refcount table, and notes which refcounts are 1. */
int vd_qcow2_check_load_refcounts(struct vd_qcow2_check_run *run, struct vdisk_error *err);

/* References to refcount table and blocks; the last ones to be counted. */
int vd_qcow2_check_refer_refcounts(struct vd_qcow2_check_run *run, struct vdisk_error *err);

/* Is the stored refcount of @cluster 1?  *is_known: there is an answer. */
bool vd_qcow2_check_stored_is_one(struct vd_qcow2_check_run *run, uint64_t cluster, bool *is_known);

/* Compares stored refcounts with references, and mends what @repair says. */
int vd_qcow2_check_compare(struct vd_qcow2_check_run *run, enum vdisk_repair repair,
                           struct vdisk_error *err);

/* Writes one refcount into a block; at most refcount_max. */
void vd_qcow2_check_put_refcount(uint32_t order, uint8_t *block, uint32_t index, uint64_t value);

/* ---- qcow2_mend.c ---- */

/* Is there anything that vd_qcow2_mend_entries() would mend? */
bool vd_qcow2_mend_is_needed(const struct vd_qcow2_check_run *run);

/* Entries that lead nowhere, bits that mean nothing, tables where something else is; durable.
 * After it all has to be looked at again.  @is_repeated: not for the first time in this repair. */
int vd_qcow2_mend_entries(struct vd_qcow2_check_run *run, bool is_repeated,
                          struct vdisk_error *err);

/* The COPIED bits of the active tables, by the references there are; durable. */
int vd_qcow2_mend_copied(struct vd_qcow2_check_run *run, struct vdisk_error *err);

/* ---- qcow2_rebuild.c ---- */

/* Refcount table and blocks anew, by the references that were counted without them; durable. */
int vd_qcow2_rebuild(struct vd_qcow2_check_run *run, struct vdisk_error *err);

#endif
