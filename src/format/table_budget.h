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
    atomic_uint users; /* of one that vd_table_budget_new() made */
};

/* @cache_bytes: in all; 0: the default of 64 MiB. */
void vd_table_budget_init(struct vd_table_budget *budget, uint64_t cache_bytes);

/* One in memory of its own, with one user: the caller.  NULL: no memory. */
struct vd_table_budget *vd_table_budget_new(uint64_t cache_bytes);

/* One user more, or less; freed with the last one.  NULL is accepted. */
void vd_table_budget_hold(struct vd_table_budget *budget);
void vd_table_budget_release(struct vd_table_budget *budget);

#endif
