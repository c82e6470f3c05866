/* SPDX-License-Identifier: MIT */
/*
 * Clusters that a disk ended in for a while.  When QEMU makes a disk shorter within a cluster and
 * then longer again, the rest of that cluster becomes zeros if there is a backing file, and shows
 * old bytes if there is none; no bitmap tells of either, and no table.
 */
#include "backup/tracker_own.h"
#include "util/iov.h"

#define SECTOR_BYTES 512u

/* Does the image itself have data up to @end, and does that end with zeros?  Then the disk may have
 * ended in that cluster. */
static int add_if_cut(struct vdisk_image *image, uint64_t end, struct vd_bitmap *wanted,
                      struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    uint8_t bytes[SECTOR_BYTES];
    struct vd_range sector = vd_range(end - SECTOR_BYTES, SECTOR_BYTES);
    struct vdisk_extent extent;
    if (end < SECTOR_BYTES || vd_bitmap_has(wanted, sector))
        return 0;
    int ret = vdisk_image_extent(image, sector.offset, sector.length, &extent, err);
    if (ret < 0 || extent.depth != 0 || !(extent.flags & VDISK_EXTENT_DATA))
        return ret;
    ret = vdisk_image_pread(image, bytes, sizeof(bytes), sector.offset, err);
    if (ret == 0)
        ret = vdisk_image_info(image, &info, err);
    if (ret < 0 || !vd_buffer_is_zero(bytes, sizeof(bytes)))
        return ret;
    uint64_t start = vd_round_down(sector.offset, vd_max(1, info.cluster_bytes));
    return vd_bitmap_set(wanted, vd_range(start, end - start), err);
}

/* What is behind such a cluster was cut off: it reads as zero, or has been written since. */
static int add_cut_in(struct vdisk_image *image, struct vd_range clean, struct vd_bitmap *wanted,
                      struct vdisk_error *err)
{
    uint64_t end = vd_range_end(clean);
    int ret = add_if_cut(image, end, wanted, err);
    for (uint64_t at = clean.offset; at < end && ret == 0;) {
        struct vdisk_extent extent;
        ret = vdisk_image_extent(image, at, end - at, &extent, err);
        if (ret < 0)
            break;
        if (at > clean.offset && extent.depth == 0 && (extent.flags & VDISK_EXTENT_ZERO))
            ret = add_if_cut(image, at, wanted, err);
        at += extent.length;
    }
    return ret;
}

int vd_tracker_add_cut(struct vdisk_image *image, struct vd_bitmap *wanted, struct vdisk_error *err)
{
    uint64_t size = vd_bitmap_disk_bytes(wanted);
    struct vd_range rest = vd_range(0, size);
    int ret = 0;
    while (rest.length && ret == 0) {
        struct vd_range clean = vd_bitmap_next(wanted, rest, false);
        if (!clean.length)
            return 0;
        uint64_t end = vd_range_end(clean); /* what is added lies before it */
        ret = add_cut_in(image, clean, wanted, err);
        rest = vd_range(end, size - end);
    }
    return ret;
}
