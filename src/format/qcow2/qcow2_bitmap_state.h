/* SPDX-License-Identifier: MIT */
/* What is in memory of the bitmaps of an open image; for the files qcow2_bitmap*.c only. */
#ifndef VD_FORMAT_QCOW2_QCOW2_BITMAP_STATE_H
#define VD_FORMAT_QCOW2_QCOW2_BITMAP_STATE_H

#include <stdatomic.h>

#include "bitmap/bitmap.h"
#include "format/qcow2/qcow2_bitmap.h"

/* The most memory for the bits and tables of all bitmaps of an image. */
#define VD_QCOW2_BITMAP_MEMORY_MAX (UINT64_C(1) << 30)

/* An array with one entry for each cluster of bits; its memory counts. */
struct vd_qcow2_pieces {
    uint64_t *values;
    size_t count;
};

/*
 * One bitmap.  `entry` and `table` say what the file has; `fresh` and `fresh_table` are places that
 * are taken for what will be stored, and that nothing in the file leads to.
 */
struct vd_qcow2_bitmap {
    struct vd_qcow2_bitmap_entry entry;
    bool is_valid;                /* its bits can be used */
    bool is_in_file;              /* there is a table at entry.table_offset, and it is ours */
    struct vd_bitmap *bits;       /* NULL: not loaded */
    struct vd_bitmap *resized;    /* between resize() and resized() */
    struct vd_qcow2_pieces table; /* values NULL: not loaded */
    struct vd_qcow2_pieces fresh; /* a place for a piece that has changed; 0: none */
    uint64_t fresh_table;         /* 0: none */
    bool is_changed;              /* those with a fresh place have changed */
    bool is_rewritten;            /* all pieces have */
};

/* What a write has to do: */
enum vd_qcow2_dirty_state {
    VD_QCOW2_DIRTY_UNKNOWN,  /* look for bitmaps that record, and mark them */
    VD_QCOW2_DIRTY_NONE,     /* nothing */
    VD_QCOW2_DIRTY_RECORDING /* set the bits of `recording` */
};

struct vd_qcow2_list {
    struct vd_qcow2_bitmap **bitmaps; /* owned, and what they are */
    size_t count;
};

struct vd_qcow2_dirty {
    struct vd_mutex lock;
    struct vd_bitmap_budget budget;
    atomic_int state; /* of enum vd_qcow2_dirty_state */

    /* Under lock; what is in the list changes only while no other call runs. */
    bool is_loaded;
    bool is_trusted; /* D4: the autoclear bit is set */
    bool is_checked; /* the places that they had are theirs alone */
    struct vd_qcow2_list list;

    /* The list of those that record, while state is RECORDING. */
    struct vd_qcow2_bitmap **recording;
    size_t recording_count;

    uint64_t fresh_directory; /* a place for the directory, 0: none; under lock */
};

/* ---- qcow2_bitmap.c ---- */

/* Zeroed pieces, within the budget. */
int vd_qcow2_pieces_new(struct vd_qcow2 *qcow2, size_t count, struct vd_qcow2_pieces *pieces,
                        struct vdisk_error *err);
void vd_qcow2_pieces_free(struct vd_qcow2 *qcow2, struct vd_qcow2_pieces *pieces);

/* Frees memory; NULL is accepted.  Places that were taken stay taken. */
void vd_qcow2_bitmap_free(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap);
void vd_qcow2_list_free(struct vd_qcow2 *qcow2, struct vd_qcow2_list *list);

/* NULL: there is none. */
struct vd_qcow2_bitmap *vd_qcow2_list_find(const struct vd_qcow2_list *list, const char *name);

/*
 * The directory, if it has not been read yet, before anything of bitmaps is changed: are the places
 * theirs?  Then the overlap check knows them.  The session has begun.
 */
int vd_qcow2_bitmap_list_claim(struct vd_qcow2 *qcow2, struct vdisk_error *err)
    VD_REQUIRES(qcow2->dirty->lock);

/* The table of one that is in the file, before what it leads to may be given up: is that its own?
 */
int vd_qcow2_bitmap_table_claim(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                                struct vdisk_error *err);

/* Table entries that the bitmap has for a disk of @size bytes; -EFBIG: too many, in words. */
int vd_qcow2_bitmap_count_pieces(const struct vd_qcow2 *qcow2, const char *name,
                                 uint32_t granularity_bits, uint64_t size, size_t *count,
                                 struct vdisk_error *err);

/* ---- qcow2_bitmap_load.c ---- */

/* The directory, if it has not been read yet. */
int vd_qcow2_bitmap_list_load(struct vd_qcow2 *qcow2, struct vdisk_error *err)
    VD_REQUIRES(qcow2->dirty->lock);

/*
 * The table, and the bits of a valid one, if they are not there yet.  The table of one that is not
 * valid is for releasing what it leads to only: what is wrong in it is left out.
 */
int vd_qcow2_bitmap_table_load(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                               struct vdisk_error *err);
int vd_qcow2_bitmap_bits_load(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                              struct vdisk_error *err);

/* ---- qcow2_bitmap_reserve.c: places for what will be stored; under dirty->lock, or alone ---- */

/* Takes clusters, and sets their space aside in the file system. */
int vd_qcow2_bitmap_take(struct vd_qcow2 *qcow2, uint64_t clusters, uint64_t *host,
                         struct vdisk_error *err);

/* D2: places for the pieces that tell of @guest, the table, and the directory. */
int vd_qcow2_bitmap_reserve(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                            struct vd_range guest, struct vdisk_error *err);

/* The same for all of @bits, a bitmap that is stored anew. */
int vd_qcow2_bitmap_reserve_all(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap,
                                const struct vd_bitmap *bits, struct vdisk_error *err);

/* Gives back what is taken and not stored. */
void vd_qcow2_bitmap_unreserve(struct vd_qcow2 *qcow2, struct vd_qcow2_bitmap *bitmap);
void vd_qcow2_bitmap_unreserve_directory(struct vd_qcow2 *qcow2, uint64_t clusters);

/* Clusters of the directory that @list makes, and of a table. */
uint64_t vd_qcow2_list_clusters(const struct vd_qcow2 *qcow2, const struct vd_qcow2_list *list);
uint64_t vd_qcow2_table_clusters(const struct vd_qcow2 *qcow2, size_t pieces);

/* ---- qcow2_bitmap_store.c: under dirty->lock, or alone ---- */

/* Writes the directory over itself with IN_USE on those that @is_wanted says, and flushes. */
int vd_qcow2_bitmap_mark(struct vd_qcow2 *qcow2, bool (*is_wanted)(const struct vd_qcow2_bitmap *),
                         struct vdisk_error *err);

/*
 * Makes @list what the file has: D3.  @dropped: those whose places are released; or NULL.  The
 * tables of all that is rewritten or dropped have been loaded.  *is_stored tells, after a failure
 * too, whether the file has @list now; if not, it has what it had, or the image has failed.
 */
int vd_qcow2_bitmap_list_store(struct vd_qcow2 *qcow2, const struct vd_qcow2_list *list,
                               const struct vd_qcow2_list *dropped, bool *is_stored,
                               struct vdisk_error *err);

/* ---- qcow2_bitmap_change.c ---- */

int vd_qcow2_bitmap_change(struct vd_format *format, const struct vd_bitmap_action *actions,
                           size_t count, struct vdisk_error *err);

#endif
