/* SPDX-License-Identifier: MIT */
/* How is a part of a qcow2 image made to read as zero? */
#include "format/qcow2/qcow2_bitmap.h"
#include "format/qcow2/qcow2_write.h"

enum answer {
    ANSWER_ZERO,   /* it reads as zero, or may stay as it is */
    ANSWER_WRITE,  /* zeros have to be written */
    ANSWER_CHANGE, /* by its L2 entries */
};

/* The whole subclusters at the start of @guest; the last one of the disk is whole if @guest has its
 * end. */
static struct vd_range whole_of(const struct vd_qcow2 *qcow2, struct vd_range guest, uint64_t unit)
{
    if (!vd_is_aligned(guest.offset, unit))
        return vd_range(guest.offset, 0);
    if (vd_range_end(guest) == qcow2->format->size)
        return vd_range_expand(guest, unit);
    return vd_range(guest.offset, vd_round_down(guest.length, unit));
}

/* What is done with the start of @guest, which @run begins with; run->guest is shortened to what
 * the answer is for. */
static enum answer decide(const struct vd_qcow2 *qcow2, struct vd_range guest, unsigned flags,
                          struct vd_qcow2_run *run)
{
    bool has_backing = qcow2->header.backing_name != NULL;
    bool is_raw = (qcow2->header.fields.autoclear & VD_QCOW2_DATA_RAW) != 0;
    bool may_unmap = (flags & VD_MAP_ZERO_MAY_UNMAP) != 0;
    uint64_t unit = qcow2->geometry.subcluster_bytes;
    if (qcow2->rules.has_data_file && is_raw)
        return ANSWER_WRITE; /* the data file alone is the disk */
    if (run->kind == VD_QCOW2_RUN_ABSENT && !has_backing)
        return ANSWER_ZERO;
    if (run->kind == VD_QCOW2_RUN_ABSENT && (flags & VD_MAP_ZERO_DISCARD))
        return ANSWER_ZERO; /* as if: it may stay */
    if (run->kind == VD_QCOW2_RUN_ZERO)
        return ANSWER_ZERO;
    if (run->kind == VD_QCOW2_RUN_ENCODED)
        unit = qcow2->geometry.cluster_bytes;
    struct vd_range whole = whole_of(qcow2, guest, unit);
    bool can_change = qcow2->rules.has_zero || !has_backing;
    if (whole.length == 0 || !can_change) {
        if (whole.length == 0) {
            uint64_t end = vd_round_down(guest.offset, unit) + unit;
            run->guest.length = vd_min(end, vd_range_end(run->guest)) - run->guest.offset;
        }
        if (run->kind == VD_QCOW2_RUN_ZERO_AT || (flags & VD_MAP_ZERO_DISCARD))
            return ANSWER_ZERO;
        return ANSWER_WRITE;
    }
    uint64_t end = vd_min(vd_range_end(whole), vd_range_end(run->guest));
    run->guest = vd_range(run->guest.offset, end - run->guest.offset);
    return run->kind == VD_QCOW2_RUN_ZERO_AT && !may_unmap ? ANSWER_ZERO : ANSWER_CHANGE;
}

/* Subclusters of @mask are zero from now on; *gives_up: the place of @old is not needed. */
static struct vd_qcow2_entry zeroed(const struct vd_qcow2 *qcow2, const struct vd_qcow2_entry *old,
                                    uint32_t mask, bool may_unmap, bool *gives_up)
{
    struct vd_qcow2_entry next = *old;
    bool can_stay = old->has_host && old->is_copied && !may_unmap;
    if (old->is_encoded)
        next = (struct vd_qcow2_entry){0};
    next.data &= ~mask;
    next.zero |= mask;
    *gives_up = old->is_encoded;
    if (next.has_host && next.data == 0 && !can_stay) {
        next.has_host = false;
        next.is_copied = false;
        next.host = 0;
        *gives_up = true;
    }
    if (!qcow2->rules.has_zero) {
        *gives_up = old->is_encoded || old->has_host;
        next = (struct vd_qcow2_entry){0};
    }
    return next;
}

