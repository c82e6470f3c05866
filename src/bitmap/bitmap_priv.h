/* SPDX-License-Identifier: MIT */
/* The bitmap's inside: pages of words of bits. */
#ifndef VD_BITMAP_BITMAP_PRIV_H
#define VD_BITMAP_BITMAP_PRIV_H

#include "bitmap/bitmap.h"

#define WORD_BITS  64u
#define PAGE_WORDS 512u
#define PAGE_BITS  (PAGE_WORDS * WORD_BITS)

struct bitmap_page {
    _Atomic uint64_t words[PAGE_WORDS];
};

typedef struct bitmap_page *_Atomic bitmap_slot;

struct vd_bitmap {
    uint64_t disk_bytes;
    uint64_t bits;
    size_t page_entries;
    uint32_t granularity_bits;
    struct vd_bitmap_budget *budget;
    /* NULL: all clear; PAGE_FULL: all set, but for bits behind the last; else what it holds. */
    bitmap_slot *pages;
};

/* No page, but the mark of one: never looked into. */
#define PAGE_FULL ((struct bitmap_page *)(uintptr_t)1)

static inline bool page_is_real(const struct bitmap_page *page)
{
    return page && page != PAGE_FULL;
}

static inline struct bitmap_page *bitmap_page_at(const struct vd_bitmap *bitmap, size_t index)
{
    return atomic_load_explicit(&bitmap->pages[index], memory_order_acquire);
}

/* How many bits of page @index there are. */
static inline uint64_t bitmap_page_bits(const struct vd_bitmap *bitmap, size_t index)
{
    return vd_min(PAGE_BITS, bitmap->bits - (uint64_t)index * PAGE_BITS);
}

/* The bits of word @word of a page of @page_bits bits that there are. */
static inline uint64_t bitmap_valid_word(uint64_t page_bits, unsigned word)
{
    uint64_t first = (uint64_t)word * WORD_BITS;
    if (first >= page_bits)
        return 0;
    return page_bits - first >= WORD_BITS ? UINT64_MAX : (UINT64_C(1) << (page_bits - first)) - 1;
}

/* The bits of word @word, whatever kind of page it is in. */
static inline uint64_t bitmap_word_of(const struct vd_bitmap *bitmap, size_t index, unsigned word)
{
    struct bitmap_page *page = bitmap_page_at(bitmap, index);
    if (!page)
        return 0;
    if (page == PAGE_FULL)
        return bitmap_valid_word(bitmap_page_bits(bitmap, index), word);
    return atomic_load_explicit(&page->words[word], memory_order_relaxed);
}

/* Page @index as one that can be written into; NULL with @err set: no memory. */
struct bitmap_page *vd_bitmap_real_page(struct vd_bitmap *bitmap, size_t index,
                                        struct vdisk_error *err);

/* Sets [@first, @first + @count) of the bits, all of them there. */
int vd_bitmap_set_bits(struct vd_bitmap *bitmap, uint64_t first, uint64_t count,
                       struct vdisk_error *err);

/* Frees page @index, which becomes @instead (NULL or PAGE_FULL); nobody else looks at it. */
void vd_bitmap_drop_page(struct vd_bitmap *bitmap, size_t index, struct bitmap_page *instead);

#endif
