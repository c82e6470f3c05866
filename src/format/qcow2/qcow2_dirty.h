/* SPDX-License-Identifier: MIT */
/* What the writer of a qcow2 image tells its dirty bitmaps. */
#ifndef VD_FORMAT_QCOW2_QCOW2_DIRTY_H
#define VD_FORMAT_QCOW2_QCOW2_DIRTY_H

#include "format/qcow2/qcow2_priv.h"

/* W9: before the first change of a session, of the file or of the disk.  Bitmaps that nobody keeps
 * up to date are declared to be out of date. */
int vd_qcow2_dirty_begin(struct vd_qcow2 *qcow2, struct vdisk_error *err);

/* @guest of the disk is going to be changed.  Any thread, with no lock of the image held. */
int vd_qcow2_mark_dirty(struct vd_qcow2 *qcow2, struct vd_range guest, struct vdisk_error *err);

/* The disk is going to have @size bytes, and: it has now (@ok), or not.  No other call runs. */
int vd_qcow2_dirty_resize(struct vd_qcow2 *qcow2, uint64_t size, struct vdisk_error *err);
void vd_qcow2_dirty_resized(struct vd_qcow2 *qcow2, bool ok);

#endif
