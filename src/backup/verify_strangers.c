/* SPDX-License-Identifier: MIT */
/* Files of a repository that belong to nothing. */
#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backup/journal.h"
#include "backup/repository_points.h"
#include "backup/verify.h"
#include "util/mem.h"

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text);
    size_t end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* The number that a file of a point begins with; 0: it is none. */
static uint64_t number_of(const char *name)
{
    size_t digits = strspn(name, "0123456789");
    if (digits < VD_POINT_DIGITS_MIN || name[digits] != '.')
        return 0;
    errno = 0;
    uint64_t number = strtoull(name, NULL, 10);
    return errno ? 0 : number;
}

static bool is_own_name(const char *name)
{
    static const char *const names[] = {
        ".",
        "..",
        "lost+found",
        VD_REPOSITORY_IDENTITY,
        "lock",
        "journal.json",
        "partial.json",
        "partial.qcow2",
        "partial.qed",
        "partial.versions",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool is_file_of(const struct vd_point *point, const char *name)
{
    const struct vd_manifest *manifest = &point->manifest;
    if (point->is_damaged || strcmp(name, point->file) == 0)
        return true; /* what a damaged manifest knew of, nobody knows */
    return strcmp(name, manifest->image.name) == 0 ||
           (manifest->versions.name && strcmp(name, manifest->versions.name) == 0);
}

/*
 * An image, or versions, without a manifest.  Somebody who is adding a point right now gives names
 * by a journal, the manifest its own last.  1: the manifest is gone; 0: it is coming, or has come.
 */
static int is_orphan(const struct vd_verify *verify, uint64_t number, const char *name,
                     struct vdisk_error *err)
{
    if (!ends_with(name, ".qcow2") && !ends_with(name, ".qed") && !ends_with(name, ".versions"))
        return 0;
    int ret = vd_journal_is_pending(verify->repository, err);
    if (ret != 0)
        return ret < 0 ? ret : 0;
    CLEANUP_FREE char *manifest = vd_point_file_name(number, ".json", err);
    if (!manifest)
        return -ENOMEM;
    ret = vd_repository_has_file(verify->repository, manifest, err);
    if (ret < 0)
        return ret == -EBADMSG ? 1 : ret;
    return ret == 0;
}

static int look_at(struct vd_verify *verify, const char *name, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = verify->repository;
    uint64_t number = number_of(name);
    const struct vd_point *point = number ? vd_repository_point_of(repository, number) : NULL;
    struct vdisk_error why = {0};
    if (is_own_name(name) || ends_with(name, ".part") || (point && is_file_of(point, name)))
        return 0;
    int ret = number && !point ? is_orphan(verify, number, name, &why) : 0;
    if (vd_verify_is_ours(ret))
        return vd_err_copy(err, &why);
    if (ret != 0)
        vd_verify_damage(verify, "%s/%s: its manifest is missing: point %" PRIu64 " is lost",
                         repository->name, name, number);
    else if (!number || point)
        vd_verify_note(verify, "%s/%s: belongs to nothing that is known of: no damage",
                       repository->name, name);
    return 0;
}

int vd_verify_strangers(struct vd_verify *verify, struct vdisk_error *err)
{
    const char *name = verify->repository->name;
    DIR *directory = opendir(name);
    if (!directory)
        return vd_err_errno(err, errno, "%s: can not read the directory", name);
    int ret = 0;
    const struct dirent *entry;
    while (errno = 0, ret == 0 && (entry = readdir(directory)))
        ret = look_at(verify, entry->d_name, err);
    if (ret == 0 && errno)
        ret = vd_err_errno(err, errno, "%s: can not read the directory", name);
    closedir(directory);
    return ret;
}
