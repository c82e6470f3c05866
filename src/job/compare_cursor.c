/* SPDX-License-Identifier: MIT */
/* Cuts two disks into the pieces that have to be compared by reading. */
#include "job/compare_cursor.h"

#define LOOK_BYTES_MAX (1ull << 30) /* asked of a disk at once */
#define BRIDGE_BYTES   (64u << 10)  /* shorter zeros between data are read with it */
#define STATUS_FLAGS   (VDISK_EXTENT_DATA | VDISK_EXTENT_ZERO | VDISK_EXTENT_PRESENT)

void vd_compare_cursor_init(struct vd_compare_cursor *cursor)
{
    cursor->position = 0;
    cursor->number = 0;
    for (int i = 0; i < 2; i++)
        cursor->known[i] = (struct vd_compare_run){0};
    vd_mutex_init(&cursor->lock);
}

void vd_compare_cursor_destroy(struct vd_compare_cursor *cursor)
{
    vd_mutex_destroy(&cursor->lock);
}

/* What is at @offset of disk @i?  The answer reaches at least one byte from there. */
static int look_one(struct vd_compare_cursor *cursor, int i, uint64_t offset,
                    struct vdisk_error *err)
{
    struct vd_compare_run *known = &cursor->known[i];
    if (offset >= known->range.offset && offset < vd_range_end(known->range))
        return 0;
    if (offset >= cursor->sizes[i]) { /* P2 */
        known->range = vd_range(offset, UINT64_MAX - offset);
        known->flags = VDISK_EXTENT_ZERO;
        return 0;
    }
    struct vdisk_extent extent;
    known->range.length = 0;
    int ret = vdisk_image_extent(cursor->images[i], offset,
                                 vd_min(cursor->sizes[i] - offset, LOOK_BYTES_MAX), &extent, err);
    if (ret < 0)
        return ret;
    known->range = vd_range(offset, extent.length);
    known->flags = extent.flags;
    return 0;
}

/* *end: both disks are of one kind each from @offset to there. */
static int look(struct vd_compare_cursor *cursor, uint64_t offset, uint64_t *end,
                struct vdisk_error *err)
{
    for (int i = 0; i < 2; i++) {
        int ret = look_one(cursor, i, offset, err);
        if (ret < 0)
            return ret;
    }
    *end = vd_min(vd_range_end(cursor->known[0].range), vd_range_end(cursor->known[1].range));
    return 0;
}

static bool is_zero(const struct vd_compare_cursor *cursor, int i)
{
    return (cursor->known[i].flags & VDISK_EXTENT_ZERO) != 0;
}

static bool has_same_status(const struct vd_compare_cursor *cursor)
{
    return ((cursor->known[0].flags ^ cursor->known[1].flags) & STATUS_FLAGS) == 0;
}

/* Passes what is zero in both disks; *at is where something has to be read, or @limit. */
static int pass_zeros(struct vd_compare_cursor *cursor, uint64_t limit, uint64_t *at,
                      struct vdisk_error *err)
{
    while (*at < limit) {
        uint64_t end;
        int ret = look(cursor, *at, &end, err);
        if (ret < 0)
            return ret;
        if (cursor->strict && !has_same_status(cursor))
            return VD_COMPARE_NEXT_STATUS;
        if (!is_zero(cursor, 0) || !is_zero(cursor, 1))
            return VD_COMPARE_NEXT_PIECE;
        *at = vd_min(end, limit);
    }
    return VD_COMPARE_NEXT_END;
}

/* Fills in the piece that begins at @start, where at least one disk has data. */
static int fill_piece(struct vd_compare_cursor *cursor, uint64_t start, uint64_t size,
                      struct vd_compare_piece *piece, struct vdisk_error *err)
{
    uint64_t limit =
        vd_min(vd_round_down(start, VD_COMPARE_PIECE_BYTES) + VD_COMPARE_PIECE_BYTES, size);
    uint64_t at = start;
    uint64_t data_to = start; /* what lies behind it so far is zero in both */
    piece->is_zero[0] = piece->is_zero[1] = true;
    while (at < limit && at - data_to <= BRIDGE_BYTES) {
        uint64_t end;
        int ret = look(cursor, at, &end, err);
        if (ret < 0 && at > start)
            break; /* met again, and told, as the start of the next piece */
        if (ret < 0)
            return ret;
        if (cursor->strict && !has_same_status(cursor))
            break; /* P3 */
        at = vd_min(end, limit);
        if (!is_zero(cursor, 0) || !is_zero(cursor, 1))
            data_to = at;
        for (int i = 0; i < 2; i++)
            piece->is_zero[i] = piece->is_zero[i] && is_zero(cursor, i);
    }
    piece->range = vd_range(start, data_to - start);
    return 0;
}

static int next_locked(struct vd_compare_cursor *cursor, uint64_t limit,
                       struct vd_compare_piece *piece, uint64_t *offset, struct vdisk_error *err)
{
    uint64_t size = vd_max(cursor->sizes[0], cursor->sizes[1]);
    uint64_t start = cursor->position;
    *offset = start;
    int next = pass_zeros(cursor, vd_min(limit, size), offset, err);
    piece->passed_bytes = *offset - start;
    if (next == VD_COMPARE_NEXT_PIECE) {
        /* A failure is told with the offset at which it was met. */
        struct vdisk_error inner = {0};
        int ret = fill_piece(cursor, *offset, size, piece, &inner);
        if (ret < 0)
            return vd_err_copy(err, &inner);
        piece->number = cursor->number++;
        cursor->position = vd_range_end(piece->range);
    } else {
        cursor->position = *offset;
    }
    return next;
}

int vd_compare_cursor_next(struct vd_compare_cursor *cursor, uint64_t limit,
                           struct vd_compare_piece *piece, uint64_t *offset,
                           struct vdisk_error *err)
{
    *piece = (struct vd_compare_piece){0};
    vd_mutex_lock(&cursor->lock);
    *offset = cursor->position;
    int ret = VD_COMPARE_NEXT_END;
    if (cursor->position < limit)
        ret = next_locked(cursor, limit, piece, offset, err);
    vd_mutex_unlock(&cursor->lock);
    return ret;
}
