/* SPDX-License-Identifier: MIT */
/*
 * Requests of any bytes on a storage that takes only whole units.
 *
 * A1  The driver's preadv and pwritev see whole units in aligned buffers, and pwritev only units of
 *     which every byte is known: given by the caller, read before, or past the end and so zero.
 * A2  A change holds the units that it touches from before it reads them until it has written them.
 *     One that covers only a part of a unit holds them alone; those that cover whole units do not
 *     mind each other.  So no byte of a neighbour is ever written back after the neighbour changed
 *     it.  Reads hold nothing: a unit that is written back has the same bytes where nobody changed
 *     them.
 * A3  A change that writes a unit at or past the end of the storage, or changes its size, holds all
 *     from its first unit up, alone.  So there is one such change at a time, and it knows the size.
 * A4  Direct I/O can only write the last unit whole: what that adds too much is cut off before the
 *     hold ends.  After a write past the end the size is exactly the end of the write; after one
 *     that failed it is what it was.
 * A5  present_bytes is a size that the storage had and still has at least: only a resize, which
 *     holds all above its new end, makes it smaller.  What ends below needs no look at the size; a
 *     change looks at present_bytes again when it holds its range.
 */
#include "storage/align.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/iov.h"
#include "util/mem.h"

#define BOUNCE_BYTES (1u << 20)

/* Past every offset that a request can have. */
#define END_OF_OFFSETS (UINT64_MAX / 2 + 1)

void vd_align_init(struct vd_align *align)
{
    vd_mutex_init(&align->lock);
    vd_cond_init(&align->changed);
    align->holds = NULL;
    atomic_init(&align->present_bytes, 0);
}

void vd_align_destroy(struct vd_align *align)
{
    vd_cond_destroy(&align->changed);
    vd_mutex_destroy(&align->lock);
}

static bool is_held_against(const struct vd_align *align, const struct vd_align_hold *wanted)
{
    for (const struct vd_align_hold *hold = align->holds; hold; hold = hold->next)
        if (vd_ranges_overlap(hold->range, wanted->range) &&
            (hold->is_exclusive || wanted->is_exclusive))
            return true;
    return false;
}

/* A2 */
static void hold_range(struct vd_align *align, struct vd_align_hold *hold)
{
    vd_mutex_lock(&align->lock);
    while (is_held_against(align, hold))
        vd_cond_wait(&align->changed, &align->lock);
    hold->next = align->holds;
    align->holds = hold;
    vd_mutex_unlock(&align->lock);
}

static void release(struct vd_align *align, struct vd_align_hold *hold)
{
    vd_mutex_lock(&align->lock);
    struct vd_align_hold **link = &align->holds;
    while (*link != hold)
        link = &(*link)->next;
    *link = hold->next;
    vd_cond_broadcast(&align->changed);
    vd_mutex_unlock(&align->lock);
}

/* The size; the caller holds the end of offsets, or it can not change. */
static int read_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    int ret = storage->driver->size(storage, size, err);
    if (ret == 0)
        atomic_store(&storage->align.present_bytes, *size);
    return ret;
}

int vd_align_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    if (storage->align_bytes == 1)
        return storage->driver->size(storage, size, err);
    /* A4: not while a padded unit is there. */
    struct vd_align_hold hold = {.range = vd_range(END_OF_OFFSETS - 1, 1), .is_exclusive = true};
    hold_range(&storage->align, &hold);
    int ret = read_size(storage, size, err);
    release(&storage->align, &hold);
    return ret;
}

static bool is_present(struct vd_storage *storage, uint64_t end)
{
    return end <= atomic_load(&storage->align.present_bytes);
}

static bool buffers_are_aligned(const struct iovec *iov, int iov_entries, uint64_t unit)
{
    for (int i = 0; i < iov_entries; i++)
        if (!vd_is_aligned((uintptr_t)iov[i].iov_base | iov[i].iov_len, unit))
            return false;
    return true;
}

static bool range_is_aligned(struct vd_range range, uint64_t unit)
{
    return vd_is_aligned(range.offset | range.length, unit);
}

static void *alloc_bounce(struct vd_storage *storage, size_t length, struct vdisk_error *err)
{
    void *buffer = NULL;
    size_t alignment = (size_t)vd_max(storage->align_bytes, VD_PAGE_BYTES);
    if (posix_memalign(&buffer, alignment, length) != 0) {
        vd_err_nomem(err, "a buffer for direct I/O");
        return NULL;
    }
    return buffer;
}

