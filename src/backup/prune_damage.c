/* SPDX-License-Identifier: MIT */
#include "backup/prune_damage.h"

#include <inttypes.h>
#include <string.h>

bool vd_prune_is_bad(const struct vdisk_repository *repository, size_t index,
                     struct vdisk_error *why)
{
    const struct vd_point *point = &repository->points[index];
    if (point->is_damaged) {
        vd_err_copy(why, &point->damage);
        return true;
    }
    uint64_t number = point->manifest.parent;
    if (!number)
        return false;
    const struct vd_point *parent = vd_repository_point_of(repository, number);
    if (parent && !parent->is_damaged &&
        strcmp(parent->manifest.uuid, point->manifest.parent_uuid) == 0)
        return false;
    vd_err_set(why, EBADMSG, "point %" PRIu64 " lies on point %" PRIu64 ", which is %s",
               point->number, number,
               !parent              ? "not there"
               : parent->is_damaged ? "damaged"
                                    : "another one than it was");
    return true;
}

static bool is_full(const struct vd_point *point)
{
    return !point->is_damaged && !point->manifest.parent;
}

void vd_prune_find_chain(const struct vdisk_repository *repository, size_t index, size_t *first,
                         size_t *end)
{
    *first = index;
    while (*first > 0 && !is_full(&repository->points[*first]))
        --*first;
    *end = index + 1;
    while (*end < repository->point_entries && !is_full(&repository->points[*end]))
        ++*end;
}
