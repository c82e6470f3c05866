/* SPDX-License-Identifier: MIT */
/* Opening the image of a point with all that it lies on. */
#ifndef VD_BACKUP_POINT_H
#define VD_BACKUP_POINT_H

#include "backup/repository.h"
#include "image/image.h"

/* A file of the repository for which another storage is opened. */
struct vd_point_stand_in {
    const char *file; /* name within the repository */
    int (*open)(void *opaque, struct vd_storage **storage, struct vdisk_error *err);
    void *opaque;
};

/*
 * Opens the image of @point, read-only, every file of it with its digests (storage/verified.h):
 * which files these are is known from the manifests alone, and a name in an image that says
 * otherwise is -EBADMSG.  The repository outlives it.
 */
int vd_point_open(struct vdisk_repository *repository, const struct vd_point *point,
                  struct vdisk_image **image, struct vdisk_error *err);

/*
 * Opens the image on @file, which belongs to it from here on, with @parent (NULL: none) behind it:
 * a new image that is being filled, or one that is being changed.  @flags: of enum vdisk_open_flag.
 * @stand_in: or NULL.
 */
int vd_point_open_on(struct vdisk_repository *repository, struct vd_storage *file,
                     const char *format, const struct vd_point *parent, uint32_t flags,
                     const struct vd_point_stand_in *stand_in, struct vdisk_image **image,
                     struct vdisk_error *err);

#endif
