/* SPDX-License-Identifier: MIT */
/* Where new clusters come from: Q4, Q5. */
#include <inttypes.h>
#include <stdlib.h>

#include "format/qed/qed_priv.h"
#include "util/mem.h"

/* Tables larger than this take the space of what is written to them. */
#define SET_ASIDE_BYTES_MAX (UINT64_C(16) << 20)

/* Scans, and cuts off what is behind the last cluster in use.  Q4, Q5 */
static int begin_alone(struct vd_qed *qed, struct vdisk_error *err) VD_REQUIRES(qed->alloc_lock)
{
    uint64_t file_bytes;
    struct vd_qed_usage usage = {0};
    int ret = vd_storage_size(qed->file, &file_bytes, err);
    if (ret == 0)
        ret = vd_qed_scan(qed, file_bytes, &usage, err);
    if (ret == 0 && qed->can_resize && usage.end < file_bytes)
        ret = vd_storage_resize(qed->file, usage.end, err);
    if (ret < 0) {
        free(usage.free.runs);
        return ret;
    }
    vd_mutex_lock(&qed->tables.lock);
    qed->is_scanned = true;
    qed->file_bytes = qed->can_resize ? usage.end : file_bytes;
    qed->end = usage.end;
    qed->boundary = usage.end;
    qed->free = usage.free;
    vd_mutex_unlock(&qed->tables.lock);
    return 0;
}

/* Is everything known that has to be before the first change? */
static int begin(struct vd_qed *qed, struct vdisk_error *err) VD_REQUIRES(qed->alloc_lock)
{
    vd_mutex_lock(&qed->tables.lock);
    bool is_scanned = qed->is_scanned;
    vd_mutex_unlock(&qed->tables.lock);
    return is_scanned ? 0 : begin_alone(qed, err);
}

int vd_qed_begin(struct vd_qed *qed, struct vdisk_error *err)
{
    vd_mutex_lock(&qed->alloc_lock);
    int ret = begin(qed, err);
    vd_mutex_unlock(&qed->alloc_lock);
    return ret;
}

/* From the unused space with the lowest offset; false: there is none. */
static bool take_free_locked(struct vd_qed *qed, uint64_t wanted, struct vd_qed_space *space)
    VD_REQUIRES(qed->tables.lock)
{
    struct vd_qed_free *unused = &qed->free;
    size_t lowest = 0;
    if (unused->entries == 0)
        return false;
    for (size_t i = 1; i < unused->entries; i++)
        if (unused->runs[i].offset < unused->runs[lowest].offset)
            lowest = i;
    struct vd_range *run = &unused->runs[lowest];
    uint64_t bytes = vd_min(run->length, wanted * qed->geometry.cluster_bytes);
    *space =
        (struct vd_qed_space){.host = run->offset, .clusters = bytes / qed->geometry.cluster_bytes};
    *run = vd_range(run->offset + bytes, run->length - bytes);
    if (run->length == 0)
        *run = unused->runs[--unused->entries];
    return true;
}

/* From the end of the file, which grows.  Nobody else makes it do so. */
static int take_at_end(struct vd_qed *qed, uint64_t wanted, struct vd_qed_space *space,
                       struct vdisk_error *err) VD_REQUIRES(qed->alloc_lock)
{
    uint64_t bytes = wanted * qed->geometry.cluster_bytes;
    vd_mutex_lock(&qed->tables.lock);
    uint64_t end = qed->end;
    vd_mutex_unlock(&qed->tables.lock);
    if (!qed->can_resize)
        return vd_err_set(err, ENOSPC, "%s: is of a fixed length, and a QED image has to grow",
                          vd_storage_name(qed->file));
    if (bytes > VD_QED_SIZE_MAX - end)
        return vd_err_set(err, EFBIG, "%s: is as long as a file can be",
                          vd_storage_name(qed->file));
    int ret = vd_storage_resize(qed->file, end + bytes, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qed->tables.lock);
    qed->end = end + bytes;
    qed->file_bytes = qed->end;
    vd_mutex_unlock(&qed->tables.lock);
    *space = (struct vd_qed_space){.host = end, .clusters = wanted, .is_new = true};
    return 0;
}

int vd_qed_take(struct vd_qed *qed, uint64_t wanted, struct vd_qed_space *space,
                struct vdisk_error *err)
{
    vd_mutex_lock(&qed->alloc_lock);
    int ret = begin(qed, err);
    bool is_taken = false;
    if (ret == 0) {
        vd_mutex_lock(&qed->tables.lock);
        is_taken = take_free_locked(qed, wanted, space);
        vd_mutex_unlock(&qed->tables.lock);
    }
    if (ret == 0 && !is_taken)
        ret = take_at_end(qed, wanted, space, err);
    vd_mutex_unlock(&qed->alloc_lock);
    return ret;
}

