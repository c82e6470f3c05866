/* SPDX-License-Identifier: MIT */
/* Where may a QED image be written, and how is it made to read as zero? */
#include "format/qed/qed_priv.h"

/* The run at the start of @guest; there is a table with its entries. */
static int find_with_table_locked(struct vd_qed *qed, struct vd_range guest, struct vd_qed_run *run,
                                  struct vdisk_error *err) VD_REQUIRES(qed->tables.lock)
{
    for (;;) {
        int ret = vd_qed_find_run_locked(qed, guest, run, err);
        if (ret < 0 || run->entries)
            return ret;
        vd_mutex_unlock(&qed->tables.lock);
        ret = vd_qed_make_table(qed, vd_qed_l1_index(&qed->geometry, run->guest.offset), err);
        vd_mutex_lock(&qed->tables.lock);
        if (ret < 0)
            return ret;
    }
}

/* Sets the entries of @run to offsets from @first on, or all to VD_QED_ZERO. */
static void set_entries_locked(struct vd_qed *qed, const struct vd_qed_run *run, uint64_t first)
    VD_REQUIRES(qed->tables.lock)
{
    uint64_t clusters = run->guest.length / qed->geometry.cluster_bytes;
    struct le64 *entries = vd_table_page_at(run->page, run->entries);
    for (uint64_t i = 0; i < clusters; i++)
        entries[i] =
            le64_of(first == VD_QED_ZERO ? first : first + i * qed->geometry.cluster_bytes);
    vd_table_page_changed_locked(&qed->tables, run->page, run->entries,
                                 (size_t)clusters * VD_QED_ENTRY_BYTES);
}

/* Q6.  The page with the entries of @run is pinned, for write_done() to change. */
static int answer_fresh(struct vd_qed *qed, struct vd_range guest, struct vd_qed_run *run,
                        struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_qed_space space;
    int ret = vd_qed_take(qed, run->guest.length / qed->geometry.cluster_bytes, &space, err);
    if (ret < 0) {
        vd_mutex_lock(&qed->tables.lock);
        vd_table_cache_unpin_locked(&qed->tables, run->entries);
        vd_mutex_unlock(&qed->tables.lock);
        return ret;
    }
    bool shows_backing = run->kind == VD_QED_RUN_ABSENT && qed->names.backing; /* Q7 */
    run->kind = VD_QED_RUN_DATA;
    run->host = space.host;
    run->guest.length = space.clusters * qed->geometry.cluster_bytes;
    vd_qed_answer(qed, guest, run, mapping);
    mapping->fresh = true;
    mapping->fill = space.is_new ? VD_FILL_NONE : VD_FILL_ZERO;
    if (shows_backing)
        mapping->fill = VD_FILL_BACKING;
    mapping->clusters = run->guest;
    mapping->token = run->entries;
    return 0;
}

int vd_qed_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                         struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_qed *qed = format->state;
    struct vd_qed_run run;
    int ret = allocate ? vd_qed_relieve(qed, err) : 0;
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qed->tables.lock);
    ret = allocate ? find_with_table_locked(qed, guest, &run, err)
                   : vd_qed_find_run_locked(qed, guest, &run, err);
    bool is_fresh = ret == 0 && allocate && run.kind != VD_QED_RUN_DATA;
    if (is_fresh)
        vd_table_cache_pin_locked(&qed->tables, run.entries);
    bool is_scanned = qed->is_scanned;
    vd_mutex_unlock(&qed->tables.lock);
    if (ret < 0)
        return ret;
    if (is_fresh)
        return answer_fresh(qed, guest, &run, mapping, err);
    if (run.kind == VD_QED_RUN_DATA && !is_scanned)
        ret = vd_qed_begin(qed, err);
    if (ret < 0)
        return ret;
    vd_qed_answer(qed, guest, &run, mapping);
    if (mapping->kind == VD_MAP_BACKING)
        mapping->kind = VD_MAP_ZERO; /* an allocation is needed: no more was asked */
    return 0;
}

void vd_qed_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok)
{
    struct vd_qed *qed = format->state;
    uint64_t host = mapping->host_offset - (mapping->guest.offset - mapping->clusters.offset);
    struct vd_qed_run run = {.guest = mapping->clusters, .entries = mapping->token};
    vd_mutex_lock(&qed->tables.lock);
    run.page = vd_table_cache_unpin_locked(&qed->tables, run.entries);
    if (ok)
        set_entries_locked(qed, &run, host);
    else
        vd_qed_give_back_locked(qed, host, run.guest.length / qed->geometry.cluster_bytes);
    vd_mutex_unlock(&qed->tables.lock);
}

int vd_qed_set_zero(struct vd_qed *qed, struct vd_range guest, struct vd_qed_run *run,
                    struct vdisk_error *err)
{
    int ret = vd_qed_relieve(qed, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qed->tables.lock);
    ret = find_with_table_locked(qed, guest, run, err);
    if (ret == 0 && run->kind == VD_QED_RUN_ABSENT) {
        set_entries_locked(qed, run, VD_QED_ZERO);
        run->kind = VD_QED_RUN_ZERO;
    }
    vd_mutex_unlock(&qed->tables.lock);
    return ret;
}

/* The whole clusters at the start of @guest; the last one of the disk is whole if @guest has its
 * end. */
static struct vd_range whole_clusters(const struct vd_qed *qed, struct vd_range guest)
{
    uint32_t cluster_bytes = qed->geometry.cluster_bytes;
    if (!vd_is_aligned(guest.offset, cluster_bytes))
        return vd_range(guest.offset, 0);
    if (vd_range_end(guest) == qed->format->size)
        return vd_range_expand(guest, cluster_bytes);
    return vd_range(guest.offset, vd_round_down(guest.length, cluster_bytes));
}

int vd_qed_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                    struct vd_mapping *mapping, struct vdisk_error *err)
{
    if (!(flags & VD_MAP_ZERO_MAY_UNMAP))
        return vd_qed_map_for_write(format, guest, true, mapping, err);

    struct vd_qed *qed = format->state;
    struct vd_qed_run run;
    vd_mutex_lock(&qed->tables.lock);
    int ret = vd_qed_find_run_locked(qed, guest, &run, err);
    bool is_scanned = qed->is_scanned;
    vd_mutex_unlock(&qed->tables.lock);
    if (ret == 0 && run.kind == VD_QED_RUN_DATA && !is_scanned)
        ret = vd_qed_begin(qed, err);
    if (ret == 0 && run.kind == VD_QED_RUN_ABSENT && (flags & VD_MAP_ZERO_DISCARD)) {
        vd_qed_answer(qed, guest, &run, mapping);
        mapping->kind = VD_MAP_ZERO; /* as if: it may stay */
        return 0;
    }
    struct vd_range whole = whole_clusters(qed, guest);
    if (ret == 0 && run.kind == VD_QED_RUN_ABSENT && whole.length)
        ret = vd_qed_set_zero(qed, whole, &run, err);
    else if (ret == 0 && run.kind == VD_QED_RUN_ABSENT)
        run.guest.length = qed->geometry.cluster_bytes; /* those behind it may be whole */
    if (ret == 0)
        vd_qed_answer(qed, guest, &run, mapping);
    return ret;
}
