/* SPDX-License-Identifier: MIT */
/* The tables of a qcow2 image: where does a subcluster live? */
#include <inttypes.h>

#include "format/qcow2/qcow2_bitmap.h"
#include "format/qcow2/qcow2_crypt.h"
#include "format/qcow2/qcow2_write.h"

/* So many pages of tables are looked at for one answer. */
#define MAP_PAGES 16u

int vd_qcow2_bad_l1(const struct vd_qcow2 *qcow2, uint64_t guest, uint64_t value, const char *why,
                    struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG,
                      "%s: L1 entry %" PRIu64 " (disk offset %" PRIu64 ") is 0x%016" PRIx64
                      ": %s: run vdisk check",
                      vd_storage_name(qcow2->file), vd_qcow2_l1_index(&qcow2->geometry, guest),
                      vd_round_down(guest, qcow2->geometry.l2_span), value, why);
}

int vd_qcow2_bad_l2(const struct vd_qcow2 *qcow2, uint64_t guest, uint64_t value, const char *why,
                    struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG,
                      "%s: L2 entry %" PRIu32 " in the table of L1 entry %" PRIu64
                      " (disk offset %" PRIu64 ") is 0x%016" PRIx64 ": its cluster %s: run vdisk "
                      "check",
                      vd_storage_name(qcow2->file), vd_qcow2_l2_index(&qcow2->geometry, guest),
                      vd_qcow2_l1_index(&qcow2->geometry, guest),
                      vd_round_down(guest, qcow2->geometry.cluster_bytes), value, why);
}

/* How many bytes has the file?  It may have grown since it was looked at last, to @wanted. */
static int look_at_size(struct vd_storage *file, uint64_t wanted, uint64_t *known,
                        struct vdisk_error *err)
{
    uint64_t bytes;
    if (wanted <= *known)
        return 0;
    int ret = vd_storage_size(file, &bytes, err);
    if (ret == 0)
        *known = vd_max(*known, bytes);
    return ret;
}

/* W8: @value, not 0, is the L1 entry for @guest. */
static int check_table_locked(struct vd_qcow2 *qcow2, uint64_t guest, uint64_t value,
                              struct vdisk_error *err) VD_REQUIRES(qcow2->tables.lock)
{
    uint64_t table = value & VD_QCOW2_ENTRY_OFFSET;
    if (value & VD_QCOW2_L1_RESERVED)
        return vd_qcow2_bad_l1(qcow2, guest, value, "reserved bits are set", err);
    if (table == 0 || !vd_is_aligned(table, qcow2->geometry.cluster_bytes))
        return vd_qcow2_bad_l1(qcow2, guest, value, "is no multiple of the cluster size", err);
    int ret =
        look_at_size(qcow2->file, table + qcow2->geometry.cluster_bytes, &qcow2->file_bytes, err);
    /* A file may end within its last cluster: zeros follow. */
    if (ret == 0 && table >= qcow2->file_bytes)
        return vd_qcow2_bad_l1(qcow2, guest, value, "the table lies behind the end of the file",
                               err);
    return ret;
}

/*
 * The L1 entry for run->guest, at *value.  0: there is no table, and the run is measured.
 */
static int look_in_l1_locked(struct vd_qcow2 *qcow2, uint64_t limit, struct vd_qcow2_run *run,
                             uint64_t *value, struct vdisk_error *err)
    VD_REQUIRES(qcow2->tables.lock)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t index = vd_qcow2_l1_index(geometry, run->guest.offset);
    uint64_t end = (index + 1) * geometry->l2_span;
    bool waited = false; /* all below is learned afterwards */
    *value = 0;
    run->kind = VD_QCOW2_RUN_ABSENT;
    if (index >= qcow2->l1_entries) { /* a snapshot's, of a disk that was smaller */
        run->guest.length = limit - run->guest.offset;
        return 0;
    }
    uint64_t at = qcow2->l1_offset + index * sizeof(struct be64);
    int ret = vd_table_cache_get_locked(&qcow2->tables, at, &run->page, &waited, err);
    if (ret < 0)
        return ret;
    const struct be64 *l1 = vd_table_page_at(run->page, at);
    *value = be64_get(l1[0]);
    if (*value)
        return check_table_locked(qcow2, run->guest.offset, *value, err);
    uint64_t count = vd_min((vd_table_page_end(&qcow2->tables, run->page) - at) / sizeof(*l1),
                            qcow2->l1_entries - index);
    for (uint64_t i = 1; i < count && end < limit && be64_get(l1[i]) == 0; i++)
        end += geometry->l2_span;
    run->guest.length = vd_min(end, limit) - run->guest.offset;
    return 0;
}

