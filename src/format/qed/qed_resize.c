/* SPDX-License-Identifier: MIT */
/* A new size for the disk of a QED image, and forgetting its data.  No other call runs. */
#include <inttypes.h>
#include <stdlib.h>

#include "format/qed/qed_priv.h"

/*
 * Makes allocated clusters in @guest read as zero, from its start on and up to the end of the
 * clusters that its end touches; unallocated ones below @backing_bytes become zero clusters.
 */
static int clean(struct vd_qed *qed, struct vd_range guest, uint64_t backing_bytes,
                 struct vdisk_error *err)
{
    uint64_t end = vd_round_up(vd_range_end(guest), qed->geometry.cluster_bytes);
    uint64_t start = guest.offset;
    while (start < end) {
        struct vd_qed_run run;
        struct vd_range rest = vd_range(start, end - start);
        vd_mutex_lock(&qed->tables.lock);
        int ret = vd_qed_find_run_locked(qed, rest, &run, err);
        vd_mutex_unlock(&qed->tables.lock);
        /* The cluster with the old end was dealt with by who knows what it hid. */
        bool is_whole = vd_is_aligned(start, qed->geometry.cluster_bytes);
        if (ret == 0 && run.kind == VD_QED_RUN_ABSENT && is_whole && start < backing_bytes) {
            rest.length = vd_min(rest.length,
                                 vd_round_up(backing_bytes - start, qed->geometry.cluster_bytes));
            ret = vd_qed_set_zero(qed, rest, &run, err);
        }
        uint64_t skip = start - run.guest.offset;
        if (ret == 0 && run.kind == VD_QED_RUN_DATA)
            ret = vd_storage_write_zeroes(qed->file,
                                          vd_range(run.host + skip, run.guest.length - skip),
                                          VD_STORAGE_ZERO_MAY_PUNCH, err);
        if (ret < 0)
            return ret;
        start = vd_range_end(run.guest);
    }
    return 0;
}

/* The header is the last to change, so that what becomes visible is clean. */
static int grow(struct vd_qed *qed, const struct vd_qed_header *next, uint64_t backing_bytes,
                struct vdisk_error *err)
{
    uint64_t size = qed->header.size;
    int ret = clean(qed, vd_range(size, next->size - size), backing_bytes, err);
    if (ret == 0)
        ret = vd_qed_flush(qed->format, err);
    return ret < 0 ? ret : vd_qed_replace_header(qed, next, err);
}

/*
 * The header is the first to change, so that nothing of the old disk is lost before.  What is cut
 * off is zeroed for who makes the disk larger without looking; grow() looks.
 */
static int shrink(struct vd_qed *qed, const struct vd_qed_header *next, struct vdisk_error *err)
{
    struct vd_range cut = vd_range(next->size, qed->header.size - next->size);
    int ret = vd_qed_flush(qed->format, err);
    if (ret == 0)
        ret = vd_qed_replace_header(qed, next, err);
    if (ret < 0)
        return ret;
    qed->format->size = next->size;
    (void)clean(qed, cut, 0, NULL);
    return vd_qed_flush(qed->format, err);
}

int vd_qed_resize(struct vd_format *format, const struct vd_resize *resize, struct vdisk_error *err)
{
    struct vd_qed *qed = format->state;
    struct vd_qed_header next = qed->header;
    next.size = resize->size;
    if (resize->preallocation != VDISK_PREALLOCATION_OFF)
        return vd_err_set(err, EINVAL, "%s: preallocation: QED images grow as they are written",
                          vd_storage_name(qed->file));
    int ret = vd_qed_check_size(&qed->geometry, resize->size, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "%s: ", vd_storage_name(qed->file));
    if (resize->size == format->size)
        return vd_qed_flush(format, err);
    if (resize->size > format->size)
        ret = grow(qed, &next, resize->backing_bytes, err);
    else
        ret = shrink(qed, &next, err);
    if (ret == 0)
        format->size = resize->size;
    return ret;
}

/* The file ends behind the L1 table, which is empty. */
static int cut(struct vd_qed *qed, struct vdisk_error *err)
{
    uint64_t end = vd_range_end(qed->l1);
    int ret = qed->can_resize ? vd_storage_resize(qed->file, end, err) : 0;
    if (ret < 0)
        return ret;
    vd_table_cache_forget(&qed->tables);
    vd_mutex_lock(&qed->tables.lock);
    free(qed->free.runs);
    qed->free = (struct vd_qed_free){0};
    qed->is_scanned = false; /* the next allocation looks again, which is cheap now */
    qed->boundary = UINT64_MAX;
    if (qed->can_resize)
        qed->file_bytes = end;
    vd_mutex_unlock(&qed->tables.lock);
    return vd_storage_flush(qed->file, err);
}

int vd_qed_empty(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_qed *qed = format->state;
    struct vdisk_error inner = {0};
    /* With all durable, every part of L1 may become zero alone, and nothing is cached but what the
     * file has. */
    int ret = vd_qed_flush(format, err);
    if (ret < 0)
        return ret;
    ret = vd_storage_write_zeroes(qed->file, qed->l1, VD_STORAGE_ZERO_MAY_PUNCH, &inner);
    if (ret == 0)
        ret = vd_storage_flush(qed->file, &inner);
    if (ret == 0)
        ret = cut(qed, &inner);
    if (ret == 0)
        return 0;
    vd_format_fail(format, &inner);
    return vd_err_copy(err, &inner);
}
