/* SPDX-License-Identifier: MIT */
/* The list of points of a repository. */
#ifndef VD_BACKUP_REPOSITORY_POINTS_H
#define VD_BACKUP_REPOSITORY_POINTS_H

#include "backup/repository.h"

#define VD_POINT_DIGITS_MIN 6u

void vd_points_free(struct vd_point *points, size_t entries);

/*
 * The point that @point lies on; NULL if that is none, is missing, or is damaged, or is another one
 * than there was.
 */
const struct vd_point *vd_point_parent(const struct vdisk_repository *repository,
                                       const struct vd_point *point);

#endif
