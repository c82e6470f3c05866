/* SPDX-License-Identifier: MIT */
/*
 * A cache of the tables of an image, which may lie anywhere in its file: by pages, in disk byte
 * order.
 *
 * Pages are loaded when first used and evicted when the budget is used up; changed ones stay until
 * they are written.  Changes are tracked by sectors of 512 bytes of the file.  The cache never
 * writes by itself: its owner takes a snapshot of what is changed, writes it when the order of
 * things allows, and ends it.
 *
 * C1  A page is read and changed only under the lock, which the owner may use for more.
 * C2  The lock is released while a page is loaded, so what was learned before may have changed
 *     then; *waited tells.  Nobody waits for the loading of another page.
 * C3  A page that is changed, pinned, loading, or in a snapshot not ended is not evicted: the file
 *     does not have its content.
 * C4  A snapshot holds the changes made before it, and none made after it.
 * C5  A budget may be shared by the caches of several images.  A cache gives up its own pages only,
 *     and may always have a few of them, so none waits for, or starves by, another one.
 */
#ifndef VD_FORMAT_TABLE_CACHE_H
#define VD_FORMAT_TABLE_CACHE_H

#include "format/table_budget.h"
#include "storage/storage.h"
#include "util/err.h"
#include "util/mutex.h"
#include "util/range.h"

#define VD_TABLE_CACHE_BYTES (UINT64_C(64) << 20) /* the default budget */

struct vd_table_page;

struct vd_table_cache {
    struct vd_mutex lock;
    struct vd_cond loaded; /* some page ended loading */
    struct vd_storage *file;
    struct vd_range tables; /* of the file: where they may be */
    bool is_padded;         /* changes only before anything is loaded */
    struct vd_table_budget own;
    struct vd_table_budget *budget; /* its own, or one that it shares */

    /* Under lock. */
    struct vd_table_page **buckets; /* the resident pages, by a hash of their place in the file */
    size_t bucket_entries;          /* a power of two */
    struct vd_table_page *oldest;   /* ring of the resident pages, or NULL */
    struct vd_table_page *changed;  /* list of those with changes that no snapshot has */
    size_t pages;
    size_t changed_pages;
    bool is_trying; /* get() answers -EAGAIN, with no story, where it would have to load; set by who
                       has the lock, and until then */
};

/*
 * Nothing outside of @tables is read or written; what is in it may be table or not, page by page.
 * @cache_bytes: 0 means the default.
 */
int vd_table_cache_init(struct vd_table_cache *cache, struct vd_storage *file,
                        struct vd_range tables, uint64_t cache_bytes, struct vdisk_error *err);

/*
 * C5: from here on it is @budget that counts, unless it is NULL; the cache is one more user of it.
 * Before anything is loaded.
 */
void vd_table_cache_share(struct vd_table_cache *cache, struct vd_table_budget *budget);

/* From here on the file reads as zero behind its end, where loading a page would fail otherwise.
 * Before anything is loaded. */
void vd_table_cache_pad(struct vd_table_cache *cache);

/* Forgets all, changes too.  A zeroed one is accepted. */
void vd_table_cache_destroy(struct vd_table_cache *cache);

/* Forgets all, changes too, and goes on: the file was changed otherwise.  No other call runs. */
void vd_table_cache_forget(struct vd_table_cache *cache);

/*
 * The page with the byte at file offset @offset, which lies in the tables; good until the lock is
 * released.  *waited becomes true if the lock was released meanwhile (C2).
 */
int vd_table_cache_get_locked(struct vd_table_cache *cache, uint64_t offset,
                              struct vd_table_page **page, bool *waited, struct vdisk_error *err)
    VD_REQUIRES(cache->lock);

/*
 * Makes [@offset, @offset + @length) of the tables @bytes, or zeros if that is NULL, whatever was
 * there before: for a place that becomes a table.  Nobody reads it yet.  The lock may be released
 * meanwhile; nothing is changed after a failure.
 */
int vd_table_cache_put_locked(struct vd_table_cache *cache, uint64_t offset, const void *bytes,
                              size_t length, struct vdisk_error *err) VD_REQUIRES(cache->lock);

/* The byte at file offset @offset, which lies in @page, and what follows it there. */
void *vd_table_page_at(struct vd_table_page *page, uint64_t offset);

/* The file offset behind the last byte of the tables that @page has. */
uint64_t vd_table_page_end(const struct vd_table_cache *cache, const struct vd_table_page *page);

/* [@offset, @offset + @length) of the file, within @page, was changed. */
void vd_table_page_changed_locked(struct vd_table_cache *cache, struct vd_table_page *page,
                                  uint64_t offset, size_t length) VD_REQUIRES(cache->lock);

/* Do changes take so much of the budget that they should be written? */
bool vd_table_cache_is_strained_locked(const struct vd_table_cache *cache) VD_REQUIRES(cache->lock);

/* Keeps the page with the byte at @offset, which is resident, until it is unpinned. */
void vd_table_cache_pin_locked(struct vd_table_cache *cache, uint64_t offset)
    VD_REQUIRES(cache->lock);

/* Ends a pin; the page. */
struct vd_table_page *vd_table_cache_unpin_locked(struct vd_table_cache *cache, uint64_t offset)
    VD_REQUIRES(cache->lock);

/* What was changed, as it was at one time.  Zeroed: empty. */
struct vd_table_snapshot {
    struct vd_table_piece *pieces; /* in the order of the file, not touching each other */
    size_t piece_entries;
    uint8_t *bytes; /* their content, one behind the other */
};

/* C4.  One snapshot at a time.  To be ended, unless this fails. */
int vd_table_cache_snapshot_locked(struct vd_table_cache *cache, struct vd_table_snapshot *snapshot,
                                   struct vdisk_error *err) VD_REQUIRES(cache->lock);

/* Writes it to the file; not durable before a flush. */
int vd_table_snapshot_write(const struct vd_table_cache *cache,
                            const struct vd_table_snapshot *snapshot, struct vdisk_error *err);

/* Is the sector of 512 bytes at file offset @offset meant? */
typedef bool (*vd_table_select)(const void *opaque, uint64_t offset);

/* Writes only those of its sectors that @select says. */
int vd_table_snapshot_write_some(const struct vd_table_cache *cache,
                                 const struct vd_table_snapshot *snapshot, vd_table_select select,
                                 const void *opaque, struct vdisk_error *err);

/*
 * Frees it.  @written: the file has its content now; otherwise its pages stay for good, as nothing
 * else has their content.
 */
void vd_table_snapshot_end(struct vd_table_cache *cache, struct vd_table_snapshot *snapshot,
                           bool written) VD_EXCLUDES(cache->lock);

#endif
