/* SPDX-License-Identifier: MIT */
/* Comparing two disks that are open already. */
#ifndef VD_JOB_COMPARE_H
#define VD_JOB_COMPARE_H

#include "vdisk.h"

/* As vdisk_compare(), but for the images: @options has no names, and nothing is opened or closed.
 */
int vd_compare_images(struct vdisk_image *const images[2],
                      const struct vdisk_compare_options *options,
                      struct vdisk_compare_result *result, struct vdisk_error *err);

#endif
