/* SPDX-License-Identifier: MIT */
/*
 * What has to be copied, and copying it in stretches: after each, what has been done is durable
 * and written down.
 */
#include "backup/backup.h"

#define BITMAPS_BYTES_MAX (UINT64_C(1) << 30) /* memory of what is wanted, and what is stale */

static uint64_t size_of(const struct vd_backup *backup)
{
    return backup->partial.virtual_bytes;
}

static int new_bitmap(struct vd_backup *backup, struct vd_bitmap **bitmap, struct vdisk_error *err)
{
    return vd_bitmap_new(size_of(backup), VD_BACKUP_GRANULARITY_BITS, &backup->budget, bitmap, err);
}

/* ---- What is wanted ---- */

static bool wants_all(const struct vd_backup *backup)
{
    return !backup->parent || (backup->options->flags & VDISK_BACKUP_COMPARE);
}

/* What has changed since the parent was made. */
static int ask_changes(struct vd_backup *backup, struct vdisk_error *err)
{
    backup->compares = vd_tracker_compares(backup->tracker);
    if (wants_all(backup))
        return 0;
    int ret = new_bitmap(backup, &backup->wanted, err);
    return ret < 0 ? ret : vd_tracker_changes(backup->tracker, backup->wanted, err);
}

/* What an earlier call has put into the image may have become wrong, although nothing says so that
 * counts from the parent. */
static int add_present(struct vd_backup *backup, struct vdisk_error *err)
{
    int ret = 0;
    for (uint64_t at = 0; ret == 0 && at < size_of(backup);) {
        struct vdisk_extent extent;
        ret = vdisk_image_extent(backup->target, at, size_of(backup) - at, &extent, err);
        if (ret < 0)
            return ret;
        if (extent.depth == 0 && (extent.flags & VDISK_EXTENT_PRESENT))
            ret = vd_bitmap_set(backup->wanted, vd_range(at, extent.length), err);
        at += extent.length;
    }
    return ret;
}

/* What has been done, and has not changed since, is not wanted any more. */
static int resume_done(struct vd_backup *backup, const struct vd_bitmap *stale,
                       struct vdisk_error *err)
{
    uint64_t done = vd_min(backup->resumed_bytes, size_of(backup));
    struct vd_range rest = vd_range(0, done);
    int ret = 0;
    while (rest.length && ret == 0) {
        struct vd_range clean = vd_bitmap_next(stale, rest, false);
        if (!clean.length)
            break;
        ret = vd_bitmap_clear(backup->wanted, clean, err);
        rest = vd_range(vd_range_end(clean), done - vd_range_end(clean));
    }
    backup->partial.done_bytes = done;
    return ret == 0 && done ? vd_partial_write(backup->repository, &backup->partial, err) : ret;
}

/* Leaves out what an earlier call has done: either by what is known to have changed since, or by
 * comparing all with it. */
static int ask_stale(struct vd_backup *backup, struct vdisk_error *err)
{
    struct vd_bitmap *stale = NULL;
    int ret = 0;
    if (!backup->wanted) {
        ret = new_bitmap(backup, &backup->wanted, err);
        if (ret == 0)
            vd_bitmap_set_all(backup->wanted);
    } else {
        ret = add_present(backup, err);
    }
    if (ret == 0)
        ret = new_bitmap(backup, &stale, err);
    if (ret < 0)
        return ret;
    ret = vd_tracker_changes_since_begin(backup->tracker, stale, err);
    if (ret == 0) {
        ret = resume_done(backup, stale, err);
    } else if (ret == -ENOTSUP) {
        backup->compares = true;
        ret = 0;
    }
    vd_bitmap_free(stale);
    return ret;
}

static uint64_t wanted_bytes(const struct vd_backup *backup)
{
    return backup->wanted ? vd_bitmap_dirty_bytes(backup->wanted) : size_of(backup);
}

static int find_wanted(struct vd_backup *backup, struct vdisk_error *err)
{
    int ret = ask_changes(backup, err);
    if (ret < 0)
        return ret;
    backup->changed_bytes = wanted_bytes(backup);
    if (backup->is_resumed)
        ret = ask_stale(backup, err);
    if (ret < 0 || !backup->wanted)
        return ret;
    /* By the disk as it is now and the image as it is now: whatever else is known. */
    ret = vd_copy_add_zeros(backup->source, backup->target, backup->wanted, err);
    return ret < 0 ? ret : vd_backup_add_edge(backup, err);
}

/* ---- Copying ---- */

/* The end of a part of the disk from @from on that has about stretch_bytes of data to copy. */
static int find_stretch(const struct vd_backup *backup, uint64_t from, uint64_t *end,
                        struct vdisk_error *err)
{
    uint64_t size = size_of(backup), at = from, data = 0;
    while (at < size && data < backup->stretch_bytes) {
        struct vd_range run = vd_range(at, size - at);
        if (backup->wanted)
            run = vd_bitmap_next(backup->wanted, run, true);
        if (!run.length) {
            at = size;
            break;
        }
        uint64_t length;
        bool is_zero;
        int ret = vd_image_known_zero(backup->source, run, &length, &is_zero, err);
        if (ret < 0)
            return ret;
        if (!is_zero) {
            length = vd_min(length, backup->stretch_bytes - data);
            data += length;
        }
        at = run.offset + length;
    }
    *end = vd_min(vd_round_up(at, UINT64_C(1) << VD_BACKUP_GRANULARITY_BITS), size);
    return 0;
}

/* A3 */
static int note_done(struct vd_backup *backup, uint64_t done, struct vdisk_error *err)
{
    int ret = vdisk_image_flush(backup->target, err);
    backup->partial.done_bytes = done;
    return ret < 0 ? ret : vd_partial_write(backup->repository, &backup->partial, err);
}

static int copy_stretches(struct vd_backup *backup, struct vd_copy *copy, struct vdisk_error *err)
{
    uint64_t size = size_of(backup);
    for (uint64_t at = 0, end; at < size; at = end) {
        int ret = find_stretch(backup, at, &end, err);
        copy->range = vd_range(at, end - at);
        if (ret == 0)
            ret = vd_copy_run(copy, err);
        /* The last one is as good as done. */
        if (ret == 0 && end < size && end > backup->partial.done_bytes)
            ret = note_done(backup, end, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int vd_backup_copy(struct vd_backup *backup, struct vdisk_error *err)
{
    const struct vdisk_backup_options *options = backup->options;
    backup->budget.bytes_max = BITMAPS_BYTES_MAX;
    int ret = find_wanted(backup, err);
    if (ret == 0)
        ret = vd_job_phase(&backup->job, "copy", wanted_bytes(backup), 0, err);
    if (ret < 0)
        return ret;
    struct vd_copy copy = {
        .source = backup->source,
        .target = backup->target,
        .wanted = backup->wanted,
        .compares = backup->compares,
        .compresses = (options->flags & VDISK_BACKUP_COMPRESS) != 0,
        .level = options->compression_level,
        .workers = options->workers,
        .job = &backup->job,
    };
    atomic_init(&copy.looked_bytes, 0);
    atomic_init(&copy.read_bytes, 0);
    atomic_init(&copy.data_bytes, 0);
    atomic_init(&copy.zero_bytes, 0);
    ret = copy_stretches(backup, &copy, err);
    backup->read_bytes = atomic_load(&copy.read_bytes);
    return ret;
}
