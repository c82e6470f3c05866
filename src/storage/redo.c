/* SPDX-License-Identifier: MIT */
/*
 * Changes to a file that are kept in a log: the storage that shows them.
 *
 * Changes are made one at a time.  Readers look up, under a lock, where a run of bytes is, and read
 * it without: a block that has a slot keeps it, and one that has none is published when its slot
 * has been written whole.
 */
#include "storage/redo.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/align.h"
#include "storage/redo_priv.h"
#include "util/mem.h"

#define RUN_BYTES_MAX (64u << 20) /* looked up at once */

enum run_kind {
    RUN_BELOW,
    RUN_LOG,
    RUN_ZERO
};

/* Bytes in a row that are at one place. */
struct run {
    enum run_kind kind;
    uint64_t offset; /* there: of below, of the log */
    uint64_t length;
};

static uint64_t block_of(uint64_t offset)
{
    return offset / VD_REDO_BLOCK_BYTES;
}

/* ---- Where things are ---- */

/* What is at range.offset, to the end of the block at most. */
static struct run find_in_block(const struct vd_redo *redo, struct vd_range range)
    VD_REQUIRES(redo->lock)
{
    uint64_t in_block = range.offset % VD_REDO_BLOCK_BYTES;
    uint64_t length = vd_min(range.length, VD_REDO_BLOCK_BYTES - in_block);
    uint32_t value = vd_redo_map_get(&redo->map, block_of(range.offset));
    if (value & VD_REDO_ZERO || (!value && range.offset >= redo->below_bytes))
        return (struct run){.kind = RUN_ZERO, .offset = range.offset, .length = length};
    if (value)
        return (struct run){
            .kind = RUN_LOG, .offset = vd_redo_slot_offset(value - 1) + in_block, .length = length};
    return (struct run){.kind = RUN_BELOW,
                        .offset = range.offset,
                        .length = vd_min(length, redo->below_bytes - range.offset)};
}

/* What is at range.offset, and for how much of @range? */
static struct run find_run(struct vd_redo *redo, struct vd_range range)
{
    vd_mutex_lock(&redo->lock);
    struct run run = find_in_block(redo, range);
    while (run.length < range.length && run.length < RUN_BYTES_MAX) {
        struct vd_range rest = vd_range(range.offset + run.length, range.length - run.length);
        struct run next = find_in_block(redo, rest);
        if (next.kind != run.kind || next.offset != run.offset + run.length)
            break;
        run.length += next.length;
    }
    vd_mutex_unlock(&redo->lock);
    return run;
}

static uint64_t size_now(struct vd_redo *redo)
{
    vd_mutex_lock(&redo->lock);
    uint64_t size = redo->size;
    vd_mutex_unlock(&redo->lock);
    return size;
}

/* ---- Reading ---- */

static int read_run(struct vd_redo *redo, const struct run *run, void *buf, struct vdisk_error *err)
{
    struct iovec iov = {.iov_base = buf, .iov_len = (size_t)run->length};
    switch (run->kind) {
    case RUN_BELOW:
        return vd_align_preadv(redo->below, &iov, 1, run->offset, err);
    case RUN_LOG:
        return vd_storage_preadv(redo->log, &iov, 1, run->offset, err);
    case RUN_ZERO:
        break;
    }
    memset(buf, 0, (size_t)run->length);
    return 0;
}

/* Past the end there are zeros. */
static int read_range(struct vd_redo *redo, void *buf, struct vd_range range,
                      struct vdisk_error *err)
{
    uint8_t *to = buf;
    while (range.length) {
        struct run run = find_run(redo, range);
        int ret = read_run(redo, &run, to, err);
        if (ret < 0)
            return ret;
        to += run.length;
        range = vd_range(range.offset + run.length, range.length - run.length);
    }
    return 0;
}

static int redo_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    struct vd_redo *redo = storage->state;
    uint64_t size = size_now(redo);
    int ret = 0;
    for (int i = 0; i < iov_entries && ret == 0; i++) {
        struct vd_range range = vd_range(offset, iov[i].iov_len);
        if (!vd_range_is_within(range, size))
            return vd_err_set(err, EIO,
                              "reading %" PRIu64 " bytes at offset %" PRIu64
                              ": it ends at offset %" PRIu64,
                              range.length, offset, size);
        ret = read_range(redo, iov[i].iov_base, range, err);
        offset += iov[i].iov_len;
    }
    return ret;
}

static int redo_extent(struct vd_storage *storage, struct vd_range range,
                       struct vd_storage_extent *extent, struct vdisk_error *err)
{
    struct vd_redo *redo = storage->state;
    struct run run = find_run(redo, range);
    extent->kind = run.kind == RUN_ZERO ? VD_STORAGE_HOLE : VD_STORAGE_DATA;
    extent->length = run.length;
    if (run.kind != RUN_BELOW || !redo->below->driver->extent)
        return 0;
    return redo->below->driver->extent(redo->below, vd_range(run.offset, run.length), extent, err);
}

