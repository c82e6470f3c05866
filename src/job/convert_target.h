/* SPDX-License-Identifier: MIT */
/*
 * The image a conversion writes.
 *
 * A new one gets its name when it is complete and durable, and the old file of that name stays as
 * it was until then (storage/new_file.h).  With VDISK_CONVERT_NO_CREATE, it is written in place.
 */
#ifndef VD_JOB_CONVERT_TARGET_H
#define VD_JOB_CONVERT_TARGET_H

#include "image/image.h"
#include "storage/new_file.h"

struct vd_convert_target {
    struct vdisk_image *image;
    struct vd_new_file file; /* its part_name is NULL when it is written in place */
    bool is_durable;
    bool reads_zero;               /* what has not been written reads as zero */
    struct vdisk_image *behind;    /* it is a new overlay on this, which is open with it; or NULL */
    struct vd_image_new_data data; /* made for it */
};

/*
 * Opens or makes the target for a source of @size bytes.  Goes to vd_convert_target_finish() or
 * vd_convert_target_abandon(); to the latter also if it fails.
 */
int vd_convert_target_open(struct vd_convert_target *target,
                           const struct vdisk_convert_options *options, uint64_t size,
                           struct vdisk_error *err);

/* Makes it durable and gives it its name.  If it fails, vd_convert_target_abandon() follows. */
int vd_convert_target_finish(struct vd_convert_target *target, struct vdisk_error *err);

/* Frees everything; what is not finished is removed, if it was not written in place. */
void vd_convert_target_abandon(struct vd_convert_target *target);

#endif
