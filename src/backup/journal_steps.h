/* SPDX-License-Identifier: MIT */
/* The steps of a journal as they are in memory, checked. */
#ifndef VD_BACKUP_JOURNAL_STEPS_H
#define VD_BACKUP_JOURNAL_STEPS_H

#include "backup/repository.h"

enum vd_step_kind {
    VD_STEP_APPLY = 1,
    VD_STEP_RENAME,
    VD_STEP_REMOVE
};

struct vd_step {
    enum vd_step_kind kind;
    const char *from; /* log, old name, or what is removed */
    const char *to;   /* file, new name, or NULL */
    const char *digest;
};

struct vd_steps {
    struct vd_step *steps; /* owned; strings belong to the JSON */
    size_t entries;
};

/*
 * Takes them from the array @json, which outlives them.  -EBADMSG: there is a step that nobody
 * should do, or that could not be done again after those behind it.
 */
int vd_steps_read(struct vd_steps *steps, json_t *json, struct vdisk_error *err);
void vd_steps_free(struct vd_steps *steps); /* of zeroed ones, too */

/* Are all the files there that the steps need, and nobody has open what is changed?  What gets a
 * new name is made durable, too. */
int vd_steps_check_files(const struct vdisk_repository *repository, const struct vd_steps *steps,
                         struct vdisk_error *err);

/* Does them, or what is left of them; all is durable when this returns 0. */
int vd_steps_run(struct vdisk_repository *repository, const struct vd_steps *steps,
                 struct vdisk_error *err);

#endif
