/* SPDX-License-Identifier: MIT */
/*
 * A larger refcount table: the new one and all that it needs is put behind the end of the file, and
 * becomes durable; then the header switches.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_refs.h"
#include "util/mem.h"

struct plan {
    uint64_t first; /* number of the cluster where the new table begins */
    uint64_t table_clusters;
    uint64_t blocks; /* new ones, behind it */
};

/* Is there a block for @cluster, or is it beyond the old table? */
static int has_block(struct vd_qcow2 *qcow2, uint64_t cluster, bool *answer,
                     struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    uint64_t index;
    int ret = vd_qcow2_refs_missing(qcow2, vd_range(cluster, 1), &index, err);
    *answer = ret == 0 && index == UINT64_MAX;
    return ret == VD_QCOW2_NEEDS_TABLE ? 0 : ret;
}

/* How many blocks that are not there yet do @clusters need? */
static int count_missing(struct vd_qcow2 *qcow2, struct vd_range clusters, uint64_t *count,
                         struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    uint64_t entries = qcow2->geometry.block_entries;
    uint64_t last = (vd_range_end(clusters) - 1) / entries;
    int ret = 0;
    *count = 0;
    for (uint64_t i = clusters.offset / entries; ret == 0 && i <= last; i++) {
        bool is_there;
        ret = has_block(qcow2, i * entries, &is_there, err);
        *count += !is_there;
    }
    return ret;
}

/* A stretch of @wanted free clusters, whether or not the table leads to their refcounts. */
static int find_area(struct vd_qcow2 *qcow2, uint64_t wanted, uint64_t *first,
                     struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    const struct vd_qcow2_writer *writer = qcow2->writer;
    uint64_t limit = (UINT64_C(1) << VD_QCOW2_OFFSET_BITS) >> qcow2->geometry.cluster_bits;
    uint64_t start = writer->end;
    struct vd_range run = {0, 0};
    int ret = 0;
    if (!writer->can_resize) {
        limit = writer->end;
        start = writer->hint;
    }
    while (ret == 0 && run.length == 0 && start < limit) {
        struct vd_qcow2_search search = {
            .within = vd_range(start, limit - start), .wanted = wanted, .is_whole = true};
        ret = vd_qcow2_refs_find(qcow2, &search, &run, &start, err);
    }
    if (ret == 0 && run.length == 0)
        ret = vd_err_set(err, ENOSPC, "%s: has no room for a larger refcount table",
                         vd_storage_name(qcow2->file));
    *first = run.offset;
    return ret;
}

static int too_large(const struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    return vd_err_set(err, EFBIG,
                      "%s: refcount table: would be larger than %" PRIu64
                      " bytes: an image as large as this needs larger clusters",
                      vd_storage_name(qcow2->file), (uint64_t)VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX);
}

/* Half as much again as the file has, and what is asked for. */
static int make_plan(struct vd_qcow2 *qcow2, uint64_t clusters, struct plan *plan,
                     struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t max = VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX >> geometry->cluster_bits;
    uint64_t end = qcow2->writer->end + clusters;
    uint64_t entries = (end + end / 2) / geometry->block_entries + 8;
    uint64_t old = qcow2->header.fields.refcount_table_clusters;
    *plan =
        (struct plan){.table_clusters = vd_max(vd_qcow2_clusters(geometry, entries * 8), old + 1)};
    if (old >= max)
        return too_large(qcow2, err);
    plan->table_clusters = vd_min(plan->table_clusters, max);
    for (;;) {
        uint64_t needed;
        uint64_t wanted = plan->table_clusters + plan->blocks;
        int ret = find_area(qcow2, wanted, &plan->first, err);
        if (ret == 0)
            ret = count_missing(qcow2, vd_range(plan->first, wanted), &needed, err);
        if (ret < 0)
            return ret;
        uint64_t reached = (plan->first + wanted) / geometry->block_entries + 1;
        uint64_t table = vd_qcow2_clusters(geometry, reached * 8);
        if (needed <= plan->blocks && table <= plan->table_clusters)
            return 0;
        if (table > max)
            return too_large(qcow2, err);
        plan->blocks = vd_max(plan->blocks, needed);
        plan->table_clusters = vd_max(plan->table_clusters, table);
    }
}

/* The old table as the cache has it, in the room for the new one. */
static int copy_table(struct vd_qcow2 *qcow2, uint8_t *bytes, struct vdisk_error *err)
{
    struct vd_table_cache *refs = &qcow2->writer->refs;
    uint64_t table = qcow2->header.fields.refcount_table_offset;
    uint64_t end = table + vd_qcow2_refcount_table_entries(qcow2) * 8;
    int ret = 0;
    vd_mutex_lock(&refs->lock);
    for (uint64_t at = table; ret == 0 && at < end;) {
        struct vd_table_page *page;
        bool waited = false;
        ret = vd_table_cache_get_locked(refs, at, &page, &waited, err);
        if (ret < 0)
            break;
        uint64_t step = vd_min(vd_table_page_end(refs, page), end) - at;
        memcpy(bytes + (at - table), vd_table_page_at(page, at), (size_t)step);
        at += step;
    }
    vd_mutex_unlock(&refs->lock);
    return ret;
}

/* Enters the new blocks, which follow the new table, into @table; all that is new is counted in
 * @blocks, their content. */
