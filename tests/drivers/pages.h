/* SPDX-License-Identifier: MIT */
/*
 * Sparse bytes that can be cloned in next to no time: a tree of reference-counted pages, copied
 * when one of several owners writes.  A crash test makes tens of thousands of images out of one.
 * Clones may be used by different threads; one object by one thread at a time.
 */
#ifndef VT_PAGES_H
#define VT_PAGES_H

#include <stdbool.h>

#include "util/range.h"

struct vt_pages;

struct vt_pages *vt_pages_new(uint64_t size);
struct vt_pages *vt_pages_clone(const struct vt_pages *pages);
void vt_pages_free(struct vt_pages *pages); /* NULL is accepted */

uint64_t vt_pages_size(const struct vt_pages *pages);

/* What is cut off is gone; what is added is zero. */
void vt_pages_resize(struct vt_pages *pages, uint64_t size);

/* @range lies within the size for all three. */
void vt_pages_read(const struct vt_pages *pages, void *buf, struct vd_range range);
void vt_pages_write(struct vt_pages *pages, const void *buf, struct vd_range range);
void vt_pages_zero(struct vt_pages *pages, struct vd_range range);

/* Is there memory behind @offset, and how far does the same hold, at most @length bytes? */
bool vt_pages_extent(const struct vt_pages *pages, struct vd_range range, uint64_t *length);

/* Makes neighbours with the same content one page: less memory, and in the processor's cache. */
void vt_pages_merge(struct vt_pages *pages);

/* Bytes of memory behind it, shared or not. */
uint64_t vt_pages_allocated(const struct vt_pages *pages);

#endif