static int redo_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    *size = size_now(storage->state);
    return 0;
}

/* ---- Changing; all that follows with change_lock held, so nothing moves meanwhile ---- */

static int check_change(const struct vd_redo *redo, struct vdisk_error *err)
    VD_REQUIRES(redo->change_lock)
{
    return redo->is_finished
               ? vd_err_set(err, EROFS, "its log is finished: no changes are taken any more")
               : 0;
}

/* Room for @blocks new slots, and for blocks from @first on. */
static int reserve(struct vd_redo *redo, uint64_t first, size_t blocks, struct vdisk_error *err)
    VD_REQUIRES(redo->change_lock)
{
    if (redo->slots + blocks > VD_REDO_SLOT_MASK)
        return vd_err_set(err, EFBIG, "more than %u changed blocks in a log", VD_REDO_SLOT_MASK);
    if (redo->slots + blocks > redo->slot_room) {
        size_t room = (size_t)vd_max(redo->slots + blocks, redo->slot_room * 2);
        uint64_t *more = reallocarray(redo->slot_blocks, room, sizeof(*more));
        if (!more)
            return vd_err_nomem(err, "the index of a log");
        redo->slot_blocks = more;
        redo->slot_room = room;
    }
    int ret = 0;
    vd_mutex_lock(&redo->lock);
    for (size_t i = 0; i < blocks && ret == 0; i++)
        ret = vd_redo_map_reserve(&redo->map, first + i, err);
    vd_mutex_unlock(&redo->lock);
    return ret;
}

static uint32_t value_of(struct vd_redo *redo, uint64_t block)
{
    vd_mutex_lock(&redo->lock);
    uint32_t value = vd_redo_map_get(&redo->map, block);
    vd_mutex_unlock(&redo->lock);
    return value;
}

static void grow_to(struct vd_redo *redo, uint64_t end)
{
    vd_mutex_lock(&redo->lock);
    redo->size = vd_max(redo->size, end);
    vd_mutex_unlock(&redo->lock);
}

/* The slots behind the last one are written: those of @blocks from @first on. */
static void publish(struct vd_redo *redo, uint64_t first, size_t blocks)
    VD_REQUIRES(redo->change_lock)
{
    vd_mutex_lock(&redo->lock);
    for (size_t i = 0; i < blocks; i++) {
        redo->slot_blocks[redo->slots++] = first + i;
        vd_redo_map_set(&redo->map, first + i, (uint32_t)redo->slots);
    }
    vd_mutex_unlock(&redo->lock);
}

/* Puts a whole block into its slot, or into a new one. */
static int put_block(struct vd_redo *redo, uint64_t block, const uint8_t *bytes,
                     struct vdisk_error *err) VD_REQUIRES(redo->change_lock)
{
    uint32_t slot = value_of(redo, block) & VD_REDO_SLOT_MASK;
    int ret = slot ? 0 : reserve(redo, block, 1, err);
    if (ret == 0)
        ret = vd_storage_pwrite(redo->log, bytes, VD_REDO_BLOCK_BYTES,
                                vd_redo_slot_offset(slot ? slot - 1 : redo->slots), err);
    if (ret < 0)
        return ret;
    if (!slot) {
        publish(redo, block, 1);
        return 0;
    }
    vd_mutex_lock(&redo->lock);
    vd_redo_map_set(&redo->map, block, slot);
    vd_mutex_unlock(&redo->lock);
    return 0;
}

/* A part of a block. */
static int write_part(struct vd_redo *redo, const uint8_t *bytes, struct vd_range range,
                      struct vdisk_error *err) VD_REQUIRES(redo->change_lock)
{
    uint64_t block = block_of(range.offset);
    uint64_t in_block = range.offset % VD_REDO_BLOCK_BYTES;
    uint32_t value = value_of(redo, block);
    if (value && !(value & VD_REDO_ZERO))
        return vd_storage_pwrite(redo->log, bytes, (size_t)range.length,
                                 vd_redo_slot_offset(value - 1) + in_block, err);
    CLEANUP_FREE uint8_t *whole = vd_alloc_io(VD_REDO_BLOCK_BYTES);
    if (!whole)
        return vd_err_nomem(err, "a block");
    int ret =
        read_range(redo, whole, vd_range(block * VD_REDO_BLOCK_BYTES, VD_REDO_BLOCK_BYTES), err);
    if (ret < 0)
        return ret;
    memcpy(whole + in_block, bytes, (size_t)range.length);
    return put_block(redo, block, whole, err);
}

