/* SPDX-License-Identifier: MIT */
/*
 * Requests of any length as calls of pieces that a server takes.
 *
 * The wrapper above (align.c) sees to it that data comes in whole units of the server.  Its last
 * unit may end past the end of the export: that part is not sent.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/nbd_priv.h"
#include "util/iov.h"
#include "util/mem.h"

/* A buffer of the caller's that has so much is worth a piece of its own; less is gathered. */
#define DIRECT_BYTES_MIN 65536u

/* Where in the buffers the next piece begins. */
struct cursor {
    const struct iovec *iov;
    size_t skip; /* in all buffers together */
    size_t entry;
    size_t in_entry;
};

static void cursor_skip_empty(struct cursor *cursor)
{
    while (cursor->in_entry == cursor->iov[cursor->entry].iov_len) {
        cursor->entry++;
        cursor->in_entry = 0;
    }
}

static void cursor_move(struct cursor *cursor, size_t length)
{
    cursor->skip += length;
    while (length) {
        cursor_skip_empty(cursor);
        size_t step = (size_t)vd_min(length, cursor->iov[cursor->entry].iov_len - cursor->in_entry);
        cursor->in_entry += step;
        length -= step;
    }
}

static uint64_t piece_bytes(const struct vd_nbd *nbd)
{
    return vd_min(nbd->facts.payload_bytes, vd_max(VD_NBD_PIECE_BYTES, nbd->facts.min_bytes));
}

/* The next piece of @range, at the cursor: in place if its bytes are in one buffer. */
static int make_piece(const struct vd_nbd *nbd, enum vd_nbd_op op, struct cursor *cursor,
                      struct vd_range range, struct vd_nbd_piece *piece, struct vdisk_error *err)
{
    size_t length = (size_t)vd_min(range.length, piece_bytes(nbd));
    cursor_skip_empty(cursor);
    const struct iovec *entry = &cursor->iov[cursor->entry];
    size_t together = entry->iov_len - cursor->in_entry;
    if (together < length && together >= DIRECT_BYTES_MIN &&
        vd_is_aligned(together, nbd->facts.min_bytes))
        length = together;
    *piece = (struct vd_nbd_piece){.range = vd_range(range.offset, length),
                                   .is_bounce = together < length};
    if (!piece->is_bounce) {
        piece->data = (uint8_t *)entry->iov_base + cursor->in_entry;
        return 0;
    }
    piece->data = malloc(length);
    if (!piece->data)
        return vd_err_nomem(err, "a buffer for a request");
    if (op == VD_NBD_WRITE)
        vd_iov_to_buffer(piece->data, length, cursor->iov, cursor->skip);
    return 0;
}

/* What came, to where it belongs; @skip: where the first piece begins in the buffers. */
static void finish_pieces(const struct vd_nbd_call *call, const struct iovec *iov, size_t skip,
                          bool is_good)
{
    for (unsigned i = 0; i < call->piece_count; i++) {
        struct vd_nbd_piece *piece = &call->pieces[i];
        if (piece->is_bounce && is_good && call->op == VD_NBD_READ)
            vd_iov_from_buffer(iov, skip, piece->data, (size_t)piece->range.length);
        if (piece->is_bounce)
            free(piece->data);
        skip += (size_t)piece->range.length;
    }
}

static int transfer(struct vd_nbd *nbd, enum vd_nbd_op op, uint32_t flags, const struct iovec *iov,
                    struct vd_range range, struct vdisk_error *err)
{
    struct vd_nbd_piece pieces[VD_NBD_PIECES_MAX];
    struct cursor cursor = {.iov = iov};
    int ret = 0;
    while (ret == 0 && range.length) {
        struct vd_nbd_call call = {.op = op, .flags = flags, .pieces = pieces};
        size_t skip = cursor.skip;
        while (ret == 0 && range.length && call.piece_count < VD_NBD_PIECES_MAX) {
            struct vd_nbd_piece *piece = &pieces[call.piece_count];
            ret = make_piece(nbd, op, &cursor, range, piece, err);
            if (ret < 0)
                break;
            call.piece_count++;
            cursor_move(&cursor, (size_t)piece->range.length);
            range =
                vd_range(range.offset + piece->range.length, range.length - piece->range.length);
        }
        if (ret == 0)
            ret = vd_nbd_run(nbd, &call, err);
        finish_pieces(&call, iov, skip, ret == 0);
    }
    return ret;
}

