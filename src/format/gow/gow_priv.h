/* SPDX-License-Identifier: MIT */
/*
 * An open GOW image, for the files of this folder only.  docs/formats/gow.md is the specification.
 *
 * G1  The first change of a session, and of a region in version 3, happens after the header says so
 *     durably (gow §5.1, §5.2).
 * G2  A block of version 3 changes only after its version went up in this session (gow §5.3); that
 *     need not be durable, because the intent bit of the region is.
 * G3  A map entry is written to the file only after the data of its block is durable (gow §6.1).
 * G4  A host block is used again, punched or cut off only after no durable map entry leads to it,
 *     none is about to become durable, and no request that began before still runs (gow §6.2).
 * G5  The map is scanned for contradictions before it is changed, so every host block in use is
 *     known to be used once.
 * G6  A fresh block is nowhere but in `used` until write_done() publishes it in the map.
 *
 * Locks: docs/locking.md.
 */
#ifndef VD_FORMAT_GOW_GOW_PRIV_H
#define VD_FORMAT_GOW_GOW_PRIV_H

#include "format/driver.h"
#include "format/bits.h"
#include "format/gow/gow_header.h"
#include "format/table_cache.h"

struct vd_gow {
    struct vd_format *format;
    struct vd_storage *file;
    bool can_resize; /* the file */
    struct vd_gow_layout layout;

    /* Held while the header is written and made durable.  Before: none. */
    struct vd_mutex session_lock;
    struct vd_gow_header header; /* as in the file; under session_lock */
    bool session_has_begun;      /* under session_lock */
    /* By region, in version 1 and 2 the first one only: the header durably says it may change. */
    atomic_bool marked[VD_GOW_REGIONS];

    struct vd_mutex flush_lock; /* held during a flush.  Before: none */
    struct vd_mutex alloc_lock; /* held while the file grows or is scanned.  Before: none */

    struct vd_table_cache tables; /* map and versions.  All below is under its lock */
    bool map_has_changed;         /* since the last flush began */
    uint32_t file_hosts;          /* whole host blocks in the file */
    bool used_is_known;           /* G5 */
    struct vd_bits used;          /* host blocks in the map, fresh, or in one of the sets below */
    struct vd_bits unmapped;      /* since the last flush began */
    struct vd_bits unmapping;     /* their unmapping is being made durable */
    struct vd_bits durable;       /* it is */
    struct vd_bits waiting;       /* that, and for the requests before waiting_point to leave */
    unsigned waiting_point;
    uint8_t **bumped; /* by region, or NULL: blocks whose version went up in this session */
};

/* A run of blocks that are all unallocated, or lie in consecutive host blocks. */
struct vd_gow_run {
    uint32_t first;
    uint32_t count;
    uint32_t host;              /* of the first; or VD_GOW_UNALLOCATED */
    struct vd_table_page *page; /* with all their map entries */
};

/* ---- gow_session.c ---- */

/* G1: may blocks [@first, @first + @count) be changed? */
bool vd_gow_is_marked(struct vd_gow *gow, uint32_t first, uint32_t count);

/* Makes that so, durably.  @count 0: begins the session only. */
int vd_gow_mark(struct vd_gow *gow, uint32_t first, uint32_t count, struct vdisk_error *err)
    VD_EXCLUDES(gow->session_lock);

/* Changes the size in the header, durably; the session has begun. */
int vd_gow_set_size(struct vd_gow *gow, uint64_t size, struct vdisk_error *err);

/* Says durably that there is no writer; everything else is durable. */
int vd_gow_unmark(struct vd_gow *gow, struct vdisk_error *err);

/* Mends what a writer left that died.  Before the tables are cached. */
int vd_gow_recover(struct vd_storage *file, struct vd_gow_header *header, struct vdisk_error *err);

/* ---- gow_map.c ---- */

/* The run at the start of @guest, not longer than it.  Checked against the file's size. */
int vd_gow_find_run_locked(struct vd_gow *gow, struct vd_range guest, struct vd_gow_run *run,
                           struct vdisk_error *err) VD_REQUIRES(gow->tables.lock);