/* W3: what the entry gives up. */
static void give_up_locked(struct vd_qcow2 *qcow2, const struct vd_qcow2_entry *old)
    VD_REQUIRES(qcow2->tables.lock)
{
    if (qcow2->data != qcow2->file)
        vd_qcow2_unreserve_locked(qcow2, 1);
    else if (old->is_encoded)
        vd_qcow2_release_locked(
            qcow2, old->host,
            vd_qcow2_encoded_clusters(&qcow2->geometry, old->host, old->encoded_bytes));
    else
        vd_qcow2_release_locked(qcow2, old->host, 1);
}

/* @old at @bytes becomes @next; @gives_up: and its place is released, which there is room for. */
static void replace_locked(struct vd_qcow2 *qcow2, void *bytes, const struct vd_qcow2_entry *old,
                           const struct vd_qcow2_entry *next, bool gives_up)
    VD_REQUIRES(qcow2->tables.lock)
{
    vd_qcow2_entry_encode(&qcow2->rules, next, bytes);
    if (gives_up)
        give_up_locked(qcow2, old);
    else
        vd_qcow2_unreserve_locked(qcow2, 1);
}

/* Room to release as many places as there are entries is reserved. */
static void change_locked(struct vd_qcow2 *qcow2, const struct vd_qcow2_run *run, uint64_t entries,
                          unsigned flags) VD_REQUIRES(qcow2->tables.lock)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    uint64_t cluster = vd_round_down(run->guest.offset, geometry->cluster_bytes);
    for (uint64_t i = 0; i < entries; i++, cluster += geometry->cluster_bytes) {
        void *bytes = vd_table_page_at(run->page, run->entries + i * geometry->entry_bytes);
        struct vd_qcow2_entry old;
        bool gives_up;
        (void)vd_qcow2_entry_decode(&qcow2->rules, bytes, &old);
        uint32_t mask = vd_qcow2_mask_of(geometry, cluster, run->guest);
        struct vd_qcow2_entry next =
            zeroed(qcow2, &old, mask, (flags & VD_MAP_ZERO_MAY_UNMAP) != 0, &gives_up);
        replace_locked(qcow2, bytes, &old, &next, gives_up);
    }
    vd_table_page_changed_locked(&qcow2->tables, run->page, run->entries,
                                 (size_t)entries * geometry->entry_bytes);
}

static void answer(struct vd_range guest, const struct vd_qcow2_run *run, enum vd_map_kind kind,
                   struct vd_mapping *mapping)
{
    uint64_t end = vd_min(vd_range_end(guest), vd_range_end(run->guest));
    mapping->kind = kind;
    mapping->present = true;
    mapping->guest = vd_range(guest.offset, end - guest.offset);
}

/* By the entries; or, if they are others than they were, *is_done stays false. */
static int change(struct vd_qcow2 *qcow2, struct vd_range guest, unsigned flags,
                  struct vd_qcow2_run *run, bool *is_done, struct vdisk_error *err)
{
    const char *other = NULL;
    uint64_t where, entries = 0;
    vd_mutex_lock(&qcow2->tables.lock);
    int ret = vd_qcow2_find_to_change_locked(qcow2, guest, run, err);
    if (ret == 0 && decide(qcow2, guest, flags, run) == ANSWER_CHANGE) {
        entries = vd_range_expand(run->guest, qcow2->geometry.cluster_bytes).length >>
                  qcow2->geometry.cluster_bits;
        other = vd_qcow2_hit_entries_locked(qcow2, run, entries, &where);
        if (!other)
            ret = vd_qcow2_reserve_releases_locked(qcow2, (size_t)entries, err);
        *is_done = !other && ret == 0;
    }
    if (*is_done)
        change_locked(qcow2, run, entries, flags);
    vd_mutex_unlock(&qcow2->tables.lock);
    return other ? vd_qcow2_overlap(qcow2, "data", other, where, err) : ret;
}

/*
 * What the data file has there is not read any more, so its space is given back at once: until the
 * entries are durable a power cut leaves the old data or zeros.  Not of encrypted images, where
 * zeros would be decrypted then.
 */
