/* SPDX-License-Identifier: MIT */
/*
 * A disk as plain arrays, beside the image that has to behave like it.
 *
 * Disks may be huge, so the model holds a few windows; all data goes there, and the rest reads as
 * zero.  No two windows share a cluster.  A block is what the format allocates: a cluster, or a
 * subcluster.
 */
#ifndef VT_FORMAT_MODEL_H
#define VT_FORMAT_MODEL_H

#include <stdbool.h>

#include "drivers/random.h"
#include "drivers/stack.h"
#include "util/range.h"
#include "vdisk.h"

#define VT_WINDOWS_MAX     4u
#define VT_WINDOW_CLUSTERS 9u

/* What is known of a block; the last two since the session began. */
enum vt_block_flag {
    VT_BLOCK_ALLOCATED = 1 << 0, /* in the image itself, now */
    VT_BLOCK_LOOSE = 1 << 1,     /* overlays: in the image itself, or not yet */
    VT_BLOCK_TOUCHED = 1 << 2,   /* changed, allocated or unmapped for certain */
    VT_BLOCK_UNSURE = 1 << 3     /* the format was free to change it or not */
};

/* Who says what is in the image itself. */
enum vt_tracking {
    VT_TRACK_NOTHING,
    VT_TRACK_GOW,    /* blocks with data, exactly; whole ones that are discarded read as zero */
    VT_TRACK_OVERLAY /* blocks that do not show the image behind any more */
};

struct vt_window {
    struct vd_range guest; /* clipped by the size of the disk when used */
    uint8_t *bytes;        /* guest.length, at most vt_model_window_bytes_max() */
    uint64_t first_block;
    uint32_t block_entries;
    uint8_t *blocks;    /* of enum vt_block_flag */
    uint32_t *versions; /* gow3: at the end of the last session */
};

struct vt_model {
    uint64_t size; /* of the disk now */
    uint32_t block_bytes;
    uint32_t cluster_bytes;
    enum vt_tracking tracking;
    bool changed; /* since the session began, for certain */
    bool maybe_changed;
    unsigned window_entries;
    struct vt_window windows[VT_WINDOWS_MAX];
};

/* For the disk of @stack, which never grows past the size it has now; to begin with it reads as the
 * images behind. */
void vt_model_init(struct vt_model *model, const struct vt_stack *stack);
void vt_model_free(struct vt_model *model);

/* Room that is enough for every window. */
uint64_t vt_model_window_bytes_max(const struct vt_model *model);

/* A range within one window and the disk, of at most @length_max bytes; length 0: none here now. */
struct vd_range vt_model_draw(const struct vt_model *model, struct vt_random *random,
                              uint64_t length_max);

/* The clusters of @guest, as far as they are in its window and the disk. */
struct vd_range vt_model_whole_clusters(struct vt_model *model, struct vd_range guest);

/* The window that holds @guest.offset, or NULL. */
struct vt_window *vt_model_window(struct vt_model *model, uint64_t offset);

/* What the calls of the same names do to the disk.  For write, @guest lies in one window. */
void vt_model_write(struct vt_model *model, struct vd_range guest, const void *data);
void vt_model_zero(struct vt_model *model, struct vd_range guest, bool no_hole);
void vt_model_resize(struct vt_model *model, uint64_t size);

/*
 * After a discard of @guest the image reads as @now (a window's worth of bytes) in @window: checks
 * that this is allowed, and adopts it.
 */
void vt_model_discard(struct vt_model *model, struct vd_range guest, struct vt_window *window,
                      const uint8_t *now);

/* The part of @window that is within the disk. */
struct vd_range vt_model_visible(const struct vt_model *model, const struct vt_window *window);

/* Reads as zero throughout @guest? */
bool vt_model_is_zero(struct vt_model *model, struct vd_range guest);

/* A new session begins. */
void vt_model_session(struct vt_model *model);

#endif
