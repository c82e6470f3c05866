/* SPDX-License-Identifier: MIT */
/* What a tracker of one kind does; tracker.c is the only caller.  The contracts: tracker.h. */
#ifndef VD_BACKUP_TRACKER_PRIV_H
#define VD_BACKUP_TRACKER_PRIV_H

#include "backup/tracker.h"

struct vd_tracker_driver {
    enum vdisk_tracker kind;

    int (*begin)(struct vd_tracker *tracker, struct vdisk_error *err);
    /* With a parent only, and not with VDISK_BACKUP_COMPARE. */
    int (*changes)(struct vd_tracker *tracker, struct vd_bitmap *wanted, struct vdisk_error *err);
    /* With resumed_uuid only.  NULL: -ENOTSUP */
    int (*changes_since_begin)(struct vd_tracker *tracker, struct vd_bitmap *stale,
                               struct vdisk_error *err);
    int (*record)(struct vd_tracker *tracker, struct vd_manifest *manifest,
                  struct vdisk_error *err);                             /* NULL: nothing to do */
    int (*settle)(struct vd_tracker *tracker, struct vdisk_error *err); /* NULL: nothing to do */
    void (*cancel)(struct vd_tracker *tracker);                         /* NULL: nothing to do */
    void (*free)(struct vd_tracker *tracker);
};

/* The first member of what the kinds have. */
struct vd_tracker {
    const struct vd_tracker_driver *driver;
    struct vd_tracker_context context;
};

/* One of each: they live in files of their own. */
int vd_tracker_none_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                        struct vdisk_error *err);
int vd_tracker_bitmap_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                          struct vdisk_error *err);
int vd_tracker_versions_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                            struct vdisk_error *err);
int vd_tracker_overlay_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                           struct vdisk_error *err);
int vd_tracker_nbd_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                       struct vdisk_error *err);

/* --- tracker.c: what several of them need ------------------------------------------------------
 */

/* Does this backup ask what has changed: is it one on a parent, and does not compare? */
bool vd_tracker_wants_changes(const struct vd_tracker *tracker);

/* Has the source the name that it had when the latest point was made, or is it the same file?
 * -EXDEV, unless VDISK_BACKUP_MOVED. */
int vd_tracker_check_name(const struct vd_tracker *tracker, struct vdisk_error *err);

/* "there is no record of what has changed since point N" and what to do: -ENOTSUP.  @why: or NULL
 */
int vd_tracker_no_record(const struct vd_tracker *tracker, const char *why,
                         struct vdisk_error *err);

/* --- tracker_behind.c: the files behind the source ---------------------------------------------
 */

/* Puts them into @manifest; none, if there are none. */
int vd_tracker_record_behind(const struct vd_tracker *tracker, struct vd_manifest *manifest,
                             struct vdisk_error *err);

/* Are they as they were when the parent was made?  -ENOTSUP, told as by vd_tracker_no_record(). */
int vd_tracker_check_behind(const struct vd_tracker *tracker, struct vdisk_error *err);

#endif