/* Blocks from @first on, @blocks at most, that have no slot yet. */
static size_t count_fresh(struct vd_redo *redo, uint64_t first, size_t blocks)
{
    size_t count = 0;
    while (count < blocks && !(value_of(redo, first + count) & VD_REDO_SLOT_MASK))
        count++;
    return count;
}

/* Some of @range: at least a part of the first block; @done: how much. */
static int write_some(struct vd_redo *redo, const uint8_t *bytes, struct vd_range range,
                      size_t *done, struct vdisk_error *err) VD_REQUIRES(redo->change_lock)
{
    uint64_t block = block_of(range.offset);
    uint64_t in_block = range.offset % VD_REDO_BLOCK_BYTES;
    *done = (size_t)vd_min(range.length, VD_REDO_BLOCK_BYTES - in_block);
    if (*done < VD_REDO_BLOCK_BYTES)
        return write_part(redo, bytes, vd_range(range.offset, *done), err);
    size_t fresh = count_fresh(redo, block, (size_t)(range.length / VD_REDO_BLOCK_BYTES));
    if (fresh < 2)
        return put_block(redo, block, bytes, err);
    *done = fresh * VD_REDO_BLOCK_BYTES;
    int ret = reserve(redo, block, fresh, err);
    if (ret == 0)
        ret = vd_storage_pwrite(redo->log, bytes, *done, vd_redo_slot_offset(redo->slots), err);
    if (ret == 0)
        publish(redo, block, fresh);
    return ret;
}

static int redo_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    struct vd_redo *redo = storage->state;
    vd_mutex_lock(&redo->change_lock);
    int ret = check_change(redo, err);
    for (int i = 0; i < iov_entries && ret == 0; i++) {
        const uint8_t *bytes = iov[i].iov_base;
        struct vd_range range = vd_range(offset, iov[i].iov_len);
        while (range.length && ret == 0) {
            size_t done;
            ret = write_some(redo, bytes, range, &done, err);
            if (ret < 0)
                break;
            grow_to(redo, range.offset + done);
            bytes += done;
            range = vd_range(range.offset + done, range.length - done);
        }
        offset += iov[i].iov_len;
    }
    vd_mutex_unlock(&redo->change_lock);
    return ret;
}

/* A whole block, or all of it that is below the end. */
static int zero_block(struct vd_redo *redo, uint64_t block, struct vdisk_error *err)
    VD_REQUIRES(redo->change_lock)
{
    int ret = 0;
    vd_mutex_lock(&redo->lock);
    uint32_t value = vd_redo_map_get(&redo->map, block);
    if (value || block * VD_REDO_BLOCK_BYTES < redo->below_bytes) {
        ret = vd_redo_map_reserve(&redo->map, block, err);
        if (ret == 0)
            vd_redo_map_set(&redo->map, block, value | VD_REDO_ZERO);
    }
    vd_mutex_unlock(&redo->lock);
    return ret;
}

static int zero_part(struct vd_redo *redo, struct vd_range part, struct vdisk_error *err)
    VD_REQUIRES(redo->change_lock)
{
    struct run run = find_run(redo, part);
    if (run.kind == RUN_ZERO && run.length == part.length)
        return 0;
    CLEANUP_FREE uint8_t *zeros = calloc(1, (size_t)part.length);
    return zeros ? write_part(redo, zeros, part, err) : vd_err_nomem(err, "a block");
}

static int zero_range(struct vd_redo *redo, struct vd_range range, struct vdisk_error *err)
    VD_REQUIRES(redo->change_lock)
{
    uint64_t size = size_now(redo);
    int ret = 0;
    while (range.length && ret == 0) {
        uint64_t in_block = range.offset % VD_REDO_BLOCK_BYTES;
        uint64_t step = vd_min(range.length, VD_REDO_BLOCK_BYTES - in_block);
        bool is_whole =
            in_block == 0 && (step == VD_REDO_BLOCK_BYTES || range.offset + step >= size);
        ret = is_whole ? zero_block(redo, block_of(range.offset), err)
                       : zero_part(redo, vd_range(range.offset, step), err);
        if (ret == 0)
            grow_to(redo, range.offset + step);
        range = vd_range(range.offset + step, range.length - step);
    }
    return ret;
}

static int redo_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    struct vd_redo *redo = storage->state;
    vd_mutex_lock(&redo->change_lock);
    int ret = check_change(redo, err);
    if (ret == 0)
        ret = zero_range(redo, range, err);
    vd_mutex_unlock(&redo->change_lock);
    return ret;
}

static int redo_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                             struct vdisk_error *err)
{
    (void)flags;
    return redo_discard(storage, range, err);
}

