/* SPDX-License-Identifier: MIT */
/* Opening the image of a point with all that it lies on. */
#ifndef VD_BACKUP_POINT_H
#define VD_BACKUP_POINT_H

#include "backup/repository.h"
#include "image/image.h"

/*
 * The most images one on the other, a new one included: each of them takes a file descriptor, and
 * some stack while it is read.  -ELOOP: there would be more; a full backup, or a merge, helps.
 */
#define VD_POINT_CHAIN_MAX 1024u

/* A file of the repository for which another storage is opened. */
struct vd_point_stand_in {
    const char *file; /* name within the repository */
    int (*open)(void *opaque, struct vd_storage **storage, struct vdisk_error *err);
    void *opaque;
};

/*
 * Opens the image of @point, read-only, every file of it with its digests (storage/verified.h):
 * which files these are is known from the manifests alone, and a name in an image that says
 * otherwise is -EBADMSG; as is a point that is damaged or missing, and a file that is missing or is
 * of another length.  The repository is neither closed nor reloaded before the image is closed.
 */
int vd_point_open(struct vdisk_repository *repository, const struct vd_point *point,
                  struct vdisk_image **image, struct vdisk_error *err);

/*
 * Opens the image on @file, which belongs to it from here on, also if this fails, with @parent
 * (NULL: none) behind it: a new image that is being filled, or one that is being changed.  @flags:
 * of enum vdisk_open_flag.  @stand_in: or NULL; what it opens is not compared with digests.
 */
int vd_point_open_on(struct vdisk_repository *repository, struct vd_storage *file,
                     const char *format, const struct vd_point *parent, uint32_t flags,
                     const struct vd_point_stand_in *stand_in, struct vdisk_image **image,
                     struct vdisk_error *err);

#endif
