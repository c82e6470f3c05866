/* SPDX-License-Identifier: MIT */
/* Where may a GOW image be written, and how is it made to read as zero? */
#include "format/gow/gow_priv.h"

int vd_gow_ready_locked(struct vd_gow *gow, struct vd_gow_run *run, bool changes_map, bool *waited,
                        struct vdisk_error *err)
{
    int ret = 0;
    bool must_scan = changes_map && !gow->used_is_known;
    if (must_scan || !vd_gow_is_marked(gow, run->first, run->count)) {
        *waited = true;
        vd_mutex_unlock(&gow->tables.lock);
        ret = vd_gow_mark(gow, run->first, run->count, err); /* G1 */
        if (ret == 0 && must_scan)
            ret = vd_gow_scan(gow, err); /* G5 */
        vd_mutex_lock(&gow->tables.lock);
    }
    if (ret == 0 && !*waited && gow->layout.version == 3)
        ret = vd_gow_bump_locked(gow, run, waited, err); /* G2 */
    return ret;
}

/*
 * The run at the start of @guest, ready to be written: its data if it is allocated, else its map
 * entries, if @allocate.
 */
static int find_ready_locked(struct vd_gow *gow, struct vd_range guest, bool allocate,
                             struct vd_gow_run *run, struct vdisk_error *err)
    VD_REQUIRES(gow->tables.lock)
{
    for (;;) {
        bool waited = false;
        int ret = vd_gow_find_run_locked(gow, guest, run, err);
        bool is_allocated = run->host != VD_GOW_UNALLOCATED;
        if (ret < 0 || (!is_allocated && !allocate))
            return ret;
        ret = vd_gow_ready_locked(gow, run, !is_allocated, &waited, err);
        if (ret < 0 || !waited)
            return ret;
    }
}

/* G6.  The page with the map entries of @run is pinned, for write_done() to change. */
static int answer_fresh(struct vd_gow *gow, struct vd_range guest, struct vd_gow_run *run,
                        struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_gow_space space;
    int ret = vd_gow_take(gow, run->count, &space, err);
    if (ret < 0) {
        vd_mutex_lock(&gow->tables.lock);
        vd_table_cache_unpin_locked(&gow->tables,
                                    vd_gow_map_entry_offset(&gow->layout, run->first));
        vd_mutex_unlock(&gow->tables.lock);
        return ret;
    }
    run->host = space.host;
    run->count = space.count;
    vd_gow_answer(gow, guest, run, mapping);
    mapping->fresh = true;
    mapping->fill = space.fill;
    mapping->clusters =
        vd_range(vd_gow_guest_offset(run->first), (uint64_t)run->count * VD_GOW_BLOCK_BYTES);
    mapping->token = space.host;
    return 0;
}

int vd_gow_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                         struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    struct vd_gow_run run;
    vd_mutex_lock(&gow->tables.lock);
    int ret = find_ready_locked(gow, guest, allocate, &run, err);
    bool is_fresh = ret == 0 && allocate && run.host == VD_GOW_UNALLOCATED;
    if (is_fresh)
        vd_table_cache_pin_locked(&gow->tables, vd_gow_map_entry_offset(&gow->layout, run.first));
    vd_mutex_unlock(&gow->tables.lock);

    if (is_fresh)
        return answer_fresh(gow, guest, &run, mapping, err);
    if (ret == 0)
        vd_gow_answer(gow, guest, &run, mapping);
    return ret;
}

void vd_gow_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok)
{
    struct vd_gow *gow = format->state;
    struct vd_gow_run run = {
        .first = vd_gow_block_of(mapping->clusters.offset),
        .count = vd_gow_block_of(mapping->clusters.length),
    };
    uint32_t host = (uint32_t)mapping->token;
    vd_mutex_lock(&gow->tables.lock);
    run.page =
        vd_table_cache_unpin_locked(&gow->tables, vd_gow_map_entry_offset(&gow->layout, run.first));
    if (ok)
        vd_gow_set_entries_locked(gow, &run, host);
    else
        vd_gow_give_back_locked(gow, host, run.count);
    vd_mutex_unlock(&gow->tables.lock);
}

int vd_gow_unmap_locked(struct vd_gow *gow, const struct vd_gow_run *run, struct vdisk_error *err)
{
    int ret = vd_bits_reserve(&gow->unmapped, gow->file_hosts, err);
    if (ret < 0)
        return ret;
    for (uint32_t i = 0; i < run->count; i++)
        vd_bits_add(&gow->unmapped, run->host + i); /* G4 */
    vd_gow_set_entries_locked(gow, run, VD_GOW_UNALLOCATED);
    return 0;
}

/* Whole blocks at the start of @guest; the last one of the disk is whole if @guest has its end. */
static uint32_t count_whole(const struct vd_gow *gow, struct vd_range guest)
{
    if (!vd_is_aligned(guest.offset, VD_GOW_BLOCK_BYTES))
        return 0;
    uint64_t length = guest.length;
    if (vd_range_end(guest) == gow->format->size)
        length = vd_round_up(length, VD_GOW_BLOCK_BYTES);
    return vd_gow_block_of(length);
}

/* Makes *run, at the start of @guest, read as zero, or ready for zeros to be written: see @unmap.
 */
static int zero_locked(struct vd_gow *gow, struct vd_range guest, bool discard,
                       struct vd_gow_run *run, struct vdisk_error *err)
    VD_REQUIRES(gow->tables.lock)
{
    uint32_t whole = count_whole(gow, guest);
    for (;;) {
        bool waited = false;
        int ret = vd_gow_find_run_locked(gow, guest, run, err);
        if (ret < 0 || run->host == VD_GOW_UNALLOCATED)
            return ret;
        run->count = whole ? (uint32_t)vd_min(run->count, whole) : 1;
        if (!whole && discard) {
            run->host = VD_GOW_UNALLOCATED; /* as if: it may stay */
            return 0;
        }
        ret = vd_gow_ready_locked(gow, run, whole > 0, &waited, err);
        if (ret == 0 && !waited && whole)
            ret = vd_gow_unmap_locked(gow, run, err);
        if (ret == 0 && !waited && whole)
            run->host = VD_GOW_UNALLOCATED;
        if (ret < 0 || !waited)
            return ret;
    }
}

int vd_gow_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                    struct vd_mapping *mapping, struct vdisk_error *err)
{
    if (!(flags & VD_MAP_ZERO_MAY_UNMAP))
        return vd_gow_map_for_write(format, guest, true, mapping, err);

    struct vd_gow *gow = format->state;
    struct vd_gow_run run;
    vd_mutex_lock(&gow->tables.lock);
    int ret = zero_locked(gow, guest, (flags & VD_MAP_ZERO_DISCARD) != 0, &run, err);
    vd_mutex_unlock(&gow->tables.lock);
    if (ret == 0)
        vd_gow_answer(gow, guest, &run, mapping);
    return ret;
}
