/* SPDX-License-Identifier: MIT */
/* The dirty bitmaps of a source go to the target of its conversion. */
#ifndef VD_JOB_CONVERT_BITMAPS_H
#define VD_JOB_CONVERT_BITMAPS_H

#include "job/convert_source.h"

/* Zeroed: there are none. */
struct vd_convert_bitmaps {
    char **enabled; /* names of those that are to record, when all is copied; owned */
    size_t enabled_entries;
};

/*
 * Before anything is copied: the target gets the bitmaps of the source, with their bits, and
 * disabled.  Fails if it can not have them all.  @options->report is told of those that are left
 * out.
 */
int vd_convert_bitmaps_add(struct vd_convert_bitmaps *bitmaps,
                           const struct vdisk_convert_options *options,
                           const struct vd_convert_source *source, struct vdisk_image *target,
                           struct vdisk_error *err);

/* When all is copied: those that were enabled are so again. */
int vd_convert_bitmaps_enable(const struct vd_convert_bitmaps *bitmaps, struct vdisk_image *target,
                              struct vdisk_error *err);

void vd_convert_bitmaps_free(struct vd_convert_bitmaps *bitmaps);

#endif
