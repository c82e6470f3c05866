/* SPDX-License-Identifier: MIT */
/* The pieces of a merge, and the workers that take them. */
#include "job/merge.h"

#include <assert.h>

#include "image/copy.h"
#include "util/mem.h"
#include "util/workers.h"

#define LOOK_BYTES_MAX  (1ull << 30)  /* asked at once */
#define ZERO_BYTES_MAX  (64ull << 20) /* written as zeros at once */
#define LEAVE_BYTES_MAX (1ull << 40)  /* passed over at once */

void vd_merge_init(struct vd_merge *merge)
{
    vd_mutex_init(&merge->lock);
    merge->position = merge->start;
    merge->known = vd_range(0, 0);
    atomic_init(&merge->read_bytes, 0);
    atomic_init(&merge->data_bytes, 0);
    atomic_init(&merge->zero_bytes, 0);
}

void vd_merge_destroy(struct vd_merge *merge)
{
    vd_mutex_destroy(&merge->lock);
}

int vd_merge_write(struct vd_merge *merge, const uint8_t *bytes, struct vd_range range,
                   struct vdisk_error *err)
{
    int ret = vdisk_image_pwrite(merge->target, bytes, (size_t)range.length, range.offset, err);
    if (ret < 0)
        return ret;
    atomic_fetch_add(&merge->data_bytes, range.length);
    if (merge->is_durable)
        vd_image_write_behind(merge->target, range.offset, range.length);
    return 0;
}

int vd_merge_zero(struct vd_merge *merge, struct vd_range range, struct vdisk_error *err)
{
    int ret = vdisk_image_write_zeroes(merge->target, range.offset, range.length, 0, err);
    if (ret == 0)
        atomic_fetch_add(&merge->zero_bytes, range.length);
    return ret;
}

/* ---- Pieces ---- */

struct piece {
    struct vd_range range; /* length 0: none is left */
    enum vd_merge_kind kind;
};

/* What is at @offset?  *end gets how far the answer is good. */
static int look_locked(struct vd_merge *merge, uint64_t offset, enum vd_merge_kind *kind,
                       uint64_t *end, struct vdisk_error *err) VD_REQUIRES(merge->lock)
{
    if (offset < merge->known.offset || offset >= vd_range_end(merge->known)) {
        struct vd_range range = vd_range(offset, vd_min(merge->size - offset, LOOK_BYTES_MAX));
        uint64_t length = 0;
        int ret = merge->rules->look(merge, range, &merge->known_kind, &length, err);
        if (ret < 0) {
            merge->known.length = 0;
            return ret;
        }
        assert(length > 0 && length <= range.length);
        merge->known = vd_range(offset, length);
    }
    *kind = merge->known_kind;
    *end = vd_range_end(merge->known);
    return 0;
}

/* M1: the furthest that a piece of this kind, which begins at @start, may go. */
static uint64_t piece_limit(const struct vd_merge *merge, uint64_t start, enum vd_merge_kind kind)
{
    uint64_t length = VD_MERGE_PIECE_BYTES - start % VD_MERGE_PIECE_BYTES;
    if (kind == VD_MERGE_ZERO)
        length = ZERO_BYTES_MAX;
    if (kind == VD_MERGE_LEAVE)
        length = LEAVE_BYTES_MAX;
    return start + vd_min(length, merge->size - start);
}

static int next_locked(struct vd_merge *merge, struct piece *piece, struct vdisk_error *err)
    VD_REQUIRES(merge->lock)
{
    uint64_t start = merge->position;
    enum vd_merge_kind kind;
    uint64_t end;
    int ret = look_locked(merge, start, &piece->kind, &end, err);
    if (ret < 0)
        return ret;
    uint64_t limit = piece_limit(merge, start, piece->kind);
    uint64_t at = vd_min(end, limit);
    while (at < limit) {
        ret = look_locked(merge, at, &kind, &end, err);
        if (ret < 0)
            return ret;
        if (kind != piece->kind)
            break;
        at = vd_min(end, limit);
    }
    piece->range = vd_range(start, at - start);
    merge->position = at;
    return 0;
}

static int next_piece(struct vd_merge *merge, struct piece *piece, struct vdisk_error *err)
{
    int ret = 0;
    *piece = (struct piece){0};
    vd_mutex_lock(&merge->lock);
    if (merge->position < merge->size)
        ret = next_locked(merge, piece, err);
    vd_mutex_unlock(&merge->lock);
    return ret;
}

/* ---- Workers ---- */

static int read_piece(struct vd_merge *merge, struct vd_range range,
                      const struct vd_merge_buffers *buffers, struct vdisk_error *err)
{
    int ret = vd_job_throttle(merge->job, range.length, err);
    if (ret == 0)
        ret = merge->rules->copy(merge, range, buffers, err);
    if (ret == 0)
        atomic_fetch_add(&merge->read_bytes, range.length);
    return ret;
}

static int merge_pieces(struct vd_merge *merge, const struct vd_merge_buffers *buffers,
                        struct vdisk_error *err)
{
    for (;;) {
        struct piece piece;
        int ret = next_piece(merge, &piece, err);
        if (ret < 0 || !piece.range.length)
            return ret;
        if (piece.kind == VD_MERGE_READ)
            ret = read_piece(merge, piece.range, buffers, err);
        else if (piece.kind == VD_MERGE_ZERO)
            ret = merge->rules->zero(merge, piece.range, err);
        if (ret < 0)
            return ret;
        struct vd_job_step step = {
            .done_bytes =
                merge->rules->weigh ? merge->rules->weigh(merge, piece.range) : piece.range.length,
            .moved_bytes = piece.kind == VD_MERGE_READ ? piece.range.length : 0,
        };
        ret = vd_job_advance(merge->job, step, err);
        if (ret < 0)
            return ret;
    }
}

static int work(void *opaque, unsigned index, struct vdisk_error *err)
{
    struct vd_merge *merge = opaque;
    CLEANUP_FREE uint8_t *first = vd_alloc_io(VD_MERGE_PIECE_BYTES);
    CLEANUP_FREE uint8_t *second = vd_alloc_io(VD_MERGE_PIECE_BYTES);
    struct vd_merge_buffers buffers = {.bytes = {first, second}, .worker = index};
    int ret =
        first && second ? merge_pieces(merge, &buffers, err) : vd_err_nomem(err, "buffers to copy");
    return ret < 0 ? vd_job_fail(merge->job, err) : 0;
}

int vd_merge_work(struct vd_merge *merge, unsigned workers, struct vdisk_error *err)
{
    return vd_workers_run(vd_job_workers(workers), work, merge, err);
}

int vd_merge_run(struct vd_merge *merge, const char *phase, unsigned workers,
                 struct vdisk_error *err)
{
    int ret = vd_job_phase(merge->job, phase, merge->size - merge->start, 0, err);
    return ret < 0 ? ret : vd_merge_work(merge, workers, err);
}
