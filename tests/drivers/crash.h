/* SPDX-License-Identifier: MIT */
/*
 * A storage in memory whose power can be cut at any moment.
 *
 * It knows what is durable, and keeps a log of the changes since the last flush.  Reads see
 * everything.  vt_crash_cut() makes one of the states that could be found after a power cut, as
 * often as asked, and goes on.
 *
 * What a state may be:
 * C1  A change that had returned before a flush began which returned 0 is there in full.
 * C2  Every 512-byte sector (of the file) holds what it held at the last flush, or that with any
 *     of the later changes of this sector applied, in any order.
 * C3  The size is the durable one, or what any of the later resizes and growing writes made of it;
 *     bytes below the size that nothing was kept of read as zero.
 */
#ifndef VT_CRASH_H
#define VT_CRASH_H

#include "drivers/call.h"
#include "drivers/pages.h"
#include "storage/storage.h"

/* @durable: the content to begin with; belongs to the storage from here on, also on failure. */
int vt_crash_open(struct vt_pages *durable, struct vd_storage **storage, struct vdisk_error *err);

/* Called before each write, zero, discard, resize and flush; it may cut, and nothing else. */
typedef void (*vt_crash_hook)(void *opaque, struct vd_storage *storage, enum vt_call call);

void vt_crash_set_hook(struct vd_storage *storage, vt_crash_hook hook, void *opaque);

enum vt_cut {
    VT_CUT_DROP_ALL,    /* only what is durable */
    VT_CUT_KEEP_ALL,    /* everything, as if it had just been flushed */
    VT_CUT_ALL_BUT_ONE, /* all changes but one */
    VT_CUT_ONLY_ONE,    /* one change alone */
    VT_CUT_SUBSET,      /* whole changes kept or dropped, in order */
    VT_CUT_TORN,        /* and some of them torn at sectors */
    VT_CUT_REORDERED,   /* and in another order */
    VT_CUTS
};

const char *vt_cut_name(enum vt_cut cut);

/*
 * One state after a cut now, chosen by @seed among those that @cut describes: a clonable storage
 * of its own (drivers/snap.h), for vd_storage_close().
 */
int vt_crash_cut(struct vd_storage *storage, enum vt_cut cut, uint64_t seed,
                 struct vd_storage **state, struct vdisk_error *err);

/* Changes that are not durable yet. */
size_t vt_crash_pending(struct vd_storage *storage);

/* Flushes that returned so far. */
uint64_t vt_crash_flushes(struct vd_storage *storage);

/*
 * Breaks C1, to show that a test notices: of every @period flushes the one with number @index
 * (0 .. @period - 1) returns 0 and makes nothing durable.  0: be honest again.
 */
void vt_crash_ignore_flushes(struct vd_storage *storage, uint32_t period, uint32_t index);

#endif
