/* SPDX-License-Identifier: MIT */
/* Are the options of a backup such that it can be made? */
#include <inttypes.h>
#include <string.h>

#include "backup/backup.h"

#define LEVEL_MAX     9u /* of compression */
#define KEY_BYTES_MIN 16u

#define KIND_FLAGS    (VDISK_BACKUP_FULL | VDISK_BACKUP_INCREMENTAL | VDISK_BACKUP_DIFFERENTIAL)
#define FLAGS_ALL                                                                         \
    (KIND_FLAGS | VDISK_BACKUP_COMPARE | VDISK_BACKUP_COMPRESS | VDISK_BACKUP_UNTRACKED | \
     VDISK_BACKUP_RESTART | VDISK_BACKUP_IN_CLEAR | VDISK_BACKUP_MOVED)

static int check_structs(const struct vdisk_backup_options *options,
                         const struct vdisk_backup_result *result, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options))
        return vd_err_set(err, EINVAL,
                          "backup options: struct_bytes is %zu: this library wants %zu",
                          options->struct_bytes, sizeof(*options));
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL, "backup result: struct_bytes is %zu: this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    if (options->flags & ~(uint32_t)FLAGS_ALL)
        return vd_err_set(err, EINVAL, "backup options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)FLAGS_ALL);
    if (options->source_flags & ~(uint32_t)(VDISK_OPEN_DIRECT | VDISK_OPEN_SHARE))
        return vd_err_set(err, EINVAL, "backup options: unknown flags 0x%" PRIx32 " of the source",
                          options->source_flags &
                              ~(uint32_t)(VDISK_OPEN_DIRECT | VDISK_OPEN_SHARE));
    if (!options->source || !*options->source || !options->repository || !*options->repository)
        return vd_err_set(err, EINVAL, "backup options: a source and a repository are needed");
    return 0;
}

static int check_kind(const struct vdisk_backup_options *options, struct vdisk_error *err)
{
    uint32_t kind = options->flags & KIND_FLAGS;
    if (kind & (kind - 1))
        return vd_err_set(err, EINVAL,
                          "backup options: a backup is either full, incremental or differential");
    if ((kind & VDISK_BACKUP_FULL) && (options->flags & VDISK_BACKUP_COMPARE))
        return vd_err_set(err, EINVAL,
                          "backup options: a full backup stores all of the disk, and compares "
                          "nothing");
    if ((options->flags & VDISK_BACKUP_UNTRACKED) && options->next_bitmap)
        return vd_err_set(err, EINVAL,
                          "backup options: next_bitmap is '%s', and nothing is to record what "
                          "changes",
                          options->next_bitmap);
    return 0;
}

static int check_format(const struct vdisk_backup_options *options, struct vdisk_error *err)
{
    const char *format = options->format ? options->format : "qcow2";
    bool compresses = (options->flags & VDISK_BACKUP_COMPRESS) != 0;
    if (strcmp(format, "qcow2") != 0 && strcmp(format, "qed") != 0)
        return vd_err_set(err, EINVAL,
                          "backup options: format is '%s': a backup is stored as qcow2 or qed",
                          format);
    if (compresses && strcmp(format, "qcow2") != 0)
        return vd_err_set(err, EINVAL,
                          "backup options: images of format %s have no compressed clusters: use "
                          "qcow2",
                          format);
    if (options->compression_level > LEVEL_MAX || (options->compression_level && !compresses))
        return vd_err_set(err, EINVAL,
                          "backup options: compression_level is %" PRIu32
                          ": at most %u, and only with VDISK_BACKUP_COMPRESS",
                          options->compression_level, LEVEL_MAX);
    return 0;
}

int vd_backup_check_options(const struct vdisk_backup_options *options,
                            const struct vdisk_backup_result *result, struct vdisk_error *err)
{
    int ret = check_structs(options, result, err);
    if (ret == 0)
        ret = check_kind(options, err);
    if (ret == 0)
        ret = check_format(options, err);
    if (ret < 0)
        return ret;
    if (!options->key != !options->key_bytes ||
        (options->key && options->key_bytes < KEY_BYTES_MIN))
        return vd_err_set(err, EINVAL, "backup options: the key has %zu bytes: at least %u",
                          options->key_bytes, KEY_BYTES_MIN);
    return 0;
}