void vd_qed_give_back_locked(struct vd_qed *qed, uint64_t host, uint64_t clusters)
{
    struct vd_qed_free *unused = &qed->free;
    struct vd_range range = vd_range(host, clusters * qed->geometry.cluster_bytes);
    for (size_t i = 0; i < unused->entries; i++)
        if (vd_range_end(unused->runs[i]) == range.offset) {
            unused->runs[i].length += range.length;
            return;
        }
    /* One that there is no room for is found by the scan of the next session. */
    if (unused->entries < VD_QED_FREE_RUNS_MAX)
        unused->runs[unused->entries++] = range;
}

/* L1 entry @index, of the page with it, which stays good while the lock is held. */
static int get_l1_entry_locked(struct vd_qed *qed, uint32_t index, struct vd_table_page **page,
                               struct le64 **entry, struct vdisk_error *err)
    VD_REQUIRES(qed->tables.lock)
{
    uint64_t at = qed->l1.offset + (uint64_t)index * VD_QED_ENTRY_BYTES;
    bool waited = false;
    int ret = vd_table_cache_get_locked(&qed->tables, at, page, &waited, err);
    *entry = ret == 0 ? vd_table_page_at(*page, at) : NULL;
    return ret;
}

/*
 * Sets space aside for a new table and for the L1 entry that will lead to it, so that a disk that
 * is full shows in the request that asks for the table, and not in the flush, which would lose what
 * other requests were told is written.
 */
static int set_aside(struct vd_qed *qed, uint32_t index, uint64_t table, struct vdisk_error *err)
{
    uint64_t l1_page = vd_round_down(index * (uint64_t)VD_QED_ENTRY_BYTES, VD_PAGE_BYTES);
    uint64_t bytes = qed->geometry.table_bytes;
    int ret =
        vd_storage_preallocate(qed->file, vd_range(qed->l1.offset + l1_page, VD_PAGE_BYTES), err);
    if (ret == 0 && bytes <= SET_ASIDE_BYTES_MAX)
        ret = vd_storage_preallocate(qed->file, vd_range(table, bytes), err);
    return ret;
}

/* Only who holds alloc_lock makes tables, so no second one comes up meanwhile. */
static int make_table_alone(struct vd_qed *qed, uint32_t index, struct vdisk_error *err)
    VD_REQUIRES(qed->alloc_lock)
{
    struct vd_qed_space space;
    struct vd_table_page *page;
    struct le64 *entry;
    int ret = take_at_end(qed, qed->geometry.table_clusters, &space, err); /* Q2 */
    if (ret < 0)
        return ret;
    ret = set_aside(qed, index, space.host, err);
    vd_mutex_lock(&qed->tables.lock);
    if (ret == 0)
        ret = get_l1_entry_locked(qed, index, &page, &entry, err);
    if (ret == 0) {
        *entry = le64_of(space.host);
        vd_table_page_changed_locked(&qed->tables, page,
                                     qed->l1.offset + (uint64_t)index * VD_QED_ENTRY_BYTES,
                                     VD_QED_ENTRY_BYTES);
    } else {
        vd_qed_give_back_locked(qed, space.host, space.clusters);
    }
    vd_mutex_unlock(&qed->tables.lock);
    return ret;
}

int vd_qed_make_table(struct vd_qed *qed, uint32_t index, struct vdisk_error *err)
{
    struct vd_table_page *page;
    struct le64 *entry;
    bool is_there = false;
    vd_mutex_lock(&qed->alloc_lock);
    int ret = begin(qed, err);
    if (ret == 0) {
        vd_mutex_lock(&qed->tables.lock);
        ret = get_l1_entry_locked(qed, index, &page, &entry, err);
        is_there = ret == 0 && le64_get(*entry) != VD_QED_UNALLOCATED;
        vd_mutex_unlock(&qed->tables.lock);
    }
    if (ret == 0 && !is_there)
        ret = make_table_alone(qed, index, err);
    vd_mutex_unlock(&qed->alloc_lock);
    return ret;
}

int vd_qed_trim(struct vd_qed *qed, struct vdisk_error *err)
{
    struct vd_qed_free *unused = &qed->free;
    vd_mutex_lock(&qed->tables.lock);
    uint64_t end = qed->end;
    for (size_t i = 0; i < unused->entries;) {
        if (vd_range_end(unused->runs[i]) != end) {
            i++;
            continue;
        }
        end = unused->runs[i].offset;
        unused->runs[i] = unused->runs[--unused->entries];
        i = 0;
    }
    bool is_longer = qed->is_scanned && qed->can_resize && end < qed->file_bytes;
    vd_mutex_unlock(&qed->tables.lock);
    int ret = is_longer ? vd_storage_resize(qed->file, end, err) : 0;
    if (ret < 0 || !is_longer)
        return ret;
    vd_mutex_lock(&qed->tables.lock);
    qed->end = end;
    qed->file_bytes = end;
    vd_mutex_unlock(&qed->tables.lock);
    return 0;
}
