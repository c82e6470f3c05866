/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps: making, setting, clearing, searching.  Invariants: bitmap.h. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "bitmap/bitmap_priv.h"

int vd_bitmap_budget_take(struct vd_bitmap_budget *budget, uint64_t bytes, struct vdisk_error *err)
{
    uint64_t used = atomic_load_explicit(&budget->used, memory_order_relaxed);
    do {
        if (bytes > budget->bytes_max - used)
            return vd_err_set(err, ENOMEM,
                              "dirty bitmaps would take more than %" PRIu64
                              " bytes of memory: remove some, or make them coarser",
                              budget->bytes_max);
    } while (!atomic_compare_exchange_weak_explicit(&budget->used, &used, used + bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    return 0;
}

void vd_bitmap_budget_give(struct vd_bitmap_budget *budget, uint64_t bytes)
{
    atomic_fetch_sub_explicit(&budget->used, bytes, memory_order_relaxed);
}

static bitmap_slot *take_slots(struct vd_bitmap_budget *budget, size_t entries,
                               struct vdisk_error *err)
{
    size_t bytes = entries * sizeof(bitmap_slot);
    if (vd_bitmap_budget_take(budget, bytes, err) < 0)
        return NULL;
    bitmap_slot *slots = calloc(entries ? entries : 1, sizeof(bitmap_slot));
    if (!slots) {
        vd_bitmap_budget_give(budget, bytes);
        vd_err_nomem(err, "a dirty bitmap");
    }
    return slots;
}

/* The count of bits for a disk, within the limit. */
static int count_bits(uint64_t disk_bytes, uint32_t granularity_bits, uint64_t *bits,
                      struct vdisk_error *err)
{
    assert(granularity_bits >= VD_BITMAP_GRANULARITY_BITS_MIN &&
           granularity_bits <= VD_BITMAP_GRANULARITY_BITS_MAX);
    uint64_t bytes = vd_bitmap_bytes_for(disk_bytes, granularity_bits);
    if (bytes > VD_BITMAP_DATA_BYTES_MAX)
        return vd_err_set(err, EFBIG,
                          "a dirty bitmap with a granularity of %" PRIu64
                          " bytes would take %" PRIu64 " bytes, %" PRIu64
                          " at most: take a coarser one",
                          UINT64_C(1) << granularity_bits, bytes, VD_BITMAP_DATA_BYTES_MAX);
    *bits = vd_div_up(disk_bytes, UINT64_C(1) << granularity_bits);
    return 0;
}

int vd_bitmap_new(uint64_t disk_bytes, uint32_t granularity_bits, struct vd_bitmap_budget *budget,
                  struct vd_bitmap **bitmap, struct vdisk_error *err)
{
    uint64_t bits;
    int ret = count_bits(disk_bytes, granularity_bits, &bits, err);
    if (ret < 0)
        return ret;
    struct vd_bitmap *new = calloc(1, sizeof(*new));
    if (!new)
        return vd_err_nomem(err, "a dirty bitmap");
    *new = (struct vd_bitmap){
        .disk_bytes = disk_bytes,
        .bits = bits,
        .page_entries = (size_t)vd_div_up(bits, PAGE_BITS),
        .granularity_bits = granularity_bits,
        .budget = budget,
    };
    new->pages = take_slots(budget, new->page_entries, err);
    if (!new->pages) {
        free(new);
        return -ENOMEM;
    }
    *bitmap = new;
    return 0;
}

void vd_bitmap_drop_page(struct vd_bitmap *bitmap, size_t index, struct bitmap_page *instead)
{
    struct bitmap_page *page = bitmap_page_at(bitmap, index);
    atomic_store_explicit(&bitmap->pages[index], instead, memory_order_relaxed);
    if (!page_is_real(page))
        return;
    free(page);
    vd_bitmap_budget_give(bitmap->budget, sizeof(*page));
}

void vd_bitmap_free(struct vd_bitmap *bitmap)
{
    if (!bitmap)
        return;
    vd_bitmap_clear_all(bitmap);
    vd_bitmap_budget_give(bitmap->budget, bitmap->page_entries * sizeof(bitmap_slot));
    free(bitmap->pages);
    free(bitmap);
}

int vd_bitmap_copy(const struct vd_bitmap *from, struct vd_bitmap **bitmap, struct vdisk_error *err)
{
    struct vd_bitmap *copy = NULL;
    int ret = vd_bitmap_new(from->disk_bytes, from->granularity_bits, from->budget, &copy, err);
    if (ret == 0)
        ret = vd_bitmap_merge(copy, from, err);
    if (ret < 0)
        vd_bitmap_free(copy);
    else
        *bitmap = copy;
    return ret;
}

uint64_t vd_bitmap_disk_bytes(const struct vd_bitmap *bitmap)
{
    return bitmap->disk_bytes;
}

uint32_t vd_bitmap_granularity_bits(const struct vd_bitmap *bitmap)
{
    return bitmap->granularity_bits;
}

struct bitmap_page *vd_bitmap_real_page(struct vd_bitmap *bitmap, size_t index,
                                        struct vdisk_error *err)
{
    struct bitmap_page *page = bitmap_page_at(bitmap, index);
    if (page_is_real(page))
        return page;
    struct bitmap_page *new = calloc(1, sizeof(*new));
    if (!new) {
        vd_err_nomem(err, "a dirty bitmap");
        return NULL;
    }
    if (vd_bitmap_budget_take(bitmap->budget, sizeof(*new), err) < 0) {
        free(new);
        return NULL;
    }
    do {
        uint64_t bits = bitmap_page_bits(bitmap, index);
        for (unsigned word = 0; word < PAGE_WORDS; word++)
            atomic_store_explicit(&new->words[word],
                                  page == PAGE_FULL ? bitmap_valid_word(bits, word) : 0,
                                  memory_order_relaxed);
        if (atomic_compare_exchange_strong_explicit(&bitmap->pages[index], &page, new,
                                                    memory_order_acq_rel, memory_order_acquire))
            return new;
    } while (!page_is_real(page));
    /* Another thread was faster. */
    free(new);
    vd_bitmap_budget_give(bitmap->budget, sizeof(*new));
    return page;
}

/* The bits of word @word within [@first, @last], which are numbers within the page. */
static uint64_t mask_in_word(unsigned word, uint64_t first, uint64_t last)
{
    uint64_t start = (uint64_t)word * WORD_BITS;
    unsigned low = first > start ? (unsigned)(first - start) : 0;
    unsigned high = last - start < WORD_BITS - 1 ? (unsigned)(last - start) : WORD_BITS - 1;
    return (UINT64_MAX << low) & (UINT64_MAX >> (WORD_BITS - 1 - high));
}

/* Sets bits @first to @last of one page. */
static int set_in_page(struct vd_bitmap *bitmap, size_t index, uint64_t first, uint64_t last,
                       struct vdisk_error *err)
{
    struct bitmap_page *page = bitmap_page_at(bitmap, index);
    if (page == PAGE_FULL)
        return 0;
    bool is_whole = first == 0 && last + 1 == bitmap_page_bits(bitmap, index);
    if (!page && is_whole &&
        atomic_compare_exchange_strong_explicit(&bitmap->pages[index], &page, PAGE_FULL,
                                                memory_order_acq_rel, memory_order_acquire))
        return 0; /* B3 */
    if (page == PAGE_FULL)
        return 0;
    page = vd_bitmap_real_page(bitmap, index, err);
    if (!page)
        return -ENOMEM;
    for (unsigned word = (unsigned)(first / WORD_BITS); word <= last / WORD_BITS; word++) {
        uint64_t mask = mask_in_word(word, first, last);
        if ((atomic_load_explicit(&page->words[word], memory_order_relaxed) & mask) != mask)
            atomic_fetch_or_explicit(&page->words[word], mask, memory_order_relaxed);
    }
    return 0;
}

int vd_bitmap_set_bits(struct vd_bitmap *bitmap, uint64_t first, uint64_t count,
                       struct vdisk_error *err)
{
    assert(first + count <= bitmap->bits); /* B2 */
    int ret = 0;
    while (count && ret == 0) {
        uint64_t in_page = first % PAGE_BITS;
        uint64_t here = vd_min(count, PAGE_BITS - in_page);
        ret = set_in_page(bitmap, (size_t)(first / PAGE_BITS), in_page, in_page + here - 1, err);
        first += here;
        count -= here;
    }
    return ret;
}

/* A run of bits. */
struct run {
    uint64_t first;
    uint64_t count;
};

/* B1: the granules that @disk touches. */
static struct run run_of(const struct vd_bitmap *bitmap, struct vd_range disk)
{
    assert(vd_range_is_within(disk, bitmap->disk_bytes));
    struct run run = {.first = disk.offset >> bitmap->granularity_bits};
    if (disk.length)
        run.count = ((vd_range_end(disk) - 1) >> bitmap->granularity_bits) - run.first + 1;
    return run;
}

int vd_bitmap_set(struct vd_bitmap *bitmap, struct vd_range disk, struct vdisk_error *err)
{
    struct run run = run_of(bitmap, disk);
    return vd_bitmap_set_bits(bitmap, run.first, run.count, err);
}

bool vd_bitmap_has(const struct vd_bitmap *bitmap, struct vd_range disk)
{
    struct run run = run_of(bitmap, disk);
    while (run.count) {
        size_t index = (size_t)(run.first / PAGE_BITS);
        uint64_t first = run.first % PAGE_BITS;
        unsigned word = (unsigned)(first / WORD_BITS);
        struct bitmap_page *page = bitmap_page_at(bitmap, index);
        if (!page)
            return false;
        uint64_t here = vd_min(run.count, page == PAGE_FULL ? PAGE_BITS - first
                                                            : WORD_BITS - first % WORD_BITS);
        uint64_t mask = mask_in_word(word, first, first + here - 1);
        if (page != PAGE_FULL &&
            (atomic_load_explicit(&page->words[word], memory_order_relaxed) & mask) != mask)
            return false;
        run.first += here;
        run.count -= here;
    }
    return true;
}

static int clear_in_page(struct vd_bitmap *bitmap, size_t index, uint64_t first, uint64_t last,
                         struct vdisk_error *err)
{
    if (!bitmap_page_at(bitmap, index))
        return 0;
    if (first == 0 && last + 1 == bitmap_page_bits(bitmap, index)) {
        vd_bitmap_drop_page(bitmap, index, NULL);
        return 0;
    }
    struct bitmap_page *page = vd_bitmap_real_page(bitmap, index, err);
    if (!page)
        return -ENOMEM;
    for (unsigned word = (unsigned)(first / WORD_BITS); word <= last / WORD_BITS; word++)
        atomic_fetch_and_explicit(&page->words[word], ~mask_in_word(word, first, last),
                                  memory_order_relaxed);
    return 0;
}

int vd_bitmap_clear(struct vd_bitmap *bitmap, struct vd_range disk, struct vdisk_error *err)
{
    assert(vd_range_is_within(disk, bitmap->disk_bytes));
    uint64_t end = vd_range_end(disk);
    uint64_t first = vd_div_up(disk.offset, UINT64_C(1) << bitmap->granularity_bits);
    /* B1; the last granule may be cut short by the end of the disk. */
    uint64_t behind = end == bitmap->disk_bytes ? bitmap->bits : end >> bitmap->granularity_bits;
    int ret = 0;
    while (first < behind && ret == 0) {
        uint64_t in_page = first % PAGE_BITS;
        uint64_t here = vd_min(behind - first, PAGE_BITS - in_page);
        ret = clear_in_page(bitmap, (size_t)(first / PAGE_BITS), in_page, in_page + here - 1, err);
        first += here;
    }
    return ret;
}

void vd_bitmap_clear_all(struct vd_bitmap *bitmap)
{
    for (size_t i = 0; i < bitmap->page_entries; i++)
        vd_bitmap_drop_page(bitmap, i, NULL);
}

void vd_bitmap_set_all(struct vd_bitmap *bitmap)
{
    for (size_t i = 0; i < bitmap->page_entries; i++)
        vd_bitmap_drop_page(bitmap, i, PAGE_FULL);
}

/* The first bit of [@first, @behind) that is set, or clear; @behind if there is none. */
static uint64_t find_bit(const struct vd_bitmap *bitmap, uint64_t first, uint64_t behind,
                         bool is_set)
{
    const struct bitmap_page *uniform = is_set ? NULL : PAGE_FULL;
    while (first < behind) {
        size_t index = (size_t)(first / PAGE_BITS);
        if (bitmap_page_at(bitmap, index) == uniform) {
            first = ((uint64_t)index + 1) * PAGE_BITS;
            continue;
        }
        unsigned word = (unsigned)(first % PAGE_BITS / WORD_BITS);
        uint64_t bits = bitmap_word_of(bitmap, index, word);
        bits = (is_set ? bits : ~bits) & (UINT64_MAX << first % WORD_BITS);
        if (bits)
            return vd_min(behind, first / WORD_BITS * WORD_BITS + (unsigned)__builtin_ctzll(bits));
        first = (first / WORD_BITS + 1) * WORD_BITS;
    }
    return behind;
}

struct vd_range vd_bitmap_next(const struct vd_bitmap *bitmap, struct vd_range disk, bool is_dirty)
{
    struct run run = run_of(bitmap, disk);
    uint64_t behind = run.first + run.count;
    uint64_t first = find_bit(bitmap, run.first, behind, is_dirty);
    if (first == behind)
        return vd_range(vd_range_end(disk), 0);
    uint64_t end = find_bit(bitmap, first, behind, !is_dirty);
    uint64_t start = vd_max(disk.offset, first << bitmap->granularity_bits);
    return vd_range(start, vd_min(vd_range_end(disk), end << bitmap->granularity_bits) - start);
}

uint64_t vd_bitmap_dirty_bytes(const struct vd_bitmap *bitmap)
{
    uint64_t count = 0;
    for (size_t i = 0; i < bitmap->page_entries; i++) {
        struct bitmap_page *page = bitmap_page_at(bitmap, i);
        if (page == PAGE_FULL)
            count += bitmap_page_bits(bitmap, i);
        for (unsigned word = 0; page_is_real(page) && word < PAGE_WORDS; word++)
            count += (unsigned)__builtin_popcountll(
                atomic_load_explicit(&page->words[word], memory_order_relaxed));
    }
    uint64_t bytes = count << bitmap->granularity_bits;
    uint64_t last = bitmap->disk_bytes & ((UINT64_C(1) << bitmap->granularity_bits) - 1);
    if (last && vd_bitmap_has(bitmap, vd_range(bitmap->disk_bytes - 1, 1)))
        bytes -= (UINT64_C(1) << bitmap->granularity_bits) - last;
    return bytes;
}

static int merge_page(struct vd_bitmap *to, const struct vd_bitmap *from, size_t index,
                      struct vdisk_error *err)
{
    struct bitmap_page *page = bitmap_page_at(from, index);
    if (!page || bitmap_page_at(to, index) == PAGE_FULL)
        return 0;
    if (page == PAGE_FULL) {
        vd_bitmap_drop_page(to, index, PAGE_FULL);
        return 0;
    }
    struct bitmap_page *target = vd_bitmap_real_page(to, index, err);
    if (!target)
        return -ENOMEM;
    for (unsigned word = 0; word < PAGE_WORDS; word++)
        atomic_fetch_or_explicit(&target->words[word],
                                 atomic_load_explicit(&page->words[word], memory_order_relaxed),
                                 memory_order_relaxed);
    return 0;
}

int vd_bitmap_merge(struct vd_bitmap *to, const struct vd_bitmap *from, struct vdisk_error *err)
{
    assert(to->disk_bytes == from->disk_bytes);
    int ret = 0;
    if (to->granularity_bits == from->granularity_bits) {
        for (size_t i = 0; i < to->page_entries && ret == 0; i++)
            ret = merge_page(to, from, i, err);
        return ret;
    }
    struct vd_range rest = vd_range(0, to->disk_bytes);
    while (rest.length && ret == 0) {
        struct vd_range dirty = vd_bitmap_next(from, rest, true);
        ret = vd_bitmap_set(to, dirty, err);
        uint64_t done = vd_range_end(dirty);
        rest = vd_range(done, to->disk_bytes - done);
    }
    return ret;
}

/* Clears the bits of the last page that are behind the end. */
static void cut_last_page(struct vd_bitmap *bitmap)
{
    if (bitmap->page_entries == 0)
        return;
    size_t last = bitmap->page_entries - 1;
    struct bitmap_page *page = bitmap_page_at(bitmap, last);
    uint64_t bits = bitmap_page_bits(bitmap, last);
    for (unsigned word = 0; page_is_real(page) && word < PAGE_WORDS; word++)
        atomic_fetch_and_explicit(&page->words[word], bitmap_valid_word(bits, word),
                                  memory_order_relaxed);
}

int vd_bitmap_resize(struct vd_bitmap *bitmap, uint64_t disk_bytes, struct vdisk_error *err)
{
    uint64_t bits;
    int ret = count_bits(disk_bytes, bitmap->granularity_bits, &bits, err);
    if (ret < 0)
        return ret;
    size_t entries = (size_t)vd_div_up(bits, PAGE_BITS);
    size_t old_entries = bitmap->page_entries;
    /* A full last page that gets more bits is not full any more. */
    if (bits > bitmap->bits && bitmap->bits % PAGE_BITS &&
        bitmap_page_at(bitmap, old_entries - 1) == PAGE_FULL &&
        !vd_bitmap_real_page(bitmap, old_entries - 1, err))
        return -ENOMEM;
    bitmap_slot *pages = take_slots(bitmap->budget, entries, err);
    if (!pages)
        return -ENOMEM;

    for (size_t i = entries; i < old_entries; i++)
        vd_bitmap_drop_page(bitmap, i, NULL);
    for (size_t i = 0; i < entries && i < old_entries; i++)
        atomic_store_explicit(&pages[i], bitmap_page_at(bitmap, i), memory_order_relaxed);
    vd_bitmap_budget_give(bitmap->budget, old_entries * sizeof(bitmap_slot));
    free(bitmap->pages);
    bitmap->pages = pages;
    bitmap->page_entries = entries;
    bitmap->bits = bits;
    bitmap->disk_bytes = disk_bytes;
    cut_last_page(bitmap); /* B2 */
    return 0;
}
