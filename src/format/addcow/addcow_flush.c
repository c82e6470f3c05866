/* SPDX-License-Identifier: MIT */
/* Making changes durable, in two files.  add-cow §5.1. */
#include "format/addcow/addcow_priv.h"

/* A1: bits that are set after this belong to the next flush. */
static int take_changes(struct vd_addcow *cow, struct vd_table_snapshot *changes,
                        struct vdisk_error *err)
{
    int ret = 0;
    *changes = (struct vd_table_snapshot){0};
    vd_mutex_lock(&cow->bits->lock);
    if (cow->bits_have_changed)
        ret = vd_table_cache_snapshot_locked(cow->bits, changes, err);
    if (ret == 0)
        cow->bits_have_changed = false;
    vd_mutex_unlock(&cow->bits->lock);
    return ret;
}

/* @data_first: the data of clusters whose bits changed is not known to be durable. */
static int write_changes(struct vd_addcow *cow, bool data_first, bool is_durable,
                         struct vdisk_error *err)
{
    struct vd_table_snapshot changes;
    int ret = take_changes(cow, &changes, err);
    if (ret < 0)
        return ret;
    if (data_first)
        ret = vd_storage_flush(cow->data, err);
    bool has_bits = changes.piece_entries > 0;
    if (ret == 0 && has_bits)
        ret = vd_table_snapshot_write(cow->bits, &changes, err);
    if (ret == 0 && is_durable && (has_bits || !data_first))
        ret = vd_storage_flush(cow->file, err);
    vd_table_snapshot_end(cow->bits, &changes, ret == 0);
    return ret;
}

/* What a failed flush took counts as written and is not, so that ends all changes. */
static int or_fail(struct vd_addcow *cow, int ret, const struct vdisk_error *inner,
                   struct vdisk_error *err)
{
    if (ret == 0)
        return 0;
    vd_format_fail(cow->format, inner);
    return vd_err_copy(err, inner);
}

int vd_addcow_flush(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    struct vdisk_error inner = {0};
    vd_mutex_lock(&cow->flush_lock);
    int ret = or_fail(cow, write_changes(cow, true, true, &inner), &inner, err);
    vd_mutex_unlock(&cow->flush_lock);
    return ret;
}

int vd_addcow_write_bits(struct vd_addcow *cow, bool is_durable, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    return or_fail(cow, write_changes(cow, false, is_durable, &inner), &inner, err);
}

int vd_addcow_flush_file(struct vd_addcow *cow, struct vd_storage *storage, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    return or_fail(cow, vd_storage_flush(storage, &inner), &inner, err);
}
