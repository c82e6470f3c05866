/* SPDX-License-Identifier: MIT */
#include "backup/tracker_own.h"

int vd_tracker_own_run(struct vdisk_image *image, struct vd_range *range, bool *is_own,
                       struct vdisk_error *err)
{
    struct vdisk_extent extent;
    int ret = vdisk_image_extent(image, range->offset, range->length, &extent, err);
    if (ret < 0)
        return ret;
    *is_own = extent.depth == 0 && (extent.flags & (VDISK_EXTENT_PRESENT | VDISK_EXTENT_DATA));
    range->length = extent.length;
    return 0;
}

int vd_tracker_add_own(struct vdisk_image *image, struct vd_bitmap *wanted, struct vdisk_error *err)
{
    uint64_t end = vd_min(vdisk_image_size(image), vd_bitmap_disk_bytes(wanted));
    int ret = 0;
    for (uint64_t at = 0; at < end && ret == 0;) {
        struct vd_range run = vd_range(at, end - at);
        bool is_own = false;
        ret = vd_tracker_own_run(image, &run, &is_own, err);
        if (ret == 0 && is_own)
            ret = vd_bitmap_set(wanted, run, err);
        at = vd_range_end(run);
    }
    return ret;
}
