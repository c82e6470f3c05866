/* SPDX-License-Identifier: MIT */
/* What the files of the storage contract share. */
#ifndef VT_STORAGE_SUITE_H
#define VT_STORAGE_SUITE_H

#include "drivers/check.h"
#include "storage.h"

/* Opens, and at the end closes and removes, an object of the factory. */
struct vd_storage *vt_storage_make(struct vt_storage_factory *factory, const uint8_t *content,
                                   size_t bytes);
void vt_storage_destroy(struct vt_storage_factory *factory, struct vd_storage *storage);

/* The storage holds exactly the @bytes of @content, by size, by reads of many sizes, by extents. */
void vt_storage_verify(struct vd_storage *storage, const uint8_t *content, size_t bytes);

uint64_t vt_storage_seed(void);
uint64_t vt_storage_ops(void);

/* Tests: *state is the factory. */
void vt_storage_random(void **state);  /* storage-random.c */
void vt_storage_threads(void **state); /* storage-threads.c */

#endif
