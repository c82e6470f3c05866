/* SPDX-License-Identifier: MIT */
/*
 * What a check knows of each cluster of a file: how many references there are to it, and two bits.
 * One byte a cluster, in pages that are there for the parts of the file that something leads to;
 * counts that a byte can not hold are in a table of their own.  All memory is limited.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_COUNTS_H
#define VD_FORMAT_QCOW2_QCOW2_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/err.h"

#define VD_QCOW2_COUNTS_PAGE      4096u                  /* clusters */
#define VD_QCOW2_COUNTS_MAX       (UINT64_C(1) << 36)    /* clusters */
#define VD_QCOW2_COUNTS_BYTES_MAX (UINT64_C(1024) << 20) /* the default budget */

struct vd_qcow2_counts_page {
    uint8_t counts[VD_QCOW2_COUNTS_PAGE]; /* UINT8_MAX: see large */
    uint64_t ones[VD_QCOW2_COUNTS_PAGE / 64];
    uint64_t meta[VD_QCOW2_COUNTS_PAGE / 64];
};

struct vd_qcow2_large {
    uint64_t cluster; /* + 1; 0: free */
    uint64_t count;
};

struct vd_qcow2_counts {
    struct vd_qcow2_counts_page **pages;
    uint64_t page_entries;
    uint64_t clusters; /* numbers are less than that */
    uint64_t bytes;    /* memory taken */
    uint64_t bytes_max;
    struct vd_qcow2_large *large; /* open addressing */
    size_t large_entries;         /* a power of two, or 0 */
    size_t large_used;
};

/* @clusters: at most VD_QCOW2_COUNTS_MAX.  Goes to vd_qcow2_counts_free(), after a failure too. */
int vd_qcow2_counts_init(struct vd_qcow2_counts *counts, uint64_t clusters, uint64_t bytes_max,
                         struct vdisk_error *err);

/* A zeroed one is accepted. */
void vd_qcow2_counts_free(struct vd_qcow2_counts *counts);

/* The page of @cluster, made if there is none.  NULL: -ENOMEM, with @err set. */
struct vd_qcow2_counts_page *vd_qcow2_counts_page(struct vd_qcow2_counts *counts, uint64_t cluster,
                                                  struct vdisk_error *err);

/* @references more.  Sums stop at UINT64_MAX. */
int vd_qcow2_counts_add(struct vd_qcow2_counts *counts, uint64_t cluster, uint64_t references,
                        struct vdisk_error *err);

uint64_t vd_qcow2_counts_get(const struct vd_qcow2_counts *counts, uint64_t cluster);

static inline const struct vd_qcow2_counts_page *vd_qcow2_counts_look(
    const struct vd_qcow2_counts *counts, uint64_t cluster)
{
    uint64_t index = cluster / VD_QCOW2_COUNTS_PAGE;
    return index < counts->page_entries ? counts->pages[index] : NULL;
}

/* Its stored refcount is exactly 1. */
static inline bool vd_qcow2_counts_is_one(const struct vd_qcow2_counts *counts, uint64_t cluster)
{
    const struct vd_qcow2_counts_page *page = vd_qcow2_counts_look(counts, cluster);
    uint32_t i = (uint32_t)(cluster % VD_QCOW2_COUNTS_PAGE);
    return page && (page->ones[i / 64] >> (i % 64)) & 1;
}

int vd_qcow2_counts_set_one(struct vd_qcow2_counts *counts, uint64_t cluster,
                            struct vdisk_error *err);

/* Metadata other than L2 tables has it. */
static inline bool vd_qcow2_counts_is_meta(const struct vd_qcow2_counts *counts, uint64_t cluster)
{
    const struct vd_qcow2_counts_page *page = vd_qcow2_counts_look(counts, cluster);
    uint32_t i = (uint32_t)(cluster % VD_QCOW2_COUNTS_PAGE);
    return page && (page->meta[i / 64] >> (i % 64)) & 1;
}

int vd_qcow2_counts_set_meta(struct vd_qcow2_counts *counts, uint64_t cluster,
                             struct vdisk_error *err);

#endif
