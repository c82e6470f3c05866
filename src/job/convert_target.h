/* SPDX-License-Identifier: MIT */
/*
 * The image a conversion writes.
 *
 * T1  A regular file, or a name where nothing is yet, is written under another name in the same
 *     directory, and renamed when it is complete and durable.  Whatever happens before, the old
 *     file is as it was.
 * T2  The old file is held open for writing, and so locked, until then: nobody else starts to use
 *     a disk that is about to be replaced, and a disk in use is not replaced.
 * T3  Everything else (VDISK_CONVERT_NO_CREATE, block devices) is written in place.
 */
#ifndef VD_JOB_CONVERT_TARGET_H
#define VD_JOB_CONVERT_TARGET_H

#include "image/image.h"

struct vd_convert_target {
    struct vdisk_image *image;
    char *name;             /* where it ends up, symbolic links followed */
    char *part_name;        /* where it is written, NULL: in place */
    struct vd_storage *old; /* T2, or NULL */
    bool is_durable;
    bool reads_zero; /* what has not been written reads as zero */
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
