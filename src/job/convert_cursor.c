/* SPDX-License-Identifier: MIT */
/* Cuts the disks that a conversion reads into pieces. */
#include "job/convert_cursor.h"

#define LOOK_BYTES_MAX (1ull << 30) /* asked of the source at once */
#define BRIDGE_BYTES   (32u << 10)  /* shorter zeros between data are read with it */

void vd_convert_cursor_init(struct vd_convert_cursor *cursor)
{
    cursor->position = 0;
    cursor->index = 0;
    cursor->known = (struct vd_convert_piece){0};
    vd_mutex_init(&cursor->lock);
}

void vd_convert_cursor_destroy(struct vd_convert_cursor *cursor)
{
    vd_mutex_destroy(&cursor->lock);
}

/* The end of the data piece that begins at @start, at most. */
static uint64_t piece_limit(const struct vd_convert_cursor *cursor, uint64_t start)
{
    uint64_t limit = vd_round_down(start, VD_CONVERT_PIECE_BYTES) + VD_CONVERT_PIECE_BYTES;
    return vd_min(limit, cursor->source->size);
}

/* What is at @offset?  The answer reaches from there to the end of *stretch. */
static int look(struct vd_convert_cursor *cursor, uint64_t offset, struct vd_convert_piece *stretch,
                struct vdisk_error *err)
{
    struct vd_convert_piece *known = &cursor->known;
    if (offset < known->range.offset || offset >= vd_range_end(known->range)) {
        struct vdisk_error inner = {0};
        uint64_t length = vd_min(cursor->source->size - offset, LOOK_BYTES_MAX);
        known->range.offset = offset;
        int ret = vd_convert_source_look(cursor->source, vd_range(offset, length), &known->is_zero,
                                         &known->range.length, &inner);
        if (ret < 0 && !cursor->salvages) {
            known->range.length = 0;
            return vd_err_copy(err, &inner);
        }
        if (ret < 0) { /* reading it will find out what is lost */
            known->is_zero = false;
            known->range.length = piece_limit(cursor, offset) - offset;
        }
    }
    *stretch = *known;
    return 0;
}

/* The end of the zeros that begin at @offset, at most at @limit; @offset if there are none. */
static int zeros_end(struct vd_convert_cursor *cursor, uint64_t offset, uint64_t limit,
                     uint64_t *end, struct vdisk_error *err)
{
    *end = offset;
    while (*end < limit) {
        struct vd_convert_piece stretch;
        int ret = look(cursor, *end, &stretch, err);
        if (ret < 0)
            return ret;
        if (!stretch.is_zero)
            return 0;
        *end = vd_min(vd_range_end(stretch.range), limit);
    }
    return 0;
}

/* The end of the data that begins at @start: whole units, short zeros included. */
static int data_end(struct vd_convert_cursor *cursor, uint64_t start, uint64_t *end,
                    struct vdisk_error *err)
{
    uint64_t limit = piece_limit(cursor, start);
    uint64_t at = vd_min(start + cursor->unit_bytes, limit);
    while (at < limit) {
        struct vd_convert_piece stretch;
        uint64_t zeros;
        int ret = look(cursor, at, &stretch, err);
        if (ret < 0)
            return ret;
        if (!stretch.is_zero) {
            at = vd_min(vd_range_end(stretch.range), limit);
            continue;
        }
        ret = zeros_end(cursor, at, limit, &zeros, err);
        if (ret < 0)
            return ret;
        if (zeros == limit || zeros - at > BRIDGE_BYTES + cursor->unit_bytes) {
            at = vd_min(vd_round_up(at, cursor->unit_bytes), limit);
            break;
        }
        at = zeros;
    }
    *end = at;
    return 0;
}

static int next_locked(struct vd_convert_cursor *cursor, struct vd_convert_piece *piece,
                       struct vdisk_error *err)
{
    uint64_t start = cursor->position;
    uint64_t size = cursor->source->size;
    uint64_t end;
    int ret =
        zeros_end(cursor, start, start + vd_min(size - start, cursor->zero_bytes_max), &end, err);
    if (ret < 0)
        return ret;
    if (end < size)
        end = vd_round_down(end, cursor->unit_bytes); /* C2 */
    piece->is_zero = end > start;
    if (!piece->is_zero)
        ret = data_end(cursor, start, &end, err);
    if (ret < 0)
        return ret;
    piece->range = vd_range(start, end - start);
    piece->index = cursor->index++;
    cursor->position = end;
    return 0;
}

int vd_convert_cursor_next(struct vd_convert_cursor *cursor, struct vd_convert_piece *piece,
                           struct vdisk_error *err)
{
    int ret = 0;
    *piece = (struct vd_convert_piece){0};
    vd_mutex_lock(&cursor->lock);
    if (cursor->position < cursor->source->size)
        ret = next_locked(cursor, piece, err);
    vd_mutex_unlock(&cursor->lock);
    return ret;
}
