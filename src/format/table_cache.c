/* SPDX-License-Identifier: MIT */
/* A cache of the tables of an image: see the invariants in table_cache.h. */
#include "format/table_cache.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/mem.h"

#define PAGE_BYTES   VD_PAGE_BYTES
#define SECTOR_BYTES 512u
#define BUCKETS_MIN  64u
#define BUDGET_MIN   64u /* pages; fewer would be loaded over and over by a handful of threads */
#define PAGES_MIN    16u /* C5 */
#define EVICT_STEPS  64u /* looked at for one eviction; the budget gives way to changed pages */

static_assert(PAGE_BYTES / SECTOR_BYTES == 8, "one bit of changed_sectors each");

struct vd_table_page {
    uint64_t index;             /* of the file, in pages */
    struct vd_table_page *same; /* of its bucket, or NULL */
    struct vd_table_page *next; /* ring of the resident pages */
    struct vd_table_page *prev;
    struct vd_table_page *next_changed;
    uint32_t pins;
    uint8_t changed_sectors; /* bit by bit; not 0: in the list of changed pages */
    bool is_loading;
    bool is_in_snapshot;
    bool was_used;             /* since eviction last looked at it */
    uint8_t bytes[PAGE_BYTES]; /* aligned memory of its own would take twice as much */
};

struct vd_table_piece {
    uint64_t offset; /* of the file */
    size_t length;
};

void vd_table_budget_init(struct vd_table_budget *budget, uint64_t cache_bytes)
{
    atomic_init(&budget->pages, 0);
    atomic_init(&budget->users, 1);
    budget->pages_max = (size_t)vd_min(
        vd_max((cache_bytes ? cache_bytes : VD_TABLE_CACHE_BYTES) / PAGE_BYTES, BUDGET_MIN),
        SIZE_MAX / PAGE_BYTES);
}

struct vd_table_budget *vd_table_budget_new(uint64_t cache_bytes)
{
    struct vd_table_budget *budget = calloc(1, sizeof(*budget));
    if (budget)
        vd_table_budget_init(budget, cache_bytes);
    return budget;
}

void vd_table_budget_hold(struct vd_table_budget *budget)
{
    if (budget)
        atomic_fetch_add(&budget->users, 1);
}

void vd_table_budget_release(struct vd_table_budget *budget)
{
    if (budget && atomic_fetch_sub(&budget->users, 1) == 1)
        free(budget);
}

int vd_table_cache_init(struct vd_table_cache *cache, struct vd_storage *file,
                        struct vd_range tables, uint64_t cache_bytes, struct vdisk_error *err)
{
    *cache = (struct vd_table_cache){.file = file, .tables = tables, .bucket_entries = BUCKETS_MIN};
    vd_table_budget_init(&cache->own, cache_bytes);
    cache->budget = &cache->own;
    cache->buckets = vd_alloc_array(cache->bucket_entries, sizeof(*cache->buckets));
    if (!cache->buckets)
        return vd_err_nomem(err, "a cache of tables");
    vd_mutex_init(&cache->lock);
    vd_cond_init(&cache->loaded);
    return 0;
}

void vd_table_cache_share(struct vd_table_cache *cache, struct vd_table_budget *budget)
{
    assert(cache->pages == 0 && cache->budget == &cache->own);
    vd_table_budget_hold(budget);
    if (budget)
        cache->budget = budget;
}

void vd_table_cache_pad(struct vd_table_cache *cache)
{
    assert(cache->pages == 0);
    cache->is_padded = true;
}

static void forget_locked(struct vd_table_cache *cache)
{
    for (size_t i = 0; i < cache->bucket_entries; i++)
        while (cache->buckets[i]) {
            struct vd_table_page *page = cache->buckets[i];
            cache->buckets[i] = page->same;
            free(page);
        }
    atomic_fetch_sub(&cache->budget->pages, cache->pages);
    cache->pages = 0;
    cache->changed_pages = 0;
    cache->oldest = NULL;
    cache->changed = NULL;
}

void vd_table_cache_forget(struct vd_table_cache *cache)
{
    vd_mutex_lock(&cache->lock);
    forget_locked(cache);
    vd_mutex_unlock(&cache->lock);
}

