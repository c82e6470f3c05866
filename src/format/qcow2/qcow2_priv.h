/* SPDX-License-Identifier: MIT */
/*
 * An open qcow2 image, for the files of this folder only.  docs/formats/qcow2.md is the
 * specification.
 *
 * In every state that a power cut can leave in the file:
 * W1  A stored refcount is not less than the references there are.
 * W2  What an entry leads to is durable before the entry: data before its L2 entry, an L2 table
 *     before its L1 entry, a refcount block before its entry in the refcount table, refcounts
 *     before the references that they count.
 * W3  A reference is durably gone before its refcount goes down, and before its space is used
 *     again or punched.
 * W4  The COPIED bit is set only where the refcount is exactly 1.
 * Leaked clusters may be left.  What can not keep these rules (snapshots, repair, compaction)
 * is bracketed by the dirty bit in version 3: a writable open of such an image rebuilds the
 * refcounts and the COPIED bits first.
 *
 * While it is open:
 * W5  Every new place, and every write to data or tables in place, is checked against the set of
 *     places that metadata has (vd_qcow2_meta).  One that overlaps sets the corrupt bit, ends all
 *     changes, and is -EBADMSG.
 * W6  A fresh cluster or subcluster is in no table until write_done() publishes it.
 * W7  A table is written whole in its cache when it is taken, as what the cache has of that place
 *     may be older.
 * W8  Offsets from tables are checked when they are used: aligned, not 0, within the file (data
 *     may lie behind its end, which reads as zero).
 * W9  Before the first change of a session: autoclear bits that are not known are cleared, the
 *     dirty bit's work is done, and enabled bitmaps are marked in use (vd_qcow2_begin).
 * W10 What has no refcount by mistake is not thrown away: at the end of a session only what it has
 *     added, or given up, is cut off the file; and a cluster that is given up for good is no
 *     metadata.
 *
 * Locks: docs/locking.md.  In this order: flush_lock, alloc_lock, tables.lock or refs.lock or
 * header_lock.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_PRIV_H
#define VD_FORMAT_QCOW2_QCOW2_PRIV_H

#include "format/driver.h"
#include "format/qcow2/qcow2_entry.h"
#include "format/qcow2/qcow2_header.h"
#include "format/table_cache.h"

struct vd_qcow2_writer;     /* qcow2_write.h: what only a writable image has */
struct vd_qcow2_encryption; /* qcow2_crypt.h: the encryption of an encrypted image */
struct vd_qcow2_dirty;      /* qcow2_bitmap.h: the bitmaps of an open image */
struct vd_qcow2_snapshots;  /* qcow2_snapshot_table.h */

struct vd_qcow2 {
    struct vd_format *format;
    struct vd_storage *file;
    struct vd_storage *data; /* with guest data: the data file, which is owned, or NULL if the
                                open was for check or facts; else the same as file */
    struct vd_qcow2_geometry geometry;
    struct vd_qcow2_entry_rules rules;
    const struct vd_cipher *cipher;    /* of guest data; NULL: none, or there was no passphrase */
    struct vd_qcow2_encryption *crypt; /* owned; NULL: not encrypted */

    /*
     * As in the file.  Changes while no other call runs, or under header_lock: then only fields
     * that a reader does not use (refcount table, bits).  Taking clusters may change it.
     */
    struct vd_qcow2_header header;
    uint64_t l1_offset; /* of the tables that are shown: the active ones, or a snapshot's */
    uint64_t l1_entries;

    struct vd_table_cache tables; /* L1 and L2 */
    uint64_t file_bytes;          /* of `file`, at least; under tables.lock */
    uint64_t data_bytes;          /* the same of a data file */

    struct vd_qcow2_writer *writer; /* owned; NULL: read-only */
    struct vd_qcow2_dirty *dirty;   /* owned; NULL: no bitmaps have been looked at */
    _Atomic(struct vd_qcow2_snapshots *) snapshots; /* owned; NULL: not looked at */
};

/* Neighbouring subclusters of one kind; those of data are neighbours in the file, too. */
enum vd_qcow2_kind {
    VD_QCOW2_RUN_ABSENT,  /* not in this image */
    VD_QCOW2_RUN_ZERO,    /* without a host cluster */
    VD_QCOW2_RUN_ZERO_AT, /* with one */
    VD_QCOW2_RUN_DATA,
    VD_QCOW2_RUN_ENCODED /* one cluster */
};

