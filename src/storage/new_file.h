/* SPDX-License-Identifier: MIT */
/*
 * A local file that gets its name only when it is whole.
 *
 * N1  A regular file, or a name where nothing is yet, is written under another name in the same
 *     directory, and renamed when it is complete and durable.  Whatever happens before, a file of
 *     that name is as it was; one that was not there at first is never replaced.
 * N2  The old file is held open for writing, and so locked, until then: nobody else starts to use
 *     a disk that is about to be replaced, and a disk in use is not replaced.
 * N3  Everything else (a block device) is written in place.
 */
#ifndef VD_STORAGE_NEW_FILE_H
#define VD_STORAGE_NEW_FILE_H

#include "storage/storage.h"

struct vd_new_file {
    char *name;             /* where it ends up, symbolic links followed */
    char *part_name;        /* N1: where it is written meanwhile, or NULL */
    struct vd_storage *old; /* N2, or NULL */
};

/*
 * Makes an empty file with mode and owner of the old one, if there is one; a storage can then be
 * opened on vd_new_file_place().  Goes to vd_new_file_abandon(), also after success of
 * vd_new_file_publish() and after a failure of this.
 */
int vd_new_file_open(struct vd_new_file *file, const char *name, struct vdisk_error *err);

/* The name to open for writing. */
const char *vd_new_file_place(const struct vd_new_file *file);

/*
 * Gives the file, which is closed and durable, its name.  @durable: the name is too, when this
 * returns 0.
 */
int vd_new_file_publish(struct vd_new_file *file, bool durable, struct vdisk_error *err);

/* What was done to names in the directory of @name is durable when this returns 0. */
int vd_new_file_sync_directory(const char *name, struct vdisk_error *err);

/* Frees everything; what was not published is removed, if it was not written in place. */
void vd_new_file_abandon(struct vd_new_file *file);

#endif
