/* SPDX-License-Identifier: MIT */
/* What the files of a repository are called, and what is in them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/repository.h"

#define ENTRIES(array) (sizeof(array) / sizeof((array)[0]))

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

static const char *const kind_names[] = {
    [VDISK_POINT_FULL] = "full",
    [VDISK_POINT_INCREMENTAL] = "incremental",
    [VDISK_POINT_DIFFERENTIAL] = "differential",
};

static const char *const tracker_names[] = {
    [VDISK_TRACKER_NONE] = "none",       [VDISK_TRACKER_COMPARE] = "compare",
    [VDISK_TRACKER_BITMAP] = "bitmap",   [VDISK_TRACKER_VERSIONS] = "versions",
    [VDISK_TRACKER_OVERLAY] = "overlay", [VDISK_TRACKER_NBD] = "nbd",
};

/* The first name has the number 1.  0: it is none of them. */
static unsigned number_of(const char *const *names, size_t entries, const char *name)
{
    for (unsigned i = 1; i < entries; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return 0;
}

const char *vd_point_kind_name(enum vdisk_point_kind kind)
{
    return kind_names[kind];
}

enum vdisk_point_kind vd_point_kind_of(const char *name)
{
    return (enum vdisk_point_kind)number_of(kind_names, ENTRIES(kind_names), name);
}

const char *vd_tracker_name(enum vdisk_tracker kind)
{
    return tracker_names[kind];
}

enum vdisk_tracker vd_tracker_of(const char *name)
{
    return (enum vdisk_tracker)number_of(tracker_names, ENTRIES(tracker_names), name);
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