/* As transfer(), of a single buffer. */
static int transfer_buffer(struct vd_nbd *nbd, enum vd_nbd_op op, uint32_t flags, void *buffer,
                           struct vd_range range, struct vdisk_error *err)
{
    struct iovec iov = {.iov_base = buffer, .iov_len = (size_t)range.length};
    return transfer(nbd, op, flags, &iov, range, err);
}

/* The end of the export, or of its last unit if that is longer. */
static uint64_t padded_size(const struct vd_nbd *nbd)
{
    return vd_round_up(nbd->facts.size, nbd->facts.min_bytes);
}

/* Of @range, what is before the end of the export. */
static struct vd_range clip(const struct vd_nbd *nbd, struct vd_range range)
{
    uint64_t end = vd_min(vd_range_end(range), nbd->facts.size);
    return vd_range(range.offset, end > range.offset ? end - range.offset : 0);
}

int vd_nbd_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                  uint64_t offset, struct vdisk_error *err)
{
    struct vd_nbd *nbd = storage->state;
    struct vd_range range = vd_range(offset, vd_iov_length(iov, iov_entries));
    if (!vd_range_is_within(range, padded_size(nbd)))
        return vd_err_set(err, EIO,
                          "reading %" PRIu64 " bytes at offset %" PRIu64
                          ": the export ends at %" PRIu64,
                          range.length, offset, nbd->facts.size);
    struct vd_range inside = clip(nbd, range);
    int ret = transfer(nbd, VD_NBD_READ, 0, iov, inside, err);
    static const uint8_t zeros[512];
    for (uint64_t at = inside.length; ret == 0 && at < range.length;) {
        size_t step = (size_t)vd_min(sizeof(zeros), range.length - at);
        vd_iov_from_buffer(iov, (size_t)at, zeros, step);
        at += step;
    }
    return ret;
}

static int refuse_growth(const struct vd_nbd *nbd, struct vd_range range, struct vdisk_error *err)
{
    return vd_err_set(err, ENOSPC,
                      "changing %" PRIu64 " bytes at offset %" PRIu64 ": the export has %" PRIu64
                      " bytes, and can not grow",
                      range.length, range.offset, nbd->facts.size);
}

static uint32_t fua_flag(const struct vd_nbd *nbd)
{
    return nbd->is_sync && (nbd->facts.can & VD_NBD_CAN_FUA) ? LIBNBD_CMD_FLAG_FUA : 0;
}

/* Each change is durable at once, if that is wanted, and the server could not be asked for it. */
static int settle(struct vd_storage *storage, struct vdisk_error *err)
{
    const struct vd_nbd *nbd = storage->state;
    return nbd->is_sync && !fua_flag(nbd) ? vd_nbd_flush(storage, err) : 0;
}

int vd_nbd_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                   uint64_t offset, struct vdisk_error *err)
{
    struct vd_nbd *nbd = storage->state;
    struct vd_range range = vd_range(offset, vd_iov_length(iov, iov_entries));
    if (!vd_range_is_within(range, padded_size(nbd)))
        return refuse_growth(nbd, range, err);
    range = clip(nbd, range);
    vd_nbd_change_begin(&nbd->extents, range);
    int ret = transfer(nbd, VD_NBD_WRITE, fua_flag(nbd), iov, range, err);
    vd_nbd_change_end(&nbd->extents, range);
    return ret < 0 ? ret : settle(storage, err);
}

