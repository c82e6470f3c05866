/* SPDX-License-Identifier: MIT */
/* Making changes durable in an order that a power cut can not turn into a lie: Q1, Q2. */
#include "format/qed/qed_priv.h"

static bool is_in_new_table(const void *opaque, uint64_t offset)
{
    const uint64_t *boundary = opaque;
    return offset >= *boundary;
}

static bool is_in_old_table(const void *opaque, uint64_t offset)
{
    return !is_in_new_table(opaque, offset);
}

/* What is published after this belongs to the next flush. */
static int take_changes(struct vd_qed *qed, struct vd_table_snapshot *changes, uint64_t *boundary,
                        struct vdisk_error *err)
{
    vd_mutex_lock(&qed->tables.lock);
    int ret = vd_table_cache_snapshot_locked(&qed->tables, changes, err);
    *boundary = qed->boundary;
    if (qed->is_scanned)
        qed->boundary = qed->end; /* Q2: the entries that lead to all before are in @changes */
    vd_mutex_unlock(&qed->tables.lock);
    return ret;
}

static int write_changes(struct vd_qed *qed, const struct vd_table_snapshot *changes,
                         uint64_t boundary, struct vdisk_error *err)
{
    int ret = vd_table_snapshot_write_some(&qed->tables, changes, is_in_new_table, &boundary, err);
    if (ret == 0)
        ret = vd_storage_flush(qed->file, err); /* the data, too */
    if (ret < 0 || changes->piece_entries == 0)
        return ret;
    ret = vd_table_snapshot_write_some(&qed->tables, changes, is_in_old_table, &boundary, err);
    return ret < 0 ? ret : vd_storage_flush(qed->file, err);
}

/* What a failed flush took counts as written and is not, so that ends all changes, whoever asked.
 */
static int flush_alone(struct vd_qed *qed, struct vdisk_error *err) VD_REQUIRES(qed->flush_lock)
{
    struct vd_table_snapshot changes;
    uint64_t boundary;
    struct vdisk_error inner = {0};
    int ret = take_changes(qed, &changes, &boundary, &inner);
    if (ret == 0) {
        ret = write_changes(qed, &changes, boundary, &inner);
        vd_table_snapshot_end(&qed->tables, &changes, ret == 0);
    }
    if (ret == 0)
        return 0;
    vd_format_fail(qed->format, &inner);
    return vd_err_copy(err, &inner);
}

int vd_qed_flush(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_qed *qed = format->state;
    vd_mutex_lock(&qed->flush_lock);
    int ret = flush_alone(qed, err);
    vd_mutex_unlock(&qed->flush_lock);
    return ret;
}

static bool is_strained(struct vd_qed *qed)
{
    vd_mutex_lock(&qed->tables.lock);
    bool answer = vd_table_cache_is_strained_locked(&qed->tables);
    vd_mutex_unlock(&qed->tables.lock);
    return answer;
}

int vd_qed_relieve(struct vd_qed *qed, struct vdisk_error *err)
{
    int ret = 0;
    if (!is_strained(qed))
        return 0;
    vd_mutex_lock(&qed->flush_lock);
    if (is_strained(qed)) /* it may have been another thread's work meanwhile */
        ret = flush_alone(qed, err);
    vd_mutex_unlock(&qed->flush_lock);
    return ret;
}

int vd_qed_replace_header(struct vd_qed *qed, const struct vd_qed_header *next,
                          struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = vd_qed_header_write(qed->file, next, &inner);
    if (ret == 0)
        ret = vd_storage_flush(qed->file, &inner);
    if (ret < 0) {
        vd_err_prefix(&inner, ret, "header: ");
        vd_format_fail(qed->format, &inner);
        return vd_err_copy(err, &inner);
    }
    qed->header = *next;
    return 0;
}

int vd_qed_finish(struct vd_qed *qed, struct vdisk_error *err)
{
    int ret = vd_qed_flush(qed->format, err);
    return ret < 0 ? ret : vd_qed_trim(qed, err);
}