/* The kind of subcluster @index of @entry. */
static enum vd_qcow2_kind kind_of(const struct vd_qcow2_entry *entry, uint32_t index)
{
    if (entry->is_encoded)
        return VD_QCOW2_RUN_ENCODED;
    if (entry->data >> index & 1)
        return VD_QCOW2_RUN_DATA;
    if (!(entry->zero >> index & 1))
        return VD_QCOW2_RUN_ABSENT;
    return entry->has_host ? VD_QCOW2_RUN_ZERO_AT : VD_QCOW2_RUN_ZERO;
}

/* Subclusters from @index on, of the kind of the first one; at most @most. */
static uint32_t count_kind(const struct vd_qcow2_entry *entry, uint32_t index, uint32_t most)
{
    enum vd_qcow2_kind kind = kind_of(entry, index);
    uint32_t count = 1;
    while (count < most && kind_of(entry, index + count) == kind)
        count++;
    return count;
}

/* W8: what decode() does not look at. */
static int check_entry_locked(struct vd_qcow2 *qcow2, uint64_t guest, uint64_t value,
                              struct vd_qcow2_entry *entry, struct vdisk_error *err)
    VD_REQUIRES(qcow2->tables.lock)
{
    if (qcow2->rules.has_data_file && entry->has_host &&
        entry->host != vd_round_down(guest, qcow2->geometry.cluster_bytes))
        return vd_qcow2_bad_l2(qcow2, guest, value,
                               "is not where the disk has it, as it has to be in a data file", err);
    if (!entry->is_encoded)
        return 0;
    uint64_t end = entry->host + entry->encoded_bytes;
    int ret = look_at_size(qcow2->file, end, &qcow2->file_bytes, err);
    if (ret < 0)
        return ret;
    if (entry->host >= qcow2->file_bytes)
        return vd_qcow2_bad_l2(qcow2, guest, value,
                               "is compressed, and lies behind the end of the file", err);
    /* The last sector need not be whole. */
    entry->encoded_bytes = (uint32_t)(vd_min(end, qcow2->file_bytes) - entry->host);
    return 0;
}

/*
 * How many whole clusters behind the first one go on as it, among @count entries?  The first one
 * is all of one kind.
 */
static uint64_t count_clusters(const struct vd_qcow2 *qcow2, const struct be64 *words,
                               uint64_t count, enum vd_qcow2_kind kind)
{
    size_t stride = qcow2->geometry.entry_bytes / sizeof(*words);
    bool has_place = kind == VD_QCOW2_RUN_DATA || kind == VD_QCOW2_RUN_ZERO_AT;
    uint64_t step = has_place ? qcow2->geometry.cluster_bytes : 0;
    uint64_t expected = be64_get(words[0]) + step;
    uint64_t subclusters = stride > 1 ? be64_get(words[1]) : 0;
    uint64_t more = 1;
    for (; more < count && be64_get(words[more * stride]) == expected; expected += step, more++)
        if (stride > 1 && be64_get(words[more * stride + 1]) != subclusters)
            break;
    return more - 1;
}

