/* SPDX-License-Identifier: MIT */
/*
 * Mending the entries of tables: what its files share.
 *
 * M1  What could be read before reads the same after.  An entry that leads nowhere reads as zeros
 *     from now on; where the format has no way to say so (version 2) and a backing file would show,
 *     it gets a cluster of zeros.  An L1 entry that leads nowhere is cleared, and a snapshot whose
 *     L1 table is nowhere is dropped.
 * M2  A table is written in place only if all that leads to its clusters takes them for this table.
 *     Another one is copied to a new place first, where it alone is; and so is data that lies in
 *     metadata, and what there are more references to than a refcount can hold.
 * M3  New places are behind the end of the file, and durable before anything that can be found
 *     leads to them.
 * M4  A repair takes no more new clusters than the file has, or 1024.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_MEND_H
#define VD_FORMAT_QCOW2_QCOW2_MEND_H

#include "format/qcow2/qcow2_check.h"

/* A cluster that some of its references are led away from. */
struct vd_qcow2_copy {
    uint64_t from;       /* cluster + 1; 0: free */
    uint64_t to;         /* offset: where the next reference goes */
    uint64_t references; /* to that place */
};

struct vd_qcow2_copies {
    struct vd_qcow2_copy *entries; /* open addressing */
    size_t capacity;               /* a power of two, or 0 */
    size_t used;
};

struct vd_qcow2_mending {
    struct vd_qcow2_check_run *run;
    bool has_zero; /* version 3 */
    bool has_backing;
    bool is_repeated;  /* not the first pass */
    uint64_t weight;   /* ways to the L2 table that is being mended */
    bool has_new;      /* M3: there are new places that may not be durable */
    uint64_t next;     /* cluster: free from here on */
    uint64_t next_max; /* M4 */
    uint64_t zeros;    /* M1: offset of a cluster of zeros; 0: none yet */
    uint64_t zeros_references;
    struct vd_qcow2_copies data;
    struct vd_qcow2_copies tables; /* L2 */
    uint64_t lost;                 /* entries that led to nothing that could be read */
};

/* ---- qcow2_mend_place.c ---- */

/* So many clusters behind all others.  -ENOSPC: the file can not grow, or M4. */
int vd_qcow2_mend_take(struct vd_qcow2_mending *mending, uint64_t clusters, uint64_t *offset,
                       struct vdisk_error *err);

/* M3: before something in place is written. */
int vd_qcow2_mend_settle(struct vd_qcow2_mending *mending, struct vdisk_error *err);

/* M1: a cluster of zeros, with as many references as there may be. */
int vd_qcow2_mend_zeros(struct vd_qcow2_mending *mending, uint64_t *offset,
                        struct vdisk_error *err);

/*
 * Where @weight more references to the cluster at *offset go: there, as long as @kept are not used
 * up, and then to copies of it.
 */
int vd_qcow2_mend_copy(struct vd_qcow2_mending *mending, struct vd_qcow2_copies *copies,
                       uint64_t kept, uint64_t weight, uint64_t *offset, struct vdisk_error *err);

/* What was at @from is at @to now, and all references go there. */
int vd_qcow2_mend_moved(struct vd_qcow2_mending *mending, struct vd_qcow2_copies *copies,
                        uint64_t from, uint64_t to, struct vdisk_error *err);

/* ---- qcow2_mend.c ---- */

/* Is it in the file, as a whole table? */
bool vd_qcow2_mend_is_there(const struct vd_qcow2_check_run *run, uint64_t offset);

/* ---- qcow2_mend_bitmaps.c ---- */

/* Before anything else is mended; durable. */
int vd_qcow2_mend_bitmaps(struct vd_qcow2_mending *mending, struct vdisk_error *err);

/* ---- qcow2_mend_l1.c ---- */

/* L1 tables and snapshots; durable. */
int vd_qcow2_mend_l1(struct vd_qcow2_mending *mending, struct vdisk_error *err);

/* COPIED bits of the active L1 table. */
int vd_qcow2_mend_l1_copied(struct vd_qcow2_mending *mending, struct vdisk_error *err);

/* ---- qcow2_mend_snap.c ---- */

/* Writes a new snapshot table, and switches the header to it and to @l1_offset; durable. */
int vd_qcow2_mend_snapshots(struct vd_qcow2_mending *mending, uint64_t l1_offset,
                            struct vdisk_error *err);

/* Is there anything about snapshots that takes a new table? */
bool vd_qcow2_mend_wants_snapshots(const struct vd_qcow2_check_run *run);

#endif
