/* SPDX-License-Identifier: MIT */
/*
 * Points that go, and what becomes of those that lie on them: vdisk_repository_prune() and
 * _merge().
 *
 * G1  Each point that stays reads as before, at any instant: what is written anew is a new file, or
 *     a log, until a journal gives it its name.
 * G2  What is moved comes through storage/verified.h: a damage stops the work before it.
 * G3  Each change of files is one journal: a point that stays is written anew, and those that only
 *     it needed are removed; or points are removed that nobody needs.
 * G4  A chain that a damaged point may be in is not touched.  Such a point may lie on any other
 * back to the last full one before it, and those behind it on it: until the next full one.
 */
#ifndef VD_BACKUP_PRUNE_H
#define VD_BACKUP_PRUNE_H

#include "backup/point.h"
#include "bitmap/bitmap.h"
#include "backup/repository.h"
#include "job/job.h"

struct vd_prune {
    struct vdisk_repository *repository;
    const struct vdisk_prune_options *options; /* for flags, report and opaque */
    struct vd_job job;
    uint64_t *goes; /* owned: numbers of points, from the lowest up */
    size_t goes_entries;
    uint64_t removed_points;
    uint64_t moved_bytes;
};

/* Is this point to go? */
bool vd_prune_goes(const struct vd_prune *prune, uint64_t number);

/* Makes all that goes go. */
int vd_prune_run(struct vd_prune *prune, struct vdisk_error *err);

/* Tells the caller's report function. */
__attribute__((format(printf, 2, 3))) void vd_prune_tell(const struct vd_prune *prune,
                                                         const char *fmt, ...);

/* ---- One change of files (G3) ---- */

struct vd_rewrite {
    struct vd_prune *prune;
    const struct vd_point *point;  /* that is written anew */
    const struct vd_point *onto;   /* that it will lie on, NULL: it will be full */
    const struct vd_point *beside; /* NULL, or: onto does not lie below point, but both on this */
    const uint64_t *removes;       /* points that go with it: those between point and onto */
    size_t remove_entries;

    struct vd_digest_table table; /* owned: of the image that was written */
    char *part;                   /* owned: its path until it has its name, or NULL */
};

/*
 * Writes a new image of what point has and onto does not; the chain of point is not changed until
 * the end.  Then the list of points is read again.
 */
int vd_rewrite_new(struct vd_rewrite *rewrite, struct vdisk_error *err);

/* Is it cheaper to bring the data into the file of the lowest point that goes? */
bool vd_rewrite_prefers_redo(const struct vd_rewrite *rewrite);

/* The same by a log of what changes in the file of the lowest point of @removes, which becomes that
 * of point. */
int vd_rewrite_redo(struct vd_rewrite *rewrite, struct vdisk_error *err);

/* Removes points that nobody lies on, but others of them. */
int vd_prune_remove(struct vd_prune *prune, const uint64_t *removes, size_t remove_entries,
                    struct vdisk_error *err);

/* ---- For these ---- */

/* Something to be put into the journal before the names of the new image and manifest. */
struct vd_rewrite_log {
    char *name; /* within the repository */
    uint8_t digest[VD_DIGEST_BYTES_MAX];
};

/* Gives what was written its manifest and its names.  @from: name of the image that is renamed.
 * @log: NULL, or to be applied to it before. */
int vd_rewrite_publish(struct vd_rewrite *rewrite, const char *from,
                       const struct vd_rewrite_log *log, struct vdisk_error *err);

/* Frees what it has, and removes what has no name yet. */
void vd_rewrite_end(struct vd_rewrite *rewrite);

/* Sets in @wanted what the images of the chain above @depth decide. */
int vd_rewrite_find(struct vd_rewrite *rewrite, struct vdisk_image *image, unsigned depth,
                    struct vd_bitmap *wanted, struct vdisk_error *err);

/* A bitmap for the disk of the point with the granularity of clusters of @image. */
int vd_rewrite_bitmap(const struct vd_rewrite *rewrite, struct vdisk_image *image,
                      struct vd_bitmap_budget *budget, struct vd_bitmap **wanted,
                      struct vdisk_error *err);

/* Copies what is wanted, and counts. */
int vd_rewrite_copy(struct vd_rewrite *rewrite, struct vdisk_image *source,
                    struct vdisk_image *target, const struct vd_bitmap *wanted,
                    struct vdisk_error *err);

/* How many images are there from @top down to, not including, @bottom (NULL: to the end)? */
unsigned vd_rewrite_depth(const struct vd_rewrite *rewrite, const struct vd_point *top,
                          const struct vd_point *bottom);

#endif
