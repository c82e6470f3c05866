/* SPDX-License-Identifier: MIT */
/* A cache of the tables of an image: see the invariants in table_cache.h. */
#include "format/table_cache.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/mem.h"

#define PAGE_BYTES   VD_PAGE_BYTES
#define SECTOR_BYTES 512u
#define GROUP_PAGES  64u
#define PAGES_MIN    64u /* fewer would be loaded over and over by a handful of threads */
#define EVICT_STEPS  64u /* looked at for one eviction; the budget gives way to changed pages */

static_assert(PAGE_BYTES / SECTOR_BYTES == 8, "one bit of changed_sectors each");

struct vd_table_page {
    uint64_t index;             /* of the file, in pages */
    struct vd_table_page *next; /* ring of the resident pages */
    struct vd_table_page *prev;
    uint8_t *bytes;
    uint32_t pins;
    uint8_t changed_sectors; /* bit by bit */
    bool is_loading;
    bool is_in_snapshot;
    bool was_used; /* since eviction last looked at it */
};

struct vd_table_piece {
    uint64_t offset; /* of the file */
    size_t length;
};

int vd_table_cache_init(struct vd_table_cache *cache, struct vd_storage *file,
                        struct vd_range tables, uint64_t cache_bytes, struct vdisk_error *err)
{
    uint64_t pages = vd_div_up(vd_range_end(tables), PAGE_BYTES);
    *cache = (struct vd_table_cache){.file = file, .tables = tables};
    cache->group_entries = (size_t)vd_div_up(pages, GROUP_PAGES);
    cache->pages_max = (size_t)vd_min(
        vd_max((cache_bytes ? cache_bytes : VD_TABLE_CACHE_BYTES) / PAGE_BYTES, PAGES_MIN), pages);
    cache->groups = vd_alloc_array(cache->group_entries, sizeof(*cache->groups));
    if (!cache->groups)
        return vd_err_nomem(err, "a cache of tables");
    vd_mutex_init(&cache->lock);
    vd_cond_init(&cache->loaded);
    return 0;
}

static void page_free(struct vd_table_page *page)
{
    if (page)
        free(page->bytes);
    free(page);
}

void vd_table_cache_destroy(struct vd_table_cache *cache)
{
    if (!cache->groups)
        return;
    for (size_t i = 0; i < cache->group_entries; i++) {
        for (size_t j = 0; cache->groups[i] && j < GROUP_PAGES; j++)
            page_free(cache->groups[i][j]);
        free(cache->groups[i]);
    }
    free(cache->groups);
    vd_cond_destroy(&cache->loaded);
    vd_mutex_destroy(&cache->lock);
    cache->groups = NULL;
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

static struct vd_table_page *find_locked(const struct vd_table_cache *cache, uint64_t index)
{
    struct vd_table_page **group = cache->groups[index / GROUP_PAGES];
    return group ? group[index % GROUP_PAGES] : NULL;
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
    cache->groups[page->index / GROUP_PAGES][page->index % GROUP_PAGES] = page;
    cache->pages++;
}

static void remove_locked(struct vd_table_cache *cache, struct vd_table_page *page)
{
    if (cache->oldest == page)
        cache->oldest = page->next == page ? NULL : page->next;
    page->next->prev = page->prev;
    page->prev->next = page->next;
    cache->groups[page->index / GROUP_PAGES][page->index % GROUP_PAGES] = NULL;
    cache->pages--;
    page_free(page);
}

/* C3: makes room for one page, if there is one to give up. */
static void evict_locked(struct vd_table_cache *cache)
{
    for (unsigned i = 0; i < EVICT_STEPS && cache->pages >= cache->pages_max; i++) {
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
    struct vd_table_page ***group = &cache->groups[index / GROUP_PAGES];
    if (!*group)
        *group = vd_alloc_array(GROUP_PAGES, sizeof(**group));
    struct vd_table_page *page = *group ? calloc(1, sizeof(*page)) : NULL;
    if (!page)
        return NULL;
    page->bytes = vd_alloc_io(PAGE_BYTES);
    if (!page->bytes) {
        page_free(page);
        return NULL;
    }
    page->index = index;
    link_locked(cache, page);
    return page;
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

    struct vd_range range = page_range(cache, index);
    int ret = vd_storage_pread(cache->file, page->bytes + range.offset % PAGE_BYTES,
                               (size_t)range.length, range.offset, err);

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
        *waited = true;
        if (!found)
            return load_locked(cache, index, page, err);
        vd_cond_wait(&cache->loaded, &cache->lock);
    }
}

void vd_table_page_changed_locked(struct vd_table_cache *cache, struct vd_table_page *page,
                                  uint64_t offset, size_t length)
{
    (void)cache;
    size_t first = offset % PAGE_BYTES / SECTOR_BYTES;
    size_t last = (offset % PAGE_BYTES + length - 1) / SECTOR_BYTES;
    assert(offset / PAGE_BYTES == page->index && length > 0 && last < PAGE_BYTES / SECTOR_BYTES);
    for (size_t i = first; i <= last; i++)
        page->changed_sectors |= (uint8_t)(1u << i);
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

static struct vd_table_page *page_at_locked(const struct vd_table_cache *cache, size_t group,
                                            size_t page)
{
    return cache->groups[group] ? cache->groups[group][page] : NULL;
}

static size_t count_changed_locked(const struct vd_table_cache *cache)
{
    size_t sectors = 0;
    for (size_t i = 0; i < cache->group_entries * GROUP_PAGES; i++) {
        const struct vd_table_page *page = page_at_locked(cache, i / GROUP_PAGES, i % GROUP_PAGES);
        if (!cache->groups[i / GROUP_PAGES])
            i += GROUP_PAGES - 1;
        else if (page)
            sectors += (size_t)__builtin_popcount(page->changed_sectors);
    }
    return sectors;
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
    size_t sectors = count_changed_locked(cache);
    *snapshot = (struct vd_table_snapshot){0};
    if (!sectors)
        return 0;
    snapshot->bytes = vd_alloc_io(sectors * SECTOR_BYTES);
    snapshot->pieces = vd_alloc_array(sectors, sizeof(*snapshot->pieces));
    if (!snapshot->bytes || !snapshot->pieces) {
        free(snapshot->bytes);
        free(snapshot->pieces);
        *snapshot = (struct vd_table_snapshot){0};
        return vd_err_nomem(err, "changed pages of the tables");
    }

    size_t used = 0;
    for (size_t i = 0; i < cache->group_entries; i++)
        for (size_t j = 0; cache->groups[i] && j < GROUP_PAGES; j++) {
            struct vd_table_page *page = cache->groups[i][j];
            if (page && page->changed_sectors)
                used = take_page_locked(cache, page, snapshot, used);
        }
    return 0;
}

int vd_table_snapshot_write(const struct vd_table_cache *cache,
                            const struct vd_table_snapshot *snapshot, struct vdisk_error *err)
{
    size_t used = 0;
    for (size_t i = 0; i < snapshot->piece_entries; i++) {
        const struct vd_table_piece *piece = &snapshot->pieces[i];
        int ret = vd_storage_pwrite(cache->file, snapshot->bytes + used, piece->length,
                                    piece->offset, err);
        if (ret < 0)
            return ret;
        used += piece->length;
    }
    return 0;
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
