/* SPDX-License-Identifier: MIT */
/*
 * Snapshots within a qcow2 image.
 *
 * S1  The header's first sector switches: it has the place of the snapshot table, of the active L1
 *     table, and the size of the disk.  What it comes to lead to is durable before, and what it led
 *     to is released after.
 * S2  References are counted up before the switch and down after it, so W1 to W3 hold all the time,
 *     also in version 2.  The dirty bit is there for what they permit: what is counted too often,
 * and COPIED bits that are missing. S3  Before the first change all entries of the trees that will
 * be walked have been looked at, so that nothing is found in the middle that contradicts the
 * format. S4  The trees are read and written in the file itself, when the caches have nothing that
 * it has not; afterwards they forget it.  No other call runs.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_SNAPSHOT_H
#define VD_FORMAT_QCOW2_QCOW2_SNAPSHOT_H

#include "format/qcow2/qcow2_priv.h"
#include "format/qcow2/qcow2_snapshot_table.h"

/* The table for format/driver.h. */
extern const struct vd_snapshot_driver vd_qcow2_snapshot_driver;

int vd_qcow2_snapshot_create(struct vd_format *format, const struct vd_new_snapshot *snapshot,
                             struct vdisk_error *err);
int vd_qcow2_snapshot_apply(struct vd_format *format, size_t index, struct vdisk_error *err);
int vd_qcow2_snapshot_remove(struct vd_format *format, size_t index, struct vdisk_error *err);

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

/* ---- qcow2_tree.c: an L1 table and what it leads to ---- */

struct vd_qcow2_tree {
    struct vd_qcow2 *qcow2;
    const char *name; /* for messages: "the active tables" */
    uint64_t l1_offset;
    uint64_t l1_entries;
    struct be64 *l1;     /* owned */
    uint8_t *table;      /* owned: a buffer for one L2 table */
    uint64_t file_bytes; /* when it was read */
};

/* Reads the L1 table, and looks at each entry of it: W8.  To be closed, after a failure too. */
int vd_qcow2_tree_open(struct vd_qcow2 *qcow2, uint64_t l1_offset, uint64_t l1_entries,
                       const char *name, struct vd_qcow2_tree *tree, struct vdisk_error *err);
void vd_qcow2_tree_close(struct vd_qcow2_tree *tree);

/* Told of neighbouring clusters that the tree refers to, once each time that it does. */
typedef int (*vd_qcow2_tree_fn)(void *opaque, struct vd_qcow2 *qcow2, uint64_t host,
                                uint64_t clusters, struct vdisk_error *err);

/*
 * All L2 tables and what they lead to, but for tables that @but has at the same place; NULL: all.
 * S3: -EBADMSG, before anything behind it: an entry contradicts the format, or leads to metadata.
 */
int vd_qcow2_tree_walk(struct vd_qcow2_tree *tree, const struct vd_qcow2_tree *but,
                       vd_qcow2_tree_fn visit, void *opaque, struct vdisk_error *err);

/* The walk without a visitor: S3. */
int vd_qcow2_tree_check(struct vd_qcow2_tree *tree, struct vdisk_error *err);

/* -EBADMSG: it has an L2 table twice, as no tables that are written to can. */
int vd_qcow2_tree_check_tables(const struct vd_qcow2_tree *tree, struct vdisk_error *err);

/* Takes all COPIED bits away, in the file; in the L1 table of the file only if @with_l1, in
 * tree->l1 in any case.  NOT flushed. */
int vd_qcow2_tree_clear_copied(struct vd_qcow2_tree *tree, const struct vd_qcow2_tree *but,
                               bool with_l1, struct vdisk_error *err);

/* Makes them what the refcounts are.  NOT flushed. */
int vd_qcow2_tree_set_copied(struct vd_qcow2_tree *tree, struct vdisk_error *err);

#endif
