/* SPDX-License-Identifier: MIT */
/*
 * Refcounts of all widths, in the cache of the refcount table and its blocks.  Clusters are called
 * by their numbers; ranges are of clusters.
 */
#ifndef VD_FORMAT_QCOW2_QCOW2_REFS_H
#define VD_FORMAT_QCOW2_QCOW2_REFS_H

#include "format/qcow2/qcow2_write.h"

static inline uint64_t vd_qcow2_refcount_table_entries(const struct vd_qcow2 *qcow2)
{
    return ((uint64_t)qcow2->header.fields.refcount_table_clusters
            << qcow2->geometry.cluster_bits) /
           8;
}

/* One refcount of 1 << @order bits: @bit of it is counted from @bytes. */
uint64_t vd_qcow2_refcount_get(const uint8_t *bytes, uint64_t bit, unsigned order);
void vd_qcow2_refcount_set(uint8_t *bytes, uint64_t bit, unsigned order, uint64_t value);

/* 0 where there is no block. */
int vd_qcow2_refs_get(struct vd_qcow2 *qcow2, uint64_t cluster, uint64_t *count,
                      struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock);

/* One more to each; there are blocks for them.  -E2BIG: one is as large as it can be. */
int vd_qcow2_refs_up(struct vd_qcow2 *qcow2, struct vd_range clusters, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock);

/* Runs of clusters. */
struct vd_qcow2_runs {
    struct vd_range *runs;
    size_t entries;
    size_t room;
};

/* Behind the others, or as a part of the last one if it goes on there. */
int vd_qcow2_runs_add(struct vd_qcow2_runs *runs, struct vd_range run, struct vdisk_error *err);

/*
 * One less to each.  @last: those that are 1 stay so, and are added to it; NULL: they become 0.
 * -EBADMSG: one is 0 already.
 */
int vd_qcow2_refs_down(struct vd_qcow2 *qcow2, struct vd_range clusters, struct vd_qcow2_runs *last,
                       struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock);

/*
 * The first free ones of @within, up to @wanted, or @wanted at least (@is_whole).  Looks at no more
 * than some thousand pages: *looked is the cluster where it stopped.  run->length 0: none.
 */
struct vd_qcow2_search {
    struct vd_range within;
    uint64_t wanted;
    bool is_whole;
};
int vd_qcow2_refs_find(struct vd_qcow2 *qcow2, const struct vd_qcow2_search *search,
                       struct vd_range *run, uint64_t *looked, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock);

/*
 * *index: of the first refcount block that is missing for @clusters; UINT64_MAX: none is.
 * VD_QCOW2_NEEDS_TABLE: the table has no entry for it.
 */
int vd_qcow2_refs_missing(struct vd_qcow2 *qcow2, struct vd_range clusters, uint64_t *index,
                          struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock);

/* Makes it, in the free @cluster, whose refcount it has, or another block. */
int vd_qcow2_refs_make_block(struct vd_qcow2 *qcow2, uint64_t index, uint64_t cluster,
                             struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock);

#endif
