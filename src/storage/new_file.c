/* SPDX-License-Identifier: MIT */
/* A local file that gets its name only when it is whole. */
#include "storage/new_file.h"

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

/* Makes the empty temporary file beside file->name.  @old: the file it replaces, or NULL. */
static int make_part(struct vd_new_file *file, const struct stat *old, struct vdisk_error *err)
{
    size_t directory = directory_bytes(file->name);
    CLEANUP_CLOSE int fd = -1;
    for (int i = 0; i < TRIES_MAX && fd < 0; i++) {
        uint32_t tag;
        if (getrandom(&tag, sizeof(tag), 0) != (ssize_t)sizeof(tag))
            return vd_err_errno(err, errno, "%s: no random number for a temporary name",
                                file->name);
        free(file->part_name);
        if (asprintf(&file->part_name, "%.*s.%.*s.vdisk-%08" PRIx32 ".part", (int)directory,
                     file->name, (int)NAME_BYTES_MAX, file->name + directory, tag) < 0) {
            file->part_name = NULL;
            return vd_err_nomem(err, "a file name");
        }
        fd = open(file->part_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, old ? 0600 : 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0) {
        int code = errno;
        vd_err_errno(err, code,
                     "%s: can not make the temporary file %s that would become it (see -n to write "
                     "into an image that is there)",
                     file->name, file->part_name);
        free(file->part_name); /* somebody else's, or not there: not ours to remove */
        file->part_name = NULL;
        return -code;
    }
    int ret = old ? take_after(fd, old) : 0;
    return ret < 0 ? vd_err_errno(err, -ret, "%s: can not set its mode", file->part_name) : 0;
}

/* N2 */
static int hold_old(struct vd_new_file *file, struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    return vd_storage_open(file->name, &options, &file->old, err);
}

int vd_new_file_open(struct vd_new_file *file, const char *name, struct vdisk_error *err)
{
    struct stat st;
    *file = (struct vd_new_file){0};
    int ret = follow_links(name, &file->name, err);
    if (ret < 0 || !vd_storage_name_is_local(file->name))
        return ret; /* opening it tells what is wrong */
    if (stat(file->name, &st) < 0) {
        if (errno != ENOENT)
            return vd_err_errno(err, errno, "%s: can not look at it", file->name);
        return make_part(file, NULL, err);
    }
    if (!S_ISREG(st.st_mode))
        return 0; /* N3 */
    ret = hold_old(file, err);
    return ret < 0 ? ret : make_part(file, &st, err);
}

const char *vd_new_file_place(const struct vd_new_file *file)
{
    return file->part_name ? file->part_name : file->name;
}

int vd_new_file_sync_directory(const char *name, struct vdisk_error *err)
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

/* Where there was no file, none that somebody else made meanwhile is replaced: N1. */
static int give_name(const struct vd_new_file *file)
{
    if (file->old)
        return rename(file->part_name, file->name);
    if (renameat2(AT_FDCWD, file->part_name, AT_FDCWD, file->name, RENAME_NOREPLACE) == 0)
        return 0;
    /* Not every file system knows the flag; link() makes the same promise. */
    if (errno != EINVAL || link(file->part_name, file->name) < 0)
        return -1;
    return unlink(file->part_name);
}

int vd_new_file_publish(struct vd_new_file *file, bool durable, struct vdisk_error *err)
{
    if (!file->part_name)
        return 0;
    if (give_name(file) < 0)
        return vd_err_errno(err, errno, "%s: can not rename it to %s", file->part_name, file->name);
    free(STEAL_PTR(file->part_name));
    return durable ? vd_new_file_sync_directory(file->name, err) : 0;
}

void vd_new_file_abandon(struct vd_new_file *file)
{
    if (file->part_name)
        unlink(file->part_name);
    vd_storage_close(file->old);
    free(file->part_name);
    free(file->name);
    *file = (struct vd_new_file){0};
}
