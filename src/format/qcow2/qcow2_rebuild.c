/* SPDX-License-Identifier: MIT */
/*
 * New refcounts, in clusters behind all that is in use.  What leads to them is the header, which is
 * switched when they are durable: until then the image is as it was.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/bits.h"
#include "format/qcow2/qcow2_check.h"
#include "util/mem.h"

struct rebuild {
    struct vd_qcow2_check_run *run;
    struct vd_bits blocks; /* indexes of those that there will be */
    uint64_t blocks_max;   /* that a table has entries for */
    uint64_t first;        /* cluster of the table; the blocks follow */
    uint64_t table_clusters;
    struct be64 *table;
};

static int want_block(struct rebuild *rebuild, uint64_t cluster, struct vdisk_error *err)
{
    uint64_t index = cluster / rebuild->run->geometry.block_entries;
    if (index >= rebuild->blocks_max)
        return vd_err_set(err, EFBIG,
                          "%s: cluster %" PRIu64 " is behind what the largest refcount table of "
                          "%" PRIu64 " bytes covers",
                          vd_storage_name(rebuild->run->file), cluster,
                          VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX);
    int ret = vd_bits_reserve(&rebuild->blocks, (uint32_t)index + 1, err);
    if (ret == 0 && !vd_bits_has(&rebuild->blocks, (uint32_t)index))
        vd_bits_add(&rebuild->blocks, (uint32_t)index);
    return ret;
}

/* Blocks for all clusters that something leads to. */
static int want_blocks(struct rebuild *rebuild, struct vdisk_error *err)
{
    struct vd_qcow2_counts *counts = &rebuild->run->counts;
    int ret = 0;
    for (uint64_t i = 0; i < counts->page_entries && ret == 0; i++) {
        const struct vd_qcow2_counts_page *page = counts->pages[i];
        for (uint32_t j = 0; page && j < VD_QCOW2_COUNTS_PAGE && ret == 0; j++)
            if (page->counts[j])
                ret = want_block(rebuild, i * VD_QCOW2_COUNTS_PAGE + j, err);
    }
    return ret;
}

/* One more than the last cluster that something leads to, the refcounts there were included. */
static uint64_t end_of_old(const struct vd_qcow2_check_run *run)
{
    const struct vd_qcow2_fields *fields = &run->header->fields;
    uint64_t end = vd_max(run->end, 1);
    uint64_t table = fields->refcount_table_offset >> run->geometry.cluster_bits;
    if (table < run->clusters)
        end = vd_max(end, vd_min(table + fields->refcount_table_clusters, run->clusters));
    for (uint64_t i = 0; i < run->refcount_table_entries; i++) {
        uint64_t block = be64_get(run->refcount_table[i]) >> run->geometry.cluster_bits;
        if (block < run->clusters)
            end = vd_max(end, block + 1);
    }
    return end;
}

/*
 * Behind the end of the file, as what nothing leads to may be what an entry led to before it was
 * damaged; but where the file can not grow, or refcounts would not reach, behind what is in use.
 */
static uint64_t choose_place(const struct rebuild *rebuild)
{
    const struct vd_qcow2_check_run *run = rebuild->run;
    uint64_t end = vd_max(run->clusters, run->end);
    uint64_t reach = rebuild->blocks_max * run->geometry.block_entries / 2;
    if ((vd_storage_caps(run->file) & VD_STORAGE_CAN_RESIZE) && end < reach)
        return end;
    return end_of_old(run);
}

