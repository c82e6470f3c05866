/* SPDX-License-Identifier: MIT */
/* How much memory the table caches of several images may use together, in pages. */
#ifndef VD_FORMAT_TABLE_BUDGET_H
#define VD_FORMAT_TABLE_BUDGET_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Used from any thread. */
struct vd_table_budget {
    atomic_size_t pages; /* in use */
    size_t pages_max;
};

/* @cache_bytes: in all; 0: the default of 64 MiB.  It outlives the caches that share it. */
void vd_table_budget_init(struct vd_table_budget *budget, uint64_t cache_bytes);

#endif
