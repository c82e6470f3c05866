/* SPDX-License-Identifier: MIT */
/* The disks a conversion reads: several, one behind the other, are one range of bytes. */
#ifndef VD_JOB_CONVERT_SOURCE_H
#define VD_JOB_CONVERT_SOURCE_H

#include <stdatomic.h>

#include "image/image.h"

struct vd_convert_part {
    struct vdisk_image *image;
    bool is_borrowed;      /* somebody else closes it */
    struct vd_range range; /* of the whole */
    uint64_t start;        /* of the image: what is at range.offset of the whole */
    /* What vd_storage_copy() can do from here to the target: tried once, then remembered. */
    atomic_bool can_share;
    atomic_bool can_offload;
};

struct vd_convert_source {
    struct vd_convert_part *parts;
    size_t part_entries;
    uint64_t size;
};

/* Goes to vd_convert_source_close(), also if it fails. */
int vd_convert_source_open(struct vd_convert_source *source,
                           const struct vdisk_convert_options *options, struct vdisk_error *err);

/* The same with an image that is the caller's, all of it. */
int vd_convert_source_borrow(struct vd_convert_source *source, struct vdisk_image *image,
                             struct vdisk_error *err);

void vd_convert_source_close(struct vd_convert_source *source);

/* The part that @offset lies in; @offset is less than the size. */
struct vd_convert_part *vd_convert_source_part(const struct vd_convert_source *source,
                                               uint64_t offset);

/* Where in the image of @part is what is at @offset of the whole? */
uint64_t vd_convert_part_offset(const struct vd_convert_part *part, uint64_t offset);

/* Reads a range of the whole. */
int vd_convert_source_read(const struct vd_convert_source *source, void *buf, struct vd_range range,
                           struct vdisk_error *err);

/* The run at range.offset, within @range and within one part: does it read as zero unread? */
int vd_convert_source_look(const struct vd_convert_source *source, struct vd_range range,
                           bool *is_zero, uint64_t *length, struct vdisk_error *err);

#endif