struct vd_qcow2_run {
    enum vd_qcow2_kind kind;
    struct vd_range guest;      /* whole subclusters; may reach behind the end of the disk */
    uint64_t host;              /* ZERO_AT, DATA: of guest.offset; ENCODED: of its bytes */
    uint32_t encoded_bytes;     /* ENCODED */
    bool is_copied;             /* all of it that has a place may be written in place */
    bool table_is_copied;       /* the L2 table may be changed in place */
    uint64_t table;             /* file offset of the L2 table; 0: there is none */
    uint64_t entries;           /* file offset of the first L2 entry; 0: there is no table */
    struct vd_table_page *page; /* with all these entries */
};

/* ---- qcow2_map.c ---- */

/*
 * The run with the start of @guest: in one page of a table, and no more subclusters than touch
 * @guest; but ENCODED is always the whole cluster.  W8.  The lock may be released meanwhile, but
 * not after the first of what *run says was learned.
 */
int vd_qcow2_find_run_locked(struct vd_qcow2 *qcow2, struct vd_range guest,
                             struct vd_qcow2_run *run, struct vdisk_error *err)
    VD_REQUIRES(qcow2->tables.lock);

/*
 * The answer for @run, to a request for @guest.  A reader's: data behind the known end of the file
 * is ZERO.
 */
void vd_qcow2_answer(const struct vd_qcow2 *qcow2, struct vd_range guest,
                     const struct vd_qcow2_run *run, struct vd_mapping *mapping);

int vd_qcow2_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
                 struct vdisk_error *err);

/* -EBADMSG: the entry of the L1 or L2 table for @guest is @value, which is wrong. */
int vd_qcow2_bad_l1(const struct vd_qcow2 *qcow2, uint64_t guest, uint64_t value, const char *why,
                    struct vdisk_error *err);
int vd_qcow2_bad_l2(const struct vd_qcow2 *qcow2, uint64_t guest, uint64_t value, const char *why,
                    struct vdisk_error *err);

/* ---- qcow2_session.c ---- */

/* W9; does nothing the second time.  Before anything in the file is changed. */
int vd_qcow2_begin(struct vd_qcow2 *qcow2, struct vdisk_error *err);

/* Sets and clears bits of header.fields.incompatible, durably: the dirty bit around what can not
 * keep W1 to W4.  Does nothing to a version 2 image. */
int vd_qcow2_set_dirty(struct vd_qcow2 *qcow2, bool is_dirty, struct vdisk_error *err);

/* W5: sets the corrupt bit (version 3) and ends all changes.  Returns -EBADMSG, with @err set. */
__attribute__((format(printf, 3, 4))) int vd_qcow2_corrupt(struct vd_qcow2 *qcow2,
                                                           struct vdisk_error *err, const char *fmt,
                                                           ...);

/* ---- qcow2_alloc.c: places in the file; for writable images ---- */

struct vd_qcow2_space {
    uint64_t host;     /* file offset */
    uint64_t clusters; /* at least 1 */
    bool is_new;       /* reads as zero */
};

/* Takes up to @wanted consecutive clusters: their refcount is 1 from now on. */
int vd_qcow2_take(struct vd_qcow2 *qcow2, uint64_t wanted, struct vd_qcow2_space *space,
                  struct vdisk_error *err);

/* Takes exactly so many consecutive clusters. */
int vd_qcow2_take_whole(struct vd_qcow2 *qcow2, uint64_t clusters, struct vd_qcow2_space *space,
                        struct vdisk_error *err);

/* Nothing in the file ever led to them: refcount down at once, and free again. */
void vd_qcow2_give_back(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters);

/*
 * W3: one reference less to each, which some change in the cache or in the file ended: takes effect
 * after the next flush.  At 0 they are free, and punched.
 */
int vd_qcow2_release(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                     struct vdisk_error *err);

/* One reference more to each; -EOVERFLOW-like -E2BIG: the refcounts are not wide enough. */
int vd_qcow2_refer(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                   struct vdisk_error *err);

int vd_qcow2_refcount(struct vd_qcow2 *qcow2, uint64_t host, uint64_t *refcount,
                      struct vdisk_error *err);