static void punch_data(const struct vd_qcow2 *qcow2, struct vd_range guest)
{
    uint64_t size;
    if (qcow2->data == qcow2->file || qcow2->header.fields.crypt_method != VD_QCOW2_CRYPT_NONE ||
        !(vd_storage_caps(qcow2->data) & VD_STORAGE_CAN_DISCARD) ||
        vd_storage_size(qcow2->data, &size, NULL) < 0 || guest.offset >= size)
        return;
    guest.length = vd_min(guest.length, size - guest.offset);
    (void)vd_storage_discard(qcow2->data, guest, NULL);
}

int vd_qcow2_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                      struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    int ret = vd_qcow2_begin(qcow2, err);
    if (ret == 0)
        ret = vd_qcow2_record(qcow2, guest, err);
    if (ret == 0)
        ret = vd_qcow2_relieve(qcow2, err);
    while (ret == 0) {
        struct vd_qcow2_run run;
        bool is_done = false;
        vd_mutex_lock(&qcow2->tables.lock);
        ret = vd_qcow2_find_run_locked(qcow2, guest, &run, err);
        enum answer what = ret == 0 ? decide(qcow2, guest, flags, &run) : ANSWER_ZERO;
        if (what == ANSWER_WRITE && vd_qcow2_is_in_place(qcow2, &run))
            return vd_qcow2_answer_in_place(qcow2, guest, &run, mapping, err);
        vd_mutex_unlock(&qcow2->tables.lock);
        if (ret < 0)
            break;
        if (what == ANSWER_CHANGE)
            ret = change(qcow2, guest, flags, &run, &is_done, err);
        if (ret == 0 && (is_done || what != ANSWER_CHANGE)) {
            answer(guest, &run, what == ANSWER_WRITE ? VD_MAP_BACKING : VD_MAP_ZERO, mapping);
            if (is_done && (flags & VD_MAP_ZERO_MAY_UNMAP))
                punch_data(qcow2, mapping->guest);
            break;
        }
    }
    return ret;
}

/* The first @entries of @run become absent. */
static void forget_locked(struct vd_qcow2 *qcow2, const struct vd_qcow2_run *run, uint64_t entries)
    VD_REQUIRES(qcow2->tables.lock)
{
    static const struct vd_qcow2_entry absent = {0};
    uint32_t entry_bytes = qcow2->geometry.entry_bytes;
    for (uint64_t i = 0; i < entries; i++) {
        void *bytes = vd_table_page_at(run->page, run->entries + i * entry_bytes);
        struct vd_qcow2_entry old;
        (void)vd_qcow2_entry_decode(&qcow2->rules, bytes, &old);
        replace_locked(qcow2, bytes, &old, &absent, old.is_encoded || old.has_host);
    }
    vd_table_page_changed_locked(&qcow2->tables, run->page, run->entries,
                                 (size_t)entries * entry_bytes);
}

int vd_qcow2_forget_run(struct vd_qcow2 *qcow2, struct vd_range guest, uint64_t *done,
                        struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &qcow2->geometry;
    const char *other = NULL;
    struct vd_qcow2_run run;
    uint64_t where, entries = 0;
    int ret = vd_qcow2_relieve(qcow2, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->tables.lock);
    ret = vd_qcow2_find_to_change_locked(qcow2, guest, &run, err);
    if (ret == 0) {
        entries =
            vd_range_expand(run.guest, geometry->cluster_bytes).length >> geometry->cluster_bits;
        other = vd_qcow2_hit_entries_locked(qcow2, &run, entries, &where);
    }
    if (ret == 0 && !other)
        ret = vd_qcow2_reserve_releases_locked(qcow2, (size_t)entries, err);
    if (ret == 0 && !other)
        forget_locked(qcow2, &run, entries);
    vd_mutex_unlock(&qcow2->tables.lock);
    *done = vd_round_down(guest.offset, geometry->cluster_bytes) +
            (entries << geometry->cluster_bits) - guest.offset;
    return other ? vd_qcow2_overlap(qcow2, "data", other, where, err) : ret;
}
