/* SPDX-License-Identifier: MIT */
/* New files that get their name when they are complete. */
#ifndef VD_JOB_SYNC_FILE_H
#define VD_JOB_SYNC_FILE_H

#include "storage/storage.h"

/*
 * Makes an empty, writable file beside @name.  *new_name is what it is called until it gets its
 * name; to be freed, NULL after a failure.
 */
int vd_new_file_create(const char *name, char **new_name, struct vd_storage **file,
                       struct vdisk_error *err);

/*
 * Gives the file its name, durably; its content is made durable by the caller before.  @replace:
 * takes the place of what is there, else that is -EEXIST.
 */
int vd_new_file_commit(const char *new_name, const char *name, bool replace,
                       struct vdisk_error *err);

#endif