/* What kinds of metadata are, for messages of W5. */
enum vd_qcow2_meta_kind {
    VD_QCOW2_META_HEADER,
    VD_QCOW2_META_L1,
    VD_QCOW2_META_L2,
    VD_QCOW2_META_REFCOUNT_TABLE,
    VD_QCOW2_META_REFCOUNT_BLOCK,
    VD_QCOW2_META_SNAPSHOTS,
    VD_QCOW2_META_SNAPSHOT_L1,
    VD_QCOW2_META_BITMAPS,
    VD_QCOW2_META_CRYPTO
};

/* From now on [@host, +@clusters) is metadata, or is none any more.  The writer keeps L2 tables and
 * refcounts itself; snapshots and bitmaps tell it of theirs. */
int vd_qcow2_meta_add(struct vd_qcow2 *qcow2, enum vd_qcow2_meta_kind kind, uint64_t host,
                      uint64_t clusters, struct vdisk_error *err);
void vd_qcow2_meta_remove(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters);

/* ---- qcow2_write.c ---- */

int vd_qcow2_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                     struct vd_mapping *mapping);
int vd_qcow2_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                           struct vd_mapping *mapping, struct vdisk_error *err);
int vd_qcow2_map_encoded(struct vd_format *format, struct vd_range guest, enum vd_codec codec,
                         uint32_t encoded_bytes, struct vd_mapping *mapping,
                         struct vdisk_error *err);
void vd_qcow2_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok);
int vd_qcow2_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                      struct vd_mapping *mapping, struct vdisk_error *err);

/* ---- qcow2_flush.c ---- */

/* All changes in the caches, in the order of W1 to W3; then the releases take effect. */
int vd_qcow2_flush(struct vd_format *format, struct vdisk_error *err);

/* ---- qcow2_resize.c ---- */

int vd_qcow2_resize(struct vd_format *format, const struct vd_resize *resize,
                    struct vdisk_error *err);
int vd_qcow2_empty(struct vd_format *format, struct vdisk_error *err);

/* ---- qcow2_backing.c ---- */

/*
 * Makes @next the header, durably; all else is durable already where it has to be.  @next gets the
 * old one.  A failure ends all changes, but for -ENOSPC: it has no room, and nothing was changed.
 */
int vd_qcow2_replace_header(struct vd_qcow2 *qcow2, struct vd_qcow2_header *next,
                            struct vdisk_error *err);

int vd_qcow2_set_backing(struct vd_format *format, const struct vd_backing *backing,
                         struct vdisk_error *err);

/* ---- qcow2_create.c ---- */

int vd_qcow2_create(const struct vd_format_driver *driver, struct vd_storage *file,
                    struct vd_storage *data, const struct vdisk_create_options *options,
                    struct vdisk_error *err);
int vd_qcow2_measure(const struct vd_format_driver *driver,
                     const struct vdisk_create_options *options, uint64_t data_bytes,
                     struct vdisk_measure_result *result, struct vdisk_error *err);

/* ---- qcow2_amend.c ---- */

int vd_qcow2_amend(const struct vd_format_driver *driver, struct vd_storage *file,
                   const struct vdisk_amend_options *options, struct vdisk_error *err);

/* ---- qcow2_compact.c ---- */

int vd_qcow2_compact(struct vd_format *format, const struct vd_compact *compact,
                     struct vdisk_error *err);

/* ---- qcow2_check.c ---- */

/*
 * Refcounts in free places nearer to the start of the file, if they lie behind all else; the end
 * that nothing uses is cut off.  Of a sound image (or -EBADMSG) that is closed afterwards.
 */
int vd_qcow2_move_refcounts(struct vd_qcow2 *qcow2, struct vdisk_error *err);

/*
 * New refcounts, 1 << @order bits wide, in new places, and a header that leads to them.  The image
 * is sound, or -EBADMSG; -ERANGE: it has a refcount that they can not hold.  Of an image that is
 * closed afterwards.
 */
int vd_qcow2_change_refcounts(struct vd_qcow2 *qcow2, uint32_t order, struct vdisk_error *err);

/* On the file as it is, whatever the caches have; repair forgets those. */
int vd_qcow2_check(struct vd_format *format, const struct vd_check *check, struct vdisk_error *err);

/* What a writable open of an image with the dirty bit does: refcounts and COPIED bits are rebuilt,
 * durably, and the bit is cleared. */
int vd_qcow2_recover(struct vd_qcow2 *qcow2, struct vdisk_error *err);

#endif
