/* SPDX-License-Identifier: MIT */
/*
 * An open QED image, for the files of this folder only.  docs/formats/qed.md is the specification.
 *
 * Q1  An L2 entry is written to the file only after the data of its cluster is durable.
 * Q2  An L1 entry is written only after its L2 table is durable.  New tables come from the end of
 *     the file only, which reads as zero there, and lie at `boundary` or behind it until their L1
 *     entry is on its way.
 * Q3  While the image is in use an entry goes from unallocated to zero or data, and from zero to
 *     data, never back: what was learned of data and tables stays true when the lock is released.
 * Q4  All tables are scanned before the first change of a session, so that what is written to one
 *     cluster is not a table, or another cluster's data, as well.  No entry leads outside the
 *     file, where growth would make it valid, and none to what another one leads to, as far as a
 *     bitmap of SCAN_CLUSTERS_MAX clusters tells.
 * Q5  Space comes from clusters that the scan found unused or that were given back, and from the
 *     end of the file; what is no whole cluster there, or not used, is cut off before.
 * Q6  A fresh cluster is in no table until write_done() publishes it.
 * Q7  The rest of a zero cluster that is written in part stays zero: it is never filled from the
 *     backing image.
 * Q8  Offsets from tables are checked when they are used: aligned, behind the header, whole and in
 *     the file, not in the L1 table.
 *
 * The bit that asks for a check is never set: no order of writes that survives leaves a table
 * wrong.
 *
 * Locks: docs/locking.md.
 */
#ifndef VD_FORMAT_QED_QED_PRIV_H
#define VD_FORMAT_QED_QED_PRIV_H

#include "format/driver.h"
#include "format/qed/qed_header.h"
#include "format/table_cache.h"

#define VD_QED_FREE_RUNS_MAX                                            \
    1024u /* known at a time; others stay unused until the next session \
           */

/* Space of the file that nothing leads to. */
struct vd_qed_free {
    struct vd_range *runs; /* of whole clusters, in no order, none empty; room for the most */
    size_t entries;
};

struct vd_qed {
    struct vd_format *format;
    struct vd_storage *file;
    bool can_resize; /* the file */
    struct vd_qed_geometry geometry;
    struct vd_range l1; /* of the file */
    uint64_t short_end; /* of the file of a draft, if its last cluster is not whole: zeros follow */

    /* These change only while no other call runs. */
    struct vd_qed_header header; /* as in the file */
    struct vd_qed_names names;

    struct vd_mutex flush_lock; /* held during a flush.  Before: none */
    struct vd_mutex alloc_lock; /* held while the file grows or is scanned.  Before: none */

    struct vd_table_cache tables; /* All below is under its lock */
    uint64_t file_bytes;          /* of the file, at least */
    bool is_scanned;              /* Q4 */
    uint64_t end;                 /* scanned: new clusters come from here, file_bytes or less */
    uint64_t boundary;            /* Q2 */
    struct vd_qed_free free;      /* Q5; all before `end` */
};

enum vd_qed_kind {
    VD_QED_RUN_ABSENT, /* what is behind shows */
    VD_QED_RUN_ZERO,
    VD_QED_RUN_DATA
};

/* Neighbouring clusters of one kind; data clusters are neighbours in the file, too. */
struct vd_qed_run {
    enum vd_qed_kind kind;
    struct vd_range guest; /* whole clusters; the last one may reach behind the end of the disk */
    uint64_t host;         /* DATA: of the first cluster */
    uint64_t entries;      /* file offset of their L2 entries; 0: there is no table */
    struct vd_table_page *page; /* with all these entries */
};

/* ---- qed_map.c ---- */

/* The run with the start of @guest, in one page of a table, and no more clusters than touch it. */
int vd_qed_find_run_locked(struct vd_qed *qed, struct vd_range guest, struct vd_qed_run *run,
                           struct vdisk_error *err) VD_REQUIRES(qed->tables.lock);

/* Q8, for the two kinds of entries; the clusters are those in a file of @file_bytes. */
bool vd_qed_is_table(const struct vd_qed *qed, uint64_t offset, uint64_t file_bytes);
bool vd_qed_is_data(const struct vd_qed *qed, uint64_t offset, uint64_t file_bytes);