static void fill_blocks(struct vd_qcow2 *qcow2, const struct plan *plan, struct be64 *table,
                        uint8_t *blocks)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t end = plan->first + plan->table_clusters + plan->blocks;
    uint64_t index = plan->first / geometry->block_entries;
    for (uint64_t i = 0; i < plan->blocks; i++, index++) {
        while (be64_get(table[index]))
            index++;
        uint64_t host = (plan->first + plan->table_clusters + i) << geometry->cluster_bits;
        uint64_t start = index * geometry->block_entries;
        uint64_t from = vd_max(start, plan->first);
        uint64_t to = vd_min(start + geometry->block_entries, end);
        table[index] = be64_of(host);
        for (uint64_t k = from; k < to; k++)
            vd_qcow2_refcount_set(blocks + (i << geometry->cluster_bits),
                                  (k - start) << geometry->refcount_order, geometry->refcount_order,
                                  1);
    }
}

/* The parts of the new clusters that old blocks count. */
static int count_in_old_blocks(struct vd_qcow2 *qcow2, const struct plan *plan,
                               struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    uint64_t entries = qcow2->geometry.block_entries;
    struct vd_range rest = vd_range(plan->first, plan->table_clusters + plan->blocks);
    int ret = 0;
    while (ret == 0 && rest.length) {
        bool is_there;
        uint64_t step = vd_min(rest.length, entries - rest.offset % entries);
        ret = has_block(qcow2, rest.offset, &is_there, err);
        if (ret == 0 && is_there)
            ret = vd_qcow2_refs_up(qcow2, vd_range(rest.offset, step), err);
        rest = vd_range(rest.offset + step, rest.length - step);
    }
    return ret;
}

/* W7: all of it into the cache. */
static int put_area(struct vd_qcow2 *qcow2, const struct plan *plan, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_table_cache *refs = &qcow2->writer->refs;
    unsigned bits = qcow2->geometry.cluster_bits;
    size_t bytes = (size_t)(plan->table_clusters + plan->blocks) << bits;
    CLEANUP_FREE uint8_t *area = calloc(1, bytes);
    if (!area)
        return vd_err_nomem(err, "a refcount table");
    int ret = copy_table(qcow2, area, err);
    if (ret < 0)
        return ret;
    fill_blocks(qcow2, plan, (struct be64 *)area, area + (plan->table_clusters << bits));
    ret = count_in_old_blocks(qcow2, plan, err);
    vd_mutex_lock(&refs->lock);
    if (ret == 0)
        ret = vd_table_cache_put_locked(refs, plan->first << bits, area, bytes, err);
    vd_mutex_unlock(&refs->lock);
    return ret;
}

/* W5, for the new clusters. */
static int add_meta(struct vd_qcow2 *qcow2, const struct plan *plan, struct vdisk_error *err)
{
    unsigned bits = qcow2->geometry.cluster_bits;
    uint64_t clusters = plan->table_clusters + plan->blocks;
    int ret = vd_qcow2_check_place(qcow2, plan->first << bits, clusters, "a refcount table", err);
    vd_mutex_lock(&qcow2->tables.lock);
    if (ret == 0)
        ret = vd_qcow2_meta_reserve_locked(qcow2, clusters, err);
    for (uint64_t i = 0; ret == 0 && i < clusters; i++)
        vd_qcow2_meta_add_locked(qcow2,
                                 i < plan->table_clusters ? VD_QCOW2_META_REFCOUNT_TABLE
                                                          : VD_QCOW2_META_REFCOUNT_BLOCK,
                                 plan->first + i);
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}

/* The header leads to it, and the old table is free. */
static int switch_table(struct vd_qcow2 *qcow2, const struct plan *plan, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    struct vd_qcow2_fields fields = qcow2->header.fields;
    uint64_t old = fields.refcount_table_offset;
    uint32_t old_clusters = fields.refcount_table_clusters;
    fields.refcount_table_offset = plan->first << qcow2->geometry.cluster_bits;
    fields.refcount_table_clusters = (uint32_t)plan->table_clusters;
    int ret = vd_qcow2_replace_fields(qcow2, &fields, err);
    if (ret < 0)
        return ret;
    vd_qcow2_meta_remove(qcow2, old, old_clusters);
    vd_qcow2_give_back_alone(qcow2, old, old_clusters);
    writer->end = vd_max(writer->end, plan->first + plan->table_clusters + plan->blocks);
    return 0;
}

static int grow_alone(struct vd_qcow2 *qcow2, uint64_t clusters, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->flush_lock) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct plan plan;
    struct vdisk_error inner = {0};
    struct vd_range aside = {0, 0};
    unsigned bits = qcow2->geometry.cluster_bits;
    int ret = vd_qcow2_flush_refs_alone(qcow2, err);
    if (ret == 0)
        ret = make_plan(qcow2, clusters, &plan, err);
    if (ret < 0)
        return ret;
    uint64_t new_clusters = plan.table_clusters + plan.blocks;
    if (qcow2->writer->can_resize)
        ret = vd_qcow2_grow_file(qcow2, plan.first + new_clusters, err);
    if (ret == 0)
        ret = vd_qcow2_set_aside(qcow2, &aside, vd_range(plan.first << bits, new_clusters << bits),
                                 err);
    if (ret == 0)
        ret = add_meta(qcow2, &plan, err);
    if (ret < 0)
        return ret;
    /* What is left of it in the cache after a failure must not be written. */
    ret = put_area(qcow2, &plan, &inner);
    if (ret == 0)
        ret = vd_qcow2_flush_refs_alone(qcow2, &inner);
    if (ret == 0)
        ret = switch_table(qcow2, &plan, &inner);
    if (ret == 0)
        return 0;
    vd_format_fail(qcow2->format, &inner);
    return vd_err_copy(err, &inner);
}

int vd_qcow2_grow_refcounts(struct vd_qcow2 *qcow2, uint64_t seen, uint64_t clusters,
                            struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&qcow2->writer->flush_lock);
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    if (vd_qcow2_refcount_table_entries(qcow2) == seen)
        ret = grow_alone(qcow2, clusters, err);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    vd_mutex_unlock(&qcow2->writer->flush_lock);
    return ret;
}
