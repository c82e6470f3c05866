/* SPDX-License-Identifier: MIT */
/*
 * Who knows what has changed on a source since a point.
 *
 * The order of calls: choose; new; begin; then, if the backup is one on a parent, changes, and if
 * an unfinished one is gone on with, changes_since_begin; copying; record; the point is made;
 * settle.  If it is not made, and the unfinished one is not kept: cancel.  And free in any case.
 *
 * T1  What changes() tells is no less than what has changed since the parent was made, whoever
 *     wrote to the source, or put an older copy of it in its place; or the call fails.  What a disk
 *     lost that was made shorter and longer again is told by vd_copy_add_zeros() in addition.  Two
 *     things nobody can tell, and docs/backup.md says so: an older copy of a GOW3 image in which
 *     just the same blocks were written in just as many sessions; and what qemu-img cut off within
 *     a cluster of less than 64 KiB.
 * T2  Until settle(), the source can still tell what it could before, whatever happens: it is
 *     called when the point is durable.
 * T3  If the process dies at any instant, the next backup finds what it needs by the manifests
 *     alone.
 *
 * What is recorded for the next backup goes by the format of the source; how this one knows what to
 * read is another matter: with VDISK_BACKUP_COMPARE all of the disk is looked at, and the next one
 * need not be.
 *
 * Bitmaps of qcow2 sources are called NAME-REPO8-POINT8: NAME is of the options, then come the
 * first eight digits of the UUIDs of the repository and the point, or random ones where an
 * unfinished backup is gone on with: the bitmap of a point begins with the call that makes it, and
 * that of the call which began it tells what has changed since.  settle() leaves those of the
 * new point and of the last full one, for a differential on it; all others of this repository go.
 * The bitmap of point N tells exactly how the file that it is in differs from point N, also if
 * somebody has put an older copy of that file in its place.  So if the parent's is not there, that
 * of a point below the parent does it, with what the images of the points between them hold.
 */
#ifndef VD_BACKUP_TRACKER_H
#define VD_BACKUP_TRACKER_H

#include "backup/repository.h"
#include "bitmap/bitmap.h"
#include "image/image.h"

struct vd_tracker;

/* What a tracker may have to know; all of it outlives the tracker. */
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

/*
 * Which one records what changes on @source, if these are the options?  @latest: or NULL.
 * VDISK_TRACKER_NONE: nothing does; never VDISK_TRACKER_COMPARE.
 */
enum vdisk_tracker vd_tracker_choose(const struct vdisk_backup_options *options,
                                     const struct vd_manifest *latest, struct vdisk_image *source);

/* Has the source to be open for writing?  Only an image with bitmaps of its own. */
bool vd_tracker_wants_write(enum vdisk_tracker kind);

/* @kind: from vd_tracker_choose().  Goes to vd_tracker_free(). */
int vd_tracker_new(enum vdisk_tracker kind, const struct vd_tracker_context *context,
                   struct vd_tracker **tracker, struct vdisk_error *err);
void vd_tracker_free(struct vd_tracker *tracker); /* NULL is accepted */

/* How is it known what this backup has to read?  For the manifest and the result.  NONE for a full
 * one. */
enum vdisk_tracker vd_tracker_kind(const struct vd_tracker *tracker);

/* Is what is wanted more than what has changed, so that it has to be compared with what the parent
 * shows (struct vd_copy, compares)? */
bool vd_tracker_compares(const struct vd_tracker *tracker);

/*
 * Makes sure that from here on it is recorded what changes, for the next backup; that this is the
 * source of the repository (-EXDEV); and, if the backup is one on a parent, that there is a record
 * of what has changed since (as changes()): otherwise nothing has been done.
 */
int vd_tracker_begin(struct vd_tracker *tracker, struct vdisk_error *err);

/*
 * What has changed since the parent was made goes to @wanted, which has no bit set and is of the
 * size of the source.  -ENOTSUP: there is no record; -EUCLEAN: there is one that can not be
 * trusted.
 */
int vd_tracker_changes(struct vd_tracker *tracker, struct vd_bitmap *wanted,
                       struct vdisk_error *err);

/*
 * What has changed since the unfinished backup began goes to @stale, likewise: here, too,
 * vd_copy_add_zeros() has to add what the disk lost.  -ENOTSUP (err untouched): that is not known.
 */
int vd_tracker_changes_since_begin(struct vd_tracker *tracker, struct vd_bitmap *stale,
                                   struct vdisk_error *err);

/*
 * Puts into the @manifest, which has its number, what the next backup needs.  If it sets
 * manifest->versions, the file of that name with ".part" behind has been made, durable but for its
 * name, with its digests in the table: the flow renames it when the point is made.
 */
int vd_tracker_record(struct vd_tracker *tracker, struct vd_manifest *manifest,
                      struct vdisk_error *err);

/* The point is there: what recorded the changes before it is not needed any more.  A failure costs
 * nothing but time in the next backup. */
int vd_tracker_settle(struct vd_tracker *tracker, struct vdisk_error *err);

/* Undoes begin(). */
void vd_tracker_cancel(struct vd_tracker *tracker);

/*
 * What the source is called in manifests: absolute if it is a local file; links to directories are
 * followed, the file itself may be one.  No user and password of a URL.  To be freed; NULL with
 * @err set.
 */
char *vd_tracker_source_name(struct vdisk_image *source, struct vdisk_error *err);

#endif
