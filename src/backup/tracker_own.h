/* SPDX-License-Identifier: MIT */
/* What an image has of its own, not from what is behind it; and what no bitmap tells of it. */
#ifndef VD_BACKUP_TRACKER_OWN_H
#define VD_BACKUP_TRACKER_OWN_H

#include "bitmap/bitmap.h"
#include "image/image.h"

/* The run that begins at range->offset, and whether the image itself says what is in it:
 * range->length is cut to it. */
int vd_tracker_own_run(struct vdisk_image *image, struct vd_range *range, bool *is_own,
                       struct vdisk_error *err);

/* Sets in @wanted what @image has of its own; what is behind the end of @wanted is left out. */
int vd_tracker_add_own(struct vdisk_image *image, struct vd_bitmap *wanted,
                       struct vdisk_error *err);

/*
 * tracker_cut.c: adds to @wanted, which has what is known to have changed, each cluster of an
 * overlay @image in which the disk may have ended for a while.  Reads 512 bytes a run.
 */
int vd_tracker_add_cut(struct vdisk_image *image, struct vd_bitmap *wanted,
                       struct vdisk_error *err);

#endif
