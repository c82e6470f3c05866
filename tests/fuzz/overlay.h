/* SPDX-License-Identifier: MIT */
/*
 * A storage whose bytes survive its closing: pages of an object that the test owns, over a constant
 * base that many share.  So an image can be opened again and again, and an input costs only the
 * pages it touches.
 */
#ifndef TESTS_FUZZ_OVERLAY_H
#define TESTS_FUZZ_OVERLAY_H

#include "storage/storage.h"

#define OVERLAY_PAGE_BYTES 4096u
#define OVERLAY_BYTES_MAX  (UINT64_C(64) << 20) /* writing past it is ENOSPC */

struct overlay {
    const uint8_t *base; /* the first base_bytes; zeros behind */
    uint64_t base_bytes;
    uint64_t size;
    uint8_t *pages[OVERLAY_BYTES_MAX / OVERLAY_PAGE_BYTES]; /* NULL: as in the base */
};

/* Begins as the base, which stays the caller's. */
struct overlay *overlay_new(const uint8_t *base, uint64_t base_bytes);
void overlay_free(struct overlay *overlay);

/* Any size, more than can be written too. */
void overlay_resize(struct overlay *overlay, uint64_t size);

/* Bytes within OVERLAY_BYTES_MAX; makes it longer if need be. */
void overlay_write(struct overlay *overlay, const void *buf, size_t length, uint64_t offset);

/* A storage on these bytes, for one thread; closing it leaves the overlay as it is then. */
struct vd_storage *overlay_open(struct overlay *overlay);

/* What is there; zeros where that is not all within its size. */
void overlay_get(const struct overlay *overlay, void *buf, size_t length, uint64_t offset);

#endif