/* Sets the map entries of @run to @host, @host + 1, ..., or all to VD_GOW_UNALLOCATED. */
void vd_gow_set_entries_locked(struct vd_gow *gow, const struct vd_gow_run *run, uint32_t host)
    VD_REQUIRES(gow->tables.lock);

/* The answer for @run, to a request for @guest. */
void vd_gow_answer(struct vd_gow *gow, struct vd_range guest, const struct vd_gow_run *run,
                   struct vd_mapping *mapping);

int vd_gow_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
               struct vdisk_error *err);

/* ---- gow_version.c ---- */

/*
 * G2: raises the versions of the blocks of @run that did not go up yet, or shortens @run to those
 * that can.  If *waited becomes true, the lock was released and nothing was done: look again.
 */
int vd_gow_bump_locked(struct vd_gow *gow, struct vd_gow_run *run, bool *waited,
                       struct vdisk_error *err) VD_REQUIRES(gow->tables.lock);

/* Did the versions of all its blocks go up in this session? */
bool vd_gow_is_bumped_locked(const struct vd_gow *gow, const struct vd_gow_run *run)
    VD_REQUIRES(gow->tables.lock);

int vd_gow_version(struct vd_format *format, struct vd_range guest, uint32_t *version,
                   uint64_t *length, struct vdisk_error *err);

/* ---- gow_alloc.c ---- */

/* G5: fills used and sets used_is_known; the session has begun. */
int vd_gow_scan(struct vd_gow *gow, struct vdisk_error *err) VD_EXCLUDES(gow->alloc_lock);

struct vd_gow_space {
    uint32_t host;  /* the first of count host blocks */
    uint32_t count; /* at least 1 */
    enum vd_fill fill;
};

/* Takes up to @wanted consecutive host blocks that nothing uses. */
int vd_gow_take(struct vd_gow *gow, uint32_t wanted, struct vd_gow_space *space,
                struct vdisk_error *err) VD_EXCLUDES(gow->alloc_lock);

/* Nothing ever led to them. */
void vd_gow_give_back_locked(struct vd_gow *gow, uint32_t host, uint32_t count)
    VD_REQUIRES(gow->tables.lock);

/* Cuts off the part of the file behind the last host block in use; no other call runs. */
int vd_gow_trim(struct vd_gow *gow, struct vdisk_error *err);

/* ---- gow_write.c ---- */

/*
 * G1, G2, G5: readies @run for a change, of the map if @changes_map.  If *waited becomes true, the
 * lock was released and @run may be out of date: look again.
 */
int vd_gow_ready_locked(struct vd_gow *gow, struct vd_gow_run *run, bool changes_map, bool *waited,
                        struct vdisk_error *err) VD_REQUIRES(gow->tables.lock);

/* Unmaps @run, which is allocated and ready. */
int vd_gow_unmap_locked(struct vd_gow *gow, const struct vd_gow_run *run, struct vdisk_error *err)
    VD_REQUIRES(gow->tables.lock);

int vd_gow_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                   struct vd_mapping *mapping);
int vd_gow_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                         struct vd_mapping *mapping, struct vdisk_error *err);
void vd_gow_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok);
int vd_gow_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                    struct vd_mapping *mapping, struct vdisk_error *err);

/* ---- gow_flush.c ---- */

int vd_gow_flush(struct vd_format *format, struct vdisk_error *err);

/* Ends the session if one has begun: all durable, the header clean.  No other call runs. */
int vd_gow_finish(struct vd_gow *gow, struct vdisk_error *err);

/* ---- gow_create.c, gow_resize.c, gow_check.c ---- */

int vd_gow_create(const struct vd_format_driver *driver, struct vd_storage *file,
                  struct vd_storage *data, const struct vdisk_create_options *options,
                  struct vdisk_error *err);
int vd_gow_measure(const struct vd_format_driver *driver,
                   const struct vdisk_create_options *options, uint64_t data_bytes,
                   struct vdisk_measure_result *result, struct vdisk_error *err);
int vd_gow_resize(struct vd_format *format, const struct vd_resize *resize,
                  struct vdisk_error *err);
int vd_gow_check(struct vd_format *format, const struct vd_check *check, struct vdisk_error *err);

#endif