/* -EBADMSG: entry @index of L1 is @offset, which is none. */
int vd_qed_bad_l1(const struct vd_qed *qed, uint32_t index, uint64_t offset, const char *why,
                  struct vdisk_error *err);

/* -EBADMSG: entry @index of the table of L1 entry @l1_index is @offset. */
int vd_qed_bad_l2(const struct vd_qed *qed, uint32_t l1_index, uint32_t index, uint64_t offset,
                  const char *why, struct vdisk_error *err);

/* The answer for @run, to a request for @guest. */
void vd_qed_answer(const struct vd_qed *qed, struct vd_range guest, const struct vd_qed_run *run,
                   struct vd_mapping *mapping);

int vd_qed_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
               struct vdisk_error *err);

/* ---- qed_scan.c ---- */

/* What the tables use of the file. */
struct vd_qed_usage {
    uint64_t end; /* of the last cluster in use */
    struct vd_qed_free free;
};

/* Q4: reads all tables.  usage->free.runs is the caller's to free. */
int vd_qed_scan(const struct vd_qed *qed, uint64_t file_bytes, struct vd_qed_usage *usage,
                struct vdisk_error *err);

/* ---- qed_alloc.c ---- */

/* Q4: before the first change that needs no new cluster. */
int vd_qed_begin(struct vd_qed *qed, struct vdisk_error *err);

struct vd_qed_space {
    uint64_t host;     /* file offset */
    uint64_t clusters; /* at least 1 */
    bool is_new;       /* reads as zero */
};

/* Takes up to @wanted consecutive clusters that nothing uses. */
int vd_qed_take(struct vd_qed *qed, uint64_t wanted, struct vd_qed_space *space,
                struct vdisk_error *err) VD_EXCLUDES(qed->alloc_lock);

/* Sees to it that L1 entry @index has a table. */
int vd_qed_make_table(struct vd_qed *qed, uint32_t index, struct vdisk_error *err)
    VD_EXCLUDES(qed->alloc_lock);

/* Nothing ever led to them. */
void vd_qed_give_back_locked(struct vd_qed *qed, uint64_t host, uint64_t clusters)
    VD_REQUIRES(qed->tables.lock);

/* Cuts off the end of the file that nothing uses; no other call runs. */
int vd_qed_trim(struct vd_qed *qed, struct vdisk_error *err);

/* ---- qed_write.c ---- */

/*
 * Makes the unallocated whole clusters at the start of @guest zero clusters: *run is what was found
 * there, and zero now if it was unallocated.
 */
int vd_qed_set_zero(struct vd_qed *qed, struct vd_range guest, struct vd_qed_run *run,
                    struct vdisk_error *err) VD_EXCLUDES(qed->alloc_lock);

int vd_qed_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                   struct vd_mapping *mapping);
int vd_qed_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                         struct vd_mapping *mapping, struct vdisk_error *err);
void vd_qed_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok);
int vd_qed_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                    struct vd_mapping *mapping, struct vdisk_error *err);

/* ---- qed_flush.c ---- */

int vd_qed_flush(struct vd_format *format, struct vdisk_error *err);

/* Flushes before changes take more memory than there is for tables. */
int vd_qed_relieve(struct vd_qed *qed, struct vdisk_error *err) VD_EXCLUDES(qed->flush_lock);

/*
 * Makes @next the header, durably; all else is durable already where it has to be.  What the file
 * has after a failure is unknown, so that ends all changes.
 */
int vd_qed_replace_header(struct vd_qed *qed, const struct vd_qed_header *next,
                          struct vdisk_error *err);

/* Ends the session: all durable, nothing unused at the end of the file.  No other call runs. */
int vd_qed_finish(struct vd_qed *qed, struct vdisk_error *err);

/* ---- qed_resize.c ---- */

int vd_qed_resize(struct vd_format *format, const struct vd_resize *resize,
                  struct vdisk_error *err);
int vd_qed_empty(struct vd_format *format, struct vdisk_error *err);

#endif
