/* SPDX-License-Identifier: MIT */
/* The image a conversion writes. */
#include "job/convert_target.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "util/mem.h"

#define LINKS_MAX      40   /* symbolic links followed, as the kernel does */
#define NAME_BYTES_MAX 200u /* of the old name in the temporary one: the rest must fit in 255 */
#define TRIES_MAX      16

/* Bytes of @name up to and with its last '/'. */
static size_t directory_bytes(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? (size_t)(slash - name) + 1 : 0;
}

/* Follows @name as long as it is a symbolic link, to a file that need not be there. */
static int follow_links(const char *name, char **resolved, struct vdisk_error *err)
{
    char *at = strdup(name);
    char link[PATH_MAX];
    for (int i = 0; at && i < LINKS_MAX; i++) {
        ssize_t length = readlink(at, link, sizeof(link) - 1);
        if (length < 0) {
            *resolved = at;
            return 0;
        }
        char *next = NULL;
        int directory = link[0] == '/' ? 0 : (int)directory_bytes(at);
        if (asprintf(&next, "%.*s%.*s", directory, at, (int)length, link) < 0)
            next = NULL;
        free(at);
        at = next;
    }
    if (!at)
        return vd_err_nomem(err, "a file name");
    free(at);
    return vd_err_errno(err, ELOOP, "%s", name);
}

/* As the old file: mode and owner.  Who may not give files away gives the group no more rights
 * than everybody has. */
static int take_after(int fd, const struct stat *old)
{
    mode_t mode = old->st_mode & 07777u;
    struct stat own;
    if (fstat(fd, &own) < 0)
        return -errno;
    if ((own.st_uid != old->st_uid || own.st_gid != old->st_gid) &&
        fchown(fd, old->st_uid, old->st_gid) < 0)
        mode &= 0707u | ((mode & 07u) << 3);
    return fchmod(fd, mode) < 0 ? -errno : 0;
}

/* Makes the empty temporary file beside target->name.  @old: the file it replaces, or NULL. */
static int make_part(struct vd_convert_target *target, const struct stat *old,
                     struct vdisk_error *err)
{
    size_t directory = directory_bytes(target->name);
    CLEANUP_CLOSE int fd = -1;
    for (int i = 0; i < TRIES_MAX && fd < 0; i++) {
        uint32_t tag;
        if (getrandom(&tag, sizeof(tag), 0) != (ssize_t)sizeof(tag))
            return vd_err_errno(err, errno, "%s: no random number for a temporary name",
                                target->name);
        free(target->part_name);
        if (asprintf(&target->part_name, "%.*s.%.*s.vdisk-%08" PRIx32 ".part", (int)directory,
                     target->name, (int)NAME_BYTES_MAX, target->name + directory, tag) < 0) {
            target->part_name = NULL;
            return vd_err_nomem(err, "a file name");
        }
        fd = open(target->part_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, old ? 0600 : 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0) {
        int code = errno;
        vd_err_errno(err, code,
                     "%s: can not make the temporary file %s that would become it (see -n to write "
                     "into an image that is there)",
                     target->name, target->part_name);
        free(target->part_name); /* somebody else's, or not there: not ours to remove */
        target->part_name = NULL;
        return -code;
    }
    int ret = old ? take_after(fd, old) : 0;
    return ret < 0 ? vd_err_errno(err, -ret, "%s: can not set its mode", target->part_name) : 0;
}

static struct vdisk_open_options open_options(const struct vdisk_convert_options *options)
{
    return (struct vdisk_open_options){
        .struct_bytes = sizeof(struct vdisk_open_options),
        .flags = VDISK_OPEN_WRITE | options->target_flags,
        .format = options->target_format,
    };
}

/* T2 */
static int hold_old(struct vd_convert_target *target, struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    return vd_storage_open(target->name, &options, &target->old, err);
}

/* T1: chooses the place, target->part_name or target->name itself. */
static int choose_place(struct vd_convert_target *target, struct vdisk_error *err)
{
    struct stat st;
    if (!vd_storage_name_is_local(target->name))
        return 0; /* opening it tells what is wrong */
    if (stat(target->name, &st) < 0) {
        if (errno != ENOENT)
            return vd_err_errno(err, errno, "%s: can not look at it", target->name);
        return make_part(target, NULL, err);
    }
    if (!S_ISREG(st.st_mode))
        return 0;
    int ret = hold_old(target, err);
    return ret < 0 ? ret : make_part(target, &st, err);
}

/* Does a new, empty image on this storage read as zero?  An image with a map does; a raw one only
 * where the storage began empty. */
static int look_for_zeros(struct vd_convert_target *target, struct vdisk_error *err)
{
    const struct vd_format *format = vd_image_format(target->image);
    uint64_t size = vdisk_image_size(target->image);
    struct vdisk_extent extent;
    target->reads_zero = true;
    if ((vd_storage_caps(vd_format_file(format)) & VD_STORAGE_CAN_RESIZE) || size == 0)
        return 0;
    int ret = vdisk_image_extent(target->image, 0, size, &extent, err);
    target->reads_zero =
        ret == 0 && (extent.flags & VDISK_EXTENT_ZERO) != 0 && extent.length == size;
    return ret;
}

static int create_target(struct vd_convert_target *target,
                         const struct vdisk_convert_options *options, uint64_t size,
                         struct vdisk_error *err)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    if (options->create)
        create = *options->create;
    if (!create.size)
        create.size = size;
    if (create.size < size)
        return vd_err_set(err, EINVAL, "%s: size of %" PRIu64 " bytes: the sources have %" PRIu64,
                          target->name, create.size, size);