/* run->entries is the first of @count entries in run->page; the run begins in it. */
static int measure_locked(struct vd_qcow2 *qcow2, uint64_t count, uint64_t limit,
                          struct vd_qcow2_run *run, struct vdisk_error *err)
    VD_REQUIRES(qcow2->tables.lock)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    const struct be64 *words = vd_table_page_at(run->page, run->entries);
    struct vd_qcow2_entry entry;
    uint64_t start = run->guest.offset;
    uint64_t cluster = vd_round_down(start, geometry->cluster_bytes);
    vd_qcow2_wrong wrong = vd_qcow2_entry_decode(&qcow2->rules, words, &entry);
    if (wrong)
        return vd_qcow2_bad_l2(qcow2, start, be64_get(words[0]), wrong, err);
    int ret = check_entry_locked(qcow2, start, be64_get(words[0]), &entry, err);
    if (ret < 0)
        return ret;
    if (entry.is_encoded) {
        run->kind = VD_QCOW2_RUN_ENCODED;
        run->guest = vd_range(cluster, geometry->cluster_bytes);
        run->host = entry.host;
        run->encoded_bytes = entry.encoded_bytes;
        return 0;
    }
    uint32_t first = (uint32_t)((start - cluster) / geometry->subcluster_bytes);
    uint32_t last = count_kind(&entry, first, geometry->subclusters - first);
    run->kind = kind_of(&entry, first);
    run->is_copied = entry.is_copied;
    if (run->kind == VD_QCOW2_RUN_DATA || run->kind == VD_QCOW2_RUN_ZERO_AT)
        run->host = entry.host + (start - cluster);
    run->guest.length = (uint64_t)last * geometry->subcluster_bytes;
    /* A whole cluster of one kind: how many follow?  (With a place that nobody reads, one by one.)
     */
    bool is_plain = entry.data == vd_qcow2_all_subclusters(geometry) ||
                    entry.zero == vd_qcow2_all_subclusters(geometry) ||
                    (!entry.has_host && entry.zero == 0);
    if (is_plain && run->host)
        count = vd_min(count, ((UINT64_C(1) << VD_QCOW2_OFFSET_BITS) - entry.host) >>
                                  geometry->cluster_bits);
    if (is_plain)
        run->guest.length += count_clusters(qcow2, words, count, run->kind)
                             << geometry->cluster_bits;
    run->guest.length = vd_min(run->guest.length, limit - start);
    return 0;
}

int vd_qcow2_find_run_locked(struct vd_qcow2 *qcow2, struct vd_range guest,
                             struct vd_qcow2_run *run, struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t limit = vd_round_up(vd_range_end(guest), geometry->subcluster_bytes);
    uint64_t start = vd_round_down(guest.offset, geometry->subcluster_bytes);
    for (;;) {
        uint64_t l1;
        bool waited = false;
        *run = (struct vd_qcow2_run){.guest.offset = start};
        int ret = look_in_l1_locked(qcow2, limit, run, &l1, err);
        if (ret < 0 || l1 == 0)
            return ret;
        run->table = l1 & VD_QCOW2_ENTRY_OFFSET;
        run->table_is_copied = (l1 & VD_QCOW2_ENTRY_COPIED) != 0;
        run->entries =
            run->table + (uint64_t)vd_qcow2_l2_index(geometry, start) * geometry->entry_bytes;
        ret = vd_table_cache_get_locked(&qcow2->tables, run->entries, &run->page, &waited, err);
        if (ret < 0)
            return ret;
        /* What L1 says may have changed while the page was loaded. */
        if (!waited || !vd_format_is_writable(qcow2->format))
            break;
    }
    uint64_t end =
        vd_min(vd_table_page_end(&qcow2->tables, run->page), run->table + geometry->cluster_bytes);
    return measure_locked(qcow2, (end - run->entries) / geometry->entry_bytes, limit, run, err);
}

/* DATA: what is behind the end of the file reads as zero. */
static void answer_data(const struct vd_qcow2 *qcow2, const struct vd_qcow2_run *run,
                        struct vd_mapping *mapping)
{
    uint64_t host = run->host + (mapping->guest.offset - run->guest.offset);
    uint64_t bytes = qcow2->data == qcow2->file ? qcow2->file_bytes : qcow2->data_bytes;
    if (host >= bytes)
        return;
    mapping->kind = VD_MAP_DATA;
    mapping->guest.length = vd_min(mapping->guest.length, bytes - host);
    mapping->storage = qcow2->data;
    mapping->host_offset = host;
    if (!qcow2->cipher)
        return;
    mapping->cipher = qcow2->cipher;
    mapping->cipher_offset = vd_qcow2_cipher_offset(qcow2, mapping->guest.offset, host);
}

