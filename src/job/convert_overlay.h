/* SPDX-License-Identifier: MIT */
/* Which parts of the source need not be read, because a new overlay has the same bytes behind it.
 */
#ifndef VD_JOB_CONVERT_OVERLAY_H
#define VD_JOB_CONVERT_OVERLAY_H

#include "job/convert_source.h"

struct vd_convert_overlay {
    const struct vd_convert_source *source;
    struct vdisk_image *behind; /* the target's backing image */
    uint64_t grain_bytes;       /* what is written as a whole; power of two */
    bool salvages;              /* where the source can not tell, it is read */
};

/*
 * The first part of @range, in whole grains, of which it is not known that it is the same; at its
 * end, with length 0, if all of it is.  Any thread.
 */
int vd_convert_overlay_find(const struct vd_convert_overlay *overlay, struct vd_range range,
                            struct vd_range *unknown, struct vdisk_error *err);

#endif
