/* SPDX-License-Identifier: MIT */
/* Looking at all tables of a QED image before anything is allocated: Q4. */
#include <stdlib.h>

#include "format/bits.h"
#include "format/qed/qed_priv.h"
#include "util/mem.h"

#define SCAN_BYTES        (UINT64_C(1) << 18) /* of a table at a time */
#define SCAN_CLUSTERS_MAX (1u << 27) /* a bitmap of 16 MiB; more: only ranges are looked at */

struct scan {
    const struct vd_qed *qed;
    uint64_t file_bytes; /* whole clusters */
    uint64_t end;        /* of the last cluster in use */
    bool has_used;
    struct vd_bits used; /* clusters of the file */
};

/* Is all of [@offset, @offset + @length) unused until now?  It is in use from now on. */
static bool claim(struct scan *scan, uint64_t offset, uint64_t length)
{
    uint32_t cluster_bytes = scan->qed->geometry.cluster_bytes;
    scan->end = vd_max(scan->end, offset + length);
    uint64_t first = offset / cluster_bytes;
    uint64_t end = (offset + length) / cluster_bytes;
    for (uint64_t i = first; scan->has_used && i < end; i++) {
        if (vd_bits_has(&scan->used, (uint32_t)i))
            return false;
        vd_bits_add(&scan->used, (uint32_t)i);
    }
    return true;
}

/* What to do with an entry that is not 0; @l1_index is its index in L1, or that of its table. */
typedef int (*entry_fn)(struct scan *scan, uint32_t l1_index, uint32_t index, uint64_t value,
                        struct vdisk_error *err);

/* Are there bytes at all at the start of @range?  *step becomes the length of what is alike. */
static int is_hole(const struct scan *scan, struct vd_range range, bool *answer, uint64_t *step,
                   struct vdisk_error *err)
{
    struct vd_storage_extent extent;
    *answer = false;
    if (!(vd_storage_caps(scan->qed->file) & VD_STORAGE_CAN_EXTENTS))
        return 0;
    int ret = vd_storage_extent(scan->qed->file, range, &extent, err);
    if (ret < 0)
        return ret;
    *answer = extent.kind == VD_STORAGE_HOLE;
    /* Whole entries; an end in the middle of one is looked at as data. */
    uint64_t length = vd_round_down(extent.length, VD_QED_ENTRY_BYTES);
    *answer = *answer && length > 0;
    if (*answer)
        *step = length;
    return 0;
}

/* Calls @entry for each entry of the table at @offset that is not 0. */
static int scan_table(struct scan *scan, uint64_t offset, uint32_t l1_index, struct le64 *buffer,
                      entry_fn entry, struct vdisk_error *err)
{
    uint64_t bytes = scan->qed->geometry.table_bytes;
    uint64_t step;
    for (uint64_t done = 0; done < bytes; done += step) {
        bool skip = false;
        int ret = 0;
        step = vd_min(SCAN_BYTES, bytes - done);
        if (bytes > SCAN_BYTES) /* of a small table a read tells sooner */
            ret = is_hole(scan, vd_range(offset + done, bytes - done), &skip, &step, err);
        if (ret == 0 && !skip)
            ret = vd_storage_pread(scan->qed->file, buffer, (size_t)step, offset + done, err);
        for (uint64_t i = 0; ret == 0 && !skip && i < step / VD_QED_ENTRY_BYTES; i++)
            if (le64_get(buffer[i]) != VD_QED_UNALLOCATED)
                ret = entry(scan, l1_index, (uint32_t)(done / VD_QED_ENTRY_BYTES + i),
                            le64_get(buffer[i]), err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int scan_l2_entry(struct scan *scan, uint32_t l1_index, uint32_t index, uint64_t value,
                         struct vdisk_error *err)
{
    if (value == VD_QED_ZERO)
        return 0;
    if (!vd_qed_is_data(scan->qed, value, scan->file_bytes))
        return vd_qed_bad_l2(scan->qed, l1_index, index, value,
                             "is not aligned, or in the header, the L1 table, or not whole in "
                             "the file",
                             err);
    if (!claim(scan, value, scan->qed->geometry.cluster_bytes))
        return vd_qed_bad_l2(scan->qed, l1_index, index, value, "is used twice", err);
    return 0;
}

static int scan_l1_entry(struct scan *scan, uint32_t l1_index, uint32_t index, uint64_t value,
                         struct vdisk_error *err)
{
    (void)l1_index;
    if (!vd_qed_is_table(scan->qed, value, scan->file_bytes))
        return vd_qed_bad_l1(scan->qed, index, value,
                             "is not aligned, or in the header, the L1 table, or not whole in "
                             "the file",
                             err);
    if (!claim(scan, value, scan->qed->geometry.table_bytes))
        return vd_qed_bad_l1(scan->qed, index, value, "is used twice", err);
    CLEANUP_FREE struct le64 *buffer =
        vd_alloc_io((size_t)vd_min(SCAN_BYTES, scan->qed->geometry.table_bytes));
    if (!buffer)
        return vd_err_nomem(err, "a part of a table");
    return scan_table(scan, value, index, buffer, scan_l2_entry, err);
}

/* The unused space before the last cluster in use, unless that would be too many runs. */
static int find_free(const struct scan *scan, struct vd_qed_free *free_space,
                     struct vdisk_error *err)
{
    uint32_t cluster_bytes = scan->qed->geometry.cluster_bytes;
    free_space->entries = 0;
    free_space->runs = vd_alloc_array(VD_QED_FREE_RUNS_MAX, sizeof(*free_space->runs));
    if (!free_space->runs)
        return vd_err_nomem(err, "the unused space of the file");
    uint32_t start;
    uint32_t count;
    for (uint32_t from = 0; (count = vd_bits_next_run(&scan->used, from, &start)) > 0 &&
                            free_space->entries < VD_QED_FREE_RUNS_MAX;
         from = start + count)
        if (start > from)
            free_space->runs[free_space->entries++] =
                vd_range((uint64_t)from * cluster_bytes, (uint64_t)(start - from) * cluster_bytes);
    return 0;
}

int vd_qed_scan(const struct vd_qed *qed, uint64_t file_bytes, struct vd_qed_usage *usage,
                struct vdisk_error *err)
{
    uint32_t cluster_bytes = qed->geometry.cluster_bytes;
    struct scan scan = {.qed = qed, .file_bytes = vd_round_down(file_bytes, cluster_bytes)};
    uint64_t clusters = scan.file_bytes / cluster_bytes;
    CLEANUP_FREE struct le64 *buffer =
        vd_alloc_io((size_t)vd_min(SCAN_BYTES, qed->geometry.table_bytes));
    if (!buffer)
        return vd_err_nomem(err, "a part of a table");

    scan.has_used = clusters <= SCAN_CLUSTERS_MAX;
    int ret = scan.has_used ? vd_bits_reserve(&scan.used, (uint32_t)clusters, err) : 0;
    if (ret == 0) {
        (void)claim(&scan, 0, vd_qed_header_area(&qed->header));
        (void)claim(&scan, qed->l1.offset, qed->l1.length);
        ret = scan_table(&scan, qed->l1.offset, 0, buffer, scan_l1_entry, err);
    }
    if (ret == 0)
        ret = find_free(&scan, &usage->free, err);
    usage->end = scan.end;
    vd_bits_free(&scan.used);
    return ret;
}
