/* SPDX-License-Identifier: MIT */
/*
 * Cuts two disks into the pieces that have to be compared by reading.
 *
 * P1  Pieces come in order, are at most VD_COMPARE_PIECE_BYTES long, cross no multiple of them, and
 *     leave out only what reads as zero in both disks by their metadata.
 * P2  Past its end a disk reads as zero.
 * P3  When strict, a piece ends where the allocation of the two disks begins to differ.
 */
#ifndef VD_JOB_COMPARE_CURSOR_H
#define VD_JOB_COMPARE_CURSOR_H

#include "image/image.h"
#include "util/mutex.h"

#define VD_COMPARE_PIECE_BYTES (2u << 20)

struct vd_compare_piece {
    uint64_t number;       /* 0, 1, 2, ... */
    struct vd_range range; /* what is to be compared */
    bool is_zero[2];       /* all of it, by the metadata */
    uint64_t passed_bytes; /* left out before it */
};

/* The run of one disk at some offset. */
struct vd_compare_run {
    struct vd_range range;
    uint32_t flags; /* of enum vdisk_extent_flag */
};

struct vd_compare_cursor {
    struct vdisk_image *images[2];
    uint64_t sizes[2];
    bool strict;

    struct vd_mutex lock;
    /* Under lock: */
    uint64_t position;
    uint64_t number;
    struct vd_compare_run known[2]; /* last answers */
};

enum vd_compare_next {
    VD_COMPARE_NEXT_PIECE,
    VD_COMPARE_NEXT_END,   /* none left: only piece->passed_bytes is good */
    VD_COMPARE_NEXT_STATUS /* strict: the allocation differs at *offset */
};

/* The caller has filled in the first three.  Goes to vd_compare_cursor_destroy(). */
void vd_compare_cursor_init(struct vd_compare_cursor *cursor);
void vd_compare_cursor_destroy(struct vd_compare_cursor *cursor);

/*
 * Returns an enum vd_compare_next, or a negative errno; *offset is where that was found.  Pieces
 * begin before @limit.  Any thread.
 */
int vd_compare_cursor_next(struct vd_compare_cursor *cursor, uint64_t limit,
                           struct vd_compare_piece *piece, uint64_t *offset,
                           struct vdisk_error *err);

#endif
