/* SPDX-License-Identifier: MIT */
/* Where may an add-cow image be written, and how is it made to read as zero? */
#include "format/addcow/addcow_bits.h"
#include "format/addcow/addcow_priv.h"

/*
 * A2: what has to be written around the data?  Zeros in a hole need not be.  Only the caller of
 * this writes to the clusters: their bits are clear, and the image layer guards them.
 */
static enum vd_fill fill_of(struct vd_addcow *cow, const struct vd_mapping *mapping)
{
    struct vd_storage_extent extent;
    if (mapping->guest.length == mapping->clusters.length)
        return VD_FILL_NONE; /* there are no edges */
    if (vd_addcow_header_has_backing(&cow->header))
        return VD_FILL_BACKING;
    if (!(vd_storage_caps(cow->data) & VD_STORAGE_CAN_EXTENTS) ||
        vd_range_end(mapping->clusters) > cow->whole_bytes ||
        vd_storage_extent(cow->data, mapping->clusters, &extent, NULL) < 0)
        return VD_FILL_ZERO;
    bool is_hole = extent.kind == VD_STORAGE_HOLE && extent.length == mapping->clusters.length;
    return is_hole ? VD_FILL_NONE : VD_FILL_ZERO;
}

/* The page with the bits of @run is pinned, for write_done() to change. */
static int answer_fresh(struct vd_addcow *cow, struct vd_range guest, struct vd_addcow_run *run,
                        struct vd_mapping *mapping, struct vdisk_error *err)
{
    run->is_set = true;
    int ret = vd_addcow_answer(cow, guest, run, true, mapping, err);
    uint64_t start = run->clusters.offset << cow->header.cluster_bits;
    uint64_t end =
        vd_min(vd_range_end(run->clusters) << cow->header.cluster_bits, cow->format->size);
    mapping->fresh = true;
    mapping->clusters = vd_range(start, end - start);
    mapping->fill = fill_of(cow, mapping);
    return ret;
}

int vd_addcow_begin(struct vd_addcow *cow, struct vdisk_error *err)
{
    int ret = 0;
    if (atomic_load(&cow->is_trimmed))
        return 0;
    vd_mutex_lock(&cow->flush_lock);
    if (!atomic_load(&cow->is_trimmed)) {
        ret = vd_addcow_trim(cow, err);
        if (ret == 0)
            atomic_store(&cow->is_trimmed, true);
    }
    vd_mutex_unlock(&cow->flush_lock);
    return ret;
}

int vd_addcow_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                            struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    struct vd_addcow_run run;
    int ret = allocate ? vd_addcow_begin(cow, err) : 0;
    if (ret < 0)
        return ret;
    vd_mutex_lock(&cow->bits->lock);
    ret = vd_addcow_find_run_locked(cow, guest, &run, err);
    bool is_fresh = ret == 0 && allocate && !run.is_set;
    if (is_fresh)
        vd_table_cache_pin_locked(cow->bits, vd_addcow_bit_offset(cow, run.clusters.offset));
    vd_mutex_unlock(&cow->bits->lock);

    if (ret < 0)
        return ret;
    return is_fresh ? answer_fresh(cow, guest, &run, mapping, err)
                    : vd_addcow_answer(cow, guest, &run, true, mapping, err);
}

void vd_addcow_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok)
{
    struct vd_addcow *cow = format->state;
    struct vd_range clusters = vd_addcow_clusters_of(mapping->clusters, cow->header.cluster_bits);
    uint64_t first = vd_addcow_bit_offset(cow, clusters.offset);
    uint64_t last = vd_addcow_bit_offset(cow, vd_range_end(clusters) - 1);
    vd_mutex_lock(&cow->bits->lock);
    struct vd_table_page *page = vd_table_cache_unpin_locked(cow->bits, first);
    if (ok) {
        vd_addcow_bits_fill(vd_table_page_at(page, first), clusters.offset % 8, clusters.length,
                            true);
        vd_table_page_changed_locked(cow->bits, page, first, (size_t)(last - first + 1));
        cow->bits_have_changed = true;
    }
    vd_mutex_unlock(&cow->bits->lock);
}

/* What a discard leaves: the raw file's space is given back where it then reads as zero. */
static int discard(struct vd_addcow *cow, struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_range guest = mapping->guest;
    if (mapping->kind == VD_MAP_BACKING)
        mapping->kind = VD_MAP_ZERO; /* as if: it may stay */
    if (mapping->kind != VD_MAP_DATA)
        return 0;
    *mapping = (struct vd_mapping){.kind = VD_MAP_ZERO, .present = true, .guest = guest};
    if (!(vd_storage_caps(cow->data) & VD_STORAGE_CAN_DISCARD))
        return 0;
    return vd_storage_discard(cow->data, guest, err);
}

int vd_addcow_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                       struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    struct vd_addcow_run run;
    bool is_discard = (flags & VD_MAP_ZERO_DISCARD) != 0;
    vd_mutex_lock(&cow->bits->lock);
    int ret = vd_addcow_find_run_locked(cow, guest, &run, err);
    vd_mutex_unlock(&cow->bits->lock);
    if (ret == 0)
        ret = vd_addcow_answer(cow, guest, &run, !is_discard, mapping, err);
    return ret == 0 && is_discard ? discard(cow, mapping, err) : ret;
}
