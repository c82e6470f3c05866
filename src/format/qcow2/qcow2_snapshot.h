/* SPDX-License-Identifier: MIT */
/* Snapshots within a qcow2 image. */
#ifndef VD_FORMAT_QCOW2_QCOW2_SNAPSHOT_H
#define VD_FORMAT_QCOW2_QCOW2_SNAPSHOT_H

#include "format/qcow2/qcow2_priv.h"
#include "format/qcow2/qcow2_snapshot_table.h"

/* The table for format/driver.h. */
extern const struct vd_snapshot_driver vd_qcow2_snapshot_driver;

/* W8: can its L1 table be read, and its disk be shown?  -EBADMSG; the message does not name the
 * file. */
int vd_qcow2_snapshot_judge(struct vd_qcow2 *qcow2, const struct vd_qcow2_snapshot *snapshot,
                            struct vdisk_error *err);

/* The entry that @key means: its L1 table is the one that is shown from now on, and its size that
 * of the disk.  During open. */
int vd_qcow2_snapshot_show(struct vd_qcow2 *qcow2, const struct vdisk_snapshot_key *key,
                           struct vdisk_error *err);

/* Reads the table of an image; @snapshots: zeroed, and the caller's to free, after a failure too.
 */
int vd_qcow2_snapshots_read(struct vd_storage *file, const struct vd_qcow2_header *header,
                            struct vd_qcow2_snapshots *snapshots, struct vdisk_error *err);

/* The table of the open image, read when first asked for; good until the snapshots change.  As
 * read(). */
int vd_qcow2_snapshots_get(struct vd_qcow2 *qcow2, const struct vd_qcow2_snapshots **snapshots,
                           struct vdisk_error *err);

/* Forgets it.  No other call runs. */
void vd_qcow2_snapshots_forget(struct vd_qcow2 *qcow2);

#endif
