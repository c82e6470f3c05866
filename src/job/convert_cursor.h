/* SPDX-License-Identifier: MIT */
/*
 * Cuts the disks that a conversion reads into the pieces its workers deal with.
 *
 * C1  Pieces come in order and leave nothing out.  A piece is zero by the word of the source, and
 *     then never read; or it may hold data, and then is at most VD_CONVERT_PIECE_BYTES long and
 *     crosses no multiple of them.
 * C2  Pieces begin at multiples of the unit, so no two workers write to one cluster of the target.
 */
#ifndef VD_JOB_CONVERT_CURSOR_H
#define VD_JOB_CONVERT_CURSOR_H

#include "job/convert_source.h"
#include "util/mutex.h"

#define VD_CONVERT_PIECE_BYTES (2u << 20)

/* A stretch of the whole that is one kind. */
struct vd_convert_piece {
    struct vd_range range;
    uint64_t index; /* 0, 1, ... */
    bool is_zero;
};

struct vd_convert_cursor {
    const struct vd_convert_source *source;
    uint64_t unit_bytes;     /* power of two, at most VD_CONVERT_PIECE_BYTES */
    uint64_t zero_bytes_max; /* longest zero piece: multiple of the unit */
    bool salvages;           /* where the source can not tell, it is taken for data */

    struct vd_mutex lock;
    uint64_t position;             /* under lock: start of the next piece */
    uint64_t index;                /* under lock: its number */
    struct vd_convert_piece known; /* under lock: last answer of the source */
};

/* The caller has filled in the first four.  Goes to vd_convert_cursor_destroy(). */
void vd_convert_cursor_init(struct vd_convert_cursor *cursor);
void vd_convert_cursor_destroy(struct vd_convert_cursor *cursor);

/* The next piece; length 0 when there is none left.  Any thread. */
int vd_convert_cursor_next(struct vd_convert_cursor *cursor, struct vd_convert_piece *piece,
                           struct vdisk_error *err);

#endif
