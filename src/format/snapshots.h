/* SPDX-License-Identifier: MIT */
/*
 * Snapshots within an image.  Drivers of formats that have them give a struct vd_snapshot_driver;
 * everybody above calls the functions below it, which stand in for drivers without.
 */
#ifndef VD_FORMAT_SNAPSHOTS_H
#define VD_FORMAT_SNAPSHOTS_H

#include "format/format.h"

struct vd_new_snapshot {
    const char *name;
    uint64_t date_sec; /* since 1970 */
    uint32_t date_nsec;
};

/* Called alone, snapshots.c is the only caller. */
struct vd_snapshot_driver {
    /* Number @index in the order of the image; *info is zeroed, struct_bytes included, which is not
     * the driver's.  -ENOENT, without @err: past the last.  Messages without the file's name. */
    int (*info)(struct vd_format *format, size_t index, struct vdisk_snapshot_info *info,
                struct vdisk_error *err);
    /* The image is writable, and has not failed; @index: there is one.  Durable, and at any instant
     * the snapshots and the disk are as before or as after. */
    int (*create)(struct vd_format *format, const struct vd_new_snapshot *snapshot,
                  struct vdisk_error *err);
    int (*apply)(struct vd_format *format, size_t index, struct vdisk_error *err);
    int (*remove)(struct vd_format *format, size_t index, struct vdisk_error *err);
};

/* vdisk_image_snapshot_*() of one image. */
int vd_format_snapshot_info(struct vd_format *format, size_t index,
                            struct vdisk_snapshot_info *info, struct vdisk_error *err);
int vd_format_snapshot_find(struct vd_format *format, const struct vdisk_snapshot_key *key,
                            size_t *index, struct vdisk_error *err);
int vd_format_snapshot_create(struct vd_format *format, const struct vd_new_snapshot *snapshot,
                              struct vdisk_error *err);
int vd_format_snapshot_apply(struct vd_format *format, size_t index, struct vdisk_error *err);
int vd_format_snapshot_remove(struct vd_format *format, size_t index, struct vdisk_error *err);

/* vd_format_snapshot_find() with messages that do not name the file: for drivers, during open. */
int vd_snapshot_find(struct vd_format *format, const struct vdisk_snapshot_key *key, size_t *index,
                     struct vdisk_error *err);

/* Is it one that can be looked for?  -EINVAL. */
int vd_snapshot_check_key(const struct vdisk_snapshot_key *key, struct vdisk_error *err);

#endif