/* Commands without data, for whole units. */
static int change_units(struct vd_nbd *nbd, enum vd_nbd_op op, uint32_t flags,
                        struct vd_range range, struct vdisk_error *err)
{
    struct vd_nbd_piece pieces[VD_NBD_PIECES_MAX];
    int ret = 0;
    while (ret == 0 && range.length) {
        struct vd_nbd_call call = {.op = op, .flags = flags, .pieces = pieces};
        while (range.length && call.piece_count < VD_NBD_PIECES_MAX) {
            uint64_t length = vd_min(range.length, VD_NBD_ZERO_BYTES);
            pieces[call.piece_count++] =
                (struct vd_nbd_piece){.range = vd_range(range.offset, length)};
            range = vd_range(range.offset + length, range.length - length);
        }
        ret = vd_nbd_run(nbd, &call, err);
    }
    return ret;
}

/* Zeros in a part of one unit; the wrapper has seen to it that nobody else changes the unit. */
static int zero_part(struct vd_nbd *nbd, struct vd_range part, struct vdisk_error *err)
{
    if (!part.length)
        return 0;
    struct vd_range unit = clip(nbd, vd_range_expand(part, nbd->facts.min_bytes));
    CLEANUP_FREE uint8_t *buffer = malloc((size_t)unit.length);
    if (!buffer)
        return vd_err_nomem(err, "a unit of an export");
    int ret = transfer_buffer(nbd, VD_NBD_READ, 0, buffer, unit, err);
    if (ret < 0)
        return ret;
    memset(buffer + (part.offset - unit.offset), 0, (size_t)part.length);
    return transfer_buffer(nbd, VD_NBD_WRITE, fua_flag(nbd), buffer, unit, err);
}

/* The whole units within @range. */
static struct vd_range inner_units(const struct vd_nbd *nbd, struct vd_range range)
{
    uint64_t start = vd_round_up(range.offset, nbd->facts.min_bytes);
    uint64_t end = vd_round_down(vd_range_end(range), nbd->facts.min_bytes);
    return vd_range(start, end > start ? end - start : 0);
}

/* Zeros in @range, which lies within the export. */
static int zero_range(struct vd_nbd *nbd, struct vd_range range, uint32_t flags,
                      struct vdisk_error *err)
{
    struct vd_range inner = inner_units(nbd, range);
    uint64_t end = vd_range_end(range);
    if (!inner.length) { /* in one unit, or in two neighbours */
        uint64_t border = vd_round_up(range.offset + 1, nbd->facts.min_bytes);
        inner = vd_range(vd_min(border, end), 0);
    }
    int ret = zero_part(nbd, vd_range(range.offset, inner.offset - range.offset), err);
    if (ret == 0)
        ret = change_units(nbd, VD_NBD_ZERO, flags | fua_flag(nbd), inner, err);
    if (ret == 0)
        ret = zero_part(nbd, vd_range(vd_range_end(inner), end - vd_range_end(inner)), err);
    return ret;
}

int vd_nbd_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                        struct vdisk_error *err)
{
    struct vd_nbd *nbd = storage->state;
    if (!(nbd->facts.can & VD_NBD_CAN_ZERO))
        return -EOPNOTSUPP;
    if (!vd_range_is_within(range, nbd->facts.size))
        return refuse_growth(nbd, range, err);
    uint32_t keep = flags & VD_STORAGE_ZERO_MAY_PUNCH ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
    vd_nbd_change_begin(&nbd->extents, range);
    int ret = zero_range(nbd, range, keep, err);
    vd_nbd_change_end(&nbd->extents, range);
    return ret < 0 ? ret : settle(storage, err);
}

/*
 * A trim promises nothing of what is read then; zeros that may leave a hole do.  So where the
 * server has both, what is discarded reads as zero.
 */
int vd_nbd_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    struct vd_nbd *nbd = storage->state;
    range = clip(nbd, range);
    if (!(nbd->facts.can & VD_NBD_CAN_TRIM))
        return -EOPNOTSUPP;
    if (!range.length)
        return 0;
    vd_nbd_change_begin(&nbd->extents, range);
    int ret;
    if (nbd->facts.can & VD_NBD_CAN_ZERO)
        ret = zero_range(nbd, range, 0, err);
    else
        ret = change_units(nbd, VD_NBD_TRIM, fua_flag(nbd), inner_units(nbd, range), err);
    vd_nbd_change_end(&nbd->extents, range);
    return ret < 0 ? ret : settle(storage, err);
}
