/* SPDX-License-Identifier: MIT */
/* What the parts of vdisk_repository_verify() share. */
#ifndef VD_BACKUP_VERIFY_H
#define VD_BACKUP_VERIFY_H

#include "backup/repository.h"
#include "job/job.h"

struct vd_verify {
    struct vdisk_repository *repository;
    const struct vdisk_verify_options *options;
    struct vdisk_verify_result *result;
    struct vd_job job;
    struct vd_verify_point *points; /* owned: one for each of the repository's */
    const char *file;               /* path of the one that is compared */
    uint64_t file_damages;
};

struct vd_verify_point {
    bool is_wanted;
    bool is_bad;    /* it can not be restored as it was */
    bool is_parent; /* of one that is wanted */
};

/* Tells of a damage, and counts it; or of what is none. */
VD_PRINTF(2, 3) void vd_verify_damage(struct vd_verify *verify, const char *fmt, ...);
VD_PRINTF(2, 3) void vd_verify_note(struct vd_verify *verify, const char *fmt, ...);

/* Is it the machine's trouble, not the repository's? */
bool vd_verify_is_ours(int ret);

/* Files that no manifest knows of.  An image among them is a damage: its manifest is gone. */
int vd_verify_strangers(struct vd_verify *verify, struct vdisk_error *err);

#endif
