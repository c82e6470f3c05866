/* SPDX-License-Identifier: MIT */
/*
 * Who knows what has changed on a source since a point.
 *
 * The order of calls: find; begin; then, if the backup is one on a parent, changes; copying;
 * record; the point is made; settle.  If it is not made: cancel.  And free in any case.
 *
 * T1  What changes() tells is no less than what has changed since the parent was made, whoever
 * wrote to the source, or the call fails. T2  Until settle(), the source can still tell what it
 * could before, whatever happens: it is called when the point is durable. T3  If the process dies
 * at any instant, the next backup finds what it needs by the manifests alone.
 */
#ifndef VD_BACKUP_TRACKER_H
#define VD_BACKUP_TRACKER_H

#include "backup/repository.h"
#include "bitmap/bitmap.h"
#include "image/image.h"

struct vd_tracker;

/* What a tracker may have to know. */
struct vd_tracker_context {
    const struct vdisk_backup_options *options;
    struct vdisk_repository *repository;
    struct vdisk_image *source;       /* open; for writing if vd_tracker_wants_write() said so */
    const struct vd_manifest *latest; /* NULL: there is no point yet */
    const struct vd_manifest *parent; /* that the new point will lie on; NULL: a full one */
    const char *point_uuid;           /* of the new point */
    const char *resumed_uuid;         /* of the unfinished point that is gone on with, or NULL; then
                                         equal to point_uuid */
};

struct vd_tracker_driver {
    enum vdisk_tracker kind;

    /* Makes sure that from here on it is recorded what changes, for the next backup; and that this
     * is the source of the repository (-EXDEV).  After it the source may be copied. */
    int (*begin)(struct vd_tracker *tracker, struct vdisk_error *err);

    /* What has changed since the parent was made goes to @wanted, which has no bit set.  -ENOTSUP:
     * there is no record; -EUCLEAN: there is one that can not be trusted. */
    int (*changes)(struct vd_tracker *tracker, struct vd_bitmap *wanted, struct vdisk_error *err);

    /* What has changed since the unfinished backup began goes to @stale.  -ENOTSUP (err untouched):
     * that is not known.  NULL: the same */
    int (*changes_since_begin)(struct vd_tracker *tracker, struct vd_bitmap *stale,
                               struct vdisk_error *err);

    /* Puts into the manifest what the next backup needs.  Files that it makes are called by
     * vd_point_file_name() with ".part" behind, and durable; the flow gives them their names. */
    int (*record)(struct vd_tracker *tracker, struct vd_manifest *manifest,
                  struct vdisk_error *err);

    /* The point is there: what recorded the changes before it is not needed any more.  A failure
     * costs nothing but time in the next backup. */
    int (*settle)(struct vd_tracker *tracker, struct vdisk_error *err);

    /* There will be no point, and the unfinished one is not kept: undoes begin(). */
    void (*cancel)(struct vd_tracker *tracker);

    void (*free)(struct vd_tracker *tracker);
};

struct vd_tracker {
    const struct vd_tracker_driver *driver;
    struct vd_tracker_context context;
};

/*
 * Which one does a source of @format called @name have, if these are the options?  An answer of
 * VDISK_TRACKER_NONE for an incremental backup is told why by the flow.
 */
enum vdisk_tracker vd_tracker_choose(const struct vdisk_backup_options *options,
                                     struct vdisk_image *source);

/* Has the source to be open for writing?  Only an image with bitmaps of its own. */
bool vd_tracker_wants_write(enum vdisk_tracker kind);

/* Goes to vd_tracker_free(). */
int vd_tracker_new(enum vdisk_tracker kind, const struct vd_tracker_context *context,
                   struct vd_tracker **tracker, struct vdisk_error *err);
void vd_tracker_free(struct vd_tracker *tracker); /* NULL is accepted */

/* One of each: they live in files of their own. */
int vd_tracker_none_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                        struct vdisk_error *err); /* and VDISK_TRACKER_COMPARE */
int vd_tracker_bitmap_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                          struct vdisk_error *err);
int vd_tracker_versions_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                            struct vdisk_error *err);
int vd_tracker_overlay_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                           struct vdisk_error *err);
int vd_tracker_nbd_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                       struct vdisk_error *err);

#endif
