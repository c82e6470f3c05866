/* SPDX-License-Identifier: MIT */
/* The image of the new point, while it is being filled. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/backup.h"
#include "backup/point.h"

#define CLUSTER_BYTES (1u << VD_BACKUP_GRANULARITY_BITS)

char *vd_backup_part_path(const struct vd_backup *backup, struct vdisk_error *err)
{
    char name[32];
    snprintf(name, sizeof(name), VD_BACKUP_PART ".%s", backup->partial.image_format);
    return vd_repository_path(backup->repository, name, err);
}

static bool compresses(const struct vd_backup *backup)
{
    return (backup->options->flags & VDISK_BACKUP_COMPRESS) != 0;
}

/* It has its names, and those of what it lies on, as the finished one will have them. */
static int make_image(const struct vd_backup *backup, const char *path, struct vdisk_error *err)
{
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create),
        .size = backup->partial.virtual_bytes,
        .flags = VDISK_CREATE_NO_CHECK,
        .cluster_bytes = CLUSTER_BYTES,
    };
    const struct vd_format_driver *driver;
    if (backup->parent) {
        create.backing = backup->parent->manifest.image.name;
        create.backing_format = backup->parent->manifest.image_format;
    }
    if (compresses(backup))
        create.compression = "zstd";
    int ret = vd_image_check_create(backup->partial.image_format, &create, &driver, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", path);
    return vd_image_create_at(path, path, driver, &create, true, err); /* A3 */
}

static int open_image(struct vd_backup *backup, const char *path, struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    struct vdisk_image *image;
    struct vd_storage *file;
    int ret = vd_storage_open(path, &options, &file, err);
    if (ret < 0)
        return ret;
    ret = vd_point_open_on(backup->repository, file, backup->partial.image_format, backup->parent,
                           VDISK_OPEN_WRITE, NULL, &image, err);
    if (ret == 0)
        backup->target = image;
    return ret;
}

/* Is the image that was found the one that would be made? */
static int check_image(const struct vd_backup *backup, struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    int ret = vdisk_image_info(backup->target, &info, err);
    if (ret < 0)
        return ret;
    bool is_zstd = info.compression && strcmp(info.compression, "zstd") == 0;
    if (info.virtual_bytes != backup->partial.virtual_bytes || is_zstd != compresses(backup))
        return vd_err_set(err, EBADMSG, "%s: was made in another way", info.filename);
    return 0;
}

/* Who was killed may have left clusters that nothing refers to: a point has none. */
static int mend_image(const struct vd_backup *backup, const char *path, struct vdisk_error *err)
{
    const struct vdisk_open_options options = {
        .struct_bytes = sizeof(options),
        .flags = VDISK_OPEN_WRITE | VDISK_OPEN_CHECK | VDISK_OPEN_NO_BACKING,
        .format = backup->partial.image_format,
    };
    struct vdisk_check_result found = {.struct_bytes = sizeof(found)};
    struct vdisk_image *image;
    int ret = vdisk_image_open(path, &options, &image, err);
    if (ret < 0)
        return ret;
    ret = vdisk_image_check(image, VDISK_REPAIR_LEAKS, NULL, NULL, &found, err);
    if (ret == 0 && (found.corruptions || found.check_errors))
        ret = vd_err_set(err, EBADMSG, "%s: is damaged", path);
    if (ret < 0) {
        vdisk_image_close(image, NULL); /* the failure is told */
        return ret;
    }
    return vdisk_image_close(image, err);
}

/* Goes on with the image that is there, if it is good. */
static int open_found(struct vd_backup *backup, const char *path, struct vdisk_error *err)
{
    struct vdisk_error why = {0};
    int ret = mend_image(backup, path, &why);
    if (ret == 0)
        ret = open_image(backup, path, &why);
    if (ret == 0)
        ret = check_image(backup, &why);
    if (ret == 0)
        return 0;
    if (backup->target)
        vdisk_image_close(backup->target, NULL); /* it is given up */
    backup->target = NULL;
    if (ret != -EBADMSG && ret != -EINVAL && ret != -ENOENT)
        return vd_err_copy(err, &why);
    vd_backup_tell(backup, "a backup that was not finished is removed: %s", why.message);
    return vd_backup_start_over(backup, err);
}

int vd_backup_open_target(struct vd_backup *backup, struct vdisk_error *err)
{
    char *path = vd_backup_part_path(backup, err);
    if (!path)
        return -ENOMEM;
    int ret = backup->is_resumed ? open_found(backup, path, err) : 0;
    if (ret == 0 && !backup->is_resumed) {
        ret = make_image(backup, path, err);
        if (ret == 0)
            ret = open_image(backup, path, err);
    }
    free(path);
    return ret;
}
