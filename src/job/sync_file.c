/* SPDX-License-Identifier: MIT */
/* New files that get their name when they are complete. */
#include "job/sync_file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "util/mem.h"

int vd_new_file_create(const char *name, char **new_name, struct vd_storage **file,
                       struct vdisk_error *err)
{
    uint32_t tag;
    *new_name = NULL;
    if (getrandom(&tag, sizeof(tag), 0) != sizeof(tag))
        return vd_err_errno(err, EIO, "no random bytes for the name of a new file");
    if (asprintf(new_name, "%s.new-%08" PRIx32, name, tag) < 0) {
        *new_name = NULL;
        return vd_err_nomem(err, "the name of a new file");
    }
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE |
                                                  VD_STORAGE_EXCLUSIVE};
    int ret = vd_storage_open(*new_name, &options, file, err);
    if (ret < 0) {
        free(*new_name);
        *new_name = NULL;
    }
    return ret;
}

static int flush_directory_of(const char *name, struct vdisk_error *err)
{
    CLEANUP_FREE char *directory = strdup(name);
    if (!directory)
        return vd_err_nomem(err, "the name of a directory");
    char *slash = strrchr(directory, '/');
    if (slash)
        slash[slash == directory] = '\0';
    CLEANUP_CLOSE int fd = open(slash ? directory : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return vd_err_errno(err, errno, "%s: can not make its name durable", name);
    return 0;
}

int vd_new_file_commit(const char *new_name, const char *name, bool replace,
                       struct vdisk_error *err)
{
    if (renameat2(AT_FDCWD, new_name, AT_FDCWD, name, replace ? 0 : RENAME_NOREPLACE) < 0) {
        /* Not every file system knows the flag; link() makes the same promise. */
        if (replace || errno != EINVAL || link(new_name, name) < 0)
            return vd_err_errno(err, errno, "%s: can not be given its name", name);
        unlink(new_name);
    }
    return flush_directory_of(name, err);
}
