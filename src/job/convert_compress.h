/* SPDX-License-Identifier: MIT */
/*
 * A conversion into compressed clusters: pieces are encoded side by side and written in a line.
 *
 * Z1  Pieces are written in the order of the disk, whoever encoded them: so who reads the disk from
 *     its start reads the file so, too, and the same disk makes the same file.
 * Z2  A cluster that does not shrink is written as it is; one that is zero is left to be zero.
 * Z3  Nobody waits for the turn of a piece: it is left in its lot, and written by whoever writes
 *     the one before it.  There are some lots more than workers.  A lot is taken before a piece is,
 *     so the piece that all others wait for has one.
 */
#ifndef VD_JOB_CONVERT_COMPRESS_H
#define VD_JOB_CONVERT_COMPRESS_H

#include "image/image.h"
#include "job/convert_cursor.h"

/* Where a piece is, on its way. */
struct vd_convert_lot {
    struct vd_convert_piece piece;
    uint8_t *buf;     /* owned: what is at piece.range */
    uint8_t *streams; /* owned */
    size_t streams_used;

    /* In order.  length 0: not encoded, and then zero if there are no bytes. */
    struct vd_image_encoded *clusters; /* owned */
    size_t entries;

    bool is_taken; /* under the line's lock */
    bool is_ready; /* under the line's lock: to be written */
};

struct vd_convert_line {
    size_t cluster_bytes;        /* of the target */
    uint64_t disk_bytes;         /* of the target */
    bool keeps_zeros;            /* clusters that are zero are encoded as the others */
    enum vd_codec codec;         /* of the target */
    struct vd_convert_lot *lots; /* owned */
    size_t lot_entries;

    struct vd_mutex lock;
    struct vd_cond freed;
    uint64_t turn;   /* under lock: number of the piece to be written next */
    bool is_writing; /* under lock: somebody is */
    bool is_stopped; /* under lock */
};

/* For so many workers.  Goes to vd_convert_line_destroy(), also if it fails. */
int vd_convert_line_init(struct vd_convert_line *line, struct vdisk_image *target, unsigned workers,
                         struct vdisk_error *err);
void vd_convert_line_destroy(struct vd_convert_line *line);

/* A lot that is free; waits for one.  NULL: stopped. */
struct vd_convert_lot *vd_convert_line_take(struct vd_convert_line *line);

/*
 * Encodes @range of lot->buf, which is whole clusters of the piece but for its end, behind what
 * was before.
 */
int vd_convert_line_encode(const struct vd_convert_line *line, struct vd_convert_lot *lot,
                           struct vd_encoder *encoder, struct vd_range range,
                           struct vdisk_error *err);

/* How many clusters of the lot from @first on are alike: encoded, zero, or neither. */
size_t vd_convert_lot_run(const struct vd_convert_lot *lot, size_t first);

typedef int (*vd_convert_lot_fn)(void *opaque, const struct vd_convert_lot *lot,
                                 struct vdisk_error *err);

/* Puts the lot into the line, and calls @write for those whose turn it is, one after the other. */
int vd_convert_line_put(struct vd_convert_line *line, struct vd_convert_lot *lot,
                        vd_convert_lot_fn write, void *opaque, struct vdisk_error *err);

/* Somebody failed: nobody waits any more. */
void vd_convert_line_stop(struct vd_convert_line *line);

#endif
