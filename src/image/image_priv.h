/* SPDX-License-Identifier: MIT */
/* struct vdisk_image, for the files of this folder only. */
#ifndef VD_IMAGE_IMAGE_PRIV_H
#define VD_IMAGE_IMAGE_PRIV_H

#include "image/encoded.h"
#include "image/encrypted.h"
#include "image/guard.h"
#include "image/image.h"

/*
 * The last long run of a read-only image that is BACKING.  Whoever walks through the extents of a
 * chain meets the same run again with every extent of the images behind it.
 */
struct vd_run {
    struct vd_mutex lock;
    struct vd_range guest; /* under lock; length 0: none is known */
};

/*
 * The run behind the last one that was answered, which had to be looked at to know where that one
 * ends.  Of images that nobody changes only.
 */
struct vd_ahead {
    struct vd_mutex lock;
    struct vd_image_run run; /* under lock; length 0: none is known */
};

struct vdisk_image {
    struct vd_storage *file;     /* owned */
    struct vd_format *format;    /* owned */
    struct vdisk_image *backing; /* owned; NULL: none, or not opened */
    uint32_t cluster_bytes;      /* unit of allocation, at least 1 */
    struct vd_guard guard;
    struct vd_rewrites rewrites;
    bool is_constant; /* with all images behind it: none is open for writing, by anybody */
    struct vd_run known_backing;
    struct vd_ahead ahead;
    struct vd_encoded encoded;

    struct vd_mutex info_lock;
    char *backing_name; /* under info_lock: what info() was last asked to resolve, or NULL */
    char *backing_path; /* under info_lock: what it found, or NULL */
};

void vd_run_init(struct vd_run *run);
void vd_run_destroy(struct vd_run *run);
void vd_ahead_init(struct vd_ahead *ahead);
void vd_ahead_destroy(struct vd_ahead *ahead);

/*
 * What is in the backing image for @guest, to which this image answered BACKING: *shown gets the
 * part of @guest, from its start, that the backing disk has; the rest is zero.  Fails if the
 * backing image has not been opened.
 */
int vd_image_behind(const struct vdisk_image *image, struct vd_range guest, struct vd_range *shown,
                    struct vdisk_error *err);

/* Is [@offset, @offset + @length) within the disk, and @length no more than one request may have?
 */
int vd_image_check_request(const struct vdisk_image *image, uint64_t offset, uint64_t length,
                           struct vdisk_error *err);

#endif
