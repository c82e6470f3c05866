/* SPDX-License-Identifier: MIT */
/* The versions of blocks. */
#include "image/image_priv.h"

bool vd_image_has_versions(struct vdisk_image *image)
{
    uint32_t version;
    uint64_t length;
    if (!vd_format_has_versions(image->format))
        return false;
    return vd_format_size(image->format) == 0 ||
           vd_format_version(image->format, vd_range(0, 1), &version, &length, NULL) == 0;
}

int vdisk_image_version(struct vdisk_image *image, uint64_t offset, uint64_t length,
                        struct vdisk_version_extent *extent, struct vdisk_error *err)
{
    int ret = vd_image_check_request(image, offset, length, err);
    if (ret == 0 && length == 0)
        ret = vd_err_set(err, EINVAL, "version: a length of 0 bytes");
    if (ret < 0)
        return ret;
    *extent = (struct vdisk_version_extent){.offset = offset};
    return vd_format_version(image->format, vd_range(offset, length), &extent->version,
                             &extent->length, err);
}