void vd_table_cache_destroy(struct vd_table_cache *cache)
{
    if (!cache->buckets)
        return;
    vd_table_cache_forget(cache);
    if (cache->budget != &cache->own)
        vd_table_budget_release(cache->budget);
    free(cache->buckets);
    vd_cond_destroy(&cache->loaded);
    vd_mutex_destroy(&cache->lock);
    cache->buckets = NULL;
}

/* The part of the page of the file that belongs to the tables. */
static struct vd_range page_range(const struct vd_table_cache *cache, uint64_t index)
{
    uint64_t start = vd_max(index * PAGE_BYTES, cache->tables.offset);
    uint64_t end = vd_min((index + 1) * PAGE_BYTES, vd_range_end(cache->tables));
    return vd_range(start, end - start);
}

void *vd_table_page_at(struct vd_table_page *page, uint64_t offset)
{
    assert(offset / PAGE_BYTES == page->index);
    return page->bytes + offset % PAGE_BYTES;
}

uint64_t vd_table_page_end(const struct vd_table_cache *cache, const struct vd_table_page *page)
{
    return vd_range_end(page_range(cache, page->index));
}

/* Neighbours in the file are neighbours here; tables at regular distances spread nevertheless. */
static size_t bucket_of(size_t bucket_entries, uint64_t index)
{
    uint64_t region = (index >> 6) * UINT64_C(0x9e3779b97f4a7c15);
    return (size_t)((region >> 32) + index) & (bucket_entries - 1);
}

static struct vd_table_page *find_locked(const struct vd_table_cache *cache, uint64_t index)
{
    struct vd_table_page *page = cache->buckets[bucket_of(cache->bucket_entries, index)];
    while (page && page->index != index)
        page = page->same;
    return page;
}

/* More buckets, if there is memory for them: without, it only takes longer to find a page. */
static void grow_locked(struct vd_table_cache *cache)
{
    size_t entries = cache->bucket_entries * 2;
    struct vd_table_page **buckets = vd_alloc_array(entries, sizeof(*buckets));
    if (!buckets)
        return;
    for (size_t i = 0; i < cache->bucket_entries; i++)
        while (cache->buckets[i]) {
            struct vd_table_page *page = cache->buckets[i];
            struct vd_table_page **bucket = &buckets[bucket_of(entries, page->index)];
            cache->buckets[i] = page->same;
            page->same = *bucket;
            *bucket = page;
        }
    free(cache->buckets);
    cache->buckets = buckets;
    cache->bucket_entries = entries;
}

static void link_locked(struct vd_table_cache *cache, struct vd_table_page *page)
{
    struct vd_table_page *oldest = cache->oldest;
    if (oldest) {
        page->next = oldest;
        page->prev = oldest->prev;
        oldest->prev->next = page;
        oldest->prev = page;
    } else {
        page->next = page;
        page->prev = page;
        cache->oldest = page;
    }
    if (cache->pages >= cache->bucket_entries)
        grow_locked(cache);
    struct vd_table_page **bucket = &cache->buckets[bucket_of(cache->bucket_entries, page->index)];
    page->same = *bucket;
    *bucket = page;
    cache->pages++;
    atomic_fetch_add(&cache->budget->pages, 1);
}

static void remove_locked(struct vd_table_cache *cache, struct vd_table_page *page)
{
    assert(!page->changed_sectors);
    if (cache->oldest == page)
        cache->oldest = page->next == page ? NULL : page->next;
    page->next->prev = page->prev;
    page->prev->next = page->next;
    struct vd_table_page **link = &cache->buckets[bucket_of(cache->bucket_entries, page->index)];
    while (*link != page)
        link = &(*link)->same;
    *link = page->same;
    cache->pages--;
    atomic_fetch_sub(&cache->budget->pages, 1);
    free(page);
}

/* C5: should one page be given up before the next is loaded? */
static bool is_full_locked(const struct vd_table_cache *cache)
{
    return cache->pages >= PAGES_MIN &&
           atomic_load(&cache->budget->pages) >= cache->budget->pages_max;
}