    /* What the format can not do is found before any file is touched. */
    const char *format = options->target_format ? options->target_format : "raw";
    struct vdisk_measure_result measure;
    int ret = vd_format_find(format, err) ? 0 : -EINVAL;
    if (ret == 0)
        ret = vd_format_measure(vd_format_find(format, err), create.size, 0, &measure, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", target->name);

    ret = choose_place(target, err);
    if (ret < 0)
        return ret;
    const char *place = target->part_name ? target->part_name : target->name;
    struct vdisk_open_options open = open_options(options);
    open.format = format;
    ret = vdisk_image_create(place, format, &create, err);
    if (ret == 0)
        ret = vdisk_image_open(place, &open, &target->image, err);
    return ret < 0 ? ret : look_for_zeros(target, err);
}

static int open_target(struct vd_convert_target *target,
                       const struct vdisk_convert_options *options, uint64_t size,
                       struct vdisk_error *err)
{
    struct vdisk_open_options open = open_options(options);
    int ret = vdisk_image_open(target->name, &open, &target->image, err);
    if (ret < 0)
        return ret;
    if (vdisk_image_size(target->image) < size)
        return vd_err_set(err, EINVAL,
                          "%s: the disk has %" PRIu64 " bytes, the sources have %" PRIu64
                          ": resize it first",
                          target->name, vdisk_image_size(target->image), size);
    target->reads_zero = (options->flags & VDISK_CONVERT_TARGET_IS_ZERO) != 0;
    return 0;
}

int vd_convert_target_open(struct vd_convert_target *target,
                           const struct vdisk_convert_options *options, uint64_t size,
                           struct vdisk_error *err)
{
    *target =
        (struct vd_convert_target){.is_durable = !(options->target_flags & VDISK_OPEN_UNSAFE)};
    int ret = follow_links(options->target, &target->name, err);
    if (ret < 0)
        return ret;
    return options->flags & VDISK_CONVERT_NO_CREATE ? open_target(target, options, size, err)
                                                    : create_target(target, options, size, err);
}

static int sync_directory(const char *name, struct vdisk_error *err)
{
    size_t length = directory_bytes(name);
    CLEANUP_FREE char *directory = length ? strndup(name, length) : strdup(".");
    if (!directory)
        return vd_err_nomem(err, "a file name");
    CLEANUP_CLOSE int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return vd_err_errno(err, errno, "%s: can not make its directory %s durable", name,
                            directory);
    return 0;
}

int vd_convert_target_finish(struct vd_convert_target *target, struct vdisk_error *err)
{
    int ret = vdisk_image_close(STEAL_PTR(target->image), err);
    if (ret < 0 || !target->part_name)
        return ret;
    if (rename(target->part_name, target->name) < 0)
        return vd_err_errno(err, errno, "%s: can not rename it to %s", target->part_name,
                            target->name);
    free(STEAL_PTR(target->part_name));
    return target->is_durable ? sync_directory(target->name, err) : 0;
}

void vd_convert_target_abandon(struct vd_convert_target *target)
{
    /* The result does not matter: what is in place is unfinished, and the rest is removed. */
    vdisk_image_close(target->image, NULL);
    if (target->part_name)
        unlink(target->part_name);
    vd_storage_close(target->old);
    free(target->part_name);
    free(target->name);
    *target = (struct vd_convert_target){0};
}
