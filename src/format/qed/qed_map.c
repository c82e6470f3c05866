/* SPDX-License-Identifier: MIT */
/* The tables of a QED image: where does a cluster live? */
#include <inttypes.h>

#include "format/qed/qed_priv.h"

/* So many pages of tables are looked at for one answer. */
#define MAP_PAGES 16u

bool vd_qed_is_table(const struct vd_qed *qed, uint64_t offset, uint64_t file_bytes)
{
    return vd_qed_table_is_within(&qed->geometry, vd_qed_header_area(&qed->header), file_bytes,
                                  offset) &&
           !vd_ranges_overlap(vd_range(offset, qed->geometry.table_bytes), qed->l1);
}

bool vd_qed_is_data(const struct vd_qed *qed, uint64_t offset, uint64_t file_bytes)
{
    return vd_qed_cluster_is_within(&qed->geometry, vd_qed_header_area(&qed->header), file_bytes,
                                    offset) &&
           !vd_ranges_overlap(vd_range(offset, qed->geometry.cluster_bytes), qed->l1);
}

int vd_qed_bad_l1(const struct vd_qed *qed, uint32_t index, uint64_t offset, const char *why,
                  struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG,
                      "%s: L1 entry %" PRIu32 ": L2 table at offset 0x%" PRIx64
                      " %s: run vdisk check",
                      vd_storage_name(qed->file), index, offset, why);
}

int vd_qed_bad_l2(const struct vd_qed *qed, uint32_t l1_index, uint32_t index, uint64_t offset,
                  const char *why, struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG,
                      "%s: L2 entry %" PRIu32 " in the table of L1 entry %" PRIu32
                      " (disk offset %" PRIu64 "): cluster at offset 0x%" PRIx64
                      " %s: run vdisk check",
                      vd_storage_name(qed->file), index, l1_index,
                      vd_qed_guest_offset(&qed->geometry, l1_index, index), offset, why);
}

#define WRONG_PLACE \
    "is not aligned, or lies in the header or the L1 table, or is not whole in the file"

/* The file may have grown since its size was looked at. */
static int look_at_size_locked(struct vd_qed *qed, struct vdisk_error *err)
    VD_REQUIRES(qed->tables.lock)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(qed->file, &file_bytes, err);
    if (ret == 0)
        qed->file_bytes = vd_max(qed->file_bytes, file_bytes);
    return ret;
}

/* Q8 */
static int check_table_locked(struct vd_qed *qed, uint32_t index, uint64_t offset,
                              struct vdisk_error *err) VD_REQUIRES(qed->tables.lock)
{
    if (vd_qed_is_table(qed, offset, qed->file_bytes))
        return 0;
    int ret = look_at_size_locked(qed, err);
    if (ret < 0 || vd_qed_is_table(qed, offset, qed->file_bytes))
        return ret;
    return vd_qed_bad_l1(qed, index, offset, WRONG_PLACE, err);
}

/* Q8 */
static int check_data_locked(struct vd_qed *qed, uint64_t guest_offset, uint64_t offset,
                             struct vdisk_error *err) VD_REQUIRES(qed->tables.lock)
{
    if (vd_qed_is_data(qed, offset, qed->file_bytes))
        return 0;
    int ret = look_at_size_locked(qed, err);
    if (ret < 0 || vd_qed_is_data(qed, offset, qed->file_bytes))
        return ret;
    return vd_qed_bad_l2(qed, vd_qed_l1_index(&qed->geometry, guest_offset),
                         vd_qed_l2_index(&qed->geometry, guest_offset), offset, WRONG_PLACE, err);
}

/* No L2 table: how far does that go on in this page of L1? */
static void measure_no_table(const struct vd_qed *qed, const struct le64 *l1, uint64_t l1_entries,
                             uint64_t limit, struct vd_qed_run *run)
{
    uint64_t span = qed->geometry.table_span;
    uint64_t end = (vd_qed_l1_index(&qed->geometry, run->guest.offset) + UINT64_C(1)) * span;
    for (uint64_t i = 1; i < l1_entries && end < limit && le64_get(l1[i]) == VD_QED_UNALLOCATED;
         i++)
        end += span;
    run->kind = VD_QED_RUN_ABSENT;
    run->guest.length = vd_min(end, limit) - run->guest.offset;
}

/* How many of the @limit @entries go on as the first one begins? */
static uint64_t count_same(const struct le64 *entries, uint64_t limit, uint64_t step)
{
    uint64_t count = 1;
    uint64_t expected = le64_get(entries[0]) + step;
    for (; count < limit && le64_get(entries[count]) == expected; expected += step)
        count++;
    return count;
}

/* The L2 table at @table has the entries of run->guest, which has its offset. */
static int look_in_table_locked(struct vd_qed *qed, uint64_t table, uint64_t limit,
                                struct vd_qed_run *run, struct vdisk_error *err)
    VD_REQUIRES(qed->tables.lock)
{
    uint32_t cluster_bytes = qed->geometry.cluster_bytes;
    uint64_t at =
        table + (uint64_t)vd_qed_l2_index(&qed->geometry, run->guest.offset) * VD_QED_ENTRY_BYTES;
    bool waited = false; /* Q3 */
    int ret = vd_table_cache_get_locked(&qed->tables, at, &run->page, &waited, err);
    if (ret < 0)
        return ret;
    const struct le64 *entries = vd_table_page_at(run->page, at);
    uint64_t count = (vd_table_page_end(&qed->tables, run->page) - at) / VD_QED_ENTRY_BYTES;
    count = vd_min(count, (limit - run->guest.offset) / cluster_bytes);

    uint64_t value = le64_get(entries[0]);
    run->entries = at;
    if (value == VD_QED_UNALLOCATED || value == VD_QED_ZERO) {
        run->kind = value == VD_QED_ZERO ? VD_QED_RUN_ZERO : VD_QED_RUN_ABSENT;
        run->guest.length = count_same(entries, count, 0) * cluster_bytes;
        return 0;
    }
    ret = check_data_locked(qed, run->guest.offset, value, err);
    if (ret < 0)
        return ret;
    /* A run that would lead into the L1 table or out of the file ends before. */
    uint64_t bound = value < qed->l1.offset ? qed->l1.offset : qed->file_bytes;
    count = vd_min(count, (bound - value) / cluster_bytes);
    run->kind = VD_QED_RUN_DATA;
    run->host = value;
    run->guest.length = count_same(entries, count, cluster_bytes) * cluster_bytes;
    return 0;
}