/* C3: makes room for one page, if there is one to give up. */
static void evict_locked(struct vd_table_cache *cache)
{
    for (unsigned i = 0; i < EVICT_STEPS && is_full_locked(cache); i++) {
        struct vd_table_page *page = cache->oldest;
        bool is_needed =
            page->changed_sectors || page->pins || page->is_loading || page->is_in_snapshot;
        if (is_needed || page->was_used) {
            page->was_used = false;
            cache->oldest = page->next;
        } else {
            remove_locked(cache, page);
        }
    }
}

static struct vd_table_page *add_locked(struct vd_table_cache *cache, uint64_t index)
{
    struct vd_table_page *page = calloc(1, sizeof(*page));
    if (!page)
        return NULL;
    page->index = index;
    link_locked(cache, page);
    return page;
}

/* @page is all zero. */
static int read_page(const struct vd_table_cache *cache, struct vd_table_page *page,
                     struct vdisk_error *err)
{
    struct vd_range range = page_range(cache, page->index);
    if (cache->is_padded) {
        uint64_t file_bytes;
        int ret = vd_storage_size(cache->file, &file_bytes, err);
        if (ret < 0)
            return ret;
        range.length = vd_min(range.length, file_bytes - vd_min(range.offset, file_bytes));
    }
    if (range.length == 0)
        return 0;
    return vd_storage_pread(cache->file, page->bytes + range.offset % PAGE_BYTES,
                            (size_t)range.length, range.offset, err);
}

/* C2 */
static int load_locked(struct vd_table_cache *cache, uint64_t index, struct vd_table_page **result,
                       struct vdisk_error *err) VD_REQUIRES(cache->lock)
{
    evict_locked(cache);
    struct vd_table_page *page = add_locked(cache, index);
    if (!page)
        return vd_err_nomem(err, "a page of the tables");
    page->is_loading = true;
    vd_mutex_unlock(&cache->lock);

    int ret = read_page(cache, page, err);

    vd_mutex_lock(&cache->lock);
    page->is_loading = false;
    page->was_used = true;
    if (ret < 0)
        remove_locked(cache, page);
    else
        *result = page;
    vd_cond_broadcast(&cache->loaded);
    return ret;
}

int vd_table_cache_get_locked(struct vd_table_cache *cache, uint64_t offset,
                              struct vd_table_page **page, bool *waited, struct vdisk_error *err)
{
    assert(offset >= cache->tables.offset && offset < vd_range_end(cache->tables));
    uint64_t index = offset / PAGE_BYTES;
    for (;;) {
        struct vd_table_page *found = find_locked(cache, index);
        if (found && !found->is_loading) {
            found->was_used = true;
            *page = found;
            return 0;
        }
        if (cache->is_trying)
            return -EAGAIN;
        *waited = true;
        if (!found)
            return load_locked(cache, index, page, err);
        vd_cond_wait(&cache->loaded, &cache->lock);
    }
}

void vd_table_page_changed_locked(struct vd_table_cache *cache, struct vd_table_page *page,
                                  uint64_t offset, size_t length)
{
    size_t first = offset % PAGE_BYTES / SECTOR_BYTES;
    size_t last = (offset % PAGE_BYTES + length - 1) / SECTOR_BYTES;
    assert(offset / PAGE_BYTES == page->index && length > 0 && last < PAGE_BYTES / SECTOR_BYTES);
    if (!page->changed_sectors) {
        page->next_changed = cache->changed;
        cache->changed = page;
        cache->changed_pages++;
    }
    for (size_t i = first; i <= last; i++)
        page->changed_sectors |= (uint8_t)(1u << i);
}

/* The part of [@offset, @end) that lies in its first page. */
static size_t page_step(uint64_t offset, uint64_t end)
{
    return (size_t)vd_min(end - offset, PAGE_BYTES - offset % PAGE_BYTES);
}

/* Pins the page with @offset, of which @length bytes will be overwritten: all of it is not read. */
static int pin_to_put_locked(struct vd_table_cache *cache, uint64_t offset, size_t length,
                             struct vdisk_error *err) VD_REQUIRES(cache->lock)
{
    uint64_t index = offset / PAGE_BYTES;
    struct vd_table_page *page = find_locked(cache, index);
    bool waited = false;
    int ret = 0;
    if (!page && length == page_range(cache, index).length) {
        evict_locked(cache);
        page = add_locked(cache, index);
        ret = page ? 0 : vd_err_nomem(err, "a page of the tables");
    } else {
        ret = vd_table_cache_get_locked(cache, offset, &page, &waited, err);
    }
    if (ret == 0)
        page->pins++;
    return ret;
}

