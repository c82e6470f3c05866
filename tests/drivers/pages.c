/* SPDX-License-Identifier: MIT */
/*
 * P1  A node or a page with more than one reference is never changed: it is copied first.
 * P2  Bytes at and past the size are zero, so that growing needs no work.
 */
#include "drivers/pages.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "drivers/alloc.h"

#define PAGE_BYTES   4096u
#define NODE_ENTRIES 256u
#define NODE_BYTES   (PAGE_BYTES * NODE_ENTRIES)

struct page {
    atomic_uint refs;
    uint8_t bytes[PAGE_BYTES];
};

struct node {
    atomic_uint refs;
    struct page *pages[NODE_ENTRIES]; /* NULL: zeros */
};

struct vt_pages {
    uint64_t size;
    size_t node_entries;
    struct node **nodes; /* NULL: zeros */
};

static void page_drop(struct page *page)
{
    if (page && atomic_fetch_sub(&page->refs, 1) == 1)
        free(page);
}

static void node_drop(struct node *node)
{
    if (!node || atomic_fetch_sub(&node->refs, 1) != 1)
        return;
    for (size_t i = 0; i < NODE_ENTRIES; i++)
        page_drop(node->pages[i]);
    free(node);
}

struct vt_pages *vt_pages_new(uint64_t size)
{
    struct vt_pages *pages = vt_calloc(1, sizeof(*pages));
    vt_pages_resize(pages, size);
    return pages;
}

struct vt_pages *vt_pages_clone(const struct vt_pages *pages)
{
    struct vt_pages *clone = vt_calloc(1, sizeof(*clone));
    *clone = *pages;
    clone->nodes = vt_calloc(pages->node_entries, sizeof(*clone->nodes));
    for (size_t i = 0; i < pages->node_entries; i++) {
        clone->nodes[i] = pages->nodes[i];
        if (clone->nodes[i])
            atomic_fetch_add(&clone->nodes[i]->refs, 1);
    }
    return clone;
}

void vt_pages_free(struct vt_pages *pages)
{
    if (!pages)
        return;
    for (size_t i = 0; i < pages->node_entries; i++)
        node_drop(pages->nodes[i]);
    free(pages->nodes);
    free(pages);
}

uint64_t vt_pages_size(const struct vt_pages *pages)
{
    return pages->size;
}

void vt_pages_resize(struct vt_pages *pages, uint64_t size)
{
    if (size < pages->size)
        vt_pages_zero(pages, vd_range(size, pages->size - size)); /* P2 */
    size_t entries = (size_t)vd_div_up(size, NODE_BYTES);
    if (entries > pages->node_entries) {
        size_t before = pages->node_entries;
        pages->nodes = vt_reserve(pages->nodes, &pages->node_entries, entries, sizeof(void *));
        memset(pages->nodes + before, 0, (pages->node_entries - before) * sizeof(void *));
    }
    pages->size = size;
}

/* The part of @range that lies in one unit of @unit bytes. */
static struct vd_range first_part(struct vd_range range, uint32_t unit)
{
    return vd_range(range.offset, vd_min(range.length, unit - range.offset % unit));
}

static struct vd_range without(struct vd_range range, struct vd_range part)
{
    return vd_range(vd_range_end(part), range.length - part.length);
}

static struct page *page_at(const struct vt_pages *pages, uint64_t offset)
{
    const struct node *node = pages->nodes[offset / NODE_BYTES];
    return node ? node->pages[offset % NODE_BYTES / PAGE_BYTES] : NULL;
}

void vt_pages_read(const struct vt_pages *pages, void *buf, struct vd_range range)
{
    assert(vd_range_is_within(range, pages->size));
    for (uint8_t *to = buf; range.length;) {
        struct vd_range part = first_part(range, PAGE_BYTES);
        const struct page *page = page_at(pages, part.offset);
        if (page)
            memcpy(to, page->bytes + part.offset % PAGE_BYTES, part.length);
        else
            memset(to, 0, part.length);
        to += part.length;
        range = without(range, part);
    }
}

