/* SPDX-License-Identifier: MIT */
/* vdisk_measure(): how large would a new image be? */
#include "image/image.h"

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
    return vd_format_measure(driver, &create, data_bytes, result, err);
}
