/* SPDX-License-Identifier: MIT */
/*
 * Dirty bitmaps that an image keeps: what a driver does for them that has such images.  bitmaps.c
 * is the only caller.
 */
#ifndef VD_FORMAT_BITMAPS_H
#define VD_FORMAT_BITMAPS_H

#include "bitmap/bitmap.h"
#include "util/err.h"

struct vd_format;
struct vd_format_driver;

struct vd_bitmap_facts {
    const char *name; /* good until the next change() */
    uint64_t granularity;
    uint32_t flags; /* of enum vdisk_bitmap_flag */
};

/* One of the actions of change(). */
struct vd_bitmap_action {
    enum vdisk_bitmap_action_kind kind;
    const char *name;
    uint64_t granularity;         /* ADD: 0 for the default */
    const char *source;           /* MERGE: a bitmap of the same image; NULL: bits */
    const struct vd_bitmap *bits; /* MERGE, and RECOVER (NULL: all is dirty): what is dirty */
};

struct vd_bitmap_driver {
    /* How many there are, and facts about each.  Reads no bits.  Any thread. */
    int (*count)(struct vd_format *format, size_t *count, struct vdisk_error *err);
    int (*facts)(struct vd_format *format, size_t index, struct vd_bitmap_facts *facts,
                 struct vdisk_error *err);

    /* The bits of @name, which go on being set while the image is written; good until the next
     * change() or resize.  -ENOENT; -EUCLEAN: they are not valid.  Any thread. */
    int (*bits)(struct vd_format *format, const char *name, const struct vd_bitmap **bits,
                struct vdisk_error *err);

    /* Does all of it, durably, or nothing.  No other call runs. */
    int (*change)(struct vd_format *format, const struct vd_bitmap_action *actions, size_t count,
                  struct vdisk_error *err);
};

/* ---- bitmaps.c: for everybody above; the same contracts ---- */

/* Can images of the format have bitmaps at all?  The four below are -ENOTSUP if not. */
bool vd_format_driver_has_bitmaps(const struct vd_format_driver *driver);
bool vd_format_has_bitmaps(const struct vd_format *format);

int vd_format_bitmap_count(struct vd_format *format, size_t *count, struct vdisk_error *err);

/* @index: less than the count */
int vd_format_bitmap_facts(struct vd_format *format, size_t index, struct vd_bitmap_facts *facts,
                           struct vdisk_error *err);
int vd_format_bitmap_bits(struct vd_format *format, const char *name, const struct vd_bitmap **bits,
                          struct vdisk_error *err);
int vd_format_bitmap_change(struct vd_format *format, const struct vd_bitmap_action *actions,
                            size_t count, struct vdisk_error *err);

#endif
