/* SPDX-License-Identifier: MIT */
/* Making changes durable in an order that a power cut can not turn into a lie.  gow §6. */
#include "format/gow/gow_priv.h"

/* G3: what is published after this belongs to the next flush. */
static int take_changes(struct vd_gow *gow, bool is_last, struct vd_table_snapshot *changes,
                        struct vdisk_error *err)
{
    int ret = 0;
    *changes = (struct vd_table_snapshot){0};
    vd_mutex_lock(&gow->tables.lock);
    /* Versions alone need not be durable before the session ends. */
    if (gow->map_has_changed || is_last)
        ret = vd_table_cache_snapshot_locked(&gow->tables, changes, err);
    if (ret == 0) {
        gow->map_has_changed = false;
        assert(gow->unmapping.count == 0);
        struct vd_bits unmapped = gow->unmapped;
        gow->unmapped = gow->unmapping;
        gow->unmapping = unmapped;
    }
    vd_mutex_unlock(&gow->tables.lock);
    return ret;
}

/* Moves all of @from to @to, which has none of them. */
static void move_all(struct vd_bits *to, struct vd_bits *from)
{
    if (to->count == 0) {
        struct vd_bits empty = *to;
        *to = *from;
        *from = empty;
    } else if (vd_bits_reserve(to, vd_bits_end(from), NULL) == 0) {
        vd_bits_add_all(to, from);
    } /* else they stay used until the next session looks at the map */
    vd_bits_clear(from);
}

/* G4: host blocks that may be used again now, in *idle, and still are in `used`. */
static void take_idle(struct vd_gow *gow, struct vd_bits *idle)
{
    vd_mutex_lock(&gow->tables.lock);
    move_all(&gow->durable, &gow->unmapping);
    *idle = (struct vd_bits){0};
    for (;;) {
        if (gow->waiting.count == 0 && gow->durable.count > 0) {
            move_all(&gow->waiting, &gow->durable);
            gow->waiting_point = vd_format_point(gow->format);
        }
        if (gow->waiting.count == 0 || !vd_format_point_is_past(gow->format, gow->waiting_point))
            break;
        move_all(idle, &gow->waiting);
    }
    vd_mutex_unlock(&gow->tables.lock);
}

/* Gives the space of unmapped blocks back. */
static void release_unmapped(struct vd_gow *gow)
{
    struct vd_bits idle;
    take_idle(gow, &idle);
    uint32_t host;
    uint32_t count;
    for (uint32_t from = 0; (count = vd_bits_next_run(&idle, from, &host)) > 0;
         from = host + count) {
        /* A failure costs space, no data: it is not worth failing for. */
        (void)vd_storage_discard(
            gow->file,
            vd_range(vd_gow_host_offset(&gow->layout, host), (uint64_t)count * VD_GOW_BLOCK_BYTES),
            NULL);
        vd_mutex_lock(&gow->tables.lock);
        vd_gow_give_back_locked(gow, host, count);
        vd_mutex_unlock(&gow->tables.lock);
    }
    vd_bits_free(&idle);
}

static int write_changes(struct vd_gow *gow, bool is_last, struct vdisk_error *err)
    VD_REQUIRES(gow->flush_lock)
{
    struct vd_table_snapshot changes;
    int ret = take_changes(gow, is_last, &changes, err);
    if (ret < 0)
        return ret;
    ret = vd_storage_flush(gow->file, err);
    if (ret == 0 && changes.piece_entries) {
        ret = vd_table_snapshot_write(&gow->tables, &changes, err);
        if (ret == 0)
            ret = vd_storage_flush(gow->file, err);
    }
    vd_table_snapshot_end(&gow->tables, &changes, ret == 0);
    if (ret == 0)
        release_unmapped(gow);
    return ret;
}

/* What a failed flush took counts as written and is not, so that ends all changes, whoever asked.
 */
static int flush_alone(struct vd_gow *gow, bool is_last, struct vdisk_error *err)
    VD_REQUIRES(gow->flush_lock)
{
    struct vdisk_error inner = {0};
    if (write_changes(gow, is_last, &inner) == 0)
        return 0;
    vd_format_fail(gow->format, &inner);
    return vd_err_copy(err, &inner);
}

int vd_gow_flush(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    vd_mutex_lock(&gow->flush_lock);
    int ret = flush_alone(gow, false, err);
    vd_mutex_unlock(&gow->flush_lock);
    return ret;
}

int vd_gow_finish(struct vd_gow *gow, struct vdisk_error *err)
{
    vd_mutex_lock(&gow->session_lock);
    bool has_begun = gow->session_has_begun;
    vd_mutex_unlock(&gow->session_lock);
    if (!has_begun)
        return 0;
    vd_mutex_lock(&gow->flush_lock);
    int ret = flush_alone(gow, true, err);
    vd_mutex_unlock(&gow->flush_lock);
    if (ret == 0)
        ret = vd_gow_trim(gow, err);
    return ret < 0 ? ret : vd_gow_unmark(gow, err);
}
