/* SPDX-License-Identifier: MIT */
/* struct vdisk_image, for the files of this folder only. */
#ifndef VD_IMAGE_IMAGE_PRIV_H
#define VD_IMAGE_IMAGE_PRIV_H

#include "image/guard.h"
#include "image/image.h"

struct vdisk_image {
    struct vd_storage *file;  /* owned */
    struct vd_format *format; /* owned */
    uint32_t cluster_bytes;   /* unit of allocation, at least 1 */
    struct vd_guard guard;
};

/* Is [@offset, @offset + @length) within the disk, and @length no more than one request may have?
 */
int vd_image_check_request(const struct vdisk_image *image, uint64_t offset, uint64_t length,
                           struct vdisk_error *err);

#endif