static int driver_read(struct vd_storage *storage, void *buf, size_t length, uint64_t offset,
                       struct vdisk_error *err)
{
    struct iovec iov = {.iov_base = buf, .iov_len = length};
    return storage->driver->preadv(storage, &iov, 1, offset, err);
}

static int bounce_read(struct vd_storage *storage, const struct iovec *iov, struct vd_range range,
                       struct vdisk_error *err)
{
    struct vd_range units = vd_range_expand(range, storage->align_bytes);
    size_t bounce_bytes = (size_t)vd_min(units.length, BOUNCE_BYTES);
    CLEANUP_FREE uint8_t *bounce = alloc_bounce(storage, bounce_bytes, err);
    if (!bounce)
        return -ENOMEM;

    for (uint64_t at = units.offset; at < vd_range_end(units); at += bounce_bytes) {
        size_t step = (size_t)vd_min(bounce_bytes, vd_range_end(units) - at);
        int ret = driver_read(storage, bounce, step, at, err);
        if (ret < 0)
            return ret;
        uint64_t from = vd_max(at, range.offset);
        uint64_t to = vd_min(at + step, vd_range_end(range));
        vd_iov_from_buffer(iov, (size_t)(from - range.offset), bounce + (from - at),
                           (size_t)(to - from));
    }
    return 0;
}

int vd_align_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                    uint64_t offset, struct vdisk_error *err)
{
    if (storage->align_bytes == 1)
        return storage->driver->preadv(storage, iov, iov_entries, offset, err);

    struct vd_range range = vd_range(offset, vd_iov_length(iov, iov_entries));
    if (!is_present(storage, vd_range_end(range))) {
        uint64_t size;
        int ret = vd_align_size(storage, &size, err);
        if (ret < 0)
            return ret;
        if (vd_range_end(range) > size)
            return vd_err_set(err, EIO,
                              "reading %" PRIu64 " bytes at offset %" PRIu64
                              ": it ends at offset %" PRIu64,
                              range.length, offset, size);
    }
    if (range_is_aligned(range, storage->align_bytes) &&
        buffers_are_aligned(iov, iov_entries, storage->align_bytes))
        return storage->driver->preadv(storage, iov, iov_entries, offset, err);
    return bounce_read(storage, iov, range, err);
}

/* A1: the unit at @at, which the caller's bytes cover in part; @size: where zeros begin. */
static int fill_unit(struct vd_storage *storage, uint8_t *unit, uint64_t at, uint64_t size,
                     struct vdisk_error *err)
{
    if (at < size)
        return driver_read(storage, unit, storage->align_bytes, at, err);
    memset(unit, 0, storage->align_bytes);
    return 0;
}

