/* SPDX-License-Identifier: MIT */
/* Snapshots within an image: vdisk_image_snapshot_*(). */
#include "format/snapshots.h"

#include <time.h>

#include "image/image_priv.h"

int vdisk_image_snapshot_info(struct vdisk_image *image, size_t index,
                              struct vdisk_snapshot_info *info, struct vdisk_error *err)
{
    if (info->struct_bytes != sizeof(*info))
        return vd_err_set(err, EINVAL, "snapshot info: struct_bytes is %zu, this library wants %zu",
                          info->struct_bytes, sizeof(*info));
    return vd_format_snapshot_info(image->format, index, info, err);
}

int vdisk_image_snapshot_find(struct vdisk_image *image, const struct vdisk_snapshot_key *key,
                              size_t *index, struct vdisk_error *err)
{
    return vd_format_snapshot_find(image->format, key, index, err);
}

int vdisk_image_snapshot_create(struct vdisk_image *image, const char *name,
                                struct vdisk_error *err)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    struct vd_new_snapshot snapshot = {
        .name = name, .date_sec = (uint64_t)now.tv_sec, .date_nsec = (uint32_t)now.tv_nsec};
    return vd_format_snapshot_create(image->format, &snapshot, err);
}

int vdisk_image_snapshot_apply(struct vdisk_image *image, size_t index, struct vdisk_error *err)
{
    return vd_format_snapshot_apply(image->format, index, err);
}

int vdisk_image_snapshot_delete(struct vdisk_image *image, size_t index, struct vdisk_error *err)
{
    return vd_format_snapshot_remove(image->format, index, err);
}
