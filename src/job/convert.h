/* SPDX-License-Identifier: MIT */
/* Converting an image that is open already. */
#ifndef VD_JOB_CONVERT_H
#define VD_JOB_CONVERT_H

#include "image/image.h"

/*
 * As vdisk_convert(), but the source is @source, which is the caller's and is only read, instead of
 * those that @options name: they name none, and nothing
 * else of a source, and do not ask for its bitmaps.
 */
int vd_convert_image(struct vdisk_image *source, const struct vdisk_convert_options *options,
                     struct vdisk_convert_result *result, struct vdisk_error *err);

#endif
