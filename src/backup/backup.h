/* SPDX-License-Identifier: MIT */
/*
 * vdisk_backup(), what its parts share.  The order of things:
 *
 *   options, repository, source          backup_options.c, backup_source.c
 *   kind, parent, what is gone on with   backup_plan.c
 *   the new image                        backup_target.c
 *   what has to be copied, copying it    backup_copy.c, backup_edge.c
 *   digests, manifest, names             backup_publish.c
 *
 * A1  Nothing of the new point has its name before all of it is durable, and then it gets all of
 *     its names by one journal.
 * A2  The source records what changes from before the first byte is read, and goes on with what it
 *     recorded for the parent until the point is there.
 * A3  partial.json is there only after the source has begun to record; what it says has been done
 *     is durable in the image.  So whoever finds it can go on.
 */
#ifndef VD_BACKUP_BACKUP_H
#define VD_BACKUP_BACKUP_H

#include "backup/copy.h"
#include "backup/partial.h"
#include "backup/tracker.h"

#define VD_BACKUP_GRANULARITY_BITS 16u /* of what is wanted: clusters of the new image */

/* The unfinished image, in the repository. */
#define VD_BACKUP_PART "partial"

struct vd_backup {
    const struct vdisk_backup_options *options;
    uint64_t stretch_bytes; /* of data, between two notes of what is done */
    struct vd_job job;

    struct vdisk_repository *repository;

    struct vdisk_image *source;
    const char *source_format; /* of the image */
    char *source_name;         /* owned: as it is recorded */
    int64_t created;

    const struct vd_point *latest; /* the last whole one; NULL: none */
    const struct vd_point *parent; /* NULL: a full backup */
    enum vdisk_tracker recorder;   /* kind of what records, for the next backup */
    struct vd_tracker *tracker;    /* that */
    bool has_begun;                /* the tracker */

    struct vd_partial partial; /* what this is going to be */
    bool is_resumed;
    uint64_t
        resumed_bytes; /* done_bytes that was found: it counts if it is known what has changed */
    bool is_begun;     /* a new one: what was unfinished before is gone */
    bool is_kept;      /* it can be gone on with: partial.json says so */

    struct vdisk_image *target;
    struct vd_bitmap_budget budget;
    struct vd_bitmap *wanted; /* owned; NULL: all of the disk */
    bool compares;            /* with what the target shows */
    uint64_t changed_bytes;
    uint64_t read_bytes;

    struct vd_manifest manifest;
    bool is_done; /* the point is there, or will be when the repository is opened next */
};

/* vdisk_backup(), which says how much is copied between two notes of what is done. */
int vd_backup_make(const struct vdisk_backup_options *options, uint64_t stretch_bytes,
                   struct vdisk_backup_result *result, struct vdisk_error *err);

/* Tells the caller's report function, if there is one. */
VD_PRINTF(2, 3) void vd_backup_tell(const struct vd_backup *backup, const char *fmt, ...);

int vd_backup_check_options(const struct vdisk_backup_options *options,
                            const struct vdisk_backup_result *result, struct vdisk_error *err);

/* Also chooses the recorder.  The repository is open. */
int vd_backup_open_source(struct vd_backup *backup, struct vdisk_error *err);

/* Kind and parent; goes on with what is unfinished, or removes it. */
int vd_backup_plan(struct vd_backup *backup, struct vdisk_error *err);

/* Forgets what is unfinished, and plans to begin once more. */
int vd_backup_start_over(struct vd_backup *backup, struct vdisk_error *err);

/* Makes the unfinished image, or opens the one that is there. */
int vd_backup_open_target(struct vd_backup *backup, struct vdisk_error *err);

/* "partial.qcow2" within the repository; to be freed. */
char *vd_backup_part_path(const struct vd_backup *backup, struct vdisk_error *err);

/* Everything from what is wanted to the last byte copied. */
int vd_backup_copy(struct vd_backup *backup, struct vdisk_error *err);

/*
 * A disk that was made shorter within a cluster, and longer again, has zeros there that neither
 * bitmaps (of QEMU) nor metadata tell of.  Adds them to what is wanted.
 */
int vd_backup_add_edge(struct vd_backup *backup, struct vdisk_error *err);

/* The target is closed.  Afterwards the point is there. */
int vd_backup_publish(struct vd_backup *backup, struct vdisk_error *err);

#endif
