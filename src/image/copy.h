/* SPDX-License-Identifier: MIT */
/* Copies from one disk to another that do not pass through this process. */
#ifndef VD_IMAGE_COPY_H
#define VD_IMAGE_COPY_H

#include "image/image.h"

/* A run of bytes at one offset of one disk that goes to an offset of another. */
struct vd_image_copy {
    struct vdisk_image *from;
    struct vdisk_image *to;
    uint64_t from_offset;
    uint64_t to_offset;
    uint64_t length;
    unsigned flags; /* of enum vd_storage_copy_flag */
};

/*
 * Copies by vd_storage_copy(), mapping to mapping.  *done gets the bytes that were copied, also
 * on failure.  -EOPNOTSUPP, with @err untouched: the rest has to be read and written.
 */
int vd_image_copy(const struct vd_image_copy *copy, uint64_t *done, struct vdisk_error *err);

/* Tells the storages below that what was written to [@offset, @offset + @length) is not needed
 * soon: vd_storage_write_behind().  Only a hint. */
void vd_image_write_behind(struct vdisk_image *image, uint64_t offset, uint64_t length);

#endif