/* How many clusters are needed depends on how many there are. */
static int settle_size(struct rebuild *rebuild, struct vdisk_error *err)
{
    uint32_t bits = rebuild->run->geometry.cluster_bits;
    uint64_t covered = 0;
    for (;;) {
        uint64_t bytes = (uint64_t)vd_bits_end(&rebuild->blocks) * sizeof(struct be64);
        rebuild->table_clusters = vd_qcow2_clusters(&rebuild->run->geometry, bytes);
        uint64_t wanted = rebuild->table_clusters + rebuild->blocks.count;
        if (wanted == covered)
            break;
        for (uint64_t i = covered; i < wanted; i++) {
            int ret = want_block(rebuild, rebuild->first + i, err);
            if (ret < 0)
                return ret;
        }
        covered = wanted;
    }
    if (rebuild->first + covered > (UINT64_C(1) << 56) >> bits)
        return vd_err_set(err, EFBIG, "%s: no place for refcounts below 2^56",
                          vd_storage_name(rebuild->run->file));
    return 0;
}

static void fill_block(const struct rebuild *rebuild, uint64_t index, uint8_t *block)
{
    const struct vd_qcow2_check_run *run = rebuild->run;
    uint64_t own_end = rebuild->first + rebuild->table_clusters + rebuild->blocks.count;
    memset(block, 0, run->geometry.cluster_bytes);
    for (uint32_t i = 0; i < run->geometry.block_entries; i++) {
        uint64_t cluster = index * run->geometry.block_entries + i;
        uint64_t count =
            cluster < run->counts.clusters ? vd_qcow2_counts_get(&run->counts, cluster) : 0;
        if (cluster >= rebuild->first && cluster < own_end)
            count++;
        if (count)
            vd_qcow2_check_put_refcount(run->geometry.refcount_order, block, i,
                                        vd_min(count, run->geometry.refcount_max));
    }
}

static int write_refcounts(struct rebuild *rebuild, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = rebuild->run;
    uint64_t cluster_bytes = run->geometry.cluster_bytes;
    uint64_t next = rebuild->first + rebuild->table_clusters;
    uint32_t index = 0;
    uint32_t start = 0;
    uint32_t count;
    run->block_index = UINT64_MAX;
    for (; (count = vd_bits_next_run(&rebuild->blocks, index, &start)) > 0; index = start + count)
        for (uint32_t i = start; i < start + count; i++, next++) {
            fill_block(rebuild, i, run->block);
            rebuild->table[i] = be64_of(next * cluster_bytes);
            int ret = vd_storage_pwrite(run->file, run->block, (size_t)cluster_bytes,
                                        next * cluster_bytes, err);
            if (ret < 0)
                return ret;
        }
    int ret = vd_storage_pwrite(run->file, rebuild->table,
                                (size_t)(rebuild->table_clusters * cluster_bytes),
                                rebuild->first * cluster_bytes, err);
    return ret < 0 ? ret : vd_storage_flush(run->file, err);
}

static int switch_header(const struct rebuild *rebuild, struct vdisk_error *err)
{
    struct vd_qcow2_check_run *run = rebuild->run;
    struct vd_qcow2_fields fields = run->header->fields;
    fields.refcount_table_offset = rebuild->first * run->geometry.cluster_bytes;
    fields.refcount_table_clusters = (uint32_t)rebuild->table_clusters;
    return vd_qcow2_check_write_fields(run, &fields, err);
}

static int build(struct rebuild *rebuild, struct vdisk_error *err)
{
    int ret = want_blocks(rebuild, err);
    if (ret == 0)
        ret = settle_size(rebuild, err);
    if (ret < 0)
        return ret;
    rebuild->table =
        vd_alloc_array((size_t)rebuild->table_clusters, rebuild->run->geometry.cluster_bytes);
    if (!rebuild->table)
        return vd_err_nomem(err, "the refcount table");
    ret = write_refcounts(rebuild, err);
    return ret < 0 ? ret : switch_header(rebuild, err);
}

int vd_qcow2_rebuild(struct vd_qcow2_check_run *run, struct vdisk_error *err)
{
    struct rebuild rebuild = {
        .run = run,
        .blocks_max = VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX / sizeof(struct be64),
    };
    rebuild.first = run->new_place ? run->new_place : choose_place(&rebuild);
    int ret = build(&rebuild, err);
    vd_bits_free(&rebuild.blocks);
    free(rebuild.table);
    return ret;
}