/* P1 */
static struct node *own_node(struct vt_pages *pages, uint64_t offset)
{
    struct node **slot = &pages->nodes[offset / NODE_BYTES];
    if (*slot && atomic_load(&(*slot)->refs) == 1)
        return *slot;
    struct node *node = vt_calloc(1, sizeof(*node));
    atomic_init(&node->refs, 1);
    for (size_t i = 0; *slot && i < NODE_ENTRIES; i++) {
        node->pages[i] = (*slot)->pages[i];
        if (node->pages[i])
            atomic_fetch_add(&node->pages[i]->refs, 1);
    }
    node_drop(*slot);
    *slot = node;
    return node;
}

/* P1 */
static struct page *own_page(struct node *node, uint64_t offset)
{
    struct page **slot = &node->pages[offset % NODE_BYTES / PAGE_BYTES];
    if (*slot && atomic_load(&(*slot)->refs) == 1)
        return *slot;
    struct page *page = vt_calloc(1, sizeof(*page));
    atomic_init(&page->refs, 1);
    if (*slot)
        memcpy(page->bytes, (*slot)->bytes, PAGE_BYTES);
    page_drop(*slot);
    *slot = page;
    return page;
}

void vt_pages_write(struct vt_pages *pages, const void *buf, struct vd_range range)
{
    assert(vd_range_is_within(range, pages->size));
    for (const uint8_t *from = buf; range.length;) {
        struct vd_range part = first_part(range, PAGE_BYTES);
        struct page *page = own_page(own_node(pages, part.offset), part.offset);
        memcpy(page->bytes + part.offset % PAGE_BYTES, from, part.length);
        from += part.length;
        range = without(range, part);
    }
}

static void zero_in_page(struct vt_pages *pages, struct vd_range part)
{
    if (!page_at(pages, part.offset))
        return;
    struct node *node = own_node(pages, part.offset);
    if (part.length == PAGE_BYTES) {
        struct page **slot = &node->pages[part.offset % NODE_BYTES / PAGE_BYTES];
        page_drop(*slot);
        *slot = NULL;
    } else {
        memset(own_page(node, part.offset)->bytes + part.offset % PAGE_BYTES, 0, part.length);
    }
}

void vt_pages_zero(struct vt_pages *pages, struct vd_range range)
{
    assert(vd_range_is_within(range, pages->size));
    while (range.length) {
        struct vd_range part = first_part(range, NODE_BYTES);
        struct node **slot = &pages->nodes[part.offset / NODE_BYTES];
        if (part.length == NODE_BYTES) {
            node_drop(*slot);
            *slot = NULL;
        } else if (*slot) {
            part = first_part(range, PAGE_BYTES);
            zero_in_page(pages, part);
        }
        range = without(range, part);
    }
}

bool vt_pages_extent(const struct vt_pages *pages, struct vd_range range, uint64_t *length)
{
    assert(range.length && vd_range_is_within(range, pages->size));
    bool data = page_at(pages, range.offset) != NULL;
    struct vd_range rest = range;
    while (rest.length && (page_at(pages, rest.offset) != NULL) == data)
        rest = without(rest, first_part(rest, PAGE_BYTES));
    *length = range.length - rest.length;
    return data;
}

void vt_pages_merge(struct vt_pages *pages)
{
    struct page *before = NULL;
    for (size_t i = 0; i < pages->node_entries * NODE_ENTRIES; i++) {
        uint64_t offset = i * (uint64_t)PAGE_BYTES;
        struct page *page = page_at(pages, offset);
        if (page && before && page != before &&
            memcmp(page->bytes, before->bytes, PAGE_BYTES) == 0) {
            struct node *node = own_node(pages, offset);
            page_drop(node->pages[i % NODE_ENTRIES]);
            node->pages[i % NODE_ENTRIES] = before;
            atomic_fetch_add(&before->refs, 1);
        } else if (page) {
            before = page;
        }
    }
}

uint64_t vt_pages_allocated(const struct vt_pages *pages)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < pages->node_entries; i++)
        for (size_t j = 0; pages->nodes[i] && j < NODE_ENTRIES; j++)
            bytes += pages->nodes[i]->pages[j] ? PAGE_BYTES : 0;
    return bytes;
}