/* The caller holds the units of @range; @size: bytes that are there. */
static int bounce_write(struct vd_storage *storage, const struct iovec *iov, struct vd_range range,
                        uint64_t size, struct vdisk_error *err)
{
    uint64_t unit = storage->align_bytes;
    struct vd_range units = vd_range_expand(range, unit);
    uint64_t end = vd_range_end(range);
    size_t bounce_bytes = (size_t)vd_min(units.length, BOUNCE_BYTES);
    CLEANUP_FREE uint8_t *bounce = alloc_bounce(storage, bounce_bytes, err);
    if (!bounce)
        return -ENOMEM;

    for (uint64_t at = units.offset; at < vd_range_end(units); at += bounce_bytes) {
        size_t step = (size_t)vd_min(bounce_bytes, vd_range_end(units) - at);
        uint64_t last = at + step - unit;
        int ret = 0;
        if (at < range.offset)
            ret = fill_unit(storage, bounce, at, size, err);
        if (ret == 0 && last + unit > end && (last != at || at >= range.offset))
            ret = fill_unit(storage, bounce + (last - at), last, size, err);
        if (ret < 0)
            return ret;
        uint64_t from = vd_max(at, range.offset);
        uint64_t to = vd_min(at + step, end);
        vd_iov_to_buffer(bounce + (from - at), (size_t)(to - from), iov,
                         (size_t)(from - range.offset));
        struct iovec whole = {.iov_base = bounce, .iov_len = step};
        ret = storage->driver->pwritev(storage, &whole, 1, at, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/*
 * Holds what a change of @range needs: A2, A3.  *size: bytes that are there, at least.
 * hold->range ends at END_OF_OFFSETS if the change may write past the end.
 */
static int begin_change(struct vd_storage *storage, struct vd_range range,
                        struct vd_align_hold *hold, uint64_t *size, struct vdisk_error *err)
{
    struct vd_align *align = &storage->align;
    struct vd_range units = vd_range_expand(range, storage->align_bytes);
    uint64_t end = vd_range_end(units);
    int ret;

    if (!is_present(storage, end)) {
        ret = vd_align_size(storage, size, err);
        if (ret < 0)
            return ret;
    }
    if (is_present(storage, end)) {
        *hold = (struct vd_align_hold){
            .range = units, .is_exclusive = !range_is_aligned(range, storage->align_bytes)};
        hold_range(align, hold);
        *size = atomic_load(&align->present_bytes);
        if (end <= *size) /* A5: as it was */
            return 0;
        release(align, hold);
    }
    *hold = (struct vd_align_hold){.range = vd_range(units.offset, END_OF_OFFSETS - units.offset),
                                   .is_exclusive = true};
    hold_range(align, hold);
    ret = read_size(storage, size, err);
    if (ret < 0)
        release(align, hold);
    return ret;
}

/* A4: after an attempt to write up to @end, with @size bytes there before. */
static int trim(struct vd_storage *storage, int ret, uint64_t size, uint64_t end,
                struct vdisk_error *err)
{
    uint64_t wanted = ret < 0 ? size : vd_max(size, end);
    uint64_t now = wanted;
    struct vdisk_error trim_err = {0};
    int trim_ret = storage->driver->size(storage, &now, &trim_err);
    if (trim_ret == 0 && now > wanted)
        trim_ret = storage->driver->resize(storage, wanted, &trim_err);
    if (trim_ret == 0)
        atomic_store(&storage->align.present_bytes, vd_min(now, wanted));
    if (ret < 0 || trim_ret == 0)
        return ret;
    vd_err_copy(err, &trim_err);
    return trim_ret;
}

int vd_align_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                     uint64_t offset, struct vdisk_error *err)
{
    if (storage->align_bytes == 1)
        return storage->driver->pwritev(storage, iov, iov_entries, offset, err);

    struct vd_range range = vd_range(offset, vd_iov_length(iov, iov_entries));
    struct vd_align_hold hold;
    uint64_t size;
    int ret = begin_change(storage, range, &hold, &size, err);
    if (ret < 0)
        return ret;
    bool extends = vd_range_end(hold.range) == END_OF_OFFSETS;
    if (extends && !(storage->caps & VD_STORAGE_CAN_RESIZE) && vd_range_end(range) > size)
        ret = vd_err_set(err, ENOSPC,
                         "writing %" PRIu64 " bytes at offset %" PRIu64 ": it has %" PRIu64
                         " bytes, and can not grow",
                         range.length, offset, size);
    else if (range_is_aligned(range, storage->align_bytes) &&
             buffers_are_aligned(iov, iov_entries, storage->align_bytes))
        ret = storage->driver->pwritev(storage, iov, iov_entries, offset, err);
    else
        ret = bounce_write(storage, iov, range, size, err);
    if (extends && (storage->caps & VD_STORAGE_CAN_RESIZE))
        ret = trim(storage, ret, size, vd_range_end(range), err);
    release(&storage->align, &hold);
    return ret;
}

int vd_align_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    if (storage->align_bytes == 1)
        return storage->driver->resize(storage, size, err);

    uint64_t start = vd_round_down(size, storage->align_bytes);
    struct vd_align_hold hold = {.range = vd_range(start, END_OF_OFFSETS - start),
                                 .is_exclusive = true};
    hold_range(&storage->align, &hold);
    int ret = storage->driver->resize(storage, size, err);
    uint64_t now;
    if (read_size(storage, &now, NULL) < 0)
        atomic_store(&storage->align.present_bytes, 0);
    release(&storage->align, &hold);
    return ret;
}

int vd_align_begin(struct vd_storage *storage, struct vd_range range, struct vd_align_hold *hold,
                   struct vdisk_error *err)
{
    uint64_t size;
    return storage->align_bytes == 1 ? 0 : begin_change(storage, range, hold, &size, err);
}

void vd_align_end(struct vd_storage *storage, struct vd_align_hold *hold)
{
    if (storage->align_bytes > 1)
        release(&storage->align, hold);
}
