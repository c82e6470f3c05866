/* SPDX-License-Identifier: MIT */
/* What is told of points. */
#include <inttypes.h>

#include "backup/repository_points.h"

size_t vdisk_repository_points(const struct vdisk_repository *repository)
{
    return repository->point_entries;
}

/* Is the chain below it not whole, as far as manifests tell? */
static bool is_orphan(const struct vdisk_repository *repository, const struct vd_point *point)
{
    while (point && !point->is_damaged && point->manifest.parent)
        point = vd_point_parent(repository, point);
    return !point;
}

int vdisk_repository_point(const struct vdisk_repository *repository, size_t index,
                           struct vdisk_point_info *info, struct vdisk_error *err)
{
    if (info->struct_bytes != sizeof(*info))
        return vd_err_set(err, EINVAL, "point info: struct_bytes is %zu, this library wants %zu",
                          info->struct_bytes, sizeof(*info));
    if (index >= repository->point_entries)
        return vd_err_set(err, EINVAL, "%s: there is no point of index %zu: there are %zu",
                          repository->name, index, repository->point_entries);
    const struct vd_point *point = &repository->points[index];
    const struct vd_manifest *manifest = &point->manifest;
    *info = (struct vdisk_point_info){
        .struct_bytes = sizeof(*info),
        .number = point->number,
        .manifest = point->file,
    };
    if (point->is_damaged) {
        info->flags = VDISK_POINT_DAMAGED;
        return 0;
    }
    if (is_orphan(repository, point))
        info->flags |= VDISK_POINT_ORPHAN;
    if (manifest->is_compressed)
        info->flags |= VDISK_POINT_COMPRESSED;
    info->kind = manifest->kind;
    info->tracker = manifest->tracker;
    info->parent = manifest->parent;
    info->created = manifest->created;
    info->virtual_bytes = manifest->virtual_bytes;
    info->stored_bytes = vd_manifest_stored_bytes(manifest);
    info->image = manifest->image.name;
    info->source = manifest->source;
    info->source_format = manifest->source_format;
    info->bitmap = manifest->bitmap;
    return 0;
}
