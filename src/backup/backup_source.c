/* SPDX-License-Identifier: MIT */
/* The disk that is backed up. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backup/backup.h"
#include "util/mem.h"

static const char *file_name(struct vdisk_image *image)
{
    return vd_storage_name(vd_format_file(vd_image_format(image)));
}

static int open_image(struct vd_backup *backup, uint32_t flags, const char *format,
                      struct vdisk_error *err)
{
    const struct vdisk_backup_options *options = backup->options;
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open),
        .flags = options->source_flags | flags,
        .format = format,
        .network = options->network,
        .passphrases = options->passphrases,
        .gate = options->gate,
    };
    struct vdisk_error inner = {0};
    struct vdisk_image *image;
    int ret = vdisk_image_open(options->source, &open, &image, &inner);
    if (ret == 0)
        backup->source = image;
    if (ret == -EAGAIN)
        return vd_err_set(err, EAGAIN,
                          "%s (the disk of a running virtual machine is backed up from an NBD "
                          "export of that: docs/backup.md)",
                          inner.message);
    if ((flags & VDISK_OPEN_WRITE) && (ret == -EACCES || ret == -EPERM || ret == -EROFS))
        return vd_err_set(err, inner.code,
                          "%s: its bitmaps, which record what changes, can not be changed "
                          "(--untracked leaves them as they are)",
                          inner.message);
    return ret < 0 ? vd_err_copy(err, &inner) : 0;
}

/* What records in the image itself has to be able to. */
static int open_again(struct vd_backup *backup, struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    int ret = vdisk_image_info(backup->source, &info, err);
    if (ret < 0)
        return ret;
    char *format = strdup(info.format);
    if (!format)
        return vd_err_nomem(err, "the name of a format");
    vdisk_image_close(STEAL_PTR(backup->source), NULL); /* read-only: nothing to lose */
    ret = open_image(backup, VDISK_OPEN_WRITE, format, err);
    free(format);
    return ret;
}

/* May all of the chain be stored as it is read? */
static int check_encryption(const struct vd_backup *backup, struct vdisk_error *err)
{
    struct vdisk_image *image = backup->source;
    for (; image; image = vdisk_image_backing(image)) {
        struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
        int ret = vdisk_image_info(image, &info, err);
        if (ret < 0)
            return ret;
        if (!info.encrypt)
            continue;
        if (!(backup->options->flags & VDISK_BACKUP_IN_CLEAR))
            return vd_err_set(err, EPERM,
                              "%s: is encrypted, and the repository would hold its data as anybody "
                              "can read it: say that this is meant (--in-clear)",
                              file_name(image));
        if (info.flags & VDISK_INFO_LOCKED)
            return vd_err_set(err, ENOKEY,
                              "%s: is encrypted: its data can not be read without a passphrase",
                              file_name(image));
    }
    return 0;
}

/* Is one of the images of the chain, or its data, the file of the repository? */
static int check_not_file(struct vdisk_image *source, const char *path, struct vdisk_error *err)
{
    struct vd_storage_identity identity = vd_storage_identify(path);
    for (struct vdisk_image *image = source; image; image = vdisk_image_backing(image)) {
        const struct vd_storage *file = vd_format_file(vd_image_format(image));
        if (vd_storage_identity_equals(vd_storage_identity(file), identity))
            return vd_err_set(err, EINVAL,
                              "%s: lies in the repository that it is to be backed up to: what "
                              "belongs to a repository is restored first (vdisk restore)",
                              vd_storage_name(file));
    }
    return 0;
}

/* Points may be merged and removed: nobody's disk may depend on them. */
static int check_not_within(const struct vd_backup *backup, struct vdisk_error *err)
{
    DIR *directory = opendir(backup->repository->name);
    const struct dirent *entry;
    int ret = 0;
    if (!directory)
        return vd_err_errno(err, errno, "%s: can not be read", backup->repository->name);
    while (ret == 0 && (entry = readdir(directory))) {
        if (entry->d_name[0] == '.')
            continue;
        char *path = vd_repository_path(backup->repository, entry->d_name, err);
        ret = path ? check_not_file(backup->source, path, err) : -ENOMEM;
        free(path);
    }
    closedir(directory);
    return ret;
}

/* What nobody would look at must not be asked for. */
static int check_bitmap_options(const struct vd_backup *backup, struct vdisk_error *err)
{
    const struct vdisk_backup_options *options = backup->options;
    bool is_nbd = backup->recorder == VDISK_TRACKER_NBD;
    if (options->bitmap && !is_nbd && backup->recorder != VDISK_TRACKER_BITMAP)
        return vd_err_set(err, EINVAL,
                          "%s: bitmap '%s': it has no bitmaps that record what changes: only qcow2 "
                          "images and exports of NBD servers have",
                          options->source, options->bitmap);
    if (options->next_bitmap && !is_nbd)
        return vd_err_set(err, EINVAL,
                          "%s: next bitmap '%s': it is no export of an NBD server, for which only "
                          "this is said",
                          options->source, options->next_bitmap);
    return 0;
}

int vd_backup_open_source(struct vd_backup *backup, struct vdisk_error *err)
{
    int ret = open_image(backup, 0, backup->options->source_format, err);
    if (ret < 0)
        return ret;
    const struct vd_manifest *latest = backup->latest ? &backup->latest->manifest : NULL;
    backup->recorder = vd_tracker_choose(backup->options, latest, backup->source);
    if (vd_tracker_wants_write(backup->recorder))
        ret = open_again(backup, err);
    backup->created = (int64_t)time(NULL);
    if (ret == 0)
        ret = check_bitmap_options(backup, err);
    if (ret == 0)
        ret = check_encryption(backup, err);
    if (ret == 0)
        ret = check_not_within(backup, err);
    if (ret < 0)
        return ret;
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    ret = vdisk_image_info(backup->source, &info, err);
    backup->source_format = info.format;
    backup->source_name = vd_tracker_source_name(backup->source, err);
    return ret == 0 && !backup->source_name ? -ENOMEM : ret;
}
