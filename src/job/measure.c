/* SPDX-License-Identifier: MIT */
/* vdisk_measure(): how large would a new image be? */
#include <string.h>

#include "format/bitmaps.h"
#include "image/image.h"

/* What qcow2, the only format that has any, takes for a bitmap beside its bits. */
#define TABLE_ENTRY_BYTES     8u
#define DIRECTORY_ENTRY_BYTES 24u

/* Bytes of the whole clusters of @cluster_bytes of @source that hold data. */
static int count_data(struct vdisk_image *source, uint32_t cluster_bytes, uint64_t *data_bytes,
                      struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(source);
    uint64_t counted_to = 0; /* clusters before this offset have been dealt with */
    *data_bytes = 0;
    for (uint64_t offset = 0; offset < size;) {
        struct vdisk_extent extent;
        int ret = vdisk_image_extent(source, offset, size - offset, &extent, err);
        if (ret < 0)
            return ret;
        offset += extent.length;
        if (!(extent.flags & VDISK_EXTENT_DATA))
            continue;
        uint64_t start = vd_max(extent.offset / cluster_bytes * cluster_bytes, counted_to);
        uint64_t end = vd_div_up(offset, cluster_bytes) * cluster_bytes;
        if (end > start) {
            *data_bytes += end - start;
            counted_to = end;
        }
    }
    return 0;
}

/* Will the new image have bitmaps, if the source has? */
static bool can_have_bitmaps(const struct vd_format_driver *driver,
                             const struct vdisk_create_options *create)
{
    bool is_old = create->compat &&
                  (strcmp(create->compat, "0.10") == 0 || strcmp(create->compat, "v2") == 0);
    return vd_format_driver_has_bitmaps(driver) && !is_old;
}

/* An upper bound for the bitmaps that can be copied: each bit takes its place. */
static int measure_bitmaps(struct vdisk_image *source, uint32_t cluster_bytes,
                           struct vdisk_measure_result *result, struct vdisk_error *err)
{
    struct vd_format *format = vd_image_format(source);
    uint64_t directory_bytes = 0;
    size_t count;
    if (!vd_format_has_bitmaps(format))
        return 0;
    result->has_bitmaps = true;
    int ret = vd_format_bitmap_count(format, &count, err);
    for (size_t i = 0; i < count && ret == 0; i++) {
        struct vd_bitmap_facts facts;
        ret = vd_format_bitmap_facts(format, i, &facts, err);
        if (ret < 0 || (facts.flags & VDISK_BITMAP_INCONSISTENT))
            continue;
        uint32_t bits = (uint32_t)__builtin_ctzll(facts.granularity);
        uint64_t clusters =
            vd_div_up(vd_bitmap_bytes_for(vdisk_image_size(source), bits), cluster_bytes);
        result->bitmaps_bytes +=
            clusters * cluster_bytes + vd_round_up(clusters * TABLE_ENTRY_BYTES, cluster_bytes);
        directory_bytes += vd_round_up(DIRECTORY_ENTRY_BYTES + strlen(facts.name), 8);
    }
    result->bitmaps_bytes += vd_round_up(directory_bytes, cluster_bytes);
    return ret;
}

int vdisk_measure(const char *format, const struct vdisk_create_options *options,
                  struct vdisk_image *source, struct vdisk_measure_result *result,
                  struct vdisk_error *err)
{
    struct vdisk_create_options create = *options;
    const struct vd_format_driver *driver = vd_format_find(format, err);
    if (!driver)
        return -EINVAL;

    uint64_t data_bytes = 0;
    if (source) {
        create.size = vdisk_image_size(source);
        uint32_t cluster_bytes =
            create.cluster_bytes ? create.cluster_bytes : vd_format_driver_cluster_bytes(driver);
        int ret = count_data(source, cluster_bytes ? cluster_bytes : 1, &data_bytes, err);
        if (ret < 0)
            return ret;
    }
    int ret = vd_format_measure(driver, &create, data_bytes, result, err);
    result->has_bitmaps = false;
    result->bitmaps_bytes = 0;
    if (ret < 0 || !source || !can_have_bitmaps(driver, &create))
        return ret;
    uint32_t cluster_bytes =
        create.cluster_bytes ? create.cluster_bytes : vd_format_driver_cluster_bytes(driver);
    return measure_bitmaps(source, cluster_bytes, result, err);
}
