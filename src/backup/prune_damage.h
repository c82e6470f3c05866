/* SPDX-License-Identifier: MIT */
/* Which points are not touched for a damage (G4 of backup/prune.h). */
#ifndef VD_BACKUP_PRUNE_DAMAGE_H
#define VD_BACKUP_PRUNE_DAMAGE_H

#include "backup/prune.h"

/*
 * Is point @index of the list damaged, or does it lie on one that is, or is not there?  Then @why
 * says so.
 */
bool vd_prune_is_bad(const struct vdisk_repository *repository, size_t index,
                     struct vdisk_error *why);

/* The points from *first up to, not including, *end that may have to do with point @index. */
void vd_prune_find_chain(const struct vdisk_repository *repository, size_t index, size_t *first,
                         size_t *end);

#endif
