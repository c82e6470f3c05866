/* SPDX-License-Identifier: MIT */
/* What a tracker of one kind does; tracker.c is the only caller.  The contracts: tracker.h. */
#ifndef VD_BACKUP_TRACKER_PRIV_H
#define VD_BACKUP_TRACKER_PRIV_H

#include "backup/partial.h"
#include "backup/tracker.h"
#include "storage/storage.h"
#include "util/endian.h"

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

/* A file behind the source cannot be watched: why. */
enum vd_tracker_blind {
    VD_TRACKER_SEES = 0,
    VD_TRACKER_REMOTE, /* it is on a server */
    VD_TRACKER_DEVICE  /* it is no regular file, whose time would tell */
};

/* The files behind the source when the backup began. */
struct vd_tracker_behind {
    struct vd_manifest_backing *files; /* owned */
    size_t entries;
    enum vd_tracker_blind blind; /* of one that is not in the list */
    char *blind_name;            /* owned */
};

/* The first member of what the kinds have. */
struct vd_tracker {
    const struct vd_tracker_driver *driver;
    struct vd_tracker_context context;
    struct vd_tracker_behind behind;
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

/* vd_tracker_source_name() of any file; NULL with @err set. */
char *vd_tracker_file_name(const char *filename, struct vdisk_error *err);

/* Has the source the name that it had when the latest point was made, or is it the same file?
 * -EXDEV, unless VDISK_BACKUP_MOVED. */
int vd_tracker_check_name(const struct vd_tracker *tracker, struct vdisk_error *err);

/* "there is no record of what has changed since point N" and what to do: -ENOTSUP.  @why: or NULL
 */
int vd_tracker_no_record(const struct vd_tracker *tracker, const char *why,
                         struct vdisk_error *err);

/* --- tracker_behind.c: the files behind the source ---------------------------------------------
 */

/* Fills tracker->behind: at the beginning. */
int vd_tracker_look_behind(struct vd_tracker *tracker, struct vdisk_error *err);
void vd_tracker_behind_free(struct vd_tracker_behind *behind); /* of a zeroed one, too */

/* Puts them into @manifest; nothing, if one of them can not be watched. */
int vd_tracker_record_behind(const struct vd_tracker *tracker, struct vd_manifest *manifest,
                             struct vdisk_error *err);

/* Are they as @manifest has them?  -ENOTSUP, told as by vd_tracker_no_record(). */
int vd_tracker_check_behind(const struct vd_tracker *tracker, const struct vd_manifest *manifest,
                            struct vdisk_error *err);

/* --- tracker_file.c: a number for each block of the disk, in a file ----------------------------
 */

#define VD_TRACKER_BLOCK_BYTES 65536u

/*
 * Tells the number of the block that guest.offset, where it begins, lies in, and how much of
 * @guest, in whole blocks but for the end of the disk, has this one number: guest.length is cut.
 */
typedef int (*vd_tracker_number_fn)(void *opaque, struct vd_range *guest, uint32_t *number,
                                    struct vdisk_error *err);
struct vd_tracker_numbers {
    vd_tracker_number_fn get;
    void *opaque;
};

/* Makes the file @name in the repository, of numbers for all of the source; durable but for its
 * name. */
int vd_tracker_file_write(const struct vd_tracker *tracker, const char *name,
                          const struct vd_tracker_numbers *numbers, struct vdisk_error *err);

/* Where such a file is made for a point that has no number yet.  What is called so and left over is
 * swept away. */
#define VD_TRACKER_FILE_NEW "000000.versions.part"

/* The file @to is replaced. */
int vd_tracker_file_rename(const struct vd_tracker *tracker, const char *from, const char *to,
                           struct vdisk_error *err);

/* The file @name becomes the one of @manifest, manifest->versions, with digests; it is called so
 * with ".part" behind. */
int vd_tracker_file_record(const struct vd_tracker *tracker, const char *name,
                           struct vd_manifest *manifest, struct vdisk_error *err);

/* What has been read of such a file.  Blocks that it does not have: 0. */
struct vd_tracker_file {
    struct vd_storage *storage; /* owned */
    uint64_t blocks;
    uint64_t start; /* the block that numbers[0] is of */
    size_t entries;
    struct le32 *numbers; /* owned */
};

/* That of a manifest, with its digests. */
int vd_tracker_file_open(const struct vd_tracker *tracker, const struct vd_manifest *manifest,
                         struct vd_tracker_file *file, struct vdisk_error *err);
/* One that has no digests yet. */
int vd_tracker_file_open_part(const struct vd_tracker *tracker, const char *name,
                              struct vd_tracker_file *file, struct vdisk_error *err);
void vd_tracker_file_close(struct vd_tracker_file *file); /* of a zeroed one, too */
int vd_tracker_file_get(struct vd_tracker_file *file, uint64_t block, uint32_t *number,
                        struct vdisk_error *err);

/* --- tracker_note.c: a line of text that stays with an unfinished backup ------------------------
 */

#define VD_TRACKER_NOTE_BYTES 2048u

/* Durable but for its name.  A longer one is read as none. */
int vd_tracker_note_write(const struct vd_tracker *tracker, const char *text,
                          struct vdisk_error *err);

/* "" if there is none. */
int vd_tracker_note_read(const struct vd_tracker *tracker, char text[VD_TRACKER_NOTE_BYTES],
                         struct vdisk_error *err);

#endif
