/* SPDX-License-Identifier: MIT */
/*
 * Where a disk ended for a while.
 *
 * When it was made longer again, all that was behind that end was zero.  What is there now is known
 * to be zero, or was written since, and so is wanted.  So the end was in the last cluster of which
 * neither can be said, if there was one: that is compared.
 */
#include <string.h>

#include "backup/backup.h"
#include "util/mem.h"

#define GRANULE_BYTES     (UINT64_C(1) << VD_BACKUP_GRANULARITY_BITS)
#define WINDOW_BYTES      (UINT64_C(64) << 20) /* looked through from its start, as the first one */
#define WINDOWS_BYTES_MAX (UINT64_C(1) << 40)

static struct vd_range within(struct vd_range range, uint64_t size)
{
    return vd_range(range.offset, vd_min(vd_range_end(range), size) - range.offset);
}

/* The last granule of @part that is not wanted goes to *last, if there is one. */
static bool last_unwanted(const struct vd_bitmap *wanted, struct vd_range part, uint64_t *last)
{
    bool found = false;
    for (uint64_t end = vd_range_end(part); part.length;) {
        struct vd_range run = vd_bitmap_next(wanted, part, false);
        if (!run.length)
            break;
        found = true;
        *last = vd_round_down(vd_range_end(run) - 1, GRANULE_BYTES);
        part = vd_range(vd_range_end(run), end - vd_range_end(run));
    }
    return found;
}

/* The same of those of @window that are not known to be zero. */
static int look_through(const struct vd_backup *backup, struct vd_range window, bool *found,
                        uint64_t *last, struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(backup->source);
    for (uint64_t at = window.offset, end = vd_range_end(window); at < end;) {
        struct vdisk_extent extent;
        int ret = vdisk_image_extent(backup->source, at, end - at, &extent, err);
        if (ret < 0)
            return ret;
        struct vd_range run = vd_range_expand(vd_range(at, extent.length), GRANULE_BYTES);
        if (!(extent.flags & VDISK_EXTENT_ZERO) &&
            last_unwanted(backup->wanted, within(run, size), last))
            *found = true;
        at += extent.length;
    }
    return 0;
}

static int find_last(const struct vd_backup *backup, bool *found, uint64_t *last,
                     struct vdisk_error *err)
{
    uint64_t end = vdisk_image_size(backup->source), bytes = WINDOW_BYTES;
    int ret = 0;
    *found = false;
    while (end && !*found && ret == 0) {
        uint64_t start = end > bytes ? vd_round_down(end - bytes, GRANULE_BYTES) : 0;
        ret = look_through(backup, vd_range(start, end - start), found, last, err);
        end = start;
        bytes = vd_min(bytes * 2, WINDOWS_BYTES_MAX);
    }
    return ret;
}

/* @buffers: of two granules. */
static int compare(struct vd_backup *backup, struct vd_range granule, uint8_t *buffers,
                   struct vdisk_error *err)
{
    uint8_t *behind = buffers + GRANULE_BYTES;
    size_t length = (size_t)granule.length;
    int ret = vdisk_image_pread(backup->source, buffers, length, granule.offset, err);
    if (ret == 0)
        ret = vdisk_image_pread(backup->target, behind, length, granule.offset, err);
    if (ret == 0 && memcmp(buffers, behind, length) != 0)
        ret = vd_bitmap_set(backup->wanted, granule, err);
    return ret;
}

int vd_backup_add_edge(struct vd_backup *backup, struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    uint64_t size = vdisk_image_size(backup->source), last;
    bool found = false;
    int ret = vdisk_image_info(backup->source, &info, err);
    if (ret == 0)
        ret = find_last(backup, &found, &last, err);
    if (ret < 0 || !found)
        return ret;
    uint64_t unit = vd_max(info.cluster_bytes, GRANULE_BYTES);
    struct vd_range cluster = within(vd_range_expand(vd_range(last, 1), unit), size);
    CLEANUP_FREE uint8_t *buffers = vd_alloc_io(2 * GRANULE_BYTES);
    if (!buffers)
        return vd_err_nomem(err, "what is compared");
    for (uint64_t at = cluster.offset; ret == 0 && at < vd_range_end(cluster);
         at += GRANULE_BYTES) {
        struct vd_range granule = within(vd_range(at, GRANULE_BYTES), size);
        if (!vd_bitmap_has(backup->wanted, granule))
            ret = compare(backup, granule, buffers, err);
    }
    return ret;
}
