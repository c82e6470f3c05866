/* SPDX-License-Identifier: MIT */
/*
 * Copies what is wanted of one disk to another of the same size, by several threads.
 *
 * K1  Afterwards the target shows in all of the wanted ranges what the source does, and elsewhere
 *     what it showed before.
 * K2  What the source says is zero is not read; it becomes zeros in the target, unless those show
 *     there already: never a cluster that would let something behind it show through.
 * K3  What the target shows already is not written, if @compares.
 */
#ifndef VD_BACKUP_COPY_H
#define VD_BACKUP_COPY_H

#include "bitmap/bitmap.h"
#include "image/image.h"
#include "job/job.h"

struct vd_copy {
    struct vdisk_image *source;
    struct vdisk_image *target;     /* with what is behind it */
    const struct vd_bitmap *wanted; /* NULL: all; a disk of the size of the target */
    struct vd_range range;          /* only this part of the disk; whole clusters of the target */
    bool compares;                  /* the target's content is read */
    bool compresses;
    uint32_t level;   /* of compression; 0: the default */
    unsigned workers; /* 0: the default */
    struct vd_job *job;

    /* Counted: */
    atomic_uint_least64_t looked_bytes; /* of the wanted ranges */
    atomic_uint_least64_t read_bytes;   /* from the source */
    atomic_uint_least64_t data_bytes;   /* written as data */
    atomic_uint_least64_t zero_bytes;   /* written as zeros */
};

/*
 * Within a phase of the job that the caller has begun; each byte of the range is done once. Nothing
 * is flushed.
 */
int vd_copy_run(struct vd_copy *copy, struct vdisk_error *err);

/*
 * What has to be zero although nothing says that it has changed: adds to @wanted where the @source
 * is known to read as zero and the @before (what the target shows) is not.  A disk that was made
 * shorter and longer again has zeros that no bitmap tells of.
 *
 * Only granules of @wanted count that are zero as a whole.  Others are common, as clusters with
 * holes, and would be copied in every backup.
 */
int vd_copy_add_zeros(struct vdisk_image *source, struct vdisk_image *before,
                      struct vd_bitmap *wanted, struct vdisk_error *err);

#endif
