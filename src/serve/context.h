/* SPDX-License-Identifier: MIT */
/*
 * Metadata contexts: what can be asked about ranges of a disk.
 *
 *   base:allocation            is it a hole, does it read as zero?
 *   qemu:allocation-depth      0: nowhere; 1: in the image itself; 2: in the one behind it; ...
 *   qemu:dirty-bitmap:NAME     1: dirty
 *   vdisk:version              the version of the GOW v3 block; 0: none
 */
#ifndef VD_SERVE_CONTEXT_H
#define VD_SERVE_CONTEXT_H

#include "image/image.h"

enum vd_context_kind {
    VD_CONTEXT_ALLOCATION,
    VD_CONTEXT_DEPTH,
    VD_CONTEXT_BITMAP,
    VD_CONTEXT_VERSION
};

struct vd_context {
    enum vd_context_kind kind;
    char *name;         /* owned: "base:allocation" */
    const char *bitmap; /* within name; NULL but for BITMAP */
};

/* The contexts of an image, in the order in which they are listed. */
struct vd_contexts {
    struct vd_context *list; /* owned */
    size_t entries;
};

/* @options: of the export; bitmaps that are not there, or inconsistent, are errors. */
int vd_contexts_make(struct vdisk_image *image, const struct vdisk_export_options *options,
                     struct vd_contexts *contexts, struct vdisk_error *err);
void vd_contexts_free(struct vd_contexts *contexts);

/*
 * Does @query (any bytes, @length of them) ask for @context?  @is_list: NBD_OPT_LIST_META_CONTEXT,
 * where "base:" means all that begin so, and "qemu:dirty-bitmap:" likewise; else the name in full.
 */
bool vd_context_is_asked(const struct vd_context *context, const char *query, size_t length,
                         bool is_list);

struct vd_context_extent {
    uint64_t length; /* bytes */
    uint64_t flags;  /* what the context says of them */
};

/*
 * What does the context say from range.offset on?  Runs side by side differ.  Fills in at most
 * *entries, at least one; *entries gets their count.  The runs may end before the range does, and
 * the last one reach no further than it.  @range: not empty, within the size.  Looks at no more
 * than some thousand places, so that no request keeps a thread for long.
 */
int vd_context_look(const struct vd_context *context, struct vdisk_image *image,
                    struct vd_range range, struct vd_context_extent *extents, size_t *entries,
                    struct vdisk_error *err);

#endif