/* Ends the pins of [@offset, @end), and forgets pages that have not the content of the file. */
static void unpin_to_put_locked(struct vd_table_cache *cache, uint64_t offset, uint64_t end)
    VD_REQUIRES(cache->lock)
{
    for (size_t step; offset < end; offset += step) {
        step = page_step(offset, end);
        struct vd_table_page *page = vd_table_cache_unpin_locked(cache, offset);
        if (!page->pins && !page->changed_sectors && !page->is_in_snapshot)
            remove_locked(cache, page);
    }
}

int vd_table_cache_put_locked(struct vd_table_cache *cache, uint64_t offset, const void *bytes,
                              size_t length, struct vdisk_error *err)
{
    uint64_t end = offset + length;
    for (uint64_t at = offset, step; at < end; at += step) {
        step = page_step(at, end);
        int ret = pin_to_put_locked(cache, at, (size_t)step, err);
        if (ret < 0) {
            unpin_to_put_locked(cache, offset, at);
            return ret;
        }
    }
    for (size_t done = 0, step; done < length; done += step) {
        uint64_t at = offset + done;
        step = page_step(at, end);
        struct vd_table_page *page = vd_table_cache_unpin_locked(cache, at);
        if (bytes)
            memcpy(vd_table_page_at(page, at), (const uint8_t *)bytes + done, step);
        else
            memset(vd_table_page_at(page, at), 0, step);
        vd_table_page_changed_locked(cache, page, at, step);
    }
    return 0;
}

bool vd_table_cache_is_strained_locked(const struct vd_table_cache *cache)
{
    return cache->changed_pages > cache->budget->pages_max / 2;
}

void vd_table_cache_pin_locked(struct vd_table_cache *cache, uint64_t offset)
{
    find_locked(cache, offset / PAGE_BYTES)->pins++;
}

struct vd_table_page *vd_table_cache_unpin_locked(struct vd_table_cache *cache, uint64_t offset)
{
    struct vd_table_page *page = find_locked(cache, offset / PAGE_BYTES);
    assert(page && page->pins > 0);
    page->pins--;
    return page;
}

/* The part of sector @sector of the page that belongs to the tables. */
static struct vd_range sector_range(const struct vd_table_cache *cache,
                                    const struct vd_table_page *page, unsigned sector)
{
    struct vd_range whole = page_range(cache, page->index);
    uint64_t start = page->index * PAGE_BYTES + sector * SECTOR_BYTES;
    uint64_t end = vd_min(start + SECTOR_BYTES, vd_range_end(whole));
    start = vd_max(start, whole.offset);
    return vd_range(start, end - start);
}

static int compare_pages(const void *a, const void *b)
{
    const struct vd_table_page *const *left = a;
    const struct vd_table_page *const *right = b;
    return ((*left)->index > (*right)->index) - ((*left)->index < (*right)->index);
}

/* The changed pages in the order of the file, in memory of the caller's; *sectors of them changed.
 */
static struct vd_table_page **sort_changed_locked(const struct vd_table_cache *cache,
                                                  size_t *sectors)
{
    struct vd_table_page **pages =
        vd_alloc_array(cache->changed_pages, sizeof(struct vd_table_page *));
    size_t entries = 0;
    *sectors = 0;
    for (struct vd_table_page *page = cache->changed; page && pages; page = page->next_changed) {
        pages[entries++] = page;
        *sectors += (size_t)__builtin_popcount(page->changed_sectors);
    }
    assert(!pages || entries == cache->changed_pages);
    if (pages)
        qsort(pages, entries, sizeof(struct vd_table_page *), compare_pages);
    return pages;
}