/* What is from @size on shows as zero from now on, and is not in the way of what may come there. */
static int cut(struct vd_redo *redo, uint64_t size, struct vdisk_error *err)
    VD_REQUIRES(redo->change_lock)
{
    uint64_t block = block_of(size + VD_REDO_BLOCK_BYTES - 1);
    uint64_t tail = block * VD_REDO_BLOCK_BYTES - size;
    if (tail && (value_of(redo, block - 1) & VD_REDO_SLOT_MASK)) {
        int ret = zero_part(redo, vd_range(size, tail), err);
        if (ret < 0)
            return ret;
    }
    vd_mutex_lock(&redo->lock);
    redo->size = size;
    redo->below_bytes = vd_min(redo->below_bytes, size);
    for (; block < vd_redo_map_end(&redo->map); block++) {
        uint32_t value = vd_redo_map_get(&redo->map, block);
        if (value)
            vd_redo_map_set(&redo->map, block, value | VD_REDO_ZERO);
    }
    vd_mutex_unlock(&redo->lock);
    return 0;
}

static int redo_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    struct vd_redo *redo = storage->state;
    vd_mutex_lock(&redo->change_lock);
    int ret = check_change(redo, err);
    if (ret == 0 && size < size_now(redo))
        ret = cut(redo, size, err);
    else if (ret == 0)
        grow_to(redo, size);
    vd_mutex_unlock(&redo->change_lock);
    return ret;
}

/* Space is set aside when it is applied, if at all. */
static int redo_preallocate(struct vd_storage *storage, struct vd_range range,
                            struct vdisk_error *err)
{
    struct vd_redo *redo = storage->state;
    vd_mutex_lock(&redo->change_lock);
    int ret = check_change(redo, err);
    if (ret == 0)
        grow_to(redo, vd_range_end(range));
    vd_mutex_unlock(&redo->change_lock);
    return ret;
}

/* ---- The whole ---- */

static void redo_close(struct vd_storage *storage)
{
    struct vd_redo *redo = storage->state;
    vd_redo_map_free(&redo->map);
    free(redo->slot_blocks);
    vd_mutex_destroy(&redo->lock);
    vd_mutex_destroy(&redo->change_lock);
    free(redo);
}

static const struct vd_storage_driver redo_driver = {
    .name = "redo",
    .close = redo_close,
    .size = redo_size,
    .preadv = redo_preadv,
    .pwritev = redo_pwritev,
    .write_zeroes = redo_write_zeroes,
    .discard = redo_discard,
    .resize = redo_resize,
    .preallocate = redo_preallocate,
    .extent = redo_extent,
};

int vd_redo_open(struct vd_storage *below, struct vd_storage *log, enum vd_digest_kind kind,
                 struct vd_storage **storage, struct vdisk_error *err)
{
    uint64_t size;
    int ret = vd_storage_size(below, &size, err);
    if (ret < 0)
        return ret;
    CLEANUP_FREE struct vd_redo *redo = calloc(1, sizeof(*redo));
    if (!redo)
        return vd_err_nomem(err, "a log of changes");
    ret = vd_storage_new(&redo_driver, vd_storage_name(below), storage, err);
    if (ret < 0)
        return ret;
    redo->below = below;
    redo->log = log;
    redo->kind = kind;
    redo->old_bytes = redo->size = redo->below_bytes = size;
    vd_mutex_init(&redo->change_lock);
    vd_mutex_init(&redo->lock);
    (*storage)->state = STEAL_PTR(redo);
    (*storage)->flags = VD_STORAGE_WRITE;
    (*storage)->caps = VD_STORAGE_CAN_WRITE | VD_STORAGE_CAN_RESIZE | VD_STORAGE_CAN_DISCARD |
                       VD_STORAGE_CAN_EXTENTS | VD_STORAGE_FAST_ZEROES;
    (*storage)->identity = below->identity;
    return 0;
}

struct vd_redo *vd_redo_of(struct vd_storage *storage)
{
    assert(storage->driver == &redo_driver);
    return storage->state;
}

bool vd_redo_has_changed(struct vd_storage *storage, struct vd_range range)
{
    struct vd_redo *redo = vd_redo_of(storage);
    if (!range.length)
        return false;
    vd_mutex_lock(&redo->lock);
    bool has_changed = vd_range_end(range) > redo->below_bytes;
    for (uint64_t block = block_of(range.offset);
         block <= block_of(vd_range_end(range) - 1) && !has_changed; block++)
        has_changed = vd_redo_map_get(&redo->map, block) != 0;
    vd_mutex_unlock(&redo->lock);
    return has_changed;
}

uint64_t vd_redo_bytes(struct vd_storage *storage)
{
    struct vd_redo *redo = vd_redo_of(storage);
    vd_mutex_lock(&redo->change_lock);
    uint64_t bytes = (uint64_t)redo->slots * VD_REDO_BLOCK_BYTES;
    vd_mutex_unlock(&redo->change_lock);
    return bytes;
}
