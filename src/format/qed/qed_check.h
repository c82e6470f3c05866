/* SPDX-License-Identifier: MIT */
/* A check of a QED image: shared by its files.  qed §8. */
#ifndef VD_FORMAT_QED_QED_CHECK_H
#define VD_FORMAT_QED_QED_CHECK_H

#include "format/bits.h"
#include "format/qed/qed_file.h"

/* Clusters of the file that one pass over the tables looks at: a bitmap of 64 MiB. */
#define VD_QED_PASS_CLUSTERS (1u << 29)

/* A part of a table: what is read and written at once. */
#define VD_QED_PART_ENTRIES 131072u

struct vd_qed_part {
    struct le64 *entries; /* room for VD_QED_PART_ENTRIES */
    uint64_t offset;      /* of the file */
    uint32_t first;       /* index in its table */
    uint32_t count;
    bool is_empty;          /* all entries are 0 */
    uint32_t changed_first; /* entries to be written, from the start of the part */
    uint32_t changed_end;   /* changed_first: none */
};

struct vd_qed_check_run {
    struct vd_storage *file;
    struct vd_qed_header *header;
    struct vd_qed_geometry geometry;
    const struct vd_check *check;
    struct vdisk_check_result *result;
    uint32_t pass_clusters;
    bool keeps_leaks;    /* whatever check->repair says */
    uint64_t file_bytes; /* as the check found it */
    uint64_t clusters;   /* of the file, a last incomplete one included */
    uint64_t used_end;   /* bytes up to the end of the last cluster that something leads to */

    /* Of the pass that is under way. */
    uint64_t pass_first; /* cluster */
    struct vd_bits seen; /* clusters from pass_first on that something leads to */
    bool is_first_pass;  /* what concerns no cluster in particular is counted in this one */

    struct vd_bits bad_tables; /* L1 entries whose table is (in part) something else's */
    uint64_t last_data;        /* offset of the last data cluster; 0: none yet */
    struct vd_qed_part l1;     /* parts that are being looked at */
    struct vd_qed_part l2;
};

/* What is wrong with one entry. */
enum vd_qed_finding {
    VD_QED_NOTHING, /* leads nowhere, as it may */
    VD_QED_SOUND,
    VD_QED_MISPLACED,  /* in the header, or not at the start of a cluster */
    VD_QED_NOT_THERE,  /* behind the end of the file */
    VD_QED_CUT_OFF,    /* the end of the file is in it */
    VD_QED_OVERLAPPING /* it is something else's, too: by vd_qed_claim() */
};

/* Looks at the value of an entry only: of L1 if @is_table. */
enum vd_qed_finding vd_qed_judge(const struct vd_qed_check_run *run, uint64_t offset,
                                 bool is_table);

/* Marks the clusters at @offset as used, those of the pass; true: some of them were so before. */
bool vd_qed_claim(struct vd_qed_check_run *run, uint64_t offset, uint32_t clusters);

/* Are some of the clusters at @offset, those of the pass, used? */
bool vd_qed_is_claimed(const struct vd_qed_check_run *run, uint64_t offset, uint32_t clusters);

/* Begins a pass, with nothing claimed. */
int vd_qed_begin_pass(struct vd_qed_check_run *run, uint64_t pass_first, struct vdisk_error *err);

/* Begins a pass: claims header and all tables, without counting anything. */
int vd_qed_claim_tables(struct vd_qed_check_run *run, uint64_t pass_first, struct vdisk_error *err);

/* Should the table of L1 entry @index be read?  Not if it is not there, or something else's. */
bool vd_qed_table_is_own(const struct vd_qed_check_run *run, uint32_t index, uint64_t offset);

/* ---- qed_part.c ---- */

/* The part of the table at @table that begins with entry @first; what is not in the file is 0. */
int vd_qed_part_read(const struct vd_qed_check_run *run, uint64_t table, uint32_t first,
                     struct vd_qed_part *part, struct vdisk_error *err);

static inline uint64_t vd_qed_part_get(const struct vd_qed_part *part, uint32_t i)
{
    return le64_get(part->entries[i]);
}

void vd_qed_part_set(struct vd_qed_part *part, uint32_t i, uint64_t value);

static inline bool vd_qed_part_has_changed(const struct vd_qed_part *part)
{
    return part->changed_end > part->changed_first;
}

/* Writes what was set. */
int vd_qed_part_write(const struct vd_qed_check_run *run, struct vd_qed_part *part,
                      struct vdisk_error *err);

/* Copies @bytes within the file; the two ranges do not overlap. */
int vd_qed_copy(const struct vd_qed_check_run *run, uint64_t from, uint64_t to, uint64_t bytes,
                struct vdisk_error *err);

/* ---- qed_repair.c, qed_compact.c ---- */

/* Mends all that the check found, durably.  After it, everything has to be looked at again. */
int vd_qed_mend(struct vd_qed_check_run *run, struct vdisk_error *err);

/*
 * Gives back what nothing leads to, durably: moves what lies behind it there, and cuts the file.
 * There are no contradictions in the tables.  After it, everything has to be looked at again.
 */
int vd_qed_compact(struct vd_qed_check_run *run, struct vdisk_error *err);

/* vd_qed_check_file() with passes of so many clusters. */
int vd_qed_check_in_passes(struct vd_storage *file, struct vd_qed_header *header,
                           const struct vd_check *check, uint32_t pass_clusters,
                           struct vdisk_error *err);

#endif