/* Copies the changed sectors of @page behind the @used bytes there are; the new count of them. */
static size_t take_page_locked(const struct vd_table_cache *cache, struct vd_table_page *page,
                               struct vd_table_snapshot *snapshot, size_t used)
{
    for (unsigned i = 0; i < PAGE_BYTES / SECTOR_BYTES; i++) {
        if (!(page->changed_sectors & (1u << i)))
            continue;
        struct vd_range range = sector_range(cache, page, i);
        memcpy(snapshot->bytes + used, vd_table_page_at(page, range.offset), (size_t)range.length);
        used += (size_t)range.length;

        struct vd_table_piece *last =
            snapshot->piece_entries ? &snapshot->pieces[snapshot->piece_entries - 1] : NULL;
        if (last && last->offset + last->length == range.offset)
            last->length += (size_t)range.length;
        else
            snapshot->pieces[snapshot->piece_entries++] =
                (struct vd_table_piece){.offset = range.offset, .length = (size_t)range.length};
    }
    page->changed_sectors = 0;
    page->is_in_snapshot = true;
    return used;
}

int vd_table_cache_snapshot_locked(struct vd_table_cache *cache, struct vd_table_snapshot *snapshot,
                                   struct vdisk_error *err)
{
    *snapshot = (struct vd_table_snapshot){0};
    if (!cache->changed)
        return 0;
    size_t sectors;
    CLEANUP_FREE struct vd_table_page **pages = sort_changed_locked(cache, &sectors);
    snapshot->bytes = pages ? vd_alloc_io(sectors * SECTOR_BYTES) : NULL;
    snapshot->pieces = pages ? vd_alloc_array(sectors, sizeof(*snapshot->pieces)) : NULL;
    if (!snapshot->bytes || !snapshot->pieces) {
        free(snapshot->bytes);
        free(snapshot->pieces);
        *snapshot = (struct vd_table_snapshot){0};
        return vd_err_nomem(err, "changed pages of the tables");
    }

    size_t used = 0;
    for (size_t i = 0; i < cache->changed_pages; i++)
        used = take_page_locked(cache, pages[i], snapshot, used);
    cache->changed = NULL;
    cache->changed_pages = 0;
    return 0;
}

/* Of [@offset, @offset + @length): how long does the answer of @select for its start hold? */
static size_t same_length(vd_table_select select, const void *opaque, uint64_t offset,
                          size_t length, bool *is_selected)
{
    *is_selected = !select || select(opaque, offset);
    if (!select)
        return length;
    uint64_t sector = vd_round_down(offset, SECTOR_BYTES) + SECTOR_BYTES;
    while (sector < offset + length && select(opaque, sector) == *is_selected)
        sector += SECTOR_BYTES;
    return (size_t)(vd_min(sector, offset + length) - offset);
}

int vd_table_snapshot_write_some(const struct vd_table_cache *cache,
                                 const struct vd_table_snapshot *snapshot, vd_table_select select,
                                 const void *opaque, struct vdisk_error *err)
{
    const uint8_t *bytes = snapshot->bytes;
    for (size_t i = 0; i < snapshot->piece_entries; i++) {
        const struct vd_table_piece *piece = &snapshot->pieces[i];
        size_t step;
        for (size_t done = 0; done < piece->length; done += step, bytes += step) {
            bool is_selected;
            uint64_t offset = piece->offset + done;
            step = same_length(select, opaque, offset, piece->length - done, &is_selected);
            int ret = is_selected ? vd_storage_pwrite(cache->file, bytes, step, offset, err) : 0;
            if (ret < 0)
                return ret;
        }
    }
    return 0;
}

int vd_table_snapshot_write(const struct vd_table_cache *cache,
                            const struct vd_table_snapshot *snapshot, struct vdisk_error *err)
{
    return vd_table_snapshot_write_some(cache, snapshot, NULL, NULL, err);
}

void vd_table_snapshot_end(struct vd_table_cache *cache, struct vd_table_snapshot *snapshot,
                           bool written)
{
    vd_mutex_lock(&cache->lock);
    for (size_t i = 0; written && i < snapshot->piece_entries; i++) {
        const struct vd_table_piece *piece = &snapshot->pieces[i];
        uint64_t last = (piece->offset + piece->length - 1) / PAGE_BYTES;
        for (uint64_t index = piece->offset / PAGE_BYTES; index <= last; index++)
            find_locked(cache, index)->is_in_snapshot = false;
    }
    vd_mutex_unlock(&cache->lock);
    free(snapshot->pieces);
    free(snapshot->bytes);
    *snapshot = (struct vd_table_snapshot){0};
}
