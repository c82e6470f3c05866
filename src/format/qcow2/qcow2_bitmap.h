/* SPDX-License-Identifier: MIT */
/*
 * Persistent dirty bitmaps of an open qcow2 image.
 *
 * D1  A bitmap that the file says is valid (the autoclear bit is set, IN_USE is not) has no bit too
 *     few, in every state that a power cut can leave.  So the enabled ones are marked IN_USE,
 *     durably, before the first write that they have to record; and what is stored is durable
 *     before the mark goes.
 * D2  A bit is set before the data is written, and the place where it will be stored is taken, and
 *     its space set aside, before the bit is set: a full disk is the error of that write, and
 *     closing needs no space any more.
 * D3  Stored bits are never overwritten.  New ones go to new places, with a new table and a new
 *     directory, and one rewriting of the header switches; only then the old places are released.
 *     What is overwritten in place are the IN_USE flags of a directory, which may be torn: each is
 *     as good set as not while the bits in the file are exact.
 * D4  While the autoclear bit is not set, nothing that the directory says is trusted: some program
 *     that does not know bitmaps has written, and may have given their clusters away.  Nothing is
 *     released then, or written in place; names and granularities are kept for `recover`.
 * D5  Disabled bitmaps are not marked: nothing changes them but vd_bitmap_driver.change and a
 *     resize, which mark all.
 *
 * The lock of the bitmaps is the first of the locks of an image: before flush_lock.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_BITMAP_H
#define VD_FORMAT_QCOW2_QCOW2_BITMAP_H

#include "format/qcow2/qcow2_bitmap_dir.h"
#include "format/qcow2/qcow2_priv.h"

struct vd_bitmap_driver;

/* The table for format/driver.h. */
extern const struct vd_bitmap_driver vd_qcow2_bitmap_driver;

/*
 * Remembers in all enabled bitmaps that @guest, within the disk, is about to be written: D1, D2.
 * Called before data is written or anything is mapped for it, with none of the image's locks held,
 * after vd_qcow2_begin().  Cheap if there are no bitmaps, or they have the bits.
 */
int vd_qcow2_record(struct vd_qcow2 *qcow2, struct vd_range guest, struct vdisk_error *err);

/* Would that have nothing to do? */
bool vd_qcow2_is_recorded(const struct vd_qcow2 *qcow2, struct vd_range guest);

/* Makes qcow2->dirty, for vd_qcow2_bitmaps_free(); reads nothing.  When the image is open. */
int vd_qcow2_bitmaps_open(struct vd_qcow2 *qcow2, struct vdisk_error *err);

/* Has the image bitmaps, valid or not? */
bool vd_qcow2_has_bitmaps(const struct vd_qcow2 *qcow2);

/* Before anything else is changed whose place a bitmap may have, or the other way round: the
 * overlap check knows the places of bitmaps, and they are their own; with @with_tables, where bits
are, too. The session has begun. */
int vd_qcow2_bitmaps_claim(struct vd_qcow2 *qcow2, bool with_tables, struct vdisk_error *err);

/*
 * Before the disk gets another size, and before anything is changed for that: all bitmaps can have
 * it, and are marked IN_USE.  Then resized() tells how it ended: @ok: the file has the new size.
 * No other call runs.
 */
int vd_qcow2_bitmaps_resize(struct vd_qcow2 *qcow2, uint64_t size, struct vdisk_error *err);
void vd_qcow2_bitmaps_resized(struct vd_qcow2 *qcow2, bool ok);

/*
 * Stores what has been recorded, and takes the marks away, durably.  At the end of a session, after
 * the last flush; no other call runs.  After it, the next write would mark them again.  On failure
 * they stay IN_USE in the file: nothing is stored that is not true, but only `recover` can use
 * them.
 */
int vd_qcow2_bitmaps_store(struct vd_qcow2 *qcow2, struct vdisk_error *err);

/* Frees qcow2->dirty; nothing is stored. */
void vd_qcow2_bitmaps_free(struct vd_qcow2 *qcow2);

#endif