int vd_qed_find_run_locked(struct vd_qed *qed, struct vd_range guest, struct vd_qed_run *run,
                           struct vdisk_error *err)
{
    uint32_t cluster_bytes = qed->geometry.cluster_bytes;
    uint64_t limit = vd_round_up(vd_range_end(guest), cluster_bytes);
    *run = (struct vd_qed_run){.guest.offset = vd_round_down(guest.offset, cluster_bytes)};

    uint32_t index = vd_qed_l1_index(&qed->geometry, run->guest.offset);
    uint64_t at = qed->l1.offset + (uint64_t)index * VD_QED_ENTRY_BYTES;
    bool waited = false; /* all below is learned afterwards */
    int ret = vd_table_cache_get_locked(&qed->tables, at, &run->page, &waited, err);
    if (ret < 0)
        return ret;
    const struct le64 *l1 = vd_table_page_at(run->page, at);
    uint64_t table = le64_get(l1[0]);
    if (table == VD_QED_UNALLOCATED) {
        uint64_t l1_entries =
            (vd_table_page_end(&qed->tables, run->page) - at) / VD_QED_ENTRY_BYTES;
        measure_no_table(qed, l1, l1_entries, limit, run);
        return 0;
    }
    ret = check_table_locked(qed, index, table, err);
    return ret < 0 ? ret : look_in_table_locked(qed, table, limit, run, err);
}

void vd_qed_answer(const struct vd_qed *qed, struct vd_range guest, const struct vd_qed_run *run,
                   struct vd_mapping *mapping)
{
    uint64_t end = vd_min(vd_range_end(guest), vd_range_end(run->guest));
    mapping->guest = vd_range(guest.offset, end - guest.offset);
    mapping->kind = VD_MAP_ZERO;
    mapping->present = run->kind != VD_QED_RUN_ABSENT;
    if (run->kind == VD_QED_RUN_ABSENT && qed->names.backing)
        mapping->kind = VD_MAP_BACKING;
    if (run->kind != VD_QED_RUN_DATA)
        return;
    uint64_t host_offset = run->host + (guest.offset - run->guest.offset);
    if (qed->short_end && host_offset >= qed->short_end)
        return;
    if (qed->short_end)
        mapping->guest.length = vd_min(mapping->guest.length, qed->short_end - host_offset);
    mapping->kind = VD_MAP_DATA;
    mapping->storage = qed->file;
    mapping->host_offset = host_offset;
}

/* Does @next, which lies behind @run in the disk, go on in the same way? */
static bool goes_on(const struct vd_qed_run *run, const struct vd_qed_run *next)
{
    return next->kind == run->kind &&
           (run->kind != VD_QED_RUN_DATA || next->host == run->host + run->guest.length);
}

static int find_all_locked(struct vd_qed *qed, struct vd_range guest, struct vd_qed_run *run,
                           struct vdisk_error *err) VD_REQUIRES(qed->tables.lock)
{
    int ret = vd_qed_find_run_locked(qed, guest, run, err);
    for (unsigned i = 1; ret == 0 && i < MAP_PAGES; i++) {
        uint64_t end = vd_range_end(run->guest);
        struct vd_qed_run next;
        /* An error there is for the request that comes to it. */
        if (end >= vd_range_end(guest) ||
            vd_qed_find_run_locked(qed, vd_range(end, vd_range_end(guest) - end), &next, NULL) <
                0 ||
            !goes_on(run, &next))
            break;
        run->guest.length += next.guest.length;
    }
    return ret;
}

int vd_qed_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
               struct vdisk_error *err)
{
    struct vd_qed *qed = format->state;
    struct vd_qed_run run;
    vd_mutex_lock(&qed->tables.lock);
    int ret = find_all_locked(qed, guest, &run, err);
    vd_mutex_unlock(&qed->tables.lock);
    if (ret == 0)
        vd_qed_answer(qed, guest, &run, mapping);
    return ret;
}

int vd_qed_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                   struct vd_mapping *mapping)
{
    struct vd_qed *qed = format->state;
    struct vd_qed_run run;
    vd_mutex_lock(&qed->tables.lock);
    qed->tables.is_trying = true;
    int ret = find_all_locked(qed, guest, &run, NULL);
    qed->tables.is_trying = false;
    if (ret == 0 && for_write && (run.kind != VD_QED_RUN_DATA || !qed->is_scanned))
        ret = -EAGAIN;
    vd_mutex_unlock(&qed->tables.lock);
    if (ret == 0)
        vd_qed_answer(qed, guest, &run, mapping);
    return ret == 0 && for_write && mapping->kind != VD_MAP_DATA ? -EAGAIN : ret;
}