void vd_qcow2_answer(const struct vd_qcow2 *qcow2, struct vd_range guest,
                     const struct vd_qcow2_run *run, struct vd_mapping *mapping)
{
    uint64_t end = vd_min(vd_range_end(guest), vd_range_end(run->guest));
    mapping->guest = vd_range(guest.offset, end - guest.offset);
    mapping->kind = VD_MAP_ZERO;
    mapping->present = run->kind != VD_QCOW2_RUN_ABSENT;
    switch (run->kind) {
    case VD_QCOW2_RUN_ABSENT:
        if (qcow2->header.backing_name)
            mapping->kind = VD_MAP_BACKING;
        break;
    case VD_QCOW2_RUN_ZERO:
        break;
    case VD_QCOW2_RUN_ZERO_AT:
        mapping->storage = qcow2->data;
        mapping->host_offset = run->host + (guest.offset - run->guest.offset);
        break;
    case VD_QCOW2_RUN_DATA:
        answer_data(qcow2, run, mapping);
        break;
    case VD_QCOW2_RUN_ENCODED:
        mapping->kind = VD_MAP_ENCODED;
        mapping->storage = qcow2->file;
        mapping->host_offset = run->host;
        mapping->encoded_bytes = run->encoded_bytes;
        mapping->codec =
            qcow2->header.fields.compression_type == 0 ? VD_CODEC_DEFLATE : VD_CODEC_ZSTD;
        mapping->clusters = run->guest;
        break;
    }
}

/* Does @next, which lies behind @run in the disk, go on in the same way for a reader? */
static bool goes_on(const struct vd_qcow2_run *run, const struct vd_qcow2_run *next)
{
    bool is_zero = run->kind == VD_QCOW2_RUN_ZERO || run->kind == VD_QCOW2_RUN_ZERO_AT;
    if (is_zero)
        return next->kind == VD_QCOW2_RUN_ZERO || next->kind == VD_QCOW2_RUN_ZERO_AT;
    return next->kind == run->kind && run->kind != VD_QCOW2_RUN_ENCODED &&
           (run->kind != VD_QCOW2_RUN_DATA || next->host == run->host + run->guest.length);
}

static int find_all_locked(struct vd_qcow2 *qcow2, struct vd_range guest, struct vd_qcow2_run *run,
                           struct vdisk_error *err) VD_REQUIRES(qcow2->tables.lock)
{
    int ret = vd_qcow2_find_run_locked(qcow2, guest, run, err);
    for (unsigned i = 1; ret == 0 && i < MAP_PAGES; i++) {
        uint64_t end = vd_range_end(run->guest);
        struct vd_qcow2_run next;
        /* An error there is for the request that comes to it. */
        if (end >= vd_range_end(guest) ||
            vd_qcow2_find_run_locked(qcow2, vd_range(end, vd_range_end(guest) - end), &next, NULL) <
                0 ||
            !goes_on(run, &next))
            break;
        run->guest.length += next.guest.length;
    }
    if (ret < 0 || run->kind != VD_QCOW2_RUN_DATA)
        return ret;
    uint64_t end = run->host + run->guest.length;
    return qcow2->data == qcow2->file ? look_at_size(qcow2->file, end, &qcow2->file_bytes, err)
                                      : look_at_size(qcow2->data, end, &qcow2->data_bytes, err);
}

int vd_qcow2_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
                 struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    struct vd_qcow2_run run;
    vd_mutex_lock(&qcow2->tables.lock);
    int ret = find_all_locked(qcow2, guest, &run, err);
    if (ret == 0)
        vd_qcow2_answer(qcow2, guest, &run, mapping);
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}

int vd_qcow2_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                     struct vd_mapping *mapping)
{
    struct vd_qcow2 *qcow2 = format->state;
    struct vd_qcow2_run run;
    if (for_write && !vd_qcow2_is_recorded(qcow2, guest))
        return -EAGAIN;
    vd_mutex_lock(&qcow2->tables.lock);
    qcow2->tables.is_trying = true;
    int ret = for_write ? vd_qcow2_find_run_locked(qcow2, guest, &run, NULL)
                        : find_all_locked(qcow2, guest, &run, NULL);
    qcow2->tables.is_trying = false;
    if (ret == 0 && for_write)
        ret = vd_qcow2_try_in_place_locked(qcow2, guest, &run, mapping);
    else if (ret == 0)
        vd_qcow2_answer(qcow2, guest, &run, mapping);
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}
