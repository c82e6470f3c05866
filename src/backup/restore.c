/* SPDX-License-Identifier: MIT */
/* Writing the disk of a point to an image: a conversion. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backup/point.h"
#include "job/convert.h"
#include "util/mem.h"

#define FLAGS_ALL                                                                          \
    (VDISK_CONVERT_NO_CREATE | VDISK_CONVERT_TARGET_IS_ZERO | VDISK_CONVERT_ALLOCATE_ALL | \
     VDISK_CONVERT_COMPRESS)

static int check_options(const struct vdisk_restore_options *options,
                         const struct vdisk_convert_result *result, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options))
        return vd_err_set(err, EINVAL,
                          "restore options: struct_bytes is %zu: this library wants %zu",
                          options->struct_bytes, sizeof(*options));
    if (options->flags & ~(uint32_t)FLAGS_ALL)
        return vd_err_set(err, EINVAL, "restore options: flags 0x%" PRIx32 " are not for restoring",
                          options->flags & ~(uint32_t)FLAGS_ALL);
    if (!options->target)
        return vd_err_set(err, EINVAL, "restore options: a target is needed");
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL,
                          "restore result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    return 0;
}

/* The directory that @name is in, or would be, symbolic links followed; NULL: who knows. */
static char *directory_of(const char *name)
{
    char *real = realpath(name, NULL);
    if (real) {
        *strrchr(real, '/') = '\0';
        return real;
    }
    const char *slash = strrchr(name, '/');
    return slash ? strndup(name, (size_t)(slash - name)) : strdup(".");
}

/* What is in the directory of a repository is the repository's: a point that is replaced by a disk,
 * or written to, is lost. */
static int check_outside(const struct vdisk_repository *repository, const char *target,
                         struct vdisk_error *err)
{
    struct stat own, other;
    if (!vd_storage_name_is_local(target))
        return 0;
    CLEANUP_FREE char *directory = directory_of(target);
    if (!directory)
        return vd_err_nomem(err, "a name");
    if (stat(repository->name, &own) == 0 && stat(*directory ? directory : "/", &other) == 0 &&
        own.st_dev == other.st_dev && own.st_ino == other.st_ino)
        return vd_err_set(err, EINVAL,
                          "%s: is in the repository '%s': restore to another directory", target,
                          repository->name);
    for (size_t i = 0; i < repository->point_entries; i++) {
        const struct vd_point *point = &repository->points[i];
        if (point->is_damaged)
            continue;
        CLEANUP_FREE char *path = vd_repository_path(repository, point->manifest.image.name, err);
        if (!path)
            return -ENOMEM;
        if (vd_storage_identity_equals(vd_storage_identify(path), vd_storage_identify(target)))
            return vd_err_set(err, EINVAL, "%s: is the image of point %" PRIu64 ": '%s'", target,
                              point->number, path);
    }
    return 0;
}

int vdisk_repository_restore(struct vdisk_repository *repository, size_t index,
                             const struct vdisk_restore_options *options,
                             struct vdisk_convert_result *result, struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    if (ret == 0)
        ret = check_outside(repository, options->target, err);
    struct vdisk_image *image;
    if (ret == 0)
        ret = vdisk_repository_open_point(repository, index, &image, err);
    if (ret < 0)
        return ret;
    struct vdisk_convert_options convert = {
        .struct_bytes = sizeof(convert),
        .flags = options->flags,
        .workers = options->workers,
        .target_flags = options->target_flags,
        .target = options->target,
        .target_format = options->target_format,
        .create = options->create,
        .rate_bytes = options->rate_bytes,
        .network = options->network,
        .passphrases = options->passphrases,
        .gate = options->gate,
        .progress = options->progress,
        .opaque = options->opaque,
        .compression_level = options->compression_level,
    };
    ret = vd_convert_image(image, &convert, result, err);
    vdisk_image_close(image, NULL); /* read-only: nothing to lose */
    return ret;
}
