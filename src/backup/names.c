/* SPDX-License-Identifier: MIT */
/* What the files of a repository are called. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/repository.h"

/* Room for 20 digits. */
#define NUMBER_BYTES 21u

char *vd_point_file_name(uint64_t number, const char *suffix, struct vdisk_error *err)
{
    size_t bytes = NUMBER_BYTES + strlen(suffix);
    char *name = malloc(bytes);
    if (!name) {
        vd_err_nomem(err, "the name of a point");
        return NULL;
    }
    snprintf(name, bytes, "%06" PRIu64 "%s", number, suffix);
    return name;
}

char *vd_repository_path(const struct vdisk_repository *repository, const char *file,
                         struct vdisk_error *err)
{
    size_t bytes = strlen(repository->name) + strlen(file) + 2;
    char *path = malloc(bytes);
    if (!path) {
        vd_err_nomem(err, "a path in a repository");
        return NULL;
    }
    snprintf(path, bytes, "%s/%s", repository->name, file);
    return path;
}
